"""`rlhf-loop rankings purge` and `rlhf-loop forget` show what they would delete, and delete when they are told to."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from databases import sqlite_database
from filelock import FileLock
from sqlalchemy import func, make_url, select

from rlhf_loop.accounts import users
from rlhf_loop.cli import main
from rlhf_loop.config import Settings
from rlhf_loop.domain import Candidate, RankedCandidate, RecordedRanking, UserRole
from rlhf_loop.store.engine import open_database
from rlhf_loop.store.outbox import Outbox
from rlhf_loop.store.recording import Recorder
from rlhf_loop.store.tables import Interaction

Run = Callable[..., Result]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return sqlite_database(tmp_path / "rlhf.db")


@pytest.fixture
def run(url: str, tmp_path: Path) -> Run:
    """Run a command, on a database whose ranking still waits in the outbox."""
    environ = {"RLHF_DATABASE_URL": url, "RLHF_OUTBOX_PATH": str(tmp_path / "outbox.db")}
    recorder = Recorder(Settings.from_env(environ))
    recorder._replaying = os.getpid()  # no thread writes it into the database meanwhile
    candidate = RankedCandidate(Candidate("Sugar."), rank=1, score=0.5, position=0)
    recorder.record_ranking(
        RecordedRanking(
            id="r",
            query="What helps?",
            candidates=(candidate,),
            door="/v1/rerank",
            caller="shop",
            policy="live",
            ranked_at=datetime(2026, 1, 1, tzinfo=UTC),
        )
    )
    recorder.close()

    def run(*arguments: str, code: int = 0, **more: str) -> Result:
        result = CliRunner().invoke(main, arguments, env={**environ, **more})
        assert result.exit_code == code, result.output
        return result

    return run


def left(url: str) -> int:
    engine = open_database(url)
    with engine.connect() as connection:
        count = int(connection.execute(select(func.count()).select_from(Interaction)).scalar_one())
    engine.dispose()
    return count


@pytest.mark.parametrize(
    ("arguments", "which"),
    [(("forget", "--query", "what  HELPS?"), "to this question"), (("forget", "--caller", "shop"), "by shop")],
)
def test_a_person_is_forgotten_only_when_it_is_said(run: Run, url: str, arguments: tuple[str, ...], which: str) -> None:
    """What waits in the outbox counts, too; without --yes everything stays, and it is said how much that is.

    Afterwards the text is in no file any more, neither of the database nor of the outbox, logs included.
    """
    shown = run(*arguments).output
    folder = Path(make_url(url).database or "").parent
    # As another program has it open, SQLite does not clean up by itself.
    held = sqlite3.connect(folder / "rlhf.db")
    held.execute("SELECT count(*) FROM rlhf_interactions").fetchall()
    assert f"1 answer or document in 1 list, with 0 reviews: {which}." in shown
    assert "Nothing is deleted yet. Add --yes" in shown
    assert left(url) == 1
    assert "1 answer or document in 1 list, with 0 reviews: deleted." in run(*arguments, "--yes").output
    assert left(url) == 0
    kept = [file.name for file in folder.iterdir() if b"Sugar." in file.read_bytes()]
    held.close()
    assert kept == []


@pytest.mark.parametrize(
    ("arguments", "file"),
    [
        (("forget", "--query", "What helps?"), "rlhf.db"),
        (("forget", "--query", "What helps?"), "outbox_rankings.db"),
        (("rankings", "purge", "--days", "1"), "rlhf.db"),
    ],
)
def test_a_second_time_empties_what_the_first_could_not(
    run: Run, url: str, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], file: str
) -> None:
    """While somebody reads, the log keeps what was deleted, and the exit code says so; afterwards it is done again."""
    monkeypatch.setattr("rlhf_loop.store.engine._FOLD_S", 0)
    monkeypatch.setattr("rlhf_loop.store.outbox._BUSY_S", 0)
    folder = Path(make_url(url).database or "").parent
    held = sqlite3.connect(folder / file, isolation_level=None)
    held.execute("BEGIN")
    held.execute("SELECT count(*) FROM sqlite_master").fetchall()
    run("forget", "--query", "settles what waits")

    def kept() -> list[str]:
        return [found.name for found in folder.iterdir() if b"Sugar." in found.read_bytes()]

    run(*arguments, "--yes", code=1)
    assert left(url) == 0
    assert kept()
    run(*arguments, "--yes", code=1)
    held.execute("COMMIT")
    assert "nothing to delete" in run(*arguments, "--yes").output
    assert kept() == []
    held.close()


def test_nothing_to_forget_is_said(run: Run, url: str) -> None:
    """A name that is no user's is a mistake, as with other commands; a question that nobody asked is none."""
    assert "There is nothing to delete." in run("forget", "--query", "Who?", "--yes").output
    assert "There is no user 'nobody', and nothing by one." in run("forget", "--caller", "nobody", code=2).output
    users.add(open_database(url), "quiet", role=UserRole.SERVICE, actor="test")
    assert "There is nothing to delete." in run("forget", "--caller", "quiet").output


def test_what_the_outbox_keeps_is_forgotten_too(run: Run, tmp_path: Path) -> None:
    """Also what the database refused; while another process has it in its hands, it is said that nothing is deleted."""
    outbox = Outbox(tmp_path / "outbox_rankings.db", limit=10)
    (entry,) = outbox.waiting(limit=2)
    outbox.refuse(entry, "ValueError: no")
    forget = ("forget", "--query", "What helps?")
    assert "1 entry in the outbox: to this question." in run(*forget).output
    with FileLock(f"{outbox.path}.lock"):
        assert "Another process has been writing" in run(*forget, "--yes", code=2).output
    assert outbox.count() == (0, 1)
    assert "1 entry in the outbox: deleted." in run(*forget, "--yes").output
    assert outbox.count() == (0, 0)
    outbox.close()


def test_old_rankings_are_purged_when_it_is_said(run: Run, url: str) -> None:
    """By the days that are given, else by those of the settings; 0 there says none are."""
    assert "RLHF_RECORD_DAYS is 0, so nothing is too old" in run("rankings", "purge", code=2).output
    assert "nan is not a valid number of days" in run("rankings", "purge", "--days", "nan", code=2).output
    run("forget", "--query", "settles what waits")
    assert "0 answers and documents" in run("rankings", "purge", "--days", "30000", "--yes").output
    assert "Nothing is deleted yet" in run("rankings", "purge", RLHF_RECORD_DAYS="1").output
    assert left(url) == 1
    run("rankings", "purge", "--yes", RLHF_RECORD_DAYS="1")
    assert left(url) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "Give --query or --caller, one of them."),
        (("--query", "a", "--caller", "b"), "Give --query or --caller, one of them."),
        (("--query", " "), "What is to be forgotten is empty."),
    ],
)
def test_what_is_not_said_is_not_forgotten(run: Run, arguments: tuple[str, ...], words: str) -> None:
    """Exit code 2, and what to say."""
    assert words in run("forget", *arguments, code=2).output
