from __future__ import annotations

import asyncio
import importlib.util
import inspect
import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydantic import BaseModel
from served_app import served_app
from sqlalchemy import Engine, select
from test_formats_openwebui import feedback, two_answers
from v1_apps import app_on, settings_for, token_for

from rlhf_loop.domain import Candidate, RankedCandidate, RecordedRanking
from rlhf_loop.store.recording import Recorder
from rlhf_loop.store.tables import Interaction, Review
from rlhf_loop.web.api.chat import _events

EXAMPLES = Path(__file__).parents[1] / "examples"
DRAFTS = tuple(
    RankedCandidate(Candidate(text), rank=rank, score=0.5, position=position)
    for rank, position, text in ((1, 2, "Ruhe."), (2, 0, "Kaffee."))
)
RANKING = RecordedRanking(
    id="r1",
    query="Was hilft?",
    candidates=DRAFTS,
    door="/v1/chat/completions",
    policy="live",
    ranked_at=datetime(2026, 1, 31, tzinfo=UTC),
)


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


def loaded(name: str) -> Any:
    """Load a file as Open WebUI's `load_function_module_by_id` does, which then looks for its class."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def function(stored: Feedbacks) -> Any:
    return loaded("openwebui_ratings").Event()


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


def streamed(answer: dict[str, Any]) -> dict[str, Any]:
    """Return the usage that Open WebUI's `process_chat_response` stores of a stream that went through the filter.

    It gives `Filter.stream` each piece as `event` (`process_filter_functions`), goes on with what comes back, and puts
    `usage` together as `merge_usage` does, which keeps what it does not know.
    """
    handler, usage = loaded("openwebui_rankings").Filter().stream, dict[str, Any]()
    for line in _events(answer, with_usage=True):
        if (piece := line.removeprefix("data: ").strip()) != "[DONE]":
            assert set(inspect.signature(handler).parameters) == {"event"}
            usage |= handler(event=json.loads(piece)).get("usage") or {}
    return usage


def test_the_filter_has_a_thumb_rate_the_draft(
    function: Any, stored: Feedbacks, address: str, engine: Engine, tmp_path: Path
) -> None:
    """It keeps the ranking's id in the answer's usage; the thumb, given, changed and taken back, is the draft's."""
    recorder = Recorder(settings_for(engine, tmp_path))
    recorder.record_ranking(RANKING)
    recorder.settle()
    recorder.close()
    about = {"index": 2, "score": 0.5, "ranking": "r1"}
    choice = {"index": 0, "message": {"role": "assistant", "content": "Ruhe."}, "rlhf": about}
    answer = {"id": "r1", "created": 1, "model": "m", "choices": [choice], "usage": {"total_tokens": 7}}
    usage = streamed(answer)
    assert usage == {"total_tokens": 7, "rlhf": {"ranking": "r1", "index": 2}}
    function.valves = function.Valves(url=address, token=token_for(engine, "openwebui"))

    def reviews() -> list[tuple[Any, ...]]:
        wanted = select(Interaction.external_id, Review.reviewer, Review.rating, Review.comment)
        with engine.connect() as connection:
            return [
                tuple(row) for row in connection.execute(wanted.join(Review, Review.interaction_key == Interaction.id))
            ]

    given = {"rating": 1, "reason": None, "comment": "Kurz.", "details": {}}
    for number, (rating, expected) in enumerate(((1, 5), (-1, 1), (0, None))):
        stored.stored["f1"] = feedback(*two_answers(usage=usage), data=given | {"rating": rating})
        happen(function, "feedback.updated", "f1", event=f"e{number}")
        assert reviews() == ([] if expected is None else [("r1.2", "openwebui:u-1", expected, "Kurz.")])
    for rlhf in ({}, {"index": 2, "score": 0.5, "ranking": None}):
        piece = {"choices": [{"index": 0, "delta": {}, "rlhf": rlhf}, "odd"]}
        assert "usage" not in loaded("openwebui_rankings").Filter().stream(piece)


@pytest.mark.parametrize("caller", [None, "chat"])
def test_a_thumb_of_no_draft_is_kept(
    function: Any, stored: Feedbacks, address: str, engine: Engine, tmp_path: Path, caller: str | None
) -> None:
    """Not recorded, or for another application: it goes with its texts, told of twice, changed and taken back."""
    if caller is not None:
        recorder = Recorder(settings_for(engine, tmp_path))
        recorder.record_ranking(replace(RANKING, caller=caller))
        recorder.settle()
        recorder.close()
    function.valves = function.Valves(url=address, token=token_for(engine, "openwebui"))
    for number, (rating, expected) in enumerate(((1, [5]), (1, [5]), (-1, [1]), (0, []))):
        given = {"rating": rating, "reason": None, "comment": "Kurz.", "details": {}}
        rated = two_answers(usage={"rlhf": {"ranking": "r1", "index": 2}})
        stored.stored["f1"] = feedback(*rated, data=given, updated_at=1769860000 + max(number, 1))
        happen(function, "feedback.updated", "f1", event=f"e{max(number, 1)}")
        with engine.connect() as connection:
            assert list(connection.execute(select(Review.rating)).scalars()) == expected


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
