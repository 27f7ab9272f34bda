"""The page as a person meets it, in Debian's Chromium: the real service on the sample's model, and hostile answers."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from databases import sqlite_database
from hostile_markdown import HOSTILE_MARKDOWN
from patience import PATIENCE_S
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Playwright, expect, sync_playwright
from served_app import served_app
from sqlalchemy import select
from test_openapi import document
from web_fakes import GOOD, OTHER, FakeService, SampleSource, changed

from rlhf_loop import sample
from rlhf_loop.answering import AnswerService
from rlhf_loop.config import Settings
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.reward import RewardModel
from rlhf_loop.reward.model_file import save
from rlhf_loop.store.engine import open_database
from rlhf_loop.store.tables import Interaction, Review
from rlhf_loop.training.train import TrainingReport
from rlhf_loop.web import create_app

#: The one without a window, in half of the time; the other one will do.
CHROMIUM = next(
    filter(Path.exists, map(Path, ("/usr/bin/chromium-headless-shell", "/usr/bin/chromium"))),
    Path("/usr/bin/chromium-headless-shell"),
)
BEST = "Dizziness after a blow to the head is a sign of concussion"
PHONE = {"width": 320, "height": 640}
HOSTILE = (
    '<script>window.owned = 1</script>"><img src=x onerror="window.owned = 1"><svg onload=alert(1)>\u202e\u2066 '
    + "W" * 500
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        if os.environ.get("CI"):
            raise FileNotFoundError(f"{CHROMIUM} is missing. Install Debian's package {CHROMIUM.name}.")
        pytest.skip(f"there is no {CHROMIUM} to test with")
    with sync_playwright() as playwright, closing(launched(playwright)) as browser:
        yield browser


#: The screens' scripts give up on a request after 15 s, and then wait for somebody to press Retry.
_PATIENT = f"""{{
    const timeout = AbortSignal.timeout.bind(AbortSignal);
    AbortSignal.timeout = (milliseconds) => timeout(Math.max(milliseconds, {PATIENCE_S * 1000}));
}}"""


def launched(playwright: Playwright) -> Browser:
    expect.set_options(timeout=PATIENCE_S * 1000)
    return playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


def patient(browser: Browser, **options: Any) -> BrowserContext:
    """A context in which pages, locators and the screens' own scripts wait for a machine of any speed."""
    context = browser.new_context(**options)
    context.set_default_timeout(PATIENCE_S * 1000)
    context.add_init_script(_PATIENT)
    return context


def complaint(message: ConsoleMessage) -> str:
    """What a page's script or the policy complains of; an empty text for what is none."""
    # That a request failed is told, too; it is expected, and tested, where it happens. Warnings are Chromium's own, as
    # that the network is slow.
    return message.text if message.type == "error" and "Failed to load" not in message.text else ""


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Serve a service and open its page; at the end, no script has failed and the policy was never broken."""
    opened = ExitStack()
    complaints: list[str] = []

    def open_page(
        service: object, *, at: str = "/data-html", settings: Settings | None = None, **options: object
    ) -> Page:
        app = create_app(settings or Settings(), service=service)
        context = patient(browser, base_url=opened.enter_context(served_app(app)), **options)
        opened.callback(context.close)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.on("console", lambda message: complaints.append(said) if (said := complaint(message)) else None)
        page.goto(at)
        return page

    with opened:
        yield open_page
    assert complaints == []


@pytest.fixture
def settings(tmp_path: Path, encoder_cache: Path) -> Settings:
    return Settings(
        database_url=sqlite_database(tmp_path / "rlhf.db"),
        model_path=tmp_path / "reward_model.joblib",
        outbox_path=tmp_path / "outbox.db",
        cache_dir=encoder_cache,
    )


@pytest.fixture
def service(
    settings: Settings, encoder: TextEncoder, trained: tuple[RewardModel, TrainingReport]
) -> Iterator[AnswerService]:
    save(trained[0], settings.model_path)
    with closing(AnswerService(settings, sources=[SampleSource()], encoder=encoder)) as service:
        yield service


def ratings(settings: Settings) -> list[tuple[str, int, str | None]]:
    """What the database holds: the beginning of each rated answer, its rating and the comment."""
    engine = open_database(settings.database_url)
    with engine.connect() as connection:
        found = connection.execute(
            select(Interaction.ai_response, Review.rating, Review.comment)
            .join(Review, Review.interaction_key == Interaction.id)
            .order_by(Interaction.id)
        ).all()
    engine.dispose()
    return [(text[:58], rating, comment) for text, rating, comment in found]


def ask(page: Page, question: str = sample.QUESTION) -> None:
    page.get_by_label("Your question").fill(question)
    page.get_by_role("button", name="Ask").click()
    expect(page.locator("main h2").first).to_be_visible()
    page.wait_for_load_state()  # the script runs when the page is complete


def no_sideways_scroll(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))


def test_ask_see_unfold_rate(open_page: Callable[..., Page], service: AnswerService, settings: Settings) -> None:
    """The whole way by mouse: the best answer with its source, the others below, a rating for two of them."""
    page = open_page(service)
    ask(page)
    best = page.locator("[data-best]")
    expect(best).to_contain_text(BEST)
    expect(best.get_by_role("link", name="Sample")).to_have_attribute("href", "https://example.org/3")
    expect(best).to_contain_text("CC0")
    expect(best).to_contain_text("20 November 2026")
    expect(best).to_contain_text(re.compile(r"An expert would rate this 4 or 5 with \d+\s% probability"))
    expect(page.get_by_label("Your question")).to_have_value(sample.QUESTION)

    other = page.locator(".others li").last
    expect(other).to_be_hidden()
    page.get_by_text("3 other answers").click()
    expect(other).to_be_visible()

    best.get_by_role("button", name="5 of 5: exactly right").click()
    expect(best.get_by_role("status")).to_have_text("Thank you. Your rating, 5 of 5, is stored.")
    expect(best.get_by_role("button", name="5 of 5")).to_have_attribute("aria-pressed", "true")
    other.get_by_text("Say why").click()
    other.get_by_label("Comment, kept with the rating you choose").fill("It misses the point.")
    other.get_by_role("button", name="1 of 5").click()
    expect(other.get_by_role("status")).to_contain_text("1 of 5, is stored")
    worst = (other.locator(".words").text_content() or "")[:58]
    assert sorted(ratings(settings)) == sorted([(BEST, 5, None), (worst, 1, "It misses the point.")])


def test_rate_by_keyboard(open_page: Callable[..., Page], service: AnswerService, settings: Settings) -> None:
    """Enter asks; then 1 to 5 rate the best answer, or the one with the focus; a second rating replaces the first."""
    page = open_page(service)
    expect(page.get_by_label("Your question")).to_be_focused()
    page.keyboard.type("Dizzy after handball 3 days ago. What now?")  # the 3 is only a letter here
    page.keyboard.press("Enter")
    status = page.locator("[data-best]").get_by_role("status")
    expect(page.locator("[data-best]")).to_be_visible()
    page.wait_for_load_state()
    page.keyboard.press("2")
    expect(status).to_contain_text("2 of 5, is stored")
    page.keyboard.press("4")
    expect(status).to_contain_text("4 of 5, is stored")
    summary = page.get_by_text("3 other answers")
    summary.focus()
    page.keyboard.press("Enter")
    other = page.locator(".others li").first
    expect(other).to_be_visible()
    other.get_by_text("Say why").focus()
    page.keyboard.press("1")
    expect(other.get_by_role("status")).to_contain_text("1 of 5, is stored")
    assert sorted(rating for _, rating, _ in ratings(settings)) == [1, 4]


def test_without_javascript(open_page: Callable[..., Page], service: AnswerService, settings: Settings) -> None:
    """Ask, unfold, rate, and go back to the answers: forms and links are enough."""
    page = open_page(service, java_script_enabled=False)
    ask(page)
    expect(page.locator("[data-best]")).to_contain_text(BEST)
    page.get_by_text("3 other answers").click()
    expect(page.locator(".others li").first).to_be_visible()
    page.locator("[data-best]").get_by_role("button", name="4 of 5").click()
    expect(page.get_by_role("status")).to_have_text("Thank you. Your rating, 4 of 5, is stored.")
    page.go_back()
    expect(page.locator("[data-best]")).to_contain_text(BEST)
    assert ratings(settings) == [(BEST, 4, None)]


@pytest.mark.parametrize("script", [True, False])
def test_thumbs(open_page: Callable[..., Page], script: bool) -> None:
    """Where the settings want them: two buttons with names, the pressed one known as such, and no numbers for them."""
    service = FakeService(GOOD)
    page = open_page(service, settings=Settings(end_user_scale="thumbs"), java_script_enabled=script)
    ask(page, "Why?")
    page.keyboard.press("5")
    up = page.get_by_role("button", name="Thumb up: helpful")
    up.click()
    expect(page.get_by_role("status")).to_have_text("Thank you. Your thumb up is stored.")
    if script:
        expect(up).to_have_attribute("aria-pressed", "true")
        expect(page.get_by_role("button", name="Thumb down: not helpful")).to_have_attribute("aria-pressed", "false")
    assert [rating for _, rating, _, _ in service.rated] == [5]


def test_stars_are_full_up_to_the_chosen_one(open_page: Callable[..., Page]) -> None:
    """As everywhere; which one is chosen is said to a screen reader, too."""
    page = open_page(FakeService(GOOD))
    ask(page, "Why?")
    page.get_by_role("button", name="3 of 5").click()
    expect(page.get_by_role("button", name="3 of 5")).to_have_attribute("aria-pressed", "true")
    page.mouse.move(0, 0)
    filled = page.evaluate(
        "[...document.querySelectorAll('[data-best] .star')].map((star) => getComputedStyle(star).fill !== 'none')"
    )
    assert filled == [True, True, True, False, False]


def test_hostile_answers_do_nothing(open_page: Callable[..., Page]) -> None:
    """Markup in whatever a source gives is text, `javascript:` is no link, and nothing runs or sticks out."""
    worst = changed(GOOD, text=HOSTILE, title=HOSTILE, source=HOSTILE, licence=HOSTILE, url="javascript:window.owned=1")
    worse = changed(
        worst, rank=2, url=f"https://example.org/{'a' * 500}", title=None, text="مرحبا، الصداع النصفي مرض شائع."
    )
    page = open_page(FakeService(worst, worse, model_version=HOSTILE, degraded={HOSTILE: HOSTILE}), viewport=PHONE)
    ask(page, HOSTILE)
    page.get_by_text("1 other answer").click()
    expect(page.locator("[data-best] .words")).to_have_text(HOSTILE)
    assert page.evaluate("window.owned") is None
    assert page.locator("main img, main script, main .text svg, [data-best] a").count() == 0
    assert no_sideways_scroll(page)


@pytest.mark.skipif(sys.gettrace() is not None, reason="what traces each line takes from the depth that Python allows")
def test_hostile_markdown_does_nothing(open_page: Callable[..., Page]) -> None:
    """All of it on one page: nothing runs, nobody else is asked, nothing sticks out, and all forms are our own."""
    answers = [changed(GOOD, text=text, rank=rank) for rank, text in enumerate(HOSTILE_MARKDOWN.values(), start=1)]
    page = open_page(FakeService(*answers), viewport=PHONE)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    ask(page, "Why?")
    page.locator(".others > summary").click()
    expect(page.locator(".markdown .wide").first).to_be_visible()
    assert [url for url in asked if not url.startswith((page.url, page.url.replace("/data-html", "/")))] == []
    assert page.evaluate("window.owned") is None
    assert page.locator(".markdown").count() > 60
    assert page.locator(".markdown :is(script, style, form, img, iframe, object, [style], input)").count() == 0
    assert page.locator("form.rate").count() == len(answers)
    assert page.locator(".answer > .markdown a:not([href^='https://'])").count() == 0
    assert no_sideways_scroll(page)
    cut_off = "(each) => each.filter((one) => one.getBoundingClientRect().left < 0).map((one) => one.textContent)"
    assert page.locator(".answer *:not(.unseen)").evaluate_all(cut_off) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone(open_page: Callable[..., Page], scheme: str) -> None:
    """At 320 pixels nothing sticks out, the buttons can be hit, and words stand out from what is behind them."""
    page = open_page(FakeService(GOOD, OTHER, degraded={"arxiv": "slow"}), viewport=PHONE, color_scheme=scheme)
    assert no_sideways_scroll(page)
    ask(page, "Why?")
    page.get_by_text("1 other answer").click()
    assert no_sideways_scroll(page)
    for button in page.get_by_role("button").all():
        box = button.bounding_box()
        assert box is not None
        assert min(box["width"], box["height"]) >= 40
    ratios = page.evaluate(CONTRASTS)
    assert len(ratios) > 20
    assert min(ratios.values()) >= 4.5, ratios


#: The contrast of each element that has words of its own with the colour behind it, as WCAG 2 reckons it.
CONTRASTS = """() => {
  const rgb = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => [r, g, b].map((v) => linear(v / 255))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const found = rgb(getComputedStyle(at).backgroundColor);
      if (found.length === 3 || found[3] === 1) return found;
    }
  };
  const found = {};
  for (const element of document.querySelectorAll("body *")) {
    if (![...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim())) continue;
    if (!element.checkVisibility() || element.classList.contains("unseen")) continue;
    const [a, b] = [light(rgb(getComputedStyle(element).color)), light(behind(element))];
    found[element.tagName + "." + element.className + " " + Object.keys(found).length] =
      (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  }
  return found;
}"""


def test_what_fails_is_said_in_place(open_page: Callable[..., Page]) -> None:
    """A rating that waits, one that is refused, one that does not arrive: each has its words beside the answer."""
    service = FakeService(GOOD)
    page = open_page(service)
    ask(page, "Why?")
    status = page.locator("[data-best]").get_by_role("status")
    service.stores = False
    page.keyboard.press("3")
    expect(status).to_contain_text("will be stored when the database is back")
    service.error = LookupError("There is no such answer any more.")
    page.keyboard.press("3")
    expect(status).to_have_text("There is no such answer any more.")
    page.context.set_offline(True)
    page.keyboard.press("3")
    expect(status).to_contain_text("did not arrive")


def test_a_question_in_work_shows_it(open_page: Callable[..., Page]) -> None:
    """While the answer is made the button says so and asks only once; back, it is as before."""
    service = FakeService(GOOD)
    page = open_page(service)
    page.get_by_label("Your question").fill("Why?")
    # In one step: once the browser is on its way to the answer, it tells nothing of this page.
    assert page.evaluate(PRESSED) == ["Looking …", True, "true"]
    expect(page.locator("[data-best]")).to_be_visible()
    page.go_back()
    button = page.locator(".ask button")
    expect(button).to_have_text("Ask")
    expect(button).to_be_enabled()
    assert service.asked == ["Why?"]


PRESSED = """() => {
  const form = document.querySelector("[data-ask]"), button = form.querySelector("button");
  button.click();
  button.click();
  return [button.textContent, button.disabled, form.getAttribute("aria-busy")];
}"""


def test_an_error_keeps_the_question(open_page: Callable[..., Page]) -> None:
    """The question stays in the box, and the message is announced."""
    page = open_page(FakeService(error=ValueError("The query holds a NUL.")))
    page.get_by_label("Your question").fill("Why?")
    page.get_by_role("button", name="Ask").click()
    expect(page.get_by_role("alert")).to_contain_text("The query holds a NUL.")
    expect(page.get_by_label("Your question")).to_have_value("Why?")


def test_the_reference_obeys_the_policy(open_page: Callable[..., Page]) -> None:
    """Swagger UI draws the document, unfolds an operation and tries it, without anything from elsewhere."""
    page = open_page(FakeService(GOOD), at="/docs")
    expect(page.locator(".opblock")).to_have_count(sum(len(path) for path in document()["paths"].values()))
    page.locator("#operations-Answers-ask button").first.click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()
    expect(page.locator(".live-responses-table .response-col_status").last).to_contain_text("200")
