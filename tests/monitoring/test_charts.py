"""Pictures of figures: of every form, light and dark, wide and narrow, whatever the names and numbers are."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise, product
from xml.etree import ElementTree

import matplotlib
import pytest
from figure_fakes import (
    ALL,
    ARABIC,
    CALIBRATION,
    CHINESE,
    CURVE,
    HOSTILE,
    LONG,
    MILESTONE,
    RATERS,
    SATISFACTION,
    SOURCES,
)

from rlhf_loop.monitoring import Figure, Form, Series
from rlhf_loop.monitoring.chart_style import DARK, LIGHT, in_words, number_in_words, shortened, width
from rlhf_loop.monitoring.charts import draw, size

WAYS = list(product((False, True), repeat=2))


def words(svg: str) -> list[str]:
    """All texts of a picture; it is XML that can be read."""
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize(("dark", "narrow"), WAYS)
@pytest.mark.parametrize("figure", ALL, ids=lambda figure: figure.name)
def test_every_form_in_every_way(figure: Figure, dark: bool, narrow: bool) -> None:
    """The same bytes twice, as large as announced, nothing that runs or loads, and letters that can be read."""
    svg = draw(figure, dark=dark, narrow=narrow)
    assert svg == draw(figure, dark=dark, narrow=narrow)
    root = ElementTree.fromstring(svg)
    across, down = size(figure, narrow=narrow)
    assert root.get("viewBox") == f"0 0 {across} {down}"
    assert across == (280 if narrow else 500)
    kinds = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert not kinds & {"script", "image", "a", "foreignObject"}
    # A phone of 360 pixels shows 286 of 280, a card of the desktop 465 and more of 500.
    sizes = [float(found) for found in re.findall(r"font-size: ([\d.]+)px", svg)]
    assert min(sizes) * ((286 / 280) if narrow else (465 / 500)) >= 12
    assert (DARK if dark else LIGHT).card in svg
    assert (LIGHT if dark else DARK).card not in svg


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("figure", ALL, ids=lambda figure: figure.name)
def test_words_stay_inside(figure: Figure, narrow: bool) -> None:
    """No word reaches over an edge of the picture, however long the names are."""
    across, down = size(figure, narrow=narrow)
    for element in ElementTree.fromstring(draw(figure, narrow=narrow)).iter("{http://www.w3.org/2000/svg}text"):
        begin = re.search(r"text-anchor: (\w+)", element.get("style", ""))
        share = {"start": 0.0, "middle": 0.5, "end": 1.0}[begin[1]] if begin else 0.0
        # A label of two lines is placed line by line.
        place = re.search(r"translate\(([\d.-]+) ([\d.-]+)\)", element.get("transform", ""))
        x, y = map(float, place.groups() if place else (element.get("x", "nan"), element.get("y", "nan")))
        # The estimate says rather more than less.
        wide = 0.85 * width(element.text or "", 13)
        left = x - share * wide
        assert -2 <= left <= left + wide <= across + 2, element.text
        assert 8 <= y <= down


def test_names_of_any_kind_are_text() -> None:
    """Markup stays words, mathematics is none, other scripts are there as they are, and long names end with dots."""
    found = words(draw(SOURCES))
    assert "wikipedia" in found
    assert "_hidden" in found
    assert ARABIC in found
    assert CHINESE in found
    assert "=1+1" in found
    assert HOSTILE in found
    (cut,) = [text for text in found if text.startswith("WWW")]
    assert cut.endswith("…")
    assert LONG not in draw(SOURCES)
    assert "<script" not in draw(SOURCES)
    assert all(HOSTILE not in text for text in words(draw(SOURCES, narrow=True)))


def test_a_series_with_any_name_is_in_the_legend() -> None:
    """Also one that begins with an underscore, or that the font does not know."""
    named = replace(SATISFACTION, series=(Series(label="_odd", y="good"), Series(label=CHINESE, y="mean")))
    assert {"_odd", CHINESE, "Target 80 %"} <= set(words(draw(named)))


def test_the_users_own_style_changes_nothing() -> None:
    """Neither does drawing change what others draw with matplotlib."""
    usual = draw(CURVE)
    before = matplotlib.rcParams["font.size"], matplotlib.rcParams["svg.hashsalt"]
    with matplotlib.rc_context({"font.size": 30, "text.usetex": True, "lines.linewidth": 9, "svg.fonttype": "path"}):
        assert draw(CURVE) == usual
        assert matplotlib.rcParams["font.size"] == 30
    assert (matplotlib.rcParams["font.size"], matplotlib.rcParams["svg.hashsalt"]) == before


def test_several_threads_at_once() -> None:
    """Each gets what it asked for."""
    wanted = [(figure, dark) for figure in (RATERS, CURVE, SOURCES, MILESTONE) for dark in (False, True)]
    alone = [draw(figure, dark=dark) for figure, dark in wanted]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda each: draw(each[0], dark=each[1]), wanted)) == alone


def test_what_is_unknown_is_a_gap() -> None:
    """A line ends before a missing week, and a row without a value says so."""
    line = re.findall(r'<path d="(M [^"]+)"[^>]*stroke: #1a6b58; stroke-width: 2', draw(SATISFACTION))
    assert any(path.count("M ") == 2 for path in line)
    assert "–" in words(draw(SOURCES))


@pytest.mark.parametrize("form", list(Form))
@pytest.mark.parametrize(
    "values",
    [
        [None],
        [float("nan"), float("inf")],
        [0.0, 0.0],
        [-3.0, 4.0],
        [1e12, 1e-12],
        [0.8],
    ],
)
@pytest.mark.parametrize(
    "places", [["a", "b"], [date(2026, 1, 1), None], [datetime(2026, 1, 1, tzinfo=UTC)] * 2, [1, 1], [None, None]]
)
def test_odd_numbers(form: Form, values: list[float | None], places: list[str | float | date | None]) -> None:
    """Nothing, infinity, one point, equal ones, very large and very small ones: a picture comes without a warning."""
    rows = tuple((place, value, value, None) for place, value in zip(places, values, strict=False))
    series = (Series(label="a", y="y", low="low", high="high"), Series(label="b", y="low"))
    figure = Figure(
        name="odd", title="Odd", summary="", columns=("x", "y", "low", "high"), rows=rows, form=form, x="x",
        series=series, percent=True, target=0.5,
    )  # fmt: skip
    for narrow in (False, True):
        words(draw(figure, narrow=narrow))
        words(draw(replace(figure, percent=False, target=None, series=series[:1]), narrow=narrow))


def test_an_axis_that_doubles() -> None:
    """Each doubling takes as much room as the one before; what cannot be doubled is drawn as usual."""
    rows = tuple((size, 0.7, 0.6, 0.8) for size in (50, 100, 200, 400, 800))
    doubling = replace(CURVE, rows=rows, doubling=True)
    marks = re.findall(r'<use xlink:href="#m\w+" x="([\d.]+)" y="[\d.]+" style="fill: #1a6b58', draw(doubling))
    # The last one is the legend's.
    assert len(marks) == 6
    steps = [later - earlier for earlier, later in pairwise(map(float, marks[:5]))]
    assert max(steps) - min(steps) < 0.1
    assert {"50", "100", "200", "500"} <= set(words(draw(doubling)))
    for odd in ((0, 1), (float("nan"), float("inf")), (7, 7)):
        words(draw(replace(doubling, rows=tuple((size, 0.7, 0.6, 0.8) for size in odd))))


def test_many_rows() -> None:
    """Of many names the first ones are drawn, and the picture says so; of many versions some have their name."""
    many = replace(SOURCES, rows=tuple((f"source {number}", 0.5) for number in range(30)))
    found = words(draw(many, narrow=True))
    assert "(the first 12 of 30)" in found
    assert "source 12" not in found
    years = replace(
        SATISFACTION, rows=tuple((date(2015, 1, 5) + timedelta(weeks=n), 0.5, 0.4, 0.6, 0.1) for n in range(600))
    )
    assert "2020" in words(draw(years))


def test_target_and_numbers_are_said() -> None:
    """The target's line has its words, progress its numbers, and shares stand as percentages."""
    assert "Target 80 %" in words(draw(CURVE, narrow=True))
    assert {"153 of 200", "48 of 200"} <= set(words(draw(MILESTONE, narrow=True)))
    assert "As predicted" in words(draw(CALIBRATION))
    assert "As the others" in words(draw(RATERS))
    assert "41\N{NO-BREAK SPACE}%" in words(draw(SOURCES))


@pytest.mark.parametrize(
    ("moments", "said"),
    [
        (["2026-11-03"], ["3 Nov\n2026"]),
        (["2025-12-22", "2025-12-29", "2026-01-05"], ["22 Dec\n2025", "29 Dec", "5 Jan\n2026"]),
        (["2025-11-01", "2026-01-01"], ["Nov\n2025", "Jan\n2026"]),
        (["2025-01-01", "2026-01-01"], ["2025", "2026"]),
    ],
)
def test_dates_are_short(moments: list[str], said: list[str]) -> None:
    """The year stands where it is a new one."""
    assert in_words([datetime.fromisoformat(moment) for moment in moments]) == said


@pytest.mark.parametrize(
    ("value", "percent", "said"),
    [
        (0.8, True, "80 %"),
        (0.725, True, "72.5 %"),
        (-0.05, True, "−5 %"),
        (1200, False, "1,200"),
        (0.25, False, "0.25"),
    ],
)
def test_numbers_are_short(value: float, percent: bool, said: str) -> None:
    """As many digits as it takes, and no rounding error."""
    assert number_in_words(value, percent=percent).replace("\N{NO-BREAK SPACE}", " ") == said


def test_shortening() -> None:
    """A text that fits stays; another keeps its beginning or its end; what cannot be printed is left out."""
    assert shortened(" a\n b ", 100, 13) == "a b"
    assert shortened("passages-1a2b3c", 60, 13) == "passa…"
    assert shortened("passages-1a2b3c", 60, 13, keep_end=True).startswith("…")
    assert shortened("passages-1a2b3c", 60, 13, keep_end=True).endswith("b3c")
    assert shortened("\u202e\x07", 60, 13) == "?"


def contrast(one: str, other: str) -> float:
    def light(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((light(one), light(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("look", [LIGHT, DARK])
def test_contrasts(look: object) -> None:
    """Words stand out from the card by 4.5 to 1, lines and bars by 3 to 1."""
    assert isinstance(look, type(LIGHT))
    assert min(contrast(look.ink, look.card), contrast(look.soft, look.card)) >= 4.5
    assert min(contrast(colour, look.card) for colour in look.series) >= 3
