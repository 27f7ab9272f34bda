"""Backups in an object store, on a real S3 server on loopback."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from databases import sqlite_database
from s3_server import S3Server, s3
from sqlalchemy import Engine

from rlhf_loop.cli import main
from rlhf_loop.config import Settings
from rlhf_loop.domain import Rating
from rlhf_loop.errors import BackupError, ObjectStoreError
from rlhf_loop.monitoring.worker import Worker
from rlhf_loop.store import backup
from rlhf_loop.store.alarms import open_alarms
from rlhf_loop.store.backup import archive
from rlhf_loop.store.engine import make_engine
from rlhf_loop.store.interactions import record
from rlhf_loop.utils.object_store import Place

__all__ = ["s3"]

FOLDER = "s3://bucket/backups"


@pytest.fixture
def settings(tmp_path: Path, sqlite_engine: Engine) -> Settings:
    record(sqlite_engine, [Rating("Kept?", "Kept.")])
    return settings_in(tmp_path / "here", str(sqlite_engine.url))


def settings_in(folder: Path, url: str) -> Settings:
    folder.mkdir()
    paths = {"model_path": folder / "m.joblib", "outbox_path": folder / "outbox.db", "cache_dir": folder / "cache"}
    return Settings(database_url=url, **paths)


def names(address: str = FOLDER) -> list[str]:
    return [each.name for each in Place.of(address).entries()]


def restored(address: str, tmp_path: Path) -> int:
    """Restore a backup elsewhere, and count the answers there."""
    new = settings_in(tmp_path / "there", sqlite_database(tmp_path / "new.db"))
    engine = make_engine(new.database_url)
    backup.restore(engine, new, address, actor="bob")
    with engine.connect() as connection:
        count: int = connection.exec_driver_sql("SELECT count(*) FROM rlhf_interactions").scalar_one()
    engine.dispose()
    return count


def test_there_and_back(s3: S3Server, sqlite_engine: Engine, settings: Settings, tmp_path: Path) -> None:
    """It is there whole, in place of an earlier one and of nothing else, and is restored from there."""
    address = f"{FOLDER}/rlhf.zip"
    for _ in range(2):
        made = backup.back_up(sqlite_engine, settings, address, actor="ada")
    assert names() == ["rlhf.zip"]
    assert backup.look(address) == made
    last, entry = backup.last_backup(sqlite_engine), Place.of(address).entry()
    assert last is not None
    assert entry is not None
    assert (last.file, last.bytes) == (address, entry.bytes)
    assert [path.name for path in settings.cache_dir.iterdir()] == [".rlhf-backup.lock"]
    assert restored(address, tmp_path) == 1
    Place.of(f"{FOLDER}/notes.txt").put(b"mine")
    with pytest.raises(BackupError, match=r"s3://bucket/backups/notes\.txt is not a backup, so none takes its place"):
        backup.back_up(sqlite_engine, settings, f"{FOLDER}/notes.txt", actor="ada")
    with pytest.raises(BackupError, match=r"There is no backup s3://bucket/backups/none\.zip"):
        backup.look(f"{FOLDER}/none.zip")
    Place.of(address).put(Place.of(address).read()[:-9])
    with pytest.raises(BackupError, match=r"s3://bucket/backups/rlhf\.zip is not a whole backup"):
        backup.look(address)


def test_only_so_many_are_kept(s3: S3Server, sqlite_engine: Engine, settings: Settings) -> None:
    """The oldest go, by their names; whatever else is in the folder stays."""
    for name in ("rlhf-loop-20250101T000000Z.zip", "rlhf-loop-20250102T000000Z.zip", "mine.zip"):
        Place.of(f"{FOLDER}/{name}").put(b"")
    backup.back_up_into(sqlite_engine, replace(settings, backup_keep=2), FOLDER, actor="worker")
    found = names()
    assert found[:2] == ["mine.zip", "rlhf-loop-20250102T000000Z.zip"]
    assert len(found) == 3
    assert found[2] > "rlhf-loop-2026"


def test_a_backup_that_may_not_be_read_is_not_replaced(s3: S3Server, sqlite_engine: Engine, settings: Settings) -> None:
    """Without the right to read what is there nothing takes its place, and what is said names the right."""
    address = f"{FOLDER}/rlhf.zip"
    backup.back_up(sqlite_engine, settings, address, actor="ada")
    s3.forbid("s3:GetObject")
    with pytest.raises(ObjectStoreError, match=r"rlhf.zip' cannot be read or written: .*Give this process credentials"):
        backup.back_up(sqlite_engine, settings, address, actor="ada")


def test_old_drafts_that_cannot_be_deleted_undo_no_backup(
    s3: S3Server, sqlite_engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backup that is whole and noted is one, whatever becomes of what killed uploads have left."""

    def away(self: Place, **_: object) -> None:
        raise ObjectStoreError("The store is away. Try again.")

    monkeypatch.setattr(Place, "delete_drafts", away)
    made = backup.back_up_into(sqlite_engine, settings, FOLDER, actor="ada")
    assert backup.look(f"{FOLDER}/{names()[0]}") == made


def test_a_store_that_is_away(s3: S3Server, sqlite_engine: Engine, settings: Settings) -> None:
    """An alarm is open until the next one is there, and the last good one stays."""
    settings = replace(settings, backup_path=FOLDER, backup_keep=1)
    retrain = ["true"]
    assert Worker(settings, retrain=retrain).once()
    before = names()
    s3.stop()
    assert not Worker(settings, retrain=retrain).once()
    (alarm,) = open_alarms(sqlite_engine)
    assert (alarm.kind, alarm.detail) == ("backup", {"folder": FOLDER})
    assert re.search(
        r"^No backup could be made; .*s3://bucket/backups.*cannot be read or written: .*Check the network",
        alarm.message,
    )
    s3.start()
    assert names() == before
    s3.forbid("s3:PutObject")
    with pytest.raises(ObjectStoreError, match="Give this process credentials"):
        backup.back_up(sqlite_engine, settings, f"{FOLDER}/{before[0]}", actor="ada")
    assert names() == before
    s3.empty()
    assert Worker(settings, retrain=retrain).once()
    assert open_alarms(sqlite_engine) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="There is no disk that is always full.")
def test_a_full_folder_of_temporary_files(
    s3: S3Server, sqlite_engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is said names TMPDIR, and not the backup, which is whole."""
    address = f"{FOLDER}/rlhf.zip"
    backup.back_up(sqlite_engine, settings, address, actor="ada")

    def none(**options: Any) -> Any:
        raise FileNotFoundError(2, "No usable temporary directory found")

    for file, why in ((partial(Path("/dev/full").open, "r+b"), "No space left on device"), (none, "No usable temp")):
        monkeypatch.setattr(archive, "TemporaryFile", file)
        words = rf"{address} cannot be fetched .*: {why}.*\. Make room in .*, or name another folder with TMPDIR\."
        with pytest.raises(BackupError, match=words):
            backup.look(address)


def test_as_an_operator_types_it(s3: S3Server, settings: Settings, tmp_path: Path) -> None:
    """No key that stands in an address is shown."""
    environment = {"RLHF_DATABASE_URL": settings.database_url, "RLHF_CACHE_DIR": str(tmp_path / "cache")}
    address = "s3://test:secret@bucket/rlhf.zip"
    for words in (["backup", address], ["restore", address, "--check"]):
        result = CliRunner().invoke(main, words, env=environment)
        assert result.exit_code == 0, result.output
        assert "s3://***@bucket/rlhf.zip" in result.output
        assert "secret" not in result.output
