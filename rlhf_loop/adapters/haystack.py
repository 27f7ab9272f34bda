"""The live model as a ranker component of Haystack's pipelines."""

# No "from __future__ import annotations": Haystack 2 reads the types of run as they stand.

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

from rlhf_loop.adapters.ranked import Fallback, RankedText, checked, ranked
from rlhf_loop.errors import ModelFileError
from rlhf_loop.ranking import Ranker, default_ranker
from rlhf_loop.utils.extras import require

require("haystack", "haystack")  # before the imports, which would only name a module

from haystack import Document, component, default_from_dict, default_to_dict  # noqa: E402


@component
class RlhfReranker:
    """A reranker that puts the best document first, by the model that is live at that moment.

    As with Haystack's own rankers, documents with the same id count once: the one with the higher score stays. One
    without text (a picture) has the score 0 and comes last. Documents come back as copies with their new score, and
    where the ranking is recorded with the id to rate them by in `meta["interaction_id"]`.

    Without a `ranker` it is the process's own, made from the environment's `RLHF_*` variables; only then can a pipeline
    be saved. `top_k` None keeps all; `score_threshold` keeps what is at least as likely to be rated 4 or 5. While there
    is no model, `without_model` "error" raises a `ModelFileError`, and "incoming" keeps the documents as they came.
    """

    def __init__(
        self,
        *,
        top_k: int | None = None,
        score_threshold: float | None = None,
        without_model: Fallback = "error",
        ranker: Ranker | None = None,
    ) -> None:
        checked(top=top_k, threshold=score_threshold, without_model=without_model)
        self.top_k = top_k
        self.score_threshold = score_threshold
        self.without_model = without_model
        self.ranker = ranker

    def warm_up(self) -> None:
        """Load the model and its encoder, so that the first question need not wait; without a model nothing happens.

        Raises:
            ModelFileError: there is a model that cannot be used, and `without_model` is "error".
        """
        try:
            _ = (self.ranker or default_ranker()).model_version
        except ModelFileError:
            if self.without_model == "error":
                raise

    @component.output_types(documents=list[Document])
    def run(
        self, query: str, documents: list[Document], top_k: int | None = None, score_threshold: float | None = None
    ) -> dict[str, list[Document]]:
        """Return `documents`, best first; `top_k` and `score_threshold` go before those of the component.

        See `rlhf_loop.adapters.ranked.ranked` for the errors.
        """
        given = _once_each(documents)
        kept = ranked(
            query,
            [document.content for document in given],
            ranker=self.ranker,
            top=self.top_k if top_k is None else top_k,
            threshold=self.score_threshold if score_threshold is None else score_threshold,
            without_model=self.without_model,
            door="haystack",
        )
        return {"documents": [_scored(given[each.index], each) for each in kept]}

    @component.output_types(documents=list[Document])
    async def run_async(
        self, query: str, documents: list[Document], top_k: int | None = None, score_threshold: float | None = None
    ) -> dict[str, list[Document]]:
        """Do what `run` does in a thread, so that the event loop goes on."""
        return await asyncio.to_thread(self.run, query, documents, top_k, score_threshold)

    def to_dict(self) -> dict[str, Any]:
        """Return what a saved pipeline keeps.

        Raises:
            ValueError: it has a ranker of its own, which no file can hold.
        """
        if self.ranker is not None:
            raise ValueError(
                "A reranker with a ranker of its own cannot be saved in a pipeline. Leave the ranker out, and set "
                "RLHF_* variables where the pipeline runs."
            )
        return default_to_dict(
            self, top_k=self.top_k, score_threshold=self.score_threshold, without_model=self.without_model
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Make it again from what `to_dict` returned."""
        return default_from_dict(cls, data)


def _once_each(documents: Sequence[Document]) -> list[Document]:
    """Keep of the documents with one id the one with the highest score, in the place of the first."""
    found: dict[str, Document] = {}
    for document in documents:
        before = found.get(document.id)
        if before is None or _score(document) > _score(before):
            found[document.id] = document
    return list(found.values())


def _score(document: Document) -> float:
    return float("-inf") if document.score is None else document.score


def _scored(document: Document, found: RankedText) -> Document:
    score = document.score if found.score is None else found.score
    if found.score is None and not found.named:
        return document
    return replace(document, score=score, meta={**document.meta, **found.named})
