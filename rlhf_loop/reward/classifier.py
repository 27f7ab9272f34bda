"""Reward classifier: a balanced logistic regression with calibrated probabilities, and the scorer that it leaves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from rlhf_loop.reward.splitting import folds
from rlhf_loop.utils.arrays import Floats, Ints, Mask
from rlhf_loop.utils.concurrency import single_threaded_blas

Features = Floats | NDArray[np.float32]
#: The prior of slope and offset: as it is, without calibration. The offset, which follows the share of correct answers,
#: is what a handful of questions tells least about.
_PRIOR_MEAN = np.array([1.0, 0.0])
_PRIOR_DEVIATION = np.array([0.5, 0.25])
_LEAST_SLOPE = 1e-6
_ITERATIONS = 2000
#: By which the intercept's column is larger than a scaled feature.
_INTERCEPT = 30.0


@dataclass(frozen=True, slots=True)
class Scorer:
    """probability = sigmoid(slope x (clip(features, low, high) @ coef + intercept) + offset).

    `low` and `high` are the range of each feature that the fit has seen. A linear model would extrapolate without end,
    and an answer padded to a length that no rated one had could win by that alone.
    """

    coef: Floats
    intercept: float
    low: Floats
    high: Floats
    slope: float = 1.0
    offset: float = 0.0

    def decision(self, features: Features) -> Floats:
        """Return the scores before calibration, shape (n,)."""
        clipped: Floats = np.clip(features, self.low, self.high)
        return clipped @ self.coef + self.intercept

    def probability(self, features: Features) -> Floats:
        """Return the calibrated probabilities, shape (n,)."""
        return sigmoid(self.slope * self.decision(features) + self.offset)


def sigmoid(values: Floats) -> Floats:
    """Return 1 / (1 + exp(-values)), without overflow."""
    result: Floats = 0.5 * (1 + np.tanh(values / 2))
    return result


@dataclass(frozen=True, slots=True)
class PairRows:
    """Pairs as a fit sees them: the features of the better answer less those of the other (m, d), and their weights.

    `question` (m,) has the number of each pair's question, -1 for one to which no answer is rated.
    """

    difference: Features
    weight: Floats
    question: Ints

    def only(self, rows: Mask) -> PairRows:
        """Leave out the other pairs."""
        return PairRows(self.difference[rows], self.weight[rows], self.question[rows])


class RewardClassifier:
    """Logistic regression, classes balanced, with Platt's calibration on out-of-fold scores.

    Balancing moves the probabilities away from the observed shares, and a fit on few ratings is too sure of itself.
    Two numbers mend both (Platt 1999): probability = sigmoid(slope x score + offset). They are fitted to scores that
    each question got from a model that had not seen it. With few ratings a prior keeps them near (1, 0).

    Pairs enter the same regression. That one answer is better than another has the probability sigmoid(difference of
    their scores) (Bradley and Terry 1952; reward models of RLHF are fitted so, Ouyang et al. 2022). For linear scores
    it is a logistic regression on the difference of the features, in which the intercept cancels.

    Args:
        penalty_c: inverse strength of the L2 penalty.
        scaled: bring the features to mean 0 and variance 1 first, and later clip new ones to the range seen here.
        fold_count: of the cross-validation by question.
        seed: of the folds.

    After `fit`: `scorer_`, which is all that prediction needs, its coefficients for the features as given; and for each
    training answer `fold_score_` and `fold_probability_`, of models that did not see its question (nan for an answer
    that is not judged and whose question no fold leaves out). `fold_margin_` has for each pair the score of the better
    answer less that of the other, of a model that did not see the question, nan where every model may see it.
    """

    def __init__(self, *, penalty_c: float = 1.0, scaled: bool = True, fold_count: int = 5, seed: int = 0) -> None:
        self.penalty_c = penalty_c
        self.scaled = scaled
        self.fold_count = fold_count
        self.seed = seed

    def fit(
        self,
        features: Features,
        label: Ints,
        question: Ints,
        *,
        weight: Floats | None = None,
        judged: Mask | None = None,
        pairs: PairRows | None = None,
    ) -> Self:
        """Learn from answers: features (n, d), labels 0 or 1 (n,), and the number of each one's question (n,).

        Features in float32 are exact enough; only those of one fit at a time are copied into float64. `weight` (n,) is
        how much each rating counts, by default all the same. Only the answers `judged` are dealt into folds and
        calibrated on, by default all; the others, and the pairs, are left out of a fit with their question, and are
        part of every fit where no answer to it is judged.

        Raises:
            ValueError: the labels or questions do not allow a cross-validation.
        """
        if judged is None:
            judged = np.ones(len(label), dtype=np.bool_)
        of_judged = folds(question[judged], label[judged], count=self.fold_count, seed=self.seed)
        rows = _Rows(features, label, weight, judged, _same_fold(question, question[judged], of_judged))
        if pairs is None or not len(pairs.weight):
            pairs = None
            of_pairs = np.empty(0, dtype=np.intp)
        else:
            of_pairs = _same_fold(pairs.question, question[judged], of_judged)
        with single_threaded_blas():
            return self._fit(rows, pairs, of_pairs)

    def predict_proba(self, features: Features) -> Floats:
        """Return the probabilities of "incorrect" and "correct", shape (n, 2)."""
        correct = self.scorer_.probability(features)
        return np.stack([1 - correct, correct], axis=1)

    def _fit(self, rows: _Rows, pairs: PairRows | None, of_pairs: Ints) -> Self:
        label, fold, weight = rows.label, rows.fold, rows.weight
        parts = np.unique(fold[rows.judged])
        self.fold_score_ = np.full(len(label), np.nan)
        self.fold_margin_ = np.full(len(of_pairs), np.nan)
        for part in parts:
            out, out_pairs = fold == part, of_pairs == part
            scorer = self._regress(rows.only(~out), pairs and pairs.only(~out_pairs))
            self.fold_score_[out] = scorer.decision(rows.features[out])
            if pairs is not None:
                self.fold_margin_[out_pairs] = pairs.difference[out_pairs] @ scorer.coef
        self.fold_probability_ = np.full(len(label), np.nan)
        for part in parts:
            out = fold == part
            others = ~out & rows.judged
            slope, offset = _calibrate(self.fold_score_[others], label[others], _part(weight, others))
            self.fold_probability_[out] = sigmoid(slope * self.fold_score_[out] + offset)
        judged = rows.judged
        slope, offset = _calibrate(self.fold_score_[judged], label[judged], _part(weight, judged))
        self.scorer_ = replace(self._regress(rows, pairs), slope=slope, offset=offset)
        return self

    def _regress(self, rows: _Rows, pairs: PairRows | None) -> Scorer:
        values = rows.features.astype(np.float64)
        columns = values.shape[1]
        if not self.scaled:
            coef, intercept = self._learn(values, rows, pairs, np.ones(columns))
            anything = np.full(columns, np.inf)
            return Scorer(coef, intercept, -anything, anything)
        low, high = values.min(axis=0), values.max(axis=0)
        # All in place: of a large training this is the largest array there is.
        mean = values.mean(axis=0)
        values -= mean
        deviation = np.sqrt(np.einsum("ij,ij->j", values, values) / len(values))
        # A feature that never varies says nothing; dividing by its rounding noise would say something wild.
        deviation = np.where(deviation > 1e-9, deviation, np.inf)
        values /= deviation
        coef, intercept = self._learn(values, rows, pairs, deviation)
        coef = coef / deviation
        return Scorer(coef, float(intercept - mean @ coef), low, high)

    def _learn(self, values: Floats, rows: _Rows, pairs: PairRows | None, scale: Floats) -> tuple[Floats, float]:
        """Return coefficients and intercept, fitted on ratings, whose `values` are scaled already, and on pairs."""
        # Imported here: scikit-learn takes a second to import, and serving does without it.
        from sklearn.linear_model import LogisticRegression

        if rows.weight is None and pairs is None:
            model = LogisticRegression(C=self.penalty_c, class_weight="balanced", max_iter=_ITERATIONS)
            model.fit(values, rows.label)
            return model.coef_[0], float(model.intercept_[0])
        weight = _balanced(rows.label, np.ones(len(values)) if rows.weight is None else rows.weight)
        if pairs is None:
            model = LogisticRegression(C=self.penalty_c, max_iter=_ITERATIONS)
            model.fit(values, rows.label, sample_weight=weight)
            return model.coef_[0], float(model.intercept_[0])
        # The intercept as a column that ratings have and pairs have not, large enough for the penalty not to matter.
        rated, compared = len(values), len(pairs.weight)
        table = np.zeros((rated + compared, values.shape[1] + 1))
        table[:rated, :-1], table[:rated, -1] = values, _INTERCEPT
        np.divide(pairs.difference, scale, out=table[rated:, :-1])
        model = LogisticRegression(C=self.penalty_c, fit_intercept=False, max_iter=_ITERATIONS)
        model.fit(
            table,
            np.concatenate([rows.label, np.ones(compared, dtype=np.intp)]),
            sample_weight=np.concatenate([weight, pairs.weight]),
        )
        return model.coef_[0, :-1], float(model.coef_[0, -1] * _INTERCEPT)


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rated answers of a fit; `fold` is -1 where none leaves the answer out."""

    features: Features
    label: Ints
    weight: Floats | None
    judged: Mask
    fold: Ints

    def only(self, rows: Mask) -> _Rows:
        return _Rows(
            self.features[rows], self.label[rows], _part(self.weight, rows), self.judged[rows], self.fold[rows]
        )


def _part(weight: Floats | None, rows: Mask) -> Floats | None:
    return None if weight is None else weight[rows]


def _same_fold(question: Ints, known: Ints, fold: Ints) -> Ints:
    """Return for each question the fold of the known ones equal to it, -1 if there is none."""
    of_question = np.full(max(int(question.max(initial=-1)), int(known.max(initial=-1))) + 2, -1, dtype=np.intp)
    of_question[known] = fold
    # -1, a question without any rated answer, is the last entry, which nothing has been written to.
    found: Ints = of_question[question]
    return found


def _balanced(label: Ints, weight: Floats) -> Floats:
    """Give both classes the same weight in all, and leave that of all answers as it is."""
    total = np.bincount(label, weights=weight, minlength=2)
    share = np.divide(total.sum() / 2, total, out=np.zeros(2), where=total > 0)
    balanced: Floats = weight * share[label]
    return balanced


def _calibrate(score: Floats, label: Ints, weight: Floats | None) -> tuple[float, float]:
    """Return the slope and offset of highest posterior; the slope stays positive, so the ranking stays as it is."""
    # Imported here, like scikit-learn: serving does without it.
    from scipy.optimize import minimize

    def loss(at: Floats) -> tuple[float, Floats]:
        margin = at[0] * score + at[1]
        residual = sigmoid(margin) - label
        surprise = np.logaddexp(0, margin) - label * margin
        if weight is not None:
            residual, surprise = weight * residual, weight * surprise
        distance = (at - _PRIOR_MEAN) / _PRIOR_DEVIATION
        value = surprise.sum() + distance @ distance / 2
        return float(value), np.array([residual @ score, residual.sum()]) + distance / _PRIOR_DEVIATION

    bounds = [(_LEAST_SLOPE, None), (None, None)]
    slope, offset = minimize(loss, _PRIOR_MEAN, jac=True, method="L-BFGS-B", bounds=bounds).x
    return float(slope), float(offset)
