"""What runs an encoder: the one method behind which ONNX Runtime and sentence-transformers look the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]

#: Length of a text's vector.
DIMENSION = 384
#: Tokens of the model's window, the markers [CLS] and [SEP] included. What lies behind the window is not read.
MAX_TOKENS = 256


class Runtime(Protocol):
    """Text -> L2-normalised vectors."""

    @property
    def id(self) -> str:
        """The model, its precision and whatever else changes the vectors: part of each cache key and model file."""
        ...

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return one unit vector a text, shape (len(texts), 384), of the first `MAX_TOKENS` tokens of each."""
        ...
