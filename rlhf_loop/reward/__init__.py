"""The reward model: recipes that turn answers into features, the classifier on top, and the file it is kept in."""

from rlhf_loop.reward.classifier import RewardClassifier
from rlhf_loop.reward.model import RECIPES, RewardModel, recipe_named
from rlhf_loop.reward.recipe import Recipe

__all__ = ["RECIPES", "Recipe", "RewardClassifier", "RewardModel", "recipe_named"]
