"""What a fit leaves behind: numbers that turn features into the probability of a good answer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Features = NDArray[np.float64] | NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Scorer:
    """probability = sigmoid(slope x (clip(features, low, high) @ coef + intercept) + offset).

    `low` and `high` are the range of each feature that the fit has seen. A linear model would extrapolate without end,
    and an answer padded to a length that no rated one had could win by that alone.
    """

    coef: Floats
    intercept: float
    low: Floats
    high: Floats
    slope: float = 1.0
    offset: float = 0.0

    def decision(self, features: Features) -> Floats:
        """Return the scores before calibration, shape (n,)."""
        clipped: Floats = np.clip(features, self.low, self.high)
        return clipped @ self.coef + self.intercept

    def probability(self, features: Features) -> Floats:
        """Return the calibrated probabilities, shape (n,)."""
        return sigmoid(self.slope * self.decision(features) + self.offset)


def sigmoid(values: Floats) -> Floats:
    """Return 1 / (1 + exp(-values)), without overflow."""
    result: Floats = 0.5 * (1 + np.tanh(values / 2))
    return result
