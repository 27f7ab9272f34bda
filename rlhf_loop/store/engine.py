"""The ratings database: how to open it, its transactions, and how its schema is brought up to date."""

from __future__ import annotations

import atexit
import logging
import os
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from sqlalchemy import Insert, create_engine, event, inspect, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, DisconnectionError, IntegrityError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.pool import StaticPool

from rlhf_loop.config import Settings
from rlhf_loop.errors import DatabaseError
from rlhf_loop.utils.concurrency import FairLock
from rlhf_loop.utils.extras import require
from rlhf_loop.utils.sqlite import empty_log, file_id
from rlhf_loop.utils.text import counted, verb

logger = logging.getLogger(__name__)

#: Not Alembic's own `alembic_version`: the tables may live in a database that another application migrates.
VERSION_TABLE = "rlhf_alembic_version"

FILE_GONE = "its file is gone: put it back, or make a new one (rlhf-loop init) and start again"
FILE_FOREIGN = "its file is another database than at the start: put the former back, or start again to use this one"
#: A backup of the same database that was put in its place.
FILE_COPY = "its file is another one than at the start, of the same database"
_PATIENCE_S = 10
_MIGRATION_TIMEOUT_S = 120
_MIGRATION_LOCK = 0x524C4846  # "RLHF": the key of PostgreSQL's advisory lock
#: Seconds between two looks whether another process has written. SQLite's own waits grow to 0.1 s, and who waits that
#: long misses the moments in which the file is free.
_LOOK_EVERY_S = 0.002
#: Seconds that the end of a process waits for others who just fold the write-ahead log in.
_FOLD_S = 5


@dataclass(frozen=True, slots=True)
class _KnownFile:
    """A SQLite file as it was at the start: which file, and which database."""

    file: tuple[int, int] | None
    identity: str | None


#: What this process has of SQLite files: who writes next, and what they were at the start of what lasts.
_turns: dict[Path, FairLock] = {}
_files: dict[Path, _KnownFile] = {}


def make_engine(url: str, *, patience_s: int = _PATIENCE_S, lasting: Settings | None = None) -> Engine:
    """Make the engine for a database URL; nothing connects yet.

    `sqlite:///FILE`, `sqlite://` (in memory), `postgresql://...` and `postgres://...` are understood. `patience_s` is
    how long to wait for a connection, and on SQLite for others who write. `lasting`, the settings, is for processes
    that run on: they make no new SQLite file where there was one before, and use no other database in place of theirs.

    Raises:
        ValueError: the URL is not a text.
        DatabaseError: the URL cannot be read, or names a database of another kind.
        MissingExtraError: a PostgreSQL URL without the extra [postgres].
    """
    parsed = _parse(url)
    if parsed.get_backend_name() == "sqlite":
        return _sqlite_engine(parsed, patience_s, lasting)
    require("psycopg", "postgres")
    timeout = {} if "connect_timeout" in parsed.query else {"connect_timeout": patience_s}
    engine = create_engine(parsed, pool_pre_ping=True, pool_timeout=patience_s, connect_args=timeout)

    @event.listens_for(engine, "begin")
    def _set_patience(connection: Connection) -> None:
        patience = connection.get_execution_options().get("rlhf_lock_patience_s")
        if patience is not None:
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = {round(1000 * patience)}")

    return engine


def open_database(url: str) -> Engine:
    """Make the engine and bring the schema up to date: what a process does on its first use.

    Raises:
        ValueError: the URL is not a text.
        DatabaseError: the database cannot be reached or upgraded.
    """
    engine = make_engine(url)
    ensure_schema(engine)
    return engine


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """Write in one transaction: committed at the end of the block, rolled back by an exception.

    On SQLite the write lock is taken at the start. Taken later, a transaction that has read already would fail at once
    where another process wrote meanwhile, however long the busy timeout.

    Raises:
        DatabaseError: the database cannot be reached, or stayed locked by others.
    """
    with translated_errors(_checked(engine)), engine.connect() as connection, writing(connection).begin():
        yield connection


@contextmanager
def reading(engine: Engine | Connection) -> Iterator[Connection]:
    """Read in one transaction: everything inside the block sees the same state; of a connection, what it sees anyway.

    Raises:
        DatabaseError: the database cannot be reached.
    """
    if isinstance(engine, Connection):
        yield engine
        return
    with translated_errors(_checked(engine)), engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection = connection.execution_options(isolation_level="REPEATABLE READ")
        with connection.begin():
            yield connection


def _checked(engine: Engine) -> Engine:
    if not isinstance(engine, Engine):
        # Not its value: an address may have a password in it.
        raise ValueError(f"The database is a {type(engine).__name__}, not open. Pass what open_database(url) returns.")
    return engine


def writing(connection: Connection) -> Connection:
    """Mark the connection's next transactions as ones that write (see `transaction`)."""
    return connection.execution_options(rlhf_writes=True)


def upsert(
    connection: Connection,
    table: type[DeclarativeBase],
    rows: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    *,
    key: Sequence[str],
    changed: Sequence[str] | None = None,
) -> None:
    """Insert rows; where one with the same key is there, change it.

    `changed` names the columns that then get the new value, by default all that are given beside the key; with none of
    them the row that is there stays as it is.
    """
    several: Sequence[Mapping[str, Any]] = [rows] if isinstance(rows, Mapping) else rows
    if not several:
        return
    names = [name for name in several[0] if name not in key] if changed is None else changed
    connection.execute(_upserting(connection.dialect.name, table, tuple(key), tuple(names)), several)


@cache
def _upserting(dialect: str, table: type[DeclarativeBase], key: tuple[str, ...], names: tuple[str, ...]) -> Insert:
    # Two dialects, one clause: SQLAlchemy has no common spelling of it.
    statement = (sqlite if dialect == "sqlite" else postgresql).insert(table)
    # By the columns themselves: names would go into the statement as they are, whatever the database calls them.
    elements = [table.__table__.c[name] for name in key]
    values = {name: statement.excluded[name] for name in names}
    whole: Insert = (
        statement.on_conflict_do_update(index_elements=elements, set_=values)
        if values
        else statement.on_conflict_do_nothing(index_elements=elements)
    )
    return whole


def copy_rows(
    connection: Connection, statement: str, rows: Iterable[Sequence[Any]], *, types: Sequence[str] = ()
) -> None:
    """Send rows to PostgreSQL by one COPY ... FROM STDIN, instead of a statement for each.

    `types` are those of the columns, which FORMAT BINARY needs.

    Raises:
        DBAPIError: the server or the driver does not take them; it names the line.
    """
    psycopg, number = require("psycopg", "postgres"), 0
    driver: Any = connection.connection.driver_connection
    try:
        with driver.cursor() as cursor, cursor.copy(statement) as copy:
            if types:
                copy.set_types(types)
            for row in rows:
                number += 1
                copy.write_row(row)
    except psycopg.Error as error:
        if isinstance(error, psycopg.DataError) and not error.diag.context:
            # The server names the line; a value that the driver itself refuses is in this one.
            error.args = (f"{error}, line {number}",)
        raise DBAPIError.instance(statement, None, error, psycopg.Error) from error


@contextmanager
def translated_errors(engine: Engine) -> Iterator[None]:
    """Turn the driver's errors into `DatabaseError`; a broken constraint or bad value stays what it is."""
    try:
        yield
    except (IntegrityError, DataError):
        raise
    except (DBAPIError, PoolTimeoutError) as error:
        raise DatabaseError(_unusable(engine, error)) from error


def hurried(engine: Engine, seconds: float) -> Engine:
    """Return the engine, on the same connections, for what may as well not be done: it waits that long for a lock."""
    return engine.execution_options(rlhf_lock_patience_s=seconds)


def answered(error: DatabaseError) -> bool:
    """Tell whether the database is there and says no, because others lock it or its tables are missing."""
    return any(words in str(error) for words in ("database is locked", "no such table", 'relation "'))


@cache
def revisions() -> frozenset[str]:
    """Return all revisions, by the names of the migrations' files.

    So a database that is up to date costs one query, and not the import of Alembic.
    """
    versions = Path(__file__).parent / "migrations" / "versions"
    return frozenset(path.name[1:5] for path in versions.glob("r[0-9]*.py"))


def head() -> str:
    """Return the newest revision."""
    return max(revisions())


def ensure_schema(engine: Engine) -> None:
    """Bring the schema up to date if it is not; one query where it is.

    Raises:
        DatabaseError: see `migrate`.
    """
    found = revision(engine)
    path = sqlite_file(engine.url) if engine.get_execution_options().get("rlhf_lasting") else None
    if found is None and path in _files:
        raise DatabaseError(_lost(engine.url, _EMPTY))
    if found != head():
        migrate(engine)
    if path is not None:
        with translated_errors(engine), engine.connect() as connection:
            now = _KnownFile(file_id(path), connection.scalar(text(_IDENTITY)))
        if _files.setdefault(path, now).identity != now.identity:
            raise DatabaseError(_lost(engine.url, _FOREIGN))


def lost_file(settings: Settings) -> str:
    """Say what became of the SQLite file that there was before: an empty text, or one of `FILE_...`."""
    path = _file_of(settings)
    if path is None:
        return ""
    now, known = file_id(path), _files.get(path)
    if now is None:
        return FILE_GONE if known or trace_of(settings) else ""
    if known is None:
        return ""
    same = "" if known.file == now else FILE_COPY
    try:
        # The file's number alone tells too little: a new file may get that of a deleted one.
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            return FILE_FOREIGN if _other(connection, known) else same
    except sqlite3.Error:
        # Locked, or no database at all: who uses it says what is wrong.
        return same and FILE_FOREIGN


def is_new(settings: Settings) -> bool:
    """Tell whether the database is one of SQLite whose file is not there, and nothing shows that it ever was."""
    path = _file_of(settings)
    return path is not None and not path.exists() and not trace_of(settings)


def trace_of(settings: Settings) -> str:
    """Say what shows that there was a SQLite database where no file is now; an empty text if nothing does.

    A live model shows nothing: it may have been trained elsewhere, or on another database beside this one.
    """
    path = _file_of(settings)
    if path is None or path.exists():
        return ""
    lock = Path(f"{path}.lock")
    if lock.exists():
        return f"its lock file {lock} is there"
    if waiting := _waiting(settings.outbox_path):
        words = f"{counted(waiting, 'entry', 'entries')} {verb(waiting, 'waits', 'wait')}"
        return f"{words} for it in the outbox {settings.outbox_path}"
    return ""


def refuse_new_file(settings: Settings) -> None:
    """Refuse to make an empty SQLite database where there was one before; `rlhf-loop init` alone may.

    Raises:
        DatabaseError: the file is gone, and what it was used for is there.
    """
    if trace := trace_of(settings):
        raise DatabaseError(_lost(_parse(settings.database_url), f"is gone, although {trace}"))


_EMPTY = "is empty, and was not before"
_FOREIGN = "is another one than at the start"
_IDENTITY = "SELECT identity FROM rlhf_database"


def _lost(url: URL, what: str) -> str:
    return (
        f"The database {_shown(url)} {what}. Put its file back; or begin with a new one, which knows "
        "nothing of before: rlhf-loop init. What runs takes another one only when it is started again."
    )


def _file_of(settings: Settings) -> Path | None:
    url = settings.database_url
    return sqlite_file(_parse(url)) if url.startswith("sqlite") else None


def _other(connection: sqlite3.Connection, known: _KnownFile) -> str:
    """Say what is wrong with a file that took the place of a known one; an empty text if it has the same database."""
    if connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,):
        return _EMPTY
    with suppress(sqlite3.OperationalError):  # no such table: not ours, or from before there were identities
        if connection.execute(_IDENTITY).fetchone() == (known.identity,):
            return ""
    return _FOREIGN


def _waiting(outbox: Path) -> int:
    """Return how many entries wait in the outbox; none if it cannot be read, without making one."""
    if outbox.is_file():
        with (
            suppress(sqlite3.Error),
            closing(sqlite3.connect(f"{outbox.absolute().as_uri()}?mode=ro", uri=True)) as connection,
        ):
            [waiting] = connection.execute("SELECT count(*) - count(refused) FROM entries").fetchone()
            return int(waiting)
    return 0


def migrate(engine: Engine) -> None:
    """Upgrade the schema to `head()`, in one transaction; safe where several processes start at once.

    An earlier hand-made `rlhf_interactions` is adopted with its rows. That a new database is made, and where, is
    logged as a warning: it is seen by whoever meant another one, and has none in this folder.

    Raises:
        DatabaseError: the database cannot be reached, is newer than this code, or holds rows that cannot be kept.
    """
    with migrating(engine) as connection:
        found = revision_in(connection)
        new = found is None and not inspect(connection).has_table("rlhf_interactions")
        if found != head():
            upgrade(connection)
    if new and engine.url.database != ":memory:" and engine.url.database:
        file = sqlite_file(engine.url) if engine.dialect.name == "sqlite" else None
        found = f"There was no database at {file.absolute()}" if file else f"There were no tables in {describe(engine)}"
        logger.warning("%s, so an empty database is made. If yours is elsewhere, set RLHF_DATABASE_URL.", found)


@contextmanager
def migrating(engine: Engine) -> Iterator[Connection]:
    """Write in one transaction in which no other process changes the schema.

    Raises:
        DatabaseError: the database cannot be reached, or refuses what is done.
    """
    with _migration_lock(engine), _readable_errors(engine), transaction(engine) as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
        yield connection


def revision(engine: Engine) -> str | None:
    """Tell the schema's revision; None for a database without our tables.

    Raises:
        DatabaseError: the database cannot be reached.
    """
    with translated_errors(engine), engine.connect() as connection:
        return revision_in(connection)


def describe(engine: Engine) -> str:
    """Name the database as it may be shown: its URL without password and driver options, a file by its whole path."""
    return _shown(engine.url)


def _shown(url: URL) -> str:
    if url.get_backend_name() == "sqlite" and (file := sqlite_file(url)):
        return url.set(database=str(file.absolute())).render_as_string()
    shown = {key: value for key, value in url.query.items() if key in ("host", "port", "service")}
    return url.set(query=shown).render_as_string(hide_password=True)


def _parse(url: str) -> URL:
    if not isinstance(url, str):
        raise ValueError(
            f"The database URL is a {type(url).__name__}, not a text. Write sqlite:///FILE or "
            "postgresql://USER:PASSWORD@HOST/NAME."
        )
    try:
        parsed = make_url(re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", url))
    except (ArgumentError, ValueError):
        # Neither the URL nor SQLAlchemy's words: they may hold the password.
        raise DatabaseError(
            "The database URL cannot be read (it is not shown: it may hold a password). "
            "Write sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME."
        ) from None
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite", "postgresql+psycopg"):
        raise DatabaseError(
            f"Databases of the kind {parsed.drivername!r} are not supported. "
            "Use sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME."
        )
    return parsed


def _sqlite_engine(url: URL, patience_s: int, lasting: Settings | None) -> Engine:
    path = sqlite_file(url)
    # A database in memory lives in its one connection, so all threads must share that one.
    if path is None:
        engine = create_engine(url, poolclass=StaticPool, connect_args={"check_same_thread": False})
    else:
        engine = create_engine(url, execution_options={"rlhf_lasting": lasting is not None})
        _turns.setdefault(path, FairLock())

    @event.listens_for(engine, "do_connect")
    def _make_folder(*_: Any) -> None:
        if path is None:
            return
        if lasting is not None and not path.exists():
            if path in _files:
                raise DatabaseError(_lost(url, "is gone: its file was deleted, or moved away"))
            refuse_new_file(lasting)
        _create_parent(path)

    @event.listens_for(engine, "connect")
    def _refuse_other_database(connection: sqlite3.Connection, _: Any) -> None:
        known = _files.get(path) if lasting is not None and path is not None else None
        if known is not None and (what := _other(connection, known)):
            connection.close()
            raise DatabaseError(_lost(url, what))

    @event.listens_for(engine, "connect")
    def _set_pragmas(connection: sqlite3.Connection, _: Any) -> None:
        connection.isolation_level = None  # transactions are begun below, so that they hold DDL too
        connection.execute(f"PRAGMA busy_timeout = {1000 * patience_s}")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = FULL")  # an acknowledged rating survives a power cut
        connection.execute("PRAGMA secure_delete = ON")  # what is deleted is overwritten: see `scrub`
        if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
            # Only where another process opens the new file in this very moment, and then that one sets it; or where
            # the file is read-only, and then there is nothing to journal.
            with suppress(sqlite3.OperationalError):
                connection.execute("PRAGMA journal_mode = WAL")

    @event.listens_for(engine, "connect")
    def _add_functions(connection: sqlite3.Connection, _: Any) -> None:
        connection.create_function("rlhf_lower", 1, str.lower, deterministic=True)

    @event.listens_for(engine, "connect")
    def _remember_file(_: sqlite3.Connection, record: Any) -> None:
        record.info["file"] = file_id(path) if path is not None else None

    @event.listens_for(engine, "checkout")
    def _notice_other_file(_: sqlite3.Connection, record: Any, __: Any) -> None:
        # A file that was deleted or replaced still takes what is written, and nobody would find it again.
        if path is not None and record.info["file"] != file_id(path):
            raise DisconnectionError(f"The file {path} is another one now.")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        patience = options.get("rlhf_lock_patience_s", patience_s)
        if options.get("rlhf_writes", False) and path is not None:
            _begin_writing(connection, _turns[path], patience)
        elif patience == patience_s:
            connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get("rlhf_writes", False) else "BEGIN")
        else:
            with _waiting_for(connection, patience):
                connection.exec_driver_sql("BEGIN")

    return engine


def _begin_writing(connection: Connection, turn: FairLock, patience_s: float) -> None:
    """Begin to write when it is our turn: the threads of a process in the order in which they came, processes by luck.

    SQLite itself knows no order, so that of many who write all the time some would wait for ever.
    """
    end = monotonic() + patience_s
    mine = turn.acquire(timeout=patience_s)
    try:
        with _waiting_for(connection, 0):
            cursor = connection.connection.cursor()
            while mine and monotonic() < end:
                try:
                    cursor.execute("BEGIN IMMEDIATE")
                    return
                except sqlite3.OperationalError as error:
                    if "locked" not in str(error):
                        break
                sleep(_LOOK_EVERY_S)
            # An error, most likely; of the kind that is expected here.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
    finally:
        if mine:
            turn.release()


@contextmanager
def _waiting_for(connection: Connection, seconds: float) -> Iterator[None]:
    [before] = connection.exec_driver_sql("PRAGMA busy_timeout").one()
    connection.exec_driver_sql(f"PRAGMA busy_timeout = {round(1000 * seconds)}")
    try:
        yield
    finally:
        # The connection goes back to those that have time.
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {before}")


def _forget_turns() -> None:
    # A fork takes over locks whose threads it does not.
    for path in _turns:
        _turns[path] = FairLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_turns)


@atexit.register
def fold_in() -> None:
    """Have SQLite's files hold all that was written, so that a copy of one is whole, also where threads still run.

    Each process does so at its end by itself; what ends otherwise calls it before.
    """
    for path in _turns:
        with suppress(OSError, sqlite3.Error):
            if not os.path.getsize(f"{path}-wal") or not path.exists():
                continue
            end = monotonic() + _FOLD_S
            with closing(sqlite3.connect(path, timeout=_FOLD_S)) as connection:
                # It holds up nobody. What others read just now cannot be folded in yet; the last one of them will.
                while True:
                    busy, frames, done = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                    if (not busy and frames == done) or monotonic() > end:
                        break
                    sleep(_LOOK_EVERY_S)


def scrub(engine: Engine) -> bool:
    """Have SQLite's write-ahead log hold nothing any more, and so nothing of what was deleted; False if it has to stay.

    Empty, the database's file has nothing of it either; PostgreSQL overwrites by its vacuum.
    """
    path = sqlite_file(engine.url) if engine.dialect.name == "sqlite" else None
    if path is None:
        return True
    with closing(sqlite3.connect(path, timeout=_FOLD_S)) as connection:
        return empty_log(connection, path)


def sqlite_file(url: URL) -> Path | None:
    """The database's file; None for one in memory. A URI (`file:...?uri=true`) is left to SQLite."""
    name = url.database
    if not name or name == ":memory:" or name.startswith("file:"):
        return None
    return Path(name)


def _create_parent(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatabaseError(
            f"The folder {str(path.parent)!r} of the database cannot be created: {error.strerror}. "
            "Choose another place with RLHF_DATABASE_URL."
        ) from error


@contextmanager
def _readable_errors(engine: Engine) -> Iterator[None]:
    """In a migration the rows themselves may break a constraint: that too is a `DatabaseError`."""
    try:
        yield
    except SQLAlchemyError as error:
        raise DatabaseError(_unusable(engine, error)) from error


@contextmanager
def _migration_lock(engine: Engine) -> Iterator[None]:
    path = sqlite_file(engine.url) if engine.dialect.name == "sqlite" else None
    if path is None:
        yield
        return
    from filelock import FileLock, Timeout

    _create_parent(path)
    try:
        with FileLock(f"{path}.lock", timeout=_MIGRATION_TIMEOUT_S):
            yield
    except Timeout as error:
        raise DatabaseError(
            f"Another process has been upgrading {describe(engine)} for {_MIGRATION_TIMEOUT_S} s. "
            "Wait for it, or end it, and try again."
        ) from error
    except OSError as error:
        raise DatabaseError(
            f"The lock file {path}.lock cannot be written: {error.strerror}. "
            "Make the folder writable, or choose another place with RLHF_DATABASE_URL."
        ) from error


def revision_in(connection: Connection) -> str | None:
    """Tell the schema's revision, as this transaction sees it."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    found: str | None = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
    return found


def upgrade(connection: Connection, *, to: str = "head") -> None:
    """Bring the schema to a revision, in the transaction of `migrating`.

    Raises:
        DatabaseError: the database is newer than this code.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    current = revision_in(connection)
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if current is not None and current not in known:
        raise DatabaseError(
            f"The database {describe(connection.engine)} is at revision {current!r}; this version of rlhf-loop knows "
            f"none newer than {head()!r}. Install the version that upgraded it, or use another database."
        )
    command.upgrade(config, to)


def _unusable(engine: Engine, error: SQLAlchemyError) -> str:
    reason = " ".join(str(getattr(error, "orig", None) or error).split())
    password = engine.url.password
    if password:
        reason = reason.replace(f":{password}@", ":***@")
    if "database is locked" in reason:
        advice = "Another process is writing to it; try again when that has ended."
    elif "no such table" in reason or ("does not exist" in reason and "relation" in reason):
        advice = "Run: rlhf-loop init"
    elif "disk is full" in reason or "disk I/O error" in reason:
        advice = "Make room on its disk, or look what is wrong with it, and try again; what was stored is still there."
    else:
        advice = "Check RLHF_DATABASE_URL, that the server runs, and that you may write there."
    return f"The database {describe(engine)} cannot be used: {reason.rstrip('.')}. {advice}"
