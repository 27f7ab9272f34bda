"""Transfer of ratings files into the database and out of it.

The same file twice changes nothing, and an export can be imported again. Reviews are read for an export in the order of
their answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.engine import Connection, Engine

from rlhf_loop.domain import Pair, Progress, Rating, ReviewerRole, field_values, rating_fields
from rlhf_loop.domain import Review as DomainReview
from rlhf_loop.errors import ImportFileError
from rlhf_loop.exchange import imports, preferences, staging
from rlhf_loop.exchange.formats import argilla, langfuse, plain, trl
from rlhf_loop.exchange.formats.base import SCORE_NAME, FileRow, Labels
from rlhf_loop.exchange.reader import INCOMING, PLAIN, RatingsReader, chosen_format
from rlhf_loop.exchange.staging import ImportDefaults, RowError, Stored, stage
from rlhf_loop.store import audit
from rlhf_loop.store.engine import reading, translated_errors, writing
from rlhf_loop.store.interactions import judge_labels
from rlhf_loop.store.tables import ANONYMOUS, REVIEW_COLUMNS, Interaction, Review, origin_of, review_of
from rlhf_loop.store.validation import problem
from rlhf_loop.utils.encodings import UTF_8
from rlhf_loop.utils.row_writers import Columns, Row, written_file
from rlhf_loop.utils.rows import HOPELESS, LONGEST_ROW, hopeless
from rlhf_loop.utils.text import blank, clause, counted
from rlhf_loop.utils.translation import Message

_STREAMED = {"yield_per": 1000}
_JOINED = Interaction.__table__.outerjoin(Review.__table__, Review.interaction_key == Interaction.id)


def count(connection: Connection) -> int:
    """Return how many ratings `ratings` yields."""
    return int(connection.execute(select(func.count()).select_from(_JOINED)).scalar_one())


def ratings(connection: Connection) -> Iterator[Rating]:
    """Yield every review with its answer, and each unreviewed answer once, by answer and review."""
    return (_rating(row) for row in connection.execute(_everything(), execution_options=_STREAMED))


def by_answer(connection: Connection) -> Iterator[list[Rating]]:
    """Yield the same, what was said of one answer together."""
    said: list[Rating] = []
    for rating in ratings(connection):
        if said and said[0].external_id != rating.external_id:
            yield said
            said = []
        said.append(rating)
    if said:
        yield said


def _everything() -> Select[Any]:
    return (
        select(
            # The consensus has the name of the review's rating.
            *(column for column in Interaction.__table__.columns if column.name != "rating"),
            Review.id.label("review_id"),
            *REVIEW_COLUMNS,
        )
        .select_from(_JOINED)
        .order_by(Interaction.id, Review.id)
    )


def _rating(row: Any) -> Rating:
    if row.review_id is None:
        review = DomainReview(comment=row.feedback_comment, correction=row.corrected_response)
    else:
        review = review_of(row)
    return _answer(row, **rating_fields(review))


def _answer(row: Any, **said: Any) -> Rating:
    said |= field_values(origin_of(row))
    # An empty text is none, as in a file.
    filled: dict[str, Any] = {name: None if value == "" else value for name, value in said.items()}
    return Rating(
        user_prompt=row.user_prompt,
        ai_response=row.ai_response,
        candidate_group=row.candidate_group or None,
        shown_rank=row.shown_rank,
        score=row.score,
        model_version=row.model_version or None,
        external_id=row.external_id,
        created_at=row.created_at,
        **filled,
    )


#: How many invalid rows a report lists; all are counted.
LISTED_ROWS = 1000

_LONGEST_NAME = 200
_CHUNK = 1000


@dataclass(frozen=True, slots=True)
class ImportReport:
    """The numbers of an import: `rows` = `added` + `updated` + `unchanged` + `invalid_count`.

    `invalid` lists the first `LISTED_ROWS` invalid rows in the file's order; `ignored` what was not used: columns,
    scores and the like, how many records are about nothing that could be read, and how many say something older than
    what is here. Of what is updated, `withdrawn` counts reviews that were taken back. Of the rows that could be read,
    `rated` have a rating and `compared` are comparisons, by so many `reviewers`, and `judged` a judge's label.
    `encoding` is that of the text, None of other files. `import_id` is the number by which it can be taken back, None
    where nothing was stored.
    """

    rows: int
    added: int
    updated: int
    unchanged: int
    invalid_count: int
    invalid: tuple[RowError, ...]
    ignored: tuple[str, ...]
    withdrawn: int = 0
    rated: int = 0
    compared: int = 0
    reviewers: int = 0
    encoding: str | None = None
    import_id: int | None = None
    judged: int = 0

    @property
    def unrated(self) -> int:
        """The number of rows that could be read and are neither ratings nor comparisons."""
        return self.rows - self.rated - self.compared - self.judged - self.invalid_count

    def lines(self) -> list[str]:
        """Return what changed, and what was said, in sentences."""
        values = {"added": self.added, "updated": self.updated, "unchanged": self.unchanged}
        rows = Message.counted("{n:,} row", "{n:,} rows", self.rows)
        if self.invalid_count:
            stored = Message(
                "{rows}: {added} added, {updated} updated, {unchanged} unchanged, {invalid} invalid and left out.",
                rows=rows,
                invalid=self.invalid_count,
                **values,
            )
        else:
            stored = Message("{rows}: {added} added, {updated} updated, {unchanged} unchanged.", rows=rows, **values)
        gone = Message.counted("{n:,} rating taken back.", "{n:,} ratings taken back.", self.withdrawn)
        return [stored, *([gone] if self.withdrawn else []), *self.said()]

    def said(self) -> list[str]:
        """Return how much was said by how many people, what the text was read as, and what was not used."""
        said = []
        if self.rated or not self.compared:
            said.append(Message.counted("{n:,} rating", "{n:,} ratings", self.rated))
        if self.compared:
            said.append(Message.counted("{n:,} comparison", "{n:,} comparisons", self.compared))
        by = Message.counted(
            "{what} by {n:,} reviewer.", "{what} by {n:,} reviewers.", self.reviewers, what=tuple(said)
        )
        found: list[str] = [by]
        if self.judged:
            labels = Message.counted("{n:,} label", "{n:,} labels", self.judged)
            found = [Message.counted("{what} by {n:,} judge.", "{what} by {n:,} judges.", self.reviewers, what=labels)]
        if any(name.startswith(("score ", "annotation ")) for name in self.ignored) and not self.rated + self.compared:
            again = Message("If one of those below is it, import it again with --score-name NAME.")
            found.append(Message("No score was taken for a rating. {advice}", advice=again))
        if self.encoding not in (None, UTF_8):
            advice = Message("If letters are wrong in it, give another --encoding.")
            found.append(Message("Read as {encoding}. {advice}", encoding=self.encoding, advice=advice))
        if self.ignored:
            found.append(Message("Not used: {names}.", names=", ".join(self.ignored)))
        return found


class InvalidRowsError(ImportFileError):
    """Some rows cannot be stored, and nothing was; `report` lists them."""

    def __init__(self, path: Path, report: ImportReport) -> None:
        first = report.invalid[0]
        super().__init__(
            Message(
                "{n} of {rows} rows of {file!r} are invalid, first line {line}: {reason}. Nothing was stored. {advice}",
                n=report.invalid_count,
                rows=report.rows,
                file=str(path),
                line=first.line,
                reason=clause(first.reason),
                advice=Message("Correct them, or leave them out with --skip-invalid."),
            )
        )
        self.report = report


@dataclass(frozen=True, slots=True)
class Preview:
    """An import's reading of a file: the columns by field, the first rows, and a report in which nothing is stored.

    `unrated` is what an import without unrated files would say of it, empty where it would take it.
    """

    columns: Mapping[str, str]
    first: tuple[FileRow, ...]
    report: ImportReport
    unrated: str = ""


#: Rows that a preview shows.
SHOWN_ROWS = 5


def _as_judged(path: Path, format: str | None, labels: Labels | None) -> Labels:
    """Return how the labels of a judge are read.

    Raises:
        ImportFileError: the file is of another tool's format.
    """
    if (named := chosen_format(path, format)[0]) not in PLAIN:
        raise ImportFileError(
            Message(
                "Labels of a judge are read from {plain}, with a row for each, and {named} is not one of "
                "these. Write them so.",
                plain=", ".join(PLAIN),
                named=named,
            )
        )
    return replace(labels or Labels(), judged=True)


def preview_ratings(
    path: Path | str,
    *,
    columns: Mapping[str, str] | None = None,
    names: Mapping[str, str] | None = None,
    format: str | None = None,
    reviewer: str = ANONYMOUS,
    labels: Labels | None = None,
    encoding: str | None = None,
    judge: str | None = None,
    most: int | None = None,
    progress: Progress | None = None,
) -> Preview:
    """Read a ratings file to its end, or the row after `most` rows, as `import_ratings` would, without any database.

    `progress` gets bytes of the file.

    Raises:
        ImportFileError: the file cannot be read.
    """
    if judge is not None:
        labels, reviewer = _as_judged(Path(path), format, labels), judge
    reader = RatingsReader(Path(path), format=format, columns=columns, names=names, labels=labels, encoding=encoding)
    errors, read, first = _Errors(), _Read(), list[FileRow]()
    for row in _counted(reader, read, errors, reviewer=reviewer):
        if len(first) < SHOWN_ROWS:
            first.append(row)
        if most is not None and read.rows > most:
            break
        if progress and read.rows % _CHUNK == 0:
            progress(reader.position, reader.size)
    if progress:
        progress(reader.size, reader.size)
    report = errors.report(Stored(), read, ignored=reader.ignored)
    return Preview(reader.columns, tuple(first), report, _unrated(reader, read))


def column_names(path: Path | str, *, format: str | None = None, encoding: str | None = None) -> tuple[str, ...]:
    """Return the names of the columns of a file of one's own, as its first row has them; none of a tool's file.

    Raises:
        ImportFileError: the file cannot be read.
    """
    reader = RatingsReader(Path(path), format=format, encoding=encoding)
    return reader.first_names() if reader.format in PLAIN else ()


def import_ratings(
    engine: Engine,
    path: Path | str,
    *,
    columns: Mapping[str, str] | None = None,
    names: Mapping[str, str] | None = None,
    format: str | None = None,
    reviewer: str = ANONYMOUS,
    role: ReviewerRole | None = None,
    source: str | None = None,
    labels: Labels | None = None,
    encoding: str | None = None,
    skip_invalid: bool = False,
    unrated: bool = True,
    progress: Progress | None = None,
    actor: str = "import",
    judge: str | None = None,
) -> ImportReport:
    """Store a ratings file in one transaction: all of it, or with `skip_invalid` all of its valid rows.

    An answer is known again by its `external_id`; without one, by its group, source, prompt and text together. What a
    reviewer says of a known answer replaces what the same reviewer said before; a cell left empty replaces nothing.
    `columns` maps fields to the file's column names, `names` Label Studio's tags and controls to what they are about;
    `reviewer`, `role` and `source` stand where a row names none. By default the role is the expert's, but for Langfuse,
    Open WebUI and Phoenix the end user's. `labels` says what becomes of labels, thumbs and other scales, `encoding` how
    a text is encoded that does not tell it itself. Rows are reviews, and answers without any; in a file of preferences
    they are these. With a `judge` they are its labels, soft ratings by a model of that name, which count nowhere as
    anybody's review: recipe `transformer` is tuned on them. Without `unrated` a tool's file is refused in which nothing
    is a rating. The audit log says that `actor` imported the file. `progress` gets eighths of the file's bytes.

    Raises:
        InvalidRowsError: some rows are invalid, and not `skip_invalid`; its `report` lists them.
        ImportFileError: the file cannot be read, nothing in it is a rating, or the reviewer's name is blank.
        DatabaseError: the database cannot be reached.
    """
    if judge is not None:
        labels, reviewer = _as_judged(Path(path), format, labels), judge
    if reason := problem(Rating("-", "-", reviewer=reviewer, source=source)):
        raise ImportFileError(
            Message(
                "The file {path!r} cannot be imported so: {reason}. Give another name.", path=str(path), reason=reason
            )
        )
    if long := next((name for name in (reviewer, source or "") if len(name) > _LONGEST_NAME), ""):
        raise ImportFileError(
            Message(
                "The name {long!r}... has {n:,} characters; at most {longest_name} are allowed. Shorten it.",
                long=long[:40],
                n=len(long),
                longest_name=_LONGEST_NAME,
            )
        )
    path = Path(path)
    reader = RatingsReader(path, format=format, columns=columns, names=names, labels=labels, encoding=encoding)
    unsaid = ImportDefaults(reviewer=reviewer, role=role or reader.role, source=None if blank(source or "") else source)
    errors = _Errors()

    def tell(done: int) -> None:
        # In eighths: five are the reading, and three the storing, of which answers and reviews are one each.
        if progress:
            progress(done, 8 * reader.size)

    with translated_errors(engine), stage(engine) as connection:
        # First the file into a temporary table, which locks nothing; then, quickly, from there into the tables.
        with connection.begin():
            read = _stage(connection, reader, errors, unsaid=unsaid, progress=lambda done, _: tell(5 * done))
            errors.extend(staging.drop_contradictions(connection, advice=reader.advice))
        if not unrated and (why := _unrated(reader, read)):
            raise ImportFileError(Message("{why} Nothing was stored.", why=why))
        with writing(connection).begin() as storing:
            staging.lock(connection)
            errors.extend(staging.drop_other_texts(connection))
            if errors.count and not skip_invalid:
                storing.rollback()
                raise InvalidRowsError(path, errors.report(Stored(), read, ignored=reader.ignored))
            named = reader.format if judge is None else f"{reader.format}, judge {judge}"
            import_id = imports.begin(connection, path.name, actor=actor, format=named)
            stored = staging.store(
                connection, unsaid=unsaid, import_id=import_id, step=lambda done: tell((5 + done) * reader.size)
            )
            report = errors.report(stored, read, ignored=(*reader.ignored, *_left(stored)), import_id=import_id)
            imports.finish(connection, import_id, stored, refused=errors.count)
            counts = {"format": named, "rows": read.rows, "added": stored.added, "updated": stored.updated}
            audit.note(connection, actor, "ratings.imported", f"file:{path.name}", counts | {"invalid": errors.count})
    tell(8 * reader.size)
    return report


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """Options that the formats of other tools leave open.

    `min_gap` is by how much the ratings of two answers must differ to make a pair of them; `conversational` writes
    TRL's other form; `score_name` is what Langfuse shall call the rating. With `reviewer_weighting` experts count in
    TRL's formats by how far they agree with the others, as in training. `for_spreadsheet` puts an apostrophe before
    each text of a CSV that a spreadsheet would take for a formula. With `drafts` answers that nobody has judged follow
    in TRL's formats, the best and the worst of each list where the model is certain, by `min_margin` at least; with
    `sft` trl-unpaired has good answers alone, without a label.
    """

    min_gap: int = 1
    conversational: bool = False
    score_name: str = SCORE_NAME
    reviewer_weighting: bool = True
    for_spreadsheet: bool = False
    judges: bool = False
    drafts: bool = False
    min_margin: float = 0.3
    sft: bool = False


def export_ratings(
    engine: Engine,
    path: Path | str,
    *,
    format: str | None = None,
    options: ExportOptions | None = None,
    progress: Progress | None = None,
) -> int:
    """Write what was said of answers; return the number of rows.

    A file of one's own (csv, jsonl, parquet) holds every review with its answer, and each unreviewed answer once,
    ordered by interaction and review; argilla and langfuse hold each answer once, with its reviews. trl-preference
    holds pairs of answers by what experts preferred, corrected and rated, trl-unpaired each answer that experts rated.
    The file replaces an older one only when it is whole. `progress` gets rows.

    Raises:
        ImportFileError: the file cannot be written.
        DatabaseError: the database cannot be reached.
    """
    path = Path(path)
    format, container = chosen_format(path, format)
    if format in INCOMING:
        raise ImportFileError(f"Files of {format} are only read. Write another format, such as csv or langfuse.")
    if options and options.drafts and not format.startswith("trl-"):
        raise ImportFileError(f"Drafts are not written as {format}. Write trl-preference or trl-unpaired.")
    if options and options.sft and format != "trl-unpaired":
        raise ImportFileError(f"For supervised fine-tuning write trl-unpaired, not {format}.")
    if options and options.judges and format not in PLAIN:
        raise ImportFileError(f"Labels of judges are not written as {format}. Write them as csv, jsonl or parquet.")
    columns = _columns(format, options := options or ExportOptions())
    done = 0
    with (
        reading(engine) as connection,
        written_file(path, container=container, columns=columns, for_spreadsheet=options.for_spreadsheet) as write,
    ):
        total = _most(connection, format, options) if progress else 0
        rows = _rows(connection, format, options)
        while chunk := list(islice(rows, _CHUNK)):
            write(chunk)
            done += len(chunk)
            if progress and total:
                progress(min(done, total), total)
        if progress:
            progress(1, 1)
    return done


def _most(connection: Connection, format: str, options: ExportOptions) -> int:
    """Count the rows that are written at most; 0 where nobody knows that before."""
    wanted: Select[Any]
    if format in PLAIN and not options.judges:
        return count(connection)
    if format in PLAIN:
        wanted = select(func.count()).select_from(judge_labels().subquery())
    elif format == "trl-unpaired" and not options.drafts:
        wanted = select(func.count()).where(Interaction.rating.is_not(None))
    elif format in ("argilla", "langfuse"):
        wanted = select(func.count()).select_from(Interaction)
    else:
        return 0
    return int(connection.execute(wanted).scalar_one())


def _columns(format: str, options: ExportOptions) -> Columns:
    if format == "argilla":
        return argilla.COLUMNS
    if format == "langfuse":
        return langfuse.COLUMNS
    if format == "trl-preference":
        return trl.preference_columns(conversational=options.conversational, scores=options.drafts)
    if format == "trl-unpaired":
        return trl.unpaired_columns(conversational=options.conversational, labels=not options.sft)
    return plain.JUDGE_COLUMNS if options.judges else plain.COLUMNS


def _rows(connection: Connection, format: str, options: ExportOptions) -> Iterator[Row]:
    if format == "argilla":
        return map(argilla.cells, by_answer(connection))
    if format == "langfuse":
        return (langfuse.cells(said, score_name=options.score_name) for said in by_answer(connection))
    talk, weighting = options.conversational, options.reviewer_weighting
    if format == "trl-preference":
        pairs = preferences.pairs(connection, min_gap=options.min_gap, reviewer_weighting=weighting)
        judged = (trl.preference_cells(pair, conversational=talk) for pair in pairs)
        if not options.drafts:
            return judged
        nothing = [None] * len(trl.SCORES)
        drafts = (
            [
                *trl.preference_cells(Pair(of.prompt, of.chosen, of.rejected), conversational=talk),
                *(of.chosen_score, of.rejected_score, of.margin),
            ]
            for of in preferences.draft_pairs(connection, min_margin=options.min_margin)
        )
        return chain(([*row, *nothing] for row in judged), drafts)
    if format == "trl-unpaired":
        rated = preferences.labelled(connection, reviewer_weighting=weighting)
        told = ((of.prompt, of.response, of.good) for of in rated)
        if options.drafts:
            drawn = preferences.draft_pairs(connection, min_margin=options.min_margin)
            both = (((of.prompt, of.chosen, True), (of.prompt, of.rejected, False)) for of in drawn)
            told = (each for each in chain(told, chain.from_iterable(both)))
        cells = (
            (good, trl.unpaired_cells(prompt, text, good=good, conversational=talk)) for prompt, text, good in told
        )
        return (row[:2] if options.sft else row for good, row in cells if good or not options.sft)
    if options.judges:
        return (plain.judge_cells(answer, label) for answer, label in _labels(connection))
    return map(plain.cells, ratings(connection))


def _labels(connection: Connection) -> Iterator[tuple[Rating, float]]:
    """Yield the labels of judges that hold, each with its answer, by answer and judge."""
    own = (column for column in Interaction.__table__.columns if column.name not in ("rating", "rated_at"))
    of = judge_labels().subquery()
    wanted = select(*own, of.c.judge, of.c.label, of.c.labelled_at).join(of, of.c.interaction_key == Interaction.id)
    for row in connection.execute(wanted.order_by(Interaction.id, of.c.judge), execution_options=_STREAMED):
        answer = _answer(row, reviewer=row.judge, rated_at=row.labelled_at)
        yield answer, row.label


@dataclass(slots=True)
class _Read:
    """The numbers of what was read of a file so far."""

    rows: int = 0
    rated: int = 0
    compared: int = 0
    judged: int = 0
    unsaid: int = 0
    reviewers: set[str] = field(default_factory=set)
    encoding: str | None = None


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

    def report(
        self, stored: Stored, read: _Read, *, ignored: tuple[str, ...], import_id: int | None = None
    ) -> ImportReport:
        self._keep_first()
        return ImportReport(
            rows=read.rows,
            added=stored.added,
            updated=stored.updated,
            unchanged=read.rows - stored.added - stored.updated - self.count,
            invalid_count=self.count,
            invalid=tuple(self._rows),
            ignored=ignored,
            withdrawn=stored.withdrawn,
            rated=read.rated,
            compared=read.compared,
            reviewers=len(read.reviewers),
            encoding=read.encoding,
            import_id=import_id,
            judged=read.judged,
        )


def _left(stored: Stored) -> Iterator[str]:
    if stored.overtaken:
        yield f"what was said otherwise since ({stored.overtaken:,})"
    if stored.remarks:
        yield f"comments and corrections without a rating, where the answer has others ({stored.remarks:,})"


def _unrated(reader: RatingsReader, read: _Read) -> str:
    """Say that a tool's file has answers and nothing that was understood as a rating of one; empty if it is not so."""
    if reader.format in PLAIN or not read.unsaid or read.rated or read.compared or reader.rated_elsewhere:
        return ""
    unused = f" Not used: {', '.join(reader.ignored)}." if reader.ignored else ""
    return (
        f"Nothing in {str(reader.path)!r} was understood as a rating, in {counted(read.unsaid, 'answer')}.{unused} Say "
        "which of them is the rating (--score-name NAME, --column rating=NAME or --map NAME=rating), or take the "
        "answers unrated with --unrated."
    )


def _stage(
    connection: Connection, reader: RatingsReader, errors: _Errors, *, unsaid: ImportDefaults, progress: Progress
) -> _Read:
    place = chars = 0
    read = _Read()
    chunk: list[FileRow] = []
    for row in _counted(reader, read, errors, reviewer=unsaid.reviewer):
        chunk.append(row)
        chars += sum(len(of.user_prompt) + len(of.ai_response) for of in (row.rating, row.worse) if of)
        if len(chunk) == _CHUNK or chars > LONGEST_ROW:
            place = staging.add(connection, chunk, place=place, unsaid=unsaid)
            chunk, chars = [], 0
            progress(reader.position, reader.size)
    staging.add(connection, chunk, place=place, unsaid=unsaid)
    progress(reader.size, reader.size)
    return read


def _counted(reader: RatingsReader, read: _Read, errors: _Errors, *, reviewer: str) -> Iterator[FileRow]:
    """Yield the rows that can be stored, and count all."""
    for row in reader:
        read.rows += 1
        if row.rating is None:
            errors.add(RowError(row.line, row.reason))
            if errors.count == HOPELESS == read.rows:
                raise ImportFileError(hopeless(reader.path, row.reason))
            continue
        read.rated += row.rating.rating is not None
        read.unsaid += row.rating.rating is None and row.worse is None and not row.taken_back
        read.compared += row.worse is not None
        read.judged += row.label is not None
        if row.rating.rating is not None or row.worse is not None or row.label is not None:
            read.reviewers.add(row.rating.reviewer or reviewer)
        yield row
    read.encoding = reader.encoding
