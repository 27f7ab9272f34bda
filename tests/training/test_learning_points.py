from __future__ import annotations

import numpy as np
import pytest

from rlhf_loop.reward import recipe_named
from rlhf_loop.training.learning_curve import Growth, RatedFeatures, fits, growth

pytestmark = pytest.mark.usefixtures("growth")
RECIPE = recipe_named("passages")


def rated(answers: int, *, noise: float = 1.0, seed: int = 0) -> RatedFeatures:
    """Answers, four to a question, of which four of ten features say whether they are good."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(answers, 10)).astype(np.float32)
    label = (features[:, :4].sum(axis=1) + noise * rng.normal(size=answers) > 0).astype(np.intp)
    return RatedFeatures(features, label, np.arange(answers) // 4, "an encoder")


def test_the_accuracy_grows_with_the_ratings() -> None:
    """Sizes from 50 to four fifths of all, with intervals around the value; the last is better than the first."""
    found = growth(rated(400), recipe=RECIPE, goal=0.8)
    assert [point.rated for point in found.points] == [50, 71, 100, 141, 200, 283, 320]
    assert all(each.accuracy.low < each.accuracy.value < each.accuracy.high for each in found.points)
    assert found.points[-1].accuracy.value > found.points[0].accuracy.value
    assert found.outlook is not None
    assert found.outlook.now == 400
    assert found.outlook.goal == 0.8
    assert found == growth(rated(400), recipe=RECIPE, goal=0.8)


def test_nobody_is_judged_by_what_was_fitted_on() -> None:
    """Each answer is judged once for each size, and none of its question is among those fitted on."""
    data = rated(200)
    found = list(fits(data, recipe=RECIPE, step=2, fold_count=3))
    for size in {judged.rated for judged in found}:
        held = np.stack([judged.held for judged in found if judged.rated == size])
        assert (held.sum(axis=0) == 1).all()
        assert all(len(np.unique(part[data.prompt == prompt])) == 1 for part in held for prompt in (0, 7))


def test_labels_that_nothing_tells() -> None:
    """A coin is right half of the time, with 50 ratings or 400: the goal is out of reach."""
    data = rated(500)
    coin = RatedFeatures(data.features, np.random.default_rng(3).integers(2, size=500), data.prompt, data.encoder)
    found = growth(coin, recipe=RECIPE, goal=0.8)
    assert found.outlook is not None
    assert found.outlook.ratings is None
    assert max(point.accuracy.value for point in found.points) < 0.6


@pytest.mark.parametrize(("answers", "points"), [(40, 1), (80, 2), (8, 0)])
def test_too_few_ratings(answers: int, points: int) -> None:
    """There are points as far as they reach, and no forecast."""
    found = growth(rated(answers, noise=0.1), recipe=RECIPE, goal=0.8)
    assert len(found.points) == points
    assert found.outlook is None


def test_one_question_with_all_good_answers() -> None:
    """Nothing can be left out of it, so there is nothing."""
    data = rated(100)
    label = (data.prompt == 0).astype(np.intp)
    assert growth(RatedFeatures(data.features, label, data.prompt, data.encoder), recipe=RECIPE, goal=0.8) == Growth()


def test_ratings_that_count_nothing() -> None:
    """Wrong ratings do harm, and none where their weight is nothing."""
    data = rated(400, noise=0.3)
    wrong = np.random.default_rng(1).random(400) < 0.45
    label = np.where(wrong, 1 - data.label, data.label)
    weight = np.where(wrong, 0.0, 1.0)
    plain, weighed = (
        list(
            fits(
                RatedFeatures(data.features, label, data.prompt, data.encoder, given),
                recipe=RECIPE,
                step=100,
                fold_count=3,
            )
        )
        for given in (None, weight)
    )
    right = [
        np.mean([((j.probability >= 0.5) == data.label[j.held]).mean() for j in each if j.rated == 320])
        for each in (plain, weighed)
    ]
    assert right[1] > right[0] + 0.05
