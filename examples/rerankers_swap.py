"""The package rerankers: the live model in the place of any other ranker that it offers.

.venv/bin/pip install --editable '.[rerankers]'
.venv/bin/python examples/rerankers_swap.py    # after make demo
"""

from __future__ import annotations

from rlhf_loop import sample
from rlhf_loop.adapters.rerankers import RlhfReranker

ranker = RlhfReranker()  # before: Reranker("cross-encoder")

if __name__ == "__main__":
    results = ranker.rank(sample.QUESTION, [candidate["text"] for candidate in sample.CANDIDATES])
    for result in results.top_k(2):
        print(f"{result.rank}. {result.score:.2f}  {result.text}")
