"""The learner of every recipe: a balanced logistic regression whose probabilities are calibrated."""

from __future__ import annotations

from dataclasses import replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from rlhf_loop.reward.scorer import Features, Floats, Scorer, sigmoid
from rlhf_loop.splitting import folds
from rlhf_loop.threads import one_thread

Ints = NDArray[np.intp]

#: The prior of slope and offset: as it is, without calibration. The offset, which follows the share of correct answers,
#: is what a handful of questions tells least about.
_PRIOR_MEAN = np.array([1.0, 0.0])
_PRIOR_DEVIATION = np.array([0.5, 0.25])
_LEAST_SLOPE = 1e-6
_ITERATIONS = 2000


class RewardClassifier:
    """Logistic regression, classes balanced, with Platt's calibration on out-of-fold scores.

    Balancing moves the probabilities away from the observed shares, and a fit on few ratings is too sure of itself.
    Two numbers mend both (Platt 1999): probability = sigmoid(slope x score + offset). They are fitted to scores that
    each question got from a model that had not seen it. With few ratings a prior keeps them near (1, 0).

    Args:
        penalty_c: inverse strength of the L2 penalty.
        scaled: bring the features to mean 0 and variance 1 first, and later clip new ones to the range seen here.
        fold_count: of the cross-validation by question.
        seed: of the folds.

    After `fit`: `scorer_`, which is all that prediction needs, its coefficients for the features as given; and for each
    training answer `fold_score_` and `fold_probability_`, of models that did not see its question.
    """

    def __init__(self, *, penalty_c: float = 1.0, scaled: bool = True, fold_count: int = 5, seed: int = 0) -> None:
        self.penalty_c = penalty_c
        self.scaled = scaled
        self.fold_count = fold_count
        self.seed = seed

    def fit(self, features: Features, label: Ints, question: Ints) -> Self:
        """Learn from answers: features (n, d), labels 0 or 1 (n,), and the number of each one's question (n,).

        Features in float32 are exact enough; only those of one fit at a time are copied into float64.

        Raises:
            ValueError: the labels or questions do not allow a cross-validation.
        """
        fold = folds(question, label, count=self.fold_count, seed=self.seed)
        with one_thread():
            return self._fit(features, label, fold)

    def decision_function(self, features: Features) -> Floats:
        """Return the scores before calibration, shape (n,)."""
        return self.scorer_.decision(features)

    def predict_proba(self, features: Features) -> Floats:
        """Return the probabilities of "incorrect" and "correct", shape (n, 2)."""
        correct = self.scorer_.probability(features)
        return np.stack([1 - correct, correct], axis=1)

    def _fit(self, features: Features, label: Ints, fold: Ints) -> Self:
        self.fold_score_ = np.empty(len(label))
        for part in np.unique(fold):
            out = fold == part
            self.fold_score_[out] = self._regress(features[~out], label[~out]).decision(features[out])
        self.fold_probability_ = np.empty(len(label))
        for part in np.unique(fold):
            out = fold == part
            slope, offset = _calibrate(self.fold_score_[~out], label[~out])
            self.fold_probability_[out] = sigmoid(slope * self.fold_score_[out] + offset)
        slope, offset = _calibrate(self.fold_score_, label)
        self.scorer_ = replace(self._regress(features, label), slope=slope, offset=offset)
        return self

    def _regress(self, features: Features, label: Ints) -> Scorer:
        # Imported here: scikit-learn takes a second to import, and serving does without it.
        from sklearn.linear_model import LogisticRegression

        model = LogisticRegression(C=self.penalty_c, class_weight="balanced", max_iter=_ITERATIONS)
        values = features.astype(np.float64)
        if not self.scaled:
            model.fit(values, label)
            anything = np.full(features.shape[1], np.inf)
            return Scorer(model.coef_[0], float(model.intercept_[0]), -anything, anything)
        low, high = values.min(axis=0), values.max(axis=0)
        # All in place: of a large training this is the largest array there is.
        mean = values.mean(axis=0)
        values -= mean
        deviation = np.sqrt(np.einsum("ij,ij->j", values, values) / len(values))
        # A feature that never varies says nothing; dividing by its rounding noise would say something wild.
        deviation = np.where(deviation > 1e-9, deviation, np.inf)
        values /= deviation
        model.fit(values, label)
        coef: Floats = model.coef_[0] / deviation
        return Scorer(coef, float(model.intercept_[0] - mean @ coef), low, high)


def _calibrate(score: Floats, label: Ints) -> tuple[float, float]:
    """Return the slope and offset of highest posterior; the slope stays positive, so the ranking stays as it is."""
    # Imported here, like scikit-learn: serving does without it.
    from scipy.optimize import minimize

    def loss(at: Floats) -> tuple[float, Floats]:
        margin = at[0] * score + at[1]
        residual = sigmoid(margin) - label
        distance = (at - _PRIOR_MEAN) / _PRIOR_DEVIATION
        value = (np.logaddexp(0, margin) - label * margin).sum() + distance @ distance / 2
        return float(value), np.array([residual @ score, residual.sum()]) + distance / _PRIOR_DEVIATION

    bounds = [(_LEAST_SLOPE, None), (None, None)]
    slope, offset = minimize(loss, _PRIOR_MEAN, jac=True, method="L-BFGS-B", bounds=bounds).x
    return float(slope), float(offset)
