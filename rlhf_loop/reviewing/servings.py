"""One answer that was served several times: people repeat questions, and nobody should rate the same words again.

Only the first serving of an answer is ever given to a rater, and none once an expert has rated one of them, unless it
is to have several raters. Answers are the same where prompt and text are equal, letter by letter: an index finds those,
and one over all spellings of a question would need a column of its own.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, and_, exists, func, literal_column, or_, select
from sqlalchemy.engine import Connection
from sqlalchemy.orm import aliased

from rlhf_loop.store.tables import Interaction


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


def servings(connection: Connection, interaction_id: int, *, limit: int = 1000) -> list[int]:
    """Return the ids of all servings of an answer, the first of them first; at most `limit`."""
    one = aliased(Interaction)
    same = select(Interaction.id).join(one, _same(one, Interaction)).where(one.id == interaction_id)
    # By a sum, so that no database reads the whole table in the order of its key, hoping for an early hit.
    return list(connection.execute(same.order_by(Interaction.id + 0).limit(limit)).scalars())


def _same(one: Any, other: Any) -> ColumnElement[bool]:
    return and_(
        same_prompt(one, other),
        start_of(one.ai_response) == start_of(other.ai_response),
        one.ai_response == other.ai_response,
    )
