from __future__ import annotations

import gc
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from rlhf_loop.domain import Example, Pair
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.errors import NotEnoughDataError
from rlhf_loop.reward import recipe_named
from rlhf_loop.reward.splitting import holdout
from rlhf_loop.training.data import AnswerText, Texts, TrainingSet, assemble, fingerprint, numbered
from rlhf_loop.training.fit import MOST_ANSWERS, read_features, rows_for
from rlhf_loop.training.learning_curve import learning_curve
from rlhf_loop.training.pairs import PairNumbers, PairText, PairTexts, pair_set
from rlhf_loop.training.train import train


def many(answers: int) -> list[Example]:
    """Five answers to each question, the first of them rated best most of the time, the last one not at all."""
    return [
        Example(
            f"What about subject {number // 5}?",
            f"{'Subject' if number % 5 < 2 else 'Thing'} {number // 5} has number {number}.",
            None if number % 5 == 4 else 5 if number % 5 < 1 + number % 2 else 2,
            f"g{number // 5}",
            1 + number % 5,
        )
        for number in range(answers)
    ]


class Tracked(str):
    """A text that can be watched."""


class Watching:
    """Gives texts out and knows which ones are still held by somebody."""

    def __init__(self, texts: Texts) -> None:
        self._texts = texts
        self.alive: weakref.WeakSet[Tracked] = weakref.WeakSet()
        self.most = 0
        self.asked: list[int] = []

    def read(self, ids: Sequence[int]) -> Mapping[int, AnswerText]:
        self.asked += ids
        found = {id: replace(text, response=Tracked(text.response)) for id, text in self._texts.read(ids).items()}
        self.alive.update(text.response for text in found.values())  # type: ignore[arg-type]
        self.most = max(self.most, len(self.alive))
        return found


class WatchingPairs:
    """The same for the better answers of pairs."""

    def __init__(self, texts: PairTexts) -> None:
        self._texts = texts
        self.alive: weakref.WeakSet[Tracked] = weakref.WeakSet()
        self.most = 0
        self.asked: list[int] = []

    def read(self, pairs: PairNumbers) -> Mapping[int, PairText]:
        self.asked += pairs["id"].tolist()
        found = {place: replace(text, chosen=Tracked(text.chosen)) for place, text in self._texts.read(pairs).items()}
        self.alive.update(text.chosen for text in found.values())  # type: ignore[arg-type]
        self.most = max(self.most, len(self.alive))
        return found


@contextmanager
def no_collection() -> Iterator[None]:
    """Keep the collector of cyclic garbage from running inside the block: what is freed there is freed by its owner.

    Also, it might meet what earlier tests left behind. Where a finaliser of theirs catches an exception, its traceback
    holds our frames with all their texts, until a later collection.
    """
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class Losing:
    """Texts some of which are gone or not what they were."""

    def __init__(self, texts: Texts, gone: Sequence[int], changed: Sequence[int]) -> None:
        self._texts = texts
        self._gone = set(gone)
        self._changed = set(changed)

    def read(self, ids: Sequence[int]) -> Mapping[int, AnswerText]:
        return {
            id: replace(text, response=text.response + "!") if id in self._changed else text
            for id, text in self._texts.read(ids).items()
            if id not in self._gone
        }


@pytest.mark.slow
def test_no_step_holds_all_texts(quick: TextEncoder) -> None:
    """A training reads each text once for all recipes, that of one answer to each question before, to group them
    by, the first chunk before, to see its language, and then those of 200 questions beside answers to others; and it
    never holds more than two chunks of them.
    """
    data = assemble(many(3_000))
    watching = Watching(data.texts)
    with no_collection():
        report = train(replace(data, texts=watching), encoder=quick).report
        assert len(watching.alive) == 0
    assert (report.rated, report.unrated) == (2_400, 600)
    again = Counter(watching.asked) - Counter([*range(0, 3_000, 5), *range(3_000), *range(1_020)])
    assert (again.total(), max(again.values()), len({answer // 5 for answer in again})) == (800, 1, 200)
    assert watching.most <= 2 * 1024


@pytest.mark.slow
def test_no_step_holds_all_texts_of_pairs(quick: TextEncoder) -> None:
    """A training reads the texts of each pair once to group it and once for both recipes, and holds a few chunks."""
    pairs = pair_set([Pair(f"What about {number}?", f"Good {number}.", f"Bad {number}.") for number in range(1_600)])
    watching = WatchingPairs(pairs.texts)
    with no_collection():
        report = train(many(100), pairs=replace(pairs, texts=watching), encoder=quick).report
        assert len(watching.alive) == 0
    assert report.pairs.preferences == 1_600
    assert watching.asked == 2 * list(range(1_600))
    assert watching.most <= 2 * 512


def test_progress_reaches_the_end(quick: TextEncoder) -> None:
    """The progress rises by a quarter of the questions, by all candidates, and by the fits, each a tenth of these."""
    seen: list[tuple[int, int]] = []
    data = assemble(many(3_000))
    train(data, encoder=quick, recipe="passages", progress=lambda *done: seen.append(done))
    questions = len(np.unique(data.prompt)) // 4
    assert questions > 0
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert [*dict.fromkeys(done - questions for done, _ in seen)][-4:] == [3_000, 3_300, 3_600, 3_900]
    assert {total - questions for _, total in seen} == {3_900}


def test_chunks_are_whole_questions() -> None:
    """Chunks have whole questions in order, a question of any size in one, and no candidate twice."""
    sizes = [3, 1023, 1, 1, 5000, 2, 600, 600]
    examples = [
        Example(f"Question {question}?", f"Answer {number}.", 1 + number % 5, "g")
        for question, size in enumerate(sizes)
        for number in range(size)
    ]
    chunks = list(assemble(examples).chunks())
    assert [[len(each.responses) for each in chunk.questions] for chunk in chunks] == [
        [3],
        [1023, 1],
        [1],
        [5000],
        [2, 600],
        [600],
    ]
    assert np.concatenate([chunk.row for chunk in chunks]).tolist() == list(range(sum(sizes)))
    assert list(assemble([]).chunks()) == []


def test_part_of_a_chunk() -> None:
    """Of a chunk the questions with wanted candidates can be had, with all of their candidates."""
    (chunk,) = assemble(many(20)).chunks()
    wanted = np.zeros(20, dtype=np.bool_)
    wanted[[7, 16]] = True
    part = chunk.only(wanted)
    assert part.questions == (chunk.questions[1], chunk.questions[3])
    assert part.row.tolist() == [5, 6, 7, 8, 9, 15, 16, 17, 18, 19]
    assert chunk.only(wanted & False).questions == ()


@pytest.mark.slow
def test_what_is_gone_or_changed_is_left_out(quick: TextEncoder) -> None:
    """Answers that are no longer what was rated are left out of the training, and what remains is trained on."""
    examples = many(3_000)
    data = assemble(examples)
    ids = data.candidates["id"].tolist()
    gone, changed = [*range(1500, 2800), 4], [0, 9]
    lossy = replace(data, texts=Losing(data.texts, gone, changed))
    chunks = list(lossy.chunks())
    there = [ids[row] for chunk in chunks for row in chunk.row]
    assert there == [id for id in ids if id not in {*gone, *changed}]
    assert chunks[0].questions[0].responses == tuple(each.response for each in examples[1:4])
    report = train(lossy, encoder=quick).report
    plain = train([examples[id] for id in there], encoder=quick, recipe="passages").report
    assert (report.rated, report.unrated) == (plain.rated, plain.unrated) == (1359, 338)
    assert report.overall.answers == 1359
    points = learning_curve(lossy, recipe=recipe_named("passages"), encoder=quick)
    assert points[-1].rated < 1359


def test_nothing_left_is_too_little(quick: TextEncoder) -> None:
    """Where all texts have gone meanwhile there is not enough data, as if there had never been any."""
    data = assemble(many(1_200))
    with pytest.raises(NotEnoughDataError, match="Only 0 rated"):
        train(replace(data, texts=Losing(data.texts, range(1_200), [])), encoder=quick)


@pytest.mark.slow
def test_features_are_those_of_all_questions_at_once(quick: TextEncoder) -> None:
    """Chunk by chunk a recipe gives each rated answer the features that it gets among all questions."""
    data = assemble(many(3_000))
    questions = [question for chunk in data.chunks() for question in chunk.questions]
    for name in ("passages", "joint"):
        recipe = recipe_named(name)
        found = read_features(data, {name: rows_for(recipe, data)}, quick)
        assert found.features[name].dtype == np.float32
        assert found.there.all()
        assert found.candidates == 3_000
        expected = recipe.features(questions, quick)[data.row]
        assert np.allclose(found.features[name], expected, atol=1e-6)


def sampled_set(monkeypatch: pytest.MonkeyPatch, most: int) -> TrainingSet:
    monkeypatch.setattr("rlhf_loop.training.fit.MOST_ANSWERS", {"joint": most})
    return assemble(many(3_000))


@pytest.mark.slow
def test_the_yardstick_has_a_sample(quick: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond its limit recipe joint has a random sample of questions, and the recipes are compared on that."""
    data = sampled_set(monkeypatch, 500)
    report = train(data, encoder=quick).report
    assert report.sampled == 500
    inside = {name: (each.answers, each.questions) for name, each in report.cross_validated.items()}
    assert inside["passages"] == inside["joint"]
    assert inside["joint"][0] < 500
    assert report.recipe == "passages"
    assert (report.trained_on + report.held_out.answers, report.overall.answers) == (2_400, 2_400)
    joint = train(data, encoder=quick, recipe="joint").report
    assert (joint.rated, joint.sampled, joint.overall.answers) == (2_400, 500, 500)
    assert joint.trained_on + joint.held_out.answers == 500
    assert joint.cross_validated["joint"].answers == inside["joint"][0]
    points = learning_curve(data, recipe=recipe_named("joint"), encoder=quick)
    assert points[-1].rated <= 400


def test_without_need_there_is_no_sample(quick: TextEncoder) -> None:
    """Few ratings are used by every recipe."""
    data = assemble(many(100))
    assert len(data.row) < MOST_ANSWERS["joint"]
    assert train(data, encoder=quick).report.sampled is None
    assert rows_for(recipe_named("joint"), data).all()


def test_the_sample_is_of_whole_questions_and_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A question is in the sample with all of its answers or with none; the seed decides which ones."""
    data = sampled_set(monkeypatch, 501)
    rows = rows_for(recipe_named("joint"), data)
    assert rows.sum() == 500
    assert not set(data.prompt[rows]) & set(data.prompt[~rows])
    assert (rows == rows_for(recipe_named("joint"), data)).all()
    assert (rows != rows_for(recipe_named("joint"), data, seed=1)).any()
    assert rows_for(recipe_named("passages"), data).all()


def test_a_rare_class_is_in_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """However rare good answers are, the sample has two questions with some on the side that is fitted."""
    monkeypatch.setattr("rlhf_loop.training.fit.MOST_ANSWERS", {"joint": 100})
    examples = [
        Example(f"Question {number}?", "Answer.", 5 if number in (7, 500, 900) else 1, f"g{number}")
        for number in range(1_000)
    ]
    data = assemble(examples)
    for seed in range(10):
        held = holdout(data.prompt, data.label, share=0.12, seed=seed)
        rows = rows_for(recipe_named("joint"), data, held=held, seed=seed)
        assert data.label[rows & ~held].sum() >= 2
        assert rows.sum() == 100


def test_equal_rows_are_numbered_alike() -> None:
    """Rows are numbered from 0 as they first appear, by all columns together."""
    one, other = np.array([5, 5, 2, 5, 2, 9]), np.array([1, 1, 1, 0, 1, 7])
    assert numbered(one).tolist() == [0, 0, 1, 0, 1, 2]
    assert numbered(one, other).tolist() == [0, 0, 1, 2, 1, 3]
    assert numbered(one[:0]).tolist() == []


def test_the_fingerprint_is_of_content_alone() -> None:
    """The order does not change the fingerprint, every field does; a training set has that of its examples."""
    first, second = Example("q", "a", 4, "g", 1), Example("q", "b", None, "g", 2)
    assert fingerprint([first, second]) == fingerprint([second, first]) == assemble([first, second]).fingerprint
    others = [
        second,
        *(replace(first, **change) for change in ({"rating": 5}, {"group": "h"}, {"rank": 2}, {"rank": None})),
        replace(first, prompt="Q"),
        replace(first, prompt="qa", response="-"),
        replace(first, prompt="q", response="a-"),
    ]
    assert len({fingerprint([each]) for each in [first, *others]}) == len(others) + 1
    assert fingerprint([first]) != fingerprint([first, first])
    # Recorded once: it must not depend on the process, or two runs could not be compared.
    assert fingerprint([first, second])[:16] == "fde6fcacc7687a9a"
