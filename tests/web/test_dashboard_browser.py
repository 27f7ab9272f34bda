"""The dashboard and the report in Chromium: charts on each screen, colours, keyboard, zoom, and no JavaScript."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from desk_browser import Desk, Open, desk_in_chromium, pages
from figure_fakes import ALL, CHINESE, SOURCES
from patience import PATIENCE_S
from playwright.sync_api import Browser, Route, expect
from test_browser import CONTRASTS, complaint, no_sideways_scroll, patient

from rlhf_loop.config import Settings
from rlhf_loop.domain import AlarmKind
from rlhf_loop.monitoring import figures
from rlhf_loop.monitoring.figures.figure import figure_csv
from rlhf_loop.monitoring.report import report
from rlhf_loop.store.alarms import raise_alarm
from rlhf_loop.web.pages import dashboard

PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True, "device_scale_factor": 3}
SHOWN = [figure for figure in ALL if figure.rows]


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Desk, Browser]]:
    with pytest.MonkeyPatch.context() as patch, desk_in_chromium(tmp_path_factory.mktemp("desk")) as both:
        patch.setattr(dashboard, "_PATIENCE_S", PATIENCE_S)
        patch.setattr(figures, "FIGURES", {figure.name: lambda view, found=figure: found for figure in ALL})
        raise_alarm(both[0].engine, AlarmKind.QUEUE, f"412 answers wait, {'W' * 200}. See /review.", subject=CHINESE)
        yield both


@pytest.fixture
def open_page(chromium: tuple[Desk, Browser]) -> Iterator[Open]:
    with pages(*chromium) as open_page:
        yield lambda at="/dashboard", **options: open_page(at, name="dora", **options)


#: Charts with their height, the colours of what they show, and of their words the size and how far they are from the
#: edges of the card.
CHARTS = """() => [...document.querySelectorAll(".panel .chart")].map((chart) => {
  const card = chart.closest(".panel").getBoundingClientRect();
  const words = [...chart.querySelectorAll("text")].filter((each) => each.checkVisibility()).map((each) => {
    const box = each.getBoundingClientRect();
    return [parseFloat(getComputedStyle(each).fontSize), box.left - card.left, card.right - box.right];
  });
  const drawn = [...chart.querySelectorAll(".line, .point, .column, .whisker")].map((each) => getComputedStyle(each));
  return { height: chart.getBoundingClientRect().height, words, colours: drawn.map((each) => each.color) };
})"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 640, 1280])
def test_charts_fit_each_screen(open_page: Open, scheme: str, width: int) -> None:
    """One drawing for all: in the colours of the scheme, letters of 12 pixels or more, nothing sticks out of a card."""
    page = open_page(viewport={"width": width, "height": 740}, color_scheme=scheme)
    found = page.evaluate(CHARTS)
    assert len(found) == len(SHOWN)
    series = {"light": "rgb(26, 107, 88)", "dark": "rgb(127, 209, 185)"}[scheme]
    for chart in found:
        assert chart["height"] > 50
        assert series in chart["colours"]
        assert min(size for size, _, _ in chart["words"]) >= 12
        assert min(edge for _, *edges in chart["words"] for edge in edges) >= 4
    assert no_sideways_scroll(page)


def test_two_columns_on_a_desktop_one_on_a_phone(open_page: Open) -> None:
    """The cards stand beside each other where there is room for their words."""
    for options, columns in (({"viewport": {"width": 1280, "height": 800}}, 2), (PHONE, 1)):
        page = open_page(**options)
        boxes = [card.bounding_box() for card in page.locator(".board article").all()]
        assert len({round(box["x"]) for box in boxes if box}) == columns


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(open_page: Open, scheme: str) -> None:
    """Words stand out from what is behind them by 4.5 to 1, in the tables, too."""
    page = open_page(color_scheme=scheme)
    for summary in page.locator(".numbers summary").all():
        summary.click()
    ratios = page.evaluate(CONTRASTS)
    assert len(ratios) > 100
    assert min(ratios.values()) >= 4.5, ratios


def test_by_keyboard(open_page: Open) -> None:
    """Tab leads to the data, Enter unfolds it, the table can be scrolled, and the next stop is the download."""
    page = open_page()
    first = page.locator("#satisfaction")
    first.locator("summary").focus()
    page.keyboard.press("Enter")
    expect(first.get_by_role("table")).to_be_visible()
    page.keyboard.press("Tab")
    expect(first.get_by_role("region", name="Data of: Satisfaction by week")).to_be_focused()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    page.keyboard.press("Tab")
    expect(first.get_by_role("link", name="Download as CSV : Satisfaction by week")).to_be_focused()


def test_headings_and_names(open_page: Open) -> None:
    """One first heading, second ones below it for each part, and each chart has words."""
    page = open_page()
    levels = page.locator("main :is(h1, h2, h3, h4)").evaluate_all("(all) => all.map((each) => each.tagName)")
    assert levels[0] == "H1"
    assert set(levels[1:]) == {"H2"}
    ids = page.locator("[id]").evaluate_all("(all) => all.map((each) => each.id)")
    assert len(ids) == len(set(ids))
    names = page.locator("main svg[role=img]").evaluate_all("(all) => all.map((each) => each.ariaLabel)")
    assert names == [f"{figure.title}. {figure.summary}" for figure in SHOWN]
    expect(page.get_by_role("heading", name="1 open alarm")).to_be_visible()
    assert page.get_by_role("region", name="1 open alarm").bounding_box()["y"] < 400  # type: ignore[index]


def test_figures_that_were_being_computed_join_the_others(open_page: Open) -> None:
    """They come by themselves, each at its place, and what was unfolded meanwhile stays so."""
    page = open_page()
    order = page.locator(".board > .panel[id]").evaluate_all("(all) => all.map((each) => each.id)")
    late = order[1]

    def early(route: Route) -> None:
        response = route.fetch()
        body = re.sub(rf'<article class="panel" id="{late}".*?</article>', "", response.text(), flags=re.DOTALL)
        body = body.replace("</head>", '<script src="/data-html/static/dashboard.js" defer></script></head>')
        body = body.replace('<div class="board">', '<p data-pending>One is being computed.</p><div class="board">', 1)
        route.fulfill(response=response, body=body)

    page.route("**/dashboard", early, times=1)
    page.reload()
    page.locator(f"#{order[0]} summary").click()
    expect(page.locator("[data-pending]")).to_have_count(0)
    assert page.locator(".board > .panel[id]").evaluate_all("(all) => all.map((each) => each.id)") == order
    expect(page.locator(f"#{order[0]} details")).to_have_attribute("open", "")


def test_download(open_page: Open) -> None:
    """The link brings the file under its name."""
    page = open_page()
    with page.expect_download() as waiting:
        page.locator("#sources").get_by_role("link", name="Download as CSV").click()
    assert waiting.value.suggested_filename == "sources.csv"
    assert Path(waiting.value.path()).read_bytes() == figure_csv(SOURCES).encode()


def test_without_javascript_on_a_phone(open_page: Open) -> None:
    """Data unfold by a tap, and charts are there; the widest table scrolls in itself."""
    page = open_page(java_script_enabled=False, **PHONE)
    for summary in page.locator(".numbers summary").all():
        summary.tap()
    expect(page.locator("#sources").get_by_role("cell", name="wikipedia")).to_be_visible()
    assert no_sideways_scroll(page)


@pytest.mark.parametrize("options", [PHONE, {"viewport": {"width": 1280, "height": 800}, "color_scheme": "dark"}])
def test_the_report_is_complete(chromium: tuple[Desk, Browser], tmp_path: Path, options: dict[str, object]) -> None:
    """From a file, without network and scripts: charts, data and colours are there; nothing is asked for."""
    desk, browser = chromium
    file = tmp_path / "report.html"
    file.write_text(report(desk.engine, Settings()), encoding="utf-8")
    context = patient(browser, offline=True, **options)
    page = context.new_page()
    asked: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(complaint(message)) if complaint(message) else None)
    page.goto(file.as_uri())
    assert len(page.evaluate(CHARTS)) == len(SHOWN)
    assert no_sideways_scroll(page)
    ratios = page.evaluate(CONTRASTS)
    assert min(ratios.values()) >= 4.5, ratios
    with page.expect_download() as waiting:
        page.locator("#sources").get_by_role("link", name="Download as CSV").click()
    assert Path(waiting.value.path()).read_bytes() == figure_csv(SOURCES).encode()
    assert [url for url in asked if not url.startswith(("data:", "file:"))] == []
    assert complaints == []
    page.emulate_media(media="print")
    assert page.locator("#sources").get_by_role("link").count() == 0
    context.close()
