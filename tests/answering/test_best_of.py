"""Drafts for a chat, drawn at once: what is asked for, and what becomes of those that fail or are late."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from llm_endpoint import Endpoint, completion
from llm_endpoint import patient_drafts as patient_drafts
from patience import PATIENCE_S

from rlhf_loop.answering import best_of as drawing
from rlhf_loop.answering.best_of import BestOf
from rlhf_loop.config import Settings
from rlhf_loop.errors import ConfigError, LanguageModelError

pytestmark = pytest.mark.usefixtures("patient_drafts")

MESSAGES = [{"role": "user", "content": "What helps against hiccups?"}]


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    endpoint = Endpoint()
    yield endpoint
    endpoint.close()


@pytest.fixture
def drawer(endpoint: Endpoint) -> Iterator[Callable[..., BestOf]]:
    made: list[BestOf] = []

    def make(**changes: Any) -> BestOf:
        made.append(BestOf(Settings(llm_url=endpoint.url, llm_model="small", **changes)))
        return made[-1]

    yield make
    for each in made:
        each.close()


def asked(endpoint: Endpoint, *names: str) -> list[tuple[Any, ...]]:
    """Return these values of each request, in any order."""
    return sorted(tuple(body.get(name) for name in names) for body, _ in endpoint.requests)


def test_what_is_asked_for(endpoint: Endpoint, drawer: Callable[..., BestOf]) -> None:
    """Models and temperatures take turns, seeds differ, and all else goes on as it came; what is ours does not."""
    best_of = drawer(best_of_models=("small", "large"), best_of_temperatures=("0.3", "0.9"))
    more = {"max_tokens": 7, "top_k": 5, "tools": [], "response_format": {"type": "json_object"}, "stop": ["."]}
    best_of.draw(
        {"model": "any", "messages": MESSAGES, "seed": 10, "n": 2, "stream": True, "stream_options": {}, **more}
    )
    assert asked(endpoint, "model", "temperature", "seed") == [
        ("large", 0.3, 11),
        ("large", 0.9, 13),
        ("small", 0.3, 10),
        ("small", 0.9, 12),
    ]
    for body, _ in endpoint.requests:
        assert body == {**more, **{name: body[name] for name in ("model", "temperature", "seed")}, "messages": MESSAGES}
    endpoint.requests.clear()
    best_of.draw({"model": "large", "messages": MESSAGES, "temperature": 0, "best_of": 3})
    assert asked(endpoint, "model", "temperature", "seed") == [("large", 0, None)] * 3


@pytest.mark.parametrize(
    "broken",
    [(500, {}), (200, b"no JSON"), (200, {"choices": []}), (200, {"choices": [{"message": None}]}), (200, [])],
    ids=["500", "no JSON", "no choice", "no message", "a list"],
)
def test_a_draft_that_fails_costs_only_itself(
    endpoint: Endpoint, drawer: Callable[..., BestOf], broken: tuple[int, object]
) -> None:
    """The others are there, in the order in which they were asked for."""
    endpoint.reply = lambda body: broken if body["seed"] == 1 else (200, completion(f"Draft {body['seed']}."))
    drafts = drawer().draw({"messages": MESSAGES, "seed": 0})
    assert [draft.text for draft in drafts] == ["Draft 0.", "Draft 2.", "Draft 3."]
    assert [draft.model for draft in drafts] == ["small"] * 3


def test_a_draft_that_is_late_costs_only_itself(
    endpoint: Endpoint, drawer: Callable[..., BestOf], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the others are there, nobody waits for it as long as the timeout."""
    endpoint.reply = lambda body: endpoint.hang(body) if body["seed"] == 0 else (200, completion("In time."))
    # A machine may be so busy that another one is late, too.
    for at_least_s in (0.05, 0.5, 5.0, 50.0):
        monkeypatch.setattr(drawing, "_AT_LEAST_S", at_least_s)
        drafts = drawer(llm_timeout_s=PATIENCE_S).draw({"messages": MESSAGES, "seed": 0})
        if len(drafts) == 3:
            break
    assert [draft.text for draft in drafts] == ["In time."] * 3


@pytest.mark.parametrize(
    ("reply", "status", "message"),
    [
        ((400, {"error": {"message": "max_tokens is too large"}}), 400, "refuses this: .*max_tokens is too large"),
        ((422, {"detail": "bad"}), 400, "refuses this"),
        ((429, {}), 429, "too many requests"),
        ((401, {}), 502, "None of 4 drafts could be had .*AuthenticationError"),
        ((500, {}), 502, "None of 4 drafts could be had .*InternalServerError"),
        ((200, b"x"), 502, "None of 4 drafts"),
    ],
)
def test_where_all_fail(
    endpoint: Endpoint, drawer: Callable[..., BestOf], reply: tuple[int, object], status: int, message: str
) -> None:
    """The error says whose fault it is; what the endpoint refuses turns it off for nobody else."""
    endpoint.reply = lambda _: reply
    best_of = drawer()
    for _ in range(4):
        with pytest.raises(LanguageModelError, match=message) as failed:
            best_of.draw({"messages": MESSAGES})
        assert failed.value.status == status
        if status != 400:
            status, message = (status, message) if len(endpoint.requests) < 12 else (503, r"paused for \d+ s")


def test_where_none_is_in_time(endpoint: Endpoint, drawer: Callable[..., BestOf]) -> None:
    """It is the language model's time-out."""
    endpoint.reply = endpoint.hang
    with pytest.raises(LanguageModelError, match="None of 2 drafts") as failed:
        drawer(llm_timeout_s=0.2).draw({"messages": MESSAGES, "best_of": 2})
    assert failed.value.status in (502, 504)


def test_only_so_many_drafts_at_once(
    endpoint: Endpoint, drawer: Callable[..., BestOf], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the limit there are fewer drafts, and none is an error that says to come again."""
    best_of = drawer()
    monkeypatch.setattr(drawing, "_RUNNING", 3)
    assert len(best_of.draw({"messages": MESSAGES})) == 3
    monkeypatch.setattr(drawing, "_RUNNING", 0)
    with pytest.raises(LanguageModelError, match="is busy") as failed:
        best_of.draw({"messages": MESSAGES})
    assert (failed.value.status, failed.value.retry_after_s) == (503, 5)


@pytest.mark.parametrize("temperature", ["warm", "-1", "nan", "2.5"])
def test_temperatures_that_are_none(temperature: str) -> None:
    """They are found before the service starts."""
    with pytest.raises(ConfigError, match="RLHF_BEST_OF_TEMPERATURES has"):
        BestOf(Settings(llm_url="http://127.0.0.1:1", llm_model="small", best_of_temperatures=(temperature,)))
