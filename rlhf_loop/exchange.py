"""Ratings files into the database and out of it: the same file twice changes nothing, and what goes out comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.engine import Connection, Engine

from rlhf_loop import import_stage
from rlhf_loop.db import reading, translated_errors, writing
from rlhf_loop.domain import Rating
from rlhf_loop.errors import ImportFileError
from rlhf_loop.import_stage import RowError
from rlhf_loop.interactions import problem
from rlhf_loop.ratings_file import RatingsReader, written_file
from rlhf_loop.tables import ANONYMOUS, Interaction, Review

#: How many invalid rows a report lists; all are counted.
LISTED_ROWS = 1000
#: Called with what is done and the whole of it: bytes of the file in an import, rows in an export.
Progress = Callable[[int, int], None]

_CHUNK = 1000


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did: `rows` = `added` + `updated` + `unchanged` + `invalid_count`.

    `invalid` lists the first `LISTED_ROWS` invalid rows in the file's order; `ignored` the columns that no field takes.
    """

    rows: int
    added: int
    updated: int
    unchanged: int
    invalid_count: int
    invalid: tuple[RowError, ...]
    ignored: tuple[str, ...]


class InvalidRowsError(ImportFileError):
    """Some rows cannot be stored, and nothing was; `report` lists them."""

    def __init__(self, path: Path, report: ImportReport) -> None:
        first = report.invalid[0]
        super().__init__(
            f"{report.invalid_count} of {report.rows} rows of {str(path)!r} are invalid, first line {first.line}: "
            f"{first.reason}. Nothing was stored. Correct them, or leave them out with --skip-invalid."
        )
        self.report = report


def import_ratings(
    engine: Engine,
    path: Path,
    *,
    columns: Mapping[str, str] | None = None,
    format: str | None = None,
    reviewer: str = ANONYMOUS,
    source: str | None = None,
    skip_invalid: bool = False,
    progress: Progress | None = None,
) -> ImportReport:
    """Store a ratings file in one transaction: all of it, or with `skip_invalid` all of its valid rows.

    An answer is known again by its `external_id`; without one, by its group, source, prompt and text together. What a
    reviewer says of a known answer replaces what the same reviewer said before; a cell left empty replaces nothing.
    `columns` maps fields to the file's column names; `reviewer` and `source` stand where a row names none.

    Raises:
        InvalidRowsError: some rows are invalid, and not `skip_invalid`; its `report` lists them.
        ImportFileError: the file cannot be read, or the reviewer's name is blank.
        DatabaseError: the database cannot be reached.
    """
    if reason := problem(Rating("-", "-", reviewer=reviewer, source=source)):
        raise ImportFileError(f"The file {str(path)!r} cannot be imported so: {reason}. Give another name.")
    reader = RatingsReader(path, format=format, columns=columns)
    errors = _Errors()
    with translated_errors(engine), import_stage.stage(engine) as connection:
        # First the file into a temporary table, which locks nothing; then, quickly, from there into the tables.
        with connection.begin():
            rows = _stage(connection, reader, errors, reviewer=reviewer, source=source, progress=progress)
            errors.extend(import_stage.drop_contradictions(connection))
        with writing(connection).begin() as storing:
            import_stage.lock(connection)
            errors.extend(import_stage.drop_other_texts(connection))
            if errors.count and not skip_invalid:
                storing.rollback()
                raise InvalidRowsError(path, errors.report(rows=rows, added=0, updated=0, ignored=reader.ignored))
            added, updated = import_stage.store(connection)
    return errors.report(rows=rows, added=added, updated=updated, ignored=reader.ignored)


def export_ratings(engine: Engine, path: Path, *, format: str | None = None, progress: Progress | None = None) -> int:
    """Write every review with its answer, and each unreviewed answer once; return the number of rows.

    Ordered by interaction and review. The file replaces an older one only when it is whole.

    Raises:
        ImportFileError: the file cannot be written.
        DatabaseError: the database cannot be reached.
    """
    joined = Interaction.__table__.outerjoin(Review.__table__, Review.interaction_id == Interaction.id)
    done = 0
    with reading(engine) as connection, written_file(path, format=format) as writer:
        total = connection.execute(select(func.count()).select_from(joined)).scalar_one()
        found = connection.execution_options(yield_per=_CHUNK).execute(
            select(
                Interaction.__table__,
                Review.id.label("review_id"),
                Review.reviewer,
                Review.rating.label("review_rating"),
                Review.comment,
                Review.correction,
                Review.reviewed_at,
            )
            .select_from(joined)
            .order_by(Interaction.id, Review.id)
        )
        for chunk in found.partitions():
            writer.write([_exported(row) for row in chunk])
            done += len(chunk)
            if progress:
                progress(done, total)
    return done


class _Errors:
    """Collects the invalid rows: counts all, keeps the first."""

    def __init__(self) -> None:
        self.count = 0
        self._rows: list[RowError] = []

    def add(self, row: RowError) -> None:
        self.count += 1
        self._rows.append(row)
        if len(self._rows) > 2 * LISTED_ROWS:
            self._keep_first()

    def extend(self, rows: Iterable[RowError]) -> None:
        for row in rows:
            self.add(row)

    def _keep_first(self) -> None:
        self._rows = sorted(self._rows, key=lambda row: row.line)[:LISTED_ROWS]

    def report(self, *, rows: int, added: int, updated: int, ignored: tuple[str, ...]) -> ImportReport:
        self._keep_first()
        unchanged = rows - added - updated - self.count
        return ImportReport(rows, added, updated, unchanged, self.count, tuple(self._rows), ignored)


def _stage(
    connection: Connection,
    reader: RatingsReader,
    errors: _Errors,
    *,
    reviewer: str,
    source: str | None,
    progress: Progress | None,
) -> int:
    rows = 0
    chunk: list[tuple[int, Rating]] = []
    for row in reader:
        rows += 1
        if row.rating is None:
            errors.add(RowError(row.line, row.reason))
        else:
            chunk.append((row.line, row.rating))
        if len(chunk) == _CHUNK:
            import_stage.add(connection, chunk, reviewer=reviewer, source=source)
            chunk = []
            if progress:
                progress(reader.position, reader.size)
    import_stage.add(connection, chunk, reviewer=reviewer, source=source)
    if progress:
        progress(reader.size, reader.size)
    return rows


def _exported(row: Any) -> Rating:
    reviewed = row.review_id is not None
    return Rating(
        user_prompt=row.user_prompt,
        ai_response=row.ai_response,
        rating=row.review_rating,
        feedback_comment=(row.comment if reviewed else row.feedback_comment) or None,
        corrected_response=(row.correction if reviewed else row.corrected_response) or None,
        reviewer=row.reviewer,
        source=row.source or None,
        candidate_group=row.candidate_group or None,
        shown_rank=row.shown_rank,
        score=row.score,
        model_version=row.model_version or None,
        external_id=row.external_id,
        created_at=row.created_at,
        rated_at=row.reviewed_at,
    )
