"""What needs Ray: `make scale` installs it, and `.venv-scale/bin/python -m pytest` with this file runs them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from quick_encoder import QuickRuntime
from valkey import Valkey

from rlhf_loop.cli.warming import warm
from rlhf_loop.config import Settings
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.encoders.cluster import EncoderCluster
from rlhf_loop.encoders.shared_vectors import open_shared
from rlhf_loop.encoders.tokenizer import load_tokenizer
from rlhf_loop.encoders.vector_cache import VectorCache
from rlhf_loop.encoders.weights import find_model_folder
from rlhf_loop.errors import ConfigError, DocumentError, EncoderError
from rlhf_loop.exchange.bulk_scoring import score_dataset
from rlhf_loop.ranking import Ranker
from rlhf_loop.reward import RECIPES, RewardModel
from rlhf_loop.reward.classifier import Scorer
from rlhf_loop.reward.model_file import save
from rlhf_loop.sources.index import VectorStore
from rlhf_loop.sources.index.documents import find_files
from rlhf_loop.sources.index.indexing import IndexReport, index_files
from rlhf_loop.sources.index.lancedb_store import LanceDbStore
from rlhf_loop.sources.index.pgvector_store import PgVectorStore
from rlhf_loop.store.engine import make_engine
from tools.scale import cluster_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.kill,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra [ray]: make scale installs it"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of two raylets of one CPU each, beside one without any that has the driver."""
    folder = Path(__file__).parent
    # Actors find by it what is here: it is pickled by its name.
    path = os.pathsep.join([str(folder), str(folder.parent), os.environ.get("PYTHONPATH", "")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)
        with cluster_of(0, 1, 1) as (found, _):
            yield found


def quick_ranker(settings: Settings) -> Ranker:
    """Make a ranker without weights, in whatever process; an actor's notes on which machine it is."""
    import ray

    if ray.is_initialized():
        settings.cache_dir.mkdir(exist_ok=True)
        (settings.cache_dir / ray.get_runtime_context().get_node_id()).touch()
    return Ranker(settings, encoder=quick_encoder(settings))


def quick_encoder(settings: Settings) -> TextEncoder:
    """Make an encoder without weights, in whatever process."""
    tokenizer = load_tokenizer(find_model_folder() / "tokenizer.json")
    cache = VectorCache(settings.cache_dir / "vectors.db", shared=open_shared(settings))
    return TextEncoder(QuickRuntime(), tokenizer, cache)


def broken_ranker(settings: Settings) -> Ranker:
    """Make a ranker where the command runs, and none in an actor."""
    import ray

    if ray.is_initialized():
        raise EncoderError("There are no weights here. Install them.")
    return quick_ranker(settings)


@pytest.fixture(params=["lancedb", "pgvector"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], VectorStore]:
    """Opens one and the same vector database."""
    if request.param == "lancedb":
        return lambda: LanceDbStore(tmp_path / "index")
    url = request.getfixturevalue("empty_postgres_url")
    return lambda: PgVectorStore(make_engine(url))


def test_each_document_is_indexed_once(cluster: Any, stores: Callable[[], VectorStore], tmp_path: Path) -> None:
    """A cluster indexes what this machine would, with the same vectors; neither a stop nor the same again adds any."""
    texts = [f"Document {n}. " + "It says a little. " * (n % 40) for n in range(300)]
    table = tmp_path / "table.jsonl"
    table.write_text("".join(json.dumps({"text": text, "title": f"Title {n}"}) + "\n" for n, text in enumerate(texts)))
    folder = tmp_path / "files"
    folder.mkdir()
    for n in range(30):
        # The last ten say what the first ones say.
        (folder / f"{n:02}.txt").write_text(f"File {n % 20}. " + "It says something. " * (n % 20))
    settings = Settings(cache_dir=tmp_path / "cache")
    here, there = LanceDbStore(tmp_path / "here"), stores()
    on_cluster = EncoderCluster(settings, cluster.address, load=quick_encoder)

    def add(store: VectorStore, **options: Any) -> IndexReport:
        return index_files([table, folder], store=store, encoder=quick_encoder(settings), **options)

    expected = add(here)
    with pytest.raises(InterruptedError):
        add(there, cluster=on_cluster, progress=stop_half_way)
    with closing(there):
        begun = there.sources()
    assert sum(each.documents for each in begun) > 0
    report = add(stores(), cluster=on_cluster)
    assert (report.documents, report.new + report.known) == (expected.documents, 330)
    assert everything(there) == everything(here)
    again = add(there, cluster=on_cluster)
    assert (again.new, again.known, again.sections) == (0, 330, 0)


def everything(store: VectorStore) -> dict[str, tuple[Any, ...]]:
    """All sections with their vectors, but for when they were added."""
    hits = store.search("", quick_encoder(Settings()).encode_whole(["It"])[0], limit=5000, mode="vector")
    return {hit.section.id: (replace(hit.section, added_at=None), hit.vectors.tolist()) for hit in hits}  # type: ignore[arg-type]


def stop_half_way(done: int, total: int) -> None:
    if done > total / 2:
        raise InterruptedError


def test_files_that_a_machine_has_not(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are no bad documents: somebody has to mount their folder."""
    file = tmp_path / "a.txt"
    file.write_text("Here alone.")
    on_cluster = EncoderCluster(Settings(cache_dir=tmp_path / "cache"), cluster.address, load=quick_encoder)
    monkeypatch.setattr(type(find_files([file])[0]), "absolute", lambda self: replace(self, path=tmp_path / "b.txt"))
    with pytest.raises(DocumentError, match=r"has no file .*b.txt'. Put the files into a folder that all machines"):
        index_files(
            [file], store=LanceDbStore(tmp_path / "i"), encoder=quick_encoder(on_cluster.settings), cluster=on_cluster
        )


def test_a_cluster_warms_the_shared_cache(cluster: Any, valkey: Valkey, tmp_path: Path) -> None:
    """Whoever serves finds all of it there; with another key on the machines it is no success."""
    file = tmp_path / "answers.jsonl"
    rows = [{"prompt": f"What is {n % 9}?", "answer": f"It is {n}. " * (n % 30 + 1)} for n in range(200)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = Settings(
        model_path=tmp_path / "none.joblib", cache_dir=tmp_path / "cache", cache_url=valkey.url, secret_key="s" * 40
    )

    def warmed(settings: Settings, load: Callable[[Settings], TextEncoder]) -> Any:
        on_cluster = EncoderCluster(settings, cluster.address, load=load)
        return warm(file, settings, encoder=quick_encoder(settings), cluster=on_cluster)

    with pytest.raises(ConfigError, match="RLHF_CACHE_URL is empty"):
        warmed(replace(settings, cache_url=""), quick_encoder)
    with pytest.raises(ConfigError, match=r"RLHF_CACHE_URL is not set on the machine .*, where ray start ran"):
        warmed(settings, quick_encoder)
    with pytest.raises(EncoderError, match="texts of the last rows are not found there"):
        warmed(settings, partial(reaching, valkey.url, "t" * 40))
    first = warmed(settings, partial(reaching, valkey.url, settings.secret_key))
    assert (first.answers, first.new > 200) == (200, True)
    assert warmed(settings, partial(reaching, valkey.url, settings.secret_key)).new == 0
    alone = quick_encoder(replace(settings, cache_dir=tmp_path / "other"))
    assert warm(file, settings, encoder=alone).new == 0


def reaching(url: str, key: str, settings: Settings) -> TextEncoder:
    """Make an encoder as on a machine whose environment has these."""
    return quick_encoder(replace(settings, cache_url=url, secret_key=key))


def test_a_lost_machine_loses_nothing(cluster: Any, tmp_path: Path) -> None:
    """On a cluster each row is scored once, as on one machine, also if one is lost; an actor's error is told."""
    settings = Settings(model_path=tmp_path / "model.joblib", cache_dir=tmp_path / "cache")
    size = len(RECIPES["passages"].feature_names())
    scorer = Scorer(np.linspace(-1, 1, size), 0.0, np.full(size, -10.0), np.full(size, 10.0))
    save(RewardModel.of(scorer, recipe="passages", encoder="quick"), settings.model_path)
    rows = [
        {"id": n, "question": f"What helps against {n % 60}?", "text": f"Take {'rest ' * (n % 7)}."} for n in range(300)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    options: dict[str, Any] = {"settings": settings, "part_rows": 10}
    score_dataset(tmp_path / "in.parquet", tmp_path / "one", workers=1, make_ranker=quick_ranker, **options)
    on_cluster = {"engine": "ray", "address": cluster.address}
    with pytest.raises(EncoderError, match="There are no weights here"):
        score_dataset(tmp_path / "in.parquet", tmp_path / "two", make_ranker=broken_ranker, **options, **on_cluster)
    nodes = {node.node_id: node for node in cluster.worker_nodes}

    def kill(what: str, unit: str) -> Callable[[int, int], None]:
        def report(done: int, total: int) -> None:
            if what == "Scoring" and done and len(nodes) == 2:
                at_work = next(settings.cache_dir.iterdir()).name
                cluster.remove_node(nodes.pop(at_work), allow_graceful=False)

        return report

    score_dataset(
        tmp_path / "in.parquet", tmp_path / "two", make_ranker=quick_ranker, progress=kill, **options, **on_cluster
    )
    assert len(nodes) == 1
    assert pq.read_table(tmp_path / "two").equals(pq.read_table(tmp_path / "one"))
