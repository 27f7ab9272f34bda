"""Signing in: by name and password, slowed down after failures, into sessions of one browser each.

The table of sessions has only a keyed hash of what a browser holds. After some failures the next attempt has to wait,
ever longer. Few failures of a name from one address are enough for that; from all addresses together it takes many:
otherwise anybody could lock out somebody whose name they know, while without that limit many machines could guess
freely. Failures are in the database, so that all processes share them.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import ColumnElement, and_, delete, func, insert, select, text, update
from sqlalchemy.engine import Connection, Engine

from rlhf_loop.accounts import second_factor, users
from rlhf_loop.domain import User, UserRole
from rlhf_loop.errors import AccountError, ThrottledError
from rlhf_loop.store import audit
from rlhf_loop.store.engine import reading, transaction
from rlhf_loop.store.tables import ANONYMOUS, Session, SignInFailure
from rlhf_loop.store.tables import User as Users
from rlhf_loop.utils.translation import Message

#: A session in use is noted that often, not at each request.
_NOTED_EVERY = timedelta(minutes=1)
#: So long the others wait for a request that asks the provider: longer than all that it asks can take.
_CHECKING = timedelta(minutes=1)
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
#: For whatever is wrong: which of both, would tell which names there are.
_WRONG = Message("The name or the password is wrong. Look at both and try again.")
_PROOF = (Session.method, Session.subject, Session.provider_session, Session.provider_tokens)
#: How all names that cannot be one are counted.
_NO_NAME = "?"


class Method(StrEnum):
    """The way in which somebody has shown who they are when a session began."""

    PASSWORD = "password"
    CODE = "password and code"
    LINK = "link"
    PROVIDER = "oidc"
    PROXY = "proxy"


@dataclass(frozen=True, slots=True)
class Proof:
    """The way in which a session began; `subject`, its session and sealed `tokens` are those of a provider or proxy."""

    method: Method = Method.PASSWORD
    subject: str | None = None
    provider_session: str | None = None
    tokens: str | None = None


#: Of who has a one-time link.
BY_LINK = Proof(Method.LINK)


@dataclass(frozen=True, slots=True)
class SessionPolicy:
    """The settings of sessions: `key` makes the hashes, `hours` is how long a session lasts without being used.

    In use it lasts longer, by that time again at most.
    """

    key: bytes
    hours: float

    @property
    def lasts(self) -> timedelta:
        """The time after which whoever did nothing has to sign in again."""
        return timedelta(hours=self.hours)


@dataclass(frozen=True, slots=True)
class ActiveSession:
    """A session that goes on; `due` says that `extend` has something to write.

    `checked_at` is when the provider of its user was asked last.
    """

    user: User
    due: bool
    proof: Proof
    checked_at: datetime | None


def find(engine: Engine, secret: str, *, keeping: SessionPolicy, now: datetime) -> ActiveSession | None:
    """Return the session, None if it has ended."""
    wanted = (
        select(Users.id, Users.name, Users.role, Users.display_name, Session.seen_at, *_PROOF, Session.checked_at)
        .join(Users, Users.id == Session.user_id)
        .where(Session.token_hash == _hashed(secret, keeping.key), Session.expires_at > now, Users.active)
    )
    with reading(engine) as connection:
        row = connection.execute(wanted).first()
    if row is None:
        return None
    user = User(row.id, row.name, UserRole(row.role), display_name=row.display_name)
    proof = Proof(Method(row.method), row.subject, row.provider_session, row.provider_tokens)
    return ActiveSession(user, row.seen_at + _NOTED_EVERY <= now, proof, row.checked_at)


def extend(engine: Engine, secret: str, *, keeping: SessionPolicy, now: datetime) -> None:
    """Note that the session is in use, and let it last longer."""
    mine = Session.token_hash == _hashed(secret, keeping.key)
    with transaction(engine) as connection:
        begun = connection.execute(select(Session.created_at).where(mine)).scalar()
        if begun is not None:
            ends = min(now + keeping.lasts, begun + 2 * keeping.lasts)
            connection.execute(update(Session).where(mine).values(seen_at=now, expires_at=ends))


def take_check(engine: Engine, secret: str, found: ActiveSession, *, keeping: SessionPolicy, now: datetime) -> bool:
    """Take it upon this request to ask the provider of the session; False where another one does, or has just done so.

    Until `end_check`, or for a minute where that never comes, no other request does.
    """
    mine = (Session.token_hash == _hashed(secret, keeping.key), Session.checked_at == found.checked_at)
    with transaction(engine) as connection:
        return connection.execute(update(Session).where(*mine).values(checked_at=now + _CHECKING)).rowcount == 1


def end_check(engine: Engine, secret: str, *, keeping: SessionPolicy, now: datetime, tokens: str | None = None) -> None:
    """End what `take_check` began at `now`; keep the provider's new tokens with the session, if there are any.

    Once they are kept, a second end of the same check changes nothing.
    """
    mine = (Session.token_hash == _hashed(secret, keeping.key), Session.checked_at == now + _CHECKING)
    values = {"checked_at": now} if tokens is None else {"checked_at": now, "provider_tokens": tokens}
    with transaction(engine) as connection:
        connection.execute(update(Session).where(*mine).values(values))


def end_of_provider(
    engine: Engine, method: Method, *, subject: str | None, provider_session: str | None, actor: str
) -> int:
    """End the sessions that a provider's or a proxy's word has ended; return how many there were."""
    theirs = [Session.method == method]
    if subject is not None:
        theirs.append(Session.subject == subject)
    if provider_session is not None:
        theirs.append(Session.provider_session == provider_session)
    with transaction(engine) as connection:
        whose = select(Users.name).join(Session, Session.user_id == Users.id).where(*theirs).order_by(Users.name)
        ended = connection.execute(whose).scalars().all()
        connection.execute(delete(Session).where(*theirs))
        for name in dict.fromkeys(ended):
            detail = {"sessions": ended.count(name)}
            audit.note(connection, actor, "session.signed_out", f"user:{name}", detail)
    return len(ended)


def end(engine: Engine, secret: str, *, keeping: SessionPolicy, user: User) -> None:
    """Sign the user out in this one browser."""
    with transaction(engine) as connection:
        ended = connection.execute(delete(Session).where(Session.token_hash == _hashed(secret, keeping.key))).rowcount
        if ended:
            audit.note(connection, user.name, "session.signed_out", f"user:{user.name}")


def end_all(engine: Engine, user: User) -> None:
    """Sign the user out everywhere."""
    with transaction(engine) as connection:
        ended = users.sign_out_everywhere(connection, user.id)
        audit.note(connection, user.name, "session.signed_out", f"user:{user.name}", {"sessions": ended})


def _count_attempt(connection: Connection, name: str, address: str, *, now: datetime) -> None:
    """Count an attempt as a failure before it is judged; `forget_failures` takes it back.

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
        shown = (
            Message("{n} seconds", n=seconds) if seconds < 120 else Message("{n} minutes", n=math.ceil(seconds / 60))
        )
        raise ThrottledError(
            Message(
                "Too many attempts to sign in failed. Try again in {time}; whoever has forgotten a password "
                "gets a link for a new one from an admin.",
                time=shown,
            ),
            retry_after_s=seconds,
        )
    connection.execute(delete(SignInFailure).where(SignInFailure.failed_at <= now - WINDOW))
    connection.execute(insert(SignInFailure), {"name": name, "address": address, "failed_at": now})


def forget_failures(connection: Connection, name: str, address: str) -> None:
    """Forget the failures of a name from where it has signed in, this attempt included.

    What the address did with other names still counts, and what others did with the name: whoever guesses at it from
    elsewhere must not begin anew each time that its owner signs in.
    """
    mine = and_(SignInFailure.name == name, SignInFailure.address == address)
    connection.execute(delete(SignInFailure).where(mine))


@dataclass(frozen=True, slots=True)
class NewSession:
    """A session that was just begun, with the secret that the browser has to keep."""

    user: User
    secret: str


@dataclass(frozen=True, slots=True)
class CodeNeeded:
    """Somebody who has shown the right password, and has to show a code; `fingerprint` is that of the password."""

    name: str
    fingerprint: str


def sign_in(
    engine: Engine, name: str, password: str, *, address: str, keeping: SessionPolicy, now: datetime
) -> NewSession | CodeNeeded:
    """Begin a session for whoever knows the password, unless a code of their app is wanted as well.

    Raises:
        ThrottledError: too many attempts of the name, there or everywhere, or from the address have failed.
        AccountError: the name or the password is wrong, or the user is not active.
    """
    try:
        name = users.checked_name(name)
    except AccountError:
        name = _NO_NAME
    stored = _attempted(engine, name, address, counted_as=name, now=now)
    right = users.password_matches(stored, password)
    renewed = users.renew_hash(stored, password) if right and stored else None
    with transaction(engine) as connection:
        # Anew: what was true before the password was checked may have changed meanwhile.
        found = users.find(connection, name)
        if right and stored and found and found.user.active and found.password_hash == stored:
            forget_failures(connection, name, address)
            connection.execute(update(Users).where(Users.id == found.user.id).values(password_hash=renewed or stored))
            if second_factor.has(connection, found.user):
                return CodeNeeded(name, _fingerprint(renewed or stored))
            return _begin(connection, found.user, address=address, keeping=keeping, now=now, proof=Proof())
        # An unknown name is left out: many a password has been typed into the wrong field.
        target = f"user:{name}" if found else "user:?"
        audit.note(connection, ANONYMOUS, "session.failed", target, {"address": address})
    raise AccountError(_WRONG)


def half_of(engine: Engine, user: User) -> CodeNeeded | None:
    """Return what a user with an app has to show a code for, None for one without."""
    with reading(engine) as connection:
        stored = users.find_known(connection, user.name).password_hash
        return CodeNeeded(user.name, _fingerprint(stored)) if stored and second_factor.has(connection, user) else None


def sign_in_by_code(
    engine: Engine, half: CodeNeeded, code: str, *, key: bytes, address: str, keeping: SessionPolicy, now: datetime
) -> NewSession:
    """Begin a session for whoever has shown the password and now the code.

    Raises:
        ThrottledError: too many codes were wrong.
        AccountError: the code is wrong or was used, or the password has changed since.
    """
    stored = _attempted(engine, half.name, address, counted_as=f"code:{half.name}", now=now)
    if stored is None or not hmac.compare_digest(_fingerprint(stored), half.fingerprint):
        raise AccountError(Message("Your password has changed since. Sign in again at /sign-in."))
    with transaction(engine) as connection:
        user = users.find_known(connection, half.name).user
        if user.active and second_factor.use(connection, user, code, key=key, now=now):
            forget_failures(connection, f"code:{half.name}", address)
            return _begin(connection, user, address=address, keeping=keeping, now=now, proof=Proof(Method.CODE))
        detail = {"address": address, "by": Method.CODE.value}
        audit.note(connection, ANONYMOUS, "session.failed", f"user:{user.name}", detail)
    raise AccountError(second_factor.WRONG)


def check_code(engine: Engine, user: User, code: str, *, key: bytes, address: str, now: datetime) -> None:
    """Use up a code of a user who has signed in, before something that wants one.

    Raises:
        ThrottledError: too many codes were wrong.
        AccountError: the code is wrong or was used.
    """
    _attempted(engine, user.name, address, counted_as=f"code:{user.name}", now=now)
    with transaction(engine) as connection:
        if not second_factor.use(connection, user, code, key=key, now=now):
            raise AccountError(second_factor.WRONG)
        forget_failures(connection, f"code:{user.name}", address)


def begin_anew(
    engine: Engine, user: User, *, address: str, keeping: SessionPolicy, now: datetime, proof: Proof
) -> NewSession:
    """End all sessions of a user, and begin one."""
    with transaction(engine) as connection:
        users.sign_out_everywhere(connection, user.id)
        return _begin(connection, user, address=address, keeping=keeping, now=now, proof=proof)


def begin_session(
    engine: Engine, user: User, *, address: str, keeping: SessionPolicy, now: datetime, proof: Proof = BY_LINK
) -> NewSession:
    """Begin a session for somebody who has shown in another way who they are."""
    with transaction(engine) as connection:
        return _begin(connection, user, address=address, keeping=keeping, now=now, proof=proof)


def note_refusal(engine: Engine, account: str, *, method: Method, address: str, reason: str) -> None:
    """Note that somebody may not be here whom a provider or a proxy has named; without the name of an e-mail address.

    What the audit log has, nobody can have deleted.
    """
    shown = users.without_address(account)
    detail = {"address": address, "by": method.value, "account": shown, "reason": reason.replace(account, shown)}
    with transaction(engine) as connection:
        audit.note(connection, ANONYMOUS, "session.failed", "user:?", detail)


def change_password(engine: Engine, user: User, old: str, new: str, *, address: str, now: datetime) -> None:
    """Give a user who knows the old password a new one, and sign them out everywhere.

    Raises:
        ThrottledError: the old one was wrong too often.
        AccountError: it is wrong, or the new one is refused.
    """
    password_hash = users.hash_password(new, name=user.name)
    # Counted apart from signing in: no flood there keeps anybody from this. No name has a colon.
    counted_as = f"change:{user.name}"
    stored = _attempted(engine, user.name, address, counted_as=counted_as, now=now)
    if not users.password_matches(stored, old):
        raise AccountError(Message("The old password is wrong. Type it again, or ask an admin for a link."))
    with transaction(engine) as connection:
        forget_failures(connection, counted_as, address)
        users.set_hash(connection, user, password_hash, actor=user.name)


def _begin(
    connection: Connection, user: User, *, address: str, keeping: SessionPolicy, now: datetime, proof: Proof
) -> NewSession:
    """Begin a session; tidy up those that have ended."""
    connection.execute(update(Users).where(Users.id == user.id).values(signed_in_at=now))
    connection.execute(delete(Session).where(Session.expires_at <= now))
    secret = secrets.token_urlsafe(32)
    values = {
        "token_hash": _hashed(secret, keeping.key),
        "user_id": user.id,
        "created_at": now,
        "seen_at": now,
        "expires_at": now + keeping.lasts,
        "method": proof.method,
        "subject": proof.subject,
        "provider_session": proof.provider_session,
        "provider_tokens": proof.tokens,
        "checked_at": now if proof.tokens else None,
    }
    connection.execute(insert(Session), values)
    detail = {"address": address, "by": proof.method.value}
    audit.note(connection, user.name, "session.signed_in", f"user:{user.name}", detail)
    return NewSession(user, secret)


def _fingerprint(password_hash: str) -> str:
    return hashlib.sha256(password_hash.encode()).hexdigest()[:32]


def _hashed(secret: str, key: bytes) -> str:
    return hmac.digest(key, b"session:" + secret.encode("utf-8", "replace"), "sha256").hex()


def _wait_s(connection: Connection, whose: ColumnElement[bool], allowed: int, now: datetime) -> float:
    wanted = select(func.count(), func.max(SignInFailure.failed_at, type_=SignInFailure.failed_at.type)).where(
        # What is later than that was before the clock was put back, and would lock people out until then.
        whose,
        SignInFailure.failed_at.between(now - WINDOW, now + WINDOW),
    )
    count, last = connection.execute(wanted).one()
    if count < allowed:
        return 0.0
    # Exponents without bound would be too large for a float.
    wait = min(_FIRST_WAIT_S * 2 ** min(count - allowed, 16), WINDOW.total_seconds())
    return float(wait - (now - last).total_seconds())


def _attempted(engine: Engine, name: str, address: str, *, counted_as: str, now: datetime) -> str | None:
    """Count the attempt, and return the hash of the password of whoever may sign in by that name."""
    with transaction(engine) as connection:
        _count_attempt(connection, counted_as, address, now=now)
        found = users.find(connection, name)
    may = found is not None and found.user.active and found.user.role != UserRole.SERVICE
    return found.password_hash if found is not None and may else None
