from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE_S
from sqlalchemy import Engine, func, select, update
from v1_apps import ITEM, Caller, another_token, app_on, caller, token_for

from rlhf_loop.store import idempotency
from rlhf_loop.store.engine import transaction
from rlhf_loop.store.idempotency import KeyUsedError, StillRunningError, StoredAnswer, once
from rlhf_loop.store.tables import AnsweredRequest, AuditEntry, Interaction, Review


@pytest.fixture
def app(engine: Engine, tmp_path: Path) -> Caller:
    return caller(engine, tmp_path)


def count(engine: Engine, table: Any = Interaction) -> int:
    with engine.connect() as connection:
        return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def test_the_same_request_again_is_answered_and_not_done(app: Caller, engine: Engine) -> None:
    """Status, body and place are those of the first time, and a header says that they are."""
    sent = {"prompt": "Why?", "response": "So.", "review": {"rating": 3}}
    first, again = (app("POST", "/interactions", sent, key='"k-1"') for _ in range(2))
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert (again.status_code, again.data, again.headers["Location"]) == (201, first.data, first.headers["Location"])
    assert (count(engine), count(engine, Review)) == (1, 1)
    third = app("POST", "/interactions", sent)
    assert third.json["id"] != first.json["id"]


def test_each_kind_of_write_can_be_repeated(app: Caller, engine: Engine) -> None:
    """Reviews, what takes them back, and preferences; nothing of it is in the audit log a second time."""
    app.record()
    app.record(id="a-2")
    sends: list[tuple[str, str, Any, int]] = [
        ("POST", "/interactions/a-1/reviews", {"rating": 2}, 201),
        ("DELETE", "/interactions/a-1/reviews", None, 204),
        ("POST", "/preferences", {"chosen_id": "a-1", "rejected_id": "a-2"}, 201),
    ]
    for number, (method, path, sent, status) in enumerate(sends):
        first, again = (app(method, path, sent, key=f"k{number}") for _ in range(2))
        assert (first.status_code, again.status_code, first.data) == (status, status, again.data)
        assert again.headers["Idempotency-Replayed"] == "true"
    # Two interactions, and three things that were done to them.
    assert count(engine, AuditEntry) - _made_before(engine) == 5


def _made_before(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(
            connection.execute(
                select(func.count())
                .select_from(AuditEntry)
                .where(AuditEntry.action.startswith("user.") | AuditEntry.action.startswith("token."))
            ).scalar_one()
        )


def test_a_key_is_for_one_request_of_one_user(engine: Engine, tmp_path: Path) -> None:
    """With another body, path or method it is 422; other users have keys of their own, other tokens do not."""
    one = caller(engine, tmp_path)
    assert one("POST", "/interactions", ITEM, key="k").status_code == 201
    same = Caller(one.web, another_token(engine, "app"))
    for who in (one, same):
        refused = who("POST", "/interactions", {**ITEM, "id": "other"}, key="k")
        assert refused.status_code == 422
        assert "'k' came with another request" in refused.json["detail"]
        assert who("DELETE", "/interactions/a-1/reviews", key="k").status_code == 422
    assert same("POST", "/interactions", ITEM, key="k").headers["Idempotency-Replayed"] == "true"
    # It says the same in another order, with what goes without saying.
    assert one("POST", "/interactions", {**dict(reversed(ITEM.items())), "title": None}, key="k").status_code == 201
    other = Caller(one.web, token_for(engine, "other"))
    assert other("POST", "/interactions", {**ITEM, "id": "other"}, key="k").status_code == 201


def test_what_failed_may_be_tried_again_under_its_key(app: Caller, engine: Engine) -> None:
    """Errors are not kept: once their cause is gone, the same request is done."""
    review = ("POST", "/interactions/a-1/reviews", {"rating": 2})
    assert app(*review, key="k").status_code == 404
    assert count(engine, AnsweredRequest) == 0
    app.record()
    assert app(*review, key="k").status_code == 201


@pytest.mark.parametrize(
    ("header", "known_as"),
    [
        ('"a b"', "a b"),
        (r'"a\"\\"', 'a"\\'),
        ("8e03978e-40d5", "8e03978e-40d5"),
        ("x" * 255, "x" * 255),
        (f'"{"x" * 255}"', "x" * 255),
        ("", None),
        ('""', None),
        ("x" * 256, None),
        ('"x', None),
        ("a b", None),
        ("a,b", None),
        (r'"\a"', None),
        ('"a";q=1', None),
        ("é", None),
    ],
)
def test_what_is_a_key(app: Caller, engine: Engine, header: str, known_as: str | None) -> None:
    """A string as structured fields have it, or its bare signs; all else is 400, and nothing is done."""
    response = app("POST", "/interactions", ITEM, key=header)
    assert response.status_code == (201 if known_as else 400)
    with engine.connect() as connection:
        assert connection.execute(select(AnsweredRequest.key)).scalar() == known_as
    assert count(engine) == (1 if known_as else 0)


def test_keys_are_forgotten_after_a_day(engine: Engine) -> None:
    """Then a key is free again, and others that are as old go with the next write."""
    now = datetime.now(UTC)
    done: list[str] = []

    def work(name: str) -> StoredAnswer:
        done.append(name)
        return StoredAnswer(200, "{}")

    for key, age in (("old", timedelta(hours=25)), ("mine", timedelta(hours=24)), ("young", timedelta(hours=23))):
        with transaction(engine) as connection:
            once(connection, "user:1", key, b"", lambda key=key: work(key), now=now - age)
    with transaction(engine) as connection:
        assert once(connection, "user:1", "young", b"", lambda: work("never"), now=now)[1]
        assert not once(connection, "user:1", "mine", b"other", lambda: work("again"), now=now)[1]
    assert done == ["old", "mine", "young", "again"]
    with engine.connect() as connection:
        assert set(connection.execute(select(AnsweredRequest.key)).scalars()) == {"mine", "young"}


def test_the_answer_goes_with_what_was_done(engine: Engine) -> None:
    """Where the transaction fails after the work, neither is there."""

    def fail() -> None:
        with transaction(engine) as connection:
            once(connection, "user:1", "k", b"", lambda: StoredAnswer(200, "{}"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert count(engine, AnsweredRequest) == 0
    with transaction(engine) as connection:
        assert not once(connection, "user:1", "k", b"", lambda: StoredAnswer(200, "{}"))[1]
    with pytest.raises(KeyUsedError), transaction(engine) as connection:
        once(connection, "user:1", "k", b"x", lambda: StoredAnswer(200, "{}"))


def test_a_second_request_while_the_first_runs(engine: Engine, tmp_path: Path) -> None:
    """On PostgreSQL it is 409 at once; on SQLite, where writers queue up, it waits and gets the first one's answer."""
    app = caller(engine, tmp_path)
    app.record()
    running, go_on = threading.Event(), threading.Event()

    def slow() -> StoredAnswer:
        running.set()
        go_on.wait(PATIENCE_S)
        return StoredAnswer(200, "{}")

    def first() -> None:
        with transaction(engine) as connection:
            once(connection, "user:1", "k", b"", slow)

    def second() -> bool:
        with transaction(engine) as connection:
            return once(connection, "user:1", "k", b"", lambda: StoredAnswer(500, "done twice"))[1]

    thread = threading.Thread(target=first)
    thread.start()
    assert running.wait(PATIENCE_S)
    if engine.dialect.name == "postgresql":
        with pytest.raises(StillRunningError, match="still under way"):
            second()
        refused = app("POST", "/interactions/a-1/reviews", {"rating": 3}, key="k")
        assert (refused.status_code, refused.headers["Retry-After"]) == (409, "1")
        go_on.set()
        thread.join()
    else:
        threading.Timer(0.2, go_on.set).start()
    assert second()
    thread.join()


def test_many_at_once_under_one_key(engine: Engine, tmp_path: Path) -> None:
    """However many come at the same time, one of them is done; each other is a replay, or told to come again."""
    token, web = token_for(engine, "app"), app_on(engine, tmp_path)
    seen: list[tuple[int, bool]] = []

    def send() -> None:
        response = Caller(web.test_client(), token)("POST", "/interactions", {**ITEM, "id": None}, key="k")
        seen.append((response.status_code, "Idempotency-Replayed" in response.headers))

    threads = [threading.Thread(target=send) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 16
    assert seen.count((201, False)) == 1
    assert set(seen) <= {(201, False), (201, True), (409, False)}
    assert count(engine) == 1


def test_old_keys_go_a_few_at_a_time(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """No write has to clean up for all that came before it."""
    monkeypatch.setattr(idempotency, "_FORGOTTEN_AT_ONCE", 2)
    for key in ("1", "2", "3", "4", "5"):
        with transaction(engine) as connection:
            once(connection, "old", key, b"", lambda: StoredAnswer(200, "{}"))
    with transaction(engine) as connection:
        connection.execute(update(AnsweredRequest).values(answered_at=datetime.now(UTC) - timedelta(days=2)))
    left = []
    for key in ("1", "2", "3"):
        with transaction(engine) as connection:
            once(connection, "new", key, b"", lambda: StoredAnswer(200, "{}"))
        left.append(count(engine, AnsweredRequest))
    assert left == [4, 3, 3]
