"""The OpenAPI 3.1 document: made of the models that check the requests, so that it cannot say anything else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from rlhf_loop.answering import MAX_QUERY_CHARS
from rlhf_loop.version import __version__
from rlhf_loop.web.problems import MEDIA_TYPE
from rlhf_loop.web.schemas import (
    AnswerOut,
    HealthOut,
    ProblemOut,
    QuestionIn,
    RatingIn,
    RatingOut,
    ReadinessOut,
)

_REQUESTS = (QuestionIn, RatingIn)
_RESPONSES = (AnswerOut, RatingOut, ReadinessOut, HealthOut, ProblemOut)
_MODELS: Sequence[tuple[type[BaseModel], JsonSchemaMode]] = [
    *((model, "validation") for model in _REQUESTS),
    *((model, "serialization") for model in _RESPONSES),
]

_PROBLEMS = {
    400: "The body is not JSON, or broken.",
    403: "The request comes from a page of another site.",
    404: "There is no answer with that id.",
    408: "The body did not come in time.",
    413: "The body is larger than 64 KiB.",
    415: "The body is not declared as JSON.",
    422: "A value is missing, empty, too long or of the wrong type.",
    500: "Something unexpected; the log has it under the request id.",
    503: "The rating can be kept nowhere at the moment.",
}
_QUESTION = "What helps against a migraine attack?"
_ANSWER = {
    "query": _QUESTION,
    "best_answer": "Rest in a dark room, drink water, and take the painkiller early.",
    "ranked": [
        {
            "text": "Rest in a dark room, drink water, and take the painkiller early.",
            "score": 0.83,
            "rank": 1,
            "source": "wikipedia",
            "title": "Migraine",
            "url": "https://en.wikipedia.org/wiki/Migraine",
            "licence": "CC BY-SA 4.0",
            "retrieved_at": "2026-11-23T09:30:00Z",
            "interaction_id": "5f0c4d4be7a04ce9a1a2d8a1f3a7c9d2",
        }
    ],
    "interaction_id": "5f0c4d4be7a04ce9a1a2d8a1f3a7c9d2",
    "model_version": "passages-1a2b3c4d5e6f",
    "degraded": {},
    "timings": {"sources": 182.4, "source:wikipedia": 181.9, "ranking": 9.6, "recording": 3.1, "total": 195.5},
}
_NO_ANSWER: dict[str, Any] = {
    "query": _QUESTION,
    "best_answer": None,
    "ranked": [],
    "interaction_id": None,
    "model_version": "passages-1a2b3c4d5e6f",
    "degraded": {"wikipedia": "no answer within 3 s"},
    "timings": {"sources": 3000.2, "total": 3000.9},
}
_RATING = {"interaction_id": "5f0c4d4be7a04ce9a1a2d8a1f3a7c9d2", "rating": 4, "comment": "Names the right order."}
_RATED = {
    "interaction_id": "5f0c4d4be7a04ce9a1a2d8a1f3a7c9d2",
    "rating": 4,
    "stored": True,
    "message": "Thank you. Your rating, 4 of 5, is stored.",
}
_QUERY = {
    "name": "query",
    "in": "query",
    "required": True,
    "description": "The question. Long ones go by POST: an address may have 8,190 bytes.",
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_QUERY_CHARS},
    "example": _QUESTION,
}
_TAGS = {
    "Answers": "Ask, and say how good an answer is.",
    "Pages": "The same for people.",
    "Service": "Is it alive, is it ready, and what can it do?",
}


def document(base: str = "") -> dict[str, Any]:
    """Return the document; `base` is the path under which the routes are, without a slash at its end."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "RLHF Loop",
            "version": __version__,
            "summary": "Answers, best one first, as expert ratings taught it.",
            "description": "Candidates come from the configured sources, the live reward model puts the best one "
            "first, and everything is recorded so that it can be rated. Errors are problem+json (RFC 9457). Each "
            "response bears an `X-Request-ID`; one that you send is taken over.",
        },
        "servers": [{"url": base or "/"}],
        "tags": [{"name": name, "description": description} for name, description in _TAGS.items()],
        "paths": _paths(),
        "components": {"schemas": _schemas()},
    }


def methods() -> dict[str, list[str]]:
    """Return the paths with what can be done there."""
    return {path: [method.upper() for method in operations] for path, operations in _paths().items()}


def _paths() -> dict[str, dict[str, Any]]:
    answer = _json(AnswerOut, "The candidates, best first.", {"found": _ANSWER, "nothing found": _NO_ANSWER})
    rated = _json(RatingOut, "The rating is stored.", {"stored": _RATED})
    waits = _json(RatingOut, "The rating is kept, and is stored once the database is back.", {})
    page = _html("The page with the answers.")
    return {
        "/data": {
            "get": _operation(
                "ask", "Answers", "Answer a question", {200: answer}, problems=(422, 500), parameters=[_QUERY]
            ),
            "post": _operation(
                "askByPost",
                "Answers",
                "Answer a question, in a body",
                {200: answer},
                problems=(400, 408, 413, 415, 422, 500),
                body=_json_body(QuestionIn, {"query": _QUESTION}),
            ),
        },
        "/data/ratings": {
            "post": _operation(
                "rate",
                "Answers",
                "Rate an answer from 1 to 5",
                {200: rated, 202: waits},
                problems=(400, 403, 404, 408, 413, 415, 422, 500, 503),
                body=_json_body(RatingIn, _RATING),
            )
        },
        "/data-html": {
            "get": _operation(
                "page",
                "Pages",
                "The page: a box for the question, and its answers",
                {200: page},
                problems=(),
                pages=(422, 500),
                parameters=[{**_QUERY, "required": False}],
            ),
            "post": _operation(
                "pageByPost",
                "Pages",
                "The page with the answers to a question, from its form",
                {200: page},
                problems=(),
                pages=(400, 408, 413, 422, 500),
                body=_form({"query": QuestionIn.model_json_schema()["properties"]["query"]}, ["query"]),
            ),
        },
        "/data-html/ratings": {
            "post": _operation(
                "rateByForm",
                "Pages",
                "Rate an answer, from the page's form",
                {200: _html("Thanks: it is stored."), 202: _html("Thanks: it is kept for later.")},
                problems=(),
                pages=(400, 403, 404, 408, 413, 422, 500, 503),
                body=_form(RatingIn.model_json_schema()["properties"], ["interaction_id", "rating"]),
            )
        },
        "/healthz": {
            "get": _operation("alive", "Service", "Is the process alive?", {200: _json(HealthOut, "It is.", {})})
        },
        "/readyz": {
            "get": _operation(
                "ready",
                "Service",
                "Is everything loaded?",
                {200: _json(ReadinessOut, "It is.", {}), 503: _json(ReadinessOut, "Not yet.", {})},
            )
        },
        "/openapi.json": {
            "get": _operation(
                "describe",
                "Service",
                "This document",
                {200: {"description": "It.", "content": {"application/json": {"schema": {"type": "object"}}}}},
            )
        },
        "/docs": {"get": _operation("reference", "Service", "This document as a page", {200: _html("The reference.")})},
    }


def _operation(
    name: str,
    tag: str,
    summary: str,
    responses: Mapping[int, Mapping[str, Any]],
    *,
    problems: Iterable[int] = (500,),
    pages: Iterable[int] = (),
    parameters: Sequence[Mapping[str, Any]] = (),
    body: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    every = {
        **responses,
        **{status: _problem(status) for status in problems},
        **{status: _html(_PROBLEMS[status]) for status in pages},
    }
    operation: dict[str, Any] = {"operationId": name, "tags": [tag], "summary": summary}
    if parameters:
        operation["parameters"] = list(parameters)
    if body:
        operation["requestBody"] = body
    operation["responses"] = {str(status): every[status] for status in sorted(every)}
    return operation


def _json(model: type[BaseModel], description: str, examples: Mapping[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": _reference(model)}
    if examples:
        content["examples"] = {name: {"value": value} for name, value in examples.items()}
    return {"description": description, "content": {"application/json": content}}


def _json_body(model: type[BaseModel], example: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "required": True,
        "content": {"application/json": {"schema": _reference(model), "example": example}},
    }


def _form(properties: Mapping[str, Any], required: Sequence[str]) -> dict[str, Any]:
    schema = {"type": "object", "properties": dict(properties), "required": list(required)}
    return {"required": True, "content": {"application/x-www-form-urlencoded": {"schema": schema}}}


def _html(description: str) -> dict[str, Any]:
    return {"description": description, "content": {"text/html": {"schema": {"type": "string"}}}}


def _problem(status: int) -> dict[str, Any]:
    example = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": _PROBLEMS[status],
        "request_id": "0d9d6f3c6f0b4f0f8f5c1d2e3a4b5c6d",
    }
    return {
        "description": _PROBLEMS[status],
        "content": {MEDIA_TYPE: {"schema": _reference(ProblemOut), "example": example}},
    }


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{_name(model)}"}


def _name(model: type[BaseModel]) -> str:
    # Its title: that a class says whether it goes in or out is for our code only.
    return str(model.model_config["title"])


def _schemas() -> dict[str, Any]:
    _, found = models_json_schema(_MODELS, ref_template="#/components/schemas/{model}")
    names = {name: schema["title"] for name, schema in found["$defs"].items()}
    return {names[name]: _renamed(schema, names) for name, schema in sorted(found["$defs"].items())}


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {
            key: f"#/components/schemas/{names[inner.rpartition('/')[2]]}" if key == "$ref" else _renamed(inner, names)
            for key, inner in value.items()
        }
    return [_renamed(inner, names) for inner in value] if isinstance(value, list) else value
