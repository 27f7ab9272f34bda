from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlhf_loop.answering import experiments
from rlhf_loop.answering.experiments import Experiment, Order, check, draw
from rlhf_loop.config import Settings
from rlhf_loop.domain import Candidate, RankedCandidate, Ranking
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.errors import ConfigError
from rlhf_loop.ranking import Ranker
from rlhf_loop.reward import RewardModel
from rlhf_loop.reward.model_file import save, sum_file
from rlhf_loop.training.train import TrainingReport

TEXTS = ("A.", "B.", "C.", "D.")
CANDIDATES = [Candidate(text) for text in TEXTS]
#: D before B before A before C.
LIVE = Ranking(
    tuple(
        RankedCandidate(CANDIDATES[position], rank=rank, score=1 - rank / 10, position=position)
        for rank, position in enumerate((3, 1, 0, 2), start=1)
    ),
    "live-1",
)
QUESTIONS = [f"What helps against the {number}th cold?" for number in range(400)]


def ordered(query: str, **changes: Any) -> Order:
    return Experiment(Settings(**changes), encoder=None).order(query, CANDIDATES, LIVE)


def texts(order: Order) -> str:
    return "".join(of.text[0] for of in order.candidates)


def version(model: RewardModel, folder: Path) -> str:
    """Keep the model in the folder of versions; return its name."""
    sum = save(model, folder / "new.joblib")
    name = f"{model.recipe}-{sum[:12]}"
    (folder / "new.joblib").rename(folder / f"{name}.joblib")
    sum_file(folder / "new.joblib").rename(sum_file(folder / f"{name}.joblib"))
    return name


def opposite(model: RewardModel) -> RewardModel:
    """A model that finds good what the other one finds bad."""
    return replace(model, scorer=replace(model.scorer, coef=-model.scorer.coef))


def test_without_an_experiment_the_live_order_answers() -> None:
    """Then nothing is drawn: the probability is 1."""
    assert ordered("Why?") == Order(LIVE.candidates, "live")


def test_without_a_model_the_incoming_order_answers() -> None:
    """There is nothing to compare then, whatever the settings say."""
    incoming = Ranking(tuple(replace(of, score=None) for of in LIVE.candidates), None)
    for share in (0.0, 1.0):
        order = Experiment(Settings(experiment_share=share), encoder=None).order("Why?", CANDIDATES, incoming)
        assert order == Order(incoming.candidates, "incoming")


def test_the_prior_is_a_policy_of_its_own() -> None:
    """Before the first training nothing is compared: the prior answers, and the serving log says so."""
    by_prior = Ranking(LIVE.candidates, "prior-0123456789ab")
    order = Experiment(Settings(experiment_share=0.5), encoder=None).order("Why?", CANDIDATES, by_prior)
    assert order == Order(by_prior.candidates, "prior")


def test_a_share_of_the_questions_gets_the_incoming_order() -> None:
    """Each with its probability; the scores stay the live model's, the ranks are those of the places."""
    orders = [ordered(query, experiment_share=0.3) for query in QUESTIONS]
    assert Counter(order.policy for order in orders)["incoming"] / len(QUESTIONS) == pytest.approx(0.3, abs=0.07)
    assert {(of.policy, texts(of), of.propensity, of.experiment, of.teams) for of in orders} == {
        ("live", "DBAC", 0.7, "incoming", ()),
        ("incoming", "ABCD", 0.3, "incoming", ()),
    }
    (incoming, *_) = [order for order in orders if order.policy == "incoming"]
    assert [of.rank for of in incoming.candidates] == [1, 2, 3, 4]
    assert [of.score for of in incoming.candidates] == [0.7, 0.8, 0.6, 0.9]


def test_a_share_of_one_is_all() -> None:
    """Then nobody gets the live order."""
    assert {ordered(query, experiment_share=1.0).policy for query in QUESTIONS} == {"incoming"}


@pytest.mark.parametrize("interleave", [False, True])
def test_the_same_question_always_gets_the_same(interleave: bool) -> None:
    """Case and white space do not make another question; another process draws the same."""
    for query in QUESTIONS[:50]:
        first, *others = [
            ordered(spelling, experiment_share=0.5, experiment_interleave=interleave)
            for spelling in (query, query.upper(), f"  {query.replace(' ', chr(10))} ")
        ]
        assert all(other == first for other in others)
    assert draw("What helps against hiccups?", "incoming") == 0.4936751770498169


def test_who_is_in_a_smaller_share_is_in_a_larger_one() -> None:
    """To turn the share up moves questions in one direction only; another experiment draws anew."""
    small, large = (
        {query for query in QUESTIONS if ordered(query, experiment_share=share).policy == "incoming"}
        for share in (0.2, 0.6)
    )
    assert small < large
    others = {query for query in QUESTIONS if draw(query, "passages-1") < 0.2}
    assert len(small & others) < len(small) / 2


def test_interleaved_answers_are_of_two_teams() -> None:
    """Each answer has its team, both orders keep theirs within a team, and the coins differ between questions."""
    found = [ordered(query, experiment_share=0.5, experiment_interleave=True) for query in QUESTIONS]
    mixed = [order for order in found if order.policy == "interleaved"]
    assert {(order.policy, order.propensity, order.experiment) for order in found} == {
        ("live", 0.5, "incoming interleaved"),
        ("interleaved", 0.5, "incoming interleaved"),
    }
    assert all(sorted(order.teams) == ["incoming", "incoming", "live", "live"] for order in mixed)
    for order in mixed:
        of_live = [text for text, team in zip(texts(order), order.teams, strict=True) if team == "live"]
        assert of_live == sorted(of_live, key="DBAC".index)
    begins = Counter(order.teams[0] for order in mixed)
    assert begins["live"] / len(mixed) == pytest.approx(0.5, abs=0.12)


def test_another_model_orders(
    encoder: TextEncoder, trained: tuple[RewardModel, TrainingReport], tmp_path: Path
) -> None:
    """The beginning of its name is enough; the policy is the whole name, and the scores are the live model's."""
    other = version(opposite(trained[0]), tmp_path)
    save(trained[0], tmp_path / "live" / "model.joblib")
    live = Ranker(Settings(model_path=tmp_path / "live" / "model.joblib"), encoder=encoder)
    query = "What helps against a cold?"
    candidates = [Candidate("Rest and drink warm tea."), Candidate("Handball."), Candidate("A cold is a disease.")]
    ranking = live.ranking(query, candidates)
    settings = Settings(models_path=tmp_path, experiment_share=1.0, experiment_against=other[:12])
    check(settings)
    experiment = Experiment(settings, encoder=encoder)
    order = experiment.order(query, candidates, ranking)
    assert (order.policy, order.propensity, order.experiment, order.trouble) == (other, 1.0, other, "")
    scores = [of.score for of in order.candidates]
    assert scores == sorted(scores, key=lambda score: score or 0)
    assert {of.position: of.score for of in order.candidates} == {of.position: of.score for of in ranking.candidates}
    assert experiment.state() == f"100 % of the questions are answered by {other}"


def test_a_model_is_not_compared_with_itself(
    encoder: TextEncoder, trained: tuple[RewardModel, TrainingReport], tmp_path: Path
) -> None:
    """Once the other version is live, there is no experiment; nobody draws conclusions from two equal arms."""
    name = version(trained[0], tmp_path)
    settings = Settings(models_path=tmp_path, experiment_share=0.5, experiment_against=name)
    order = Experiment(settings, encoder=encoder).order("Why?", CANDIDATES, replace(LIVE, model_version=name))
    assert (order.policy, order.propensity, order.experiment) == ("live", 1.0, None)
    assert "nothing to compare" in order.trouble


def test_a_model_that_cannot_be_used_costs_nothing(
    encoder: TextEncoder,
    trained: tuple[RewardModel, TrainingReport],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No question takes part, which is said once; when the file is back, the experiment goes on by itself."""
    name = version(opposite(trained[0]), tmp_path)
    file = tmp_path / f"{name}.joblib"
    whole = file.read_bytes()
    file.write_bytes(b"damaged")
    settings = Settings(models_path=tmp_path, experiment_share=0.5, experiment_against=name)
    experiment = Experiment(settings, encoder=encoder)
    for query in QUESTIONS[:20]:
        order = experiment.order(query, CANDIDATES, LIVE)
        assert (order.candidates, order.policy, order.propensity) == (LIVE.candidates, "live", 1.0)
        assert order.experiment is None
        assert "cannot be used" in order.trouble
        assert str(tmp_path) not in order.trouble
    assert "cannot be used" in experiment.state()
    assert sum("altered or damaged" in record.getMessage() for record in caplog.records) == 1
    file.write_bytes(whole)
    monkeypatch.setattr(experiments, "_LOOK_AGAIN_S", 0.0)
    assert experiment.order("Why?", CANDIDATES, LIVE).propensity == 0.5


def test_an_order_that_fails_for_a_question_is_replaced(
    encoder: TextEncoder, trained: tuple[RewardModel, TrainingReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The live order answers, and the question does not count."""
    name = version(opposite(trained[0]), tmp_path)
    settings = Settings(models_path=tmp_path, experiment_share=1.0, experiment_against=name)
    experiment = Experiment(settings, encoder=encoder)
    experiment.state()

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Ranker, "ranking", fail)
    order = experiment.order("Why?", CANDIDATES, LIVE)
    assert (order.candidates, order.policy, order.propensity, order.experiment) == (LIVE.candidates, "live", 1.0, None)
    assert order.trouble


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_is_from_0_to_1(share: float) -> None:
    """Anything else is refused with the value seen."""
    with pytest.raises(ConfigError, match=r"RLHF_EXPERIMENT_SHARE=.* is not a valid share.*from 0 to 1"):
        check(Settings(experiment_share=share))


def test_a_version_that_is_not_there(trained: tuple[RewardModel, TrainingReport], tmp_path: Path) -> None:
    """An unknown name, one that fits several, or a damaged file is noticed at the start, if there is a share."""
    one, two = version(trained[0], tmp_path), version(opposite(trained[0]), tmp_path)

    def looking(name: str, share: float = 0.1) -> None:
        check(Settings(models_path=tmp_path, experiment_share=share, experiment_against=name))

    looking("../x", share=0.0)
    looking("incoming")
    looking(one)
    with pytest.raises(ConfigError, match=rf"'nobody' is not a model in .*{min(one, two)}.*or 'incoming'"):
        looking("nobody")
    both = one[: one.index("-") + 1]
    with pytest.raises(ConfigError, match=f"'{both}' fits 2 models"):
        looking(both)
    with pytest.raises(ConfigError, match="is not a model in"):
        looking("*")
    (tmp_path / f"{two}.joblib").write_bytes(b"damaged")
    with pytest.raises(ConfigError, match="was altered or damaged: its sha256 is"):
        looking(two)
    sum_file(tmp_path / f"{one}.joblib").unlink()
    with pytest.raises(ConfigError, match=r"has no checksum beside it"):
        looking(one)
    with pytest.raises(ConfigError, match="none there yet"):
        check(Settings(models_path=tmp_path / "no", experiment_share=0.1, experiment_against="x"))
