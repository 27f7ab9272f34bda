"""Relevance: whether right answers to a question come before right answers to other questions.

Where all rated answers are about their questions, ratings teach what makes such an answer a good one, and nothing says
that it has to be about the question at all. What is offered in use often is not. So right answers to other questions
are put beside those to a question, as negatives that nobody has to rate (as in contrastive training of encoders, e.g.
Karpukhin et al. 2020): to measure a model by, and to learn from where that measure is bad.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rlhf_loop.domain import Interval, Question
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.reward import Recipe
from rlhf_loop.training.data import TrainingSet
from rlhf_loop.training.evaluation import pair_accuracy
from rlhf_loop.utils.arrays import Floats, Ints, Mask

#: Share of the pairs that a model has to put in the right order, as far as the interval lets it. With three sets as
#: they are rated it is 0.98 or more, with right answers and their beginnings alone down to 0.64 (docs/RESULTS.md).
ENOUGH = 0.9
#: How much negatives, and right answers beside them, may count together against all rated answers: the first of these
#: that is enough. Chosen on draws of SelQA and on made-up ratings in German: a tenth left one in ten pairs in the wrong
#: order, and as much as all costs twice the AUC that half of it does (docs/RESULTS.md has what it brings and costs).
SHARES = (0.5, 1.0)
#: Questions that are looked at, the negatives of all of them together, and of each.
_QUESTIONS, _NEGATIVES, _EACH = 200, 300, 3
#: Questions with right answers below which nothing is said.
LEAST_QUESTIONS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class RelevanceReport:
    """The share of pairs, a right answer to one of `questions` and one to another question, in the right order.

    By models that were not fitted on the question. `before` is what it was until a fit `learned` from such pairs, None
    where it did not have to.
    """

    questions: int
    accuracy: Interval
    before: float | None = None

    @property
    def bad(self) -> bool:
        """True if the share is certainly below `ENOUGH`."""
        return self.accuracy.high < ENOUGH


def in_words(accuracy: float, before: float | None) -> str:
    """Tell people what a `RelevanceReport` has found."""
    if before is None:
        return f"A right answer comes before a right answer to another question in {accuracy:.0%} of pairs."
    return (
        f"By the ratings alone a right answer comes before one to another question in only {before:.0%} of pairs, so "
        f"the model learned from such pairs as well: {accuracy:.0%}."
    )


@dataclass(frozen=True, slots=True)
class Negatives:
    """Right answers (`label` 1) to a question in one list with those to other questions (0), one entry each.

    `question` is a number of `TrainingSet.prompt`, `features` are those of the recipe that is named. `share` is how
    much all of them may count against all rated answers.
    """

    recipe: str
    features: NDArray[np.float32]
    label: Ints
    question: Ints
    share: float = SHARES[0]

    def but(self, questions: Ints) -> Negatives:
        """Leave out those of some questions."""
        kept = ~np.isin(self.question, questions)
        return replace(self, features=self.features[kept], label=self.label[kept], question=self.question[kept])

    def measured(self, decision: Callable[[NDArray[np.float32], Ints], Floats]) -> RelevanceReport:
        """Tell how scores order the pairs; `decision` gives them for features and the number of each one's question."""
        score = decision(self.features, self.question)
        question, margin = [], []
        for number in np.unique(self.question):
            own = self.question == number
            right, negative = score[own & (self.label == 1)], score[own & (self.label == 0)]
            differences = (right[:, np.newaxis] - negative).ravel()
            margin.append(differences)
            question.append(np.full(len(differences), number))
        pairs = np.concatenate(question)
        return RelevanceReport(questions=len(np.unique(pairs)), accuracy=pair_accuracy(pairs, np.concatenate(margin)))


def draw_negatives(
    data: TrainingSet, rows: Mask, recipe: Recipe, encoder: TextEncoder, *, seed: int
) -> Negatives | None:
    """Put right answers among `rows` beside some to other questions, and compute their features.

    Of questions that ask for the same one wording is asked. Negatives come from that half of the questions which is
    farther from it, since an answer to a similar question may be right here as well. None with too few questions.
    """
    rng = np.random.default_rng(seed)
    asked = _questions(data, rows, rng)
    if len(asked) < LEAST_QUESTIONS:
        return None
    vectors = encoder.encode_whole([each.prompt for each in asked])
    count = max(1, min(_EACH, _NEGATIVES // len(asked)))
    questions, labels, numbers = [], [], []
    for of, cosine in zip(asked, vectors @ vectors.T, strict=True):
        far = rng.permutation(np.argsort(cosine, kind="stable")[: len(asked) // 2])[:count]
        drawn = [asked[at].right[rng.integers(len(asked[at].right))] for at in far]
        foreign = [answer for answer in dict.fromkeys(drawn) if answer not in of.right and answer not in of.others]
        questions.append(Question(of.prompt, (*of.right, *foreign, *of.others)))
        labels += [1] * len(of.right) + [0] * len(foreign) + [-1] * len(of.others)
        numbers += [of.number] * len(questions[-1].responses)
    label, question = np.array(labels), np.array(numbers)
    # Replies such as "Yes." are right answers to many questions, and no negatives to any of these.
    kept = np.isin(question, question[label == 0]) & (label >= 0)
    if len(np.unique(question[kept])) < LEAST_QUESTIONS:
        return None
    features = recipe.features(questions, encoder)[kept].astype(np.float32)
    return Negatives(recipe.name, features, label[kept], question[kept])


@dataclass(frozen=True, slots=True)
class _RatedQuestion:
    """A question, by its number, with its `right` answers, and the `others` that were rated."""

    number: int
    prompt: str
    right: tuple[str, ...]
    others: tuple[str, ...]


def _questions(data: TrainingSet, rows: Mask, rng: np.random.Generator) -> list[_RatedQuestion]:
    """Draw questions with right answers, and read their texts; what was deleted or changed is left out."""
    right = rows & (data.label == 1)
    # The first wording of each in a random order, of as many as are wanted.
    order = rng.permutation(np.flatnonzero(right))
    first = np.sort(np.unique(data.prompt[order], return_index=True)[1])[:_QUESTIONS]
    place = np.flatnonzero(rows & np.isin(data.question, data.question[order[first]]))
    texts = data.texts.read(data.candidates["id"][data.row[place]].tolist())
    found: dict[int, tuple[str, list[str], list[str]]] = {}
    for at in place.tolist():
        candidate = data.candidates[data.row[at]]
        text = texts.get(int(candidate["id"]))
        if text and text.digest == tuple(candidate["text"].tolist()):
            _, good, bad = found.setdefault(int(data.prompt[at]), (text.prompt, [], []))
            (good if right[at] else bad).append(text.response)
    return [
        _RatedQuestion(number, prompt, tuple(good), tuple(bad)) for number, (prompt, good, bad) in found.items() if good
    ]
