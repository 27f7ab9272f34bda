"""Requests and responses of the rerank API by dialect: Jina's, Cohere's, TEI's, and that of vLLM and Infinity.

Unknown fields are ignored, as those services do it: clients send some that mean nothing here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, Discriminator, Field, RootModel, Tag

from rlhf_loop.web.api.document_text import document_text, parts_text
from rlhf_loop.web.schemas import not_blank, shortened, shown

MAX_DOCUMENTS = 1_000
MAX_QUERY_CHARS = 8_000

#: The two kinds of documents, which pydantic makes a part of an error's place.
TEXT, OBJECT = "a text", "an object"


class DocumentIn(BaseModel, extra="allow", title="RerankDocument"):
    """A document with its text, and whatever else a client knows of it."""

    text: Annotated[str | None, Field(description="What is read, unless `rank_fields` names other fields.")] = None
    content: Annotated[
        Any, Field(description="Read where there is no `text`: a text, or parts such as {type: text, text: ...}.")
    ] = None


def _kind(document: object) -> str | None:
    if isinstance(document, str):
        return TEXT
    return OBJECT if isinstance(document, Mapping | DocumentIn) else None


_Document = Annotated[
    Annotated[str, Tag(TEXT)] | Annotated[DocumentIn, Tag(OBJECT)],
    Discriminator(
        _kind, custom_error_type="document", custom_error_message="Neither a text nor an object with the field text"
    ),
]
_TO_RANK = Field(
    min_length=1,
    max_length=MAX_DOCUMENTS,
    description="What is to be ranked, in its incoming order; all at once, as the model compares them.",
)
_TopN = Annotated[
    Annotated[int, Field(ge=0)] | None, Field(description="How many come back, the best ones; 0, or by default, all.")
]
_RankFields = Annotated[
    list[str] | None, Field(description="Which fields of documents that are objects are read, in this order.")
]
_Longest = Annotated[
    Annotated[int, Field(ge=0)] | None,
    Field(description="Tokens that are read of each document; 0, or by default, all."),
]
_Message = Annotated[str, Field(description="What happened, the value seen, what to do next.")]
_RequestId = Annotated[str, Field(description="The request's id.")]
_RawScores = Annotated[bool | None, Field(description="Return logits in place of probabilities.")]


def _query_text(query: object) -> object:
    # vLLM's form may have parts, as chat messages do.
    text = parts_text(query["content"]) if isinstance(query, Mapping) and "content" in query else None
    return query if text is None else text


class RerankIn(BaseModel, extra="ignore"):
    query: Annotated[
        str,
        Field(min_length=1, max_length=MAX_QUERY_CHARS, description="The question."),
        AfterValidator(not_blank),
        BeforeValidator(_query_text),
    ]
    batch: Annotated[
        bool | None,
        Field(
            description="Score each document whatever the others are, so that scores of several requests with one "
            "question can be compared. By default as the token (scope `rerank:batch`) or RLHF_RERANK_BATCH says."
        ),
    ] = None


class _DocumentsIn(RerankIn):
    documents: Annotated[list[_Document], _TO_RANK]
    model: Annotated[Any, Field(description="Any name: there is one model here, the live one.")] = None
    top_n: _TopN = None
    rank_fields: _RankFields = None

    def texts(self) -> list[str]:
        """Return what is to be read of each document.

        Raises:
            ValueError: a document has nothing of the kind.
        """
        return [_text(document, place, self.rank_fields or ()) for place, document in enumerate(self.documents)]

    def document(self, index: int) -> dict[str, Any]:
        """Return a document as it goes back: whole if it came as an object."""
        document = self.documents[index]
        return {"text": document} if isinstance(document, str) else document.model_dump(exclude_unset=True)


class JinaIn(_DocumentsIn, title="JinaRerankRequest"):
    """A question with documents, as Jina has it, and Cohere in its version 1."""

    return_documents: Annotated[bool | None, Field(description="Send the documents back; by default not.")] = None


class CohereIn(_DocumentsIn, title="CohereRerankRequest"):
    """A question with documents, as Cohere has it in its version 2."""

    max_tokens_per_doc: _Longest = None


class VllmIn(_DocumentsIn, title="VllmRerankRequest"):
    """A question with documents, as vLLM and Infinity have it."""

    return_documents: Annotated[bool | None, Field(description="Send the documents back; by default yes.")] = None
    max_tokens_per_doc: _Longest = None
    raw_scores: _RawScores = None


class InfinityIn(_DocumentsIn, title="InfinityRerankRequest"):
    """A question with documents, as Infinity has it."""

    return_documents: Annotated[bool | None, Field(description="Send the documents back as texts; by default not.")] = (
        None
    )
    raw_scores: _RawScores = None


class TeiIn(RerankIn, title="TeiRerankRequest"):
    """A question with texts, as Text Embeddings Inference has it."""

    texts: Annotated[list[str], _TO_RANK]
    top_n: _TopN = None
    truncate: Annotated[bool | None, Field(description="Without effect: texts of any length are read whole.")] = None
    truncation_direction: Annotated[str | None, Field(description="Without effect, like `truncate`.")] = None
    raw_scores: _RawScores = None
    return_text: Annotated[bool | None, Field(description="Send the texts back; by default not.")] = None

    def read(self) -> list[str]:
        """Return what is to be read of each text."""
        return [document_text(text) or "" for text in self.texts]


class GetRewardIn(BaseModel, extra="ignore", title="GetRewardRequest"):
    """Texts to reward, as OpenRLHF sends them: each a question and its answer, as a chat template wrote them."""

    query: Annotated[list[str], Field(min_length=1, max_length=MAX_DOCUMENTS, description="Prompt and answer in one.")]
    prompts: Annotated[
        list[str] | None, Field(description="What each begins with; without it the template's turns tell.")
    ] = None


class GetRewardOut(BaseModel, title="GetRewardResponse"):
    """Rewards in the order of the texts: log-odds that an expert would rate the answer 4 or 5, from -8 to 8."""

    rewards: list[float]
    scores: Annotated[list[float], Field(description="The probabilities, from 0 to 1.")]
    extra_logs: Annotated[dict[str, list[float]], Field(description="For OpenRLHF's log: the words of each answer.")]


class UsageOut(BaseModel, title="RerankUsage"):
    """The number of tokens that were read."""

    total_tokens: Annotated[int, Field(ge=0, description="The encoder's tokens of the query and of all documents.")]
    prompt_tokens: Annotated[int, Field(ge=0, description="The same.")]
    completion_tokens: Annotated[int, Field(description="Nothing is written; for Together's client.")] = 0


class ResultOut(BaseModel, title="RerankResult"):
    """A document's place is that in the list of results; `index` is that in the request."""

    index: Annotated[int, Field(ge=0)]
    relevance_score: Annotated[
        float, Field(description="From 0 to 1: the probability that an expert would rate it 4 or 5.")
    ]
    document: Annotated[
        dict[str, Any] | str | None, Field(description="Where it was asked for; a text for Infinity's clients.")
    ] = None


class ApiVersionOut(BaseModel, title="CohereApiVersion"):
    """The version of Cohere's API."""

    version: str


class BilledUnitsOut(BaseModel, title="CohereBilledUnits"):
    """Units that Cohere would bill: one is a query with up to 100 documents."""

    search_units: Annotated[int, Field(ge=1)]


class MetaOut(BaseModel, title="CohereMeta"):
    """Metadata for Cohere's clients."""

    api_version: ApiVersionOut
    billed_units: BilledUnitsOut


class JinaOut(BaseModel, title="JinaRanking"):
    """A ranking as Jina has it; `id` and `meta` are there for Cohere's clients of version 1."""

    id: _RequestId
    object: Annotated[str, Field(description="For Together's client.")] = "rerank"
    model: Annotated[str, Field(description="The live model's version.")]
    usage: UsageOut
    results: list[ResultOut]
    meta: MetaOut


class CohereOut(BaseModel, title="CohereRanking"):
    """A ranking as Cohere has it in its version 2."""

    id: _RequestId
    results: list[ResultOut]
    meta: MetaOut


class VllmOut(BaseModel, title="VllmRanking"):
    """A ranking as vLLM and Infinity have it."""

    id: _RequestId
    model: Annotated[str, Field(description="The live model's version.")]
    usage: UsageOut
    results: list[ResultOut]


class TeiRankOut(BaseModel, title="TeiRank"):
    """A text's place is that in the list; `index` is that in the request."""

    index: Annotated[int, Field(ge=0)]
    score: Annotated[float, Field(description="From 0 to 1, or a logit where raw scores were asked for.")]
    text: str | None = None


class TeiOut(RootModel[list[TeiRankOut]], title="TeiRanking"):
    """A ranking as Text Embeddings Inference has it."""


class JinaErrorOut(BaseModel, title="JinaError"):
    """An error in Jina's format."""

    detail: _Message


class CohereErrorOut(BaseModel, title="CohereError"):
    """An error in Cohere's format."""

    message: _Message
    id: _RequestId


class TeiErrorOut(BaseModel, title="TeiError"):
    """An error in the format of Text Embeddings Inference."""

    error: _Message
    error_type: Annotated[
        str, Field(description="`Empty`, `Validation`, `Overloaded`, `Unhealthy`, `Backend`, or `Unauthorized`.")
    ]


class VllmFaultOut(BaseModel, title="VllmFault"):
    """The details of an error in vLLM's format."""

    message: _Message
    type: Annotated[str, Field(description="Such as `BadRequestError`.")]
    code: Annotated[int, Field(description="The status.")]


class VllmErrorOut(BaseModel, title="VllmError"):
    """An error in vLLM's format."""

    error: VllmFaultOut


def _text(document: str | DocumentIn, place: int, fields: Sequence[str]) -> str:
    given = document if isinstance(document, str) else document.model_dump(exclude_unset=True)
    found = document_text(given, fields)
    if found is None:
        raise ValueError(
            f"documents.{place} is {shown(given)}: it has nothing in {shortened(', '.join(fields or ('text',)))}. Send "
            "a text, an object with the field text, or rank_fields that name fields it has."
        )
    return found
