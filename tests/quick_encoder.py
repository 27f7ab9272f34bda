"""An encoder without a model, for tests of what is done with vectors."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import numpy as np

from rlhf_loop.encoders import DIMENSION, Shape, Vectors
from rlhf_loop.encoders.tuned import Checkpoint, TunedLayers


class QuickRuntime:
    """A runtime whose vector of a text depends on nothing but its words."""

    id = "quick"
    shape = Shape()

    def tuned(self, layers: TunedLayers) -> QuickRuntime:
        """Return the same again under the layers' own name."""
        other = QuickRuntime()
        other.id = f"quick+{layers.sha256}"
        return other

    def loaded(self, layers: TunedLayers) -> QuickRuntime:
        return self.tuned(layers)

    def checkpoint(self) -> Checkpoint:
        raise NotImplementedError

    def encode(self, texts: Sequence[str]) -> Vectors:
        vectors = np.zeros((len(texts), DIMENSION), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in text.lower().split():
                vectors[row, sum(word.encode()) % DIMENSION] += 1
        vectors[:, 0] += 0.1
        unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit


class QuickCross:
    """A cross-encoder without a model: the logit of a pair is what `score` says; `read` are the pairs that it saw."""

    id = "quick-cross/fp32"
    shape = Shape(dimension=1)

    def __init__(self, score: Callable[[str, str], float]) -> None:
        self._score = score
        self.read: list[str] = []

    def encode(self, texts: Sequence[str]) -> Vectors:
        self.read += texts
        return np.array([[self._score(*json.loads(text))] for text in texts], dtype=np.float32).reshape(-1, 1)
