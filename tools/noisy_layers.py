"""Tuned layers without a training: an encoder's own with a little noise. They cost what trained ones do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rlhf_loop.encoders.tuned import TunedLayers, from_layer
from rlhf_loop.reward import RewardModel


def noisy(
    weights: Mapping[str, NDArray[np.float32]],
    encoder: str,
    *,
    first: int,
    width: int,
    noise: float = 0.02,
    seed: int = 0,
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
        passages=3,
        a=1.0,
        b=-0.5,
        w=(0.1 * rng.standard_normal(width)).astype(np.float32),
    )


def with_layers(model: RewardModel, layers: TunedLayers, *, weight: float = 1.0) -> RewardModel:
    """Return a model of `passages` as one of `transformer`, in which the tuned score has that weight."""
    scorer = model.scorer
    more = {"coef": [weight, 0.0, 0.0], "low": [-np.inf] * 3, "high": [np.inf] * 3}
    columns = {name: np.append(getattr(scorer, name)[:35], values) for name, values in more.items()}
    return replace(
        model, recipe="transformer", recipe_version=1, tuned=layers, scorer=replace(scorer, **columns), pointwise=None
    )
