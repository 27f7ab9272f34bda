"""Second factor: a code of an authenticator app (TOTP, RFC 6238) after the password, and recovery codes.

What the app and the service both know is made of the secret key and a salt of the session that has added the app: a
copy of the database is not enough to make codes. Each code counts once, and so does each recovery code.
"""

from __future__ import annotations

import hmac
import importlib.util
import secrets
from base64 import b32encode
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, insert, select, update
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import IntegrityError

from rlhf_loop.accounts import users
from rlhf_loop.domain import User
from rlhf_loop.errors import AccountError
from rlhf_loop.store import audit
from rlhf_loop.store.engine import reading, transaction
from rlhf_loop.store.tables import RecoveryCode, SecondFactor
from rlhf_loop.utils.extras import require
from rlhf_loop.utils.translation import Message

#: What the app shows beside the code.
ISSUER = "RLHF Loop"
_MODULES = ("pyotp", "segno")
_STEP_S = 30
#: Steps by which the clock of a phone may differ, as RFC 6238, 5.2 recommends.
_DRIFT = 1
#: Recovery codes, each of 50 random bits.
_CODES, _CODE_CHARACTERS = 10, 10
_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
_NOT_ADDED = Message(
    "The code is wrong or has passed, so the app is not added. Enter the one that it shows now, and check the "
    "phone's clock."
)
#: What is said of a wrong code.
WRONG = Message(
    "The code is wrong, has passed, or was used already. Wait for the next one in your app, or use a recovery code."
)
_HAS_ONE = Message("You have an app already. Remove it first, to add another one.")


@dataclass(frozen=True, slots=True)
class Enrollment:
    """An app that is about to be added: what it has to know, as text and as a picture to scan."""

    secret: str
    picture: str


def available() -> bool:
    """Tell whether the extra [totp] is installed."""
    return all(importlib.util.find_spec(module) for module in _MODULES)


def check() -> None:
    """Check that apps can be added.

    Raises:
        MissingExtraError: the extra [totp] is not installed.
    """
    for module in _MODULES:
        require(module, "totp")


def begin(engine: Engine, user: User, *, key: bytes, session: str) -> Enrollment:
    """Return what an app has to know; it counts from `confirm` in the same session on, and is nowhere until then.

    Each session of the user has another: whoever knows the password, too, learns nothing of the owner's app.

    Raises:
        AccountError: there is one already.
        MissingExtraError: the extra [totp] is not installed.
    """
    pyotp, segno = require("pyotp", "totp"), require("segno", "totp")
    if has(engine, user):
        raise AccountError(_HAS_ONE)
    secret = _secret(key, user.id, _salt(key, session))
    address = pyotp.TOTP(secret).provisioning_uri(name=user.name, issuer_name=ISSUER)
    return Enrollment(secret, segno.make(address, error="m").svg_data_uri(scale=4, border=4, dark="#000", light="#fff"))


def confirm(engine: Engine, user: User, code: str, *, key: bytes, session: str, now: datetime) -> list[str]:
    """Count the app of this session's `begin` from now on; return the recovery codes, which are nowhere else.

    Raises:
        AccountError: the code is wrong, or there is an app already.
    """
    codes, salt = [_recovery_code() for _ in range(_CODES)], _salt(key, session)
    step = _step(_secret(key, user.id, salt), code, now)
    if step is None:
        raise AccountError(_NOT_ADDED)
    with transaction(engine) as connection:
        waits = delete(SecondFactor).where(SecondFactor.user_id == user.id, SecondFactor.confirmed_at.is_(None))
        connection.execute(waits)
        try:
            row = {"user_id": user.id, "salt": salt, "last_step": step, "confirmed_at": now}
            connection.execute(insert(SecondFactor), row)
        except IntegrityError as error:
            raise AccountError(_HAS_ONE) from error
        connection.execute(delete(RecoveryCode).where(RecoveryCode.user_id == user.id))
        rows = [{"code_hash": _hashed(key, user.id, each), "user_id": user.id} for each in codes]
        connection.execute(insert(RecoveryCode), rows)
        audit.note(connection, user.name, "second_factor.added", f"user:{user.name}")
    return codes


def use(connection: Connection, user: User, code: str, *, key: bytes, now: datetime) -> bool:
    """Tell whether it is a code of the user's app or a recovery code, which is not valid afterwards."""
    if _right(connection, user.id, code, key, now):
        return True
    mine = delete(RecoveryCode).where(
        RecoveryCode.user_id == user.id, RecoveryCode.code_hash == _hashed(key, user.id, code)
    )
    if connection.execute(mine).rowcount != 1:
        return False
    left = select(RecoveryCode.code_hash).where(RecoveryCode.user_id == user.id)
    detail = {"left": len(connection.execute(left).all())}
    audit.note(connection, user.name, "second_factor.recovery_code_used", f"user:{user.name}", detail)
    return True


def has(engine: Engine | Connection, user: User) -> bool:
    """Tell whether a code is asked of the user after the password."""
    with reading(engine) as connection:
        wanted = select(SecondFactor.user_id).where(
            SecondFactor.user_id == user.id, SecondFactor.confirmed_at.is_not(None)
        )
        return connection.execute(wanted).first() is not None


def owners(engine: Engine) -> frozenset[int]:
    """Return the ids of all users who have one."""
    with reading(engine) as connection:
        wanted = select(SecondFactor.user_id).where(SecondFactor.confirmed_at.is_not(None))
        return frozenset(connection.execute(wanted).scalars())


def remove(engine: Engine, name: str, *, actor: str) -> bool:
    """Take a user's app and recovery codes away, for a lost phone; False if there was none.

    Raises:
        AccountError: there is no such user.
    """
    with transaction(engine) as connection:
        user = users.find_known(connection, name).user
        connection.execute(delete(RecoveryCode).where(RecoveryCode.user_id == user.id))
        removed = connection.execute(delete(SecondFactor).where(SecondFactor.user_id == user.id)).rowcount == 1
        if removed:
            audit.note(connection, actor, "second_factor.removed", f"user:{user.name}")
    return removed


def _right(connection: Connection, user_id: int, code: str, key: bytes, now: datetime) -> bool:
    mine = (SecondFactor.user_id == user_id, SecondFactor.confirmed_at.is_not(None))
    salt = connection.execute(select(SecondFactor.salt).where(*mine)).scalar()
    step = None if salt is None else _step(_secret(key, user_id, salt), code, now)
    if step is None:
        return False
    # Of two who show the same code at one moment, one finds it used.
    spent = update(SecondFactor).where(*mine, SecondFactor.last_step < step)
    return connection.execute(spent.values(last_step=step)).rowcount == 1


def _step(secret: str, code: str, now: datetime) -> int | None:
    """Return the step of whose code this is, None if it is of none of those that count now."""
    totp, given = require("pyotp", "totp").TOTP(secret), "".join(code.split())
    present = int(now.timestamp()) // _STEP_S
    steps = range(present - _DRIFT, present + _DRIFT + 1)
    matches = (hmac.compare_digest(totp.generate_otp(at).encode(), given.encode("utf-8", "replace")) for at in steps)
    return next((step for step, found in zip(steps, matches, strict=True) if found), None)


def _salt(key: bytes, session: str) -> str:
    return hmac.digest(key, f"app of the session:{session}".encode("utf-8", "replace"), "sha256").hex()[:32]


def _secret(key: bytes, user_id: int, salt: str) -> str:
    return b32encode(hmac.digest(key, f"second factor:{user_id}:{salt}".encode(), "sha256")[:20]).decode()


def _recovery_code() -> str:
    code = "".join(secrets.choice(_ALPHABET) for _ in range(_CODE_CHARACTERS))
    return f"{code[:5]}-{code[5:]}"


def _hashed(key: bytes, user_id: int, code: str) -> str:
    plain = "".join(filter(str.isalnum, code.lower()))
    return hmac.digest(key, f"recovery code:{user_id}:{plain}".encode("utf-8", "replace"), "sha256").hex()
