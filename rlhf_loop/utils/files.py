"""Atomic and durable writing of files."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO


@contextmanager
def whole_file(path: Path, *, mode: int | None = None) -> Iterator[IO[bytes]]:
    """Open a file that takes the place of `path` at the end of the block, or not at all if the block fails.

    Its permissions are `mode`, by default as for any new file. A link at `path` is replaced and not followed.

    Raises:
        OSError: it cannot be written; what was there is there.
    """
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
