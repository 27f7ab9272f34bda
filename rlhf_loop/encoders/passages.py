"""Long texts become overlapping passages, so that nothing falls out of the encoder's window unread."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Encoding, Tokenizer


def load_tokenizer(file: Path) -> Tokenizer:
    """Load `tokenizer.json` with no truncation and no padding: both are the caller's decision."""
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


class PassageSplitter:
    """Cuts texts between words into passages of at most `size` tokens, a new one every `stride` tokens."""

    def __init__(self, tokenizer: Tokenizer, *, size: int, stride: int) -> None:
        self._tokenizer = tokenizer
        self._size = size
        self._stride = stride

    @property
    def id(self) -> str:
        """Names the way of cutting: part of each cache key, as other passages have other vectors."""
        return f"{self._size}/{self._stride}"

    def split(self, texts: Sequence[str]) -> list[list[str]]:
        """Return the passages of each text in order; a text that fits is its own single passage."""
        encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [self._cut(text, encoding) for text, encoding in zip(texts, encodings, strict=True)]

    def _cut(self, text: str, encoding: Encoding) -> list[str]:
        count = len(encoding)
        if count <= self._size:
            return [text]
        words, offsets = encoding.word_ids, encoding.offsets
        # The last passage ends with the text and is as long as the others: a short rest makes a poor vector.
        last = count - self._size
        passages = []
        for nominal in [*range(0, last, self._stride), last]:
            start = self._word_start(words, nominal)
            end = min(start + self._size, count) if nominal < last else count
            passages.append(text[offsets[start][0] : offsets[end - 1][1]])
        return passages

    def _word_start(self, words: Sequence[int | None], token: int) -> int:
        """Step back to the first piece of the word, but never so far that the passage before would not reach."""
        start = token
        while start > 0 and words[start] == words[start - 1] and token - start < self._size - self._stride:
            start -= 1
        return start
