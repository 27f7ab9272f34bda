"""A trained reward model: plain numbers, and what they are good for.

The recipes by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf_loop.domain import Question
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.reward.classifier import Scorer
from rlhf_loop.reward.passages import PassagesRecipe
from rlhf_loop.reward.recipe import JointRecipe, Recipe

#: In the order in which ties between them are settled.
RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (PassagesRecipe(), JointRecipe())}


def recipe_named(name: str) -> Recipe:
    """Return the recipe of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in RECIPES:
        raise ValueError(f"Unknown recipe {name!r}. Choose one of: {', '.join(RECIPES)}.")
    return RECIPES[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardModel:
    """A scorer with what it belongs to: the recipe of its features, and the encoder, the only one it works with.

    `card` says when, on what and how well it was trained; nothing is computed from it.
    """

    recipe: str
    recipe_version: int
    encoder: str
    scorer: Scorer
    card: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, scorer: Scorer, *, recipe: str, encoder: str) -> RewardModel:
        """Make a model of a recipe's scorer."""
        return cls(recipe=recipe, recipe_version=recipe_named(recipe).version, encoder=encoder, scorer=scorer)

    def score(self, questions: Sequence[Question], encoder: TextEncoder) -> list[NDArray[np.float64]]:
        """Return for each question the scores of its candidates in order: in [0, 1], that of a rating >= 4."""
        # Each distinct text once: equal answers then have equal scores to the last bit, and are no rivals of their own.
        distinct = [Question(q.prompt, tuple(dict.fromkeys(q.responses))) for q in questions]
        probability = iter(self.scorer.probability(recipe_named(self.recipe).features(distinct, encoder)).tolist())
        scores = [dict(zip(question.responses, probability, strict=False)) for question in distinct]
        return [
            np.array([of_text[response] for response in question.responses])
            for question, of_text in zip(questions, scores, strict=True)
        ]
