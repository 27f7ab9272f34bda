"""Trainings and rankings with a cross-encoder beside the encoder."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from quick_encoder import QuickCross, QuickRuntime
from tokenizers import Tokenizer

from rlhf_loop.config import Settings
from rlhf_loop.domain import Example, Question
from rlhf_loop.encoders import TextEncoder, load_encoder
from rlhf_loop.encoders.cross_encoder import load_cross_encoder
from rlhf_loop.encoders.runtime import cross_of
from rlhf_loop.encoders.vector_cache import VectorCache
from rlhf_loop.errors import EncoderError, ModelFileError
from rlhf_loop.ranking import Ranker, rerank_candidates
from rlhf_loop.registry.gate import LiveModel, judge
from rlhf_loop.reward.model_file import load, save
from rlhf_loop.training import train as training
from rlhf_loop.training.comparison import compare
from rlhf_loop.training.train import Incumbent, TrainingResult, train
from tests.encoders import tiny_encoders

QUERY = "How do I treat a small burn?"
ANSWERS = ["Hold the burn under cool water for 20 minutes.", "The museum opens at ten.", "Burns are common. " * 80]


def noise(question: str, passage: str) -> float:
    """Return a number that only chance has made, the same for the same pair."""
    digest = hashlib.sha256(f"{question}\0{passage}".encode()).digest()
    return float(np.random.default_rng(list(digest)).standard_normal())


@pytest.fixture(scope="module", autouse=True)
def ratings_alone() -> Iterator[None]:
    """Fits that learn from negatives, too, differ by more than a column of chance does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "draw_negatives", lambda *_, **__: None)
        yield


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> VectorCache:
    return VectorCache(tmp_path_factory.mktemp("cross") / "vectors.db")


@pytest.fixture(scope="module")
def plain(tokenizer: Tokenizer, vectors: VectorCache) -> TextEncoder:
    return TextEncoder(QuickRuntime(), tokenizer, vectors)


def beside(plain: TextEncoder, vectors: VectorCache, cross: QuickCross) -> TextEncoder:
    return TextEncoder(QuickRuntime(), plain._tokenizer, vectors, cross=cross)


@pytest.fixture(scope="module")
def without(plain: TextEncoder, sample_examples: list[Example]) -> TrainingResult:
    return train(sample_examples, encoder=plain, recipe="passages")


@pytest.fixture(scope="module")
def crossed(plain: TextEncoder, vectors: VectorCache) -> TextEncoder:
    return beside(plain, vectors, QuickCross(noise))


@pytest.fixture(scope="module")
def useless(crossed: TextEncoder, sample_examples: list[Example], without: TrainingResult) -> TrainingResult:
    """A model with a cross-encoder that knows nothing, trained while one without it was live."""
    incumbent = Incumbent("passages", without.fitted)
    return train(sample_examples, encoder=crossed, recipe="passages", incumbent=incumbent)


def difference(of: TrainingResult, other: TrainingResult) -> tuple[float, float]:
    """Return how much more AUC a model has than another, and in which share of the draws it has less."""
    rows = np.isfinite(of.probability) & np.isfinite(other.probability)
    found = compare(of.data.predictions(of.probability[rows], rows), other.probability[rows]).auc
    assert found is not None
    return found.difference.value, found.doubt


def test_a_useless_cross_encoder_costs_only_time(without: TrainingResult, useless: TrainingResult) -> None:
    """Scores of chance alone make no model worse beyond noise."""
    change, doubt = difference(useless, without)
    assert abs(change) < 0.01
    assert doubt < 0.99
    assert useless.model.encoder == "quick+quick-cross/fp32"
    assert useless.report.encoder == useless.model.encoder
    assert len(useless.model.scorer.coef) == len(without.model.scorer.coef) + 3


def test_random_weights_make_nothing_worse(
    without: TrainingResult, plain: TextEncoder, vectors: VectorCache, sample_examples: list[Example], tmp_path: Path
) -> None:
    """The same with a model of BERT's kind whose weights were drawn by chance."""
    tiny_encoders.write_cross(tmp_path / "tiny")
    cross = load_cross_encoder(str(tmp_path / "tiny"), tmp_path / "cache", threads=1)
    encoder = TextEncoder(QuickRuntime(), plain._tokenizer, vectors, cross=cross)
    change, doubt = difference(train(sample_examples, encoder=encoder, recipe="passages"), without)
    assert abs(change) < 0.02
    assert doubt < 0.99


def test_a_good_cross_encoder_is_used(
    without: TrainingResult, plain: TextEncoder, vectors: VectorCache, sample_examples: list[Example]
) -> None:
    """A score that knows the right answers a little makes a better model."""
    good = {example.prompt + example.response[:40] for example in sample_examples if example.label}
    knows = QuickCross(lambda asked, passage: 1.5 * (asked + passage[:40] in good) + noise(asked, passage))
    knows.id = "knowing/fp32"
    encoder = beside(plain, vectors, knows)
    found = train(sample_examples, encoder=encoder, recipe="passages")
    assert found.model.cross_encoder == "knowing"
    change, doubt = difference(found, without)
    assert change > 0.02
    assert doubt < 0.05


def test_the_gate_judges_it_beside_the_model_without(
    without: TrainingResult, useless: TrainingResult, crossed: TextEncoder
) -> None:
    """It is no successor of the same recipe: what the live model says is fitted anew without the column."""
    assert useless.incumbent is not None
    assert np.allclose(useless.incumbent, without.probability, equal_nan=True)
    live = LiveModel(version="before", model=without.model, fitted=without.fitted)
    assert live.incumbent is not None
    assert not live.incumbent.crossed
    reasons = judge(useless, live, encoder=crossed).reasons
    assert "by its recipe fitted anew" in reasons[1]


def test_the_model_file_names_the_cross_encoder(
    useless: TrainingResult, without: TrainingResult, tmp_path: Path, crossed: TextEncoder, plain: TextEncoder
) -> None:
    """A model with it is read only where the very same is in use; one without it everywhere."""
    save(useless.model, tmp_path / "model")
    assert load(tmp_path / "model", encoder=crossed.full_id).model.cross_encoder == "quick-cross"
    for encoder, there in ((plain.id, "none"), ("quick+other-012/fp32", "other-012")):
        with pytest.raises(ModelFileError, match=rf"cross-encoder quick-cross, and {there} is in use.*RLHF_CROSS_ENC"):
            load(tmp_path / "model", encoder=encoder)
    save(without.model, tmp_path / "plain")
    assert load(tmp_path / "plain", encoder=crossed.full_id).model.cross_encoder == ""
    assert cross_of("a/int8.1+b/fp32") == "b"


def ranked(ranker: Ranker) -> dict[str, float]:
    return {entry["text"]: entry["score"] for entry in rerank_candidates(QUERY, ANSWERS, ranker=ranker)}


def test_a_process_without_it_keeps_the_live_model(
    useless: TrainingResult,
    without: TrainingResult,
    tmp_path: Path,
    plain: TextEncoder,
    vectors: VectorCache,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A ranker with the cross-encoder follows, and reads each pair once; one without it goes on, and says why."""
    settings = Settings(model_path=tmp_path / "reward_model.joblib", cache_dir=tmp_path)
    cross = QuickCross(noise)
    cached = TextEncoder(QuickRuntime(), plain._tokenizer, VectorCache(tmp_path / "vectors.db"), cross=cross)
    with_it, alone = Ranker(settings, encoder=cached), Ranker(settings, encoder=plain)
    save(without.model, settings.model_path)
    before = ranked(alone)
    assert ranked(with_it) == before
    assert not cross.read
    save(useless.model, settings.model_path)
    found = ranked(with_it)
    read = len(cross.read)
    assert 3 <= read <= 5
    assert ranked(with_it) == found != before
    assert len(cross.read) == read
    with caplog.at_level(logging.ERROR):
        assert ranked(alone) == before
    assert "was trained with the cross-encoder quick-cross, and none is in use" in caplog.text
    (scores,) = useless.model.score([Question(QUERY, tuple(ANSWERS))], cached)
    assert [found[text] for text in ANSWERS] == scores.tolist()


def test_a_cross_encoder_that_is_not_there_turns_nothing_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Who serves goes on with what needs none, and the log says why; who trains is told."""
    settings = Settings(cross_encoder=str(tmp_path / "gone"), cache_dir=tmp_path)
    with pytest.raises(EncoderError, match="gone"):
        load_encoder(settings)
    with caplog.at_level(logging.ERROR):
        assert not load_encoder(settings, serving=True).crossed
    assert "Only models that need no cross-encoder can rank" in caplog.text
