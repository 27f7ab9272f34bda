"""Everything that was said of answers, read for an export in the order of the answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.engine import Connection

from rlhf_loop.domain import Rating, ReviewerRole
from rlhf_loop.store.tables import Interaction, Review

_STREAMED = {"yield_per": 1000}
_JOINED = Interaction.__table__.outerjoin(Review.__table__, Review.interaction_id == Interaction.id)


def count(connection: Connection) -> int:
    """Return how many ratings `ratings` yields."""
    return int(connection.execute(select(func.count()).select_from(_JOINED)).scalar_one())


def ratings(connection: Connection) -> Iterator[Rating]:
    """Yield every review with its answer, and each unreviewed answer once, by answer and review."""
    return (_rating(row) for row in connection.execute(_everything(), execution_options=_STREAMED))


def by_answer(connection: Connection) -> Iterator[list[Rating]]:
    """Yield the same, what was said of one answer together."""
    said: list[Rating] = []
    for rating in ratings(connection):
        if said and said[0].external_id != rating.external_id:
            yield said
            said = []
        said.append(rating)
    if said:
        yield said


def _everything() -> Select[Any]:
    return (
        select(
            Interaction.__table__,
            Review.id.label("review_id"),
            Review.reviewer,
            Review.rating.label("review_rating"),
            Review.comment,
            Review.correction,
            Review.reviewed_at,
            Review.role,
            Review.harmful,
        )
        .select_from(_JOINED)
        .order_by(Interaction.id, Review.id)
    )


def _rating(row: Any) -> Rating:
    reviewed = row.review_id is not None
    return Rating(
        user_prompt=row.user_prompt,
        ai_response=row.ai_response,
        rating=row.review_rating,
        feedback_comment=(row.comment if reviewed else row.feedback_comment) or None,
        corrected_response=(row.correction if reviewed else row.corrected_response) or None,
        reviewer=row.reviewer,
        source=row.source or None,
        candidate_group=row.candidate_group or None,
        shown_rank=row.shown_rank,
        score=row.score,
        model_version=row.model_version or None,
        external_id=row.external_id,
        created_at=row.created_at,
        rated_at=row.reviewed_at,
        reviewer_role=row.role if reviewed else ReviewerRole.EXPERT,
        harmful=bool(row.harmful),
        title=row.title or None,
        url=row.url or None,
        licence=row.licence or None,
        retrieved_at=row.retrieved_at,
    )
