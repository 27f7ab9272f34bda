"""Audit log of who rated, changed or promoted what. Entries are only ever added."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.engine import Connection, Engine

from rlhf_loop.store.engine import reading
from rlhf_loop.store.tables import AuditEntry
from rlhf_loop.utils.text import unstorable


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that somebody did: `action` is a noun and a verb (review.added), `target` a kind and an id."""

    id: int
    happened_at: datetime
    actor: str
    action: str
    target: str
    detail: Mapping[str, Any]


def note(connection: Connection, actor: str, action: str, target: str, detail: Mapping[str, Any] | None = None) -> None:
    """Add an entry in the transaction of what it is about, so that neither is there without the other."""
    # The name of a file need not be UTF-8.
    target = target.encode("utf-8", "replace").decode()
    values = {"actor": actor, "action": action, "target": target, "detail": dict(detail) if detail else None}
    connection.execute(insert(AuditEntry), values)


def entries(
    engine: Engine, *, before: int | None = None, actor: str | None = None, action: str | None = None, limit: int = 100
) -> list[Entry]:
    """Return the newest entries first; `before` is the id of the last one already seen."""
    if any(name is not None and unstorable(name) for name in (actor, action)):
        return []  # nobody has such a name
    wanted = select(AuditEntry).order_by(AuditEntry.id.desc()).limit(limit)
    if before is not None:
        wanted = wanted.where(AuditEntry.id < before)
    if actor is not None:
        wanted = wanted.where(AuditEntry.actor == actor)
    if action is not None:
        wanted = wanted.where(AuditEntry.action == action)
    with reading(engine) as connection:
        return [
            Entry(row.id, row.happened_at, row.actor, row.action, row.target, row.detail or {})
            for row in connection.execute(wanted)
        ]
