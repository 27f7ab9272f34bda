"""Comparison of two versions on today's ratings, on questions that neither was fitted on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sqlalchemy.engine import Engine

from rlhf_loop.config import Settings
from rlhf_loop.encoders import TextEncoder, load_encoder
from rlhf_loop.registry.versions import Version, find, fitted_questions, load
from rlhf_loop.training.comparison import Comparison, Comparisons, compare, predict
from rlhf_loop.training.data import training_set
from rlhf_loop.utils.text import html_table


@dataclass(frozen=True, slots=True)
class Contest:
    """The result of comparing two versions. `answers` to `questions` could be used; `unknown` names the versions whose
    training questions are not known: these may have seen some of the questions.
    """

    first: Version
    second: Version
    questions: int
    answers: int
    found: Comparisons
    unknown: tuple[str, ...]

    def __repr__(self) -> str:
        measured = (each for each in (self.found.accuracy, self.found.auc, self.found.precision_at_1) if each)
        said = "; ".join(f"{each.measure} {_difference(each)}" for each in measured) or "nothing can be told"
        return (
            f"Contest({self.first.version} against {self.second.version} on {self.answers} answers to "
            f"{self.questions} questions: {said})"
        )

    def _repr_html_(self) -> str:
        above = [f"{self.answers} answers to {self.questions} questions that neither was fitted on."]
        above += [f"It is not known what {name} was fitted on: it may have seen some of them." for name in self.unknown]
        named = (("Accuracy", self.found.accuracy), ("AUC", self.found.auc), ("P@1", self.found.precision_at_1))
        rows = [
            (label, f"{of.ours:.3f}", f"{of.theirs:.3f}", _difference(of)) if of else (label, "-", "-", "-")
            for label, of in named
        ]
        return html_table(("", self.first.version, self.second.version, "difference (95 %)"), rows, above=above)


def compare_models(
    engine: Engine,
    settings: Settings,
    first: str | int | Version,
    second: str | int | Version,
    *,
    encoder: TextEncoder | None = None,
) -> Contest:
    """Compare two versions by experts' ratings, on questions that neither was fitted on; the first less the second.

    A version is known by its name, the beginning of it, or its number. Without an `encoder`, that of the settings is
    loaded.

    Raises:
        RegistryError: there is no such version, or several.
        ModelFileError: the file of one is missing, damaged, or of another encoder.
    """
    both = find(engine, first), find(engine, second)
    encoder = encoder or load_encoder(settings)
    data = training_set(engine).grouped(encoder)
    rows = np.ones(len(data.row), dtype=np.bool_)
    unknown = []
    for version in both:
        fitted = fitted_questions(settings, version.version)
        if fitted is None:
            unknown.append(version.version)
        else:
            rows &= ~data.seen(fitted)
    ours, theirs = (predict(load(settings, version, encoder=encoder.id).model, data, rows, encoder) for version in both)
    rows &= np.isfinite(ours) & np.isfinite(theirs)
    found = compare(data.predictions(ours[rows], rows), theirs[rows])
    return Contest(*both, len(np.unique(data.prompt[rows])), int(rows.sum()), found, tuple(unknown))


def _difference(of: Comparison) -> str:
    by = of.difference
    return f"{by.value:+.3f} ({by.low:+.3f} to {by.high:+.3f})"
