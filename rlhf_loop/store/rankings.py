"""Recorded rankings in the database: found to be rated, deleted when they are old, or when somebody is to be forgotten.

The documents of a ranking are interactions, which reviews and trends know as any others; how it was served is a row of
`rlhf_served_questions`, which stays when they are deleted for their age.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Select, delete, exists, func, or_, select
from sqlalchemy.engine import Connection, Engine

from rlhf_loop.domain import ANSWERS, RANKED, prompt_key
from rlhf_loop.store import audit
from rlhf_loop.store.engine import reading, transaction, upsert
from rlhf_loop.store.tables import Interaction, Preference, Review, ServedQuestion, UsedPassage
from rlhf_loop.utils.sqlite import in_parts


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


def old(connection: Connection, *, before: datetime, rated: bool = False) -> list[str]:
    """Return the groups of recorded rankings from before that time, of which nothing was rated, or with `rated` all."""
    mine = Interaction.candidate_group == ServedQuestion.candidate_group
    wanted = select(ServedQuestion.candidate_group).where(
        ServedQuestion.door.is_not(None), ServedQuestion.served_at < before, exists().where(mine)
    )
    if not rated:
        wanted = wanted.where(~exists().where(mine, _is_judged()))
    return list(connection.execute(wanted.order_by(ServedQuestion.served_at)).scalars())


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
    groups = select(ServedQuestion.candidate_group).where(ServedQuestion.caller == caller)
    found = list[str]()
    for group in connection.execute(groups).scalars():
        found += [group, ANSWERS + group.removeprefix(RANKED)]
    return list(_keys(connection, found))


def count(connection: Connection, keys: Sequence[int]) -> Stored:
    """Count what belongs to these answers."""
    found = Stored()
    for some in in_parts(keys):
        mine = Interaction.id.in_(some)
        reviews = select(func.count()).select_from(Review).where(Review.interaction_key.in_(some))
        groups = select(func.count(Interaction.candidate_group.distinct())).where(mine)
        found += Stored(connection.execute(groups).scalar_one(), len(some), connection.execute(reviews).scalar_one())
    return found


def purge(engine: Engine, *, before: datetime, actor: str, rated: bool = False) -> Stored:
    """Delete what `old` finds; how it was served stays, for the trends. Return how much that was."""
    with reading(engine) as connection:
        groups = old(connection, before=before, rated=rated)
    gone = Stored()
    for some in in_parts(groups):
        with transaction(engine) as connection:
            keys = list(_keys(connection, some, but=None if rated else _is_judged()))
            gone += _delete(connection, keys)
            if keys:
                audit.note(connection, actor, "rankings.purged", "rankings", {"answers": len(keys)})
    return gone


def forget(engine: Engine, keys: Sequence[int], *, actor: str) -> Stored:
    """Delete these answers with all that was said of them, and how they were served. Return how much that was."""
    gone = Stored()
    for some in in_parts(keys):
        with transaction(engine) as connection:
            groups = select(Interaction.candidate_group).where(Interaction.id.in_(some)).distinct()
            names = [name for name in connection.execute(groups).scalars() if name is not None]
            gone += _delete(connection, some)
            left = exists().where(Interaction.candidate_group == ServedQuestion.candidate_group)
            connection.execute(delete(ServedQuestion).where(ServedQuestion.candidate_group.in_(names), ~left))
            audit.note(connection, actor, "answers.forgotten", "answers", {"answers": len(some)})
    return gone


def _delete(connection: Connection, keys: Sequence[int]) -> Stored:
    found = count(connection, keys)
    connection.execute(delete(Interaction).where(Interaction.id.in_(keys)))
    return found


def _keys(connection: Connection, groups: Sequence[str], *, but: ColumnElement[bool] | None = None) -> Iterator[int]:
    for some in in_parts(groups):
        mine: Select[tuple[int]] = select(Interaction.id).where(Interaction.candidate_group.in_(some))
        yield from connection.execute(mine if but is None else mine.where(~but)).scalars()


def _is_judged() -> ColumnElement[bool]:
    compared = exists().where(or_(Preference.first_id == Interaction.id, Preference.second_id == Interaction.id))
    used = exists().where(UsedPassage.passage_id == Interaction.id)
    return or_(Interaction.rating.is_not(None), Interaction.end_user_rating.is_not(None), compared, used)
