"""The whole service under load: `rlhf-loop serve` on a warm index, asked by many clients at once."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from statistics import quantiles
from time import monotonic, perf_counter, sleep
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

from tools.report import table

CLIENTS = 50
SECONDS = 60
DOCUMENTS = 5000
#: Seconds from the start of the load at which the memory is read.
_MOMENTS = (10, 30, 60)
#: Asked beforehand, by as many clients at once: until all threads have what they need, memory grows.
_WARM_REQUESTS = 1500
_SENTENCES = (3, 10)
#: What a client gives up after; a service that slow has failed.
_PATIENCE_S = 30
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What the clients saw: answers a second, milliseconds of a request, what was no whole answer."""

    answers: int
    errors: int
    degraded: int
    rate: float
    p50: float
    p99: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The load, and the memory of all processes at some seconds from its start, in MB (shared pages once)."""

    workers: str
    load: Load
    before: float
    memory: Sequence[tuple[int, float]]
    exit_code: int


def measure(*, clients: int = CLIENTS, seconds: int = SECONDS, documents: int = DOCUMENTS) -> Service:
    """Train on the sample, index made-up documents, serve, and ask."""
    with tempfile.TemporaryDirectory(prefix="rlhf-service-") as name:
        folder = Path(name)
        environ = _environ(folder)
        _run("prepare", folder, str(documents), environ=environ)
        with _serving(folder, environ) as (server, port, workers):
            warmed = Load(**_run("ask", folder, str(port), str(clients), "0", str(_WARM_REQUESTS), environ=environ))
            if warmed.errors or warmed.degraded:
                sys.exit(f"The server does not answer well:\n{(folder / 'server.log').read_text()[-3000:]}")
            before = _megabytes(server.pid)
            asking = _start("ask", folder, str(port), str(clients), str(seconds), "0", environ=environ)
            started, memory = monotonic(), []
            for moment in (moment for moment in _MOMENTS if moment <= seconds):
                # A little before the end: then nobody asks any more.
                sleep(max(0.0, started + moment - 0.5 - monotonic()))
                memory.append((moment, _megabytes(server.pid)))
            load = Load(**_result(asking))
            server.send_signal(signal.SIGTERM)
            return Service(workers=workers, load=load, before=before, memory=memory, exit_code=server.wait(60))


def section(service: Service) -> str:
    """Return the section of the document."""
    load = service.load
    rows = [
        ("answers a second", f"{load.rate:.0f}"),
        ("p50", f"{load.p50:.0f} ms"),
        ("p99", f"{load.p99:.0f} ms"),
        ("answers", f"{load.answers:,}"),
        ("errors", f"{load.errors}"),
        ("answers with something degraded", f"{load.degraded}"),
        (f"memory before, after {_WARM_REQUESTS:,} other questions", f"{service.before:.0f} MB"),
        *((f"memory after {moment} s", f"{megabytes:.0f} MB") for moment, megabytes in service.memory),
    ]
    return (
        f"## The service under load\n\n`rlhf-loop serve` with {service.workers}; {CLIENTS} clients, each with a "
        f"connection of its own, ask for {SECONDS} s without a pause, each question a new one; the clients share the "
        f"machine. The index has {DOCUMENTS:,} documents of {_SENTENCES[0]} to {_SENTENCES[1]} sentences; nothing else "
        "is asked. Each answer is searched, ranked and recorded. With so many waiting, a request's time is mostly that "
        "of its turn in line: their number divided by answers a second. Memory is that of all processes, pages that "
        f"they share counted once.\n\n{table(('', ''), rows)}"
    )


def short(service: Service) -> str:
    """Return the line for the README."""
    load = service.load
    return (
        f"The whole service, searching {DOCUMENTS:,} documents, ranking and recording, with {CLIENTS} clients at once: "
        f"{load.rate:.0f} answers a second, p50 {load.p50:.0f} ms, p99 {load.p99:.0f} ms, {load.errors} errors in "
        f"{SECONDS} s, {service.memory[-1][1]:.0f} MB in all processes."
    )


@contextmanager
def _serving(folder: Path, environ: dict[str, str]) -> Iterator[tuple[subprocess.Popen[str], int, str]]:
    with (folder / "server.log").open("w") as log:
        command = [sys.executable, "-c", "from rlhf_loop.cli import main; main()", "serve", "--port", "0"]
        server = subprocess.Popen(command, cwd=folder, env=environ, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert server.stdout is not None
        said = ""
        while "Workers" not in said and (line := server.stdout.readline()):
            said += line
        port, workers = re.search(r":(\d+)/data-html", said), re.search(r"Workers +(.*?);", said)
        if port is None or workers is None:
            sys.exit(f"The server did not start:\n{(folder / 'server.log').read_text()}")
        _wait_until_ready(int(port[1]))
        yield server, int(port[1]), workers[1]
    finally:
        if server.poll() is None:
            server.kill()
        server.wait()


def _wait_until_ready(port: int) -> None:
    end = monotonic() + 60
    while True:
        try:
            with urlopen(f"http://127.0.0.1:{port}/readyz", timeout=10) as response:
                response.read()
                return
        except OSError:
            if monotonic() > end:
                raise
            sleep(0.1)


def _megabytes(parent: int) -> float:
    """Return the memory of a process and its children; a page that several share counts once."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    found = (Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in (str(parent), *children))
    return sum(int(each[1]) * 1024 / 1e6 for text in found if (each := re.search(r"^Pss:\s*(\d+)", text, re.MULTILINE)))


def _environ(folder: Path) -> dict[str, str]:
    # The runtime and the weights stay those that the caller chose.
    kept = {name: text for name, text in os.environ.items() if not name.startswith("RLHF_") or "_ENCODER_" in name}
    return {
        **kept,
        "PYTHONPATH": str(_ROOT),
        "RLHF_SOURCES": "index",
        "RLHF_RATE_LIMIT": "0",
        "RLHF_DATABASE_URL": f"sqlite:///{folder / 'rlhf.db'}",
        "RLHF_MODEL_PATH": str(folder / "reward_model.joblib"),
        "RLHF_INDEX_PATH": str(folder / "index"),
        "RLHF_OUTBOX_PATH": str(folder / "outbox.db"),
        "RLHF_CACHE_DIR": str(folder / "cache"),
    }


def _run(step: str, folder: Path, *arguments: str, environ: dict[str, str]) -> Any:
    return _result(_start(step, folder, *arguments, environ=environ))


def _start(step: str, folder: Path, *arguments: str, environ: dict[str, str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tools.bench.service", step, str(folder), *arguments]
    return subprocess.Popen(command, cwd=_ROOT, env=environ, stdout=subprocess.PIPE, text=True)


def _result(process: subprocess.Popen[str]) -> Any:
    said, _ = process.communicate()
    if process.returncode:
        sys.exit(f"The step {process.args!r} failed.")
    return json.loads(said)


# --- Run in processes of their own -----------------------------------------------------------------------------------


def _prepare(folder: Path, documents: str) -> None:
    """Train a model on the sample and index made-up documents."""
    from rlhf_loop import sample
    from rlhf_loop.config import Settings
    from rlhf_loop.db import open_database
    from rlhf_loop.encoders import load_encoder
    from rlhf_loop.exchange import import_ratings
    from rlhf_loop.index import open_store
    from rlhf_loop.index.indexing import add
    from rlhf_loop.training_run import run_training

    settings = Settings.from_env()
    engine = open_database(settings.database_url)
    import_ratings(engine, sample.RATINGS_FILE)
    run_training(engine, settings, recipe="passages")
    file = folder / "documents.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in _documents(int(documents))))
    add([file], store=open_store(settings), encoder=load_encoder(settings))


def _ask(folder: Path, port: str, clients: str, seconds: str, requests: str) -> dict[str, Any]:
    return asdict(asyncio.run(_asked(int(port), int(clients), seconds=int(seconds), requests=int(requests))))


async def _asked(port: int, clients: int, *, seconds: int, requests: int) -> Load:
    """Ask for some seconds, or a number of times; a client asks again when it has its answer."""
    questions = _questions(seed=port)
    times: list[float] = []
    troubles: list[str] = []
    degraded = 0
    started = perf_counter()

    def goes_on() -> bool:
        return perf_counter() - started < seconds if seconds else len(times) + len(troubles) < requests

    async def client() -> None:
        nonlocal degraded
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while goes_on():
            query = urlencode({"query": next(questions)})
            begun = perf_counter()
            try:
                writer.write(f"GET /data?{query} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
                async with asyncio.timeout(_PATIENCE_S):
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = re.search(rb"(?i)content-length: (\d+)", head)
                    body = await reader.readexactly(int(length[1]) if length else 0)
            except (OSError, EOFError, TimeoutError) as error:
                troubles.append(repr(error))
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                continue
            if not head.startswith(b"HTTP/1.1 200") or b'"best_answer":null' in body:
                troubles.append(f"{head[:40]!r} {body[:200]!r}")
                continue
            degraded += b'"degraded":{}' not in body
            times.append(perf_counter() - begun)
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    took = perf_counter() - started
    for trouble in troubles[:5]:
        sys.stderr.write(f"{trouble}\n")
    cuts = quantiles(times, n=100) if len(times) > 1 else [float("nan")] * 99
    return Load(
        answers=len(times),
        errors=len(troubles),
        degraded=degraded,
        rate=len(times) / took,
        p50=cuts[49] * 1e3,
        p99=cuts[98] * 1e3,
    )


def _documents(count: int) -> list[str]:
    random, (_, sentences) = Random(0), _sample()
    return [" ".join(random.choices(sentences, k=random.randint(*_SENTENCES))) for _ in range(count)]


def _questions(*, seed: int) -> Iterator[str]:
    """Give questions of the sample, each with another number, so that none was asked before."""
    random, (questions, _) = Random(seed), _sample()
    number = 0
    while True:
        number += 1
        yield f"{random.choice(questions)} This is number {number} of {seed}."


def _sample() -> tuple[list[str], list[str]]:
    from rlhf_loop.sample import RATINGS_FILE

    rows = [json.loads(line) for line in RATINGS_FILE.read_text(encoding="utf-8").splitlines()]
    sentences = [part for row in rows for part in re.split(r"(?<=[.?!])\s+", row["ai_response"])]
    return sorted({row["user_prompt"] for row in rows}), sentences


_STEPS = {"prepare": _prepare, "ask": _ask}

if __name__ == "__main__":
    sys.stdout.write(json.dumps(_STEPS[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])))
