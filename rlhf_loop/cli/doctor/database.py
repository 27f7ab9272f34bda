"""The database as far as it can be seen without touching it."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_loop.cli.doctor.finding import Finding, fault, from_error
from rlhf_loop.config import Settings
from rlhf_loop.errors import DatabaseError

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

_INIT = "Run: rlhf-loop init"
#: Seconds that a server has to take a connection, and others to let go of a lock.
_PATIENCE_S, _LOCK_PATIENCE_S = 2, 1.0
#: What SQLite says of a file that is none of its own any more.
_DAMAGED = ("file is not a database", "malformed")
_RESTORE = "Restore it from a backup, or name another file with RLHF_DATABASE_URL"
#: What SQLite keeps beside a file that somebody writes to.
_LOGS = ("-wal", "-journal")


@dataclass(frozen=True, slots=True)
class Reached:
    """How far one gets. `engine` can be asked, and writes nothing; there is none where our tables of today are not.

    `file` is that of a SQLite database, be it there or not. `new` means that nothing of ours is in it yet.
    """

    finding: Finding
    engine: Engine | None = None
    file: Path | None = None
    new: bool = False


def reach(settings: Settings) -> Reached:
    """Look whether the database is there, and at which revision.

    Raises:
        DatabaseError: its URL cannot be read.
        MissingExtraError: it is PostgreSQL, and the extra [postgres] is not installed.
        OSError: its folder cannot be looked into.
    """
    from rlhf_loop.store.engine import describe, hurried, make_engine, sqlite_file

    engine = make_engine(settings.database_url, patience_s=_PATIENCE_S)
    shown = describe(engine)
    if engine.dialect.name != "sqlite":
        return _looked_into(hurried(engine.execution_options(postgresql_readonly=True), _LOCK_PATIENCE_S), shown)
    file = sqlite_file(engine.url)
    if file is None:
        return Reached(Finding("database", f"{shown} is SQLite's own business: in memory, or named by a URI"))
    if not file.exists():
        return Reached(fault("database", f"{shown} is not there yet", _INIT), file=file, new=True)
    if not file.is_file():
        advice = "Choose another place with RLHF_DATABASE_URL"
        return Reached(fault("database", f"{shown} is no file", advice), file=file)
    reached = replace(_looked_into(_read_only(engine, file), shown), file=file)
    if any(words in reached.finding.text for words in _DAMAGED):
        return replace(reached, finding=replace(reached.finding, advice=_RESTORE))
    return reached


def connect_read_only(file: Path) -> sqlite3.Connection:
    """Open a SQLite file so that it stays as it is, byte for byte, and none is made beside it."""
    # Where no writer left a log, the file alone is the database; only then may SQLite be told that it will not change.
    alone = not any(file.with_name(file.name + suffix).exists() for suffix in _LOGS)
    uri = f"{file.absolute().as_uri()}?mode=ro{'&immutable=1' if alone else ''}"
    return sqlite3.connect(uri, uri=True, timeout=_LOCK_PATIENCE_S)


def _read_only(engine: Engine, file: Path) -> Engine:
    from sqlalchemy import create_engine

    # With the URL, by which errors name it.
    return create_engine(engine.url, creator=lambda: connect_read_only(file))


def _looked_into(engine: Engine, shown: str) -> Reached:
    from rlhf_loop.store.engine import HEAD, revision

    try:
        found = revision(engine)
    except DatabaseError as error:
        engine.dispose()
        return Reached(from_error("database", error))
    if found == HEAD:
        return Reached(Finding("database", f"{shown} is at revision {found}"), engine)
    engine.dispose()
    if found is None:
        return Reached(fault("database", f"{shown} is without our tables", _INIT), new=True)
    if found < HEAD:
        return Reached(fault("database", f"{shown} is at revision {found}, not {HEAD}", _INIT))
    advice = "Install the version of rlhf-loop that upgraded it, or use another database"
    return Reached(fault("database", f"{shown} is at revision {found}, and {HEAD} is known here", advice))
