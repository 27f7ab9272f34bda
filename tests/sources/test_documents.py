"""Files become documents: each format with its title, and a clear word on what cannot be read."""

from __future__ import annotations

import gzip
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pypdf
import pytest
from pypdf import PdfReader, PdfWriter
from pypdf.errors import DependencyError
from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

from rlhf_loop.errors import DocumentError
from rlhf_loop.sources.index import documents as prose_files
from rlhf_loop.sources.index.documents import Document, ParsedDocument, find_files

ROW = {"text": "Hold your breath.", "title": "Hiccups", "url": "https://example.org", "licence": "CC0"}


def found_in(*paths: Path, **options: Any) -> list[ParsedDocument]:
    """Everything that these paths hold."""
    return [found for file in find_files(list(paths), **options) for found in file]


def only(*paths: Path, **options: Any) -> Document:
    """The only document, which is valid."""
    (found,) = found_in(*paths, **options)
    assert found.document is not None, found.reason
    return found.document


def reason(path: Path, **options: Any) -> str:
    """Why the only thing in a file is no document."""
    (found,) = found_in(path, **options)
    assert found.document is None
    return found.reason


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def pdf(
    pages: list[str], *, title: str | None = None, password: str | None = None, algorithm: str = "RC4-128"
) -> bytes:
    """A PDF with a line of Helvetica for each line of each page."""
    writer = PdfWriter()
    font = DictionaryObject(
        {
            NameObject("/Type"): NameObject("/Font"),
            NameObject("/Subtype"): NameObject("/Type1"),
            NameObject("/BaseFont"): NameObject("/Helvetica"),
        }
    )
    for text in pages:
        page = writer.add_blank_page(400, 400)
        lines = "".join(f"({line}) Tj 0 -14 Td " for line in text.split("\n"))
        stream = DecodedStreamObject()
        stream.set_data(f"BT /F1 12 Tf 20 350 Td {lines}ET".encode("latin-1") if text else b"")
        page[NameObject("/Contents")] = writer._add_object(stream)
        fonts = DictionaryObject({NameObject("/F1"): writer._add_object(font)})
        page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
    if title:
        writer.add_metadata({"/Title": title})
    if password is not None:
        writer.encrypt(password, algorithm=algorithm)
    file = io.BytesIO()
    writer.write(file)
    return file.getvalue()


def jsonl(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("format", ["jsonl", "csv", "parquet"])
def test_tabular_files(tmp_path: Path, format: str, compressed: bool) -> None:
    """A row is a document; the source is the file's name, as it was given."""
    if format == "jsonl":
        content = jsonl(ROW).encode()
    elif format == "csv":
        content = ("Text,title,URL,licence,other\n" + ",".join(ROW.values()) + ",1\n").encode()
    else:
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist([{**ROW, "other": 1.5}]), buffer)
        content = buffer.getvalue()
    name = f"facts.{format}" + (".gz" if compressed else "")
    path = write(tmp_path / name, gzip.compress(content) if compressed else content)
    assert only(path) == Document(source=name, **ROW)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"answer": "A", "question": "Q", "link": "L"}, Document(text="A", source="f.jsonl", title="Q", url="L")),
        ({"content": "A", "heading": " two\n lines "}, Document(text="A", source="f.jsonl", title="two lines")),
        ({"body": "A", "license": "MIT"}, Document(text="A", source="f.jsonl", licence="MIT")),
        ({"passage": " A\n", "source": "not asked for", "title": None}, Document(text=" A\n", source="f.jsonl")),
    ],
)
def test_usual_names_of_columns(tmp_path: Path, row: Any, expected: Document) -> None:
    """Common names are understood; a column named source is not, as it may mean anything."""
    assert only(write(tmp_path / "f.jsonl", jsonl(row))) == expected


def test_columns_by_name(tmp_path: Path) -> None:
    """Any column may be a field, the source among them; a row without one has the file's."""
    path = write(tmp_path / "f.jsonl", jsonl({"x": "A", "text": "no", "set": "nih"}, {"x": "B", "set": ""}))
    documents = [found.document for found in found_in(path, columns={"text": "x", "source": "set"})]
    assert documents == [Document(text="A", source="nih"), Document(text="B", source="f.jsonl")]
    assert only(write(tmp_path / "g.jsonl", jsonl(ROW)), source="mine").source == "mine"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"text": "A"', "not JSON"),
        ('{"title": "A"}', "text is missing or blank"),
        ('{"text": " \\n"}', "text is missing or blank"),
        ('{"text": 5}', "text is '5', not text"),
        ('{"text": ["A"]}', "not text"),
        ('{"text": "A\\u0000B"}', "text holds a NUL character, at its character 2"),
        ('{"text": "A\\ud800B"}', "not valid Unicode at its character 2"),
        ('{"text": "A", "title": "' + "x" * 2001 + '"}', "title has 2,001 characters"),
        (b'{"text": "\xff"}', "not UTF-8"),
        ("[1]", "not a JSON object"),
    ],
)
def test_an_invalid_row_has_its_line_and_the_reason(tmp_path: Path, line: str | bytes, expected: str) -> None:
    """The rows around it are read."""
    raw = line.encode() if isinstance(line, str) else line
    found = found_in(write(tmp_path / "f.jsonl", jsonl(ROW).encode() + raw + b"\n" + jsonl(ROW).encode()))
    assert [each.document is not None for each in found] == [True, False, True]
    assert found[1].line == 2
    assert expected in found[1].reason


def test_a_huge_row_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A document that is longer than any book is a mistake, and is told so."""
    monkeypatch.setattr("rlhf_loop.sources.index.documents.MAX_CHARS", 100)
    assert "text has 101 characters; at most 100" in reason(write(tmp_path / "f.jsonl", jsonl({"text": "x" * 101})))


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", "name,other\n1,2\n", r"no column 'text'. Its columns are: name, other. .*--column text=NAME"),
        ("a.csv", "text,url,text\n1,,2\n", "Two columns have the name 'text'. Rename"),
        ("a.csv", "text,Text\n1,2\n", "Two columns have the name 'text'. Rename"),
        ("a.csv", "", "empty"),
        ("a.csv", "text\n", "has no rows"),
        ("a.jsonl", "\n\n", "has no rows"),
        ("a.parquet", b"no parquet", "damaged or of another format"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "A"}\n' * 999, mtime=0)[:40], "damaged"),
        ("a.txt", "", "empty"),
        ("a.md", " \n", "empty"),
        ("a.txt", b"\x89PNG\0\0", "NUL bytes, so it is not text"),
        ("a.txt", b"fine\nna\xefve\n", "not UTF-8 in line 2"),
        ("a.txt", "text".encode("utf-16"), "UTF-16"),
        ("a.txt.gz", gzip.compress(b"text" * 999, mtime=0)[:25], "damaged"),
        ("a.pdf", b"", "damaged"),
        ("a.pdf", b"%PDF-1.4 nothing", "damaged"),
        ("a.pdf", pdf(["text"], password="secret"), "encrypted"),
        ("a.pdf", pdf(["", ""]), r"no text on its 2 page.*scanned"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str, content: str | bytes, expected: str) -> None:
    """The reason names the file and says what to do."""
    import re

    path = write(tmp_path / name, content)
    said = [found.reason for found in found_in(path) if found.document is None][-1]
    assert re.search(expected, said)
    assert said.endswith(".")


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ("ves-\nsels", "vessels"),
        ("ves\u2010\n  sels", "vessels"),
        ("ves\u00ad\nsels", "vessels"),
        ("сосу-\nды", "сосуды"),
        ("αγγεί-\nα", "αγγεία"),
        ("ge\u0301-\nnie", "génie"),
        ("हृद-\nय", "हृदय"),
        ("a-\nb-\nc", "abc"),
        ("anti-\nDNA", "anti- DNA"),
        ("Нью-\nЙорк", "Нью- Йорк"),
        ("1990-\n1995", "1990- 1995"),
        ("word -\nword", "word - word"),
    ],
)
def test_a_word_that_a_line_breaks_is_joined(lines: str, text: str) -> None:
    """In any alphabet, but not where a name or a number begins, whose hyphen is its own."""
    assert prose_files.legible(prose_files.joined_lines(lines)) == text


def test_what_fonts_have_is_indexed_as_it_is_typed(tmp_path: Path) -> None:
    """Ligatures, soft hyphens and decomposed letters are gone from title and text, whatever the file is."""
    said = "The \ufb01rst ef\u00adfect of co\ufb00ee is o\ufb03cial: cafe\u0301 \ufedf."
    rows = json.dumps({"text": said, "title": "\ufb02u"})
    document = only(write(tmp_path / "a.jsonl", rows))
    assert (document.text, document.title) == ("The first effect of coffee is official: café ل.", "flu")
    assert only(write(tmp_path / "a.txt", said)).text == document.text
    assert "is missing or blank" in reason(write(tmp_path / "b.jsonl", '{"text": "\\u00ad"}'))


def test_a_pdf_that_aes_encrypts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that opens without a password is read, one that does not is refused, and what is missing is named."""

    def without_cryptography(file: object) -> PdfReader:
        raise DependencyError("cryptography>=3.1 is required for AES algorithm")

    with monkeypatch.context() as patch:
        patch.setattr(pypdf, "PdfReader", without_cryptography)
        patch.setitem(sys.modules, "cryptography", None)
        assert "is encrypted by AES" in (said := reason(write(tmp_path / "a.pdf", "%PDF")))
        assert "pip install 'rlhf-loop[pdf]'" in said
    pytest.importorskip("cryptography")
    assert only(write(tmp_path / "a.pdf", pdf(["Text."], password="", algorithm="AES-256"))).text.strip() == "Text."
    assert "without a password" in reason(write(tmp_path / "b.pdf", pdf(["It."], password="it", algorithm="AES-256")))


def test_a_pdf_that_asks_for_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is made of a page, and the text of all pages, are bounded; the message names the page."""
    path = write(tmp_path / "x.pdf", pdf(["short", "long\n" * 50]))
    with monkeypatch.context() as small:
        small.setattr("rlhf_loop.sources.index.documents.MAX_CHARS", 100)
        with pytest.raises(DocumentError, match="more than 100 characters up to page 2"):
            prose_files.read_pdf(path)
    monkeypatch.setitem(prose_files._PDF_LIMITS, "stream_parsing_work_maximum_count", 100)
    with pytest.raises(DocumentError, match="asks for too much memory at page 2"):
        prose_files.read_pdf(path)


def test_a_pdf(tmp_path: Path) -> None:
    """Its pages become one text, lines paragraphs, and words that were divided at a line's end whole again."""
    path = write(tmp_path / "some_paper.pdf", pdf(["The heart pumps\nblood through the ves-\nsels.", "It beats."]))
    document = only(path)
    assert document.text.split() == ["The", "heart", "pumps", "blood", "through", "the", "vessels.", "It", "beats."]
    assert "\n" not in document.text.split("vessels")[0]
    assert (document.title, document.source) == ("some paper", "some_paper.pdf")
    assert only(write(tmp_path / "b.pdf", pdf(["Text."], title="On Hearts"))).title == "On Hearts"
    assert only(write(tmp_path / "c.pdf", pdf(["Text."], password=""))).text.strip() == "Text."


def test_a_damaged_page_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the library raises while it reads a page becomes a reason with the page's number."""
    path = write(tmp_path / "a.pdf", pdf(["One.", "Two."]))
    page = type(PdfReader(path).pages[0])
    monkeypatch.setattr(page, "extract_text", lambda self: {}["/Font"])
    assert "damaged at page 1: '/Font'" in reason(path)


@pytest.mark.parametrize(
    ("content", "title", "text"),
    [
        ("# Heading #\n\nText.", "Heading", "# Heading #\n\nText."),
        ("---\ntitle: 'Front'\ntags: a\n---\n# Heading\nText.", "Front", "# Heading\nText."),
        ("---\ntags: a\n---\nText.\n\nUnder\n-----\n", "Under", "Text.\n\nUnder\n-----\n"),
        ("---\n---\nText.", "some notes", "Text."),
        ("```sh\n# no heading\n```\n## Real\n", "Real", "```sh\n# no heading\n```\n## Real\n"),
        ("\ufeffText\r\nwith Windows' line ends.", "some notes", "Text\nwith Windows' line ends."),
        ("#hashtag is none", "some notes", "#hashtag is none"),
    ],
)
def test_markdown(tmp_path: Path, content: str, title: str, text: str) -> None:
    """The title is that of the front matter, the first heading, or the file's name; front matter is not text."""
    document = only(write(tmp_path / "some_notes.md", content))
    assert (document.title, document.text) == (title, text)


def test_front_matter_takes_no_time() -> None:
    """A long file that begins like front matter and is none is read at once."""
    assert prose_files._FRONT_MATTER.match("---\n" + "a\n" * 200_000) is None


def test_folders_are_walked(tmp_path: Path) -> None:
    """Sorted, without hidden files and unknown kinds; all of it belongs to the folder's name."""
    folder = tmp_path / "handbook"
    for name in ("b.txt", "a/z.md", "a/b.jsonl", ".hidden.txt", ".git/x.txt", "picture.png", "C.TXT.GZ"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = jsonl(ROW).encode() if name.endswith("jsonl") else b"Text."
        write(path, gzip.compress(content) if name.endswith("GZ") else content)
    files = find_files([folder])
    assert [str(file.path.relative_to(folder)) for file in files] == ["C.TXT.GZ", "b.txt", "a/b.jsonl", "a/z.md"]
    assert {file.source for file in files} == {"handbook"}
    assert all(found.document for found in found_in(folder))


def test_a_folder_that_cannot_be_listed_is_invalid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in it is not simply missing."""
    (tmp_path / "closed").mkdir()
    write(tmp_path / "a.txt", "Text.")
    scandir = os.scandir

    def refuse(path: str) -> Any:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    closed, read = found_in(tmp_path)
    assert read.document is not None
    assert (closed.document, closed.path.name) == (None, "closed")
    assert "Permission denied" in closed.reason


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.pdf"])
def test_a_pipe_is_not_waited_for(tmp_path: Path, name: str) -> None:
    """One that is named is an error, one in a folder is invalid; neither is opened."""
    os.mkfifo(tmp_path / name)
    with pytest.raises(DocumentError, match="is a pipe or a device"):
        find_files([tmp_path / name])
    assert "is a pipe or a device" in reason(tmp_path)


def test_links_to_what_is_found_anyway(tmp_path: Path) -> None:
    """Are left out; those to files elsewhere, or hidden here, are read."""
    folder, other = tmp_path / "folder", write(tmp_path / "other.txt", "Other.")
    (folder / "sub").mkdir(parents=True)
    (folder / "..data").mkdir()
    write(folder / "a.txt", "A.")
    write(folder / "..data" / "b.txt", "B.")
    for link, target in (("sub/z.md", folder / "a.txt"), ("b.txt", Path("..data/b.txt")), ("c.txt", other)):
        (folder / link).symlink_to(target)
    assert [file.path.name for file in find_files([folder])] == ["a.txt", "b.txt", "c.txt"]


@pytest.mark.parametrize("name", ["two\nlines.txt", os.fsdecode(b"caf\xe9.txt"), "x" * 210 + ".txt"])
def test_a_file_whose_name_cannot_be_a_source(tmp_path: Path, name: str) -> None:
    """One error that names the way out, and the way leads out."""
    path = write(tmp_path / name, "Text.")
    with pytest.raises(DocumentError, match=r"cannot name its source.*--source NAME"):
        find_files([path])
    assert only(path, source="s").text == "Text."


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda folder: folder / "none.txt", "There is no file or folder"),
        (lambda folder: folder, "holds no file that can be read"),
        (lambda folder: write(folder / "a.doc", "x"), "does not tell the format"),
        (lambda folder: write(folder / "a.pdf.gz", "x"), "does not tell the format"),
    ],
)
def test_paths_that_lead_nowhere(tmp_path: Path, make: Any, expected: str) -> None:
    """A path that was named and cannot be read is an error, not a surprise later."""
    with pytest.raises(DocumentError, match=expected):
        find_files([make(tmp_path)])


def test_a_given_format(tmp_path: Path) -> None:
    """A file without a telling name can be read all the same."""
    assert only(write(tmp_path / "README", "# T\n"), format="md").title == "T"


@pytest.mark.parametrize("name", ["", "  ", "two\nlines", "x" * 201])
def test_a_source_needs_a_name(tmp_path: Path, name: str) -> None:
    """What is listed and deleted by name has one that can be typed."""
    with pytest.raises(ValueError, match="the source's name"):
        find_files([write(tmp_path / "a.txt", "x")], source=name)


def test_an_unknown_field_is_refused(tmp_path: Path) -> None:
    """The message lists the fields."""
    with pytest.raises(ValueError, match=r"no field 'author'. The fields are: text, title"):
        find_files([tmp_path], columns={"author": "x"})


def test_the_id_is_that_of_the_content() -> None:
    """The same content of the same source is the same document; anything else is another."""
    same = [Document(text="A", source="s", title=title) for title in (None, "", None)]
    assert len({document.id for document in same}) == 1
    other = [Document(text="A", source="t"), Document(text="A", source="s", url="u"), Document(text="B", source="s")]
    assert len({document.id for document in (*same, *other)}) == 4


def test_a_renamed_file_says_the_same(tmp_path: Path) -> None:
    """The title that is only the file's name is not part of the id; one in the text is."""
    old, new = write(tmp_path / "old.txt", "Text."), write(tmp_path / "new.txt", "Text.")
    assert only(old, source="s").title == "old"
    assert only(old, source="s").id == only(new, source="s").id
    named = [write(tmp_path / f"{name}.md", f"---\ntitle: {name}\n---\nText.") for name in "ab"]
    assert len({only(path, source="s").id for path in named}) == 2
