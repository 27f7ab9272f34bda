"""The part of the OpenAPI document that is about the rerank API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from rlhf_loop.accounts import tokens
from rlhf_loop.web.api.operations import json_body, json_reply, operation
from rlhf_loop.web.api.rerank_schemas import (
    MAX_DOCUMENTS,
    CohereErrorOut,
    CohereIn,
    CohereOut,
    JinaErrorOut,
    JinaIn,
    JinaOut,
    TeiErrorOut,
    TeiIn,
    TeiOut,
    VllmErrorOut,
    VllmIn,
    VllmOut,
)

REQUESTS = (JinaIn, CohereIn, TeiIn, VllmIn)
RESPONSES = (JinaOut, CohereOut, TeiOut, VllmOut, JinaErrorOut, CohereErrorOut, TeiErrorOut, VllmErrorOut)

_TAG = "Ranking"
_QUERY = "What helps against a migraine attack?"
_TEXTS = [
    "Migraine is more common in women than in men.",
    "Rest in a dark room, drink water, and take the painkiller early.",
]
_ASKED = {"model": "any", "query": _QUERY, "documents": _TEXTS, "top_n": 1}
_ID = "0d9d6f3c6f0b4f0f8f5c1d2e3a4b5c6d"
_VERSION = "passages-1a2b3c4d5e6f"
_USAGE = {"total_tokens": 34, "prompt_tokens": 34}
_RESULT = {"index": 1, "relevance_score": 0.83}
_META = {"api_version": {"version": "1"}, "billed_units": {"search_units": 1}}
_META_2 = {**_META, "api_version": {"version": "2"}}
_JINA = {"id": _ID, "model": _VERSION, "usage": _USAGE, "results": [_RESULT], "meta": _META}
_COHERE = {"id": _ID, "results": [_RESULT], "meta": _META_2}
_VLLM = {"id": _ID, "model": _VERSION, "usage": _USAGE, "results": [{**_RESULT, "document": {"text": _TEXTS[1]}}]}

_WHO = (
    "For whoever asks on the server's own machine; others need a token with the scope `rerank`, unless it is for "
    f"everybody here (`RLHF_RERANK_PUBLIC`). At most {MAX_DOCUMENTS:,} documents in 4 MiB. Other fields that clients "
    "of this dialect send are passed over."
)
_WORDS = {
    400: "The body is not JSON.",
    401: "There is no token, or one that is not valid (any more).",
    403: "The token does not have the scope rerank.",
    408: "The body did not come in time.",
    413: "There are too many documents, the question is too long, or the body is larger than 4 MiB.",
    415: "The body is not declared as JSON.",
    422: "A value is missing, empty or of the wrong type.",
    429: "These are more requests than are allowed in that time.",
    500: "Something unexpected; the log has it under the request id.",
    503: "There is no model to rank by, or the database does not say whose token it is.",
}
#: Where several dialects share a path, each has some of these.
_SHARED_WORDS = {
    **_WORDS,
    400: "The body is not JSON, there are no documents, or (vLLM) a value is missing, empty or of the wrong type.",
}
_RETRY_AFTER = {"Retry-After": {"description": "Seconds to wait before the next try.", "schema": {"type": "string"}}}
_ERROR_HEADERS: dict[int, dict[str, Any]] = {
    401: {"WWW-Authenticate": {"description": "`Bearer`, as RFC 6750 has it.", "schema": {"type": "string"}}},
    429: _RETRY_AFTER,
    503: _RETRY_AFTER,
}
_HEADERS = {
    "X-RLHF-Ranking": {
        "description": "`model`, or `incoming`: there is no model, and the documents keep their order.",
        "schema": {"type": "string", "enum": ["model", "incoming"]},
        "required": True,
    },
    "X-RLHF-Model": {"description": "The version of the model that ranked, if one did.", "schema": {"type": "string"}},
}


def paths() -> dict[str, dict[str, Any]]:
    """Return the paths with their operations."""
    texts = {"query": _QUERY, "texts": _TEXTS, "raw_scores": False, "return_text": False}
    return {
        "/v1/rerank": _rerank(
            "rerankV1",
            "Rank documents, as Jina and Cohere's version 1 have it",
            json_body(
                JinaIn, {"texts": _ASKED, "objects": {**_ASKED, "documents": [{"text": each} for each in _TEXTS]}}
            ),
            json_reply(JinaOut, "The documents, best first.", {"best": _JINA}, headers=_HEADERS),
            [JinaErrorOut],
        ),
        "/v2/rerank": _rerank(
            "rerankV2",
            "Rank documents, as Cohere's version 2 has it",
            json_body(CohereIn, {"texts": _ASKED}),
            json_reply(CohereOut, "The documents, best first.", {"best": _COHERE}, headers=_HEADERS),
            [CohereErrorOut],
        ),
        "/rerank": _rerank(
            "rerank",
            "Rank texts as Text Embeddings Inference has it, or documents as vLLM and Infinity have it",
            json_body(TeiIn, {"TEI": texts, "vLLM, Infinity": _ASKED}, others=[VllmIn]),
            json_reply(
                TeiOut,
                "The texts or documents, best first.",
                {"TEI": [{"index": 1, "score": 0.83}, {"index": 0, "score": 0.21}], "vLLM, Infinity": _VLLM},
                others=[VllmOut],
                headers=_HEADERS,
            ),
            [TeiErrorOut, VllmErrorOut],
            words=_SHARED_WORDS,
        ),
    }


def _rerank(
    name: str,
    summary: str,
    body: Mapping[str, Any],
    found: Mapping[str, Any],
    errors: Sequence[type[BaseModel]],
    *,
    words: Mapping[int, str] = _WORDS,
) -> dict[str, Any]:
    first, *others = errors
    refused = {
        status: json_reply(first, said, others=others, headers=_ERROR_HEADERS.get(status))
        for status, said in words.items()
    }
    described = operation(name, _TAG, summary, {200: found, **refused}, description=_WHO, problems=(), body=body)
    return {"post": {**described, "security": [{}, {"bearer": [tokens.RERANK]}]}}
