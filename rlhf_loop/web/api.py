"""The JSON side: `/data`, `/data/ratings`, `/healthz`, `/readyz`."""

from __future__ import annotations

import logging
from typing import TypeVar

from flask import Blueprint, Response, request
from pydantic import BaseModel, ValidationError
from werkzeug.exceptions import (
    BadRequest,
    NotFound,
    RequestEntityTooLarge,
    ServiceUnavailable,
    UnprocessableEntity,
    UnsupportedMediaType,
)

from rlhf_loop.answering import AnswerService
from rlhf_loop.domain import Answer
from rlhf_loop.errors import OutboxError
from rlhf_loop.web import logs
from rlhf_loop.web.schemas import AnswerOut, HealthOut, QuestionIn, RatingIn, RatingOut, ReadinessOut, reason
from rlhf_loop.web.visitors import refuse_other_sites, remember, visitor
from rlhf_loop.web.warmup import WarmUp

logger = logging.getLogger(__name__)

#: After a 503, in seconds: what was busy or full is so for longer than a moment.
_RETRY_AFTER = 30

_Model = TypeVar("_Model", bound=BaseModel)


def add_routes(web: Blueprint, service: AnswerService, warmup: WarmUp) -> None:
    """Give the blueprint the routes of the API."""

    @web.get("/data")
    def data() -> Response:
        if "query" not in request.args:
            raise UnprocessableEntity("query is missing. Ask with /data?query=..., or POST it as JSON.")
        return _json(answered(service, checked(QuestionIn, {"query": request.args["query"]})))

    @web.post("/data")
    def data_post() -> Response:
        return _json(answered(service, parsed(QuestionIn)))

    @web.post("/data/ratings")
    def rate() -> Response:
        refuse_other_sites()
        rating, name = parsed(RatingIn), visitor()
        result = rated(service, rating, name)
        return remember(_json(result, status=200 if result.stored else 202), name)

    @web.get("/healthz")
    def healthz() -> Response:
        return _json(HealthOut(status="ok"))

    @web.get("/readyz")
    def readyz() -> Response:
        # In an application of somebody else's, nobody else would begin.
        warmup.start()
        readiness = service.readiness()
        found = ReadinessOut.of(readiness)
        return _json(found, status=200 if found.ready else 503)


def answered(service: AnswerService, question: QuestionIn) -> AnswerOut:
    """Answer a question, and note what the log's line says of it.

    Raises:
        UnprocessableEntity: the service refuses the question.
    """
    try:
        answer: Answer = service.answer(question.query)
    except ValueError as error:
        raise UnprocessableEntity(str(error)) from error
    notes = logs.begin(request)
    notes.model_version, notes.degraded = answer.model_version, sorted(answer.degraded)
    return AnswerOut.of(answer)


def rated(service: AnswerService, rating: RatingIn, name: str) -> RatingOut:
    """Record a visitor's rating, and say what became of it.

    Raises:
        UnprocessableEntity, NotFound: the service refuses the rating, or does not know the answer.
        ServiceUnavailable: it can be kept nowhere.
    """
    try:
        stored = service.rate(
            rating.interaction_id, rating=rating.rating, reviewer=f"visitor:{name}", comment=rating.comment or None
        )
    except ValueError as error:
        raise UnprocessableEntity(str(error)) from error
    except LookupError as error:
        raise NotFound(str(error.args[0]) if error.args else "There is no such answer.") from error
    except OutboxError as error:
        logger.exception("A rating is lost: %s", error)
        raise ServiceUnavailable(
            "Your rating could not be kept: the database does not answer, and what waits for it is full. "
            "Try again later.",
            retry_after=_RETRY_AFTER,
        ) from error
    message = (
        f"Thank you. Your rating, {rating.rating} of 5, is stored."
        if stored
        else f"Thank you. Your rating, {rating.rating} of 5, is kept, and will be stored when the database is back."
    )
    return RatingOut(interaction_id=rating.interaction_id, rating=rating.rating, stored=stored, message=message)


def parsed(model: type[_Model]) -> _Model:
    """Read the request's JSON.

    Raises:
        UnsupportedMediaType, BadRequest, UnprocessableEntity: it is no JSON, broken JSON, or not what the model wants.
        RequestEntityTooLarge: it is larger than `MAX_BODY_BYTES`.
    """
    if not request.is_json:
        raise UnsupportedMediaType
    body = request.get_data()
    if request.content_length is None and len(body) >= (request.max_content_length or 0):
        # Sent in pieces, without its length: then only the beginning was read.
        raise RequestEntityTooLarge
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        if error.errors()[0]["type"] == "json_invalid":
            message = error.errors()[0]["ctx"]["error"]
            raise BadRequest(f"The body is not JSON: {message}. Send an object such as {{...}}, in UTF-8.") from error
        raise UnprocessableEntity(reason(error)) from error


def checked(model: type[_Model], values: dict[str, str]) -> _Model:
    """Read the values of an address or a form, where all is text.

    Raises:
        UnprocessableEntity: they are not what the model wants.
    """
    try:
        return model.model_validate(values, strict=False)
    except ValidationError as error:
        raise UnprocessableEntity(reason(error)) from error


def _json(body: BaseModel, *, status: int = 200) -> Response:
    return Response(body.model_dump_json(), status=status, content_type="application/json")
