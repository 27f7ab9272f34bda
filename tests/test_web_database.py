"""The ratings database as the routes use it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event, Semaphore
from time import monotonic
from typing import Any

import pytest
from sqlalchemy import Engine

from rlhf_loop.config import Settings
from rlhf_loop.errors import DatabaseError
from rlhf_loop.web import database
from rlhf_loop.web.database import Database


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

    monkeypatch.setattr(database, "ensure_schema", dead)
    monkeypatch.setattr(database, "monotonic", arriving)
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
    monkeypatch.setattr(database, "ensure_schema", tried.append)
    assert shared.engine() is shared.engine()
