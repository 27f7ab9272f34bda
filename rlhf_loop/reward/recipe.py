"""What a recipe is: the way from candidate answers to the numbers that a logistic regression sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from rlhf_loop.domain import Question
from rlhf_loop.encoders import TextEncoder

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
