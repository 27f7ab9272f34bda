"""Measure what 8 bits need to know about the encoder, on the sample texts; writes encoders/int8_calibration.npz.

    python -m tools.calibrate

Run it when the 8-bit graph or the sample changes, raise `CALIBRATION_VERSION`, and look at `make bench`. The texts it
looks at are the sample's only: what judges the result (`make bench`) is other texts.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper
from safetensors.numpy import load_file

from rlhf_loop import sample
from rlhf_loop.encoders import weights
from rlhf_loop.encoders.onnx_graph import Graph, Int8Graph, Weights
from rlhf_loop.encoders.tokenizer import Batcher, load_tokenizer
from rlhf_loop.encoders.weights import INPUTS, Calibration, save_calibration
from rlhf_loop.reward import lexical

Floats = NDArray[np.float32]

#: Candidates for the strength of the smoothing; for each input the one with the smallest error is kept.
STRENGTHS = (0.5, 0.6, 0.7, 0.8, 0.9)
#: Other texts go a little beyond the range that these reach.
MARGIN = 1.1
#: Channels of the widest input, 1,536 GELUs, that are multiplied in 32 bits: 1 % of them.
OUTLIERS = 16
_SAMPLE_ROWS = 6


def main() -> None:
    """Measure and write."""
    folder = weights.find_model_folder()
    weights.verify(folder)
    tensors = load_file(folder / weights.WEIGHTS_FILE)
    batcher = Batcher(load_tokenizer(folder / weights.TOKENIZER_FILE), tokens=1)  # one text at a time: no padding
    feeds = [{"input_ids": b.ids, "attention_mask": b.mask} for b in batcher.batches(_texts())]
    exact = Graph(tensors).build().to_onnx()
    sources = {node.output[0]: node.input[0] for node in exact.graph.node}
    inputs = {at: sources[layers[0]] for at, layers in INPUTS.items()}
    layers = list(chain.from_iterable(INPUTS.values()))
    found = _run(exact, [*inputs.values(), *layers], feeds)
    calibrations = {}
    for at, names in INPUTS.items():
        matrix = np.concatenate([tensors[f"{name}.weight"] for name in names])
        outliers = OUTLIERS if matrix.shape[1] > matrix.shape[0] else 0
        calibrations[at] = _calibrate(found[inputs[at]], matrix, outliers=outliers)
        _say(f"{at}: range {calibrations[at].low:.2f} to {calibrations[at].high:.2f}")
    means = {name: found[name].mean(axis=0) for name in layers}
    save_calibration(_corrected(calibrations, tensors, means, feeds))


def _texts() -> list[str]:
    """Return what the recipes embed: words, sentences, questions, answers; and joined answers, for full windows."""
    rows = [json.loads(line) for line in sample.RATINGS_FILE.read_text(encoding="utf-8").splitlines()]
    answers: dict[str, list[str]] = {}
    for row in rows:
        answers.setdefault(row["user_prompt"], []).append(row["ai_response"])
    single = [*answers, *chain.from_iterable(answers.values())]
    words = dict.fromkeys(word for prompt in answers for word in lexical.content_words(prompt))
    parts = dict.fromkeys(sentence for text in single for sentence in lexical.sentences(text))
    return ["", *words, *parts, *single, *map(" ".join, answers.values())]


def _calibrate(inputs: Floats, matrix: Floats, *, outliers: int) -> Calibration:
    """Return the calibration whose product is nearest to the exact one, before any correction."""
    reach = np.abs(inputs).max(axis=0)
    chosen = np.sort(np.argsort(reach)[len(reach) - outliers :])
    kept = np.ones(len(reach), dtype=np.float32)
    kept[chosen] = 0
    exact = inputs[::_SAMPLE_ROWS] * kept @ matrix.T
    options = [_smoothed(inputs * kept, matrix * kept, strength, chosen) for strength in STRENGTHS]

    def error(of: Calibration) -> float:
        scale = (of.high - of.low) / 255
        zero = np.round(-of.low / scale)
        rounded = np.clip(np.rint(inputs[::_SAMPLE_ROWS] * kept / of.smoothing / scale) + zero, 0, 255) - zero
        weight = matrix * kept * of.smoothing
        step = np.abs(weight).max(axis=1, keepdims=True) / 127
        return float(np.square(rounded * scale @ (np.rint(weight / step) * step).T - exact).mean())

    return min(options, key=error)


def _smoothed(inputs: Floats, matrix: Floats, strength: float, outliers: NDArray[np.intp]) -> Calibration:
    reach = np.maximum(np.abs(inputs).max(axis=0), 1e-3)
    smoothing = reach**strength / np.maximum(np.abs(matrix).max(axis=0), 1e-4) ** (1 - strength)
    smoothing = (smoothing / np.median(smoothing)).astype(np.float32)
    smooth = inputs / smoothing
    return Calibration(
        smoothing=smoothing,
        low=np.asarray(smooth.min() * MARGIN, dtype=np.float32),
        high=np.asarray(smooth.max() * MARGIN, dtype=np.float32),
        outliers=outliers.astype(np.int64),
        correction=np.zeros(len(matrix), dtype=np.float32),
    )


def _corrected(
    calibrations: Mapping[str, Calibration],
    tensors: Weights,
    means: Mapping[str, Floats],
    feeds: Sequence[Mapping[str, object]],
) -> dict[str, Calibration]:
    """Bring the mean output of each layer back to the exact one's, front to back: each feels those before it."""
    corrected = dict(calibrations)
    for at, layers in INPUTS.items():
        graph = Int8Graph(tensors, corrected).build().to_onnx()
        found = _run(graph, layers, feeds)
        off = np.concatenate([means[name] - found[name].mean(axis=0) for name in layers])
        corrected[at] = replace(corrected[at], correction=off.astype(np.float32))
        _say(f"{at}: mean error {np.abs(off).mean():.4f}")
    return corrected


def _run(model: onnx.ModelProto, names: Sequence[str], feeds: Sequence[Mapping[str, object]]) -> dict[str, Floats]:
    """Return what these tensors hold, one row a token of all texts."""
    wanted = list(dict.fromkeys(names))
    del model.graph.output[:]
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in wanted)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rows = [session.run(wanted, feed) for feed in feeds]
    return {name: np.concatenate(parts) for name, parts in zip(wanted, zip(*rows, strict=True), strict=True)}


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    main()
