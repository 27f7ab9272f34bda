from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from rlhf_loop import registry
from rlhf_loop.config import Settings
from rlhf_loop.domain import ModelState
from rlhf_loop.errors import DatabaseError
from rlhf_loop.registry.runs import begin_run, runs
from rlhf_loop.reward import RewardModel
from rlhf_loop.reward.model_file import load
from rlhf_loop.store.engine import open_database
from rlhf_loop.training.train import TrainingReport
from rlhf_loop.web.process import Database
from rlhf_loop.web.server import watch as module
from rlhf_loop.web.server.watch import Watch

Trained = tuple[RewardModel, TrainingReport]


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    return Settings(database_url=database_url, model_path=tmp_path / "reward_model.joblib")


def add(settings: Settings, model: RewardModel, number: int) -> registry.Version:
    engine = open_database(settings.database_url)
    version = registry.add(
        engine,
        settings,
        replace(model, card={"number": number}),
        state=ModelState.LIVE,
        reason="Better.",
        judgement={},
        metrics={},
        fitted=np.array([], dtype=np.int64),
    )
    engine.dispose()
    return version


def test_a_promotion_elsewhere_arrives(settings: Settings, tmp_path: Path, trained: Trained) -> None:
    """Another machine promotes with the same database and versions: the watch brings it to this one's file."""
    here = Watch(settings, Database(settings))
    here.look()
    first = add(settings, trained[0], 1)
    here.look()
    there = replace(settings, model_path=tmp_path / "there" / "m.joblib", models_path=tmp_path / "reward_models")
    second = add(there, trained[0], 2)
    assert load(settings.model_path, encoder=trained[0].encoder).sha256 == first.sha256
    here.look()
    assert load(settings.model_path, encoder=trained[0].encoder).sha256 == second.sha256


def test_what_is_damaged_is_mended_again_and_again(settings: Settings, trained: Trained) -> None:
    """A file that is damaged after it was found to be right is found out by the next look."""
    here = Watch(settings, Database(settings))
    version = add(settings, trained[0], 1)
    here.look()
    for _ in range(2):
        settings.model_path.write_bytes(b"noise")
        here.look()
        assert load(settings.model_path, encoder=trained[0].encoder).sha256 == version.sha256


def test_killed_runs_are_marked(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is logged as running while no training holds the lock has been killed."""
    engine = open_database(settings.database_url)
    begin_run(engine, started_at=datetime.now(UTC), recipe="auto", encoder="e", split_seed=0)
    monkeypatch.setattr(module, "_RUNS_EVERY_S", -1.0)
    Watch(settings, Database(settings)).look()
    (run,) = runs(engine)
    engine.dispose()
    assert run.status == "failed"
    assert run.error is not None
    assert "killed" in run.error


def test_without_a_database_it_says_so(tmp_path: Path) -> None:
    """A look at a database that cannot be reached is an error for the thread to log; nothing else happens."""
    (tmp_path / "file").touch()
    settings = Settings(database_url=f"sqlite:///{tmp_path}/file/x.db", model_path=tmp_path / "m.joblib")
    with pytest.raises(DatabaseError):
        Watch(settings, Database(settings)).look()
