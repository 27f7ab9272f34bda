"""Shared by the routes for applications: bodies, parameters, authorship of a review, and idempotent writes.

A write is done once for each `Idempotency-Key`, as draft-ietf-httpapi-idempotency-key-header-07 has it: 400 for a key
that is not valid, 409 while the first request is under way, 422 where the key came with another one. A key is a
structured field's string (RFC 9651), in quotes; since many clients send it bare, that is understood, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from flask import Response, request
from pydantic import BaseModel
from sqlalchemy.engine import Connection, Engine
from werkzeug.exceptions import BadRequest, Conflict, Forbidden, RequestEntityTooLarge, UnprocessableEntity

from rlhf_loop.accounts import tokens
from rlhf_loop.domain import ReviewerRole, User, UserRole
from rlhf_loop.store.engine import transaction
from rlhf_loop.store.idempotency import LONGEST_KEY, KeyUsedError, StillRunningError, StoredAnswer, once
from rlhf_loop.utils.text import tidied
from rlhf_loop.web.api.answers import checked, parsed, whole_body
from rlhf_loop.web.guard import Guard
from rlhf_loop.web.schemas import shortened

MAX_BODY_BYTES = 1024 * 1024

_Model = TypeVar("_Model", bound=BaseModel)

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"

_QUOTED = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
#: No comma: two headers of the name come as one, joined by it.
_BARE = re.compile(r"[!#-+\--~]+")


def written(engine: Engine, user: User, content: str, work: Callable[[Connection], StoredAnswer]) -> Response:
    """Do the work in one transaction, and only once where the request bears a key; return its answer.

    `content` is what the request says, apart from its method and path. What `work` raises undoes it, and frees the key.

    Raises:
        BadRequest: the key is not valid.
        Conflict: the first request with this key is under way.
        UnprocessableEntity: the key came with another request.
    """
    key = _key()
    try:
        with transaction(engine) as connection:
            if key is None:
                answer, replayed = work(connection), False
            else:
                same = f"{request.method} {request.path}\n{content}".encode()
                # By number: a name could be given to somebody else later.
                answer, replayed = once(connection, f"user:{user.id}", key, same, lambda: work(connection))
    except StillRunningError as error:
        raise ComeAgain(str(error)) from error
    except KeyUsedError as error:
        raise UnprocessableEntity(str(error)) from error
    response = Response(answer.body, status=answer.status, content_type="application/json")
    if not answer.body:
        del response.headers["Content-Type"]
    if answer.location is not None:
        response.headers["Location"] = answer.location
    if replayed:
        response.headers[REPLAYED] = "true"
    return response


def read_body(model: type[_Model]) -> _Model:
    """Read the body.

    Raises:
        HTTPException: it is too large, or it is not what the model wants.
    """
    read_more()
    return parsed(model)


def read_address(model: type[_Model]) -> _Model:
    """Read the parameters of the address.

    Raises:
        UnprocessableEntity: it is not what the model wants.
    """
    given = request.args.to_dict(flat=False)
    if doubled := sorted(name for name, values in given.items() if len(values) > 1):
        raise UnprocessableEntity(f"{shortened(', '.join(doubled))}: more than once. Send each parameter once.")
    return checked(model, {name: values[0] for name, values in given.items()})


def read_more() -> None:
    """Read a body of up to `MAX_BODY_BYTES`.

    Raises:
        RequestEntityTooLarge: it is larger.
    """
    # Only here, where the request has shown a token that is valid.
    request.max_content_length = MAX_BODY_BYTES
    if not request.is_json:
        # Then `parsed` says so, and there is no need to read it.
        return
    try:
        whole_body()
    except RequestEntityTooLarge as error:
        raise RequestEntityTooLarge(
            f"The request is larger than {MAX_BODY_BYTES:,} bytes. Send less at once: shorter texts, or a batch in "
            "several requests."
        ) from error


@dataclass(frozen=True, slots=True)
class Speaker:
    """The author of a review or preference, as it is stored."""

    name: str
    role: ReviewerRole


def resolve_author(guard: Guard, user: User, *, reviewer: str | None, role: str | None) -> Speaker:
    """Resolve the author of a review or preference.

    Raises:
        Forbidden: it would count as an expert's, and the token does not have the scope for that.
    """
    oneself = is_own(user, reviewer)
    whose = ReviewerRole(role or (ReviewerRole.EXPERT if oneself else ReviewerRole.END_USER))
    if whose is ReviewerRole.EXPERT and not oneself and not guard.has_scope(tokens.REVIEW_AS_EXPERT):
        raise Forbidden(
            f"To send the review of an expert, this token needs the scope {tokens.REVIEW_AS_EXPERT}. Ask an admin for "
            "another token, or send role end_user."
        )
    return Speaker(stored_name(user, reviewer), whose)


def protect_expert(guard: Guard, stored: ReviewerRole | None, name: str, *, own: bool) -> None:
    """Protect an expert's review from tokens that could not have sent it.

    Raises:
        Forbidden: it is stored as an expert's, and the token is neither theirs nor one for the word of experts.
    """
    if stored is ReviewerRole.EXPERT and not own and not guard.has_scope(tokens.REVIEW_AS_EXPERT):
        raise Forbidden(
            f"What {name!r} said of this is stored as an expert's. To replace it or take it back, this token "
            f"needs the scope {tokens.REVIEW_AS_EXPERT}. Nothing was changed; ask an admin for another token."
        )


def protect_ranking(guard: Guard, user: User, made: tuple[str, str] | None) -> None:
    """Protect what was ranked for one application from the ratings of another; `made` is the ranking and for whom.

    Raises:
        Forbidden: it was for another application, and the token is not one for the word of experts.
    """
    stranger = made is not None and user.role is UserRole.SERVICE and made[1] != user.name
    if made is not None and stranger and not guard.has_scope(tokens.REVIEW_AS_EXPERT):
        raise Forbidden(
            f"The ranking {made[0][:100]!r} was made for another application than {user.name!r}. Send its ratings with "
            f"a token of that one, or with the scope {tokens.REVIEW_AS_EXPERT}. Nothing was stored."
        )


def is_own(user: User, reviewer: str | None) -> bool:
    """Tell whether somebody speaks for themselves: an application is nobody who could."""
    return user.role is not UserRole.SERVICE and reviewer is None


def stored_name(user: User, reviewer: str | None) -> str:
    """Return the name under which a reviewer's word is stored."""
    # No user's name has a colon, so that nobody can speak in the name of another user.
    return user.name if reviewer is None else f"{user.name}:{tidied(reviewer).strip()}"


class ComeAgain(Conflict):
    """A conflict that passes by itself; its Retry-After tells it from a conflict with stored data."""

    def get_headers(self, *args: Any, **options: Any) -> list[tuple[str, str]]:
        return [*super().get_headers(*args, **options), ("Retry-After", "1")]


def _key() -> str | None:
    given = request.headers.get(HEADER)
    if given is None:
        return None
    if quoted := _QUOTED.fullmatch(given):
        key = re.sub(r"\\(.)", r"\1", quoted[1])
    else:
        key = given if _BARE.fullmatch(given) else ""
    if not 1 <= len(key) <= LONGEST_KEY:
        shown = given if len(given) <= 40 else f"{given[:40]}..."
        raise BadRequest(
            f"The header {HEADER} is {shown!a}, which is not a valid key. Send it once, with 1 to {LONGEST_KEY} ASCII "
            'characters, such as "8e03978e-40d5-43e8-bc93-6f91d2e8a4c1".'
        )
    return key
