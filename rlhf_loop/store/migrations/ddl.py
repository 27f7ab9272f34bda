"""Data definition for the migrations: columns, constraints and indexes under the names that they have by convention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

ANSWER, USER = "rlhf_interactions.id", "rlhf_users.id"


def on_sqlite() -> bool:
    """Tell whether the migration runs on SQLite; else it is PostgreSQL."""
    return op.get_bind().dialect.name == "sqlite"


def create_table(
    name: str,
    *columns: sa.Column[Any] | Sequence[sa.Column[Any]],
    key: Sequence[str] = ("id",),
    checks: Mapping[str, str] | None = None,
    parents: Mapping[str, str] | None = None,
    uniques: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Create a table; where the key is the default, a numbered column `id` comes first.

    `checks` are conditions and `uniques` columns by the last part of the constraint's name; `parents` are the columns
    that a row belongs to by column: it is deleted with them.
    """
    numbered = tuple(key) == ("id",)
    first = [sa.Column("id", sa.Integer(), nullable=False)] if numbered else []
    rest = [column for each in columns for column in ([each] if isinstance(each, sa.Column) else each)]
    op.create_table(
        name,
        *first,
        *rest,
        sa.PrimaryKeyConstraint(*key, name=f"pk_{name}"),
        *(sa.CheckConstraint(condition, name=f"ck_{name}_{of}") for of, condition in (checks or {}).items()),
        *(
            sa.ForeignKeyConstraint([column], [parent], name=f"fk_{name}_{column}", ondelete="CASCADE")
            for column, parent in (parents or {}).items()
        ),
        *(sa.UniqueConstraint(*of, name=f"uq_{name}_{suffix}") for suffix, of in (uniques or {}).items()),
        sqlite_autoincrement=numbered,
    )


def create_index(table: str, suffix: str, columns: Sequence[Any], *, where: str = "", unique: bool = False) -> None:
    """Create an index, of the rows that meet the condition `where`."""
    some = sa.text(where) if where else None
    name = f"{'uq' if unique else 'ix'}_{table}_{suffix}"
    op.create_index(name, table, list(columns), unique=unique, sqlite_where=some, postgresql_where=some)


def text(name: str, default: str) -> sa.Column[Any]:
    """Return a column of text that has a default."""
    return sa.Column(name, sa.Text(), nullable=False, server_default=sa.text(f"'{default}'"))


def texts(*names: str, null: bool = False) -> list[sa.Column[Any]]:
    """Return columns of text."""
    return [sa.Column(name, sa.Text(), nullable=null) for name in names]


def integers(*names: str, null: bool = False) -> list[sa.Column[Any]]:
    """Return columns of integers, none of which numbers itself."""
    return [sa.Column(name, sa.Integer(), nullable=null, autoincrement=False) for name in names]


def doubles(*names: str, null: bool = False) -> list[sa.Column[Any]]:
    """Return columns of floating-point numbers."""
    return [sa.Column(name, sa.Double(), nullable=null) for name in names]


def documents(*names: str) -> list[sa.Column[Any]]:
    """Return columns of JSON, which may be NULL."""
    return [sa.Column(name, sa.JSON(), nullable=True) for name in names]


def times(*names: str, null: bool = False, now: bool = False) -> list[sa.Column[Any]]:
    """Return columns of UTC times, `now` by default if that is said."""
    default = sa.text("(strftime('%Y-%m-%d %H:%M:%f000', 'now'))" if on_sqlite() else "now()") if now else None
    kind = sa.Text() if on_sqlite() else sa.DateTime(timezone=True)
    return [sa.Column(name, kind, nullable=null, server_default=default) for name in names]
