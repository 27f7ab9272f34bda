"""Backups: what is in them, and what becomes of them elsewhere."""

from __future__ import annotations

import json
import os
import re
import signal
import zipfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from databases import sqlite_database
from forked_process import start
from patience import PATIENCE_S
from rerank_apps import DOCUMENTS, QUERY
from sqlalchemy import Engine, delete, inspect, select, update

from rlhf_loop import registry
from rlhf_loop.accounts import tokens, users
from rlhf_loop.accounts.links import invite
from rlhf_loop.config import Settings
from rlhf_loop.domain import AlarmKind, ModelState, Rating, Review, UserRole
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.errors import BackupError, DatabaseError
from rlhf_loop.ranking import Ranker, rerank_candidates
from rlhf_loop.reward import RewardModel
from rlhf_loop.store import audit, backup
from rlhf_loop.store.alarms import open_alarms, raise_alarm
from rlhf_loop.store.backup import restoration, writer
from rlhf_loop.store.engine import head, make_engine, migrating, reading, revision, transaction, upgrade
from rlhf_loop.store.interactions import put_review, record
from rlhf_loop.store.outbox import EntryCopy, Outbox
from rlhf_loop.store.tables import Base, Interaction, ModelVersion
from rlhf_loop.training.train import TrainingReport

HOSTILE = 'Ümläut "quoted" \\ back\tand\nnewline \u202e 🙂 \\N , \' -- ;'


def settings_in(folder: Path, url: str) -> Settings:
    folder.mkdir(exist_ok=True)
    return Settings(
        database_url=url,
        model_path=folder / "live.joblib",
        models_path=folder / "versions",
        outbox_path=folder / "outbox.db",
        secret_key="k" * 40,
    )


def fill(engine: Engine, settings: Settings) -> None:
    """Store something of everything that differs between databases: times, JSON, fractions, ids that were given."""
    answers = [Rating(HOSTILE, f"Answer {place}", score=0.1 + 0.2, shown_rank=1) for place in range(3)]
    record(engine, answers)
    with transaction(engine) as connection:
        for key, grade in ((1, 5), (1, 2), (2, 4)):
            review = Review(rating=grade, comment=HOSTILE, reviewer=f"r{grade}")
            put_review(connection, key, review)
        connection.execute(delete(Interaction).where(Interaction.id == 3))
        row = {"version": "passages-1a2b3c", "sha256": "5" * 64, "weights_sha256": "6" * 64, "state": "live"}
        now = {"made_at": datetime(2026, 3, 1, 12, 0, 0, 123456, UTC), "changed_at": datetime.now(UTC)}
        metrics = {"metrics": {"nested": [1, 0.1, None, HOSTILE]}, "reason": "x", "recipe": "r", "encoder": "e"}
        connection.execute(ModelVersion.__table__.insert().values({**row, **now, **metrics}))
    users.add(engine, "ada", role=UserRole.ADMIN, actor="t", password="seven quiet otters")
    users.add(engine, "app", role=UserRole.SERVICE, actor="t")
    tokens.add(engine, "t", user="app", scopes=["rerank"], days=None, record=0.25, actor="t")
    invite(engine, "ada", actor="t")
    raise_alarm(engine, AlarmKind.SOURCE, HOSTILE, subject="arxiv", detail={"a": {"b": 1}})
    settings.models_folder.mkdir()
    for name in ("passages-1a2b3c.joblib", "passages-1a2b3c.joblib.sha256", "6" * 64 + ".safetensors"):
        (settings.models_folder / name).write_bytes(name.encode() * 3)
    outbox = Outbox(settings.outbox_path, limit=10)
    outbox.put("rating", {"interaction": "y", "text": "refused"}, interactions=["y"])
    outbox.refuse(outbox.waiting(limit=1)[0], "no such answer")
    outbox.put("rating", {"interaction": "x", "text": HOSTILE}, interactions=["x"])
    outbox.close()


def content(engine: Engine) -> dict[str, list[tuple[Any, ...]]]:
    """Return all rows that a backup has, without what is said of itself."""
    found = {}
    with reading(engine) as connection:
        for table in Base.metadata.sorted_tables:
            rows = connection.execute(select(table).order_by(*table.primary_key.columns)).all()
            found[table.name] = [tuple(row) for row in rows if not str(row[3:4]).startswith("('backup.")]
    assert found.pop("rlhf_sessions") == []
    found.pop("rlhf_one_time_links")
    return found


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    return settings_in(tmp_path / "here", database_url)


@pytest.fixture
def made(engine: Engine, settings: Settings, tmp_path: Path) -> Path:
    fill(engine, settings)
    backup.back_up(engine, settings, tmp_path / "made.zip", actor="ada")
    return tmp_path / "made.zip"


@pytest.fixture
def plain(sqlite_engine: Engine, tmp_path: Path) -> Path:
    """A backup of a SQLite database, for what does not depend on the kind."""
    settings = settings_in(tmp_path / "plain", str(sqlite_engine.url))
    fill(sqlite_engine, settings)
    backup.back_up(sqlite_engine, settings, tmp_path / "plain.zip", actor="ada")
    return tmp_path / "plain.zip"


def elsewhere(tmp_path: Path, url: str = "") -> tuple[Engine, Settings]:
    settings = settings_in(tmp_path / "there", url)
    if not url:
        settings = replace(settings, database_url=sqlite_database(tmp_path / "there" / "new.db"))
    return make_engine(settings.database_url, patience_s=PATIENCE_S), settings


def untouched(engine: Engine) -> bool:
    found = content(engine)
    return not any(found[name] for name in ("rlhf_interactions", "rlhf_reviews", "rlhf_users", "rlhf_models"))


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_from_each_into_each(
    engine: Engine, settings: Settings, made: Path, tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    """Each row, file and waiting entry is there again, in a database of either kind, and ids go on where they were."""
    url = ""
    if kind == "postgresql":
        if engine.dialect.name == kind:
            # One database is enough: into what was emptied before.
            before = content(engine)
            there, new = engine, replace(settings_in(tmp_path / "there", settings.database_url))
            backup.restore(there, new, made, actor="bob", replace=True)
            assert content(there) == before
            return
        url = request.getfixturevalue("postgres_url")
    there, new = elsewhere(tmp_path, url)
    found = backup.restore(there, new, made, actor="bob")
    assert content(there) == content(engine)
    tables = f"{found.rows} rows of {len(found.tables)} tables"
    assert found.words == f"{tables}, 1 version of the model, 1 waiting entry, 1 refused entry"
    names = {path.name: path.read_bytes() for path in settings.models_folder.iterdir()}
    assert {path.name: path.read_bytes() for path in new.models_folder.iterdir()} == names
    assert found.missing == ("passages-1a2b3c.fitted.npy", "passages-1a2b3c.md")
    outbox = Outbox(new.outbox_path, limit=10)
    assert [*outbox.all()] == [
        EntryCopy("rating", {"interaction": "y", "text": "refused"}, ["y"], "no such answer"),
        EntryCopy("rating", {"interaction": "x", "text": HOSTILE}, ["x"]),
    ]
    outbox.close()
    record(there, [Rating("New?", "New.")])
    with reading(there) as connection:
        assert connection.execute(select(Interaction.id).order_by(Interaction.id.desc()).limit(1)).scalar() == 4
        # The triggers are there again.
        assert connection.execute(select(Interaction.rating).where(Interaction.id == 1)).scalar() == 2
    with transaction(there) as connection:
        put_review(connection, 4, Review(rating=3, reviewer="r1"))
    with reading(there) as connection:
        assert connection.execute(select(Interaction.rating).where(Interaction.id == 4)).scalar() == 3
    newest = audit.entries(there, limit=3)
    assert ("bob", "backup.restored") in [(each.actor, each.action) for each in newest]
    there.dispose()


def test_the_live_model_ranks_the_same(
    sqlite_engine: Engine, tmp_path: Path, encoder: TextEncoder, trained: tuple[RewardModel, TrainingReport]
) -> None:
    """Elsewhere it is live again, in place of one that was there, and scores to the last digit as before."""
    here = settings_in(tmp_path / "here", str(sqlite_engine.url))
    registry.add(
        sqlite_engine,
        here,
        trained[0],
        state=ModelState.LIVE,
        reason="Better.",
        judgement={},
        metrics={},
        fitted=np.array([1], dtype=np.int64),
    )
    backup.back_up(sqlite_engine, here, tmp_path / "made.zip", actor="ada")
    engine, there = elsewhere(tmp_path)
    there.model_path.write_bytes(b"of a demo")
    backup.restore(engine, there, tmp_path / "made.zip", actor="bob", replace=True)
    assert registry.settle(engine, there, force=True, restored=True) == ""
    assert open_alarms(engine) == []
    engine.dispose()
    before, after = (
        rerank_candidates(QUERY, DOCUMENTS, ranker=Ranker(each, encoder=encoder)) for each in (here, there)
    )
    assert before[0]["score"] is not None
    assert after == before
    assert {path.name for path in there.models_folder.iterdir()} >= {
        path.name for path in here.models_folder.iterdir() if not path.name.startswith(".")
    }


def test_progress_reaches_the_end(sqlite_engine: Engine, plain: Path, tmp_path: Path) -> None:
    """That of a backup has the reading of it, too, that of a restoration begins with it; both rise to the end."""
    there, new = elsewhere(tmp_path)
    seen: list[tuple[int, int]] = []

    def look(done: int, total: int) -> None:
        assert not seen or (done >= seen[-1][0] and total == seen[-1][1])
        seen.append((done, total))

    for work in (
        lambda: backup.back_up(sqlite_engine, settings_in(tmp_path / "plain", ""), plain, actor="a", progress=look),
        lambda: backup.look(plain, progress=look),
        lambda: backup.restore(there, new, plain, actor="bob", progress=look),
    ):
        work()
        assert len(seen) > 2
        assert seen[-1][0] == seen[-1][1] > 0
        seen.clear()
    there.dispose()


def test_what_is_said_of_it(sqlite_engine: Engine, plain: Path) -> None:
    """The database knows the last one; no secret of the settings is in it, and only its owner may read it."""
    last = backup.last_backup(sqlite_engine)
    assert last is not None
    assert (last.file, last.bytes) == (str(plain), plain.stat().st_size)
    assert "kkkk" not in zipfile.ZipFile(plain).read("manifest.json").decode()
    assert backup.look(plain).settings["secret_key"] == "..."
    if os.name != "nt":
        assert plain.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in plain.parent.glob(".*")) == [".rlhf-backup.lock"]


def damaged(file: Path, how: str) -> None:
    whole = file.read_bytes()
    middle = len(whole) // 2
    spoilt = {
        "cut short": whole[:middle],
        "without its end": whole[:-1],
        "altered": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
        "empty": b"",
        "noise": b"\0PK\5\6" * 50,
        "another archive": None,
        "a member more": None,
        "a member less": None,
        "a member of another": None,
        "no manifest": None,
    }[how]
    if spoilt is not None:
        file.write_bytes(spoilt)
        return
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    if how == "another archive":
        members = {"a.txt": b"a"}
    elif how == "a member more":
        members["models/../../evil.joblib"] = b"x"
    elif how == "a member less":
        del members["tables/rlhf_users.jsonl"]
    elif how == "a member of another":
        members["tables/rlhf_users.jsonl"] = b""
    else:
        del members["manifest.json"]
    with zipfile.ZipFile(file, "w") as archive:
        for name, each in members.items():
            archive.writestr(name, each)


@pytest.mark.parametrize(
    "how",
    [
        "cut short", "without its end", "altered", "empty", "noise", "another archive", "a member more",
        "a member less", "a member of another", "no manifest",
    ],
)  # fmt: skip
def test_what_is_not_whole(plain: Path, tmp_path: Path, how: str) -> None:
    """It is refused before anything is touched."""
    damaged(plain, how)
    there, new = elsewhere(tmp_path)
    with pytest.raises(BackupError, match="is not a whole backup"):
        backup.restore(there, new, plain, actor="bob")
    assert untouched(there)
    there.dispose()
    assert not new.models_folder.exists()


def changed(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(members["manifest.json"])
    change(manifest)
    members["manifest.json"] = json.dumps(manifest).encode()
    with zipfile.ZipFile(file, "w") as archive:
        for name, each in members.items():
            archive.writestr(name, each)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda found: found.update(format=3), "which is newer"),
        (lambda found: found.update(revision="9999"), "which is newer"),
        (lambda found: found.update(revision=3), "is not a whole backup"),
        (lambda found: found.update(revision="0000x"), "is not a whole backup"),
        (lambda found: found.update(revision=""), "is not a whole backup"),
        (lambda found: found.update(format=0), "is not a whole backup"),
        (lambda found: found.update(waiting="1"), "is not a whole backup"),
        (lambda found: found.update(waiting=2), "is not a whole backup"),
        (lambda found: found.update(refused=2), "is not a whole backup"),
        (lambda found: found.update(index={}), "it has no index"),
        (lambda found: found.update(format=1), "is not a whole backup"),
        (lambda found: found.update(versions="1"), "is not a whole backup"),
        (lambda found: found["tables"].pop(), "is not a whole backup"),
        (lambda found: found["tables"][0].update(times=["x"]), "is not a whole backup|are not those of"),
        (lambda found: found["tables"][6].update(rows=1000), "are not those of a database"),
        (lambda found: found["tables"][6].update(last_id=10**30), "is not a whole backup|are not those of"),
        (lambda found: found.update(tables=7), "is not a whole backup"),
        (lambda found: found.update(extra=7), "is not a whole backup"),
        (lambda found: found["tables"][0].update(name="x; DROP TABLE rlhf_users"), "its tables are not those"),
        (lambda found: found["tables"][0].update(columns=["id", 'a" --']), "was altered"),
        (lambda found: found["tables"][6]["columns"].reverse(), "are not those of a database"),
    ],
    ids=[
        "format", "revision", "number", "letter", "none", "format 0", "text", "waiting", "refused", "index",
        "format 1", "versions", "fewer", "times", "rows", "id", "tables", "more", "table", "columns", "order",
    ],
)  # fmt: skip
def test_hostile_manifests(plain: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], words: str) -> None:
    """One of a later version is named as that; whatever else is in a manifest, nothing of it is done."""
    changed(plain, change)
    there, new = elsewhere(tmp_path)
    with pytest.raises(BackupError, match=words):
        backup.restore(there, new, plain, actor="bob")
    assert untouched(there)
    there.dispose()


def test_one_of_an_earlier_revision(sqlite_engine: Engine, plain: Path, tmp_path: Path) -> None:
    """It is restored at its own revision, whatever the database has had, and brought up to date with its rows."""
    old = make_engine(f"sqlite:///{tmp_path / 'old.db'}")
    with migrating(old) as connection:
        upgrade(connection, to="0014")
        tables = {name: inspect(connection).get_columns(name) for name in inspect(connection).get_table_names()}
    old.dispose()
    known = {name: [each["name"] for each in columns] for name, columns in tables.items()}
    with zipfile.ZipFile(plain) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(members.pop("manifest.json"))
    manifest["revision"] = "0014"
    for table in manifest["tables"]:
        name = f"tables/{table['name']}.jsonl"
        rows = [json.loads(line) for line in members.pop(name).splitlines()]
        kept = [place for place, each in enumerate(table["columns"]) if each in known.get(table["name"], ())]
        for part in ("columns", "times", "json"):
            table[part] = [each for each in table[part] if each in known.get(table["name"], ())]
        if table["name"] in known:
            members[name] = b"".join(json.dumps([row[place] for place in kept]).encode() + b"\n" for row in rows)
    manifest["tables"] = [table for table in manifest["tables"] if table["name"] in known]
    sums = {name: {"sha256": sha256(each).hexdigest(), "bytes": len(each)} for name, each in members.items()}
    members["manifest.json"] = json.dumps({**manifest, "files": sums}).encode()
    with zipfile.ZipFile(plain, "w") as archive:
        for name, each in members.items():
            archive.writestr(name, each)
    there, new = elsewhere(tmp_path, sqlite_database(tmp_path / "used.db"))
    backup.restore(there, new, plain, actor="bob")
    assert revision(there) == head()
    for name, columns in known.items():
        if (table := Base.metadata.tables.get(name)) is not None:
            places = [place for place, each in enumerate(table.columns) if each.name in columns]
            rows, before = (
                [[row[place] for place in places] for row in content(each).get(name, ())]
                for each in (there, sqlite_engine)
            )
            assert rows == before
    there.dispose()


def test_a_database_that_is_not_empty(plain: Path, tmp_path: Path) -> None:
    """Nothing is lost without --replace; with it all of the backup is there, and nothing else."""
    there, new = elsewhere(tmp_path, sqlite_database(tmp_path / "used.db"))
    record(there, [Rating("Kept?", "Kept.")])
    users.add(there, "eve", role=UserRole.RATER, actor="t")
    with pytest.raises(BackupError, match=r"is not empty: rlhf_\w+ has rows\. .*--replace"):
        backup.restore(there, new, plain, actor="bob")
    new.model_path.write_bytes(b"mine")
    with pytest.raises(BackupError, match="There is another live model at"):
        backup.restore(there, new, plain, actor="bob")
    with reading(there) as connection:
        assert connection.execute(select(Interaction.user_prompt)).scalars().all() == ["Kept?"]
    backup.restore(there, new, plain, actor="bob", replace=True)
    assert [account.user.name for account in users.accounts(there)] == ["ada", "app"]
    with reading(there) as connection:
        assert connection.execute(select(Interaction.user_prompt).distinct()).scalars().all() == [HOSTILE]
    there.dispose()


@pytest.mark.parametrize("step", ["_insert", "_give_next_ids", "_put_files", "_put_waiting"])
def test_ended_in_the_middle_of_a_restoration(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Nothing of it is in the database, and the next attempt brings all."""

    def fails(*arguments: Any, **options: Any) -> Any:
        raise OSError(28, "No space left on device")

    there, new = elsewhere(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(restoration, step, fails)
        with pytest.raises(BackupError, match="No space left on device"):
            backup.restore(there, new, plain, actor="bob")
    assert untouched(there)
    backup.restore(there, new, plain, actor="bob")
    assert not untouched(there)
    there.dispose()


@pytest.mark.kill
@pytest.mark.parametrize("step", ["backup.restoration:_give_next_ids:5", "audit:note:1"])
def test_killed_in_the_middle_of_a_restoration(plain: Path, tmp_path: Path, empty_database_url: str, step: str) -> None:
    """Half of the rows come, or all of them, and none is there: the database is as empty as before, and the next
    attempt brings all."""
    folder = tmp_path / "there"
    folder.mkdir()
    environ = {
        "RLHF_DATABASE_URL": empty_database_url,
        "RLHF_MODEL_PATH": str(folder / "live.joblib"),
        "RLHF_MODELS_PATH": str(folder / "versions"),
        "RLHF_OUTBOX_PATH": str(folder / "outbox.db"),
    }
    words, options = ["restore", str(plain)], {"environ": environ, "log": folder / "log", "folder": folder}
    killed = start(words, **options, step=f"rlhf_loop.store.{step}:SIGKILL")
    assert killed.wait(PATIENCE_S) == -signal.SIGKILL, killed.said()
    there = make_engine(empty_database_url, patience_s=PATIENCE_S)
    assert revision(there) is None
    again = start(words, **options)
    # The file of its version is no model.
    assert again.wait(PATIENCE_S) == 1, again.said()
    assert not untouched(there)
    assert waits(settings_in(folder, empty_database_url)) == ["refused", HOSTILE]
    there.dispose()


def test_a_connection_that_is_lost(
    plain: Path, tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a table: nothing of the backup is there, and the next attempt brings all."""
    there, new = elsewhere(tmp_path, postgres_url)
    other = make_engine(postgres_url)
    others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> "

    def lose(done: int, total: int) -> None:
        with reading(other) as connection:
            connection.exec_driver_sql(f"{others} pg_backend_pid()")

    with monkeypatch.context() as patch:
        patch.setattr(restoration, "ROWS", 1)
        with pytest.raises(DatabaseError, match=r"cannot be used: .* that the server runs"):
            backup.restore(there, new, plain, actor="bob", progress=lose)
    other.dispose()
    assert untouched(there)
    backup.restore(there, new, plain, actor="bob")
    assert not untouched(there)
    there.dispose()


@pytest.mark.parametrize("step", ["_write_models", "look"])
def test_ended_in_the_middle_of_a_backup(
    sqlite_engine: Engine, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The file of before is as it was; nothing else is left."""

    def fails(*arguments: Any, **options: Any) -> Any:
        raise OSError(28, "No space left on device")

    before = plain.read_bytes()
    monkeypatch.setattr(writer, step, fails)
    settings = settings_in(tmp_path / "plain", str(sqlite_engine.url))
    with pytest.raises(BackupError, match=r"No space left on device\. .*What was there is there"):
        backup.back_up(sqlite_engine, settings, plain, actor="ada")
    assert plain.read_bytes() == before
    assert sorted(path.name for path in plain.parent.glob(".*")) == [".rlhf-backup.lock"]


def test_one_at_a_time(sqlite_engine: Engine, plain: Path, tmp_path: Path) -> None:
    """A second one into the same folder is told so."""
    settings = settings_in(tmp_path / "plain", str(sqlite_engine.url))

    def meanwhile(done: int, total: int) -> None:
        with pytest.raises(BackupError, match="Another backup is being written"):
            backup.back_up(sqlite_engine, settings, plain, actor="ada")

    backup.back_up(sqlite_engine, settings, plain, actor="ada", progress=meanwhile)


def test_only_so_many_are_kept(sqlite_engine: Engine, tmp_path: Path) -> None:
    """The oldest go, by their names, before them those of a clock that was ahead, and never the one that was just made;
    whatever else is in the folder stays."""
    folder = tmp_path / "backups"
    folder.mkdir()
    for name in ("rlhf-loop-20250101T000000Z.zip", "rlhf-loop-29990102T000000Z.zip", "rlhf-loop-mine.zip", "a.zip"):
        (folder / name).touch()
    settings = replace(settings_in(tmp_path / "plain", str(sqlite_engine.url)), backup_keep=2)
    with pytest.raises(BackupError, match="holds nothing"):
        backup.back_up_into(sqlite_engine, settings, folder, actor="worker")
    record(sqlite_engine, [Rating("Kept?", "Kept.")])
    backup.back_up_into(sqlite_engine, settings, folder, actor="worker")
    names = sorted(path.name for path in folder.glob("*.zip"))
    assert names[:2] == ["a.zip", "rlhf-loop-20250101T000000Z.zip"]
    assert names[2].startswith("rlhf-loop-20")
    assert names[3:] == ["rlhf-loop-mine.zip"]
    (folder / "rlhf-loop-20250101T000000Z.zip").unlink()
    (folder / names[2]).rename(folder / "rlhf-loop-29990102T000000Z.zip")
    backup.back_up_into(sqlite_engine, replace(settings, backup_keep=1), folder, actor="worker")
    names = sorted(path.name for path in folder.glob("*.zip"))
    assert names[1] < "rlhf-loop-2999"
    assert names[2:] == ["rlhf-loop-mine.zip"]


@pytest.mark.parametrize(
    ("others", "lacking", "gone"),
    [
        # A number is when; what lacks something has a !.
        ("1 2 3 4", False, "1 2"),
        ("1 2 8 9", False, "8 9"),
        ("8 9", False, ""),
        ("1 2 3! 4!", False, ""),
        ("1! 2 3 4!", False, "1!"),
        ("1 2 3 4", True, ""),
        ("1 2! 3! 4!", True, "2!"),
        ("1! 2! 3", False, ""),
    ],
)
def test_those_that_are_too_many(others: str, lacking: bool, gone: str) -> None:
    """Three stay, of those that lack something three others, until three that are whole are newer."""
    marked = {each[0]: each.endswith("!") for each in others.split()}
    assert sorted(writer._too_many("5", marked, lacking=lacking, keep=3)) == [each[0] for each in gone.split()]


def rewritten(file: Path, member: str, content: bytes, **values: Any) -> None:
    """Give a member another content, with the sum that it needs, and the manifest other values."""
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()} | {member: content}
    manifest = json.loads(members["manifest.json"]) | values
    manifest["files"][member] = {"sha256": sha256(content).hexdigest(), "bytes": len(content)}
    members["manifest.json"] = json.dumps(manifest).encode()
    with zipfile.ZipFile(file, "w") as archive:
        for name, each in members.items():
            archive.writestr(name, each)


def test_altered_content(plain: Path, tmp_path: Path) -> None:
    """Whatever is in rows and entries, with sums that match, it is refused in words, and nothing is left of it."""
    there, new = elsewhere(tmp_path)
    whole = plain.read_bytes()
    users_member, outbox = "tables/rlhf_users.jsonl", "outbox.jsonl"
    for member, content in (
        (users_member, b""),
        (users_member, b"{}\n{}\n"),
        (users_member, b"[[]]\n" * 2),
        (users_member, b"[" * 100_000 + b"\n"),
        (users_member, b"[" + b",".join([b"9" * 30] * 20) + b"]\n"),
        (users_member, b"5\n"),
        (outbox, b""),
        (outbox, b"no JSON\n"),
        (outbox, b"7\n"),
        (outbox, b'[9, "rating", {}, []]\n'),
        (outbox, b'[-1, "rating", {}, []]\n'),
        (outbox, b'[0, ["rating"], {}, []]\n'),
        (outbox, b'[0, "rating", {}, [5]]\n'),
    ):
        plain.write_bytes(whole)
        rewritten(plain, member, content)
        with pytest.raises(BackupError, match=r"are not those of a database|is not a whole backup"):
            backup.restore(there, new, plain, actor="bob")
    assert untouched(there)
    assert not new.outbox_path.exists() or not [*Outbox(new.outbox_path, limit=10).all()]
    there.dispose()


def waits(settings: Settings) -> list[Any]:
    outbox = Outbox(settings.outbox_path, limit=10)
    try:
        return [each.body["text"] for each in outbox.all()]
    finally:
        outbox.close()


def test_what_waits_afterwards(
    sqlite_engine: Engine, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits once, however often it is restored; of what is dropped nothing waits, and after a failure as before."""
    there, new = elsewhere(tmp_path)
    outbox = Outbox(new.outbox_path, limit=10)
    outbox.put("rating", {"text": "of before"}, interactions=[])

    def fails(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(audit, "note", fails)
        with pytest.raises(KeyboardInterrupt):
            backup.restore(there, new, plain, actor="bob", replace=True)
    assert (waits(new), untouched(there)) == (["of before"], True)
    backup.restore(there, new, plain, actor="bob")
    assert waits(new) == ["of before", "refused", HOSTILE]
    for _ in range(2):
        backup.restore(there, new, plain, actor="bob", replace=True)
        assert waits(new) == ["refused", HOSTILE]
    outbox.close()
    there.dispose()


def test_one_of_the_first_format(plain: Path, tmp_path: Path) -> None:
    """A file that knows nothing of refused entries and the index is restored like any other."""
    with zipfile.ZipFile(plain) as archive:
        entries = [json.loads(line) for line in archive.read("outbox.jsonl").splitlines()]
    lines = "".join(f"{json.dumps(each[:4])}\n" for each in entries if each[4] is None)
    rewritten(plain, "outbox.jsonl", lines.encode(), format=1)
    changed(plain, lambda found: [found.pop(name) for name in ("refused", "machine", "lacking", "index")])
    there, new = elsewhere(tmp_path)
    found = backup.restore(there, new, plain, actor="bob")
    assert (found.refused, found.index, waits(new)) == (0, None, [HOSTILE])
    there.dispose()


def test_an_outbox_that_cannot_be_read(sqlite_engine: Engine, plain: Path, tmp_path: Path) -> None:
    """The database is backed up all the same, the backup says what it lacks, and no earlier one goes for it."""
    settings = replace(settings_in(tmp_path / "plain", str(sqlite_engine.url)), backup_keep=1)
    folder = tmp_path / "backups"
    backup.back_up_into(sqlite_engine, settings, folder, actor="worker")
    before = {path.name for path in folder.glob("*.zip")}
    (folder / min(before)).rename(folder / "rlhf-loop-20250101T000000Z.zip")
    settings.outbox_path.write_bytes(b"no database" * 100)
    made = backup.back_up_into(sqlite_engine, settings, folder, actor="worker")
    [said] = made.lacking
    assert re.match(r"The outbox .*outbox\.db cannot be used: file is not a database", said)
    assert len(list(folder.glob("*.zip"))) == 2
    last = backup.last_backup(sqlite_engine)
    assert last is not None
    assert last.lacking == made.lacking
    there, new = elsewhere(tmp_path)
    assert backup.restore(there, new, Path(last.file), actor="bob").lacking == made.lacking
    assert content(there)["rlhf_reviews"] == content(sqlite_engine)["rlhf_reviews"]
    there.dispose()


def test_a_live_file_that_a_killed_attempt_has_left(sqlite_engine: Engine, tmp_path: Path) -> None:
    """A model that somebody has put there by hand, and no registry knows, is no other one for the next attempt."""
    settings = settings_in(tmp_path / "here", str(sqlite_engine.url))
    record(sqlite_engine, [Rating("Kept?", "Kept.")])
    settings.model_path.write_bytes(b"by hand")
    settings.model_path.with_name("live.joblib.sha256").write_text(sha256(b"by hand").hexdigest())
    backup.back_up(sqlite_engine, settings, tmp_path / "made.zip", actor="ada")
    there, new = elsewhere(tmp_path)
    new.model_path.write_bytes(b"by hand")
    backup.restore(there, new, tmp_path / "made.zip", actor="bob")
    assert (new.model_path.read_bytes(), untouched(there)) == (b"by hand", False)
    there.dispose()


@pytest.mark.parametrize("known", [False, True], ids=["by nobody", "without its file"])
def test_a_live_model_that_the_backup_does_not_have(sqlite_engine: Engine, tmp_path: Path, known: bool) -> None:
    """It is gone after a restoration in its place, whether the backup knows of none, or lacks the file of its own."""
    settings = settings_in(tmp_path / "here", str(sqlite_engine.url))
    if known:
        fill(sqlite_engine, settings)
        for path in settings.models_folder.iterdir():
            path.unlink()
    else:
        record(sqlite_engine, [Rating("Kept?", "Kept.")])
    backup.back_up(sqlite_engine, settings, tmp_path / "made.zip", actor="ada")
    there, new = elsewhere(tmp_path)
    new.model_path.write_bytes(b"of before")
    new.model_path.with_name("live.joblib.sha256").write_text("7" * 64)
    backup.restore(there, new, tmp_path / "made.zip", actor="bob", replace=True)
    assert sorted(path.name for path in new.model_path.parent.glob("live.joblib*")) == []
    there.dispose()


def test_versions_whose_files_are_away(sqlite_engine: Engine, tmp_path: Path) -> None:
    """The live one is taken from where it is served, and what is lost is said: such a backup is not one of all."""
    settings = settings_in(tmp_path / "here", str(sqlite_engine.url))
    fill(sqlite_engine, settings)
    settings.models_folder.rename(tmp_path / "away")
    settings.models_folder.mkdir()

    def lacking() -> str:
        return " ".join(backup.back_up(sqlite_engine, settings, tmp_path / "made.zip", actor="ada").lacking)

    assert lacking().startswith(f"There is no file of any version in {settings.models_folder.absolute()}. ")
    settings.model_path.write_bytes(b"served")
    with transaction(sqlite_engine) as connection:
        connection.execute(update(ModelVersion).values(sha256=sha256(b"served").hexdigest()))
    assert lacking().startswith(f"There is no {'6' * 64}.safetensors of the live version. ")
    settings.model_path.with_name("6" * 64 + ".safetensors").write_bytes(b"layers")
    assert lacking() == ""
    there, new = elsewhere(tmp_path)
    backup.restore(there, new, tmp_path / "made.zip", actor="bob")
    there.dispose()
    assert {path.name: path.read_bytes() for path in new.models_folder.iterdir()} == {
        "passages-1a2b3c.joblib": b"served",
        "passages-1a2b3c.joblib.sha256": f"{sha256(b'served').hexdigest()}  passages-1a2b3c.joblib\n".encode(),
        "6" * 64 + ".safetensors": b"layers",
    }
    with transaction(sqlite_engine) as connection:
        (row,) = connection.execute(select(ModelVersion.__table__)).mappings()
        of_before = {**row, "id": 2, "version": "passages-4d5e6f", "sha256": "4" * 64, "state": "retired"}
        connection.execute(ModelVersion.__table__.insert().values(of_before))
    assert lacking().startswith("There is no file of any version in ")
    (tmp_path / "away" / "passages-1a2b3c.joblib").rename(settings.models_folder / "passages-1a2b3c.joblib")
    assert lacking() == ""


def test_nothing_else_is_overwritten(sqlite_engine: Engine, tmp_path: Path) -> None:
    """Neither a file that is no backup nor a place that the settings name; a link's target gets the backup."""
    settings = settings_in(tmp_path / "here", str(sqlite_engine.url))
    fill(sqlite_engine, settings)
    (tmp_path / "notes.txt").write_text("mine")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("a.txt", "mine")
    database = Path(str(sqlite_engine.url.database))
    for path in (
        database,
        database.with_name(f"{database.name}-wal"),
        settings.outbox_path,
        settings.outbox_path.with_stem("outbox_rankings"),
        settings.model_path,
        settings.model_path.with_name("live.joblib.off"),
        settings.models_folder / "passages-1a2b3c.joblib",
        tmp_path / "notes.txt",
        tmp_path / "other.zip",
    ):
        before = path.read_bytes() if path.exists() else None
        with pytest.raises(BackupError, match="is not a backup, so none takes its place"):
            backup.back_up(sqlite_engine, settings, path, actor="ada")
        assert (path.read_bytes() if path.exists() else None) == before
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BackupError, match="pipe is not a backup, so none takes its place"):
        backup.back_up(sqlite_engine, settings, tmp_path / "pipe", actor="ada")
    assert (tmp_path / "pipe").is_fifo()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "latest.zip").symlink_to(tmp_path / "elsewhere" / "made.zip")
    for _ in range(2):
        backup.back_up(sqlite_engine, settings, tmp_path / "latest.zip", actor="ada")
    assert (tmp_path / "latest.zip").is_symlink()
    assert backup.look(tmp_path / "elsewhere" / "made.zip").rows > 0


def test_values_that_postgresql_does_not_know(sqlite_engine: Engine, tmp_path: Path, postgres_url: str) -> None:
    """What is no number in JSON becomes null; for a text or number that it cannot hold, the message names the row."""
    settings = settings_in(tmp_path / "here", str(sqlite_engine.url))
    record(sqlite_engine, [Rating("q", "a")])
    raise_alarm(sqlite_engine, AlarmKind.SOURCE, "m", subject="arxiv", detail={"a": float("nan")})
    there, new = elsewhere(tmp_path, postgres_url)
    for value, words in (("'x' || char(0)", "NUL.*line 1"), ("NULL, shown_rank = 3000000000", r"out of range.*line 1")):
        with sqlite_engine.begin() as connection:
            connection.exec_driver_sql(f"UPDATE rlhf_interactions SET title = {value}")
        backup.back_up(sqlite_engine, settings, tmp_path / "made.zip", actor="ada")
        with pytest.raises(BackupError, match=f"rlhf_interactions in the backup has a value .*{words}.*into SQLite"):
            backup.restore(there, new, tmp_path / "made.zip", actor="bob")
    with sqlite_engine.begin() as connection:
        connection.exec_driver_sql("UPDATE rlhf_interactions SET shown_rank = 1")
    backup.back_up(sqlite_engine, settings, tmp_path / "made.zip", actor="ada")
    backup.restore(there, new, tmp_path / "made.zip", actor="bob")
    (alarm,) = open_alarms(there)
    assert alarm.detail == {"a": None}
    there.dispose()
