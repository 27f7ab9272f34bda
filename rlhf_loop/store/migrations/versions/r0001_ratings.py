"""The ratings, their reviews, the training log, and the triggers that keep the consensus."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa
from alembic import op

from rlhf_loop.errors import DatabaseError
from rlhf_loop.store.migrations.ddl import (
    ANSWER,
    create_index,
    create_table,
    documents,
    doubles,
    integers,
    on_sqlite,
    text,
    texts,
    times,
)

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

HAND_MADE = ("id", "user_prompt", "ai_response", "rating", "feedback_comment")


def upgrade() -> None:
    """Create everything; a hand-made `rlhf_interactions` keeps its rows."""
    if sa.inspect(op.get_bind()).has_table("rlhf_interactions"):
        _adopt()
    else:
        _create_interactions("rlhf_interactions")
    create_index("rlhf_interactions", "candidate_group", ["candidate_group"])
    create_index("rlhf_interactions", "rated", ["rating"], where="rating IS NOT NULL")
    _create_reviews()
    _create_training()
    for statement in SQLITE_TRIGGERS if on_sqlite() else POSTGRESQL_TRIGGERS:
        op.get_bind().exec_driver_sql(statement)
    # The ratings that were adopted become reviews like any others.
    op.execute(
        "INSERT INTO rlhf_reviews (interaction_id, reviewer, rating, comment) "
        "SELECT id, 'anonymous', rating, feedback_comment FROM rlhf_interactions WHERE rating IS NOT NULL ORDER BY id"
    )


def _create_interactions(name: str) -> None:
    identity = "(lower(hex(randomblob(16))))" if on_sqlite() else "replace(gen_random_uuid()\\:\\:text, '-', '')"
    op.create_table(
        name,
        sa.Column("id", sa.Integer(), nullable=False),
        *texts("user_prompt", "ai_response"),
        *integers("rating", null=True),
        *texts("feedback_comment", "corrected_response", "source", "candidate_group", null=True),
        *integers("shown_rank", null=True),
        *doubles("score", null=True),
        *texts("model_version", null=True),
        sa.Column("external_id", sa.Text(), nullable=False, server_default=sa.text(identity)),
        *times("created_at", now=True),
        *times("rated_at", null=True),
        sa.Column("review_changes", sa.Integer(), nullable=False, server_default=sa.text("0")),
        # Named after the table that it will be, also where it is made under another name.
        sa.PrimaryKeyConstraint("id", name="pk_rlhf_interactions"),
        sa.UniqueConstraint("external_id", name="uq_rlhf_interactions_external_id"),
        sa.CheckConstraint("trim(user_prompt) <> ''", name="ck_rlhf_interactions_user_prompt_not_empty"),
        sa.CheckConstraint("trim(ai_response) <> ''", name="ck_rlhf_interactions_ai_response_not_empty"),
        sa.CheckConstraint("rating IN (1, 2, 3, 4, 5)", name="ck_rlhf_interactions_rating_1_to_5"),
        sa.CheckConstraint("shown_rank >= 1", name="ck_rlhf_interactions_shown_rank_from_1"),
        sa.CheckConstraint("score >= 0 AND score <= 1", name="ck_rlhf_interactions_score_0_to_1"),
        sqlite_autoincrement=True,
    )


def _create_reviews() -> None:
    create_table(
        "rlhf_reviews",
        integers("interaction_id"),
        text("reviewer", "anonymous"),
        integers("rating"),
        texts("comment", "correction", null=True),
        times("reviewed_at", now=True),
        checks={"reviewer_not_empty": "trim(reviewer) <> ''", "rating_1_to_5": "rating IN (1, 2, 3, 4, 5)"},
        parents={"interaction_id": ANSWER},
        uniques={"interaction_id_reviewer": ["interaction_id", "reviewer"]},
    )


def _create_training() -> None:
    measures = ("accuracy", "auc", "cv_accuracy", "cv_auc", "precision_at_1", "ndcg", "mrr", "incoming_precision_at_1")
    create_table(
        "rlhf_reward_model_training",
        texts("run_id"),
        times("started_at"),
        times("finished_at", null=True),
        texts("status"),
        texts("recipe", "encoder", null=True),
        integers("n_rated", "n_questions", "n_positive", "n_train", "n_test", "split_seed", null=True),
        doubles(*measures, null=True),
        documents("metrics"),
        texts("data_fingerprint", null=True),
        documents("library_versions"),
        texts("model_file", "model_sha256", "error", null=True),
        checks={"status": "status IN ('running', 'succeeded', 'rejected', 'failed')"},
        uniques={"run_id": ["run_id"]},
    )
    create_index("rlhf_reward_model_training", "started_at", ["started_at"])


# --- A table that was there before -----------------------------------------------------------------------------------


def _adopt() -> None:
    _check_columns()
    _check_rows()
    columns = sorted(_columns())
    values = ["CAST(rating AS INTEGER)" if column == "rating" else column for column in columns]
    _create_interactions("rlhf_interactions_new")
    op.execute(
        f"INSERT INTO rlhf_interactions_new ({', '.join(columns)}) SELECT {', '.join(values)} FROM rlhf_interactions"
    )
    op.drop_table("rlhf_interactions")
    if on_sqlite():
        # Views that read the table would be checked while it has the other name, and fail.
        op.execute("PRAGMA legacy_alter_table = ON")
        op.rename_table("rlhf_interactions_new", "rlhf_interactions")
        op.execute("PRAGMA legacy_alter_table = OFF")
        return
    op.rename_table("rlhf_interactions_new", "rlhf_interactions")
    op.execute("ALTER SEQUENCE rlhf_interactions_new_id_seq RENAME TO rlhf_interactions_id_seq")
    op.execute("SELECT setval('rlhf_interactions_id_seq', coalesce(max(id), 0) + 1, false) FROM rlhf_interactions")


def _columns() -> set[str]:
    return {column["name"] for column in sa.inspect(op.get_bind()).get_columns("rlhf_interactions")}


def _check_columns() -> None:
    found = _columns()
    missing = {"id", "user_prompt", "ai_response", "rating"} - found
    unknown = found - set(HAND_MADE)
    if missing or unknown:
        raise DatabaseError(
            f"The database holds a table rlhf_interactions that was not made by rlhf-loop, with the columns "
            f"{', '.join(sorted(found))}. One with {', '.join(HAND_MADE)} could be adopted; "
            "rename this one and import its rows from a file."
        )


def _check_rows() -> None:
    _refuse("a rating that is not 1-5", "rating IS NOT NULL AND CAST(rating AS REAL) NOT IN (1, 2, 3, 4, 5)")
    for column in ("user_prompt", "ai_response"):
        _refuse(f"an empty {column}", f"{column} IS NULL OR trim(CAST({column} AS TEXT)) = ''")


def _refuse(what: str, condition: str) -> None:
    rows = op.get_bind().execute(sa.text(f"SELECT id FROM rlhf_interactions WHERE {condition} ORDER BY id"))
    ids = [str(row.id) for row in rows]
    if ids:
        shown = ", ".join(ids[:20]) + (f" and {len(ids) - 20} more" if len(ids) > 20 else "")
        raise DatabaseError(
            f"The table rlhf_interactions holds {what} in {len(ids)} row(s), id {shown}. "
            "Nothing was changed: correct or delete these rows, then run rlhf-loop init again."
        )


# --- The consensus ---------------------------------------------------------------------------------------------------
#
# A write to rlhf_reviews sums up the interaction's reviews again ("refresh"): the lower median of the ratings, the
# newest time, the newest comment and the newest correction. A comment that came before any review stays until a review
# brings one.
#
# A write to rlhf_interactions itself, by anybody else, becomes the review of 'anonymous'; that then refreshes. The two
# are told apart by review_changes, which a refresh increments and nobody else touches. (PostgreSQL could ask
# pg_trigger_depth(), but that counts the triggers of others too; SQLite has nothing of the kind.)
#
# The SQLite triggers update and then insert, where PostgreSQL's have ON CONFLICT: an INSERT OR IGNORE by the caller
# would override the conflict clauses inside the triggers.

SQLITE_NOW = "strftime('%Y-%m-%d %H:%M:%f000', 'now')"


def _sqlite_refresh(row: str, *, kept_comment: str, kept_correction: str) -> str:
    """Sum up the reviews of `row`.interaction_id; `kept_...` stands where no review has such a text."""
    of_it = f"FROM rlhf_reviews WHERE interaction_id = {row}.interaction_id"
    newest = "ORDER BY reviewed_at DESC, id DESC LIMIT 1"
    return f"""
        UPDATE rlhf_interactions SET
            rating = (SELECT rating {of_it} ORDER BY rating LIMIT 1 OFFSET (SELECT (count(*) - 1) / 2 {of_it})),
            rated_at = (SELECT max(reviewed_at) {of_it}),
            feedback_comment = coalesce(
                (SELECT comment {of_it} AND comment IS NOT NULL {newest}), {kept_comment}),
            corrected_response = coalesce(
                (SELECT correction {of_it} AND correction IS NOT NULL {newest}), {kept_correction}),
            review_changes = review_changes + 1
        WHERE id = {row}.interaction_id;
    """


_KEEP = {"kept_comment": "feedback_comment", "kept_correction": "corrected_response"}
_KEEP_UNLESS_THE_REVIEWS = {
    "kept_comment": "CASE WHEN OLD.comment IS NULL THEN feedback_comment END",
    "kept_correction": "CASE WHEN OLD.correction IS NULL THEN corrected_response END",
}


def sqlite_review_triggers(refresh: Callable[..., str]) -> tuple[str, ...]:
    """Return the triggers on reviews; `refresh` sums up those of an interaction."""
    return (
        f"""
        CREATE TRIGGER rlhf_reviews_inserted AFTER INSERT ON rlhf_reviews BEGIN
            {refresh("NEW", **_KEEP)}
        END
        """,
        f"""
        CREATE TRIGGER rlhf_reviews_updated AFTER UPDATE ON rlhf_reviews BEGIN
            {refresh("NEW", **_KEEP_UNLESS_THE_REVIEWS)}
        END
        """,
        f"""
        CREATE TRIGGER rlhf_reviews_moved AFTER UPDATE OF interaction_id ON rlhf_reviews
        WHEN NEW.interaction_id <> OLD.interaction_id BEGIN
            {refresh("OLD", **_KEEP_UNLESS_THE_REVIEWS)}
        END
        """,
        f"""
        CREATE TRIGGER rlhf_reviews_deleted AFTER DELETE ON rlhf_reviews BEGIN
            {refresh("OLD", **_KEEP_UNLESS_THE_REVIEWS)}
        END
        """,
    )


def sqlite_rated_trigger(ratings: str) -> str:
    """Return the trigger on a rating that somebody else writes; `ratings` sets what the reviews come to."""
    return f"""
    CREATE TRIGGER rlhf_interactions_rated AFTER UPDATE OF rating ON rlhf_interactions
    WHEN NEW.review_changes = OLD.review_changes BEGIN
        DELETE FROM rlhf_reviews
        WHERE interaction_id = NEW.id AND reviewer = 'anonymous' AND NEW.rating IS NULL;
        UPDATE rlhf_reviews SET
            rating = NEW.rating,
            reviewed_at = CASE WHEN NEW.rated_at <> OLD.rated_at THEN NEW.rated_at ELSE {SQLITE_NOW} END
        WHERE interaction_id = NEW.id AND reviewer = 'anonymous' AND NEW.rating IS NOT NULL;
        INSERT INTO rlhf_reviews (interaction_id, reviewer, rating, comment, correction, reviewed_at)
        SELECT NEW.id, 'anonymous', NEW.rating,
            CASE WHEN NEW.feedback_comment IS NOT OLD.feedback_comment THEN NEW.feedback_comment END,
            CASE WHEN NEW.corrected_response IS NOT OLD.corrected_response THEN NEW.corrected_response END,
            CASE WHEN NEW.rated_at IS NOT OLD.rated_at AND NEW.rated_at IS NOT NULL
                THEN NEW.rated_at ELSE {SQLITE_NOW} END
        WHERE NEW.rating IS NOT NULL AND NOT EXISTS (
            SELECT 1 FROM rlhf_reviews WHERE interaction_id = NEW.id AND reviewer = 'anonymous');
        UPDATE rlhf_interactions SET {ratings}
        WHERE id = NEW.id;
    END
    """


_RATINGS = """
            rating = (SELECT rating FROM rlhf_reviews WHERE interaction_id = NEW.id ORDER BY rating LIMIT 1
                      OFFSET (SELECT (count(*) - 1) / 2 FROM rlhf_reviews WHERE interaction_id = NEW.id)),
            rated_at = (SELECT max(reviewed_at) FROM rlhf_reviews WHERE interaction_id = NEW.id),
            review_changes = review_changes + 1"""

SQLITE_TRIGGERS = (
    *sqlite_review_triggers(_sqlite_refresh),
    f"""
    CREATE TRIGGER rlhf_interactions_inserted AFTER INSERT ON rlhf_interactions WHEN NEW.rating IS NOT NULL BEGIN
        INSERT INTO rlhf_reviews (interaction_id, reviewer, rating, comment, correction, reviewed_at)
        VALUES (NEW.id, 'anonymous', NEW.rating, NEW.feedback_comment, NEW.corrected_response,
                coalesce(NEW.rated_at, {SQLITE_NOW}));
    END
    """,
    sqlite_rated_trigger(_RATINGS),
    f"""
    CREATE TRIGGER rlhf_interactions_commented AFTER UPDATE OF feedback_comment, corrected_response ON rlhf_interactions
    WHEN NEW.review_changes = OLD.review_changes BEGIN
        UPDATE rlhf_reviews SET
            comment = CASE WHEN NEW.feedback_comment IS NOT OLD.feedback_comment
                THEN NEW.feedback_comment ELSE comment END,
            correction = CASE WHEN NEW.corrected_response IS NOT OLD.corrected_response
                THEN NEW.corrected_response ELSE correction END,
            reviewed_at = max(reviewed_at, {SQLITE_NOW})
        WHERE interaction_id = NEW.id AND reviewer = 'anonymous' AND (
            NEW.feedback_comment IS NOT OLD.feedback_comment OR NEW.corrected_response IS NOT OLD.corrected_response);
    END
    """,
)

POSTGRESQL_TRIGGERS = (
    # The lock makes concurrent reviews of one interaction queue up; each then sees the ones before it. It is the
    # weaker FOR NO KEY UPDATE because the foreign key's check holds FOR KEY SHARE, and two reviews that hold that
    # and wait for FOR UPDATE would be a deadlock.
    """
    CREATE FUNCTION rlhf_refresh_interaction(target integer, keep_comment boolean, keep_correction boolean)
    RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM 1 FROM rlhf_interactions WHERE id = target FOR NO KEY UPDATE;
        UPDATE rlhf_interactions SET
            rating = summary.rating,
            rated_at = summary.reviewed_at,
            feedback_comment =
                coalesce(summary.comment, CASE WHEN keep_comment THEN feedback_comment END),
            corrected_response =
                coalesce(summary.correction, CASE WHEN keep_correction THEN corrected_response END),
            review_changes = review_changes + 1
        FROM (
            SELECT
                percentile_disc(0.5) WITHIN GROUP (ORDER BY r.rating) AS rating,
                max(r.reviewed_at) AS reviewed_at,
                (array_agg(r.comment ORDER BY r.reviewed_at DESC, r.id DESC)
                    FILTER (WHERE r.comment IS NOT NULL))[1] AS comment,
                (array_agg(r.correction ORDER BY r.reviewed_at DESC, r.id DESC)
                    FILTER (WHERE r.correction IS NOT NULL))[1] AS correction
            FROM rlhf_reviews r WHERE r.interaction_id = target
        ) AS summary
        WHERE id = target;
    END $$
    """,
    """
    CREATE FUNCTION rlhf_review_changed() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP = 'INSERT' THEN
            PERFORM rlhf_refresh_interaction(NEW.interaction_id, true, true);
            RETURN NULL;
        END IF;
        PERFORM rlhf_refresh_interaction(OLD.interaction_id, OLD.comment IS NULL, OLD.correction IS NULL);
        IF TG_OP = 'UPDATE' AND NEW.interaction_id <> OLD.interaction_id THEN
            PERFORM rlhf_refresh_interaction(NEW.interaction_id, true, true);
        END IF;
        RETURN NULL;
    END $$
    """,
    """
    CREATE TRIGGER rlhf_reviews_changed AFTER INSERT OR UPDATE OR DELETE ON rlhf_reviews
    FOR EACH ROW EXECUTE FUNCTION rlhf_review_changed()
    """,
    """
    CREATE FUNCTION rlhf_interaction_inserted() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO rlhf_reviews (interaction_id, reviewer, rating, comment, correction, reviewed_at)
        VALUES (NEW.id, 'anonymous', NEW.rating, NEW.feedback_comment, NEW.corrected_response,
                coalesce(NEW.rated_at, clock_timestamp()));
        RETURN NULL;
    END $$
    """,
    """
    CREATE TRIGGER rlhf_interactions_inserted AFTER INSERT ON rlhf_interactions
    FOR EACH ROW WHEN (NEW.rating IS NOT NULL) EXECUTE FUNCTION rlhf_interaction_inserted()
    """,
    """
    CREATE FUNCTION rlhf_interaction_rated() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        moment timestamptz := CASE
            WHEN NEW.rated_at IS DISTINCT FROM OLD.rated_at AND NEW.rated_at IS NOT NULL
            THEN NEW.rated_at ELSE clock_timestamp() END;
    BEGIN
        IF NEW.rating IS NULL THEN
            DELETE FROM rlhf_reviews WHERE interaction_id = NEW.id AND reviewer = 'anonymous';
        ELSE
            INSERT INTO rlhf_reviews AS r (interaction_id, reviewer, rating, comment, correction, reviewed_at)
            VALUES (NEW.id, 'anonymous', NEW.rating,
                CASE WHEN NEW.feedback_comment IS DISTINCT FROM OLD.feedback_comment THEN NEW.feedback_comment END,
                CASE WHEN NEW.corrected_response IS DISTINCT FROM OLD.corrected_response
                    THEN NEW.corrected_response END,
                moment)
            ON CONFLICT (interaction_id, reviewer) DO UPDATE SET rating = NEW.rating, reviewed_at = moment;
        END IF;
        PERFORM rlhf_refresh_interaction(NEW.id, true, true);
        RETURN NULL;
    END $$
    """,
    """
    CREATE TRIGGER rlhf_interactions_rated AFTER UPDATE OF rating ON rlhf_interactions
    FOR EACH ROW WHEN (NEW.review_changes = OLD.review_changes) EXECUTE FUNCTION rlhf_interaction_rated()
    """,
    """
    CREATE FUNCTION rlhf_interaction_commented() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        UPDATE rlhf_reviews SET
            comment = CASE WHEN NEW.feedback_comment IS DISTINCT FROM OLD.feedback_comment
                THEN NEW.feedback_comment ELSE comment END,
            correction = CASE WHEN NEW.corrected_response IS DISTINCT FROM OLD.corrected_response
                THEN NEW.corrected_response ELSE correction END,
            reviewed_at = greatest(reviewed_at, clock_timestamp())
        WHERE interaction_id = NEW.id AND reviewer = 'anonymous' AND (
            NEW.feedback_comment IS DISTINCT FROM OLD.feedback_comment
            OR NEW.corrected_response IS DISTINCT FROM OLD.corrected_response);
        RETURN NULL;
    END $$
    """,
    """
    CREATE TRIGGER rlhf_interactions_commented AFTER UPDATE OF feedback_comment, corrected_response ON rlhf_interactions
    FOR EACH ROW WHEN (NEW.review_changes = OLD.review_changes) EXECUTE FUNCTION rlhf_interaction_commented()
    """,
)
