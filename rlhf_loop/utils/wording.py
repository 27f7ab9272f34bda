"""Numbers in sentences: one answer is not "1 answers"."""

from __future__ import annotations

from collections.abc import Sequence


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return "1 row", "2 rows", "1,200 rows"; `plural` is for nouns that take more than an s."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def verb(number: int, one: str, several: str) -> str:
    """Return the verb that goes with so many: 1 is, 2 are."""
    return one if number == 1 else several


def percent(share: float) -> str:
    """Return "72 %", which no line breaks apart."""
    return f"{100 * share:.0f}\N{NO-BREAK SPACE}%"


def signed(number: float) -> str:
    """Return "0.71", or "−0.05" with a minus and no hyphen."""
    return f"{number:.2f}".replace("-", "\N{MINUS SIGN}")


def about(number: float) -> str:
    """Return a number with two digits that count: 47, 480, 12,000. More would promise what nobody knows."""
    whole = round(number)
    return f"{round(whole, 2 - len(str(abs(whole)))):,}"


def listed(names: Sequence[str]) -> str:
    """Return "a", "a and b", "a, b and c"."""
    *before, last = names
    return f"{', '.join(before)} and {last}" if before else last
