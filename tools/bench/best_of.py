"""The delay of the first byte where an answer goes through best of n, against asking the language model itself."""

from __future__ import annotations

import http.client
import json
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from statistics import median, quantiles
from time import perf_counter, sleep

from tools.bench import server
from tools.bench.reranking import texts_of
from tools.report import table

ROUNDS, WORDS = 60, 100
#: What the double of a language model takes for a draft.
DRAFT_S = 0.2
_PATIENCE_S = 60
_ASKED = {"model": "double", "messages": [{"role": "user", "content": "What helps against a migraine attack?"}]}


@dataclass(frozen=True, slots=True)
class Way:
    """Milliseconds to the first byte of a stream, by one way to ask."""

    name: str
    took: Sequence[float]


def measure(*, rounds: int = ROUNDS) -> list[Way]:
    """Ask in turn: the model itself, and through best of 1 and of 4."""
    with tempfile.TemporaryDirectory(prefix="rlhf-best-of-") as name, _double() as double:
        folder = Path(name)
        server.prepare(folder)
        variables = {"RLHF_LLM_URL": f"http://127.0.0.1:{double}/v1", "RLHF_LLM_MODEL": "double"}
        with server.serving(folder, "--workers", "1", **variables) as served:
            ways = {"the model itself": (double, 1), "best of 1": (served.port, 1), "best of 4": (served.port, 4)}
            took: dict[str, list[float]] = {way: [] for way in ways}
            for turn in range(rounds + 1):
                for way, (port, best_of) in ways.items():
                    found = _first_byte(port, best_of)
                    if turn:  # the first one loads
                        took[way].append(found)
    return [Way(way, found) for way, found in took.items()]


def section(ways: Sequence[Way]) -> str:
    """Return the section of the document."""
    lines = [[way.name, f"{median(way.took):.0f}", f"{quantiles(way.took, n=100)[98]:.0f}"] for way in ways]
    return (
        "## Best of n\n\n"
        f"Milliseconds to the first byte of a stream, {len(ways[0].took)} times in turn, by one process. The language "
        f"model is a test double, which takes {1000 * DRAFT_S:.0f} ms for a draft of {WORDS} new words, however many "
        "at once.\n\n" + table(["asked", "median, ms", "99th percentile, ms"], lines)
    )


def _first_byte(port: int, best_of: int) -> float:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE_S)
    body = json.dumps({**_ASKED, "stream": True, "best_of": best_of})
    started = perf_counter()
    connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    answer.read(1)
    took = perf_counter() - started
    status, rest = answer.status, answer.read()
    connection.close()
    if status != 200:
        raise RuntimeError(f"The server answers {status}: {rest[:300]!r}")
    return 1000 * took


@contextmanager
def _double() -> Iterator[int]:
    """Serve a test double of a language model, whose drafts are made-up texts; yield its port."""
    texts = texts_of(Random(0))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            (text,) = texts(1, WORDS)
            sleep(DRAFT_S)
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            data = json.dumps({"object": "chat.completion", "model": "double", "choices": [choice]}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    double = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    double.daemon_threads = True
    threading.Thread(target=double.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield double.server_port
    finally:
        double.shutdown()
        double.server_close()
