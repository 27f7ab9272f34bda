"""The rerank API: what each dialect returns."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from flask.testing import FlaskClient
from rerank_apps import BAD, DOCUMENTS, FAIR, GOOD, QUERY, REQUESTS, RankingService, app_with, post, ranker_in
from test_openapi import checker, document

from rlhf_loop.encoders import TextEncoder
from rlhf_loop.ranking import Ranker, logit, off_marker, rerank_candidates
from rlhf_loop.reward import RewardModel
from rlhf_loop.training.train import TrainingReport

#: Each dialect: its path, the field of its documents, and what it returns of a ranking.
DIALECTS = {"jina": "/v1/rerank", "cohere": "/v2/rerank", "vllm": "/rerank", "tei": "/rerank"}


@pytest.fixture(scope="module")
def ranker(
    tmp_path_factory: pytest.TempPathFactory, encoder: TextEncoder, trained: tuple[RewardModel, TrainingReport]
) -> Ranker:
    return ranker_in(tmp_path_factory.mktemp("model"), encoder, trained[0])


@pytest.fixture(scope="module")
def web(ranker: Ranker, tmp_path_factory: pytest.TempPathFactory) -> FlaskClient:
    return app_with(ranker, tmp_path_factory.mktemp("web")).test_client()


@pytest.fixture(scope="module")
def expected(ranker: Ranker) -> list[tuple[int, float]]:
    """The documents' indexes with their scores, best first."""
    return [(DOCUMENTS.index(one["text"]), one["score"]) for one in rerank_candidates(QUERY, DOCUMENTS, ranker=ranker)]


def asked(dialect: str, documents: Any = DOCUMENTS, **more: Any) -> dict[str, Any]:
    return {"query": QUERY, "texts" if dialect == "tei" else "documents": documents, **more}


def pairs(dialect: str, answer: Any) -> list[tuple[int, float]]:
    if dialect == "tei":
        return [(one["index"], one["score"]) for one in answer]
    return [(one["index"], one["relevance_score"]) for one in answer["results"]]


def said(dialect: str, answer: Any) -> str:
    """Return an error's message."""
    if dialect == "vllm":
        return str(answer["error"]["message"])
    return str(answer[{"jina": "detail", "cohere": "message", "tei": "error"}[dialect]])


def one_by_one(web: FlaskClient, dialect: str, **more: Any) -> list[float]:
    """Return the score of each document where it is sent alone."""
    found = (post(web, DIALECTS[dialect], asked(dialect, [text], **more)).get_json() for text in DOCUMENTS)
    return [pairs(dialect, each)[0][1] for each in found]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_scores_do_not_depend_on_the_batch(web: FlaskClient, dialect: str) -> None:
    """With `batch` a document has the same score alone and among others; as ever it has another one."""
    together = dict(pairs(dialect, post(web, DIALECTS[dialect], asked(dialect, batch=True)).get_json()))
    assert one_by_one(web, dialect, batch=True) == pytest.approx([together[place] for place in range(3)], abs=1e-6)
    assert one_by_one(web, dialect) != pytest.approx([together[place] for place in range(3)], abs=1e-3)


def test_the_batch_is_a_setting(web: FlaskClient, ranker: Ranker, tmp_path: Path) -> None:
    """With RLHF_RERANK_BATCH every request is one of several; one that says otherwise is not."""
    batched = app_with(ranker, tmp_path, rerank_batch=True).test_client()
    assert one_by_one(batched, "jina") == one_by_one(web, "jina", batch=True)
    assert one_by_one(batched, "jina", batch=False) == one_by_one(web, "jina")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_recorded_ranking_is_named(ranker: Ranker, tmp_path: Path, dialect: str) -> None:
    """What is kept has the very order and scores, the first documents only; its id comes back, in the body, too."""
    documents = [*DOCUMENTS, "", *(f"Burn number {number}." for number in range(20))]
    service = RankingService(ranker)
    web = app_with(service, tmp_path, record_rankings=1.0).test_client()
    response = post(web, DIALECTS[dialect], asked(dialect, documents, top_n=3))
    (kept,) = service.rankings
    assert [(each.position, each.score) for each in kept.candidates][:3] == pairs(dialect, response.json)
    assert len(kept.candidates) == 10
    assert all(each.text == documents[each.position] for each in kept.candidates)
    assert (kept.query, kept.door, kept.caller, kept.returned) == (QUERY, DIALECTS[dialect], None, 3)
    assert (kept.policy, kept.model_version) == ("live", ranker.model_version)
    assert response.headers["X-RLHF-Ranking-Id"] == kept.id
    if dialect != "tei":
        assert response.json["id"] == kept.id  # type: ignore[index]
    post(web, DIALECTS[dialect], asked(dialect, DOCUMENTS[:1], top_n=3))
    assert service.rankings[-1].returned == 1


def test_only_what_is_recorded_is_said_to_be(ranker: Ranker, web: FlaskClient, tmp_path: Path) -> None:
    """Without a share nothing is recorded; where there is no room, the ranking comes without such an id."""
    assert "X-RLHF-Ranking-Id" not in post(web, "/v1/rerank", asked("jina")).headers
    service = RankingService(ranker)
    service.stores = False
    full = app_with(service, tmp_path, record_rankings=1.0).test_client()
    dropped = post(full, "/v1/rerank", asked("jina"))
    assert dropped.status_code == 200
    assert "X-RLHF-Ranking-Id" not in dropped.headers
    counted = full.get("/metrics").text
    assert 'rlhf_recorded_rankings_total{door="/v1/rerank",result="dropped"} 1.0' in counted


# --- What comes back -------------------------------------------------------------------------------------------------


def test_jina(web: FlaskClient, ranker: Ranker, expected: list[tuple[int, float]]) -> None:
    """Jina's form: model, usage and results; the id and what Cohere's first version has besides."""
    response = post(web, "/v1/rerank", asked("jina", model="jina-reranker-v2-base-multilingual"))
    tokens = sum(ranker.encoder.count_tokens([QUERY, *DOCUMENTS])) if ranker.encoder else 0
    assert response.json == {
        "id": response.headers["X-Request-ID"],
        "model": ranker.model_version,
        "object": "rerank",
        "usage": {"total_tokens": tokens, "prompt_tokens": tokens, "completion_tokens": 0},
        "results": [{"index": index, "relevance_score": score} for index, score in expected],
        "meta": {"api_version": {"version": "1"}, "billed_units": {"search_units": 1}},
    }
    assert tokens > 40
    assert response.headers["X-RLHF-Ranking"] == "model"
    assert response.headers["X-RLHF-Model"] == ranker.model_version


def test_cohere(web: FlaskClient, expected: list[tuple[int, float]]) -> None:
    """Cohere's second form: id, results and meta, never the documents."""
    response = post(web, "/v2/rerank", asked("cohere", model="rerank-v3.5", return_documents=True))
    assert response.json == {
        "id": response.headers["X-Request-ID"],
        "results": [{"index": index, "relevance_score": score} for index, score in expected],
        "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}},
    }


def test_tei(web: FlaskClient, expected: list[tuple[int, float]]) -> None:
    """TEI's form: a bare list, with texts or logits where they are asked for."""
    body = asked("tei", truncate=True, truncation_direction="Right")
    assert post(web, "/rerank", body).json == [{"index": index, "score": score} for index, score in expected]
    raw = post(web, "/rerank", {**body, "raw_scores": True, "return_text": True}).json
    assert raw == [{"index": index, "score": logit(score), "text": DOCUMENTS[index]} for index, score in expected]


def test_vllm(web: FlaskClient, ranker: Ranker, expected: list[tuple[int, float]]) -> None:
    """vLLM's form: with the documents, unless they are not wanted."""
    answer = post(web, "/rerank", asked("vllm", model="BAAI/bge-reranker-v2-m3", top_n=0)).json
    assert answer is not None
    assert set(answer) == {"id", "model", "usage", "results"}
    assert answer["results"] == [
        {"index": index, "relevance_score": score, "document": {"text": DOCUMENTS[index]}} for index, score in expected
    ]
    bare = post(web, "/rerank", asked("vllm", return_documents=False, raw_scores=True)).json
    assert bare is not None
    assert bare["results"] == [{"index": index, "relevance_score": logit(score)} for index, score in expected]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(("top_n", "count"), [(None, 3), (0, 3), (1, 1), (3, 3), (99, 3)])
def test_top_n(
    web: FlaskClient, expected: list[tuple[int, float]], dialect: str, top_n: int | None, count: int
) -> None:
    """The best so many come back; all where none, 0 (as Dify sends it), or more than there are, is said."""
    answer = post(web, DIALECTS[dialect], asked(dialect, top_n=top_n)).json
    assert pairs(dialect, answer) == expected[:count]


def test_documents_as_objects(web: FlaskClient, expected: list[tuple[int, float]]) -> None:
    """Objects are read by their text, or by the fields that are named, and go back whole."""
    documents: list[Any] = [{"text": BAD, "id": 7}, {"text": GOOD}, FAIR]
    answer = post(web, "/v1/rerank", asked("jina", documents, return_documents=True)).json
    assert pairs("jina", answer) == expected
    assert answer is not None
    found = {one["index"]: one["document"] for one in answer["results"]}
    assert found == {0: {"text": BAD, "id": 7}, 1: {"text": GOOD}, 2: {"text": FAIR}}
    by_field = [{"title": text, "text": "Nothing.", "year": 2026} for text in DOCUMENTS]
    answer = post(web, "/v1/rerank", asked("jina", by_field, rank_fields=["title"])).json
    assert pairs("jina", answer) == expected


def test_documents_keep_their_index(web: FlaskClient) -> None:
    """Among duplicates and empty documents each has its own index; ties stay in order, empty ones come last."""
    for dialect, path in DIALECTS.items():
        answer = post(web, path, asked(dialect, ["", GOOD, BAD, GOOD, " "])).json
        assert [index for index, _ in pairs(dialect, answer)] == [1, 3, 2, 0, 4], dialect


def wrapped(text: str) -> dict[str, Any]:
    """Return the text as clients wrap it."""
    return {
        "object": {"text": text, "id": 7},
        "parts": {"content": [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": "x"}}]},
        "JSON, Vercel AI SDK": json.dumps({"title": "Burns", "text": text}),
        "YAML, langchain-cohere": yaml.dump({"title": "Burns", "tags": ["a", "b"], "text": text}, sort_keys=False),
        "header, LlamaIndex": f"file_path: /docs/a: b.pdf\npage_label: 3\n\n{text}",
    }


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("wrapping", wrapped(""))
def test_a_wrapping_moves_no_score(
    web: FlaskClient, expected: list[tuple[int, float]], dialect: str, wrapping: str
) -> None:
    """A document has the same score whatever its client made of it; what goes back is what came."""
    documents = [wrapped(text)[wrapping] for text in DOCUMENTS]
    if dialect == "tei" and not isinstance(documents[0], str):
        pytest.skip("TEI has texts only.")
    assert pairs(dialect, post(web, DIALECTS[dialect], asked(dialect, documents)).json) == expected


def test_a_query_of_parts(web: FlaskClient, expected: list[tuple[int, float]]) -> None:
    """vLLM's form may have the query as it has documents."""
    body = {**asked("vllm"), "query": {"content": [{"type": "text", "text": QUERY}]}}
    assert pairs("vllm", post(web, "/rerank", body).json) == expected


@pytest.mark.parametrize("path", ["/infinity/rerank", "/rerank"])
def test_infinity(web: FlaskClient, expected: list[tuple[int, float]], path: str) -> None:
    """Infinity's documents come back as texts, and only if that is asked for; its own client says raw_scores, too."""
    bare = post(web, path, asked("vllm", return_documents=False, raw_scores=False)).json
    assert bare is not None
    assert bare["results"] == [{"index": index, "relevance_score": score} for index, score in expected]
    answer = post(web, path, asked("vllm", return_documents=True, raw_scores=False, top_n=1)).json
    assert answer is not None
    assert [one["document"] for one in answer["results"]] == [DOCUMENTS[expected[0][0]]]
    by_litellm = post(web, "/infinity/rerank", asked("vllm", return_documents=True)).json
    assert by_litellm is not None
    assert [one["document"] for one in by_litellm["results"]] == [DOCUMENTS[index] for index, _ in expected]


def test_long_documents_can_be_cut(web: FlaskClient) -> None:
    """Cohere's max_tokens_per_doc: what stands behind is not read."""
    documents = [f"{BAD} {GOOD}", FAIR]
    whole = dict(pairs("cohere", post(web, "/v2/rerank", asked("cohere", documents)).json))
    cut = dict(pairs("cohere", post(web, "/v2/rerank", asked("cohere", documents, max_tokens_per_doc=8)).json))
    assert cut[0] < whole[0]
    all_of_it = post(web, "/v2/rerank", asked("cohere", documents, max_tokens_per_doc=0)).json
    assert dict(pairs("cohere", all_of_it)) == whole


def test_billed_units(web: FlaskClient) -> None:
    """As Cohere defines it, a unit is a query with up to 100 documents."""
    for count, units in ((100, 1), (101, 2), (1000, 10)):
        answer = post(web, "/v2/rerank", asked("cohere", [FAIR] * count)).json
        assert answer is not None
        assert answer["meta"]["billed_units"] == {"search_units": units}
        assert len(answer["results"]) == count


@pytest.mark.parametrize("sent", REQUESTS, ids=[one["client"] for one in REQUESTS])
def test_what_real_clients_send(web: FlaskClient, sent: dict[str, Any]) -> None:
    """The requests of real clients, recorded by `make clients`, are answered as the document has it."""
    headers = {name.title(): value for name, value in sent["headers"].items()}
    response = web.post(sent["path"], json=sent["body"], headers=headers)
    assert response.status_code == 200, response.text
    described = document()["paths"][sent["path"]]["post"]["responses"]["200"]["content"]["application/json"]
    checker(described["schema"]).validate(response.json)
    dialect = "tei" if isinstance(response.json, list) else "jina"
    indexes = [index for index, _ in pairs(dialect, response.json)]
    # The first and the fifth are the same, the last is empty.
    assert sorted(indexes) == list(range(6))
    assert indexes.index(4) == indexes.index(0) + 1
    assert indexes[-1] == 5


@pytest.mark.parametrize(
    ("path", "more"),
    [
        pytest.param("/v1/rerank", {"model": "reranker", "top_n": 3}, id="Open WebUI, external"),
        pytest.param("/v1/rerank", {"model": 5, "top_n": 3}, id="a model that is no name"),
        pytest.param(
            "/v1/rerank", {"model": "x", "return_documents": "true", "return_len": "true"}, id="RAGFlow, Xinference"
        ),
        pytest.param("/v1/rerank", {"model": "x", "top_n": 3, "return_documents": False}, id="RAGFlow, VLLM"),
        pytest.param("/rerank", {"model": "x", "top_n": 3}, id="RAGFlow, OpenAI-API-Compatible"),
        pytest.param(
            "/v1/rerank",
            {"model": "x", "top_n": 3, "return_documents": True, "score_threshold": 0.8},
            id="Dify, OpenAI-API-compatible",
        ),
    ],
)
def test_what_applications_send(
    web: FlaskClient, expected: list[tuple[int, float]], path: str, more: dict[str, Any]
) -> None:
    """Requests with the fields that the public sources of these applications name; what is not known is passed over."""
    answer = post(web, path, asked("jina", **more)).json
    assert pairs("jina", answer) == expected
    assert answer is not None
    assert answer["usage"]["total_tokens"] > 0


# --- What is wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"query": ""}, 422, "query is empty"),
        ({"query": " "}, 422, "query is only white space"),
        ({"query": None}, 422, "query is null, not a text. Send an object such as {"),
        ({"query": {"text": QUERY}}, 422, "query is {.*, not a text|query is an object, not a text"),
        ({"query": "x" * 8001}, 413, "query has 8,001 characters; at most 8,000"),
        ({"documents": []}, 422, "documents has no entries. Send at least one"),
        ({"documents": None}, 422, "documents is null"),
        ({"documents": GOOD}, 422, "documents is a text"),
        ({"documents": {"a": GOOD}}, 422, "documents is"),
        ({"documents": [GOOD, None]}, 422, "documents.1 is null"),
        ({"documents": [GOOD, 5, [GOOD], True, 7.5]}, 422, "documents.1 is 5.*And 1 more"),
        ({"documents": [FAIR] * 1001}, 413, "documents has 1,001 entries; at most 1,000 are allowed. Send less"),
        ({"documents": [{"title": GOOD}]}, 422, "documents.0 is"),
        ({"documents": [{"text": None}]}, 422, "documents.0"),
        ({"documents": [{"text": 5}]}, 422, "documents.0"),
        ({"top_n": -1}, 422, "top_n is -1"),
        ({"top_n": "all"}, 422, "top_n is 'all'"),
        ({"top_n": 1.5}, 422, "top_n is 1.5"),
    ],
)
def test_what_cannot_be_meant(
    web: FlaskClient, dialect: str, change: dict[str, Any], status: int, message: str
) -> None:
    """Each dialect refuses it in its own shape, with the field, the value and what to do."""
    field = "texts" if dialect == "tei" else "documents"
    body = {**asked(dialect), **{field if name == "documents" else name: value for name, value in change.items()}}
    response = post(web, DIALECTS[dialect], body)
    if status == 422 and (dialect == "vllm" or (dialect == "tei" and change == {"documents": []})):
        status = 400
    assert response.status_code == status
    assert response.mimetype == "application/json"
    assert re.search(message.replace("documents", field), said(dialect, response.json)), response.text
    described = document()["paths"][DIALECTS[dialect]]["post"]["responses"][str(status)]["content"]["application/json"]
    checker(described["schema"]).validate(response.json)


def test_fields_that_documents_do_not_have(web: FlaskClient) -> None:
    """A document without any of the fields that are to be read is named."""
    response = post(web, "/v1/rerank", asked("jina", [{"title": GOOD}, {"text": BAD}], rank_fields=["title", "body"]))
    assert response.status_code == 422
    assert "documents.1 is an object: it has nothing in title, body. Send a text" in said("jina", response.json)


@pytest.mark.parametrize("body", [{"query": QUERY}, {"query": QUERY, "text": DOCUMENTS}, {}])
def test_neither_texts_nor_documents(web: FlaskClient, body: dict[str, Any]) -> None:
    """As long as nobody knows which dialect it is, TEI's stands in."""
    response = post(web, "/rerank", body)
    assert response.status_code == 422
    assert "neither texts nor documents. Send texts" in said("tei", response.json)


def test_texts_and_documents(web: FlaskClient) -> None:
    """Both at once are two dialects at once."""
    response = post(web, "/rerank", {**asked("tei"), **asked("vllm")})
    assert response.status_code == 422
    assert "both texts and documents" in said("tei", response.json)
    assert response.json is not None
    assert response.json["error_type"] == "Validation"


def test_errors_have_the_types_of_their_dialect(web: FlaskClient) -> None:
    """TEI's are named as TEI names them, vLLM's as Python's."""
    empty = post(web, "/rerank", asked("tei", [])).json
    assert empty is not None
    assert empty["error_type"] == "Empty"
    wrong = post(web, "/rerank", asked("vllm", [None])).json
    assert wrong is not None
    assert {**wrong["error"], "message": ""} == {"message": "", "type": "BadRequestError", "code": 400}


def test_a_policy_is_rewarded_as_openrlhf_asks(tmp_path: Path, encoder: TextEncoder, reward_model: RewardModel) -> None:
    """With query, prompts and labels; rewards are log-odds, in the order of the texts, and nothing is recorded."""
    web = app_with(ranker_in(tmp_path, encoder, reward_model), tmp_path, record_rankings=1.0).test_client()
    prompt = f"<|im_start|>user\n{QUERY}<|im_end|>\n<|im_start|>assistant\n"
    sent = {"query": [f"{prompt}{each}<|im_end|>" for each in (BAD, GOOD)], "prompts": [prompt] * 2, "labels": ["", ""]}
    found = post(web, "/get_reward", sent)
    assert found.status_code == 200, found.text
    bad, good = found.json["rewards"]
    assert bad < good
    assert found.json["scores"][1] == pytest.approx(1 / (1 + math.exp(-good)))
    assert found.json["extra_logs"]["words"] == [len(BAD.split()), len(GOOD.split())]
    assert "X-RLHF-Ranking-Id" not in found.headers
    for body, words in (
        (sent | {"prompts": [prompt]}, "1 prompts and 2 texts"),
        ({"query": ["no template"]}, "Send prompts"),
        ({"query": "one"}, "query"),
        ({"query": []}, "query"),
        ([], "not an object"),
    ):
        refused = post(web, "/get_reward", body)
        assert (refused.status_code, words in refused.json["error"]) == (422, True), refused.text


def test_without_a_model_there_is_no_reward(tmp_path: Path, encoder: TextEncoder) -> None:
    """Even where the incoming order is kept: places are no rewards."""
    ranker = ranker_in(tmp_path, encoder, None)
    web = app_with(ranker, tmp_path, rerank_without_model="incoming").test_client()
    assert post(web, "/get_reward", {"query": ["q a"], "prompts": ["q"]}).status_code == 503


def test_a_model_that_is_switched_off(tmp_path: Path, encoder: TextEncoder) -> None:
    """Each dialect has the incoming order, whatever is set for a missing model; a score or a reward is refused."""
    ranker = ranker_in(tmp_path, encoder, None)
    web = app_with(ranker, tmp_path).test_client()
    off_marker(ranker.model_path).touch()
    for dialect, path in DIALECTS.items():
        found = post(web, path, asked(dialect))
        assert found.status_code == 200, found.text
        assert [index for index, _ in pairs(dialect, found.get_json())] == [0, 1, 2]
    refused = post(web, "/get_reward", {"query": ["q a"], "prompts": ["q"]})
    assert (refused.status_code, "switched off" in refused.text) == (503, True)
