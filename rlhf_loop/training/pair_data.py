"""Pairs of answers for training: some numbers for each in memory, the texts only a chunk at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rlhf_loop.domain import Pair, PairKind, Question, ReviewerRole
from rlhf_loop.training.data import Ints, Mask, prompt_hash

#: What is kept of a pair in place of its texts: `id` is for whoever has these, `prompt` and `text` are hashes as in
#: `training_data.ANSWER`.
PAIR = np.dtype(
    [
        ("id", np.int64),
        ("prompt", np.int64),
        ("text", "<u8", 2),
        ("weight", np.float64),
        ("correction", np.bool_),
        ("expert", np.bool_),
    ]
)
PairNumbers = NDArray[np.void]

#: Pairs whose texts are read at a time.
_CHUNK = 512


@dataclass(frozen=True, slots=True)
class PairText:
    """The texts of one pair."""

    prompt: str
    chosen: str
    rejected: str

    @property
    def digest(self) -> tuple[int, int]:
        """128 bits of a hash that is the same everywhere and always."""
        digest = hashlib.blake2b(digest_size=16)
        for part in (self.prompt, self.chosen, self.rejected):
            encoded = part.encode("utf-8", "surrogatepass")
            digest.update(len(encoded).to_bytes(8, "little") + encoded)
        found = digest.digest()
        return int.from_bytes(found[:8], "little"), int.from_bytes(found[8:], "little")

    @property
    def differs(self) -> bool:
        """Whether these are two answers at all."""
        return " ".join(self.chosen.split()) != " ".join(self.rejected.split())


class PairTexts(Protocol):
    """Where the texts of pairs are."""

    def read(self, pairs: PairNumbers) -> Mapping[int, PairText]:
        """Return the texts by the place of the pair among those given; those that are gone are left out."""
        ...


@dataclass(frozen=True, slots=True)
class PairChunk:
    """Some pairs, each as a question with two candidates, the better one first; `row` is the number of each pair."""

    questions: tuple[Question, ...]
    row: Ints


@dataclass(frozen=True, slots=True)
class PairSet:
    """Pairs that training learns from; their texts are read when they are needed."""

    texts: PairTexts
    numbers: PairNumbers

    def __len__(self) -> int:
        return len(self.numbers)

    def only(self, rows: Mask) -> PairSet:
        """Leave out the other pairs."""
        return replace(self, numbers=self.numbers[rows])

    def fingerprint(self, of_ratings: str) -> str:
        """Name ratings and pairs together, the same whatever the ids and the order; without pairs, the ratings."""
        if not len(self):
            return of_ratings
        kept = self.numbers
        columns = [kept["text"], kept["weight"].astype("<f8").view("<u8")]
        columns += [kept[name].astype("<u8") for name in ("correction", "expert")]
        table = np.column_stack(columns)
        return hashlib.sha256(of_ratings.encode() + table[np.lexsort(table.T)].tobytes()).hexdigest()

    def chunks(self) -> Iterator[PairChunk]:
        """Read the pairs in order, some at a time; one that was deleted or changed meanwhile is left out."""
        for start in range(0, len(self), _CHUNK):
            wanted = self.numbers[start : start + _CHUNK]
            found = self.texts.read(wanted)
            there = [
                place
                for place, (first, second) in enumerate(wanted["text"].tolist())
                if (text := found.get(place)) and text.digest == (first, second)
            ]
            questions = tuple(Question(found[at].prompt, (found[at].chosen, found[at].rejected)) for at in there)
            yield PairChunk(questions, start + np.array(there, dtype=np.intp))


def pair_numbers(id: int, text: PairText, weight: float, *, correction: bool, expert: bool) -> tuple[object, ...]:
    """Return what is kept of a pair in place of its texts: a row of `PAIR`."""
    return id, prompt_hash(text.prompt), text.digest, weight, correction, expert


def pair_set(pairs: Sequence[Pair]) -> PairSet:
    """Make a set of pairs that are in memory anyway; those whose two answers are the same are left out."""
    kept = [pair for pair in pairs if _text(pair).differs and pair.weight > 0]
    rows = (
        pair_numbers(
            id,
            _text(pair),
            pair.weight,
            correction=pair.kind == PairKind.CORRECTION,
            expert=pair.role == ReviewerRole.EXPERT,
        )
        for id, pair in enumerate(kept)
    )
    return PairSet(_Given(kept), np.fromiter(rows, dtype=PAIR))


class _Given:
    """Pairs that are in memory anyway."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self._pairs = pairs

    def read(self, pairs: PairNumbers) -> Mapping[int, PairText]:
        return {place: _text(self._pairs[id]) for place, id in enumerate(pairs["id"].tolist())}


def _text(pair: Pair) -> PairText:
    return PairText(pair.prompt, pair.chosen, pair.rejected)
