"""The rerank API: who may ask, what is no request, and what happens where nothing can be ranked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Semaphore
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from patience import PATIENCE_S, until
from rerank_apps import BAD, DOCUMENTS, GOOD, QUERY, RankingService, app_with, post, ranker_in
from sqlalchemy import Engine
from v1_apps import settings_for, token_for

from rlhf_loop.accounts import tokens
from rlhf_loop.config import Settings
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.errors import ConfigError
from rlhf_loop.ranking import DocumentRanking, Ranker, rank_documents
from rlhf_loop.reward import RewardModel
from rlhf_loop.reward.model_file import save
from rlhf_loop.training.train import TrainingReport
from rlhf_loop.utils.concurrency import FairLock
from rlhf_loop.web import blueprint, create_app
from rlhf_loop.web.api import rerank
from rlhf_loop.web.api.rerank import LARGE_CHARS, MAX_BODY_BYTES
from rlhf_loop.web.server import server

#: Each path with what it is asked in its dialect, and where its errors say what is wrong.
ASKED: dict[str, tuple[str, dict[str, Any], str]] = {
    "jina": ("/v1/rerank", {"query": QUERY, "documents": DOCUMENTS}, "detail"),
    "cohere": ("/v2/rerank", {"query": QUERY, "documents": DOCUMENTS}, "message"),
    "tei": ("/rerank", {"query": QUERY, "texts": DOCUMENTS}, "error"),
}
ELSEWHERE = {"REMOTE_ADDR": "203.0.113.7"}
dialects = pytest.mark.parametrize("dialect", ASKED)


@pytest.fixture(scope="module")
def ranker(
    tmp_path_factory: pytest.TempPathFactory, encoder: TextEncoder, trained: tuple[RewardModel, TrainingReport]
) -> Ranker:
    return ranker_in(tmp_path_factory.mktemp("model"), encoder, trained[0])


@pytest.fixture(scope="module")
def web(ranker: Ranker, tmp_path_factory: pytest.TempPathFactory) -> FlaskClient:
    return app_with(ranker, tmp_path_factory.mktemp("web")).test_client()


_USUAL = [tokens.RERANK]


# --- Who may ---------------------------------------------------------------------------------------------------------


@dialects
def test_others_need_a_token(engine: Engine, tmp_path: Path, ranker: Ranker, dialect: str) -> None:
    """From another machine, or through a proxy, only a token with the scope is let in; refusals are in the dialect."""
    path, body, said = ASKED[dialect]
    web = create_app(settings_for(engine, tmp_path), service=RankingService(ranker)).test_client()
    good = token_for(engine, "search", scopes=[tokens.RERANK])
    poor = token_for(engine, "app", scopes=[tokens.READ])

    def ask(token: str = "", **more: Any) -> tuple[int, str]:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        response = post(web, path, body, headers={**headers, **more.pop("headers", {})}, **more)
        failed = response.status_code != 200
        return response.status_code, response.json[said] if failed and response.json is not None else ""

    assert ask(environ_base=ELSEWHERE)[0] == 401
    assert ask(headers={"X-Forwarded-For": "203.0.113.7"})[0] == 401
    status, message = ask("rlhf_wrong", environ_base=ELSEWHERE)
    assert (status, "Ask an admin" in message) == (401, True)
    status, message = ask(poor, environ_base=ELSEWHERE)
    assert (status, "the scope rerank; yours has interactions:read" in message) == (403, True)
    assert ask(good, environ_base=ELSEWHERE) == (200, "")
    # On this machine, clients that want some key may send any.
    assert ask("a-key-that-is-none") == (200, "")


def test_a_token_of_a_client_that_batches(engine: Engine, tmp_path: Path, ranker: Ranker) -> None:
    """With the scope rerank:batch besides, a document's score does not depend on the others of the request."""
    web = create_app(settings_for(engine, tmp_path), service=RankingService(ranker)).test_client()
    path, body, _ = ASKED["cohere"]
    usual, batches = (token_for(engine, f"t{len(of)}", scopes=of) for of in (_USUAL, [*_USUAL, tokens.BATCH]))

    def scores(token: str, **more: Any) -> list[float]:
        sent = {"headers": {"Authorization": f"Bearer {token}"}, "environ_base": ELSEWHERE}
        found = post(web, path, {**body, **more}, **sent).get_json()["results"]
        return [one["relevance_score"] for one in found]

    assert scores(batches) == scores(usual, batch=True) != scores(usual) == scores(batches, batch=False)


def test_it_can_be_for_everybody(ranker: Ranker, tmp_path: Path) -> None:
    """A setting lets everybody in."""
    web = app_with(ranker, tmp_path, rerank_public=True).test_client()
    assert post(web, "/v2/rerank", ASKED["cohere"][1], environ_base=ELSEWHERE).status_code == 200


@dialects
def test_while_the_database_is_down(ranker: Ranker, tmp_path: Path, dialect: str) -> None:
    """Where no token can be looked up, others get an error of the dialect; this machine needs none, and is served."""
    path, body, said = ASKED[dialect]
    web = app_with(ranker, tmp_path, database_url=f"sqlite:///{tmp_path}").test_client()
    headers = {"Authorization": "Bearer rlhf_some"}
    refused = post(web, path, body, headers=headers, environ_base=ELSEWHERE)
    assert refused.status_code == 503
    assert refused.json is not None
    assert "database does not answer" in refused.json[said]
    assert post(web, path, body, headers=headers).status_code == 200


@dialects
def test_too_many_requests(ranker: Ranker, tmp_path: Path, dialect: str) -> None:
    """The limit is that of all requests, and says when to go on, in the dialect."""
    path, body, said = ASKED[dialect]
    web = app_with(ranker, tmp_path, rate_limit="1 per year").test_client()
    assert post(web, path, body).status_code == 200
    refused = post(web, path, body)
    assert refused.status_code == 429
    assert refused.json is not None
    assert "more requests than 1 per year" in refused.json[said]
    assert int(refused.headers["Retry-After"]) > 0


@dialects
@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
def test_other_methods(web: FlaskClient, dialect: str, method: str) -> None:
    """What is posted cannot be fetched, and a client reads that as it reads all errors."""
    path, _, said = ASKED[dialect]
    response = web.open(path, method=method)
    assert response.status_code == 405
    assert "POST" in response.headers["Allow"]
    assert response.content_type == "application/json"
    assert response.json is not None
    assert f"{method} is not possible at {path}" in str(response.json[said])


def test_behind_a_prefix(ranker: Ranker, tmp_path: Path) -> None:
    """In somebody's application the routes are under the blueprint's path, with errors of their own."""
    host = Flask("host")
    settings = Settings(database_url=f"sqlite:///{tmp_path / 'rlhf.db'}")
    host.register_blueprint(blueprint(settings, service=RankingService(ranker)), url_prefix="/qa")  # type: ignore[arg-type]
    web = host.test_client()
    assert post(web, "/qa/v1/rerank", ASKED["jina"][1]).status_code == 200
    assert set(post(web, "/qa/v2/rerank", {}).json or ()) == {"message", "id"}


# --- What is no request ----------------------------------------------------------------------------------------------


@dialects
@pytest.mark.parametrize(
    ("data", "status", "message"),
    [
        (b"", 400, "not JSON"),
        (b'{"query": "x", "docu', 400, "not JSON: Unterminated string"),
        (b"query=x", 400, "not JSON"),
        (b'{"query": "\xff"}', 400, "not JSON: 'utf-8' codec"),
        (b'{"query": NaN}', 400, "NaN is not a valid number"),
        (b"[" * 100_000, 400, "nested too deeply"),
        (b'{"a": ' + b"[" * 110 + b"]" * 110 + b"}", 400, "nested too deeply"),
        (b'{"top_n": ' + b"9" * 5000 + b"}", 400, "a number in it has 5,000 digits. Send"),
        (b'{"query": "x", "a": [{"b": -1e999}]}', 400, "-1e999 is too large for a number. Send"),
        (b"[]", 422, "The body is a list, not an object"),
        (b"null", 422, "The body is null, not an object. Send one with query"),
        (b'"text"', 422, "The body is a text"),
        (b"x" * (MAX_BODY_BYTES + 1), 413, "larger than 4,194,304 bytes. Send fewer documents"),
    ],
    ids=[
        "nothing",
        "truncated",
        "form",
        "no UTF-8",
        "NaN",
        "deep",
        "too deep",
        "huge number",
        "infinity",
        "list",
        "null",
        "text",
        "too large",
    ],
)
def test_bodies_that_are_none(web: FlaskClient, dialect: str, data: bytes, status: int, message: str) -> None:
    """What cannot be read is refused in the dialect, with the reason."""
    path, _, said = ASKED[dialect]
    response = post(web, path, data=data)
    assert response.status_code == status
    assert response.json is not None
    assert message in response.json[said]


@dialects
def test_another_content_type(web: FlaskClient, dialect: str) -> None:
    """JSON has to be declared as such: a page of another site could send anything else."""
    path, body, said = ASKED[dialect]
    response = web.post(path, data=json.dumps(body), content_type="text/plain")
    assert response.status_code == 415
    assert response.json is not None
    assert "Content-Type: application/json" in response.json[said]


def test_odd_characters(web: FlaskClient) -> None:
    """NUL characters, lone surrogates and a byte order mark are no reason to refuse; what goes back can be encoded."""
    data = (
        '\ufeff{"query": "\\ud800 burns\\u0000?", "return_documents": true, '
        '"documents": ["\\ud83d\\ude00", "a\\udfffb", "\\u0000", {"text": "x", "\\udfff": "\\ud800"}]}'
    )
    response = post(web, "/v1/rerank", data=data.encode())
    assert response.status_code == 200
    assert response.json is not None
    found = {one["index"]: one["document"] for one in response.json["results"]}
    assert found == {0: {"text": "😀"}, 1: {"text": "a?b"}, 2: {"text": "\x00"}, 3: {"text": "x", "?": "?"}}


def test_a_document_of_a_megabyte(web: FlaskClient) -> None:
    """A body may be larger than those of other routes, and a long document is read as far as is asked."""
    long = f"{BAD} " * 17_000
    assert len(long) > 1_000_000
    response = post(web, "/v2/rerank", {"query": QUERY, "documents": [long, GOOD], "max_tokens_per_doc": 500})
    assert response.status_code == 200
    assert response.json is not None
    assert [one["index"] for one in response.json["results"]] == [1, 0]


# --- Where nothing can be ranked -------------------------------------------------------------------------------------


@dialects
def test_without_a_model(encoder: TextEncoder, tmp_path: Path, dialect: str) -> None:
    """No order is made up: it is an error of the dialect, which says what to do and when to try again."""
    path, body, said = ASKED[dialect]
    for ranker in (ranker_in(tmp_path, encoder, None), None):
        response = post(app_with(ranker, tmp_path).test_client(), path, body)
        assert response.status_code == 503
        assert response.json is not None
        assert "no usable reward model" in response.json[said]
        assert response.headers["Retry-After"]
        assert "X-RLHF-Ranking" not in response.headers


@dialects
def test_the_incoming_order_where_a_setting_asks_for_it(encoder: TextEncoder, tmp_path: Path, dialect: str) -> None:
    """The documents keep their order, with scores that fall with the place, and a header says so."""
    path, body, _ = ASKED[dialect]
    web = app_with(ranker_in(tmp_path, encoder, None), tmp_path, rerank_without_model="incoming").test_client()
    response = post(web, path, body)
    answer = response.json
    results = answer["results"] if isinstance(answer, dict) else answer
    assert results is not None
    assert [one["index"] for one in results] == [0, 1, 2]
    assert [one.get("score", one.get("relevance_score")) for one in results] == [1, 1 / 2, 1 / 3]
    assert response.headers["X-RLHF-Ranking"] == "incoming"
    assert "X-RLHF-Model" not in response.headers
    if dialect == "jina":
        assert isinstance(answer, dict)
        assert (answer["model"], answer["usage"]["total_tokens"]) == ("incoming", 0)


def test_the_prior_where_a_setting_asks_for_it(encoder: TextEncoder, tmp_path: Path) -> None:
    """The documents are ranked by the prior, and headers say so."""
    path, body, _ = ASKED["jina"]
    web = app_with(ranker_in(tmp_path, encoder, None), tmp_path, rerank_without_model="prior").test_client()
    response = post(web, path, body)
    assert response.headers["X-RLHF-Ranking"] == "prior"
    assert response.headers["X-RLHF-Model"].startswith("prior-")


def test_a_promoted_model_ranks_from_then_on(
    encoder: TextEncoder, tmp_path: Path, trained: tuple[RewardModel, TrainingReport]
) -> None:
    """The model is the live one at this moment: what was an error becomes a ranking without a restart."""
    ranker = ranker_in(tmp_path, encoder, None)
    web = app_with(ranker, tmp_path).test_client()
    assert post(web, "/v1/rerank", ASKED["jina"][1]).status_code == 503
    save(trained[0], tmp_path / "reward_model.joblib")
    response = post(web, "/v1/rerank", ASKED["jina"][1])
    assert response.json is not None
    assert response.json["model"] == ranker.model_version == response.headers["X-RLHF-Model"]


@dialects
def test_what_nobody_foresaw(tmp_path: Path, dialect: str) -> None:
    """A fault is one of the dialect, too, with the id by which the log has it."""
    path, body, said = ASKED[dialect]

    class Broken:
        encoder = None

        def ranking(self, *_: Any) -> Any:
            raise ZeroDivisionError

    response = post(app_with(Broken(), tmp_path).test_client(), path, body)
    assert response.status_code == 500
    assert response.json is not None
    assert response.headers["X-Request-ID"] in response.json[said]


def test_a_setting_that_there_is_not(tmp_path: Path) -> None:
    """A typing mistake is found before the server starts."""
    settings = Settings(database_url=f"sqlite:///{tmp_path / 'rlhf.db'}", rerank_without_model="none")
    with pytest.raises(ConfigError, match="RLHF_RERANK_WITHOUT_MODEL='none'"):
        server.check(settings)


def test_large_requests_wait_for_each_other(ranker: Ranker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes much memory, so one process ranks one at a time, and gives it back; small ones need not wait."""
    begun, go_on, given_back = Semaphore(0), Event(), list[int]()

    def slow(*_: object, **__: object) -> DocumentRanking:
        begun.release()
        assert go_on.wait(PATIENCE_S)
        return quick("q", ["a"])

    def quick(query: str, texts: Sequence[str]) -> DocumentRanking:
        return rank_documents(ranker, query, texts)

    monkeypatch.setattr(rerank, "rank_documents", slow)
    monkeypatch.setattr(rerank, "trim_memory", lambda: given_back.append(1))
    turns = FairLock()
    monkeypatch.setattr(rerank, "FairLock", lambda: turns)
    app = app_with(ranker, tmp_path)

    def ask(size: int) -> int:
        return post(app.test_client(), "/v2/rerank", {"query": "q", "documents": ["a" * size]}).status_code

    with ThreadPoolExecutor(5) as pool:
        large = [pool.submit(ask, LARGE_CHARS + 1) for _ in range(4)]
        small = pool.submit(ask, 1)
        try:
            for _ in range(2):
                assert begun.acquire(timeout=PATIENCE_S)
            until(lambda: turns.waiting == 3)
            assert not begun.acquire(timeout=0.1)
            refused = post(app.test_client(), "/v2/rerank", {"query": "q", "documents": ["a" * (LARGE_CHARS + 1)]})
        finally:
            go_on.set()
        assert [each.result() for each in [*large, small]] == [200] * 5
    assert len(given_back) == 4
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "30")
    assert refused.json is not None
    assert "3 requests with more than 500,000 characters wait" in refused.json["message"]
