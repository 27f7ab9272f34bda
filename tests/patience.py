"""Waiting for what will happen, on a machine of any speed."""

from __future__ import annotations

import time
from collections.abc import Callable

#: So long that only a broken test waits for its end.
PATIENCE_S = 300


def until(happened: Callable[[], object]) -> None:
    """Wait for something that will happen, however slow the machine is."""
    end = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < end, "It did not happen."
        time.sleep(0.02)
