"""RLHF Loop: expert ratings become a reward model that puts the best answer first.

The names listed here are the public interface for Python, and stay; everything else may move. docs/RLHF_PYTHON.md
shows them at work. Deliberate errors are `RlhfLoopError`s; a bad argument is a `ValueError`, an unknown id a
`LookupError`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rlhf_loop.config import Settings
from rlhf_loop.domain import Candidate, Rating
from rlhf_loop.errors import RlhfLoopError
from rlhf_loop.ranking import Ranker, rerank_candidates
from rlhf_loop.version import __version__

if TYPE_CHECKING:
    from rlhf_loop.exchange.bulk_scoring import score_dataset
    from rlhf_loop.exchange.transfer import export_ratings, import_ratings
    from rlhf_loop.registry.contest import compare_models
    from rlhf_loop.registry.promotion import promote as promote_model
    from rlhf_loop.registry.promotion import rollback as rollback_model
    from rlhf_loop.registry.training_run import run_training as train
    from rlhf_loop.registry.versions import versions as model_versions
    from rlhf_loop.store.engine import open_database
    from rlhf_loop.store.interactions import rate, record

__all__ = [
    "Candidate",
    "Ranker",
    "Rating",
    "RlhfLoopError",
    "Settings",
    "__version__",
    "compare_models",
    "export_ratings",
    "import_ratings",
    "model_versions",
    "open_database",
    "promote_model",
    "rate",
    "record",
    "rerank_candidates",
    "rollback_model",
    "score_dataset",
    "train",
]

#: What only some need, and what would keep all others waiting at the import: where it is.
_LATER = {
    "compare_models": "rlhf_loop.registry.contest:compare_models",
    "export_ratings": "rlhf_loop.exchange.transfer:export_ratings",
    "import_ratings": "rlhf_loop.exchange.transfer:import_ratings",
    "model_versions": "rlhf_loop.registry.versions:versions",
    "open_database": "rlhf_loop.store.engine:open_database",
    "promote_model": "rlhf_loop.registry.promotion:promote",
    "rate": "rlhf_loop.store.interactions:rate",
    "record": "rlhf_loop.store.interactions:record",
    "rollback_model": "rlhf_loop.registry.promotion:rollback",
    "score_dataset": "rlhf_loop.exchange.bulk_scoring:score_dataset",
    "train": "rlhf_loop.registry.training_run:run_training",
}

if not TYPE_CHECKING:  # or type checkers would take any name for one that is there

    def __getattr__(name: str) -> Any:
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module, _, attribute = _LATER[name].partition(":")
        value = globals()[name] = getattr(import_module(module), attribute)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
