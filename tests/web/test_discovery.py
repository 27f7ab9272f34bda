"""What clients of other servers ask first, and the addresses that they make of a base URL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from rerank_apps import DOCUMENTS, QUERY, RankingService, app_with, post
from sqlalchemy import Engine
from v1_apps import settings_for, token_for

from rlhf_loop.accounts import tokens
from rlhf_loop.web import create_app
from rlhf_loop.web.api.discovery import canonical_path

ELSEWHERE = {"REMOTE_ADDR": "203.0.113.7"}


@pytest.fixture
def web(tmp_path: Path) -> FlaskClient:
    return app_with(None, tmp_path, rerank_without_model="incoming").test_client()


def test_tei(web: FlaskClient) -> None:
    """Dify's provider of Text Embeddings Inference wants the first key of model_type to be reranker."""
    info = web.get("/info").get_json()
    assert next(iter(info["model_type"])) == "reranker"
    assert info["model_id"] == "passages-1a2b3c4d5e6f"
    assert info["max_client_batch_size"] == 1000


def test_health(tmp_path: Path) -> None:
    """It is 503 until the service is ready, in TEI's form, and free of the rate limit."""
    service = RankingService(None)
    web = app_with(service, tmp_path, rate_limit="1 per year").test_client()
    assert (web.get("/health").status_code, set(web.get("/health").get_json())) == (503, {"error", "error_type"})
    service.warm_up()
    assert (web.get("/health").status_code, web.get("/health").get_json()) == (200, {"status": "ok"})


@pytest.mark.parametrize("name", ["rlhf-loop", "my-uid", "BAAI/bge-reranker-v2-m3"])
def test_models(web: FlaskClient, name: str) -> None:
    """Any name is a model: OpenAI's and vLLM's fields, and a rerank model for Xinference's clients."""
    (listed,) = web.get("/v1/models").get_json()["data"]
    found = web.get(f"/v1/models/{name}").get_json()
    assert found == {**listed, "id": name}
    assert (listed["id"], found["object"], found["model_type"]) == ("rlhf-loop", "model", "rerank")
    # Only then do they send their key.
    assert web.get("/v1/cluster/auth").get_json() == {"auth": True}


def test_who_may(engine: Engine, tmp_path: Path) -> None:
    """Others need a token that may rank or chat; that keys are wanted, anybody is told."""
    web = create_app(settings_for(engine, tmp_path), service=RankingService(None)).test_client()  # type: ignore[arg-type]
    scopes = (tokens.RERANK, tokens.CHAT, tokens.READ)
    given = [token_for(engine, f"app{number}", scopes=[scope]) for number, scope in enumerate(scopes)]
    for path in ("/info", "/v1/models", "/v1/models/any"):
        headers = [{"Authorization": f"Bearer {token}"} for token in given]
        statuses = [web.get(path, headers=each, environ_base=ELSEWHERE).status_code for each in (*headers, {})]
        assert statuses == [200, 200, 403, 401]
    assert web.get("/v1/cluster/auth", environ_base=ELSEWHERE).status_code == 200


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        *((path, "/rerank") for path in ("/rerank/", "//rerank", "/rerank/rerank")),
        *((path, "/v1/rerank") for path in ("/v1/rerank/", "/v1//rerank", "/v1/v1/rerank", "/v2/v1/rerank")),
        *((path, "/v1/rerank") for path in ("/v1/rerank/v1/rerank", "/v1/rerank/rerank", "/rerank/v1/rerank")),
        *((path, "/v2/rerank") for path in ("//v2/rerank", "/v1/v2/rerank", "/v2/v2/rerank/")),
        *((path, "/info") for path in ("/v1/info", "/info/", "//info")),
        *((path, "/v1/models") for path in ("/models", "/v1/models/", "/v1/v1/models")),
        *((path, "/v1/models/a/b") for path in ("/models/a/b", "/v2/v1/models/a/b")),
        *((path, "/v1/chat/completions") for path in ("/chat/completions", "/v1/v1/chat/completions/")),
        ("/v1/chat/completions/chat/completions", "/v1/chat/completions"),
        ("/infinity/v1/rerank", "/infinity/rerank"),
        *((path, path) for path in ("/", "", "/v1/rerank/x", "/v3/rerank", "/data", "/v1/interactions//a/rerank")),
        *((path, path) for path in ("/v1/interactions/models/x", "/review/models", "/browse/")),
    ],
)
def test_spellings(path: str, meant: str) -> None:
    """A version, a slash or the whole path at the end of a base URL lead to what is meant; other addresses stay."""
    assert canonical_path(path) == meant
    assert canonical_path(meant) == meant


@pytest.mark.parametrize("base", ["", "/", "/v1", "/v2/", "/v1/rerank"])
@pytest.mark.parametrize(
    ("path", "field"), [("/rerank", "texts"), ("/v1/rerank", "documents"), ("/rerank", "documents")]
)
def test_base_urls(web: FlaskClient, base: str, path: str, field: str) -> None:
    """What a client appends to such a base URL is answered, in its dialect."""
    # As it came: the client of tests would take what follows two slashes for a host.
    sent = {"PATH_INFO": f"{base}{path}"}
    response = post(web, path, {"query": QUERY, field: DOCUMENTS}, environ_overrides=sent)
    assert response.status_code == 200, response.text
    found: Any = response.json
    assert isinstance(found, list) == (field == "texts")
