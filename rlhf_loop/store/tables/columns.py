"""What all tables share: their base, points in time, and the defaults that the database itself fills in."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import DateTime, Dialect, Double, MetaData, Text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine

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

    metadata = MetaData()
    type_annotation_map: ClassVar[dict[Any, Any]] = {datetime: UtcDateTime, str: Text, float: Double}
