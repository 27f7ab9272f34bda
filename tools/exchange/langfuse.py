"""Scores as Langfuse's SDK posts them and its models write them: `python langfuse.py URL TOKEN FOLDER`."""

from __future__ import annotations

import json
import sys
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

# This file has the package's name.
sys.path.pop(0)

TRACE = {"id": "0af7651916cd43dd8448eb211c80319c", "input": "What is flu?", "output": "A virus.", "name": "chat"}


def main(url: str, token: str, folder: str) -> None:
    say(
        "`create_score`, as it is posted to `/api/public/scores`, sent on to `/v1/feedback/langfuse`",
        result=posted(url, token),
    )
    say("scores of API v3, by the SDK's own models", format="langfuse", ratings=[4, 1, 2], file=written(Path(folder)))


def posted(url: str, token: str) -> str:
    """Have the SDK post scores to a server of ours, and send on what came."""
    from langfuse import Langfuse

    bodies: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/api/public/scores":
                bodies.append(json.loads(body))
            self.send_response(202)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(b'{"message": "Accepted"}')

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sdk = Langfuse(public_key="pk", secret_key="sk", base_url=f"http://127.0.0.1:{server.server_port}")
    sdk.create_score(name="rating", value=4, trace_id=TRACE["id"], data_type="NUMERIC", comment="Short.")
    sdk.create_score(name="tone", value="warm", trace_id=TRACE["id"], data_type="CATEGORICAL")
    sdk.flush()
    sdk.shutdown()
    server.shutdown()
    if not bodies or not isinstance(bodies[0], list):
        return f"the SDK posted {bodies!r:.200}, and not arrays"
    taken = [sent(f"{url}/v1/feedback/langfuse", token, body) for body in (TRACE, *bodies)]
    reviews = sum(each["reviews"] for each in taken)
    return "works" if reviews == 1 and "score tone" in taken[-1].get("unused", []) else f"gives {taken}"


def written(folder: Path) -> list[str]:
    """Write a trace, and a page of scores as the SDK's models dump them."""
    from langfuse.api.scores.types.score_v3 import ScoreV3_Boolean, ScoreV3_Numeric

    common = {"project_id": "p", "name": "rating", "source": "API", "environment": "default"}
    common |= dict.fromkeys(("timestamp", "created_at", "updated_at"), "2026-01-31T09:30:00Z")
    subject = {"kind": "trace", "id": TRACE["id"]}
    part = {"kind": "observation", "id": "o1", "trace_id": TRACE["id"]}
    scores = [
        ScoreV3_Numeric(id="a", value=4, subject=subject, author_user_id="ann", data_type="NUMERIC", **common),
        ScoreV3_Boolean(id="b", value=False, subject=subject, author_user_id="bob", data_type="BOOLEAN", **common),
        ScoreV3_Numeric(id="c", value=2, subject=part, author_user_id="eve", data_type="NUMERIC", **common),
    ]
    trace, page = folder / "trace.json", folder / "scores.json"
    trace.write_text(json.dumps([TRACE]))
    page.write_text('{"data": [' + ", ".join(score.json() for score in scores) + '], "meta": {"limit": 50}}')
    return [str(trace), str(page)]


def sent(url: str, token: str, body: object) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        found: dict[str, Any] = json.load(response)
    return found


def say(what: str, **more: object) -> None:
    sys.stdout.write(json.dumps({"what": what, "version": version("langfuse"), **more}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
