"""What all routes for applications begin with: the body, the address's parameters, and whose word a request brings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from flask import request
from pydantic import BaseModel
from werkzeug.exceptions import Forbidden, RequestEntityTooLarge, UnprocessableEntity

from rlhf_loop.accounts import tokens
from rlhf_loop.domain import ReviewerRole, User, UserRole
from rlhf_loop.web.api.answers import checked, parsed, whole_body
from rlhf_loop.web.guard import Guard
from rlhf_loop.web.schemas import shortened

MAX_BODY_BYTES = 1024 * 1024

_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Speaker:
    """Whose word a review or preference is, as it is stored."""

    name: str
    role: ReviewerRole


def read_body(model: type[_Model]) -> _Model:
    """Read the body.

    Raises:
        HTTPException: it is too large, or it is not what the model wants.
    """
    read_more()
    return parsed(model)


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


def read_address(model: type[_Model]) -> _Model:
    """Read what stands in the address.

    Raises:
        UnprocessableEntity: it is not what the model wants.
    """
    given = request.args.to_dict(flat=False)
    if doubled := sorted(name for name, values in given.items() if len(values) > 1):
        raise UnprocessableEntity(f"{shortened(', '.join(doubled))}: more than once. Send each parameter once.")
    return checked(model, {name: values[0] for name, values in given.items()})


def whose_word(guard: Guard, user: User, *, reviewer: str | None, role: str | None) -> Speaker:
    """Tell whose word it is.

    Raises:
        Forbidden: an expert's, without the right to it.
    """
    oneself = is_own(user, reviewer)
    whose = ReviewerRole(role or (ReviewerRole.EXPERT if oneself else ReviewerRole.END_USER))
    if whose is ReviewerRole.EXPERT and not oneself and not guard.has_scope(tokens.REVIEW_AS_EXPERT):
        raise Forbidden(
            f"To send the word of an expert, this token needs the scope {tokens.REVIEW_AS_EXPERT}. Ask an admin for "
            "another token, or send role end_user."
        )
    return Speaker(stored_name(user, reviewer), whose)


def is_own(user: User, reviewer: str | None) -> bool:
    """Tell whether somebody speaks for themselves: an application is nobody who could."""
    return user.role is not UserRole.SERVICE and reviewer is None


def refuse_experts_word(guard: Guard, stored: ReviewerRole | None, name: str, *, own: bool) -> None:
    """Keep an expert's word from whoever could not have sent it.

    Raises:
        Forbidden: it is stored as an expert's, and the token is neither theirs nor one for the word of experts.
    """
    if stored is ReviewerRole.EXPERT and not own and not guard.has_scope(tokens.REVIEW_AS_EXPERT):
        raise Forbidden(
            f"What {name!r} said of this is stored as the word of an expert. To replace it or take it back, this token "
            f"needs the scope {tokens.REVIEW_AS_EXPERT}. Nothing was changed; ask an admin for another token."
        )


def stored_name(user: User, reviewer: str | None) -> str:
    """Return the name under which a reviewer's word is stored."""
    # No user's name has a colon, so that nobody can speak in the name of another user.
    return user.name if reviewer is None else f"{user.name}:{reviewer}"


def owner(user: User) -> str:
    """Return whose Idempotency-Keys a user's are."""
    # By number: a name could be given to somebody else later.
    return f"user:{user.id}"
