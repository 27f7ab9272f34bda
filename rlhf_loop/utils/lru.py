"""A size-bounded LRU cache in memory, for values that are cheap to keep and expensive to compute."""

from __future__ import annotations

from typing import Generic, TypeVar

_Value = TypeVar("_Value")

#: What an entry costs besides its value: the key of 32 bytes, the value's object, two places in a dict.
_OVERHEAD = 350


class LRUCache(Generic[_Value]):
    """The values used last, by the hash of what they were made from. Safe to share between threads and across a fork.

    Two generations: what is used moves to the young one, and when that has grown to half of `max_bytes` the old one
    goes. So the values used last are there, without a list of when each was used.

    There is no lock, which a fork could leave locked: each step is one operation on a dict, which Python does whole.
    Threads that meet in between may drop a value or count it once too few, and nothing else.
    """

    def __init__(self, *, max_bytes: int) -> None:
        self._limit = max_bytes // 2
        self._young: dict[bytes, tuple[_Value, int]] = {}
        self._old: dict[bytes, tuple[_Value, int]] = {}
        self._used = 0

    def get(self, key: bytes) -> _Value | None:
        """Return the value, None if there is none (any more)."""
        entry = self._young.get(key)
        if entry is None and (entry := self._old.get(key)) is not None:
            self.put(key, *entry)
        return entry[0] if entry else None

    def put(self, key: bytes, value: _Value, size: int) -> None:
        """Keep a value of `size` bytes."""
        if size + _OVERHEAD > self._limit:
            return
        self._young[key] = value, size
        self._used += size + _OVERHEAD
        if self._used > self._limit:
            self._old, self._young, self._used = self._young, {}, 0
