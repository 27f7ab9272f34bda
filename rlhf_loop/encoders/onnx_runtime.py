"""The default runtime: encoders on ONNX Runtime, without torch.

A graph is written once into the cache folder, beside its sha256 sums; a later start reads it only if they still hold.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from rlhf_loop.encoders import weights
from rlhf_loop.encoders.runtime import Shape, Vectors, cores
from rlhf_loop.encoders.tokenizer import Batch, Batcher, load_tokenizer
from rlhf_loop.errors import EncoderError
from rlhf_loop.utils.concurrency import run_parallel
from rlhf_loop.utils.text import clause

#: Part of the graph's name: raise it when what is written changes.
GRAPH_VERSION = 2
GRAPH_FILE = "model.onnx"
_SUMS_FILE = "SHA256SUMS"
_LOCK_TIMEOUT_S = 120
_DTYPES: Mapping[str, type[np.generic]] = {"tensor(int32)": np.int32, "tensor(int64)": np.int64}
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

    def write(fresh: Path) -> None:
        write_graph(model_folder / weights.WEIGHTS_FILE, fresh / GRAPH_FILE, precision=precision)

    return kept(folder, write) / GRAPH_FILE


def kept(folder: Path, write: Callable[[Path], None]) -> Path:
    """Return the folder with what `write` puts into it; it is called only where the folder is not there as it was.

    Raises:
        EncoderError: the folder cannot be written.
    """
    if not _intact(folder):
        try:
            _write(folder, write)
        except OSError as error:
            raise EncoderError(
                f"Cannot write the encoder graph to {folder}: {clause(error)}. Free some space, mend the folder's "
                "rights, or set RLHF_CACHE_DIR."
            ) from error
    return folder


def write_graph(weights_file: Path, target: Path, *, precision: str) -> None:
    """Write the graph of that precision to `target`, and its tensors beside it."""
    # Imported here: only the first start on a machine needs them.
    from rlhf_loop.encoders.onnx_graph import Graph, Int8Graph, save_graph

    tensors = Tensors(weights_file)
    graph = Graph(tensors) if precision == "fp32" else Int8Graph(tensors, weights.load_calibration())
    save_graph(graph.build(), target)


class GraphRuntime:
    """A graph that gives a text's vector, or those of its tokens and something that makes one of them.

    A few texts are run by all threads together. Of many, each thread runs batches of its own, where the graph may be in
    memory twice for that: it saves waiting for each other after every product.

    Args:
        session: runs the graph on all threads together.
        alone: runs it on one thread, where each shall have batches of its own.
        id: see `Runtime`.
        shape: see `Runtime`.
        tokenizer: without truncation and padding.
        tokens: of a batch at most, padding included.
        threads: of one call; 0 means one for each core.
        padding: the token that fills up shorter texts.
        output: the name of what is asked for; by default the only one.
        pool: makes vectors of that output and the mask.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        alone: onnxruntime.InferenceSession | None = None,
        *,
        id: str,
        shape: Shape,
        tokenizer: Tokenizer,
        tokens: int,
        threads: int = 0,
        padding: int = 0,
        output: str = "embedding",
        pool: Callable[[Vectors, NDArray[np.int32]], Vectors] | None = None,
    ) -> None:
        self.id = id
        self.shape = shape
        self.tokenizer = tokenizer
        self._threads = threads or cores()
        self._batcher = Batcher(tokenizer, tokens=tokens, window=shape.window, padding=padding)
        self._together, self._alone = session, alone
        self._inputs = {each.name: _DTYPES[each.type] for each in self._together.get_inputs()}
        self._output = output
        self._pool = pool

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return one unit vector a text, shape (texts, dimension), of as many of its first tokens as a window has."""
        vectors = np.empty((len(texts), self.shape.dimension), dtype=np.float32)

        def run(session: onnxruntime.InferenceSession, batch: Batch) -> None:
            (found,) = session.run([self._output], self._fed(batch))
            vectors[batch.places] = found if self._pool is None else self._pool(found, batch.mask)

        batches = list(self._batcher.batches(texts))
        if self._alone is None or len(batches) < self._threads:
            for batch in batches:
                run(self._together, batch)
        else:
            # The longest first, so that no thread is left with it at the end.
            run_parallel(partial(run, self._alone), reversed(batches), threads=self._threads)
        return vectors

    def _fed(self, batch: Batch) -> dict[str, NDArray[np.generic]]:
        # One text at a time has the token type 0 throughout.
        values = {"input_ids": batch.ids, "attention_mask": batch.mask, "token_type_ids": np.zeros_like(batch.ids)}
        return {name: values[name].astype(kind, copy=False) for name, kind in self._inputs.items()}


class OnnxRuntime(GraphRuntime):
    """all-MiniLM-L6-v2 on the CPU.

    In 8 bits each thread runs batches of its own. In 32 bits the weights twice would take more memory than it is worth.

    Args:
        model_folder: holds `model.safetensors` and `tokenizer.json`.
        cache_dir: where the graph is kept; it takes 90 MB at fp32, 34 MB at int8.
        precision: fp32, or int8 (see `Int8Graph`).
        threads: of one call; 0 means one for each core.
    """

    def __init__(self, model_folder: Path, cache_dir: Path, *, precision: str = "fp32", threads: int = 0) -> None:
        tokenizer = load_tokenizer(model_folder / weights.TOKENIZER_FILE)
        graph = cached_graph(model_folder, cache_dir, precision=precision)
        twice = precision == "int8" and (threads or cores()) > 1
        super().__init__(
            open_graph(graph, threads=threads),
            open_graph(graph, threads=1) if twice else None,
            id=runtime_id(precision),
            shape=Shape(),
            tokenizer=tokenizer,
            tokens=BATCH_TOKENS[precision],
            threads=threads,
        )


def runtime_id(precision: str) -> str:
    """Name the model and its precision: runtimes of one precision differ by no more than rounding noise."""
    return f"{weights.MODEL_NAME}/{precision}" + (f".{weights.CALIBRATION_VERSION}" if precision == "int8" else "")


class Tensors(Mapping[str, NDArray[np.float32]]):
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


def _write(folder: Path, write: Callable[[Path], None]) -> None:
    """Write what belongs into the folder beside its place and move it there whole: no reader ever sees half of it."""
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
        write(fresh)
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
    files = sorted(file for file in folder.iterdir() if file.name != _SUMS_FILE)
    return "".join(f"{_sha256(file)}  {file.name}\n" for file in files).encode()


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def open_graph(graph: Path, *, threads: int) -> onnxruntime.InferenceSession:
    """Load a graph to run on so many threads; 0 means one for each core."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or cores()
    return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
