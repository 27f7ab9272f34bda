"""Encodings of text files: UTF-8, and what spreadsheets and older programs write."""

from __future__ import annotations

import codecs
import io
import re
from typing import IO

from rlhf_loop.errors import ImportFileError
from rlhf_loop.utils.translation import Message

UTF_8 = "utf-8"
#: Bytes by which an encoding is told: enough that some letters beyond ASCII are among them.
_LOOKED_AT = 1 << 20
#: Bytes around such letters that are shown to the statistics, which take a while.
_GUESSED_FROM = 1 << 14
#: Bytes beyond ASCII that tell enough of what is not Western.
_ENOUGH = 8
#: Letters and signs of texts in the languages of Western Europe.
_WESTERN = {chr(code) for code in range(128)} | set(
    "äöüßÄÖÜéèêëàâáãåçñíìîïóòôõøúùûæœÉÈÊËÀÂÁÃÅÇÑÍÌÎÏÓÒÔÕØÚÙÛÆŒ¿¡«»„“”‚‘’‹›–—…€£§°·ªº²³µ×®©™½¼±\u00a0\u00ad"
)
_LATIN = ("cp1250", "cp1252", "cp1254", "cp1257", "cp1258")
_MARKS = (
    (codecs.BOM_UTF8, UTF_8),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def known_encoding(name: str) -> str:
    """Return Python's name of an encoding of texts.

    Raises:
        ImportFileError: there is none of that name.
    """
    try:
        "".encode(name)
        return codecs.lookup(name).name
    except (LookupError, ValueError, UnicodeError):
        raise ImportFileError(
            Message(
                "{name!r} is not the name of an encoding. Usual ones are utf-8, utf-16, cp1252 and latin-1.",
                name=name[:60],
            )
        ) from None


def likely_encoding(stream: IO[bytes], *, guess: bool) -> str:
    """Return the encoding of what begins here.

    It is UTF-8 where a mark or the bytes say so, where some bytes are wrong in what is UTF-8 otherwise, and where
    nothing else says what it is and it is not to be guessed, as JSON is in UTF-8 by its standard.
    """
    start = stream.read(_LOOKED_AT)
    for mark, encoding in _MARKS:
        if start.startswith(mark):
            return encoding
    for encoding, zeros in (("utf-16-le", start[1:200:2]), ("utf-16-be", start[0:200:2])):
        if zeros.count(0) > len(zeros) / 2:
            return encoding
    text = codecs.getincrementaldecoder(UTF_8)("surrogateescape").decode(start)
    beyond: list[str] = re.findall(r"[^\x00-\x7f]", text)
    wrong = sum("\udc80" <= letter <= "\udcff" for letter in beyond)
    right = len(beyond) - wrong
    # By chance some pairs of bytes are right in encodings of two bytes a letter.
    if not guess or 2 * right >= wrong:
        return UTF_8
    return _guessed(start, western=not right) or UTF_8


def recoded(stream: IO[bytes], encoding: str) -> IO[bytes]:
    """Return the same text in UTF-8."""
    return stream if encoding == UTF_8 else io.BufferedReader(_Recoded(stream, encoding))


def _guessed(start: bytes, *, western: bool) -> str | None:
    """Guess an encoding of one or two bytes a letter, where enough tells which it is; `western` if it may be cp1252."""
    import chardet

    telling = b"\n".join(line[:1000] for line in start.splitlines() if not line.isascii())[:_GUESSED_FROM]
    letters = len(re.findall(rb"[A-Za-z]", telling))
    beyond = len(re.findall(rb"[\x80-\xff]", telling))
    try:
        western = western and beyond <= letters and not set(telling.decode("cp1252")) - _WESTERN
    except UnicodeDecodeError:
        western = False
    if western:
        return "cp1252"
    if beyond < _ENOUGH:
        return None
    # Windows' own encodings have all the letters of ISO's, and more signs.
    found = chardet.detect(telling, encoding_era=chardet.EncodingEra.MODERN_WEB, prefer_superset=True)["encoding"]
    encoding = codecs.lookup(found).name if found else None
    # Texts in other scripts have few Latin letters, and those in Latin script have few others.
    return encoding if encoding and (encoding in _LATIN) == (beyond < letters / 2) else None


class _Recoded(io.RawIOBase):
    """Bytes of a text that is recoded while it is read."""

    def __init__(self, stream: IO[bytes], encoding: str) -> None:
        self._stream = stream
        self._encoding = encoding
        # What is wrong in a row comes through as bytes that are not UTF-8, so that the row can be named.
        errors = "surrogatepass" if encoding.startswith(("utf-16", "utf-32")) else "surrogateescape"
        self._decoder = codecs.getincrementaldecoder(encoding)(errors)
        self._ready = b""
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        while not (self._ready or self._ended):
            part = self._stream.read(io.DEFAULT_BUFFER_SIZE)
            self._ended = not part
            try:
                self._ready = self._decoder.decode(part, final=self._ended).encode(UTF_8, "surrogatepass")
            except UnicodeError as error:
                raise ImportFileError(
                    Message(
                        "The file is not in {encoding}: {error}. Give the encoding that it has with --encoding "
                        "(utf-16-le, if it is UTF-16 without a mark), or save it as UTF-8.",
                        encoding=self._encoding,
                        error=str(error),
                    )
                ) from None
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count
