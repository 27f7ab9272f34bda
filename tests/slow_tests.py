"""The list of tests that take long, by measurement: `make test-fast` leaves them out.

`make test OPTIONS=--note-slow` writes it anew, and `make test-fast OPTIONS=--note-slow` adds what got slow, on a
machine that does nothing else. What needs a browser, a server or a kill has a mark in the code.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

FILE = Path(__file__).with_suffix(".txt")
#: Seconds of its slowest case.
_SLOW_S = 0.05


def read() -> dict[str, float]:
    """Return the seconds of each test in the list, by file and function."""
    lines = (line.split() for line in FILE.read_text("utf-8").splitlines())
    return {name: float(seconds) for seconds, name in lines}


def write(measured: Mapping[str, float], *, every: bool) -> None:
    """Write the list from the seconds of tests without a mark, by node id; unless `every` one ran, the rest stays."""
    slowest: dict[str, float] = {}
    for node, seconds in measured.items():
        name = node.partition("[")[0]
        slowest[name] = max(seconds, slowest.get(name, 0.0))
    found = slowest if every else read() | slowest
    slow = sorted(name for name, seconds in found.items() if seconds >= _SLOW_S)
    FILE.write_text("".join(f"{found[name]:.2f} {name}\n" for name in slow), "utf-8")
