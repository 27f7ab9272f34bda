"""Charts of figures: of every form, for every screen, whatever the names and numbers are."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from importlib.resources import files
from itertools import pairwise
from xml.etree import ElementTree

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
    RATINGS,
    SATISFACTION,
    SOURCES,
)

from rlhf_loop.monitoring.charts import date_steps, draw, in_words, number_in_words, picture, shortened, steps, width
from rlhf_loop.monitoring.figures.figure import Figure, Form, Series

SVG = "{http://www.w3.org/2000/svg}"
STYLE = (files("rlhf_loop.web") / "static" / "chart.css").read_text(encoding="utf-8")


def texts(svg: str, *, narrow: bool = False) -> list[ElementTree.Element]:
    """All texts of a chart on a phone or a wide screen; it is XML that can be read."""
    hidden = "wide" if narrow else "narrow"
    found = ElementTree.fromstring(svg).iter(f"{SVG}text")
    return [element for element in found if hidden not in element.get("class", "").split()]


def words(svg: str, *, narrow: bool = False) -> list[str]:
    return [element.text or "" for element in texts(svg, narrow=narrow)]


def points(svg: str) -> list[float]:
    """Where from left to right the points of a chart are, in percent."""
    return [float(share) for share in re.findall(r'<svg x="([\d.]+)%" y="0.00" class="at">', svg)]


@pytest.mark.parametrize("figure", ALL, ids=lambda figure: figure.name)
def test_every_form(figure: Figure) -> None:
    """The same bytes twice, nothing that runs or loads, no colour or style of its own, and words instead."""
    svg = draw(figure)
    assert svg == draw(figure)
    root = ElementTree.fromstring(svg)
    assert root.get("role") == "img"
    assert root.get("aria-label") == f"{figure.title}. {figure.summary}"
    kinds = {element.tag.removeprefix(SVG) for element in root.iter()}
    assert kinds <= {"svg", "g", "path", "rect", "line", "text"}
    assert not {name for element in root.iter() for name in element.attrib} & {"style", "fill", "stroke", "id", "href"}
    used = {name for element in root.iter() for name in element.get("class", "").split()}
    assert all(re.search(rf"\.{name}\b", STYLE) for name in used - {"wide"})


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("figure", ALL, ids=lambda figure: figure.name)
def test_words_stay_inside(figure: Figure, narrow: bool) -> None:
    """No word reaches over an edge of the card, however long the names are and narrow the screen is."""
    svg = draw(figure)
    root = ElementTree.fromstring(svg)
    left, right = (48, 14) if "over" in root.get("class", "").split() else (0, 0)
    across = (286 if narrow else 465) - left - right
    for element in texts(svg, narrow=narrow):
        share = {"middle": 0.5, "end": 1.0}.get(element.get("text-anchor", ""), 0.0)
        at = element.get("x", "nan")
        place = across * float(at[:-1]) / 100 if at.endswith("%") else float(at)
        # The estimate says rather more than less.
        wide = 0.85 * width(element.text or "")
        begin = place + float(element.get("dx", 0)) - share * wide
        assert -left - 4 <= begin <= begin + wide <= across + right + 4, element.text
        assert 8 <= float(element.get("y", "nan")) <= float(root.get("height", "nan"))


def test_a_file_of_its_own() -> None:
    """The picture carries its stylesheet, for light and dark, and loads nothing."""
    root = ElementTree.fromstring(picture(SOURCES))
    assert root[0].tag == f"{SVG}style"
    assert root[0].text == STYLE
    assert "url(" not in STYLE
    assert "@import" not in STYLE


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
    assert all(HOSTILE not in text for text in words(draw(SOURCES), narrow=True))


def test_a_series_with_any_name_is_in_the_legend() -> None:
    """Also one that begins with an underscore, or that the font does not know."""
    named = replace(SATISFACTION, series=(Series(label="_odd", y="good"), Series(label=CHINESE, y="mean")))
    assert {"_odd", CHINESE, "Target 80 %"} <= set(words(draw(named)))


def test_what_is_unknown_is_a_gap() -> None:
    """A line ends before a missing week, and a row without a value says so."""
    lines, bands = (re.findall(rf'<path class="{kind}" d="([^"]+)"', draw(SATISFACTION)) for kind in ("line", "band"))
    assert any(path.count("M") == 2 for path in lines)
    assert [path.count("Z") for path in bands] == [2]
    assert "–" in words(draw(SOURCES))


@pytest.mark.parametrize("form", list(Form))
@pytest.mark.parametrize(
    "values", [[None], [float("nan"), float("inf")], [0.0, 0.0], [-3.0, 4.0], [1e12, 1e-12], [0.8]]
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
    for odd in (figure, replace(figure, percent=False, target=None, series=series[:1])):
        svg = draw(odd)
        assert words(svg)
        assert not re.search(r'["M L](?:nan|inf|-inf)', svg)
        # Everything that is drawn lies in the chart, whatever it stands for.
        assert all(0 <= float(share) <= 100 for share in re.findall(r'"(-?[\d.e+]+)%"', svg))


def test_values_are_where_they_belong() -> None:
    """Points stand in proportion to their numbers, bars begin at the axis and are as high as their values."""
    one, two, three = points(draw(CURVE))
    assert (three - two) / (two - one) == pytest.approx(2, abs=0.01)
    bars = [
        tuple(float(rect.get(name, "nan")) for name in ("y", "height"))
        for rect in ElementTree.fromstring(draw(RATINGS)).iter(f"{SVG}rect")
        if rect.get("x", "").endswith("%")
    ]
    assert max(top + height for top, height in bars) - min(top + height for top, height in bars) < 0.05
    assert bars[5][1] / bars[1][1] == pytest.approx(5, abs=0.05)
    rows = [float(rect.get("width", "nan%")[:-1]) for rect in ElementTree.fromstring(draw(SOURCES)).iter(f"{SVG}rect")]
    assert rows[0] / rows[2] == pytest.approx(4.1, abs=0.01)


def test_an_axis_that_doubles() -> None:
    """Each doubling takes as much room as the one before; what cannot be doubled is drawn as usual."""
    rows = tuple((size, 0.7, 0.6, 0.8) for size in (50, 100, 200, 400, 800))
    doubling = replace(CURVE, rows=rows, doubling=True)
    places = points(draw(doubling))
    assert len(places) == 5
    distances = [later - earlier for earlier, later in pairwise(places)]
    assert max(distances) - min(distances) < 0.1
    assert {"50", "100", "200", "500"} <= set(words(draw(doubling)))
    for odd in ((0, 1), (float("nan"), float("inf")), (7, 7)):
        words(draw(replace(doubling, rows=tuple((size, 0.7, 0.6, 0.8) for size in odd))))


def test_many_rows() -> None:
    """Of many names the first ones are drawn, and the picture says so; of many versions some have their name."""
    many = replace(SOURCES, rows=tuple((f"source {number}", 0.5) for number in range(30)))
    found = words(draw(many), narrow=True)
    assert "(the first 12 of 30)" in found
    assert "source 12" not in found
    years = replace(
        SATISFACTION, rows=tuple((date(2015, 1, 5) + timedelta(weeks=n), 0.5, 0.4, 0.6, 0.1) for n in range(600))
    )
    assert {"2016", "2019", "2022", "2025"} <= set(words(draw(years)))


def test_target_and_numbers_are_said() -> None:
    """The target's line has its words, progress its numbers, and shares stand as percentages."""
    assert "Target 80 %" in words(draw(CURVE), narrow=True)
    assert {"153 of 200", "48 of 200"} <= set(words(draw(MILESTONE), narrow=True))
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
    ("low", "high", "found"),
    [
        (0.0, 1.0, [0, 0.25, 0.5, 0.75, 1]),
        (0.64, 0.81, [0.65, 0.7, 0.75, 0.8]),
        (0.27, 0.79, [0.3, 0.4, 0.5, 0.6, 0.7]),
        (-3.0, 47.0, [0, 10, 20, 30, 40]),
        (1e12, 1e12 + 1, None),
        (0.0, 1e-12, None),
    ],
)
def test_values_on_an_axis(low: float, high: float, found: list[float] | None) -> None:
    """A few round numbers inside, also where the values are very large or very small."""
    given = steps(low, high)
    assert 1 <= len(given) <= 5
    if found is not None:
        assert given == pytest.approx(found)


@pytest.mark.parametrize(
    ("first", "every", "rows", "found"),
    [
        ("2026-11-02", 7, 3, ["2026-11-02", "2026-11-09", "2026-11-16"]),
        ("2026-11-02", 1, 10, ["2026-11-03", "2026-11-05", "2026-11-07", "2026-11-09", "2026-11-11"]),
        ("2026-11-02", 1, 5, ["2026-11-02", "2026-11-03", "2026-11-04", "2026-11-05", "2026-11-06"]),
        ("2025-11-03", 7, 20, ["2025-12-01", "2026-01-01", "2026-02-01", "2026-03-01"]),
        ("2015-01-05", 7, 600, ["2016-01-01", "2019-01-01", "2022-01-01", "2025-01-01"]),
    ],
)
def test_dates_on_an_axis(first: str, every: int, rows: int, found: list[str]) -> None:
    """The dates of the rows, Mondays, first days of months, or years: as many as there is room for."""
    begin, since = date.fromisoformat(first), date(1970, 1, 1)
    days = [float((begin - since).days + every * row) for row in range(rows)]
    assert [(since + timedelta(days=each)).isoformat() for each in date_steps(days)] == found


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
    assert shortened(" a\n b ", 100) == "a b"
    assert shortened("passages-1a2b3c", 60) == "passa…"
    assert shortened("passages-1a2b3c", 60, keep_end=True).startswith("…")
    assert shortened("passages-1a2b3c", 60, keep_end=True).endswith("b3c")
    assert shortened("\u202e\x07", 60) == "?"


def contrast(one: str, other: str) -> float:
    def light(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((light(one), light(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_contrasts() -> None:
    """Words stand out from the card by 4.5 to 1, lines and bars by 3 to 1, in the light and in the dark."""
    light, dark = (dict(re.findall(r"--chart-(\w+): (#\w+);", part)) for part in STYLE.split("@media screen"))
    for look in (light, dark):
        assert min(contrast(look[name], look["card"]) for name in ("ink", "soft")) >= 4.5
        assert min(contrast(look[name], look["card"]) for name in "0123") >= 3
