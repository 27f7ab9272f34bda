"""OpenAPI 3.1: routes for programs are registered together with their descriptions, and the document is made of those.

The schemas are those of the models that check the requests and make the responses, so that the document cannot say
anything else. `/openapi.json` serves it, and `/docs` shows it as a page, by Swagger UI from files of our own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, TypeVar

from flask import Blueprint, Response, json, render_template, url_for
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema
from werkzeug.exceptions import MethodNotAllowed

from rlhf_loop.version import __version__
from rlhf_loop.web.problems import MEDIA_TYPE, PROBLEM, error_format, errors_as
from rlhf_loop.web.schemas import ProblemOut

_SCHEMAS = "#/components/schemas/"
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
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
    "reviews:write, reviews:expert, metrics:read, rerank, chat.",
}
_ERRORS = {
    400: "The body is not JSON, or broken.",
    401: "There is no token, or one that is not valid (any more).",
    403: "The request comes from a page of another site, or its form is of another session.",
    404: "There is no answer with that id.",
    405: "This cannot be done here.",
    408: "The body did not come in time.",
    409: "It is there already, or under way.",
    413: "The body is larger than 64 KiB.",
    414: "The address has more than 8,190 bytes.",
    415: "The body is not declared as JSON.",
    422: "A value is missing, empty, too long or of the wrong type.",
    429: "These are more requests than are allowed in that time.",
    500: "Something unexpected; the log has it under the request id.",
    503: "The rating can be kept nowhere at the moment.",
}


def _header(description: str) -> dict[str, Any]:
    return {"description": description, "schema": {"type": "string"}}


_RETRY_AFTER = _header("Seconds to wait before the next try.")
#: Headers that come with a status.
ERROR_HEADERS: Mapping[int, Mapping[str, Any]] = MappingProxyType(
    {
        401: {"WWW-Authenticate": _header("`Bearer`, as RFC 6750 has it.")},
        409: {"Retry-After": _header("Only where it passes by itself: seconds to wait.")},
        429: {"Retry-After": _RETRY_AFTER},
        503: {"Retry-After": _RETRY_AFTER},
    }
)

_View = TypeVar("_View", bound=Callable[..., object])


@dataclass(frozen=True, slots=True)
class Content:
    """The body of a request or of a response, described by one of its `models`, or else by its `schema`."""

    description: str = ""
    models: Sequence[type[BaseModel]] = ()
    schema: Mapping[str, Any] | None = None
    media_type: str = "application/json"
    examples: Mapping[str, Any] | None = None
    example: Any = None
    headers: Mapping[str, Any] | None = None
    #: It may come as events, too.
    streams: bool = False

    def as_request(self) -> dict[str, Any]:
        """Return it as the document has it for a request."""
        return {"required": True, "content": self._content()}

    def as_response(self) -> dict[str, Any]:
        """Return it as the document has it for a response."""
        found: dict[str, Any] = {"description": self.description}
        if self.models or self.schema:
            found["content"] = self._content()
        return found | ({"headers": dict(self.headers)} if self.headers else {})

    def _content(self) -> dict[str, Any]:
        # By its title: that a class says whether it goes in or out is for our code only.
        references = [{"$ref": f"{_SCHEMAS}{model.model_config['title']}"} for model in self.models]
        found: dict[str, Any] = {"schema": self.schema or references[0]}
        if len(references) > 1:
            found["schema"] = {"oneOf": references}
        if self.examples:
            found["examples"] = {name: {"value": value} for name, value in self.examples.items()}
        if self.example:
            found["example"] = self.example
        events = {"text/event-stream": {"schema": {"type": "string"}}} if self.streams else {}
        return {self.media_type: found, **events}


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """The description of one method of a path.

    A parameter is given as the document has it, or as a model whose fields are parameters of the address.
    """

    view: Callable[..., Any]
    id: str
    tag: str
    summary: str
    description: str
    replies: Mapping[int, Content]
    parameters: Sequence[Mapping[str, Any] | type[BaseModel]]
    body: Content | None
    #: Schemes of which one is needed.
    security: Sequence[Mapping[str, Sequence[str]]]

    def described(self) -> dict[str, Any]:
        """Return it as the document has it."""
        found: dict[str, Any] = {"operationId": self.id, "tags": [self.tag], "summary": self.summary}
        if self.description:
            found["description"] = self.description
        if self.security:
            found["security"] = list(self.security)
        if self.parameters:
            found["parameters"] = [described for each in self.parameters for described in _parameters(each)]
        if self.body:
            found["requestBody"] = self.body.as_request()
        found["responses"] = {str(status): self.replies[status].as_response() for status in sorted(self.replies)}
        return found


class Api:
    """The blueprint's routes for programs: each is registered once, together with its description."""

    def __init__(self, web: Blueprint) -> None:
        self._web, self._tag = web, "Service"
        self._paths: dict[str, dict[str, Operation]] = {}

    def route(
        self,
        rule: str,
        id: str,
        *,
        replies: Mapping[int, Content],
        tag: str = "",
        description: str = "",
        parameters: Sequence[Mapping[str, Any] | type[BaseModel]] = (),
        body: Content | None = None,
        scope: str | None = None,
        without_token: bool = False,
    ) -> Callable[[_View], _View]:
        """Add a view by a rule such as "GET /data", for `register`.

        Its docstring is the summary and the description, to which `description` is appended. It needs a token with the
        `scope`, if that is given, and not even then where `without_token` says so: some routes are open to whoever asks
        on the server's own machine.
        """

        method, _, path = rule.partition(" ")

        def add(view: _View) -> _View:
            summary, _, more = inspect.cleandoc(view.__doc__ or "").partition("\n\n")
            optional: list[dict[str, list[str]]] = [{}] if without_token else []
            self._paths.setdefault(path, {})[method] = Operation(
                view=view,
                id=id,
                tag=tag or self._tag,
                summary=" ".join(summary.split()).removesuffix("."),
                description=" ".join([*more.split(), *description.split()]),
                replies=replies,
                parameters=parameters,
                body=body,
                security=[*optional, {"bearer": [scope]}] if scope else [],
            )
            return view

        return add

    def tagged(self, tag: str) -> Api:
        """Return the same with another tag for its next routes."""
        found = copy(self)
        found._tag = tag
        return found

    def register(self) -> None:
        """Register all views, and refuse all other methods: Flask's own refusal is a page in HTML."""
        for path, operations in self._paths.items():
            allowed = sorted({*operations, "OPTIONS", *(["HEAD"] if "GET" in operations else [])})

            def refuse(allowed: Sequence[str] = allowed, **_: str) -> Response:
                raise MethodNotAllowed(valid_methods=allowed)

            def options(allowed: Sequence[str] = allowed, **_: str) -> Response:
                return Response(status=204, headers={"Allow": ", ".join(allowed)})

            name = path.strip("/").replace("/", "_").replace(".", "_")
            others = [method for method in _METHODS if method not in operations]
            # A browser's forms send no such method.
            own = error_format(next(iter(operations.values())).view)
            refuse = errors_as(PROBLEM if own.html else own)(refuse)
            self._web.add_url_rule(path, f"refuse_{name}", refuse, methods=others, provide_automatic_options=False)
            # Before the views: an id that begins with a slash meets these, and is answered 405.
            self._web.add_url_rule(path, f"options_{name}", options, methods=["OPTIONS"])
            # Merged slashes would be a redirect to what another id names.
            merge = False if "<path:" in path else None
            for method, operation in operations.items():
                self._web.add_url_rule(
                    path,
                    view_func=operation.view,
                    methods=[method],
                    merge_slashes=merge,
                    provide_automatic_options=False,
                )

    def document(self, base: str = "") -> dict[str, Any]:
        """Return the document; `base` is the path under which the routes are, without a slash at its end."""
        operations = [each for of_path in self._paths.values() for each in of_path.values()]
        requests = (model for each in operations if each.body for model in each.body.models)
        responses = (model for each in operations for reply in each.replies.values() for model in reply.models)
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
            "paths": {
                path.replace("<path:id>", "{id}"): {
                    method.lower(): operation.described() for method, operation in of_path.items()
                }
                for path, of_path in self._paths.items()
            },
            "components": {"schemas": _schemas(requests, responses), "securitySchemes": {"bearer": _BEARER}},
        }


def add_routes(api: Api) -> None:
    """Add the document and its page."""
    failures = problems(429, 500)

    @lru_cache(maxsize=4)
    def written(base: str) -> str:
        return json.dumps(api.document(base), ensure_ascii=False)

    @api.route("GET /openapi.json", "describe", replies={200: Content("It.", schema={"type": "object"}), **failures})
    def openapi() -> Response:
        """This document."""
        # Where the application or the blueprint has a prefix, the paths begin behind it.
        base = url_for(".openapi").removesuffix("/openapi.json")
        return Response(written(base), content_type="application/json")

    @api.route("GET /docs", "reference", replies={200: html("The reference."), **failures})
    def docs() -> Response:
        """This document as a page."""
        return Response(render_template("rlhf_loop/docs.html"))


def json_body(*models: type[BaseModel], examples: Mapping[str, Any]) -> Content:
    """Describe the JSON of a request: one of these models."""
    return Content(models=models, examples=examples)


def form(model: type[BaseModel], **more: Mapping[str, Any]) -> Content:
    """Describe the body that a form sends: the fields of the model, and more."""
    schema = model.model_json_schema()
    fields: dict[str, Any] = {name: _without_null(value) for name, value in schema["properties"].items()} | more
    kept: dict[str, Any] = {name: schema[name] for name in ("required", "anyOf") if name in schema}
    described: dict[str, Any] = {"type": "object", "properties": fields, **kept}
    return Content(schema=described, media_type="application/x-www-form-urlencoded")


def json_reply(
    description: str,
    *models: type[BaseModel],
    examples: Mapping[str, Any] | None = None,
    headers: Mapping[str, Any] | None = None,
) -> Content:
    """Describe the JSON of a response: one of these models, or nothing."""
    return Content(description, models, examples=examples, headers=headers)


def html(description: str) -> Content:
    """Describe a page."""
    return Content(description, schema={"type": "string"}, media_type="text/html")


def error_pages(*statuses: int) -> dict[int, Content]:
    """Describe errors that are pages."""
    return {status: html(_ERRORS[status]) for status in statuses}


def problems(*statuses: int, words: Mapping[int, str] | None = None) -> dict[int, Content]:
    """Describe errors that are problem+json; `words` replace the usual ones."""
    texts = {**_ERRORS, **(words or {})}
    return {status: _problem(status, texts[status]) for status in statuses}


def _problem(status: int, words: str) -> Content:
    example = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": words,
        "request_id": "0d9d6f3c6f0b4f0f8f5c1d2e3a4b5c6d",
    }
    return Content(words, [ProblemOut], media_type=MEDIA_TYPE, example=example, headers=ERROR_HEADERS.get(status))


def _parameters(given: Mapping[str, Any] | type[BaseModel]) -> list[Mapping[str, Any]]:
    if isinstance(given, Mapping):
        return [given]
    schema = given.model_json_schema()
    return [
        {
            "name": name,
            "in": "query",
            "required": name in schema.get("required", ()),
            "description": field.pop("description", ""),
            "schema": _without_null(field),
        }
        for name, field in schema["properties"].items()
    ]


def _without_null(field: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of a field without null: in an address or a form, a field without a value is left out."""
    kept = {name: value for name, value in field.items() if name not in ("anyOf", "title", "default")}
    of_it: Mapping[str, Any] = next((each for each in field.get("anyOf", ()) if each != {"type": "null"}), {})
    default = {"default": field["default"]} if field.get("default") is not None else {}
    return {**of_it, **kept, **default}


def _schemas(requests: Iterable[type[BaseModel]], responses: Iterable[type[BaseModel]]) -> dict[str, Any]:
    """Return the schemas of these models and of all that they hold, by their titles."""
    models: list[tuple[type[BaseModel], JsonSchemaMode]] = [
        *((model, "validation") for model in dict.fromkeys(requests)),
        *((model, "serialization") for model in dict.fromkeys(responses)),
    ]
    _, found = models_json_schema(models, ref_template=f"{_SCHEMAS}{{model}}")
    names = {name: schema["title"] for name, schema in found["$defs"].items()}
    return {names[name]: _renamed(schema, names) for name, schema in sorted(found["$defs"].items())}


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {
            key: f"{_SCHEMAS}{names[inner.rpartition('/')[2]]}" if key == "$ref" else _renamed(inner, names)
            for key, inner in value.items()
        }
    return [_renamed(inner, names) for inner in value] if isinstance(value, list) else value
