"""Signing in: sessions, and how failures slow it down."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from people_fakes import NOON, OTHER_PASSWORD, PASSWORD, Clock, actions, count
from sqlalchemy import Engine, select, update

from rlhf_loop.accounts import sessions, users
from rlhf_loop.accounts import sessions as signing_in
from rlhf_loop.accounts.sessions import FAILURES, FAILURES_OF_A_NAME, FAILURES_OF_AN_ADDRESS, NewSession, SessionPolicy
from rlhf_loop.domain import User, UserRole
from rlhf_loop.errors import AccountError, ThrottledError
from rlhf_loop.store import audit
from rlhf_loop.store.tables import Session, SignInFailure
from rlhf_loop.store.tables import User as Users

KEEPING = SessionPolicy(b"a key", hours=12)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ann(engine: Engine) -> User:
    return users.add(engine, "ann", role=UserRole.RATER, password=PASSWORD, actor="test")


def sign_in(
    engine: Engine, clock: Clock, name: str = "ann", password: str = PASSWORD, address: str = "192.0.2.1"
) -> NewSession:
    return signing_in.sign_in(engine, name, password, address=address, keeping=KEEPING, now=clock())


def whose(engine: Engine, secret: str, clock: Clock, keeping: SessionPolicy = KEEPING) -> User | None:
    found = sessions.find(engine, secret, keeping=keeping, now=clock())
    return found.user if found else None


def fail(engine: Engine, clock: Clock, name: str = "ann", address: str = "192.0.2.1") -> None:
    with pytest.raises(AccountError, match="The name or the password is wrong"):
        sign_in(engine, clock, name, "wrong", address)


def test_a_session_by_name_and_password(engine: Engine, ann: User, clock: Clock) -> None:
    """Only a keyed hash of it is stored, so that neither the table nor another key opens it."""
    begun = sign_in(engine, clock, " ANN ")
    assert begun.user == ann
    assert whose(engine, begun.secret, clock) == ann
    with engine.connect() as connection:
        stored = connection.execute(select(Session.token_hash)).scalar_one()
        signed_in_at = connection.execute(select(Users.signed_in_at)).scalar_one()
    assert signed_in_at == NOON
    assert begun.secret not in stored
    assert whose(engine, stored, clock) is None
    assert whose(engine, begun.secret, clock, SessionPolicy(b"another key", hours=12)) is None
    assert whose(engine, "\ud800", clock) is None
    assert actions(engine) == ["user.added", "session.signed_in"]


def test_a_session_ends_by_itself(engine: Engine, ann: User, clock: Clock) -> None:
    """Twelve hours after it was last used, and after twice that time even if it is used all the time."""
    begun = sign_in(engine, clock)
    clock.wait(hours=12)
    assert whose(engine, begun.secret, clock) is None
    begun = sign_in(engine, clock)
    for _ in range(5):
        clock.wait(hours=4)
        found = sessions.find(engine, begun.secret, keeping=KEEPING, now=clock())
        assert found is not None
        assert found.due
        sessions.extend(engine, begun.secret, keeping=KEEPING, now=clock())
        found = sessions.find(engine, begun.secret, keeping=KEEPING, now=clock())
        assert found is not None
        assert not found.due
    clock.wait(hours=3, minutes=59)
    assert whose(engine, begun.secret, clock) == ann
    clock.wait(minutes=1)
    assert whose(engine, begun.secret, clock) is None
    sign_in(engine, clock)
    assert count(engine, Session) == 1


def test_signing_out_ends_one_session(engine: Engine, ann: User, clock: Clock) -> None:
    """The others go on; signing out everywhere ends them as well."""
    first, second, third = (sign_in(engine, clock).secret for _ in range(3))
    sessions.end(engine, first, keeping=KEEPING, user=ann)
    assert [whose(engine, secret, clock) for secret in (first, second)] == [None, ann]
    sessions.end_all(engine, ann)
    assert [whose(engine, secret, clock) for secret in (second, third)] == [None, None]
    assert actions(engine)[-2:] == ["session.signed_out"] * 2


@pytest.mark.parametrize("what", ["password", "inactive", "service"])
def test_what_ends_all_sessions_of_a_user(engine: Engine, ann: User, clock: Clock, what: str) -> None:
    """A new password, being deactivated, becoming a service; those of others go on."""
    users.add(engine, "bea", role=UserRole.RATER, password=PASSWORD, actor="test")
    mine, others = sign_in(engine, clock).secret, sign_in(engine, clock, "bea").secret
    if what == "password":
        users.set_password(engine, "ann", OTHER_PASSWORD, actor="test")
    elif what == "inactive":
        users.change(engine, "ann", active=False, actor="test")
    else:
        users.change(engine, "ann", role=UserRole.SERVICE, actor="test")
    assert whose(engine, mine, clock) is None
    assert whose(engine, others, clock) is not None
    fail(engine, clock)


def test_who_is_deactivated_in_the_table_itself_is_out(engine: Engine, ann: User, clock: Clock) -> None:
    """Each request looks, whoever changed it."""
    secret = sign_in(engine, clock).secret
    with engine.begin() as connection:
        connection.execute(update(Users).values(active=False))
    assert whose(engine, secret, clock) is None
    with pytest.raises(AccountError, match="wrong"):
        sign_in(engine, clock)


def test_failures_do_not_tell_what_was_wrong(engine: Engine, ann: User, clock: Clock) -> None:
    """Nor does the log name unknown users: many a password is typed into the wrong field."""
    users.add(engine, "new", role=UserRole.RATER, actor="test")
    users.add(engine, "bot", role=UserRole.SERVICE, actor="test")
    for name in ("ann", "new", "bot", "my-secret-password", "not a name \x00"):
        fail(engine, clock, name)
    failed = audit.entries(engine, action="session.failed")
    assert [entry.target for entry in reversed(failed)] == ["user:ann", "user:new", "user:bot", "user:?", "user:?"]
    assert {(entry.actor, entry.detail["address"]) for entry in failed} == {("anonymous", "192.0.2.1")}


@pytest.mark.parametrize("name", ["ann", "nobody"])
def test_a_name_that_fails_often_has_to_wait(engine: Engine, ann: User, clock: Clock, name: str) -> None:
    """There, and ever longer; of a name that does not exist the same is said."""
    for _ in range(FAILURES):
        fail(engine, clock, name, address="198.51.100.1")
    for seconds in (30, 60, 120, 240):
        with pytest.raises(ThrottledError, match="Too many attempts") as refused:
            sign_in(engine, clock, name, PASSWORD, address="198.51.100.1")
        assert refused.value.retry_after_s == seconds
        clock.wait(seconds=seconds - 1)
        with pytest.raises(ThrottledError):
            sign_in(engine, clock, name, PASSWORD, address="198.51.100.1")
        clock.wait(seconds=1)
        fail(engine, clock, name, address="198.51.100.1")


def test_nobody_is_locked_out_from_elsewhere(engine: Engine, ann: User, clock: Clock) -> None:
    """Who fails at somebody's name has to wait, and the owner signs in; that does not let the other begin anew."""
    for _ in range(FAILURES):
        fail(engine, clock)
    assert sign_in(engine, clock, address="198.51.100.1").user == ann
    with pytest.raises(ThrottledError):
        sign_in(engine, clock)
    assert count(engine, SignInFailure) == FAILURES


@pytest.mark.parametrize("name", ["ann", "nobody"])
def test_many_addresses_cannot_guess_as_they_like(engine: Engine, ann: User, clock: Clock, name: str) -> None:
    """Each of them fails seldom enough, and together they have to wait; the wait is for this name alone."""
    users.add(engine, "bea", role=UserRole.RATER, password=PASSWORD, actor="test")
    for number in range(FAILURES_OF_A_NAME):
        fail(engine, clock, name, address=f"192.0.2.{number % 50}")
    with pytest.raises(ThrottledError, match="Too many attempts"):
        sign_in(engine, clock, name, address="198.51.100.1")
    assert sign_in(engine, clock, "bea", address="198.51.100.1").user.name == "bea"


def test_who_signs_in_does_not_count_for_the_address(engine: Engine, ann: User, clock: Clock) -> None:
    """Many people of one hospital sign in from it, some after a mistake."""
    for _ in range(FAILURES_OF_AN_ADDRESS):
        fail(engine, clock)
        sign_in(engine, clock)
    assert sign_in(engine, clock).user == ann


def test_the_right_password_forgets_the_failures(engine: Engine, ann: User, clock: Clock) -> None:
    """Of the name from there; and so does a quarter of an hour."""
    for _ in range(3):
        for _ in range(FAILURES - 1):
            fail(engine, clock)
        sign_in(engine, clock)
    assert count(engine, SignInFailure) == 0
    for _ in range(FAILURES):
        fail(engine, clock)
    clock.wait(minutes=15)
    fail(engine, clock)
    assert count(engine, SignInFailure) == 1


@pytest.mark.parametrize("back", [{"hours": -1}, {"days": -40}])
def test_a_clock_that_is_put_back_locks_nobody_out(
    engine: Engine, ann: User, clock: Clock, back: dict[str, float]
) -> None:
    """What is later than now has no time from which a wait could be reckoned; from then on all is as ever."""
    for _ in range(FAILURES + 3):
        clock.wait(minutes=5)
        fail(engine, clock)
    clock.wait(**back)
    for _ in range(FAILURES):
        fail(engine, clock)
    with pytest.raises(ThrottledError):
        sign_in(engine, clock)
    clock.wait(seconds=30)
    assert sign_in(engine, clock).user == ann


def test_an_address_that_fails_often_has_to_wait(engine: Engine, ann: User, clock: Clock) -> None:
    """Though each name failed once; from elsewhere, others sign in. A name of its own does not help it."""
    for number in range(FAILURES_OF_AN_ADDRESS):
        if number % 3 == 0:
            sign_in(engine, clock)
        fail(engine, clock, f"name-{number}")
    with pytest.raises(ThrottledError):
        sign_in(engine, clock)
    assert sign_in(engine, clock, address="198.51.100.1").user == ann


def test_a_flood_leaves_sessions_alone(engine: Engine, ann: User, clock: Clock) -> None:
    """Who is signed in stays so, and can change the password while others guess at it."""
    secret = sign_in(engine, clock).secret
    for _ in range(FAILURES):
        fail(engine, clock)
    assert whose(engine, secret, clock) == ann
    address = "198.51.100.1"
    signing_in.change_password(engine, ann, PASSWORD, OTHER_PASSWORD, address=address, now=clock())
    clock.wait(hours=1)
    assert sign_in(engine, clock, password=OTHER_PASSWORD).user == ann


def test_the_old_password_cannot_be_guessed_either(sqlite_engine: Engine, clock: Clock) -> None:
    """Whoever finds an open browser gets few attempts; a new password that is refused is none."""
    ann = users.add(sqlite_engine, "ann", role=UserRole.RATER, password=PASSWORD, actor="test")

    def change(old: str, new: str = OTHER_PASSWORD) -> None:
        signing_in.change_password(sqlite_engine, ann, old, new, address="192.0.2.1", now=clock())

    for _ in range(FAILURES):
        with pytest.raises(AccountError, match="12 to 1,000"):
            change(PASSWORD, "short")
        with pytest.raises(AccountError, match="old password is wrong"):
            change("wrong")
    with pytest.raises(ThrottledError):
        change(PASSWORD)


def test_many_attempts_at_once_are_all_counted(engine: Engine, ann: User, clock: Clock) -> None:
    """Not more of them are judged than one after the other."""

    def attempt(_: int) -> type[AccountError]:
        try:
            sign_in(engine, clock, password="wrong")
        except AccountError as error:
            return type(error)
        raise AssertionError("a wrong password is right")

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(attempt, range(12)))
    assert found.count(ThrottledError) == 12 - FAILURES


def test_a_longer_wait_than_the_window_is_not_asked_for(engine: Engine, clock: Clock) -> None:
    """However many failures there are."""
    with engine.begin() as connection:
        rows = [{"name": "x", "address": "y", "failed_at": clock() - timedelta(seconds=1)}] * 1000
        connection.execute(SignInFailure.__table__.insert(), rows)  # type: ignore[attr-defined]
    with pytest.raises(ThrottledError, match="Try again in 15 minutes") as refused:
        sign_in(engine, clock, "x")
    assert refused.value.retry_after_s == 15 * 60 - 1
