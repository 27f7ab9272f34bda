"""Tokens of the API, and links that work once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from threading import Barrier

import pytest
from people_fakes import NOON, OTHER_PASSWORD, PASSWORD, actions, count
from sqlalchemy import Engine, inspect, text

from rlhf_loop.accounts import links, sessions, tokens, users
from rlhf_loop.domain import User, UserRole
from rlhf_loop.errors import AccountError
from rlhf_loop.store import audit
from rlhf_loop.store.tables import OneTimeLink
from rlhf_loop.store.tables import User as Users


@pytest.fixture
def bot(engine: Engine) -> User:
    return users.add(engine, "bot", role=UserRole.SERVICE, actor="test")


def everything(engine: Engine) -> str:
    """All that the database holds, as text."""
    with engine.connect() as connection:
        names = inspect(connection).get_table_names()
        return "".join(str(connection.execute(text(f"SELECT * FROM {name}")).all()) for name in names)


def test_a_token_is_stored_as_a_hash(engine: Engine, bot: User) -> None:
    """It says whose it is and what it is for, begins as scanners for secrets know it, and stands nowhere."""
    new = tokens.add(
        engine, " my \u202e app\x07 ", user="BOT", scopes=[tokens.REVIEW, tokens.READ], actor="ada", now=NOON
    )
    assert new.secret.startswith("rlhf_")
    assert len(new.secret) == 48
    found = tokens.find(engine, new.secret, now=NOON)
    assert found is not None
    assert (found.user, found.scopes) == (bot, {"interactions:read", "reviews:write"})
    assert new.secret not in everything(engine)
    (info,) = tokens.tokens(engine)
    assert (info.name, info.user, info.scopes) == ("my app", "bot", ("interactions:read", "reviews:write"))
    assert (info.start, info.used_at, info.expires_at) == (new.secret[:11], None, None)
    (entry,) = audit.entries(engine, action="token.created")
    assert (entry.actor, entry.target, entry.detail["user"]) == ("ada", f"token:{new.id}", "bot")


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"name": " "}, "1 to 100 characters"),
        ({"name": "\u200b\u2060"}, "1 to 100 characters"),
        ({"name": "x" * 101}, "1 to 100 characters"),
        ({"scopes": []}, "needs a scope"),
        ({"scopes": ["reviews:write", "all"]}, "no scope 'all'"),
        ({"days": 0}, "cannot last 0 days"),
        ({"days": 10**9}, "cannot last"),
        ({"user": "nobody"}, "no user 'nobody'"),
    ],
)
def test_tokens_that_are_refused(engine: Engine, bot: User, wish: dict[str, object], words: str) -> None:
    """With what was wrong; none is made."""
    given = {"name": "x", "user": "bot", "scopes": [tokens.READ], "days": None, **wish}
    with pytest.raises(AccountError, match=words):
        tokens.add(engine, given.pop("name"), actor="test", **given)  # type: ignore[arg-type]
    assert tokens.tokens(engine) == []


def test_what_makes_a_token_worthless(engine: Engine, bot: User) -> None:
    """Its end, being revoked, and a user who is not active."""
    new = [tokens.add(engine, "x", user="bot", scopes=[tokens.READ], actor="t", days=2, now=NOON) for _ in range(2)]
    assert tokens.find(engine, new[0].secret, now=NOON + timedelta(days=1.9)) is not None
    assert tokens.find(engine, new[0].secret, now=NOON + timedelta(days=2)) is None
    tokens.revoke(engine, new[0].id, actor="ada")
    tokens.revoke(engine, new[0].id, actor="ada")
    assert actions(engine).count("token.revoked") == 1
    assert tokens.find(engine, new[0].secret, now=NOON) is None
    users.change(engine, "bot", active=False, actor="ada")
    assert tokens.find(engine, new[1].secret, now=NOON) is None
    with pytest.raises(AccountError, match="'bot' is not active"):
        tokens.add(engine, "x", user="bot", scopes=[tokens.READ], actor="t")
    users.change(engine, "bot", active=True, actor="ada")
    assert tokens.find(engine, new[1].secret, now=NOON) is not None
    with pytest.raises(AccountError, match="There is no token 99"):
        tokens.revoke(engine, 99, actor="ada")
    for odd in ("", "rlhf_", new[1].secret + "x", new[1].secret[5:], "rlhf_\ud800"):
        assert tokens.find(engine, odd, now=NOON) is None


def test_the_use_of_a_token_is_noted_by_the_minute(engine: Engine, bot: User) -> None:
    """Not each time: a busy application would write at each request."""
    new = tokens.add(engine, "x", user="bot", scopes=[tokens.READ], actor="t")
    dues = []
    for seconds in (0, 30, 59, 60):
        found = tokens.find(engine, new.secret, now=NOON + timedelta(seconds=seconds))
        assert found is not None
        dues.append(found.due)
        if found.due:
            tokens.note_use(engine, new.id, now=NOON + timedelta(seconds=seconds))
    assert dues == [True, False, False, True]
    assert tokens.tokens(engine)[0].used_at == NOON + timedelta(seconds=60)


def test_the_first_admin_comes_by_a_link(engine: Engine) -> None:
    """A new link leaves earlier ones good, as each host prints one; once there is an admin, none is."""
    old = links.invite_first_admin(engine, now=NOON)
    new = links.invite_first_admin(engine, now=NOON)
    assert old
    assert new
    assert new not in everything(engine)
    assert [links.invitation(engine, each, now=NOON).user for each in (old, new)] == [None, None]
    ada = links.redeem(engine, old, PASSWORD, name="Ada", now=NOON)
    assert (ada.name, ada.role) == ("ada", UserRole.ADMIN)
    assert links.invite_first_admin(engine, now=NOON) is None
    for void in (
        lambda: links.invitation(engine, new, now=NOON),
        lambda: links.redeem(engine, new, PASSWORD, name="eve", now=NOON),
    ):
        with pytest.raises(AccountError, match="There is an admin already"):
            void()
    assert actions(engine) == ["user.added", "link.used"]


def test_a_link_for_the_first_admin_is_worthless_when_there_is_one(engine: Engine) -> None:
    """Somebody may have come by the command line meanwhile."""
    secret = links.invite_first_admin(engine, now=NOON)
    assert secret
    users.add(engine, "bea", role=UserRole.ADMIN, actor="cli:root")
    with pytest.raises(AccountError, match="There is an admin already"):
        links.redeem(engine, secret, PASSWORD, name="ada", now=NOON)
    assert [account.user.name for account in users.accounts(engine)] == ["bea"]


def test_a_link_sets_a_password_once(engine: Engine) -> None:
    """It ends after a day, and a password or name that is refused does not use it up."""
    users.add(engine, "ann", role=UserRole.RATER, actor="test")
    late = links.invite(engine, "ann", actor="ada", now=NOON)
    with pytest.raises(AccountError, match="expired"):
        links.redeem(engine, late, PASSWORD, now=NOON + timedelta(hours=24))
    secret = links.invite(engine, "ann", actor="ada", now=NOON)
    with pytest.raises(AccountError, match="12 to 1,000"):
        links.redeem(engine, secret, "short", now=NOON)
    found = links.invitation(engine, secret, now=NOON + timedelta(hours=23)).user
    assert found is not None
    assert found.name == "ann"
    links.redeem(engine, secret, PASSWORD, now=NOON)
    for again in (
        lambda: links.invitation(engine, secret, now=NOON),
        lambda: links.redeem(engine, secret, "x" * 12, now=NOON),
    ):
        with pytest.raises(AccountError, match="used already"):
            again()


def test_a_taken_name_does_not_use_the_link_up(engine: Engine) -> None:
    """The first admin chooses another."""
    users.add(engine, "ada", role=UserRole.RATER, actor="test")
    secret = links.invite_first_admin(engine, now=NOON)
    assert secret
    with pytest.raises(AccountError, match="'ada' is taken"):
        links.redeem(engine, secret, PASSWORD, name="ada", now=NOON)
    assert links.redeem(engine, secret, PASSWORD, name="bea", now=NOON).name == "bea"


@pytest.mark.parametrize(("first", "made"), [(True, 1), (True, 2), (False, 1)])
def test_a_link_that_two_use_at_one_moment_works_for_one(engine: Engine, first: bool, made: int) -> None:
    """The other is told that it was used; there is one admin, be it by two links, or one password."""
    if first:
        secrets = [links.invite_first_admin(engine, now=NOON) or "" for _ in range(made)]
    else:
        users.add(engine, "ann", role=UserRole.RATER, actor="test")
        secrets = [links.invite(engine, "ann", actor="ada", now=NOON)]
    which = {PASSWORD: secrets[0], OTHER_PASSWORD: secrets[-1]}
    both = Barrier(2)
    hashed = users.hash_password

    def use(password: str) -> str:
        try:
            links.redeem(engine, which[password], password, name=f"name-{password[0]}", now=NOON)
        except AccountError as error:
            return str(error)
        return password

    def meeting(password: str, *, name: str) -> str:
        # Both have looked at the link, and found it good, before either uses it.
        found = hashed(password, name=name)
        both.wait()
        return found

    with ThreadPoolExecutor(2) as threads, pytest.MonkeyPatch.context() as patch:
        patch.setattr(users, "hash_password", meeting)
        said = set(threads.map(use, [PASSWORD, OTHER_PASSWORD]))
    (won,) = said & {PASSWORD, OTHER_PASSWORD}
    (lost,) = said - {won}
    assert ("used already" if made == 1 else "There is an admin already") in lost
    assert count(engine, Users) == 1
    with engine.connect() as connection:
        known = users.find(connection, users.accounts(engine)[0].user.name)
    assert known is not None
    assert users.password_matches(known.password_hash, won)


def test_a_password_set_in_another_way_voids_a_link(engine: Engine) -> None:
    """And so does being deactivated or becoming a service, for good; links of others stay."""
    users.add(engine, "bea", role=UserRole.RATER, actor="test")
    others = links.invite(engine, "bea", actor="ada", now=NOON)

    def deactivate() -> None:
        users.change(engine, "ann", active=False, actor="ada")
        users.change(engine, "ann", active=True, actor="ada")

    def become_a_service() -> None:
        users.change(engine, "ann", role=UserRole.SERVICE, actor="ada")
        users.change(engine, "ann", role=UserRole.RATER, actor="ada")

    def change_password() -> None:
        users.set_password(engine, "ann", PASSWORD, actor="ada")
        link.append(links.invite(engine, "ann", actor="ada", now=NOON))
        sessions.change_password(engine, ann, PASSWORD, OTHER_PASSWORD, address="192.0.2.1", now=NOON)

    ann = users.add(engine, "ann", role=UserRole.RATER, actor="test")
    set_password = partial(users.set_password, engine, "ann", PASSWORD, actor="ada")
    for happens in (set_password, change_password, deactivate, become_a_service):
        link = [links.invite(engine, "ann", actor="ada", now=NOON)]
        happens()
        with pytest.raises(AccountError, match="used already"):
            links.redeem(engine, link[-1], PASSWORD, now=NOON)
    assert links.redeem(engine, others, PASSWORD, now=NOON).name == "bea"


def test_who_gets_no_link(engine: Engine, bot: User) -> None:
    """Applications, who is not active, and who is not there; and being deactivated removes one."""
    users.add(engine, "ann", role=UserRole.RATER, actor="test")
    secret = links.invite(engine, "ann", actor="ada", now=NOON)
    users.change(engine, "ann", active=False, actor="ada")
    with pytest.raises(AccountError, match="Ask an admin for a new link"):
        links.redeem(engine, secret, PASSWORD, now=NOON)
    for name, words in (("bot", "services have tokens"), ("ann", "not active"), ("nobody", "no user")):
        with pytest.raises(AccountError, match=words):
            links.invite(engine, name, actor="ada", now=NOON)
    assert count(engine, OneTimeLink) == 0
