"""Pairs and labels for other trainers, by the rules that training itself goes by (`training/data.py`, `pairs.py`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

from sqlalchemy.engine import Connection

from rlhf_loop.domain import GOOD_RATING, Pair, PairKind
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
