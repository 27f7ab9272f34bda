"""The second factor: the code after the password, and the page on which people add an app or take it away."""

from __future__ import annotations

from flask import Blueprint, Response, make_response, request, url_for
from werkzeug.exceptions import Forbidden

from rlhf_loop.accounts import second_factor, sessions
from rlhf_loop.domain import User
from rlhf_loop.errors import AccountError
from rlhf_loop.utils.translation import Message
from rlhf_loop.web.guard import Guard
from rlhf_loop.web.origins import forget_cookie, local_path, own_cookie
from rlhf_loop.web.pages.people import (
    HALF,
    Flash,
    end_session,
    first_page,
    half_signed_in,
    leave,
    led_to,
    page,
    read_form,
    refused,
)
from rlhf_loop.web.problems import html_errors
from rlhf_loop.web.process import Database


def add_routes(web: Blueprint, database: Database, guard: Guard) -> None:
    """Give the blueprint these routes."""

    @web.get("/sign-in/code")
    @html_errors
    def sign_in_code() -> Response:
        return _code_page(guard) if half_signed_in(guard) else led_to(url_for(".sign_in"))

    @web.post("/sign-in/code")
    @html_errors
    def sign_in_code_post() -> Response:
        read_form(guard)
        half = half_signed_in(guard)
        if half is None:
            return led_to(url_for(".sign_in"))
        try:
            begun = sessions.sign_in_by_code(
                database.engine(),
                half,
                request.form.get("code", ""),
                key=guard.second_factor_key,
                address=guard.address(),
                keeping=guard.keeping,
                now=guard.now(),
            )
        except AccountError as error:
            return refused(_code_page(guard, error=str(error)), error)
        end_session(database, guard)
        return forget_cookie(guard.begin(led_to(_way() or first_page()), begun.user, begun.secret), own_cookie(HALF))

    @web.get("/account/second-factor")
    @html_errors
    def account_second_factor() -> Response:
        return _account_page(database, guard, _user(guard))

    @web.post("/account/second-factor")
    @html_errors
    def account_second_factor_post() -> Response:
        user = _user(guard)
        read_form(guard)
        engine, key = database.engine(), guard.second_factor_key
        try:
            codes = second_factor.confirm(
                engine, user, request.form.get("code", ""), key=key, session=guard.session_secret(), now=guard.now()
            )
        except AccountError as error:
            return refused(_account_page(database, guard, user, error=str(error)), error)
        # Whoever else has a session of the password alone has to show a code as well.
        begun = sessions.begin_anew(
            engine,
            user,
            address=guard.address(),
            keeping=guard.keeping,
            now=guard.now(),
            proof=sessions.Proof(sessions.Method.CODE),
        )
        response = guard.begin(make_response(), begun.user, begun.secret)
        shown = page("recovery_codes.html", guard, codes=codes, way=_way())
        response.set_data(shown.get_data())
        response.headers["Cache-Control"] = "no-store"
        return response

    @web.post("/account/second-factor/remove")
    @html_errors
    def account_second_factor_remove() -> Response:
        user = _user(guard)
        read_form(guard)
        try:
            sessions.check_code(
                database.engine(),
                user,
                request.form.get("code", ""),
                key=guard.second_factor_key,
                address=guard.address(),
                now=guard.now(),
            )
        except AccountError as error:
            return refused(_account_page(database, guard, user, error=str(error)), error)
        second_factor.remove(database.engine(), user.name, actor=user.name)
        text = Message("Your password alone is asked for from now on.")
        if guard.wants_code(user):
            text = Message("The app is taken away. Add another one to go on.")
        return leave(guard, led_to(url_for(".account")), Flash(text))


def _user(guard: Guard) -> User:
    """Return who is signed in, also without the code that they owe: they are here to add the app."""
    user = guard.signed_in(code=False)
    if not guard.passwords:
        raise Forbidden(Message("The code follows a password, and passwords are switched off here."))
    if not guard.may_have_app():
        # The session of a code that is begun here asks neither the provider nor the proxy any more.
        raise Forbidden(
            Message("The code follows a password, and you signed in without one. Sign in with your password first.")
        )
    return user


def _code_page(guard: Guard, *, error: str = "") -> Response:
    return page("code.html", guard, way=_way(), error=error)


def _way() -> str | None:
    """Return where the person wanted to go before the code came in between."""
    return local_path(request.values.get("next", ""))


def _account_page(database: Database, guard: Guard, user: User, *, error: str = "") -> Response:
    engine = database.engine()
    has, enrollment = second_factor.has(engine, user), None
    if not has:
        enrollment = second_factor.begin(engine, user, key=guard.second_factor_key, session=guard.session_secret())
    return page(
        "second_factor.html",
        guard,
        user=user,
        has=has,
        enrollment=enrollment,
        wanted=guard.wants_code(user),
        way=_way(),
        error=error,
    )
