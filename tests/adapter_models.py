"""Rankers for the tests of the adapters: a trained one, one without a model, and one that waits."""

from __future__ import annotations

import asyncio
import importlib
import os
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
from patience import PATIENCE_S

from rlhf_loop.config import Settings
from rlhf_loop.domain import Candidate, RankedCandidate, Ranking, RecordedRanking
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.ranking import Ranker
from rlhf_loop.reward import RewardModel
from rlhf_loop.reward.model_file import save

QUERY = "How do I treat a small burn?"
GOOD = (
    "Hold the burn under cool running water for 20 minutes, take off rings, and cover it loosely with cling film. "
    "See a doctor if it is larger than your hand, blistered on the face, or deep."
)
BAD = "The harbour museum opens at ten, and children get in free."
MIDDLING = "Burns are common."

_Found = TypeVar("_Found")


def needs(module: str, extra: str) -> None:
    """Skip the tests of a framework that is not installed; CI has all of them."""
    if os.environ.get("CI"):
        importlib.import_module(module)
    else:
        pytest.importorskip(module, reason=f"{module} is not installed; the extra [{extra}] and make adapters bring it")


def without_model(folder: Path, encoder: TextEncoder) -> Ranker:
    """A ranker that looks for a model in this folder."""
    return Ranker(Settings(model_path=folder / "reward_model.joblib"), encoder=encoder)


class Recording(Ranker):
    """Keeps the rankings that it is to record, all of them; there is no model, so they have their incoming order."""

    def __init__(self, folder: Path) -> None:
        super().__init__(Settings(model_path=folder / "none.joblib"), record=1.0)
        self.kept: list[RecordedRanking] = []

    def _recording(self) -> Recording:  # type: ignore[override]
        return self

    def record_ranking(self, ranking: RecordedRanking) -> bool:
        self.kept.append(ranking)
        return True

    def check(self, door: str, texts: Sequence[str], ids: Sequence[object]) -> None:
        """Assert that one ranking of these texts was kept, and that documents came back with its ids."""
        (kept,) = self.kept
        assert (kept.query, kept.door, kept.policy, kept.caller) == (QUERY, door, "incoming", None)
        assert [(each.text, each.score) for each in kept.candidates] == [(text, None) for text in texts]
        assert list(ids) == [f"{kept.id}.{place}" for place in range(len(texts))]


def promote_its_opposite(ranker: Ranker, model: RewardModel) -> None:
    """Put a model live that ranks the other way round."""
    scorer = replace(model.scorer, coef=-model.scorer.coef, intercept=-model.scorer.intercept)
    save(replace(model, scorer=scorer), ranker.model_path)


class Waiting(Ranker):
    """Ranks only when it is told to, and notes whether it ever was."""

    def __init__(self, folder: Path) -> None:
        super().__init__(Settings(model_path=folder / "none.joblib"))
        self.told = threading.Event()
        self.was_told = False

    def ranking(self, query: str, candidates: Sequence[Candidate], *, pointwise: bool = False) -> Ranking:
        self.was_told = self.told.wait(PATIENCE_S)
        ranked = [RankedCandidate(of, place + 1, 0.5, place) for place, of in enumerate(candidates)]
        return Ranking(tuple(ranked), "waiting-1")


def while_the_loop_goes_on(ranker: Waiting, rank: Callable[[], Awaitable[_Found]]) -> _Found:
    """Return what `rank` gives; the ranker only hears that it may rank if the event loop is free meanwhile."""

    async def both() -> _Found:
        ranking = asyncio.ensure_future(rank())
        await asyncio.sleep(0)
        ranker.told.set()
        return await ranking

    found = asyncio.run(both())
    assert ranker.was_told, "The event loop stood still while it was ranked."
    return found
