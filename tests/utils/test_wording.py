from __future__ import annotations

import pytest

from rlhf_loop.utils.text import counted, listed, percent, rounded, signed, verb


@pytest.mark.parametrize(
    ("number", "said"), [(0, "0 answers are"), (1, "1 answer is"), (2, "2 answers are"), (1_200, "1,200 answers are")]
)
def test_one_is_no_plural(number: int, said: str) -> None:
    """Noun and verb agree with the number."""
    assert f"{counted(number, 'answer')} {verb(number, 'is', 'are')}" == said


def test_plurals_of_their_own() -> None:
    """Where an s is not enough, the plural is given."""
    assert [counted(number, "loss", "losses") for number in (0, 1, 2)] == ["0 losses", "1 loss", "2 losses"]


@pytest.mark.parametrize(
    ("number", "said"),
    [(0, "0"), (1, "1"), (47.4, "47"), (99.6, "100"), (483, "480"), (1_250, "1,200"), (96_500, "96,000")],
)
def test_about(number: float, said: str) -> None:
    """Two digits count."""
    assert rounded(number) == said


def test_shares_and_signs() -> None:
    """Percent sign and number stay together, and a minus is one."""
    assert percent(0.725) == "72\N{NO-BREAK SPACE}%"
    assert (signed(-0.05), signed(0.71)) == ("\N{MINUS SIGN}0.05", "0.71")


@pytest.mark.parametrize(("names", "said"), [(["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")])
def test_lists(names: list[str], said: str) -> None:
    """The last one comes after an and."""
    assert listed(names) == said
