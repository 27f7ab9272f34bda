"""A query engine of LlamaIndex: a retriever finds nodes, the live model puts the best first, a language model answers.

    .venv/bin/pip install --editable '.[llama-index]'
    .venv/bin/python examples/llama_index_engine.py    # after make demo

The retriever and the language model are stand-ins that need no network: put yours in their place.
"""

from __future__ import annotations

from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from rlhf_loop import sample
from rlhf_loop.adapters.llama_index import RlhfReranker


class Shelf(BaseRetriever):
    """Finds the same few nodes, whatever the question."""

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return [NodeWithScore(node=TextNode(text=candidate["text"]), score=0.5) for candidate in sample.CANDIDATES]


engine = RetrieverQueryEngine.from_args(
    Shelf(),
    llm=MockLLM(),  # repeats its prompt
    node_postprocessors=[RlhfReranker(top_n=1)],
)

if __name__ == "__main__":
    response = engine.query(sample.QUESTION)
    for node in response.source_nodes:
        print(f"{node.score:.2f}  {node.text}")
