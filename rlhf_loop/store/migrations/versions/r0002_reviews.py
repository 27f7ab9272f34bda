"""Reviews have a role, answers say where they are from; preferences, corrections, and what the review screen keeps."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

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
from rlhf_loop.store.migrations.versions.r0001_ratings import sqlite_rated_trigger, sqlite_review_triggers

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
    for statement in SQLITE_STATEMENTS if on_sqlite() else POSTGRESQL_STATEMENTS:
        op.get_bind().exec_driver_sql(statement)
    # Until now whoever rated on the answers' own page was told apart by the name only. The triggers follow.
    op.execute("UPDATE rlhf_reviews SET role = 'end_user' WHERE reviewer LIKE 'visitor:%'")


def _extend_interactions() -> None:
    op.execute(
        "ALTER TABLE rlhf_interactions ADD COLUMN end_user_rating INTEGER "
        "CONSTRAINT ck_rlhf_interactions_end_user_rating_1_to_5 CHECK (end_user_rating IN (1, 2, 3, 4, 5))"
    )
    for column in (*texts("title", "url", "licence", null=True), *times("retrieved_at", null=True)):
        op.add_column("rlhf_interactions", column)
    create_index("rlhf_interactions", "waiting", ["id"], where="rating IS NULL")
    beginnings = [sa.text("substr(user_prompt, 1, 64)"), sa.text("substr(ai_response, 1, 64)")]
    create_index("rlhf_interactions", "texts", beginnings)


def _extend_reviews() -> None:
    op.execute(
        "ALTER TABLE rlhf_reviews ADD COLUMN role TEXT DEFAULT 'expert' NOT NULL "
        "CONSTRAINT ck_rlhf_reviews_role CHECK (role IN ('expert', 'end_user'))"
    )
    op.execute("ALTER TABLE rlhf_reviews ADD COLUMN harmful BOOLEAN DEFAULT false NOT NULL")
    create_index("rlhf_reviews", "reviewer", ["reviewer", "reviewed_at"])
    create_index("rlhf_reviews", "corrected", ["id"], where="correction IS NOT NULL")


def _create_judgements() -> None:
    create_table(
        "rlhf_preferences",
        integers("first_id", "second_id"),
        texts("reviewer"),
        text("role", "expert"),
        texts("preferred"),
        texts("comment", null=True),
        times("preferred_at", now=True),
        checks={
            "first_before_second": "first_id < second_id",
            "preferred": "preferred IN ('first', 'second', 'tie')",
            "role": "role IN ('expert', 'end_user')",
        },
        parents={"first_id": ANSWER, "second_id": ANSWER},
        uniques={"pair_reviewer": ["first_id", "second_id", "reviewer"]},
    )
    create_index("rlhf_preferences", "second_id", ["second_id"])
    create_index("rlhf_preferences", "reviewer", ["reviewer", "preferred_at"])
    create_table(
        "rlhf_correction_decisions",
        integers("review_id"),
        texts("correction"),
        sa.Column("approved", sa.Boolean(), nullable=False),
        texts("decided_by"),
        times("decided_at", now=True),
        key=["review_id"],
        parents={"review_id": "rlhf_reviews.id"},
    )


def _create_screen() -> None:
    create_table(
        "rlhf_assignments",
        texts("reviewer"),
        integers("interaction_id"),
        text("state", "open"),
        text("why", "recent"),
        times("assigned_at", "leased_until"),
        times("handled_at", null=True),
        documents("earlier"),
        key=["reviewer", "interaction_id"],
        checks={"state": "state IN ('open', 'reviewed', 'skipped')"},
        parents={"interaction_id": ANSWER},
    )
    create_index("rlhf_assignments", "interaction_id", ["interaction_id"])
    create_index("rlhf_assignments", "reviewer_assigned_at", ["reviewer", "assigned_at"])
    create_table(
        "rlhf_pair_assignments",
        texts("reviewer"),
        integers("first_id", "second_id"),
        text("state", "open"),
        times("assigned_at", "leased_until"),
        key=["reviewer", "first_id", "second_id"],
        checks={"first_before_second": "first_id < second_id", "state": "state IN ('open', 'preferred', 'skipped')"},
        parents={"first_id": ANSWER, "second_id": ANSWER},
    )
    create_index("rlhf_pair_assignments", "first_id", ["first_id"])
    create_index("rlhf_pair_assignments", "second_id", ["second_id"])
    create_table(
        "rlhf_drafts",
        texts("reviewer"),
        integers("interaction_id"),
        integers("rating", null=True),
        texts("comment", "correction", null=True),
        sa.Column("harmful", sa.Boolean(), nullable=False, server_default=sa.text("false")),
        times("saved_at", now=True),
        key=["reviewer", "interaction_id"],
        checks={"rating_1_to_5": "rating IN (1, 2, 3, 4, 5)"},
        parents={"interaction_id": ANSWER},
    )
    create_index("rlhf_drafts", "interaction_id", ["interaction_id"])
    create_table(
        "rlhf_answer_scores",
        integers("interaction_id"),
        texts("model_version"),
        doubles("score"),
        doubles("margin", null=True),
        times("scored_at", now=True),
        key=["interaction_id"],
        checks={"score_0_to_1": "score >= 0 AND score <= 1"},
        parents={"interaction_id": ANSWER},
    )
    create_index("rlhf_answer_scores", "score", ["score"])
    create_index("rlhf_answer_scores", "margin", ["margin"])
    create_table(
        "rlhf_guidelines",
        texts("introduction", "grade_1", "grade_2", "grade_3", "grade_4", "grade_5", "edited_by"),
        times("edited_at", now=True),
    )


# --- The consensus ---------------------------------------------------------------------------------------------------
#
# As before (see the first revision), but by role: `rating` and `rated_at` are the experts', `end_user_rating` is the
# end users'. Of comments and corrections an expert's newest comes before an end user's.


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
    *sqlite_review_triggers(_refresh),
    sqlite_rated_trigger(_ratings("NEW.id")),
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
