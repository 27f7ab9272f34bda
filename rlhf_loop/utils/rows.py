"""Files of rows, read row by row: CSV, JSONL, arrays of JSON and Parquet, plain or gzip-compressed, and workbooks."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import os
import re
import shutil
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import IO, Any, NamedTuple, cast
from uuid import UUID

from rlhf_loop.errors import ImportFileError, MissingExtraError
from rlhf_loop.utils.extras import require
from rlhf_loop.utils.files import is_special
from rlhf_loop.utils.text import clause
from rlhf_loop.utils.translation import Message

EXTENSIONS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".xlsx": "xlsx",
    ".xlsm": "xlsx",
}
#: What other files begin with, and what to do with them.
_OTHER_KINDS = (
    ("xlsx", rb"PK\x03\x04|\xd0\xcf\x11\xe0", Message("an archive or a workbook. Unpack it, or save it as .xlsx")),
    (
        "",
        rb"version https://git-lfs",
        Message("a pointer of Git LFS, not the file itself. Fetch it with: git lfs pull"),
    ),
    (
        "",
        rb"(?i)\s*<(!doctype html|html)",
        Message("a web page, most often one to sign in. Download the file while signed in"),
    ),
    ("parquet", rb"PAR1", Message("Parquet. End its name in .parquet")),
    ("", rb"%PDF-", Message("a PDF. Export the table itself")),
)
#: What spreadsheets write where a formula failed.
_WRONG_CELLS = ("#N/A", "#DIV/0!", "#VALUE!", "#NAME?", "#NUM!", "#REF!", "#NULL!", "#SPILL!", "#GETTING_DATA")
#: Excel writes the sign that parts the columns into a line of its own.
_SEPARATOR = re.compile(r"sep=(.)\s*", re.IGNORECASE)
_GZIP_MAGIC = b"\x1f\x8b"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_PARQUET_ROWS = 1000
_JSON_READ = 1 << 18
_UUID_BYTES = 16
#: Characters of a row, be it a line, the cells of CSV, or an object of an array: more are never in memory together. A
#: document of five million characters fits.
LONGEST_ROW = 1 << 23
#: Lists and objects in a row: each takes many times the memory that it takes in the file.
_MOST_PARTS = 500_000
_LINE, _VALUE = Message("line"), Message("value")
_MOST_COLUMNS = 10_000
#: Columns that a message names, and characters of each.
_SHOWN_COLUMNS, _SHOWN_CHARS = 30, 60
#: What a blank line counts for among the characters of a row: to pass it over takes time, too.
_BLANK_LINE = 64
#: A file in which not one of so many rows can be read is not gone through to its end.
HOPELESS = 100_000
#: Bytes of a page of each column of a Parquet file, unpacked, and of the texts that are read at a time.
_LONGEST_PAGE, _PARQUET_BYTES = 40 << 20, 1 << 25
#: Bytes of a workbook, unpacked: a minute, or so many times the file's own, as texts unpack to five to ten times.
_WORKBOOK_BYTES, _WORKBOOK_TIMES, _MOST_WORKBOOK_BYTES = 1 << 26, 20, 1 << 30
#: What a sheet's XML has where a cell is a formula, and where cells are merged.
_FORMULA = re.compile(rb"<(?:\w+:)?f[\s>]")
_MERGED = re.compile(
    rb"""<(?:\w+:)?mergeCell\s[^<>]*?\bref\s*=\s*["']([A-Z]{1,3})([0-9]{1,7}):([A-Z]{1,3})([0-9]{1,7})["']"""
)
#: Each line that is not there is counted up to the next one, and no spreadsheet has more.
_LAST_LINE = 1 << 20
#: How many there may be, and in how many columns of a row.
_MOST_MERGED, _MOST_REACHING, _PIECE = 100_000, 1000, 1 << 20
#: Nothing but a trap for whoever unpacks it becomes so many times larger, once it is that large.
_MOST_UNPACKED, _UNPACKED_BYTES = 500, 1 << 28
#: What reading a damaged gzip-compressed file raises.
DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile)


@dataclass(frozen=True, slots=True)
class Record:
    """A row as the file gives it: its column names and cells, or the reason why there are none.

    `line` is where it starts, from 1; in Parquet files and JSON arrays, which need no lines, it is the row's number.
    The names may come alone, before the first row. `left_out` alone names something of the file that was not read.
    """

    line: int
    names: tuple[str, ...] = ()
    cells: Sequence[Any] = ()
    reason: str = ""
    left_out: str = ""


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
            Message(
                "The name {name!r} does not tell the format of the file. {advice}End the name in {endings}.",
                name=path.name,
                advice=advice,
                endings=endings,
            )
        )
    return found


def shown_columns(names: Sequence[str]) -> str:
    """Return the names of a file's columns for a message: the first ones, shortened, on one line."""
    some = [name if name.isprintable() else repr(name)[1:-1] for name in names[:_SHOWN_COLUMNS]]
    shown = [name if len(name) <= _SHOWN_CHARS else f"{name[:_SHOWN_CHARS]}…" for name in some]
    return ", ".join(shown + ["…"] * (len(names) > len(some))) or "none"


def open_stream(path: Path, stack: ExitStack, *, text: bool) -> tuple[IO[bytes], IO[bytes]]:
    """Return the file as it lies there and, where it is gzip-compressed, what is in it; `stack` closes both.

    Raises:
        ImportFileError: it cannot be read, is a pipe, or is a `text` in UTF-16.
    """
    try:
        # To open a pipe waits for somebody who writes to it.
        if is_special(path):
            raise ImportFileError(
                Message("{path!r} is a pipe or a device. Save it to a file first, and import that.", path=str(path))
            )
        file = stack.enter_context(path.open("rb"))
    except IsADirectoryError:
        raise ImportFileError(
            Message("{path!r} is a folder. Import the files in it one by one.", path=str(path))
        ) from None
    except OSError as error:
        raise ImportFileError(
            Message(
                "The file {path!r} cannot be read: {strerror}. Check its name.", path=str(path), strerror=error.strerror
            )
        ) from error
    start = file.read(2)
    file.seek(0)
    if start in _UTF16_MARKS and text:
        raise ImportFileError(
            Message("The file {path!r} is in UTF-16. Save it as UTF-8 and try again.", path=str(path))
        )
    if start == _GZIP_MAGIC:
        return file, cast(IO[bytes], stack.enter_context(_Unpacked(file)))
    return file, file


class _Unpacked(gzip.GzipFile):
    """Content of a gzip-compressed file, as long as it is not absurdly more than the file."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(fileobj=file)
        self._most = max(_UNPACKED_BYTES, _MOST_UNPACKED * os.fstat(file.fileno()).st_size)

    def read(self, size: int | None = -1) -> bytes:
        return self._counted(super().read(size))

    def read1(self, size: int = -1) -> bytes:
        return self._counted(super().read1(size))

    def readline(self, size: int | None = -1) -> bytes:
        return self._counted(super().readline(size))

    def _counted(self, data: bytes) -> bytes:
        if self.tell() > self._most:
            raise _unpacks_to(self._most)
        return data


def _unpacks_to(size: int) -> ImportFileError:
    return ImportFileError(
        Message(
            "The file unpacks to more than {size:,} bytes, {most_unpacked} times its size. Unpack it "
            "yourself, and look what is in it.",
            size=size,
            most_unpacked=_MOST_UNPACKED,
        )
    )


def too_long(what: str) -> ImportFileError:
    """Return the error about a row that is longer than memory should be asked for."""
    return ImportFileError(
        Message(
            "{what} has more than {longest_row:,} characters. Nothing of the file was used; split "
            "it, or look whether a quotation mark or the end of a line is missing.",
            what=what,
            longest_row=LONGEST_ROW,
        )
    )


def hopeless(path: Path, reason: str) -> str:
    """Say that nothing of a file can be read, with the reason of the last row."""
    return (
        f"Not one of the first {HOPELESS:,} rows of {str(path)!r} can be read, the last because {clause(reason)}. "
        "Nothing of the file was used; look whether it is the right one."
    )


def refuse_other_kinds(path: Path, start: bytes, *, but: str) -> None:
    """Refuse what is often taken for a file of rows, by what it begins with, unless its rows are held that way.

    Raises:
        ImportFileError: it is an archive, a page, a pointer or the like.
    """
    for kind, begins, is_one in _OTHER_KINDS:
        if kind != but and re.match(begins, start):
            raise ImportFileError(
                Message("The file {file!r} is {is_one}, and try again.", file=str(path), is_one=is_one)
            )


def refuse_doubled(names: Sequence[str], used: Iterable[int]) -> None:
    """Refuse a table in which another column has the name of one that is used: nobody knows which one is meant.

    Raises:
        ImportFileError: there is one.
    """
    for name in (names[place] for place in used):
        if names.count(name) > 1:
            raise ImportFileError(
                Message(
                    "Two columns have the name {name!r}. Rename the one that is not meant, or take it out.", name=name
                )
            )


def read_records(path: Path, stream: IO[bytes], *, format: str) -> Iterator[Record]:
    """Read the rows of an open file that is csv, jsonl, json, parquet or xlsx, as they are; `path` is for messages.

    Raises:
        ImportFileError: the file is damaged or of another format.
    """
    readers: dict[str, Callable[[IO[bytes]], Iterator[Record]]]
    readers = {
        "csv": _csv_records,
        "jsonl": _jsonl_records,
        "json": _json_records,
        "parquet": _parquet_records,
        "xlsx": _workbook_records,
    }
    try:
        yield from readers[format](stream)
    except _unreadable() as error:
        raise ImportFileError(
            Message(
                "The file {file!r} is damaged or of another format: {reason}. {advice}",
                file=str(path),
                reason=clause(error),
                advice=Message("Make it anew, or give --format."),
            )
        ) from error


def _unreadable() -> tuple[type[Exception], ...]:
    """Return what is raised for a damaged file; what Arrow raises, too, where it has been loaded to read one."""
    arrow = sys.modules.get("pyarrow")
    return (*DAMAGED, OSError) if arrow is None else (*DAMAGED, OSError, arrow.ArrowException)


def parquet_libraries() -> tuple[ModuleType, ModuleType]:
    """Return Arrow, and what reads and writes Parquet.

    Raises:
        ImportFileError: they are not installed.
    """
    try:
        return require("pyarrow", "index"), require("pyarrow.parquet", "index")
    except MissingExtraError as error:
        raise ImportFileError(f"Parquet cannot be read or written here. {error}") from error


def _csv_records(stream: IO[bytes]) -> Iterator[Record]:
    # Answers run to more than the 131,072 characters that Python allows a cell; the limit is one for the process.
    csv.field_size_limit(2 * LONGEST_ROW)
    # Bytes that are not UTF-8 come through as surrogates, so that the row they are in can be named.
    with io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
        line = since = 1
        row_chars = 0

        def lines() -> Iterator[str]:
            nonlocal row_chars
            while part := text.readline(LONGEST_ROW + 1):
                row_chars += len(part)
                if row_chars > LONGEST_ROW:
                    raise too_long(Message("The row that begins on line {line}", line=since))
                yield part

        every = lines()
        header = next(every, "")
        separator = _SEPARATOR.fullmatch(header)
        skipped = 1 if separator else 0
        header = next(every, "") if separator else header
        while header and not header.strip(",;\t \r\n"):
            header, skipped = next(every, ""), skipped + 1
        delimiter = separator[1] if separator else max(",;\t", key=re.sub('"[^"]*"', "", header).count)
        if header.count(delimiter) >= _MOST_COLUMNS:
            raise ImportFileError(
                Message(
                    "The first line has more than {most_columns:,} columns. Leave some of them out.",
                    most_columns=_MOST_COLUMNS,
                )
            )
        reader = csv.reader(itertools.chain([header], every), delimiter=delimiter, strict=True)
        names: tuple[str, ...] = ()
        cells: list[str] | None = None
        while True:
            line = reader.line_num + 1 + skipped
            if cells != []:
                since, row_chars = line, 0
            else:
                row_chars += _BLANK_LINE
            try:
                cells = next(reader, None)
            except csv.Error as error:
                if (last := reader.line_num + skipped) > line:
                    # A quote that is not closed where it should be: which of these lines are rows, nobody can tell.
                    raise ImportFileError(
                        Message(
                            "A quote that opens in the row on line {line} is not closed before line {last} ({error}), "
                            "so what is between them cannot be told apart. Close it, double each quote inside a cell, "
                            "and give the file again.",
                            line=line,
                            last=last,
                            error=str(error),
                        )
                    ) from error
                yield Record(line, reason=Message("the CSV is malformed: {error}", error=str(error)))
                cells = None
                continue
            if cells is None:
                break
            if not names and cells:
                names = tuple(cells)
                yield Record(line, names)
            elif cells and len(cells) != len(names):
                yield Record(
                    line,
                    reason=Message("the row has {n} columns, the header has {header}", n=len(cells), header=len(names)),
                )
            elif cells:  # a blank line has none
                yield Record(line, names, cells)
    if not names:
        raise ImportFileError(Message("The file is empty. Its first line must name the columns."))


def _jsonl_records(stream: IO[bytes]) -> Iterator[Record]:
    blanks = 0
    for line in itertools.count(1):
        # A character may have four bytes, and two more as an escape; most have one.
        raw = stream.readline(2 * LONGEST_ROW + 1)
        if not raw:
            return
        if len(raw) > 2 * LONGEST_ROW:
            raise too_long(Message("Line {line}", line=line))
        if raw.count(b"[") + raw.count(b"{") > _MOST_PARTS:
            yield Record(line, reason=Message("the line has more than {most:,} lists and objects", most=_MOST_PARTS))
            continue
        raw = raw.removeprefix(b"\xef\xbb\xbf") if line == 1 else raw
        if not raw.strip():
            blanks += len(raw) + _BLANK_LINE
            if blanks > LONGEST_ROW:
                raise too_long(Message("What is blank before line {line}", line=line + 1))
            continue
        blanks = 0
        try:
            value = json.loads(raw.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_each_once)
        except UnicodeDecodeError as error:
            yield Record(line, reason=Message("byte {place} of the line is not UTF-8", place=error.start + 1))
        except (ValueError, RecursionError) as error:
            yield Record(line, reason=Message("the line is not JSON: {error}", error=str(error)))
        else:
            yield _object(line, value, what=_LINE)


def _json_records(stream: IO[bytes]) -> Iterator[Record]:
    """Give the objects of an array, of the array "data" in an object (as APIs give pages), or the only object."""
    with io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
        row = 0
        try:
            for row, value in enumerate(_JsonArray(text), start=1):
                yield _object(row, value, what=_VALUE)
        except (ValueError, RecursionError) as error:
            raise ImportFileError(
                Message(
                    "After object {row} the file is not JSON: {error}. Make it anew, or end its name in "
                    ".jsonl if each line is an object.",
                    row=row,
                    error=str(error),
                )
            ) from error


class _JsonArray:
    """A reader of an array's values one by one, so that memory does not depend on the file's length."""

    _BLANKS = re.compile(r"[ \t\r\n]*")
    _START = re.compile(r'\s*(?:\{\s*"data"\s*:\s*)?\[')

    def __init__(self, text: IO[str]) -> None:
        self._text = text
        self._buffer = text.read(_JSON_READ)
        self._decoder = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_each_once)
        self._place = 0

    def __iter__(self) -> Iterator[Any]:
        """Give the values; one that stands alone counts as an array of it.

        Raises:
            ValueError: it is not JSON.
        """
        start = self._START.match(self._buffer)
        if not start:
            yield self._value("it is empty")
            if self._character():
                raise ValueError("more follows the first value")
            return
        self._place = start.end()
        first = True
        while (character := self._character()) != "]":
            if not first and character:
                if character != ",":
                    raise ValueError(f"{character!r} where a comma should be")
                self._place += 1
            yield self._value("it ends too early")
            first = False

    def _character(self) -> str:
        """Return the next one that is not white space, an empty text at the end."""
        blanks = -LONGEST_ROW
        while blanks <= 0:
            self._place = cast(re.Match[str], self._BLANKS.match(self._buffer, self._place)).end()
            if self._place < len(self._buffer):
                return self._buffer[self._place]
            blanks += len(self._buffer)
            if not self._read_more():
                return ""
        raise ValueError(f"more than {LONGEST_ROW:,} blank characters follow each other")

    def _value(self, otherwise: str) -> Any:
        if not self._character():
            raise ValueError(otherwise)
        while True:
            try:
                value, self._place = self._decoder.raw_decode(self._buffer, self._place)
                return value
            except json.JSONDecodeError as error:
                if len(self._buffer) - self._place > LONGEST_ROW:
                    raise ValueError(f"it has more than {LONGEST_ROW:,} characters") from error
                if sum(self._buffer.count(sign, self._place) for sign in "[{") > _MOST_PARTS:
                    raise ValueError(f"it has more than {_MOST_PARTS:,} lists and objects") from error
                if not self._read_more():
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
    return Record(line, reason=Message("the {what} is not a JSON object: {value}", what=what, value=str(value)[:60]))


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        name = next(name for place, (name, _) in enumerate(pairs) if name in dict(pairs[:place]))
        raise ValueError(f"an object has the name {name[:60]!r} twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not allowed")


def _parquet_records(stream: IO[bytes]) -> Iterator[Record]:
    pa, pq = parquet_libraries()
    with ExitStack() as stack:
        if isinstance(stream, gzip.GzipFile):  # Parquet is read from its end
            unpacked = stack.enter_context(tempfile.TemporaryFile())
            shutil.copyfileobj(stream, unpacked)
            stream = unpacked
        file = stack.enter_context(pq.ParquetFile(stream, buffer_size=1 << 20))
        names = tuple(file.schema_arrow.names)
        yield Record(1, names)
        row = unpacked = 0
        most = max(_UNPACKED_BYTES, _MOST_UNPACKED * os.fstat(stream.fileno()).st_size)
        for group in range(file.num_row_groups):
            rows = max(1, min(_PARQUET_ROWS, _PARQUET_BYTES // _longest_row(stream, file.metadata.row_group(group))))
            for batch in file.iter_batches(batch_size=rows, row_groups=[group]):
                for cells in zip(*(_python_values(column, pa) for column in batch.columns), strict=True):
                    row += 1
                    sizes = [len(cell) for cell in cells if isinstance(cell, str | bytes | list)]
                    if max(sizes, default=0) > LONGEST_ROW:
                        raise too_long(Message("A cell of row {row}", row=row))
                    unpacked += sum(sizes)
                    if unpacked > most:
                        raise _unpacks_to(most)
                    yield Record(row, names, cells)


def _workbook_records(stream: IO[bytes]) -> Iterator[Record]:
    """Give the rows of the first visible sheet that has any, and the names of the others that do."""
    # The one that reads row by row: others unfold a sheet into memory up to its last cell, be it the 17th billionth.
    from openpyxl.reader.excel import ExcelReader

    with ExitStack() as stack:
        try:
            archive = stack.enter_context(zipfile.ZipFile(stream))
            most = min(max(_WORKBOOK_BYTES, _WORKBOOK_TIMES * stream.seek(0, os.SEEK_END)), _MOST_WORKBOOK_BYTES)
            if (size := sum(part.file_size for part in archive.infolist())) > most:
                raise ImportFileError(
                    Message(
                        "The workbook has {size:,} bytes unpacked, and at most {most:,} are read. Save it as CSV.",
                        size=size,
                        most=most,
                    )
                )
            reader = _opened(stack, ExcelReader(stream, read_only=True, data_only=True))
            parts = {sheet.name: part.target for sheet, part in reader.parser.find_sheets()}
            any_rows = False
            for place, sheet in enumerate(reader.wb.worksheets):
                if sheet.sheet_state != "visible":
                    continue
                if any_rows:
                    if any(cell not in (None, "") for cells in sheet.iter_rows(values_only=True) for cell in cells):
                        yield Record(1, left_out=f"sheet {sheet.title!r}")
                    continue
                with archive.open(parts[sheet.title]) as part:
                    formulas, merged = _looked_through(part)
                sheets = [sheet]
                if formulas:
                    sheets.append(_opened(stack, ExcelReader(stream, read_only=True)).wb.worksheets[place])
                records = _sheet_records(sheets, merged)
                if first := next(records, None):
                    any_rows = True
                    yield first
                    yield from records
            if any_rows:
                return
        except ImportFileError:
            raise
        except Exception as error:  # the library has no class of its own for a damaged file
            raise ImportFileError(
                Message(
                    "The workbook cannot be read: {reason}. Save it anew, without a password, or as CSV.",
                    reason=clause(error),
                )
            ) from error
    raise ImportFileError(Message("The workbook is empty. The first line of its first sheet must name the columns."))


def _opened(stack: ExitStack, reader: Any) -> Any:
    reader.read()
    stack.callback(reader.wb.close)
    for sheet in reader.wb.worksheets:
        # Else each row, also one that is not there, is filled up to the last column that the file speaks of.
        sheet.reset_dimensions()
    return reader


def _sheet_records(sheets: Sequence[Any], merged: Sequence[_Area]) -> Iterator[Record]:
    """Give the rows of a sheet, as they are shown and, if that is not all the same, as they are written."""
    names: tuple[str, ...] = ()
    header = header_end = 0
    every = (_filled(sheet.iter_rows(values_only=True), merged) for sheet in sheets)
    for line, (cells, *formulas) in enumerate(zip(*every, strict=True), 1):
        written = formulas[0] if formulas else cells
        if line > _LAST_LINE:
            raise ImportFileError(
                Message(
                    "The sheet has rows after line {last_line:,}, the last of any. Save it as CSV.",
                    last_line=_LAST_LINE,
                )
            )
        if all(cell in (None, "") for cell in written):
            continue
        if not names:
            # What has no name at the end is a column that was emptied.
            wide = max((end for end, cell in enumerate(cells, 1) if cell not in (None, "")), default=0)
            if not wide:
                raise ImportFileError(
                    Message(
                        "The names of the columns in line {line} are formulas without a value. Open the file in "
                        "a spreadsheet, and save it there.",
                        line=line,
                    )
                )
            found = ["" if cell is None else str(cell).strip() for cell in cells[:wide]]
            for area in merged:
                if area.top == line and area.left <= wide:
                    # A name that reaches over several columns is that of each.
                    found[area.left - 1 : area.right] = [found[area.left - 1]] * (area.right - area.left + 1)
                    header_end = max(header_end, area.bottom)
            header, names = line, tuple(found)
            yield Record(line, names)
        elif line <= header_end:
            raise ImportFileError(
                Message(
                    "The names of the columns reach over lines {header} to {header_end}, as cells of them "
                    "are merged. Write them into one line, each into a cell of its own.",
                    header=header,
                    header_end=header_end,
                )
            )
        elif reason := _without_value(cells, written):
            yield Record(line, reason=reason)
        else:
            # Rows may end with their last cell.
            there = [_as_in_csv(cell) for cell in cells[: len(names)]]
            yield Record(line, names, there + [None] * (len(names) - len(there)))


class _Area(NamedTuple):
    """Cells that are merged, from the first to the last row and column."""

    top: int
    left: int
    bottom: int
    right: int


def _looked_through(part: IO[bytes]) -> tuple[bool, list[_Area]]:
    """Tell whether a sheet has formulas, and find its merged cells in order: what the library does not tell."""
    from openpyxl.utils.cell import column_index_from_string

    formulas, found, rest = False, list[_Area](), b""
    while piece := part.read(_PIECE):
        # What begins in one piece and ends in the next is looked at with that one.
        piece = rest + piece
        end = piece.rfind(b"<")
        formulas = formulas or bool(_FORMULA.search(piece))
        for area in _MERGED.finditer(piece, 0, end):
            if len(found) == _MOST_MERGED:
                raise ImportFileError(
                    Message(
                        "The sheet has more than {most_merged:,} merged cells. Save it as CSV.",
                        most_merged=_MOST_MERGED,
                    )
                )
            left, top, right, bottom = area.groups()
            columns = [column_index_from_string(column.decode()) for column in (left, right)]
            found.append(_Area(int(top), columns[0], int(bottom), columns[1]))
        rest = piece[end:]
    return formulas, sorted(found)


def _filled(rows: Iterable[Sequence[Any]], merged: Sequence[_Area]) -> Iterator[Sequence[Any]]:
    """Give each row what merged cells say that reach into it, as whoever looks at the sheet reads them.

    Of several columns it is in the first; what is beneath is not shown and counts for nothing. A row that has nothing
    else stays empty.
    """
    reaching: dict[_Area, Any] = {}
    begun = 0
    for line, cells in enumerate(rows, 1):
        if reaching:
            reaching = {area: value for area, value in reaching.items() if area.bottom >= line}
        while begun < len(merged) and merged[begun].top <= line:
            area, begun = merged[begun], begun + 1
            reaching[area] = cells[area.left - 1] if area.left <= len(cells) else None
            if sum(area.right - area.left + 1 for area in reaching) > _MOST_REACHING:
                raise ImportFileError(
                    Message("Line {line} has merged cells over too many columns. Save it as CSV.", line=line)
                )
        if reaching and any(cell not in (None, "") for cell in cells):
            filled = list(cells)
            for area, value in reaching.items():
                filled += [None] * (area.left - len(filled))
                filled[area.left - 1 : area.right] = [value, *[None] * (min(area.right, len(filled)) - area.left)]
            cells = filled
        yield cells


def _without_value(cells: Sequence[Any], written: Sequence[Any]) -> str:
    """Return what is wrong with a row of which a cell is an error, or a formula that nobody has computed."""
    for cell, formula in zip(cells, written, strict=True):
        if cell is None and formula is not None:
            return "a formula of the row has no value; open the file in a spreadsheet, and save it there"
        if isinstance(cell, str) and cell in _WRONG_CELLS:
            return f"a cell of the row is {cell}"
    return ""


def _as_in_csv(cell: Any) -> Any:
    """Return whole numbers without a point and truths as words, as CSV would have them."""
    if isinstance(cell, bool):
        return str(cell).lower()
    return int(cell) if isinstance(cell, float) and cell.is_integer() else cell


def _longest_row(stream: IO[bytes], group: Any) -> int:
    """Return how many bytes a row of a row group may have of values that are many times in it and once in the file.

    Raises:
        ImportFileError: a page of it is too large to be unpacked.
    """
    row, room = 1, _LONGEST_PAGE
    for number in range(group.num_columns):
        column = group.column(number)
        pages = list(_page_bytes(stream, column))
        largest = max(pages, default=0)
        room -= largest
        if room < 0:
            raise ImportFileError(
                Message(
                    "The column {path_in_schema!r} has a page of {largest:,} bytes; those of all columns may "
                    "have {longest_page:,}. Shorten the texts, or write smaller pages (PyArrow: "
                    "write_batch_size=10).",
                    path_in_schema=column.path_in_schema,
                    largest=largest,
                    longest_page=_LONGEST_PAGE,
                )
            )
        if "DELTA_BYTE_ARRAY" in column.encodings:  # a value repeats what the one before begins with
            row += largest
        elif column.has_dictionary_page and pages:
            row += pages[0]
    return row


def _page_bytes(stream: IO[bytes], column: Any) -> Iterator[int]:
    """Yield the size of each page of a column, unpacked, from the headers, which PyArrow does not show.

    They are structures of Thrift's compact protocol, in which the sizes come second and third:
    https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
    """
    at = column.dictionary_page_offset if column.has_dictionary_page else None
    at = column.data_page_offset if at is None else min(at, column.data_page_offset)
    end = at + column.total_compressed_size
    while at < end:
        stream.seek(at)
        header = _ThriftReader(stream.read(_LONGEST_HEADER))
        try:
            fields = header.struct()
            unpacked, packed = fields[2], fields[3]
        except (KeyError, RecursionError):
            raise EOFError("a page's header cannot be read") from None
        yield unpacked
        at += header.place + max(0, packed)


#: Bytes of a page's header at most: the smallest and largest value of the page are in it.
_LONGEST_HEADER = 1 << 16


class _ThriftReader:
    """A reader of a structure in Thrift's compact protocol; of its fields only the numbers are kept."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.place = 0

    def struct(self) -> dict[int, int]:
        found: dict[int, int] = {}
        field = 0
        while head := self._byte():
            field = field + (head >> 4) if head >> 4 else self._number()
            value = self._value(head & 15)
            if value is not None:
                found[field] = value
        return found

    def _value(self, kind: int) -> int | None:
        if kind in (4, 5, 6):
            return self._number()
        if kind == 3:
            self.place += 1
        elif kind == 7:
            self.place += 8
        elif kind == 8:
            length = self._varint()
            self.place += length
        elif kind in (9, 10):
            head = self._byte()
            for _ in range(head >> 4 if head >> 4 < 15 else self._varint()):
                self._value(head & 15)
        elif kind == 12:
            self.struct()
        elif kind not in (1, 2):
            raise EOFError("a page's header cannot be read")
        return None

    def _number(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def _varint(self) -> int:
        value = shift = 0
        while (byte := self._byte()) & 0x80:
            value |= (byte & 0x7F) << shift
            shift += 7
        return value | byte << shift

    def _byte(self) -> int:
        if self.place >= len(self._data):
            raise EOFError("a page's header cannot be read")
        self.place += 1
        return self._data[self.place - 1]


def _python_values(column: Any, pa: Any) -> list[Any]:
    if pa.types.is_timestamp(column.type) and column.type.unit == "ns":  # Python's own times end at the microsecond
        column = column.cast(pa.timestamp("us", tz=column.type.tz), safe=False)
    if pa.types.is_fixed_size_binary(column.type) and column.type.byte_width == _UUID_BYTES:
        values = column.to_pylist()
        # Texts may have sixteen bytes, too; those of a UUID are hardly ever a text, and never in a whole column.
        if not all(value is None or _is_text(value) for value in values):
            return [None if value is None else str(UUID(bytes=value)) for value in values]
    return [_as_in_json(value) for value in column.to_pylist()]


def _is_text(value: bytes) -> bool:
    try:
        return all(sign.isprintable() or sign.isspace() for sign in value.decode())
    except UnicodeDecodeError:
        return False


def _as_in_json(value: Any) -> Any:
    """Return a value of a Parquet file as JSON would have it, times apart: decimals, UUIDs and texts in bytes."""
    if isinstance(value, str | int | float | datetime) or value is None:
        return value
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, bytes):
        # As some databases write their texts; what is none is refused where a text is expected.
        with suppress(UnicodeDecodeError):
            return value.decode()
    if isinstance(value, list | tuple):
        return [_as_in_json(each) for each in value]
    if isinstance(value, dict):
        return {name: _as_in_json(each) for name, each in value.items()}
    return value
