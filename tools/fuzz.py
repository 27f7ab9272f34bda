"""Throw requests at a real server that its OpenAPI document allows, and others that it forbids: none may be a 500.

    make fuzz                       10,000 requests at `rlhf-loop serve` on SQLite
    make fuzz OPTIONS="--requests 500 --seed 7 --database postgresql://..."

Schemathesis makes the requests of the document and checks each response against it. What it could not guess is put in
here: ids that are there, keys that come twice, tokens that are missing, wrong or of too few rights. No question leaves
this machine: the only source is the one below.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from rlhf_loop import sample
from rlhf_loop.accounts import tokens, users
from rlhf_loop.config import Settings
from rlhf_loop.domain import Passage, Rating, UserRole
from rlhf_loop.exchange.transfer import import_ratings
from rlhf_loop.registry.training_run import run_training
from rlhf_loop.store.engine import open_database
from rlhf_loop.store.interactions import record

#: The live model in the server's folder.
MODEL = "reward_model.joblib"
#: Interactions that are there from the start, so that requests find some.
KNOWN_IDS = tuple(f"known-{number}" for number in range(20))
_CHUNK = 50
_PATIENCE_S = 120
#: Of an example of what failed.
_SHOWN = 2_000
#: Operations that have nothing to vary need no more than a few requests.
_CONSTANT = ("alive", "ready", "describe", "reference")


class Canned:
    """A source that answers anything at once."""

    name = "canned"

    def search(self, query: str, *, limit: int) -> list[Passage]:
        return [Passage(text="Rest in a dark room.", url="https://example.org", title="T", licence="CC0")]


source = Canned()


@dataclass(frozen=True)
class Keys:
    """Tokens to call with: one for everything, one that may only read."""

    all: str
    reading: str


@dataclass
class Report:
    """A request and its answer."""

    requests: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)
    failed: Counter[str] = field(default_factory=Counter)

    def fail(self, what: str, example: str) -> None:
        self.failed[what] += 1
        self.failures.setdefault(what, example[:_SHOWN])


def prepare(url: str) -> Keys:
    """Fill an empty database with what the requests are about, and make tokens."""
    engine = open_database(url)
    record(
        engine,
        [Rating("Why?", f"Answer {id}.", external_id=id, candidate_group="g", source="canned") for id in KNOWN_IDS],
    )
    users.add(engine, "fuzz", role=UserRole.SERVICE, actor="fuzz")
    every = tokens.add(engine, "all", user="fuzz", scopes=tokens.SCOPES, actor="fuzz").secret
    reading = tokens.add(engine, "reading", user="fuzz", scopes=[tokens.READ], actor="fuzz").secret
    engine.dispose()
    return Keys(every, reading)


def train(url: str, folder: Path) -> None:
    """Put a model of the sample ratings live, so that there is something to rank by."""
    engine = open_database(url)
    import_ratings(engine, sample.RATINGS_FILE)
    run_training(engine, Settings(database_url=url, model_path=folder / MODEL))
    engine.dispose()


def fuzz(url: str, keys: Keys, *, requests: int, seed: int) -> Report:
    """Send so many requests; the same seed sends the same ones."""
    import requests as http
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded
    from hypothesis.errors import Unsatisfiable
    from schemathesis.core.failures import Failure, FailureGroup
    from schemathesis.generation import GenerationMode
    from schemathesis.specs.openapi import checks

    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    every = [found.ok() for found in schema.get_all_operations()]
    report, dice, session = Report(), random.Random(seed), http.Session()
    wanted = (
        schemathesis.checks.not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_headers_conformance,
        checks.response_schema_conformance,
    )

    def send(case: Any) -> None:
        _vary(case, dice)
        headers = _headers(case, keys, dice)
        name = case.operation.definition.raw["operationId"]
        try:
            response = case.call(base_url=url, session=session, headers=headers, timeout=60)
        except (http.exceptions.InvalidHeader, http.exceptions.InvalidURL, UnicodeError, ValueError):
            return  # No client could send it.
        except http.exceptions.RequestException as error:
            report.fail(f"{name}: no answer", repr(error))
            return
        report.requests += 1
        report.operations[name] += 1
        report.statuses[response.status_code] += 1
        try:
            case.validate_response(response, checks=list(wanted))
        except (Failure, FailureGroup) as error:
            for each in getattr(error, "exceptions", [error]):
                report.fail(f"{name}: {response.status_code}: {each.title}", f"{each}\n{case.as_curl_command(headers)}")

    rounds, share = 0, max(2, min(_CHUNK, requests // (2 * len(every))))
    while report.requests < requests:
        for operation in every:
            name = operation.definition.raw["operationId"]
            if rounds and name in _CONSTANT:
                continue
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                left = requests - report.requests
                if left <= 0:
                    break
                made = settings(
                    max_examples=min(2 if name in _CONSTANT else share, left),
                    database=None,
                    deadline=None,
                    phases=[Phase.generate],
                    suppress_health_check=list(HealthCheck),
                )
                # Not everything has something to get wrong.
                with suppress(Unsatisfiable):
                    seeded(seed * 1_000_003 + rounds)(made(given(operation.as_strategy(generation_mode=mode))(send)))()
        rounds += 1
    return report


def _vary(case: Any, dice: random.Random) -> None:
    """Put in what a generator cannot know."""
    if "id" in case.path_parameters and dice.random() < 0.6:
        case.path_parameters = {**case.path_parameters, "id": dice.choice(KNOWN_IDS)}
    if isinstance(case.body, dict):
        named = {"interaction_id", "chosen_id", "rejected_id"} & set(case.body)
        if named and dice.random() < 0.6:
            case.body = {**case.body, **{name: dice.choice(KNOWN_IDS) for name in named}}


def _headers(case: Any, keys: Keys, dice: random.Random) -> dict[str, str]:
    headers: dict[str, str] = {}
    if case.operation.definition.raw.get("security"):
        luck = dice.random()
        if luck < 0.9:
            headers["Authorization"] = f"Bearer {keys.all}"
        elif luck < 0.94:
            headers["Authorization"] = f"Bearer {keys.reading}"
        elif luck < 0.97:
            headers["Authorization"] = dice.choice(["Bearer rlhf_unknown", "Bearer", "Basic YTpi", "x", "Bearer \xe9"])
        if dice.random() < 0.2:
            headers["Idempotency-Key"] = dice.choice(['"k1"', "k2", '"k3"', '""', "a,b"])
    return headers


@contextmanager
def served(database_url: str, folder: Path, **more: str) -> Iterator[str]:
    """Run `rlhf-loop serve` in processes of its own, with `more` variables; yield its address."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RLHF_")}
    environ = {
        **kept,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path]),
        "RLHF_DATABASE_URL": database_url,
        "RLHF_OUTBOX_PATH": str(folder / "outbox.db"),
        "RLHF_MODEL_PATH": str(folder / MODEL),
        "RLHF_SOURCES": "tools.fuzz:source",
        "RLHF_RATE_LIMIT": "0",
        **more,
    }
    command = [sys.executable, "-c", "from rlhf_loop.cli import main; main()", "serve", "--port", "0", "--workers", "2"]
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environ, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    try:
        greeting = ""
        for line in process.stdout:
            greeting += line
            if line.startswith("Workers"):
                break
        found = re.search(r"http://127\.0\.0\.1:\d+", greeting)
        if found is None:
            raise click.ClickException(f"The server did not start: {greeting}{(folder / 'server.log').read_text()}")
        _wait(found[0])
        yield found[0]
    finally:
        process.terminate()
        process.wait(_PATIENCE_S)
        process.stdout.close()


def _wait(url: str) -> None:
    from http.client import HTTPConnection

    end = time.monotonic() + _PATIENCE_S
    while True:
        connection = HTTPConnection(urlsplit(url).netloc, timeout=_PATIENCE_S)
        connection.request("GET", "/readyz")
        ready = connection.getresponse().status == 200
        connection.close()
        if ready:
            return
        if time.monotonic() > end:
            raise click.ClickException(f"{url} was not ready within {_PATIENCE_S} s.")
        time.sleep(0.1)


@click.command()
@click.option("--requests", default=10_000, show_default=True, help="How many.")
@click.option("--seed", default=0, show_default=True, help="The same seed, the same requests.")
@click.option("--database", metavar="URL", help="An empty database. Default: a new one of SQLite.")
def main(requests: int, seed: int, database: str | None) -> None:
    """Send requests to a server of its own, and say what came back."""
    with tempfile.TemporaryDirectory(prefix="rlhf-fuzz-") as name:
        folder = Path(name)
        url = database or f"sqlite:///{folder / 'rlhf.db'}"
        keys = prepare(url)
        train(url, folder)
        started = time.monotonic()
        with served(url, folder) as address:
            report = fuzz(address, keys, requests=requests, seed=seed)
        for line in _lines(report, time.monotonic() - started):
            click.echo(line)
        tracebacks = (folder / "server.log").read_text().count("Traceback (most recent call last)")
    if tracebacks:
        click.echo(f"The server's log has {tracebacks} tracebacks.")
    sys.exit(1 if report.failures or tracebacks else 0)


def _lines(report: Report, seconds: float) -> Sequence[str]:
    statuses = ", ".join(f"{status}: {count:,}" for status, count in sorted(report.statuses.items()))
    faults = sum(count for status, count in report.statuses.items() if status >= 500)
    return [
        *(f"{count:>7,}  {name}" for name, count in sorted(report.operations.items())),
        *(f"\nFAILED {report.failed[what]} times: {what}\n{example}" for what, example in report.failures.items()),
        f"{report.requests:,} requests in {seconds:.0f} s; statuses {statuses}.",
        f"{faults} responses of 500 and more; {sum(report.failed.values())} responses not as the document has them.",
    ]


if __name__ == "__main__":
    main()
