"""Text: cleaned where it comes from outside, numbers in sentences, and plain HTML tables."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from contextlib import suppress
from html import escape
from urllib.parse import urlsplit

_LONGEST_LABEL = 2_000
_LOOK = 200
#: Characters for no database and no page: control characters except line breaks and tabs, and lone surrogates.
_UNWANTED = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")

#: A text that begins so is a formula to a spreadsheet (OWASP, CSV injection), some in their wide forms, too.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
# What a database cannot store as text: PostgreSQL has no NUL, and a lone surrogate has no UTF-8 form.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")

#: Line ends of all systems, and Unicode's own.
_LINE_ENDS = ("\r\n", "\r", "\x85", "\u2028", "\u2029")
#: What is not seen: controls, and Unicode's Default_Ignorable_Code_Point.
_UNSEEN_BELOW = (
    "\x00-\x08\x0e-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5"
    "\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
)
_UNSEEN = re.compile(f"[{_UNSEEN_BELOW}\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]")
#: Whether something of it is there is found in a fraction of the time with one range above U+FFFF, and far sooner yet
#: where all are letters of Latin.
_PERHAPS_UNSEEN = re.compile(f"[{_UNSEEN_BELOW}\U00010000-\U0010ffff]")
_ALL_SEEN = re.compile("[\x09-\x0d\x20-\x7e\xa0-\xac\xae-\u034e]*")
#: These letters are seen, as the flag of England or another.
_FLAG = re.compile("(\U0001f3f4[\U000e0020-\U000e007f]+)")
_BLANKS = "\u2800" + "".join(chr(code) for code in range(0x3001) if chr(code).isspace())


def tidied(text: str) -> str:
    """Return the text as it is stored: one newline ends a line, and letters are in Unicode's form NFC.

    What is not seen stays: it may join the parts of an emoji, and a blank at the start an answer to what it completes.
    """
    return unicodedata.normalize("NFC", plain_lines(text))


def visible(text: str) -> str:
    """Return what can be seen of a text, by which it is known again; an empty text where there is nothing to see.

    Lines end with one newline, letters are in Unicode's form NFC; what has no width is gone, and blanks around it are.
    """
    if text.isascii() and text.isprintable():
        return text.strip()
    seen = plain_lines(text)
    if not _ALL_SEEN.fullmatch(seen) and _PERHAPS_UNSEEN.search(seen):
        # Of what is split by a group, every second part is what it matched.
        parts = _FLAG.split(seen)
        parts[::2] = [_UNSEEN.sub("", part) for part in parts[::2]]
        seen = "".join(parts)
    return unicodedata.normalize("NFC", seen).strip(_BLANKS)


def blank(text: str) -> bool:
    """Tell whether there is nothing to see in a text."""
    return not visible(text[:_LOOK]) and not visible(text)  # of a long one the start tells, nearly always


def plain_lines(text: str) -> str:
    """Return the text with one newline at the end of each line."""
    for end in _LINE_ENDS:
        text = text.replace(end, "\n")
    return text


def unstorable(text: str) -> re.Match[str] | None:
    """Return the first character that no database takes, None if there is none."""
    with suppress(UnicodeEncodeError):  # many times as fast as the pattern on a text of a million characters
        text.encode()
        if "\x00" not in text:
            return None
    return _UNSTORABLE.search(text)


def clean_text(text: str) -> str:
    """Return the text without control characters and without white space around it; its lines end with one newline."""
    return _UNWANTED.sub("", text.replace("\r\n", "\n").replace("\r", "\n")).strip()


def one_line(text: object) -> str | None:
    """Return a title or the like in one line of at most 2,000 characters, None if there is nothing to read."""
    return (" ".join(clean_text(text[:_LONGEST_LABEL]).split()) or None) if isinstance(text, str) else None


def without_formula(text: str) -> str:
    """Return the text with an apostrophe before it if a spreadsheet would take it for a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def web_address(url: object) -> str | None:
    """Return the URL if it leads to a page of the web, else None: others (javascript:) must not become links."""
    if not isinstance(url, str) or len(url) > _LONGEST_LABEL or _UNWANTED.search(url) or url.split() != [url]:
        return None
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    return url if parts.scheme in ("http", "https") and parts.hostname else None


def clause(said: object) -> str:
    """Return what somebody else's error says as a part of a sentence: without its full stop."""
    text = str(said)
    bare = text.strip().rstrip(".")
    # What can be translated stays so.
    return text if bare == text else bare


def sentence(said: str) -> str:
    """Return words of a person with a full stop, unless they end in such a mark."""
    return said if said.endswith((".", "!", "?")) else f"{said}."


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return "1 row", "2 rows", "1,200 rows"; `plural` is for nouns that take more than an s."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def verb(number: int, one: str, several: str) -> str:
    """Return the verb that goes with so many: 1 is, 2 are."""
    return one if number == 1 else several


def percent(share: float) -> str:
    """Return "72 %", which no line breaks apart."""
    return f"{100 * share:.0f}\N{NO-BREAK SPACE}%"


def listed(names: Sequence[str]) -> str:
    """Return "a", "a and b", "a, b and c"."""
    *before, last = names
    return f"{', '.join(before)} and {last}" if before else last


def html_table(header: Sequence[str], rows: Iterable[Sequence[object]], *, above: Iterable[str] = ()) -> str:
    """Return a plain HTML table with a paragraph for each text `above` it; all texts are escaped.

    It has no colours of its own, so that it can be read in a notebook's light and dark alike.
    """
    paragraphs = "".join(f"<p>{escape(text)}</p>" for text in above)
    names = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
    lines = "".join(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    return f"{paragraphs}<table><thead><tr>{names}</tr></thead><tbody>{lines}</tbody></table>"
