"""Pictures of values over an axis: lines with bands, bars, points with whiskers, and points against the diagonal."""

from __future__ import annotations

from math import ceil

import numpy as np

from rlhf_loop.monitoring.chart_axes import Kind, Numbers, Points, date_ticks, number_in_words, numbers, points
from rlhf_loop.monitoring.chart_style import Brush
from rlhf_loop.monitoring.figures.figure import Form

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
