"""What deploy/ and docs/METRICS.md say of metrics is true of the catalogue."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlhf_loop.web.prometheus import CATALOGUE, Kind, MetricInfo

ROOT = Path(__file__).parents[2]
DASHBOARD = json.loads((ROOT / "deploy/grafana/rlhf-loop.json").read_text(encoding="utf-8"))
ALERTS = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text(encoding="utf-8"))
SCRAPE = yaml.safe_load((ROOT / "deploy/prometheus/scrape.yml").read_text(encoding="utf-8"))
DOCUMENT = (ROOT / "docs/METRICS.md").read_text(encoding="utf-8")
#: Labels that Prometheus itself gives, or that belong to a histogram.
GIVEN = {"instance", "job", "le"}
#: Words inside braces and "by (...)" that are labels.
_MATCHED = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"")
_GROUPED = re.compile(r"(?:by|on|ignoring|without)\s*\(([^)]*)\)")


def by_sample() -> dict[str, MetricInfo]:
    """Each name that a query may use, with the metric it belongs to."""
    names = {}
    for info in CATALOGUE:
        endings = ("_bucket", "_sum", "_count") if info.kind is Kind.HISTOGRAM else ("",)
        names |= {info.name + ending: info for ending in endings}
    return names


def expressions() -> Iterator[str]:
    for panel in DASHBOARD["panels"]:
        yield from (target["expr"] for target in panel.get("targets", []))
    yield from (each["expr"] for each in DASHBOARD["annotations"]["list"])


def rules() -> list[dict[str, Any]]:
    return [rule for group in ALERTS["groups"] for rule in group["rules"]]


def used(expression: str) -> set[str]:
    return set(re.findall(r"\brlhf_\w+", expression))


@pytest.mark.parametrize("expression", [*expressions(), *(rule["expr"] for rule in rules())])
def test_expressions(expression: str) -> None:
    """Names and labels of each query exist; a counter or histogram is only used as a rate, a quantile or a total."""
    names = used(expression)
    assert names <= by_sample().keys()
    infos = [by_sample()[name] for name in names]
    known = GIVEN.union(*(info.labels for info in infos))
    labels = set(_MATCHED.findall(expression))
    for group in _GROUPED.findall(expression):
        labels |= {label.strip() for label in group.split(",") if label.strip()}
    assert labels <= known
    assert expression.count("(") == expression.count(")")
    if any(info.kind is Kind.HISTOGRAM for info in infos):
        assert "rate(" in expression


def test_the_dashboard_is_whole() -> None:
    """Each panel has an id and a place of its own, a unit, and a description or queries with legends."""
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = set()
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & places, panel["title"]
        places |= cells
        for target in panel.get("targets", []):
            assert target["datasource"]["uid"] == "${datasource}"
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert variables == {"datasource", "instance"}
    assert set(re.findall(r"\$(\w+)", " ".join(expressions()))) <= {"instance", "__rate_interval"}


def test_nothing_is_forgotten() -> None:
    """Each metric of the catalogue is on the dashboard."""
    shown = {by_sample()[name] for expression in expressions() for name in used(expression)}
    assert {info.name for info in CATALOGUE} - {info.name for info in shown} == set()


def test_alerts() -> None:
    """Each has a severity and a sentence; the names are unique, and labels in the sentence survive the query."""
    assert len({rule["alert"] for rule in rules()}) == len(rules())
    for rule in rules():
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"]["summary"].endswith(".")


def test_how_to_scrape() -> None:
    """The path is ours, the token comes from a file, and the alert about a service that is down names the same job."""
    (job,) = SCRAPE
    assert (job["metrics_path"], job["authorization"]["type"]) == ("/metrics", "Bearer")
    assert any(f'job="{job["job_name"]}"' in rule["expr"] for rule in rules())


def test_the_document() -> None:
    """docs/METRICS.md has a row for each metric, with its labels and its help, and no other."""
    rows = re.findall(r"^\| `(rlhf_\w+)` \| (\w+) \| ([^|]*) \| ([^|]*) \|$", DOCUMENT, re.MULTILINE)
    written = {name: (kind, labels.strip(), text.strip()) for name, kind, labels, text in rows}
    expected = {
        info.name: (str(info.kind), ", ".join(f"`{label}`" for label in info.labels), info.help) for info in CATALOGUE
    }
    assert written == expected
