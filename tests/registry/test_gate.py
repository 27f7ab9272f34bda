from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from rlhf_loop.domain import Example, ModelState
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.registry.gate import LiveModel, beside_incoming, beside_live, judge
from rlhf_loop.training.comparison import predict
from rlhf_loop.training.evaluation import Predictions, evaluate
from rlhf_loop.training.train import TrainingResult, train
from rlhf_loop.utils.translation import packed


@pytest.fixture(scope="module")
def fresh(sample_examples: list[Example], encoder: TextEncoder) -> TrainingResult:
    return train(sample_examples, encoder=encoder, recipe="passages")


def saying(trained: TrainingResult, probability: NDArray[np.float64]) -> TrainingResult:
    """The same training, if its models had said this."""
    overall = evaluate(trained.data.predictions(probability))
    return replace(trained, probability=probability, report=replace(trained.report, overall=overall))


def perfect(trained: TrainingResult) -> NDArray[np.float64]:
    return trained.data.rating / 6


def live(trained: TrainingResult, fitted: NDArray[np.int64] | None) -> LiveModel:
    return LiveModel(version="passages-live", model=trained.model, fitted=fitted)


NOTHING = np.array([], dtype=np.int64)


def test_the_first_model_has_to_beat_the_incoming_order(fresh: TrainingResult, encoder: TextEncoder) -> None:
    """Without a live model the incoming order decides: clearly better is live, perhaps better waits, worse is not."""
    found = judge(saying(fresh, perfect(fresh)), None, encoder=encoder)
    assert (found.state, found.live, found.precision_at_1) == (ModelState.LIVE, None, None)
    assert found.incoming is not None
    assert found.incoming.difference.low > 0
    assert f"{100 * found.incoming.difference.low:+.1f} to" in found.reason
    worst = judge(saying(fresh, 1 - perfect(fresh)), None, encoder=encoder)
    assert worst.state == ModelState.REJECTED
    assert "It is worse than the incoming order" in worst.reason
    changed = judge(saying(fresh, perfect(fresh)), None, encoder=encoder, apart="It has another encoder.")
    assert changed.reasons[-1] == "It has another encoder."
    like_it = judge(saying(fresh, 1 / (1 + fresh.data.rank)), None, encoder=encoder)
    assert like_it.state == ModelState.CANDIDATE
    assert "not certain to be better" in like_it.reason


def test_not_worse_than_the_live_one(fresh: TrainingResult, encoder: TextEncoder) -> None:
    """A better model passes, one that puts fewer good answers first waits, and the report has the intervals."""
    better = judge(saying(fresh, perfect(fresh)), live(fresh, NOTHING), encoder=encoder)
    assert (better.state, better.live) == (ModelState.LIVE, "passages-live")
    assert better.precision_at_1 is not None
    assert better.precision_at_1.difference.value > 0
    assert f"on {better.precision_at_1.questions} questions" in better.reasons[1]
    # The live model's own order of each question's answers, and a whim about the question on top.
    theirs = predict(fresh.model, fresh.data, np.ones(len(fresh.data.row), dtype=bool), encoder)
    worse = judge(saying(fresh, (theirs + fresh.data.prompt % 9) / 10), live(fresh, NOTHING), encoder=encoder)
    assert worse.precision_at_1 is not None
    assert worse.precision_at_1.difference.value == 0
    assert worse.auc is not None
    assert worse.auc.difference.high < 0
    assert worse.state == ModelState.CANDIDATE
    assert "It is worse than the live model passages-live by AUC (in 100% of draws): P@1 +0.0" in worse.reasons[1]
    half = np.where(fresh.data.prompt % 9 < 4, 1 - perfect(fresh), perfect(fresh))
    worst = judge(saying(fresh, half), live(fresh, NOTHING), encoder=encoder)
    assert worst.precision_at_1 is not None
    assert worst.precision_at_1.difference.value < 0
    assert worst.state == ModelState.CANDIDATE
    assert "It is worse than the live model passages-live by" in worst.reasons[1]


def test_only_questions_that_neither_was_fitted_on(fresh: TrainingResult, encoder: TextEncoder) -> None:
    """What the live model was fitted on is left out; where it has seen everything nothing can be told, and it waits."""
    held = judge(saying(fresh, perfect(fresh)), live(fresh, fresh.fitted), encoder=encoder)
    assert held.auc is not None
    assert held.auc.answers == fresh.report.held_out.answers
    everything = np.unique(fresh.data.candidates["prompt"])
    blind = judge(saying(fresh, perfect(fresh)), live(fresh, everything), encoder=encoder)
    assert (blind.state, blind.auc, blind.precision_at_1) == (ModelState.CANDIDATE, None, None)
    assert "cannot be compared" in blind.reason


def test_the_live_recipe_speaks_for_the_questions_it_has_seen(
    fresh: TrainingResult, sample_examples: list[Example], encoder: TextEncoder
) -> None:
    """A recipe by force is judged beside the live one's on all questions: there folds speak for it as for the new one.

    On the few questions that neither was fitted on alone, nobody could tell.
    """
    of = live(fresh, fresh.fitted)
    forced = train(sample_examples, encoder=encoder, recipe="joint", incumbent=of.incumbent)
    assert forced.incumbent == pytest.approx(fresh.probability, abs=1e-6)
    assert list(forced.report.cross_validated) == ["joint"]
    found = judge(forced, of, encoder=encoder)
    assert found.precision_at_1 is not None
    assert found.precision_at_1.questions == forced.report.overall.ranked_questions
    assert found.precision_at_1.theirs == fresh.report.overall.orders["model"].precision_at_1.value
    assert found.state != ModelState.LIVE
    assert "worse than the live model" in found.reasons[1]
    assert "by its recipe fitted anew" in found.reasons[1]


def test_a_live_model_of_unknown_origin_is_flattered(fresh: TrainingResult, encoder: TextEncoder) -> None:
    """Where nobody knows what the live model was fitted on, all questions count, and the report says so."""
    found = judge(saying(fresh, perfect(fresh)), live(fresh, None), encoder=encoder)
    assert found.auc is not None
    assert found.auc.answers == len(fresh.data.row)
    assert "may have been fitted on some" in found.reason


def test_without_incoming_ranks_chance_decides(fresh: TrainingResult, encoder: TextEncoder) -> None:
    """Where the incoming order is unknown, a model has to be hardly as good by chance, and the report says so."""
    unknown = replace(fresh, data=replace(fresh.data, rank=np.full(len(fresh.data.row), np.nan)))
    good = judge(saying(unknown, perfect(unknown)), None, encoder=encoder)
    assert (good.state, good.incoming) == (ModelState.LIVE, None)
    assert "the incoming order is unknown (import shown_rank)" in good.reason
    assert judge(saying(unknown, 1 - perfect(unknown)), None, encoder=encoder).state == ModelState.REJECTED
    flat = np.full(len(unknown.data.row), 0.5)
    found = judge(saying(unknown, flat), None, encoder=encoder)
    assert found.state == ModelState.CANDIDATE
    assert "against chance" in found.reason


def ranked(questions: int, kinds: str, *, ranks: bool = True) -> Predictions:
    """Questions with four answers, one of them good; a letter says where, by model and incoming order, it stands.

    w: first and third, l: second and first, n: both first, d: second and fourth, a to c: both last, third, first.
    """
    places = {"w": (0, 2), "l": (1, 0), "n": (0, 0), "d": (1, 3), "a": (3, 3), "b": (2, 3), "c": (0, 3)}
    rating, probability, rank = [], [], []
    for number in range(questions):
        ours, theirs = places[kinds[number % len(kinds)]]
        order = [place for place in range(4) if place != ours]
        incoming = [place for place in range(4) if place != theirs]
        rating += [5, 1, 1, 1]
        probability += [0.9 - 0.2 * place for place in [ours, *order]]
        rank += [place + 1 for place in [theirs, *incoming]]
    of = np.repeat(np.arange(questions), 4)
    known = np.array(rank, dtype=np.float64)
    return Predictions(of, np.array(rating), np.array(probability), known if ranks else np.full(len(of), np.nan))


LIVE, WAITS, REFUSED = ModelState.LIVE, ModelState.CANDIDATE, ModelState.REJECTED


@pytest.mark.parametrize(
    ("of", "state", "said"),
    [
        pytest.param(ranked(40, "wn"), LIVE, "incoming order by P@1 (in 100% of draws), NDCG (in", id="better"),
        pytest.param(ranked(40, "n"), WAITS, "not certain to be better", id="the same"),
        pytest.param(ranked(40, "nl"), REFUSED, "worse than the incoming order", id="worse by all"),
        pytest.param(
            ranked(233, "nd" * 114 + "n" + "llll"),
            LIVE,
            "incoming order by NDCG (in 100% of draws) and pairs",
            id="near ties lost",
        ),
        pytest.param(ranked(40, "dddl"), WAITS, "by more than 2 points", id="P@1 lost, pairs won"),
        pytest.param(ranked(40, "abcd"), WAITS, "so would a model that knows nothing", id="a coin beside a bad order"),
        pytest.param(ranked(5, "w"), LIVE, "on 5 questions", id="long lists, few questions"),
        pytest.param(ranked(3, "w"), LIVE, "on 3 questions", id="all of the fewest questions"),
        pytest.param(ranked(3, "wnn"), WAITS, "not certain to be better", id="one of the fewest questions"),
        pytest.param(ranked(2, "w"), WAITS, "only 2 of the 3 questions", id="too few questions"),
        pytest.param(ranked(40, "w", ranks=False), LIVE, "unknown (import shown_rank)", id="unknown order"),
        pytest.param(ranked(4, "abcw", ranks=False), WAITS, "knows nothing would look as good", id="unknown, and few"),
    ],
)
def test_beside_the_incoming_order(of: Predictions, state: ModelState, said: str) -> None:
    """Better by one measure and not worse by P@1 is live; what cannot be told yet waits, and says why."""
    found = beside_incoming(of)
    assert (found.state, said in found.reason) == (state, True), found.reason
    assert packed(found.reason), "it cannot be translated"


@pytest.mark.parametrize(
    ("ours", "theirs", "seen", "refitted", "successor", "state", "said"),
    [
        pytest.param("n", "l", 0, False, False, LIVE, "It is not worse than the live model", id="better"),
        pytest.param("n", "n", 0, False, False, LIVE, "It is not worse than the live model", id="the same"),
        pytest.param("n" * 39 + "l", "n", 0, False, False, WAITS, "It is worse than", id="a little worse"),
        pytest.param(
            "n" * 39 + "l", "n", 0, False, True, LIVE, "from as many questions", id="a little worse successor"
        ),
        pytest.param(
            "nnnl",
            "n",
            0,
            False,
            True,
            WAITS,
            "live model x by P@1 (in 100% of draws), NDCG",
            id="certainly worse successor",
        ),
        pytest.param("l", "n", 38, False, False, WAITS, "cannot be compared", id="two unseen questions"),
        pytest.param("l", "n", 38, False, True, LIVE, "as far as the few", id="two unseen questions for a successor"),
        pytest.param("nnnl", "n", 38, True, False, WAITS, "by its recipe fitted anew", id="a recipe by force"),
        pytest.param("n", "nnnl", 38, True, False, LIVE, "on 40 questions", id="a better recipe"),
        pytest.param("n", "nnnl", 34, False, False, LIVE, "too few questions for P@1", id="AUC of few questions"),
    ],
)
def test_beside_the_live_model(
    ours: str, theirs: str, seen: int, refitted: bool, successor: bool, state: ModelState, said: str
) -> None:
    """What is worse as far as answers tell waits; one by the same recipe from more only if it is certainly worse."""
    of, other = ranked(40, ours), ranked(40, theirs).probability
    own = np.where(of.question < seen, np.nan, other)
    found = beside_live(of, own, other if refitted else None, live="x", successor=successor)
    assert (found.state, said in found.reason) == (state, True), found.reason
    assert packed(found.reason), "it cannot be translated"


def test_one_kind_of_questions_proves_as_much_as_one_question() -> None:
    """Questions that ask for the same are drawn together, so five wordings of one are no five proofs."""
    of = ranked(8, "wwwwwlll")
    alone = beside_incoming(of).measured.concordance
    together = beside_incoming(replace(of, group=np.where(of.question < 5, 0, of.question))).measured.concordance
    assert alone is not None
    assert together is not None
    assert together.certainty < alone.certainty
    assert (alone.difference.value, together.difference.value) == pytest.approx((alone.difference.value,) * 2)


@pytest.mark.parametrize("bad", [4, 10])
def test_labels_by_lot_wait(bad: int) -> None:
    """Of labels by lot hardly any training goes live, though many look better than the incoming order."""
    rng = np.random.default_rng(bad)
    states, better = [], 0
    for _ in range(20):
        label = np.full(200, 5)
        label[rng.choice(200, bad, replace=False)] = 1
        question, rank = np.repeat(np.arange(20), 10), np.tile(np.arange(1.0, 11.0), 20)
        found = beside_incoming(Predictions(question, label, rng.random(200), rank))
        states.append(found.state)
        better += found.state == WAITS and "knows nothing" in found.reason
    assert states.count(LIVE) <= 1
    assert better > 0
