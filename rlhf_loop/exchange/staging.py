"""Rows of a ratings file as they wait in a temporary table, and the SQL that checks them and moves them on.

The statements are plain SQL that SQLite and PostgreSQL read alike. "WHERE ... ON CONFLICT" needs the WHERE on SQLite.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from sqlalchemy import bindparam, select, text
from sqlalchemy.engine import Connection

from rlhf_loop.domain import Rating
from rlhf_loop.exchange import import_pairs
from rlhf_loop.exchange.formats.base import FileRow
from rlhf_loop.exchange.import_tables import STAGE, RowError, Unsaid, drop
from rlhf_loop.store.tables import ANONYMOUS, UtcDateTime

#: Turns a time into what the driver stores.
_Time = Callable[[datetime | None], Any]

_IMPORT_LOCK = 0x524C4849  # the key of PostgreSQL's advisory lock


def add(connection: Connection, rows: Sequence[FileRow], *, place: int, unsaid: Unsaid) -> int:
    """Stage rows that can be stored, from that place on; return the next free one."""
    answers: list[dict[str, Any]] = []
    pairs: list[tuple[dict[str, Any], dict[str, Any]]] = []
    time, now = partial(UtcDateTime().process_bind_param, dialect=connection.dialect), datetime.now(UTC)
    for row in rows:
        assert row.rating is not None
        better = _staged(row, row.rating, place + len(answers), unsaid, time, now)
        answers.append(better)
        if row.worse is not None:
            worse = _staged(row, row.worse, place + len(answers), unsaid, time, now)
            answers.append(worse)
            pairs.append((better, worse))
    if answers:
        _insert(connection, answers)
    import_pairs.add_pairs(connection, pairs)
    return place + len(answers)


def _insert(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    # Straight to the driver: what SQLAlchemy does with each of the many cells takes longer than the database does.
    style = ":{}" if connection.dialect.name == "sqlite" else "%({})s"
    names = list(rows[0])
    values = ", ".join(style.format(name) for name in names)
    connection.exec_driver_sql(f"INSERT INTO {STAGE.name} ({', '.join(names)}) VALUES ({values})", list(rows))


def drop_contradictions(connection: Connection) -> list[RowError]:
    """Take out the rows that contradict an earlier row of the file, and name both lines.

    Texts that are not in a row are looked up first, in the file and in the database.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("ANALYZE rlhf_import"))  # without it the planner takes the table for a tiny one
        connection.execute(text("ANALYZE rlhf_import_pairs"))
    lacking = connection.execute(select(STAGE.c.place).where(STAGE.c.texts_elsewhere).limit(1)).scalar() is not None
    errors = _find_texts(connection) if lacking else []
    # A row with the texts has the rest of what is known of the answer, too; where all have them it is quicker.
    first = "coalesce(min(CASE WHEN NOT texts_elsewhere THEN place END), min(place))" if lacking else "min(place)"
    connection.execute(text(_MARK_FIRST_PLACES.format(first=first)))
    errors += [
        RowError(row.line, f"external_id is {row.identity!r}, which line {row.earlier} gives to another answer")
        for row in drop(connection, _OTHER_TEXT_IN_FILE)
    ]
    connection.execute(text(_MARK_FIRST_REVIEWS))
    for row in drop(connection, _OTHER_WORDS_IN_FILE):
        what = f"rating {row.rating} here and {row.before}" if row.rating != row.before else "other words here than"
        reason = (
            f"the answer has {what} on line {row.earlier}, both by {row.reviewer!r}; "
            "if two people said so, add a reviewer column"
        )
        errors.append(RowError(row.line, reason))
    return errors + import_pairs.drop_contradicting_pairs(connection)


def drop_other_texts(connection: Connection) -> list[RowError]:
    """Take out the rows whose `external_id` the database has for another answer."""
    return [
        RowError(row.line, f"external_id is {row.identity!r}, which interaction {row.id} has for another answer")
        for row in drop(connection, _OTHER_TEXT_IN_DATABASE)
    ]


def lock(connection: Connection) -> None:
    """Let one import store at a time, on PostgreSQL: two that lock many interactions could wait for each other."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _IMPORT_LOCK})
        connection.execute(text(_LOCK_KNOWN))


def store(connection: Connection, *, unsaid: Unsaid) -> tuple[int, int]:
    """Move the staged rows into the tables; return how many were added and how many updated."""
    role, moment = str(unsaid.role), datetime.now(UTC)
    now = bindparam("now", moment, UtcDateTime)
    unrated = connection.execute(text(_COUNT_NEW_UNRATED)).scalar_one()
    connection.execute(text(_ADD_INTERACTIONS).bindparams(now))
    updated = connection.execute(text(_UPDATE_REVIEWS).bindparams(now)).rowcount
    added = connection.execute(text(_ADD_REVIEWS).bindparams(now), {"role": role}).rowcount
    pairs_added, pairs_updated = import_pairs.store_pairs(connection, role=role, now=moment)
    return unrated + added + pairs_added, updated + pairs_updated


def identity(rating: Rating, *, source: str | None) -> str:
    """Name an answer, so that another import knows it again."""
    if rating.external_id is not None:
        return rating.external_id
    digest = hashlib.sha256()
    for part in (rating.candidate_group or "", source or "", rating.user_prompt, rating.ai_response):
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return f"sha256:{digest.hexdigest()}"


def _staged(row: FileRow, rating: Rating, place: int, unsaid: Unsaid, time: _Time, now: datetime) -> dict[str, Any]:
    source = rating.source if rating.source is not None else unsaid.source
    elsewhere = row.texts_elsewhere
    return {
        "place": place,
        "line": row.line,
        "identity": identity(rating, source=source),
        "of_pair": row.worse is not None,
        "texts_elsewhere": elsewhere,
        "user_prompt": None if elsewhere else rating.user_prompt,
        "ai_response": None if elsewhere else rating.ai_response,
        "reviewer": rating.reviewer or unsaid.reviewer,
        "role": None if "reviewer_role" in row.unsaid else str(rating.reviewer_role),
        "rating": rating.rating,
        "comment": rating.feedback_comment,
        "correction": rating.corrected_response,
        "harmful": None if "harmful" in row.unsaid else rating.harmful,
        "source": source,
        "candidate_group": rating.candidate_group,
        "shown_rank": rating.shown_rank,
        "score": rating.score,
        "model_version": rating.model_version,
        "title": rating.title,
        "url": rating.url,
        "licence": rating.licence,
        "created_at": time(rating.created_at),
        # Never in the future: a clock that is wrong would keep out all that comes later.
        "rated_at": time(rating.rated_at and min(rating.rated_at, now)),
        "retrieved_at": time(rating.retrieved_at),
    }


def _find_texts(connection: Connection) -> list[RowError]:
    connection.execute(text(_TEXTS_FROM_FILE))
    connection.execute(text(_TEXTS_FROM_DATABASE))
    return [
        RowError(
            row.line,
            f"the answer {row.identity!r} is neither in the file nor in the database; import the file of traces or "
            "spans first",
        )
        for row in drop(connection, _WITHOUT_TEXTS)
    ]


_TEXTS_FROM_FILE = """
    UPDATE rlhf_import SET user_prompt = f.user_prompt, ai_response = f.ai_response
    FROM rlhf_import f
    WHERE rlhf_import.user_prompt IS NULL AND f.place = (
        SELECT min(t.place) FROM rlhf_import t
        WHERE t.identity = rlhf_import.identity AND t.user_prompt IS NOT NULL)
"""

_TEXTS_FROM_DATABASE = """
    UPDATE rlhf_import SET user_prompt = i.user_prompt, ai_response = i.ai_response
    FROM rlhf_interactions i
    WHERE rlhf_import.user_prompt IS NULL AND i.external_id = rlhf_import.identity
"""

_WITHOUT_TEXTS = "SELECT place, line, identity FROM rlhf_import WHERE user_prompt IS NULL ORDER BY place"

_MARK_FIRST_PLACES = """
    UPDATE rlhf_import SET first_place = f.place
    FROM (SELECT identity, {first} AS place FROM rlhf_import GROUP BY identity) AS f
    WHERE f.identity = rlhf_import.identity
"""

# Who changed their mind has said both, and the last word counts; of people without names nobody knows who did.
_MARK_FIRST_REVIEWS = f"""
    UPDATE rlhf_import SET first_review = f.place
    FROM (SELECT identity, reviewer, place, row_number() OVER (
              PARTITION BY identity, reviewer
              ORDER BY CASE WHEN reviewer <> '{ANONYMOUS}' THEN rated_at END DESC NULLS LAST, place) AS number
          FROM rlhf_import WHERE rating IS NOT NULL) AS f
    WHERE f.number = 1 AND f.identity = rlhf_import.identity AND f.reviewer = rlhf_import.reviewer
        AND rlhf_import.rating IS NOT NULL
"""

_OTHER_TEXT_IN_FILE = """
    SELECT s.place, s.line, s.identity, f.line AS earlier
    FROM rlhf_import s JOIN rlhf_import f ON f.place = s.first_place
    WHERE s.place <> s.first_place AND (s.user_prompt <> f.user_prompt OR s.ai_response <> f.ai_response)
    ORDER BY s.place
"""

_OTHER_WORDS_IN_FILE = f"""
    SELECT s.place, s.line, s.reviewer, s.rating, f.line AS earlier, f.rating AS before
    FROM rlhf_import s JOIN rlhf_import f ON f.place = s.first_review
    WHERE s.place <> s.first_review AND (
        s.rating <> f.rating
        OR coalesce(s.comment, '') <> coalesce(f.comment, '')
        OR coalesce(s.correction, '') <> coalesce(f.correction, '')
        OR coalesce(s.harmful, false) <> coalesce(f.harmful, false)
        OR coalesce(s.role, '') <> coalesce(f.role, ''))
        AND (s.reviewer = '{ANONYMOUS}' OR s.rated_at IS NULL OR f.rated_at IS NULL OR s.rated_at >= f.rated_at)
    ORDER BY s.place
"""

_OTHER_TEXT_IN_DATABASE = """
    SELECT s.place, s.line, s.identity, i.id
    FROM rlhf_import s JOIN rlhf_interactions i ON i.external_id = s.identity
    WHERE s.user_prompt <> i.user_prompt OR s.ai_response <> i.ai_response
    ORDER BY s.place
"""

_LOCK_KNOWN = """
    SELECT id FROM rlhf_interactions WHERE external_id IN (SELECT identity FROM rlhf_import)
    ORDER BY id FOR NO KEY UPDATE
"""

_COUNT_NEW_UNRATED = """
    SELECT count(*) FROM rlhf_import s
    WHERE s.place = s.first_place AND s.rating IS NULL AND NOT s.of_pair
        AND NOT EXISTS (SELECT 1 FROM rlhf_interactions i WHERE i.external_id = s.identity)
"""

# A comment without a rating has no review to live in; it stays with the answer.
_ADD_INTERACTIONS = """
    INSERT INTO rlhf_interactions (
        user_prompt, ai_response, feedback_comment, corrected_response, source, candidate_group, shown_rank, score,
        model_version, external_id, created_at, title, url, licence, retrieved_at)
    SELECT
        user_prompt, ai_response, CASE WHEN rating IS NULL THEN comment END,
        CASE WHEN rating IS NULL THEN correction END, source, candidate_group, shown_rank, score,
        model_version, identity, coalesce(created_at, :now), title, url, licence, retrieved_at
    FROM rlhf_import WHERE place = first_place ORDER BY place
    ON CONFLICT (external_id) DO NOTHING
"""

_UPDATE_REVIEWS = """
    UPDATE rlhf_reviews SET
        rating = s.rating,
        comment = coalesce(s.comment, rlhf_reviews.comment),
        correction = coalesce(s.correction, rlhf_reviews.correction),
        harmful = coalesce(s.harmful, rlhf_reviews.harmful),
        role = coalesce(s.role, rlhf_reviews.role),
        reviewed_at = coalesce(s.rated_at, :now)
    FROM rlhf_import s JOIN rlhf_interactions i ON i.external_id = s.identity
    WHERE s.place = s.first_review AND rlhf_reviews.interaction_id = i.id AND rlhf_reviews.reviewer = s.reviewer
        AND (s.rated_at IS NULL OR s.rated_at >= rlhf_reviews.reviewed_at) AND (
        s.rating <> rlhf_reviews.rating
        OR s.comment <> coalesce(rlhf_reviews.comment, '')
        OR s.correction <> coalesce(rlhf_reviews.correction, '')
        OR s.harmful <> rlhf_reviews.harmful
        OR s.role <> rlhf_reviews.role
        OR s.rated_at <> rlhf_reviews.reviewed_at)
"""

_ADD_REVIEWS = """
    INSERT INTO rlhf_reviews (interaction_id, reviewer, rating, comment, correction, reviewed_at, harmful, role)
    SELECT i.id, s.reviewer, s.rating, s.comment, s.correction, coalesce(s.rated_at, :now),
        coalesce(s.harmful, false), coalesce(s.role, :role)
    FROM rlhf_import s JOIN rlhf_interactions i ON i.external_id = s.identity
    WHERE s.place = s.first_review ORDER BY s.place
    ON CONFLICT (interaction_id, reviewer) DO NOTHING
"""
