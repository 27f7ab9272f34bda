"""The recipes by name."""

from __future__ import annotations

from rlhf_loop.reward.joint import JointRecipe
from rlhf_loop.reward.passages import PassagesRecipe
from rlhf_loop.reward.recipe import Recipe

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
