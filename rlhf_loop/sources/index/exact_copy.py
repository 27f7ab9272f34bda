"""Exact search of a small index: a copy of its sections and vectors in one mapped file, which all processes share.

The index itself has everything; the copy may be deleted at any time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rlhf_loop.encoders import Vectors
from rlhf_loop.sources.index.store import Hit, Ranking, Section
from rlhf_loop.utils.arrays import Ints
from rlhf_loop.utils.files import whole_file

if TYPE_CHECKING:
    import pyarrow as pa

#: Bytes of vectors up to which all of them are compared: some 40,000, of 10,000 sections.
MOST_BYTES = 64 * 1024**2


class NoCopyError(Exception):
    """The index is empty, or its vectors are too many to compare all of them."""


@dataclass(frozen=True, slots=True)
class _Part:
    """Sections of the file: `starts` has each one's first vector and, at its end, how many vectors there are."""

    columns: Mapping[str, Any]
    vectors: Vectors
    starts: Ints

    def hit(self, row: int, score: float) -> Hit:
        values = {name: column[row].as_py() for name, column in self.columns.items()}
        first, encoder = self.starts[row] + values.pop("headings"), values.pop("encoder")
        return Hit(Section(**values), self.vectors[first : self.starts[row + 1]], encoder, score)


class ExactCopy:
    """The copy in a file, opened. Safe to share between threads; of what is in it, each process has the ids in memory.

    Raises:
        OSError, ValueError: there is no such file, or it is damaged.
    """

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        with pa.memory_map(str(path)) as source:
            reader = pa.ipc.open_file(source)
            self._parts = [_part(reader.get_batch(number)) for number in range(reader.num_record_batches)]
        places = ((part, row) for part in self._parts for row in range(len(part.starts) - 1))
        self._places = {part.columns["id"][row].as_py(): (part, row) for part, row in places}
        self._ids = list(self._places)

    def nearest(self, vector: NDArray[np.float32], depth: int) -> Ranking:
        """Return the ids of the sections whose nearest vector is nearest to a unit vector, with its cosine."""
        # Not by BLAS, which would share the product among threads that wait for each other (see `reward/recipes.py`).
        nearest = [
            np.maximum.reduceat(np.einsum("vd,d->v", part.vectors, vector), part.starts[:-1]) for part in self._parts
        ]
        scores = np.concatenate(nearest)
        best = np.argsort(-scores, kind="stable")[:depth]
        return [(self._ids[place], float(scores[place])) for place in best.tolist()]

    def hits(self, ranking: Ranking) -> dict[str, Hit]:
        """Return those of the sections that are in the copy, by their ids."""
        places = ((name, self._places.get(name), score) for name, score in ranking)
        return {name: place[0].hit(place[1], score) for name, place, score in places if place is not None}


def is_copy(path: Path) -> bool:
    """Tell whether the file is there, and can be opened."""
    try:
        ExactCopy(path)
    except (OSError, ValueError):
        return False
    return True


def write_copy(path: Path, batches: Iterable[pa.RecordBatch], *, most_bytes: int) -> None:
    """Write the file that `ExactCopy` opens, whole or not at all; each section has a vector at least.

    Raises:
        NoCopyError: there is no section, or the vectors take more bytes.
        OSError, ValueError: it cannot be written.
    """
    import pyarrow as pa

    size, writer = 0, None
    with whole_file(path) as file:
        for batch in batches:
            size += batch["vectors"].flatten().flatten().nbytes
            if size > most_bytes:
                break
            writer = writer or pa.ipc.new_file(file, batch.schema)
            writer.write_batch(batch)
        if writer is None or size > most_bytes:
            raise NoCopyError
        writer.close()


def _part(batch: pa.RecordBatch) -> _Part:
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    lists = columns.pop("vectors")
    numbers = lists.flatten()
    vectors = numbers.flatten().to_numpy(zero_copy_only=True).reshape(-1, numbers.type.list_size)
    return _Part(columns, vectors, np.cumsum([0, *lists.value_lengths().to_pylist()]))
