"""The whole service under load: `rlhf-loop serve` on a warm index, asked by many clients at once."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from statistics import quantiles
from time import monotonic, perf_counter, sleep
from urllib.parse import urlencode

from tools.bench import server
from tools.report import table

CLIENTS = 50
SECONDS = 60
DOCUMENTS = 5000
#: Seconds from the start of the load at which the memory is read.
_MOMENTS = (10, 30, 60)
#: Asked beforehand, by as many clients at once: until all threads have what they need, memory grows.
_WARM_REQUESTS = 1500
#: Afterwards, while they go on asking: seconds in which py-spy reads the stacks of the server, so many times each.
_STACKS_S, _STACKS_HZ = 20, 50
#: The rooms of a stack that say what it is about, the innermost last.
_ROOM = re.compile(r"rlhf_loop/(?!cli|utils)(\w+)")
_SERVING = "HTTP and processes, by libraries"
#: What a client gives up after; a service that slow has failed.
_PATIENCE_S = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Measurements by the clients: answers a second, milliseconds of a request, answers that were not whole."""

    answers: int
    errors: int
    degraded: int
    rate: float
    p50: float
    p99: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The load, and the memory of all processes at some seconds from its start, in MB (shared pages once).

    `processor_ms` is what the server's processes took of the processor for an answer, `rooms` the share of each room of
    the package in what their Python does.
    """

    workers: str
    load: Load
    processor_ms: float
    before: float
    memory: Sequence[tuple[int, float]]
    rooms: Sequence[tuple[str, float]]
    exit_code: int


def measure(*, clients: int = CLIENTS, seconds: int = SECONDS, documents: int = DOCUMENTS) -> Service:
    """Train on the sample, index made-up documents, serve, and ask."""
    with tempfile.TemporaryDirectory(prefix="rlhf-service-") as name:
        folder = Path(name)
        server.prepare(folder, documents=documents)
        with server.serving(folder) as served:
            warmed = _result(_asking(served.port, clients, requests=_WARM_REQUESTS))
            if warmed.errors or warmed.degraded:
                sys.exit(f"The server does not answer well:\n{server.log_of(folder)}")
            before, taken = served.megabytes(), served.processor_s()
            asking = _asking(served.port, clients, seconds=seconds)
            started, memory = monotonic(), []
            for moment in (moment for moment in _MOMENTS if moment <= seconds):
                # A little before the end: then nobody asks any more.
                sleep(max(0.0, started + moment - 0.5 - monotonic()))
                memory.append((moment, served.megabytes()))
            load = _result(asking)
            taken = served.processor_s() - taken
            rooms = shares(_stacks(served, clients, folder / "stacks.txt"))
            served.process.send_signal(signal.SIGTERM)
            code = served.process.wait(60)
            return Service(
                workers=served.workers,
                load=load,
                processor_ms=1e3 * taken / max(1, load.answers),
                before=before,
                memory=memory,
                rooms=rooms,
                exit_code=code,
            )


def shares(stacks: str) -> list[tuple[str, float]]:
    """Return each room's share of the stacks that py-spy has counted, the largest first; a stack's is its innermost."""
    counts: Counter[str] = Counter()
    for line in stacks.splitlines():
        frames, _, count = line.rpartition(" ")
        counts[([_SERVING, *_ROOM.findall(frames)])[-1]] += int(count)
    return [(room, count / counts.total()) for room, count in counts.most_common()]


def section(service: Service) -> str:
    """Return the section of the document."""
    load = service.load
    rows = [
        ("answers a second", f"{load.rate:.0f}"),
        ("p50", f"{load.p50:.0f} ms"),
        ("p99", f"{load.p99:.0f} ms"),
        ("processor time of the server, an answer", f"{service.processor_ms:.1f} ms"),
        ("answers", f"{load.answers:,}"),
        ("errors", f"{load.errors}"),
        ("answers with something degraded", f"{load.degraded}"),
        (f"memory before, after {_WARM_REQUESTS:,} other questions", f"{service.before:.0f} MB"),
        *((f"memory after {moment} s", f"{megabytes:.0f} MB") for moment, megabytes in service.memory),
    ]
    rooms = [(room, f"{share:.0%}") for room, share in service.rooms if share >= 0.005]
    return (
        f"## The service under load\n\n`rlhf-loop serve` with {service.workers}; {CLIENTS} clients, each with a "
        f"connection of its own, ask for {SECONDS} s without a pause, each question a new one; the clients share the "
        f"machine. The index has {DOCUMENTS:,} documents of {' to '.join(map(str, server.SENTENCES))} sentences; "
        "nothing else is asked. Each answer is searched, ranked and recorded. With so many waiting, a request's time "
        "is mostly that of its turn in line: their number divided by answers a second. Memory is that of all "
        f"processes, pages that they share counted once.\n\n{table(('', ''), rows)}\n\n"
        f"What its Python does, by py-spy, in {_STACKS_S} s of the same load that are not in the figures above. What a "
        "room calls in libraries is its own; threads of LanceDB and of the encoder's runtime are not seen.\n\n"
        f"{table(('room', 'share'), rooms)}"
    )


def _stacks(served: server.Server, clients: int, file: Path) -> str:
    """Have the stacks of all threads that run read while clients ask; return them with their counts."""
    py_spy = shutil.which("py-spy", path=Path(sys.executable).parent)
    if py_spy is None:
        sys.exit("py-spy is not installed beside this Python. Install the extra [bench] (make bench does).")
    command = [py_spy, "record", "--pid", str(served.process.pid), "--subprocesses", "--nonblocking", "--format", "raw"]
    command += ["--duration", str(_STACKS_S), "--rate", str(_STACKS_HZ), "--output", str(file)]
    asking = _asking(served.port, clients, seconds=_STACKS_S)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    _result(asking)
    if done.returncode:
        sys.exit(f"py-spy cannot read the stacks of the server:\n{done.stderr}")
    return file.read_text()


def _asking(port: int, clients: int, *, seconds: int = 0, requests: int = 0) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tools.bench.service", *map(str, (port, clients, seconds, requests))]
    return subprocess.Popen(command, cwd=server.ROOT, stdout=subprocess.PIPE, text=True)


def _result(process: subprocess.Popen[str]) -> Load:
    said, _ = process.communicate()
    if process.returncode:
        sys.exit(f"The clients failed: {process.args!r}.")
    return Load(**json.loads(said))


# --- Run in a process of its own -------------------------------------------------------------------------------------


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
                writer.write(f"GET /data?{query} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
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


def _questions(*, seed: int) -> Iterator[str]:
    """Give questions of the sample, each with another number, so that none was asked before."""
    random, (questions, _) = Random(seed), server.sample()
    number = 0
    while True:
        number += 1
        yield f"{random.choice(questions)} This is number {number} of {seed}."


if __name__ == "__main__":
    port, clients, seconds, requests = map(int, sys.argv[1:])
    sys.stdout.write(json.dumps(asdict(asyncio.run(_asked(port, clients, seconds=seconds, requests=requests)))))
