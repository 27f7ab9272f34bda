"""What a vector database has to do, and what it keeps: sections of documents with the vectors of their passages."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from rlhf_loop.encoders import Vectors

Mode = Literal["hybrid", "vector", "text"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A stretch of whole sentences of a document: what is found, ranked and shown.

    `document` is the sha256 of the document's content and source, `id` that of the document and `number`, from 0.
    """

    id: str
    document: str
    number: int
    source: str
    text: str
    title: str | None
    url: str | None
    licence: str | None
    added_at: datetime


@dataclass(frozen=True, slots=True)
class Hit:
    """A section that was found, with the unit vectors of its passages, shape (passages, 384); more `score` is better."""

    section: Section
    vectors: Vectors
    score: float


@dataclass(frozen=True, slots=True)
class SourceCount:
    """How much of one source is indexed."""

    source: str
    documents: int
    sections: int


class VectorStore(Protocol):
    """Keeps sections and finds them again, by vectors, by words, or by both. Safe to share between threads.

    Several processes may read while one writes. Whatever fails is a `VectorStoreError`.
    """

    @property
    def encoder(self) -> str | None:
        """The id of the encoder that made the vectors, None while it is empty."""

    def add(self, sections: Sequence[Section], vectors: Sequence[Vectors]) -> None:
        """Keep the sections, all or none; one that is there already is replaced."""

    def known(self, documents: Collection[str]) -> set[str]:
        """Return those of the documents that are there."""

    def search(self, query: str, vector: NDArray[np.float32], *, limit: int, mode: Mode = "hybrid") -> list[Hit]:
        """Return the best sections for a question, given with its unit vector, shape (384,)."""

    def delete(self, source: str) -> int:
        """Forget all of a source; return how many documents that were."""

    def sources(self) -> list[SourceCount]:
        """Count what is there, by source in alphabetical order."""

    def optimize(self) -> None:
        """Make searches fast after many sections were added or deleted."""
