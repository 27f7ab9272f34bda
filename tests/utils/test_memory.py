from __future__ import annotations

import ctypes
import platform
import subprocess
import sys
from collections.abc import Iterator

import pytest

from rlhf_loop.utils import concurrency

# A fifth of a gigabyte in blocks that the C library keeps when they are free: the last one holds up the rest.
USED_AND_FREE = """
import ctypes
from rlhf_loop.utils import concurrency

def held():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
blocks = [libc.malloc(50_000) for _ in range(4_000)]
for block in blocks:
    ctypes.memset(block, 1, 50_000)
for block in blocks[:-1]:
    libc.free(block)
before = held()
concurrency.trim_memory()
print(before - held())
"""


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    concurrency._trim.cache_clear()
    yield
    concurrency._trim.cache_clear()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="Only glibc gives memory back.")
def test_what_is_free_goes_back() -> None:
    """The process is smaller afterwards by most of what it had."""
    done = subprocess.run([sys.executable, "-c", USED_AND_FREE], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 100_000_000


def test_where_there_is_nothing_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another C library does what it does."""

    class Other:
        def __init__(self, name: None) -> None:
            pass

    monkeypatch.setattr(ctypes, "CDLL", Other)
    concurrency.trim_memory()
