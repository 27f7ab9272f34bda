"""Splits by question: answers to one prompt never stand on both sides.

Questions are laid out by their share of correct answers and dealt from there, so that each part gets its share of easy
and hard ones: stratified as far as whole questions allow.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from rlhf_loop.utils.arrays import Ints, Mask


def holdout(question: Ints, label: Ints, *, share: float, seed: int) -> Mask:
    """Return which answers are held out: those of about `share` of the questions, at least one and not all.

    Of three or more questions with correct answers two are never held out, and the same with incorrect ones: with fewer
    there would be nothing to cross-validate on.

    Args:
        question: a number for each answer; equal numbers stay together.
        label: 0 or 1 for each answer.
    """
    rng = np.random.default_rng(seed)
    order = _layout(question, label, rng)
    count = min(max(1, round(share * len(order))), len(order) - 1)
    # One question from each of `count` stretches of equal length.
    edges = np.linspace(0, len(order), count + 1)
    chosen = [int(order[rng.integers(int(low), max(int(high), int(low) + 1))]) for low, high in pairwise(edges)]
    held: Mask = np.isin(question, _releasing(question, label, chosen))
    return held


def folds(question: Ints, label: Ints, *, count: int, seed: int) -> Ints:
    """Return a fold number from 0 to `count` - 1 for each answer; every fold's complement has both classes.

    There are fewer folds where the questions do not suffice for `count`.

    Raises:
        ValueError: no two folds are possible, because all correct or all incorrect answers belong to one question.
    """
    parts = min(count, len(np.unique(question[label == 1])), len(np.unique(question[label == 0])))
    if parts < 2:
        raise ValueError("All correct or all incorrect answers belong to one question. Rate answers to more questions.")
    rng = np.random.default_rng(seed)
    order = _layout(question, label, rng)
    rounds = -(-len(order) // parts)
    fold = _dealt(question, order, np.concatenate([rng.permutation(parts) for _ in range(rounds)]))
    if any(len(np.unique(label[fold != part])) < 2 for part in range(parts)):
        # By chance all questions of a small class went into one fold. They are neighbours in the layout, so the same
        # deal in each round keeps them apart.
        fold = _dealt(question, order, np.tile(np.arange(parts), rounds))
    return fold


def _releasing(question: Ints, label: Ints, chosen: list[int]) -> list[int]:
    """Leave out of `chosen` what must stay for the fit: a class that few questions have may not be held out."""
    for kind in (0, 1):
        having = set(question[label == kind].tolist())
        spare = max(len(having) - 2, 1)
        released = set([name for name in chosen if name in having][spare:])
        chosen = [name for name in chosen if name not in released]
    return chosen


def _dealt(question: Ints, order: Ints, deal: Ints) -> Ints:
    """Return the fold of each answer when the questions of `order` get the fold numbers of `deal`."""
    fold_of = np.empty(int(question.max(initial=0)) + 1, dtype=np.intp)
    fold_of[order] = deal[: len(order)]
    return fold_of[question]


def _layout(question: Ints, label: Ints, rng: np.random.Generator) -> Ints:
    """Return the questions ordered by their share of correct answers, equal ones shuffled."""
    names, index = np.unique(question, return_inverse=True)
    share = np.bincount(index, weights=label) / np.bincount(index)
    ordered: Ints = names[np.lexsort((rng.permutation(len(names)), share))]
    return ordered
