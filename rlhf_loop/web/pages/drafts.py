"""What a rater has typed and not graded yet: drafts, kept also beside a review that another window has changed."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from werkzeug.exceptions import UnprocessableEntity

from rlhf_loop import reviewing
from rlhf_loop.domain import User
from rlhf_loop.reviewing import MAX_COMMENT, MAX_CORRECTION, ReviewItem, Seen
from rlhf_loop.web.pages.desk import Desk, own_lines


class ReviewIn(BaseModel):
    """What a rater says of an answer; `rating` is missing in a draft.

    `seen` is the time of the rater's review that the screen showed, empty for none.
    """

    model_config = ConfigDict(extra="forbid", strict=True, title="Review")

    rating: Annotated[int | None, Field(ge=1, le=5)] = None
    comment: Annotated[str | None, Field(max_length=MAX_COMMENT)] = None
    correction: Annotated[str | None, Field(max_length=MAX_CORRECTION)] = None
    harmful: bool = False
    seen: Annotated[str | None, Field(max_length=40)] = None


def keep(desk: Desk, user: User, interaction_id: int, sent: ReviewIn) -> None:
    """Save a draft; who writes one is still at work, and so the answer stays theirs."""
    engine = desk.engine()
    item = reviewing.item(engine, interaction_id, reviewer=user.name)
    if not reviewing.is_seen(item.review, seen(sent)):
        keep_beside(desk, user, interaction_id, sent)
        return
    reviewing.save_draft(
        engine,
        interaction_id,
        reviewer=user.name,
        rating=sent.rating,
        comment=own_lines(sent.comment).strip() or None,
        correction=corrected(item, sent),
        harmful=sent.harmful,
    )
    reviewing.renew(engine, interaction_id, reviewer=user.name, settings=desk.settings)


def keep_beside(desk: Desk, user: User, interaction_id: int, sent: ReviewIn) -> None:
    """Save what was typed where the review was not seen; where nothing was, it is as the review says, or the draft."""
    engine = desk.engine()
    item = reviewing.item(engine, interaction_id, reviewer=user.name)
    there = item.review or item.draft
    rating = there.rating if there else None
    comment = own_lines(sent.comment).strip() or (there.comment if there else None)
    correction = corrected(item, sent) or (there.correction if there else None)
    harmful = sent.harmful or bool(there and there.harmful)
    if item.review and (comment, correction, harmful) == (
        item.review.comment,
        item.review.correction,
        item.review.harmful,
    ):
        # An empty draft is none: the review speaks for itself.
        rating, comment, correction, harmful = None, None, None, False
    reviewing.save_draft(
        engine,
        interaction_id,
        reviewer=user.name,
        rating=rating,
        comment=comment,
        correction=correction,
        harmful=harmful,
    )
    reviewing.renew(engine, interaction_id, reviewer=user.name, settings=desk.settings)


def seen(sent: ReviewIn) -> datetime | Literal[Seen.UNKNOWN] | None:
    """Return the time of the review that the screen showed, None where it showed none.

    Raises:
        UnprocessableEntity: it is no time.
    """
    if sent.seen is None:
        return Seen.UNKNOWN
    try:
        return datetime.fromisoformat(sent.seen) if sent.seen else None
    except ValueError as error:
        raise UnprocessableEntity(
            f"seen is {sent.seen!r}, not the time of a review. Reload the page, and grade again."
        ) from error


def base(item: ReviewItem) -> str:
    """Return what the server has of the rater's, by time: the draft, else the review; empty for nothing."""
    if item.draft:
        return item.draft.saved_at.isoformat()
    return item.review.reviewed_at.isoformat() if item.review else ""


def corrected(item: ReviewItem, sent: ReviewIn) -> str | None:
    """Return the correction; the field begins as the answer, and an answer left as it is corrects nothing."""
    correction = own_lines(sent.correction).strip()
    return correction if correction and correction != own_lines(item.response).strip() else None
