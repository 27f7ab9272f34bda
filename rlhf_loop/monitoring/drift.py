"""Drift: whether people ask other questions than before, and whether the live model scores its answers otherwise.

The questions of each week are compared with those of the weeks before the live model was trained, which it was judged
by. Scores of different models say nothing about each other, so those of a week are compared with the first that the
live model gave. A promotion begins both anew.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import bindparam, func, select
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.orm import aliased

from rlhf_loop import registry
from rlhf_loop.domain import Progress, prompt_key
from rlhf_loop.store.engine import reading
from rlhf_loop.store.tables import Interaction
from rlhf_loop.utils.concurrency import single_threaded_blas
from rlhf_loop.utils.extras import require
from rlhf_loop.utils.translation import Message

if TYPE_CHECKING:
    from rlhf_loop.encoders import TextEncoder

#: A week has moved from this index on, if chance brings as much less often than this.
MOVED, RARE = 0.2, 0.01
#: So far, one week is enough; else it takes two in a row.
FAR = 0.5
#: Questions of a week from which on it is compared, and of the reference.
ENOUGH, ENOUGH_REFERENCE = 50, 100
#: Weeks of the reference, and the questions of it that make the topics.
_REFERENCE_WEEKS, _REFERENCE = 8, 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftPoint:
    """A week, which begins on a Monday (UTC): how far its questions and scores are from the reference.

    `questions` counts those of the sample. The indices and p values are those of `Shift`; None where there are too
    few to compare, or nothing to compare with.
    """

    week: date
    questions: int
    question_psi: float | None = None
    question_p: float | None = None
    score_psi: float | None = None
    score_p: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """The weeks, the oldest first, and since when they have drifted; None if they have not.

    The reference of the questions reaches from `reference_from` until `reference_until`, both days included. Its own
    weeks and those before are among the points, too, for the chart; only later ones can drift. `moved` names what
    has drifted: "questions", "scores"; `compared` what could have. `reason` says why that is nothing, or only a part.
    """

    reference_from: date | None
    reference_until: date | None
    points: tuple[DriftPoint, ...]
    drifted_since: date | None
    reason: str
    moved: tuple[str, ...] = ()
    compared: tuple[str, ...] = ()


def drift(
    engine: Engine,
    *,
    encoder: TextEncoder | None,
    now: datetime | None = None,
    weeks: int = 26,
    progress: Progress | None = None,
) -> Drift:
    """Compare the latest `weeks` in which anything was asked with the reference; without encoder the scores alone.

    It has drifted if the latest weeks that can be compared have moved: two in a row, or one of them far. `progress`
    gets how many questions are embedded, and how many there are.
    """
    now = (now or datetime.now(UTC)).astimezone(UTC)
    asked = weeks_of_questions(engine, now=now)
    live = registry.live(engine)
    reference = _reference(asked, live.made_at if live else None)
    shown = asked[-weeks:]
    questions = _question_shifts(shown, reference, encoder, progress) if encoder is not None and reference else {}
    scores = _score_shifts(asked, live.version) if live else {}
    later = {week: shift for week, shift in questions.items() if week > reference[-1].start}
    since = {name: _since(list(of.items())) for name, of in (("questions", later), ("scores", scores)) if of}
    moved = {name: week for name, week in since.items() if week is not None}
    return Drift(
        reference_from=reference[0].first if reference else None,
        reference_until=reference[-1].last if reference else None,
        points=tuple(_point(week, questions.get(week.start), scores.get(week.start)) for week in shown),
        drifted_since=min(moved.values(), default=None),
        reason=_reason(asked, reference, encoder, later, scores),
        moved=tuple(moved),
        compared=tuple(since),
    )


def _reference(asked: Sequence[Week], trained_at: datetime | None) -> Sequence[Week]:
    """Return the weeks before the live model was trained, else the first ones that there are; none if too few."""
    if trained_at is not None:
        before = [week for week in asked if week.start < monday(trained_at)][-_REFERENCE_WEEKS:]
        if _count(before) >= ENOUGH_REFERENCE:
            return before
    for weeks in range(1, _REFERENCE_WEEKS + 1):
        if _count(asked[:weeks]) >= 2 * ENOUGH_REFERENCE:
            return asked[:weeks]
    return asked[:_REFERENCE_WEEKS] if _count(asked[:_REFERENCE_WEEKS]) >= ENOUGH_REFERENCE else ()


def _question_shifts(
    shown: Sequence[Week], reference: Sequence[Week], encoder: TextEncoder, progress: Progress | None
) -> dict[date, Shift]:
    of_each, done = _REFERENCE // len(reference), 0
    first = [week.questions[:of_each] for week in reference]
    enough = [week for week in shown if len(week.questions) >= ENOUGH]
    total = sum(map(len, first)) + _count(enough)

    def encoded(questions: Sequence[SampledQuestion]) -> Vectors:
        nonlocal done
        parts = []
        for start in range(0, len(questions), _AT_ONCE):
            some = [one.prompt for one in questions[start : start + _AT_ONCE]]
            parts.append(encoder.encode(some))
            done += len(some)
            if progress is not None:
                progress(done, total)
        return np.concatenate(parts)

    if progress is not None:
        progress(0, total)
    topics = Topics(np.concatenate([encoded(some) for some in first]))
    return {week.start: topics.shift(encoded(week.questions)) for week in enough}


def _score_shifts(asked: Sequence[Week], version: str) -> dict[date, Shift]:
    """Compare the scores by this model with its first ones."""
    found: dict[date, Shift] = {}
    reference: list[float] = []
    for week in asked:
        scores = [one.score for one in week.questions if one.version == version and one.score is not None]
        if len(reference) < ENOUGH_REFERENCE:
            reference += scores
        elif len(scores) >= ENOUGH:
            found[week.start] = of_numbers(np.array(reference), np.array(scores))
    return found


def _since(weeks: Sequence[tuple[date, Shift]]) -> date | None:
    """Return the first of the latest weeks that have all moved, None where that is not enough to speak of a drift."""
    latest = list(takewhile(lambda one: one[1].index >= MOVED and one[1].p < RARE, reversed(weeks)))
    if len(latest) >= 2 or any(shift.index >= FAR for _, shift in latest):
        return latest[-1][0]
    return None


def _point(week: Week, questions: Shift | None, scores: Shift | None) -> DriftPoint:
    return DriftPoint(
        week=week.start,
        questions=len(week.questions),
        question_psi=questions.index if questions else None,
        question_p=questions.p if questions else None,
        score_psi=scores.index if scores else None,
        score_p=scores.p if scores else None,
    )


def _reason(
    asked: Sequence[Week],
    reference: Sequence[Week],
    encoder: TextEncoder | None,
    later: Mapping[date, Shift],
    scores: Mapping[date, Shift],
) -> str:
    """Say why there is nothing to see, or only a part of it."""
    if not reference:
        count = _count(asked)
        why = Message.counted(
            "there is {n:,} question so far, and the first {enough} are what later ones are compared with",
            "there are {n:,} questions so far, and the first {enough} are what later ones are compared with",
            count,
            enough=ENOUGH_REFERENCE,
        )
    elif encoder is None:
        why = Message("the encoder is not there (rlhf-loop doctor says why)")
    elif not later:
        why = Message(
            "no week after {day}, where the reference ends, has {n} questions", day=reference[-1].last, n=ENOUGH
        )
    elif scores:
        return ""
    else:
        return Message("Only the questions are compared: the live model has not scored enough of them yet.")
    if scores:
        return Message("Only the scores are compared: {why}.", why=why)
    return Message("Drift cannot be seen yet: {why}.", why=why)


def _count(weeks: Sequence[Week]) -> int:
    return sum(len(week.questions) for week in weeks)


#: Questions that are embedded before it is told how many are.
_AT_ONCE = 64
#: Questions that are looked at in all, and of one week at most.
_LOOKED_AT, OF_A_WEEK = 20_000, 300
_AT_A_TIME = 1_000


@dataclass(frozen=True, slots=True)
class SampledQuestion:
    """A question. `score` is that of its best answer by the model `version`; both None where none scored them."""

    prompt: str
    at: datetime
    version: str | None
    score: float | None


@dataclass(frozen=True, slots=True)
class Week:
    """The questions of a week, which begins on a Monday (UTC), in the order in which they were drawn."""

    start: date
    questions: tuple[SampledQuestion, ...]

    @property
    def first(self) -> date:
        """The day of its first question."""
        return min(one.at for one in self.questions).date()

    @property
    def last(self) -> date:
        """The day of its last question."""
        return max(one.at for one in self.questions).date()


@dataclass(frozen=True, slots=True)
class _First:
    """The first answer to a question. `group` is None where the answers to a question belong to no group."""

    id: int
    group: str | None
    prompt: str
    at: datetime
    version: str | None
    score: float | None


def weeks_of_questions(engine: Engine, *, now: datetime) -> list[Week]:
    """Return the weeks until now in which anything was asked, the oldest first, each with a sample of its questions.

    A question is one candidate group, or a prompt in a week where there are no groups. There may be millions of
    answers, and no index knows their time: so questions are found by the index of their groups, which holds the ids of
    their answers, and only those of the sample are read.
    """
    with reading(engine) as connection:
        by_week: dict[date, list[_First]] = defaultdict(list)
        seen: set[tuple[date, str]] = set()
        for first in _firsts(connection, _drawn(connection)):
            week = monday(first.at)
            without_group = (week, prompt_key(first.prompt))
            if first.at > now or len(by_week[week]) >= OF_A_WEEK or (first.group is None and without_group in seen):
                continue
            if first.group is None:
                seen.add(without_group)
            by_week[week].append(first)
        best = _best(connection, [first.id for each in by_week.values() for first in each if first.group])
    return [
        Week(
            week,
            tuple(SampledQuestion(one.prompt, one.at, *best.get(one.id, (one.version, one.score))) for one in firsts),
        )
        for week, firsts in sorted(by_week.items())
        if firsts
    ]


def monday(moment: datetime) -> date:
    """Return the first day of its week."""
    return moment.date() - timedelta(days=moment.weekday())


def _drawn(connection: Connection) -> list[int]:
    """Return the ids of the first answers to the questions of the sample, in the order in which they were drawn.

    The draw depends on the id alone: a question stays in the sample, or out of it, however many others there are.
    """
    group = Interaction.candidate_group
    wanted = (
        select(func.min(Interaction.id)).where(group.is_not(None)).group_by(group),
        select(Interaction.id).where(group.is_(None)),
    )
    found = [
        np.array(some, dtype=np.uint64)
        for each in wanted
        for some in connection.execute(each, execution_options={"yield_per": 10_000}).scalars().partitions()
    ]
    ids = np.concatenate([np.empty(0, dtype=np.uint64), *found])
    drawn = ids[np.argsort(_mixed(ids), kind="stable")][:_LOOKED_AT]
    return [int(id) for id in drawn]


def _mixed(ids: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return pseudo-random numbers, each the same for the same id: SplitMix64's finalizer (Steele et al. 2014)."""
    mixed = ids + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _firsts(connection: Connection, ids: Sequence[int]) -> Iterator[_First]:
    """Give the answers with these ids, in their order."""
    wanted = select(
        Interaction.id,
        Interaction.candidate_group,
        Interaction.user_prompt,
        Interaction.created_at,
        Interaction.model_version,
        Interaction.score,
    ).where(Interaction.id.in_(_IDS))
    for some in _portions(ids):
        rows = {row.id: row for row in connection.execute(wanted, {"ids": some})}
        for id in some:
            row = rows[id]
            version, score = (None, None) if row.score is None else (row.model_version, row.score)
            yield _First(id, row.candidate_group, row.user_prompt, row.created_at, version, score)


def _best(connection: Connection, firsts: Sequence[int]) -> dict[int, tuple[str | None, float | None]]:
    """Return the best score of each group, with the model that gave it, by the id of the group's first answer."""
    found: dict[int, tuple[str | None, float | None]] = {}
    first = aliased(Interaction)
    best = func.max(Interaction.score)
    wanted = (
        select(first.id, Interaction.model_version, best)
        .join(Interaction, Interaction.candidate_group == first.candidate_group)
        .where(first.id.in_(_IDS), Interaction.score.is_not(None))
        .group_by(first.id, Interaction.model_version)
        .order_by(best, Interaction.model_version)
    )
    for some in _portions(firsts):
        # The last of a group has the best score.
        found |= {id: (version, score) for id, version, score in connection.execute(wanted, {"ids": some})}
    return found


#: Whole numbers, written into the statement: thousands of parameters take longer than the search itself.
_IDS: Any = bindparam("ids", expanding=True, literal_execute=True)


def _portions(items: Sequence[int]) -> Iterator[Sequence[int]]:
    return (items[start : start + _AT_A_TIME] for start in range(0, len(items), _AT_A_TIME))


Floats = NDArray[np.float64]
Counts = NDArray[np.intp]
Vectors = NDArray[np.float32]

#: Clusters of the reference: at most so many, and at least so many texts for each.
_CLUSTERS, _OF_A_CLUSTER = 20, 10
_FEWEST_CLUSTERS = 5
#: More of them find no better clusters, and most of the time goes into them.
_BEGINNINGS = 2
#: The share of the reference that counts as far from all of them.
_FAR = 0.1
#: Bins of numbers: deciles of the reference.
_BINS = 10


@dataclass(frozen=True, slots=True)
class Shift:
    """The distance of a sample from the reference: the index without what chance alone brings, and a test's p value."""

    index: float
    p: float


def of_counts(before: Counts, after: Counts) -> Shift:
    """Compare how often each bin was met; the p value is that of the chi-square test of homogeneity."""
    chi2_contingency = require("scipy.stats", "serve").chi2_contingency
    met = before + after > 0
    if met.sum() < 2:
        return Shift(0.0, 1.0)
    p = chi2_contingency(np.stack([before[met], after[met]]), correction=False).pvalue
    return Shift(stability_index(before, after), float(p))


def of_numbers(before: Floats, after: Floats) -> Shift:
    """Compare numbers by the deciles of those before; the p value is that of the Kolmogorov-Smirnov test."""
    ks_2samp = require("scipy.stats", "serve").ks_2samp
    # Where many are equal, several deciles are one.
    edges = np.unique(np.quantile(before, np.arange(1, _BINS) / _BINS))
    counts = [np.bincount(np.searchsorted(edges, values), minlength=len(edges) + 1) for values in (before, after)]
    return Shift(stability_index(*counts), float(ks_2samp(before, after, method="asymp").pvalue))


def stability_index(before: Counts, after: Counts) -> float:
    """Return the population stability index without what it is on average where nothing has moved; never below 0.

    The index of two lists of shares a and b is the sum of (b - a) ln(b / a): from 0.1 on a moderate shift, from 0.25 on
    a large one (Siddiqi, Credit Risk Scorecards, 2006). Those rules are for large samples. Of k bins, n and m values,
    it is about (k - 1) (1 / n + 1 / m) on average where nothing has moved (Yurdakul and Naranjo, New properties of the
    population stability index, 2020): 0.2 already with 50 questions and ten bins. So that is taken off.
    """
    bins, n, m = len(before), before.sum(), after.sum()
    # Half a count more in each bin, or an empty one would make it infinite.
    a, b = ((counts + 0.5) / (total + 0.5 * bins) for counts, total in ((before, n), (after, m)))
    index = float(((b - a) * np.log(b / a)).sum())
    return max(0.0, index - (bins - 1) * float(1 / n + 1 / m))


class Topics:
    """Clusters of the reference's texts, by which other texts are compared with them.

    One half makes the clusters, the other says how often each is met. Counted on those that made them, clusters would
    fit the reference better than anything that comes later, and all of it would look as if it had moved. What is
    farther from all clusters than most of that half is a bin of its own: else a subject that has nothing to do with
    any of them could be spread over all of them, and nobody would notice.
    """

    def __init__(self, reference: Vectors, *, seed: int = 0) -> None:
        cluster = require("sklearn.cluster", "serve")
        drawn = reference[np.random.default_rng(seed).permutation(len(reference))]
        made_of, counted = drawn[::2], drawn[1::2]
        clusters = max(_FEWEST_CLUSTERS, min(_CLUSTERS, len(made_of) // _OF_A_CLUSTER))
        with single_threaded_blas():
            # The same question asked again and again is one point, and there are no more clusters than points.
            clusters = min(clusters, len(np.unique(made_of, axis=0)))
            self._clusters = cluster.KMeans(clusters, n_init=_BEGINNINGS, random_state=seed).fit(made_of)
            self._far = float(np.quantile(self._distances(counted).min(axis=1), 1 - _FAR))
            self._met = self._count(counted)

    def shift(self, vectors: Vectors) -> Shift:
        """Compare the topics of the texts with those of the reference."""
        with single_threaded_blas():
            return of_counts(self._met, self._count(vectors))

    def _count(self, vectors: Vectors) -> Counts:
        distances = self._distances(vectors)
        found = np.where(distances.min(axis=1) > self._far, self._clusters.n_clusters, distances.argmin(axis=1))
        return np.bincount(found, minlength=self._clusters.n_clusters + 1)

    def _distances(self, vectors: Vectors) -> NDArray[np.float32]:
        """Return how far each text is from each cluster, shape (texts, clusters)."""
        found: NDArray[np.float32] = self._clusters.transform(np.ascontiguousarray(vectors, dtype=np.float32))
        return found
