"""Long texts in pieces that can stand alone: whole sentences, and sections of several that a reader can take in."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import sentencex

#: Characters of a section: some 250 words, three or four passages of the encoder.
MAX_CHARS = 1500

_LINES = re.compile(r"[^\n]*\n|[^\n]+")
_WORDS = re.compile(r"\s*\S+\s*")
#: What sentencex 1.0 does not take: lone surrogates, and white space of several bytes behind a capital letter.
_SURROGATE = re.compile("[\ud800-\udfff]")
_WIDE_SPACE = re.compile(r"[^\S\x00-\x7f]")
#: What a border costs, in parts of a section's length away from the ideal, squared. A paragraph's end costs nothing.
_SENTENCE_BORDER = 0.02
_WORD_BORDER = 0.1
#: Pieces of a section at most: bounds the borders that are compared with each other.
_PIECES = 30


@dataclass(frozen=True, slots=True)
class _Piece:
    text: str
    #: What it costs to end a section here.
    cost: float


def sentences(text: str) -> list[str]:
    """Return the sentences of a text, with the white space behind each: joined, they are the text again.

    Abbreviations and numbers do not end a sentence, a blank line does. None of the sentences is blank.
    """
    # What stands for what the library does not take is as long, so the borders are the same.
    fit = _WIDE_SPACE.sub(" ", _SURROGATE.sub("\ufffd", text))
    # Their starts, not their texts: in long texts the library leaves out white space between some of them.
    starts = [sentence["start_index"] for sentence in sentencex.get_sentence_boundaries("en", fit)]
    parts: list[str] = []
    for start, end in pairwise([0, *starts[1:], len(text)]):
        part = text[start:end]
        # White space belongs to the sentence before it, that at the start to the first one.
        if parts and (not part.strip() or not parts[-1].strip()):
            parts[-1] += part
        else:
            parts.append(part)
    return parts if text.strip() else []


def sections(text: str, *, max_chars: int = MAX_CHARS) -> list[str]:
    """Cut a text into sections of at most `max_chars` characters and about equal length, none of them blank.

    Borders are ends of paragraphs where they lie well, else of sentences; a sentence that is too long (a table, a wall
    of text) is cut between lines or words. A text that fits is its own single section, unchanged; sections of a longer
    one have no white space around them.
    """
    if max_chars < 1:
        raise ValueError(f"max_chars={max_chars} leaves no room for text. Give at least 1.")
    if not text.strip():
        return []
    if len(text) <= max_chars:
        return [text]
    pieces = list(_joined(_pieces(text, max_chars), max_chars))
    parts = ("".join(piece.text for piece in pieces[start:end]).strip() for start, end in _spans(pieces, max_chars))
    return [part for part in parts if part]


def _pieces(text: str, max_chars: int) -> Iterator[_Piece]:
    """Give the smallest pieces that a border may lie between, none longer than a section."""
    for sentence in sentences(text):
        cost = 0.0 if _ends_paragraph(sentence) else _SENTENCE_BORDER
        lines = list(_parts(sentence, max_chars, _LINES.findall))
        for line in lines:
            inner = list(_parts(line, max_chars, _WORDS.findall))
            for word in inner[:-1]:
                yield from _hard(word, max_chars, _WORD_BORDER)
            yield from _hard(inner[-1], max_chars, cost if line is lines[-1] else _SENTENCE_BORDER)


def _ends_paragraph(sentence: str) -> bool:
    # Not by a pattern: one that looks for blank lines takes cubic time where they are many.
    return sentence[len(sentence.rstrip()) :].count("\n") > 1


def _parts(text: str, max_chars: int, split: Callable[[str], list[str]]) -> list[str]:
    return [text] if len(text) <= max_chars else split(text) or [text]


def _hard(text: str, max_chars: int, cost: float) -> Iterator[_Piece]:
    """Cut what has no white space to cut at."""
    for start in range(0, len(text), max_chars):
        yield _Piece(text[start : start + max_chars], cost)


def _joined(pieces: Iterator[_Piece], max_chars: int) -> Iterator[_Piece]:
    """Put very short pieces together."""
    held: list[_Piece] = []
    length = 0
    for piece in pieces:
        if held and length + len(piece.text) > max_chars:
            yield _Piece("".join(each.text for each in held), held[-1].cost)
            held, length = [], 0
        held.append(piece)
        length += len(piece.text)
        if length >= max_chars / _PIECES:
            yield _Piece("".join(each.text for each in held), piece.cost)
            held, length = [], 0
    if held:
        yield _Piece("".join(each.text for each in held), held[-1].cost)


def _spans(pieces: list[_Piece], max_chars: int) -> list[tuple[int, int]]:
    """Choose the borders whose sections differ least from equal length, by dynamic programming."""
    lengths = [len(piece.text) for piece in pieces]
    total = sum(lengths)
    ideal = total / -(-total // max_chars)
    best = [0.0]
    came_from = [0]
    for end in range(1, len(pieces) + 1):
        least, source, length = float("inf"), end - 1, 0
        for start in range(end - 1, -1, -1):
            length += lengths[start]
            if length > max_chars:
                break
            cost = best[start] + ((length - ideal) / max_chars) ** 2
            if cost < least:
                least, source = cost, start
        best.append(least + (pieces[end - 1].cost if end < len(pieces) else 0.0))
        came_from.append(source)
    spans = []
    end = len(pieces)
    while end:
        spans.append((came_from[end], end))
        end = came_from[end]
    return spans[::-1]
