"""How far a rater is: towards what training needs, and towards today's goal."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import func, select
from sqlalchemy.engine import Connection, Engine

from rlhf_loop.config import Settings
from rlhf_loop.domain import ReviewerRole
from rlhf_loop.reviewing.candidates import Rater, count_waiting
from rlhf_loop.store.engine import reading
from rlhf_loop.store.tables import Interaction, Preference, Review

#: Among so many answers it counts; a larger number tells nobody more.
MOST_COUNTED = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """`rated` answers of the `needed` ones; `today`, since midnight UTC, of the `goal`; and how many wait.

    `rated` counts answers that experts rated. `today` counts the rater's reviews and comparisons. `waiting` counts what
    the rater may still be given of the newest 1,000 answers that no expert has rated; second opinions are not in it.
    """

    rated: int
    needed: int
    today: int
    goal: int
    waiting: int


def progress(engine: Engine, *, reviewer: str, settings: Settings, now: datetime | None = None) -> Progress:
    """Count how far the rater is."""
    # Imported here: training brings numpy along, and only its number is wanted.
    from rlhf_loop.training.train import MIN_SAMPLES

    now = (now or datetime.now(UTC)).astimezone(UTC)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    rated = select(func.count()).select_from(Interaction).where(Interaction.rating.is_not(None))
    with reading(engine) as connection:
        return Progress(
            rated=connection.execute(rated).scalar_one(),
            needed=MIN_SAMPLES,
            today=_today(connection, reviewer, midnight),
            goal=settings.review_daily_goal,
            waiting=count_waiting(connection, Rater(name=reviewer, now=now), settings, most=MOST_COUNTED),
        )


def _today(connection: Connection, reviewer: str, midnight: datetime) -> int:
    reviews = select(func.count()).where(
        Review.reviewer == reviewer, Review.reviewed_at >= midnight, Review.role == ReviewerRole.EXPERT
    )
    preferences = select(func.count()).where(Preference.reviewer == reviewer, Preference.preferred_at >= midnight)
    return connection.execute(reviews).scalar_one() + connection.execute(preferences).scalar_one()
