"""A pause between requests to a site that asks for one, kept by all processes of this machine together."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from rlhf_loop.errors import SourceError


class Courtesy:
    """Lets one request at a time go to `site`, each at least `interval_s` after the end of the one before.

    Next to the lock at `path` stands a file with the time of the last request. The system frees the lock of a process
    that dies. Time is the wall clock's, since other processes' monotonic clocks may not compare; whatever it and the
    file say, an interval later somebody is let in.
    """

    def __init__(self, path: Path, *, interval_s: float, site: str) -> None:
        self._lock_path = path
        self._stamp_path = path.with_suffix(".last")
        self._interval_s = interval_s
        self._site = site

    @contextmanager
    def turn(self, budget_s: float) -> Iterator[None]:
        """Wait for leave to send one request, at most `budget_s` seconds, and hold it in this block.

        Raises:
            SourceError: it would take longer, which is said at once where it is known; or the files cannot be written.
        """
        lock = self._acquired(budget_s)
        try:
            yield
        finally:
            # When in this block the request reached the site is not known: at the latest, now.
            with suppress(OSError):
                self._stamp()
            lock.release()

    def _acquired(self, budget_s: float) -> BaseFileLock:
        end = time.monotonic() + budget_s
        lock = FileLock(self._lock_path, timeout=budget_s)
        try:
            self._lock_path.parent.mkdir(parents=True, exist_ok=True)
            self._check(self._wait_s() or 0.0, end)
            lock.acquire()
            wait = self._wait_s()
            if wait is None:
                # From now on it tells: who comes an interval later is let in, however little time he has.
                self._stamp()
                wait = self._interval_s
            self._check(wait, end)
            time.sleep(wait)
            self._stamp()  # a crash from here on counts as a request, too
        except Timeout as error:
            raise self._taken(self._interval_s) from error
        except OSError as error:
            lock.release()
            raise SourceError(
                f"The pause between requests to {self._site} cannot be kept: {self._lock_path} cannot be written "
                f"({error.strerror}). Make its folder writable, or set RLHF_CACHE_DIR to one that is."
            ) from error
        except BaseException:
            lock.release()
            raise
        return lock

    def _check(self, wait: float, end: float) -> None:
        if wait and time.monotonic() + wait > end:
            raise self._taken(wait)

    def _taken(self, wait: float) -> SourceError:
        return SourceError(
            f"{self._site} may be asked only every {self._interval_s:g} s, and somebody just did. Its passages are "
            f"missing this time; ask again in {wait:.1f} s, or set a longer RLHF_SOURCE_DEADLINE_S.",
            retry_after_s=wait,
        )

    def _wait_s(self) -> float | None:
        """Return the rest of the pause; None where the file does not tell: damaged, or ahead of the clock."""
        try:
            ago = time.time() - float(self._stamp_path.read_text())
        except FileNotFoundError:
            return 0.0
        except ValueError:
            return None
        # This way round, as what is compared with "nan" is never true.
        return max(0.0, self._interval_s - ago) if ago >= 0 else None

    def _stamp(self) -> None:
        # In one step: others look without the lock, and a crash leaves the old one.
        new = self._stamp_path.with_suffix(".new")
        new.write_text(repr(time.time()))
        new.replace(self._stamp_path)
