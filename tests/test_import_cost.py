from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

HEAVY = (
    "torch",
    "sklearn",
    "scipy",
    "numpy",
    "onnxruntime",
    "onnx",
    "matplotlib",
    "flask",
    "joblib",
    "pyarrow",
    "lancedb",
    "httpx2",
    "pydantic",
)


@pytest.mark.parametrize(
    "module", ["rlhf_loop", "rlhf_reranker", "rlhf_loop.cli", "rlhf_loop.sources", "rlhf_loop.adapters.ranked"]
)
def test_an_import_loads_nothing_heavy(module: str) -> None:
    """Whoever imports the package, the re-ranker or the command line waits for no library that does arithmetic."""
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {name.partition(".")[0] for name in loaded} & {*HEAVY, "sentence_transformers", "sqlalchemy"} == set()


@pytest.mark.parametrize(
    "name",
    [
        "rlhf_loop",
        "rlhf_loop.answering",
        "rlhf_loop.encoders",
        "rlhf_loop.sources.index",
        "rlhf_loop.reviewing",
        "rlhf_loop.reward",
        "rlhf_loop.sources",
        "rlhf_loop.web",
    ],
)
def test_what_a_package_offers(name: str) -> None:
    """`__all__` is sorted (constants first, as ruff wants it), without repetitions, and each name in it is there."""
    package = importlib.import_module(name)
    assert list(package.__all__) == sorted(set(package.__all__), key=lambda name: (not name.isupper(), name))
    for offered in package.__all__:
        assert getattr(package, offered) is not None
