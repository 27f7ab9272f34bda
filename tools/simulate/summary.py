"""All runs of a simulation in a few numbers: curves, what the raters cost, and how often the gate was right."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rlhf_loop.domain import ModelState
from tools.simulate.loop import Flawed, Run, Week
from tools.simulate.measuring import Scores
from tools.simulate.raters import Arm

#: The last weeks, by which arms are compared: a third of all.
LAST = 1 / 3


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and standard deviation over the seeds."""

    mean: float
    deviation: float


@dataclass(frozen=True, slots=True)
class Difference:
    """A mean difference over the seeds, with its standard error; `seeds` are too few for more."""

    mean: float
    error: float
    seeds: int

    @property
    def borne_out(self) -> bool:
        """True for more than two standard errors: less is what seeds differ by anyway."""
        return self.seeds > 1 and abs(self.mean) > 2 * self.error


@dataclass(frozen=True, slots=True)
class Decided:
    """The gate's decisions of one kind about new models while another was live: how many were truly better than that
    one or equal, by P@1 (and AUC where it is the same), and by how much they differed on average.
    """

    better: int
    worse: int
    precision_at_1: float
    auc: float

    @property
    def count(self) -> int:
        """All of them."""
        return self.better + self.worse


def spread(values: Sequence[float]) -> Spread:
    """Return mean and standard deviation of what is known."""
    known = [value for value in values if np.isfinite(value)]
    return Spread(float(np.mean(known)), float(np.std(known))) if known else Spread(np.nan, np.nan)


def difference(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """Compare two arms seed by seed."""
    differences = [a - b for a, b in zip(ours, theirs, strict=True) if np.isfinite(a - b)]
    count = len(differences)
    if not count:
        return Difference(np.nan, np.nan, 0)
    error = float(np.std(differences, ddof=1) / np.sqrt(count)) if count > 1 else np.nan
    return Difference(float(np.mean(differences)), error, count)


def of_arm(runs: Sequence[Run], arm: Arm) -> list[Run]:
    """Return the runs of one arm, by seed."""
    return sorted((run for run in runs if run.arm == arm), key=lambda run: run.seed)


def curve(runs: Sequence[Run], measure: Callable[[Week], float]) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation over runs for each week; nan while fewer than half of them have a value."""
    values = np.array([[measure(week) for week in run.weeks] for run in runs], dtype=np.float64)
    known = np.isfinite(values)
    enough = known.sum(axis=0) * 2 >= len(runs)
    mean, deviation = np.full(values.shape[1], np.nan), np.full(values.shape[1], np.nan)
    for week in np.flatnonzero(enough):
        of_week = values[known[:, week], week]
        mean[week], deviation[week] = of_week.mean(), of_week.std()
    return mean, deviation


def at_end(runs: Sequence[Run], measure: Callable[[Week], float]) -> list[float]:
    """Return for each run the mean of a measure over the last weeks."""
    found = []
    for run in runs:
        values = [measure(week) for week in run.weeks[-max(1, round(LAST * len(run.weeks))) :]]
        known = [value for value in values if np.isfinite(value)]
        found.append(float(np.mean(known)) if known else np.nan)
    return found


def live(name: str) -> Callable[[Week], float]:
    """Return what reads a measure of the live model."""
    return lambda week: float(getattr(week.live, name))


def newest(name: str) -> Callable[[Week], float]:
    """Return what reads a measure of the newest model: what would be live if there were no gate."""
    return lambda week: float(getattr(week.new or week.live, name))


def own(week: Week) -> float:
    """Return the accuracy that the week's training itself reported."""
    return np.nan if week.own is None else week.own


def decided(runs: Sequence[Run], *, promoted: bool) -> Decided:
    """Sum up what was promoted while another model was live, or what was not."""
    chosen = [
        (week.new, week.before)
        for run in runs
        for week in run.weeks
        if week.new and not week.first and (week.state == ModelState.LIVE) is promoted
    ]
    better = sum(_better(new, before) for new, before in chosen)
    return Decided(
        better,
        len(chosen) - better,
        float(np.mean([new.precision_at_1 - before.precision_at_1 for new, before in chosen])) if chosen else np.nan,
        float(np.mean([new.auc - before.auc for new, before in chosen])) if chosen else np.nan,
    )


def _better(new: Scores, before: Scores) -> bool:
    return (new.precision_at_1, new.auc) >= (before.precision_at_1, before.auc)


def before_the_first(runs: Sequence[Run]) -> list[float]:
    """Return, of each model that was held back while none was live, how far its P@1 was above the incoming order's."""
    return [
        week.new.precision_at_1 - week.before.precision_at_1
        for run in runs
        for week in run.weeks
        if week.new and week.first and week.state != ModelState.LIVE
    ]


def flawed(runs: Sequence[Run], kind: str) -> list[Flawed]:
    """Return all candidates of one kind that were made to be bad."""
    return [each for run in runs for week in run.weeks for each in week.flawed if each.kind == kind]


def first_live(runs: Sequence[Run]) -> Iterator[int]:
    """Yield for each run the week, counted from 1, from which on a model was live."""
    for run in runs:
        yield next((number for number, week in enumerate(run.weeks, 1) if np.isfinite(week.live.accuracy)), 0)


def weight(name: str) -> Callable[[Week], float]:
    """Return what reads the weight of a rater, 1 unless the training said otherwise."""
    return lambda week: week.weights.get(name, 1.0) if week.new else np.nan


def found_out(runs: Sequence[Run], name: str, joined: int, below: float) -> list[int | None]:
    """Return for each run how many weeks after joining a rater's weight was below that first, None if never."""
    return [
        next((n - joined + 1 for n, week in enumerate(run.weeks) if week.weights.get(name, 1.0) < below), None)
        for run in runs
    ]


def least_honest(runs: Sequence[Run], others: Sequence[str]) -> float:
    """Return the least weight that any rater but the `others` ever had."""
    found = [w for run in runs for week in run.weeks for name, w in week.weights.items() if name not in others]
    return min(found, default=1.0)
