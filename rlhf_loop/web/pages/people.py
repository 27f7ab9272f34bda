"""Signing in and out, passwords by one-time link, one's own account, and the parts that all pages share.

Those are the navigation in the header, and a flash message: it is said once, after a form was sent, and travels in a
signed cookie of the very session for a minute, so that a reload neither repeats the form nor shows it again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cache

from flask import (
    Blueprint,
    Response,
    after_this_request,
    current_app,
    make_response,
    redirect,
    render_template,
    request,
    url_for,
)
from itsdangerous import BadData, URLSafeTimedSerializer
from werkzeug.exceptions import NotFound, UnprocessableEntity

from rlhf_loop.accounts import identities, links, second_factor, sessions, users
from rlhf_loop.config import Settings
from rlhf_loop.domain import User, UserRole
from rlhf_loop.errors import AccountError, DatabaseError, ThrottledError
from rlhf_loop.reviewing import MOST_TO_DECIDE, to_decide
from rlhf_loop.utils.translation import Message
from rlhf_loop.web.api.answers import whole_body
from rlhf_loop.web.guard import Guard
from rlhf_loop.web.localization import COOKIE as LANGUAGE
from rlhf_loop.web.localization import languages, translator
from rlhf_loop.web.origins import (
    YEAR_S,
    forget_cookie,
    local_path,
    own_cookie,
    refuse_other_sites,
    set_cookie,
    way_back,
)
from rlhf_loop.web.problems import html_errors
from rlhf_loop.web.process import Database

COOKIE = "rlhf_notice"
_LASTS_S = 60
#: Of a browser in which somebody has entered their password, and has so many seconds for the code.
HALF, _HALF_LASTS_S = "rlhf_half", 600

_NO_PASSWORDS = Message("Passwords are switched off here (RLHF_PASSWORDS=no). Sign in as /sign-in says.")
_FOR_ALL = {"data_html": Message("Ask")}
_FOR_RATERS = {
    "review": Message("Review"),
    "compare": Message("Compare"),
    "history": Message("History"),
    "agreement": Message("Agreement"),
}
_FOR_ADMINS = {
    "dashboard": Message("Dashboard"),
    "browse": Message("Browse"),
    "corrections": Message("Corrections"),
    "flagged": Message("Flagged"),
    "nobodys_field": Message("Nobody's field"),
    "admin": Message("Admin"),
}


def add_routes(web: Blueprint, settings: Settings, database: Database, guard: Guard) -> None:
    """Give the blueprint these routes."""

    @web.get("/sign-in")
    @html_errors
    def sign_in() -> Response:
        way = local_path(request.args.get("next", ""))
        if guard.user():
            return led_to(way or first_page())
        identity = guard.proxied()
        return sign_in_page(guard, way=way) if identity is None else _let_in(database, guard, identity, way=way)

    @web.post("/sign-in")
    @html_errors
    def sign_in_post() -> Response:
        read_form(guard)
        if not settings.passwords:
            raise NotFound(_NO_PASSWORDS)
        name, way = request.form.get("name", ""), local_path(request.form.get("next", ""))
        try:
            found = sessions.sign_in(
                database.engine(),
                name,
                request.form.get("password", ""),
                address=guard.address(),
                keeping=guard.keeping,
                now=guard.now(),
            )
        except AccountError as error:
            return refused(sign_in_page(guard, way=way, name=name, error=str(error)), error)
        if isinstance(found, sessions.CodeNeeded):
            return ask_for_code(guard, found, way=way)
        end_session(database, guard)
        return guard.begin(led_to(way or first_page()), found.user, found.secret)

    @web.get("/sign-out")
    @html_errors
    def sign_out() -> Response:
        # An address that is opened, or an image of another site, must sign nobody out.
        return led_to(url_for(".account"))

    @web.post("/sign-out")
    @html_errors
    def sign_out_post() -> Response:
        read_form(guard)
        session = guard.session()
        end_session(database, guard)
        provider = guard.provider
        if provider is None or session is None or session.proof.method is not sessions.Method.PROVIDER:
            return guard.end(led_to(url_for(".data_html")))
        back = url_for(".sign_in", _external=True)
        onward = provider.sign_out_address(session.proof.tokens, return_to=back)
        # A page of its own: what a form leads to has to be of this site, to the last redirect.
        return guard.end(page("signed_out.html", guard, onward=onward, provider=provider.host))

    @web.get("/welcome/<secret>")
    @html_errors
    def welcome(secret: str) -> Response:
        return _welcome_page(guard, _invitation(database, guard, secret))

    @web.post("/welcome/<secret>")
    @html_errors
    def welcome_post(secret: str) -> Response:
        read_form(guard)
        invitation = _invitation(database, guard, secret)
        name = request.form.get("name", "")
        try:
            password = _new_password() if settings.passwords else None
            user = links.redeem(database.engine(), secret, password, name=name, now=guard.now())
        except AccountError as error:
            # The link may have become invalid meanwhile: then the response is a 404.
            _invitation(database, guard, secret)
            return refused(_welcome_page(guard, invitation, name=name, error=str(error)), error)
        end_session(database, guard)
        if settings.passwords and (half := sessions.half_of(database.engine(), user)):
            # A new password does not stand for the phone.
            return ask_for_code(guard, half, way=None)
        # Who has chosen a password here is signed in by it, and out where passwords are switched off.
        proof = sessions.Proof() if settings.passwords else sessions.BY_LINK
        return _signed_in(database, guard, user, led_to(first_page()), proof=proof)

    @web.get("/account")
    @html_errors
    def account() -> Response:
        return _account_page(guard, guard.signed_in())

    @web.post("/account/password")
    @html_errors
    def account_password() -> Response:
        user = guard.signed_in()
        session = guard.session()
        read_form(guard)
        if not settings.passwords:
            raise NotFound(_NO_PASSWORDS)
        old = request.form.get("old", "")
        try:
            sessions.change_password(
                database.engine(), user, old, _new_password(), address=guard.address(), now=guard.now()
            )
        except AccountError as error:
            return refused(_account_page(guard, user, error=str(error)), error)
        proof = session.proof if session else sessions.BY_LINK
        response = _signed_in(database, guard, user, led_to(url_for(".account")), proof=proof)
        text = Message("Your password is changed. You are signed out everywhere else.")
        return leave(guard, response, Flash(text))

    @web.post("/account/display-name")
    @html_errors
    def account_display_name() -> Response:
        user = guard.signed_in()
        read_form(guard)
        given = request.form.get("display_name", "")
        try:
            changed = users.set_display_name(database.engine(), user.name, given, actor=user.name)
        except AccountError as error:
            return refused(_account_page(guard, user, error=str(error)), error)
        return leave(
            guard, led_to(url_for(".account")), Flash(Message("You are shown as {shown}.", shown=changed.shown))
        )

    @web.post("/account/sign-out-everywhere")
    @html_errors
    def account_sign_out_everywhere() -> Response:
        user = guard.signed_in()
        read_form(guard)
        sessions.end_all(database.engine(), user)
        return guard.end(led_to(url_for(".sign_in")))

    @web.post("/language")
    @html_errors
    def choose_language() -> Response:
        refuse_other_sites()
        whole_body()
        chosen = request.form.get("language", "")
        if chosen not in languages():
            raise UnprocessableEntity(
                Message("There are no screens in the language {chosen!r}. Choose one below.", chosen=chosen[:20])
            )
        return set_cookie(led_to(way_back() or url_for(".data_html")), LANGUAGE, chosen, max_age=YEAR_S)


def page(template: str, guard: Guard, *, status: int = 200, **values: object) -> Response:
    """Return a page that is for one person only, and in no cache."""
    response = make_response(
        render_template(f"rlhf_loop/{template}", form_token=guard.form_token(), flash=take(guard), **values), status
    )
    response.headers["Cache-Control"] = "no-store"
    return response


def moment(time: datetime) -> str:
    """Write a point in time for people."""
    return f"{translator().moment(time)} UTC"


@dataclass(frozen=True, slots=True)
class Flash:
    """A message about what has happened; with a secret that came of it, if any, and the label of its field."""

    text: str
    secret: str = ""
    label: str = ""


def leave(guard: Guard, response: Response, flash: Flash) -> Response:
    """Have the next page show the message."""
    # Now, as a message forgets in a cookie what it was made of.
    return set_cookie(response, COOKIE, _serializer(guard).dumps(asdict(translator()(flash))), max_age=_LASTS_S)


def take(guard: Guard) -> Flash | None:
    """Return the message for this page, and have the browser forget it."""
    given = request.cookies.get(COOKIE)
    if not given:
        return None
    after_this_request(lambda response: forget_cookie(response, COOKIE))
    try:
        return Flash(**_serializer(guard).loads(given, max_age=_LASTS_S))
    except (BadData, TypeError):
        return None


@dataclass(frozen=True, slots=True)
class Link:
    """A place to go to; `current` says that this is it, or that this page lies below it."""

    endpoint: str
    label: str
    address: str
    current: bool


@dataclass(frozen=True, slots=True)
class Navigation:
    """The header of a page. Without a `user` nobody is signed in, or nobody can tell: then it is `unknown`."""

    links: tuple[Link, ...] = ()
    user: User | None = None
    form_token: str = ""
    unknown: bool = False


def navigation(guard: Guard) -> Navigation:
    """Return the header for the current request. It asks the database only where the browser has a session."""
    try:
        user = guard.surely()
    except DatabaseError:
        return Navigation(unknown=True)
    if user is None:
        return Navigation()
    shown = {**_FOR_ALL, **_FOR_RATERS, **(_FOR_ADMINS if user.role == UserRole.ADMIN else {})}
    links = tuple(_link(endpoint, label) for endpoint, label in shown.items() if _exists(endpoint))
    return Navigation(links, user, guard.form_token())


def shown_names(database: Database) -> Callable[[str], str]:
    """Return what tells the name to show for the name of a user or any reviewer; it reads them at its first call."""

    @cache
    def names() -> Mapping[str, str]:
        return users.display_names(database.engine())

    return lambda name: names().get(name, name)


def waits(database: Database) -> Callable[[], Mapping[str, str]]:
    """Return what counts the things that wait for an admin, by the endpoint of their page; none where none does."""

    def counted() -> Mapping[str, str]:
        try:
            found = to_decide(database.engine())
        except DatabaseError:
            return {}
        counts = {"corrections": found.corrections, "flagged": found.flags, "nobodys_field": found.nobodys_field}
        return {
            endpoint: str(count) if count < MOST_TO_DECIDE else f"{MOST_TO_DECIDE - 1}+"
            for endpoint, count in counts.items()
            if count
        }

    return counted


def ask_for_code(guard: Guard, half: sessions.CodeNeeded, *, way: str | None) -> Response:
    """Return what leads a browser on that has shown the right password, to the page that asks for the code."""
    response = make_response(redirect(url_for(".sign_in_code", next=way), code=303))
    kept = _halves(guard).dumps([half.name, half.fingerprint])
    return set_cookie(response, own_cookie(HALF), kept, max_age=_HALF_LASTS_S)


def half_signed_in(guard: Guard) -> sessions.CodeNeeded | None:
    """Return who has shown the password in this browser and has to show a code, None if nobody has."""
    try:
        name, fingerprint = _halves(guard).loads(request.cookies.get(own_cookie(HALF), ""), max_age=_HALF_LASTS_S)
    except (BadData, TypeError, ValueError):
        return None
    return sessions.CodeNeeded(name, fingerprint)


def _halves(guard: Guard) -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(guard.signing_key("half a sign-in"))


def _serializer(guard: Guard) -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(guard.signing_key("flashes"), salt=guard.session_secret())


def sign_in_page(guard: Guard, *, way: str | None, name: str = "", error: str = "", status: int = 200) -> Response:
    """Return the page on which people sign in, by what the settings allow."""
    return page(
        "sign_in.html",
        guard,
        status=status,
        way=way,
        name=name,
        error=error,
        passwords=guard.passwords,
        provider=guard.provider.host if guard.provider else None,
    )


def _welcome_page(guard: Guard, invitation: links.Invitation, *, name: str = "", error: str = "") -> Response:
    return page(
        "password.html",
        guard,
        invited=invitation.user,
        name=name,
        error=error,
        shortest=users.SHORTEST,
        passwords=guard.passwords,
    )


def _account_page(guard: Guard, user: User, *, error: str = "") -> Response:
    return page(
        "account.html",
        guard,
        user=user,
        error=error,
        shortest=users.SHORTEST,
        passwords=guard.passwords,
        second_factor=guard.may_have_app() and second_factor.available(),
    )


def refused(response: Response, error: AccountError) -> Response:
    """Give a page that shows an error the status of the error."""
    response.status_code = 422
    if isinstance(error, ThrottledError):
        response.status_code = 429
        response.headers["Retry-After"] = str(error.retry_after_s)
    return response


def read_form(guard: Guard) -> None:
    """Read the form of the request, and end it unless it is one of ours."""
    whole_body()
    guard.check_form()


def _new_password() -> str:
    new = request.form.get("password", "")
    if new != request.form.get("again", ""):
        raise AccountError(Message("The two new passwords are not the same. Type the new one twice."))
    return new


def _invitation(database: Database, guard: Guard, secret: str) -> links.Invitation:
    try:
        return links.invitation(database.engine(), secret, now=guard.now())
    except AccountError as error:
        raise NotFound(str(error)) from error


def _signed_in(database: Database, guard: Guard, user: User, response: Response, *, proof: sessions.Proof) -> Response:
    begun = sessions.begin_session(
        database.engine(), user, address=guard.address(), keeping=guard.keeping, now=guard.now(), proof=proof
    )
    return guard.begin(response, begun.user, begun.secret)


def _let_in(database: Database, guard: Guard, identity: identities.Identity, *, way: str | None) -> Response:
    """Begin a session for whom the proxy names."""
    engine, method = database.engine(), sessions.Method.PROXY
    try:
        user = identities.recognize(engine, identity, rules=guard.rules)
    except AccountError as error:
        sessions.note_refusal(engine, identity.name, method=method, address=guard.address(), reason=str(error))
        return sign_in_page(guard, way=way, error=str(error), status=403)
    proof = sessions.Proof(method, identity.subject)
    begun = sessions.begin_session(
        engine, user, address=guard.address(), keeping=guard.keeping, now=guard.now(), proof=proof
    )
    return guard.begin(led_to(way or first_page()), begun.user, begun.secret)


def end_session(database: Database, guard: Guard) -> None:
    """End the session of this browser, if it has one: it shall not go on beside the next."""
    if user := guard.user():
        sessions.end(database.engine(), guard.session_secret(), keeping=guard.keeping, user=user)


def first_page() -> str:
    """Return the page for whoever wanted to none."""
    reviews = f"{request.blueprint}.review" in current_app.view_functions
    return url_for(".review" if reviews else ".data_html")


def led_to(address: str) -> Response:
    """Return what leads the browser to an address."""
    return make_response(redirect(address, code=303))


def _link(endpoint: str, label: str) -> Link:
    here = (request.endpoint or "").removeprefix(f"{request.blueprint}.")
    # The endpoints of the pages below one begin with its name, as in admin_tokens and data_html_post.
    return Link(endpoint, label, url_for(f".{endpoint}"), current=here == endpoint or here.startswith(f"{endpoint}_"))


def _exists(endpoint: str) -> bool:
    return f"{request.blueprint}.{endpoint}" in current_app.view_functions
