"""The OpenAPI 3.1 document: made of the models that check the requests, so that it cannot say anything else.

`/openapi.json`, and `/docs`: the same as a page, by Swagger UI from its package, without anybody's CDN.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, json, render_template, send_from_directory, url_for
from werkzeug.exceptions import NotFound

from rlhf_loop.accounts import tokens
from rlhf_loop.answering import MAX_QUERY_CHARS
from rlhf_loop.version import __version__
from rlhf_loop.web.api import feedback, rerank, v1
from rlhf_loop.web.api.operations import form, html, json_body, json_reply, operation, schemas
from rlhf_loop.web.schemas import (
    AnswerOut,
    HealthOut,
    ProblemOut,
    QuestionIn,
    RatingIn,
    RatingOut,
    ReadinessOut,
)

_REQUESTS = (QuestionIn, RatingIn, *v1.REQUESTS, *feedback.REQUESTS, *rerank.REQUESTS)
_RESPONSES = (
    AnswerOut,
    RatingOut,
    ReadinessOut,
    HealthOut,
    ProblemOut,
    *v1.RESPONSES,
    *feedback.RESPONSES,
    *rerank.RESPONSES,
)

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
    "policy": "live",
    "degraded": {},
    "timings": {"sources": 182.4, "source:wikipedia": 181.9, "ranking": 9.6, "recording": 3.1, "total": 195.5},
}
_NO_ANSWER: dict[str, Any] = {
    "query": _QUESTION,
    "best_answer": None,
    "ranked": [],
    "interaction_id": None,
    "model_version": "passages-1a2b3c4d5e6f",
    "policy": "live",
    "degraded": {"wikipedia": "no answer within 3 s"},
    "timings": {"sources": 3000.2, "total": 3000.9},
}
_RATING = {"interaction_id": "5f0c4d4be7a04ce9a1a2d8a1f3a7c9d2", "rating": 4, "comment": "Names the right order."}
_THUMB = {"interaction_id": "5f0c4d4be7a04ce9a1a2d8a1f3a7c9d2", "thumb": "up"}
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
_FORM_TOKEN = {"type": "string", "description": "Of the page that has the form; only who is signed in needs it."}
_TAGS = {
    "Answers": "Ask, and say how good an answer is.",
    "Ranking": "The live model as a reranker for other stacks, in the dialects that their clients speak.",
    "Applications": "Record answers of your own, review and list them. By token; an admin makes one.",
    "Pages": "The same for people.",
    "Service": "Is it alive, is it ready, and what can it do?",
}
_BEARER = {
    "type": "http",
    "scheme": "bearer",
    "description": "`Authorization: Bearer rlhf_...`. A token has scopes: interactions:read, interactions:write, "
    "reviews:write, reviews:expert, metrics:read, rerank.",
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
        "components": {"schemas": schemas(_REQUESTS, _RESPONSES), "securitySchemes": {"bearer": _BEARER}},
    }


def methods() -> dict[str, list[str]]:
    """Return the paths, as Flask writes them, with what can be done there."""
    return {
        path.replace("{id}", "<path:id>"): [method.upper() for method in operations if method != "parameters"]
        for path, operations in _paths().items()
    }


def _paths() -> dict[str, dict[str, Any]]:
    answer = json_reply(AnswerOut, "The candidates, best first.", {"found": _ANSWER, "nothing found": _NO_ANSWER})
    rated = json_reply(RatingOut, "The rating is stored.", {"stored": _RATED})
    waits = json_reply(RatingOut, "The rating is kept, and is stored once the database is back.")
    page = html("The page with the answers.")
    return {
        "/data": {
            "get": operation(
                "ask", "Answers", "Answer a question", {200: answer}, problems=(414, 422, 429, 500), parameters=[_QUERY]
            ),
            "post": operation(
                "askByPost",
                "Answers",
                "Answer a question, in a body",
                {200: answer},
                problems=(400, 408, 413, 415, 422, 429, 500),
                body=json_body(QuestionIn, {"question": {"query": _QUESTION}}),
            ),
        },
        "/data/ratings": {
            "post": operation(
                "rate",
                "Answers",
                "Rate an answer from 1 to 5, or by a thumb",
                {200: rated, 202: waits},
                description="What visitors say is kept apart from what experts say. Who is signed in as an expert "
                "rates as one, and sends the page's form token as `X-Form-Token`.",
                problems=(400, 403, 404, 408, 413, 415, 422, 429, 500, 503),
                body=json_body(RatingIn, {"stars": _RATING, "thumb": _THUMB}),
            )
        },
        "/data-html": {
            "get": operation(
                "page",
                "Pages",
                "The page: a box for the question, and its answers",
                {200: page},
                problems=(414,),
                pages=(422, 429, 500),
                parameters=[{**_QUERY, "required": False}],
            ),
            "post": operation(
                "pageByPost",
                "Pages",
                "The page with the answers to a question, from its form",
                {200: page},
                problems=(),
                pages=(400, 408, 413, 422, 429, 500),
                body=form(QuestionIn),
            ),
        },
        "/data-html/ratings": {
            "post": operation(
                "rateByForm",
                "Pages",
                "Rate an answer, from the page's form",
                {200: html("Thanks: it is stored."), 202: html("Thanks: it is kept for later.")},
                problems=(),
                pages=(400, 403, 404, 408, 413, 422, 429, 500, 503),
                body=form(RatingIn, form_token=_FORM_TOKEN),
            )
        },
        **v1.paths(),
        **feedback.paths(),
        **rerank.paths(),
        "/healthz": {
            "get": operation("alive", "Service", "Is the process alive?", {200: json_reply(HealthOut, "It is.")})
        },
        "/readyz": {
            "get": operation(
                "ready",
                "Service",
                "Is everything loaded?",
                {200: json_reply(ReadinessOut, "It is."), 503: json_reply(ReadinessOut, "Not yet.")},
            )
        },
        "/metrics": {"get": _metrics()},
        "/openapi.json": {
            "get": operation(
                "describe",
                "Service",
                "This document",
                {200: {"description": "It.", "content": {"application/json": {"schema": {"type": "object"}}}}},
                problems=(429, 500),
            )
        },
        "/docs": {
            "get": operation(
                "reference", "Service", "This document as a page", {200: html("The reference.")}, problems=(429, 500)
            )
        },
    }


def _metrics() -> dict[str, Any]:
    text = {"description": "In Prometheus's text format.", "content": {"text/plain": {"schema": {"type": "string"}}}}
    found = operation(
        "measure",
        "Service",
        "What a monitoring system watches",
        {200: text},
        description="For whoever asks on the server's own machine; others need a token, unless it is for everybody "
        "here (`RLHF_METRICS_PUBLIC`).",
        problems=(401, 403, 429, 500, 503),
        words={403: "The token does not have the scope metrics:read.", 503: "The database does not say whose token."},
    )
    return {**found, "security": [{}, {"bearer": [tokens.METRICS]}]}


_PACKAGE = "flask_openapi3_swagger"
_FILES = frozenset({"js/swagger-ui-bundle.js", "css/swagger-ui.css"})


def add_routes(web: Blueprint) -> None:
    """Give the blueprint the document and its page."""

    @web.get("/openapi.json")
    def openapi() -> Response:
        # Where the application or the blueprint has a prefix, the paths begin behind it.
        base = url_for(".openapi").removesuffix("/openapi.json")
        return Response(json.dumps(document(base), ensure_ascii=False), content_type="application/json")

    @web.get("/docs")
    def docs() -> Response:
        page = render_template("rlhf_loop/docs.html", version=__version__)
        return Response(page, content_type="text/html; charset=utf-8")

    @web.get("/docs/swagger/<path:name>")
    def swagger(name: str) -> Response:
        if name not in _FILES:
            raise NotFound
        response = send_from_directory(_swagger_folder(), name, max_age=86_400)
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        return response


@cache
def _swagger_folder() -> Path:
    # Found and not imported: the package is a plugin of a framework of its own, and only its files are wanted.
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or found.origin is None:
        raise NotFound(
            f"The package {_PACKAGE} is not installed, and so the reference has no pictures. See /openapi.json."
        )
    return Path(found.origin).parent / "templates" / "swagger"
