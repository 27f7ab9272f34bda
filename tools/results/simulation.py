"""Fits on few ratings by experts and on something besides, drawn from real ratings and judged side by side."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rlhf_loop import sample
from rlhf_loop.domain import Example, Pair
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.reward import RewardClassifier, recipe_named
from rlhf_loop.reward.classifier import PairRows
from rlhf_loop.reward.splitting import folds
from rlhf_loop.training import metrics
from rlhf_loop.training.data import TrainingSet, assemble
from rlhf_loop.training.fit import PREFERENCE_WEIGHT, rating_weights, read_features, read_pairs, rows_for
from rlhf_loop.training.pairs import pair_set
from tools.results.data import read_examples

Mask = NDArray[np.bool_]
Ints = NDArray[np.intp]
Floats = NDArray[np.float64]

RECIPE = recipe_named("passages")
FOLDS = 5
#: Shufflings of the folds; each draws its ratings and pairs anew.
SEEDS = range(10)
END_USERS = 500
WRONG = 0.3
#: Candidates that a language model makes its answer of, and how often it is not as good or bad as most of them.
USED, MADE_OTHERWISE = 3, 0.1
_BOOTSTRAP = 1000


@dataclass(frozen=True, slots=True)
class Material:
    """The training split in questions with its features, and all pairs of answers to a question that experts rated
    differently, with their features and questions. `length` are the words of each answer.
    """

    data: TrainingSet
    features: NDArray[np.float32]
    length: Ints
    difference: NDArray[np.float32]
    of_pair: Ints


@dataclass(frozen=True, slots=True)
class Draw:
    """The data of one fold: the answers that experts rated, the questions left for others, the fold judged."""

    rated: Mask
    left: Mask
    judged: Mask
    rng: np.random.Generator


@dataclass(frozen=True, slots=True)
class Measured:
    """AUC and P@1, in each draw of a bootstrap over questions (the sample itself first), means over the shufflings."""

    auc: Floats
    precision_at_1: Floats


#: Fits on a draw.
Fit = Callable[[Material, Draw], RewardClassifier]


def load(encoder: TextEncoder) -> Material:
    """Read the training split and compute all features that the simulations draw from."""
    examples, validation = read_examples()
    examples = [each for each, held in zip(examples, validation, strict=True) if not held]
    data = assemble(examples).grouped(encoder)
    features = read_features(data, {RECIPE.name: rows_for(RECIPE, data)}, encoder).features[RECIPE.name]
    answers = [response for chunk in data.chunks() for each in chunk.questions for response in each.responses]
    prompts = [each.prompt for chunk in data.chunks() for each in chunk.questions for _ in each.responses]
    pairs = [
        Pair(prompts[better], answers[better], answers[other])
        for question in np.unique(data.question)
        for better in np.flatnonzero(data.question == question)
        for other in np.flatnonzero(data.question == question)
        if data.rating[better] > data.rating[other]
    ]
    length = np.array([len(text.split()) for text in answers])
    return Material(data, features, length, *_read(pairs, data, encoder))


def load_sample(encoder: TextEncoder) -> Material:
    """Read the sample with its corrections."""
    with sample.RATINGS_FILE.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    data = assemble(
        [
            Example(row["user_prompt"], row["ai_response"], row["rating"], row["candidate_group"], row["shown_rank"])
            for row in rows
        ]
    ).grouped(encoder)
    features = read_features(data, {RECIPE.name: rows_for(RECIPE, data)}, encoder).features[RECIPE.name]
    corrections = [
        Pair(row["user_prompt"], row["corrected_response"], row["ai_response"])
        for row in rows
        if row.get("corrected_response")
    ]
    return Material(data, features, np.zeros(len(rows), dtype=np.intp), *_read(corrections, data, encoder))


def _read(pairs: Sequence[Pair], data: TrainingSet, encoder: TextEncoder) -> tuple[NDArray[np.float32], Ints]:
    """Return the features of pairs and the numbers of their questions."""
    compared = pair_set(pairs)
    found = read_pairs(compared, [RECIPE], encoder).difference[RECIPE.name]
    return found, data.question_of(compared.numbers["prompt"])


def with_pairs(count: int, weight: float = PREFERENCE_WEIGHT) -> Fit:
    """Fit on the ratings and on `count` pairs of answers to other questions."""

    def fit(material: Material, draw: Draw) -> RewardClassifier:
        of_others = np.flatnonzero(np.isin(material.of_pair, material.data.prompt[draw.left]))
        chosen = draw.rng.permutation(of_others)[:count]
        pairs = PairRows(material.difference[chosen], np.full(len(chosen), weight), material.of_pair[chosen])
        return _fitted(material, draw.rated, pairs=pairs)

    return fit


def with_own_pairs(weight: float) -> Fit:
    """Fit on the ratings and on all pairs of answers to the same questions."""

    def fit(material: Material, draw: Draw) -> RewardClassifier:
        chosen = np.isin(material.of_pair, material.data.prompt[draw.rated])
        pairs = PairRows(material.difference[chosen], np.full(chosen.sum(), weight), material.of_pair[chosen])
        return _fitted(material, draw.rated, pairs=pairs if weight else None)

    return fit


def with_end_users(weight: float, wrong: Callable[[Material, Mask, np.random.Generator], Ints], *, capped: bool) -> Fit:
    """Fit on the ratings by experts and on end users' ratings of answers to other questions."""

    def fit(material: Material, draw: Draw) -> RewardClassifier:
        theirs = np.zeros(len(draw.left), dtype=np.bool_)
        theirs[draw.rng.permutation(np.flatnonzero(draw.left))[:END_USERS]] = True
        return _besides(material, draw, theirs, wrong(material, theirs, draw.rng), weight, capped=capped)

    return fit


def with_used_passages(weight: float) -> Fit:
    """Fit on the ratings and on what is said of answers that a language model made of the first candidates.

    Such an answer is good where most of these are, but for `MADE_OTHERWISE`; each of them has its label.
    """

    def fit(material: Material, draw: Draw) -> RewardClassifier:
        data = material.data
        used: Mask = draw.left & (metrics.places(data.question, -data.rank) < USED)
        counts, good = (np.bincount(data.question[used], of) for of in (None, data.label[used]))
        answer = (2 * good > counts).astype(np.intp)
        otherwise = draw.rng.random(len(answer)) < MADE_OTHERWISE
        label = np.where(otherwise, 1 - answer, answer)[data.question[used]]
        return _besides(material, draw, used, label, weight, capped=True)

    return fit


def _besides(
    material: Material, draw: Draw, rows: Mask, said: Ints, weight: float, *, capped: bool
) -> RewardClassifier:
    """Fit on the ratings by experts, and with less weight on what else is said of other rows."""
    label = material.data.label.copy()
    label[rows] = said
    every = draw.rated | rows
    data = replace(material.data, weight=np.where(draw.rated, 1.0, weight))
    weights = rating_weights(data, draw.rated, every) if capped else data.weight
    return _fitted(material, every, label=label, weight=weights, judged=draw.rated)


def flipped(material: Material, rows: Mask, rng: np.random.Generator) -> Ints:
    """Return what end users say who err at random."""
    label = material.data.label[rows]
    return np.where(rng.random(len(label)) < WRONG, 1 - label, label)


def taken_in(material: Material, rows: Mask, rng: np.random.Generator) -> Ints:
    """Return what end users say who err together: as often, but towards the longer half of all answers."""
    label = material.data.label[rows]
    longer = (material.length > np.median(material.length))[rows].astype(np.intp)
    wrong = label != longer
    return np.where(wrong & (rng.random(len(label)) < WRONG / wrong.mean()), longer, label)


MISTAKES = {"at random": flipped, "alike": taken_in}


def simulate(material: Material, rated: int | None, fits: Sequence[Fit]) -> list[Measured]:
    """Judge several ways to fit, each on the same draws of `rated` ratings (None: all) and on the same questions."""
    weights = _bootstrap(material.data)
    found: list[list[Measured]] = [[] for _ in fits]
    for seed in SEEDS:
        for place, fit in enumerate(fits):
            probability = np.empty(len(material.data.row))
            # Each way draws from its own start of the same numbers.
            for draw in _draws(material.data, rated, seed):
                classifier = fit(material, draw)
                probability[draw.judged] = classifier.predict_proba(material.features[draw.judged])[:, 1]
            found[place].append(_judged(material.data, probability, weights))
    return [
        Measured(*(np.mean([getattr(each, name) for each in of_fit], axis=0) for name in ("auc", "precision_at_1")))
        for of_fit in found
    ]


def _draws(data: TrainingSet, rated: int | None, seed: int) -> Iterator[Draw]:
    fold = folds(data.prompt, data.label, count=FOLDS, seed=seed)
    for part in range(FOLDS):
        rng = np.random.default_rng((seed, part))
        while True:
            order = rng.permutation(np.unique(data.prompt[fold != part]))
            place = np.full(int(data.prompt.max()) + 1, len(data.prompt))
            place[order] = np.arange(len(order))
            rows = np.argsort(place[data.prompt], kind="stable")[: (fold != part).sum() if rated is None else rated]
            mask = np.isin(np.arange(len(fold)), rows)
            enough = all(len(np.unique(data.prompt[mask & (data.label == label)])) > 1 for label in (0, 1))
            if enough:
                break
        left = (fold != part) & ~np.isin(data.prompt, data.prompt[mask])
        yield Draw(mask, left, fold == part, rng)


def _fitted(
    material: Material,
    rows: Mask,
    *,
    label: Ints | None = None,
    weight: Floats | None = None,
    judged: Mask | None = None,
    pairs: PairRows | None = None,
) -> RewardClassifier:
    classifier = RewardClassifier(penalty_c=RECIPE.penalty_c, scaled=RECIPE.scaled)
    return classifier.fit(
        material.features[rows],
        (material.data.label if label is None else label)[rows],
        material.data.prompt[rows],
        weight=None if weight is None else weight[rows],
        judged=None if judged is None else judged[rows],
        pairs=pairs,
    )


def order_precision(data: TrainingSet, key: Floats) -> Floats:
    """Return P@1 of an order, in each draw of the bootstrap."""
    return _precision(data, key, _bootstrap(data))


def _bootstrap(data: TrainingSet) -> metrics.Weights:
    """Return how often each question is in each draw: groups are drawn, with all of their questions."""
    group = np.zeros(int(data.question.max()) + 1, dtype=np.intp)
    group[data.question] = data.prompt
    return metrics.bootstrap_weights(int(data.prompt.max()) + 1, draws=_BOOTSTRAP)[:, group]


def _judged(data: TrainingSet, probability: Floats, weights: metrics.Weights) -> Measured:
    return Measured(
        metrics.auc(data.question, data.label, probability, weights), _precision(data, probability, weights)
    )


def _precision(data: TrainingSet, key: Floats, weights: metrics.Weights) -> Floats:
    # Not by `prompt`: of questions that ask for the same each has an order of its own.
    rivals = np.bincount(data.question)[data.question] > 1
    kept, place = data.only(rivals), metrics.places(data.question[rivals], key[rivals])
    return metrics.precision_at_1(kept.question, kept.rating, kept.label, place, weights)
