"""What is amiss: raised once, however often it is seen, and closed when it is over."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.engine import Engine

from rlhf_loop import tables
from rlhf_loop.db import reading, transaction
from rlhf_loop.domain import AlarmKind

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something that is, or was, amiss. `subject` tells alarms of one kind apart: a source's name, a file."""

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
) -> bool:
    """Open an alarm and log it, or note that it is still so; return whether it is new."""
    now = now or datetime.now(UTC)
    table = tables.Alarm
    same = (table.kind == kind, table.subject == subject, table.cleared_at.is_(None))
    values = {"message": message, "detail": dict(detail) if detail else None, "seen_at": now}
    with transaction(engine) as connection:
        if connection.execute(update(table).where(*same).values(values)).rowcount:
            return False
        row = insert(table).values(kind=kind, subject=subject, raised_at=now, **values)
        known = connection.execute(_unless_there(engine, row)).rowcount == 0
    if not known:
        logger.error("Alarm (%s): %s", kind, message, extra={"alarm": str(kind), "subject": subject})
    return not known


def clear_alarm(engine: Engine, kind: AlarmKind, *, subject: str = "", now: datetime | None = None) -> bool:
    """Close the alarm; return whether there was one."""
    table = tables.Alarm
    ended = (
        update(table)
        .where(table.kind == kind, table.subject == subject, table.cleared_at.is_(None))
        .values(cleared_at=now or datetime.now(UTC))
    )
    with reading(engine) as connection:
        if not any(alarm.kind == kind and alarm.subject == subject for alarm in _alarms(connection, only_open=True)):
            return False
    with transaction(engine) as connection:
        cleared = connection.execute(ended).rowcount > 0
    if cleared:
        logger.info("The alarm (%s) is over%s.", kind, f": {subject}" if subject else "")
    return cleared


def open_alarms(engine: Engine) -> list[Alarm]:
    """Return what is amiss now, the newest first."""
    with reading(engine) as connection:
        return _alarms(connection, only_open=True)


def alarms(engine: Engine, *, limit: int = 100) -> list[Alarm]:
    """Return what is or was amiss, the newest first."""
    with reading(engine) as connection:
        return _alarms(connection, only_open=False, limit=limit)


def _alarms(connection: Any, *, only_open: bool, limit: int = 1000) -> list[Alarm]:
    table = tables.Alarm
    wanted = select(table.__table__).order_by(table.raised_at.desc(), table.id.desc()).limit(limit)
    if only_open:
        wanted = wanted.where(table.cleared_at.is_(None))
    return [
        Alarm(
            row.id,
            AlarmKind(row.kind),
            row.subject,
            row.message,
            row.detail or {},
            row.raised_at,
            row.seen_at,
            row.cleared_at,
        )
        for row in connection.execute(wanted)
    ]


def _unless_there(engine: Engine, row: Any) -> Any:
    # Two processes may see the same at once: then one of them opens the alarm.
    from sqlalchemy.dialects import postgresql, sqlite

    dialect: Any = sqlite if engine.dialect.name == "sqlite" else postgresql
    values = row.compile().params
    return dialect.insert(tables.Alarm).values(values).on_conflict_do_nothing()
