from __future__ import annotations

import json
import logging
import socket
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import chain, repeat

import pytest
from loopback import Answer, SeenRequest, in_turn, page, site
from patience import PATIENCE_S
from sqlalchemy import Engine, text

from rlhf_loop.config import Settings
from rlhf_loop.domain import AlarmKind
from rlhf_loop.errors import ConfigError
from rlhf_loop.monitoring import webhook
from rlhf_loop.monitoring.webhook import deliver
from rlhf_loop.store.alarms import clear_alarm, raise_alarm
from rlhf_loop.store.engine import transaction

SECRET = "/services/T000/s3cret-word?token=also-s3cret"
TAKEN = page("ok")


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine, a site that answers answers in time."""
    monkeypatch.setattr(webhook, "TIMEOUT_S", PATIENCE_S)


def hook(url: str) -> Settings:
    return Settings(alarm_webhook=url.replace("/api", SECRET))


def bodies(seen: list[SeenRequest]) -> list[dict[str, object]]:
    return [json.loads(one.body) for one in seen]


def told(seen: list[SeenRequest]) -> list[tuple[object, object]]:
    return [(body["event"], body["subject"]) for body in bodies(seen)]


def raised(engine: Engine, *subjects: str, at: datetime | None = None) -> None:
    for place, subject in enumerate(subjects):
        now = (at or datetime.now(UTC) - timedelta(hours=1)) + timedelta(seconds=place)
        raise_alarm(engine, AlarmKind.SOURCE, f"<{subject}> & co. fail.", subject=subject, detail={"n": 1}, now=now)


def marks(engine: Engine) -> list[tuple[bool, bool, bool]]:
    query = "SELECT notified_at, cleared_notified_at, taken_until FROM rlhf_alarms ORDER BY id"
    with engine.connect() as connection:
        return [tuple(value is not None for value in row) for row in connection.execute(text(query))]  # type: ignore[misc]


def test_an_alarm_is_told_when_it_is_raised_and_when_it_is_over(engine: Engine) -> None:
    """Each once, as JSON that says all there is to say, with a text that chats show as it is."""
    at = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=2)
    raised(engine, "arxiv", at=at)
    with site(TAKEN) as there:
        assert [deliver(engine, hook(there.url)) for _ in range(2)] == [1, 0]
        clear_alarm(engine, AlarmKind.SOURCE, subject="arxiv", now=at + timedelta(hours=1))
        assert [deliver(engine, hook(there.url)) for _ in range(2)] == [1, 0]
    first, second = there.seen
    assert first.path + "?token=" + first.params["token"] == SECRET
    assert first.headers["Content-Type"] == "application/json"
    assert bodies([first]) == [
        {
            "event": "raised",
            "kind": "source",
            "subject": "arxiv",
            "message": "<arxiv> & co. fail.",
            "raised_at": at.isoformat(),
            "cleared_at": None,
            "detail": {"n": 1},
            "text": "RLHF Loop alarm (source): &lt;arxiv&gt; &amp; co. fail.",
        }
    ]
    (over,) = bodies([second])
    assert (over["event"], over["cleared_at"]) == ("cleared", (at + timedelta(hours=1)).isoformat())
    assert str(over["text"]).startswith("RLHF Loop alarm (source), over since ")
    assert marks(engine) == [(True, True, False)]


def test_without_a_webhook_nothing_is_marked(engine: Engine) -> None:
    """What was raised before there was one is told as soon as there is."""
    raised(engine, "arxiv")
    assert deliver(engine, Settings()) == 0
    assert marks(engine) == [(False, False, False)]
    with site(TAKEN) as there:
        assert deliver(engine, hook(there.url)) == 1


def test_the_oldest_come_first_and_not_all_at_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is over the limit waits for the next time."""
    monkeypatch.setattr(webhook, "AT_A_TIME", 2)
    raised(engine, "a", "b", "c")
    with site(TAKEN) as there:
        assert [deliver(engine, hook(there.url)) for _ in range(3)] == [2, 1, 0]
    assert told(there.seen) == [("raised", "a"), ("raised", "b"), ("raised", "c")]


def test_an_alarm_that_came_and_went_is_told_as_both(engine: Engine) -> None:
    """In this order; but not if it has been over for a day, when it is no news any more."""
    now = datetime.now(UTC)
    raised(engine, "short", "old", "open", at=now - timedelta(days=3))
    clear_alarm(engine, AlarmKind.SOURCE, subject="short", now=now - timedelta(hours=23))
    clear_alarm(engine, AlarmKind.SOURCE, subject="old", now=now - timedelta(hours=25))
    with site(TAKEN) as there:
        assert deliver(engine, hook(there.url)) == 3
    assert told(there.seen) == [("raised", "short"), ("cleared", "short"), ("raised", "open")]


def test_whoever_heard_that_it_began_hears_that_it_ended(engine: Engine) -> None:
    """However long the webhook was gone in between."""
    now = datetime.now(UTC)
    raised(engine, "a", at=now - timedelta(days=9))
    with site(TAKEN) as there:
        deliver(engine, hook(there.url))
        clear_alarm(engine, AlarmKind.SOURCE, subject="a", now=now - timedelta(days=5))
        deliver(engine, hook(there.url))
    assert told(there.seen) == [("raised", "a"), ("cleared", "a")]


@pytest.mark.parametrize(
    "refusal",
    [
        page("no", status=500),
        page(status=404),
        page(status=302, headers={"Location": "/elsewhere"}),
        page(status=308, headers={"Location": "http://127.0.0.1:9/elsewhere"}),
    ],
    ids=["500", "404", "redirect", "redirect to another"],
)
def test_what_is_not_taken_is_sent_again(engine: Engine, caplog: pytest.LogCaptureFixture, refusal: Answer) -> None:
    """Any status but 2xx leaves the alarm to the next time; nobody goes where a redirect leads; others go on."""
    raised(engine, "a", "b")
    clear_alarm(engine, AlarmKind.SOURCE, subject="a")
    with in_turn(refusal, TAKEN) as there:
        assert deliver(engine, hook(there.url)) == 1
        assert marks(engine) == [(False, False, False), (True, False, False)]
        assert deliver(engine, hook(there.url)) == 2
    assert told(there.seen) == [("raised", "a"), ("raised", "b"), ("raised", "a"), ("cleared", "a")]
    assert {one.path for one in there.seen} == {SECRET.partition("?")[0]}
    (warning,) = [one for one in caplog.records if one.name == webhook.__name__]
    assert "127.0.0.1 answered with HTTP status" in warning.getMessage()


def test_a_webhook_that_hangs(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It costs one timeout and not one for each alarm, and all of them are sent the next time."""
    raised(engine, "a", "b")
    over = threading.Event()

    def hangs() -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\n"
        over.wait(PATIENCE_S)
        yield b"\r\n"

    with site(lambda _: hangs()) as there:
        # A machine may be so busy that the time is up before anything was sent.
        for timeout_s in (1.0, 10.0, 100.0):
            monkeypatch.setattr(webhook, "TIMEOUT_S", timeout_s)
            assert deliver(engine, hook(there.url)) == 0
            if there.seen:
                break
        over.set()
    assert told(there.seen) == [("raised", "a")]
    assert marks(engine) == [(False, False, False)] * 2
    assert f"at 127.0.0.1 cannot be reached (no answer within {timeout_s:g} s)" in caplog.text
    with site(TAKEN) as there:
        assert deliver(engine, hook(there.url)) == 2


def test_a_body_that_never_ends_does_not_matter(engine: Engine) -> None:
    """The status says all; the rest is not read."""
    raised(engine, "a")
    with site(lambda _: chain([b"HTTP/1.1 204 So\r\n\r\n"], repeat(b"x" * 1000))) as there:
        assert deliver(engine, hook(there.url)) == 1


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_nobody_is_there(engine: Engine, caplog: pytest.LogCaptureFixture, scheme: str) -> None:
    """A port that nobody listens at is named by its host, and never by its address."""
    caplog.set_level(logging.DEBUG)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    raised(engine, "a")
    assert deliver(engine, hook(f"{scheme}://127.0.0.1:{port}/api")) == 0
    assert "The alarm webhook at 127.0.0.1 cannot be reached" in caplog.text
    assert "s3cret" not in caplog.text


def test_the_address_stays_out_of_every_log(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """At the finest level, too, of libraries as well; nor do the settings show it."""
    caplog.set_level(logging.DEBUG)
    raised(engine, "a", "b", "c")
    with in_turn(page(status=500), b"no HTTP at all\r\n\r\n", TAKEN) as there:
        deliver(engine, hook(there.url))
        deliver(engine, hook(there.url))
        assert "s3cret" not in repr(hook(there.url))
    assert len(there.seen) >= 3
    assert "s3cret" not in caplog.text


@pytest.mark.parametrize(
    "address",
    [
        "hooks.example.org/s3cret",
        "ftp://example.org/s3cret",
        "https://user:s3cret@example.org/",
        "https:///s3cret",
        "https://example.org:99999/s3cret",
        "https://example.org:s3cret/",
        "https://[s3cret/",
    ],
)
def test_a_setting_that_is_no_address(engine: Engine, address: str) -> None:
    """It is refused without being shown."""
    with pytest.raises(ConfigError, match="RLHF_ALARM_WEBHOOK is not a web address") as error:
        deliver(engine, Settings(alarm_webhook=address))
    assert "s3cret" not in "".join(traceback.format_exception(error.value))


def test_two_processes_tell_each_alarm_once(engine: Engine) -> None:
    """Whoever takes an alarm first tells it; the others leave it."""
    raised(engine, *"abcdefgh")
    with site(TAKEN) as there:
        with ThreadPoolExecutor(4) as pool:
            taken = list(pool.map(lambda _: deliver(engine, hook(there.url)), range(4)))
        assert sum(taken) == 8
    assert sorted(told(there.seen)) == [("raised", subject) for subject in "abcdefgh"]


@pytest.mark.parametrize(("minutes", "expected"), [(1, 0), (-1, 1), (90, 1)])
def test_what_a_dead_process_had_taken_is_told_by_another(engine: Engine, minutes: int, expected: int) -> None:
    """As soon as its minute is over, or is further away than a minute, because the clock was put back."""
    raised(engine, "a")
    until = datetime.now(UTC) + timedelta(minutes=minutes)
    with transaction(engine) as connection:
        connection.execute(webhook.update(webhook.Alarm).values(taken_until=until))
    with site(TAKEN) as there:
        assert deliver(engine, hook(there.url)) == expected
