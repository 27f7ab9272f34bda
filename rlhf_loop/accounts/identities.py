"""Accounts elsewhere: which user somebody is whom an identity provider or a proxy names, and what they may do.

A user belongs to an account by its issuer and subject. Who comes for the first time is known by an e-mail address that
the provider has verified and an admin has given the user, or is added where the provider gives them a role. A name
alone makes no account of a provider's a user that is there already: most let people choose their names.
"""

from __future__ import annotations

import hashlib
import logging
import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import IntegrityError

from rlhf_loop.accounts import users
from rlhf_loop.config import Settings
from rlhf_loop.domain import User, UserRole
from rlhf_loop.errors import AccountError
from rlhf_loop.store import audit
from rlhf_loop.store.engine import transaction, upsert
from rlhf_loop.store.tables import ExternalIdentity
from rlhf_loop.store.tables import User as Users
from rlhf_loop.utils.translation import Message

logger = logging.getLogger(__name__)

#: The issuer of those whom a proxy names.
PROXY = "proxy"
#: Stands for everybody in `sso_raters`.
EVERYBODY = "*"
_LONGEST_NAME = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Somebody as an identity provider or a proxy knows them; `email` only where it is sure to be theirs."""

    issuer: str
    subject: str
    name: str
    display_name: str | None = None
    email: str | None = None
    groups: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class RoleRules:
    """The groups that make admins and raters. Without both, the roles are those of the table, and nobody is added."""

    admins: frozenset[str]
    raters: frozenset[str]

    @classmethod
    def of(cls, settings: Settings) -> RoleRules:
        """Return the rules of the settings."""
        return cls(frozenset(settings.sso_admins), frozenset(settings.sso_raters))

    @property
    def decide(self) -> bool:
        """True where roles come from elsewhere."""
        return bool(self.admins or self.raters)

    def role(self, groups: Collection[str]) -> UserRole | None:
        """Return the role of whoever is in these groups, None for none."""
        if self.admins.intersection(groups):
            return UserRole.ADMIN
        return UserRole.RATER if EVERYBODY in self.raters or self.raters.intersection(groups) else None


def recognize(engine: Engine, identity: Identity, *, rules: RoleRules) -> User:
    """Return the user whom somebody is, with the role that they have now; add them if they are new and have one.

    Raises:
        AccountError: they are nobody's, may not be here, or are not active.
    """
    try:
        return _recognize(engine, identity, rules)
    except (AccountError, IntegrityError):
        # Of two first sign-ins at one moment (a double click) this may be the later one, whose name is just taken: by
        # a second look they are known. Whoever may not be here is refused by that one as well.
        return _recognize(engine, identity, rules)


def _recognize(engine: Engine, identity: Identity, rules: RoleRules) -> User:
    said_by = actor(identity)
    with transaction(engine) as connection:
        user = _known(connection, identity)
        if user is not None:
            return _with_role(connection, user, identity, rules)
        role = _role(identity, rules) if rules.decide else None
        if role is None:
            raise AccountError(
                Message(
                    "Nobody here belongs to your account {name}. Ask an admin to add you, with your e-mail address, "
                    "and sign in again.",
                    name=identity.name,
                )
            )
        name = made_name(identity)
        if users.find(connection, name) is not None:
            raise AccountError(
                Message(
                    "Your account {account} would be the user {name!r}, and there is one already who is not known to "
                    "be you. Ask an admin to give that user your e-mail address, and sign in again.",
                    account=identity.name,
                    name=name,
                )
            )
        user = users.add_hashed(connection, name, role=role, actor=said_by, password_hash=None)
        _link(connection, user, identity)
    return _with_display_name(engine, user, identity)


def reconsider(engine: Engine, user: User, identity: Identity, *, rules: RoleRules) -> User:
    """Give a user the role that they have elsewhere by now, and return them.

    Raises:
        AccountError: they may not be here any more.
    """
    if not rules.decide or rules.role(identity.groups) == user.role:
        return user
    with transaction(engine) as connection:
        return _with_role(connection, users.find_known(connection, user.name).user, identity, rules)


def made_name(identity: Identity) -> str:
    """Return the name of a new user: that of the account, in the letters that names here have.

    Raises:
        AccountError: it stands for something else here.
    """
    for given in (identity.name, identity.email or ""):
        letters = unicodedata.normalize("NFKD", given.partition("@")[0]).encode("ascii", "ignore").decode().lower()
        made = re.sub(r"[^a-z0-9._-]+", "-", letters).strip("._-")[:_LONGEST_NAME]
        if made:
            return users.checked_name(made, new=True)
    return f"user-{hashlib.sha256(identity.subject.encode()).hexdigest()[:8]}"


def _known(connection: Connection, identity: Identity) -> User | None:
    linked = select(Users.name).join(ExternalIdentity, ExternalIdentity.user_id == Users.id)
    mine = (ExternalIdentity.issuer == identity.issuer, ExternalIdentity.subject == identity.subject)
    name = connection.execute(linked.where(*mine)).scalar()
    if name is not None:
        return users.find_known(connection, name).user
    if identity.email:
        theirs = select(Users.name).where(Users.email == identity.email.lower())
        name = connection.execute(theirs).scalar()
    if name is None and identity.issuer == PROXY:
        # The proxy is the operator's own, and its names are those of here.
        name = connection.execute(select(Users.name).where(Users.name == identity.subject)).scalar()
    if name is None:
        return None
    user = users.find_known(connection, name).user
    users.refuse_service(user)
    _link(connection, user, identity)
    return user


def _link(connection: Connection, user: User, identity: Identity) -> None:
    values = {"issuer": identity.issuer, "subject": identity.subject, "user_id": user.id}
    # Of two first sign-ins at one moment, both go on.
    upsert(connection, ExternalIdentity, values, key=["issuer", "subject"], changed=[])
    detail = {"issuer": identity.issuer, "subject": users.without_address(identity.subject)}
    audit.note(connection, actor(identity), "identity.linked", f"user:{user.name}", detail)


def _with_role(connection: Connection, user: User, identity: Identity, rules: RoleRules) -> User:
    users.refuse_service(user)
    if not user.active:
        raise AccountError(Message("{name!r} is not active. Ask an admin to activate you.", name=user.name))
    if not rules.decide:
        return user
    return users.change_in(connection, user.name, actor=actor(identity), role=_role(identity, rules))


def _role(identity: Identity, rules: RoleRules) -> UserRole:
    role = rules.role(identity.groups)
    if role is None:
        raise AccountError(
            Message(
                'Your account "{name}" has no role here. Ask whoever runs the accounts for a group that may rate, '
                "and sign in again.",
                name=identity.name,
            )
        )
    return role


def _with_display_name(engine: Engine, user: User, identity: Identity) -> User:
    if not identity.display_name:
        return user
    try:
        return users.set_display_name(engine, user.name, identity.display_name, actor=actor(identity))
    except AccountError as error:
        # No reason to keep somebody out: screens show the name then.
        logger.info("The display name of %s is left out: %s", user.name, error)
        return user


def actor(identity: Identity) -> str:
    """Return the name under which the audit log has what somebody's account elsewhere has changed."""
    # No user's name has a colon.
    return "sso:proxy" if identity.issuer == PROXY else f"sso:{identity.issuer}"
