"""HTML, DOCX and PPTX files as text with headings, lists, tables and code as in Markdown.

selectolax reads HTML as browsers do; mammoth makes HTML of DOCX. Slides are read by the standard library: the one
library for them that there is brings three others.
"""

from __future__ import annotations

import io
import posixpath
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree
from zipfile import ZipFile

from rlhf_loop.errors import DocumentError, ImportFileError
from rlhf_loop.utils.encodings import UTF_8, known_encoding, likely_encoding
from rlhf_loop.utils.extras import require
from rlhf_loop.utils.rows import DAMAGED, open_stream
from rlhf_loop.utils.text import blank, clause, web_address

if TYPE_CHECKING:
    from selectolax.lexbor import LexborNode as Node

#: Bytes of a page of HTML, and of all XML of an Office file: what is made of them takes up to sixty times as much.
_MOST_HTML, _MOST_XML = 1 << 24, 1 << 25
#: Beginnings of elements and attributes in an Office file; each takes some hundred bytes of memory.
_MOST_MARKS = 1_000_000
#: What a page may have that is parsed at once: characters, marks, and marks times formatting. The time grows with the
#: square of attributes and of open elements, and each mark may open all formatting anew. Of a larger page no rule tells
#: for sure how long it takes, short of parsing it: a process is given so many seconds of a CPU and bytes to try.
_PARSED_HERE = (200_000, 10_000, 500_000)
_MOST_SECONDS, _MOST_MEMORY = 10, 1 << 31
#: Elements that are gone through, in some seconds: formatting that is never closed is opened anew in each paragraph.
_MOST_ELEMENTS = 1_000_000
_FORMATTING = re.compile(r"<(?:a|b|big|code|em|font|i|nobr|s|small|strike|strong|tt|u)[\s/>]", re.IGNORECASE)
_TRIAL = """
import sys
from contextlib import suppress
with suppress(ImportError):  # there is none on Windows
    import resource
    for kind, most in zip((resource.RLIMIT_CPU, resource.RLIMIT_AS, resource.RLIMIT_CORE), (*sys.argv[1:3], 0)):
        resource.setrlimit(kind, (int(most), int(most)))
from selectolax.lexbor import LexborHTMLParser
sys.exit(len(LexborHTMLParser(sys.stdin.buffer.read().decode()).css("*")) > int(sys.argv[3]))
"""
#: Longer than any book; a document is embedded as a whole, or not at all.
MAX_CHARS = 5_000_000
_MOST_CELLS = 200_000
_WIDEST = 100
#: Levels of lists that are indented.
_DEEPEST = 8

_DECLARED = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?([\w.:-]{1,40})", re.IGNORECASE)
_UNREAD = "script, style, noscript, template, head, svg, canvas, iframe, object, audio, video, map, button, select, "
_UNREAD += "input, textarea, dialog, datalist, [hidden], [aria-hidden=true]"
_AROUND = "nav, aside, [role=navigation], [role=banner], [role=contentinfo], [role=search], [role=complementary], "
_AROUND += "[role=dialog], [role=menu], [role=menubar]"
_NAMED = ("div", "ul", "ol", "section", "p", "table")
_OF_PAGE = re.compile(
    r"(?:(?:site|page|main|top|left|right|global|primary|secondary|mobile|skip)[-_]?)?(?:nav|navbar|navigation|menu|"
    r"sidebar|breadcrumbs?|footer|header|toc|pagination|links?)|(?:cookie|consent)s?(?:[-_]?(?:banner|notice|bar|popup))?",
    re.IGNORECASE,
)
_UNSEEN = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
_HEADINGS = {f"h{level}": "#" * level for level in range(1, 7)}
_BLOCKS = {
    *("html", "body", "main", "article", "section", "header", "footer", "nav", "aside", "div", "p", "blockquote"),
    *("h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "li", "dl", "dt", "dd", "figure", "figcaption", "details", "hr"),
    *("table", "caption", "thead", "tbody", "tfoot", "tr", "td", "th", "form", "fieldset", "summary", "address"),
    *("center", "pre"),
}
_RAISED = str.maketrans("0123456789+-−()n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁽⁾ⁿ")
_EXPONENT = re.compile(r"[+−-]?\d{1,3}")

_OLE = b"\xd0\xcf\x11\xe0"
_TITLES = ("title", "ctrTitle")
#: Placeholders that are the same on each slide: date, footer, number.
_EACH_SLIDE = ("dt", "ftr", "sldNum", "hdr", "sldImg")
#: Titles that programs give by themselves.
_NO_TITLE = re.compile(
    r"(?:microsoft (?:word|power ?point)\b.*|word[- ]do[ck]ument|power ?point[- ]pr[äe]sentation|"
    r"présentation powerpoint|presentaci[óo]n de powerpoint|presentazione (?:standard )?di powerpoint|"
    r"apresentação do powerpoint|"
    r"(?:slide|folie|untitled|unbenannt|document|dokument|presentation) ?\d*)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Prose:
    """The text of a file, and the title and address it gives itself, if it does."""

    text: str
    title: str | None = None
    url: str | None = None


def read_html(path: Path) -> Prose:
    """Read a page of HTML, also gzip-compressed, without what is around its text: menus, scripts, forms, footers.

    Raises:
        DocumentError: it cannot be read, is too large, or is not text.
    """
    require("selectolax", "index")
    from selectolax.lexbor import LexborHTMLParser

    try:
        with ExitStack() as stack:
            raw = open_stream(path, stack, text=False)[1].read(_MOST_HTML + 1)
    except ImportFileError as error:
        raise DocumentError(str(error)) from error
    except DAMAGED as error:
        raise DocumentError(f"The file {str(path)!r} is damaged: {error}. Make it anew.") from error
    if len(raw) > _MOST_HTML:
        raise DocumentError(f"The page {str(path)!r} has more than {_MOST_HTML:,} bytes. Split it.")
    text = _decoded(raw)
    if "\0" in text:
        raise DocumentError(f"The file {str(path)!r} holds NUL bytes, so it is not HTML. Save it as a web page anew.")
    _try_parsing(text, path)
    page = LexborHTMLParser(text)
    named = page.css_first("meta[property='og:title'], meta[name='citation_title']")
    title = (named.attributes.get("content") if named else None) or _text_of(page.css_first("title"))
    link = page.css_first("link[rel=canonical]")
    url = web_address(link.attributes.get("href")) if link else None
    title = title or _text_of(page.css_first("h1")) or ""
    written = ""
    if page.body is not None:
        unread = {node.mem_id for node in page.body.css(_UNREAD)}
        unread |= {node.mem_id for node in page.css("[style]") if _UNSEEN.search(node.attributes.get("style") or "")}
        root = _content(page.body, unread)
        # A page may be nothing but what is left out elsewhere.
        for without in (unread | _around(root), unread):
            written = written or _written(root, without)
    return Prose(written, " ".join(title.split()) or None, url)


def read_docx(path: Path) -> Prose:
    """Read a document of Word; its title is that of its properties, or its first heading.

    Raises:
        DocumentError: it is encrypted, damaged, too large, or none.
    """
    require("mammoth", "index")
    import mammoth
    from selectolax.lexbor import LexborHTMLParser

    parts = _parts_of(path, "Word", "DOCX")
    try:
        # A file's own table of styles could turn anything into anything; pictures are not looked at.
        html = mammoth.convert_to_html(
            _packed(parts),
            transform_document=_notes_once(),
            style_map="p[style-name='Title'] => h1:fresh\np[style-name='Subtitle'] => p:fresh",
            include_embedded_style_map=False,
            convert_image=lambda picture: [],
            id_prefix="",
        ).value
        title = _title_of(parts)
    except Exception as error:  # it has no class of its own for a damaged file
        raise _damaged(path, error, "Word") from error
    page = LexborHTMLParser(html)
    root = page.body
    if root is None:
        return Prose("", title)
    notes = {node.mem_id for node in page.css("sup > a[id*=note-ref]")}
    return Prose(_written(root, notes), title or _text_of(page.css_first("h1, h2"), notes))


def read_pptx(path: Path) -> Prose:
    """Read the slides of PowerPoint that are shown, with their notes; each has its title as a heading.

    Raises:
        DocumentError: it is encrypted, damaged, too large, or none.
    """
    found = _Writer()
    parts = _parts_of(path, "PowerPoint", "PPTX")
    try:
        title = _title_of(parts)
        for part, slide in _slides(parts):
            heading = _write_slide(slide, found)
            title = title or heading
            for _, kind, target in _targets(parts, part):
                # Each once: of a part that is named a thousand times a small file would become a large text.
                if kind == "notesSlide" and (notes := _part(parts, target)) is not None:
                    del parts[target]
                    _write_slide(notes, found)
    except Exception as error:  # whatever is not where it has to be
        raise _damaged(path, error, "PowerPoint") from error
    return Prose(found.text(), title)


@dataclass(slots=True)
class _Writer:
    """Blocks of a text, as Markdown has them."""

    blocks: list[tuple[str, bool]] = field(default_factory=list)
    #: Characters that may still come: some of them are left out when the text is kept.
    room: int = 2 * MAX_CHARS

    def text(self) -> str:
        """Return all of it; items of a list stand in lines of their own, other blocks apart from each other."""
        parts: list[str] = []
        together = False
        for block, close in self.blocks:
            if parts:
                parts.append("\n" if close and together else "\n\n")
            parts.append(block)
            together = close
        return "".join(parts)

    def add(self, block: str, *, close: bool = False) -> None:
        """Add a block as it is."""
        self.take(len(block))
        self.blocks.append((block, close))

    def take(self, characters: int) -> None:
        """Count what will be written.

        Raises:
            DocumentError: it is too much.
        """
        self.room -= characters
        if self.room < 0:
            raise DocumentError(f"It has more than {2 * MAX_CHARS:,} characters of text. Split it.")

    def put(self, words: str, *, before: str = "", inside: str = "", close: bool = False) -> bool:
        """Add a block of lines; the first one begins with `before`, the others with `inside`."""
        lines = [" ".join(line.split()) for line in words.split("\n")]
        if not any(lines):
            return False
        lines = [line for line in lines if line]
        if before.startswith("#"):
            lines = [" ".join(lines)]
        self.add(before + f"\n{inside}".join(lines), close=close)
        return True

    def code(self, text: str) -> None:
        """Add a block of code."""
        if not blank(text):
            fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
            self.add(f"{fence}\n{text.strip(chr(10))}\n{fence}")

    def table(self, rows: Sequence[Sequence[str]]) -> None:
        """Add a table; its first row names the columns."""
        rows = [row for row in rows if any(row)]
        width = max(map(len, rows), default=0)
        # Cells that go on below, and rows that are made as wide as the widest, are more than was read.
        self.take(sum(len(cell) for row in rows for cell in row) + 3 * width * len(rows))
        lines = [
            f"| {' | '.join(cell.replace('|', '/') for cell in (*row, *[''] * (width - len(row))))} |" for row in rows
        ]
        if lines:
            self.blocks.append(("\n".join([lines[0], "| " + " | ".join(["---"] * width) + " |", *lines[1:]]), False))

    def write(self, root: Node, without: Set[int]) -> None:
        """Add what stands in an element of HTML; elements in `without` are left out."""
        held: list[str] = []
        # Of each list: the number of its next item, None without numbers. Of each item: whether it has begun.
        lists: list[int | None] = []
        begun: list[bool] = []
        marks = ""
        term = False
        tables = {table.mem_id: rows for table in _innermost(root) if (rows := _rows_of(table, without)) is not None}
        if sum(len(row) for rows in tables.values() for row in rows) > _MOST_CELLS:
            raise DocumentError(f"Its tables have more than {_MOST_CELLS:,} cells. Index them as CSV.")

        def flush() -> None:
            nonlocal marks
            inside = "  " * min(len(begun), _DEEPEST)
            before = marks or inside
            if begun and not begun[-1] and not marks:
                number = lists[-1] if lists else None
                before = inside[2:] + ("- " if number is None else f"{number}. ")
            if self.put("".join(held), before=before, inside=inside, close=bool(begun) or term) and begun:
                begun[-1] = True
            held.clear()

        for node, enters in _walk(root, without, lambda node: node.tag in ("sup", "pre") or node.mem_id in tables):
            tag = node.tag or ""
            if tag == "-text" and enters:
                held.append(re.sub(r"\s+", " ", node.text_content or ""))
            elif tag == "br" and enters:
                held.append("\n")
            elif tag == "sup" and enters:
                held.append(_raised(node, without))
            elif tag in _BLOCKS:
                flush()
                if tag in _HEADINGS:
                    marks = f"{_HEADINGS[tag]} " if enters else ""
                elif tag in ("ul", "ol"):
                    if enters:
                        start = (node.attributes.get("start") or "1").strip()
                        lists.append(None if tag == "ul" else int(start) if re.fullmatch(r"\d{1,6}", start) else 1)
                    elif lists:
                        lists.pop()
                elif tag == "li":
                    if enters:
                        begun.append(False)
                    elif begun and begun.pop() and lists and lists[-1] is not None:
                        lists[-1] += 1
                elif tag in ("dt", "dd"):
                    # What a term means stays with it.
                    term = enters
                elif tag == "pre" and enters:
                    self.code(node.text(deep=True) or "")
                elif enters and node.mem_id in tables:
                    self.put(_text_of(node.css_first("caption"), without))
                    self.table(tables[node.mem_id])
        flush()


def _walk(
    root: Node, without: Set[int], is_whole: Callable[[Node], bool] = lambda node: False
) -> Iterator[tuple[Node, bool]]:
    """Give each element when it begins (True) and ends, and each text; inside of what `is_whole` it does not look."""
    node: Node | None = root
    while node is not None:
        left_out = node.mem_id in without
        if not left_out:
            yield node, True
        below = None if left_out or is_whole(node) else node.child
        if below is not None:
            node = below
            continue
        while node is not None:
            if node.mem_id not in without:
                yield node, False
            if node.mem_id == root.mem_id:
                return
            if node.next is not None:
                node = node.next
                break
            node = node.parent


def _written(root: Node, without: Set[int]) -> str:
    found = _Writer()
    found.write(root, without)
    return found.text()


def _content(body: Node, without: Set[int]) -> Node:
    """Return the element with the text of a page: the only main part or article that it has, else all."""
    for selector in ("main, [role=main]", "article"):
        # One within another is a part of it, such as a comment.
        outermost = _outermost(body, {node.mem_id for node in body.css(selector)})
        found = [node for node in outermost if node.mem_id not in without and _text_of(node, without)]
        if found:
            return found[0] if len(found) == 1 else body
    return body


def _around(root: Node) -> Set[int]:
    """Return the elements that stand around the text of a page; none holds a main part, an article or a heading."""
    around = {node.mem_id for node in root.css(_AROUND)}
    found: set[int] = set()
    #: Those that are open, and the parts of a page: of an article's own header its title is a part.
    waiting: list[int] = []
    parts = int(root.tag != "body")
    for node, enters in _walk(root, frozenset()):
        tag = node.tag or ""
        if tag in ("main", "article", "section"):
            parts += 1 if enters else -1
        if tag in ("main", "article", "h1"):
            waiting.clear()
        elif not enters:
            if waiting and waiting[-1] == node.mem_id:
                found.add(waiting.pop())
        elif (
            node.mem_id in around
            or (tag in ("header", "footer") and not parts)
            or (tag in _NAMED and _is_named_so(node))
        ):
            waiting.append(node.mem_id)
    return found


def _is_named_so(node: Node) -> bool:
    names = [*(node.attributes.get("class") or "").split(), node.attributes.get("id") or ""]
    return any(map(_OF_PAGE.fullmatch, names))


def _outermost(root: Node, chosen: Set[int]) -> list[Node]:
    """Return the elements of these that are not within another of them."""
    walk = _walk(root, frozenset(), lambda node: node.mem_id in chosen) if chosen else ()
    return [node for node, enters in walk if enters and node.mem_id in chosen]


def _innermost(root: Node) -> Iterator[Node]:
    """Give the tables without tables in them."""
    last = None
    for node, enters in _walk(root, frozenset()) if root.css_first("table") is not None else ():
        if node.tag == "table" and enters:
            last = node.mem_id
        elif node.tag == "table" and node.mem_id == last:
            yield node


def _rows_of(table: Node, without: Set[int]) -> list[list[str]] | None:
    """Return the cells of a table without tables in it, None of one that only lays out a page."""
    if table.css_first("h1, h2, pre") is not None:
        return None
    rows: list[list[str]] = []
    #: By column: the text of a cell that goes on below, and for how many rows.
    below: dict[int, tuple[str, int]] = {}
    cells = 0
    for line in table.css("tr"):
        row: list[str] = []

        def go_on(row: list[str] = row) -> None:
            while len(row) in below and len(row) < _WIDEST:
                text, left = below.pop(len(row))
                if left > 1:
                    below[len(row)] = text, left - 1
                row.append(text)

        for cell in line.iter():
            if cell.tag not in ("td", "th"):
                continue
            go_on()
            if len(row) >= _WIDEST:
                break
            words = _text_of(cell, without)
            if (deep := _number(cell, "rowspan")) > 1:
                below[len(row)] = words, deep - 1
            row.append(words)
            row += [""] * (min(_number(cell, "colspan"), _WIDEST) - 1)
        go_on()
        rows.append(row)
        cells += len(row)
        if cells > _MOST_CELLS:
            raise DocumentError(f"One of its tables has more than {_MOST_CELLS:,} cells. Index it as CSV.")
    wide = [row for row in rows if len(row) > 1]
    return rows if len(wide) > 1 or (wide and table.css_first("th") is not None) else None


def _number(cell: Node, name: str) -> int:
    given = cell.attributes.get(name) or ""
    return int(given) if given.isascii() and given.isdigit() and len(given) < 6 else 1


def _text_of(node: Node | None, without: Set[int] = frozenset()) -> str:
    """Return the words of an element in one line."""
    words: list[str] = []
    for each, enters in () if node is None else _walk(node, without, lambda node: node.tag == "sup"):
        if each.tag == "-text":
            words.append(each.text_content or "" if enters else "")
        elif each.tag == "sup":
            words.append(_raised(each, without) if enters else "")
        elif each.tag == "br" or each.tag in _BLOCKS:
            words.append(" ")
    return " ".join("".join(words).split())


def _raised(node: Node, without: Set[int]) -> str:
    """Return what stands above the line: 10⁹ is not 109."""
    inside = (each for each, enters in _walk(node, without) if enters and each.tag == "-text")
    words = " ".join("".join(each.text_content or "" for each in inside).split())
    return words.translate(_RAISED) if _EXPONENT.fullmatch(words) else words


def _decoded(raw: bytes) -> str:
    """Return the text of a page in the encoding that its bytes tell, else the one that it names."""
    told = likely_encoding(io.BytesIO(raw), guess=False)
    with suppress(UnicodeError):
        return raw.decode("utf-8-sig" if told == UTF_8 else told)
    encoding = likely_encoding(io.BytesIO(raw), guess=True)
    if declared := _DECLARED.search(raw[:4096]):
        with suppress(ImportFileError):
            encoding = known_encoding(declared[1].decode())
    # Browsers take what is called Latin-1 for Windows' encoding, and so do those who write it.
    return raw.decode("cp1252" if encoding in ("iso8859-1", "ascii", UTF_8) else encoding, "replace")


def _try_parsing(text: str, path: Path) -> None:
    """Refuse a page that takes too long, or too much memory, to be parsed.

    Raises:
        DocumentError: it does.
    """
    marks = text.count("<")
    asked = (len(text), marks, 0 if marks > _PARSED_HERE[1] else marks * len(_FORMATTING.findall(text)))
    if all(size <= most for size, most in zip(asked, _PARSED_HERE, strict=True)):
        return
    with suppress(subprocess.TimeoutExpired):
        trial = subprocess.run(
            [sys.executable, "-P", "-c", _TRIAL, *map(str, (_MOST_SECONDS, _MOST_MEMORY, _MOST_ELEMENTS))],
            input=text.encode(),
            capture_output=True,
            timeout=60 * _MOST_SECONDS,
            check=False,
        )
        if trial.returncode == 0:
            return
    raise DocumentError(
        f"The page {str(path)!r} takes more than {_MOST_SECONDS} seconds or {_MOST_MEMORY >> 20:,} MB to parse, or has "
        f"more than {_MOST_ELEMENTS:,} elements: it may leave thousands of them open. Save it as a web page anew."
    )


def _parts_of(path: Path, program: str, kind: str) -> dict[str, bytes]:
    """Return the parts of a file of Office that hold text; together they can be read within bounds.

    Raises:
        DocumentError: there are none.
    """
    parts: dict[str, bytes] = {}
    try:
        with ExitStack() as stack:
            file = open_stream(path, stack, text=False)[0]
            if file.read(4) == _OLE:
                raise DocumentError(
                    f"The file {str(path)!r} is encrypted, or of {program} before 2007. Save it as {kind} without a "
                    "password."
                )
            archive = stack.enter_context(ZipFile(file))
            listed = [part for part in archive.infolist() if part.filename.lower().endswith((".xml", ".rels"))]
            marks = 0
            too_large = sum(part.file_size for part in listed) > _MOST_XML
            for part in () if too_large else listed:
                parts[part.filename] = archive.read(part)
                # As UTF-16 has it, too. Office writes no such declarations, by which a few bytes become billions.
                text = parts[part.filename].replace(b"\0", b"")
                if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
                    raise DocumentError(
                        f"The file {str(path)!r} declares entities, which {program} never does. Leave it out."
                    )
                marks += text.count(b"<") + text.count(b"=")
    except (DocumentError, ImportFileError) as error:
        raise DocumentError(str(error)) from error
    except Exception as error:  # zipfile and zlib raise whatever the bytes lead to
        raise _damaged(path, error, program) from error
    if too_large or marks > _MOST_MARKS:
        raise DocumentError(
            f"The file {str(path)!r} has more than {_MOST_XML:,} bytes of text with its format, or "
            f"{_MOST_MARKS:,} pieces of it. Split it, or save it as text."
        )
    return parts


def _packed(parts: Mapping[str, bytes]) -> io.BytesIO:
    """Return a file of these parts: whoever reads it finds no others."""
    file = io.BytesIO()
    with ZipFile(file, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return file


def _notes_once() -> Callable[[Any], Any]:
    """Return what leaves each note of a document of Word at its first reference."""
    from mammoth import documents, transforms

    seen: set[tuple[str, str]] = set()

    def first(reference: Any) -> Any:
        name = (reference.note_type, reference.note_id)
        if name in seen:
            return documents.text("")
        seen.add(name)
        return reference

    once: Callable[[Any], Any] = transforms.element_of_type(documents.NoteReference, first)
    return once


def _damaged(path: Path, error: Exception, program: str) -> DocumentError:
    if isinstance(error, DocumentError):
        return DocumentError(f"The file {str(path)!r} cannot be indexed: {clause(error)}")
    return DocumentError(
        f"The file {str(path)!r} cannot be read as one of {program}: {clause(error) or type(error).__name__}. Open it "
        "there, and save it anew."
    )


def _part(parts: Mapping[str, bytes], name: str) -> ElementTree.Element | None:
    return ElementTree.fromstring(parts[name]) if name in parts else None


def _title_of(parts: Mapping[str, bytes]) -> str | None:
    """Return the title in the properties, unless a program has given it."""
    properties = _part(parts, "docProps/core.xml")
    title = None if properties is None else properties.findtext("{http://purl.org/dc/elements/1.1/}title")
    title = " ".join((title or "").split())
    return None if not title or _NO_TITLE.fullmatch(title) else title


def _targets(parts: Mapping[str, bytes], part: str) -> Iterator[tuple[str, str, str]]:
    """Give the relationships of a part: their ids, the last words of their types, and the parts they lead to."""
    folder, name = posixpath.split(part)
    found = _part(parts, posixpath.join(folder, "_rels", f"{name}.rels"))
    for each in () if found is None else found:
        target = posixpath.normpath(posixpath.join("/", folder, each.get("Target", "")))
        yield each.get("Id", ""), each.get("Type", "").rpartition("/")[2], target.lstrip("/")


def _slides(parts: dict[str, bytes]) -> Iterator[tuple[str, ElementTree.Element]]:
    """Take out the slides that are shown, in their order, each with the name of its part."""
    kinds = {kind: target for _, kind, target in _targets(parts, "")}
    presentation = kinds.get("officeDocument", "ppt/presentation.xml")
    root = _part(parts, presentation)
    if root is None or _name(root) != "presentation":
        raise ValueError("it has no slides")
    targets = {name: target for name, _, target in _targets(parts, presentation)}
    for each in root.iterfind(".//{*}sldIdLst/{*}sldId"):
        name = next((value for key, value in each.attrib.items() if key.endswith("}id")), "")
        slide = _part(parts, targets[name])
        parts.pop(targets[name], None)
        if slide is not None and slide.get("show") not in ("0", "false"):
            yield targets[name], slide


def _write_slide(slide: ElementTree.Element, found: _Writer) -> str | None:
    """Add what stands on a slide, or in its notes; return its title."""
    title = None
    shapes = [(_placeholder(shape), shape) for shape in _shapes(slide)]
    shapes.sort(key=lambda each: each[0] not in _TITLES)  # for those who listen it comes first, and for us
    for kind, shape in shapes:
        if kind in _EACH_SLIDE:
            continue
        lines = [(paragraph, _line(paragraph)) for paragraph in shape.iterfind("{*}txBody/{*}p")]
        lines = [(paragraph, line) for paragraph, line in lines if not blank(line)]
        if kind in _TITLES:
            heading = " ".join(" ".join(line for _, line in lines).split())
            found.put(heading, before="## ")
            title = title or heading or None
            continue
        for paragraph, line in lines:
            about = paragraph.find("{*}pPr")
            level = int(about.get("lvl", "0")) if about is not None else 0
            marked = about is not None and any(_name(each) in ("buChar", "buAutoNum", "buBlip") for each in about)
            item = marked or (kind is not None and len(lines) > 1)
            before = f"{'  ' * min(level, _DEEPEST)}- " if item else ""
            found.put(line, before=before, inside=" " * len(before), close=item)
        for table in shape.iterfind("{*}graphic/{*}graphicData/{*}tbl"):
            found.table([[_cell(cell) for cell in row.iterfind("{*}tc")] for row in table.iterfind("{*}tr")])
    return title


def _shapes(root: ElementTree.Element) -> Iterator[ElementTree.Element]:
    """Give what holds text or a table, in groups, too; of alternatives the first one."""
    for each in root:
        name = _name(each)
        if name in ("sp", "graphicFrame"):
            yield each
        elif name in ("cSld", "spTree", "grpSp", "Choice"):
            yield from _shapes(each)
        elif name == "AlternateContent":
            yield from _shapes(next(iter(each), each))


def _placeholder(shape: ElementTree.Element) -> str | None:
    """Return the kind of placeholder that a shape fills, None if it fills none."""
    found = shape.find("{*}nvSpPr/{*}nvPr/{*}ph")
    return None if found is None else found.get("type", "obj")


def _cell(cell: ElementTree.Element) -> str:
    return " ".join(" ".join(_line(each) for each in cell.iterfind("{*}txBody/{*}p")).split())


def _line(paragraph: ElementTree.Element) -> str:
    """Return the text of a paragraph."""
    parts = []
    for run in paragraph:
        text = run.findtext("{*}t") or ""
        about = run.find("{*}rPr")
        if about is not None and not about.get("baseline", "0").startswith(("0", "-")) and _EXPONENT.fullmatch(text):
            text = text.translate(_RAISED)
        parts.append("\n" if _name(run) == "br" else text)
    return "".join(parts)


def _name(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]
