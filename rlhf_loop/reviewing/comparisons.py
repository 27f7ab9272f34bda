"""Comparisons of two answers to one question: give a pair to a rater, store which one is better, take that back.

Compared are answers with different texts that are nearly as good as each other. Pairs come from the questions whose
best two answers are closest by the live model, from the newest questions, and from a stretch of the table that begins
anywhere. Answers belong to one question by their candidate group, and without one by
their prompt, letter by letter. Pairs that experts' ratings have already put in an order come last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations
from typing import Any, Literal

from sqlalchemy import delete, exists, func, insert, or_, select, update
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.orm import aliased

from rlhf_loop.config import Settings
from rlhf_loop.domain import Origin, ReviewerRole, field_values, prompt_key
from rlhf_loop.reviewing.candidates import part, same_prompt, servings, wanted
from rlhf_loop.reviewing.items import MAX_COMMENT, checked_text
from rlhf_loop.reviewing.queue import lease
from rlhf_loop.store import audit
from rlhf_loop.store.engine import reading, transaction
from rlhf_loop.store.interactions import group_name, put_preference
from rlhf_loop.store.tables import (
    LARGEST_ID,
    ORIGIN_COLUMNS,
    AnswerScore,
    Interaction,
    PairAssignment,
    Preference,
    origin_of,
)
from rlhf_loop.utils.text import visible

#: How many questions each way of looking gives, how many answers it looks at for them, and answers of one question.
_QUESTIONS, _ANSWERS, _OF_ONE = 15, 100, 30
#: In how many stretches of the table it looks before it finds that nothing is left.
_STRETCHES = 20
#: What the distance counts as where a score is unknown: after those that are close, before those far apart.
_UNKNOWN = 0.5
_ALREADY_ORDERED = 10.0

_NAMED = select(Interaction.id, Interaction.candidate_group, Interaction.user_prompt)


@dataclass(frozen=True, slots=True)
class FoundPair:
    """Two answers that may be compared; `first_id` is the lower id."""

    first_id: int
    second_id: int


def pair_candidates(connection: Connection, reviewer: str) -> list[FoundPair]:
    """Return pairs that the rater may be given, the closest first; to be checked again when one is taken."""
    count = select(func.count()).select_from(PairAssignment).where(PairAssignment.reviewer == reviewer)
    given = connection.execute(count).scalar_one()
    last = connection.execute(select(func.max(Interaction.id))).scalar() or 0
    newest = _NAMED.order_by(Interaction.id.desc())
    queries = [_closest(reviewer), newest]
    for attempt in range(_STRETCHES):
        place = int(part("pairs", reviewer, str(given), str(attempt)) * last) + 1
        queries.append(newest.where(Interaction.id <= place))
        valued: dict[FoundPair, float] = {}
        for question in _questions(connection, queries):
            valued.update(_pairs(question))
        mine = select(PairAssignment.first_id, PairAssignment.second_id).where(
            PairAssignment.reviewer == reviewer, PairAssignment.first_id.in_({pair.first_id for pair in valued})
        )
        new = valued.keys() - {FoundPair(*ids) for ids in connection.execute(mine)}
        if new:
            return sorted(new, key=lambda pair: (valued[pair], -pair.second_id, -pair.first_id))
        queries = []
    return []


def is_free(
    connection: Connection, pair: FoundPair, reviewer: str, settings: Settings, now: datetime, *, again: bool = False
) -> bool:
    """Tell whether the rater may be given the pair: to be asked once both answers are locked.

    What was said of the same two texts in other servings counts as well. `again` is for a pair that the rater was given
    before.
    """
    firsts, seconds = servings(connection, pair.first_id), servings(connection, pair.second_id)
    given = connection.execute(_of_both(PairAssignment, firsts, seconds)).all()
    stored = connection.execute(_of_both(Preference, firsts, seconds)).all()
    mine = [(row.first_id, row.second_id) for row in given if row.reviewer == reviewer]
    if again:
        mine = [ids for ids in mine if ids != (pair.first_id, pair.second_id)]
    if mine or any(row.reviewer == reviewer for row in stored):
        return False
    raters = {row.reviewer for row in stored if row.role == ReviewerRole.EXPERT}
    raters |= {
        row.reviewer for row in given if row.reviewer != reviewer and row.state == "open" and row.leased_until > now
    }
    named = select(Interaction.candidate_group, Interaction.user_prompt).where(Interaction.id == pair.first_id)
    question = group_name(*connection.execute(named).one())
    return len(raters) < wanted(question, experts=0, spread=0, settings=settings)


def _of_both(table: Any, firsts: list[int], seconds: list[int]) -> Any:
    # The same two texts may stand in the other order, where they were served again.
    either = (table.first_id.in_(firsts) & table.second_id.in_(seconds)) | (
        table.first_id.in_(seconds) & table.second_id.in_(firsts)
    )
    return select(table.__table__).where(either)


def _closest(reviewer: str) -> Any:
    """Select the answers that are one of the best two of their question, the closest first; each once a rater."""
    compared = exists(
        select(1).where(
            PairAssignment.reviewer == reviewer,
            or_(PairAssignment.first_id == Interaction.id, PairAssignment.second_id == Interaction.id),
        )
    )
    closest = _NAMED.join(AnswerScore, AnswerScore.interaction_key == Interaction.id)
    return closest.where(AnswerScore.margin.is_not(None), ~compared).order_by(AnswerScore.margin)


def _questions(connection: Connection, queries: Sequence[Any]) -> list[list[Any]]:
    """Return the answers of each of the questions that the queries name."""
    named: dict[tuple[str | None, str], Any] = {}
    for query in queries:
        found: dict[tuple[str | None, str], Any] = {}
        for row in connection.execute(query.limit(_ANSWERS)):
            found.setdefault((row.candidate_group, row.user_prompt if row.candidate_group is None else ""), row)
        named.update(list(found.items())[:_QUESTIONS])
    return [_answers(connection, row) for row in named.values()]


def _answers(connection: Connection, named: Any) -> list[Any]:
    """Return the newest answers to the question of that one."""
    answers = select(
        Interaction.id,
        Interaction.user_prompt,
        Interaction.ai_response,
        Interaction.rating,
        func.coalesce(AnswerScore.score, Interaction.score).label("score"),
    ).join(AnswerScore, AnswerScore.interaction_key == Interaction.id, isouter=True)
    if named.candidate_group is None:
        one = aliased(Interaction)
        answers = answers.join(one, same_prompt(one, Interaction))
        answers = answers.where(one.id == named.id, Interaction.candidate_group.is_(None))
    else:
        answers = answers.where(Interaction.candidate_group == named.candidate_group)
    return list(connection.execute(answers.order_by((Interaction.id + 0).desc()).limit(_OF_ONE)))


def _pairs(answers: Sequence[Any]) -> dict[FoundPair, float]:
    """Return the pairs of different texts among the answers to a question, and how far apart they are."""
    # The newest come first, so of an answer that was served again the first serving stays.
    texts = {(prompt_key(row.user_prompt), visible(row.ai_response)): row for row in answers}
    found = {}
    for first, second in combinations(sorted(texts.values(), key=lambda row: row.id), 2):
        if prompt_key(first.user_prompt) == prompt_key(second.user_prompt):
            unknown = first.score is None or second.score is None
            distance = _UNKNOWN if unknown else abs(first.score - second.score)
            ordered = first.rating is not None and second.rating is not None and first.rating != second.rating
            found[FoundPair(first.id, second.id)] = distance + (_ALREADY_ORDERED if ordered else 0)
    return found


Preferred = Literal["first", "second", "tie"]

#: How often to look anew when others took all that was found.
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class PairAnswer:
    """One of the two answers."""

    interaction_key: int
    response: str
    origin: Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class PairItem:
    """Two answers to one question; `first` has the lower id.

    `left_is_first` says which side it stands on: pseudo-random, and for one rater and pair always the same.
    """

    prompt: str
    first: PairAnswer
    second: PairAnswer
    left_is_first: bool


def next_pair(engine: Engine, *, reviewer: str, settings: Settings, now: datetime | None = None) -> PairItem | None:
    """Give the rater two answers to compare, None if there are none.

    A pair that the rater has open comes first; else those that the model thinks nearly as good as each other.
    """
    now = now or datetime.now(UTC)
    if again := _resumed(engine, reviewer, settings, now):
        return again
    for _ in range(_ATTEMPTS):
        with reading(engine) as connection:
            found = pair_candidates(connection, reviewer)
        if not found:
            break
        for each in found:
            with transaction(engine) as connection:
                if _lock(connection, each) and is_free(connection, each, reviewer, settings, now):
                    times = {"assigned_at": now, "leased_until": lease(settings, now)}
                    connection.execute(insert(PairAssignment), {"reviewer": reviewer, **field_values(each), **times})
                    return _pair(connection, each, reviewer)
    # Of two requests of the rater at one moment, the other one may have got the last pair.
    return _resumed(engine, reviewer, settings, now)


def prefer(
    engine: Engine,
    *,
    reviewer: str,
    first_id: int,
    second_id: int,
    preferred: Preferred,
    comment: str | None = None,
    now: datetime | None = None,
) -> None:
    """Store which of two answers the rater finds better, or change it; the same again changes nothing.

    Raises:
        ValueError: `preferred` is not a valid choice, the comment is too long or cannot be stored, or the answers were
            changed and are to different questions now.
        LookupError: the pair was not given to the rater.
    """
    now = now or datetime.now(UTC)
    if preferred not in ("first", "second", "tie"):
        raise ValueError(f"The choice is {preferred!r}. Choose first, second or tie.")
    comment = checked_text("comment", comment, limit=MAX_COMMENT)
    pair = FoundPair(first_id, second_id)
    with transaction(engine) as connection:
        state = _state(connection, reviewer, pair)
        earlier = _preference(connection, reviewer, pair)
        if state == "preferred" and earlier == (preferred, comment):
            return
        chosen, rejected = (second_id, first_id) if preferred == "second" else (first_id, second_id)
        tie = preferred == "tie"
        put_preference(connection, chosen, rejected, reviewer=reviewer, tie=tie, comment=comment, preferred_at=now)
        _set(connection, reviewer, pair, state="preferred")


def skip_pair(engine: Engine, *, reviewer: str, first_id: int, second_id: int) -> None:
    """Pass over a pair; it does not come again. One that was compared stays as it is.

    Raises:
        LookupError: the pair was not given to the rater.
    """
    pair = FoundPair(first_id, second_id)
    with transaction(engine) as connection:
        if _state(connection, reviewer, pair) == "open":
            _set(connection, reviewer, pair, state="skipped")
            audit.note(connection, reviewer, "pair.skipped", _target(pair))


def undo_pair(
    engine: Engine, *, reviewer: str, settings: Settings | None = None, now: datetime | None = None
) -> PairItem | None:
    """Take back the newest choice or skip, and open that pair again; None if there is nothing to undo."""
    newest = (
        select(PairAssignment.first_id, PairAssignment.second_id, PairAssignment.state)
        .where(PairAssignment.reviewer == reviewer, PairAssignment.state != "open")
        .order_by(PairAssignment.assigned_at.desc(), PairAssignment.first_id.desc(), PairAssignment.second_id.desc())
        .limit(1)
    )
    with transaction(engine) as connection:
        row = connection.execute(newest).one_or_none()
        if row is None:
            return None
        pair = FoundPair(row.first_id, row.second_id)
        _lock(connection, pair)
        if row.state == "preferred":
            earlier = _preference(connection, reviewer, pair)
            connection.execute(delete(Preference).where(*_of(Preference, reviewer, pair)))
            detail = None if earlier is None else {"before": earlier[0]}
            audit.note(connection, reviewer, "preference.withdrawn", _target(pair), detail)
        else:
            audit.note(connection, reviewer, "pair.reopened", _target(pair))
        until = lease(settings or Settings(), now or datetime.now(UTC))
        _set(connection, reviewer, pair, state="open", leased_until=until)
        return _pair(connection, pair, reviewer)


def _resumed(engine: Engine, reviewer: str, settings: Settings, now: datetime) -> PairItem | None:
    """Give the rater the pair again that they have open, None if there is none, or others have taken its place."""
    opened = (
        select(PairAssignment.first_id, PairAssignment.second_id, PairAssignment.leased_until)
        .where(PairAssignment.reviewer == reviewer, PairAssignment.state == "open")
        .order_by(PairAssignment.leased_until.desc())
        .limit(1)
    )
    with reading(engine) as connection:
        mine = connection.execute(opened).first()
    if mine is None:
        return None
    with transaction(engine) as connection:
        again = FoundPair(mine.first_id, mine.second_id)
        _lock(connection, again)
        if mine.leased_until <= now and not is_free(connection, again, reviewer, settings, now, again=True):
            return None
        _set(connection, reviewer, again, leased_until=max(mine.leased_until, lease(settings, now)))
        return _pair(connection, again, reviewer)


def _lock(connection: Connection, pair: FoundPair) -> bool:
    """Lock both answers, always in the same order, as two who compare them may; False if one is gone."""
    locked = select(Interaction.id).where(Interaction.id.in_((pair.first_id, pair.second_id))).order_by(Interaction.id)
    return len(connection.execute(locked.with_for_update(key_share=True)).all()) == 2


def _state(connection: Connection, reviewer: str, pair: FoundPair) -> str:
    given = select(PairAssignment.state).where(*_of(PairAssignment, reviewer, pair))
    found = None
    if max(pair.first_id, pair.second_id) <= LARGEST_ID:
        _lock(connection, pair)
        found = connection.execute(given).scalar()
    if found is None:
        raise LookupError(
            f"The answers {pair.first_id} and {pair.second_id} were not given to {reviewer!r} to compare. Open the "
            "page for comparing, which gives you the next pair."
        )
    return found


def _preference(connection: Connection, reviewer: str, pair: FoundPair) -> tuple[str, str | None] | None:
    found = select(Preference.preferred, Preference.comment).where(*_of(Preference, reviewer, pair))
    row = connection.execute(found).one_or_none()
    return None if row is None else (row.preferred, row.comment)


def _set(connection: Connection, reviewer: str, pair: FoundPair, **values: Any) -> None:
    connection.execute(update(PairAssignment).where(*_of(PairAssignment, reviewer, pair)).values(**values))


def _of(table: Any, reviewer: str, pair: FoundPair) -> tuple[Any, ...]:
    return table.reviewer == reviewer, table.first_id == pair.first_id, table.second_id == pair.second_id


def _target(pair: FoundPair) -> str:
    return f"pair:{pair.first_id}-{pair.second_id}"


def _pair(connection: Connection, pair: FoundPair, reviewer: str) -> PairItem:
    both = select(Interaction.id, Interaction.user_prompt, Interaction.ai_response, *ORIGIN_COLUMNS)
    both = both.where(Interaction.id.in_((pair.first_id, pair.second_id)))
    first, second = connection.execute(both.order_by(Interaction.id)).all()
    return PairItem(
        prompt=first.user_prompt,
        first=_answer(first),
        second=_answer(second),
        left_is_first=part("side", reviewer, _target(pair)) < 0.5,
    )


def _answer(row: Any) -> PairAnswer:
    return PairAnswer(interaction_key=row.id, response=row.ai_response, origin=origin_of(row))
