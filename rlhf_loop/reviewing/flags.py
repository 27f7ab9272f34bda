"""Answers that somebody flagged as harmful, for the admin who has to act on them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.engine import Engine

from rlhf_loop.store.engine import reading
from rlhf_loop.store.tables import LARGEST_ID, Interaction, Review


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """One reviewer's flag, with what else they said of the answer."""

    review_id: int
    interaction_id: int
    prompt: str
    response: str
    source: str | None
    title: str | None
    url: str | None
    reviewer: str
    role: str
    rating: int
    comment: str | None
    reviewed_at: datetime


def flags(engine: Engine, *, before: int | None = None, limit: int = 50) -> list[Flag]:
    """Return the flags, the newest review first; `before` is the review's id of the last one already seen."""
    wanted = (
        select(Review, Interaction)
        .join(Interaction, Interaction.id == Review.interaction_id)
        .where(Review.harmful)
        .order_by(Review.id.desc())
        .limit(limit)
        .with_only_columns(
            Review.id.label("review_id"),
            Review.interaction_id,
            Interaction.user_prompt.label("prompt"),
            Interaction.ai_response.label("response"),
            Interaction.source,
            Interaction.title,
            Interaction.url,
            Review.reviewer,
            Review.role,
            Review.rating,
            Review.comment,
            Review.reviewed_at,
        )
    )
    if before is not None:
        wanted = wanted.where(Review.id < min(before, LARGEST_ID))
    with reading(engine) as connection:
        return [Flag(**row) for row in connection.execute(wanted).mappings()]
