"""Pairs and labels for other trainers, by the rules that training itself goes by (`training/data.py`, `pairs.py`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, groupby

from sqlalchemy import select
from sqlalchemy.engine import Connection

from rlhf_loop.domain import GOOD_RATING, Pair, PairKind
from rlhf_loop.ranking import is_prior
from rlhf_loop.store.tables import Interaction
from rlhf_loop.training.data import TrainingSet, in_questions, training_set
from rlhf_loop.training.pairs import PairText, training_pairs
from rlhf_loop.utils.text import visible


@dataclass(frozen=True, slots=True)
class RatedAnswer:
    """An answer with the rating that experts gave it."""

    prompt: str
    response: str
    rating: int

    @property
    def good(self) -> bool:
        """True if it counts as correct."""
        return self.rating >= GOOD_RATING


def pairs(connection: Connection, *, min_gap: int = 1, reviewer_weighting: bool = True) -> Iterator[Pair]:
    """Yield each pair once: first what experts compared, then what they corrected, then what they rated differently.

    Preferences and corrections are those of `training_pairs`, ratings those of `training_set`, all without end users'.
    Of two answers that experts compared the one that more of them prefer is better, whatever the ratings. Rated pairs
    are those whose ratings differ by at least `min_gap`.
    """
    rated = training_set(connection, reviewer_weighting=reviewer_weighting)
    said = training_pairs(connection, raters=rated.raters)
    corrections = said.numbers["correction"]
    for rows, kind in ((~corrections, PairKind.PREFERENCE), (corrections, PairKind.CORRECTION)):
        for chunk in said.only(rows).chunks():
            for question in chunk.questions:
                chosen, rejected = question.responses
                yield Pair(question.prompt, chosen, rejected, kind=kind)
    for answers in _rated(rated):
        best_first = sorted(answers, key=lambda answer: -answer.rating)
        for better, worse in combinations(best_first, 2):
            text = PairText(better.prompt, better.response, worse.response)
            if better.rating - worse.rating >= min_gap and text.differs and text.key not in said.compared:
                yield Pair(text.prompt, text.chosen, text.rejected)


@dataclass(frozen=True, slots=True)
class DraftPair:
    """The best and the worst answer to a question that nobody has judged, by the scores of what ranked them."""

    prompt: str
    chosen: str
    rejected: str
    chosen_score: float
    rejected_score: float

    @property
    def margin(self) -> float:
        """The difference of the two probabilities."""
        return self.chosen_score - self.rejected_score


def draft_pairs(connection: Connection, *, min_margin: float) -> Iterator[DraftPair]:
    """Yield a pair of each ranked list in which the model is certain: one more likely right than not, one wrong.

    Lists in which anybody has judged an answer are left out, as what they said is exported; so are those that a prior
    has scored, whose scores are not calibrated.
    """
    of = Interaction
    wanted = (
        select(of.candidate_group, of.user_prompt, of.ai_response, of.score, of.model_version)
        .add_columns(of.rating, of.end_user_rating, of.corrected_response)
        .where(of.candidate_group.is_not(None))
        .order_by(of.candidate_group, of.id)
    )
    rows = connection.execute(wanted, execution_options={"yield_per": 1000})
    for _, group in groupby(rows, key=lambda row: (row.candidate_group, row.user_prompt)):
        answers = list(group)
        judged = any(row.rating or row.end_user_rating or row.corrected_response for row in answers)
        scored = [row for row in answers if row.score is not None and not is_prior(row.model_version)]
        if judged or len({row.model_version for row in scored}) != 1:
            continue
        best, worst = max(scored, key=lambda row: row.score), min(scored, key=lambda row: row.score)
        differ = visible(best.ai_response) != visible(worst.ai_response)
        if best.score > 0.5 > worst.score and best.score - worst.score >= min_margin and differ:
            yield DraftPair(best.user_prompt, best.ai_response, worst.ai_response, best.score, worst.score)


def labelled(connection: Connection, *, reviewer_weighting: bool = True) -> Iterator[RatedAnswer]:
    """Yield each rated answer to a question once, in the order of the questions."""
    for answers in _rated(training_set(connection, reviewer_weighting=reviewer_weighting)):
        yield from answers


def _rated(data: TrainingSet) -> Iterator[list[RatedAnswer]]:
    """Yield the rated answers of each question, whatever groups they were served in: of one served in several the
    rating is the lower median.
    """
    answers = data.candidates[data.row]
    answers["group"] = 0
    by_prompt = in_questions(answers, data.texts)
    for chunk in by_prompt.chunks():
        ratings = iter(by_prompt.candidates["rating"][chunk.row].tolist())
        for question in chunk.questions:
            of_text: dict[str, list[int]] = {}
            spelled: dict[str, str] = {}
            for response in question.responses:
                of_text.setdefault(spelled.setdefault(visible(response), response), []).append(next(ratings))
            yield [
                RatedAnswer(question.prompt, response, sorted(given)[(len(given) - 1) // 2])
                for response, given in of_text.items()
            ]
