"""Shared by the raters' screens: access, limits on what is sent, and responses to errors of the services."""

from __future__ import annotations

from dataclasses import dataclass

from flask import Response, current_app, render_template, request, url_for
from pydantic import BaseModel
from sqlalchemy.engine import Engine
from werkzeug.exceptions import RequestEntityTooLarge, ServiceUnavailable

from rlhf_loop.config import Settings
from rlhf_loop.domain import User, UserRole
from rlhf_loop.reviewing import MAX_COMMENT, MAX_CORRECTION, Scoring
from rlhf_loop.utils.text import plain_lines, web_address
from rlhf_loop.utils.translation import Message
from rlhf_loop.web.api.answers import whole_body
from rlhf_loop.web.guard import Guard
from rlhf_loop.web.localization import translator
from rlhf_loop.web.pages import people
from rlhf_loop.web.pages.answers import MEANINGS
from rlhf_loop.web.pages.people import Flash
from rlhf_loop.web.process import Database

#: An answer with its correction is longer than any question.
MAX_BODY_BYTES = 256 * 1024
#: No database has larger ids, and SQLite's driver would fail on them.
ID = "int(max=9223372036854775807)"


class DeskOut(BaseModel):
    """The response to a script of these screens: `html` for the place of the answer, None if that stays as it is.

    `progress` is the HTML of the rater's progress where only that changes.
    """

    message: str
    html: str | None = None
    at: str | None = None
    progress: str | None = None


@dataclass(frozen=True, slots=True)
class Desk:
    """Everything that the views of these screens need."""

    settings: Settings
    database: Database
    guard: Guard
    scoring: Scoring

    def rater(self) -> User:
        """Return the rater who is signed in; see `Guard.signed_in`."""
        return self.guard.signed_in(UserRole.RATER, UserRole.ADMIN)

    def waiting_rater(self) -> User:
        """Return the rater who is to be given what comes next, which others do not get then.

        Raises:
            HTTPException: as `rater`, or a browser only loads the page ahead, which somebody may open or not.
        """
        user = self.rater()
        if any("prefetch" in request.headers.get(name, "") for name in ("Sec-Purpose", "Purpose", "X-Moz")):
            raise ServiceUnavailable(Message("What comes next is given to those who open this page. Open it."))
        return user

    def posting_rater(self) -> User:
        """Return the rater whose form or script this is.

        Raises:
            HTTPException: as `Guard.signed_in` and `Guard.check_form`, or the body cannot be read.
        """
        return self._posting(UserRole.RATER, UserRole.ADMIN)

    def posting_admin(self) -> User:
        """Do what `posting_rater` does, for an admin."""
        return self._posting(UserRole.ADMIN)

    def engine(self) -> Engine:
        """Return the ratings database."""
        return self.database.engine()

    def page(self, template: str, *, status: int = 200, **values: object) -> Response:
        """Return a page of these screens."""
        # In no cache: what raters read and write may be personal, and an old form is of no use.
        return people.page(template, self.guard, status=status, **self._shared(), **values)

    def onward(self, to: str, text: str) -> Response:
        """Lead to a page after a form was sent; the page says the text."""
        return people.leave(self.guard, Response(status=303, headers={"Location": to}), Flash(text))

    def fragment(self, template: str, **values: object) -> str:
        """Return a part of a page, with what all templates of these screens use."""
        token = self.guard.form_token()
        return render_template(f"rlhf_loop/{template}", form_token=token, **self._shared(), **values)

    def macro(self, template: str, name: str, *values: object) -> str:
        """Return what a macro of a template makes of these values."""
        found = current_app.jinja_env.get_template(f"rlhf_loop/{template}")
        return str(getattr(found.make_module(translator().template()), name)(*values))

    def _shared(self) -> dict[str, object]:
        return {
            "user": self.guard.user(),
            "blind": self.settings.review_blind,
            "meanings": MEANINGS,
            "web_address": web_address,
            "max_comment": MAX_COMMENT,
            "max_correction": MAX_CORRECTION,
        }

    def _posting(self, *roles: UserRole) -> User:
        request.max_content_length = request.max_form_memory_size = MAX_BODY_BYTES
        user = self.guard.signed_in(*roles)
        try:
            whole_body()
        except RequestEntityTooLarge as error:
            raise RequestEntityTooLarge(
                Message(
                    "The text is larger than {bytes:,} bytes. Shorten the correction or the comment.",
                    bytes=MAX_BODY_BYTES,
                )
            ) from error
        self.guard.check_form()
        return user


def own_lines(text: str | None) -> str:
    """Return a text with the line breaks that were typed: in a form, a browser sends two characters for each."""
    return plain_lines(text or "")


def address(endpoint: str, **values: object) -> str:
    """Return the address of a view of this blueprint."""
    return url_for(f".{endpoint}", **values)  # type: ignore[arg-type]
