"""Recorded rankings in the database: found to be rated, deleted when they are old, or when somebody is to be forgotten.

The documents of a ranking are interactions, which reviews and trends know as any others; how it was served is a row of
`rlhf_served_questions`, which stays when they are deleted for their age. Such rows are deleted for their own age, too,
a few thousand in a transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import ColumnElement, Select, UpdateBase, delete, exists, func, or_, select, union_all, update
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.orm import aliased

from rlhf_loop.domain import ANSWERS, RANKED, Progress, prompt_key
from rlhf_loop.store import audit, idempotency
from rlhf_loop.store.engine import reading, transaction, upsert
from rlhf_loop.store.tables import Draft, Interaction, Preference, Review, ServedQuestion, UsedPassage
from rlhf_loop.utils.sqlite import in_parts

#: Rankings and answers that are deleted in one transaction, for which others wait.
_GROUPS_AT_ONCE, _ANSWERS_AT_ONCE = 50, 900
#: Records of serving that are changed or deleted in one.
_RECORDS_AT_ONCE = 5_000


class PurgedError(LookupError):
    """The ranking was recorded once; its documents are deleted."""


@dataclass(frozen=True, slots=True)
class StoredRanking:
    """A recorded ranking: its question, whose token asked, how many documents went back.

    `documents` are the interactions' keys by their index in the list that was given, best first.
    """

    id: str
    query: str
    caller: str | None
    returned: int | None
    documents: dict[int, int]


def find(connection: Connection, id: str) -> StoredRanking:
    """Return the recorded ranking with that id.

    Raises:
        PurgedError: its documents are deleted.
        LookupError: there is none.
    """
    group = f"{RANKED}{id}"
    about = select(ServedQuestion.caller, ServedQuestion.returned).where(ServedQuestion.candidate_group == group)
    served = connection.execute(about).one_or_none()
    if served is None:
        raise LookupError(
            f"There is no recorded ranking with the id {id[:100]!r}. Send the X-RLHF-Ranking-Id of the answer; without "
            "that header it was not recorded (RLHF_RECORD_RANKINGS, or tokens add --record). One of a moment ago comes "
            "within seconds."
        )
    wanted = select(Interaction.id, Interaction.shown_rank, Interaction.user_prompt)
    rows = connection.execute(wanted.where(Interaction.candidate_group == group).order_by(Interaction.id)).all()
    if not rows:
        raise PurgedError(
            f"The documents of the ranking {id[:100]!r} are deleted: it was older than RLHF_RECORD_DAYS, or purged. "
            "Rank anew, and rate that."
        )
    documents = {(row.shown_rank or 1) - 1: row.id for row in rows}
    return StoredRanking(id, rows[0].user_prompt, served.caller, served.returned, documents)


def caller_of(connection: Connection, answer: int) -> tuple[str, str] | None:
    """Return the ranking to which an answer belongs, and whose token asked; None where no token did."""
    of = select(Interaction.candidate_group).where(Interaction.id == answer)
    group = connection.execute(of).scalar() or ""
    id = group.removeprefix(RANKED).removeprefix(ANSWERS)
    if id == group:
        return None
    wanted = select(ServedQuestion.caller).where(ServedQuestion.candidate_group == RANKED + id)
    caller = connection.execute(wanted).scalar()
    return None if caller is None else (id, caller)


def note_used(connection: Connection, answer: int, passages: Sequence[int]) -> None:
    """Note which passages a final answer was made of; what is noted already stays."""
    rows = [{"answer_id": answer, "passage_id": passage} for passage in passages]
    upsert(connection, UsedPassage, rows, key=["answer_id", "passage_id"], changed=())


@dataclass(frozen=True, slots=True)
class Stored:
    """The number of questions, of answers and documents to them, and of reviews of these."""

    questions: int = 0
    answers: int = 0
    reviews: int = 0

    def __add__(self, other: Stored) -> Stored:
        return Stored(self.questions + other.questions, self.answers + other.answers, self.reviews + other.reviews)


def old(connection: Connection, *, before: datetime, among: Sequence[str] | None = None) -> list[str]:
    """Return the groups of recorded rankings from before that time that have documents, of which nothing was judged."""
    other, group = aliased(Interaction), ServedQuestion.candidate_group
    wanted = (
        select(group)
        .where(*_has_documents(before))
        .where(exists().where(Interaction.candidate_group == group))
        .where(~exists().where(other.candidate_group == group, _is_judged(other)))
    )
    if among is not None:
        wanted = wanted.where(group.in_(among))
    return list(connection.execute(wanted.order_by(group)).scalars())


def of_groups(connection: Connection, groups: Sequence[str]) -> list[int]:
    """Return the keys of the answers in these groups."""
    found = list[int]()
    for some in in_parts(groups):
        found += connection.execute(select(Interaction.id).where(Interaction.candidate_group.in_(some))).scalars()
    return sorted(found)


def of_query(connection: Connection, query: str) -> list[int]:
    """Return the keys of all answers to a question, in each of its spellings and whatever way they came."""
    key, found = prompt_key(query), list[int]()
    everything = select(Interaction.id, Interaction.user_prompt).order_by(Interaction.id)
    for row in connection.execute(everything, execution_options={"yield_per": 1000}):
        if prompt_key(row.user_prompt) == key:
            found.append(row.id)
    return found


def of_caller(connection: Connection, caller: str) -> list[int]:
    """Return the keys of the documents of a caller's rankings, and of the answers that were made of them."""
    groups = connection.execute(_served_to(caller)).scalars().all()
    return of_groups(connection, [name for group in groups for name in (group, ANSWERS + group.removeprefix(RANKED))])


def external_ids(connection: Connection, keys: Sequence[int]) -> set[str]:
    """Return the ids of these answers that others know."""
    found = set[str]()
    for some in in_parts(keys):
        found.update(connection.execute(select(Interaction.external_id).where(Interaction.id.in_(some))).scalars())
    return found


def count(connection: Connection, keys: Sequence[int], *, caller: str | None = None) -> Stored:
    """Count what belongs to these answers; of a caller also the rankings whose documents are deleted already.

    A ranking and the answers that were made of it are one list.
    """
    names = {name for name in _lists(connection, keys) if isinstance(name, str)}
    if caller is not None:
        names.update(connection.execute(_served_to(caller)).scalars())
    reviews = 0
    for some in in_parts(keys):
        mine = select(func.count()).select_from(Review).where(Review.interaction_key.in_(some))
        reviews += connection.execute(mine).scalar_one()
    return Stored(len(names), len(keys), reviews)


def purge(engine: Engine, *, before: datetime, actor: str, progress: Progress | None = None) -> Stored:
    """Delete the documents of what `old` finds; how it was served stays, for the trends. Return how much that was.

    Whatever has no documents then is noted, and not looked at again. Afterwards, also where it was nothing,
    `store.engine.scrub` sees to the log.
    """
    with reading(engine) as connection:
        groups = old(connection, before=before)
    gone = Stored()
    for start in range(0, len(groups), _GROUPS_AT_ONCE):
        some = groups[start : start + _GROUPS_AT_ONCE]
        with transaction(engine) as connection:
            _lock(connection, of_groups(connection, some))
            # Perhaps somebody has judged one meanwhile. From here on they wait.
            keys = of_groups(connection, old(connection, before=before, among=some))
            gone += _delete(connection, keys, action="rankings.purged", actor=actor)
        if progress:
            progress(start + len(some), len(groups))
    group = ServedQuestion.candidate_group
    empty = select(group).where(*_has_documents(before), ~exists().where(Interaction.candidate_group == group))
    now = datetime.now(UTC)
    _in_batches(engine, empty, lambda some: update(ServedQuestion).where(group.in_(some)).values(emptied_at=now))
    return gone


def _has_documents(before: datetime) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions that it is a recorded ranking from before that time which may have documents."""
    of = ServedQuestion
    return of.door.is_not(None), of.emptied_at.is_(None), of.served_at < before


def count_served(connection: Connection, *, before: datetime, purged_before: datetime | None = None) -> int:
    """Count what `purge_served` would delete, right away or after a `purge` before that time."""
    wanted = [_old_served(before)]
    if purged_before is not None:
        group = ServedQuestion.candidate_group
        unjudged = ~exists().where(Interaction.candidate_group == group, _is_judged(Interaction))
        wanted.append(select(group).where(*_has_documents(min(before, purged_before)), unjudged))
    return connection.execute(select(func.count()).select_from(union_all(*wanted).subquery())).scalar_one()


def purge_served(engine: Engine, *, before: datetime, actor: str, progress: Progress | None = None) -> int:
    """Delete how questions were served before that time; return how many. Their answers stay.

    So do recorded rankings that have documents: they are found by that record.
    """
    group, wanted = ServedQuestion.candidate_group, _old_served(before)
    gone = _in_batches(engine, wanted, lambda some: delete(ServedQuestion).where(group.in_(some)), progress)
    if gone:
        with transaction(engine) as connection:
            audit.note(connection, actor, "served.purged", "served questions", {"count": gone})
    return gone


def _old_served(before: datetime) -> Select[str]:
    of = ServedQuestion
    return select(of.candidate_group).where(of.served_at < before, or_(of.door.is_(None), of.emptied_at.is_not(None)))


def _in_batches(
    engine: Engine, wanted: Select[str], change: Callable[[Select[str]], UpdateBase], progress: Progress | None = None
) -> int:
    """Change the records of these groups some at a time, so that nobody waits long; return how many they were."""
    some, changed, total = wanted.order_by(ServedQuestion.served_at).limit(_RECORDS_AT_ONCE), 0, 0
    if progress:
        with reading(engine) as connection:
            total = connection.execute(select(func.count()).select_from(wanted.subquery())).scalar_one()
    while True:
        with transaction(engine) as connection:
            batch = connection.execute(change(some)).rowcount
        changed += batch
        if progress:
            progress(changed, max(changed, total))
        if batch < _RECORDS_AT_ONCE:
            return changed


def forget(
    engine: Engine, keys: Sequence[int], *, actor: str, caller: str | None = None, progress: Progress | None = None
) -> Stored:
    """Delete these answers with all that was said of them, and how they were served. Return how much that was.

    Of a caller the records of serving go, too, whose documents are deleted already. So do the stored answers to
    requests (`store.idempotency`) that tell of what is deleted. `store.engine.scrub` then sees to the log.
    """
    with reading(engine) as connection:
        ids, lists = external_ids(connection, keys), list(_lists(connection, keys).values())
    # Before the answers: where this is stopped, nobody knows afterwards what went with those that are gone. And after
    # them: a request that was just answered may have stored another one.
    with transaction(engine) as connection:
        idempotency.forget(connection, ids)
    gone, done, total = Stored(), 0, sum(map(len, lists))
    while lists:
        some = list[int]()
        while lists and len(some) < _ANSWERS_AT_ONCE:
            some += lists.pop()
        with transaction(engine) as connection:
            _lock(connection, some)
            names = [name for name in _lists(connection, some) if isinstance(name, str)]
            gone += _delete(connection, some, action="answers.forgotten", actor=actor)
            for part in in_parts(names):
                _delete_served(connection, ServedQuestion.candidate_group.in_(part))
        done += len(some)
        if progress:
            progress(done, total)
    with transaction(engine) as connection:
        if caller is not None:
            gone += Stored(_delete_served(connection, ServedQuestion.caller == caller))
        idempotency.forget(connection, ids)
    return gone


def _delete(connection: Connection, keys: Sequence[int], *, action: str, actor: str) -> Stored:
    gone = count(connection, keys)
    for some in in_parts(keys):
        connection.execute(delete(Interaction).where(Interaction.id.in_(some)))
    if keys:
        # Without a word of what it was.
        audit.note(connection, actor, action, "answers", {"count": len(keys)})
    return gone


def _delete_served(connection: Connection, wanted: ColumnElement[bool]) -> int:
    left = exists().where(Interaction.candidate_group == ServedQuestion.candidate_group)
    return connection.execute(delete(ServedQuestion).where(wanted, ~left)).rowcount


def _lock(connection: Connection, keys: Sequence[int]) -> None:
    # Whoever would say something of these answers waits, and then finds them deleted, or what they said is seen.
    for some in in_parts(sorted(keys)):
        locked = select(Interaction.id).where(Interaction.id.in_(some)).order_by(Interaction.id)
        connection.execute(locked.with_for_update()).all()


def _lists(connection: Connection, keys: Sequence[int]) -> dict[str | int, list[int]]:
    """Return the keys by their list, those that are in none by themselves."""
    found = dict[str | int, list[int]]()
    for some in in_parts(keys):
        wanted = select(Interaction.id, Interaction.candidate_group).where(Interaction.id.in_(some))
        for id, group in connection.execute(wanted):
            if group is not None and group.startswith(ANSWERS):
                group = RANKED + group.removeprefix(ANSWERS)
            found.setdefault(group or id, []).append(id)
    return found


def _served_to(caller: str) -> Select[str]:
    return select(ServedQuestion.candidate_group).where(ServedQuestion.caller == caller)


def _is_judged(of: type[Interaction]) -> ColumnElement[bool]:
    compared = exists().where(or_(Preference.first_id == of.id, Preference.second_id == of.id))
    used = exists().where(UsedPassage.passage_id == of.id)
    begun = exists().where(Draft.interaction_key == of.id)
    return or_(of.rating.is_not(None), of.end_user_rating.is_not(None), compared, used, begun)
