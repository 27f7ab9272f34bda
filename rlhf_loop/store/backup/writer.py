"""Backups that are written, while everything runs: database, versions' files, outbox and index, in one archive."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, TYPE_CHECKING, Any
from zipfile import ZIP_DEFLATED, ZipFile

from filelock import FileLock, Timeout
from sqlalchemy import JSON, Table, func, inspect, literal, select
from sqlalchemy.engine import Connection, Engine

from rlhf_loop.config import Settings
from rlhf_loop.domain import ModelState, Progress
from rlhf_loop.errors import (
    BackupError,
    BackupRunningError,
    DatabaseError,
    ObjectStoreError,
    OutboxError,
    VectorStoreError,
)
from rlhf_loop.store import audit
from rlhf_loop.store.backup.archive import (
    ACTION,
    BROKEN,
    CHUNK,
    FORMAT,
    INDEX,
    LEFT_OUT,
    LIVE,
    MANIFEST,
    OF_ITSELF,
    OUTBOX,
    ROWS,
    TARGET,
    Backup,
    Bar,
    Index,
    Member,
    TableRows,
    look,
    models_store,
    name_of,
    sum_file,
    target_of,
    temporary_files,
)
from rlhf_loop.store.engine import describe, ensure_schema, head, reading, sqlite_file, transaction
from rlhf_loop.store.outbox import outboxes
from rlhf_loop.store.tables import AuditEntry, Base, ModelVersion, UtcDateTime
from rlhf_loop.utils.files import is_special
from rlhf_loop.utils.translation import Message
from rlhf_loop.version import __version__

if TYPE_CHECKING:
    from rlhf_loop.utils.object_store import Place

logger = logging.getLogger(__name__)

#: In the folder of the backups: what is not whole yet, and the lock of who writes it.
_DRAFT, _LOCK = ".rlhf-backup.part", ".rlhf-backup.lock"
#: What a killed upload has left in an object store goes with the first backup that is made so much later.
_DRAFTS_STAY = timedelta(days=1)
#: Text shrinks to a fifth at this level already.
_LEVEL = 3
_MODEL, _WEIGHTS = ".joblib", ".safetensors"
_NAMED = re.compile(r"rlhf-loop-\d{8}T\d{6}Z\.zip", re.ASCII)


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
    target = target_of(file)
    # A link stays one, and leads to the new backup.
    final = Path(os.path.realpath(target)) if isinstance(target, Path) else target
    _refuse_other_files(name_of(target), final, engine, settings)
    # What goes to an object store is made whole on this machine first.
    folder, bar = final.parent if isinstance(final, Path) else settings.cache_dir, Bar(progress)
    with _draft_in(folder, name_of(target)) as draft:
        # Nobody else's business: it holds what people wrote, and the hashes of their passwords.
        with os.fdopen(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "w+b") as out:
            with ZipFile(out, "w", ZIP_DEFLATED, compresslevel=_LEVEL) as archive:
                _write(archive, engine, settings, index, bar)
            out.flush()
            os.fsync(out.fileno())
        bar.total = bar.done
        made = look(draft, progress=bar.reading)
        size = draft.stat().st_size
        if isinstance(final, Path):
            draft.replace(final)
            _sync(folder)
        else:
            final.put(draft)
    detail = {
        "file": name_of(target),
        "bytes": size,
        "rows": made.rows,
        "made_at": made.made_at.isoformat(),
        "lacking": list(made.lacking),
    }
    try:
        with transaction(engine) as connection:
            audit.note(connection, actor, ACTION, TARGET, detail)
    except DatabaseError as error:
        logger.warning("The backup %s is whole, but the database could not note it: %s", name_of(target), error)
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
    the newest others stay, in all `backup_keep`. Those that lack something are counted by themselves, and go with the
    whole ones that are as old.

    Raises:
        BackupError, DatabaseError, ObjectStoreError: see `back_up`. Then all earlier ones stay.
    """
    name = f"rlhf-loop-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.zip"
    target = target_of(folder)

    def inside(each: str) -> Path | Place:
        return target / each if isinstance(target, Path) else target.inside(each)

    made = back_up(engine, settings, inside(name), actor=actor, index=index, progress=progress)
    try:
        lacking = _lacking(engine)
        others = {each: each in lacking for each in stored(folder) if _NAMED.fullmatch(each)}
        for each in _too_many(name, others, lacking=bool(made.lacking), keep=settings.backup_keep):
            gone = inside(each)
            gone.unlink() if isinstance(gone, Path) else gone.delete()
        if not isinstance(target, Path):
            target.delete_drafts(older_than=made.made_at - _DRAFTS_STAY)
    except (OSError, DatabaseError, ObjectStoreError) as error:
        logger.warning(
            "The backup %s is there, but earlier ones could not be deleted: %s", name_of(inside(name)), error
        )
    return made


def _too_many(name: str, others: Mapping[str, bool], *, lacking: bool, keep: int) -> list[str]:
    """Return those of the backups that are too many beside a new one; `others` tells whether they lack something."""
    # Names that are later than that of the new one are of a clock that was ahead: as if they were older than all.
    ordered = sorted(others.keys() - {name}, key=lambda each: (each < name, each), reverse=True)
    same = [each for each in ordered if others[each] == lacking]
    gone, kept = same[keep - 1 :], same[: keep - 1]
    if not lacking and len(kept) == keep - 1:
        gone += [each for each in ordered if others[each] and each < min(kept, default=name)]
    return gone


def _lacking(engine: Engine) -> set[str]:
    """Return the names of all backups that lack something, as far as the database knows: without the folder, which may
    be reached by several ways."""
    made = select(AuditEntry.detail).where(AuditEntry.target == TARGET, AuditEntry.action == ACTION)
    with reading(engine) as connection:
        return {
            str(detail["file"]).replace("\\", "/").rpartition("/")[2]
            for detail in connection.scalars(made)
            if detail and detail.get("lacking")
        }


def stored(folder: Path | str) -> list[str]:
    """Return the names of the archives in a folder, here or in an object store.

    Raises:
        ObjectStoreError: the object store cannot be reached.
    """
    target = target_of(folder)
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
        there = {*inspect(connection).get_table_names()} - OF_ITSELF
        tables = (table for table in Base.metadata.sorted_tables if table.name in there)
        # Of an earlier revision, too.
        found = (select(literal(1)).select_from(table).limit(1) for table in tables)
        return all(connection.execute(each).first() is None for each in found)


def last_backup(engine: Engine) -> LastBackup | None:
    """Return the last backup, None if there was none.

    Raises:
        DatabaseError: the database cannot be asked.
    """
    newest = select(AuditEntry).where(AuditEntry.target == TARGET, AuditEntry.action == ACTION)
    with reading(engine) as connection:
        row = connection.execute(newest.order_by(AuditEntry.id.desc()).limit(1)).first()
    if row is None:
        return None
    detail = row.detail or {}
    lacking = tuple(map(str, detail.get("lacking", ())))
    return LastBackup(str(detail.get("file", "")), int(detail.get("bytes", 0)), row.happened_at, lacking)


def _write(archive: ZipFile, engine: Engine, settings: Settings, index: Index | None, bar: Bar) -> None:
    made_at, files, lacking = datetime.now(UTC), dict[str, Member](), list[str]()
    # First: what leaves it from now on is in the database twice at worst, and then only once after a replay.
    waiting, refused = _write_waiting(archive, settings, files, lacking)
    tables = [table for table in Base.metadata.sorted_tables if table.name not in LEFT_OUT]
    with reading(engine) as connection:
        if bar.progress:
            bar.total = sum(_count(connection, table) for table in tables) + _sections(index)
        last_ids, kept = _last_ids(connection), list[TableRows]()
        for table in tables:
            rows = 0
            with _member(archive, f"tables/{table.name}.jsonl", files) as out:
                for lines, count in _lines(connection, table):
                    out(lines)
                    rows += count
                    bar.add(count)
            columns = table.columns
            times = tuple(each.name for each in columns if isinstance(each.type, UtcDateTime))
            as_json = tuple(each.name for each in columns if isinstance(each.type, JSON))
            names = tuple(each.name for each in columns)
            kept.append(TableRows(table.name, names, times, as_json, rows, last_ids.get(table.name)))
        versions = connection.execute(
            select(ModelVersion.version, ModelVersion.sha256, ModelVersion.weights_sha256, ModelVersion.state)
        ).all()
    missing = _write_models(archive, settings, versions, files, lacking)
    sections = None if index is None else _write_index(archive, index, files, lacking, bar)
    manifest = Backup(
        format=FORMAT,
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
    archive.writestr(MANIFEST, json.dumps(values, indent=1, ensure_ascii=False))


def _refuse_other_files(name: str, target: Path | Place, engine: Engine, settings: Settings) -> None:
    """Refuse to take the place of something else than a backup, or of what the settings name, there yet or not."""
    if isinstance(target, Path):
        named = [settings.model_path, settings.models_folder, settings.index_path]
        named += [outbox.path for outbox in outboxes(settings)]
        if engine.dialect.name == "sqlite" and (database := sqlite_file(engine.url)):
            named.append(database)
        endings = ("", "-wal", "-shm", "-journal", ".lock", ".sha256", ".off")
        other = str(target) in {os.path.realpath(f"{path}{ending}") for path in named for ending in endings}
        other = other or (target.exists() and is_special(target))
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
    with suppress(*BROKEN), ZipFile(file) as archive:
        return MANIFEST in archive.namelist()
    return False


def _lines(connection: Connection, table: Table) -> Iterator[tuple[bytes, int]]:
    wanted = select(table).order_by(*table.primary_key.columns)
    found = connection.execute(wanted, execution_options={"yield_per": ROWS})
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
    store, known = models_store(settings), len(lacking)
    for version in versions:
        sums.add(version.sha256)
        names = [f"{version.version}{ending}" for ending in (_MODEL, f"{_MODEL}.sha256", ".fitted.npy", ".md")]
        if version.weights_sha256:
            names.append(f"{version.weights_sha256}{_WEIGHTS}")
        for name in names:
            inside = f"models/{name}"
            if name in missing or inside in files or _write_file(archive, inside, folder / name, files):
                continue
            try:
                if store is None or not _write_stored(archive, inside, store.inside(name), files):
                    missing.append(name)
            except ObjectStoreError as error:
                # Of one that is away nothing else is asked, or each file would take as long.
                lacking.append(str(error))
                missing.append(name)
                store = None
    models = [f"{version.version}{_MODEL}" for version in versions]
    away = bool(models) and {*models} <= {*missing}
    live = settings.model_path
    found = next((each for each in versions if each.state == ModelState.LIVE), None)
    if found is not None:
        _write_live_version(archive, live, found, files, missing)
    if len(lacking) == known:
        needed = () if found is None else (f"{found.version}{_MODEL}", f"{found.weights_sha256}{_WEIGHTS}")
        if away and {*models} & {*missing}:
            where = settings.shown()["models_path"] if settings.models_store else folder.absolute()
            lacking.append(f"There is no file of any version in {where}. If that is away, bring it back.")
        elif lost := [name for name in missing if name in needed]:
            lacking.append(f"There is no {lost[0]} of the live version. Take it from an earlier backup, or train anew.")
    with suppress(OSError):
        sum_there = sum_file(live).read_text("ascii", "replace")[:64]
        if sum_there not in sums and _write_file(archive, LIVE, live, files):
            # A model that somebody put there by hand, with the layers that it may have.
            _write_file(archive, f"{LIVE}.sha256", sum_file(live), files)
            for layers in live.parent.glob(f"{'[0-9a-f]' * 64}{_WEIGHTS}"):
                _write_file(archive, f"live/{layers.name}", layers, files)
    return missing


def _write_live_version(
    archive: ZipFile, live: Path, version: Any, files: dict[str, Member], missing: list[str]
) -> None:
    """Write from the live file what the folder of versions lacks of the live version."""
    name, weights = f"{version.version}{_MODEL}", f"{version.weights_sha256}{_WEIGHTS}"
    with suppress(OSError):
        if name in missing and sha256(content := live.read_bytes()).hexdigest() == version.sha256:
            parts = {name: content, f"{name}.sha256": f"{version.sha256}  {name}\n".encode()}
            for part in parts.keys() & {*missing}:
                with _member(archive, f"models/{part}", files) as out:
                    out(parts[part])
                missing.remove(part)
        if weights in missing and _write_file(archive, f"models/{weights}", live.with_name(weights), files):
            missing.remove(weights)


def _write_stored(archive: ZipFile, name: str, place: Place, files: dict[str, Member]) -> bool:
    # By way of a file: a member that was begun could not be taken back.
    with ExitStack() as closed:
        with temporary_files(place.address):
            copy = Path(closed.enter_context(TemporaryDirectory(prefix="rlhf-backup-"))) / place.name
            with suppress(FileNotFoundError):
                place.get(copy)
        return _write_file(archive, name, copy, files)


def _write_file(archive: ZipFile, name: str, path: Path, files: dict[str, Member]) -> bool:
    try:
        source = path.open("rb")
    except FileNotFoundError:
        return False
    with source, _member(archive, name, files) as out:
        while part := source.read(CHUNK):
            out(part)
    return True


def _write_waiting(
    archive: ZipFile, settings: Settings, files: dict[str, Member], lacking: list[str]
) -> tuple[int, int]:
    waiting = refused = 0
    with _member(archive, OUTBOX, files) as out:
        for place, outbox in enumerate(outboxes(settings)):
            with closing(outbox):
                try:
                    for each in outbox.all():
                        line = json.dumps([place, each.kind, each.body, each.interactions, each.refused])
                        out(f"{line}\n".encode())
                        waiting += each.refused is None
                        refused += each.refused is not None
                except (OutboxError, ValueError) as error:
                    # What the database has is worth a backup by itself.
                    lacking.append(str(error))
    return waiting, refused


def _sections(index: Index | None) -> int:
    """Count the sections of the index; where it cannot be read, the backup will lack it."""
    try:
        return sum(index.counts().values()) if index is not None else 0
    except VectorStoreError:
        return 0


def _write_index(
    archive: ZipFile, index: Index, files: dict[str, Member], lacking: list[str], bar: Bar
) -> dict[str, int] | None:
    counts = Counter[str]()
    with _member(archive, INDEX, files) as out:
        try:
            for source, line in index.lines():
                out(line)
                counts[source] += 1
                if counts.total() % ROWS == 0:
                    bar.add(ROWS)
            bar.add(counts.total() % ROWS)
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
        raise BackupRunningError(
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
                    "The backup {file} cannot be written: {why}. Make room in {folder}, or choose another place. What "
                    "was there is there.",
                    file=file,
                    why=str(error.strerror or error),
                    folder=str(folder.absolute()),
                )
            ) from error
        finally:
            with suppress(OSError):
                draft.unlink()


def _sync(folder: Path) -> None:
    with suppress(OSError):  # not on Windows
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
