"""Rated answers in any number, made of the sample's sentences, and vectors for them that cost next to nothing."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from rlhf_loop import sample
from rlhf_loop.encoders import Runtime, Vectors

_SENTENCE_END = re.compile(r"(?<=[.?!])\s+")
_WORD = re.compile(r"\w+")
#: Answers to a question, and sentences of an answer: from, to; both equally likely all the way.
_ANSWERS = (5, 15)
_SENTENCES = (2, 4)
#: How often a sentence comes from an answer to the same question, by rating; the others come from anywhere. So good
#: answers are those that fit the question, and no sentence is good or bad by itself.
_FITTING = {1: 0.1, 2: 0.25, 3: 0.45, 4: 0.7, 5: 0.9}


def write_ratings(path: Path, answers: int, *, seed: int = 0) -> None:
    """Write that many distinct rated answers as JSONL, row by row."""
    with path.open("w", encoding="utf-8") as file:
        for number, row in enumerate(_rows(random.Random(seed))):
            if number == answers:
                break
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def words_of_sample() -> list[str]:
    """Return each distinct word of the sample, in order."""
    texts = (row[name] for row in _sample_rows() for name in ("user_prompt", "ai_response"))
    return list(dict.fromkeys(word for text in texts for word in _words(text)))


class WordMeans:
    """A runtime for the bench: a text's vector is the normalised mean of the real vectors of its words.

    It stands in for the real one, whose `id` it bears, where a million answers need vectors and it does not matter
    that these are poorer.
    """

    def __init__(self, real: Runtime) -> None:
        self.id = real.id
        self.shape = real.shape
        words = words_of_sample()
        self._number = {word: number for number, word in enumerate(words)}
        self._vectors = real.encode(words)

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return one unit vector a text, shape (len(texts), 384)."""
        numbers = [[self._number[word] for word in _words(text) if word in self._number] or [0] for text in texts]
        starts = np.cumsum([0, *map(len, numbers)])
        counts = csr_matrix(
            (np.ones(starts[-1], dtype=np.float32), np.concatenate(numbers), starts),
            shape=(len(texts), len(self._vectors)),
        )
        sums = np.asarray(counts @ self._vectors)
        unit: Vectors = (sums / np.linalg.norm(sums, axis=1, keepdims=True)).astype(np.float32)
        return unit


class Forbidden:
    """A runtime that must not be asked: in what is measured all vectors come from the cache."""

    def __init__(self, real: Runtime) -> None:
        # Kept, because in a real training it is loaded, and takes its memory, whether it is asked or not.
        self._real = real
        self.id = real.id
        self.shape = real.shape

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Refuse."""
        raise AssertionError(f"{len(texts)} texts are not in the vector cache, the first is {texts[0]!r}.")


def _rows(rng: random.Random) -> Iterator[dict[str, Any]]:
    sample_rows = _sample_rows()
    prompts = list(dict.fromkeys(row["user_prompt"] for row in sample_rows))
    asked = list(dict.fromkeys(part for prompt in prompts for part in _SENTENCE_END.split(prompt)))
    said = [part for row in sample_rows for part in _SENTENCE_END.split(row["ai_response"])]
    ratings = [row["rating"] for row in sample_rows]
    fitting: dict[str, list[str]] = {}
    for row in sample_rows:
        fitting.setdefault(row["user_prompt"], []).extend(_SENTENCE_END.split(row["ai_response"]))
    used: set[int] = set()
    group = 0
    while True:
        base = rng.choice(prompts)
        # With a number, without which the poor vectors of so many questions would make them all one group.
        prompt = " ".join([base, *rng.sample(asked, 2), f"This is number {group + 1}."])
        if hash(prompt) in used:
            continue
        used.add(hash(prompt))
        group += 1
        for rank in range(1, rng.randint(*_ANSWERS) + 1):
            rating = rng.choice(ratings)
            parts = [
                rng.choice(fitting[base] if rng.random() < _FITTING[rating] else said)
                for _ in range(rng.randint(*_SENTENCES))
            ]
            while hash(" ".join(parts)) in used:
                parts.append(rng.choice(said))
            used.add(hash(" ".join(parts)))
            yield {
                "candidate_group": f"question-{group}",
                "user_prompt": prompt,
                "ai_response": " ".join(parts),
                "rating": rating,
                "shown_rank": rank,
            }


def _sample_rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in sample.RATINGS_FILE.read_text(encoding="utf-8").splitlines()]


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())
