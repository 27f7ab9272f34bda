"""Figures as values: numbers with a summary in words and the way to draw them; as a table, and as CSV."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from math import isfinite

from sqlalchemy.engine import Engine

from rlhf_loop.config import Settings
from rlhf_loop.domain import Interval
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.utils.text import without_formula
from rlhf_loop.utils.translation import IN_ENGLISH, Message, Translator

Value = str | int | float | date | datetime | None


class Form(StrEnum):
    """The way to draw a figure.

    Lines over `x`, bars by `x`, points with whiskers by `x`, points against the diagonal, or bars that fill up to the
    target.
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
        """The beginning of the time that is shown."""
        return self.now - timedelta(weeks=self.weeks)

    @property
    def time(self) -> str:
        """The time in words."""
        return Message("the last {n} weeks", n=self.weeks)


def three(of: Interval | None) -> tuple[float | None, float | None, float | None]:
    """Return the value and the ends of its interval for three columns."""
    return (of.value, of.low, of.high) if of else (None, None, None)


_UNKNOWN = "–"


@dataclass(frozen=True, slots=True)
class Cell:
    """A value in words; numbers are set to the right."""

    text: str
    number: bool


@dataclass(frozen=True, slots=True)
class FigureTable:
    """A table for people."""

    headings: tuple[Cell, ...]
    rows: tuple[tuple[Cell, ...], ...]


def figure_table(figure: Figure, *, speaks: Translator = IN_ENGLISH) -> FigureTable:
    """Return the rows with their values as people write them; a heading stands as the values below it do."""
    percent = _percentages(figure)
    rows = tuple(
        tuple(_cell(value, speaks, percent=name in percent) for name, value in zip(figure.columns, row, strict=True))
        for row in figure.rows
    )
    known = [[row[place] for row in rows if row[place].text != _UNKNOWN] for place in range(len(figure.columns))]
    headings = tuple(
        Cell(_heading(name, speaks), bool(cells) and all(cell.number for cell in cells))
        for name, cells in zip(figure.columns, known, strict=True)
    )
    return FigureTable(headings, rows)


def figure_csv(figure: Figure) -> str:
    """Return the rows as RFC 4180 has them, numbers in full, times as ISO 8601, nothing where there is no value.

    A text that a spreadsheet would take for a formula gets an apostrophe before it.
    """
    with io.StringIO(newline="") as file:
        writer = csv.writer(file, lineterminator="\r\n")
        writer.writerow([_written(name) for name in figure.columns])
        writer.writerows([_written(value) for value in row] for row in figure.rows)
        return file.getvalue()


def _percentages(figure: Figure) -> set[str]:
    if not figure.percent:
        return set()
    names = {name for each in figure.series for name in (each.y, each.low, each.high) if name}
    return names | ({figure.x} if figure.form is Form.DIAGONAL else set())


#: Headings of columns, here for the catalogues; the ends of an interval are said of any of them.
HEADINGS = (
    *(Message("Accuracy"), Message("Alpha"), Message("Answered"), Message("Answers"), Message("Auc"), Message("Bias")),
    *(Message("End user good"), Message("End user mean"), Message("End user ratings"), Message("Expected")),
    *(Message("Expert good"), Message("Expert mean"), Message("Expert ratings"), Message("First"), Message("Good")),
    *(Message("Good first"), Message("Made at"), Message("Mean rating"), Message("Mean score"), Message("Median ms")),
    *(Message("Milestone"), Message("Month"), Message("Number"), Message("Order"), Message("P95 ms"), Message("Stage")),
    *(Message("Question p"), Message("Question psi"), Message("Questions"), Message("Rated"), Message("Rated good")),
    *(Message("Rater"), Message("Ratings"), Message("Reviews"), Message("Score"), Message("Score p"), Message("Week")),
    *(Message("Score psi"), Message("Share below"), Message("Share first"), Message("Shared"), Message("Source")),
    *(Message("State"), Message("Threshold"), Message("Version"), Message("What")),
)


def _heading(name: str, speaks: Translator) -> str:
    words = name.replace("_", " ")
    of, _, end = words.rpartition(" ")
    if end in ("low", "high"):
        of = _heading(of, speaks)
        return speaks(Message("{what} low", what=of) if end == "low" else Message("{what} high", what=of))
    return speaks(words[:1].upper() + words[1:])


def _cell(value: Value, speaks: Translator, *, percent: bool) -> Cell:
    if value is None or (isinstance(value, float) and not isfinite(value)):
        return Cell(_UNKNOWN, True)
    if isinstance(value, datetime):
        return Cell(speaks.moment(value), False)
    if isinstance(value, date):
        return Cell(speaks.day(value, month="%b"), False)
    if isinstance(value, (int, float)):
        return Cell(_number(value, speaks, percent=percent), True)
    return Cell(value, False)


def _number(value: float, speaks: Translator, *, percent: bool) -> str:
    if percent:
        text = f"{speaks.number(100 * value, '.1f')}\N{NO-BREAK SPACE}%"
    elif isinstance(value, int) or value == int(value):
        text = speaks.number(value, ",.0f")
    else:
        text = speaks.number(value, ",.1f" if abs(value) >= 100 else ".3g" if abs(value) < 0.01 else ".2f")
    return text.replace("-", "\N{MINUS SIGN}")


def _written(value: Value) -> str | int | float:
    if value is None or (isinstance(value, float) and not isfinite(value)):
        return ""
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, str):
        return without_formula(value)
    return value
