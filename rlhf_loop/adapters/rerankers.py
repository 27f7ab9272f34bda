"""The live model as a ranker of the package rerankers, beside the ones that it brings."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any, TypeAlias

from rlhf_loop.adapters.ranked import Fallback, checked, ranked
from rlhf_loop.ranking import Ranker
from rlhf_loop.utils.extras import require

require("rerankers", "rerankers")  # before the imports, which would only name a module

from rerankers.documents import Document  # noqa: E402
from rerankers.models.ranker import BaseRanker  # noqa: E402
from rerankers.results import RankedResults, Result  # noqa: E402

Docs: TypeAlias = str | Document | Sequence[str | Document]
Ids: TypeAlias = Sequence[str] | Sequence[int] | str | int


class RlhfReranker(BaseRanker):  # type: ignore[misc]  # the package has no types
    """A reranker that puts the best document first, by the model that is live at that moment.

    Documents that are passed in stay as they are. One without text (a picture) has the score 0 and comes last. Where
    the ranking is recorded, a result's `document.metadata["interaction_id"]` is the id to rate it by.

    Without a `ranker` it is the process's own, made from the environment's `RLHF_*` variables. While there is no model,
    `without_model` "error" raises a `ModelFileError`; with "incoming" the results have ranks in the incoming order and
    no scores.
    """

    def __init__(self, *, ranker: Ranker | None = None, without_model: Fallback = "error") -> None:
        checked(top=None, threshold=None, without_model=without_model)
        self.ranker = ranker
        self.without_model = without_model

    def rank(
        self,
        query: str,
        docs: Docs,
        doc_ids: Ids | None = None,
        metadata: Sequence[Mapping[str, Any]] | Mapping[str, Any] | None = None,
    ) -> RankedResults:
        """Return all documents, best first; see `rlhf_loop.adapters.ranked.ranked` for the errors.

        Without `doc_ids`, documents keep theirs, and the others get their places, from 0.

        Raises:
            ValueError: besides, `doc_ids` or `metadata` are not as many as the documents.
        """
        documents = _documents(docs, doc_ids, metadata)
        texts = [document.text for document in documents]
        kept = ranked(query, texts, ranker=self.ranker, without_model=self.without_model, door="rerankers")
        for each in kept:
            documents[each.index].metadata |= each.named
        results = [Result(documents[each.index], score=each.score, rank=rank) for rank, each in enumerate(kept, 1)]
        return RankedResults(results, query, has_scores=all(each.score is not None for each in kept))

    async def rank_async(
        self,
        query: str,
        docs: Docs,
        doc_ids: Ids | None = None,
        metadata: Sequence[Mapping[str, Any]] | Mapping[str, Any] | None = None,
    ) -> RankedResults:
        """Do what `rank` does in a thread, so that the event loop goes on."""
        return await asyncio.to_thread(self.rank, query, docs, doc_ids, metadata)

    def score(self, query: str, doc: str) -> float:
        """Return the score of one text. The model compares candidates, so rank them together where there are several.

        Raises:
            ModelFileError: there is no usable model; the incoming order has no score.
        """
        (only,) = ranked(query, [doc], ranker=self.ranker, without_model="error")
        assert only.score is not None
        return only.score


def _documents(
    docs: Docs, doc_ids: Ids | None, metadata: Sequence[Mapping[str, Any]] | Mapping[str, Any] | None
) -> list[Document]:
    # Not the package's own prep_docs: it writes into documents, prints, and has no answer to an empty list.
    given = [docs] if isinstance(docs, str | Document) else list(docs)
    ids = [doc_ids] if isinstance(doc_ids, str | int) else doc_ids
    notes = [metadata] if isinstance(metadata, Mapping) else metadata
    for name, each in (("doc_ids", ids), ("metadata", notes)):
        if each is not None and len(each) != len(given):
            raise ValueError(f"There are {len(given)} documents and {len(each)} {name}. Give one for each, or None.")
    documents = [Document(doc) if isinstance(doc, str) else copy(doc) for doc in given]
    for place, document in enumerate(documents):
        if ids is not None and ids[place] is not None:
            document.doc_id = ids[place]
        elif document.doc_id is None:
            document.doc_id = place
        document.metadata = dict(document.metadata if notes is None or notes[place] is None else notes[place])
    return documents
