"""The default recipe: how well the passages of an answer fit the question, next to the other candidates.

The features were chosen by ablation with grouped cross-validation (`make results` prints the table). An answer of any
length is read to its end. Nothing depends on the order in which the candidates came: a ranking that was shown once
would otherwise feed on itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from rlhf_loop.domain import Question
from rlhf_loop.encoders import TextEncoder, Vectors
from rlhf_loop.reward import lexical
from rlhf_loop.reward.recipe import Matrix

#: How sharply the soft maximum prefers the best passage: a second one just as good adds log(2) / 20 = 0.035.
SHARPNESS = 20.0
#: Passages that the soft maximum looks at: the gain of repeating oneself ends here.
_BEST = 5
#: What is left of a unit vector of float32 numbers when all of it is subtracted may be this long.
_NOISE = 1e-4
#: Questions embedded at a time: bounds the vectors in memory.
_CHUNK = 64

ANSWER_FEATURES = (
    "soft maximum of passages",
    "mean of passages",
    "whole answer",
    "best sentence of the question",
    "words of the question",
    "apart from the subject",
    "title to sentence",
    "title",
    "terms in title",
    "terms in one passage",
    "log of distinct terms",
)
QUESTION_FEATURES = ("agreement mean", "agreement best")


class PassagesRecipe:
    """Query-to-passage, lexical and length features, each also relative to the question's other candidates."""

    name: ClassVar[str] = "passages"
    version: ClassVar[int] = 1
    reads_all: ClassVar[bool] = True
    scaled: ClassVar[bool] = True
    penalty_c: ClassVar[float] = 0.02

    def feature_names(self) -> list[str]:
        """Return a name for each column: each feature of an answer in three forms, then those of its question."""
        forms = ("{}", "{}, from the mean", "{}, from the best")
        return [form.format(name) for form in forms for name in ANSWER_FEATURES] + list(QUESTION_FEATURES)

    def features(self, questions: Sequence[Question], encoder: TextEncoder) -> Matrix:
        """Return the features, shape (candidates, columns)."""
        blocks = [np.empty((0, len(self.feature_names())))]
        for start in range(0, len(questions), _CHUNK):
            blocks += map(_features, _embed(questions[start : start + _CHUNK], encoder))
        return np.concatenate(blocks)


@dataclass(frozen=True, slots=True)
class _Embedded:
    """A question with all the vectors that its features need; `passages` are those of all answers in order."""

    question: Question
    query: NDArray[np.float32]
    sentences: Vectors
    words: Vectors
    titles: Vectors
    passages: Vectors
    counts: NDArray[np.intp]


def _embed(questions: Sequence[Question], encoder: TextEncoder) -> Iterator[_Embedded]:
    """Embed all texts of all questions in two calls, so that batches are full."""
    answers = iter(encoder.encode_passages([response for q in questions for response in q.responses]))
    pieces = [
        part
        for q in questions
        for part in (
            [q.prompt],
            lexical.sentences(q.prompt),
            lexical.content_words(q.prompt),
            [lexical.title(response) for response in q.responses],
        )
    ]
    vectors = encoder.encode_whole([text for part in pieces for text in part])
    parts = iter(np.split(vectors, list(accumulate(map(len, pieces)))[:-1]))
    for question in questions:
        own = [next(answers) for _ in question.responses]
        yield _Embedded(
            question=question,
            query=next(parts)[0],
            sentences=next(parts),
            words=next(parts),
            titles=next(parts),
            passages=np.concatenate(own),
            counts=np.array([len(vectors) for vectors in own]),
        )


def _features(of: _Embedded) -> Matrix:
    """Return the features of one question's candidates: absolute, from the mean, from the best, and the question's."""
    answer = _answer_features(of)
    agreement = _agreement(of)
    question = np.broadcast_to([agreement.mean(), agreement.max()], (len(answer), 2))
    return np.hstack([answer, answer - answer.mean(axis=0), answer - answer.max(axis=0), question])


def _answer_features(of: _Embedded) -> Matrix:
    starts = _starts(of)
    similarity = of.passages @ of.query
    best = of.passages[_by_similarity(of, similarity)[starts]]
    whole = _unit(np.add.reduceat(of.passages, starts))
    to_words = np.maximum.reduceat(of.passages @ of.words.T, starts) if len(of.words) else np.zeros((len(starts), 1))
    columns = [
        _soft_maximum(of, similarity),
        np.add.reduceat(similarity, starts) / of.counts,
        whole @ of.query,
        np.maximum.reduceat((of.passages @ of.sentences.T).max(axis=1), starts),
        to_words.mean(axis=1),
        _apart_from_subject(best, of.query),
        (of.titles @ of.sentences.T).max(axis=1),
        of.titles @ of.query,
        *_lexical_features(of.question).T,
    ]
    return np.stack(columns, axis=1).astype(np.float64)


def _soft_maximum(of: _Embedded, similarity: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the log-sum-exp of each answer's best passages: the best one counts most, others as good add a little."""
    starts = _starts(of)
    ordered = similarity[_by_similarity(of, similarity)].astype(np.float64)
    place = np.arange(len(ordered)) - np.repeat(starts, of.counts)
    terms = np.where(place < _BEST, np.exp(SHARPNESS * ordered), 0.0)
    soft: NDArray[np.float64] = np.log(np.add.reduceat(terms, starts)) / SHARPNESS
    return soft


def _lexical_features(question: Question) -> Matrix:
    wanted = lexical.terms(question.prompt)
    rows = []
    for response in question.responses:
        found = lexical.terms(response)
        in_title = lexical.coverage(wanted, lexical.terms(lexical.title(response)))
        # Distinct ones: what is said twice makes an answer longer, not richer.
        rows.append((in_title, lexical.best_window_coverage(wanted, found), np.log1p(len(set(found)))))
    return np.array(rows)


def _apart_from_subject(best: Vectors, query: NDArray[np.float32]) -> NDArray[np.float32]:
    """Compare answers and question without what all answers share.

    Candidates for one question share its subject, and that hides what tells them apart (its causes, its treatment).
    So the direction of their mean is taken out of both sides first. A single candidate shares all with itself: 0.
    """
    if len(best) == 1:
        return np.zeros(1, dtype=np.float32)
    subject = _unit(best.mean(axis=0))
    rest = _unit(best - np.outer(best @ subject, subject))
    return rest @ _unit(query - (query @ subject) * subject)


def _agreement(of: _Embedded) -> NDArray[np.float32]:
    """Return how well each answer's best passage fits what the others say, weighted by how well they fit the question.

    Pseudo-relevance feedback (Rocchio 1971) with the other candidates as the feedback. A question whose candidates
    agree has more correct ones among them.
    """
    similarity = of.passages @ of.query
    starts = _starts(of)
    scores = np.maximum.reduceat(similarity, starts)
    if len(scores) == 1:
        return scores
    best = of.passages[_by_similarity(of, similarity)[starts]]
    weights = np.tile(np.exp(SHARPNESS * (scores - scores.max())), (len(scores), 1))
    np.fill_diagonal(weights, 0.0)
    others = _unit(weights @ best)
    fit = of.passages @ others.T
    return np.maximum.reduceat(fit, starts).diagonal()


def _starts(of: _Embedded) -> NDArray[np.intp]:
    return np.concatenate([[0], np.cumsum(of.counts)[:-1]])


def _by_similarity(of: _Embedded, similarity: NDArray[np.float32]) -> NDArray[np.intp]:
    """Return the rows of the passages, still answer by answer, but each answer's best one first."""
    return np.lexsort((-similarity, np.repeat(np.arange(len(of.counts)), of.counts)))


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Bring vectors to length 1; one that is nothing but rounding noise becomes zero."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: NDArray[np.float32] = np.where(length > _NOISE, vectors / np.maximum(length, _NOISE), np.float32(0))
    return unit
