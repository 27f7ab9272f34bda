from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from rlhf_loop.encoders import Vectors
from rlhf_loop.encoders.onnx_runtime import BATCH_TOKENS, OnnxRuntime
from rlhf_loop.encoders.runtime import abilities

DATA = Path(__file__).parents[1] / "data"
TEXTS: dict[str, str] = json.loads((DATA / "reference_texts.json").read_text())["texts"]


@pytest.fixture(scope="module")
def rounded(model_folder: Path, encoder_cache: Path) -> OnnxRuntime:
    if "int8" not in abilities():
        pytest.skip("this processor has no 8-bit products, and older ones are less exact without them")
    return OnnxRuntime(model_folder, encoder_cache, precision="int8")


@pytest.fixture(scope="module", params=["fp32", "int8"])
def runtime(request: pytest.FixtureRequest, exact: OnnxRuntime, rounded: OnnxRuntime) -> OnnxRuntime:
    return exact if request.param == "fp32" else rounded


def cosines(some: Vectors, others: Vectors) -> Vectors:
    products: Vectors = (some * others).sum(axis=1)
    return products


def test_threads_do_not_change_the_vectors(model_folder: Path, encoder_cache: Path) -> None:
    """One thread and several give the same vectors."""
    texts = ["rye bread", "the tide turned " * 60, ""]
    one, two = (OnnxRuntime(model_folder, encoder_cache, precision="fp32", threads=n).encode(texts) for n in (1, 2))
    np.testing.assert_allclose(one, two, atol=1e-5)


@pytest.mark.slow
def test_a_large_batch_is_run_in_parts(exact: OnnxRuntime) -> None:
    """More tokens than one batch holds, of mixed lengths, come back in the order given."""
    texts = [f"word{n} " * (1 + n * 7 % 50) for n in range(60)]
    assert sum(len(text.split()) for text in texts) > BATCH_TOKENS["fp32"]
    alone = np.concatenate([exact.encode([text]) for text in texts])
    np.testing.assert_allclose(exact.encode(texts), alone, atol=1e-5)


def test_vectors_are_unit_vectors(runtime: OnnxRuntime) -> None:
    """In any precision a vector is float32 and of length 1, also that of an empty text."""
    vectors = runtime.encode(list(TEXTS.values()))
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_eight_bits_give_nearly_the_same_vectors(rounded: OnnxRuntime) -> None:
    """On prose that no calibration has seen, the mean cosine with the reference is at least 0.999."""
    reference = np.load(DATA / "reference_vectors.npz")["vectors"]
    prose = [place for place, text in enumerate(TEXTS.values()) if text.isascii() and len(text.split()) > 20]
    assert len(prose) >= 6
    found = rounded.encode([list(TEXTS.values())[place] for place in prose])
    assert cosines(found, reference[prose]).mean() >= 0.999


def test_eight_bits_hold_for_other_scripts(rounded: OnnxRuntime) -> None:
    """For no script or sign among the reference texts the cosine falls below 0.98; the empty text has no meaning."""
    texts = {name: text for name, text in TEXTS.items() if text.strip()}
    reference = np.load(DATA / "reference_vectors.npz")["vectors"][[bool(text.strip()) for text in TEXTS.values()]]
    assert cosines(rounded.encode(list(texts.values())), reference).min() >= 0.98


@pytest.mark.parametrize("text", ["-" * 500, ", " * 300, "a " * 300, "| dose | 5 mg |\n| --- | --- |\n" * 20, ""])
def test_eight_bits_are_least_exact_where_nothing_is_said(exact: OnnxRuntime, rounded: OnnxRuntime, text: str) -> None:
    """Rules, empty tables and one sign repeated come out worst; even so the cosine stays above 0.9."""
    assert cosines(rounded.encode([text]), exact.encode([text]))[0] >= 0.9


def test_the_batch_hardly_changes_a_rounded_vector(rounded: OnnxRuntime) -> None:
    """Rounding may fall the other way in another batch, but only in a few places."""
    texts = list(TEXTS.values())
    alone = np.concatenate([rounded.encode([text]) for text in texts])
    assert cosines(rounded.encode(texts), alone).min() >= 0.9995


def test_threads_may_share_a_runtime(runtime: OnnxRuntime) -> None:
    """Four threads at once get what one alone gets."""
    texts = list(TEXTS.values())
    alone = runtime.encode(texts)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: runtime.encode(texts), range(8)):
            np.testing.assert_allclose(found, alone, atol=1e-5)


def test_the_id_names_the_precision(exact: OnnxRuntime, rounded: OnnxRuntime) -> None:
    """Vectors of different precision have different ids, and so never meet in the cache."""
    assert exact.id == "all-MiniLM-L6-v2/fp32"
    assert rounded.id.startswith("all-MiniLM-L6-v2/int8.")
