from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from sqlalchemy import Engine, insert

from rlhf_loop.config import Settings
from rlhf_loop.db import transaction
from rlhf_loop.domain import Rating, ReviewerRole
from rlhf_loop.interactions import record
from rlhf_loop.monitoring.charts import draw
from rlhf_loop.monitoring.figure import Figure
from rlhf_loop.monitoring.figures import FIGURES, figure
from rlhf_loop.tables import ModelVersion, ServedQuestion

NOW = datetime(2026, 5, 20, 12, tzinfo=UTC)  # a Wednesday
MONDAY = date(2026, 5, 18)


def shown(name: str, engine: Engine) -> Figure:
    return figure(name, engine, Settings(), now=NOW)


def add(engine: Engine, question: int, **fields: object) -> None:
    record(engine, [Rating(f"Question {question}?", f"Answer {question}.", **fields)])  # type: ignore[arg-type]


def serve(engine: Engine, first: str | None, *, at: datetime = NOW, **timings: float) -> None:
    values = {"candidate_group": f"g{first}{at}", "served_at": at, "policy": "live", "first_id": first}
    with transaction(engine) as connection:
        connection.execute(insert(ServedQuestion).values(**values, timings=timings))


@pytest.mark.parametrize("name", FIGURES)
def test_an_empty_database_says_what_is_missing(engine: Engine, name: str) -> None:
    """Each figure has its name, words for where nothing is there yet, and can be drawn all the same."""
    found = shown(name, engine)
    assert found.name == name
    assert len(found.summary) > 20
    assert {found.x, *(each.y for each in found.series)} <= set(found.columns)
    assert "<svg" in draw(found)


def test_milestones(engine: Engine) -> None:
    """The next number worth reaching, counted in answers that experts have rated."""
    add(engine, 1, rating=5, reviewer="anna")
    add(engine, 2, rating=5, reviewer="visitor:1", reviewer_role=ReviewerRole.END_USER)
    found = shown("milestone", engine)
    assert found.rows == (("rated answers", 1, 50),)
    assert found.summary == "1 answers are rated by experts. 49 more, and a first model can be trained."


def test_satisfaction_by_week(engine: Engine) -> None:
    """Weeks begin on Monday in UTC; experts and end users stay apart, and a week without ratings is a gap."""
    late_sunday = datetime(2026, 5, 17, 23, 59, tzinfo=UTC)
    for number, (rating, at) in enumerate([(5, NOW), (2, NOW), (4, late_sunday), (1, NOW - timedelta(days=999))]):
        add(engine, number, rating=rating, reviewer="anna", rated_at=at)
    end_user = {"reviewer": "visitor:1", "reviewer_role": ReviewerRole.END_USER}
    add(engine, 9, rating=1, rated_at=NOW - timedelta(weeks=4), **end_user)
    found = shown("satisfaction", engine)
    assert found.rows == (
        (date(2026, 4, 20), 0, None, None, 1, 1.0, 0.0),
        (date(2026, 5, 11), 1, 4.0, 1.0, 0, None, None),
        (MONDAY, 2, 3.5, 0.5, 0, None, None),
    )
    assert "experts 50% (mean 3.5, 2 ratings); end users 0%" in found.summary


def test_quality_and_sources(engine: Engine) -> None:
    """Scores of what came first by week with the share of weak ones; by source how often it came first."""
    for number, (score, source) in enumerate([(0.9, "index"), (0.3, "index"), (0.6, "arxiv"), (0.1, "arxiv")]):
        add(engine, number, score=score, source=source, external_id=str(number), created_at=NOW, rating=number + 1)
    for first in ("0", "1", "2", None):
        serve(engine, first)
    found = shown("quality", engine)
    ((week, answers, mean, weak),) = found.rows
    assert (week, answers, mean, weak) == (MONDAY, 3, pytest.approx(0.6), pytest.approx(1 / 3))
    sources = shown("sources", engine)
    assert sources.rows == (
        ("index", 2, 2, pytest.approx(2 / 3), 1.5),
        ("arxiv", 2, 1, pytest.approx(1 / 3), 3.5),
    )
    assert "index had the first answer most often: 67% of 3 questions." in sources.summary


def test_stages(engine: Engine) -> None:
    """The slowest stage of the last week comes first and is named; older questions do not count."""
    for number in range(20):
        serve(engine, None, at=NOW - timedelta(minutes=number), total=20.0 + number, sources=10.0 + number, rank=1.0)
    serve(engine, None, at=NOW - timedelta(days=8), total=9_000, sources=9_000)
    found = shown("stages", engine)
    assert [row[0] for row in found.rows] == ["total", "sources", "rank"]
    assert found.rows[1] == ("sources", 20, 20.0, 29.0)
    assert "the slowest stage is sources: 20 ms in the median, 29 ms" in found.summary


def test_versions(engine: Engine) -> None:
    """Measured versions in their order with intervals; one from before the registry is left out."""
    measures = {name: {"value": 0.75, "low": 0.7, "high": 0.8} for name in ("accuracy", "auc")}
    rows = [("old", "retired", None), ("new", "live", {"overall": measures})]
    with transaction(engine) as connection:
        for name, state, metrics in rows:
            values = {"version": name, "sha256": name, "state": state, "reason": "r", "recipe": "p", "encoder": "e"}
            connection.execute(insert(ModelVersion).values(**values, metrics=metrics))
    found = shown("versions", engine)
    assert [(row[1], row[2], *row[4:]) for row in found.rows] == [("new", "live", 0.75, 0.7, 0.8, 0.75, 0.7, 0.8)]
    assert found.summary.startswith("The newest of 1 versions has an accuracy of 75%, the goal is 80%. Live is version")
