"""The embedded vector database: one LanceDB table in a folder, for everybody who has no PostgreSQL.

A row is a section with all its vectors in one column (a list of vectors), so that a section is there as a whole or not
at all, and LanceDB itself takes the nearest of them. A change is a new version of the table that readers see when it is
complete; a process that is killed leaves the last version and at most files that nobody refers to.

Of a small index there is a copy in one mapped file beside the table (`exact_copy.py`), by which searches compare all
vectors, in a fraction of the time that LanceDB takes to begin with one. It is of one version, and used for no other.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from itertools import chain
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rlhf_loop.errors import VectorStoreError
from rlhf_loop.sources.index.exact_copy import MOST_BYTES, ExactCopy, NoCopyError, is_copy, write_copy
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
from rlhf_loop.utils.concurrency import start_thread
from rlhf_loop.utils.languages import UNSPACED

if TYPE_CHECKING:
    import pyarrow as pa
    from lancedb.index import FTS
    from lancedb.table import Table

logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")

TABLE = "sections"
LOCK = ".rlhf.lock"
#: In the folder: the files of one version, which nobody deletes while they are read, and a table that is not whole yet.
_COPY, _COPY_LOCK, _DRAFT = ".rlhf.copy", ".rlhf.copy.lock", ".rlhf.draft"
#: Sections from which on searching all vectors takes longer (20 ms) than an index of them is worth.
ANN_FROM = 5_000
#: Parts of the vector index that are searched, and candidates for each hit that are compared exactly: together they
#: find 9,999 of 10,000 nearest sections on MedQuAD.
_PROBES = 20
_REFINE = 2
_VECTOR_INDEX = "vectors_ivf"
#: A table that has grown this much since its vectors were sorted into parts has them sorted anew.
_RETRAIN = 4
#: Old versions go at once: until then they keep all files from before a merge. LanceDB warns of zero.
_GRACE = timedelta(milliseconds=1)
_LOCK_TIMEOUT_S = 120
_KEYS_A_QUERY = 500
#: Sections that are read at a time where all are.
_BATCH = 500
_KEYS = ("id", "document")
_WORDS = ("text", "title")
#: What a word of the text and one of the title count. From 2 on titles find as much as they can on MedQuAD.
_BOOSTS = [1.0, 2.0]
#: New versions after which a connection is opened anew, in 4 ms: it keeps files of each version that it has read open,
#: long after they were deleted.
_VERSIONS = 20
#: The folder of exact copies, and seconds between two attempts of a process to make one that is missing.
_EXACT = "exact"
_EXACT_EVERY_S = 5.0
#: What a full, foreign or read-only disk is called, by the system and deep inside LanceDB's messages.
_FULL = "no space left"
_REFUSED = ("permission denied", "read-only")
#: Processes in which LanceDB runs.
_AT_WORK: set[int] = set()


class LanceDbStore:
    """A `VectorStore` in a folder; `language` is that of the stems and stop words, such as "english".

    The folder appears with the first `add`. Each process opens it for itself, with its first use: LanceDB's threads do
    not survive a fork, and so a process that was forked later is refused, where LanceDB itself often hangs.
    `exact_bytes` of vectors, at most, are all compared.
    """

    def __init__(
        self, folder: Path, *, language: str = "english", ann_from: int = ANN_FROM, exact_bytes: int = MOST_BYTES
    ) -> None:
        self._folder = folder
        self._language = language
        self._ann_from = ann_from
        self._exact_bytes = exact_bytes
        self._table: Table | None = None
        self._opened_at = 0
        self._state: str | None = None
        self._dimension = 0
        self._exact: tuple[str, ExactCopy] | None = None
        self._exact_from = 0.0
        self._uncopied: str | None = None
        self._process = os.getpid()
        self._opening = threading.Lock()

    @property
    def cold(self) -> bool:
        """True while there is a folder and LanceDB is not loaded yet, which takes seconds of processor time."""
        return os.getpid() not in _AT_WORK and self._folder.is_dir()

    def add(self, entries: Sequence[Entry], *, encoder: str) -> None:
        """Keep the sections, all or none; see `VectorStore`."""
        if not entries:
            return
        with self._errors(), self._writing():
            dimension = entries[0].vectors.shape[1]
            table = self._open()
            if table is None:  # an empty one is false, too
                table = self._create(dimension)
            some = table.search().select(["encoder"]).limit(1).to_arrow()["encoder"].to_pylist()
            refuse_other_model(some, encoder)
            if self._dimension != dimension:
                # Nothing is in it any more, so it may have the vectors of another encoder.
                table = self._create(dimension, anew=True)
            merge = table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
            merge.execute(_rows([StoredEntry(entry, encoder) for entry in entries]))

    def encoders(self) -> list[str]:
        """Return the ids of all encoders that made the vectors, sorted."""
        return self._read(_encoders, [])

    def known(self, documents: Collection[str], *, encoder: str | None = None) -> set[str]:
        """Return those of the documents that are there; see `VectorStore`."""
        return self._read(lambda table: _known(table, documents, encoder), set())

    def search(self, query: str, vector: NDArray[np.float32], *, limit: int, mode: Mode = "hybrid") -> list[Hit]:
        """Return the best sections for a question; see `VectorStore`."""
        if limit < 1:
            return []

        def find(table: Table) -> list[Hit]:
            if self._dimension != len(vector):
                refuse_other_dimension(_encoders(table), len(vector))
                return []  # all was deleted
            copy = self._exact_copy()
            by_vector = partial(_by_vector, table, vector) if copy is None else partial(copy.nearest, vector)
            ranking = ranked(mode, limit, by_vector=by_vector, by_words=partial(_by_words, table, query))
            hits = {} if copy is None else copy.hits(ranking)
            # What came in this moment is not in the copy.
            hits |= _hits(table, [each for each in ranking if each[0] not in hits])
            # One that another process deletes in this moment is not there any more.
            return [hits[name] for name, _ in ranking if name in hits]

        return self._read(find, [])

    def delete(self, source: str, *, keep: Collection[str] = ()) -> int:
        """Forget all of a source but the documents to `keep`; return how many documents went."""
        from lancedb.expr import col, lit

        with self._changing() as table:
            if table is None:
                return 0
            where = col("source") == lit(source)
            rows = table.search().where(where).select(["document"]).limit(None).to_arrow()
            there = set(rows["document"].to_pylist())
            gone = there.difference(keep)
            if gone == there:
                table.delete(where)
            else:
                for some in _parts(gone):
                    table.delete(_in("document", some))
            return len(gone)

    def sources(self) -> list[SourceCount]:
        """Count what is there, by source in alphabetical order."""
        return self._read(_sources, [])

    def texts(self, *, limit: int, titled: bool) -> list[tuple[str, str]]:
        """Return title and text of so many sections at most: the `titled` alone, or all, with "" for no title."""

        def find(table: Table) -> list[tuple[str, str]]:
            wanted = table.search().where("title IS NOT NULL") if titled else table.search()
            rows = wanted.select(list(_WORDS)).limit(limit).to_arrow()
            titles = (title or "" for title in rows["title"].to_pylist())
            return list(zip(titles, rows["text"].to_pylist(), strict=True))

        return self._read(find, [])

    def everything(self) -> Iterator[list[StoredEntry]]:
        """Return all that is there, in batches; see `VectorStore`."""
        with self._errors():
            if self._read(lambda table: True, False):
                with self._copied() as table:
                    for batch in table.search().limit(None).to_batches(batch_size=_BATCH):
                        yield _kept(batch)

    def replace(self, batches: Iterable[Sequence[StoredEntry]]) -> None:
        """Keep these in place of all that is there, all or none; see `VectorStore`.

        What has it open should be started again.
        """
        draft, place = self._folder / _DRAFT, self._folder / f"{TABLE}.lance"
        rows = map(_rows, batches)
        first = next(rows, None)
        if first is None and not place.exists():
            return
        with self._errors(), self._writing():
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir()
            try:
                if first is not None:
                    new = LanceDbStore(draft, language=self._language, ann_from=self._ann_from)
                    new._create_of(chain([first], rows))
                self._table = None
                if place.exists():
                    place.rename(draft / "former")
                if first is not None:
                    (draft / place.name).rename(place)
                self._make_exact_copy(lock_s=_LOCK_TIMEOUT_S)
            finally:
                shutil.rmtree(draft, ignore_errors=True)

    def optimize(self) -> None:
        """Merge small files, drop old versions, and bring all indices up to date."""
        with self._changing() as table:
            if table is None:
                return
            self._index_columns(table)
            self._index_vectors(table)
            table.optimize(cleanup_older_than=_GRACE)
            self._make_exact_copy(lock_s=_LOCK_TIMEOUT_S)

    def close(self) -> None:
        """Let go of the files; the next use opens them again."""
        self._table = self._exact = None

    def _read(self, work: Callable[[Table], _Result], otherwise: _Result) -> _Result:
        """Return the result of the work on the table, `otherwise` if there is none yet."""

        def once() -> _Result:
            table = self._open()
            return otherwise if table is None else work(table)

        with self._errors():
            try:
                return once()
            except VectorStoreError:
                raise
            except Exception:  # see _errors
                # Another process may just have dropped the version that was read; the next read finds the newest.
                self._state = None
                return once()

    def _open(self) -> Table | None:
        """Return the table, None if there is none yet."""
        if self._process != os.getpid():
            self._table, self._state, self._process, self._opening = None, None, os.getpid(), threading.Lock()
        if _AT_WORK - {os.getpid()}:
            raise VectorStoreError(
                "The index was in use when this process was forked, and LanceDB does not survive that. Start processes "
                "before the index is first used, or start them by spawn."
            )
        with self._opening:
            state = self._folder_state()
            if self._table is None or state != self._state:
                self._look(state)
            return self._table

    def _folder_state(self) -> str:
        """Return what changes with each version of the table, an empty text while there is none.

        To ask LanceDB takes ten times as long, and a search would ask five times.
        """
        versions = self._folder / f"{TABLE}.lance" / "_versions"
        try:
            status, names = versions.stat(), sorted(os.listdir(versions))
        except OSError:
            return ""
        # Of the folder as well: another one in its place may have the same versions.
        seen = f"{status.st_ino} {status.st_mtime_ns} {' '.join(names)}"
        return hashlib.sha256(seen.encode()).hexdigest()

    def _look(self, state: str) -> None:
        """Have the newest version of the table, or none if there is none yet."""
        table, self._state = self._table, None
        if table is not None and state:
            table.checkout_latest()  # type: ignore[no-untyped-call]
            if 0 <= table.version - self._opened_at < _VERSIONS:
                self._state, self._dimension = state, _dimension(table)
                return
        # Not closed: other threads may be reading it. It goes with the last of them.
        self._table = None
        if self._folder.is_dir():
            database = self._connect()
            if TABLE in database.list_tables().tables and (found := self._opened(database)) is not None:
                self._table, self._state, self._dimension = found, state, _dimension(found)

    def _opened(self, database: Any) -> Table | None:
        """Open the table; None if another process has only begun to make it, even if that was killed meanwhile."""
        try:
            table: Table = database.open_table(TABLE)
        except ValueError:
            # Its folder is there first, then its first version, which makes it a table, and data last.
            folder = self._folder / f"{TABLE}.lance"
            if any((folder / "_versions").glob("*.manifest")) or any((folder / "data").glob("*")):
                raise
            return None
        self._opened_at = table.version
        return table

    def _connect(self) -> Any:
        import lancedb

        _AT_WORK.add(os.getpid())
        # Whether others have written a newer version, each read looks by itself.
        return lancedb.connect(self._folder)

    def _create(self, dimension: int, *, anew: bool = False) -> Table:
        how: dict[str, Any] = {"mode": "overwrite"} if anew else {"exist_ok": True}
        table: Table = self._connect().create_table(TABLE, schema=_schema(dimension), **how)
        self._index_columns(table)
        self._table, self._opened_at, self._state, self._dimension = table, table.version, None, dimension
        return table

    def _create_of(self, parts: Iterable[pa.Table]) -> None:
        """Create the table with its rows and indices."""
        import pyarrow as pa

        parts = iter(parts)
        first = next(parts)
        batches = (batch for part in chain([first], parts) for batch in part.to_batches())
        rows = pa.RecordBatchReader.from_batches(first.schema, batches)
        table = self._connect().create_table(TABLE, data=rows, schema=first.schema)
        self._index_columns(table)
        self._index_vectors(table)
        table.optimize(cleanup_older_than=_GRACE)

    @contextmanager
    def _copied(self) -> Iterator[Table]:
        """Give the table as it is now, by links to its files: others may drop this version while it is read."""
        from filelock import FileLock, Timeout

        name, copy = f"{TABLE}.lance", self._folder / _COPY
        try:
            lock = FileLock(self._folder / _COPY_LOCK, timeout=0).acquire()
        except Timeout as error:
            raise VectorStoreError(
                f"Another process reads all of the index {str(self._folder)!r} just now. Wait for it, and try again."
            ) from error
        with lock:
            try:
                with self._writing():
                    shutil.rmtree(copy, ignore_errors=True)
                    shutil.copytree(self._folder / name, copy / name, copy_function=_link)
                yield LanceDbStore(copy)._connect().open_table(TABLE)
            finally:
                shutil.rmtree(copy, ignore_errors=True)

    def _index_columns(self, table: Table) -> None:
        """Make sure that keys are indexed, and words in this language: an empty index tells how to read new rows."""
        from lancedb.index import BTree

        there = {index.name for index in table.list_indices()}
        for column in _KEYS:
            if (name := f"{column}_btree") not in there:
                table.create_index(column, config=BTree(), name=name)
        # The name holds the language, so that a changed setting is noticed.
        for column in _WORDS:
            if (name := f"{column}_{self._language}") in there:
                continue
            for other in there:
                if other.startswith(f"{column}_"):
                    table.drop_index(other)
            table.create_index(column, config=_words_index(self._language), name=name)

    def _index_vectors(self, table: Table) -> None:
        """Sort the vectors into parts where there are many, each number kept in 8 bits beside the exact ones."""
        from lancedb.index import IvfSq

        count = table.count_rows()
        if count < self._ann_from:
            return
        stats = table.index_stats(_VECTOR_INDEX)
        if stats is None or count > _RETRAIN * stats.num_indexed_rows:
            table.create_index("vectors", config=IvfSq(distance_type="cosine"), name=_VECTOR_INDEX, replace=True)

    def _exact_copy(self) -> ExactCopy | None:
        """Return the copy of this version of the table; None where it is too large for one, or has none yet."""
        state, copy = self._state, self._exact
        if copy is not None and copy[0] == state:
            return copy[1]
        if state is None or state == self._uncopied:
            return None
        try:
            self._exact = state, ExactCopy(self._exact_file(state))
        except (OSError, ValueError):  # pyarrow's ArrowInvalid is a ValueError
            # While an index grows there is a new version each second.
            if monotonic() > self._exact_from + _EXACT_EVERY_S:
                self._exact_from = monotonic()
                start_thread(self._make_exact_copy, name="rlhf-index-copy")
            return None
        return self._exact[1]

    def _exact_file(self, state: str) -> Path:
        return self._folder / _EXACT / f"{state}.arrow"

    def _make_exact_copy(self, *, lock_s: float = 0) -> None:
        """Copy the newest version of the table, unless others are at it for so long, and drop all older ones."""
        from filelock import FileLock, Timeout

        folder = self._folder / _EXACT
        try:
            folder.mkdir(exist_ok=True)
            with FileLock(folder / LOCK, timeout=lock_s):
                state = self._folder_state()
                file = self._exact_file(state)
                try:
                    if not is_copy(file):
                        self._write_exact_copy(file)
                except NoCopyError:
                    self._uncopied = state
                # What has come meanwhile is not in it, or is and should not be.
                kept = {file} if self._folder_state() == state else set()
                for other in {*folder.glob("*.arrow"), *folder.glob(".*.tmp")} - kept:
                    with suppress(OSError):  # some systems keep what is mapped
                        other.unlink()
        except Timeout:
            pass
        except Exception as error:  # see _errors
            self._uncopied = self._folder_state()
            logger.warning("The index %s is searched without an exact copy: %s", self._folder, error)

    def _write_exact_copy(self, file: Path) -> None:
        if not (self._folder / f"{TABLE}.lance").is_dir():
            raise NoCopyError
        # Opened anew, so that no search brings it to another version meanwhile.
        table = self._connect().open_table(TABLE)
        count = table.count_rows()
        if not count or 4 * count * _dimension(table) > self._exact_bytes:
            raise NoCopyError
        write_copy(file, table.search().limit(None).to_batches(batch_size=_BATCH), most_bytes=self._exact_bytes)

    @contextmanager
    def _changing(self) -> Iterator[Table | None]:
        """Give the table, which nobody else changes meanwhile; None, and no folder, while there is none."""
        if not self._read(lambda table: True, False):
            yield None
            return
        with self._errors(), self._writing():
            yield self._open()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Let one process at a time write, by a lock that dies with its process."""
        from filelock import FileLock, Timeout

        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self._folder / LOCK, timeout=_LOCK_TIMEOUT_S):
                yield
        except Timeout as error:
            raise VectorStoreError(
                f"Another process has been writing to the index {str(self._folder)!r} for {_LOCK_TIMEOUT_S} s. "
                "Wait for it, or end it, and try again."
            ) from error

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except VectorStoreError:
            raise
        except Exception as error:  # LanceDB has no class of its own: ValueError, RuntimeError, OSError, ArrowInvalid
            # Without the place in its source code.
            reason = re.sub(r", /\S+\.rs:[\d:]+", "", " ".join(str(error).split()))
            raise VectorStoreError(
                f"The index {str(self._folder)!r} cannot be used: {reason[:300].rstrip('.') or type(error).__name__}. "
                f"{_way_out(reason)}"
            ) from error


def _words_index(language: str) -> FTS:
    """Return how the words of a language are indexed: by their stems, as they are, or in pairs of characters."""
    from lancedb.index import FTS

    if language in LANGUAGES:
        return FTS(language=language.capitalize())
    if language in UNSPACED.values():
        return FTS(base_tokenizer="ngram", ngram_min_length=2, ngram_max_length=2, stem=False, remove_stop_words=False)
    return FTS(stem=False, remove_stop_words=False)


def _way_out(reason: str) -> str:
    """Return what to do about a failure; an index that is whole is not to be deleted."""
    if _FULL in reason.lower():
        return "Make room on that disk and try again; what is indexed is still there."
    if any(sign in reason.lower() for sign in _REFUSED):
        return "Check RLHF_INDEX_PATH and that you may write there; what is indexed is still there."
    return (
        "Check RLHF_INDEX_PATH and that you may write there; if it is damaged, delete the folder and add the files "
        "again."
    )


def _dimension(table: Table) -> int:
    """Return how many numbers each of the table's vectors has."""
    size: int = table.schema.field("vectors").type.value_type.list_size
    return size


def _schema(dimension: int) -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("document", pa.string(), nullable=False),
            pa.field("number", pa.int32(), nullable=False),
            pa.field("source", pa.string(), nullable=False),
            pa.field("title", pa.string()),
            pa.field("url", pa.string()),
            pa.field("licence", pa.string()),
            pa.field("text", pa.string(), nullable=False),
            pa.field("added_at", pa.timestamp("us", tz="UTC"), nullable=False),
            pa.field("encoder", pa.string(), nullable=False),
            # How many of the vectors, 0 or 1 and the first of them, are not of passages.
            pa.field("headings", pa.int8(), nullable=False),
            pa.field("vectors", pa.list_(pa.list_(pa.float32(), dimension)), nullable=False),
        ]
    )


def _rows(kept: Sequence[StoredEntry]) -> pa.Table:
    import pyarrow as pa

    entries = [each.entry for each in kept]
    dimension = entries[0].vectors.shape[1]
    schema = _schema(dimension)
    columns: dict[str, Any] = {
        name: [getattr(entry.section, name) for entry in entries] for name in Section.__dataclass_fields__
    }
    columns["encoder"] = [each.encoder for each in kept]
    columns["headings"] = [int(entry.heading is not None) for entry in entries]
    # The vector of the heading, where there is one, stands before those of the passages.
    matrices = [
        entry.vectors if entry.heading is None else np.concatenate([entry.heading[np.newaxis], entry.vectors])
        for entry in entries
    ]
    offsets = np.cumsum([0, *map(len, matrices)], dtype=np.int32)
    flat = pa.array(np.concatenate(matrices, dtype=np.float32).ravel())
    vectors = pa.FixedSizeListArray.from_arrays(flat, dimension)
    columns["vectors"] = pa.ListArray.from_arrays(pa.array(offsets), vectors)
    return pa.Table.from_arrays([pa.array(columns[field.name], field.type) for field in schema], schema=schema)


def _kept(rows: pa.RecordBatch) -> list[StoredEntry]:
    sections = rows.select(list(Section.__dataclass_fields__)).to_pylist()
    headings, encoders = rows["headings"].to_pylist(), rows["encoder"].to_pylist()
    found = []
    for place, section in enumerate(sections):
        matrix = _matrix(rows["vectors"][place])
        number = headings[place]
        found.append(
            StoredEntry(Entry(Section(**section), matrix[number:], matrix[0] if number else None), encoders[place])
        )
    return found


def _matrix(vectors: Any) -> NDArray[np.float32]:
    flat: NDArray[np.float32] = vectors.values.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(vectors), -1)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        # Not all file systems have them.
        shutil.copyfile(source, target)


def _encoders(table: Table) -> list[str]:
    return sorted(table.search().select(["encoder"]).limit(None).to_arrow()["encoder"].unique().to_pylist())


def _known(table: Table, documents: Collection[str], encoder: str | None) -> set[str]:
    found: set[str] = set()
    others: set[str] = set()
    for some in _parts(documents):
        rows = table.search().where(_in("document", some)).select(["document", "encoder"]).limit(None).to_arrow()
        for document, made_by in zip(rows["document"].to_pylist(), rows["encoder"].to_pylist(), strict=True):
            (found if encoder in (None, made_by) else others).add(document)
    return found - others


def _sources(table: Table) -> list[SourceCount]:
    rows = table.search().select(["source", "number"]).limit(None).to_arrow()
    names = rows["source"].to_pylist()
    sections = Counter(names)
    documents = Counter(name for name, number in zip(names, rows["number"].to_pylist(), strict=True) if number == 0)
    return [SourceCount(name, documents[name], sections[name]) for name in sorted(sections)]


def _by_vector(table: Table, vector: NDArray[np.float32], depth: int) -> Ranking:
    search: Any = table.search(vector, vector_column_name="vectors", query_type="vector")
    search = search.distance_type("cosine").nprobes(_PROBES).refine_factor(_REFINE)
    rows = search.select(["id", "_distance"]).limit(depth).to_arrow()
    scores = (1 - distance for distance in rows["_distance"].to_pylist())
    return list(zip(rows["id"].to_pylist(), scores, strict=True))


def _by_words(table: Table, query: str, depth: int) -> Ranking:
    from lancedb.query import FullTextOperator, MultiMatchQuery

    # No query language: quotes and operators are characters like others, and any word may match.
    wanted: Any = MultiMatchQuery(
        query.encode("utf-8", "replace").decode(), list(_WORDS), boosts=_BOOSTS, operator=FullTextOperator.OR
    )
    rows = table.search(wanted, query_type="fts").select(["id", "_score"]).limit(depth).to_arrow()
    return list(zip(rows["id"].to_pylist(), rows["_score"].to_pylist(), strict=True))


def _hits(table: Table, ranking: Ranking) -> dict[str, Hit]:
    if not ranking:
        return {}
    rows = table.search().where(_in("id", [name for name, _ in ranking])).limit(None).to_arrow()
    scores, hits = dict(ranking), {}
    for place, name in enumerate(rows["id"].to_pylist()):
        section = Section(**{field: rows[field][place].as_py() for field in Section.__dataclass_fields__})
        vectors = _matrix(rows["vectors"][place])[rows["headings"][place].as_py() :]
        hits[name] = Hit(section, vectors, rows["encoder"][place].as_py(), float(scores[name]))
    return hits


def _in(column: str, values: Sequence[str]) -> Any:
    from lancedb.expr import col

    return col(column).isin(list(values))


def _parts(values: Collection[str]) -> Iterator[list[str]]:
    ordered = sorted(values)
    return (ordered[start : start + _KEYS_A_QUERY] for start in range(0, len(ordered), _KEYS_A_QUERY))
