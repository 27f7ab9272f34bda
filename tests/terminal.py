"""A command at a pseudo-terminal of its own, and the keys that somebody presses there."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import struct
import termios
from collections.abc import Callable
from pathlib import Path

from forked_process import ForkedProcess
from patience import until

_CONTROLS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_ROWS, _COLUMNS = 40, 120


class Terminal:
    """A process at a terminal, which `begin` starts with the terminal as the file that it writes to."""

    def __init__(self, begin: Callable[[Path], ForkedProcess]) -> None:
        self._keyboard, screen = os.openpty()
        fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", _ROWS, _COLUMNS, 0, 0))
        os.set_blocking(self._keyboard, False)
        self._shown = b""
        self.process = begin(Path(os.ttyname(screen)))
        until(lambda: "began" in self.shown)
        os.close(screen)

    @property
    def shown(self) -> str:
        """What it has shown so far."""
        try:
            while some := os.read(self._keyboard, 2**16):
                self._shown += some
        except OSError:  # nothing more yet, or ever
            pass
        return _CONTROLS.sub("", self._shown.decode(errors="replace")).replace("\r", "\n")

    def wait_for_stop(self) -> None:
        """Wait until it has stopped itself."""
        until(self.process.has_stopped)

    def press_ctrl_c(self) -> None:
        """Press it: the terminal sends SIGINT to the whole group."""
        os.write(self._keyboard, b"\x03")

    def go_on_with_ctrl_c(self) -> None:
        """Press it while the process has stopped, and let that go on, to which the signal has come by then."""
        self.press_ctrl_c()
        until(lambda: self.process.has_pending(signal.SIGINT))
        self.process.send(signal.SIGCONT)

    def wait(self) -> int:
        """Wait for its end, and return its exit code."""
        until(lambda: self.shown and self.process.ended())
        code = self.process.process.exitcode
        assert code is not None
        return code

    def close(self) -> None:
        """End what still runs, and let go of the terminal."""
        if not self.process.ended():
            self.process.kill()
        os.close(self._keyboard)
