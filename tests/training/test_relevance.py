"""Tests of relevance: right answers to other questions as negatives, to measure a model by and to learn from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from rlhf_loop.domain import Example, ModelState, Question
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.registry.gate import judge
from rlhf_loop.reward import RECIPES, recipe_named
from rlhf_loop.training.data import TrainingSet, assemble
from rlhf_loop.training.relevance import Negatives, draw_negatives, in_words
from rlhf_loop.training.train import train

SUBJECTS = [
    *("headache", "hiccups", "sunburn", "asthma", "heartburn", "gout", "anaemia", "acne", "cough", "fever", "scurvy"),
    *(
        "migraine",
        "vertigo",
        "tinnitus",
        "arthritis",
        "caries",
        "hives",
        "cramps",
        "bruises",
        "warts",
        "lice",
        "jetlag",
    ),
]
GOOD = "Rest, drink enough and take {0} medicine early. See a doctor if it lasts for more than three days."
BAD = ("{0}, {0} and {0}: many people ask about {0}.", "There are books on {0}, and {0} is a word from Greek.")


def on_subject(*, ranked: bool = False) -> list[Example]:
    """Good and bad answers that are all about their question; the bad ones name its subject more often."""
    return [
        Example(f"What helps against {each}?", text.format(each), rating, each, 3 - place if ranked else None)
        for each in SUBJECTS
        for place, (text, rating) in enumerate([(GOOD, 5), (BAD[0], 1), (BAD[1], 2)])
    ]


class LengthRecipe:
    """A recipe that sees nothing but how long an answer is."""

    name, version, reads_all, scaled, penalty_c = "length", 1, True, False, 1.0

    def feature_names(self) -> list[str]:
        return ["length"]

    def pair_columns(self) -> np.ndarray:
        return np.ones(1, dtype=np.bool_)

    def scales(self) -> np.ndarray:
        return np.ones(1)

    def features(self, questions: Sequence[Question], encoder: TextEncoder) -> np.ndarray:
        return np.array([[len(text) / 50] for question in questions for text in question.responses])


@pytest.fixture
def by_length(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(RECIPES, LengthRecipe.name, LengthRecipe())
    return LengthRecipe.name


def test_ratings_that_teach_no_relevance(quick: TextEncoder) -> None:
    """A model of ratings on the subject alone learns from answers to other questions that these are none."""
    trained = train(on_subject(), encoder=quick, recipe="passages")
    found = trained.report.relevance
    assert found is not None
    assert found.before is not None
    assert found.before < 0.6
    assert found.accuracy.value > 0.95
    assert trained.report.overall.auc.value > 0.95, "what the ratings teach is still known"
    other = Question(
        "What helps against measles?", (GOOD.format("measles"), GOOD.format("rust"), BAD[0].format("rust"))
    )
    (scores,) = trained.model.score([other], quick)
    assert scores[0] > scores[1:].max()
    assert "learned from such pairs" in in_words(found.accuracy.value, found.before)


def test_ratings_that_teach_it(quick: TextEncoder) -> None:
    """Where rated answers miss their questions often enough, nothing is added: measured, said, and left as it is."""
    examples = [
        Example(f"What helps against {each}?", text, rating, each)
        for place, each in enumerate(SUBJECTS)
        for text, rating in ((GOOD.format(each), 5), (GOOD.format(SUBJECTS[place - 5]), 1), (BAD[0].format(each), 2))
    ]
    report = train(examples, encoder=quick, recipe="passages").report
    assert report.relevance is not None
    assert report.relevance.before is None
    assert 10 < report.relevance.questions <= len(SUBJECTS) - report.held_out.questions
    assert in_words(report.relevance.accuracy.value, None).startswith("A right answer comes before")


@pytest.mark.parametrize("ranked", [False, True])
def test_a_model_that_cannot_learn_it(by_length: str, quick: TextEncoder, *, ranked: bool) -> None:
    """It waits where nothing is known of the incoming order; where that is known, the lists as offered decide."""
    trained = train(on_subject(ranked=ranked), encoder=quick, recipe=by_length)
    assert trained.report.relevance is not None
    assert trained.report.relevance.bad
    assert trained.report.relevance.before is None, "fitted as before, since it did not help"
    found = judge(trained, None, encoder=quick)
    assert found.state == (ModelState.LIVE if ranked else ModelState.CANDIDATE)
    assert bool(re.search("does not look whether .*95 % .* miss their question", found.reason)) is not ranked


def drawn(data: TrainingSet, rows: np.ndarray, encoder: TextEncoder, by_length: str) -> Negatives | None:
    return draw_negatives(data, rows, recipe_named(by_length), encoder, seed=0)


def test_what_is_drawn(by_length: str, quick: TextEncoder) -> None:
    """Each question has its right answers and up to three negatives, of questions that may be learned from alone."""
    data = assemble(on_subject())
    rows = data.prompt < 10
    found = drawn(data, rows, quick, by_length)
    assert found is not None
    assert (found.recipe, set(found.question.tolist())) == (by_length, set(range(10)))
    assert [int(((found.question == each) & (found.label == 1)).sum()) for each in range(10)] == [1] * 10
    assert all(1 <= ((found.question == each) & (found.label == 0)).sum() <= 3 for each in range(10))
    lengths = {round(len(GOOD.format(each)) / 50, 4) for each in SUBJECTS[:10]}
    assert {round(float(each), 4) for each in found.features[:, 0]} <= lengths, "right answers, and nobody else's"
    everywhere = replace(data, prompt=data.prompt // 2, question=data.question)
    found = drawn(everywhere, rows, quick, by_length)
    assert found is not None
    assert sorted(found.question[found.label == 1].tolist()) == [0, 1, 2, 3, 4], "of two wordings one is asked"


@pytest.mark.parametrize("left", [0, 3])
def test_too_few_questions(by_length: str, quick: TextEncoder, left: int) -> None:
    """Nothing is said of fewer than four questions with right answers."""
    data = assemble(on_subject())
    assert drawn(data, data.prompt < left, quick, by_length) is None


def test_replies_that_fit_everywhere(quick: TextEncoder) -> None:
    """Where right answers to a question are answers to all others as well, there is nothing to measure by."""
    examples = [
        Example(f"Does {each} hurt?", "Yes, it does." if place % 3 else "No.", 5 if place % 3 else 2, each)
        for place, each in enumerate(SUBJECTS)
    ]
    found = train(examples, encoder=quick, recipe="passages", min_samples=20)
    assert found.report.relevance is None


def test_what_is_held_out_teaches_nothing(quick: TextEncoder, by_length: str) -> None:
    """Negatives of a question that a fit is kept from are kept from it, too."""
    data = assemble(on_subject())
    found = drawn(data, np.ones(len(data.row), dtype=np.bool_), quick, by_length)
    assert found is not None
    assert set(found.but(np.arange(5)).question.tolist()) == set(range(5, len(SUBJECTS)))
