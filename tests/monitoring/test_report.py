"""The report: one file with everything in it, written whole or not at all."""

from __future__ import annotations

import base64
import html
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from databases import sqlite_database
from figure_fakes import ALL, HOSTILE, SOURCES
from figure_rows import add
from sqlalchemy import Engine

from rlhf_loop.cli import main
from rlhf_loop.config import Settings
from rlhf_loop.domain import AlarmKind
from rlhf_loop.monitoring import figures
from rlhf_loop.monitoring import report as reports
from rlhf_loop.monitoring.figures.figure import figure_csv
from rlhf_loop.store.alarms import raise_alarm

NOW = datetime(2026, 11, 24, 9, 30, tzinfo=UTC)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "FIGURES", {figure.name: lambda view, found=figure: found for figure in ALL})


@pytest.mark.usefixtures("made")
def test_it_is_complete(sqlite_engine: Engine) -> None:
    """All titles, sentences, pictures and data; nothing from elsewhere and nothing that runs; the same twice."""
    raise_alarm(sqlite_engine, AlarmKind.SOURCE, "It fails. " + HOSTILE, now=NOW)
    seen = list[tuple[int, int]]()
    text = reports.report(sqlite_engine, Settings(), now=NOW, progress=lambda *done: seen.append(done))
    assert seen == [(done, len(ALL)) for done in range(len(ALL) + 1)]
    assert text == reports.report(sqlite_engine, Settings(), now=NOW)
    for figure in ALL:
        assert figure.title in text
        assert figure.summary in html.unescape(text)
    links = re.findall(r'(?:href|src|srcset)="([^"]*)"', text)
    assert links
    assert all(link.startswith("data:") for link in links)
    assert not re.search(r"<script|<link|@import|url\(", text)
    assert HOSTILE not in text
    assert "24 Nov 2026, 09:30</time> UTC" in text
    assert "1 open alarm" in text
    assert f"data:text/csv;charset=utf-8;base64,{base64.b64encode(figure_csv(SOURCES).encode()).decode()}" in text
    assert 'download="sources.csv"' in text


def test_another_time(sqlite_engine: Engine) -> None:
    """The report as of an earlier day shows the weeks before that day, in its figures, too."""
    add(sqlite_engine, 1, source="an old one", created_at=NOW - timedelta(weeks=60), rating=5)
    years_ago = reports.report(sqlite_engine, Settings(), now=NOW - timedelta(weeks=59))
    assert "an old one" in years_ago
    assert "an old one" not in reports.report(sqlite_engine, Settings(), now=NOW)


def test_an_empty_database(sqlite_engine: Engine) -> None:
    """The report says so, and what to do."""
    text = reports.report(sqlite_engine, Settings(), now=NOW)
    assert "nothing to report" in text
    assert "No model is live" in text


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RLHF_DATABASE_URL", sqlite_database(tmp_path / "rlhf.db"))
    monkeypatch.setenv("RLHF_ENCODER_PATH", str(tmp_path))
    return CliRunner()


@pytest.mark.usefixtures("made")
def test_the_command(run: CliRunner) -> None:
    """It writes rlhf_report.html, or what it is told; without the encoder it leaves out what needs one, and says so."""
    found = run.invoke(main, ["report"])
    assert found.exit_code == 0, found.output
    assert "The report is in rlhf_report.html" in found.stdout
    assert "Without the encoder" in found.stderr
    assert Path("rlhf_report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert run.invoke(main, ["report", "other.html"]).exit_code == 0
    assert Path("other.html").exists()


def test_a_place_that_cannot_be_written(run: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused before anything is computed."""
    monkeypatch.setenv("RLHF_DATABASE_URL", "sqlite:///new.db")
    found = run.invoke(main, ["report", "nowhere/report.html"])
    assert found.exit_code == 2
    assert "cannot be written" in found.output
    assert not Path("new.db").exists()
