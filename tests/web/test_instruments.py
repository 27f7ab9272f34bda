"""What a process counts, and what /metrics makes of it; several processes are in test_server_metrics.py."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from databases import sqlite_database
from flask import Flask
from flask.testing import FlaskClient
from forked_process import program
from patience import PATIENCE_S
from prometheus_client import values as values_module
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine, insert
from web_fakes import GOOD, OTHER, FakeService

import rlhf_loop.web
from rlhf_loop import registry
from rlhf_loop.accounts import tokens, users
from rlhf_loop.config import Settings
from rlhf_loop.domain import AlarmKind, ModelState, Rating, RunRecord, UserRole
from rlhf_loop.errors import DatabaseError, OutboxError
from rlhf_loop.monitoring import gauges as gauges_module
from rlhf_loop.monitoring.gauges import count_answers, read_gauges
from rlhf_loop.registry.runs import begin_run, end_run
from rlhf_loop.store import audit
from rlhf_loop.store.alarms import raise_alarm
from rlhf_loop.store.engine import transaction
from rlhf_loop.store.interactions import record
from rlhf_loop.store.tables import ModelVersion
from rlhf_loop.web import create_app
from rlhf_loop.web import prometheus as module
from rlhf_loop.web.prometheus import CATALOGUE, COUNTED, Instruments, Kind
from rlhf_loop.web.server.server import VARIABLE, shared_counts

Values = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def values(client: FlaskClient, **headers: str) -> Values:
    """Ask for the metrics, and read them as Prometheus does: each sample by its name and labels."""
    response = client.get("/metrics", headers=headers)
    assert response.status_code == 200, response.text
    assert response.content_type == "text/plain; version=0.0.4; charset=utf-8"
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def of(found: Values, name: str, **labels: str) -> float:
    return found[name, tuple(sorted(labels.items()))]


def names(found: Values) -> set[str]:
    return {name for name, _ in found}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(database_url=sqlite_database(tmp_path / "rlhf.db"), model_path=tmp_path / "m.joblib", proxies=0)


@pytest.fixture
def service() -> FakeService:
    return FakeService(GOOD, OTHER)


@pytest.fixture
def client(settings: Settings, service: FakeService) -> FlaskClient:
    return create_app(settings, service=service).test_client()  # type: ignore[arg-type]


def test_requests_are_counted_by_route(client: FlaskClient) -> None:
    """By the route's template and the status; what a client makes up becomes no name."""
    for path in ("/data?query=Why", "/data?query=How", "/data", "/nothing/like/this", "/nothing/like/that"):
        client.get(path)
    client.open("/data", method="BREW")
    found = values(client)
    assert of(found, "rlhf_http_requests_total", method="GET", route="/data", status="200") == 2
    assert of(found, "rlhf_http_requests_total", method="GET", route="/data", status="422") == 1
    assert of(found, "rlhf_http_requests_total", method="GET", route="other", status="404") == 2
    assert of(found, "rlhf_http_requests_total", method="other", route="other", status="405") == 1
    assert of(found, "rlhf_http_request_seconds_count", route="/data") == 3
    assert not any("nothing" in str(labels) or "Why" in str(labels) for labels in found)


def test_answers_are_counted(client: FlaskClient, service: FakeService) -> None:
    """Stages in seconds, the first answer's score, what failed; a question without any answer is told apart."""
    service.degraded = {"model": "There is none."}
    client.get("/data?query=Why")
    service.ranked, service.degraded = (), {}
    client.get("/data?query=What")
    found = values(client)
    assert of(found, "rlhf_answers_total", policy="live", result="found") == 1
    assert of(found, "rlhf_answers_total", policy="live", result="nothing") == 1
    assert of(found, "rlhf_answer_stage_seconds_sum", stage="total") == pytest.approx(0.004)
    assert of(found, "rlhf_degraded_total", part="model") == 1
    assert of(found, "rlhf_top_score_bucket", le="0.8") == 0
    assert of(found, "rlhf_top_score_bucket", le="0.9") == 1


def test_a_source_that_fails(client: FlaskClient, service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source that was asked is counted as such, and not as a part of the service."""
    from dataclasses import replace

    answer = service.answer
    monkeypatch.setattr(
        service,
        "answer",
        lambda query: replace(
            answer(query), degraded={"wikipedia": "It is away."}, timings={"total": 3.0, "source:wikipedia": 1.0}
        ),
    )
    client.get("/data?query=Why")
    found = values(client)
    assert of(found, "rlhf_source_failures_total", source="wikipedia") == 1
    assert of(found, "rlhf_answer_stage_seconds_count", stage="source:wikipedia") == 1
    assert ("rlhf_degraded_total", (("part", "wikipedia"),)) not in found


def test_failures_of_ours(client: FlaskClient, service: FakeService) -> None:
    """A fault is counted as status 500, and its question is not one that was answered."""
    service.error = ZeroDivisionError("no")
    client.get("/data?query=Why")
    found = values(client)
    assert of(found, "rlhf_http_requests_total", method="GET", route="/data", status="500") == 1
    assert "rlhf_answers_total" not in names(found)


def test_shared_vectors_are_counted(client: FlaskClient, service: FakeService) -> None:
    """What lookups in the shared cache came to is added up with the request after them."""
    for lookups in ({"found": 3, "absent": 1}, {}, {"found": 2}):
        service.shared = lookups
        client.get("/healthz")
    found = values(client)
    assert of(found, "rlhf_shared_vectors_total", result="found") == 5
    assert of(found, "rlhf_shared_vectors_total", result="absent") == 1


def test_everything_of_the_catalogue(client: FlaskClient, settings: Settings) -> None:
    """Each name and kind is that of the catalogue, with a help text; without a model only its own are missing."""
    client.get("/data?query=Why")
    families = {family.name: family for family in text_string_to_metric_families(client.get("/metrics").text)}
    known = {info.name.removesuffix("_total"): info for info in CATALOGUE}
    assert families.keys() <= known.keys()
    for name, family in families.items():
        assert (family.type, family.documentation) == (known[name].kind, known[name].help)
    missing = known.keys() - families.keys()
    assert missing == {
        "rlhf_live_model_info",
        "rlhf_model_promoted_timestamp_seconds",
        "rlhf_live_model_accuracy",
        "rlhf_live_model_auc",
        "rlhf_backup_timestamp_seconds",
    }


def test_the_catalogue() -> None:
    """Names are as Prometheus wants them: counters end in _total, times are in seconds, and each comes once."""
    assert len({info.name for info in CATALOGUE}) == len(CATALOGUE)
    for info in CATALOGUE:
        assert info.name.startswith("rlhf_")
        assert info.name.endswith("_total") is (info.kind is Kind.COUNTER)
        assert bool(info.buckets) is (info.kind is Kind.HISTOGRAM)
        assert not info.name.endswith(("_ms", "_milliseconds"))
    assert all(info in CATALOGUE for info in COUNTED)


def test_which_model_is_served(client: FlaskClient, service: FakeService) -> None:
    """The version that this process serves has a 1, and those before it are gone."""
    assert of(values(client), "rlhf_model_info", version="passages-1a2b3c4d5e6f") == 1
    service.model_version = "passages-000000000000"
    found = values(client)
    assert [labels for name, labels in found if name == "rlhf_model_info"] == [(("version", "passages-000000000000"),)]
    service.model_version = None
    assert "rlhf_model_info" not in names(values(client))
    assert of(values(client), "rlhf_model_off") == 0


def test_the_outbox(client: FlaskClient, service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for the database is there; an outbox that cannot be read leaves only its own two out."""
    monkeypatch.setattr(service, "waiting", lambda: (7, 2))
    found = values(client)
    assert (of(found, "rlhf_outbox_waiting"), of(found, "rlhf_outbox_refused")) == (7, 2)

    def fails() -> None:
        raise OutboxError("It is damaged.")

    monkeypatch.setattr(service, "waiting", fails)
    found = values(client)
    assert "rlhf_outbox_waiting" not in names(found)
    assert of(found, "rlhf_database_up") == 1


def test_without_the_database(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the process counts is there all the same, the database is down, and it is not asked for a while."""
    asked = []

    def fails(engine: Engine) -> None:
        asked.append(engine)
        raise DatabaseError("It is away.")

    monkeypatch.setattr(module, "read_gauges", fails)
    for _ in range(3):
        found = values(client)
        assert of(found, "rlhf_database_up") == 0
        assert "rlhf_alarms_open" not in names(found)
        assert of(found, "rlhf_workers") == 1
    assert len(asked) == 1


FORWARDED = [
    {"X-Forwarded-For": "8.8.8.8"},
    {"Forwarded": "for=8.8.8.8"},
    {"Via": "1.1 proxy"},
    *(
        {name: "8.8.8.8"}
        for name in (
            "X-Forwarded-Host",
            "X-Forwarded-Proto",
            "X-Forwarded-Port",
            "X-Forwarded-Server",
            "X-Real-IP",
            "CF-Connecting-IP",
            "True-Client-IP",
        )
    ),
]


@pytest.mark.parametrize("headers", FORWARDED, ids=lambda headers: next(iter(headers)))
def test_a_proxy_on_this_machine_is_not_this_machine(client: FlaskClient, headers: dict[str, str]) -> None:
    """What a proxy passes on needs a token, though it comes from loopback."""
    assert client.get("/metrics", headers=headers).status_code == 401


@pytest.mark.parametrize(
    ("address", "status"),
    [("127.0.0.1", 200), ("127.8.8.8", 200), ("::1", 200), ("::ffff:127.0.0.1", 200), ("10.0.0.7", 401), ("", 401)],
)
def test_who_may_ask(client: FlaskClient, address: str, status: int) -> None:
    """Whoever is on this machine; others get the way to a token as problem+json."""
    response = client.get("/metrics", environ_overrides={"REMOTE_ADDR": address})
    assert response.status_code == status
    if status == 401:
        assert response.mimetype == "application/problem+json"
        assert response.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize(("scope", "status"), [(tokens.METRICS, 200), (tokens.READ, 403)])
def test_tokens(settings: Settings, service: FakeService, scope: str, status: int) -> None:
    """From elsewhere a token with the scope metrics:read is let in, and no other."""
    from rlhf_loop.store.engine import open_database

    engine = open_database(settings.database_url)
    users.add(engine, "prometheus", role=UserRole.SERVICE, actor="test")
    token = tokens.add(engine, "scrape", user="prometheus", scopes=[scope], actor="test").secret
    client = create_app(settings, service=service).test_client()  # type: ignore[arg-type]
    response = client.get(
        "/metrics", headers={"Authorization": f"Bearer {token}"}, environ_overrides={"REMOTE_ADDR": "10.0.0.7"}
    )
    assert response.status_code == status
    engine.dispose()


def test_for_everybody(settings: Settings, service: FakeService) -> None:
    """Where a setting says so, nobody needs a token; the limit of requests holds for others, not for this machine."""
    from dataclasses import replace

    open_to_all = replace(settings, metrics_public=True, rate_limit="2 per year")
    client = create_app(open_to_all, service=service).test_client()  # type: ignore[arg-type]
    codes = [client.get("/metrics", environ_overrides={"REMOTE_ADDR": "10.0.0.7"}).status_code for _ in range(3)]
    assert codes == [200, 200, 429]
    assert [client.get("/metrics").status_code for _ in range(4)] == [200] * 4


def test_in_somebodys_application(settings: Settings, service: FakeService) -> None:
    """The blueprint counts its own routes only, once each, and leaves the application's own metrics alone."""
    from prometheus_client import REGISTRY, Counter

    theirs = Counter("theirs_of_test", "What somebody else counts.")
    theirs.inc()
    app = Flask("theirs")
    app.register_blueprint(rlhf_loop.web.blueprint(settings, service=service))  # type: ignore[arg-type]
    app.add_url_rule("/own", view_func=lambda: "mine")
    client = app.test_client()
    client.get("/own")
    client.get("/data?query=Why")
    found = values(client)
    assert of(found, "rlhf_http_requests_total", method="GET", route="/data", status="200") == 1
    assert ("rlhf_http_requests_total", (("method", "GET"), ("route", "/own"), ("status", "200"))) not in found
    assert not any(name.startswith("theirs") for name in names(found))
    assert not any(metric.name.startswith("rlhf_") for metric in REGISTRY.collect())
    REGISTRY.unregister(theirs)


@pytest.fixture
def loop(engine: Engine) -> Engine:
    """A database with a live model, trainings, answers and an alarm."""
    record(engine, [Rating(f"Question {n}?", "An answer.", rating=4 if n < 3 else None) for n in range(5)])
    raise_alarm(engine, AlarmKind.QUEUE, "It grows.")
    for status in ("succeeded", "succeeded", "failed"):
        run = begin_run(engine, started_at=datetime.now(UTC), recipe="auto", encoder="e", split_seed=0)
        end_run(engine, run, RunRecord(status=status, finished_at=datetime.now(UTC), metrics={}))
    begin_run(engine, started_at=datetime.now(UTC), recipe="auto", encoder="e", split_seed=0)
    return engine


def test_gauges(loop: Engine) -> None:
    """Alarms of each kind, trainings by their end, answers with and without a rating."""
    found = read_gauges(loop)
    assert found.alarms == {kind: int(kind is AlarmKind.QUEUE) for kind in AlarmKind}
    assert found.trainings == {"running": 1, "succeeded": 2, "rejected": 0, "failed": 1}
    assert (found.live, found.accuracy) == (None, None)
    counted = count_answers(loop)
    assert (counted.rated, counted.waiting) == (3, 2)


def test_gauges_of_a_live_model(loop: Engine) -> None:
    """With a live model: which one, since when, and how good it is by its own training."""
    since = datetime(2026, 5, 20, tzinfo=UTC)
    row = {
        "version": "passages-1a2b3c4d5e6f",
        "sha256": "0" * 64,
        "state": ModelState.LIVE,
        "reason": "Better.",
        "recipe": "passages",
        "encoder": "e",
        "judgement": {},
        "metrics": {"overall": {"accuracy": {"value": 0.81}, "auc": {"value": 0.9}}},
        "made_at": since,
        "changed_at": since,
        "live_from": since,
    }
    with transaction(loop) as connection:
        connection.execute(insert(ModelVersion), [row])
    found = read_gauges(loop)
    assert (found.live, found.promoted_at, found.accuracy, found.auc) == (row["version"], since, 0.81, 0.9)
    assert registry.live(loop) is not None
    assert found.backup_at is None
    with transaction(loop) as connection:
        audit.note(connection, "worker", "backup.made", "backup", {"file": "x.zip", "bytes": 5})
    made_at = read_gauges(loop).backup_at
    assert made_at is not None
    assert abs(made_at - datetime.now(UTC)) < timedelta(hours=1)
    assert gauges_module.AlarmKind is AlarmKind


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv(VARIABLE, raising=False)
    # What counts in this folder must not be what counts in the tests after this one.
    monkeypatch.setattr(values_module, "ValueClass", values_module.ValueClass)
    with shared_counts() as found:
        yield found


def test_a_folder_for_each_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is there while the server runs, the library is told of it, and nothing is left afterwards."""
    import os

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv(VARIABLE, "what somebody had set")
    with shared_counts() as folder:
        assert folder.is_dir()
        assert os.environ[VARIABLE] == str(folder)
    assert not folder.exists()
    assert os.environ[VARIABLE] == "what somebody had set"


def test_what_killed_servers_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders that nobody holds any more are removed; one in use, or one that is young, is not."""
    import os

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    abandoned, young = tmp_path / "rlhf-metrics-old", tmp_path / "rlhf-metrics-young"
    for each in (abandoned, young):
        each.mkdir()
    long_ago = time.time() - 3600
    with shared_counts() as used:
        for each in (abandoned, used):
            os.utime(each, (long_ago, long_ago))
        with shared_counts():
            assert [each.exists() for each in (abandoned, young, used)] == [False, True, True]


COUNTING = """
import sys
from flask import Flask, request, Response
from prometheus_client import values
values.ValueClass = values.MultiProcessValue()
from rlhf_loop.web.prometheus import Instruments
counts = Instruments()
app = Flask("a")
app.add_url_rule("/one", view_func=lambda: "1")
app.after_request(lambda response: counts.count(request, response))
counts.serves("passages-1")
for _ in range(int(sys.argv[1])):
    app.test_client().get("/one")
if sys.argv[2:]:
    for metric in counts.collect():
        for sample in metric.samples:
            print(sample.name, sample.labels, sample.value)
"""


def test_processes_count_together(folder: Path) -> None:
    """The counts of processes that have ended stay; of gauges only those of living processes are left."""
    from rlhf_loop.web.server.server import forget

    place = {VARIABLE: str(folder)}
    first = program(COUNTING, 3, folder=folder.parent, **place)
    assert first.wait(PATIENCE_S) == 0
    forget(first.pid)
    second = program(COUNTING, 2, "say", folder=folder.parent, **place)
    assert second.wait(PATIENCE_S) == 0
    lines = second.said().splitlines()
    assert "rlhf_http_requests_total {'method': 'GET', 'route': '/one', 'status': '200'} 5.0" in lines
    assert "rlhf_workers {} 1.0" in lines
    assert "rlhf_model_info {'version': 'passages-1'} 1.0" in lines


def test_an_empty_file_of_a_process_that_starts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in which there is nothing yet does not stop the others from being read."""
    (folder / "counter_1.db").touch()
    (folder / "gauge_livesum_2.db").touch()
    assert list(Instruments().collect()) is not None
