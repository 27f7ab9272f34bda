"""What the OpenAPI document is put together from: operations with their parameters, bodies, responses and schemas."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from rlhf_loop.web.problems import MEDIA_TYPE
from rlhf_loop.web.schemas import ProblemOut

_SCHEMAS = "#/components/schemas/"

PROBLEMS = {
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
_RETRY_AFTER = {"description": "Seconds to wait before the next try.", "schema": {"type": "string"}}
#: Headers that come with a status.
_HEADERS = {
    401: {"WWW-Authenticate": {"description": "`Bearer`, as RFC 6750 has it.", "schema": {"type": "string"}}},
    409: {"Retry-After": {**_RETRY_AFTER, "description": "Only where it passes by itself: seconds to wait."}},
    429: {"Retry-After": _RETRY_AFTER},
    503: {"Retry-After": _RETRY_AFTER},
}


def operation(
    name: str,
    tag: str,
    summary: str,
    responses: Mapping[int, Mapping[str, Any]],
    *,
    description: str = "",
    problems: Iterable[int] = (500,),
    pages: Iterable[int] = (),
    words: Mapping[int, str] | None = None,
    parameters: Sequence[Mapping[str, Any]] = (),
    body: Mapping[str, Any] | None = None,
    scope: str | None = None,
) -> dict[str, Any]:
    """Describe an operation. `words` stand in for those of `PROBLEMS`; with a `scope` it needs a token that has it."""
    texts = {**PROBLEMS, **(words or {})}
    every = {
        **responses,
        **{status: _problem(status, texts[status]) for status in problems},
        **{status: html(texts[status]) for status in pages},
    }
    found: dict[str, Any] = {"operationId": name, "tags": [tag], "summary": summary}
    if description:
        found["description"] = description
    if scope:
        found["security"] = [{"bearer": [scope]}]
    if parameters:
        found["parameters"] = list(parameters)
    if body:
        found["requestBody"] = body
    found["responses"] = {str(status): every[status] for status in sorted(every)}
    return found


def json_reply(
    model: type[BaseModel],
    description: str,
    examples: Mapping[str, Any] | None = None,
    *,
    others: Sequence[type[BaseModel]] = (),
    headers: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Describe a response in JSON: of this model, or of one of the `others`."""
    content: dict[str, Any] = {"schema": _one_of(model, *others)}
    if examples:
        content["examples"] = {name: {"value": value} for name, value in examples.items()}
    found: dict[str, Any] = {"description": description, "content": {"application/json": content}}
    return found | ({"headers": dict(headers)} if headers else {})


def json_body(
    model: type[BaseModel], examples: Mapping[str, Any], *, others: Sequence[type[BaseModel]] = ()
) -> dict[str, Any]:
    """Describe a request's body in JSON: of this model, or of one of the `others`."""
    shown = {name: {"value": value} for name, value in examples.items()}
    return {
        "required": True,
        "content": {"application/json": {"schema": _one_of(model, *others), "examples": shown}},
    }


def form(model: type[BaseModel], **more: Mapping[str, Any]) -> dict[str, Any]:
    """Describe the body that a form sends: the fields of the model, and more."""
    schema = model.model_json_schema()
    fields: dict[str, Any] = {name: without_null(value) for name, value in schema["properties"].items()}
    fields |= more
    kept = {name: schema[name] for name in ("required", "anyOf") if name in schema}
    content: dict[str, Any] = {"schema": {"type": "object", "properties": fields, **kept}}
    return {"required": True, "content": {"application/x-www-form-urlencoded": content}}


def html(description: str) -> dict[str, Any]:
    """Describe a page."""
    return {"description": description, "content": {"text/html": {"schema": {"type": "string"}}}}


def query_parameters(model: type[BaseModel]) -> list[dict[str, Any]]:
    """Describe the fields of the model as parameters of an address."""
    schema = model.model_json_schema()
    return [
        {
            "name": name,
            "in": "query",
            "required": name in schema.get("required", ()),
            "description": field.pop("description", ""),
            "schema": without_null(field),
        }
        for name, field in schema["properties"].items()
    ]


def without_null(field: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of a field as it is where nothing can only be said by leaving it out."""
    kept = {name: value for name, value in field.items() if name not in ("anyOf", "title", "default")}
    of_it: Mapping[str, Any] = next((each for each in field.get("anyOf", ()) if each != {"type": "null"}), {})
    default = {"default": field["default"]} if field.get("default") is not None else {}
    return {**of_it, **kept, **default}


def schemas(requests: Iterable[type[BaseModel]], responses: Iterable[type[BaseModel]]) -> dict[str, Any]:
    """Return the schemas of these models and of all that they hold, by their titles."""
    models: list[tuple[type[BaseModel], JsonSchemaMode]] = [
        *((model, "validation") for model in requests),
        *((model, "serialization") for model in responses),
    ]
    _, found = models_json_schema(models, ref_template=f"{_SCHEMAS}{{model}}")
    names = {name: schema["title"] for name, schema in found["$defs"].items()}
    return {names[name]: _renamed(schema, names) for name, schema in sorted(found["$defs"].items())}


def _one_of(*models: type[BaseModel]) -> dict[str, Any]:
    # By its title: that a class says whether it goes in or out is for our code only.
    references = [{"$ref": f"{_SCHEMAS}{model.model_config['title']}"} for model in models]
    return references[0] if len(references) == 1 else {"oneOf": references}


def _problem(status: int, words: str) -> dict[str, Any]:
    example = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": words,
        "request_id": "0d9d6f3c6f0b4f0f8f5c1d2e3a4b5c6d",
    }
    found: dict[str, Any] = {
        "description": words,
        "content": {MEDIA_TYPE: {"schema": _one_of(ProblemOut), "example": example}},
    }
    return found | ({"headers": _HEADERS[status]} if status in _HEADERS else {})


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {
            key: f"{_SCHEMAS}{names[inner.rpartition('/')[2]]}" if key == "$ref" else _renamed(inner, names)
            for key, inner in value.items()
        }
    return [_renamed(inner, names) for inner in value] if isinstance(value, list) else value
