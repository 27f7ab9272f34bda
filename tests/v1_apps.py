"""An application with a database of its own, and tokens for it: what the tests of `/v1` begin with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine
from web_fakes import GOOD, FakeService
from werkzeug.test import TestResponse

from rlhf_loop.accounts import tokens, users
from rlhf_loop.config import Settings
from rlhf_loop.domain import UserRole
from rlhf_loop.web import create_app

ALL_BUT_EXPERT = (tokens.READ, tokens.WRITE, tokens.REVIEW)
ITEM = {"prompt": "What helps against hiccups?", "response": "Hold your breath.", "id": "a-1"}


def settings_for(engine: Engine, folder: Path, **changes: Any) -> Settings:
    url = engine.url.render_as_string(hide_password=False)
    return Settings(**{"database_url": url, "rate_limit": "0", "outbox_path": folder / "outbox.db", **changes})


def token_for(engine: Engine, name: str, *, role: UserRole = UserRole.SERVICE, scopes: Any = ALL_BUT_EXPERT) -> str:
    """Add a user and return a token of theirs."""
    users.add(engine, name, role=role, actor="test")
    return another_token(engine, name, scopes=scopes)


def another_token(engine: Engine, name: str, *, scopes: Any = ALL_BUT_EXPERT) -> str:
    return tokens.add(engine, "test", user=name, scopes=scopes, actor="test").secret


@dataclass
class Caller:
    """Calls `/v1` with one token."""

    web: FlaskClient
    token: str

    def __call__(
        self, method: str, path: str, json: Any = None, *, key: str | None = None, **more: Any
    ) -> TestResponse:
        headers = {"Authorization": f"Bearer {self.token}", **({"Idempotency-Key": key} if key is not None else {})}
        how = more if json is None else {"json": json, **more}
        return self.web.open(f"/v1{path}", method=method, headers=headers, **how)

    def record(self, **fields: Any) -> str:
        """Record an interaction, and return its id."""
        response = self("POST", "/interactions", {**ITEM, **fields})
        assert response.status_code == 201, response.text
        return str(response.json and response.json["id"])


def app_on(engine: Engine, folder: Path, **changes: Any) -> Flask:
    return create_app(settings_for(engine, folder, **changes), service=FakeService(GOOD))


def caller(engine: Engine, folder: Path, name: str = "app", **options: Any) -> Caller:
    """An application of that name with a token, and its way to call."""
    return Caller(app_on(engine, folder).test_client(), token_for(engine, name, **options))
