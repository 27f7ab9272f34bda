from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import Engine, text

from rlhf_loop.domain import Rating
from rlhf_loop.store.engine import open_database, reading
from rlhf_loop.store.interactions import rate, record
from rlhf_loop.store.validation import cleaned, problem


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("ai_response", None, "ai_response is None (NoneType), not a text"),
        ("user_prompt", float("nan"), "user_prompt is nan (float), not a text"),
        ("source", float("nan"), "source is nan (float), not a text; None stands for a missing one"),
        ("reviewer", 7, "reviewer is 7 (int), not a text; None stands for a missing one"),
        ("feedback_comment", b"x" * 90, f"feedback_comment is b'{'x' * 58}... (bytes), not a text; None"),
        ("rating", pd.NA, "rating is <NA>, not a whole number from 1 to 5; None stands"),
        ("rating", "4", "rating is '4' (str), not a whole number from 1 to 5"),
        ("rating", 4.5, "rating is 4.5, not a whole number from 1 to 5"),
        ("rating", float("nan"), "rating is nan, not a whole number from 1 to 5; None stands for a missing one"),
        ("rating", np.int64(7), "rating is 7, not a whole number from 1 to 5"),
        ("rating", True, "rating is True, not a whole number from 1 to 5"),
        ("shown_rank", "1", "shown_rank is '1' (str), not a place from 1"),
        ("score", "0.5", "score is '0.5' (str), not between 0 and 1"),
        ("score", float("nan"), "score is nan, not between 0 and 1"),
        ("harmful", None, "harmful is None (NoneType), not True or False"),
        ("harmful", "yes", "harmful is 'yes' (str), not True or False"),
        ("created_at", "2026-01-01", "created_at is '2026-01-01' (str), not a datetime; None stands"),
        ("rated_at", pd.NaT, "rated_at is NaT (NaTType), not a datetime; None stands"),
        ("rated_at", datetime(2026, 1, 1), "rated_at is 2026-01-01T00:00:00, without a time zone"),
    ],
)
def test_what_cannot_be_stored_says_field_and_value(field: str, value: object, reason: str) -> None:
    """A cell of a table is often nan, a text or a number that is none: the message names it."""
    values: dict[str, Any] = {"user_prompt": "Q", "ai_response": "A"} | {field: value}
    assert (problem(cleaned(Rating(**values))) or "").startswith(reason)


def test_a_tables_numbers_are_numbers(engine: Engine) -> None:
    """What numpy and pandas have in their columns is stored as what it is, and an id of theirs is found."""
    table = pd.DataFrame({"rank": [1, 2], "score": [0.25, 1.0], "rating": [5, 1], "harmful": [False, True]})
    times = pd.to_datetime(["2026-01-01", "2026-01-02"], utc=True)
    ids = record(
        engine,
        [
            Rating("Q", f"A{n}", rating, shown_rank=rank, score=score, harmful=harmful, created_at=times[n])
            for n, (rank, score, rating, harmful) in enumerate(
                zip(*(table[name].to_numpy() for name in ("rank", "score", "rating", "harmful")), strict=True)
            )
        ],
    )
    with reading(engine) as connection:
        found = connection.execute(
            text("SELECT shown_rank + 0, score + 0, rating FROM rlhf_interactions ORDER BY id")
        ).all()
    assert [tuple(row) for row in found] == [(1, 0.25, 5), (2, 1.0, 1)]
    (whole,) = record(engine, [Rating("Q", "B", 4.0, shown_rank=np.float64(1))])  # type: ignore[arg-type]
    assert rate(engine, whole, rating=2.0) == 2  # type: ignore[arg-type]
    assert rate(engine, np.int64(ids[0]), reviewer="ann", rating=np.int64(3)) == 3


def test_other_things_than_ratings(sqlite_engine: Engine) -> None:
    """What is no list of ratings, no database or no id is a ValueError that says what to pass."""
    wrong: Any
    for wrong, reason in (
        (Rating("Q", "A"), r"is one Rating, not a list\. Pass a list"),
        ("Q", "is one str, not a list"),
        (None, "is one NoneType, not a list"),
        ([Rating("Q", "A"), {"user_prompt": "Q"}], r"Item 1 cannot be recorded: it is {'user_prompt': 'Q'} \(dict\)"),
    ):
        with pytest.raises(ValueError, match=reason):
            record(sqlite_engine, wrong)
    (number,) = record(sqlite_engine, (Rating("Q", "A") for _ in range(1)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="rating is None, not a whole number from 1 to 5"):
        rate(sqlite_engine, number, rating=None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"interaction_key is 'x' \(str\), not a whole number"):
        rate(sqlite_engine, "x", rating=4)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"The database is a str, not open\. Pass what open_database"):
        record("sqlite:///x.db", [])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="The database URL is a NoneType, not a text"):
        open_database(None)  # type: ignore[arg-type]
