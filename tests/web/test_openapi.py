from __future__ import annotations

import re
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from web_fakes import GOOD, OTHER, FakeService
from werkzeug.test import TestResponse

import rlhf_loop.web
from rlhf_loop.config import Settings
from rlhf_loop.errors import OutboxError
from rlhf_loop.web import blueprint, create_app

RATING = {"interaction_id": "id-1", "rating": 4}
#: The screens of raters and admins are for people alone: no program is to call what their scripts call.
SCREENS = (
    *("account", "admin", "browse", "compare", "dashboard", "import", "language", "review", "sign-in", "sign-out"),
    "welcome",
)


def app(service: FakeService | None = None) -> Flask:
    return create_app(Settings(), service=service or FakeService(GOOD, OTHER))


@cache
def document() -> dict[str, Any]:
    """The document as it is served."""
    found: dict[str, Any] = app().test_client().get("/openapi.json").get_json()
    return found


def test_the_document_is_valid() -> None:
    """By the rules of OpenAPI 3.1, examples included."""
    OpenAPIV31SpecValidator(document()).validate()
    for operation in (operation for path in document()["paths"].values() for operation in path.values()):
        for response in [*operation["responses"].values(), operation.get("requestBody", {})]:
            for kind in response.get("content", {}).values():
                examples = [example["value"] for example in kind.get("examples", {}).values()]
                for example in [*examples, *([kind["example"]] if "example" in kind else [])]:
                    checker(kind["schema"]).validate(example)


def checker(schema: dict[str, Any]) -> OAS31Validator:
    return OAS31Validator({**schema, "components": document()["components"]})


def test_each_route_is_in_the_document_and_the_other_way_round() -> None:
    """Files, screens and the redirect from the start are none of the API's; refusals of methods are no routes."""
    routes: dict[str, set[str]] = {}
    for rule in app().url_map.iter_rules():
        name = rule.endpoint.rpartition(".")[2]
        if rule.rule.split("/")[1] in SCREENS or name in ("home", "static"):
            continue
        if not name.startswith(("refuse_", "options_")):
            path = rule.rule.replace("<path:id>", "{id}")
            routes.setdefault(path, set()).update((rule.methods or set()) - {"HEAD"})
    described = {path: {method.upper() for method in operations} for path, operations in document()["paths"].items()}
    assert routes == described


@pytest.mark.parametrize(
    ("method", "path", "how", "service", "status"),
    [
        ("get", "/data", {"query_string": {"query": "x"}}, FakeService(GOOD, OTHER), 200),
        ("get", "/data", {"query_string": {"query": "x"}}, FakeService(model_version=None), 200),
        ("get", "/data", {}, FakeService(), 422),
        ("get", "/data", {"query_string": {"query": "x"}}, FakeService(error=RuntimeError()), 500),
        ("get", "/v1/interactions", {}, FakeService(), 401),
        ("post", "/v1/interactions", {"json": {}}, FakeService(), 401),
        ("get", "/v1/interactions/{id}", {}, FakeService(), 401),
        ("delete", "/v1/interactions/{id}/reviews", {}, FakeService(), 401),
        ("post", "/v1/preferences", {"json": {}}, FakeService(), 401),
        ("post", "/data", {"json": {"query": "x"}}, FakeService(GOOD), 200),
        ("post", "/data", {"data": "{", "content_type": "application/json"}, FakeService(), 400),
        ("post", "/data", {"data": "x" * 70_000, "content_type": "application/json"}, FakeService(), 413),
        ("post", "/data", {"data": "{}"}, FakeService(), 415),
        ("post", "/data", {"json": {}}, FakeService(), 422),
        ("post", "/data/ratings", {"json": RATING}, FakeService(), 200),
        ("post", "/data/ratings", {"json": {"interaction_id": "id-1", "thumb": "down"}}, FakeService(), 200),
        ("post", "/data/ratings", {"json": RATING, "headers": {"Origin": "https://x"}}, FakeService(), 403),
        ("post", "/data/ratings", {"json": RATING}, FakeService(error=LookupError("no")), 404),
        ("post", "/data/ratings", {"json": RATING}, FakeService(error=OutboxError("full")), 503),
        ("get", "/data-html", {}, FakeService(), 200),
        ("post", "/data-html", {"data": {"query": "x"}}, FakeService(GOOD), 200),
        ("post", "/data-html", {"data": {}}, FakeService(), 422),
        ("post", "/data-html/ratings", {"data": RATING}, FakeService(), 200),
        ("post", "/v1/rerank", {"json": {}}, FakeService(), 422),
        ("post", "/v1/rerank", {"data": "{}"}, FakeService(), 415),
        ("post", "/v2/rerank", {"json": {"query": "x", "documents": ["y"]}}, FakeService(), 503),
        ("post", "/rerank", {"json": {"query": "x", "texts": []}}, FakeService(), 400),
        ("get", "/healthz", {}, FakeService(), 200),
        ("get", "/readyz", {}, FakeService(), 200),
        ("get", "/openapi.json", {}, FakeService(), 200),
        ("get", "/docs", {}, FakeService(), 200),
    ],
)
def test_responses_are_as_described(
    method: str, path: str, how: dict[str, Any], service: FakeService, status: int
) -> None:
    """Each real response has a status and a type that the document names, and fits its schema."""
    service.ready = True
    response: TestResponse = getattr(app(service).test_client(), method)(path, **how)
    assert response.status_code == status
    described = document()["paths"][path][method]["responses"][str(status)]["content"]
    assert response.mimetype in described
    if response.is_json:
        checker(described[response.mimetype]["schema"]).validate(response.json)


def test_the_reference_is_rendered_without_foreign_files() -> None:
    """The page has its own script and Swagger UI's, both from here, and where the document is."""
    web = app().test_client()
    page = web.get("/docs").text
    assert 'data-document="/openapi.json"' in page
    assert "//" not in page.replace("<!doctype", "")
    for name, kind in (("swagger-ui-bundle.js", "text/javascript"), ("swagger-ui.css", "text/css")):
        assert f"/data-html/static/swagger-ui/{name}" in page
        with web.get(f"/data-html/static/swagger-ui/{name}") as response:
            assert (response.status_code, response.mimetype) == (200, kind)


def test_swagger_uis_files_are_those_that_its_makers_published() -> None:
    """Verbatim, with their licence: the checksums are those of the README beside them."""
    folder = Path(rlhf_loop.web.__file__).parent / "static" / "swagger-ui"
    expected = dict(re.findall(r"^\| (\S+) \| ([0-9a-f]{64}) \|$", (folder / "README.md").read_text(), re.MULTILINE))
    assert set(expected) == {"swagger-ui-bundle.js", "swagger-ui.css"}
    assert {name: sha256((folder / name).read_bytes()).hexdigest() for name in expected} == expected
    assert "Apache License" in (folder / "LICENSE").read_text()


def test_the_document_knows_where_it_is_mounted() -> None:
    """Behind a prefix the paths begin there."""
    host = Flask("host")
    host.register_blueprint(blueprint(Settings(), service=FakeService()), url_prefix="/ask")
    found = host.test_client().get("/ask/openapi.json").json
    assert found is not None
    assert found["servers"] == [{"url": "/ask"}]
