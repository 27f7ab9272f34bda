"""The first ratings: what the prior is worth before them, and with few."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rlhf_loop.encoders import TextEncoder
from rlhf_loop.reward.classifier import Prior
from rlhf_loop.reward.prior import as_scorer
from rlhf_loop.reward.recipes import ANSWER_FEATURES, PassagesRecipe, QualityRecipe
from rlhf_loop.training.evaluation import evaluate
from rlhf_loop.utils.arrays import Floats, Mask
from tools import prior
from tools.report import say, table
from tools.results import experiments as run
from tools.results.data import FEEDBACKQA, RATINGS, SELQA, Ratings, featured, load

SETS = {"MEDIQA": RATINGS, "FeedbackQA": FEEDBACKQA, "SelQA": SELQA}
#: Recipes without a prior and with it, as the table names them.
_WAYS = {
    "`passages` without a prior": (PassagesRecipe.name, False),
    "`passages`": (PassagesRecipe.name, True),
    "`quality`": (QualityRecipe.name, True),
}
_COSINE = ANSWER_FEATURES.index("whole answer")
#: How often so many answers are drawn.
_DRAWS = {50: 40, 200: 20}
_RECIPE = prior.RECIPE
_SAMPLE = "the sample"


@dataclass(frozen=True, slots=True)
class _Set:
    """A data set with the prior that the others have taught: which answers may be fitted on, and which are judged."""

    ratings: Ratings
    pool: Mask
    judged: Mask


def priors(sets: Mapping[str, Ratings]) -> dict[str, Prior]:
    """Return for each set what the others teach."""
    found = {
        name: prior.Material(each.features[_RECIPE.name].astype(np.float64), each.data.label)
        for name, each in sets.items()
    }
    return {name: prior.learn([found[other] for other in found if other != name]) for name in sets}


def sets_and_sample(encoder: TextEncoder, *, recipes: Sequence[str]) -> dict[str, Ratings]:
    """Read the sets, and the project's own sample."""
    ratings = {name: load(encoder, path, recipes=recipes) for name, path in SETS.items()}
    own = prior.assemble(prior.sample_examples()).grouped(encoder)
    return {**ratings, _SAMPLE: featured(own, encoder, np.zeros(len(own.row), dtype=np.bool_), recipes=recipes)}


def measured(encoder: TextEncoder) -> str:
    """Measure, and return the section."""
    say("the first ratings")
    ratings = sets_and_sample(encoder, recipes=[PassagesRecipe.name, QualityRecipe.name])
    taught = priors(ratings)
    lines = []
    for name, of in ratings.items():
        # The validation split of MEDIQA has 25 questions, too few to judge by.
        everything = np.ones(len(of.data.row), dtype=np.bool_)
        split = name not in ("MEDIQA", _SAMPLE)
        pool, judged = (~of.validation, of.validation) if split else (everything, everything)
        lines += [[name, *line] for line in _lines(_Set(replace(of, prior=taught[name]), pool, judged))]
        say(f"the first ratings of {name}")
    header = ("data", "rated answers", "ranked by", "P@1", "AUC", "calibration error", "Brier")
    return f"""## The first ratings

Recipe `passages` without a prior, as version 1 was, and with one, as version 2 is; and `quality`, which looks at how an
answer is written as well, and which `auto` takes only where that helps. A prior is learnt from the other sets and the
project's sample (`tools/prior.py`), so that each set is judged by a prior that has seen none of it; the one that is
shipped is learnt from FeedbackQA, SelQA and the sample. Whole questions are drawn, {_DRAWS[50]} times for 50 answers
and {_DRAWS[200]} times for 200: of FeedbackQA and SelQA from the training split, judged on the test split, of MEDIQA
and the sample from all, judged on all other questions. All ratings: of these two five folds, of the others the training
split. Mean ± standard deviation. By `make results`, or by `python -m tools.results beginning` alone.

{table(header, lines)}"""


def _lines(of: _Set) -> Iterator[list[str]]:
    features = of.ratings.features[_RECIPE.name]
    yield ["0", "cosine", *_shown([_judge(of, features[of.judged, _COSINE].astype(np.float64), of.judged)], 1)]
    if of.ratings.prior:
        probability = as_scorer(of.ratings.prior).probability(features[of.judged])
        yield ["0", "the prior alone", *_shown([_judge(of, probability, of.judged)], 2)]
    for size, draws in _DRAWS.items():
        if size > of.pool.sum() / 2:
            continue
        found: dict[str, list[run.Scores]] = {}
        for rows in _drawn(of, size, draws):
            out = of.judged & ~np.isin(of.ratings.data.prompt, of.ratings.data.prompt[rows])
            for name, (recipe, taught) in _WAYS.items():
                probability = _probability(of, recipe, taught, rows, out)
                found.setdefault(name, []).append(_judge(of, probability, out))
        for name, scores in found.items():
            yield [str(size), name, *_shown(scores)]
    for name, (recipe, taught) in _WAYS.items():
        if (of.pool & of.judged).any():
            ratings = of.ratings if taught else replace(of.ratings, prior=None)
            whole = [run.Scores.of(found) for found in run.cross_validated(ratings, recipe)]
        else:
            whole = [_judge(of, _probability(of, recipe, taught, of.pool, of.judged), of.judged)]
        yield ["all", name, *_shown(whole)]


def _drawn(of: _Set, size: int, draws: int) -> Iterator[Mask]:
    """Yield draws of whole questions that have so many answers, cut to them, from which something can be learnt."""
    data, rng = of.ratings.data, np.random.default_rng(size)
    while draws:
        order = rng.permutation(np.unique(data.prompt[of.pool]))
        place = np.full(int(data.prompt.max()) + 1, len(order))
        place[order] = np.arange(len(order))
        rows = np.zeros(len(data.prompt), dtype=np.bool_)
        rows[np.argsort(np.where(of.pool, place[data.prompt], len(order)), kind="stable")[:size]] = True
        if min(len(np.unique(data.prompt[rows & (data.label == label)])) for label in (0, 1)) > 2:
            draws -= 1
            yield rows


def _probability(of: _Set, recipe: str, taught: bool, fitted: Mask, judged: Mask) -> Floats:
    ratings = of.ratings if taught else replace(of.ratings, prior=None)
    return run.fitted(ratings, recipe, fitted).scorer_.probability(ratings.features[recipe][judged])


def _judge(of: _Set, probability: Floats, rows: Mask) -> run.Scores:
    return run.Scores.of(evaluate(of.ratings.data.predictions(probability, rows), draws=0))


def _shown(scores: list[run.Scores], columns: int = 4) -> list[str]:
    mean, deviation = run.summary(scores)
    names = ("precision_at_1", "auc", "calibration_error", "brier")
    return [
        f"{getattr(mean, name):.3f}" + (f" ± {getattr(deviation, name):.3f}" if len(scores) > 1 else "")
        if column < columns
        else ""
        for column, name in enumerate(names)
    ]
