"""Records as Argilla's SDK exports them from a server: `python argilla.py URL TOKEN FOLDER`."""

from __future__ import annotations

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

# This file has the package's name.
sys.path.pop(0)

ME, WORKSPACE, DATASET, USER = (f"35f4f60d-2941-5f29-bcff-62e51c272c6{end}" for end in range(4))
_AT = {"inserted_at": "2026-01-31T09:30:00", "updated_at": "2026-01-31T09:30:00"}


def _part(number: int, name: str, **settings: Any) -> dict[str, Any]:
    id = f"35f4f60d-2941-5f29-bcff-62e51c272d{number:02}"
    return {"id": id, "name": name, "title": name, "required": True, "dataset_id": DATASET, "settings": settings, **_AT}


def _record(id: str, response: str, *responses: dict[str, Any]) -> dict[str, Any]:
    given = [
        {"id": f"{ME[:-2]}{place}9", "record_id": ME, "user_id": USER, "status": "submitted", **each, **_AT}
        for place, each in enumerate(responses)
    ]
    fields = {"prompt": "What is flu?", "response": response}
    suggestions = [{"id": ME, "question_id": _part(3, "rating")["id"], "value": 1, "agent": "a model", **_AT}]
    more = {"metadata": {"source": "docs"}, "status": "completed", "vectors": {}, "dataset_id": DATASET}
    return {
        "id": ME,
        "external_id": id,
        "fields": fields,
        "responses": given,
        "suggestions": suggestions,
        **more,
        **_AT,
    }


RECORDS = [
    _record("r1", "A virus.", {"values": {"rating": {"value": 4}, "comment": {"value": "Short."}}}),
    _record("r2", "A bird."),
    _record("r3", "Nothing.", {"values": {"rating": {"value": 2}}}),
]
#: What a server of Argilla answers, by the end of its path.
ANSWERS: dict[str, Any] = {
    "me": {"id": ME, "username": "ann", "role": "owner", "first_name": "Ann", **_AT},
    "workspaces": {"items": [{"id": WORKSPACE, "name": "w", **_AT}]},
    "datasets": {"items": [{"id": DATASET, "name": "d", "status": "ready", "workspace_id": WORKSPACE, **_AT}]},
    DATASET: {"id": DATASET, "name": "d", "status": "ready", "workspace_id": WORKSPACE, **_AT},
    WORKSPACE: {"id": WORKSPACE, "name": "w", **_AT},
    "fields": {"items": [_part(number, name, type="text") for number, name in enumerate(("prompt", "response"))]},
    "questions": {
        "items": [
            _part(3, "rating", type="rating", options=[{"value": value} for value in range(1, 6)]),
            _part(4, "comment", type="text", use_markdown=False),
        ]
    },
    "metadata-properties": {"items": [_part(5, "source", type="terms")]},
    "vectors-settings": {"items": []},
    "records": {"items": RECORDS, "total": len(RECORDS)},
}


class _Server(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        address = urlsplit(self.path)
        found = ANSWERS.get(address.path.rsplit("/", 1)[-1])
        if "offset=" in address.query and "offset=0" not in address.query:
            found = {"items": [], "total": len(RECORDS)}
        body = json.dumps({} if found is None else found).encode()
        self.send_response(404 if found is None else 200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def main(folder: Path) -> None:
    import argilla

    server = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    client = argilla.Argilla(api_url=f"http://127.0.0.1:{server.server_port}", api_key="k")
    records = client.datasets("d", workspace="w").records
    say("`records.to_json`", [str(records.to_json(folder / "argilla.json"))])
    table = records.to_datasets()
    table.to_parquet(folder / "argilla.parquet")
    say("`records.to_datasets().to_parquet`", [str(folder / "argilla.parquet")])


def say(what: str, files: list[str]) -> None:
    line = {"what": what, "version": version("argilla"), "format": "argilla", "ratings": [4, 2], "file": files}
    sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[3]))
