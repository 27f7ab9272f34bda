"""Training data: a few numbers of each answer in memory, the texts read a chunk of questions at a time.

It comes from the ratings database, or from examples that are in memory anyway.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import func, null, or_, select, union_all
from sqlalchemy.engine import Connection, Engine

from rlhf_loop.domain import GOOD_RATING, Example, Progress, Question, ReviewerRole, prompt_key
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.store.engine import reading
from rlhf_loop.store.interactions import group_name, judge_labels
from rlhf_loop.store.tables import Interaction, Preference, Review
from rlhf_loop.training.evaluation import Predictions
from rlhf_loop.training.grouping import Hashes, QuestionGroups, linked, question_groups
from rlhf_loop.training.reliability import RaterReliability, Reviews, consensus, read_reviews
from rlhf_loop.utils.arrays import Floats, Ints, Mask
from rlhf_loop.utils.sqlite import in_parts

#: What is kept of an answer in place of its texts. `group` and `answer` (the response within its group) are Python's
#: own hashes, good enough to tell texts apart in one process: of a million, two are taken for the same with a chance of
#: one in thirty million. So is `document`, of the response alone. `prompt` and `text` outlive the process: by the one
#: questions are frozen, of the other the fingerprint is made. 0 is "unknown".
#: `expert` says whether the rating is an expert's or only an end user's.
ANSWER = np.dtype(
    [
        ("id", np.int64),
        ("group", np.int64),
        ("prompt", np.int64),
        ("answer", np.int64),
        ("document", np.int64),
        ("text", "<u8", 2),
        ("rating", np.int8),
        ("rank", np.int32),
        ("weight", np.float64),
        ("expert", np.bool_),
    ]
)
Answers = NDArray[np.void]
#: A judged answer as grouping sees it: by its id the question's text is found.
ASKED = np.dtype([(name, np.int64) for name in ("id", "prompt", "document")])
#: The permanent holdout: questions that no model is ever fitted on, so that versions can be compared on them for
#: months. A hash decides, the same on every machine and always: that of the leader of a question's group (see
#: `grouping`). From so many questions with ratings on, this share of them is frozen. It never shrinks: what one version
#: was kept from, all later ones are kept from. Questions that only a later share or a new wording takes in may have
#: been part of earlier fits; for those each version has the list of what it was fitted on (see `registry`).
STEPS = ((0, 0.10), (100, 0.15), (500, 0.20))
#: Candidates of a chunk, unless a single question has more: enough that batches are full, a few megabytes of text.
_CHUNK = 1024
_OF_RATED = ("row", "question", "prompt", "rating", "rank", "weight", "expert")
_STREAMED = {"yield_per": 1000}


@dataclass(frozen=True, slots=True)
class AnswerText:
    """The texts of one answer."""

    prompt: str
    response: str
    group: str

    @property
    def digest(self) -> tuple[int, int]:
        """A hash of the texts."""
        return text_digest(self.prompt, self.response, self.group)


class Texts(Protocol):
    """A source of the texts of answers."""

    def read(self, ids: Sequence[int]) -> Mapping[int, AnswerText]:
        """Return the texts by id; those that are gone are left out."""
        ...


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some questions with their candidates; `row` is the number of each candidate among all of the training set."""

    questions: tuple[Question, ...]
    row: Ints

    def only(self, wanted: Mask) -> Chunk:
        """Keep the questions that have a wanted candidate, with all of their candidates."""
        of_question = np.repeat(np.arange(len(self.questions)), [len(each.responses) for each in self.questions])
        chosen = np.zeros(len(self.questions), dtype=np.bool_)
        chosen[of_question[wanted[self.row]]] = True
        kept = tuple(each for each, keep in zip(self.questions, chosen, strict=True) if keep)
        return Chunk(kept, self.row[chosen[of_question]])


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """Questions with all their candidates, and which of those are rated; the texts are read when they are needed.

    `candidates` has all candidates of all questions in order, `start` where those of each question begin (and the end).
    The other arrays have one entry a rated answer: `row` among the candidates, `question` (index), `prompt` (a number
    for each distinct prompt, for each group of them once they are `grouped`: what splits keep together), `rating`,
    `rank` (nan where unknown), the rating's `weight` in a fit, and whether it is an `expert`'s. `fingerprint` names the
    content, the same whatever the ids and the order. `asked` has all answers that anybody has judged, rated here or
    not, the oldest first. `raters` are the experts who count less than others, `disregarded` the answers whose raters
    count nothing.
    """

    texts: Texts
    candidates: Answers
    start: Ints
    row: Ints
    question: Ints
    prompt: Ints
    rating: Ints
    rank: Floats
    weight: Floats
    expert: Mask
    fingerprint: str
    asked: NDArray[np.void]
    groups: QuestionGroups | None = None
    raters: tuple[RaterReliability, ...] = ()
    disregarded: int = 0

    @property
    def label(self) -> Ints:
        """1 for a correct answer, 0 for any other."""
        return (self.rating >= GOOD_RATING).astype(np.intp)

    def only(self, rows: Mask) -> TrainingSet:
        """Leave out the other rated answers."""
        return replace(self, **{name: getattr(self, name)[rows] for name in _OF_RATED})

    def grouped(
        self, encoder: TextEncoder, *, others: Iterable[Sequence[str]] = (), progress: Progress | None = None
    ) -> TrainingSet:
        """Give questions that ask for the same one number in `prompt`; `others` are prompts of which no answer is here.

        Their texts are read, a chunk at a time. `progress` gets how many questions are embedded, and how many there
        are, without the others.
        """
        if self.groups is not None:
            return self
        groups = group_asked(self.texts, self.asked, encoder, others=others, progress=progress)
        return replace(self, prompt=numbered(groups.of(self.prompt_hash)), groups=groups)

    @property
    def prompt_hash(self) -> Hashes:
        """The hash of each rated answer's prompt."""
        hashes: Hashes = self.candidates["prompt"][self.row]
        return hashes

    def group_of(self, prompts: Hashes) -> Hashes:
        """Return what names the groups of prompts, as long as they are not grouped the prompts themselves."""
        return prompts if self.groups is None else self.groups.of(prompts)

    def seen(self, fitted: Hashes) -> Mask:
        """Tell which rated answers belong to a group of which a model was fitted on any question."""
        return np.isin(self.group_of(self.prompt_hash), self.group_of(fitted))

    def question_of(self, prompts: Hashes) -> Ints:
        """Return the numbers in `prompt` of prompts that are given as hashes of their keys; -1 for one without ratings.

        Answers that `only` has left out are not asked: what splits keep together is decided before.
        """
        known, first = np.unique(self.group_of(self.prompt_hash), return_index=True)
        if not len(known):
            return np.full(len(prompts), -1, dtype=np.intp)
        groups = self.group_of(prompts)
        place = np.minimum(np.searchsorted(known, groups), len(known) - 1)
        return np.where(known[place] == groups, self.prompt[first[place]], -1)

    def predictions(self, probability: Floats, rows: Mask | None = None) -> Predictions:
        """Put probabilities (one a rated answer, or one for each of `rows`) beside what is known of the answers."""
        chosen = np.ones(len(self.row), dtype=np.bool_) if rows is None else rows
        question = np.unique(self.question[chosen], return_inverse=True)[1]
        return Predictions(question, self.rating[chosen], probability, self.rank[chosen], self.prompt[chosen])

    def chunks(self) -> Iterator[Chunk]:
        """Read the questions in order, some at a time.

        An answer that was deleted or changed since the numbers were read is left out: what its reviewers saw is gone.
        """
        begin = 0
        while begin < len(self.start) - 1:
            end = max(int(np.searchsorted(self.start, self.start[begin] + _CHUNK, side="right")) - 1, begin + 1)
            yield self._chunk(begin, end)
            begin = end

    def _chunk(self, begin: int, end: int) -> Chunk:
        wanted = self.candidates[self.start[begin] : self.start[end]]
        found = self.texts.read(wanted["id"].tolist())
        texts = [
            text if (text := found.get(id)) and text.digest == (first, second) else None
            for id, (first, second) in zip(wanted["id"].tolist(), wanted["text"].tolist(), strict=True)
        ]
        questions = []
        for low, high in pairwise((self.start[begin : end + 1] - self.start[begin]).tolist()):
            if present := [text for text in texts[low:high] if text]:
                questions.append(Question(present[0].prompt, tuple(text.response for text in present)))
        there = np.flatnonzero([text is not None for text in texts])
        return Chunk(tuple(questions), self.start[begin] + there)


def answer_numbers(
    id: int, text: AnswerText, rating: int | None, rank: int | None, *, weight: float = 1.0, expert: bool = True
) -> tuple[object, ...]:
    """Return what is kept of an answer in place of its texts: a row of `ANSWER`."""
    group, answer = hash(text.group), hash((text.group, text.response))
    prompt, document = prompt_hash(text.prompt), _document_hash(text.response)
    return id, group, prompt, answer, document, text.digest, rating or 0, rank or 0, weight, expert


def text_digest(*texts: str) -> tuple[int, int]:
    """Return 128 bits of a hash that is the same everywhere and always."""
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    found = digest.digest()
    return int.from_bytes(found[:8], "little"), int.from_bytes(found[8:], "little")


def prompt_hash(prompt: str) -> int:
    """Return what `ANSWER` has in place of a prompt: equal for what is the same question, everywhere and always."""
    key = prompt_key(prompt).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(key, digest_size=8, person=b"rlhf question").digest(), "little", signed=True)


def _document_hash(response: str) -> int:
    return hash(response.strip())


def frozen_share(questions: int, *, before: float = 0.0) -> float:
    """Return the share of the questions to freeze where so many have ratings, at least what it was `before`."""
    return max(before, *(share for least, share in STEPS if questions >= least))


def is_frozen(prompts: NDArray[np.int64], share: float) -> Mask:
    """Tell which questions, given by `prompt_hash`, are among that share."""
    place = prompts.astype(np.int64).view(np.uint64).astype(np.float64) / 2.0**64
    frozen: Mask = place < share
    return frozen


def assemble(examples: Sequence[Example]) -> TrainingSet:
    """Put examples into questions; those of a group without any rated one are left out."""
    return in_questions(_numbers(examples), _InMemoryTexts(examples))


def fingerprint(examples: Sequence[Example]) -> str:
    """Name the content of training data, the same whatever the ids and the order."""
    return _fingerprint(_numbers(examples))


def in_questions(answers: Answers, texts: Texts) -> TrainingSet:
    """Put answers into questions: those to one prompt in one group. Those of which none is rated are left out."""
    question = numbered(answers["group"], answers["prompt"])
    kept = np.bincount(question[answers["rating"] > 0], minlength=len(answers))[question] > 0
    question = np.unique(question[kept], return_inverse=True)[1]
    order = np.flatnonzero(kept)[np.argsort(question, kind="stable")]
    candidates, question = answers[order], np.sort(question)
    prompt = numbered(candidates["prompt"])
    row = np.flatnonzero(candidates["rating"] > 0)
    rank = candidates["rank"][row].astype(np.float64)
    return TrainingSet(
        texts=texts,
        candidates=candidates,
        start=np.r_[0, np.cumsum(np.bincount(question))].astype(np.intp),
        row=row,
        question=question[row],
        prompt=prompt[row],
        rating=candidates["rating"][row].astype(np.intp),
        rank=np.where(rank > 0, rank, np.nan),
        weight=candidates["weight"][row],
        expert=candidates["expert"][row],
        fingerprint=_fingerprint(answers),
        asked=candidates[row][list(ASKED.names or ())],
    )


def linked_by_documents(data: TrainingSet, rows: Mask | None = None) -> Ints:
    """Number the questions of the rated answers so that those with a text in common get the same number.

    And so do those that hang together by others. With `rows` only these answers have texts.
    """
    document = np.unique(data.candidates["document"][data.row], return_inverse=True)[1]
    if rows is not None:
        document = np.where(rows, document, len(rows) + np.arange(len(rows)))
    return linked(data.prompt, document)


def numbered(*columns: NDArray[np.int64]) -> Ints:
    """Number equal rows alike: from 0, in the order in which they first appear."""
    order = np.lexsort(columns)
    new = np.zeros(len(order), dtype=np.bool_)
    new[:1] = True
    for column in columns:
        ordered = column[order]
        new[1:] |= ordered[1:] != ordered[:-1]
    # The sort is stable, so the first of equal ones in it is the first of them all.
    place = np.empty(int(new.sum()), dtype=np.intp)
    place[np.argsort(order[new])] = np.arange(len(place))
    number = np.empty(len(order), dtype=np.intp)
    number[order] = place[np.cumsum(new) - 1]
    return number


def training_set(
    engine: Engine | Connection, *, end_user_weight: float = 0.0, reviewer_weighting: bool = False
) -> TrainingSet:
    """Read what training learns from: every rated answer, and the unrated ones offered beside a rated one.

    Ordered by id. An answer that was served twice for one question is one answer; its rating is the lower median of all
    its reviews by experts. Where none of them has rated it, it is that of the end users' and weighs `end_user_weight`;
    with a weight of 0 (or less) their ratings are not read. Of the texts only hashes are kept, so memory does not
    depend on their length.

    With `reviewer_weighting` an expert counts as far as the others bear them out (see `reliability`): the median is by
    weight, and the answer's weight that of the most reliable of its raters. Answers whose raters all count nothing are
    as good as unrated. As long as nobody is to be doubted, it changes nothing.

    All numbers are from one transaction and fit together. The texts are read afterwards, chunk by chunk in transactions
    of their own: embedding them may take hours, and for so long a reader would keep SQLite's log and PostgreSQL's dead
    rows from being cleared. What changed meanwhile is recognised by its hash and left out (see `TrainingSet.chunks`).
    Given a connection, all is read in its transaction.
    """
    found = _read(engine, end_user_weight, reviewer_weighting)
    data = in_questions(found.answers, _Stored(engine))
    return replace(data, asked=found.asked, raters=found.raters, disregarded=found.disregarded)


def stored_groups(connection: Connection, encoder: TextEncoder, *, progress: Progress | None = None) -> QuestionGroups:
    """Group all questions of the database, those that nobody has judged as the youngest and without answers.

    So what training freezes (see `TrainingSet.grouped`) comes at least as early here, by the hashes of the leaders.
    """
    return group_asked(_Stored(connection), _asked(connection, unjudged=True), encoder, progress=progress)


def group_asked(
    texts: Texts,
    asked: NDArray[np.void],
    encoder: TextEncoder,
    *,
    others: Iterable[Sequence[str]] = (),
    progress: Progress | None = None,
) -> QuestionGroups:
    """Group questions by their texts and answers, and after them `others`, whose texts are there."""
    first = asked["id"][np.sort(np.unique(asked["prompt"], return_index=True)[1])]

    def read() -> Iterator[tuple[Hashes, Sequence[str]]]:
        for start in range(0, len(first), _CHUNK):
            ids = first[start : start + _CHUNK].tolist()
            found = texts.read(ids)
            yield _hashed([found[id].prompt for id in ids if id in found])
        yield from map(_hashed, others)

    judged = asked[asked["document"] != 0]
    told = None if progress is None else lambda done: progress(min(done, len(first)), len(first))
    return question_groups(read(), encoder, answers=(judged["prompt"], judged["document"]), progress=told)


def examples(engine: Engine, *, end_user_weight: float = 0.0, reviewer_weighting: bool = False) -> list[Example]:
    """Read the same with all texts, for data that is known to be small."""
    answers = _read(engine, end_user_weight, reviewer_weighting).answers
    ids = answers["id"].tolist()
    texts = _Stored(engine).read(ids)
    return [
        Example(
            text.prompt,
            text.response,
            rating or None,
            text.group,
            rank or None,
            weight=weight,
            role=ReviewerRole.EXPERT if expert else ReviewerRole.END_USER,
        )
        for id, rating, rank, weight, expert in zip(
            ids, *(answers[name].tolist() for name in ("rating", "rank", "weight", "expert")), strict=True
        )
        if (text := texts.get(id))
    ]


@dataclass(frozen=True, slots=True)
class JudgedAnswer:
    """An answer with the label that judges gave it, from 1 to 5: no rating of anybody."""

    prompt: str
    response: str
    label: float


def judged_answers(engine: Engine, *, most: int, seed: int = 0) -> list[JudgedAnswer]:
    """Read the labels of judges, of several on one answer the mean; of very many a sample of the questions."""
    labels = judge_labels().subquery()
    mean = select(labels.c.interaction_key.label("id"), func.avg(labels.c.label).label("label"))
    of = mean.group_by(labels.c.interaction_key).subquery()
    wanted = select(of.c.id, of.c.label, Interaction.user_prompt).join(Interaction, Interaction.id == of.c.id)
    with reading(engine) as connection:
        rows = connection.execute(wanted.order_by(of.c.id), execution_options=_STREAMED)
        found = [(row.id, float(row.label), prompt_hash(row.user_prompt)) for row in rows]
        if len(found) > most:
            prompts = np.random.default_rng(seed).permutation(np.unique([prompt for *_, prompt in found]))
            place = {prompt: number for number, prompt in enumerate(prompts.tolist())}
            found = sorted(found, key=lambda each: (place[each[2]], each[0]))[:most]
        texts = _Stored(connection).read([id for id, *_ in found])
    same: dict[tuple[str, str], list[float]] = {}
    for id, label, _ in found:
        same.setdefault((texts[id].prompt, texts[id].response), []).append(label)
    return [JudgedAnswer(*answer, sum(each) / len(each)) for answer, each in same.items()]


class _InMemoryTexts:
    """Examples that are in memory anyway."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = examples

    def read(self, ids: Sequence[int]) -> Mapping[int, AnswerText]:
        return {id: _text(self._examples[id]) for id in ids}


def _text(example: Example) -> AnswerText:
    return AnswerText(example.prompt, example.response, example.group)


def _numbers(examples: Sequence[Example]) -> Answers:
    rows = (
        answer_numbers(
            id, _text(known), known.rating, known.rank, weight=known.weight, expert=known.role == ReviewerRole.EXPERT
        )
        for id, known in enumerate(examples)
    )
    return np.fromiter(rows, dtype=ANSWER)


def _fingerprint(answers: Answers) -> str:
    columns = [answers["text"], answers["rating"].astype("<u8"), answers["rank"].astype("<u8")]
    rated = answers["rating"] > 0
    # Only where there are any: data of experts alone keeps the name that it always had.
    if not (answers["expert"] & (answers["weight"] == 1))[rated].all():
        columns += [
            np.where(rated, answers["weight"], 1).astype("<f8").view("<u8"),
            (rated & answers["expert"]).astype("<u8"),
        ]
    table = np.column_stack(columns)
    return hashlib.sha256(table[np.lexsort(table.T)].tobytes()).hexdigest()


class _Stored:
    """Texts that are read from the database."""

    def __init__(self, engine: Engine | Connection) -> None:
        self._engine = engine

    def read(self, ids: Sequence[int]) -> Mapping[int, AnswerText]:
        wanted = select(Interaction.id, Interaction.user_prompt, Interaction.ai_response, Interaction.candidate_group)
        found: dict[int, AnswerText] = {}
        with reading(self._engine) as connection:
            for part in in_parts(ids):
                rows = connection.execute(wanted.where(Interaction.id.in_(part)))
                found.update((row.id, _answer_text(row)) for row in rows)
        return found


@dataclass(frozen=True, slots=True)
class _Examples:
    """The numbers of all examples, ordered by id; the experts who count less, and how many answers that leaves out."""

    answers: Answers
    raters: tuple[RaterReliability, ...] = ()
    disregarded: int = 0
    asked: NDArray[np.void] = field(default_factory=lambda: np.empty(0, dtype=ASKED))


def _read(engine: Engine | Connection, end_user_weight: float, reviewer_weighting: bool) -> _Examples:
    with reading(engine) as connection:
        rows = connection.execute(_rated_and_siblings(end_user_weight > 0), execution_options=_STREAMED)
        served = _in_rated_groups(np.fromiter(_answer_rows(rows, end_user_weight), dtype=ANSWER))
        found = _distinct(connection, served, end_user_weight, reviewer_weighting)
        return replace(found, asked=_asked(connection))


def _asked(connection: Connection, *, unjudged: bool = False) -> NDArray[np.void]:
    """Return the answers that were judged, in the order in which they first were, then those that never were.

    By the numbers of reviews, which only grow: what is judged later comes later, whenever it was asked. Then come
    those that were only compared, by the numbers of the comparisons; what was never judged has no document.
    """
    first = (
        select(Review.interaction_key.label("id"), func.min(Review.id).label("place"))
        .group_by(Review.interaction_key)
        .subquery()
    )
    sides = (
        select(side.label("id"), Preference.id.label("place")) for side in (Preference.first_id, Preference.second_id)
    )
    compared = union_all(*sides).subquery()
    judged = select(Interaction.id, Interaction.user_prompt, Interaction.ai_response)
    parts: list[Any] = [
        judged.join(of, of.c.id == Interaction.id).order_by(of.c.place, Interaction.id) for of in (first, compared)
    ]
    if unjudged:
        parts.append(judged.order_by(Interaction.id).with_only_columns(Interaction.id, Interaction.user_prompt, null()))
    rows = (row for part in parts for row in connection.execute(part, execution_options=_STREAMED))
    numbers = (
        (id, prompt_hash(prompt), 0 if response is None else _document_hash(response)) for id, prompt, response in rows
    )
    return np.fromiter(numbers, dtype=ASKED)


def _hashed(prompts: Sequence[str]) -> tuple[Hashes, Sequence[str]]:
    return np.array([prompt_hash(prompt) for prompt in prompts], dtype=np.int64), prompts


def _in_rated_groups(answers: Answers) -> Answers:
    group = numbered(answers["group"])
    rated: Answers = answers[np.bincount(group[answers["rating"] > 0], minlength=len(answers))[group] > 0]
    return rated


def _answer_rows(rows: Any, end_user_weight: float) -> Iterator[tuple[object, ...]]:
    for row in rows:
        expert = row.rating is not None or row.end_user_rating is None
        rating = row.rating if expert else row.end_user_rating
        weight = 1.0 if expert else end_user_weight
        yield answer_numbers(row.id, _answer_text(row), rating, row.shown_rank, weight=weight, expert=expert)


def _answer_text(row: Any) -> AnswerText:
    return AnswerText(row.user_prompt, row.ai_response, group_name(row.candidate_group, row.user_prompt))


def _rated_and_siblings(by_end_users: bool) -> Any:
    by_anybody = or_(Interaction.rating.is_not(None), Interaction.end_user_rating.is_not(None))
    rated = by_anybody if by_end_users else Interaction.rating.is_not(None)
    rated_groups = select(Interaction.candidate_group).where(rated, Interaction.candidate_group.is_not(None))
    return (
        select(
            Interaction.id,
            Interaction.user_prompt,
            Interaction.ai_response,
            Interaction.rating,
            (Interaction.end_user_rating if by_end_users else null()).label("end_user_rating"),
            Interaction.candidate_group,
            Interaction.shown_rank,
        )
        .where(or_(rated, Interaction.candidate_group.is_(None), Interaction.candidate_group.in_(rated_groups)))
        .order_by(Interaction.id)
    )


def _distinct(connection: Connection, served: Answers, end_user_weight: float, reviewer_weighting: bool) -> _Examples:
    """Make the servings of one answer one: the first, with the first known rank and the rating by all reviews."""
    number = numbered(served["answer"])
    recounted = np.bincount(number) > 1
    if not (reviewer_weighting or recounted.any()):
        return _Examples(served)
    reviews = read_reviews(connection, served["id"], number, end_users=end_user_weight > 0)
    raters = reviews.reliability() if reviewer_weighting else {}
    weight = reviews.weights(raters)
    recounted[reviews.answer[weight < 1]] = True
    if not recounted.any():
        return _Examples(served)
    answers = served[np.unique(number, return_index=True)[1]]
    ranked = np.flatnonzero(served["rank"] > 0)
    which, first = np.unique(number[ranked], return_index=True)
    answers["rank"][which] = served["rank"][ranked[first]]
    for name, unrated in (("rating", 0), ("weight", 1.0), ("expert", True)):
        answers[name][recounted] = unrated
    wanted = recounted[reviews.answer]
    _rate(answers, reviews.only(wanted), weight[wanted], end_user_weight)
    less = tuple(rater for rater in raters.values() if rater.weight < 1)
    if not less:
        return _Examples(answers)
    by_experts = np.zeros(len(answers), dtype=np.bool_)
    by_experts[reviews.answer[reviews.expert]] = True
    by_experts[reviews.answer[reviews.expert & (weight > 0)]] = False
    return _Examples(_in_rated_groups(answers), less, int(by_experts.sum()))


def _rate(answers: Answers, reviews: Reviews, weight: Floats, end_user_weight: float) -> None:
    """Give the answers the ratings that their reviews amount to."""
    # The experts last: where one of them counts, the end users' word is overwritten.
    for of_experts in (False, True):
        of_role = reviews.expert == of_experts
        found = consensus(reviews.answer[of_role], reviews.rating[of_role], weight[of_role])
        answers["rating"][found.answer] = found.rating
        answers["weight"][found.answer] = found.weight if of_experts else end_user_weight
        answers["expert"][found.answer] = of_experts
