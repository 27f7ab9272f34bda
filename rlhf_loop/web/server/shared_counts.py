"""The folder in which the processes of one server count together: a new one at each start, and gone after it."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

logger = logging.getLogger(__name__)

#: By this the library learns where its files are; it looks when it is imported.
VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_PREFIX = "rlhf-metrics-"
#: A folder may be so young that its server has not locked it yet.
_YOUNG_S = 60.0


@contextmanager
def shared_counts() -> Iterator[Path]:
    """Make the folder for the processes that are forked in this block, and remove it at the end.

    The lock on it tells other servers that it is in use, and systemd, which clears folders of temporary files.
    """
    parent = Path(tempfile.gettempdir())
    _remove_abandoned(parent)
    folder, owner = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent)), os.getpid()
    lock = os.open(folder, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_SH)
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = str(folder)
    try:
        yield folder
    finally:
        # A process that was forked inside the block leaves it, too.
        if os.getpid() == owner:
            os.close(lock)
            shutil.rmtree(folder, ignore_errors=True)
            os.environ.pop(VARIABLE)
            if before is not None:
                os.environ[VARIABLE] = before


def forget(pid: int) -> None:
    """Take a process that has ended out of what is true now, such as how many there are; what it counted stays."""
    # Here, as whoever calls this forks, and stays small until somebody has died.
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(pid)  # type: ignore[no-untyped-call]


def _remove_abandoned(parent: Path) -> None:
    """Remove the folders of servers that were killed."""
    for folder in parent.glob(f"{_PREFIX}*"):
        # Of another user, or removed by another server that starts now.
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime > _YOUNG_S and _is_free(folder):
                shutil.rmtree(folder, ignore_errors=True)
                logger.info("Removed %s, which a server that was killed has left.", folder)


def _is_free(folder: Path) -> bool:
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True
