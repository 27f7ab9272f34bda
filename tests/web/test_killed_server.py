"""A real server is killed while 400 ratings are under way: what it acknowledged is there, once."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from threading import Event, local
from typing import Any

import pytest
from outage import Outage
from patience import PATIENCE_S, until
from server_process import Server
from server_process import environ as environ
from server_process import start as start
from sqlalchemy import Engine, func, select
from v1_apps import token_for

from rlhf_loop.domain import Rating
from rlhf_loop.store.interactions import record
from rlhf_loop.store.tables import AuditEntry, Interaction, Review

pytestmark = [pytest.mark.kill, pytest.mark.skipif(sys.platform == "win32", reason="gunicorn needs fork")]

CLIENTS = 32
RATINGS = 400
ANSWERS = 100


@dataclass
class Job:
    """One request: what it sends, what it leaves in the database, and what came back."""

    path: str
    body: dict[str, Any]
    reviewer: str
    rating: int
    headers: dict[str, str] = field(default_factory=dict)
    #: The interaction that it makes, if it makes one.
    makes: str = ""
    status: int = 0
    answer: bytes = b""

    @property
    def acknowledged(self) -> bool:
        return self.status in (200, 201, 202)

    @property
    def key(self) -> str | None:
        return self.headers.get("Idempotency-Key")


def jobs(token: str) -> list[Job]:
    """The ratings in four kinds, in turn; no two are by the same reviewer, and none is worth the same as the next."""
    made = []
    for number in range(RATINGS):
        answer, rating = f"a-{number % ANSWERS}", 1 + number % 5
        bearer, key = {"Authorization": f"Bearer {token}"}, {"Idempotency-Key": f'"key-{number}"'}
        review = {"rating": rating, "reviewer": f"p-{number}"}
        reviews, name = f"/v1/interactions/{answer}/reviews", f"app:p-{number}"
        if number % 4 == 0:
            made.append(Job(reviews, review, name, rating, bearer | key))
        elif number % 4 == 1:
            made.append(Job(reviews, review, name, rating, bearer))
        elif number % 4 == 2:
            visitor = f"visitor-number-{number:06}"
            cookie = {"Cookie": f"rlhf_visitor={visitor}"}
            body = {"interaction_id": answer, "rating": rating}
            made.append(Job("/data/ratings", body, f"visitor:{visitor}", rating, cookie))
        else:
            new = {"id": f"new-{number}", "prompt": "Why?", "response": f"Because {number}.", "review": review}
            keyed = bearer | (key if number % 8 == 3 else {})
            made.append(Job("/v1/interactions", new, name, rating, keyed, makes=f"new-{number}"))
    return made


class Clients:
    """Many of them at once; each keeps its connection as long as it can."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._mine = local()
        self._all: list[HTTPConnection] = []

    def __enter__(self) -> Clients:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._all:
            connection.close()

    def send(self, job: Job) -> tuple[int, bytes, str | None]:
        """Return status, body and whether it is a replay; raise what the connection raises."""
        connection = getattr(self._mine, "connection", None)
        if connection is None:
            connection = self._mine.connection = HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE_S)
            self._all.append(connection)
        try:
            headers = {"Content-Type": "application/json", **job.headers}
            connection.request("POST", job.path, body=json.dumps(job.body), headers=headers)
            response = connection.getresponse()
            return response.status, response.read(), response.headers.get("Idempotency-Replayed")
        except (OSError, HTTPException):
            connection.close()
            raise


def rate_and_kill(server: Server, todo: list[Job], *, after: int) -> None:
    """Send all of them, and kill the server, master and workers, when some are acknowledged."""
    enough, done = Event(), Counter[bool]()

    def send(job: Job) -> None:
        if enough.is_set():  # whoever kills it may be late
            return
        try:
            job.status, job.answer, _ = clients.send(job)
        except (OSError, HTTPException):
            return
        done[job.acknowledged] += 1
        if done[True] >= after:
            enough.set()

    with Clients(server.port) as clients, ThreadPoolExecutor(CLIENTS) as pool:
        for job in todo:
            pool.submit(send, job)
        assert enough.wait(PATIENCE_S), server.log.read_text()[-2000:]
        os.killpg(server.process.pid, signal.SIGKILL)
    assert server.wait() == -signal.SIGKILL


def replayed(server: Server) -> bool:
    """Whether nothing waits in the outbox any more; a worker that is still warming up does not know."""
    return bool(server.get("/readyz")[1]["checks"].get("recording") == "ok")


@pytest.fixture
def prepared(engine: Engine) -> str:
    """A token, and the answers that are rated."""
    record(engine, [Rating("Why?", f"Answer {number}.", external_id=f"a-{number}") for number in range(ANSWERS)])
    return token_for(engine, "app")


def found(engine: Engine) -> tuple[Counter[tuple[str, int]], Counter[str], Counter[str]]:
    """Reviews by reviewer and rating, interactions by id, and what the audit log says was done by whom."""
    with engine.connect() as connection:
        reviews = Counter(tuple(row) for row in connection.execute(select(Review.reviewer, Review.rating)))
        made = Counter(connection.execute(select(Interaction.external_id)).scalars())
        noted = AuditEntry.action.in_(("review.added", "review.changed"))
        actors = Counter(connection.execute(select(AuditEntry.actor).where(noted)).scalars())
    return reviews, made, actors


def test_what_was_acknowledged_is_there_once(
    start: Callable[..., Server], engine: Engine, database_url: str, prepared: str
) -> None:
    """Killed in the middle, it lost nothing that it said it has; and what is sent again under its key is done once."""
    options, settings = (
        ("--workers", "2", "--threads", "16"),
        {"RLHF_DATABASE_URL": database_url, "RLHF_RATE_LIMIT": "0"},
    )
    todo = jobs(prepared)
    rate_and_kill(start(*options, **settings), todo, after=RATINGS // 3)
    told = [job for job in todo if job.acknowledged]
    # On a slow machine SQLite may be busy for too long: then a rating is refused with 503, and may be sent again.
    untold = [job for job in todo if not job.status or job.status == 503]
    assert RATINGS // 3 <= len(told) < RATINGS
    assert len(told) + len(untold) == RATINGS
    assert len({job.path.split("/")[-1] + str(job.key is None) for job in told}) == 5

    server = start(*options, **settings)
    until(lambda: replayed(server))
    reviews, made, actors = found(engine)
    for job in told:
        assert reviews[job.reviewer, job.rating] == actors[job.reviewer] == 1, job
        assert not job.makes or made[job.makes] == 1, job
    assert max(reviews.values()) == max(made.values()) == max(actors.values()) == 1
    assert set(reviews) <= {(job.reviewer, job.rating) for job in todo}

    again, before = [job for job in todo if job.key], reviews
    with Clients(server.port) as clients:
        for job in again:
            status, answer, replay = clients.send(job)
            assert status == 201, answer
            assert (replay == "true") is bool(before[job.reviewer, job.rating]), job
            assert not job.acknowledged or (status, answer) == (job.status, job.answer), job
    reviews, made, actors = found(engine)
    assert all(reviews[job.reviewer, job.rating] == actors[job.reviewer] == 1 for job in again)
    assert all(made[job.makes] == 1 for job in again if job.makes)
    assert max(reviews.values()) == max(made.values()) == max(actors.values()) == 1
    assert server.stop() == 0


@contextmanager
def away(engine: Engine, outage: Outage | None) -> Iterator[None]:
    """The database cannot be written to: cut off, or locked by somebody else."""
    if outage is not None:
        outage.cut()
        yield
        outage.restore()
        return
    holder = sqlite3.connect(str(engine.url.database), isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    yield
    holder.execute("ROLLBACK")
    holder.close()


@pytest.fixture
def outage(engine: Engine, database_url: str) -> Iterator[Outage | None]:
    if engine.dialect.name == "sqlite":
        yield None
        return
    outage = Outage(database_url)
    yield outage
    outage.close()


def test_what_waits_in_the_outbox_outlives_the_server(
    start: Callable[..., Server], engine: Engine, database_url: str, outage: Outage | None, prepared: str
) -> None:
    """While the database is away a rating is told to wait (202); killed then, the server has it at its next start."""
    settings = {"RLHF_DATABASE_URL": outage.url if outage else database_url, "RLHF_RATE_LIMIT": "0"}
    server = start("--workers", "2", "--threads", "16", **settings)
    todo = [job for job in jobs(prepared) if job.path == "/data/ratings"]
    with away(engine, outage):
        rate_and_kill(server, todo, after=len(todo) // 3)
        told = [job for job in todo if job.acknowledged]
        assert len(todo) // 3 <= len(told) < len(todo)
        assert {job.status for job in told} == {202}
        with engine.connect() as connection:
            assert connection.execute(select(func.count()).select_from(Review)).scalar_one() == 0
    server = start("--workers", "2", "--threads", "16", **settings)
    until(lambda: replayed(server))
    reviews, _, actors = found(engine)
    assert all(reviews[job.reviewer, job.rating] == actors[job.reviewer] == 1 for job in told)
    assert set(reviews) <= {(job.reviewer, job.rating) for job in todo}
    assert max(reviews.values()) == max(actors.values()) == 1
    assert server.stop() == 0
