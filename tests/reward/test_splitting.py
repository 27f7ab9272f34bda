from __future__ import annotations

import numpy as np
import pytest

from rlhf_loop.reward.splitting import folds, holdout
from rlhf_loop.utils.arrays import Ints


def answers(seed: int, *, questions: int = 200) -> tuple[Ints, Ints]:
    """Answers to questions, one to eight each, the numbers of the questions in no order and with gaps."""
    rng = np.random.default_rng(seed)
    names = rng.choice(3 * questions, size=questions, replace=False)
    question = rng.permutation(np.repeat(names, rng.integers(1, 9, size=questions)))
    hardness = rng.random(3 * questions)
    return question, (rng.random(len(question)) < hardness[question]).astype(np.intp)


@pytest.mark.parametrize("seed", range(5))
def test_holdout_keeps_questions_whole(seed: int) -> None:
    """No question has answers on both sides, and 12 % of the questions are held out."""
    question, label = answers(seed)
    held = holdout(question, label, share=0.12, seed=seed)
    assert not set(question[held]) & set(question[~held])
    assert len(set(question[held])) == 24
    assert held.mean() == pytest.approx(0.12, abs=0.04)


@pytest.mark.parametrize("seed", range(5))
def test_holdout_is_stratified(seed: int) -> None:
    """The mean share of correct answers in the held-out questions is near that of all questions."""
    question, label = answers(seed)
    held = holdout(question, label, share=0.12, seed=seed)

    def mean_share(rows: np.ndarray) -> float:
        return float(np.mean([label[question == name].mean() for name in np.unique(question[rows])]))

    assert mean_share(held) == pytest.approx(mean_share(~held), abs=0.05)


def test_the_seed_decides() -> None:
    """The same seed gives the same split, another seed another one."""
    question, label = answers(0)
    assert (holdout(question, label, share=0.12, seed=1) == holdout(question, label, share=0.12, seed=1)).all()
    assert (holdout(question, label, share=0.12, seed=1) != holdout(question, label, share=0.12, seed=2)).any()
    assert (folds(question, label, count=5, seed=1) == folds(question, label, count=5, seed=1)).all()
    assert (folds(question, label, count=5, seed=1) != folds(question, label, count=5, seed=2)).any()


@pytest.mark.parametrize(("questions", "expected"), [(1, 0), (2, 1), (3, 1), (8, 1), (9, 1), (13, 2), (50, 6)])
def test_holdout_of_few(questions: int, expected: int) -> None:
    """At least one question is held out, and at least one is not: nothing of a single one."""
    for seed in range(20):
        held = holdout(np.arange(questions), np.arange(questions) % 2, share=0.12, seed=seed)
        assert held.sum() == expected


@pytest.mark.parametrize("seed", range(5))
def test_folds_keep_questions_whole(seed: int) -> None:
    """Each question is in one fold, and the folds have equally many questions."""
    question, label = answers(seed)
    fold = folds(question, label, count=5, seed=seed)
    assert all(len(np.unique(fold[question == name])) == 1 for name in np.unique(question))
    sizes = [len(np.unique(question[fold == part])) for part in range(5)]
    assert sizes == [40] * 5


@pytest.mark.parametrize("seed", range(5))
def test_folds_are_stratified(seed: int) -> None:
    """Each fold has about the same share of correct answers."""
    question, label = answers(seed)
    fold = folds(question, label, count=5, seed=seed)
    shares = [label[fold == part].mean() for part in range(5)]
    assert max(shares) - min(shares) < 0.15


@pytest.mark.parametrize("correct", [2, 3, 4])
@pytest.mark.parametrize("questions", [4, 5, 6, 7, 11, 30])
def test_fold_complements_have_both_classes(questions: int, correct: int) -> None:
    """Wherever two questions of each class exist, every fold's complement has both classes, whatever the seed."""
    question = np.arange(questions)
    for rarest in (0, 1):
        label = np.where(question < min(correct, questions - 2), rarest, 1 - rarest)
        for seed in range(30):
            fold = folds(question, label, count=5, seed=seed)
            assert set(fold) == set(range(min(5, label.sum(), (1 - label).sum())))
            assert all(len(np.unique(label[fold != part])) == 2 for part in np.unique(fold))


@pytest.mark.parametrize(
    ("question", "label"),
    [
        ([0, 1, 2, 3], [1, 0, 0, 0]),
        ([0, 0, 0, 1, 2], [1, 1, 1, 0, 0]),
        ([0, 1, 2, 3], [0, 1, 1, 1]),
        ([0, 1, 2, 3], [1, 1, 1, 1]),
        ([0, 0], [0, 1]),
        ([], []),
    ],
)
def test_impossible_folds(question: list[int], label: list[int]) -> None:
    """If one class is in a single question or in none, no folds are possible, and the error says what to do."""
    with pytest.raises(ValueError, match="Rate answers to more questions"):
        folds(np.array(question, dtype=np.intp), np.array(label, dtype=np.intp), count=5, seed=0)


@pytest.mark.parametrize("seed", range(30))
def test_a_rare_class_is_not_held_out_whole(seed: int) -> None:
    """Of three questions with correct answers among a hundred, two stay, so that folds are possible."""
    question = np.repeat(np.arange(100), 2)
    label = np.zeros(200, dtype=np.intp)
    label[[0, 2, 4]] = 1
    held = holdout(question, label, share=0.12, seed=seed)
    assert len(np.unique(question[(label == 1) & ~held])) >= 2
    assert held.any()
    folds(question[~held], label[~held], count=5, seed=seed)
