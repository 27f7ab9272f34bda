"""How long a rater waits after each grade: the real service on the sample ratings, graded by keyboard in Chromium.

The wait is measured inside the page, from the key to the frame in which the next answer stands.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright
from sqlalchemy.engine import Engine

from rlhf_loop import sample
from rlhf_loop.domain import Rating
from rlhf_loop.store.interactions import record
from tools.report import say
from tools.screenshots.__main__ import CHROMIUM
from tools.screenshots.house import PASSWORD, open_house

_CLOCK = """() => {
  window.waits = [];
  let pressed = 0, before = "";
  const shown = () => (document.querySelector("[data-form]").dataset.id || "");
  addEventListener("keydown", () => { [pressed, before] = [performance.now(), shown()]; }, true);
  const look = () => {
    if (pressed && shown() && shown() !== before) { window.waits.push(performance.now() - pressed); pressed = 0; }
    requestAnimationFrame(look);
  };
  look();
}"""


def main() -> None:
    """Print the wait after a grade, and the answers a minute."""
    parser = argparse.ArgumentParser(prog="python -m tools.keyboard", description=__doc__)
    parser.add_argument("--answers", type=int, default=30, help="grades to give")
    parser.add_argument("--reading", type=float, default=3.0, help="seconds until an answer that is shown is graded")
    parser.add_argument("--latency", type=float, default=0.0, help="milliseconds that the network adds to each request")
    chosen = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="rlhf-keyboard-") as name,
        open_house(Path(name)) as house,
        sync_playwright() as playwright,
    ):
        _put_answers(house.engine, chosen.answers + 10)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(base_url=house.address)
        page.goto("/sign-in")
        page.get_by_label("Name").fill("anna")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url("**/review")
        if chosen.latency:
            network = page.context.new_cdp_session(page)
            network.send("Network.enable")
            limits = {"offline": False, "downloadThroughput": -1, "uploadThroughput": -1}
            network.send("Network.emulateNetworkConditions", {**limits, "latency": chosen.latency})
        waits = _grade(page, chosen.answers, chosen.reading)
        browser.close()
    p50, p95 = statistics.median(waits), statistics.quantiles(waits, n=20)[-1]
    say(
        f"{len(waits)} grades, {chosen.reading:g} s of reading each, {chosen.latency:g} ms of network: "
        f"the next answer stands after p50 {p50:.0f} ms, p95 {p95:.0f} ms; "
        f"{60 / (chosen.reading + statistics.mean(waits) / 1000):.1f} answers a minute"
    )


def _put_answers(engine: Engine, count: int) -> None:
    texts = [found["text"] for found in sample.CANDIDATES]
    record(
        engine,
        [
            Rating(
                user_prompt=f"{sample.QUESTION} Case {number}.",
                ai_response=f"{texts[number % len(texts)]} ({number})",
                candidate_group=f"case-{number}",
                source="sample",
            )
            for number in range(count)
        ],
    )


def _grade(page: Page, answers: int, reading_s: float) -> list[float]:
    page.locator("#desk[data-ready]").wait_for()
    page.evaluate(_CLOCK)
    for number in range(answers):
        page.wait_for_timeout(reading_s * 1000)
        page.locator("#desk[data-ready]").wait_for()
        page.keyboard.press("45321"[number % 5])
        page.wait_for_function("count => window.waits.length > count", arg=number)
    waits: list[float] = page.evaluate("window.waits")
    return waits


if __name__ == "__main__":
    main()
