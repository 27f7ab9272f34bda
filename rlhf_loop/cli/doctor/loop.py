"""What the database knows of the loop: ratings, trainings, alarms."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from rlhf_loop.cli.doctor.finding import Finding, fault
from rlhf_loop.config import Settings
from rlhf_loop.domain import RunRecord
from rlhf_loop.utils.text import counted, verb

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

#: A million answers are trained on within hours. What runs for longer was killed, with nobody there to notice.
_LONGEST = timedelta(days=1)
_RUNS = 20
_SHOWN = 300


def rated(engine: Engine) -> int:
    """Return how many answers are rated by experts.

    Raises:
        DatabaseError: the database cannot be asked.
    """
    from sqlalchemy import func, select

    from rlhf_loop.store.engine import reading
    from rlhf_loop.store.tables import Interaction

    with reading(engine) as connection:
        count: int = connection.execute(select(func.count(Interaction.rating))).scalar_one()
    return count


def ratings(engine: Engine) -> Iterator[Finding]:
    """Tell how many ratings there are, and how many are missing to a first training."""
    from rlhf_loop.training.train import MIN_SAMPLES

    count = rated(engine)
    text = f"{counted(count, 'answer')} {verb(count, 'is', 'are')} rated by experts"
    if count < MIN_SAMPLES:
        text += f"; {MIN_SAMPLES - count} more and a model can be trained ({MIN_SAMPLES})"
    yield Finding("ratings", text)


def training(engine: Engine, settings: Settings, now: datetime) -> Iterator[Finding]:
    """Tell how the last training ended, which one is running, and whether another one is due."""
    from rlhf_loop.registry.runs import runs
    from rlhf_loop.registry.schedule import due

    found = runs(engine, _RUNS)
    if not found:
        yield Finding("training", "there was none yet")
    for run in found:
        if run.status == "running":
            yield _running(run, now)
    if ended := next((run for run in found if run.status != "running"), None):
        yield _ended(ended)
        yield Finding("training", due(engine, settings, now=now).reason.rstrip("."))


def _running(run: RunRecord, now: datetime) -> Finding:
    began = run.started_at or now
    text = f"one is running since {_moment(began)}, for {_lasted(now - began)}"
    if now - began < _LONGEST:
        return Finding("training", text)
    advice = "If no such process runs, it was killed: rlhf-loop retrain marks it so, and trains again"
    return fault("training", text, advice)


def _ended(run: RunRecord) -> Finding:
    from rlhf_loop.monitoring.checks import NO_FAULT

    text = f"the last one, of {_moment(run.started_at)}, "
    if run.status == "succeeded":
        return Finding("training", f"{text}succeeded")
    if run.status == "rejected":
        return Finding("training", f"{text}ended, and its model was refused: rlhf-loop models list says why")
    said = ((run.error or "").strip().splitlines() or ["it was stopped"])[0][:_SHOWN].rstrip(".")
    if (run.error or "").startswith(NO_FAULT):
        return Finding("training", f"{text}did not come to its end: {said}")
    return fault("training", f"{text}failed: {said}", "Correct that, then run: rlhf-loop retrain")


def alarms(engine: Engine) -> Iterator[Finding]:
    """Tell which alarms are open."""
    from rlhf_loop.store.alarms import open_alarms

    found = open_alarms(engine)
    if not found:
        yield Finding("alarms", "none is open")
        return
    kinds = ", ".join(f"{alarm.kind} {alarm.subject}".strip() for alarm in found)
    yield fault("alarms", f"{len(found)} {verb(len(found), 'is', 'are')} open: {kinds}", "Run: rlhf-loop alarms")


def _moment(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC" if moment else "an unknown time"


def _lasted(duration: timedelta) -> str:
    minutes = max(0, int(duration.total_seconds() // 60))
    days, hours = divmod(minutes // 60, 24)
    if days:
        return f"{counted(days, 'day')} and {hours} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"
