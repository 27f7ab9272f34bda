"""Restorations: all of a backup into the database and the folders of the settings, or nothing into the database."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import UTC, datetime
from hashlib import file_digest
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any
from zipfile import ZipFile

from sqlalchemy import inspect
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DataError, IntegrityError

from rlhf_loop.config import Settings
from rlhf_loop.domain import Progress
from rlhf_loop.errors import BackupError, ObjectStoreError
from rlhf_loop.store import audit
from rlhf_loop.store.backup.archive import (
    BROKEN,
    CHUNK,
    INDEX,
    LIVE,
    OF_ITSELF,
    OUTBOX,
    RESTORED,
    ROWS,
    TARGET,
    Backup,
    Bar,
    Index,
    Member,
    TableRows,
    models_store,
    name_of,
    not_whole,
    opened,
    sum_file,
    target_of,
    temporary_files,
)
from rlhf_loop.store.engine import VERSION_TABLE, copy_rows, describe, head, migrating, revision_in, upgrade
from rlhf_loop.store.outbox import EntryCopy, Outbox, outboxes
from rlhf_loop.store.tables import Base
from rlhf_loop.utils.files import whole_file
from rlhf_loop.utils.text import counted

_MODEL_FILE = re.compile(
    r"(models|live)/([\w-]{1,200}(\.joblib|\.joblib\.sha256|\.fitted\.npy|\.md|\.safetensors))", re.ASCII
)


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
    bar = Bar(progress)

    def reading(found: Backup) -> Progress:
        # Sections are read twice: before anything is written, too.
        bar.total = found.rows + (2 * sum(found.index.values()) if index is not None and found.index else 0)
        return bar.reading

    with opened(file, reading=reading) as (archive, found), ExitStack() as closed, ExitStack() as undone:
        boxes = [closed.enter_context(closing(outbox)) for outbox in outboxes(settings)]
        if not replace:
            _refuse_others_model(settings, found)
        sections = None
        if index is not None and found.index is not None:
            sections = closed.enter_context(closing(index()))
            _check_index(archive, found, sections, file, replace=replace, bar=bar)
        with migrating(engine) as connection:
            try:
                _load(connection, archive, found, replace=replace, bar=bar)
                # Before the commit: where the rows are, these are, too.
                _put_files(archive, found, settings)
                dropped = _put_waiting(archive, found, boxes, undone)
                if sections is not None:
                    with archive.open(INDEX) as source:
                        sections.put(bar.counted(source))
            except OSError as error:
                raise BackupError(
                    f"The backup cannot be restored: {error.strerror or error}. Make room, or mend the rights of "
                    f"{settings.models_folder}. The database is as it was."
                ) from error
            except ObjectStoreError as error:
                raise BackupError(f"The backup cannot be restored: {error} The database is as it was.") from error
            except (*BROKEN, DataError) as error:
                raise not_whole(file, error) from error
            detail = {"file": name_of(target_of(file)), "rows": found.rows, "made_at": found.made_at.isoformat()}
            audit.note(connection, actor, RESTORED, TARGET, detail)
        undone.pop_all()
        if replace:
            # Neither what waited for the database of before nor a model that the backup does not have.
            for outbox, gone in zip(boxes, dropped, strict=True):
                outbox.exchange(add=(), drop=gone)
            if LIVE not in found.files and (sums := _live_sum(settings)) is not None and sums != found.live:
                for path in (settings.model_path, sum_file(settings.model_path)):
                    path.unlink(missing_ok=True)
    return found


def _load(connection: Connection, archive: ZipFile, found: Backup, *, replace: bool, bar: Bar) -> None:
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
    names = [table.name for table in found.tables]
    with _without_triggers(connection, [*columns]):
        # What names others goes before them.
        for name in (*(columns.keys() - set(names)), *reversed(names)):
            connection.exec_driver_sql(f"DELETE FROM {name}")
        for table in found.tables:
            _insert(connection, archive, table, bar)
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
        if name in OF_ITSELF or name == VERSION_TABLE:
            continue
        if connection.exec_driver_sql(f"SELECT 1 FROM {name} LIMIT 1").first() is not None:
            raise BackupError(
                f"The database {describe(connection.engine)} is not empty: {name} has rows. Name an empty "
                "one with RLHF_DATABASE_URL, or have all that is there dropped: --replace"
            )


def _refuse_others_model(settings: Settings, found: Backup) -> None:
    live, ours = settings.model_path, found.files.get(LIVE)
    if _live_sum(settings) in (None, found.live):
        return
    if ours is not None and _is_there(live, ours):
        # An attempt that was killed has left it.
        return
    raise BackupError(
        f"There is another live model at {live.absolute()}. Name another place with RLHF_MODEL_PATH, or have it "
        "replaced: --replace"
    )


def _check_index(archive: ZipFile, found: Backup, index: Index, file: Path | str, *, replace: bool, bar: Bar) -> None:
    """Read all of the index in the backup; refuse to put it in the place of another one."""
    try:
        with archive.open(INDEX) as source:
            counts = index.check(bar.counted(source))
        if counts != found.index:
            raise ValueError("its index is not the one that its manifest names")
    except BROKEN as error:
        raise not_whole(file, error) from error
    there = index.counts()
    if not replace and there and there != counts:
        first = next((each for each in there if there[each] != counts.get(each)), next(iter(there)))
        raise BackupError(
            f"The index is not empty: it has {counted(there[first], 'section')} of {first[:60]!r}. Delete them with "
            "rlhf-loop index delete, name another place with RLHF_INDEX_PATH, or have all that is there dropped: "
            "--replace"
        )


def _live_sum(settings: Settings) -> str | None:
    """Return what the live file's sum should be, an empty text where nothing says that; None without a live file."""
    if not settings.model_path.exists():
        return None
    with suppress(OSError):
        return sum_file(settings.model_path).read_text("ascii", "replace")[:64]
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


def _insert(connection: Connection, archive: ZipFile, table: TableRows, bar: Bar) -> None:
    on_sqlite = connection.dialect.name == "sqlite"
    times = [table.columns.index(name) for name in table.times] if on_sqlite else []
    as_json = [table.columns.index(name) for name in table.json]
    names, done = ", ".join(f'"{name}"' for name in table.columns), 0

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
                if len(batch) == ROWS:
                    yield batch
                    done += len(batch)
                    bar.add(len(batch))
                    batch = []
        yield batch
        done += len(batch)
        bar.add(len(batch))

    try:
        if on_sqlite:
            values = ", ".join("?" * len(table.columns))
            for batch in batches():
                if batch:
                    connection.exec_driver_sql(
                        f"INSERT INTO {table.name} ({names}) VALUES ({values})", [tuple(row) for row in batch]
                    )
        else:
            copy_rows(connection, f"COPY {table.name} ({names}) FROM STDIN", chain.from_iterable(batches()))
        if done != table.rows:
            raise ValueError(f"{done:,} rows instead of {table.rows:,}")
    except DataError as error:
        raise BackupError(
            f"A row of {table.name} in the backup has a value that PostgreSQL cannot hold: "
            f"{' '.join(str(error.orig).split())}. Restore it into SQLite, mend the row there, and back up anew. "
            "Nothing was changed."
        ) from error
    except (IntegrityError, *BROKEN) as error:
        raise BackupError(
            f"The rows of {table.name} in the backup are not those of a database: "
            f"{' '.join(str(getattr(error, 'orig', None) or error).split())}. Take an earlier one."
        ) from error


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
    live, store = settings.model_path, models_store(settings)
    for name in found.files:
        if not (named := _MODEL_FILE.fullmatch(name)):
            continue
        if store is not None and named[1] == "models":
            with ExitStack() as closed:
                with temporary_files(name):
                    copy = Path(closed.enter_context(TemporaryDirectory(prefix="rlhf-restore-"))) / named[2]
                    _put_file(closed.enter_context(archive.open(name)), copy, found.files[name])
                store.inside(named[2]).put(copy)
            continue
        folder = settings.models_folder if named[1] == "models" else live.parent
        path = live.with_name(name.replace(LIVE, live.name)) if name.startswith(LIVE) else folder / named[2]
        path.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(name) as source:
            _put_file(source, path, found.files[name])


def _put_file(source: IO[bytes], path: Path, member: Member) -> None:
    if not _is_there(path, member):
        with whole_file(path, mode=0o644) as out:
            shutil.copyfileobj(source, out, CHUNK)


def _is_there(path: Path, member: Member) -> bool:
    with suppress(OSError), path.open("rb") as file:
        return path.stat().st_size == member.bytes and file_digest(file, "sha256").hexdigest() == member.sha256
    return False


def _put_waiting(archive: ZipFile, found: Backup, boxes: Sequence[Outbox], undone: ExitStack) -> list[list[EntryCopy]]:
    """Have the entries of the backup in the outboxes here, until that is `undone`; return what else each one has."""
    kept: tuple[list[EntryCopy], list[EntryCopy]] = ([], [])
    with archive.open(OUTBOX) as source:
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
        there = [*outbox.all()]
        mine, theirs = ({(each.kind, json.dumps(each.body)) for each in some} for some in (there, entries))
        others.append([each for each in there if (each.kind, json.dumps(each.body)) not in theirs])
        new = [each for each in entries if (each.kind, json.dumps(each.body)) not in mine]
        undone.callback(outbox.exchange, add=(), drop=new)
        outbox.exchange(add=new)
    return others
