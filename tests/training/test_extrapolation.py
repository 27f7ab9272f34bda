"""Forecasts of learning curves, on curves that are known."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm

from rlhf_loop.training.learning_curve import HORIZON, Outlook, Prospect, extrapolate

Floats = NDArray[np.float64]
QUIET = np.eye(16) * 1e-6


def sizes(most: int) -> Floats:
    """As a training has them: from 50, each larger by the root of 2."""
    return np.unique(np.append(np.round(50 * 2 ** np.arange(0, np.log2(most / 50), 0.5)), most)).astype(np.float64)


def told(curve: tuple[float, float, float], *, now: int, goal: float = 0.8, off: Floats | float = 0.0) -> Outlook:
    """What is told of the curve a - b / n^c by points that are off by so much."""
    a, b, c = curve
    at = sizes(int(0.8 * now))
    return extrapolate(at, a - b * at**-c + off, QUIET[: len(at), : len(at)], now=now, goal=goal)


def needed(curve: tuple[float, float, float], goal: float = 0.8) -> float:
    a, b, c = curve
    return (b / (a - goal)) ** (1 / c) if a > goal else inf


@pytest.mark.parametrize(
    ("curve", "now", "prospect"),
    [
        ((0.9, 3.0, 0.7), 1_000, Prospect.REACHED),
        ((0.9, 1.0, 0.4), 200, Prospect.AHEAD),
        ((0.85, 0.9, 0.4), 1_000, Prospect.AHEAD),
        ((0.70, 1.0, 0.6), 1_000, Prospect.OUT_OF_REACH),
        ((0.60, 0.0, 0.5), 400, Prospect.OUT_OF_REACH),
    ],
)
def test_known_curves(curve: tuple[float, float, float], now: int, prospect: Prospect) -> None:
    """Points on a curve lead to where the curve leads: reached, ahead, or levelling off below the goal."""
    found = told(curve, now=now)
    assert found.prospect is prospect
    assert (found.low or inf) <= (found.ratings or inf) <= (found.high or inf)
    assert (found.low or inf) <= needed(curve) <= (found.high or inf)
    assert all(each.low <= each.accuracy <= each.high for each in found.expected)
    assert found.expected[0].rated == 50
    assert found.expected[-1].rated == HORIZON * now


def test_the_more_is_known_the_narrower() -> None:
    """With more ratings, the forecast of the same curve becomes surer."""
    few, many = (told((0.88, 1.0, 0.4), now=now).expected for now in (200, 3_200))
    wide, narrow = (next(each.high - each.low for each in expected if each.rated >= 2_000) for expected in (few, many))
    assert narrow < wide / 2


def test_few_points_are_no_curve() -> None:
    """Two sizes tell nothing of where it goes."""
    assert told((0.9, 1.0, 0.4), now=88).prospect is Prospect.UNKNOWN


def test_points_that_fall() -> None:
    """Ratings that make it worse bring no goal nearer, and no error."""
    at = sizes(160)
    found = extrapolate(at, np.linspace(0.75, 0.65, len(at)), QUIET[: len(at), : len(at)], now=200, goal=0.8)
    assert found.prospect in (Prospect.OUT_OF_REACH, Prospect.UNKNOWN)


@pytest.mark.parametrize("accuracy", [0.0, 0.5, 1.0])
def test_points_that_are_all_the_same(accuracy: float) -> None:
    """A curve that is flat, at the ends of the scale, too, is one."""
    at = sizes(400)
    found = extrapolate(at, np.full(len(at), accuracy), np.zeros((len(at), len(at))), now=500, goal=0.8)
    assert found.prospect is (Prospect.REACHED if accuracy == 1 else Prospect.OUT_OF_REACH)


CURVES = ((0.85, 0.9, 0.4), (0.85, 2.0, 0.6), (0.9, 0.6, 0.25), (0.76, 1.0, 0.5), (0.95, 3.0, 0.6))


def test_how_often_the_range_holds() -> None:
    """Of noisy curves, measured on some hundred answers as a training does, about four in five ranges hold what comes.

    What is no longer seen beyond the horizon counts as held where the range has no end.
    """
    rng = np.random.default_rng(1)
    held = [_holds(curve, now, rng) for curve in CURVES for now in (200, 600) for _ in range(3)]
    assert 0.7 <= np.mean(held) <= 0.96


def _holds(curve: tuple[float, float, float], now: int, rng: np.random.Generator) -> bool:
    a, b, c = curve
    at = sizes(int(0.8 * now))
    true = a - b * at**-c + rng.normal(size=len(at)) * 0.1 / np.sqrt(at)
    # What is hard for one size is hard for all of them, and so are the answers to one question.
    question = np.repeat(rng.normal(size=(now // 4, 1)), 4, axis=0)
    hard = 0.5 * question + 0.7 * rng.normal(size=(len(question), 1)) + 0.5 * rng.normal(size=(len(question), len(at)))
    right = hard < norm.ppf(true) * np.sqrt(0.5**2 + 0.7**2 + 0.5**2)
    by_question = right.reshape(now // 4, 4, len(at)).mean(axis=1)
    found = extrapolate(at, by_question.mean(axis=0), np.cov(by_question.T) / (now // 4), now=now, goal=0.8)
    comes = needed(curve) if needed(curve) <= HORIZON * now else inf
    return (found.low or inf) <= comes <= (found.high or inf)
