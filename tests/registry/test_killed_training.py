"""Trainings as processes: killed at any instant, the live model is whole and the run failed; of two, one runs."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from forked_process import ForkedProcess, start
from patience import PATIENCE_S, until
from sqlalchemy import Engine

from rlhf_loop import registry, sample
from rlhf_loop.config import Settings
from rlhf_loop.domain import RunRecord
from rlhf_loop.encoders.weights import MODEL_NAME
from rlhf_loop.exchange.transfer import import_ratings
from rlhf_loop.registry.runs import mark_dead_runs, runs
from rlhf_loop.reward.model_file import load

pytestmark = [pytest.mark.kill, pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")]

#: More runs than there will be.
MANY = 1000
#: Without a learning curve, which takes longer than the training.
VALUES = {"rlhf_loop.training.learning_curve:MOST": 0}
#: Instants that chance would seldom hit.
STEPS = {
    "its files are written, the registry does not know it": "rlhf_loop.registry.promotion:_insert:1:SIGKILL",
    "it is a candidate": "rlhf_loop.registry.promotion:_promoted:1:SIGKILL",
    "it is live, its file is not in its place": "rlhf_loop.registry.versions:deploy:1:SIGKILL",
    "the sums of both are there, the old file still is": "rlhf_loop.reward.model_file:write_whole:5:SIGKILL",
    "the new file is there, the sums of both still are": "rlhf_loop.reward.model_file:write_whole:6:SIGKILL",
    "all is done, the log does not know it": "rlhf_loop.registry.training_run:end_run:1:SIGKILL",
}


@dataclass
class Trainings:
    """Trainings in processes of their own, and what they left behind."""

    engine: Engine
    settings: Settings
    environ: Mapping[str, str]
    folder: Path
    started: list[ForkedProcess] = field(default_factory=list)

    def start(self, *command: str, step: str = "") -> ForkedProcess:
        """Start one, with a seed and thus a model of its own, unless `command` is another; return it when it runs."""
        number = len(self.started)
        command = command or ("train", "--recipe", "passages", "--seed", str(number))
        process = start(
            command, environ=self.environ, log=self.folder / f"{number}.log", values=VALUES, promotes=True, step=step
        )
        self.started.append(process)
        until(lambda: "began" in process.said())
        return process

    def complete(self) -> float:
        """Let one run to its end; return the seconds that it took."""
        process = self.start()
        began = time.monotonic()
        assert process.wait(PATIENCE_S) == 0, process.said()
        return time.monotonic() - began

    def sha256(self) -> str:
        """Return the sum of the live model file, which can be used."""
        return load(self.settings.model_path, encoder=MODEL_NAME).sha256

    def check(self, before: str, known: int) -> RunRecord | None:
        """Look at what a killed training left, as others do; return its run, None if it had none yet.

        `before` is the sum of the model that was live, `known` the number of runs that there were.
        """
        at_once = self.sha256()
        assert at_once in {before, registry.versions(self.engine)[0].sha256}
        registry.settle(self.engine, self.settings)
        live = registry.live(self.engine)
        assert live is not None
        assert self.sha256() == live.sha256
        assert at_once in {before, live.sha256}
        for version in registry.versions(self.engine):
            assert registry.load(self.settings, version, encoder=MODEL_NAME).sha256 == version.sha256

        def marked() -> bool:  # PostgreSQL takes a moment to notice that somebody is gone
            mark_dead_runs(self.engine, self.settings)
            return runs(self.engine)[0].status != "running"

        until(marked)
        found = runs(self.engine, limit=MANY)
        assert {run.status for run in found} <= {"succeeded", "failed"}
        return found[0] if len(found) > known else None


@pytest.fixture
def trainings(
    engine: Engine, database_url: str, tmp_path: Path, encoder_cache: Path, model_folder: Path
) -> Iterator[Trainings]:
    """With one training behind them, so that there is a live model, and the vectors are known."""
    import_ratings(engine, sample.RATINGS_FILE)
    settings = Settings(database_url=database_url, model_path=tmp_path / "m.joblib")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RLHF_")}
    environ = {
        **kept,
        "RLHF_DATABASE_URL": database_url,
        "RLHF_MODEL_PATH": str(settings.model_path),
        "RLHF_CACHE_DIR": str(encoder_cache),
        "RLHF_ENCODER_THREADS": "1",
        "RLHF_ENCODER_PATH": str(model_folder),
    }
    found = Trainings(engine, settings, environ, tmp_path)
    found.complete()
    yield found
    for each in found.started:
        each.process.kill()
        each.process.join()


def test_killed_at_any_instant(trainings: Trainings) -> None:
    """Ten times at random, three on PostgreSQL: the live model is the old or the new one, whole; then all goes on."""
    kills = 10 if trainings.engine.dialect.name == "sqlite" else 3
    chance = random.Random(20260524)
    seconds = trainings.complete()
    while kills:
        before, known = trainings.sha256(), len(runs(trainings.engine, limit=MANY))
        training = trainings.start()
        time.sleep(chance.uniform(0, seconds))
        training.process.kill()
        if training.wait(PATIENCE_S) == 0:  # it was faster than the first one, so that nothing was killed
            continue
        assert training.wait(0) == -signal.SIGKILL, training.said()
        kills -= 1
        run = trainings.check(before, known)
        if run is not None and run.status == "failed":
            assert run.finished_at is not None
            assert run.error is not None
            assert run.error.startswith("The process ended without a word")
    before, known = trainings.sha256(), len(runs(trainings.engine, limit=MANY))
    certain = trainings.start(step="rlhf_loop.registry.training_run:train:1:SIGKILL")
    assert certain.wait(PATIENCE_S) == -signal.SIGKILL, certain.said()
    run = trainings.check(before, known)
    assert run is not None
    assert (run.status, trainings.sha256()) == ("failed", before)
    trainings.complete()
    assert trainings.sha256() != before
    assert runs(trainings.engine)[0].status == "succeeded"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_killed_where_it_matters(trainings: Trainings) -> None:
    """Killed between two steps of a promotion, which `settle` then finishes, or leaves as if it had not begun."""
    promoted = {}
    for name, step in STEPS.items():
        before, known = trainings.sha256(), len(runs(trainings.engine, limit=MANY))
        training = trainings.start(step=step)
        assert training.wait(PATIENCE_S) == -signal.SIGKILL, training.said()
        run = trainings.check(before, known)
        assert run is not None
        assert run.status == "failed", name
        promoted[name] = trainings.sha256() != before
    assert list(promoted.values()) == [False, False, True, True, True, True]


def test_two_at_once(trainings: Trainings) -> None:
    """While one runs, another one says since when, ends with an exit code of its own, and leaves no trace."""
    first = trainings.start(step="rlhf_loop.registry.training_run:_live_model:1:SIGSTOP")
    until(lambda: "there" in first.said() and first.has_stopped())
    (running, *others) = runs(trainings.engine)
    assert running.status == "running"
    second = trainings.start("retrain")
    assert second.wait(PATIENCE_S) == 75
    assert f"Another training is running since {running.started_at:%Y-%m-%d %H:%M} UTC" in second.said()
    assert runs(trainings.engine) == [running, *others]
    first.send(signal.SIGCONT)
    assert first.wait(PATIENCE_S) == 0, first.said()
    assert runs(trainings.engine)[0].status == "succeeded"
