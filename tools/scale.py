"""Measure bulk scoring and indexing: one machine against clusters of Ray, with machines and drivers that are killed.

    make scale
    make scale OPTIONS="--known 20000 --texts 0 --documents 0 --memory 0"

A cluster is several raylets of one CPU each on this machine. The vectors of most candidates are synthetic, as in
`make bench`: what is measured is the rest, as where vectors are known. The real encoder reads those of `--texts` and
`--documents`. It prints a line for each run, and ends with exit code 1 where something does not hold.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rlhf_loop.config import Settings
from rlhf_loop.domain import Candidate, Ranking
from rlhf_loop.encoders import DIMENSION, Shape, TextEncoder, Vectors, load_encoder
from rlhf_loop.encoders.cluster import EncoderCluster
from rlhf_loop.encoders.tokenizer import load_tokenizer
from rlhf_loop.encoders.vector_cache import VectorCache
from rlhf_loop.encoders.weights import find_model_folder
from rlhf_loop.exchange.bulk_scoring import ScoreReport, bulk_ranker, score_dataset
from rlhf_loop.ranking import Ranker
from rlhf_loop.reward import RECIPES, RewardModel
from rlhf_loop.reward.classifier import Scorer
from rlhf_loop.reward.model_file import save
from rlhf_loop.sources.index.indexing import check_files, index_files
from rlhf_loop.sources.index.lancedb_store import TABLE, LanceDbStore
from rlhf_loop.utils.extras import require
from tools.bench.synthesis import WordMeans, words_of_sample
from tools.report import children, megabytes, processor_s, say

#: Candidates of a question, and words of each.
_CANDIDATES, _WORDS = 10, (20, 60)
_ROWS = 10_000
_OBJECT_STORE = 100_000_000
_PATIENCE_S = 600
#: What Ray reads when it is imported: how long its processes may take to start, and to answer while they do. After the
#: first of these a raylet that has given up is noticed.
_PATIENCE = {
    "RAY_raylet_start_wait_time_s": "30",
    "RAY_worker_register_timeout_seconds": "600",
    "RAY_agent_register_timeout_ms": "600000",
    "RAY_gcs_server_request_timeout_seconds": "600",
    "RAY_health_check_timeout_ms": "120000",
}
#: Ports that a raylet waits 15 s for its agents to choose, and then gives up, unless it is given them.
_AGENT_PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")


class _WordVectors:
    """A runtime that makes up a vector for each word."""

    id = "synthetic"
    shape = Shape()

    def encode(self, texts: Sequence[str]) -> Vectors:
        vectors = np.random.default_rng(0).standard_normal((len(texts), DIMENSION)).astype(np.float32)
        unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit


class _Watched(Ranker):
    """A ranker that notes the memory of its process, as far as it ever went."""

    _count = 0

    def ranking(self, query: str, candidates: Sequence[Candidate], *, pointwise: bool = False) -> Ranking:
        self._count += 1
        if self._count % 100 == 1:
            folder = self._settings.cache_dir
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"peak-{os.getpid()}").write_text(str(megabytes("VmHWM")))
        return super().ranking(query, candidates, pointwise=pointwise)


def synthetic_ranker(settings: Settings) -> Ranker:
    """Make a ranker whose vectors cost next to nothing, in whatever process."""
    tokenizer = load_tokenizer(find_model_folder() / "tokenizer.json")
    cache = VectorCache(settings.cache_dir / "vectors.db", max_bytes=settings.cache_max_mb * 10**6)
    return _Watched(settings, encoder=TextEncoder(WordMeans(_WordVectors()), tokenizer, cache))


def write_candidates(path: Path, count: int, *, seed: int) -> None:
    """Write that many candidates in no order, ten to a question."""
    chance, words = random.Random(seed), words_of_sample()
    names = pa.schema([("id", pa.int64()), ("question", pa.string()), ("text", pa.string())])
    questions = max(1, count // _CANDIDATES)
    with pq.ParquetWriter(path, names) as file:
        for start in range(0, count, _ROWS):
            ids = range(start, min(count, start + _ROWS))
            texts = [" ".join(chance.choices(words, k=chance.randint(*_WORDS))) for _ in ids]
            asked = [f"What is known of {words[id % questions % 97]} and number {id % questions}?" for id in ids]
            file.write_table(pa.table([list(ids), asked, texts], names))


def put_model(settings: Settings) -> None:
    """Save a model of synthetic vectors, which nobody has trained."""
    size = len(RECIPES["passages"].feature_names())
    scorer = Scorer(np.linspace(-1, 1, size), 0.0, np.full(size, -10.0), np.full(size, 10.0))
    save(RewardModel.of(scorer, recipe="passages", encoder=_WordVectors.id), settings.model_path)


def drive(source: str, output: str, folder: str, engine: str, workers: str, address: str) -> None:
    """Score synthetic candidates in a process that may be killed, and print its memory."""
    settings = _settings(Path(folder))
    report = score_dataset(
        source,
        output,
        settings,
        engine=engine,
        workers=int(workers),
        address=address or None,
        part_rows=_part_rows(pq.read_metadata(source).num_rows),
        make_ranker=synthetic_ranker,
    )
    print(report.known_rows, report.rows, round(megabytes("VmHWM")))  # noqa: T201


def _part_rows(count: int) -> int:
    """Return how many candidates a part has: a hundred parts, so that each of two workers has some before a kill."""
    return min(2000, max(100, count // 100))


def _settings(folder: Path) -> Settings:
    return Settings(model_path=folder / "model.joblib", cache_dir=folder / "cache")


@contextmanager
def cluster_of(*cpus: int) -> Iterator[tuple[Any, list[Any]]]:
    """Start raylets of so many CPUs each; the first one has the driver. A slow machine gets the time that it needs."""
    os.environ.update(_PATIENCE)
    utilities = require("ray.cluster_utils", "ray")
    cluster = utilities.Cluster()
    try:
        yield cluster, [_raylet(cluster, number) for number in cpus]
    finally:
        cluster.shutdown()


def _raylet(cluster: Any, cpus: int) -> Any:
    """Start a raylet; once more where it has given up, as it does if the machine is too busy for its agents.

    With the first one Ray starts servers, which then are left: they end before others are started.
    """
    end, before = time.monotonic() + _PATIENCE_S, children(os.getpid())
    while True:
        with ExitStack() as stack:
            sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in _AGENT_PORTS]
            ports = {name: of.getsockname()[1] for name, of in zip(_AGENT_PORTS, sockets, strict=True)}
        try:
            return cluster.add_node(num_cpus=cpus, object_store_memory=_OBJECT_STORE, include_dashboard=False, **ports)
        except Exception:  # Ray has no class for it
            if time.monotonic() > end:
                raise
            if cluster.head_node is None:
                for left in children(os.getpid()) - before:
                    with suppress(ProcessLookupError):
                        os.kill(left, signal.SIGKILL)


def _table(folder: Path) -> Any:
    return pq.read_table(folder).sort_by("id")


class _Runs:
    """The runs with their output in one folder, each held against the first one of its input."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.failed = False
        self._expected: dict[Path, Any] = {}

    def told(self, what: str, holds: bool, said: str) -> None:
        """Print a result."""
        self.failed |= not holds
        click.echo(f"{'holds' if holds else 'FAILS'}  {what}: {said}")

    def score(self, what: str, source: Path, **options: Any) -> ScoreReport:
        """Score an input anew, and say how fast; the output is the same to the last bit whatever scored it."""
        output = self.folder / "out"
        shutil.rmtree(output, ignore_errors=True)
        say(what)
        options["part_rows"] = _part_rows(pq.read_metadata(source).num_rows)
        before = processor_s(os.getpid())
        report = score_dataset(source, output, **options)
        taken = processor_s(os.getpid()) - before
        said = f"{report.rows / report.seconds:,.0f} candidates a second, {report.seconds:.0f} s"
        # What a process that was killed had taken is lost.
        said += "" if "progress" in options else f", {taken:,.0f} s of the processor"
        self.same(what, source, output, said)
        return report

    def same(self, what: str, source: Path, output: Path, said: str) -> None:
        """Compare an output with the first one of its input."""
        table = _table(output)
        expected = self._expected.setdefault(source, table)
        rows = len(set(table["id"].to_pylist()))
        same = table.equals(expected) and rows == len(table) == pq.read_metadata(source).num_rows
        self.told(
            what, same, f"{said}; {rows:,} rows, each once, {'the same' if same else 'NOT the same'} to the last bit"
        )


@click.command()
@click.option("--known", default=200_000, show_default=True, help="Candidates with synthetic vectors; 0 leaves it out.")
@click.option("--texts", default=20_000, show_default=True, help="Candidates for the real encoder.")
@click.option("--documents", default=2_000, show_default=True, help="Documents to index, by the real encoder.")
@click.option("--memory", default=5_000_000, show_default=True, help="Candidates while memory is measured.")
@click.option("--keep", is_flag=True, help="Keep the folder.")
def main(known: int, texts: int, documents: int, memory: int, keep: bool) -> None:
    """Measure, and say what held."""
    folder = Path(tempfile.mkdtemp(prefix="rlhf-scale-"))
    runs = _Runs(folder)
    try:
        settings = _settings(folder)
        put_model(settings)
        if known:
            _known(runs, settings, known)
        if texts:
            _texts(runs, texts)
        if documents:
            _documents(runs, documents)
        if memory:
            _memory(runs, memory)
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    sys.exit(runs.failed)


def _known(runs: _Runs, settings: Settings, count: int) -> None:
    source = runs.folder / "known.parquet"
    write_candidates(source, count, seed=1)
    options: dict[str, Any] = {"settings": settings, "make_ranker": synthetic_ranker}
    runs.score("local, one process, before their vectors were known", source, workers=1, **options)
    runs.score("local, one process", source, workers=1, **options)
    runs.score("local, two processes", source, workers=2, **options)
    with cluster_of(1) as (cluster, _):
        runs.score("Ray, one node", source, engine="ray", address=cluster.address, **options)
    with cluster_of(1, 1) as (cluster, _):
        runs.score("Ray, two nodes", source, engine="ray", address=cluster.address, **options)
        for engine, address in (("local", ""), ("ray", cluster.address)):
            _killed_driver(runs, source, engine=engine, address=address)
    with cluster_of(1, 1) as (cluster, nodes):

        def kill(what: str, unit: str) -> Callable[[int, int], None]:
            def report(done: int, total: int) -> None:
                if what == "Scoring" and done > total / 4 and len(nodes) > 1:
                    cluster.remove_node(nodes.pop(), allow_graceful=False)

            return report

        runs.score(
            "Ray, one of two nodes killed", source, engine="ray", address=cluster.address, progress=kill, **options
        )
        if len(nodes) > 1:
            runs.told("Ray, one of two nodes killed", False, "the run was over before; give more candidates")


def _killed_driver(runs: _Runs, source: Path, *, engine: str, address: str) -> None:
    output = runs.folder / f"killed-{engine}"
    command = _command(source, output, runs.folder, engine=engine, workers=2, address=address)
    say(f"{engine}, driver killed")
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as driver:
        end = time.monotonic() + _PATIENCE_S
        while len(list(output.glob("part-*"))) < 3 and driver.poll() is None and time.monotonic() < end:
            time.sleep(0.1)
        driver.send_signal(signal.SIGKILL)
    before = sum(pq.read_metadata(part).num_rows for part in output.glob("part-*"))
    again = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, check=True)
    done, rows, _ = map(int, again.stdout.split()[-3:])
    what = f"{engine}, driver killed"
    runs.told(what, before <= done < rows, f"the second run left {done:,} of {rows:,} rows as they were")
    runs.same(what, source, output, "the whole")


def _command(source: Path, output: Path, folder: Path, *, engine: str, workers: int, address: str) -> list[str]:
    words = [str(source), str(output), str(folder), engine, str(workers), address]
    return [sys.executable, "-c", "import sys; from tools.scale import drive; drive(*sys.argv[1:])", *words]


def _texts(runs: _Runs, count: int) -> None:
    source = runs.folder / "texts.parquet"
    write_candidates(source, count, seed=2)
    by_prior = replace(_settings(runs.folder), model_path=runs.folder / "none.joblib", rerank_without_model="prior")

    def score(what: str, **options: Any) -> None:
        cache = runs.folder / f"cache-{len(list(runs.folder.iterdir()))}"
        runs.score(what, source, settings=replace(by_prior, cache_dir=cache), make_ranker=bulk_ranker, **options)

    score("new texts, local, one process", workers=1)
    for nodes in (1, 2):
        with cluster_of(*[1] * nodes) as (cluster, _):
            score(f"new texts, Ray, {nodes} of one CPU", engine="ray", address=cluster.address)


def _documents(runs: _Runs, count: int) -> None:
    source = runs.folder / "documents.jsonl"
    chance, words = random.Random(4), words_of_sample()
    with source.open("w") as file:
        for number in range(count):
            text = " ".join(f"{' '.join(chance.choices(words, k=chance.randint(8, 20)))}." for _ in range(9))
            file.write(json.dumps({"text": text, "title": f"Document {number}"}) + "\n")
    started = time.perf_counter()
    check_files([source])
    reading = count / (time.perf_counter() - started)
    runs.told("documents, reading a table", True, f"{reading:,.0f} documents a second")
    expected = _index(runs, "documents, local, one core", source)
    for nodes in (1, 2):
        with cluster_of(*[1] * nodes) as (cluster, _):
            _index(runs, f"documents, Ray, {nodes} of one CPU", source, expected, address=cluster.address)
    with cluster_of(1, 1) as (cluster, raylets):

        def kill(done: int, total: int) -> None:
            if done > total / 4 and len(raylets) > 1:
                cluster.remove_node(raylets.pop(), allow_graceful=False)

        what = "documents, Ray, one of two nodes killed"
        _index(runs, what, source, expected, address=cluster.address, progress=kill)
        runs.told(what, len(raylets) == 1, "a quarter was done when it was")
    with cluster_of(1, 1) as (cluster, _):
        what = "documents, Ray, driver killed"
        say(what)
        folder = runs.folder / "index-killed"
        words = [str(source), str(folder), cluster.address]
        code = "import sys; from tools.scale import drive_index; drive_index(*sys.argv[1:])"
        store = LanceDbStore(folder / "index")
        with subprocess.Popen([sys.executable, "-c", code, *words]) as driver:
            end = time.monotonic() + _PATIENCE_S
            while not store.sources() and driver.poll() is None and time.monotonic() < end:
                time.sleep(0.1)
            driver.kill()
        begun = sum(each.documents for each in store.sources())
        _index(runs, what, source, expected, address=cluster.address, folder=folder, begun=begun)


def drive_index(source: str, folder: str, address: str) -> None:
    """Index documents on a cluster, in a process that may be killed."""
    settings = _settings(Path(folder))
    store = LanceDbStore(Path(folder) / "index")
    cluster = EncoderCluster(settings, address)
    index_files([Path(source)], store=store, encoder=load_encoder(settings), cluster=cluster)


def _index(
    runs: _Runs,
    what: str,
    source: Path,
    expected: Any = None,
    *,
    address: str | None = None,
    folder: Path | None = None,
    begun: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Any:
    """Index documents, say how fast, and hold the table against the expected one, but for when rows were added."""
    say(what)
    folder = folder or runs.folder / f"index-{len(list(runs.folder.iterdir()))}"
    settings = replace(_settings(folder), encoder_threads=1)
    cluster = EncoderCluster(settings, address) if address else None
    store = LanceDbStore(folder / "index")
    report = index_files([source], store=store, encoder=load_encoder(settings), cluster=cluster, progress=progress)
    # Here, as a process that has loaded it should not be forked.
    import lancedb

    table = lancedb.connect(folder / "index").open_table(TABLE).to_arrow().drop_columns(["added_at"]).sort_by("id")
    same = expected is None or table.equals(expected)
    there = f"{report.known:,} were there, " if begun else ""
    rate = report.new / report.seconds
    runs.told(
        what,
        same and report.known == begun and len(set(table["id"].to_pylist())) == len(table),
        f"{there}{rate:,.1f} documents a second, {report.seconds:.0f} s; {len(table):,} sections, each once, "
        f"{'the same' if same else 'NOT the same'} to the last bit",
    )
    return table


def _memory(runs: _Runs, count: int) -> None:
    sources = {rows: runs.folder / f"memory-{rows}.parquet" for rows in (count // 10, count)}
    for rows, source in sources.items():
        write_candidates(source, rows, seed=3)
    for engine in ("local", "ray"):
        for rows, source in sources.items():
            folder = runs.folder / f"memory-{engine}-{rows}"
            folder.mkdir()
            put_model(_settings(folder))
            say(f"memory, {engine}, {rows:,} candidates")
            with cluster_of(1, 1) if engine == "ray" else _nothing() as (cluster, _):
                command = _command(
                    source, folder / "out", folder, engine=engine, workers=2, address=cluster.address if cluster else ""
                )
                found = subprocess.run(command, capture_output=True, text=True, check=True)
            driver = int(found.stdout.split()[-1])
            peaks = [float(file.read_text()) for file in (folder / "cache").glob("peak-*")]
            size = (sum(map(_size, (folder / "out").glob("part-*")))) / 1e6
            said = f"driver {driver:,.0f} MB, worker {max(peaks):,.0f} MB, result {size:,.0f} MB"
            runs.told(f"memory, {engine}, {rows:,} candidates", True, said)


def _size(path: Path) -> int:
    return path.stat().st_size


@contextmanager
def _nothing() -> Iterator[tuple[None, None]]:
    yield None, None


if __name__ == "__main__":
    # By its name: other processes look for what is here, and __main__ is another module there.
    from tools.scale import main as scale

    scale()
