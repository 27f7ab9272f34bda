"""The live model as a document compressor of LangChain, for its contextual compression retriever and for chains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ConfigDict, Field

from rlhf_loop.adapters.ranked import Fallback, RankedText, ranked
from rlhf_loop.ranking import Ranker
from rlhf_loop.utils.extras import require

require("langchain_core.documents", "langchain")  # before the imports, which would only name a module

from langchain_core.callbacks import Callbacks  # noqa: E402
from langchain_core.documents import BaseDocumentCompressor, Document  # noqa: E402


class RlhfReranker(BaseDocumentCompressor):
    """A reranker that puts the best document first, by the model that is live at that moment.

    Documents come back as copies with their score in `metadata["relevance_score"]`, and where the ranking is recorded
    with the id to rate them by in `metadata["interaction_id"]`. `acompress_documents` ranks in a thread, so that the
    event loop goes on.

    Without a `ranker` it is the process's own, made from the environment's `RLHF_*` variables. `top_n` None keeps all;
    `score_threshold` keeps what is at least as likely to be rated 4 or 5. While there is no model, `without_model`
    "error" raises a `ModelFileError`, and "incoming" keeps the documents' order, with the score None.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    top_n: int | None = Field(default=None, ge=1)
    score_threshold: float | None = Field(default=None, ge=0, le=1)
    without_model: Fallback = "error"
    ranker: Ranker | None = Field(default=None, exclude=True, repr=False)

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Return the documents that are kept, best first; see `rlhf_loop.adapters.ranked.ranked` for the errors."""
        kept = ranked(
            query,
            [document.page_content for document in documents],
            ranker=self.ranker,
            top=self.top_n,
            threshold=self.score_threshold,
            without_model=self.without_model,
            door="langchain",
        )
        return [_scored(documents[each.index], each) for each in kept]


def _scored(document: Document, found: RankedText) -> Document:
    metadata: dict[str, Any] = {**document.metadata, "relevance_score": found.score, **found.named}
    return document.model_copy(update={"metadata": metadata})
