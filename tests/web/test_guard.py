"""Who makes a request, and whether they may."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

import pytest
from flask import Blueprint, Flask, Response, request
from people_fakes import PASSWORD, Clock
from sqlalchemy import Engine
from werkzeug.test import Client, TestResponse

from rlhf_loop.accounts import sessions, tokens, users
from rlhf_loop.accounts import sessions as signing_in
from rlhf_loop.config import Settings
from rlhf_loop.domain import User, UserRole
from rlhf_loop.errors import ConfigError, DatabaseError
from rlhf_loop.web import create_app
from rlhf_loop.web.guard import Guard
from rlhf_loop.web.problems import html_errors
from rlhf_loop.web.process import Database


class Known(Database):
    """A database that is there, or does not answer; it counts how often it was asked."""

    def __init__(self, engine: Engine) -> None:
        self._known = engine
        self.down = False
        self.asked = 0

    def engine(self) -> Engine:
        self.asked += 1
        if self.down:
            raise DatabaseError("It does not answer.")
        return self._known


class Place:
    """Routes behind a guard, one of each kind, with a clock of their own."""

    def __init__(self, engine: Engine, **settings: Any) -> None:
        self.database, self.clock, self.engine = Known(engine), Clock(), engine
        self.seconds = 0.0
        self.settings = Settings(**{"rate_limit": "0", "secret_key": "k" * 32, **settings})
        self.guard = Guard(self.settings, self.database, clock=self.clock, timer=lambda: self.seconds)
        self.user: User | None = None
        self.app = Flask("place")
        self.app.register_blueprint(self.routes())

    def routes(self) -> Blueprint:
        web, guard = Blueprint("rlhf_loop", __name__), self.guard
        web.before_request(guard.limit)
        web.register_error_handler(DatabaseError, lambda _: ("down", 503))

        @web.get("/data")
        def data() -> str:
            user = guard.user()
            return user.name if user else "nobody"

        @web.get("/healthz")
        def healthz() -> str:
            return "ok"

        @web.get("/sign-in")
        def sign_in() -> str:
            return guard.form_token()

        @web.post("/begin")
        def begin() -> Response:
            found = signing_in.sign_in(
                self.engine, request.form["name"], PASSWORD, address="::1", keeping=guard.keeping, now=guard.now()
            )
            return guard.begin(Response(guard.form_token()), found.user, found.secret)

        @web.route("/page", methods=["GET", "POST"])
        @html_errors
        def page() -> str:
            return guard.signed_in(UserRole.RATER).name

        @web.get("/admin")
        def admin() -> str:
            return guard.signed_in(UserRole.ADMIN).name

        @web.get("/script")
        def script() -> str:
            return guard.signed_in().name

        @web.post("/form")
        def form() -> str:
            guard.check_form()
            return "done"

        @web.get("/v1")
        def v1() -> str:
            return f"{guard.bearer(tokens.READ).name} {guard.has_scope(tokens.WRITE)}"

        return web

    def client(self, name: str = "", **how: Any) -> Client:
        client = self.app.test_client()
        if name:
            assert client.post("/begin", data={"name": name}, **how).status_code == 200
        return client

    def bearing(self, secret: str) -> TestResponse:
        return self.app.test_client().get("/v1", headers={"Authorization": f"Bearer {secret}"})


@pytest.fixture
def make(sqlite_engine: Engine) -> Callable[..., Place]:
    for name, role in (("ada", UserRole.ADMIN), ("rita", UserRole.RATER)):
        users.add(sqlite_engine, name, role=role, password=PASSWORD, actor="test")
    users.add(sqlite_engine, "bot", role=UserRole.SERVICE, actor="test")
    return lambda **settings: Place(sqlite_engine, **settings)


@pytest.fixture
def place(make: Callable[..., Place]) -> Place:
    return make()


def test_roles(place: Place) -> None:
    """A rater may what raters may, an admin all; nobody may anything."""
    found = {
        name: [place.client(name).get(path).status_code for path in ("/page", "/script", "/admin")]
        for name in ("ada", "rita", "")
    }
    assert found == {"ada": [200, 200, 200], "rita": [200, 200, 403], "": [303, 401, 401]}
    refused = place.client("rita").get("/admin").text
    assert "This is for admins; you are signed in as rita, a rater." in refused


def test_a_page_leads_to_the_sign_in_and_back(place: Place) -> None:
    """With the query; a form leads back to the page that it stands on, if that is here."""
    web = place.client()
    assert web.get("/page?a=1&b=%26").headers["Location"] == "/sign-in?next=/page?a%3D1%26b%3D%2526"
    assert web.get("/page").headers["Location"] == "/sign-in?next=/page"
    for referrer, way in (
        ("http://localhost/review", "/sign-in?next=/review"),
        ("https://evil.example/review", "/sign-in"),
        ("http://[", "/sign-in"),
        ("", "/sign-in"),
    ):
        response = web.post("/page", headers={"Referer": referrer})
        assert (response.status_code, response.headers["Location"]) == (303, way)


def test_a_script_is_told(place: Place) -> None:
    """401 with a challenge, as RFC 9110 wants one; no page to follow."""
    response = place.client().get("/script")
    assert response.headers["WWW-Authenticate"].startswith('Cookie realm="')
    assert "Sign in at /sign-in" in response.text


def test_a_session_ends_with_the_clock(place: Place) -> None:
    """It slides while it is used, and ends when it is not."""
    web = place.client("rita")
    place.clock.wait(hours=11)
    assert web.get("/data").text == "rita"
    place.clock.wait(hours=11)
    assert web.get("/data").text == "rita"
    place.clock.wait(hours=12)
    assert web.get("/data").text == "nobody"


@pytest.mark.parametrize(
    ("url", "prefix", "name", "path"),
    [
        ("http://localhost", "", "rlhf_session", "/"),
        ("https://localhost", "", "__Host-rlhf_session", "/"),
        ("https://localhost", "/help", "rlhf_session", "/help/"),
    ],
)
def test_the_cookie(place: Place, url: str, prefix: str, name: str, path: str) -> None:
    """No script sees it, no other site sends it, and with TLS it goes by TLS only."""
    app = Flask("prefixed")
    app.register_blueprint(place.routes(), url_prefix=prefix or None)
    response = app.test_client().post(f"{prefix}/begin", base_url=url, data={"name": "rita"})
    cookie = response.headers["Set-Cookie"]
    assert cookie.startswith(f"{name}=")
    parts = set(cookie.split("; ")[1:])
    assert {"HttpOnly", "SameSite=Lax", f"Path={path}", "Max-Age=86400"} <= parts
    assert ("Secure" in parts) == url.startswith("https")
    assert "Domain" not in cookie


def test_with_tls_a_cookie_of_another_host_is_none(place: Place) -> None:
    """Only the name that browsers take from nobody else counts."""
    web = place.client()
    name = "rlhf_session"
    secret = signing_in.sign_in(
        place.engine, "rita", PASSWORD, address="::1", keeping=place.guard.keeping, now=place.clock()
    ).secret
    web.set_cookie(name, secret, domain="localhost")
    assert web.get("/data").text == "rita"
    assert web.get("/data", base_url="https://localhost").text == "nobody"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Origin": "http://localhost"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://["}, 403),
    ],
)
def test_forms_of_other_sites_are_refused(place: Place, headers: dict[str, str], status: int) -> None:
    """Even with the right token."""
    web = place.client("rita")
    token = web.get("/sign-in").text
    assert web.post("/form", data={"form_token": token}, headers=headers).status_code == status
    assert web.post("/form", headers={**headers, "X-Form-Token": token}).status_code == status


def test_a_form_needs_the_token_of_its_session(place: Place) -> None:
    """None, a wrong one, that of another session or of before the sign-in: nothing is done."""
    rita, other, nobody = place.client("rita"), place.client("rita"), place.client()
    tokens_of = [web.get("/sign-in").text for web in (rita, other, nobody)]
    assert len(set(tokens_of)) == 3
    for wrong in ("", "x", "\u00e9", "\ud800", *tokens_of[1:]):
        response = rita.post("/form", data={"form_token": wrong.encode("utf-8", "replace")})
        assert response.status_code == 403
        assert "not of your present session" in response.text
    assert nobody.post("/form", data={"form_token": tokens_of[2]}).status_code == 200
    nobody.post("/begin", data={"name": "rita"})
    assert nobody.post("/form", data={"form_token": tokens_of[2]}).status_code == 403


def test_without_cookies_no_form_is_taken(place: Place) -> None:
    """Not even with the token that belongs to no cookie at all."""
    web = place.app.test_client(use_cookies=False)
    assert web.post("/form", data={"form_token": web.get("/sign-in").text}).status_code == 403
    with place.app.test_request_context():
        empty = place.guard._signed("form of a browser", "")
    assert web.post("/form", data={"form_token": empty}).status_code == 403


def test_a_key_of_the_process_serves_where_none_is_set(make: Callable[..., Place]) -> None:
    """Each guard then has its own, so that a session of one is none for another; a key that is set is shared."""
    for key, name in (("", "nobody"), ("s" * 32, "rita")):
        first, second = make(secret_key=key), make(secret_key=key)
        web = first.client("rita")
        cookie = web.get_cookie("rlhf_session")
        assert cookie is not None
        other = second.client()
        other.set_cookie("rlhf_session", cookie.value)
        assert web.get("/data").text == "rita"
        assert other.get("/data").text == name


def test_a_token_with_its_scope(place: Place) -> None:
    """401 with a challenge without a good token, 403 with one that is for something else."""

    def new(*scopes: str, **how: Any) -> tokens.NewToken:
        return tokens.add(place.engine, "x", user="bot", scopes=scopes, actor="test", **how)

    reads, writes, short = new(tokens.READ), new(tokens.WRITE), new(tokens.READ, days=1, now=place.clock())
    assert place.bearing(reads.secret).text == "bot False"
    assert place.bearing(new(tokens.READ, tokens.WRITE).secret).text == "bot True"
    refused = place.bearing(writes.secret)
    assert refused.status_code == 403
    assert "needs a token with the scope interactions:read; yours has interactions:write" in refused.text
    assert place.bearing(short.secret).status_code == 200
    place.clock.wait(days=1)
    tokens.revoke(place.engine, reads.id, actor="test")
    for bad in (short.secret, reads.secret, "rlhf_x", "x"):
        response = place.bearing(bad)
        assert response.status_code == 401
        assert response.headers["WWW-Authenticate"] == 'Bearer realm="rlhf-loop", error="invalid_token"'
    for headers in ({}, {"Authorization": "Basic YTpi"}, {"Authorization": "Bearer"}, {"Authorization": "\xff"}):
        response = place.app.test_client().get("/v1", headers=headers)
        assert response.status_code == 401
        assert response.headers["WWW-Authenticate"].startswith("Bearer ")
    users.change(place.engine, "bot", active=False, actor="test")
    assert place.bearing(writes.secret).status_code == 401


def test_the_use_of_a_token_is_noted(place: Place) -> None:
    """As an admin sees it."""
    new = tokens.add(place.engine, "x", user="bot", scopes=[tokens.READ], actor="test")
    place.bearing(new.secret)
    assert tokens.tokens(place.engine)[0].used_at == place.clock()


def test_nobody_costs_no_query(place: Place) -> None:
    """Who has neither a session nor a token waits for no database."""
    place.database.down = True
    assert place.client().get("/data").text == "nobody"
    assert place.client().get("/script").status_code == 401
    assert place.database.asked == 0


def test_a_database_that_is_down(place: Place) -> None:
    """Who shows a page goes on without waiting again and again; who needs to know is told."""
    web = place.client("rita")
    new = tokens.add(place.engine, "x", user="bot", scopes=[tokens.READ], actor="test")
    place.database.down, place.database.asked = True, 0
    assert web.get("/data").text == "nobody"
    for path in ("/data", "/page", "/script"):
        web.get(path)
    assert place.database.asked == 1
    assert [web.get(path).status_code for path in ("/page", "/script", "/admin")] == [503] * 3
    assert web.post("/form").status_code == 503
    assert place.bearing(new.secret).status_code == 503
    place.database.down = False
    assert web.get("/data").text == "nobody"
    place.seconds += 5
    assert web.get("/data").text == "rita"


def test_a_use_that_cannot_be_noted_sends_nobody_away(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session is good all the same."""
    web = place.client("rita")
    place.clock.wait(minutes=2)

    def locked(*_: object, **__: object) -> None:
        raise DatabaseError("It is locked.")

    monkeypatch.setattr(sessions, "extend", locked)
    assert web.get("/page").text == "rita"


def test_another_process_that_writes_for_long(place: Place) -> None:
    """Who only reads goes on being known, again and again; the use is noted when that process is ready."""
    web = place.client("rita")
    new = tokens.add(place.engine, "x", user="bot", scopes=[tokens.READ], actor="test")
    place.clock.wait(minutes=2)
    other = sqlite3.connect(str(place.engine.url.database), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        assert [web.get("/page").status_code for _ in range(3)] == [200] * 3
        assert [place.bearing(new.secret).status_code for _ in range(3)] == [200] * 3
    finally:
        other.execute("ROLLBACK")
        other.close()
    assert tokens.tokens(place.engine)[0].used_at is None
    place.seconds += 5
    assert place.bearing(new.secret).status_code == 200
    assert tokens.tokens(place.engine)[0].used_at == place.clock()


def test_a_database_that_is_only_locked_is_asked_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is there, and may be free in the next moment."""
    web = place.client("rita")
    found = sessions.find

    def locked(*_: object, **__: object) -> None:
        raise DatabaseError("The database x cannot be used: database is locked. Try again.")

    monkeypatch.setattr(sessions, "find", locked)
    assert web.get("/page").status_code == 503
    monkeypatch.setattr(sessions, "find", found)
    assert web.get("/page").status_code == 200


def test_requests_are_limited(make: Callable[..., Place]) -> None:
    """By token, by user, and else by address; health checks are free, and a wrong token is its address."""
    place = make(rate_limit="3 per year")
    new = tokens.add(place.engine, "x", user="bot", scopes=[tokens.READ], actor="test")
    nobody, rita = place.client(), place.client("rita")  # signing in was a request of the address
    assert [nobody.get("/data").status_code for _ in range(3)] == [200, 200, 429]
    assert place.bearing("rlhf_wrong").status_code == 429
    assert [rita.get("/page").status_code for _ in range(4)] == [200, 200, 200, 429]
    assert [place.bearing(new.secret).status_code for _ in range(4)] == [200, 200, 200, 429]
    refused = nobody.get("/data")
    assert 0 < int(refused.headers["Retry-After"]) <= 2 * 366 * 86_400
    assert "more requests than 3 per year" in refused.text
    assert [nobody.get("/healthz").status_code for _ in range(9)] == [200] * 9
    elsewhere = nobody.get("/data", environ_base={"REMOTE_ADDR": "198.51.100.7"})
    assert elsewhere.status_code == 200


def test_sessions_that_would_end_at_once_are_refused_at_the_start() -> None:
    """Nobody could sign in."""
    with pytest.raises(ConfigError, match="RLHF_SESSION_HOURS"):
        create_app(Settings(session_hours=0))
