"""Files that are one document each: Markdown, plain text and PDF, read into a title and a text."""

from __future__ import annotations

import codecs
import gzip
import logging
import re
import zlib
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_loop.errors import DocumentError, ImportFileError
from rlhf_loop.utils.rows import is_special, open_stream

#: Longer than any book; a document is embedded as a whole, or not at all.
MAX_CHARS = 5_000_000

_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.*?\n)??(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_FRONT_TITLE = re.compile(r"^title:[ \t]*(.+?)[ \t]*$", re.MULTILINE | re.IGNORECASE)
_FENCE = re.compile(r"^(`{3,}|~{3,}).*?(?:^\1[`~]*[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^ {0,3}#{1,6}[ \t]+(.+?)[ \t]*#*[ \t]*$|^(\S.*)\n(?:=+|-+)[ \t]*$", re.MULTILINE)
_HYPHENATION = re.compile(r"(?<=[^\W\d_])-\n(?=[a-zß-ÿ])")
_LINE_END = re.compile(r"(?<!\n)[ \t]*\n(?!\s*\n)[ \t]*")


@dataclass(frozen=True, slots=True)
class Prose:
    """What a file says, and the title it gives itself, if it does."""

    text: str
    title: str | None = None


def read_text(path: Path) -> Prose:
    """Read a plain text file, UTF-8, also gzip-compressed.

    Raises:
        DocumentError: it cannot be read, is not UTF-8, or is no text.
    """
    return Prose(_decoded(path))


def read_markdown(path: Path) -> Prose:
    """Read a Markdown file; its title is that of the front matter, which is left out, or the first heading.

    Raises:
        DocumentError: see `read_text`.
    """
    text = _decoded(path)
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
    from pypdf import PdfReader
    from pypdf.errors import DependencyError, FileNotDecryptedError

    # What it can mend by itself it says in the log, line by line.
    logging.getLogger("pypdf").setLevel(logging.ERROR)
    place = ""
    try:
        if is_special(path):
            raise DocumentError(f"{str(path)!r} is a pipe or a device. Save it to a file first.")
        with path.open("rb") as file:
            reader = PdfReader(file)
            if reader.is_encrypted and not reader.decrypt(""):
                raise _encrypted(path)
            title = _pdf_title(reader)
            pages = []
            for number, page in enumerate(reader.pages, start=1):
                place = f" at page {number}"
                pages.append(page.extract_text())
    except OSError as error:
        raise DocumentError(f"The file {str(path)!r} cannot be read: {error.strerror}. Check its name.") from error
    except (DependencyError, FileNotDecryptedError) as error:
        raise _encrypted(path) from error
    except DocumentError:
        raise
    except Exception as error:  # of a damaged file pypdf raises whatever its bytes lead to, KeyError and so on
        raise DocumentError(
            f"The PDF {str(path)!r} is damaged{place}: {error or type(error).__name__}. Make it anew, or print it to a "
            "new PDF."
        ) from error
    text = "\n".join(_LINE_END.sub(" ", _HYPHENATION.sub("", page)) for page in pages)
    # Fonts without a table of their characters give these.
    text = text.replace("\0", "").encode("utf-8", "replace").decode()
    if not text.strip():
        raise DocumentError(
            f"The PDF {str(path)!r} has no text on its {len(pages)} page(s): it may be scanned. Let a program for "
            "character recognition (OCR) add the text, and try again."
        )
    return Prose(text, title)


def _pdf_title(reader: Any) -> str | None:
    try:
        title = reader.metadata.title if reader.metadata else None
    except Exception:  # the text may be whole even where the metadata is not
        return None
    return str(title).replace("\0", "").strip() or None if title else None


def _encrypted(path: Path) -> DocumentError:
    return DocumentError(f"The PDF {str(path)!r} is encrypted. Save it without a password and try again.")


def _decoded(path: Path) -> str:
    """Read a UTF-8 text with its line ends as `\\n`."""
    try:
        with ExitStack() as stack:
            _, stream = open_stream(path, stack, text=True)
            raw = stream.read(4 * MAX_CHARS + 4)
    except ImportFileError as error:
        raise DocumentError(str(error)) from error
    except IsADirectoryError as error:
        raise DocumentError(f"{str(path)!r} is a folder, not a file. Give the folder itself.") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DocumentError(f"The file {str(path)!r} is damaged: {error}. Make it anew.") from error
    if b"\0" in raw:
        raise DocumentError(f"The file {str(path)!r} holds NUL bytes: it is no text. Save it as text in UTF-8.")
    try:
        text = raw.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DocumentError(f"The file {str(path)!r} is not UTF-8 in line {line}. Save it as UTF-8.") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")
