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
    """Add the indices and the column, with triggers that keep it, and on SQLite the one form of times."""
    if on_sqlite():
        op.execute(f"UPDATE rlhf_interactions SET created_at = {_IN_OUR_FORM} WHERE {_IN_ANOTHER_FORM}")
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


# SQLite keeps times as texts, and finds and orders them as such. Plain SQL may write them in other forms.

_IN_OUR_FORM = "strftime('%Y-%m-%d %H:%M:%f000', created_at)"
_IN_ANOTHER_FORM = f"created_at NOT GLOB '????-??-?? ??:??:??.??????' AND {_IN_OUR_FORM} IS NOT NULL"
_SQLITE_TIMES = tuple(
    f"""
    CREATE TRIGGER rlhf_interaction_{done} AFTER {event} ON rlhf_interactions
    WHEN {_IN_ANOTHER_FORM.replace("created_at", "NEW.created_at")} BEGIN
        UPDATE rlhf_interactions SET created_at = {_IN_OUR_FORM} WHERE id = NEW.id;
    END
    """
    for done, event in (("timed", "INSERT"), ("timed_anew", "UPDATE OF created_at"))
)

_SQLITE_TRIGGERS = _SQLITE_TIMES + tuple(
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
