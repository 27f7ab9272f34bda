"""Best of n over HTTP: which draft goes out, in which form, and what is recorded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from llm_endpoint import Endpoint, completion
from llm_endpoint import patient_drafts as patient_drafts
from rerank_apps import BAD, FAIR, GOOD, QUERY, RankingService, app_with, post, ranker_in
from sqlalchemy import Engine
from test_openapi import checker, document
from v1_apps import settings_for, token_for

from rlhf_loop.accounts import tokens, users
from rlhf_loop.answering.best_of import BestOf
from rlhf_loop.config import Settings
from rlhf_loop.domain import UserRole
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.ranking import rerank_candidates
from rlhf_loop.reward import RewardModel
from rlhf_loop.training.train import TrainingReport
from rlhf_loop.web import create_app

pytestmark = pytest.mark.usefixtures("patient_drafts")

PATH = "/v1/chat/completions"
#: By seed, so that the order in which drafts are asked for is known.
DRAFTS = [BAD, FAIR, GOOD, "Ask somebody else."]
ASKED: dict[str, Any] = {"model": "rlhf-loop", "messages": [{"role": "user", "content": QUERY}], "seed": 0}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    endpoint = Endpoint()
    endpoint.reply = lambda body: (200, drafted(DRAFTS[body["seed"]]))
    yield endpoint
    endpoint.close()


@pytest.fixture
def service(
    endpoint: Endpoint, tmp_path: Path, encoder: TextEncoder, trained: tuple[RewardModel, TrainingReport]
) -> Iterator[RankingService]:
    service = RankingService(ranker_in(tmp_path, encoder, trained[0]))
    service.drafts = BestOf(Settings(llm_url=endpoint.url, llm_model="small"))
    yield service
    service.drafts.close()


@pytest.fixture
def web(service: RankingService, tmp_path: Path) -> FlaskClient:
    return app_with(service, tmp_path).test_client()


def drafted(text: str | None, **message: Any) -> dict[str, Any]:
    found = completion(text)
    found["choices"][0]["message"].update(message)
    return {**found, "usage": {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}}


def events(data: str) -> list[dict[str, Any]]:
    """Return the chunks of a stream, which has to end as OpenAI's does."""
    lines = data.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


def test_the_best_draft_goes_out(web: FlaskClient, service: RankingService) -> None:
    """With its score and the ranking's id, by which all drafts can be rated."""
    response = post(web, PATH, ASKED)
    answer: Any = response.json
    (choice,), (recorded,) = answer["choices"], service.rankings
    expected = rerank_candidates(QUERY, DRAFTS, ranker=service.ranker())
    assert choice["message"]["content"] == expected[0]["text"] == GOOD
    score = pytest.approx(expected[0]["score"], abs=1e-6)
    assert choice["rlhf"] == {"index": 2, "score": score, "ranking": recorded.id}
    assert float(response.headers["X-RLHF-Score"]) == choice["rlhf"]["score"]
    assert answer["id"] == response.headers["X-RLHF-Ranking-Id"] == recorded.id
    assert answer["usage"] == {"prompt_tokens": 9, "completion_tokens": 20, "total_tokens": 29}
    assert (response.headers["X-RLHF-Ranking"], response.headers["X-RLHF-Drafts"]) == ("model", "4")
    assert (answer["rlhf"], response.headers["X-RLHF-Drafts-Wanted"]) == ({"drafts": 4, "wanted": 4}, "4")
    assert [each.text for each in recorded.candidates] == [each["text"] for each in expected]
    assert {(each.candidate.source, each.candidate.drafted_by) for each in recorded.candidates} == {("small", "small")}
    assert (recorded.query, recorded.door, recorded.returned) == (QUERY, PATH, 1)
    described = document()["paths"][PATH]["post"]["responses"]["200"]["content"]["application/json"]
    checker(described["schema"]).validate(answer)


def test_fewer_drafts_than_choices_are_said(web: FlaskClient, endpoint: Endpoint, service: RankingService) -> None:
    """Where some fail, or too many are under way: n choices are more than there are."""
    endpoint.reply = lambda body: (200, drafted(GOOD)) if body["seed"] == 1 else (500, {})
    response = post(web, PATH, {**ASKED, "n": 3, "best_of": 2})
    assert (len(response.json["choices"]), service.rankings[0].returned) == (1, 1)  # type: ignore[index]
    assert response.json["rlhf"] == {"drafts": 1, "wanted": 3}  # type: ignore[index]
    assert (response.headers["X-RLHF-Drafts"], response.headers["X-RLHF-Drafts-Wanted"]) == ("1", "3")


def test_several_choices(web: FlaskClient) -> None:
    """With n the n best go out, best first."""
    answer: Any = post(web, PATH, {**ASKED, "n": 3, "best_of": 2, "seed": 1}).json
    assert answer["choices"][0]["message"]["content"] == GOOD
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    scores = [choice["rlhf"]["score"] for choice in answer["choices"]]
    assert scores == sorted(scores, reverse=True)


def test_a_stream(web: FlaskClient, service: RankingService) -> None:
    """The pieces make up the best draft; the tokens come last, if they are asked for."""
    response = post(web, PATH, {**ASKED, "stream": True, "stream_options": {"include_usage": True}})
    assert response.mimetype == "text/event-stream"
    found = events(response.text)
    assert {chunk["object"] for chunk in found} == {"chat.completion.chunk"}
    assert {chunk["id"] for chunk in found} == {service.rankings[0].id}
    assert found[-1]["choices"] == []
    assert found[-1]["usage"]["total_tokens"] == 29
    assert {chunk["usage"] for chunk in found[:-1]} == {None}
    choices = [chunk["choices"][0] for chunk in found[:-1]]
    assert choices[0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(choice["delta"].get("content", "") for choice in choices) == GOOD
    assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + ["stop"]
    bare = events(post(web, PATH, {**ASKED, "stream": True}).text)
    assert not any("usage" in chunk for chunk in bare)


@pytest.mark.parametrize("stream", [False, True])
def test_what_odd_endpoints_write(web: FlaskClient, endpoint: Endpoint, *, stream: bool) -> None:
    """Parts become a text, which streams have as well, and what is not a number none; a draft of neither text nor calls
    costs only itself.
    """

    def reply(body: dict[str, Any]) -> tuple[int, object]:
        found = completion(GOOD)
        choice = found["choices"][0]
        if len(endpoint.requests) % 2:
            choice["message"]["content"] = [{"type": "text", "text": GOOD[:9]}, {"type": "text", "text": GOOD[9:]}]
            choice["logprobs"] = {"content": [{"token": "a", "logprob": float("-inf")}]}
        else:
            choice["message"] = {"role": "assistant", "content": 5, "tool_calls": [1, "x"]}
        return 200, found

    endpoint.reply = reply
    response = post(web, PATH, {**ASKED, "stream": stream})
    written = response.get_data(as_text=True)
    assert response.status_code == 200
    assert "Infinity" not in written
    events = [json.loads(line[6:]) for line in written.splitlines() if line.startswith("data: {")]
    whole = "".join(each["choices"][0]["delta"].get("content") or "" for each in events)
    assert (whole if stream else json.loads(written)["choices"][0]["message"]["content"]) == GOOD


def test_log_probabilities_go_along(web: FlaskClient, endpoint: Endpoint) -> None:
    """They are those of the draft that goes out; in a stream with its whole text."""

    def reply(body: dict[str, Any]) -> tuple[int, object]:
        found = drafted(DRAFTS[body["seed"]])
        found["choices"][0]["logprobs"] = {"content": [{"token": str(body["seed"]), "logprob": -1.0}]}
        return 200, found

    endpoint.reply = reply
    expected = {"content": [{"token": "2", "logprob": -1.0}]}
    answer: Any = post(web, PATH, {**ASKED, "logprobs": True}).json
    assert answer["choices"][0]["logprobs"] == expected
    chunks = [chunk["choices"][0] for chunk in events(post(web, PATH, {**ASKED, "stream": True}).text)]
    assert [(each["delta"]["content"], each["logprobs"]) for each in chunks if "logprobs" in each] == [(GOOD, expected)]


@pytest.mark.parametrize("stream", [False, True])
def test_a_first_draft_that_calls_a_tool_goes_out(
    web: FlaskClient, endpoint: Endpoint, service: RankingService, stream: bool
) -> None:
    """It is no answer that could be judged, and is not recorded; the other drafts are, and none of them went out."""
    endpoint.reply = lambda body: (
        200,
        drafted(DRAFTS[body["seed"]]) if body["seed"] else drafted(None, tool_calls=[CALL]),
    )
    response = post(web, PATH, {**ASKED, "stream": stream, "tools": [{"type": "function"}]})
    if stream:
        deltas = [chunk["choices"][0]["delta"] for chunk in events(response.text)]
        assert [delta["tool_calls"] for delta in deltas if "tool_calls" in delta] == [[{"index": 0, **CALL}]]
    else:
        answer: Any = response.json
        assert answer["choices"][0]["message"]["tool_calls"] == [CALL]
    assert response.headers["X-RLHF-Ranking"] == "incoming"
    assert "X-RLHF-Score" not in response.headers
    assert [each.text for each in service.rankings[0].candidates] == DRAFTS[1:]
    assert service.rankings[0].returned == 0


def test_a_later_draft_that_calls_a_tool_comes_last(web: FlaskClient, endpoint: Endpoint) -> None:
    """The first one wants to answer, so the best answer goes out."""
    endpoint.reply = lambda body: (
        200,
        drafted(None, tool_calls=[CALL]) if body["seed"] == 1 else drafted(DRAFTS[body["seed"]]),
    )
    answer: Any = post(web, PATH, {**ASKED, "n": 4}).json
    assert answer["choices"][0]["message"]["content"] == GOOD
    assert answer["choices"][3]["message"]["tool_calls"] == [CALL]


@pytest.mark.parametrize(
    ("messages", "query"),
    [
        ([{"role": "user", "content": [{"type": "text", "text": QUERY}, IMAGE]}], QUERY),
        ([{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}, *ASKED["messages"]], QUERY),
        ([*ASKED["messages"], {"role": "tool", "tool_call_id": "1", "content": "found"}], QUERY),
        ([{"role": "user", "content": f"{'context ' * 2_000}{QUERY}"}], QUERY),
        ([{"role": "user", "content": [IMAGE]}], ""),
        ([{"role": "system", "content": "Be brief."}], ""),
    ],
    ids=["image", "turns", "tool", "long", "only an image", "no question"],
)
def test_what_is_judged(web: FlaskClient, service: RankingService, messages: list[dict[str, Any]], query: str) -> None:
    """Drafts answer the text of the last user message; where that has none, the first draft goes out."""
    response = post(web, PATH, {**ASKED, "messages": messages})
    assert response.status_code == 200
    assert response.headers["X-RLHF-Ranking"] == ("model" if query else "incoming")
    recorded = [each.query for each in service.rankings]
    assert all(each.endswith(query) and len(each) <= 8_000 for each in recorded)
    assert len(recorded) == bool(query)


def test_without_a_reward_model(endpoint: Endpoint, tmp_path: Path, encoder: TextEncoder) -> None:
    """The first draft goes out, without a score, and all are recorded; the prior ranks where that is set."""
    for setting, first, by in (("error", BAD, "incoming"), ("prior", GOOD, "prior")):
        service = RankingService(ranker_in(tmp_path, encoder, None))
        service.drafts = BestOf(Settings(llm_url=endpoint.url, llm_model="small"))
        response = post(app_with(service, tmp_path, rerank_without_model=setting).test_client(), PATH, ASKED)
        service.drafts.close()
        answer: Any = response.json
        assert (answer["choices"][0]["message"]["content"], response.headers["X-RLHF-Ranking"]) == (first, by)
        assert len(service.rankings[0].candidates) == 4


def test_others_need_a_token(engine: Engine, tmp_path: Path, service: RankingService) -> None:
    """A token that may only rank spends nothing of the language model."""
    web = create_app(settings_for(engine, tmp_path), service=service).test_client()  # type: ignore[arg-type]
    given = [token_for(engine, name, scopes=[name]) for name in (tokens.CHAT, tokens.RERANK)]
    headers: list[dict[str, str]] = [*({"Authorization": f"Bearer {token}"} for token in given), {}]
    elsewhere = {"REMOTE_ADDR": "203.0.113.7"}
    found = [post(web, PATH, ASKED, headers=each, environ_base=elsewhere) for each in headers]
    assert [each.status_code for each in found] == [200, 403, 401]
    kinds = [each.json["error"]["type"] for each in found[1:] if each.json]
    assert kinds == ["permission_error", "authentication_error"]


def test_a_token_that_records_nothing(engine: Engine, tmp_path: Path, service: RankingService) -> None:
    """Drafts are recorded so that they can be rated, but for a token with a share of its own."""
    web = create_app(settings_for(engine, tmp_path), service=service).test_client()  # type: ignore[arg-type]
    for record, kept in ((None, 1), (0.0, 0), (1.0, 1)):
        user = users.add(engine, f"chat-{record}", role=UserRole.SERVICE, actor="test").name
        token = tokens.add(engine, "test", user=user, scopes=[tokens.CHAT], record=record, actor="test").secret
        before = len(service.rankings)
        answer = post(web, PATH, ASKED, headers={"Authorization": f"Bearer {token}"})
        assert (answer.status_code, len(service.rankings) - before) == (200, kept)
        ranking = answer.get_json()["choices"][0]["rlhf"]["ranking"]
        assert ranking == (service.rankings[-1].id if kept else None)


def test_counts_as_texts(web: FlaskClient) -> None:
    """What says a number in another way is taken as one."""
    assert len(post(web, PATH, {**ASKED, "n": "2", "best_of": 2.0}).get_json()["choices"]) == 2


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "messages is missing"),
        ({**ASKED, "messages": []}, "messages has no entries"),
        ({**ASKED, "messages": "Hello"}, "messages is 'Hello'"),
        ({**ASKED, "messages": ["Hello"]}, "messages.0 is"),
        ({**ASKED, "n": 0}, "n is 0"),
        ({**ASKED, "best_of": 17}, "best_of is 17"),
        ({**ASKED, "stream": "maybe"}, "stream is"),
        ([], "The body is a list"),
    ],
)
def test_what_cannot_be_meant(web: FlaskClient, endpoint: Endpoint, body: Any, message: str) -> None:
    """It is refused in OpenAI's form, and costs no draft."""
    response = post(web, PATH, body)
    found: Any = response.json
    assert (response.status_code, found["error"]["type"]) == (400, "invalid_request_error")
    assert message in found["error"]["message"]
    assert endpoint.requests == []


@pytest.mark.parametrize(
    ("reply", "status", "kind"),
    [
        ((400, {"error": {"message": "no such role"}}), 400, "invalid_request_error"),
        ((403, {"error": {"message": "not by our rules"}}), 400, "invalid_request_error"),
        ((429, {}), 429, "rate_limit_error"),
        ((500, {}), 502, "server_error"),
    ],
)
def test_where_all_drafts_fail(
    web: FlaskClient, endpoint: Endpoint, reply: tuple[int, object], status: int, kind: str
) -> None:
    """The error is one in OpenAI's form, as the document has it."""
    endpoint.reply = lambda _: reply
    response = post(web, PATH, ASKED)
    found: Any = response.json
    assert (response.status_code, found["error"]["type"]) == (status, kind)
    assert (response.headers.get("Retry-After") is not None) == (status == 429)
    described = document()["paths"][PATH]["post"]["responses"][str(status)]["content"]["application/json"]
    checker(described["schema"]).validate(found)


def test_refusals_are_nobody_elses(web: FlaskClient, endpoint: Endpoint) -> None:
    """What the endpoint refuses one caller, however often, pauses it for nobody."""
    endpoint.reply = lambda _: (403, {"error": {"message": "not by our rules"}})
    assert {post(web, PATH, ASKED).status_code for _ in range(5)} == {400}
    endpoint.reply = lambda _: (200, completion(GOOD))
    assert post(web, PATH, ASKED).status_code == 200


def test_without_a_language_model(tmp_path: Path) -> None:
    """It says what to set; no client tries that again."""
    response = post(app_with(None, tmp_path).test_client(), PATH, ASKED)
    found: Any = response.json
    assert (response.status_code, found["error"]["type"]) == (404, "not_found_error")
    assert "Set RLHF_LLM_URL" in found["error"]["message"]


def test_half_a_character(web: FlaskClient, endpoint: Endpoint) -> None:
    """What a model writes can always be sent, and what a client sends always be passed on."""
    endpoint.reply = lambda _: (200, drafted("a\ud800b"))
    for stream in (False, True):
        response = post(web, PATH, data=json.dumps({**ASKED, "stream": stream, "user": "\ud800"}))
        assert response.status_code == 200
        assert "a?b" in response.text
