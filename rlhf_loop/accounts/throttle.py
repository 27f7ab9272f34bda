"""Signing in, slowed down: after some failures the next attempt has to wait, ever longer.

Few failures of a name from one address are enough for that. From all addresses together it takes many: otherwise
anybody could lock somebody out whose name they know, while without that limit many machines could guess as they like.
Kept in the database, so that all processes share it. Whoever is signed in already never comes here.
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, and_, delete, func, insert, select, text
from sqlalchemy.engine import Connection

from rlhf_loop.errors import ThrottledError
from rlhf_loop.store.tables import SignInFailure

#: For so long a failure counts.
WINDOW = timedelta(minutes=15)
#: Of one name from one address.
FAILURES = 5
#: Of one name, wherever from.
FAILURES_OF_A_NAME = 100
#: Of all names from one address: more, since many may share it, as in a hospital.
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
    of_name, from_address = SignInFailure.name == name, SignInFailure.address == address
    wait = max(
        _wait_s(connection, and_(of_name, from_address), FAILURES, now),
        _wait_s(connection, of_name, FAILURES_OF_A_NAME, now),
        _wait_s(connection, from_address, FAILURES_OF_AN_ADDRESS, now),
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


def succeeded(connection: Connection, name: str, address: str) -> None:
    """Forget the failures of a name from where it has signed in, this attempt included.

    What the address did with other names still counts, and what others did with the name: whoever guesses at it from
    elsewhere must not begin anew each time that its owner signs in.
    """
    mine = and_(SignInFailure.name == name, SignInFailure.address == address)
    connection.execute(delete(SignInFailure).where(mine))


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
