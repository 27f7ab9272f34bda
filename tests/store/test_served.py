from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.exc import IntegrityError

from rlhf_loop.domain import ServingRecord
from rlhf_loop.store.engine import reading, transaction
from rlhf_loop.store.interactions import experiment_name, other_order, put
from rlhf_loop.store.tables import ServedQuestion

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
WHOLE = ServingRecord(
    candidate_group="question:a",
    served_at=NOON,
    policy="interleaved",
    propensity=0.25,
    experiment="incoming interleaved",
    model_version="passages-1",
    first_id="a-1",
    teams={"a-1": "live", "a-2": "incoming"},
    degraded={"arxiv": "no answer within 3 s"},
    timings={"sources": 1.5, "total": 2.25},
)


def rows(engine: Engine) -> list[Any]:
    with reading(engine) as connection:
        return list(connection.execute(select(ServedQuestion.__table__).order_by(ServedQuestion.candidate_group)))


def test_what_is_kept_comes_out_as_it_was(engine: Engine) -> None:
    """Every field has its column; what is empty is null."""
    with transaction(engine) as connection:
        put(connection, WHOLE)
        put(connection, ServingRecord(candidate_group="question:b", served_at=NOON, policy="live"))
    whole, bare = (row._asdict() for row in rows(engine))
    assert whole.pop("emptied_at") is None
    assert ServingRecord(**whole) == WHOLE
    assert {name: value for name, value in bare.items() if value is not None} == {
        "candidate_group": "question:b",
        "served_at": NOON,
        "policy": "live",
        "propensity": 1.0,
    }


def test_the_second_time_does_nothing(engine: Engine) -> None:
    """A question that is written twice is there once, as it was written first."""
    for policy in ("live", "incoming"):
        with transaction(engine) as connection:
            put(connection, ServingRecord(candidate_group="question:a", served_at=NOON, policy=policy))
    assert [row.policy for row in rows(engine)] == ["live"]


@pytest.mark.parametrize("propensity", [0.0, 1.5])
def test_a_probability_is_one(engine: Engine, propensity: float) -> None:
    """The database refuses what nothing could be divided by."""
    with pytest.raises(IntegrityError), transaction(engine) as connection:
        put(connection, ServingRecord(candidate_group="a", served_at=NOON, policy="live", propensity=propensity))


@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize("other", ["incoming", "passages-1a2b3c4d5e6f"])
def test_an_experiment_is_named_after_the_other_order(other: str, interleaved: bool) -> None:
    """From its name it can be told what it is against."""
    assert other_order(experiment_name(other, interleaved=interleaved)) == other
