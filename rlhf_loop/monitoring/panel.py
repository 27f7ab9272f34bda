"""A figure as the dashboard and the report show it: its words, its table, and where its pictures and data are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite

from rlhf_loop.monitoring.charts import size
from rlhf_loop.monitoring.figures.figure import Figure
from rlhf_loop.monitoring.figures.figure_table import FigureTable, figure_table


@dataclass(frozen=True, slots=True)
class Picture:
    """One way to draw a figure; `address` is where it is, in pixels it is so large."""

    address: str
    dark: bool
    narrow: bool
    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A figure with its pictures, the last of which is for everybody else; none where there is nothing to draw.

    `file` is what the download is called.
    """

    name: str
    title: str
    summary: str
    pictures: tuple[Picture, ...]
    table: FigureTable
    data: str
    file: str


def panel(figure: Figure, *, picture: Callable[[bool, bool], str], data: Callable[[], str]) -> Panel:
    """Return what to show; `picture` gives the address of the one that is dark, and narrow, `data` that of the CSV."""
    ways = ((True, True), (False, True), (True, False), (False, False)) if _drawable(figure) else ()
    pictures = (Picture(picture(dark, narrow), dark, narrow, *size(figure, narrow=narrow)) for dark, narrow in ways)
    return Panel(
        name=figure.name,
        title=figure.title,
        summary=figure.summary,
        pictures=tuple(pictures),
        table=figure_table(figure),
        data=data() if figure.rows else "",
        file=f"{figure.name}.csv",
    )


def _drawable(figure: Figure) -> bool:
    """Tell whether there is anything to draw: rows may hold counts alone."""
    values = (value for each in figure.series for value in figure.column(each.y))
    return any(isinstance(value, (int, float)) and isfinite(value) for value in values)
