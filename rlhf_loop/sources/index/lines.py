"""The index as lines of JSON, one for each section, as a backup has it: from either database, into either.

Vectors are float32 in Base64, so that no bit of them changes on the way.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rlhf_loop.encoders.runtime import same_model
from rlhf_loop.sources.index.store import Entry, Section, StoredEntry, VectorStore

if TYPE_CHECKING:
    from pydantic import TypeAdapter

#: Little-endian, whatever the machine is.
_FLOATS = np.dtype("<f4")
_BATCH = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """A section with the vectors of its passages, one after the other, and that of its title."""

    section: Section
    encoder: str
    dimension: int
    vectors: str
    heading: str | None


class IndexLines:
    """The index of a store, for a backup (`store.backup.Index`)."""

    def __init__(self, store: VectorStore) -> None:
        self._store = store

    def counts(self) -> Mapping[str, int]:
        """Count the sections that are there, by source.

        Raises:
            VectorStoreError: the index cannot be used.
        """
        return {each.source: each.sections for each in self._store.sources()}

    def lines(self) -> Iterator[tuple[str, bytes]]:
        """Return a line for each section, beside its source, as all of them are at one moment.

        Raises:
            VectorStoreError: the index cannot be used.
        """
        for batch in self._store.everything():
            for kept in batch:
                section = asdict(kept.entry.section) | {"added_at": kept.entry.section.added_at.isoformat()}
                heading = kept.entry.heading
                line = {
                    "section": section,
                    "encoder": kept.encoder,
                    "dimension": kept.entry.vectors.shape[1],
                    "vectors": _written(kept.entry.vectors),
                    "heading": None if heading is None else _written(heading),
                }
                yield kept.entry.section.source, json.dumps(line, separators=(",", ":")).encode() + b"\n"

    def check(self, lines: Iterable[bytes]) -> Mapping[str, int]:
        """Count the sections of lines by source, once all of them were read.

        Raises:
            ValueError: a line is not one of a section, or is of another model than the first.
        """
        counts, first = Counter[str](), None
        for kept in map(_read, lines):
            first = first or kept
            same = kept.entry.vectors.shape[1] == first.entry.vectors.shape[1]
            if not same or not same_model(kept.encoder, first.encoder):
                raise ValueError("its index has vectors of several models")
            counts[kept.entry.section.source] += 1
        return dict(counts)

    def put(self, lines: Iterable[bytes]) -> None:
        """Have the sections of lines, which were checked, in place of all that is there, all or none.

        Raises:
            VectorStoreError: the index cannot be written.
        """
        kept = map(_read, lines)
        self._store.replace(iter(lambda: list(islice(kept, _BATCH)), []))

    def close(self) -> None:
        """Let go of files and connections."""
        self._store.close()


@cache
def _adapter() -> TypeAdapter[_Line]:
    from pydantic import TypeAdapter

    return TypeAdapter(_Line)


def _read(line: bytes) -> StoredEntry:
    from pydantic import ValidationError

    try:
        found = _adapter().validate_json(line)
        vectors = _floats(found.vectors).reshape(-1, found.dimension)
        heading = None if found.heading is None else _floats(found.heading).reshape(found.dimension)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))[:80]} of a section: {first['msg']}") from None
    if not len(vectors) or not found.section.added_at.tzinfo:
        raise ValueError("a section has no vector, or a time without its zone")
    return StoredEntry(Entry(found.section, vectors, heading), found.encoder)


def _written(vectors: NDArray[np.float32]) -> str:
    return b64encode(np.ascontiguousarray(vectors, _FLOATS).tobytes()).decode()


def _floats(text: str) -> NDArray[np.float32]:
    found = np.frombuffer(b64decode(text, validate=True), _FLOATS).astype(np.float32)
    if not np.isfinite(found).all():
        raise ValueError("a vector has a number that is not finite")
    return found
