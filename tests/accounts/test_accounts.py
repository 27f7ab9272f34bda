"""Users and passwords."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Barrier, BrokenBarrierError

import pytest
from argon2 import PasswordHasher
from people_fakes import NOON, OTHER_PASSWORD, PASSWORD, actions
from sqlalchemy import Connection, Engine, select, update

from rlhf_loop.accounts import sessions, users
from rlhf_loop.accounts.sessions import SessionPolicy
from rlhf_loop.domain import UserRole
from rlhf_loop.errors import AccountError
from rlhf_loop.store import audit
from rlhf_loop.store.tables import User as Users

KEEPING = SessionPolicy(b"key", hours=12)


@pytest.mark.parametrize(
    "name", ["", " ", "a b", "ann/../x", "a:b", "äda", "x" * 65, "a\x00", "anonymous", "Visitor", "cli", "Ann@x.org"]
)
def test_names_that_are_refused(sqlite_engine: Engine, name: str) -> None:
    """A name is of few signs, so that it can stand in addresses and beside others; a colon is in none."""
    with pytest.raises(AccountError, match="name"):
        users.add(sqlite_engine, name, role=UserRole.RATER, actor="test")
    assert users.accounts(sqlite_engine) == []


def test_a_name_is_kept_in_lower_case(engine: Engine) -> None:
    """Ann and ann are the same, and only one of them can be there."""
    assert users.add(engine, " Ann.B-1_ ", role=UserRole.RATER, actor="test").name == "ann.b-1_"
    assert users.get(engine, "ANN.b-1_").role == UserRole.RATER
    with pytest.raises(AccountError, match="is taken"):
        users.add(engine, "ANN.B-1_", role=UserRole.ADMIN, actor="test")
    assert actions(engine) == ["user.added"]


@pytest.mark.parametrize(
    "password",
    [
        "",
        "short",
        "x" * 11,
        "aaaaaaaaaaaaaaaa",
        "abababababab",
        "x1y2" * 250 + "z",
        "annabel-lee-1",
        "surrogate \ud800!!",
    ],
)
def test_passwords_that_are_refused(sqlite_engine: Engine, password: str) -> None:
    """Too short, too long, too simple, the name itself, or no text; nobody is added."""
    with pytest.raises(AccountError, match="password"):
        users.add(sqlite_engine, "annabel-lee-1", role=UserRole.RATER, password=password, actor="test")
    assert users.accounts(sqlite_engine) == []


@pytest.mark.usefixtures("slow_passwords")
def test_a_password_is_stored_as_argon2id(sqlite_engine: Engine) -> None:
    """It is found right however its accents were typed, and stands nowhere."""
    composed, decomposed = "caf\u00e9 au lait, warm", "cafe\u0301 au lait, warm"
    users.add(sqlite_engine, "ann", role=UserRole.RATER, password=composed, actor="test")
    with sqlite_engine.connect() as connection:
        stored = connection.execute(select(Users.password_hash)).scalar_one()
    assert stored is not None
    assert stored.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert users.password_matches(stored, composed)
    assert users.password_matches(stored, decomposed)
    assert not users.password_matches(stored, composed + " ")
    assert not users.password_matches(stored, "\ud800")


@pytest.mark.usefixtures("slow_passwords")
def test_nobodys_password_is_worked_out_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """For an unknown name the same work is done, so that the time does not tell it from a wrong password."""
    worked: list[str] = []

    class Counting(PasswordHasher):
        def verify(self, hash: str | bytes, password: str | bytes) -> bool:
            worked.append(str(hash).partition("$m=")[2].partition("$")[0])
            return super().verify(hash, password)

    monkeypatch.setattr(users, "_HASHER", Counting())
    stored = users.hash_password(PASSWORD, name="ann")
    assert not users.password_matches(stored, "wrong")
    assert not users.password_matches(None, "wrong")
    assert worked == ["65536,t=3,p=4"] * 2
    assert not users.password_matches("no hash at all", "wrong")


@pytest.mark.usefixtures("slow_passwords")
def test_a_password_of_older_parameters_is_renewed(engine: Engine) -> None:
    """At the first sign-in, without a word."""
    users.add(engine, "ann", role=UserRole.RATER, password=PASSWORD, actor="test")
    old = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)
    with engine.begin() as connection:
        connection.execute(update(Users).values(password_hash=old))
    sessions.sign_in(engine, "ann", PASSWORD, address="::1", keeping=KEEPING, now=NOON)
    with engine.connect() as connection:
        stored = connection.execute(select(Users.password_hash)).scalar_one()
    assert stored is not None
    assert stored != old
    assert users.renew_hash(stored, PASSWORD) is None
    assert users.password_matches(stored, PASSWORD)


def test_one_active_admin_remains(engine: Engine) -> None:
    """The last one can neither be deactivated nor become something else; with a second one, the first can."""
    users.add(engine, "ada", role=UserRole.ADMIN, actor="test")
    users.add(engine, "bea", role=UserRole.ADMIN, actor="test")
    users.change(engine, "bea", active=False, actor="ada")
    for wish in ({"active": False}, {"role": UserRole.RATER}, {"role": UserRole.SERVICE}):
        with pytest.raises(AccountError, match="'ada' is the only active admin"):
            users.change(engine, "ada", actor="ada", **wish)  # type: ignore[arg-type]
    users.change(engine, "bea", active=True, actor="ada")
    assert users.change(engine, "ada", role=UserRole.RATER, actor="bea").role == UserRole.RATER


def test_two_admins_cannot_deactivate_each_other(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even at the same moment: one of them remains."""
    users.add(engine, "ada", role=UserRole.ADMIN, actor="test")
    users.add(engine, "bea", role=UserRole.ADMIN, actor="test")
    both, known = Barrier(2), users.find_known

    def meeting(connection: Connection, name: str) -> users.Credentials:
        # Who has counted the admins waits for the other one to have counted them, too; who has to stand in line for
        # that never comes.
        with suppress(BrokenBarrierError):
            both.wait(timeout=0.5)
        return known(connection, name)

    monkeypatch.setattr(users, "find_known", meeting)

    def deactivate(name: str) -> bool:
        try:
            users.change(engine, name, active=False, actor="test")
        except AccountError:
            return False
        return True

    with ThreadPoolExecutor(2) as threads:
        assert sorted(threads.map(deactivate, ["ada", "bea"])) == [False, True]
    assert sum(account.user.active for account in users.accounts(engine)) == 1


def test_changes_are_in_the_audit_log(sqlite_engine: Engine) -> None:
    """With what was before and after, and without any password; no change, no entry."""
    users.add(sqlite_engine, "ada", role=UserRole.ADMIN, password=PASSWORD, actor="cli:root")
    users.add(sqlite_engine, "ann", role=UserRole.RATER, actor="ada")
    users.change(sqlite_engine, "ann", role=UserRole.ADMIN, actor="ada")
    users.change(sqlite_engine, "ann", role=UserRole.ADMIN, active=True, actor="ada")
    users.set_password(sqlite_engine, "ann", OTHER_PASSWORD, actor="ada")
    found = [(e.actor, e.action, e.target, dict(e.detail)) for e in reversed(audit.entries(sqlite_engine))]
    assert found == [
        ("cli:root", "user.added", "user:ada", {"role": "admin"}),
        ("ada", "user.added", "user:ann", {"role": "rater"}),
        ("ada", "user.changed", "user:ann", {"role": {"before": "rater", "after": "admin"}}),
        ("ada", "user.password_set", "user:ann", {}),
    ]


def test_a_service_has_no_password(sqlite_engine: Engine) -> None:
    """Neither at first nor later; who becomes one loses theirs."""
    with pytest.raises(AccountError, match="services have tokens"):
        users.add(sqlite_engine, "bot", role=UserRole.SERVICE, password=PASSWORD, actor="test")
    users.add(sqlite_engine, "bot", role=UserRole.SERVICE, actor="test")
    with pytest.raises(AccountError, match="services have tokens"):
        users.set_password(sqlite_engine, "bot", PASSWORD, actor="test")
    users.add(sqlite_engine, "ann", role=UserRole.RATER, password=PASSWORD, actor="test")
    users.change(sqlite_engine, "ann", role=UserRole.SERVICE, actor="test")
    assert [account.has_password for account in users.accounts(sqlite_engine)] == [False, False]


def test_users_are_found_by_their_names(engine: Engine) -> None:
    """In small or large letters, with accents too; a percent sign is one."""
    for name, shown in (("ann", "Özlem Ünal"), ("bea", "Dr. Weber")):
        users.add(engine, name, role=UserRole.RATER, actor="test")
        users.set_display_name(engine, name, shown, actor="test")
    expected = {"özlem": ["ann"], "ÜNAL": ["ann"], "WEBER": ["bea"], "EA": ["bea"], "%": []}
    assert {words: [each.user.name for each in users.accounts(engine, words=words)] for words in expected} == expected


def test_who_is_not_there_is_named(sqlite_engine: Engine) -> None:
    """With the command that lists who is."""
    for call in (
        lambda: users.get(sqlite_engine, "nobody"),
        lambda: users.change(sqlite_engine, "nobody", active=False, actor="test"),
        lambda: users.set_password(sqlite_engine, "nobody", PASSWORD, actor="test"),
    ):
        with pytest.raises(AccountError, match="There is no user 'nobody'"):
            call()
