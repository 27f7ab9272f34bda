"""Idempotency keys: a request that comes twice is done once, and its answer is stored in the transaction of its work.

As draft-ietf-httpapi-idempotency-key-header-07 has it. Who never heard the answer asks again with the same key, and
cannot do a second time what was done; and since the answer is stored with what it tells of, a process that dies leaves
either both or neither.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import delete, func, insert, select, tuple_
from sqlalchemy.engine import Connection

from rlhf_loop.store.tables import AnsweredRequest

#: For so long a key is known.
KEPT = timedelta(hours=24)
LONGEST_KEY = 255
#: Of those that are older, as many go with each new one.
_FORGOTTEN_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """A stored answer: a status, a body in JSON, and the address of what was made."""

    status: int
    body: str
    location: str | None = None


class StillRunningError(Exception):
    """The first request with this key has not ended yet."""


class KeyUsedError(ValueError):
    """The key came with another request before."""


def once(
    connection: Connection,
    owner: str,
    key: str,
    request: bytes,
    work: Callable[[], StoredAnswer],
    *,
    now: datetime | None = None,
) -> tuple[StoredAnswer, bool]:
    """Do the work unless it was done under this key; return its answer, and whether that is one from before.

    The transaction is the caller's; if the work fails, nothing of it is kept, and the key is free. `request` is all
    that tells one request from another.

    On SQLite a second request waits for the first, since writers queue up there; on PostgreSQL it is told to come
    again.

    Raises:
        KeyUsedError: the key came with another request.
        StillRunningError: the first request is under way.
    """
    now = now or datetime.now(UTC)
    _claim(connection, owner, key)
    digest = hashlib.sha256(request).hexdigest()
    mine = (AnsweredRequest.owner == owner) & (AnsweredRequest.key == key)
    known = connection.execute(select(AnsweredRequest.__table__).where(mine)).one_or_none()
    if known is not None and known.answered_at > now - KEPT:
        if known.request_hash != digest:
            raise KeyUsedError(
                f"The key {_shown(key)} came with another request before. Use a new key for each request, and an old "
                "one only to send the very same again."
            )
        return StoredAnswer(known.status, known.body, known.location), True
    if known is not None:
        connection.execute(delete(AnsweredRequest).where(mine))
    answer = work()
    connection.execute(
        insert(AnsweredRequest).values(
            owner=owner,
            key=key,
            request_hash=digest,
            status=answer.status,
            body=answer.body,
            location=answer.location,
            answered_at=now,
        )
    )
    _forget_old(connection, now)
    return answer, False


def forget(connection: Connection, interactions: Set[str]) -> None:
    """Delete the stored answers that tell of these interactions, by their ids."""
    rows = connection.execute(select(AnsweredRequest.owner, AnsweredRequest.key, AnsweredRequest.body)).all()
    for row in rows:
        if not interactions.isdisjoint(_texts(json.loads(row.body or "null"))):
            mine = (AnsweredRequest.owner == row.owner) & (AnsweredRequest.key == row.key)
            connection.execute(delete(AnsweredRequest).where(mine))


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)


def _claim(connection: Connection, owner: str, key: str) -> None:
    if connection.dialect.name != "postgresql":
        return
    # A lock and no row: a row would stay behind where a process dies, and others would have to wait to see it.
    number = int.from_bytes(hashlib.sha256(f"{owner}\0{key}".encode()).digest()[:8], signed=True)
    if not connection.execute(select(func.pg_try_advisory_xact_lock(number))).scalar_one():
        raise StillRunningError(
            f"The request with the key {_shown(key)} is still under way. Send it again in a second to get its answer."
        )


def _forget_old(connection: Connection, now: datetime) -> None:
    # Those that somebody else is just forgetting are left to them: waiting for each other could go round in a circle.
    name = tuple_(AnsweredRequest.owner, AnsweredRequest.key)
    old = (
        select(AnsweredRequest.owner, AnsweredRequest.key)
        .where(AnsweredRequest.answered_at <= now - KEPT)
        .order_by(AnsweredRequest.answered_at)
        .limit(_FORGOTTEN_AT_ONCE)
        .with_for_update(skip_locked=True)
    )
    connection.execute(delete(AnsweredRequest).where(name.in_(old)))


def _shown(key: str) -> str:
    return repr(key if len(key) <= 60 else f"{key[:60]}...")
