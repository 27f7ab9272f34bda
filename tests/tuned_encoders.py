"""Tuned layers that no training has made: those of a checkpoint with a little noise."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rlhf_loop.encoders.tuned import TunedLayers, from_layer


def noisy(
    weights: Mapping[str, np.ndarray], encoder: str, *, first: int, width: int, noise: float = 0.02, seed: int = 0
) -> TunedLayers:
    """Return an encoder's layers from `first` on with noise of such a share of each tensor's own spread."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name in from_layer(weights, first):
        value = weights[name]
        tensors[name] = (value + noise * value.std() * rng.standard_normal(value.shape)).astype(np.float32)
    return TunedLayers(
        encoder=encoder,
        first=first,
        tensors=tensors,
        question_tokens=80,
        passage_tokens=112,
        passages=3,
        a=1.0,
        b=-0.5,
        w=(0.1 * rng.standard_normal(width)).astype(np.float32),
    )
