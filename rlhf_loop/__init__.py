"""RLHF Loop: expert ratings become a reward model that puts the best answer first."""

from rlhf_loop.config import Settings
from rlhf_loop.errors import RlhfLoopError
from rlhf_loop.ranking import Ranker, rerank_candidates
from rlhf_loop.version import __version__

__all__ = ["Ranker", "RlhfLoopError", "Settings", "__version__", "rerank_candidates"]
