"""`rlhf-loop alarms` as an operator and a crontab meet it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from databases import sqlite_database
from loopback import page, site
from sqlalchemy import Engine, insert

from rlhf_loop.cli import main
from rlhf_loop.domain import AlarmKind
from rlhf_loop.store.alarms import clear_alarm, raise_alarm
from rlhf_loop.store.engine import open_database, transaction
from rlhf_loop.store.tables import TrainingRun

Run = Callable[..., Result]
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return sqlite_database(tmp_path / "rlhf.db")


@pytest.fixture
def engine(url: str) -> Engine:
    return open_database(url)


@pytest.fixture
def run(url: str, tmp_path: Path) -> Run:
    def run(*arguments: str, code: int = 0, **environ: str) -> Result:
        nowhere = {"RLHF_ENCODER_PATH": str(tmp_path / "nowhere")}
        result = CliRunner().invoke(main, ["alarms", *arguments], env={"RLHF_DATABASE_URL": url, **nowhere, **environ})
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert result.exit_code == code, result.output
        return result

    return run


def test_no_open_alarm(run: Run) -> None:
    """Exit code 0, and how to look now."""
    assert run().stdout == "No alarm is open. To look now: rlhf-loop alarms --check\n"
    assert json.loads(run("--json").stdout) == []


def test_open_alarms(run: Run, engine: Engine) -> None:
    """Each alarm with its kind, its time and its words; exit code 1; nothing that a terminal would obey."""
    raise_alarm(engine, AlarmKind.SOURCE, "It \x1b[31mfails.", subject="arxiv", now=NOON)
    assert run(code=1).stdout == "source arxiv (2026-03-02 12:00 UTC)\n  It [31mfails.\n"


def test_what_is_over(run: Run, engine: Engine) -> None:
    """`--all` shows it, too, and does not change the exit code."""
    raise_alarm(engine, AlarmKind.QUEUE, "600 wait.", now=NOON)
    clear_alarm(engine, AlarmKind.QUEUE, now=NOON + timedelta(hours=1))
    assert "600 wait." not in run().stdout
    shown = run("--all").stdout
    assert shown.startswith("queue (2026-03-02 12:00 to 2026-03-02 13:00, over UTC)\n  600 wait.\n")


def test_for_programs(run: Run, engine: Engine) -> None:
    """`--json` prints everything, and nothing else; the exit code is the same."""
    raise_alarm(engine, AlarmKind.QUEUE, "600 wait.", detail={"waiting": 600}, now=NOON)
    (alarm,) = json.loads(run("--json", code=1).stdout)
    assert alarm == {
        "id": 1,
        "kind": "queue",
        "subject": "",
        "message": "600 wait.",
        "detail": {"waiting": 600},
        "raised_at": NOON.isoformat(),
        "seen_at": NOON.isoformat(),
        "cleared_at": None,
    }


def test_to_look_now(run: Run, engine: Engine) -> None:
    """`--check` raises alarms, tells the webhook, and clears those that are over."""
    with transaction(engine) as connection:
        row = {"run_id": "1", "status": "failed", "error": "OSError: full", "started_at": NOON}
        connection.execute(insert(TrainingRun), row)
    assert run().exit_code == 0
    with site(page("ok")) as there:
        shown = run("--check", code=1, RLHF_ALARM_WEBHOOK=there.url).stdout
    assert "The training of 2026-03-02 12:00 UTC failed: OSError: full." in shown
    assert [json.loads(seen.body)["kind"] for seen in there.seen] == ["training"]
    with transaction(engine) as connection:
        row = {"run_id": "2", "status": "succeeded", "started_at": NOON + timedelta(hours=1)}
        connection.execute(insert(TrainingRun), {**row, "started_at": datetime.now(UTC)})
    assert run("--check").stdout == "No problems found.\n"
