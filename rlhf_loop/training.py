"""Rated answers -> split by question -> features -> fit -> evaluation: a reward model and an honest report on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from rlhf_loop.domain import Example
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.errors import NotEnoughDataError
from rlhf_loop.evaluation import ENOUGH_QUESTIONS, Evaluation, evaluate
from rlhf_loop.features import Progress, read_features, rows_for
from rlhf_loop.reward import RECIPES, Recipe, RewardClassifier, RewardModel, recipe_named
from rlhf_loop.reward.scorer import Scorer
from rlhf_loop.splitting import holdout
from rlhf_loop.training_data import TrainingSet, assemble

#: Rated answers from which on a training is worth its while.
MIN_SAMPLES = 50
#: Share of the questions that is kept from the fit, to judge the very model that is saved.
HOLDOUT_SHARE = 0.12
AUTO = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingReport:
    """What a training did, and how good the model is.

    `cross_validated` has each recipe that was tried, on the training questions. `held_out` judges the model itself on
    questions kept from everything. `overall` joins both for the chosen recipe: each question judged by a model that
    was not fitted on it. `cut` counts the texts that recipe `joint` could not read to their end, None if not tried.
    `sampled` is how many rated answers recipe `joint` had, if these were not all (see `MOST_ANSWERS`): the recipes are
    then compared on those of them that are not held out.
    """

    recipe: str
    requested: str
    seed: int
    encoder: str
    rated: int
    unrated: int
    questions: int
    positive: int
    trained_on: int
    cross_validated: Mapping[str, Evaluation]
    held_out: Evaluation
    overall: Evaluation
    cut: int | None
    sampled: int | None
    seconds: Mapping[str, float]


def train(
    examples: Sequence[Example] | TrainingSet,
    *,
    encoder: TextEncoder,
    recipe: str = AUTO,
    seed: int = 0,
    min_samples: int = MIN_SAMPLES,
    progress: Progress | None = None,
) -> tuple[RewardModel, TrainingReport]:
    """Train a reward model on the rated examples; unrated ones count as context of their group.

    12 % of the questions are held out. On the rest, `recipe="auto"` tries each recipe and keeps the one that is best
    by cross-validation over questions. The model returned is the one that was fitted on the training questions, so
    `held_out` is its own result and not that of a relative. Of a `TrainingSet` the texts are read once, a chunk of
    questions at a time, and never all in memory.

    Raises:
        NotEnoughDataError: fewer than `min_samples` rated examples, one class only, or too few questions.
        ValueError: an unknown recipe.
    """
    recipes = list(RECIPES.values()) if recipe == AUTO else [recipe_named(recipe)]
    data = examples if isinstance(examples, TrainingSet) else assemble(examples)
    check_enough(data, min_samples=min_samples)
    held = holdout(data.prompt, data.label, share=HOLDOUT_SHARE, seed=seed)
    rows = {each.name: rows_for(each, data, held=held, seed=seed) for each in recipes}
    found = read_features(data, rows, encoder, progress=progress)
    if not found.there.all():
        data, held = data.only(found.there), held[found.there]
        rows = {name: mask[found.there] for name, mask in rows.items()}
        check_enough(data, min_samples=min_samples)
    seconds = dict(found.seconds)
    fits = {each.name: _fit(each, found.features, data, rows, held, seed, seconds) for each in recipes}
    started = perf_counter()
    # The same questions for all: where one recipe had a sample only, the others are compared with it on that.
    compared = np.logical_and.reduce([~held, *rows.values()])
    inside = {
        name: evaluate(data.predictions(probability[compared], compared)) for name, (_, probability) in fits.items()
    }
    chosen = best_recipe(inside)
    scorer, probability = fits[chosen]
    judged, outside = rows[chosen], rows[chosen] & held
    report = TrainingReport(
        recipe=chosen,
        requested=recipe,
        seed=seed,
        encoder=encoder.id,
        rated=len(data.row),
        unrated=found.candidates - len(data.row),
        questions=len(np.unique(data.prompt)),
        positive=int(data.label.sum()),
        trained_on=int((judged & ~held).sum()),
        cross_validated=inside,
        held_out=evaluate(data.predictions(probability[outside], outside)),
        overall=evaluate(data.predictions(probability[judged], judged)),
        cut=found.cut,
        sampled=next((int(mask.sum()) for mask in rows.values() if not mask.all()), None),
        seconds=seconds,
    )
    seconds["evaluation"] = perf_counter() - started
    return RewardModel.of(scorer, recipe=chosen, encoder=encoder.id), report


def check_enough(data: TrainingSet, *, min_samples: int = MIN_SAMPLES) -> None:
    """Check that there is enough to learn from.

    Raises:
        NotEnoughDataError: there is not; the message has the counts.
    """
    rated, correct = len(data.row), int(data.label.sum())
    if rated < min_samples:
        raise NotEnoughDataError(
            f"Only {rated} rated interactions; training needs {min_samples}. Collect more ratings and import them "
            "(rlhf-loop ratings import FILE), or lower --min-samples."
        )
    if correct in (0, rated):
        raise NotEnoughDataError(
            f"All {rated} rated interactions are rated {'>= 4' if correct else '< 4'}: {correct} correct, "
            f"{rated - correct} incorrect. A reward model needs both. Rate good and bad answers alike."
        )
    for kind, label in (("correct", 1), ("incorrect", 0)):
        count = len(np.unique(data.prompt[data.label == label]))
        if count < _MIN_QUESTIONS_A_CLASS:
            raise NotEnoughDataError(
                f"Only {count} of the {len(np.unique(data.prompt))} questions have {kind} answers; training needs "
                f"{_MIN_QUESTIONS_A_CLASS}, to learn on some and be judged on others. Rate answers to more questions."
            )


#: One for the held-out part, and two so that a cross-validation is possible.
_MIN_QUESTIONS_A_CLASS = 3


def best_recipe(evaluations: Mapping[str, Evaluation]) -> str:
    """Return the recipe with the best P@1, or AUC where too few questions can be ranked; the first one on a tie."""

    def quality(name: str) -> tuple[float, float]:
        evaluation = evaluations[name]
        enough = evaluation.ranked_questions >= ENOUGH_QUESTIONS
        return (evaluation.orders["model"].precision_at_1.value if enough else 0.0, evaluation.auc.value)

    return max(evaluations, key=quality)


def _fit(
    recipe: Recipe,
    features: Mapping[str, NDArray[np.float32]],
    data: TrainingSet,
    rows: Mapping[str, NDArray[np.bool_]],
    held: NDArray[np.bool_],
    seed: int,
    seconds: dict[str, float],
) -> tuple[Scorer, NDArray[np.float64]]:
    """Fit on what is not held out; return the model, and for each answer a probability by one that did not see it."""
    started = perf_counter()
    matrix, having = features[recipe.name], rows[recipe.name]
    inside = ~held[having]
    classifier = RewardClassifier(penalty_c=recipe.penalty_c, scaled=recipe.scaled, seed=seed)
    classifier.fit(matrix[inside], data.label[having & ~held], data.prompt[having & ~held])
    probability = np.full(len(having), np.nan)
    probability[having & ~held] = classifier.fold_probability_
    probability[having & held] = classifier.predict_proba(matrix[~inside])[:, 1]
    seconds[f"{recipe.name} fit"] = perf_counter() - started
    return classifier.scorer_, probability
