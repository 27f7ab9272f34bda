"""Staging of a ratings file: its rows wait in temporary tables until all of them are known to be good.

The SQL that checks them and moves them on is read alike by SQLite and PostgreSQL. "WHERE ... ON CONFLICT" needs the
WHERE on SQLite.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    MetaData,
    Row,
    Table,
    Text,
    bindparam,
    func,
    insert,
    select,
    text,
)
from sqlalchemy.engine import Connection, Engine

from rlhf_loop.domain import Rating, ReviewerRole, answer_name, field_values
from rlhf_loop.exchange.formats.base import FileRow
from rlhf_loop.exchange.formats.messages import is_read_from
from rlhf_loop.store.interactions import withdraw_review
from rlhf_loop.store.tables import ANONYMOUS, UtcDateTime
from rlhf_loop.utils.text import visible


@dataclass(frozen=True, slots=True)
class RowError:
    """A row that cannot be stored: the line where it starts (a Parquet file's row), and why."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportDefaults:
    """Defaults for a row that does not say who reviewed, in which role, and where the answer is from."""

    reviewer: str
    role: ReviewerRole
    source: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """The numbers of what became of staged rows.

    `said` are the reviews, preferences and labels among what was `added`, or changed of labels. `withdrawn` reviews
    were taken back, and are among the updated ones. `overtaken` is what says something else than what is newer here, or
    takes back what may be newer, `remarks` what was said without a rating and has no place.
    """

    added: int = 0
    said: int = 0
    updated: int = 0
    withdrawn: int = 0
    overtaken: int = 0
    remarks: int = 0


# The rows of the file as they wait to be stored. Temporary tables: each connection sees its own, and one that is
# killed leaves none. `place` tells rows of one line apart, where one record says several things.
METADATA = MetaData()
STAGE = Table(
    "rlhf_import",
    METADATA,
    Column("place", Integer, primary_key=True, autoincrement=False),
    Column("line", Integer, nullable=False),
    Column("first_place", Integer),
    Column("first_review", Integer),
    Column("identity", Text, nullable=False),
    Column("of_pair", Boolean, nullable=False),
    Column("texts_elsewhere", Boolean, nullable=False),
    Column("reviewer", Text, nullable=False),
    Column("nameless", Boolean, nullable=False),  # then the reviewer is named by what they said
    Column("taken_back", Boolean, nullable=False),  # the reviewer had said something, and does no longer
    Column("said", Text),  # a digest of what is said, where nobody knows when
    Column("role", Text),  # NULL where the row does not say: so nothing that is known is overwritten
    Column("rating", Integer),
    Column("label", Double),  # a judge's
    Column("harmful", Boolean),
    Column("source", Text),
    Column("candidate_group", Text),
    Column("shown_rank", Integer),
    Column("score", Double),
    Column("model_version", Text),
    Column("title", Text),
    Column("url", Text),
    Column("licence", Text),
    Column("drafted_by", Text),
    Column("created_at", UtcDateTime),
    Column("reviewed_at", UtcDateTime),
    Column("retrieved_at", UtcDateTime),
    # Last, since SQLite reads all that stands before a column on the way to it.
    Column("user_prompt", Text),  # NULL where another row, or the database, has the texts
    Column("ai_response", Text),
    Column("comment", Text),
    Column("correction", Text),
    prefixes=["TEMPORARY"],
)
Index("ix_rlhf_import_identity", STAGE.c.identity, STAGE.c.reviewer, STAGE.c.place)
# `one` and `other` in the order of their identities, so that a pair has one name whichever is better.
PAIRS = Table(
    "rlhf_import_pairs",
    METADATA,
    Column("place", Integer, primary_key=True, autoincrement=False),
    Column("line", Integer, nullable=False),
    Column("first_pair", Integer),
    Column("one", Text, nullable=False),
    Column("other", Text, nullable=False),
    Column("one_is_better", Boolean, nullable=False),
    Column("reviewer", Text, nullable=False),
    Column("nameless", Boolean, nullable=False),
    Column("role", Text),
    Column("preferred_at", UtcDateTime),
    prefixes=["TEMPORARY"],
)
Index("ix_rlhf_import_pairs_reviewer", PAIRS.c.one, PAIRS.c.other, PAIRS.c.reviewer)


@contextmanager
def stage(engine: Engine) -> Iterator[Connection]:
    """Give a connection that has the empty temporary tables until the block ends."""
    with engine.connect() as connection:
        with connection.begin():
            METADATA.create_all(connection, checkfirst=False)
        try:
            yield connection
        finally:
            connection.rollback()
            # After Ctrl-C the connection may be another one, which has none.
            with connection.begin():
                METADATA.drop_all(connection)


def drop(connection: Connection, statement: str, *, table: Table = STAGE, unlike: str | None = None) -> list[Row[Any]]:
    """Take out the rows that a statement finds by their `place`, and return them.

    With `unlike` only those of whose two answers, which it gives, somebody would see that they differ.
    """
    found = list(connection.execute(text(statement)))
    if unlike is not None:
        found = [row for row in found if _differ(connection, unlike, row.place)]
    if found:
        places = [{"place": row.place} for row in found]
        connection.execute(text(f"DELETE FROM {table.name} WHERE place = :place"), places)
    return found


def add_pairs(
    connection: Connection, pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any], datetime | None]]
) -> None:
    """Stage preferences, each as the rows of its two staged answers, the better one first, and when it was said."""
    if pairs:
        connection.execute(insert(PAIRS), [_staged_pair(better, worse, at) for better, worse, at in pairs])


def drop_contradicting_pairs(connection: Connection) -> list[RowError]:
    """Take out the preferences between an answer and itself, and those that contradict an earlier one of the same
    reviewer, and name the lines."""
    connection.execute(text(_MARK_FIRST_PAIRS))
    same = "it prefers one of two answers that are the same, but for what nobody can see"
    errors = [RowError(row.line, same) for row in drop(connection, _SAME_ANSWER_TWICE, table=PAIRS)]
    return errors + [
        RowError(row.line, f"line {row.earlier} prefers the other of the same two answers, also by {row.reviewer!r}")
        for row in drop(connection, _OTHER_PREFERENCE_IN_FILE, table=PAIRS)
    ]


def store_pairs(connection: Connection, *, role: str, now: datetime, import_id: int) -> Stored:
    """Move the staged preferences into their table; return what became of them."""
    if not connection.execute(select(func.count()).select_from(PAIRS)).scalar_one():
        return Stored()
    moment, by = bindparam("now", now, UtcDateTime), {"import_id": import_id}
    kept = _keep(connection, _NAMED_PREFERENCES, kind="preference", **by)
    connection.execute(text(_NAME_PREFERENCES))
    overtaken, updated = connection.execute(text(_COUNT_OVERTAKEN_PREFERENCES)).scalar_one(), 0
    if kept + _keep(connection, _CHANGED_PREFERENCES, kind="preference", **by):
        updated = connection.execute(text(_UPDATE_PREFERENCES).bindparams(moment), by).rowcount
        connection.execute(text(_REMEMBER_PREFERENCES), by)
        if kept:
            connection.execute(text(_MARK_NAMED.format(table="rlhf_preferences", kind="preference")), by)
    added = connection.execute(text(_ADD_PREFERENCES).bindparams(moment), {"role": role} | by).rowcount
    return Stored(added=added, said=added, updated=updated, overtaken=overtaken)


def _keep(connection: Connection, rows: str, *, kind: str, import_id: int, **values: Any) -> int:
    """Keep what rows say that are about to be changed, by the end of a statement that finds them; return how many."""
    table, interaction = (
        ("rlhf_preferences", "first_id") if kind == "preference" else ("rlhf_reviews", "interaction_id")
    )
    columns = _FORMER_PREFERENCE if kind == "preference" else _FORMER_REVIEW
    former = ", ".join(f"'{name}', {table}.{name}" for name in columns)
    kept = connection.execute(
        text(f"""
            INSERT INTO rlhf_import_changes (import_id, kind, row_id, interaction_id, former_import_id, former)
            SELECT :import_id, :kind, {table}.id, {table}.{interaction}, {table}.import_id,
                {_json_object(connection)}({former})
            {rows}
            ON CONFLICT (import_id, kind, row_id) DO NOTHING
        """),
        {"kind": kind, "import_id": import_id} | values,
    )
    return kept.rowcount


def _json_object(connection: Connection) -> str:
    return "json_object" if connection.dialect.name == "sqlite" else "json_build_object"


_FORMER_REVIEW = ("reviewer", "rating", "comment", "correction", "reviewed_at", "role", "harmful", "imported")
_FORMER_PREFERENCE = ("reviewer", "preferred", "preferred_at", "imported")


def _staged_pair(better: Mapping[str, Any], worse: Mapping[str, Any], preferred_at: datetime | None) -> dict[str, Any]:
    one, other = sorted((better["identity"], worse["identity"]))
    return {
        "place": better["place"],
        "line": better["line"],
        "one": one,
        "other": other,
        "one_is_better": one == better["identity"],
        "reviewer": better["reviewer"],
        "nameless": better["nameless"],
        "role": better["role"],
        "preferred_at": preferred_at,
    }


# Of several words of one reviewer the last one counts, as with reviews.
_MARK_FIRST_PAIRS = f"""
    UPDATE rlhf_import_pairs SET first_pair = f.place
    FROM (SELECT one, other, reviewer, place, row_number() OVER (
              PARTITION BY one, other, reviewer
              ORDER BY CASE WHEN reviewer <> '{ANONYMOUS}' THEN preferred_at END DESC NULLS LAST, place) AS number
          FROM rlhf_import_pairs) AS f
    WHERE f.number = 1 AND f.one = rlhf_import_pairs.one AND f.other = rlhf_import_pairs.other
        AND f.reviewer = rlhf_import_pairs.reviewer
"""

_SAME_ANSWER_TWICE = "SELECT place, line FROM rlhf_import_pairs WHERE one = other ORDER BY place"

_OTHER_PREFERENCE_IN_FILE = f"""
    SELECT s.place, s.line, s.reviewer, f.line AS earlier
    FROM rlhf_import_pairs s JOIN rlhf_import_pairs f ON f.place = s.first_pair
    WHERE s.one_is_better <> f.one_is_better
        AND (s.reviewer = '{ANONYMOUS}' OR s.preferred_at IS NULL OR f.preferred_at IS NULL
            OR s.preferred_at >= f.preferred_at)
    ORDER BY s.place
"""

# Of the two ids the lower one is the first, as everywhere.
_PREFERENCES = """
    SELECT
        CASE WHEN a.id < b.id THEN a.id ELSE b.id END AS first_id,
        CASE WHEN a.id < b.id THEN b.id ELSE a.id END AS second_id,
        CASE WHEN (a.id < b.id) = s.one_is_better THEN 'first' ELSE 'second' END AS preferred,
        s.place, s.reviewer, s.role, s.preferred_at
    FROM rlhf_import_pairs s
        JOIN rlhf_interactions a ON a.external_id = s.one
        JOIN rlhf_interactions b ON b.external_id = s.other
    WHERE s.place = s.first_pair
"""

# An earlier version called whoever has no name anonymous if they were the only one; now they go by what they said.
_NAMED_PREFERENCE = f"""
    rlhf_preferences.first_id = s.first_id AND rlhf_preferences.second_id = s.second_id
        AND rlhf_preferences.reviewer = '{ANONYMOUS}' AND rlhf_preferences.preferred = s.preferred
        AND NOT EXISTS (
            SELECT 1 FROM rlhf_preferences o
            WHERE o.first_id = s.first_id AND o.second_id = s.second_id AND o.reviewer = s.reviewer)
"""

_NAMED_PREFERENCES = (
    f"FROM ({_PREFERENCES} AND s.nameless) AS s JOIN rlhf_preferences ON {_NAMED_PREFERENCE} WHERE true"
)

# Last: whoever writes a row without another import's number takes its number away.
_MARK_NAMED = """
    UPDATE {table} SET import_id = :import_id
    WHERE id IN (SELECT row_id FROM rlhf_import_changes WHERE import_id = :import_id AND kind = '{kind}')
"""

_NAME_PREFERENCES = f"""
    UPDATE rlhf_preferences SET reviewer = s.reviewer
    FROM ({_PREFERENCES} AND s.nameless) AS s
    WHERE {_NAMED_PREFERENCE}
"""

_SAME_PREFERENCE = """
    rlhf_preferences.first_id = s.first_id AND rlhf_preferences.second_id = s.second_id
        AND rlhf_preferences.reviewer = s.reviewer
"""

# What the last import without times said is no news.
_NEWER_PREFERENCE = """
    (s.preferred_at >= rlhf_preferences.preferred_at
        OR s.preferred_at IS NULL AND coalesce(rlhf_preferences.imported, '') <> s.preferred)
"""

_COUNT_OVERTAKEN_PREFERENCES = f"""
    SELECT count(*) FROM ({_PREFERENCES}) AS s JOIN rlhf_preferences ON {_SAME_PREFERENCE}
    WHERE rlhf_preferences.preferred <> s.preferred AND {_NEWER_PREFERENCE} IS NOT TRUE
"""

_SAYS_OTHERWISE = """
    (rlhf_preferences.preferred <> s.preferred OR rlhf_preferences.preferred_at <> s.preferred_at)
"""

_NOT_REMEMBERED = "s.preferred_at IS NULL AND coalesce(rlhf_preferences.imported, '') <> s.preferred"

_CHANGED_PREFERENCES = f"""
    FROM ({_PREFERENCES}) AS s JOIN rlhf_preferences ON {_SAME_PREFERENCE}
    WHERE {_NEWER_PREFERENCE} AND {_SAYS_OTHERWISE} OR {_NOT_REMEMBERED}
"""

_UPDATE_PREFERENCES = f"""
    UPDATE rlhf_preferences SET
        preferred = s.preferred,
        preferred_at = coalesce(s.preferred_at, :now),
        imported = CASE WHEN s.preferred_at IS NULL THEN s.preferred ELSE rlhf_preferences.imported END,
        import_id = :import_id
    FROM ({_PREFERENCES}) AS s
    WHERE {_SAME_PREFERENCE} AND {_NEWER_PREFERENCE} AND {_SAYS_OTHERWISE}
"""

# Where nothing else changed.
_REMEMBER_PREFERENCES = f"""
    UPDATE rlhf_preferences SET imported = s.preferred, import_id = :import_id
    FROM ({_PREFERENCES}) AS s
    WHERE {_SAME_PREFERENCE} AND {_NOT_REMEMBERED}
"""

_ADD_PREFERENCES = f"""
    INSERT INTO rlhf_preferences (first_id, second_id, reviewer, role, preferred, preferred_at, imported, import_id)
    SELECT s.first_id, s.second_id, s.reviewer, coalesce(s.role, :role), s.preferred, coalesce(s.preferred_at, :now),
        CASE WHEN s.preferred_at IS NULL THEN s.preferred END, :import_id
    FROM ({_PREFERENCES}) AS s
    WHERE true ORDER BY s.place
    ON CONFLICT (first_id, second_id, reviewer) DO NOTHING
"""


#: Turns a time into what the driver stores.
_Time = Callable[[datetime | None], Any]

_IMPORT_LOCK = 0x524C4849  # the key of PostgreSQL's advisory lock


def add(connection: Connection, rows: Sequence[FileRow], *, place: int, unsaid: ImportDefaults) -> int:
    """Stage rows that can be stored, from that place on; return the next free one."""
    answers: list[dict[str, Any]] = []
    pairs: list[tuple[dict[str, Any], dict[str, Any], datetime | None]] = []
    time, now = partial(UtcDateTime().process_bind_param, dialect=connection.dialect), datetime.now(UTC)
    for row in rows:
        assert row.rating is not None
        better = _staged(row, row.rating, place + len(answers), unsaid, time, now)
        answers.append(better)
        if row.worse is not None:
            worse = _staged(row, row.worse, place + len(answers), unsaid, time, now)
            answers.append(worse)
            pairs.append((better, worse, _not_in_future(row.rating.rated_at, now)))
    if answers:
        _insert(connection, answers)
    add_pairs(connection, pairs)
    return place + len(answers)


def _insert(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    # Straight to the driver: what SQLAlchemy does with each of the many cells takes longer than the database does.
    style = ":{}" if connection.dialect.name == "sqlite" else "%({})s"
    names = list(rows[0])
    values = ", ".join(style.format(name) for name in names)
    connection.exec_driver_sql(f"INSERT INTO {STAGE.name} ({', '.join(names)}) VALUES ({values})", list(rows))


def drop_contradictions(connection: Connection, *, advice: str) -> list[RowError]:
    """Take out the rows that contradict an earlier row of the file, and name both lines, with advice.

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
        for row in drop(connection, _OTHER_TEXT_IN_FILE, unlike=_TEXTS_IN_FILE)
    ]
    connection.execute(text(_MARK_FIRST_REVIEWS))
    for row in drop(connection, _OTHER_WORDS_IN_FILE):
        what = f"rating {row.rating} here and {row.before}" if row.rating != row.before else "other words here than"
        reason = f"the answer has {what} on line {row.earlier}, both by {row.reviewer!r}; {advice}"
        errors.append(RowError(row.line, reason))
    return errors + drop_contradicting_pairs(connection)


def drop_other_texts(connection: Connection) -> list[RowError]:
    """Take out the rows whose `external_id` the database has for another answer.

    An earlier version stored some questions as the JSON around them; what the file's record says takes its place.
    """
    for row in connection.execute(text(_JSON_IN_DATABASE)).all():
        prompt, response, stored_prompt, stored = connection.execute(
            text(_TEXTS_IN_DATABASE), {"place": row.place}
        ).one()
        if is_read_from(stored_prompt, prompt) and is_read_from(stored, response):
            texts = {"id": row.id, "user_prompt": prompt, "ai_response": response}
            connection.execute(text(_READ_ANEW), texts)
    return [
        RowError(row.line, f"external_id is {row.identity!r}, which interaction {row.id} has for another answer")
        for row in drop(connection, _OTHER_TEXT_IN_DATABASE, unlike=_TEXTS_IN_DATABASE)
    ]


def lock(connection: Connection) -> None:
    """Let one import store at a time, on PostgreSQL: two that lock many interactions could wait for each other."""
    if connection.dialect.name == "postgresql":
        take_turn(connection)
        connection.execute(text(_LOCK_KNOWN))


def take_turn(connection: Connection) -> None:
    """Wait for the imports that store or are undone at the moment; SQLite has one writer at a time anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _IMPORT_LOCK})


def store(
    connection: Connection, *, unsaid: ImportDefaults, import_id: int, step: Callable[[int], None] = lambda done: None
) -> Stored:
    """Move the staged rows into the tables, as those of an import; return what became of them.

    `step` gets 1 when the answers are there, and 2 when the reviews are.
    """
    role, moment, by = str(unsaid.role), datetime.now(UTC), {"import_id": import_id}
    now = bindparam("now", moment, UtcDateTime)
    unrated = connection.execute(text(_COUNT_NEW_UNRATED)).scalar_one()
    new = connection.execute(text(_ADD_INTERACTIONS).bindparams(now), by).rowcount
    step(1)
    overtaken = updated = 0
    # Of new answers nobody has said anything yet.
    if new < connection.execute(text(_COUNT_ANSWERS)).scalar_one():
        for remarks in _HIDDEN_REMARKS:
            connection.execute(text(remarks.format(json_object=_json_object(connection))), by)
        kept = _keep(connection, _NAMED_REVIEWS, kind="review", **by, usual=unsaid.reviewer)
        if kept:
            connection.execute(text(_NAME_REVIEWERS), {"usual": unsaid.reviewer})
        overtaken = connection.execute(text(_COUNT_OVERTAKEN)).scalar_one()
        if kept + _keep(connection, _CHANGED_REVIEWS, kind="review", **by):
            updated = connection.execute(text(_UPDATE_REVIEWS).bindparams(now), by).rowcount
            connection.execute(text(_REMEMBER_REVIEWS), by)
            if kept:
                connection.execute(text(_MARK_NAMED.format(table="rlhf_reviews", kind="review")), by)
    added = connection.execute(text(_ADD_REVIEWS).bindparams(now), {"role": role} | by).rowcount
    step(2)
    withdrawn = connection.execute(text(_TAKEN_BACK)).all()
    for row in withdrawn:
        _keep(connection, _WITHDRAWN, kind="withdrawn", **by, key=row.id, reviewer=row.reviewer)
        withdraw_review(connection, row.id, reviewer=row.reviewer)
    overtaken += connection.execute(text(_COUNT_NOT_TAKEN_BACK)).scalar_one()
    for remarks in _NEW_REMARKS:
        connection.execute(text(remarks.format(json_object=_json_object(connection))), by)
    remarked = connection.execute(text(_ADD_REMARKS)).rowcount
    relabelled = connection.execute(text(_COUNT_CHANGED_LABELS)).scalar_one()
    repeated = connection.execute(text(_COUNT_SAME_LABELS)).scalar_one()
    labelled = connection.execute(text(_ADD_LABELS).bindparams(now), by).rowcount
    pairs = store_pairs(connection, role=role, now=moment, import_id=import_id)
    return Stored(
        added=unrated + added + pairs.added + labelled - relabelled - repeated,
        said=added + pairs.said + labelled,
        updated=updated + len(withdrawn) + remarked + pairs.updated + relabelled,
        withdrawn=len(withdrawn),
        overtaken=overtaken + pairs.overtaken,
        remarks=connection.execute(text(_COUNT_REMARKS)).scalar_one(),
    )


def identity(rating: Rating, *, source: str | None) -> str:
    """Name an answer, so that another import knows it again."""
    if rating.external_id is not None:
        return rating.external_id
    return answer_name(rating.candidate_group, source, rating.user_prompt, rating.ai_response)


def _staged(
    row: FileRow, rating: Rating, place: int, unsaid: ImportDefaults, time: _Time, now: datetime
) -> dict[str, Any]:
    review, origin = rating.review, rating.origin
    source = origin.source if origin.source is not None else unsaid.source
    elsewhere = row.texts_elsewhere
    # Whoever imports may say who it was.
    stand_in = row.stand_in if unsaid.reviewer == ANONYMOUS else None
    reviewer = review.reviewer or stand_in or unsaid.reviewer
    words = field_values(review) | {
        "role": None if "reviewer_role" in row.unsaid else str(review.role),
        "harmful": None if "harmful" in row.unsaid else review.harmful,
    }
    return {
        "place": place,
        "line": row.line,
        "identity": identity(rating, source=source),
        "of_pair": row.worse is not None,
        "texts_elsewhere": elsewhere,
        "user_prompt": None if elsewhere else rating.user_prompt,
        "ai_response": None if elsewhere else rating.ai_response,
        **words,
        "label": row.label,
        "reviewer": reviewer,
        "nameless": row.stand_in == reviewer,
        # Of people without names nobody knows whose word it was.
        "taken_back": row.taken_back and review.reviewer is not None,
        "said": None if review.rating is None or review.reviewed_at is not None else _digest(words),
        **field_values(origin),
        "source": source,
        "candidate_group": rating.candidate_group,
        "shown_rank": rating.shown_rank,
        "score": rating.score,
        "model_version": rating.model_version,
        "created_at": time(rating.created_at),
        "reviewed_at": time(_not_in_future(review.reviewed_at, now)),
        "retrieved_at": time(origin.retrieved_at),
    }


def _not_in_future(moment: datetime | None, now: datetime) -> datetime | None:
    # A clock that is wrong would keep out all that comes later.
    return moment and min(moment, now)


def _digest(words: Mapping[str, Any]) -> str:
    """Return a digest of a review without its reviewer and time, by which the same words are known again."""
    # Without what is not said, so that it stays the same when a review gets another field.
    said = {name: words[name] for name in sorted(words) if words[name] is not None}
    plain = repr({name: value for name, value in said.items() if name not in ("reviewer", "reviewed_at")})
    return hashlib.sha256(plain.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _differ(connection: Connection, texts: str, place: int) -> bool:
    prompt, response, other_prompt, other = connection.execute(text(texts), {"place": place}).one()
    return visible(prompt) != visible(other_prompt) or visible(response) != visible(other)


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
              ORDER BY CASE WHEN reviewer <> '{ANONYMOUS}' THEN reviewed_at END DESC NULLS LAST, place) AS number
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

# One row's at a time: those of all could be more than there is memory.
_TEXTS_IN_FILE = """
    SELECT s.user_prompt, s.ai_response, f.user_prompt, f.ai_response
    FROM rlhf_import s JOIN rlhf_import f ON f.place = s.first_place WHERE s.place = :place
"""

_TEXTS_IN_DATABASE = """
    SELECT s.user_prompt, s.ai_response, i.user_prompt, i.ai_response
    FROM rlhf_import s JOIN rlhf_interactions i ON i.external_id = s.identity WHERE s.place = :place
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
        AND (s.reviewer = '{ANONYMOUS}' OR s.reviewed_at IS NULL OR f.reviewed_at IS NULL
            OR s.reviewed_at >= f.reviewed_at)
    ORDER BY s.place
"""

_OTHER_TEXT_IN_DATABASE = """
    SELECT s.place, s.line, s.identity, i.id
    FROM rlhf_import s JOIN rlhf_interactions i ON i.external_id = s.identity
    WHERE s.user_prompt <> i.user_prompt OR s.ai_response <> i.ai_response
    ORDER BY s.place
"""

_JSON_IN_DATABASE = """
    SELECT s.place, i.id
    FROM rlhf_import s JOIN rlhf_interactions i ON i.external_id = s.identity
    WHERE s.place = s.first_place AND substr(i.user_prompt, 1, 1) IN ('{', '[', '"') AND s.user_prompt <> i.user_prompt
    ORDER BY s.place
"""

_READ_ANEW = "UPDATE rlhf_interactions SET user_prompt = :user_prompt, ai_response = :ai_response WHERE id = :id"

_LOCK_KNOWN = """
    SELECT id FROM rlhf_interactions WHERE external_id IN (SELECT identity FROM rlhf_import)
    ORDER BY id FOR NO KEY UPDATE
"""

_COUNT_NEW_UNRATED = """
    SELECT count(*) FROM rlhf_import s
    WHERE s.place = s.first_place AND s.rating IS NULL AND s.label IS NULL AND NOT s.of_pair
        AND NOT EXISTS (SELECT 1 FROM rlhf_interactions i WHERE i.external_id = s.identity)
"""

# A comment without a rating has no review to live in; it stays with the answer.
_ADD_INTERACTIONS = """
    INSERT INTO rlhf_interactions (
        user_prompt, ai_response, feedback_comment, corrected_response, source, candidate_group, shown_rank, score,
        model_version, external_id, created_at, title, url, licence, retrieved_at, drafted_by,
        import_id)
    SELECT
        user_prompt, ai_response, CASE WHEN rating IS NULL THEN comment END,
        CASE WHEN rating IS NULL THEN correction END, source, candidate_group, shown_rank, score,
        model_version, identity, coalesce(created_at, :now), title, url, licence, retrieved_at,
        drafted_by, :import_id
    FROM rlhf_import WHERE place = first_place ORDER BY place
    ON CONFLICT (external_id) DO NOTHING
"""

_COUNT_ANSWERS = "SELECT count(*) FROM rlhf_import WHERE place = first_place"

# An earlier version called whoever has no name as the importer said if they were the only one. Of two such rows the
# first may be that one.
_NAMED = f"""
    rlhf_import s JOIN (
        SELECT r.id AS review, min(s.place) AS place
        FROM rlhf_import s
            JOIN rlhf_interactions i ON i.external_id = s.identity
            JOIN rlhf_reviews r ON r.interaction_id = i.id AND r.reviewer = :usual
        WHERE s.nameless AND s.place = s.first_review
            AND (s.reviewed_at = r.reviewed_at
                OR (s.reviewed_at IS NULL AND s.rating = r.rating AND r.reviewer = '{ANONYMOUS}'))
            AND NOT EXISTS (SELECT 1 FROM rlhf_reviews o WHERE o.interaction_id = i.id AND o.reviewer = s.reviewer)
        GROUP BY r.id) AS f ON s.place = f.place
"""

_NAMED_REVIEWS = f"FROM {_NAMED} JOIN rlhf_reviews ON rlhf_reviews.id = f.review WHERE true"

_NAME_REVIEWERS = f"""
    UPDATE rlhf_reviews SET reviewer = s.reviewer
    FROM {_NAMED}
    WHERE rlhf_reviews.id = f.review
"""

_OF_REVIEW = """
    FROM rlhf_import s JOIN rlhf_interactions i ON i.external_id = s.identity
"""

_SAME_REVIEW = """
    s.place = s.first_review AND rlhf_reviews.interaction_id = i.id AND rlhf_reviews.reviewer = s.reviewer
"""

# What the last import without times said is no news.
_NEWER_REVIEW = """
    (s.reviewed_at >= rlhf_reviews.reviewed_at
        OR s.reviewed_at IS NULL AND coalesce(rlhf_reviews.imported, '') <> s.said)
"""

_OTHER_REVIEW = """
    s.rating <> rlhf_reviews.rating
        OR s.comment <> coalesce(rlhf_reviews.comment, '')
        OR s.correction <> coalesce(rlhf_reviews.correction, '')
        OR s.harmful <> rlhf_reviews.harmful
        OR s.role <> rlhf_reviews.role
"""

_COUNT_OVERTAKEN = f"""
    SELECT count(*) {_OF_REVIEW} JOIN rlhf_reviews ON {_SAME_REVIEW}
    WHERE ({_OTHER_REVIEW}) AND {_NEWER_REVIEW} IS NOT TRUE
"""

_OTHER_OR_LATER = f"{_NEWER_REVIEW} AND ({_OTHER_REVIEW} OR s.reviewed_at <> rlhf_reviews.reviewed_at)"

_NO_MEMORY = "coalesce(rlhf_reviews.imported, '') <> s.said"

_CHANGED_REVIEWS = f"{_OF_REVIEW} JOIN rlhf_reviews ON {_SAME_REVIEW} WHERE {_OTHER_OR_LATER} OR {_NO_MEMORY}"

_UPDATE_REVIEWS = f"""
    UPDATE rlhf_reviews SET
        rating = s.rating,
        comment = coalesce(s.comment, rlhf_reviews.comment),
        correction = coalesce(s.correction, rlhf_reviews.correction),
        harmful = coalesce(s.harmful, rlhf_reviews.harmful),
        role = coalesce(s.role, rlhf_reviews.role),
        reviewed_at = coalesce(s.reviewed_at, :now),
        imported = coalesce(s.said, rlhf_reviews.imported),
        import_id = :import_id
    {_OF_REVIEW}
    WHERE {_SAME_REVIEW} AND {_OTHER_OR_LATER}
"""

# Where nothing else changed: the triggers pass over this column.
_REMEMBER_REVIEWS = f"""
    UPDATE rlhf_reviews SET imported = s.said, import_id = :import_id
    {_OF_REVIEW}
    WHERE {_SAME_REVIEW} AND {_NO_MEMORY}
"""

# Whoever has another grade in the file that stands has not taken it back.
_SAID_TO_BE_TAKEN_BACK = """
    SELECT DISTINCT i.id, s.reviewer
    FROM rlhf_import s
        JOIN rlhf_interactions i ON i.external_id = s.identity
        JOIN rlhf_reviews r ON r.interaction_id = i.id AND r.reviewer = s.reviewer
    WHERE s.taken_back AND NOT EXISTS (
        SELECT 1 FROM rlhf_import o WHERE o.identity = s.identity AND o.reviewer = s.reviewer AND o.rating IS NOT NULL)
"""

_TAKEN_BACK = f"{_SAID_TO_BE_TAKEN_BACK} AND s.reviewed_at >= r.reviewed_at ORDER BY i.id, s.reviewer"

_WITHDRAWN = "FROM rlhf_reviews WHERE rlhf_reviews.interaction_id = :key AND rlhf_reviews.reviewer = :reviewer"

# After the others are gone.
_COUNT_NOT_TAKEN_BACK = f"SELECT count(*) FROM ({_SAID_TO_BE_TAKEN_BACK}) AS s"


# What is said without a rating stays with its answer, where nothing of the kind is. The triggers leave alone what
# counts as a change of reviews.
_FIRST_REMARKS = """
    (SELECT identity,
        min(CASE WHEN comment IS NOT NULL THEN place END) AS commented,
        min(CASE WHEN correction IS NOT NULL THEN place END) AS corrected
    FROM rlhf_import WHERE rating IS NULL AND NOT taken_back AND (comment IS NOT NULL OR correction IS NOT NULL)
    GROUP BY identity) AS f
        LEFT JOIN rlhf_import c ON c.place = f.commented
        LEFT JOIN rlhf_import d ON d.place = f.corrected
"""

_ADD_REMARKS = f"""
    UPDATE rlhf_interactions SET
        feedback_comment = coalesce(rlhf_interactions.feedback_comment, c.comment),
        corrected_response = coalesce(rlhf_interactions.corrected_response, d.correction),
        review_changes = rlhf_interactions.review_changes + 1
    FROM {_FIRST_REMARKS}
    WHERE rlhf_interactions.external_id = f.identity AND (
        rlhf_interactions.feedback_comment IS NULL AND c.comment IS NOT NULL
        OR rlhf_interactions.corrected_response IS NULL AND d.correction IS NOT NULL)
"""

#: The columns of what stands with an answer itself, by the kind of the change.
REMARKS = {"comment": "feedback_comment", "correction": "corrected_response"}

_KEEP_REMARK = """
    INSERT INTO rlhf_import_changes (import_id, kind, row_id, interaction_id, former)
    SELECT :import_id, '{kind}', i.id, i.id, {{json_object}}('before', i.{column}, 'after', {after})
    FROM {rows} JOIN rlhf_interactions i ON i.external_id = {of}.identity
    WHERE coalesce(i.import_id, 0) <> :import_id AND {which}
    ON CONFLICT (import_id, kind, row_id) DO NOTHING
"""

# A comment that comes with a review takes the place of one that nobody's review has.
_HIDDEN_REMARKS = tuple(
    _KEEP_REMARK.format(
        kind=kind,
        column=column,
        after="NULL",
        rows="rlhf_import s",
        of="s",
        which=f"s.rating IS NOT NULL AND s.{kind} IS NOT NULL AND i.{column} IS NOT NULL AND NOT EXISTS ("
        f"SELECT 1 FROM rlhf_reviews r WHERE r.interaction_id = i.id AND r.{kind} IS NOT NULL)",
    )
    for kind, column in REMARKS.items()
)

_NEW_REMARKS = tuple(
    _KEEP_REMARK.format(
        kind=kind,
        column=column,
        after=f"{row}.{kind}",
        rows=_FIRST_REMARKS,
        of="f",
        which=f"{row}.{kind} IS NOT NULL AND i.{column} IS NULL",
    )
    for (kind, column), row in zip(REMARKS.items(), "cd", strict=True)
)

_COUNT_REMARKS = """
    SELECT count(*) FROM rlhf_import s JOIN rlhf_interactions i ON i.external_id = s.identity
    WHERE s.rating IS NULL AND NOT s.taken_back AND (
        s.comment <> coalesce(i.feedback_comment, '') AND NOT EXISTS (
            SELECT 1 FROM rlhf_reviews r WHERE r.interaction_id = i.id AND r.comment = s.comment)
        OR s.correction <> coalesce(i.corrected_response, '') AND NOT EXISTS (
            SELECT 1 FROM rlhf_reviews r WHERE r.interaction_id = i.id AND r.correction = s.correction))
"""

# Of several labels of one judge on one answer, as by a model that was asked several times, the mean.
_LABELS = """
    SELECT i.id AS interaction_id, f.reviewer AS judge, f.label,
        (SELECT l.label FROM rlhf_judge_labels l
         WHERE l.interaction_id = i.id AND l.judge = f.reviewer ORDER BY l.import_id DESC LIMIT 1) AS before
    FROM (SELECT identity, reviewer, avg(label) AS label
          FROM rlhf_import WHERE label IS NOT NULL GROUP BY identity, reviewer) AS f
        JOIN rlhf_interactions i ON i.external_id = f.identity
"""

_IS_OTHER = "abs(s.before - s.label) > 1e-9"

_COUNT_CHANGED_LABELS = f"SELECT count(*) FROM ({_LABELS}) AS s WHERE {_IS_OTHER}"
_COUNT_SAME_LABELS = f"SELECT count(*) FROM ({_LABELS}) AS s WHERE s.before IS NOT NULL AND NOT {_IS_OTHER}"

# Also those that hold already: whoever takes back the import that said them first takes back no more than that.
_ADD_LABELS = f"""
    INSERT INTO rlhf_judge_labels (interaction_id, judge, label, labelled_at, import_id)
    SELECT s.interaction_id, s.judge, s.label, :now, :import_id FROM ({_LABELS}) AS s
"""

_ADD_REVIEWS = """
    INSERT INTO rlhf_reviews (
        interaction_id, reviewer, rating, comment, correction, reviewed_at, harmful, role, imported, import_id)
    SELECT i.id, s.reviewer, s.rating, s.comment, s.correction, coalesce(s.reviewed_at, :now),
        coalesce(s.harmful, false), coalesce(s.role, :role), s.said, :import_id
    FROM rlhf_import s JOIN rlhf_interactions i ON i.external_id = s.identity
    WHERE s.place = s.first_review ORDER BY s.place
    ON CONFLICT (interaction_id, reviewer) DO NOTHING
"""
