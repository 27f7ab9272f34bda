"""The default runtime: the encoder on ONNX Runtime, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from rlhf_loop.encoders import calibration, weights
from rlhf_loop.encoders.batches import Batch, Batcher
from rlhf_loop.encoders.graph_file import cached_graph
from rlhf_loop.encoders.processor import cores
from rlhf_loop.encoders.runtime import DIMENSION, Vectors
from rlhf_loop.encoders.tokenizer import load_tokenizer
from rlhf_loop.utils.concurrency import share_out

#: Tokens of a batch, padding included; its activations then fit the processor's cache (`make bench` shows others).
BATCH_TOKENS = {"fp32": 512, "int8": 256}


class OnnxRuntime:
    """all-MiniLM-L6-v2 on the CPU.

    A few texts are run by all threads together. Of many, in 8 bits, each thread runs batches of its own, which saves
    waiting for each other after every product. For that the weights are there twice, which in 32 bits would take more
    memory than it is worth.

    Args:
        model_folder: holds `model.safetensors` and `tokenizer.json`.
        cache_dir: where the graph is kept; it takes 90 MB at fp32, 34 MB at int8.
        precision: fp32, or int8 (see `Int8Graph`).
        threads: of one call; 0 means one for each core.
    """

    def __init__(self, model_folder: Path, cache_dir: Path, *, precision: str = "fp32", threads: int = 0) -> None:
        self.id = runtime_id(precision)
        self.tokenizer: Tokenizer = load_tokenizer(model_folder / weights.TOKENIZER_FILE)
        self._threads = threads or cores()
        self._batcher = Batcher(self.tokenizer, tokens=BATCH_TOKENS[precision])
        graph = cached_graph(model_folder, cache_dir, precision=precision)
        self._together = _session(graph, self._threads)
        self._alone = _session(graph, 1) if precision == "int8" and self._threads > 1 else None

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return one unit vector a text, shape (len(texts), 384), of the first 256 tokens of each."""
        vectors = np.empty((len(texts), DIMENSION), dtype=np.float32)

        def run(session: onnxruntime.InferenceSession, batch: Batch) -> None:
            inputs = {"input_ids": batch.ids, "attention_mask": batch.mask}
            (vectors[batch.places],) = session.run(["embedding"], inputs)

        batches = list(self._batcher.batches(texts))
        if self._alone is None or len(batches) < self._threads:
            for batch in batches:
                run(self._together, batch)
        else:
            # The longest first, so that no thread is left with it at the end.
            share_out(partial(run, self._alone), reversed(batches), threads=self._threads)
        return vectors


def _session(graph: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])


def runtime_id(precision: str) -> str:
    """Name the model and its precision: runtimes of one precision differ by no more than rounding noise."""
    return f"{weights.MODEL_NAME}/{precision}" + (f".{calibration.VERSION}" if precision == "int8" else "")
