"""One contract for both vector databases, LanceDB and pgvector: what is kept is found, exactly and by everybody."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from forked_process import program
from numpy.typing import NDArray
from patience import PATIENCE_S
from sqlalchemy import Engine, text

from rlhf_loop.config import Settings
from rlhf_loop.encoders import DIMENSION
from rlhf_loop.errors import ConfigError, MissingExtraError, VectorStoreError
from rlhf_loop.sources.index import (
    Entry,
    Section,
    SourceCount,
    StoredEntry,
    VectorStore,
    lancedb_store,
    open_store,
    pgvector_store,
)
from rlhf_loop.sources.index.lancedb_store import LanceDbStore
from rlhf_loop.sources.index.pgvector_store import PgVectorStore
from rlhf_loop.sources.index.store import reciprocal_rank_fusion
from rlhf_loop.store.engine import make_engine
from rlhf_loop.utils import extras

ENCODER = "model-a/fp32"
WHEN = datetime(2026, 5, 4, 3, 2, 1, 123456, tzinfo=UTC)

Open = Callable[[], VectorStore]


@pytest.fixture(params=["lancedb", "pgvector"])
def open_(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens one and the same vector database, anew with each call; its vectors are indexed from ten sections on."""
    if request.param == "lancedb":
        yield lambda: LanceDbStore(tmp_path / "index", ann_from=10)
        return
    url: str = request.getfixturevalue("empty_postgres_url")
    engines = []

    def opened() -> VectorStore:
        engines.append(make_engine(url))
        return PgVectorStore(engines[-1], ann_from=10)

    yield opened
    for engine in engines:
        engine.dispose()


@pytest.fixture(params=["lancedb", "pgvector"])
def in_language(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], VectorStore]]:
    """Opens one and the same vector database with the settings of a language."""
    if request.param == "lancedb":
        yield lambda language: LanceDbStore(tmp_path / "index", language=language)
        return
    engine = make_engine(request.getfixturevalue("empty_postgres_url"))
    yield lambda language: PgVectorStore(engine, language=language)
    engine.dispose()


@pytest.fixture
def store(open_: Open) -> VectorStore:
    """An empty vector database."""
    return open_()


def unit(*seeds: int) -> NDArray[np.float32]:
    """Random unit vectors, shape (len(seeds), 384), the same for the same seeds."""
    rows = np.stack([np.random.default_rng(seed).standard_normal(DIMENSION) for seed in seeds])
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def entry(
    document: str,
    text: str = "some text",
    *,
    number: int = 0,
    source: str = "s",
    title: str | None = None,
    seeds: tuple[int, ...] = (1,),
    heading: int | None = None,
) -> Entry:
    """A section with random vectors."""
    section = Section(
        id=f"{document}-{number}",
        document=document,
        number=number,
        source=source,
        text=text,
        title=title,
        url="https://example.org/?a='b'",
        licence=None,
        added_at=WHEN,
    )
    return Entry(section, unit(*seeds), None if heading is None else unit(heading)[0])


def found(store: VectorStore, query: str, mode: str = "text", *, seed: int = 0, limit: int = 10) -> list[str]:
    """The documents that are found, best first."""
    hits = store.search(query, unit(seed)[0], limit=limit, mode=mode)  # type: ignore[arg-type]
    return [hit.section.document for hit in hits]


@pytest.mark.parametrize(
    ("rankings", "expected"),
    [
        ([], []),
        ([[]], []),
        ([["a", "b"]], ["a", "b"]),
        ([["a", "b", "c"], ["c", "b"]], ["c", "b", "a"]),
        ([["a"], ["b"]], ["a", "b"]),
        ([["a", "a", "b"], ["b"]], ["b", "a"]),
    ],
)
def test_reciprocal_rank_fusion(rankings: list[list[str]], expected: list[str]) -> None:
    """What stands well in both rankings comes first; an equal sum is decided by the first ranking."""
    assert [name for name, _ in reciprocal_rank_fusion(rankings)] == expected


def test_the_sum_of_the_paper() -> None:
    """The score is the sum of 1 / (60 + rank)."""
    assert dict(reciprocal_rank_fusion([["a", "b"], ["b"]]))["b"] == pytest.approx(1 / 62 + 1 / 61)


@pytest.mark.slow
def test_an_empty_store_answers(store: VectorStore) -> None:
    """Nothing is there, and that is no error; looking creates nothing."""
    assert store.encoders() == []
    assert store.sources() == []
    assert store.known(["d"]) == set()
    assert store.delete("s") == 0
    assert found(store, "heart", "hybrid") == []
    store.optimize()
    store.add([], encoder=ENCODER)
    assert store.encoders() == []


def test_what_is_kept_comes_back_exactly(store: VectorStore) -> None:
    """Every field and every bit of the vectors; a heading is found by, but is not among the passages."""
    tiny = np.full((1, DIMENSION), np.float32(1e-30))
    tiny[0, 0] = 1.0
    kept = [entry("a", "Über ‘hearts’ 😀\n", title="T", seeds=(1, 2, 3), heading=7), entry("b", seeds=(4,))]
    kept.append(Entry(entry("c").section, tiny))
    store.add(kept, encoder=ENCODER)
    hits = store.search("", unit(7)[0], limit=5, mode="vector")
    assert hits[0].section.document == "a"
    assert hits[0].score == pytest.approx(1, abs=1e-5)
    by_document = {hit.section.document: hit for hit in hits}
    for each in kept:
        hit = by_document[each.section.document]
        assert hit.section == each.section
        assert hit.vectors.dtype == np.float32
        assert hit.vectors.tobytes() == each.vectors.tobytes()
        assert hit.encoder == ENCODER
    assert store.encoders() == [ENCODER]


def test_a_section_is_as_near_as_its_nearest_passage(store: VectorStore) -> None:
    """Also before and after the vectors are indexed, and for what is added later."""
    store.add([entry(f"d{n}", seeds=(10 * n, 10 * n + 1, 10 * n + 2)) for n in range(1, 30)], encoder=ENCODER)
    assert found(store, "", "vector", seed=71, limit=3)[0] == "d7"
    store.optimize()
    store.add([entry("new", seeds=(901, 902))], encoder=ENCODER)
    for seed, expected in ((72, "d7"), (290, "d29"), (902, "new")):
        assert found(store, "", "vector", seed=seed, limit=3)[0] == expected
    assert len(found(store, "", "vector", limit=100)) == 30


def test_words_are_found_by_their_stems_and_any_is_enough(store: VectorStore) -> None:
    """The title counts, too; words that everybody uses do not; what is new is found before optimize()."""
    store.add([entry("a", "Running hearts of men"), entry("b", "kidneys", title="Diseases")], encoder=ENCODER)
    assert found(store, "run zebra") == ["a"]
    assert found(store, "What is the disease of the") == ["b"]
    assert found(store, "HEART kidney") == ["a", "b"] or found(store, "HEART kidney") == ["b", "a"]
    store.optimize()
    store.add([entry("c", "zebras")], encoder=ENCODER)
    assert found(store, "run zebra zebra") in (["a", "c"], ["c", "a"])


@pytest.mark.parametrize(
    "query",
    [
        "",
        " \n",
        "the of and is",
        "😀",
        '"heart',
        "heart AND (kidney OR",
        "'; DROP TABLE sections; --",
        "a:* & !b | <-> \\ ' ''",
        "title:heart^3 ~2 [a TO z] *",
        "nul \0 and half \ud83d",
        "https://example.org/a?b=c&d=e",
        "heart " * 700,
        "x" * 4000,
        " ".join(f"word{number}" for number in range(500)),
    ],
)
def test_no_question_is_too_strange(store: VectorStore, query: str) -> None:
    """Signs that mean something to a database are characters like others."""
    store.add([entry("a", "heart and kidney")], encoder=ENCODER)
    assert found(store, query) in ([], ["a"])
    assert found(store, query, "hybrid") == ["a"]
    assert found(store, "heart") == ["a"]


def test_hybrid_puts_first_what_both_find(store: VectorStore) -> None:
    """A section that is near and has the words comes before those that have one of both."""
    near = unit(5)
    store.add([entry("words", "a zebra is here, too", seeds=(1,))], encoder=ENCODER)
    store.add([Entry(entry("vector", "horses").section, near)], encoder=ENCODER)
    store.add([Entry(entry("both", "zebra stripes").section, near)], encoder=ENCODER)
    hits = store.search("zebra stripes", near[0], limit=3)
    assert hits[0].section.document == "both"
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert len(store.search("zebra", near[0], limit=2)) == 2
    assert store.search("zebra", near[0], limit=0) == []


def test_adding_again_replaces(store: VectorStore) -> None:
    """A section that is there already is not there twice, and its new text and vectors count."""
    store.add([entry("a", "old words", seeds=(1, 2))], encoder=ENCODER)
    store.add([entry("a", "new words", seeds=(3,)), entry("b", "other")], encoder=ENCODER)
    assert store.sources() == [SourceCount("s", 2, 2)]
    assert found(store, "old") == []
    assert len(store.search("new", unit(3)[0], limit=1)[0].vectors) == 1


def test_sections_under_a_title(store: VectorStore) -> None:
    """Titles come with the texts of all sections of their documents, so many at most; others are asked for besides."""
    assert store.texts(limit=5, titled=True) == store.texts(limit=5, titled=False) == []
    given = [
        entry("a", "one", title="A"),
        entry("a", "two", number=1, title="A"),
        entry("b", "three"),
        entry("c", "x", title="C"),
    ]
    store.add(given, encoder=ENCODER)
    titled = [("A", "one"), ("A", "two"), ("C", "x")]
    assert sorted(store.texts(limit=5, titled=True)) == titled
    assert sorted(store.texts(limit=5, titled=False)) == [("", "three"), *titled]
    assert len(store.texts(limit=2, titled=True)) == len(store.texts(limit=2, titled=False)) == 2


@pytest.mark.parametrize(
    "source", ["plain", "it's", 'a "b"', "back\\slash", "'; DROP TABLE x; --", "100% %s :x", "é😀"]
)
def test_delete_by_source(store: VectorStore, source: str) -> None:
    """Exactly that source goes, whatever characters its name has."""
    store.add(
        [
            entry("a", source=source, seeds=(1, 2)),
            entry("a", number=1, source=source),
            entry("b", source=source),
            entry("c", source="other"),
        ],
        encoder=ENCODER,
    )
    assert store.sources() == sorted(
        [SourceCount("other", 1, 1), SourceCount(source, 2, 3)], key=lambda each: each.source
    )
    assert store.known(["a", "b", "c", "d", "it's"]) == {"a", "b", "c"}
    assert store.delete(source + "x") == 0
    assert store.delete(source, keep=["b", "c"]) == 1
    assert store.known(["a", "b", "c"]) == {"b", "c"}
    assert store.delete(source) == 1
    store.optimize()
    assert store.sources() == [SourceCount("other", 1, 1)]


def test_another_model_is_refused_and_another_precision_kept_beside(store: VectorStore) -> None:
    """Vectors of two models do not compare; each hit says whose its vectors are."""
    store.add([entry("a", seeds=(1,))], encoder=ENCODER)
    with pytest.raises(VectorStoreError, match=r"holds vectors of model-a/fp32; those of model-b/fp32"):
        store.add([entry("b")], encoder="model-b/fp32")
    store.add([entry("c", seeds=(2,))], encoder="model-a/int8.1")
    hits = store.search("", unit(2)[0], limit=5, mode="vector")
    assert [(hit.section.document, hit.encoder) for hit in hits] == [("c", "model-a/int8.1"), ("a", ENCODER)]
    store.delete("s")
    store.add([entry("b")], encoder="model-b/fp32")
    assert store.encoders() == ["model-b/fp32"]


def test_what_another_precision_made_is_told_apart(store: VectorStore) -> None:
    """A document counts as known to an encoder only where all of its vectors are of that very one."""
    store.add([entry("a"), entry("b"), entry("b", number=1)], encoder=ENCODER)
    store.add([entry("b", number=1), entry("c")], encoder="model-a/int8.1")
    assert store.encoders() == ["model-a/fp32", "model-a/int8.1"]
    assert store.known("abc") == {"a", "b", "c"}
    assert store.known("abc", encoder=ENCODER) == {"a"}
    assert store.known("abc", encoder="model-a/int8.1") == {"c"}


def test_a_changed_language_is_indexed_anew(in_language: Callable[[str], VectorStore]) -> None:
    """After optimize() words have the stems of the language that the settings name now, for all readers."""
    store, german = in_language("english"), in_language("german")
    store.add([entry("a", "Die Häuser der Stadt")], encoder=ENCODER)
    assert found(store, "Haus") == []
    assert found(german, "der Häuser") == ["a"]
    german.add([entry("b", "Alte Häuser")], encoder=ENCODER)
    german.optimize()
    for reader in (store, german):
        assert sorted(found(reader, "Haus")) == ["a", "b"]


def test_many_documents_are_looked_up_at_once(store: VectorStore) -> None:
    """A list of any length may be asked for."""
    store.add([entry(f"d{number}", seeds=(number,)) for number in range(1200)], encoder=ENCODER)
    assert len(store.known([f"d{number}" for number in range(5000)])) == 1200
    assert store.known([]) == set()
    assert store.delete("s", keep=[f"d{number}" for number in range(0, 1200, 2)]) == 600


def test_another_reader_sees_what_is_committed(store: VectorStore, open_: Open) -> None:
    """Two that have the database open see each other's changes at once, also after optimize()."""
    other = open_()
    assert other.sources() == []
    store.add([entry("a", "heart")], encoder=ENCODER)
    assert found(other, "heart") == ["a"]
    other.add([entry("b", "heart", seeds=(2,))], encoder=ENCODER)
    store.optimize()
    assert sorted(found(store, "heart", "hybrid")) == sorted(found(other, "heart", "hybrid")) == ["a", "b"]
    store.delete("s")
    assert found(other, "heart") == []


def test_threads_share_a_store(store: VectorStore) -> None:
    """Some add, some search and one optimizes; nothing is lost and nothing raises."""

    def work(number: int) -> None:
        for step in range(3):
            store.add([entry(f"d{number}.{step}", "heart", seeds=(10 * number + step,))], encoder=ENCODER)
            assert f"d{number}.{step}" in store.known([f"d{number}.{step}"])
            assert found(store, "heart", "hybrid", limit=50)
        if number == 0:
            store.optimize()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert store.sources() == [SourceCount("s", 12, 12)]


def test_no_hit_is_half_while_others_write(store: VectorStore, open_: Open) -> None:
    """A reader meets old or new text, each with its own vectors, never a mixture."""
    versions = [("first words", (1, 2)), ("second words", (3, 4, 5))]
    store.add([entry("a", versions[0][0], seeds=versions[0][1])], encoder=ENCODER)
    stop = threading.Event()

    def write() -> None:
        writer, turn = open_(), random.Random(0)
        while not stop.is_set():
            text, seeds = turn.choice(versions)
            writer.add([entry("a", text, seeds=seeds)], encoder=ENCODER)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(30):
            for hit in store.search("words", unit(1)[0], limit=1):
                assert hit.vectors.tobytes() == unit(*dict(versions)[hit.section.text]).tobytes()
    finally:
        stop.set()
        thread.join()


def test_looking_creates_no_folder(tmp_path: Path) -> None:
    """Only add() does."""
    store = LanceDbStore(tmp_path / "index")
    test_an_empty_store_answers(store)
    assert not (tmp_path / "index").exists()


def test_a_table_whose_creation_was_killed_is_mended(tmp_path: Path) -> None:
    """Rows in a table without any index are found, and optimize() builds what is missing."""
    import lancedb

    from rlhf_loop.sources.index import lancedb_store

    lancedb.connect(tmp_path / "index").create_table(lancedb_store.TABLE, schema=lancedb_store._schema(4))
    store = LanceDbStore(tmp_path / "index")
    store.add([entry("a", "hearts", seeds=(1,))], encoder=ENCODER)
    assert found(store, "hearts", "hybrid") == ["a"]
    store.optimize()
    assert found(store, "heart") == ["a"]


@pytest.mark.parametrize("begun", ["", "_transactions/0.txn"])
def test_a_table_that_was_only_begun_is_none(tmp_path: Path, begun: str) -> None:
    """Whoever reads while the first one makes it finds nothing yet, and after a kill the next one makes it."""
    folder = tmp_path / "index" / "sections.lance"
    folder.mkdir(parents=True)
    if begun:
        (folder / begun).parent.mkdir()
        (folder / begun).write_bytes(b"")
    store = LanceDbStore(tmp_path / "index")
    assert store.sources() == []
    assert store.delete("a.jsonl") == 0
    store.add([entry("a", "hearts", seeds=(1,))], encoder=ENCODER)
    assert found(store, "heart") == ["a"]


def test_a_table_without_its_versions_is_damaged(tmp_path: Path) -> None:
    """Data without a version is not taken for a table that was only begun."""
    store = LanceDbStore(tmp_path / "index")
    store.add([entry("a")], encoder=ENCODER)
    for file in (tmp_path / "index").rglob("*.manifest"):
        file.unlink()
    with pytest.raises(VectorStoreError, match=r"cannot be used.*delete the folder"):
        LanceDbStore(tmp_path / "index").sources()


def test_a_damaged_folder_says_so(tmp_path: Path) -> None:
    """What cannot be read is a clear error that names the folder and the way out."""
    folder = tmp_path / "index"
    store = LanceDbStore(folder)
    store.add([entry("a")], encoder=ENCODER)
    for file in folder.rglob("*.manifest"):
        file.write_bytes(b"damaged")
    with pytest.raises(VectorStoreError, match=r"index.*cannot be used.*delete the folder"):
        LanceDbStore(folder).sources()


def test_a_folder_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    """A file in the way of the folder is named."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(VectorStoreError, match="RLHF_INDEX_PATH"):
        LanceDbStore(tmp_path / "file" / "index").add([entry("a")], encoder=ENCODER)


def _way_out(tmp_path: Path, error: Exception) -> str:
    """What the store says where LanceDB raises that."""
    with pytest.raises(VectorStoreError) as raised, LanceDbStore(tmp_path / "index")._errors():
        raise error
    return str(raised.value)


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        RuntimeError(
            "lance error: LanceError(IO): Generic LocalFileSystem error: No space left on device (os error 28), "
            "/home/somebody/.cargo/registry/src/lance-file-13.0.0/src/writer.rs:258:9"
        ),
        PermissionError(13, "Permission denied"),
        OSError(30, "Read-only file system"),
    ],
)
def test_a_whole_folder_is_not_to_be_deleted(tmp_path: Path, error: Exception) -> None:
    """A full or foreign disk is no reason to lose what is indexed."""
    said = _way_out(tmp_path, error)
    assert "delete" not in said
    assert ".rs" not in said
    assert "still there" in said


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="only Linux counts the open files so")
@pytest.mark.slow
def test_no_version_that_was_read_stays_open(tmp_path: Path) -> None:
    """Readers and writers that live long do not hold on to the files of versions that others replaced."""
    reader, writer = LanceDbStore(tmp_path / "index"), LanceDbStore(tmp_path / "index")
    writer.add([entry(f"d{number}", f"heart {number}", seeds=(number,)) for number in range(300)], encoder=ENCODER)
    writer.optimize()
    found(reader, "heart")
    before = len(os.listdir("/proc/self/fd"))
    for number in range(30):
        writer.add([entry(f"new{number}", f"heart {number}")], encoder=ENCODER)
        writer.optimize()
        found(reader, "heart")
    assert len(os.listdir("/proc/self/fd")) < before + 60


FORKED = """
import os, sys, warnings
from rlhf_loop.config import Settings
from rlhf_loop.sources.index import open_store
warnings.simplefilter("ignore")
folder, *urls = sys.argv[1:]
stores = [open_store(Settings.from_env({"RLHF_INDEX_PATH": folder, "RLHF_DATABASE_URL": url})) for url in urls]
def fork(store):
    child = os.fork()
    if child == 0:
        try:
            print(store.known(["a"]), flush=True)
        except Exception as error:
            print(error, flush=True)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
for store in stores:
    fork(store)  # nothing has used it yet
for store in stores:
    assert store.known(["a"]) == {"a"}
    fork(store)
    assert store.known(["a"]) == {"a"}
"""


@pytest.mark.slow
def test_a_fork(tmp_path: Path, empty_postgres_url: str) -> None:
    """A child process opens the index for itself; where LanceDB's threads are lost, it says so and does not hang."""
    places = (str(tmp_path / "index"), "sqlite://", empty_postgres_url)
    for url in places[1:]:
        store = open_store(Settings.from_env({"RLHF_INDEX_PATH": places[0], "RLHF_DATABASE_URL": url}))
        store.add([entry("a")], encoder=ENCODER)
        store.close()
    process = program(FORKED, *places, folder=tmp_path)
    assert process.wait(PATIENCE_S) == 0
    new_lance, new_postgres, lance, postgres = process.said().splitlines()
    assert (new_lance, new_postgres, postgres) == ("{'a'}",) * 3
    assert "LanceDB does not survive" in lance


def test_a_dead_server_is_a_store_error() -> None:
    """What the driver says comes as this package's own error, without the password."""
    store = PgVectorStore(make_engine("postgresql://me:secret@127.0.0.1:1/none?connect_timeout=1"))
    with pytest.raises(VectorStoreError, match=r"cannot be used") as error:
        store.search("heart", unit(1)[0], limit=3)
    assert "secret" not in str(error.value)


def test_without_the_right_to_create_the_extension(empty_postgres_url: str) -> None:
    """An ordinary user is told what an administrator has to do; the transaction leaves nothing behind."""
    admin = make_engine(empty_postgres_url)
    with admin.begin() as connection:
        connection.execute(text("DROP ROLE IF EXISTS plain_user"))
        connection.execute(text("CREATE ROLE plain_user LOGIN PASSWORD 'x'"))
        connection.execute(text("UPDATE pg_database SET datdba = datdba"))
        connection.execute(text("GRANT CREATE ON SCHEMA public TO plain_user"))
    plain = make_engine(empty_postgres_url)

    from sqlalchemy import event

    @event.listens_for(plain, "connect")
    def become(connection: object, _: object) -> None:
        connection.execute("SET SESSION AUTHORIZATION plain_user")  # type: ignore[attr-defined]
        connection.commit()  # type: ignore[attr-defined]

    store = PgVectorStore(plain)
    assert store.sources() == []
    with pytest.raises(VectorStoreError, match=r"administrator run CREATE EXTENSION vector"):
        store.add([entry("a")], encoder=ENCODER)
    PgVectorStore(admin).add([entry("a")], encoder=ENCODER)
    with pytest.raises(VectorStoreError, match="permission denied"):
        store.sources()
    for engine in (plain, admin):
        engine.dispose()


def test_without_the_right_to_create_tables(empty_postgres_url: str) -> None:
    """The message holds the command for an administrator."""
    from sqlalchemy import create_engine, text

    engine = create_engine(empty_postgres_url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        connection.execute(text("CREATE EXTENSION vector"))
        connection.execute(text("DROP ROLE IF EXISTS bare_user"))
        connection.execute(text("CREATE ROLE bare_user LOGIN"))
        connection.execute(text("REVOKE CREATE ON SCHEMA public FROM PUBLIC"))
    bare = make_engine(empty_postgres_url)

    from sqlalchemy import event

    @event.listens_for(bare, "connect")
    def become(connection: object, _: object) -> None:
        connection.execute("SET SESSION AUTHORIZATION bare_user")  # type: ignore[attr-defined]
        connection.commit()  # type: ignore[attr-defined]

    with pytest.raises(VectorStoreError, match=r"GRANT CREATE ON SCHEMA public TO bare_user"):
        PgVectorStore(bare).add([entry("a")], encoder=ENCODER)
    bare.dispose()
    engine.dispose()


def test_dropped_tables_are_no_index(empty_postgres_url: str) -> None:
    """A process that has used them finds nothing, and can make them anew."""
    engine = make_engine(empty_postgres_url)
    store = PgVectorStore(engine)
    for _ in range(2):
        store.add([entry("a", "heart")], encoder=ENCODER)
        assert found(store, "heart") == ["a"]
        with engine.begin() as connection:
            connection.execute(text("DROP TABLE rlhf_index_vectors, rlhf_index_sections"))
        assert found(store, "heart") == []
        assert store.sources() == []
        store.optimize()
    engine.dispose()


#: What all words of a question find, each match ranked.
_EVERY_MATCH = text(
    """
    SELECT id, ts_rank(words, asked) AS score
    FROM rlhf_index_sections, CAST(replace(plainto_tsquery('english', :query)::text, '&', '|') AS tsquery) AS asked
    WHERE words @@ asked ORDER BY score DESC, key LIMIT 50
    """
)


@pytest.fixture
def postgres(empty_postgres_url: str) -> Iterator[Engine]:
    """A database without any table."""
    engine = make_engine(empty_postgres_url)
    yield engine
    engine.dispose()


@pytest.mark.parametrize("counted", [True, False], ids=["counted", "not counted"])
def test_where_few_sections_match_all_are_ranked(postgres: Engine, counted: bool) -> None:
    """Order and scores are PostgreSQL's own for any word of the question, whether or not it has counted the words."""
    words = ["heart", "attack", "kidney", "o'neil", "/usr/lib\\x", "pre-eclampsia", "smith@example.org", "3.5", "''a''"]
    draw = random.Random(0)
    store = PgVectorStore(postgres)
    texts = (" ".join(draw.choices(words, k=9)) for _ in range(200))
    store.add([entry(f"d{place}", each, title=draw.choice(words)) for place, each in enumerate(texts)], encoder=ENCODER)
    if counted:
        store.optimize()
    with postgres.connect() as connection:
        for question in (*words, "heart AND kidney | !attack", "what o'neil says of /usr/lib\\x", "nothing"):
            hits = store.search(question, unit(0)[0], limit=50, mode="text")
            expected = connection.execute(_EVERY_MATCH, {"query": question}).all()
            assert [(hit.section.id, hit.score) for hit in hits] == [tuple(row) for row in expected]


def test_common_words_are_left_out_where_rarer_ones_find_enough(
    postgres: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A question that has no others, or finds nothing by them, is one for all that match."""
    monkeypatch.setattr(pgvector_store, "_MATCHES", 30)
    store = PgVectorStore(postgres)
    store.add([entry(f"common{place}", "common words") for place in range(100)], encoder=ENCODER)
    store.add([entry(f"less{place}", "less common") for place in range(20)], encoder=ENCODER)
    store.add([entry(f"rare{place}", "a rare one" + place * " common") for place in range(2)], encoder=ENCODER)
    store.optimize()
    assert found(store, "rare common", limit=2) == ["rare1", "rare0"]
    assert len(found(store, "rare common", limit=50)) == 50
    assert sorted(found(store, "rare less common", limit=22))[:3] == ["less0", "less1", "less10"]
    assert len(found(store, "rare less common", limit=50)) == 50
    assert len(found(store, "common", limit=200)) == 121
    assert len(found(store, "comon common", limit=200)) == 121


def test_words_are_sorted_in(postgres: Engine) -> None:
    """What was added is no list any more, through which each search would go from its beginning."""
    pending = text("SELECT gin_clean_pending_list('rlhf_index_sections_words')")
    store = PgVectorStore(postgres)
    for optimized in (False, True):
        store.add([entry(f"d{place}", f"word{place}") for place in range(100)], encoder=ENCODER)
        if optimized:
            store.optimize()
        with postgres.begin() as connection:
            assert (connection.execute(pending).scalar_one() == 0) == optimized


def test_several_first_uses_at_once(open_: Open) -> None:
    """Processes that start together create the tables once."""
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: open_().add([entry(f"d{n}", seeds=(n,))], encoder=ENCODER), range(4)))
    assert open_().sources() == [SourceCount("s", 4, 4)]


@pytest.mark.parametrize(("url", "kind"), [("sqlite:///x.db", LanceDbStore), ("postgresql://h/x", PgVectorStore)])
def test_the_settings_choose_the_store(url: str, kind: type, tmp_path: Path) -> None:
    """A PostgreSQL URL means pgvector in that database, all others LanceDB in a folder; nothing is created."""
    settings = Settings(database_url=url, index_path=tmp_path / "index")
    assert isinstance(open_store(settings), kind)
    assert not (tmp_path / "index").exists()


def test_vectors_of_another_length_are_refused_until_the_index_is_empty(store: VectorStore) -> None:
    """Those of another encoder neither find nor join; once all is deleted, they may come."""

    def of_other(document: str) -> Entry:
        return Entry(entry(document).section, np.eye(1, 512, dtype=np.float32), np.eye(1, 512, dtype=np.float32)[0])

    query = np.eye(1, 512, dtype=np.float32)[0]
    assert store.search("text", query, limit=3) == []
    store.add([entry("a")], encoder=ENCODER)
    for attempt in (
        lambda: store.search("text", query, limit=3),
        lambda: store.add([of_other("b")], encoder="model-b/fp32"),
    ):
        with pytest.raises(VectorStoreError, match=r"of model-a/fp32.*RLHF_ENCODER=model-a\).*rlhf-loop index add"):
            attempt()
    assert store.delete("s") == 1
    assert store.search("text", query, limit=3) == []
    store.add([of_other("b")], encoder="model-b/fp32")
    (hit,) = store.search("text", query, limit=3)
    assert (hit.section.document, hit.encoder, hit.vectors.shape) == ("b", "model-b/fp32", (1, 512))
    store.optimize()


def test_chinese_is_found_by_parts_of_its_sentences(in_language: Callable[[str], VectorStore]) -> None:
    """It has no blanks between words, so that whole sentences would be words."""
    store = in_language("chinese")
    store.add([entry("a", "苹果树在冬末修剪"), entry("b", "鸡蛋煮十分钟")], encoder=ENCODER)
    assert found(store, "怎样修剪苹果树？") == ["a"]


def test_an_unknown_language_is_refused() -> None:
    """The message lists those that there are."""
    with pytest.raises(ConfigError, match=r"RLHF_INDEX_LANGUAGE='klingon'.*english"):
        open_store(Settings(index_language="klingon"))


def test_without_pgvector_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra [postgres] brings it."""
    engine = make_engine("postgresql://h/x")
    monkeypatch.setitem(sys.modules, "pgvector", None)
    monkeypatch.setattr(extras.importlib, "import_module", _no_pgvector)
    with pytest.raises(MissingExtraError, match=r"rlhf-loop\[postgres\]"):
        PgVectorStore(engine)


def _no_pgvector(name: str) -> object:
    raise ModuleNotFoundError(name=name)


def test_opening_loads_no_library() -> None:
    """LanceDB is imported by the first use of an index that exists: a server without one never pays for it."""
    code = (
        "import sys; from rlhf_loop.config import Settings; from rlhf_loop.sources.index import open_store; "
        "assert open_store(Settings()).sources() == []; assert 'lancedb' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd="/")


def test_an_index_that_comes_later_is_cold_until_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as there is none, nothing is loaded; then the first read loads LanceDB for all."""
    monkeypatch.setattr(lancedb_store, "_AT_WORK", set())
    store = LanceDbStore(tmp_path / "index")
    assert (store.sources(), store.cold) == ([], False)
    LanceDbStore(tmp_path / "index").add([entry("a", "text")], encoder=ENCODER)
    lancedb_store._AT_WORK.clear()
    assert store.cold
    assert len(store.sources()) == 1
    assert not store.cold


def everything(store: VectorStore) -> list[tuple[Section, str, bytes, bytes | None]]:
    """All that is kept, to compare to the last bit."""
    kept = [each for batch in store.everything() for each in batch]
    found = [
        (
            each.entry.section,
            each.encoder,
            each.entry.vectors.tobytes(),
            each.entry.heading.tobytes() if each.entry.heading is not None else None,
        )
        for each in kept
    ]
    return sorted(found, key=lambda row: row[0].id)


def test_everything_and_in_its_place(store: VectorStore) -> None:
    """All comes out as it went in, to the last bit; others take its place as one, found by vectors and by words."""
    assert list(store.everything()) == []
    some = [entry("a", "apples", seeds=(1, 2), heading=3, title="Fruit"), entry("a", "pears", number=1, seeds=(4,))]
    store.add(some, encoder=ENCODER)
    store.add([entry("b", "plums", source="t", seeds=(5,))], encoder="model-a/int8")
    before = everything(store)
    assert [(row[0].id, row[1]) for row in before] == [("a-0", ENCODER), ("a-1", ENCODER), ("b-0", "model-a/int8")]
    assert before[0][:1] + before[0][2:] == (some[0].section, unit(1, 2).tobytes(), unit(3)[0].tobytes())
    new = [StoredEntry(entry(f"c{number}", f"quinces {number}", seeds=(number,)), ENCODER) for number in range(12)]
    store.replace([new[:7], new[7:]])
    assert store.sources() == [SourceCount("s", 12, 12)]
    assert found(store, "quinces 11")[0] == "c11"
    assert found(store, "x", "vector", seed=4)[0] == "c4"
    assert found(store, "plums") == []
    store.add([entry("d", "medlars")], encoder=ENCODER)
    store.optimize()
    assert found(store, "medlars") == ["d"]
    store.replace([])
    assert store.sources() == []
    assert found(store, "medlars") == []


def test_a_replacement_that_breaks_off(store: VectorStore) -> None:
    """What was there is there."""
    store.add([entry("a", "apples")], encoder=ENCODER)

    def batches() -> Iterator[list[StoredEntry]]:
        yield [StoredEntry(entry("b", "plums"), ENCODER)]
        raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, VectorStoreError)):
        store.replace(batches())
    assert found(store, "apples") == ["a"]
    assert store.sources() == [SourceCount("s", 1, 1)]
    store.replace([[StoredEntry(entry("b", "plums"), ENCODER)]])
    assert found(store, "plums") == ["b"]


def test_others_write_while_everything_is_read(open_: Open) -> None:
    """What is read is what was there at the beginning, whatever goes or is merged meanwhile."""
    store, other = open_(), open_()
    store.add([entry(f"a{number:03}") for number in range(600)], encoder=ENCODER)
    batches = store.everything()
    read = list(next(batches))
    other.delete("s", keep=["a001"])
    other.add([entry("b")], encoder=ENCODER)
    other.optimize()
    read += [each for batch in batches for each in batch]
    assert sorted(each.entry.section.document for each in read) == [f"a{number:03}" for number in range(600)]
    assert store.sources() == [SourceCount("s", 2, 2)]
