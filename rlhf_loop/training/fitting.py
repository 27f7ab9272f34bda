"""One recipe fitted on what is not held out: ratings by experts, hints by end users, and pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlhf_loop.reward import Recipe, RewardClassifier
from rlhf_loop.reward.classifier import PairRows, Scorer
from rlhf_loop.training.data import Ints, Mask, TrainingSet
from rlhf_loop.training.fit import PairFeatures
from rlhf_loop.training.pair_data import PairSet

#: How much a preference counts against an expert's rating. Chosen by cross-validation on the training split of the real
#: ratings (docs/RESULTS.md): half is the best or next to it for 50 to 200 ratings and 50 to 1,000 pairs.
PREFERENCE_WEIGHT = 0.5
#: A correction counts less. All of them are written by experts, and what they are corrected from is not: a fit learns
#: that difference in style, too, which no candidate has. On the sample's corrections every larger weight is worse.
CORRECTION_WEIGHT = 0.25


@dataclass(frozen=True, slots=True)
class Compared:
    """Pairs with their features, the number of each one's `question` (-1: no answer to it is rated), and which of them
    belong to held-out questions.
    """

    pairs: PairSet
    features: PairFeatures
    question: Ints
    held: Mask


@dataclass(frozen=True, slots=True)
class Material:
    """What recipes are fitted on and judged by.

    Of the rated answers of `data` those `judged` decide, the others are hints; `held` are those of held-out questions.
    `features` has for each recipe the features of its `rows`.
    """

    data: TrainingSet
    judged: Mask
    held: Mask
    features: Mapping[str, NDArray[np.float32]]
    rows: Mapping[str, Mask]
    compared: Compared


@dataclass(frozen=True, slots=True)
class Fitted:
    """A model, and what models that did not see the question say: for each answer the probability of being correct, for
    each pair the score of the better answer less that of the other; nan where every model may see the question.
    """

    scorer: Scorer
    probability: NDArray[np.float64]
    margin: NDArray[np.float64]


def fit_recipe(recipe: Recipe, of: Material, *, seed: int) -> Fitted:
    """Fit on what is not held out, judge that by cross-validation and what is held out by the model itself."""
    data, matrix, rows = of.data, of.features[recipe.name], of.rows[recipe.name]
    inside, fitted = ~of.held[rows], rows & ~of.held
    plain = bool(data.expert.all() and (data.weight == 1).all())
    pairs = _Pairs(of.compared, recipe.name) if len(of.compared.pairs) else None
    classifier = RewardClassifier(penalty_c=recipe.penalty_c, scaled=recipe.scaled, seed=seed)
    classifier.fit(
        matrix[inside],
        data.label[fitted],
        data.prompt[fitted],
        weight=None if plain else rating_weights(data, of.judged, fitted)[fitted],
        judged=of.judged[fitted],
        pairs=pairs.fitted if pairs else None,
    )
    probability = np.full(len(rows), np.nan)
    probability[fitted] = classifier.fold_probability_
    probability[rows & of.held] = classifier.predict_proba(matrix[~inside])[:, 1]
    margin = pairs.margin(classifier) if pairs else np.empty(0)
    return Fitted(classifier.scorer_, probability, margin)


def rating_weights(data: TrainingSet, judged: Mask, fitted: Mask) -> NDArray[np.float64]:
    """Return what each rating weighs in a fit: hints in all no more than if they were as many as the judged answers."""
    hints = int((fitted & ~judged).sum())
    share = min(1.0, int((fitted & judged).sum()) / hints) if hints else 1.0
    weights: NDArray[np.float64] = np.where(judged, data.weight, data.weight * share)
    return weights


class _Pairs:
    """A recipe's pairs, those of held-out questions apart."""

    def __init__(self, of: Compared, recipe: str) -> None:
        self._rows, self._held = of.features.rows[recipe], of.held
        self._difference = of.features.difference[recipe]
        fitted = self._rows & ~of.held
        numbers = of.pairs.numbers[fitted]
        #: What a fit may see.
        self.fitted = PairRows(
            self._difference[~of.held[self._rows]],
            np.where(numbers["correction"], CORRECTION_WEIGHT, PREFERENCE_WEIGHT) * numbers["weight"],
            of.question[fitted],
        )

    def margin(self, classifier: RewardClassifier) -> NDArray[np.float64]:
        """Return for each pair the margin by a model that did not see its question."""
        margin = np.full(len(self._rows), np.nan)
        margin[self._rows & ~self._held] = classifier.fold_margin_
        held = self._difference[self._held[self._rows]]
        margin[self._rows & self._held] = held @ classifier.scorer_.coef
        return margin
