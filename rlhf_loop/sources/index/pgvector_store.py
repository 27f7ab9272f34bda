"""The vector database inside PostgreSQL, by the extension pgvector: nothing else to run, back up or protect.

Its tables are not part of the migrations, since a server without pgvector must still keep ratings.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Engine,
    Float,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    bindparam,
    delete,
    func,
    inspect,
    literal,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, TSVECTOR, aggregate_order_by, insert
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.exc import DBAPIError, DisconnectionError, SQLAlchemyError
from sqlalchemy.schema import CreateTable
from sqlalchemy.types import UserDefinedType

from rlhf_loop.encoders import DIMENSION
from rlhf_loop.errors import DatabaseError, VectorStoreError
from rlhf_loop.sources.index.store import (
    LANGUAGES,
    Entry,
    Hit,
    Mode,
    Ranking,
    Section,
    SourceCount,
    StoredEntry,
    ranked,
    refuse_other_dimension,
    refuse_other_model,
)
from rlhf_loop.store.engine import copy_rows, describe, reading, transaction
from rlhf_loop.utils.extras import require
from rlhf_loop.utils.languages import UNSPACED

#: PostgreSQL's numbers for what went wrong.
NO_TABLE = "42P01"
_NOT_ALLOWED = "42501"
#: The language is told by a comment on the table, so that it is there for readers with other settings, too.
_COMMENT = "The words are in "
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
_Result = TypeVar("_Result")
#: Sections from which on an index of the vectors is worth its building time and its room.
ANN_FROM = 2_000
#: Vectors that the search in the index looks at. 400 find 99 of 100 nearest sections on MedQuAD, 100 find 95.
_CANDIDATES = 400
_VECTOR_INDEX = "rlhf_index_vectors_hnsw"
#: The key of the advisory lock of all that writes.
_LOCK = 0x524C4858
#: The number of the vector that is of a title.
_HEADING = -1
#: Sections that are read at a time where all are.
_BATCH = 500
#: A character of Chinese, Japanese, Thai, Lao, Burmese or Khmer.
_CHARACTER = "([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff])"
_FIELDS = tuple(Section.__dataclass_fields__)


class Vector(UserDefinedType[NDArray[np.float32]]):
    """The column type of unit vectors in PostgreSQL: float32, in and out without a change of any bit."""

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


#: PostgreSQL's names of the types that COPY sends, beside texts.
_COPIED = {BigInteger: "int8", Integer: "int4", DateTime: "timestamptz", Vector: "vector"}
VECTORS = Table(
    "rlhf_index_vectors",
    METADATA,
    Column("section", BigInteger, ForeignKey(SECTIONS.c.key, ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("vector", Vector, nullable=False),
)
#: What a section is without its words, which nobody reads.
_SHOWN = [SECTIONS.c[name] for name in (*_FIELDS, "encoder")]
_COMMENT_SQL = "obj_description('rlhf_index_sections'::regclass, 'pg_class')"
_DIMENSION_SQL = (
    "(SELECT atttypmod FROM pg_attribute WHERE attrelid = 'rlhf_index_vectors'::regclass AND attname = 'vector')"
)
#: To compile the queries of a search takes longer than to run them.
_BEFORE_SEARCH = text(
    f"SELECT {_DIMENSION_SQL} AS dimension, {_COMMENT_SQL} AS comment, set_config('jit', 'off', true), "
    f"set_config('hnsw.ef_search', '{_CANDIDATES}', true)"
)
#: Words that were added lately are a list that each search reads from its beginning; the index's owner may sort it in.
_SORT_WORDS = text(
    "SELECT gin_clean_pending_list(oid) FROM pg_class "
    "WHERE oid = to_regclass('rlhf_index_sections_words') AND pg_has_role(relowner, 'USAGE')"
)
#: Sections that are ranked by words, at most, where those that match the rarer words are as many as are wanted.
_MATCHES = 1_000
#: Any word of the question may match. To rank a match takes far longer than to find it; so where there are many, those
#: that match the rarer words are ranked, by all of them. How common a word is ANALYZE has counted; rare ones it leaves
#: out, and these are counted here.
_RANKED_BY_WORDS = text(
    r"""
    WITH listed AS (
        SELECT listed.lexeme, listed.frequency
        FROM pg_stats, unnest(most_common_elems::text::text[], most_common_elem_freqs) AS listed (lexeme, frequency)
        WHERE attname = 'words' AND (schemaname, tablename) = (
            SELECT nspname, relname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
            WHERE pg_class.oid = 'rlhf_index_sections'::regclass
        )
    ), asked AS (
        SELECT '''' || replace(replace(lexeme, '\', '\\'), '''', '''''') || '''' AS word,
            frequency * (SELECT reltuples FROM pg_class WHERE oid = 'rlhf_index_sections'::regclass) AS sections
        FROM unnest(to_tsvector(CAST(:language AS regconfig), :query)) LEFT JOIN listed USING (lexeme)
    ), rare AS (
        SELECT count(*) AS sections FROM rlhf_index_sections
        WHERE words @@ (SELECT string_agg(word, '|')::tsquery FROM asked WHERE sections IS NULL)
    ), counted AS (
        SELECT word, asked.sections, rare.sections + sum(asked.sections) OVER (ORDER BY asked.sections, word) AS so_far
        FROM asked, rare
    ), chosen AS (
        SELECT string_agg(word, '|')::tsquery AS words, (string_agg(word, '|') FILTER (
            WHERE sections IS NULL OR so_far <= :matches OR so_far - sections < :depth
        ))::tsquery AS rarer
        FROM counted
    )
    SELECT id, ts_rank(sections.words, chosen.words) AS score
    FROM rlhf_index_sections AS sections, chosen
    WHERE sections.words @@ chosen.rarer
    ORDER BY score DESC, key LIMIT :depth
    """
)
_DISTANCE = VECTORS.c.vector.op("<=>", return_type=Float())(bindparam("query", type_=Vector)).label("distance")
_NEAREST = (
    select(VECTORS.c.section, _DISTANCE)
    .order_by(_DISTANCE)
    .limit(bindparam("candidates"))
    .cte("nearest")
    .prefix_with("MATERIALIZED")
)
_LEAST = func.min(_NEAREST.c.distance).label("distance")
_BEST = (
    select(_NEAREST.c.section, _LEAST)
    .group_by(_NEAREST.c.section)
    .order_by(_LEAST, _NEAREST.c.section)
    .limit(bindparam("depth"))
    .cte("best")
)
_RANKED_BY_VECTOR = (
    select(SECTIONS.c.id, _BEST.c.distance)
    .join(_BEST, _BEST.c.section == SECTIONS.c.key)
    .order_by(_BEST.c.distance, SECTIONS.c.key)
)
#: All vectors of a section as one value: each as `vector_send` writes it, a header and its numbers.
_SENT = (
    select(func.string_agg(func.vector_send(VECTORS.c.vector), aggregate_order_by(literal(b""), VECTORS.c.number)))
    .where(VECTORS.c.section == SECTIONS.c.key, VECTORS.c.number > _HEADING)
    .scalar_subquery()
)
_FOUND = select(*_SHOWN, _SENT.label("vectors")).where(SECTIONS.c.id == func.any(bindparam("ids", type_=ARRAY(String))))

#: Where sections wait that were copied, until their words are taken apart; each connection has its own.
_NEW = Table(
    "rlhf_index_new",
    MetaData(),
    Column("place", Integer, primary_key=True, autoincrement=False),
    *(Column(name, SECTIONS.c[name].type) for name in (*_FIELDS, "encoder")),
    prefixes=["TEMPORARY"],
    postgresql_on_commit="DELETE ROWS",
)


def create_tables(connection: Connection, *, language: str) -> None:
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
    return _language(connection.execute(text(f"SELECT {_COMMENT_SQL}")).scalar())


def _language(comment: str | None) -> str | None:
    return comment.removeprefix(_COMMENT) if comment and comment.startswith(_COMMENT) else None


def set_language(connection: Connection, language: str) -> None:
    """Say in which language the words of all rows are."""
    # A comment takes no parameter.
    comment = (_COMMENT + language).replace("'", "''")
    connection.execute(text(f"COMMENT ON TABLE rlhf_index_sections IS '{comment}'"))


def words_expression(title: Any, body: Any, *, language: str) -> Any:
    """Return the stems of a section as SQL; a word of the title counts ten times as much, by PostgreSQL's weights."""
    title, body = _apart(func.coalesce(title, ""), language), _apart(body, language)
    of_title = func.to_tsvector(_regconfig(language), title)
    return func.setweight(of_title, text("'A'")).op("||")(func.to_tsvector(_regconfig(language), body))


def sqlstate(error: DBAPIError) -> str | None:
    """Return PostgreSQL's number of what went wrong."""
    return getattr(error.orig, "sqlstate", None)


def reason(error: BaseException | None) -> str:
    """Return what the server said, on one line."""
    return " ".join(str(getattr(error, "orig", None) or error).split())[:300].rstrip(".")


class PgVectorStore:
    """A `VectorStore` in a PostgreSQL database; `language` is that of the stems and stop words, such as "english".

    Tables and the extension are created by the first `add`.
    """

    needs_database = True

    def __init__(self, engine: Engine, *, language: str = "english", ann_from: int = ANN_FROM) -> None:
        require("pgvector", "postgres")
        self._engine = engine
        self._language = language
        self._ann_from = ann_from
        self._ready = False
        self._process = os.getpid()

    def encoders(self) -> list[str]:
        """Return the ids of all encoders that made the vectors, sorted."""
        order = SECTIONS.c.encoder.collate("C")
        found = select(SECTIONS.c.encoder).group_by(SECTIONS.c.encoder).order_by(order)
        return self._read(lambda connection: list(connection.execute(found).scalars()), [])

    def add(self, entries: Sequence[Entry], *, encoder: str) -> None:
        """Keep the sections, all or none; see `VectorStore`."""
        if not entries:
            return
        with self._writing() as connection:
            create_tables(connection, language=self._language)
            refuse_other_model(connection.execute(select(SECTIONS.c.encoder).limit(1)).scalars(), encoder)
            _fit(connection, entries[0].vectors.shape[1])
            connection.execute(delete(SECTIONS).where(SECTIONS.c.id.in_([entry.section.id for entry in entries])))
            # That of the rows that are there, until optimize() gives all of them another one.
            language = language_of(connection) or self._language
            _insert(connection, [StoredEntry(entry, encoder) for entry in entries], language=language)

    def known(self, documents: Collection[str], *, encoder: str | None = None) -> set[str]:
        """Return those of the documents that are there; see `VectorStore`."""
        if not documents:
            return set()
        found = select(SECTIONS.c.document).where(SECTIONS.c.document == func.any(list(documents)))
        found = found.group_by(SECTIONS.c.document)
        if encoder is not None:
            found = found.having(func.bool_and(SECTIONS.c.encoder == encoder))
        return self._read(lambda connection: set(connection.execute(found).scalars()), set())

    def search(self, query: str, vector: NDArray[np.float32], *, limit: int, mode: Mode = "hybrid") -> list[Hit]:
        """Return the best sections for a question; see `VectorStore`."""
        if limit < 1:
            return []

        def find(connection: Connection) -> list[Hit]:
            dimension, comment = connection.execute(_BEFORE_SEARCH).one()[:2]
            if dimension != len(vector):
                there = connection.execute(select(SECTIONS.c.encoder).distinct().order_by(SECTIONS.c.encoder))
                refuse_other_dimension(list(there.scalars()), len(vector))
                return []  # all was deleted
            by_vector = partial(_by_vector, connection, vector)
            by_words = partial(_by_words, connection, query, _language(comment) or self._language)
            return _hits(connection, ranked(mode, limit, by_vector=by_vector, by_words=by_words), dimension)

        return self._read(find, [])

    def delete(self, source: str, *, keep: Collection[str] = ()) -> int:
        """Forget all of a source but the documents to `keep`; return how many documents went."""
        with self._writing() as connection:
            if not tables_exist(connection):
                return 0
            of_source = SECTIONS.c.source == source
            there = set(connection.execute(select(SECTIONS.c.document).where(of_source).distinct()).scalars())
            gone = there.difference(keep)
            connection.execute(delete(SECTIONS).where(of_source, SECTIONS.c.document == func.any(list(gone))))
            return len(gone)

    def sources(self) -> list[SourceCount]:
        """Count what is there, by source in alphabetical order."""
        documents = func.count().filter(SECTIONS.c.number == 0)
        # The order of code points, as in Python, whatever the server's locale.
        order = SECTIONS.c.source.collate("C")
        counted = select(SECTIONS.c.source, documents, func.count()).group_by(SECTIONS.c.source).order_by(order)
        return self._read(lambda connection: [SourceCount(*row) for row in connection.execute(counted)], [])

    def texts(self, *, limit: int, titled: bool) -> list[tuple[str, str]]:
        """Return title and text of so many sections at most: the `titled` alone, or all, with "" for no title."""
        found = select(SECTIONS.c.title, SECTIONS.c.text).order_by(SECTIONS.c.key).limit(limit)
        wanted = found.where(SECTIONS.c.title.is_not(None)) if titled else found
        return self._read(lambda connection: [(row.title or "", row.text) for row in connection.execute(wanted)], [])

    def everything(self) -> Iterator[list[StoredEntry]]:
        """Return all that is there, in batches; see `VectorStore`."""
        with self._errors(), reading(self._engine) as connection:
            last = 0 if tables_exist(connection) else None
            while last is not None:
                found = select(SECTIONS).where(SECTIONS.c.key > last).order_by(SECTIONS.c.key).limit(_BATCH)
                rows = connection.execute(found).all()
                last = rows[-1].key if rows else None
                vectors = _stored(connection, [row.key for row in rows])
                if rows:
                    yield [_kept(row, vectors[row.key]) for row in rows]

    def replace(self, batches: Iterable[Sequence[StoredEntry]]) -> None:
        """Keep these in place of all that is there, all or none; see `VectorStore`."""
        fitted = False
        with self._writing() as connection:
            create_tables(connection, language=self._language)
            connection.execute(delete(SECTIONS))
            set_language(connection, self._language)
            for batch in batches:
                if not fitted:
                    _fit(connection, batch[0].entry.vectors.shape[1])
                    fitted = True
                _insert(connection, batch, language=self._language)
        self.optimize()

    def optimize(self) -> None:
        """Build the index of the vectors where there are many, and tell the planner how many; see `VectorStore`."""
        with self._writing() as connection:
            if not tables_exist(connection):
                return
            if language_of(connection) != self._language:
                words = words_expression(SECTIONS.c.title, SECTIONS.c.text, language=self._language)
                connection.execute(update(SECTIONS).values(words=words))
                set_language(connection, self._language)
            if connection.execute(select(func.count()).select_from(SECTIONS)).scalar_one() >= self._ann_from:
                connection.execute(text("SET LOCAL maintenance_work_mem = '256MB'"))
                connection.execute(
                    text(
                        f"CREATE INDEX IF NOT EXISTS {_VECTOR_INDEX} ON rlhf_index_vectors "
                        "USING hnsw (vector vector_cosine_ops)"
                    )
                )
            connection.execute(_SORT_WORDS)
            connection.execute(text("ANALYZE rlhf_index_sections, rlhf_index_vectors"))

    def close(self) -> None:
        """Close the connections; the next use opens new ones."""
        self._engine.dispose()

    def _read(self, work: Callable[[Connection], _Result], otherwise: _Result) -> _Result:
        """Return the result of the work, which sees one state of the tables; `otherwise` while there are none."""

        def once() -> _Result:
            with reading(self._engine) as connection:
                self._ready = self._ready or tables_exist(connection)
                return work(connection) if self._ready else otherwise

        with self._errors():
            try:
                return once()
            except DatabaseError as error:
                if not _no_table(error):
                    raise
                # They were there when this process last looked: somebody dropped them.
                self._ready = False
                return once()

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """Give a transaction to one writer at a time."""
        with self._errors(), transaction(self._engine) as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            yield connection

    @contextmanager
    def _errors(self) -> Iterator[None]:
        self._notice_fork()
        try:
            yield
        except DatabaseError as error:
            if _no_table(error):
                raise self._unusable(error.__cause__) from error
            raise VectorStoreError(str(error)) from error
        except (SQLAlchemyError, DisconnectionError) as error:
            raise self._unusable(error) from error

    def _unusable(self, error: BaseException | None) -> VectorStoreError:
        return VectorStoreError(
            f"The index in {describe(self._engine)} cannot be used: {reason(error)}. If its tables "
            "were altered, drop rlhf_index_vectors and rlhf_index_sections and add the files again."
        )

    def _notice_fork(self) -> None:
        """In a new process, do not touch the parent's connections: two processes cannot share one."""
        if self._process != os.getpid():
            self._engine.dispose(close=False)
            self._process = os.getpid()


def _dimension(connection: Connection) -> int:
    """Return how many numbers each of the table's vectors has."""
    return int(connection.execute(text(f"SELECT {_DIMENSION_SQL}")).scalar_one())


def _fit(connection: Connection, dimension: int) -> None:
    """Let the table take vectors of that length, where it has others and is empty."""
    if _dimension(connection) != dimension:
        connection.execute(text(f"DROP INDEX IF EXISTS {_VECTOR_INDEX}"))
        # A number, as no parameter can stand in a type.
        connection.execute(text(f"ALTER TABLE rlhf_index_vectors ALTER COLUMN vector TYPE vector({dimension:d})"))


def _regconfig(language: str) -> Any:
    return text("CAST(:language AS regconfig)").bindparams(language=_config(language))


def _config(language: str) -> str:
    """Return PostgreSQL's name of how the words of a language are read."""
    return language if language in LANGUAGES else "simple"


def _apart(value: Any, language: str) -> Any:
    """Put a blank behind each character of a language that has none between its words."""
    return func.regexp_replace(value, _CHARACTER, r"\1 ", "g") if language in UNSPACED.values() else value


def _no_table(error: DatabaseError) -> bool:
    cause = error.__cause__
    return isinstance(cause, DBAPIError) and sqlstate(cause) == NO_TABLE


def _insert(connection: Connection, kept: Sequence[StoredEntry], *, language: str) -> None:
    connection.execute(CreateTable(_NEW, if_not_exists=True))
    connection.execute(delete(_NEW))
    rows = ([*(getattr(each.entry.section, name) for name in _FIELDS), each.encoder] for each in kept)
    _copy(connection, _NEW, ([place, *row] for place, row in enumerate(rows)))
    names = (*_FIELDS, "encoder")
    words = words_expression(_NEW.c.title, _NEW.c.text, language=language)
    new = select(*(_NEW.c[name] for name in names), words).order_by(_NEW.c.place)
    added = insert(SECTIONS).from_select([*names, "words"], new).returning(SECTIONS.c.id, SECTIONS.c.key)
    keys = {row.id: row.key for row in connection.execute(added)}
    _copy(connection, VECTORS, _vectors([each.entry for each in kept], keys))


def _copy(connection: Connection, table: Table, rows: Iterable[Sequence[Any]]) -> None:
    """Send rows to a table, in the order of its columns."""
    require("pgvector.psycopg", "postgres").register_vector(connection.connection.driver_connection)
    names = ", ".join(column.name for column in table.columns)
    types = [_COPIED.get(type(column.type), "text") for column in table.columns]
    copy_rows(connection, f"COPY {table.name} ({names}) FROM STDIN (FORMAT BINARY)", rows, types=types)


def _stored(connection: Connection, keys: Sequence[int]) -> dict[int, dict[int, NDArray[np.float32]]]:
    """Return the vectors of sections, by section and number."""
    found: dict[int, dict[int, NDArray[np.float32]]] = {key: {} for key in keys}
    wanted = select(VECTORS).where(VECTORS.c.section.in_(keys)).order_by(VECTORS.c.section, VECTORS.c.number)
    for section, number, vector in connection.execute(wanted):
        found[section][number] = vector
    return found


def _kept(row: Any, vectors: dict[int, NDArray[np.float32]]) -> StoredEntry:
    heading = vectors.pop(_HEADING, None)
    section = Section(**{field: getattr(row, field) for field in _FIELDS})
    return StoredEntry(Entry(section, np.stack(list(vectors.values())), heading), row.encoder)


def _vectors(entries: Sequence[Entry], keys: dict[str, int]) -> Iterator[Sequence[Any]]:
    for entry in entries:
        key = keys[entry.section.id]
        if entry.heading is not None:
            yield key, _HEADING, entry.heading
        for number, vector in enumerate(entry.vectors):
            yield key, number, vector


def _by_vector(connection: Connection, vector: NDArray[np.float32], depth: int) -> Ranking:
    candidates = max(_CANDIDATES, depth)
    if candidates > _CANDIDATES:
        # pgvector takes at most 1,000.
        connection.execute(text(f"SET LOCAL hnsw.ef_search = {min(candidates, 1000)}"))
    found = connection.execute(_RANKED_BY_VECTOR, {"query": vector, "candidates": candidates, "depth": depth})
    return [(name, 1 - distance) for name, distance in found]


def _by_words(connection: Connection, query: str, language: str, depth: int) -> Ranking:
    query = query.replace("\0", " ").encode("utf-8", "replace").decode()  # what PostgreSQL takes as a text
    if language in UNSPACED.values():
        query = re.sub(_CHARACTER, r"\1 ", query)
    asked = {"query": query, "language": _config(language), "matches": _MATCHES, "depth": depth}
    return [(row.id, row.score) for row in connection.execute(_RANKED_BY_WORDS, asked)]


def _hits(connection: Connection, ranking: Ranking, dimension: int) -> list[Hit]:
    found = {row.id: row for row in connection.execute(_FOUND, {"ids": [name for name, _ in ranking]})}
    sent = np.dtype([("header", ">u2", 2), ("numbers", ">f4", dimension)])
    hits = []
    for name, score in ranking:
        if row := found.get(name):
            section = Section(**{field: getattr(row, field) for field in _FIELDS})
            numbers = np.frombuffer(row.vectors, sent)["numbers"].astype(np.float32)
            hits.append(Hit(section, numbers, row.encoder, float(score)))
    return hits
