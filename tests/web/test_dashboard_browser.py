"""The dashboard and the report in Chromium: pictures on each screen, colours, keyboard, zoom, and no JavaScript."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from desk_browser import Desk, Open, desk_in_chromium, pages
from figure_fakes import ALL, CHINESE, SOURCES
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import Engine
from test_browser import CONTRASTS, no_sideways_scroll

from rlhf_loop.config import Settings
from rlhf_loop.domain import AlarmKind
from rlhf_loop.monitoring import Figure, figures
from rlhf_loop.monitoring.figures.figure import figure_csv
from rlhf_loop.monitoring.report import report, write_whole
from rlhf_loop.store.alarms import raise_alarm

PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True, "device_scale_factor": 3}
SHOWN = [figure for figure in ALL if figure.rows]


def made(name: str, engine: Engine, settings: object, *, encoder: object = None) -> Figure:
    return next(figure for figure in ALL if figure.name == name)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Desk, Browser]]:
    with pytest.MonkeyPatch.context() as patch, desk_in_chromium(tmp_path_factory.mktemp("desk")) as both:
        patch.setattr(figures, "FIGURES", tuple(figure.name for figure in ALL))
        patch.setattr(figures, "figure", made)
        raise_alarm(both[0].engine, AlarmKind.QUEUE, f"412 answers wait, {'W' * 200}. See /review.", subject=CHINESE)
        yield both


@pytest.fixture
def open_page(chromium: tuple[Desk, Browser]) -> Iterator[Open]:
    with pages(*chromium) as open_page:
        yield lambda at="/dashboard", **options: open_page(at, name="dora", **options)


def pictures(page: Page) -> list[tuple[str, float, float]]:
    """Scroll to each picture; return its address, how wide it is shown, and how wide it is by itself."""
    found = []
    for picture in page.locator("picture img").all():
        picture.scroll_into_view_if_needed()
        picture.evaluate("(image) => image.decode()")
        found.append(
            tuple(picture.evaluate("(image) => [image.currentSrc, image.clientWidth, Number(image.naturalWidth)]"))
        )
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 640, 1280])
def test_each_screen_has_its_picture(open_page: Open, scheme: str, width: int) -> None:
    """By width and colours; all of them are drawn, no letter is smaller than 12 pixels, nothing sticks out."""
    page = open_page(viewport={"width": width, "height": 740}, color_scheme=scheme)
    found = pictures(page)
    assert len(found) == len(SHOWN)
    for address, shown, own in found:
        assert ("narrow=1" in address) == (width == 360)
        assert ("dark=1" in address) == (scheme == "dark")
        assert own > 0
        assert 13 * shown / (280 if width == 360 else 500) >= 12
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
    """One first heading, second ones below it for each part, and each picture has words."""
    page = open_page()
    levels = page.locator("main :is(h1, h2, h3, h4)").evaluate_all("(all) => all.map((each) => each.tagName)")
    assert levels[0] == "H1"
    assert set(levels[1:]) == {"H2"}
    ids = page.locator("[id]").evaluate_all("(all) => all.map((each) => each.id)")
    assert len(ids) == len(set(ids))
    names = page.locator("main img").evaluate_all("(all) => all.map((each) => each.alt)")
    assert names == [f"{figure.title}. {figure.summary}" for figure in SHOWN]
    expect(page.get_by_role("heading", name="1 open alarm")).to_be_visible()
    assert page.get_by_role("region", name="1 open alarm").bounding_box()["y"] < 400  # type: ignore[index]


def test_download(open_page: Open) -> None:
    """The link brings the file under its name."""
    page = open_page()
    with page.expect_download() as waiting:
        page.locator("#sources").get_by_role("link", name="Download as CSV").click()
    assert waiting.value.suggested_filename == "sources.csv"
    assert Path(waiting.value.path()).read_bytes() == figure_csv(SOURCES).encode()


def test_without_javascript_on_a_phone(open_page: Open) -> None:
    """Data unfold by a tap, and pictures are there; the widest table scrolls in itself."""
    page = open_page(java_script_enabled=False, **PHONE)
    for summary in page.locator(".numbers summary").all():
        summary.tap()
    expect(page.locator("#sources").get_by_role("cell", name="wikipedia")).to_be_visible()
    assert no_sideways_scroll(page)


@pytest.mark.parametrize("options", [PHONE, {"viewport": {"width": 1280, "height": 800}, "color_scheme": "dark"}])
def test_the_report_is_complete(chromium: tuple[Desk, Browser], tmp_path: Path, options: dict[str, object]) -> None:
    """From a file, without network and scripts: pictures, data and colours are there; nothing is asked for."""
    desk, browser = chromium
    file = tmp_path / "report.html"
    write_whole(file, report(desk.engine, Settings()))
    context = browser.new_context(offline=True, **options)
    page = context.new_page()
    asked: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.goto(file.as_uri())
    assert len(pictures(page)) == len(SHOWN)
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
