"""What recording costs a ranking, and what becomes of 10,000 rankings while the database is away."""

from __future__ import annotations

import http.client
import json
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from random import Random
from statistics import median, quantiles
from time import monotonic, perf_counter, sleep

from rlhf_loop.accounts import tokens, users
from rlhf_loop.domain import RANKED, UserRole
from rlhf_loop.store.engine import open_database
from tools.bench import server
from tools.bench.reranking import texts_of
from tools.report import table

ROUNDS, DOCUMENTS, WORDS = 400, 100, 100
#: Rankings while the database is away, and for how long it is so at least.
MANY, AWAY_S = 10_000, 30.0
_CLIENTS = 4
_PATIENCE_S = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """Milliseconds of rankings that are not recorded and of those that are; what the outage left, in megabytes, too.

    `named` came back with an id, of which `stored` are in the database; `refused` came without one.
    """

    off: Sequence[float]
    on: Sequence[float]
    named: int
    refused: int
    stored: int
    away_s: float
    replay_s: float
    before: float
    after: float
    outbox: float


def measure(*, rounds: int = ROUNDS, many: int = MANY, away_s: float = AWAY_S) -> Recording:
    """Serve a model of the sample by one process, and ask."""
    with tempfile.TemporaryDirectory(prefix="rlhf-recording-") as name:
        folder = Path(name)
        server.prepare(folder)
        secrets = _tokens(folder)
        with server.serving(folder, "--workers", "1", record=True) as served:
            texts = texts_of(Random(0))
            documents, few = texts(DOCUMENTS, WORDS), texts(3, WORDS)
            asks = [_asker(served.port, secret) for secret in secrets]
            for ask in (*asks, *asks):
                ask(documents)
            times: tuple[list[float], list[float]] = ([], [])
            for _ in range(rounds):
                for place, ask in enumerate(asks):
                    begun = perf_counter()
                    ask(documents)
                    times[place].append(1e3 * (perf_counter() - begun))
            asks[1](few)
            before = served.megabytes()
            ids, refused, away = _during_an_outage(folder, served.port, few, many=many, away_s=away_s)
            after, outbox = served.megabytes(), _size(folder)
            begun = monotonic()
            stored = _stored(folder, ids)
            return Recording(
                off=times[0],
                on=times[1],
                named=len(ids),
                refused=refused,
                stored=stored,
                away_s=away,
                replay_s=monotonic() - begun,
                before=before,
                after=after,
                outbox=outbox,
            )


def section(result: Recording) -> str:
    """Return the section of the document."""
    rows = [
        (name, f"{median(times):.1f} ms", f"{quantiles(times, n=100)[98]:.1f} ms")
        for name, times in (("not recorded", result.off), ("recorded", result.on))
    ]
    return (
        f"## Recorded rankings\n\n`POST /v1/rerank` with {DOCUMENTS} known documents of {WORDS} words, each time with "
        "another question, by `rlhf-loop serve --workers 1` and one client, whose two tokens ask in turn: one with "
        f"`--record 0`, one with `--record 1`; {len(result.on):,} requests each.\n\n"
        f"{table(('', 'half within', '99 of 100 within'), rows)}\n\n"
        f"The database was away for {result.away_s:.0f} s, in which {_CLIENTS} clients had "
        f"{result.named + result.refused:,} lists of 3 ranked. {result.named:,} came back with the id of a recorded "
        f"ranking, {result.refused:,} without one; {result.stored:,} of the {result.named:,} were in the database "
        f"{result.replay_s:.0f} s after it was back. The processes had {result.before:.0f} MB before and "
        f"{result.after:.0f} MB after, the outbox {result.outbox:.0f} MB on disk."
    )


def _tokens(folder: Path) -> list[str]:
    engine = open_database(f"sqlite:///{folder / 'rlhf.db'}")
    users.add(engine, "bench", role=UserRole.SERVICE, actor="bench")
    found = [
        tokens.add(engine, "bench", user="bench", scopes=[tokens.RERANK], record=share, actor="bench").secret
        for share in (0.0, 1.0)
    ]
    engine.dispose()
    return found


def _asker(port: int, secret: str = "") -> Callable[[list[str]], str | None]:
    """Return what has documents ranked with a new question, and gives the id of the recorded ranking."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE_S)
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {secret}"} if secret else {})}
    numbers = count()

    def ask(documents: list[str]) -> str | None:
        query = f"What helps against a migraine attack? This is number {next(numbers)}."
        connection.request("POST", "/v1/rerank", json.dumps({"query": query, "documents": documents}), headers)
        response = connection.getresponse()
        said = response.read()
        if response.status != 200:
            sys.exit(f"A ranking failed with {response.status}: {said[:300]!r}")
        return response.headers["X-RLHF-Ranking-Id"]

    return ask


def _during_an_outage(
    folder: Path, port: int, documents: list[str], *, many: int, away_s: float
) -> tuple[list[str], int, float]:
    """Have documents ranked while somebody keeps the database to himself; return the ids, and how many had none."""

    def some(number: int) -> list[str | None]:
        ask = _asker(port)
        return [ask(documents) for _ in range(number)]

    with _kept(folder / "rlhf.db"):
        begun = monotonic()
        with ThreadPoolExecutor(_CLIENTS) as pool:
            found = [id for part in pool.map(some, [many // _CLIENTS] * _CLIENTS) for id in part]
        sleep(max(0.0, away_s - (monotonic() - begun)))
        took = monotonic() - begun
    ids = [id for id in found if id is not None]
    return ids, len(found) - len(ids), took


@contextmanager
def _kept(file: Path) -> Iterator[None]:
    with closing(sqlite3.connect(file, isolation_level=None, timeout=60)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")


def _stored(folder: Path, ids: Sequence[str]) -> int:
    """Wait until the outbox is empty; return how many of the rankings the database has."""
    end = monotonic() + _PATIENCE_S
    with closing(sqlite3.connect(folder / "outbox_rankings.db", timeout=60)) as outbox:
        while outbox.execute("SELECT count(*) FROM entries").fetchone()[0] and monotonic() < end:
            sleep(0.2)
    with closing(sqlite3.connect(folder / "rlhf.db", timeout=60)) as connection:
        groups = connection.execute("SELECT candidate_group FROM rlhf_served_questions").fetchall()
    return len({f"{RANKED}{id}" for id in ids} & {group for (group,) in groups})


def _size(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.glob("outbox_rankings.db*")) / 1e6
