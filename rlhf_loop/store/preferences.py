"""Which of two answers to one question somebody finds better: one word a pair and reviewer, the last one counts."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from rlhf_loop.domain import ReviewerRole, prompt_key
from rlhf_loop.store import audit
from rlhf_loop.store.interactions import lock
from rlhf_loop.store.tables import Interaction, Preference
from rlhf_loop.utils.text import unstorable


def put_preference(
    connection: Connection,
    chosen: int,
    rejected: int,
    *,
    reviewer: str,
    role: ReviewerRole = ReviewerRole.EXPERT,
    tie: bool = False,
    comment: str | None = None,
    preferred_at: datetime | None = None,
) -> bool:
    """Add a reviewer's preference, or replace the one given earlier; return whether it is the first of this pair.

    The transaction is the caller's. With `tie` neither is better. `preferred_at` is by default now.

    Raises:
        ValueError: both are the same answer, they answer different questions, or the comment cannot be stored.
        LookupError: one of them is not there.
    """
    if chosen == rejected:
        raise ValueError("A preference is between two answers, but both ids are of one. Name the other one.")
    if comment and (bad := unstorable(comment)):
        raise ValueError(f"The comment holds {bad.group()!a} at position {bad.start()}, which cannot be stored.")
    first, second = sorted((chosen, rejected))
    for id in (first, second):
        lock(connection, id)
    wanted = select(Interaction.id, Interaction.user_prompt, Interaction.candidate_group)
    one, other = connection.execute(wanted.where(Interaction.id.in_((first, second)))).all()
    together = one.candidate_group is not None and one.candidate_group == other.candidate_group
    if not together and prompt_key(one.user_prompt) != prompt_key(other.user_prompt):
        raise ValueError("These two answers are to different questions, so neither can be the better one.")
    preferred = "tie" if tie else "first" if chosen == first else "second"
    mine = (Preference.first_id == first) & (Preference.second_id == second) & (Preference.reviewer == reviewer)
    before = connection.execute(select(Preference.preferred).where(mine)).scalar()
    values = {
        "preferred": preferred,
        "comment": comment or None,
        "role": str(role),
        "preferred_at": preferred_at or datetime.now(UTC),
    }
    insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    statement = insert(Preference).values(first_id=first, second_id=second, reviewer=reviewer, **values)
    connection.execute(
        statement.on_conflict_do_update(index_elements=["first_id", "second_id", "reviewer"], set_=values)
    )
    action = "preference.added" if before is None else "preference.changed"
    detail = {"preferred": preferred, "role": str(role)} | ({} if before is None else {"before": before})
    audit.note(connection, reviewer, action, f"pair:{first}-{second}", detail)
    return before is None


def withdraw_preference(connection: Connection, one: int, other: int, *, reviewer: str) -> None:
    """Take back what a reviewer said of two answers, in a transaction of the caller's.

    Raises:
        LookupError: there is no such preference, or one of the answers is not there.
    """
    first, second = sorted((one, other))
    for id in (first, second):
        lock(connection, id)
    mine = (Preference.first_id == first) & (Preference.second_id == second) & (Preference.reviewer == reviewer)
    before = connection.execute(select(Preference.preferred).where(mine)).scalar()
    if before is None:
        raise LookupError(f"There is no preference between {first} and {second} by {reviewer!r}. Nothing was done.")
    connection.execute(delete(Preference).where(mine))
    audit.note(connection, reviewer, "preference.withdrawn", f"pair:{first}-{second}", {"before": before})


def stored_preference_role(connection: Connection, one: int, other: int, reviewer: str) -> ReviewerRole | None:
    """Tell as whose word the reviewer's preference is stored, None if there is none; it stays so in this transaction.

    Raises:
        LookupError: one of the answers is not there.
    """
    first, second = sorted((one, other))
    for id in (first, second):
        lock(connection, id)
    mine = (Preference.first_id == first) & (Preference.second_id == second) & (Preference.reviewer == reviewer)
    found = connection.execute(select(Preference.role).where(mine)).scalar()
    return None if found is None else ReviewerRole(found)
