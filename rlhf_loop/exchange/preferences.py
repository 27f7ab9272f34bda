"""Pairs of a better and a worse answer, as experts compared, corrected and rated them.

Only hashes of the texts are in memory for all answers; the texts themselves are read for some questions at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import and_, select
from sqlalchemy.engine import Connection
from sqlalchemy.orm import aliased

from rlhf_loop.domain import GOOD_RATING, Pair, PairKind, ReviewerRole, prompt_key
from rlhf_loop.store.tables import CorrectionDecision, Interaction, Preference, Review

_STREAMED = {"yield_per": 1000}
#: Ids of one query: the lowest limit on variables among SQLite's builds is 999.
_IDS_A_QUERY = 900
_ANSWER = np.dtype([("id", np.int64), ("question", np.int64), ("answer", np.int64), ("rating", np.int64)])
#: A question and two of its answers, by their hashes, the lower one first.
_Compared = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class RatedAnswer:
    """An answer that experts rated, and whether they found it good."""

    prompt: str
    response: str
    good: bool


def pairs(connection: Connection, *, min_gap: int = 1) -> Iterator[Pair]:
    """Yield each pair once: first what experts compared, then what they corrected, then what they rated differently.

    Of two answers that experts compared the one that more of them prefer is better, whatever the ratings. A correction
    that an admin refused is left out. Rated pairs are those whose ratings differ by at least `min_gap`; an answer that
    was served several times for a question has the lower median of its ratings.
    """
    compared = _compared(connection)
    yield from _preferred(connection, compared)
    yield from _corrected(connection)
    for question, texts in _questions(connection):
        for better, worse in _differing(question, min_gap):
            key = _key(int(better["question"]), int(better["answer"]), int(worse["answer"]))
            chosen, rejected = texts.get(int(better["id"])), texts.get(int(worse["id"]))
            if key not in compared and chosen and rejected:
                yield Pair(chosen.user_prompt, chosen.ai_response, rejected.ai_response)


def labelled(connection: Connection) -> Iterator[RatedAnswer]:
    """Yield each rated answer to a question once, in the order of the questions' hashes."""
    for question, texts in _questions(connection):
        for answer in question:
            if text := texts.get(int(answer["id"])):
                yield RatedAnswer(text.user_prompt, text.ai_response, bool(answer["rating"] >= GOOD_RATING))


def _hashes(prompt: str, response: str) -> tuple[int, int]:
    return hash(prompt_key(prompt)), hash(response)


def _key(question: int, one: int, other: int) -> _Compared:
    return (question, one, other) if one < other else (question, other, one)


# --- Compared and corrected ------------------------------------------------------------------------------------------


def _compared(connection: Connection) -> dict[_Compared, dict[int, int]]:
    """Return, for each two answers that experts compared, how many preferred which (by the answer's hash)."""
    first, second = aliased(Interaction), aliased(Interaction)
    wanted = (
        select(first.user_prompt, first.ai_response, second.ai_response.label("other"), Preference.preferred)
        .join(first, first.id == Preference.first_id)
        .join(second, second.id == Preference.second_id)
        .where(Preference.role == ReviewerRole.EXPERT)
    )
    votes: dict[_Compared, dict[int, int]] = {}
    for row in connection.execute(wanted, execution_options=_STREAMED):
        question, one = _hashes(row.user_prompt, row.ai_response)
        other = hash(row.other)
        if one != other:
            of_pair = votes.setdefault(_key(question, one, other), {one: 0, other: 0})
            if row.preferred != "tie":
                of_pair[one if row.preferred == "first" else other] += 1
    return votes


def _preferred(connection: Connection, compared: dict[_Compared, dict[int, int]]) -> Iterator[Pair]:
    first, second = aliased(Interaction), aliased(Interaction)
    wanted = (
        select(first.user_prompt, first.ai_response, second.ai_response.label("other"))
        .select_from(Preference)
        .join(first, first.id == Preference.first_id)
        .join(second, second.id == Preference.second_id)
        .where(Preference.role == ReviewerRole.EXPERT)
        .order_by(Preference.id)
    )
    done: set[_Compared] = set()
    for row in connection.execute(wanted, execution_options=_STREAMED):
        question, one = _hashes(row.user_prompt, row.ai_response)
        other = hash(row.other)
        key = _key(question, one, other)
        votes = compared.get(key)
        if votes is None or key in done or votes[one] == votes[other]:
            continue
        done.add(key)
        chosen, rejected = (row.ai_response, row.other) if votes[one] > votes[other] else (row.other, row.ai_response)
        yield Pair(row.user_prompt, chosen, rejected)


def _corrected(connection: Connection) -> Iterator[Pair]:
    decided = and_(
        CorrectionDecision.review_id == Review.id,
        CorrectionDecision.correction == Review.correction,
        CorrectionDecision.approved.is_(False),
    )
    wanted = (
        select(Interaction.user_prompt, Interaction.ai_response, Review.correction)
        .select_from(Review)
        .join(Interaction, Interaction.id == Review.interaction_key)
        .outerjoin(CorrectionDecision, decided)
        .where(
            Review.role == ReviewerRole.EXPERT,
            Review.correction.is_not(None),
            CorrectionDecision.review_id.is_(None),
        )
        .order_by(Review.id)
    )
    done: set[tuple[int, int, int]] = set()
    for row in connection.execute(wanted, execution_options=_STREAMED):
        key = (*_hashes(row.user_prompt, row.ai_response), hash(row.correction))
        if row.correction.strip() and row.correction.split() != row.ai_response.split() and key not in done:
            done.add(key)
            yield Pair(row.user_prompt, row.correction, row.ai_response, kind=PairKind.CORRECTION)


# --- Rated -----------------------------------------------------------------------------------------------------------


def _questions(connection: Connection) -> Iterator[tuple[NDArray[np.void], dict[int, Any]]]:
    """Yield the distinct rated answers of each question, with the texts by the answer's id."""
    answers = _distinct(_rated(connection))
    starts = np.flatnonzero(np.diff(answers["question"], prepend=answers["question"][:1] - 1))
    questions = np.split(answers, starts[1:]) if len(answers) else []
    waiting: list[NDArray[np.void]] = []
    for question in questions:
        if waiting and sum(map(len, waiting)) + len(question) > _IDS_A_QUERY:
            yield from _with_texts(connection, waiting)
            waiting = []
        waiting.append(question)
    yield from _with_texts(connection, waiting)


def _with_texts(
    connection: Connection, questions: Sequence[NDArray[np.void]]
) -> Iterator[tuple[NDArray[np.void], dict[int, Any]]]:
    ids = [id for question in questions for id in question["id"].tolist()]
    wanted = select(Interaction.id, Interaction.user_prompt, Interaction.ai_response)
    texts: dict[int, Any] = {}
    for start in range(0, len(ids), _IDS_A_QUERY):
        part = wanted.where(Interaction.id.in_(ids[start : start + _IDS_A_QUERY]))
        texts.update((row.id, row) for row in connection.execute(part))
    return ((question, texts) for question in questions)


def _rated(connection: Connection) -> NDArray[np.void]:
    wanted = (
        select(Interaction.id, Interaction.user_prompt, Interaction.ai_response, Interaction.rating)
        .where(Interaction.rating.is_not(None))
        .order_by(Interaction.id)
    )
    rows = connection.execute(wanted, execution_options=_STREAMED)
    return np.fromiter(
        ((row.id, *_hashes(row.user_prompt, row.ai_response), row.rating) for row in rows), dtype=_ANSWER
    )


def _distinct(served: NDArray[np.void]) -> NDArray[np.void]:
    """Make the servings of one answer one: the first, with the lower median of the ratings; sorted by question."""
    order = np.lexsort((served["rating"], served["answer"], served["question"]))
    served = served[order]
    new = np.ones(len(served), dtype=np.bool_)
    new[1:] = (np.diff(served["question"]) != 0) | (np.diff(served["answer"]) != 0)
    starts = np.flatnonzero(new)
    counts = np.diff(starts, append=len(served))
    answers = served[starts].copy()
    answers["rating"] = served["rating"][starts + (counts - 1) // 2]
    if len(starts):
        answers["id"] = np.minimum.reduceat(served["id"], starts)
    return answers


def _differing(question: NDArray[np.void], min_gap: int) -> Iterator[tuple[Any, Any]]:
    best_first = question[np.argsort(-question["rating"], kind="stable")]
    for place, better in enumerate(best_first):
        for worse in best_first[place + 1 :]:
            if better["rating"] - worse["rating"] >= min_gap:
                yield better, worse
