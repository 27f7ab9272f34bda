"""Ranking by a model with tuned layers, without torch."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from rlhf_loop.cli.warming import warm
from rlhf_loop.config import Settings
from rlhf_loop.domain import Example, Question
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.encoders.onnx_runtime import OnnxRuntime
from rlhf_loop.encoders.runtime import abilities
from rlhf_loop.encoders.tuned import TunedLayers
from rlhf_loop.encoders.vector_cache import VectorCache
from rlhf_loop.ranking import Ranker, rank_documents, rerank_candidates
from rlhf_loop.reward import RewardModel
from rlhf_loop.reward.model_file import load, save, weights_file, weights_of
from tools.noisy_layers import noisy, with_layers

QUERY = "How do I treat a small burn?"
ANSWERS = [
    "Hold the burn under cool running water for 20 minutes, take off rings, and cover it loosely with cling film.",
    "The harbour museum opens at ten, and children get in free.",
    "Burns are common. " * 80,
]


@pytest.fixture(scope="module")
def layers(model_folder: Path) -> TunedLayers:
    weights = load_file(model_folder / "model.safetensors")
    return noisy(weights, "all-MiniLM-L6-v2/fp32", first=3, width=384)


@pytest.fixture
def tuned(reward_model: RewardModel, layers: TunedLayers) -> RewardModel:
    return with_layers(reward_model, layers)


@pytest.fixture
def own(exact: OnnxRuntime, tmp_path: Path) -> TextEncoder:
    """An encoder with an empty cache of its own."""
    return TextEncoder(exact, exact.tokenizer, VectorCache(tmp_path / "vectors.db"))


@pytest.fixture
def settings(tmp_path: Path, encoder_cache: Path) -> Settings:
    return Settings(model_path=tmp_path / "reward_model.joblib", cache_dir=encoder_cache)


def ranked(ranker: Ranker) -> dict[str, float]:
    return {entry["text"]: entry["score"] for entry in rerank_candidates(QUERY, ANSWERS, ranker=ranker)}


def test_known_candidates_are_not_computed_again(settings: Settings, tuned: RewardModel, own: TextEncoder) -> None:
    """What was ranked once is ranked again from the cache alone; a new answer computes its own passages only."""
    save(tuned, settings.model_path)
    ranker = Ranker(settings, encoder=own)
    first = ranked(ranker)
    assert ranker._loaded is not None
    served = ranker._loaded.model.tuned
    assert served is not None
    assert not served.tensors, "the encoder has them in its own form"
    known = own.only_known()
    ((expected),) = tuned.score([Question(QUERY, tuple(ANSWERS))], known)
    assert list(first.values()) == sorted(expected, reverse=True)
    documents = rank_documents(ranker, QUERY, ANSWERS)
    assert [document.score for document in documents.documents] == sorted(expected, reverse=True)
    assert documents.model_version == load(settings.model_path, encoder=own.id).version


def test_versions_take_turns(
    settings: Settings, tuned: RewardModel, reward_model: RewardModel, own: TextEncoder, layers: TunedLayers
) -> None:
    """A ranker follows from a small model to a tuned one, to another and back, and each scores as it did before."""
    other = with_layers(reward_model, replace(layers, a=-1.0))
    ranker = Ranker(settings, encoder=own)
    seen: list[dict[str, float]] = []
    for model in (reward_model, tuned, other, tuned, reward_model):
        save(model, settings.model_path)
        seen.append(ranked(ranker))
    assert seen[1] == seen[3]
    assert seen[0] == seen[4]
    assert seen[0] != seen[1] != seen[2]


def test_lost_layers_keep_the_last_model(
    settings: Settings,
    tuned: RewardModel,
    reward_model: RewardModel,
    own: TextEncoder,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A model whose layers are missing, or do not fit the encoder, replaces none that serves; the log says why."""
    save(reward_model, settings.model_path)
    ranker = Ranker(settings, encoder=own)
    before = ranked(ranker)
    save(tuned, settings.model_path)
    weights_file(settings.model_path, str(weights_of(settings.model_path))).unlink()
    assert ranked(ranker) == before
    assert tuned.tuned is not None
    save(
        replace(tuned, tuned=replace(tuned.tuned, tensors={"encoder.layer.3.a": np.ones(3, np.float32)})),
        settings.model_path,
    )
    with caplog.at_level(logging.ERROR):
        assert ranked(ranker) == before
    assert "do not fit the encoder" in caplog.text


def test_answers_are_warmed_for_tuned_layers(settings: Settings, tuned: RewardModel, own: TextEncoder) -> None:
    """After `warm` nothing of the answers in the file is computed by a ranking, tuned vectors included."""
    save(tuned, settings.model_path)
    file = settings.model_path.with_name("answers.txt")
    file.write_text("\n".join(ANSWERS))
    warm(file, settings, encoder=own)
    assert tuned.tuned is not None
    places = [(answer.strip(), place) for answer in ANSWERS for place in range(len(*own.encode_passages([answer])))]
    assert len(places) > 5
    own.tuned(tuned.tuned).only_known().encode_places(places)


def test_serving_loads_no_torch(settings: Settings, tuned: RewardModel, model_folder: Path) -> None:
    """A process that serves tuned layers has neither torch nor what writes graphs, where the cache has these."""
    save(tuned, settings.model_path)
    code = (
        "import sys\nsys.modules['torch'] = None\nfrom rlhf_reranker import rerank_candidates\n"
        f"print([entry['score'] for entry in rerank_candidates({QUERY!r}, {ANSWERS!r})])\nprint(*sys.modules)"
    )
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RLHF_")},
        "RLHF_MODEL_PATH": str(settings.model_path),
        "RLHF_CACHE_DIR": str(settings.cache_dir),
        "RLHF_ENCODER_PATH": str(model_folder),
        "RLHF_ENCODER_PRECISION": "fp32",
    }
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    scores, modules = done.stdout.splitlines()
    assert len(scores.split(",")) == 3
    assert {name.partition(".")[0] for name in modules.split()} & {"torch", "transformers", "onnx", "sklearn"} == {
        "torch"
    }


def test_eight_bits_rank_alike(
    model_folder: Path, encoder_cache: Path, exact: OnnxRuntime, tuned: RewardModel, sample_examples: list[Example]
) -> None:
    """In 8 bits scores differ by 0.02 at most from those in 32 bits on average, and the best answer is mostly the same.

    On a processor without 8-bit products the difference is twice as large.
    """
    most = 0.02 if "int8" in abilities() else 0.04
    by_prompt: dict[str, list[str]] = {}
    for example in sample_examples[:30]:
        by_prompt.setdefault(example.prompt, []).append(example.response)
    questions = [Question(prompt, tuple(dict.fromkeys(texts))) for prompt, texts in by_prompt.items()]
    runtimes = (exact, OnnxRuntime(model_folder, encoder_cache, precision="int8"))
    both = [tuned.score(questions, TextEncoder(runtime, runtime.tokenizer)) for runtime in runtimes]
    differences = np.abs(np.concatenate(both[0]) - np.concatenate(both[1]))
    assert differences.mean() <= most
    best = [first.argmax() == second.argmax() for first, second in zip(*both, strict=True)]
    assert np.mean(best) >= 0.75
