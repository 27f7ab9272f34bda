from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rerank_apps import BAD, DOCUMENTS, FAIR, GOOD, QUERY, ranker_in

from rlhf_loop.config import Settings
from rlhf_loop.domain import Candidate, RankedCandidate
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.errors import ConfigError, ModelFileError
from rlhf_loop.ranking import (
    DocumentRanking,
    Ranker,
    WithoutModel,
    is_prior,
    logit,
    rank_documents,
    rerank_candidates,
    to_record,
    without_model,
)
from rlhf_loop.reward import RewardModel
from rlhf_loop.training.train import TrainingReport

Trained = tuple[RewardModel, TrainingReport]


@pytest.fixture
def ranker(tmp_path: Path, encoder: TextEncoder, trained: Trained) -> Ranker:
    return ranker_in(tmp_path, encoder, trained[0])


@pytest.fixture
def empty_ranker(tmp_path: Path, encoder: TextEncoder) -> Ranker:
    """A ranker without a model."""
    return ranker_in(tmp_path, encoder, None)


def order(ranking: DocumentRanking) -> list[int]:
    return [document.index for document in ranking.documents]


def test_the_scores_are_those_of_the_ranker(ranker: Ranker) -> None:
    """The best document first, with the very probabilities that `rerank_candidates` gives, and the model's version."""
    ranking = rank_documents(ranker, QUERY, DOCUMENTS)
    expected = rerank_candidates(QUERY, DOCUMENTS, ranker=ranker)
    assert [(DOCUMENTS[found.index], found.score) for found in ranking.documents] == [
        (entry["text"], entry["score"]) for entry in expected
    ]
    assert order(ranking)[0] == 1
    assert ranking.model_version == ranker.model_version
    assert ranking.tokens == 0


def test_empty_documents_come_last(ranker: Ranker) -> None:
    """Documents without any text keep their index, have the score 0 and come last, and do not change other scores."""
    ranking = rank_documents(ranker, QUERY, ["", BAD, " \n", GOOD, FAIR, ""])
    alone = rank_documents(ranker, QUERY, [BAD, GOOD, FAIR])
    assert order(ranking)[0] == 3
    assert order(ranking)[3:] == [0, 2, 5]
    assert [found.score for found in ranking.documents] == [found.score for found in alone.documents] + [0.0] * 3
    assert order(rank_documents(ranker, QUERY, ["", ""])) == [0, 1]


def test_ties_keep_the_incoming_order(ranker: Ranker) -> None:
    """The same text has the same score wherever it stands, and its places stay in order."""
    ranking = rank_documents(ranker, QUERY, [BAD, GOOD] * 10)
    assert order(ranking) == [*range(1, 20, 2), *range(0, 20, 2)]


@pytest.mark.parametrize("text", ["\x00", "\ud800", "\u200b", "x" * 200_000, "\x00 and \udfff", "۞" * 50])
def test_odd_documents_are_ranked(ranker: Ranker, text: str) -> None:
    """Whatever a text holds, it has a score from 0 to 1, and the good one still comes first."""
    ranking = rank_documents(ranker, QUERY, [text, GOOD], count=True, longest=400)
    assert order(ranking)[0] == 1
    assert all(0 <= found.score <= 1 for found in ranking.documents)


def test_documents_can_be_cut(ranker: Ranker) -> None:
    """Of each document so many tokens are read, and counted."""
    cut = rank_documents(ranker, QUERY, [f"{BAD} {GOOD}", FAIR], longest=6, count=True)
    short = rank_documents(ranker, QUERY, ["The harbour museum opens at ten", FAIR], count=True)
    assert [found.score for found in cut.documents] == [found.score for found in short.documents]
    assert cut.tokens == short.tokens == sum(ranker.encoder.count_tokens([QUERY, FAIR]) if ranker.encoder else []) + 6


def test_scores_of_batches(ranker: Ranker, encoder: TextEncoder, tmp_path: Path) -> None:
    """With `pointwise` a document has the same score whatever else is ranked with it, by a model and by the prior."""
    prior = Ranker(Settings(model_path=tmp_path / "none", rerank_without_model="prior"), encoder=encoder)
    for by in (ranker, prior):
        together = {each.index: each.score for each in rank_documents(by, QUERY, DOCUMENTS, pointwise=True).documents}
        alone = [rank_documents(by, QUERY, [text], pointwise=True).documents[0].score for text in DOCUMENTS]
        assert alone == pytest.approx([together[place] for place in range(len(DOCUMENTS))], abs=1e-6)
        assert len({round(score, 3) for score in alone}) > 1
        apart = [rank_documents(by, QUERY, [text]).documents[0].score for text in DOCUMENTS]
        assert apart != pytest.approx(alone, abs=1e-3), "as ever they depend on it"


def test_a_model_without_scores_of_batches(
    tmp_path: Path, encoder: TextEncoder, trained: Trained, caplog: pytest.LogCaptureFixture
) -> None:
    """A model of earlier versions ranks as ever, and the log says what to do."""
    old = ranker_in(tmp_path, encoder, replace(trained[0], pointwise=None))
    with caplog.at_level(logging.WARNING):
        found = rank_documents(old, QUERY, DOCUMENTS, pointwise=True)
    assert found == rank_documents(old, QUERY, DOCUMENTS)
    assert "has no scores for batches. Train anew: rlhf-loop train" in caplog.text


def test_raw_scores_are_logits(ranker: Ranker) -> None:
    """The raw score of a probability is its logit, finite also for those that are sure."""
    ranking = rank_documents(ranker, QUERY, [GOOD, ""])
    best, empty = ranking.documents
    assert 1 / (1 + math.exp(-ranking.raw(best))) == pytest.approx(best.score)
    assert ranking.raw(empty) < -27
    assert logit(0.5) == 0
    assert logit(1.0) == pytest.approx(-logit(0.0)) == pytest.approx(27.63, abs=0.01)


def test_without_a_model_it_is_an_error(empty_ranker: Ranker) -> None:
    """Nothing is made up: without a model, or without what reads texts, the error says what to do."""
    for ranker in (empty_ranker, None):
        with pytest.raises(ModelFileError, match=r"no usable reward model.*rlhf-loop train.*RLHF_RERANK_WITHOUT_MODEL"):
            rank_documents(ranker, QUERY, DOCUMENTS)


def test_the_incoming_order_where_it_is_wanted(empty_ranker: Ranker) -> None:
    """Without a model the settings may ask for the incoming order: scores then say nothing but the place."""
    for ranker in (empty_ranker, None):
        ranking = rank_documents(ranker, QUERY, [BAD, "", GOOD], otherwise=WithoutModel.INCOMING, count=True)
        assert [(found.index, found.score) for found in ranking.documents] == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
        assert (ranking.model_version, ranking.tokens) == (None, 0)
        assert [ranking.raw(found) for found in ranking.documents] == [1.0, 0.5, 1 / 3]


def test_a_damaged_model_is_as_none(ranker: Ranker, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A model file that cannot be trusted is an error that names no path, or the incoming order; the log has why."""
    (tmp_path / "reward_model.joblib").write_bytes(b"no model")
    with caplog.at_level(logging.ERROR):
        with pytest.raises(ModelFileError) as caught:
            rank_documents(ranker, QUERY, DOCUMENTS)
        assert str(tmp_path) not in str(caught.value)
        ranking = rank_documents(ranker, QUERY, DOCUMENTS, otherwise=WithoutModel.INCOMING)
    assert order(ranking) == [0, 1, 2]
    assert ranking.model_version is None
    assert str(tmp_path) in caplog.text


def test_the_prior_where_it_is_wanted(empty_ranker: Ranker, encoder: TextEncoder, tmp_path: Path) -> None:
    """Without a model the prior may rank, under a name of its own; by the setting or by what the caller wants."""
    wanted = Ranker(Settings(model_path=tmp_path / "none", rerank_without_model="prior"), encoder=encoder)
    by_setting, by_call = (
        rank_documents(wanted, QUERY, DOCUMENTS),
        rank_documents(empty_ranker, QUERY, DOCUMENTS, otherwise=WithoutModel.PRIOR),
    )
    assert by_setting == by_call
    assert order(by_call)[0] == 1
    assert all(0 < found.score < 1 for found in by_call.documents)
    assert is_prior(by_call.model_version)
    assert wanted.model_version == by_call.model_version
    (tmp_path / "none").write_bytes(b"no model")
    with pytest.raises(ModelFileError):
        rank_documents(wanted, QUERY, DOCUMENTS)
    assert rank_documents(wanted, QUERY, DOCUMENTS, otherwise=WithoutModel.PRIOR) == by_call
    assert not is_prior(None)
    assert not is_prior("passages-0123456789ab")


def test_the_log_says_that_the_prior_ranks(
    tmp_path: Path, encoder: TextEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning says that nothing is learnt yet, and that scores are not calibrated."""
    wanted = Ranker(Settings(model_path=tmp_path / "none", rerank_without_model="prior"), encoder=encoder)
    with caplog.at_level(logging.WARNING):
        ranked = [rerank_candidates(QUERY, DOCUMENTS, ranker=wanted) for _ in range(2)]
    assert ranked[0][0]["text"] == GOOD
    assert caplog.text.count("the prior ranks, and its scores are not calibrated. Run: rlhf-loop train") == 1


def test_a_panic_of_a_library_is_an_error() -> None:
    """What is no Exception, as libraries in Rust raise it, becomes one, so that the request is answered."""

    class Panic(BaseException):
        pass

    class Broken:
        def ranking(self, *_: Any, **__: Any) -> Any:
            raise Panic

    with pytest.raises(RuntimeError, match="Panic"):
        rank_documents(Broken(), QUERY, DOCUMENTS)  # type: ignore[arg-type]


def test_what_to_do_without_a_model_is_a_setting() -> None:
    """The setting is one of three words; another is refused with all."""
    assert without_model(Settings()) is WithoutModel.ERROR
    assert without_model(Settings(rerank_without_model="incoming")) is WithoutModel.INCOMING
    with pytest.raises(ConfigError, match=r"RLHF_RERANK_WITHOUT_MODEL='random'.*error, incoming, prior"):
        without_model(Settings(rerank_without_model="random"))


@pytest.mark.parametrize(
    ("texts", "returned", "kept"), [("ab", 1, 1), ("\0b", 1, 0), ("a ", 2, 0), ("abc", None, None)]
)
def test_what_went_back_is_recorded(texts: str, returned: int | None, kept: int | None) -> None:
    """Where one of those that went back cannot be stored, a thumb for them all is one for none of the others."""
    ranked = [RankedCandidate(Candidate(text), place + 1, None, place) for place, text in enumerate(texts)]
    found = to_record("What?", ranked, model_version=None, door="d", most=10, returned=returned)
    assert found is not None
    assert found.returned == kept
