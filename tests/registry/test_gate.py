from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from rlhf_loop.domain import Example, ModelState
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.registry.gate import LiveModel, judge
from rlhf_loop.training.comparison import predict
from rlhf_loop.training.evaluation import evaluate
from rlhf_loop.training.train import TrainingResult, train


@pytest.fixture(scope="module")
def fresh(sample_examples: list[Example], encoder: TextEncoder) -> TrainingResult:
    return train(sample_examples, encoder=encoder, recipe="passages")


def saying(trained: TrainingResult, probability: NDArray[np.float64]) -> TrainingResult:
    """The same training, if its models had said this."""
    overall = evaluate(trained.data.predictions(probability))
    return replace(trained, probability=probability, report=replace(trained.report, overall=overall))


def perfect(trained: TrainingResult) -> NDArray[np.float64]:
    return trained.data.rating / 6


def live(trained: TrainingResult, fitted: NDArray[np.int64] | None) -> LiveModel:
    return LiveModel(version="passages-live", model=trained.model, fitted=fitted)


NOTHING = np.array([], dtype=np.int64)


def test_the_first_model_has_to_beat_the_incoming_order(fresh: TrainingResult, encoder: TextEncoder) -> None:
    """Without a live model the incoming order decides: clearly better is live, perhaps better waits, worse is not."""
    found = judge(saying(fresh, perfect(fresh)), None, encoder=encoder)
    assert (found.state, found.live, found.precision_at_1) == (ModelState.LIVE, None, None)
    assert found.incoming is not None
    assert found.incoming.difference.low > 0
    assert f"{100 * found.incoming.difference.low:+.1f} to" in found.reason
    worst = judge(saying(fresh, 1 - perfect(fresh)), None, encoder=encoder)
    assert worst.state == ModelState.REJECTED
    assert "It is worse than the incoming order" in worst.reason
    like_it = judge(saying(fresh, 1 / (1 + fresh.data.rank)), None, encoder=encoder)
    assert like_it.state == ModelState.CANDIDATE
    assert "not certain to be better" in like_it.reason


def test_not_worse_than_the_live_one(fresh: TrainingResult, encoder: TextEncoder) -> None:
    """A better model passes, one that puts fewer good answers first waits, and the report has the intervals."""
    better = judge(saying(fresh, perfect(fresh)), live(fresh, NOTHING), encoder=encoder)
    assert (better.state, better.live) == (ModelState.LIVE, "passages-live")
    assert better.precision_at_1 is not None
    assert better.precision_at_1.difference.value > 0
    assert f"on {better.precision_at_1.questions} questions" in better.reasons[1]
    # The live model's own order of each question's answers, and a whim about the question on top.
    theirs = predict(fresh.model, fresh.data, np.ones(len(fresh.data.row), dtype=bool), encoder)
    worse = judge(saying(fresh, (theirs + fresh.data.prompt % 9) / 10), live(fresh, NOTHING), encoder=encoder)
    assert worse.precision_at_1 is not None
    assert worse.precision_at_1.difference.value == 0
    assert worse.auc is not None
    assert worse.auc.difference.high < 0
    assert worse.state == ModelState.CANDIDATE
    assert "It separates good from bad answers worse than the live model passages-live" in worse.reasons[1]
    half = np.where(fresh.data.prompt % 9 < 4, 1 - perfect(fresh), perfect(fresh))
    worst = judge(saying(fresh, half), live(fresh, NOTHING), encoder=encoder)
    assert worst.precision_at_1 is not None
    assert worst.precision_at_1.difference.value < 0
    assert worst.state == ModelState.CANDIDATE
    assert "It is worse than the live model passages-live: P@1 -" in worst.reasons[1]


def test_only_questions_that_neither_was_fitted_on(fresh: TrainingResult, encoder: TextEncoder) -> None:
    """What the live model was fitted on is left out; where it has seen everything nothing can be told, and it waits."""
    held = judge(saying(fresh, perfect(fresh)), live(fresh, fresh.fitted), encoder=encoder)
    assert held.auc is not None
    assert held.auc.answers == fresh.report.held_out.answers
    everything = np.unique(fresh.data.candidates["prompt"])
    blind = judge(saying(fresh, perfect(fresh)), live(fresh, everything), encoder=encoder)
    assert (blind.state, blind.auc, blind.precision_at_1) == (ModelState.CANDIDATE, None, None)
    assert "cannot be compared" in blind.reason


def test_a_live_model_of_unknown_origin_is_flattered(fresh: TrainingResult, encoder: TextEncoder) -> None:
    """Where nobody knows what the live model was fitted on, all questions count, and the report says so."""
    found = judge(saying(fresh, perfect(fresh)), live(fresh, None), encoder=encoder)
    assert found.auc is not None
    assert found.auc.answers == len(fresh.data.row)
    assert "may have been fitted on some" in found.reason


def test_without_incoming_ranks_chance_decides(fresh: TrainingResult, encoder: TextEncoder) -> None:
    """Where the incoming order is unknown, AUC has to be above one half with its whole interval."""
    unknown = replace(fresh, data=replace(fresh.data, rank=np.full(len(fresh.data.row), np.nan)))
    assert judge(saying(unknown, perfect(unknown)), None, encoder=encoder).state == ModelState.LIVE
    assert judge(saying(unknown, 1 - perfect(unknown)), None, encoder=encoder).state == ModelState.REJECTED
    flat = np.full(len(unknown.data.row), 0.5)
    found = judge(saying(unknown, flat), None, encoder=encoder)
    assert found.state == ModelState.CANDIDATE
    assert "against chance" in found.reason
