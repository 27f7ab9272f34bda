"""The vector database as the rest of the program sees it: sections, the store that keeps them, and the source.

The scores of rankings by vectors and by words do not compare; reciprocal rank fusion makes one ranking of their ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from rlhf_loop.domain import Passage
from rlhf_loop.encoders import TextEncoder, Vectors
from rlhf_loop.encoders.runtime import same_model
from rlhf_loop.errors import VectorStoreError
from rlhf_loop.reward import lexical

Mode = Literal["hybrid", "vector", "text"]
#: Ids of sections with their scores, best first.
Ranking = list[tuple[str, float]]

#: Languages whose stems both databases know.
LANGUAGES = (
    "arabic",
    "danish",
    "dutch",
    "english",
    "finnish",
    "french",
    "german",
    "greek",
    "hungarian",
    "italian",
    "norwegian",
    "portuguese",
    "romanian",
    "russian",
    "spanish",
    "swedish",
    "tamil",
    "turkish",
)
#: The constant of the paper: how little the first ranks differ from those behind them.
K = 60
#: Places of each ranking that are looked at, if not more are wanted. More changed nothing on MedQuAD.
DEPTH = 50
#: Sections that are looked at for each that is wanted: several of the best may be of one document.
_SPARE = 4


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
class Entry:
    """A section to keep, with the unit vectors of its passages, shape (passages, dimension).

    `heading` is the vector of the document's title, by which its first section can be found as well.
    """

    section: Section
    vectors: Vectors
    heading: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """An entry as it is kept: its vectors are by the encoder of that id."""

    entry: Entry
    encoder: str


@dataclass(frozen=True, slots=True)
class Hit:
    """A section that was found, with the vectors of its passages, as in `Entry`, by the encoder of that id.

    More `score` is better; scores of different modes do not compare.
    """

    section: Section
    vectors: Vectors
    encoder: str
    score: float


@dataclass(frozen=True, slots=True)
class SourceCount:
    """The number of documents and sections of one source."""

    source: str
    documents: int
    sections: int


class VectorStore(Protocol):
    """A store that keeps sections and finds them again, by vectors, by words, or by both.

    Safe to share between threads. Several processes may read and write at once. Whatever fails is a `VectorStoreError`.
    """

    def encoders(self) -> list[str]:
        """Return the ids of all encoders that made the vectors, sorted: precisions of one model."""

    def add(self, entries: Sequence[Entry], *, encoder: str) -> None:
        """Keep the sections, all or none; one that is there already is replaced.

        All sections of a document come together. The vectors of another model than those that are there are refused;
        another precision of the same model is kept beside.
        """

    def known(self, documents: Collection[str], *, encoder: str | None = None) -> set[str]:
        """Return those of the documents that are there; with `encoder` only those with vectors of this very one."""

    def search(self, query: str, vector: NDArray[np.float32], *, limit: int, mode: Mode = "hybrid") -> list[Hit]:
        """Return the best sections for a question, given with its unit vector, shape (dimension,).

        By words, any of them counts. By vectors, a section is as near as the nearest of its passages, or its heading.
        """

    def delete(self, source: str, *, keep: Collection[str] = ()) -> int:
        """Forget all of a source but the documents to `keep`; return how many documents went."""

    def sources(self) -> list[SourceCount]:
        """Count what is there, by source in alphabetical order."""

    def texts(self, *, limit: int, titled: bool) -> list[tuple[str, str]]:
        """Return title and text of so many sections at most: the `titled` alone, or all, with "" for no title."""

    def everything(self) -> Iterator[list[StoredEntry]]:
        """Return all that is there, in batches, as it is at one moment; others may write meanwhile."""

    def replace(self, batches: Iterable[Sequence[StoredEntry]]) -> None:
        """Keep these in place of all that is there, all or none, and make searches fast.

        Batches are not empty, and all vectors are of one model.
        """

    def optimize(self) -> None:
        """Make searches fast after many sections were added or deleted. What is new is found before that, too.

        Where the store has another language than before, the words of all sections are indexed anew.
        """

    def close(self) -> None:
        """Let go of files and connections; the next use opens them again."""


def refuse_other_dimension(encoders: Sequence[str], dimension: int) -> None:
    """Refuse a search by a vector of another length than those of the encoders that are there; none may be there.

    Raises:
        VectorStoreError: some are.
    """
    if encoders:
        raise VectorStoreError(
            f"The index holds vectors of {' and '.join(encoders)}, which do not compare with those of {dimension} "
            f"numbers of the encoder in use. {_way_out(encoders[0])}"
        )


def refuse_other_model(encoders: Iterable[str], encoder: str) -> None:
    """Check that vectors of `encoder` may stand beside those of the encoders that are there.

    Raises:
        VectorStoreError: they are of different models.
    """
    for there in encoders:
        if not same_model(there, encoder):
            raise VectorStoreError(
                f"The index holds vectors of {there}; those of {encoder} do not compare with them. {_way_out(there)}"
            )


def _way_out(there: str) -> str:
    return (
        f"Use that encoder (RLHF_ENCODER={there.partition('/')[0]}), or delete all sources (rlhf-loop index list, "
        "rlhf-loop index delete SOURCE) and add the files again (rlhf-loop index add PATH)."
    )


def ranked(
    mode: Mode, limit: int, *, by_vector: Callable[[int], Ranking], by_words: Callable[[int], Ranking]
) -> Ranking:
    """Return the ids of the best sections with their scores, by one of the rankings of so many or by both, fused."""
    if mode == "vector":
        return by_vector(limit)
    if mode == "text":
        return by_words(limit)
    rankings = (ranking(max(limit, DEPTH)) for ranking in (by_vector, by_words))
    return reciprocal_rank_fusion([[name for name, _ in ranking] for ranking in rankings])[:limit]


def reciprocal_rank_fusion(rankings: Sequence[Sequence[str]], *, k: int = K) -> Ranking:
    """Return all ids with the sum of 1 / (k + rank) over the rankings, best first; ranks count from 1.

    Cormack, Clarke, Büttcher 2009, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning Methods".
    Of equal sums the one that stands in an earlier ranking comes first.
    """
    scores: dict[str, float] = {}
    for ranking in rankings:
        for rank, name in enumerate(dict.fromkeys(ranking), start=1):
            scores[name] = scores.get(name, 0.0) + 1 / (k + rank)
    return sorted(scores.items(), key=lambda pair: -pair[1])


class IndexSource:
    """The vector database as a source: sections of indexed files, found by vectors and words together.

    The vectors of what it finds need not be computed again.
    """

    name = "index"

    def __init__(self, store: VectorStore, encoder: TextEncoder) -> None:
        self._store = store
        self._encoder = encoder

    def search(self, query: str, *, limit: int) -> Sequence[Passage]:
        """Return at most `limit` sections, best first; none where nothing is indexed.

        Each is of another document, its best; further ones of the same stand behind where there are not enough.

        Raises:
            VectorStoreError: the index cannot be used, or holds vectors of another model.
        """
        # Ranking looks at all of these: in one batch they take little longer than the question alone.
        parts = lexical.question_parts(query, self._encoder.language)
        vector = self._encoder.encode_whole([text for part in parts for text in part])[0]
        hits = self._store.search(query, vector, limit=_SPARE * limit)
        refuse_other_model({hit.encoder for hit in hits}, self._encoder.id)
        best = _diverse(hits)[:limit]
        # Those of another precision would give the score that they give, not the one that this encoder gives.
        lent = [hit for hit in best if hit.encoder == self._encoder.id]
        self._encoder.lend_passages([hit.section.text for hit in lent], [hit.vectors for hit in lent])
        return [_passage(hit) for hit in best]

    @property
    def needs_database(self) -> bool:
        """True where the index is in the ratings database."""
        return getattr(self._store, "needs_database", False)

    @property
    def cold(self) -> bool:
        """True while there is an index that was not there at the start: its first search loads the database first."""
        return getattr(self._store, "cold", False)

    def warm_up(self) -> None:
        """Open the index and load what a search needs."""
        self.search("Is it warm?", limit=1)


def _diverse(hits: Sequence[Hit]) -> list[Hit]:
    """Put the best section of each document first, and the others behind; the same text stands there once."""
    different = {hit.section.text: hit for hit in reversed(hits)}
    first: dict[str, Hit] = {}
    others = []
    for hit in reversed(different.values()):
        if first.setdefault(hit.section.document, hit) is not hit:
            others.append(hit)
    return [*first.values(), *others]


def _passage(hit: Hit) -> Passage:
    section = hit.section
    return Passage(
        text=section.text,
        title=section.title,
        url=section.url,
        licence=section.licence,
        retrieved_at=section.added_at,
        whole=True,
    )
