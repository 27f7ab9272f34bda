"""What more ratings bring: quality against the number of rated answers, on questions that no model was fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rlhf_loop.domain import Example
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.reward import Recipe
from rlhf_loop.training.data import TrainingSet, assemble
from rlhf_loop.training.evaluation import evaluate
from rlhf_loop.training.fit import read_features, rows_for
from rlhf_loop.training.learning_points import TARGET, Rated, fits


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """Mean and standard deviation over the folds of models that were fitted on about `rated` answers."""

    rated: int
    accuracy: float
    accuracy_deviation: float
    auc: float
    auc_deviation: float
    precision_at_1: float
    precision_at_1_deviation: float


def learning_curve(
    examples: Sequence[Example] | TrainingSet, *, recipe: Recipe, encoder: TextEncoder, seed: int = 0
) -> list[CurvePoint]:
    """Fit on 50, 100, 200 ... rated answers of four fifths of the questions, and judge on the other fifth, five times.

    Whole questions are drawn, so 50 answers mean as few questions as they would in practice. Of ratings alone, each
    with its weight: no pairs, which would blur what more ratings bring.
    """
    data = examples if isinstance(examples, TrainingSet) else assemble(examples)
    rows = rows_for(recipe, data, seed=seed)
    found = read_features(data, {recipe.name: rows}, encoder)
    data, features = data.only(rows & found.there), found.features[recipe.name]
    weight = None if (data.weight == 1).all() else data.weight
    rated = Rated(features, data.label, data.prompt, weight)
    results: dict[int, list[tuple[float, float, float]]] = {}
    for judged in fits(rated, recipe=recipe, step=2, fold_count=5, seed=seed):
        results.setdefault(judged.rated, []).append(_judge(data, judged.held, judged.probability))
    return [_point(size, values) for size, values in sorted(results.items())]


def plot(points: Sequence[CurvePoint], path: Path, *, title: str) -> None:
    """Draw the curve as a picture; the ending of `path` says which kind."""
    # Imported here: matplotlib takes a second, and only this needs it.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    rated = [point.rated for point in points]
    for name, label in (("accuracy", "accuracy"), ("auc", "AUC"), ("precision_at_1", "P@1")):
        mean = np.array([getattr(point, name) for point in points])
        deviation = np.array([getattr(point, f"{name}_deviation") for point in points])
        (line,) = axes.plot(rated, mean, marker="o", label=label)
        axes.fill_between(rated, mean - deviation, mean + deviation, alpha=0.15, color=line.get_color())
    axes.axhline(TARGET, color="grey", linestyle="--", linewidth=1, label=f"target for accuracy, {TARGET:.0%}")
    axes.set(xscale="log", xlabel="rated answers", ylabel="on other questions", title=title)
    axes.set_xticks(rated, [str(size) for size in rated])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _judge(data: TrainingSet, held: NDArray[np.bool_], probability: NDArray[np.float64]) -> tuple[float, float, float]:
    measured = evaluate(data.predictions(probability, held), draws=0)
    return measured.accuracy.value, measured.auc.value, measured.orders["model"].precision_at_1.value


def _point(size: int, values: list[tuple[float, float, float]]) -> CurvePoint:
    # A fold may leave a measure undefined: AUC with one class only, P@1 where no question has two rated answers.
    known = np.ma.masked_invalid(values)
    mean, deviation = known.mean(axis=0).filled(np.nan), known.std(axis=0).filled(np.nan)
    return CurvePoint(size, *(float(value) for pair in zip(mean, deviation, strict=True) for value in pair))
