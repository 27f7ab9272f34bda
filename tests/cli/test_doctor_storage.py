from __future__ import annotations

import os
import shutil
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from examined import faults
from valkey import Valkey, valkey

from rlhf_loop.cli import main
from rlhf_loop.cli.doctor import Finding
from rlhf_loop.cli.doctor.storage import DatabaseAccess, cache, disk, outbox, reach
from rlhf_loop.config import Settings
from rlhf_loop.store.engine import trace_of
from rlhf_loop.store.outbox import Outbox

__all__ = ["valkey"]

_Usage = namedtuple("_Usage", "total used free")
MB = 10**6


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        model_path=tmp_path / "reward_model.joblib",
        cache_dir=tmp_path / "cache",
        cache_max_mb=2000,
        outbox_path=tmp_path / "outbox.db",
        index_path=tmp_path / "index",
    )


@pytest.fixture
def reached(tmp_path: Path) -> DatabaseAccess:
    return DatabaseAccess(Finding("database", "there"), file=tmp_path / "rlhf.db")


def free(monkeypatch: pytest.MonkeyPatch, megabytes: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: _Usage(10**12, 0, megabytes * MB))


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> Iterator[None]:
    """The cache is on a file system of its own."""
    settings.cache_dir.mkdir()
    real = os.stat
    other = settings.cache_dir.absolute()

    def stat(path: os.PathLike[str], **options: bool) -> os.stat_result:
        found = real(path, **options)  # type: ignore[arg-type]
        if path != other:
            return found
        return os.stat_result([*found[:2], found.st_dev + 1, *found[3:]])

    with monkeypatch.context() as patch:
        patch.setattr("os.stat", stat)
        yield


@pytest.mark.parametrize(
    ("megabytes", "advice"),
    [(2600, ""), (2400, "RLHF_CACHE_MAX_MB lower: the cache may still take 2.0 GB"), (400, "Free some: 2.5 GB should")],
)
def test_room_for_what_must_not_be_lost_and_for_the_cache(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, reached: DatabaseAccess, megabytes: int, advice: str
) -> None:
    """500 MB have to be left when the cache has grown to its limit; less is a fault that says which of both it is."""
    free(monkeypatch, megabytes)
    (found,) = disk(settings, reached)
    assert (found.ok, advice in found.advice) == (not advice, True)
    assert "for database, live model, versions, outbox, cache and index (" in found.text


def test_a_cache_that_has_grown_needs_no_more_room(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, reached: DatabaseAccess
) -> None:
    """What it has already is not asked for again."""
    settings.cache_dir.mkdir()
    with (settings.cache_dir / "vectors.db").open("wb") as file:
        file.truncate(1900 * MB)  # a hole, that takes no room
    free(monkeypatch, 700)
    assert faults(disk(settings, reached)) == []


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize(("megabytes", "faulty"), [(600, []), (150, ["database"]), (50, ["database", "cache"])])
def test_file_systems_are_told_apart(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, reached: DatabaseAccess, megabytes: int, faulty: list[str]
) -> None:
    """A line each; where only the cache is, a full disk loses nothing, and room for the encoder is enough."""
    free(monkeypatch, megabytes)
    found = list(disk(settings, reached))
    assert len(found) == 2
    assert [fault.text.partition(" free for ")[2].split()[0].rstrip(",") for fault in faults(found)] == faulty


def test_with_postgresql_nothing_of_the_database_is_on_this_disk(settings: Settings) -> None:
    """Neither the ratings nor the index."""
    elsewhere = replace(settings, database_url="postgresql://u:p@h/x")
    (found,) = disk(elsewhere, DatabaseAccess(Finding("database", "there")))
    assert "for live model, versions, outbox and cache (" in found.text


def test_a_file_in_the_way_of_a_folder_is_a_fault(settings: Settings, reached: DatabaseAccess, tmp_path: Path) -> None:
    """It is named, with the setting that gets around it."""
    free_enough = replace(settings, cache_max_mb=1)
    settings.cache_dir.write_bytes(b"")
    (fault,) = faults(disk(free_enough, reached))
    assert (fault.text, "RLHF_CACHE_DIR" in fault.advice) == (
        f"{tmp_path / 'cache'} cannot be written; it is for the cache",
        True,
    )


def test_a_folder_that_may_not_be_written_is_one_fault(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, reached: DatabaseAccess, tmp_path: Path
) -> None:
    """With everything that cannot be kept in it; root may write everywhere, so the answer is made up."""
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path and real(path, mode))
    (fault,) = faults(disk(replace(settings, cache_max_mb=1), reached))
    assert fault.text.endswith(
        "it is for the database, the live model, the versions, the outbox, the cache and the index"
    )


def test_a_database_file_that_may_only_be_read_is_a_fault(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, reached: DatabaseAccess, tmp_path: Path
) -> None:
    """The folder may be writable all the same."""
    (tmp_path / "rlhf.db").touch()
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != reached.file and real(path, mode))
    (fault,) = faults(disk(replace(settings, cache_max_mb=1), reached))
    assert fault.text == f"{tmp_path / 'rlhf.db'} cannot be written; it is for the database"


def test_something_else_under_the_name_of_the_cache(settings: Settings) -> None:
    """It is a fault, and may be deleted."""
    settings.cache_dir.mkdir()
    (settings.cache_dir / "vectors.db").write_bytes(b"something else entirely")
    (fault,) = faults(cache(settings))
    assert "Delete it" in fault.advice


def test_a_shared_cache_that_answers(settings: Settings, valkey: Valkey) -> None:
    """It is told; without a secret key also that its values are not signed. Nothing is written there."""
    own, shared = cache(replace(settings, cache_url=valkey.url, secret_key="k" * 32))
    assert (own.ok, shared.ok, shared.advice) == (True, True, "")
    assert shared.text.startswith("the shared cache (RLHF_CACHE_URL) answers in ")
    _, unsigned = cache(replace(settings, cache_url=valkey.url))
    assert unsigned.ok
    assert "RLHF_SECRET_KEY" in unsigned.advice


def test_a_shared_cache_that_is_away_is_no_fault(settings: Settings) -> None:
    """It costs time alone; its password is not shown. What cannot be one at all is found among the settings."""
    _, shared = cache(replace(settings, cache_url="redis://me:hush@127.0.0.1:1"))
    assert shared.ok
    assert "cannot be used: ConnectionError" in shared.text
    assert "hush" not in f"{shared.text}{shared.advice}"
    assert len(list(cache(replace(settings, cache_url="http://cache")))) == 1


def test_an_outbox_that_is_not_there_is_not_made(settings: Settings, tmp_path: Path) -> None:
    """Nothing waits, and looking makes no file."""
    (found,) = outbox(settings)
    assert (found.ok, list(tmp_path.iterdir())) == (True, [])


def test_what_waits_and_what_was_refused_is_counted(settings: Settings, tmp_path: Path) -> None:
    """Both are faults, with what to do about each; an outbox that was emptied is none. Looking changes no file."""
    box = Outbox(settings.outbox_path, limit=10)
    for number in range(3):
        box.put("rating", {"number": number}, interactions=[])
    box.refuse(box.waiting(limit=1)[0], "the interaction is gone")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir() if not file.name.endswith("-shm")}
    waiting, refused = faults(outbox(settings))
    assert waiting.text.startswith("2 entries of at most 10,000 wait in ")
    assert "rlhf-loop serve" in waiting.advice
    assert "has refused 1 entry" in refused.text
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    for entry in box.waiting(limit=9):
        box.done(entry)
    (only,) = faults(outbox(settings))
    assert only.text == refused.text
    box.close()


def test_an_outbox_that_is_none_is_a_fault(settings: Settings) -> None:
    """Somebody else's file, or a folder; an empty file becomes one with its first entry."""
    settings.outbox_path.touch()
    assert faults(outbox(settings)) == []
    settings.outbox_path.write_bytes(b"something else entirely" * 100)
    (file,) = faults(outbox(settings))
    settings.outbox_path.unlink()
    settings.outbox_path.mkdir()
    (folder,) = faults(outbox(settings))
    assert "cannot be read" in file.text
    assert "cannot be read" in folder.text


def test_a_database_that_is_gone_is_not_a_new_one(settings: Settings, tmp_path: Path) -> None:
    """What an earlier one left says so: its lock file, or what waits in the outbox; then only `init` makes another.

    A live model says nothing, even as a version: it may be that of another database beside this one.
    """
    settings = replace(settings, database_url=f"sqlite:///{tmp_path / 'rlhf.db'}")
    environment = {
        "RLHF_DATABASE_URL": settings.database_url,
        "RLHF_MODEL_PATH": str(settings.model_path),
        "RLHF_OUTBOX_PATH": str(settings.outbox_path),
    }
    file, live, versions = tmp_path / "rlhf.db", settings.model_path, settings.models_folder
    versions.mkdir()
    for path, content in ((live, "m"), (Path(f"{live}.sha256"), "a" * 64), (versions / "v.joblib.sha256", "a" * 64)):
        path.write_text(content)
    assert trace_of(settings) == ""
    lock = Path(f"{file}.lock")
    box = Outbox(settings.outbox_path, limit=2)
    told = {"in the outbox": settings.outbox_path, "its lock file": lock}
    for trace, path in told.items():
        if trace == "in the outbox":
            box.put("answer", {}, interactions=[])
            box.close()
        else:
            path.write_text("a" * 64)
        for words in (["models", "list"], ["alarms"], ["ratings", "stats"], ["users", "list"]):
            ran = CliRunner().invoke(main, words, env=environment)
            assert (ran.exit_code, trace in ran.stderr, "rlhf-loop init" in ran.stderr) == (2, True, True)
        finding = reach(settings).finding
        assert (finding.ok, "is gone, although" in finding.text, trace in finding.text) == (False, True, True)
        assert finding.advice.startswith("Put its file back")
        assert not file.exists()
    ran = CliRunner().invoke(main, ["init"], env=environment)
    assert (ran.exit_code, "It is a new one" in ran.stdout, "Start again" in ran.stdout) == (0, True, True)
    assert CliRunner().invoke(main, ["alarms"], env=environment).exit_code == 0
