"""An application whose service ranks: what the tests of the rerank API begin with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from databases import sqlite_database
from flask import Flask
from flask.testing import FlaskClient
from web_fakes import FakeService
from werkzeug.test import TestResponse

from rlhf_loop.config import Settings
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.ranking import Ranker
from rlhf_loop.reward import RewardModel
from rlhf_loop.reward.model_file import save
from rlhf_loop.web import create_app

QUERY = "How do I treat a small burn?"
GOOD = (
    "Hold the burn under cool running water for 20 minutes, take off rings, and cover it loosely with cling film. "
    "See a doctor if it is larger than your hand, blistered on the face, or deep."
)
BAD = "The harbour museum opens at ten, and children get in free."
FAIR = "Burns are common."
DOCUMENTS = [BAD, GOOD, FAIR]

REQUESTS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "data" / "rerank_requests.json").read_text(encoding="utf-8")
)


class RankingService(FakeService):
    """A fake that has a real ranker, or the one that it is given."""

    def __init__(self, ranker: Any) -> None:
        super().__init__()
        self._ranker = ranker

    def ranker(self) -> Any:
        return self._ranker

    def switched_off(self) -> bool:
        return isinstance(self._ranker, Ranker) and self._ranker.off


def ranker_in(folder: Path, encoder: TextEncoder, model: RewardModel | None) -> Ranker:
    """Return a ranker whose model file is in the folder, if there is a model."""
    settings = Settings(model_path=folder / "reward_model.joblib")
    if model is not None:
        save(model, settings.model_path)
    return Ranker(settings, encoder=encoder)


def app_with(ranker: Any, folder: Path, **changes: Any) -> Flask:
    """Return the application, with a database that nobody has made yet; `ranker` may be its whole service."""
    settings = Settings(**{"database_url": sqlite_database(folder / "rlhf.db"), "rate_limit": "0", **changes})
    return create_app(settings, service=ranker if isinstance(ranker, RankingService) else RankingService(ranker))


def post(web: FlaskClient, path: str, body: Any = None, **more: Any) -> TestResponse:
    """Send JSON, or `data` as it is."""
    how = {"json": body, **more} if body is not None else {"content_type": "application/json", **more}
    return web.post(path, **how)
