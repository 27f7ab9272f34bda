"""An answer as a rater sees it, with what the rater has said of it and what is typed but not submitted."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.engine import Connection

from rlhf_loop.store.tables import LARGEST_ID, Assignment, Interaction, Review
from rlhf_loop.store.tables import Draft as DraftRow
from rlhf_loop.utils.text import unstorable

#: Characters that a rater may write.
MAX_COMMENT, MAX_CORRECTION = 4_000, 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredReview:
    """What the rater said of the answer."""

    rating: int
    comment: str | None
    correction: str | None
    harmful: bool
    reviewed_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What the rater has typed and not submitted."""

    rating: int | None
    comment: str | None
    correction: str | None
    harmful: bool
    saved_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewItem:
    """One answer as a rater sees it.

    `why` is the queue's reason: uncertain, disagreement, close, overlap, recent or random. `state` is open, reviewed or
    skipped. `review` is the rater's own, None before the first.
    """

    interaction_id: int
    prompt: str
    response: str
    source: str | None
    title: str | None
    url: str | None
    licence: str | None
    created_at: datetime
    why: str
    state: str
    review: StoredReview | None
    draft: Draft | None


def assigned_item(connection: Connection, interaction_id: int, *, reviewer: str) -> ReviewItem:
    """Read an answer that was given to the rater.

    Raises:
        LookupError: it was not.
    """
    found = (
        select(
            Interaction.id,
            Interaction.user_prompt,
            Interaction.ai_response,
            Interaction.source,
            Interaction.title,
            Interaction.url,
            Interaction.licence,
            Interaction.created_at,
            Assignment.why,
            Assignment.state,
        )
        .join(Assignment, Assignment.interaction_id == Interaction.id)
        .where(Interaction.id == interaction_id, Assignment.reviewer == reviewer)
    )
    row = connection.execute(found).one_or_none() if interaction_id <= LARGEST_ID else None
    if row is None:
        raise LookupError(not_given(interaction_id, reviewer))
    return ReviewItem(
        interaction_id=row.id,
        prompt=row.user_prompt,
        response=row.ai_response,
        source=row.source,
        title=row.title,
        url=row.url,
        licence=row.licence,
        created_at=row.created_at,
        why=row.why,
        state=row.state,
        review=stored_review(connection, interaction_id, reviewer=reviewer),
        draft=_draft(connection, interaction_id, reviewer=reviewer),
    )


def stored_review(connection: Connection, interaction_id: int, *, reviewer: str) -> StoredReview | None:
    """Read the rater's review of an answer, None if there is none."""
    found = select(Review.rating, Review.comment, Review.correction, Review.harmful, Review.reviewed_at).where(
        Review.interaction_id == interaction_id, Review.reviewer == reviewer
    )
    row = connection.execute(found).one_or_none()
    if row is None:
        return None
    return StoredReview(
        rating=row.rating,
        comment=row.comment,
        correction=row.correction,
        harmful=row.harmful,
        reviewed_at=row.reviewed_at,
    )


def not_given(interaction_id: int, reviewer: str) -> str:
    """Say that the rater was never given the answer."""
    return f"Answer {interaction_id} was not given to {reviewer!r}. Open the review page, which gives you the next one."


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
    text = _lines(text)
    if len(text) > limit:
        raise ValueError(f"The {name} has {len(text):,} characters; {limit:,} is the most. Shorten it.")
    return text or None


def checked_correction(correction: str | None, *, response: str) -> str | None:
    """Return the correction as `checked_text` does; None too where it says the same as the answer.

    Raises:
        ValueError: as `checked_text`.
    """
    if correction is not None and _lines(correction) == _lines(response):
        return None
    return checked_text("correction", correction, limit=MAX_CORRECTION)


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n").strip()


def _draft(connection: Connection, interaction_id: int, *, reviewer: str) -> Draft | None:
    found = select(DraftRow.rating, DraftRow.comment, DraftRow.correction, DraftRow.harmful, DraftRow.saved_at).where(
        DraftRow.interaction_id == interaction_id, DraftRow.reviewer == reviewer
    )
    row = connection.execute(found).one_or_none()
    if row is None:
        return None
    return Draft(
        rating=row.rating, comment=row.comment, correction=row.correction, harmful=row.harmful, saved_at=row.saved_at
    )
