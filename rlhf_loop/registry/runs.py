"""The log of training runs, and the lock that lets one training run at a time.

A run has its row from its start, so that one that was killed shows too. The lock is a file beside the model on one
machine, and an advisory lock in PostgreSQL among several; the system releases both when a process is killed. So whoever
holds them knows that a run which the log has as running is dead.
"""

from __future__ import annotations

import logging
import math
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from sqlalchemy import insert, select, text, update
from sqlalchemy.engine import Engine

from rlhf_loop.config import Settings
from rlhf_loop.domain import RunRecord
from rlhf_loop.errors import ModelFileError, TrainingRunningError
from rlhf_loop.store.engine import reading, transaction
from rlhf_loop.store.tables import TrainingRun
from rlhf_loop.utils.translation import Message, packed, unpacked

_FIELDS = tuple(field.name for field in fields(RunRecord))
logger = logging.getLogger(__name__)
#: "RLHT": the key of PostgreSQL's advisory lock.
_KEY = 0x524C4854
_KILLED = Message(
    "The process ended without a word: it was killed, or the machine went down. Train again: rlhf-loop retrain"
)


def begin_run(
    engine: Engine, *, started_at: datetime, recipe: str, encoder: str, split_seed: int, run_id: str | None = None
) -> str:
    """Log that a training run starts; return its id, `run_id` or a new one."""
    run_id = run_id or str(uuid.uuid4())
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
    known = {name: plain(value) for name, value in values.items() if value is not None}
    known["said"] = packed(record.error or "")
    with transaction(engine) as connection:
        result = connection.execute(update(TrainingRun).where(TrainingRun.run_id == run_id).values(known))
        if result.rowcount == 0:
            raise LookupError(f"There is no training run {run_id!r}. Begin it with begin_run.")


def plain(value: Any) -> Any:
    """Return the value as JSON and SQL can hold it: a number that is not finite becomes None."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, StrEnum):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    return value


def runs(engine: Engine, limit: int = 20) -> list[RunRecord]:
    """Read the latest runs, newest first."""
    # Not by their times: a clock may have been put back between two of them.
    newest = select(TrainingRun.__table__).order_by(TrainingRun.id.desc()).limit(limit)
    with reading(engine) as connection:
        return [_run(row) for row in connection.execute(newest).mappings()]


@contextmanager
def training_lock(engine: Engine, settings: Settings) -> Iterator[None]:
    """Keep other trainings from starting; runs that were killed are marked as failed first.

    Raises:
        TrainingRunningError: another training holds it.
        ModelFileError: the lock's file cannot be written.
    """
    with ExitStack() as held:
        _take(engine, settings, held)
        _mark(engine)
        yield


def mark_dead_runs(engine: Engine, settings: Settings) -> int:
    """Mark the runs as failed that were killed, unless a training runs at this moment; return how many there were.

    Raises:
        ModelFileError: the lock's file cannot be written.
    """
    with reading(engine) as connection:
        if connection.execute(select(TrainingRun.id).where(TrainingRun.status == "running").limit(1)).first() is None:
            return 0
    with ExitStack() as held:
        try:
            _take(engine, settings, held)
        except TrainingRunningError:
            return 0
        return _mark(engine)


def was_killed(engine: Engine, settings: Settings, run_id: str | None) -> bool:
    """Tell whether a run without an end is nobody's any more, without marking it; False where this cannot be told."""
    if not _lock_file(settings).exists():
        # It may run on another machine.
        return False
    with ExitStack() as held:
        try:
            _take(engine, settings, held)
        except (TrainingRunningError, ModelFileError):
            return False
        with reading(engine) as connection:
            wanted = select(TrainingRun.status).where(TrainingRun.run_id == run_id)
            # It may have ended just now.
            return connection.execute(wanted).scalar() == "running"


def _lock_file(settings: Settings) -> Path:
    return settings.model_path.with_name(f".{settings.model_path.name}.training.lock")


def _run(row: Mapping[Any, Any]) -> RunRecord:
    values = {name: row[name] for name in _FIELDS}
    values["error"] = row["error"] and unpacked(row["error"], row["said"])
    values["metrics"] = values["metrics"] or {}
    values["library_versions"] = values["library_versions"] or {}
    return RunRecord(**values)


def _take(engine: Engine, settings: Settings, held: ExitStack) -> None:
    path = settings.model_path
    lock = FileLock(_lock_file(settings), timeout=0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held.enter_context(lock)
    except Timeout:
        raise _running(engine) from None
    except OSError as error:
        raise ModelFileError(
            f"Cannot write beside the reward model {path}: {error.strerror or error}. Set RLHF_MODEL_PATH to another "
            "place."
        ) from error
    if engine.dialect.name == "postgresql":
        connection = held.enter_context(engine.connect().execution_options(isolation_level="AUTOCOMMIT"))
        if not connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": _KEY}).scalar_one():
            raise _running(engine)
        held.callback(connection.execute, text("SELECT pg_advisory_unlock(:key)"), {"key": _KEY})


def _running(engine: Engine) -> TrainingRunningError:
    with reading(engine) as connection:
        newest = select(TrainingRun.started_at).where(TrainingRun.status == "running").order_by(TrainingRun.id.desc())
        since = connection.execute(newest.limit(1)).scalar()
    when = f" since {since:%Y-%m-%d %H:%M} UTC" if since else ""
    return TrainingRunningError(
        f"Another training is running{when}; nothing was done. Wait until it has ended (rlhf-loop models list shows "
        "its model), or stop it."
    )


def _mark(engine: Engine) -> int:
    dead = (
        update(TrainingRun)
        .where(TrainingRun.status == "running")
        .values(status="failed", error=_KILLED, said=packed(_KILLED), finished_at=datetime.now(UTC))
    )
    with reading(engine) as connection:
        if connection.execute(select(TrainingRun.id).where(TrainingRun.status == "running").limit(1)).first() is None:
            return 0
    with transaction(engine) as connection:
        count = connection.execute(dead).rowcount
    if count:
        logger.warning("%d training run(s) were killed and are marked as failed now.", count)
    return count
