"""Features and fit: one recipe fitted on all that is not held out, ratings by experts, hints by end users, and pairs.

Each chunk of texts is read once, given to every recipe, and forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from rlhf_loop.domain import Progress, Question
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.encoders.tuned import TunedLayers
from rlhf_loop.reward import Recipe, RewardClassifier, prior, recipe_named
from rlhf_loop.reward.classifier import PairRows
from rlhf_loop.reward.recipes import (
    JointRecipe,
    PassagesRecipe,
    QualityRecipe,
    TransformerRecipe,
    joint_texts,
    pointwise_columns,
)
from rlhf_loop.training.data import Chunk, JudgedAnswer, TrainingSet, prompt_hash
from rlhf_loop.training.pairs import PairSet
from rlhf_loop.training.relevance import Negatives
from rlhf_loop.training.transformer import RatedCandidates, Reading, Tuning, tuned_scores
from rlhf_loop.utils.arrays import Floats, Ints, Mask

#: Rated answers that a recipe gets at most; of more, a random sample of the questions. `joint` is the yardstick: with
#: its 384 columns it would take most of a large training's memory and time, and 50,000 answers are far beyond where
#: its learning curve is flat (docs/RESULTS.md).
#: `quality` reads each answer once more, which takes longer than all the rest once the vectors are known, and tuning
#: reads it a dozen times.
MOST_ANSWERS: Mapping[str, int] = {QualityRecipe.name: 5_000, TransformerRecipe.name: 5_000, JointRecipe.name: 50_000}
#: How much a preference counts against an expert's rating. Chosen by cross-validation on the training split of the real
#: ratings (docs/RESULTS.md): half is the best or next to it for 50 to 200 ratings and 50 to 1,000 pairs.
PREFERENCE_WEIGHT = 0.5
#: A correction counts less. All of them are written by experts, and what they are corrected from is not: a fit learns
#: that difference in style, too, which no candidate has. On the sample's corrections every larger weight is worse.
CORRECTION_WEIGHT = 0.25
#: How much a judge's label counts in a tuning against an expert's rating, and how much all of them together against all
#: of these. The regression learns from experts alone, and finds out what the layers are worth.
JUDGE_WEIGHT, MOST_JUDGED = 0.5, 4.0
#: Questions with labels that are read at a time.
_LABELLED = 64


@dataclass(frozen=True, slots=True)
class Features:
    """The features of rated answers: a matrix (rows asked for and `there`, columns) for each recipe, in float32.

    `there` says which rated answers of the training set still had their texts, `candidates` counts them with the
    unrated ones. `cut` counts the texts that recipe `joint` could not read to their end, None without it. Those of
    recipe `transformer` have no tuned score yet; `reading` is what it is made of, of the candidates `read`.
    """

    features: Mapping[str, NDArray[np.float32]]
    there: Mask
    candidates: int
    cut: int | None
    seconds: Mapping[str, float]
    reading: Reading
    read: Ints


@dataclass(frozen=True, slots=True)
class PairFeatures:
    """For each recipe the features of the better answers less those of the others, in float32.

    `rows` says which pairs each recipe has: those that still had their texts, and of very many a random sample. As in
    `Features`, the tuned score of recipe `transformer` is to be made of `reading`.
    """

    difference: Mapping[str, NDArray[np.float32]]
    rows: Mapping[str, Mask]
    seconds: float
    reading: Reading


def rows_for(
    recipe: Recipe, data: TrainingSet, *, held: Mask | None = None, judged: Mask | None = None, seed: int = 0
) -> Mask:
    """Return which rated answers a recipe is fitted and judged on: all, or a random sample of the questions.

    What is `judged` (by default all) and not `held` has two questions of each class in the sample, if it has them at
    all. Questions with judged answers come before those without.
    """
    most = MOST_ANSWERS.get(recipe.name)
    if most is None or len(data.row) <= most:
        return np.ones(len(data.row), dtype=np.bool_)
    order = np.random.default_rng(seed).permutation(int(data.prompt.max()) + 1)
    # To the front, which changes nothing unless a class is so rare that chance may leave it out.
    fitted = np.ones(len(data.row), dtype=np.bool_) if held is None else ~held
    if judged is not None:
        order = order[np.argsort(~np.isin(order, data.prompt[judged]), kind="stable")]
        fitted &= judged
    needed = [order[np.isin(order, data.prompt[fitted & (data.label == label)])][:2] for label in (0, 1)]
    first = np.unique(np.concatenate(needed))
    order = np.concatenate([first, order[~np.isin(order, first)]])
    count = int(np.searchsorted(np.cumsum(np.bincount(data.prompt)[order]), most, side="right"))
    rows: Mask = np.isin(data.prompt, order[: max(count, len(first))])
    return rows


def read_features(
    data: TrainingSet, rows: Mapping[str, Mask], encoder: TextEncoder, *, progress: Progress | None = None
) -> Features:
    """Compute for each recipe named the features of its `rows` of rated answers."""
    tables = {name: _Table(data, mask) for name, mask in rows.items()}
    there = np.zeros(len(data.candidates), dtype=np.bool_)
    seconds = dict.fromkeys(["reading", *(f"{name} features" for name in rows)], 0.0)
    cut, started = 0, perf_counter()
    reading, read = Reading(), [np.empty(0, dtype=np.intp)]
    for chunk in data.chunks():
        there[chunk.row] = True
        seconds["reading"] += perf_counter() - started
        made: tuple[tuple[Question, ...], Floats] | None = None
        for place, (name, table) in enumerate(tables.items(), start=1):
            started = perf_counter()
            part = chunk.only(table.wanted)
            if part.questions:
                recipe = recipe_named(name, cross=encoder.crossed)
                if isinstance(recipe, QualityRecipe) and made and made[0] == part.questions:
                    features = recipe.beside(made[1], part.questions)
                elif isinstance(recipe, TransformerRecipe):
                    features = _untuned(recipe, part.questions, encoder, reading)
                    read.append(part.row)
                else:
                    features = recipe.features(part.questions, encoder)
                if isinstance(recipe, PassagesRecipe):
                    made = part.questions, features
                table.add(part, features)
                if name == JointRecipe.name:
                    cut += encoder.count_cut(joint_texts(part.questions))
            seconds[f"{name} features"] += perf_counter() - started
            if progress and len(chunk.row):
                low, high = int(chunk.row[0]), int(chunk.row[-1]) + 1
                progress(low + (high - low) * place // len(tables), len(there))
        started = perf_counter()
    if progress:
        progress(len(there), len(there))  # the last ones may be gone
    return Features(
        features={name: table.filled(there[data.row[rows[name]]]) for name, table in tables.items()},
        there=there[data.row],
        candidates=int(there.sum()),
        cut=cut if JointRecipe.name in rows else None,
        seconds=seconds,
        reading=reading,
        read=np.concatenate(read),
    )


def read_pairs(
    pairs: PairSet, recipes: Sequence[Recipe], encoder: TextEncoder, *, seed: int = 0, progress: Progress | None = None
) -> PairFeatures:
    """Compute for each recipe the difference of features of each pair.

    A pair is a question with two candidates. The columns that would be others in the list that was served are 0, so a
    fit learns nothing of them from pairs (see `Recipe.pair_columns`).
    """
    started = perf_counter()
    sampled = {each.name: _sample(len(pairs), MOST_ANSWERS.get(each.name), seed) for each in recipes}
    found: dict[str, list[NDArray[np.float32]]] = {each.name: [] for each in recipes}
    there = np.zeros(len(pairs), dtype=np.bool_)
    reading = Reading()
    for chunk in pairs.chunks():
        there[chunk.row] = True
        for recipe in recipes:
            wanted = sampled[recipe.name][chunk.row]
            questions = [each for each, keep in zip(chunk.questions, wanted, strict=True) if keep]
            if questions:
                if isinstance(recipe, TransformerRecipe):
                    features = _untuned(recipe, questions, encoder, reading)
                else:
                    features = recipe.features(questions, encoder)
                difference = (features[::2] - features[1::2]) * recipe.pair_columns()
                found[recipe.name].append(difference.astype(np.float32))
        if progress and len(chunk.row):
            progress(int(chunk.row[-1]) + 1, len(pairs))
    if progress:
        progress(len(pairs), len(pairs))
    return PairFeatures(
        difference={
            each.name: np.concatenate(found[each.name] or [np.empty((0, len(each.feature_names())), np.float32)])
            for each in recipes
        },
        rows={name: mask & there for name, mask in sampled.items()},
        seconds=perf_counter() - started,
        reading=reading,
    )


def _untuned(
    recipe: TransformerRecipe, questions: Sequence[Question], encoder: TextEncoder, reading: Reading
) -> Floats:
    """Return the features of `passages` beside empty columns, and read what these will be made of."""
    features, best = recipe.untuned(questions, encoder)
    reading.add(questions, best, encoder)
    empty = np.full((len(features), len(recipe.feature_names()) - features.shape[1]), np.nan)
    return np.hstack([features, empty])


@dataclass(frozen=True, slots=True)
class PairMatrix:
    """Pairs with their features, the number of each one's `question` (-1: no answer to it is rated), and which of them
    belong to held-out questions.
    """

    pairs: PairSet
    features: PairFeatures
    question: Ints
    held: Mask


@dataclass(frozen=True, slots=True)
class Material:
    """Data that recipes are fitted on and judged by.

    Of the rated answers of `data` those `judged` decide, the others are hints; `held` are those of held-out questions.
    `features` has for each recipe the features of its `rows`, made with the `encoder` of that id. The recipe of the
    `negatives` learns from these as well.
    """

    data: TrainingSet
    judged: Mask
    held: Mask
    features: Mapping[str, NDArray[np.float32]]
    rows: Mapping[str, Mask]
    compared: PairMatrix
    encoder: str
    negatives: Negatives | None = None


def only_columns(of: Material, recipe: Recipe, *, of_all: Recipe) -> Material:
    """Leave those features out which a recipe does not have, of the same recipe with more."""
    name, kept = recipe.name, np.isin(of_all.feature_names(), recipe.feature_names())
    if kept.all():
        return of
    compared = of.compared.features
    compared = replace(compared, difference={**compared.difference, name: compared.difference[name][:, kept]})
    features = {**of.features, name: of.features[name][:, kept]}
    negatives = of.negatives
    if negatives is not None and negatives.recipe == name:
        negatives = replace(negatives, features=negatives.features[:, kept])
    return replace(of, features=features, compared=replace(of.compared, features=compared), negatives=negatives)


def tuned(
    of: Material, found: Features, encoder: TextEncoder, *, seed: int, options: Tuning, progress: Progress | None = None
) -> tuple[Material, TunedLayers]:
    """Tune layers on what is not held out, fill in the scores that recipe `transformer` waits for, return the layers.

    Pairs teach them nothing: the regression learns from these, on scores that did not see the question.
    """
    recipe, name = TransformerRecipe(PassagesRecipe()), TransformerRecipe.name
    data, rows, pairs = of.data, of.rows[name], of.compared
    of_pairs = pairs.features.rows[name]
    read, weight = len(found.reading.of), rating_weights(data, of.judged, rows & ~of.held)[rows]
    labels, label_group = _judged(options.judged, data, encoder, found.reading)
    share = min(1.0, MOST_JUDGED * float(weight[~of.held[rows]].sum()) / max(1.0, JUDGE_WEIGHT * len(label_group)))
    scores = tuned_scores(
        RatedCandidates(np.searchsorted(found.read, data.row[rows]), data.rating[rows], weight),
        data.prompt[rows],
        of.held[rows],
        reading=found.reading,
        pairs=pairs.features.reading,
        pair_group=pairs.question[of_pairs],
        pair_held=pairs.held[of_pairs],
        encoder=encoder,
        seed=seed,
        options=options,
        progress=progress,
        judged=replace(labels, weight=labels.weight * share),
        judged_group=label_group,
    )
    counts = np.bincount(found.reading.of[:read])
    columns = recipe.beside(np.empty((len(found.read), 0)), counts.tolist(), scores.candidates[:read])
    features, difference = of.features[name].copy(), pairs.features.difference[name].copy()
    added = columns.shape[1]
    features[:, -added:] = columns[np.searchsorted(found.read, data.row[rows])]
    # What compares an answer with the others differs between two of them as their scores do.
    difference[:, -added:] = (scores.pairs[::2] - scores.pairs[1::2])[:, np.newaxis]
    compared = replace(pairs.features, difference={**pairs.features.difference, name: difference})
    filled = replace(of, features={**of.features, name: features}, compared=replace(pairs, features=compared))
    return filled, scores.layers


def _judged(
    answers: Sequence[JudgedAnswer], data: TrainingSet, encoder: TextEncoder, reading: Reading
) -> tuple[RatedCandidates, Ints]:
    """Read answers that judges have labelled behind those that were read; return their places, and their groups."""
    recipe, start = TransformerRecipe(PassagesRecipe()), len(reading.of)
    asked: dict[str, list[JudgedAnswer]] = {}
    for answer in answers:
        asked.setdefault(answer.prompt, []).append(answer)
    prompts = list(asked)
    for begin in range(0, len(prompts), _LABELLED):
        some = [
            Question(prompt, tuple(each.response for each in asked[prompt])) for prompt in prompts[begin:][:_LABELLED]
        ]
        reading.add(some, recipe.untuned(some, encoder)[1], encoder)
    each = [answer for prompt in prompts for answer in asked[prompt]]
    hashes = np.array([prompt_hash(answer.prompt) for answer in each], dtype=np.int64)
    label = np.array([answer.label for answer in each], dtype=np.float64)
    places = RatedCandidates(start + np.arange(len(each)), label, np.full(len(each), JUDGE_WEIGHT))
    return places, data.question_of(hashes)


@dataclass(frozen=True, slots=True)
class FittedRecipe:
    """A model, and what models that did not see the question say: for each answer the probability of being correct, for
    each pair the score of the better answer less that of the other; nan where every model may see the question.

    `prior` is how strongly the prior drew, None where the recipe has none for this encoder.
    """

    classifier: RewardClassifier
    prior: float | None
    probability: Floats
    margin: Floats


def fit_recipe(recipe: Recipe, of: Material, *, seed: int, pointwise: bool = False) -> FittedRecipe:
    """Fit on what is not held out, judge that by cross-validation and what is held out by the model itself.

    With `pointwise` only to those columns that do not depend on the other candidates.
    """
    columns = pointwise_columns(recipe) if pointwise else slice(None)
    data, matrix, rows = of.data, of.features[recipe.name][:, columns], of.rows[recipe.name]
    inside, fitted = ~of.held[rows], rows & ~of.held
    plain = bool(data.expert.all() and (data.weight == 1).all())
    pairs = _Pairs(of.compared, recipe.name, columns) if len(of.compared.pairs) else None
    features, label, question, judged = matrix[inside], data.label[fitted], data.prompt[fitted], of.judged[fitted]
    weight = None if plain else rating_weights(data, of.judged, fitted)[fitted]
    answers, more = len(features), of.negatives
    if more is not None and more.recipe == recipe.name and len((more := more.but(data.prompt[of.held])).label):
        weight = np.ones(answers) if weight is None else weight
        each = min(1.0, more.share * float(weight.sum()) / len(more.label))
        features, label = np.concatenate([features, more.features[:, columns]]), np.concatenate([label, more.label])
        question = np.concatenate([question, more.question])
        judged = np.concatenate([judged, np.zeros(len(more.label), dtype=np.bool_)])
        weight = np.concatenate([weight, np.full(len(more.label), each)])
    classifier = prior.classifier(recipe, of.encoder, seed=seed, pointwise=pointwise)
    classifier.fit(features, label, question, weight=weight, judged=judged, pairs=pairs.fitted if pairs else None)
    probability = np.full(len(rows), np.nan)
    probability[fitted] = classifier.fold_probability_[:answers]
    probability[rows & of.held] = classifier.predict_proba(matrix[~inside])[:, 1]
    margin = pairs.margin(classifier) if pairs else np.empty(0)
    drew = None if classifier.prior is None else classifier.strength_
    return FittedRecipe(classifier, drew, probability, margin)


def rating_weights(data: TrainingSet, judged: Mask, fitted: Mask) -> Floats:
    """Return what each rating weighs in a fit: hints in all no more than if they were as many as the judged answers."""
    hints = int((fitted & ~judged).sum())
    share = min(1.0, int((fitted & judged).sum()) / hints) if hints else 1.0
    weights: Floats = np.where(judged, data.weight, data.weight * share)
    return weights


def _sample(pairs: int, most_answers: int | None, seed: int) -> Mask:
    # Each pair is two rows of a fit.
    most = pairs if most_answers is None else min(pairs, most_answers // 2)
    chosen = np.zeros(pairs, dtype=np.bool_)
    chosen[np.random.default_rng(seed).permutation(pairs)[:most]] = True
    return chosen


class _Table:
    """The features of some rated answers, filled chunk by chunk."""

    def __init__(self, data: TrainingSet, rows: Mask) -> None:
        self._size = int(rows.sum())
        self._place: Ints = np.full(len(data.candidates), -1, dtype=np.intp)
        self._place[data.row[rows]] = np.arange(self._size)
        self._values: NDArray[np.float32] | None = None
        #: Which candidates have a row here.
        self.wanted: Mask = self._place >= 0

    def add(self, chunk: Chunk, features: Floats) -> None:
        """Take over the rows that are wanted."""
        if self._values is None:
            # Half the memory of float64, and far more exact than the vectors that it comes from.
            self._values = np.empty((self._size, features.shape[1]), dtype=np.float32)
        place = self._place[chunk.row]
        self._values[place[place >= 0]] = features[place >= 0]

    def filled(self, there: Mask) -> NDArray[np.float32]:
        """Return the rows that were filled."""
        if self._values is None:
            return np.empty((0, 0), dtype=np.float32)
        return self._values if there.all() else self._values[there]


class _Pairs:
    """A recipe's pairs, those of held-out questions apart."""

    def __init__(self, of: PairMatrix, recipe: str, columns: Mask | slice) -> None:
        self._rows, self._held = of.features.rows[recipe], of.held
        self._difference = of.features.difference[recipe][:, columns]
        fitted = self._rows & ~of.held
        numbers = of.pairs.numbers[fitted]
        #: What a fit may see.
        self.fitted = PairRows(
            self._difference[~of.held[self._rows]],
            np.where(numbers["correction"], CORRECTION_WEIGHT, PREFERENCE_WEIGHT) * numbers["weight"],
            of.question[fitted],
        )

    def margin(self, classifier: RewardClassifier) -> Floats:
        """Return for each pair the margin by a model that did not see its question."""
        margin = np.full(len(self._rows), np.nan)
        margin[self._rows & ~self._held] = classifier.fold_margin_
        held = self._difference[self._held[self._rows]]
        margin[self._rows & self._held] = held @ classifier.scorer_.coef
        return margin
