"""The temporary tables in which the rows of a ratings file wait until all of them are known to be good."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Boolean, Column, Double, Index, Integer, MetaData, Row, Table, Text, text
from sqlalchemy.engine import Connection, Engine

from rlhf_loop.domain import ReviewerRole
from rlhf_loop.store.tables import UtcDateTime


@dataclass(frozen=True, slots=True)
class RowError:
    """A row that cannot be stored: the line where it starts (a Parquet file's row), and why."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsaid:
    """What stands where a row does not say who reviewed, in which role, and where the answer is from."""

    reviewer: str
    role: ReviewerRole
    source: str | None


# The rows of the file as they wait to be stored. Temporary tables: each connection sees its own, and one that is
# killed leaves none. `place` tells rows of one line apart, where one record says several things.
METADATA = MetaData()
STAGE = Table(
    "rlhf_import",
    METADATA,
    Column("place", Integer, primary_key=True, autoincrement=False),
    Column("line", Integer, nullable=False),
    Column("first_place", Integer),
    Column("first_review", Integer),
    Column("identity", Text, nullable=False),
    Column("of_pair", Boolean, nullable=False),
    Column("texts_elsewhere", Boolean, nullable=False),
    Column("user_prompt", Text),  # NULL where another row, or the database, has the texts
    Column("ai_response", Text),
    Column("reviewer", Text, nullable=False),
    Column("role", Text),  # NULL where the row does not say: so nothing that is known is overwritten
    Column("rating", Integer),
    Column("comment", Text),
    Column("correction", Text),
    Column("harmful", Boolean),
    Column("source", Text),
    Column("candidate_group", Text),
    Column("shown_rank", Integer),
    Column("score", Double),
    Column("model_version", Text),
    Column("title", Text),
    Column("url", Text),
    Column("licence", Text),
    Column("created_at", UtcDateTime),
    Column("rated_at", UtcDateTime),
    Column("retrieved_at", UtcDateTime),
    prefixes=["TEMPORARY"],
)
Index("ix_rlhf_import_identity", STAGE.c.identity, STAGE.c.reviewer, STAGE.c.place)
# `one` and `other` in the order of their identities, so that a pair has one name whichever is better.
PAIRS = Table(
    "rlhf_import_pairs",
    METADATA,
    Column("place", Integer, primary_key=True, autoincrement=False),
    Column("line", Integer, nullable=False),
    Column("first_pair", Integer),
    Column("one", Text, nullable=False),
    Column("other", Text, nullable=False),
    Column("one_is_better", Boolean, nullable=False),
    Column("reviewer", Text, nullable=False),
    Column("role", Text),
    prefixes=["TEMPORARY"],
)
Index("ix_rlhf_import_pairs_reviewer", PAIRS.c.one, PAIRS.c.other, PAIRS.c.reviewer)


@contextmanager
def stage(engine: Engine) -> Iterator[Connection]:
    """Give a connection that has the empty temporary tables until the block ends."""
    with engine.connect() as connection:
        with connection.begin():
            METADATA.create_all(connection, checkfirst=False)
        try:
            yield connection
        finally:
            connection.rollback()
            with connection.begin():
                METADATA.drop_all(connection, checkfirst=False)


def drop(connection: Connection, statement: str, *, table: Table = STAGE) -> list[Row[Any]]:
    """Take out the rows that a statement finds by their `place`, and return them."""
    found = list(connection.execute(text(statement)))
    if found:
        places = [{"place": row.place} for row in found]
        connection.execute(text(f"DELETE FROM {table.name} WHERE place = :place"), places)
    return found
