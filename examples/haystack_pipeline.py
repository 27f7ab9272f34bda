"""A pipeline of Haystack: BM25 finds documents, the live model puts the best first, a prompt is made of them.

    .venv/bin/pip install --editable '.[haystack]'
    .venv/bin/python examples/haystack_pipeline.py    # after make demo

Behind the prompt comes a generator of yours.
"""

from __future__ import annotations

import os

# Haystack tells its makers of each pipeline that runs, unless this is set before it is imported.
os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "False")

from haystack import Document, Pipeline
from haystack.components.builders import PromptBuilder
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
from haystack.document_stores.in_memory import InMemoryDocumentStore

from rlhf_loop import sample
from rlhf_loop.adapters.haystack import RlhfReranker

TEMPLATE = """Answer from these only:
{% for document in documents %}
({{ "%.2f" | format(document.score) }}) {{ document.content }}
{% endfor %}
Question: {{ query }}"""

store = InMemoryDocumentStore()
store.write_documents([Document(content=candidate["text"]) for candidate in sample.CANDIDATES])

pipeline = Pipeline()
pipeline.add_component("retriever", InMemoryBM25Retriever(store, top_k=10))
pipeline.add_component("reranker", RlhfReranker(top_k=2))
pipeline.add_component("prompt", PromptBuilder(TEMPLATE, required_variables="*"))
pipeline.connect("retriever.documents", "reranker.documents")
pipeline.connect("reranker.documents", "prompt.documents")

if __name__ == "__main__":
    question = {"query": sample.QUESTION}
    found = pipeline.run({"retriever": question, "reranker": question, "prompt": question})
    print(found["prompt"]["prompt"])
