"""A server with answers to review, and pages of it in Chromium: what the browser tests of the screens share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from databases import sqlite_database
from patience import until
from playwright.sync_api import Browser, Page, expect, sync_playwright
from raters import PASSWORD, put_answers, put_people
from served_app import Connections, served_app
from sqlalchemy import delete
from sqlalchemy.engine import Engine
from test_browser import CHROMIUM, complaint, launched, patient
from web_fakes import GOOD, FakeService

from rlhf_loop.config import Settings
from rlhf_loop.store.engine import make_engine
from rlhf_loop.store.tables import Guideline, Interaction
from rlhf_loop.web import create_app

Open = Callable[..., Page]


class Desk:
    """A server for all tests of this file, with its database; anna and dora have signed in already."""

    def __init__(self, folder: Path, browser: Browser) -> None:
        url = sqlite_database(folder / "rlhf.db")
        self.engine: Engine = make_engine(url)
        put_people(self.engine)
        app = create_app(Settings(database_url=url, rate_limit="0", review_daily_goal=5), service=FakeService(GOOD))
        self.opened = ExitStack()
        self.opened.callback(self.engine.dispose)
        self.connections = Connections()
        self.url = self.opened.enter_context(served_app(app, connections=self.connections))
        self.signed_in: dict[str, Any] = {}
        for name in ("anna", "dora"):
            with closing(patient(browser, base_url=self.url)) as context:
                page = context.new_page()
                page.goto("/sign-in")
                sign_in(page, name)
                self.signed_in[name] = context.storage_state()

    def empty(self) -> None:
        # What a page has sent that is closed by now would take answers of the next test. The server takes connections
        # in their order, so by this one it has taken all of them.
        urlopen(f"{self.url}/healthz").close()
        until(lambda: not self.connections.open)
        with self.engine.begin() as connection:
            connection.execute(delete(Interaction))
            connection.execute(delete(Guideline))

    def close(self) -> None:
        self.opened.close()


@contextmanager
def desk_in_chromium(folder: Path) -> Iterator[tuple[Desk, Browser]]:
    if not CHROMIUM.exists():
        if os.environ.get("CI"):
            raise FileNotFoundError(f"{CHROMIUM} is missing. Install Debian's package {CHROMIUM.name}.")
        pytest.skip(f"there is no {CHROMIUM} to test with")
    with (
        sync_playwright() as playwright,
        closing(launched(playwright)) as browser,
        closing(Desk(folder, browser)) as desk,
    ):
        yield desk, browser


@contextmanager
def pages(desk: Desk, browser: Browser) -> Iterator[Open]:
    """Open a page as somebody who is signed in; at the end, no script has failed and the policy was never broken."""
    desk.empty()
    complaints: list[str] = []
    contexts = []

    def open_page(at: str = "/review", *, name: str | None = "anna", answers: int = 6, **options: Any) -> Page:
        put_answers(desk.engine, answers, to_each=2 if at == "/compare" else 1)
        state = desk.signed_in[name] if name else None
        options = {"reduced_motion": "reduce", **options}
        context = patient(browser, base_url=desk.url, storage_state=state, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(said) if (said := complaint(message)) else None)
        page.goto(at)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not complaints, complaints


def sign_in(page: Page, name: str) -> None:
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()


def ready(page: Page) -> str:
    """Wait until the screen takes the next grade; return the answer that it shows, or that there is none."""
    expect(page.locator("#desk[data-ready]")).to_be_visible()
    return page.locator(".response, .empty").first.inner_text()


def press(page: Page, *keys: str) -> None:
    """Press keys, each when the screen is ready for it."""
    for key in keys:
        ready(page)
        page.keyboard.press(key)


def said(page: Page, words: str) -> None:
    """The live region says so, and so does the line that is seen; and what was said is stored."""
    expect(page.locator("#said")).to_have_text(words)
    expect(page.locator("[data-said]")).to_have_text(words)
    expect(page.locator("#desk:not([data-unsent])")).to_be_visible()
