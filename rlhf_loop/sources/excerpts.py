"""Excerpts: sentences and sections of long texts, the parts that fit a question, and search words of a question."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

import sentencex

from rlhf_loop.domain import Passage
from rlhf_loop.reward.lexical import content_words, coverage, terms, words
from rlhf_loop.utils.languages import ENGLISH, Language, language_named
from rlhf_loop.utils.text import clean_text

#: Characters of a section: some 250 words, three or four passages of the encoder.
MAX_CHARS = 1500

_EN = language_named(ENGLISH)
_LINES = re.compile(r"[^\n]*\n|[^\n]+")
_WORDS = re.compile(r"\s*\S+\s*")
_FENCE = re.compile(r" {0,3}(`{3,}(?=[^`]*$)|~{3,})")
_BELOW_HEADER = re.compile(r"(?=.*-)(?=.*\|)[ \t|:-]+$")
#: What sentencex 1.0 does not take: lone surrogates, and white space of several bytes behind a capital letter.
_SURROGATE = re.compile("[\ud800-\udfff]")
_WIDE_SPACE = re.compile(r"[^\S\x00-\x7f]")
#: What a border costs, in parts of a section's length away from the ideal, squared. A paragraph's end costs nothing.
_SENTENCE_BORDER = 0.02
_WORD_BORDER = 0.1
#: Pieces of a section at most: bounds the borders that are compared with each other.
_PIECES = 30
_ENDS = frozenset(".?!:;…。！？؟।\"'”’»)]}|")
_BEGINS_INSIDE = re.compile(r"[a-zà-öø-ÿ]+[\s,;:.?!)]")
#: Characters below which a section is a remainder: a lone link, the caption of a table that is not there.
_SHORTEST = 25
#: CirrusSearch refuses queries of more than 300 characters; this leaves room for what joins the words.
_CHARS = 200
_LONGEST_WORD = 50
#: What `clean_text` leaves in: further control characters, byte order marks, changes of the text's direction.
_UNSEEN = re.compile("[\x80-\x9f\u202a-\u202e\u2066-\u2069\ufeff]")
_NAMES = (
    "a|abbr|b|big|blockquote|br|center|cite|code|dd|del|div|dl|dt|em|font|h[1-6]|hr|i|img|ins|kbd|li|math|ol|p|pre|q|s|"
    "samp|script|small|span|strong|style|sub|sup|table|tbody|td|th|thead|tr|tt|u|ul|var"
)
#: Tags of HTML by name, since not all that stands between < and > is one: "p < 0.05 and n > 30".
_TAG = re.compile(
    rf"</?(?:{_NAMES})(?:\s+[\w:-]+(?:\s*=\s*(?:\"[^\"]*\"|'[^']*'|[^\s<>\"'=]+))?)*\s*/?>", re.IGNORECASE
)
_BLANKS = re.compile(r"[^\S\n]+")
_AROUND_LINES = re.compile(r" ?\n ?")
_GAPS = re.compile(r"\n{3,}")


def sentences(text: str, language: Language = _EN) -> list[str]:
    """Return the sentences of a text, with the white space behind each: joined, they are the text again.

    Abbreviations and numbers do not end a sentence, a blank line does. None of the sentences is blank.
    """
    # What stands for what the library does not take is as long, so the borders are the same.
    fit = _WIDE_SPACE.sub(" ", _SURROGATE.sub("\ufffd", text))
    # Their starts, not their texts: in long texts the library leaves out white space between some of them.
    starts = [sentence["start_index"] for sentence in sentencex.get_sentence_boundaries(language.code, fit)]
    parts: list[str] = []
    for start, end in pairwise([0, *starts[1:], len(text)]):
        part = text[start:end]
        # White space belongs to the sentence before it, that at the start to the first one.
        if parts and (not part.strip() or not parts[-1].strip()):
            parts[-1] += part
        else:
            parts.append(part)
    return parts if text.strip() else []


def sections(text: str, language: Language = _EN, *, max_chars: int = MAX_CHARS) -> list[str]:
    """Cut a text into sections of at most `max_chars` characters and about equal length, none of them blank.

    Borders are ends of paragraphs where they lie well, else of sentences; a sentence that is too long (a wall of text)
    is cut between lines or words. None lies in fenced code or a table of Markdown; where that is longer than a section,
    each part of it begins with its first lines again. A text that fits is its own single section, unchanged; sections
    of a longer one have no white space around them.
    """
    if max_chars < 1:
        raise ValueError(f"max_chars={max_chars} leaves no room for text. Give at least 1.")
    if not text.strip():
        return []
    if len(text) <= max_chars:
        return [text]
    pieces = list(_joined(_pieces(text, language, max_chars), max_chars))
    parts = ("".join(piece.text for piece in pieces[start:end]).strip() for start, end in _spans(pieces, max_chars))
    return [part for part in parts if part]


def excerpt(query: str, text: str, language: Language = _EN, *, whole: bool = False) -> str:
    """Return the part of a passage that is shown as an answer: whole sentences that fit the question best.

    A text of at most `MAX_CHARS` characters is only freed of a sentence that is cut off at its start or end; it stays
    as it is if it is known to be `whole`.
    """
    if whole and len(text) <= MAX_CHARS:
        return text
    parts = sections(text, language)
    if len(parts) > 1:
        wanted = set(terms(query, language))
        # max() keeps the first of equals: where no word tells, a text's beginning says best what it is about.
        text = max(parts, key=lambda part: len(wanted & set(terms(part, language))))
    return whole_sentences(text, language)


def whole_sentences(text: str, language: Language = _EN) -> str:
    """Leave out what is cut off: a first sentence that begins in its middle, a last one without an end.

    A last line of its own, such as a list's, needs no full stop; and something always stays.
    """
    if len(text) <= MAX_CHARS and _ended(text) and not _BEGINS_INSIDE.match(text):
        return text
    parts = sentences(text, language)
    if len(parts) > 1 and _BEGINS_INSIDE.match(parts[0]):
        parts = parts[1:]
    if len(parts) > 1 and not _ended(parts[-1]) and not parts[-2].endswith("\n"):
        parts = parts[:-1]
    return "".join(parts).strip()


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a document under one heading, which may be empty."""

    heading: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A document that a search found: its parts in their order, and the origin that each passage has to name."""

    title: str
    parts: tuple[Part, ...]
    url: str | None
    licence: str | None
    retrieved_at: datetime


def best_passages(
    question: str, documents: Sequence[Document], language: Language = _EN, *, limit: int
) -> list[Passage]:
    """Return the sections with most of the question's terms: the best of each document, then the second best, ...

    Of one round, those with more of the terms come first. A further section of a document must have at least one.
    """
    wanted = terms(question, language)
    queues = [_by_score(wanted, document, language) for document in documents]
    chosen: list[Passage] = []
    for place in range(max(map(len, queues), default=0)):
        row = [queue[place] for queue in queues if len(queue) > place]
        row.sort(key=lambda scored: scored.score, reverse=True)
        chosen += [scored.passage for scored in row if place == 0 or any(scored.score)]
    return chosen[:limit]


def search_words(question: str, language: Language = _EN, *, at_most: int) -> list[str]:
    """Return the words that carry the question's meaning, in its order, casefolded, letters and digits only.

    Of a long question, those that it repeats come first, then the longest. Where no word carries meaning, all count.
    """
    every = words(question, language)
    found = [word[:_LONGEST_WORD] for word in content_words(question, language) or dict.fromkeys(every)]
    counts = Counter(word[:_LONGEST_WORD] for word in every)
    chosen: list[str] = []
    for word in sorted(dict.fromkeys(found), key=lambda word: (-counts[word], -len(word))):
        if len(chosen) < at_most and sum(map(len, chosen)) + len(word) <= _CHARS:
            chosen.append(word)
    return [word for word in dict.fromkeys(found) if word in chosen]


def longest_first(chosen: list[str]) -> list[str]:
    """Return the same words, the longest first: of two words, it is mostly the rarer one."""
    return sorted(chosen, key=lambda word: -len(word))


def without_markup(text: str) -> str:
    """Return the text without tags of HTML, control characters and superfluous white space; paragraphs stay."""
    text = _TAG.sub("", _UNSEEN.sub("", clean_text(text)))
    return _GAPS.sub("\n\n", _AROUND_LINES.sub("\n", _BLANKS.sub(" ", text))).strip()


@dataclass(frozen=True, slots=True)
class _Piece:
    text: str
    #: What it costs to end a section here.
    cost: float


def _pieces(text: str, language: Language, max_chars: int) -> Iterator[_Piece]:
    """Give the smallest pieces that a border may lie between, none longer than a section."""
    for block, head in _blocks(text):
        if not block.strip() or (head and len(block) <= max_chars):
            yield from _hard(block, max_chars, 0.0)
        else:
            yield from (head and _repeated(block, head, max_chars)) or _of_prose(block, language, max_chars)


def _blocks(text: str) -> Iterator[tuple[str, int]]:
    """Give a text's parts, with how many lines of Markdown begin fenced code (1) or a table (2), and 0 for prose."""
    if not any(mark in text for mark in ("```", "~~~", "|")):
        yield text, 0
        return
    lines = _LINES.findall(text)
    start = place = 0
    any_closed = True
    while place < len(lines):
        end, head = place, 0
        if any_closed and (fence := _FENCE.match(lines[place])):
            closes = re.compile(rf" {{0,3}}{fence[1]}{fence[1][0]}*\s*$")
            end = next((line for line in range(place + 1, len(lines)) if closes.match(lines[line])), place - 1) + 1
            any_closed, head = end > place, 1
        elif "|" in lines[place] and _BELOW_HEADER.match("".join(lines[place + 1 : place + 2])):
            end = next((line for line in range(place + 2, len(lines)) if "|" not in lines[line]), len(lines))
            head = 2
        if end > place:
            yield "".join(lines[start:place]), 0
            yield "".join(lines[place:end]), head
            start = place = end
        else:
            place += 1
    yield "".join(lines[start:]), 0


def _repeated(block: str, head: int, max_chars: int) -> list[_Piece]:
    """Cut code or a table between lines, each part with the lines that begin it; return none where there is no room."""
    lines = _LINES.findall(block)
    first, last = "".join(lines[:head]), lines[-1] if head == 1 else ""
    room = max_chars - len(first) - len(last) - 1
    inside = lines[head : len(lines) - (head == 1)]
    if room < max_chars / 2 or max(map(len, inside)) > room:
        return []
    parts = [""]
    for line in inside:
        if len(parts[-1]) + len(line) > room:
            parts.append("")
        parts[-1] += line
    return [_Piece(f"{first}{part}{last}".rstrip("\n") + "\n", 0.0) for part in parts]


def _of_prose(text: str, language: Language, max_chars: int) -> Iterator[_Piece]:
    for sentence in sentences(text, language):
        # Not by a pattern: one that looks for blank lines takes cubic time where they are many.
        ends_paragraph = sentence[len(sentence.rstrip()) :].count("\n") > 1
        cost = 0.0 if ends_paragraph else _SENTENCE_BORDER
        lines = list(_parts(sentence, max_chars, _LINES.findall))
        for line in lines:
            inner = list(_parts(line, max_chars, _WORDS.findall))
            for word in inner[:-1]:
                yield from _hard(word, max_chars, _WORD_BORDER)
            yield from _hard(inner[-1], max_chars, cost if line is lines[-1] else _SENTENCE_BORDER)


def _parts(text: str, max_chars: int, split: Callable[[str], list[str]]) -> list[str]:
    return [text] if len(text) <= max_chars else split(text) or [text]


def _hard(text: str, max_chars: int, cost: float) -> Iterator[_Piece]:
    """Cut what has no white space to cut at."""
    for start in range(0, len(text), max_chars):
        yield _Piece(text[start : start + max_chars], cost)


def _joined(pieces: Iterator[_Piece], max_chars: int) -> Iterator[_Piece]:
    """Put very short pieces together."""
    held: _Piece | None = None
    for piece in pieces:
        if held and len(held.text) + len(piece.text) > max_chars:
            yield held
            held = None
        held = _Piece(held.text + piece.text, piece.cost) if held else piece
        if len(held.text) >= max_chars / _PIECES:
            yield held
            held = None
    if held:
        yield held


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


def _ended(text: str) -> bool:
    return text.rstrip()[-1:] in _ENDS


@dataclass(frozen=True, slots=True)
class _ScoredPart:
    passage: Passage
    score: tuple[float, float]


def _by_score(wanted: Sequence[str], document: Document, language: Language) -> list[_ScoredPart]:
    named = set(terms(document.title, language))
    # What the title says is what all of the document is about, and so tells its sections apart no further.
    open_terms = [term for term in wanted if term not in named] or list(wanted)
    scored = []
    for part in document.parts:
        heading = terms(part.heading, language)
        for text in sections(part.text, language):
            if len(text) >= _SHORTEST or len(document.parts) == 1:
                passage = Passage(
                    text=text,
                    title=document.title,
                    url=document.url,
                    licence=document.licence,
                    retrieved_at=document.retrieved_at,
                    whole=True,
                )
                score = coverage(open_terms, [*heading, *terms(text, language)]), coverage(open_terms, heading)
                scored.append(_ScoredPart(passage, score))
    scored.sort(key=lambda each: each.score, reverse=True)
    return scored
