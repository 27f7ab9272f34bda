"""Requests and responses of the API for applications, `/v1`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, AwareDatetime, BaseModel, Field

from rlhf_loop.domain import Rating, Review, ReviewerRole, field_values
from rlhf_loop.store.queries import LONGEST_PAGE, Filters, InteractionEntry, InteractionPage, ReviewPage
from rlhf_loop.store.validation import is_of_our_time
from rlhf_loop.utils.text import web_address
from rlhf_loop.web.schemas import MAX_COMMENT_CHARS, Opinion, not_blank, storable

MAX_TEXT_CHARS = 100_000
MAX_BATCH = 100
_MAX_LABEL_CHARS = 2_000
_MAX_NAME_CHARS = 200
#: What an id may be that an application chooses: all that an address takes as it is. Older ones may be anything.
NEW_ID = r"^[A-Za-z0-9_~-][A-Za-z0-9._:~-]{0,199}$"

Role = Literal["expert", "end_user"]


def _printable(name: str) -> str:
    """Refuse a name with what a terminal would obey, or nobody can see."""
    if hidden := next((each for each in name if not each.isprintable()), None):
        raise ValueError(f"holds the character {hidden!a}, which is not valid in a name: send what can be printed")
    return name


def _utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("is a time that no calendar has in UTC") from None


def _of_our_time(moment: datetime) -> datetime:
    if not is_of_our_time(moment):
        raise ValueError(f"is {moment.isoformat()}, which is not a time of ours, from 1900 to 2100")
    return moment


def _of_the_web(url: str) -> str:
    if url and web_address(url) is None:
        raise ValueError("is not the address of a web page, such as https://example.org/page")
    return url


Words = Annotated[
    str, Field(min_length=1, max_length=MAX_TEXT_CHARS), AfterValidator(not_blank), AfterValidator(storable)
]
Label = Annotated[str, Field(max_length=_MAX_LABEL_CHARS), AfterValidator(storable)]
Name = Annotated[str, Field(max_length=_MAX_NAME_CHARS), AfterValidator(storable)]
Id = Annotated[str, Field(min_length=1, max_length=_MAX_NAME_CHARS), AfterValidator(storable)]
Moment = Annotated[AwareDatetime, AfterValidator(_utc)]
#: When something was said or made, and not where a search begins.
Date = Annotated[Moment, AfterValidator(_of_our_time)]
Comment = Annotated[str, Field(max_length=MAX_COMMENT_CHARS), AfterValidator(storable)]
Reviewer = Annotated[
    str, Field(min_length=1, max_length=_MAX_NAME_CHARS), AfterValidator(not_blank), AfterValidator(storable)
]
_REVIEWER = (
    "Who says so, as your application knows them, for instance by a number: `patient-7` of the user `app` is stored as "
    "`app:patient-7`. Without it, it is the token's user."
)
_ROLE = (
    "Experts' words are what models learn from and are judged by. By default `end_user`, but `expert` where a rater or "
    "admin speaks for themselves; to send the words of other experts the token needs the scope `reviews:expert`."
)


class ReviewIn(Opinion, extra="forbid", strict=True, title="ReviewInput"):
    """A review of an answer."""

    comment: Annotated[Comment | None, Field(description="Why, in words.")] = None
    correction: Annotated[
        Annotated[str, Field(max_length=MAX_TEXT_CHARS), AfterValidator(storable)] | None,
        Field(description="The answer as it should have been."),
    ] = None
    harmful: Annotated[bool, Field(description="Flags an answer that could do harm.")] = False
    reviewer: Annotated[Reviewer | None, Field(description=_REVIEWER)] = None
    role: Annotated[Role | None, Field(description=_ROLE)] = None

    def review(self, *, reviewer: str | None, role: ReviewerRole, reviewed_at: datetime | None = None) -> Review:
        """Return it as it is stored."""
        same = self.model_dump(include={"comment", "correction", "harmful"})
        return Review(rating=self.stars, reviewer=reviewer, role=role, reviewed_at=reviewed_at, **same)


class InteractionIn(BaseModel, extra="forbid", strict=True, title="InteractionInput"):
    """An answer that an application gave, with or without a first review."""

    prompt: Annotated[Words, Field(description="The question.")]
    response: Annotated[Words, Field(description="The answer that was given.")]
    id: Annotated[
        Annotated[str, Field(pattern=NEW_ID)] | None,
        Field(description="Your id for it, unique in the database. Without it, one is made."),
    ] = None
    source: Annotated[Name | None, Field(description="Where the answer comes from: the name of a source.")] = None
    title: Annotated[Label | None, Field(description="The title of the page or document.")] = None
    url: Annotated[
        Annotated[str, Field(max_length=_MAX_LABEL_CHARS, pattern="^https?://")] | None,
        AfterValidator(lambda url: url and _of_the_web(url)),
        Field(description="Its address."),
    ] = None
    licence: Annotated[Label | None, Field(description="Under which terms the text may be used.")] = None
    retrieved_at: Annotated[Date | None, Field(description="When the text was fetched.")] = None
    drafted_by: Annotated[
        Annotated[Name, AfterValidator(_printable)] | None,
        Field(description="The language model that wrote the answer, from that page if there is one; else null."),
    ] = None
    candidate_group: Annotated[
        Name | None, Field(description="The same for all answers that were offered together for one question.")
    ] = None
    shown_rank: Annotated[
        Annotated[int, Field(ge=1, lt=2**31)] | None, Field(description="Its place among them, from 1 (best).")
    ] = None
    score: Annotated[
        Annotated[float, Field(ge=0, le=1)] | None, Field(description="What a model thought of it, from 0 to 1.")
    ] = None
    model_version: Annotated[Name | None, Field(description="Which model that was.")] = None
    created_at: Annotated[Date | None, Field(description="When it was given. Default: now.")] = None
    review: Annotated[ReviewIn | None, Field(description="What somebody says of it already.")] = None

    def rating(self) -> Rating:
        """Return it as it is stored, without the review."""
        same = self.model_dump(exclude={"id", "prompt", "response", "review"})
        return Rating(external_id=self.id, user_prompt=self.prompt, ai_response=self.response, **same)


class InteractionBatchIn(BaseModel, extra="forbid", strict=True, title="InteractionBatchInput"):
    """Several answers at once: all of them are stored, or none."""

    interactions: Annotated[list[InteractionIn], Field(min_length=1, max_length=MAX_BATCH)]


class PreferenceIn(BaseModel, extra="forbid", strict=True, title="PreferenceInput"):
    """A preference between two answers to one question."""

    chosen_id: Annotated[Id, Field(description="The better answer.")]
    rejected_id: Annotated[Id, Field(description="The other one.")]
    tie: Annotated[bool, Field(description="Neither is better; then it does not matter which is which.")] = False
    comment: Annotated[Comment | None, Field(description="Why, in words.")] = None
    reviewer: Annotated[Reviewer | None, Field(description=_REVIEWER)] = None
    role: Annotated[Role | None, Field(description=_ROLE)] = None


class InteractionFilters(BaseModel, extra="forbid"):
    """Filters of a list of interactions, in its address."""

    rated: Annotated[bool | None, Field(description="Those that experts rated, or those that they did not.")] = None
    min_rating: Annotated[
        Annotated[int, Field(ge=1, le=5)] | None, Field(description="Those with at least that consensus of experts.")
    ] = None
    max_rating: Annotated[
        Annotated[int, Field(ge=1, le=5)] | None, Field(description="Those with at most that consensus of experts.")
    ] = None
    source: Annotated[Label | None, Field(description="Those of that source.")] = None
    candidate_group: Annotated[Label | None, Field(description="Those of that group.")] = None
    model_version: Annotated[Label | None, Field(description="Those that this model ranked.")] = None
    harmful: Annotated[bool | None, Field(description="Those that somebody flagged, or those that nobody did.")] = None
    created_after: Annotated[
        Moment | None, Field(description="Those that were given later, in the order of that time.")
    ] = None
    created_before: Annotated[
        Moment | None, Field(description="Those that were given before, in the order of that time.")
    ] = None
    limit: Annotated[int, Field(ge=1, le=LONGEST_PAGE, description="Entries of a page.")] = 20
    cursor: Annotated[
        Annotated[str, Field(max_length=200)] | None,
        Field(description="`next` of the page before; all filters stay as they were."),
    ] = None

    def filters(self) -> Filters:
        """Return them without what is about pages."""
        return Filters(**self.model_dump(exclude={"limit", "cursor"}))


class ReviewListParameters(BaseModel, extra="forbid"):
    """The page of a list of reviews, in its address."""

    limit: Annotated[int, Field(ge=1, le=LONGEST_PAGE, description="Entries of a page.")] = LONGEST_PAGE
    cursor: Annotated[Annotated[str, Field(max_length=200)] | None, Field(description="`next` of the page before.")] = (
        None
    )


class ReviewParameters(BaseModel, extra="forbid"):
    """The reviewer whose review is meant, in an address."""

    reviewer: Annotated[
        Reviewer | None, Field(description="As it was sent with the review. Without it, it is the token's user.")
    ] = None


class NoParameters(BaseModel, extra="forbid"):
    """An address that takes no parameters."""


class RecordedOut(BaseModel, title="Recorded"):
    """The result of recording an answer."""

    id: Annotated[str, Field(description="By this it can be reviewed and found again.")]
    rating: Annotated[int | None, Field(description="The consensus of the experts so far.")]
    end_user_rating: Annotated[int | None, Field(description="The consensus of the end users so far.")]


class RecordedBatchOut(BaseModel, title="RecordedBatch"):
    """The results of recording answers, in the order in which they came."""

    interactions: list[RecordedOut]


class ReviewOut(BaseModel, title="Review"):
    """A reviewer's review of an answer."""

    interaction_id: str
    reviewer: Annotated[str, Field(description="A user, or `user:name` for whom an application speaks for.")]
    role: Role
    rating: Annotated[int, Field(ge=1, le=5)]
    comment: str | None
    correction: str | None
    harmful: bool
    reviewed_at: datetime

    @classmethod
    def of(cls, interaction_id: str, review: Review) -> Self:
        """Take over a stored review."""
        return cls(interaction_id=interaction_id, **{**field_values(review), "role": review.role.value})


class InteractionOut(BaseModel, title="Interaction"):
    """An answer that was given, with the consensus of its reviews."""

    id: str
    prompt: str
    response: str
    source: str | None
    title: str | None
    url: str | None
    licence: str | None
    retrieved_at: datetime | None
    drafted_by: str | None
    candidate_group: str | None
    shown_rank: int | None
    score: float | None
    model_version: str | None
    created_at: datetime
    rating: Annotated[int | None, Field(description="The consensus of the experts: the lower median.")]
    rated_at: Annotated[datetime | None, Field(description="When the last expert reviewed it.")]
    end_user_rating: Annotated[int | None, Field(description="The lower median of the end users.")]
    harmful: Annotated[bool, Field(description="Some reviewer flagged it.")]
    expert_reviews: int
    end_user_reviews: int

    @classmethod
    def of(cls, entry: InteractionEntry) -> Self:
        """Take over an entry."""
        return cls.model_validate(field_values(entry) | field_values(entry.origin))


class InteractionPageOut(BaseModel, title="InteractionPage"):
    """A page of interactions, newest first; where hardly any meets the filters, a short or empty one with a `next`."""

    interactions: list[InteractionOut]
    next: Annotated[str | None, Field(description="Send it as `cursor` for the next page; null on the last one.")]

    @classmethod
    def of(cls, page: InteractionPage) -> Self:
        """Take over a page."""
        return cls(interactions=[InteractionOut.of(entry) for entry in page.interactions], next=page.next)


class ReviewPageOut(BaseModel, title="ReviewPage"):
    """A page of an answer's reviews, newest first."""

    reviews: list[ReviewOut]
    next: Annotated[str | None, Field(description="Send it as `cursor` for the next page; null on the last one.")]

    @classmethod
    def of(cls, interaction_id: str, page: ReviewPage) -> Self:
        """Take over a page."""
        return cls(reviews=[ReviewOut.of(interaction_id, entry) for entry in page.reviews], next=page.next)


class ReviewedInteractionOut(BaseModel, title="ReviewedInteraction"):
    """An answer that was given, with its first page of reviews."""

    interaction: InteractionOut
    reviews: list[ReviewOut]
    next: Annotated[
        str | None, Field(description="Send it as `cursor` to the address of the reviews; null where these are all.")
    ]


class PreferenceOut(BaseModel, title="Preference"):
    """A reviewer's preference between two answers."""

    chosen_id: str
    rejected_id: str
    tie: bool
    reviewer: str
    role: Role
    comment: str | None
