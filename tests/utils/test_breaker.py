from __future__ import annotations

import pytest

from rlhf_loop.utils.breaker import Breaker


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(failures=3, clock=clock)


def fail(breaker: Breaker, times: int) -> None:
    for _ in range(times):
        assert breaker.may_try()
        breaker.failed()


def test_a_few_failures_are_forgiven(breaker: Breaker) -> None:
    """Two failures and a success leave no trace: two more failures are still too few."""
    fail(breaker, 2)
    breaker.succeeded()
    fail(breaker, 2)
    assert breaker.may_try()
    assert breaker.rest_s() == 0


def test_failures_in_a_row_bring_a_rest(breaker: Breaker, clock: Clock) -> None:
    """After three failures it is paused, and after the rest a single caller tries."""
    fail(breaker, 3)
    assert not breaker.may_try()
    assert breaker.rest_s() == 10
    clock.now += 10
    assert breaker.may_try()
    assert not breaker.may_try()
    breaker.succeeded()
    assert breaker.may_try()
    assert breaker.may_try()


def test_rests_grow_up_to_a_limit(breaker: Breaker, clock: Clock) -> None:
    """Each failed try after a rest doubles it, up to five minutes; a success starts anew."""
    fail(breaker, 3)
    rests = []
    for _ in range(8):
        rests.append(breaker.rest_s())
        clock.now += breaker.rest_s()
        fail(breaker, 1)
    assert rests == [10, 20, 40, 80, 160, 300, 300, 300]
    clock.now += 300
    assert breaker.may_try()
    breaker.succeeded()
    fail(breaker, 2)
    assert breaker.may_try()


def test_a_rest_that_is_asked_for_begins_at_once(breaker: Breaker, clock: Clock) -> None:
    """Retry-After counts from the first time, not for more than an hour; it is no failure, however often it comes."""
    breaker.failed(retry_after_s=25)
    assert breaker.rest_s() == 25
    clock.now += 25
    assert breaker.may_try()
    breaker.failed(retry_after_s=10**9)
    assert breaker.rest_s() == 3600
    clock.now += 3600
    for _ in range(9):
        assert breaker.may_try()
        breaker.failed(retry_after_s=3)
        clock.now += 3
    fail(breaker, 2)
    assert breaker.rest_s() == 0


def test_a_try_that_never_ends_holds_nobody_up_for_ever(breaker: Breaker, clock: Clock) -> None:
    """If the one that tries after a rest says nothing, the next may try some time later."""
    fail(breaker, 3)
    clock.now += 10
    assert breaker.may_try()
    clock.now += 10
    assert breaker.may_try()
