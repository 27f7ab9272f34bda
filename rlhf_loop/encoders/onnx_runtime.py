"""The default runtime: the encoder on ONNX Runtime, without torch.

Its graph is written once into the cache folder, beside its sha256 sums; a later start reads it only if they still hold.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from rlhf_loop.encoders import weights
from rlhf_loop.encoders.runtime import DIMENSION, Vectors, cores
from rlhf_loop.encoders.tokenizer import Batch, Batcher, load_tokenizer
from rlhf_loop.errors import EncoderError
from rlhf_loop.utils.concurrency import run_parallel

#: Part of the graph's name: raise it when what is written changes.
GRAPH_VERSION = 2
_GRAPH_FILE = "model.onnx"
_DATA_FILE = "model.onnx.data"
_SUMS_FILE = "SHA256SUMS"
_LOCK_TIMEOUT_S = 120
#: Tokens of a batch, padding included; its activations then fit the processor's cache (`make bench` shows others).
BATCH_TOKENS = {"fp32": 512, "int8": 256}


def cached_graph(model_folder: Path, cache_dir: Path, *, precision: str = "fp32") -> Path:
    """Return the graph's file, written now if the cache holds no intact one.

    Raises:
        EncoderError: the weights are not the official ones, or the cache folder cannot be written.
    """
    weights.verify(model_folder)
    version = f"v{GRAPH_VERSION}" if precision == "fp32" else f"v{GRAPH_VERSION}.{weights.CALIBRATION_VERSION}"
    folder = cache_dir / "encoder" / f"{weights.MODEL_NAME}-{precision}-{version}"
    if not _intact(folder):
        try:
            _write(model_folder, folder, precision)
        except OSError as error:
            raise EncoderError(
                f"Cannot write the encoder graph to {folder}: {error}. Free some space, mend the folder's rights, or "
                "set RLHF_CACHE_DIR."
            ) from error
    return folder / _GRAPH_FILE


def write_graph(weights_file: Path, target: Path, *, precision: str) -> None:
    """Write the graph of that precision to `target`, and its tensors beside it."""
    # Imported here: only the first start on a machine needs them.
    from rlhf_loop.encoders.onnx_graph import Graph, Int8Graph, save_graph

    tensors = _Tensors(weights_file)
    graph = Graph(tensors) if precision == "fp32" else Int8Graph(tensors, weights.load_calibration())
    save_graph(graph.build(), target)


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
            run_parallel(partial(run, self._alone), reversed(batches), threads=self._threads)
        return vectors


def runtime_id(precision: str) -> str:
    """Name the model and its precision: runtimes of one precision differ by no more than rounding noise."""
    return f"{weights.MODEL_NAME}/{precision}" + (f".{weights.CALIBRATION_VERSION}" if precision == "int8" else "")


class _Tensors(Mapping[str, NDArray[np.float32]]):
    """The weights, each read when it is asked for: all at once would take 90 MB more at a first start."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        from safetensors import safe_open

        # Opened anew each time, as what was read stays in memory for as long as it is open.
        with safe_open(self._file, framework="numpy") as tensors:
            tensor: NDArray[np.float32] = tensors.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        from safetensors import safe_open

        with safe_open(self._file, framework="numpy") as tensors:
            yield from tensors.keys()

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _write(model_folder: Path, folder: Path, precision: str) -> None:
    """Write the graph beside its place and move it there whole, so that no reader ever sees half of it."""
    from filelock import FileLock

    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock", timeout=_LOCK_TIMEOUT_S):
        if _intact(folder):
            return  # another process was quicker
        fresh = folder.with_name(f"{folder.name}.new")
        for remains in (fresh, folder):
            if remains.exists():
                shutil.rmtree(remains)
        fresh.mkdir()
        write_graph(model_folder / weights.WEIGHTS_FILE, fresh / _GRAPH_FILE, precision=precision)
        (fresh / _SUMS_FILE).write_bytes(_sums(fresh))
        for file in fresh.iterdir():
            file.chmod(0o644)  # onnx keeps its tensors from other users, who may share the folder
        fresh.replace(folder)


def _intact(folder: Path) -> bool:
    try:
        return (folder / _SUMS_FILE).read_bytes() == _sums(folder)
    except OSError:
        return False


def _sums(folder: Path) -> bytes:
    return "".join(f"{_sha256(folder / name)}  {name}\n" for name in (_GRAPH_FILE, _DATA_FILE)).encode()


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _session(graph: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
