"""Pictures of rows with names: bars or points with whiskers from left to right, each below its name.

Beside the bars, names would leave no room for them on a phone.
"""

from __future__ import annotations

import numpy as np

from rlhf_loop.monitoring.chart_axes import Numbers, number_in_words
from rlhf_loop.monitoring.chart_style import FONT, Brush
from rlhf_loop.monitoring.chart_words import width
from rlhf_loop.monitoring.figures.figure import Figure, Form

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
