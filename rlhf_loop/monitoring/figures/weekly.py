"""Values by week, summed up by the database: how many, their mean, and the share of those that meet a condition.

Weeks begin on a Monday, in UTC. A week without any value is left out: a gap is not a zero.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Float, Select, case, cast, func
from sqlalchemy.engine import Engine

from rlhf_loop.monitoring.served_days import utc_day
from rlhf_loop.store.engine import reading


@dataclass(frozen=True, slots=True)
class Week:
    """The values of the week that begins on the day `start`; `share` is that of those that meet the condition."""

    start: date
    count: int
    mean: float
    share: float


def weeks(engine: Engine, rows: Select[Any], *, at: Any, value: Any, condition: ColumnElement[bool]) -> list[Week]:
    """Return the weeks of the values of these rows, the oldest first; `at` is the column of their time."""
    day = utc_day(engine.dialect, at)
    met = func.sum(case((condition, 1.0), else_=0.0))
    by_day = rows.with_only_columns(day, func.count(), func.sum(cast(value, Float)), met, maintain_column_froms=True)
    sums: dict[date, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    with reading(engine) as connection:
        for found, *values in connection.execute(by_day.group_by(day)):
            on = found if isinstance(found, date) else date.fromisoformat(found)
            week = sums[on - timedelta(days=on.weekday())]
            week[:] = (total + float(each) for total, each in zip(week, values, strict=True))
    return [Week(start, int(n), total / n, met / n) for start, (n, total, met) in sorted(sums.items())]
