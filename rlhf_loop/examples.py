"""Training examples from the ratings database: their numbers in one pass, their texts whenever they are needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import or_, select
from sqlalchemy.engine import Connection, Engine

from rlhf_loop.db import reading
from rlhf_loop.domain import Example
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


def training_set(engine: Engine) -> TrainingSet:
    """Read what training learns from: every rated answer, and the unrated ones offered beside a rated one.

    Ordered by id. An answer that was served twice for one question is one answer; its rating is the lower median of all
    its reviews. Of the texts only hashes are kept, so memory does not depend on their length.

    All numbers are from one transaction and fit together. The texts are read afterwards, chunk by chunk in transactions
    of their own: embedding them may take hours, and for so long a reader would keep SQLite's log and PostgreSQL's dead
    rows from being cleared. What changed meanwhile is recognised by its hash and left out (see `TrainingSet.chunks`).
    """
    return in_questions(_answers(engine), _Stored(engine))


def examples(engine: Engine) -> list[Example]:
    """Read the same with all texts, for data that is known to be small."""
    answers = _answers(engine)
    ids = answers["id"].tolist()
    texts = _Stored(engine).read(ids)
    return [
        Example(text.prompt, text.response, rating or None, text.group, rank or None)
        for id, rating, rank in zip(ids, answers["rating"].tolist(), answers["rank"].tolist(), strict=True)
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


def _answers(engine: Engine) -> Answers:
    """Read the numbers of all examples, ordered by id."""
    with reading(engine) as connection:
        rows = connection.execute(_rated_and_siblings(), execution_options=_STREAMED)
        served = np.fromiter(_numbers(rows), dtype=ANSWER)
        group = numbered(served["group"])
        served = served[np.bincount(group[served["rating"] > 0], minlength=len(served))[group] > 0]
        return _distinct(connection, served)


def _numbers(rows: Any) -> Iterator[tuple[object, ...]]:
    return (answer_numbers(row.id, _text(row), row.rating, row.shown_rank) for row in rows)


def _text(row: Any) -> AnswerText:
    return AnswerText(row.user_prompt, row.ai_response, group_name(row.candidate_group, row.user_prompt))


def _rated_and_siblings() -> Any:
    rated_groups = select(Interaction.candidate_group).where(Interaction.rating.is_not(None))
    return (
        select(
            Interaction.id,
            Interaction.user_prompt,
            Interaction.ai_response,
            Interaction.rating,
            Interaction.candidate_group,
            Interaction.shown_rank,
        )
        .where(
            or_(
                Interaction.rating.is_not(None),
                Interaction.candidate_group.is_(None),
                Interaction.candidate_group.in_(rated_groups.where(Interaction.candidate_group.is_not(None))),
            )
        )
        .order_by(Interaction.id)
    )


def _distinct(connection: Connection, served: Answers) -> Answers:
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
    answers["rating"][several] = 0
    which, rating = _lower_medians(*_reviews(connection, served["id"], number, several))
    answers["rating"][which] = rating
    return answers


def _reviews(connection: Connection, id: Ints, number: Ints, several: NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """Return the answers that the reviews of those served several times belong to, and the ratings."""
    rows = connection.execute(select(Review.interaction_id, Review.rating), execution_options=_STREAMED)
    reviews = np.fromiter(map(tuple, rows), dtype=[("interaction", np.int64), ("rating", np.intp)])
    place = np.minimum(np.searchsorted(id, reviews["interaction"]), len(id) - 1)
    of_several = (id[place] == reviews["interaction"]) & several[number[place]]
    return number[place[of_several]], reviews["rating"][of_several]


def _lower_medians(number: Ints, rating: Ints) -> tuple[Ints, Ints]:
    """Return each number and the middle one of its ratings; of two the lower, as the database's triggers have it."""
    order = np.lexsort((rating, number))
    which, start, count = np.unique(number[order], return_index=True, return_counts=True)
    return which, rating[order][start + (count - 1) // 2]
