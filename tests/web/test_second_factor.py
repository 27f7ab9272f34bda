"""A code of an authenticator app after the password, as a browser meets it."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pyotp
import pytest
from people_fakes import OTHER_PASSWORD, PASSWORD, Browser, Site, actions
from sqlalchemy import Engine

from rlhf_loop.accounts import links, second_factor, sessions, users
from rlhf_loop.errors import AccountError, ConfigError, MissingExtraError
from rlhf_loop.store import audit
from rlhf_loop.store.tables import RecoveryCode, SecondFactor
from rlhf_loop.web.guard import Guard
from rlhf_loop.web.process import Database

PAGE = "/account/second-factor"


@pytest.fixture
def site(sqlite_engine: Engine) -> Site:
    return Site(sqlite_engine)


def secret_on(browser: Browser) -> str:
    found = re.search(r'id="key" value="([A-Z2-7]{32})"', browser.get(PAGE).text)
    assert found
    return found[1]


def add_app(browser: Browser) -> tuple[pyotp.TOTP, list[str]]:
    """Add an app as a person does; the app, and the recovery codes that the page showed."""
    app = pyotp.TOTP(secret_on(browser))
    response = browser.post(PAGE, {"code": app.now()}, page=PAGE)
    assert response.status_code == 200, response.text
    return app, re.findall(r"<code>([a-z2-7]{5}-[a-z2-7]{5})</code>", response.text)


def next_code(app: pyotp.TOTP) -> str:
    """The code after the present one, which is good by then, and used by nobody."""
    return app.at(datetime.now(UTC) + timedelta(seconds=30))


def half(site: Site, name: str = "ada") -> Browser:
    browser = site.browser()
    response = browser.sign_in(name, next="/admin")
    assert response.headers["Location"] == "/sign-in/code?next=/admin"
    return browser


def test_the_code_after_the_password(engine: Engine) -> None:
    """Adding an app signs out elsewhere; then the password alone opens nothing, and code or recovery code do, once."""
    site = Site(engine)
    browser, elsewhere = site.browser(site.ada), site.browser(site.ada)
    app, codes = add_app(browser)
    assert len(set(codes)) == 10
    assert browser.get("/admin").status_code == 200
    assert elsewhere.get("/admin").status_code == 303
    entered = half(site)
    assert entered.get("/admin").headers["Location"] == "/sign-in?next=/admin"
    page = "/sign-in/code?next=/admin"
    assert entered.post("/sign-in/code", {"code": "000000x"}, page=page).status_code == 422
    code = next_code(app)
    done = entered.post("/sign-in/code", {"code": f" {code[:3]} {code[3:]} ", "next": "/admin"}, page=page)
    assert (done.status_code, done.headers["Location"]) == (303, "/admin")
    assert entered.get("/admin").status_code == 200
    assert audit.entries(engine, limit=1)[0].detail["by"] == "password and code"
    # The same code a second time, be it somebody's who looked over the shoulder.
    again = half(site)
    assert again.post("/sign-in/code", {"code": code}, page=page).status_code == 422
    assert again.post("/sign-in/code", {"code": codes[0].upper()}, page=page).status_code == 303
    third = half(site)
    assert third.post("/sign-in/code", {"code": codes[0]}, page=page).status_code == 422
    assert "second_factor.recovery_code_used" in actions(engine)
    used = next(e for e in audit.entries(engine, limit=20) if e.action == "second_factor.recovery_code_used")
    assert used.detail == {"left": 9}


def test_guesses_are_slowed_down(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong codes count as wrong passwords do, and entering the right password again forgets none of them."""
    # On a busy machine half a minute may pass between two of these.
    monkeypatch.setattr(sessions, "_FIRST_WAIT_S", 900.0)
    add_app(site.browser(site.ada))
    page = "/sign-in/code"
    for _ in range(5):
        assert half(site).post("/sign-in/code", {"code": "123456"}, page=page).status_code == 422
    response = half(site).post("/sign-in/code", {"code": "123456"}, page=page)
    assert response.status_code == 429
    assert int(response.headers["Retry-After"]) > 0


def test_the_half_of_a_sign_in(site: Site) -> None:
    """Without the password there is no page for the code; one that was changed meanwhile ends it."""
    app, codes = add_app(site.browser(site.ada))
    stranger = site.browser()
    assert stranger.get("/sign-in/code").headers["Location"] == "/sign-in"
    stranger.client.set_cookie("rlhf_half", "forged")
    assert stranger.get("/sign-in/code").headers["Location"] == "/sign-in"
    waiting = half(site)
    token = waiting.form_token("/sign-in/code")
    users.set_password(site.engine, "ada", OTHER_PASSWORD, actor="test")
    response = waiting.client.post("/sign-in/code", data={"code": next_code(app), "form_token": token})
    assert (response.status_code, "has changed since" in response.text) == (422, True)
    link = f"/welcome/{links.invite(site.engine, 'ada', actor='test')}"
    by_link = site.browser()
    chosen = by_link.post(link, {"password": PASSWORD, "again": PASSWORD}, page=link)
    assert chosen.headers["Location"] == "/sign-in/code"
    assert by_link.get("/account").status_code == 303
    assert by_link.post("/sign-in/code", {"code": codes[1]}, page="/sign-in/code").status_code == 303
    assert by_link.get("/account").status_code == 200


def test_taking_the_app_away(site: Site) -> None:
    """By a code of it, by an admin, or by the operator; then the password is enough."""
    rita = site.browser(site.rita)
    _, codes = add_app(rita)
    remove = f"{PAGE}/remove"
    assert rita.post(remove, {"code": "123456"}, page=PAGE).status_code == 422
    assert rita.post(remove, {"code": codes[0]}, page=PAGE).status_code == 303
    assert not second_factor.has(site.engine, site.rita)
    _, old = add_app(rita)
    ada = site.browser(site.ada)
    assert "with an authenticator app" in ada.get("/admin").text
    ada.post("/admin/users/change", {"name": "rita", "do": "second-factor"}, page="/admin")
    assert site.browser().sign_in("rita").headers["Location"] != "/sign-in/code"
    assert actions(site.engine).count("second_factor.removed") == 2
    add_app(rita)
    entered = half_of_rita(site)
    assert entered.post("/sign-in/code", {"code": old[0]}, page="/sign-in/code").status_code == 422


def half_of_rita(site: Site) -> Browser:
    browser = site.browser()
    assert browser.sign_in("rita").headers["Location"] == "/sign-in/code"
    return browser


@pytest.mark.parametrize(("wanted", "of_rita"), [("admins", False), ("everybody", True)])
def test_it_may_be_wanted(sqlite_engine: Engine, wanted: str, of_rita: bool) -> None:
    """Then nothing else can be done before an app is added, by a password or by a link."""
    site = Site(sqlite_engine, second_factor=wanted)
    rita, ada = site.browser(site.rita), site.browser(site.ada)
    assert (rita.get("/account").status_code == 303) is of_rita
    for path in ("/admin", "/account", "/review", "/admin/tokens"):
        assert ada.get(path).headers["Location"] == f"{PAGE}?next={path}"
    rating, token = {"interaction_id": "0" * 32, "rating": 5}, {"X-Form-Token": ada.form_token(PAGE)}
    refused = ada.client.post("/data/ratings", json=rating, headers=token)
    assert "authenticator" in refused.json["detail"]
    assert ada.client.post("/review", data=rating, headers=token).headers["Location"] == PAGE
    link = f"/welcome/{links.invite(sqlite_engine, 'ada', actor='test')}"
    by_link = site.browser()
    by_link.post(link, {"password": PASSWORD, "again": PASSWORD}, page=link)
    assert by_link.get("/admin").headers["Location"] == f"{PAGE}?next=/admin"
    _, codes = add_app(by_link)
    assert by_link.get("/admin").status_code == 200
    removed = by_link.post(f"{PAGE}/remove", {"code": codes[0]}, page=PAGE)
    assert removed.status_code == 303
    assert "Add another one to go on" in by_link.get(PAGE).text


def test_the_page_that_was_wanted(sqlite_engine: Engine) -> None:
    """Once the app is added, the recovery codes lead on to it, through a wrong code too, and to no other host."""
    site = Site(sqlite_engine, second_factor="everybody")
    rita = site.browser(site.rita)
    asked = rita.get("/review?lang=de").headers["Location"]
    page = rita.get(asked).text
    assert 'name="next" value="/review?lang=de"' in page
    app = pyotp.TOTP(secret_on(rita))
    wrong = rita.post(PAGE, {"code": "123456x", "next": "/review?lang=de"}, page=asked)
    assert (wrong.status_code, 'name="next" value="/review?lang=de"' in wrong.text) == (422, True)
    added = rita.post(PAGE, {"code": app.now(), "next": "/review?lang=de"}, page=asked)
    assert 'href="/review?lang=de">' in added.text
    ada = site.browser(site.ada)
    elsewhere = ada.post(PAGE, {"code": pyotp.TOTP(secret_on(ada)).now(), "next": "//example.org/"}, page=PAGE)
    assert 'class="button" href="/account"' in elsewhere.text


def test_a_key_seen_in_another_session(site: Site) -> None:
    """Who knows the password and has looked at the page before the owner knows nothing of the owner's app."""
    thief, owner = site.browser(site.ada), site.browser(site.ada)
    seen = secret_on(thief)
    assert secret_on(thief) == seen
    app, _ = add_app(owner)
    assert app.secret != seen
    assert half(site).post("/sign-in/code", {"code": pyotp.TOTP(seen).now()}, page="/sign-in/code").status_code == 422


def test_a_copy_of_the_database_makes_no_codes(site: Site) -> None:
    """Neither the secret nor a recovery code is in it, and with another key it is another secret."""
    browser = site.browser(site.ada)
    app, codes = add_app(browser)
    with site.engine.connect() as connection:
        stored = [repr(connection.execute(table.__table__.select()).all()) for table in (SecondFactor, RecoveryCode)]
    assert all(len(each) > 60 for each in stored)
    for secret in (app.secret, *codes, codes[0].replace("-", "")):
        assert not any(secret in each for each in stored)
    with site.engine.begin() as connection:
        assert not second_factor.use(connection, site.ada, next_code(app), key=b"another", now=datetime.now(UTC))


def test_a_phone_whose_clock_differs(engine: Engine) -> None:
    """A code is good from half a minute before its time to half a minute after; one before a used one is not."""
    site, key = Site(engine), b"k" * 32
    now = datetime(2026, 11, 23, 12, 0, 10, tzinfo=UTC)
    app = pyotp.TOTP(second_factor.begin(engine, site.ada, key=key, session="one").secret)
    assert second_factor.begin(engine, site.ada, key=key, session="one").secret == app.secret

    def late(seconds: int) -> str:
        return app.at(now + timedelta(seconds=seconds))

    for seconds in (-60, 60):
        with pytest.raises(AccountError, match="wrong"):
            second_factor.confirm(engine, site.ada, late(seconds), key=key, session="one", now=now)
    with pytest.raises(AccountError, match="wrong"):
        second_factor.confirm(engine, site.ada, late(0), key=key, session="two", now=now)
    second_factor.confirm(engine, site.ada, late(-30), key=key, session="one", now=now)
    with pytest.raises(AccountError, match="already"):
        second_factor.confirm(engine, site.ada, late(0), key=key, session="one", now=now)
    with engine.begin() as connection:
        tried = [second_factor.use(connection, site.ada, late(s), key=key, now=now) for s in (-30, 30, 0, 30)]
    assert tried == [False, True, False, False]
    with pytest.raises(AccountError, match="already"):
        second_factor.begin(engine, site.ada, key=key, session="one")


def test_settings_that_cannot_work(sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another word, no extra, and a key that lasts only until the next start."""
    with pytest.raises(ConfigError, match="RLHF_SECOND_FACTOR='some' is not a valid choice"):
        Site(sqlite_engine, second_factor="some")
    with pytest.raises(ConfigError, match="RLHF_SECOND_FACTOR='admins', and RLHF_SECRET_KEY is not set"):
        Site(sqlite_engine, second_factor="admins", secret_key="")
    site = Site(sqlite_engine, secret_key="")
    response = site.browser(site.ada).get(PAGE)
    assert (response.status_code, "RLHF_SECRET_KEY" in response.text) == (403, True)
    import sys

    monkeypatch.setitem(sys.modules, "pyotp", None)
    settings: Any = site.settings
    with pytest.raises(MissingExtraError, match=r"rlhf-loop\[totp\]"):
        Guard(type(settings)(second_factor="admins"), Database(settings))
