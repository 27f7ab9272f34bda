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
        """`MODEL/PRECISION`: the model and whatever else changes the vectors, part of each cache key and model file."""
        ...

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return one unit vector a text, shape (len(texts), 384), of the first `MAX_TOKENS` tokens of each."""
        ...


def same_model(some: str, other: str) -> bool:
    """Whether two ids name one model, be it in different precision.

    A reward model fitted on the vectors of one precision scores those of another as well (`make bench` shows the loss),
    so it may serve on another kind of processor. In a cache they are kept apart.
    """
    return some.partition("/")[0] == other.partition("/")[0]
