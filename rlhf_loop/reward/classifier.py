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
#: The prior of slope and offset: a slope of 1, and the offset that gives the share of correct answers, since balancing
#: has made that one half. The share is the one seen, with so many answers of a usual set beside it: the answers to a
#: handful of questions tell little about others. By draws of 50 answers (docs/RESULTS.md).
_SLOPE, _SLOPE_DEVIATION, _OFFSET_DEVIATION = 1.0, 0.35, 0.25
_USUAL_SHARE, _USUAL_ANSWERS = 0.35, 20
_LEAST_SLOPE = 1e-6
#: How strongly a fit may be drawn to its prior, against the same penalty without one: as strongly, four times, or not
#: at all. By few ratings another than the first is taken if what a fit has not seen is more likely by so many nats.
STRENGTHS = (1.0, 4.0, 0.0)
_MARGIN = 2.0
#: Answers from which on the most likely strength is taken, by however little: by trial on the sample, where the prior
#: misleads, and on draws from the three rated sets, where it helps.
_FEW = 100
#: Answers from which on there is nothing left to choose: the prior weighs next to nothing.
_ENOUGH = 2000
#: Answers that the scales of the prior's own data count for.
_PRIOR_ANSWERS = 20
#: The tolerance is of a gradient against the first one, or of a step.
_NEWTON_STEPS, _HALVINGS, _NEWTON_TOLERANCE, _LEAST_CURVATURE = 100, 30, 1e-8, 1e-12


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

    def spread(self, columns: Mask) -> Scorer:
        """Return the same scorer for more columns, of which it knows those `columns`; the others do not count."""
        coef, anything = np.zeros(len(columns)), np.full(len(columns), np.inf)
        low, high = -anything, anything.copy()
        coef[columns], low[columns], high[columns] = self.coef, self.low, self.high
        return replace(self, coef=coef, low=low, high=high)

    def probability(self, features: Features) -> Floats:
        """Return the calibrated probabilities, shape (n,)."""
        return sigmoid(self.slope * self.decision(features) + self.offset)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """Coefficients that other data has taught, of features in the scales of that data: mean, deviation and range.

    Where a mean is nan, that data says nothing of the feature, not even its scale.
    """

    coef: Floats
    intercept: float
    mean: Floats
    deviation: Floats
    low: Floats
    high: Floats


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

    With a prior the penalty is on the distance to its coefficients and not to 0, and the scales of few ratings are
    blended with its own. How strongly it draws is chosen by the same cross-validation: it has to be no worse than none.

    Args:
        penalty_c: inverse strength of the L2 penalty.
        scaled: bring the features to mean 0 and variance 1 first, and later clip new ones to the range seen here.
        fold_count: of the cross-validation by question.
        prior: what the fit is shrunk to, for scaled features only.
        scales: what each scaled feature is multiplied by, as one counts less whose coefficient has to be larger.
        seed: of the folds.

    After `fit`: `strength_`, that of the prior, 0 without; `scorer_`, which is all that prediction needs, its
    coefficients for the features as given; and for each training answer `fold_score_` and `fold_probability_`, of
    models that did not see its question (nan for an answer that is not judged and whose question no fold leaves out).
    `fold_margin_` has for each pair the score of the better answer less that of the other, of a model that did not see
    the question, nan where every model may see it. `unseen_decision` scores other answers by these models.
    """

    def __init__(
        self,
        *,
        penalty_c: float = 1.0,
        scaled: bool = True,
        prior: Prior | None = None,
        scales: Floats | None = None,
        fold_count: int = 5,
        seed: int = 0,
    ) -> None:
        self.penalty_c = penalty_c
        self.scaled = scaled
        self.prior = prior
        self.scales = scales
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
        self._fold_of = dict(zip(question[judged].tolist(), of_judged.tolist(), strict=True))
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

    def unseen_decision(self, features: Features, question: Ints) -> Floats:
        """Return scores before calibration, each by a model that did not see its question, if some fold left it out."""
        fold = np.array([self._fold_of.get(number, -1) for number in question.tolist()], dtype=np.intp)
        score = self.scorer_.decision(features)
        for part, scorer in self._fold_scorers.items():
            score[fold == part] = scorer.decision(features[fold == part])
        return score

    def _fit(self, rows: _Rows, pairs: PairRows | None, of_pairs: Ints) -> Self:
        label, fold, weight = rows.label, rows.fold, rows.weight
        parts = np.unique(fold[rows.judged])
        self.strength_, self.fold_score_, self.fold_margin_ = self._cross_validate(rows, pairs, of_pairs, parts)
        self.fold_probability_ = np.full(len(label), np.nan)
        for part in parts:
            out = fold == part
            others = ~out & rows.judged
            slope, offset, _ = _calibrate(self.fold_score_[others], label[others], _part(weight, others))
            self.fold_probability_[out] = sigmoid(slope * self.fold_score_[out] + offset)
        judged = rows.judged
        slope, offset, _ = _calibrate(self.fold_score_[judged], label[judged], _part(weight, judged))
        self.scorer_ = replace(self._regress(rows, pairs, self.strength_), slope=slope, offset=offset)
        return self

    def _cross_validate(
        self, rows: _Rows, pairs: PairRows | None, of_pairs: Ints, parts: Ints
    ) -> tuple[float, Floats, Floats]:
        """Return the strength of the prior, and scores and margins by models that have not seen the question."""
        judged = rows.judged
        strengths = (0.0,) if self.prior is None else STRENGTHS if judged.sum() < _ENOUGH else STRENGTHS[:1]
        found = []
        for strength in strengths:
            score, margin = np.full(len(rows.label), np.nan), np.full(len(of_pairs), np.nan)
            scorers = {}
            for part in parts:
                out, out_pairs = rows.fold == part, of_pairs == part
                scorers[int(part)] = scorer = self._regress(rows.only(~out), pairs and pairs.only(~out_pairs), strength)
                score[out] = scorer.decision(rows.features[out])
                if pairs is not None:
                    margin[out_pairs] = pairs.difference[out_pairs] @ scorer.coef
            found.append((scorers, strength, score, margin))
        best = 0
        if len(found) > 1:
            weight = _part(rows.weight, judged)
            surprise = [_calibrate(score[judged], rows.label[judged], weight)[2] for _, _, score, _ in found]
            surprise[0] -= _MARGIN if judged.sum() < _FEW else 0.0
            best = int(np.argmin(surprise))
        self._fold_scorers, strength, score, margin = found[best]
        return strength, score, margin

    def _regress(self, rows: _Rows, pairs: PairRows | None, strength: float) -> Scorer:
        values = rows.features.astype(np.float64)
        columns = values.shape[1]
        if not self.scaled:
            coef, intercept = self._learn(values, rows, pairs, np.ones(columns), None, 0.0)
            anything = np.full(columns, np.inf)
            return Scorer(coef, intercept, -anything, anything)
        low, high = values.min(axis=0), values.max(axis=0)
        # All in place: of a large training this is the largest array there is.
        mean = values.mean(axis=0)
        values -= mean
        deviation = np.sqrt(np.einsum("ij,ij->j", values, values) / len(values))
        if self.prior is not None and strength:
            own = np.where(np.isnan(self.prior.mean), 1.0, len(values) / (len(values) + _PRIOR_ANSWERS))
            middle = own * mean + (1 - own) * np.nan_to_num(self.prior.mean)
            variance = own * (deviation**2 + (mean - middle) ** 2)
            variance += (1 - own) * np.nan_to_num(self.prior.deviation**2 + (self.prior.mean - middle) ** 2)
            values += mean - middle
            mean, deviation = middle, np.sqrt(variance)
        # A feature that never varies says nothing; dividing by its rounding noise would say something wild.
        deviation = np.where(deviation > 1e-9, deviation, np.inf)
        if self.scales is not None:
            deviation = deviation / self.scales
        values /= deviation
        to = self.prior.coef if self.prior is not None and strength else None
        coef, intercept = self._learn(values, rows, pairs, deviation, to, strength)
        coef = coef / deviation
        return Scorer(coef, float(intercept - mean @ coef), low, high)

    def _learn(
        self, values: Floats, rows: _Rows, pairs: PairRows | None, scale: Floats, to: Floats | None, strength: float
    ) -> tuple[Floats, float]:
        """Return coefficients and intercept, fitted on ratings, whose `values` are scaled already, and on pairs.

        Without a prior, `to`, they are drawn to 0, with it to that. An intercept is not drawn anywhere.
        """
        weight = _balanced(rows.label, np.ones(len(values)) if rows.weight is None else rows.weight)
        label, table = rows.label, np.c_[values, np.ones(len(values))]
        if pairs is not None:
            # The intercept is a column that ratings have and pairs have not.
            table = np.concatenate([table, np.c_[pairs.difference / scale, np.zeros(len(pairs.weight))]])
            label = np.r_[label, np.ones(len(pairs.weight), dtype=np.intp)]
            weight = np.r_[weight, pairs.weight]
        target = np.r_[np.zeros(values.shape[1]) if to is None else to, 0.0]
        penalty = np.r_[np.full(values.shape[1], 1.0 if to is None else strength), 0.0] / self.penalty_c
        found = _logistic(table, label, weight, target=target, penalty=penalty)
        return found[:-1], float(found[-1])


def _logistic(table: Floats, label: Ints, weight: Floats, *, target: Floats, penalty: Floats) -> Floats:
    """Return the coefficients of the smallest weighted logistic loss plus `penalty` / 2 times squares of distances to
    `target`.

    By Newton's method, its steps by conjugate gradients, as far as each is worth it (Dembo and Steihaug 1983): so a
    thousand columns need no matrix of their own.
    """

    def loss(at: Floats, margin: Floats) -> float:
        surprise = np.logaddexp(0, margin) - label * margin
        return float(weight @ surprise + penalty @ (at - target) ** 2 / 2)

    at = target
    margin = table @ at
    value = loss(at, margin)
    first = 0.0
    for _ in range(_NEWTON_STEPS):
        probability = sigmoid(margin)
        slope = table.T @ (weight * (probability - label)) + penalty * (at - target)
        steep = float(np.linalg.norm(slope))
        first = first or steep
        if steep <= _NEWTON_TOLERANCE * first:
            break
        curve = weight * np.maximum(probability * (1 - probability), _LEAST_CURVATURE)
        step = _solved(table, curve, penalty, slope, within=min(0.1, steep / first) * steep)
        for _ in range(_HALVINGS):
            new = at - step
            new_margin = table @ new
            new_value = loss(new, new_margin)
            if new_value <= value:
                break
            step = step / 2
        else:
            break
        at, margin, value = new, new_margin, new_value
    return at


def _solved(table: Floats, curve: Floats, penalty: Floats, slope: Floats, *, within: float) -> Floats:
    """Return x where (table' curve table + penalty) x = slope, up to a residual of that length.

    By conjugate gradients (Hestenes and Stiefel 1952), with the diagonal as the scale of each column.
    """
    diagonal = np.einsum("ij,i,ij->j", table, curve, table) + penalty
    diagonal = np.where(diagonal > 0, diagonal, 1.0)
    found, residual = np.zeros_like(slope), slope
    scaled = residual / diagonal
    direction, size = scaled, float(residual @ scaled)
    for _ in range(2 * len(slope)):
        if np.linalg.norm(residual) <= within:
            break
        product = table.T @ (curve * (table @ direction)) + penalty * direction
        length = size / float(direction @ product)
        found, residual = found + length * direction, residual - length * product
        scaled = residual / diagonal
        before, size = size, float(residual @ scaled)
        direction = scaled + size / before * direction
    return found


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


def _calibrate(score: Floats, label: Ints, weight: Floats | None) -> tuple[float, float, float]:
    """Return the slope and offset of highest posterior, and how little likely the labels are with them, in nats.

    The slope stays positive, so the ranking stays as it is.
    """
    counts = np.ones(len(label)) if weight is None else weight
    share = (counts @ label + _USUAL_SHARE * _USUAL_ANSWERS) / (counts.sum() + _USUAL_ANSWERS)
    expected = np.array([_SLOPE, np.log(share / (1 - share))])
    deviation = np.array([_SLOPE_DEVIATION, _OFFSET_DEVIATION])

    def loss(at: Floats) -> float:
        margin, distance = at[0] * score + at[1], (at - expected) / deviation
        return float(counts @ (np.logaddexp(0, margin) - label * margin) + distance @ distance / 2)

    def smallest(at: Floats, free: slice) -> tuple[Floats, float]:
        """Return where the loss is smallest, with all but the free numbers as they are, and the loss; by Newton."""
        value = loss(at)
        for _ in range(_NEWTON_STEPS):
            probability = sigmoid(at[0] * score + at[1])
            residual = counts * (probability - label)
            gradient = np.array([residual @ score, residual.sum()]) + (at - expected) / deviation**2
            curve, table = counts * probability * (1 - probability), np.stack([score, np.ones(len(score))])
            hessian = (table * curve) @ table.T + np.diag(deviation**-2)
            step = np.zeros(2)
            step[free] = np.linalg.solve(hessian[free, free], gradient[free])
            for _ in range(_HALVINGS):
                new = at - step
                if (new_value := loss(new)) <= value:
                    break
                step = step / 2
            else:
                break
            moved, at, value = float(np.abs(new - at).max()), new, new_value
            if moved < _NEWTON_TOLERANCE:
                break
        return at, value

    at, value = smallest(expected, slice(0, 2))
    if at[0] < _LEAST_SLOPE:
        # The loss is convex: where its minimum is out of bounds, the smallest loss within them is at the bound.
        at, value = smallest(np.array([_LEAST_SLOPE, at[1]]), slice(1, 2))
    return float(at[0]), float(at[1]), value
