"""`rlhf-loop worker` as a process, as a service manager meets it."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from databases import sqlite_database
from forked_process import ForkedProcess, start
from patience import PATIENCE_S, until

from rlhf_loop import registry, sample
from rlhf_loop.exchange.transfer import import_ratings
from rlhf_loop.registry.runs import runs
from rlhf_loop.store.engine import open_database

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM")]

#: Python reads it as it starts: a training that has begun does not end by itself.
_LASTING = f"""
import time
from rlhf_loop.registry import training_run
training_run.load_encoder = lambda settings: time.sleep({PATIENCE_S})
"""

Environ = dict[str, str]
Worker = Callable[..., ForkedProcess]


@pytest.fixture
def environ(tmp_path: Path, encoder_cache: Path, model_folder: Path) -> Environ:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RLHF_")}
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "RLHF_DATABASE_URL": sqlite_database(tmp_path / "rlhf.db"),
        "RLHF_MODEL_PATH": str(tmp_path / "m.joblib"),
        "RLHF_CACHE_DIR": str(encoder_cache),
        "RLHF_ENCODER_THREADS": "1",
        "RLHF_ENCODER_PATH": str(model_folder),
    }


@pytest.fixture
def worker(environ: Environ, tmp_path: Path) -> Iterator[Worker]:
    """Start a worker with these options and settings; it writes to a log."""
    started: list[ForkedProcess] = []

    def worker(*options: str, **changes: str) -> ForkedProcess:
        log, out = tmp_path / "log", tmp_path / "out"
        started.append(start(["worker", *options], environ={**environ, **changes}, log=log, out=out))
        return started[-1]

    yield worker
    for process in started:
        if not process.ended():
            process.kill()


def said(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def has_said(log: Path, words: str) -> Callable[[], bool]:
    return lambda: log.exists() and words in log.read_text()


def test_once(worker: Worker, environ: Environ, tmp_path: Path) -> None:
    """With --once it trains on what is there, puts the model live, and ends; all that it says is JSON."""
    engine = open_database(environ["RLHF_DATABASE_URL"])
    import_ratings(engine, sample.RATINGS_FILE)
    process = worker("--once")
    assert process.wait(PATIENCE_S) == 0
    (line,) = [line for line in said(tmp_path / "log") if "Retraining ended" in line["message"]]
    assert line["exit_code"] == 0
    assert line["said"].startswith("Due: 200 answers are rated, and nothing was trained yet.")
    live = registry.live(engine)
    assert live is not None
    assert runs(engine)[0].status == "succeeded"
    engine.dispose()


def test_once_that_fails(worker: Worker, tmp_path: Path) -> None:
    """If something could not be done, --once says so by its exit code, and the log has the reason."""
    (tmp_path / "rlhf.db").write_bytes(b"no database at all, but long enough to be read as one" * 20)
    process = worker("--once")
    assert process.wait(PATIENCE_S) == 1
    assert any("could not be done" in line["message"] for line in said(tmp_path / "log"))


def test_stopped_in_the_middle_of_a_training(worker: Worker, environ: Environ, tmp_path: Path) -> None:
    """The training ends with the worker, and its run is logged as failed."""
    engine = open_database(environ["RLHF_DATABASE_URL"])
    import_ratings(engine, sample.RATINGS_FILE)
    (tmp_path / "sitecustomize.py").write_text(_LASTING)
    process = worker("--once", PYTHONPATH=os.pathsep.join([str(tmp_path), environ["PYTHONPATH"]]))
    until(lambda: [run.status for run in runs(engine)] == ["running"])
    process.send(signal.SIGINT)
    assert process.wait(PATIENCE_S) == 1
    (line,) = [line for line in said(tmp_path / "log") if "Retraining ended" in line["message"]]
    assert "it was stopped, with the worker" in line["message"]
    assert [run.status for run in runs(engine)] == ["failed"]
    assert registry.live(engine) is None
    engine.dispose()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals(worker: Worker, tmp_path: Path, number: signal.Signals) -> None:
    """It runs until it is told to end, and ends with exit code 0."""
    process = worker()
    until(has_said(tmp_path / "log", "The worker begins"))
    process.send(number)
    assert process.wait(PATIENCE_S) == 0
    first, *_, last = said(tmp_path / "log")
    assert re.search(r"every hour \(UTC\), next at 2\d{3}-\d\d-\d\d \d\d:00\.", first["message"])
    assert last["message"] == "The worker ends."


def test_a_bad_schedule(worker: Worker, tmp_path: Path) -> None:
    """A schedule that is none is an error at once."""
    assert worker(RLHF_WORKER_SCHEDULE="daily").wait(PATIENCE_S) == 2
    assert "Error: RLHF_WORKER_SCHEDULE='daily' is not a time as in a crontab" in (tmp_path / "log").read_text()
