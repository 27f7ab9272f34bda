from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np
import pytest

from rlhf_loop.domain import Example, Pair, PairKind, Question, ReviewerRole, prompt_key
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.errors import NotEnoughDataError
from rlhf_loop.reward import RECIPES, RewardModel, prior, recipe_named
from rlhf_loop.reward.splitting import holdout
from rlhf_loop.training.data import assemble
from rlhf_loop.training.fit import MOST_ANSWERS, rating_weights, read_pairs, rows_for
from rlhf_loop.training.pairs import pair_set
from rlhf_loop.training.train import HOLDOUT_SHARE, TrainingReport, judged_rows, train


class WordsRecipe:
    """A recipe with a column for each of some words; it needs no encoder."""

    name, version, reads_all, scaled, penalty_c = "words", 1, True, False, 1.0
    words: tuple[str, ...] = ()

    def feature_names(self) -> list[str]:
        return list(self.words)

    def pair_columns(self) -> np.ndarray:
        return np.ones(len(self.words), dtype=np.bool_)

    def scales(self) -> np.ndarray:
        return np.ones(1)

    def features(self, questions: Sequence[Question], encoder: TextEncoder) -> np.ndarray:
        texts = [set(response.split()) for question in questions for response in question.responses]
        return np.array([[float(word in text) for word in self.words] for text in texts])


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> WordsRecipe:
    recipe = WordsRecipe()
    monkeypatch.setitem(RECIPES, "words", recipe)
    return recipe


def rated(questions: int) -> list[Example]:
    """Four answers to each question; those that say "good" are, and one of each kind is "short"."""
    return [
        Example(f"Question {number}?", text, rating, f"g{number}", rank)
        for number in range(questions)
        for rank, (text, rating) in enumerate([("good short", 5), ("bad short", 1), ("good", 4), ("bad", 2)], start=1)
    ]


def hint(prompt: str, response: str, rating: int, weight: float = 0.25) -> Example:
    return Example(prompt, response, rating, f"hint {prompt}", None, weight, ReviewerRole.END_USER)


def held_prompts(examples: Sequence[Example], seed: int = 0) -> set[str]:
    data = assemble(examples)
    held = holdout(data.prompt, data.label, share=HOLDOUT_SHARE, seed=seed)
    questions = [question.prompt for chunk in data.chunks() for question in chunk.questions]
    return {prompt_key(questions[index]) for index in data.question[held]}


def same_model(one: RewardModel, other: RewardModel) -> bool:
    return all(np.array_equal(getattr(one.scorer, name), number) for name, number in asdict(other.scorer).items())


def test_without_pairs_and_end_users_nothing_has_changed(
    trained: tuple[RewardModel, TrainingReport], sample_examples: list[Example], encoder: TextEncoder
) -> None:
    """Experts' ratings alone give to the last bit the model of a plain fit on what is not held out."""
    model, report = trained
    data, recipe = assemble(sample_examples), recipe_named(model.recipe)
    questions = [question for chunk in data.chunks() for question in chunk.questions]
    features = recipe.features(questions, encoder).astype(np.float32)
    kept = ~holdout(data.prompt, data.label, share=HOLDOUT_SHARE, seed=0)
    plain = prior.classifier(recipe, encoder.id)
    plain.fit(features[kept], data.label[kept], data.prompt[kept])
    assert same_model(model, replace(model, scorer=plain.scorer_))
    assert (report.judged_by, report.experts, report.end_users) == (ReviewerRole.EXPERT, 200, 0)
    assert (report.end_user_weight, report.pairs.corrections, report.pairs.accuracy) == (None, 0, None)
    assert "pairs" not in report.seconds


def test_pairs_turn_an_order_around(words: WordsRecipe, encoder: TextEncoder) -> None:
    """What the ratings do not tell apart is ordered as the pairs say, either way."""
    words.words = ("good", "short")
    question = Question("Which one?", ("short", "-"))
    scores = {}
    for name, pair in {"none": (), "short": ("short", "-"), "long": ("-", "short")}.items():
        pairs = [Pair(f"Other {number}?", *pair) for number in range(10)] if pair else []
        model = train(rated(20), pairs=pairs, encoder=encoder, recipe="words").model
        (scores[name],) = model.score([question], encoder)
    assert scores["none"][0] == pytest.approx(scores["none"][1], rel=0.1)
    assert scores["short"][0] > 2 * scores["short"][1]
    assert scores["long"][1] > 2 * scores["long"][0]


def test_pairs_of_held_out_questions_are_not_fitted_on(
    trained: tuple[RewardModel, TrainingReport], sample_examples: list[Example], encoder: TextEncoder
) -> None:
    """Pairs of held-out questions alone leave the model as it is to the last bit, and are counted as held out."""
    held = held_prompts(sample_examples)
    pairs = [Pair(prompt.upper(), "A better answer.", "A worse one!") for prompt in sorted(held)]
    again = train(sample_examples, pairs=pairs, encoder=encoder)
    model, report = again.model, again.report
    assert same_model(model, trained[0])
    assert (report.pairs.preferences, report.pairs.held_out, report.pairs.judged) == (6, 6, 6)
    others = [replace(pair, prompt=f"Which planet is number {place} from the sun?") for place, pair in enumerate(pairs)]
    again = train(sample_examples, pairs=others, encoder=encoder)
    model, report = again.model, again.report
    assert not same_model(model, trained[0])
    assert (report.pairs.preferences, report.pairs.held_out, report.pairs.judged) == (6, 0, 0)


def test_each_pair_is_fitted_on_or_held_out(words: WordsRecipe, encoder: TextEncoder) -> None:
    """Each pair and each end user's rating has taught the model its word, unless its question is held out."""
    examples, other = rated(20), ["Unrated 1?", "Unrated 2?"]
    held = held_prompts(examples)
    prompts = [*(f"Question {number}?" for number in range(20)), *other]
    words.words = ("good", *(f"pair{place}" for place in range(22)), *(f"hint{place}" for place in range(22)))
    pairs = [Pair(prompt, f"pair{place}", "-") for place, prompt in enumerate(prompts)]
    hints = [hint(prompt, f"hint{place}", 5) for place, prompt in enumerate(prompts)]
    trained = train([*examples, *hints], pairs=pairs, encoder=encoder, recipe="words")
    model, report = trained.model, trained.report
    learned = np.abs(model.scorer.coef[1:]) > 1e-3
    expected = [prompt_key(prompt) not in held for prompt in prompts]
    assert learned.tolist() == expected * 2
    assert (report.pairs.held_out, report.end_users) == (len(held), 22 - len(held))
    assert (report.rated, report.questions, report.held_out.answers) == (80, 20, 4 * len(held))
    assert (report.judged_by, report.experts) == (ReviewerRole.EXPERT, 80)


def test_cross_validation_does_not_see_the_pairs_of_a_fold(words: WordsRecipe, encoder: TextEncoder) -> None:
    """Pairs that say nothing about other questions are in the right order half of the time, though each is learned."""
    words.words = ("good", *(f"pair{place}" for place in range(30)))
    pairs = [Pair(f"Question {place}?", f"pair{place}", "-") for place in range(30)]
    report = train(rated(30), pairs=pairs, encoder=encoder, recipe="words").report
    assert report.pairs.judged == 30
    assert report.pairs.accuracy is not None
    assert report.pairs.accuracy.value == 0.5  # all ties
    useful = [replace(pair, chosen="good", rejected="bad") for pair in pairs]
    report = train(rated(30), pairs=useful, encoder=encoder, recipe="words").report
    assert report.pairs.accuracy is not None
    assert report.pairs.accuracy.value == 1.0
    assert train(rated(30), pairs=useful[:19], encoder=encoder, recipe="words").report.pairs.accuracy is None
    theirs = [replace(pair, role=ReviewerRole.END_USER) for pair in useful]
    report = train(rated(30), pairs=theirs, encoder=encoder, recipe="words").report
    assert (report.pairs.preferences, report.pairs.judged, report.pairs.accuracy) == (30, 0, None)


def test_a_correction_weighs_less(words: WordsRecipe, encoder: TextEncoder) -> None:
    """Of two pairs that contradict each other a preference wins over a correction, and both are counted."""
    words.words = ("good", "short")
    pairs = [Pair("Why?", "short", "-"), Pair("How?", "-", "short", kind=PairKind.CORRECTION)]
    plain = train(rated(20), encoder=encoder, recipe="words").model
    trained = train(rated(20), pairs=pairs, encoder=encoder, recipe="words")
    model, report = trained.model, trained.report
    assert model.scorer.coef[1] > plain.scorer.coef[1] + 0.01
    assert (report.pairs.corrections, report.pairs.preferences) == (1, 1)


def test_end_users_never_outweigh_the_experts() -> None:
    """Hints keep their weights as long as they are no more than the experts' ratings; more of them share as much."""
    experts, fitted = rated(5), np.ones(60, dtype=np.bool_)
    for hints, expected in ((10, 0.25), (20, 0.25), (40, 0.125)):
        data = assemble([*experts, *(hint(f"Other {number}?", "-", 5) for number in range(hints))])
        weights = rating_weights(data, data.expert, fitted[: 20 + hints])
        assert weights[data.expert].tolist() == [1.0] * 20
        assert weights[~data.expert].tolist() == [expected] * hints


def test_end_users_alone(words: WordsRecipe, encoder: TextEncoder) -> None:
    """Where experts have rated too little and end users enough, all are judged by, and the report says so."""
    words.words = ("good", "short")
    theirs = [replace(each, role=ReviewerRole.END_USER, weight=0.25) for each in rated(20)]
    experts = [Example("Mine?", "good", 5, "m"), Example("Mine?", "bad", 1, "m")]
    report = train([*theirs, *experts], encoder=encoder, recipe="words").report
    assert (report.judged_by, report.rated, report.experts, report.end_users) == (ReviewerRole.END_USER, 82, 2, 0)
    assert report.held_out.answers + report.trained_on == 82
    enough = [replace(each, role=ReviewerRole.EXPERT, weight=1.0) for each in theirs[:52]]
    report = train([*enough, *theirs[52:]], encoder=encoder, recipe="words").report
    assert (report.judged_by, report.rated, report.experts) == (ReviewerRole.EXPERT, 52, 52)
    assert report.end_users == 28
    assert report.end_user_weight == 0.25
    data = assemble([*theirs, *experts])
    assert judged_rows(data, 2).sum() == 2
    assert judged_rows(data, 100).sum() == 2


def test_neither_pairs_nor_hints_make_up_for_ratings(words: WordsRecipe, encoder: TextEncoder) -> None:
    """Pairs do not count toward the ratings that it takes, and the message has experts' and end users' counts."""
    words.words = ("good",)
    pairs = [Pair(f"Question {number}?", "good", "bad") for number in range(100)]
    with pytest.raises(NotEnoughDataError, match="Only 40 rated interactions; training needs 50"):
        train(rated(10), pairs=pairs, encoder=encoder, recipe="words")
    few = [hint(f"Other {number}?", "bad", 1) for number in range(9)]
    with pytest.raises(NotEnoughDataError, match=r"Only 40 rated interactions by experts, and 9 by end users; tr"):
        train([*rated(10), *few], pairs=pairs, encoder=encoder, recipe="words")


def test_pairs_are_read_in_chunks(quick: TextEncoder) -> None:
    """The features of pairs are the differences of two candidates, but for what depends on the list of candidates."""
    pairs = [Pair(f"What helps against {n}?", f"Take {n} of these and rest.", f"It is {n}.") for n in range(700)]
    recipes = [recipe_named("passages"), recipe_named("joint")]
    seen: list[tuple[int, int]] = []
    found = read_pairs(pair_set(pairs), recipes, quick, progress=lambda *done: seen.append(done))
    assert [*dict.fromkeys(seen)] == [(512, 700), (700, 700)]
    for recipe in recipes:
        questions = [Question(pair.prompt, (pair.chosen, pair.rejected)) for pair in pairs[600:]]
        features = recipe.features(questions, quick)
        expected = features[::2] - features[1::2]
        names = recipe.feature_names()
        silent = [index for index, name in enumerate(names) if name.startswith("apart from the subject")]
        assert len(silent) == (3 if recipe.name == "passages" else 0)
        assert np.abs(expected[:, silent]).max(initial=1) > 0.1
        expected[:, silent] = 0
        assert np.allclose(found.difference[recipe.name][600:], expected, atol=1e-6)
        assert found.rows[recipe.name].all()


def test_what_else_is_in_the_list_does_not_matter(encoder: TextEncoder) -> None:
    """Two answers differ as they do in a longer list with both, in all columns that pairs may speak of."""
    recipe = recipe_named("passages")
    answers = ("Drink water and rest.", "A fever is a rise of the temperature.", "Call a doctor.", "Sleep helps.")
    features = recipe.features([Question("What helps against a fever?", answers)], encoder)
    found = read_pairs(pair_set([Pair("What helps against a fever?", answers[0], answers[2])]), [recipe], encoder)
    columns = recipe.pair_columns()
    assert np.allclose(found.difference["passages"][0, columns], (features[0] - features[2])[columns], atol=1e-5)
    assert (found.difference["passages"][0, ~columns] == 0).all()


def test_the_yardstick_has_a_sample_of_very_many_pairs(encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipe joint gets as many pairs as make the rows that it may have, drawn by the seed; passages gets all."""
    assert MOST_ANSWERS["joint"] == 50_000
    monkeypatch.setattr("rlhf_loop.training.fit.MOST_ANSWERS", {"joint": 20})
    pairs = pair_set([Pair("Why?", f"Because of {n}.", "Who knows.") for n in range(30)])
    recipes = [recipe_named("passages"), recipe_named("joint")]
    rows = [read_pairs(pairs, recipes, encoder, seed=seed).rows for seed in (0, 1)]
    assert [int(each["joint"].sum()) for each in rows] == [10, 10]
    assert all(each["passages"].all() for each in rows)
    assert (rows[0]["joint"] != rows[1]["joint"]).any()


def test_experts_come_first_into_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are more ratings than the yardstick may have, those by experts are in before end users'."""
    monkeypatch.setattr("rlhf_loop.training.fit.MOST_ANSWERS", {"joint": 30})
    data = assemble([*(hint(f"Other {number}?", "-", 5) for number in range(200)), *rated(5)])
    rows = rows_for(recipe_named("joint"), data, judged=data.expert)
    assert rows[data.expert].all()
    assert rows.sum() == 30


def test_progress_counts_pairs_too(encoder: TextEncoder, words: WordsRecipe) -> None:
    """The progress goes on from the questions to the answers, the pairs and the fits, and reaches one end."""
    words.words = ("good",)
    seen: list[tuple[int, int]] = []
    pairs = [Pair(f"Question {number}?", "good", "bad") for number in range(600)]
    train(rated(300), pairs=pairs, encoder=encoder, recipe="words", progress=lambda *done: seen.append(done))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert {total for _, total in seen} == {2_835}
    assert seen[-1] == (2_835, 2_835)
