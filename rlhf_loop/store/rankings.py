"""Recorded rankings in the database: found to be rated, deleted when they are old, or when somebody is to be forgotten.

The documents of a ranking are interactions, which reviews and trends know as any others; how it was served is a row of
`rlhf_served_questions`, which stays when they are deleted for their age.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, delete, exists, func, or_, select
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.orm import aliased

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


def old(connection: Connection, *, before: datetime) -> list[int]:
    """Return the keys of the documents of recorded rankings from before that time of which nothing was judged."""
    other = aliased(Interaction)
    group = ServedQuestion.candidate_group
    wanted = (
        select(Interaction.id)
        .join(ServedQuestion, Interaction.candidate_group == group)
        .where(ServedQuestion.door.is_not(None), ServedQuestion.served_at < before)
        .where(~exists().where(other.candidate_group == group, _is_judged(other)))
    )
    return list(connection.execute(wanted.order_by(Interaction.id)).scalars())


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
    keys = list[int]()
    for some in in_parts(found):
        keys += connection.execute(select(Interaction.id).where(Interaction.candidate_group.in_(some))).scalars()
    return sorted(keys)


def count(connection: Connection, keys: Sequence[int]) -> Stored:
    """Count what belongs to these answers."""
    found = Stored()
    for some in in_parts(keys):
        mine = Interaction.id.in_(some)
        reviews = select(func.count()).select_from(Review).where(Review.interaction_key.in_(some))
        groups = select(func.count(Interaction.candidate_group.distinct())).where(mine)
        found += Stored(connection.execute(groups).scalar_one(), len(some), connection.execute(reviews).scalar_one())
    return found


def purge(engine: Engine, *, before: datetime, actor: str) -> Stored:
    """Delete what `old` finds; how it was served stays, for the trends. Return how much that was."""
    with reading(engine) as connection:
        keys = old(connection, before=before)
    return _delete(engine, keys, action="rankings.purged", actor=actor)


def forget(engine: Engine, keys: Sequence[int], *, actor: str) -> Stored:
    """Delete these answers with all that was said of them, and how they were served. Return how much that was."""
    return _delete(engine, keys, action="answers.forgotten", actor=actor, served=True)


def _delete(engine: Engine, keys: Sequence[int], *, action: str, actor: str, served: bool = False) -> Stored:
    gone = Stored()
    for some in in_parts(keys):
        with transaction(engine) as connection:
            gone += count(connection, some)
            mine = Interaction.id.in_(some)
            groups = connection.execute(select(Interaction.candidate_group).where(mine).distinct()).scalars().all()
            connection.execute(delete(Interaction).where(mine))
            if served:
                left = exists().where(Interaction.candidate_group == ServedQuestion.candidate_group)
                connection.execute(delete(ServedQuestion).where(ServedQuestion.candidate_group.in_(groups), ~left))
            # Without a word of what it was.
            audit.note(connection, actor, action, "answers", {"count": len(some)})
    return gone


def _is_judged(of: type[Interaction]) -> ColumnElement[bool]:
    compared = exists().where(or_(Preference.first_id == of.id, Preference.second_id == of.id))
    used = exists().where(UsedPassage.passage_id == of.id)
    return or_(of.rating.is_not(None), of.end_user_rating.is_not(None), compared, used)
