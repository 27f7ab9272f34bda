"""`rlhf-loop users`, `tokens` and `audit` as an operator meets them."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyotp
import pytest
from click.testing import CliRunner, Result
from databases import sqlite_database
from people_fakes import OTHER_PASSWORD, PASSWORD
from sqlalchemy import Engine

from rlhf_loop.accounts import links, second_factor, tokens, users
from rlhf_loop.cli import accounts, main
from rlhf_loop.store.engine import open_database

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    url = sqlite_database(tmp_path / "rlhf.db")

    def run(*arguments: str, code: int = 0, input: str | None = None) -> Result:
        result = CliRunner().invoke(main, arguments, env={"RLHF_DATABASE_URL": url}, input=input)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert result.exit_code == code, result.output
        return result

    return run


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return open_database(sqlite_database(tmp_path / "rlhf.db"))


def stored(engine: Engine, name: str) -> str | None:
    with engine.connect() as connection:
        found = users.find(connection, name)
    assert found is not None
    return found.password_hash


def test_a_user_with_a_password_that_is_typed(run: Run, engine: Engine) -> None:
    """Twice, and it is shown nowhere; two that differ are asked for again."""
    typed = f"{PASSWORD}\n{OTHER_PASSWORD}\n{PASSWORD}\n{PASSWORD}\n"
    result = run("users", "add", "Ann", "--role", "rater", input=typed)
    assert result.stdout == "ann is added as rater.\n"
    assert PASSWORD not in result.output
    assert users.password_matches(stored(engine, "ann"), PASSWORD)


def test_a_display_name(run: Run) -> None:
    """It is given with the user or later, listed beside the name, and taken back by an empty one."""
    run("users", "add", "ann", "--role", "rater", "--link", "--display-name", "Dr. Weber")
    assert run("users", "list").stdout.startswith("ann (Dr. Weber): rater")
    result = run("users", "set", "ann", "--display-name", "")
    assert result.stdout == "ann is rater and active, and screens show ann.\n"
    run("users", "add", "bob", "--role", "rater", "--link", "--display-name", "x" * 81, code=2)


def test_a_user_with_a_password_from_a_file(run: Run, engine: Engine) -> None:
    """The first line of the standard input, whatever its end; an empty one is none."""
    run("users", "add", "ann", "--role", "admin", "--password-stdin", input=f"{PASSWORD}\r\nmore\n")
    assert users.password_matches(stored(engine, "ann"), PASSWORD)
    run("users", "password", "ann", "--password-stdin", input=OTHER_PASSWORD)
    assert users.password_matches(stored(engine, "ann"), OTHER_PASSWORD)
    refused = run("users", "password", "ann", "--password-stdin", input="", code=2)
    assert "The standard input holds no password" in refused.output


def test_a_user_with_a_link(run: Run, engine: Engine) -> None:
    """The path alone is on the standard output, and a new one replaces it."""
    first = run("users", "add", "ann", "--role", "rater", "--link").stdout.splitlines()[-1]
    second = run("users", "link", "ann").stdout.strip()
    assert re.fullmatch(r"/welcome/[\w-]{43}", first)
    links.redeem(engine, second.removeprefix("/welcome/"), PASSWORD, now=datetime.now(UTC))
    assert users.password_matches(stored(engine, "ann"), PASSWORD)


def test_a_service_is_asked_for_no_password(run: Run, engine: Engine) -> None:
    """It has none, and gets none by an option."""
    run("users", "add", "bot", "--role", "service")
    assert stored(engine, "bot") is None
    for option in ("--password-stdin", "--link"):
        assert "A service has tokens" in run("users", "add", "b2", "--role", "service", option, code=2).output
    assert "services have tokens and no password" in run("users", "link", "bot", code=2).output
    assert "services have tokens and no password" in run("users", "password", "bot", code=2).output


def test_who_is_there(run: Run) -> None:
    """A line each, with what an operator wants to know."""
    assert run("users", "list").output == "There is no user yet. Add one: rlhf-loop users add NAME --role admin\n"
    run("users", "add", "ada", "--role", "admin", "--password-stdin", input=PASSWORD)
    run("users", "add", "ann", "--role", "rater", "--link")
    run("users", "add", "bot", "--role", "service")
    run("users", "set", "bot", "--inactive")
    assert run("users", "list").output == (
        "ada: admin, last signed in never\n"
        "ann: rater, last signed in never, no password yet\n"
        "bot: service, not active\n"
    )


def test_changing_users(run: Run) -> None:
    """Role and being active; nothing to change is a mistake, and the last admin remains."""
    run("users", "add", "ada", "--role", "admin", "--link")
    run("users", "add", "ann", "--role", "rater", "--link")
    assert run("users", "set", "ann", "--role", "admin").output == "ann is admin and active.\n"
    assert run("users", "set", "ann", "--role", "rater", "--inactive").output == "ann is rater and not active.\n"
    assert run("users", "set", "ann", "--active").output == "ann is rater and active.\n"
    assert "There is nothing to change" in run("users", "set", "ann", code=2).output
    refused = run("users", "set", "ada", "--role", "rater", code=2).output
    assert refused.startswith("Error: 'ada' is the only active admin")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("users", "add", "a b", "--role", "rater"), "Error: 'a b' cannot be a user's name."),
        (("users", "add", "ann", "--role", "king"), "'king' is not one of"),
        (("users", "add", "ann"), "Missing option '--role'"),
        (("users", "add", "ann", "--role", "rater", "--link", "--password-stdin"), "exclude each other"),
        (("users", "set", "nobody", "--active"), "Error: There is no user 'nobody'."),
        (("users", "password", "nobody"), "Error: There is no user 'nobody'."),
        (("users", "link", "nobody"), "Error: There is no user 'nobody'."),
        (("tokens", "add", "x", "--user", "nobody", "--scope", "reviews:write"), "Error: There is no user 'nobody'."),
        (("tokens", "add", "x", "--user", "nobody", "--scope", "all"), "'all' is not one of"),
        (("tokens", "add", "x", "--user", "nobody"), "Missing option '--scope'"),
        (("tokens", "revoke", "7"), "Error: There is no token 7."),
        (("tokens", "revoke", "x"), "'x' is not a valid integer"),
        (("tokens", "revoke", "9" * 30), "is not in the range"),
    ],
)
def test_mistakes_are_explained(run: Run, arguments: tuple[str, ...], words: str) -> None:
    """Exit code 2, before anybody is asked for a password."""
    result = run(*arguments, code=2)
    assert words in result.output
    assert "Password" not in result.output


def test_a_weak_password_is_refused(run: Run, engine: Engine) -> None:
    """And nobody is added."""
    assert "12 to 1,000" in run("users", "add", "ann", "--role", "rater", input="short\nshort\n", code=2).output
    assert users.accounts(engine) == []


def test_tokens(run: Run, engine: Engine) -> None:
    """Only the secret is on the standard output; the list has all but that."""
    assert run("tokens", "list").output.startswith("There is no token yet.")
    run("users", "add", "bot", "--role", "service")
    scopes = ("--scope", "reviews:write", "--scope", "interactions:read")
    made = run("tokens", "add", "my app", "--user", "bot", *scopes, "--days", "30")
    secret = made.stdout.strip()
    found = tokens.find(engine, secret, now=datetime.now(UTC))
    assert found is not None
    assert found.scopes == {"reviews:write", "interactions:read"}
    assert "shown this once" in made.stderr
    listed = run("tokens", "list").output
    assert re.fullmatch(
        rf"1 my app: bot, {secret[:11]}\.{{3}}, interactions:read reviews:write, "
        r"last used never, expires [\d: -]+ UTC\n",
        listed,
    )
    assert run("tokens", "revoke", "1").output == "Token 1 is revoked.\n"
    assert ", revoked 20" in run("tokens", "list").output
    assert tokens.find(engine, secret, now=datetime.now(UTC)) is None


def test_a_token_has_its_share_of_recorded_rankings(run: Run, engine: Engine) -> None:
    """It is a number from 0 to 1, and the list has it."""
    run("users", "add", "bot", "--role", "service")
    asked = ("tokens", "add", "x", "--user", "bot", "--scope", "rerank", "--record")
    assert "is not in the range 0<=x<=1" in run(*asked, "2", code=2).output
    found = tokens.find(engine, run(*asked, "0.25").stdout.strip(), now=datetime.now(UTC))
    assert found is not None
    assert found.record == 0.25
    assert ", records 25% of its rankings\n" in run("tokens", "list").output


def test_the_scopes_that_can_be_given_are_those_there_are() -> None:
    """The command line names them itself, so that it starts without the database's library."""
    assert tuple(accounts._SCOPES.choices) == tokens.SCOPES


def test_the_audit_log(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line each with tabs; who acted here is the system's user, which no name of a user can be."""
    monkeypatch.setattr("getpass.getuser", lambda: "root")
    run("users", "add", "bot", "--role", "service")
    run("users", "set", "bot", "--inactive")
    lines = run("audit").output.splitlines()
    assert [line.split("\t")[1:] for line in lines] == [
        ["cli:root", "user.changed", "user:bot", '{"active": {"after": false, "before": true}}'],
        ["cli:root", "user.added", "user:bot", '{"role": "service"}'],
    ]
    assert len(run("audit", "--limit", "1").output.splitlines()) == 1
    assert "user.added" not in run("audit", "--action", "user.changed").output
    assert run("audit", "--actor", "somebody").output == ""


def test_a_container_without_a_name_for_its_user(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is written down as unknown."""

    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr("getpass.getuser", nobody)
    run("users", "add", "bot", "--role", "service")
    assert "\tcli:unknown\t" in run("audit").output


def test_addresses_and_apps(run: Run, engine: Engine) -> None:
    """An address is added, changed and taken away, and stands in no entry of the audit log; so is an app taken away."""
    run("users", "add", "ann", "--role", "rater", "--link", "--email", "Ann@Clinic.example")
    assert "ann@clinic.example" in run("users", "list").output
    assert run("users", "set", "ann", "--email", "ann@example.org").output == (
        "ann is rater and active; the e-mail address is ann@example.org.\n"
    )
    assert "the e-mail address is none" in run("users", "set", "ann", "--email", "").output
    assert "is not a valid e-mail address" in run("users", "set", "ann", "--email", "ann", code=2).output
    run("users", "add", "bob", "--role", "rater", "--link", "--email", "bob", code=2)
    assert "bob" not in run("users", "list").output
    assert "example" not in run("audit").output
    assert "there was no authenticator app" in run("users", "set", "ann", "--remove-app").output
    ann, key, now = users.get(engine, "ann"), bytes(32), datetime.now(UTC)
    app = pyotp.TOTP(second_factor.begin(engine, ann, key=key, session="x").secret)
    second_factor.confirm(engine, ann, app.at(now), key=key, session="x", now=now)
    assert "the authenticator app is taken away" in run("users", "set", "ann", "--remove-app").output


def test_without_passwords(run: Run, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is asked for one or gets one, and a link lets somebody in."""
    monkeypatch.setenv("RLHF_PASSWORDS", "no")
    assert run("users", "add", "ann", "--role", "rater").output == "ann is added as rater.\n"
    assert "no password" in run("users", "list").output
    for refused in (("password", "ann"), ("add", "bob", "--role", "rater", "--password-stdin")):
        assert "RLHF_PASSWORDS=no" in run("users", *refused, input=PASSWORD, code=2).output
    secret = run("users", "link", "ann").stdout.strip().removeprefix("/welcome/")
    assert links.redeem(engine, secret, None, now=datetime.now(UTC)).name == "ann"
    assert stored(engine, "ann") is None
