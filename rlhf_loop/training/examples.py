"""Training examples from the ratings database: their numbers in one pass, their texts whenever they are needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import null, or_, select
from sqlalchemy.engine import Connection, Engine

from rlhf_loop.domain import Example, ReviewerRole
from rlhf_loop.store.engine import reading
from rlhf_loop.store.interactions import group_name
from rlhf_loop.store.tables import Interaction
from rlhf_loop.training.consensus import Reviews, consensus, read_reviews
from rlhf_loop.training.data import ANSWER, Answers, AnswerText, TrainingSet, answer_numbers, in_questions, numbered
from rlhf_loop.training.reliability import RaterReliability

_STREAMED = {"yield_per": 1000}
#: Ids of one query: the lowest limit on variables among SQLite's builds is 999.
_IDS_A_QUERY = 900


def training_set(engine: Engine, *, end_user_weight: float = 0.0, reviewer_weighting: bool = False) -> TrainingSet:
    """Read what training learns from: every rated answer, and the unrated ones offered beside a rated one.

    Ordered by id. An answer that was served twice for one question is one answer; its rating is the lower median of all
    its reviews by experts. Where none of them has rated it, it is that of the end users' and weighs `end_user_weight`;
    with a weight of 0 (or less) their ratings are not read. Of the texts only hashes are kept, so memory does not
    depend on their length.

    With `reviewer_weighting` an expert counts as far as the others bear them out (see `reliability`): the median is by
    weight, and the answer's weight that of the most reliable of its raters. Answers whose raters all count nothing are
    as good as unrated. As long as nobody is to be doubted, it changes nothing.

    All numbers are from one transaction and fit together. The texts are read afterwards, chunk by chunk in transactions
    of their own: embedding them may take hours, and for so long a reader would keep SQLite's log and PostgreSQL's dead
    rows from being cleared. What changed meanwhile is recognised by its hash and left out (see `TrainingSet.chunks`).
    """
    found = _read(engine, end_user_weight, reviewer_weighting)
    data = in_questions(found.answers, _Stored(engine))
    return replace(data, raters=found.raters, disregarded=found.disregarded)


def examples(engine: Engine, *, end_user_weight: float = 0.0, reviewer_weighting: bool = False) -> list[Example]:
    """Read the same with all texts, for data that is known to be small."""
    answers = _read(engine, end_user_weight, reviewer_weighting).answers
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
                found.update((row.id, _answer_text(row)) for row in connection.execute(part))
        return found


@dataclass(frozen=True, slots=True)
class _Found:
    """The numbers of all examples, ordered by id; the experts who count less, and how many answers that leaves out."""

    answers: Answers
    raters: tuple[RaterReliability, ...] = ()
    disregarded: int = 0


def _read(engine: Engine, end_user_weight: float, reviewer_weighting: bool) -> _Found:
    with reading(engine) as connection:
        rows = connection.execute(_rated_and_siblings(end_user_weight > 0), execution_options=_STREAMED)
        served = _in_rated_groups(np.fromiter(_answer_rows(rows, end_user_weight), dtype=ANSWER))
        return _distinct(connection, served, end_user_weight, reviewer_weighting)


def _in_rated_groups(answers: Answers) -> Answers:
    group = numbered(answers["group"])
    rated: Answers = answers[np.bincount(group[answers["rating"] > 0], minlength=len(answers))[group] > 0]
    return rated


def _answer_rows(rows: Any, end_user_weight: float) -> Iterator[tuple[object, ...]]:
    for row in rows:
        expert = row.rating is not None or row.end_user_rating is None
        rating = row.rating if expert else row.end_user_rating
        weight = 1.0 if expert else end_user_weight
        yield answer_numbers(row.id, _answer_text(row), rating, row.shown_rank, weight=weight, expert=expert)


def _answer_text(row: Any) -> AnswerText:
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


def _distinct(connection: Connection, served: Answers, end_user_weight: float, reviewer_weighting: bool) -> _Found:
    """Make the servings of one answer one: the first, with the first known rank and the rating by all reviews."""
    number = numbered(served["answer"])
    recounted = np.bincount(number) > 1
    if not (reviewer_weighting or recounted.any()):
        return _Found(served)
    reviews = read_reviews(connection, served["id"], number, end_users=end_user_weight > 0)
    raters = reviews.reliability() if reviewer_weighting else {}
    weight = reviews.weights(raters)
    recounted[reviews.answer[weight < 1]] = True
    if not recounted.any():
        return _Found(served)
    answers = served[np.unique(number, return_index=True)[1]]
    ranked = np.flatnonzero(served["rank"] > 0)
    which, first = np.unique(number[ranked], return_index=True)
    answers["rank"][which] = served["rank"][ranked[first]]
    for name, unrated in (("rating", 0), ("weight", 1.0), ("expert", True)):
        answers[name][recounted] = unrated
    wanted = recounted[reviews.answer]
    _rate(answers, reviews.only(wanted), weight[wanted], end_user_weight)
    less = tuple(rater for rater in raters.values() if rater.weight < 1)
    if not less:
        return _Found(answers)
    by_experts = np.zeros(len(answers), dtype=np.bool_)
    by_experts[reviews.answer[reviews.expert]] = True
    by_experts[reviews.answer[reviews.expert & (weight > 0)]] = False
    return _Found(_in_rated_groups(answers), less, int(by_experts.sum()))


def _rate(answers: Answers, reviews: Reviews, weight: NDArray[np.float64], end_user_weight: float) -> None:
    """Give the answers the ratings that their reviews amount to."""
    # The experts last: where one of them counts, the end users' word is overwritten.
    for of_experts in (False, True):
        of_role = reviews.expert == of_experts
        found = consensus(reviews.answer[of_role], reviews.rating[of_role], weight[of_role])
        answers["rating"][found.answer] = found.rating
        answers["weight"][found.answer] = found.weight if of_experts else end_user_weight
        answers["expert"][found.answer] = of_experts
