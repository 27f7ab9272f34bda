"""What recording costs a ranking, and what becomes of 10,000 rankings while the database is away."""

from __future__ import annotations

import http.client
import json
import os
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from random import Random
from statistics import median, quantiles
from time import monotonic, perf_counter, sleep

from rlhf_loop.accounts import tokens, users
from rlhf_loop.config import Settings
from rlhf_loop.domain import Candidate, RankedCandidate, UserRole
from rlhf_loop.ranking import to_record
from rlhf_loop.store.engine import open_database
from rlhf_loop.store.recording import Recorder
from tools.bench import server
from tools.bench.reranking import texts_of
from tools.report import table

ROUNDS, DOCUMENTS, WORDS = 400, 100, 100
#: Rankings while the database is away, and for how long it is so at least.
MANY, AWAY_S = 10_000, 30.0
_PATIENCE_S = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """Milliseconds of rankings that are not recorded, and of those that are; and what an outage left."""

    off: Sequence[float]
    on: Sequence[float]
    outage: Outage


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """Rankings that were `kept` and `refused` meanwhile, and how many of these are `stored`; seconds, megabytes."""

    kept: int
    refused: int
    stored: int
    away_s: float
    replay_s: float
    grown: float
    outbox: float


def measure(*, rounds: int = ROUNDS, many: int = MANY, away_s: float = AWAY_S) -> Recording:
    """Serve a model of the sample by one process, and ask."""
    with tempfile.TemporaryDirectory(prefix="rlhf-recording-") as name:
        folder = Path(name)
        server.prepare(folder)
        secrets = _tokens(folder)
        with server.serving(folder, "--workers", "1") as served:
            texts = texts_of(Random(0))
            documents = texts(DOCUMENTS, WORDS)
            asks = [_asker(served.port, secret, number) for number, secret in enumerate(secrets)]
            for ask in (*asks, *asks):
                ask(documents)
            times: tuple[list[float], list[float]] = ([], [])
            for _ in range(rounds):
                for place, ask in enumerate(asks):
                    begun = perf_counter()
                    ask(documents)
                    times[place].append(1e3 * (perf_counter() - begun))
        return Recording(off=times[0], on=times[1], outage=_outage(folder, texts(10, WORDS), many=many, away_s=away_s))


def section(result: Recording) -> str:
    """Return the section of the document."""
    rows = [
        (name, f"{median(times):.1f} ms", f"{quantiles(times, n=100)[98]:.1f} ms")
        for name, times in (("not recorded", result.off), ("recorded", result.on))
    ]
    away = result.outage
    return (
        f"## Recorded rankings\n\n`POST /v1/rerank` with {DOCUMENTS} known documents of {WORDS} words, each time with "
        "another question, by `rlhf-loop serve --workers 1` and one client, whose two tokens ask in turn: one with "
        f"`--record 0`, one with `--record 1`; {len(result.on):,} requests each.\n\n"
        f"{table(('', 'half within', '99 of 100 within'), rows)}\n\n"
        f"Then nobody could write to the database for {away.away_s:.0f} s, in which one process recorded "
        f"{away.kept + away.refused:,} rankings of ten such documents. {away.kept:,} were acknowledged, "
        f"{away.refused:,} were not; {away.stored:,} of the {away.kept:,} were in the database {away.replay_s:.0f} s "
        f"after that. The process grew by {away.grown:.0f} MB; the outbox had {away.outbox:.0f} MB on disk."
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


def _asker(port: int, secret: str, name: int) -> Callable[[list[str]], None]:
    """Return what has documents ranked with a question that nobody asked before; whether it is recorded is checked."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE_S)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {secret}"}
    numbers = count()

    def ask(documents: list[str]) -> None:
        query = f"What helps against a migraine attack? This is number {name}.{next(numbers)}."
        connection.request("POST", "/v1/rerank", json.dumps({"query": query, "documents": documents}), headers)
        response = connection.getresponse()
        said = response.read()
        if response.status != 200:
            sys.exit(f"A ranking failed with {response.status}: {said[:300]!r}")
        if (response.headers["X-RLHF-Ranking-Id"] is not None) != bool(name):
            sys.exit("A ranking was recorded that should not have been, or the other way round.")

    return ask


def _outage(folder: Path, texts: Sequence[str], *, many: int, away_s: float) -> Outage:
    """Record rankings of these texts while nobody can write to the database."""
    settings = Settings(database_url=f"sqlite:///{folder / 'rlhf.db'}", outbox_path=folder / "away.db", outbox_max=many)
    ranked = [RankedCandidate(Candidate(text), rank=1, score=0.5, position=place) for place, text in enumerate(texts)]
    recorder, kept, refused = Recorder(settings), list[str](), 0
    before = server.megabytes(os.getpid())
    with _locked(folder / "rlhf.db"):
        begun = monotonic()
        for number in range(many):
            ranking = to_record(f"What helps? {number}", ranked, model_version="v1", door="bench", most=10)
            assert ranking is not None
            if recorder.record_ranking(ranking):
                kept.append(ranking.group)
            else:
                refused += 1
        sleep(max(0.0, away_s - (monotonic() - begun)))
        took, grown = monotonic() - begun, server.megabytes(os.getpid()) - before
    outbox = sum(file.stat().st_size for file in folder.glob("away_rankings.db*")) / 1e6
    begun, file = monotonic(), folder / "rlhf.db"
    while (stored := _stored(file, kept)) < len(kept) and monotonic() - begun < _PATIENCE_S:
        sleep(0.2)
    recorder.close()
    return Outage(
        kept=len(kept),
        refused=refused,
        stored=stored,
        away_s=took,
        replay_s=monotonic() - begun,
        grown=grown,
        outbox=outbox,
    )


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    with closing(sqlite3.connect(file, isolation_level=None, timeout=60)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")


def _stored(file: Path, groups: Sequence[str]) -> int:
    with closing(sqlite3.connect(file, timeout=60)) as connection:
        found = {group for (group,) in connection.execute("SELECT candidate_group FROM rlhf_served_questions")}
    return len(found & set(groups))
