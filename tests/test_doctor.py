from __future__ import annotations

import importlib.util
import re
import sqlite3
import tomllib
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import text

from rlhf_loop.cli import main
from rlhf_loop.config import Settings
from rlhf_loop.db import VERSION_TABLE, make_engine, migrate
from rlhf_loop.doctor import EXTRAS, Finding, examine
from rlhf_loop.reward import RewardModel
from rlhf_loop.reward.model_file import save
from rlhf_loop.training import TrainingReport


@pytest.fixture
def settings(tmp_path: Path, model_folder: Path) -> Settings:
    return Settings(
        database_url=f"sqlite:///{tmp_path / 'rlhf.db'}",
        model_path=tmp_path / "reward_model.joblib",
        cache_dir=tmp_path / "cache",
        encoder_path=model_folder,
        encoder_precision="fp32",
    )


def about(findings: list[Finding], topic: str) -> list[Finding]:
    return [finding for finding in findings if finding.topic == topic]


def test_a_fresh_machine_hears_what_to_do(settings: Settings, tmp_path: Path) -> None:
    """Before first use, database and model are missing, each with the command that makes it; looking makes neither."""
    findings = examine(settings)
    (database,), (model,) = about(findings, "database"), about(findings, "model")
    assert (database.ok, database.advice) == (False, "Run: rlhf-loop init")
    assert (model.ok, model.advice) == (False, "Run: rlhf-loop train")
    assert list(tmp_path.iterdir()) == []


def test_all_is_well_after_init_and_train(settings: Settings, trained: tuple[RewardModel, TrainingReport]) -> None:
    """With a database, a model and the weights there is nothing to complain of."""
    engine = make_engine(settings.database_url)
    migrate(engine)
    engine.dispose()
    save(trained[0], settings.model_path)
    findings = examine(settings)
    assert [finding for finding in findings if not finding.ok] == []
    assert "passages-" in about(findings, "model")[0].text


def test_the_encoder_and_the_reason_are_named(settings: Settings) -> None:
    """What runs the encoder, in which precision, and why."""
    assert "onnxruntime in fp32" in about(examine(settings), "encoder")[0].text
    assert "set by RLHF_ENCODER_PRECISION" in about(examine(settings), "encoder")[0].text


def test_one_fault_does_not_hide_the_next(settings: Settings, tmp_path: Path) -> None:
    """A setting that cannot be and a damaged model are two findings, with advice each."""
    settings.model_path.write_bytes(b"no model")
    broken = Settings(encoder_runtime="tensorflow", database_url="oracle://x", model_path=settings.model_path)
    faults = {finding.topic: finding for finding in examine(broken) if not finding.ok}
    assert set(faults) == {"encoder", "database", "model"}
    assert all(finding.advice for finding in faults.values())


def test_every_extra_is_looked_for(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """An extra that is not there is no fault, and the line says how to get it."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = about(examine(settings), "extra")
    assert [line.text.partition(" ")[0] for line in found] == [f"[{extra}]" for extra in EXTRAS]
    assert all(line.ok and "pip install 'rlhf-loop[" in line.text for line in found)


def test_a_runtime_that_is_not_installed_is_a_fault(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever set sentence-transformers without the extra hears it here, and not at the first request."""
    real = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if "sentence" in name else real(name))
    wanted = replace(settings, encoder_runtime="sentence-transformers", encoder_precision="auto")
    (fault,) = [finding for finding in about(examine(wanted), "encoder") if not finding.ok]
    assert "rlhf-loop[torch]" in fault.advice


@pytest.mark.parametrize("journal", ["delete", "wal", None])
def test_looking_changes_no_file(settings: Settings, tmp_path: Path, journal: str | None) -> None:
    """Somebody else's database, an empty file and one with a log beside it stay as they are, byte for byte."""
    path = tmp_path / "rlhf.db"
    path.touch()
    with closing(sqlite3.connect(path)) as other:
        if journal:
            other.execute(f"PRAGMA journal_mode = {journal}")
            other.execute("CREATE TABLE theirs (id)")
            other.commit()
        before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
        (database,) = about(examine(settings), "database")
        assert (database.ok, "without our tables" in database.text) == (False, True)
        after = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
        assert {**after, "rlhf.db-shm": b""} == {**before, "rlhf.db-shm": b""}  # that one holds the readers' marks


def test_a_newer_database_is_not_to_be_initialised(settings: Settings) -> None:
    """Where a newer version was here, the advice is to install that one."""
    engine = make_engine(settings.database_url)
    migrate(engine)
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    engine.dispose()
    (database,) = about(examine(settings), "database")
    assert (database.ok, "Install the version" in database.advice) == (False, True)


@pytest.mark.parametrize("broken", ["a file in the way", "no database"])
def test_a_cache_that_cannot_be_used_is_a_fault(settings: Settings, broken: str) -> None:
    """A file where the folder should be, or something else under the cache's name."""
    if broken == "no database":
        settings.cache_dir.mkdir()
        (settings.cache_dir / "vectors.db").write_bytes(b"something else entirely")
    else:
        settings.cache_dir.write_bytes(b"")
    (cache,) = about(examine(settings), "cache")
    assert not cache.ok
    assert cache.advice


def test_weights_are_not_fetched_by_looking(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package only what was downloaded before is looked for."""
    asked: list[bool] = []

    def snapshot_download(*_: object, local_files_only: bool, **__: object) -> str:
        asked.append(local_files_only)
        raise FileNotFoundError("nothing was fetched yet")

    monkeypatch.setattr("rlhf_loop.encoders.weights.PACKAGE", "no_such_package")
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    faults = [finding for finding in about(examine(replace(settings, encoder_path=None)), "encoder") if not finding.ok]
    assert asked == [True]
    assert "No weights" in faults[0].text


def test_the_command_says_it_by_its_exit_code(settings: Settings, model_folder: Path) -> None:
    """`rlhf-loop doctor` ends with 1 while something is missing."""
    environment = {
        "RLHF_DATABASE_URL": settings.database_url,
        "RLHF_MODEL_PATH": str(settings.model_path),
        "RLHF_CACHE_DIR": str(settings.cache_dir),
        "RLHF_ENCODER_PATH": str(model_folder),
    }
    done = CliRunner().invoke(main, ["doctor"], env=environment)
    assert done.exit_code == 1
    assert "Run: rlhf-loop init" in done.output


def test_all_extras_are_looked_at() -> None:
    """Each extra that somebody may want is named, with the packages that it asks for."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {
        extra: {re.split(r"[\[<>=]", package)[0] for package in packages}
        for extra, packages in project["optional-dependencies"].items()
        if extra not in ("dev", "bench")
    }
    assert {extra: {package for package, _ in packages} for extra, packages in EXTRAS.items()} == wanted
