"""Two versions on the ratings of today, on questions that neither was fitted on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sqlalchemy.engine import Engine

from rlhf_loop.comparing import Comparisons, compare, predict
from rlhf_loop.config import Settings
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.examples import training_set
from rlhf_loop.registry.files import fitted_questions, load
from rlhf_loop.registry.versions import Version
from rlhf_loop.training_data import TrainingSet


@dataclass(frozen=True, slots=True)
class Contest:
    """What a comparison of two versions found. `answers` to `questions` could be used; `unknown` names the versions of
    which nobody knows what they were fitted on: these may have seen some of the questions.
    """

    first: Version
    second: Version
    questions: int
    answers: int
    found: Comparisons
    unknown: tuple[str, ...]


def contest(engine: Engine, settings: Settings, first: Version, second: Version, *, encoder: TextEncoder) -> Contest:
    """Compare two versions by experts' ratings; differences are the first less the second.

    Raises:
        ModelFileError: the file of one is missing, damaged, or of another encoder.
    """
    data = training_set(engine)
    rows = np.ones(len(data.row), dtype=np.bool_)
    unknown = []
    for version in (first, second):
        fitted = fitted_questions(settings, version.version)
        if fitted is None:
            unknown.append(version.version)
        else:
            rows &= ~np.isin(data.candidates["prompt"][data.row], fitted)
    ours, theirs = (
        predict(load(settings, version, encoder=encoder.id).model, data, rows, encoder) for version in (first, second)
    )
    rows &= np.isfinite(ours) & np.isfinite(theirs)
    found = compare(data.predictions(ours[rows], rows), theirs[rows])
    return Contest(first, second, _questions(data, rows), int(rows.sum()), found, tuple(unknown))


def _questions(data: TrainingSet, rows: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> int:
    return len(np.unique(data.prompt[rows]))
