from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine

from rlhf_loop.config import Settings
from rlhf_loop.domain import Rating, Review
from rlhf_loop.errors import ReviewChangedError
from rlhf_loop.reviewing import MAX_COMMENT, MAX_CORRECTION, ReviewItem, item, next_item, save_draft, skip, submit, undo
from rlhf_loop.store import audit
from rlhf_loop.store.interactions import rate, record, stats

NOW = datetime(2025, 5, 1, 12, tzinfo=UTC)
SETTINGS = Settings(review_overlap=0.0)


def given(engine: Engine, count: int = 1, *, response: str = "answer") -> list[int]:
    """Record answers and give each of them to ann."""
    record(engine, [Rating(f"question {n}", response) for n in range(count)])
    found: list[int] = []
    for second in range(count):
        item = next_item(engine, reviewer="ann", settings=SETTINGS, now=NOW + timedelta(seconds=second))
        assert item is not None
        found.append(item.interaction_key)
        if len(found) < count:
            skip(engine, item.interaction_key, reviewer="ann", now=NOW)
    return found


def send(engine: Engine, id: int, rating: int = 4, *, second: int = 0, **values: object) -> None:
    submission = Review(rating=rating, **values)  # type: ignore[arg-type]
    submit(engine, id, reviewer="ann", review=submission, now=NOW + timedelta(seconds=second))


def undone(engine: Engine, *, second: int = 0) -> ReviewItem:
    found = undo(engine, reviewer="ann", settings=SETTINGS, now=NOW + timedelta(seconds=second))
    assert found is not None
    return found


def actions(engine: Engine) -> list[str]:
    """What the audit log says that ann did, the first thing first."""
    return [entry.action for entry in reversed(audit.entries(engine, actor="ann"))]


def test_a_review_is_stored_with_all_its_parts(engine: Engine) -> None:
    """Rating, comment, correction and flag are there, the draft is gone, and the audit log knows."""
    (id,) = given(engine)
    save_draft(engine, id, reviewer="ann", review=Review(comment="typing"))
    send(engine, id, 2, comment=" so \r\nso ", correction="Better.\r\n", harmful=True)
    found = item(engine, id, reviewer="ann")
    assert found.review is not None
    assert (found.review.rating, found.review.comment, found.review.correction) == (2, "so \nso", "Better.")
    assert (found.review.harmful, found.review.reviewed_at) == (True, NOW)
    assert (found.state, found.draft) == ("reviewed", None)
    assert actions(engine) == ["review.added"]


@pytest.mark.parametrize("correction", ["answer", " answer\r\n", "", "  ", None])
def test_a_correction_that_changes_nothing_is_none(engine: Engine, correction: str | None) -> None:
    """The answer itself, or nothing, is no correction."""
    (id,) = given(engine)
    send(engine, id, correction=correction)
    review = item(engine, id, reviewer="ann").review
    assert review is not None
    assert review.correction is None


def test_a_long_answer_left_as_it_is_can_be_submitted(engine: Engine) -> None:
    """The limit is on what the rater writes, not on the answer that fills the field."""
    (id,) = given(engine, response="a" * (MAX_CORRECTION + 1))
    send(engine, id, correction="a" * (MAX_CORRECTION + 1))
    assert stats(engine).reviews == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rating": 6}, "rating is 6. Choose a grade from 1 to 5"),
        ({"rating": 0}, "rating is 0"),
        ({"rating": True}, "rating is True"),
        ({"rating": "5"}, "rating is '5'"),
        ({"rating": 3, "comment": "a\x00b"}, "comment holds a NUL character at position 1"),
        ({"rating": 3, "correction": "\ud800"}, "correction holds half a character"),
        ({"rating": 3, "comment": "c" * (MAX_COMMENT + 1)}, "comment has 4,001 characters; 4,000 is the most"),
        ({"rating": 3, "correction": "c" * 10**6}, "correction has 1,000,000 characters; 20,000 is the most"),
    ],
)
def test_a_bad_submission_changes_nothing(engine: Engine, values: dict[str, object], message: str) -> None:
    """A bad value is a ValueError that names it; the draft and the earlier review stay."""
    (id,) = given(engine)
    send(engine, id, 5)
    save_draft(engine, id, reviewer="ann", review=Review(rating=3, comment="careful words"))
    with pytest.raises(ValueError, match=message):
        submit(engine, id, reviewer="ann", review=Review(**values))  # type: ignore[arg-type]
    found = item(engine, id, reviewer="ann")
    assert found.review is not None
    assert found.draft is not None
    assert (found.review.rating, found.draft.rating, found.draft.comment) == (5, 3, "careful words")


@pytest.mark.parametrize("id", [1, 999, 0, -1, 2**31, 2**40])
def test_what_was_not_given_cannot_be_worked_on(engine: Engine, id: int) -> None:
    """Answers of others and unknown ids are a LookupError for everything that can be done."""
    assert given(engine) == [1]
    for do in (
        lambda: submit(engine, id, reviewer="bob", review=Review(rating=3)),
        lambda: skip(engine, id, reviewer="bob"),
        lambda: save_draft(engine, id, reviewer="bob", review=Review(comment="x")),
        lambda: item(engine, id, reviewer="bob"),
    ):
        with pytest.raises(LookupError, match=rf" {id}[ .]"):
            do()
    assert stats(engine).reviews == 0


def test_submitting_twice_is_submitting_once(engine: Engine) -> None:
    """The same submission again, at the same time too, is one review and one entry in the audit log."""
    (id,) = given(engine)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: send(engine, id, 4, comment="c"), range(8)))
    assert stats(engine).reviews == 1
    assert actions(engine) == ["review.added"]


def test_only_the_review_that_was_seen_is_replaced(engine: Engine) -> None:
    """Where another one is stored, or none any more, that is an error and nothing changes; the same again is none."""
    (id,) = given(engine)
    first, second = Review(rating=2, correction="Better."), Review(rating=5)
    with pytest.raises(ReviewChangedError, match="took your review of this answer back in another window"):
        submit(engine, id, reviewer="ann", review=first, seen=NOW)
    submit(engine, id, reviewer="ann", review=first, seen=None, now=NOW)
    save_draft(engine, id, reviewer="ann", review=Review(comment="typing"))
    with pytest.raises(ReviewChangedError, match="You graded this answer 2 in another window"):
        submit(engine, id, reviewer="ann", review=second, seen=None)
    found = item(engine, id, reviewer="ann")
    assert found.review is not None
    assert found.draft is not None
    assert (found.review.rating, found.review.correction, found.draft.comment) == (2, "Better.", "typing")
    submit(engine, id, reviewer="ann", review=first, seen=None)
    assert actions(engine) == ["review.added"]
    submit(engine, id, reviewer="ann", review=second, seen=found.review.reviewed_at)


def test_a_late_submission_counts(engine: Engine) -> None:
    """A review whose lease ran out is stored all the same, beside that of the rater who got the answer then."""
    (id,) = given(engine)
    later = next_item(engine, reviewer="bob", settings=SETTINGS, now=NOW + timedelta(hours=1))
    assert later is not None
    submit(engine, later.interaction_key, reviewer="bob", review=Review(rating=2))
    send(engine, id, 5, second=7200)
    assert stats(engine).reviews == 2


# --- Undo ------------------------------------------------------------------------------------------------------------


def test_undo_withdraws_and_keeps_what_was_typed(engine: Engine) -> None:
    """The review is gone, and the answer comes again with its parts as a draft."""
    (id,) = given(engine)
    send(engine, id, 2, comment="c", correction="Better.", harmful=True)
    found = undone(engine)
    assert (found.interaction_key, found.state, found.review) == (id, "open", None)
    assert found.draft is not None
    draft = found.draft
    assert (draft.rating, draft.comment, draft.correction, draft.harmful) == (2, "c", "Better.", True)
    assert stats(engine).reviews == 0
    again = next_item(engine, reviewer="ann", settings=SETTINGS, now=NOW)
    assert again == found
    assert next_item(engine, reviewer="bob", settings=SETTINGS, now=NOW) is None
    assert actions(engine) == ["review.added", "review.withdrawn"]


def test_undo_of_a_change_brings_the_earlier_review_back(engine: Engine) -> None:
    """What was submitted instead becomes the draft; undone once more, the review is withdrawn."""
    (id,) = given(engine)
    send(engine, id, 5, comment="first")
    send(engine, id, 1, second=60)
    found = undone(engine, second=90)
    assert found.review is not None
    assert found.draft is not None
    assert (found.review.rating, found.review.comment, found.review.reviewed_at) == (5, "first", NOW)
    assert found.draft.rating == 1
    send(engine, id, 5, comment="first", second=100)
    assert undone(engine, second=120).review is None
    assert stats(engine).reviews == 0


def test_undo_of_a_skip_opens_the_answer_again(engine: Engine) -> None:
    """A skipped answer comes back, with the draft that was there."""
    (id,) = given(engine)
    save_draft(engine, id, reviewer="ann", review=Review(comment="hm"))
    skip(engine, id, reviewer="ann", now=NOW)
    skip(engine, id, reviewer="ann", now=NOW)
    found = undone(engine)
    assert found.draft is not None
    assert (found.interaction_key, found.state, found.draft.comment) == (id, "open", "hm")
    assert actions(engine) == ["answer.skipped", "answer.reopened"]


def test_undo_goes_back_step_by_step(engine: Engine) -> None:
    """The newest step is undone first, whatever came first in the queue; then nothing is left."""
    first, second, third = given(engine, 3)
    send(engine, third, second=10)
    send(engine, first, second=20)
    send(engine, second, second=30)
    assert [undone(engine, second=40).interaction_key for _ in range(3)] == [second, first, third]
    assert undo(engine, reviewer="ann", settings=SETTINGS, now=NOW) is None
    assert undo(engine, reviewer="bob", settings=SETTINGS, now=NOW) is None


def test_yesterdays_work_stays(engine: Engine) -> None:
    """Undo reaches back twelve hours."""
    (id,) = given(engine)
    send(engine, id)
    assert undo(engine, reviewer="ann", settings=SETTINGS, now=NOW + timedelta(hours=13)) is None
    assert stats(engine).reviews == 1


def test_undo_of_a_review_that_is_gone_opens_the_answer(engine: Engine) -> None:
    """A review that was changed elsewhere is withdrawn as it is then."""
    (id,) = given(engine)
    send(engine, id, 4)
    rate(engine, id, reviewer="ann", rating=1)
    found = undone(engine)
    assert found.draft is not None
    assert (found.draft.rating, stats(engine).reviews) == (1, 0)


def test_skipping_does_not_take_a_review_away(engine: Engine) -> None:
    """Passing over an answer that is reviewed already leaves its review."""
    (id,) = given(engine)
    send(engine, id)
    skip(engine, id, reviewer="ann")
    assert item(engine, id, reviewer="ann").state == "reviewed"
    assert stats(engine).reviews == 1


# --- Drafts ----------------------------------------------------------------------------------------------------------


def test_a_draft_is_kept_until_it_is_empty(engine: Engine) -> None:
    """The newest draft is the one that is kept; an empty one deletes it."""
    (id,) = given(engine)
    save_draft(engine, id, reviewer="ann", review=Review(rating=2))
    assert (
        save_draft(engine, id, reviewer="ann", review=Review(comment="c", correction="Better.", harmful=True), now=NOW)
        == NOW
    )
    draft = item(engine, id, reviewer="ann").draft
    assert draft is not None
    assert (draft.rating, draft.comment, draft.correction, draft.harmful, draft.reviewed_at) == (
        None,
        "c",
        "Better.",
        True,
        NOW,
    )
    save_draft(engine, id, reviewer="ann", review=Review(comment=" ", correction="answer"))
    assert item(engine, id, reviewer="ann").draft is None
    assert stats(engine).reviews == 0


def test_a_bad_draft_leaves_the_earlier_one(engine: Engine) -> None:
    """What cannot be kept is a ValueError, and the draft before stays."""
    (id,) = given(engine)
    save_draft(engine, id, reviewer="ann", review=Review(comment="fine"))
    for bad in ({"rating": 9}, {"comment": "\x00"}, {"correction": "c" * (MAX_CORRECTION + 1)}):
        with pytest.raises(ValueError, match=r"rating is 9|NUL|20,001"):
            save_draft(engine, id, reviewer="ann", review=Review(**bad))  # type: ignore[arg-type]
    draft = item(engine, id, reviewer="ann").draft
    assert draft is not None
    assert draft.comment == "fine"
