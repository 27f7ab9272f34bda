"""The ratings database as the routes use it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Semaphore
from time import monotonic
from typing import Any

import pytest
from people_fakes import PASSWORD, Site
from sqlalchemy import Engine, text
from v1_apps import ITEM, Caller, app_on, token_for

from rlhf_loop.accounts import users
from rlhf_loop.config import Settings
from rlhf_loop.domain import UserRole
from rlhf_loop.errors import DatabaseError
from rlhf_loop.store import engine as db
from rlhf_loop.store.engine import FILE_FOREIGN, FILE_GONE, lost_file, migrate
from rlhf_loop.web import process
from rlhf_loop.web.process import Database


def test_who_waited_for_a_failure_does_not_try_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else all threads of a process would wait for a dead database one after the other; the next request tries."""
    tried: list[Engine] = []
    came, over = Semaphore(0), Event()

    def dead(engine: Engine) -> None:
        tried.append(engine)
        over.wait()
        raise DatabaseError("It is dead.")

    def arriving() -> float:
        came.release()
        return monotonic()

    monkeypatch.setattr(process, "ensure_schema", dead)
    monkeypatch.setattr(process, "monotonic", arriving)
    shared = Database(Settings(database_url="sqlite://"))

    def ask(_: Any) -> str:
        with pytest.raises(DatabaseError) as refused:
            shared.engine()
        return str(refused.value)

    with ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(ask, number) for number in range(4)]
        for _ in asked:
            came.acquire()
        over.set()
        assert [each.result() for each in asked] == ["It is dead."] * 4
    assert len(tried) == 1
    ask(None)
    assert len(tried) == 2
    monkeypatch.setattr(process, "ensure_schema", tried.append)
    assert shared.engine() is shared.engine()


@pytest.fixture
def impatient_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guard that asks a database again at once that did not answer."""
    monkeypatch.setattr("rlhf_loop.web.guard._DOWN_S", 0)


def lose(engine: Engine) -> None:
    """Take all tables away, as somebody does who deletes the file, or drops the database and makes it anew."""
    if engine.dialect.name == "sqlite":
        for file in Path(str(engine.url.database)).parent.glob(f"{Path(str(engine.url.database)).name}*"):
            file.unlink()
        return
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))


def start_again(engine: Engine) -> None:
    """Forget which file it was, as a process that is started again does."""
    db._files.pop(Path(str(engine.url.database)))


@pytest.mark.usefixtures("impatient_guard")
def test_a_lost_database_comes_back_anew(engine: Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A token of before is nobody's, a new one works; the log says how to get an admin.

    A SQLite file that is gone is no new one by itself: there is none until somebody makes it, and what runs takes that
    one when it is started again.
    """
    web = app_on(engine, tmp_path).test_client()
    before = Caller(web, token_for(engine, "app"))
    assert before("POST", "/interactions", ITEM).status_code == 201
    lose(engine)
    if engine.dialect.name == "sqlite":
        assert [before("GET", "/interactions").status_code for _ in range(2)] == [503, 503]
        assert "its file was deleted" in caplog.text
        settings = Settings(database_url=engine.url.render_as_string(), outbox_path=tmp_path / "outbox.db")
        assert lost_file(settings) == FILE_GONE
        file = Path(str(engine.url.database))
        assert not file.exists()
        # Nor is an empty one that somebody put there made into a new database.
        file.touch()
        assert before("GET", "/interactions").status_code == 503
        assert "is empty, and was not before" in caplog.text
        assert file.stat().st_size == 0 or b"rlhf_users" not in file.read_bytes()
        migrate(engine)
        assert lost_file(settings) == FILE_FOREIGN
        assert [before("GET", "/interactions").status_code for _ in range(2)] == [503, 503]
        assert "is another one than at the start" in caplog.text
        start_again(engine)
    assert [before("GET", "/interactions").status_code for _ in range(2)] == [401, 401]
    assert "has no admin" in caplog.text
    assert "users add NAME --role admin" in caplog.text
    after = Caller(web, token_for(engine, "app"))
    assert after("POST", "/interactions", ITEM).status_code == 201


@pytest.mark.usefixtures("impatient_guard")
def test_signing_in_outlives_a_lost_database(sqlite_engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """The session of before is nobody's; whoever is added to the new tables signs in."""
    site = Site(sqlite_engine)
    browser = site.browser(site.rita)
    lose(sqlite_engine)
    assert [browser.get("/review").status_code for _ in range(2)] == [503, 503]
    migrate(sqlite_engine)
    start_again(sqlite_engine)
    assert browser.get("/review").status_code == 303
    users.add(sqlite_engine, "rita", role=UserRole.RATER, password=PASSWORD, actor="test")
    assert browser.sign_in("rita").status_code == 303
    assert browser.get("/review").status_code == 200
    assert "has no admin" in caplog.text


def test_a_doubt_that_finds_an_admin_says_nothing(sqlite_engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """An error that passes is no reason to warn."""
    users.add(sqlite_engine, "ada", role=UserRole.ADMIN, actor="test")
    shared = Database(Settings(database_url=sqlite_engine.url.render_as_string()))
    opened = shared.engine()
    shared.doubt()
    assert shared.engine() is opened
    opened.dispose()
    assert caplog.text == ""
