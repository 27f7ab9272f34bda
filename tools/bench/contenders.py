"""Encoders to compare on a CPU: each contender alone in a process, so that each has its own memory.

    python -m tools.bench.contenders NAME     reads requests, one JSON a line, and answers each with one JSON

A request is {"texts": [...], "single": bool, "vectors": FILE or null}; the answer has the seconds of each call. The
first answer, without a request, says what importing and loading took.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from tools.report import megabytes

Encode = Callable[[Sequence[str]], Any]

#: OpenVINO's matrix products are at their best with more rows than those of ONNX Runtime.
_OPENVINO_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class Contender:
    """Something that embeds, and what has to be installed and present for it."""

    title: str
    packages: tuple[str, ...]
    ability: str | None = None


CONTENDERS = {
    "st-fp32": Contender("sentence-transformers fp32", ("sentence-transformers", "torch")),
    "st-bf16": Contender("sentence-transformers bf16", ("sentence-transformers", "torch")),
    "openvino-bf16": Contender("OpenVINO bf16, our graph", ("openvino",), "bf16"),
    "onnx-dynamic": Contender("ONNX Runtime int8, its plain dynamic quantisation", ("onnxruntime",)),
    "ours-fp32": Contender("ONNX Runtime fp32, our graph (`RLHF_ENCODER_PRECISION=fp32`)", ("onnxruntime",)),
    "ours-int8": Contender("**ONNX Runtime int8, our graph** (the default here)", ("onnxruntime",), "int8"),
}


def load(name: str, cache: Path) -> tuple[float, float, Encode]:
    """Return the seconds that importing and loading took, and the function that embeds."""
    started = perf_counter()
    from rlhf_loop.encoders.weights import find_model_folder

    folder = find_model_folder()
    if name.startswith("st-"):
        from sentence_transformers import SentenceTransformer

        imported = perf_counter()
        encode = _sentence_transformers(SentenceTransformer(str(folder), device="cpu"), half=name == "st-bf16")
    elif name == "openvino-bf16":
        import openvino

        imported = perf_counter()
        encode = _openvino(openvino, folder, cache)
    else:
        from rlhf_loop.encoders.onnx_runtime import OnnxRuntime

        imported = perf_counter()
        if name == "onnx-dynamic":
            encode = _dynamic(folder, cache)
        else:
            encode = OnnxRuntime(folder, cache, precision=name.removeprefix("ours-")).encode
    encode(["warm"])
    return imported - started, perf_counter() - imported, encode


def _sentence_transformers(model: Any, *, half: bool) -> Encode:
    model.max_seq_length = 256
    if half:
        model.bfloat16()

    def encode(texts: Sequence[str]) -> Any:
        # As tensors: numpy has no 16-bit numbers of that kind.
        vectors = model.encode(
            list(texts), normalize_embeddings=True, show_progress_bar=False, convert_to_tensor=True
        ).float()
        return (vectors / vectors.norm(dim=1, keepdim=True)).numpy()

    return encode


def _openvino(openvino: Any, folder: Path, cache: Path) -> Encode:
    from rlhf_loop.encoders.onnx_runtime import cached_graph
    from rlhf_loop.encoders.tokenizer import Batcher, load_tokenizer

    batcher = Batcher(load_tokenizer(folder / "tokenizer.json"), tokens=_OPENVINO_TOKENS)
    graph = str(cached_graph(folder, cache, precision="fp32"))
    model = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
    request = model.create_infer_request()

    def encode(texts: Sequence[str]) -> Any:
        vectors = np.empty((len(texts), 384), dtype=np.float32)
        for batch in batcher.batches(texts):
            outputs = request.infer({"input_ids": batch.ids, "attention_mask": batch.mask})
            vectors[batch.places] = outputs[0]
        return vectors

    return encode


def _dynamic(folder: Path, cache: Path) -> Encode:
    import onnxruntime

    from rlhf_loop.encoders.onnx_runtime import BATCH_TOKENS, cached_graph
    from rlhf_loop.encoders.tokenizer import Batcher, load_tokenizer

    target = cache / "dynamic.onnx"
    if not target.exists():
        from onnxruntime.quantization import quantize_dynamic

        # All products, as it does by itself; left to itself it also takes `Attention` for the operator of that name
        # that ONNX Runtime had before the standard.
        exact = cached_graph(folder, cache, precision="fp32")
        quantize_dynamic(exact, target, op_types_to_quantize=["MatMul", "Gemm"])
    batcher = Batcher(load_tokenizer(folder / "tokenizer.json"), tokens=BATCH_TOKENS["fp32"])
    session = onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])

    def encode(texts: Sequence[str]) -> Any:
        vectors = np.empty((len(texts), 384), dtype=np.float32)
        for batch in batcher.batches(texts):
            inputs = {"input_ids": batch.ids, "attention_mask": batch.mask}
            (vectors[batch.places],) = session.run(["embedding"], inputs)
        return vectors

    return encode


def main(name: str, cache: str) -> None:
    """Serve one contender until the input ends."""
    seconds_import, seconds_load, encode = load(name, Path(cache))
    versions = {package: version(package) for package in CONTENDERS[name].packages}
    _answer(seconds_import=seconds_import, seconds_load=seconds_load, versions=versions)
    for line in sys.stdin:
        request = json.loads(line)
        texts = request["texts"]
        seconds = []
        vectors = []
        for part in [[text] for text in texts] if request["single"] else [texts]:
            started = perf_counter()
            vectors.append(encode(part))
            seconds.append(perf_counter() - started)
        if request["vectors"]:
            np.save(request["vectors"], np.concatenate(vectors))
        _answer(seconds=seconds, peak=megabytes("VmHWM"))


def _answer(**values: Any) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
