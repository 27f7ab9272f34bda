"""A service that has been in operation for weeks: questions, scores, reviews and a live model, written as rows."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine, insert

from rlhf_loop.store.engine import transaction
from rlhf_loop.store.tables import Interaction, ModelVersion, Review, ServedQuestion

#: A Monday, and what "now" is in these tests: the Sunday twenty weeks later.
START = datetime(2026, 1, 5, tzinfo=UTC)
NOW = START + timedelta(weeks=20, days=-1)


class TopicEncoder:
    """Texts that begin with the same word are near each other."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.stack([_direction(text.split()[0]) + 0.7 * _direction(text) for text in texts])


def _direction(text: str) -> NDArray[np.float32]:
    vector = np.random.default_rng(zlib.crc32(text.encode())).normal(size=64)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def put_questions(
    engine: Engine,
    week: int,
    topics: Iterable[str],
    *,
    scores: Iterable[float] = (),
    version: str | None = None,
    groups: bool = True,
) -> None:
    """Store questions about these topics, spread over a week since START, each with two answers."""
    prompts = [f"{topic} question {week} {number}" for number, topic in enumerate(topics)]
    given = [*scores] or [None] * len(prompts)
    rows = [
        {
            "user_prompt": prompt,
            "ai_response": f"answer {place}",
            "candidate_group": f"group {prompt}" if groups else None,
            "created_at": START + timedelta(weeks=week, days=6.9 * number / len(prompts)),
            # The worse answer comes first: the place says nothing about the score.
            "score": None if score is None else score * (0.5 if place == 0 else 1.0),
            "model_version": None if score is None else version,
        }
        for number, (prompt, score) in enumerate(zip(prompts, given, strict=True))
        for place in range(2)
    ]
    with transaction(engine) as connection:
        connection.execute(insert(Interaction), rows)


def put_live(engine: Engine, version: str = "model-1", *, made_at: datetime, **values: Any) -> None:
    """Store a live version."""
    row = {
        "version": version,
        "sha256": version,
        "state": "live",
        "reason": "test",
        "recipe": "passages",
        "encoder": "test",
        "made_at": made_at,
        "live_from": made_at,
        **values,
    }
    with transaction(engine) as connection:
        connection.execute(insert(ModelVersion), row)


def put_rated(
    engine: Engine,
    scores: Sequence[float],
    good: Sequence[bool],
    *,
    version: str = "model-1",
    served_at: datetime,
    rated_at: datetime,
    role: str = "expert",
    to_each: int = 1,
) -> None:
    """Store answers that the version scored and that somebody rated, so many to each question."""
    rows = [
        {
            "user_prompt": f"question {number // to_each} of {role} {served_at}",
            "ai_response": f"answer {number}",
            "score": score,
            "model_version": version,
            "created_at": served_at,
        }
        for number, score in enumerate(scores)
    ]
    with transaction(engine) as connection:
        statement = insert(Interaction).returning(Interaction.id, sort_by_parameter_order=True)
        ids = list(connection.execute(statement, rows).scalars())
        reviews = [
            {
                "interaction_key": id,
                "reviewer": "ann",
                "rating": 5 if right else 1,
                "reviewed_at": rated_at,
                "role": role,
            }
            for id, right in zip(ids, good, strict=True)
        ]
        connection.execute(insert(Review), reviews)


def put_served(
    engine: Engine, outcomes: Sequence[Mapping[str, str]], *, until: datetime, apart: timedelta = timedelta(minutes=1)
) -> None:
    """Store questions that were answered, the last one now; each outcome has the sources asked, and what was wrong."""
    rows = [
        {
            "candidate_group": f"question:{until}:{number}",
            "served_at": until - apart * (len(outcomes) - 1 - number),
            "policy": "live",
            "degraded": {name: trouble for name, trouble in outcome.items() if trouble} or None,
            "timings": {f"source:{name}": 12.5 for name in outcome} | {"total": 40.0},
        }
        for number, outcome in enumerate(outcomes)
    ]
    with transaction(engine) as connection:
        connection.execute(insert(ServedQuestion), rows)
