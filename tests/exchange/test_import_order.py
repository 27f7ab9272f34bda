from __future__ import annotations

import json
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rating_files import counts, reasons, write_jsonl
from sqlalchemy import Engine, select, update

from rlhf_loop.domain import Review as DomainReview
from rlhf_loop.errors import ImportFileError
from rlhf_loop.exchange.formats.base import Labels, NumberScale
from rlhf_loop.exchange.staging import stage
from rlhf_loop.exchange.transfer import InvalidRowsError, import_ratings
from rlhf_loop.store.engine import reading, transaction
from rlhf_loop.store.interactions import put_preference, rate
from rlhf_loop.store.tables import Interaction, Preference, Review

EARLY, LATE = "2026-01-01T10:00:00+00:00", "2026-01-02T10:00:00+00:00"


def said(rating: int, rated_at: str | None, **more: Any) -> dict[str, Any]:
    """Return a row of a file."""
    words = {"user_prompt": "Q", "ai_response": "A", "reviewer": "ann", "rating": rating, "rated_at": rated_at}
    return {name: value for name, value in (words | more).items() if value is not None}


def stored(engine: Engine) -> list[tuple[str, int]]:
    """Return who gave which rating."""
    with reading(engine) as connection:
        found = connection.execute(select(Review.reviewer, Review.rating).order_by(Review.reviewer, Review.id))
        return [(row.reviewer, row.rating) for row in found]


@pytest.mark.parametrize("newest_first", [True, False])
def test_the_last_word_counts(engine: Engine, tmp_path: Path, newest_first: bool) -> None:
    """Of a reviewer's several words on an answer, wherever they stand in the file."""
    rows = [said(2, EARLY), said(4, LATE, feedback_comment="After all."), said(1, EARLY, reviewer="ben")]
    path = write_jsonl(tmp_path / "a.jsonl", rows[::-1] if newest_first else rows)
    report = import_ratings(engine, path)
    assert (report.rows, report.added, report.updated) == (3, 2, 0)
    assert stored(engine) == [("ann", 4), ("ben", 1)]
    again = import_ratings(engine, path)
    assert (again.added, again.updated) == (0, 0)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (said(2, None), said(4, LATE)),
        (said(2, LATE), said(4, LATE)),
        # Who knows whether it is one person?
        (said(2, EARLY, reviewer=None), said(4, LATE, reviewer=None)),
    ],
    ids=["one has no time", "both at once", "nobody is named"],
)
def test_which_is_the_last_word_must_be_known(
    engine: Engine, tmp_path: Path, one: dict[str, Any], other: dict[str, Any]
) -> None:
    """Else they contradict each other, and both lines are named."""
    (reason,) = reasons(engine, write_jsonl(tmp_path / "a.jsonl", [one, other])).values()
    assert "the answer has rating" in reason


def test_an_older_file_changes_nothing(engine: Engine, tmp_path: Path) -> None:
    """What a reviewer said since stays, however often what they said before comes again."""
    old = write_jsonl(tmp_path / "old.jsonl", [said(2, EARLY)])
    new = write_jsonl(tmp_path / "new.jsonl", [said(4, LATE)])
    for path, updated in ((old, 0), (new, 1), (old, 0), (new, 0)):
        assert import_ratings(engine, path).updated == updated
    assert stored(engine) == [("ann", 4)]
    assert import_ratings(engine, old).ignored == ("what was said otherwise since (1)",)
    # Without a time it is said now.
    assert import_ratings(engine, write_jsonl(tmp_path / "now.jsonl", [said(5, None)])).updated == 1
    assert stored(engine) == [("ann", 5)]


def test_what_a_file_without_times_said_before_is_no_news(engine: Engine, tmp_path: Path) -> None:
    """Imported again it undoes no later change; what it says otherwise than the last time is said now."""
    file = write_jsonl(tmp_path / "a.jsonl", [said(2, None)])
    assert import_ratings(engine, file).added == 1
    rate(engine, 1, reviewer="ann", rating=4)
    again = import_ratings(engine, write_jsonl(file, [said(2, None), said(3, None, user_prompt="R")]))
    assert (again.added, again.updated, again.ignored) == (1, 0, ("what was said otherwise since (1)",))
    assert stored(engine) == [("ann", 4), ("ann", 3)]
    assert import_ratings(engine, write_jsonl(file, [said(1, None)])).updated == 1
    assert stored(engine) == [("ann", 1), ("ann", 3)]


def test_a_review_from_before_files_were_remembered(engine: Engine, tmp_path: Path) -> None:
    """Of one that an earlier version imported it is not known what the file said; from the next import on it is."""
    file = write_jsonl(tmp_path / "a.jsonl", [said(2, None)])
    import_ratings(engine, file)
    with transaction(engine) as connection:
        connection.execute(update(Review).values(imported=None))
    assert import_ratings(engine, file).updated == 0
    rate(engine, 1, reviewer="ann", rating=4)
    assert import_ratings(engine, file).updated == 0
    assert stored(engine) == [("ann", 4)]


def compared(tmp_path: Path, *values: tuple[str, str | None]) -> Path:
    """Write a task in which one annotator compared two answers, each time with another word."""
    result = {"from_name": "better", "to_name": "answer1,answer2", "type": "pairwise"}
    annotations = [
        {"id": 11, "completed_by": 1, "updated_at": at, "result": [result | {"value": {"selected": value}}]}
        for value, at in values
    ]
    data = {"prompt": "Q", "answer1": "A", "answer2": "B"}
    file = tmp_path / "pairs.json"
    file.write_text(json.dumps([{"id": 1, "data": data, "annotations": annotations}]))
    return file


def preferred(engine: Engine) -> list[str]:
    """Return which answer is preferred."""
    with reading(engine) as connection:
        return list(connection.execute(select(Preference.preferred).order_by(Preference.id)).scalars())


def test_an_older_preference_changes_nothing(engine: Engine, tmp_path: Path) -> None:
    """Of two words of one annotator on two answers the later one counts, in one file and from file to file."""
    for value, at, updated, now in (
        ("left", EARLY, 0, "first"),
        ("right", LATE, 1, "second"),
        ("left", EARLY, 0, "second"),
    ):
        report = import_ratings(engine, compared(tmp_path, (value, at)), format="label-studio")
        assert (report.updated, preferred(engine)) == (updated, [now])
    assert report.ignored == ("what was said otherwise since (1)",)
    both = compared(tmp_path, ("left", EARLY), ("right", LATE))
    assert import_ratings(engine, both, format="label-studio").updated == 0
    with pytest.raises(InvalidRowsError, match="prefers the other"):
        import_ratings(engine, compared(tmp_path, ("left", LATE), ("right", LATE)), format="label-studio")


def test_a_file_of_preferences_again_undoes_no_later_one(engine: Engine, tmp_path: Path) -> None:
    """It has no times, and what it said before is no news."""
    pair = {"prompt": "Q", "chosen": "A", "rejected": "B"}
    file = write_jsonl(tmp_path / "a.jsonl", [pair])
    import_ratings(engine, file, format="trl-preference", reviewer="ann")
    with transaction(engine) as connection:
        put_preference(connection, 2, 1, reviewer="ann")
    report = import_ratings(engine, file, format="trl-preference", reviewer="ann")
    assert (report.updated, report.ignored) == (0, ("what was said otherwise since (1)",))
    assert preferred(engine) == ["second"]
    turned = write_jsonl(file, [pair | {"chosen": "B", "rejected": "A"}])
    assert import_ratings(engine, turned, format="trl-preference", reviewer="ann").updated == 0
    assert import_ratings(engine, write_jsonl(file, [pair]), format="trl-preference", reviewer="ann").updated == 1
    assert preferred(engine) == ["first"]


def test_what_is_said_without_a_rating_has_its_place_or_is_named(engine: Engine, tmp_path: Path) -> None:
    """A comment stays with its answer where that has none, be it known or rated; else the report counts it."""
    bare = {"user_prompt": "Q", "ai_response": "A"}
    import_ratings(engine, write_jsonl(tmp_path / "a.jsonl", [said(4, EARLY)]))
    remark = write_jsonl(tmp_path / "b.jsonl", [bare | {"feedback_comment": "Hm.", "corrected_response": "B"}])
    assert counts(import_ratings(engine, remark)) == (1, 0, 1, 0, 0)
    assert counts(import_ratings(engine, remark)) == (1, 0, 0, 1, 0)
    other = import_ratings(engine, write_jsonl(tmp_path / "c.jsonl", [bare | {"feedback_comment": "Oh."}]))
    assert other.ignored == ("comments and corrections without a rating, where the answer has others (1)",)
    with reading(engine) as connection:
        kept = connection.execute(select(Interaction.feedback_comment, Interaction.corrected_response)).all()
    assert (kept, stored(engine)) == ([("Hm.", "B")], [("ann", 4)])


@pytest.mark.parametrize("known", [True, False])
def test_remarks_on_several_lines(engine: Engine, tmp_path: Path, known: bool) -> None:
    """Of an answer's comments and of its corrections the first one each has a place; the others are counted."""
    bare = {"user_prompt": "Q", "ai_response": "A"}
    if known:
        import_ratings(engine, write_jsonl(tmp_path / "a.jsonl", [said(4, EARLY)]))
    words = [{"feedback_comment": "Hm."}, {"corrected_response": "B"}, {"corrected_response": "C"}]
    remarks = write_jsonl(tmp_path / "b.jsonl", [bare | each for each in words])
    counted = ("comments and corrections without a rating, where the answer has others (1)",)
    assert import_ratings(engine, remarks).ignored == counted
    with reading(engine) as connection:
        kept = connection.execute(select(Interaction.feedback_comment, Interaction.corrected_response)).all()
    assert kept == [("Hm.", "B")]
    again = import_ratings(engine, remarks)
    assert (counts(again), again.ignored) == ((3, 0, 0, 3, 0), counted)


def test_what_an_import_remembers_sums_up_no_reviews(engine: Engine, tmp_path: Path) -> None:
    """What changed is summed up once, and what did not, not at all."""

    def changes() -> list[tuple[int, bool]]:
        with reading(engine) as connection:
            both = select(Interaction.review_changes, Review.imported.is_not(None)).join_from(Interaction, Review)
            return [(row[0], row[1]) for row in connection.execute(both.order_by(Interaction.id))]

    rows = [said(2, None), said(4, None, ai_response="B")]
    file = write_jsonl(tmp_path / "a.jsonl", rows)
    import_ratings(engine, file)
    with transaction(engine) as connection:
        connection.execute(update(Review).values(imported=None))
    assert changes() == [(1, False), (1, False)]
    import_ratings(engine, write_jsonl(file, [said(2, None), said(5, None, ai_response="B")]))
    assert changes() == [(1, True), (2, True)]
    # A word with a time leaves what a file without times said last.
    import_ratings(engine, write_jsonl(tmp_path / "b.jsonl", [said(3, datetime.now(UTC).isoformat())]))
    assert import_ratings(engine, file).updated == 0
    assert (changes(), stored(engine)) == ([(2, True), (2, True)], [("ann", 3), ("ann", 5)])


def test_every_word_of_a_review_is_remembered(sqlite_engine: Engine, tmp_path: Path) -> None:
    """A file without times that differs in any field of a review is told apart from the last one."""
    others = {"rating": 3, "feedback_comment": "x", "corrected_response": "y", "harmful": True}
    others["reviewer_role"] = "end_user"
    assert len(others) == len(fields(DomainReview)) - len(("reviewer", "reviewed_at"))
    seen = set()
    for each in ({}, *({name: value} for name, value in others.items())):
        import_ratings(sqlite_engine, write_jsonl(tmp_path / "a.jsonl", [said(2, None) | each]))
        with reading(sqlite_engine) as connection:
            seen.add(connection.execute(select(Review.imported)).scalar_one())
    assert len(seen) == 1 + len(others)


@pytest.mark.parametrize(("values", "doubtful"), [((1, 0), True), ((1, -1), True), ((1, 1), False), ((1, 5), False)])
def test_numbers_that_may_be_thumbs(
    sqlite_engine: Engine, tmp_path: Path, values: tuple[int, ...], doubtful: bool
) -> None:
    """Where all are 1 and 0, a 1 is not the worst rating, not even if the others are left out."""
    rows = [said(value, EARLY, ai_response=str(place)) for place, value in enumerate(values)]
    file = write_jsonl(tmp_path / "a.jsonl", rows)
    if doubtful:
        with pytest.raises(ImportFileError, match=r"Say which it is: --thumbs or --scale 1,5\."):
            import_ratings(sqlite_engine, file, skip_invalid=True)
    else:
        assert import_ratings(sqlite_engine, file).added == 2


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"])
def test_a_time_that_stands_for_none(sqlite_engine: Engine, tmp_path: Path, at: str) -> None:
    """The first and the last year of programs are no times, and the line is named."""
    (reason,) = reasons(sqlite_engine, write_jsonl(tmp_path / "a.jsonl", [said(4, at)])).values()
    assert "not a time of ours, from 1900 to 2100" in reason


def test_nothing_was_said_in_the_future(engine: Engine, tmp_path: Path) -> None:
    """A clock that is wrong does not keep out all that comes later."""
    import_ratings(engine, write_jsonl(tmp_path / "a.jsonl", [said(2, "2099-01-01T00:00:00+00:00")]))
    with reading(engine) as connection:
        at = connection.execute(select(Review.reviewed_at)).scalar_one()
    assert at <= datetime.now(UTC) + timedelta(seconds=1)
    import_ratings(engine, write_jsonl(tmp_path / "b.jsonl", [said(4, None)]))
    assert stored(engine) == [("ann", 4)]


@pytest.mark.parametrize(
    ("labels", "given", "rating"),
    [
        (Labels(thumbs=True), 1, 5),
        (Labels(thumbs=True, good=4), "up", 4),
        (Labels(thumbs=True), 0, 1),
        (Labels(scale=NumberScale(1, 10)), 5, 3),
        (Labels(scale=NumberScale(0, 1)), "1", 5),
    ],
)
def test_what_numbers_mean(engine: Engine, tmp_path: Path, labels: Labels, given: Any, rating: int) -> None:
    """In a file of one's own, too, they are thumbs or of another scale where somebody says so."""
    path = write_jsonl(tmp_path / "a.jsonl", [said(given, EARLY), said(given, None, ai_response="B")])
    import_ratings(engine, path, labels=labels)
    assert stored(engine) == [("ann", rating), ("ann", rating)]
    wrong = write_jsonl(tmp_path / "b.jsonl", [said(7 if labels.thumbs else 70, EARLY, ai_response="C")])
    with pytest.raises(InvalidRowsError, match=r"and thumbs are|not on the scale"):
        import_ratings(engine, wrong, labels=labels)


def test_after_a_stop_nothing_is_left_and_nothing_is_missed(engine: Engine) -> None:
    """Ctrl-C in a query costs the connection, and with it the temporary tables: only the stop is raised."""

    def stopped() -> None:
        with stage(engine) as connection:
            connection.invalidate()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    with stage(engine):
        pass
