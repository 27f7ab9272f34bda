"""Draw figures as SVG: one drawing for light and dark, for a phone and a wide screen.

Across, places are percentages, so that a chart fills what holds it while its words keep their size. Colours and lines
are in `web/static/chart.css`; the SVG has classes only. The same figure gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from importlib.resources import files
from itertools import pairwise
from math import ceil, floor, isfinite, log, log10
from typing import Literal
from unicodedata import combining, east_asian_width
from xml.sax.saxutils import escape, quoteattr

from rlhf_loop.monitoring.figures.figure import Figure, Form, Series, Value
from rlhf_loop.utils.translation import IN_ENGLISH, Message, Translator

#: The language of what is being drawn.
_speaks: ContextVar[Translator] = ContextVar("rlhf_chart_language", default=IN_ENGLISH)

#: Of that many names a chart shows the first; the table below it has them all.
MOST_ROWS = 12
#: With more points than that, a line shows none of them.
_SINGLE_POINTS = 40
_MOST_TICKS = 5
#: What a chart shows beyond the ends of its values, as a share of them, and at least.
_MARGIN, _EDGE = 0.08, 0.025
#: Pixels: words, a legend's row, the plot over an axis, a row with its name and what each further series adds to it.
_FONT, _LEGEND, _PLOT, _ROW, _SERIES = 13.0, 20, 205, 42, 18
#: Pixels that words have on a phone and on a wide screen, and those left of an axis, as in chart.css.
_NARROW, _WIDE, _LEFT = 284, 470, 48

Numbers = list[float | None]
Ends = tuple[float, float]
Scale = Callable[[float], float]


def draw(figure: Figure, *, speaks: Translator = IN_ENGLISH) -> str:
    """Return the figure as an SVG element for a page with chart.css; numbers and dates are those of the language."""
    with _language(speaks):
        return _element(figure, *_drawn(figure), class_="chart" if by_name(figure) else "chart over")


@contextmanager
def _language(speaks: Translator) -> Iterator[None]:
    token = _speaks.set(speaks)
    try:
        yield
    finally:
        _speaks.reset(token)


def picture(figure: Figure, *, speaks: Translator = IN_ENGLISH) -> str:
    """Return the figure as an SVG file that is complete."""
    with _language(speaks):
        drawn, height = _drawn(figure)
    style = escape((files("rlhf_loop.web") / "static" / "chart.css").read_text(encoding="utf-8"))
    left = 16 if by_name(figure) else 16 + _LEFT
    chart = _tag("svg", drawn, class_="chart", x=left, y=16, width=500 - 30 - left, height=height)
    return _element(figure, _tag("style", style) + chart, height + 32, class_="file")


def by_name(figure: Figure) -> bool:
    """Tell whether each row gets a line of its own, with its name above it."""
    named = figure.form in (Form.BARS, Form.INTERVALS) and _kind(figure.column(figure.x)) == "text"
    return named or figure.form is Form.PROGRESS


def steps(low: float, high: float, *, most: int = _MOST_TICKS, whole: bool = False) -> list[float]:
    """Return a few round numbers between two others, at the same distance from each other."""
    power = 10.0 ** floor(log10((high - low) / most))
    for size in (1, 2, 2.5, 5, 10, 20):
        step = max(1.0, ceil(size * power)) if whole else size * power
        places = range(ceil(low / step - 1e-9), floor(high / step + 1e-9) + 1)
        if len(places) <= most:
            break
    return [place * step for place in places]


def date_steps(days: Sequence[float]) -> list[float]:
    """Return a few dates in days since 1970: those of the rows where there are few of them, else round ones."""
    different = sorted({float(floor(each)) for each in days})
    apart = min((later - earlier for earlier, later in pairwise(different)), default=1.0)
    if len(different) <= _MOST_TICKS and apart >= (different[-1] - different[0]) / (_MOST_TICKS + 1):
        return different
    every = [_moment(each) for each in range(int(different[0]), int(different[-1]) + 1)]
    for step in (1, 2, 7, 14):
        # The fourth day of 1970 was the first Sunday.
        if len(found := [each for each in every if (_days(each) - 4) % step == 0]) <= _MOST_TICKS:
            return [_days(each) for each in found]
    months = [each for each in every if each.day == 1]
    step = 1
    while len(found := [each for each in months if (12 * each.year + each.month - 1) % step == 0]) > _MOST_TICKS:
        step = next(size for size in (2, 3, 6, *range(12, 12_000, 12)) if size > step)
    return [_days(each) for each in found]


def in_words(moments: Sequence[datetime]) -> list[str]:
    """Return dates as in 3 Nov, with the year below where it is a new one; or months alone, or years alone."""
    if len(moments) > 1 and all((moment.month, moment.day) == (1, 1) for moment in moments):
        return [str(moment.year) for moment in moments]
    only_months = len(moments) > 1 and all(moment.day == 1 for moment in moments)
    before, words = None, []
    for moment in moments:
        said = _speaks.get().ticks(moment, month_alone=only_months)
        words.append(said if moment.year == before else f"{said}\n{moment.year}")
        before = moment.year
    return words


def number_in_words(value: float, *, percent: bool) -> str:
    """Return a value as a label has it: 72 %, 72.5 %, 1,200, 0.25, −3."""
    # So many digits that neighbours on an axis differ, and no rounding error shows.
    number = _speaks.get().number
    text = f"{number(round(100 * value, 2), 'g')}\N{NO-BREAK SPACE}%" if percent else number(value, ",.6g")
    return text.replace("-", "\N{MINUS SIGN}")


def shortened(text: str, widest: float, *, keep_end: bool = False) -> str:
    """Return the text in one line of at most that width, with an ellipsis where it was cut: at its end or before it."""
    text = _printable(text)
    if width(text) <= widest:
        return text
    room, kept = widest - width("…"), 0
    for character in reversed(text) if keep_end else text:
        room -= width(character)
        if room < 0:
            break
        kept += 1
    return "…" + text[len(text) - kept :].lstrip() if keep_end else text[:kept].rstrip() + "…"


def width(text: str) -> float:
    """Return about how many pixels wide a text is, rather more than less."""
    return _FONT * sum(map(_width, text))


@dataclass(frozen=True, slots=True)
class _Points:
    """The values of a series with the ends of their intervals; an interval whose ends are reversed is left out."""

    y: Numbers
    ends: list[Ends | None]

    @classmethod
    def of(cls, figure: Figure, series: Series) -> _Points:
        y = _numbers(figure.column(series.y))
        low, high = (_numbers(figure.column(name)) if name else [None] * len(y) for name in (series.low, series.high))
        ends = [
            None if value is None or below is None or above is None or below > above else (below, above)
            for value, below, above in zip(y, low, high, strict=True)
        ]
        return cls(y, ends)

    @property
    def known(self) -> list[float]:
        return [each for each in self.y if each is not None] + [each for ends in self.ends if ends for each in ends]


def _element(figure: Figure, inside: str, height: int, *, class_: str) -> str:
    return _tag(
        "svg",
        inside,
        xmlns="http://www.w3.org/2000/svg",
        class_=class_,
        width=500,
        height=height,
        role="img",
        aria_label=_printable(f"{figure.title}. {figure.summary}"),
    )


def _drawn(figure: Figure) -> tuple[str, int]:
    """Return what the chart consists of, and how high it is."""
    if not figure.rows:
        return _text(_speaks.get()(Message("Nothing to show yet")), "50%", 60, anchor="middle"), 120
    if figure.form is Form.PROGRESS:
        return _progress(figure)
    return _rows(figure) if by_name(figure) else _over_x(figure)


def _over_x(figure: Figure) -> tuple[str, int]:
    """Draw lines, bars or whiskers over dates, numbers, or names in their order, or points against the diagonal."""
    legend, top = _legend(figure, left=-_LEFT)
    top += 26 if figure.y_label else 8
    bottom = top + _PLOT
    diagonal, percent = figure.form is Form.DIAGONAL, figure.percent
    points = [_Points.of(figure, series) for series in figure.series]
    at, ticks = _places(figure)
    if diagonal:
        low, high = figure.y_range or _ends([each for of in points for each in of.known] + _known(at))
        low, high = first, last = low - 0.03 * (high - low), high + 0.03 * (high - low)
        ticks = [(value, number_in_words(value, percent=percent)) for value in steps(low, high)]
        goal: Ends | None = (low, high)
    else:
        low, high = _limits(figure, points)
        first, last = _across(figure, at)
        goal = None if figure.target is None else (figure.target, figure.target)
    x, y = _scale((first, last), (0, 100)), _scale((low, high), (bottom, top))
    drawn = [legend]
    for value in steps(low, high, most=_MOST_TICKS + 1):
        drawn.append(_line(0, y(value), 100, y(value), "grid"))
        drawn.append(_text(number_in_words(value, percent=percent), -8, y(value) + 4.5, anchor="end"))
    if diagonal:
        drawn += [_line(x(value), top, x(value), bottom, "grid") for value, _ in ticks]
    if goal:
        drawn.append(_line(0, y(goal[0]), 100, y(goal[1]), "target"))
    drawn.append(_line(0, bottom, 100, bottom, "axis"))
    drawn += [_over_x_series(figure, place, of, at, x, y) for place, of in enumerate(points)]
    rows = 1
    for value, said in ticks:
        rows = max(rows, said.count("\n") + 1)
        drawn += [
            _text(line, _share(x(value)), bottom + 5 + 15 * row, anchor="middle")
            for row, line in enumerate(said.split("\n"), 1)
        ]
    height = bottom + 10 + 15 * rows
    if figure.y_label:
        drawn.append(_words(figure.y_label, -_LEFT, top - 11))
    if figure.x_label:
        height += 20
        drawn.append(_words(figure.x_label, "50%", height - 5, anchor="middle", room=0.8))
    return "".join(drawn), height


def _over_x_series(figure: Figure, place: int, of: _Points, at: Numbers, x: Scale, y: Scale) -> str:
    count, step = len(figure.series), _step(at)
    rows = [(where, value, ends) for where, value, ends in zip(at, of.y, of.ends, strict=True) if where is not None]
    rows.sort(key=lambda row: row[0])
    known = [(where, value, ends) for where, value, ends in rows if value is not None]
    drawn = []
    if figure.form is Form.BARS:
        wide = 0.78 * step / count
        for where, value, ends in known:
            middle = where + (place - (count - 1) / 2) * wide
            drawn.append(_bar(x(middle - 0.45 * wide), y(max(value, 0)), x(middle + 0.45 * wide), y(min(value, 0))))
            drawn.append(_upright(x(middle), y, ends, ""))
    elif figure.form is Form.INTERVALS or (figure.form is Form.LINES and len(known) <= 1):
        # Each series a little aside, so that whiskers do not hide each other.
        aside = (place - (count - 1) / 2) * 0.18 * step
        drawn += [_upright(x(where + aside), y, ends, _mark(place), value) for where, value, ends in known]
    else:
        gapless = known if figure.form is Form.DIAGONAL else rows
        drawn.append(_curve([(x(where), value, ends) for where, value, ends in gapless], y, figure.form))
        sign = _mark(place) if len(known) <= _SINGLE_POINTS else ""
        whiskers = figure.form is Form.DIAGONAL
        drawn += [_upright(x(where), y, ends if whiskers else None, sign, value) for where, value, ends in known]
    return _tag("g", *drawn, class_=f"series-{place % 4}")


def _curve(points: Sequence[tuple[float, float | None, Ends | None]], y: Scale, form: Form) -> str:
    """Draw a line with its band; both end before what is unknown."""
    line, band, before = "", "", "gap"
    for x, value, _ in points:
        line += "" if value is None else f"{'M' if before == 'gap' else 'L'}{x:.2f} {y(value):.2f}"
        before = "gap" if value is None else "point"
    run: list[tuple[float, Ends]] = []
    for x, _, ends in [*points, (0.0, None, None)]:
        if ends:
            run.append((x, ends))
        elif run:
            there = "L".join(f"{x:.2f} {y(low):.2f}" for x, (low, _) in run)
            back = "L".join(f"{x:.2f} {y(high):.2f}" for x, (_, high) in reversed(run))
            band, run = f"{band}M{there}L{back}Z", []
    low = y(float("-inf"))
    return _tag(
        "svg",
        _tag("path", class_="band", d=band) if band and form is Form.LINES else "",
        _tag("path", class_="line" if form is Form.LINES else "line thin", d=line),
        viewBox=f"0 0 100 {low:g}",
        width="100%",
        height=f"{low:g}",
        preserveAspectRatio="none",
    )


def _places(figure: Figure) -> tuple[Numbers, list[tuple[float, str]]]:
    """Return where along the axis the rows stand, and what is written below it."""
    values = figure.column(figure.x)
    kind = _kind(values)
    if kind == "time":
        at: Numbers = [_days(value) if isinstance(value, date) else None for value in values]
        days = date_steps(_known(at))
        return at, list(zip(days, in_words([_moment(each) for each in days]), strict=True))
    if kind == "number":
        at = _numbers(values)
        different = sorted(set(_known(at)))
        if figure.doubling and different and different[0] > 0:
            round_ones = [base * 10.0**power for power in range(7) for base in (1, 2, 5)]
            inside = [each for each in round_ones if different[0] <= each <= different[-1]] or different[:1]
            shown = inside[:: ceil(len(inside) / _MOST_TICKS)]
            at = [None if each is None else log(each) for each in at]
            return at, [(log(each), number_in_words(each, percent=False)) for each in shown]
        if len(different) >= _MOST_TICKS - 1:
            different = steps(different[0], different[-1], whole=all(each % 1 == 0 for each in different))
        return at, [(each, number_in_words(each, percent=False)) for each in different]
    names = [_name(value) for value in values]
    # Backwards from the newest, which is to have its name.
    shown_names = range(len(names) - 1, -1, -ceil(len(names) / 3))
    room = 0.85 * (_NARROW - _LEFT) / len(shown_names)
    return [float(place) for place in range(len(names))], [
        (float(place), shortened(names[place], room, keep_end=True)) for place in shown_names
    ]


def _rows(figure: Figure) -> tuple[str, int]:
    """Draw bars or whiskers, one row below the other, each below its name: beside them a phone has no room for it."""
    legend, top = _legend(figure)
    top += 6 if legend else 0
    points = [_Points.of(figure, series) for series in figure.series]
    names = [_name(value) for value in figure.column(figure.x)[:MOST_ROWS]]
    low, high = _limits(figure, points)
    # The numbers stand beside the bars; but a target needs an axis, and so does an interval.
    with_values = figure.form is Form.BARS and figure.target is None and not any(each.low for each in figure.series)
    if with_values:
        room = 0.2 * (high - low)
        low, high = low - (room if low < 0 else 0), high + room
    x = _scale((low, high), (0, 100))
    row_height = _ROW + _SERIES * (len(figure.series) - 1)
    bottom = top + row_height * len(names) + 6
    drawn = [legend]
    if not with_values:
        for tick in steps(low, high):
            anchor = "start" if x(tick) < 4 else "end" if x(tick) > 96 else "middle"
            said = number_in_words(tick, percent=figure.percent)
            drawn.append(_line(x(tick), top, x(tick), bottom, "grid"))
            drawn.append(_text(said, _share(x(tick)), bottom + 20, anchor=anchor))
        drawn.append(_line(0, bottom, 100, bottom, "axis"))
        if figure.target is not None:
            drawn.append(_line(x(figure.target), top, x(figure.target), bottom, "target"))
    elif low < 0:
        drawn.append(_line(x(0), top, x(0), bottom, "axis"))
    for place, of in enumerate(points):
        signs = []
        for row, (value, ends) in enumerate(zip(of.y[:MOST_ROWS], of.ends, strict=False)):
            middle = top + row * row_height + 29 + place * _SERIES
            if figure.form is Form.BARS:
                from_, to = sorted((x(0), x(value or 0)))
                signs.append(_bar(from_, middle - 6.5, to, middle + 6.5))
            if ends:
                signs.append(_lying(x(ends[0]), x(ends[1]), middle))
            if figure.form is Form.INTERVALS and value is not None:
                signs.append(_at(_share(x(value)), middle, _mark(place)))
            if with_values:
                said = (
                    "–" if value is None else number_in_words(_rounded(value, figure.percent), percent=figure.percent)
                )
                apart, side = (-5, "end") if value is not None and value < 0 else (5, "start")
                signs.append(_text(said, _share(x(value or 0)), middle + 4.5, anchor=side, dx=apart))
        drawn.append(_tag("g", *signs, class_=f"series-{place % 4}"))
    drawn += [_words(name, 0, top + row * row_height + 17, kind="ink") for row, name in enumerate(names)]
    height = bottom if with_values else bottom + 26
    below = figure.y_label or figure.x_label
    if len(figure.rows) > MOST_ROWS:
        first = _speaks.get()(Message("(the first {most} of {n})", most=MOST_ROWS, n=len(figure.rows)))
        below = f"{below} {first}".strip()
    if below:
        height += 20
        drawn.append(_words(below, "50%", height - 5, anchor="middle"))
    return "".join(drawn), height


def _progress(figure: Figure) -> tuple[str, int]:
    """Draw bars that fill up to the target, with their numbers."""
    values = _Points.of(figure, figure.series[0]).y[:MOST_ROWS]
    goal = figure.target or max([*_known(values), 1e-9])
    drawn = []
    for row, (name, value) in enumerate(zip(map(_name, figure.column(figure.x)), values, strict=False)):
        top = row * _ROW
        reached = "?" if value is None else number_in_words(value, percent=figure.percent)
        goal_in_words = number_in_words(goal, percent=figure.percent)
        said = _speaks.get()(Message("{reached} of {goal}", reached=reached, goal=goal_in_words))
        full = 100 * min(1.0, max(0.0, (value or 0.0) / goal))
        drawn += [
            _words(name, 0, top + 17, kind="ink", room=0.96 - width(said) / _NARROW),
            _text(said, "100%", top + 17, anchor="end"),
            _tag("rect", class_="track", x=0, y=top + 23, width="100%", height=13),
            _tag("g", _bar(0, top + 23, full, top + 36), class_="series-0"),
        ]
    return "".join(drawn), _ROW * len(values)


def _legend(figure: Figure, left: int = 0) -> tuple[str, int]:
    """Return the names of the series and of the target, one after the other, and how high they are; 0 without them."""
    lined = figure.target is not None or figure.form is Form.DIAGONAL
    if len(figure.series) < 2 and not lined:
        return "", 0
    sign_of = {Form.BARS: _tag("rect", class_="column", x=8, y=-5, width=18, height=10)}
    entries = []
    for place, series in enumerate(figure.series):
        line = "" if figure.form is Form.INTERVALS else _tag("path", class_="line", d="M0 0H26")
        sign = sign_of.get(figure.form) or line + _at(13, 0, _mark(place))
        entries.append((series.label, _tag("g", sign, class_=f"series-{place % 4}")))
    if lined:
        target = number_in_words(figure.target or 0.0, percent=figure.percent)
        default = Message("As predicted") if figure.form is Form.DIAGONAL else Message("Target {value}", value=target)
        entries.append((figure.target_label or _speaks.get()(default), _tag("path", class_="target", d="M0 0H26")))
    drawn, x, row = [], 0.0, 0
    for label, sign in entries:
        words = shortened(label, _NARROW - 34)
        if x and x + 34 + width(words) > _NARROW:
            x, row = 0.0, row + 1
        middle = 9 + _LEGEND * row
        drawn.append(_at(left + round(x), middle, sign) + _text(words, left + round(x) + 34, middle + 4.5, kind="ink"))
        x += 34 + width(words) + 8
    return "".join(drawn), _LEGEND * (row + 1)


def _limits(figure: Figure, points: Sequence[_Points]) -> Ends:
    """Return the values to show: those there are and the target; bars begin at 0, shares end at 0 and 100 %."""
    bars = figure.form is Form.BARS
    if figure.y_range is not None:
        low, high = figure.y_range
        # A sign on the edge would be cut in half.
        edge = 0.0 if bars else _EDGE * (high - low)
        return low - edge, high + edge
    known = [each for of in points for each in of.known]
    lowest, highest = min(known, default=0.0), max(known, default=1.0)
    if bars:
        lowest, highest = min(lowest, 0.0), max(highest, 0.0)
    margin = _MARGIN * (highest - lowest) or 0.05 * abs(highest) or 0.05
    low, high = lowest - margin, highest + margin
    if figure.target is not None:
        margin = _MARGIN * (high - low)
        low, high = min(low, figure.target - margin), max(high, figure.target + margin)
    if figure.percent:
        high = min(high, 1.01)
    if lowest >= 0:
        low = 0.0 if bars else max(low, -_EDGE * (high - max(low, 0.0)))
    return low, high if high > low else low + 1


def _across(figure: Figure, at: Numbers) -> Ends:
    """Return the ends of the axis below the rows."""
    known = _known(at) or [0.0]
    first, last = min(known), max(known)
    kind = _kind(figure.column(figure.x))
    if kind == "text":
        return first - 0.5, last + 0.5
    if first == last:
        aside = 3.0 if kind == "time" else 1.0
        return first - aside, last + aside
    margin = _MARGIN if figure.form is Form.INTERVALS else 0.04
    edge = margin * (last - first) + (0.4 * _step(at) if figure.form is Form.BARS else 0.0)
    return first - edge, last + edge


def _scale(of: Ends, to: Ends) -> Scale:
    """Return where a value is; what lies beyond the ends is at them."""
    (low, high), (begin, end) = of, to
    return lambda value: begin + (end - begin) * min(1.0, max(0.0, (value - low) / (high - low)))


def _step(at: Numbers) -> float:
    """Return the smallest distance between two places, 1 where there is one place only."""
    return min((later - earlier for earlier, later in pairwise(sorted(set(_known(at))))), default=1.0)


def _ends(values: Sequence[float]) -> Ends:
    low, high = min(values, default=0.0), max(values, default=1.0)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _known(values: Numbers) -> list[float]:
    return [each for each in values if each is not None]


def _numbers(values: Sequence[Value]) -> Numbers:
    return [float(value) if isinstance(value, (int, float)) and isfinite(value) else None for value in values]


def _kind(values: Sequence[Value]) -> Literal["time", "number", "text"]:
    """Return what the values are; texts, where they are mixed or unknown."""
    known = [value for value in values if value is not None]
    if known and all(isinstance(value, date) for value in known):
        return "time"
    return "number" if known and all(isinstance(value, (int, float)) for value in known) else "text"


def _days(value: date) -> float:
    """Return days since 1970, in UTC."""
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp() / 86_400
    return float((value - date(1970, 1, 1)).days)


def _moment(days: float) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=days)


def _rounded(value: float, percent: bool) -> float:
    """Return the value with as many digits as a label needs."""
    if percent:
        return round(value, 3 if abs(value) < 0.1 else 2)
    return round(value, 2) if abs(value) < 100 else round(value)


def _name(value: Value) -> str:
    return _speaks.get()(Message("unknown")) if value is None else str(value)


def _printable(text: str) -> str:
    return "".join(character for character in " ".join(text.split()) if character.isprintable()) or "?"


def _width(character: str) -> float:
    """Return how wide a character is where a letter is 1 high, in the widest of the usual fonts."""
    if combining(character):
        return 0.0
    if east_asian_width(character) in "WF":
        return 1.05
    if character in "mwMW@%…—":
        return 1.0
    return 0.41 if character in " .,:;|!'fijlrtI()[]-" else 0.72 if character.isupper() else 0.64


def _tag(name: str, *inside: str, **attributes: str | float | None) -> str:
    said = "".join(
        f" {key.rstrip('_').replace('_', '-')}={quoteattr(str(value))}"
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{said}>{''.join(inside)}</{name}>"


def _share(percent: float) -> str:
    return f"{percent:.2f}%"


def _text(
    words: str, x: float | str, y: float, *, anchor: str | None = None, kind: str | None = None, dx: int | None = None
) -> str:
    return _tag("text", escape(words), x=x, y=f"{y:g}", text_anchor=anchor, class_=kind, dx=dx)


def _words(text: str, x: float | str, y: float, *, anchor: str | None = None, kind: str = "", room: float = 1.0) -> str:
    """Write somebody's words into a share of the chart: cut more on a phone than on a wide screen."""
    narrow, wide = shortened(text, room * _NARROW), shortened(text, room * _WIDE)
    if narrow == wide:
        return _text(wide, x, y, anchor=anchor, kind=kind or None)
    return "".join(
        _text(words, x, y, anchor=anchor, kind=f"{kind} {when}".strip())
        for words, when in ((narrow, "narrow"), (wide, "wide"))
    )


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return _tag("line", class_=kind, x1=_share(x1), y1=f"{y1:.2f}", x2=_share(x2), y2=f"{y2:.2f}")


def _bar(left: float, top: float, right: float, bottom: float) -> str:
    size = {"width": _share(right - left), "height": f"{bottom - top:.2f}"}
    return _tag("rect", class_="column", x=_share(left), y=f"{top:.2f}", **size)


def _at(x: float | str, y: float, *inside: str) -> str:
    """Move what is drawn around 0, 0 to a place."""
    return _tag("svg", *inside, x=x, y=f"{y:.2f}", class_="at")


def _mark(place: int) -> str:
    """Return the shape of a series' points."""
    shapes = (
        "M3.5 0A3.5 3.5 0 1 1-3.5 0A3.5 3.5 0 1 1 3.5 0Z",
        "M-3-3H3V3H-3Z",
        "M0-4 4 3H-4Z",
        "M0-4.5 4 0 0 4.5-4 0Z",
    )
    return _tag("path", class_="point", d=shapes[place % len(shapes)])


def _upright(x: float, y: Scale, ends: Ends | None, sign: str, value: float | None = None) -> str:
    """Draw a point over the axis with its interval."""
    drawn = ""
    if ends:
        low, high = y(ends[0]), y(ends[1])
        drawn = _tag("path", class_="whisker", d=f"M-4 {high:.2f}H4M0 {high:.2f}V{low:.2f}M-4 {low:.2f}H4")
    if sign and value is not None:
        drawn += _at(0, y(value), sign)
    return _at(_share(x), 0, drawn) if drawn else ""


def _lying(low: float, high: float, y: float) -> str:
    """Draw an interval from left to right."""
    return (
        _line(low, y, high, y, "whisker")
        + _line(low, y - 4, low, y + 4, "whisker")
        + _line(high, y - 4, high, y + 4, "whisker")
    )
