"""What 8 bits need to know about the encoder's activations: measured once on the sample texts, kept with the package.

`python -m tools.calibrate` writes the file. It holds no weights, only ranges, so that every machine makes the same
8-bit graph out of the official weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FILE = Path(__file__).parent / "int8_calibration.npz"
#: Part of the encoder's id: raise it with each new file, as the vectors change a little.
VERSION = 1

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


@dataclass(frozen=True, slots=True)
class Calibration:
    """How the input of a product becomes 8 bits.

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


def load(file: Path = FILE) -> dict[str, Calibration]:
    """Read the calibration of every input."""
    with np.load(file) as arrays:
        return {name: Calibration(*(arrays[f"{name}/{f.name}"] for f in fields(Calibration))) for name in INPUTS}


def save(calibrations: Mapping[str, Calibration], file: Path = FILE) -> None:
    """Write the calibration of every input."""
    arrays = {f"{name}/{f.name}": getattr(of, f.name) for name, of in calibrations.items() for f in fields(of)}
    np.savez_compressed(file, allow_pickle=False, **arrays)
