"""Pictures of the screens for the documents: the real service on the sample ratings, in Debian's Chromium."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from rlhf_loop import sample
from tools.report import IMAGES, say
from tools.screenshots.house import ADMIN, PASSWORD, House, open_house
from tools.screenshots.weeks import let_weeks_pass

CHROMIUM = shutil.which("chromium-headless-shell") or "/usr/bin/chromium"
_DESK = {"width": 900, "height": 700}
_WIDE = {"width": 1100, "height": 800}
_BOARD = {"width": 1280, "height": 900}
_PHONE = {"width": 390, "height": 844}
#: Pixels after which a picture is cut: one of the other answers is enough.
_LONGEST = 1225


def _ask(page: Page) -> None:
    page.goto("/data-html")
    page.get_by_label("Your question").fill(sample.QUESTION)
    page.get_by_role("button", name="Ask").click()
    best = page.locator("[data-best]")
    best.get_by_role("button", name="5 of 5").click()
    best.get_by_role("status").get_by_text("stored").wait_for()


def _ask_and_unfold(page: Page) -> None:
    _ask(page)
    page.locator(".others > summary").click()


def _review(page: Page) -> None:
    page.goto("/review")
    page.locator(".response").wait_for()


def _correct(page: Page) -> None:
    """Rate what is there first, and change a word of the next: the difference is to be seen."""
    _review(page)
    page.keyboard.press("e")
    page.keyboard.press("Control+End")
    page.keyboard.type(" See a doctor if it lasts for more than two days.")
    page.locator("ins").first.wait_for()


def _dashboard(page: Page) -> None:
    """Wait for what takes long to compute."""
    page.goto("/dashboard")
    while page.locator("[data-pending]").count():
        page.wait_for_timeout(1_000)
        page.goto("/dashboard")


def _go(path: str) -> Callable[[Page], None]:
    def go(page: Page) -> None:
        page.goto(path)

    return go


@dataclass(frozen=True, slots=True)
class _Picture:
    """A screen: the name of its file, who looks at it (nobody in particular without a name), and how to get there."""

    name: str
    go: Callable[[Page], None]
    who: str = ""
    window: dict[str, int] | None = None
    scheme: str = "light"
    whole: bool = True
    longest: int = _LONGEST


_PICTURES = (
    _Picture("data-html", _ask_and_unfold),
    _Picture("data-html-dark", _ask, scheme="dark"),
    _Picture("data-html-phone", _ask, window=_PHONE),
    _Picture("sign-in", _go("/sign-in"), whole=False),
    _Picture("review", _review, who="anna", window=_WIDE, whole=False),
    _Picture("review-correction", _correct, who="anna", window={"width": 1100, "height": 1320}, whole=False),
    _Picture("review-dark", _review, who="anna", window=_WIDE, scheme="dark", whole=False),
    _Picture("review-phone", _review, who="anna", window=_PHONE, whole=False),
    _Picture("compare", _go("/compare"), who="anna", window=_WIDE, whole=False),
    _Picture("agreement", _go("/review/agreement"), who=ADMIN, window=_WIDE),
    # The bar with the keys stands at its foot.
    _Picture("corrections", _go("/review/corrections"), who=ADMIN, window={"width": 1100, "height": 1225}, whole=False),
    _Picture("flagged", _go("/review/flagged"), who=ADMIN, window=_WIDE),
    _Picture("guidelines", _go("/review/guidelines"), who=ADMIN, window=_WIDE),
    _Picture("admin", _go("/admin"), who=ADMIN, window=_WIDE),
    _Picture("admin-tokens", _go("/admin/tokens"), who=ADMIN, window=_WIDE),
    _Picture("admin-audit", _go("/admin/audit"), who=ADMIN, window=_WIDE, whole=False),
)
#: After some weeks of the service.
_LATER = (
    _Picture("dashboard", _dashboard, who=ADMIN, window=_BOARD, longest=1_900),
    _Picture("dashboard-dark", _dashboard, who=ADMIN, window=_BOARD, scheme="dark", longest=1_900),
    _Picture("dashboard-phone", _dashboard, who=ADMIN, window=_PHONE, longest=1_900),
)


def main() -> None:
    """Write docs/images/*.png."""
    with (
        tempfile.TemporaryDirectory(prefix="rlhf-pictures-") as name,
        open_house(Path(name)) as house,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for picture in _PICTURES:
            _take(browser, house, picture)
        let_weeks_pass(house.engine, house.settings)
        for picture in _LATER:
            _take(browser, house, picture)
        browser.close()


def _take(browser: Browser, house: House, picture: _Picture) -> None:
    path = IMAGES / f"{picture.name}.png"
    window = picture.window or _DESK
    context = browser.new_context(
        viewport=window,
        color_scheme=picture.scheme,
        base_url=house.address,
        reduced_motion="reduce",
        has_touch=window is _PHONE,
        is_mobile=window is _PHONE,
    )
    page = context.new_page()
    if picture.who:
        page.goto("/sign-in")
        page.get_by_label("Name").fill(picture.who)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url("**/review")
    picture.go(page)
    # Where the mouse and the focus are is nobody's business.
    page.mouse.move(0, 0)
    page.evaluate("document.activeElement.blur()")
    page.evaluate("document.fonts.ready")
    height = (
        min(page.evaluate("document.documentElement.scrollHeight"), picture.longest)
        if picture.whole
        else window["height"]
    )
    page.screenshot(
        path=path,
        full_page=picture.whole,
        animations="disabled",
        clip={"x": 0, "y": 0, "width": window["width"], "height": height},
    )
    context.close()
    say(f"written: {path}")


if __name__ == "__main__":
    main()
