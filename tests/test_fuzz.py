"""A few hundred of what `make fuzz` sends by the thousand, on both databases."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from sqlalchemy import Engine
from v1_apps import settings_for
from web_fakes import GOOD, FakeService
from werkzeug.serving import WSGIRequestHandler, make_server

from rlhf_loop.web import create_app
from tools import fuzz


class Quiet(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: object) -> None:
        pass


@pytest.mark.slow
def test_no_request_is_a_fault_of_ours(engine: Engine, tmp_path: Path) -> None:
    """Whatever the document allows or forbids: no 500, and each response is one that the document names."""
    settings = settings_for(engine, tmp_path, rerank_without_model="incoming")
    keys = fuzz.prepare(settings.database_url)
    service = FakeService(GOOD)
    service.ready = True
    server = make_server("127.0.0.1", 0, create_app(settings, service=service), threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        address = f"http://127.0.0.1:{server.server_port}"
        report = fuzz.fuzz(address, keys, requests=400, seed=20261123)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert report.failures == {}
    assert report.requests == 400
    assert len(report.operations) >= 15
    assert {200, 201, 401, 403, 404, 422} <= set(report.statuses)
