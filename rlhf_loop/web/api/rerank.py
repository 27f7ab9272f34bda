"""`/v1/rerank`, `/v2/rerank` and `/rerank`: the live model as a reranker for other stacks, in their dialects.

Errors, too, have the form of each dialect; their texts are our own.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, NoReturn, TypeVar

from flask import Response, request
from pydantic import BaseModel, ValidationError
from werkzeug.exceptions import (
    BadRequest,
    HTTPException,
    RequestEntityTooLarge,
    ServiceUnavailable,
    UnprocessableEntity,
    UnsupportedMediaType,
)

from rlhf_loop.accounts import tokens
from rlhf_loop.adapters.trl import as_reward, scored, split_query
from rlhf_loop.answering import AnswerService
from rlhf_loop.config import Settings
from rlhf_loop.errors import ModelFileError
from rlhf_loop.ranking import DocumentRanking, WithoutModel, is_drawn, is_prior, rank_documents, without_model
from rlhf_loop.utils.concurrency import FairLock, trim_memory
from rlhf_loop.web import logs
from rlhf_loop.web.api.answers import whole_body
from rlhf_loop.web.api.openapi import ERROR_HEADERS, Api, Content, json_body, json_reply
from rlhf_loop.web.api.rerank_schemas import (
    MAX_DOCUMENTS,
    OBJECT,
    TEXT,
    ApiVersionOut,
    BilledUnitsOut,
    CohereErrorOut,
    CohereIn,
    CohereOut,
    GetRewardIn,
    GetRewardOut,
    InfinityIn,
    JinaErrorOut,
    JinaIn,
    JinaOut,
    MetaOut,
    RerankIn,
    ResultOut,
    TeiErrorOut,
    TeiIn,
    TeiOut,
    TeiRankOut,
    UsageOut,
    VllmErrorOut,
    VllmFaultOut,
    VllmIn,
    VllmOut,
)
from rlhf_loop.web.guard import Guard
from rlhf_loop.web.problems import ErrorFormat, detail, errors_as, refusals, rendered
from rlhf_loop.web.schemas import kind_of, sentence, shortened

#: Those that TEI has, and one for what it leaves to a proxy.
_TEI_TYPES = {401: "Unauthorized", 403: "Unauthorized", 429: "Overloaded", 500: "Backend", 503: "Unhealthy"}

MAX_BODY_BYTES = 4 * 1024 * 1024
#: From so many characters on a request has to wait for others of the kind.
LARGE_CHARS = 500_000
#: More of them would keep their clients longer than those wait, and all threads from others.
_MOST_WAITING = 3
#: Of Cohere's unit of billing.
_DOCUMENTS_A_UNIT = 100
#: What stands for a model's version where none has ranked.
_INCOMING = "incoming"
_RETRY_AFTER_S = 30
#: Errors that an answer names: a thousand documents may all have the same one.
_ERRORS_SHOWN = 3
#: Levels of lists and objects; what is deeper could be read, but not written again.
_DEEPEST = 100
_MOST_DIGITS = 1_000
#: A surrogate that was escaped; two of them may be one good character.
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
#: Where the request keeps in which dialect it is answered.
_SPOKEN = "rlhf_loop.dialect"

_Model = TypeVar("_Model", bound=BaseModel)
_Ranked = TypeVar("_Ranked")

_QUERY = "What helps against a migraine attack?"
_TEXTS = [
    "Migraine is more common in women than in men.",
    "Rest in a dark room, drink water, and take the painkiller early.",
]
_TEMPLATED = f"<|im_start|>user\n{_QUERY}<|im_end|>\n<|im_start|>assistant\n"
_QUERY_AND_ANSWER = f"{_TEMPLATED}{_TEXTS[1]}<|im_end|>"
_ASKED = {"model": "any", "query": _QUERY, "documents": _TEXTS, "top_n": 1}
_ID = "0d9d6f3c6f0b4f0f8f5c1d2e3a4b5c6d"
_VERSION = "passages-1a2b3c4d5e6f"
_USAGE = {"total_tokens": 34, "prompt_tokens": 34, "completion_tokens": 0}
_RESULT = {"index": 1, "relevance_score": 0.83}
_META = {"api_version": {"version": "1"}, "billed_units": {"search_units": 1}}
_META_2 = {**_META, "api_version": {"version": "2"}}
_JINA = {"id": _ID, "object": "rerank", "model": _VERSION, "usage": _USAGE, "results": [_RESULT], "meta": _META}
_COHERE = {"id": _ID, "results": [_RESULT], "meta": _META_2}
_INFINITY = {"id": _ID, "model": _VERSION, "usage": _USAGE, "results": [{**_RESULT, "document": _TEXTS[1]}]}
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
#: Of what is ranked.
HEADERS = {
    "X-RLHF-Ranking": {
        "description": "`model`; or, while there is none, `incoming`: the documents keep their order, or `prior`: they "
        "have that of the prior, whose scores are not calibrated.",
        "schema": {"type": "string", "enum": ["model", "incoming", "prior"]},
        "required": True,
    },
    "X-RLHF-Model": {"description": "The version of the model that ranked, if one did.", "schema": {"type": "string"}},
    "X-RLHF-Ranking-Id": {
        "description": "The id by which `/v1/feedback` rates the documents, if the ranking is recorded; bodies that "
        "have an `id` have the same.",
        "schema": {"type": "string"},
    },
}


def add_routes(api: Api, settings: Settings, service: AnswerService, guard: Guard) -> None:
    """Add the routes of the rerank API.

    Raises:
        ConfigError: the settings do not say what to do without a model.
    """
    desk = _Desk(settings, service, guard)

    @api.route(
        "POST /v1/rerank",
        "rerankV1",
        description=_WHO,
        replies={
            200: json_reply("The documents, best first.", JinaOut, examples={"best": _JINA}, headers=HEADERS),
            **_errors(JinaErrorOut),
        },
        body=json_body(
            JinaIn, examples={"texts": _ASKED, "objects": {**_ASKED, "documents": [{"text": each} for each in _TEXTS]}}
        ),
        scope=tokens.RERANK,
        without_token=True,
    )
    @errors_as(ErrorFormat(_by_default(JINA)))
    def rerank_v1() -> Response:
        """Rank documents, as Jina and Cohere's version 1 have it."""
        if _is_tei(body := desk.body()):
            return _as_tei(desk, body)
        given = _checked(JinaIn, body)
        ranking = desk.ranking(given, _texts(given), returned=given.top_n, count=True)
        found = JinaOut(
            id=_id(),
            model=_version(ranking),
            usage=_usage(ranking),
            results=_results(given, ranking, documents=bool(given.return_documents)),
            meta=_meta("1", ranking),
        )
        return _answer(found, ranking)

    @api.route(
        "POST /v2/rerank",
        "rerankV2",
        description=_WHO,
        replies={
            200: json_reply("The documents, best first.", CohereOut, examples={"best": _COHERE}, headers=HEADERS),
            **_errors(CohereErrorOut),
        },
        body=json_body(CohereIn, examples={"texts": _ASKED}),
        scope=tokens.RERANK,
        without_token=True,
    )
    @errors_as(ErrorFormat(_by_default(COHERE)))
    def rerank_v2() -> Response:
        """Rank documents, as Cohere's version 2 has it."""
        if _is_tei(body := desk.body()):
            return _as_tei(desk, body)
        given = _checked(CohereIn, body)
        ranking = desk.ranking(given, _texts(given), returned=given.top_n, longest=given.max_tokens_per_doc or None)
        return _answer(CohereOut(id=_id(), results=_results(given, ranking), meta=_meta("2", ranking)), ranking)

    @api.route(
        "POST /rerank",
        "rerank",
        description=_WHO,
        replies={
            200: json_reply(
                "The texts or documents, best first.",
                TeiOut,
                VllmOut,
                examples={"TEI": [{"index": 1, "score": 0.83}, {"index": 0, "score": 0.21}], "vLLM, Infinity": _VLLM},
                headers=HEADERS,
            ),
            **_errors(TeiErrorOut, VllmErrorOut, words=_SHARED_WORDS),
        },
        body=json_body(
            TeiIn,
            VllmIn,
            examples={
                "TEI": {"query": _QUERY, "texts": _TEXTS, "raw_scores": False, "return_text": False},
                "vLLM, Infinity": _ASKED,
            },
        ),
        scope=tokens.RERANK,
        without_token=True,
    )
    @errors_as(ErrorFormat(_by_default(TEI)))
    def rerank() -> Response:
        """Rank texts as Text Embeddings Inference has it, or documents as vLLM and Infinity have it."""
        body = desk.body()
        if ("documents" in body) == ("texts" in body):
            found = "both texts and documents" if "texts" in body else "neither texts nor documents"
            raise UnprocessableEntity(
                f"There are {found}. Send texts, as for TEI, or documents, as for vLLM and Infinity."
            )
        if "texts" in body:
            return _as_tei(desk, body)
        request.environ[_SPOKEN] = VLLM
        # Infinity's own client always sends both; vLLM has neither.
        infinity = "raw_scores" in body and "return_documents" in body
        return _as_infinity(desk, body) if infinity else _as_vllm(desk, _checked(VllmIn, body))

    @api.route(
        "POST /infinity/rerank",
        "rerankInfinity",
        description=_WHO,
        replies={
            200: json_reply("The documents, best first.", VllmOut, examples={"best": _INFINITY}, headers=HEADERS),
            **_errors(VllmErrorOut, words=_SHARED_WORDS),
        },
        body=json_body(InfinityIn, examples={"texts": _ASKED}),
        scope=tokens.RERANK,
        without_token=True,
    )
    @errors_as(ErrorFormat(_by_default(VLLM)))
    def rerank_infinity() -> Response:
        """Rank documents, as Infinity has it: they come back as texts, and only where that is asked for."""
        return _as_infinity(desk, desk.body())

    @api.route(
        "POST /get_reward",
        "getReward",
        description=f"{_WHO} Nothing of it is recorded.",
        replies={
            200: json_reply(
                "The rewards.",
                GetRewardOut,
                examples={"one": {"rewards": [1.59], "scores": [0.83], "extra_logs": {"words": [11]}}},
            ),
            **_errors(TeiErrorOut),
        },
        body=json_body(GetRewardIn, examples={"one": {"query": [_QUERY_AND_ANSWER], "prompts": [_TEMPLATED]}}),
        scope=tokens.RERANK,
        without_token=True,
    )
    @errors_as(ErrorFormat(TEI.render))
    def get_reward() -> Response:
        """Reward answers of a language model in training, as OpenRLHF's remote reward model does."""
        given = _checked(GetRewardIn, desk.body())
        prompts: Sequence[str | None] = given.prompts or [None] * len(given.query)
        if len(prompts) != len(given.query):
            raise UnprocessableEntity(
                f"There are {len(prompts)} prompts and {len(given.query)} texts in query. Send as many of both."
            )
        try:
            pairs = [split_query(query, prompt) for query, prompt in zip(given.query, prompts, strict=True)]
        except ValueError as error:
            raise UnprocessableEntity(str(error)) from error
        scores = desk.scores([question for question, _ in pairs], [answer for _, answer in pairs])
        words = [float(len(answer.split())) for _, answer in pairs]
        found = GetRewardOut(rewards=[*map(as_reward, scores)], scores=scores, extra_logs={"words": words})
        return Response(found.model_dump_json(), content_type="application/json")


def json_object(less: str, fields: str) -> dict[str, Any]:
    """Return the request's JSON; the words say what to send less of, and what to send at all.

    Raises:
        UnsupportedMediaType, BadRequest, RequestEntityTooLarge, RequestTimeout: it is not JSON, or cannot be read.
        UnprocessableEntity: it is not an object.
    """
    if not request.is_json:
        raise UnsupportedMediaType
    request.max_content_length = MAX_BODY_BYTES
    try:
        sent = whole_body()
    except RequestEntityTooLarge as error:
        raise RequestEntityTooLarge(f"The request is larger than {MAX_BODY_BYTES:,} bytes. Send {less}.") from error
    found = _loaded(sent)
    if not isinstance(found, dict):
        raise UnprocessableEntity(f"The body is {kind_of(found)}, not an object. Send one with {fields}.")
    return found


class NothingToRank(UnprocessableEntity):
    """A request without documents."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """The format of errors in a dialect; `statuses` are those that differ from ours."""

    body: Callable[[HTTPException, int, str], BaseModel]
    statuses: Mapping[type[HTTPException], int] = field(default_factory=dict)

    def render(self, error: HTTPException) -> Response:
        """Return the response to a request that failed."""
        status = self.statuses.get(type(error), error.code or 500)
        return rendered(error, lambda: self.body(error, status, detail(error)), status=status)


JINA = Dialect(lambda error, status, message: JinaErrorOut(detail=message))


COHERE = Dialect(lambda error, status, message: CohereErrorOut(message=message, id=logs.begin(request).id))


def _tei(error: HTTPException, status: int, message: str) -> TeiErrorOut:
    kind = "Empty" if isinstance(error, NothingToRank) else _TEI_TYPES.get(status, "Validation")
    return TeiErrorOut(error=message, error_type=kind)


TEI = Dialect(_tei, {NothingToRank: 400})


def _vllm(error: HTTPException, status: int, message: str) -> VllmErrorOut:
    kind = HTTPStatus(status).phrase.title().replace(" ", "").removesuffix("Error")
    return VllmErrorOut(error=VllmFaultOut(message=message, type=f"{kind}Error", code=status))


VLLM = Dialect(_vllm, {NothingToRank: 400, UnprocessableEntity: 400})


def _by_default(usual: Dialect) -> Callable[[HTTPException], Response]:
    """Render errors in this dialect, as long as the body has not told that another one is spoken."""

    def render(error: HTTPException) -> Response:
        found = request.environ.get(_SPOKEN)
        return (found if isinstance(found, Dialect) else usual).render(error)

    return render


def _is_tei(body: Mapping[str, object]) -> bool:
    """Tell whether a client of TEI was given a base URL that ends in a version."""
    return "texts" in body and "documents" not in body


def _errors(*models: type[BaseModel], words: Mapping[int, str] = _WORDS) -> dict[int, Content]:
    return {status: json_reply(said, *models, headers=ERROR_HEADERS.get(status)) for status, said in words.items()}


class _Desk:
    """Common to all dialects: access, the request's JSON, and the ranking."""

    def __init__(self, settings: Settings, service: AnswerService, guard: Guard) -> None:
        self._public, self._otherwise = settings.rerank_public, without_model(settings)
        self._share, self._batch = settings.record_rankings, settings.rerank_batch
        self._service, self._guard = service, guard
        self._large = FairLock()

    def body(self) -> Mapping[str, object]:
        """Return the request's JSON, if whoever sends it may.

        Raises:
            Unauthorized, Forbidden: they may not.
            UnsupportedMediaType, BadRequest, RequestEntityTooLarge, RequestTimeout: it is not JSON, or cannot be read.
            UnprocessableEntity: it is not an object.
        """
        if not self._public and not self._guard.from_this_machine():
            self._guard.bearer(tokens.RERANK)
        return json_object("fewer documents, or shorter ones", "query and documents, or query and texts")

    def ranking(
        self,
        given: RerankIn,
        texts: Sequence[str],
        *,
        returned: int | None,
        longest: int | None = None,
        count: bool = False,
    ) -> DocumentRanking:
        """Rank, and record that if it is to be; `returned` is how many documents go back, none or 0 for all.

        Raises:
            ServiceUnavailable: there is nothing to rank by.
        """

        query, batch = given.query, self._in_batches() if given.batch is None else given.batch
        otherwise = WithoutModel.INCOMING if self._service.switched_off() else self._otherwise

        def rank() -> DocumentRanking:
            return rank_documents(
                self._service.ranker(), query, texts, otherwise=otherwise, longest=longest, count=count, pointwise=batch
            )

        try:
            ranking = self._by_turns(rank) if sum(map(len, texts)) > LARGE_CHARS else rank()
        except ModelFileError as error:
            raise ServiceUnavailable(str(error), retry_after=_RETRY_AFTER_S) from error
        logs.begin(request).model_version = ranking.model_version
        self._record(query, texts, ranking, min(returned or len(texts), len(texts)))
        return ranking

    def _in_batches(self) -> bool:
        if self._batch:
            return True
        bearer = self._guard.caller()
        return bearer is not None and tokens.BATCH in bearer.scopes

    def scores(self, questions: Sequence[str], answers: Sequence[str]) -> list[float]:
        """Score answers, those to the same question together unless a token or the settings say otherwise.

        Raises:
            ServiceUnavailable: there is nothing to score by.
        """
        # Places in place of scores would teach a policy to be the first.
        otherwise = WithoutModel.ERROR if self._otherwise is WithoutModel.INCOMING else self._otherwise
        together = not self._in_batches()

        def score() -> list[float]:
            return scored(self._service.ranker(), questions, answers, together=together, otherwise=otherwise)

        try:
            return self._by_turns(score) if sum(map(len, answers)) > LARGE_CHARS else score()
        except ModelFileError as error:
            raise ServiceUnavailable(str(error), retry_after=_RETRY_AFTER_S) from error

    def _record(self, query: str, texts: Sequence[str], ranking: DocumentRanking, returned: int) -> None:
        bearer = self._guard.caller()
        if not is_drawn(self._share if bearer is None or bearer.record is None else bearer.record):
            return
        kept = self._service.record_ranking(
            query,
            ranking.candidates(texts),
            model_version=ranking.model_version,
            door=request.path,
            caller=None if bearer is None else bearer.user.name,
            returned=returned,
        )
        logs.begin(request).recorded = (request.path, None if kept is None else kept.id)

    def _by_turns(self, rank: Callable[[], _Ranked]) -> _Ranked:
        # Each takes hundreds of megabytes while it runs, and all processors: at once they would only need more.
        if self._large.waiting >= _MOST_WAITING:
            raise ServiceUnavailable(
                f"{_MOST_WAITING} requests with more than {LARGE_CHARS:,} characters wait here already. "
                "Send less at once, or come again.",
                retry_after=_RETRY_AFTER_S,
            )
        with self._large:
            try:
                return rank()
            finally:
                trim_memory()


def _as_tei(desk: _Desk, body: Mapping[str, object]) -> Response:
    request.environ[_SPOKEN] = TEI
    given = _checked(TeiIn, body)
    ranking = desk.ranking(given, given.read(), returned=given.top_n)
    found = [
        TeiRankOut(
            index=one.index,
            score=ranking.raw(one) if given.raw_scores else one.score,
            text=given.texts[one.index] if given.return_text else None,
        )
        for one in ranking.documents[: given.top_n or None]
    ]
    return _answer(TeiOut(found), ranking)


def _as_vllm(desk: _Desk, given: VllmIn) -> Response:
    ranking = desk.ranking(
        given, _texts(given), returned=given.top_n, longest=given.max_tokens_per_doc or None, count=True
    )
    documents = given.return_documents is None or given.return_documents
    return _of_vllm(ranking, _results(given, ranking, documents=documents, raw=bool(given.raw_scores)))


def _as_infinity(desk: _Desk, body: Mapping[str, object]) -> Response:
    given = _checked(InfinityIn, body)
    texts = _texts(given)
    ranking = desk.ranking(given, texts, returned=given.top_n, count=True)
    results = _results(given, ranking, raw=bool(given.raw_scores))
    if given.return_documents:
        asked = [given.documents[one.index] for one in results]
        results = [
            one.model_copy(update={"document": each if isinstance(each, str) else texts[one.index]})
            for one, each in zip(results, asked, strict=True)
        ]
    return _of_vllm(ranking, results)


def _of_vllm(ranking: DocumentRanking, results: list[ResultOut]) -> Response:
    return _answer(VllmOut(id=_id(), model=_version(ranking), usage=_usage(ranking), results=results), ranking)


def _loaded(sent: bytes) -> object:
    """Read JSON, a lone surrogate in it as a question mark: one broken character must not stop a ranking.

    Raises:
        BadRequest: it is not JSON.
    """
    try:
        text = sent.decode("utf-8-sig")
        found = json.loads(text, parse_constant=_refuse_constant, parse_int=_whole, parse_float=_real)
        if _SURROGATE.search(text):
            found = json.loads(json.dumps(found, ensure_ascii=False).encode("utf-8", "replace"))
        if _is_deeper(found, _DEEPEST):
            raise RecursionError
    except (ValueError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise BadRequest(f"The body is not JSON: {why}. Send an object such as {{...}}, in UTF-8.") from error
    return found


def _is_deeper(value: object, levels: int) -> bool:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels < 0 or any(_is_deeper(each, levels - 1) for each in inside)


def _whole(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"a number in it has {len(digits):,} digits")
    return int(digits)


def _real(written: str) -> float:
    number = float(written)
    if math.isinf(number):
        # It could not be written again where the document is sent back.
        raise ValueError(f"{shortened(written)} is too large for a number")
    return number


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a valid number")


def _checked(model: type[_Model], body: Mapping[str, object]) -> _Model:
    """Read a request.

    Raises:
        NothingToRank, RequestEntityTooLarge, UnprocessableEntity: it has no documents, too much, or something wrong.
    """
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise _refusal(error, "texts" if model is TeiIn else "documents") from error


def _refusal(error: ValidationError, documents: str) -> HTTPException:
    errors = error.errors(include_url=False)
    for each in errors:
        each["loc"] = tuple(part for part in each["loc"] if part not in (TEXT, OBJECT))
    said = " ".join(f"{sentence(each)}." for each in errors[:_ERRORS_SHOWN])
    if len(errors) > _ERRORS_SHOWN:
        said += f" And {len(errors) - _ERRORS_SHOWN} more of the kind."
    kinds = {(each["type"], each["loc"][0]) for each in errors}
    if ("too_short", documents) in kinds:
        return NothingToRank(f"{said} Send at least one document.")
    if not kinds.isdisjoint({("too_long", documents), ("string_too_long", "query")}):
        return RequestEntityTooLarge(f"{said} Send less at once.")
    example = json.dumps({"query": "...", documents: ["...", "..."]})
    return UnprocessableEntity(f"{said} Send an object such as {example}; /openapi.json has all its fields.")


def _texts(given: JinaIn | CohereIn | VllmIn | InfinityIn) -> list[str]:
    with refusals():
        return given.texts()


def _results(
    given: JinaIn | CohereIn | VllmIn | InfinityIn,
    ranking: DocumentRanking,
    *,
    documents: bool = False,
    raw: bool = False,
) -> list[ResultOut]:
    return [
        ResultOut(
            index=one.index,
            relevance_score=ranking.raw(one) if raw else one.score,
            document=given.document(one.index) if documents else None,
        )
        for one in ranking.documents[: given.top_n or None]
    ]


def _id() -> str:
    return _recorded() or logs.begin(request).id


def _recorded() -> str | None:
    """Return the id of the recorded ranking."""
    recorded = logs.begin(request).recorded
    return recorded[1] if recorded else None


def _version(ranking: DocumentRanking) -> str:
    return ranking.model_version or _INCOMING


def _usage(ranking: DocumentRanking) -> UsageOut:
    return UsageOut(total_tokens=ranking.tokens, prompt_tokens=ranking.tokens)


def _meta(version: str, ranking: DocumentRanking) -> MetaOut:
    units = -(-len(ranking.documents) // _DOCUMENTS_A_UNIT)
    return MetaOut(api_version=ApiVersionOut(version=version), billed_units=BilledUnitsOut(search_units=units))


def _answer(found: BaseModel, ranking: DocumentRanking) -> Response:
    response = Response(found.model_dump_json(exclude_none=True), content_type="application/json")
    ranked_by(response, ranking)
    if (recorded := _recorded()) is not None:
        response.headers["X-RLHF-Ranking-Id"] = recorded
    return response


def ranked_by(response: Response, ranking: DocumentRanking) -> None:
    """Say in the headers what has ranked."""
    by = "prior" if is_prior(ranking.model_version) else "model"
    response.headers["X-RLHF-Ranking"] = _INCOMING if ranking.model_version is None else by
    if ranking.model_version is not None:
        response.headers["X-RLHF-Model"] = ranking.model_version
