"""Texts -> batches of token numbers, with as little padding as can be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from rlhf_loop.encoders.runtime import MAX_TOKENS

Ints = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Batch:
    """Texts of like length: their places in the list they came from, tokens and mask (both texts x tokens)."""

    places: NDArray[np.intp]
    ids: Ints
    mask: Ints


class Batcher:
    """Cuts texts to the model's window and groups them by length.

    Args:
        tokenizer: without truncation and padding.
        tokens: of a batch at most, padding included (a single text may be longer).
    """

    def __init__(self, tokenizer: Tokenizer, *, tokens: int) -> None:
        self._tokenizer = tokenizer
        self._tokens = tokens
        self._start, self._end = (tokenizer.token_to_id(marker) for marker in ("[CLS]", "[SEP]"))

    def batches(self, texts: Sequence[str]) -> Iterator[Batch]:
        """Return the batches, short texts first."""
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        tokens = [[self._start, *encoding.ids[: MAX_TOKENS - 2], self._end] for encoding in encodings]
        lengths = [len(ids) for ids in tokens]
        order = np.argsort(lengths, kind="stable")
        start = 0
        while start < len(order):
            end = start + 1
            while end < len(order) and lengths[order[end]] * (end + 1 - start) <= self._tokens:
                end += 1
            places = order[start:end]
            yield Batch(places, *_padded([tokens[place] for place in places], length=lengths[places[-1]]))
            start = end


def _padded(tokens: Sequence[Sequence[int]], *, length: int) -> tuple[Ints, Ints]:
    ids = np.zeros((len(tokens), length), dtype=np.int32)
    mask = np.zeros_like(ids)
    for row, text in enumerate(tokens):
        ids[row, : len(text)] = text
        mask[row, : len(text)] = 1
    return ids, mask
