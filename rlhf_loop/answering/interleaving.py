"""Two rankings in one list, so that whoever reads it tells which is better without knowing that there are two.

Team-draft interleaving (Radlinski, Kurup and Joachims 2008, How does clickthrough data reflect retrieval quality?): as
two captains pick their teams, so each ranking in turn takes the best answer that is left, and a coin says who picks
first in each round. Each answer belongs to the ranking that picked it. Neither gets better places than the other, so
where the two are equally good, neither is preferred.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pick:
    """An answer's index, and whether the first ranking picked it."""

    position: int
    by_first: bool


def team_draft(first: Sequence[int], second: Sequence[int], *, coin: Callable[[], bool]) -> list[Pick]:
    """Merge two orders of the same indices; where `coin` gives True, the first ranking begins the round."""
    taken: set[int] = set()
    picks: list[Pick] = []
    turns = ((True, iter(first)), (False, iter(second)))
    while len(picks) < len(first):
        for by_first, left in turns if coin() else turns[::-1]:
            if (position := _next(left, taken)) is not None:
                taken.add(position)
                picks.append(Pick(position, by_first))
    return picks


def _next(left: Iterator[int], taken: set[int]) -> int | None:
    return next((position for position in left if position not in taken), None)
