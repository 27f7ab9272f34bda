"""Pairs from the ratings database: experts' corrections, and what reviewers prefer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
from sqlalchemy import and_, func, or_, select
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.orm import aliased

from rlhf_loop.db import reading
from rlhf_loop.domain import ReviewerRole, prompt_key
from rlhf_loop.pair_data import PAIR, PairNumbers, PairSet, PairText, pair_numbers
from rlhf_loop.tables import CorrectionDecision, Interaction, Preference, Review

_STREAMED = {"yield_per": 1000}
#: Ids of one query: the lowest limit on variables among SQLite's builds is 999.
_IDS_A_QUERY = 900
_TIE = "tie"
_First, _Second = aliased(Interaction), aliased(Interaction)


def training_pairs(engine: Engine, *, end_user_weight: float = 0.0) -> PairSet:
    """Read the pairs that training learns from: corrections first, then preferences.

    An expert's correction is better than the answer that it corrects. It counts at once, unless an admin has refused
    it. Corrections by end users are not used.

    Two answers that several reviewers have compared are one pair: the one that most of them prefer is better, and the
    weight is their lead as a share of all who compared them (of three against one: a half). A tie is in that share,
    and where neither leads there is no pair. Where no expert has compared the two the end users' preference counts,
    times `end_user_weight`. Answers of the same wording are the same answer, however often they were served; two to
    different questions are no pair.

    As with `examples.training_set` the numbers are from one transaction, and the texts are read later.
    """
    with reading(engine) as connection:
        rows = chain(_corrections(connection), _preferences(connection, end_user_weight))
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
    select(Review.id, Interaction.user_prompt, Interaction.ai_response, Review.correction)
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


def _corrections(connection: Connection) -> Iterator[tuple[object, ...]]:
    seen: set[int] = set()
    for row in connection.execute(_CORRECTIONS, execution_options=_STREAMED):
        text = _corrected(row)
        key = hash((prompt_key(text.prompt), text.chosen, text.rejected))
        if text.differs and text.chosen.strip() and key not in seen:
            seen.add(key)
            yield pair_numbers(row.id, text, 1.0, correction=True, expert=True)


@dataclass(slots=True)
class _Votes:
    """What reviewers of one role say of two answers; `said` has for either side the first pair that says so."""

    count: dict[bool, int] = field(default_factory=lambda: {False: 0, True: 0})
    said: dict[bool, tuple[object, ...]] = field(default_factory=dict)
    voters: int = 0


def _preferences(connection: Connection, end_user_weight: float) -> Iterator[tuple[object, ...]]:
    votes: dict[int, dict[bool, _Votes]] = {}
    for row in connection.execute(_PREFERENCES, execution_options=_STREAMED):
        text, expert = _compared(row), row.role == ReviewerRole.EXPERT
        same_question = prompt_key(row.user_prompt) == prompt_key(row.second_prompt)
        if not same_question or not text.differs or not (expert or end_user_weight > 0):
            continue
        # By the texts, in one order whichever of them was served first.
        low, high = sorted((text.chosen, text.rejected))
        of_role = votes.setdefault(hash((prompt_key(text.prompt), low, high)), {}).setdefault(expert, _Votes())
        of_role.voters += 1
        if row.preferred != _TIE:
            side = text.chosen == high
            of_role.count[side] += 1
            of_role.said.setdefault(side, pair_numbers(row.id, text, 1.0, correction=False, expert=expert))
    for of_pair in votes.values():
        expert = True in of_pair
        found = of_pair[expert]
        lead = found.count[True] - found.count[False]
        if lead:
            id, prompt, digest, *_ = found.said[lead > 0]
            weight = abs(lead) / found.voters * (1.0 if expert else end_user_weight)
            yield id, prompt, digest, weight, False, expert
