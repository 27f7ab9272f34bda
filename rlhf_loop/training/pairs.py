"""Pairs of answers for training: experts' corrections, and preferences by reviewers.

As in `data`, a few numbers of each are in memory, and the texts are read a chunk at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import and_, func, or_, select
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.orm import aliased

from rlhf_loop.domain import Pair, PairKind, Question, ReviewerRole, prompt_key
from rlhf_loop.store.engine import reading
from rlhf_loop.store.tables import CorrectionDecision, Interaction, Preference, Review
from rlhf_loop.training.data import prompt_hash, text_digest
from rlhf_loop.training.reliability import RaterReliability
from rlhf_loop.utils.arrays import Ints, Mask
from rlhf_loop.utils.sqlite import in_parts
from rlhf_loop.utils.text import visible

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
_STREAMED = {"yield_per": 1000}
_TIE = "tie"
#: A lead that is no more than the rounding of a sum of weights is none.
_ROUNDING = 1e-9
_First, _Second = aliased(Interaction), aliased(Interaction)
_CORRECTIONS = (
    select(
        Review.id,
        Review.reviewer,
        Interaction.user_prompt,
        Interaction.ai_response,
        func.coalesce(CorrectionDecision.edited, Review.correction).label("correction"),
        CorrectionDecision.approved,
    )
    .join(Interaction, Interaction.id == Review.interaction_key)
    .outerjoin(
        CorrectionDecision,
        and_(CorrectionDecision.review_id == Review.id, CorrectionDecision.correction == Review.correction),
    )
    .where(
        Review.role == ReviewerRole.EXPERT,
        func.trim(Review.correction) != "",
        or_(CorrectionDecision.approved.is_(None), CorrectionDecision.approved),
    )
    .order_by(Review.id)
)
_PREFERENCES = (
    select(
        Preference.id,
        Preference.role,
        Preference.reviewer,
        Preference.preferred,
        _First.user_prompt,
        _First.ai_response.label("first"),
        _Second.user_prompt.label("second_prompt"),
        _Second.ai_response.label("second"),
    )
    .join(_First, _First.id == Preference.first_id)
    .join(_Second, _Second.id == Preference.second_id)
    .order_by(Preference.id)
)


@dataclass(frozen=True, slots=True)
class PairText:
    """The texts of one pair."""

    prompt: str
    chosen: str
    rejected: str

    @property
    def digest(self) -> tuple[int, int]:
        """A hash of the texts."""
        return text_digest(self.prompt, self.chosen, self.rejected)

    @property
    def differs(self) -> bool:
        """True if these are two answers, and not two layouts of one."""
        return visible(self.chosen).split() != visible(self.rejected).split()

    @property
    def key(self) -> int:
        """A hash of the question and its two answers, whichever of them is better."""
        return hash((prompt_key(self.prompt), *sorted((visible(self.chosen), visible(self.rejected)))))


class PairTexts(Protocol):
    """A source of the texts of pairs."""

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
    """Pairs that training learns from; their texts are read when they are needed.

    `compared` has the `PairText.key` of all answers that experts compared, those with a tie among them.
    """

    texts: PairTexts
    numbers: PairNumbers
    compared: frozenset[int] = frozenset()

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

    def prompts_but(self, known: NDArray[np.int64]) -> Iterator[list[str]]:
        """Read the prompts of the pairs to other questions than those known, given by their hashes."""
        for chunk in self.only(~np.isin(self.numbers["prompt"], known)).chunks():
            yield [question.prompt for question in chunk.questions]

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
    return PairSet(_InMemoryPairs(kept), np.fromiter(rows, dtype=PAIR))


def training_pairs(
    engine: Engine | Connection, *, end_user_weight: float = 0.0, raters: Sequence[RaterReliability] = ()
) -> PairSet:
    """Read the pairs that training learns from: corrections first, then preferences.

    An expert's correction is better than the answer that it corrects. It counts at once, unless an admin has refused
    it. Corrections by end users are not used.

    Two answers that several reviewers have compared are one pair: the one that most of them prefer is better, and the
    weight is their lead as a share of all who compared them (of three against one: a half). A tie is in that share,
    and where neither leads there is no pair. Where no expert has compared the two the end users' preference counts,
    times `end_user_weight`. Answers of the same wording are the same answer, however often they were served; two to
    different questions are not a pair.

    An expert who is among `raters` counts by the weight there: in the lead and in the share, and a pair weighs no more
    than the most reliable who prefers one. Their corrections do likewise, but for those that an admin has approved.

    As with `training_set` the numbers are from one transaction, and the texts are read later; given a
    connection, all is read in its transaction.
    """
    with reading(engine) as connection:
        weights = {rater.reviewer: rater.weight for rater in raters}
        votes = _votes(connection, end_user_weight, weights)
        rows = chain(_corrections(connection, weights), _preferences(votes.values(), end_user_weight))
        compared = frozenset(key for key, of_roles in votes.items() if True in of_roles)
        return PairSet(_StoredTexts(engine), np.fromiter(rows, dtype=PAIR), compared)


class _InMemoryPairs:
    """Pairs that are in memory anyway."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self._pairs = pairs

    def read(self, pairs: PairNumbers) -> Mapping[int, PairText]:
        return {place: _text(self._pairs[id]) for place, id in enumerate(pairs["id"].tolist())}


def _text(pair: Pair) -> PairText:
    return PairText(pair.prompt, pair.chosen, pair.rejected)


class _StoredTexts:
    """Texts that are read from the database."""

    def __init__(self, engine: Engine | Connection) -> None:
        self._engine = engine

    def read(self, pairs: PairNumbers) -> Mapping[int, PairText]:
        found: dict[int, PairText] = {}
        with reading(self._engine) as connection:
            for correction, wanted, text in ((True, _CORRECTIONS, _corrected), (False, _PREFERENCES, _compared)):
                place = {int(pairs["id"][at]): at for at in np.flatnonzero(pairs["correction"] == correction).tolist()}
                ids, column = list(place), Review.id if correction else Preference.id
                for part in in_parts(ids):
                    rows = connection.execute(wanted.where(column.in_(part)))
                    found.update((place[row.id], text(row)) for row in rows)
        return found


def _corrected(row: Any) -> PairText:
    return PairText(row.user_prompt, row.correction, row.ai_response)


def _compared(row: Any) -> PairText:
    """Return the preferred answer first; of a tie the first one."""
    both = (row.second, row.first) if row.preferred == "second" else (row.first, row.second)
    return PairText(row.user_prompt, *both)


def _corrections(connection: Connection, weights: Mapping[str, float]) -> Iterator[tuple[object, ...]]:
    seen: set[int] = set()
    for row in connection.execute(_CORRECTIONS, execution_options=_STREAMED):
        weight = 1.0 if row.approved else weights.get(row.reviewer, 1.0)
        if not weight:
            continue
        text = _corrected(row)
        key = hash((prompt_key(text.prompt), visible(text.chosen), visible(text.rejected)))
        if text.differs and visible(text.chosen) and key not in seen:
            seen.add(key)
            yield pair_numbers(row.id, text, weight, correction=True, expert=True)


@dataclass(slots=True)
class _Votes:
    """Votes of reviewers of one role on two answers, by weight.

    `said` has for either side the first pair that says so, `most` the largest weight of those who do.
    """

    count: dict[bool, float] = field(default_factory=lambda: {False: 0.0, True: 0.0})
    said: dict[bool, tuple[object, ...]] = field(default_factory=dict)
    voters: float = 0.0
    most: dict[bool, float] = field(default_factory=dict)


def _votes(
    connection: Connection, end_user_weight: float, weights: Mapping[str, float]
) -> dict[int, dict[bool, _Votes]]:
    """Return what was said of any two answers, by `PairText.key` and whether experts said it."""
    votes: dict[int, dict[bool, _Votes]] = {}
    for row in connection.execute(_PREFERENCES, execution_options=_STREAMED):
        text, expert = _compared(row), row.role == ReviewerRole.EXPERT
        same_question = prompt_key(row.user_prompt) == prompt_key(row.second_prompt)
        weight = weights.get(row.reviewer, 1.0) if expert else float(end_user_weight > 0)
        if not same_question or not text.differs or not weight:
            continue
        of_role = votes.setdefault(text.key, {}).setdefault(expert, _Votes())
        of_role.voters += weight
        if row.preferred != _TIE:
            side = text.chosen > text.rejected
            of_role.count[side] += weight
            of_role.most[side] = max(weight, of_role.most.get(side, 0.0))
            of_role.said.setdefault(side, pair_numbers(row.id, text, 1.0, correction=False, expert=expert))
    return votes


def _preferences(votes: Iterable[Mapping[bool, _Votes]], end_user_weight: float) -> Iterator[tuple[object, ...]]:
    for of_pair in votes:
        expert = True in of_pair
        found = of_pair[expert]
        lead = found.count[True] - found.count[False]
        if abs(lead) > _ROUNDING:
            id, prompt, digest, *_ = found.said[lead > 0]
            weight = abs(lead) / found.voters * (found.most[lead > 0] if expert else end_user_weight)
            yield id, prompt, digest, weight, False, expert
