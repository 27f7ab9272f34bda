"""The reward model: recipes that turn answers into features, the classifier on top, and the file it is kept in."""

from rlhf_loop.reward.classifier import RewardClassifier
from rlhf_loop.reward.model_file import RewardModel
from rlhf_loop.reward.recipes import RECIPES, Recipe, TransformerRecipe, recipe_named

__all__ = ["RECIPES", "Recipe", "RewardClassifier", "RewardModel", "TransformerRecipe", "recipe_named"]
