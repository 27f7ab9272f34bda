"""Backups: the database row by row, the versions' files, the outbox and, where it is wanted, the index, in one file
that either database can be restored from.

It is a ZIP archive: `tables/NAME.jsonl` has a row a line, as JSON in the order of the manifest's columns, times by ISO
8601; `models/` and `live/` have model files as they are, `index.jsonl` a section a line; `manifest.json`, the last one,
has the schema's revision, all counts, and the sum of each member. So neither the server's version nor its client
programs matter, and a restoration is one transaction. `pg_dump` would be faster on large databases, and could be
restored into PostgreSQL alone.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import socket
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime, timedelta
from hashlib import file_digest, sha256
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO, TYPE_CHECKING, Any, Protocol
from zipfile import ZIP_DEFLATED, BadZipFile, ZipFile

from filelock import FileLock, Timeout
from sqlalchemy import JSON, Table, func, inspect, literal, select
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from rlhf_loop.config import Settings
from rlhf_loop.domain import ModelState
from rlhf_loop.errors import BackupError, DatabaseError, ObjectStoreError, OutboxError, VectorStoreError
from rlhf_loop.store import audit
from rlhf_loop.store.engine import (
    VERSION_TABLE,
    describe,
    ensure_schema,
    head,
    migrating,
    reading,
    revision_in,
    revisions,
    sqlite_file,
    transaction,
    upgrade,
)
from rlhf_loop.store.outbox import EntryCopy, Outbox, outboxes
from rlhf_loop.store.tables import AuditEntry, Base, ModelVersion, UtcDateTime
from rlhf_loop.utils.files import whole_file
from rlhf_loop.utils.text import counted
from rlhf_loop.utils.translation import Message
from rlhf_loop.version import __version__

if TYPE_CHECKING:
    from rlhf_loop.utils.object_store import Place

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]

#: The first format knew neither refused entries nor the index, and was made of what could be read or not at all.
_FORMAT, _FIRST = 2, 1
_ADDED = frozenset({"refused", "machine", "lacking", "index"})
#: In the folder of the backups: what is not whole yet, and the lock of who writes it.
_DRAFT, _LOCK = ".rlhf-backup.part", ".rlhf-backup.lock"
#: What a killed upload has left in an object store goes with the first backup that is made so much later.
_DRAFTS_STAY = timedelta(days=1)
_MANIFEST, _OUTBOX, _INDEX = "manifest.json", "outbox.jsonl", "index.jsonl"
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


class Index(Protocol):
    """The vector index as a backup sees it: sections by source, a line each."""

    def counts(self) -> Mapping[str, int]:
        """Count the sections that are there, by source."""

    def lines(self) -> Iterator[tuple[str, bytes]]:
        """Return each line beside its source, as all of them are at one moment."""

    def check(self, lines: Iterable[bytes]) -> Mapping[str, int]:
        """Count the sections of lines by source; a ValueError says which line is not valid."""

    def put(self, lines: Iterable[bytes]) -> None:
        """Have the sections of lines in place of all that is there, all or none."""

    def close(self) -> None:
        """Let go of files and connections."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """The content of a backup.

    `missing` are files of versions that were not there, `live` is the live model's sum. The outbox is that of
    `machine`: `waiting` entries, and `refused` ones that the database has not taken. `index` has its sections by
    source, None where it was not wanted. `lacking` says of outbox, index and the versions'
    object store what could not be read, and why.
    """

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
    refused: int = 0
    machine: str = ""
    lacking: tuple[str, ...] = ()
    index: Mapping[str, int] | None = None

    @property
    def rows(self) -> int:
        """The number of all rows."""
        return sum(table.rows for table in self.tables)

    @property
    def words(self) -> str:
        """Its content in words."""
        return ", ".join(
            [
                f"{counted(self.rows, 'row')} of {counted(len(self.tables), 'table')}",
                f"{counted(self.versions, 'version')} of the model",
                *([counted(self.waiting, "waiting entry", "waiting entries")] if self.waiting else []),
                *([counted(self.refused, "refused entry", "refused entries")] if self.refused else []),
                *([] if self.index is None else [f"{counted(sum(self.index.values()), 'section')} of the index"]),
            ]
        )


@dataclass(frozen=True, slots=True)
class LastBackup:
    """The last backup that the database knows of: where it is, how large, when it was made, and what it lacks."""

    file: str
    bytes: int
    made_at: datetime
    lacking: tuple[str, ...] = ()


def back_up(
    engine: Engine,
    settings: Settings,
    file: Path | str | Place,
    *,
    actor: str,
    index: Index | None = None,
    progress: Progress | None = None,
) -> Backup:
    """Write all there is to `file`, in place of what is there, once it was read again and found to be whole.

    `file` may be an address in an object store. Others may read and write meanwhile; what was acknowledged before the
    call, by this machine or by the database, is in it. An outbox or an index that cannot be read holds up nothing: the
    backup says what it lacks. `progress` may raise to stop.

    Args:
        index: the index, where that is wanted, too.

    Raises:
        BackupError: there is no database, or it holds nothing, `file` is something else than a backup, it cannot be
            written, or another one is being written there; what was there is there.
        DatabaseError: the database cannot be read.
        ObjectStoreError: the object store cannot be reached, or has another file than was written.
    """
    if holds_nothing(engine):
        # Most likely another one is meant; and the file may be the last of that.
        raise BackupError(
            Message(
                "The database {database} is not there, or holds nothing, so no backup is made of it. Set "
                "RLHF_DATABASE_URL to the one that is meant.",
                database=describe(engine),
            )
        )
    ensure_schema(engine)
    target = _target(file)
    # A link stays one, and leads to the new backup.
    final = Path(os.path.realpath(target)) if isinstance(target, Path) else target
    _refuse_other_files(_name(target), final, engine, settings)
    # What goes to an object store is made whole on this machine first.
    folder = final.parent if isinstance(final, Path) else settings.cache_dir
    with _draft_in(folder, _name(target)) as draft:
        # Nobody else's business: it holds what people wrote, and the hashes of their passwords.
        with os.fdopen(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "w+b") as out:
            with ZipFile(out, "w", ZIP_DEFLATED, compresslevel=_LEVEL) as archive:
                _write(archive, engine, settings, index, progress)
            out.flush()
            os.fsync(out.fileno())
        made = look(draft)
        size = draft.stat().st_size
        if isinstance(final, Path):
            draft.replace(final)
            _sync(folder)
        else:
            final.put(draft)
    detail = {
        "file": _name(target),
        "bytes": size,
        "rows": made.rows,
        "made_at": made.made_at.isoformat(),
        "lacking": list(made.lacking),
    }
    try:
        with transaction(engine) as connection:
            audit.note(connection, actor, _ACTION, _TARGET, detail)
    except DatabaseError as error:
        logger.warning("The backup %s is whole, but the database could not note it: %s", _name(target), error)
    return made


def back_up_into(
    engine: Engine,
    settings: Settings,
    folder: Path | str,
    *,
    actor: str,
    index: Index | None = None,
    progress: Progress | None = None,
) -> Backup:
    """Write a backup into a folder, here or in an object store, named by the time; of those that are named so it and
    the newest others stay, in all `backup_keep`. After one that lacks something all others stay.

    Raises:
        BackupError, DatabaseError, ObjectStoreError: see `back_up`. Then all earlier ones stay.
    """
    name = f"rlhf-loop-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.zip"
    target = _target(folder)
    inside = target / name if isinstance(target, Path) else target.inside(name)
    made = back_up(engine, settings, inside, actor=actor, index=index, progress=progress)
    if made.lacking:
        return made
    # Whatever a clock that was ahead has named the others.
    others = (each for each in stored(folder) if _NAMED.fullmatch(each) and each != name)
    gone = sorted(others, reverse=True)[settings.backup_keep - 1 :]
    for each in gone:
        with suppress(OSError, ObjectStoreError):
            (target / each).unlink() if isinstance(target, Path) else target.inside(each).delete()
    if not isinstance(target, Path):
        with suppress(ObjectStoreError):
            target.delete_drafts(older_than=made.made_at - _DRAFTS_STAY)
    return made


def stored(folder: Path | str) -> list[str]:
    """Return the names of the archives in a folder, here or in an object store.

    Raises:
        ObjectStoreError: the object store cannot be reached.
    """
    target = _target(folder)
    names = (
        (each.name for each in target.glob("*.zip"))
        if isinstance(target, Path)
        else (each.name for each in target.entries() if each.name.endswith(".zip"))
    )
    return sorted(names)


def holds_nothing(engine: Engine) -> bool:
    """Tell whether a database has no more than one that was just made, if there is one; none is made.

    Raises:
        DatabaseError: the database cannot be asked.
    """
    file = sqlite_file(engine.url) if engine.dialect.name == "sqlite" else None
    if file is not None and not file.exists():
        return True
    with reading(engine) as connection:
        there = {*inspect(connection).get_table_names()} - _OF_ITSELF
        tables = (table for table in Base.metadata.sorted_tables if table.name in there)
        # Of an earlier revision, too.
        found = (select(literal(1)).select_from(table).limit(1) for table in tables)
        return all(connection.execute(each).first() is None for each in found)


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
    lacking = tuple(map(str, detail.get("lacking", ())))
    return LastBackup(str(detail.get("file", "")), int(detail.get("bytes", 0)), row.happened_at, lacking)


def look(file: Path | str) -> Backup:
    """Read a backup, here or in an object store, to its end, and return what is in it.

    Raises:
        BackupError: it is not whole, or of a later version.
        ObjectStoreError: it cannot be fetched.
    """
    with _opened(file) as (_, found):
        return found


def restore(
    engine: Engine,
    settings: Settings,
    file: Path | str,
    *,
    actor: str,
    replace: bool = False,
    index: Callable[[], Index] | None = None,
    progress: Progress | None = None,
) -> Backup:
    """Put all of a backup into the database and the folders of the settings, or nothing into the database.

    The live model's file is put in its place by `registry.settle`, as after a promotion.

    Args:
        replace: drop what is there. Without it, there must be nothing.
        index: opens the index, which is asked only for a backup that has one. Without it, the backup's is left out.

    Raises:
        BackupError: the backup is not whole or of a later version, or something is there.
        DatabaseError: the database cannot be written.
        ObjectStoreError: the backup cannot be fetched.
        VectorStoreError: the index cannot be.
    """
    with _opened(file) as (archive, found), ExitStack() as closed, ExitStack() as undone:
        boxes = [closed.enter_context(closing(outbox)) for outbox in outboxes(settings)]
        if not replace:
            _refuse_others_model(settings, found)
        sections = None
        if index is not None and found.index is not None:
            sections = closed.enter_context(closing(index()))
            _check_index(archive, found, sections, file, replace=replace)
        with migrating(engine) as connection:
            try:
                _load(connection, archive, found, replace=replace, progress=progress)
                # Before the commit: where the rows are, these are, too.
                _put_files(archive, found, settings)
                dropped = _put_waiting(archive, found, boxes, undone)
                if sections is not None:
                    with archive.open(_INDEX) as source:
                        sections.put(source)
            except OSError as error:
                raise BackupError(
                    f"The backup cannot be restored: {error.strerror or error}. Make room, or mend the rights of "
                    f"{settings.models_folder}. The database is as it was."
                ) from error
            except ObjectStoreError as error:
                raise BackupError(f"The backup cannot be restored: {error} The database is as it was.") from error
            except (*_BROKEN, DataError) as error:
                raise _not_whole(file, error) from error
            detail = {"file": _name(_target(file)), "rows": found.rows, "made_at": found.made_at.isoformat()}
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


def _write(
    archive: ZipFile, engine: Engine, settings: Settings, index: Index | None, progress: Progress | None
) -> None:
    made_at, files, lacking = datetime.now(UTC), dict[str, Member](), list[str]()
    # First: what leaves it from now on is in the database twice at worst, and then only once after a replay.
    waiting, refused = _write_waiting(archive, settings, files, lacking)
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
    missing = _write_models(archive, settings, versions, files, lacking)
    sections = None if index is None else _write_index(archive, index, files, lacking, progress)
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
        refused=refused,
        machine=socket.gethostname(),
        lacking=tuple(lacking),
        index=sections,
    )
    values = {**asdict(manifest), "made_at": made_at.isoformat()}
    archive.writestr(_MANIFEST, json.dumps(values, indent=1, ensure_ascii=False))


def _refuse_other_files(name: str, target: Path | Place, engine: Engine, settings: Settings) -> None:
    """Refuse to take the place of something else than a backup, or of what the settings name, there yet or not."""
    if isinstance(target, Path):
        named = [settings.model_path, settings.models_folder, settings.index_path]
        named += [outbox.path for outbox in outboxes(settings)]
        if engine.dialect.name == "sqlite" and (database := sqlite_file(engine.url)):
            named.append(database)
        endings = ("", "-wal", "-shm", "-journal", ".lock", ".sha256", ".off")
        other = str(target) in {os.path.realpath(f"{path}{ending}") for path in named for ending in endings}
        other = other or (target.is_file() and target.stat().st_size > 0 and not _is_backup(target))
    else:
        found = target.entry()
        other = found is not None and found.bytes > 0
        if other:
            from rlhf_loop.utils.object_store import translated

            with translated(target.address), target.files.open_input_file(target.path) as opened:
                opened.read(1)  # one that may not be read is not taken for another file
                other = not _is_backup(opened)
    if other:
        raise BackupError(
            Message(
                "{file} is not a backup, so none takes its place. Name a new file, or an earlier backup.", file=name
            )
        )


def _is_backup(file: Path | IO[bytes]) -> bool:
    with suppress(*_BROKEN), ZipFile(file) as archive:
        return _MANIFEST in archive.namelist()
    return False


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


def _write_models(
    archive: ZipFile, settings: Settings, versions: Sequence[Any], files: dict[str, Member], lacking: list[str]
) -> list[str]:
    """Write the files of the versions; return the names of those that there are not."""
    folder, missing, sums = settings.models_folder, list[str](), set[str]()
    store = _models_store(settings)
    for version in versions:
        sums.add(version.sha256)
        names = [f"{version.version}{ending}" for ending in (".joblib", ".joblib.sha256", ".fitted.npy", ".md")]
        if version.weights_sha256:
            names.append(f"{version.weights_sha256}.safetensors")
        for name in names:
            if f"models/{name}" in files or _write_file(archive, f"models/{name}", folder / name, files):
                continue
            try:
                if store is None or not _write_stored(archive, f"models/{name}", store.inside(name), files):
                    missing.append(name)
            except ObjectStoreError as error:
                # Of one that is away nothing else is asked, or each file would take as long.
                lacking.append(str(error))
                missing.append(name)
                store = None
    live = settings.model_path
    with suppress(OSError):
        known = _sum_file(live).read_text("ascii", "replace")[:64]
        if known not in sums and _write_file(archive, _LIVE, live, files):
            # A model that somebody put there by hand, with the layers that it may have.
            _write_file(archive, f"{_LIVE}.sha256", _sum_file(live), files)
            for layers in live.parent.glob(f"{'[0-9a-f]' * 64}.safetensors"):
                _write_file(archive, f"live/{layers.name}", layers, files)
    return missing


def _models_store(settings: Settings) -> Place | None:
    """Return the object store that has the versions, if one has."""
    if not settings.models_store:
        return None
    from rlhf_loop.utils.object_store import Place

    return Place.of(settings.models_store)


def _write_stored(archive: ZipFile, name: str, place: Place, files: dict[str, Member]) -> bool:
    # By way of a file: a member that was begun could not be taken back.
    with TemporaryDirectory(prefix="rlhf-backup-") as folder:
        copy = Path(folder) / place.name
        with suppress(FileNotFoundError):
            place.get(copy)
        return _write_file(archive, name, copy, files)


def _write_file(archive: ZipFile, name: str, path: Path, files: dict[str, Member]) -> bool:
    try:
        source = path.open("rb")
    except FileNotFoundError:
        return False
    with source, _member(archive, name, files) as out:
        while part := source.read(_CHUNK):
            out(part)
    return True


def _write_waiting(
    archive: ZipFile, settings: Settings, files: dict[str, Member], lacking: list[str]
) -> tuple[int, int]:
    waiting = refused = 0
    with _member(archive, _OUTBOX, files) as out:
        for place, outbox in enumerate(outboxes(settings)):
            with closing(outbox):
                try:
                    entries = outbox.all()
                except (OutboxError, ValueError) as error:
                    # What the database has is worth a backup by itself.
                    lacking.append(str(error))
                    continue
            for each in entries:
                line = json.dumps([place, each.kind, each.body, each.interactions, each.refused])
                out(f"{line}\n".encode())
                waiting += each.refused is None
                refused += each.refused is not None
    return waiting, refused


def _write_index(
    archive: ZipFile, index: Index, files: dict[str, Member], lacking: list[str], progress: Progress | None
) -> dict[str, int] | None:
    counts = Counter[str]()
    with _member(archive, _INDEX, files) as out:
        try:
            total = sum(index.counts().values()) if progress else 0
            for source, line in index.lines():
                out(line)
                counts[source] += 1
                if progress and counts.total() % _ROWS == 0:
                    progress(counts.total(), max(total, counts.total()))
        except VectorStoreError as error:
            lacking.append(str(error))
            return None
    return dict(counts)


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
def _draft_in(folder: Path, file: str) -> Iterator[Path]:
    """Give the place of a draft to one at a time; what is there at the end goes."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / _LOCK, timeout=0).acquire()
    except Timeout:
        raise BackupError(
            Message(
                "Another backup is being written to {folder}. Wait for it, or choose another folder.",
                folder=str(folder),
            )
        ) from None
    except OSError as error:
        raise BackupError(
            Message(
                "The backup {file} cannot be written: {why}. Choose another place.",
                file=file,
                why=str(error.strerror or error),
            )
        ) from error
    draft = folder / _DRAFT
    with lock:
        try:
            with suppress(FileNotFoundError):
                draft.unlink()
            yield draft
        except OSError as error:
            raise BackupError(
                Message(
                    "The backup {file} cannot be written: {why}. Choose another place, or make room. What was there is "
                    "there.",
                    file=file,
                    why=str(error.strerror or error),
                )
            ) from error
        finally:
            with suppress(OSError):
                draft.unlink()


def _target(where: Path | str | Place) -> Path | Place:
    """Return where a backup goes or comes from: a path, or a place in an object store."""
    if isinstance(where, Path) or (isinstance(where, str) and "://" not in where):
        return Path(where)
    from rlhf_loop.utils.object_store import Place

    place = Place.of(where) if isinstance(where, str) else where
    return place.local or place


def _name(target: Path | Place) -> str:
    return str(target.absolute()) if isinstance(target, Path) else target.address


def _sync(folder: Path) -> None:
    with suppress(OSError):  # not on Windows
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


# --- Reading ---------------------------------------------------------------------------------------------------------


@contextmanager
def _opened(file: Path | str) -> Iterator[tuple[ZipFile, Backup]]:
    """Open a backup, once all of it was read and is what its manifest says."""
    with ExitStack() as closed:
        target = _target(file)
        try:
            source = target if isinstance(target, Path) else closed.enter_context(_fetched(target))
            archive = closed.enter_context(ZipFile(source))
        except FileNotFoundError:
            raise BackupError(
                f"There is no backup {_name(target)}. Give the file that rlhf-loop backup has written."
            ) from None
        except _BROKEN as error:
            raise _not_whole(file, error) from error
        try:
            found = _manifest(archive)
            _verify(archive, found)
        except _BROKEN as error:
            raise _not_whole(file, error) from error
        yield archive, found


@contextmanager
def _fetched(place: Place) -> Iterator[IO[bytes]]:
    # It has no name, so that nothing of it stays, whatever ends this process.
    with TemporaryFile() as file:
        for part in place.parts():
            file.write(part)
        yield file


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
    names = {each.name for each in fields(Backup)} - (_ADDED if form == _FIRST else set())
    if form not in (_FIRST, _FORMAT) or revision not in revisions() or set(values) != names:
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
    if found.index is not None and _INDEX not in found.files:
        raise ValueError("it has no index, although its manifest says so")
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


def _not_whole(where: Path | str, error: BaseException) -> BackupError:
    file = where if isinstance(where, Path) else _name(_target(where))
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
                f"The database {describe(connection.engine)} is not empty: {name} has rows. Name an empty "
                "one with RLHF_DATABASE_URL, or have all that is there dropped: --replace"
            )


def _refuse_others_model(settings: Settings, found: Backup) -> None:
    live, ours = settings.model_path, found.files.get(_LIVE)
    if _live_sum(settings) in (None, found.live):
        return
    if ours is not None and _is_there(live, ours):
        # An attempt that was killed has left it.
        return
    raise BackupError(
        f"There is another live model at {live.absolute()}. Name another place with RLHF_MODEL_PATH, or have it "
        "replaced: --replace"
    )


def _check_index(archive: ZipFile, found: Backup, index: Index, file: Path | str, *, replace: bool) -> None:
    """Read all of the index in the backup; refuse to put it in the place of another one."""
    try:
        with archive.open(_INDEX) as source:
            counts = index.check(source)
        if counts != found.index:
            raise ValueError("its index is not the one that its manifest names")
    except _BROKEN as error:
        raise _not_whole(file, error) from error
    there = index.counts()
    if not replace and there and there != counts:
        first = next((each for each in there if there[each] != counts.get(each)), next(iter(there)))
        raise BackupError(
            f"The index is not empty: it has {counted(there[first], 'section')} of {first[:60]!r}. Delete them with "
            "rlhf-loop index delete, name another place with RLHF_INDEX_PATH, or have all that is there dropped: "
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
    live, store = settings.model_path, _models_store(settings)
    for name in found.files:
        if not (named := _MODEL_FILE.fullmatch(name)):
            continue
        if store is not None and named[1] == "models":
            with TemporaryDirectory(prefix="rlhf-restore-") as copies, archive.open(name) as source:
                copy = Path(copies) / named[2]
                _put_file(source, copy, found.files[name])
                store.inside(named[2]).put(copy)
            continue
        folder = settings.models_folder if named[1] == "models" else live.parent
        path = live.with_name(name.replace(_LIVE, live.name)) if name.startswith(_LIVE) else folder / named[2]
        path.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(name) as source:
            _put_file(source, path, found.files[name])


def _put_file(source: IO[bytes], path: Path, member: Member) -> None:
    if not _is_there(path, member):
        with whole_file(path, mode=0o644) as out:
            shutil.copyfileobj(source, out, _CHUNK)


def _is_there(path: Path, member: Member) -> bool:
    with suppress(OSError), path.open("rb") as file:
        return path.stat().st_size == member.bytes and file_digest(file, "sha256").hexdigest() == member.sha256
    return False


def _put_waiting(archive: ZipFile, found: Backup, boxes: Sequence[Outbox], undone: ExitStack) -> list[list[EntryCopy]]:
    """Have the entries of the backup in the outboxes here, until that is `undone`; return what else each one has."""
    kept: tuple[list[EntryCopy], list[EntryCopy]] = ([], [])
    with archive.open(_OUTBOX) as source:
        for line in source:
            place, kind, body, interactions, *why = json.loads(line)
            [reason] = why or [None]
            if not (
                isinstance(kind, str)
                and isinstance(body, dict)
                and all(isinstance(each, str) for each in interactions)
                and (reason is None or isinstance(reason, str))
            ):
                raise ValueError("an entry of the outbox is not valid")
            kept[("0", "1").index(str(place))].append(EntryCopy(kind, body, interactions, reason))
    refused = sum(each.refused is not None for entries in kept for each in entries)
    if (waiting := sum(map(len, kept)) - refused) != found.waiting or refused != found.refused:
        raise ValueError(
            f"{waiting:,} entries wait and {refused:,} are refused, instead of {found.waiting:,} and {found.refused:,}"
        )
    others = []
    for outbox, entries in zip(boxes, kept, strict=True):
        there = outbox.all()
        mine, theirs = ({(each.kind, json.dumps(each.body)) for each in some} for some in (there, entries))
        others.append([each for each in there if (each.kind, json.dumps(each.body)) not in theirs])
        new = [each for each in entries if (each.kind, json.dumps(each.body)) not in mine]
        undone.callback(outbox.exchange, add=(), drop=new)
        outbox.exchange(add=new)
    return others
