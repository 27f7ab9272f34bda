"""A hundred or two of what `make fuzz` sends by the thousand, on both databases."""

from __future__ import annotations

from pathlib import Path

import pytest
from served_app import served_app
from sqlalchemy import Engine
from v1_apps import settings_for
from web_fakes import GOOD, FakeService

from rlhf_loop.web import create_app
from tools import fuzz


@pytest.mark.slow
def test_no_request_is_a_fault_of_ours(engine: Engine, tmp_path: Path) -> None:
    """Whatever the document allows or forbids: no 500, and each response is one that the document names."""
    settings = settings_for(engine, tmp_path, rerank_without_model="incoming")
    keys = fuzz.prepare(settings.database_url)
    service = FakeService(GOOD)
    service.ready = True
    with served_app(create_app(settings, service=service)) as address:
        report = fuzz.fuzz(address, keys, requests=200, seed=20261123)
    assert report.failures == {}
    assert report.requests == 200
    assert len(report.operations) >= 15
    assert {200, 201, 401, 403, 404, 422} <= set(report.statuses)
