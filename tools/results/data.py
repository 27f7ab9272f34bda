"""The real ratings, read from beside the checkout; they are for measuring and not part of the project."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rlhf_loop.domain import Example
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.reward import RECIPES
from rlhf_loop.reward.classifier import Prior
from rlhf_loop.reward.prior import prior_of, widened
from rlhf_loop.reward.recipes import PassagesRecipe, QualityRecipe
from rlhf_loop.training.data import TrainingSet, assemble
from rlhf_loop.training.fit import read_features

RATINGS = Path(__file__).parents[3] / "shared" / "data" / "expert_ratings.jsonl.gz"
FEEDBACKQA = RATINGS.with_name("feedbackqa.jsonl.gz")
SELQA = RATINGS.with_name("selqa.jsonl.gz")


@dataclass(frozen=True, slots=True)
class Ratings:
    """The ratings in questions, each recipe's features of all of them, and which belong to the validation split.

    `prior` is what recipe `passages` is shrunk to: nothing that these very ratings have taught.
    """

    data: TrainingSet
    features: Mapping[str, NDArray[np.float32]]
    validation: NDArray[np.bool_]
    prior: Prior | None

    def prior_of(self, recipe: str) -> Prior | None:
        """Return what a recipe is shrunk to, None where there is nothing."""
        if self.prior is None or recipe not in (PassagesRecipe.name, QualityRecipe.name):
            return None
        return widened(self.prior, len(RECIPES[recipe].feature_names()))


def read_examples(path: Path = RATINGS) -> tuple[list[Example], list[bool]]:
    """Return the examples, and for each whether it belongs to the validation split."""
    if not path.exists():
        sys.exit(f"The real ratings are not at {path}, and there is nothing else to measure on.")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = sorted(map(json.loads, lines), key=lambda row: (row["group"], row["system_rank"]))
    examples = [
        Example(row["user_prompt"], row["ai_response"], row["rating"], row["group"], row["system_rank"]) for row in rows
    ]
    return examples, [row["split"] in ("validation", "test") for row in rows]


def load(encoder: TextEncoder, path: Path = RATINGS, *, recipes: Iterable[str] = RECIPES) -> Ratings:
    """Read the ratings and compute the features of the recipes.

    The prior is the one that is shipped, for other ratings than those that it was learnt from.
    """
    examples, validation = read_examples(path)
    found = featured(assemble(examples).grouped(encoder), encoder, np.array(validation), recipes=recipes)
    known = prior_of(RECIPES[PassagesRecipe.name], encoder.id) if path == RATINGS else None
    return replace(found, prior=known)


def featured(
    data: TrainingSet, encoder: TextEncoder, validation: NDArray[np.bool_], *, recipes: Iterable[str]
) -> Ratings:
    """Compute the features of the recipes; there is no prior."""
    # All of the answers: a training would measure but a sample of them for some recipes.
    rows = {name: np.ones(len(data.row), dtype=np.bool_) for name in recipes}
    return Ratings(data, read_features(data, rows, encoder).features, validation, None)
