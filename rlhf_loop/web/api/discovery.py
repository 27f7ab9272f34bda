"""`/info`, `/health` and `/v1/models`: what clients of other servers ask before they have anything ranked.

And the spellings of addresses: whatever base URL somebody enters, with a version, a slash or a whole path at its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from flask import Response
from pydantic import BaseModel, Field
from werkzeug.exceptions import ServiceUnavailable

from rlhf_loop.accounts import tokens
from rlhf_loop.answering import AnswerService
from rlhf_loop.config import Settings
from rlhf_loop.errors import ModelFileError
from rlhf_loop.version import __version__
from rlhf_loop.web.api.answers import json_response
from rlhf_loop.web.api.openapi import ERROR_HEADERS, Api, Content, json_reply
from rlhf_loop.web.api.rerank import TEI, VLLM
from rlhf_loop.web.api.rerank_schemas import MAX_DOCUMENTS, TeiErrorOut, VllmErrorOut
from rlhf_loop.web.guard import Guard
from rlhf_loop.web.problems import ErrorFormat, errors_as

#: The name by which this service lists itself; any other one is taken, too.
MODEL = "rlhf-loop"
#: Tokens that a request can have: a body of 4 MiB.
_TOKENS = 1_000_000
_RETRY_AFTER_S = 5
_WHO = "For whoever asks on the server's own machine; others need a token with the scope `rerank` or `chat`."
_WORDS = {
    401: "There is no token, or one that is not valid (any more).",
    403: "The token has neither the scope rerank nor chat.",
    429: "These are more requests than are allowed in that time.",
    500: "Something unexpected; the log has it under the request id.",
    503: "The database does not say whose token it is.",
}


class TeiInfoOut(BaseModel, title="TeiInfo"):
    """The description that Text Embeddings Inference gives of itself: the model is a reranker."""

    model_id: Annotated[str, Field(description="The live model's version, `rlhf-loop` without one.")]
    model_sha: str | None = None
    model_dtype: str = "float32"
    model_type: dict[str, dict[str, dict[str, Any]]]
    max_concurrent_requests: int = 512
    max_input_length: Annotated[int, Field(description="Tokens of a text; it is read whole.")] = _TOKENS
    max_batch_tokens: int = _TOKENS
    max_client_batch_size: Annotated[int, Field(description="Texts in a request.")] = MAX_DOCUMENTS
    auto_truncate: bool = False
    tokenization_workers: int = 1
    version: str = __version__


class HealthyOut(BaseModel, title="Health"):
    """The service can be asked."""

    status: str = "ok"


class ModelOut(BaseModel, title="Model"):
    """A model as OpenAI, vLLM and Xinference list it."""

    id: str
    object: str = "model"
    created: Annotated[int, Field(description="When the live model came, as Unix time; 0 without one.")]
    owned_by: str = MODEL
    root: Annotated[str, Field(description="The live model's version, `rlhf-loop` without one.")]
    max_model_len: int = _TOKENS
    model_type: Annotated[str, Field(description="For Xinference's clients.")] = "rerank"
    model_name: Annotated[str, Field(description="For Xinference's clients.")] = MODEL
    model_ability: Annotated[list[str], Field(description="For Xinference's clients.")] = ["rerank"]


class ModelsOut(BaseModel, title="Models"):
    """The list of models: this service, under its name."""

    object: str = "list"
    data: list[ModelOut]


class ClusterOut(BaseModel, title="XinferenceAuth"):
    """An answer to Xinference's clients, who ask if they are to send their key."""

    auth: bool


def add_routes(api: Api, settings: Settings, service: AnswerService, guard: Guard) -> None:
    """Add the routes by which clients find out what is here."""

    def let_in() -> None:
        if not settings.rerank_public and not guard.from_this_machine():
            guard.bearer(tokens.CHAT if guard.has_scope(tokens.CHAT) else tokens.RERANK)

    def version() -> str:
        try:
            return service.serving() or MODEL
        except ModelFileError:
            return MODEL

    def model(name: str) -> ModelOut:
        try:
            created = int(settings.model_path.stat().st_mtime)
        except OSError:
            created = 0
        return ModelOut(id=name, created=created, root=version())

    @api.route(
        "GET /info",
        "info",
        description=_WHO,
        replies={200: json_reply("A reranker.", TeiInfoOut), **_errors(TeiErrorOut)},
        scope=tokens.RERANK,
        without_token=True,
    )
    @errors_as(ErrorFormat(TEI.render))
    def info() -> Response:
        """Say what is here, as Text Embeddings Inference does."""
        let_in()
        labels: dict[str, dict[str, Any]] = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
        return json_response(TeiInfoOut(model_id=version(), model_type={"reranker": labels}))

    @api.route(
        "GET /health",
        "health",
        replies={
            200: json_reply("It can.", HealthyOut),
            500: _errors(TeiErrorOut)[500],
            503: json_reply("Not yet, or not well.", TeiErrorOut, headers=ERROR_HEADERS[503]),
        },
    )
    @errors_as(ErrorFormat(TEI.render))
    def health() -> Response:
        """Can it rank? As Text Embeddings Inference, vLLM and Infinity say it; `/readyz` says more."""
        readiness = service.readiness()
        if not readiness.ranks:
            raise ServiceUnavailable("The service is not ready; /readyz says why.", retry_after=_RETRY_AFTER_S)
        return json_response(HealthyOut())

    @api.route(
        "GET /v1/models",
        "models",
        description=_WHO,
        replies={200: json_reply("The list.", ModelsOut), **_errors(VllmErrorOut)},
        scope=tokens.RERANK,
        without_token=True,
    )
    @errors_as(ErrorFormat(VLLM.render))
    def models() -> Response:
        """List what can be named as a model: the live one, under the service's name."""
        let_in()
        return json_response(ModelsOut(data=[model(MODEL)]))

    @api.route(
        "GET /v1/models/<path:id>",
        "model",
        description=_WHO,
        replies={200: json_reply("It.", ModelOut), **_errors(VllmErrorOut)},
        parameters=[{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}, "example": MODEL}],
        scope=tokens.RERANK,
        without_token=True,
    )
    @errors_as(ErrorFormat(VLLM.render))
    def model_by_name(id: str) -> Response:
        """Describe a model; any name is that of the live one, as it is where something is ranked."""
        let_in()
        return json_response(model(id))

    @api.route(
        "GET /v1/cluster/auth",
        "clusterAuth",
        replies={
            200: json_reply("They are.", ClusterOut),
            **{each: _errors(VllmErrorOut)[each] for each in (429, 500)},
        },
    )
    @errors_as(ErrorFormat(VLLM.render))
    def cluster_auth() -> Response:
        """Tell Xinference's clients to send their key, if they have one."""
        return json_response(ClusterOut(auth=True))


def _errors(*models: type[BaseModel]) -> dict[int, Content]:
    return {status: json_reply(said, *models, headers=ERROR_HEADERS.get(status)) for status, said in _WORDS.items()}


_VERSIONS = ("v1", "v2")


def canonical_path(path: str) -> str:
    """Return the path that is meant: of what clients append to any base URL that somebody may have entered.

    A version, a slash or the whole path at the end of the base URL do no harm: `//v1/rerank`, `/v1/v1/rerank/`,
    `/v1/rerank/v1/rerank`.
    """
    parts = [part for part in path.split("/") if part]
    versions = [part for part in parts if part in _VERSIONS]
    named = _once([part for part in parts if part not in _VERSIONS])
    if named == ["rerank"]:
        return f"/{versions[-1]}/rerank" if versions else "/rerank"
    if named in (["infinity", "rerank"], ["info"], ["health"]):
        return f"/{'/'.join(named)}"
    if named in (["chat", "completions"], ["models"], ["cluster", "auth"]):
        return f"/v1/{'/'.join(named)}"
    while len(parts) > 1 and parts[0] in _VERSIONS and parts[1] in _VERSIONS:
        del parts[0]
    # An id may have slashes, and any words between them.
    at = parts.index("models") if "models" in parts[:2] else len(parts)
    if set(parts[:at]) <= set(_VERSIONS) and at < len(parts):
        return f"/v1/{path[path.index('models') :].strip('/')}"
    return path


def _once(parts: Sequence[str]) -> list[str]:
    """Leave out what a client appended to an address that had it already."""
    half = len(parts) // 2
    return list(parts[:half] if half and parts[:half] == parts[half:] else parts)
