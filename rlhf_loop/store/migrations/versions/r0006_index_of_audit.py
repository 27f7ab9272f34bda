"""The audit log is found by what its entries are about, as another tool's annotations look themselves up in it."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the index."""
    op.create_index("ix_rlhf_audit_log_target", "rlhf_audit_log", ["target"])
