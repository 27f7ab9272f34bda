"""What every picture of a figure is drawn with: the page's colours, and the signs that tell its series apart.

The values of a figure as places in a picture: numbers, dates, names in their order; what is unknown is a gap.

Words in a picture: cut to the room that they have, and of any script, though one font alone measures them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import StrEnum
from functools import cache
from math import ceil, isfinite
from typing import Any
from unicodedata import bidirectional, combining, east_asian_width
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

from rlhf_loop.monitoring.figures.figure import Figure, Form, Series, Value

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


#: Letters that stand for words which the font cannot measure. The font has them all, and no name is made of them.
_FIRST, _LAST = 0x2801, 0x28FE
_FILLER, _FILLER_WIDTH = "\u28ff", 0.73


class Words:
    """Makes labels of texts by anybody, and puts into the finished SVG what the font could not have measured."""

    def __init__(self, *, widest: float, font_size: float) -> None:
        self.widest, self._font_size = widest, font_size
        self._meant: dict[str, str] = {}

    def __call__(self, text: str, *, share: float = 1.0, keep_end: bool = False) -> str:
        """Return what to draw for a text in that share of the picture's width."""
        shown = shortened(text, share * self.widest, self._font_size, keep_end=keep_end)
        # To matplotlib, a leading underscore means "not in the legend".
        if all(_drawable(character) for character in shown) and not shown.startswith("_"):
            return shown
        known = next((key for key, meant in self._meant.items() if meant == shown), None)
        if known is not None or len(self._meant) > _LAST - _FIRST:
            return known or "?"
        filler = max(0, ceil(width(shown, 1.0) / _FILLER_WIDTH) - 1)
        stand_in = chr(_FIRST + len(self._meant)) + _FILLER * filler
        self._meant[stand_in] = shown
        return stand_in

    def put_back(self, svg: str) -> str:
        """Return the SVG with the words that are meant."""
        for stand_in, meant in self._meant.items():
            svg = svg.replace(f">{stand_in}<", f">{escape(meant)}<")
        return svg


def shortened(text: str, widest: float, font_size: float, *, keep_end: bool = False) -> str:
    """Return the text in one line of at most that width, with an ellipsis where it was cut: at its end or before it."""
    text = "".join(character for character in " ".join(text.split()) if character.isprintable()) or "?"
    if width(text, font_size) <= widest:
        return text
    room = widest - width("…", font_size)
    if keep_end:
        return "…" + _beginning(text[::-1], room, font_size)[::-1].lstrip()
    return _beginning(text, room, font_size).rstrip() + "…"


def _beginning(text: str, room: float, font_size: float) -> str:
    kept = 0
    for character in text:
        room -= width(character, font_size)
        if room < 0:
            break
        kept += 1
    return text[:kept]


def width(text: str, font_size: float) -> float:
    """Return about how wide a text is, rather more than less."""
    return font_size * sum(map(_width, text))


def _width(character: str) -> float:
    if combining(character):
        return 0.0
    if east_asian_width(character) in "WF":
        return 1.05
    if character in "mwMW@%…—":
        return 1.0
    return 0.41 if character in " .,:;|!'fijlrtI()[]-" else 0.72 if character.isupper() else 0.64


def _drawable(character: str) -> bool:
    """Tell whether the font has it, and whether it is read from left to right as the font is."""
    return ord(character) in _known() and bidirectional(character) not in ("R", "AL") and not _is_stand_in(character)


def _is_stand_in(character: str) -> bool:
    return 0x2800 <= ord(character) <= 0x28FF


@cache
def _known() -> frozenset[int]:
    from matplotlib.font_manager import findfont, get_font

    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())


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
