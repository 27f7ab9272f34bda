"""The pictures of docs/SIMULATION.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from rlhf_loop.domain import ModelState
from rlhf_loop.training.learning_curve import TARGET
from tools.simulate.loop import Run
from tools.simulate.raters import CARELESS, HOSTILE, Arm, Calendar
from tools.simulate.summary import curve, live, of_arm, weight

_COLOURS = {Arm.HONEST: "#2a9d8f", Arm.UNWEIGHTED: "#c8553d", Arm.WEIGHTED: "#1b6ca8"}
_STATES = {
    ModelState.LIVE: ("promoted", "^", "#2a9d8f"),
    ModelState.CANDIDATE: ("waits", "x", "#e09f3e"),
    ModelState.REJECTED: ("rejected", "x", "#9e2a2b"),
}


def quality(path: Path, runs: Sequence[Run], when: Calendar, drift: int) -> None:
    """Draw accuracy and P@1 of what is live over the weeks, means over the seeds with their deviation."""
    figure = Figure(figsize=(9, 7), layout="constrained")
    for axes, (name, title) in zip(
        figure.subplots(2, 1, sharex=True), (("accuracy", "accuracy"), ("precision_at_1", "P@1")), strict=True
    ):
        for arm in Arm:
            mean, deviation = curve(of_arm(runs, arm), live(name))
            week = np.arange(1, len(mean) + 1)
            axes.plot(week, mean, color=_COLOURS[arm], label=str(arm))
            axes.fill_between(week, mean - deviation, mean + deviation, color=_COLOURS[arm], alpha=0.12, linewidth=0)
        if name == "accuracy":
            axes.axhline(TARGET, color="grey", linestyle="--", linewidth=1, label="target")
        else:
            incoming = float(np.mean([run.incoming.precision_at_1 for run in runs]))
            axes.axhline(incoming, color="grey", linestyle=":", linewidth=1.5, label="incoming order")
            best = float(np.mean([run.best for run in runs]))
            axes.axhline(best, color="grey", linestyle="-.", linewidth=1, label="best possible")
        _events(axes, when, drift, words=name == "accuracy")
        axes.set(ylabel=title)
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right", fontsize=8)
    axes.set(xlabel="week")
    figure.savefig(path, dpi=130)


def decisions(path: Path, runs: Sequence[Run], when: Calendar, drift: int) -> None:
    """Draw what the gate decided in the run of the first seed, arm by arm: each model at its true P@1."""
    figure = Figure(figsize=(9, 8), layout="constrained")
    for axes, arm in zip(figure.subplots(len(Arm), 1, sharex=True, sharey=True), Arm, strict=True):
        run = of_arm(runs, arm)[0]
        week = np.arange(1, len(run.weeks) + 1)
        axes.step(week, [each.live.precision_at_1 for each in run.weeks], where="post", color="#333", label="live")
        for state, (label, marker, colour) in _STATES.items():
            found = [
                (n, each.new.precision_at_1) for n, each in enumerate(run.weeks, 1) if each.new and each.state == state
            ]
            if found:
                axes.scatter(*zip(*found, strict=True), marker=marker, color=colour, s=30, zorder=3, label=label)
        bad = [(n, each) for n, of_week in enumerate(run.weeks, 1) for each in of_week.flawed]
        for passed, label, colour in ((False, "made to be bad: refused", "#6c757d"), (True, "... passed", "#d00000")):
            found = [(n, each.scores.precision_at_1) for n, each in bad if (each.state == ModelState.LIVE) is passed]
            if found:
                axes.scatter(*zip(*found, strict=True), marker="v", color=colour, s=30, zorder=3, label=label)
        axes.axhline(run.incoming.precision_at_1, color="grey", linestyle=":", linewidth=1.5, label="incoming order")
        _events(axes, when, drift, words=False)
        axes.set(title=str(arm), ylabel="P@1", ylim=(-0.03, 1))
        axes.grid(alpha=0.3)
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    axes.set(xlabel="week")
    figure.savefig(path, dpi=130)


def raters(path: Path, runs: Sequence[Run], when: Calendar, drift: int) -> None:
    """Draw what the careless and the hostile rater weigh over the weeks, each seed and the mean."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    axes = figure.subplots()
    weighted = of_arm(runs, Arm.WEIGHTED)
    for name, colour in ((CARELESS, "#e09f3e"), (HOSTILE, "#9e2a2b")):
        for run in weighted:
            weeks = np.arange(1, len(run.weeks) + 1)
            axes.plot(weeks, [weight(name)(each) for each in run.weeks], color=colour, alpha=0.25, linewidth=1)
        mean, _ = curve(weighted, weight(name))
        axes.plot(np.arange(1, len(mean) + 1), mean, color=colour, linewidth=2, label=f"the {name} rater")
    _events(axes, when, drift, words=True)
    axes.set(xlabel="week", ylabel="weight", ylim=(-0.03, 1.2))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left", fontsize=8)
    figure.savefig(path, dpi=130)


def _events(axes: Any, when: Calendar, drift: int, *, words: bool) -> None:
    for week, text in ((when.careless, "careless"), (when.hostile, "hostile"), (drift, "new topic")):
        axes.axvline(week + 1, color="#adb5bd", linewidth=1)
        if words:
            axes.text(week + 1.1, 0.99, text, transform=axes.get_xaxis_transform(), va="top", fontsize=8, color="#555")
    axes.axvspan(when.busy[0] + 1, when.busy[1] + 1, color="#9e2a2b", alpha=0.06, linewidth=0)
    if words:
        text = "hostile is busy"
        axes.text(
            when.busy[0] + 1.1, 0.92, text, transform=axes.get_xaxis_transform(), va="top", fontsize=8, color="#555"
        )
