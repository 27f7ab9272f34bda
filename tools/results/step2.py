"""Recipe `transformer` beside `passages`: with and without an adaptation, with few ratings, on other data; needs torch.

`python -m tools.results step2` measures what is not in `.cache/step2` yet, writes the section, and goes on where it was
stopped.
"""

from __future__ import annotations

import gzip
import json
import resource
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np

from rlhf_loop.encoders import TextEncoder
from rlhf_loop.reward import recipe_named
from rlhf_loop.training.data import TrainingSet
from rlhf_loop.training.evaluation import evaluate
from rlhf_loop.training.fit import Features, Material, PairMatrix, fit_recipe, read_features, read_pairs, tuned
from rlhf_loop.training.pairs import pair_set
from rlhf_loop.training.transformer import Tuning
from rlhf_loop.utils.arrays import Mask
from tools.report import say, table, today
from tools.results import experiments as run
from tools.results.data import FEEDBACKQA, RATINGS, SELQA, load

MEDQUAD = RATINGS.with_name("medquad.jsonl.gz")
_RECIPES = ("passages", "transformer")
_CACHE = Path(".cache") / "step2"
_THREADS = 1
_COLUMNS = ("auc", "accuracy", "precision_at_1", "ndcg", "mrr")
#: How often so many ratings are drawn.
_DRAWS = {50: 3, 200: 3}


def measured(encoder: TextEncoder) -> str:
    """Measure what is not known yet, and return the section."""
    lines = []
    for name, path in (("MEDIQA", RATINGS), ("FeedbackQA", FEEDBACKQA), ("SelQA", SELQA)):
        data = load(encoder, path, recipes=()).data
        everything = np.zeros(len(data.row), dtype=np.bool_)
        if name == "MEDIQA":
            rows = list(_cross_validated(name, data, encoder, everything, (False, True)))
            for count, draws in _DRAWS.items():
                rows += _few(data, encoder, count, draws)
        else:
            rows = list(_cross_validated(name, data, encoder, everything, (False,)))
        lines += [[name, *row] for row in rows]
    header = ("data", "rated answers", "recipe", "AUC", "accuracy", "P@1", "NDCG", "MRR", "CPU seconds", "peak MB")
    return f"""## Tuned layers

Recipe `transformer` beside `passages`, whose columns it has: the last three layers of the encoder are tuned on the
ratings ([step 2](RLHF_STEP2_README.md)). All ratings: five folds by question, mean over {len(run.SEEDS)} shufflings;
the tuned scores are those of layers that did not see the question, in three folds of their own. Few ratings: whole
questions are drawn, and all others judged; mean over the draws. *adapted*: first on the questions and answers of
MedQuAD, without any rating. Seconds are those of one thread, for a whole training with its last fit; {today()}, vectors
of {encoder.id}. By `make results`, or by `python -m tools.results step2` alone.

{table(header, lines)}"""


def _cross_validated(
    name: str, data: TrainingSet, encoder: TextEncoder, held: Mask, adapted: Sequence[bool]
) -> Iterator[list[str]]:
    for adapt in adapted:
        measure = partial(_all, data, encoder, held, adapt=adapt, prior=name == "MEDIQA")
        found = _known(f"{name}-{'adapted' if adapt else 'plain'}", measure)
        if not adapt:
            yield [f"{len(data.row):,}", "`passages`", *_shown(found["passages"]), "", ""]
        yield [f"{len(data.row):,}", _label(adapt), *_shown(found["transformer"]), *_cost(found)]


def _few(data: TrainingSet, encoder: TextEncoder, count: int, draws: int) -> Iterator[list[str]]:
    for adapt in (False, True):
        drawn = [
            _known(
                f"few-{count}-{draw}-{'adapted' if adapt else 'plain'}",
                partial(_all, data, encoder, _others(data, count, draw), adapt=adapt, judged_held=True),
            )
            for draw in range(draws)
        ]
        mean = {key: [value for each in drawn for value in each[key]] for key in _RECIPES}
        if not adapt:
            yield [str(count), "`passages`", *_shown(mean["passages"]), "", ""]
        yield [str(count), _label(adapt), *_shown(mean["transformer"]), *_cost(drawn[0])]


def _label(adapted: bool) -> str:
    return "`transformer`, adapted" if adapted else "`transformer`"


def _all(
    data: TrainingSet, encoder: TextEncoder, held: Mask, *, adapt: bool, judged_held: bool = False, prior: bool = True
) -> dict[str, Any]:
    """Tune, fit and judge: what is held out, or all out of fold."""
    rows = {name: np.ones(len(data.row), dtype=np.bool_) for name in _RECIPES}
    found: Features = read_features(data, rows, encoder)
    pairs = read_pairs(pair_set([]), [recipe_named(name) for name in _RECIPES], encoder)
    compared = PairMatrix(pair_set([]), pairs, np.empty(0, dtype=np.intp), np.empty(0, dtype=np.bool_))
    material = Material(data, np.ones_like(held), held, found.features, rows, compared, encoder.id)
    options = Tuning(threads=_THREADS, folder=_CACHE / "state", corpus=_corpus() if adapt else ())
    started = process_time()
    material, layers = tuned(material, found, encoder, seed=0, options=options, progress=_say)
    seconds = process_time() - started
    scores = {}
    for name in _RECIPES:
        # The prior that is shipped has learnt from the other sets.
        of = material if prior else replace(material, encoder="")
        scores[name] = []
        for seed in (0,) if judged_held else run.SEEDS:
            probability = fit_recipe(recipe_named(name), of, seed=seed).probability
            judged = held if judged_held else np.ones_like(held)
            evaluation = evaluate(data.predictions(probability[judged], judged), draws=0)
            scores[name].append([getattr(run.Scores.of(evaluation), column) for column in _COLUMNS])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    (_CACHE / "layers.safetensors").write_bytes(layers.to_bytes())
    return {**scores, "seconds": seconds, "peak": peak}


def _others(data: TrainingSet, count: int, draw: int) -> Mask:
    """Return what is not drawn, where whole questions are drawn until they have so many answers."""
    order = np.random.default_rng([count, draw]).permutation(np.unique(data.prompt))
    chosen = np.searchsorted(np.cumsum([int((data.prompt == one).sum()) for one in order]), count) + 1
    others: Mask = ~np.isin(data.prompt, order[:chosen])
    return others


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


def _shown(scores: Sequence[Sequence[float]]) -> list[str]:
    return [f"{value:.3f}" for value in np.mean(scores, axis=0)]


def _cost(found: dict[str, Any]) -> list[str]:
    return [f"{found['seconds']:.0f}", f"{found['peak']:,.0f}"]
