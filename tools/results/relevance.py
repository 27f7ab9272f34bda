"""Relevance: right answers beside those to other questions, with ratings that teach it and ratings that do not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby
from unittest import mock

import numpy as np

from rlhf_loop.domain import GOOD_RATING, Example
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.reward import RewardModel, recipe_named
from rlhf_loop.training import train as training
from rlhf_loop.training.comparison import predict
from rlhf_loop.training.data import assemble
from rlhf_loop.training.evaluation import evaluate
from rlhf_loop.training.relevance import draw_negatives
from tools.report import say, table, today
from tools.results.beginning import SETS
from tools.results.data import SELQA, read_examples

_SIZES, _DRAWS, _RECIPES = (50, 200), 3, ("passages", "quality", "joint")
#: Questions that judge, and words of an answer that is made a bad one.
_JUDGED, _WORDS = 200, 12


def measured(encoder: TextEncoder) -> str:
    """Return the section."""
    rows = []
    for name, path in SETS.items():
        rated = [list(group) for _, group in groupby(read_examples(path)[0], key=lambda each: each.group)]
        cut = [each for answers in rated if (each := _on_subject(answers))]
        for kind, questions in {"as rated": rated, "on their subject": cut}.items():
            # Each pair of texts is embedded for `joint`, which takes an hour where answers are long.
            for recipe in _RECIPES if path == SELQA else _RECIPES[:2]:
                say(f"relevance: {name}, {kind}, {recipe}")
                rows += [
                    [name, kind, f"`{recipe}`", str(size), *_row(questions, recipe, size, encoder)] for size in _SIZES
                ]
    header = ("data", "answers", "recipe", "ratings", "in order", "learned", "in order then", "AUC", "AUC then")
    return f"""## Relevance

`python -m tools.results relevance`, last run {today()}. Models of {_DRAWS} draws of questions, judged on up to
{_JUDGED} others: the share of pairs of a right answer and a right answer to another question that are "in order", and
the AUC of the rated answers alone. "As rated" has the answers of each set, some of which miss their question. "On their
subject" are the right answers of the same questions, and as bad ones the first {_WORDS} words of each: no rating says
that an answer has to be about the question. "Then" a fit that had certainly less than 90% in order by its own
cross-validation has learned from such pairs as well, which happened in so many of the draws.

{table(header, rows)}

`joint` sees one vector of question and answer together, a linear score of which cannot tell whether they fit."""


def _on_subject(answers: Sequence[Example]) -> list[Example]:
    right = [each for each in answers if (each.rating or 0) >= GOOD_RATING][:2]
    short = [replace(each, response=" ".join(each.response.split()[:_WORDS]) + ".", rating=2) for each in right]
    return [replace(each, rank=None) for each in right + short]


def _row(questions: Sequence[Sequence[Example]], recipe: str, size: int, encoder: TextEncoder) -> list[str]:
    values, learned = [], 0
    for seed in range(_DRAWS):
        order = np.random.default_rng(seed).permutation(len(questions)).tolist()
        count = int(np.searchsorted(np.cumsum([len(questions[at]) for at in order]), size)) + 1
        drawn, others = ([questions[at] for at in part] for part in (order[:count], order[count:][:_JUDGED]))
        with mock.patch.object(training, "draw_negatives", return_value=None):
            before = training.train(_flat(drawn), encoder=encoder, recipe=recipe, seed=seed).model
        trained = training.train(_flat(drawn), encoder=encoder, recipe=recipe, seed=seed)
        found = trained.report.relevance
        learned += found is not None and found.before is not None
        values.append([*_judged(before, others, encoder), *_judged(trained.model, others, encoder)])
    pairs, auc, pairs_then, auc_then = np.mean(values, axis=0)
    return [f"{pairs:.3f}", f"{learned} of {_DRAWS}", f"{pairs_then:.3f}", f"{auc:.3f}", f"{auc_then:.3f}"]


def _judged(model: RewardModel, questions: Iterable[Sequence[Example]], encoder: TextEncoder) -> tuple[float, float]:
    data = assemble(_flat(questions))
    every = np.ones(len(data.row), dtype=np.bool_)
    negatives = draw_negatives(data, every, recipe_named(model.recipe), encoder, seed=0)
    if negatives is None:
        raise RuntimeError("Too few questions with right answers. Judge on more.")
    pairs = negatives.measured(lambda features, _: model.scorer.decision(features)).accuracy
    return pairs.value, evaluate(data.predictions(predict(model, data, every, encoder)), draws=0).auc.value


def _flat(questions: Iterable[Sequence[Example]]) -> list[Example]:
    return [each for answers in questions for each in answers]
