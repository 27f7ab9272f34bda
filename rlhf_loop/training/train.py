"""Training: rated answers, split by question, become a fitted reward model and a report on its quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from rlhf_loop.domain import MIN_SAMPLES, Example, Interval, Pair, Progress, ReviewerRole
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.encoders.tuned import TunedLayers
from rlhf_loop.errors import NotEnoughDataError
from rlhf_loop.reward import RECIPES, Recipe, RewardModel, TransformerRecipe, recipe_named
from rlhf_loop.reward.recipes import JointRecipe, is_crossed, pointwise_columns
from rlhf_loop.reward.splitting import holdout
from rlhf_loop.training.comparison import CHANCE, auc_beside, by_chance
from rlhf_loop.training.data import TrainingSet, assemble, is_frozen, linked_by_documents, prompt_hash
from rlhf_loop.training.evaluation import Evaluation, Predictions, coverage, evaluate, pair_accuracy
from rlhf_loop.training.fit import (
    FittedRecipe,
    Material,
    PairMatrix,
    fit_recipe,
    only_columns,
    rating_weights,
    read_features,
    read_pairs,
    rows_for,
    tuned,
)
from rlhf_loop.training.learning_curve import Growth, RatedFeatures, growth
from rlhf_loop.training.metrics import Bin, Coverage, bins
from rlhf_loop.training.pairs import PairSet, pair_set
from rlhf_loop.training.relevance import SHARES, RelevanceReport, draw_negatives
from rlhf_loop.training.reliability import RaterReliability
from rlhf_loop.training.transformer import Tuning, checked
from rlhf_loop.utils.arrays import Floats, Ints, Mask
from rlhf_loop.utils.translation import Message

#: Share of the questions that is kept from the fit, to judge the very model that is saved.
HOLDOUT_SHARE = 0.12
AUTO = "auto"
#: Share of the bootstrap's draws in which a recipe has to be better than the default one to be taken in its place.
CERTAIN_RECIPE = 0.95
#: Questions with rivals that an incumbent has not seen from which on these alone tell enough of it.
ENOUGH_UNSEEN = 500
#: Pairs of questions that are left out of a fit from which on the report says how many are put in the right order.
ENOUGH_PAIRS = 20
#: Questions, and characters of their texts, by which the language is looked at.
_LOOKED_AT, _BEGINNING = 100, 400
#: One for the held-out part, and two so that a cross-validation is possible.
_MIN_QUESTIONS_A_CLASS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class PairReport:
    """Pairs by kind, as they entered a training: those that still had their texts.

    `held_out` of them belong to held-out questions, so the model was not fitted on them. `accuracy` is the share of
    `judged` pairs by experts that are put in the right order by a model that did not see their question (ties count
    one half), None where these are too few to tell.
    """

    corrections: int = 0
    preferences: int = 0
    held_out: int = 0
    judged: int = 0
    accuracy: Interval | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentReport:
    """The quality on unseen documents: the same answers as in `cross_validated`, judged by models that were fitted on
    none of the question's answers, to no question.

    `recurring` of these answers have a text that is rated for a question of another group as well. Questions that hang
    together by such texts are dealt into folds as one; there are `linked` of these. None of it where too few are left.
    """

    recurring: int
    linked: int
    unseen: Evaluation | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingReport:
    """A training and the quality of its model.

    `cross_validated` has each recipe that was tried, on the training questions. `held_out` judges the model itself on
    questions kept from everything. `overall` joins both for the chosen recipe: each question judged by a model that
    was not fitted on it. `cut` counts the texts that recipe `joint` could not read to their end, None if not tried.
    `sampled` is how many rated answers recipe `joint` had, if these were not all (see `MOST_ANSWERS`): the recipes are
    then compared on those of them that are not held out.

    All counts and measures are of answers that experts rated, as long as `judged_by` is them. `end_users` counts the
    answers that only end users have rated and that the chosen recipe was fitted on besides, each with the weight
    `end_user_weight`. With too few ratings by experts `judged_by` says that the end users' are counted and judged by,
    too, and `experts` is how many of all are experts'. `raters` are the experts who count less than others, and
    `disregarded` the answers that none but experts who count nothing have rated: they are not among the rated.

    `groups` counts the questions, those that ask for the same as one; no split tears them apart. All measures are of
    unseen questions and of documents as they come, known ones among them; `documents` has those of unseen documents.
    `foreign` says what tells that the encoder does not know the texts' language.

    `judge_labels` counts the answers with labels of judges on which layers were tuned besides, and nothing else.

    `pointwise` is like `overall`, of the scores that do not depend on the other candidates.

    `relevance` says whether right answers come before right answers to other questions, None with too few to tell.

    `prior` is how strongly the prior that is shipped drew the fit: 1 as usual, 0 not at all, as the ratings say
    otherwise, None where the recipe has none for this encoder.

    `calibration` has what was predicted beside what was given, and `coverage` what a threshold of the first answer's
    score would leave, of the same answers as `overall`. `growth` says what more ratings bring, as far as that was asked
    for.
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
    judged_by: ReviewerRole
    experts: int
    end_users: int
    end_user_weight: float | None
    pairs: PairReport
    seconds: Mapping[str, float]
    frozen_share: float = 0.0
    raters: tuple[RaterReliability, ...] = ()
    disregarded: int = 0
    calibration: tuple[Bin, ...] = ()
    coverage: tuple[Coverage, ...] = ()
    growth: Growth = Growth()
    groups: int | None = None
    foreign: str | None = None
    documents: DocumentReport | None = None
    prior: float | None = None
    judge_labels: int = 0
    relevance: RelevanceReport | None = None
    pointwise: Evaluation | None = None

    def __repr__(self) -> str:
        first = self.overall.orders["model"].precision_at_1
        return (
            f"TrainingReport({self.recipe}, {self.rated} rated answers to {self.questions} questions, judged by the "
            f"{self.judged_by}: P@1 {first}, AUC {self.overall.auc})"
        )

    def _repr_html_(self) -> str:
        judges = "" if self.judged_by == ReviewerRole.EXPERT else " No experts stand behind these numbers."
        said = f"Recipe {self.recipe}, fitted on {self.trained_on} rated answers, judged on questions not fitted on."
        return f"<p>{said}{judges}</p>{self.overall._repr_html_()}"


@dataclass(frozen=True, slots=True)
class Incumbent:
    """The model that a new one is to be compared with: its recipe, and the questions that it was fitted on.

    `crossed` says whether its recipe has the score of a cross-encoder.
    """

    recipe: str
    fitted: NDArray[np.int64]
    crossed: bool = False


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """A model with its report, and what a comparison with another one needs.

    `probability` has one entry a rated answer of `data`, each by a model that was not fitted on its question; nan where
    there is none. `judged` are the answers that may decide. `fitted` are the questions that the model was fitted on, as
    `prompt_hash` names them, in order. `incumbent` is like `probability`, of models of the incumbent's recipe that were
    fitted on nothing but its questions; None where that was not asked for, or would tell nothing.
    """

    model: RewardModel
    report: TrainingReport
    data: TrainingSet
    judged: Mask
    probability: Floats
    fitted: NDArray[np.int64]
    incumbent: Floats | None = None


def train(
    examples: Sequence[Example] | TrainingSet,
    *,
    encoder: TextEncoder,
    pairs: Sequence[Pair] | PairSet = (),
    recipe: str = AUTO,
    seed: int = 0,
    min_samples: int = MIN_SAMPLES,
    frozen_share: float = 0.0,
    goal: float | None = None,
    incumbent: Incumbent | None = None,
    tuning: Tuning | None = None,
    progress: Progress | None = None,
) -> TrainingResult:
    """Train a reward model on the rated examples; unrated ones count as context of their group.

    12 % of the questions are held out: those of the `frozen_share`, which no training may fit on, and as many others as
    are missing, drawn with the `seed`. On the rest, `recipe="auto"` tries each recipe and keeps the first one unless
    another is certainly better by cross-validation over questions. The model returned is the one that was fitted on the
    training questions, so `held_out` is its own result and not that of a relative. Of a `TrainingSet` the texts are
    read once, a chunk of questions at a time, and never all in memory. `progress` gets questions, candidates or pairs
    that are read, whatever is at the time, or steps of the tuning.

    Answers that only end users have rated are fitted on with their weights, and so are `pairs` (see `fitting`), unless
    their question is held out; but whatever is counted, chosen or reported goes by experts' ratings. Together the end
    users never weigh more than if they had rated as many answers as the experts: what they err in together would else
    outweigh the experts (docs/RESULTS.md). Only where experts have rated fewer than `min_samples` answers, and all
    together enough, the end users' ratings are judged by as well, and the report says so.

    With an `incumbent` of another recipe than the one taken, that recipe is fitted once more, to the questions of the
    incumbent alone, so that it can be judged on them, too, by cross-validation (see `TrainingResult`).

    Recipe `transformer` tunes layers of the encoder first (`tuning` has its options), which takes minutes; `auto` does
    not try it. Where the encoder has a cross-encoder beside it, its score is a further feature of all recipes but
    `joint`.

    A fit that puts right answers to other questions before those to a question learns from such negatives, too, as long
    as that helps (see `relevance`).

    With a `goal` for accuracy, the report says, too, how the accuracy grew with the ratings, and when the goal will be
    reached; by ratings alone, without pairs and without end users' hints.

    Raises:
        NotEnoughDataError: fewer than `min_samples` rated examples, one class only, or too few questions.
        ValueError: an unknown recipe.
        MissingExtraError: recipe `transformer` without torch.
        EncoderError: recipe `transformer` with an encoder whose layers cannot be tuned.
    """
    cross = encoder.crossed
    recipes = [recipe_named(name, cross=cross) for name in (RECIPES if recipe == AUTO else (recipe,))]
    data = examples if isinstance(examples, TrainingSet) else assemble(examples)
    compared = pairs if isinstance(pairs, PairSet) else pair_set(pairs)
    judged = judged_rows(data, min_samples)
    _check_judged(data, judged, min_samples)
    if recipe == TransformerRecipe.name:
        checked(encoder)
    started = perf_counter()
    tuning = tuning or Tuning()
    labelled = _labelled(tuning, data) if recipe == TransformerRecipe.name else []
    others = chain(compared.prompts_but(data.asked["prompt"]), [labelled] if labelled else [])
    asked = len(np.unique(data.asked["prompt"]))
    bar = _Bar(progress, asked, len(data.candidates), 2 * len(compared), fits=len(recipes) + 2)
    bar.questions(0, asked)
    data = data.grouped(encoder, others=others, progress=bar.questions)
    grouping = perf_counter() - started
    _check_judged(data, judged, min_samples=0)
    held = np.isin(data.prompt, _held_prompts(data, judged, seed, frozen_share))
    _check_judged(data, judged & ~held, min_samples=0, least_a_class=_MIN_QUESTIONS_A_CLASS - 1)
    every = [*recipes, *_besides(incumbent, recipes, cross=cross)]
    rows = {each.name: rows_for(each, data, held=held, judged=judged, seed=seed) for each in every}
    found = read_features(data, rows, encoder, progress=bar.answers)
    of_pairs = read_pairs(compared, every, encoder, seed=seed, progress=bar.pairs)
    seconds = {"grouping": grouping} | dict(found.seconds) | ({"pairs": of_pairs.seconds} if len(compared) else {})
    # Now, and not after the next line: there its prompts still have all their rated answers.
    question = data.question_of(compared.numbers["prompt"])
    kept_out = np.isin(question, data.prompt[held]) | is_frozen(data.group_of(compared.numbers["prompt"]), frozen_share)
    pair_rows = PairMatrix(compared, of_pairs, question, kept_out)
    if not found.there.all():
        data, held, judged = data.only(found.there), held[found.there], judged[found.there]
        rows = {name: mask[found.there] for name, mask in rows.items()}
        _check_judged(data, judged, min_samples)
    material = Material(data, judged, held, found.features, rows, pair_rows, encoder.id)
    layers, adapted, judge_labels = None, list[int](), 0
    if TransformerRecipe.name in rows:
        started = perf_counter()
        options = _unheld(_unrated(tuning, data, frozen_share), data, held, frozen_share)
        material, layers = tuned(material, found, encoder, seed=seed, options=options, progress=progress)
        adapted = [prompt_hash(question) for question, _ in options.corpus]
        adapted += [prompt_hash(answer.prompt) for answer in options.judged]
        judge_labels = len(options.judged)
        pair_rows = material.compared
        seconds["tuning"] = perf_counter() - started
    fits = {}
    for each in recipes:
        started = perf_counter()
        fits[each.name] = fit_recipe(each, material, seed=seed)
        bar.fit()
        seconds[f"{each.name} fit"] = perf_counter() - started
    started = perf_counter()
    # The same questions for all: where one recipe had a sample only, the others are compared with it on that.
    common = np.logical_and.reduce([~held, judged, *(rows[name] for name in fits)])
    out_of_fold = {name: data.predictions(fit.probability[common], common) for name, fit in fits.items()}
    inside = {name: evaluate(predictions) for name, predictions in out_of_fold.items()}
    chosen = best_recipe(out_of_fold)
    fit, having = fits[chosen], rows[chosen] & judged
    taken = recipe_named(chosen, cross=cross)
    seconds["evaluation"] = perf_counter() - started
    started = perf_counter()
    material, fit, relevance = _relevant(material, taken, layers, fit, encoder, seed)
    if relevance and relevance.before is not None:
        inside[chosen] = evaluate(data.predictions(fit.probability[common], common))
    seconds["relevance"] = perf_counter() - started
    bar.fit()
    started = perf_counter()
    alone = fit_recipe(taken, material, seed=seed, pointwise=True) if chosen != JointRecipe.name else fit
    seconds["pointwise fit"] = perf_counter() - started
    bar.fit()
    started = perf_counter()
    name = encoder.full_id if is_crossed(taken) else encoder.id
    outside, hints = having & held, rows[chosen] & ~judged & ~held
    report = TrainingReport(
        recipe=chosen,
        requested=recipe,
        seed=seed,
        encoder=name,
        rated=int(judged.sum()),
        unrated=found.candidates - len(data.row),
        questions=len(np.unique(data.prompt_hash[judged])),
        groups=len(np.unique(data.prompt[judged])),
        positive=int(data.label[judged].sum()),
        trained_on=int((having & ~held).sum()),
        cross_validated=inside,
        held_out=evaluate(data.predictions(fit.probability[outside], outside)),
        overall=evaluate(data.predictions(fit.probability[having], having)),
        cut=found.cut if JointRecipe.name in fits else None,
        sampled=min((int((rows[name] & judged).sum()) for name in fits if not rows[name].all()), default=None),
        judged_by=ReviewerRole.END_USER if (judged & ~data.expert).any() else ReviewerRole.EXPERT,
        experts=int((judged & data.expert).sum()),
        end_users=int(hints.sum()),
        end_user_weight=float(rating_weights(data, judged, rows[chosen] & ~held)[hints].mean())
        if hints.any()
        else None,
        pairs=_pair_report(pair_rows, chosen, fit.margin),
        seconds=seconds,
        frozen_share=frozen_share,
        raters=data.raters,
        disregarded=data.disregarded,
        calibration=bins(fit.probability[having], data.label[having]),
        coverage=coverage(data.predictions(fit.probability[having], having)),
        prior=fit.prior,
        judge_labels=judge_labels,
        relevance=relevance,
        pointwise=evaluate(data.predictions(alone.probability[having], having)),
    )
    seconds["evaluation"] += perf_counter() - started
    report = replace(report, foreign=encoder.foreign(_some_texts(data)))
    started = perf_counter()
    report = replace(report, documents=_by_documents(material, taken, inside[chosen], common, seed))
    seconds["unseen documents"] = perf_counter() - started
    of_incumbent = None
    if incumbent is not None and (incumbent.recipe, incumbent.crossed) != (chosen, is_crossed(taken)):
        started = perf_counter()
        of_incumbent = _again(material, incumbent, seed, cross=cross)
        seconds["incumbent"] = perf_counter() - started
    # What was tuned on all ratings tells nothing of fewer.
    if goal is not None and chosen != TransformerRecipe.name:
        started = perf_counter()
        of = _rated(data, found.features[chosen], rows[chosen], judged & ~held, encoder.id)
        report = replace(report, growth=growth(of, recipe=taken, goal=goal, seed=seed))
        seconds["learning curve"] = perf_counter() - started
    own = layers if chosen == TransformerRecipe.name else None
    model = RewardModel.of(
        fit.classifier.scorer_,
        recipe=chosen,
        encoder=name,
        language=encoder.language.code,
        tuned=own,
        pointwise=None if alone is fit else alone.classifier.scorer_.spread(pointwise_columns(taken)),
    )
    fitted = np.union1d(data.prompt_hash[rows[chosen] & ~held], compared.numbers["prompt"][~kept_out])
    # By its type: an empty list would make the hashes floats, which have no room for them.
    fitted = np.union1d(fitted, np.array(adapted, dtype=np.int64)).astype(np.int64)
    return TrainingResult(model, report, data, judged, fit.probability, fitted, of_incumbent)


def _relevant(
    of: Material, recipe: Recipe, layers: TunedLayers | None, fit: FittedRecipe, encoder: TextEncoder, seed: int
) -> tuple[Material, FittedRecipe, RelevanceReport | None]:
    """Measure the relevance of what a fit puts first, and fit once more with negatives where that is bad and helps.

    Tuned layers know the answers that they were tuned on: they are judged on held-out questions, and stay as they are.
    So does `joint`, the yardstick: to learn a little of it costs that recipe most of what it knows.
    """
    tuned = recipe.name == TransformerRecipe.name
    if tuned:
        recipe = recipe_named(recipe.name, layers=layers, cross=is_crossed(recipe))
    rows = of.rows[recipe.name] & of.judged & (of.held if tuned else ~of.held)
    negatives = draw_negatives(of.data, rows, recipe, encoder, seed=seed)
    if negatives is None:
        return of, fit, None
    found = negatives.measured(fit.classifier.unseen_decision)
    if tuned or recipe.name == JointRecipe.name or not found.bad:
        return of, fit, found
    for share in SHARES:
        taught = replace(of, negatives=replace(negatives, share=share))
        again = fit_recipe(recipe, taught, seed=seed)
        then = negatives.measured(again.classifier.unseen_decision)
        if not then.bad:
            break
    if then.accuracy.value <= found.accuracy.high:
        return of, fit, found
    return taught, again, replace(then, before=found.accuracy.value)


def _unrated(tuning: Tuning, data: TrainingSet, frozen_share: float) -> Tuning:
    """Leave those questions out of what layers are adapted to by which a model is judged, now or later."""
    asked = np.array([prompt_hash(question) for question, _ in tuning.corpus], dtype=np.int64)
    left = ~np.isin(asked, data.prompt_hash) & ~is_frozen(data.group_of(asked), frozen_share)
    return replace(tuning, corpus=[pair for pair, keep in zip(tuning.corpus, left, strict=True) if keep])


def _labelled(tuning: Tuning, data: TrainingSet) -> list[str]:
    """Return the questions that judges have labelled and nobody has judged, one of each spelling."""
    questions = {prompt_hash(answer.prompt): answer.prompt for answer in tuning.judged}
    known = set(data.asked["prompt"].tolist())
    return [prompt for hash, prompt in questions.items() if hash not in known]


def _unheld(tuning: Tuning, data: TrainingSet, held: Mask, frozen_share: float) -> Tuning:
    """Leave out the labels of judges on questions that no model is fitted on."""
    group = data.group_of(np.array([prompt_hash(answer.prompt) for answer in tuning.judged], dtype=np.int64))
    kept = ~np.isin(group, data.group_of(data.prompt_hash[held])) & ~is_frozen(group, frozen_share)
    return replace(tuning, judged=[answer for answer, keep in zip(tuning.judged, kept, strict=True) if keep])


def judged_rows(data: TrainingSet, min_samples: int = MIN_SAMPLES) -> Mask:
    """Return which rated answers a training counts and is judged by: those of experts.

    All, end users' included, where experts have rated fewer than `min_samples` and all together have as many.
    """
    experts = int(data.expert.sum())
    return np.ones_like(data.expert) if experts < min_samples <= len(data.row) else data.expert


def check_enough(data: TrainingSet, *, min_samples: int = MIN_SAMPLES) -> None:
    """Check that there is enough to learn from.

    Raises:
        NotEnoughDataError: there is not; the message has the counts.
    """
    _check_judged(data, judged_rows(data, min_samples), min_samples)


def best_recipe(predictions: Mapping[str, Predictions]) -> str:
    """Return the recipe to go by: the first one, unless another is certainly better.

    Certainly: its AUC is higher in `CERTAIN_RECIPE` of the draws of a bootstrap over questions, and chance would hardly
    do as well. On few questions the best of several is mostly the luckiest.

    Args:
        predictions: what each recipe says of the same answers, by models that were not fitted on their questions.
    """
    names = iter(predictions)
    best = next(names)
    for name in names:
        found = auc_beside(predictions[name], predictions[best].probability)
        if found and found.certainty >= CERTAIN_RECIPE and by_chance(predictions[name]) <= CHANCE:
            best = name
    return best


def _some_texts(data: TrainingSet) -> list[str]:
    """Return the questions and the beginnings of the answers of the first chunk."""
    questions = next(iter(data.chunks())).questions[:_LOOKED_AT]
    return [text[:_BEGINNING] for each in questions for text in (each.prompt, *each.responses)]


def _rated(data: TrainingSet, features: NDArray[np.float32], rows: Mask, wanted: Mask, encoder: str) -> RatedFeatures:
    """Return the wanted answers of those whose features, one row each, are there."""
    both = rows & wanted
    weight = None if (data.weight[both] == 1).all() else data.weight[both]
    return RatedFeatures(features[wanted[rows]], data.label[both], data.prompt[both], encoder, weight)


def _check_judged(data: TrainingSet, judged: Mask, min_samples: int, least_a_class: int | None = None) -> None:
    least = _MIN_QUESTIONS_A_CLASS if least_a_class is None else least_a_class
    hints = len(data.row) - int(data.expert.sum())
    data = data.only(judged)
    rated, correct = len(data.row), int(data.label.sum())
    if rated < min_samples:
        of = Message("Only {n} rated interactions; training needs {least}.", n=rated, least=min_samples)
        if hints:
            of = Message(
                "Only {n} rated interactions by experts, and {hints} by end users; training needs {least}.",
                n=rated,
                hints=hints,
                least=min_samples,
            )
        more = Message("Collect more ratings and import them (rlhf-loop ratings import FILE), or lower --min-samples.")
        raise NotEnoughDataError(Message.joined(of, more))
    if correct in (0, rated):
        raise NotEnoughDataError(
            Message(
                "All {n} rated interactions are rated {grade}: {good} correct, {bad} incorrect. A reward model needs "
                "both. Rate good and bad answers alike.",
                n=rated,
                grade=">= 4" if correct else "< 4",
                good=correct,
                bad=rated - correct,
            )
        )
    for kind, label in ((Message("correct"), 1), (Message("incorrect"), 0)):
        count = len(np.unique(data.prompt[data.label == label]))
        if count < least:
            values = {"n": count, "all": len(np.unique(data.prompt)), "kind": kind, "least": least}
            few = Message("Only {n} of the {all} questions have {kind} answers; training needs {least}", **values)
            if least_a_class is not None:
                few = Message(
                    "Only {n} of the {all} questions that are not kept for comparisons have {kind} answers; training "
                    "needs {least}",
                    **values,
                )
            raise NotEnoughDataError(
                Message("{few}, to learn on some and be judged on others. Rate answers to more questions.", few=few)
            )


def _held_prompts(data: TrainingSet, judged: Mask, seed: int, frozen_share: float) -> Ints:
    """Return the prompts that are held out: the frozen ones, and others where these are too few to judge by."""
    frozen = is_frozen(data.group_of(data.prompt_hash), frozen_share)
    held: Ints = np.unique(data.prompt[frozen])
    free = judged & ~frozen
    prompt, label = data.prompt[free], data.label[free]
    questions = len(np.unique(data.prompt[judged]))
    missing = HOLDOUT_SHARE * questions - len(np.unique(data.prompt[judged & frozen]))
    if missing < 0.5 or len(np.unique(prompt)) < 2:
        return held
    drawn = prompt[holdout(prompt, label, share=missing / len(np.unique(prompt)), seed=seed)]
    return np.union1d(held, drawn)


def _by_documents(of: Material, recipe: Recipe, known: Evaluation, rows: Mask, seed: int) -> DocumentReport:
    """Judge once more, with questions that have an answer in common on the same side of each fold."""
    data, fitted = of.data, of.rows[recipe.name] & ~of.held
    # Only what is fitted on can have been seen.
    number = linked_by_documents(data, fitted)
    document = np.unique(data.candidates["document"][data.row], return_inverse=True)[1]
    groups_of = np.bincount(np.unique(np.stack([document, data.prompt])[:, fitted], axis=1)[0], minlength=len(document))
    report = DocumentReport(recurring=int((groups_of[document[rows]] > 1).sum()), linked=len(np.unique(number[rows])))
    if not report.recurring:
        return replace(report, unseen=known)
    if recipe.name == TransformerRecipe.name:
        return report  # other folds would need other layers, as these have seen the documents
    # Of pairs to questions without a rated answer nobody knows what they hang together with.
    of_prompt = np.full(int(data.prompt.max()) + 2, -1, dtype=np.intp)
    of_prompt[data.prompt] = number
    question = of_prompt[of.compared.question]
    pairs = replace(of.compared, question=question, held=of.compared.held | (question < 0))
    negatives = of.negatives and replace(of.negatives, question=of_prompt[of.negatives.question])
    try:
        material = replace(of, data=replace(data, prompt=number), compared=pairs, negatives=negatives)
        probability = fit_recipe(recipe, material, seed=seed).probability
    except ValueError:
        return report
    return replace(report, unseen=evaluate(data.predictions(probability[rows], rows)))


def _besides(incumbent: Incumbent | None, recipes: Sequence[Recipe], *, cross: bool) -> list[Recipe]:
    """Return the recipe of the incumbent if it is not among them. One that there is no more cannot be fitted again."""
    if incumbent is None or incumbent.recipe not in RECIPES or incumbent.recipe in {each.name for each in recipes}:
        return []
    return [recipe_named(incumbent.recipe, cross=cross)]


def _again(of: Material, incumbent: Incumbent, seed: int, *, cross: bool) -> Floats | None:
    """Return what models of the incumbent's recipe say that were fitted on its questions alone, not on the answer's.

    None where its other questions tell enough, or these do not allow a cross-validation.
    """
    if incumbent.recipe not in of.features:
        return None
    recipe = recipe_named(incumbent.recipe, cross=incumbent.crossed)
    of = only_columns(of, recipe, of_all=recipe_named(incumbent.recipe, cross=cross))
    data = of.data
    seen = data.seen(incumbent.fitted)
    unseen = data.question[of.judged & ~seen]
    if (np.bincount(unseen) > 1).sum() >= ENOUGH_UNSEEN:
        return None
    pairs = replace(of.compared, held=of.compared.held | ~np.isin(of.compared.question, data.prompt[seen]))
    try:
        fit = fit_recipe(recipe, replace(of, held=~seen, compared=pairs), seed=seed)
    except ValueError:
        return None
    return fit.probability


def _pair_report(of: PairMatrix, recipe: str, margin: Floats) -> PairReport:
    there, numbers = of.features.rows[recipe], of.pairs.numbers
    judged = np.isfinite(margin) & numbers["expert"]
    return PairReport(
        corrections=int((there & numbers["correction"]).sum()),
        preferences=int((there & ~numbers["correction"]).sum()),
        held_out=int((there & of.held).sum()),
        judged=int(judged.sum()),
        accuracy=pair_accuracy(of.question[judged], margin[judged]) if judged.sum() >= ENOUGH_PAIRS else None,
    )


@dataclass(slots=True)
class _Bar:
    """The progress of a training as one: its questions, each as long as a quarter of an answer, its answers, its pairs,
    and fits, each as long as a tenth of the answers.
    """

    progress: Progress | None
    of_questions: int
    of_answers: int
    of_pairs: int
    fits: int
    fitted: int = 0

    def questions(self, done: int, _: int) -> None:
        """Count questions that were read to be grouped."""
        self._tell(done // 4)

    def answers(self, done: int, _: int) -> None:
        """Count answers that were read."""
        self._tell(self.of_questions // 4 + done)

    def pairs(self, done: int, _: int) -> None:
        """Count pairs that were read, of two answers each."""
        self._tell(self.of_questions // 4 + self.of_answers + 2 * done)

    def fit(self) -> None:
        """Count a fit."""
        self.fitted += 1
        self._tell(self.of_questions // 4 + self.of_answers + self.of_pairs)

    def _tell(self, done: int) -> None:
        fit = max(1, self.of_answers // 10)
        total = self.of_questions // 4 + self.of_answers + self.of_pairs + fit * self.fits
        if self.progress:
            self.progress(done + fit * self.fitted, total)
