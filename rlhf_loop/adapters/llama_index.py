"""The live model as a node postprocessor of LlamaIndex, for query engines and retrievers."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field

from rlhf_loop.adapters.ranked import Fallback, RankedText, ranked
from rlhf_loop.ranking import Ranker
from rlhf_loop.utils.extras import require

require("llama_index.core", "llama-index")  # before the imports, which would only name a module

from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]  # noqa: E402
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent  # noqa: E402
from llama_index.core.postprocessor.types import BaseNodePostprocessor  # noqa: E402
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle  # noqa: E402

dispatcher = get_dispatcher(__name__)


class RlhfReranker(BaseNodePostprocessor):
    """A reranker that puts the best node first, by the model that is live at that moment.

    What is ranked is a node's text without its metadata. Nodes come back in new `NodeWithScore`s, and where the ranking
    is recorded as copies with the id to rate them by in `metadata["interaction_id"]`.
    `apostprocess_nodes` ranks in a thread, so that the event loop goes on.

    Without a `ranker` it is the process's own, made from the environment's `RLHF_*` variables. `top_n` None keeps all;
    `score_threshold` keeps what is at least as likely to be rated 4 or 5. While there is no model, `without_model`
    "error" raises a `ModelFileError`, and "incoming" keeps the nodes as they came, scores included.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    top_n: int | None = Field(default=None, ge=1)
    score_threshold: float | None = Field(default=None, ge=0, le=1)
    without_model: Fallback = "error"
    ranker: Ranker | None = Field(default=None, exclude=True, repr=False)

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex writes it down."""
        return "RlhfReranker"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise ValueError("There is no query to rank nodes for. Pass query_bundle, or query_str.")
        top = len(nodes) if self.top_n is None else self.top_n
        dispatcher.event(ReRankStartEvent(query=query_bundle, nodes=nodes, top_n=top, model_name="rlhf-loop"))
        kept = ranked(
            query_bundle.query_str,
            [each.node.get_content(metadata_mode=MetadataMode.NONE) for each in nodes],
            ranker=self.ranker,
            top=self.top_n,
            threshold=self.score_threshold,
            without_model=self.without_model,
            door="llama-index",
        )
        found = [_scored(nodes[each.index], each) for each in kept]
        dispatcher.event(ReRankEndEvent(nodes=found))
        return found

    def __getstate__(self) -> dict[str, Any]:
        if self.ranker is not None:
            # LlamaIndex would leave out what cannot be pickled, and another process would rank by another model.
            raise TypeError(
                "A reranker with a ranker of its own cannot be sent to another process. Make it there, or leave the "
                "ranker out and set RLHF_* variables."
            )
        return super().__getstate__()


def _scored(node: NodeWithScore, found: RankedText) -> NodeWithScore:
    own = node.node
    if found.named:
        own = own.model_copy(update={"metadata": {**own.metadata, **found.named}})
    return NodeWithScore(node=own, score=node.score if found.score is None else found.score)
