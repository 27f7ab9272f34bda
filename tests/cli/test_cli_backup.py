"""`rlhf-loop backup` and `restore`, as an operator types them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from databases import sqlite_database

from rlhf_loop.cli import main
from rlhf_loop.cli.doctor.loop import backup
from rlhf_loop.config import Settings
from rlhf_loop.domain import Rating
from rlhf_loop.store.engine import open_database
from rlhf_loop.store.interactions import record

Run = Callable[..., Result]


@pytest.fixture
def loop(tmp_path: Path) -> Run:
    def run(*arguments: object, code: int = 0, place: str = "here") -> Result:
        folder = tmp_path / place
        environment = {
            "RLHF_DATABASE_URL": f"sqlite:///{folder / 'rlhf.db'}",
            "RLHF_MODEL_PATH": str(folder / "m.joblib"),
            "RLHF_OUTBOX_PATH": str(folder / "outbox.db"),
            "RLHF_INDEX_PATH": str(folder / "index"),
            "RLHF_LLM_API_KEY": "sk-1",
        }
        result = CliRunner().invoke(main, [str(each) for each in arguments], env=environment)
        assert result.exit_code == code, result.output
        return result

    return run


def test_from_one_machine_to_another(loop: Run, tmp_path: Path) -> None:
    """A backup, a look at it, and its restoration elsewhere, which a second one does not overwrite."""
    (tmp_path / "here").mkdir()
    engine = open_database(sqlite_database(tmp_path / "here" / "rlhf.db"))
    record(engine, [Rating("Kept?", "Kept.", rating=4)])
    engine.dispose()
    file = tmp_path / "made.zip"
    said = loop("backup", "--index", file).stdout
    assert "tables, 0 versions of the model, 0 sections of the index" in said
    assert "It was read again, and is whole." in said
    assert "is whole: " in loop("restore", file, "--check", place="there").stdout
    assert not (tmp_path / "there").exists()
    said = loop("restore", file, place="there").stdout
    assert "No version is live." in said
    assert "RLHF_LLM_API_KEY=...," in said
    assert "1 of 50" in loop("ratings", "stats", place="there").stdout
    assert "is not empty" in loop("restore", file, code=2, place="there").stderr
    loop("models", "off", "--reason", "bad", place="there")
    said = loop("restore", file, "--replace", place="there").stdout
    assert "No version is live. It does not rank, as the model is switched off" in said
    before = file.read_bytes()
    database = tmp_path / "elsewhere" / "rlhf.db"
    said = loop("backup", file, code=2, place="elsewhere").stderr
    assert f"The database sqlite:///{database} is not there, or holds nothing, so no backup is made of it" in said
    assert not database.parent.exists()
    assert file.read_bytes() == before
    file.write_bytes(before[:-9])
    assert "is not a whole backup" in loop("restore", file, "--check", code=2).stderr
    assert "There is no backup" in loop("restore", tmp_path / "none.zip", code=2).stderr


def test_the_doctor_knows_the_last_one(loop: Run, tmp_path: Path) -> None:
    """When it was made; with a folder for the worker's, two that were missed are a fault."""
    (tmp_path / "here").mkdir()
    engine = open_database(sqlite_database(tmp_path / "here" / "rlhf.db"))
    record(engine, [Rating("Kept?", "Kept.")])
    now = datetime.now(UTC)
    plain, nightly = Settings(), Settings(backup_path=tmp_path)
    (found,) = backup(engine, plain, now)
    assert found.text.startswith("there was none yet; rlhf-loop backup FILE writes one")
    loop("backup", tmp_path / "made.zip")
    for settings, days, fine in ((plain, 100, True), (nightly, 1, True), (nightly, 3, False)):
        (found,) = backup(engine, settings, now + timedelta(days=days))
        assert (found.text.startswith(f"the last one is {tmp_path / 'made.zip'}, of "), found.ok) == (True, fine)
    (tmp_path / "here" / "outbox.db").write_bytes(b"no database" * 100)
    said = loop("backup", tmp_path / "made.zip", code=1)
    assert "It was read again, and is whole." in said.stdout
    assert "It lacks what could not be read: The outbox " in said.stderr
    assert "The backup lacks what could not be read then: " in loop("restore", tmp_path / "made.zip", place="t").stderr
    (found,) = backup(engine, plain, now)
    assert ("and lacks some: The outbox " in found.text, found.ok) == (True, False)
    engine.dispose()
