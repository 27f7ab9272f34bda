"""Checks of storage: the database, free space, permissions, the vector cache and the outbox; all without writing."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from rlhf_loop.cli.doctor.finding import Finding, fault, from_error, in_words
from rlhf_loop.config import Settings
from rlhf_loop.errors import DatabaseError, RlhfLoopError
from rlhf_loop.utils.text import counted, listed, verb

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine


_INIT = "Run: rlhf-loop init"
_PUT_BACK = "Put its file back, or begin with a new one, which knows nothing of before: rlhf-loop init"
#: Seconds that a server has to take a connection, and others to let go of a lock.
_PATIENCE_S, _LOCK_PATIENCE_S = 2, 1.0
#: SQLite's messages about a file that is damaged or not a database.
_DAMAGED = ("file is not a database", "malformed")
_RESTORE = "Restore it from a backup, or name another file with RLHF_DATABASE_URL"
#: What SQLite keeps beside a file that somebody writes to.
_LOGS = ("-wal", "-journal")
_SQLITE_HEADER = b"SQLite format 3\0"
#: Room that a file system needs on which anything is kept that must not be lost: a full disk refuses the next rating,
#: and the outbox that would keep it. A training writes a few MB, a LanceDB that merges its files as much as they have;
#: the rest is time for somebody to come. What the cache may still take there comes on top, since it will.
_ROOM = 500 * 10**6
#: Where only the cache is, a full disk costs time and no data; 100 MB are the encoder's graph, without which nothing is
#: ranked.
_ROOM_OF_CACHE = 100 * 10**6
_CACHE, _DATABASE = "cache", "database"


@dataclass(frozen=True, slots=True)
class DatabaseAccess:
    """The database as far as it can be reached. `engine` is read-only, and None unless our tables are up to date.

    `file` is that of a SQLite database, be it there or not. `new` means that nothing of ours is in it yet.
    """

    finding: Finding
    engine: Engine | None = None
    file: Path | None = None
    new: bool = False


def reach(settings: Settings) -> DatabaseAccess:
    """Look whether the database is there, and at which revision.

    Raises:
        DatabaseError: its URL cannot be read.
        MissingExtraError: it is PostgreSQL, and the extra [postgres] is not installed.
        OSError: its folder cannot be looked into.
    """
    from sqlalchemy import create_engine

    from rlhf_loop.store.engine import describe, hurried, make_engine, sqlite_file, trace_of

    engine = make_engine(settings.database_url, patience_s=_PATIENCE_S)
    shown = describe(engine)
    if engine.dialect.name != "sqlite":
        return _looked_into(hurried(engine.execution_options(postgresql_readonly=True), _LOCK_PATIENCE_S), shown)
    file = sqlite_file(engine.url)
    if file is None:
        return DatabaseAccess(Finding("database", f"{shown} is SQLite's own business: in memory, or named by a URI"))
    if not file.exists() and (trace := trace_of(settings)):
        return DatabaseAccess(fault("database", f"{shown} is gone, although {trace}", _PUT_BACK), file=file)
    if not file.exists():
        return DatabaseAccess(fault("database", f"{shown} is not there yet", _INIT), file=file, new=True)
    if not file.is_file():
        advice = "Choose another place with RLHF_DATABASE_URL"
        return DatabaseAccess(fault("database", f"{shown} is not a file", advice), file=file)
    # With the URL, by which errors name it.
    read_only = create_engine(engine.url, creator=lambda: connect_read_only(file))
    reached = replace(_looked_into(read_only, shown), file=file)
    if any(words in reached.finding.text for words in _DAMAGED):
        return replace(reached, finding=replace(reached.finding, advice=_RESTORE))
    return reached


def connect_read_only(file: Path) -> sqlite3.Connection:
    """Open a SQLite file so that it stays as it is, byte for byte, and none is made beside it."""
    # Where no writer left a log, the file alone is the database; only then may SQLite be told that it will not change.
    alone = not any(file.with_name(file.name + suffix).exists() for suffix in _LOGS)
    uri = f"{file.absolute().as_uri()}?mode=ro{'&immutable=1' if alone else ''}"
    return sqlite3.connect(uri, uri=True, timeout=_LOCK_PATIENCE_S)


def disk(settings: Settings, reached: DatabaseAccess) -> Iterator[Finding]:
    """Tell the free space of each file system, with what is kept on it, and what cannot be written."""
    places = _places(settings, reached)
    systems: dict[int, list[_Place]] = {}
    for place in places:
        systems.setdefault(os.stat(place.standing).st_dev, []).append(place)
    for together in systems.values():
        yield _room(together, settings)
    for there, shut in _in_the_way(places, reached).items():
        kept = listed([f"the {place.name}" for place in shut])
        advice = f"Mend its rights, or set {listed([place.setting for place in shut])}"
        yield fault("disk", f"{there} cannot be written; it is for {kept}", advice)


def cache(settings: Settings) -> Iterator[Finding]:
    """Tell how large the cache of vectors is, and whether it is one."""
    file, limit = settings.cache_dir / "vectors.db", settings.cache_max_mb
    if not file.exists():
        yield Finding("cache", f"{file} is not there yet; the first texts that are embedded make it")
    elif not file.is_file() or _beginning(file) not in (b"", _SQLITE_HEADER):
        yield fault("cache", f"{file} is not a vector cache", "Delete it; it is made anew")
    else:
        yield Finding("cache", f"{file} has {file.stat().st_size / 1e6:,.0f} MB of at most {limit:,}")
    yield from _shared(settings)


def _shared(settings: Settings) -> Iterator[Finding]:
    """Tell whether the shared cache answers; one that is away is not a fault, as it only costs time."""
    from rlhf_loop.encoders.shared_vectors import open_shared

    try:
        shared = open_shared(settings)
    except RlhfLoopError:
        # Found among the settings.
        return
    if shared is None:
        return
    started = perf_counter()
    try:
        shared.check()
    except Exception as error:
        text = f"the shared cache (RLHF_CACHE_URL) cannot be used: {in_words(error, settings)}"
        yield Finding("cache", text, advice="Texts are embedded on this machine meanwhile; look after that server")
        return
    took = f"the shared cache (RLHF_CACHE_URL) answers in {1000 * (perf_counter() - started):.1f} ms"
    if settings.secret_key:
        yield Finding("cache", took)
    else:
        advice = "Set RLHF_SECRET_KEY, the same on all machines: whoever can write there could change scores"
        yield Finding("cache", f"{took}; its values are not signed", advice=advice)


def store(settings: Settings) -> Iterator[Finding]:
    """Tell whether the object store of the versions answers, and which versions wait for it on this machine."""
    if not settings.models_store:
        return
    from rlhf_loop.registry import model_store

    started = perf_counter()
    try:
        there = model_store.home(settings)
        count = sum(each.name.endswith(".joblib") for each in there.entries())
    except RlhfLoopError as error:
        yield from_error("store", error)
    else:
        took = 1000 * (perf_counter() - started)
        yield Finding("store", f"{there.address} answers in {took:.0f} ms and has {counted(count, 'version')}")
    if waiting := model_store.waiting(settings):
        text = (
            f"{listed(waiting)} {verb(len(waiting), 'waits', 'wait')} in {settings.models_folder} for the object store"
        )
        yield fault("store", text, "Once it answers, bring them there: rlhf-loop models list")


def outbox(settings: Settings) -> Iterator[Finding]:
    """Tell how much waits in the outbox for the database, and how much the database has refused for good."""
    file = settings.outbox_path
    # An empty file is one that its first entry has yet to make whole.
    if not file.exists() or (file.is_file() and not file.stat().st_size):
        yield Finding("outbox", f"nothing waits; {file} is made when the database is down")
        return
    try:
        with closing(connect_read_only(file)) as connection:
            query = "SELECT count(*) - count(refused), count(refused) FROM entries"
            waiting, refused = connection.execute(query).fetchone()
    except sqlite3.Error as error:
        advice = "If nothing writes to it: move it away, with those beside it that end in -wal and -shm"
        yield fault("outbox", f"{file} cannot be read: {error}", advice)
        return
    if waiting:
        count = f"{counted(waiting, 'entry', 'entries')} of at most {settings.outbox_max:,}"
        text = f"{count} {verb(waiting, 'waits', 'wait')} in {file} for the database"
        advice = "Start rlhf-loop serve: it brings them in as soon as the database answers; if it runs, see its log"
        yield fault("outbox", text, advice)
    if refused:
        text = f"the database has refused {counted(refused, 'entry', 'entries')} in {file} for good"
        advice = "See why in column refused of its table entries; delete those rows when they are settled"
        yield fault("outbox", text, advice)
    if not waiting and not refused:
        yield Finding("outbox", f"nothing waits in {file}")


def _looked_into(engine: Engine, shown: str) -> DatabaseAccess:
    from rlhf_loop.store.engine import head, revision

    try:
        found = revision(engine)
    except DatabaseError as error:
        engine.dispose()
        return DatabaseAccess(from_error("database", error))
    if found == head():
        return DatabaseAccess(Finding("database", f"{shown} is at revision {found}"), engine)
    engine.dispose()
    if found is None:
        return DatabaseAccess(fault("database", f"{shown} is without our tables", _INIT), new=True)
    if found < head():
        return DatabaseAccess(fault("database", f"{shown} is at revision {found}, not {head()}", _INIT))
    advice = "Install the version of rlhf-loop that upgraded it, or use another database"
    return DatabaseAccess(fault("database", f"{shown} is at revision {found}, and {head()} is known here", advice))


@dataclass(frozen=True, slots=True)
class _Place:
    """A folder in which something is kept, by the setting that moves it; `standing` is the part of it that exists."""

    name: str
    folder: Path
    setting: str

    @property
    def standing(self) -> Path:
        # os.path: what may not be looked into counts as missing, so that the folder that is in the way is found.
        return next(each for each in (self.folder, *self.folder.parents) if os.path.exists(each))


def _places(settings: Settings, reached: DatabaseAccess) -> list[_Place]:
    places = [
        _Place("live model", settings.model_path.parent, "RLHF_MODEL_PATH"),
        _Place("outbox", settings.outbox_path.parent, "RLHF_OUTBOX_PATH"),
        _Place(_CACHE, settings.cache_dir, "RLHF_CACHE_DIR"),
    ]
    if not settings.models_store:
        places.insert(1, _Place("versions", settings.models_folder, "RLHF_MODELS_PATH"))
    if reached.file is not None:
        places.insert(0, _Place(_DATABASE, reached.file.parent, "RLHF_DATABASE_URL"))
    if not settings.database_url.startswith("postgres"):
        places.append(_Place("index", settings.index_path, "RLHF_INDEX_PATH"))
    return [_Place(place.name, place.folder.absolute(), place.setting) for place in places]


def _in_the_way(places: Sequence[_Place], reached: DatabaseAccess) -> dict[Path, list[_Place]]:
    """Return the folders that cannot be written, and files where a folder should be, each with what cannot be kept."""
    found: dict[Path, list[_Place]] = {}
    for place in places:
        there = place.standing
        if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
            found.setdefault(there, []).append(place)
    file = reached.file
    if file is not None and os.path.isfile(file) and not os.access(file, os.W_OK):
        found[file.absolute()] = [place for place in places if place.name == _DATABASE]
    return found


def _room(places: Sequence[_Place], settings: Settings) -> Finding:
    names = [place.name for place in places]
    standing = list(dict.fromkeys(place.standing for place in places))
    folders = [str(each) for each in standing if not any(other in each.parents for other in standing)]
    free = shutil.disk_usage(places[0].standing).free
    growth = _growth(settings) if _CACHE in names else 0
    needed = _ROOM_OF_CACHE if names == [_CACHE] else _ROOM + growth
    text = f"{_size(free)} free for {listed(names)} ({', '.join(folders)})"
    if free >= needed:
        return Finding("disk", text)
    if free < needed - growth or names == [_CACHE]:
        return fault("disk", text, f"Free some: {_size(needed)} should be")
    advice = f"Free some, or set RLHF_CACHE_MAX_MB lower: the cache may still take {_size(growth)} of it"
    return fault("disk", text, advice)


def _growth(settings: Settings) -> int:
    file = settings.cache_dir / "vectors.db"
    size = file.stat().st_size if os.path.exists(file) else 0
    return max(0, settings.cache_max_mb * 10**6 - size)


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"


def _beginning(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(len(_SQLITE_HEADER))
