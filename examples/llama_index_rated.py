"""A query engine of LlamaIndex on the served model: nodes are ranked over HTTP, and rated with the answer made of them.

    pip install llama-index-core httpx
    LOOP_URL=http://127.0.0.1:8000 LOOP_TOKEN=rlhf_... python llama_index_rated.py

The token needs the scopes rerank, reviews:write and interactions:write, and --record 1. The retriever and the language
model are stand-ins that need no network. In the service's own process, `rlhf_loop.adapters.llama_index` does the same.
"""

from __future__ import annotations

import os

import httpx
from llama_index.core.llms import MockLLM
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

service = httpx.Client(
    base_url=os.environ["LOOP_URL"], headers={"Authorization": f"Bearer {os.environ['LOOP_TOKEN']}"}, timeout=60
)
TEXTS = [
    "Wasps like jam.",
    "Pull the tick out slowly with tweezers, then clean the skin.",
    "Burn the tick with a match.",
]


class Shelf(BaseRetriever):
    """Finds the same few nodes, whatever the question."""

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return [NodeWithScore(node=TextNode(text=text), score=0.5) for text in TEXTS]


class Reranker(BaseNodePostprocessor):
    """Keeps the best two nodes, each with the ranking's id and its index there."""

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query = query_bundle.query_str if query_bundle else ""
        asked = {"query": query, "documents": [each.node.get_content() for each in nodes], "top_n": 2}
        found = service.post("/v1/rerank", json=asked).raise_for_status()
        for each in found.json()["results"]:
            place = {"ranking": found.headers["X-RLHF-Ranking-Id"], "index": each["index"]}
            nodes[each["index"]].node.metadata.update(place)
        return [
            NodeWithScore(node=nodes[at["index"]].node, score=at["relevance_score"]) for at in found.json()["results"]
        ]


if __name__ == "__main__":
    engine = RetrieverQueryEngine.from_args(Shelf(), llm=MockLLM(max_tokens=40), node_postprocessors=[Reranker()])
    response = engine.query("How do I remove a tick?")
    for node in response.source_nodes:
        print(f"{node.score:.2f}  {node.node.get_content()}")
    best = response.source_nodes[0].node.metadata
    for said in ({"index": best["index"], "rating": 5}, {"answer": str(response), "thumb": "up"}):
        service.post(
            "/v1/feedback", json={"ranking": best["ranking"], "reviewer": "patient-7", **said}
        ).raise_for_status()
    print("Rated.")
