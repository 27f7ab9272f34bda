"""The values of a figure as places in a picture: numbers, dates, names in their order; what is unknown is a gap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import StrEnum
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf_loop.monitoring.figures.figure import Value

Numbers = NDArray[np.float64]


class Kind(StrEnum):
    """What the places along an axis are."""

    NUMBER = "number"
    TIME = "time"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Points:
    """The values of a series with the ends of their intervals, NaN where there is none."""

    y: Numbers
    low: Numbers
    high: Numbers

    @classmethod
    def of(cls, y: Sequence[Value], low: Sequence[Value] | None, high: Sequence[Value] | None) -> Points:
        """Read the columns; an interval that is missing or the wrong way round is none."""
        values = numbers(y)
        nothing = np.full(len(values), np.nan)
        below = nothing if low is None else numbers(low)
        above = nothing if high is None else numbers(high)
        wrong = ~(below <= above) | ~np.isfinite(values)
        return cls(values, np.where(wrong, np.nan, below), np.where(wrong, np.nan, above))

    @property
    def has_interval(self) -> bool:
        """Tell whether any point has one."""
        return bool(np.isfinite(self.low).any())

    @property
    def errors(self) -> Numbers:
        """How far the interval reaches to both sides, in two rows; never below 0, wherever the value lies in it."""
        both: Numbers = np.maximum(np.array([self.y - self.low, self.high - self.y]), 0)
        return both

    def first(self, count: int) -> Points:
        """Return the first of them."""
        return Points(self.y[:count], self.low[:count], self.high[:count])


def numbers(values: Sequence[Value]) -> Numbers:
    """Return numbers, NaN for what is none or not finite."""
    known = (value if isinstance(value, (int, float)) and isfinite(value) else np.nan for value in values)
    return np.array(list(known), dtype=np.float64)


def kind_of(values: Sequence[Value]) -> Kind:
    """Return what the values are; names, where they are mixed or unknown."""
    known = [value for value in values if value is not None]
    if known and all(isinstance(value, date) for value in known):
        return Kind.TIME
    return Kind.NUMBER if known and all(isinstance(value, (int, float)) for value in known) else Kind.TEXT


def points(values: Sequence[Value]) -> tuple[Kind, Numbers]:
    """Return where along the axis the rows stand."""
    kind = kind_of(values)
    if kind is Kind.TIME:
        return kind, np.array([_days(value) if isinstance(value, date) else np.nan for value in values])
    if kind is Kind.NUMBER:
        return kind, numbers(values)
    return kind, np.arange(len(values), dtype=np.float64)


def date_ticks(axes: Any, at: Numbers, most: int) -> None:
    """Give an axis a few short dates: those of the rows where there are few of them, else round ones."""
    from matplotlib import dates
    from matplotlib.ticker import Formatter

    class Short(Formatter):
        def __call__(self, value: float, place: int | None = None) -> str:
            return self.format_ticks([value])[0]

        def format_ticks(self, values: Sequence[float]) -> list[str]:
            return in_words([_moment(value) for value in values])

    locator: Any = dates.AutoDateLocator

    different = np.unique(np.floor(at[np.isfinite(at)]))
    apart = len(different) < 2 or np.diff(different).min() >= (different[-1] - different[0]) / (most + 1)
    if len(different) <= most and apart:
        axes.xaxis.set_ticks(different)
    else:
        axes.xaxis.set_major_locator(locator(minticks=2, maxticks=most))
    if len(different) == 1:
        axes.set_xlim(different[0] - 3, different[0] + 4)
    elif len(different):
        # All rows, also those of which nothing is drawn: a single point would get years around it.
        begin, end = axes.get_xlim()
        edge = 0.05 * (different[-1] - different[0])
        first, last = different[0] - edge, different[-1] + edge
        drawn = axes.dataLim.intervalx
        axes.set_xlim(first if drawn[0] > first else begin, last if drawn[1] < last else end)
    axes.xaxis.set_major_formatter(Short())


def in_words(moments: Sequence[datetime]) -> list[str]:
    """Return dates as in 3 Nov, with the year below where it is a new one; or months alone, or years alone."""
    if len(moments) > 1 and all((moment.month, moment.day) == (1, 1) for moment in moments):
        return [str(moment.year) for moment in moments]
    only_months = len(moments) > 1 and all(moment.day == 1 for moment in moments)
    before, words = None, []
    for moment in moments:
        said = f"{moment:%b}" if only_months else f"{moment.day} {moment:%b}"
        words.append(said if moment.year == before else f"{said}\n{moment.year}")
        before = moment.year
    return words


def number_in_words(value: float, *, percent: bool) -> str:
    """Return a value as a label has it: 72 %, 72.5 %, 1,200, 0.25, −3."""
    # So many digits that neighbours on an axis differ, and no rounding error shows.
    text = f"{round(100 * value, 2):g}\N{NO-BREAK SPACE}%" if percent else f"{value:,.6g}"
    return text.replace("-", "\N{MINUS SIGN}")


def _moment(days: float) -> datetime:
    return datetime.fromtimestamp(days * 86_400, tz=UTC)


def _days(value: date) -> float:
    """Return days since 1970, as matplotlib counts them."""
    if isinstance(value, datetime):
        moment = value if value.tzinfo else value.replace(tzinfo=UTC)
        return moment.timestamp() / 86_400
    return float((value - date(1970, 1, 1)).days)
