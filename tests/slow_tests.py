"""The list of tests that take long on the processor, by measurement: `make test-fast` leaves them out.

`make test OPTIONS=--note-slow` writes it anew. What is slow for another reason has a mark in the code.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

FILE = Path(__file__).with_suffix(".txt")
#: Seconds of processor time, on the mean of a test's cases: what is below takes a quarter of all that has no mark.
_SLOW_S = 0.1


def read() -> dict[str, float]:
    """Return the seconds of each test in the list, by file and function."""
    lines = (line.split() for line in FILE.read_text("utf-8").splitlines())
    return {name: float(seconds) for seconds, name in lines}


def write(measured: Mapping[str, float]) -> None:
    """Write the list from the seconds of all tests that have no mark, by node id."""
    cases: dict[str, list[float]] = {}
    for node, seconds in measured.items():
        cases.setdefault(node.partition("[")[0], []).append(seconds)
    mean = {name: sum(seconds) / len(seconds) for name, seconds in cases.items()}
    slow = sorted(name for name, seconds in mean.items() if seconds >= _SLOW_S)
    FILE.write_text("".join(f"{mean[name]:.2f} {name}\n" for name in slow), "utf-8")
