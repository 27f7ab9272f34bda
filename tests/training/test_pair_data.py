from __future__ import annotations

from dataclasses import replace

import numpy as np

from rlhf_loop.domain import Example, Pair, PairKind, ReviewerRole
from rlhf_loop.training.data import assemble, fingerprint
from rlhf_loop.training.pairs import pair_set


def test_pairs_that_say_nothing_are_left_out() -> None:
    """Two answers of the same words, or a weight of nothing, make no pair."""
    pairs = [Pair("q", "a", "b"), Pair("q", "a", " a\n"), Pair("q", "a", "c", weight=0.0)]
    found = pair_set(pairs)
    (chunk,) = found.chunks()
    assert [question.responses for question in chunk.questions] == [("a", "b")]
    assert len(found) == 1


def test_a_pair_knows_its_question() -> None:
    """A pair has the number of its prompt among the rated ones, whatever the letter case; -1 if no answer is rated."""
    data = assemble([Example("A?", "1", 5, "a"), Example("B?", "2", 1, "b"), Example("C?", "3", None, "b")])
    pairs = pair_set([Pair(prompt, "x", "y") for prompt in (" b? ", "a?", "c?", "d?")])
    assert data.question_of(pairs.numbers["prompt"]).tolist() == [1, 0, -1, -1]
    assert assemble([]).question_of(pairs.numbers["prompt"]).tolist() == [-1] * 4


def test_some_of_the_pairs() -> None:
    """Of a set some pairs can be had, with their texts."""
    pairs = pair_set([Pair("q", "a", "b"), Pair("q", "c", "d")])
    (chunk,) = pairs.only(np.array([False, True])).chunks()
    assert [question.responses for question in chunk.questions] == [("c", "d")]


def test_the_fingerprint_has_pairs_and_weights() -> None:
    """Pairs, their direction, weight and kind, and end users' ratings change the fingerprint; their order does not."""
    ratings = fingerprint([Example("q", "a", 4, "g", 1)])
    first, second = Pair("q", "a", "b"), Pair("q", "c", "d", weight=0.5)
    name = pair_set([first, second]).fingerprint(ratings)
    assert name == pair_set([second, first]).fingerprint(ratings)
    changed = [
        Pair("q", "b", "a"),
        replace(first, weight=0.5),
        replace(first, kind=PairKind.CORRECTION),
        replace(first, role=ReviewerRole.END_USER),
        replace(first, prompt="Q"),
    ]
    names = {name, ratings, *(pair_set([each, second]).fingerprint(ratings) for each in changed)}
    assert len(names) == len(changed) + 2
    # Recorded once: it must not depend on the process.
    assert name[:16] == "bbb8773dec73f303"


def test_the_fingerprint_of_end_users_ratings() -> None:
    """An end user's rating and its weight have a name of their own; without a rating neither says anything."""
    expert = Example("q", "a", 4, "g", 1)
    hint = replace(expert, role=ReviewerRole.END_USER, weight=0.25)
    names = {fingerprint([each]) for each in (expert, hint, replace(hint, weight=0.5), replace(hint, weight=1.0))}
    assert len(names) == 4
    unrated = replace(expert, rating=None)
    assert fingerprint([unrated]) == fingerprint([replace(unrated, weight=0.25, role=ReviewerRole.END_USER)])
