from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rating_files import reasons, write_jsonl
from sqlalchemy import Engine, select

from rlhf_loop.exchange.formats.base import Labels, NumberScale
from rlhf_loop.exchange.transfer import InvalidRowsError, import_ratings
from rlhf_loop.store.engine import reading
from rlhf_loop.store.tables import Review

EARLY, LATE = "2026-01-01T10:00:00+00:00", "2026-01-02T10:00:00+00:00"


def said(rating: int, rated_at: str | None, **more: Any) -> dict[str, Any]:
    """Return a row of a file."""
    words = {"user_prompt": "Q", "ai_response": "A", "reviewer": "ann", "rating": rating, "rated_at": rated_at}
    return {name: value for name, value in (words | more).items() if value is not None}


def stored(engine: Engine) -> list[tuple[str, int]]:
    """Return who gave which rating."""
    with reading(engine) as connection:
        found = connection.execute(select(Review.reviewer, Review.rating).order_by(Review.reviewer))
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
    # Without a time it is said now.
    assert import_ratings(engine, write_jsonl(tmp_path / "now.jsonl", [said(5, None)])).updated == 1
    assert stored(engine) == [("ann", 5)]


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
