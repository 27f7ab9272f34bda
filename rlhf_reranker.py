"""Re-ranking: `from rlhf_reranker import rerank_candidates`, and `python rlhf_reranker.py` for an example."""

from rlhf_loop.ranking import rerank_candidates

__all__ = ["rerank_candidates"]

if __name__ == "__main__":
    from rlhf_loop.cli import main

    main(["rerank"])
