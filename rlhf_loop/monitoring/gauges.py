"""How much there is of what a monitoring system watches, and how the live model did: asked every few seconds.

So each question here is answered from an index. Whatever needs a closer look is a figure of the dashboard.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.engine import Engine

from rlhf_loop import registry
from rlhf_loop.domain import AlarmKind
from rlhf_loop.store.alarms import open_alarms
from rlhf_loop.store.engine import reading
from rlhf_loop.store.tables import Interaction, TrainingRun


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """What the database says now. `trainings` are runs by status, `alarms` those that are open, by kind.

    `accuracy` and `auc` are the live model's on ratings that it was not fitted on, None where there is no model, or
    one from before the registry; `promoted_at` is when it became live.
    """

    alarms: Mapping[AlarmKind, int]
    trainings: Mapping[str, int]
    live: str | None
    promoted_at: datetime | None
    accuracy: float | None
    auc: float | None


@dataclass(frozen=True, slots=True)
class Answers:
    """How many answers have an expert's rating, and how many wait for one."""

    rated: int
    waiting: int


def census(engine: Engine) -> Census:
    """Ask for what is counted at once, however much there is of it."""
    by_status = select(TrainingRun.status, func.count()).group_by(TrainingRun.status)
    with reading(engine) as connection:
        trainings = {status: count for status, count in connection.execute(by_status)}
    alarms = Counter(alarm.kind for alarm in open_alarms(engine))
    live = registry.live(engine)
    # As the dashboard has it: each question judged by a model that was not fitted on it.
    overall = (live.metrics.get("overall") or {}) if live else {}
    return Census(
        alarms={kind: alarms[kind] for kind in AlarmKind},
        trainings={status: trainings.get(status, 0) for status in ("running", "succeeded", "rejected", "failed")},
        live=live.version if live else None,
        promoted_at=live.live_from if live else None,
        accuracy=_measured(overall, "accuracy"),
        auc=_measured(overall, "auc"),
    )


def answers(engine: Engine) -> Answers:
    """Count the answers, by two indexes of which each is read from end to end: a moment for a million."""
    rated = select(func.count()).select_from(Interaction).where(Interaction.rating.is_not(None))
    waiting = select(func.count()).select_from(Interaction).where(Interaction.rating.is_(None))
    with reading(engine) as connection:
        return Answers(connection.execute(rated).scalar_one(), connection.execute(waiting).scalar_one())


def _measured(measures: Mapping[str, Any], name: str) -> float | None:
    value = (measures.get(name) or {}).get("value")
    return None if value is None else float(value)
