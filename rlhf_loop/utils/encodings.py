"""Encodings of text files: UTF-8, and what spreadsheets and older programs write."""

from __future__ import annotations

import codecs
import io
from typing import IO

from rlhf_loop.errors import ImportFileError

UTF_8 = "utf-8"
#: Bytes by which an encoding is told: enough that some letters beyond ASCII are among them.
_LOOKED_AT = 1 << 20
#: Bytes around such letters that are shown to the statistics, which take a while.
_GUESSED_FROM = 1 << 14
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
            f"{name[:60]!r} is not the name of an encoding. Usual ones are utf-8, utf-16, cp1252 and latin-1."
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
    if not guess:
        return UTF_8
    beyond = wrong = 0
    for letter in codecs.getincrementaldecoder(UTF_8)("surrogateescape").decode(start):
        beyond += not letter.isascii()
        wrong += "\udc80" <= letter <= "\udcff"
    return UTF_8 if 2 * wrong <= beyond else _guessed(start)


def recoded(stream: IO[bytes], encoding: str) -> IO[bytes]:
    """Return the same text in UTF-8."""
    return stream if encoding == UTF_8 else io.BufferedReader(_Recoded(stream, encoding))


def _guessed(start: bytes) -> str:
    """Guess an encoding of one or two bytes a letter by the lines that have letters beyond ASCII."""
    import chardet

    telling, size = [], 0
    for line in start.splitlines():
        if size < _GUESSED_FROM and not line.isascii():
            telling.append(line[:1000])
            size += len(telling[-1])
    # Windows' own encodings have all the letters of ISO's, and more signs.
    found = chardet.detect(b"\n".join(telling), encoding_era=chardet.EncodingEra.MODERN_WEB, prefer_superset=True)[
        "encoding"
    ]
    return codecs.lookup(found or "cp1252").name


class _Recoded(io.RawIOBase):
    """Bytes of a text that is recoded while it is read."""

    def __init__(self, stream: IO[bytes], encoding: str) -> None:
        self._stream = stream
        self._encoding = encoding
        self._decoder = codecs.getincrementaldecoder(encoding)()
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
            except UnicodeDecodeError as error:
                wrong = error.object[error.start : error.start + 4].hex(" ")
                raise ImportFileError(
                    f"The file is not in {self._encoding}, as it has the bytes {wrong}. Give the encoding that it has "
                    "with --encoding, or save it as UTF-8."
                ) from None
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count
