"""Reviews have a role, answers say where they are from; preferences, corrections, and what the review screen keeps."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Tell experts from end users, and create the tables of the review screen."""
    _extend_interactions()
    _extend_reviews()
    _create_judgements()
    _create_screen()
    for statement in SQLITE_STATEMENTS if _on_sqlite() else POSTGRESQL_STATEMENTS:
        op.get_bind().exec_driver_sql(statement)
    # Until now whoever rated on the answers' own page was told apart by the name only. The triggers follow.
    op.execute("UPDATE rlhf_reviews SET role = 'end_user' WHERE reviewer LIKE 'visitor:%'")


def _on_sqlite() -> bool:
    return op.get_bind().dialect.name == "sqlite"


def _time(name: str, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, sa.Text() if _on_sqlite() else sa.DateTime(timezone=True), **options)


def _now() -> sa.TextClause:
    return sa.text("(strftime('%Y-%m-%d %H:%M:%f000', 'now'))" if _on_sqlite() else "now()")


def _extend_interactions() -> None:
    op.execute(
        "ALTER TABLE rlhf_interactions ADD COLUMN end_user_rating INTEGER "
        "CONSTRAINT ck_rlhf_interactions_end_user_rating_1_to_5 CHECK (end_user_rating IN (1, 2, 3, 4, 5))"
    )
    for name in ("title", "url", "licence"):
        op.add_column("rlhf_interactions", sa.Column(name, sa.Text()))
    op.add_column("rlhf_interactions", _time("retrieved_at"))
    _create_partial_index("ix_rlhf_interactions_waiting", "rlhf_interactions", "rating IS NULL")
    op.create_index(
        "ix_rlhf_interactions_texts",
        "rlhf_interactions",
        [sa.text("substr(user_prompt, 1, 64)"), sa.text("substr(ai_response, 1, 64)")],
    )


def _create_partial_index(name: str, table: str, where: str) -> None:
    op.create_index(name, table, ["id"], sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def _extend_reviews() -> None:
    op.execute(
        "ALTER TABLE rlhf_reviews ADD COLUMN role TEXT DEFAULT 'expert' NOT NULL "
        "CONSTRAINT ck_rlhf_reviews_role CHECK (role IN ('expert', 'end_user'))"
    )
    op.execute("ALTER TABLE rlhf_reviews ADD COLUMN harmful BOOLEAN DEFAULT false NOT NULL")
    op.create_index("ix_rlhf_reviews_reviewer", "rlhf_reviews", ["reviewer", "reviewed_at"])
    _create_partial_index("ix_rlhf_reviews_corrected", "rlhf_reviews", "correction IS NOT NULL")


def _create_judgements() -> None:
    op.create_table(
        "rlhf_preferences",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("first_id", sa.Integer(), nullable=False),
        sa.Column("second_id", sa.Integer(), nullable=False),
        sa.Column("reviewer", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False, server_default=sa.text("'expert'")),
        sa.Column("preferred", sa.Text(), nullable=False),
        sa.Column("comment", sa.Text()),
        _time("preferred_at", nullable=False, server_default=_now()),
        sa.PrimaryKeyConstraint("id", name="pk_rlhf_preferences"),
        sa.CheckConstraint("first_id < second_id", name="ck_rlhf_preferences_first_before_second"),
        sa.CheckConstraint("preferred IN ('first', 'second', 'tie')", name="ck_rlhf_preferences_preferred"),
        sa.CheckConstraint("role IN ('expert', 'end_user')", name="ck_rlhf_preferences_role"),
        sa.ForeignKeyConstraint(
            ["first_id"], ["rlhf_interactions.id"], name="fk_rlhf_preferences_first_id", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["second_id"], ["rlhf_interactions.id"], name="fk_rlhf_preferences_second_id", ondelete="CASCADE"
        ),
        sa.UniqueConstraint("first_id", "second_id", "reviewer", name="uq_rlhf_preferences_pair_reviewer"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_rlhf_preferences_second_id", "rlhf_preferences", ["second_id"])
    op.create_index("ix_rlhf_preferences_reviewer", "rlhf_preferences", ["reviewer", "preferred_at"])
    op.create_table(
        "rlhf_correction_decisions",
        sa.Column("review_id", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("correction", sa.Text(), nullable=False),
        sa.Column("approved", sa.Boolean(), nullable=False),
        sa.Column("decided_by", sa.Text(), nullable=False),
        _time("decided_at", nullable=False, server_default=_now()),
        sa.PrimaryKeyConstraint("review_id", name="pk_rlhf_correction_decisions"),
        sa.ForeignKeyConstraint(
            ["review_id"], ["rlhf_reviews.id"], name="fk_rlhf_correction_decisions_review_id", ondelete="CASCADE"
        ),
    )


def _create_screen() -> None:
    op.create_table(
        "rlhf_assignments",
        sa.Column("reviewer", sa.Text(), nullable=False),
        sa.Column("interaction_id", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False, server_default=sa.text("'open'")),
        sa.Column("why", sa.Text(), nullable=False, server_default=sa.text("'recent'")),
        _time("assigned_at", nullable=False),
        _time("leased_until", nullable=False),
        _time("handled_at"),
        sa.Column("earlier", sa.JSON()),
        sa.PrimaryKeyConstraint("reviewer", "interaction_id", name="pk_rlhf_assignments"),
        sa.CheckConstraint("state IN ('open', 'reviewed', 'skipped')", name="ck_rlhf_assignments_state"),
        sa.ForeignKeyConstraint(
            ["interaction_id"], ["rlhf_interactions.id"], name="fk_rlhf_assignments_interaction_id", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_rlhf_assignments_interaction_id", "rlhf_assignments", ["interaction_id"])
    op.create_index("ix_rlhf_assignments_reviewer_assigned_at", "rlhf_assignments", ["reviewer", "assigned_at"])
    op.create_table(
        "rlhf_pair_assignments",
        sa.Column("reviewer", sa.Text(), nullable=False),
        sa.Column("first_id", sa.Integer(), nullable=False),
        sa.Column("second_id", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False, server_default=sa.text("'open'")),
        _time("assigned_at", nullable=False),
        _time("leased_until", nullable=False),
        sa.PrimaryKeyConstraint("reviewer", "first_id", "second_id", name="pk_rlhf_pair_assignments"),
        sa.CheckConstraint("first_id < second_id", name="ck_rlhf_pair_assignments_first_before_second"),
        sa.CheckConstraint("state IN ('open', 'preferred', 'skipped')", name="ck_rlhf_pair_assignments_state"),
        sa.ForeignKeyConstraint(
            ["first_id"], ["rlhf_interactions.id"], name="fk_rlhf_pair_assignments_first_id", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["second_id"], ["rlhf_interactions.id"], name="fk_rlhf_pair_assignments_second_id", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_rlhf_pair_assignments_first_id", "rlhf_pair_assignments", ["first_id"])
    op.create_index("ix_rlhf_pair_assignments_second_id", "rlhf_pair_assignments", ["second_id"])
    op.create_table(
        "rlhf_drafts",
        sa.Column("reviewer", sa.Text(), nullable=False),
        sa.Column("interaction_id", sa.Integer(), nullable=False),
        sa.Column("rating", sa.Integer()),
        sa.Column("comment", sa.Text()),
        sa.Column("correction", sa.Text()),
        sa.Column("harmful", sa.Boolean(), nullable=False, server_default=sa.text("false")),
        _time("saved_at", nullable=False, server_default=_now()),
        sa.PrimaryKeyConstraint("reviewer", "interaction_id", name="pk_rlhf_drafts"),
        sa.CheckConstraint("rating IN (1, 2, 3, 4, 5)", name="ck_rlhf_drafts_rating_1_to_5"),
        sa.ForeignKeyConstraint(
            ["interaction_id"], ["rlhf_interactions.id"], name="fk_rlhf_drafts_interaction_id", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_rlhf_drafts_interaction_id", "rlhf_drafts", ["interaction_id"])
    op.create_table(
        "rlhf_answer_scores",
        sa.Column("interaction_id", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("model_version", sa.Text(), nullable=False),
        sa.Column("score", sa.Double(), nullable=False),
        sa.Column("margin", sa.Double()),
        _time("scored_at", nullable=False, server_default=_now()),
        sa.PrimaryKeyConstraint("interaction_id", name="pk_rlhf_answer_scores"),
        sa.CheckConstraint("score >= 0 AND score <= 1", name="ck_rlhf_answer_scores_score_0_to_1"),
        sa.ForeignKeyConstraint(
            ["interaction_id"],
            ["rlhf_interactions.id"],
            name="fk_rlhf_answer_scores_interaction_id",
            ondelete="CASCADE",
        ),
    )
    op.create_index("ix_rlhf_answer_scores_score", "rlhf_answer_scores", ["score"])
    op.create_index("ix_rlhf_answer_scores_margin", "rlhf_answer_scores", ["margin"])
    op.create_table(
        "rlhf_guidelines",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("introduction", sa.Text(), nullable=False),
        sa.Column("grade_1", sa.Text(), nullable=False),
        sa.Column("grade_2", sa.Text(), nullable=False),
        sa.Column("grade_3", sa.Text(), nullable=False),
        sa.Column("grade_4", sa.Text(), nullable=False),
        sa.Column("grade_5", sa.Text(), nullable=False),
        sa.Column("edited_by", sa.Text(), nullable=False),
        _time("edited_at", nullable=False, server_default=_now()),
        sa.PrimaryKeyConstraint("id", name="pk_rlhf_guidelines"),
        sqlite_autoincrement=True,
    )


# --- The consensus ---------------------------------------------------------------------------------------------------
#
# As before (see the first revision), but by role: `rating` and `rated_at` are the experts', `end_user_rating` is the
# end users'. Of comments and corrections an expert's newest comes before an end user's.

_KEEP = {"kept_comment": "feedback_comment", "kept_correction": "corrected_response"}
_KEEP_UNLESS_THE_REVIEWS = {
    "kept_comment": "CASE WHEN OLD.comment IS NULL THEN feedback_comment END",
    "kept_correction": "CASE WHEN OLD.correction IS NULL THEN corrected_response END",
}
_NOW = "strftime('%Y-%m-%d %H:%M:%f000', 'now')"


def _lower_median(id: str, role: str) -> str:
    of_it = f"FROM rlhf_reviews WHERE interaction_id = {id} AND role = '{role}'"
    return f"(SELECT rating {of_it} ORDER BY rating LIMIT 1 OFFSET (SELECT (count(*) - 1) / 2 {of_it}))"


def _ratings(id: str) -> str:
    return f"""
            rating = {_lower_median(id, "expert")},
            rated_at = (SELECT max(reviewed_at) FROM rlhf_reviews WHERE interaction_id = {id} AND role = 'expert'),
            end_user_rating = {_lower_median(id, "end_user")},
            review_changes = review_changes + 1"""


def _refresh(row: str, *, kept_comment: str, kept_correction: str) -> str:
    """Sum up the reviews of `row`.interaction_id; `kept_...` stands where no review has such a text."""
    of_it = f"FROM rlhf_reviews WHERE interaction_id = {row}.interaction_id"
    newest = "ORDER BY role = 'expert' DESC, reviewed_at DESC, id DESC LIMIT 1"
    return f"""
        UPDATE rlhf_interactions SET
            feedback_comment = coalesce(
                (SELECT comment {of_it} AND comment IS NOT NULL {newest}), {kept_comment}),
            corrected_response = coalesce(
                (SELECT correction {of_it} AND correction IS NOT NULL {newest}), {kept_correction}),
            {_ratings(f"{row}.interaction_id").strip()}
        WHERE id = {row}.interaction_id;
    """


SQLITE_STATEMENTS = (
    "DROP TRIGGER rlhf_reviews_inserted",
    "DROP TRIGGER rlhf_reviews_updated",
    "DROP TRIGGER rlhf_reviews_moved",
    "DROP TRIGGER rlhf_reviews_deleted",
    "DROP TRIGGER rlhf_interactions_rated",
    f"""
    CREATE TRIGGER rlhf_reviews_inserted AFTER INSERT ON rlhf_reviews BEGIN
        {_refresh("NEW", **_KEEP)}
    END
    """,
    f"""
    CREATE TRIGGER rlhf_reviews_updated AFTER UPDATE ON rlhf_reviews BEGIN
        {_refresh("NEW", **_KEEP_UNLESS_THE_REVIEWS)}
    END
    """,
    f"""
    CREATE TRIGGER rlhf_reviews_moved AFTER UPDATE OF interaction_id ON rlhf_reviews
    WHEN NEW.interaction_id <> OLD.interaction_id BEGIN
        {_refresh("OLD", **_KEEP_UNLESS_THE_REVIEWS)}
    END
    """,
    f"""
    CREATE TRIGGER rlhf_reviews_deleted AFTER DELETE ON rlhf_reviews BEGIN
        {_refresh("OLD", **_KEEP_UNLESS_THE_REVIEWS)}
    END
    """,
    f"""
    CREATE TRIGGER rlhf_interactions_rated AFTER UPDATE OF rating ON rlhf_interactions
    WHEN NEW.review_changes = OLD.review_changes BEGIN
        DELETE FROM rlhf_reviews
        WHERE interaction_id = NEW.id AND reviewer = 'anonymous' AND NEW.rating IS NULL;
        UPDATE rlhf_reviews SET
            rating = NEW.rating,
            reviewed_at = CASE WHEN NEW.rated_at <> OLD.rated_at THEN NEW.rated_at ELSE {_NOW} END
        WHERE interaction_id = NEW.id AND reviewer = 'anonymous' AND NEW.rating IS NOT NULL;
        INSERT INTO rlhf_reviews (interaction_id, reviewer, rating, comment, correction, reviewed_at)
        SELECT NEW.id, 'anonymous', NEW.rating,
            CASE WHEN NEW.feedback_comment IS NOT OLD.feedback_comment THEN NEW.feedback_comment END,
            CASE WHEN NEW.corrected_response IS NOT OLD.corrected_response THEN NEW.corrected_response END,
            CASE WHEN NEW.rated_at IS NOT OLD.rated_at AND NEW.rated_at IS NOT NULL THEN NEW.rated_at ELSE {_NOW} END
        WHERE NEW.rating IS NOT NULL AND NOT EXISTS (
            SELECT 1 FROM rlhf_reviews WHERE interaction_id = NEW.id AND reviewer = 'anonymous');
        UPDATE rlhf_interactions SET {_ratings("NEW.id")}
        WHERE id = NEW.id;
    END
    """,
)

POSTGRESQL_STATEMENTS = (
    """
    CREATE OR REPLACE FUNCTION rlhf_refresh_interaction(target integer, keep_comment boolean, keep_correction boolean)
    RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM 1 FROM rlhf_interactions WHERE id = target FOR NO KEY UPDATE;
        UPDATE rlhf_interactions SET
            rating = summary.rating,
            rated_at = summary.reviewed_at,
            end_user_rating = summary.end_user_rating,
            feedback_comment =
                coalesce(summary.comment, CASE WHEN keep_comment THEN feedback_comment END),
            corrected_response =
                coalesce(summary.correction, CASE WHEN keep_correction THEN corrected_response END),
            review_changes = review_changes + 1
        FROM (
            SELECT
                percentile_disc(0.5) WITHIN GROUP (ORDER BY r.rating) FILTER (WHERE r.role = 'expert') AS rating,
                max(r.reviewed_at) FILTER (WHERE r.role = 'expert') AS reviewed_at,
                percentile_disc(0.5) WITHIN GROUP (ORDER BY r.rating) FILTER (WHERE r.role = 'end_user')
                    AS end_user_rating,
                (array_agg(r.comment ORDER BY r.role = 'expert' DESC, r.reviewed_at DESC, r.id DESC)
                    FILTER (WHERE r.comment IS NOT NULL))[1] AS comment,
                (array_agg(r.correction ORDER BY r.role = 'expert' DESC, r.reviewed_at DESC, r.id DESC)
                    FILTER (WHERE r.correction IS NOT NULL))[1] AS correction
            FROM rlhf_reviews r WHERE r.interaction_id = target
        ) AS summary
        WHERE id = target;
    END $$
    """,
)
