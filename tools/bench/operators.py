"""A profile of the encoder: milliseconds a text of each kind of operator, by ONNX Runtime's own profiler."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime

from rlhf_loop.encoders.onnx_runtime import cached_graph
from rlhf_loop.encoders.weights import find_model_folder
from tools.report import table

TOKENS = 115
_TEXTS = 8
_RUNS = 30
#: Below this share an operator is counted among the others.
_LEAST = 0.02


@dataclass(frozen=True, slots=True)
class Profile:
    """Milliseconds a text by operator, the most first."""

    precision: str
    milliseconds: Mapping[str, float]


def measure() -> list[Profile]:
    """Profile the graphs of both precisions on one thread."""
    with tempfile.TemporaryDirectory() as folder:
        return [Profile(precision, _profile(precision, Path(folder))) for precision in ("fp32", "int8")]


def section(profiles: Sequence[Profile]) -> str:
    """Return the tables as Markdown."""
    parts = [
        "## Where the encoder's time goes",
        f"Milliseconds a text of {TOKENS} tokens by operator, on one thread, by ONNX Runtime's profiler; median of "
        f"{_RUNS} runs.",
    ]
    for profile in profiles:
        whole = sum(profile.milliseconds.values())
        shown = {name: value for name, value in profile.milliseconds.items() if value >= _LEAST * whole}
        rest = whole - sum(shown.values())
        rows = [(name, f"{value:.2f}", f"{value / whole:.0%}") for name, value in {**shown, "others": rest}.items()]
        parts.append(table((profile.precision, "ms a text", "share"), rows))
    return "\n\n".join(parts)


def _profile(precision: str, folder: Path) -> dict[str, float]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / precision)
    graph = cached_graph(find_model_folder(), folder, precision=precision)
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    ids = np.random.default_rng(0).integers(1000, 20_000, (_TEXTS, TOKENS)).astype(np.int32)
    for _ in range(_RUNS):
        session.run(["embedding"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})
    times: dict[tuple[str, str], list[float]] = {}
    for event in json.loads(Path(session.end_profiling()).read_text()):
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            times.setdefault((event["args"]["op_name"], event["name"]), []).append(event["dur"] / 1e3 / _TEXTS)
    found: dict[str, float] = {}
    for (operator, _), values in times.items():
        found[operator] = found.get(operator, 0.0) + median(values)
    return dict(sorted(found.items(), key=lambda item: -item[1]))
