"""Candidates of the review queue: answers that a rater could be given next, best first.

The whole queue is never sorted. An answer is worth much for one of few reasons, and for each of these the database has
an order that begins with the largest value, found through an index. Only where all of them give nothing, the whole
queue is looked through before anybody is told that nothing is left. The value of an answer that waits is the largest of
what speaks for it:

- the live model is uncertain: 1 - 2 |p - 0.5| for its probability p that the answer is good. Where the live model has
  not scored it yet, p is the score with which it was served; without one the value is 0.5;
- experts disagree (their ratings are two grades or more apart): 1, until five have rated it;
- the best two answers of its question are close, and it is one of them: 0.9 at no distance, 0 from 0.2 on;
- somebody has rated it, and it is to have several raters (overlap): 0.3.

The largest value comes first, of equal values the newest answer. Two kinds of turns go before that. One in ten is
random, or the queue would never see what the model is wrongly sure of. And as many turns as second opinions need go to
answers that wait for one, so that they neither pile up nor come in a row. A question belongs to the overlap by its name
alone, so all its answers do, in every process, for good.

People repeat questions, and nobody should rate the same words again: only the first serving of an answer is ever given
to a rater, and none once an expert has rated one of them, unless it is to have several raters. Answers are the same
where prompt and text are equal, letter by letter: an index finds those, and one over all spellings of a question would
need a column of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Row, ScalarSelect, Select, and_, case, exists, func, literal_column, or_, select
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.orm import aliased

from rlhf_loop.config import Settings
from rlhf_loop.domain import Origin, ReviewerRole, UserRole
from rlhf_loop.store.engine import reading
from rlhf_loop.store.interactions import group_name
from rlhf_loop.store.queries import first_and_last
from rlhf_loop.store.tables import ORIGIN_COLUMNS, AnswerScore, Assignment, Interaction, Review, User, origin_of

#: The share of turns that give a random answer.
RANDOM_SHARE = 0.1
#: Experts disagree from this many grades on, and are this many at most.
DISAGREEMENT, MOST_EXPERTS = 2, 5

_UNKNOWN = 0.5
_OF_OVERLAP = 0.3
_CLOSE, _CLOSEST_VALUE = 0.2, 0.9


class Why(StrEnum):
    """The reason why an answer was given to a rater."""

    UNCERTAIN = "uncertain"
    DISAGREEMENT = "disagreement"
    CLOSE = "close"
    OVERLAP = "overlap"
    RECENT = "recent"
    RANDOM = "random"


class Turn(StrEnum):
    """The kind of answer that comes next."""

    BEST = "best"
    SECOND_OPINION = "second opinion"
    RANDOM = "random"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Facts about an answer that waits: `experts` rated it, `spread` grades apart; None is unknown."""

    interaction_key: int
    score: float | None = None
    margin: float | None = None
    experts: int = 0
    spread: int = 0


def value(facts: Facts) -> tuple[float, Why]:
    """Return how much a review of the answer teaches, from 0 to 1, and why."""
    if disagree(facts.experts, facts.spread):
        return 1.0, Why.DISAGREEMENT
    if facts.experts:
        return _OF_OVERLAP, Why.OVERLAP
    doubt = _UNKNOWN if facts.score is None else 1 - 2 * abs(facts.score - 0.5)
    close = 0.0 if facts.margin is None else max(0.0, _CLOSEST_VALUE * (1 - facts.margin / _CLOSE))
    if close > doubt:
        return close, Why.CLOSE
    return doubt, Why.UNCERTAIN if doubt > _UNKNOWN else Why.RECENT


def wanted(question: str, *, experts: int, spread: int, settings: Settings) -> int:
    """Return how many experts are to rate an answer to the question that so many have rated so far."""
    several = max(1, settings.review_overlap_raters) if in_overlap(question, settings.review_overlap) else 1
    return max(several, experts + 1) if disagree(experts, spread) else several


def disagree(experts: int, spread: int) -> bool:
    """Tell whether the experts differ so much that one more is asked."""
    return 2 <= experts < MOST_EXPERTS and spread >= DISAGREEMENT


def in_overlap(question: str, share: float) -> bool:
    """Tell whether the question's answers are to have several raters, for this share of all questions."""
    return part("overlap", question) < share


def turn(reviewer: str, previous: int | None, settings: Settings) -> Turn:
    """Return what kind of answer a rater gets after the previous one; the same for the same arguments."""
    drawn = part("turn", reviewer, str(previous))
    if drawn < RANDOM_SHARE:
        return Turn.RANDOM
    further = min(1.0, settings.review_overlap) * max(0, settings.review_overlap_raters - 1)
    # Of 1 + `further` ratings that an answer gets on average, so many are second opinions.
    return Turn.SECOND_OPINION if drawn < RANDOM_SHARE + (1 - RANDOM_SHARE) * further / (1 + further) else Turn.BEST


def part(*words: str) -> float:
    """Return a number from 0 up to but not 1 that only depends on the words, evenly spread."""
    digest = hashlib.sha256("\x1f".join(words).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def start_of(text: Any) -> ColumnElement[str]:
    """Return what the index over texts holds of one; the numbers have to stand in the statement, as in the index."""
    return func.substr(text, literal_column("1"), literal_column("64"))


def same_prompt(one: Any, other: Any) -> ColumnElement[bool]:
    """Return the condition that two interactions have the same prompt, as the index can find it.

    It has to be given columns, no values: where a column equals a value, SQLite puts the value into the expressions of
    the index as well, and then it does not know them again.
    """
    return and_(start_of(one.user_prompt) == start_of(other.user_prompt), one.user_prompt == other.user_prompt)


def stands_for_all() -> ColumnElement[bool]:
    """Return the condition that it is the first serving of an answer, and that no expert has rated another one."""
    other = aliased(Interaction)
    before_or_rated = or_(other.id < Interaction.id, other.rating.is_not(None))
    return ~exists(select(1).where(_same(other, Interaction), other.id != Interaction.id, before_or_rated))


def servings(connection: Connection, interaction_key: int, *, limit: int = 1000) -> list[int]:
    """Return the ids of all servings of an answer, the first of them first; at most `limit`."""
    one = aliased(Interaction)
    same = select(Interaction.id).join(one, _same(one, Interaction)).where(one.id == interaction_key)
    # By a sum, so that no database reads the whole table in the order of its key, hoping for an early hit.
    return list(connection.execute(same.order_by(Interaction.id + 0).limit(limit)).scalars())


@dataclass(frozen=True, slots=True)
class OtherAnswer:
    """Another answer to the question of one that is judged."""

    response: str
    origin: Origin


def other_answers(engine: Engine, interaction_key: int, *, limit: int = 5) -> list[OtherAnswer]:
    """Return other answers to the same question, the first of them first, each text once."""
    one = aliased(Interaction)
    same_group = or_(
        Interaction.candidate_group == one.candidate_group,
        and_(Interaction.candidate_group.is_(None), one.candidate_group.is_(None)),
    )
    wanted = (
        select(Interaction.ai_response, *ORIGIN_COLUMNS)
        .join(one, and_(same_prompt(one, Interaction), same_group, Interaction.ai_response != one.ai_response))
        .where(one.id == interaction_key)
        .order_by(Interaction.id + 0)
        .limit(_LOOKED_AT)
    )
    found: dict[str, OtherAnswer] = {}
    with reading(engine) as connection:
        for row in connection.execute(wanted):
            found.setdefault(row.ai_response, OtherAnswer(row.ai_response, origin_of(row)))
    return list(found.values())[:limit]


def _same(one: Any, other: Any) -> ColumnElement[bool]:
    return and_(
        same_prompt(one, other),
        start_of(one.ai_response) == start_of(other.ai_response),
        one.ai_response == other.ai_response,
    )


#: How many questions say what a rater's field is, and what is not.
_OF_A_FIELD = 200
#: How many servings are looked through for other answers to a question.
_LOOKED_AT = 50
#: How many answers each way of looking gives.
_NEAREST, _CLOSEST, _NEWEST = 60, 40, 60
#: How many rows it looks at for them: reviews for second opinions, and answers that wait.
_REVIEWS, _WAITING = 400, 1000
#: How many of those that the whole queue still holds are tried; at most as many raters have one open right now.
_LEFT = 200


@dataclass(frozen=True, slots=True)
class QueueCandidate:
    """An answer that the rater may be given, and why."""

    interaction_key: int
    why: Why


@dataclass(frozen=True, slots=True, kw_only=True)
class Rater:
    """A rater who asks now, after a previous answer, for one that is to be theirs until a moment."""

    name: str
    now: datetime
    until: datetime
    previous: int | None = None


def candidates(connection: Connection, rater: Rater, settings: Settings) -> list[QueueCandidate]:
    """Return answers that the rater may be given, best first; they have to be checked again when one is taken."""
    kind = turn(rater.name, rater.previous, settings)
    if kind is Turn.RANDOM and (drawn := _drawn(connection, rater, settings)):
        return [*(QueueCandidate(id, Why.RANDOM) for id in drawn), *_by_value(connection, rater, settings)]
    if kind is Turn.SECOND_OPINION:
        begun = _begun(connection, rater, settings)
        overlap = [QueueCandidate(each.interaction_key, Why.OVERLAP) for each in begun if value(each)[1] is Why.OVERLAP]
        return [*overlap, *_by_value(connection, rater, settings, begun)]
    return _by_value(connection, rater, settings)


def all_that_waits(connection: Connection, rater: Rater, settings: Settings) -> list[QueueCandidate]:
    """Look through the whole queue for what the rater may be given, the newest first."""
    waiting = _free(select(Interaction.id), rater, settings)
    found = connection.execute(waiting.order_by(Interaction.id.desc()).limit(_LEFT)).scalars()
    return [QueueCandidate(id, Why.RECENT) for id in found]


def prompts(connection: Connection, found: Sequence[QueueCandidate]) -> list[str]:
    """Return the questions of candidates, in their order."""
    wanted = select(Interaction.id, Interaction.user_prompt).where(
        Interaction.id.in_([each.interaction_key for each in found])
    )
    asked = {row.id: row.user_prompt for row in connection.execute(wanted)}
    return [asked.get(each.interaction_key, "") for each in found]


def fields(connection: Connection, reviewer: str) -> tuple[list[str], list[str]]:
    """Return the newest questions that the rater skipped as not their field; if any, also the newest they reviewed."""
    newest = (
        select(Interaction.user_prompt)
        .join(Assignment, Assignment.interaction_key == Interaction.id)
        .where(Assignment.reviewer == reviewer)
        .order_by(Assignment.assigned_at.desc())
        .limit(_OF_A_FIELD)
    )
    others = list(connection.execute(newest.where(Assignment.not_my_field)).scalars())
    own = newest.where(Assignment.state == "reviewed")
    return others, list(connection.execute(own).scalars()) if others else []


@dataclass(frozen=True, slots=True, kw_only=True)
class Unjudged:
    """An answer that every active rater skipped as none of their field."""

    interaction_key: int
    prompt: str
    response: str


def nobodys_field(engine: Engine, *, limit: int = 50) -> list[Unjudged]:
    """Return answers that every active rater skipped as none of their field, the newest first."""
    raters = select(User.name).where(User.role == UserRole.RATER, User.active)
    skipped = (
        select(Assignment.interaction_key)
        .where(Assignment.not_my_field, Assignment.reviewer.in_(raters))
        .group_by(Assignment.interaction_key)
        .having(func.count() >= select(func.count()).select_from(raters.subquery()).scalar_subquery())
    )
    wanted = (
        select(Interaction.id, Interaction.user_prompt, Interaction.ai_response)
        .where(Interaction.id.in_(skipped), Interaction.rating.is_(None))
        .order_by(Interaction.id.desc())
        .limit(limit)
    )
    with reading(engine) as connection:
        rows = connection.execute(wanted).all()
    return [Unjudged(interaction_key=row.id, prompt=row.user_prompt, response=row.ai_response) for row in rows]


def count_waiting(connection: Connection, rater: Rater, settings: Settings, *, most: int) -> int:
    """Count the answers that no expert has rated and that the rater may be given, of the newest `most` that wait."""
    free = _stretch(rater, settings, limit=most).subquery()
    return connection.execute(select(func.count()).select_from(free)).scalar_one()


def count_left(connection: Connection, *, most: int) -> int:
    """Count the answers that no expert has rated, of the newest `most`, each text once."""
    looked_at = newest_waiting(most).subquery()
    left = select(Interaction.id).join(looked_at, looked_at.c.id == Interaction.id).where(stands_for_all())
    return connection.execute(select(func.count()).select_from(left.subquery())).scalar_one()


def count_open(connection: Connection, rater: Rater) -> int:
    """Count the answers that the rater has been given, that no expert has rated, and that are still theirs."""
    live = (Assignment.reviewer == rater.name, Assignment.state == "open", Assignment.leased_until > rater.now)
    unrated = select(Assignment.interaction_key).join(Interaction, Interaction.id == Assignment.interaction_key)
    unrated = unrated.where(*live, Interaction.rating.is_(None))
    return connection.execute(select(func.count()).select_from(unrated.subquery())).scalar_one()


def newest_waiting(most: int) -> Select[Any]:
    """Select the ids of the newest answers that no expert has rated, at most so many."""
    return select(Interaction.id).where(Interaction.rating.is_(None)).order_by(Interaction.id.desc()).limit(most)


def _by_value(
    connection: Connection, rater: Rater, settings: Settings, begun: Sequence[Facts] | None = None
) -> list[QueueCandidate]:
    facts = {each.interaction_key: each for each in _waiting(connection, rater, settings)}
    facts.update((each.interaction_key, each) for each in (begun or _begun(connection, rater, settings)))
    valued = [(value(each), each.interaction_key) for each in facts.values()]
    return [QueueCandidate(id, why) for (_, why), id in sorted(valued, key=lambda one: (-one[0][0], -one[1]))]


def _waiting(connection: Connection, rater: Rater, settings: Settings) -> list[Facts]:
    """Return answers that no expert has rated: of which the model is unsure, close ones, and the newest."""
    scored = _free(
        select(Interaction.id).join(AnswerScore, AnswerScore.interaction_key == Interaction.id), rater, settings
    )
    ids = _ids(
        connection,
        scored.where(AnswerScore.score >= 0.5).order_by(AnswerScore.score).limit(_NEAREST),
        scored.where(AnswerScore.score < 0.5).order_by(AnswerScore.score.desc()).limit(_NEAREST),
        scored.where(AnswerScore.margin.is_not(None)).order_by(AnswerScore.margin).limit(_CLOSEST),
        _stretch(rater, settings),
    )
    numbers = (
        select(
            Interaction.id,
            func.coalesce(AnswerScore.score, Interaction.score).label("score"),
            AnswerScore.margin,
            _leases(rater).label("leases"),
        )
        .join(AnswerScore, AnswerScore.interaction_key == Interaction.id, isouter=True)
        .where(Interaction.id.in_(ids))
    )
    rows = list(connection.execute(numbers))
    shared = _questions(connection, [row.id for row in rows if row.leases])
    return [
        Facts(interaction_key=row.id, score=row.score, margin=row.margin)
        for row in rows
        if not row.leases or row.leases < wanted(shared[row.id], experts=0, spread=0, settings=settings)
    ]


def _begun(connection: Connection, rater: Rater, settings: Settings) -> list[Facts]:
    """Return answers that experts have rated and that want one more, from two stretches of the reviews.

    One is the newest reviews, the other begins anywhere: so what was left over is found sooner or later, and no rater
    waits while all reviews are read.
    """
    newest = select(Review.id, Review.interaction_key).order_by(Review.id.desc()).limit(_REVIEWS)
    last = connection.execute(select(func.max(Review.id))).scalar()
    anywhere = newest.where(Review.id <= int(part("begun", rater.name, str(rater.previous)) * (last or 0)) + 1)
    ids = _ids(connection, *(select(stretch.subquery().c.interaction_key) for stretch in (newest, anywhere)))
    most = max(settings.review_overlap_raters if settings.review_overlap else 1, MOST_EXPERTS)
    experts = func.count().label("experts")
    spread = (func.max(Review.rating) - func.min(Review.rating)).label("spread")
    rated = (
        select(Review.interaction_key.label("interaction_key"), experts, spread)
        .where(
            Review.interaction_key.in_(ids), Review.role == ReviewerRole.EXPERT, ~_given(Review.interaction_key, rater)
        )
        .group_by(Review.interaction_key)
        .having(experts < most, func.sum(case((Review.reviewer == rater.name, 1), else_=0)) == 0)
    )
    if not settings.review_overlap or settings.review_overlap_raters < 2:
        rated = rated.having(spread >= DISAGREEMENT)
    counted = {row.interaction_key: row for row in connection.execute(rated)}
    questions = _questions(connection, counted)
    return [
        Facts(interaction_key=id, experts=row.experts, spread=row.spread)
        for id, row in sorted(counted.items(), reverse=True)
        if row.experts < wanted(questions[id], experts=row.experts, spread=row.spread, settings=settings)
    ]


def _drawn(connection: Connection, rater: Rater, settings: Settings) -> list[int]:
    """Return answers from anywhere in the queue; another place for each answer before."""
    waits = Interaction.rating.is_(None)
    first, last = connection.execute(first_and_last(waits)).one()
    if first is None:
        return []
    place = first + int(part("random", rater.name, str(rater.previous)) * (last - first + 1))
    return _ids(connection, _stretch(rater, settings, up_to=place, limit=5))


def _stretch(rater: Rater, settings: Settings, *, up_to: int | None = None, limit: int = _NEWEST) -> Select[Any]:
    """Select the newest answers that wait, or the newest of those up to an id."""
    ids = newest_waiting(_WAITING)
    if up_to is not None:
        ids = ids.where(Interaction.id <= up_to)
    looked_at = ids.subquery()
    free = _free(select(Interaction.id).join(looked_at, looked_at.c.id == Interaction.id), rater, settings)
    return free.order_by(looked_at.c.id.desc()).limit(limit)


def _free(query: Select[Any], rater: Rater, settings: Settings) -> Select[Any]:
    """Keep answers that no expert has rated, that the rater was never given, and that not too many look at now."""
    several = max(1, settings.review_overlap_raters) if settings.review_overlap else 1
    waits = (Interaction.rating.is_(None), stands_for_all())
    return query.where(*waits, ~_given(Interaction.id, rater), _leases(rater) < several)


def _leases(rater: Rater) -> ScalarSelect[int]:
    live = (Assignment.state == "open") & (Assignment.leased_until > rater.now)
    return select(func.count()).where(Assignment.interaction_key == Interaction.id, live).scalar_subquery()


def _given(id: Any, rater: Rater) -> ColumnElement[bool]:
    return exists(select(1).where(Assignment.reviewer == rater.name, Assignment.interaction_key == id))


def _ids(connection: Connection, *queries: Select[Any]) -> list[int]:
    # One statement each: a union would have to bring their orders together, and SQLite cannot.
    found: dict[int, None] = {}
    for query in queries:
        found.update(dict.fromkeys(connection.execute(query).scalars()))
    return list(found)


def _questions(connection: Connection, ids: Iterable[int]) -> Mapping[int, str]:
    """Return the names of the questions that the answers belong to."""
    prompt = case((Interaction.candidate_group.is_(None), Interaction.user_prompt))
    named = select(Interaction.id, Interaction.candidate_group, prompt.label("prompt")).where(
        Interaction.id.in_(list(ids))
    )
    return {row.id: question(row) for row in connection.execute(named)}


def question(row: Row[Any]) -> str:
    """Return the name of the question from a row with `candidate_group` and `prompt`."""
    return group_name(row.candidate_group, row.prompt or "")
