"""Files of rows are written whole or not at all: CSV, JSONL, an array of JSON, Parquet, plain or gzip-compressed."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import IO, Any, Protocol, cast

from rlhf_loop.errors import ImportFileError


class Kind(StrEnum):
    """What the cells of a column hold; `OBJECT` is whatever JSON can say, and there is none of it in CSV and Parquet.

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
Row = Sequence[Any]


class RowsWriter(Protocol):
    """Writes rows in chunks, their cells in the columns' order; the file is whole once `close` has returned."""

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
        raise ImportFileError(f"{str(path)!r} is there and no regular file. Choose another name.")
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with draft.open("wb") as file:
            with _compressed(file, path) as stream:
                writer = make(stream, columns)
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


class _CsvWriter:
    """RFC 4180: CR LF at the row's end, a cell quoted where it must be, nothing at all for a missing value.

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
