"""Rows for tests of the dashboard's figures, and the figures of a Wednesday in May."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any

from sqlalchemy import Engine, insert

from rlhf_loop.config import Settings
from rlhf_loop.domain import Rating
from rlhf_loop.monitoring.figures import figure
from rlhf_loop.monitoring.figures.figure import Figure
from rlhf_loop.store.engine import transaction
from rlhf_loop.store.interactions import record
from rlhf_loop.store.tables import ModelVersion, ServedQuestion

NOW = datetime(2026, 5, 20, 12, tzinfo=UTC)  # a Wednesday
MONDAY = date(2026, 5, 18)
NBSP = "\N{NO-BREAK SPACE}"


def shown(name: str, engine: Engine) -> Figure:
    """The figure as it is then."""
    return figure(name, engine, Settings(), now=NOW)


def said(name: str, engine: Engine) -> str:
    """Its sentences, with plain spaces."""
    return shown(name, engine).summary.replace(NBSP, " ")


def add(engine: Engine, question: int | str, **fields: Any) -> None:
    """Record an answer."""
    record(engine, [Rating(f"Question {question}?", f"Answer {question}.", **fields)])


def serve(engine: Engine, first: str | None, *, at: datetime = NOW, group: str = "", **timings: float) -> None:
    """Record that a question was answered, with that answer first."""
    values = {"candidate_group": group or f"g{first}{at}", "served_at": at, "policy": "live", "first_id": first}
    with transaction(engine) as connection:
        connection.execute(insert(ServedQuestion).values(**values, timings=timings))


def add_version(engine: Engine, name: str, metrics: Mapping[str, Any] | None, *, state: str = "candidate") -> None:
    """Record a version of the model."""
    values = {"version": name, "sha256": name, "state": state, "reason": "r", "recipe": "p", "encoder": "e"}
    with transaction(engine) as connection:
        connection.execute(insert(ModelVersion).values(**values, metrics=metrics))
