"""Gauges for a monitoring system, read every few seconds: so each is answered from an index.

Whatever needs a closer look is a figure of the dashboard.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.engine import Engine

from rlhf_loop import registry
from rlhf_loop.domain import AlarmKind
from rlhf_loop.store.alarms import open_alarms
from rlhf_loop.store.backup import last_backup
from rlhf_loop.store.engine import reading
from rlhf_loop.store.tables import Interaction, TrainingRun


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauges:
    """Values that the database has now. `trainings` are runs by status, `alarms` those that are open, by kind.

    `accuracy` and `auc` are the live model's on ratings that it was not fitted on, None where there is no model, or
    one from before the registry; `promoted_at` is when it became live. `backup_at` is when the last backup was made.
    """

    alarms: Mapping[AlarmKind, int]
    trainings: Mapping[str, int]
    live: str | None
    promoted_at: datetime | None
    accuracy: float | None
    auc: float | None
    backup_at: datetime | None


@dataclass(frozen=True, slots=True)
class AnswerCounts:
    """Numbers of answers: how many have an expert's rating, and how many wait for one."""

    rated: int
    waiting: int


def read_gauges(engine: Engine) -> Gauges:
    """Read the values that take a moment, however large the database is."""
    by_status = select(TrainingRun.status, func.count()).group_by(TrainingRun.status)
    with reading(engine) as connection:
        trainings = {status: count for status, count in connection.execute(by_status)}
    alarms = Counter(alarm.kind for alarm in open_alarms(engine))
    live, backup = registry.live(engine), last_backup(engine)
    accuracy, auc = (live.measured(name) if live else None for name in ("accuracy", "auc"))
    return Gauges(
        alarms={kind: alarms[kind] for kind in AlarmKind},
        trainings={status: trainings.get(status, 0) for status in ("running", "succeeded", "rejected", "failed")},
        live=live.version if live else None,
        promoted_at=live.live_from if live else None,
        accuracy=accuracy.value if accuracy else None,
        auc=auc.value if auc else None,
        backup_at=backup.made_at if backup else None,
    )


def count_answers(engine: Engine) -> AnswerCounts:
    """Count the answers, by two indexes of which each is read from end to end: a moment for a million."""
    rated = select(func.count()).select_from(Interaction).where(Interaction.rating.is_not(None))
    waiting = select(func.count()).select_from(Interaction).where(Interaction.rating.is_(None))
    with reading(engine) as connection:
        return AnswerCounts(connection.execute(rated).scalar_one(), connection.execute(waiting).scalar_one())
