from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest
from operation_fakes import NOW, put_live, put_rated
from sqlalchemy import Engine

from rlhf_loop import registry
from rlhf_loop.domain import Interval, Rating
from rlhf_loop.monitoring.accuracy import FreshAccuracy, fresh_accuracy, of_all
from rlhf_loop.store.interactions import record
from rlhf_loop.training import metrics

LIVE, SERVED, RATED = NOW - timedelta(days=30), NOW - timedelta(days=20), NOW - timedelta(days=10)
MEASURED = {"overall": {"accuracy": {"value": 0.8, "low": 0.77, "high": 0.83}}}
SCORES = (0.1, 0.3, 0.5, 0.7, 0.9)


def look(engine: Engine) -> FreshAccuracy | None:
    version = registry.live(engine)
    assert version is not None
    return fresh_accuracy(engine, version)


def put(engine: Engine, count: int, right: float, **options: object) -> None:
    """Store answers of which the model is right about this share."""
    scores = [SCORES[number % 5] for number in range(count)]
    correct = np.random.default_rng(count).random(count) < right
    good = [bool((score >= 0.5) == of) for score, of in zip(scores, correct, strict=True)]
    put_rated(engine, scores, good, **{"served_at": SERVED, "rated_at": RATED, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize(("right", "behind"), [(0.8, False), (0.5, True)])
def test_beside_what_the_training_said(engine: Engine, right: float, behind: bool) -> None:
    """A model that is as good as its estimate is not behind; one that guesses is."""
    put_live(engine, made_at=LIVE, metrics=MEASURED)
    put(engine, 150, right, to_each=2)
    found = look(engine)
    assert found is not None
    assert (found.ratings, found.questions, found.behind) == (150, 75, behind)
    assert found.measured.low < found.measured.value < found.measured.high
    assert found.measured.value == pytest.approx(right, abs=0.1)
    assert found.estimate == Interval(0.8, 0.77, 0.83)


def test_too_few_ratings_say_nothing(engine: Engine) -> None:
    """From thirty ratings on there is a number."""
    put_live(engine, made_at=LIVE, metrics=MEASURED)
    put(engine, 29, 0.5)
    assert look(engine) is None
    put(engine, 1, 0.5)
    assert look(engine) is not None


@pytest.mark.parametrize(
    "other",
    [
        {"role": "end_user"},
        {"version": "model-0"},
        {"rated_at": LIVE - timedelta(hours=1), "served_at": LIVE - timedelta(hours=2)},
        {"rated_at": SERVED - timedelta(hours=1)},
    ],
    ids=["end users", "scored by another model", "rated before it was live", "rated before it was scored"],
)
def test_what_does_not_count(engine: Engine, other: dict[str, object]) -> None:
    """Only experts' ratings count, given while the model was live, of answers that it had scored before."""
    put_live(engine, made_at=LIVE, metrics=MEASURED)
    put(engine, 60, 0.5, **other)
    assert look(engine) is None


def test_a_version_that_nobody_measured(engine: Engine) -> None:
    """A model from before the registry has no estimate to fall below."""
    put_live(engine, made_at=LIVE)
    put(engine, 60, 0.2)
    assert look(engine) is None


def test_nothing_is_said_where_only_doubtful_answers_were_rated(engine: Engine) -> None:
    """If nearly all that was rated lies in the middle, and most of what was served does not, nobody can tell."""
    put_live(engine, made_at=LIVE, metrics=MEASURED)
    put_rated(engine, [0.5] * 50, [True] * 25 + [False] * 25, served_at=SERVED, rated_at=RATED)
    certain = [Rating(f"q {n}", "a", score=0.95, model_version="model-1", created_at=SERVED) for n in range(200)]
    record(engine, certain)
    assert look(engine) is None


def test_the_queue_does_not_make_it_worse_than_it_is() -> None:
    """Of a calibrated model the queue shows the doubtful answers; measured is what it is for all of them."""
    rng = np.random.default_rng(0)
    errors, plain = [], []
    for _ in range(20):
        score = rng.beta(0.8, 1.2, 3000)
        good = rng.random(3000) < score
        doubtful = np.argsort(abs(score - 0.5))[:270]
        rated = np.concatenate([doubtful, rng.choice(3000, 60, replace=False)])
        found = of_all(np.arange(len(rated)), score[rated], good[rated], score)
        assert found is not None
        truth = np.mean((score >= 0.5) == good)
        errors.append(found.value - truth)
        weights = metrics.bootstrap_weights(len(rated), draws=1)
        plain.append(metrics.accuracy(np.arange(len(rated)), good[rated], score[rated], weights)[0] - truth)
    assert np.mean(plain) < -0.15
    assert abs(np.mean(errors)) < 0.03


def test_both_intervals_count() -> None:
    """What lies below an uncertain estimate is behind only if the difference is sure."""
    measured = Interval(0.70, 0.66, 0.74)
    sure = FreshAccuracy(ratings=500, questions=400, measured=measured, estimate=Interval(0.76, 0.75, 0.77))
    unsure = FreshAccuracy(ratings=500, questions=400, measured=measured, estimate=Interval(0.76, 0.70, 0.82))
    assert (sure.behind, unsure.behind) == (True, False)
