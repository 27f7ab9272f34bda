from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from rlhf_loop.domain import Example, Question, prompt_key
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.errors import NotEnoughDataError
from rlhf_loop.reward import RECIPES, RewardModel, recipe_named
from rlhf_loop.training.data import assemble
from rlhf_loop.training.evaluation import Evaluation, Predictions, evaluate
from rlhf_loop.training.learning_curve import learning_curve, plot
from rlhf_loop.training.train import TrainingReport, best_recipe, check_enough, train


def example(prompt: str, response: str, rating: int | None, *, group: str = "g", rank: int | None = None) -> Example:
    return Example(prompt=prompt, response=response, rating=rating, group=group, rank=rank)


def test_the_report_has_all_numbers(
    trained: tuple[RewardModel, TrainingReport], sample_examples: list[Example]
) -> None:
    """On the sample ratings the report counts what was there, and judges both the model and its recipe."""
    report = trained[1]
    positive = sum(known.label or 0 for known in sample_examples)
    assert (report.rated, report.unrated, report.questions, report.positive) == (200, 0, 50, positive)
    assert (report.requested, report.seed) == ("auto", 0)
    assert report.trained_on == 200 - report.held_out.answers == 176
    assert (report.held_out.questions, report.overall.questions) == (6, 50)
    assert report.overall.answers == 200
    assert report.cross_validated[report.recipe].answers == 176
    assert report.cut == 0
    assert set(report.seconds) == {
        *("grouping", "reading", "unseen documents"),
        *(f"{recipe} {stage}" for recipe in RECIPES for stage in ("features", "fit")),
        "evaluation",
        "relevance",
        "pointwise fit",
    }
    assert report.overall.gain is not None
    assert report.overall.gain.value >= 0


def test_auto_keeps_the_better_recipe(trained: tuple[RewardModel, TrainingReport]) -> None:
    """With auto both recipes are tried, and the one that is best by cross-validation makes the model."""
    model, report = trained
    assert set(report.cross_validated) == set(RECIPES)
    p_at_1 = {name: found.orders["model"].precision_at_1.value for name, found in report.cross_validated.items()}
    assert report.recipe == model.recipe == max(p_at_1, key=lambda name: p_at_1[name])
    assert p_at_1["passages"] > p_at_1["joint"] + 0.1


def test_a_recipe_can_be_asked_for(sample_examples: list[Example], encoder: TextEncoder) -> None:
    """With a name only that recipe is tried; an unknown one is refused."""
    trained = train(sample_examples, encoder=encoder, recipe="joint")
    model, report = trained.model, trained.report
    assert (model.recipe, report.recipe, report.requested) == ("joint", "joint", "joint")
    assert list(report.cross_validated) == ["joint"]
    assert np.isin(trained.fitted, trained.data.prompt_hash).all(), "the questions by their hashes, to the last bit"
    with pytest.raises(ValueError, match="magic"):
        train(sample_examples, encoder=encoder, recipe="magic")


def test_the_seed_decides(
    trained: tuple[RewardModel, TrainingReport], sample_examples: list[Example], encoder: TextEncoder
) -> None:
    """The same seed gives the same model and numbers; another seed holds out other questions."""
    model, report = trained
    trained = train(sample_examples, encoder=encoder)
    again, same = trained.model, trained.report
    trained = train(sample_examples, encoder=encoder, seed=1)
    other, different = trained.model, trained.report
    for name, number in asdict(model.scorer).items():
        assert np.array_equal(getattr(again.scorer, name), number), name
    # As texts: where no answer is expected to be correct, there is no precision, and nan is not equal to itself.
    assert str(asdict(replace(same, seconds=report.seconds))) == str(asdict(report))
    assert (other.scorer.coef != model.scorer.coef).any()
    assert different.held_out != report.held_out


def test_the_model_scores_what_the_report_judged(
    trained: tuple[RewardModel, TrainingReport], encoder: TextEncoder
) -> None:
    """The model tells apart answers to a question of which it knows nothing."""
    question = Question(
        "Is it safe to take ibuprofen while pregnant?",
        (
            "The Eiffel Tower is repainted every seven years.",
            "Ibuprofen should not be taken from week 20 of pregnancy on, because it can harm the baby's kidneys and "
            "heart. Paracetamol is the usual choice; ask your doctor or midwife before taking any medicine.",
        ),
    )
    (scores,) = trained[0].score([question], encoder)
    assert 0 < scores[0] < scores[1] < 1


def varied(count: int, *, good: Sequence[int] = (), answers: int = 2) -> list[Example]:
    """Answers to `count` questions; the first answer of those in `good` is a good one."""
    return [
        example(
            f"Question {number} about subject {number % 7}?",
            f"Answer {place} of subject {number % 7 if place == 0 else number % 5}.",
            5 if number in good and place == 0 else 2,
            group=f"g{number}",
        )
        for number in range(count)
        for place in range(answers)
    ]


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([], "Only 0 rated interactions; training needs 50"),
        (varied(12, good=range(12)), "Only 24 rated interactions; training needs 50"),
        ([replace(known, rating=None) for known in varied(60)], "Only 0 rated"),
        (varied(30), r"All 60 rated interactions are rated < 4: 0 correct, 60 incorrect"),
        (varied(60, good=range(60), answers=1), r"All 60 rated interactions are rated >= 4: 60 correct, 0 incorrect"),
        (varied(30, good=[3]), "Only 1 of the 30 questions have correct answers; training needs 3"),
        (varied(30, good=[3, 4]), "Only 2 of the 30 questions have correct answers"),
        (varied(60, good=range(58), answers=1), "Only 2 of the 60 questions have incorrect answers"),
        (varied(1, good=[0], answers=60), "Only 1 of the 1 questions have correct answers"),
    ],
)
def test_too_little_to_learn_from(encoder: TextEncoder, examples: list[Example], message: str) -> None:
    """Too few ratings, one class or too few questions is an error that has the counts."""
    with pytest.raises(NotEnoughDataError, match=message):
        train(examples, encoder=encoder)


def test_the_least_there_must_be(encoder: TextEncoder) -> None:
    """Three questions of each class suffice for a training, whatever the seed and the number of the others."""
    for count in (26, 27, 33):
        for seed in range(4):
            report = train(varied(count, good=[1, 2, 3]), encoder=encoder, seed=seed, recipe="joint").report
            assert report.positive == 3
    check_enough(assemble(varied(4, good=[0, 1, 2])), min_samples=8)


class SpyRecipe:
    """A recipe that remembers what it was asked for; its feature is the length of the answer."""

    name, version, scaled, penalty_c = "spy", 1, True, 1.0

    def __init__(self) -> None:
        self.questions: list[Question] = []

    def feature_names(self) -> list[str]:
        return ["length"]

    def scales(self) -> np.ndarray:
        return np.ones(1)

    def features(self, questions: Sequence[Question], encoder: TextEncoder) -> np.ndarray:
        self.questions += questions
        return np.array([[float(len(response))] for question in questions for response in question.responses])


def test_the_same_question_in_other_groups_stays_on_one_side(
    monkeypatch: pytest.MonkeyPatch, encoder: TextEncoder
) -> None:
    """Answers to one prompt are never split, though it was asked in different groups and in other letter case."""
    prompts = [f"Question {number}?" for number in range(20)]
    examples = [
        example(
            prompt.upper() if group % 2 else f" {prompt}  ",
            f"{group} {'long' * (index % 3)}",
            1 + index % 5,
            group=str(n),
        )
        for n, (index, prompt, group) in enumerate((i, p, g) for i, p in enumerate(prompts) for g in range(4))
    ]
    data = assemble(examples)
    assert len(data.start) - 1 == 80
    assert len(np.unique(data.prompt)) == 20
    seen: list[Predictions] = []

    def spy(predictions: Predictions) -> Evaluation:
        seen.append(predictions)
        return evaluate(predictions)

    monkeypatch.setitem(RECIPES, "spy", SpyRecipe())
    monkeypatch.setattr("rlhf_loop.training.train.evaluate", spy)
    report = train(examples, encoder=encoder, recipe="spy").report
    assert report.questions == 20
    inside, outside, *_ = (len(predictions.question) for predictions in seen)
    assert (inside, outside) == (72, 8)  # two of the twenty questions, with the four answers to each


class NamingRecipe(SpyRecipe):
    """A recipe whose features only name the prompt, one of forty."""

    name = "naming"

    def feature_names(self) -> list[str]:
        return [f"Question {number}?" for number in range(40)]

    def features(self, questions: Sequence[Question], encoder: TextEncoder) -> np.ndarray:
        prompts = [question.prompt for question in questions for _ in question.responses]
        return np.equal.outer(prompts, self.feature_names()).astype(float)


def test_cross_validation_knows_no_prompt(monkeypatch: pytest.MonkeyPatch, encoder: TextEncoder) -> None:
    """A prompt that was asked in several groups is in one fold: to know its other answers would be a giveaway."""
    ratings = np.random.default_rng(0).permutation([1, 5] * 20)
    examples = [
        example(f"Question {number}?", f"{group}", int(rating), group=f"{number} {group}")
        for group in range(4)
        for number, rating in enumerate(ratings)
    ]
    monkeypatch.setitem(RECIPES, "naming", NamingRecipe())
    report = train(examples, encoder=encoder, recipe="naming").report
    assert report.cross_validated["naming"].auc.value < 0.6
    assert report.held_out.auc.value < 0.6


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("What?", " what?\n", True), ("a  b", "A b", True), ("STRASSE", "straße", True), ("What?", "What", False)],
)
def test_prompt_key(one: str, other: str, same: bool) -> None:
    """Letter case and white space make no other question, anything else does."""
    assert (prompt_key(one) == prompt_key(other)) is same


def test_assemble_lays_out_rows() -> None:
    """Each rated answer knows its row among all candidates, its question, its rank; groups without ratings are out."""
    data = assemble(
        [
            example("A?", "a1", None, group="a"),
            example("B?", "b1", 5, group="b", rank=2),
            example("C?", "c1", None, group="c"),
            example("A?", "a2", 1, group="a"),
            example("b?", "b2", 4, group="b"),
            example("B?", "b3", 2, group="b2", rank=1),
        ]
    )
    assert [question.responses for chunk in data.chunks() for question in chunk.questions] == [
        ("a1", "a2"),
        ("b1", "b2"),
        ("b3",),
    ]
    assert data.row.tolist() == [1, 2, 3, 4]
    assert data.question.tolist() == [0, 1, 1, 2]
    assert data.prompt.tolist() == [0, 1, 1, 1]
    assert data.label.tolist() == [0, 1, 1, 0]
    assert data.rank.tolist() == pytest.approx([np.nan, 2, np.nan, 1], nan_ok=True)


def test_unrated_siblings_are_context(sample_examples: list[Example], encoder: TextEncoder) -> None:
    """Unrated siblings change the features of the rated answers, and are themselves neither learned nor judged."""
    kept = {group: position for position, group in enumerate(dict.fromkeys(e.group for e in sample_examples))}
    places: dict[str, int] = {}
    thinned = []
    for known in sample_examples:
        place = places[known.group] = places.get(known.group, -1) + 1
        rated = place in (kept[known.group] % 4, (kept[known.group] + 1) % 4)
        thinned.append(known if rated else replace(known, rating=None))
    trained = train(thinned, encoder=encoder, recipe="passages")
    with_context, report = trained.model, trained.report
    trained = train([e for e in thinned if e.rating], encoder=encoder, recipe="passages")
    without, alone = trained.model, trained.report
    assert (report.rated, report.unrated) == (100, 100)
    assert (alone.rated, alone.unrated) == (100, 0)
    assert report.overall.answers == alone.overall.answers == 100
    assert report.positive == alone.positive
    assert not np.allclose(with_context.scorer.coef, without.scorer.coef, atol=1e-3)


def _saying(*probability: float, questions: int) -> Predictions:
    """Questions with a bad answer and a good one, of which the probabilities are repeated over the questions."""
    said = np.resize(np.array(probability), 2 * questions)
    question = np.repeat(np.arange(questions), 2)
    return Predictions(question, np.tile([1, 5], questions), said, np.tile([1.0, 2.0], questions))


@pytest.mark.parametrize(
    ("questions", "other", "expected"),
    [
        (40, (0.1, 0.9), "other"),
        (40, (0.4, 0.6) * 7 + (0.6, 0.4) * 3, "first"),
        (2, (0.9, 0.1), "first"),
        (40, (0.4, 0.6, 0.6, 0.4), "first"),
    ],
)
def test_best_recipe(questions: int, other: tuple[float, ...], expected: str) -> None:
    """The first recipe is kept unless another is certainly better; a lead by chance, or none, is not enough."""
    first = _saying(0.4, 0.6, 0.4, 0.6, 0.6, 0.4, questions=questions)
    assert best_recipe({"first": first, "other": _saying(*other, questions=questions)}) == expected


def test_a_recipe_that_luck_could_equal_is_not_taken() -> None:
    """Better in every draw is not enough where a model that knows nothing might do as well: on two questions."""
    for questions, expected in ((2, "first"), (40, "other")):
        both = {
            "first": _saying(0.6, 0.4, questions=questions),
            "other": _saying(0.1, 0.9, 0.2, 0.3, questions=questions),
        }
        assert best_recipe(both) == expected


def test_learning_curve(sample_examples: list[Example], encoder: TextEncoder, tmp_path: Path) -> None:
    """The points rise in ratings from 50 to four fifths of all, all measured, and can be drawn."""
    points = learning_curve(sample_examples, recipe=recipe_named("passages"), encoder=encoder)
    assert [point.rated for point in points] == [50, 100, 160]
    for point in points:
        for value in (point.accuracy, point.auc, point.precision_at_1):
            assert 0 < value <= 1
    assert points == learning_curve(sample_examples, recipe=recipe_named("passages"), encoder=encoder)
    picture = tmp_path / "new folder" / "curve.png"
    plot(points, picture, title="Quality")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_learning_curve_of_single_answers(encoder: TextEncoder) -> None:
    """Where every question has one answer nothing can be ranked: P@1 is nan and the rest is measured."""
    examples = varied(90, good=range(0, 90, 3), answers=1)
    points = learning_curve(examples, recipe=recipe_named("joint"), encoder=encoder)
    assert [point.rated for point in points] == [50, 72]
    assert np.isnan([point.precision_at_1 for point in points]).all()
    assert all(0 <= value <= 1 for point in points for value in (point.accuracy, point.auc))
