"""Databases for tests: copies of a SQLite file that was migrated once, and many ratings in one transaction."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from contextlib import closing
from functools import cache
from pathlib import Path

from sqlalchemy import Engine

from rlhf_loop.domain import Review, ReviewerRole
from rlhf_loop.store.engine import make_engine, migrate, transaction
from rlhf_loop.store.interactions import put_review


@cache
def _migrated_file() -> bytes:
    with tempfile.TemporaryDirectory(prefix="rlhf-template-") as folder:
        file = Path(folder) / "rlhf.db"
        engine = make_engine(f"sqlite:///{file}")
        migrate(engine)
        engine.dispose()  # the last connection takes what is in the WAL into the file
        return file.read_bytes()


def sqlite_database(file: Path) -> str:
    """Write a SQLite database with our tables and no rows, unless the file is there; return its URL."""
    if not file.exists():
        # Whole at once: somebody may wait for it.
        draft = file.with_name(f"{file.name}.draft")
        draft.write_bytes(_migrated_file())
        draft.replace(file)
    return f"sqlite:///{file}"


def memory_database() -> Engine:
    """Make the engine of a database in memory with our tables and no rows."""
    engine = make_engine("sqlite://")
    data = bytearray(_migrated_file())
    data[18:20] = b"\1\1"  # a database in memory has no WAL
    with closing(engine.raw_connection()) as connection:
        connection.driver_connection.deserialize(bytes(data))
    return engine


def rate_all(
    engine: Engine, ratings: Iterable[tuple[int, str, int]], *, role: ReviewerRole = ReviewerRole.EXPERT
) -> None:
    """Store what reviewers say of answers, by key, name and grade: as `rate` does, in one transaction."""
    with transaction(engine) as connection:
        for key, reviewer, rating in ratings:
            put_review(connection, key, Review(rating=rating, reviewer=reviewer, role=role))
