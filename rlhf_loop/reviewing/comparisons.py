"""Two answers to one question side by side: give a pair to a rater, store which one is better, take that back."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import delete, insert, select, update
from sqlalchemy.engine import Connection, Engine

from rlhf_loop.config import Settings
from rlhf_loop.reviewing.items import MAX_COMMENT, checked_text
from rlhf_loop.reviewing.pair_candidates import FoundPair, is_free, pair_candidates
from rlhf_loop.reviewing.priority import part
from rlhf_loop.reviewing.queue import lease
from rlhf_loop.store import audit
from rlhf_loop.store.engine import reading, transaction
from rlhf_loop.store.interactions import put_preference
from rlhf_loop.store.tables import LARGEST_ID, Interaction, PairAssignment, Preference

Preferred = Literal["first", "second", "tie"]

#: How often to look anew when others took all that was found.
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class PairAnswer:
    """One of the two answers."""

    interaction_id: int
    response: str
    source: str | None
    title: str | None
    url: str | None
    licence: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PairItem:
    """Two answers to one question; `first` has the lower id.

    `left_is_first` says which side it stands on: as good as random, and for one rater and pair always the same.
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
    with reading(engine) as connection:
        mine = connection.execute(_open(reviewer)).first()
    if mine is not None:
        with transaction(engine) as connection:
            _lock(connection, mine.first_id, mine.second_id)
            again = FoundPair(mine.first_id, mine.second_id)
            if mine.leased_until > now or is_free(connection, again, reviewer, settings, now, again=True):
                _set(connection, reviewer, again, leased_until=max(mine.leased_until, lease(settings, now)))
                return _pair(connection, again, reviewer)
    for _ in range(_ATTEMPTS):
        with reading(engine) as connection:
            found = pair_candidates(connection, reviewer)
        if not found:
            return None
        for each in found:
            with transaction(engine) as connection:
                if _lock(connection, each.first_id, each.second_id) and is_free(
                    connection, each, reviewer, settings, now
                ):
                    values = {
                        "reviewer": reviewer,
                        "first_id": each.first_id,
                        "second_id": each.second_id,
                        "assigned_at": now,
                        "leased_until": lease(settings, now),
                    }
                    connection.execute(insert(PairAssignment), values)
                    return _pair(connection, each, reviewer)
    return None


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
        ValueError: `preferred` is no choice, the comment is too long or cannot be stored, or the answers were changed
            and are to different questions now.
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
        put_preference(
            connection,
            chosen,
            rejected,
            reviewer=reviewer,
            tie=preferred == "tie",
            comment=comment,
            preferred_at=now,
        )
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
        _lock(connection, pair.first_id, pair.second_id)
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


def _open(reviewer: str) -> Any:
    return (
        select(PairAssignment.first_id, PairAssignment.second_id, PairAssignment.leased_until)
        .where(PairAssignment.reviewer == reviewer, PairAssignment.state == "open")
        .order_by(PairAssignment.leased_until.desc())
        .limit(1)
    )


def _lock(connection: Connection, first_id: int, second_id: int) -> bool:
    """Lock both answers, always in the same order, as two who compare them may; False if one is gone."""
    locked = select(Interaction.id).where(Interaction.id.in_((first_id, second_id))).order_by(Interaction.id)
    return len(connection.execute(locked.with_for_update(key_share=True)).all()) == 2


def _state(connection: Connection, reviewer: str, pair: FoundPair) -> str:
    given = select(PairAssignment.state).where(*_of(PairAssignment, reviewer, pair))
    found = None
    if max(pair.first_id, pair.second_id) <= LARGEST_ID:
        _lock(connection, pair.first_id, pair.second_id)
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
    wanted = select(
        Interaction.id,
        Interaction.user_prompt,
        Interaction.ai_response,
        Interaction.source,
        Interaction.title,
        Interaction.url,
        Interaction.licence,
    ).where(Interaction.id.in_((pair.first_id, pair.second_id)))
    first, second = connection.execute(wanted.order_by(Interaction.id)).all()
    return PairItem(
        prompt=first.user_prompt,
        first=_answer(first),
        second=_answer(second),
        left_is_first=part("side", reviewer, _target(pair)) < 0.5,
    )


def _answer(row: Any) -> PairAnswer:
    return PairAnswer(
        interaction_id=row.id,
        response=row.ai_response,
        source=row.source,
        title=row.title,
        url=row.url,
        licence=row.licence,
    )
