"""A trained reward model: plain numbers, and what they are good for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf_loop.domain import Question
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.reward.classifier import RewardClassifier
from rlhf_loop.reward.recipes import recipe_named


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardModel:
    """score = sigmoid(slope x (features @ coef + intercept) + offset), in [0, 1]: the probability of a rating >= 4.

    `encoder` is the id of the encoder it was trained with and the only one it works with. `card` says when, on what
    and how well it was trained; nothing is computed from it.
    """

    recipe: str
    recipe_version: int
    encoder: str
    coef: NDArray[np.float64]
    intercept: float
    slope: float
    offset: float
    card: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, classifier: RewardClassifier, *, recipe: str, encoder: str, card: Mapping[str, Any]) -> RewardModel:
        """Keep what a fitted classifier has learned."""
        return cls(
            recipe=recipe,
            recipe_version=recipe_named(recipe).version,
            encoder=encoder,
            coef=classifier.coef_,
            intercept=classifier.intercept_,
            slope=classifier.slope_,
            offset=classifier.offset_,
            card=dict(card),
        )

    def score(self, questions: Sequence[Question], encoder: TextEncoder) -> list[NDArray[np.float64]]:
        """Return for each question the scores of its candidates, in order."""
        features = recipe_named(self.recipe).features(questions, encoder)
        margin = self.slope * (features @ self.coef + self.intercept) + self.offset
        scores = 0.5 * (1 + np.tanh(margin / 2))
        ends = np.cumsum([len(question.responses) for question in questions])
        return np.split(scores, ends[:-1])
