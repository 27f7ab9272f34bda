"""Files of rows: CSV, JSONL, arrays of JSON and Parquet, plain or gzip-compressed.

They are read row by row, and written whole or not at all.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import re
import shutil
import stat
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import IO, Any, Protocol, cast

from rlhf_loop.errors import ImportFileError
from rlhf_loop.utils.files import whole_file

EXTENSIONS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_GZIP_MAGIC = b"\x1f\x8b"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_PARQUET_ROWS = 1000
_JSON_READ = 1 << 18
#: Characters that one object of a JSON array may have: what is broken would else be read to the file's end.
_LONGEST_OBJECT = 1 << 26
_DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile)
Row = Sequence[Any]


@dataclass(frozen=True, slots=True)
class Record:
    """A row as the file gives it: its column names and cells, or the reason why there are none.

    `line` is where it starts, from 1; in Parquet files and JSON arrays, which need no lines, it is the row's number.
    The names may come alone, before the first row.
    """

    line: int
    names: tuple[str, ...] = ()
    cells: Sequence[Any] = ()
    reason: str = ""


def container_of(path: Path, known: Sequence[str], *, advice: str = "") -> str:
    """Tell how the file holds its rows from the name's ending, one of `known`; `.gz` may follow it.

    `advice` is what else could be done where it is not one of them.

    Raises:
        ImportFileError: the ending is not one of theirs.
    """
    name = path.name.lower().removesuffix(".gz")
    found = EXTENSIONS.get(Path(name).suffix)
    if found is None or found not in known:
        endings = ", ".join(ending for ending, container in EXTENSIONS.items() if container in known)
        raise ImportFileError(
            f"The name {path.name!r} does not tell the format of the file. {advice}End the name in {endings}."
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
    """Read the rows of an open file that is csv, jsonl, json or parquet, as they are; `path` is for messages.

    Raises:
        ImportFileError: the file is damaged or of another format.
    """
    readers: dict[str, Callable[[IO[bytes]], Iterator[Record]]]
    readers = {"csv": _csv_records, "jsonl": _jsonl_records, "json": _json_records, "parquet": _parquet_records}
    return _with_file_errors(path, readers[format](stream))


class Kind(StrEnum):
    """The type of a column's cells; `OBJECT` is any JSON value, which CSV and Parquet cannot hold.

    `MESSAGES` is a list of objects with a role and a content.
    """

    TEXT = "text"
    WHOLE = "whole"
    REAL = "real"
    TIME = "time"
    YES_NO = "yes_no"
    MESSAGES = "messages"
    OBJECT = "object"


Columns = Mapping[str, Kind]


class RowsWriter(Protocol):
    """A writer of rows in chunks, their cells in the columns' order; the file is whole once `close` has returned."""

    def write(self, rows: Sequence[Row]) -> None: ...

    def close(self) -> None: ...


@contextmanager
def written_file(path: Path, *, container: str, columns: Columns) -> Iterator[RowsWriter]:
    """Write a file that appears whole, under its name, or not at all. `container` is csv, jsonl, json or parquet.

    Raises:
        ImportFileError: the place cannot be written, or rows of that kind cannot be in such a file.
    """
    writers: dict[str, Callable[[IO[bytes], Columns], RowsWriter]]
    writers = {"csv": _CsvWriter, "jsonl": _JsonlWriter, "json": _JsonWriter, "parquet": _ParquetWriter}
    if container == "csv" and ".tsv" in (suffix.lower() for suffix in path.suffixes[-2:]):
        writers["csv"] = partial(_CsvWriter, delimiter="\t")
    make = writers[container]
    path = path.resolve()  # a link stays a link: its target is what gets replaced
    if path.exists() and not path.is_file():
        raise ImportFileError(f"{str(path)!r} exists and is not a regular file. Choose another name.")
    try:
        with whole_file(path) as file, _compressed(file, path) as stream:
            writer = make(stream, columns)
            try:
                yield writer
            finally:
                writer.close()
    except OSError as error:
        raise ImportFileError(
            f"The file {str(path)!r} cannot be written: {error.strerror}. Choose another place."
        ) from error


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
    """Give the rows that are not blank, each with the line where it starts; of a malformed one what is wrong."""
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
    """Return comma, semicolon or tab: whichever the header has most of."""
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
            yield _object(line, value, what="line")


def _json_records(stream: IO[bytes]) -> Iterator[Record]:
    """Give the objects of an array, of the array "data" in an object (as APIs give pages), or the only object."""
    with io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
        array = _JsonArray(text)
        row = 0
        while True:
            try:
                more, value = array.next()
            except (ValueError, RecursionError) as error:
                raise ImportFileError(
                    f"After object {row} the file is not JSON: {error}. "
                    "Make it anew, or end its name in .jsonl if each line is an object."
                ) from error
            if not more:
                return
            row += 1
            yield _object(row, value, what="value")


class _JsonArray:
    """A reader of an array's values one by one, so that memory does not depend on the file's length."""

    _START = re.compile(r'\s*(?:\{\s*"data"\s*:\s*)?\[')

    def __init__(self, text: IO[str]) -> None:
        self._text = text
        self._buffer = text.read(_JSON_READ)
        self._decoder = json.JSONDecoder(parse_constant=_no_constant)
        found = self._START.match(self._buffer)
        self._alone = found is None
        self._place = found.end() if found else 0
        self._first = True

    def next(self) -> tuple[bool, Any]:
        """Return whether there was one more, and what it is.

        Raises:
            ValueError: it is not JSON.
        """
        character = self._character()
        if self._alone and not self._first:
            if character:
                raise ValueError("more follows the first value")
            return False, None
        if not self._alone:
            if character == "]":
                return False, None
            if not self._first:
                if character != ",":
                    raise ValueError(f"{character!r} where a comma should be" if character else "it ends too early")
                self._place += 1
                character = self._character()
        if not character:
            raise ValueError("it is empty" if self._alone else "it ends too early")
        self._first = False
        return True, self._value()

    def _character(self) -> str:
        while True:
            while self._place < len(self._buffer) and self._buffer[self._place] in " \t\r\n":
                self._place += 1
            if self._place < len(self._buffer):
                return self._buffer[self._place]
            if not self._read_more():
                return ""

    def _value(self) -> Any:
        while True:
            try:
                value, self._place = self._decoder.raw_decode(self._buffer, self._place)
                return value
            except json.JSONDecodeError as error:
                if len(self._buffer) - self._place > _LONGEST_OBJECT or not self._read_more():
                    raise ValueError(error.msg) from error

    def _read_more(self) -> bool:
        # Twice as much each time: what was decoded in vain is at most what is decoded in the end.
        more = self._text.read(max(_JSON_READ, len(self._buffer) - self._place))
        self._buffer = self._buffer[self._place :] + more
        self._place = 0
        return bool(more)


def _object(line: int, value: Any, *, what: str) -> Record:
    if isinstance(value, dict) and value:
        return Record(line, tuple(value), tuple(value.values()))
    return Record(line, reason=f"the {what} is not a JSON object: {str(value)[:60]}")


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


@contextmanager
def _compressed(file: IO[bytes], path: Path) -> Iterator[IO[bytes]]:
    if path.suffix.lower() != ".gz":
        yield file
        return
    # Neither name nor time in the header: the same ratings give the same bytes.
    with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
        yield cast(IO[bytes], packed)


class _CsvWriter:
    """CSV by RFC 4180: CR LF at the row's end, a cell quoted where it must be, nothing at all for a missing value.

    In a file named .tsv tabs stand between the cells.
    """

    def __init__(self, stream: IO[bytes], columns: Columns, *, delimiter: str = ",") -> None:
        if nested := [name for name, kind in columns.items() if kind in (Kind.MESSAGES, Kind.OBJECT)]:
            raise ImportFileError(
                f"A cell of CSV is one text, and the column {nested[0]!r} holds objects. "
                "End the name in .jsonl to write JSON."
            )
        self._text = io.TextIOWrapper(stream, encoding="utf-8", newline="", write_through=True)
        self._writer = csv.writer(self._text, delimiter=delimiter, lineterminator="\r\n")
        self._writer.writerow(columns)

    def write(self, rows: Sequence[Row]) -> None:
        self._writer.writerows([_csv_cell(value) for value in row] for row in rows)

    def close(self) -> None:
        self._text.detach()


class _JsonlWriter:
    def __init__(self, stream: IO[bytes], columns: Columns) -> None:
        self._stream = stream
        self._names = tuple(columns)

    def write(self, rows: Sequence[Row]) -> None:
        self._stream.write(b"".join(_json(self._names, row) + b"\n" for row in rows))

    def close(self) -> None:
        pass


class _JsonWriter:
    """An array, an object a line."""

    def __init__(self, stream: IO[bytes], columns: Columns) -> None:
        self._stream = stream
        self._names = tuple(columns)
        self._before = b"[\n"

    def write(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self._stream.write(self._before + _json(self._names, row))
            self._before = b",\n"

    def close(self) -> None:
        self._stream.write(b"[]\n" if self._before == b"[\n" else b"\n]\n")


class _ParquetWriter:
    def __init__(self, stream: IO[bytes], columns: Columns) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if Kind.OBJECT in columns.values():
            raise ImportFileError("Objects of any form cannot be in a Parquet file. End the name in .json or .jsonl.")
        kinds = {
            Kind.TEXT: pa.string(),
            Kind.WHOLE: pa.int64(),
            Kind.REAL: pa.float64(),
            Kind.TIME: pa.timestamp("us", tz="UTC"),
            Kind.YES_NO: pa.bool_(),
            Kind.MESSAGES: pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])),
        }
        self._schema = pa.schema([(name, kinds[kind]) for name, kind in columns.items()])
        self._writer = pq.ParquetWriter(stream, self._schema)

    def write(self, rows: Sequence[Row]) -> None:
        import pyarrow as pa

        columns = [
            pa.array(cells, type=field.type)
            for cells, field in zip(zip(*rows, strict=True), self._schema, strict=bool(rows))
        ]
        if columns:
            self._writer.write_table(pa.table(columns, schema=self._schema))

    def close(self) -> None:
        self._writer.close()


def _csv_cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.isoformat() if isinstance(value, datetime) else value


def _json(names: Sequence[str], row: Row) -> bytes:
    return json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False, default=_json_value).encode()


def _json_value(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"JSON has no {type(value).__name__}.")
