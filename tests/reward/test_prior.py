from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize

from rlhf_loop import sample
from rlhf_loop.domain import Question
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.errors import ModelFileError
from rlhf_loop.reward import RECIPES, RewardClassifier, prior
from rlhf_loop.reward.classifier import PairRows, Prior
from rlhf_loop.reward.model_file import load, save
from rlhf_loop.reward.recipes import ANSWER_FEATURES, pointwise_columns
from rlhf_loop.utils.arrays import Floats, Ints

COEF = np.array([1.0, -1.0, 0.0, 0.0])
ENCODER = "all-MiniLM-L6-v2/fp32"


def taught(coef: Floats = COEF) -> Prior:
    """A prior in the scales of `data`."""
    zero, one = np.zeros(4), np.ones(4)
    return Prior(coef=coef, intercept=0.0, mean=zero, deviation=one, low=-5 * one, high=5 * one)


def data(questions: int, *, seed: int = 0) -> tuple[Floats, Ints, Ints]:
    """Four answers a question, of which the first two features decide as `COEF` says."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(4 * questions, 4))
    label = (features @ COEF + 0.5 * rng.normal(size=len(features)) > 0).astype(np.intp)
    return features, label, np.repeat(np.arange(questions), 4)


def direction(classifier: RewardClassifier) -> float:
    """The cosine of what was learnt and what is true."""
    learnt = classifier.scorer_.coef
    return float(learnt @ COEF / np.linalg.norm(learnt) / np.linalg.norm(COEF))


def test_few_ratings_learn_more_with_a_prior() -> None:
    """A prior that is right makes of twelve questions a model that is nearer to the truth than without."""
    alone, helped = (RewardClassifier(penalty_c=0.02, prior=given).fit(*data(12)) for given in (None, taught()))
    assert (alone.strength_, helped.strength_) == (0.0, 1.0)
    assert direction(helped) > max(direction(alone), 0.99)


def test_a_prior_that_is_wrong_is_left_out() -> None:
    """Where the ratings say the opposite, the model is to the last bit that of a fit without a prior."""
    alone, misled = (RewardClassifier(penalty_c=0.02, prior=given).fit(*data(12)) for given in (None, taught(-COEF)))
    assert misled.strength_ == 0.0
    assert np.array_equal(misled.scorer_.coef, alone.scorer_.coef)
    assert np.array_equal(misled.fold_probability_, alone.fold_probability_)


def test_many_ratings_outweigh_any_prior() -> None:
    """With thousands of ratings nothing is chosen, and even a wrong prior has little left to say."""
    misled = RewardClassifier(penalty_c=0.02, prior=taught(-COEF)).fit(*data(800))
    assert misled.strength_ == 1.0
    assert direction(misled) > 0.99


def test_the_fit_is_the_smallest_loss_and_distance() -> None:
    """Coefficients with a prior minimise balanced loss of ratings and pairs plus half the squared distance to it."""
    features, label, question = data(30)
    pairs = PairRows(features[:10] - features[10:20], np.full(10, 0.5), np.arange(10))
    fitted = RewardClassifier(penalty_c=0.5, prior=taught()).fit(features, label, question, pairs=pairs)
    own = len(label) / (len(label) + 20)
    mean = own * features.mean(axis=0)
    deviation = np.sqrt(own * (features**2).mean(axis=0) + (1 - own) - mean**2)
    weight = 0.5 * len(label) / 2 / np.bincount(label)[label]

    def loss(at: Floats) -> float:
        margin = (features - mean) / deviation @ at[:-1] + at[-1]
        surprise = weight @ (np.logaddexp(0, margin) - label * margin)
        compared = 0.25 * np.logaddexp(0, -(pairs.difference / deviation) @ at[:-1]).sum()
        return float(surprise + compared + (at[:-1] - COEF) @ (at[:-1] - COEF) / 2)

    best = minimize(loss, np.zeros(5), tol=1e-10).x
    assert fitted.strength_ == 1.0
    assert fitted.scorer_.coef * deviation == pytest.approx(best[:-1], abs=1e-4)
    assert fitted.scorer_.intercept == pytest.approx(best[-1] - mean / deviation @ best[:-1], abs=1e-4)


def test_the_file_is_small_and_names_its_sources() -> None:
    """The prior that is shipped has five numbers a feature, and says what it was learnt from."""
    values = json.loads(prior.FILE.read_text(encoding="utf-8"))
    assert list(values["features"]) == RECIPES["passages"].feature_names()
    assert prior.FILE.stat().st_size < 10_000
    assert [(source["licence"], source["answers"]) for source in values["sources"]] == [
        ("Apache-2.0", 3924),
        ("Apache-2.0", 2984),
        ("as the project", 200),
    ]


def test_a_written_prior_is_read_again() -> None:
    """What is written has all that was given, in four digits."""
    recipe = RECIPES["passages"]
    known = prior.shipped()
    content = prior.written(
        known.prior, recipe=recipe, encoder=ENCODER, sources=list(known.sources), made_by="python -m tools.prior"
    )
    assert content == prior.FILE.read_bytes()
    assert np.array_equal(prior.read(content).prior.coef, known.prior.coef)


def test_another_encoder_has_no_prior() -> None:
    """Training passes over a prior of other vectors, and to rank by it is refused with a way out."""
    recipe = RECIPES["passages"]
    assert prior.prior_of(recipe, ENCODER) is not None
    assert prior.classifier(recipe, "another/fp32").prior is None
    assert prior.classifier(RECIPES["joint"], ENCODER).prior is None
    with pytest.raises(ModelFileError, match=r"all-MiniLM-L6-v2, but another/fp32 .*WITHOUT_MODEL=incoming"):
        prior.model_of_prior("another/fp32")


def test_the_prior_ranks_before_any_rating(encoder: TextEncoder) -> None:
    """By the prior alone the good answer of the sample's question comes first."""
    model = prior.model_of_prior(encoder.id)
    texts = tuple(candidate["text"] for candidate in sample.CANDIDATES)
    (scores,) = model.model.score([Question(sample.QUESTION, texts)], encoder)
    assert np.argmax(scores) == 3
    assert model.version.startswith("prior-")


def test_the_pointwise_prior_orders_as_the_prior_does() -> None:
    """Columns that compare with the other candidates are those of the answer less what is the same for all of them."""
    columns = pointwise_columns(RECIPES["passages"])
    known = prior.shipped().prior
    rng, size = np.random.default_rng(0), len(ANSWER_FEATURES)
    own = known.mean[:size] + known.deviation[:size] * rng.normal(size=(6, size)) / 9
    own[:, ANSWER_FEATURES.index("apart from the subject")] = 0.1
    features = np.hstack([own, own - own.mean(axis=0), own - own.max(axis=0), np.full((6, 2), 0.3)])
    whole = features @ prior.as_scorer(known).coef
    alone = features[:, columns] @ prior.as_scorer(prior.pointwise_prior(known, columns)).coef
    assert columns.sum() == size - 1
    assert whole - whole.mean() == pytest.approx(alone - alone.mean())


def test_a_model_of_version_1_serves(tmp_path: Path, encoder: TextEncoder) -> None:
    """A file of the recipe's first version, whose features are the same, is read and gives the scores it gave."""
    model = prior.model_of_prior(encoder.id).model
    old = type(model)(recipe="passages", recipe_version=1, encoder=model.encoder, scorer=model.scorer)
    save(old, tmp_path / "model")
    found = load(tmp_path / "model", encoder=encoder.id).model
    question = [Question("Is it late?", ("Yes, it is late.", "No."))]
    assert found.recipe_version == 1
    assert np.array_equal(found.score(question, encoder)[0], model.score(question, encoder)[0])
