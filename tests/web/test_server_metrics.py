"""The metrics and traces of a real server with several processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from loopback import page
from loopback import site as receiver
from patience import until
from prometheus_client.parser import text_string_to_metric_families
from server_process import Server, environ, start

__all__ = ["environ", "start"]


def scraped(server: Server) -> dict[str, float]:
    """Ask for the metrics: each sample by its name and labels in one text."""
    connection = server.connect()
    try:
        connection.request("GET", "/metrics")
        response = connection.getresponse()
        text = response.read().decode()
        assert response.status == 200, text
    finally:
        connection.close()
    return {
        f"{sample.name} {' '.join(sorted(sample.labels.values()))}".strip(): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_processes_count_together(start: Callable[..., Server], tmp_path: Path) -> None:
    """Whichever process is asked, it has the counts of all; those of a killed one stay, and it is one process fewer."""
    folders = tmp_path / "tmp"
    folders.mkdir()
    server = start("--workers", "2", "--threads", "2", TMPDIR=str(folders))
    for _ in range(20):
        assert server.get("/data?query=Why")[0] == 200
    before = [scraped(server) for _ in range(6)]
    assert {found["rlhf_answers_total found incoming"] for found in before} == {20}
    assert {found["rlhf_http_requests_total /data 200 GET"] for found in before} == {20}
    assert {found["rlhf_answer_stage_seconds_count source:mine"] for found in before} == {20}
    until(lambda: scraped(server)["rlhf_workers"] == 2)
    (folder,) = folders.glob("rlhf-metrics-*")
    pids = {line["pid"] for line in server.lines() if line["message"].startswith("Booting worker")}
    os.kill(pids.pop(), signal.SIGKILL)
    until(lambda: len([line for line in server.lines() if line["message"].startswith("Booting worker")]) == 3)
    until(lambda: scraped(server)["rlhf_workers"] == 2)
    assert scraped(server)["rlhf_answers_total found incoming"] == 20
    assert server.stop() == 0
    assert not folder.exists()


def spans_of(body: bytes) -> list[tuple[str, str, str, dict[str, object]]]:
    """Read spans as the collector gets them: name, own id, parent's id, attributes."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    found = ExportTraceServiceRequest.FromString(body)
    return [
        (
            span.name,
            span.span_id.hex(),
            span.parent_span_id.hex(),
            {each.key: each.value.string_value or each.value.int_value for each in span.attributes},
        )
        for resource in found.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def test_traces_reach_a_collector(start: Callable[..., Server]) -> None:
    """A span for the request, below the caller's, one for each stage; the log has its id; the question is not in it."""
    pytest.importorskip("opentelemetry.sdk")
    caller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with receiver(lambda request: page("")) as there:
        server = start(
            "--workers", "1", RLHF_TELEMETRY="yes", OTEL_EXPORTER_OTLP_ENDPOINT=there.url, OTEL_BSP_SCHEDULE_DELAY="50"
        )
        assert server.get("/data?query=A+very+secret+question", traceparent=caller)[0] == 200
        assert server.get("/readyz")[0] == 200
        # What is still waiting is sent at the end.
        assert server.stop() == 0
        assert {seen.path for seen in there.seen} == {"/api/v1/traces"}
        bodies = [seen.body for seen in there.seen]
    assert not any(b"secret question" in body for body in bodies)
    spans = [span for body in bodies for span in spans_of(body)]
    by_name = {name: (own, parent, attributes) for name, own, parent, attributes in spans}
    assert set(by_name) == {"GET /data", "answer", "sources", "source", "ranking", "recording"}
    own, parent, attributes = by_name["GET /data"]
    assert parent == "b7ad6b7169203331"
    assert (attributes["http.route"], attributes["http.response.status_code"]) == ("/data", 200)
    answer = by_name["answer"]
    assert answer[1] == own
    assert all(by_name[name][1] == answer[0] for name in ("sources", "ranking", "recording"))
    assert by_name["source"][1] == by_name["sources"][0]
    assert by_name["source"][2] == {"rlhf.source": "mine"}
    (line,) = [line for line in server.lines() if line.get("path") == "/data"]
    assert line["trace_id"] == "0af7651916cd43dd8448eb211c80319c"


def test_a_collector_that_is_away(start: Callable[..., Server]) -> None:
    """Answers come all the same, and the server ends as it should."""
    pytest.importorskip("opentelemetry.sdk")
    with receiver(lambda request: page("")) as there:
        away = there.url
    server = start(
        "--workers", "1", RLHF_TELEMETRY="yes", OTEL_EXPORTER_OTLP_ENDPOINT=away, OTEL_BSP_SCHEDULE_DELAY="50"
    )
    for _ in range(5):
        assert server.get("/data?query=Why")[0] == 200
    assert server.stop() == 0
