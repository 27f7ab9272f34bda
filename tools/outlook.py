"""Does the forecast of the learning curve come true? On the real ratings: from 200 of them to all.

The ratings of the first questions in a random order stand for a young project. What the forecast says of goals is held
against what models that were fitted on more of the ratings reached. Run: python -m tools.outlook
"""

from __future__ import annotations

from collections import Counter
from math import inf

import numpy as np
from numpy.typing import NDArray

from rlhf_loop.config import Settings
from rlhf_loop.encoders import load_encoder
from rlhf_loop.reward import RECIPES, Recipe
from rlhf_loop.training.learning_curve import Growth, Outlook, RatedFeatures, growth
from tools.report import say
from tools.results.data import load

#: Ratings that the forecast knows, and how often they are drawn.
_KNOWN, _DRAWS = (200, 400), 40
#: Of each recipe's own curve: goals that it reaches early, late, or not within the data.
_GOALS = {"passages": (0.80, 0.82, 0.83, 0.86), "quality": (0.80, 0.82, 0.83, 0.86), "joint": (0.62, 0.65, 0.67, 0.75)}
_CURVES = 6


def main() -> None:
    """Print how often what came lies in the range that was told."""
    encoder = load_encoder(Settings())
    ratings = load(encoder)
    for recipe in RECIPES.values():
        rated = RatedFeatures(ratings.features[recipe.name], ratings.data.label, ratings.data.prompt, encoder.id)
        sizes, accuracy = _what_came(rated, recipe)
        say(f"{recipe.name}: " + ", ".join(f"{n} {a:.3f}" for n, a in zip(sizes, accuracy, strict=True)))
        for known in _KNOWN:
            drawn = [_part(rated, known, seed) for seed in range(_DRAWS)]
            for goal in _GOALS[recipe.name]:
                came = next((n for n, a in zip(sizes, accuracy, strict=True) if a >= goal), inf)
                told = [found.outlook for part in drawn if (found := _growth(part, recipe, goal)).outlook]
                inside = [_low(each) <= came and (_high(each) >= min(came, sizes[-1])) for each in told]
                kinds = Counter(str(each.prospect) for each in told)
                said = ", ".join(f"{name} {count}" for name, count in sorted(kinds.items()))
                say(
                    f"  {known} known, goal {goal:.0%}, came at {came}: in the range {np.mean(inside):.0%} "
                    f"of {len(told)}; {said}"
                )


def _what_came(rated: RatedFeatures, recipe: Recipe) -> tuple[list[int], NDArray[np.float64]]:
    """Return the sizes of all the data, and the accuracy with each: the mean of several draws, never falling."""
    curves = [growth(rated, recipe=recipe, goal=1.0, seed=seed) for seed in range(_CURVES)]
    sizes = [point.rated for point in curves[0].points]
    means = np.mean([[point.accuracy.value for point in curve.points][: len(sizes)] for curve in curves], axis=0)
    return sizes, np.maximum.accumulate(means)


def _part(rated: RatedFeatures, known: int, seed: int) -> RatedFeatures:
    order = np.random.default_rng(seed).permutation(np.unique(rated.prompt))
    enough = int(np.searchsorted(np.cumsum(np.bincount(rated.prompt)[order]), known)) + 1
    rows = np.isin(rated.prompt, order[:enough])
    return RatedFeatures(rated.features[rows], rated.label[rows], rated.prompt[rows], rated.encoder)


def _growth(part: RatedFeatures, recipe: Recipe, goal: float) -> Growth:
    return growth(part, recipe=recipe, goal=goal)


def _low(of: Outlook) -> float:
    return inf if of.low is None else of.low


def _high(of: Outlook) -> float:
    return inf if of.high is None else of.high


if __name__ == "__main__":
    main()
