"""Words of a question found again in an answer: what a sentence vector blurs, such as the name of a rare disease.

Terms are numbers here, so that a question meets all its candidates at once. The tests have the plain definition, text
by text, and hold this against it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import Stemmer
from numpy.typing import NDArray

from rlhf_loop.utils.arrays import Floats, Ints
from rlhf_loop.utils.languages import ENGLISH, Language, language_named
from rlhf_loop.utils.lru import LRUCache

_WORD = re.compile(r"[^\W_]+")
_SENTENCE_END = re.compile(r"(?<=[.?!])\s+")
_TITLE = re.compile(r"(.{10,200}?[.?!:])(?:\s|$)", re.DOTALL)
#: The same where other signs end sentences as well, without a blank behind them.
_SENTENCE_END_ANYWHERE = re.compile(r"(?<=[.?!؟।])\s+|(?<=[。？！])\s*(?=\S)")
_TITLE_ANYWHERE = re.compile(r"(.{3,200}?(?:[。？！：]|[.?!:؟।](?=\s|$)))", re.DOTALL)
_TITLE_LENGTH = 200
#: Each byte of an ASCII text as a word has it: a lower-case letter or a digit, or else a blank.
_IN_A_WORD = "".join(chr(code).lower() if chr(code).isalnum() and code < 128 else " " for code in range(256)).encode()
#: Runs of characters that are written without blanks between words: Thai, Lao, Burmese, Khmer, kana, Chinese.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+"
)
_EN = language_named(ENGLISH)
Numbers = NDArray[np.int64]
#: Memory for the terms of texts seen lately: those of 3,000 long answers or more.
MAX_BYTES = 8 * 1024**2
#: Words whose numbers are remembered, some 4 MB; the language of a subject has fewer.
_MAX_WORDS = 30_000
_NO_TERM = 0


def words(text: str, language: Language = _EN) -> list[str]:
    """Return the words of `text`, casefolded; where blanks are not between words, pairs of characters."""
    if text.isascii():  # the same, and much quicker
        return text.encode().translate(_IN_A_WORD).decode().split()
    found = _WORD.findall(text.casefold())
    return found if language.spaced else [part for word in found for part in _bigrams(word)]


def content_words(text: str, language: Language = _EN) -> list[str]:
    """Return the words that carry meaning, each once, in order, as written but casefolded."""
    return list(dict.fromkeys(word for word in words(text, language) if _has_meaning(word, language)))


def terms(text: str, language: Language = _EN) -> list[str]:
    """Return the stems of the words that carry meaning (disease and diseases: diseas), in order, with repetitions."""
    return [stem for word in words(text, language) if (stem := term(word, language)) is not None]


def term(word: str, language: Language = _EN) -> str | None:
    """Return the stem of a casefolded word, None if the word carries no meaning."""
    if not _has_meaning(word, language):
        return None
    # A new stemmer each time costs nothing; one that is shared would need a lock: it keeps the word it is at in itself.
    return word if language.stems is None else str(Stemmer.Stemmer(language.stems, 0).stemWord(word))


def sentences(text: str, language: Language = _EN) -> list[str]:
    """Return the sentences of `text` that have at least two words; the whole text if none has."""
    if language.code == ENGLISH:
        return [part for part in _SENTENCE_END.split(text) if len(part.split()) > 1] or [text]
    parts = _SENTENCE_END_ANYWHERE.split(text)
    return [part for part in parts if len(words(part, language)) > 1] or [text]


def question_parts(prompt: str, language: Language = _EN) -> list[list[str]]:
    """Return the texts that are embedded of a question: itself, its sentences, and its words that carry meaning."""
    return [[prompt], sentences(prompt, language), content_words(prompt, language)]


def title(text: str, language: Language = _EN) -> str:
    """Return the heading or the first sentence: up to the first `.`, `?`, `!` or `:`, at most 200 characters."""
    match = (_TITLE if language.code == ENGLISH else _TITLE_ANYWHERE).match(text)
    return match.group(1) if match else text[:_TITLE_LENGTH]


def coverage(wanted: Sequence[str], found: Sequence[str]) -> float:
    """Return the share of the distinct terms `wanted` that are among `found`; 0 if nothing is wanted."""
    distinct = set(wanted)
    return len(distinct.intersection(found)) / len(distinct) if distinct else 0.0


class TermIndex:
    """Measures how the words of a question are found again in answers; what it has read of a text it remembers."""

    def __init__(self, language: Language = _EN, *, max_bytes: int = MAX_BYTES) -> None:
        self._language = language
        self._number = _WordNumbers(language)
        self._known: LRUCache[_Terms] = LRUCache(max_bytes=max_bytes)

    def features(self, prompt: str, responses: Sequence[str]) -> Floats:
        """Return a row for each response: terms in title, terms in one passage, log of distinct terms."""
        wanted = np.unique(self._numbers(prompt))
        answers = [self._terms(response) for response in responses]
        in_title = _coverage(wanted, [answer.title for answer in answers])
        in_window = _best_window_coverage(wanted, [answer.text for answer in answers])
        # Distinct ones: what is said twice makes an answer longer, not richer.
        return np.stack([in_title, in_window, np.log1p([answer.distinct for answer in answers])], axis=1)

    def _terms(self, text: str) -> _Terms:
        key = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        known = self._known.get(key)
        if known is None:
            numbers = self._numbers(text)
            known = _Terms(numbers, self._numbers(title(text, self._language)), len(set(numbers.tolist())))
            self._known.put(key, known, known.text.nbytes + known.title.nbytes)
        return known

    def _numbers(self, text: str) -> Numbers:
        numbers = np.array(list(map(self._number.__getitem__, words(text, self._language))), dtype=np.int64)
        terms: Numbers = numbers[numbers != _NO_TERM]
        return terms


def _has_meaning(word: str, language: Language) -> bool:
    return len(word) > 1 and word not in language.stop_words


def _bigrams(word: str) -> list[str]:
    """Return the parts of a run of letters and digits: each two neighbours of what is written without blanks."""
    parts: list[str] = []
    end = 0
    for run in _UNSPACED.finditer(word):
        if run.start() > end:
            parts.append(word[end : run.start()])
        end = run.end()
        text = run.group()
        parts += [text[place : place + 2] for place in range(max(1, len(text) - 1))]
    return parts if end == len(word) else [*parts, word[end:]]


@dataclass(frozen=True, slots=True)
class _Terms:
    """The terms of an answer and of its title, in order and with repetitions, and how many distinct ones it has."""

    text: Numbers
    title: Numbers
    distinct: int


class _WordNumbers(dict[str, int]):
    """A number for the term of each word, or `_NO_TERM`; of words with the same term the same number.

    Numbers are hashes, so no list of terms has to be kept: two of a million terms share one with a chance of 1 in
    10 million. They hold in one process only, as do Python's hashes of texts.
    """

    def __init__(self, language: Language) -> None:
        super().__init__()
        self._language = language

    def __missing__(self, word: str) -> int:
        stem = term(word, self._language)
        number = _NO_TERM if stem is None else hash(stem)
        if len(self) >= _MAX_WORDS:
            self.clear()
        self[word] = number
        return number


@dataclass(frozen=True, slots=True)
class _TermHits:
    """Places of wanted terms: for each find the text, the position in it, and which of the terms it is."""

    text: Ints
    position: Ints
    term: Ints


def _find(wanted: Numbers, texts: Sequence[Numbers]) -> _TermHits:
    """Find the terms `wanted`, sorted and at least one, in all texts."""
    numbers = np.concatenate(texts)
    term = np.minimum(np.searchsorted(wanted, numbers), len(wanted) - 1)
    found = np.flatnonzero(wanted[term] == numbers)
    ends = np.cumsum([len(text) for text in texts])
    text = np.searchsorted(ends, found, side="right")
    return _TermHits(text, found - (ends - [len(text) for text in texts])[text], term[found])


def _coverage(wanted: Numbers, texts: Sequence[Numbers]) -> Floats:
    """Return for each text the share of the wanted terms that it has; 0 if none are wanted."""
    if not len(wanted):
        return np.zeros(len(texts))
    found = _find(wanted, texts)
    return _shares(found.text, found.term, len(texts), len(wanted))


def _best_window_coverage(wanted: Numbers, texts: Sequence[Numbers], *, size: int = 50, stride: int = 20) -> Floats:
    """Return for each text the highest share that any window of `size` consecutive terms reaches."""
    if not len(wanted):
        return np.zeros(len(texts))
    found = _find(wanted, texts)
    windows = np.array([len(range(0, max(1, len(text) - size + stride), stride)) for text in texts])
    first = np.cumsum(windows) - windows
    # A term stands in the last window that starts before it, and in those before that reach as far as it.
    back = np.arange(-(-size // stride))[:, np.newaxis]
    window = found.position // stride - back
    inside = (window >= 0) & (window < windows[found.text]) & (found.position - window * stride < size)
    term = np.broadcast_to(found.term, inside.shape)[inside]
    shares = _shares((first[found.text] + window)[inside], term, windows.sum(), len(wanted))
    best: Floats = np.maximum.reduceat(shares, first)
    return best


def _shares(part: Ints, term: Ints, parts: int, terms: int) -> Floats:
    """Return for each part the share of the terms that stand in it; a term in a part counts once."""
    distinct = np.unique(part * terms + term)
    shares: Floats = np.bincount(distinct // terms, minlength=parts) / terms
    return shares
