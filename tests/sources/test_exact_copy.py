"""The copy of a small index: all vectors are compared, of the version that is there now, and by all processes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from patience import until
from test_vector_store import ENCODER, entry, found, unit

from rlhf_loop.sources.index import Entry, lancedb_store
from rlhf_loop.sources.index.lancedb_store import LanceDbStore

#: Sections, and vectors of each.
SECTIONS, EACH = 400, 3


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "index"


def crowd() -> list[Entry]:
    """Sections in ten parts of the space, so that an index of the vectors has to choose; half of them have a title."""
    random = np.random.default_rng(0)
    middles = unit(*range(1000, 1010))
    entries = []
    for number in range(SECTIONS):
        near = middles[number % 10] + 0.05 * random.standard_normal((EACH + 1, middles.shape[1])).astype(np.float32)
        near /= np.linalg.norm(near, axis=1, keepdims=True)
        title = f"Part {number}" if number % 2 else None
        section = entry(f"d{number}", f"heart {number % 7} kidney {number}", title=title).section
        entries.append(Entry(section, near[1:], near[0] if title else None))
    return entries


def copies(folder: Path) -> list[Path]:
    """The files of copies that are there."""
    return sorted((folder / "exact").glob("*.arrow"))


def nearest(entries: list[Entry], vector: NDArray[np.float32], limit: int) -> list[str]:
    """The documents whose nearest vector is nearest, in double precision."""

    def score(each: Entry) -> float:
        own = each.vectors if each.heading is None else np.concatenate([each.vectors, each.heading[np.newaxis]])
        return float((own.astype(np.float64) @ vector.astype(np.float64)).max())

    return [each.section.document for each in sorted(entries, key=score, reverse=True)[:limit]]


def test_all_vectors_are_compared(folder: Path) -> None:
    """What is found is what is nearest in full precision, also where LanceDB would look into parts of its index."""
    entries, store = crowd(), LanceDbStore(folder, ann_from=10)
    store.add(entries, encoder=ENCODER)
    store.optimize()
    assert len(copies(folder)) == 1
    for seed in range(20):
        query = unit(seed)[0]
        hits = store.search("", query, limit=30, mode="vector")
        assert [hit.section.document for hit in hits] == nearest(entries, query, 30)


@pytest.mark.parametrize("mode", ["hybrid", "vector", "text"])
def test_it_changes_nothing_but_the_time(folder: Path, mode: str) -> None:
    """Sections, vectors to the last bit, their encoder, order and scores are those that LanceDB finds by itself."""
    store, plain = LanceDbStore(folder), LanceDbStore(folder, exact_bytes=0)
    entries = crowd()
    store.add(entries[:300], encoder=ENCODER)
    store.add(entries[300:], encoder="model-a/int8.1")
    plain.optimize()
    assert copies(folder) == []
    store.optimize()
    assert len(copies(folder)) == 1
    for seed in range(5):
        ask = {"query": "heart 3 part", "vector": unit(seed)[0], "limit": 20, "mode": mode}
        for one, other in zip(store.search(**ask), plain.search(**ask), strict=True):  # type: ignore[arg-type]
            assert (one.section, one.encoder) == (other.section, other.encoder)
            assert one.vectors.tobytes() == other.vectors.tobytes()
            assert one.score == pytest.approx(other.score, abs=1e-6)


def test_it_is_used_for_its_own_version_alone(folder: Path) -> None:
    """What another process adds or deletes is there or gone with the next search, and no copy keeps what is gone."""
    reader, writer = LanceDbStore(folder), LanceDbStore(folder)
    writer.add([entry("a", "heart", seeds=(1,))], encoder=ENCODER)
    writer.optimize()
    assert found(reader, "", "vector", seed=1) == ["a"]
    (first,) = copies(folder)
    writer.add([entry("b", "heart", seeds=(2,), source="t")], encoder=ENCODER)
    assert found(reader, "", "vector", seed=2) == ["b", "a"]
    writer.delete("s")
    for mode in ("hybrid", "vector", "text"):
        assert found(reader, "heart", mode, seed=1) == ["b"]
    writer.optimize()
    assert first not in copies(folder)
    assert found(reader, "heart", "hybrid", seed=1) == ["b"]
    writer.delete("t")
    writer.optimize()
    assert copies(folder) == []
    assert found(reader, "heart", "hybrid", seed=1) == []


def test_an_index_of_an_earlier_version_gets_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is none, the first search that misses it has it made, and is answered meanwhile."""
    with monkeypatch.context() as patch:
        patch.setattr(LanceDbStore, "_make_exact_copy", lambda store, lock_s: None)
        LanceDbStore(folder).add(crowd(), encoder=ENCODER)
        LanceDbStore(folder).optimize()
    store = LanceDbStore(folder)
    before = found(store, "heart", "hybrid", seed=5)
    until(lambda: copies(folder))
    assert found(store, "heart", "hybrid", seed=5) == before
    assert store._exact is not None


@pytest.mark.parametrize("content", [b"", b"damaged", b"ARROW1\0\0"])
def test_a_damaged_one_is_made_anew(folder: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index has all that is in it, so nothing is lost, and nobody has to do anything."""
    monkeypatch.setattr(lancedb_store, "_EXACT_EVERY_S", 0.0)
    LanceDbStore(folder).add([entry("a", "heart")], encoder=ENCODER)
    LanceDbStore(folder).optimize()
    (copy,) = copies(folder)
    copy.unlink()
    copy.write_bytes(content)
    store = LanceDbStore(folder)
    assert found(store, "heart", "hybrid") == ["a"]
    until(lambda: found(store, "heart", "hybrid") == ["a"] and store._exact is not None)


def test_a_large_index_has_none(folder: Path) -> None:
    """From so many bytes on LanceDB's own index of the vectors is the faster one; what was copied before goes."""
    small, large = LanceDbStore(folder), LanceDbStore(folder, exact_bytes=4 * 384 * SECTIONS * EACH)
    small.add(crowd(), encoder=ENCODER)
    small.optimize()
    assert len(copies(folder)) == 1
    large.add([entry("new", seeds=(5,))], encoder=ENCODER)
    large.optimize()
    assert copies(folder) == []
    assert found(large, "", "vector", seed=5, limit=1) == ["new"]
    assert copies(folder) == []


def test_another_index_in_its_place(folder: Path) -> None:
    """A folder that was deleted and made anew, by the very same steps, is read as what it is now."""
    store = LanceDbStore(folder)
    for name in ("a", "b"):
        shutil.rmtree(folder, ignore_errors=True)
        other = LanceDbStore(folder)
        other.add([entry(name, f"heart {name}", seeds=(1,))], encoder=ENCODER)
        other.optimize()
        for mode in ("hybrid", "vector", "text"):
            assert found(store, "heart", mode, seed=1) == [name]
