"""Items of the review screen: an answer with the rater's review of it and the draft of one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import and_, or_, select
from sqlalchemy.engine import Connection, Engine

from rlhf_loop import domain
from rlhf_loop.domain import Origin
from rlhf_loop.store.engine import reading
from rlhf_loop.store.queries import find_review
from rlhf_loop.store.tables import (
    LARGEST_ID,
    ORIGIN_COLUMNS,
    REVIEW_COLUMNS,
    Assignment,
    Draft,
    Interaction,
    Review,
    origin_of,
    review_of,
)
from rlhf_loop.utils.text import blank, tidied, unstorable, visible

#: Reviews of one rater that are looked through for words at a time.
LOOKED_THROUGH = 5_000
#: Characters that a rater may write.
MAX_COMMENT, MAX_CORRECTION = 4_000, 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewItem:
    """One answer as a rater sees it.

    `why` is the queue's reason: uncertain, disagreement, close, overlap, recent or random; empty for one that it never
    gave, as the review came by an import. `state` is open, reviewed or skipped. `review` is the rater's own, None
    before the first. `draft` is a review that was typed and not submitted, with the time when it was saved.
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
    """Read an answer that was given to the rater, or that they reviewed elsewhere, as by an import.

    Raises:
        LookupError: neither.
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
        .outerjoin(Assignment, and_(Assignment.interaction_key == Interaction.id, Assignment.reviewer == reviewer))
        .where(Interaction.id == interaction_key)
    )
    row = connection.execute(found).one_or_none() if interaction_key <= LARGEST_ID else None
    review = find_review(connection, interaction_key, reviewer=reviewer) if row else None
    elsewhere = review is not None and review.role == domain.ReviewerRole.EXPERT
    if row is None or not (row.state or elsewhere):
        raise LookupError(not_given(interaction_key, reviewer))
    return ReviewItem(
        interaction_key=row.id,
        prompt=row.user_prompt,
        response=row.ai_response,
        origin=origin_of(row),
        created_at=row.created_at,
        why=row.why or "",
        state=row.state or "reviewed",
        review=review,
        draft=_draft(connection, interaction_key, reviewer=reviewer),
    )


@dataclass(frozen=True, slots=True)
class OwnReviews:
    """Reviews that were found; `before` is of the last one looked through, None where there are no others behind it."""

    found: tuple[OwnReview, ...]
    before: tuple[datetime, int] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnReview:
    """A review that a rater has given, with its answer."""

    review_id: int
    interaction_key: int
    prompt: str
    response: str
    review: domain.Review


def own_reviews(
    engine: Engine,
    *,
    reviewer: str,
    words: str = "",
    rating: int | None = None,
    before: tuple[datetime, int] | None = None,
    limit: int = 20,
    most: int = LOOKED_THROUGH,
) -> OwnReviews:
    """Return the rater's reviews as an expert, the newest first, in whose texts all words stand, whatever their case.

    `before` is the time and the id of the last one already seen. At most so many reviews are looked through at a time.
    """
    newest = (
        select(
            Review.id,
            Review.interaction_key.label("interaction_key"),
            Interaction.user_prompt,
            Interaction.ai_response,
            *REVIEW_COLUMNS,
        )
        .join(Interaction, Interaction.id == Review.interaction_key)
        .where(Review.reviewer == reviewer, Review.role == domain.ReviewerRole.EXPERT)
        .order_by(Review.reviewed_at.desc(), Review.id.desc())
        .limit(most + 1)
    )
    if rating is not None:
        newest = newest.where(Review.rating == rating)
    if before is not None:
        moment, id = before
        same_moment = and_(Review.reviewed_at == moment, Review.id < min(id, LARGEST_ID))
        newest = newest.where(or_(Review.reviewed_at < moment, same_moment))
    wanted, found = words.casefold().split(), list[OwnReview]()
    last = None
    with reading(engine) as connection:
        for number, row in enumerate(connection.execution_options(yield_per=100).execute(newest)):
            if len(found) == limit or number == most:
                return OwnReviews(tuple(found), last)
            texts = (row.user_prompt, row.ai_response, row.comment, row.correction)
            held = "\n".join(text or "" for text in texts).casefold()
            if all(word in held for word in wanted):
                found.append(
                    OwnReview(
                        review_id=row.id,
                        interaction_key=row.interaction_key,
                        prompt=row.user_prompt,
                        response=row.ai_response,
                        review=review_of(row),
                    )
                )
            last = (row.reviewed_at, row.id)
    return OwnReviews(tuple(found), None)


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
