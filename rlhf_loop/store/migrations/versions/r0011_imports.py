"""Imports are remembered, with what each added and what its changes replaced, so that they can be taken back."""

from __future__ import annotations

from alembic import op

from rlhf_loop.store.migrations.ddl import (
    ANSWER,
    create_index,
    create_table,
    documents,
    integers,
    on_sqlite,
    texts,
    times,
)

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

#: What somebody says anew: then the row is no longer what an import said.
_SAID = {
    "rlhf_reviews": "rating, comment, correction, reviewed_at, role, harmful",
    "rlhf_preferences": "preferred, comment, preferred_at, role",
}


def upgrade() -> None:
    """Create the tables; no earlier import is in them."""
    create_table(
        "rlhf_imports",
        times("imported_at", now=True),
        texts("file", "actor", "format"),
        integers("added", "updated", "refused", "said"),
        times("undone_at", null=True),
        texts("undone_by", null=True),
    )
    create_table(
        "rlhf_import_changes",
        integers("import_id"),
        texts("kind"),
        integers("row_id", "interaction_id"),
        integers("former_import_id", null=True),
        documents("former"),
        key=["import_id", "kind", "row_id"],
        parents={"import_id": "rlhf_imports.id", "interaction_id": ANSWER},
    )
    create_index("rlhf_import_changes", "interaction_id", ["interaction_id"])
    for table in ("rlhf_interactions", "rlhf_reviews", "rlhf_preferences"):
        for column in integers("import_id", null=True):
            op.add_column(table, column)
    for statement in _SQLITE_TRIGGERS if on_sqlite() else _POSTGRESQL_TRIGGERS:
        op.get_bind().exec_driver_sql(statement)


_SQLITE_TRIGGERS = tuple(
    f"""
    CREATE TRIGGER {table}_said_anew AFTER UPDATE OF {columns} ON {table} WHEN NEW.import_id = OLD.import_id BEGIN
        UPDATE {table} SET import_id = NULL WHERE id = NEW.id;
    END
    """
    for table, columns in _SAID.items()
)

_POSTGRESQL_TRIGGERS = (
    """
    CREATE FUNCTION rlhf_said_anew() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        NEW.import_id := NULL;
        RETURN NEW;
    END $$
    """,
    *(
        f"""
        CREATE TRIGGER {table}_said_anew BEFORE UPDATE OF {columns} ON {table}
        FOR EACH ROW WHEN (NEW.import_id = OLD.import_id) EXECUTE FUNCTION rlhf_said_anew()
        """
        for table, columns in _SAID.items()
    ),
)
