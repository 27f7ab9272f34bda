"""Training examples from the ratings database: their numbers in one pass, their texts whenever they are needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import null, or_, select
from sqlalchemy.engine import Connection, Engine

from rlhf_loop.db import reading
from rlhf_loop.domain import Example, ReviewerRole
from rlhf_loop.interactions import group_name
from rlhf_loop.tables import Interaction, Review
from rlhf_loop.training_data import (
    ANSWER,
    Answers,
    AnswerText,
    Ints,
    TrainingSet,
    answer_numbers,
    in_questions,
    numbered,
)

_STREAMED = {"yield_per": 1000}
#: Ids of one query: the lowest limit on variables among SQLite's builds is 999.
_IDS_A_QUERY = 900


def training_set(engine: Engine, *, end_user_weight: float = 0.0) -> TrainingSet:
    """Read what training learns from: every rated answer, and the unrated ones offered beside a rated one.

    Ordered by id. An answer that was served twice for one question is one answer; its rating is the lower median of all
    its reviews by experts. Where none of them has rated it, it is that of the end users' and weighs `end_user_weight`;
    with a weight of 0 (or less) their ratings are not read. Of the texts only hashes are kept, so memory does not
    depend on their length.

    All numbers are from one transaction and fit together. The texts are read afterwards, chunk by chunk in transactions
    of their own: embedding them may take hours, and for so long a reader would keep SQLite's log and PostgreSQL's dead
    rows from being cleared. What changed meanwhile is recognised by its hash and left out (see `TrainingSet.chunks`).
    """
    return in_questions(_answers(engine, end_user_weight), _Stored(engine))


def examples(engine: Engine, *, end_user_weight: float = 0.0) -> list[Example]:
    """Read the same with all texts, for data that is known to be small."""
    answers = _answers(engine, end_user_weight)
    ids = answers["id"].tolist()
    texts = _Stored(engine).read(ids)
    return [
        Example(
            text.prompt,
            text.response,
            rating or None,
            text.group,
            rank or None,
            weight=weight,
            role=ReviewerRole.EXPERT if expert else ReviewerRole.END_USER,
        )
        for id, rating, rank, weight, expert in zip(
            ids, *(answers[name].tolist() for name in ("rating", "rank", "weight", "expert")), strict=True
        )
        if (text := texts.get(id))
    ]


class _Stored:
    """Texts that are read from the database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def read(self, ids: Sequence[int]) -> Mapping[int, AnswerText]:
        wanted = select(Interaction.id, Interaction.user_prompt, Interaction.ai_response, Interaction.candidate_group)
        found: dict[int, AnswerText] = {}
        with reading(self._engine) as connection:
            for start in range(0, len(ids), _IDS_A_QUERY):
                part = wanted.where(Interaction.id.in_(ids[start : start + _IDS_A_QUERY]))
                found.update((row.id, _text(row)) for row in connection.execute(part))
        return found


def _answers(engine: Engine, end_user_weight: float) -> Answers:
    """Read the numbers of all examples, ordered by id."""
    with reading(engine) as connection:
        rows = connection.execute(_rated_and_siblings(end_user_weight > 0), execution_options=_STREAMED)
        served = np.fromiter(_numbers(rows, end_user_weight), dtype=ANSWER)
        group = numbered(served["group"])
        served = served[np.bincount(group[served["rating"] > 0], minlength=len(served))[group] > 0]
        return _distinct(connection, served, end_user_weight)


def _numbers(rows: Any, end_user_weight: float) -> Iterator[tuple[object, ...]]:
    for row in rows:
        expert = row.rating is not None or row.end_user_rating is None
        rating = row.rating if expert else row.end_user_rating
        weight = 1.0 if expert else end_user_weight
        yield answer_numbers(row.id, _text(row), rating, row.shown_rank, weight=weight, expert=expert)


def _text(row: Any) -> AnswerText:
    return AnswerText(row.user_prompt, row.ai_response, group_name(row.candidate_group, row.user_prompt))


def _rated_and_siblings(by_end_users: bool) -> Any:
    by_anybody = or_(Interaction.rating.is_not(None), Interaction.end_user_rating.is_not(None))
    rated = by_anybody if by_end_users else Interaction.rating.is_not(None)
    rated_groups = select(Interaction.candidate_group).where(rated, Interaction.candidate_group.is_not(None))
    return (
        select(
            Interaction.id,
            Interaction.user_prompt,
            Interaction.ai_response,
            Interaction.rating,
            (Interaction.end_user_rating if by_end_users else null()).label("end_user_rating"),
            Interaction.candidate_group,
            Interaction.shown_rank,
        )
        .where(or_(rated, Interaction.candidate_group.is_(None), Interaction.candidate_group.in_(rated_groups)))
        .order_by(Interaction.id)
    )


def _distinct(connection: Connection, served: Answers, end_user_weight: float) -> Answers:
    """Make the servings of one answer one: the first, with the first known rank and the rating by all reviews."""
    number = numbered(served["answer"])
    servings = np.bincount(number)
    if (servings == 1).all():
        return served
    answers = served[np.unique(number, return_index=True)[1]]
    ranked = np.flatnonzero(served["rank"] > 0)
    which, first = np.unique(number[ranked], return_index=True)
    answers["rank"][which] = served["rank"][ranked[first]]
    several = servings > 1
    for name, unrated in (("rating", 0), ("weight", 1.0), ("expert", True)):
        answers[name][several] = unrated
    which, rating, expert = _reviews(connection, served["id"], number, several)
    # The experts last: where one of them has rated, the end users' word is overwritten.
    for of_experts in (False, True):
        if of_experts or end_user_weight > 0:
            of_role = expert == of_experts
            rated, median = _lower_medians(which[of_role], rating[of_role])
            answers["rating"][rated] = median
            answers["weight"][rated] = 1.0 if of_experts else end_user_weight
            answers["expert"][rated] = of_experts
    return answers


def _reviews(
    connection: Connection, id: Ints, number: Ints, several: NDArray[np.bool_]
) -> tuple[Ints, Ints, NDArray[np.bool_]]:
    """Return the answers that the reviews of those served several times belong to, the ratings, and if experts'."""
    wanted = select(Review.interaction_id, Review.rating, Review.role == ReviewerRole.EXPERT)
    rows = connection.execute(wanted, execution_options=_STREAMED)
    columns = [("interaction", np.int64), ("rating", np.intp), ("expert", np.bool_)]
    reviews = np.fromiter(map(tuple, rows), dtype=columns)
    place = np.minimum(np.searchsorted(id, reviews["interaction"]), len(id) - 1)
    of_several = (id[place] == reviews["interaction"]) & several[number[place]]
    return number[place[of_several]], reviews["rating"][of_several], reviews["expert"][of_several]


def _lower_medians(number: Ints, rating: Ints) -> tuple[Ints, Ints]:
    """Return each number and the middle one of its ratings; of two the lower, as the database's triggers have it."""
    order = np.lexsort((rating, number))
    which, start, count = np.unique(number[order], return_index=True, return_counts=True)
    return which, rating[order][start + (count - 1) // 2]
