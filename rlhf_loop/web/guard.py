"""Access to the routes: sessions and forms of people, tokens of applications, and the rate limit."""

from __future__ import annotations

import hmac
import logging
import re
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import NoReturn, TypeVar

from flask import Response, abort, after_this_request, current_app, redirect, request, url_for
from sqlalchemy.engine import Engine
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Forbidden, TooManyRequests, Unauthorized

from rlhf_loop.accounts import identities, second_factor, sessions, tokens
from rlhf_loop.accounts.oidc import Provider
from rlhf_loop.config import NEW_KEY, Settings
from rlhf_loop.domain import User, UserRole
from rlhf_loop.errors import AccountError, ConfigError, DatabaseError, ProviderError
from rlhf_loop.store.engine import answered, hurried
from rlhf_loop.utils.addresses import is_loopback, parsed
from rlhf_loop.utils.translation import Message
from rlhf_loop.web.limiter import Limiter, network
from rlhf_loop.web.origins import (
    METRICS,
    checked_hosts,
    forget_cookie,
    own_cookie,
    refuse_other_sites,
    set_cookie,
    way_back,
)
from rlhf_loop.web.process import Database

logger = logging.getLogger(__name__)

SESSION_COOKIE = "rlhf_session"
#: Of a browser in which nobody is signed in, so that its forms can be told from those of others.
FORM_COOKIE = "rlhf_form"
#: The form's field and the script's header.
FORM_FIELD = "form_token"
FORM_HEADER = "X-Form-Token"

#: So long a database that did not answer is not asked again who somebody is.
_DOWN_S = 5.0
#: So long a request waits to note that it was made, where others write.
_NOTE_PATIENCE_S = 0.1
#: By how much the question whether somebody may still be here is put off at most, while it cannot be noted.
_PUT_OFF = timedelta(minutes=1)
#: Health checks come every few seconds from one address, and a page brings its files along.
_UNLIMITED = (".healthz", ".readyz", ".health", ".static")
_SECOND_FACTOR = ("optional", "admins", "everybody")
_HEADER = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,63}")
#: Headers by which a proxy can be told, also one of which the settings know nothing.
_PASSED_ON = (
    *("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port"),
    *("X-Forwarded-Server", "X-Real-IP", "Via", "CF-Connecting-IP", "True-Client-IP"),
)
_PLACE = "rlhf_loop.guard"
_LONGEST_SESSION_H = 24 * 366

_Result = TypeVar("_Result")


class Guard:
    """Answers for the current request; what it finds is kept for the request's time.

    `counts` is a file in which several processes count their requests together; `clock` and `timer` are for tests.

    Raises:
        ConfigError: a setting of hosts, limits, sessions, roles, the provider, the proxy or the second factor is not
            valid, or nobody could sign in.
        MissingExtraError: a setting asks for an extra that is not installed.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        *,
        counts: Path | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._database = database
        self._clock = clock
        self._timer = timer
        self.hosts = checked_hosts(settings.hosts)
        self._limiter = Limiter(settings.rate_limit, file=counts)
        if settings.session_hours <= 0:
            raise ConfigError("RLHF_SESSION_HOURS=0 would end each session at once. Give it a number above 0.")
        if settings.session_hours > _LONGEST_SESSION_H:
            raise ConfigError(
                f"RLHF_SESSION_HOURS={settings.session_hours:g} is longer than a year. Give it {_LONGEST_SESSION_H} at "
                "most; a session in use lasts up to twice that time."
            )
        # Without a key of the operator's, one for the time that this process runs.
        self._key = settings.secret_key.encode() or secrets.token_bytes(32)
        self._keeping = sessions.SessionPolicy(self._key, settings.session_hours)
        self.rules = identities.RoleRules.of(settings)
        #: By which people sign in; None without one.
        self.provider = Provider(settings, key=self.signing_key("identity provider")) if settings.oidc_issuer else None
        self._proxy = _checked_proxy(settings)
        if settings.second_factor not in _SECOND_FACTOR:
            raise ConfigError(
                f"RLHF_SECOND_FACTOR={settings.second_factor!r} is not a valid choice. Give it one of: "
                f"{', '.join(_SECOND_FACTOR)}."
            )
        if settings.second_factor != "optional":
            second_factor.check()
            if settings.passwords and not settings.lasting_key:
                raise ConfigError(
                    f"RLHF_SECOND_FACTOR={settings.second_factor!r}, and RLHF_SECRET_KEY is not set, without which "
                    f"nobody can add an app. To make one: {NEW_KEY}"
                )
        if not settings.passwords and self.provider is None and not settings.proxy_user_header:
            raise ConfigError(
                "RLHF_PASSWORDS=no, and there is neither RLHF_OIDC_ISSUER nor RLHF_PROXY_USER_HEADER, so nobody could "
                "sign in. Set one of them, or unset RLHF_PASSWORDS."
            )
        self._down_until = 0.0
        self._down = ""
        self._no_notes_until = 0.0

    @property
    def passwords(self) -> bool:
        """True where people may sign in with a password."""
        return self._settings.passwords

    @property
    def keeping(self) -> sessions.SessionPolicy:
        """The policy for sessions."""
        return self._keeping

    def now(self) -> datetime:
        """Return the time."""
        return self._clock()

    def address(self) -> str:
        """Return where the request comes from, as far as it is counted."""
        return network(request.remote_addr)

    def from_this_machine(self) -> bool:
        """Tell whether the request was surely made on this machine, and not passed on by a proxy that runs here."""
        if not self._settings.proxies and any(name in request.headers for name in _PASSED_ON):
            return False
        return is_loopback(request.remote_addr)

    def user(self) -> User | None:
        """Return who is signed in in this browser, None if nobody is, or if the database does not answer.

        For what a page shows and how it behaves for whom; where it matters who it is, ask `signed_in`.
        """
        found = _this()
        if not found.asked:
            found.asked = True
            secret = request.cookies.get(own_cookie(SESSION_COOKIE), "")
            if secret:
                self._find_session(found, secret)
        return found.user

    def surely(self) -> User | None:
        """Return who is signed in, None if surely nobody is.

        Raises:
            DatabaseError: the browser has a session, and the database does not say whose.
        """
        user = self.user()
        if trouble := _this().trouble:
            raise trouble
        return user

    def signed_in(self, *roles: UserRole, code: bool = True) -> User:
        """Return who is signed in; an admin may do what any role may. Without `code` also who owes one.

        Raises:
            HTTPException: nobody is (a page then leads to /sign-in and back, a call by script gets 401), or somebody of
                another role (403).
            DatabaseError: the database does not say who it is.
        """
        user = self.surely()
        if user is None:
            self._refuse_nobody()
        if code and self._owes_code(user):
            self._refuse_without_code()
        if roles and user.role not in (*roles, UserRole.ADMIN):
            raise Forbidden(
                Message(
                    "This is for {roles}; you are signed in as {name}, a {role}. Ask an admin for the right, "
                    "or sign in as somebody else.",
                    roles=Message("raters and admins") if UserRole.RATER in roles else Message("admins"),
                    name=user.shown,
                    role=Message(user.role.value),
                )
            )
        return user

    def bearer(self, scope: str) -> User:
        """Return whose token the request bears in `Authorization: Bearer ...`; it must have the scope.

        Raises:
            Unauthorized: no token, an unknown, expired or revoked one, or one of a user who is not active.
            Forbidden: the token does not have the scope.
            TooManyRequests: more requests than `rate_limit` allows.
            DatabaseError: the database does not say whose token it is.
        """
        found = self._bearer()
        self.limit()
        if found is None:
            if request.authorization is None:
                raise Unauthorized(
                    "This needs a token. Send it as Authorization: Bearer rlhf_... An admin makes one at /admin.",
                    www_authenticate=_challenge("bearer"),
                )
            raise Unauthorized(
                "The token is unknown, has expired or was revoked, or its user is not active. Ask an admin for one.",
                www_authenticate=_challenge("bearer", error="invalid_token"),
            )
        if scope not in found.scopes:
            raise Forbidden(
                f"This needs a token with the scope {scope}; yours has {', '.join(sorted(found.scopes))}. Ask an admin "
                "for another token."
            )
        return found.user

    def caller(self) -> tokens.Bearer | None:
        """Return the token that the request bears; None without a valid one, or while nobody can tell."""
        try:
            return self._bearer()
        except DatabaseError:
            return None

    def has_scope(self, scope: str) -> bool:
        """Tell whether the request bears a token with this scope."""
        found = self._bearer()
        return found is not None and scope in found.scopes

    def session(self) -> sessions.ActiveSession | None:
        """Return the session of this browser, None where nobody is signed in."""
        return _this().session if self.user() is not None else None

    def proxied(self) -> identities.Identity | None:
        """Return whom the proxy names that signs people in; None if it names nobody, or another one asks."""
        settings = self._settings
        # The peer itself, whatever it says of where it has the request from.
        before = request.environ.get("werkzeug.proxy_fix.orig", request.environ)
        if not settings.proxy_user_header or not _is_of(before.get("REMOTE_ADDR"), self._proxy):
            return None
        name = _header(settings.proxy_user_header)
        if not name or "," in name or not name.isprintable():
            # With a comma there are two of it, one of which somebody else has written.
            return None
        groups = _header(settings.proxy_groups_header) if settings.proxy_groups_header else ""
        return identities.Identity(
            issuer=identities.PROXY,
            # The letters of ASCII only: among others, that for kelvin becomes a k.
            subject=name.encode().lower().decode(),
            name=name,
            email=name if "@" in name else None,
            groups=frozenset(group.strip() for group in groups.split(",") if group.strip()),
        )

    def form_token(self) -> str:
        """Return what a form of this session has to bring along as `form_token` (scripts: header X-Form-Token).

        Where nobody is signed in, it belongs to a cookie that the response sets.
        """
        if self.user() is not None:
            return self._signed("form", _this().secret)
        return self._signed("form of a browser", self._form_cookie())

    def check_form(self) -> None:
        """End the request unless it comes from a page of ours in this very session. Read the body before.

        Raises:
            Forbidden: the form token is missing or of another session, or another site sent the request.
            DatabaseError: the database does not say whose session it is.
        """
        refuse_other_sites()
        user = self.surely()
        given = request.headers.get(FORM_HEADER) or request.form.get(FORM_FIELD, "")
        if user is not None:
            expected = self._signed("form", _this().secret)
        else:
            expected = self._signed("form of a browser", request.cookies.get(own_cookie(FORM_COOKIE), ""))
            if not request.cookies.get(own_cookie(FORM_COOKIE)):
                given = ""
        if not hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode()):
            raise Forbidden(
                Message(
                    "This form is not of your present session: you signed in or out since it was opened, the service "
                    "was started anew, or your browser keeps no cookies. Nothing was changed. Load the page again and "
                    "repeat."
                )
            )

    def limit(self) -> None:
        """Count the request, once, for its token, its user or else its address; health checks and files are free.

        Raises:
            TooManyRequests: there were more than `rate_limit` allows.
        """
        found, endpoint = _this(), request.endpoint or ""
        if found.counted or endpoint.endswith(_UNLIMITED):
            return
        # Free for this machine only: others may ask as often as for anything else.
        if endpoint.endswith(METRICS) and self.from_this_machine():
            return
        found.counted = True
        if wait := self._limiter.hit(self._who()):
            raise TooManyRequests(
                Message(
                    "These are more requests than {limit}, which is the limit here. Go on after {wait} seconds.",
                    limit=self._settings.rate_limit,
                    wait=wait,
                ),
                retry_after=wait,
            )

    def begin(self, response: Response, signed_in: User, secret: str) -> Response:
        """Have the browser keep the secret of a session that has just begun."""
        found = _this()
        found.asked, found.user, found.secret, found.session, found.trouble = True, signed_in, secret, None, None
        # The table says when it ends; the browser may forget it when it has certainly ended.
        ends_s = int(2 * self._keeping.lasts.total_seconds())
        return set_cookie(response, own_cookie(SESSION_COOKIE), secret, max_age=ends_s)

    def end(self, response: Response) -> Response:
        """Have the browser forget its session; the table is the caller's."""
        return forget_cookie(response, own_cookie(SESSION_COOKIE))

    @property
    def second_factor_key(self) -> bytes:
        """The key that makes the secrets of authenticator apps.

        Raises:
            Forbidden: the key of this service lasts until its next start only, and so would the apps.
        """
        if not self._settings.lasting_key:
            raise Forbidden(
                Message(
                    "This service makes a new key at each start, and an app would be worth nothing then. Whoever runs "
                    "it sets RLHF_SECRET_KEY first."
                )
            )
        return self.signing_key("second factor")

    def session_secret(self) -> str:
        """Return what this browser holds of its session; empty where nobody is signed in."""
        return _this().secret if self.user() is not None else ""

    def signing_key(self, purpose: str) -> bytes:
        """Return a key for something else that the server signs."""
        return hmac.digest(self._key, f"key for {purpose}".encode(), "sha256")

    def _find_session(self, found: _Request, secret: str) -> None:
        now = self._clock()
        try:
            session = self._ask(lambda engine: sessions.find(engine, secret, keeping=self._keeping, now=now))
        except DatabaseError as error:
            found.trouble = error
            return
        if session is None:
            return
        try:
            user = self._still_here(session, secret, now)
        except DatabaseError as error:
            found.trouble = error
            return
        if user is None:
            return
        found.user, found.secret, found.session = user, secret, session
        if session.due:
            self._note(lambda engine: sessions.extend(engine, secret, keeping=self._keeping, now=now))

    def _still_here(self, session: sessions.ActiveSession, secret: str, now: datetime) -> User | None:
        """Return whose session it is by what holds now: the settings, the proxy's word, the provider's."""
        proof = session.proof
        if proof.method in (sessions.Method.PASSWORD, sessions.Method.CODE):
            return session.user if self._settings.passwords else None
        if proof.method is sessions.Method.PROXY:
            identity = self.proxied()
            if identity is None or identity.subject != proof.subject:
                return None
            return self._reconsidered(session, identity)
        return self._asked_again(session, secret, now) if proof.method is sessions.Method.PROVIDER else session.user

    def _asked_again(self, session: sessions.ActiveSession, secret: str, now: datetime) -> User | None:
        if self.provider is None:
            return None
        proof, asked = session.proof, session.checked_at
        if asked is None or proof.tokens is None or proof.subject is None:
            return session.user
        due = asked + timedelta(seconds=self._settings.oidc_recheck_s)
        if now < due or self.provider.breaker.rest_s():
            return session.user
        # One request asks, and the others go on with what held: a token for that may be worth one use. While somebody
        # else holds the database it is put off, but not for ever.
        engine = self._database.engine()
        take_check = partial(sessions.take_check, secret=secret, found=session, keeping=self._keeping, now=now)
        if not (self._note(take_check) if now < due + _PUT_OFF else take_check(engine)):
            return session.user
        end_check = partial(sessions.end_check, secret=secret, keeping=self._keeping, now=now)
        try:
            # New tokens are waited for with patience: the former ones may be worth nothing any more.
            identity = self.provider.again(
                proof.tokens, subject=proof.subject, keep=lambda kept: end_check(engine, tokens=kept)
            )
        except ProviderError as error:
            # Who has signed in goes on: the provider's being away says nothing of them.
            logger.warning("%s", error)
            self._note(end_check)
            return session.user
        except AccountError:
            sessions.end(engine, secret, keeping=self._keeping, user=session.user)
            return None
        if identity is None:
            self._note(end_check)
            return session.user
        return self._reconsidered(session, identity)

    def _reconsidered(self, session: sessions.ActiveSession, identity: identities.Identity) -> User | None:
        engine, proof = self._database.engine(), session.proof
        try:
            return identities.reconsider(engine, session.user, identity, rules=self.rules)
        except AccountError as error:
            logger.info("The sessions of %s end: %s", session.user.name, error)
            sessions.end_of_provider(
                engine, proof.method, subject=proof.subject, provider_session=None, actor=identities.actor(identity)
            )
            return None

    def _bearer(self) -> tokens.Bearer | None:
        found = _this()
        given = request.authorization
        if not found.bearer_asked and given is not None and given.type == "bearer" and given.token:
            secret, now = given.token, self._clock()
            bearer = self._ask(lambda engine: tokens.find(engine, secret, now=now))
            found.bearer = bearer
            if bearer is not None and bearer.due:
                self._note(lambda engine: tokens.note_use(engine, bearer.token_id, now=now))
        found.bearer_asked = True
        return found.bearer

    def _who(self) -> str:
        try:
            bearer = self._bearer()
        except DatabaseError:
            # Whoever needs to know is told so by `bearer`; the limit has the address.
            bearer = None
        if bearer is not None:
            return f"token:{bearer.token_id}"
        user = self.user()
        return f"user:{user.id}" if user is not None else f"address:{self.address()}"

    def _ask(self, question: Callable[[Engine], _Result]) -> _Result:
        """Ask the database, unless it did not answer a moment ago: pages for everybody must not wait for it."""
        if self._timer() < self._down_until:
            raise DatabaseError(self._down)
        try:
            answer = question(self._database.engine())
        except DatabaseError as error:
            self._database.doubt()
            if not answered(error):
                self._down, self._down_until = str(error), self._timer() + _DOWN_S
            raise
        self._down_until = 0.0
        return answer

    def _note(self, note: Callable[[Engine], _Result]) -> _Result | None:
        """Note something, if that can be done at once: nobody is kept waiting for it, or sent away. None if not."""
        if self._timer() < self._no_notes_until:
            return None
        try:
            return note(hurried(self._database.engine(), _NOTE_PATIENCE_S))
        except DatabaseError as error:
            self._no_notes_until = self._timer() + _DOWN_S
            logger.info("The use or check of a session or token could not be noted: %s", error)
            return None

    def may_have_app(self) -> bool:
        """Tell whether whoever is signed in may add an app or take it away: the code follows a password only."""
        session = self.session()
        elsewhere = (sessions.Method.PROVIDER, sessions.Method.PROXY)
        return self.passwords and session is not None and session.proof.method not in elsewhere

    def wants_code(self, user: User) -> bool:
        """Tell whether this user has to enter a code after the password."""
        wanted = self._settings.second_factor
        return wanted == "everybody" or (wanted == "admins" and user.role == UserRole.ADMIN)

    def _owes_code(self, user: User) -> bool:
        session = _this().session
        # A link stands for a password, where there are passwords.
        of_password = (sessions.Method.PASSWORD, sessions.Method.LINK) if self.passwords else ()
        return self.wants_code(user) and (session is None or session.proof.method in of_password)

    def _refuse_without_code(self) -> NoReturn:
        if _is_page():
            abort(redirect(url_for(".account_second_factor", next=way_back()), code=303))
        raise Forbidden(Message("A code of an authenticator app is wanted here. Add one at /account/second-factor."))

    def _refuse_nobody(self) -> NoReturn:
        if _is_page():
            abort(redirect(url_for(".sign_in", next=way_back()), code=303))
        raise Unauthorized(
            Message("Nobody is signed in here, or no longer. Sign in at /sign-in and repeat."),
            www_authenticate=_challenge("cookie"),
        )

    def _form_cookie(self) -> str:
        found = _this()
        if not found.form_cookie:
            found.form_cookie = request.cookies.get(own_cookie(FORM_COOKIE), "")
        if not found.form_cookie:
            value = found.form_cookie = secrets.token_urlsafe(16)
            after_this_request(lambda response: set_cookie(response, own_cookie(FORM_COOKIE), value))
        return found.form_cookie

    def _signed(self, purpose: str, value: str) -> str:
        return hmac.digest(self._key, f"{purpose}:{value}".encode("utf-8", "replace"), "sha256").hex()


def _checked_proxy(settings: Settings) -> tuple[IPv4Network | IPv6Network, ...]:
    if not settings.proxy_user_header:
        return ()
    for name in filter(None, (settings.proxy_user_header, settings.proxy_groups_header)):
        if not _HEADER.fullmatch(name):
            raise ConfigError(f"{name!r} is not a valid name of a header. Give one as in Remote-User.")
    if not settings.proxy_user_from:
        raise ConfigError(
            "RLHF_PROXY_USER_HEADER is set, and RLHF_PROXY_USER_FROM is not, so anybody could write the header. Give "
            "it the addresses of the proxy, as in 127.0.0.1 or 10.0.0.0/24."
        )
    found = []
    for each in settings.proxy_user_from:
        try:
            found.append(ip_network(each))
        except ValueError as error:
            raise ConfigError(
                f"RLHF_PROXY_USER_FROM: {each!r} is not a valid address or network ({error}). Give those of the proxy, "
                "as in 127.0.0.1 or 10.0.0.0/24."
            ) from error
    return tuple(found)


def _is_of(address: str | None, networks: Iterable[IPv4Network | IPv6Network]) -> bool:
    found = parsed(address)
    return found is not None and any(found in network for network in networks)


def _header(name: str) -> str:
    # WSGI hands on bytes as Latin-1; proxies write UTF-8.
    given = request.headers.get(name, "").strip()
    try:
        return given.encode("latin-1").decode()
    except ValueError:
        return given


@dataclass(slots=True)
class _Request:
    """Facts about one request."""

    user: User | None = None
    #: What the browser holds, where `user` is somebody.
    secret: str = ""
    session: sessions.ActiveSession | None = None
    #: The error that hides who it is.
    trouble: DatabaseError | None = None
    asked: bool = False
    bearer: tokens.Bearer | None = None
    bearer_asked: bool = False
    form_cookie: str = ""
    counted: bool = False


def _this() -> _Request:
    # Not Flask's g: in a test with an application context of its own, that lives longer than a request.
    found = request.environ.get(_PLACE)
    if not isinstance(found, _Request):
        found = request.environ[_PLACE] = _Request()
    return found


def _challenge(scheme: str, *, error: str = "") -> WWWAuthenticate:
    # As one piece: werkzeug would leave the quotes out that RFC 9110, 11.5 and RFC 6750, 3 want.
    parts = ['realm="rlhf-loop"', *([f'error="{error}"'] if error else [])]
    return WWWAuthenticate(scheme, token=", ".join(parts))


def _is_page() -> bool:
    # Imported here: whoever only checks the settings (rlhf-loop doctor) need not wait for all that pages say.
    from rlhf_loop.web.problems import error_format

    return error_format(current_app.view_functions.get(request.endpoint or "")).html
