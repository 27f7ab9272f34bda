from __future__ import annotations

import asyncio
import importlib.util
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydantic import BaseModel
from served_app import served_app
from sqlalchemy import Engine, select
from test_formats_openwebui import feedback
from v1_apps import app_on, token_for

from rlhf_loop.store.tables import Review

FILE = Path(__file__).parents[1] / "examples" / "openwebui_ratings.py"


class FeedbackModel(BaseModel):
    """As `open_webui.models.feedbacks` of version 0.12 has it."""

    id: str
    user_id: str
    version: int
    type: str
    data: dict[str, Any] | None = None
    meta: dict[str, Any] | None = None
    snapshot: dict[str, Any] | None = None
    created_at: int
    updated_at: int


class Feedbacks:
    """What Open WebUI has stored."""

    def __init__(self) -> None:
        self.stored: dict[str, dict[str, Any]] = {}

    async def get_feedback_by_id(self, id: str) -> FeedbackModel | None:
        return FeedbackModel(**self.stored[id]) if id in self.stored else None


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> Feedbacks:
    """The inside of an Open WebUI, as far as the function sees it."""
    feedbacks = Feedbacks()
    for name in ("open_webui", "open_webui.models", "open_webui.models.feedbacks"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(sys.modules["open_webui.models.feedbacks"], "Feedbacks", feedbacks, raising=False)
    return feedbacks


@pytest.fixture
def function(stored: Feedbacks) -> Any:
    spec = importlib.util.spec_from_file_location("openwebui_ratings", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Event()


@pytest.fixture
def address(engine: Engine, tmp_path: Path) -> Iterator[str]:
    with served_app(app_on(engine, tmp_path)) as address:
        yield address


def happen(function: Any, name: str, id: str, *, event: str = "e1") -> None:
    """Dispatch an event as Open WebUI does."""
    payload = {"id": event, "event": name, "subject": {"type": "feedback", "id": id}, "data": {"rating": 1}}
    asyncio.run(function.event(event=payload, __event_name__=name))


def test_a_thumb_comes_at_once(function: Any, stored: Feedbacks, address: str, engine: Engine) -> None:
    """Given, changed, and told of twice; other events are none of its business."""
    function.valves = function.Valves(url=address + "/", token=token_for(engine, "openwebui"))
    stored.stored["f1"] = feedback()

    def reviews() -> list[tuple[Any, ...]]:
        with engine.connect() as connection:
            return [tuple(row) for row in connection.execute(select(Review.reviewer, Review.rating))]

    happen(function, "auth.signup", "f1")
    happen(function, "feedback.created", "gone")
    assert reviews() == []
    for _ in range(2):
        happen(function, "feedback.created", "f1")
    assert reviews() == [("openwebui:u-1", 5)]
    stored.stored["f1"] = feedback(data={"rating": -1, "details": {"rating": 1}}, updated_at=1769860000)
    happen(function, "feedback.updated", "f1", event="e2")
    assert reviews() == [("openwebui:u-1", 1)]


def test_trouble_is_in_its_log(
    function: Any, stored: Feedbacks, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A token that is none, and nobody there; Open WebUI goes on."""
    stored.stored["f1"] = feedback()
    with caplog.at_level(logging.ERROR):
        for url, words in ((address, "The token is unknown"), ("http://127.0.0.1:1", "cannot be reached")):
            function.valves = function.Valves(url=url, token="rlhf_none")
            happen(function, "feedback.created", "f1")
            assert words in caplog.text
