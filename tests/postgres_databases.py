"""PostgreSQL databases for tests: migrated once, then emptied and lent again."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from rlhf_loop.store.engine import make_engine, migrate

_END_OTHERS = """
SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
#: Everything in a database that a test could leave changed besides rows.
_SCHEMA = """
SELECT md5(string_agg(line, '|' ORDER BY line)) FROM (
  SELECT concat_ws(' ', 'class', relnamespace, relname, relkind, relacl, reloptions) FROM pg_class WHERE oid >= 16384
  UNION ALL SELECT concat_ws(' ', 'column', attrelid, attname, atttypid, atttypmod, attnotnull, atthasdef, attisdropped)
    FROM pg_attribute WHERE attrelid >= 16384 AND attnum > 0
  UNION ALL SELECT concat_ws(' ', 'constraint', conrelid, conname, convalidated) FROM pg_constraint WHERE oid >= 16384
  UNION ALL SELECT concat_ws(' ', 'trigger', tgrelid, tgname, tgenabled) FROM pg_trigger WHERE oid >= 16384
  UNION ALL SELECT concat_ws(' ', 'function', proname) FROM pg_proc WHERE oid >= 16384
  UNION ALL SELECT concat_ws(' ', 'schema', nspname, nspacl) FROM pg_namespace WHERE nspname !~ '^pg_'
  UNION ALL SELECT concat_ws(' ', 'extension', extname, extversion) FROM pg_extension
  UNION ALL SELECT concat_ws(' ', 'setting', setconfig) FROM pg_db_role_setting s JOIN pg_database d
    ON d.oid = s.setdatabase WHERE datname = current_database()
  UNION ALL SELECT concat_ws(' ', 'database', datacl) FROM pg_database WHERE datname = current_database()
  UNION ALL SELECT concat_ws(' ', 'revision', version_num) FROM rlhf_alembic_version
) AS all_of_it (line)
"""
_EMPTY = """
DO $$ DECLARE name text; BEGIN
SET LOCAL session_replication_role = replica;
FOR name IN SELECT oid::regclass FROM pg_class WHERE oid >= 16384 AND relkind = 'r' AND pg_relation_size(oid) > 0
    AND relname <> 'rlhf_alembic_version' LOOP
  EXECUTE 'DELETE FROM ' || name;
END LOOP;
PERFORM setval(format('%I.%I', schemaname, sequencename)::regclass, start_value, false) FROM pg_sequences
  WHERE last_value IS NOT NULL;
END $$
"""
#: What is deleted stays in the file until the table is vacuumed, and is read over.
_LARGE_TABLES = """
SELECT oid::regclass::text FROM pg_class WHERE oid >= 16384 AND relkind = 'r' AND pg_relation_size(oid) > 1000000
"""


class PostgresDatabases:
    """The databases of one PostgreSQL server.

    Measured with PostgreSQL 18, in milliseconds of the server's processor time: migrating a new database 164 (and 156
    of the client's), `CREATE` and `DROP DATABASE` 76, the same from a template 79 (`STRATEGY file_copy`: 145),
    `TRUNCATE` of all tables 63; deleting what is there 1 (and 5 of the client's).
    """

    def __init__(self, server_url: str) -> None:
        self.url = server_url
        self._free: list[str] = []
        self._schemas: dict[str, Any] = {}
        #: To each database a connection that stays: a new one costs the server more than all that it is for.
        self._cleaners: dict[str, Any] = {}

    def use_little(self) -> None:
        """Do without what only a power cut or a large table needs."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            for setting in ("fsync", "full_page_writes", "synchronous_commit", "autovacuum"):
                connection.execute(f"ALTER SYSTEM SET {setting} = off".encode())
            connection.execute("ALTER SYSTEM SET checkpoint_timeout = '1h'")
            connection.execute("SELECT pg_reload_conf()")

    @contextmanager
    def migrated(self) -> Iterator[str]:
        """Lend a database with our tables and no rows, by its URL; one whose schema was changed is not lent again."""
        if self._free:
            url = self._free.pop()
        else:
            url = self._create()
            engine = make_engine(url)
            migrate(engine)
            engine.dispose()
            self._cleaners[url] = psycopg.connect(url, autocommit=True)
            self._schemas[url] = self._cleaners[url].execute(_SCHEMA).fetchone()
        yield url
        if self._emptied(url):
            self._free.append(url)
        else:
            self._drop(url)

    @contextmanager
    def new(self) -> Iterator[str]:
        """Make a database without any table; its URL."""
        url = self._create()
        yield url
        self._drop(url)

    def _emptied(self, url: str) -> bool:
        connection = self._cleaners[url]
        try:
            connection.execute(_END_OTHERS)
            if connection.execute(_SCHEMA).fetchone() == self._schemas[url]:
                connection.execute(_EMPTY)
                for (table,) in connection.execute(_LARGE_TABLES).fetchall():
                    connection.execute(f"VACUUM {table}".encode())
                return True
        except psycopg.Error:  # a test took the database away, or locked others out
            pass
        self._cleaners.pop(url).close()
        return False

    def close(self) -> None:
        """Close the connections."""
        for connection in self._cleaners.values():
            connection.close()

    def _create(self) -> str:
        name = f"test_{uuid.uuid4().hex}"
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.url.replace("/postgres?", f"/{name}?")

    def _drop(self, url: str) -> None:
        name = url.partition("?")[0].rpartition("/")[2]
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())
