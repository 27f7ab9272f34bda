"""Reviews and preferences know what the last file without times said of them; noting it sums up no reviews."""

from __future__ import annotations

from alembic import op

from rlhf_loop.store.migrations.ddl import on_sqlite, texts
from rlhf_loop.store.migrations.versions.r0002_reviews import SQLITE_STATEMENTS

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

#: The columns of a review that the triggers read.
_SUMMED_UP = "interaction_id, rating, comment, correction, reviewed_at, role"


def upgrade() -> None:
    """Add the columns, which are empty until the next import, and leave them out of what the triggers wait for."""
    for table in ("rlhf_reviews", "rlhf_preferences"):
        for column in texts("imported", null=True):
            op.add_column(table, column)
    for statement in _sqlite_trigger() if on_sqlite() else _POSTGRESQL_TRIGGER:
        op.get_bind().exec_driver_sql(statement)


def _sqlite_trigger() -> tuple[str, ...]:
    [created] = [each for each in SQLITE_STATEMENTS if "CREATE TRIGGER rlhf_reviews_updated" in each]
    return ("DROP TRIGGER rlhf_reviews_updated", created.replace("AFTER UPDATE ON", f"AFTER UPDATE OF {_SUMMED_UP} ON"))


_POSTGRESQL_TRIGGER = (
    "DROP TRIGGER rlhf_reviews_changed ON rlhf_reviews",
    f"""
    CREATE TRIGGER rlhf_reviews_changed AFTER INSERT OR DELETE OR UPDATE OF {_SUMMED_UP} ON rlhf_reviews
    FOR EACH ROW EXECUTE FUNCTION rlhf_review_changed()
    """,
)
