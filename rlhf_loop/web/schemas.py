"""Requests and responses: these models check each request, and the OpenAPI document is made of them."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from rlhf_loop.answering import MAX_QUERY_CHARS, Readiness
from rlhf_loop.domain import THUMBS, Answer, RankedAnswer, field_values
from rlhf_loop.utils.text import blank, unstorable

MAX_COMMENT_CHARS = 4000


def not_blank(text: str) -> str:
    """Refuse a text in which there is nothing to read."""
    if blank(text):
        raise ValueError("is only white space")
    return text


def storable(text: str) -> str:
    """Refuse a text that no database can store."""
    if found := unstorable(text):
        raise ValueError(f"holds the character {found.group()!a} at position {found.start()}, which cannot be stored")
    return text


def _encodable(text: Any) -> Any:
    # A lone surrogate, as careless decoders of others leave them, has no UTF-8 form and would end the whole response.
    return text.encode("utf-8", "replace").decode("utf-8") if isinstance(text, str) else text


_Text = Annotated[str, BeforeValidator(_encodable)]


class QuestionIn(BaseModel, extra="forbid", strict=True, title="Question"):
    """A question."""

    # A field that nobody knows is refused: it is a known one with a typing mistake.
    query: Annotated[
        str, Field(min_length=1, max_length=MAX_QUERY_CHARS, description="The question."), AfterValidator(not_blank)
    ]


class Opinion(BaseModel):
    """A rating, or the thumb that stands for one."""

    # One of the two has to be there; a schema cannot be made to say so by a validator.
    model_config = ConfigDict(json_schema_extra={"anyOf": [{"required": ["rating"]}, {"required": ["thumb"]}]})

    rating: Annotated[
        Annotated[int, Field(ge=1, le=5)] | None, Field(description="From 1 (wrong) to 5 (exactly right).")
    ] = None
    thumb: Annotated[
        Literal["up", "down"] | None, Field(description="In place of a rating: up is a 5, down is a 1.")
    ] = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if self.rating is None and self.thumb is None:
            raise ValueError("rating is missing: send it, from 1 to 5, or thumb, up or down")
        if self.rating is not None and self.thumb is not None:
            raise ValueError(f"rating {self.rating} and thumb {self.thumb} are both there: send one of them")
        return self

    @property
    def stars(self) -> int:
        """The rating, be it that of a thumb."""
        return self.rating if self.rating is not None else THUMBS[self.thumb or "down"]


class RatingIn(Opinion, extra="forbid", strict=True, title="Rating"):
    """A rating of one answer."""

    interaction_id: Annotated[
        str,
        Field(min_length=1, max_length=200, description="Which answer: the id that came with it."),
        AfterValidator(storable),
    ]
    comment: Annotated[
        Annotated[str, AfterValidator(storable)] | None,
        Field(max_length=MAX_COMMENT_CHARS, description="Why, in words; empty is the same as none."),
    ] = None


class RankedOut(BaseModel, title="RankedAnswer"):
    """One candidate answer, with where it comes from."""

    text: Annotated[_Text, Field(description="The answer.")]
    score: Annotated[
        float | None,
        Field(ge=0, le=1, description="Probability that an expert would rate it 4 or 5; null without a model."),
    ]
    rank: Annotated[int, Field(ge=1, description="Its place, from 1.")]
    source: Annotated[_Text, Field(description="The name of the source that found it.")]
    title: Annotated[_Text | None, Field(description="The title of the page or document.")]
    url: Annotated[_Text | None, Field(description="Its address, as the source gave it; check it before you link.")]
    licence: Annotated[_Text | None, Field(description="Under which terms the text may be used.")]
    retrieved_at: Annotated[datetime | None, Field(description="When the text was fetched or indexed.")]
    drafted_by: Annotated[
        _Text | None,
        Field(description="The language model that wrote the text from that page; null where these are its own words."),
    ] = None
    interaction_id: Annotated[str, Field(description="By this it can be rated.")]

    @classmethod
    def of(cls, ranked: RankedAnswer) -> RankedOut:
        """Take over a candidate of the service."""
        # A NaN is between no numbers, and none of JSON's either.
        score = ranked.score if ranked.score is not None and 0 <= ranked.score <= 1 else None
        origin = {**field_values(ranked.origin), "source": ranked.origin.source or ""}
        return cls(text=ranked.text, score=score, rank=ranked.rank, interaction_id=ranked.interaction_id, **origin)


class AnswerOut(BaseModel, title="Answer"):
    """All candidates for a question, best first."""

    query: Annotated[str, Field(description="The question as it was asked.")]
    best_answer: Annotated[_Text | None, Field(description="The best answer's text; null where nothing was found.")]
    ranked: Annotated[
        list[RankedOut],
        Field(description="All candidates, in the order of `policy`, mostly best first; empty if nothing was found."),
    ]
    interaction_id: Annotated[str | None, Field(description="By this the best answer can be rated.")]
    model_version: Annotated[
        str | None, Field(description="The reward model whose scores these are; null where there is none.")
    ]
    policy: Annotated[
        str,
        Field(
            description="What ordered them: live (that model), incoming (as they came), and in an experiment also the "
            "version of another model, or interleaved. For your own numbers: whoever rates should not see it."
        ),
    ]
    certain: Annotated[
        bool | None,
        Field(
            description="False: no answer has the score that `RLHF_ANSWER_THRESHOLD` asks for. Null: none is set, or "
            "no trained model has scored."
        ),
    ] = None
    related: Annotated[
        bool | None,
        Field(description="Where `certain` is false: whether any candidate has to do with the question; else null."),
    ] = None
    degraded: Annotated[
        dict[str, _Text], Field(description="What did not work, by name, with the reason; empty if all is well.")
    ]
    timings: Annotated[dict[str, float], Field(description="Milliseconds by stage; `total` is all of it.")]

    @classmethod
    def of(cls, answer: Answer) -> AnswerOut:
        """Take over an answer of the service."""
        best = answer.best
        return cls(
            query=answer.query,
            best_answer=best.text if best else None,
            ranked=[RankedOut.of(ranked) for ranked in answer.ranked],
            interaction_id=best.interaction_id if best else None,
            model_version=answer.model_version,
            policy=answer.policy,
            certain=answer.certain,
            related=answer.related,
            degraded=dict(answer.degraded),
            timings={stage: round(milliseconds, 3) for stage, milliseconds in answer.timings.items()},
        )


class RatingOut(BaseModel, title="RatingResult"):
    """The result of a rating."""

    interaction_id: str
    rating: Annotated[int, Field(ge=1, le=5)]
    stored: Annotated[bool, Field(description="false: it waits beside the database, and is stored when that is back.")]
    message: Annotated[str, Field(description="The same in words, for people.")]


class ProblemOut(BaseModel, title="Problem"):
    """An error in the format of RFC 9457."""

    type: Annotated[str, Field(description="Always `about:blank`: the status says what kind of problem it is.")]
    title: Annotated[str, Field(description="The status in words.")]
    status: Annotated[int, Field(ge=400, le=599)]
    detail: Annotated[str, Field(description="What happened, the value seen, what to do next.")]
    request_id: Annotated[str, Field(description="By this the log's lines for the request can be found.")]


class HealthOut(BaseModel, title="Health"):
    """The process is alive."""

    status: Annotated[str, Field(description="Always `ok`.")]


class ReadinessOut(BaseModel, title="Readiness"):
    """The readiness of the process to answer at full speed."""

    ready: bool
    checks: Annotated[dict[str, str], Field(description="What was looked at, with what was found.")]

    @classmethod
    def of(cls, readiness: Readiness) -> ReadinessOut:
        """Take over a readiness of the service."""
        return cls(ready=readiness.ready, checks=dict(readiness.checks))


def reason(error: ValidationError) -> str:
    """Say what is wrong with a request, in one or more sentences."""
    return " ".join(f"{sentence(each)}." for each in error.errors(include_url=False, include_context=True))


def shortened(names: str) -> str:
    """Return names that somebody sent as they may stand in an answer: not at any length."""
    return names if len(names) <= 100 else f"{names[:100]}..."


def sentence(error: Any) -> str:
    """Say what one of pydantic's errors means, without the full stop."""
    name = ".".join(str(part) for part in error["loc"])
    kind, value, limits = error["type"], error["input"], error.get("ctx", {})
    if kind == "value_error":
        return f"{name} {limits['error']}".strip()
    if not name:
        return f"The body is {kind_of(value)}, not an object such as {{...}}"
    if kind == "missing":
        return f"{name} is missing"
    if kind == "extra_forbidden":
        return f"{shortened(name)} is not a field of this request"
    if kind == "string_too_short":
        return f"{name} is empty"
    if kind == "string_too_long":
        return f"{name} has {len(value):,} characters; at most {limits['max_length']:,} are allowed"
    if kind == "too_long":
        return f"{name} has {limits['actual_length']:,} entries; at most {limits['max_length']:,} are allowed"
    if kind == "too_short":
        return f"{name} has no entries"
    if error["loc"][-1] in ("rating", "min_rating", "max_rating"):
        return f"{name} is {shown(value)}, not a whole number from 1 to 5"
    if kind == "string_type":
        return f"{name} is {shown(value)}, not a text"
    return f"{name} is {shown(value)}: {error['msg'][:1].lower()}{error['msg'][1:]}"


def shown(value: object) -> str:
    """Return a value that somebody sent as it may stand in an answer: by its kind where it is long."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    written = repr(value)
    return written if len(written) <= 40 else kind_of(value)


def kind_of(value: object) -> str:
    """Return what JSON calls a value of this kind."""
    for kind, name in _KINDS.items():
        if isinstance(value, kind):
            return name
    return "null" if value is None else f"a {type(value).__name__}"


#: The first that fits: Python's truth values are numbers, too.
_KINDS: dict[type, str] = {
    str: "a text",
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
}
