from __future__ import annotations

import numpy as np
import pytest

from rlhf_loop.training.evaluation import Predictions
from tools.gate import (
    Outcome,
    Succession,
    Trial,
    Trials,
    document,
    first_right,
    judged,
    live_before,
    live_now,
    replaces_before,
    replaces_now,
)

#: Ten questions with five answers, the second one good.
QUESTION, RANK = np.repeat(np.arange(10), 5), np.tile(np.arange(1.0, 6.0), 10)
RATING = np.tile([1, 5, 1, 1, 1], 10)
RIGHT, WRONG = RATING / 6, 1 - RATING / 6


def outcome(probability: np.ndarray, gain: float, recipe: str = "passages") -> Outcome:
    orders = ("real", "good", "very good")
    said = Predictions(QUESTION, RATING, probability, RANK)
    return Outcome(recipe, said, dict.fromkeys(orders, RANK), dict.fromkeys(orders, gain))


@pytest.mark.parametrize(("probability", "live"), [(RIGHT, True), (WRONG, False)])
def test_both_rules_judge_the_same_record(probability: np.ndarray, live: bool) -> None:
    """The rule of before and the package's own decide on what was recorded."""
    said = Predictions(QUESTION, RATING, probability, RANK)
    assert (live_before(said), live_now(said)) == (live, live)


def test_before_few_questions_were_judged_by_chance() -> None:
    """A model that is worse than a good incoming order went live with nine questions, and does not now."""
    rows = QUESTION < 9
    said = Predictions(QUESTION[rows], RATING[rows], np.tile([0.1, 0.8, 0.9, 0.1, 0.1], 9), np.tile([2, 1, 3, 4, 5], 9))
    assert (live_before(said), live_now(said)) == (True, False)


def test_first_right() -> None:
    """P@1 counts the questions with rivals; equal scores keep the incoming order."""
    said = Predictions(np.array([0, 0, 1, 1, 2]), np.array([1, 5, 5, 1, 5]), np.ones(5), np.array([2.0, 1, 2, 1, 1]))
    assert first_right(said, said.probability) == 0.5
    assert first_right(said, said.rating.astype(float)) == 1


def test_the_document_counts_who_went_live() -> None:
    """Of the better ones those that went live, of those that went live the worse ones, and labels by lot."""
    good, bad = outcome(RIGHT, 0.2), outcome(WRONG, -0.2, "joint")
    lucky = outcome(RIGHT, -0.1)
    trials = [Trial(good, good), Trial(good, bad), Trial(lucky, lucky)]
    found = [Trials("X", 50, False, trials, 3.0), Trials("X", 4, True, [Trial(good, bad)], 1.0)]
    assert [(each.gain, each.live) for each in judged(trials, live_now)] == [(0.2, True), (0.2, True), (-0.1, True)]
    lines = document(found, "an encoder").splitlines()
    assert "| X | 50 | +10.0 (-10.0 to +20.0) | 100% of 1 | 100% of 2 | 50.0% of 2 | 33.3% of 3 |" in lines
    assert "| X | 4 | 0 of 1 | 1 of 1 | 0 of 1 | 1 of 1 |" in lines
    assert "| ratings | 3 | 1 | 0 | +40.0 |" in lines


def test_before_the_questions_that_neither_has_seen_decided() -> None:
    """A recipe that is worse on all questions took the place of a better one by a few unseen ones, and waits now."""
    unseen = np.where(QUESTION < 4, 1 - RIGHT, np.nan)
    mixed = np.where(QUESTION < 4, RIGHT, WRONG)
    forced = Succession("quality", "joint", 0, Predictions(QUESTION, RATING, mixed, RANK), unseen, RIGHT, -0.2)
    assert (replaces_before(forced), replaces_now(forced)) == (True, False)
    successor = Succession("quality", "quality", 50, Predictions(QUESTION, RATING, RIGHT, RANK), unseen, None, 0.1)
    assert replaces_now(successor)
    first = Trials("X", 50, False, [Trial(outcome(RIGHT, 0.2), outcome(RIGHT, 0.2))], 1.0)
    text = document([first, Trials("X", 50, False, [], 1.0, [forced, successor])], "an encoder")
    assert "| `joint` by force | 0 more | 1 | -20.0 (-20.0 to -20.0) | 100% | 0% | none better | none better |" in text
    assert "| the same recipe | 50 more | 1 | +10.0 (+10.0 to +10.0) |" in text
