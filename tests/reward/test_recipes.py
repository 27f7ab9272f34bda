from __future__ import annotations

import numpy as np
import pytest
from quick_encoder import QuickCross, QuickRuntime
from tokenizers import Tokenizer

from rlhf_loop.domain import Question
from rlhf_loop.encoders import DIMENSION, TextEncoder
from rlhf_loop.encoders.tuned import TunedLayers
from rlhf_loop.errors import EncoderError
from rlhf_loop.reward import RECIPES, Recipe, TransformerRecipe, recipe_named
from rlhf_loop.reward.recipes import ANSWER_FEATURES, QUESTION_FEATURES, PassagesRecipe, is_crossed, joint_texts
from tools.noisy_layers import noisy

FEVER = Question(
    "How can I bring down a fever?",
    (
        "Rest, drink enough, and take paracetamol in the dose for your weight. It lowers the temperature for hours.",
        "A fever is a body temperature above 38 degrees.",
        "Bicycles have two wheels.",
    ),
)
BACK = Question("Why does my back hurt?", ("Often the muscles are strained. Keep moving.", "Try swimming."))

SIZE = len(ANSWER_FEATURES)
#: The absolute features that compare an answer with the question alone, not with the other candidates.
OWN = [index for index, name in enumerate(ANSWER_FEATURES) if name != "apart from the subject"]


@pytest.fixture
def passages() -> Recipe:
    return recipe_named("passages")


@pytest.fixture(params=RECIPES)
def recipe(request: pytest.FixtureRequest) -> Recipe:
    return RECIPES[request.param]


def test_recipes_have_names() -> None:
    """A recipe is found by its name; an unknown name is refused with those that exist."""
    assert list(RECIPES) == ["passages", "quality", "joint"]
    assert all(recipe_named(name).name == name for name in (*RECIPES, "transformer"))
    with pytest.raises(ValueError, match=r"'magic'.*passages, quality, joint, transformer"):
        recipe_named("magic")


@pytest.fixture
def layers() -> TunedLayers:
    return noisy({"encoder.layer.1.a": np.ones(3)}, "quick", first=1, width=DIMENSION)


def test_transformer_adds_the_tuned_score(quick: TextEncoder, layers: TunedLayers) -> None:
    """The score is the highest logit of the three passages that fit best before tuning, in three forms."""
    rest = "Rest in a cool room. Drink enough water every hour. " * 30
    best = "How can I bring down a fever? " * 20
    question = Question(FEVER.prompt, (*FEVER.responses, rest + best + rest))
    found = recipe_named("transformer", layers=layers).features([question, BACK], quick)
    assert np.array_equal(found[:, :-3], recipe_named("passages").features([question, BACK], quick))
    scores = []
    for of in (question, BACK):
        (asked,) = quick.encode([of.prompt])
        for passages in quick.encode_passages(of.responses):
            chosen = passages[np.argsort(-(passages @ asked), kind="stable")[:3]]
            assert of is BACK or len(scores) < 3 or len(passages) > 6
            scores.append(max(10 * (row @ asked - 0.5 + layers.w @ (row * asked)) for row in chosen))
    assert np.allclose(found[:, -3], scores, atol=1e-4)
    for rows in (found[:4], found[4:]):
        assert np.allclose(rows[:, -2], rows[:, -3] - rows[:, -3].mean())
        assert np.allclose(rows[:, -1], rows[:, -3] - rows[:, -3].max())


def test_a_cross_encoder_adds_its_score(tokenizer: Tokenizer, quick: TextEncoder, layers: TunedLayers) -> None:
    """The score is the highest of the three passages that fit best, in three forms, behind the other features."""
    rest = "Rest in a cool room. Drink enough water every hour. " * 30
    question = Question(FEVER.prompt, (*FEVER.responses, rest + "How can I bring down a fever? " * 20 + rest))
    cross = QuickCross(lambda asked, passage: len(asked) + passage.count("a"))
    crossed = TextEncoder(QuickRuntime(), tokenizer, cross=cross)
    plain, found = (recipe_named("passages", cross=each).features([question, BACK], crossed) for each in (False, True))
    assert np.array_equal(plain, recipe_named("passages").features([question, BACK], quick))
    assert np.array_equal(found[:, :-3], plain)
    expected = []
    for of in (question, BACK):
        (asked,) = quick.encode([of.prompt])
        for response, vectors in zip(of.responses, quick.encode_passages(of.responses), strict=True):
            best = np.argsort(-(vectors @ asked), kind="stable")[:3]
            texts = quick._passages.split([response])[0]
            expected.append(max(len(of.prompt) + texts[place].count("a") for place in best))
    assert found[:, -3].tolist() == expected
    for rows in (found[:4], found[4:]):
        assert np.allclose(rows[:, -2], rows[:, -3] - rows[:, -3].mean())
        assert np.allclose(rows[:, -1], rows[:, -3] - rows[:, -3].max())
    turned = Question(question.prompt, question.responses[::-1])
    assert np.allclose(recipe_named("passages", cross=True).features([turned], crossed)[::-1], found[:4])
    quality = recipe_named("quality", cross=True).features([question, BACK], crossed)
    assert np.array_equal(quality[:, :38], found)
    tuned = recipe_named("transformer", layers=layers, cross=True).features([question, BACK], crossed)
    assert np.array_equal(tuned[:, :-3], found)
    for recipe, rows in (("passages", found), ("quality", quality), ("transformer", tuned)):
        of = recipe_named(recipe, cross=True)
        assert is_crossed(of)
        assert (len(of.feature_names()), len(of.pair_columns())) == (rows.shape[1], rows.shape[1])
    assert not is_crossed(recipe_named("joint", cross=True))
    with pytest.raises(EncoderError, match="RLHF_CROSS_ENCODER"):
        recipe_named("passages", cross=True).features([BACK], quick)


def test_transformer_takes_scores_of_others(quick: TextEncoder) -> None:
    """Scores that come from elsewhere, as out of fold, stand beside the features of `passages` in the same forms."""
    recipe = TransformerRecipe(PassagesRecipe())
    passages = recipe_named("passages").features([FEVER, BACK], quick)
    found = recipe.beside(passages, [len(FEVER.responses), len(BACK.responses)], np.array([1.0, 2.0, 6.0, 0.0, 4.0]))
    assert found.shape == (5, len(recipe.feature_names())) == (5, 38)
    assert found[:, -2].tolist() == [-2.0, -1.0, 3.0, -2.0, 2.0]
    assert found[:, -1].tolist() == [-5.0, -4.0, 0.0, -4.0, 0.0]
    assert recipe.beside(np.empty((0, 35)), [], np.empty(0)).shape == (0, 38)
    assert recipe.pair_columns().shape == (38,)


@pytest.mark.parametrize("cross", [False, True])
def test_tuned_score_counts_more(cross: bool) -> None:
    """The columns of the tuned score, and no others, are shrunk less by a fit, beside a cross-encoder's, too."""
    recipe = recipe_named("transformer", cross=cross)
    names = [name for name, scale in zip(recipe.feature_names(), recipe.scales(), strict=True) if scale > 1]
    assert names == ["tuned score", "tuned score, from the mean", "tuned score, from the best"]


def test_transformer_needs_layers(quick: TextEncoder) -> None:
    """Without tuned layers the recipe has names and no features."""
    assert len(recipe_named("transformer").feature_names()) == 38
    with pytest.raises(ValueError, match="has no tuned layers"):
        recipe_named("transformer").features([FEVER], quick)


def test_joint_text_is_prompt_separator_response(encoder: TextEncoder) -> None:
    """Recipe joint embeds exactly `prompt + " </s> " + response`."""
    assert joint_texts([BACK]) == [
        "Why does my back hurt? </s> Often the muscles are strained. Keep moving.",
        "Why does my back hurt? </s> Try swimming.",
    ]
    features = recipe_named("joint").features([BACK], encoder)
    assert features == pytest.approx(encoder.encode(joint_texts([BACK])), abs=1e-7)


def test_one_finite_row_a_candidate(recipe: Recipe, encoder: TextEncoder) -> None:
    """All candidates of all questions come in order, one row each, with a column for each name."""
    features = recipe.features([FEVER, BACK], encoder)
    assert features.shape == (5, len(recipe.feature_names()))
    assert features.dtype == np.float64
    assert np.isfinite(features).all()
    assert len(set(recipe.feature_names())) == features.shape[1]
    assert np.allclose(features[3:], recipe.features([BACK], encoder), atol=1e-6)


def test_nothing_gives_no_rows(recipe: Recipe, encoder: TextEncoder) -> None:
    """No questions give an empty matrix of the right width."""
    assert recipe.features([], encoder).shape == (0, len(recipe.feature_names()))


def test_many_questions_are_as_each_alone(passages: Recipe, encoder: TextEncoder) -> None:
    """Questions are embedded in chunks, and the rows do not show it."""
    many = passages.features([FEVER, BACK] * 40, encoder)
    assert np.allclose(many, np.tile(passages.features([FEVER, BACK], encoder), (40, 1)), atol=1e-6)


def test_the_incoming_order_says_nothing(recipe: Recipe, encoder: TextEncoder) -> None:
    """Candidates in another order have the same features, in that order."""
    order = [2, 0, 1]
    shuffled = Question(FEVER.prompt, tuple(FEVER.responses[index] for index in order))
    expected = recipe.features([FEVER], encoder)[order]
    assert np.allclose(recipe.features([shuffled], encoder), expected, atol=1e-5)


def test_another_candidate_changes_relative_columns_only(passages: Recipe, encoder: TextEncoder) -> None:
    """What an answer has in common with the question stays when an unrelated candidate joins; its standing does not."""
    alone = passages.features([FEVER], encoder)
    joined = passages.features([Question(FEVER.prompt, (*FEVER.responses, "The harbour freezes over."))], encoder)[:3]
    assert np.allclose(alone[:, OWN], joined[:, OWN], atol=1e-6)
    from_mean = slice(SIZE, 2 * SIZE)
    assert not np.allclose(alone[:, from_mean], joined[:, from_mean], atol=1e-3)


def test_a_single_candidate_has_no_standing(passages: Recipe, encoder: TextEncoder) -> None:
    """Without rivals the relative columns, and what is apart from the shared subject, are 0."""
    features = passages.features([Question(FEVER.prompt, FEVER.responses[:1])], encoder)
    assert (features[:, SIZE : 3 * SIZE] == 0).all()
    assert features[0, ANSWER_FEATURES.index("apart from the subject")] == 0
    assert features.shape[1] == 3 * SIZE + len(QUESTION_FEATURES)
    assert np.isfinite(features).all()


def test_equal_candidates_have_equal_rows(passages: Recipe, encoder: TextEncoder) -> None:
    """The same text twice gets the same features twice, all finite."""
    features = passages.features([Question(FEVER.prompt, (FEVER.responses[0], BACK.responses[0]) * 2)], encoder)
    assert np.allclose(features[:2], features[2:], atol=1e-5)
    assert np.isfinite(passages.features([Question("Why?", ("Same.", "Same.", "Same."))], encoder)).all()


@pytest.mark.slow
def test_a_long_answer_is_read_to_its_end(passages: Recipe, encoder: TextEncoder) -> None:
    """The one passage that answers the question counts even behind thousands of other words."""
    filler = "The museum shows ships of all ages, and the harbour below it is open to visitors. " * 250
    end = "To bring down a fever, rest, drink enough and take paracetamol."
    question = Question(FEVER.prompt, (filler + end, filler + "The ticket is four euros.", end))
    features = passages.features([question], encoder)
    for name in ("soft maximum of passages", "best sentence of the question", "terms in one passage"):
        column = features[:, ANSWER_FEATURES.index(name)]
        assert column[0] > column[1] + 0.04, name


def test_the_title_is_only_the_title(passages: Recipe, encoder: TextEncoder) -> None:
    """What follows its first sentence does not change how an answer's title fits."""
    heading = "How to bring down a fever."
    features = passages.features([Question(FEVER.prompt, (heading, f"{heading} Bicycles have two wheels."))], encoder)
    for index, name in enumerate(ANSWER_FEATURES):
        same = features[0, index] == pytest.approx(features[1, index], abs=1e-5)
        assert same or "title" not in name, name
    assert not np.allclose(features[0], features[1], atol=1e-2)


@pytest.mark.parametrize(
    "question",
    [
        Question("?", ("!",)),
        Question("Is it?", ("It is.", "...")),
        Question("发烧怎么办？", ("多喝水，休息。", "Ruhe 🤒 und Wasser")),
        Question("broken \ud800", ("broken \udfff too", "whole")),
        Question("a " * 3000, ("b",)),
        Question("line\nbreaks\t", ("\x00", "\u200b")),
    ],
)
def test_odd_texts_have_finite_features(recipe: Recipe, encoder: TextEncoder, question: Question) -> None:
    """Punctuation, other scripts, broken characters and stop words alone are no error."""
    features = recipe.features([question], encoder)
    assert features.shape[0] == len(question.responses)
    assert np.isfinite(features).all()
