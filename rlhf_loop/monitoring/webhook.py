"""Webhook that sends alarms to where people see them: one POST when it is raised, one when it is cleared.

A process takes an alarm by an update of its row, so that of several only one tells of it. One that dies in the middle
leaves it to the others after a minute; then it may come twice, which is better than not at all.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

import httpcore2
import httpx2
from sqlalchemy import ColumnElement, Row, and_, or_, select, update
from sqlalchemy.engine import Engine

from rlhf_loop.config import Settings
from rlhf_loop.errors import ConfigError
from rlhf_loop.store.engine import reading, transaction
from rlhf_loop.store.tables import Alarm
from rlhf_loop.utils.timed_transport import EXCHANGE_ERRORS, TimedTransport, all_by
from rlhf_loop.version import __version__

logger = logging.getLogger(__name__)

#: Seconds for a whole exchange, and alarms that are told of at a time.
TIMEOUT_S, AT_A_TIME = 5.0, 20
#: For so long an alarm that a process tells of is nobody else's.
_TAKEN_FOR = timedelta(minutes=1)
#: An alarm that was over before anybody heard of it is no news after this.
_OLD_NEWS = timedelta(days=1)
_HOST = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?|[0-9a-f:]*:[0-9a-f:.]*", re.IGNORECASE)


class Event(StrEnum):
    """News of an alarm."""

    RAISED = "raised"
    CLEARED = "cleared"


class _UnreachableError(Exception):
    """Nobody answers there; the message says why."""


def deliver(engine: Engine, settings: Settings) -> int:
    """Tell the webhook what it has not taken yet, the oldest first; return how much it took.

    Taken is what is answered with a status from 200 to 299; redirects are not followed. The rest is sent the next
    time. Of an alarm that came and went in between both is told, unless it has been over for a day. Without a webhook
    in the settings nothing is sent, and nothing is marked.

    Raises:
        ConfigError: the webhook is not a web address.
        DatabaseError: the database cannot be reached.
    """
    if not settings.alarm_webhook:
        return 0
    receiver = _Receiver(settings.alarm_webhook)
    waiting = select(Alarm.id).where(_untold(datetime.now(UTC))).order_by(Alarm.raised_at, Alarm.id).limit(AT_A_TIME)
    with reading(engine) as connection:
        ids = list(connection.execute(waiting).scalars())
    taken = 0
    try:
        for id in ids:
            for _ in _told(engine, receiver, id):
                taken += 1
    except _UnreachableError as error:
        logger.warning(
            "The alarm webhook at %s cannot be reached (%s). What it has not taken is sent the next time; check "
            "RLHF_ALARM_WEBHOOK.",
            receiver.host,
            error,
        )
    finally:
        receiver.close()
    return taken


def _told(engine: Engine, receiver: _Receiver, id: int) -> Iterator[Event]:
    """Send what is new of one alarm, unless another process does; give what was taken."""
    row = _take(engine, id)
    if row is None:
        return
    told: dict[str, datetime] = {}
    try:
        for column, event in _news(row):
            status = receiver.post(_body(row, event))
            if not 200 <= status < 300:
                logger.warning(
                    "The alarm webhook at %s answered with HTTP status %d, so alarm %d (%s) is sent again the next "
                    "time. Check RLHF_ALARM_WEBHOOK.",
                    receiver.host,
                    status,
                    id,
                    event,
                )
                break
            told[column] = datetime.now(UTC)
            yield event
    finally:
        with transaction(engine) as connection:
            connection.execute(update(Alarm).where(Alarm.id == id).values(taken_until=None, **told))


def _take(engine: Engine, id: int) -> Row[Any] | None:
    """Take the alarm for this process; None if another one has it, or there is nothing to tell any more."""
    now = datetime.now(UTC)
    # Nobody takes it for longer: one who seems to has done so before the clock was put back. Twice as long, since
    # another process may take it after `now`, while this one waits for the row.
    free = or_(Alarm.taken_until.is_(None), ~Alarm.taken_until.between(now, now + 2 * _TAKEN_FOR))
    take = update(Alarm).where(Alarm.id == id, free, _untold(now)).values(taken_until=now + _TAKEN_FOR)
    with transaction(engine) as connection:
        if not connection.execute(take).rowcount:
            return None
        return connection.execute(select(Alarm.__table__).where(Alarm.id == id)).one()


def _untold(now: datetime) -> ColumnElement[bool]:
    recent = or_(Alarm.cleared_at.is_(None), Alarm.cleared_at >= now - _OLD_NEWS)
    return or_(
        and_(Alarm.notified_at.is_(None), recent),
        and_(Alarm.notified_at.is_not(None), Alarm.cleared_at.is_not(None), Alarm.cleared_notified_at.is_(None)),
    )


def _news(row: Row[Any]) -> list[tuple[str, Event]]:
    """Return what is to be told, with the column that says when it was."""
    news = []
    if row.notified_at is None:
        news.append(("notified_at", Event.RAISED))
    if row.cleared_at is not None and row.cleared_notified_at is None:
        news.append(("cleared_notified_at", Event.CLEARED))
    return news


def _body(row: Row[Any], event: Event) -> bytes:
    over = f"over since {row.cleared_at:%Y-%m-%d %H:%M} UTC: " if event is Event.CLEARED else ""
    # Slack and Mattermost show `text`, in which these three are markup: https://docs.slack.dev/messaging/formatting-message-text
    text = row.message.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return json.dumps(
        {
            "event": event,
            "kind": row.kind,
            "subject": row.subject,
            "message": row.message,
            "raised_at": row.raised_at.isoformat(),
            "cleared_at": row.cleared_at.isoformat() if event is Event.CLEARED else None,
            "detail": row.detail or {},
            "text": f"RLHF Loop alarm ({row.kind}), {over}{text}" if over else f"RLHF Loop alarm ({row.kind}): {text}",
        }
    ).encode()


class _Receiver:
    """The webhook of the settings. Its address may hold a secret, so only the host is ever shown."""

    def __init__(self, address: str) -> None:
        self._url = checked_address(address)
        self._transport = TimedTransport(secure=self._url.scheme == "https")

    @property
    def host(self) -> str:
        return self._url.host

    def post(self, body: bytes) -> int:
        """Send JSON; return the status of the answer, of which nothing else is read.

        Raises:
            _UnreachableError: there is none in time.
        """
        headers = {"Content-Type": "application/json", "User-Agent": f"rlhf-loop/{__version__}"}
        request = httpx2.Request("POST", self._url, headers=headers, content=body)
        try:
            with all_by(time.monotonic() + TIMEOUT_S):
                response = self._transport.handle_request(request)
                response.close()
        except EXCHANGE_ERRORS as error:
            raise _UnreachableError(self._without_address(error)) from None
        return response.status_code

    def close(self) -> None:
        self._transport.close()

    def _without_address(self, error: Exception) -> str:
        if isinstance(error, httpcore2.TimeoutException):
            return f"no answer within {TIMEOUT_S:g} s"
        target = self._url.raw_path.decode("ascii")
        reason = " ".join(str(error).split()) or type(error).__name__
        return reason if target == "/" else reason.replace(target, "/...")


def checked_address(address: str) -> httpx2.URL:
    """Return where alarms are sent.

    Raises:
        ConfigError: it is not a web address.
    """
    try:
        url = httpx2.URL(address.strip())
        named = _HOST.fullmatch(url.raw_host.decode("ascii")) and (url.port or 80) <= 65_535
        usable = url.scheme in ("http", "https") and named and not url.userinfo
    except httpx2.InvalidURL:
        usable = False
    if not usable:
        raise ConfigError(
            "RLHF_ALARM_WEBHOOK is not a web address (it is not shown: it may hold a secret). Give it one such as "
            "https://HOST/PATH, without a user's name and password."
        )
    return url.copy_with(fragment=None)
