from __future__ import annotations

from dataclasses import replace

import numpy as np

from rlhf_loop.domain import Example
from rlhf_loop.training.data import assemble
from tools.results.experiments import fifty_together
from tools.results.simulation import order_precision


def test_questions_that_ask_for_the_same_keep_their_orders() -> None:
    """Where two questions are one group, each has an order and a P@1 of its own, and a draw of questions takes one."""
    data = assemble(
        [
            Example(f"{wording} {number}", f"{kind} {wording} {number}", rating, f"{wording} {number}")
            for number in range(40)
            for wording in ("one", "other")
            for kind, rating in (("right", 5), ("wrong", 1))
        ]
    )
    grouped = replace(data, prompt=data.question // 2)
    # The right answer comes first for one of the two, and the wrong one for the other.
    key = np.where(data.question % 2 == 0, data.rating, -data.rating).astype(np.float64)
    assert order_precision(grouped, key)[0] == 0.5
    drawn = fifty_together(grouped, np.random.default_rng(0))
    assert drawn.sum() == 50
    assert len(np.unique(data.question[drawn])) == 25
