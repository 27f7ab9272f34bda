"""Files of rows, written whole or not at all: CSV, JSONL, arrays of JSON and Parquet, plain or gzip-compressed."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

from rlhf_loop.errors import ImportFileError
from rlhf_loop.utils.files import whole_file
from rlhf_loop.utils.rows import parquet_libraries
from rlhf_loop.utils.text import without_formula

Row = Sequence[Any]
#: Writes rows into a file, their cells in the columns' order.
WriteRows = Callable[[Sequence[Row]], object]


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


@contextmanager
def written_file(path: Path, *, container: str, columns: Columns, for_spreadsheet: bool = False) -> Iterator[WriteRows]:
    """Write a file that appears whole, under its name, or not at all. `container` is csv, jsonl, json or parquet.

    CSV `for_spreadsheet` has no text that a spreadsheet would compute; it is for people, and no import gets the same.

    The block gets a function that writes rows, to be called with one chunk of them after the other.

    Raises:
        ImportFileError: the place cannot be written, or rows of that kind cannot be in such a file.
    """
    writers: dict[str, Callable[[IO[bytes], Columns], AbstractContextManager[WriteRows]]]
    writers = {"jsonl": _jsonl_writer, "json": _json_writer, "parquet": _parquet_writer}
    if container == "csv":
        tabs = ".tsv" in (suffix.lower() for suffix in path.suffixes[-2:])
        writers["csv"] = partial(_csv_writer, delimiter="\t" if tabs else ",", for_spreadsheet=for_spreadsheet)
    elif for_spreadsheet:
        raise ImportFileError(
            f"A spreadsheet opens CSV, and {path.name!r} is {container}. End the name in .csv or .tsv."
        )
    make = writers[container]
    try:
        path = path.resolve()  # a link stays a link: its target is what gets replaced
        if path.exists() and not path.is_file():
            raise ImportFileError(f"{str(path)!r} exists and is not a regular file. Choose another name.")
        with whole_file(path) as file, _compressed(file, path) as stream, make(stream, columns) as write:
            yield write
    except OSError as error:
        raise ImportFileError(
            f"The file {str(path)!r} cannot be written: {error.strerror}. Choose another place."
        ) from error


@contextmanager
def _compressed(file: IO[bytes], path: Path) -> Iterator[IO[bytes]]:
    if path.suffix.lower() != ".gz":
        yield file
        return
    # Neither name nor time in the header: the same ratings give the same bytes.
    with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
        yield cast(IO[bytes], packed)


@contextmanager
def _csv_writer(stream: IO[bytes], columns: Columns, *, delimiter: str, for_spreadsheet: bool) -> Iterator[WriteRows]:
    """Write CSV by RFC 4180: CR LF at the row's end, a cell quoted where it must be, nothing for a missing value.

    In a file named .tsv tabs stand between the cells.
    """
    if nested := [name for name, kind in columns.items() if kind in (Kind.MESSAGES, Kind.OBJECT)]:
        raise ImportFileError(
            f"A cell of CSV is one text, and the column {nested[0]!r} holds objects. "
            "End the name in .jsonl to write JSON."
        )
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\r\n")
    writer.writerow(columns)
    try:
        cell = _spreadsheet_cell if for_spreadsheet else _csv_cell
        yield lambda rows: writer.writerows(map(cell, row) for row in rows)
    finally:
        text.detach()


@contextmanager
def _jsonl_writer(stream: IO[bytes], columns: Columns) -> Iterator[WriteRows]:
    yield lambda rows: stream.write(b"".join(_json(columns, row) + b"\n" for row in rows))


@contextmanager
def _json_writer(stream: IO[bytes], columns: Columns) -> Iterator[WriteRows]:
    """Write an array, an object a line."""
    before = b"[\n"

    def write(rows: Sequence[Row]) -> None:
        nonlocal before
        for row in rows:
            stream.write(before + _json(columns, row))
            before = b",\n"

    yield write
    stream.write(b"[]\n" if before == b"[\n" else b"\n]\n")


@contextmanager
def _parquet_writer(stream: IO[bytes], columns: Columns) -> Iterator[WriteRows]:
    pa, pq = parquet_libraries()
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
    schema = pa.schema([(name, kinds[kind]) for name, kind in columns.items()])

    def write(rows: Sequence[Row]) -> None:
        if rows:
            cells = dict(zip(columns, zip(*rows, strict=True), strict=True))
            writer.write_table(pa.table(cells, schema=schema))

    with pq.ParquetWriter(stream, schema) as writer:
        yield write


def _csv_cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.isoformat() if isinstance(value, datetime) else value


def _spreadsheet_cell(value: Any) -> Any:
    return without_formula(value) if isinstance(value, str) else _csv_cell(value)


def _json(columns: Columns, row: Row) -> bytes:
    return json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False, default=_json_value).encode()


def _json_value(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"JSON has no {type(value).__name__}.")
