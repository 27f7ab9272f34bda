"""Items of the review screen: an answer with the rater's review of it and the draft of one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.engine import Connection

from rlhf_loop import domain
from rlhf_loop.domain import Origin
from rlhf_loop.store.queries import find_review
from rlhf_loop.store.tables import LARGEST_ID, ORIGIN_COLUMNS, Assignment, Draft, Interaction, origin_of
from rlhf_loop.utils.text import blank, tidied, unstorable, visible

#: Characters that a rater may write.
MAX_COMMENT, MAX_CORRECTION = 4_000, 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewItem:
    """One answer as a rater sees it.

    `why` is the queue's reason: uncertain, disagreement, close, overlap, recent or random. `state` is open, reviewed or
    skipped. `review` is the rater's own, None before the first. `draft` is a review that was typed and not submitted,
    with the time when it was saved.
    """

    interaction_key: int
    prompt: str
    response: str
    origin: Origin
    created_at: datetime
    why: str
    state: str
    review: domain.Review | None
    draft: domain.Review | None


def assigned_item(connection: Connection, interaction_key: int, *, reviewer: str) -> ReviewItem:
    """Read an answer that was given to the rater.

    Raises:
        LookupError: it was not.
    """
    found = (
        select(
            Interaction.id,
            Interaction.user_prompt,
            Interaction.ai_response,
            *ORIGIN_COLUMNS,
            Interaction.created_at,
            Assignment.why,
            Assignment.state,
        )
        .join(Assignment, Assignment.interaction_key == Interaction.id)
        .where(Interaction.id == interaction_key, Assignment.reviewer == reviewer)
    )
    row = connection.execute(found).one_or_none() if interaction_key <= LARGEST_ID else None
    if row is None:
        raise LookupError(not_given(interaction_key, reviewer))
    return ReviewItem(
        interaction_key=row.id,
        prompt=row.user_prompt,
        response=row.ai_response,
        origin=origin_of(row),
        created_at=row.created_at,
        why=row.why,
        state=row.state,
        review=find_review(connection, interaction_key, reviewer=reviewer),
        draft=_draft(connection, interaction_key, reviewer=reviewer),
    )


def not_given(interaction_key: int, reviewer: str) -> str:
    """Say that the rater was never given the answer."""
    return (
        f"Answer {interaction_key} was not given to {reviewer!r}. Open the review page, which gives you the next one."
    )


def checked_rating(rating: object) -> int:
    """Return the rating if it is one.

    Raises:
        ValueError: it is not a whole number from 1 to 5.
    """
    if isinstance(rating, bool) or not isinstance(rating, int) or not 1 <= rating <= 5:
        raise ValueError(f"The rating is {rating!r}. Choose a grade from 1 to 5.")
    return rating


def checked_text(name: str, text: str | None, *, limit: int) -> str | None:
    """Return the text with one newline a line and nothing blank around it; None if nothing is left.

    Raises:
        ValueError: it is too long, or no database can store it.
    """
    if text is None:
        return None
    if bad := unstorable(text):
        what = "a NUL character" if bad.group() == "\x00" else "half a character (a lone surrogate)"
        raise ValueError(f"The {name} holds {what} at position {bad.start()}. Take it out.")
    text = tidied(text).strip()
    if len(text) > limit:
        raise ValueError(f"The {name} has {len(text):,} characters; {limit:,} is the most. Shorten it.")
    return None if blank(text) else text


def checked_correction(correction: str | None, *, response: str) -> str | None:
    """Return the correction as `checked_text` does; None too where it says the same as the answer.

    Raises:
        ValueError: as `checked_text`.
    """
    if correction is not None and visible(correction) == visible(response):
        return None
    return checked_text("correction", correction, limit=MAX_CORRECTION)


def _draft(connection: Connection, interaction_key: int, *, reviewer: str) -> domain.Review | None:
    found = select(Draft.__table__).where(Draft.interaction_key == interaction_key, Draft.reviewer == reviewer)
    row = connection.execute(found).one_or_none()
    if row is None:
        return None
    return domain.Review(
        rating=row.rating,
        comment=row.comment,
        correction=row.correction,
        harmful=row.harmful,
        reviewer=row.reviewer,
        reviewed_at=row.saved_at,
    )
