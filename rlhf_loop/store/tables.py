"""The tables of the ratings database, the same on SQLite and PostgreSQL.

The consensus of several reviewers (`rlhf_interactions.rating`) is kept by triggers that the migrations create, so it is
right whoever writes, plain SQL included. `review_of` and `origin_of` read a review and an origin from a row.
"""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar

from sqlalchemy import (
    JSON,
    CheckConstraint,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Index,
    MetaData,
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

    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: UtcDateTime,
        str: Text,
        float: Double,
        **dict.fromkeys((dict[str, Any], dict[str, str], dict[str, float]), JSON(none_as_null=True)),
    }


Id = Annotated[int, mapped_column(primary_key=True)]
AnswerKey = Annotated[int, mapped_column(ForeignKey("rlhf_interactions.id", ondelete="CASCADE"))]
UserKey = Annotated[int, mapped_column(ForeignKey("rlhf_users.id", ondelete="CASCADE"))]
AUTOINCREMENT = {"sqlite_autoincrement": True}


def _partial_index(name: str, *columns: str, where: str, unique: bool = False) -> Index:
    return Index(name, *columns, unique=unique, sqlite_where=text(where), postgresql_where=text(where))


#: The reviewer when nobody is named, and when plain SQL writes a rating.
ANONYMOUS = "anonymous"


class Identity(Base):
    """The one row that tells the database and its copies from any other."""

    __tablename__ = "rlhf_database"
    __table_args__ = AUTOINCREMENT

    id: Mapped[Id]
    identity: Mapped[str]


class Interaction(Base):
    """An answer that was offered for a question.

    `rating` and `rated_at` sum up the reviews by experts, `end_user_rating` those by end users; `feedback_comment` and
    `corrected_response` are the newest of an expert, else of an end user. Triggers keep them.
    """

    __tablename__ = "rlhf_interactions"
    __table_args__ = (
        CheckConstraint("trim(user_prompt) <> ''", name="ck_rlhf_interactions_user_prompt_not_empty"),
        CheckConstraint("trim(ai_response) <> ''", name="ck_rlhf_interactions_ai_response_not_empty"),
        CheckConstraint("rating IN (1, 2, 3, 4, 5)", name="ck_rlhf_interactions_rating_1_to_5"),
        CheckConstraint("end_user_rating IN (1, 2, 3, 4, 5)", name="ck_rlhf_interactions_end_user_rating_1_to_5"),
        CheckConstraint("shown_rank >= 1", name="ck_rlhf_interactions_shown_rank_from_1"),
        CheckConstraint("score >= 0 AND score <= 1", name="ck_rlhf_interactions_score_0_to_1"),
        # With the id, as SQLite's indices have it anyway: questions are counted without reading the answers.
        Index("ix_rlhf_interactions_candidate_group", "candidate_group", postgresql_include=["id"]),
        _partial_index("ix_rlhf_interactions_rated", "rating", where="rating IS NOT NULL"),
        _partial_index("ix_rlhf_interactions_waiting", "id", where="rating IS NULL"),
        # To find the same answer to the same question again; whole texts are too long for an index.
        Index("ix_rlhf_interactions_created_at", "created_at", "id"),
        Index("ix_rlhf_interactions_texts", text("substr(user_prompt, 1, 64)"), text("substr(ai_response, 1, 64)")),
        AUTOINCREMENT,
    )

    id: Mapped[Id]
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
    external_id: Mapped[str] = mapped_column(server_default=NewIdentity(), unique=True)
    created_at: Mapped[datetime] = mapped_column(server_default=Now())
    rated_at: Mapped[datetime | None]
    #: How often the triggers summed up the reviews. They alone write it: by it they tell their own writes from others'.
    review_changes: Mapped[int] = mapped_column(server_default=text("0"))
    end_user_rating: Mapped[int | None]
    title: Mapped[str | None]
    url: Mapped[str | None]
    licence: Mapped[str | None]
    retrieved_at: Mapped[datetime | None]
    drafted_by: Mapped[str | None]
    import_id: Mapped[int | None]


class Review(Base):
    """One reviewer's word on one answer; `harmful` is the flag that an expert sets.

    `imported` is a digest of the same word in the last file without times, so that it is known again. `import_id` is
    the import that said it; triggers empty it when somebody says it anew. `decided` is the correction about which an
    admin has decided; triggers keep it.
    """

    __tablename__ = "rlhf_reviews"
    __table_args__ = (
        UniqueConstraint("interaction_key", "reviewer", name="uq_rlhf_reviews_interaction_id_reviewer"),
        CheckConstraint("trim(reviewer) <> ''", name="ck_rlhf_reviews_reviewer_not_empty"),
        CheckConstraint("rating IN (1, 2, 3, 4, 5)", name="ck_rlhf_reviews_rating_1_to_5"),
        CheckConstraint("role IN ('expert', 'end_user')", name="ck_rlhf_reviews_role"),
        Index("ix_rlhf_reviews_reviewer", "reviewer", "reviewed_at"),
        Index("ix_rlhf_reviews_reviewed_at", "reviewed_at"),
        _partial_index("ix_rlhf_reviews_corrected", "id", where="correction IS NOT NULL"),
        # By an expression that no other index has: PostgreSQL takes nearly all of them for undecided, and would read
        # the index of all corrections as well.
        Index(
            "ix_rlhf_reviews_undecided",
            text("(id + 0)"),
            sqlite_where=text("decided IS NOT correction"),
            postgresql_where=text("decided IS DISTINCT FROM correction"),
        ),
        Index("ix_rlhf_reviews_flagged", "id", sqlite_where=text("harmful = 1"), postgresql_where=text("harmful")),
        AUTOINCREMENT,
    )

    id: Mapped[Id]
    interaction_key: Mapped[AnswerKey] = mapped_column("interaction_id", key="interaction_key")
    reviewer: Mapped[str] = mapped_column(server_default=text(f"'{ANONYMOUS}'"))
    rating: Mapped[int]
    comment: Mapped[str | None]
    correction: Mapped[str | None]
    reviewed_at: Mapped[datetime] = mapped_column(server_default=Now())
    role: Mapped[str] = mapped_column(server_default=text("'expert'"))
    harmful: Mapped[bool] = mapped_column(server_default=text("false"))
    imported: Mapped[str | None]
    import_id: Mapped[int | None]
    decided: Mapped[str | None]


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
    """A reviewer's preference between two answers to one question. `first_id` is always the lower id.

    `imported` is the value of `preferred` in the last file without times, so that it is known again; `import_id` is as
    in a review.
    """

    __tablename__ = "rlhf_preferences"
    __table_args__ = (
        UniqueConstraint("first_id", "second_id", "reviewer", name="uq_rlhf_preferences_pair_reviewer"),
        CheckConstraint("first_id < second_id", name="ck_rlhf_preferences_first_before_second"),
        CheckConstraint("preferred IN ('first', 'second', 'tie')", name="ck_rlhf_preferences_preferred"),
        CheckConstraint("role IN ('expert', 'end_user')", name="ck_rlhf_preferences_role"),
        Index("ix_rlhf_preferences_reviewer", "reviewer", "preferred_at"),
        AUTOINCREMENT,
    )

    id: Mapped[Id]
    first_id: Mapped[AnswerKey]
    second_id: Mapped[AnswerKey] = mapped_column(index=True)
    reviewer: Mapped[str]
    role: Mapped[str] = mapped_column(server_default=text("'expert'"))
    preferred: Mapped[str]
    comment: Mapped[str | None]
    preferred_at: Mapped[datetime] = mapped_column(server_default=Now())
    imported: Mapped[str | None]
    import_id: Mapped[int | None]


class JudgeLabel(Base):
    """A judge's label on an answer: a soft rating from 1 to 5 by a model, that nothing counts as anybody's review.

    Each import has rows of its own, so that it can be taken back; of one judge's labels on an answer that of the latest
    import holds.
    """

    __tablename__ = "rlhf_judge_labels"
    __table_args__ = (
        UniqueConstraint(
            "interaction_key", "judge", "import_id", name="uq_rlhf_judge_labels_interaction_id_judge_import_id"
        ),
        CheckConstraint("trim(judge) <> ''", name="ck_rlhf_judge_labels_judge_not_empty"),
        CheckConstraint("label >= 1 AND label <= 5", name="ck_rlhf_judge_labels_label_1_to_5"),
        AUTOINCREMENT,
    )

    id: Mapped[Id]
    interaction_key: Mapped[AnswerKey] = mapped_column("interaction_id", key="interaction_key")
    judge: Mapped[str]
    label: Mapped[float]
    labelled_at: Mapped[datetime] = mapped_column(server_default=Now())
    import_id: Mapped[int] = mapped_column(index=True)


class Import(Base):
    """A ratings file that was imported.

    `added`, `updated` and `refused` are those of its report; `said` counts the reviews and preferences that it added.
    The rows that it added have its number in `import_id`, without a foreign key: that would be looked up for each.
    """

    __tablename__ = "rlhf_imports"
    __table_args__ = AUTOINCREMENT

    id: Mapped[Id]
    imported_at: Mapped[datetime] = mapped_column(server_default=Now())
    file: Mapped[str]
    actor: Mapped[str]
    format: Mapped[str]
    added: Mapped[int]
    updated: Mapped[int]
    refused: Mapped[int]
    said: Mapped[int]
    undone_at: Mapped[datetime | None]
    undone_by: Mapped[str | None]


class ImportChange(Base):
    """A row that an import changed, with its `former` values; `former_import_id` is the import that said those.

    By `kind` the row is a review, a preference, a review that was withdrawn, or the comment or correction that stands
    with an answer itself.
    """

    __tablename__ = "rlhf_import_changes"

    import_id: Mapped[int] = mapped_column(ForeignKey("rlhf_imports.id", ondelete="CASCADE"), primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    row_id: Mapped[int] = mapped_column(primary_key=True)
    interaction_key: Mapped[AnswerKey] = mapped_column("interaction_id", key="interaction_key", index=True)
    former_import_id: Mapped[int | None]
    former: Mapped[dict[str, Any] | None]


class CorrectionDecision(Base):
    """An admin's decision about the correction in a review; it holds for this `correction`, not for a later one.

    `edited` are the admin's own words that were approved in its place, `former` the decision before this one.
    """

    __tablename__ = "rlhf_correction_decisions"
    __table_args__ = (
        Index("ix_rlhf_correction_decisions_decided_by", "decided_by", "decided_at"),
        Index("ix_rlhf_correction_decisions_approved", "approved", "review_id"),
    )

    review_id: Mapped[int] = mapped_column(ForeignKey("rlhf_reviews.id", ondelete="CASCADE"), primary_key=True)
    correction: Mapped[str]
    approved: Mapped[bool]
    decided_by: Mapped[str]
    decided_at: Mapped[datetime] = mapped_column(server_default=Now())
    edited: Mapped[str | None]
    former: Mapped[dict[str, Any] | None]


class Assignment(Base):
    """An answer that a rater was given: open until `leased_until`, then reviewed or skipped. It is given only once.

    `why` is the reason of the queue. `handled_at` is when it was reviewed or skipped; `earlier` is the review that was
    replaced then, if there was one. `not_my_field` says that the rater skipped it as none of their field.
    """

    __tablename__ = "rlhf_assignments"
    __table_args__ = (
        CheckConstraint("state IN ('open', 'reviewed', 'skipped')", name="ck_rlhf_assignments_state"),
        Index("ix_rlhf_assignments_reviewer_assigned_at", "reviewer", "assigned_at"),
        Index(
            "ix_rlhf_assignments_not_my_field",
            "interaction_key",
            sqlite_where=text("not_my_field = 1"),
            postgresql_where=text("not_my_field"),
        ),
    )

    reviewer: Mapped[str] = mapped_column(primary_key=True)
    interaction_key: Mapped[AnswerKey] = mapped_column(
        "interaction_id", key="interaction_key", primary_key=True, index=True
    )
    state: Mapped[str] = mapped_column(server_default=text("'open'"))
    why: Mapped[str] = mapped_column(server_default=text("'recent'"))
    assigned_at: Mapped[datetime]
    leased_until: Mapped[datetime]
    handled_at: Mapped[datetime | None]
    earlier: Mapped[Any | None] = mapped_column(JSON(none_as_null=True))
    not_my_field: Mapped[bool] = mapped_column(server_default=text("false"))


class PairAssignment(Base):
    """Two answers to one question that a rater was given to compare. `first_id` is always the lower id."""

    __tablename__ = "rlhf_pair_assignments"
    __table_args__ = (
        CheckConstraint("first_id < second_id", name="ck_rlhf_pair_assignments_first_before_second"),
        CheckConstraint("state IN ('open', 'preferred', 'skipped')", name="ck_rlhf_pair_assignments_state"),
    )

    reviewer: Mapped[str] = mapped_column(primary_key=True)
    first_id: Mapped[AnswerKey] = mapped_column(primary_key=True, index=True)
    second_id: Mapped[AnswerKey] = mapped_column(primary_key=True, index=True)
    state: Mapped[str] = mapped_column(server_default=text("'open'"))
    assigned_at: Mapped[datetime]
    leased_until: Mapped[datetime]


class Draft(Base):
    """A review that a rater has typed and not yet submitted."""

    __tablename__ = "rlhf_drafts"
    __table_args__ = (CheckConstraint("rating IN (1, 2, 3, 4, 5)", name="ck_rlhf_drafts_rating_1_to_5"),)

    reviewer: Mapped[str] = mapped_column(primary_key=True)
    interaction_key: Mapped[AnswerKey] = mapped_column(
        "interaction_id", key="interaction_key", primary_key=True, index=True
    )
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
    __table_args__ = (CheckConstraint("score >= 0 AND score <= 1", name="ck_rlhf_answer_scores_score_0_to_1"),)

    interaction_key: Mapped[AnswerKey] = mapped_column("interaction_id", key="interaction_key", primary_key=True)
    model_version: Mapped[str]
    score: Mapped[float] = mapped_column(index=True)
    margin: Mapped[float | None] = mapped_column(index=True)
    scored_at: Mapped[datetime] = mapped_column(server_default=Now())


class Guideline(Base):
    """The guidelines for raters, one row a version; the newest is in force."""

    __tablename__ = "rlhf_guidelines"
    __table_args__ = AUTOINCREMENT

    id: Mapped[Id]
    introduction: Mapped[str]
    grade_1: Mapped[str]
    grade_2: Mapped[str]
    grade_3: Mapped[str]
    grade_4: Mapped[str]
    grade_5: Mapped[str]
    edited_by: Mapped[str]
    edited_at: Mapped[datetime] = mapped_column(server_default=Now())


class User(Base):
    """A person or an application. `name` is lower case; without `password_hash` nobody can sign in as them.

    `display_name` is what screens show instead, "Dr. Weber"; ratings and exports have `name`. `email`, in lower case,
    is where invitations go, and by what an identity provider's user is known who signs in for the first time.
    """

    __tablename__ = "rlhf_users"
    __table_args__ = (
        CheckConstraint("role IN ('rater', 'admin', 'service')", name="ck_rlhf_users_role"),
        Index("uq_rlhf_users_email", "email", unique=True),
        AUTOINCREMENT,
    )

    id: Mapped[Id]
    name: Mapped[str] = mapped_column(unique=True)
    role: Mapped[str]
    password_hash: Mapped[str | None]
    active: Mapped[bool] = mapped_column(server_default=text("true"))
    created_at: Mapped[datetime] = mapped_column(server_default=Now())
    signed_in_at: Mapped[datetime | None]
    display_name: Mapped[str | None]
    email: Mapped[str | None]


class ExternalIdentity(Base):
    """An account at an identity provider or a proxy, and whose it is."""

    __tablename__ = "rlhf_identities"

    issuer: Mapped[str] = mapped_column(primary_key=True)
    subject: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[UserKey] = mapped_column(index=True)
    created_at: Mapped[datetime] = mapped_column(server_default=Now())


class SecondFactor(Base):
    """An authenticator app of a user: `salt` and the secret key make what both know; `last_step` is the last code's."""

    __tablename__ = "rlhf_second_factors"

    user_id: Mapped[UserKey] = mapped_column(primary_key=True, autoincrement=False)
    salt: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=Now())
    confirmed_at: Mapped[datetime | None]
    last_step: Mapped[int]


class RecoveryCode(Base):
    """A code by which somebody signs in once without their app, by its hash; a used one is gone."""

    __tablename__ = "rlhf_recovery_codes"

    code_hash: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[UserKey] = mapped_column(index=True)


class Session(Base):
    """A browser in which somebody signed in, by the hash of what its cookie holds.

    `subject` is who they are at the provider or the proxy; `provider_tokens` are sealed by the secret key.
    """

    __tablename__ = "rlhf_sessions"

    token_hash: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[UserKey] = mapped_column(index=True)
    created_at: Mapped[datetime] = mapped_column(server_default=Now())
    seen_at: Mapped[datetime] = mapped_column(server_default=Now())
    expires_at: Mapped[datetime]
    method: Mapped[str] = mapped_column(server_default=text("'password'"))
    subject: Mapped[str | None]
    provider_session: Mapped[str | None]
    provider_tokens: Mapped[str | None]
    checked_at: Mapped[datetime | None]


class Token(Base):
    """A token of the API, by its hash; `start` is how it begins, so that people can tell tokens apart."""

    __tablename__ = "rlhf_tokens"
    __table_args__ = AUTOINCREMENT

    id: Mapped[Id]
    user_id: Mapped[UserKey] = mapped_column(index=True)
    name: Mapped[str]
    token_hash: Mapped[str] = mapped_column(unique=True)
    start: Mapped[str]
    scopes: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=Now())
    expires_at: Mapped[datetime | None]
    used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    #: The share of its rankings that is recorded; NULL for that of the settings.
    record: Mapped[float | None]


class OneTimeLink(Base):
    """A link by which somebody sets a password once; without `user_id` it makes the first admin."""

    __tablename__ = "rlhf_one_time_links"

    token_hash: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[UserKey | None]
    created_at: Mapped[datetime] = mapped_column(server_default=Now())
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]


class SignInFailure(Base):
    """A sign-in that failed, kept for as long as it counts."""

    __tablename__ = "rlhf_sign_in_failures"
    __table_args__ = AUTOINCREMENT

    id: Mapped[Id]
    name: Mapped[str]
    address: Mapped[str]
    failed_at: Mapped[datetime] = mapped_column(server_default=Now(), index=True)


class AuditEntry(Base):
    """One action of somebody; rows are only ever added."""

    __tablename__ = "rlhf_audit_log"
    __table_args__ = AUTOINCREMENT

    id: Mapped[Id]
    happened_at: Mapped[datetime] = mapped_column(server_default=Now(), index=True)
    actor: Mapped[str]
    action: Mapped[str]
    target: Mapped[str] = mapped_column(index=True)
    detail: Mapped[dict[str, Any] | None]


class AnsweredRequest(Base):
    """The answer to a request that came with an Idempotency-Key, by the key's owner."""

    __tablename__ = "rlhf_answered_requests"

    owner: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    request_hash: Mapped[str]
    status: Mapped[int]
    body: Mapped[str]
    location: Mapped[str | None]
    answered_at: Mapped[datetime] = mapped_column(server_default=Now(), index=True)


class TrainingRun(Base):
    """One run of the training, the failed ones too. What a failed run cannot know is NULL."""

    __tablename__ = "rlhf_reward_model_training"
    __table_args__ = (
        CheckConstraint(
            "status IN ('running', 'succeeded', 'rejected', 'failed')", name="ck_rlhf_reward_model_training_status"
        ),
        AUTOINCREMENT,
    )

    id: Mapped[Id]
    run_id: Mapped[str] = mapped_column(unique=True)
    started_at: Mapped[datetime] = mapped_column(index=True)
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
    metrics: Mapped[dict[str, Any] | None]
    data_fingerprint: Mapped[str | None]
    library_versions: Mapped[dict[str, str] | None]
    model_file: Mapped[str | None]
    model_sha256: Mapped[str | None]
    error: Mapped[str | None]
    said: Mapped[dict[str, Any] | None]


class ModelVersion(Base):
    """A trained model. At most one is live.

    `reason` says in words why it has its state. `judgement` is what the gate saw, `metrics` what the training measured.
    `live_from` and `live_until` are of the last time that it was live. `sha256` is that of its file, `weights_sha256`
    that of its tuned layers, if it has any. `said` is what `reason` is made of, for screens in other languages.
    """

    __tablename__ = "rlhf_models"
    __table_args__ = (
        CheckConstraint("state IN ('candidate', 'live', 'retired', 'rejected')", name="ck_rlhf_models_state"),
        _partial_index("uq_rlhf_models_live", "state", where="state = 'live'", unique=True),
        AUTOINCREMENT,
    )

    id: Mapped[Id]
    version: Mapped[str] = mapped_column(unique=True)
    sha256: Mapped[str] = mapped_column(unique=True)
    state: Mapped[str]
    reason: Mapped[str]
    recipe: Mapped[str]
    encoder: Mapped[str]
    run_id: Mapped[str | None]
    frozen_share: Mapped[float | None]
    judgement: Mapped[dict[str, Any] | None]
    metrics: Mapped[dict[str, Any] | None]
    made_at: Mapped[datetime] = mapped_column(server_default=Now())
    changed_at: Mapped[datetime] = mapped_column(server_default=Now())
    live_from: Mapped[datetime | None]
    live_until: Mapped[datetime | None]
    weights_sha256: Mapped[str | None]
    said: Mapped[dict[str, Any] | None]


class ServedQuestion(Base):
    """A question that was answered. `candidate_group` is that of its interactions.

    `policy` is what ordered the answers (live, incoming, prior, a model's version, or interleaved), chosen with the
    probability `propensity`. `experiment` names what the live order was compared with then: the other order, with
    " interleaved" behind it where both were shown in turn. `first_id` is the external id of the answer that came first,
    None where nothing was found. `teams` has for interleaved answers, by external id, the ranking that put each one
    there. `degraded` has what did not work and `timings` milliseconds by stage.

    A ranking that came by another door than `/data` has its name in `door` (an address, a function, an adapter), whose
    token it was in `caller`, and in `returned` how many of its documents went back. `emptied_at` is when it was found
    that none of its documents is left.
    """

    __tablename__ = "rlhf_served_questions"
    __table_args__ = (
        CheckConstraint("propensity > 0 AND propensity <= 1", name="ck_rlhf_served_questions_propensity"),
        _partial_index(
            "ix_rlhf_served_questions_experiment", "experiment", "served_at", where="experiment IS NOT NULL"
        ),
        # Those whose documents may have to be deleted: there are few of them beside those that ever were.
        _partial_index("ix_rlhf_served_questions_door", "served_at", where="door IS NOT NULL AND emptied_at IS NULL"),
    )

    candidate_group: Mapped[str] = mapped_column(primary_key=True)
    served_at: Mapped[datetime] = mapped_column(index=True)
    policy: Mapped[str]
    propensity: Mapped[float] = mapped_column(server_default=text("1.0"))
    experiment: Mapped[str | None]
    model_version: Mapped[str | None]
    first_id: Mapped[str | None] = mapped_column(index=True)
    teams: Mapped[dict[str, str] | None]
    degraded: Mapped[dict[str, str] | None]
    timings: Mapped[dict[str, float] | None]
    door: Mapped[str | None]
    caller: Mapped[str | None]
    returned: Mapped[int | None]
    emptied_at: Mapped[datetime | None]


class ServedDay(Base):
    """Sums over the questions that were served on a day (UTC), for the trends; made once the day is over.

    Of the `answers` that came first with a score, `score_sum` sums up the scores, and `below` counts those under
    `threshold`. `sources` has for each source of `/data` how many of its answers were offered, and how many came first.
    """

    __tablename__ = "rlhf_served_days"

    day: Mapped[str] = mapped_column(primary_key=True)
    threshold: Mapped[float]
    answers: Mapped[int]
    score_sum: Mapped[float]
    below: Mapped[int]
    sources: Mapped[dict[str, Any]]


class UsedPassage(Base):
    """A passage of a recorded ranking from which a language model made its final answer, which stands beside it.

    What is said of the answer is a weak sign for its passages. It trains nothing.
    """

    __tablename__ = "rlhf_used_passages"

    answer_id: Mapped[AnswerKey] = mapped_column(primary_key=True)
    passage_id: Mapped[AnswerKey] = mapped_column(primary_key=True, index=True)


class Alarm(Base):
    """A problem, from `raised_at` until `cleared_at`. Of one kind and subject at most one is open.

    `notified_at` is when the webhook took the news that it was raised, `cleared_notified_at` that it is over.
    Until `taken_until` a process is telling it. `said` is what `message` is made of, for screens in other languages.
    """

    __tablename__ = "rlhf_alarms"
    __table_args__ = (
        _partial_index("uq_rlhf_alarms_open", "kind", "subject", where="cleared_at IS NULL", unique=True),
        AUTOINCREMENT,
    )

    id: Mapped[Id]
    kind: Mapped[str]
    subject: Mapped[str] = mapped_column(server_default=text("''"))
    message: Mapped[str]
    detail: Mapped[dict[str, Any] | None]
    raised_at: Mapped[datetime] = mapped_column(server_default=Now(), index=True)
    seen_at: Mapped[datetime] = mapped_column(server_default=Now())
    cleared_at: Mapped[datetime | None]
    notified_at: Mapped[datetime | None]
    cleared_notified_at: Mapped[datetime | None]
    taken_until: Mapped[datetime | None]
    said: Mapped[dict[str, Any] | None]
