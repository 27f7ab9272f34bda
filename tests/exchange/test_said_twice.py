"""What a file says twice, of which only one can be kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rating_files import reasons
from sqlalchemy import Engine, select

from rlhf_loop.errors import RlhfLoopError
from rlhf_loop.exchange.transfer import import_ratings
from rlhf_loop.store.tables import Review


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_name_that_is_twice_in_an_object(sqlite_engine: Engine, tmp_path: Path, name: str) -> None:
    """Nobody knows which rating was meant, and nothing is stored."""
    row = '{"user_prompt": "Why?", "ai_response": "So.", "rating": 5, "rating": 1}'
    (tmp_path / name).write_text(f"[{row}]" if name.endswith("json") else row)
    with pytest.raises(RlhfLoopError, match="has the name 'rating' twice"):
        import_ratings(sqlite_engine, tmp_path / name)


def test_columns_of_one_name_in_a_tools_table(sqlite_engine: Engine, tmp_path: Path) -> None:
    """A grade may not come from whichever of two columns stands last."""
    file = tmp_path / "a.csv"
    file.write_text("id,text,rating,rating\n1,Because.,5,1\n")
    (reason,) = reasons(sqlite_engine, file, format="label-studio").values()
    assert "two columns have the name 'rating'" in reason


@pytest.mark.parametrize("columns", [{}, {"rating": "rating"}])
def test_columns_of_one_name_in_a_file_of_ones_own(
    sqlite_engine: Engine, tmp_path: Path, columns: dict[str, str]
) -> None:
    """Neither is chosen, also if it is asked for by that name; a name that nothing uses may be there twice."""
    file = tmp_path / "a.csv"
    file.write_text("prompt,answer,rating,rating\nWhy?,So.,5,1\n")
    with pytest.raises(RlhfLoopError, match=r"Two columns have the name 'rating'\. Rename"):
        import_ratings(sqlite_engine, file, columns=columns)
    file.write_text("prompt,answer,rating,note,note\nWhy?,So.,5,a,b\n")
    assert import_ratings(sqlite_engine, file).ignored == ("note",)


def test_an_answer_is_not_better_than_itself(sqlite_engine: Engine, tmp_path: Path) -> None:
    """Two texts that differ in what nobody can see are one answer: the line is named."""
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"prompt": "Why?", "chosen": "So.", "rejected": "So.\u200b"}))
    (reason,) = reasons(sqlite_engine, file, format="trl-preference").values()
    assert "two answers that are the same" in reason


def test_a_name_in_two_forms_is_one_reviewer(sqlite_engine: Engine, tmp_path: Path) -> None:
    """Accents of another Unicode form and blanks around a name do not make a second vote."""
    file = tmp_path / "a.jsonl"
    for rating, name in ((5, "Jos\u00e9"), (4, "Jose\u0301"), (1, " Jos\u00e9 ")):
        row = {"user_prompt": "Why?", "ai_response": "So.", "rating": rating, "reviewer": name}
        file.write_text(json.dumps(row))
        import_ratings(sqlite_engine, file)
    with sqlite_engine.connect() as connection:
        assert connection.execute(select(Review.reviewer, Review.rating)).all() == [("Jos\u00e9", 1)]


@pytest.mark.parametrize("tool", ["argilla", "label-studio"])
def test_a_rater_who_says_two_things_at_once(sqlite_engine: Engine, tmp_path: Path, tool: str) -> None:
    """Which of two grades in one record counts, nobody knows: the record is named, with both."""
    grades = [5, 1]
    record = {
        "argilla": {
            "id": "r1",
            "fields": {"prompt": "Why?", "response": "So."},
            "responses": {"rating": [{"value": grade, "user_id": "u", "status": "submitted"} for grade in grades]},
        },
        "label-studio": {
            "id": 1,
            "data": {"prompt": "Why?", "response": "So."},
            "annotations": [
                {
                    "id": 11,
                    "completed_by": 1,
                    "result": [
                        {"from_name": "rating", "to_name": "response", "type": "rating", "value": {"rating": grade}}
                        for grade in grades
                    ],
                }
            ],
        },
    }[tool]
    file = tmp_path / "a.json"
    file.write_text(json.dumps([record]))
    (reason,) = reasons(sqlite_engine, file, format=tool).values()
    assert "5" in reason
    assert "keep the one that counts" in reason
