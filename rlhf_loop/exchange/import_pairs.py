"""Preferences of a ratings file as they wait beside its answers, and the SQL that checks them and moves them on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, func, insert, select, text
from sqlalchemy.engine import Connection

from rlhf_loop.exchange.import_tables import PAIRS, RowError, drop
from rlhf_loop.store.tables import UtcDateTime


def add_pairs(connection: Connection, pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> None:
    """Stage preferences, each as the rows of its two staged answers, the better one first."""
    if pairs:
        rows = [_staged_pair(better, worse) for better, worse in pairs]
        connection.execute(insert(PAIRS), rows)


def drop_contradicting_pairs(connection: Connection) -> list[RowError]:
    """Take out the preferences that contradict an earlier one of the same reviewer, and name both lines."""
    connection.execute(text(_MARK_FIRST_PAIRS))
    return [
        RowError(row.line, f"line {row.earlier} prefers the other of the same two answers, also by {row.reviewer!r}")
        for row in drop(connection, _OTHER_PREFERENCE_IN_FILE, table=PAIRS)
    ]


def store_pairs(connection: Connection, *, role: str, now: datetime) -> tuple[int, int]:
    """Move the staged preferences into their table; return how many were added and how many updated."""
    if not connection.execute(select(func.count()).select_from(PAIRS)).scalar_one():
        return 0, 0
    moment = bindparam("now", now, UtcDateTime)
    updated = connection.execute(text(_UPDATE_PREFERENCES).bindparams(moment)).rowcount
    return connection.execute(text(_ADD_PREFERENCES).bindparams(moment), {"role": role}).rowcount, updated


def _staged_pair(better: Mapping[str, Any], worse: Mapping[str, Any]) -> dict[str, Any]:
    one, other = sorted((better["identity"], worse["identity"]))
    return {
        "place": better["place"],
        "line": better["line"],
        "one": one,
        "other": other,
        "one_is_better": one == better["identity"],
        "reviewer": better["reviewer"],
        "role": better["role"],
    }


_MARK_FIRST_PAIRS = """
    UPDATE rlhf_import_pairs SET first_pair = f.place
    FROM (SELECT one, other, reviewer, min(place) AS place FROM rlhf_import_pairs GROUP BY one, other, reviewer) AS f
    WHERE f.one = rlhf_import_pairs.one AND f.other = rlhf_import_pairs.other
        AND f.reviewer = rlhf_import_pairs.reviewer
"""

_OTHER_PREFERENCE_IN_FILE = """
    SELECT s.place, s.line, s.reviewer, f.line AS earlier
    FROM rlhf_import_pairs s JOIN rlhf_import_pairs f ON f.place = s.first_pair
    WHERE s.one_is_better <> f.one_is_better
    ORDER BY s.place
"""

# Of the two ids the lower one is the first, as everywhere.
_PREFERENCES = """
    SELECT
        CASE WHEN a.id < b.id THEN a.id ELSE b.id END AS first_id,
        CASE WHEN a.id < b.id THEN b.id ELSE a.id END AS second_id,
        CASE WHEN (a.id < b.id) = s.one_is_better THEN 'first' ELSE 'second' END AS preferred,
        s.place, s.reviewer, s.role
    FROM rlhf_import_pairs s
        JOIN rlhf_interactions a ON a.external_id = s.one
        JOIN rlhf_interactions b ON b.external_id = s.other
    WHERE s.place = s.first_pair
"""

_UPDATE_PREFERENCES = f"""
    UPDATE rlhf_preferences SET preferred = s.preferred, preferred_at = :now
    FROM ({_PREFERENCES}) AS s
    WHERE rlhf_preferences.first_id = s.first_id AND rlhf_preferences.second_id = s.second_id
        AND rlhf_preferences.reviewer = s.reviewer AND rlhf_preferences.preferred <> s.preferred
"""

_ADD_PREFERENCES = f"""
    INSERT INTO rlhf_preferences (first_id, second_id, reviewer, role, preferred, preferred_at)
    SELECT s.first_id, s.second_id, s.reviewer, coalesce(s.role, :role), s.preferred, :now
    FROM ({_PREFERENCES}) AS s
    WHERE true ORDER BY s.place
    ON CONFLICT (first_id, second_id, reviewer) DO NOTHING
"""
