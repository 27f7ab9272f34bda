"""Recipe `transformer` beside `passages`: with and without an adaptation, with few ratings, on other data; needs torch.

`python -m tools.results step2` measures what is not in `.cache/step2` yet, writes the section, and goes on where it was
stopped.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np

from rlhf_loop.encoders import TextEncoder
from rlhf_loop.encoders.runtime import processor_name
from rlhf_loop.reward import recipe_named
from rlhf_loop.training.evaluation import evaluate
from rlhf_loop.training.fit import Features, Material, PairMatrix, fit_recipe, read_features, read_pairs, tuned
from rlhf_loop.training.pairs import pair_set
from rlhf_loop.training.transformer import Tuning
from rlhf_loop.utils.arrays import Mask
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
_ALL, _VALIDATION = "all", "validation"


@dataclass(frozen=True, slots=True)
class _Case:
    """Ratings to fit on, so many in whole questions for each of the draws, or a name for which, and what is judged."""

    name: str
    file: Path
    ratings: int | str
    adapted: bool
    draws: int = 1


_CASES = (
    _Case("MEDIQA", RATINGS, _ALL, True),
    _Case("MEDIQA", RATINGS, 50, True, draws=2),
    _Case("MEDIQA", RATINGS, 200, True, draws=2),
    _Case("SelQA", SELQA, 500, False),
    _Case("FeedbackQA", FEEDBACKQA, 500, False),
    _Case("MEDIQA", RATINGS, _VALIDATION, True),
    _Case("MEDIQA", RATINGS, _ALL, False),
)


def measured(encoder: TextEncoder) -> str:
    """Measure what is not known yet, and return the section."""
    lines = [line for case in _CASES for line in _lines(case, encoder)]
    header = ("data", "fitted on", "judged by", "recipe", "AUC", "accuracy", "P@1", "NDCG", "MRR", "CPU seconds")
    return f"""## Tuned layers

Recipe `transformer` beside `passages`, whose columns it has: the last three layers of the encoder are tuned on the
ratings ([step 2](RLHF_STEP2_README.md)). All ratings: five folds by question, mean over {len(run.SEEDS)} shufflings;
the tuned scores are those of layers that did not see the question, in three folds of their own. Fewer ratings: whole
questions are drawn, and about {_JUDGED:,} answers to others judged; mean over the draws, two for 50 and for 200 ratings
and one for more. *validation*: fitted on the training split alone, judged once by the validation split. *adapted*:
first on the questions and answers of MedQuAD, without any rating; none of its questions is a rated one. Seconds are
those of tuning on one thread in 32 bits ({processor_name()}), with a last fit to serve but for all ratings; {today()},
vectors of {encoder.id}. By `make results`, or by `python -m tools.results step2` alone.

{table(header, lines)}"""


def _lines(case: _Case, encoder: TextEncoder) -> Iterator[list[str]]:
    way = "adapted" if case.adapted else "plain"
    drawn = [
        _known(f"{case.name}-{case.ratings}-{draw}-{way}", partial(_measured, case, draw, encoder))
        for draw in range(case.draws)
    ]
    for recipe in _RECIPES:
        label = f"`{recipe}`" + (", adapted" if case.adapted and recipe == "transformer" else "")
        scores = np.mean([value for each in drawn for value in each[recipe]], axis=0)
        shown = [f"{value:.3f}" for value in scores]
        fitted, judged = (f"{np.mean([each[key] for each in drawn]):,.0f}" for key in ("fitted", "judged"))
        seconds = f"{np.mean([each['seconds'] for each in drawn]):.0f}" if recipe == "transformer" else ""
        if case.ratings == _VALIDATION:
            judged += " (validation)"
        yield [case.name, fitted, "the same, out of fold" if case.ratings == _ALL else judged, label, *shown, seconds]


def _measured(case: _Case, draw: int, encoder: TextEncoder) -> dict[str, Any]:
    """Tune, fit and judge: what is held out, or all out of fold."""
    ratings = load(encoder, case.file, recipes=())
    data, fitted, judged = ratings.data, *_split(case, ratings, draw)
    held = judged & ~fitted
    rows = dict.fromkeys(_RECIPES, fitted | judged)
    found: Features = read_features(data, rows, encoder)
    pairs = read_pairs(pair_set([]), [recipe_named(name) for name in _RECIPES], encoder)
    compared = PairMatrix(pair_set([]), pairs, np.empty(0, dtype=np.intp), np.empty(0, dtype=np.bool_))
    material = Material(data, np.ones_like(held), held, found.features, rows, compared, encoder.id)
    corpus = _corpus() if case.adapted else ()
    options = Tuning(threads=_THREADS, folder=_CACHE / "state", corpus=corpus, serves=bool(held.any()))
    started = process_time()
    material, _ = tuned(material, found, encoder, seed=0, options=options, progress=_say)
    scores: dict[str, Any] = {"seconds": process_time() - started, "fitted": int(fitted.sum())}
    for name in _RECIPES:
        # The prior that is shipped has learnt from the other sets.
        of = material if case.name == "MEDIQA" else replace(material, encoder="")
        scores[name] = []
        for seed in (0,) if held.any() else run.SEEDS:
            probability = fit_recipe(recipe_named(name), of, seed=seed).probability
            evaluation = evaluate(data.predictions(probability[judged], judged), draws=0)
            scores[name].append([getattr(run.Scores.of(evaluation), column) for column in _COLUMNS])
    return {**scores, "judged": int(judged.sum())}


def _split(case: _Case, ratings: Ratings, draw: int) -> tuple[Mask, Mask]:
    """Return what is fitted on, and what is judged."""
    data = ratings.data
    if case.ratings == _ALL:
        return np.ones(len(data.row), dtype=np.bool_), np.ones(len(data.row), dtype=np.bool_)
    if isinstance(case.ratings, str):
        return ~ratings.validation, ratings.validation
    order = np.random.default_rng([case.ratings, draw]).permutation(np.unique(data.prompt))
    counts = np.cumsum([int((data.prompt == one).sum()) for one in order])
    fitted = int(np.searchsorted(counts, case.ratings)) + 1
    judged = int(np.searchsorted(counts, counts[fitted - 1] + _JUDGED)) + 1
    return np.isin(data.prompt, order[:fitted]), np.isin(data.prompt, order[fitted:judged])


def _corpus() -> list[tuple[str, str]]:
    with gzip.open(MEDQUAD, "rt", encoding="utf-8") as lines:
        return [(row["question"], row["answer"]) for row in map(json.loads, lines) if row["answer"]]


def _known(name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    file = _CACHE / f"{name}.json"
    if not file.exists():
        say(f"step 2: {name}")
        _CACHE.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(measure()), encoding="utf-8")
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def _say(done: int, total: int) -> None:
    if done % 50 == 0:
        say(f"step {done} of {total}")
