"""Set real clients on the real server, say what became of it, and write it into docs/CLIENTS.md.

    make clients
    make clients OPTIONS=--check        and write nothing

The server is `rlhf-loop serve` with a model of the sample ratings, and a test double of a language model, whose drafts
are the documents; each client comes through a proxy and has to show its token. What they sent is kept in
tests/data/rerank_requests.json, which the test suite sends again.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import cycle
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from rlhf_loop import sample
from rlhf_loop.accounts import tokens, users
from rlhf_loop.domain import UserRole
from rlhf_loop.store.engine import open_database
from tools.clients.recorder import Exchange, Recorder, recording
from tools.fuzz import served, train
from tools.report import DOCS, put_into, table, today

REQUESTS = DOCS.parent / "tests" / "data" / "rerank_requests.json"
_PAGE = DOCS / "CLIENTS.md"
_QUERY = sample.QUESTION
#: Two of them the same, one with nothing in it, and one beyond ASCII: what mixes up clients and servers.
_DOCUMENTS = [*(found["text"] for found in sample.CANDIDATES[:3]), "Größe: 20 µm 😀", sample.CANDIDATES[0]["text"], " "]


@dataclass(frozen=True)
class Tried:
    """A client's name and version, its settings, what it sent and got."""

    said: dict[str, Any]
    sent: Sequence[Exchange]
    result: str

    @property
    def fine(self) -> bool:
        return self.result == "works" or "not_for_it" in self.said


@click.command()
@click.option("--python", required=True, help="That of the environment with the clients.")
@click.option("--check", is_flag=True, help="Write nothing.")
def main(python: str, check: bool) -> None:
    """Run them all; the exit code is 1 if one does not work."""
    with tempfile.TemporaryDirectory(prefix="rlhf-clients-") as name:
        folder = Path(name)
        url, token = prepare(folder)
        with (
            drafting() as model,
            served(url, folder, RLHF_LLM_URL=model, RLHF_LLM_MODEL="double", RLHF_BEST_OF="6") as server,
            recording(server) as recorder,
        ):
            tried = list(trying(python, recorder, token, truth(server)))
    for each in tried:
        click.echo(f"{each.result:<10} {each.said['package']} {each.said['version']}: {each.said['call']}")
    if not check:
        _write(tried)
    sys.exit(0 if all(each.fine for each in tried) else 1)


def prepare(folder: Path) -> tuple[str, str]:
    """Train on the sample in a database of its own; return its URL and a token."""
    url = f"sqlite:///{folder / 'rlhf.db'}"
    train(url, folder)
    engine = open_database(url)
    users.add(engine, "clients", role=UserRole.SERVICE, actor="clients")
    token = tokens.add(engine, "clients", user="clients", scopes=[tokens.RERANK, tokens.CHAT], actor="clients").secret
    engine.dispose()
    return url, token


@contextmanager
def drafting() -> Iterator[str]:
    """Serve a test double of a language model: by its seed, else in turn, a draft is one of the documents.

    Yield its base URL.
    """
    turns = cycle(range(3))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            message = {"role": "assistant", "content": _DOCUMENTS[asked["seed"] if "seed" in asked else next(turns)]}
            answer = {
                "id": "double",
                "object": "chat.completion",
                "created": 1,
                "model": asked["model"],
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 9, "completion_tokens": 7, "total_tokens": 16},
            }
            data = json.dumps(answer).encode()
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
        yield f"http://127.0.0.1:{double.server_port}/v1"
    finally:
        double.shutdown()
        double.server_close()


def truth(server: str) -> list[tuple[int, float]]:
    """Ask without any client."""
    connection = HTTPConnection(urlsplit(server).netloc, timeout=60)
    body = json.dumps({"query": _QUERY, "texts": _DOCUMENTS})
    connection.request("POST", "/rerank", body, {"Content-Type": "application/json"})
    found = json.loads(connection.getresponse().read())
    connection.close()
    return [(one["index"], one["score"]) for one in found]


def trying(python: str, recorder: Recorder, token: str, expected: Sequence[tuple[int, float]]) -> Iterator[Tried]:
    """Have each client ask, and compare what it gives with the truth."""
    calls = subprocess.Popen(
        [python, str(Path(__file__).with_name("calls.py")), recorder.url, token],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert calls.stdin is not None
    assert calls.stdout is not None
    json.dump({"query": _QUERY, "documents": _DOCUMENTS}, calls.stdin)
    calls.stdin.close()
    for line in calls.stdout:
        said = json.loads(line)
        yield Tried(said, recorder.take(), _result(said, expected))
    if calls.wait():
        raise click.ClickException("The clients' program broke off; its last words are above.")


def _result(said: dict[str, Any], expected: Sequence[tuple[int, float]]) -> str:
    if why := said.get("not_for_it"):
        return str(why)
    if why := said.get("failed"):
        return f"fails: {why}"
    if not said["refused"]:
        return "works with a wrong token, too"
    if "text" in said:
        best = _DOCUMENTS[expected[0][0]]
        return "works" if said["text"] == best else f"gives another draft: {said['text']}"
    found = said["pairs"]
    if [index for index, _ in found] != [index for index, _ in expected]:
        return f"gives another order: {found}"
    same = all(math.isclose(one[1], other[1], abs_tol=1e-6) for one, other in zip(found, expected, strict=True))
    return "works" if same else f"gives other scores: {found}"


def _write(tried: Sequence[Tried]) -> None:
    lines = [
        [
            f"`{each.said['package']}` {each.said['version']}",
            f"`{each.said['call']}`",
            ", ".join(sorted({f"`{sent.path}`" for sent in each.sent})),
            each.said["told"],
            each.result,
            f"`{each.said['refused']}`" if each.said.get("refused") else "",
        ]
        for each in tried
    ]
    found = table(["package", "call", "asks", "had to be told", "result", "a wrong token is"], lines)
    put_into(_PAGE, "clients", f"By `make clients` on {today()}:\n\n{found}")
    requests = [
        {
            "client": f"{each.said['package']}, {each.said['call']}",
            "path": sent.path,
            "headers": sent.headers,
            "body": sent.body,
        }
        for each in tried
        for sent in each.sent
        if sent.status == 200 and sent.path.endswith("/rerank")
    ]
    REQUESTS.write_text(json.dumps(requests, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
