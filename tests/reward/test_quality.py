from __future__ import annotations

import numpy as np
import pytest

from rlhf_loop.domain import Question
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.reward import RewardClassifier, prior, recipe_named
from rlhf_loop.reward.quality import MAX_CHARS, QUALITY_FEATURES, QualityIndex, quality


def measured(text: str) -> dict[str, float]:
    return dict(zip(QUALITY_FEATURES, quality(text).tolist(), strict=True))


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("One two three. Four five!", "words a sentence", 2.5),
        ("One two three. Four five!", "exclamations", 0.5),
        ("It may help, perhaps.", "hedges", 0.5),
        ("Es hilft vielleicht nicht.", "hedges", 0.25),
        ("Es hilft vielleicht nicht.", "negations", 0.25),
        ("Always rest.", "absolutes", 0.5),
        ("I think you should.", "first person", 0.25),
        ("I think you should.", "second person", 0.25),
        ("Rest, because it heals.", "reasons", 0.25),
        ("I'm sorry, that is unknown.", "refusals", 1.0),
        ("Das weiß ich nicht.", "refusals", 1.0),
        ("The doctor is sorry.", "refusals", 0.0),
        ("Drink water. Then rest.", "imperatives", 0.5),
        ("Trinken Sie Wasser.", "imperatives", 1.0),
        ("Found in 1928.", "years", 1 / 3),
        ("See https://example.org or www.example.com", "links", 2.0),
        ("- one\n- two\n3. three", "list items", 3.0),
        ("begins small", "begins like a sentence", 0.0),
        ("»Begins« well", "begins like a sentence", 1.0),
        ("It ends.", "ends like a sentence", 1.0),
        ("It breaks off in the mid", "ends like a sentence", 0.0),
        ("1a2b", "digits", 0.5),
        ("ABcd", "capitals", 0.5),
    ],
)
def test_what_is_counted(text: str, name: str, expected: float) -> None:
    """Each number counts what its name says, in English and in German."""
    assert measured(text)[name] == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", " \n", "\x00", "\ud800", "。", "好" * 9000, "a" * 100_000, "?" * 6000])
def test_any_text_has_numbers(text: str) -> None:
    """Whatever a text holds, all numbers are finite, and what stands behind the limit changes none of them."""
    assert np.isfinite(quality(text)).all()
    assert np.array_equal(quality("a" * MAX_CHARS), quality("a" * MAX_CHARS + " more! 1999"))


def test_the_recipe_adds_them_to_those_of_the_passages(encoder: TextEncoder) -> None:
    """The columns of `passages` come first, as they are; then each number, from the mean, and from the best."""
    question = Question("Is it late?", ("Yes, it is late.", "No!", "Perhaps."))
    both = recipe_named("quality").features([question], encoder)
    passages = recipe_named("passages").features([question], encoder)
    alone = QualityIndex().features(question.responses)
    assert np.array_equal(both[:, : passages.shape[1]], passages)
    assert np.array_equal(both[:, passages.shape[1] :], np.hstack([alone, alone - alone.mean(0), alone - alone.max(0)]))


def test_what_has_half_the_scale_counts_less() -> None:
    """Of two columns that say the same the one with the smaller scale gets a quarter of the coefficient."""
    rng = np.random.default_rng(0)
    column = rng.normal(size=(200, 1))
    label = (column[:, 0] + rng.normal(size=200) > 0).astype(np.intp)
    classifier = RewardClassifier(penalty_c=0.02, scales=np.array([1.0, 0.5]))
    coef = classifier.fit(np.hstack([column, column]), label, np.arange(200)).scorer_.coef
    assert coef[1] == pytest.approx(coef[0] / 4, rel=1e-3)


def test_its_prior_is_that_of_the_passages() -> None:
    """The prior says what it says of `passages`, and nothing of how an answer is written, not even its scale."""
    known = prior.shipped()
    of = prior.prior_of(recipe_named("quality"), known.encoder)
    assert of is not None
    count = len(known.prior.coef)
    assert np.array_equal(of.coef[:count], known.prior.coef)
    assert not of.coef[count:].any()
    assert np.isnan(of.mean[count:]).all()
    rng = np.random.default_rng(0)
    features, label = rng.normal(size=(80, len(of.coef))), np.tile([0, 1], 40)
    scorer = RewardClassifier(penalty_c=0.02, prior=of).fit(features, label, np.arange(80) // 4).scorer_
    assert np.isfinite(scorer.coef).all()
