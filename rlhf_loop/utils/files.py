"""Atomic and durable writing of files, and temporary folders that no kill leaves behind for good."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO
from weakref import finalize

from filelock import FileLock

_LOCK = ".lock"


@contextmanager
def whole_file(path: Path, *, mode: int | None = None) -> Iterator[IO[bytes]]:
    """Open a file that takes the place of `path` at the end of the block, or not at all if the block fails.

    Its permissions are `mode`, by default as for any new file. A link at `path` is replaced and not followed.

    Raises:
        OSError: it cannot be written, or is a pipe or a device; what was there is there.
    """
    try:
        special = is_special(path)
    except OSError:
        # There is nothing, or a link to what may not be looked at, which is replaced.
        special = False
    if special:
        raise OSError(errno.EINVAL, "it is a pipe or a device", str(path))
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with draft.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if mode is not None:
            draft.chmod(mode)
        draft.replace(path)
    finally:
        with suppress(OSError):
            draft.unlink()


def write_whole(path: Path, content: bytes, *, mode: int | None = None) -> None:
    """Write a file that appears whole, under its name, or not at all; see `whole_file`."""
    with whole_file(path, mode=mode) as file:
        file.write(content)


def is_special(path: Path) -> bool:
    """Tell whether it is neither a file nor a folder: a pipe, a socket, a device.

    Raises:
        OSError: it is not there, or may not be looked at.
    """
    mode = path.stat().st_mode
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


class TemporaryFolder:
    """A folder of this process among the temporary files, with a name that begins with `prefix`.

    It goes with the block or the object, at the latest with the process. One that a killed process has left goes when
    the next one of its prefix is made: its lock died with the process. What others have made there stays.
    """

    def __init__(self, prefix: str) -> None:
        for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
            # In use, or gone meanwhile.
            with suppress(OSError):
                if _is_own(left) and (left / _LOCK).exists():
                    with FileLock(left / _LOCK, timeout=0):
                        shutil.rmtree(left, ignore_errors=True)
        # It gets its name once it is locked.
        draft = Path(tempfile.mkdtemp(prefix=f".{prefix}"))
        lock = FileLock(draft / _LOCK)
        lock.acquire()
        self.path = draft.rename(draft.with_name(draft.name.removeprefix(".")))
        self.remove = finalize(self, _remove, self.path, lock)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.remove()


def _is_own(folder: Path) -> bool:
    """Tell whether it is a folder of this user: a link, or what somebody else fills, could lead to any file."""
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and (not hasattr(os, "geteuid") or found.st_uid == os.geteuid())


def _remove(folder: Path, lock: FileLock) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    lock.release()
