"""The dashboard: who may see it, what it says, its pictures and its data, and what it does while figures take long."""

from __future__ import annotations

import csv
import html
import io
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from figure_fakes import ALL, HOSTILE, MILESTONE, SOURCES
from patience import PATIENCE_S
from people_fakes import Browser, Site
from sqlalchemy import Engine, insert

from rlhf_loop import registry
from rlhf_loop.config import Settings
from rlhf_loop.domain import AlarmKind, RunRecord
from rlhf_loop.monitoring import figures
from rlhf_loop.monitoring.charts import picture
from rlhf_loop.monitoring.figures.figure import Figure
from rlhf_loop.registry.runs import begin_run, end_run
from rlhf_loop.store.alarms import raise_alarm
from rlhf_loop.store.engine import transaction
from rlhf_loop.store.tables import ModelVersion
from rlhf_loop.web.pages import dashboard

NOW = datetime(2026, 11, 24, 9, 30, tzinfo=UTC)


@dataclass
class Figures:
    """Stands in for what is computed; waits until it may go on."""

    found: dict[str, Figure] = field(default_factory=lambda: {figure.name: figure for figure in ALL})
    go_on: threading.Event = field(default_factory=threading.Event)
    asked: list[str] = field(default_factory=list)

    def figure(self, name: str, engine: Engine, settings: object, *, encoder: object = None) -> Figure:
        self.go_on.wait(PATIENCE_S)
        self.asked.append(name)
        return self.found[name]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[Figures]:
    made = Figures()
    made.go_on.set()
    monkeypatch.setattr(figures, "FIGURES", tuple(made.found))
    monkeypatch.setattr(figures, "figure", made.figure)
    monkeypatch.setattr(dashboard, "_PATIENCE_S", 30)
    yield made
    made.go_on.set()


@pytest.fixture
def site(sqlite_engine: Engine, made: Figures) -> Site:
    return Site(sqlite_engine)


@pytest.fixture
def ada(site: Site) -> Browser:
    return site.browser(site.ada)


def add_version(engine: Engine, number: int, **values: Any) -> None:
    row = {
        "version": f"passages-{number}a2b3c4d5e6f", "sha256": f"{number:064}", "state": "candidate", "reason": "",
        "recipe": "passages", "encoder": "all-MiniLM-L6-v2", "made_at": NOW, "changed_at": NOW,
    }  # fmt: skip
    with transaction(engine) as connection:
        connection.execute(insert(ModelVersion).values({**row, **values}))


@pytest.mark.parametrize("path", ["/dashboard", "/dashboard/sources.svg", "/dashboard/sources.csv"])
def test_only_admins_come_in(site: Site, made: Figures, path: str) -> None:
    """A rater is refused with a page, nobody is led to the sign-in, and nothing is computed for them."""
    refused = site.browser(site.rita).get(path)
    assert (refused.status_code, refused.mimetype) == (403, "text/html")
    led = site.browser().get(path)
    assert led.status_code == 303
    assert led.headers["Location"].startswith("/sign-in")
    assert made.asked == []


def test_the_way_there(site: Site, ada: Browser) -> None:
    """An admin finds it in the header, a rater does not."""
    assert '<a href="/dashboard" aria-current="page">Dashboard</a>' in ada.get("/dashboard").text
    assert 'href="/dashboard"' not in site.browser(site.rita).get("/account").text


def test_each_figure(ada: Browser) -> None:
    """Its title, its sentence, its chart with a text instead, its table and its download."""
    page = ada.get("/dashboard").text
    for figure in ALL:
        assert f'<h2 id="{figure.name}-title">{figure.title}</h2>' in page
        assert figure.summary in html.unescape(page)
        assert (f'href="/dashboard/{figure.name}.csv"' in page) == bool(figure.rows)
    assert 'aria-label="By source. wikipedia wins most often."' in page
    assert page.count('<svg xmlns="http://www.w3.org/2000/svg" class="chart') == len(ALL) - 1
    assert "chart.css" in page
    assert HOSTILE not in page
    assert HOSTILE in html.unescape(page)
    assert "41.0\xa0%" in page


def test_all_is_computed_once(ada: Browser, made: Figures) -> None:
    """The page, its pictures and its data share what was computed."""
    ada.get("/dashboard")
    for address in ("/dashboard/sources.svg", "/dashboard/sources.csv", "/dashboard"):
        assert ada.get(address).status_code == 200
    assert sorted(made.asked) == sorted(made.found)


def test_a_picture(ada: Browser) -> None:
    """SVG that may run and load nothing; each has its own tag, and who has it gets no second one."""
    first, other = (ada.get(f"/dashboard/{name}.svg") for name in ("sources", "milestone"))
    assert first.mimetype == "image/svg+xml"
    assert first.text == picture(SOURCES)
    assert first.headers["ETag"] != other.headers["ETag"]
    policy = first.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "sandbox" in policy
    again = ada.client.get("/dashboard/sources.svg", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")


def test_the_data(ada: Browser) -> None:
    """CSV for a spreadsheet, with a name, in no cache; a cell that looks like a formula is none."""
    answer = ada.get("/dashboard/sources.csv")
    assert answer.mimetype == "text/csv"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="sources.csv"'
    assert answer.headers["Cache-Control"] == "no-store"
    rows = list(csv.reader(io.StringIO(answer.text, newline="")))
    assert rows[0] == ["source", "wins"]
    assert rows[1] == ["wikipedia", "0.41"]
    assert rows[-1][0].startswith("'=1+1")
    assert len(rows) == len(SOURCES.rows) + 1


@pytest.mark.parametrize("name", ["nothing", "sources.csv", "a" * 500, "SOURCES"])
@pytest.mark.parametrize("kind", ["svg", "csv"])
def test_there_is_no_such_figure(ada: Browser, name: str, kind: str) -> None:
    """It is a page that says where the figures are."""
    answer = ada.get(f"/dashboard/{name}.{kind}")
    assert (answer.status_code, answer.mimetype) == (404, "text/html")


def test_while_a_figure_takes_long(ada: Browser, made: Figures, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page comes without it and says so, its script asks again, its picture comes later, the next page has it."""
    monkeypatch.setattr(dashboard, "_PATIENCE_S", 0)
    monkeypatch.setattr(dashboard, "_PATIENCE_FOR_ONE_S", 0)
    made.go_on.clear()
    page = ada.get("/dashboard").text
    assert f"{len(ALL)} figures are being computed" in page
    assert "dashboard.js" in page
    early = ada.get("/dashboard/milestone.svg")
    assert (early.status_code, early.mimetype) == (503, "text/html")
    monkeypatch.setattr(dashboard, "_PATIENCE_S", 30)
    made.go_on.set()
    page = ada.get("/dashboard").text
    assert "being computed" not in page
    assert "dashboard.js" not in page
    assert MILESTONE.summary in page


def test_a_figure_that_fails(ada: Browser, made: Figures, caplog: pytest.LogCaptureFixture) -> None:
    """The others are there; the page, the picture and the log say that this one is not."""
    del made.found["sources"]
    page = ada.get("/dashboard").text
    assert "This could not be computed." in page
    assert MILESTONE.summary in page
    assert ada.get("/dashboard/sources.svg").status_code == 500
    assert "The figure sources of the dashboard cannot be computed" in caplog.text


def test_nothing_has_happened_yet(ada: Browser) -> None:
    """Without a model, an alarm or a training, the page says what to do."""
    page = ada.get("/dashboard").text
    assert "No model is live" in page
    assert "No alarm is open." in page
    assert "Nothing has been trained yet." in page


def test_the_state_of_the_loop(site: Site, ada: Browser) -> None:
    """What is amiss comes first, then the live model; then versions with the gate's words, and how trainings ended."""
    engine = site.engine
    raise_alarm(engine, AlarmKind.SOURCE, "It fails. " + HOSTILE, subject="<wikipedia>", now=NOW)
    add_version(engine, 1, state="rejected", reason="It is worse than the incoming order.")
    said = {"reasons": ["It is better than the incoming order.", "There was no live model."]}
    metrics = {"overall": {"answers": 1200}}
    add_version(engine, 2, state="live", reason="Promoted by ada.", judgement=said, metrics=metrics, live_from=NOW)
    run = begin_run(engine, started_at=NOW, recipe="passages", encoder="x", split_seed=0)
    end_run(engine, run, RunRecord(status="failed", n_rated=12, error="Only 12 rated interactions."))
    begin_run(engine, started_at=NOW, recipe="passages", encoder="x", split_seed=0)
    run = begin_run(engine, started_at=NOW, recipe="passages", encoder="x", split_seed=0)
    end_run(engine, run, RunRecord(status="succeeded", n_test=24, accuracy=0.75, auc=0.8, precision_at_1=0.66))
    page = ada.get("/dashboard").text
    places = [
        page.index(words)
        for words in (
            "1 open alarm<", "&lt;wikipedia&gt;", "It fails.", '<p class="version">passages-2a2b3c4d5e6f</p>',
            "Live since", "Promoted by ada.", "When it was made, the gate said: It is better than the incoming order.",
            MILESTONE.title, "1,200 rated answers", "The gate said:</span> It is better than the incoming order.",
            "It is worse than the incoming order.", "Latest trainings", "running", "Only 12 rated interactions.",
        )
    ]  # fmt: skip
    assert places == sorted(places)
    assert "No alarm is open." not in page
    assert HOSTILE not in page
    text = page.replace("&nbsp;", " ")
    assert "on 24 held-out answers alone: accuracy 75.0 %, AUC 0.80</span><span>on all questions: P@1 66.0 %" in text


def test_a_model_that_is_switched_off(site: Site, ada: Browser, tmp_path: Path) -> None:
    """Who did it and why stands before the live model, in the language of whoever looks."""
    settings = Settings(model_path=tmp_path / "m.joblib")
    registry.switch_off(lambda: site.engine, settings, actor="cli:ada", reason=HOSTILE)
    page = ada.get("/dashboard").text
    assert "Model off</strong>" in page
    assert "Switched off by cli:ada since" in page
    assert "Abgeschaltet von cli:ada seit" in ada.client.get("/dashboard", headers={"Accept-Language": "de"}).text
    assert HOSTILE not in page


def test_many_versions(site: Site, ada: Browser) -> None:
    """The page has the newest, and says where the others are."""
    for number in range(12):
        add_version(site.engine, number)
    page = ada.get("/dashboard").text
    assert page.count('<span class="badge candidate">') == 10
    assert "rlhf-loop models list" in page
