"""Some of what `make fuzz` sends by the thousand, on both databases."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from databases import sqlite_database
from served_app import served_app
from v1_apps import settings_for
from web_fakes import GOOD, FakeService
from werkzeug.test import run_wsgi_app
from werkzeug.wsgi import get_input_stream

from rlhf_loop.store.engine import make_engine
from rlhf_loop.web import create_app
from tools import fuzz

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


class Twins:
    """An application on each database: both get each request, and the answers of both go out in turn."""

    def __init__(self, *urls: str, folder: Path) -> None:
        self.differ: list[tuple[str, list[str]]] = []
        self.keys = [fuzz.prepare(url) for url in urls]
        self._apps, self._turn = [], 0
        for number, url in enumerate(urls):
            engine, place = make_engine(url), folder / str(number)
            place.mkdir()
            service = FakeService(GOOD)
            service.ready = True
            settings = settings_for(engine, place, rerank_without_model="incoming")
            self._apps.append(create_app(settings, service=service))
            engine.dispose()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        body, given = get_input_stream(environ).read(), environ.get("HTTP_AUTHORIZATION", "")
        answers = []
        for app, keys in zip(self._apps, self.keys, strict=True):
            own = given.replace(self.keys[0].all, keys.all).replace(self.keys[0].reading, keys.reading)
            ours = {**environ, "wsgi.input": BytesIO(body)}
            if given:
                ours["HTTP_AUTHORIZATION"] = own
            parts, status, headers = run_wsgi_app(app, ours, buffered=True)
            answers.append((b"".join(parts), status, headers))
        statuses = [status for _, status, _ in answers]
        if len(set(statuses)) > 1:
            self.differ.append((f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}", statuses))
        self._turn += 1
        body, status, headers = answers[self._turn % len(answers)]
        start_response(status, headers.to_wsgi_list())
        return [body]


@pytest.mark.slow
def test_no_request_is_a_fault_of_ours(tmp_path: Path, postgres_url: str) -> None:
    """Whatever the document allows or forbids: no 500, each response is one that the document names, and both databases
    have the same one."""
    apps = Twins(sqlite_database(tmp_path / "rlhf.db"), postgres_url, folder=tmp_path)
    with served_app(apps) as address:
        report = fuzz.fuzz(address, apps.keys[0], requests=150, seed=20261123)
    assert report.failures == {}
    assert apps.differ == []
    assert report.requests == 150
    assert len(report.operations) >= 15
    assert {200, 201, 401, 403, 404, 422} <= set(report.statuses)
