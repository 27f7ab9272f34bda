"""The vector database as a source of candidates: sections of the files that somebody indexed."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf_loop.domain import Passage
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.sources.index.store import Hit, VectorStore, refuse_other_model

#: Sections that are looked at for each that is wanted: several of the best may be of one document.
_SPARE = 4


class VectorDatabase:
    """Finds sections by vectors and words together; the vectors of what it finds need not be computed again."""

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
        vector = self._encoder.encode_whole([query])[0]
        hits = self._store.search(query, vector, limit=_SPARE * limit)
        for encoder in {hit.encoder for hit in hits}:
            refuse_other_model(encoder, self._encoder.id)
        best = _diverse(hits)[:limit]
        # Those of another precision would give the score that they give, not the one that this encoder gives.
        lent = [hit for hit in best if hit.encoder == self._encoder.id]
        self._encoder.lend_passages([hit.section.text for hit in lent], [hit.vectors for hit in lent])
        return [_passage(hit) for hit in best]

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
