"""The default runtime: the encoder on ONNX Runtime, without torch.

The graph is written once into the cache folder, beside its sha256 sums; a later start reads it only if they still hold.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from rlhf_loop.encoders import weights
from rlhf_loop.encoders.passages import load_tokenizer
from rlhf_loop.encoders.runtime import DIMENSION, MAX_TOKENS, Vectors
from rlhf_loop.errors import EncoderError

#: Part of the cached graph's name: raise it when `onnx_graph` changes what it writes.
GRAPH_VERSION = 1
#: Tokens of a batch, padding included. Its activations then fit the processor's cache; larger ones were slower here.
BATCH_TOKENS = 1024

_GRAPH_FILE = "model.onnx"
_DATA_FILE = "model.onnx.data"
_SUMS_FILE = "SHA256SUMS"
_LOCK_TIMEOUT_S = 120


class OnnxRuntime:
    """all-MiniLM-L6-v2 at fp32 on the CPU.

    Args:
        model_folder: holds `model.safetensors` and `tokenizer.json`.
        cache_dir: where the graph is kept; it takes 90 MB.
        threads: of one call; 0 means one for each core.
    """

    id = f"{weights.MODEL_NAME}/fp32"

    def __init__(self, model_folder: Path, cache_dir: Path, *, threads: int = 0) -> None:
        self.tokenizer: Tokenizer = load_tokenizer(model_folder / weights.TOKENIZER_FILE)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(
            str(cached_graph(model_folder, cache_dir)), options, providers=["CPUExecutionProvider"]
        )
        self._start, self._end = (self.tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]"))

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return one unit vector a text, shape (len(texts), 384), of the first 256 tokens of each."""
        encodings = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        tokens = [[self._start, *encoding.ids[: MAX_TOKENS - 2], self._end] for encoding in encodings]
        vectors = np.empty((len(tokens), DIMENSION), dtype=np.float32)
        for batch in _batches([len(ids) for ids in tokens]):
            ids, mask = _padded([tokens[index] for index in batch])
            (vectors[batch],) = self._session.run(["embedding"], {"input_ids": ids, "attention_mask": mask})
        return vectors


def cached_graph(model_folder: Path, cache_dir: Path) -> Path:
    """Return the graph's file, written now if the cache holds no intact one.

    Raises:
        EncoderError: the weights are not the official ones, or the cache folder cannot be written.
    """
    weights.verify(model_folder)
    folder = cache_dir / "encoder" / f"{weights.MODEL_NAME}-fp32-v{GRAPH_VERSION}"
    if not _intact(folder):
        try:
            _write(model_folder, folder)
        except OSError as error:
            raise EncoderError(
                f"Cannot write the encoder graph to {folder}: {error}. Free some space, or set RLHF_CACHE_DIR."
            ) from error
    return folder / _GRAPH_FILE


def _write(model_folder: Path, folder: Path) -> None:
    """Write the graph beside its place and move it there whole, so that no reader ever sees half of it."""
    # Imported here: only the first start on a machine needs them.
    from filelock import FileLock

    from rlhf_loop.encoders.onnx_graph import write_graph

    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock", timeout=_LOCK_TIMEOUT_S):
        if _intact(folder):
            return  # another process was quicker
        fresh = folder.with_name(f"{folder.name}.new")
        for remains in (fresh, folder):
            if remains.exists():
                shutil.rmtree(remains)
        fresh.mkdir()
        write_graph(model_folder / weights.WEIGHTS_FILE, fresh / _GRAPH_FILE)
        (fresh / _SUMS_FILE).write_bytes(_sums(fresh))
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


def _batches(lengths: Sequence[int]) -> Iterator[NDArray[np.intp]]:
    """Put texts of like length together, so that little of a batch is padding."""
    order = np.argsort(lengths, kind="stable")
    start = 0
    while start < len(order):
        end = start + 1
        while end < len(order) and lengths[order[end]] * (end + 1 - start) <= BATCH_TOKENS:
            end += 1
        yield order[start:end]
        start = end


def _padded(tokens: Sequence[Sequence[int]]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    ids = np.zeros((len(tokens), max(map(len, tokens))), dtype=np.int32)
    mask = np.zeros_like(ids)
    for row, text in enumerate(tokens):
        ids[row, : len(text)] = text
        mask[row, : len(text)] = 1
    return ids, mask
