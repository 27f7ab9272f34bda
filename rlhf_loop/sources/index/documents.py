"""Documents read from files and folders: of tables one a row; texts, PDF, web pages and Office files are one each."""

from __future__ import annotations

import codecs
import hashlib
import io
import logging
import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlhf_loop.errors import DocumentError, ImportFileError, MissingExtraError
from rlhf_loop.sources.index.prose import MAX_CHARS, Prose, read_docx, read_html, read_pptx
from rlhf_loop.utils.extras import require
from rlhf_loop.utils.files import is_special
from rlhf_loop.utils.rows import DAMAGED, EXTENSIONS, Record, open_stream, read_records, refuse_doubled, shown_columns
from rlhf_loop.utils.text import blank, clause

_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.*?\n)??(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_FRONT_TITLE = re.compile(r"^title:[ \t]*(.+?)[ \t]*$", re.MULTILINE | re.IGNORECASE)
_FENCE = re.compile(r"^(`{3,}|~{3,}).*?(?:^\1[`~]*[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^ {0,3}#{1,6}[ \t]+(.+?)[ \t]*#*[ \t]*$|^(\S.*)\n(?:=+|-+)[ \t]*$", re.MULTILINE)
#: A hyphen, or one that shows at the end of a line only, at the end of a line; and the letter that follows.
_HYPHENATION = re.compile("(\\S)[-\u2010\u00ad][ \\t]*\\n[ \\t]*(?=(\\S))")
_SOFT_HYPHEN = re.compile("\u00ad(?:[ \\t]*\\n[ \\t]*)?")
#: Ligatures and the forms that letters take in a word, as fonts have them: Latin, Armenian, Arabic.
_FORMS = {
    code: unicodedata.normalize("NFKC", chr(code))
    for first, last in ((0xFB00, 0xFB06), (0xFB13, 0xFB17), (0xFB50, 0xFDC7), (0xFE70, 0xFEFC))
    for code in range(first, last + 1)
}
_LINE_END = re.compile(r"(?<!\n)[ \t]*\n(?!\s*\n)[ \t]*")
#: The fields of a row, with other names that their columns may have. A column named `source` counts only if asked for:
#: it may mean anything, and what is deleted by source should be what was named by somebody.
ALIASES: Mapping[str, tuple[str, ...]] = {
    "text": ("text", "answer", "content", "body", "passage"),
    "title": ("title", "question", "heading"),
    "url": ("url", "link"),
    "licence": ("licence", "license"),
    "source": (),
}
FORMATS = ("jsonl", "csv", "parquet", "md", "txt", "pdf", "html", "docx", "pptx")
_TABULAR = ("jsonl", "csv", "parquet")
_ENDINGS = {ending: kind for kind in _TABULAR for ending, container in EXTENSIONS.items() if container == kind}
_ENDINGS |= {".md": "md", ".markdown": "md", ".txt": "txt", ".text": "txt", ".pdf": "pdf"}
_ENDINGS |= {".html": "html", ".htm": "html", ".xhtml": "html", ".docx": "docx", ".pptx": "pptx"}
#: Packed already.
_NEVER_GZIPPED = ("pdf", "docx", "pptx")
_MAX_TITLE = 2000
_MOST_PAGES = 20_000
#: What pypdf makes of a page takes a hundred times the memory of its bytes; what it may unpack for one is bounded.
_UNPACKED = ("zlib", "lzw", "run_length", "array_based_stream", "brotli")
_PDF_LIMITS = {f"{name}_maximum_output_length": 16_000_000 for name in _UNPACKED} | {
    "stream_parsing_work_maximum_count": 800_000,
    "page_tree_maximum_entries": _MOST_PAGES,
}
#: Bytes of a PDF file that are read at a time. To mend one without an end pypdf reads all of it, so that it can be no
#: larger; of a larger one the end is looked at first.
_LONGEST_READ, _PDF_TAIL = 1 << 26, 1 << 20
_PDF_END = re.compile(rb"startxref\s+\d+\s*%%EOF")
_MAX_NAME = 200


def read_text(path: Path) -> Prose:
    """Read a plain text file, UTF-8, also gzip-compressed; its lines end with `\\n`.

    Raises:
        DocumentError: it cannot be read, is not UTF-8, or is not text.
    """
    try:
        with ExitStack() as stack:
            _, stream = open_stream(path, stack, text=True)
            raw = stream.read(4 * MAX_CHARS + 1)
    except ImportFileError as error:
        raise DocumentError(str(error)) from error
    except DAMAGED as error:
        raise DocumentError(f"The file {str(path)!r} is damaged: {error}. Make it anew.") from error
    if b"\0" in raw:
        raise DocumentError(f"The file {str(path)!r} holds NUL bytes, so it is not text. Save it as text in UTF-8.")
    if len(raw) > 4 * MAX_CHARS:
        raise DocumentError(f"The file {str(path)!r} has more than {MAX_CHARS:,} characters. Split it.")
    try:
        text = raw.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DocumentError(f"The file {str(path)!r} is not UTF-8 in line {line}. Save it as UTF-8.") from error
    return Prose(text.replace("\r\n", "\n").replace("\r", "\n"))


def read_markdown(path: Path) -> Prose:
    """Read a Markdown file; its title is that of the front matter, which is left out, or the first heading.

    Raises:
        DocumentError: see `read_text`.
    """
    text = read_text(path).text
    title = None
    if front := _FRONT_MATTER.match(text):
        text = text[front.end() :]
        if named := _FRONT_TITLE.search(front.group(1) or ""):
            title = named.group(1).strip("\"'")
    # A line of a program may look like a heading.
    if not title and (heading := _HEADING.search(_FENCE.sub("", text))):
        title = heading.group(1) or heading.group(2)
    return Prose(text, title)


def read_pdf(path: Path) -> Prose:
    """Read the text of a PDF file and the title in its metadata; lines become paragraphs again.

    Raises:
        DocumentError: it is encrypted, damaged, or has no text.
    """
    require("pypdf", "index")
    from pypdf import PdfReader, apply_configuration
    from pypdf.errors import DependencyError, FileNotDecryptedError, LimitReachedError

    # What it can mend by itself it says in the log, line by line.
    logging.getLogger("pypdf").setLevel(logging.ERROR)
    place = ""
    try:
        if is_special(path):
            raise DocumentError(f"{str(path)!r} is a pipe or a device. Save it to a file first.")
        with _PdfFile(path) as file, apply_configuration(None, **_PDF_LIMITS):
            reader = PdfReader(file)
            if reader.is_encrypted and not reader.decrypt(""):
                raise _encrypted(path)
            _check_pages(reader, path)
            title = _pdf_title(reader)
            pages = []
            chars = 0
            for number, page in enumerate(reader.pages, start=1):
                place = f" at page {number}"
                pages.append(page.extract_text())
                chars += len(pages[-1])
                if chars > MAX_CHARS:
                    raise DocumentError(
                        f"The PDF {str(path)!r} has more than {MAX_CHARS:,} characters up to page {number}. Split it."
                    )
    except OSError as error:
        raise DocumentError(f"The file {str(path)!r} cannot be read: {error.strerror}. Check its name.") from error
    except DependencyError as error:
        try:
            require("cryptography", "pdf")
        except MissingExtraError as missing:
            raise DocumentError(f"The PDF {str(path)!r} is encrypted by AES. {missing}") from error
        raise _encrypted(path) from error
    except FileNotDecryptedError as error:
        raise _encrypted(path) from error
    except LimitReachedError as error:
        raise DocumentError(
            f"The PDF {str(path)!r} asks for too much memory{place}: {clause(error)}. Print it to a new PDF."
        ) from error
    except DocumentError:
        raise
    except Exception as error:  # of a damaged file pypdf raises whatever its bytes lead to, KeyError and so on
        raise DocumentError(
            f"The PDF {str(path)!r} is damaged{place}: {clause(error) or type(error).__name__}. Make it anew, or print "
            "it to a new PDF."
        ) from error
    text = "\n".join(joined_lines(page) for page in pages)
    # Fonts without a table of their characters give these.
    text = text.replace("\0", "").encode("utf-8", "replace").decode()
    if blank(text):
        raise DocumentError(
            f"The PDF {str(path)!r} has no text on its {len(pages)} page(s): it may be scanned. Let a program for "
            "character recognition (OCR) add the text, and try again."
        )
    return Prose(text, title)


class _PdfFile(io.BufferedReader):
    """A PDF file, never read as a whole where it is large.

    Raises:
        DocumentError: it is large, and has no end or asks to be read as a whole.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self._path = path
        self._size = self.seek(0, io.SEEK_END)
        if self._size > _LONGEST_READ:
            self.seek(-_PDF_TAIL, io.SEEK_END)
            if not _PDF_END.search(self.read(_PDF_TAIL)):
                self.close()
                raise self._too_large()
        self.seek(0)

    def read(self, size: int | None = -1, /) -> bytes:
        if (self._size if size is None or size < 0 else size) > _LONGEST_READ:
            raise self._too_large()
        return super().read(size)

    def _too_large(self) -> DocumentError:
        return DocumentError(
            f"The PDF {str(self._path)!r} is damaged, and with {self._size:,} bytes too large to be mended. Make it "
            "anew, or print it to a new PDF."
        )


def joined_lines(text: str) -> str:
    """Return the paragraphs of a page, whose lines a typesetter has broken, words included."""
    return _LINE_END.sub(" ", _HYPHENATION.sub(_rejoined, text))


def _rejoined(hyphen: re.Match[str]) -> str:
    """Return the letter before the hyphen if a word goes on behind it, in whatever alphabet; else all as it is."""
    before, after = (unicodedata.category(letter) for letter in hyphen.groups())
    goes_on = before[0] in "LM" and after[0] == "L" and after not in ("Lu", "Lt")
    return hyphen[1] if goes_on else hyphen[0]


def legible(text: str) -> str:
    """Return the text as somebody would type it: without soft hyphens and ligatures, in the form NFC."""
    return unicodedata.normalize("NFC", _SOFT_HYPHEN.sub("", text).translate(_FORMS))


_PROSE: Mapping[str, Callable[[Path], Prose]] = {
    "md": read_markdown,
    "txt": read_text,
    "pdf": read_pdf,
    "html": read_html,
    "docx": read_docx,
    "pptx": read_pptx,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A text with where it comes from. The source is the name by which it can be deleted again.

    `titled` is False where the title is no more than the name of its file.
    """

    text: str
    source: str
    title: str | None = None
    url: str | None = None
    licence: str | None = None
    titled: bool = True

    @property
    def id(self) -> str:
        """The sha256 of all its content: the same content of the same source is the same document."""
        # A file that is renamed still says the same.
        title = (self.title or "") if self.titled else ""
        parts = (self.source, title, self.text, self.url or "", self.licence or "")
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class ParsedDocument:
    """A document, or the reason why it cannot be read; `line` is where it starts, from 1, None for a whole file."""

    path: Path
    line: int | None
    document: Document | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class DocumentFile:
    """A file with the name of its source; iterate over it for its documents.

    `problem` is why it cannot be opened, where that is known already: so it is with a folder that may not be listed.
    """

    path: Path
    format: str
    source: str
    columns: Mapping[str, str]
    problem: str = ""

    @property
    def is_whole(self) -> bool:
        """True where the file is one document, which takes time to read."""
        return not self.problem and self.format not in _TABULAR

    def absolute(self) -> DocumentFile:
        """Return the same file for other processes, which may work in another folder."""
        return replace(self, path=self.path.absolute())

    def __iter__(self) -> Iterator[ParsedDocument]:
        """Give the documents of the file, in order; a file that cannot be read is one invalid document."""
        if self.problem:
            yield ParsedDocument(self.path, None, None, self.problem)
            return
        try:
            yield from self._rows() if self.format in _TABULAR else self._whole()
        except (DocumentError, ImportFileError) as error:
            yield ParsedDocument(self.path, None, None, str(error))

    def _whole(self) -> Iterator[ParsedDocument]:
        prose = _PROSE[self.format](self.path)
        if blank(prose.text):
            raise DocumentError(f"The file {str(self.path)!r} is empty. Leave it out, or put text into it.")
        name = self.path.name.removesuffix(".gz").encode("utf-8", "replace").decode()
        title = prose.title or Path(name).stem.replace("_", " ")
        yield self._parse(
            None, {"text": prose.text, "title": title[:_MAX_TITLE], "url": prose.url}, titled=bool(prose.title)
        )

    def _rows(self) -> Iterator[ParsedDocument]:
        matched: dict[tuple[str, ...], dict[str, int]] = {}
        with ExitStack() as stack:
            _, stream = open_stream(self.path, stack, text=self.format != "parquet")
            rows = 0
            for record in read_records(self.path, stream, format=self.format):
                if record.reason:
                    yield ParsedDocument(self.path, record.line, None, record.reason)
                elif record.names not in matched:
                    matched[record.names] = self._match(record)
                if record.cells:
                    cells = {field: record.cells[place] for field, place in matched[record.names].items()}
                    yield self._parse(record.line, cells)
                rows += bool(record.cells or record.reason)
        if not rows:
            raise DocumentError(f"The file {str(self.path)!r} has no rows. Leave it out, or put rows into it.")

    def _match(self, record: Record) -> dict[str, int]:
        """Find the column of each field."""
        plain = [name.strip().casefold() for name in record.names]
        places: dict[str, int] = {}
        for field, names in ALIASES.items():
            if field in self.columns:
                wanted = self.columns[field]
                if wanted in record.names:
                    places[field] = record.names.index(wanted)
                    refuse_doubled(record.names, [places[field]])
            elif name := next((name for name in names if name in plain), None):
                places[field] = plain.index(name)
                refuse_doubled(plain, [places[field]])
        # Each line of JSONL has its own keys, so that there what is missing is the line's error.
        if self.format != "jsonl":
            for field in ("text", *self.columns):
                if field not in places:
                    wanted = self.columns.get(field, field)
                    raise DocumentError(
                        f"The file {str(self.path)!r} has no column {wanted!r}. Its columns are: "
                        f"{shown_columns(record.names)}. Name the right one with --column {field}=NAME."
                    )
        return places

    def _parse(self, line: int | None, cells: Mapping[str, Any], *, titled: bool = True) -> ParsedDocument:
        try:
            values = {field: _text(field, cells.get(field)) for field in ALIASES}
            source = values.pop("source") or self.source
            text = values.pop("text")
            if text is None:
                raise ValueError(f"{self.columns.get('text', 'text')} is missing or blank")
            return ParsedDocument(
                self.path, line, Document(text=text, source=check_source(source), titled=titled, **values)
            )
        except ValueError as error:
            return ParsedDocument(self.path, line, None, str(error))


def find_files(
    paths: Sequence[Path],
    *,
    source: str | None = None,
    columns: Mapping[str, str] | None = None,
    format: str | None = None,
) -> list[DocumentFile]:
    """Return the files that `paths` name, folders with all that is in them, sorted.

    The source is the name of the file, or of the folder that was given, unless `source` says another. In folders hidden
    files are left out, and those whose names do not tell one of the formats; so are links to files that are found
    anyway.

    Raises:
        DocumentError: a path is not there, tells no format, cannot name a source, or is a folder without files to read.
        ValueError: an unknown field in `columns`, or a name for `source` that cannot be one.
    """
    columns = dict(columns or {})
    for field in columns:
        if field not in ALIASES:
            raise ValueError(f"There is no field {field!r}. The fields are: {', '.join(ALIASES)}.")
    if source is not None:
        check_source(source)
    files: list[DocumentFile] = []
    for path in paths:
        inside, problems = _inside(path)
        name = _source_of(path) if source is None else source
        files += [DocumentFile(folder, "", name, columns, problem) for folder, problem in problems.items()]
        for file in inside:
            kind = format or _format_of(file)
            if kind is None:
                raise DocumentError(
                    f"The name {file.name!r} does not tell the format. Give one with --format ({', '.join(FORMATS)}), "
                    f"or end the name in {', '.join(_ENDINGS)}."
                )
            files.append(DocumentFile(file, kind, name, columns))
    return files


def check_source(name: str) -> str:
    """Return a source's name as it is kept.

    Raises:
        ValueError: it is blank, too long, or not of one line.
    """
    name = name.strip()
    if not name or len(name) > _MAX_NAME or not name.isprintable():
        raise ValueError(
            f"the source's name {name[:60]!r} is blank, not one line, or longer than {_MAX_NAME} characters"
        )
    return name


def _pdf_title(reader: Any) -> str | None:
    try:
        title = reader.metadata.title if reader.metadata else None
    except Exception:  # the text may be whole even where the metadata is not
        return None
    return str(title).replace("\0", "").strip() or None if title else None


def _check_pages(reader: Any, path: Path) -> None:
    """Look at the tree of pages before pypdf makes a list of it.

    Raises:
        DocumentError: it has too many pages, or the same ones several times.
    """
    seen = set[object]()
    waiting = [reader.root_object.raw_get("/Pages")]
    while waiting:
        node = waiting.pop()
        name = (node.idnum, node.generation) if hasattr(node, "idnum") else id(node)
        if name in seen or len(seen) > _MOST_PAGES:
            what = "lists a page several times" if name in seen else f"has more than {_MOST_PAGES:,} pages"
            raise DocumentError(f"The PDF {str(path)!r} {what}. Split it, or print it to a new PDF.")
        seen.add(name)
        waiting += node.get_object().get("/Kids", ())


def _encrypted(path: Path) -> DocumentError:
    return DocumentError(f"The PDF {str(path)!r} is encrypted. Save it without a password and try again.")


def _source_of(path: Path) -> str:
    try:
        return check_source(path.resolve().name)
    except ValueError as error:
        raise DocumentError(
            f"{str(path)!r} cannot name its source: {clause(error)}. Name one with --source NAME."
        ) from None


def _inside(path: Path) -> tuple[list[Path], dict[Path, str]]:
    """Return the files that a path names, and the folders in it that cannot be listed, with the reason."""
    try:
        if is_special(path):
            raise DocumentError(f"{str(path)!r} is a pipe or a device. Save it to a file first, and index that.")
    except FileNotFoundError:
        raise DocumentError(f"There is no file or folder {str(path)!r}. Check its name.") from None
    except OSError as error:
        raise DocumentError(
            f"{str(path)!r} cannot be read: {error.strerror}. Check its name and its rights."
        ) from error
    if not path.is_dir():
        return [path], {}
    problems: dict[Path, str] = {}
    found: list[Path] = []

    def note(error: OSError) -> None:
        folder = Path(error.filename)
        problems[folder] = f"The folder {str(folder)!r} cannot be read: {error.strerror}. Check its rights."

    for where, folders, files in os.walk(path, onerror=note):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = (Path(where, name) for name in sorted(files) if not name.startswith((".", "~$")))
        found += [file for file in paths if _format_of(file)]
    if not found and not problems:
        raise DocumentError(
            f"The folder {str(path)!r} holds no file that can be read. These can: {', '.join(_ENDINGS)}."
        )
    links = {file for file in found if file.is_symlink()}
    # A link to what is hidden here, as Kubernetes mounts files, is the only way to it.
    real = {os.path.realpath(file) for file in found if file not in links} if links else set()
    return [file for file in found if file not in links or os.path.realpath(file) not in real], problems


def _format_of(path: Path) -> str | None:
    name = path.name.lower().removesuffix(".gz")
    found = _ENDINGS.get(Path(name).suffix)
    return None if found in _NEVER_GZIPPED and path.name.lower().endswith(".gz") else found


def _text(field: str, value: object) -> str | None:
    """Return the cell as text, None for a blank one.

    Raises:
        ValueError: it is not text, or one that cannot be kept.
    """
    if value is None or (isinstance(value, float) and value != value):
        return None
    if not isinstance(value, str):
        raise ValueError(f"{field} is {str(value)[:60]!r}, not text")
    if blank(value):
        return None
    if (place := value.find("\0")) >= 0:
        raise ValueError(f"{field} holds a NUL character, at its character {place + 1}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{field} is not valid Unicode at its character {error.start + 1}") from None
    value = legible(value)
    if not value.strip():
        return None
    limit = MAX_CHARS if field == "text" else _MAX_TITLE
    if field != "text":
        value = " ".join(value.split())
    if len(value) > limit:
        raise ValueError(f"{field} has {len(value):,} characters; at most {limit:,} can be kept: split it")
    return value
