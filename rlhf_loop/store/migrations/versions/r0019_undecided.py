"""Answers are found by their time, and corrections that wait for an admin without those that were decided."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from rlhf_loop.store.migrations.ddl import create_index, on_sqlite, texts

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the indices and the column, with triggers that keep it."""
    create_index("rlhf_interactions", "created_at", ["created_at", "id"])
    for column in texts("decided", null=True):
        op.add_column("rlhf_reviews", column)
    op.execute(
        "UPDATE rlhf_reviews SET decided = "
        "(SELECT correction FROM rlhf_correction_decisions WHERE review_id = rlhf_reviews.id) "
        "WHERE id IN (SELECT review_id FROM rlhf_correction_decisions)"
    )
    differ = "IS NOT" if on_sqlite() else "IS DISTINCT FROM"
    create_index("rlhf_reviews", "undecided", [sa.text("(id + 0)")], where=f"decided {differ} correction")
    create_index("rlhf_correction_decisions", "approved", ["approved", "review_id"])
    for statement in _SQLITE_TRIGGERS if on_sqlite() else _POSTGRESQL_TRIGGERS:
        op.execute(statement)


_SQLITE_TRIGGERS = tuple(
    f"""
    CREATE TRIGGER rlhf_correction_{done} AFTER {event} ON rlhf_correction_decisions BEGIN
        UPDATE rlhf_reviews SET decided = {value} WHERE id = {row}.review_id;
    END
    """
    for done, event, value, row in (
        ("decided", "INSERT", "NEW.correction", "NEW"),
        ("decided_anew", "UPDATE OF correction", "NEW.correction", "NEW"),
        ("undecided", "DELETE", "NULL", "OLD"),
    )
)

_POSTGRESQL_TRIGGERS = (
    """
    CREATE FUNCTION rlhf_correction_decided() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP = 'DELETE' THEN
            UPDATE rlhf_reviews SET decided = NULL WHERE id = OLD.review_id;
        ELSE
            UPDATE rlhf_reviews SET decided = NEW.correction WHERE id = NEW.review_id;
        END IF;
        RETURN NULL;
    END $$
    """,
    """
    CREATE TRIGGER rlhf_correction_decided AFTER INSERT OR DELETE OR UPDATE OF correction ON rlhf_correction_decisions
    FOR EACH ROW EXECUTE FUNCTION rlhf_correction_decided()
    """,
)
