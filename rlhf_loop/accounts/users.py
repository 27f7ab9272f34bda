"""Users and their passwords. Each change is in the audit log, and one active admin always remains.

Passwords are hashed by Argon2id; checking takes the same time for a right one, a wrong one and an unknown user's.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
import unicodedata
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from typing import Any

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import Row, String, delete, exists, func, insert, select, update
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import IntegrityError

from rlhf_loop.domain import User, UserRole
from rlhf_loop.errors import AccountError
from rlhf_loop.store import audit
from rlhf_loop.store.engine import reading, transaction
from rlhf_loop.store.tables import ANONYMOUS, OneTimeLink, Session
from rlhf_loop.store.tables import User as Users
from rlhf_loop.utils.text import blank, visible
from rlhf_loop.utils.translation import Message

SHORTEST = 12
LONGEST = 1_000
_LONGEST_DISPLAY_NAME = 80
_LONGEST_EMAIL = 254
#: What a mail server takes for one address: nothing that could end a header or begin another.
_EMAIL = re.compile(r"{0}(?:\.{0})*@[a-z0-9]+(?:(?:\.|-+)[a-z0-9]+)*".format(r"[a-z0-9!#$%&'*+/=?^_`{|}~-]+"))
#: Scripts that stand in one word of Japanese, Chinese or Korean.
_ONE_SCRIPT = dict.fromkeys(("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "IDEOGRAPHIC"), "CJK")
#: Fewer would be "aaaaaaaaaaaa" and the like.
_DIFFERENT = 5

# The library's parameters are RFC 9106's for machines without much memory: 64 MiB and some 50 ms for each password.
_HASHER = PasswordHasher()
#: Hashes computed at a time in a process: a flood of sign-ins must not take all of its memory.
_HASHING = threading.BoundedSemaphore(2)
_NAME = re.compile(r"[a-z0-9._-]{1,64}")
#: A new one also begins so: "..", "." and "-" mean something else in addresses and commands.
_NEW_NAME = re.compile(r"[a-z0-9]|_.*[a-z0-9]")
#: Of nobody: those without a name, the visitors of our page (visitor:...), and whoever types commands (cli:...). A
#: service of such a name would speak as they do in the names of its end users.
_RESERVED = {
    ANONYMOUS: "those who have no name",
    "visitor": "the visitors of the page of answers",
    "cli": "whoever types commands",
}


def hash_password(password: str, *, name: str) -> str:
    """Return the hash that is stored of a new password of the user of that name.

    Raises:
        AccountError: it is too short, too long or too simple.
    """
    if not SHORTEST <= len(password) <= LONGEST:
        raise AccountError(
            Message(
                "The password has {n:,} characters. Choose one of {least} to {most:,}; "
                "a few words that nobody would guess are good.",
                n=len(password),
                least=SHORTEST,
                most=LONGEST,
            )
        )
    if len(set(password)) < _DIFFERENT or password.lower() == name:
        raise AccountError(
            Message(
                "The password is easy to guess: it is the name, or has fewer than {n} different "
                "characters. Choose a few words that nobody would guess.",
                n=_DIFFERENT,
            )
        )
    try:
        encoded = _encoded(password)
    except UnicodeEncodeError as error:
        raise AccountError(Message("The password is not valid text. Type it again, or send it as UTF-8.")) from error
    with _HASHING:
        return _HASHER.hash(encoded)


def password_matches(stored: str | None, password: str) -> bool:
    """Tell whether the password is the stored one; without one, find out that it is not in the same time."""
    try:
        encoded = _encoded(password)
    except UnicodeEncodeError:
        encoded = b""
    with _HASHING:
        try:
            # First, so that the first unknown name of a process takes no longer than others.
            nobodys = _nobodys()
            return _HASHER.verify(stored or nobodys, encoded) and stored is not None
        except (VerificationError, InvalidHashError):
            return False


def renew_hash(stored: str, password: str) -> str | None:
    """Return the hash by today's parameters if the stored one has others, else None."""
    if not _HASHER.check_needs_rehash(stored):
        return None
    with _HASHING:
        return _HASHER.hash(_encoded(password))


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A user as an admin sees them. Without a password, a person signs in once they have used a link."""

    user: User
    has_password: bool
    email: str | None
    created_at: datetime
    signed_in_at: datetime | None


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user with the hash of their password."""

    user: User
    password_hash: str | None


def checked_name(name: str, *, new: bool = False) -> str:
    """Return the name as it is stored: in lower case.

    Raises:
        AccountError: it cannot be a user's.
    """
    lower = name.strip().lower()
    if not _NAME.fullmatch(lower):
        raise AccountError(
            Message(
                "{name!r} cannot be a user's name. Use 1 to 64 of the letters a-z, digits, dots, hyphens and "
                "underscores.",
                name=name[:80],
            )
        )
    if new and not _NEW_NAME.match(lower):
        raise AccountError(
            Message("{name!r} is not a valid name of a user. Begin it with a letter or a digit.", name=lower)
        )
    if lower in _RESERVED:
        raise AccountError(f"{lower!r} stands for {_RESERVED[lower]}. Choose another name.")
    return lower


def add(engine: Engine, name: str, *, role: UserRole, actor: str, password: str | None = None, email: str = "") -> User:
    """Add a user, or nobody; without a password nobody can sign in as them until a link is used.

    Raises:
        AccountError: the name or the e-mail address is taken or not valid, the password is refused, or a service was
            given one of both.
    """
    name = checked_name(name, new=True)
    if password is not None and role == UserRole.SERVICE:
        raise AccountError(
            Message("{name!r} is a service, and services have tokens and no password. Leave it out.", name=name)
        )
    password_hash = None if password is None else hash_password(password, name=name)
    with transaction(engine) as connection:
        user = add_hashed(connection, name, role=role, actor=actor, password_hash=password_hash)
        if email.strip():
            _set_email(connection, user, email, actor=actor)
    return user


def add_hashed(connection: Connection, name: str, *, role: UserRole, actor: str, password_hash: str | None) -> User:
    """Do what `add` does, in a transaction of the caller's, with the password already hashed.

    Raises:
        AccountError: the name is taken.
    """
    values = {"name": name, "role": role, "password_hash": password_hash, "active": True}
    shown = connection.execute(select(Users.name, Users.display_name).where(Users.display_name.is_not(None)))
    if of := next((other.name for other in shown if _looks(other.display_name) == _looks(name)), None):
        raise AccountError(
            Message("Screens show {of!r} as {name!r}. Choose another name, or change that user.", of=of, name=name)
        )
    try:
        id = connection.execute(insert(Users).returning(Users.id), values).scalar_one()
    except IntegrityError as error:
        raise AccountError(
            Message("The name {name!r} is taken. Choose another, or change that user.", name=name)
        ) from error
    audit.note(connection, actor, "user.added", f"user:{name}", {"role": role.value})
    return User(id, name, role)


def get(engine: Engine, name: str) -> User:
    """Return the user of that name.

    Raises:
        AccountError: there is none.
    """
    with reading(engine) as connection:
        return find_known(connection, name).user


def accounts(engine: Engine, *, words: str = "", after: str = "", limit: int | None = None) -> list[Account]:
    """Return the users, by name: those in whose name or display name the words stand, the first ones after a name."""
    wanted = select(Users.__table__).where(Users.name > after).order_by(Users.name).limit(limit)
    if words:
        # SQLite's own knows only the letters A to Z.
        lower = func.rlhf_lower if engine.dialect.name == "sqlite" else func.lower
        named = lower(Users.name + " " + func.coalesce(Users.display_name, ""), type_=String)
        wanted = wanted.where(named.contains(words.lower(), autoescape=True))
    with reading(engine) as connection:
        return [
            Account(
                user=_user(row),
                has_password=row.password_hash is not None,
                email=row.email,
                created_at=row.created_at,
                signed_in_at=row.signed_in_at,
            )
            for row in connection.execute(wanted)
        ]


def change(engine: Engine, name: str, *, actor: str, role: UserRole | None = None, active: bool | None = None) -> User:
    """Change what a user may do, or whether they may do anything; return them as they are now.

    Whoever becomes inactive is signed out everywhere, and a link they have not used is void; whoever becomes a service,
    too, and loses the password.

    Raises:
        AccountError: there is no such user, or no active admin would be left.
    """
    with transaction(engine) as connection:
        return change_in(connection, name, actor=actor, role=role, active=active)


def change_in(
    connection: Connection, name: str, *, actor: str, role: UserRole | None = None, active: bool | None = None
) -> User:
    """Do what `change` does, in a transaction of the caller's.

    Raises:
        AccountError: there is no such user, or no active admin would be left.
    """
    if active is False or role == UserRole.SERVICE:
        _void_links(connection, name)
    admins = _lock_admins(connection)
    before = find_known(connection, name).user
    after = replace(before, role=role or before.role, active=before.active if active is None else active)
    if after == before:
        return after
    if admins == {before.id} and not (after.active and after.role == UserRole.ADMIN):
        raise AccountError(
            Message(
                "{name!r} is the only active admin, and one has to remain. Make somebody else an admin first.",
                name=before.name,
            )
        )
    values: dict[str, object] = {"role": after.role, "active": after.active}
    if after.role == UserRole.SERVICE:
        values["password_hash"] = None
    connection.execute(update(Users).where(Users.id == before.id).values(values))
    if not after.active or after.role == UserRole.SERVICE:
        sign_out_everywhere(connection, before.id)
    changes = {name: (getattr(before, name), getattr(after, name)) for name in ("role", "active")}
    detail = {name: {"before": old, "after": new} for name, (old, new) in changes.items() if old != new}
    audit.note(connection, actor, "user.changed", f"user:{before.name}", detail)
    return after


def set_password(engine: Engine, name: str, password: str, *, actor: str) -> None:
    """Give a user a new password, sign them out everywhere, and void a link they have not used.

    Raises:
        AccountError: there is no such user, they are a service, or the password is refused.
    """
    password_hash = hash_password(password, name=checked_name(name))
    with transaction(engine) as connection:
        set_hash(connection, find_known(connection, name).user, password_hash, actor=actor)


def set_hash(connection: Connection, user: User, password_hash: str, *, actor: str) -> None:
    """Do what `set_password` does, in a transaction of the caller's.

    Raises:
        AccountError: the user is a service.
    """
    refuse_service(user)
    _void_links(connection, user.name)
    connection.execute(update(Users).where(Users.id == user.id).values(password_hash=password_hash))
    sign_out_everywhere(connection, user.id)
    audit.note(connection, actor, "user.password_set", f"user:{user.name}")


def refuse_service(user: User) -> None:
    """Refuse to let an application sign in like a person.

    Raises:
        AccountError: the user is a service.
    """
    if user.role == UserRole.SERVICE:
        raise AccountError(
            f"{user.name!r} is a service, and services have tokens and no password. Make a token: "
            f"rlhf-loop tokens add NAME --user {user.name} --scope interactions:write"
        )


def sign_out_everywhere(connection: Connection, user_id: int) -> int:
    """End all sessions of a user; return how many there were."""
    return connection.execute(delete(Session).where(Session.user_id == user_id)).rowcount


def has_active_admin(connection: Connection) -> bool:
    """Tell whether anybody may do everything."""
    admins = exists().where(Users.role == UserRole.ADMIN, Users.active)
    return bool(connection.execute(select(admins)).scalar())


def find_known(connection: Connection, name: str) -> Credentials:
    """Return the user of that name.

    Raises:
        AccountError: there is none.
    """
    name = checked_name(name)
    found = find(connection, name)
    if found is None:
        raise AccountError(
            Message(
                "There is no user {name!r}. All users: rlhf-loop users list; a new one: rlhf-loop users add NAME "
                "--role rater",
                name=name,
            )
        )
    return found


def find(connection: Connection, name: str) -> Credentials | None:
    """Return the user of that name, None if there is none."""
    row = connection.execute(select(Users.__table__).where(Users.name == name)).first()
    return None if row is None else Credentials(_user(row), row.password_hash)


def secret_hash(secret: str) -> str:
    """Return the hash that is stored of a token or a link: unsalted and fast, as it may be for 256 random bits."""
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


def _user(row: Row[Any]) -> User:
    return User(row.id, row.name, UserRole(row.role), bool(row.active), row.display_name)


def _encoded(password: str) -> bytes:
    # One character can be typed in several ways, depending on the keyboard.
    return unicodedata.normalize("NFC", password).encode()


@cache
def _nobodys() -> str:
    return _HASHER.hash(secrets.token_bytes(32))


def _void_links(connection: Connection, name: str) -> None:
    # Before the user is written, as where a link is used: the other way round, two at once would block each other.
    whose = select(Users.id).where(Users.name == checked_name(name)).scalar_subquery()
    connection.execute(delete(OneTimeLink).where(OneTimeLink.user_id == whose, OneTimeLink.used_at.is_(None)))


def _lock_admins(connection: Connection) -> set[int]:
    # Two who take each other's rights at one moment: on PostgreSQL the second waits here, and then sees what is left.
    wanted = select(Users.id).where(Users.role == UserRole.ADMIN, Users.active).order_by(Users.id).with_for_update()
    return set(connection.execute(wanted).scalars())


def checked_display_name(display_name: str) -> str | None:
    """Return the display name as it is stored, None for an empty one.

    Raises:
        AccountError: it is too long, or cannot be shown in a line.
    """
    found = " ".join(unicodedata.normalize("NFC", display_name).split())
    # A letter at least, so that something is seen.
    nothing = found and (blank(found) or not any(map(str.isalnum, found)))
    if nothing or len(found) > _LONGEST_DISPLAY_NAME or not found.isprintable():
        raise AccountError(
            Message(
                "{name!r} is not a valid display name. Use at most {most} characters that are printed, or none to "
                "show the name of the user.",
                name=found[:_LONGEST_DISPLAY_NAME],
                most=_LONGEST_DISPLAY_NAME,
            )
        )
    if mixed := next((word for word in found.split() if len(_scripts(word)) > 1), ""):
        raise AccountError(
            Message(
                "{name!r} is not a valid display name: the word {word!r} has letters of several scripts, which look "
                "like those of another name. Write each word in one script.",
                name=found,
                word=mixed,
            )
        )
    return found or None


def _scripts(word: str) -> set[str]:
    """Return the scripts of a word's letters, by the names that Unicode gives these; those of East Asia are one.

    After Unicode's Technical Standard 39, which keeps Latin, Cyrillic and Greek letters apart in one word.
    """
    letters = filter(str.isalpha, unicodedata.normalize("NFKC", word))
    scripts = {unicodedata.name(letter, "").partition(" ")[0].partition("-")[0] for letter in letters}
    return {_ONE_SCRIPT.get(script, script) for script in scripts} - {"MODIFIER"}


def set_display_name(engine: Engine, name: str, display_name: str, *, actor: str) -> User:
    """Have screens show a user by another name, or with an empty one by their own; return the user as it is now.

    Raises:
        AccountError: there is no such user, or others are called so.
    """
    shown = checked_display_name(display_name)
    with transaction(engine) as connection:
        before = find_known(connection, name).user
        others = connection.execute(select(Users.name, Users.display_name).where(Users.id != before.id))
        for other in others if shown else ():
            if shown and _looks(shown) in (_looks(other.name), _looks(other.display_name or "")):
                raise AccountError(
                    Message(
                        "{shown!r} is how {name!r} is called already. Choose another display name.",
                        shown=shown,
                        name=other.name,
                    )
                )
        if shown != before.display_name:
            connection.execute(update(Users).where(Users.id == before.id).values(display_name=shown))
            detail = {"display_name": {"before": before.display_name, "after": shown}}
            audit.note(connection, actor, "user.changed", f"user:{before.name}", detail)
    return replace(before, display_name=shown)


def checked_email(email: str) -> str | None:
    """Return the e-mail address as it is stored, in lower case; None for an empty one.

    Raises:
        AccountError: it is not valid.
    """
    given = email.strip().lower()
    if given and not (len(given) <= _LONGEST_EMAIL and given.isascii() and _EMAIL.fullmatch(given)):
        raise AccountError(
            Message("{email!r} is not a valid e-mail address. Write one as in anna@example.org.", email=given[:80])
        )
    return given or None


def set_email(engine: Engine, name: str, email: str, *, actor: str) -> str | None:
    """Give a user an e-mail address, or with an empty one none; return it as it is stored.

    Raises:
        AccountError: there is no such user, it is not valid, or somebody else's.
    """
    with transaction(engine) as connection:
        return _set_email(connection, find_known(connection, name).user, email, actor=actor)


def _set_email(connection: Connection, user: User, email: str, *, actor: str) -> str | None:
    given = checked_email(email)
    refuse_service(user)
    before = connection.execute(select(Users.email).where(Users.id == user.id)).scalar_one()
    taken = select(Users.name).where(Users.email == given, Users.id != user.id)
    if given and (of := connection.execute(taken).scalar()):
        raise AccountError(
            Message("{email} is the address of {of!r}. Give each user one of their own.", email=given, of=of)
        )
    if given != before:
        connection.execute(update(Users).where(Users.id == user.id).values(email=given))
        # Without the addresses: what the audit log has, nobody can have deleted.
        audit.note(connection, actor, "user.changed", f"user:{user.name}", {"email": "set" if given else "removed"})
    return given


def without_address(account: str) -> str:
    """Return the name of an account as the audit log may have it: of an e-mail address only its domain."""
    return f"...@{account.rpartition('@')[2]}" if "@" in account else account


def email_of(engine: Engine, name: str) -> str | None:
    """Return the e-mail address of a user, None if there is none."""
    with reading(engine) as connection:
        return connection.execute(select(Users.email).where(Users.name == name)).scalar()


def _looks(name: str) -> str:
    """Return what names have in common that look alike: case, and the forms of letters."""
    return visible(unicodedata.normalize("NFKC", name)).casefold()


def display_names(engine: Engine) -> dict[str, str]:
    """Return the display names by the names of the users who have one."""
    wanted = select(Users.name, Users.display_name).where(Users.display_name.is_not(None))
    with reading(engine) as connection:
        return {row.name: row.display_name for row in connection.execute(wanted)}
