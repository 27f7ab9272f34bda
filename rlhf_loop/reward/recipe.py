"""What a recipe is: the way from candidate answers to the numbers that a logistic regression sees.

The plain recipe: one vector of question and answer together. Kept as the yardstick that every other must beat.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from rlhf_loop.domain import Question
from rlhf_loop.encoders import DIMENSION, TextEncoder

Matrix = NDArray[np.float64]


class Recipe(Protocol):
    """Turns questions with their candidates into features; it learns nothing itself."""

    name: ClassVar[str]
    #: Raised when the features change their meaning: a model file of another version is refused.
    version: ClassVar[int]
    #: Whether texts of any length are read to their end, or only as far as the encoder's window.
    reads_all: ClassVar[bool]
    #: Whether the features are brought to mean 0 and variance 1 before the fit.
    scaled: ClassVar[bool]
    #: Inverse strength of the fit's L2 penalty, as in scikit-learn.
    penalty_c: ClassVar[float]

    def feature_names(self) -> list[str]:
        """Return a name for each column."""
        ...

    def pair_columns(self) -> NDArray[np.bool_]:
        """Return which columns differ between two answers alone as they do in any list of candidates that has both."""
        ...

    def features(self, questions: Sequence[Question], encoder: TextEncoder) -> Matrix:
        """Return one row a candidate, all questions' candidates one after the other, in order."""
        ...


SEPARATOR = " </s> "


class JointRecipe:
    """`prompt + " </s> " + response` -> one vector of 384 dimensions, cut at the encoder's 256 tokens."""

    name: ClassVar[str] = "joint"
    version: ClassVar[int] = 1
    reads_all: ClassVar[bool] = False
    scaled: ClassVar[bool] = False
    penalty_c: ClassVar[float] = 1.0

    def feature_names(self) -> list[str]:
        """Return a name for each dimension."""
        return [f"dimension {index}" for index in range(DIMENSION)]

    def pair_columns(self) -> NDArray[np.bool_]:
        """Return which dimensions two answers alone differ in as they do in a list: all, as none depends on others."""
        return np.ones(DIMENSION, dtype=np.bool_)

    def features(self, questions: Sequence[Question], encoder: TextEncoder) -> Matrix:
        """Return the vectors, shape (candidates, 384)."""
        return encoder.encode(joint_texts(questions)).astype(np.float64)


def joint_texts(questions: Sequence[Question]) -> list[str]:
    """Return the text that is embedded for each candidate."""
    return [question.prompt + SEPARATOR + response for question in questions for response in question.responses]
