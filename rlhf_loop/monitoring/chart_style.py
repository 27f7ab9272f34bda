"""What every picture of a figure is drawn with: the page's colours, and the signs that tell its series apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import Any

from rlhf_loop.monitoring.chart_axes import Kind, Numbers, Points, kind_of, number_in_words
from rlhf_loop.monitoring.chart_words import Words, width
from rlhf_loop.monitoring.figures.figure import Figure, Form, Series

#: Pixels of the letters, and of what stands beside a legend's words.
FONT = 13.0
_SIGN = 44
_STYLES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D")
_DIAGONAL = "As predicted"
#: What a picture shows beyond the ends of its values.
_EDGE = 0.025


@dataclass(frozen=True, slots=True)
class Look:
    """Colours as on the pages; those of the series differ in lightness, too, for who cannot tell their hues."""

    card: str
    ink: str
    soft: str
    grid: str
    rail: str
    series: tuple[str, ...]


LIGHT = Look("#ffffff", "#1d2421", "#56605b", "#e6e7e2", "#dfe0da", ("#1a6b58", "#d0570a", "#3b6fd4", "#8b3f8f"))
DARK = Look("#1c2220", "#e8ece9", "#a5afa9", "#323a36", "#3b4540", ("#7fd1b9", "#ff9d57", "#8ab4ff", "#e0a3e2"))


def by_name(figure: Figure) -> bool:
    """Tell whether each row gets a line of its own, with its name above it."""
    if figure.form is Form.PROGRESS:
        return True
    return figure.form in (Form.BARS, Form.INTERVALS) and kind_of(figure.column(figure.x)) is Kind.TEXT


def legend_size(figure: Figure, across: float) -> tuple[int, int]:
    """Return how many columns and rows a legend takes in a picture of that width; no rows where there is none."""
    found = _in_legend(figure)
    widest = max((min(width(each, FONT), across - _SIGN) for each in found), default=0)
    columns = max(1, min(len(found), int((across - 8) // (widest + _SIGN))))
    return columns, -(-len(found) // columns)


def target_label(figure: Figure) -> str:
    """Return what the line is called that the values are held against."""
    if figure.form is Form.DIAGONAL:
        return figure.target_label or _DIAGONAL
    return figure.target_label or f"Target {number_in_words(figure.target or 0.0, percent=figure.percent)}"


def _in_legend(figure: Figure) -> list[str]:
    lined = figure.target is not None or figure.form is Form.DIAGONAL
    if not figure.rows or figure.form is Form.PROGRESS or (len(figure.series) < 2 and not lined):
        return []
    return [each.label for each in figure.series] + ([target_label(figure)] if lined else [])


@dataclass(frozen=True, slots=True)
class Brush:
    """A picture while it is drawn."""

    figure: Figure
    #: Matplotlib's; its types differ from version to version.
    axes: Any
    look: Look
    words: Words
    narrow: bool

    def colour(self, place: int) -> str:
        """Return the colour of a series."""
        return self.look.series[place % len(self.look.series)]

    def marker(self, place: int) -> str:
        """Return the shape of a series' points."""
        return _MARKERS[place % len(_MARKERS)]

    def style(self, place: int) -> str:
        """Return how a series' line is dashed."""
        return _STYLES[place % len(_STYLES)]

    def filling(self, place: int) -> dict[str, Any]:
        """Return how the bars of a series are filled: full, pale with an edge, striped."""
        colour = self.colour(place)
        if place % 3 == 0:
            return {"facecolor": colour, "edgecolor": colour, "linewidth": 1.2}
        hatch = None if place % 3 == 1 else "////"
        return {"facecolor": (colour, 0.28), "edgecolor": colour, "linewidth": 1.2, "hatch": hatch}

    def target(self) -> dict[str, Any]:
        """Return how the line is drawn that the values are held against, with its label."""
        label = self.words(target_label(self.figure))
        return {"color": self.look.soft, "linestyle": (0, (2, 2)), "linewidth": 1.6, "zorder": 1.5, "label": label}

    def label(self, place: int) -> str:
        """Return what the legend calls a series. What begins with an underscore is in no legend."""
        return self.words(self.figure.series[place].label) if _in_legend(self.figure) else "_"

    def points(self, series: Series) -> Points:
        """Return the values of a series."""
        low, high = (self.figure.column(name) if name else None for name in (series.low, series.high))
        return Points.of(self.figure.column(series.y), low, high)

    def whiskers(self, at: Numbers, of: Points, colour: str, *, across: bool = False) -> None:
        """Draw the intervals of points."""
        x, y = (of.y, at) if across else (at, of.y)
        errors = {"xerr" if across else "yerr": of.errors}
        lines = {"elinewidth": 1.8, "capsize": 3.5, "capthick": 1.8}
        self.axes.errorbar(x, y, fmt="none", ecolor=colour, zorder=3, **lines, **errors)

    def limit(self, put: Callable[..., Any], shown: tuple[float, float], lowest: float) -> None:
        """Show what there is and the target; bars begin at 0, and an axis of shares ends at 0 and 100 %."""
        figure = self.figure
        if figure.y_range is not None:
            low, high = figure.y_range
            # A sign on the edge would be cut in half.
            edge = 0.0 if figure.form is Form.BARS else _EDGE * (high - low)
            put(low - edge, high + edge)
            return
        low, high = shown
        if figure.target is not None:
            margin = 0.08 * max(high - low, 1e-9)
            low, high = min(low, figure.target - margin), max(high, figure.target + margin)
        if figure.percent:
            high = min(high, 1.01)
        if lowest >= 0:
            low = max(low, -_EDGE * (high - max(low, 0.0)))
        if figure.form is Form.BARS and lowest >= 0:
            low = 0.0
        put(low, high if isfinite(high) and high > low else low + 1)

    def values_on(self, axis: Any) -> None:
        """Write values beside an axis."""
        from matplotlib.ticker import FuncFormatter

        percent = self.figure.percent
        axis.set_major_formatter(FuncFormatter(lambda value, _: number_in_words(value, percent=percent)))

    def y_label(self) -> None:
        """Say above the axis what is shown, not along it: a phone has no room for words on their side."""
        if self.figure.y_label:
            label = self.words(self.figure.y_label)
            self.axes.set_title(label, loc="left", x=0, fontsize=FONT, color=self.look.soft, pad=12)

    def x_label(self, label: str, *, share: float = 0.85) -> None:
        """Say below the axis what it is."""
        if label:
            self.axes.set_xlabel(self.words(label, share=share), color=self.look.soft, labelpad=5)
