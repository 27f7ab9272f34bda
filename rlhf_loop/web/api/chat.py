"""`/v1/chat/completions`: best of n, as OpenAI's clients have it.

The reward model judges a draft's text as an answer to the text of the last user message, and picks. All drafts are
recorded as a ranking.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from time import time
from typing import Annotated, Any

from flask import Response, request
from pydantic import BaseModel, Field, ValidationError
from werkzeug.exceptions import (
    BadGateway,
    BadRequest,
    GatewayTimeout,
    HTTPException,
    NotFound,
    ServiceUnavailable,
    TooManyRequests,
    UnprocessableEntity,
)

from rlhf_loop.accounts import tokens
from rlhf_loop.answering import AnswerService
from rlhf_loop.answering.best_of import MOST_DRAFTS, Draft
from rlhf_loop.config import Settings
from rlhf_loop.domain import Candidate, RankedCandidate, RecordedRanking
from rlhf_loop.errors import LanguageModelError, RlhfLoopError
from rlhf_loop.ranking import DocumentRanking, ScoredDocument, WithoutModel, is_drawn, rank_documents, without_model
from rlhf_loop.registry.runs import plain
from rlhf_loop.utils.text import blank
from rlhf_loop.web import logs
from rlhf_loop.web.api.discovery import MODEL
from rlhf_loop.web.api.document_text import parts_text
from rlhf_loop.web.api.openapi import ERROR_HEADERS, Api, json_body, json_reply
from rlhf_loop.web.api.rerank import HEADERS, Dialect, json_object, ranked_by
from rlhf_loop.web.api.rerank_schemas import MAX_QUERY_CHARS
from rlhf_loop.web.guard import Guard
from rlhf_loop.web.problems import ErrorFormat, errors_as
from rlhf_loop.web.schemas import sentence

logger = logging.getLogger(__name__)

#: Characters of a chunk of a stream: the whole is there when the first one goes out.
_PIECE = 80
_RETRY_AFTER_S = 5
_STATUSES: Mapping[int, type[HTTPException]] = {
    400: BadRequest,
    429: TooManyRequests,
    502: BadGateway,
    503: ServiceUnavailable,
    504: GatewayTimeout,
}
#: OpenAI's names of errors.
_KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_WORDS = {
    400: "The body is not JSON, a value is missing or of the wrong type, or the language model refuses it.",
    401: "There is no token, or one that is not valid (any more).",
    403: "The token does not have the scope chat.",
    404: "There is no language model here.",
    408: "The body did not come in time.",
    413: "The body is larger than 4 MiB.",
    415: "The body is not declared as JSON.",
    429: "These are more requests than are allowed in that time, here or at the language model.",
    500: "Something unexpected; the log has it under the request id.",
    502: "The language model gives nothing that can be used.",
    503: "The language model is paused or busy, or the database does not say whose token it is.",
    504: "No draft came in time.",
}
_WHO = (
    "Drafts are drawn at once from the endpoint at `RLHF_LLM_URL`, and `n` of them go out, the best one first. All "
    "other fields are passed on as they are. With `stream` the answer comes as events, which begin when all drafts are "
    "judged. For whoever asks on the server's own machine; others need a token with the scope `chat`."
)
_MESSAGES = [{"role": "user", "content": "What helps against a migraine attack?"}]
_ID = "0d9d6f3c6f0b4f0f8f5c1d2e3a4b5c6d"
_ANSWER = {
    "id": _ID,
    "object": "chat.completion",
    "created": 1790000000,
    "model": "llama3.2",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Rest in a dark room, and take the painkiller early."},
            "finish_reason": "stop",
            "rlhf": {"index": 2, "score": 0.83, "ranking": _ID},
        }
    ],
    "usage": {"prompt_tokens": 18, "completion_tokens": 160, "total_tokens": 178},
    "rlhf": {"drafts": 4, "wanted": 4},
}
_CHAT_HEADERS = {
    **HEADERS,
    "X-RLHF-Score": {
        "description": "The score of the draft that went out, if a model has judged it.",
        "schema": {"type": "number"},
    },
    "X-RLHF-Drafts": {
        "description": "How many drafts came in time.",
        "schema": {"type": "integer", "minimum": 1},
        "required": True,
    },
    "X-RLHF-Drafts-Wanted": {
        "description": "How many were asked for. Where fewer came, `n` choices may be more than there are.",
        "schema": {"type": "integer", "minimum": 1},
        "required": True,
    },
}
_Count = Annotated[int, Field(ge=1, le=MOST_DRAFTS)]


class ChatIn(BaseModel, extra="allow", title="ChatRequest"):
    """A chat as OpenAI has it."""

    messages: Annotated[list[dict[str, Any]], Field(min_length=1, description="The chat so far.")]
    model: Annotated[
        Any, Field(description="One of `RLHF_BEST_OF_MODELS`, which then draws all drafts; any other name means all.")
    ] = None
    best_of: Annotated[_Count | None, Field(description="How many drafts are drawn; by default as is set.")] = None
    n: Annotated[_Count | None, Field(description="How many go out, the best ones; by default 1.")] = None
    stream: Annotated[bool | None, Field(description="Send the answer as events.")] = None
    stream_options: Annotated[
        dict[str, Any] | None, Field(description="With `include_usage` the last event has the tokens.")
    ] = None


class ChatOut(BaseModel, extra="allow", title="ChatCompletion"):
    """A chat's answer as OpenAI has it; each choice has `rlhf`: its score, and its place in the recorded ranking."""

    id: Annotated[str, Field(description="The id by which `/v1/feedback` rates the drafts, if they were recorded.")]
    object: str
    created: int
    model: Annotated[str, Field(description="The model that wrote the first choice.")]
    choices: list[dict[str, Any]]
    usage: Annotated[dict[str, Any] | None, Field(description="The prompt's tokens once, and those of all drafts.")] = (
        None
    )


class ChatFaultOut(BaseModel, title="ChatFault"):
    """The details of an error in OpenAI's format."""

    message: Annotated[str, Field(description="What happened, the value seen, what to do next.")]
    type: str
    param: str | None = None
    code: str | None = None


class ChatErrorOut(BaseModel, title="ChatError"):
    """An error in OpenAI's format."""

    error: ChatFaultOut


def _openai(error: HTTPException, status: int, message: str) -> ChatErrorOut:
    kind = _KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
    return ChatErrorOut(error=ChatFaultOut(message=message, type=kind))


OPENAI = Dialect(_openai, {UnprocessableEntity: 400})


def add_routes(api: Api, settings: Settings, service: AnswerService, guard: Guard) -> None:
    """Add the route of best of n."""
    otherwise = WithoutModel.PRIOR if without_model(settings) is WithoutModel.PRIOR else WithoutModel.INCOMING

    @api.route(
        "POST /v1/chat/completions",
        "chat",
        description=_WHO,
        replies={
            200: replace(
                json_reply("The best draft.", ChatOut, examples={"best": _ANSWER}, headers=_CHAT_HEADERS), streams=True
            ),
            **{
                status: json_reply(said, ChatErrorOut, headers=ERROR_HEADERS.get(status))
                for status, said in _WORDS.items()
            },
        },
        body=json_body(ChatIn, examples={"best of 4": {"model": MODEL, "messages": _MESSAGES, "best_of": 4}}),
        scope=tokens.CHAT,
        without_token=True,
    )
    @errors_as(ErrorFormat(OPENAI.render))
    def chat() -> Response:
        """Answer in a chat: the best of several drafts."""
        if not guard.from_this_machine():
            guard.bearer(tokens.CHAT)
        body = json_object("a shorter chat", "messages")
        given = _checked(body)
        best_of = service.best_of()
        if best_of is None:
            raise NotFound(
                "There is no language model here, so nothing can be drafted. Set RLHF_LLM_URL and RLHF_LLM_MODEL, and "
                "start the service anew."
            )
        try:
            asked = given.model_dump(exclude_unset=True)
            drafts = best_of.draw(asked)
        except LanguageModelError as error:
            failure = _STATUSES[error.status](str(error))
            if isinstance(failure, ServiceUnavailable | TooManyRequests):
                failure.retry_after = max(1, round(error.retry_after_s or _RETRY_AFTER_S))
            raise failure from error
        query = _question(given.messages)
        ranking = _ranking(service, query, drafts, otherwise)
        bearer, recorded = guard.caller(), None
        # Without their recording nobody could rate drafts, so only a token's own share keeps them out.
        if is_drawn(1.0 if bearer is None or bearer.record is None else bearer.record):
            recorded = service.record_ranking(
                query,
                _as_candidates(drafts, ranking),
                model_version=ranking.model_version,
                door=request.path,
                caller=None if bearer is None else bearer.user.name,
                returned=min(given.n or 1, len(drafts)),
                most=len(drafts),
            )
        logs.begin(request).recorded = (request.path, None if recorded is None else recorded.id)
        logs.begin(request).model_version = ranking.model_version
        return _response(given, drafts, ranking, recorded, wanted=best_of.wanted(asked))


def _checked(body: Mapping[str, Any]) -> ChatIn:
    try:
        return ChatIn.model_validate(body)
    except ValidationError as error:
        said = " ".join(f"{sentence(each)}." for each in error.errors(include_url=False)[:3])
        raise UnprocessableEntity(
            f'{said} Send an object such as {{"messages": [{{"role": "user", "content": "..."}}]}}.'
        ) from error


def _question(messages: Sequence[Mapping[str, Any]]) -> str:
    """Return the text of the last user message; of a long one the end, where prompts have their question."""
    for message in reversed(messages):
        if message.get("role") == "user":
            return (parts_text(message.get("content")) or "")[-MAX_QUERY_CHARS:]
    return ""


def _ranking(service: AnswerService, query: str, drafts: Sequence[Draft], otherwise: WithoutModel) -> DocumentRanking:
    """Rank the drafts by their texts; they stay as they came where there is nothing to judge, or to judge by."""
    incoming = DocumentRanking(tuple(ScoredDocument(place, 1 / (place + 1)) for place in range(len(drafts))), None)
    # A tool that is called is no answer that could be judged; then it is the first draft's decision that counts.
    readable = [place for place, draft in enumerate(drafts) if not draft.acts and not blank(draft.text)]
    if blank(query) or not readable or drafts[0].acts:
        return incoming
    try:
        found = rank_documents(service.ranker(), query, [drafts[place].text for place in readable], otherwise=otherwise)
    except RlhfLoopError as error:
        logger.error("The first draft goes out: %s", error)
        return incoming
    if found.model_version is None:
        return incoming
    rest = [place for place in range(len(drafts)) if place not in readable]
    judged = [ScoredDocument(readable[of.index], of.score) for of in found.documents]
    return replace(found, documents=(*judged, *(ScoredDocument(place, 0.0) for place in rest)))


def _as_candidates(drafts: Sequence[Draft], ranking: DocumentRanking) -> Iterator[RankedCandidate]:
    for each in ranking.candidates([draft.text for draft in drafts]):
        draft = drafts[each.position]
        # What calls a tool is no answer; without a text it is not recorded, and keeps its place.
        text = "" if draft.acts else each.text
        yield replace(each, candidate=Candidate(text, source=draft.model, drafted_by=draft.model))


def _response(
    given: ChatIn, drafts: Sequence[Draft], ranking: DocumentRanking, recorded: RecordedRanking | None, *, wanted: int
) -> Response:
    best = ranking.documents[: given.n or 1]
    judged = ranking.model_version is not None
    kept = {} if recorded is None else {each.position: recorded.id for each in recorded.candidates}
    choices = [
        {
            **drafts[one.index].choice,
            "index": place,
            "rlhf": {
                "index": one.index,
                "score": round(one.score, 6) if judged else None,
                "ranking": kept.get(one.index),
            },
        }
        for place, one in enumerate(best)
    ]
    first = drafts[best[0].index]
    # Some endpoints write NaN among log probabilities, which JSON does not have.
    answer: dict[str, Any] = {
        **first.completion,
        "id": logs.begin(request).id if recorded is None else recorded.id,
        "object": "chat.completion",
        "created": int(time()),
        "model": first.completion.get("model") or first.model,
        "choices": choices,
        "usage": _usage(first, drafts),
        "rlhf": {"drafts": len(drafts), "wanted": wanted},
    }
    answer = plain(answer)
    if given.stream:
        with_usage = bool((given.stream_options or {}).get("include_usage"))
        written, kind = "".join(_events(answer, with_usage=with_usage)), "text/event-stream"
    else:
        written, kind = json.dumps(answer, ensure_ascii=False), "application/json"
    # A model may write half a character.
    response = Response(written.encode("utf-8", "replace"), content_type=kind)
    ranked_by(response, ranking)
    response.headers["X-RLHF-Drafts"] = str(len(drafts))
    response.headers["X-RLHF-Drafts-Wanted"] = str(wanted)
    if judged:
        response.headers["X-RLHF-Score"] = f"{best[0].score:.6f}"
    if recorded is not None:
        response.headers["X-RLHF-Ranking-Id"] = recorded.id
    return response


def _usage(first: Draft, drafts: Sequence[Draft]) -> dict[str, Any]:
    """Return the tokens as OpenAI counts those of several choices: the prompt's once, and what all drafts took."""

    def count(draft: Draft, name: str) -> int:
        usage = draft.completion.get("usage")
        found = usage.get(name) if isinstance(usage, dict) else None
        return found if isinstance(found, int) else 0

    prompt = count(first, "prompt_tokens")
    written = sum(count(draft, "completion_tokens") for draft in drafts)
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}


def _events(answer: Mapping[str, Any], *, with_usage: bool) -> Iterator[str]:
    """Yield the answer as server-sent events."""
    head = {name: answer[name] for name in ("id", "created", "model")} | {"object": "chat.completion.chunk"}

    def event(**more: Any) -> str:
        usage = {"usage": None} if with_usage else {}
        return f"data: {json.dumps({**head, **usage, **more}, ensure_ascii=False)}\n\n"

    def piece(choice: Mapping[str, Any], delta: Mapping[str, Any], reason: object = None, **more: Any) -> str:
        return event(choices=[{"index": choice["index"], "delta": delta, "finish_reason": reason, **more}])

    for choice in answer["choices"]:
        message = choice["message"]
        text, calls = message.get("content"), message.get("tool_calls")
        rest = {name: value for name, value in message.items() if name not in ("content", "tool_calls")}
        yield piece(choice, {"role": "assistant", **rest, "content": "" if isinstance(text, str) else None})
        if isinstance(text, str) and text:
            # Which token belongs to which piece nobody can tell.
            whole = choice.get("logprobs") is not None
            size = len(text) if whole else _PIECE
            for start in range(0, len(text), size):
                more = {"logprobs": choice["logprobs"]} if whole else {}
                yield piece(choice, {"content": text[start : start + size]}, **more)
        if isinstance(calls, list) and calls:
            numbered = [{"index": place, **call} for place, call in enumerate(calls) if isinstance(call, dict)]
            yield piece(choice, {"tool_calls": numbered})
        yield piece(choice, {}, choice.get("finish_reason") or "stop", rlhf=choice["rlhf"])
    if with_usage:
        yield event(choices=[], usage=answer["usage"])
    yield "data: [DONE]\n\n"
