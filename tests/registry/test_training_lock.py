from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from forked_process import program
from patience import until
from sqlalchemy import Engine

from rlhf_loop.config import Settings
from rlhf_loop.errors import ModelFileError, TrainingRunningError
from rlhf_loop.registry.runs import begin_run, mark_dead_runs, runs, training_lock
from rlhf_loop.store.engine import open_database

HOLDER = """
import sys, time
from pathlib import Path
from rlhf_loop.config import Settings
from rlhf_loop.store.engine import open_database
from rlhf_loop.registry.runs import training_lock
from rlhf_loop.registry.runs import begin_run
from datetime import UTC, datetime
engine = open_database(sys.argv[1])
with training_lock(engine, Settings(model_path=Path(sys.argv[2]))):
    begin_run(engine, started_at=datetime.now(UTC), recipe="auto", encoder="e", split_seed=0)
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(model_path=tmp_path / "here" / "m.joblib")


def test_one_at_a_time(engine: Engine, settings: Settings, tmp_path: Path) -> None:
    """Who comes second hears since when the first is running; on PostgreSQL from another machine, too."""
    elsewhere = Settings(model_path=tmp_path / "elsewhere" / "m.joblib")
    with training_lock(engine, settings):
        begin_run(engine, started_at=datetime(2026, 5, 1, 9, 30, tzinfo=UTC), recipe="r", encoder="e", split_seed=0)
        with (
            pytest.raises(TrainingRunningError, match="running since 2026-05-01 09:30 UTC"),
            training_lock(engine, settings),
        ):
            pass
        assert mark_dead_runs(engine, settings) == 0
        if engine.dialect.name == "postgresql":
            with pytest.raises(TrainingRunningError), training_lock(engine, elsewhere):
                pass
            assert mark_dead_runs(engine, elsewhere) == 0
        assert runs(engine)[0].status == "running"
    with training_lock(engine, settings):
        assert runs(engine)[0].status == "failed"  # nobody was at work on it any more
    with training_lock(engine, elsewhere):
        pass


@pytest.mark.kill
def test_a_killed_process_lets_go(database_url: str, settings: Settings, tmp_path: Path) -> None:
    """SIGKILL frees the locks at once, and the run that it ended is marked as failed, once."""
    engine = open_database(database_url)
    process = program(HOLDER, database_url, settings.model_path, folder=tmp_path)
    try:
        until(lambda: process.said() == "held\n")
        assert mark_dead_runs(engine, settings) == 0
    finally:
        process.kill()
    marked = 0
    while not marked:  # PostgreSQL takes a moment to notice
        marked = mark_dead_runs(engine, settings)
    assert marked == 1
    assert mark_dead_runs(engine, settings) == 0
    (run,) = runs(engine)
    assert run.error is not None
    assert run.error.startswith("The process ended without a word")
    assert run.finished_at is not None
    engine.dispose()


def test_where_nothing_can_be_written(engine: Engine, tmp_path: Path) -> None:
    """A folder that cannot be made is an error that names the setting."""
    (tmp_path / "file").touch()
    with (
        pytest.raises(ModelFileError, match="RLHF_MODEL_PATH"),
        training_lock(engine, Settings(model_path=tmp_path / "file" / "m.joblib")),
    ):
        pass
