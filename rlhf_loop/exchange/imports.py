"""Imports of ratings files: a list of them, and how one is taken back.

The rows that an import added have its number, and lose it when somebody says them anew; what it changed is kept as it
was (`ImportChange`). So imports lie upon each other in layers, and each can be taken out, also from below a later one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Boolean, CursorResult, bindparam, delete, insert, select, text, update
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.orm import aliased

from rlhf_loop.errors import ImportFileError
from rlhf_loop.exchange.staging import REMARKS, Stored, take_turn
from rlhf_loop.store import audit
from rlhf_loop.store.engine import reading, scrub, transaction
from rlhf_loop.store.tables import LARGEST_ID, Import, ImportChange, Interaction, Preference, Review, UtcDateTime
from rlhf_loop.utils.translation import Message

_CHUNK = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class PastImport:
    """An import as the database remembers it."""

    id: int
    imported_at: datetime
    file: str
    actor: str
    format: str
    added: int
    updated: int
    refused: int
    undone_at: datetime | None
    undone_by: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Undone:
    """The numbers of an undone import.

    Removed were `answers`, `said`, the reviews and preferences, and `labels` of judges;
    `restored` of these say again what they said before.
    `answers_kept` are used otherwise, and `said_kept` were said anew, withdrawn or approved since. `already` is when
    and by whom the import had been undone before; then nothing was done.
    """

    answers: int = 0
    said: int = 0
    labels: int = 0
    restored: int = 0
    answers_kept: int = 0
    said_kept: int = 0
    already: PastImport | None = None

    def lines(self) -> list[str]:
        """Return the numbers in sentences."""
        if self.already:
            when = f"{self.already.undone_at:%Y-%m-%d %H:%M} UTC by {self.already.undone_by}"
            return [
                Message(
                    "Import {id} was taken back before, {when}. Nothing was done.", id=str(self.already.id), when=when
                )
            ]
        found: list[str] = [
            Message.counted(
                "{n:,} answer and {said:,} reviews and preferences removed, {restored:,} as before.",
                "{n:,} answers and {said:,} reviews and preferences removed, {restored:,} as before.",
                self.answers,
                said=self.said,
                restored=self.restored,
            )
        ]
        if self.labels:
            found.append(
                Message.counted("{n:,} label of judges removed.", "{n:,} labels of judges removed.", self.labels)
            )
        if self.answers_kept:
            kept = self.answers_kept
            found.append(
                Message.counted(
                    "Kept: {n:,} answer of the import, used otherwise since.",
                    "Kept: {n:,} answers of the import, used otherwise since.",
                    kept,
                )
            )
        if self.said_kept:
            found.append(
                Message(
                    "Kept as now: {n:,} reviews and preferences, changed, withdrawn or approved since.",
                    n=self.said_kept,
                )
            )
        return found


def past_imports(engine: Engine, *, limit: int | None = None) -> list[PastImport]:
    """Return the imports, the newest first."""
    with reading(engine) as connection:
        rows = connection.execute(select(Import).order_by(Import.id.desc()).limit(limit))
        return [_past(row) for row in rows]


def begin(connection: Connection, file: str, *, actor: str, format: str) -> int:
    """Note an import in the transaction that stores it; return its number."""
    nothing = {"added": 0, "updated": 0, "refused": 0, "said": 0}
    # The name of a file need not be UTF-8.
    values = {"file": file.encode("utf-8", "replace").decode(), "actor": actor, "format": format} | nothing
    return int(
        connection.execute(
            insert(Import).returning(Import.id), values | {"imported_at": datetime.now(UTC)}
        ).scalar_one()
    )


def finish(connection: Connection, import_id: int, stored: Stored, *, refused: int) -> None:
    """Note what an import brought."""
    values = {"added": stored.added, "updated": stored.updated, "refused": refused, "said": stored.said}
    connection.execute(update(Import).where(Import.id == import_id).values(values))


def undo_import(engine: Engine, import_id: int, *, actor: str = "import", dry_run: bool = False) -> Undone:
    """Take back in one transaction what an import added and changed; with `dry_run` only count it.

    A review that somebody gave anew since stays, also with the same grade; so does one whose correction is approved,
    and an answer that is used otherwise: by other reviews or preferences, a draft, or a rater who looks at it now. What
    an import changed says again what it said before. What a later import changed further stays as that one said it, and
    is taken back with that one, to what it was before both. The second time nothing is done.

    Raises:
        ImportFileError: there is no such import.
        DatabaseError: the database cannot be reached.
    """
    undone = _undo_once(engine, import_id, actor=actor, dry_run=dry_run)
    if not dry_run:
        # The second time, too: whoever read the log the first time kept what was deleted in it.
        scrub(engine)
    return undone


def _undo_once(engine: Engine, import_id: int, *, actor: str, dry_run: bool) -> Undone:
    with transaction(engine) as connection:
        take_turn(connection)
        wanted = select(Import).where(Import.id == import_id)
        row = None if not 0 < import_id <= LARGEST_ID else connection.execute(wanted).one_or_none()
        if row is None:
            raise ImportFileError(f"There is no import {import_id}. The command rlhf-loop ratings imports lists them.")
        if row.undone_at is not None:
            return Undone(already=_past(row))
        undone = _undo(connection, import_id, said=row.said)
        if dry_run:
            connection.rollback()
            return undone
        now = {"undone_at": datetime.now(UTC), "undone_by": actor}
        connection.execute(update(Import).where(Import.id == import_id).values(now))
        counts = {"answers": undone.answers, "said": undone.said, "restored": undone.restored}
        counts |= {"labels": undone.labels} if undone.labels else {}
        kept = {"answers_kept": undone.answers_kept, "said_kept": undone.said_kept}
        audit.note(
            connection, actor, "ratings.import_undone", f"import:{import_id}", {"file": row.file} | counts | kept
        )
    return undone


def _past(row: Any) -> PastImport:
    return PastImport(**{name: getattr(row, name) for name in (field.name for field in fields(PastImport))})


def _undo(connection: Connection, import_id: int, *, said: int) -> Undone:
    now = bindparam("now", datetime.now(UTC), UtcDateTime)

    def run(statement: str) -> CursorResult[Any]:
        return connection.execute(text(statement).bindparams(*[now] * (":now" in statement)), {"id": import_id})

    if connection.dialect.name == "postgresql":
        run(_LOCK)
    changed = run(_COUNT_CHANGED).scalar_one()
    removed = run(f"SELECT count(*) FROM rlhf_reviews AS r WHERE {_ADDED_REVIEW}").scalar_one()
    removed += run(f"SELECT count(*) FROM rlhf_preferences AS p WHERE {_ADDED_PREFERENCE}").scalar_one()
    labels = run("SELECT count(*) FROM rlhf_judge_labels WHERE import_id = :id").scalar_one()
    answers = run(_DELETE_ANSWERS).rowcount
    run("DELETE FROM rlhf_judge_labels WHERE import_id = :id")
    run(f"DELETE FROM rlhf_reviews AS r WHERE {_ADDED_REVIEW}")
    run(f"DELETE FROM rlhf_preferences AS p WHERE {_ADDED_PREFERENCE}")
    back = _give_back(connection, import_id)
    same = other = 0
    for table, found in ((Review, _CHANGED_REVIEWS), (Preference, _CHANGED_PREFERENCES)):
        keys = run(found).scalars().all()
        for start in range(0, len(keys), _CHUNK):
            equal, unequal = _restore(connection, import_id, table, keys[start : start + _CHUNK])
            same, other = same + equal, other + unequal
    for kind, column in REMARKS.items():
        _restore_remarks(connection, import_id, kind, column)
        run(_CLEAR_REMARKS.format(kind=kind, column=column))
    for statement in _LAYERS:
        run(statement)
    return Undone(
        answers=answers,
        said=removed,
        labels=labels,
        restored=back + other,
        answers_kept=run("SELECT count(*) FROM rlhf_interactions WHERE import_id = :id").scalar_one(),
        said_kept=max(0, said + changed - removed - labels - back - same - other),
    )


def _give_back(connection: Connection, import_id: int) -> int:
    """Bring back the reviews that the import withdrew, unless their reviewers spoke since; return how many.

    Where a later import brought another word, that one changes now what was withdrawn, and gives it back in its turn.
    """
    wanted = select(ImportChange).where(ImportChange.import_id == import_id, ImportChange.kind == "withdrawn")
    count = 0
    for change in connection.execute(wanted.order_by(ImportChange.row_id)).all():
        values = _values(connection, Review, change.former)
        mine = (Review.interaction_key == change.interaction_key) & (Review.reviewer == values["reviewer"])
        spoken = connection.execute(select(Review.id, Review.import_id).where(mine)).one_or_none()
        if spoken is None:
            spoken = _withdrawn_since(connection, change)
        if spoken is None:
            values |= {"id": change.row_id, "interaction_key": change.interaction_key}
            connection.execute(insert(Review), values | {"import_id": change.former_import_id})
            count += 1
        elif (brought_by := _first_import(connection, spoken)) is not None and brought_by > import_id:
            kept = {name: getattr(change, name) for name in ("interaction_key", "former", "former_import_id")}
            named = {"import_id": brought_by, "kind": "review", "row_id": spoken.id}
            connection.execute(insert(ImportChange), named | kept)
            connection.execute(update(Import).where(Import.id == brought_by).values(said=Import.said - 1))
    return count


def _withdrawn_since(connection: Connection, change: Any) -> Any:
    """Return another review by the same reviewer that a later import withdrew: its number, and the import it was of."""
    later = (ImportChange.kind == "withdrawn") & (ImportChange.import_id > change.import_id)
    wanted = select(
        ImportChange.row_id.label("id"), ImportChange.former_import_id.label("import_id"), ImportChange.former
    )
    same = wanted.where(later, ImportChange.interaction_key == change.interaction_key).order_by(ImportChange.import_id)
    found = (row for row in connection.execute(same).all() if row.former["reviewer"] == change.former["reviewer"])
    return next(found, None)


def _first_import(connection: Connection, review: Any) -> int | None:
    """Return the import that added a review; None if it is somebody's own word."""
    if review.import_id is None:
        return None
    mine = (ImportChange.kind == "review") & (ImportChange.row_id == review.id)
    wanted = select(ImportChange.former_import_id).where(mine).order_by(ImportChange.import_id).limit(1)
    below = connection.execute(wanted).one_or_none()
    added_by: int | None = below[0] if below else review.import_id
    return added_by


def _restore(
    connection: Connection, import_id: int, table: type[Review | Preference], keys: Sequence[int]
) -> tuple[int, int]:
    """Let rows say again what they said before; return of how many that is the same as now, and of how many not."""
    kind = "review" if table is Review else "preference"
    wanted = select(ImportChange.former, ImportChange.former_import_id, table.__table__).join(
        table, table.id == ImportChange.row_id
    )
    mine = (ImportChange.import_id == import_id) & (ImportChange.kind == kind) & ImportChange.row_id.in_(keys)
    rows, other = [], 0
    for row in connection.execute(wanted.where(mine)).all():
        values = _values(connection, table, row.former)
        if values["reviewer"] != row.reviewer and _is_taken(connection, table, row, values["reviewer"]):
            values["reviewer"] = row.reviewer
        other += any(getattr(row, name) != value for name, value in values.items() if name != "imported")
        rows.append({"key": row.id, "import_id": row.former_import_id} | values)
    if rows:
        named: dict[str, Any] = {name: bindparam(name) for name in rows[0] if name != "key"}
        statement = update(table).where(table.id == bindparam("key")).values(named)
        connection.execute(statement, rows)
    return len(rows) - other, other


def _is_taken(connection: Connection, table: type[Review | Preference], row: Any, reviewer: str) -> bool:
    """Tell whether somebody of that name has said something else of the same since."""
    if table is Review:
        same = (Review.interaction_key == row.interaction_id) & (Review.reviewer == reviewer)
    else:
        same = (Preference.first_id == row.first_id) & (Preference.second_id == row.second_id)
        same &= Preference.reviewer == reviewer
    return connection.execute(select(table.id).where(same)).scalar() is not None


def _values(connection: Connection, table: type[Review | Preference], former: Mapping[str, Any]) -> dict[str, Any]:
    """Return former values in the types of their columns, as JSON has neither times nor, on SQLite, truths."""
    values = dict(former)
    for name, value in former.items():
        kind = table.__table__.c[name].type
        if isinstance(kind, UtcDateTime):
            values[name] = kind.process_result_value(value, connection.dialect)
        elif isinstance(kind, Boolean):
            values[name] = bool(value)
    return values


def _restore_remarks(connection: Connection, import_id: int, kind: str, column: str) -> None:
    """Let what stands with answers themselves be as before, unless somebody wrote since.

    Where a review brings its own, what it hides waits until the import that brought that one is undone.
    """
    here, later = aliased(ImportChange), aliased(ImportChange)
    undone = select(Import.id).where(Import.undone_at.is_not(None))
    mine = (here.kind == kind) & (here.import_id == import_id)
    spoken = select(Review.id).where(Review.interaction_key == Interaction.id, getattr(Review, kind).is_not(None))
    said = Interaction.__table__.c[column].label("said")
    found = (
        select(here.import_id, here.row_id, here.former, said)
        .join(Interaction, Interaction.id == here.row_id)
        .where(here.kind == kind, (here.import_id == import_id) | here.import_id.in_(undone), ~spoken.exists())
        .order_by(here.row_id, here.import_id.desc())
    )
    now: dict[int, str | None] = {}
    over = list[dict[str, int]]()
    for row in connection.execute(found):
        if now.setdefault(row.row_id, row.said) == row.former["after"]:
            now[row.row_id] = row.former["before"]
        over.append({"by": row.import_id, "key": row.row_id})
    # What a later import found is gone from below it.
    beyond = select(later.import_id, later.row_id, later.former, here.former.label("mine")).join(
        here, mine & (later.row_id == here.row_id) & (later.kind == kind) & (later.import_id > import_id)
    )
    for row in connection.execute(beyond).all():
        if row.former["before"] == row.mine["after"]:
            former = {"before": row.mine["before"], "after": row.former["after"]}
            key = (ImportChange.import_id == row.import_id) & (ImportChange.kind == kind)
            connection.execute(update(ImportChange).where(key, ImportChange.row_id == row.row_id).values(former=former))
    if over:
        rows = [{"key": key, "value": value} for key, value in now.items()]
        changed = {column: bindparam("value"), "review_changes": Interaction.review_changes + 1}
        connection.execute(update(Interaction).where(Interaction.id == bindparam("key")).values(changed), rows)
        gone = (ImportChange.import_id == bindparam("by")) & (ImportChange.row_id == bindparam("key"))
        connection.execute(delete(ImportChange).where(gone, ImportChange.kind == kind), over)


# Nobody said it anew since; who gave the same grade again on the screen has confirmed it.
_UNTOUCHED_REVIEW = """
    coalesce(r.import_id, 0) = :id AND NOT EXISTS (
        SELECT 1 FROM rlhf_correction_decisions d
        WHERE d.review_id = r.id AND d.approved AND d.correction = r.correction)
    AND NOT EXISTS (
        SELECT 1 FROM rlhf_assignments a
        WHERE a.interaction_id = r.interaction_id AND a.reviewer = r.reviewer AND a.state = 'reviewed'
            AND a.handled_at >= (SELECT imported_at FROM rlhf_imports WHERE id = :id))
"""

_CHANGE_OF = """
    EXISTS (SELECT 1 FROM rlhf_import_changes c WHERE c.import_id = :id AND c.kind = '{kind}' AND c.row_id = {row}.id)
"""

_ADDED_REVIEW = f"{_UNTOUCHED_REVIEW} AND NOT {_CHANGE_OF.format(kind='review', row='r')}"
_ADDED_PREFERENCE = f"coalesce(p.import_id, 0) = :id AND NOT {_CHANGE_OF.format(kind='preference', row='p')}"

_CHANGED_REVIEWS = f"""
    SELECT r.id FROM rlhf_reviews AS r WHERE {_UNTOUCHED_REVIEW} AND {_CHANGE_OF.format(kind="review", row="r")}
"""
_CHANGED_PREFERENCES = f"""
    SELECT p.id FROM rlhf_preferences AS p
    WHERE p.import_id = :id AND {_CHANGE_OF.format(kind="preference", row="p")}
"""

_COUNT_CHANGED = """
    SELECT count(*) FROM rlhf_import_changes
    WHERE import_id = :id AND kind IN ('review', 'preference', 'withdrawn')
"""

# Answers that the import brought or said something of.
_TOUCHED = """
    SELECT id FROM rlhf_interactions WHERE import_id = :id
    UNION SELECT interaction_id FROM rlhf_reviews WHERE import_id = :id
    UNION SELECT first_id FROM rlhf_preferences WHERE import_id = :id
    UNION SELECT second_id FROM rlhf_preferences WHERE import_id = :id
    UNION SELECT interaction_id FROM rlhf_import_changes WHERE import_id = :id
    UNION SELECT interaction_id FROM rlhf_judge_labels WHERE import_id = :id
"""

# Also those of an import that was undone before, which only this one still held.
_DELETE_ANSWERS = f"""
    DELETE FROM rlhf_interactions AS i
    WHERE i.id IN ({_TOUCHED})
        AND (i.import_id = :id OR i.import_id IN (SELECT id FROM rlhf_imports WHERE undone_at IS NOT NULL))
        AND NOT EXISTS (SELECT 1 FROM rlhf_reviews r WHERE r.interaction_id = i.id AND NOT ({_ADDED_REVIEW}))
        AND NOT EXISTS (SELECT 1 FROM rlhf_preferences p WHERE p.first_id = i.id AND NOT ({_ADDED_PREFERENCE}))
        AND NOT EXISTS (SELECT 1 FROM rlhf_preferences p WHERE p.second_id = i.id AND NOT ({_ADDED_PREFERENCE}))
        AND NOT EXISTS (SELECT 1 FROM rlhf_judge_labels l WHERE l.interaction_id = i.id AND l.import_id <> :id)
        AND NOT EXISTS (SELECT 1 FROM rlhf_drafts d WHERE d.interaction_id = i.id)
        AND NOT EXISTS (
            SELECT 1 FROM rlhf_assignments a
            WHERE a.interaction_id = i.id AND a.state = 'open' AND a.leased_until > :now)
        AND NOT EXISTS (
            SELECT 1 FROM rlhf_pair_assignments a
            WHERE (a.first_id = i.id OR a.second_id = i.id) AND a.state = 'open' AND a.leased_until > :now)
"""

# A comment or correction that came with an answer which stays.
_CLEAR_REMARKS = """
    UPDATE rlhf_interactions SET {column} = NULL, review_changes = review_changes + 1
    WHERE import_id = :id AND {column} IS NOT NULL
        AND NOT EXISTS (
            SELECT 1 FROM rlhf_reviews r WHERE r.interaction_id = rlhf_interactions.id AND r.{kind} IS NOT NULL)
        AND NOT EXISTS (
            SELECT 1 FROM rlhf_import_changes c
            WHERE c.kind = '{kind}' AND c.row_id = rlhf_interactions.id AND c.import_id <> :id)
"""

# A later import finds below it what this one found; what this one had added is then that one's own.
_LAYERS = (
    """
    UPDATE rlhf_import_changes SET former = n.former, former_import_id = n.former_import_id
    FROM rlhf_import_changes n
    WHERE n.import_id = :id AND rlhf_import_changes.former_import_id = :id AND n.row_id = rlhf_import_changes.row_id
        AND (n.kind = rlhf_import_changes.kind OR n.kind = 'review' AND rlhf_import_changes.kind = 'withdrawn')
    """,
    """
    UPDATE rlhf_imports SET said = said + (
        SELECT count(*) FROM rlhf_import_changes c
        WHERE c.import_id = rlhf_imports.id AND c.former_import_id = :id AND c.kind <> 'withdrawn')
    WHERE id > :id
    """,
    """
    DELETE FROM rlhf_import_changes
    WHERE former_import_id = :id OR import_id = :id AND kind IN ('review', 'preference', 'withdrawn')
    """,
)

# As reviewers lock an answer, so that nobody reviews one that goes.
_LOCK = f"SELECT id FROM rlhf_interactions WHERE id IN ({_TOUCHED}) ORDER BY id FOR UPDATE"
