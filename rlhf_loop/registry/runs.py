"""The log of training runs: a row is there from the start of a run, so that one that was killed shows too."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.engine import Engine

from rlhf_loop.domain import RunRecord
from rlhf_loop.store.engine import reading, transaction
from rlhf_loop.store.tables import TrainingRun

_FIELDS = tuple(field.name for field in fields(RunRecord))


def new_run_id() -> str:
    """Return an id that no run has."""
    return str(uuid.uuid4())


def begin_run(
    engine: Engine, *, started_at: datetime, recipe: str, encoder: str, split_seed: int, run_id: str | None = None
) -> str:
    """Log that a training run starts; return its id, `run_id` or a new one."""
    run_id = run_id or new_run_id()
    with transaction(engine) as connection:
        connection.execute(
            insert(TrainingRun).values(
                run_id=run_id,
                started_at=started_at,
                status="running",
                recipe=recipe,
                encoder=encoder,
                split_seed=split_seed,
            )
        )
    return run_id


def end_run(engine: Engine, run_id: str, record: RunRecord) -> None:
    """Log how a run ended. What `record` leaves None stays as `begin_run` wrote it.

    Raises:
        LookupError: there is no such run.
    """
    values = {name: getattr(record, name) for name in _FIELDS if name != "run_id"}
    known = {name: _storable(value) for name, value in values.items() if value is not None}
    with transaction(engine) as connection:
        result = connection.execute(update(TrainingRun).where(TrainingRun.run_id == run_id).values(known))
        if result.rowcount == 0:
            raise LookupError(f"There is no training run {run_id!r}. Begin it with begin_run.")


def runs(engine: Engine, limit: int = 20) -> list[RunRecord]:
    """Read the latest runs, newest first."""
    newest = select(TrainingRun.__table__).order_by(TrainingRun.started_at.desc(), TrainingRun.id.desc()).limit(limit)
    with reading(engine) as connection:
        return [_run(row) for row in connection.execute(newest).mappings()]


def _run(row: Mapping[Any, Any]) -> RunRecord:
    values = {name: row[name] for name in _FIELDS}
    values["metrics"] = values["metrics"] or {}
    values["library_versions"] = values["library_versions"] or {}
    return RunRecord(**values)


def _storable(value: Any) -> Any:
    """The value as JSON and SQL can hold it: a measure that is not finite becomes None."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _storable(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_storable(item) for item in value]
    return value
