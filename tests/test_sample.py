from __future__ import annotations

import json
from collections import Counter

import pytest

from rlhf_loop import sample
from rlhf_loop.domain import prompt_key

ROWS = [json.loads(line) for line in sample.RATINGS_FILE.read_text("utf-8").splitlines()]


def groups() -> list[list[dict[str, object]]]:
    found: dict[str, list[dict[str, object]]] = {}
    for row in ROWS:
        found.setdefault(row["candidate_group"], []).append(row)
    return list(found.values())


def test_fifty_questions_with_four_answers() -> None:
    """There are 200 rated answers, four to each of 50 different questions, no two the same."""
    assert len(ROWS) == 200
    assert [len(group) for group in groups()] == [4] * 50
    assert all(len({row["user_prompt"] for row in group}) == 1 for group in groups())
    assert len({prompt_key(row["user_prompt"]) for row in ROWS}) == 50
    assert len({row["ai_response"] for row in ROWS}) == 200


def test_the_incoming_ranks_are_whole_and_say_little() -> None:
    """Each question's answers came on places 1 to 4, and the good ones are not all on the same place."""
    assert all(sorted(row["shown_rank"] for row in group) == [1, 2, 3, 4] for group in groups())  # type: ignore[type-var]
    places = Counter(row["shown_rank"] for row in ROWS if row["rating"] == 5)
    assert set(places) == {1, 2, 3, 4}


def test_every_answer_is_rated_with_a_reason() -> None:
    """Each row has a rating from 1 to 5 and a comment, and says who rated and where the answer came from."""
    for row in ROWS:
        assert row["rating"] in range(1, 6)
        for name in ("feedback_comment", "source", "reviewer"):
            assert row[name].strip(), name
    assert {row["rating"] for row in ROWS} == {1, 2, 3, 4, 5}


def test_every_question_has_good_and_bad_answers() -> None:
    """Each question has an answer rated 4 or 5, and one rated lower."""
    for group in groups():
        good = [row for row in group if row["rating"] in (4, 5)]
        assert 1 <= len(good) < 4


@pytest.mark.parametrize("field", ["user_prompt", "ai_response"])
def test_the_example_is_new_to_the_model(field: str) -> None:
    """Neither the example's question nor its candidates are among the rated ones."""
    known = {prompt_key(row[field]) for row in ROWS}
    given = [sample.QUESTION] if field == "user_prompt" else [candidate["text"] for candidate in sample.CANDIDATES]
    assert not known & {prompt_key(text) for text in given}


def test_the_sample_says_what_it_is() -> None:
    """The sample is marked as one that is not medical advice."""
    assert "not medical advice" in (sample.__doc__ or "")


def test_the_german_sample_is_like_the_english_one() -> None:
    """A good answer to each question, and others that are rated lower, each with a reason and on all places."""
    german = sample.SAMPLES["de"]
    rows = [json.loads(line) for line in german.ratings_file.read_text("utf-8").splitlines()]
    assert Counter(row["user_prompt"] for row in rows) == dict.fromkeys((row["user_prompt"] for row in rows), 4)
    assert len(rows) == len({row["ai_response"] for row in rows}) == 64
    assert Counter(row["rating"] for row in rows) == {5: 16, 3: 16, 2: 16, 1: 16}
    assert {row["shown_rank"] for row in rows if row["rating"] == 5} == {1, 2, 3, 4}
    assert all(row["feedback_comment"].strip() for row in rows)
    assert not {german.question, *(candidate["text"] for candidate in german.candidates)} & {
        row[field] for row in rows for field in ("user_prompt", "ai_response")
    }
