"""The archive of a backup: a ZIP file that either database can be restored from.

`tables/NAME.jsonl` has a row a line, as JSON in the order of the manifest's columns, times by ISO 8601; `models/` and
`live/` have model files as they are, `index.jsonl` a section a line; `manifest.json`, the last one, has the schema's
revision, all counts, and the sum of each member. So neither the server's version nor its client programs matter, and a
restoration is one transaction. `pg_dump` would be faster on large databases, and could be restored into PostgreSQL
alone.
"""

from __future__ import annotations

import json
import os
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields
from datetime import datetime
from hashlib import sha256
from io import BufferedReader
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, Protocol
from zipfile import BadZipFile, ZipFile

from rlhf_loop.config import Settings
from rlhf_loop.domain import Progress
from rlhf_loop.errors import BackupError
from rlhf_loop.store.engine import head, revisions
from rlhf_loop.utils.text import counted
from rlhf_loop.utils.translation import Message

if TYPE_CHECKING:
    from rlhf_loop.utils.object_store import Place

#: The first format knew neither refused entries nor the index, and was made of what could be read or not at all.
FORMAT, FIRST = 2, 1
_ADDED = frozenset({"refused", "machine", "lacking", "index"})
MANIFEST, OUTBOX, INDEX = "manifest.json", "outbox.jsonl", "index.jsonl"
#: Bytes of a manifest that is read at all: that of ten thousand versions has two million.
_LARGEST_MANIFEST = 2**26
#: Who signed out since would be in again, and a used link would work once more.
LEFT_OUT = frozenset({"rlhf_sessions", "rlhf_one_time_links"})
#: What a database has that nobody has used yet.
OF_ITSELF = LEFT_OUT | {"rlhf_database", "rlhf_audit_log", "rlhf_alarms", "rlhf_sign_in_failures"}
ROWS, CHUNK = 1_000, 2**20
ACTION, RESTORED, TARGET = "backup.made", "backup.restored", "backup"
LIVE = "live/model.joblib"
#: What zipfile and zlib say of an archive that is cut short, altered, or none.
BROKEN = (
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
    source, None where it was not wanted. `lacking` says of outbox, index and the versions' files what could not be
    read, and why.
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


@dataclass(slots=True)
class Bar:
    """The progress of a backup or a restoration as one: rows and sections, and reading all of it, a quarter as long."""

    progress: Progress | None
    total: int = 0
    done: int = 0
    read: int = 0

    def add(self, count: int) -> None:
        """Count rows or sections that are done."""
        self.done += count
        self._tell()

    def reading(self, done: int, total: int) -> None:
        """Count bytes that were read of all."""
        self.read = max(self.total, self.done) * done // max(1, total)
        self._tell()

    def counted(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        """Give the lines, and count them, each a section."""
        for number, line in enumerate(lines, start=1):
            yield line
            self.done += 1
            if number % ROWS == 0:
                self._tell()
        self._tell()

    def _tell(self) -> None:
        if self.progress:
            whole = max(self.total, self.done)
            self.progress(4 * self.done + self.read, 5 * whole)


def look(file: Path | str, *, progress: Progress | None = None) -> Backup:
    """Read a backup, here or in an object store, to its end, and return what is in it.

    `progress` gets how many bytes are read, and how many there are.

    Raises:
        BackupError: it is not whole, or of a later version.
        ObjectStoreError: it cannot be fetched.
    """
    with opened(file, reading=lambda found: progress) as (_, found):
        return found


@contextmanager
def opened(file: Path | str, *, reading: Callable[[Backup], Progress | None]) -> Iterator[tuple[ZipFile, Backup]]:
    """Open a backup, once all of it was read and is what its manifest says.

    `reading` is told what that says, and returns what takes how many bytes are read, and how many there are.
    """
    with ExitStack() as closed:
        target = target_of(file)
        try:
            source = target if isinstance(target, Path) else closed.enter_context(_fetched(target))
            archive = closed.enter_context(ZipFile(source))
        except FileNotFoundError:
            raise BackupError(
                f"There is no backup {name_of(target)}. Give the file that rlhf-loop backup has written."
            ) from None
        except BROKEN as error:
            raise not_whole(file, error) from error
        try:
            found = _manifest(archive)
            _verify(archive, found, reading(found))
        except BROKEN as error:
            raise not_whole(file, error) from error
        yield archive, found


@contextmanager
def _fetched(place: Place) -> Iterator[IO[bytes]]:
    with ExitStack() as closed:
        with temporary_files(place.address):
            # Without a name, so that nothing of it stays, whatever ends this process; and without a buffer, which
            # would try to write once more at its end what could not be written.
            file = closed.enter_context(TemporaryFile(buffering=0))
        for part in place.parts():
            rest = memoryview(part)
            with temporary_files(place.address):
                while rest:
                    rest = rest[file.write(rest) :]
        yield BufferedReader(file)


@contextmanager
def temporary_files(address: str) -> Iterator[None]:
    """Say of files that an object is fetched into which room there has to be more of."""
    try:
        yield
    except OSError as error:
        raise BackupError(
            Message(
                "{file} cannot be fetched into the folder of temporary files: {why}. Make room in {folder}, or name "
                "another folder with TMPDIR. What was there is there.",
                file=address,
                why=error.strerror or str(error),
                folder=tempfile.tempdir or os.environ.get("TMPDIR", "/tmp"),
            )
        ) from error


def _manifest(archive: ZipFile) -> Backup:
    if archive.getinfo(MANIFEST).file_size > _LARGEST_MANIFEST:
        raise ValueError("its manifest is too large")
    written = archive.read(MANIFEST)
    values = json.loads(written)
    form, revision = values["format"], values["revision"]
    if form > FORMAT or revision > head():
        raise BackupError(
            f"The backup was made by rlhf-loop {str(values.get('program'))[:40]}, which is newer: its format is "
            f"{str(form)[:40]} and its revision {str(revision)[:40]}, and {FORMAT} and {head()} are known here. "
            "Install that version, or a later one."
        )
    names = {each.name for each in fields(Backup)} - (_ADDED if form == FIRST else set())
    if form not in (FIRST, FORMAT) or revision not in revisions() or set(values) != names:
        raise ValueError("no version writes such a manifest")
    from pydantic import TypeAdapter, ValidationError

    try:
        found = TypeAdapter(Backup).validate_json(written, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))[:80]} of its manifest: {first['msg']}") from None
    kept = {f"tables/{table.name}.jsonl" for table in found.tables} | {OUTBOX}
    if kept != {name for name in found.files if name == OUTBOX or name.startswith("tables/")}:
        raise ValueError("its tables are not those that its manifest names")
    if found.index is not None and INDEX not in found.files:
        raise ValueError("it has no index, although its manifest says so")
    return found


def _verify(archive: ZipFile, found: Backup, progress: Progress | None) -> None:
    named = set(found.files) | {MANIFEST}
    if set(archive.namelist()) != named or len(archive.namelist()) != len(named):
        raise ValueError("its files are not those that its manifest names")
    read, total = 0, sum(member.bytes for member in found.files.values())
    for name, member in found.files.items():
        digest, rest = sha256(), member.bytes
        with archive.open(name) as source:
            while part := source.read(CHUNK):
                digest.update(part)
                if (rest := rest - len(part)) < 0:
                    break
                read += len(part)
                if progress:
                    progress(read, total)
        if rest or digest.hexdigest() != member.sha256:
            raise ValueError(f"{name} is not as it was written")
    if progress:
        progress(total, total)


def not_whole(where: Path | str, error: BaseException) -> BackupError:
    file = where if isinstance(where, Path) else name_of(target_of(where))
    if isinstance(error, OSError) and error.strerror:
        return BackupError(f"The backup {file} cannot be read: {error.strerror}. Choose another file.")
    return BackupError(
        f"{file} is not a whole backup; it may have been cut short, or altered: "
        f"{str(error) or type(error).__name__}. Take another copy of it, or an earlier one. Nothing was changed."
    )


def target_of(where: Path | str | Place) -> Path | Place:
    """Return where a backup goes or comes from: a path, or a place in an object store."""
    if isinstance(where, Path) or (isinstance(where, str) and "://" not in where):
        return Path(where)
    from rlhf_loop.utils.object_store import Place

    place = Place.of(where) if isinstance(where, str) else where
    return place.local or place


def name_of(target: Path | Place) -> str:
    return str(target.absolute()) if isinstance(target, Path) else target.address


def models_store(settings: Settings) -> Place | None:
    """Return the object store that has the versions, if one has."""
    if not settings.models_store:
        return None
    from rlhf_loop.utils.object_store import Place

    return Place.of(settings.models_store)


def sum_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")
