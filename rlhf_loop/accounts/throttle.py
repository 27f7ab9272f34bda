"""Signing in, slowed down: after some failures of a name or an address the next attempt has to wait, ever longer.

Kept in the database, so that all processes share it. Whoever is signed in already never comes here.
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, delete, func, insert, select, text
from sqlalchemy.engine import Connection

from rlhf_loop.errors import ThrottledError
from rlhf_loop.tables import SignInFailure

#: For so long a failure counts.
WINDOW = timedelta(minutes=15)
FAILURES_OF_A_NAME = 5
#: More, since many may share an address: a hospital's, say.
FAILURES_OF_AN_ADDRESS = 20
_FIRST_WAIT_S = 30.0
_LOCK = 0x524C4853  # "RLHS": the key of PostgreSQL's advisory lock


def attempt(connection: Connection, name: str, address: str, *, now: datetime) -> int:
    """Count an attempt as a failure before it is judged, and return its id; `succeeded` takes it back.

    The other way round, many attempts at once would all be judged.

    Raises:
        ThrottledError: it has to wait. It says the same of names that exist and of others.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    wait = max(
        _wait_s(connection, SignInFailure.name == name, FAILURES_OF_A_NAME, now),
        _wait_s(connection, SignInFailure.address == address, FAILURES_OF_AN_ADDRESS, now),
    )
    if wait > 0:
        seconds = math.ceil(wait)
        raise ThrottledError(
            f"Too many attempts to sign in failed. Try again in {_in_words(seconds)}; whoever has forgotten a password "
            "gets a link for a new one from an admin.",
            retry_after_s=seconds,
        )
    connection.execute(delete(SignInFailure).where(SignInFailure.failed_at <= now - WINDOW))
    values = {"name": name, "address": address, "failed_at": now}
    return connection.execute(insert(SignInFailure).returning(SignInFailure.id), values).scalar_one()


def succeeded(connection: Connection, name: str) -> None:
    """Forget the failures of a name that has signed in; what its address did with other names still counts."""
    connection.execute(delete(SignInFailure).where(SignInFailure.name == name))


def _wait_s(connection: Connection, whose: ColumnElement[bool], allowed: int, now: datetime) -> float:
    wanted = select(func.count(), func.max(SignInFailure.failed_at, type_=SignInFailure.failed_at.type)).where(
        whose, SignInFailure.failed_at > now - WINDOW
    )
    count, last = connection.execute(wanted).one()
    if count < allowed:
        return 0.0
    # Exponents without bound would be too large for a float.
    wait = min(_FIRST_WAIT_S * 2 ** min(count - allowed, 16), WINDOW.total_seconds())
    return float(wait - (now - last).total_seconds())


def _in_words(seconds: int) -> str:
    return f"{seconds} seconds" if seconds < 120 else f"{math.ceil(seconds / 60)} minutes"
