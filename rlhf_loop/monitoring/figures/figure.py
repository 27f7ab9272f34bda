"""What one part of the dashboard shows: numbers with a sentence in words, and how they are to be drawn."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum

Value = str | int | float | date | datetime | None


class Form(StrEnum):
    """How a figure is drawn: lines over `x`, bars by `x`, points with whiskers by `x`, points against the diagonal, or
    bars that fill up to the target.
    """

    LINES = "lines"
    BARS = "bars"
    INTERVALS = "intervals"
    DIAGONAL = "diagonal"
    PROGRESS = "progress"


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line, or one colour of bars: the column `y`, with the columns of its interval's ends where there is one."""

    label: str
    y: str
    low: str | None = None
    high: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A table with a title, a `summary` of one or two sentences, and what its picture is made of.

    `name` is its address: lower case with hyphens. `summary` says what the numbers mean now; where there are no `rows`
    yet it says why, and what brings them. `columns` name the values of a row in snake case; these are the headings of
    the download. `x` and those of the `series` are among them. Values are shares from 0 to 1 where `percent` is set.
    Where `doubling` is set, `x` grows by the same factor from step to step of the picture.
    """

    name: str
    title: str
    summary: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]
    form: Form
    x: str
    series: tuple[Series, ...]
    percent: bool = False
    doubling: bool = False
    target: float | None = None
    target_label: str = ""
    y_range: tuple[float, float] | None = None
    x_label: str = ""
    y_label: str = ""

    def column(self, name: str) -> list[Value]:
        """Return the values of one column, from the first row to the last."""
        place = self.columns.index(name)
        return [row[place] for row in self.rows]
