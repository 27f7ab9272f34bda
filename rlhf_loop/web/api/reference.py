"""`/openapi.json`, and `/docs`: the same as a page, by Swagger UI from its package, without anybody's CDN."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

from flask import Blueprint, Response, json, render_template, send_from_directory, url_for
from werkzeug.exceptions import NotFound

from rlhf_loop.version import __version__
from rlhf_loop.web.api.openapi import document

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
