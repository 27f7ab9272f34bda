"""The index in a backup: out of either vector database, into either."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from databases import sqlite_database
from sqlalchemy import Engine
from test_vector_store import ENCODER, entry, everything, found

from rlhf_loop.config import Settings
from rlhf_loop.domain import Rating
from rlhf_loop.errors import BackupError, VectorStoreError
from rlhf_loop.sources.index import IndexLines, VectorStore, open_store
from rlhf_loop.store import backup
from rlhf_loop.store.engine import make_engine
from rlhf_loop.store.interactions import record

Change = Callable[[dict[str, Any]], None]


def settings_in(folder: Path, url: str) -> Settings:
    folder.mkdir(exist_ok=True)
    return Settings(
        database_url=url,
        model_path=folder / "live.joblib",
        outbox_path=folder / "outbox.db",
        index_path=folder / "index",
    )


def backed_up(engine: Engine, settings: Settings, file: Path) -> VectorStore:
    record(engine, [Rating("Kept?", "Kept.")])
    store = open_store(settings)
    store.add([entry("a", "apples\u2028\U0001f34f", heading=3, title="Fruit", seeds=(1, 2))], encoder=ENCODER)
    store.add([entry("b", "plums", source="t")], encoder="model-a/int8")
    made = backup.back_up(engine, settings, file, actor="ada", index=IndexLines(store))
    assert made.index == {"s": 1, "t": 1}
    assert made.words.endswith(", 2 sections of the index")
    return store


def restored(engine: Engine, settings: Settings, file: Path, *, replace: bool = False) -> backup.Backup:
    index = lambda: IndexLines(open_store(settings))  # noqa: E731
    return backup.restore(engine, settings, file, actor="bob", index=index, replace=replace)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_from_each_into_each(
    engine: Engine, database_url: str, tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    """Each section is there again with its vectors to the last bit, and is found; another index is left alone."""
    settings = settings_in(tmp_path / "here", database_url)
    store = backed_up(engine, settings, tmp_path / "made.zip")
    before = everything(store)
    if kind == "postgresql" and engine.dialect.name == kind:
        # One database is enough: in the place of another index.
        store.replace([])
        there, url = engine, database_url
    else:
        url = request.getfixturevalue("postgres_url") if kind == "postgresql" else ""
        url = url or sqlite_database(tmp_path / "new.db")
        there = make_engine(url)
    new = settings_in(tmp_path / "there", url)
    index = open_store(new)
    index.add([entry("mine", "pears")], encoder="model-b/fp32")
    if there is not engine:
        with pytest.raises(BackupError, match=r"The index is not empty: it has 1 section of 's'\. .*--replace"):
            restored(there, new, tmp_path / "made.zip")
        assert backup.holds_nothing(there)
    restored(there, new, tmp_path / "made.zip", replace=True)
    index.close()
    index = open_store(new)
    assert everything(index) == before
    assert found(index, "apples") == ["a"]
    for each in (index, store):
        each.close()
    there.dispose()


def test_a_second_attempt(sqlite_engine: Engine, tmp_path: Path) -> None:
    """Where a killed one has left the index and no rows, the same command does the rest."""
    settings = settings_in(tmp_path / "here", str(sqlite_engine.url))
    store = backed_up(sqlite_engine, settings, tmp_path / "made.zip")
    new = settings_in(tmp_path / "there", sqlite_database(tmp_path / "new.db"))
    open_store(new).replace(store.everything())
    there = make_engine(new.database_url)
    restored(there, new, tmp_path / "made.zip")
    assert everything(open_store(new)) == everything(store)
    there.dispose()


def altered(file: Path, change: Change) -> None:
    """Change each line of the index, with the sum that it needs."""
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    lines = [json.loads(line) for line in members["index.jsonl"].splitlines()]
    for line in lines:
        change(line)
    content = "".join(f"{json.dumps(line)}\n" for line in lines).encode()
    manifest = json.loads(members["manifest.json"])
    manifest["files"]["index.jsonl"] = {"sha256": sha256(content).hexdigest(), "bytes": len(content)}
    members |= {"index.jsonl": content, "manifest.json": json.dumps(manifest).encode()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, each in members.items():
            archive.writestr(name, each)


@pytest.mark.parametrize(
    "change",
    [
        lambda line: line.clear(),
        lambda line: line.update(vectors="?"),
        lambda line: line.update(vectors=""),
        lambda line: line.update(dimension=0),
        lambda line: line.update(dimension=5),
        lambda line: line.update(encoder=line["section"]["source"]),
        lambda line: line.update(heading="AAAA"),
        lambda line: line["section"].update(source="other"),
        lambda line: line["section"].update(added_at="never"),
    ],
    ids=["empty", "no Base64", "no vector", "dimension 0", "dimension", "encoder", "heading", "source", "time"],
)
def test_altered_lines(sqlite_engine: Engine, tmp_path: Path, change: Change) -> None:
    """They are refused before anything is touched."""
    settings = settings_in(tmp_path / "here", str(sqlite_engine.url))
    backed_up(sqlite_engine, settings, tmp_path / "made.zip")
    altered(tmp_path / "made.zip", change)
    new = settings_in(tmp_path / "there", sqlite_database(tmp_path / "new.db"))
    there = make_engine(new.database_url)
    with pytest.raises(BackupError, match="is not a whole backup"):
        restored(there, new, tmp_path / "made.zip")
    assert backup.holds_nothing(there)
    assert not new.index_path.exists()
    there.dispose()


def test_an_index_that_cannot_be_read(sqlite_engine: Engine, tmp_path: Path) -> None:
    """The database is backed up all the same, and the backup says what it lacks."""

    class Broken(IndexLines):
        def lines(self) -> Any:
            yield "s", b"{}\n"
            raise VectorStoreError("The index cannot be used: it is broken.")

    settings = settings_in(tmp_path / "here", str(sqlite_engine.url))
    record(sqlite_engine, [Rating("Kept?", "Kept.")])
    broken = Broken(open_store(settings))
    made = backup.back_up(sqlite_engine, settings, tmp_path / "made.zip", actor="ada", index=broken)
    assert (made.index, made.lacking) == (None, ("The index cannot be used: it is broken.",))
    new = settings_in(tmp_path / "there", sqlite_database(tmp_path / "new.db"))
    there = make_engine(new.database_url)
    assert restored(there, new, tmp_path / "made.zip").rows == made.rows
    there.dispose()
