from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from databases import sqlite_database
from flask import Flask, request
from web_fakes import GOOD, FakeService, SampleSource

import rlhf_loop.web
from rlhf_loop import sample
from rlhf_loop.answering import AnswerService
from rlhf_loop.config import Settings
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.ranking import Ranker
from rlhf_loop.reward import RewardModel
from rlhf_loop.reward.model_file import save
from rlhf_loop.store.engine import open_database
from rlhf_loop.store.interactions import stats
from rlhf_loop.training.train import TrainingReport
from rlhf_reranker import rerank_candidates


@pytest.fixture
def settings(tmp_path: Path, encoder_cache: Path, model_folder: Path) -> Settings:
    return Settings(
        database_url=sqlite_database(tmp_path / "rlhf.db"),
        model_path=tmp_path / "reward_model.joblib",
        outbox_path=tmp_path / "outbox.db",
        index_path=tmp_path / "index",
        cache_dir=encoder_cache,
        encoder_path=model_folder,
    )


@pytest.fixture
def app() -> Flask:
    app = Flask("somebody_elses")

    @app.get("/")
    def home() -> str:
        return "home"

    return app


def test_two_lines_in_somebodys_application(
    app: Flask,
    settings: Settings,
    encoder: TextEncoder,
    trained: tuple[RewardModel, TrainingReport],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`app.register_blueprint(rlhf_loop.web.blueprint(settings))`: it answers, ranks, records and takes ratings."""
    save(trained[0], settings.model_path)
    monkeypatch.setattr("rlhf_loop.encoders.load_encoder", lambda *_, **__: encoder)  # loaded once for all tests
    monkeypatch.setattr("rlhf_loop.sources.sources_from", lambda *_, **__: [SampleSource()])

    app.register_blueprint(rlhf_loop.web.blueprint(settings))

    web = app.test_client()
    response = web.get("/data", query_string={"query": sample.QUESTION})
    assert response.status_code == 200, response.text
    found = response.json
    assert found is not None
    assert found["best_answer"].startswith("Dizziness after a blow to the head is a sign of concussion")
    assert found["model_version"].startswith("quality-")
    assert found["ranked"][0]["score"] > found["ranked"][-1]["score"]
    assert found["degraded"] == {}
    rated = web.post("/data/ratings", json={"interaction_id": found["interaction_id"], "rating": 5})
    assert rated.status_code == 200, rated.text
    engine = open_database(settings.database_url)
    counted = stats(engine)
    engine.dispose()
    assert (counted.interactions, counted.rated, counted.end_user_rated) == (4, 0, 1)
    assert web.get("/").text == "home"


def test_only_the_reranker_in_somebodys_application(
    app: Flask,
    settings: Settings,
    encoder: TextEncoder,
    trained: tuple[RewardModel, TrainingReport],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever has candidates and routes of their own calls `rerank_candidates` in one of them."""
    save(trained[0], settings.model_path)
    monkeypatch.setattr("rlhf_loop.ranking._default", Ranker(settings, encoder=encoder))

    @app.post("/ask")
    def ask() -> list[dict[str, Any]]:
        given = request.get_json()
        return rerank_candidates(given["query"], given["candidates"])

    asked = {"query": sample.QUESTION, "candidates": list(sample.CANDIDATES)}
    ranked = app.test_client().post("/ask", json=asked).json
    assert ranked is not None
    assert ranked[0]["text"].startswith("Dizziness after a blow to the head is a sign of concussion")
    assert [each["rank"] for each in ranked] == [1, 2, 3, 4]


def test_what_the_package_offers() -> None:
    """Two names, sorted."""
    assert rlhf_loop.web.__all__ == ["blueprint", "create_app"]


def test_only_the_sources_that_are_given_are_asked(app: Flask, settings: Settings, encoder: TextEncoder) -> None:
    """Sources of one's own stand in for those of the settings; without a model they keep their order."""
    service = AnswerService(settings, sources=[SampleSource()], encoder=encoder)
    app.register_blueprint(rlhf_loop.web.blueprint(settings, service=service))
    found = app.test_client().get("/data?query=x").json
    service.close()
    assert found is not None
    assert [each["text"] for each in found["ranked"]] == [each["text"] for each in sample.CANDIDATES]
    assert {each["source"] for each in found["ranked"]} == {"sample"}
    assert found["model_version"] is None


def test_making_it_loads_and_writes_nothing(app: Flask, settings: Settings) -> None:
    """The application's own start is not held up, and leaves no file."""
    folder = settings.model_path.parent
    (folder / "rlhf.db").unlink()
    app.register_blueprint(rlhf_loop.web.blueprint(settings))
    assert list(folder.iterdir()) == []


def test_under_a_prefix_all_addresses_go_with_it(app: Flask) -> None:
    """Forms, files, the cookie and the reference stay below it."""
    bare = rlhf_loop.web.blueprint(Settings(), service=FakeService(GOOD))
    app.register_blueprint(bare, url_prefix="/help")
    web = app.test_client()
    page = web.post("/help/data-html", data={"query": "x"}).text
    for address in ("data-html/static/page.css", "data-html/ratings", "data/ratings", "docs"):
        assert f'"/help/{address}' in page
    rated = web.post("/help/data/ratings", json={"interaction_id": "id-1", "rating": 3})
    assert "Path=/help/;" in rated.headers["Set-Cookie"]
    assert web.get("/data").status_code == 404


def test_the_rest_of_the_application_stays_as_it_was(app: Flask) -> None:
    """Its own errors and headers are its own; ours are problems, also for methods that we do not have."""
    app.register_blueprint(rlhf_loop.web.blueprint(Settings(), service=FakeService()))
    web = app.test_client()
    assert web.get("/nowhere").mimetype == "text/html"
    assert "Content-Security-Policy" not in web.get("/").headers
    assert web.put("/data").mimetype == "application/problem+json"
    assert web.get("/data").mimetype == "application/problem+json"


@pytest.mark.parametrize(
    ("method", "path", "how", "status"),
    [
        ("post", "/data", {"data": "{", "content_type": "application/json"}, 400),
        ("post", "/data/ratings", {"headers": {"Origin": "https://x"}}, 403),
        ("get", "/data-html/static/other.js", {}, 404),
        ("put", "/data", {}, 405),
        ("post", "/data", {"data": "x" * 70_000, "content_type": "application/json"}, 413),
        ("post", "/data", {"data": "x"}, 415),
        ("get", "/data", {}, 422),
        ("get", "/data?query=x", {}, 500),
    ],
)
def test_handlers_of_the_application_leave_our_errors_alone(
    app: Flask, method: str, path: str, how: dict[str, Any], status: int
) -> None:
    """Ours are problems, also where the application has a handler for the very code; its own it gets."""
    for code in (400, 403, 404, 405, 408, 413, 415, 422, 500, 503):
        app.register_error_handler(code, lambda _: ("theirs", 299))
    service = FakeService(error=RuntimeError("oh no"))
    app.register_blueprint(rlhf_loop.web.blueprint(Settings(), service=service), url_prefix="/help")
    web = app.test_client()
    found = getattr(web, method)(f"/help{path}", **how)
    assert (found.status_code, found.mimetype) == (status, "application/problem+json")
    assert web.get("/nowhere").text == "theirs"
