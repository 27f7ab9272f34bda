"""The cost of a training: seconds and peak memory, each measured in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

from rlhf_loop.domain import Example

REPEATS = 3

#: Runs in a new process: prints the seconds of each part and the peak memory.
_TRAINING = """
import json, re, sys, time
started = time.perf_counter()
from rlhf_loop.config import Settings
from rlhf_loop.encoders import load_encoder
from rlhf_loop.training.train import train
examples = EXAMPLES
imported = time.perf_counter()
encoder = load_encoder(Settings.from_env())
loaded = time.perf_counter()
train(examples, encoder=encoder, recipe=sys.argv[1])
trained = time.perf_counter()
print(json.dumps({
    "imports": imported - started, "load": loaded - imported, "train": trained - loaded,
    # Not getrusage: its maximum starts with that of the process this one was forked from.
    "megabytes": int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]) * 1024 / 1e6,
}))
"""
_SAMPLE = """
from tools.results.cost import examples_of
from rlhf_loop.sample import RATINGS_FILE
examples = examples_of(RATINGS_FILE)
"""
_REAL = """
from tools.results.data import read_examples
examples, _ = read_examples()
"""
_IMPORT = """
import time
started = time.perf_counter()
import rlhf_reranker
print(time.perf_counter() - started)
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of a training's parts, and its peak memory; medians over the repeats."""

    imports: float
    load: float
    train: float
    megabytes: float
    wall: float


def examples_of(file: Path) -> list[Example]:
    """Return the rated answers of a file as the sample is one."""
    rows = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    return [
        Example(row["user_prompt"], row["ai_response"], row["rating"], row["candidate_group"], row["shown_rank"])
        for row in rows
    ]


def training_costs(recipes: tuple[str, ...], *, real: bool) -> dict[tuple[str, str], Cost]:
    """Measure each recipe with an empty vector cache ("cold") and with a full one ("cached"), interleaved."""
    code = _TRAINING.replace("examples = EXAMPLES\n", _REAL if real else _SAMPLE)
    runs: dict[tuple[str, str], list[Cost]] = {}
    for _ in range(1 if real else REPEATS):
        for recipe in recipes:
            with tempfile.TemporaryDirectory() as cache:
                _prepare_graph(cache)
                for state in ("cold", "cached"):
                    started = perf_counter()
                    parts = json.loads(_run(code, recipe, cache=cache))
                    runs.setdefault((recipe, state), []).append(Cost(**parts, wall=perf_counter() - started))
    return {
        key: Cost(*(median(getattr(cost, name) for cost in costs) for name in Cost.__slots__))
        for key, costs in runs.items()
    }


def import_seconds() -> float:
    """Measure `import rlhf_reranker` in a new process; the median of several."""
    return median(float(_run(_IMPORT)) for _ in range(7))


def _prepare_graph(cache: str) -> None:
    # Written once on a machine, not at each training.
    _run("from rlhf_loop.config import Settings\nfrom rlhf_loop.encoders import load_encoder\n"
         "load_encoder(Settings.from_env())", cache=cache)  # fmt: skip


def _run(code: str, *arguments: str, cache: str | None = None) -> str:
    environment = {**os.environ, **({"RLHF_CACHE_DIR": cache} if cache else {})}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"A measurement failed:\n{done.stderr}")
    return done.stdout
