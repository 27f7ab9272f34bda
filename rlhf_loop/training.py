"""Rated answers -> split by question -> features -> fit -> evaluation: a reward model and an honest report on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from rlhf_loop.domain import GOOD_RATING, Example, Question, prompt_key
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.errors import NotEnoughDataError
from rlhf_loop.evaluation import ENOUGH_QUESTIONS, Evaluation, Predictions, evaluate
from rlhf_loop.reward import RECIPES, Recipe, RewardClassifier, RewardModel, recipe_named
from rlhf_loop.reward.joint import JointRecipe, joint_texts
from rlhf_loop.splitting import holdout

#: Rated answers from which on a training is worth its while.
MIN_SAMPLES = 50
#: Share of the questions that is kept from the fit, to judge the very model that is saved.
HOLDOUT_SHARE = 0.12
AUTO = "auto"


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """Questions with all their candidates, and which of those are rated.

    The arrays have one entry a rated answer: `row` among all candidates of all questions in order, `question` (index),
    `prompt` (a number for each distinct prompt: what splits keep together), `rating`, `rank` (nan where unknown).
    """

    questions: tuple[Question, ...]
    row: NDArray[np.intp]
    question: NDArray[np.intp]
    prompt: NDArray[np.intp]
    rating: NDArray[np.intp]
    rank: NDArray[np.float64]

    @property
    def label(self) -> NDArray[np.intp]:
        """1 for a correct answer, 0 for any other."""
        return (self.rating >= GOOD_RATING).astype(np.intp)

    def predictions(self, probability: NDArray[np.float64], rows: NDArray[np.bool_] | None = None) -> Predictions:
        """Put probabilities (one a rated answer, or one for each of `rows`) beside what is known of the answers."""
        chosen = np.ones(len(self.row), dtype=np.bool_) if rows is None else rows
        question = np.unique(self.question[chosen], return_inverse=True)[1]
        return Predictions(question, self.rating[chosen], probability, self.rank[chosen])


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingReport:
    """What a training did, and how good the model is.

    `cross_validated` has each recipe that was tried, on the training questions. `held_out` judges the model itself on
    questions kept from everything. `overall` joins both for the chosen recipe: each question judged by a model that
    was not fitted on it. `cut` counts the texts that recipe `joint` could not read to their end, None if not tried.
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
    seconds: Mapping[str, float]


def train(
    examples: Sequence[Example],
    *,
    encoder: TextEncoder,
    recipe: str = AUTO,
    seed: int = 0,
    min_samples: int = MIN_SAMPLES,
) -> tuple[RewardModel, TrainingReport]:
    """Train a reward model on the rated examples; unrated ones count as context of their group.

    12 % of the questions are held out. On the rest, `recipe="auto"` tries each recipe and keeps the one that is best
    by cross-validation over questions. The model returned is the one that was fitted on the training questions, so
    `held_out` is its own result and not that of a relative.

    Raises:
        NotEnoughDataError: fewer than `min_samples` rated examples, one class only, or too few questions.
        ValueError: an unknown recipe.
    """
    recipes = list(RECIPES.values()) if recipe == AUTO else [recipe_named(recipe)]
    data = assemble(examples)
    check_enough(data, min_samples=min_samples)
    held = holdout(data.prompt, data.label, share=HOLDOUT_SHARE, seed=seed)
    seconds: dict[str, float] = {}
    fits = {option.name: _fit(option, data, ~held, encoder, seed, seconds) for option in recipes}
    inside = {
        name: evaluate(data.predictions(classifier.fold_probability_, ~held)) for name, (classifier, _) in fits.items()
    }
    chosen = best_recipe(inside)
    classifier, features = fits[chosen]
    outside = classifier.predict_proba(features[held])[:, 1]
    probability = np.empty(len(held))
    probability[held], probability[~held] = outside, classifier.fold_probability_
    started = perf_counter()
    report = TrainingReport(
        recipe=chosen,
        requested=recipe,
        seed=seed,
        encoder=encoder.id,
        rated=len(data.row),
        unrated=sum(len(question.responses) for question in data.questions) - len(data.row),
        questions=len(np.unique(data.prompt)),
        positive=int(data.label.sum()),
        trained_on=int((~held).sum()),
        cross_validated=inside,
        held_out=evaluate(data.predictions(outside, held)),
        overall=evaluate(data.predictions(probability)),
        cut=encoder.count_cut(joint_texts(data.questions)) if JointRecipe.name in fits else None,
        seconds=seconds,
    )
    seconds["evaluation"] = perf_counter() - started
    return RewardModel.of(classifier.scorer_, recipe=chosen, encoder=encoder.id), report


def assemble(examples: Sequence[Example]) -> TrainingSet:
    """Put examples into questions; those of a group without any rated one are left out."""
    grouped: dict[tuple[str, str], list[Example]] = {}
    for example in examples:
        grouped.setdefault((example.group, prompt_key(example.prompt)), []).append(example)
    rated_groups = {key: group for key, group in grouped.items() if any(e.rating is not None for e in group)}
    prompts: dict[str, int] = {}
    questions, rated, place = [], [], 0
    for index, ((_, prompt), group) in enumerate(rated_groups.items()):
        questions.append(Question(group[0].prompt, tuple(example.response for example in group)))
        prompt_number = prompts.setdefault(prompt, len(prompts))
        for offset, example in enumerate(group):
            if example.rating is not None:
                rank = np.nan if example.rank is None else float(example.rank)
                rated.append((place + offset, index, prompt_number, example.rating, rank))
        place += len(group)
    table = np.array(rated, dtype=np.float64).reshape(-1, 5)
    row, question, number, rating = table[:, :4].astype(np.intp).T
    return TrainingSet(tuple(questions), row, question, number, rating, rank=table[:, 4])


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
    data: TrainingSet,
    rows: NDArray[np.bool_],
    encoder: TextEncoder,
    seed: int,
    seconds: dict[str, float],
) -> tuple[RewardClassifier, NDArray[np.float64]]:
    started = perf_counter()
    features = recipe.features(data.questions, encoder)[data.row]
    featured = perf_counter()
    classifier = RewardClassifier(penalty_c=recipe.penalty_c, scaled=recipe.scaled, seed=seed)
    classifier.fit(features[rows], data.label[rows], data.prompt[rows])
    seconds[f"{recipe.name} features"] = featured - started
    seconds[f"{recipe.name} fit"] = perf_counter() - featured
    return classifier, features
