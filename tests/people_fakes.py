"""A service with people in it, and browsers that use its forms as people do."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from flask import Flask
from sqlalchemy import Engine, func, select
from web_fakes import GOOD, FakeService
from werkzeug.test import TestResponse

from rlhf_loop.accounts import users
from rlhf_loop.config import Settings
from rlhf_loop.domain import User, UserRole
from rlhf_loop.store import audit
from rlhf_loop.web import create_app

PASSWORD = "seven quiet otters"
OTHER_PASSWORD = "nine loud badgers"
NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


class Clock:
    """A time that moves when it is told to."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now

    def wait(self, **how_long: float) -> None:
        self.now += timedelta(**how_long)


class Browser:
    """Keeps cookies, follows nothing by itself, and sends forms with what is hidden in them."""

    def __init__(self, app: Flask, *, base_url: str = "http://localhost") -> None:
        self.client = app.test_client()
        self.base_url = base_url

    def get(self, path: str, **how: Any) -> TestResponse:
        return self.client.get(path, base_url=self.base_url, **how)

    def form_token(self, path: str) -> str:
        found = re.search(r'name="form_token" value="([0-9a-f]{64})"', self.get(path).text)
        assert found, f"{path} has no form"
        return found[1]

    def post(self, path: str, data: dict[str, Any] | None = None, *, page: str, **how: Any) -> TestResponse:
        """Send a form as it stands on `page`."""
        filled = {"form_token": self.form_token(page), **(data or {})}
        return self.client.post(path, data=filled, base_url=self.base_url, **how)

    def sign_in(self, name: str, password: str = PASSWORD, **more: str) -> TestResponse:
        return self.post("/sign-in", {"name": name, "password": password, **more}, page="/sign-in")


class Site:
    """The service on a database, with an admin (ada), a rater (rita) and an application (app)."""

    def __init__(self, engine: Engine, **settings: Any) -> None:
        self.engine = engine
        self.settings = settings_of(engine, **settings)
        self.service = FakeService(GOOD)
        self.app = create_app(self.settings, service=self.service)
        self.ada = users.add(engine, "ada", role=UserRole.ADMIN, password=PASSWORD, actor="test")
        self.rita = users.add(engine, "rita", role=UserRole.RATER, password=PASSWORD, actor="test")
        self.bot = users.add(engine, "bot", role=UserRole.SERVICE, actor="test")

    def browser(self, user: User | None = None, *, base_url: str = "http://localhost") -> Browser:
        browser = Browser(self.app, base_url=base_url)
        if user is not None:
            assert browser.sign_in(user.name).status_code == 303
        return browser

    def another_process(self) -> Flask:
        return create_app(self.settings, service=self.service)


def settings_of(engine: Engine, **more: Any) -> Settings:
    """The settings of a service on this database."""
    url = engine.url.set(drivername=engine.url.drivername.partition("+")[0]).render_as_string(hide_password=False)
    return replace(Settings(database_url=url, rate_limit="0", secret_key="k" * 32), **more)


def actions(engine: Engine) -> list[str]:
    """What the audit log has, the oldest first."""
    return [entry.action for entry in reversed(audit.entries(engine, limit=1000))]


def count(engine: Engine, table: type) -> int:
    with engine.connect() as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()
