"""The encoder's graph on disk: written once into the cache folder, beside its sha256 sums.

A later start reads it only if the sums still hold.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rlhf_loop.encoders import calibration, weights
from rlhf_loop.errors import EncoderError

#: Part of the graph's name: raise it when what is written changes.
GRAPH_VERSION = 2

_GRAPH_FILE = "model.onnx"
_DATA_FILE = "model.onnx.data"
_SUMS_FILE = "SHA256SUMS"
_LOCK_TIMEOUT_S = 120


def cached_graph(model_folder: Path, cache_dir: Path, *, precision: str = "fp32") -> Path:
    """Return the graph's file, written now if the cache holds no intact one.

    Raises:
        EncoderError: the weights are not the official ones, or the cache folder cannot be written.
    """
    weights.verify(model_folder)
    version = f"v{GRAPH_VERSION}" if precision == "fp32" else f"v{GRAPH_VERSION}.{calibration.VERSION}"
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
    from rlhf_loop.encoders.int8_graph import Int8Graph
    from rlhf_loop.encoders.onnx_graph import Graph, save_graph

    tensors = _Tensors(weights_file)
    graph = Graph(tensors) if precision == "fp32" else Int8Graph(tensors, calibration.load())
    save_graph(graph.build(), target)


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
