"""The numbers of a figure as a table for people, and as CSV for programs."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from datetime import date, datetime
from math import isfinite

from rlhf_loop.monitoring.figures.figure import Figure, Form, Value

#: What begins like that is a formula to a spreadsheet.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
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


def figure_table(figure: Figure) -> FigureTable:
    """Return the rows with their values as people write them; a heading stands as the values below it do."""
    percent = _percentages(figure)
    rows = tuple(
        tuple(_cell(value, percent=name in percent) for name, value in zip(figure.columns, row, strict=True))
        for row in figure.rows
    )
    known = [[row[place] for row in rows if row[place].text != _UNKNOWN] for place in range(len(figure.columns))]
    headings = tuple(
        Cell(_heading(name), bool(cells) and all(cell.number for cell in cells))
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


def _heading(name: str) -> str:
    words = name.replace("_", " ")
    return words[:1].upper() + words[1:]


def _cell(value: Value, *, percent: bool) -> Cell:
    if value is None or (isinstance(value, float) and not isfinite(value)):
        return Cell(_UNKNOWN, True)
    if isinstance(value, datetime):
        return Cell(f"{value.day} {value:%b %Y, %H:%M}", False)
    if isinstance(value, date):
        return Cell(f"{value.day} {value:%b %Y}", False)
    if isinstance(value, (int, float)):
        return Cell(_number(value, percent=percent), True)
    return Cell(value, False)


def _number(value: float, *, percent: bool) -> str:
    if percent:
        text = f"{100 * value:.1f}\N{NO-BREAK SPACE}%"
    elif isinstance(value, int) or value == int(value):
        text = f"{value:,.0f}"
    else:
        text = f"{value:,.1f}" if abs(value) >= 100 else f"{value:.3g}" if abs(value) < 0.01 else f"{value:.2f}"
    return text.replace("-", "\N{MINUS SIGN}")


def _written(value: Value) -> str | int | float:
    if value is None or (isinstance(value, float) and not isfinite(value)):
        return ""
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, str):
        return f"'{value}" if value.startswith(_FORMULA) else value
    return value
