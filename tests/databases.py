"""SQLite databases for tests: copies of one that was migrated once."""

from __future__ import annotations

import tempfile
from contextlib import closing
from functools import cache
from pathlib import Path

from sqlalchemy import Engine

from rlhf_loop.store.engine import make_engine, migrate


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
        file.write_bytes(_migrated_file())
    return f"sqlite:///{file}"


def memory_database() -> Engine:
    """Make the engine of a database in memory with our tables and no rows."""
    engine = make_engine("sqlite://")
    data = bytearray(_migrated_file())
    data[18:20] = b"\1\1"  # a database in memory has no WAL
    with closing(engine.raw_connection()) as connection:
        connection.driver_connection.deserialize(bytes(data))
    return engine
