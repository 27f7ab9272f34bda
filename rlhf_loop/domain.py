"""The values that cross package borders: frozen, without behaviour beyond what their fields say."""

from __future__ import annotations

import hashlib
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from math import isfinite
from typing import Any

from rlhf_loop.utils.text import html_table, visible

#: A rating from here on means "a correct answer": the positive class of the reward model.
GOOD_RATING = 4
#: The rating that a thumb stands for.
THUMBS = {"up": 5, "down": 1}
#: Rated answers from which on a training is worth its while.
MIN_SAMPLES = 50
#: How far long work is: it is called with how much is done, and how much there is.
Progress = Callable[[int, int], None]


class ReviewerRole(StrEnum):
    """The author of a review: experts' reviews are the truth that models are judged by, end users' only a hint."""

    EXPERT = "expert"
    END_USER = "end_user"


class PairKind(StrEnum):
    """The origin of a pair: somebody compared two answers, or an expert wrote a better one."""

    PREFERENCE = "preference"
    CORRECTION = "correction"


class Scale(StrEnum):
    """The scale on which end users rate on the page of answers."""

    STARS = "stars"
    THUMBS = "thumbs"


class UserRole(StrEnum):
    """The rights of a user: a rater reviews, an admin may do everything, a service what its tokens' scopes allow."""

    RATER = "rater"
    ADMIN = "admin"
    SERVICE = "service"


class ModelState(StrEnum):
    """The state of a version of the reward model: at most one is live, and a retired one can become live again."""

    CANDIDATE = "candidate"
    LIVE = "live"
    RETIRED = "retired"
    REJECTED = "rejected"


class AlarmKind(StrEnum):
    """The kind of a problem. `ACCURACY` is that of fresh ratings, `MODEL_FILE` a file that is damaged or missing.

    `MODEL_OFF` is open for as long as somebody has switched the model off.
    """

    ACCURACY = "accuracy"
    DRIFT = "drift"
    SOURCE = "source"
    QUEUE = "queue"
    MODEL_FILE = "model_file"
    TRAINING = "training"
    MODEL_OFF = "model_off"
    BACKUP = "backup"


@dataclass(frozen=True, slots=True)
class User:
    """A person or an application that is known by name.

    People sign in with `name`, which stands with their ratings and in exports; screens show `display_name`, if any.
    """

    id: int
    name: str
    role: UserRole
    active: bool = True
    display_name: str | None = None

    @property
    def shown(self) -> str:
        """The name that screens show."""
        return self.display_name or self.name


def prompt_key(prompt: str) -> str:
    """Return the prompt's key, equal for all spellings of one question: case and white space do not matter."""
    return " ".join(prompt.casefold().split())


def answer_name(group: str | None, source: str | None, prompt: str, response: str) -> str:
    """Return the name of an answer that came without one: by what can be seen of it, so that it is known again."""
    return raw_answer_name(*(visible(part or "") for part in (group, source, prompt, response)))


def raw_answer_name(group: str | None, source: str | None, prompt: str, response: str) -> str:
    """Return the name that such an answer had in earlier versions: by each character of it."""
    digest = hashlib.sha256()
    for part in (group or "", source or "", prompt, response):
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return f"sha256:{digest.hexdigest()}"


@dataclass(frozen=True, slots=True)
class Question:
    """One question with its candidate answers, in the order in which they came."""

    prompt: str
    responses: tuple[str, ...]


def field_values(value: Any) -> dict[str, Any]:
    """Return the fields of a value by name; unlike `dataclasses.asdict` it copies nothing."""
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The place a text comes from; columns, JSON fields and attributes have the same names everywhere.

    `source` names a source or an application, `licence` is a line such as "CC BY-SA 4.0", `retrieved_at` when the text
    was fetched or indexed. `drafted_by` is the language model that wrote the text, from what the others name where that
    is more than the model; None where these are its own words.
    """

    source: str | None = None
    title: str | None = None
    url: str | None = None
    licence: str | None = None
    retrieved_at: datetime | None = None
    drafted_by: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """One reviewer's word on an answer, from the edge to the table `rlhf_reviews`, whose columns have these names.

    `rating` is 1-5; None in a draft, and where somebody said something without a rating. `reviewer` is None where
    nobody is named. `harmful` is the reviewer's flag. `reviewed_at` is None for "now".
    """

    rating: int | None = None
    comment: str | None = None
    correction: str | None = None
    harmful: bool = False
    reviewer: str | None = None
    role: ReviewerRole = ReviewerRole.EXPERT
    reviewed_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A piece of text that a source found for a question, best first; for the other fields see `Origin`.

    `whole` says that the text begins and ends with whole sentences; else what looks cut off at its ends is left out of
    an answer.
    """

    text: str
    title: str | None = None
    url: str | None = None
    licence: str | None = None
    retrieved_at: datetime | None = None
    whole: bool = False
    verbatim: bool = False

    def origin(self, source: str) -> Origin:
        """Return the origin of what is made of the passage, which that source found."""
        return Origin(
            source=source, title=self.title, url=self.url, licence=self.licence, retrieved_at=self.retrieved_at
        )


@dataclass(frozen=True, slots=True)
class Candidate:
    """One possible answer to a question, before it is scored; for the other fields see `Origin`."""

    text: str
    source: str | None = None
    title: str | None = None
    url: str | None = None
    licence: str | None = None
    retrieved_at: datetime | None = None
    drafted_by: str | None = None

    @property
    def origin(self) -> Origin:
        """The place the text comes from."""
        return Origin(**{name: getattr(self, name) for name in Origin.__dataclass_fields__})


@dataclass(frozen=True, slots=True)
class RankedCandidate:
    """A candidate after re-ranking: `rank` from 1 (best), `score` in [0, 1] or None without a model.

    `position` is its index in the list that was given.
    """

    candidate: Candidate
    rank: int
    score: float | None
    position: int

    @property
    def text(self) -> str:
        """The candidate's text."""
        return self.candidate.text


@dataclass(frozen=True, slots=True)
class Ranking:
    """Candidates best first, and the model that ranked them; None without one: then it is the incoming order."""

    candidates: tuple[RankedCandidate, ...]
    model_version: str | None

    def _repr_html_(self) -> str:
        rows = [
            (
                of.rank,
                of.position + 1,
                "-" if of.score is None else f"{of.score:.2f}",
                textwrap.shorten(of.text, 220, placeholder=" ..."),
            )
            for of in self.candidates
        ]
        by = f"By {self.model_version}." if self.model_version else "The incoming order: there is no model yet."
        return html_table(("now", "before", "score", "answer"), rows, above=[by])


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedAnswer:
    """A ranked candidate as the question-answering service gives it, with the id by which it can be rated."""

    ranked: RankedCandidate
    interaction_id: str

    @property
    def text(self) -> str:
        """The answer."""
        return self.ranked.text

    @property
    def rank(self) -> int:
        """The place among the answers, from 1 (best)."""
        return self.ranked.rank

    @property
    def score(self) -> float | None:
        """The live model's score, None without a model."""
        return self.ranked.score

    @property
    def origin(self) -> Origin:
        """The place the text comes from."""
        return self.ranked.candidate.origin


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The candidates for a question, best first; there are none where nothing was found.

    `degraded` says, by the name of what did not work (a source, "model", "drafts", "recording"), why. `timings` are
    milliseconds by stage, "total" among them. `model_version` is that of the model whose scores the candidates have,
    None where there is none. `policy` is what ordered them (see `ServingRecord`): mostly, but not always, that model.
    `certain` says whether any score reaches the threshold, None where none is set or no trained model has scored;
    `related`, where it is not, whether any candidate has to do with the question at all.
    """

    query: str
    ranked: tuple[RankedAnswer, ...]
    model_version: str | None
    degraded: Mapping[str, str]
    timings: Mapping[str, float]
    policy: str = "live"
    certain: bool | None = None
    related: bool | None = None

    @property
    def best(self) -> RankedAnswer | None:
        """The best candidate, None if there is none."""
        return self.ranked[0] if self.ranked else None


@dataclass(frozen=True, slots=True)
class Rating:
    """One row of a ratings file: an answer with one reviewer's word on it, if there is one.

    `rating` is 1-5 or None (an unrated sibling, kept as context). What is said and where the answer comes from travels
    on as `review` and `origin`, whose other fields have the same names here.
    """

    user_prompt: str
    ai_response: str
    rating: int | None = None
    feedback_comment: str | None = None
    corrected_response: str | None = None
    reviewer: str | None = None
    source: str | None = None
    candidate_group: str | None = None
    shown_rank: int | None = None
    score: float | None = None
    model_version: str | None = None
    external_id: str | None = None
    created_at: datetime | None = None
    rated_at: datetime | None = None
    reviewer_role: str = ReviewerRole.EXPERT
    harmful: bool = False
    title: str | None = None
    url: str | None = None
    licence: str | None = None
    retrieved_at: datetime | None = None
    drafted_by: str | None = None

    @property
    def review(self) -> Review:
        """The reviewer's word."""
        return Review(**{name: getattr(self, file_name) for name, file_name in _REVIEW_FIELDS.items()})

    @property
    def origin(self) -> Origin:
        """The place the answer comes from."""
        return Origin(**{name: getattr(self, name) for name in Origin.__dataclass_fields__})


#: The names that a ratings file has for some fields of a review.
_FILE_NAMES = {
    "comment": "feedback_comment",
    "correction": "corrected_response",
    "role": "reviewer_role",
    "reviewed_at": "rated_at",
}
_REVIEW_FIELDS = {name: _FILE_NAMES.get(name, name) for name in Review.__dataclass_fields__}


def rating_fields(review: Review) -> dict[str, Any]:
    """Return a review as the fields that a `Rating` has for it."""
    return {file_name: getattr(review, name) for name, file_name in _REVIEW_FIELDS.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingRecord:
    """The way a question was answered, for its row in `rlhf_served_questions`.

    `policy` is live, incoming, prior, the version of a model, or interleaved; it was chosen with the probability
    `propensity`.
    `experiment` names what the live order was compared with then, None where there was no choice. `first_id` is the
    external id of the answer that came first. `teams` has for interleaved answers, by external id, the policy whose
    answer it is. `model_version` is that of the model that scored, whatever the order.
    `door`, `caller` and `returned` are those of a `RecordedRanking`; None for a question that was answered at /data.
    """

    candidate_group: str
    served_at: datetime
    policy: str
    propensity: float = 1.0
    experiment: str | None = None
    model_version: str | None = None
    first_id: str | None = None
    teams: Mapping[str, str] = field(default_factory=dict)
    degraded: Mapping[str, str] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    door: str | None = None
    caller: str | None = None
    returned: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedRanking:
    """A ranking that is recorded, whatever the door by which it came, so that it can be reviewed and rated.

    `candidates` are the first ones, best first, `returned` how many of all went back. `door` names the way in, such as
    "/v1/rerank", `caller` the user whose token it was. `policy` is as in a `ServingRecord`.
    """

    id: str
    query: str
    candidates: tuple[RankedCandidate, ...]
    door: str
    policy: str
    ranked_at: datetime
    model_version: str | None = None
    caller: str | None = None
    returned: int | None = None

    @property
    def group(self) -> str:
        """The name of the candidate group."""
        return f"{RANKED}{self.id}"

    @property
    def interaction_ids(self) -> dict[int, str]:
        """The ids by which the candidates can be rated, by their index in the list that was given."""
        return {each.position: ranked_id(self.id, each.position) for each in self.candidates}

    @property
    def ratings(self) -> tuple[Rating, ...]:
        """The candidates as they are stored; their rank is that in which they came."""
        return tuple(
            Rating(
                user_prompt=self.query,
                ai_response=each.text,
                candidate_group=self.group,
                shown_rank=each.position + 1,
                score=each.score,
                model_version=self.model_version,
                external_id=ranked_id(self.id, each.position),
                created_at=self.ranked_at,
                **field_values(each.candidate.origin),
            )
            for each in self.candidates
        )

    @property
    def served(self) -> ServingRecord:
        """The serving record; nothing of what was asked is in it."""
        return ServingRecord(
            candidate_group=self.group,
            served_at=self.ranked_at,
            policy=self.policy,
            model_version=self.model_version,
            first_id=ranked_id(self.id, self.candidates[0].position) if self.candidates else None,
            door=self.door,
            caller=self.caller,
            returned=self.returned,
        )


#: How the names of the candidate groups of recorded rankings begin, and of the final answers that were made of them.
RANKED, ANSWERS = "ranking:", "answers:"


def ranked_id(ranking: str, position: int) -> str:
    """Return the interaction id of a document of a recorded ranking, by its index in the request."""
    return f"{ranking}.{position}"


def ranking_of(interaction_id: str) -> str:
    """Return the id of the ranking whose document has this id, if it is such a one."""
    return interaction_id.rpartition(".")[0]


def final_id(ranking: str, answer: str) -> str:
    """Return the interaction id of a final answer that was made of a recorded ranking: of the same words the same."""
    return f"{ranking}.{hashlib.sha256(visible(answer).encode()).hexdigest()[:16]}"


@dataclass(frozen=True, slots=True)
class Example:
    """One answer as training sees it: a rated one, or an unrated sibling that is context only (`rating` None).

    `group` names the candidates that were offered together for one question. `weight` is how much its rating counts in
    the fit: 1 for an expert's. `role` says whose rating it is: models are judged by experts' wherever there are enough.
    """

    prompt: str
    response: str
    rating: int | None
    group: str
    rank: int | None = None
    weight: float = 1.0
    role: ReviewerRole = ReviewerRole.EXPERT

    @property
    def label(self) -> int | None:
        """1 if the rating says "correct", 0 if not, None if there is no rating."""
        return None if self.rating is None else int(self.rating >= GOOD_RATING)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one question, the better one known: from a preference, or a correction and what it corrects.

    `weight` is how much it counts among pairs: 1 where one expert or all of several say so.
    """

    prompt: str
    chosen: str
    rejected: str
    weight: float = 1.0
    kind: PairKind = PairKind.PREFERENCE
    role: ReviewerRole = ReviewerRole.EXPERT


@dataclass(frozen=True, slots=True)
class Interval:
    """A measured value with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """As people read it: `0.540 (0.40 to 0.68)`, `-` where there is no value."""
        if not isfinite(self.value):
            return "-"
        spread = "" if self.low == self.high else f" ({self.low:.2f} to {self.high:.2f})"
        return f"{self.value:.3f}{spread}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One training run as the table `rlhf_reward_model_training` keeps it, failed runs included.

    `status` is running, succeeded, rejected (the model ranks worse than doing nothing) or failed. None is what the run
    could not know.
    `metrics` holds every measure that has no field of its own.
    """

    status: str
    run_id: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    recipe: str | None = None
    encoder: str | None = None
    n_rated: int | None = None
    n_questions: int | None = None
    n_positive: int | None = None
    n_train: int | None = None
    n_test: int | None = None
    split_seed: int | None = None
    accuracy: float | None = None
    auc: float | None = None
    cv_accuracy: float | None = None
    cv_auc: float | None = None
    precision_at_1: float | None = None
    ndcg: float | None = None
    mrr: float | None = None
    incoming_precision_at_1: float | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    data_fingerprint: str | None = None
    library_versions: Mapping[str, str] = field(default_factory=dict)
    model_file: str | None = None
    model_sha256: str | None = None
    error: str | None = None
