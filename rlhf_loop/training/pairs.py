"""Pairs from the ratings database: experts' corrections, and what reviewers prefer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
from sqlalchemy import and_, func, or_, select
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.orm import aliased

from rlhf_loop.domain import ReviewerRole, prompt_key
from rlhf_loop.store.engine import reading
from rlhf_loop.store.tables import CorrectionDecision, Interaction, Preference, Review
from rlhf_loop.training.pair_data import PAIR, PairNumbers, PairSet, PairText, pair_numbers
from rlhf_loop.training.reliability import RaterReliability

_STREAMED = {"yield_per": 1000}
#: Ids of one query: the lowest limit on variables among SQLite's builds is 999.
_IDS_A_QUERY = 900
_TIE = "tie"
#: A lead that is no more than the rounding of a sum of weights is none.
_ROUNDING = 1e-9
_First, _Second = aliased(Interaction), aliased(Interaction)


def training_pairs(engine: Engine, *, end_user_weight: float = 0.0, raters: Sequence[RaterReliability] = ()) -> PairSet:
    """Read the pairs that training learns from: corrections first, then preferences.

    An expert's correction is better than the answer that it corrects. It counts at once, unless an admin has refused
    it. Corrections by end users are not used.

    Two answers that several reviewers have compared are one pair: the one that most of them prefer is better, and the
    weight is their lead as a share of all who compared them (of three against one: a half). A tie is in that share,
    and where neither leads there is no pair. Where no expert has compared the two the end users' preference counts,
    times `end_user_weight`. Answers of the same wording are the same answer, however often they were served; two to
    different questions are no pair.

    An expert who is among `raters` counts by the weight there: in the lead and in the share, and a pair weighs no more
    than the most reliable who prefers one. Their corrections do likewise, but for those that an admin has approved.

    As with `examples.training_set` the numbers are from one transaction, and the texts are read later.
    """
    with reading(engine) as connection:
        weights = {rater.reviewer: rater.weight for rater in raters}
        rows = chain(_corrections(connection, weights), _preferences(connection, end_user_weight, weights))
        return PairSet(_Stored(engine), np.fromiter(rows, dtype=PAIR))


class _Stored:
    """Texts that are read from the database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def read(self, pairs: PairNumbers) -> Mapping[int, PairText]:
        found: dict[int, PairText] = {}
        with reading(self._engine) as connection:
            for correction, wanted, text in ((True, _CORRECTIONS, _corrected), (False, _PREFERENCES, _compared)):
                place = {int(pairs["id"][at]): at for at in np.flatnonzero(pairs["correction"] == correction).tolist()}
                ids, column = list(place), Review.id if correction else Preference.id
                for start in range(0, len(ids), _IDS_A_QUERY):
                    part = wanted.where(column.in_(ids[start : start + _IDS_A_QUERY]))
                    found.update((place[row.id], text(row)) for row in connection.execute(part))
        return found


_CORRECTIONS = (
    select(
        Review.id,
        Review.reviewer,
        Interaction.user_prompt,
        Interaction.ai_response,
        Review.correction,
        CorrectionDecision.approved,
    )
    .join(Interaction, Interaction.id == Review.interaction_id)
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
        key = hash((prompt_key(text.prompt), text.chosen, text.rejected))
        if text.differs and text.chosen.strip() and key not in seen:
            seen.add(key)
            yield pair_numbers(row.id, text, weight, correction=True, expert=True)


@dataclass(slots=True)
class _Votes:
    """What reviewers of one role say of two answers, by weight.

    `said` has for either side the first pair that says so, `most` the largest weight of those who do.
    """

    count: dict[bool, float] = field(default_factory=lambda: {False: 0.0, True: 0.0})
    said: dict[bool, tuple[object, ...]] = field(default_factory=dict)
    voters: float = 0.0
    most: dict[bool, float] = field(default_factory=dict)


def _preferences(
    connection: Connection, end_user_weight: float, weights: Mapping[str, float]
) -> Iterator[tuple[object, ...]]:
    votes: dict[int, dict[bool, _Votes]] = {}
    for row in connection.execute(_PREFERENCES, execution_options=_STREAMED):
        text, expert = _compared(row), row.role == ReviewerRole.EXPERT
        same_question = prompt_key(row.user_prompt) == prompt_key(row.second_prompt)
        weight = weights.get(row.reviewer, 1.0) if expert else float(end_user_weight > 0)
        if not same_question or not text.differs or not weight:
            continue
        # By the texts, in one order whichever of them was served first.
        low, high = sorted((text.chosen, text.rejected))
        of_role = votes.setdefault(hash((prompt_key(text.prompt), low, high)), {}).setdefault(expert, _Votes())
        of_role.voters += weight
        if row.preferred != _TIE:
            side = text.chosen == high
            of_role.count[side] += weight
            of_role.most[side] = max(weight, of_role.most.get(side, 0.0))
            of_role.said.setdefault(side, pair_numbers(row.id, text, 1.0, correction=False, expert=expert))
    for of_pair in votes.values():
        expert = True in of_pair
        found = of_pair[expert]
        lead = found.count[True] - found.count[False]
        if abs(lead) > _ROUNDING:
            id, prompt, digest, *_ = found.said[lead > 0]
            weight = abs(lead) / found.voters * (found.most[lead > 0] if expert else end_user_weight)
            yield id, prompt, digest, weight, False, expert
