"""Signing in by the header of a trusted proxy, and what everybody else's header is worth."""

from __future__ import annotations

import re
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


@pytest.mark.parametrize("name", ["", " ", "rita,ada", "ri\tta", "bot", "anonymous"])
def test_names_that_sign_nobody_in(site: Site, name: str) -> None:
    """No name, two of them, one of an application, and one that stands for somebody else."""
    browser = site.browser()
    response = get(browser, "/sign-in", name, "chiefs")
    assert response.status_code == (403 if name in ("bot", "anonymous") else 200)
    assert get(browser, "/account", name, "chiefs").status_code == 303
    assert len(users.accounts(site.engine)) == 3


def test_letters_that_look_like_others(site: Site) -> None:
    """A name whose letters become those of somebody else in lower case is another name."""
    users.add(site.engine, "kurt", role=UserRole.RATER, actor="test")
    kelvin = "\u212aurt".encode().decode("latin-1")
    assert get(site.browser(), "/sign-in", kelvin).status_code == 403
    assert get(site.browser(), "/sign-in", "Kurt").status_code == 303
    assert get(site.browser(), "/sign-in", kelvin).status_code == 403


def test_no_app_after_the_proxy(site: Site) -> None:
    """Whom the proxy has signed in adds no app: a session of a code would not ask for the proxy's word any more."""
    browser = site.browser()
    assert get(browser, "/sign-in", "ada", "chiefs").status_code == 303
    account = get(browser, "/account", "ada", "chiefs")
    assert account.status_code == 200
    assert "/account/second-factor" not in account.text
    assert get(browser, "/account/second-factor", "ada", "chiefs").status_code == 403
    token = re.search(r'name="form_token" value="([0-9a-f]{64})"', account.text)
    assert token
    refused = browser.client.post(
        "/account/second-factor",
        data={"form_token": token[1], "code": "123456"},
        headers={"Remote-User": "ada", "Remote-Groups": "chiefs"},
        environ_base={"REMOTE_ADDR": PROXY},
    )
    assert (refused.status_code, "signed in without one" in refused.text) == (403, True)


def test_addresses_are_not_in_the_audit_log(site: Site) -> None:
    """It has the domain of a name that is an e-mail address, be it let in or refused."""
    users.set_email(site.engine, "rita", "rita@clinic.example", actor="test")
    assert get(site.browser(), "/sign-in", "rita@clinic.example").status_code == 303
    assert get(site.browser(), "/sign-in", "eve@clinic.example", "others").status_code == 403
    told = [repr(entry.detail) for entry in audit.entries(site.engine, limit=100)]
    assert any("...@clinic.example" in each for each in told)
    assert not any(name in each for each in told for name in ("rita@", "eve@"))


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
