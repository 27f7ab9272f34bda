"""One answer is one answer, whatever cannot be seen of its text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, text

from rlhf_loop.domain import Rating, answer_name, raw_answer_name
from rlhf_loop.errors import ImportFileError
from rlhf_loop.exchange.feedback import annotated, find_answer
from rlhf_loop.exchange.transfer import export_ratings, import_ratings
from rlhf_loop.store import engine as db
from rlhf_loop.store.interactions import rate, record
from rlhf_loop.store.queries import interaction
from rlhf_loop.utils.text import tidied, visible

PLAIN = "Caf\u00e9?\nYes."
VARIANTS = (
    PLAIN,
    "Caf\u00e9?\r\nYes.",
    "Caf\u00e9?\rYes.",
    "Caf\u00e9?\u2028Yes.",
    "Cafe\u0301?\nYes.",
    "\ufeff\u2060 Caf\u00e9?\nYes.\u00a0\u200b\n",
    "Ca\u00adf\u00e9?\nY\u200b\u2063es.\u200f",
)


def rows(engine: Engine, sql: str) -> list[tuple[Any, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(sql))]


@pytest.mark.parametrize(
    ("given", "stored", "seen"),
    [
        (" a \r\n b\x85c\u2029", " a \n b\nc\n", "a \n b\nc"),
        ("e\u0301", "\u00e9", "\u00e9"),
        ("\u00ad \u2060\u2800\u3164", "\u00ad \u2060\u2800\u3164", ""),
        ("\U0001f468\u200d\U0001f469", "\U0001f468\u200d\U0001f469", "\U0001f468\U0001f469"),
        ("\u2764\ufe0f", "\u2764\ufe0f", "\u2764"),
        ("\u0645\u06cc\u200c\u062e", "\u0645\u06cc\u200c\u062e", "\u0645\u06cc\u062e"),
        (
            "\U0001f3f4\U000e0067\U000e007f\U000e0041",
            "\U0001f3f4\U000e0067\U000e007f\U000e0041",
            "\U0001f3f4\U000e0067\U000e007f\U000e0041",
        ),
        ("a\U000e0041b", "a\U000e0041b", "ab"),
        ("\x00a", "\x00a", "a"),
    ],
)
def test_what_is_stored_and_what_is_seen(given: str, stored: str, seen: str) -> None:
    """A text is stored with plain line ends in NFC, and known by what can be seen of it."""
    assert (tidied(given), visible(given)) == (stored, seen)
    assert (tidied(stored), visible(stored), visible(seen)) == (stored, seen, seen)


def test_a_file_has_each_answer_once(engine: Engine, tmp_path: Path) -> None:
    """All spellings of an answer are one, whether the file names it, its texts do, or an old export."""
    lines = []
    for number, given in enumerate(VARIANTS):
        said = {"user_prompt": given, "ai_response": given, "rating": 1 + number % 5, "reviewer": f"r{number}"}
        lines += [said, said | {"external_id": "named"}]
        old = raw_answer_name(None, "old", said["user_prompt"], given)
        lines.append(said | {"source": "old", "external_id": old})
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    report = import_ratings(engine, path)
    assert (report.added, report.invalid) == (3 * len(VARIANTS), ())
    assert rows(engine, "SELECT ai_response FROM rlhf_interactions") == 3 * [(PLAIN,)]
    assert import_ratings(engine, path).unchanged == len(lines)
    with engine.connect() as connection:
        assert find_answer(connection, Rating(VARIANTS[2], VARIANTS[-1])) == 1
    again = tmp_path / "out.csv"
    export_ratings(engine, again)
    assert import_ratings(engine, again).unchanged == len(lines)


def test_other_texts_under_one_name_are_still_refused(sqlite_engine: Engine, tmp_path: Path) -> None:
    """A name that a file or the database gives to another answer is an error, as before."""
    record(sqlite_engine, [Rating("q", "a", external_id="x")])
    path = tmp_path / "in.csv"
    path.write_text("prompt,response,uuid\nq,b,x\nq,c,y\nq,d,y\n")
    with pytest.raises(ImportFileError) as caught:
        import_ratings(sqlite_engine, path)
    assert [error.line for error in caught.value.report.invalid] == [2, 4]  # type: ignore[attr-defined]


def test_reviews_are_tidied_wherever_they_come_from(sqlite_engine: Engine) -> None:
    """Corrections and comments have one newline a line, and one that nobody can see is none."""
    [key] = record(sqlite_engine, [Rating(" q\r\n", "a", 4, corrected_response="b\r\nc")])
    rate(sqlite_engine, key, reviewer="ann", rating=4, comment="\u200b", correction="e\u0301")
    assert rows(sqlite_engine, "SELECT comment, correction FROM rlhf_reviews ORDER BY id") == [
        (None, "b\nc"),
        (None, "\u00e9"),
    ]
    with pytest.raises(ValueError, match="ai_response is empty"):
        record(sqlite_engine, [Rating("q", "\u00ad\u2060")])


# --- The migration ---------------------------------------------------------------------------------------------------


def old_answer(connection: Connection, key: int, prompt: str, response: str, *, name: str | None = None) -> str:
    name = name or raw_answer_name("g", None, prompt, response)
    connection.execute(
        text(
            "INSERT INTO rlhf_interactions (id, user_prompt, ai_response, candidate_group, external_id, score)"
            " VALUES (:key, :prompt, :response, 'g', :name, :score)"
        ),
        {"key": key, "prompt": prompt, "response": response, "name": name, "score": None if key == 1 else 0.5},
    )
    return name


def old_review(connection: Connection, key: int, who: str, rating: int, day: int, **texts: str) -> None:
    names = ["interaction_id", "reviewer", "rating", "reviewed_at", *texts]
    values = [key, who, rating, f"2025-01-{day:02} 10:00:00.000000", *texts.values()]
    marks = ", ".join(f":{name}" for name in names)
    insert = f"INSERT INTO rlhf_reviews ({', '.join(names)}) VALUES ({marks})"
    if connection.dialect.name != "sqlite":
        insert = insert.replace(":reviewed_at", "CAST(:reviewed_at AS timestamptz)")
    connection.execute(text(insert), dict(zip(names, values, strict=True)))


OLD_ROWS = """
INSERT INTO rlhf_preferences (first_id, second_id, reviewer, preferred) VALUES
    (1, 2, 'ann', 'first'), (2, 4, 'ann', 'first'), (4, 5, 'ann', 'first'), (4, 5, 'ben', 'tie');
INSERT INTO rlhf_correction_decisions (review_id, correction, approved, decided_by)
    SELECT id, correction, true, 'root' FROM rlhf_reviews WHERE correction IS NOT NULL;
INSERT INTO rlhf_assignments (reviewer, interaction_id, state, assigned_at, leased_until) VALUES
    ('ann', 1, 'open', '2025-01-02 10:00:00.000000', '2025-01-02 10:00:00.000000'),
    ('ann', 2, 'reviewed', '2025-01-01 10:00:00.000000', '2025-01-01 10:00:00.000000'),
    ('ben', 5, 'skipped', '2025-01-01 10:00:00.000000', '2025-01-01 10:00:00.000000');
INSERT INTO rlhf_pair_assignments (reviewer, first_id, second_id, assigned_at, leased_until) VALUES
    ('ann', 1, 2, '2025-01-02 10:00:00.000000', '2025-01-02 10:00:00.000000'),
    ('ann', 4, 5, '2025-01-02 10:00:00.000000', '2025-01-02 10:00:00.000000');
INSERT INTO rlhf_drafts (reviewer, interaction_id, rating) VALUES ('eva', 5, 2);
INSERT INTO rlhf_answer_scores (interaction_id, model_version, score) VALUES (2, 'v1', 0.5)
"""


@pytest.fixture
def old(engine: Engine) -> Engine:
    """A database of the version before: three spellings of one answer, another answer, and what was said of them."""
    with db.transaction(engine) as connection:
        names = [
            old_answer(connection, 1, "q\r\n", "caf\u00e9\r\nno"),
            old_answer(connection, 2, "q", "cafe\u0301\nno\u200b"),
            old_answer(connection, 3, "q", "cafe\u0301\nno", name="mine"),
            old_answer(connection, 4, "q", "tea"),
            old_answer(connection, 5, "q", "caf\u00e9\nno"),
        ]
        old_review(connection, 1, "ann", 5, 1, comment="first", correction="tea\r\n")
        old_review(connection, 2, "ann", 2, 2)
        old_review(connection, 2, "ben", 4, 1)
        old_review(connection, 5, "eva", 1, 1)
        for statement in OLD_ROWS.split(";"):
            connection.execute(text(statement))
        became = {"at": None, "became": [{"reviewer": "ben", "answers": [2]}]}
        served = {"teams": {names[1]: "live", names[3]: "v1"}, "first": names[1]}
        connection.execute(
            text(
                "INSERT INTO rlhf_audit_log (actor, action, target, detail)"
                " VALUES ('tool', 'annotation.received', 'label-studio:1:7', :became)"
            ),
            {"became": json.dumps(became)},
        )
        connection.execute(
            text(
                "INSERT INTO rlhf_served_questions (candidate_group, served_at, policy, first_id, teams)"
                " VALUES ('g', '2025-01-01 10:00:00.000000', 'interleaved', :first, :teams)"
            ),
            served | {"teams": json.dumps(served["teams"])},
        )
        on = "" if connection.dialect.name == "sqlite" else " ON {}"
        for trigger in ("decided", "decided_anew", "undecided") if not on else ("decided",):
            connection.execute(text(f"DROP TRIGGER rlhf_correction_{trigger}{on.format('rlhf_correction_decisions')}"))
        for trigger in ("timed", "timed_anew") if not on else ():
            connection.execute(text(f"DROP TRIGGER rlhf_interaction_{trigger}"))
        for table in ("rlhf_reviews", "rlhf_preferences"):
            connection.execute(text(f"DROP TRIGGER {table}_said_anew{on.format(table)}"))
            connection.execute(text(f"ALTER TABLE {table} DROP COLUMN imported"))
            connection.execute(text(f"ALTER TABLE {table} DROP COLUMN import_id"))
        for index in (
            "ix_rlhf_assignments_not_my_field",
            "ix_rlhf_interactions_created_at",
            "ix_rlhf_reviews_flagged",
            "ix_rlhf_reviews_reviewed_at",
            "ix_rlhf_reviews_undecided",
            "ix_rlhf_correction_decisions_approved",
            "ix_rlhf_correction_decisions_decided_by",
            "ix_rlhf_served_questions_door",
        ):
            connection.execute(text(f"DROP INDEX {index}"))
        connection.execute(text("DROP INDEX uq_rlhf_users_email"))
        for column in (
            "rlhf_interactions DROP COLUMN import_id",
            "rlhf_reviews DROP COLUMN decided",
            "rlhf_interactions DROP COLUMN drafted_by",
            "rlhf_models DROP COLUMN said",
            "rlhf_alarms DROP COLUMN said",
            "rlhf_reward_model_training DROP COLUMN said",
            "rlhf_models DROP COLUMN weights_sha256",
            "rlhf_users DROP COLUMN display_name",
            "rlhf_users DROP COLUMN email",
            "rlhf_sessions DROP COLUMN method",
            "rlhf_sessions DROP COLUMN subject",
            "rlhf_sessions DROP COLUMN provider_session",
            "rlhf_sessions DROP COLUMN provider_tokens",
            "rlhf_sessions DROP COLUMN checked_at",
            "rlhf_correction_decisions DROP COLUMN edited",
            "rlhf_correction_decisions DROP COLUMN former",
            "rlhf_assignments DROP COLUMN not_my_field",
            "rlhf_served_questions DROP COLUMN door",
            "rlhf_served_questions DROP COLUMN caller",
            "rlhf_served_questions DROP COLUMN returned",
            "rlhf_served_questions DROP COLUMN emptied_at",
            "rlhf_tokens DROP COLUMN record",
        ):
            connection.execute(text(f"ALTER TABLE {column}"))
        if on:
            connection.execute(text("DROP FUNCTION rlhf_said_anew"))
            connection.execute(text("DROP FUNCTION rlhf_correction_decided"))
        for table in (
            "rlhf_judge_labels",
            "rlhf_import_changes",
            "rlhf_imports",
            "rlhf_database",
            "rlhf_used_passages",
            "rlhf_identities",
            "rlhf_second_factors",
            "rlhf_recovery_codes",
            "rlhf_served_days",
        ):
            connection.execute(text(f"DROP TABLE {table}"))
        connection.execute(text(f"UPDATE {db.VERSION_TABLE} SET version_num = '0006'"))
    return engine


def test_an_old_database_is_merged_with_all_that_was_said(old: Engine) -> None:
    """Answers that look the same become the oldest; reviews and all else move along, and old names lead there."""
    names = [name for (name,) in rows(old, "SELECT external_id FROM rlhf_interactions ORDER BY id")]
    db.migrate(old)
    new = answer_name("g", None, "q", "caf\u00e9\nno")
    assert rows(old, "SELECT id, external_id, ai_response, rating, score FROM rlhf_interactions ORDER BY id") == [
        (1, new, "caf\u00e9\nno", 2, 0.5),
        (3, "mine", "caf\u00e9\nno", None, 0.5),
        (4, names[3], "tea", None, 0.5),
    ]
    assert rows(old, "SELECT interaction_id, reviewer, rating, comment, correction FROM rlhf_reviews ORDER BY 2") == [
        (1, "ann", 2, "first", "tea\n"),
        (1, "ben", 4, None, None),
        (1, "eva", 1, None, None),
    ]
    decided = "SELECT reviewer, d.correction FROM rlhf_correction_decisions d JOIN rlhf_reviews r ON r.id = review_id"
    assert rows(old, decided) == [("ann", "tea\n")]
    # That one spelling is better than the other says nothing; of the two preferences against tea the last one counts.
    assert rows(old, "SELECT first_id, second_id, reviewer, preferred FROM rlhf_preferences ORDER BY 3") == [
        (1, 4, "ann", "second"),
        (1, 4, "ben", "tie"),
    ]
    assert rows(old, "SELECT reviewer, interaction_id, state FROM rlhf_assignments ORDER BY 1") == [
        ("ann", 1, "reviewed"),
        ("ben", 1, "skipped"),
    ]
    assert rows(old, "SELECT first_id, second_id FROM rlhf_pair_assignments") == [(1, 4)]
    assert rows(old, "SELECT reviewer, interaction_id, rating FROM rlhf_drafts") == [("eva", 1, 2)]
    [(first, teams)] = rows(old, "SELECT first_id, teams FROM rlhf_served_questions")
    assert first == new
    assert new in str(teams)
    assert names[1] not in str(teams)
    with db.reading(old) as connection:
        [(found)] = annotated(connection, ["label-studio:1:7"])
    assert found.answers == (1,)
    assert interaction(old, names[1])[0].id == interaction(old, names[0])[0].id == new
    superseded = rows(old, "SELECT detail FROM rlhf_audit_log WHERE action = 'review.changed'")
    assert len(superseded) == 1
    assert "'rating': 5" in str(superseded).replace('"', "'")


def test_a_migration_that_is_interrupted_changes_nothing(old: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails half-way leaves the last good state, and runs through the next time."""
    everything = "SELECT * FROM rlhf_interactions ORDER BY id"
    before = rows(old, everything)
    left = iter(range(5))

    def interrupted(given: str) -> str:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return tidied(given)

    with monkeypatch.context() as patched:
        patched.setattr("rlhf_loop.utils.text.tidied", interrupted)
        with pytest.raises(KeyboardInterrupt):
            db.migrate(old)
    assert rows(old, everything) == before
    db.migrate(old)
    assert len(rows(old, everything)) == 3
