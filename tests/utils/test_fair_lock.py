from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from rlhf_loop.utils.concurrency import FairLock


def wait_for(turns: FairLock, count: int) -> None:
    while turns.waiting < count:
        time.sleep(0)


def test_first_come_first_served() -> None:
    """Whoever lets go and asks again at once has its next turn after those who wait, and they in their order."""
    turns, served = FairLock(), []

    def take(name: str) -> None:
        with turns:
            served.append(name)

    with turns:
        others = []
        for place, name in enumerate("bcd", start=1):
            others.append(threading.Thread(target=take, args=(name,)))
            others[-1].start()
            wait_for(turns, place)
        served.append("a")
    take("a again")
    for other in others:
        other.join()
    assert served == ["a", "b", "c", "d", "a again"]
    assert turns.waiting == 0


def test_who_waited_for_too_long_leaves_the_line() -> None:
    """Who gives up is told so, and whoever stands behind is next."""
    turns = FairLock()
    assert turns.acquire()
    assert not turns.acquire(timeout=0)
    assert turns.waiting == 0
    turns.release()
    assert turns.acquire(timeout=0)


def test_one_at_a_time() -> None:
    """However many threads there are, one is inside, and none is forgotten."""
    turns, inside, most = FairLock(), [0], [0]

    def work(_: int) -> None:
        with turns:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            time.sleep(0)
            inside[0] -= 1

    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(work, range(400)))) == 400
    assert most == [1]


def test_an_error_ends_the_turn() -> None:
    """What goes wrong inside holds nobody up."""
    turns = FairLock()
    with pytest.raises(ZeroDivisionError), turns:
        1 // 0  # noqa: B018
    with turns:
        pass
