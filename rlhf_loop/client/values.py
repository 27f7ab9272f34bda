"""What goes to the API and comes from it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

Role = Literal["expert", "end_user"]
Thumb = Literal["up", "down"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewReview:
    """What somebody says of an answer: a `rating` from 1 to 5, or a `thumb`. `docs/RLHF_SERVICE.md` explains roles."""

    rating: int | None = None
    thumb: Thumb | None = None
    comment: str | None = None
    correction: str | None = None
    harmful: bool = False
    reviewer: str | None = None
    role: Role | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewInteraction:
    """An answer that an application gave."""

    prompt: str
    response: str
    id: str | None = None
    source: str | None = None
    title: str | None = None
    url: str | None = None
    licence: str | None = None
    retrieved_at: datetime | None = None
    candidate_group: str | None = None
    shown_rank: int | None = None
    score: float | None = None
    model_version: str | None = None
    created_at: datetime | None = None
    review: NewReview | None = None


@dataclass(frozen=True, slots=True)
class Recorded:
    """What was stored, by the id under which it can be reviewed."""

    id: str
    rating: int | None
    end_user_rating: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """What one reviewer said of an answer."""

    interaction_id: str
    reviewer: str
    role: Role
    rating: int
    comment: str | None
    correction: str | None
    harmful: bool
    reviewed_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Interaction:
    """An answer that was given: `rating` is the consensus of experts, `end_user_rating` that of end users."""

    id: str
    prompt: str
    response: str
    source: str | None
    title: str | None
    url: str | None
    licence: str | None
    retrieved_at: datetime | None
    candidate_group: str | None
    shown_rank: int | None
    score: float | None
    model_version: str | None
    created_at: datetime
    rating: int | None
    rated_at: datetime | None
    end_user_rating: int | None
    harmful: bool
    expert_reviews: int
    end_user_reviews: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """Which of two answers a reviewer finds better."""

    chosen_id: str
    rejected_id: str
    tie: bool
    reviewer: str
    role: Role
    comment: str | None


@dataclass(frozen=True, slots=True)
class RecordedBatch:
    interactions: tuple[Recorded, ...]


@dataclass(frozen=True, slots=True)
class ReviewedInteraction:
    interaction: Interaction


@dataclass(frozen=True, slots=True)
class InteractionPage:
    interactions: tuple[Interaction, ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class ReviewPage:
    reviews: tuple[Review, ...]
    next: str | None
