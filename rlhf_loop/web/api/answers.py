"""`/data`, `/data/ratings`, `/healthz` and `/readyz`, and the reading of requests for all routes."""

from __future__ import annotations

import codecs
import json
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from flask import Response, request
from pydantic import BaseModel, ValidationError
from werkzeug.exceptions import (
    BadRequest,
    ClientDisconnected,
    HTTPException,
    RequestEntityTooLarge,
    RequestTimeout,
    ServiceUnavailable,
    UnprocessableEntity,
    UnsupportedMediaType,
)

from rlhf_loop.answering import MAX_QUERY_CHARS, AnswerService
from rlhf_loop.domain import Answer, Review, ReviewerRole, UserRole
from rlhf_loop.errors import OutboxError
from rlhf_loop.utils.translation import Message
from rlhf_loop.web import logs
from rlhf_loop.web.api.openapi import Api, json_body, json_reply, problems
from rlhf_loop.web.guard import Guard
from rlhf_loop.web.localization import said_there
from rlhf_loop.web.origins import refuse_other_sites, remember, visitor
from rlhf_loop.web.problems import refusals
from rlhf_loop.web.process import WarmUp
from rlhf_loop.web.schemas import AnswerOut, HealthOut, QuestionIn, RatingIn, RatingOut, ReadinessOut, reason, shortened

logger = logging.getLogger(__name__)

#: After a 503, in seconds: what was busy or full is so for longer than a moment.
_RETRY_AFTER = 30

_Model = TypeVar("_Model", bound=BaseModel)

_ID = "5f0c4d4be7a04ce9a1a2d8a1f3a7c9d2"
_QUESTION = "What helps against a migraine attack?"
_TEXT = "Rest in a dark room, drink water, and take the painkiller early."
_VERSION = "passages-1a2b3c4d5e6f"
_ANSWER = {
    "query": _QUESTION,
    "best_answer": _TEXT,
    "ranked": [
        {
            "text": _TEXT,
            "score": 0.83,
            "rank": 1,
            "source": "wikipedia",
            "title": "Migraine",
            "url": "https://en.wikipedia.org/wiki/Migraine",
            "licence": "CC BY-SA 4.0",
            "retrieved_at": "2026-11-23T09:30:00Z",
            "drafted_by": None,
            "interaction_id": _ID,
        }
    ],
    "interaction_id": _ID,
    "model_version": _VERSION,
    "policy": "live",
    "degraded": {},
    "timings": {"sources": 182.4, "source:wikipedia": 181.9, "ranking": 9.6, "recording": 3.1, "total": 195.5},
}
_NO_ANSWER: dict[str, Any] = {
    "query": _QUESTION,
    "best_answer": None,
    "ranked": [],
    "interaction_id": None,
    "model_version": _VERSION,
    "policy": "live",
    "degraded": {"wikipedia": "no answer within 3 s"},
    "timings": {"sources": 3000.2, "total": 3000.9},
}
_RATING = {"interaction_id": _ID, "rating": 4, "comment": "Names the right order."}
_RATED = {"interaction_id": _ID, "rating": 4, "stored": True, "message": "Thank you. Your rating, 4 of 5, is stored."}
#: The parameter of an address that asks.
QUERY = {
    "name": "query",
    "in": "query",
    "required": True,
    "description": "The question. Long ones go by POST: an address may have 8,190 bytes.",
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_QUERY_CHARS},
    "example": _QUESTION,
}


@dataclass(frozen=True, slots=True)
class Rater:
    """The rater on the page of answers: a visitor by the name in their cookie, or an expert who is signed in."""

    name: str
    role: ReviewerRole
    cookie: str = ""


def add_routes(api: Api, service: AnswerService, warmup: WarmUp, guard: Guard) -> None:
    """Add the routes of the API for whoever asks."""
    found = json_reply(
        "The candidates, best first.", AnswerOut, examples={"found": _ANSWER, "nothing found": _NO_ANSWER}
    )

    @api.route("GET /data", "ask", replies={200: found, **problems(403, 414, 422, 429, 500)}, parameters=[QUERY])
    def data() -> Response:
        """Answer a question.

        A page of another site gets no answer, and leaves no record.
        """
        refuse_other_sites()
        _refuse_other_parameters()
        return json_response(answered(service, checked(QuestionIn, {"query": request.args["query"]})))

    @api.route(
        "POST /data",
        "askByPost",
        replies={200: found, **problems(400, 403, 408, 413, 415, 422, 429, 500)},
        body=json_body(QuestionIn, examples={"question": {"query": _QUESTION}}),
    )
    def data_post() -> Response:
        """Answer a question, in a body."""
        refuse_other_sites()
        return json_response(answered(service, parsed(QuestionIn)))

    @api.route(
        "POST /data/ratings",
        "rate",
        replies={
            200: json_reply("The rating is stored.", RatingOut, examples={"stored": _RATED}),
            202: json_reply("The rating is kept, and is stored once the database is back.", RatingOut),
            **problems(400, 403, 404, 408, 413, 415, 422, 429, 500, 503),
        },
        body=json_body(RatingIn, examples={"stars": _RATING, "thumb": {"interaction_id": _ID, "thumb": "up"}}),
    )
    def rate() -> Response:
        """Rate an answer from 1 to 5, or by a thumb.

        What visitors say is kept apart from what experts say. Who is signed in as an expert rates as one, and sends
        the page's form token as `X-Form-Token`.
        """
        refuse_other_sites()
        rating, by = parsed(RatingIn), rater(guard)
        result = rated(service, rating, by)
        return remembered(json_response(result, status=200 if result.stored else 202), by)

    @api.route("GET /healthz", "alive", tag="Service", replies={200: json_reply("It is.", HealthOut), **problems(500)})
    def healthz() -> Response:
        """Is the process alive?"""
        return json_response(HealthOut(status="ok"))

    @api.route(
        "GET /readyz",
        "ready",
        tag="Service",
        replies={200: json_reply("It is.", ReadinessOut), 503: json_reply("Not yet.", ReadinessOut), **problems(500)},
    )
    def readyz() -> Response:
        """Is everything loaded?"""
        # In an application of somebody else's, nobody else would begin.
        warmup.start()
        readiness = ReadinessOut.of(service.readiness())
        return json_response(readiness, status=200 if readiness.ready else 503)


def answered(service: AnswerService, question: QuestionIn) -> AnswerOut:
    """Answer a question, and note what the log's line says of it.

    Raises:
        UnprocessableEntity: the service refuses the question.
    """
    with refusals():
        answer: Answer = service.answer(question.query)
    notes = logs.begin(request)
    notes.answer, notes.model_version, notes.degraded = answer, answer.model_version, sorted(answer.degraded)
    return AnswerOut.of(answer)


def rater(guard: Guard) -> Rater:
    """Tell who rates. Read the body before.

    Raises:
        HTTPException: an expert's session, but not from a page of it, or one that owes the code of an app.
        DatabaseError: there is a session, and the database does not say whose.
    """
    user = guard.surely()
    if user is None or user.role is UserRole.SERVICE:
        name = visitor()
        return Rater(f"visitor:{name}", ReviewerRole.END_USER, name)
    guard.signed_in(UserRole.RATER)
    guard.check_form()
    return Rater(user.name, ReviewerRole.EXPERT)


def remembered(response: Response, by: Rater) -> Response:
    """Have a visitor's browser bring the name along."""
    return remember(response, by.cookie) if by.cookie else response


def rated(service: AnswerService, rating: RatingIn, by: Rater) -> RatingOut:
    """Record a rating, and say what became of it.

    Raises:
        UnprocessableEntity, NotFound: the service refuses the rating, or does not know the answer.
        ServiceUnavailable: it can be kept nowhere.
    """
    try:
        review = Review(rating=rating.stars, comment=rating.comment or None, reviewer=by.name, role=by.role)
        with refusals():
            stored = service.rate(rating.interaction_id, review)
    except OutboxError as error:
        logger.exception("A rating is lost: %s", error)
        raise ServiceUnavailable(
            Message(
                "Your rating could not be kept: the database does not answer, and what waits for it is full. "
                "Try again later."
            ),
            retry_after=_RETRY_AFTER,
        ) from error
    logs.begin(request).ratings.append(by.role)
    message = said_there(thanks(rating, stored=stored))
    return RatingOut(interaction_id=rating.interaction_id, rating=rating.stars, stored=stored, message=message)


def thanks(rating: RatingIn, *, stored: bool) -> Message:
    """Say what became of a rating."""
    if rating.thumb == "up":
        if stored:
            return Message("Thank you. Your thumb up is stored.")
        return Message("Thank you. Your thumb up is kept, and will be stored when the database is back.")
    if rating.thumb:
        if stored:
            return Message("Thank you. Your thumb down is stored.")
        return Message("Thank you. Your thumb down is kept, and will be stored when the database is back.")
    if stored:
        return Message("Thank you. Your rating, {stars} of 5, is stored.", stars=rating.stars)
    return Message(
        "Thank you. Your rating, {stars} of 5, is kept, and will be stored when the database is back.",
        stars=rating.stars,
    )


def parsed(model: type[_Model]) -> _Model:
    """Read the request's JSON.

    Raises:
        UnsupportedMediaType, BadRequest, UnprocessableEntity: it is not JSON, or not what the model wants.
        RequestTimeout, RequestEntityTooLarge: as `whole_body` says.
    """
    if not request.is_json:
        raise UnsupportedMediaType
    body = whole_body()
    try:
        found = model.model_validate_json(body)
    except ValidationError as error:
        if error.errors()[0]["type"] == "json_invalid":
            message = error.errors()[0]["ctx"]["error"]
            raise BadRequest(f"The body is not JSON: {message}. Send an object such as {{...}}, in UTF-8.") from error
        raise UnprocessableEntity(reason(error)) from error
    _refuse_doubled_fields(body)
    return found


def whole_body() -> bytes:
    """Read the request's body; a form is to be found in it afterwards. JSON may begin with a byte order mark.

    Raises:
        BadRequest, RequestTimeout: it cannot be read, or not in time.
        RequestEntityTooLarge: it is larger than `MAX_BODY_BYTES`.
    """
    try:
        body = request.get_data()
    except HTTPException as error:
        if isinstance(error.__context__, TimeoutError):
            raise RequestTimeout(Message("The body did not come in time. Send it again, all at once.")) from error
        if isinstance(error, ClientDisconnected):
            raise BadRequest(Message("The body broke off before its end. Send it again.")) from error
        raise
    except Exception as error:
        # Each server has exceptions of its own for chunks that are none.
        raise BadRequest("The body cannot be read: its chunks are broken. Send it with a Content-Length.") from error
    if request.content_length is None and len(body) >= (request.max_content_length or 0):
        # Sent in pieces, without its length: then only the beginning was read.
        raise RequestEntityTooLarge
    return body.removeprefix(codecs.BOM_UTF8) if request.is_json else body


def checked(model: type[_Model], values: Mapping[str, object]) -> _Model:
    """Read the values of an address or a form, where all is text.

    Raises:
        UnprocessableEntity: they are not what the model wants.
    """
    try:
        return model.model_validate(values, strict=False)
    except ValidationError as error:
        raise UnprocessableEntity(reason(error)) from error


def _refuse_other_parameters() -> None:
    given = request.args.getlist("query")
    if not given:
        raise UnprocessableEntity("query is missing. Ask with /data?query=..., or POST it as JSON.")
    if len(given) > 1:
        raise UnprocessableEntity(f"query is there {len(given)} times. Send one question at a time.")
    if others := sorted(set(request.args) - {"query"}):
        raise UnprocessableEntity(f"{shortened(', '.join(others))}: not known here. Send query and nothing else.")


def _refuse_doubled_fields(body: bytes) -> None:
    # pydantic takes the last of them. What it has found good is an object with few fields.
    def refuse(pairs: list[tuple[str, object]]) -> None:
        times = Counter(name for name, _ in pairs)
        if doubled := sorted(name for name in times if times[name] > 1):
            raise UnprocessableEntity(f"{shortened(', '.join(doubled))}: more than once. Send each field once.")

    json.loads(body, object_pairs_hook=refuse)


def json_response(body: BaseModel, *, status: int = 200) -> Response:
    """Return the model as a response."""
    return Response(body.model_dump_json(), status=status, content_type="application/json")
