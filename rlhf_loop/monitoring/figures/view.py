"""What a figure is made from, and words that several figures have in common."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta

from sqlalchemy.engine import Engine

from rlhf_loop.config import Settings
from rlhf_loop.domain import Interval
from rlhf_loop.encoders import TextEncoder


@dataclass(frozen=True, slots=True)
class View:
    """The database and the time that a figure looks at; without `encoder` it leaves out what needs one."""

    engine: Engine
    settings: Settings
    encoder: TextEncoder | None
    now: datetime
    weeks: int

    @property
    def since(self) -> datetime:
        """Where the time begins."""
        return self.now - timedelta(weeks=self.weeks)

    @property
    def time(self) -> str:
        """The time in words."""
        return f"the last {self.weeks} weeks"


def day(value: date) -> str:
    """Return "18 May 2026"."""
    return f"{value.day} {value:%B %Y}"


def three(of: Interval | None) -> tuple[float | None, float | None, float | None]:
    """Return the value and the ends of its interval for three columns."""
    return (of.value, of.low, of.high) if of else (None, None, None)
