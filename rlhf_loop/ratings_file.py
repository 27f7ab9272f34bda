"""Ratings files: CSV, JSONL and Parquet, plain or gzip-compressed, read and written row by row."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import os
import shutil
import stat
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Protocol, cast

from rlhf_loop.domain import Rating
from rlhf_loop.errors import ImportFileError
from rlhf_loop.rating_fields import FIELDS, Columns, check_wanted, match_columns, to_rating

FORMATS = ("csv", "jsonl", "parquet")

_EXTENSIONS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_GZIP_MAGIC = b"\x1f\x8b"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_PARQUET_ROWS = 1000
_DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile)


@dataclass(frozen=True, slots=True)
class FileRow:
    """One row of a file: what it says, or the reason why it cannot be stored. `line` is where it starts, from 1.

    In a Parquet file, which has no lines, it is the row's number.
    """

    line: int
    rating: Rating | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """A row as the format gives it: its column names and cells, or the reason why there are none.

    The names may come alone, before the first row.
    """

    line: int
    names: tuple[str, ...] = ()
    cells: Sequence[Any] = ()
    reason: str = ""


class RatingsReader:
    """Reads a ratings file row by row; iterate it once.

    `ignored` lists the columns that no field takes, as far as the file has been read. `position` and `size` are in
    bytes of the file as it lies there, for a progress bar.
    """

    def __init__(self, path: Path, *, format: str | None = None, columns: Mapping[str, str] | None = None) -> None:
        self.path = path
        self.format = format or format_of(path)
        self.size = 0
        self._columns = dict(columns or {})
        self._ignored: dict[str, None] = {}
        self._file: IO[bytes] | None = None
        check_wanted(self._columns)

    @property
    def ignored(self) -> tuple[str, ...]:
        return tuple(self._ignored)

    @property
    def position(self) -> int:
        return self._file.tell() if self._file and not self._file.closed else self.size

    def __iter__(self) -> Iterator[FileRow]:
        """Yield the rows in order.

        Raises:
            ImportFileError: the file cannot be read as a whole: absent, damaged, or without the required columns.
        """
        matched: dict[tuple[str, ...], Columns] = {}
        with ExitStack() as stack:
            stream = self._open(stack)
            for record in read_records(self.path, stream, format=self.format):
                if record.reason:
                    yield FileRow(record.line, None, record.reason)
                    continue
                if record.names not in matched:
                    matched[record.names] = self._match(record.names)
                if record.cells:
                    yield _file_row(record, matched[record.names])

    def _open(self, stack: ExitStack) -> IO[bytes]:
        self._file, stream = open_stream(self.path, stack, text=self.format != "parquet")
        self.size = os.fstat(self._file.fileno()).st_size
        return stream

    def _match(self, names: tuple[str, ...]) -> Columns:
        columns = match_columns(names, self._columns)
        self._ignored.update(dict.fromkeys(columns.ignored))
        if self.format == "jsonl":
            return columns  # each line has its own keys: what is missing there is that line's error
        absent = [column for column in self._columns.values() if column not in names]
        if absent:
            raise ImportFileError(
                f"The file {str(self.path)!r} has no column {absent[0]!r}. Its columns are: {', '.join(names)}."
            )
        if columns.missing:
            field = columns.missing[0]
            raise ImportFileError(
                f"The file {str(self.path)!r} has no column for {field}. Its columns are: {', '.join(names)}. "
                f"Name the right one with --column {field}=NAME."
            )
        return columns


def format_of(path: Path) -> str:
    """Tell the format from the name's ending; `.gz` may follow it.

    Raises:
        ImportFileError: the ending is not one of the known.
    """
    name = path.name.lower().removesuffix(".gz")
    found = _EXTENSIONS.get(Path(name).suffix)
    if found is None:
        raise ImportFileError(
            f"The name {path.name!r} does not tell the format. "
            f"Give one with --format ({', '.join(FORMATS)}), or end the name in {', '.join(_EXTENSIONS)}."
        )
    return found


def open_stream(path: Path, stack: ExitStack, *, text: bool) -> tuple[IO[bytes], IO[bytes]]:
    """Return the file as it lies there and, where it is gzip-compressed, what is in it; `stack` closes both.

    Raises:
        ImportFileError: it cannot be read, is a pipe, or is a `text` in UTF-16.
    """
    try:
        # To open a pipe waits for somebody who writes to it.
        if is_special(path):
            raise ImportFileError(f"{str(path)!r} is a pipe or a device. Save it to a file first, and import that.")
        file = stack.enter_context(path.open("rb"))
    except OSError as error:
        raise ImportFileError(f"The file {str(path)!r} cannot be read: {error.strerror}. Check its name.") from error
    start = file.read(2)
    file.seek(0)
    if start in _UTF16_MARKS and text:
        raise ImportFileError(f"The file {str(path)!r} is in UTF-16. Save it as UTF-8 and try again.")
    if start == _GZIP_MAGIC:
        return file, cast(IO[bytes], stack.enter_context(gzip.GzipFile(fileobj=file)))
    return file, file


def is_special(path: Path) -> bool:
    """Tell whether it is neither a file nor a folder: a pipe, a socket, a device.

    Raises:
        OSError: it is not there, or may not be looked at.
    """
    mode = path.stat().st_mode
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def read_records(path: Path, stream: IO[bytes], *, format: str) -> Iterator[Record]:
    """Read the rows of an open file of that format, as they are; `path` is for messages.

    Raises:
        ImportFileError: the file is damaged or of another format.
    """
    records = {"csv": _csv_records, "jsonl": _jsonl_records, "parquet": _parquet_records}[format]
    return _with_file_errors(path, records(stream))


class RatingsWriter(Protocol):
    """Writes ratings in chunks; the file is whole once `close` has returned."""

    def write(self, ratings: Sequence[Rating]) -> None: ...

    def close(self) -> None: ...


@contextmanager
def written_file(path: Path, *, format: str | None = None) -> Iterator[RatingsWriter]:
    """Write a ratings file that appears whole, under its name, or not at all.

    Raises:
        ImportFileError: the place cannot be written.
    """
    writers: dict[str, Callable[[IO[bytes]], RatingsWriter]]
    writers = {"csv": _CsvWriter, "jsonl": _JsonlWriter, "parquet": _ParquetWriter}
    make = writers[format or format_of(path)]
    path = path.resolve()  # a link stays a link: its target is what gets replaced
    if path.exists() and not path.is_file():
        raise ImportFileError(f"{str(path)!r} is there and no regular file. Choose another name.")
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with draft.open("wb") as file:
            with _compressed(file, path) as stream:
                writer = make(stream)
                try:
                    yield writer
                finally:
                    writer.close()
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError as error:
        raise ImportFileError(
            f"The file {str(path)!r} cannot be written: {error.strerror}. Choose another place."
        ) from error
    finally:
        with suppress(OSError):
            draft.unlink()


@contextmanager
def _compressed(file: IO[bytes], path: Path) -> Iterator[IO[bytes]]:
    if path.suffix.lower() != ".gz":
        yield file
        return
    # Neither name nor time in the header: the same ratings give the same bytes.
    with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
        yield cast(IO[bytes], packed)


# --- Reading ---------------------------------------------------------------------------------------------------------


def _file_row(record: Record, columns: Columns) -> FileRow:
    try:
        return FileRow(record.line, to_rating({name: record.cells[place] for name, place in columns.positions.items()}))
    except ValueError as error:
        return FileRow(record.line, None, str(error))


def _with_file_errors(path: Path, records: Iterable[Record]) -> Iterator[Record]:
    from pyarrow import ArrowException

    try:
        yield from records
    except (*_DAMAGED, ArrowException) as error:
        raise ImportFileError(
            f"The file {str(path)!r} is damaged or of another format: {error}. Make it anew, or give --format."
        ) from error


def _csv_records(stream: IO[bytes]) -> Iterator[Record]:
    # Answers run to more than the 131,072 characters that Python allows a cell; the limit is one for the process.
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    # Bytes that are not UTF-8 come through as surrogates, so that the row they are in can be named.
    with io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
        header = text.readline()
        reader = csv.reader(itertools.chain([header], text), delimiter=_delimiter(header), strict=True)
        names: tuple[str, ...] = ()
        for line, cells in _csv_rows(reader):
            if isinstance(cells, str):
                yield Record(line, reason=f"the CSV is malformed: {cells}")
            elif not names:
                names = tuple(cells)
                yield Record(line, names)
            elif len(cells) != len(names):
                yield Record(line, reason=f"the row has {len(cells)} columns, the header has {len(names)}")
            else:
                yield Record(line, names, cells)
    if not names:
        raise ImportFileError("The file is empty. Its first line must name the columns.")


def _csv_rows(reader: Any) -> Iterator[tuple[int, list[str] | str]]:
    """The rows that are not blank, each with the line where it starts; of a malformed one what is wrong."""
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, str(error)
            continue
        if cells:
            yield line, cells


def _delimiter(header: str) -> str:
    """Comma, semicolon or tab: whichever the header has most of."""
    return max(",;\t", key=header.count)


def _jsonl_records(stream: IO[bytes]) -> Iterator[Record]:
    for line, raw in enumerate(stream, 1):
        raw = raw.removeprefix(b"\xef\xbb\xbf") if line == 1 else raw
        if not raw.strip():
            continue
        try:
            value = json.loads(raw.decode("utf-8"), parse_constant=_no_constant)
        except UnicodeDecodeError as error:
            yield Record(line, reason=f"byte {error.start + 1} of the line is not UTF-8")
        except (ValueError, RecursionError) as error:
            yield Record(line, reason=f"the line is not JSON: {error}")
        else:
            if isinstance(value, dict) and value:
                yield Record(line, tuple(value), tuple(value.values()))
            else:
                yield Record(line, reason=f"the line is not a JSON object: {str(value)[:60]}")


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not allowed")


def _parquet_records(stream: IO[bytes]) -> Iterator[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with ExitStack() as stack:
        if isinstance(stream, gzip.GzipFile):  # Parquet is read from its end
            unpacked = stack.enter_context(tempfile.TemporaryFile())
            shutil.copyfileobj(stream, unpacked)
            stream = unpacked
        file = stack.enter_context(pq.ParquetFile(stream))
        names = tuple(file.schema_arrow.names)
        yield Record(1, names)
        row = 0
        for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
            for cells in zip(*(_python_values(column, pa) for column in batch.columns), strict=True):
                row += 1
                yield Record(row, names, cells)


def _python_values(column: Any, pa: Any) -> list[Any]:
    if pa.types.is_timestamp(column.type) and column.type.unit == "ns":  # Python's own times end at the microsecond
        column = column.cast(pa.timestamp("us", tz=column.type.tz), safe=False)
    values: list[Any] = column.to_pylist()
    return values


# --- Writing ---------------------------------------------------------------------------------------------------------


def _cell(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


class _CsvWriter:
    """RFC 4180: CR LF at the row's end, a cell quoted where it must be, nothing at all for a missing value."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._text = io.TextIOWrapper(stream, encoding="utf-8", newline="", write_through=True)
        self._writer = csv.writer(self._text, lineterminator="\r\n")
        self._writer.writerow(FIELDS)

    def write(self, ratings: Sequence[Rating]) -> None:
        self._writer.writerows([_cell(getattr(rating, name)) for name in FIELDS] for rating in ratings)

    def close(self) -> None:
        self._text.detach()


class _JsonlWriter:
    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def write(self, ratings: Sequence[Rating]) -> None:
        for rating in ratings:
            values = {name: _cell(getattr(rating, name)) for name in FIELDS}
            self._stream.write(json.dumps(values, ensure_ascii=False).encode() + b"\n")

    def close(self) -> None:
        pass


class _ParquetWriter:
    def __init__(self, stream: IO[bytes]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        kinds = {
            "rating": pa.int64(),
            "shown_rank": pa.int64(),
            "score": pa.float64(),
            "created_at": pa.timestamp("us", tz="UTC"),
            "rated_at": pa.timestamp("us", tz="UTC"),
        }
        self._schema = pa.schema([(name, kinds.get(name, pa.string())) for name in FIELDS])
        self._writer = pq.ParquetWriter(stream, self._schema)

    def write(self, ratings: Sequence[Rating]) -> None:
        import pyarrow as pa

        columns = {name: [getattr(rating, name) for rating in ratings] for name in FIELDS}
        self._writer.write_table(pa.table(columns, schema=self._schema))

    def close(self) -> None:
        self._writer.close()
