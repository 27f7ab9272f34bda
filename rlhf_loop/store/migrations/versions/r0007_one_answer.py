"""Texts are stored tidily, and answers that nobody can tell apart by sight are one, with all that was said of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op

from rlhf_loop.domain import answer_name, raw_answer_name
from rlhf_loop.utils.text import tidied

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_AT_ONCE = 500
_Row = sa.RowMapping
#: Columns that an answer has from the one that it became one with, where it has none.
_FILLED = ("shown_rank", "score", "model_version", "title", "url", "licence", "retrieved_at")
_AUDIT = sa.table(
    "rlhf_audit_log", *(sa.column(name) for name in ("id", "actor", "action", "target")), sa.column("detail", sa.JSON)
)
_SERVED = sa.table(
    "rlhf_served_questions", sa.column("candidate_group"), sa.column("first_id"), sa.column("teams", sa.JSON)
)


def upgrade() -> None:
    """Tidy the texts, name by what can be seen the answers that were named by their texts, and merge the same ones."""
    names = {row["id"]: name for row in _pages("rlhf_interactions") if (name := _new_name(row)) != row["external_id"]}
    _tidy("rlhf_interactions", "user_prompt", "ai_response")
    _tidy("rlhf_reviews", "comment", "correction")
    _tidy("rlhf_correction_decisions", "correction", key="review_id")
    into: dict[int, int] = {}
    former: dict[str, str] = {}
    for key, name in names.items():
        [row] = _all("SELECT * FROM rlhf_interactions WHERE id = :key", key=key)
        former[row["external_id"]] = name
        there = _all("SELECT * FROM rlhf_interactions WHERE external_id = :name", name=name)
        kept = key
        if there:
            kept, gone = sorted((key, there[0]["id"]))
            into[gone] = kept
            _merge(*sorted((row, there[0]), key=lambda each: int(each["id"])))
        _do("UPDATE rlhf_interactions SET external_id = :name WHERE id = :kept", name=name, kept=kept)
        _note("interaction.renamed", f"interaction_id:{row['external_id']}", {"interaction": kept, "id": name})
    _rename_served(former)
    _rename_annotated(into)


def _new_name(row: _Row) -> str:
    texts = [row[name] for name in ("candidate_group", "source", "user_prompt", "ai_response")]
    # Another name is one that somebody gave it.
    return answer_name(*texts) if row["external_id"] == raw_answer_name(*texts) else str(row["external_id"])


def _tidy(table: str, *columns: str, key: str = "id") -> None:
    for row in _pages(table, key=key):
        for column in columns:
            if (text := row[column]) and (better := tidied(text)) != text:
                _do(f"UPDATE {table} SET {column} = :better WHERE {key} = :key", better=better, key=row[key])


def _merge(kept: _Row, gone: _Row) -> None:
    keys = {"kept": kept["id"], "gone": gone["id"]}
    for review in _all("SELECT * FROM rlhf_reviews WHERE interaction_id = :gone", **keys):
        _move_review(review, keys["kept"])
    for table, state in (("rlhf_preferences", "preferred"), ("rlhf_pair_assignments", "state")):
        for pair in _all(f"SELECT * FROM {table} WHERE :gone IN (first_id, second_id)", **keys):
            _move_pair(table, state, pair, **keys)
    # Of two of one rater, the one that says more or is newer stays.
    for table, order in (("rlhf_assignments", "state <> 'open', assigned_at"), ("rlhf_drafts", "saved_at")):
        for row in _all(f"SELECT reviewer FROM {table} WHERE interaction_id = :gone", **keys):
            mine = f"reviewer = :reviewer AND interaction_id IN (:kept, :gone) ORDER BY {order}"
            same = _all(f"SELECT interaction_id FROM {table} WHERE {mine}", reviewer=row["reviewer"], **keys)
            for other in same[:-1]:
                at = {"id": other["interaction_id"], "reviewer": row["reviewer"]}
                _do(f"DELETE FROM {table} WHERE interaction_id = :id AND reviewer = :reviewer", **at)
        _do(f"UPDATE {table} SET interaction_id = :kept WHERE interaction_id = :gone", **keys)
    values = {name: gone[name] for name in _FILLED if kept[name] is None and gone[name] is not None}
    values["created_at"] = min(kept["created_at"], gone["created_at"])
    # A remark without a rating stays with the answer. The triggers leave alone what counts as a change of reviews.
    for name in ("feedback_comment", "corrected_response"):
        if not _all(f"SELECT 1 FROM rlhf_interactions WHERE id = :kept AND {name} IS NOT NULL", **keys):
            values[name] = gone[name]
    changes = "".join(f", {name} = :{name}" for name in values)
    _do("DELETE FROM rlhf_interactions WHERE id = :gone", **keys)
    _do(f"UPDATE rlhf_interactions SET review_changes = review_changes + 1{changes} WHERE id = :kept", **keys, **values)


def _move_review(review: _Row, kept: int) -> None:
    there = "SELECT * FROM rlhf_reviews WHERE interaction_id = :kept AND reviewer = :reviewer"
    both = [*_all(there, kept=kept, reviewer=review["reviewer"]), review]
    older, newer = min(both, key=_age), max(both, key=_age)
    values = {name: newer[name] for name in ("comment", "correction")}
    if len(both) == 2:
        # The last word counts, as with a second import; what it leaves open stands as it was said before.
        values = {name: newer[name] if newer[name] is not None else older[name] for name in values}
        decided = {"older": older["id"], "newer": newer["id"]}
        if newer["correction"] is None:
            _do("DELETE FROM rlhf_correction_decisions WHERE review_id = :newer", **decided)
            _do("UPDATE rlhf_correction_decisions SET review_id = :newer WHERE review_id = :older", **decided)
        _do("DELETE FROM rlhf_reviews WHERE id = :older", **decided)
        _note("review.changed", f"interaction:{kept}", {"rating": newer["rating"], "merged": _plain(older)})
    _do(
        "UPDATE rlhf_reviews SET interaction_id = :kept, comment = :comment, correction = :correction WHERE id = :id",
        kept=kept,
        id=newer["id"],
        **values,
    )


def _move_pair(table: str, state: str, pair: _Row, *, kept: int, gone: int) -> None:
    ids = [kept if id == gone else id for id in (pair["first_id"], pair["second_id"])]
    at = {"first": pair["first_id"], "second": pair["second_id"], "reviewer": pair["reviewer"]}
    where = "WHERE first_id = :first AND second_id = :second AND reviewer = :reviewer"
    to = {"to_first": min(ids), "to_second": max(ids)}
    there = _all(f"SELECT * FROM {table} {where}", **at | {"first": min(ids), "second": max(ids)})
    age = ("preferred_at", "id") if table == "rlhf_preferences" else ("assigned_at",)
    # Nobody can prefer one of two that are the same; of two preferences the last one counts.
    if ids[0] == ids[1] or (there and [there[0][name] for name in age] >= [pair[name] for name in age]):
        _do(f"DELETE FROM {table} {where}", **at)
        dropped = pair
    else:
        _do(f"DELETE FROM {table} {where}", **at | {"first": min(ids), "second": max(ids)})
        said = pair[state]
        if state == "preferred" and ids[0] > ids[1]:
            said = {"first": "second", "second": "first"}.get(said, said)
        change = f"UPDATE {table} SET first_id = :to_first, second_id = :to_second, {state} = :said {where}"
        _do(change, **at, **to, said=said)
        if not there:
            return
        dropped = there[0]
    if table == "rlhf_preferences":
        _note("preference.changed", f"pair:{min(ids)}-{max(ids)}", {"merged": _plain(dropped)})


def _rename_served(former: dict[str, str]) -> None:
    for old, name in former.items():
        _do("UPDATE rlhf_served_questions SET first_id = :name WHERE first_id = :old", name=name, old=old)
    if not former:
        return
    wanted = sa.select(_SERVED.c.candidate_group, _SERVED.c.teams).where(_SERVED.c.teams.is_not(None))
    for group, teams in op.get_bind().execute(wanted).all():
        renamed = {former.get(id, id): team for id, team in (teams or {}).items()}
        if renamed != teams:
            op.get_bind().execute(_SERVED.update().where(_SERVED.c.candidate_group == group).values(teams=renamed))


def _rename_annotated(into: dict[int, int]) -> None:
    """Note anew what another tool's annotation became, as it is looked up there; entries are only ever added."""
    if not into:
        return
    wanted = sa.select(_AUDIT).where(_AUDIT.c.action == "annotation.received").order_by(_AUDIT.c.id)
    for row in op.get_bind().execute(wanted).all():
        became = [each for each in (row.detail or {}).get("became", [row.detail]) if each]
        moved = [each | {"answers": sorted({into.get(id, id) for id in each["answers"]})} for each in became]
        if moved != became:
            detail = {"at": row.detail.get("at"), "became": moved}
            op.get_bind().execute(_AUDIT.insert().values(**_of(row, "actor", "action", "target"), detail=detail))


def _of(row: Any, *names: str) -> dict[str, Any]:
    return {name: getattr(row, name) for name in names}


def _age(review: _Row) -> tuple[Any, int]:
    return review["reviewed_at"], review["id"]


def _plain(row: _Row) -> Any:
    return json.loads(json.dumps(dict(row), default=str))


def _note(action: str, target: str, detail: dict[str, Any]) -> None:
    values = {"actor": "migration", "action": action, "target": target, "detail": detail}
    op.get_bind().execute(_AUDIT.insert().values(**values))


def _pages(table: str, *, key: str = "id") -> Iterator[_Row]:
    """Yield the rows as they are when their page is read, by their key."""
    last = -(2**31)
    while page := _all(f"SELECT * FROM {table} WHERE {key} > :last ORDER BY {key} LIMIT {_AT_ONCE}", last=last):
        yield from page
        last = page[-1][key]


def _all(statement: str, **values: Any) -> list[_Row]:
    return list(op.get_bind().execute(sa.text(statement), values).mappings())


def _do(statement: str, **values: Any) -> None:
    op.get_bind().execute(sa.text(statement), values)
