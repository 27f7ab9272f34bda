from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from sqlalchemy import Engine

from rlhf_loop.domain import Example, Rating
from rlhf_loop.encoders import DIMENSION, TextEncoder, Vectors
from rlhf_loop.store.engine import reading, transaction
from rlhf_loop.store.interactions import put_preference, rate, record
from rlhf_loop.training import grouping
from rlhf_loop.training.data import assemble, is_frozen, prompt_hash, stored_groups, training_set
from rlhf_loop.training.evaluation import Predictions, evaluate
from rlhf_loop.training.grouping import QuestionGroups, linked, question_groups
from rlhf_loop.training.train import train
from rlhf_loop.utils.languages import language_named


class Placed:
    """An encoder that has a vector for each text."""

    dimension = DIMENSION
    language = language_named("en")

    def as_near(self, cosine: float) -> float:
        return cosine

    def __init__(self, vectors: dict[str, Vectors]) -> None:
        self._vectors = vectors

    def encode_whole(self, texts: Sequence[str]) -> Vectors:
        return np.stack([self._vectors[text] for text in texts])


def hashes(texts: Sequence[str]) -> np.ndarray:
    return np.array([prompt_hash(text) for text in texts], dtype=np.int64)


def grouped(texts: Sequence[str], encoder: TextEncoder | Placed) -> QuestionGroups:
    return question_groups([(hashes(texts), texts)], encoder)  # type: ignore[arg-type]


def cloud(count: int) -> dict[str, Vectors]:
    """Texts with words of their own, some of them near to each other."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(count // 4, DIMENSION))
    vectors = centres[rng.integers(len(centres), size=count)] + 0.42 * rng.normal(size=(count, DIMENSION))
    unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    letters = ("".join(chr(ord("a") + int(digit)) for digit in f"{place:04}") for place in range(count))
    # One word each, which is all that the encoder is asked for.
    return {f"w{name}x": vector for name, vector in zip(letters, unit, strict=True)}


def test_wordings_belong_together(encoder: TextEncoder) -> None:
    """By the real encoder other words for the same are one group, and other subjects, numbers and questions are not."""
    families = (
        ("What are the symptoms of gout?", "please tell me: symptoms of gout", "What are signs of having gout?"),
        ("How is type 1 diabetes treated?", "HOW CAN TYPE 1 DIABETES BE TREATED"),
        ("How is type 2 diabetes treated?", "What is the treatment for type 2 diabetes"),
        ("How long does a broken arm take to heal?",),
    )
    texts = [wording for place in range(3) for family in families for wording in family[place : place + 1]]
    groups = grouped(texts, encoder)
    # Each goes by its oldest wording.
    assert [groups.of(hashes(family)).tolist() for family in families] == [
        [prompt_hash(family[0])] * len(family) for family in families
    ]
    assert groups.of(hashes(["Never asked"])).tolist() == [prompt_hash("Never asked")]


def test_blocks_find_what_all_pairs_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """In blocks it finds exactly the groups that hang together by near pairs."""
    texts = cloud(300)
    monkeypatch.setattr(grouping, "_ROWS", 7)
    monkeypatch.setattr(grouping, "_COLUMNS", 11)
    vectors = np.stack(list(texts.values())).astype(np.float16).astype(np.float64)
    near = vectors @ vectors.T >= grouping.NEAR
    together = np.linalg.matrix_power(near.astype(np.float64), 64) > 0
    leader = grouped(list(texts), Placed(texts)).of(hashes(list(texts)))
    assert 50 < len(np.unique(leader)) < 250
    assert ((leader[:, np.newaxis] == leader) == together).all()


def test_new_wordings_never_thaw_anything() -> None:
    """Whatever comes, what was frozen is frozen, no group is torn, and about as much is frozen as was asked for."""
    texts = cloud(600)
    names = list(texts)
    all_of_them = hashes(names)
    frozen = np.zeros(len(names), dtype=np.bool_)
    for count in range(0, 601, 50):
        groups = grouped(names[:count], Placed(texts))
        now = is_frozen(groups.of(all_of_them[:count]), 0.2)
        assert not (frozen[:count] & ~now).any()
        frozen[:count] = now
    leader = groups.of(all_of_them)
    assert all(len(np.unique(frozen[leader == one])) == 1 for one in np.unique(leader))
    assert 0.1 < frozen.mean() < 0.35


def in_wordings(count: int) -> tuple[dict[str, Vectors], list[Example]]:
    """Questions in two wordings that are half near, with the same three answers each, and one that all have."""
    rng = np.random.default_rng(0)
    own, others = np.linalg.qr(rng.normal(size=(DIMENSION, 2 * count)))[0].T.astype(np.float32).reshape(2, count, -1)
    texts = dict(zip(cloud(2 * count), [*own, *(0.6 * own + 0.8 * others)], strict=True))
    return texts, [
        Example(wording, answer, 1 + (place + turn) % 5, f"{wording}-{turn}")
        for place, wording in enumerate(texts)
        for turn, answer in enumerate([*(f"Answer {turn} to {place % count}" for turn in range(3)), "Ask a doctor."])
    ]


def test_answers_in_common_tell_other_wordings() -> None:
    """Questions that are half near and have two judged answers in common are one; one answer alone proves nothing."""
    texts, found = in_wordings(40)
    both = np.concatenate([np.arange(40), np.arange(40)])
    for kept, expected in ((found, both), ([each for each in found if "Answer" not in each.response], np.arange(80))):
        groups = assemble(kept).grouped(Placed(texts)).groups  # type: ignore[arg-type]
        assert groups is not None
        assert (groups.of(hashes(list(texts))) == hashes(list(texts))[expected]).all()


def test_other_answers_in_common_tell_nothing() -> None:
    """Questions that are hardly near are two, and so are those with different numbers, whatever they have in common."""
    axes = np.eye(DIMENSION, dtype=np.float32)
    texts = {"gout": axes[0], "scurvy": 0.4 * axes[0] + axes[1], "gout 1": axes[2], "gout 2": 0.6 * axes[2] + axes[3]}
    texts = {name: vector / np.linalg.norm(vector) for name, vector in texts.items()}
    rated = [Example(text, f"Answer {place}", 1 + place, text) for text in texts for place in range(3)]
    groups = assemble(rated).grouped(Placed(texts)).groups  # type: ignore[arg-type]
    assert groups is not None
    assert len(set(groups.leader.tolist())) == len(texts)


def test_questions_with_answers_in_common_never_thaw_anything() -> None:
    """Whatever questions come with what answers, what was frozen is frozen, and about as much as was asked for."""
    texts, found = in_wordings(60)
    rng = np.random.default_rng(0)
    names = [list(texts)[place] for place in rng.permutation(len(texts))]
    frozen = np.zeros(len(names), dtype=np.bool_)
    for count in range(20, len(names) + 1, 20):
        known = [each for name in names[:count] for each in found if each.prompt == name]
        groups = assemble(known).grouped(Placed(texts)).groups  # type: ignore[arg-type]
        assert groups is not None
        now = is_frozen(groups.of(hashes(names[:count])), 0.2)
        assert not (frozen[:count] & ~now).any()
        frozen[:count] = now
    leader = groups.of(hashes(names))
    assert len(np.unique(leader)) == 60
    assert 0.1 < frozen.mean() < 0.3


def test_the_oldest_is_what_was_judged_first(sqlite_engine: Engine) -> None:
    """A wording that was asked before and is judged later is the younger one, one that nobody judged the youngest."""
    wordings = [f"{start} what helps against hiccups?" for start in ("Hi,", "Hello,", "Please:", "Dear sir,", "Hey,")]
    ids = record(sqlite_engine, [Rating(wording, f"Answer to {wording}") for wording in wordings])
    others = record(sqlite_engine, [Rating(wordings[3], "Another answer")])
    with transaction(sqlite_engine) as connection:
        put_preference(connection, ids[3], others[0], reviewer="ann")
    rate(sqlite_engine, ids[2], rating=5)
    rate(sqlite_engine, ids[1], rating=1)
    asked = training_set(sqlite_engine).asked
    assert asked["prompt"].tolist() == hashes([wordings[2], wordings[1], *[wordings[3]] * 2]).tolist()
    with reading(sqlite_engine) as connection:
        groups = stored_groups(connection, Placed({"helps against hiccups": np.eye(DIMENSION, dtype=np.float32)[0]}))  # type: ignore[arg-type]
    assert set(groups.of(hashes(wordings)).tolist()) == {prompt_hash(wordings[2])}


def test_lists_of_what_was_fitted_know_other_wordings(quick: TextEncoder) -> None:
    """A question counts as seen where a version was fitted on another wording of it, and lists of old still tell."""
    texts = ("How is gout treated?", "Please tell me how gout is treated", "What causes scurvy?")
    data = assemble([Example(text, f"Answer {place}", 5, str(place)) for place, text in enumerate(texts)])
    assert data.seen(hashes(texts[:1])).tolist() == [True, False, False]
    together = data.grouped(quick)
    assert together.seen(hashes(texts[:1])).tolist() == [True, True, False]
    assert together.prompt.tolist() == [0, 0, 1]
    assert together.question_of(hashes([texts[1], texts[2], "Else?"])).tolist() == [0, 1, -1]


def test_what_hangs_together() -> None:
    """Rows that share a number in any column, or hang together by others that do, get the same number."""
    number = linked(np.array([0, 0, 1, 2, 3, 4]), np.array([7, 8, 8, 9, 9, 5]))
    assert len(set(number[:3])) == len(set(number[3:5])) == 1
    assert len(set(number.tolist())) == 3


def test_two_wordings_prove_no_more_than_one() -> None:
    """Each question twice, and grouped, has the very intervals that it has once; ungrouped they would be narrower."""
    rng = np.random.default_rng(0)
    question = np.repeat(np.arange(40), 3)
    once = Predictions(question, rng.integers(1, 6, 120), rng.random(120), np.tile([1.0, 2.0, 3.0], 40), question)
    twice = Predictions(
        np.concatenate([question, question + 40]),
        *(np.tile(column, 2) for column in (once.rating, once.probability, once.rank, question)),
    )
    assert evaluate(twice).auc == evaluate(once).auc
    assert evaluate(twice).gain == evaluate(once).gain
    alone = evaluate(replace(twice, group=None)).auc
    assert alone.high - alone.low < 0.85 * (evaluate(once).auc.high - evaluate(once).auc.low)


def test_unseen_documents_are_told_apart(quick: TextEncoder) -> None:
    """What a model knows of texts that recur is worth nothing on others: both numbers are in the report, of the same
    answers; where nothing recurs they are one.
    """
    good = np.random.default_rng(0).integers(2, size=20)
    examples = [
        Example(
            f"Is subject {number} so?", f"Leaflet {number % 20} says this.", 1 + 4 * int(good[number % 20]), f"{number}"
        )
        for number in range(100)
    ]
    report = train(examples, encoder=quick, recipe="joint").report
    known, documents = report.cross_validated["joint"], report.documents
    assert documents is not None
    assert documents.unseen is not None
    assert (documents.recurring, documents.linked) == (known.answers, 20)
    assert documents.unseen.answers == known.answers
    assert known.auc.value > 0.95
    assert documents.unseen.auc.value < 0.75
    apart = [replace(each, response=f"{each.response} {number}") for number, each in enumerate(examples)]
    report = train(apart, encoder=quick, recipe="joint").report
    assert report.documents is not None
    assert (report.documents.recurring, report.documents.unseen) == (0, report.cross_validated["joint"])
