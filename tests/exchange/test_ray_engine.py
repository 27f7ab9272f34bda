"""Tests that need Ray: `make scale` installs it, and `.venv-scale/bin/python -m pytest` with this file runs them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from quick_encoder import QuickRuntime

from rlhf_loop.config import Settings
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.encoders.tokenizer import load_tokenizer
from rlhf_loop.encoders.weights import find_model_folder
from rlhf_loop.errors import EncoderError
from rlhf_loop.exchange.bulk_scoring import score_dataset
from rlhf_loop.ranking import Ranker
from rlhf_loop.reward import RECIPES, RewardModel
from rlhf_loop.reward.classifier import Scorer
from rlhf_loop.reward.model_file import save
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
    tokenizer = load_tokenizer(find_model_folder() / "tokenizer.json")
    return Ranker(settings, encoder=TextEncoder(QuickRuntime(), tokenizer))


def broken_ranker(settings: Settings) -> Ranker:
    """Make a ranker where the command runs, and none in an actor."""
    import ray

    if ray.is_initialized():
        raise EncoderError("There are no weights here. Install them.")
    return quick_ranker(settings)


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
