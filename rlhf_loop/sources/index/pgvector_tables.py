"""The tables of the vector database inside PostgreSQL: how they are made, and in which language their words are.

They are no part of the migrations. A server without pgvector must still keep ratings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    func,
    inspect,
    text,
)
from sqlalchemy.dialects.postgresql import TSVECTOR
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import UserDefinedType

from rlhf_loop.encoders import DIMENSION
from rlhf_loop.errors import VectorStoreError
from rlhf_loop.store.engine import describe
from rlhf_loop.utils.extras import require

#: PostgreSQL's numbers for what went wrong.
NO_TABLE = "42P01"
_NOT_ALLOWED = "42501"
#: The language is told by a comment on the table, so that it is there for readers with other settings, too.
_COMMENT = "The words are in "


class Vector(UserDefinedType[NDArray[np.float32]]):
    """Unit vectors as PostgreSQL keeps them: float32, in and out without a change of any bit."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return f"vector({DIMENSION})"

    def bind_processor(self, dialect: Dialect) -> Callable[[Any], str]:
        vector = require("pgvector", "postgres").Vector
        # The shortest decimals that read back as the same float32.
        return lambda value: str(vector(value).to_text())

    def column_expression(self, column: Any) -> Any:
        return func.vector_send(column, type_=self)

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], NDArray[np.float32]]:
        vector = require("pgvector", "postgres").Vector
        return lambda value: np.asarray(vector.from_binary(bytes(value)).to_numpy())


METADATA = MetaData()
SECTIONS = Table(
    "rlhf_index_sections",
    METADATA,
    Column("key", BigInteger, Identity(), primary_key=True),
    Column("id", String, nullable=False, unique=True),
    Column("document", String, nullable=False, index=True),
    Column("number", Integer, nullable=False),
    Column("source", String, nullable=False, index=True),
    Column("text", String, nullable=False),
    Column("title", String),
    Column("url", String),
    Column("licence", String),
    Column("added_at", DateTime(timezone=True), nullable=False),
    Column("encoder", String, nullable=False),
    Column("words", TSVECTOR, nullable=False),
    Index("rlhf_index_sections_words", "words", postgresql_using="gin"),
)
VECTORS = Table(
    "rlhf_index_vectors",
    METADATA,
    Column("section", BigInteger, ForeignKey(SECTIONS.c.key, ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("vector", Vector, nullable=False),
)


def create(connection: Connection, *, language: str) -> None:
    """Create the extension and the tables; nothing where they are there.

    Raises:
        VectorStoreError: the role may not do that; the message says what an administrator has to do.
    """
    if tables_exist(connection):
        return
    extension = text("SELECT count(*) FROM pg_extension WHERE extname = 'vector'")
    if not connection.execute(extension).scalar_one():
        try:
            with connection.begin_nested():
                connection.execute(text("CREATE EXTENSION IF NOT EXISTS vector"))
        except DBAPIError as error:
            raise VectorStoreError(
                f"The database {describe(connection.engine)} has no extension pgvector, and it cannot be created: "
                f"{reason(error)}. Install pgvector on the server, and let an administrator run CREATE EXTENSION "
                "vector; or index into another database with RLHF_DATABASE_URL."
            ) from error
    schema, role = connection.execute(text("SELECT current_schema(), current_user")).one()
    try:
        with connection.begin_nested():
            METADATA.create_all(connection)
    except DBAPIError as error:
        if sqlstate(error) != _NOT_ALLOWED:
            raise
        quote = connection.dialect.identifier_preparer.quote
        raise VectorStoreError(
            f"The tables of the index cannot be created in {describe(connection.engine)}: {reason(error)}. Let an "
            f"administrator run GRANT CREATE ON SCHEMA {quote(schema or 'public')} TO {quote(role)}; or index into "
            "another database with RLHF_DATABASE_URL."
        ) from error
    set_language(connection, language)


def tables_exist(connection: Connection) -> bool:
    """Tell whether the tables are there."""
    return inspect(connection).has_table(VECTORS.name)


def language_of(connection: Connection) -> str | None:
    """Return the language of the words of all rows, None where nothing tells it."""
    comment = connection.execute(text("SELECT obj_description('rlhf_index_sections'::regclass, 'pg_class')")).scalar()
    return comment.removeprefix(_COMMENT) if comment and comment.startswith(_COMMENT) else None


def set_language(connection: Connection, language: str) -> None:
    """Say in which language the words of all rows are."""
    # A comment takes no parameter.
    comment = (_COMMENT + language).replace("'", "''")
    connection.execute(text(f"COMMENT ON TABLE rlhf_index_sections IS '{comment}'"))


def words_expression(title: Any, body: Any, *, language: str) -> Any:
    """The stems of a section; a word of the title counts ten times as much, by PostgreSQL's own weights."""
    of_title = func.to_tsvector(_regconfig(language), func.coalesce(title, ""))
    return func.setweight(of_title, text("'A'")).op("||")(func.to_tsvector(_regconfig(language), body))


def _regconfig(language: str) -> Any:
    return text("CAST(:language AS regconfig)").bindparams(language=language)


def sqlstate(error: DBAPIError) -> str | None:
    """Return PostgreSQL's number of what went wrong."""
    return getattr(error.orig, "sqlstate", None)


def reason(error: BaseException | None) -> str:
    """Return what the server said, on one line."""
    return " ".join(str(getattr(error, "orig", None) or error).split())[:300].rstrip(".")
