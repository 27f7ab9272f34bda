"""Signing in by the header of a trusted proxy, and what everybody else's header is worth."""

from __future__ import annotations

from typing import Any

import pytest
from people_fakes import Browser, Site, actions
from sqlalchemy import Engine
from werkzeug.test import TestResponse

from rlhf_loop.accounts import users
from rlhf_loop.domain import UserRole
from rlhf_loop.errors import ConfigError
from rlhf_loop.store import audit

PROXY = "10.0.0.5"
SETTINGS: dict[str, Any] = {
    "proxy_user_header": "Remote-User",
    "proxy_groups_header": "Remote-Groups",
    "proxy_user_from": ("10.0.0.0/24", "::1"),
    "sso_admins": ("chiefs",),
    "sso_raters": ("experts",),
}


@pytest.fixture
def site(sqlite_engine: Engine) -> Site:
    return Site(sqlite_engine, **SETTINGS)


def get(browser: Browser, path: str, user: str | None, groups: str = "experts", *, peer: str = PROXY) -> TestResponse:
    headers = {"Remote-User": user, "Remote-Groups": groups} if user is not None else {}
    return browser.get(path, headers=headers, environ_base={"REMOTE_ADDR": peer})


def test_signing_in(engine: Engine) -> None:
    """Whom the proxy names is signed in where it matters, as the user of that name, or as a new one."""
    site = Site(engine, **SETTINGS)
    browser = site.browser()
    assert get(browser, "/review", "rita").headers["Location"] == "/sign-in?next=/review"
    assert get(browser, "/sign-in?next=/account", "Rita").headers["Location"] == "/account"
    assert get(browser, "/account", "Rita").status_code == 200
    assert actions(engine)[-2:] == ["identity.linked", "session.signed_in"]
    assert audit.entries(engine, limit=1)[0].detail == {"address": PROXY, "by": "proxy"}
    new = site.browser()
    assert get(new, "/sign-in", "jörg".encode().decode("latin-1"), "others, chiefs").status_code == 303
    assert users.get(engine, "jorg").role == UserRole.ADMIN


@pytest.mark.parametrize("peer", ["192.0.2.1", "127.0.0.1", "10.0.1.5", "", "::2"])
def test_a_direct_call_signs_nobody_in(site: Site, peer: str) -> None:
    """The header of anybody but the proxy is worth nothing, in a session that the proxy began as well."""
    browser = site.browser()
    response = get(browser, "/sign-in", "ada", "chiefs", peer=peer)
    assert (response.status_code, 'name="password"' in response.text) == (200, True)
    assert get(browser, "/sign-in", "rita").status_code == 303
    assert get(browser, "/account", "rita", peer=peer).status_code == 303
    assert get(browser, "/account", "rita").status_code == 200


def test_the_address_is_that_of_the_connection(sqlite_engine: Engine) -> None:
    """Whatever X-Forwarded-For says; and behind a proxy that says so, the user's own address is counted."""
    site = Site(sqlite_engine, **SETTINGS, proxies=1)
    browser = site.browser()
    given = {"Remote-User": "ada", "Remote-Groups": "chiefs"}
    forged = browser.get(
        "/sign-in", headers={**given, "X-Forwarded-For": PROXY}, environ_base={"REMOTE_ADDR": "192.0.2.1"}
    )
    assert forged.status_code == 200
    real = browser.get(
        "/sign-in", headers={**given, "X-Forwarded-For": "192.0.2.1"}, environ_base={"REMOTE_ADDR": PROXY}
    )
    assert real.status_code == 303
    assert audit.entries(sqlite_engine, limit=1)[0].detail["address"] == "192.0.2.1"


@pytest.mark.parametrize("name", ["", " ", "rita,ada", "ri\tta", "bot", "anonymous", "../admin", "x" * 100])
def test_names_that_sign_nobody_in(site: Site, name: str) -> None:
    """No name, two of them, one of an application, and one that stands for somebody else."""
    browser = site.browser()
    response = get(browser, "/sign-in", name, "others")
    assert response.status_code in (200, 403)
    assert get(browser, "/account", name, "others").status_code == 303


def test_it_counts_at_each_request(site: Site) -> None:
    """Another name, none, and groups that make nobody anything end what the proxy began, at once."""
    browser = site.browser()
    assert get(browser, "/sign-in", "rita", "chiefs").status_code == 303
    assert get(browser, "/admin", "rita", "chiefs").status_code == 200
    assert get(browser, "/admin", "rita", "experts").status_code == 403
    assert get(browser, "/account", "ada", "chiefs").status_code == 303
    assert get(browser, "/account", None).status_code == 303
    assert get(browser, "/account", "rita").status_code == 200
    assert get(browser, "/account", "rita", "others").status_code == 303
    assert get(browser, "/account", "rita").status_code == 303
    refused = get(browser, "/sign-in", "rita", "others")
    assert (refused.status_code, "has no role here" in refused.text) == (403, True)
    users.change(site.engine, "rita", active=False, actor="test")
    assert get(browser, "/sign-in", "rita").status_code == 403


def test_names_that_are_addresses(site: Site) -> None:
    """They are known by the address that an admin has given a user; the part before the sign makes nobody that user."""
    users.set_email(site.engine, "rita", "Rita@clinic.example", actor="test")
    browser = site.browser()
    assert get(browser, "/sign-in", "rita@clinic.example").status_code == 303
    assert "<b>rita</b>" in get(browser, "/account", "rita@clinic.example").text
    assert get(site.browser(), "/sign-in", "ada@elsewhere.example", "chiefs").status_code == 403


def test_a_local_name_may_stay_out(sqlite_engine: Engine) -> None:
    """Without groups the roles are those of the table, and strangers are nobody."""
    site = Site(sqlite_engine, **{**SETTINGS, "sso_admins": (), "sso_raters": ()})
    assert get(site.browser(), "/sign-in", "stranger").status_code == 403
    browser = site.browser()
    assert get(browser, "/sign-in", "ada").status_code == 303
    assert get(browser, "/admin", "ada").status_code == 200


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"proxy_user_from": ()}, "RLHF_PROXY_USER_FROM is not"),
        ({"proxy_user_from": ("10.0.0.5/8",)}, "'10.0.0.5/8' is not a valid address"),
        ({"proxy_user_from": ("proxy",)}, "'proxy' is not a valid address"),
        ({"proxy_user_header": "Remote_User"}, "'Remote_User' is not a valid name"),
    ],
)
def test_settings_that_cannot_work(sqlite_engine: Engine, changes: dict[str, Any], named: str) -> None:
    """Without the proxy's address anybody could write the header, so the service does not start."""
    with pytest.raises(ConfigError, match=named):
        Site(sqlite_engine, **{**SETTINGS, **changes})
