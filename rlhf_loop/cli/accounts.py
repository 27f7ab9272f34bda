"""`rlhf-loop users`, `tokens` and `audit`: access to the service, and the log of what was done."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from rlhf_loop.cli.common import open_ratings, operator, read_settings

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

_ROLES = click.Choice(["rater", "admin", "service"])
#: As in accounts.tokens, which would load the database's library before it is known what is wanted.
_SCOPES = click.Choice(
    [
        "interactions:read",
        "interactions:write",
        "reviews:write",
        "reviews:expert",
        "metrics:read",
        "rerank",
        "rerank:batch",
        "chat",
    ]
)
_display_name = click.option("--display-name", help="The name that screens show, 'Dr. Weber'; exports have NAME.")
_email = click.option(
    "--email", metavar="ADDRESS", help="Where invitations go, and by what an identity provider's user is known."
)
_password_stdin = click.option(
    "--password-stdin", is_flag=True, help="Read the password from the first line of the standard input."
)


@click.group(short_help="Add people and applications, and say what they may do.")
def users() -> None:
    """Add people and applications, and say what they may do."""


@users.command("add")
@click.argument("name")
@click.option(
    "--role",
    type=_ROLES,
    required=True,
    help="A rater reviews answers, an admin does everything, a service is an application with tokens.",
)
@_display_name
@_email
@_password_stdin
@click.option("--link", is_flag=True, help="Set no password, but print a link by which the person does.")
def add_user(
    name: str, role: str, display_name: str | None, email: str | None, password_stdin: bool, link: bool
) -> None:
    """Add the user NAME. Asks for the password twice, unless told otherwise; a service has none.

    With RLHF_PASSWORDS=no nobody has one: people sign in with the identity provider or through the proxy.
    """
    from rlhf_loop.accounts import users as accounts
    from rlhf_loop.domain import UserRole

    if password_stdin and link:
        raise click.UsageError("--password-stdin and --link exclude each other. Choose one of them.")
    if role == UserRole.SERVICE and (password_stdin or link):
        raise click.UsageError("A service has tokens and no password. Leave --password-stdin and --link out.")
    passwords = read_settings().passwords
    if password_stdin and not passwords:
        raise click.UsageError("RLHF_PASSWORDS=no, so users have no password. Leave --password-stdin out.")
    engine = open_ratings()
    accounts.checked_name(name, new=True)
    accounts.checked_display_name(display_name or "")
    accounts.checked_email(email or "")
    without = link or role == UserRole.SERVICE or not passwords
    password = None if without else _password(from_stdin=password_stdin)
    user = accounts.add(engine, name, role=UserRole(role), password=password, email=email or "", actor=operator())
    if display_name:
        accounts.set_display_name(engine, name, display_name, actor=operator())
    click.echo(f"{user.name} is added as {user.role}.")
    if link:
        _print_link(engine, user.name)


@users.command("list")
def list_users() -> None:
    """Show all users with their role, and when they last signed in."""
    from rlhf_loop.accounts.users import accounts
    from rlhf_loop.domain import UserRole

    found, passwords = accounts(open_ratings()), read_settings().passwords
    if not found:
        click.echo("There is no user yet. Add one: rlhf-loop users add NAME --role admin")
    for account in found:
        user = account.user
        notes = [user.role.value] if user.active else [user.role.value, "not active"]
        if user.role != UserRole.SERVICE:
            notes.append(f"last signed in {_moment(account.signed_in_at)}")
            if not account.has_password:
                notes.append("no password yet" if passwords else "no password")
            if account.email:
                notes.append(account.email)
        shown = f" ({user.display_name})" if user.display_name else ""
        click.echo(f"{user.name}{shown}: {', '.join(notes)}")


@users.command("set", short_help="Change what is known of the user NAME, and what they may do.")
@click.argument("name")
@click.option("--role", type=_ROLES, help="What the user may do from now on.")
@click.option("--active/--inactive", default=None, help="Whether the user may do anything; inactive ends all sessions.")
@_display_name
@_email
@click.option("--remove-app", is_flag=True, help="Take the authenticator app away, for a lost phone.")
def set_user(
    name: str, role: str | None, active: bool | None, display_name: str | None, email: str | None, remove_app: bool
) -> None:
    """Change role, display name, e-mail address or activity of the user NAME, or take their authenticator app away."""
    from rlhf_loop.accounts import second_factor
    from rlhf_loop.accounts.users import change, set_display_name, set_email
    from rlhf_loop.domain import UserRole

    if role is None and active is None and display_name is None and email is None and not remove_app:
        raise click.UsageError(
            "There is nothing to change. Give --role, --active, --inactive, --display-name, --email or --remove-app."
        )
    chosen = None if role is None else UserRole(role)
    engine = open_ratings()
    if display_name is not None:
        set_display_name(engine, name, display_name, actor=operator())
    removed = remove_app and second_factor.remove(engine, name, actor=operator())
    address = None if email is None else set_email(engine, name, email, actor=operator())
    user = change(engine, name, role=chosen, active=active, actor=operator())
    shown = f", and screens show {user.shown}" if display_name is not None else ""
    if remove_app:
        shown += "; the authenticator app is taken away" if removed else "; there was no authenticator app"
    if email is not None:
        shown += f"; the e-mail address is {address or 'none'}"
    click.echo(f"{user.name} is {user.role} and {'active' if user.active else 'not active'}{shown}.")


@users.command("password")
@click.argument("name")
@_password_stdin
def set_password(name: str, password_stdin: bool) -> None:
    """Give the user NAME a new password, and sign them out everywhere."""
    from rlhf_loop.accounts import users as accounts

    if not read_settings().passwords:
        raise click.UsageError(
            f"RLHF_PASSWORDS=no, so no password is of use. For a way in: rlhf-loop users link {name}"
        )
    engine = open_ratings()
    accounts.refuse_service(accounts.get(engine, name))
    accounts.set_password(engine, name, _password(from_stdin=password_stdin), actor=operator())
    click.echo(f"The password of {accounts.checked_name(name)} is set. They are signed out everywhere.")


@users.command("link")
@click.argument("name")
def link_user(name: str) -> None:
    """Print a link by which the user NAME sets a password. It works once, within 24 hours.

    With RLHF_PASSWORDS=no it lets them in once, which is the way while the identity provider is away.
    """
    _print_link(open_ratings(), name)


@click.group()
def tokens() -> None:
    """Make and revoke the tokens with which applications use the API."""


@tokens.command("add")
@click.argument("name")
@click.option("--user", required=True, help="Whose token it is: usually a user of the role service.")
@click.option("--scope", "scopes", type=_SCOPES, multiple=True, required=True, help="May be given several times.")
@click.option("--days", type=click.IntRange(1, 3650), help="Days until it expires. Default: never.")
@click.option(
    "--record",
    metavar="SHARE",
    type=click.FloatRange(0, 1),
    help="Share of its rankings that is recorded, 0 to 1. Default: RLHF_RECORD_RANKINGS.",
)
def add_token(name: str, user: str, scopes: tuple[str, ...], days: int | None, record: float | None) -> None:
    """Make a token and print it, this once. NAME says what it is for."""
    from rlhf_loop.accounts.tokens import add

    new = add(open_ratings(), name, user=user, scopes=scopes, days=days, record=record, actor=operator())
    # Apart, so that the token alone can be taken on: rlhf-loop tokens add ... > file
    click.echo(f"Token {new.id} is made. Keep it safe: it is shown this once, and only its hash is stored.", err=True)
    click.echo(new.secret)


@tokens.command("list")
def list_tokens() -> None:
    """Show all tokens, the newest first, without what is secret in them."""
    from rlhf_loop.accounts.tokens import tokens as all_tokens

    found, now = all_tokens(open_ratings()), datetime.now(UTC)
    if not found:
        click.echo("There is no token yet. Make one: rlhf-loop tokens add NAME --user USER --scope SCOPE")
    for each in found:
        ends = f"{'expires' if each.valid(now) else 'expired'} {_moment(each.expires_at)}"
        if each.revoked_at is not None:
            ends = f"revoked {_moment(each.revoked_at)}"
        used, scopes = _moment(each.used_at), " ".join(each.scopes)
        kept = "" if each.record is None else f", records {each.record:.0%} of its rankings"
        click.echo(f"{each.id} {each.name}: {each.user}, {each.start}..., {scopes}, last used {used}, {ends}{kept}")


@tokens.command("revoke")
@click.argument("id", type=click.IntRange(1, 2**31 - 1))
def revoke_token(id: int) -> None:
    """Make the token with this ID worthless, at once and for good."""
    from rlhf_loop.accounts.tokens import revoke

    revoke(open_ratings(), id, actor=operator())
    click.echo(f"Token {id} is revoked.")


@click.command(short_help="Show who did what, the newest first.")
@click.option("--actor", metavar="NAME", help="Only what this one did.")
@click.option("--action", metavar="NAME", help="Only this, e.g. review.added or session.failed.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=100, show_default=True, help="How many entries.")
def audit(actor: str | None, action: str | None, limit: int) -> None:
    """Show who did what, the newest first, a line each: when, who, what, to what, and more as JSON."""
    from rlhf_loop.store.audit import entries

    for entry in entries(open_ratings(), actor=actor, action=action, limit=limit):
        more = json.dumps(entry.detail, ensure_ascii=False, sort_keys=True) if entry.detail else ""
        parts = (entry.happened_at.isoformat(timespec="seconds"), entry.actor, entry.action, entry.target, more)
        click.echo("\t".join(parts).rstrip())


def _password(*, from_stdin: bool) -> str:
    if from_stdin:
        given = sys.stdin.readline().rstrip("\r\n")
        if not given:
            raise click.UsageError("The standard input holds no password. Send it as the first line.")
        return given
    typed: str = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    return typed


def _print_link(engine: Engine, name: str) -> None:
    from rlhf_loop.accounts.links import HOURS, invite

    secret = invite(engine, name, actor=operator())
    click.echo(
        f"Works once, within {HOURS} hours. Put it behind the service's address, such as http://127.0.0.1:8000:",
        err=True,
    )
    click.echo(f"/welcome/{secret}")


def _moment(time: datetime | None) -> str:
    return "never" if time is None else f"{time:%Y-%m-%d %H:%M} UTC"
