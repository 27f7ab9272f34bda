"""The tables of the ratings database, the same on SQLite and PostgreSQL.

The consensus of several reviewers (`rlhf_interactions.rating`) is kept by triggers that the migrations create, so it is
right whoever writes, plain SQL included. `review_of` and `origin_of` read a review and an origin from a row.
"""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    CheckConstraint,
    DateTime,
    Dialect,
    Double,
    ForeignKeyConstraint,
    Index,
    MetaData,
    PrimaryKeyConstraint,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine

from rlhf_loop import domain

#: Where PostgreSQL's INTEGER ends. A larger id is nobody's, and asking for it is an error there.
LARGEST_ID = 2**31 - 1


class UtcDateTime(TypeDecorator[datetime]):
    """A point in time: aware and in UTC on the way out, whatever the database.

    SQLite has no such type. There it is text of one width, `2025-01-31 09:30:00.000000`, which sorts by time.
    """

    impl = DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(Text() if dialect.name == "sqlite" else DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"The time {value.isoformat()} has no time zone. Give an aware datetime.")
        value = value.astimezone(UTC)
        if dialect.name != "sqlite":
            return value
        return value.replace(tzinfo=None).isoformat(sep=" ", timespec="microseconds")

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


class Now(FunctionElement[datetime]):
    """The server's clock, in the form in which `UtcDateTime` stores it."""

    inherit_cache = True


@compiles(Now, "sqlite")
def _now_on_sqlite(element: Now, compiler: Any, **_: Any) -> str:
    return "strftime('%Y-%m-%d %H:%M:%f000', 'now')"


@compiles(Now, "postgresql")
def _now_on_postgresql(element: Now, compiler: Any, **_: Any) -> str:
    return "now()"


class NewIdentity(FunctionElement[str]):
    """A random identity, for a row that is written without one."""

    inherit_cache = True


@compiles(NewIdentity, "sqlite")
def _new_identity_on_sqlite(element: NewIdentity, compiler: Any, **_: Any) -> str:
    return "lower(hex(randomblob(16)))"


@compiles(NewIdentity, "postgresql")
def _new_identity_on_postgresql(element: NewIdentity, compiler: Any, **_: Any) -> str:
    return "replace(gen_random_uuid()::text, '-', '')"


class Base(DeclarativeBase):
    """The tables of this package."""

    metadata = MetaData()
    type_annotation_map: ClassVar[dict[Any, Any]] = {datetime: UtcDateTime, str: Text, float: Double}


#: The reviewer when nobody is named, and when plain SQL writes a rating.
ANONYMOUS = "anonymous"


class Interaction(Base):
    """An answer that was offered for a question.

    `rating` and `rated_at` sum up the reviews by experts, `end_user_rating` those by end users; `feedback_comment` and
    `corrected_response` are the newest of an expert, else of an end user. Triggers keep them.
    """

    __tablename__ = "rlhf_interactions"
    __table_args__ = (
        PrimaryKeyConstraint("id", name="pk_rlhf_interactions"),
        UniqueConstraint("external_id", name="uq_rlhf_interactions_external_id"),
        CheckConstraint("trim(user_prompt) <> ''", name="ck_rlhf_interactions_user_prompt_not_empty"),
        CheckConstraint("trim(ai_response) <> ''", name="ck_rlhf_interactions_ai_response_not_empty"),
        CheckConstraint("rating IN (1, 2, 3, 4, 5)", name="ck_rlhf_interactions_rating_1_to_5"),
        CheckConstraint("end_user_rating IN (1, 2, 3, 4, 5)", name="ck_rlhf_interactions_end_user_rating_1_to_5"),
        CheckConstraint("shown_rank >= 1", name="ck_rlhf_interactions_shown_rank_from_1"),
        CheckConstraint("score >= 0 AND score <= 1", name="ck_rlhf_interactions_score_0_to_1"),
        # With the id, as SQLite's indices have it anyway: questions are counted without reading the answers.
        Index("ix_rlhf_interactions_candidate_group", "candidate_group", postgresql_include=["id"]),
        Index(
            "ix_rlhf_interactions_rated",
            "rating",
            sqlite_where=text("rating IS NOT NULL"),
            postgresql_where=text("rating IS NOT NULL"),
        ),
        Index(
            "ix_rlhf_interactions_waiting",
            "id",
            sqlite_where=text("rating IS NULL"),
            postgresql_where=text("rating IS NULL"),
        ),
        # To find the same answer to the same question again; whole texts are too long for an index.
        Index("ix_rlhf_interactions_texts", text("substr(user_prompt, 1, 64)"), text("substr(ai_response, 1, 64)")),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int]
    user_prompt: Mapped[str]
    ai_response: Mapped[str]
    rating: Mapped[int | None]
    feedback_comment: Mapped[str | None]
    corrected_response: Mapped[str | None]
    source: Mapped[str | None]
    candidate_group: Mapped[str | None]
    shown_rank: Mapped[int | None]
    score: Mapped[float | None]
    model_version: Mapped[str | None]
    external_id: Mapped[str] = mapped_column(server_default=NewIdentity())
    created_at: Mapped[datetime] = mapped_column(server_default=Now())
    rated_at: Mapped[datetime | None]
    #: How often the triggers summed up the reviews. They alone write it: by it they tell their own writes from others'.
    review_changes: Mapped[int] = mapped_column(server_default=text("0"))
    end_user_rating: Mapped[int | None]
    title: Mapped[str | None]
    url: Mapped[str | None]
    licence: Mapped[str | None]
    retrieved_at: Mapped[datetime | None]


class Review(Base):
    """One reviewer's word on one answer; `harmful` is the flag that an expert sets."""

    __tablename__ = "rlhf_reviews"
    __table_args__ = (
        PrimaryKeyConstraint("id", name="pk_rlhf_reviews"),
        ForeignKeyConstraint(
            ["interaction_key"],
            ["rlhf_interactions.id"],
            name="fk_rlhf_reviews_interaction_id",
            ondelete="CASCADE",
        ),
        UniqueConstraint("interaction_key", "reviewer", name="uq_rlhf_reviews_interaction_id_reviewer"),
        CheckConstraint("trim(reviewer) <> ''", name="ck_rlhf_reviews_reviewer_not_empty"),
        CheckConstraint("rating IN (1, 2, 3, 4, 5)", name="ck_rlhf_reviews_rating_1_to_5"),
        CheckConstraint("role IN ('expert', 'end_user')", name="ck_rlhf_reviews_role"),
        Index("ix_rlhf_reviews_reviewer", "reviewer", "reviewed_at"),
        Index(
            "ix_rlhf_reviews_corrected",
            "id",
            sqlite_where=text("correction IS NOT NULL"),
            postgresql_where=text("correction IS NOT NULL"),
        ),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int]
    interaction_key: Mapped[int] = mapped_column("interaction_id", key="interaction_key")
    reviewer: Mapped[str] = mapped_column(server_default=text(f"'{ANONYMOUS}'"))
    rating: Mapped[int]
    comment: Mapped[str | None]
    correction: Mapped[str | None]
    reviewed_at: Mapped[datetime] = mapped_column(server_default=Now())
    role: Mapped[str] = mapped_column(server_default=text("'expert'"))
    harmful: Mapped[bool] = mapped_column(server_default=text("false"))


#: The columns of a review and of an origin, for `review_of` and `origin_of`.
REVIEW_COLUMNS = tuple(getattr(Review, each.name) for each in fields(domain.Review))
ORIGIN_COLUMNS = tuple(getattr(Interaction, each.name) for each in fields(domain.Origin))


def review_of(row: Any) -> domain.Review:
    """Return the review in a row with `REVIEW_COLUMNS`."""
    values = {column.key: getattr(row, column.key) for column in REVIEW_COLUMNS}
    return domain.Review(**{**values, "role": domain.ReviewerRole(row.role), "harmful": bool(row.harmful)})


def origin_of(row: Any) -> domain.Origin:
    """Return the origin in a row with `ORIGIN_COLUMNS`."""
    return domain.Origin(**{column.key: getattr(row, column.key) for column in ORIGIN_COLUMNS})


class Preference(Base):
    """A reviewer's preference between two answers to one question. `first_id` is always the lower id."""

    __tablename__ = "rlhf_preferences"
    __table_args__ = (
        PrimaryKeyConstraint("id", name="pk_rlhf_preferences"),
        ForeignKeyConstraint(
            ["first_id"], ["rlhf_interactions.id"], name="fk_rlhf_preferences_first_id", ondelete="CASCADE"
        ),
        ForeignKeyConstraint(
            ["second_id"], ["rlhf_interactions.id"], name="fk_rlhf_preferences_second_id", ondelete="CASCADE"
        ),
        UniqueConstraint("first_id", "second_id", "reviewer", name="uq_rlhf_preferences_pair_reviewer"),
        CheckConstraint("first_id < second_id", name="ck_rlhf_preferences_first_before_second"),
        CheckConstraint("preferred IN ('first', 'second', 'tie')", name="ck_rlhf_preferences_preferred"),
        CheckConstraint("role IN ('expert', 'end_user')", name="ck_rlhf_preferences_role"),
        Index("ix_rlhf_preferences_second_id", "second_id"),
        Index("ix_rlhf_preferences_reviewer", "reviewer", "preferred_at"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int]
    first_id: Mapped[int]
    second_id: Mapped[int]
    reviewer: Mapped[str]
    role: Mapped[str] = mapped_column(server_default=text("'expert'"))
    preferred: Mapped[str]
    comment: Mapped[str | None]
    preferred_at: Mapped[datetime] = mapped_column(server_default=Now())


class CorrectionDecision(Base):
    """An admin's decision about the correction in a review; it holds for this `correction`, not for a later one."""

    __tablename__ = "rlhf_correction_decisions"
    __table_args__ = (
        PrimaryKeyConstraint("review_id", name="pk_rlhf_correction_decisions"),
        ForeignKeyConstraint(
            ["review_id"], ["rlhf_reviews.id"], name="fk_rlhf_correction_decisions_review_id", ondelete="CASCADE"
        ),
    )

    review_id: Mapped[int] = mapped_column(autoincrement=False)
    correction: Mapped[str]
    approved: Mapped[bool]
    decided_by: Mapped[str]
    decided_at: Mapped[datetime] = mapped_column(server_default=Now())


class Assignment(Base):
    """An answer that a rater was given: open until `leased_until`, then reviewed or skipped. It is given only once.

    `why` is the reason of the queue. `handled_at` is when it was reviewed or skipped; `earlier` is the review that was
    replaced then, if there was one.
    """

    __tablename__ = "rlhf_assignments"
    __table_args__ = (
        PrimaryKeyConstraint("reviewer", "interaction_key", name="pk_rlhf_assignments"),
        ForeignKeyConstraint(
            ["interaction_key"], ["rlhf_interactions.id"], name="fk_rlhf_assignments_interaction_id", ondelete="CASCADE"
        ),
        CheckConstraint("state IN ('open', 'reviewed', 'skipped')", name="ck_rlhf_assignments_state"),
        Index("ix_rlhf_assignments_interaction_id", "interaction_key"),
        Index("ix_rlhf_assignments_reviewer_assigned_at", "reviewer", "assigned_at"),
    )

    reviewer: Mapped[str]
    interaction_key: Mapped[int] = mapped_column("interaction_id", key="interaction_key")
    state: Mapped[str] = mapped_column(server_default=text("'open'"))
    why: Mapped[str] = mapped_column(server_default=text("'recent'"))
    assigned_at: Mapped[datetime]
    leased_until: Mapped[datetime]
    handled_at: Mapped[datetime | None]
    earlier: Mapped[Any | None] = mapped_column(JSON(none_as_null=True))


class PairAssignment(Base):
    """Two answers to one question that a rater was given to compare. `first_id` is always the lower id."""

    __tablename__ = "rlhf_pair_assignments"
    __table_args__ = (
        PrimaryKeyConstraint("reviewer", "first_id", "second_id", name="pk_rlhf_pair_assignments"),
        ForeignKeyConstraint(
            ["first_id"], ["rlhf_interactions.id"], name="fk_rlhf_pair_assignments_first_id", ondelete="CASCADE"
        ),
        ForeignKeyConstraint(
            ["second_id"], ["rlhf_interactions.id"], name="fk_rlhf_pair_assignments_second_id", ondelete="CASCADE"
        ),
        CheckConstraint("first_id < second_id", name="ck_rlhf_pair_assignments_first_before_second"),
        CheckConstraint("state IN ('open', 'preferred', 'skipped')", name="ck_rlhf_pair_assignments_state"),
        Index("ix_rlhf_pair_assignments_first_id", "first_id"),
        Index("ix_rlhf_pair_assignments_second_id", "second_id"),
    )

    reviewer: Mapped[str]
    first_id: Mapped[int]
    second_id: Mapped[int]
    state: Mapped[str] = mapped_column(server_default=text("'open'"))
    assigned_at: Mapped[datetime]
    leased_until: Mapped[datetime]


class Draft(Base):
    """A review that a rater has typed and not yet submitted."""

    __tablename__ = "rlhf_drafts"
    __table_args__ = (
        PrimaryKeyConstraint("reviewer", "interaction_key", name="pk_rlhf_drafts"),
        ForeignKeyConstraint(
            ["interaction_key"], ["rlhf_interactions.id"], name="fk_rlhf_drafts_interaction_id", ondelete="CASCADE"
        ),
        CheckConstraint("rating IN (1, 2, 3, 4, 5)", name="ck_rlhf_drafts_rating_1_to_5"),
        Index("ix_rlhf_drafts_interaction_id", "interaction_key"),
    )

    reviewer: Mapped[str]
    interaction_key: Mapped[int] = mapped_column("interaction_id", key="interaction_key")
    rating: Mapped[int | None]
    comment: Mapped[str | None]
    correction: Mapped[str | None]
    harmful: Mapped[bool] = mapped_column(server_default=text("false"))
    saved_at: Mapped[datetime] = mapped_column(server_default=Now())


class AnswerScore(Base):
    """The live model's score of an answer that waits for a review, and how far its question's best two are apart.

    `margin` is None but for those two.
    """

    __tablename__ = "rlhf_answer_scores"
    __table_args__ = (
        PrimaryKeyConstraint("interaction_key", name="pk_rlhf_answer_scores"),
        ForeignKeyConstraint(
            ["interaction_key"],
            ["rlhf_interactions.id"],
            name="fk_rlhf_answer_scores_interaction_id",
            ondelete="CASCADE",
        ),
        CheckConstraint("score >= 0 AND score <= 1", name="ck_rlhf_answer_scores_score_0_to_1"),
        Index("ix_rlhf_answer_scores_score", "score"),
        Index("ix_rlhf_answer_scores_margin", "margin"),
    )

    interaction_key: Mapped[int] = mapped_column("interaction_id", key="interaction_key", autoincrement=False)
    model_version: Mapped[str]
    score: Mapped[float]
    margin: Mapped[float | None]
    scored_at: Mapped[datetime] = mapped_column(server_default=Now())


class Guideline(Base):
    """The guidelines for raters, one row a version; the newest is in force."""

    __tablename__ = "rlhf_guidelines"
    __table_args__ = (
        PrimaryKeyConstraint("id", name="pk_rlhf_guidelines"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int]
    introduction: Mapped[str]
    grade_1: Mapped[str]
    grade_2: Mapped[str]
    grade_3: Mapped[str]
    grade_4: Mapped[str]
    grade_5: Mapped[str]
    edited_by: Mapped[str]
    edited_at: Mapped[datetime] = mapped_column(server_default=Now())


class User(Base):
    """A person or an application. `name` is lower case; without `password_hash` nobody can sign in as them."""

    __tablename__ = "rlhf_users"
    __table_args__ = (
        PrimaryKeyConstraint("id", name="pk_rlhf_users"),
        UniqueConstraint("name", name="uq_rlhf_users_name"),
        CheckConstraint("role IN ('rater', 'admin', 'service')", name="ck_rlhf_users_role"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int]
    name: Mapped[str]
    role: Mapped[str]
    password_hash: Mapped[str | None]
    active: Mapped[bool] = mapped_column(server_default=text("true"))
    created_at: Mapped[datetime] = mapped_column(server_default=Now())
    signed_in_at: Mapped[datetime | None]


class Session(Base):
    """A browser in which somebody signed in, by the hash of what its cookie holds."""

    __tablename__ = "rlhf_sessions"
    __table_args__ = (
        PrimaryKeyConstraint("token_hash", name="pk_rlhf_sessions"),
        ForeignKeyConstraint(["user_id"], ["rlhf_users.id"], name="fk_rlhf_sessions_user_id", ondelete="CASCADE"),
        Index("ix_rlhf_sessions_user_id", "user_id"),
    )

    token_hash: Mapped[str]
    user_id: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(server_default=Now())
    seen_at: Mapped[datetime] = mapped_column(server_default=Now())
    expires_at: Mapped[datetime]


class Token(Base):
    """A token of the API, by its hash; `start` is how it begins, so that people can tell tokens apart."""

    __tablename__ = "rlhf_tokens"
    __table_args__ = (
        PrimaryKeyConstraint("id", name="pk_rlhf_tokens"),
        UniqueConstraint("token_hash", name="uq_rlhf_tokens_token_hash"),
        ForeignKeyConstraint(["user_id"], ["rlhf_users.id"], name="fk_rlhf_tokens_user_id", ondelete="CASCADE"),
        Index("ix_rlhf_tokens_user_id", "user_id"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int]
    user_id: Mapped[int]
    name: Mapped[str]
    token_hash: Mapped[str]
    start: Mapped[str]
    scopes: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=Now())
    expires_at: Mapped[datetime | None]
    used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class OneTimeLink(Base):
    """A link by which somebody sets a password once; without `user_id` it makes the first admin."""

    __tablename__ = "rlhf_one_time_links"
    __table_args__ = (
        PrimaryKeyConstraint("token_hash", name="pk_rlhf_one_time_links"),
        ForeignKeyConstraint(["user_id"], ["rlhf_users.id"], name="fk_rlhf_one_time_links_user_id", ondelete="CASCADE"),
    )

    token_hash: Mapped[str]
    user_id: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(server_default=Now())
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]


class SignInFailure(Base):
    """A sign-in that failed, kept for as long as it counts."""

    __tablename__ = "rlhf_sign_in_failures"
    __table_args__ = (
        PrimaryKeyConstraint("id", name="pk_rlhf_sign_in_failures"),
        Index("ix_rlhf_sign_in_failures_failed_at", "failed_at"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int]
    name: Mapped[str]
    address: Mapped[str]
    failed_at: Mapped[datetime] = mapped_column(server_default=Now())


class AuditEntry(Base):
    """One action of somebody; rows are only ever added."""

    __tablename__ = "rlhf_audit_log"
    __table_args__ = (
        PrimaryKeyConstraint("id", name="pk_rlhf_audit_log"),
        Index("ix_rlhf_audit_log_happened_at", "happened_at"),
        Index("ix_rlhf_audit_log_target", "target"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int]
    happened_at: Mapped[datetime] = mapped_column(server_default=Now())
    actor: Mapped[str]
    action: Mapped[str]
    target: Mapped[str]
    detail: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))


class AnsweredRequest(Base):
    """The answer to a request that came with an Idempotency-Key, by the key's owner."""

    __tablename__ = "rlhf_answered_requests"
    __table_args__ = (
        PrimaryKeyConstraint("owner", "key", name="pk_rlhf_answered_requests"),
        Index("ix_rlhf_answered_requests_answered_at", "answered_at"),
    )

    owner: Mapped[str]
    key: Mapped[str]
    request_hash: Mapped[str]
    status: Mapped[int]
    body: Mapped[str]
    location: Mapped[str | None]
    answered_at: Mapped[datetime] = mapped_column(server_default=Now())


class TrainingRun(Base):
    """One run of the training, the failed ones too. What a failed run cannot know is NULL."""

    __tablename__ = "rlhf_reward_model_training"
    __table_args__ = (
        PrimaryKeyConstraint("id", name="pk_rlhf_reward_model_training"),
        UniqueConstraint("run_id", name="uq_rlhf_reward_model_training_run_id"),
        CheckConstraint(
            "status IN ('running', 'succeeded', 'rejected', 'failed')", name="ck_rlhf_reward_model_training_status"
        ),
        Index("ix_rlhf_reward_model_training_started_at", "started_at"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int]
    run_id: Mapped[str]
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    status: Mapped[str]
    recipe: Mapped[str | None]
    encoder: Mapped[str | None]
    n_rated: Mapped[int | None]
    n_questions: Mapped[int | None]
    n_positive: Mapped[int | None]
    n_train: Mapped[int | None]
    n_test: Mapped[int | None]
    split_seed: Mapped[int | None]
    accuracy: Mapped[float | None]
    auc: Mapped[float | None]
    cv_accuracy: Mapped[float | None]
    cv_auc: Mapped[float | None]
    precision_at_1: Mapped[float | None]
    ndcg: Mapped[float | None]
    mrr: Mapped[float | None]
    incoming_precision_at_1: Mapped[float | None]
    metrics: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    data_fingerprint: Mapped[str | None]
    library_versions: Mapped[dict[str, str] | None] = mapped_column(JSON(none_as_null=True))
    model_file: Mapped[str | None]
    model_sha256: Mapped[str | None]
    error: Mapped[str | None]


class ModelVersion(Base):
    """A trained model. At most one is live.

    `reason` says in words why it has its state. `judgement` is what the gate saw, `metrics` what the training measured.
    `live_from` and `live_until` are of the last time that it was live. `sha256` is that of its file.
    """

    __tablename__ = "rlhf_models"
    __table_args__ = (
        PrimaryKeyConstraint("id", name="pk_rlhf_models"),
        UniqueConstraint("version", name="uq_rlhf_models_version"),
        UniqueConstraint("sha256", name="uq_rlhf_models_sha256"),
        CheckConstraint("state IN ('candidate', 'live', 'retired', 'rejected')", name="ck_rlhf_models_state"),
        Index(
            "uq_rlhf_models_live",
            "state",
            unique=True,
            sqlite_where=text("state = 'live'"),
            postgresql_where=text("state = 'live'"),
        ),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int]
    version: Mapped[str]
    sha256: Mapped[str]
    state: Mapped[str]
    reason: Mapped[str]
    recipe: Mapped[str]
    encoder: Mapped[str]
    run_id: Mapped[str | None]
    frozen_share: Mapped[float | None]
    judgement: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    metrics: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    made_at: Mapped[datetime] = mapped_column(server_default=Now())
    changed_at: Mapped[datetime] = mapped_column(server_default=Now())
    live_from: Mapped[datetime | None]
    live_until: Mapped[datetime | None]


class ServedQuestion(Base):
    """A question that was answered. `candidate_group` is that of its interactions.

    `policy` is what ordered the answers (live, incoming, a model's version, or interleaved), chosen with the
    probability `propensity`. `experiment` names what the live order was compared with then: the other order, with
    " interleaved" behind it where both were shown in turn. `first_id` is the external id of the answer that came first,
    None where nothing was found. `teams` has for interleaved answers, by external id, the ranking that put each one
    there. `degraded` has what did not work and `timings` milliseconds by stage.
    """

    __tablename__ = "rlhf_served_questions"
    __table_args__ = (
        PrimaryKeyConstraint("candidate_group", name="pk_rlhf_served_questions"),
        CheckConstraint("propensity > 0 AND propensity <= 1", name="ck_rlhf_served_questions_propensity"),
        Index("ix_rlhf_served_questions_served_at", "served_at"),
        Index("ix_rlhf_served_questions_first_id", "first_id"),
        Index(
            "ix_rlhf_served_questions_experiment",
            "experiment",
            "served_at",
            sqlite_where=text("experiment IS NOT NULL"),
            postgresql_where=text("experiment IS NOT NULL"),
        ),
    )

    candidate_group: Mapped[str]
    served_at: Mapped[datetime]
    policy: Mapped[str]
    propensity: Mapped[float] = mapped_column(server_default=text("1.0"))
    experiment: Mapped[str | None]
    model_version: Mapped[str | None]
    first_id: Mapped[str | None]
    teams: Mapped[dict[str, str] | None] = mapped_column(JSON(none_as_null=True))
    degraded: Mapped[dict[str, str] | None] = mapped_column(JSON(none_as_null=True))
    timings: Mapped[dict[str, float] | None] = mapped_column(JSON(none_as_null=True))


class Alarm(Base):
    """A problem, from `raised_at` until `cleared_at`. Of one kind and subject at most one is open.

    `notified_at` is when the webhook took the news that it was raised, `cleared_notified_at` that it is over.
    Until `taken_until` a process is telling it.
    """

    __tablename__ = "rlhf_alarms"
    __table_args__ = (
        PrimaryKeyConstraint("id", name="pk_rlhf_alarms"),
        Index(
            "uq_rlhf_alarms_open",
            "kind",
            "subject",
            unique=True,
            sqlite_where=text("cleared_at IS NULL"),
            postgresql_where=text("cleared_at IS NULL"),
        ),
        Index("ix_rlhf_alarms_raised_at", "raised_at"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int]
    kind: Mapped[str]
    subject: Mapped[str] = mapped_column(server_default=text("''"))
    message: Mapped[str]
    detail: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    raised_at: Mapped[datetime] = mapped_column(server_default=Now())
    seen_at: Mapped[datetime] = mapped_column(server_default=Now())
    cleared_at: Mapped[datetime | None]
    notified_at: Mapped[datetime | None]
    cleared_notified_at: Mapped[datetime | None]
    taken_until: Mapped[datetime | None]
