"""The interface of an encoder's runtimes, and the abilities of the processor that decide how it runs."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
#: Length of a text's vector by all-MiniLM-L6-v2.
DIMENSION = 384
#: Tokens of its window, the markers [CLS] and [SEP] included. What lies behind the window is not read.
MAX_TOKENS = 256
#: The mean cosine by all-MiniLM-L6-v2 of the questions in `folder.py`, which have nothing in common.
UNRELATED = 0.069
#: Linux's names of instructions that multiply and add 8-bit integers in one step, by processor family.
_INT8 = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"}
_BF16 = {"avx512_bf16", "amx_bf16"}
#: Where Linux tells.
CPUINFO = Path("/proc/cpuinfo")
#: Stands between the ids of an encoder and of the cross-encoder beside it; no name has such a character.
_PLUS = "+"
STATM = Path("/proc/self/statm")


@dataclass(frozen=True, slots=True)
class Shape:
    """The measures of an encoder: the length of a vector, the tokens of its window, and those that mark a text's ends.

    `query` and `passage` are what it wants to read before a question and before a text that may answer it; `unknown` is
    the token of what it has no other for. `unrelated` is the mean cosine of questions that have nothing in common.
    """

    dimension: int = DIMENSION
    window: int = MAX_TOKENS
    markers: int = 2
    query: str = ""
    passage: str = ""
    unknown: str | None = "[UNK]"
    unrelated: float = UNRELATED


class Runtime(Protocol):
    """Text -> L2-normalised vectors."""

    @property
    def shape(self) -> Shape:
        """The encoder's measures."""
        ...

    @property
    def id(self) -> str:
        """`MODEL/PRECISION`: the model and whatever else changes the vectors, part of each cache key and model file."""
        ...

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return one unit vector a text, shape (texts, dimension), of the first tokens of each, as many as are read."""
        ...


def same_model(some: str, other: str) -> bool:
    """Tell whether two ids name one encoder, in whatever precision; a cross-encoder beside it does not count.

    A reward model fitted on the vectors of one precision scores those of another as well (`make bench` shows the loss),
    so it may serve on another kind of processor. In a cache they are kept apart.
    """
    of_some, of_other = (id.partition(_PLUS)[0].partition("/")[0] for id in (some, other))
    return of_some == of_other


def with_cross(encoder: str, cross: str) -> str:
    """Return the id of an encoder that has a cross-encoder beside it."""
    return f"{encoder}{_PLUS}{cross}"


def cross_of(id: str) -> str:
    """Return the name of the cross-encoder in an id, empty where it has none."""
    return id.partition(_PLUS)[2].partition("/")[0]


def abilities() -> frozenset[str]:
    """Return what matters among the processor's abilities: "int8" and "bf16" products in hardware.

    Without the 8-bit instructions the products would be as slow as in 32 bits, and on older x86 less exact (they
    saturate at 16 bits). Where the system does not say what the processor can do, the answer is nothing.
    """
    flags = _flags()
    return frozenset(name for name, needed in (("int8", _INT8), ("bf16", _BF16)) if flags & needed)


def processor_name() -> str:
    """Return what the processor calls itself, as far as the system says."""
    for line in _cpuinfo():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def resident_megabytes() -> float | None:
    """Return how much memory this process has now, None where the system does not tell."""
    try:
        pages = int(STATM.read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _flags() -> set[str]:
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return {"asimddp"}  # every Apple processor of that kind
    found: set[str] = set()
    for line in _cpuinfo():
        key, _, values = line.partition(":")
        if key.strip() in ("flags", "Features"):
            found.update(values.split())
    return found


def _cpuinfo() -> list[str]:
    try:
        return CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
