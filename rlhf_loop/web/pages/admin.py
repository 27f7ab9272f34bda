"""The admin's pages: users and roles, the tokens of applications, imports of ratings files, and the audit log."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial, wraps

from flask import Blueprint, Response, make_response, redirect, request, url_for
from werkzeug.exceptions import UnprocessableEntity

from rlhf_loop.accounts import links, second_factor, tokens, users
from rlhf_loop.accounts.mail import MailServer, send
from rlhf_loop.config import Settings
from rlhf_loop.domain import UserRole
from rlhf_loop.errors import AccountError, MailError
from rlhf_loop.store import audit
from rlhf_loop.utils.text import one_line
from rlhf_loop.utils.translation import Message
from rlhf_loop.web.api.answers import whole_body
from rlhf_loop.web.guard import Guard
from rlhf_loop.web.localization import translator
from rlhf_loop.web.pages import admin_import, people
from rlhf_loop.web.pages.people import Flash, moment, page
from rlhf_loop.web.problems import html_errors
from rlhf_loop.web.process import Database

_ENTRIES, _USERS = 50, 50
#: The rights of roles and scopes, in an admin's words.
_ROLES = {
    UserRole.RATER: Message("rater: reviews answers"),
    UserRole.ADMIN: Message("admin: does everything"),
    UserRole.SERVICE: Message("service: an application, by tokens only"),
}
#: The names of the roles, here for the catalogues.
ROLE_NAMES = (Message("rater"), Message("admin"), Message("service"))
_SCOPES = {
    tokens.READ: Message("read answers and their reviews"),
    tokens.WRITE: Message("record answers"),
    tokens.REVIEW: Message("rate in the name of its end users, and of itself"),
    tokens.REVIEW_AS_EXPERT: Message("rate in the name of experts, who train the model"),
    tokens.METRICS: Message("read the metrics, for Prometheus"),
    tokens.RERANK: Message("have documents ranked, by the rerank API"),
    tokens.BATCH: Message("send the documents of a question in batches: their scores do not depend on each other"),
    tokens.CHAT: Message("have the language model answer, the best of several drafts"),
}
_SUBJECT = Message("Your account at RLHF Loop")
_DEFAULT_DAYS = 365
_LARGEST_ID = 2**31 - 1


def add_routes(web: Blueprint, settings: Settings, database: Database, guard: Guard) -> None:
    """Give the blueprint these routes.

    Raises:
        ConfigError: the mail server cannot be used.
    """
    admin_import.add_routes(web, database, guard)
    mail = MailServer.of(settings)
    users_page, tokens_page = partial(_users_page, database, guard, mail), partial(_tokens_page, database, guard)

    @web.get("/admin")
    @html_errors
    def admin() -> Response:
        guard.signed_in(UserRole.ADMIN)
        return users_page()

    @web.post("/admin/users")
    @_form(guard, users_page)
    def admin_users_add(actor: str) -> Response:
        role, email = _role(request.form.get("role", "")), request.form.get("email", "")
        if role == UserRole.SERVICE:
            email = ""
        user = users.add(database.engine(), request.form.get("name", ""), role=role, actor=actor, email=email)
        if role == UserRole.SERVICE:
            flash = Flash(Message("The service {name} is added. Make a token for it next.", name=user.name))
            return _done(guard, ".admin_tokens", flash)
        said = Message("{name} is added.", name=user.name)
        return _done(guard, ".admin", _invited(database, guard, mail, user.name, actor, said))

    @web.post("/admin/users/change")
    @_form(guard, users_page)
    def admin_users_change(actor: str) -> Response:
        name, what = request.form.get("name", ""), request.form.get("do", "")
        return _done(guard, ".admin", _changed(database, guard, mail, name, what, actor))

    @web.get("/admin/tokens")
    @html_errors
    def admin_tokens() -> Response:
        guard.signed_in(UserRole.ADMIN)
        return tokens_page()

    @web.post("/admin/tokens")
    @_form(guard, tokens_page)
    def admin_tokens_add(actor: str) -> Response:
        new = tokens.add(
            database.engine(),
            request.form.get("name", ""),
            user=request.form.get("user", ""),
            scopes=request.form.getlist("scope"),
            days=_days(request.form.get("days", "")),
            actor=actor,
        )
        text = Message("The token is made. Copy it now: it is shown this once, and only its hash is kept.")
        return _done(guard, ".admin_tokens", Flash(text, secret=new.secret, label=Message("New token")))

    @web.post(f"/admin/tokens/<int(max={_LARGEST_ID}):id>/revoke")
    @_form(guard, tokens_page)
    def admin_tokens_revoke(actor: str, id: int) -> Response:
        tokens.revoke(database.engine(), id, actor=actor)
        return _done(
            guard, ".admin_tokens", Flash(Message("Token {id} is revoked. It is worth nothing from now on.", id=id))
        )

    @web.get("/admin/audit")
    @html_errors
    def admin_audit() -> Response:
        guard.signed_in(UserRole.ADMIN)
        actor, action = one_line(request.args.get("actor")), one_line(request.args.get("action"))
        found = audit.entries(database.engine(), before=_before(), actor=actor, action=action, limit=_ENTRIES + 1)
        shown = found[:_ENTRIES]
        older = (
            url_for(".admin_audit", actor=actor, action=action, before=shown[-1].id) if len(found) > _ENTRIES else None
        )
        return page(
            "admin_audit.html",
            guard,
            entries=shown,
            actor=actor or "",
            action=action or "",
            older=older,
            moment=moment,
            written=_written,
        )


def _users_page(database: Database, guard: Guard, mail: MailServer | None, error: str = "") -> Response:
    words, after = (one_line(request.args.get(name)) or "" for name in ("q", "after"))
    found = users.accounts(database.engine(), words=words, after=after, limit=_USERS + 1)
    shown = found[:_USERS]
    return page(
        "admin.html",
        guard,
        status=422 if error else 200,
        accounts=shown,
        words=words,
        # A few are found at a glance.
        searchable=bool(words or after or len(found) > _USERS),
        more=url_for(".admin", q=words or None, after=shown[-1].user.name) if len(found) > _USERS else None,
        roles=_ROLES,
        error=error,
        given=request.form,
        moment=moment,
        passwords=guard.passwords,
        second_factors=second_factor.owners(database.engine()),
        mail=mail is not None,
        provided=guard.provider is not None,
    )


def _tokens_page(database: Database, guard: Guard, error: str = "") -> Response:
    return page(
        "admin_tokens.html",
        guard,
        status=422 if error else 200,
        tokens=tokens.tokens(database.engine()),
        accounts=[account for account in users.accounts(database.engine()) if account.user.active],
        scopes=_SCOPES,
        error=error,
        given=request.form,
        chosen=request.form.getlist("scope"),
        days=request.form.get("days", _DEFAULT_DAYS),
        longest_days=tokens.LONGEST_DAYS,
        now=guard.now(),
        moment=moment,
    )


def _form(
    guard: Guard, page: Callable[[str], Response]
) -> Callable[[Callable[..., Response]], Callable[..., Response]]:
    """Make a view of what an admin's form does: it gets the admin's name, and what is refused stands on the page."""

    def wrap(act: Callable[..., Response]) -> Callable[..., Response]:
        @html_errors
        @wraps(act)
        def view(**path: int) -> Response:
            user = guard.signed_in(UserRole.ADMIN)
            whole_body()
            guard.check_form()
            try:
                return act(user.name, **path)
            except AccountError as error:
                return page(str(error))

        return view

    return wrap


def _changed(database: Database, guard: Guard, mail: MailServer | None, name: str, what: str, actor: str) -> Flash:
    if what == "link":
        said = Message("There is a new link for {name}.", name=name)
        return _invited(database, guard, mail, name, actor, said)
    if what == "second-factor":
        second_factor.remove(database.engine(), name, actor=actor)
        return Flash(Message("The app of {name} is taken away. Their password alone is asked for.", name=name))
    if what == "email":
        address = users.set_email(database.engine(), name, request.form.get("email", ""), actor=actor)
        if address:
            return Flash(Message("The e-mail address of {name} is {address}.", name=name, address=address))
        return Flash(Message("{name} has no e-mail address any more.", name=name))
    if what == "role":
        changed = users.change(database.engine(), name, role=_role(request.form.get("role", "")), actor=actor)
        return Flash(Message("{name} is {role}.", name=changed.name, role=_ROLES[changed.role]))
    if what == "name":
        changed = users.set_display_name(database.engine(), name, request.form.get("display_name", ""), actor=actor)
        return Flash(Message("{name} is shown as {shown}.", name=changed.name, shown=changed.shown))
    if what in ("activate", "deactivate"):
        changed = users.change(database.engine(), name, active=what == "activate", actor=actor)
        if changed.active:
            return Flash(Message("{name} is active again.", name=changed.name))
        return Flash(Message("{name} is not active any more, and signed out everywhere.", name=changed.name))
    raise UnprocessableEntity(Message("The form does not say what to do. Use the buttons of the page."))


def _invited(database: Database, guard: Guard, mail: MailServer | None, name: str, actor: str, said: Message) -> Flash:
    """Invite somebody: by e-mail where that can be, else by a link that the admin hands on."""
    engine = database.engine()
    to, address = users.email_of(engine, name), url_for(".sign_in", _external=True)
    if guard.passwords:
        address = url_for(".welcome", secret=links.invite(engine, name, actor=actor), _external=True)
    unsent: str = Message("Give the link to nobody else: whoever opens it first sets the password.")
    if mail is not None and to:
        speaks = translator()
        try:
            send(mail, to, subject=speaks(_SUBJECT), text=speaks(_invitation(guard, name, address)))
            return Flash(Message("{said} An invitation has gone to {to}.", said=said, to=to))
        except MailError as error:
            unsent = Message("{error} {unsent}", error=str(error), unsent=unsent)
    if not guard.passwords:
        return Flash(Message("{said} They sign in at {address}.", said=said, address=address))
    return Flash(
        Message(
            "{said} {unsent} It works once, within {hours} hours, and is shown only now.",
            said=said,
            unsent=unsent,
            hours=links.HOURS,
        ),
        secret=address,
        label=Message("Link for {name}", name=name),
    )


def _invitation(guard: Guard, name: str, address: str) -> Message:
    if not guard.passwords:
        return Message(
            "Hello,\n\nyou have been added to RLHF Loop as {name}. Sign in here:\n\n{address}\n\nIf you do not know "
            "what this is about, leave it alone.\n",
            name=name,
            address=address,
        )
    return Message(
        "Hello,\n\nyou have been added to RLHF Loop as {name}. Choose your password here; the link works once, within "
        "{hours} hours:\n\n{address}\n\nIf you do not know what this is about, leave it alone: without "
        "the link nothing happens.\n",
        name=name,
        hours=links.HOURS,
        address=address,
    )


def _done(guard: Guard, endpoint: str, flash: Flash) -> Response:
    return people.leave(guard, make_response(redirect(url_for(endpoint), code=303)), flash)


def _role(given: str) -> UserRole:
    try:
        return UserRole(given)
    except ValueError as error:
        raise AccountError(
            Message(
                "{given!r} is not a valid role. Choose one of: {roles}.", given=given[:80], roles=", ".join(UserRole)
            )
        ) from error


def _days(given: str) -> int | None:
    given = given.strip()
    if not given:
        return None
    if not (given.isascii() and given.isdigit() and len(given) < 10):
        raise AccountError(
            Message(
                "{given!r} is not a valid number of days. Write one, or nothing for a token without end.",
                given=given[:80],
            )
        )
    return int(given)


def _before() -> int | None:
    given = request.args.get("before", "")
    if not given:
        return None
    # The length first: Python reads no number of thousands of digits, be they zeros.
    readable = given.isascii() and given.isdigit() and len(given) <= len(str(_LARGEST_ID))
    if not (readable and int(given) <= _LARGEST_ID):
        raise UnprocessableEntity(
            Message("{given!r} is not an entry of the audit log. Begin at its newest: /admin/audit", given=given[:80])
        )
    return int(given)


def _written(detail: Mapping[str, object]) -> str:
    return json.dumps(detail, ensure_ascii=False, sort_keys=True) if detail else ""
