"""Two real servers that have nothing in common but a Valkey: each text is embedded once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from patience import PATIENCE_S, until
from server_process import Server, environ, start
from test_server_metrics import scraped
from valkey import Valkey, valkey

from rlhf_loop.encoders import TextEncoder

__all__ = ["environ", "start", "valkey"]

DOCUMENTS = ["Cool the burn with running water.", "The museum opens at ten.", "Ice harms the skin of a burn."]


def reranked(server: Server, query: str, documents: list[str]) -> dict[int, float]:
    connection = server.connect()
    try:
        body = json.dumps({"query": query, "documents": documents})
        connection.request("POST", "/v1/rerank", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        content = response.read()
        assert response.status == 200, content
    finally:
        connection.close()
    return {one["index"]: one["relevance_score"] for one in json.loads(content)["results"]}


def counted(server: Server) -> dict[str, float]:
    server.get("/healthz")
    prefix = "rlhf_shared_vectors_total "
    return {name.removeprefix(prefix): value for name, value in scraped(server).items() if name.startswith(prefix)}


def test_servers_share_what_they_have_embedded(
    start: Callable[..., Server], valkey: Valkey, tmp_path: Path, encoder_cache: Path, encoder: TextEncoder
) -> None:
    """The second answers without embedding anything; while Valkey is killed in mid-load, no request fails or hangs."""
    assert encoder.computed >= 0  # its graph is in the cache now, so that no server makes it
    servers = []
    # However slow the machine: nothing that is written is given up, and the pause does not end before it was seen.
    names = ("encoders.shared_vectors:_WRITING_S", "utils.breaker:_FIRST_REST_S")
    patient = {f"rlhf_loop.{name}": PATIENCE_S for name in names}
    for name in ("one", "two"):
        own = shutil.copytree(encoder_cache, tmp_path / name, ignore=shutil.ignore_patterns("vectors.db*"))
        shared = {"RLHF_CACHE_URL": valkey.url, "RLHF_CACHE_TIMEOUT_MS": "10000"}
        prior = {"RLHF_RERANK_WITHOUT_MODEL": "prior"}
        servers.append(start("--workers", "1", values=patient, RLHF_CACHE_DIR=str(own), **shared, **prior))
    one, two = servers
    assert two.get("/readyz")[1]["checks"]["shared cache"] == "ok"
    expected = reranked(one, "How do I treat a burn?", DOCUMENTS)
    until(lambda: (of := counted(one)).get("written") == of["absent"] > 3)
    assert reranked(two, "How do I treat a burn?", DOCUMENTS) == expected
    assert counted(two) == {"found": counted(one)["written"]}

    def load(number: int) -> int:
        if number == 20:
            valkey.stop()
        return len(reranked(servers[number % 2], f"Is {number} a lucky number?", [f"{number} is.", "Nobody knows."]))

    with ThreadPoolExecutor(4) as clients:
        assert set(clients.map(load, range(60))) == {2}
    for server in servers:
        status, found = server.get("/readyz")
        assert status == 200
        assert "paused" in found["checks"]["shared cache"]
        assert len([line for line in server.lines() if "shared vector cache" in line["message"]]) <= 1
