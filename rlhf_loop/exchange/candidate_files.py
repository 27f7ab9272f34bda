"""Files of candidates for bulk scoring: rows of Parquet, JSONL or CSV, here or in an object store, staged in parts.

Candidates of one question may stand anywhere in the input, and a score depends on all of them. So the rows are staged
first: each goes to the part that the hash of its group and question names, with a memory that is bounded by a buffer.
A part is then scored by itself, on whatever machine. Staged files are Arrow's IPC streams, one behind the other.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import reduce
from math import ceil
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from rlhf_loop.domain import Progress
from rlhf_loop.errors import ImportFileError, ObjectStoreError
from rlhf_loop.utils import object_store
from rlhf_loop.utils.extras import require
from rlhf_loop.utils.object_store import Place
from rlhf_loop.utils.rows import container_of, read_records, refuse_doubled, refuse_other_kinds, shown_columns
from rlhf_loop.utils.text import blank, clause

require("pyarrow", "index")  # before the imports, which would only name a module

import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
from pyarrow import fs  # noqa: E402

#: What is looked for where no column is named, the first that is there.
NAMES = {
    "question": ("question", "query", "prompt", "user_prompt"),
    "text": ("text", "answer", "response", "ai_response"),
    "group": ("group",),
    "candidates": ("candidates",),
}
#: The columns that the output adds; the input's of these names are replaced, as by `rerank_candidates`.
SCORED = ("score", "rank", "model_version")
#: The ways in which a file of candidates can hold its rows.
FORMATS = ("parquet", "jsonl", "csv", "json")
#: Those of which each row has names of its own.
_ROW_BY_ROW = ("jsonl", "json")
#: More parts than that are none, however large the input: their sizes stand in one small file.
MOST_PARTS = 4096
#: Rows and characters that are looked at together, and bytes that wait to be staged.
_CHUNK, _CHUNK_CHARS, _BUFFER = 2000, 1 << 22, 1 << 26
_READ = 1 << 20
_GZIP = b"\x1f\x8b"
#: Stands for a value of Parquet that cannot be read.
_NOT_UTF8 = object()

#: Takes a file, a line or row in it from 1, and what is wrong with it.
BadRow = Callable[[str, int, str], None]


def place_of(where: str | Path) -> Place:
    """Return the file or folder that a path or an address such as s3://bucket/folder names.

    Raises:
        ImportFileError: it is not a valid address, or its store cannot be reached.
    """
    with translated(where):
        return Place.of(where)


@contextmanager
def translated(where: str | Path) -> Iterator[None]:
    """Make errors of files and object stores those of an import that name the place."""
    try:
        with object_store.translated(where):
            yield
    except ObjectStoreError as error:
        raise ImportFileError(str(error)) from error


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file of the input, with what changes when it is written to."""

    path: str
    size: int
    modified: int | None


def input_files(place: Place) -> tuple[str, tuple[InputFile, ...]]:
    """Return the format and the files in order; names in a folder that begin with . or _ are passed over.

    Raises:
        ImportFileError: there is none, or they are of several formats.
    """
    (info,) = place.files.get_file_info([place.path])
    if info.type == fs.FileType.NotFound:
        raise ImportFileError(f"There is no file or folder {place.path!r}. Check its name.")
    if info.type == fs.FileType.File:
        return container_of(Path(place.path), FORMATS), (_described(info),)
    by_format: dict[str, list[InputFile]] = {}
    for each in place.files.get_file_info(fs.FileSelector(place.path, recursive=True)):
        inside = Path(each.path).relative_to(place.path)
        if each.type != fs.FileType.File or any(part.startswith((".", "_")) for part in inside.parts):
            continue
        try:
            by_format.setdefault(container_of(inside, FORMATS), []).append(_described(each))
        except ImportFileError:
            continue  # such as a README beside the data
    if len(by_format) != 1:
        kinds = f"files of several formats ({', '.join(sorted(by_format))})" if by_format else "no file of candidates"
        raise ImportFileError(f"The folder {place.path!r} holds {kinds}. Give one with Parquet, JSONL or CSV files.")
    ((format, found),) = by_format.items()
    return format, tuple(sorted(found, key=lambda file: file.path))


def _described(info: Any) -> InputFile:
    return InputFile(info.path, info.size, info.mtime_ns)


@dataclass(frozen=True, slots=True)
class Columns:
    """The names of the input's columns: a row is a candidate with its `text`, or a question with its `candidates`."""

    question: str
    text: str | None
    group: str | None
    candidates: str | None

    @classmethod
    def among(cls, names: Sequence[str], given: Mapping[str, str], *, file: str) -> Columns:
        """Return the columns of a file that has these names.

        Raises:
            ImportFileError: a column is not there, or it is not clear which is meant.
        """
        if unknown := sorted(given.keys() - NAMES.keys()):
            raise ImportFileError(f"There is no field {unknown[0]!r}. The fields are: {', '.join(NAMES)}.")
        if missing := sorted(set(given.values()) - set(names)):
            raise ImportFileError(f"{file!r} has no column {missing[0]!r}. Its columns are: {shown_columns(names)}.")
        if clash := next((field for field in given if given[field] in SCORED), None):
            raise ImportFileError(
                f"The column {given[clash]!r} cannot be the {clash}: the result has its own {', '.join(SCORED)} in its "
                "place. Rename it in the input."
            )
        found = {
            field: given.get(field) or next((name for name in known if name in names), None)
            for field, known in NAMES.items()
        }
        if found["text"] and found["candidates"] and ("text" in given) != ("candidates" in given):
            found["candidates" if "text" in given else "text"] = None
        lacks = "question" if not found["question"] else "text" if not (found["text"] or found["candidates"]) else ""
        if lacks:
            raise ImportFileError(
                f"{file!r} has no column for {lacks}. Its columns are: {shown_columns(names)}. Name the one that "
                f"is meant by --column {lacks}=NAME"
                + (", or the column of a question's list by --column candidates=NAME." if lacks == "text" else ".")
            )
        if found["text"] and found["candidates"]:
            raise ImportFileError(
                f"{file!r} has the columns {found['text']!r} and {found['candidates']!r}. Say which one holds the "
                f"candidates: --column text={found['text']} or --column candidates={found['candidates']}."
            )
        if found["candidates"] and "group" in given:
            raise ImportFileError("A row is a question with all its candidates here. Omit --column group=...")
        return cls(found["question"] or "", found["text"], found["group"], found["candidates"])


@dataclass(frozen=True, slots=True)
class Staged:
    """The staged rows: how many each part has, the columns of all, and how many rows were left out."""

    sizes: Mapping[int, int]
    schema: Any
    bad_rows: int
    columns: Columns

    @property
    def rows(self) -> int:
        return sum(self.sizes.values())


def staged_name(part: int) -> str:
    """Return the name of a part's staged file."""
    return f"part-{part:05}.arrow"


def stage(
    place: Place,
    format: str,
    files: Sequence[InputFile],
    *,
    columns: Mapping[str, str],
    folder: Path,
    part_rows: int,
    bad_row: BadRow,
    progress: Progress | None = None,
) -> Staged:
    """Read the input once, and append each row to the staged file of its part in `folder`.

    A row that cannot be scored goes to `bad_row`. The progress counts bytes.

    Raises:
        ImportFileError: a file is damaged, or lacks a column that is needed.
    """
    reader = _Reader(place, format, columns, bad_row)
    expected = sum(reader.rows_in(file) for file in files)
    part_rows = max(part_rows, ceil(expected / MOST_PARTS))
    common = _one_type if format == "parquet" else _common
    stager = _Stager(folder, part_rows=part_rows, expected=expected, common=common)
    total, done = sum(file.size for file in files), 0
    for file in files:
        for table in reader.tables(file):
            stager.add(table, cast(Columns, reader.columns))
            if progress:
                progress(min(total, done + reader.position()), total)
        done += file.size
        if progress:
            progress(done, total)
    stager.flush()
    if reader.columns is None or not stager.sizes:
        raise ImportFileError(
            f"Nothing in {place.path!r} can be scored ({reader.bad_rows} bad rows{reader.first_reason}). Correct it."
        )
    return Staged(stager.sizes, stager.schema, reader.bad_rows, reader.columns)


@contextmanager
def _named(path: str) -> Iterator[None]:
    """Let errors say in which of many files they are."""
    try:
        yield
    except ImportFileError as error:
        if path in str(error) or repr(path) in str(error):
            raise
        raise ImportFileError(f"{path!r} cannot be read. {error}") from error


class _Reader:
    """Reads files of candidates a few rows at a time, and leaves out what cannot be scored."""

    def __init__(self, place: Place, format: str, given: Mapping[str, str], bad_row: BadRow) -> None:
        self._place, self._format, self._given, self._bad_row = place, format, given, bad_row
        self.columns: Columns | None = None
        self.bad_rows = 0
        self.first_reason = ""
        self.position: Callable[[], int] = lambda: 0
        #: Of texts that say no type themselves: that of the rows before.
        self._types: dict[str, Any] = {}
        self._bytes_a_row: float | None = None

    def rows_in(self, file: InputFile) -> int:
        """Return about how many rows the file has."""
        if self._format == "parquet":
            with translated(file.path), ExitStack() as stack:
                return int(pq.ParquetFile(stack.enter_context(self._opened(file))).metadata.num_rows)
        if self._bytes_a_row is None:
            with translated(file.path), self._opened(file) as stream:
                start = packed = stream.read(_READ)
            if start.startswith(_GZIP):
                start = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(packed, _READ)
            self._bytes_a_row = min(len(packed), len(start)) / (1 + start.count(b"\n"))
        return 1 + int(file.size / max(1, self._bytes_a_row))

    def tables(self, file: InputFile) -> Iterator[Any]:
        """Yield the rows that can be scored, as tables with the input's columns."""
        tables = self._parquet(file) if self._format == "parquet" else self._texts(file)
        with translated(file.path), _named(file.path):
            for lines, table, wrong in tables:
                reasons = self._reasons(table) | wrong
                for row, reason in sorted(reasons.items()):
                    self._bad(file, lines[row], reason)
                if reasons:
                    table = table.take(pa.array([row for row in range(len(table)) if row not in reasons], pa.int64()))
                yield table.drop_columns([name for name in SCORED if name in table.column_names])

    def _bad(self, file: InputFile, line: int, reason: str) -> None:
        self.bad_rows += 1
        self.first_reason = self.first_reason or f", the first: {reason}"
        self._bad_row(file.path, line, reason)

    def _opened(self, file: InputFile) -> Any:
        return self._place.files.open_input_file(file.path)

    def _parquet(self, file: InputFile) -> Iterator[tuple[Sequence[int], Any, dict[int, str]]]:
        with self._opened(file) as stream:
            whole = pq.ParquetFile(stream, buffer_size=_READ, pre_buffer=False)
            names = whole.schema_arrow.names
            refuse_doubled(names, range(len(names)))
            self._find_columns(names, file)
            total, row = max(1, whole.metadata.num_rows), 1
            for batch in whole.iter_batches(batch_size=_CHUNK):
                first, row = row, row + len(batch)
                self.position = lambda read=row - 1: file.size * read // total  # type: ignore[misc]
                yield range(first, row), pa.Table.from_batches([batch]), {}

    def _texts(self, file: InputFile) -> Iterator[tuple[Sequence[int], Any, dict[int, str]]]:
        rows: list[tuple[int, dict[str, Any]]] = []
        chars, begun = 0, False
        with self._opened(file) as opened:
            self.position = lambda: file.size if opened.closed else int(opened.tell())
            raw = io.BufferedReader(cast(io.RawIOBase, opened), _READ)
            start = raw.peek(100)[:100]
            refuse_other_kinds(Path(file.path), start, but=self._format)
            stream: IO[bytes] = cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if start.startswith(_GZIP) else raw
            for record in read_records(Path(file.path), stream, format=self._format):
                if record.reason:
                    self._bad(file, record.line, record.reason)
                    continue
                if not record.cells:
                    refuse_doubled(record.names, range(len(record.names)))
                    self._find_columns(record.names, file)
                    begun = True
                if record.cells:
                    row = dict(zip(record.names, record.cells, strict=True))
                    chars += sum(map(_length, row.values()))
                    rows.append((record.line, row))
                if len(rows) == _CHUNK or chars > _CHUNK_CHARS:
                    yield self._table(rows, None if begun else file)
                    rows, chars, begun = [], 0, True
        if rows:
            yield self._table(rows, None if begun else file)

    def _find_columns(self, names: Sequence[str], file: InputFile) -> None:
        found = Columns.among(names, self._given, file=file.path)
        if self.columns and self._format in _ROW_BY_ROW:
            group = found.group or self.columns.group
            found, self.columns = replace(found, group=group), replace(self.columns, group=group)
        if self.columns not in (None, found):
            raise ImportFileError(f"{file.path!r} has other columns than the files before it. Score it by itself.")
        self.columns = found

    def _table(
        self, rows: list[tuple[int, dict[str, Any]]], begins: InputFile | None
    ) -> tuple[Sequence[int], Any, dict[int, str]]:
        """Return the lines of rows, the rows as a table, and what is wrong with those that fit into no column.

        Which columns there are is told by the first rows of a file, the one that `begins` with them; but a group may
        come with any row, and those before it have none.
        """
        wrong: dict[int, str] = {}
        names = list(dict.fromkeys(name for _, row in rows for name in row))
        if begins:
            self._find_columns(names, begins)
        elif self.columns and self.columns.text and not self.columns.group and self._format in _ROW_BY_ROW:
            group = next((name for name in NAMES["group"] if name in names), None)
            self.columns = replace(self.columns, group=group)
        arrays = []
        for name in names:
            values = [row.get(name) for _, row in rows]
            if self.columns:
                values = self._checked(name, values, wrong)
            arrays.append(self._array(name, values, wrong))
        return [line for line, _ in rows], pa.table(arrays, names=names), wrong

    def _checked(self, name: str, values: list[Any], wrong: dict[int, str]) -> list[Any]:
        """Remove values of a wrong type from the columns of texts and lists, whose types they would spoil."""
        columns = cast(Columns, self.columns)
        if name == columns.candidates:
            values = _alike(values)
            found = {row: _wrong_candidates(value) for row, value in enumerate(values) if value is not None}
        elif name in (columns.question, columns.text):
            found = {
                row: f"its {name!r} is {str(value)[:60]!r}, and no text"
                for row, value in enumerate(values)
                if not (value is None or isinstance(value, str))
            }
        else:
            return values
        reasons = {row: reason for row, reason in found.items() if reason}
        wrong |= reasons
        return [None if row in reasons else value for row, value in enumerate(values)]

    def _array(self, name: str, values: list[Any], wrong: dict[int, str]) -> Any:
        """Return a column of values, as texts where they are of several kinds."""
        known = pa.string() if self._format == "csv" else self._types.get(name, pa.null())
        try:
            array = pa.array(values, known) if self._format == "csv" else pa.array(values)
            if "struct<>" not in str(array.type):  # which Parquet cannot hold
                self._types[name] = _common(known, array.type)
                return array
        except (pa.ArrowException, OverflowError, UnicodeError):
            pass
        for row, value in enumerate(values):
            try:
                known = _common(known, _type_of(value))
            except UnicodeError:
                wrong[row] = f"its {name!r} is not UTF-8, or holds half a character"
        self._types[name] = known
        return pa.array([None if row in wrong else _fitted(value, known) for row, value in enumerate(values)], known)

    def _reasons(self, table: Any) -> dict[int, str]:
        """Return what is wrong with rows, by their place: what `rerank_candidates` would refuse."""
        columns = cast(Columns, self.columns)
        found: dict[int, str] = {}
        needed = [name for name in (columns.question, columns.candidates or columns.text, columns.group) if name]
        for row, values in enumerate(zip(*(_values(table, name) for name in needed), strict=True)):
            question, value = values[:2]
            broken = [name for name, each in zip(needed, values, strict=True) if each is _NOT_UTF8]
            if broken:
                found[row] = f"its {broken[0]!r} is not UTF-8"
            elif not isinstance(question, str) or blank(question):
                found[row] = (
                    "it has no question" if not question else f"its question is not a text: {str(question)[:60]}"
                )
            elif columns.candidates:
                if reason := _wrong_candidates(value):
                    found[row] = reason
            elif not _is_text(value):
                found[row] = "it has no text" if not value else f"it has no text: {str(value)[:60]!r}"
        return found


def _wrong_candidates(value: object) -> str | None:
    if not isinstance(value, list):
        return "it has no list of candidates"
    texts = texts_of(value)
    bad = next((place for place, text in enumerate(texts) if not _is_text(text)), None)
    if bad is None:
        return None
    return f"candidate {bad} has no text" + (f": {str(texts[bad])[:60]!r}" if texts[bad] else "")


def _is_text(text: object) -> bool:
    return isinstance(text, str) and bool(text.strip())


def texts_of(candidates: Sequence[Any]) -> list[Any]:
    """Return the texts of a list of candidates: texts, or objects with a `text`."""
    return [each.get("text") if isinstance(each, dict) else each for each in candidates]


def _values(table: Any, name: str | None) -> list[Any]:
    if name not in table.column_names:
        return [None] * len(table)
    try:
        return cast(list[Any], table.column(name).to_pylist())
    except UnicodeDecodeError:
        return [_value(each) for each in table.column(name)]


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return _NOT_UTF8


def _alike(lists: list[Any]) -> list[Any]:
    """Make objects of all candidates where some are, as a column has one type."""
    if any(isinstance(each, dict) for of in lists if isinstance(of, list) for each in of):
        return [
            [{"text": each} if isinstance(each, str) else each for each in of] if isinstance(of, list) else of
            for of in lists
        ]
    return lists


def _length(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_length, value.values())) + 8
    return sum(map(_length, value)) + 8 if isinstance(value, list) else 8


def as_text(value: Any) -> str | None:
    """Return a value as the text that stands for it in a column of values of several kinds: but for texts, as JSON.

    Equal numbers are equal texts, whether they came as whole ones or not.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float | Decimal) and float(value).is_integer():
        value = int(value)
    return json.dumps(value, ensure_ascii=False, default=str)


def _type_of(value: Any) -> Any:
    """Return the type of a value of JSON; of an object without fields none."""
    if isinstance(value, list):
        return pa.list_(reduce(_common, map(_type_of, value), pa.null()))
    if isinstance(value, dict):
        return pa.struct({name: _type_of(each) for name, each in value.items()}) if value else pa.null()
    try:
        return pa.array([value]).type
    except (pa.ArrowException, OverflowError):
        return pa.string()


def _one_type(some: Any, other: Any) -> Any:
    one, two = pa.schema([("it", some)]), pa.schema([("it", other)])
    return pa.unify_schemas([one, two], promote_options="permissive").field(0).type


def _common(some: Any, other: Any) -> Any:
    """Return a type for values of both, which is that of texts where they have nothing in common."""
    try:
        return _one_type(some, other)
    except pa.ArrowException:
        if pa.types.is_list(some) and pa.types.is_list(other):
            one, two = some.value_type, other.value_type
            if pa.types.is_struct(one) and pa.types.is_string(two):
                return pa.list_(_common(one, pa.struct({"text": two})))
            return (
                _common(other, some)
                if pa.types.is_string(one) and pa.types.is_struct(two)
                else pa.list_(_common(one, two))
            )
        if pa.types.is_struct(some) and pa.types.is_struct(other):
            fields = {field.name: field.type for field in some}
            for field in other:
                fields[field.name] = _common(fields.get(field.name, pa.null()), field.type)
            return pa.struct(fields)
        return pa.string()


def _fitted(value: Any, type: Any) -> Any:
    """Return a value as one of a type that `_common` gave."""
    if value is None or pa.types.is_null(type):
        return None
    if pa.types.is_string(type):
        return as_text(value)
    if isinstance(value, list):
        return [_fitted(each, type.value_type) for each in value]
    if pa.types.is_struct(type) and value:
        value = {"text": value} if isinstance(value, str) else value
        return {field.name: _fitted(value.get(field.name), field.type) for field in type}
    return value or None if isinstance(value, dict) else value


def _of_schema(table: Any, schema: Any) -> Any:
    """Return a table with the columns of a schema, which has all of the table's, of the same types or wider ones."""
    try:
        whole = pa.concat_tables([schema.empty_table(), table], promote_options="permissive")
        if whole.schema.equals(schema):
            return whole
        return whole.select(schema.names).cast(schema)
    except pa.ArrowException:
        arrays = [
            table.column(field.name)
            if field.name in table.column_names and table.schema.field(field.name).type == field.type
            else pa.array([_fitted(value, field.type) for value in _values(table, field.name)], field.type)
            for field in schema
        ]
        return pa.table(arrays, schema=schema)


class _Stager:
    """Appends rows to the files of their parts: by the hash of group and question, or one after the other."""

    def __init__(self, folder: Path, *, part_rows: int, expected: int, common: Callable[[Any, Any], Any]) -> None:
        self._folder, self._part_rows, self._common = folder, part_rows, common
        self._parts = min(MOST_PARTS, max(1, ceil(expected / part_rows)))
        self._tables: list[Any] = []
        self._numbers: list[Any] = []
        self._bytes = 0
        self._candidates = 0
        self.sizes: dict[int, int] = {}
        self.schema: Any = None

    def add(self, table: Any, columns: Columns) -> None:
        """Take rows, and write what waits once that is much."""
        if not len(table):
            return
        self._tables.append(table)
        self._numbers.append(self._numbers_of(table, columns))
        self._bytes += table.nbytes
        if self._bytes > _BUFFER:
            self.flush()

    def _numbers_of(self, table: Any, columns: Columns) -> Any:
        if columns.candidates is not None:
            numbers = np.empty(len(table), dtype=np.int64)
            for row, value in enumerate(table.column(columns.candidates).to_pylist()):
                numbers[row] = self._candidates // self._part_rows
                self._candidates += max(1, len(value))
            return numbers
        keys = zip(_values(table, columns.group), table.column(columns.question).to_pylist(), strict=True)
        return np.array([zlib.crc32(f"{_key(group)}\0{question}".encode()) % self._parts for group, question in keys])

    def flush(self) -> None:
        """Write what waits.

        Raises:
            ImportFileError: columns of one name are of types that have nothing in common.
        """
        if not self._tables:
            return
        types = {} if self.schema is None else {field.name: field.type for field in self.schema}
        try:
            for field in (field for table in self._tables for field in table.schema):
                known = types.get(field.name, field.type)
                types[field.name] = known if known == field.type else self._common(known, field.type)
            self.schema = pa.schema(types)
            table = pa.concat_tables([_of_schema(table, self.schema) for table in self._tables])
        except pa.ArrowException as error:
            raise ImportFileError(
                f"Files of the input have columns of one name that do not fit together: {clause(error)}. Score them "
                "one by one."
            ) from error
        numbers = np.concatenate(self._numbers)
        order = np.argsort(numbers, kind="stable")
        table, numbers = table.take(pa.array(order)).combine_chunks(), numbers[order]
        starts = np.flatnonzero(np.diff(numbers, prepend=-1))
        for start, end in zip(starts, [*starts[1:], len(numbers)], strict=True):
            part = int(numbers[start])
            with (self._folder / staged_name(part)).open("ab") as file, pa.ipc.new_stream(file, table.schema) as out:
                out.write_table(table.slice(start, end - start))
            self.sizes[part] = self.sizes.get(part, 0) + int(end - start)
        self._tables, self._numbers, self._bytes = [], [], 0


def _key(group: Any) -> str | None:
    """Return a text that is the same for equal groups, whatever type each file has for them."""
    if isinstance(group, int | float | Decimal) and not isinstance(group, bool):
        return as_text(float(group))
    # Of lists and objects all of a question go together: what is equal after all types are known is unknown here.
    return None if isinstance(group, list | dict) else as_text(group)


def read_staged(place: Place, *, schema: Any) -> Any:
    """Return the rows of a staged part, in the input's order, with the columns of that schema."""
    with ExitStack() as stack:
        local = place.local
        source = stack.enter_context(
            pa.memory_map(place.path) if local is not None else place.files.open_input_file(place.path)
        )
        tables, size = [], source.size()
        while source.tell() < size:
            tables.append(pa.ipc.open_stream(source).read_all())
        return pa.concat_tables([schema.empty_table(), *(_of_schema(table, schema) for table in tables)])


def bad_rows_writer(stream: IO[bytes]) -> BadRow:
    """Return what writes bad rows as lines of JSON."""

    def write(file: str, line: int, reason: str) -> None:
        stream.write(json.dumps({"file": file, "line": line, "reason": reason}, ensure_ascii=True).encode() + b"\n")

    return write
