"""Signing in and out, one-time links and one's own account, as a browser meets them."""

from __future__ import annotations

import logging
import re
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from threading import Barrier
from typing import Any

import pytest
from flask import Flask
from people_fakes import OTHER_PASSWORD, PASSWORD, Browser, Site, actions, count, settings_of
from sqlalchemy import Engine
from web_fakes import GOOD, FakeService

from rlhf_loop.accounts import links, users
from rlhf_loop.errors import DatabaseError
from rlhf_loop.store.tables import Base
from rlhf_loop.utils import log_format
from rlhf_loop.web import blueprint, create_app
from rlhf_loop.web.process import Database


@pytest.fixture
def site(sqlite_engine: Engine) -> Site:
    return Site(sqlite_engine)


def test_signing_in_and_out(engine: Engine) -> None:
    """By a form, in another process as well; then the header has the name and the way out."""
    site = Site(engine)
    browser = site.browser()
    assert 'href="/sign-in"' in browser.get("/data-html").text
    response = browser.sign_in("Rita", next="/account")
    assert (response.status_code, response.headers["Location"]) == (303, "/account")
    other = Browser(site.another_process())
    cookie = browser.client.get_cookie("rlhf_session")
    assert cookie is not None
    other.client.set_cookie("rlhf_session", cookie.value)
    for each in (browser, other):
        page = each.get("/data-html").text
        assert 'href="/sign-in"' not in page
        assert ">rita</a>" in page
    assert browser.post("/sign-out", page="/data-html").headers["Location"] == "/data-html"
    for each in (browser, other):
        assert each.get("/account").headers["Location"] == "/sign-in?next=/account"
    assert actions(engine)[-2:] == ["session.signed_in", "session.signed_out"]


def test_where_the_sign_in_leads(site: Site) -> None:
    """Only to places of this host, however they are written; who is signed in already is led on."""
    for bad in ("https://evil.example", "//evil.example", "/\\evil.example", "/\t/evil.example", "javascript:x"):
        browser = site.browser()
        assert "evil" not in browser.get("/sign-in", query_string={"next": bad}).text
        for response in (browser.sign_in("rita", next=bad), browser.get("/sign-in", query_string={"next": bad})):
            assert response.status_code == 303
            assert response.headers["Location"] in ("/review", "/data-html")
    good = site.browser().get("/sign-in?next=/account%3Fa%3D%2522").text
    assert 'name="next" value="/account?a=%22"' in good


def test_a_wrong_password(site: Site) -> None:
    """The name stays in its field, the password does not, and what was wrong is not told."""
    said = []
    for name in ("rita", "nobody", '"><script>'):
        response = site.browser().sign_in(name, "a wrong password")
        assert (response.status_code, response.mimetype) == (422, "text/html")
        assert "a wrong password" not in response.text
        assert "<script>" not in response.text
        said.append(re.findall(r'role="alert">.*', response.text))
    assert said[0] == said[1] == said[2]


def test_too_many_failures(site: Site) -> None:
    """429 with how long to wait, in words and for machines; who is signed in is not concerned."""
    rita = site.browser(site.rita)
    browser = site.browser()
    for _ in range(5):
        assert browser.sign_in("rita", "wrong").status_code == 422
    response = browser.sign_in("rita")
    assert response.status_code == 429
    assert 0 < int(response.headers["Retry-After"]) <= 30
    assert "Too many attempts" in response.text
    assert rita.get("/account").status_code == 200


@pytest.mark.parametrize(
    ("path", "page", "data"),
    [
        ("/sign-in", "", {"name": "rita", "password": PASSWORD}),
        ("/sign-out", "rita", {}),
        ("/account/password", "rita", {"old": PASSWORD, "password": OTHER_PASSWORD, "again": OTHER_PASSWORD}),
        ("/account/sign-out-everywhere", "rita", {}),
        ("/admin/users", "ada", {"name": "eve", "role": "admin"}),
        ("/admin/users/change", "ada", {"name": "rita", "do": "role", "role": "admin"}),
        ("/admin/tokens", "ada", {"name": "x", "user": "bot", "scope": "interactions:read"}),
        ("/admin/tokens/1/revoke", "ada", {}),
    ],
)
def test_forms_that_are_not_ours_are_refused(site: Site, path: str, page: str, data: dict[str, str]) -> None:
    """Without the token of the session, and from another site with it; nothing has happened then."""
    browser = site.browser(next((u for u in (site.ada, site.rita) if u.name == page), None))
    before = actions(site.engine)
    token = browser.form_token("/account" if page else "/sign-in")
    stolen = site.browser(site.ada).form_token("/account")
    before = actions(site.engine)
    for sent, headers in (
        ({}, {}),
        ({"form_token": stolen}, {}),
        ({"form_token": token}, {"Sec-Fetch-Site": "cross-site"}),
        ({"form_token": token}, {"Origin": "https://evil.example"}),
    ):
        response = browser.client.post(path, data={**data, **sent}, headers=headers)
        assert (response.status_code, response.mimetype) == (403, "text/html")
    assert actions(site.engine) == before
    assert browser.client.get_cookie("rlhf_session") is None or browser.get("/account").status_code == 200


def test_no_route_lets_another_site_write(site: Site) -> None:
    """What changes anything wants the form's own token, or that of an application; a page elsewhere gets nowhere."""
    unsafe = {"POST", "PUT", "PATCH", "DELETE"}
    routes = sorted(
        (method, re.sub("<[^>]*>", "1", rule.rule))
        for rule in site.app.url_map.iter_rules()
        for method in (rule.methods or set()) & unsafe
        if ".refuse_" not in rule.endpoint
    )
    assert len(routes) > 30
    ada, stolen = site.browser(site.ada), site.browser(site.rita).form_token("/account")
    token = ada.form_token("/account")

    def rows() -> list[int]:
        return [count(site.engine, table.class_) for table in Base.registry.mappers]

    before = rows()
    for method, path in routes:
        # These know no session: visitors ask, rate and choose a language, and applications have documents ranked.
        of_applications = path.endswith(("/rerank", "/get_reward", "/chat/completions"))
        without_session = of_applications or path.startswith("/data") or path.endswith("/language")
        for sent, headers in (
            *(() if without_session else (({}, {}), ({"form_token": stolen}, {}))),
            ({"form_token": token}, {"Sec-Fetch-Site": "cross-site"}),
            ({"form_token": token}, {"Sec-Fetch-Site": "same-site"}),
            ({"form_token": token}, {"Origin": "https://evil.example"}),
            ({"form_token": token}, {"Origin": "null"}),
        ):
            data = {"name": "rita", "do": "role", "role": "admin", "query": "Why?", "rating": "4", **sent}
            response = ada.client.open(path, method=method, data=data, headers=headers)
            # A page cannot send JSON elsewhere without being asked first, and OPTIONS allows it to nobody.
            refused = (415,) if of_applications else (401, 403)
            assert response.status_code in refused, (method, path, sent, headers)
    assert rows() == before
    assert site.service.asked == []
    assert ada.get("/admin").status_code == 200


def test_an_address_signs_nobody_out(site: Site) -> None:
    """An image on another page could open it."""
    browser = site.browser(site.rita)
    assert browser.get("/sign-out").headers["Location"] == "/account"
    assert browser.get("/account").status_code == 200


def test_the_first_admin(engine: Engine) -> None:
    """Chooses a name and a password, is signed in, and the link is used up."""
    secret = links.invite_first_admin(engine)
    app = create_app(settings_of(engine), service=FakeService(GOOD))
    browser, path = Browser(app), f"/welcome/{secret}"
    assert "The first admin" in browser.get(path).text
    for data, words in (
        ({"name": "ada", "password": "short", "again": "short"}, "12 to 1,000"),
        ({"name": "ada", "password": PASSWORD, "again": OTHER_PASSWORD}, "not the same"),
        ({"name": "a b", "password": PASSWORD, "again": PASSWORD}, "cannot be a user"),
        ({"password": PASSWORD, "again": PASSWORD}, "cannot be a user"),
    ):
        response = browser.post(path, data, page=path)
        assert response.status_code == 422
        assert words in response.text
        assert PASSWORD not in response.text
    response = browser.post(path, {"name": "Ada", "password": PASSWORD, "again": PASSWORD}, page=path)
    assert response.status_code == 303
    assert browser.get("/admin").status_code == 200
    assert [browser.get(path).status_code, Browser(app).get(path).status_code] == [404, 404]
    assert "used already" in browser.get(path).text


def test_a_link_for_a_password(site: Site) -> None:
    """Names the user, who is signed in afterwards and nowhere else; whoever used this browser before is out."""
    old = site.browser(site.rita)
    path = f"/welcome/{links.invite(site.engine, 'rita', actor='ada')}"
    browser = site.browser(site.ada)
    assert "Welcome, rita" in browser.get(path).text
    changed = {"name": "ada", "password": OTHER_PASSWORD, "again": OTHER_PASSWORD}
    assert browser.post(path, changed, page=path).status_code == 303
    assert "You are signed in as <b>rita</b>" in browser.get("/account").text
    assert old.get("/account").status_code == 303
    assert site.browser().sign_in("ada").status_code == 303
    assert site.browser().sign_in("rita").status_code == 422


def test_a_link_greets_by_the_display_name(site: Site) -> None:
    """And names the one to sign in by."""
    users.set_display_name(site.engine, "rita", "Dr. Rot", actor="ada")
    page = site.browser().get(f"/welcome/{links.invite(site.engine, 'rita', actor='ada')}").text
    assert "Welcome, Dr. Rot" in page
    assert "the name rita you sign in" in page


def test_a_link_that_two_open_at_one_moment(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of them sets the password; the other reads that the link was used."""
    site, both, look = Site(engine), Barrier(2), links.invitation
    path = f"/welcome/{links.invite(engine, 'rita', actor='ada')}"
    browsers = [site.browser(), site.browser()]
    filled = [browser.form_token(path) for browser in browsers]
    met: list[int] = []

    def meeting(*args: Any, **how: Any) -> links.Invitation:
        found = look(*args, **how)
        met.append(1)
        if len(met) <= 4:  # as the form comes and before it is used, each of the two
            both.wait()
        return found

    monkeypatch.setattr(links, "invitation", meeting)

    def send(number: int) -> int:
        data = {"form_token": filled[number], "password": f"{PASSWORD} {number}", "again": f"{PASSWORD} {number}"}
        return browsers[number].client.post(path, data=data).status_code

    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(send, [0, 1]))
    assert sorted(found) == [303, 404]
    assert site.browser().sign_in("rita", f"{PASSWORD} {found.index(303)}").status_code == 303


@pytest.mark.parametrize("secret", ["x", "%00", "%FF", "a" * 300, "..%2Fadmin", "{{'ab'~'yz'}}"])
def test_links_that_nobody_made(site: Site, secret: str) -> None:
    """Are not found, as a page."""
    response = site.browser().get(f"/welcome/{secret}")
    assert (response.status_code, "abyz" in response.text) == (404, False)


def test_no_link_is_in_the_log(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads the log could open it."""
    secret = links.invite(site.engine, "rita", actor="ada")
    stream = StringIO()
    handlers, level = logging.getLogger().handlers, logging.getLogger().level
    try:
        log_format.configure("json", stream)
        site.browser().get(f"/welcome/{secret}")
        monkeypatch.setattr(links, "invitation", lambda *_, **__: 1 / 0)
        site.browser().get(f"/welcome/{secret}")
    finally:
        logging.captureWarnings(False)
        logging.getLogger().handlers, logging.getLogger().level = handlers, level
    assert "/welcome/..." in stream.getvalue()
    assert "ZeroDivisionError" in stream.getvalue()
    assert secret not in stream.getvalue()


@pytest.mark.parametrize("prefix", ["", "/review", "/admin/users"])
def test_no_mistyped_link_is_in_the_log(site: Site, prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    """Nor on the page that says so: with a slash too many, by another method, below another path, written otherwise."""
    caplog.set_level("INFO")
    secret = links.invite(site.engine, "rita", actor="ada")
    for method, rest in (
        ("GET", f"/welcome/{secret}/"),
        ("PUT", f"/welcome/{secret}"),
        ("DELETE", f"/welcome/{secret}/x"),
        ("GET", f"/welcome/{secret}%2F"),
        ("GET", f"/welcome%2F{secret}/"),
        ("GET", f"/welcome%252F{secret}"),
        ("GET", f"/Welcome/{secret}"),
        ("GET", f"/welcome/x%0A{secret}"),
        ("GET", f"/welcome//{secret}/"),
    ):
        response = site.browser().client.open(prefix + rest, method=method)
        assert response.status_code in (308, 404, 405)
        if response.status_code != 308:
            assert secret not in response.text
    written = [vars(record).get("path", "") + record.getMessage() for record in caplog.records]
    assert sum("elcome/..." in line for line in written) == 9
    assert secret not in "".join(written)


def test_no_link_is_in_the_lines_of_others(capsys: pytest.CaptureFixture[str]) -> None:
    """The server names the address of a request that went wrong before it came to us."""
    handlers, level = logging.getLogger().handlers, logging.getLogger().level
    try:
        log_format.configure()
        logging.getLogger("gunicorn.error").error("Error handling request %s (%d)", "/help/welcome/abc?x=1", 5)
    finally:
        logging.captureWarnings(False)
        logging.getLogger().handlers, logging.getLogger().level = handlers, level
    assert '"Error handling request /help/welcome/... (5)"' in capsys.readouterr().err


def test_changing_ones_password(site: Site) -> None:
    """This browser stays signed in, by a new session; the others do not."""
    browser, other = site.browser(site.rita), site.browser(site.rita)
    before = browser.client.get_cookie("rlhf_session")
    for data, words in (
        ({"old": "wrong", "password": OTHER_PASSWORD, "again": OTHER_PASSWORD}, "old password is wrong"),
        ({"old": PASSWORD, "password": OTHER_PASSWORD, "again": PASSWORD}, "not the same"),
        ({"old": PASSWORD, "password": "rita", "again": "rita"}, "12 to 1,000"),
    ):
        response = browser.post("/account/password", data, page="/account")
        assert response.status_code == 422
        assert words in response.text
    data = {"old": PASSWORD, "password": OTHER_PASSWORD, "again": OTHER_PASSWORD}
    assert browser.post("/account/password", data, page="/account").headers["Location"] == "/account"
    assert "Your password is changed" in browser.get("/account").text
    assert "Your password is changed" not in browser.get("/account").text
    assert browser.client.get_cookie("rlhf_session") != before
    assert other.get("/account").status_code == 303


def test_signing_out_everywhere(site: Site) -> None:
    """In this browser, too."""
    browsers = [site.browser(site.rita), site.browser(site.rita)]
    assert browsers[0].post("/account/sign-out-everywhere", page="/account").headers["Location"] == "/sign-in"
    assert [browser.get("/account").status_code for browser in browsers] == [303, 303]


def test_pages_of_people_are_in_no_cache(site: Site) -> None:
    """Nor may they be shown in a frame, or run a script of somebody's."""
    browser = site.browser(site.ada)
    for path in ("/account", "/admin", "/admin/tokens", "/admin/audit"):
        headers = browser.get(path).headers
        assert headers["Cache-Control"] == "no-store"
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]


def test_the_header_shows_what_one_may(site: Site) -> None:
    """A rater sees the screens for raters that there are, an admin those of admins too."""
    found = {
        user.name: re.findall(r'<li><a href="([^"]+)"', site.browser(user).get("/data-html").text)
        for user in (site.ada, site.rita)
    }
    assert found["rita"][0] == "/data-html"
    assert "/admin" not in found["rita"]
    assert found["ada"][: len(found["rita"])] == found["rita"]
    assert found["ada"][-1] == "/admin"
    assert 'href="/admin" aria-current="page"' in site.browser(site.ada).get("/admin/tokens").text
    assert "Sign out" not in site.browser().get("/data-html").text


def test_under_a_prefix(sqlite_engine: Engine) -> None:
    """In somebody's application below a path, all of it stays there, cookies included."""
    site = Site(sqlite_engine)
    app = Flask("somebody_elses")
    app.register_blueprint(blueprint(site.settings, service=FakeService(GOOD)), url_prefix="/help")
    browser = Browser(app)
    response = browser.post("/help/sign-in", {"name": "ada", "password": PASSWORD}, page="/help/sign-in")
    assert response.headers["Location"].startswith("/help/")
    assert "Path=/help/" in response.headers["Set-Cookie"]
    page = browser.get("/help/admin")
    assert page.status_code == 200
    assert set(re.findall(r'(?:href|action)="(/[^/"]*)', page.text)) == {"/help"}
    browser.post("/help/sign-out", page="/help/account")
    assert browser.get("/help/admin").headers["Location"] == "/help/sign-in?next=/help/admin"


def test_the_page_of_answers_needs_no_database(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is signed in reads answers while it is down, and no invitation to sign in anew; the account is a 503."""
    browser = site.browser(site.rita)

    def down(_: Database) -> Engine:
        raise DatabaseError("It does not answer.")

    monkeypatch.setattr(Database, "engine", down)
    page = browser.get("/data-html")
    assert (page.status_code, "Sign out" in page.text, 'href="/sign-in"' in page.text) == (200, False, False)
    assert "The database does not say who is signed in." in page.text
    assert 'href="/sign-in"' in Browser(site.app).get("/data-html").text
    assert browser.client.post("/data-html", data={"query": "Why?"}).status_code == 200
    account = browser.get("/account")
    assert (account.status_code, account.mimetype) == (503, "text/html")
    assert "The database does not answer" in account.text
    assert Browser(site.app).sign_in("rita").status_code == 503


def test_a_user_who_is_deactivated_is_out_at_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the next request; also where it happened between the check of the password and the session."""
    browser = site.browser(site.rita)
    users.change(site.engine, "rita", active=False, actor="ada")
    assert browser.get("/account").status_code == 303
    users.change(site.engine, "rita", active=True, actor="ada")
    matches = users.password_matches

    def slow(stored: str | None, password: str) -> bool:
        users.change(site.engine, "rita", active=False, actor="ada")
        return matches(stored, password)

    monkeypatch.setattr(users, "password_matches", slow)
    assert site.browser().sign_in("rita").status_code == 422
