"""Pictures of the pages for the documents: the real service on the sample ratings, in Debian's Chromium."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from flask import Flask
from playwright.sync_api import Browser, sync_playwright
from werkzeug.serving import make_server

from rlhf_loop import sample
from rlhf_loop.answering import AnswerService
from rlhf_loop.config import Settings
from rlhf_loop.db import open_database
from rlhf_loop.domain import Passage
from rlhf_loop.exchange import import_ratings
from rlhf_loop.training_run import run_training
from rlhf_loop.web import create_app
from tools.report import IMAGES, say

CHROMIUM = "/usr/bin/chromium"
_DESK = {"width": 900, "height": 700}
_PHONE = {"width": 390, "height": 844}
#: Pixels after which a picture is cut: one of the other answers is enough.
_LONGEST = 1225
#: Ending of the file's name; size of the window, its colours, whether the other answers are unfolded.
_PICTURES = (
    ("", _DESK, "light", True),
    ("-dark", _DESK, "dark", False),
    ("-phone", _PHONE, "light", False),
)


class _Sample:
    """Finds the sample's candidates, as a search would."""

    name = "sample"

    def search(self, query: str, *, limit: int) -> list[Passage]:
        """Return them all, whatever the question."""
        return [
            Passage(
                text=found["text"],
                title=f"Sample article {number}",
                url=f"https://example.org/{number}",
                licence="sample text",
                retrieved_at=datetime.now(UTC),
            )
            for number, found in enumerate(sample.CANDIDATES[:limit], start=1)
        ]


def main() -> None:
    """Train on the sample, serve, ask, and write docs/images/data-html*.png."""
    with tempfile.TemporaryDirectory(prefix="rlhf-pictures-") as name, _service(Path(name)) as service:
        app = create_app(Settings(), service=service)
        with _served(app) as address, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            for ending, window, scheme, unfolded in _PICTURES:
                path = IMAGES / f"data-html{ending}.png"
                _picture(browser, address, path, window=window, scheme=scheme, unfolded=unfolded)
                say(f"written: {path}")
            browser.close()


def _picture(
    browser: Browser, address: str, path: Path, *, window: dict[str, int], scheme: str, unfolded: bool
) -> None:
    context = browser.new_context(viewport=window, color_scheme=scheme)
    page = context.new_page()
    page.goto(f"{address}/data-html")
    page.get_by_label("Your question").fill(sample.QUESTION)
    page.get_by_role("button", name="Ask").click()
    best = page.locator("[data-best]")
    best.get_by_role("button", name="5 of 5").click()
    best.get_by_role("status").get_by_text("stored").wait_for()
    if unfolded:
        page.locator(".others > summary").click()
    # Where the mouse and the focus are is nobody's business.
    page.mouse.move(0, 0)
    page.evaluate("document.activeElement.blur()")
    height = min(page.evaluate("document.documentElement.scrollHeight"), _LONGEST)
    page.screenshot(
        path=path,
        full_page=True,
        animations="disabled",
        clip={"x": 0, "y": 0, "width": window["width"], "height": height},
    )
    context.close()


@contextmanager
def _service(folder: Path) -> Iterator[AnswerService]:
    settings = Settings(
        database_url=f"sqlite:///{folder / 'rlhf.db'}",
        model_path=folder / "reward_model.joblib",
        outbox_path=folder / "outbox.db",
    )
    engine = open_database(settings.database_url)
    import_ratings(engine, sample.RATINGS_FILE)
    run_training(engine, settings)
    engine.dispose()
    service = AnswerService(settings, sources=[_Sample()])
    service.warm_up()
    yield service
    service.close()


@contextmanager
def _served(app: Flask) -> Iterator[str]:
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


if __name__ == "__main__":
    main()
