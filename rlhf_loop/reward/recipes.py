"""Recipes: the way from a question's candidates to the numbers that a logistic regression sees.

`passages`, the default: how well the passages of an answer fit the question, next to the other candidates. Its features
were chosen by ablation with grouped cross-validation (`make results` prints the table). An answer of any length is read
to its end. Nothing depends on the order in which the candidates came: a ranking that was shown once would otherwise
feed on itself.

`quality`: the same, and how an answer is written, whatever the question.

`transformer`: the same as `passages`, and what an encoder says whose upper layers were tuned on the ratings.

These three have the score of a cross-encoder as well, where one is set (`RLHF_CROSS_ENCODER`).

`joint`, the yardstick that every other must beat: one vector of question and answer together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from rlhf_loop.domain import Question
from rlhf_loop.encoders import DIMENSION, TextEncoder, Vectors
from rlhf_loop.encoders.tuned import TunedLayers
from rlhf_loop.reward import lexical
from rlhf_loop.reward.lexical import TermIndex
from rlhf_loop.reward.quality import QUALITY_FEATURES, QualityIndex
from rlhf_loop.utils.arrays import Floats, Ints, Mask

#: How sharply the soft maximum prefers the best passage: a second one just as good adds log(2) / 20 = 0.035.
SHARPNESS = 20.0
#: Passages that the soft maximum looks at: the gain of repeating oneself ends here.
_BEST = 5
#: What is left of a unit vector of float32 numbers when all of it is subtracted may be this long.
_NOISE = 1e-4
#: Multiplications up to which OpenBLAS leaves a product to one thread (`interface/gemm.c`).
_ONE_THREAD = 4 * 65536
#: Passages of an answer that a cross-encoder reads, those that fit best: this bounds what it costs.
CROSSED_PASSAGES = 3
#: Questions embedded at a time: bounds the vectors in memory.
_CHUNK = 64

_Float = TypeVar("_Float", np.float32, np.float64)

#: The one feature of an answer for which the other candidates are looked at.
_APART = "apart from the subject"
ANSWER_FEATURES = (
    "soft maximum of passages",
    "mean of passages",
    "whole answer",
    "best sentence of the question",
    "words of the question",
    _APART,
    "title to sentence",
    "title",
    "terms in title",
    "terms in one passage",
    "log of distinct terms",
)
TUNED_FEATURE, CROSS_FEATURE = "tuned score", "cross-encoder"
QUESTION_FEATURES = ("agreement mean", "agreement best")
FORMS = ("{}", "{}, from the mean", "{}, from the best")
#: Without it the many columns drown those of the passages on few ratings (docs/RESULTS.md).
_QUALITY_SCALE = 0.5
#: Shrunk as the others it would count for less than it knows. Chosen on 1,935 ratings of MEDIQA, on draws of 50 and of
#: 200, and on SelQA alike (docs/RESULTS.md).
_TUNED_SCALE = 3.0

SEPARATOR = " </s> "


class Recipe(Protocol):
    """Turns questions with their candidates into features; it learns nothing itself."""

    name: ClassVar[str]
    #: Raised when models are made in another way: a file of another version is refused, but for those that are `older`
    #: and have the same features.
    version: ClassVar[int]
    older: ClassVar[tuple[int, ...]]
    #: Whether texts of any length are read to their end, or only as far as the encoder's window.
    reads_all: ClassVar[bool]
    #: Whether the features are brought to mean 0 and variance 1 before the fit.
    scaled: ClassVar[bool]
    #: Inverse strength of the fit's L2 penalty, as in scikit-learn.
    penalty_c: ClassVar[float]

    def feature_names(self) -> list[str]:
        """Return a name for each column."""
        ...

    def pair_columns(self) -> Mask:
        """Return which columns differ between two answers alone as they do in any list of candidates that has both."""
        ...

    def scales(self) -> Floats:
        """Return what each scaled column is multiplied by before the fit, or one number for all; less counts less."""
        ...

    def features(self, questions: Sequence[Question], encoder: TextEncoder) -> Floats:
        """Return one row a candidate, all questions' candidates one after the other, in order."""
        ...


class PassagesRecipe:
    """Query-to-passage, lexical and length features, each also relative to the question's other candidates.

    Args:
        cross: have the score of the encoder's cross-encoder besides, in the same three forms, behind all others.
    """

    name: ClassVar[str] = "passages"
    version: ClassVar[int] = 2
    older: ClassVar[tuple[int, ...]] = (1,)
    reads_all: ClassVar[bool] = True
    scaled: ClassVar[bool] = True
    penalty_c: ClassVar[float] = 0.02

    def __init__(self, *, cross: bool = False) -> None:
        self._terms: dict[str, TermIndex] = {}
        self._cross = cross

    def feature_names(self) -> list[str]:
        """Return a name for each column: each feature of an answer in three forms, then those of its question."""
        own = [form.format(name) for form in FORMS for name in ANSWER_FEATURES] + list(QUESTION_FEATURES)
        return own + [form.format(CROSS_FEATURE) for form in FORMS if self._cross]

    def pair_columns(self) -> Mask:
        """Return which columns two answers alone differ in as they do in any list: all but "apart from the subject".

        What compares an answer with the others differs between two of them as the answers themselves do, and what
        belongs to the question cancels. But what two answers share is not what ten share: their rests are opposites.
        """
        return np.array([_APART not in name for name in self.feature_names()])

    def scales(self) -> Floats:
        """Return that all columns count alike."""
        return np.ones(1)

    def features(self, questions: Sequence[Question], encoder: TextEncoder) -> Floats:
        """Return the features, shape (candidates, columns).

        Raises:
            EncoderError: a cross-encoder is needed, and there is none.
        """
        rows = (rows for rows, _ in self.with_fits(questions, encoder))
        return np.concatenate([np.empty((0, len(self.feature_names()))), *rows])

    def with_fits(self, questions: Sequence[Question], encoder: TextEncoder) -> Iterator[tuple[Floats, Fits]]:
        """Return for each question its candidates' features, and how well each of their passages fits."""
        terms = self._terms.setdefault(encoder.language.code, TermIndex(encoder.language))
        for start in range(0, len(questions), _CHUNK):
            chunk, found = questions[start : start + _CHUNK], []
            for embedded in _embed(chunk, encoder):
                question, fits = embedded.question, _fits(embedded)
                found.append((_features(embedded, fits, terms.features(question.prompt, question.responses)), fits))
            if self._cross:
                scores = _cross_scores(chunk, [fits for _, fits in found], encoder)
                found = [(_beside(rows, of), fits) for (rows, fits), of in zip(found, scores, strict=True)]
            yield from found


class QualityRecipe:
    """Those of `passages`, and numbers of the answer alone, which count half as much, in the same three forms."""

    name: ClassVar[str] = "quality"
    version: ClassVar[int] = 1
    older: ClassVar[tuple[int, ...]] = ()
    reads_all: ClassVar[bool] = True
    scaled: ClassVar[bool] = True
    penalty_c: ClassVar[float] = PassagesRecipe.penalty_c

    def __init__(self, passages: PassagesRecipe) -> None:
        self._passages = passages
        self._quality = QualityIndex()

    def feature_names(self) -> list[str]:
        """Return a name for each column: those of `passages` first."""
        return self._passages.feature_names() + [form.format(name) for form in FORMS for name in QUALITY_FEATURES]

    def pair_columns(self) -> Mask:
        """Return which columns two answers alone differ in as they do in any list: of the answer alone all do."""
        return np.append(self._passages.pair_columns(), np.ones(self._added, dtype=np.bool_))

    def scales(self) -> Floats:
        """Return that what has nothing to do with the question counts half as much."""
        return np.append(np.ones(len(self._passages.feature_names())), np.full(self._added, _QUALITY_SCALE))

    def features(self, questions: Sequence[Question], encoder: TextEncoder) -> Floats:
        """Return the features, shape (candidates, columns)."""
        return self.beside(self._passages.features(questions, encoder), questions)

    def beside(self, passages: Floats, questions: Sequence[Question]) -> Floats:
        """Return the features, given those of `passages` for the same questions."""
        blocks = [np.empty((0, self._added))]
        for question in questions:
            answer = self._quality.features(question.responses)
            blocks.append(np.hstack([answer, answer - answer.mean(axis=0), answer - answer.max(axis=0)]))
        return np.hstack([passages, np.concatenate(blocks)])

    @property
    def _added(self) -> int:
        return len(FORMS) * len(QUALITY_FEATURES)


class TransformerRecipe:
    """Those of `passages`, and the score of an answer by tuned layers, in the same three forms.

    Args:
        passages: makes the features that it shares with that recipe.
        layers: what scores; without them there are no features, but their names.
        every: have all passages embedded, as they will be asked for by questions to come.
    """

    name: ClassVar[str] = "transformer"
    version: ClassVar[int] = 1
    older: ClassVar[tuple[int, ...]] = ()
    reads_all: ClassVar[bool] = True
    scaled: ClassVar[bool] = True
    penalty_c: ClassVar[float] = PassagesRecipe.penalty_c

    def __init__(self, passages: PassagesRecipe, layers: TunedLayers | None = None, *, every: bool = False) -> None:
        self._passages = passages
        self._layers = layers
        self._every = every

    def feature_names(self) -> list[str]:
        """Return a name for each column: those of `passages` first."""
        return self._passages.feature_names() + [form.format(TUNED_FEATURE) for form in FORMS]

    def pair_columns(self) -> Mask:
        """Return which columns two answers alone differ in as they do in any list: of the tuned score all do."""
        return np.append(self._passages.pair_columns(), np.ones(len(FORMS), dtype=np.bool_))

    def scales(self) -> Floats:
        """Return that the tuned score counts three times as much: it has been fitted on ratings before."""
        return np.append(np.ones(len(self._passages.feature_names())), np.full(len(FORMS), _TUNED_SCALE))

    def features(self, questions: Sequence[Question], encoder: TextEncoder) -> Floats:
        """Return the features, shape (candidates, columns).

        Raises:
            ValueError: there are no tuned layers.
            EncoderError: the layers of the encoder cannot be tuned.
            ModelFileError: the layers are of another encoder.
        """
        if self._layers is None:
            raise ValueError("The recipe transformer has no tuned layers. Take it from the model that they belong to.")
        tuned = encoder.tuned(self._layers)
        blocks = [np.empty((0, len(self.feature_names())))]
        for start in range(0, len(questions), _CHUNK):
            chunk = questions[start : start + _CHUNK]
            found = list(self._passages.with_fits(chunk, encoder))
            if self._every:
                answers = (own for of, (_, fits) in zip(chunk, found, strict=True) for own in _places(of, fits))
                tuned.encode_places([place for own in answers for place in own])
            scores = _tuned_scores(chunk, [fits for _, fits in found], tuned, self._layers)
            rows = np.concatenate([rows for rows, _ in found])
            blocks.append(self.beside(rows, [len(question.responses) for question in chunk], scores))
        return np.concatenate(blocks)

    def untuned(self, questions: Sequence[Question], encoder: TextEncoder) -> tuple[Floats, list[list[Ints]]]:
        """Return the features of `passages`, and for each candidate of each question its passages, the best first."""
        found = list(self._passages.with_fits(questions, encoder))
        rows = [np.empty((0, len(self._passages.feature_names()))), *(rows for rows, _ in found)]
        return np.concatenate(rows), [fits.best_places() for _, fits in found]

    def beside(self, passages: Floats, candidates: Sequence[int], scores: Floats) -> Floats:
        """Return the features, given those of `passages`, how many candidates each question has, and their scores."""
        parts = list(accumulate(candidates))[:-1]
        each = zip(np.split(passages, parts), np.split(scores, parts), strict=True) if len(candidates) else ()
        empty = np.empty((0, passages.shape[1] + len(FORMS)))
        return np.concatenate([empty, *(_beside(rows, of) for rows, of in each)])


class JointRecipe:
    """`prompt + " </s> " + response` -> one vector of the encoder, cut at its window."""

    name: ClassVar[str] = "joint"
    version: ClassVar[int] = 1
    older: ClassVar[tuple[int, ...]] = ()
    reads_all: ClassVar[bool] = False
    scaled: ClassVar[bool] = False
    penalty_c: ClassVar[float] = 1.0

    def feature_names(self) -> list[str]:
        """Return a name for each dimension of all-MiniLM-L6-v2; those of other encoders go on or end before."""
        return [f"dimension {index}" for index in range(DIMENSION)]

    def pair_columns(self) -> Mask:
        """Return that all dimensions of two answers alone differ as in a list: none depends on other answers."""
        return np.ones(1, dtype=np.bool_)

    def scales(self) -> Floats:
        """Return that all dimensions count alike."""
        return np.ones(1)

    def features(self, questions: Sequence[Question], encoder: TextEncoder) -> Floats:
        """Return the vectors, shape (candidates, dimension)."""
        return encoder.encode(joint_texts(questions)).astype(np.float64)


def joint_texts(questions: Sequence[Question]) -> list[str]:
    """Return the text that is embedded for each candidate."""
    return [question.prompt + SEPARATOR + response for question in questions for response in question.responses]


_PASSAGES, _CROSSED = PassagesRecipe(), PassagesRecipe(cross=True)
#: In the order in which ties between them are settled.
RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (_PASSAGES, QualityRecipe(_PASSAGES), JointRecipe())}
_WITH_CROSS: dict[str, Recipe] = {recipe.name: recipe for recipe in (_CROSSED, QualityRecipe(_CROSSED))}


def recipe_named(name: str, *, layers: TunedLayers | None = None, every: bool = False, cross: bool = False) -> Recipe:
    """Return the recipe of that name; `transformer` makes features only with the tuned layers of a model.

    With `cross` it has the score of a cross-encoder as well; `joint` never has it.

    Raises:
        ValueError: there is none.
    """
    if name == TransformerRecipe.name:
        return TransformerRecipe(_CROSSED if cross else _PASSAGES, layers, every=every)
    if name not in RECIPES:
        known = ", ".join((*RECIPES, TransformerRecipe.name))
        raise ValueError(f"Unknown recipe {name!r}. Choose one of: {known}.")
    return _WITH_CROSS.get(name, RECIPES[name]) if cross else RECIPES[name]


def pointwise_columns(recipe: Recipe) -> Mask:
    """Return which columns say something of an answer whatever the other candidates are."""
    relative = (*(form.format("") for form in FORMS[1:]), *QUESTION_FEATURES, _APART)
    return np.array([not name.endswith(relative) for name in recipe.feature_names()])


def is_crossed(recipe: Recipe) -> bool:
    """Tell whether a recipe needs a cross-encoder."""
    return CROSS_FEATURE in recipe.feature_names()


# --- The features of passages --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _QuestionVectors:
    """A question with all the vectors that its features need; `passages` are those of all answers in order."""

    question: Question
    query: NDArray[np.float32]
    sentences: Vectors
    words: Vectors
    titles: Vectors
    passages: Vectors
    counts: Ints


def _embed(questions: Sequence[Question], encoder: TextEncoder) -> Iterator[_QuestionVectors]:
    """Embed all texts of all questions in two calls, so that batches are full.

    The questions come first: new ones with known answers are the usual case, and where nothing may be computed the
    answers need not be looked up in vain.
    """
    language = encoder.language
    pieces = [part for q in questions for part in lexical.question_parts(q.prompt, language)]
    titles = [[lexical.title(response, language) for response in q.responses] for q in questions]
    responses = [response for q in questions for response in q.responses]
    vectors = encoder.encode_whole(
        [text for part in pieces for text in part],
        passages=[text for part in titles for text in part],
        answers=responses,
    )
    answers = iter(encoder.encode_passages(responses))
    cut = np.split(vectors, list(accumulate(map(len, [*pieces, *titles])))[:-1])
    parts, headings = iter(cut), iter(cut[len(pieces) :])
    for question in questions:
        own = [next(answers) for _ in question.responses]
        yield _QuestionVectors(
            question=question,
            query=next(parts)[0],
            sentences=next(parts),
            words=next(parts),
            titles=next(headings),
            passages=np.concatenate(own),
            counts=np.array([len(vectors) for vectors in own]),
        )


def _features(of: _QuestionVectors, fits: Fits, words: Floats) -> Floats:
    """Return the features of one question's candidates: absolute, from the mean, from the best, and the question's."""
    answer = np.hstack([_answer_features(of, fits), words])
    agreement = _agreement(of, fits)
    question = np.broadcast_to([agreement.mean(), agreement.max()], (len(answer), 2))
    return np.hstack([answer, answer - answer.mean(axis=0), answer - answer.max(axis=0), question])


@dataclass(frozen=True, slots=True)
class Fits:
    """The fit of the passages to the question.

    `starts` is each answer's first passage, `order` the passages answer by answer with each answer's best one first,
    `best` the vectors of those.
    """

    query: NDArray[np.float32]
    sentences: Vectors
    words: Vectors
    starts: Ints
    order: Ints
    best: Vectors

    def best_places(self) -> list[Ints]:
        """Return for each answer the places of its passages in it, the best first."""
        return [own - own.min() for own in np.split(self.order, self.starts[1:])]


def _fits(of: _QuestionVectors) -> Fits:
    # All in one product: the passages are read from memory once.
    wanted = np.concatenate([of.query[np.newaxis], of.sentences, of.words])
    query, sentences, words = np.split(_products(of.passages, wanted), [1, 1 + len(of.sentences)], axis=1)
    starts = np.cumsum(of.counts) - of.counts
    order = np.lexsort((-query[:, 0], np.repeat(np.arange(len(of.counts)), of.counts)))
    return Fits(query[:, 0], sentences, words, starts, order, of.passages[order[starts]])


def _answer_features(of: _QuestionVectors, fits: Fits) -> Floats:
    starts = fits.starts
    whole = _unit(np.add.reduceat(of.passages, starts))
    to_words = np.maximum.reduceat(fits.words, starts) if len(of.words) else np.zeros((len(starts), 1))
    titles = _products(of.titles, np.concatenate([of.query[np.newaxis], of.sentences]))
    columns = [
        _soft_maximum(of, fits),
        np.add.reduceat(fits.query, starts) / of.counts,
        _products(whole, of.query[np.newaxis])[:, 0],
        np.maximum.reduceat(fits.sentences.max(axis=1), starts),
        to_words.mean(axis=1),
        _apart_from_subject(fits.best, of.query),
        titles[:, 1:].max(axis=1),
        titles[:, 0],
    ]
    return np.stack(columns, axis=1).astype(np.float64)


def _soft_maximum(of: _QuestionVectors, fits: Fits) -> Floats:
    """Return the log-sum-exp of each answer's best passages: the best one counts most, others as good add a little."""
    ordered = fits.query[fits.order].astype(np.float64)
    place = np.arange(len(ordered)) - np.repeat(fits.starts, of.counts)
    terms = np.where(place < _BEST, np.exp(SHARPNESS * ordered), 0.0)
    soft: Floats = np.log(np.add.reduceat(terms, fits.starts)) / SHARPNESS
    return soft


def _apart_from_subject(best: Vectors, query: NDArray[np.float32]) -> NDArray[np.float32]:
    """Compare answers and question without what all answers share.

    Candidates for one question share its subject, and that hides what tells them apart (its causes, its treatment).
    So the direction of their mean is taken out of both sides first. A single candidate shares all with itself: 0.
    """
    if len(best) == 1:
        return np.zeros(1, dtype=np.float32)
    subject = _unit(best.mean(axis=0))
    rest = _unit(best - _products(best, subject[np.newaxis]) * subject)
    return _products(rest, _unit(query - (query @ subject) * subject)[np.newaxis])[:, 0]


def _agreement(of: _QuestionVectors, fits: Fits) -> Floats:
    """Return how well each answer's best passage fits what the others say, weighted by how well they fit the question.

    Pseudo-relevance feedback (Rocchio 1971) with the other candidates as the feedback. A question whose candidates
    agree has more correct ones among them.
    """
    scores = fits.query[fits.order[fits.starts]].astype(np.float64)
    if len(scores) == 1:
        return scores
    weighted = np.exp(SHARPNESS * (scores - scores.max()))[:, np.newaxis] * fits.best
    # The sum less one's own part, in double precision: one's own part may be nearly all of it.
    others = _unit(weighted.sum(axis=0) - weighted).astype(np.float32)
    fit = np.einsum("pd,pd->p", of.passages, np.repeat(others, of.counts, axis=0))
    best: Floats = np.maximum.reduceat(fit, fits.starts).astype(np.float64)
    return best


def _places(question: Question, fits: Fits) -> list[list[tuple[str, int]]]:
    """Return the passages of each answer by its text and their places in it, the best one first."""
    answers = zip(question.responses, fits.best_places(), strict=True)
    return [[(text, place) for place in own.tolist()] for text, own in answers]


def _tuned_scores(
    questions: Sequence[Question], fits: Sequence[Fits], tuned: TextEncoder, layers: TunedLayers
) -> Floats:
    """Return the highest logit of each candidate's best passages, all questions' candidates one after the other."""
    places: list[tuple[str, int]] = []
    counts: list[list[int]] = []
    for question, of in zip(questions, fits, strict=True):
        best = [own[: layers.passages] for own in _places(question, of)]
        places += [place for own in best for place in own]
        counts.append(list(map(len, best)))
    asked = tuned.encode_beginnings([question.prompt for question in questions], tokens=layers.question_tokens)
    vectors = iter(np.split(tuned.encode_places(places), list(accumulate(map(sum, counts)))[:-1]))
    scores = [np.empty(0)]
    for vector, of_answers in zip(asked, counts, strict=True):
        logits = layers.logits(vector, next(vectors))
        scores.append(np.maximum.reduceat(logits, np.cumsum(of_answers) - np.array(of_answers)))
    return np.concatenate(scores)


def _cross_scores(questions: Sequence[Question], fits: Sequence[Fits], encoder: TextEncoder) -> list[Floats]:
    """Return for each question the highest logit of each candidate's best passages, by the cross-encoder."""
    best = [
        [[(text, place, of.prompt) for text, place in own[:CROSSED_PASSAGES]] for own in _places(of, fit)]
        for of, fit in zip(questions, fits, strict=True)
    ]
    logits = iter(encoder.cross_scores([place for of in best for own in of for place in own]).tolist())
    return [np.array([max(next(logits) for _ in own) for own in of]) for of in best]


def _beside(rows: Floats, scores: Floats) -> Floats:
    """Return the features of one question's candidates with a score of each, in three forms, behind them."""
    return np.hstack([rows, np.stack([scores, scores - scores.mean(), scores - scores.max()], axis=1)])


def _products(left: Vectors, right: Vectors) -> Vectors:
    """Return `left @ right.T`, computed by this thread alone.

    OpenBLAS would share larger products among threads of its own. That gains nothing here, and where another process
    keeps a core busy, all wait for the thread that sits on it.
    """
    dimension = left.shape[1]
    rows = max(1, _ONE_THREAD // (dimension * len(right)))
    whole = len(left) // rows * rows
    products = np.empty((len(left), len(right)), dtype=np.float32)
    np.matmul(left[:whole].reshape(-1, rows, dimension), right.T, out=products[:whole].reshape(-1, rows, len(right)))
    np.matmul(left[whole:], right.T, out=products[whole:])
    return products


def _unit(vectors: NDArray[_Float]) -> NDArray[_Float]:
    """Bring vectors to length 1; one that is nothing but rounding noise becomes zero."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: NDArray[_Float] = np.where(length > _NOISE, vectors / np.maximum(length, _NOISE), vectors.dtype.type(0))
    return unit
