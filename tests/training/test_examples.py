from __future__ import annotations

import random
import tracemalloc
from typing import Any

import numpy as np
import pytest
from databases import rate_all
from sqlalchemy import Engine, text

from rlhf_loop.domain import Example, Rating, ReviewerRole, prompt_key
from rlhf_loop.store.engine import reading, transaction
from rlhf_loop.store.interactions import rate, record
from rlhf_loop.training.data import TrainingSet, assemble, examples, fingerprint, training_set

_NAMES = ("row", "question", "prompt", "rating", "rank", "start", "weight", "expert")


def in_memory(engine: Engine, end_user_weight: float = 0.0) -> list[Example]:
    """What training learns from, in the plainest words: the whole table, row by row."""
    with reading(engine) as connection:
        rows = connection.execute(text("SELECT * FROM rlhf_interactions ORDER BY id")).all()
        reviews = connection.execute(text("SELECT interaction_id, rating, role FROM rlhf_reviews")).all()
    answers: dict[tuple[str, str], list[Any]] = {}
    for row in rows:
        group = row.candidate_group if row.candidate_group is not None else f"prompt:{prompt_key(row.user_prompt)}"
        answers.setdefault((group, row.ai_response), []).append(row)
    found = []
    for (group, response), servings in answers.items():
        ids = {row.id for row in servings}
        experts, users = (
            sorted(review.rating for review in reviews if review.interaction_id in ids and review.role == role)
            for role in ("expert", "end_user")
        )
        hinted = not experts and bool(users) and end_user_weight > 0
        ratings = users if hinted else experts
        ranks = [row.shown_rank for row in servings if row.shown_rank is not None]
        found.append(
            Example(
                servings[0].user_prompt,
                response,
                ratings[(len(ratings) - 1) // 2] if ratings else None,
                group,
                ranks[0] if ranks else None,
                end_user_weight if hinted else 1.0,
                ReviewerRole.END_USER if hinted else ReviewerRole.EXPERT,
            )
        )
    rated = {example.group for example in found if example.rating is not None}
    return [example for example in found if example.group in rated]


def fill(engine: Engine, seed: int) -> None:
    """Answers of all sorts: in groups and without, rated, unrated, by several, served again, in other letter case."""
    rng = random.Random(seed)
    ids = record(
        engine,
        [
            Rating(
                user_prompt=rng.choice(["Why?", " why? ", "WHY?", "How so?", "Ärger?", "What about subject 17?"]),
                ai_response=f"Answer {rng.randint(1, 30)}.",
                rating=rng.choice([None, None, 1, 2, 3, 4, 5]),
                candidate_group=rng.choice([None, *(f"g{number}" for number in range(12)), "prompt:why?"]),
                shown_rank=rng.choice([None, 1, 2, 3, 4]),
            )
            for _ in range(250)
        ],
    )
    rate_all(engine, ((rng.choice(ids), rng.choice(["ann", "bob", "eve"]), rng.randint(1, 5)) for _ in range(120)))
    visits = ((rng.choice(ids), f"visitor:{rng.randint(1, 3)}", rng.randint(1, 5)) for _ in range(120))
    rate_all(engine, visits, role=ReviewerRole.END_USER)


def same(one: TrainingSet, other: TrainingSet) -> bool:
    questions = [[each for chunk in data.chunks() for each in chunk.questions] for data in (one, other)]
    arrays = all(np.array_equal(getattr(one, name), getattr(other, name), equal_nan=True) for name in _NAMES)
    return arrays and questions[0] == questions[1] and one.fingerprint == other.fingerprint


@pytest.mark.parametrize("seed", range(3))
def test_the_database_gives_what_all_in_memory_would(engine: Engine, seed: int) -> None:
    """Numbers first and texts later give the same examples, questions and fingerprint as the whole table at once."""
    fill(engine, seed)
    for end_user_weight in (0.0, 0.25):
        expected = in_memory(engine, end_user_weight)
        assert len(expected) > 100
        assert (end_user_weight == 0) is not any(example.role == ReviewerRole.END_USER for example in expected)
        assert examples(engine, end_user_weight=end_user_weight) == expected
        data = training_set(engine, end_user_weight=end_user_weight)
        assert same(data, assemble(expected))
        assert data.fingerprint == fingerprint(expected)


def test_the_consensus_is_by_role(engine: Engine) -> None:
    """Of an answer served twice the lower median of all experts counts, or without experts that of all end users."""
    ids = record(engine, [Rating("Why?", text, candidate_group="g") for text in ("a", "a", "b", "b", "c")])
    for place, reviewer, rating, role in (
        (0, "visitor:1", 1, ReviewerRole.END_USER),
        (0, "visitor:2", 1, ReviewerRole.END_USER),
        (1, "ann", 4, ReviewerRole.EXPERT),
        (1, "bob", 5, ReviewerRole.EXPERT),
        (2, "visitor:1", 4, ReviewerRole.END_USER),
        (3, "visitor:2", 2, ReviewerRole.END_USER),
        (3, "visitor:3", 5, ReviewerRole.END_USER),
        (3, "visitor:4", 5, ReviewerRole.END_USER),
    ):
        rate(engine, ids[place], reviewer=reviewer, rating=rating, role=role)
    with_users = [(e.response, e.rating, e.weight, e.role) for e in examples(engine, end_user_weight=0.5)]
    assert with_users == [
        ("a", 4, 1.0, ReviewerRole.EXPERT),
        ("b", 4, 0.5, ReviewerRole.END_USER),
        ("c", None, 1.0, ReviewerRole.EXPERT),
    ]
    assert [e.rating for e in examples(engine)] == [4, None, None]
    data = training_set(engine, end_user_weight=0.5)
    assert (data.weight.tolist(), data.expert.tolist()) == ([1.0, 0.5], [True, False])


def test_end_users_alone_make_a_question(engine: Engine) -> None:
    """A group that only end users have rated is read with its siblings, unless their ratings are not wanted."""
    ids = record(engine, [Rating("Why?", text, candidate_group="g") for text in ("a", "b")])
    rate(engine, ids[0], reviewer="visitor:1", rating=5, role=ReviewerRole.END_USER)
    assert examples(engine) == []
    assert [(e.response, e.rating) for e in examples(engine, end_user_weight=0.1)] == [("a", 5), ("b", None)]


def test_an_empty_database_gives_an_empty_set(engine: Engine) -> None:
    """Without ratings there is nothing to learn from, whatever was served."""
    assert examples(engine) == []
    record(engine, [Rating("q", "a"), Rating("q", "a"), Rating("q", "b", candidate_group="g")])
    data = training_set(engine)
    assert (len(data.candidates), len(data.row), list(data.chunks())) == (0, 0, [])


@pytest.mark.slow
def test_memory_does_not_depend_on_the_length_of_texts(engine: Engine) -> None:
    """Reading the numbers and then the texts of 40 MB of answers takes a fraction of that memory."""
    for part in range(8):
        record(engine, [Rating(f"Question {part}-{i // 5}?", f"{i} {'long ' * 2_000}", 1 + i % 5) for i in range(500)])
    tracemalloc.start()
    try:
        data = training_set(engine)
        assert sum(len(chunk.row) for chunk in data.chunks()) == 4_000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 25e6


def test_what_was_deleted_or_changed_after_the_numbers_were_read_is_left_out(engine: Engine) -> None:
    """Rows that somebody deletes or edits while the texts are read are missing, the others are whole."""
    ids = record(engine, [Rating(f"Question {i // 3}?", f"Answer {i}.", 1 + i % 5, shown_rank=1) for i in range(30)])
    before = examples(engine)
    data = training_set(engine)
    with transaction(engine) as connection:
        connection.execute(
            text("DELETE FROM rlhf_interactions WHERE id IN (:one, :other)"), {"one": ids[4], "other": ids[9]}
        )
        connection.execute(text("UPDATE rlhf_interactions SET ai_response = 'Other.' WHERE id = :id"), {"id": ids[10]})
        connection.execute(text("UPDATE rlhf_interactions SET candidate_group = 'g' WHERE id = :id"), {"id": ids[11]})
        connection.execute(text("UPDATE rlhf_interactions SET rating = 1 WHERE id = :id"), {"id": ids[29]})
    record(engine, [Rating("Question 0?", "One more.", 5)])
    (chunk,) = data.chunks()
    assert chunk.row.tolist() == [row for row in range(30) if row not in (4, 9, 10, 11)]
    texts = [response for question in chunk.questions for response in question.responses]
    assert texts == [before[row].response for row in chunk.row]
    assert data.rating.tolist() == [each.rating for each in before]
