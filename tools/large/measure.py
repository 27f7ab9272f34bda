"""Measure requests and jobs on large tables of PostgreSQL, beside smaller ones; writes into docs/SCALING.md.

    make large
    make large OPTIONS="--interactions 50000 --interactions 500000 --seconds 5 --no-write"

For each size a database is filled, on a server that is gone afterwards; 2,000,000 interactions with all that belongs to
them take some minutes and the disk that the table says. Then each request and each job takes its turn on all of them,
so that what else the machine does hits them alike. Requests are those of the whole application, without the HTTP server
before it.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import Any

import click
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text
from werkzeug.test import TestResponse

from rlhf_loop.accounts import tokens, users
from rlhf_loop.config import Settings
from rlhf_loop.domain import UserRole
from rlhf_loop.monitoring import figures
from rlhf_loop.monitoring.checks import check
from rlhf_loop.monitoring.served_days import sum_up
from rlhf_loop.registry.schedule import due
from rlhf_loop.reviewing.corrections import approved_stamp
from rlhf_loop.reviewing.scoring import refresh_scores
from rlhf_loop.store import rankings
from rlhf_loop.store.engine import make_engine, migrate
from rlhf_loop.web import create_app
from tools.large.fill import INTERACTIONS, VERSION, fill
from tools.postgres import run_postgres
from tools.report import DOCS, machine, put_into, say, table, today

SIZES = (50_000, INTERACTIONS)
#: Requests of a kind on each size, and runs of a job; they end earlier once they have taken too long.
_REQUESTS, _JOBS, _LEAST = 200, 11, 3
#: Seconds after which they end.
_SECONDS = 60.0
_PASSWORD = "seven large rivers meet here"
#: Documents of recorded rankings, and records of serving, that are kept.
_RECORD, _SERVED = timedelta(days=360), timedelta(days=350)
_COUNTED = {
    "interactions": "rlhf_interactions",
    "served questions": "rlhf_served_questions",
    "reviews": "rlhf_reviews",
    "entries of the audit log": "rlhf_audit_log",
    "users": "rlhf_users",
}


@dataclass(frozen=True, slots=True)
class Taken:
    """Milliseconds of something that was done several times."""

    milliseconds: list[float] = field(default_factory=list)

    @property
    def p50(self) -> float:
        """What half of them took at most."""
        return median(self.milliseconds)

    @property
    def p99(self) -> float:
        """What 99 of 100 took at most; of fewer it is the slowest."""
        ordered = sorted(self.milliseconds)
        return ordered[max(0, round(0.99 * len(ordered)) - 1)]


#: What one size took, by what was done.
Results = Mapping[str, Sequence[Taken]]


class _Ranks:
    """A ranker whose model has scored everything already."""

    model_version = VERSION

    def ranking(self, query: str, candidates: Sequence[Any]) -> Any:
        raise AssertionError("Everything is scored already.")


class Site:
    """The service on a database that is filled, with an admin, a rater and an application."""

    def __init__(self, url: str, folder: Path) -> None:
        self.engine = make_engine(url)
        self.settings = Settings(
            database_url=url,
            secret_key="of the measurement",
            model_path=folder / "reward_model.joblib",
            outbox_path=folder / "outbox.db",
            cache_dir=folder,
            sources=(),
        )
        users.add(self.engine, "boss", role=UserRole.ADMIN, actor="tool", password=_PASSWORD)
        users.add(self.engine, "rater", role=UserRole.RATER, actor="tool", password=_PASSWORD)
        users.add(self.engine, "service", role=UserRole.SERVICE, actor="tool")
        token = tokens.add(self.engine, "tool", user="service", scopes=[tokens.READ], actor="tool")
        self._bearer = {"Authorization": f"Bearer {token.secret}"}
        app = create_app(self.settings)
        self._rater, self._boss, self._service = _signed_in(app, "rater"), _signed_in(app, "boss"), app.test_client()
        with self.engine.connect() as connection:
            some = text(
                "SELECT external_id FROM rlhf_interactions WHERE id % 97 = 0 ORDER BY md5(external_id) LIMIT 500"
            )
            self._ids = list(connection.execute(some).scalars())
        self._form = _well(self._rater.get("/review/session")).json["form_token"]  # type: ignore[index]
        self._at = _place(_well(self._rater.get("/review")).text)

    def requests(self) -> Mapping[str, Callable[[int], object]]:
        """Return what is asked, by its name."""
        half_a_year, a_day = (f"{datetime.now(UTC) - timedelta(days=days):%Y-%m-%dT%H:%M:%SZ}" for days in (182, 1))
        rater = {"`/review`": "/review", "`/review/history`": "/review/history", "`/compare`": "/compare"}
        boss = {
            "`/browse`": "/browse",
            "`/browse`, a word of many answers": "/browse?q=subject",
            "`/browse`, a source": "/browse?source=corrections",
            "`/browse`, graded 2": "/browse?rating=2",
            "`/browse`, half a year old": f"/browse?until={half_a_year[:10]}",
            "`/browse`, a word that is nowhere": "/browse?q=xylophone",
            "`/browse/question`": "/browse/question?id={id}",
            "`/review/corrections`": "/review/corrections",
            "`/review/corrections`, rejected": "/review/corrections?state=rejected",
            "`/review/agreement`": "/review/agreement",
            "`/admin`": "/admin",
            "`/admin/audit`": "/admin/audit",
        }
        service = {
            "`/v1/interactions`": "/v1/interactions",
            "`/v1/interactions`, a source": "/v1/interactions?source=arxiv",
            "`/v1/interactions`, rated": "/v1/interactions?rated=true",
            "`/v1/interactions`, flagged": "/v1/interactions?harmful=true",
            "`/v1/interactions`, half a year old": f"/v1/interactions?created_before={half_a_year}",
            "`/v1/interactions`, of the last day": f"/v1/interactions?created_after={a_day}",
            "`/v1/interactions`, a source that is not there": "/v1/interactions?source=nowhere",
            "`/v1/interactions/ID`": "/v1/interactions/{id}",
            "`/metrics`": "/metrics",
        }
        asked: dict[str, Callable[[int], object]] = {"the next answer, after a grade": self._grade}
        for client, pages, headers in (
            (self._rater, rater, {}),
            (self._boss, boss, {}),
            (self._service, service, self._bearer),
        ):
            asked |= {name: self._asks(client, address, headers) for name, address in pages.items()}
        return asked

    def dashboard(self) -> Taken:
        """Wait until the dashboard shows all figures."""
        began = perf_counter()
        while "data-pending" in _well(self._boss.get("/dashboard")).text:
            sleep(0.05)
        return Taken([1e3 * (perf_counter() - began)])

    def dashboard_again(self, n: int) -> object:
        """Ask for it once more."""
        return _well(self._boss.get("/dashboard"))

    def jobs(self) -> Mapping[str, Callable[[int], object]]:
        """Return what the worker and the dashboard do in the background, by its name."""
        engine, settings, now = self.engine, self.settings, datetime.now(UTC)

        def figure(name: str) -> Callable[[int], object]:
            return lambda n: figures.figure(name, engine, settings)

        return {
            "is a retraining due?": lambda n: due(engine, settings),
            "looking for problems": lambda n: check(engine, settings, now=now),
            "scoring what waits, with nothing new": lambda n: refresh_scores(engine, _Ranks()),
            "are there new corrections?": lambda n: approved_stamp(engine),
            "retention, with nothing old": lambda n: rankings.purge(engine, before=now - _RECORD, actor="tool"),
            **{f"figure `{name}`": figure(name) for name in figures.FIGURES},
        }

    def sizes(self) -> list[str]:
        """Return the numbers of rows, and the size of the database in GB."""
        with self.engine.connect() as connection:
            rows = [connection.execute(text(f"SELECT count(*) FROM {name}")).scalar_one() for name in _COUNTED.values()]
            size = connection.execute(text("SELECT pg_database_size(current_database())")).scalar_one()
        return [*(f"{each:,}" for each in rows), f"{size / 1e9:.2f}"]

    def retention(self) -> list[str]:
        """Delete what is old for the first time; return the rates."""
        now, rates = datetime.now(UTC), []
        for work in (
            lambda: sum_up(self.engine, threshold=self.settings.quality_threshold),
            lambda: rankings.purge(self.engine, before=now - _RECORD, actor="tool").answers,
            lambda: rankings.purge_served(self.engine, before=now - _SERVED, actor="tool"),
        ):
            began = perf_counter()
            done = work()
            rates.append(f"{done:,} in {perf_counter() - began:,.1f} s")
        return rates

    def _asks(self, client: FlaskClient, address: str, headers: Mapping[str, str]) -> Callable[[int], object]:
        return lambda n: _well(client.get(address.format(id=self._ids[n]), headers=headers))

    def _grade(self, n: int) -> None:
        sent, headers = {"rating": 1 + n % 5}, {"X-Form-Token": self._form}
        reply = _well(self._rater.post(f"/review/items/{self._at}/rate", json=sent, headers=headers))
        self._at = _place(reply.json["html"])  # type: ignore[index]


def _place(html: str) -> str:
    return html.partition('data-id="')[2].partition('"')[0]


def _signed_in(app: Flask, name: str) -> FlaskClient:
    client = app.test_client()
    token = client.get("/sign-in").text.partition('name="form_token" value="')[2].partition('"')[0]
    reply = client.post("/sign-in", data={"name": name, "password": _PASSWORD, "form_token": token})
    if reply.status_code != 303:
        raise click.ClickException(f"{name} cannot sign in: {reply.status_code} {reply.text[:500]}")
    return client


def _well(reply: TestResponse) -> TestResponse:
    if reply.status_code != 200:
        raise click.ClickException(f"{reply.request.path} answered {reply.status_code}: {reply.text[:500]}")
    return reply


def measure(sites: Sequence[Site], *, seconds: float) -> tuple[Results, Results]:
    """Let all sites do everything in turn; return what requests took, and jobs."""
    requests = _in_turn([site.requests() for site in sites], times=_REQUESTS, seconds=seconds)
    requests["`/dashboard`, until its last figure is there"] = [site.dashboard() for site in sites]
    requests |= _in_turn([{"`/dashboard`": site.dashboard_again} for site in sites], times=_REQUESTS, seconds=seconds)
    return requests, _in_turn([site.jobs() for site in sites], times=_JOBS, seconds=seconds)


def _in_turn(
    of_sites: Sequence[Mapping[str, Callable[[int], object]]], *, times: int, seconds: float
) -> dict[str, Sequence[Taken]]:
    found: dict[str, Sequence[Taken]] = {}
    for name in of_sites[0]:
        works = [each[name] for each in of_sites]
        for work in works:
            work(0)
        taken, began = [Taken() for _ in works], perf_counter()
        for n in range(times):
            if n >= _LEAST and perf_counter() - began > seconds:
                break
            for work, each in zip(works, taken, strict=True):
                start = perf_counter()
                work(n)
                each.milliseconds.append(1e3 * (perf_counter() - start))
        found[name] = taken
        say(f"{name}: " + "; ".join(f"{each.p50:,.1f} ms, p99 {each.p99:,.1f} ms" for each in taken))
    return found


@contextmanager
def databases(sizes: Sequence[int]) -> Iterator[list[str]]:
    """Fill a database of each size, on a server of their own; their URLs."""
    with run_postgres() as server:
        urls = []
        for number, size in enumerate(sizes):
            urls.append(server.new(f"large_{number}"))
            engine, began = make_engine(urls[-1]), perf_counter()
            migrate(engine)
            fill(engine, size)
            engine.dispose()
            say(f"{size:,} interactions with all that belongs to them: {perf_counter() - began:,.0f} s")
        yield urls


def section(
    sites: Sequence[Sequence[str]],
    requests: Results,
    jobs: Results,
    retention: Sequence[Sequence[str]],
    *,
    seconds: float = _SECONDS,
) -> str:
    """Return what stands in the document."""
    how = "" if seconds == _SECONDS else f' OPTIONS="--seconds {seconds:g}"'
    rows = zip((*_COUNTED, "database, GB"), *sites, strict=True)
    header = [f"{name} interactions" for name, *_ in sites]
    done = zip(("days summed up", "documents deleted", "records of serving deleted"), *retention, strict=True)
    return "\n\n".join(
        (
            f"By `make large{how}`, on {today()}, on {machine()}, with a load average of {os.getloadavg()[2]:.0f}. "
            "What is compared took turns: where other work kept the machine busy, the last column holds better than "
            "the times.",
            table(("rows", *("" for _ in sites)), rows),
            _table("request", header, requests),
            _table("in the background", header, jobs),
            table(("retention, the first time", *header), done),
        )
    )


def _table(what: str, header: Sequence[str], results: Results) -> str:
    heads = [f"{name}: {p}" for name in header for p in ("p50, ms", "p99, ms")]
    lines = [
        [
            name,
            *(f"{value:,.1f}" for each in taken for value in (each.p50, each.p99)),
            f"{taken[-1].p50 / taken[0].p50:.1f}",
        ]
        for name, taken in results.items()
    ]
    return table((what, *heads, "times"), lines)


@click.command()
@click.option("--interactions", "sizes", multiple=True, type=int, default=SIZES, show_default=True)
@click.option(
    "--seconds", default=_SECONDS, show_default=True, help="Seconds after which a kind of request ends early."
)
@click.option("--write/--no-write", default=True, help="Put the tables into docs/SCALING.md.")
@click.option("--url", "urls", multiple=True, help="Databases that are filled already, instead of new ones.")
def main(sizes: Sequence[int], seconds: float, write: bool, urls: Sequence[str]) -> None:
    """Fill, measure, and print the tables."""
    logging.disable(logging.WARNING)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sites = [Site(url, folder) for url in urls or stack.enter_context(databases(sizes))]
        shown = [site.sizes() for site in sites]
        # First: what is summed up already is a worker's work of the days before.
        retention = [site.retention() for site in sites]
        found = section(shown, *measure(sites, seconds=seconds), retention, seconds=seconds)
        for site in sites:
            site.engine.dispose()
    click.echo(found)
    if write:
        put_into(DOCS / "SCALING.md", "large tables", found)
