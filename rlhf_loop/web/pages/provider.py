"""Signing in and out at an identity provider, and the address at which it says who has signed out there."""

from __future__ import annotations

from flask import Blueprint, Response, make_response, request, url_for
from werkzeug.exceptions import BadRequest

from rlhf_loop.accounts import identities, sessions
from rlhf_loop.accounts.oidc import DEPARTURE_S, Provider
from rlhf_loop.errors import AccountError, ProviderError
from rlhf_loop.utils.translation import Message
from rlhf_loop.web.api.answers import whole_body
from rlhf_loop.web.guard import Guard
from rlhf_loop.web.origins import forget_cookie, local_path, own_cookie, refuse_other_sites, set_cookie
from rlhf_loop.web.pages.people import end_session, first_page, led_to, sign_in_page
from rlhf_loop.web.problems import html_errors
from rlhf_loop.web.process import Database

#: Of a browser on its way to the provider and back.
COOKIE = "rlhf_departure"


def add_routes(web: Blueprint, database: Database, guard: Guard, provider: Provider) -> None:
    """Give the blueprint these routes."""

    @web.get("/sign-in/provider")
    @html_errors
    def sign_in_provider() -> Response:
        # By a link and not by a form: browsers hold where a form leads against the page's policy, to its last redirect.
        way = local_path(request.args.get("next", ""))
        try:
            departure = provider.depart(url_for(".sign_in_provider_back", _external=True), way=way)
        except ProviderError as error:
            return _away(guard, provider, error, way=way)
        return set_cookie(led_to(departure.address), own_cookie(COOKIE), departure.sealed, max_age=DEPARTURE_S)

    @web.get("/sign-in/provider/back")
    @html_errors
    def sign_in_provider_back() -> Response:
        sealed = request.cookies.get(own_cookie(COOKIE), "")
        return forget_cookie(_arrived(database, guard, provider, sealed), own_cookie(COOKIE))

    @web.post("/sign-in/provider/signed-out")
    def sign_in_provider_signed_out() -> Response:
        # Of the provider's server: it has no session and no form, but a token that it has signed.
        refuse_other_sites()
        whole_body()
        try:
            notice = provider.logout_notice(request.form.get("logout_token", ""))
        except (AccountError, ProviderError) as error:
            raise BadRequest(str(error)) from error
        sessions.end_of_provider(
            database.engine(),
            sessions.Method.PROVIDER,
            subject=notice.subject,
            provider_session=notice.provider_session,
            actor=f"sso:{provider.issuer}",
        )
        response = make_response("", 200)
        response.headers["Cache-Control"] = "no-store"
        return response


def _arrived(database: Database, guard: Guard, provider: Provider, sealed: str) -> Response:
    try:
        arrival = provider.arrive(sealed, request.args)
    except ProviderError as error:
        return _away(guard, provider, error, way=None)
    except AccountError as error:
        return sign_in_page(guard, way=None, error=str(error), status=422)
    engine = database.engine()
    try:
        user = identities.recognize(engine, arrival.identity, rules=guard.rules)
    except AccountError as error:
        sessions.note_refusal(
            engine, arrival.identity.name, method=sessions.Method.PROVIDER, address=guard.address(), reason=str(error)
        )
        return sign_in_page(guard, way=arrival.way, error=str(error), status=403)
    end_session(database, guard)
    begun = sessions.begin_session(
        engine,
        user,
        address=guard.address(),
        keeping=guard.keeping,
        now=guard.now(),
        proof=sessions.Proof(
            sessions.Method.PROVIDER, arrival.identity.subject, arrival.provider_session, arrival.tokens
        ),
    )
    return guard.begin(led_to(arrival.way or first_page()), begun.user, begun.secret)


def _away(guard: Guard, provider: Provider, error: ProviderError, *, way: str | None) -> Response:
    text = Message(
        "{host} does not answer, so nobody can sign in with it now. Try again in a minute; whoever has signed in "
        "already goes on.",
        host=provider.host,
    )
    if guard.passwords:
        text = Message.joined(text, Message("With a password of this service you can sign in below."))
    response = sign_in_page(guard, way=way, error=text, status=503)
    response.headers["Retry-After"] = "60"
    return response
