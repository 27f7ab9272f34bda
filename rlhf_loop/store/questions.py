"""The holdout: questions that no model is ever fitted on, so that versions can be compared on them for months.

A hash decides, the same on every machine and always. The share of questions grows with their number, in steps and never
back: what one version was kept from, all later ones are kept from, too. Questions that only a later share takes in may
have been part of earlier fits; for those each version has the list of what it was fitted on (see `registry`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: From so many questions with ratings on, this share of them is frozen.
STEPS = ((0, 0.10), (100, 0.15), (500, 0.20))


def frozen_share(questions: int, *, before: float = 0.0) -> float:
    """Return the share of the questions to freeze where so many have ratings, at least what it was `before`."""
    return max(before, *(share for least, share in STEPS if questions >= least))


def is_frozen(prompts: NDArray[np.int64], share: float) -> NDArray[np.bool_]:
    """Tell which questions, given by `training_data.prompt_hash`, are among that share."""
    place = prompts.astype(np.int64).view(np.uint64).astype(np.float64) / 2.0**64
    frozen: NDArray[np.bool_] = place < share
    return frozen
