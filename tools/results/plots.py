"""The pictures of docs/RESULTS.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from rlhf_loop.training.evaluation import Evaluation, Order
from rlhf_loop.training.learning_curve import TARGET, CurvePoint

_COLOURS = {
    "passages": "#1b6ca8",
    "quality": "#7d5ba6",
    "joint": "#c8553d",
    "incoming": "#6c757d",
    "random": "#adb5bd",
    "oracle": "#2a9d8f",
}


def orders(path: Path, evaluations: Mapping[str, Evaluation]) -> None:
    """Draw P@1 of each order of the same answers, with intervals."""
    shared = next(iter(evaluations.values())).orders
    bars: dict[str, Order] = {
        "random": shared["random"],
        **{name: each.orders["model"] for name, each in evaluations.items()},
        "incoming": shared["incoming"],
        "oracle": shared["oracle"],
    }
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    ordered = sorted(bars, key=lambda name: bars[name].precision_at_1.value)
    for place, name in enumerate(ordered):
        value = bars[name].precision_at_1
        spread = [[value.value - value.low], [value.high - value.value]]
        axes.barh(place, value.value, color=_COLOURS[name], xerr=spread, error_kw={"ecolor": "#333", "capsize": 3})
        axes.text(0.01, place, f"{value.value:.0%}", va="center", color="white", fontweight="bold")
    axes.set_yticks(range(len(ordered)), [_label(name) for name in ordered])
    axes.set(xlim=(0, 1), xlabel="share of questions with a correct answer first")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def curves(path: Path, points: Mapping[str, Sequence[CurvePoint]], incoming: float) -> None:
    """Draw accuracy, AUC and P@1 against the number of rated answers, both recipes."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    panels = (("accuracy", "accuracy"), ("auc", "AUC"), ("precision_at_1", "P@1"))
    for axes, (name, title) in zip(figure.subplots(1, 3, sharey=True), panels, strict=True):
        for recipe, of_recipe in points.items():
            rated = [point.rated for point in of_recipe]
            mean = np.array([getattr(point, name) for point in of_recipe])
            deviation = np.array([getattr(point, f"{name}_deviation") for point in of_recipe])
            axes.plot(rated, mean, marker="o", label=recipe, color=_COLOURS[recipe])
            axes.fill_between(rated, mean - deviation, mean + deviation, alpha=0.15, color=_COLOURS[recipe])
        if name == "accuracy":
            axes.axhline(TARGET, color="grey", linestyle="--", linewidth=1, label="target")
        if name == "precision_at_1":
            axes.axhline(incoming, color="grey", linestyle=":", linewidth=1.5, label="incoming order")
        axes.set(xscale="log", xlabel="rated answers", title=title)
        axes.set_xticks(rated, [str(size) for size in rated])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right")
    figure.savefig(path, dpi=150)


def reliability(path: Path, predictions: Mapping[str, tuple[NDArray[np.intp], NDArray[np.float64]]]) -> None:
    """Draw predicted against observed shares in ten bins, both recipes."""
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="grey", linestyle="--", linewidth=1, label="perfect")
    for recipe, (label, probability) in predictions.items():
        bins = np.minimum((probability * 10).astype(int), 9)
        filled = [index for index in range(10) if (bins == index).sum() >= 10]
        predicted = [probability[bins == index].mean() for index in filled]
        observed = [label[bins == index].mean() for index in filled]
        axes.plot(predicted, observed, marker="o", label=recipe, color=_COLOURS[recipe])
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="predicted probability", ylabel="share rated 4 or 5")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)


def _label(name: str) -> str:
    return f"{name} order" if name in ("incoming", "random") else "best possible" if name == "oracle" else name
