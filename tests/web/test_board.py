"""Figures as a process computed them lately: each once, in the background, and never for long in anybody's way."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from figure_fakes import CURVE, MILESTONE
from patience import PATIENCE_S

from rlhf_loop.monitoring.figures.figure import Figure
from rlhf_loop.web.pages.dashboard import Board


class Work:
    """Computes figures slowly, wrongly, or at once, and counts how often."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.now = 0.0
        self.takes = 0.0
        self.go_on = threading.Event()
        self.go_on.set()
        self.error: Exception | None = None

    def __call__(self, name: str) -> Figure:
        self.go_on.wait(PATIENCE_S)
        self.now += self.takes
        self.done.append(name)
        if self.error:
            raise self.error
        return replace(CURVE if name == "learning-curve" else MILESTONE, summary=f"{len(self.done)}")

    def clock(self) -> float:
        return self.now


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
def board(work: Work) -> Board:
    return Board(work, max_age_s=60, clock=work.clock)


def test_once_for_all(board: Board, work: Work) -> None:
    """Eight who ask at once get one and the same figure, and so does who comes within a minute."""
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: board.get(["milestone"], wait_s=PATIENCE_S)["milestone"].figure, range(8)))
    work.now = 59
    found.append(board.get(["milestone"], wait_s=PATIENCE_S)["milestone"].figure)
    assert len(set(map(id, found))) == 1
    assert work.done == ["milestone"]


def test_after_a_minute_anew(board: Board, work: Work) -> None:
    """What is older is computed again."""
    board.get(["milestone"], wait_s=PATIENCE_S)
    work.now = 61
    shown = board.get(["milestone"], wait_s=PATIENCE_S)["milestone"]
    assert shown.figure is not None
    assert shown.figure.summary == "2"


def test_what_took_long_stays_longer(board: Board, work: Work) -> None:
    """A figure that takes 30 seconds is not computed each minute."""
    work.takes = 30
    board.get(["learning-curve"], wait_s=PATIENCE_S)
    work.now = 400
    board.get(["learning-curve"], wait_s=PATIENCE_S)
    assert work.done == ["learning-curve"]


def test_who_asks_does_not_wait(board: Board, work: Work) -> None:
    """What is not ready is left out; the next one gets it; and an old one is shown while a new one is made."""
    work.go_on.clear()
    assert board.get(["milestone"], wait_s=0)["milestone"].figure is None
    assert not board.get(["milestone"], wait_s=0)["milestone"].failed
    work.go_on.set()
    assert board.get(["milestone"], wait_s=PATIENCE_S)["milestone"].figure is not None
    work.go_on.clear()
    work.now = 1_000
    old = board.get(["milestone"], wait_s=0)["milestone"].figure
    assert old is not None
    assert old.summary == "1"
    work.go_on.set()
    board.get(["milestone"], wait_s=PATIENCE_S)
    assert work.done == ["milestone"] * 2


def test_one_that_fails(board: Board, work: Work, caplog: pytest.LogCaptureFixture) -> None:
    """It says so in the log, and does not keep the others from being computed; later it is tried again."""
    work.error = ZeroDivisionError("no questions")
    shown = board.get(["milestone"], wait_s=PATIENCE_S)["milestone"]
    assert (shown.figure, shown.failed) == (None, True)
    assert "The figure milestone of the dashboard cannot be computed." in caplog.text
    work.error = None
    assert board.get(["learning-curve"], wait_s=PATIENCE_S)["learning-curve"].figure is not None
    work.now = 61
    assert board.get(["milestone"], wait_s=PATIENCE_S)["milestone"].figure is not None
