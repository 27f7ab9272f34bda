"""The header `Idempotency-Key`, and writes that are done once for each key.

As draft-ietf-httpapi-idempotency-key-header-07 has it: 400 for a key that is none, 409 while the first request is under
way, 422 where the key came with another one. A key is a structured field's string (RFC 9651), in quotes; since many
clients send it bare, that is understood, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from flask import Response, request
from sqlalchemy.engine import Connection, Engine
from werkzeug.exceptions import BadRequest, Conflict, UnprocessableEntity

from rlhf_loop.store.engine import transaction
from rlhf_loop.store.idempotency import LONGEST_KEY, KeyUsedError, StillRunningError, StoredAnswer, once

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"

_QUOTED = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
#: No comma: two headers of the name come as one, joined by it.
_BARE = re.compile(r"[!#-+\--~]+")


class ComeAgain(Conflict):
    """A conflict that passes by itself: its Retry-After tells it from one with what is there."""

    def get_headers(self, *args: Any, **options: Any) -> list[tuple[str, str]]:
        return [*super().get_headers(*args, **options), ("Retry-After", "1")]


def written(engine: Engine, owner: str, content: str, work: Callable[[Connection], StoredAnswer]) -> Response:
    """Do the work in one transaction, and only once where the request bears a key; return its answer.

    `content` is what the request says, apart from its method and path. What `work` raises undoes it, and frees the key.

    Raises:
        BadRequest: the key is none.
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
                answer, replayed = once(connection, owner, key, same, lambda: work(connection))
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
            f"The header {HEADER} is {shown!a}, which is no key. Send it once, with 1 to {LONGEST_KEY} signs of ASCII, "
            'such as "8e03978e-40d5-43e8-bc93-6f91d2e8a4c1".'
        )
    return key
