"""Errors of the rerank API, in the words of this house and the shape of each dialect."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

from flask import Response, current_app, request
from pydantic import BaseModel
from werkzeug.exceptions import HTTPException, UnprocessableEntity

from rlhf_loop.web import logs
from rlhf_loop.web.api.rerank_schemas import CohereErrorOut, JinaErrorOut, TeiErrorOut, VllmErrorOut, VllmFaultOut
from rlhf_loop.web.problems import detail


class NothingToRank(UnprocessableEntity):
    """There are no documents."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a dialect says that something is wrong; `statuses` are those for which it has another one."""

    body: Callable[[HTTPException, int, str], BaseModel]
    statuses: Mapping[type[HTTPException], int] = field(default_factory=dict)

    def answer(self, error: HTTPException) -> Response:
        """Return the response to a request that failed."""
        # Its own response bears the headers: Retry-After, WWW-Authenticate, or where a redirect leads.
        response = current_app.make_response(error)
        if error.code is None or error.code < 400 or error.response is not None:
            return response
        status = self.statuses.get(type(error), error.code)
        response.status_code = status
        response.data = self.body(error, status, detail(error)).model_dump_json()
        response.content_type = "application/json"
        return response


def _tei(error: HTTPException, status: int, message: str) -> TeiErrorOut:
    kind = "Empty" if isinstance(error, NothingToRank) else _TEI_TYPES.get(status, "Validation")
    return TeiErrorOut(error=message, error_type=kind)


def _vllm(error: HTTPException, status: int, message: str) -> VllmErrorOut:
    kind = HTTPStatus(status).phrase.title().replace(" ", "").removesuffix("Error")
    return VllmErrorOut(error=VllmFaultOut(message=message, type=f"{kind}Error", code=status))


#: Those that TEI has, and one for what it leaves to a proxy.
_TEI_TYPES = {
    401: "Unauthorized",
    403: "Unauthorized",
    429: "Overloaded",
    500: "Backend",
    503: "Unhealthy",
}

JINA = Dialect(lambda error, status, message: JinaErrorOut(detail=message))
COHERE = Dialect(lambda error, status, message: CohereErrorOut(message=message, id=logs.begin(request).id))
TEI = Dialect(_tei, {NothingToRank: 400})
VLLM = Dialect(_vllm, {NothingToRank: 400, UnprocessableEntity: 400})
