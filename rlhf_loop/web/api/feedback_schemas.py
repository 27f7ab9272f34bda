"""What goes in and out at `/v1/feedback`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, RootModel, model_validator

from rlhf_loop.domain import Rating
from rlhf_loop.web.api.v1_schemas import Id, Moment, Name, ReviewIn, Role, Words

_SCALE = r"^-?\d{1,9}(\.\d{1,9})?,-?\d{1,9}(\.\d{1,9})?$"
_COLUMNS = r"^[^=,]{1,200}=[^=,]{1,200}(,[^=,]{1,200}=[^=,]{1,200}){0,20}$"


class FeedbackIn(ReviewIn):
    """What somebody says of an answer that is here, or that comes along."""

    model_config = ConfigDict(extra="forbid", strict=True, title="FeedbackInput")

    interaction_id: Annotated[
        Id | None, Field(description="Which answer: the id under which it was recorded, served or imported.")
    ] = None
    prompt: Annotated[
        Words | None, Field(description="The question. Together with the answer it is enough, and is known again.")
    ] = None
    response: Annotated[Words | None, Field(description="The answer that was given.")] = None
    source: Annotated[Name | None, Field(description="Where the answer comes from: a source, or a model.")] = None
    candidate_group: Annotated[
        Name | None, Field(description="The same for all answers that were offered together for one question.")
    ] = None
    created_at: Annotated[Moment | None, Field(description="When the answer was given. Default: now.")] = None
    rated_at: Annotated[
        Moment | None,
        Field(description="When they said so. What is older than what they said since changes nothing. Default: now."),
    ] = None

    @model_validator(mode="after")
    def _about_something(self) -> Self:
        if (self.prompt is None) != (self.response is None):
            raise ValueError("prompt and response belong together: send both, or an interaction_id alone")
        if self.prompt is None and self.interaction_id is None:
            raise ValueError("interaction_id is missing: send it, or prompt and response")
        return self

    def said(self) -> Rating:
        """Return it as it is stored; without texts of its own those are a dash."""
        return Rating(
            user_prompt=self.prompt or "-",
            ai_response=self.response or "-",
            rating=self.stars,
            feedback_comment=self.comment,
            corrected_response=self.correction,
            source=self.source,
            candidate_group=self.candidate_group,
            external_id=self.interaction_id,
            created_at=self.created_at,
            rated_at=self.rated_at,
            harmful=self.harmful,
        )


class ToolRecordIn(RootModel[dict[str, Any]]):
    """One record as the tool itself has it."""

    model_config = ConfigDict(title="ToolRecord")


class ToolAsked(BaseModel):
    """How the record of a tool is to be read: in its address, since the tool knows nothing of it."""

    model_config = ConfigDict(extra="forbid")

    thumbs: Annotated[bool, Field(description="Numbers are thumbs: 1 is up, 0 and -1 are down.")] = False
    scale: Annotated[
        Annotated[str, Field(pattern=_SCALE, max_length=50)] | None,
        Field(description="Numbers go from the first to the second, `1,10`, and become 1 to 5."),
    ] = None
    good: Annotated[int, Field(ge=1, le=5, description="The rating that a thumb up stands for.")] = 5
    bad: Annotated[int, Field(ge=1, le=5, description="That of a thumb down.")] = 1
    score_name: Annotated[
        str, Field(min_length=1, max_length=200, description="Langfuse, Phoenix: the score that is the rating.")
    ] = "rating"
    columns: Annotated[
        Annotated[str, Field(pattern=_COLUMNS, max_length=2000)] | None,
        Field(description="Label Studio: names of fields and controls, `rating=quality,user_prompt=frage`."),
    ] = None
    role: Annotated[Role | None, Field(description="Whose word it is; `expert` needs the scope `reviews:expert`.")] = (
        None
    )


class FeedbackTakenOut(BaseModel):
    """What became of a tool's record."""

    model_config = ConfigDict(title="FeedbackTaken")

    tool: Literal["langfuse", "openwebui", "label-studio", "phoenix"]
    interactions: Annotated[int, Field(ge=0, description="Answers that were not known before.")]
    reviews: Annotated[int, Field(ge=0, description="Reviews that are new, or say something else now.")]
    preferences: Annotated[int, Field(ge=0, description="Preferences that were stored.")]
    withdrawn: Annotated[int, Field(ge=0, description="Reviews and preferences that were taken back.")]
