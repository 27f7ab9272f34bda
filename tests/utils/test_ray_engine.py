"""What needs Ray itself: `make scale` installs it, and `.venv-scale/bin/python -m pytest` with this file runs them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cluster_work import corpus, everything, quick_encoder, reaching, stop_half_way
from valkey import Valkey, valkey

from rlhf_loop.cli.warming import warm
from rlhf_loop.config import Settings
from rlhf_loop.encoders.cluster import EncoderCluster
from rlhf_loop.errors import EncoderError
from rlhf_loop.exchange.bulk_scoring import score_dataset
from rlhf_loop.ranking import Ranker
from rlhf_loop.reward import RECIPES, RewardModel
from rlhf_loop.reward.classifier import Scorer
from rlhf_loop.reward.model_file import save
from rlhf_loop.sources.index.indexing import index_files
from rlhf_loop.sources.index.lancedb_store import LanceDbStore
from tools.scale import cluster_of

__all__ = ["valkey"]

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
        machines = settings.cache_dir / "machines"
        machines.mkdir(parents=True, exist_ok=True)
        (machines / ray.get_runtime_context().get_node_id()).touch()
    return Ranker(settings, encoder=quick_encoder(settings))


def broken_ranker(settings: Settings) -> Ranker:
    """Make a ranker where the command runs, and none in an actor."""
    import ray

    if ray.is_initialized():
        raise EncoderError("There are no weights here. Install them.")
    return quick_ranker(settings)


def test_a_cluster_indexes_the_same(cluster: Any, tmp_path: Path) -> None:
    """Each document once, with the sections and vectors that this machine would make, also after a stop."""
    paths, settings = corpus(tmp_path), Settings(cache_dir=tmp_path / "cache")
    on_cluster = EncoderCluster(settings, cluster.address, load=quick_encoder)
    here, there = LanceDbStore(tmp_path / "here"), LanceDbStore(tmp_path / "there")
    options: dict[str, Any] = {"encoder": quick_encoder(settings)}
    assert index_files(paths, store=here, **options).new == 320
    with pytest.raises(InterruptedError):
        index_files(paths, store=there, cluster=on_cluster, progress=stop_half_way, **options)
    report = index_files(paths, store=there, cluster=on_cluster, **options)
    assert (report.documents, 0 < report.new < 320) == (330, True)
    assert everything(there) == everything(here)


def test_a_cluster_warms_the_shared_cache(cluster: Any, valkey: Valkey, tmp_path: Path) -> None:
    """A machine that serves finds all of it there."""
    file = tmp_path / "answers.jsonl"
    rows = [{"prompt": f"What is {n % 9}?", "answer": f"It is {n}. " * (n % 30 + 1)} for n in range(200)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = Settings(
        model_path=tmp_path / "none.joblib",
        cache_dir=tmp_path / "cache",
        cache_url=valkey.url,
        cache_timeout_ms=5000.0,
        secret_key="s" * 40,
    )
    load = partial(reaching, valkey.url, settings.secret_key)
    on_cluster = EncoderCluster(settings, cluster.address, load=load)
    assert warm(file, settings, encoder=quick_encoder(settings), cluster=on_cluster).new > 200
    other = replace(settings, cache_dir=tmp_path / "other")
    assert warm(file, settings, encoder=quick_encoder(other)).new == 0


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
                at_work = next((settings.cache_dir / "machines").iterdir()).name
                cluster.remove_node(nodes.pop(at_work), allow_graceful=False)

        return report

    score_dataset(
        tmp_path / "in.parquet", tmp_path / "two", make_ranker=quick_ranker, progress=kill, **options, **on_cluster
    )
    assert len(nodes) == 1
    assert pq.read_table(tmp_path / "two").equals(pq.read_table(tmp_path / "one"))
