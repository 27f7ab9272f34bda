"""Signing in by an identity provider: a real one on loopback, and what an attacker would send in its place."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
from identity_provider import CLIENT, THE_PROVIDERS_OWN, IdentityProvider, identity_provider, query, with_query
from joserfc.jwk import RSAKey
from patience import PATIENCE_S
from people_fakes import PASSWORD, Browser, Site, actions
from sqlalchemy import Connection, Engine, update
from werkzeug.test import TestResponse

from rlhf_loop.accounts import links, sessions, users
from rlhf_loop.accounts.identities import Identity, RoleRules, recognize
from rlhf_loop.accounts.oidc import Provider
from rlhf_loop.domain import User, UserRole
from rlhf_loop.errors import ConfigError
from rlhf_loop.store import audit
from rlhf_loop.store.engine import transaction
from rlhf_loop.store.tables import Session
from rlhf_loop.web import create_app

pytestmark = THE_PROVIDERS_OWN

BACK_CHANNEL = "/sign-in/provider/signed-out"
LOGOUT = {"http://schemas.openid.net/event/backchannel-logout": {}}


@pytest.fixture
def provider() -> Iterator[IdentityProvider]:
    with identity_provider() as provider:
        provider.person("s-1", preferred_username="Eva.Weber", name="Dr. Eva Weber", groups=["experts"])
        yield provider


@pytest.fixture
def site(sqlite_engine: Engine, provider: IdentityProvider) -> Site:
    return Site(sqlite_engine, **provider.settings())


def departed(browser: Browser, *, to: str | None = None) -> str:
    """Follow the link of the sign-in page; the address at the provider to which it leads."""
    page = browser.get("/sign-in", query_string={"next": to} if to else {}).text
    link = re.search(r'href="(/sign-in/provider[^"]*)"', page)
    assert link, page
    response = browser.get(link[1].replace("&amp;", "&"))
    assert response.status_code == 303
    return str(response.headers["Location"])


def back(browser: Browser, address: str) -> TestResponse:
    """Come back from the provider."""
    parts = urlsplit(address)
    return browser.get(f"{parts.path}?{parts.query}")


def sign_in(site: Site, provider: IdentityProvider, subject: str, *, to: str | None = None) -> Browser:
    browser = site.browser()
    response = back(browser, provider.signed_in(departed(browser, to=to), subject))
    assert response.status_code == 303, response.text
    return browser


def is_in(browser: Browser) -> bool:
    return browser.get("/account").status_code == 200


def test_signing_in_and_out(engine: Engine, provider: IdentityProvider) -> None:
    """A new expert is added with the role and name of the claims, led where they wanted, and signed out there."""
    site = Site(engine, **provider.settings())
    browser = site.browser()
    address = departed(browser, to="/account?a=1")
    asked = query(address)
    assert address.startswith(f"{provider.issuer}/oauth2/authorize?")
    assert (asked["response_type"], asked["client_id"]) == ("code", CLIENT)
    assert asked["redirect_uri"] == "http://localhost/sign-in/provider/back"
    assert asked["code_challenge_method"] == "S256"
    response = back(browser, provider.signed_in(address, "s-1"))
    assert (response.status_code, response.headers["Location"]) == (303, "/account?a=1")
    (token_request,) = provider.asked("/oauth2/token")
    digest = hashlib.sha256(token_request["code_verifier"].encode()).digest()
    assert base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == asked["code_challenge"]
    account = browser.get("/account").text
    assert "Dr. Eva Weber" in account
    assert users.get(engine, "eva.weber").role == UserRole.RATER
    assert actions(engine)[-4:] == ["user.added", "identity.linked", "user.changed", "session.signed_in"]
    entry = audit.entries(engine, limit=1)[0]
    assert (entry.actor, entry.detail["by"]) == ("eva.weber", "oidc")
    left = browser.post("/sign-out", page="/account")
    onward = re.search(r'<meta http-equiv="refresh" content="0; url=([^"]+)"', left.text)
    assert onward, left.text
    onward_address = onward[1].replace("&amp;", "&")
    assert onward_address.startswith(f"{provider.issuer}/oauth2/end_session?")
    assert query(onward_address)["post_logout_redirect_uri"] == "http://localhost/sign-in"
    assert query(onward_address)["id_token_hint"].count(".") == 2
    assert not is_in(browser)
    again = sign_in(site, provider, "s-1")
    assert actions(engine)[-2:] == ["session.signed_out", "session.signed_in"]
    assert is_in(again)


def test_each_departure_is_its_own(site: Site) -> None:
    """State, nonce and challenge are new each time, and none of them can be read from the cookie."""
    browser = site.browser()
    first, second = query(departed(browser)), query(departed(browser))
    for name in ("state", "nonce", "code_challenge"):
        assert first[name] != second[name]
        assert len(first[name]) >= 32
    cookie = browser.client.get_cookie("rlhf_departure")
    assert cookie is not None
    assert cookie.http_only
    assert cookie.same_site == "Lax"
    assert second["state"] not in cookie.value


def test_only_what_began_here(site: Site, provider: IdentityProvider) -> None:
    """Somebody else's code, another state, a second use and another issuer sign nobody in."""
    theirs = provider.signed_in(departed(site.browser()), "s-1")
    assert back(site.browser(), theirs).status_code == 422
    changes: list[dict[str, str | None]] = [
        {"state": None},
        {"state": "x"},
        {"state": query(theirs)["state"], "code": query(theirs)["code"]},
        {"iss": "https://evil.example"},
        {"error": "access_denied", "code": None},
        {"code": "guessed"},
        {"code": None},
    ]
    for change in changes:
        victim = site.browser()
        mine = provider.signed_in(departed(victim), "s-1")
        assert back(victim, with_query(mine, **change)).status_code == 422, change
        assert not is_in(victim)
    browser = site.browser()
    once = provider.signed_in(departed(browser), "s-1")
    assert back(browser, once).status_code == 303
    other = Browser(site.another_process())
    assert back(other, once).status_code == 422
    assert back(browser, once).status_code == 422
    assert is_in(browser)


def test_a_session_is_never_given_from_outside(site: Site, provider: IdentityProvider) -> None:
    """Whoever signs in gets a session of its own, whatever cookie the browser had; pages elsewhere are not led to."""
    browser = site.browser(site.rita)
    before = browser.client.get_cookie("rlhf_session")
    address = browser.get("/sign-in/provider", query_string={"next": "https://evil.example"}).headers["Location"]
    response = back(browser, provider.signed_in(address, "s-1"))
    assert "evil" not in response.headers["Location"]
    after = browser.client.get_cookie("rlhf_session")
    assert before is not None
    assert after is not None
    assert before.value != after.value
    other = site.browser()
    other.client.set_cookie("rlhf_session", before.value)
    assert not is_in(other)


Claims = dict[str, Any]
Forged = Callable[[IdentityProvider, Claims], str]


def _unsigned(provider: IdentityProvider, claims: Claims) -> str:
    head, body = ({"alg": "none", "typ": "JWT"}, claims)
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in (head, body)]
    return f"{parts[0]}.{parts[1]}."


def _changed(provider: IdentityProvider, claims: Claims) -> str:
    head, _, signature = provider.sign(claims).split(".")
    body = base64.urlsafe_b64encode(json.dumps(claims | {"sub": "s-2"}).encode()).rstrip(b"=").decode()
    return f"{head}.{body}.{signature}"


FORGERIES: dict[str, Forged] = {
    "no signature": _unsigned,
    "the public key as a secret": lambda p, c: p.confused(c),
    "another's key": lambda p, c: p.sign(c, key=RSAKey.generate_key(2048)),
    "another's key in its header": lambda p, c: _with_own_key(p, c),
    "changed": _changed,
    "for another client": lambda p, c: p.sign(c | {"aud": "another"}),
    "for several, to another": lambda p, c: p.sign(c | {"aud": [CLIENT, "another"], "azp": "another"}),
    "of another issuer": lambda p, c: p.sign(c | {"iss": "https://evil.example"}),
    "expired": lambda p, c: p.sign(c | {"iat": int(time.time()) - 7200, "exp": int(time.time()) - 3600}),
    "of tomorrow": lambda p, c: p.sign(c | {"iat": int(time.time()) + 86_400, "exp": int(time.time()) + 90_000}),
    "without an end": lambda p, c: p.sign({name: value for name, value in c.items() if name != "exp"}),
    "another nonce": lambda p, c: p.sign(c | {"nonce": "another"}),
    "no nonce": lambda p, c: p.sign({name: value for name, value in c.items() if name != "nonce"}),
    "of nobody": lambda p, c: p.sign(c | {"sub": ""}),
    "another access token": lambda p, c: p.sign(c | {"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"}),
    "no token": lambda p, c: "nothing",
    "empty": lambda p, c: "",
}


def _with_own_key(provider: IdentityProvider, claims: Claims) -> str:
    key = RSAKey.generate_key(2048)
    return provider.sign(claims, key=key, jwk=key.as_dict(private=False))


@pytest.mark.parametrize("how", FORGERIES)
def test_tokens_that_are_worth_nothing(site: Site, provider: IdentityProvider, how: str) -> None:
    """An ID token that is not signed by the provider, for this client, this sign-in and now signs nobody in."""
    browser = site.browser()
    address = departed(browser)
    claims = provider.claims("s-1", nonce=query(address)["nonce"], groups=["chiefs"], preferred_username="eva")

    def forged(path: str, answer: dict[str, Any]) -> dict[str, Any]:
        return answer | {"id_token": FORGERIES[how](provider, claims)} if path == "/oauth2/token" else answer

    provider.tamper = forged
    response = back(browser, provider.signed_in(address, "s-1"))
    assert response.status_code == 422
    assert 'role="alert"' in response.text
    assert not is_in(browser)
    provider.tamper = lambda path, answer: (
        answer | {"id_token": provider.sign(claims)} if path == "/oauth2/token" else answer
    )
    again = departed(browser)
    claims["nonce"] = query(again)["nonce"]
    assert back(browser, provider.signed_in(again, "s-1")).status_code == 303


def test_the_claims_are_of_the_same_subject(site: Site, provider: IdentityProvider) -> None:
    """What the provider says of somebody else makes nobody an admin."""
    provider.person("s-1", preferred_username="eva")
    provider.tamper = lambda path, answer: (
        answer | {"sub": "s-9", "groups": ["chiefs"]} if path == "/userinfo" else answer
    )
    browser = site.browser()
    assert back(browser, provider.signed_in(departed(browser), "s-1")).status_code == 422


def test_changed_keys(site: Site, provider: IdentityProvider) -> None:
    """A key that the provider has changed is fetched at the next sign-in; one that it has signs without a fetch."""
    sign_in(site, provider, "s-1")
    sign_in(site, provider, "s-1")
    assert len(provider.asked("/jwks")) == 1
    provider.change_keys()
    # Not within some seconds of the last fetch, or any token would make one.
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        browser = site.browser()
        if back(browser, provider.signed_in(departed(browser), "s-1")).status_code == 303:
            break
    assert is_in(browser)
    assert len(provider.asked("/jwks")) == 2


def test_roles(site: Site, provider: IdentityProvider) -> None:
    """The groups of the claim make an admin or a rater at once, and who has none is out, in all browsers."""
    one, two = sign_in(site, provider, "s-1"), sign_in(site, provider, "s-1")
    assert one.get("/admin").status_code == 403
    provider.person("s-1", preferred_username="eva.weber", groups=["experts", "chiefs"])
    assert one.get("/admin").status_code == 200
    provider.person("s-1", preferred_username="eva.weber", groups=["experts"])
    assert one.get("/admin").status_code == 403
    provider.person("s-1", preferred_username="eva.weber", groups=["others"])
    assert not is_in(one)
    assert not is_in(two)
    refused = site.browser()
    response = back(refused, provider.signed_in(departed(refused), "s-1"))
    assert response.status_code == 403
    assert "has no role here" in response.text
    entry = audit.entries(site.engine, limit=1)[0]
    assert (entry.action, entry.detail["account"]) == ("session.failed", "eva.weber")
    changed = [entry for entry in audit.entries(site.engine, limit=100) if entry.action == "user.changed"]
    assert {entry.actor for entry in changed} == {f"sso:{provider.issuer}"}


def test_an_account_that_is_gone(site: Site, provider: IdentityProvider) -> None:
    """Whose tokens the provider takes back, or whom an admin deactivates, is out at the next request."""
    browser = sign_in(site, provider, "s-1")
    assert is_in(browser)
    provider.revoke("s-1")
    assert not is_in(browser)
    browser = sign_in(site, provider, "s-1")
    users.change(site.engine, "eva.weber", active=False, actor="test")
    assert not is_in(browser)
    response = back(browser, provider.signed_in(departed(browser), "s-1"))
    assert response.status_code == 403
    assert "is not active" in response.text


def test_how_often_the_provider_is_asked(sqlite_engine: Engine, provider: IdentityProvider) -> None:
    """Not within the seconds of the setting, and never for sessions of passwords."""
    site = Site(sqlite_engine, **provider.settings(oidc_recheck_s=3600.0))
    browser = sign_in(site, provider, "s-1")
    before = len(provider.seen)
    assert is_in(browser)
    assert is_in(site.browser(site.rita))
    assert len(provider.seen) == before


def test_claims_in_other_places(sqlite_engine: Engine, provider: IdentityProvider) -> None:
    """Roles inside of objects, names with colons, one role as a text, and a name in other letters."""
    settings = provider.settings(oidc_roles_claim="realm_access.roles", oidc_name_claim="https://example.org/name")
    site = Site(sqlite_engine, **settings)
    provider.person(
        "s-2", **{"realm_access": {"roles": "chiefs"}, "https://example.org/name": "Jörg Öz@clinic.example"}
    )
    assert sign_in(site, provider, "s-2").get("/admin").status_code == 200
    assert users.get(sqlite_engine, "jorg-oz").role == UserRole.ADMIN
    provider.person("s-3", **{"realm_access": ["chiefs"], "https://example.org/name": "x"})
    browser = site.browser()
    assert back(browser, provider.signed_in(departed(browser), "s-3")).status_code == 403


def test_who_belongs_to_an_account(sqlite_engine: Engine, provider: IdentityProvider) -> None:
    """A user who is there is taken by a verified address that an admin has given them, and by nothing else."""
    site = Site(sqlite_engine, **provider.settings(sso_admins=(), sso_raters=()))

    def tries(subject: str) -> TestResponse:
        browser = site.browser()
        return back(browser, provider.signed_in(departed(browser), subject))

    users.set_email(sqlite_engine, "ada", "Ada@clinic.example", actor="test")
    provider.person("s-5", preferred_username="ada", email="ada@clinic.example", email_verified=False)
    assert tries("s-5").status_code == 403
    provider.person("s-5", preferred_username="ada", email="ada@clinic.example")
    assert tries("s-5").status_code == 403
    provider.person("s-6", preferred_username="rita", email="rita@clinic.example", email_verified=True)
    assert tries("s-6").status_code == 403
    provider.person("s-5", preferred_username="whoever", email="ada@clinic.example", email_verified=True)
    assert tries("s-5").status_code == 303
    # From now on by the account, whatever becomes of the address.
    users.set_email(sqlite_engine, "ada", "", actor="test")
    provider.person("s-5", preferred_username="whoever")
    assert sign_in(site, provider, "s-5").get("/admin").status_code == 200
    assert [account.user.name for account in users.accounts(sqlite_engine)] == ["ada", "bot", "rita"]


def test_a_name_that_is_taken(site: Site, provider: IdentityProvider) -> None:
    """A new account never becomes a user who is there, be it one of an application, by its name."""
    for name in ("rita", "RITA@elsewhere.example", "bot"):
        provider.person("s-7", preferred_username=name, groups=["experts"])
        browser = site.browser()
        response = back(browser, provider.signed_in(departed(browser), "s-7"))
        assert (response.status_code, is_in(browser)) == (403, False)
        assert "Ask an admin" in response.text


def test_the_only_admin_is_out_as_well(sqlite_engine: Engine, provider: IdentityProvider) -> None:
    """An admin remains in the table, for the operator's link; the browser of one who is none any more is out."""
    site = Site(sqlite_engine, **provider.settings())
    provider.person("s-8", preferred_username="chief", groups=["chiefs"])
    browser = sign_in(site, provider, "s-8")
    users.change(sqlite_engine, "ada", role=UserRole.RATER, actor="test")
    provider.person("s-8", preferred_username="chief", groups=["experts"])
    assert not is_in(browser)
    assert users.get(sqlite_engine, "chief").role == UserRole.ADMIN


def test_the_provider_is_away(sqlite_engine: Engine, provider: IdentityProvider) -> None:
    """Those signed in go on, the sign-in page says so and takes passwords, and all is well when it is back."""
    site = Site(sqlite_engine, **provider.settings())
    browser = sign_in(site, provider, "s-1")
    fresh = Browser(site.another_process())
    provider.stop()
    assert is_in(browser)
    response = fresh.get("/sign-in/provider")
    assert (response.status_code, response.headers["Retry-After"]) == (503, "60")
    assert "does not answer" in response.text
    assert 'name="password"' in response.text
    assert fresh.sign_in("rita").status_code == 303
    signing_out = browser.post("/sign-out", page="/account")
    assert "Signed out" in signing_out.text
    assert not is_in(browser)
    provider.start()
    assert is_in(sign_in(site, provider, "s-1"))


def test_a_secret_that_was_changed(site: Site, provider: IdentityProvider) -> None:
    """What the provider has against the service throws nobody out, and lets nobody in."""
    browser = sign_in(site, provider, "s-1")
    waiting = provider.signed_in(departed(fresh := site.browser()), "s-1")
    provider.tamper = lambda path, answer: {"error": "invalid_client"} if path == "/oauth2/token" else answer
    assert is_in(browser)
    assert back(fresh, waiting).status_code == 503
    assert not is_in(fresh)


def test_a_provider_that_answers_nonsense(site: Site, provider: IdentityProvider) -> None:
    """Another issuer, addresses without TLS and no keys are as good as none, and nobody is signed in."""
    bad: list[tuple[str, dict[str, Any]]] = [
        ("/.well-known/openid-configuration", {"issuer": "https://evil.example"}),
        ("/.well-known/openid-configuration", {"token_endpoint": "http://evil.example/token"}),
        ("/jwks", {"keys": [{"kty": "RSA"}]}),
        ("/jwks", {"keys": "none"}),
    ]
    for path, change in bad:
        provider.tamper = lambda seen, answer, path=path, change=change: (  # type: ignore[misc]
            answer | change if seen == path else answer
        )
        browser = Browser(site.another_process())
        response = browser.get("/sign-in/provider")
        if response.status_code == 303:
            response = back(browser, provider.signed_in(response.headers["Location"], "s-1"))
        assert response.status_code == 503
        assert not is_in(browser)


def test_signed_out_at_the_provider(site: Site, provider: IdentityProvider) -> None:
    """Its word ends the sessions at once: those of a subject, or one of them; nobody else's word does."""
    browser, other = sign_in(site, provider, "s-1"), site.browser(site.rita)
    client = site.app.test_client()
    good = provider.claims("s-1", events=LOGOUT, jti="1")
    for wrong in (
        provider.claims("s-1", jti="1"),
        good | {"nonce": "x"},
        good | {"aud": "another"},
        good | {"iss": "https://evil.example"},
        good | {"iat": int(time.time()) - 3600},
        good | {"exp": int(time.time()) - 3600},
        good | {"sub": ""},
    ):
        assert client.post(BACK_CHANNEL, data={"logout_token": provider.sign(wrong)}).status_code == 400
    for token in ("", "x.y.z", _unsigned(provider, good), provider.sign(good, key=RSAKey.generate_key(2048))):
        assert client.post(BACK_CHANNEL, data={"logout_token": token}).status_code == 400
    elsewhere = client.post(
        BACK_CHANNEL, data={"logout_token": provider.sign(good)}, headers={"Sec-Fetch-Site": "cross-site"}
    )
    assert elsewhere.status_code == 403
    assert is_in(browser)
    answer = client.post(BACK_CHANNEL, data={"logout_token": provider.sign(good)})
    assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "no-store")
    assert not is_in(browser)
    assert is_in(other)
    assert audit.entries(site.engine, limit=1)[0].actor == f"sso:{provider.issuer}"
    one, two = (_in_session(site, provider, name) for name in ("one", "two"))
    notice = provider.sign(provider.claims("s-1", sub=None, sid="one", events=LOGOUT))
    assert client.post(BACK_CHANNEL, data={"logout_token": notice}).status_code == 200
    assert (is_in(one), is_in(two)) == (False, True)


def _in_session(site: Site, provider: IdentityProvider, name: str) -> Browser:
    """Sign in at a provider that numbers its sessions."""
    browser = site.browser()
    address = departed(browser)
    claims = provider.claims("s-1", nonce=query(address)["nonce"], sid=name, groups=["experts"], email="x")
    token = provider.sign(claims | {"preferred_username": "eva"})
    provider.tamper = lambda path, answer: answer | {"id_token": token} if path == "/oauth2/token" else answer
    assert back(browser, provider.signed_in(address, "s-1")).status_code == 303
    provider.tamper = lambda path, answer: answer
    return browser


def test_one_request_asks(site: Site, provider: IdentityProvider) -> None:
    """Of two at one moment the second goes on with what held: a token may be worth one use."""
    browser = sign_in(site, provider, "s-1")
    cookie = browser.client.get_cookie("rlhf_session")
    assert cookie is not None
    keeping, now = sessions.SessionPolicy(b"k" * 32, 12), datetime.now(UTC)
    found = sessions.find(site.engine, cookie.value, keeping=keeping, now=now)
    assert found is not None
    asks = [sessions.take_check(site.engine, cookie.value, found, keeping=keeping, now=now) for _ in range(2)]
    assert asks == [True, False]
    # Nor does one that comes while the first still asks, though each request should ask.
    before = len(provider.asked("/oauth2/token"))
    assert is_in(browser)
    assert len(provider.asked("/oauth2/token")) == before
    sessions.end_check(site.engine, cookie.value, keeping=keeping, now=now)
    assert is_in(browser)
    assert len(provider.asked("/oauth2/token")) == before + 1


def test_a_check_that_cannot_be_noted(site: Site, provider: IdentityProvider) -> None:
    """While others hold SQLite's lock, a session goes on with what held, and the provider is asked later."""
    browser = sign_in(site, provider, "s-1")
    before = len(provider.asked("/oauth2/token"))
    with closing(sqlite3.connect(str(site.engine.url.database), isolation_level=None)) as others:
        others.execute("BEGIN IMMEDIATE")
        assert is_in(browser)
        assert is_in(browser)
        assert len(provider.asked("/oauth2/token")) == before
    # A process that has not met the lock: the other one leaves the database alone for some seconds.
    browser.client.application = site.another_process()
    assert is_in(browser)
    assert len(provider.asked("/oauth2/token")) == before + 1


def test_a_check_is_not_put_off_for_ever(site: Site, provider: IdentityProvider) -> None:
    """Once it is a minute late, the request waits until the database has noted it, and the provider is asked."""
    browser = sign_in(site, provider, "s-1")
    before = len(provider.asked("/oauth2/token"))
    with transaction(site.engine) as connection:
        connection.execute(update(Session).values(checked_at=datetime.now(UTC) - timedelta(minutes=5)))
    with closing(
        sqlite3.connect(str(site.engine.url.database), isolation_level=None, check_same_thread=False)
    ) as others:
        others.execute("BEGIN IMMEDIATE")
        # Longer than a note would be waited for.
        release = threading.Timer(0.5, others.rollback)
        release.start()
        assert is_in(browser)
        release.join()
    assert len(provider.asked("/oauth2/token")) == before + 1


def test_two_first_sign_ins_at_one_moment(
    engine: Engine, provider: IdentityProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are the one user that the first of them adds."""
    rules = RoleRules.of(Site(engine, **provider.settings()).settings)
    identity = Identity(issuer=provider.issuer, subject="s-2", name="max", groups=frozenset({"experts"}))
    both, add = threading.Barrier(2), users.add_hashed

    def together(connection: Connection, name: str, **how: Any) -> User:
        if engine.dialect.name == "postgresql":
            # SQLite has one who writes at a time.
            both.wait(PATIENCE_S)
        return add(connection, name, **how)

    monkeypatch.setattr(users, "add_hashed", together)
    with ThreadPoolExecutor(2) as threads:
        signed_in = [threads.submit(recognize, engine, identity, rules=rules) for _ in range(2)]
        first, second = (each.result() for each in signed_in)
    assert (first.id, first.name) == (second.id, "max")
    assert actions(engine).count("user.added") == 4


def test_tokens_that_count_once(site: Site, provider: IdentityProvider) -> None:
    """A new refresh token is kept before anything else is asked, whose failure would lose it."""
    browser = sign_in(site, provider, "s-1")

    def rotates(path: str, answer: dict[str, Any]) -> dict[str, Any]:
        if path == "/userinfo":
            raise ValueError("the provider breaks down")
        return answer | {"refresh_token": "the new one", "id_token": None} if path == "/oauth2/token" else answer

    provider.tamper = rotates
    assert is_in(browser)
    is_in(browser)
    assert [form["refresh_token"] for form in provider.asked("/oauth2/token")[2:]] == ["the new one"]


def test_no_app_after_the_provider(site: Site, provider: IdentityProvider) -> None:
    """Whom the provider has signed in adds no app: a session of a code would not ask the provider any more."""
    browser = sign_in(site, provider, "s-1")
    assert "/account/second-factor" not in browser.get("/account").text
    assert browser.get("/account/second-factor").status_code == 403


def test_who_is_not_signed_in_pauses_no_checks(site: Site, provider: IdentityProvider) -> None:
    """Codes that were made up, which the provider calls malformed, keep nobody in whom it has locked."""
    browser = sign_in(site, provider, "s-1")
    strangers = [site.browser() for _ in range(5)]
    made_up = [with_query(provider.signed_in(departed(each), "s-1"), code="x") for each in strangers]
    provider.tamper = lambda path, answer: {"error": "invalid_request"} if path == "/oauth2/token" else answer
    for stranger, address in zip(strangers, made_up, strict=True):
        assert back(stranger, address).status_code == 503
    provider.tamper = lambda path, answer: answer
    provider.revoke("s-1")
    assert not is_in(browser)


@pytest.mark.parametrize("error", ["interaction_required", "access_denied", "login_required"])
def test_errors_that_concern_the_user(site: Site, provider: IdentityProvider, error: str) -> None:
    """Who has to sign in there again, or may not, is out here; whom that does not concern goes on."""
    browser = sign_in(site, provider, "s-1")
    provider.tamper = lambda path, answer: {"error": error} if path == "/oauth2/token" else answer
    assert not is_in(browser)


def test_another_provider(sqlite_engine: Engine, provider: IdentityProvider) -> None:
    """What one provider has begun ends where the settings name another, which gets no token of it."""
    site = Site(sqlite_engine, **provider.settings())
    browser = sign_in(site, provider, "s-1")
    cookie = browser.client.get_cookie("rlhf_session")
    assert cookie is not None
    with identity_provider() as other:
        app = create_app(replace(site.settings, oidc_issuer=other.issuer), service=site.service)
        moved = Browser(app)
        moved.client.set_cookie("rlhf_session", cookie.value)
        assert not is_in(moved)
        assert not other.asked("/oauth2/token")


@pytest.mark.parametrize("address", ["javascript:alert(1)", "http://evil.example/", 5, None])
def test_addresses_for_signing_out(site: Site, provider: IdentityProvider, address: object) -> None:
    """One that is no https address becomes no link of the page that says goodbye."""
    provider.tamper = lambda path, answer: (
        answer | {"end_session_endpoint": address} if path.endswith("openid-configuration") else answer
    )
    left = sign_in(site, provider, "s-1").post("/sign-out", page="/account")
    assert left.status_code == 200
    assert "http-equiv" not in left.text
    assert "javascript:" not in left.text


def test_passwords_are_off(sqlite_engine: Engine, provider: IdentityProvider) -> None:
    """Nobody signs in by one, whoever had is out, and a link of the command line lets somebody in once."""
    with_passwords = Site(sqlite_engine, **provider.settings())
    before = with_passwords.browser(with_passwords.rita)
    cookie = before.client.get_cookie("rlhf_session")
    assert cookie is not None
    app = create_app(replace(with_passwords.settings, passwords=False), service=with_passwords.service)
    browser = Browser(app)
    browser.client.set_cookie("rlhf_session", cookie.value)
    assert not is_in(browser)
    page = browser.get("/sign-in").text
    assert 'name="password"' not in page
    assert "/sign-in/provider" in page
    # The form of one who is signed in by other means, as nobody else has one.
    way_in = f"/welcome/{links.invite(sqlite_engine, 'ada', actor='cli:root')}"
    token = browser.form_token(way_in)
    refused = browser.client.post("/sign-in", data={"name": "rita", "password": PASSWORD, "form_token": token})
    assert refused.status_code == 404
    assert not is_in(browser)
    assert 'name="password"' not in browser.get(way_in).text  # looking at it, as a mail program does, uses nothing up
    assert browser.post(way_in, page=way_in).status_code == 303
    assert browser.get("/admin").status_code == 200
    assert browser.get(way_in).status_code == 404
    # A password that was chosen by a link is a password.
    way_in = f"/welcome/{links.invite(sqlite_engine, 'rita', actor='cli:root')}"
    chosen = with_passwords.browser()
    assert chosen.post(way_in, {"password": PASSWORD, "again": PASSWORD}, page=way_in).status_code == 303
    assert is_in(chosen)
    cookie = chosen.client.get_cookie("rlhf_session")
    assert cookie is not None
    chosen = Browser(app)
    chosen.client.set_cookie("rlhf_session", cookie.value)
    assert not is_in(chosen)
    assert 'name="old"' not in browser.get("/account").text
    changing = browser.post("/account/password", {"old": "x", "password": "y", "again": "y"}, page="/account")
    assert changing.status_code == 404


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"passwords": False}, "RLHF_PASSWORDS=no"),
        ({"oidc_issuer": "http://login.example.org", "oidc_client_id": "x"}, "is not a valid https address"),
        ({"oidc_issuer": "login.example.org", "oidc_client_id": "x"}, "is not a valid https address"),
        ({"oidc_issuer": "https://a:b@login.example.org", "oidc_client_id": "x"}, "is not a valid https address"),
        ({"oidc_issuer": "https://login.example.org"}, "RLHF_OIDC_CLIENT_ID"),
        (
            {"oidc_issuer": "https://login.example.org", "oidc_client_id": "x", "oidc_scopes": ("email",)},
            "has no openid",
        ),
    ],
)
def test_settings_that_cannot_work(sqlite_engine: Engine, settings: dict[str, Any], named: str) -> None:
    """A service that nobody could sign in to, or that would ask a provider without TLS, does not start."""
    with pytest.raises(ConfigError, match=named):
        Site(sqlite_engine, **settings)


def test_the_extra_is_named(sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra the error says what to install."""
    import sys

    from rlhf_loop.config import Settings
    from rlhf_loop.errors import MissingExtraError

    monkeypatch.setitem(sys.modules, "authlib", None)
    with pytest.raises(MissingExtraError, match=r"rlhf-loop\[oidc\]"):
        Provider(Settings(oidc_issuer="https://login.example.org", oidc_client_id="x"), key=bytes(32))
