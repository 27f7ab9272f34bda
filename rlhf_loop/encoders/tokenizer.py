"""Tokenization: long texts cut into overlapping passages, and texts batched with as little padding as can be."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from rlhf_loop.encoders.runtime import MAX_TOKENS
from rlhf_loop.errors import EncoderError
from rlhf_loop.utils.text import clause

TokenIds = NDArray[np.int32]
Numbers = NDArray[np.int32]
#: Characters of a text whose tokens are looked at together, and of what follows up to a border that changes none:
#: tokens take a hundred times as much memory.
_BLOCK_CHARS = _BORDER_WITHIN = 128 * 1024
#: Blanks between words, which are blanks to every tokenizer, as not all is that Python takes for one; and signs that
#: stand alone where words are looked up: ideographs, and what is no letter.
_BORDERS = (
    re.compile(r"(?<=\w)[ \t\n\r\u00a0\u3000]+(?=\w)"),
    re.compile("[ \t\n\r\u00a0\u3000-\u3003\u3400-\u4dbf\u4e00-\u9fff!-/:-@\\[-`{-~]"),
)
#: What stands for a blank in SentencePiece's tokens.
_MARK = "\u2581"


def load_tokenizer(file: Path) -> Tokenizer:
    """Load `tokenizer.json` with no truncation and no padding: both are the caller's decision.

    Raises:
        EncoderError: the file cannot be read.
    """
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library has no narrower class
        raise EncoderError(f"The tokenizer {file} cannot be read: {clause(error)}. Fetch the model again.") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


@dataclass(frozen=True, slots=True)
class _Tokens:
    """The spans of a text's tokens, and the number of the word that each belongs to."""

    spans: Sequence[tuple[int, int]] | Numbers
    words: Sequence[int | None] | Numbers


class PassageSplitter:
    """Cuts texts into passages of at most `size` tokens, a new one every `stride` tokens or a little sooner.

    A passage starts with a word. Only a word of more than `stride` tokens is cut, and its second part may then make a
    few tokens more than `size`, as the middle of a word is read otherwise than its start.
    """

    def __init__(self, tokenizer: Tokenizer, *, size: int, stride: int, prompt: str = "") -> None:
        self._tokenizer = tokenizer
        self._size = size
        self._stride = stride
        self._prompt = prompt

    @property
    def id(self) -> str:
        """The name of this way of cutting: part of each cache key, as other passages have other vectors."""
        return f"words:{self._size}/{self._stride}" + (f":{self._prompt}" if self._prompt else "")

    def split(self, texts: Sequence[str]) -> list[list[str]]:
        """Return the passages of each text in order, each behind the prompt; a text that fits is its own only one."""
        parted = [blocks(text) for text in texts]
        encodings = iter(self._tokenizer.encode_batch([of[0] for of in parted], add_special_tokens=False))
        passages = [self._cut(text, self._tokens(of, next(encodings))) for text, of in zip(texts, parted, strict=True)]
        return [[self._prompt + part for part in parts] for parts in passages] if self._prompt else passages

    def _tokens(self, blocks: Sequence[str], encoding: Encoding) -> _Tokens:
        """Return the tokens of a text by those of its first block, and read the others one by one."""
        if len(blocks) == 1:
            return _Tokens(encoding.offsets, encoding.word_ids)
        parts: list[Numbers] = []
        offset = words = 0
        for block in blocks:
            found = encoding if not parts else self._tokenizer.encode(block, add_special_tokens=False)
            numbers = np.array([-1 if word is None else word for word in found.word_ids], dtype=np.int32)
            spans = np.array(spans_of(found), dtype=np.int32).reshape(-1, 2)
            parts.append(np.column_stack([spans + offset, np.where(numbers < 0, -1, numbers + words)]))
            offset, words = offset + len(block), words + int(numbers.max(initial=-1)) + 1
        tokens = np.concatenate(parts)
        return _Tokens(tokens[:, :2], tokens[:, 2])

    def _cut(self, text: str, tokens: _Tokens) -> list[str]:
        if len(tokens.words) <= self._size:
            return [text]
        end = len(tokens.words) - 1
        spans = [(start, min(start + self._size - 1, end)) for start in self._starts(tokens.words)]
        return [text[tokens.spans[first][0] : tokens.spans[final][1]] for first, final in spans]

    def _starts(self, words: Sequence[int | None] | Numbers) -> list[int]:
        """Return the token at which each passage starts, given the word of each token."""
        starts = [0]
        # The last passage ends with the text and is about as long as the others: a short rest makes a poor vector.
        last = len(words) - self._size
        while (reach := starts[-1] + self._size) < len(words):
            nominal = starts[-1] + self._stride
            if nominal >= last:
                found = _first_word_start(words, range(last, reach + 1))
                if found is not None:
                    return [*starts, found]
                nominal = last
            # Back to the start of the word, however far that is, but always past the passage before.
            found = _first_word_start(words, range(nominal, starts[-1], -1))
            starts.append(nominal if found is None else found)
        return starts


@dataclass(frozen=True, slots=True)
class Batch:
    """Texts of like length: their places in the list they came from, tokens and mask (both texts x tokens)."""

    places: NDArray[np.intp]
    ids: TokenIds
    mask: TokenIds


def markers_of(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Return the tokens that a tokenizer puts before and behind a text: [CLS] and [SEP] of BERT, or others."""
    inner = len(tokenizer.encode("a", add_special_tokens=False))
    ids = tokenizer.encode("a").ids
    marks = tokenizer.encode("a").special_tokens_mask
    before = next((place for place, marked in enumerate(marks) if not marked), 0)
    return ids[:before], ids[before + inner :]


class Batcher:
    """Cuts texts to the model's window and groups them by length.

    Args:
        tokenizer: without truncation and padding.
        tokens: of a batch at most, padding included (a single text may be longer).
        window: tokens that are read of a text, its markers included.
        padding: the token that fills up shorter texts.
    """

    def __init__(self, tokenizer: Tokenizer, *, tokens: int, window: int = MAX_TOKENS, padding: int = 0) -> None:
        self._tokenizer = tokenizer
        self._tokens = tokens
        self._start, self._end = markers_of(tokenizer)
        self._room = window - len(self._start) - len(self._end)
        self._padding = padding

    def batches(self, texts: Sequence[str]) -> Iterator[Batch]:
        """Return the batches, short texts first."""
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        tokens = [[*self._start, *encoding.ids[: self._room], *self._end] for encoding in encodings]
        for places in by_length([len(ids) for ids in tokens], most=self._tokens):
            yield Batch(places, *padded([tokens[place] for place in places], self._padding))


def by_length(lengths: Sequence[int] | NDArray[np.intp], *, most: int) -> Iterator[NDArray[np.intp]]:
    """Yield the places of sequences of like length, with at most so many tokens together, padding included."""
    order = np.argsort(lengths, kind="stable")
    start = 0
    while start < len(order):
        end = start + 1
        while end < len(order) and lengths[order[end]] * (end + 1 - start) <= most:
            end += 1
        yield order[start:end]
        start = end


def blocks(text: str) -> list[str]:
    """Part a very long text at a blank, where there is none beside a sign that stands alone, and else anywhere.

    So its tokens are those of the whole, unless 128,000 characters have no blank between words; for an encoder that
    looks words up, unless they have no such sign either.
    """
    found, start = [], 0
    while len(text) - start > _BLOCK_CHARS:
        least, most = start + _BLOCK_CHARS, start + _BLOCK_CHARS + _BORDER_WITHIN
        borders = (border.search(text, least, most) for border in _BORDERS[: 2 if len(text) > most else 1])
        end = next((border.start() for border in borders if border), most)
        found.append(text[start:end])
        start = end
    return [*found, text[start:]] if start < len(text) else found or [text]


def spans_of(encoding: Encoding) -> list[tuple[int, int]]:
    """Return where the tokens of a block are; a mark alone, which SentencePiece puts first, stands for the blank there.

    The library has it stand for the letter that follows.
    """
    first, *others = encoding.offsets or [(0, 0)]
    if others and encoding.tokens[0] == _MARK:
        first = (0, others[0][0])
    return [first, *others] if encoding.offsets else []


def _first_word_start(words: Sequence[int | None] | Numbers, tokens: range) -> int | None:
    return next((token for token in tokens if words[token] != words[token - 1]), None)


def padded(tokens: Sequence[Sequence[int]], padding: int) -> tuple[TokenIds, TokenIds]:
    """Return sequences filled up to the longest, and the mask that tells what they are."""
    ids = np.full((len(tokens), max(map(len, tokens), default=0)), padding, dtype=np.int32)
    mask = np.zeros_like(ids)
    for row, text in enumerate(tokens):
        ids[row, : len(text)] = text
        mask[row, : len(text)] = 1
    return ids, mask
