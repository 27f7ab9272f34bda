"""A row, a cell and a page have a limit before they are in memory."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlhf_loop.errors import DocumentError, ImportFileError
from rlhf_loop.exchange import transfer
from rlhf_loop.exchange.transfer import InvalidRowsError, import_ratings
from rlhf_loop.sources.index import documents, indexing
from rlhf_loop.store.engine import make_engine
from rlhf_loop.utils import rows
from rlhf_loop.utils.rows import Record, open_stream, read_records


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that a small file reaches."""
    for name, value in {
        "LONGEST_ROW": 5000,
        "_MOST_PARTS": 50,
        "_MOST_COLUMNS": 20,
        "_UNPACKED_BYTES": 200_000,
        "_LONGEST_PAGE": 20_000,
        "_PARQUET_BYTES": 20_000,
    }.items():
        monkeypatch.setattr(rows, name, value)


class Endless(io.RawIOBase):
    """A file that begins somehow and has no end."""

    def __init__(self, head: bytes, filler: bytes) -> None:
        self._rest = head
        self._filler = filler

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while len(self._rest) < len(buffer):
            self._rest += self._filler * 1000
        buffer[:] = self._rest[: len(buffer)]
        self._rest = self._rest[len(buffer) :]
        return len(buffer)


@pytest.mark.parametrize(
    ("format", "head", "filler", "message"),
    [
        ("jsonl", b"", b"\0", r"^Line 1 has more than 5,000 characters"),
        ("jsonl", b'{"a": 1}\n{"a": "', b"a", r"^Line 2 has more"),
        ("csv", b"", b"a", r"^The row that begins on line 1 has more"),
        ("csv", b"a,b\n1,2\n3,", b"4", r"^The row that begins on line 3 has more"),
        ("csv", b'a,b\n1,"', b"a\n", r"^The row that begins on line 2 has more"),
        ("csv", b"a,b\n", b'1,"\n",', r"^The row that begins on line 2 has more"),
        ("csv", b"a," * 20 + b"a\n", b"1\n", r"^The first line has more than 20 columns"),
        ("json", b'[{"a": "', b"a", r"After object 0 the file is not JSON: it has more than 5,000 characters"),
        ("json", b'[{"a": 1}, {"a": ', b"{},", r"After object 1 .*more than"),
        ("jsonl", b'{"a": 1}\n', b"\n", r"^What is blank before line 79 has more than 5,000 characters"),
        ("jsonl", b'{"a": 1}\n', b"   \n", r"^What is blank before line 76 has more"),
        ("csv", b"a,b\n1,2\n", b"\n", r"^The row that begins on line 3 has more"),
        ("csv", b"", b"\n", r"^The row that begins on line 1 has more"),
        ("json", b'[{"a": 1}', b" ", r"After object 1 the file is not JSON: more than 5,000 blank characters"),
    ],
)
def test_what_has_no_end_is_not_read_to_its_end(format: str, head: bytes, filler: bytes, message: str) -> None:
    """The error comes with the limit, and says where the row begins."""
    stream = cast(IO[bytes], io.BufferedReader(Endless(head, filler)))
    with pytest.raises(ImportFileError, match=message):
        list(read_records(Path("x"), stream, format=format))


def read(path: Path, *, format: str) -> list[Record]:
    with ExitStack() as stack:
        _, stream = open_stream(path, stack, text=format != "parquet")
        return [record for record in read_records(path, stream, format=format) if record.cells or record.reason]


def test_what_is_packed_too_well_is_not_unpacked(tmp_path: Path) -> None:
    """A compressed file that is hundreds of times larger inside is refused; one that is just repetitive is read."""
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress((b'{"a": "' + b"a" * 4000 + b'"}\n') * 1000))
    with pytest.raises(ImportFileError, match=r"unpacks to more than [\d,]+ bytes, 500 times its size"):
        read(path, format="jsonl")
    path.write_bytes(gzip.compress(b'{"a": 1}\n' * 10_000))
    assert len(read(path, format="jsonl")) == 10_000


def test_many_lists_in_a_line_are_one_invalid_row(tmp_path: Path) -> None:
    """Each takes much more memory than its two characters; the other lines are read."""
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": [' + b"[]," * 60 + b'[]]}\n{"a": 1}\n')
    assert [record.reason for record in read(path, format="jsonl")] == [
        "the line has more than 50 lists and objects",
        "",
    ]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "zstd", "data_page_version": "2.0"},
        {"use_dictionary": False, "write_page_checksum": True, "compression": "gzip"},
        {"use_dictionary": False, "column_encoding": {"a": "DELTA_BYTE_ARRAY"}, "write_page_index": True},
        {"row_group_size": 70, "data_page_size": 100, "write_batch_size": 10},
    ],
    ids=["plain", "v2", "gzip", "delta", "groups"],
)
def test_pages_of_parquet_are_measured(tmp_path: Path, options: dict[str, Any]) -> None:
    """However the file is written: all rows are read, and a page that is too large is refused before it is unpacked."""
    path = tmp_path / "x.parquet"
    texts = [["one", "two", None, "three" * 3][number % 4] for number in range(200)]
    table = pa.table({"a": texts, "b": range(200), "c": [[{"role": "user", "content": text}] for text in texts]})
    pq.write_table(table, path, **options)
    found = read(path, format="parquet")
    assert [record.cells[:2] for record in found] == list(zip(texts, range(200), strict=True))
    pq.write_table(pa.table({"a": ["x", "long" * 10_000, "y"]}), path, **options)
    with pytest.raises(ImportFileError, match=r"The column 'a' has a page of 40,0\d\d bytes; those of all columns"):
        read(path, format="parquet")
    pq.write_table(pa.table({"a": ["x", "long" * 2000, "y"]}), path, **options)
    with pytest.raises(ImportFileError, match="A cell of row 2 has more than 5,000 characters"):
        read(path, format="parquet")


def test_a_text_that_is_once_in_the_file_and_many_times_in_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many rows are read at a time as have room with the longest text of all."""
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"a": ["long" * 1000] * 30}), path)
    asked: list[int] = []
    iter_batches = pq.ParquetFile.iter_batches

    def noted(file: Any, batch_size: int, **options: Any) -> Any:
        asked.append(batch_size)
        return iter_batches(file, batch_size, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", noted)
    assert len(read(path, format="parquet")) == 30
    assert asked == [4]
    pq.write_table(pa.table({"a": ["long" * 1000] * 1000}), path)
    monkeypatch.setattr(rows, "_MOST_UNPACKED", 10)
    with pytest.raises(ImportFileError, match="unpacks to more than"):
        read(path, format="parquet")


def test_a_parquet_file_with_a_damaged_page_is_damaged(tmp_path: Path) -> None:
    """What cannot be measured is not read."""
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"a": ["x"]}), path, use_dictionary=False)
    for damage in (b"\x1b" * 20, b"\x1c" * 20, b"\x15\x80" + b"\xff" * 18):
        path.write_bytes(b"PAR1" + damage + path.read_bytes()[24:])
        with pytest.raises(ImportFileError, match="is damaged or of another format"):
            read(path, format="parquet")
    path.write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    with pytest.raises(ImportFileError, match="is damaged or of another format"):
        read(path, format="parquet")


def test_blank_lines_between_rows_are_passed_over(tmp_path: Path) -> None:
    """Also where all of them together are more than may follow each other."""
    path = tmp_path / "x.csv"
    path.write_text("a,b\n" + ("\n" * 50 + "1,2\n") * 9)
    assert [record.line for record in read(path, format="csv")] == [52 + 51 * number for number in range(9)]
    path.write_text(("\n" * 50 + '{"a": 1}\n') * 9)
    assert len(read(path, format="jsonl")) == 9
    path.write_text("[" + (" " * 3000 + '{"a": 1},') * 9 + " " * 3000 + '{"a": 1}]')
    assert len(read(path, format="json")) == 10


@pytest.mark.parametrize("skip", [False, True])
def test_a_file_in_which_nothing_is_right_is_not_gone_through(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skip: bool
) -> None:
    """One row that can be read is enough to be read to the end."""
    for module in (rows, transfer, indexing):
        monkeypatch.setattr(module, "HOPELESS", 20)
    path = tmp_path / "x.jsonl"
    path.write_text("[]\n" * 30)
    engine = make_engine(database_url)
    with pytest.raises(ImportFileError, match=r"first 20 rows of .* the last because the line"):
        import_ratings(engine, path, skip_invalid=skip)
    with pytest.raises(DocumentError, match="Not one of the first 20 rows"):
        indexing.check_files([path], skip_invalid=skip)
    path.write_text('{"user_prompt": "q", "ai_response": "a", "text": "a"}\n' + "[]\n" * 30)
    if skip:
        assert import_ratings(engine, path, skip_invalid=True).invalid_count == 30
        assert indexing.check_files([path], skip_invalid=True).chars == 1
    else:
        with pytest.raises(InvalidRowsError):
            import_ratings(engine, path)
        with pytest.raises(indexing.InvalidDocumentsError, match="30 of 31"):
            indexing.check_files([path])
    engine.dispose()


def test_nothing_of_a_file_with_an_endless_row_is_stored(database_url: str, tmp_path: Path) -> None:
    """Also where invalid rows are left out."""
    path = tmp_path / "x.jsonl"
    path.write_text('{"prompt": "q", "response": "a", "rating": 4}\n' + "x" * 20_000)
    engine = make_engine(database_url)
    with pytest.raises(ImportFileError, match="Line 2 has more") as caught:
        import_ratings(engine, path, skip_invalid=True)
    assert not isinstance(caught.value, InvalidRowsError)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM rlhf_interactions").scalar() == 0
    engine.dispose()


def one_page_twice(writer: Any) -> None:
    kids = writer.root_object["/Pages"]["/Kids"]
    kids.append(kids[0])


def pages_in_a_circle(writer: Any) -> None:
    writer.root_object["/Pages"]["/Kids"].append(writer.root_object.raw_get("/Pages"))


def many_pages(writer: Any) -> None:
    for _ in range(9):
        writer.add_blank_page(9, 9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (one_page_twice, "lists a page several times"),
        (pages_in_a_circle, "lists a page several times"),
        (many_pages, "has more than 5 pages"),
    ],
)
def test_pdfs_that_are_larger_than_they_seem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], None], message: str
) -> None:
    """The pages are looked at before they are unpacked."""
    from pypdf import PdfWriter

    monkeypatch.setattr(documents, "_MOST_PAGES", 5)
    writer = PdfWriter()
    writer.add_blank_page(9, 9)
    change(writer)
    path = tmp_path / "x.pdf"
    writer.write(path)
    with pytest.raises(DocumentError, match=message):
        documents.read_pdf(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data, None),
        (lambda data: data[:-8] + b"\0" * 90_000, "is damaged, and with 11.,... bytes too large to be mended"),
        (lambda data: data.replace(b"startxref\n", b"startxref\n9"), "is damaged"),
    ],
    ids=["whole", "no end", "another end"],
)
def test_a_large_pdf_is_not_read_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[bytes], bytes], message: str | None
) -> None:
    """Where its end says where everything is, it is read from there; where not, it is not mended."""
    from pypdf import PdfWriter

    writer = PdfWriter()
    writer.add_blank_page(9, 9)
    writer.add_metadata({"/Subject": "x" * 20_000})
    path = tmp_path / "x.pdf"
    writer.write(path)
    path.write_bytes(change(path.read_bytes()))
    monkeypatch.setattr(documents, "_LONGEST_READ", 20_000)
    monkeypatch.setattr(documents, "_PDF_TAIL", 200)
    with pytest.raises(DocumentError, match=message or "has no text on its 1 page"):
        documents.read_pdf(path)
