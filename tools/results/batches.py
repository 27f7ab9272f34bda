"""Batches: the price of scores that do not depend on the other candidates, and of sorting by scores that do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np

from rlhf_loop.domain import Example, Question
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.reward import RewardModel
from rlhf_loop.training.data import assemble
from rlhf_loop.training.evaluation import Evaluation, evaluate
from rlhf_loop.training.train import train
from rlhf_loop.utils.arrays import Floats
from tools.report import say, table, today
from tools.results.beginning import SETS
from tools.results.data import read_examples

#: Candidates of a batch, and how often lists are dealt into batches.
_BATCH, _DEALS = 4, 5


def measured(encoder: TextEncoder) -> str:
    """Return the section."""
    rows = []
    for name, path in SETS.items():
        questions = [list(group) for _, group in groupby(read_examples(path)[0], key=lambda each: each.group)]
        order = np.random.default_rng(0).permutation(len(questions))
        halves = [[questions[at] for at in part.tolist()] for part in np.array_split(order, 2)]
        found: dict[str, list[list[float]]] = {"as ever": [], "pointwise": []}
        for fitted, judged in (halves, halves[::-1]):
            say(f"batches: {name}, {len(fitted)} questions")
            model = train(_flat(fitted), encoder=encoder, recipe="passages").model
            for kind, of in found.items():
                of.append(list(_judged(model, judged, encoder, pointwise=kind == "pointwise")))
        rows += [[name, kind, *(f"{value:.3f}" for value in np.mean(of, axis=0))] for kind, of in found.items()]
    header = ("data", "scores", "P@1, whole lists", f"P@1, batches of {_BATCH}", "AUC, whole lists", "AUC, batches")
    return f"""## Scores of batches

`python -m tools.results batches`, last run {today()}. Some clients send a long list in batches and sort all documents
by the scores that come back. "As ever" compares an answer with the others of its request, so scores of two requests do
not fit together; "pointwise" looks at no other answer (`"batch": true`). Recipe `passages`, fitted on one half of the
questions and judged on the other, and the other way round. Lists are dealt into batches by lot, {_DEALS} times;
FeedbackQA has three answers to each question, so its lists stay whole.

{table(header, rows)}"""


def _judged(
    model: RewardModel, questions: Sequence[Sequence[Example]], encoder: TextEncoder, *, pointwise: bool
) -> Iterator[float]:
    data, rng = assemble(_flat(questions)), np.random.default_rng(0)
    asked = [Question(each.prompt, each.responses) for chunk in data.chunks() for each in chunk.questions]

    def evaluated(lists: Sequence[Question], place: Sequence[int]) -> Evaluation:
        scores: Floats = np.empty(len(data.row))
        scores[list(place)] = np.concatenate(model.score(lists, encoder, pointwise=pointwise))
        return evaluate(data.predictions(scores), draws=0)

    whole = evaluated(asked, range(len(data.row)))
    parts = []
    for _ in range(_DEALS):
        lists, place, start = [], list[int](), 0
        for each in asked:
            dealt = rng.permutation(len(each.responses))
            for begin in range(0, len(dealt), _BATCH):
                batch = dealt[begin : begin + _BATCH].tolist()
                lists.append(Question(each.prompt, tuple(each.responses[at] for at in batch)))
                place += [start + at for at in batch]
            start += len(each.responses)
        parts.append(evaluated(lists, place))
    yield whole.orders["model"].precision_at_1.value
    yield float(np.mean([each.orders["model"].precision_at_1.value for each in parts]))
    yield whole.auc.value
    yield float(np.mean([each.auc.value for each in parts]))


def _flat(questions: Sequence[Sequence[Example]]) -> list[Example]:
    return [each for answers in questions for each in answers]
