"""Work on a cluster, as far as it can be tested without one; `test_ray_engine.py` has Ray itself."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cluster_work import corpus, everything, quick_encoder, reaching, stop_half_way
from fake_ray import FakeRay
from valkey import Valkey, valkey

from rlhf_loop.cli.warming import warm
from rlhf_loop.config import Settings
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.encoders.cluster import EncoderCluster
from rlhf_loop.errors import ConfigError, DocumentError, EncoderError, MissingExtraError, RlhfLoopError
from rlhf_loop.sources.index import VectorStore
from rlhf_loop.sources.index.documents import DocumentFile
from rlhf_loop.sources.index.indexing import IndexReport, index_files
from rlhf_loop.sources.index.lancedb_store import LanceDbStore
from rlhf_loop.sources.index.pgvector_store import PgVectorStore
from rlhf_loop.store.engine import make_engine
from rlhf_loop.utils.ray_engine import for_workers, on_cluster, with_shared_cache

__all__ = ["valkey"]


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", fake)  # type: ignore[arg-type]
    return fake


def squarer(made: list[int], refuse: int = -1) -> Callable[[int], int]:
    """Make what squares numbers but one."""
    made.append(1)

    def square(number: int) -> int:
        if number == refuse:
            raise DocumentError(f"{number} is not a valid number. Choose another one.")
        return number * number

    return square


_made: list[int] = []


def counting() -> Callable[[int], int]:
    return squarer(_made)


def refusing() -> Callable[[int], int]:
    return squarer([], refuse=30)


def test_results_come_in_order(ray: FakeRay) -> None:
    """Whatever ends first; items are taken as there is room, and what does them is made once in a process."""
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    _made.clear()
    results = on_cluster(counting, items())
    assert next(results) == 0
    assert len(taken) <= 2 * 2 * 3
    assert list(results) == [number * number for number in range(1, 100)]
    assert (ray.most, len(_made), ray.is_initialized()) == (6, 1, False)
    assert list(on_cluster(counting, range(50), workers=2, address="head:6379")) == [n * n for n in range(50)]
    assert (ray.addresses, ray.most) == ([None, "head:6379"], 6)
    assert list(on_cluster(counting, [])) == []


def test_errors_are_those_of_the_worker(ray: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a worker met is told as if it had been met here; so is a cluster that is gone, or was never there."""
    with pytest.raises(DocumentError, match="30 is not a valid number"):
        list(on_cluster(refusing, range(50)))
    assert not ray.is_initialized()
    with pytest.raises(RlhfLoopError, match=r"at nowhere:1 cannot be reached: nobody answers. .*--address HOST"):
        list(on_cluster(counting, range(5), address="nowhere:1"))
    monkeypatch.setitem(sys.modules, "ray", FakeRay(lost=[7]))  # type: ignore[arg-type]
    with pytest.raises(RlhfLoopError, match=r"could not do its work: The worker died. Look at its log; what is done"):
        list(on_cluster(counting, range(50)))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'rlhf-loop\[ray\]'"):
        list(on_cluster(counting, range(5)))


def test_a_worker_has_the_secrets_of_its_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """None is sent; the shared cache is the one that the environment names there."""
    settings = Settings(
        database_url="postgresql://me:hush-1@here/it", cache_url="redis://:hush-2@here", secret_key="hush-3" * 8
    )
    stores = Settings(models_path="s3://me:hush-4@bucket/models", backup_path="s3://me:hush-5@bucket/backups")
    assert "hush" not in str(asdict(for_workers(stores)))
    assert for_workers(Settings(models_path=tmp_path)).models_path == tmp_path
    sent = for_workers(settings)
    assert "hush" not in json.dumps([str(getattr(sent, name)) for name in Settings.__dataclass_fields__])
    assert with_shared_cache(sent).cache_url == ""
    (tmp_path / "key").write_text("k" * 40)
    monkeypatch.setenv("RLHF_CACHE_URL", "redis://there")
    monkeypatch.setenv("RLHF_SECRET_KEY_FILE", str(tmp_path / "key"))
    monkeypatch.setenv("RLHF_NO_SETTING", "of another version")
    there = with_shared_cache(sent)
    assert (there.cache_url, there.secret_key) == ("redis://there", "k" * 40)


@pytest.fixture(params=["lancedb", "pgvector"])
def there(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[VectorStore]:
    """An empty vector database, once of each kind."""
    if request.param == "lancedb":
        yield LanceDbStore(tmp_path / "index")
        return
    engine = make_engine(request.getfixturevalue("empty_postgres_url"))
    yield PgVectorStore(engine)
    engine.dispose()


def test_a_cluster_indexes_the_same(ray: FakeRay, there: VectorStore, tmp_path: Path) -> None:
    """Each document once, with the sections and vectors that this machine would make, after a stop and repeated."""
    paths, settings = corpus(tmp_path), Settings(cache_dir=tmp_path / "cache")

    def add(store: VectorStore, **options: Any) -> IndexReport:
        return index_files(paths, store=store, encoder=quick_encoder(settings), **options)

    here = LanceDbStore(tmp_path / "here")
    expected = add(here)
    cluster = EncoderCluster(settings, load=quick_encoder)
    with pytest.raises(InterruptedError):
        add(there, cluster=cluster, progress=stop_half_way)
    begun = sum(each.documents for each in there.sources())
    assert 0 < begun < 320
    report = add(there, cluster=cluster)
    assert (expected.documents, expected.new, expected.known) == (330, 320, 10)
    assert (report.documents, report.new, report.known) == (330, 320 - begun, 10 + begun)
    assert everything(there) == everything(here)
    again = add(there, cluster=cluster, replace=True)
    assert (again.new, again.known, again.sections, sum(again.replaced.values())) == (0, 330, 0, 0)


def test_files_that_a_machine_has_not(ray: FakeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are no bad documents: somebody has to mount their folder."""
    (tmp_path / "a.txt").write_text("Here alone.")
    monkeypatch.setattr(DocumentFile, "absolute", lambda self: replace(self, path=Path("/nowhere/a.txt")))
    settings = Settings(cache_dir=tmp_path / "cache")
    options: dict[str, Any] = {"store": LanceDbStore(tmp_path / "i"), "encoder": quick_encoder(settings)}
    with pytest.raises(DocumentError, match=r"has no file '/nowhere/a.txt'. Put the files into a folder that all"):
        index_files([tmp_path / "a.txt"], cluster=EncoderCluster(settings, load=quick_encoder), **options)


def other_encoder(settings: Settings) -> TextEncoder:
    encoder = quick_encoder(settings)
    encoder._runtime.id = "other"  # type: ignore[misc]
    return encoder


def test_another_encoder_on_a_machine(ray: FakeRay, tmp_path: Path) -> None:
    """Its vectors would not compare with the others."""
    (tmp_path / "a.txt").write_text("Here.")
    settings = Settings(cache_dir=tmp_path / "cache")
    options: dict[str, Any] = {"store": LanceDbStore(tmp_path / "i"), "encoder": quick_encoder(settings)}
    with pytest.raises(EncoderError, match=r"has the encoder other, and quick was asked for. Install the same weights"):
        index_files([tmp_path / "a.txt"], cluster=EncoderCluster(settings, load=other_encoder), **options)


def test_a_cluster_warms_the_shared_cache(ray: FakeRay, valkey: Valkey, tmp_path: Path) -> None:
    """Whoever serves finds all of it there; without a cache, or with another key, on the machines it is no success."""
    assert "RLHF_CACHE_URL" not in os.environ
    file = tmp_path / "answers.jsonl"
    rows = [{"prompt": f"What is {n % 9}?", "answer": f"It is {n}. " * (n % 30 + 1)} for n in range(200)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = Settings(
        model_path=tmp_path / "none.joblib", cache_dir=tmp_path / "cache", cache_url=valkey.url, secret_key="s" * 40
    )

    def warmed(settings: Settings, load: Callable[[Settings], TextEncoder]) -> Any:
        patient = replace(settings, cache_timeout_ms=5000.0)
        return warm(file, settings, encoder=quick_encoder(patient), cluster=EncoderCluster(settings, load=load))

    with pytest.raises(ConfigError, match="RLHF_CACHE_URL is empty, and what a cluster embeds goes into"):
        warmed(replace(settings, cache_url=""), quick_encoder)
    with pytest.raises(ConfigError, match=r"RLHF_CACHE_URL is not set on the machine .*, where ray start ran"):
        warmed(settings, quick_encoder)
    with pytest.raises(EncoderError, match="texts of the last rows are not found there"):
        warmed(settings, partial(reaching, valkey.url, "t" * 40))
    known = partial(reaching, valkey.url, settings.secret_key)
    first = warmed(settings, known)
    assert (first.answers, first.new > 200) == (200, True)
    assert warmed(settings, known).new == 0
    other = replace(settings, cache_dir=tmp_path / "other", cache_timeout_ms=5000.0)
    assert warm(file, settings, encoder=quick_encoder(other)).new == 0
