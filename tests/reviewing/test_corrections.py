from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine

from rlhf_loop.domain import Rating
from rlhf_loop.reviewing import (
    Correction,
    approved_corrections,
    approved_stamp,
    corrections,
    decide,
    to_decide,
    undo_decisions,
)
from rlhf_loop.reviewing.corrections import State
from rlhf_loop.store import audit
from rlhf_loop.store.engine import transaction
from rlhf_loop.store.interactions import rate, record, withdraw_review


def corrected(engine: Engine, *texts: str) -> list[Correction]:
    """Record answers that ann corrects; return the corrections, the oldest first."""
    for number, text in enumerate(texts):
        (id,) = record(engine, [Rating(f"question {number}", "answer")])
        rate(engine, id, reviewer="ann", rating=2, correction=text)
    return corrections(engine)[::-1]


def approve(engine: Engine, of: Correction, *, approved: bool = True) -> None:
    decide(engine, of.review_id, approved=approved, correction=of.correction, decided_by="ada")


def test_corrections_wait_for_a_decision(engine: Engine) -> None:
    """Each state has its list, the newest first; reviews without a correction are in none."""
    one, two, three = corrected(engine, "one", "two", "three")
    rate(engine, one.interaction_key, reviewer="bob", rating=4, comment="no correction")
    assert (one.prompt, one.response, one.correction, one.review.reviewer, one.approved) == (
        "question 0",
        "answer",
        "one",
        "ann",
        None,
    )
    approve(engine, one)
    approve(engine, two, approved=False)
    assert [each.correction for each in corrections(engine)] == ["three", "two", "one"]
    assert corrections(engine, state="pending") == [three]
    assert [(each.correction, each.approved) for each in corrections(engine, state="approved")] == [("one", True)]
    assert [(each.correction, each.approved) for each in corrections(engine, state="rejected")] == [("two", False)]
    assert corrections(engine, state="approved")[0].decided_by == "ada"
    assert corrections(engine, state="approved", ids=[two.review_id, three.review_id]) == []
    assert [entry.action for entry in audit.entries(engine, actor="ada")] == [
        "correction.rejected",
        "correction.approved",
    ]


def test_pages_of_corrections_follow_on_each_other(engine: Engine) -> None:
    """`before` goes on where the page before ended."""
    found = corrected(engine, *"abcde")[::-1]
    first = corrections(engine, limit=2)
    assert first + corrections(engine, before=first[-1].review_id, limit=3) == found


def test_pages_of_what_was_decided_are_full(engine: Engine) -> None:
    """What was approved and then changed waits again, and leaves no gap among what is approved."""
    found = corrected(engine, *"abcdef")
    for each in found:
        approve(engine, each)
    for each in (found[4], found[3], found[1]):
        rate(engine, each.interaction_key, reviewer="ann", rating=2, correction=f"not {each.correction}")
    rate(engine, found[0].interaction_key, reviewer="ann", rating=2)

    def page(state: State, before: int | None = None) -> tuple[str, int]:
        shown = corrections(engine, state=state, before=before, limit=2)
        return " ".join(each.correction for each in shown), shown[-1].review_id

    assert page("approved") == ("f c", found[2].review_id)
    assert corrections(engine, state="approved", before=found[2].review_id, limit=2) == []
    assert page("pending") == ("not e not d", found[3].review_id)
    assert page("pending", found[3].review_id) == ("not b", found[1].review_id)
    assert to_decide(engine).corrections == 3


def test_only_the_words_that_the_admin_saw_can_be_decided_on(engine: Engine) -> None:
    """A correction that was changed meanwhile is refused, and still waits; other line breaks are the same words."""
    (seen,) = corrected(engine, "better\nwords")
    rate(engine, seen.interaction_key, reviewer="ann", rating=2, correction="other\nwords")
    with pytest.raises(ValueError, match="changed while you read it"):
        approve(engine, seen)
    assert len(corrections(engine, state="pending")) == 1
    decide(engine, seen.review_id, approved=True, correction="other\r\nwords ", decided_by="ada")
    assert approved_corrections(engine)[0].correction == "other\nwords"


def test_an_approval_does_not_hold_for_other_words(engine: Engine) -> None:
    """What is changed after its approval waits again, and is approved again when the old words are back."""
    (seen,) = corrected(engine, "better")
    approve(engine, seen)
    rate(engine, seen.interaction_key, reviewer="ann", rating=2, correction="worse")
    assert approved_corrections(engine) == []
    assert [each.approved for each in corrections(engine, state="pending")] == [None]
    rate(engine, seen.interaction_key, reviewer="ann", rating=2, correction="better")
    assert [each.correction for each in approved_corrections(engine)] == ["better"]


def test_what_is_gone_cannot_be_decided_on(engine: Engine) -> None:
    """An unknown review, and one without a correction, are a LookupError."""
    (seen,) = corrected(engine, "better")
    rate(engine, seen.interaction_key, reviewer="ann", rating=2)
    for unknown in (seen.review_id, 999, 2**40):
        with pytest.raises(LookupError, match=f"no correction in review {unknown}"):
            decide(engine, unknown, approved=True, correction="better", decided_by="ada")


def test_the_stamp_changes_with_the_set(engine: Engine) -> None:
    """Each change of the approved corrections changes the stamp; other changes do not."""
    one, two = corrected(engine, "one", "two")
    stamps = [approved_stamp(engine)]
    approve(engine, two, approved=False)
    assert approved_stamp(engine) == stamps[0]
    approve(engine, one)
    stamps.append(approved_stamp(engine))
    approve(engine, two)
    stamps.append(approved_stamp(engine))
    approve(engine, one, approved=False)
    stamps.append(approved_stamp(engine))
    with transaction(engine) as connection:
        withdraw_review(connection, two.interaction_key, reviewer="ann")
    stamps.append(approved_stamp(engine))
    assert len(set(stamps[:4])) == 4
    assert stamps[4] == stamps[0]


def test_the_stamp_tells_of_an_undone_edit(engine: Engine) -> None:
    """Also where another decision came after the one that is undone."""
    one, two = corrected(engine, "one", "two")

    def say(seen: Correction, minute: int, **words: str) -> None:
        now = datetime(2026, 1, 1, 12, minute, tzinfo=UTC)
        decide(engine, seen.review_id, approved=True, correction=seen.correction, decided_by="ada", now=now, **words)

    say(one, 1)
    say(one, 2, edited="edited")
    say(two, 3)
    stamp = approved_stamp(engine)
    undo_decisions(engine, decided_by="ada", decided_at=datetime(2026, 1, 1, 12, 2, tzinfo=UTC))
    assert approved_stamp(engine) != stamp


def test_decisions_at_once_leave_one(engine: Engine) -> None:
    """Two admins at the same moment leave one decision, and both are in the audit log."""
    (seen,) = corrected(engine, "better")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: approve(engine, seen, approved=n % 2 == 0), range(8)))
    assert len(corrections(engine)) == 1
    assert len(audit.entries(engine, actor="ada")) == 8
