"""Which two answers to compare: of one question, with different texts, and nearly as good as each other.

Pairs come from the questions whose best two answers are closest by the live model, from the newest questions, and from
a stretch of the table that begins anywhere. Answers belong to one question by their candidate group, and without one by
their prompt, letter by letter. Pairs that experts' ratings have already put in an order come last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations
from typing import Any

from sqlalchemy import exists, func, or_, select
from sqlalchemy.engine import Connection
from sqlalchemy.orm import aliased

from rlhf_loop.config import Settings
from rlhf_loop.domain import ReviewerRole, prompt_key
from rlhf_loop.reviewing.priority import in_overlap, part
from rlhf_loop.reviewing.servings import same_prompt, servings
from rlhf_loop.store.interactions import group_name
from rlhf_loop.store.tables import AnswerScore, Interaction, PairAssignment, Preference

#: How many questions each way of looking gives, how many answers it looks at for them, and answers of one question.
_QUESTIONS, _ANSWERS, _OF_ONE = 15, 100, 30
#: In how many stretches of the table it looks before it finds that nothing is left.
_STRETCHES = 20
#: What the distance counts as where a score is unknown: after those that are close, before those far apart.
_UNKNOWN = 0.5
_ALREADY_ORDERED = 10.0

_NAMED = select(Interaction.id, Interaction.candidate_group, Interaction.user_prompt)


@dataclass(frozen=True, slots=True)
class FoundPair:
    """Two answers that may be compared; `first_id` is the lower id."""

    first_id: int
    second_id: int


def pair_candidates(connection: Connection, reviewer: str) -> list[FoundPair]:
    """Return pairs that the rater may be given, the closest first; to be checked again when one is taken."""
    count = select(func.count()).select_from(PairAssignment).where(PairAssignment.reviewer == reviewer)
    given = connection.execute(count).scalar_one()
    last = connection.execute(select(func.max(Interaction.id))).scalar() or 0
    newest = _NAMED.order_by(Interaction.id.desc())
    queries = [_closest(reviewer), newest]
    for attempt in range(_STRETCHES):
        place = int(part("pairs", reviewer, str(given), str(attempt)) * last) + 1
        queries.append(newest.where(Interaction.id <= place))
        valued: dict[FoundPair, float] = {}
        for question in _questions(connection, queries):
            valued.update(_pairs(question))
        found = sorted(valued, key=lambda pair: (valued[pair], -pair.second_id, -pair.first_id))
        if found := _not_given(connection, found, reviewer):
            return found
        queries = []
    return []


def is_free(
    connection: Connection,
    pair: FoundPair,
    reviewer: str,
    settings: Settings,
    now: datetime,
    *,
    again: bool = False,
) -> bool:
    """Tell whether the rater may be given the pair: to be asked once both answers are locked.

    What was said of the same two texts in other servings counts as well. `again` is for a pair that the rater was given
    before.
    """
    firsts, seconds = servings(connection, pair.first_id), servings(connection, pair.second_id)
    given = connection.execute(_of_both(PairAssignment, firsts, seconds)).all()
    stored = connection.execute(_of_both(Preference, firsts, seconds)).all()
    mine = [(row.first_id, row.second_id) for row in given if row.reviewer == reviewer]
    if again:
        mine = [ids for ids in mine if ids != (pair.first_id, pair.second_id)]
    if mine or any(row.reviewer == reviewer for row in stored):
        return False
    raters = {row.reviewer for row in stored if row.role == ReviewerRole.EXPERT}
    raters |= {
        row.reviewer for row in given if row.reviewer != reviewer and row.state == "open" and row.leased_until > now
    }
    return len(raters) < _wanted(connection, pair, settings)


def _wanted(connection: Connection, pair: FoundPair, settings: Settings) -> int:
    named = select(Interaction.candidate_group, Interaction.user_prompt).where(Interaction.id == pair.first_id)
    row = connection.execute(named).one()
    question = group_name(row.candidate_group, row.user_prompt)
    return max(1, settings.review_overlap_raters) if in_overlap(question, settings.review_overlap) else 1


def _of_both(table: Any, firsts: list[int], seconds: list[int]) -> Any:
    # The same two texts may stand in the other order, where they were served again.
    either = (table.first_id.in_(firsts) & table.second_id.in_(seconds)) | (
        table.first_id.in_(seconds) & table.second_id.in_(firsts)
    )
    return select(table.__table__).where(either)


def _closest(reviewer: str) -> Any:
    """Select the answers that are one of the best two of their question, the closest first; each once a rater."""
    compared = exists(
        select(1).where(
            PairAssignment.reviewer == reviewer,
            or_(PairAssignment.first_id == Interaction.id, PairAssignment.second_id == Interaction.id),
        )
    )
    closest = _NAMED.join(AnswerScore, AnswerScore.interaction_id == Interaction.id)
    return closest.where(AnswerScore.margin.is_not(None), ~compared).order_by(AnswerScore.margin)


def _questions(connection: Connection, queries: Sequence[Any]) -> list[list[Any]]:
    """Return the answers of each of the questions that the queries name."""
    named: dict[tuple[str | None, str], Any] = {}
    for query in queries:
        found: dict[tuple[str | None, str], Any] = {}
        for row in connection.execute(query.limit(_ANSWERS)):
            found.setdefault((row.candidate_group, row.user_prompt if row.candidate_group is None else ""), row)
        named.update(list(found.items())[:_QUESTIONS])
    return [_answers(connection, row) for row in named.values()]


def _answers(connection: Connection, named: Any) -> list[Any]:
    """Return the newest answers to the question of that one."""
    answers = select(
        Interaction.id,
        Interaction.user_prompt,
        Interaction.ai_response,
        Interaction.rating,
        func.coalesce(AnswerScore.score, Interaction.score).label("score"),
    ).join(AnswerScore, AnswerScore.interaction_id == Interaction.id, isouter=True)
    if named.candidate_group is None:
        one = aliased(Interaction)
        answers = answers.join(one, same_prompt(one, Interaction))
        answers = answers.where(one.id == named.id, Interaction.candidate_group.is_(None))
    else:
        answers = answers.where(Interaction.candidate_group == named.candidate_group)
    return list(connection.execute(answers.order_by((Interaction.id + 0).desc()).limit(_OF_ONE)))


def _pairs(answers: Sequence[Any]) -> dict[FoundPair, float]:
    """Return the pairs of different texts among the answers to a question, and how far apart they are."""
    # The newest come first, so of an answer that was served again the first serving stays.
    texts = {(prompt_key(row.user_prompt), row.ai_response.strip()): row for row in answers}
    found = {}
    for first, second in combinations(sorted(texts.values(), key=lambda row: row.id), 2):
        if prompt_key(first.user_prompt) == prompt_key(second.user_prompt):
            found[FoundPair(first.id, second.id)] = _distance(first, second)
    return found


def _distance(first: Any, second: Any) -> float:
    unknown = first.score is None or second.score is None
    distance = _UNKNOWN if unknown else abs(first.score - second.score)
    ordered = first.rating is not None and second.rating is not None and first.rating != second.rating
    return float(distance + (_ALREADY_ORDERED if ordered else 0))


def _not_given(connection: Connection, found: Sequence[FoundPair], reviewer: str) -> list[FoundPair]:
    given = select(PairAssignment.first_id, PairAssignment.second_id).where(
        PairAssignment.reviewer == reviewer, PairAssignment.first_id.in_({pair.first_id for pair in found})
    )
    mine = {FoundPair(row.first_id, row.second_id) for row in connection.execute(given)}
    return [pair for pair in found if pair not in mine]
