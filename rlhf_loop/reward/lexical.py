"""Words of a question found again in an answer: what a sentence vector blurs, such as the name of a rare disease."""

from __future__ import annotations

import re
from collections.abc import Sequence

import Stemmer

_WORD = re.compile(r"[^\W_]+")
_SENTENCE_END = re.compile(r"(?<=[.?!])\s+")
_TITLE = re.compile(r"(.{10,200}?[.?!:])(?:\s|$)", re.DOTALL)
_TITLE_LENGTH = 200
#: Porter 2, "The English stemmer" of Snowball (Porter 2001). For another language, another stemmer.
_LANGUAGE = "english"
#: Each byte of an ASCII text as a word has it: a lower-case letter or a digit, or else a blank.
_IN_A_WORD = "".join(chr(code).lower() if chr(code).isalnum() and code < 128 else " " for code in range(256)).encode()

#: Words that say nothing about the subject of a question.
_STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a about am an and any are as at be been but by can could did do does for from get had has have he help her "
        "his how i if in information into is it its just know like me my need no not of on or our please she should "
        "so some tell than that the their then there these they this those to us was we were what when where which "
        "who why will with would you your",
    )
)


def words(text: str) -> list[str]:
    """Return the words of `text`, casefolded."""
    if text.isascii():  # the same, and much quicker
        return text.encode().translate(_IN_A_WORD).decode().split()
    return _WORD.findall(text.casefold())


def content_words(text: str) -> list[str]:
    """Return the words that carry meaning, each once, in order, as written but casefolded."""
    return list(dict.fromkeys(word for word in words(text) if _has_meaning(word)))


def terms(text: str) -> list[str]:
    """Return the stems of the words that carry meaning (disease and diseases: diseas), in order, with repetitions."""
    return [stem for word in words(text) if (stem := term(word)) is not None]


def term(word: str) -> str | None:
    """Return the stem of a casefolded word, None if the word carries no meaning."""
    # A new stemmer each time costs nothing; one that is shared would need a lock: it keeps the word it is at in itself.
    return str(Stemmer.Stemmer(_LANGUAGE, 0).stemWord(word)) if _has_meaning(word) else None


def sentences(text: str) -> list[str]:
    """Return the sentences of `text` that have at least two words; the whole text if none has."""
    return [part for part in _SENTENCE_END.split(text) if len(part.split()) > 1] or [text]


def title(text: str) -> str:
    """Return the heading or the first sentence: up to the first `.`, `?`, `!` or `:`, at most 200 characters."""
    match = _TITLE.match(text)
    return match.group(1) if match else text[:_TITLE_LENGTH]


def coverage(wanted: Sequence[str], found: Sequence[str]) -> float:
    """Return the share of the distinct terms `wanted` that are among `found`; 0 if nothing is wanted."""
    distinct = set(wanted)
    return len(distinct.intersection(found)) / len(distinct) if distinct else 0.0


def best_window_coverage(wanted: Sequence[str], found: Sequence[str], *, size: int = 50, stride: int = 20) -> float:
    """Return the highest coverage that any window of `size` consecutive terms of `found` reaches."""
    starts = range(0, max(1, len(found) - size + stride), stride)
    return max(coverage(wanted, found[start : start + size]) for start in starts)


def _has_meaning(word: str) -> bool:
    return len(word) > 1 and word not in _STOP_WORDS
