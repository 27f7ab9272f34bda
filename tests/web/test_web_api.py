from __future__ import annotations

import json
import logging
import math
from typing import Any

import pytest
from flask.testing import FlaskClient
from web_fakes import GOOD, OTHER, FakeService, Unreadable, changed
from werkzeug.test import TestResponse

from rlhf_loop.config import Settings
from rlhf_loop.errors import OutboxError
from rlhf_loop.utils.log_format import JsonFormatter, configure
from rlhf_loop.web import create_app
from rlhf_loop.web.app import MAX_BODY_BYTES

RATING = {"interaction_id": "id-1", "rating": 4}


def client(service: FakeService) -> FlaskClient:
    return create_app(Settings(), service=service).test_client()


@pytest.fixture
def service() -> FakeService:
    return FakeService(GOOD, OTHER)


@pytest.fixture
def web(service: FakeService) -> FlaskClient:
    return client(service)


def problem(response: TestResponse, status: int) -> dict[str, Any]:
    assert (response.status_code, response.mimetype) == (status, "application/problem+json"), response.text
    assert response.json is not None
    assert set(response.json) == {"type", "title", "status", "detail", "request_id"}
    assert response.json["status"] == status
    assert response.json["request_id"] == response.headers["X-Request-ID"]
    found: dict[str, Any] = response.json
    return found


@pytest.mark.parametrize("method", ["get", "post"])
def test_an_answer_has_all_that_was_promised(web: FlaskClient, method: str) -> None:
    """`/data` gives the best answer's text, all candidates with their origin, ids, the model and the times."""
    how: dict[str, Any] = {"query_string": {"query": "Why?"}} if method == "get" else {"json": {"query": "Why?"}}
    response = web.open("/data", method=method.upper(), **how)
    assert response.status_code == 200
    assert response.json is not None
    found = response.json
    assert set(found) == {
        *("query", "best_answer", "ranked", "interaction_id", "model_version", "policy", "degraded", "timings"),
        *("certain", "related"),
    }
    assert (found["query"], found["best_answer"], found["interaction_id"]) == ("Why?", GOOD.text, "id-1")
    first = found["ranked"][0]
    assert (first["text"], first["score"], first["rank"], first["source"]) == (GOOD.text, 0.83, 1, "wikipedia")
    assert (first["url"], first["title"], first["licence"]) == (GOOD.origin.url, "Migraine", "CC BY-SA 4.0")
    assert first["retrieved_at"] == "2026-11-23T09:30:00Z"
    assert found["ranked"][1]["url"] is None
    assert [each["drafted_by"] for each in found["ranked"]] == [None, "llama3.2"]
    assert found["timings"]["total"] == 2.0
    assert found["degraded"] == {}


def test_no_candidates_are_an_honest_empty_answer() -> None:
    """Nothing found is no error: 200, no best answer, nothing to rate."""
    response = client(FakeService(degraded={"arxiv": "no answer within 3 s"})).get("/data?query=x")
    assert response.status_code == 200
    assert response.json is not None
    assert (response.json["best_answer"], response.json["ranked"], response.json["interaction_id"]) == (None, [], None)
    assert response.json["degraded"] == {"arxiv": "no answer within 3 s"}


def test_without_a_model_there_are_no_scores() -> None:
    """The score is null and so is the model; the order is the service's."""
    response = client(FakeService(changed(GOOD, score=None), model_version=None)).get("/data?query=x")
    assert response.json is not None
    assert (response.json["model_version"], response.json["ranked"][0]["score"]) == (None, None)


def test_whatever_a_source_gives_stays_json() -> None:
    """Signs of other languages are not escaped, half a surrogate pair is replaced, a NaN becomes null."""
    odd = changed(GOOD, text="Grüße, 你好 \udcff", score=math.nan)
    text = client(FakeService(odd)).get("/data?query=x").text
    assert "Grüße, 你好 ?" in text
    assert json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))["ranked"][0]["score"] is None


@pytest.mark.parametrize(
    ("body", "kind", "status", "words"),
    [
        (b'{"query":', "application/json", 400, "The body is not JSON"),
        (b"", "application/json", 400, "The body is not JSON"),
        (b'{"query": "\xff"}', "application/json", 400, "The body is not JSON"),
        (b"query=x", "application/x-www-form-urlencoded", 415, "Content-Type: application/json"),
        (b'{"query": "x"}', None, 415, "no named type"),
        (b"{}", "application/json", 422, "query is missing"),
        (b"[]", "application/json", 422, "The body is a list"),
        (b"7", "application/json", 422, "The body is a number"),
        (b'{"query": 7}', "application/json", 422, "query is 7, not a text"),
        (b'{"query": null}', "application/json", 422, "query is null, not a text"),
        (b'{"query": ["x"]}', "application/json", 422, "not a text"),
        (b'{"query": ""}', "application/json", 422, "query is empty"),
        (b'{"query": " \\n "}', "application/json", 422, "query is only white space"),
        (b'{"query": "x", "limit": 3}', "application/json", 422, "limit is not a field"),
        (b'{"query": "x", "query": "y"}', "application/json", 422, "query: more than once"),
        (json.dumps({"query": "x" * 4001}).encode(), "application/json", 422, "4,001 characters; at most 4,000"),
        (json.dumps({"query": "x" * MAX_BODY_BYTES}).encode(), "application/json", 413, "larger than 65,536 bytes"),
    ],
)
def test_bad_questions_are_problems(
    web: FlaskClient, service: FakeService, body: bytes, kind: str | None, status: int, words: str
) -> None:
    """What is no question gets a problem that says so, and the service never sees it."""
    assert words in problem(web.post("/data", data=body, content_type=kind), status)["detail"]
    assert service.asked == []


@pytest.mark.parametrize("query", [None, "", " ", "x" * 4001])
def test_bad_questions_in_the_address_are_problems(web: FlaskClient, query: str | None) -> None:
    """The same by GET."""
    problem(web.get("/data", query_string={} if query is None else {"query": query}), 422)


@pytest.mark.parametrize(
    ("address", "words"),
    [("query=a&query=b", "query is there 2 times"), ("query=a&limit=3&from=x", "from, limit: not")],
)
def test_parameters_that_would_be_passed_over_are_refused(
    web: FlaskClient, service: FakeService, address: str, words: str
) -> None:
    """A second question, and what is no parameter."""
    assert words in problem(web.get(f"/data?{address}"), 422)["detail"]
    assert service.asked == []


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (LookupError("a server's own"), 400, "chunks are broken"),
        (ConnectionResetError(), 400, "broke off"),
        (TimeoutError(), 408, "in time"),
    ],
)
def test_bodies_that_cannot_be_read_are_problems(
    web: FlaskClient, caplog: pytest.LogCaptureFixture, error: Exception, status: int, words: str
) -> None:
    """Whatever the server raises when it is asked for them; none of it is a fault of ours."""
    response = web.post(
        "/data",
        content_type="application/json",
        environ_overrides={"wsgi.input": Unreadable(error), "wsgi.input_terminated": True},
    )
    assert words in problem(response, status)["detail"]
    assert "Traceback" not in caplog.text


def test_the_longest_question_fits(web: FlaskClient, service: FakeService) -> None:
    """4,000 characters are allowed however JSON writes them."""
    question = "😀" * 4000
    assert web.post("/data", json={"query": question}).status_code == 200
    assert service.asked == [question]


def test_what_the_service_refuses_is_a_problem() -> None:
    """Its ValueError is for whoever asked."""
    response = client(FakeService(error=ValueError("The query holds a NUL."))).get("/data?query=x")
    assert problem(response, 422)["detail"] == "The query holds a NUL."


def test_what_nobody_foresaw_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """An unexpected error is a 500 that shows only the request's id; the log has the traceback under it."""
    response = client(FakeService(error=RuntimeError("secret"))).get("/data?query=x", headers={"X-Request-ID": "abc"})
    assert "abc" in problem(response, 500)["detail"]
    assert "secret" not in response.text
    assert "RuntimeError: secret" in caplog.text


@pytest.mark.parametrize(
    "path",
    ["/data", "/data-html", "/data/ratings", "/healthz", "/openapi.json", "/v1/preferences", "/v1/interactions/a"],
)
def test_other_methods_are_refused(web: FlaskClient, path: str) -> None:
    """405 with the methods that are allowed; OPTIONS names the same."""
    refused, asked = web.delete(path), web.options(path)
    assert "DELETE is not possible" in problem(refused, 405)["detail"]
    assert refused.headers["Allow"] == asked.headers["Allow"]
    assert "DELETE" not in asked.headers["Allow"]
    assert asked.status_code == 204


def test_unknown_addresses_are_problems(web: FlaskClient) -> None:
    """404, and where to look."""
    assert "/docs" in problem(web.get("/nowhere"), 404)["detail"]


def test_a_rating_is_stored(web: FlaskClient, service: FakeService) -> None:
    """The reviewer is the visitor of the cookie, so that a second rating comes from the same one."""
    first = web.post("/data/ratings", json={**RATING, "comment": "Good."})
    assert first.status_code == 200
    assert first.json == {
        "interaction_id": "id-1",
        "rating": 4,
        "stored": True,
        "message": "Thank you. Your rating, 4 of 5, is stored.",
    }
    assert "HttpOnly" in first.headers["Set-Cookie"]
    assert "SameSite=Lax" in first.headers["Set-Cookie"]
    web.post("/data/ratings", json={**RATING, "rating": 2})
    (_, four, who, why), (_, two, same, none) = service.rated
    assert (four, why, two, none) == (4, "Good.", 2, None)
    assert who == same
    assert who.startswith("visitor:")


def test_visitors_are_told_apart(service: FakeService) -> None:
    """Two browsers are two reviewers, and a name that somebody made up is not taken."""
    for _ in range(2):
        client(service).post("/data/ratings", json=RATING)
    forger = client(service)
    forger.set_cookie("rlhf_visitor", "admin")
    forger.post("/data/ratings", json=RATING)
    reviewers = [reviewer for _, _, reviewer, _ in service.rated]
    assert len(set(reviewers)) == 3
    assert "visitor:admin" not in reviewers


def test_a_rating_that_waits_is_accepted(web: FlaskClient, service: FakeService) -> None:
    """While the database is down: 202, and words that do not claim more."""
    service.stores = False
    response = web.post("/data/ratings", json=RATING)
    assert response.status_code == 202
    assert response.json is not None
    assert response.json["stored"] is False
    assert "will be stored" in response.json["message"]


@pytest.mark.parametrize(
    ("error", "status"),
    [(ValueError("bad"), 422), (LookupError("There is no answer."), 404), (OutboxError("full"), 503)],
)
def test_ratings_that_cannot_be_kept(error: Exception, status: int) -> None:
    """What the service refuses, does not know or cannot keep has a status each."""
    response = client(FakeService(error=error)).post("/data/ratings", json=RATING)
    problem(response, status)
    assert ("Retry-After" in response.headers) == (status == 503)


@pytest.mark.parametrize("change", [{"rating": 0}, {"rating": 6}, {"rating": "4"}, {"rating": 4.5}, {"rating": True}])
def test_bad_ratings_are_problems(web: FlaskClient, service: FakeService, change: dict[str, Any]) -> None:
    """Only whole numbers from 1 to 5."""
    detail = problem(web.post("/data/ratings", json={**RATING, **change}), 422)["detail"]
    assert "not a whole number from 1 to 5" in detail
    assert service.rated == []


@pytest.mark.parametrize("name", ["interaction_id", "comment"])
def test_ratings_that_no_database_stores(web: FlaskClient, service: FakeService, name: str) -> None:
    """A NUL is refused before it gets there, by JSON and by form."""
    change = {**RATING, name: "a\0b"}
    assert (
        f"{name} holds the character '\\x00' at position 1"
        in problem(web.post("/data/ratings", json=change), 422)["detail"]
    )
    assert web.post("/data-html/ratings", data=change).status_code == 422
    assert service.rated == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ],
)
@pytest.mark.parametrize("path", ["/data/ratings", "/data-html/ratings"])
def test_other_sites_cannot_rate(web: FlaskClient, service: FakeService, path: str, headers: dict[str, str]) -> None:
    """A page elsewhere cannot rate in the name of who looks at it."""
    how: dict[str, Any] = {"json": RATING} if path == "/data/ratings" else {"data": RATING}
    assert web.post(path, headers=headers, **how).status_code == 403
    assert service.rated == []


@pytest.mark.parametrize("headers", [{}, {"Sec-Fetch-Site": "same-origin"}, {"Origin": "https://localhost"}])
def test_our_own_page_and_programs_can_rate(web: FlaskClient, headers: dict[str, str]) -> None:
    """Also behind a proxy that ends TLS, where the scheme of the origin is another."""
    assert web.post("/data/ratings", json=RATING, headers=headers).status_code == 200


def test_ready_means_warm(web: FlaskClient, service: FakeService) -> None:
    """`/healthz` is fine from the start; `/readyz` is 503 until all is loaded, and begins to load if nobody did."""
    assert web.get("/healthz").json == {"status": "ok"}
    service.warm_up = lambda: None
    slow = web.get("/readyz")
    assert (slow.status_code, slow.json) == (503, {"ready": False, "checks": {"encoder": "warming up"}})
    service.ready = True
    assert web.get("/readyz").json == {"ready": True, "checks": {"encoder": "ok"}}


def test_every_response_is_protected(web: FlaskClient) -> None:
    """No script inside a page, no guessing of types, no address passed on; answers are not for shared caches."""
    for path in ("/data?query=x", "/data", "/data-html", "/nowhere", "/docs", "/data-html/static/page.js"):
        with web.get(path) as response:
            headers = response.headers
        assert "default-src 'none'; script-src 'self';" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert (headers["X-Content-Type-Options"], headers["Referrer-Policy"]) == ("nosniff", "same-origin")
    assert web.get("/data?query=x").headers["Cache-Control"] == "private, no-cache"


@pytest.mark.parametrize(("given", "kept"), [("abc-1.2:3", True), ("a b", False), ("x" * 200, False), ("é", False)])
def test_a_request_id_comes_back(web: FlaskClient, given: str, kept: bool) -> None:
    """A usable id is taken over, any other replaced."""
    found = web.get("/healthz", headers={"X-Request-ID": given}).headers["X-Request-ID"]
    assert (found == given) is kept
    assert found


def test_the_log_has_a_line_a_request(caplog: pytest.LogCaptureFixture) -> None:
    """With what happened and how long it took, and without the question."""
    caplog.set_level(logging.INFO)
    web = client(FakeService(GOOD, degraded={"arxiv": "slow"}))
    web.get("/data?query=secret", headers={"X-Request-ID": "abc"})
    (line,) = [record for record in caplog.records if record.name == "rlhf_loop.web.logs"]
    assert {"method": "GET", "path": "/data", "status": 200, "degraded": ["arxiv"]}.items() <= vars(line).items()
    assert vars(line)["model_version"] == "passages-1a2b3c4d5e6f"
    assert vars(line)["duration_ms"] >= 0
    assert "secret" not in caplog.text


def test_log_lines_are_json_with_the_requests_id(capsys: pytest.CaptureFixture[str]) -> None:
    """Also where an exception has a traceback of many lines."""
    root = logging.getLogger()
    before, level = root.handlers, root.level
    try:
        configure()
        client(FakeService(error=RuntimeError("oh\nno"))).get("/data?query=x", headers={"X-Request-ID": "abc"})
        assert isinstance(root.handlers[0].formatter, JsonFormatter)
    finally:
        root.handlers, root.level = before, level
        logging.captureWarnings(False)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["level"] for line in lines] == ["ERROR", "ERROR"]
    assert {line["request_id"] for line in lines} == {"abc"}
    assert "oh\nno" in lines[0]["exc_info"]


def test_many_candidates_keep_their_order(service: FakeService) -> None:
    """All of them are in `ranked`, as the service ordered them."""
    many = [changed(OTHER, text=f"{rank}", rank=rank, interaction_id=f"{rank}") for rank in range(1, 31)]
    response = client(FakeService(*many)).get("/data?query=x")
    assert response.json is not None
    assert [each["rank"] for each in response.json["ranked"]] == list(range(1, 31))
