from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight

from rlhf_loop.reward import RewardClassifier
from rlhf_loop.reward.classifier import PairRows, _calibrate
from rlhf_loop.training import metrics
from rlhf_loop.utils.arrays import Floats, Ints


def data(seed: int = 0, *, questions: int = 100, answers: int = 4, level: float = -1.0) -> tuple[Floats, Ints, Ints]:
    """Features on different scales of which the first two matter; a lower level makes correct answers rarer."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(questions * answers, 6)) * [1, 5, 1, 0.2, 1, 1] + [0, 3, 0, 0, 10, 0]
    margin = 1.5 * features[:, 0] + 0.2 * (features[:, 1] - 3) + level
    label = (rng.random(len(margin)) < 1 / (1 + np.exp(-margin))).astype(np.intp)
    return features, label, np.repeat(np.arange(questions), answers)


def sigmoid(values: Floats) -> Floats:
    return 1 / (1 + np.exp(-values))


@pytest.mark.parametrize("scaled", [False, True])
def test_the_coefficients_are_those_of_scikit_learn(scaled: bool) -> None:
    """The uncalibrated scores are those of a balanced LogisticRegression, after a StandardScaler if scaled."""
    features, label, question = data()
    ours = RewardClassifier(penalty_c=0.3, scaled=scaled).fit(features, label, question)
    regression = LogisticRegression(C=0.3, class_weight="balanced", max_iter=2000, tol=1e-10)
    model = make_pipeline(StandardScaler(), regression) if scaled else regression
    model.fit(features, label)
    assert ours.scorer_.decision(features) == pytest.approx(model.decision_function(features), abs=1e-6)
    if not scaled:
        assert ours.scorer_.coef == pytest.approx(regression.coef_[0], abs=1e-6)
        assert ours.scorer_.intercept == pytest.approx(regression.intercept_[0], abs=1e-6)


def test_fold_scores_come_from_models_that_did_not_see_the_question() -> None:
    """Features that only name the question, whose answers share a label, fit perfectly and predict nothing."""
    question = np.repeat(np.arange(40), 4)
    label = np.repeat(np.random.default_rng(0).permutation(np.arange(40) % 2), 4).astype(np.intp)
    features = np.eye(40)[question]
    classifier = RewardClassifier(penalty_c=10.0, scaled=False).fit(features, label, question)
    assert roc_auc_score(label, classifier.scorer_.decision(features)) == 1.0
    assert len(np.unique(classifier.fold_score_)) <= 5  # each fold's model knows none of its questions
    assert roc_auc_score(label, classifier.fold_probability_) < 0.6


@pytest.mark.parametrize("level", [-3.0, -2.0, 2.0])
def test_calibration_undoes_the_balancing(level: float) -> None:
    """On new answers where one class is rare, the probabilities are better than the raw balanced ones."""
    features, label, question = data(1, level=level)
    classifier = RewardClassifier().fit(features, label, question)
    new, truth, groups = data(2, questions=1000, level=level)
    probability = classifier.predict_proba(new)[:, 1]
    raw = sigmoid(classifier.scorer_.decision(new))
    sample = np.ones((1, 1000))
    assert brier_score_loss(truth, probability) < brier_score_loss(truth, raw) - 0.01
    error, raw_error = (float(metrics.calibration_error(groups, truth, p, sample)[0]) for p in (probability, raw))
    assert error < min(0.06, raw_error / 2)
    assert probability.mean() == pytest.approx(truth.mean(), abs=0.05)


def test_fold_probabilities_are_calibrated() -> None:
    """The out-of-fold probabilities of the training answers are calibrated as well."""
    features, label, question = data(3, level=-2.5, questions=300)
    classifier = RewardClassifier().fit(features, label, question)
    assert classifier.fold_probability_.mean() == pytest.approx(label.mean(), abs=0.03)
    raw = sigmoid(classifier.fold_score_)
    assert brier_score_loss(label, classifier.fold_probability_) < brier_score_loss(label, raw)


def test_each_fold_is_calibrated_by_the_others() -> None:
    """Without any information each fold gets the base rate of the other folds, not one that its own labels enter."""
    _, label, question = data(0, questions=53)
    classifier = RewardClassifier().fit(np.zeros((len(label), 1)), label, question)
    shares = {
        float(probability): label[classifier.fold_probability_ != probability].mean()
        for probability in np.unique(classifier.fold_probability_)
    }
    assert len(shares) > 2
    assert sorted(shares, key=lambda probability: shares[probability]) == sorted(shares)


def test_calibration_survives_scores_that_mean_nothing() -> None:
    """Scores that are far apart and unrelated to the labels end near the base rate, not at 0 and 1."""
    rng = np.random.default_rng(0)
    for scale, share in ((5, 0.5), (20, 0.9), (100, 0.05)):
        question = np.repeat(np.arange(200), 4)
        label = (rng.random(800) < share).astype(np.intp)
        features = np.c_[scale * np.sign(rng.normal(size=(800, 3))), rng.normal(size=(800, 200))]
        classifier = RewardClassifier(penalty_c=1e6).fit(features, label, question)
        assert classifier.fold_probability_.mean() == pytest.approx(label.mean(), abs=0.05)
        assert brier_score_loss(label, classifier.fold_probability_) < share * (1 - share) + 0.02


def test_scores_the_wrong_way_round_leave_the_level() -> None:
    """Out-of-fold scores that are worse than chance are flattened to the base rate and never turned around."""
    # The label is the opposite of what all other questions suggest.
    question = np.repeat(np.arange(60), 2)
    label = (np.arange(60) % 4 == 0).repeat(2).astype(np.intp)
    features = np.eye(60)[question]
    classifier = RewardClassifier(penalty_c=100.0, scaled=False).fit(features, label, question)
    assert classifier.scorer_.slope > 0
    assert classifier.fold_probability_.mean() == pytest.approx(label.mean(), abs=0.1)


@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_the_calibration_of_scores_that_mislead_is_the_likeliest(scale: float) -> None:
    """Where scores go against the labels, the slope ends at its bound, and the offset is that of SciPy's L-BFGS-B."""
    rng = np.random.default_rng(0)
    label = (rng.random(1000) < 0.8).astype(np.intp)
    score = scale * rng.normal(size=1000) - 3 * label
    share = (label.sum() + 0.35 * 20) / (len(label) + 20)

    def loss(at: Floats) -> float:
        margin = at[0] * score + at[1]
        prior = ((at[0] - 1) / 0.35) ** 2 + ((at[1] - np.log(share / (1 - share))) / 0.25) ** 2
        return float((np.logaddexp(0, margin) - label * margin).sum() + prior / 2)

    best = minimize(loss, [1.0, 0.0], method="L-BFGS-B", bounds=[(1e-6, None), (None, None)], tol=1e-12)
    slope, offset, nats = _calibrate(score, label, None)
    assert slope == best.x[0] == 1e-6
    assert offset == pytest.approx(best.x[1], abs=1e-4)
    assert nats == pytest.approx(best.fun, abs=1e-6)


def test_a_constant_column_changes_nothing() -> None:
    """A feature that never varies gets the coefficient 0 and leaves the others as they are."""
    features, label, question = data()
    plain = RewardClassifier().fit(features, label, question)
    padded = np.c_[features, np.full(len(label), 0.1), np.zeros(len(label))]
    with_constants = RewardClassifier().fit(padded, label, question)
    assert with_constants.scorer_.coef[-2:].tolist() == [0, 0]
    assert with_constants.predict_proba(padded) == pytest.approx(plain.predict_proba(features), abs=1e-6)


def test_probabilities_rise_with_the_score() -> None:
    """A higher score is a higher probability; the two classes sum to 1."""
    features, label, question = data()
    classifier = RewardClassifier().fit(features, label, question)
    order = np.argsort(classifier.scorer_.decision(features))
    both = classifier.predict_proba(features)
    assert (np.diff(both[order, 1]) >= 0).all()
    assert both.sum(axis=1) == pytest.approx(np.ones(len(label)))
    assert ((both >= 0) & (both <= 1)).all()


def test_the_same_seed_learns_the_same() -> None:
    """Two fits agree to the last bit; another seed deals other folds but keeps the coefficients."""
    features, label, question = data()
    one, same, other = (RewardClassifier(seed=seed).fit(features, label, question) for seed in (1, 1, 2))
    assert (one.fold_score_ == same.fold_score_).all()
    assert (one.scorer_.coef == same.scorer_.coef).all()
    assert (one.scorer_.slope, one.scorer_.offset) == (same.scorer_.slope, same.scorer_.offset)
    assert (one.fold_score_ != other.fold_score_).any()
    assert (one.scorer_.coef == other.scorer_.coef).all()


def test_one_class_cannot_be_learned() -> None:
    """Labels of one class only are refused."""
    features, label, question = data()
    with pytest.raises(ValueError, match="Rate answers to more questions"):
        RewardClassifier().fit(features, np.ones_like(label), question)


def test_single_precision_is_enough() -> None:
    """Features in float32 give the same model to four digits, and are not changed by the fit."""
    features, label, question = data()
    single = features.astype(np.float32)
    kept = single.copy()
    exact = RewardClassifier().fit(features, label, question)
    rounded = RewardClassifier().fit(single, label, question)
    assert (single == kept).all()
    assert rounded.fold_probability_ == pytest.approx(exact.fold_probability_, abs=1e-4)
    assert rounded.scorer_.coef == pytest.approx(exact.scorer_.coef, abs=1e-4)
    assert rounded.predict_proba(single).dtype == np.float64


def test_weights_of_one_change_nothing() -> None:
    """Ratings that all weigh 1 give the model that they give without weights, to the solver's accuracy."""
    features, label, question = data()
    plain = RewardClassifier().fit(features, label, question)
    weighed = RewardClassifier().fit(features, label, question, weight=np.ones(len(label)))
    assert weighed.fold_probability_ == pytest.approx(plain.fold_probability_, abs=1e-4)
    assert weighed.predict_proba(features) == pytest.approx(plain.predict_proba(features), abs=1e-4)


def test_a_weight_of_two_is_an_answer_given_twice() -> None:
    """Weights count in the fit, in the balance of the classes and in the calibration, as repetitions would."""
    features, label, question = data(questions=40)
    twice = np.flatnonzero(np.random.default_rng(0).random(len(label)) < 0.3)
    weight = np.ones(len(label))
    weight[twice] = 2
    weighed = RewardClassifier(scaled=False).fit(features, label, question, weight=weight)
    both = np.r_[np.arange(len(label)), twice]
    # The same folds: they go by each question's share of correct answers, which the repetitions must not change.
    repeated = RewardClassifier(scaled=False)
    repeated.fit(features[both], label[both], question[both], judged=np.arange(len(both)) < len(label))
    assert weighed.scorer_.coef == pytest.approx(repeated.scorer_.coef, abs=1e-4)
    assert weighed.fold_score_ == pytest.approx(repeated.fold_score_[: len(label)], abs=1e-3)
    scored = weighed.fold_score_
    assert weighed.scorer_.slope != RewardClassifier(scaled=False).fit(features, label, question).scorer_.slope
    assert np.isfinite(scored).all()


def test_the_calibration_is_weighed() -> None:
    """Where the correct answers weigh more, the probabilities are higher, as if there were more of them."""
    features, label, question = data(questions=200)
    levels = [
        RewardClassifier().fit(features, label, question, weight=np.where(label == 1, heavy, 1.0)).fold_probability_
        for heavy in (0.25, 1.0, 4.0)
    ]
    low, middle, high = (float(level.mean()) for level in levels)
    assert middle == pytest.approx(label.mean(), abs=0.05)
    assert low < middle - 0.05
    assert high > middle + 0.05


def test_what_is_not_judged_is_fitted_on_but_not_dealt() -> None:
    """Hints are left out with their question and calibrate nothing; where their question is in no fold is no score."""
    features, label, question = data(questions=300)
    judged = np.arange(len(label)) % 4 < 2
    judged[question >= 250] = False
    hinted = RewardClassifier().fit(features, label, question, judged=judged)
    alone = RewardClassifier().fit(features[judged], label[judged], question[judged])
    assert np.isnan(hinted.fold_score_[question >= 250]).all()
    assert np.isfinite(hinted.fold_score_[question < 250]).all()
    assert (hinted.fold_score_[judged] != alone.fold_score_).all()
    turned = np.where(judged, label, 1 - label)
    misled = RewardClassifier().fit(features, turned, question, judged=judged)
    # Calibrated on what is judged: hints that say the opposite take away certainty, not the level.
    assert misled.fold_probability_[judged].mean() == pytest.approx(label[judged].mean(), abs=0.08)


@pytest.mark.parametrize("level", [-3.0, 1.0])
def test_pairs_are_a_regression_on_differences(level: float) -> None:
    """The coefficients minimise the loss of the ratings, that of the pairs' differences without intercept, and the
    penalty; the intercept follows the ratings alone.
    """
    features, label, question = data(questions=50, level=level)
    rng = np.random.default_rng(1)
    difference, weight = rng.normal([0, 3, 0, 0, 0, 0], size=(30, 6)), rng.random(30)
    balanced = compute_sample_weight("balanced", label)

    def loss(at: Floats) -> float:
        margin = features @ at[:-1] + at[-1]
        rated = balanced @ (np.logaddexp(0, margin) - label * margin)
        compared = weight @ np.logaddexp(0, -difference @ at[:-1])
        return float(0.3 * (rated + compared) + at[:-1] @ at[:-1] / 2)

    best = minimize(loss, np.zeros(7), tol=1e-10).x
    pairs = PairRows(difference.astype(np.float32), weight, np.full(30, -1))
    ours = RewardClassifier(penalty_c=0.3, scaled=False).fit(features, label, question, pairs=pairs)
    assert ours.scorer_.coef == pytest.approx(best[:-1], abs=0.01)
    assert ours.scorer_.intercept == pytest.approx(best[-1], abs=0.05)
    assert np.isnan(ours.fold_margin_).all()
    scaled = RewardClassifier(penalty_c=0.3).fit(features, label, question, pairs=pairs)
    assert scaled.scorer_.coef[1] > RewardClassifier(penalty_c=0.3).fit(features, label, question).scorer_.coef[1]


def test_a_fold_does_not_see_the_pairs_of_its_questions() -> None:
    """A feature that only one question's pair has is learned in the end, and unknown where that question is judged."""
    features, label, question = data(questions=40)
    features = np.c_[features, np.zeros((len(label), 40))]
    difference = np.eye(46)[6:]
    pairs = PairRows(difference, np.full(40, 5.0), np.arange(40))
    classifier = RewardClassifier(scaled=False).fit(features, label, question, pairs=pairs)
    assert (classifier.scorer_.coef[6:] > 0.1).all()
    assert (classifier.fold_margin_ == 0).all()
    everywhere = PairRows(difference, np.full(40, 5.0), np.full(40, -1))
    assert np.isnan(RewardClassifier(scaled=False).fit(features, label, question, pairs=everywhere).fold_margin_).all()


def test_no_pairs_are_the_same_as_none() -> None:
    """An empty set of pairs changes no bit."""
    features, label, question = data()
    plain = RewardClassifier().fit(features, label, question)
    empty = PairRows(np.empty((0, 6)), np.empty(0), np.empty(0, dtype=np.intp))
    same = RewardClassifier().fit(features, label, question, pairs=empty, judged=np.ones(len(label), dtype=np.bool_))
    assert (same.scorer_.coef == plain.scorer_.coef).all()
    assert (same.fold_probability_ == plain.fold_probability_).all()
