"""Rows of a ratings file as they wait in a temporary table, and the SQL that checks them and moves them on.

The statements are plain SQL that SQLite and PostgreSQL read alike. "WHERE ... ON CONFLICT" needs the WHERE on SQLite.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Column, Double, Index, Integer, MetaData, Row, Table, Text, bindparam, insert, text
from sqlalchemy.engine import Connection, Engine

from rlhf_loop.domain import Rating
from rlhf_loop.tables import UtcDateTime

_IMPORT_LOCK = 0x524C4849  # the key of PostgreSQL's advisory lock


@dataclass(frozen=True, slots=True)
class RowError:
    """A row that cannot be stored: the line where it starts (a Parquet file's row), and why."""

    line: int
    reason: str


# The rows of the file as they wait to be stored. A temporary table: each connection sees its own, and one that is
# killed leaves none.
_STAGE = Table(
    "rlhf_import",
    MetaData(),
    Column("line", Integer, primary_key=True, autoincrement=False),
    Column("first_line", Integer),
    Column("first_review", Integer),
    Column("identity", Text, nullable=False),
    Column("user_prompt", Text, nullable=False),
    Column("ai_response", Text, nullable=False),
    Column("reviewer", Text, nullable=False),
    Column("rating", Integer),
    Column("comment", Text),
    Column("correction", Text),
    Column("source", Text),
    Column("candidate_group", Text),
    Column("shown_rank", Integer),
    Column("score", Double),
    Column("model_version", Text),
    Column("created_at", UtcDateTime),
    Column("rated_at", UtcDateTime),
    prefixes=["TEMPORARY"],
)
Index("ix_rlhf_import_identity", _STAGE.c.identity, _STAGE.c.reviewer, _STAGE.c.line)


@contextmanager
def stage(engine: Engine) -> Iterator[Connection]:
    """Give a connection that has the empty temporary table until the block ends."""
    with engine.connect() as connection:
        with connection.begin():
            _STAGE.create(connection, checkfirst=False)
        try:
            yield connection
        finally:
            connection.rollback()
            with connection.begin():
                _STAGE.drop(connection, checkfirst=False)


def add(connection: Connection, rows: Sequence[tuple[int, Rating]], *, reviewer: str, source: str | None) -> None:
    """Stage ratings with their line numbers; `reviewer` and `source` stand where a rating names none."""
    if rows:
        connection.execute(insert(_STAGE), [_staged(line, rating, reviewer, source) for line, rating in rows])


def drop_contradictions(connection: Connection) -> list[RowError]:
    """Take out the rows that contradict an earlier row of the file, and name both lines."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("ANALYZE rlhf_import"))  # without it the planner takes the table for a tiny one
    connection.execute(text(_MARK_FIRST_LINES))
    errors = [
        RowError(row.line, f"external_id is {row.identity!r}, which line {row.earlier} gives to another answer")
        for row in _drop(connection, _OTHER_TEXT_IN_FILE)
    ]
    connection.execute(text(_MARK_FIRST_REVIEWS))
    for row in _drop(connection, _OTHER_WORDS_IN_FILE):
        what = f"rating {row.rating} here and {row.before}" if row.rating != row.before else "other words here than"
        reason = (
            f"the answer has {what} on line {row.earlier}, both by {row.reviewer!r}; "
            "if two people said so, add a reviewer column"
        )
        errors.append(RowError(row.line, reason))
    return errors


def drop_other_texts(connection: Connection) -> list[RowError]:
    """Take out the rows whose `external_id` the database has for another answer."""
    return [
        RowError(row.line, f"external_id is {row.identity!r}, which interaction {row.id} has for another answer")
        for row in _drop(connection, _OTHER_TEXT_IN_DATABASE)
    ]


def lock(connection: Connection) -> None:
    """Let one import store at a time, on PostgreSQL: two that lock many interactions could wait for each other."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _IMPORT_LOCK})
        connection.execute(text(_LOCK_KNOWN))


def store(connection: Connection) -> tuple[int, int]:
    """Move the staged rows into the tables; return how many were added and how many updated."""
    now = bindparam("now", datetime.now(UTC), UtcDateTime)
    unrated = connection.execute(text(_COUNT_NEW_UNRATED)).scalar_one()
    connection.execute(text(_ADD_INTERACTIONS).bindparams(now))
    updated = connection.execute(text(_UPDATE_REVIEWS).bindparams(now)).rowcount
    added = connection.execute(text(_ADD_REVIEWS).bindparams(now)).rowcount
    return unrated + added, updated


def identity(rating: Rating, *, source: str | None) -> str:
    """Name an answer, so that another import knows it again."""
    if rating.external_id is not None:
        return rating.external_id
    digest = hashlib.sha256()
    for part in (rating.candidate_group or "", source or "", rating.user_prompt, rating.ai_response):
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return f"sha256:{digest.hexdigest()}"


def _staged(line: int, rating: Rating, reviewer: str, source: str | None) -> dict[str, Any]:
    source = rating.source if rating.source is not None else source
    return {
        "line": line,
        "identity": identity(rating, source=source),
        "user_prompt": rating.user_prompt,
        "ai_response": rating.ai_response,
        "reviewer": rating.reviewer or reviewer,
        "rating": rating.rating,
        "comment": rating.feedback_comment,
        "correction": rating.corrected_response,
        "source": source,
        "candidate_group": rating.candidate_group,
        "shown_rank": rating.shown_rank,
        "score": rating.score,
        "model_version": rating.model_version,
        "created_at": rating.created_at,
        "rated_at": rating.rated_at,
    }


def _drop(connection: Connection, statement: str) -> list[Row[Any]]:
    found = list(connection.execute(text(statement)))
    if found:
        lines = [{"line": row.line} for row in found]
        connection.execute(text("DELETE FROM rlhf_import WHERE line = :line"), lines)
    return found


_MARK_FIRST_LINES = """
    UPDATE rlhf_import SET first_line = f.line
    FROM (SELECT identity, min(line) AS line FROM rlhf_import GROUP BY identity) AS f
    WHERE f.identity = rlhf_import.identity
"""

_MARK_FIRST_REVIEWS = """
    UPDATE rlhf_import SET first_review = f.line
    FROM (SELECT identity, reviewer, min(line) AS line FROM rlhf_import
          WHERE rating IS NOT NULL GROUP BY identity, reviewer) AS f
    WHERE f.identity = rlhf_import.identity AND f.reviewer = rlhf_import.reviewer AND rlhf_import.rating IS NOT NULL
"""

_OTHER_TEXT_IN_FILE = """
    SELECT s.line, s.identity, f.line AS earlier
    FROM rlhf_import s JOIN rlhf_import f ON f.line = s.first_line
    WHERE s.line <> s.first_line AND (s.user_prompt <> f.user_prompt OR s.ai_response <> f.ai_response)
    ORDER BY s.line
"""

_OTHER_WORDS_IN_FILE = """
    SELECT s.line, s.reviewer, s.rating, f.line AS earlier, f.rating AS before
    FROM rlhf_import s JOIN rlhf_import f ON f.line = s.first_review
    WHERE s.line <> s.first_review AND (
        s.rating <> f.rating
        OR coalesce(s.comment, '') <> coalesce(f.comment, '')
        OR coalesce(s.correction, '') <> coalesce(f.correction, ''))
    ORDER BY s.line
"""

_OTHER_TEXT_IN_DATABASE = """
    SELECT s.line, s.identity, i.id
    FROM rlhf_import s JOIN rlhf_interactions i ON i.external_id = s.identity
    WHERE s.user_prompt <> i.user_prompt OR s.ai_response <> i.ai_response
    ORDER BY s.line
"""

_LOCK_KNOWN = """
    SELECT id FROM rlhf_interactions WHERE external_id IN (SELECT identity FROM rlhf_import)
    ORDER BY id FOR NO KEY UPDATE
"""

_COUNT_NEW_UNRATED = """
    SELECT count(*) FROM rlhf_import s
    WHERE s.line = s.first_line AND s.rating IS NULL
        AND NOT EXISTS (SELECT 1 FROM rlhf_interactions i WHERE i.external_id = s.identity)
"""

# A comment without a rating has no review to live in; it stays with the answer.
_ADD_INTERACTIONS = """
    INSERT INTO rlhf_interactions (
        user_prompt, ai_response, feedback_comment, corrected_response, source, candidate_group, shown_rank, score,
        model_version, external_id, created_at)
    SELECT
        user_prompt, ai_response, CASE WHEN rating IS NULL THEN comment END,
        CASE WHEN rating IS NULL THEN correction END, source, candidate_group, shown_rank, score,
        model_version, identity, coalesce(created_at, :now)
    FROM rlhf_import WHERE line = first_line ORDER BY line
    ON CONFLICT (external_id) DO NOTHING
"""

_UPDATE_REVIEWS = """
    UPDATE rlhf_reviews SET
        rating = s.rating,
        comment = coalesce(s.comment, rlhf_reviews.comment),
        correction = coalesce(s.correction, rlhf_reviews.correction),
        reviewed_at = coalesce(s.rated_at, :now)
    FROM rlhf_import s JOIN rlhf_interactions i ON i.external_id = s.identity
    WHERE s.line = s.first_review AND rlhf_reviews.interaction_id = i.id AND rlhf_reviews.reviewer = s.reviewer AND (
        s.rating <> rlhf_reviews.rating
        OR s.comment <> coalesce(rlhf_reviews.comment, '')
        OR s.correction <> coalesce(rlhf_reviews.correction, '')
        OR s.rated_at <> rlhf_reviews.reviewed_at)
"""

_ADD_REVIEWS = """
    INSERT INTO rlhf_reviews (interaction_id, reviewer, rating, comment, correction, reviewed_at)
    SELECT i.id, s.reviewer, s.rating, s.comment, s.correction, coalesce(s.rated_at, :now)
    FROM rlhf_import s JOIN rlhf_interactions i ON i.external_id = s.identity
    WHERE s.line = s.first_review ORDER BY s.line
    ON CONFLICT (interaction_id, reviewer) DO NOTHING
"""
