"""Recipe `transformer` beside `passages`: with and without an adaptation, with few ratings, on other data, with labels
of judges; needs torch.

`python -m tools.results step2` and `judges` measure what is not in `.cache/step2` yet, write the section, and go on
where they were stopped.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import numpy as np

from rlhf_loop.domain import GOOD_RATING
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.reward import Recipe, recipe_named
from rlhf_loop.reward.recipes import PassagesRecipe, TransformerRecipe
from rlhf_loop.training import fit, transformer
from rlhf_loop.training.data import JudgedAnswer, TrainingSet
from rlhf_loop.training.evaluation import Predictions, evaluate
from rlhf_loop.training.fit import Features, Material, PairMatrix, fit_recipe, read_features, read_pairs, tuned
from rlhf_loop.training.pairs import pair_set
from rlhf_loop.training.transformer import Tuning
from rlhf_loop.utils.arrays import Floats, Mask
from tools.report import say, table, today
from tools.results import experiments as run
from tools.results.data import FEEDBACKQA, RATINGS, SELQA, Ratings, load

MEDQUAD = RATINGS.with_name("medquad.jsonl.gz")
_RECIPES = ("passages", "transformer")
_CACHE = Path(".cache") / "step2"
_THREADS = 1
_COLUMNS = ("auc", "accuracy", "precision_at_1", "ndcg", "mrr")
#: Answers that few ratings are judged by, in whole questions.
_JUDGED = 1_000
_ALL = "all"
#: All but the split that its makers keep for judging, and the questions that ask for the same as one of it.
_TRAINING_SPLIT = "training split"
_WEIGHTS = {f"{weight:g}": weight for weight in (1.0, 2.0, 3.0, 4.0)}
#: Labels of a judge, how far they miss the experts' ratings (standard deviation in stars), and what one may count.
_LABELS, _NOISE, _LABEL_WEIGHTS = 200, 0.7, (0.25, 0.5, 1.0)


@dataclass(frozen=True, slots=True)
class _Case:
    """Ratings to fit on: all, those of the training split, or in each of the draws so many, in whole questions; what
    the label of a judge counts beside them, of answers to other questions; and in how many folds layers are tuned.
    """

    name: str
    file: Path
    ratings: int | str
    adapted: bool
    draws: int = 1
    label_weight: float = 0.0
    folds: int = transformer.FOLDS


_CASES = (
    _Case("MEDIQA", RATINGS, _ALL, True),
    _Case("MEDIQA", RATINGS, _ALL, True, folds=5),
    _Case("MEDIQA", RATINGS, _TRAINING_SPLIT, True),
    *(_Case("MEDIQA", RATINGS, ratings, True, draws=2) for ratings in (50, 200)),
    _Case("SelQA", SELQA, 500, False),
    _Case("FeedbackQA", FEEDBACKQA, 500, False),
)


def measured(encoder: TextEncoder) -> str:
    """Measure what is not known yet, and return the section."""
    lines, weights = [], []
    for case in _CASES:
        drawn = [_measured(case, draw, encoder) for draw in range(case.draws)]
        lines += list(_lines(case, drawn))
        shown = ["{:.4f}, {:.3f}, {:.3f}".format(*_mean(drawn, name)) for name in _WEIGHTS]
        weights.append([*lines[-1][:2], *shown])
    weight = TransformerRecipe(PassagesRecipe()).scales().max()
    header = ("data", "fitted on", "judged by", "recipe", "AUC", "accuracy", "P@1", "NDCG", "MRR", "alone first")
    return f"""## Tuned layers

Recipe `transformer` beside `passages`, whose columns it has: the last three layers of the encoder are tuned on the
ratings ([step 2](RLHF_STEP2_README.md)). All ratings: five folds by question, mean over {len(run.SEEDS)} shufflings;
the tuned scores are those of layers that did not see the question, in {transformer.FOLDS} folds of their own, or as
many as are named. Fewer ratings: whole questions are drawn until there are enough, and about {_JUDGED:,} answers to
others judged; mean over the draws. The other split is the one that its makers keep for judging, with other experts.
*adapted*: first on the questions and answers of MedQuAD, without any rating; none of its questions is a rated one.
*alone first*: questions for which this recipe puts a correct answer first and the other one does not, by the mean of
the shufflings, in all draws together.
{today()}, vectors of {encoder.id}. By `python -m tools.results step2`, with torch; `make results` leaves it as it is.

{table(header, lines)}

AUC, accuracy and P@1 with other weights of the tuned score, by which its columns are multiplied before the fit; the
recipe takes {weight:g}.

{table(("data", "fitted on", *_WEIGHTS), weights)}"""


def judges(encoder: TextEncoder) -> str:
    """Measure labels of a judge beside few ratings, and return the section."""
    lines = []
    for weight in (0.0, *_LABEL_WEIGHTS):
        case = _Case("MEDIQA", RATINGS, 50, True, draws=2, label_weight=weight)
        *_, line = _lines(case, [_measured(case, draw, encoder) for draw in range(case.draws)])
        lines.append([line[1], str(_LABELS if weight else 0), f"{weight:g}", *line[4:-1]])
    header = ("ratings", "labels", "weight", "AUC", "accuracy", "P@1", "NDCG", "MRR")
    return f"""## Labels of judges

Recipe `transformer`, adapted, on few ratings of MEDIQA as in [Tuned layers](#tuned-layers), whose layers learn besides
from a judge's labels of answers to other questions. The judge is made up: the experts' ratings and a normal error of
{_NOISE:g} stars. A weight of 1 is that of an expert's rating; a training takes {fit.JUDGE_WEIGHT:g}.
{today()}, vectors of {encoder.id}. By `python -m tools.results judges`, with torch; `make results` leaves it as it is.

{table(header, lines)}"""


def _lines(case: _Case, drawn: Sequence[_Measured]) -> Iterator[list[str]]:
    for recipe in _RECIPES[1:] if _more_folds(case) else _RECIPES:
        label = f"`{recipe}`" + (", adapted" if case.adapted and recipe == "transformer" else "")
        scores = _mean(drawn, recipe)
        fitted, judged = (np.mean([getattr(each, name) for each in drawn]) for name in ("fitted", "judged"))
        told = "the same, out of fold" if case.ratings == _ALL else f"{judged:,.0f}"
        told += " of the other split" if case.ratings == _TRAINING_SPLIT else ""
        draws = f" ({case.draws} draws)" if case.draws > 1 else ""
        draws += f" ({case.folds} folds)" if _more_folds(case) else ""
        alone = sum(int((each.first[recipe] & ~each.first[other]).sum()) for each in drawn for other in _RECIPES)
        yield [case.name, f"{fitted:,.0f}{draws}", told, label, *(f"{value:.3f}" for value in scores), str(alone)]


def _more_folds(case: _Case) -> bool:
    return case.folds != transformer.FOLDS


def _mean(drawn: Sequence[_Measured], name: str) -> Floats:
    mean: Floats = np.mean([value for each in drawn for value in each.scores[name]], axis=0)
    return mean


class _Weighted(TransformerRecipe):
    """The recipe with another weight of the tuned score."""

    def __init__(self, passages: PassagesRecipe, weight: float) -> None:
        super().__init__(passages)
        self._weight = weight

    def scales(self) -> Floats:
        """Return what the columns are multiplied by."""
        scales = super().scales()
        return np.where(scales == scales.max(), self._weight, scales)


@dataclass(frozen=True, slots=True)
class _Measured:
    """Answers fitted on and judged, the scores of each recipe for each shuffling, and the questions for which it puts a
    correct answer first.
    """

    fitted: int
    judged: int
    scores: dict[str, list[list[float]]]
    first: dict[str, Mask]


def _measured(case: _Case, draw: int, encoder: TextEncoder) -> _Measured:
    """Tune, fit and judge: what is held out, or all out of fold. What was tuned before is known."""
    ratings = load(encoder, case.file, recipes=())
    data, (fitted, judged) = ratings.data, _split(case, ratings, draw)
    held = judged & ~fitted
    rows = dict.fromkeys(_RECIPES, fitted | judged)
    found: Features = read_features(data, rows, encoder)
    pairs = read_pairs(pair_set([]), [recipe_named(name) for name in _RECIPES], encoder)
    compared = PairMatrix(pair_set([]), pairs, np.empty(0, dtype=np.intp), np.empty(0, dtype=np.bool_))
    material = Material(data, np.ones_like(held), held, found.features, rows, compared, encoder.id)
    kind = ("adapted" if case.adapted else "plain") + (f"-{case.label_weight:g}" if case.label_weight else "")
    kind += f"-{case.folds}-folds" if _more_folds(case) else ""
    file = _CACHE / f"{case.name}-{case.ratings}-{draw}-{kind}.npy"
    if not file.exists():
        say(f"step 2: {file.stem}")
        corpus = _corpus() if case.adapted else ()
        labels = _labels(data, ~fitted & ~judged, draw) if case.label_weight else ()
        options = Tuning(
            threads=_THREADS, folder=_CACHE / "state", corpus=corpus, serves=bool(held.any()), judged=labels
        )
        with (
            mock.patch.object(fit, "JUDGE_WEIGHT", case.label_weight),
            mock.patch.object(transformer, "FOLDS", case.folds),
        ):
            material, _ = tuned(material, found, encoder, seed=0, options=options, progress=_say)
        np.save(file, material.features["transformer"])
    of = replace(material, features={**material.features, "transformer": np.load(file)})
    if case.name != "MEDIQA":
        of = replace(of, encoder="")  # the prior that is shipped has learnt from the other sets
    scores, first = dict[str, list[list[float]]](), dict[str, Mask]()
    recipes: dict[str, Recipe] = {name: recipe_named(name) for name in _RECIPES}
    recipes |= {name: _Weighted(PassagesRecipe(), weight) for name, weight in _WEIGHTS.items()}
    for name, recipe in recipes.items():
        each = [fit_recipe(recipe, of, seed=seed).probability for seed in ((0,) if held.any() else run.SEEDS)]
        for probability in each:
            evaluation = evaluate(data.predictions(probability[judged], judged), draws=0)
            scores.setdefault(name, []).append([getattr(run.Scores.of(evaluation), column) for column in _COLUMNS])
        first[name] = _first_is_good(data.predictions(np.mean(each, axis=0)[judged], judged))
    return _Measured(int(fitted.sum()), int(judged.sum()), scores, first)


def _first_is_good(of: Predictions) -> Mask:
    """Return for each question whether its answer with the highest probability is a correct one."""
    order = np.lexsort((-of.probability, of.question))
    _, first = np.unique(of.question[order], return_index=True)
    good: Mask = of.rating[order[first]] >= GOOD_RATING
    return good


def _split(case: _Case, ratings: Ratings, draw: int) -> tuple[Mask, Mask]:
    """Return what is fitted on, and what is judged."""
    data = ratings.data
    if case.ratings == _TRAINING_SPLIT:
        return ~np.isin(data.prompt, data.prompt[ratings.validation]), ratings.validation
    if isinstance(case.ratings, str):
        return np.ones(len(data.row), dtype=np.bool_), np.ones(len(data.row), dtype=np.bool_)
    order = np.random.default_rng([case.ratings, draw]).permutation(np.unique(data.prompt))
    counts = np.cumsum([int((data.prompt == one).sum()) for one in order])
    fitted = int(np.searchsorted(counts, case.ratings)) + 1
    judged = int(np.searchsorted(counts, counts[fitted - 1] + _JUDGED)) + 1
    return np.isin(data.prompt, order[:fitted]), np.isin(data.prompt, order[fitted:judged])


def _labels(data: TrainingSet, left: Mask, draw: int) -> list[JudgedAnswer]:
    """Return what a judge says of some of the answers that are left, in whole questions."""
    rng = np.random.default_rng([_LABELS, draw])
    answers = [(each.prompt, text) for chunk in data.chunks() for each in chunk.questions for text in each.responses]
    order = rng.permutation(np.unique(data.prompt[left]))
    rows = np.concatenate([np.flatnonzero(data.prompt == one) for one in order])[:_LABELS]
    labels = np.clip(data.rating[rows] + rng.normal(0, _NOISE, len(rows)), 1, 5)
    return [JudgedAnswer(*answers[row], label) for row, label in zip(rows, labels.tolist(), strict=True)]


def _corpus() -> list[tuple[str, str]]:
    with gzip.open(MEDQUAD, "rt", encoding="utf-8") as lines:
        return [(row["question"], row["answer"]) for row in map(json.loads, lines) if row["answer"]]


def _say(done: int, total: int) -> None:
    if done % 50 == 0:
        say(f"step {done} of {total}")
