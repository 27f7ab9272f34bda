"""Alarms: raised once per problem, cleared when it is resolved."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, insert, select, update
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import IntegrityError

from rlhf_loop.domain import AlarmKind
from rlhf_loop.store.engine import reading, transaction
from rlhf_loop.store.tables import Alarm as AlarmRow
from rlhf_loop.utils.translation import packed, unpacked

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Alarm:
    """A problem, present or past. `subject` tells alarms of one kind apart: a source's name, a file."""

    id: int
    kind: AlarmKind
    subject: str
    message: str
    detail: Mapping[str, Any]
    raised_at: datetime
    seen_at: datetime
    cleared_at: datetime | None


def raise_alarm(
    engine: Engine,
    kind: AlarmKind,
    message: str,
    *,
    subject: str = "",
    detail: Mapping[str, Any] | None = None,
    now: datetime | None = None,
    also: Callable[[Connection], None] = lambda connection: None,
) -> bool:
    """Open an alarm and log it, or note that it is still so; return whether it is new.

    `also` is done in the transaction of a new one.
    """
    now = now or datetime.now(UTC)
    values = {"message": message, "said": packed(message), "detail": dict(detail) if detail else None, "seen_at": now}
    try:
        with transaction(engine) as connection:
            if connection.execute(update(AlarmRow).where(*_open(kind, subject)).values(values)).rowcount:
                return False
            connection.execute(insert(AlarmRow).values(kind=kind, subject=subject, raised_at=now, **values))
            also(connection)
    except IntegrityError:
        # Another process has seen the same, and opened it in between.
        return False
    logger.error("Alarm (%s): %s", kind, message, extra={"alarm": str(kind), "subject": subject})
    return True


def clear_alarm(
    engine: Engine,
    kind: AlarmKind,
    *,
    subject: str = "",
    now: datetime | None = None,
    also: Callable[[Connection], None] = lambda connection: None,
) -> bool:
    """Close the alarm, and do `also` in the same transaction if there was one; return whether there was."""
    with reading(engine) as connection:
        # Mostly there is none, and then nobody has to wait for the right to write.
        if connection.execute(select(AlarmRow.id).where(*_open(kind, subject))).first() is None:
            return False
    ended = update(AlarmRow).where(*_open(kind, subject)).values(cleared_at=now or datetime.now(UTC))
    with transaction(engine) as connection:
        if cleared := connection.execute(ended).rowcount > 0:
            also(connection)
    if cleared:
        logger.info("The alarm (%s) is over%s.", kind, f": {subject}" if subject else "")
    return cleared


def open_alarms(engine: Engine) -> list[Alarm]:
    """Return the open alarms, the newest first."""
    return _read(engine, _newest().where(AlarmRow.cleared_at.is_(None)))


def alarms(engine: Engine, *, limit: int = 100, kind: AlarmKind | None = None) -> list[Alarm]:
    """Return all alarms, the newest first, or those of a kind."""
    wanted = _newest() if kind is None else _newest().where(AlarmRow.kind == kind)
    return _read(engine, wanted.limit(limit))


def _open(kind: AlarmKind, subject: str) -> tuple[ColumnElement[bool], ...]:
    return (AlarmRow.kind == kind, AlarmRow.subject == subject, AlarmRow.cleared_at.is_(None))


def _newest() -> Select[Any]:
    return select(*(getattr(AlarmRow, field.name) for field in fields(Alarm)), AlarmRow.said).order_by(
        AlarmRow.raised_at.desc(), AlarmRow.id.desc()
    )


def _read(engine: Engine, wanted: Select[Any]) -> list[Alarm]:
    with reading(engine) as connection:
        return [alarm(row) for row in connection.execute(wanted)]


def alarm(row: Row[Any]) -> Alarm:
    """Return the alarm of a row with its columns."""
    values = {field.name: getattr(row, field.name) for field in fields(Alarm)}
    values |= {"kind": AlarmKind(row.kind), "detail": row.detail or {}}
    return Alarm(**{**values, "message": unpacked(row.message, row.said)})
