"""Groups of questions that ask for the same: what a split, a fold, a frozen share or a dataset must not tear apart.

Two questions belong together if they share a key (`utils/wording.py`), if the vectors of their words with a meaning
are near, or if these are less near but two of their judged answers are the same; and so does whatever hangs together by
such pairs. `python -m tools.leaks` measures how near, and what leaks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from rlhf_loop.encoders import TextEncoder
from rlhf_loop.utils.arrays import Ints, Mask
from rlhf_loop.utils.concurrency import single_threaded_blas
from rlhf_loop.utils.wording import numbers_in, question_key, without_frame

#: The cosine of two questions from which they belong together: by `tools.leaks` the lowest of those tried at which no
#: group has more than 1 % of MedQuAD's 14,979 questions, as in the end all hang together by their neighbours. On other
#: questions it finds a seventh of the rewordings, and a higher one finds hardly any (docs/ARCHITECTURE.md).
NEAR = 0.80
#: The cosine from which they do with so many judged answers in common: most often these are other words for one
#: question, and the ratings of the one tell those of the other. (With one answer in common from 0.7 on, 5 % of
#: FeedbackQA's questions would hang together; so 2 %.)
NEAR_BY_ANSWERS, _IN_COMMON = 0.5, 2
#: Of what answers more questions only the first so many count, as it says little about what they ask; and of a question
#: only the answers that were judged first, so that its group is soon settled.
_RECURRING, _SETTLED = 20, 10
#: Questions compared at a time: a block of so many cosines is 8 MB, and what is near among them rarely more.
_ROWS, _COLUMNS = 512, 4096
Hashes = NDArray[np.int64]
Vectors16 = NDArray[np.float16]
_NONE = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class QuestionGroups:
    """Questions, by the hashes of their prompts in order, and the `leader` of each one's group, a hash as well.

    The leader is the oldest question of its group. Where a later one has brought several groups together, it is the
    one of their leaders that is frozen first: so what was frozen once stays so, whatever wordings come.
    """

    prompt: Hashes
    leader: Hashes

    def of(self, prompts: Hashes) -> Hashes:
        """Return the leader of the group that each prompt belongs to; one that is not known is its own."""
        if not len(self.prompt):
            return prompts
        place = np.minimum(np.searchsorted(self.prompt, prompts), len(self.prompt) - 1)
        return np.where(self.prompt[place] == prompts, self.leader[place], prompts)


def question_groups(
    asked: Iterable[tuple[Hashes, Sequence[str]]],
    encoder: TextEncoder,
    *,
    answers: tuple[Hashes, NDArray[np.int64]] = (_NONE, _NONE),
    progress: Callable[[int], None] | None = None,
) -> QuestionGroups:
    """Group questions that come in chunks, hashes and texts, the oldest first; what comes again is passed over.

    `answers` are the prompts of the judged answers, and hashes of these, the oldest first. `progress` gets how many
    questions are embedded.

    Takes 2 kB a question, and time that grows with the square of their number: a minute for 100,000 on one core.
    """
    prompts, keys, numbers, vectors = _read(asked, encoder, progress)
    first = _first_of(keys)
    places = np.arange(len(prompts))
    new = first == places
    with single_threaded_blas():
        for later, earlier in chain(
            _near(vectors, numbers, encoder.as_near(NEAR)),
            _nearer_by_answers(prompts, answers, vectors, numbers, encoder.as_near(NEAR_BY_ANSWERS)),
        ):
            new[later] = False
            first = _joined(first, later, earlier)
    founders = np.flatnonzero(new)
    # As numbers without a sign, the smaller hash is frozen first.
    smallest = np.full(len(prompts), np.iinfo(np.uint64).max, dtype=np.uint64)
    np.minimum.at(smallest, first[founders], prompts[founders].view(np.uint64))
    order = np.argsort(prompts)
    return QuestionGroups(prompts[order], smallest[first].view(np.int64)[order])


def linked(*columns: NDArray[np.int64]) -> Ints:
    """Number the rows so that those share a number which are equal in a column, or hang together by others that are."""
    rows = len(columns[0])
    links = np.concatenate([_first_of(column) for column in columns])
    return _components(np.stack([np.tile(np.arange(rows), len(columns)), links]), rows)


def _read(
    asked: Iterable[tuple[Hashes, Sequence[str]]], encoder: TextEncoder, progress: Callable[[int], None] | None
) -> tuple[Hashes, NDArray[np.int64], NDArray[np.int64], Vectors16]:
    """Return each question once: its hash, hashes of its key and of the numbers in it (0: none), and its vector."""
    seen: set[int] = set()
    prompts, keys, numbers = ([np.empty(0, dtype=np.int64)] for _ in range(3))
    vectors = [np.empty((0, encoder.dimension), dtype=np.float16)]
    language = encoder.language.code
    for hashes, texts in asked:
        new = {of: text for of, text in zip(hashes.tolist(), texts, strict=True) if of not in seen}
        if not new:
            continue
        seen.update(new)
        prompts.append(np.fromiter(new, dtype=np.int64))
        keys.append(np.array([hash(question_key(text, language=language)) for text in new.values()], dtype=np.int64))
        numbers.append(np.array([hash(found) if (found := numbers_in(text)) else 0 for text in new.values()]))
        meant = [without_frame(text, language=language) for text in new.values()]
        vectors.append(encoder.encode_whole(meant).astype(np.float16))
        if progress:
            progress(len(seen))
    return np.concatenate(prompts), np.concatenate(keys), np.concatenate(numbers), np.concatenate(vectors)


def _near(vectors: Vectors16, numbers: NDArray[np.int64], least: float) -> Iterator[tuple[Ints, Ints]]:
    """Yield pairs of questions that are near and have no different numbers in them, the later one first."""
    for start in range(0, len(vectors), _ROWS):
        end = min(start + _ROWS, len(vectors))
        rows = vectors[start:end].astype(np.float32)
        for left in range(0, end, _COLUMNS):
            right = min(left + _COLUMNS, end)
            found = np.flatnonzero(rows @ vectors[left:right].astype(np.float32).T >= least)
            later, earlier = start + found // (right - left), left + found % (right - left)
            kept = (earlier < later) & _same_numbers(numbers[later], numbers[earlier])
            if kept.any():
                yield later[kept], earlier[kept]


def _nearer_by_answers(
    known: Hashes,
    answers: tuple[Hashes, NDArray[np.int64]],
    vectors: Vectors16,
    numbers: NDArray[np.int64],
    least: float,
) -> Iterator[tuple[Ints, Ints]]:
    """Yield pairs of questions with answers in common in the same way."""
    order = np.argsort(known)
    # Each answer of a question once, the oldest first.
    once = np.sort(np.unique(np.stack(answers), axis=1, return_index=True)[1])
    once = once[np.isin(answers[0][once], known)]
    question = order[np.searchsorted(known[order], answers[0][once])]
    answer = np.unique(answers[1][once], return_inverse=True)[1]
    settled = _turn(question) < _SETTLED
    question, answer = question[settled], answer[settled]
    usual = _turn(answer) < _RECURRING
    question, answer = question[usual], answer[usual]
    by_answer = np.argsort(answer, kind="stable")
    question, answer = question[by_answer], answer[by_answer]
    pairs = [np.empty((2, 0), dtype=np.intp)]
    for apart in range(1, _RECURRING):
        same = answer[apart:] == answer[:-apart]
        pairs.append(np.stack([question[apart:][same], question[:-apart][same]]))
    (earlier, later), count = np.unique(np.sort(np.concatenate(pairs, axis=1), axis=0), axis=1, return_counts=True)
    kept = (count >= _IN_COMMON) & _same_numbers(numbers[later], numbers[earlier])
    later, earlier = later[kept], earlier[kept]
    for start in range(0, len(later), _ROWS):
        some, others = later[start : start + _ROWS], earlier[start : start + _ROWS]
        near = np.einsum("ij,ij->i", vectors[some], vectors[others], dtype=np.float32) >= least
        yield some[near], others[near]


def _turn(values: Ints) -> Ints:
    """Return for each row how many before it have its value."""
    order = np.argsort(values, kind="stable")
    turn = np.empty(len(values), dtype=np.intp)
    turn[order] = np.arange(len(values)) - np.searchsorted(values[order], values[order])
    return turn


def _same_numbers(one: NDArray[np.int64], other: NDArray[np.int64]) -> Mask:
    """Tell which pairs have no different numbers in them."""
    same: Mask = (one == other) | (one == 0) | (other == 0)
    return same


def _joined(first: Ints, later: Ints, earlier: Ints) -> Ints:
    """Return the first one of each question's group after these pairs have joined some."""
    pairs = np.stack([first[later], first[earlier]])
    pairs = pairs[:, pairs[0] != pairs[1]]
    if not pairs.size:
        return first
    # Sorted, so that of those that hang together the first one is the oldest.
    names, number = np.unique(pairs, return_inverse=True)
    oldest = names[_components(number.reshape(pairs.shape), len(names))]
    place = np.minimum(np.searchsorted(names, first), len(names) - 1)
    joined: Ints = np.where(names[place] == first, oldest[place], first)
    return joined


def _components(links: Ints, count: int) -> Ints:
    """Return for each of `count` things the first one that it hangs together with by links, shape (2, links)."""
    first, second = links
    oldest = np.arange(count)
    while not np.array_equal(one := oldest[first], other := oldest[second]):
        # Of two that are linked the later one's oldest takes the earlier one's, and all that have it follow.
        np.minimum.at(oldest, np.maximum(one, other), np.minimum(one, other))
        while not np.array_equal(older := oldest[oldest], oldest):
            oldest = older
    return oldest


def _first_of(values: NDArray[np.int64]) -> Ints:
    """Return for each row the first one that is equal to it."""
    first, inverse = np.unique(values, return_index=True, return_inverse=True)[1:]
    equal: Ints = first[inverse]
    return equal
