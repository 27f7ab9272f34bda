"""Online experiment: how those who ask rate the first answers of the live order, and of the other one.

Chance draws the order that answers a question, with a probability that may change from week to week as the share is
turned up or down. So each rated answer counts with one over its probability, and each order's mean is divided by the
sum of these (Hajek 1971): both orders are judged on the same mixture of weeks. The intervals draw questions, not
answers, since who asks the same again gets the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, func, or_, select
from sqlalchemy.engine import Connection, Engine

from rlhf_loop.domain import GOOD_RATING, Interval, prompt_key
from rlhf_loop.store.engine import reading
from rlhf_loop.store.interactions import INTERLEAVED, LIVE, experiment_name, other_order
from rlhf_loop.store.tables import Interaction, ServedQuestion
from rlhf_loop.training import metrics
from rlhf_loop.utils.translation import Message

Floats = NDArray[np.float64]

#: Rows that are in memory at a time.
_AT_ONCE = 10_000


@dataclass(frozen=True, slots=True)
class ArmReport:
    """The record of one order: `questions` were answered by it, and of `rated` of them the first answer was rated."""

    policy: str
    questions: int
    rated: int
    mean_rating: Interval | None
    good_share: Interval | None


@dataclass(frozen=True, slots=True)
class InterleavingReport:
    """An experiment by interleaving: which order's answers were rated higher in the same list.

    `questions` were answered so; those with a rating are wins, losses (of the live order) or ties. `preference` is the
    share of wins less that of losses, from -1 to 1.
    """

    questions: int
    wins: int
    losses: int
    ties: int
    preference: Interval | None


@dataclass(frozen=True, slots=True)
class ExperimentReport:
    """The live order (first of the `arms`) and the one that it was compared with last.

    The differences are the live order's value less the other's. `reason` says why something is missing yet.
    """

    arms: tuple[ArmReport, ...] = ()
    rating_difference: Interval | None = None
    good_difference: Interval | None = None
    interleaving: InterleavingReport | None = None
    reason: str = ""


def experiment(engine: Engine, *, since: datetime | None = None) -> ExperimentReport:
    """Compare the live order with the one that the newest experiment is against.

    Questions count that were answered since that time, and only those that either order could have answered. An end
    user's rating counts before the experts': it is their satisfaction, and experts get to see first what the live model
    is unsure of.

    Raises:
        DatabaseError: the database cannot be read.
    """
    table = ServedQuestion
    recent = [table.served_at >= since] if since is not None else []
    with reading(engine) as connection:
        newest = (
            select(table.experiment)
            .where(table.experiment.is_not(None), *recent)
            .order_by(table.served_at.desc(), table.candidate_group)
            .limit(1)
        )
        name = connection.execute(newest.where(table.propensity < 1)).scalar()
        if name is None:
            return ExperimentReport(reason=_nothing(connection.execute(newest).scalar()))
        other = other_order(name)
        taking_part = [table.propensity < 1, *recent]
        mixed = table.experiment == experiment_name(other, interleaved=True)
        interleaving = _interleaving(connection, [mixed, table.policy == INTERLEAVED, *taking_part])
        return _report(connection, other, [table.experiment == other, *taking_part], interleaving)


def _report(
    connection: Connection, other: str, where: Sequence[ColumnElement[bool]], interleaving: InterleavingReport | None
) -> ExperimentReport:
    table = ServedQuestion
    counted = select(table.policy, func.count()).where(*where).group_by(table.policy)
    answered: dict[str, int] = {policy: count for policy, count in connection.execute(counted)}
    if not answered:
        few = interleaving is not None and interleaving.preference is None
        return ExperimentReport(interleaving=interleaving, reason=_few_interleaved(interleaving) if few else "")
    answers = _first_answers(connection, where)
    found = compare(answers)
    ours = sum(answers.live)
    theirs = len(answers.live) - ours
    arms = (
        ArmReport(LIVE, answered.get(LIVE, 0), ours, found.live_rating, found.live_good),
        ArmReport(other, answered.get(other, 0), theirs, found.other_rating, found.other_good),
    )
    reason = "" if found.rating_difference else _few(arms)
    return ExperimentReport(arms, found.rating_difference, found.good_difference, interleaving, reason)


def _first_answers(connection: Connection, where: Sequence[ColumnElement[bool]]) -> FirstAnswers:
    table = ServedQuestion
    wanted = (
        select(table.policy, table.propensity, _RATING, Interaction.user_prompt)
        .join(Interaction, Interaction.external_id == table.first_id)
        .where(*where, _RATED)
        .order_by(table.served_at, table.candidate_group)
    )
    answers, questions = FirstAnswers(), _Questions()
    for policy, propensity, rating, prompt in _streamed(connection, wanted):
        answers.live.append(policy == LIVE)
        answers.propensity.append(propensity)
        answers.rating.append(rating)
        answers.question.append(questions.number(prompt))
    return answers


def _interleaving(connection: Connection, where: Sequence[ColumnElement[bool]]) -> InterleavingReport | None:
    table = ServedQuestion
    answered = connection.execute(select(func.count()).select_from(table).where(*where)).scalar_one()
    if not answered:
        return None
    wanted = (
        select(table.candidate_group, table.teams, Interaction.external_id, _RATING, Interaction.user_prompt)
        .join(Interaction, Interaction.candidate_group == table.candidate_group)
        .where(*where, _RATED)
        .order_by(table.served_at, table.candidate_group)
    )
    ratings: dict[str, tuple[list[int], list[int]]] = {}
    asked: dict[str, int] = {}
    questions = _Questions()
    for group, teams, name, rating, prompt in _streamed(connection, wanted):
        # An answer that somebody added to the list later is nobody's.
        if team := (teams or {}).get(name):
            ratings.setdefault(group, ([], []))[team != LIVE].append(rating)
            asked[group] = questions.number(prompt)
    outcomes = [outcome(*of) for of in ratings.values()]
    return InterleavingReport(
        questions=answered,
        wins=outcomes.count(1),
        losses=outcomes.count(-1),
        ties=outcomes.count(0),
        preference=preference(outcomes, [asked[group] for group in ratings]),
    )


class _Questions:
    """Numbers questions from 0; other spellings of one are the same."""

    def __init__(self) -> None:
        self._known: dict[int, int] = {}

    def number(self, prompt: str) -> int:
        # By their hashes: the texts of hundreds of thousands would take much memory.
        return self._known.setdefault(hash(prompt_key(prompt)), len(self._known))


_RATING = func.coalesce(Interaction.end_user_rating, Interaction.rating)
_RATED = or_(Interaction.end_user_rating.is_not(None), Interaction.rating.is_not(None))


def _streamed(connection: Connection, wanted: Any) -> Any:
    return connection.execute(wanted, execution_options={"yield_per": _AT_ONCE})


def _nothing(one_sided: str | None) -> str:
    if one_sided is not None:
        return Message(
            "All questions go to the experiment ({other}), and none to the live order, so there is nothing to "
            "compare. Set RLHF_EXPERIMENT_SHARE below 1.",
            other=one_sided,
        )
    return Message(
        "No question has taken part in an experiment yet. Set RLHF_EXPERIMENT_SHARE, such as 0.1, and restart the "
        "service."
    )


def _few(arms: Sequence[ArmReport]) -> str:
    rated = tuple(
        Message("{n:,} of {questions:,} of {order}", n=arm.rated, questions=arm.questions, order=arm.policy)
        for arm in arms
    )
    return Message(
        "Too few first answers are rated: {rated}. Ask users to rate; it takes {least} questions of each.",
        rated=rated,
        least=MIN_RATED,
    )


def _few_interleaved(report: InterleavingReport | None) -> str:
    rated = report.wins + report.losses + report.ties if report else 0
    answered = report.questions if report else 0
    return Message(
        "Too few interleaved answers are rated: {n:,} of {answers:,}. Ask users to rate; it takes {least} questions.",
        n=rated,
        answers=answered,
        least=MIN_RATED,
    )


#: Rated questions that each side needs before there is an interval: fewer would make it look surer than it is.
MIN_RATED = 10
_DRAWS = 1000
#: Numbers of draws by kinds that are held at a time.
_BLOCK = 2**20
_MIDDLE_RATING = 3


@dataclass(slots=True)
class FirstAnswers:
    """Ratings of first answers, one entry each: by whom it was ordered, how probably, and whose question it is."""

    live: list[bool] = field(default_factory=list)
    propensity: list[float] = field(default_factory=list)
    rating: list[int] = field(default_factory=list)
    question: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class OrderComparison:
    """Both orders compared by ratings; None where there are fewer than `MIN_RATED` questions."""

    live_rating: Interval | None
    other_rating: Interval | None
    live_good: Interval | None
    other_good: Interval | None
    rating_difference: Interval | None
    good_difference: Interval | None


def compare(answers: FirstAnswers, *, seed: int = 0) -> OrderComparison:
    """Return what the ratings say of both orders, with 95 % bootstrap intervals."""
    live = np.array(answers.live, dtype=bool)
    weight = 1 / np.array(answers.propensity, dtype=np.float64)
    rating = np.array(answers.rating, dtype=np.float64)
    question = np.array(answers.question, dtype=np.intp)
    sides = [live, ~live]
    # By question: for each side the weight, the weighted ratings, and the weight of the good ones.
    columns = [
        np.where(side, weight * value, 0.0) for side in sides for value in (1.0, rating, 1.0 * (rating >= GOOD_RATING))
    ]
    sums = _resampled(_by_question(question, columns), seed)
    enough = [len(np.unique(question[side])) >= MIN_RATED for side in sides]
    live_rating, live_good = (_divided(sums[:, upper], sums[:, 0]) for upper in (1, 2))
    other_rating, other_good = (_divided(sums[:, upper], sums[:, 3]) for upper in (4, 5))
    return OrderComparison(
        live_rating=_interval(live_rating, enough[0]),
        other_rating=_interval(other_rating, enough[1]),
        live_good=_interval(live_good, enough[0]),
        other_good=_interval(other_good, enough[1]),
        rating_difference=_interval(live_rating - other_rating, all(enough)),
        good_difference=_interval(live_good - other_good, all(enough)),
    )


def preference(outcomes: Sequence[int], questions: Sequence[int], *, seed: int = 0) -> Interval | None:
    """Return the mean of outcomes (1 for a win, -1 for a loss) with its interval; None for few questions."""
    outcome = np.array(outcomes, dtype=np.float64)
    sums = _resampled(_by_question(np.array(questions, dtype=np.intp), [np.ones(len(outcome)), outcome]), seed)
    return _interval(_divided(sums[:, 1], sums[:, 0]), len(set(questions)) >= MIN_RATED)


def outcome(live: Sequence[int], other: Sequence[int]) -> int:
    """Tell which order's answers in one list were rated higher: 1 the live one's, -1 the other's, 0 neither's.

    Where only one's were rated, it wins by ratings above the middle of the scale, and loses by those below.
    """
    ours = sum(live) / len(live) if live else None
    theirs = sum(other) / len(other) if other else None
    if ours is None and theirs is None:
        return 0
    high = ours if ours is not None else _MIDDLE_RATING
    low = theirs if theirs is not None else _MIDDLE_RATING
    return (high > low) - (high < low)


def _by_question(question: NDArray[np.intp], columns: Sequence[Floats]) -> Floats:
    questions = int(question.max(initial=-1)) + 1
    sums = np.stack([np.bincount(question, weights=column, minlength=questions) for column in columns], axis=1)
    # Sums of the same numbers in another order differ in their last bits.
    return np.round(sums, 12)


def _resampled(of_question: Floats, seed: int) -> Floats:
    """Return the sums over all questions, and over each bootstrap draw of them; row 0 is the sample itself.

    Ratings are whole numbers and probabilities few, so of many questions most are of few kinds. How often each kind is
    drawn follows a multinomial distribution: the same bootstrap, without a number for each question in each draw.
    """
    kinds, count = np.unique(of_question, axis=0, return_counts=True)
    if not len(count):
        return np.zeros((_DRAWS + 1, of_question.shape[1]))
    rng, questions = np.random.default_rng(seed), len(of_question)
    sums = [count[None, :] @ kinds]
    step = max(1, _BLOCK // len(count))
    for start in range(0, _DRAWS, step):
        sums.append(rng.multinomial(questions, count / questions, size=min(step, _DRAWS - start)) @ kinds)
    return np.concatenate(sums).astype(np.float64)


def _divided(upper: Floats, lower: Floats) -> Floats:
    quotient: Floats = np.divide(upper, lower, out=np.full(len(upper), np.nan), where=lower > 0)
    return quotient


def _interval(values: Floats, enough: bool) -> Interval | None:
    return Interval(*metrics.interval(values)) if enough else None
