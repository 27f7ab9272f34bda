from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from adapter_models import BAD, GOOD, QUERY, needs
from databases import sqlite_database

from rlhf_loop.answering import AnswerService
from rlhf_loop.config import Settings
from rlhf_loop.domain import Passage, ReviewerRole
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.reward import RewardModel
from rlhf_loop.reward.model_file import save
from rlhf_loop.store.engine import make_engine
from rlhf_loop.store.interactions import stats

needs("mcp", "mcp")

from mcp import Client  # noqa: E402

from rlhf_loop.cli.mcp import mcp_server  # noqa: E402


class Source:
    """Finds two passages for any question."""

    name = "leaflets"

    def search(self, query: str, *, limit: int) -> list[Passage]:
        return [Passage(text=text, title="Burns") for text in (BAD, GOOD)]


@pytest.fixture
def settings(tmp_path: Path, reward_model: RewardModel) -> Settings:
    found = Settings(database_url=sqlite_database(tmp_path / "rlhf.db"), model_path=tmp_path / "model.joblib")
    save(reward_model, found.model_path)
    return found


@pytest.fixture
def service(settings: Settings, encoder: TextEncoder) -> Iterator[AnswerService]:
    service = AnswerService(settings, sources=[Source()], encoder=encoder)
    yield service
    service.close()


def called(service: AnswerService, *calls: tuple[str, dict[str, Any]], share: float = 0.0) -> list[Any]:
    """Return what the tools give to a client of the SDK, one after the other; of errors their text."""

    async def call() -> list[Any]:
        server = mcp_server(service, reviewer="mcp:ann", role=ReviewerRole.END_USER, share=share)
        async with Client(server) as client:
            assert {tool.name for tool in (await client.list_tools()).tools} == {"rerank", "answer", "rate"}
            found = []
            for name, arguments in calls:
                of = await client.call_tool(name, arguments)
                found.append(of.content[0].text if of.is_error else of.structured_content)
            return found

    return asyncio.run(call())


def test_an_assistant_ranks_asks_and_rates(service: AnswerService, settings: Settings) -> None:
    """By the official SDK; what it rates is stored as the word of an end user."""
    ranked, found = called(
        service, ("rerank", {"query": QUERY, "documents": [BAD, " ", GOOD]}), ("answer", {"question": QUERY})
    )
    assert [each["index"] for each in ranked["result"]] == [2, 0]
    assert ranked["result"][0]["interaction_id"] is None
    assert (found["answers"][0]["text"], found["answers"][0]["source"]) == (GOOD, "leaflets")
    [said] = called(service, ("rate", {"interaction_id": found["answers"][0]["interaction_id"], "rating": 5}))
    assert said == {"result": "Stored."}
    engine = make_engine(settings.database_url)
    assert stats(engine).end_user_reviews == 1
    engine.dispose()


def test_a_recorded_ranking_can_be_rated(service: AnswerService) -> None:
    """Where rankings are recorded."""
    [ranked] = called(service, ("rerank", {"query": QUERY, "documents": [BAD, GOOD]}), share=1.0)
    service.settle("")
    first = ranked["result"][0]["interaction_id"]
    assert first is not None, json.dumps(ranked)


def test_what_a_tool_refuses_is_said_to_the_assistant(service: AnswerService) -> None:
    """In words that say what to do."""
    said = called(
        service,
        ("rerank", {"query": " ", "documents": ["a"]}),
        ("rate", {"interaction_id": "gone", "rating": 4}),
        ("rate", {"interaction_id": "gone", "rating": 9}),
        ("answer", {"question": ""}),
    )
    for text, words in zip(said, ("question and 1 to", "no answer 'gone'", "9", "query"), strict=True):
        assert words in str(text), text
