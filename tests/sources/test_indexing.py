"""Files into the vector database: each document once, however often and from wherever, and no work lost to a kill."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from forked_process import ForkedProcess, program
from patience import PATIENCE_S, until

from rlhf_loop.encoders import TextEncoder, Vectors
from rlhf_loop.errors import DocumentError, VectorStoreError
from rlhf_loop.sources.index import SourceCount, VectorStore, indexing
from rlhf_loop.sources.index.documents import find_files
from rlhf_loop.sources.index.indexing import IndexReport, InvalidDocumentsError
from rlhf_loop.sources.index.lancedb_store import LanceDbStore
from rlhf_loop.sources.index.pgvector_store import PgVectorStore
from rlhf_loop.store.engine import make_engine
from rlhf_loop.utils.languages import language_named


class FakeEncoder:
    """Vectors by the hash of a text, one for each 300 characters; counts what it embeds and can stop half way."""

    def __init__(self, name: str = "fake/fp32", *, most: float = math.inf) -> None:
        self.id = name
        self.language = language_named("en")
        self.embedded: list[str] = []
        self.looked_up: list[str] = []
        self._most = most

    def passages_to_keep(self, texts: Sequence[str]) -> list[Vectors]:
        if len(self.embedded) >= self._most:
            threading.Event().wait()
        self.embedded += texts
        return [_vectors(text) for text in texts]

    def encode_whole(self, texts: Sequence[str], *, passages: Sequence[str] = ()) -> Vectors:
        texts = [*texts, *passages]
        self.looked_up += texts
        return np.concatenate([_vectors(text)[:1] for text in texts]) if texts else np.empty((0, 384), np.float32)


def _vectors(text: str) -> Vectors:
    rows = np.random.default_rng(list(text.encode()[:64])).standard_normal((1 + len(text) // 300, 384))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def add(store: VectorStore, *paths: Path, encoder: FakeEncoder | None = None, **options: Any) -> IndexReport:
    return indexing.index_files(paths, store=store, encoder=cast(TextEncoder, encoder or FakeEncoder()), **options)


def rows(path: Path, *texts: str, title: str | None = "T") -> Path:
    path.write_text("".join(json.dumps({"text": text, "title": title}) + "\n" for text in texts))
    return path


@pytest.fixture
def store(tmp_path: Path) -> LanceDbStore:
    return LanceDbStore(tmp_path / "index")


def test_a_report_counts_what_was_done(tmp_path: Path, store: LanceDbStore) -> None:
    """Documents, sections and passages; progress ends with all of them."""
    long = "This is a sentence of a long document. " * 60
    seen: list[tuple[int, int]] = []
    path = rows(tmp_path / "a.jsonl", "Short.", long, "Short.")
    report = add(store, path, progress=lambda done, total: seen.append((done, total)))
    assert (report.files, report.documents, report.new, report.known) == (1, 3, 2, 1)
    assert (report.sections, report.invalid_count, report.replaced) == (3, 0, {})
    assert report.passages == sum(len(hit.vectors) for hit in store.search("", _vectors("x")[0], limit=9))
    assert seen[-1] == (len(long) + 12, len(long) + 12)
    assert store.sources() == [SourceCount("a.jsonl", 2, 3)]


def test_adding_twice_changes_nothing(tmp_path: Path, store: LanceDbStore) -> None:
    """What is there is not embedded again; the same content under another source is another document."""
    path = rows(tmp_path / "a.jsonl", *(f"Text {number}." for number in range(150)))
    assert add(store, path).new == 150
    before, encoder = store.sources(), FakeEncoder()
    report = add(store, path, encoder=encoder)
    assert (report.new, report.known, report.sections) == (0, 150, 0)
    assert (store.sources(), encoder.embedded) == (before, [])
    assert add(store, path, source="b").new == 150
    assert [each.source for each in store.sources()] == ["a.jsonl", "b"]


def test_a_changed_file(tmp_path: Path, store: LanceDbStore) -> None:
    """What is new comes beside what was there; with replace, what is not in the files any more goes, at the end."""
    path = rows(tmp_path / "a.jsonl", "One.", "Two.")
    add(store, path)
    add(store, rows(tmp_path / "other.jsonl", "Untouched."))
    rows(path, "Two.", "Three.")
    assert (add(store, path).new, store.sources()[0].documents) == (1, 3)
    report = add(store, path, replace=True)
    assert (report.new, report.known, report.replaced) == (0, 2, {"a.jsonl": 1})
    assert store.sources() == [SourceCount("a.jsonl", 2, 2), SourceCount("other.jsonl", 1, 1)]
    assert store.known([found.document.id for file in find_files([path]) for found in file if found.document])


def test_invalid_rows_refuse_all_or_are_left_out(tmp_path: Path, store: LanceDbStore) -> None:
    """Nothing is stored before all files have been read; with skip_invalid the others are."""
    good, bad = rows(tmp_path / "a.jsonl", "One."), rows(tmp_path / "b.jsonl", "Two.", "", "Three.")
    scanned = tmp_path / "c.txt"
    scanned.write_bytes(b"\0\0")
    with pytest.raises(InvalidDocumentsError, match=r"2 of 5 documents.*b.jsonl' line 2: text is missing.*Nothing was"):
        add(store, good, bad, scanned)
    assert not (tmp_path / "index").exists() or store.sources() == []
    report = add(store, good, bad, scanned, skip_invalid=True)
    assert (report.new, report.invalid_count, len(report.invalid)) == (3, 2, 2)


def test_nothing_to_index_is_an_error(tmp_path: Path, store: LanceDbStore) -> None:
    """Even where invalid rows may be left out, somebody should notice that all of them were."""
    with pytest.raises(DocumentError, match=r"no document that can be read .1 invalid, first: text is missing"):
        add(store, rows(tmp_path / "a.jsonl", ""), skip_invalid=True)


@pytest.mark.parametrize("options", [{"columns": {"author": "x"}}, {"source": " "}])
def test_impossible_wishes_are_document_errors(tmp_path: Path, store: LanceDbStore, options: Any) -> None:
    """The command line shows them as it shows all others."""
    with pytest.raises(DocumentError, match="cannot be indexed so"):
        add(store, rows(tmp_path / "a.jsonl", "One."), **options)


def test_another_model_is_refused_before_any_work(tmp_path: Path, store: LanceDbStore) -> None:
    """Nothing is read or embedded for an index that cannot take it."""
    add(store, rows(tmp_path / "a.jsonl", "One."))
    encoder = FakeEncoder("other/fp32")
    with pytest.raises(VectorStoreError, match="holds vectors of fake/fp32"):
        add(store, tmp_path / "missing.jsonl", encoder=encoder)
    assert add(store, rows(tmp_path / "b.jsonl", "Two."), encoder=FakeEncoder("fake/int8")).new == 1


def test_a_title_is_found_by_its_own_vector_once(tmp_path: Path, store: LanceDbStore) -> None:
    """The first section stands for the title; what a re-ranking compares is looked up for every section."""
    encoder = FakeEncoder()
    add(store, rows(tmp_path / "a.jsonl", "A sentence that is long enough. " * 90, title="Hiccups?"), encoder=encoder)
    hits = store.search("", _vectors("Hiccups?")[0], limit=5, mode="vector")
    assert hits[0].section.number == 0
    assert [hit.score > 0.99 for hit in hits] == [True] + [False] * (len(hits) - 1)
    assert hits[0].vectors.tobytes() == _vectors(hits[0].section.text).tobytes()
    assert encoder.looked_up == ["A sentence that is long enough."] * len(hits)


def test_the_title_of_a_renamed_file(tmp_path: Path, store: LanceDbStore) -> None:
    """A text file under another name is known, not there twice."""
    path = tmp_path / "old.txt"
    path.write_text("Text.")
    add(store, path, source="s")
    report = add(store, path.rename(tmp_path / "new.txt"), source="s")
    assert (report.new, report.known) == (0, 1)


def test_nothing_goes_of_what_could_not_be_read(tmp_path: Path, store: LanceDbStore) -> None:
    """With replace, a source with an invalid file or row keeps what it has, and the report says so."""
    good, bad = rows(tmp_path / "good.jsonl", "One.", "Two."), rows(tmp_path / "bad.jsonl", "Three.", "Four.")
    add(store, good, bad)
    rows(good, "One.")
    bad.write_text('{"text": "Three.", "title": "T"}\n{"text": "Fo')
    report = add(store, good, bad, skip_invalid=True, replace=True)
    assert (report.replaced, report.spared) == ({"good.jsonl": 1}, ("bad.jsonl",))
    assert store.sources() == [SourceCount("bad.jsonl", 2, 2), SourceCount("good.jsonl", 1, 1)]


def test_an_invalid_row_may_be_of_any_source_that_rows_name(tmp_path: Path, store: LanceDbStore) -> None:
    """Where a column tells the sources, none of them is replaced."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "One.", "of": "x"}\n{"text": "Two.", "of": "x"}\n')
    add(store, path, columns={"source": "of"})
    path.write_text('{"text": "One.", "of": "x"}\n{"text": "Tw\n')
    report = add(store, path, columns={"source": "of"}, skip_invalid=True, replace=True)
    assert (report.replaced, report.spared) == ({}, ("a.jsonl", "x"))
    assert store.sources() == [SourceCount("x", 2, 2)]


def test_a_file_that_changes_meanwhile(tmp_path: Path, store: LanceDbStore) -> None:
    """What could be read when all was checked and no longer when it is indexed is counted, and nothing of it goes."""
    path, later = rows(tmp_path / "a.jsonl", *(f"Text {number}." for number in range(64))), tmp_path / "later.jsonl"
    add(store, rows(later, "Old.", "Later."))

    def spoil(done: int, total: int) -> None:
        later.write_text("{")

    report = add(store, path, later, replace=True, progress=spoil)
    assert (report.new, report.invalid_count, report.invalid[0].path) == (64, 1, later)
    assert report.spared == ("later.jsonl",)
    assert store.sources()[1] == SourceCount("later.jsonl", 2, 2)


def test_another_precision_renews(tmp_path: Path, store: LanceDbStore) -> None:
    """Known documents get the vectors of the encoder at hand, once."""
    path = rows(tmp_path / "a.jsonl", "One.", "Two.")
    add(store, path)
    for expected in ((0, 2, 0), (0, 0, 2)):
        report = add(store, path, encoder=FakeEncoder("fake/int8"))
        assert (report.new, report.renewed, report.known) == expected
    assert store.encoders() == ["fake/int8"]
    assert store.sources() == [SourceCount("a.jsonl", 2, 2)]


def test_progress_moves_inside_a_long_document(tmp_path: Path, store: LanceDbStore) -> None:
    """It counts characters, never back, and the document is stored as a whole."""
    seen: list[int] = []
    there: list[int] = []

    def note(done: int, total: int) -> None:
        seen.append(done)
        there.append(len(store.sources()))

    text = "This is a sentence of a very long document. " * 9000
    add(store, rows(tmp_path / "a.jsonl", text), progress=note)
    assert len(seen) > 2
    assert seen == sorted(seen)
    assert seen[-1] == len(text)
    assert there == [0] * (len(there) - 1) + [1]


def test_what_stopped_a_run_is_what_is_raised(
    tmp_path: Path, store: LanceDbStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not what then fails as well."""

    def fail(what: str) -> Any:
        def raising(*_: Any, **__: Any) -> None:
            raise VectorStoreError(what)

        return raising

    monkeypatch.setattr(store, "add", fail("first"))
    monkeypatch.setattr(store, "optimize", fail("second"))
    with pytest.raises(VectorStoreError, match="first"):
        add(store, rows(tmp_path / "a.jsonl", "One."))


def test_an_interrupted_run_keeps_its_batches(tmp_path: Path, store: LanceDbStore) -> None:
    """Ctrl-C loses the batch at hand; the next run embeds the rest only."""

    def stop(done: int, total: int) -> None:
        if done >= 128 * len("Text 000."):
            raise KeyboardInterrupt

    path = rows(tmp_path / "a.jsonl", *(f"Text {number:03}." for number in range(200)))
    with pytest.raises(KeyboardInterrupt):
        add(store, path, progress=stop)
    assert store.sources()[0].documents == 128
    report = add(store, path)
    assert (report.new, report.known) == (72, 128)


ADDING = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from test_indexing import FakeEncoder, add, opened
file, most, *places = sys.argv[1:]
def fill(place):
    add(opened(place), Path(file), encoder=FakeEncoder(most=float(most)))
with ThreadPoolExecutor() as pool:
    list(pool.map(fill, places))
"""


def _start(file: Path, *places: str, most: float = math.inf) -> ForkedProcess:
    """Add the file to all of these in a process of its own, at the same time; with `most` it stops for ever there."""
    return program(ADDING, file, most, *places, folder=file.parent)


@pytest.fixture(params=["lancedb", "pgvector"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a vector database is, a folder or a URL."""
    if request.param == "lancedb":
        return str(tmp_path / "index")
    url: str = request.getfixturevalue("empty_postgres_url")
    return url


def opened(place: str) -> VectorStore:
    return PgVectorStore(make_engine(place)) if place.startswith("postgresql") else LanceDbStore(Path(place))


@pytest.mark.kill
def test_a_killed_run_goes_on(tmp_path: Path, place: str) -> None:
    """SIGKILL in the middle leaves whole batches, and the same command finishes the work."""
    path = rows(tmp_path / "a.jsonl", *(f"Text {number}." for number in range(500)))
    process = _start(path, place, most=128)
    store = opened(place)
    until(store.sources)
    process.kill()
    (there,) = store.sources()
    assert there.documents % 64 == 0
    assert 0 < there.documents < 500
    assert store.search("text", _vectors("x")[0], limit=3)
    report = add(store, path)
    assert (report.new, report.known) == (500 - there.documents, there.documents)
    assert store.sources() == [SourceCount("a.jsonl", 500, 500)]
    store.close()


def test_two_adders_at_once(tmp_path: Path, empty_postgres_url: str) -> None:
    """Two processes that add the same file at the same time leave each document there once, in each kind of index."""
    path = rows(tmp_path / "a.jsonl", *(f"Text {number}." for number in range(300)))
    places = (str(tmp_path / "index"), empty_postgres_url)
    processes = [_start(path, *places) for _ in range(2)]
    assert [process.wait(PATIENCE_S) for process in processes] == [0, 0]
    for place in places:
        store = opened(place)
        assert store.sources() == [SourceCount("a.jsonl", 300, 300)]
        store.close()
