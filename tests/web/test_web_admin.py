"""The admin's pages: users, tokens, the audit log."""

from __future__ import annotations

import html
import re

import pytest
from people_fakes import PASSWORD, Browser, Site, actions
from sqlalchemy import Engine

from rlhf_loop.accounts import tokens, users
from rlhf_loop.domain import UserRole
from rlhf_loop.errors import AccountError
from rlhf_loop.store import audit
from rlhf_loop.store.engine import transaction

HOSTILE = '<script>alert(1)</script>"><img src=x>{{7*7}}'


@pytest.fixture
def site(sqlite_engine: Engine) -> Site:
    return Site(sqlite_engine)


@pytest.fixture
def ada(site: Site) -> Browser:
    return site.browser(site.ada)


def secret_of(page: str) -> str:
    found = re.search(r'id="secret" value="([^"]*)"', page)
    return html.unescape(found[1]) if found else ""


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("get", "/admin"),
        ("get", "/admin/tokens"),
        ("get", "/admin/audit"),
        ("post", "/admin/users"),
        ("post", "/admin/users/change"),
        ("post", "/admin/tokens"),
        ("post", "/admin/tokens/1/revoke"),
    ],
)
def test_only_admins_come_in(site: Site, method: str, path: str) -> None:
    """A rater is refused, with the right form as well; nobody is led to the sign-in; nothing happens."""
    data = {"name": "rita", "role": "admin", "do": "role", "user": "bot", "scope": "interactions:read"}
    rita = site.browser(site.rita)
    filled = {**data, "form_token": rita.form_token("/account")}
    before = actions(site.engine)
    refused = rita.get(path) if method == "get" else rita.client.post(path, data=filled)
    assert (refused.status_code, refused.mimetype) == (403, "text/html")
    nobody = site.browser()
    led = nobody.get(path) if method == "get" else nobody.client.post(path, data=data)
    assert led.status_code == 303
    assert led.headers["Location"].startswith("/sign-in")
    assert actions(site.engine) == before


def test_who_is_no_longer_an_admin_is_refused_at_once(site: Site, ada: Browser) -> None:
    """The right is looked up at each request, and not kept in the session."""
    users.add(site.engine, "bea", role=UserRole.ADMIN, actor="test")
    users.change(site.engine, "ada", role=UserRole.RATER, actor="bea")
    assert ada.get("/admin").status_code == 403


def test_adding_a_person(site: Site, ada: Browser) -> None:
    """Gives a link, shown once, by which that person chooses a password."""
    response = ada.post("/admin/users", {"name": "Eve", "role": "rater"}, page="/admin")
    assert (response.status_code, response.headers["Location"]) == (303, "/admin")
    page = ada.get("/admin").text
    link = secret_of(page)
    assert link.startswith("http://localhost/welcome/")
    assert "has no password yet" in page
    assert secret_of(ada.get("/admin").text) == ""
    eve, path = site.browser(), link.removeprefix("http://localhost")
    assert eve.post(path, {"password": PASSWORD, "again": PASSWORD}, page=path).status_code == 303
    assert "You are signed in as <b>eve</b>, a rater" in eve.get("/account").text


def test_adding_an_application(site: Site, ada: Browser) -> None:
    """It has no link; a token comes next."""
    response = ada.post("/admin/users", {"name": "app-2", "role": "service"}, page="/admin")
    assert response.headers["Location"] == "/admin/tokens"
    page = ada.get("/admin/tokens").text
    assert "The service app-2 is added" in page
    assert secret_of(page) == ""
    assert 'value="app-2"' in page


@pytest.mark.parametrize(
    ("path", "data", "words"),
    [
        ("/admin/users", {"name": "a b", "role": "rater"}, "cannot be a user"),
        ("/admin/users", {"name": "rita", "role": "rater"}, "is taken"),
        ("/admin/users", {"name": "eve", "role": "king"}, "is not a valid role"),
        ("/admin/users", {"name": HOSTILE, "role": HOSTILE}, "is not a valid role"),
        ("/admin/users/change", {"name": "ada", "do": "deactivate"}, "only active admin"),
        ("/admin/users/change", {"name": "ada", "do": "role", "role": "rater"}, "only active admin"),
        ("/admin/users/change", {"name": "nobody", "do": "link"}, "There is no user"),
        ("/admin/users/change", {"name": HOSTILE, "do": "link"}, "cannot be a user"),
        ("/admin/users/change", {"name": "rita", "do": "dance"}, "does not say what to do"),
        ("/admin/users/change", {}, "does not say what to do"),
        ("/admin/tokens", {"name": "x", "user": "bot"}, "needs a scope"),
        ("/admin/tokens", {"name": "x", "user": "bot", "scope": HOSTILE}, "There is no scope"),
        ("/admin/tokens", {"name": "", "user": "bot", "scope": "interactions:read"}, "1 to 100 characters"),
        (
            "/admin/tokens",
            {"name": "x", "user": "bot", "scope": "interactions:read", "days": "½"},
            "a valid number of days",
        ),
        ("/admin/tokens", {"name": "x", "user": "bot", "scope": "interactions:read", "days": "0"}, "cannot last"),
        ("/admin/tokens/99/revoke", {}, "There is no token 99"),
    ],
)
def test_what_is_refused_is_said_on_the_page(
    site: Site, ada: Browser, path: str, data: dict[str, str], words: str
) -> None:
    """With the page around it, what others wrote as words, and nothing changed."""
    page, before = "/admin/tokens" if "tokens" in path else "/admin", actions(site.engine)
    response = ada.post(path, data, page=page)
    assert (response.status_code, response.mimetype) == (422, "text/html")
    assert words in html.unescape(response.text)
    assert "<script>alert" not in response.text
    assert "<img" not in response.text
    assert "49" not in re.findall(r'role="alert">.*', response.text)[0]
    assert actions(site.engine) == before


def test_changing_a_user(site: Site, ada: Browser) -> None:
    """Role, being active, and a new link for a forgotten password."""
    rita = site.browser(site.rita)

    def change(**data: str) -> str:
        assert ada.post("/admin/users/change", {"name": "rita", **data}, page="/admin").status_code == 303
        return ada.get("/admin").text

    assert "rita is admin" in change(do="role", role="admin")
    assert rita.get("/admin").status_code == 200
    assert "rita is not active any more" in change(do="deactivate")
    assert rita.get("/admin").status_code == 303
    assert "rita is active again" in change(do="activate")
    assert "/welcome/" in secret_of(change(do="link"))
    assert actions(site.engine)[-4:] == ["user.changed", "user.changed", "user.changed", "link.created"]


def test_display_names(site: Site, ada: Browser) -> None:
    """Given by an admin or by oneself, screens show them; nobody can be called as others are."""
    rita = site.browser(site.rita)

    def change(shown: str) -> str:
        data = {"name": "rita", "do": "name", "display_name": shown}
        answer = ada.post("/admin/users/change", data, page="/admin")
        return html.unescape(answer.text if answer.status_code == 422 else ada.get("/admin").text)

    assert "rita is shown as Dr. Weber." in change(" Dr.  Weber ")
    assert ">Dr. Weber</a>" in rita.get("/account").text
    for like in ("ADA", "\uff21da", "a\u200dda"):
        assert "is how 'ada' is called already" in change(like) or "is not a valid" in change(like)
    for nothing in ("x\u202ey", "\u3164", "\u0301\u0301", "\u0430da", "Dr. Web\u0435r", "\u03bfda", "\u00b5da"):
        assert "is not a valid display name" in change(nothing)
    for one_script in ("Анна Weber", "Ἀθηνᾶ", "山田はなこ", "O\u02bcBrien-Müller 2", "김 Ada"):
        assert f"rita is shown as {one_script}." in change(one_script)
    assert "rita is shown as Carl." in change("Carl")
    with pytest.raises(AccountError, match="Screens show 'rita' as 'carl'"):
        users.add(site.engine, "carl", role=UserRole.RATER, actor="ada")
    assert rita.post("/account/display-name", {"display_name": "Rita W."}, page="/account").status_code == 303
    assert ">Rita W.</a>" in rita.get("/account").text
    assert users.display_names(site.engine) == {"rita": "Rita W."}
    change("")
    assert ">rita</a>" in rita.get("/account").text


def test_a_token_is_shown_once(site: Site, ada: Browser) -> None:
    """Right after it was made; then how it begins, and nothing after it was revoked."""
    data = {"name": "my app", "user": "bot", "scope": ["interactions:read", "reviews:write"], "days": "30"}
    assert ada.post("/admin/tokens", data, page="/admin/tokens").status_code == 303
    page = ada.get("/admin/tokens")
    secret = secret_of(page.text)
    found = tokens.find(site.engine, secret, now=tokens.tokens(site.engine)[0].created_at)
    assert found is not None
    assert found.scopes == {"interactions:read", "reviews:write"}
    again = ada.get("/admin/tokens").text
    assert secret not in again
    assert secret[:11] in again
    assert "Revoke for good" in again
    ada.post(f"/admin/tokens/{found.token_id}/revoke", page="/admin/tokens")
    after = ada.get("/admin/tokens").text
    assert f"Token {found.token_id} is revoked" in after
    assert "Revoke for good" not in after
    ada.post("/admin/tokens", {**data, "days": ""}, page="/admin/tokens")
    assert tokens.tokens(site.engine)[0].expires_at is None


def test_what_is_shown_once_is_for_one_session(site: Site, ada: Browser) -> None:
    """The cookie that carries it says nothing in another session, nor if it was made up."""
    ada.post("/admin/users", {"name": "eve", "role": "rater"}, page="/admin")
    cookie = ada.client.get_cookie("rlhf_notice")
    assert cookie is not None
    assert cookie.http_only
    other = site.browser(site.ada)
    for value in (cookie.value, "x", "x.y.z", "e30.x.y"):
        other.client.set_cookie("rlhf_notice", value)
        assert secret_of(other.get("/admin").text) == ""


def test_the_audit_log(engine: Engine) -> None:
    """The newest first, fifty a page; by who and by what; hostile words are words."""
    site = Site(engine)
    ada = site.browser(site.ada)
    with transaction(engine) as connection:
        for number in range(120):
            audit.note(connection, "rita", "review.added", f"interaction:{number}", {"note": HOSTILE})
        audit.note(connection, HOSTILE, HOSTILE, HOSTILE)
    page = ada.get("/admin/audit").text
    assert "<script>alert" not in page
    assert html.escape(HOSTILE, quote=False).split('"')[0] in page
    seen: list[str] = []
    path: str | None = "/admin/audit?actor=rita&action=review.added"
    while path:
        page = ada.get(path).text
        seen += re.findall(r"interaction:(\d+)", page)
        found = re.search(r'href="([^"]+)" rel="next"', page)
        path = html.unescape(found[1]) if found else None
    assert seen == [str(number) for number in reversed(range(120))]
    assert "Nothing like that is in the log" in ada.get("/admin/audit?actor=nobody").text


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("before=x", 422),
        ("before=-1", 422),
        ("before=" + "9" * 5000, 422),
        ("before=" + "0" * 5000, 422),
        ("before=" + "0" * 12 + "9" * 40, 422),
        ("before=9999999999", 422),
        ("before=²", 422),
        ("before=0", 200),
        ("before=2147483647", 200),
        ("actor=%00&action=%FF", 200),
        ("actor=&action=", 200),
        ("actor=" + "x" * 5000, 200),
    ],
)
def test_odd_wishes_of_the_audit_log(engine: Engine, query: str, status: int) -> None:
    """No page breaks, on either database."""
    site = Site(engine)
    assert site.browser(site.ada).get(f"/admin/audit?{query}").status_code == status


@pytest.mark.parametrize("id", ["0", "x", "-1", "2147483648", "9" * 40])
def test_tokens_that_cannot_be(site: Site, ada: Browser, id: str) -> None:
    """Not found, and no error of the database's."""
    assert ada.post(f"/admin/tokens/{id}/revoke", page="/admin/tokens").status_code in (404, 422)
