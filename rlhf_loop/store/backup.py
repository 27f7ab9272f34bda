"""Backups: the database row by row, the versions' files and what waits in the outbox, in one file that either database
can be restored from.

It is a ZIP archive: `tables/NAME.jsonl` has a row a line, as JSON in the order of the manifest's columns, times by ISO
8601; `models/` and `live/` have model files as they are; `manifest.json`, the last one, has the schema's revision, all
counts, and the sum of each member. So neither the server's version nor its client programs matter, and a restoration is
one transaction. `pg_dump` would be faster on large databases, and could be restored into PostgreSQL alone.
"""

from __future__ import annotations

import json
import logging
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import IO, Any
from zipfile import ZIP_DEFLATED, BadZipFile, ZipFile

from filelock import FileLock, Timeout
from sqlalchemy import JSON, Table, func, inspect, select
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from rlhf_loop.config import Settings
from rlhf_loop.domain import ModelState
from rlhf_loop.errors import BackupError, DatabaseError
from rlhf_loop.store import audit
from rlhf_loop.store.engine import (
    VERSION_TABLE,
    describe,
    head,
    migrating,
    reading,
    revision_in,
    revisions,
    sqlite_file,
    transaction,
    upgrade,
)
from rlhf_loop.store.outbox import Outbox, outboxes
from rlhf_loop.store.tables import AuditEntry, Base, ModelVersion, UtcDateTime
from rlhf_loop.utils.files import write_whole
from rlhf_loop.utils.text import counted
from rlhf_loop.utils.translation import Message
from rlhf_loop.version import __version__

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]

_FORMAT = 1
#: In the folder of the backups: what is not whole yet, and the lock of who writes it.
_DRAFT, _LOCK = ".rlhf-backup.part", ".rlhf-backup.lock"
_MANIFEST, _OUTBOX = "manifest.json", "outbox.jsonl"
#: Bytes of a manifest that is read at all: that of ten thousand versions has two million.
_LARGEST_MANIFEST = 2**26
#: Who signed out since would be in again, and a used link would work once more.
_LEFT_OUT = frozenset({"rlhf_sessions", "rlhf_one_time_links"})
#: What a database has that nobody has used yet.
_OF_ITSELF = _LEFT_OUT | {"rlhf_database", "rlhf_audit_log", "rlhf_alarms", "rlhf_sign_in_failures"}
_ROWS, _CHUNK = 1_000, 2**20
#: Text shrinks to a fifth at this level already.
_LEVEL = 3
_ACTION, _RESTORED, _TARGET = "backup.made", "backup.restored", "backup"
_MODEL_FILE = re.compile(
    r"(models|live)/([\w-]{1,200}(\.joblib|\.joblib\.sha256|\.fitted\.npy|\.md|\.safetensors))", re.ASCII
)
_LIVE = "live/model.joblib"
_NAMED = re.compile(r"rlhf-loop-\d{8}T\d{6}Z\.zip", re.ASCII)
#: What zipfile and zlib say of an archive that is cut short, altered, or none.
_BROKEN = (
    ArithmeticError,
    AttributeError,
    BadZipFile,
    EOFError,
    LookupError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True, slots=True)
class TableRows:
    """The rows of a table: how many, in which columns, of which some hold times or JSON; `last_id` was given last."""

    name: str
    columns: tuple[str, ...]
    times: tuple[str, ...]
    json: tuple[str, ...]
    rows: int
    last_id: int | None


@dataclass(frozen=True, slots=True)
class Member:
    """A file in the archive."""

    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """The content of a backup; `missing` are files of versions that were not there, `live` is the live model's sum."""

    format: int
    program: str
    revision: str
    made_at: datetime
    database: str
    tables: tuple[TableRows, ...]
    versions: int
    missing: tuple[str, ...]
    live: str | None
    waiting: int
    settings: Mapping[str, str]
    files: Mapping[str, Member] = field(repr=False)

    @property
    def rows(self) -> int:
        """The number of all rows."""
        return sum(table.rows for table in self.tables)

    @property
    def words(self) -> str:
        """Its content in words."""
        waiting = f", {counted(self.waiting, 'waiting entry', 'waiting entries')}" if self.waiting else ""
        rows = counted(self.rows, "row")
        return (
            f"{rows} of {counted(len(self.tables), 'table')}, {counted(self.versions, 'version')} of the model{waiting}"
        )


@dataclass(frozen=True, slots=True)
class LastBackup:
    """The last backup that the database knows of: where it is, how large, and when it was made."""

    file: str
    bytes: int
    made_at: datetime


def back_up(engine: Engine, settings: Settings, file: Path, *, actor: str, progress: Progress | None = None) -> Backup:
    """Write all there is to `file`, in place of what is there, once it was read again and found to be whole.

    Others may read and write meanwhile; what was acknowledged before the call is in it. `progress` may raise to stop.

    Raises:
        BackupError: the database holds nothing, `file` is something else than a backup, it cannot be written, or
            another one is being written there; what was there is there.
        DatabaseError: the database cannot be read.
    """
    if holds_nothing(engine):
        # Most likely another one is meant; and the file may be the last of that.
        raise BackupError(
            Message(
                "The database {database} holds nothing, so no backup is made of it. Set RLHF_DATABASE_URL to the one "
                "that is meant.",
                database=describe(engine),
            )
        )
    # A link stays one, and leads to the new backup.
    target = Path(os.path.realpath(file))
    _refuse_other_files(file, target, engine, settings)
    draft = target.with_name(_DRAFT)
    with _alone(target):
        try:
            with suppress(FileNotFoundError):
                draft.unlink()
            # Nobody else's business: it holds what people wrote, and the hashes of their passwords.
            with os.fdopen(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "w+b") as out:
                with ZipFile(out, "w", ZIP_DEFLATED, compresslevel=_LEVEL) as archive:
                    _write(archive, engine, settings, progress)
                out.flush()
                os.fsync(out.fileno())
            made = look(draft)
            size = draft.stat().st_size
            draft.replace(target)
            _sync(target.parent)
        except OSError as error:
            raise BackupError(
                Message(
                    "The backup {file} cannot be written: {why}. Choose another place, or make room. What was there is "
                    "there.",
                    file=str(file),
                    why=str(error.strerror or error),
                )
            ) from error
        finally:
            with suppress(OSError):
                draft.unlink()
    detail = {"file": str(file.absolute()), "bytes": size, "rows": made.rows, "made_at": made.made_at.isoformat()}
    try:
        with transaction(engine) as connection:
            audit.note(connection, actor, _ACTION, _TARGET, detail)
    except DatabaseError as error:
        logger.warning("The backup %s is whole, but the database could not note it: %s", file, error)
    return made


def back_up_into(
    engine: Engine, settings: Settings, folder: Path, *, actor: str, progress: Progress | None = None
) -> Backup:
    """Write a backup into a folder, named by the time; of those that are named so it and the newest others stay, in all
    `backup_keep`.

    Raises:
        BackupError, DatabaseError: see `back_up`. Then all earlier ones stay.
    """
    name = f"rlhf-loop-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.zip"
    made = back_up(engine, settings, folder / name, actor=actor, progress=progress)
    # Whatever a clock that was ahead has named the others.
    others = (file for file in folder.iterdir() if _NAMED.fullmatch(file.name) and file.name != name)
    for file in sorted(others, reverse=True)[settings.backup_keep - 1 :]:
        with suppress(OSError):
            file.unlink()
    return made


def holds_nothing(engine: Engine) -> bool:
    """Tell whether a database has no more than one that was just made.

    Raises:
        DatabaseError: the database cannot be asked.
    """
    with reading(engine) as connection:
        tables = (table for table in Base.metadata.sorted_tables if table.name not in _OF_ITSELF)
        return all(connection.execute(select(table).limit(1)).first() is None for table in tables)


def last_backup(engine: Engine) -> LastBackup | None:
    """Return the last backup, None if there was none.

    Raises:
        DatabaseError: the database cannot be asked.
    """
    newest = select(AuditEntry).where(AuditEntry.target == _TARGET, AuditEntry.action == _ACTION)
    with reading(engine) as connection:
        row = connection.execute(newest.order_by(AuditEntry.id.desc()).limit(1)).first()
    if row is None:
        return None
    detail = row.detail or {}
    return LastBackup(str(detail.get("file", "")), int(detail.get("bytes", 0)), row.happened_at)


def look(file: Path) -> Backup:
    """Read a backup to its end, and return what is in it.

    Raises:
        BackupError: it is not whole, or of a later version.
    """
    with _opened(file) as (_, found):
        return found


def restore(
    engine: Engine,
    settings: Settings,
    file: Path,
    *,
    actor: str,
    replace: bool = False,
    progress: Progress | None = None,
) -> Backup:
    """Put all of a backup into the database and the folders of the settings, or nothing into the database.

    The live model's file is put in its place by `registry.settle`, as after a promotion.

    Args:
        replace: drop what is there. Without it, there must be nothing.

    Raises:
        BackupError: the backup is not whole or of a later version, or something is there.
        DatabaseError: the database cannot be written.
    """
    with _opened(file) as (archive, found), ExitStack() as closed, ExitStack() as undone:
        boxes = [closed.enter_context(closing(outbox)) for outbox in outboxes(settings)]
        if not replace:
            _refuse_others_model(settings, found)
        with migrating(engine) as connection:
            try:
                _load(connection, archive, found, replace=replace, progress=progress)
                # Before the commit: where the rows are, these are, too.
                _put_files(archive, found, settings)
                dropped = _put_waiting(archive, found, boxes, undone)
            except OSError as error:
                raise BackupError(
                    f"The backup cannot be restored: {error.strerror or error}. Make room, or mend the rights of "
                    f"{settings.models_folder}. The database is as it was."
                ) from error
            except (*_BROKEN, DataError) as error:
                raise _not_whole(file, error) from error
            detail = {"file": str(file.absolute()), "rows": found.rows, "made_at": found.made_at.isoformat()}
            audit.note(connection, actor, _RESTORED, _TARGET, detail)
        undone.pop_all()
        if replace:
            # Neither what waited for the database of before nor a model that the backup does not have.
            for outbox, gone in zip(boxes, dropped, strict=True):
                outbox.exchange(add=(), drop=gone)
            if _LIVE not in found.files and (sums := _live_sum(settings)) is not None and sums != found.live:
                for path in (settings.model_path, _sum_file(settings.model_path)):
                    path.unlink(missing_ok=True)
    return found


# --- Writing ---------------------------------------------------------------------------------------------------------


def _write(archive: ZipFile, engine: Engine, settings: Settings, progress: Progress | None) -> None:
    made_at, files = datetime.now(UTC), dict[str, Member]()
    # First: what leaves it from now on is in the database twice at worst, and then only once after a replay.
    waiting = _write_waiting(archive, settings, files)
    tables = [table for table in Base.metadata.sorted_tables if table.name not in _LEFT_OUT]
    with reading(engine) as connection:
        total = sum(_count(connection, table) for table in tables) if progress else 0
        last_ids, kept, done = _last_ids(connection), list[TableRows](), 0
        for table in tables:
            rows = 0
            with _member(archive, f"tables/{table.name}.jsonl", files) as out:
                for lines, count in _lines(connection, table):
                    out(lines)
                    rows += count
                    if progress:
                        progress(done + rows, max(total, done + rows))
            done += rows
            columns = table.columns
            times = tuple(each.name for each in columns if isinstance(each.type, UtcDateTime))
            as_json = tuple(each.name for each in columns if isinstance(each.type, JSON))
            names = tuple(each.name for each in columns)
            kept.append(TableRows(table.name, names, times, as_json, rows, last_ids.get(table.name)))
        versions = connection.execute(
            select(ModelVersion.version, ModelVersion.sha256, ModelVersion.weights_sha256, ModelVersion.state)
        ).all()
    missing = _write_models(archive, settings, versions, files)
    manifest = Backup(
        format=_FORMAT,
        program=__version__,
        revision=head(),
        made_at=made_at,
        database=engine.dialect.name,
        tables=tuple(kept),
        versions=len(versions),
        missing=tuple(missing),
        live=next((each.sha256 for each in versions if each.state == ModelState.LIVE), None),
        waiting=waiting,
        settings=settings.changed(),
        files=files,
    )
    values = {**asdict(manifest), "made_at": made_at.isoformat()}
    archive.writestr(_MANIFEST, json.dumps(values, indent=1, ensure_ascii=False))


def _refuse_other_files(file: Path, target: Path, engine: Engine, settings: Settings) -> None:
    """Refuse to take the place of something else than a backup, or of what the settings name, there yet or not."""
    named = [settings.model_path, settings.models_folder, settings.index_path]
    named += [outbox.path for outbox in outboxes(settings)]
    if engine.dialect.name == "sqlite" and (database := sqlite_file(engine.url)):
        named.append(database)
    endings = ("", "-wal", "-shm", "-journal", ".lock", ".sha256", ".off")
    names = {os.path.realpath(f"{path}{ending}") for path in named for ending in endings}
    other = str(target) in names
    if not other and target.is_file() and target.stat().st_size:
        try:
            with ZipFile(target) as archive:
                other = _MANIFEST not in archive.namelist()
        except _BROKEN:
            other = True
    if other:
        raise BackupError(
            Message(
                "{file} is not a backup, so none takes its place. Name a new file, or an earlier backup.",
                file=str(file),
            )
        )


def _lines(connection: Connection, table: Table) -> Iterator[tuple[bytes, int]]:
    wanted = select(table).order_by(*table.primary_key.columns)
    found = connection.execute(wanted, execution_options={"yield_per": _ROWS})
    for rows in found.partitions():
        lines = (json.dumps(list(row), ensure_ascii=False, separators=(",", ":"), default=_time) for row in rows)
        yield "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogatepass"), len(rows)


def _time(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is not a valid value of a column.")


def _count(connection: Connection, table: Table) -> int:
    return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def _last_ids(connection: Connection) -> dict[str, int]:
    """Return the last id that each table has given, so that none is given twice, be its row deleted."""
    if connection.dialect.name == "sqlite":
        return {name: last for name, last in connection.exec_driver_sql("SELECT name, seq FROM sqlite_sequence")}
    found = dict[str, int]()
    for name, table in Base.metadata.tables.items():
        if "id" in table.columns:
            sequence = connection.exec_driver_sql("SELECT pg_get_serial_sequence(%s, 'id')", (name,)).scalar()
            last, given = connection.exec_driver_sql(f"SELECT last_value, is_called FROM {sequence}").one()
            found |= {name: last} if given else {}
    return found


def _write_models(archive: ZipFile, settings: Settings, versions: Sequence[Any], files: dict[str, Member]) -> list[str]:
    """Write the files of the versions; return the names of those that there are not."""
    folder, missing, sums = settings.models_folder, list[str](), set[str]()
    for version in versions:
        sums.add(version.sha256)
        names = [f"{version.version}{ending}" for ending in (".joblib", ".joblib.sha256", ".fitted.npy", ".md")]
        if version.weights_sha256:
            names.append(f"{version.weights_sha256}.safetensors")
        for name in names:
            if f"models/{name}" not in files and not _write_file(archive, f"models/{name}", folder / name, files):
                missing.append(name)
    live = settings.model_path
    with suppress(OSError):
        known = _sum_file(live).read_text("ascii", "replace")[:64]
        if known not in sums and _write_file(archive, _LIVE, live, files):
            # A model that somebody put there by hand, with the layers that it may have.
            _write_file(archive, f"{_LIVE}.sha256", _sum_file(live), files)
            for layers in live.parent.glob(f"{'[0-9a-f]' * 64}.safetensors"):
                _write_file(archive, f"live/{layers.name}", layers, files)
    return missing


def _write_file(archive: ZipFile, name: str, path: Path, files: dict[str, Member]) -> bool:
    try:
        source = path.open("rb")
    except FileNotFoundError:
        return False
    with source, _member(archive, name, files) as out:
        while part := source.read(_CHUNK):
            out(part)
    return True


def _write_waiting(archive: ZipFile, settings: Settings, files: dict[str, Member]) -> int:
    count = 0
    with _member(archive, _OUTBOX, files) as out:
        for place, outbox in enumerate(outboxes(settings)):
            for kind, body, interactions in outbox.all():
                out((json.dumps([place, kind, body, interactions]) + "\n").encode())
                count += 1
            outbox.close()
    return count


@contextmanager
def _member(archive: ZipFile, name: str, files: dict[str, Member]) -> Iterator[Callable[[bytes], None]]:
    digest, size = sha256(), 0
    with archive.open(name, "w", force_zip64=True) as out:

        def write(part: bytes) -> None:
            nonlocal size
            digest.update(part)
            size += len(part)
            out.write(part)

        yield write
    files[name] = Member(digest.hexdigest(), size)


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(file.with_name(_LOCK), timeout=0).acquire()
    except Timeout:
        raise BackupError(
            Message(
                "Another backup is being written to {folder}. Wait for it, or choose another folder.",
                folder=str(file.parent),
            )
        ) from None
    except OSError as error:
        raise BackupError(
            Message(
                "The backup {file} cannot be written: {why}. Choose another place.",
                file=str(file),
                why=str(error.strerror or error),
            )
        ) from error
    with lock:
        yield


def _sync(folder: Path) -> None:
    with suppress(OSError):  # not on Windows
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


# --- Reading ---------------------------------------------------------------------------------------------------------


@contextmanager
def _opened(file: Path) -> Iterator[tuple[ZipFile, Backup]]:
    """Open a backup, once all of it was read and is what its manifest says."""
    try:
        archive = ZipFile(file)
    except FileNotFoundError:
        raise BackupError(f"There is no backup {file}. Give the file that rlhf-loop backup has written.") from None
    except _BROKEN as error:
        raise _not_whole(file, error) from error
    with archive:
        try:
            found = _manifest(archive)
            _verify(archive, found)
        except _BROKEN as error:
            raise _not_whole(file, error) from error
        yield archive, found


def _manifest(archive: ZipFile) -> Backup:
    if archive.getinfo(_MANIFEST).file_size > _LARGEST_MANIFEST:
        raise ValueError("its manifest is too large")
    written = archive.read(_MANIFEST)
    values = json.loads(written)
    form, revision = values["format"], values["revision"]
    if form > _FORMAT or revision > head():
        raise BackupError(
            f"The backup was made by rlhf-loop {str(values.get('program'))[:40]}, which is newer: its format is "
            f"{str(form)[:40]} and its revision {str(revision)[:40]}, and {_FORMAT} and {head()} are known here. "
            "Install that version, or a later one."
        )
    if form != _FORMAT or revision not in revisions() or set(values) != {each.name for each in fields(Backup)}:
        raise ValueError("no version writes such a manifest")
    from pydantic import TypeAdapter, ValidationError

    try:
        found = TypeAdapter(Backup).validate_json(written, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))[:80]} of its manifest: {first['msg']}") from None
    kept = {f"tables/{table.name}.jsonl" for table in found.tables} | {_OUTBOX}
    if kept != {name for name in found.files if name == _OUTBOX or name.startswith("tables/")}:
        raise ValueError("its tables are not those that its manifest names")
    return found


def _verify(archive: ZipFile, found: Backup) -> None:
    named = set(found.files) | {_MANIFEST}
    if set(archive.namelist()) != named or len(archive.namelist()) != len(named):
        raise ValueError("its files are not those that its manifest names")
    for name, member in found.files.items():
        digest, rest = sha256(), member.bytes
        with archive.open(name) as source:
            while part := source.read(_CHUNK):
                digest.update(part)
                if (rest := rest - len(part)) < 0:
                    break
        if rest or digest.hexdigest() != member.sha256:
            raise ValueError(f"{name} is not as it was written")


def _not_whole(file: Path, error: BaseException) -> BackupError:
    if isinstance(error, OSError) and error.strerror:
        return BackupError(f"The backup {file} cannot be read: {error.strerror}. Choose another file.")
    return BackupError(
        f"{file} is not a whole backup; it may have been cut short, or altered: "
        f"{str(error) or type(error).__name__}. Take another copy of it, or an earlier one. Nothing was changed."
    )


# --- Restoring -------------------------------------------------------------------------------------------------------


def _load(connection: Connection, archive: ZipFile, found: Backup, *, replace: bool, progress: Progress | None) -> None:
    if connection.dialect.name == "sqlite":
        # What rows name each other is looked at when all of them are there.
        connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")
    ours = {*Base.metadata.tables, VERSION_TABLE}
    there = [name for name in inspect(connection).get_table_names() if name in ours]
    if not replace:
        _refuse_rows(connection, there)
    if revision_in(connection) != found.revision:
        _drop(connection, there)
        upgrade(connection, to=found.revision)
    columns = {
        name: {column["name"] for column in inspect(connection).get_columns(name)}
        for name in inspect(connection).get_table_names()
        if name in ours and name != VERSION_TABLE
    }
    strange = [
        each.name for each in found.tables if each.name not in columns or not set(each.columns) <= columns[each.name]
    ]
    if strange:
        raise BackupError(
            f"The backup has columns of {strange[0][:60]!r} that revision {found.revision} does not know, so it was "
            "altered. Take another copy of it, or an earlier one."
        )
    done, names = 0, [table.name for table in found.tables]
    with _without_triggers(connection, [*columns]):
        # What names others goes before them.
        for name in (*(columns.keys() - set(names)), *reversed(names)):
            connection.exec_driver_sql(f"DELETE FROM {name}")
        for table in found.tables:
            done = _insert(connection, archive, table, done, found.rows, progress)
            _give_next_ids(connection, table)
    if found.revision != head():
        upgrade(connection)
    if connection.dialect.name == "sqlite" and (
        broken := connection.exec_driver_sql("PRAGMA foreign_key_check").first()
    ):
        raise BackupError(
            f"A row of {broken[0]} in the backup names one that it does not have. Take an earlier backup."
        )


def _refuse_rows(connection: Connection, there: Sequence[str]) -> None:
    for name in there:
        if name in _OF_ITSELF or name == VERSION_TABLE:
            continue
        if connection.exec_driver_sql(f"SELECT 1 FROM {name} LIMIT 1").first() is not None:
            raise BackupError(
                f"The database {connection.engine.url.render_as_string()} is not empty: {name} has rows. Name an empty "
                "one with RLHF_DATABASE_URL, or have all that is there dropped: --replace"
            )


def _refuse_others_model(settings: Settings, found: Backup) -> None:
    live = settings.model_path
    if _live_sum(settings) in (None, found.live):
        return
    raise BackupError(
        f"There is another live model at {live}. Name another place with RLHF_MODEL_PATH, or have it replaced: "
        "--replace"
    )


def _sum_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _live_sum(settings: Settings) -> str | None:
    """Return what the live file's sum should be, an empty text where nothing says that; None without a live file."""
    if not settings.model_path.exists():
        return None
    with suppress(OSError):
        return _sum_file(settings.model_path).read_text("ascii", "replace")[:64]
    return ""


def _drop(connection: Connection, there: Sequence[str]) -> None:
    ordered = [table.name for table in reversed(Base.metadata.sorted_tables) if table.name in there]
    for name in (*ordered, *({*there} - {*ordered})):
        connection.exec_driver_sql(f"DROP TABLE {name}")
    if connection.dialect.name == "postgresql":
        named = (
            "SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = current_schema()::regnamespace AND proname "
            "LIKE 'rlhf\\_%%'"
        )
        for (function,) in connection.exec_driver_sql(named).all():
            connection.exec_driver_sql(f"DROP FUNCTION {function}")


@contextmanager
def _without_triggers(connection: Connection, tables: Sequence[str]) -> Iterator[None]:
    """Keep the triggers from making reviews of ratings that have their reviews already."""
    if connection.dialect.name == "sqlite":
        query = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name LIKE 'rlhf\\_%' ESCAPE '\\'"
        triggers = connection.exec_driver_sql(query).all()
        for name, _ in triggers:
            connection.exec_driver_sql(f"DROP TRIGGER {name}")
        yield
        for _, created in triggers:
            connection.exec_driver_sql(created)
        return
    for name in tables:
        connection.exec_driver_sql(f"ALTER TABLE {name} DISABLE TRIGGER USER")
    yield
    for name in tables:
        connection.exec_driver_sql(f"ALTER TABLE {name} ENABLE TRIGGER USER")


def _insert(
    connection: Connection, archive: ZipFile, table: TableRows, done: int, total: int, progress: Progress | None
) -> int:
    on_sqlite = connection.dialect.name == "sqlite"
    times = [table.columns.index(name) for name in table.times] if on_sqlite else []
    as_json = [table.columns.index(name) for name in table.json]
    names, before = ", ".join(f'"{name}"' for name in table.columns), done

    def batches() -> Iterator[list[list[Any]]]:
        nonlocal done
        batch: list[list[Any]] = []
        with archive.open(f"tables/{table.name}.jsonl") as source:
            for line in source:
                # Some databases keep in JSON what is no number; JSON itself and PostgreSQL know no such thing.
                row = json.loads(line.decode("utf-8", "surrogatepass"), parse_constant=lambda name: None)
                for place in times:
                    row[place] = _on_sqlite(row[place])
                for place in as_json:
                    row[place] = None if row[place] is None else json.dumps(row[place])
                if len(row) != len(table.columns) or any(isinstance(each, list | dict) for each in row):
                    raise ValueError("a row has other values than its columns")
                batch.append(row)
                if len(batch) == _ROWS:
                    yield batch
                    done += len(batch)
                    batch = []
                    if progress:
                        progress(done, total)
        yield batch
        done += len(batch)

    try:
        if on_sqlite:
            values = ", ".join("?" * len(table.columns))
            for batch in batches():
                if batch:
                    connection.exec_driver_sql(
                        f"INSERT INTO {table.name} ({names}) VALUES ({values})", [tuple(row) for row in batch]
                    )
        else:
            _copy(connection, f"COPY {table.name} ({names}) FROM STDIN", batches())
        if done - before != table.rows:
            raise ValueError(f"{done - before:,} rows instead of {table.rows:,}")
    except DataError as error:
        raise BackupError(
            f"A row of {table.name} in the backup has a value that PostgreSQL cannot hold: "
            f"{' '.join(str(error.orig).split())}. Restore it into SQLite, mend the row there, and back up anew. "
            "Nothing was changed."
        ) from error
    except (IntegrityError, *_BROKEN) as error:
        raise BackupError(
            f"The rows of {table.name} in the backup are not those of a database: "
            f"{' '.join(str(getattr(error, 'orig', None) or error).split())}. Take an earlier one."
        ) from error
    return done


def _copy(connection: Connection, statement: str, batches: Iterator[list[list[Any]]]) -> None:
    import psycopg

    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    number = 0
    try:
        with driver.cursor() as cursor, cursor.copy(statement.encode()) as copy:
            for batch in batches:
                for row in batch:
                    number += 1
                    copy.write_row(row)
    except psycopg.Error as error:
        if not error.diag.context:
            # The server names the line; what the driver itself refuses is this one.
            error.args = (f"{error}, line {number}",)
        raise DBAPIError.instance(statement, None, error, psycopg.Error) from error


def _on_sqlite(value: str | None) -> str | None:
    if value is None:
        return None
    moment = datetime.fromisoformat(value).astimezone(UTC).replace(tzinfo=None)
    return moment.isoformat(sep=" ", timespec="microseconds")


def _give_next_ids(connection: Connection, table: TableRows) -> None:
    if connection.dialect.name == "sqlite":
        if table.last_id is not None:
            connection.exec_driver_sql("DELETE FROM sqlite_sequence WHERE name = ?", (table.name,))
            connection.exec_driver_sql("INSERT INTO sqlite_sequence VALUES (?, ?)", (table.name, table.last_id))
    elif "id" in table.columns:
        largest = f"greatest(%s, (SELECT max(id) FROM {table.name}), 1)"
        given = f"%s OR EXISTS (SELECT FROM {table.name})"
        connection.exec_driver_sql(
            f"SELECT setval(pg_get_serial_sequence(%s, 'id'), {largest}, {given})",
            (table.name, table.last_id, table.last_id is not None),
        )


def _put_files(archive: ZipFile, found: Backup, settings: Settings) -> None:
    live = settings.model_path
    for name in found.files:
        if not (named := _MODEL_FILE.fullmatch(name)):
            continue
        folder = settings.models_folder if named[1] == "models" else live.parent
        path = live.with_name(name.replace(_LIVE, live.name)) if name.startswith(_LIVE) else folder / named[2]
        path.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(name) as source:
            _put_file(source, path, found.files[name])


def _put_file(source: IO[bytes], path: Path, member: Member) -> None:
    with suppress(OSError):
        if path.stat().st_size == member.bytes and sha256(path.read_bytes()).hexdigest() == member.sha256:
            return
    write_whole(path, source.read(), mode=0o644)


def _put_waiting(archive: ZipFile, found: Backup, boxes: Sequence[Outbox], undone: ExitStack) -> list[list[Any]]:
    """Have what waits in the backup wait here, until it is `undone`; return what else waits in each outbox."""
    kept: list[list[Any]] = [[], []]
    with archive.open(_OUTBOX) as source:
        for line in source:
            place, kind, body, interactions = json.loads(line)
            if not (isinstance(kind, str) and isinstance(body, dict) and all(isinstance(e, str) for e in interactions)):
                raise ValueError("an entry of the outbox is not valid")
            kept[("0", "1").index(str(place))].append((kind, body, interactions))
    if sum(map(len, kept)) != found.waiting:
        raise ValueError(f"{sum(map(len, kept)):,} entries wait instead of {found.waiting:,}")
    others = []
    for outbox, entries in zip(boxes, kept, strict=True):
        there = outbox.all()
        mine, theirs = ({(kind, json.dumps(body)) for kind, body, _ in each} for each in (there, entries))
        others.append([each for each in there if (each[0], json.dumps(each[1])) not in theirs])
        new = [each for each in entries if (each[0], json.dumps(each[1])) not in mine]
        undone.callback(outbox.exchange, add=(), drop=new)
        outbox.exchange(add=new)
    return others
