"""The experiments: who is fitted on what, and judged on what."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from rlhf_loop.domain import Interval
from rlhf_loop.reward import RECIPES, RewardClassifier
from rlhf_loop.reward.classifier import Prior
from rlhf_loop.reward.splitting import folds
from rlhf_loop.training.data import TrainingSet, linked_by_documents
from rlhf_loop.training.evaluation import Evaluation, evaluate
from tools.results.data import Ratings

Mask = NDArray[np.bool_]
Matrix = NDArray[np.float64]

SEEDS = range(5)
FOLDS = 5
#: Of a few answers: enough that the mean is known to half a point.
DRAWS = 100


@dataclass(frozen=True, slots=True)
class Scores:
    """The headline measures of one or several evaluations."""

    auc: float
    accuracy: float
    precision_at_1: float
    ndcg: float
    mrr: float
    brier: float
    calibration_error: float

    @classmethod
    def of(cls, evaluation: Evaluation) -> Scores:
        order = evaluation.orders["model"]
        values: Iterable[Interval] = (
            evaluation.auc,
            evaluation.accuracy,
            order.precision_at_1,
            order.ndcg,
            order.mrr,
            evaluation.brier,
            evaluation.calibration_error,
        )
        return cls(*(value.value for value in values))


def summary(scores: Sequence[Scores]) -> tuple[Scores, Scores]:
    """Return the means and the standard deviations."""
    table = np.array([[getattr(score, field.name) for field in fields(Scores)] for score in scores])
    return Scores(*table.mean(axis=0).tolist()), Scores(*table.std(axis=0).tolist())


def cross_validated(ratings: Ratings, recipe: str, rows: Mask | None = None) -> list[Evaluation]:
    """Five folds by question, dealt anew for each seed; every answer is judged by a model fitted on other questions."""
    return list(_cross_validated(ratings.data, ratings.features[recipe], recipe, rows, ratings.prior_of(recipe)))


def on_unseen_documents(ratings: Ratings, recipe: str) -> list[Evaluation]:
    """Do the same with questions that have an answer in common, or hang together by others that do, in one fold."""
    data = replace(ratings.data, prompt=linked_by_documents(ratings.data))
    return list(_cross_validated(data, ratings.features[recipe], recipe, None, ratings.prior_of(recipe)))


def out_of_fold(ratings: Ratings, recipe: str) -> Matrix:
    """Return the probability that each answer got from a model fitted on other questions."""
    rows = np.ones(len(ratings.data.row), dtype=np.bool_)
    probability: Matrix = _fitted(
        ratings.features[recipe], ratings.data, rows, recipe, ratings.prior_of(recipe)
    ).fold_probability_
    return probability


def other_ndcg(ratings: Ratings, recipe: str) -> dict[str, float]:
    """Return NDCG with other gains, and with 0 for a question that has no ideal order, as some define it."""
    from sklearn.metrics import ndcg_score

    data, probability = ratings.data, out_of_fold(ratings, recipe)
    found: dict[str, list[float]] = {}
    for question in np.unique(data.question):
        rows = data.question == question
        for name, gain in (("2^(rating-1) - 1", np.exp2(data.rating - 1.0) - 1), ("rating - 1", data.rating - 1.0)):
            # scikit-learn gives 0 where all gains are 0, and averages over ties.
            found.setdefault(name, []).append(float(ndcg_score([gain[rows]], [probability[rows]])))
    return {
        f"gain {name}{', undefined counted as 0' if zeros else ''}": float(
            np.mean(values if zeros else [value for value in values if value > 0])
        )
        for name, values in found.items()
        for zeros in (False, True)
    }


def ablated(ratings: Ratings, columns: NDArray[np.intp] | None, extra: Matrix | None = None) -> Scores:
    """Cross-validate recipe `passages` on the training split with only some columns, or with some more; no prior."""
    features = ratings.features["passages"]
    features = features if columns is None else features[:, columns]
    features = features if extra is None else np.hstack([features, extra])
    return summary(
        [Scores.of(each) for each in _cross_validated(ratings.data, features, "passages", ~ratings.validation, None)]
    )[0]


def history(ratings: Ratings) -> Matrix:
    """Return a column: how much better than the mean each answer's text was rated for other questions of the split.

    Shrunk as if it had been rated twice more, with the mean; 0 for one that was rated for no other question.
    """
    data, rows = ratings.data, ~ratings.validation
    document = np.unique(data.candidates["document"][data.row], return_inverse=True)[1]
    own = np.unique(np.stack([document, data.prompt]), axis=1, return_inverse=True)[1].ravel()
    better = np.where(rows, data.label - data.label[rows].mean(), 0.0)
    sums, counts = (
        np.bincount(document, weights)[document] - np.bincount(own, weights)[own] for weights in (better, rows)
    )
    column: Matrix = (sums / (counts + 2))[:, np.newaxis]
    return column


def on_validation(ratings: Ratings, recipe: str) -> Evaluation:
    """Fit on the training split, judge on the validation split."""
    return _fit_and_judge(ratings, recipe, ~ratings.validation, ratings.validation)


def few_answers(
    ratings: Ratings, recipe: str, draw: Callable[[TrainingSet, np.random.Generator], Mask]
) -> list[Scores]:
    """Fit on the drawn answers, judge on all questions that none of them belongs to; `DRAWS` times."""
    results = []
    rng = np.random.default_rng(0)
    while len(results) < DRAWS:
        drawn = draw(ratings.data, rng)
        others = ~np.isin(ratings.data.prompt, ratings.data.prompt[drawn])
        try:
            results.append(Scores.of(_fit_and_judge(ratings, recipe, drawn, others, draws=0)))
        except ValueError:
            # Fewer than two questions with correct or with incorrect answers: training would refuse, too.
            continue
    return results


def fifty_anywhere(data: TrainingSet, rng: np.random.Generator) -> Mask:
    """Draw 50 answers from all."""
    mask = np.zeros(len(data.row), dtype=np.bool_)
    mask[rng.choice(len(mask), 50, replace=False)] = True
    return mask


def fifty_together(data: TrainingSet, rng: np.random.Generator) -> Mask:
    """Draw questions until they have 50 answers, and keep 50."""
    order = rng.permutation(np.unique(data.question))
    place = np.argsort(order)[data.question]
    mask = np.zeros(len(data.row), dtype=np.bool_)
    mask[np.argsort(place, kind="stable")[:50]] = True
    return mask


def one_answer_a_question(ratings: Ratings, recipe: str) -> list[Scores]:
    """Fit on one random answer to each training question, judge on the full lists of the other questions.

    The other answers to a training question are there as its context, but nobody has rated them.
    """
    data, results = ratings.data, []
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        fold = folds(data.prompt, data.label, count=FOLDS, seed=seed)
        probability = np.empty(len(fold))
        for part in range(FOLDS):
            out = fold == part
            asked = np.unique(data.question[~out])
            chosen = [rng.choice(np.flatnonzero(data.question == question)) for question in asked]
            rows = np.isin(np.arange(len(fold)), chosen)
            classifier = _fitted(ratings.features[recipe], data, rows, recipe, ratings.prior_of(recipe))
            probability[out] = classifier.predict_proba(ratings.features[recipe][out])[:, 1]
        results.append(Scores.of(evaluate(data.predictions(probability), draws=0)))
    return results


def fitted(ratings: Ratings, recipe: str, rows: Mask) -> RewardClassifier:
    """Fit a recipe on some answers."""
    return _fitted(ratings.features[recipe], ratings.data, rows, recipe, ratings.prior_of(recipe))


def _cross_validated(
    data: TrainingSet, features: Matrix, recipe: str, rows: Mask | None, prior: Prior | None
) -> Iterator[Evaluation]:
    rows = np.ones(len(data.row), dtype=np.bool_) if rows is None else rows
    for seed in SEEDS:
        classifier = _fitted(features, data, rows, recipe, prior, seed=seed)
        yield evaluate(data.predictions(classifier.fold_probability_, rows))


def _fit_and_judge(
    ratings: Ratings, recipe: str, fitted: Mask, judged: Mask, *, draws: int | None = None
) -> Evaluation:
    features = ratings.features[recipe]
    classifier = _fitted(features, ratings.data, fitted, recipe, ratings.prior_of(recipe))
    return evaluate(ratings.data.predictions(classifier.predict_proba(features[judged])[:, 1], judged), draws=draws)


def _fitted(
    features: Matrix, data: TrainingSet, rows: Mask, recipe: str, prior: Prior | None, *, seed: int = 0
) -> RewardClassifier:
    of = RECIPES[recipe]
    classifier = RewardClassifier(
        penalty_c=of.penalty_c, scaled=of.scaled, prior=prior, scales=of.scales(), fold_count=FOLDS, seed=seed
    )
    return classifier.fit(features[rows], data.label[rows], data.prompt[rows])
