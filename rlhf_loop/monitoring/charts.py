"""Draws a figure as SVG: light or dark, for a desktop or a phone, the same bytes for the same numbers.

Matplotlib's objects only, without its global figures; what it reads globally is set under a lock. The words are texts
in the SVG, not outlines: so the browser draws names in any script, and the files are small.

Pictures of values over an axis: lines with bands, bars, points with whiskers, and points against the diagonal.

Pictures of rows with names: bars or points with whiskers from left to right, each below its name.

Beside the bars, names would leave no room for them on a phone.
"""

from __future__ import annotations

import io
import threading
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np

from rlhf_loop.monitoring.chart_style import (
    DARK,
    FONT,
    LIGHT,
    Brush,
    Kind,
    Numbers,
    Points,
    Words,
    by_name,
    date_ticks,
    legend_size,
    number_in_words,
    numbers,
    points,
    width,
)
from rlhf_loop.monitoring.figures.figure import Figure, Form

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas


#: With more points than that, a line shows none of them.
_SINGLE_POINTS = 40


def over_x(brush: Brush) -> None:
    """Draw lines, bars or whiskers over dates, numbers, or names in their order."""
    figure, axes = brush.figure, brush.axes
    kind, at = points(figure.column(figure.x))
    for place, series in enumerate(figure.series):
        draw = _bars if figure.form is Form.BARS else _whiskers if figure.form is Form.INTERVALS else _line
        draw(brush, at, brush.points(series), place)
    axes.grid(axis="y", color=brush.look.grid, linewidth=1)
    axes.locator_params(axis="y", nbins=5)
    brush.limit(axes.set_ylim, axes.get_ylim(), float(axes.dataLim.intervaly[0]))
    brush.values_on(axes.yaxis)
    if figure.target is not None:
        axes.axhline(figure.target, **brush.target())
    _ticks(brush, kind, at)
    brush.y_label()
    brush.x_label(figure.x_label)


def diagonal(brush: Brush) -> None:
    """Draw points against the line on which both values are the same."""
    figure, axes = brush.figure, brush.axes
    at = numbers(figure.column(figure.x))
    order = np.argsort(at)
    for place, series in enumerate(figure.series):
        of, colour = brush.points(series), brush.colour(place)
        if of.has_interval:
            brush.whiskers(at, of, colour)
        signs = {"marker": brush.marker(place), "linestyle": brush.style(place), "linewidth": 1.2, "markersize": 7}
        axes.plot(at[order], of.y[order], color=colour, label=brush.label(place), zorder=3, **signs)
    low, high = figure.y_range or _both(at, [brush.points(series).y for series in figure.series])
    axes.plot([low, high], [low, high], **brush.target())
    edge = 0.03 * (high - low)
    axes.set(xlim=(low - edge, high + edge), ylim=(low - edge, high + edge))
    axes.grid(color=brush.look.grid, linewidth=1)
    for name, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
        axes.locator_params(axis=name, nbins=5)
        brush.values_on(axis)
    brush.y_label()
    brush.x_label(figure.x_label)


def _line(brush: Brush, at: Numbers, of: Points, place: int) -> None:
    colour = brush.colour(place)
    known = int(np.isfinite(of.y).sum())
    if known <= 1:
        _whiskers(brush, at, of, place)
        return
    signs = {"linestyle": brush.style(place), "marker": brush.marker(place) if known <= _SINGLE_POINTS else None}
    brush.axes.plot(at, of.y, color=colour, label=brush.label(place), zorder=3, **signs)
    if of.has_interval:
        brush.axes.fill_between(at, of.low, of.high, color=colour, alpha=0.16, linewidth=0, zorder=2)


def _whiskers(brush: Brush, at: Numbers, of: Points, place: int) -> None:
    # Each series a little aside, so that whiskers do not hide each other.
    at = at + (place - (len(brush.figure.series) - 1) / 2) * 0.18 * _step(at)
    colour = brush.colour(place)
    signs = {"linestyle": "none", "marker": brush.marker(place), "markersize": 6}
    brush.axes.plot(at, of.y, color=colour, label=brush.label(place), zorder=3, **signs)
    brush.axes.margins(x=0.08)
    if of.has_interval:
        brush.whiskers(at, of, colour)


def _bars(brush: Brush, at: Numbers, of: Points, place: int) -> None:
    count = len(brush.figure.series)
    wide = 0.78 * _step(at) / count
    middle = at + (place - (count - 1) / 2) * wide
    brush.axes.bar(middle, of.y, width=wide * 0.9, label=brush.label(place), zorder=2, **brush.filling(place))
    if of.has_interval:
        brush.whiskers(middle, of, brush.look.ink)


def _ticks(brush: Brush, kind: Kind, at: Numbers) -> None:
    axes, most = brush.axes, 4 if brush.narrow else 6
    if kind is Kind.TIME:
        date_ticks(axes, at, most)
    elif kind is Kind.NUMBER and brush.figure.doubling and np.isfinite(at).any() and np.nanmin(at) > 0:
        _doubling_ticks(brush, at, most)
    elif kind is Kind.NUMBER:
        from matplotlib.ticker import FuncFormatter

        different = np.unique(at[np.isfinite(at)])
        if len(different) <= most - 2:
            axes.set_xticks(different)
        else:
            axes.locator_params(axis="x", nbins=most, integer=bool((different % 1 == 0).all()))
        if len(different) == 1:
            axes.set_xlim(different[0] - 1, different[0] + 1)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number_in_words(value, percent=False)))
    else:
        names = [str(name) for name in brush.figure.column(brush.figure.x)]
        # Backwards from the newest, which is to have its name.
        every = ceil(len(names) / (most - 1))
        shown = range(len(names) - 1, -1, -every)
        share = 0.8 / max(1, len(shown))
        axes.set_xticks(list(shown), [brush.words(names[place], share=share, keep_end=True) for place in shown])
        axes.set_xlim(-0.5, len(names) - 0.5)


def _doubling_ticks(brush: Brush, at: Numbers, most: int) -> None:
    """Give the axis steps of the same factor, with round numbers where they fit."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes, (low, high) = brush.axes, (float(np.nanmin(at)), float(np.nanmax(at)))
    axes.set_xscale("log")
    round_ones = [base * 10.0**power for power in range(7) for base in (1, 2, 5)]
    inside = [each for each in round_ones if low <= each <= high] or [low]
    axes.xaxis.set_major_locator(FixedLocator(inside[:: ceil(len(inside) / most)]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number_in_words(value, percent=False)))


def _step(at: Numbers) -> float:
    """Return the smallest distance between two places, 1 where there is one place only."""
    steps = np.diff(np.unique(at[np.isfinite(at)]))
    return float(steps.min()) if len(steps) else 1.0


def _both(at: Numbers, of: list[Numbers]) -> tuple[float, float]:
    known = np.concatenate([at, *of])
    known = known[np.isfinite(known)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


#: Rows that a picture has room for; the table below it has them all.
MOST_ROWS = 12
_ROW, _SERIES, _AXIS = 42, 18, 44
#: The same, where a row is 1.
_BETWEEN, _THICK, _BELOW_NAME = _SERIES / _ROW, 0.32, 0.24


def height(figure: Figure) -> int:
    """Return how many pixels the picture of such a figure is high, without its legend."""
    rows = max(1, min(len(figure.rows), MOST_ROWS))
    if figure.form is Form.PROGRESS:
        return rows * _ROW + 12
    axis = 0 if _says_values(figure) else _AXIS
    return axis + rows * (_ROW + _SERIES * (len(figure.series) - 1)) + 12 + (24 if axis == 0 and _below(figure) else 0)


def rows(brush: Brush) -> None:
    """Draw bars or whiskers, one row below the other."""
    figure, axes = brush.figure, brush.axes
    step = 1 + _BETWEEN * (len(figure.series) - 1)
    names = _names(figure)
    top: Numbers = np.arange(len(names), dtype=np.float64) * step
    for place, series in enumerate(figure.series):
        of = brush.points(series).first(MOST_ROWS)
        at, bars = top + _BELOW_NAME + place * _BETWEEN, figure.form is Form.BARS
        if bars:
            axes.barh(at, of.y, height=_THICK, label=brush.label(place), zorder=2, **brush.filling(place))
        else:
            signs = {"color": brush.colour(place), "markersize": 7, "label": brush.label(place), "zorder": 3}
            axes.plot(of.y, at, brush.marker(place), **signs)
        if of.has_interval:
            brush.whiskers(at, of, brush.look.ink if bars else brush.colour(place), across=True)
    axes.locator_params(axis="x", nbins=4 if brush.narrow else 6)
    brush.limit(axes.set_xlim, axes.get_xlim(), float(axes.dataLim.intervalx[0]))
    if _says_values(figure):
        _say_values(brush, top)
    else:
        axes.grid(axis="x", color=brush.look.grid, linewidth=1)
        brush.values_on(axes.xaxis)
    for name, y in zip(names, top, strict=True):
        _write_name(brush, name, y - 0.08)
    if figure.target is not None:
        axes.axvline(figure.target, **brush.target())
    axes.set_ylim(top[-1] + step - 0.38, -0.5)
    axes.set_yticks([])
    brush.x_label(_below(figure), share=1.0)


def progress(brush: Brush) -> None:
    """Draw bars that fill up to the target, with their numbers."""
    figure, axes = brush.figure, brush.axes
    names = _names(figure)
    values = brush.points(figure.series[0]).first(MOST_ROWS).y
    goal = figure.target or max(float(np.nanmax(np.append(values, 0.0))), 1e-9)
    for row, (name, value) in enumerate(zip(names, values, strict=True)):
        share = float(np.clip(np.nan_to_num(value) / goal, 0, 1))
        axes.barh(row + _BELOW_NAME, 1, height=_THICK, color=brush.look.rail, zorder=1)
        axes.barh(row + _BELOW_NAME, share, height=_THICK, color=brush.colour(0), zorder=2)
        reached = number_in_words(value, percent=figure.percent) if np.isfinite(value) else "?"
        said = f"{reached} of {number_in_words(goal, percent=figure.percent)}"
        taken = width(said, FONT) / brush.words.widest
        _write_name(brush, name, row - 0.08, share=0.96 - taken)
        axes.text(1, row - 0.08, said, ha="right", va="bottom", color=brush.look.soft)
    axes.set(xlim=(0, 1), ylim=(len(names) - 0.5, -0.6))
    axes.set_axis_off()


def _names(figure: Figure) -> list[str]:
    return ["unknown" if name is None else str(name) for name in figure.column(figure.x)[:MOST_ROWS]]


def _below(figure: Figure) -> str:
    label = figure.y_label or figure.x_label
    if len(figure.rows) <= MOST_ROWS:
        return label
    return f"{label} (the first {MOST_ROWS} of {len(figure.rows)})".strip()


def _says_values(figure: Figure) -> bool:
    """Tell whether the numbers stand beside the bars; else there is an axis, as a target needs one, or an interval."""
    return figure.form is Form.BARS and figure.target is None and not any(each.low for each in figure.series)


def _say_values(brush: Brush, top: Numbers) -> None:
    axes, figure = brush.axes, brush.figure
    low, high = axes.get_xlim()
    axes.set_xlim(low - (0.2 * (high - low) if low < 0 else 0), high + 0.2 * (high - low))
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    if low < 0:
        axes.axvline(0, color=brush.look.soft, linewidth=1, zorder=2.5)
    for place, series in enumerate(figure.series):
        values = brush.points(series).first(MOST_ROWS).y
        for y, value in zip(top + _BELOW_NAME + place * _BETWEEN, values, strict=True):
            said = number_in_words(_rounded(value, figure.percent), percent=figure.percent) if value == value else "–"
            side = "right" if value < 0 else "left"
            apart = (-5 if value < 0 else 5, 0)
            axes.annotate(
                said, (np.nan_to_num(value), y), apart, textcoords="offset points",
                ha=side, va="center_baseline", color=brush.look.soft,
            )  # fmt: skip


def _rounded(value: float, percent: bool) -> float:
    """Return the value with as many digits as a label needs."""
    if percent:
        return round(value, 3 if abs(value) < 0.1 else 2)
    return round(value, 2) if abs(value) < 100 else round(value)


def _write_name(brush: Brush, name: str, y: float, *, share: float = 1.0) -> None:
    from matplotlib.transforms import blended_transform_factory

    left = blended_transform_factory(brush.axes.transAxes, brush.axes.transData)
    words = brush.words(name, share=share)
    brush.axes.text(0, y, words, ha="left", va="bottom", color=brush.look.ink, transform=left)


_WIDE, _NARROW = (500, 280), (280, 230)
_LEGEND_ROW = 20
#: What matplotlib reads globally, whatever the user's own settings are.
_GLOBALS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rlhf-loop",
    "text.usetex": False,
    "text.parse_math": False,
    "text.hinting": "none",
    "font.family": ["DejaVu Sans"],
    "font.size": FONT,
    "axes.titlelocation": "left",
    "axes.xmargin": 0.04,
    "axes.ymargin": 0.08,
    "axes.autolimit_mode": "data",
    "axes.labelsize": FONT,
    "legend.fontsize": FONT,
    "xtick.labelsize": FONT,
    "ytick.labelsize": FONT,
    "hatch.linewidth": 1.0,
    "lines.linewidth": 2.0,
    "lines.markersize": 5.5,
    "path.simplify": True,
    "path.effects": [],
    "path.sketch": None,
    "savefig.facecolor": "auto",
    "savefig.bbox": None,
    "savefig.pad_inches": 0.0,
}
_FAMILY = "font-family: 'DejaVu Sans'"
#: The pages' own letters; DejaVu Sans, which measured the words, is wider than these.
_LETTERS = "font-family: system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'DejaVu Sans', sans-serif"
_ONE_AT_A_TIME = threading.Lock()


def draw(figure: Figure, *, dark: bool = False, narrow: bool = False) -> str:
    """Return the picture as SVG; `narrow` is for a phone."""
    # Imported here: matplotlib takes a second.
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    look = DARK if dark else LIGHT
    across, down = size(figure, narrow=narrow)
    words = Words(widest=across - 24, font_size=FONT)
    with _ONE_AT_A_TIME, matplotlib.rc_context(_GLOBALS):
        canvas = Canvas(figsize=(across / 72, down / 72), dpi=72, layout="constrained", facecolor=look.card)
        brush = Brush(figure, canvas.subplots(), look, words, narrow)
        _dress(brush)
        if not figure.rows:
            _nothing(brush)
        elif figure.form is Form.PROGRESS:
            progress(brush)
        elif by_name(figure):
            rows(brush)
        elif figure.form is Form.DIAGONAL:
            diagonal(brush)
        else:
            over_x(brush)
        _legend(canvas, brush, across)
        with io.StringIO() as file:
            # Nothing that changes from day to day.
            about: dict[str, Any] = {"Date": None, "Creator": None, "Title": words(figure.title)}
            canvas.savefig(file, format="svg", metadata=about)
            drawn = file.getvalue()
    return words.put_back(drawn.replace(_FAMILY, _LETTERS))


def size(figure: Figure, *, narrow: bool = False) -> tuple[int, int]:
    """Return the picture's width and height in pixels."""
    across, down = _NARROW if narrow else _WIDE
    if figure.rows and by_name(figure):
        down = height(figure)
    _, rows = legend_size(figure, across)
    return across, down + _LEGEND_ROW * rows


def _dress(brush: Brush) -> None:
    brush.axes.set_facecolor(brush.look.card)
    brush.axes.tick_params(colors=brush.look.soft, length=0, pad=6)
    for name, spine in brush.axes.spines.items():
        spine.set_visible(name == "bottom")
        spine.set_color(brush.look.soft)
    brush.axes.set_axisbelow(True)


def _nothing(brush: Brush) -> None:
    brush.axes.set_axis_off()
    place = {"ha": "center", "va": "center", "transform": brush.axes.transAxes}
    brush.axes.text(0.5, 0.5, "Nothing to show yet", color=brush.look.soft, **place)


def _legend(canvas: Canvas, brush: Brush, across: int) -> None:
    columns, rows = legend_size(brush.figure, across)
    if not rows:
        return
    signs, labels = brush.axes.get_legend_handles_labels()
    room = {"borderpad": 0, "borderaxespad": 0.1, "handlelength": 1.9, "handletextpad": 0.6}
    between = {"columnspacing": 1.4, "labelspacing": 0.35}
    look = {"frameon": False, "labelcolor": brush.look.ink}
    canvas.legend(signs, labels, loc="outside upper left", ncols=columns, **look, **room, **between)
