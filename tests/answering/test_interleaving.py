from __future__ import annotations

import random
from itertools import permutations

import pytest

from rlhf_loop.answering.experiments import Pick, team_draft


def test_the_rankings_pick_in_turn() -> None:
    """Whoever the coin names begins each round; what the other has taken already is passed over."""
    coins = iter([True, False, True])
    assert team_draft([0, 1, 2, 3, 4], [0, 2, 4, 1, 3], coin=lambda: next(coins)) == [
        Pick(0, True),
        Pick(2, False),
        Pick(4, False),
        Pick(1, True),
        Pick(3, True),
    ]


@pytest.mark.parametrize("count", range(6))
def test_every_answer_is_there_once(count: int) -> None:
    """No answer is lost or doubled, and the teams are of equal size, or differ by the last one."""
    coins = random.Random(7)
    for second in permutations(range(count)):
        picks = team_draft(range(count), second, coin=lambda: bool(coins.getrandbits(1)))
        assert sorted(pick.position for pick in picks) == list(range(count))
        assert abs(2 * sum(pick.by_first for pick in picks) - count) <= 1


def test_identical_rankings_share_the_places_evenly() -> None:
    """Where both say the same, their order stays, and each place is as often of the one as of the other."""
    coins = random.Random(7)
    drawn = [team_draft(range(5), range(5), coin=lambda: bool(coins.getrandbits(1))) for _ in range(4000)]
    assert all([pick.position for pick in picks] == list(range(5)) for picks in drawn)
    for place in range(5):
        assert sum(picks[place].by_first for picks in drawn) / 4000 == pytest.approx(0.5, abs=0.03)
