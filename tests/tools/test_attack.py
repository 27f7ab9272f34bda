"""The words of `make attack`, and what counts as held; the attacks themselves take minutes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.attack import clock, models
from tools.attack.__main__ import summary, table
from tools.attack.bombs import _finding
from tools.attack.product import Finding, Ran

HONEST = Ran(0, "1 row", "", 1.0, 110.0)
REFUSED = Ran(2, "", "Error: The line 1 is too long. Split it.\n", 0.5, 120.0)


@pytest.mark.parametrize(
    ("ran", "stored", "holds"),
    [
        (REFUSED, 0, True),
        (REFUSED, 1, False),
        (Ran(0, "1 row", "", 0.5, 120.0), 0, False),
        (Ran(1, "", "Traceback (most recent call last)", 0.5, 120.0), 0, False),
        (Ran(2, "", "Error: Too long.", 0.5, 900.0), 0, False),
        (Ran(2, "", "Error: Too long.", 60.0, 120.0), 0, False),
        (Ran(-9, "", "", 0.5, 120.0), 0, False),
    ],
)
def test_a_bomb_is_held_if_it_is_refused_in_words_soon_and_in_little_memory(ran: Ran, stored: int, holds: bool) -> None:
    """A refusal by exit code 2 within seconds and 300 MB, with nothing stored, and nothing else."""
    assert _finding("a bomb", ran, stored, HONEST).holds is holds


def test_the_table_says_what_failed_and_what_was_left_out() -> None:
    """A line for each attack, its verdict first; the summary counts them."""
    found = [
        Finding("sockets", "a", "1 s", True),
        Finding("kills", "bb", "2 s", False),
        Finding("clock", "c", "x", None),
    ]
    assert list(table(found)) == ["holds    sockets  a   1 s", "FAILS    kills    bb  2 s", "skipped  clock    c   x"]
    assert summary(found) == "1 of 3 attacks held, 1 did not, 1 were skipped."


def test_without_libfaketime_the_clock_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the library is not there, it says how to get it."""
    monkeypatch.setattr(clock, "_PLACES", (str(tmp_path),))
    assert clock.library(None) is None
    assert clock.library(tmp_path) == tmp_path


def test_a_hostile_model_differs_from_the_good_one_in_what_it_says() -> None:
    """A function of the old value, a value of its own, or next to nothing."""
    import pickle

    good = {"format": "f", "coef": [0.5, 0.25], "recipe": "joint"}
    assert pickle.loads(models.changed(good, {"coef": lambda old: old[1:]})) == {**good, "coef": [0.25]}
    assert pickle.loads(models.changed(good, {"recipe": "../../x"})) == {**good, "recipe": "../../x"}
    assert pickle.loads(models.changed(good, {})) == {"format": "f"}
