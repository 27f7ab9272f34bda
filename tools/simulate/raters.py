"""Simulated raters: ordinary experts, one who throws dice, and one who means harm."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from tools.simulate.world import Asked, Plan

GRADES = (1, 2, 4, 5)
EXPERTS = ("ann", "bob", "cleo", "dev")
CARELESS, HOSTILE = "careless", "hostile"
#: Ordinary experts: so often a grade next to the true one, and so often just any.
STEP, ANY = 0.2, 0.05
#: Who throws dice does so for this share of the answers.
DICE = 0.8
#: Share of the questions whose answers several raters get, and how many: the package's defaults.
OVERLAP, OVERLAP_RATERS = 0.2, 3
#: In their busy weeks the hostile rater rates as much as so many others.
BUSY = 4


class Arm(StrEnum):
    """The comparison: the same answers in the same weeks, rated and counted in three ways."""

    HONEST = "honest raters only"
    UNWEIGHTED = "careless and hostile, all count alike"
    WEIGHTED = "careless and hostile, weighted"


@dataclass(frozen=True, slots=True)
class Calendar:
    """From which weeks on who rates, and in which (first, last) the hostile rater is busy; counted from 0."""

    careless: int
    hostile: int
    busy: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Reviewed:
    """An answer, its place among those of its question, and who gives which grade; the first review comes first."""

    asked: Asked
    place: int
    reviews: tuple[tuple[str, int], ...]


def calendar(weeks: int) -> Calendar:
    """The careless rater joins in month two, the hostile one in month three, and is busy in month five.

    Of less than six months the same shares.
    """
    return Calendar(round(weeks / 6), round(weeks / 3), (round(weeks * 4 / 6), round(weeks * 5 / 6) - 1))


def reviews(of: Plan, arm: Arm, *, seed: int) -> Iterator[list[Reviewed]]:
    """Yield the reviews of each week. Who rates what is the same in each arm, and so is what ordinary experts say.

    Where all are honest two more experts take the places of the careless and the hostile one.
    """
    # One stream of numbers for all arms: each review takes as many from it, whoever gives it.
    rng = np.random.default_rng((seed, 1))
    when = calendar(len(of.weeks))
    for week, questions in enumerate(of.weeks):
        names, share = _present(week, when)
        found = []
        for asked in questions:
            count = OVERLAP_RATERS if rng.random() < OVERLAP else 1
            for place, answer in enumerate(asked.answers):
                chosen = rng.choice(len(names), size=count, replace=False, p=share)
                given = tuple(_review(names[rater], int(answer.rating or 0), arm, rng) for rater in chosen.tolist())
                found.append(Reviewed(asked, place, given))
        yield found


def _present(week: int, when: Calendar) -> tuple[list[str], np.ndarray]:
    names = list(EXPERTS)
    work = [1.0] * len(names)
    for name, joined in ((CARELESS, when.careless), (HOSTILE, when.hostile)):
        if week >= joined:
            names.append(name)
            work.append(BUSY if name == HOSTILE and when.busy[0] <= week <= when.busy[1] else 1.0)
    return names, np.array(work) / sum(work)


def _review(name: str, true: int, arm: Arm, rng: np.random.Generator) -> tuple[str, int]:
    ordinary = _ordinary(true, rng)
    dice, any_grade = rng.random(), int(rng.choice(GRADES))
    if name not in (CARELESS, HOSTILE):
        return name, ordinary
    if arm == Arm.HONEST:
        return f"honest {name}", ordinary
    if name == HOSTILE:
        return name, 6 - ordinary
    return name, any_grade if dice < DICE else ordinary


def _ordinary(true: int, rng: np.random.Generator) -> int:
    """A grade as an ordinary expert gives it: mostly the true one, at times one next to it, seldom just any."""
    luck, up, any_grade = rng.random(), rng.random() < 0.5, int(rng.choice(GRADES))
    # A grade of 3, which the real ratings do not have, is next to 4.
    place = GRADES.index(true) if true in GRADES else 1
    if luck < ANY:
        return any_grade
    if luck < ANY + STEP:
        return GRADES[min(max(place + (1 if up else -1), 0), len(GRADES) - 1)]
    return true
