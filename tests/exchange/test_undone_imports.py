"""Imports that are taken back: exactly what they added, and nothing that somebody said since."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from databases import sqlite_database
from patience import PATIENCE_S
from rating_files import write_csv, write_jsonl
from sqlalchemy import Engine, insert, select, text
from test_formats_openwebui import feedback, written
from test_formats_phoenix import THUMBS, annotation, span
from test_formats_phoenix import written as phoenix_file

from rlhf_loop.errors import ImportFileError
from rlhf_loop.exchange.imports import Undone, past_imports, undo_import
from rlhf_loop.exchange.transfer import import_ratings
from rlhf_loop.store.audit import entries
from rlhf_loop.store.engine import open_database, transaction
from rlhf_loop.store.interactions import put_preference, rate, withdraw_review
from rlhf_loop.store.tables import Assignment, Interaction, Preference, Review

NAMES = ["prompt", "answer", "rating", "reviewer", "comment", "correction", "rated_at"]
#: Columns that count how often, and by whom, a row was written.
UNSAID = {"import_id", "review_changes"}


def content(engine: Engine) -> list[Any]:
    """Return all that is said, by whom and when."""
    with engine.connect() as connection:
        return [
            [
                {name: value for name, value in row._mapping.items() if name not in UNSAID}
                for row in connection.execute(select(table.__table__).order_by(table.id))
            ]
            for table in (Interaction, Review, Preference)
        ]


def take_in(engine: Engine, path: Path, rows: Sequence[Sequence[Any]], **options: Any) -> int:
    number = import_ratings(engine, write_csv(path, [NAMES, *rows]), **options).import_id
    assert number is not None
    return number


def key_of(engine: Engine, answer: str) -> int:
    with engine.connect() as connection:
        return int(connection.execute(select(Interaction.id).where(Interaction.ai_response == answer)).scalar_one())


# --- What goes -------------------------------------------------------------------------------------------------------

EARLY, LATE = "2025-01-01T00:00:00Z", "2025-06-01T00:00:00Z"
#: The rows of a file beside what is there: an answer `known` that ann and ben reviewed, one `bare` with a remark.
FILES: dict[str, list[list[Any]]] = {
    "new answers": [["q", "new", 5, "ann", "fine", "better", ""], ["q", "other", "", "", "remark", "", ""]],
    "reviews of a known answer": [["q", "known", 4, "cleo", "hm", "so", LATE], ["q", "known", 2, "dan", "", "", ""]],
    "a review that changes": [["q", "known", 5, "ann", "now good", "", LATE]],
    "a review that changes without time": [["q", "known", 5, "ann", "", "best", ""]],
    "a review with a newer time": [["q", "known", 1, "ann", "", "", LATE]],
    "a review that is older": [["q", "known", 5, "ann", "", "", "2024-01-01T00:00:00Z"]],
    "what is known": [["q", "known", 1, "ann", "bad", "good", EARLY]],
    "what is known without a time": [["q", "known", 1, "ann", "bad", "good", ""]],
    "a review that hides a remark": [["q", "bare", 3, "ann", "of ann's", "ann's", ""]],
    "a remark": [["q", "silent", "", "", "first words", "a first correction", ""]],
    "a remark that has no place": [["q", "bare", "", "", "more", "", ""]],
}


@pytest.fixture
def filled(engine: Engine, tmp_path: Path) -> Engine:
    """A database with answers, reviews, remarks and a preference of its own."""
    own: list[list[Any]] = [
        ["q", "known", 1, "ann", "bad", "good", EARLY],
        ["q", "bare", "", "", "a remark", "a correction", ""],
    ]
    take_in(engine, tmp_path / "own.csv", [*own, ["q", "silent", "", "", "", "", ""]])
    rate(engine, key_of(engine, "known"), reviewer="ben", rating=3, comment="so so")
    with transaction(engine) as connection:
        put_preference(connection, key_of(engine, "silent"), key_of(engine, "known"), reviewer="ann")
    return engine


@pytest.mark.parametrize("name", FILES)
def test_everything_is_as_before(filled: Engine, tmp_path: Path, name: str) -> None:
    """What an import added is gone, and what it changed says what it said; before that a dry run changes nothing."""
    before = content(filled)
    number = take_in(filled, tmp_path / "a.csv", FILES[name])
    after = content(filled)
    tried = undo_import(filled, number, dry_run=True)
    assert content(filled) == after
    assert undo_import(filled, number) == tried
    assert content(filled) == before
    assert (tried.answers_kept, tried.said_kept) == (0, 0)


def test_preferences_are_as_before(engine: Engine, tmp_path: Path) -> None:
    """Preferences that a file added or turned round are as before, and the answers that it brought are gone."""

    def compare(*pairs: tuple[str, str]) -> int | None:
        rows = [{"prompt": "q", "chosen": better, "rejected": worse} for better, worse in pairs]
        file = write_jsonl(tmp_path / "a.jsonl", rows)
        return import_ratings(engine, file, format="trl-preference", reviewer="ann").import_id

    compare(("a", "b"), ("b", "c"))
    before = content(engine)
    assert compare(("b", "a"), ("b", "c"), ("new", "a")) == 2
    assert undo_import(engine, 2) == Undone(answers=1, said=1, restored=1)
    assert content(engine) == before


def test_what_a_tool_took_back_is_there_again(engine: Engine, tmp_path: Path) -> None:
    """A review that a newer export had no more comes back, with its author."""
    import_ratings(engine, written(tmp_path, feedback()), format="openwebui")
    before = content(engine)
    gone = feedback(data={"rating": 0, "details": {}}, updated_at=1769860000)
    assert import_ratings(engine, written(tmp_path, gone), format="openwebui").withdrawn == 1
    assert undo_import(engine, 2) == Undone(restored=1)
    assert content(engine) == before


@pytest.mark.parametrize("last", [1, 0], ids=["changed", "withdrawn"])
@pytest.mark.parametrize("order", list(permutations((2, 3, 4))))
def test_what_was_taken_back_and_said_again_is_there_again(
    engine: Engine, tmp_path: Path, order: tuple[int, ...], last: int
) -> None:
    """A review that one export had no more, the next said anew, and one changed or withdrew is as before all three."""
    import_ratings(engine, written(tmp_path, feedback()), format="openwebui")
    before = content(engine)
    for rating, at in ((0, 1769860000), (-1, 1769870000), (last, 1769880000)):
        said = feedback(data={"rating": rating, "details": {}}, updated_at=at)
        import_ratings(engine, written(tmp_path, said), format="openwebui")
    found = [undo_import(engine, number) for number in order]
    assert [[{**row, "id": 0} for row in table] for table in content(engine)] == [
        [{**row, "id": 0} for row in table] for table in before
    ]
    assert sum(each.said_kept for each in found[-1:]) == 0


def test_who_was_named_and_changed_is_as_before(engine: Engine, tmp_path: Path) -> None:
    """A review of whom an earlier version called anonymous gets a name and another grade, and loses both again."""

    def said(label: str) -> None:
        rows = [span() | annotation(identifier="", **{"result.label": label, "result.score": None})]
        import_ratings(engine, phoenix_file(tmp_path / "a.jsonl", rows), format="phoenix", labels=THUMBS)

    said("bad")
    with transaction(engine) as connection:
        connection.execute(text("UPDATE rlhf_reviews SET reviewer = 'anonymous'"))
    before = content(engine)
    said("good")
    assert content(engine) != before
    assert undo_import(engine, 2).restored == 1
    assert content(engine) == before


# --- What stays ------------------------------------------------------------------------------------------------------


def change_on_the_screen(engine: Engine, key: int) -> None:
    rate(engine, key, reviewer="ann", rating=2)


def review_by_another(engine: Engine, key: int) -> None:
    rate(engine, key, reviewer="eva", rating=2)


def plain_sql(engine: Engine, key: int) -> None:
    with transaction(engine) as connection:
        connection.execute(text("UPDATE rlhf_reviews SET rating = 2 WHERE interaction_id = :key"), {"key": key})


def approval(engine: Engine, key: int) -> None:
    with transaction(engine) as connection:
        connection.execute(
            text(
                "INSERT INTO rlhf_correction_decisions (review_id, correction, approved, decided_by) "
                "SELECT id, correction, true, 'root' FROM rlhf_reviews WHERE correction IS NOT NULL"
            )
        )


def draft(engine: Engine, key: int) -> None:
    with transaction(engine) as connection:
        connection.execute(
            text("INSERT INTO rlhf_drafts (reviewer, interaction_id) VALUES ('eva', :key)"), {"key": key}
        )


def look(engine: Engine, key: int) -> None:
    lease(engine, key, reviewer="eva", state="open")


def same_grade_again(engine: Engine, key: int) -> None:
    lease(engine, key, reviewer="ann", state="reviewed")


def preference(engine: Engine, key: int) -> None:
    with transaction(engine) as connection:
        put_preference(connection, key, key_of(engine, "b"), reviewer="eva")


def lease(engine: Engine, key: int, *, reviewer: str, state: str) -> None:
    now = datetime.now(UTC)
    values = {"reviewer": reviewer, "interaction_key": key, "state": state, "assigned_at": now, "handled_at": now}
    with transaction(engine) as connection:
        connection.execute(insert(Assignment), values | {"leased_until": now + timedelta(hours=1)})


@pytest.mark.parametrize(
    ("since", "expected"),
    [
        (change_on_the_screen, Undone(answers=1, said=1, answers_kept=1, said_kept=1)),
        (plain_sql, Undone(answers=1, said=1, answers_kept=1, said_kept=1)),
        (approval, Undone(answers=1, said=1, answers_kept=1, said_kept=1)),
        (same_grade_again, Undone(answers=1, said=1, answers_kept=1, said_kept=1)),
        (review_by_another, Undone(answers=1, said=2, answers_kept=1)),
        (draft, Undone(answers=1, said=2, answers_kept=1)),
        (look, Undone(answers=1, said=2, answers_kept=1)),
        (preference, Undone(answers=0, said=2, answers_kept=2)),
    ],
)
def test_what_was_done_since_stays(
    engine: Engine, tmp_path: Path, since: Callable[[Engine, int], None], expected: Undone
) -> None:
    """A review said anew or approved, and an answer that is used, stay and are counted; a remark of the file's goes."""
    number = take_in(engine, tmp_path / "a.csv", [["q", "a", 5, "ann", "", "so", ""], ["q", "b", 4, "ann", "", "", ""]])
    since(engine, key_of(engine, "a"))
    assert undo_import(engine, number) == expected


def test_a_changed_review_that_was_said_anew_stays(filled: Engine, tmp_path: Path) -> None:
    """What a reviewer says after an import is not set back to what they said before it."""
    number = take_in(filled, tmp_path / "a.csv", FILES["a review that changes"])
    rate(filled, key_of(filled, "known"), reviewer="ann", rating=2)
    after = content(filled)
    assert undo_import(filled, number) == Undone(said_kept=1)
    assert content(filled) == after


# --- Several imports -------------------------------------------------------------------------------------------------

#: What three imports say, one after the other, of the same answers, or of others.
LATER: list[list[list[Any]]] = [
    [
        ["q", "x", 5, "ann", "first", "", ""],
        ["q", "y", 3, "ben", "", "c1", ""],
        ["q", "z", "", "", "r", "", ""],
        ["q", "bare", 4, "cleo", "hides", "", ""],
        ["q", "silent", "", "", "remark", "", ""],
    ],
    [
        ["q", "x", 4, "ann", "", "", ""],
        ["q", "y", 3, "ben", "", "", ""],
        ["q", "z", 2, "cleo", "s", "", ""],
        ["q", "bare", 4, "dan", "hides, too", "", ""],
        ["q", "silent", 2, "dan", "hides", "", ""],
    ],
    [["q", "x", 3, "ann", "last", "", ""], ["q", "w", 3, "ann", "", "", ""], ["q", "z", 5, "cleo", "", "c", ""]],
]


@pytest.mark.parametrize("order", list(permutations([2, 3, 4])))
def test_imports_are_undone_in_any_order(filled: Engine, tmp_path: Path, order: tuple[int, ...]) -> None:
    """After all three are undone everything is as before the first; each leaves what the others said."""
    before = content(filled)
    for number, rows in enumerate(LATER):
        take_in(filled, tmp_path / f"{number}.csv", rows)
    for number in order:
        assert undo_import(filled, number).already is None
    assert content(filled) == before


def test_an_import_below_a_later_one(engine: Engine, tmp_path: Path) -> None:
    """What a later import changed stays as that one said it; what both say goes with the one that brought it."""
    rows = [["q", "x", 5, "ann", "", "", ""], ["q", "y", 5, "ann", "", "", ""]]
    take_in(engine, tmp_path / "a.csv", rows)
    take_in(engine, tmp_path / "a.csv", [["q", "x", 1, "ann", "", "", ""], rows[1]])
    assert undo_import(engine, 1) == Undone(answers=1, said=1, answers_kept=1, said_kept=1)
    with engine.connect() as connection:
        found = connection.execute(select(Interaction.ai_response, Interaction.rating)).all()
    assert [tuple(row) for row in found] == [("x", 1)]
    assert undo_import(engine, 2) == Undone(answers=1, said=1)
    assert content(engine) == [[], [], []]


def test_a_file_comes_again_after_it_was_undone(engine: Engine, tmp_path: Path) -> None:
    """It is imported as if for the first time."""
    rows = [["q", "x", 5, "ann", "c", "d", ""]]
    undo_import(engine, take_in(engine, tmp_path / "a.csv", rows))
    assert import_ratings(engine, tmp_path / "a.csv").added == 1


# --- The list --------------------------------------------------------------------------------------------------------


def test_imports_are_listed_and_undone_once(sqlite_engine: Engine, tmp_path: Path) -> None:
    """The list says what each import brought and who undid it; the second time nothing is done."""
    rows = [["q", "a", 5, "ann", "", "", ""], ["q", "b", 9, "ann", "", "", ""]]
    number = take_in(sqlite_engine, tmp_path / "a.csv", rows, skip_invalid=True, actor="root")
    [listed] = past_imports(sqlite_engine)
    assert (listed.id, listed.file, listed.actor, listed.format) == (number, "a.csv", "root", "csv")
    assert (listed.added, listed.updated, listed.refused, listed.undone_at) == (1, 0, 1, None)
    assert undo_import(sqlite_engine, number, actor="eva") == Undone(answers=1, said=1)
    already = undo_import(sqlite_engine, number, actor="ben").already
    assert already is not None
    assert already.undone_by == "eva"
    assert [past_imports(sqlite_engine)] == [[already]]
    [entry] = entries(sqlite_engine, action="ratings.import_undone")
    assert (entry.actor, entry.target, entry.detail["answers"]) == ("eva", f"import:{number}", 1)
    for unknown in (99, 0, 10**12):
        with pytest.raises(ImportFileError, match=f"There is no import {unknown}"):
            undo_import(sqlite_engine, unknown)


def test_a_refused_file_is_no_import(sqlite_engine: Engine, tmp_path: Path) -> None:
    """Of a file that was not stored nothing is listed."""
    with pytest.raises(ImportFileError):
        take_in(sqlite_engine, tmp_path / "a.csv", [["q", "b", 9, "ann", "", "", ""]])
    assert past_imports(sqlite_engine) == []


def test_what_another_import_left_is_left_by_this_one_too(engine: Engine, tmp_path: Path) -> None:
    """An answer that an undone import left to a reviewer is no business of an import that never named it."""
    first = take_in(engine, tmp_path / "a.csv", [["q", "left", 5, "ann", "", "", ""]])
    rate(engine, key_of(engine, "left"), reviewer="ben", rating=3)
    assert undo_import(engine, first).answers_kept == 1
    with transaction(engine) as connection:
        withdraw_review(connection, key_of(engine, "left"), reviewer="ben")
    second = take_in(engine, tmp_path / "b.csv", [["q", "other", 5, "ann", "", "", ""]])
    assert undo_import(engine, second) == Undone(answers=1, said=1)
    assert key_of(engine, "left")


@pytest.mark.kill
def test_a_killed_undo_changes_nothing(engine: Engine, database_url: str, tmp_path: Path) -> None:
    """An undo that is killed before its end leaves everything, and the next one works."""
    number = take_in(engine, tmp_path / "a.csv", [["q", f"a{n}", 4, "ann", "", "", ""] for n in range(200)])
    before = content(engine)
    code = (
        "import time\n"
        "from rlhf_loop.exchange import imports\n"
        "from rlhf_loop.store.engine import make_engine\n"
        "def wait(*_, **__):\n"
        "    print('undone', flush=True)\n"
        "    time.sleep(600)\n"
        "imports.audit.note = wait\n"
        f"imports.undo_import(make_engine({database_url!r}), {number})\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "undone\n"
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE_S)
    assert content(engine) == before
    assert undo_import(engine, number).answers == 200


def test_what_was_undone_stands_in_no_file(tmp_path: Path) -> None:
    """Neither in the database nor in its write-ahead log, which another program that has it open would keep."""
    engine = open_database(sqlite_database(tmp_path / "rlhf.db"))
    held = sqlite3.connect(tmp_path / "rlhf.db")
    held.execute("SELECT count(*) FROM rlhf_interactions").fetchall()
    (tmp_path / "in").mkdir()
    path = write_jsonl(tmp_path / "in" / "a.jsonl", [{"prompt": "Why?", "response": "Blackcurrant.", "rating": 4}])
    import_ratings(engine, path)
    undo_import(engine, 1)
    assert [file.name for file in tmp_path.glob("rlhf*") if b"Blackcurrant" in file.read_bytes()] == []
    held.close()
    engine.dispose()
