"""Checks of the loop: ratings, trainings, alarms, and the live model in the registry and on disk.

The registry repairs what it can (`registry.settle`, which `rlhf-loop models list` calls): a live file that is missing,
damaged, or of another version is restored from the version's own file. For the rest, the advice has the command.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_loop.cli.doctor.finding import Finding, fault, from_error
from rlhf_loop.cli.doctor.storage import DatabaseAccess
from rlhf_loop.config import Settings
from rlhf_loop.domain import MIN_SAMPLES, RunRecord
from rlhf_loop.errors import AlteredObjectError, EncoderError, ModelFileError, ObjectStoreError
from rlhf_loop.utils.text import counted, verb

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from rlhf_loop.registry import Version


#: A million answers are trained on within hours. What runs for longer was killed, with nobody there to notice.
_LONGEST = timedelta(days=1)
_RUNS = 20
_SHOWN = 300
_TRAIN = "Run: rlhf-loop train"
_RIGHTS = "Mend its rights, and those of the folders on the way"
_SETTLED = "Run: rlhf-loop models list, which puts the file back, as the worker and the service do within a minute"


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
    count = rated(engine)
    text = f"{counted(count, 'answer')} {verb(count, 'is', 'are')} rated by experts"
    if count < MIN_SAMPLES:
        text += f"; {MIN_SAMPLES - count} more and a model can be trained ({MIN_SAMPLES})"
    yield Finding("ratings", text)


#: What is said of a model that is no worse than the gate could tell, and not live.
WAITS = ", and its model waits for more ratings or for somebody: rlhf-loop models list says why"


def training(engine: Engine, settings: Settings, now: datetime) -> Iterator[Finding]:
    """Tell how the last training ended, which one is running, and whether another one is due."""
    from rlhf_loop import registry
    from rlhf_loop.domain import ModelState
    from rlhf_loop.registry.runs import runs, was_killed
    from rlhf_loop.registry.schedule import due

    found = runs(engine, _RUNS)
    if not found:
        yield Finding("training", "there was none yet")
    for run in found:
        if run.status == "running":
            yield _running(run, now, killed=was_killed(engine, settings, run.run_id))
    if ended := next((run for run in found if run.status != "running"), None):
        newest = registry.versions(engine)[:1]
        yield _ended(ended, waits=bool(newest) and newest[0].state is ModelState.CANDIDATE)
        yield Finding("training", due(engine, settings, now=now).reason.rstrip("."))


def backup(engine: Engine, settings: Settings, now: datetime) -> Iterator[Finding]:
    """Tell when the last backup was made, and whether the worker should have written one since."""
    from rlhf_loop.monitoring.crontab import Schedule
    from rlhf_loop.store.backup import last_backup

    last, folder = last_backup(engine), settings.shown()["backup_path"]
    text = f"the last one is {last.file}, of {_moment(last.made_at)}" if last else "there was none yet"
    if last and last.lacking:
        yield fault("backup", f"{text}, and lacks some: {' '.join(last.lacking)}", "Mend it, and make another one")
        return
    if not folder:
        advice = "" if last else "; rlhf-loop backup FILE writes one, and the worker does with RLHF_BACKUP_PATH"
        yield Finding("backup", text + advice)
        return
    schedule = Schedule(settings.backup_schedule, setting="RLHF_BACKUP_SCHEDULE")
    # One that was missed may be about to come; two mean that nobody writes any.
    if last and schedule.after(schedule.after(last.made_at)) < now:
        yield fault("backup", text, f"Look whether rlhf-loop worker runs, and can write to {folder}")
    else:
        yield Finding("backup", f"{text}; rlhf-loop worker writes the next one at {_moment(schedule.after(now))}")


def alarms(engine: Engine) -> Iterator[Finding]:
    """Tell which alarms are open."""
    from rlhf_loop.store.alarms import open_alarms

    found = open_alarms(engine)
    if not found:
        yield Finding("alarms", "none is open")
        return
    kinds = ", ".join(f"{alarm.kind} {alarm.subject}".strip() for alarm in found)
    yield fault("alarms", f"{len(found)} {verb(len(found), 'is', 'are')} open: {kinds}", "Run: rlhf-loop alarms")


def model(settings: Settings, reached: DatabaseAccess) -> Iterator[Finding]:
    """Tell whether a model serves, and whether it is the one that the registry has as live."""
    from rlhf_loop.ranking import is_off

    if is_off(settings.model_path):
        text = "it is switched off, so candidates keep their incoming order; rlhf-loop alarms says why, if need be"
        yield fault("model", text, "When it may rank again: rlhf-loop models on")
    live = _live(reached.engine) if reached.engine else None
    if live is not None and reached.engine is not None:
        yield from _with_live(settings, reached.engine, live)
    elif settings.model_path.exists():
        found = _loaded(settings)
        yield found
        if reached.engine and found.ok:
            text = "no version is live; the worker, the service and rlhf-loop models list take this model in"
            yield Finding("registry", text)
    else:
        yield _missing(settings, reached)


def _live(engine: Engine) -> Version | None:
    from rlhf_loop import registry

    return registry.live(engine)


def _running(run: RunRecord, now: datetime, *, killed: bool) -> Finding:
    began = run.started_at or now
    if killed:
        text = f"one that began at {_moment(began)} was killed"
        return fault("training", text, "Train again: rlhf-loop retrain")
    text = f"one is running since {_moment(began)}, for {_lasted(now - began)}"
    if now - began < _LONGEST:
        return Finding("training", text)
    advice = "If no such process runs, it was killed: rlhf-loop retrain marks it so, and trains again"
    return fault("training", text, advice)


def _ended(run: RunRecord, *, waits: bool) -> Finding:
    from rlhf_loop.registry.schedule import NO_FAULT

    text = f"the last one, of {_moment(run.started_at)}, "
    if run.status == "succeeded":
        return Finding("training", f"{text}succeeded{WAITS if waits else ''}")
    if run.status == "rejected":
        return Finding("training", f"{text}ended, and its model was refused: rlhf-loop models list says why")
    said = ((run.error or "").strip().splitlines() or ["it was stopped"])[0][:_SHOWN].rstrip(".")
    if (run.error or "").startswith(NO_FAULT):
        return Finding("training", f"{text}did not come to its end: {said}")
    return fault("training", f"{text}failed: {said}", "Correct that, then run: rlhf-loop retrain")


def _moment(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC" if moment else "an unknown time"


def _lasted(duration: timedelta) -> str:
    minutes = max(0, int(duration.total_seconds() // 60))
    days, hours = divmod(minutes // 60, 24)
    if days:
        return f"{counted(days, 'day')} and {hours} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"


@dataclass(frozen=True, slots=True)
class _File:
    """A model file: the sum of what it holds, or what is wrong with it; `shut` if it may not be read, `away` with its
    object store.
    """

    path: Path | str
    sha256: str = ""
    trouble: str = ""
    shut: bool = False
    away: bool = False


def _with_live(settings: Settings, engine: Engine, live: Version) -> Iterator[Finding]:

    file = _file(settings.model_path)
    own = _own(settings, live.version)
    if file.sha256 == live.sha256:
        yield _loaded(settings)
    else:
        text = f"{_said(file)}, and {live.version} is to be live"
        yield fault("model", text, _restoring(engine, file, own, live))
    since = f" since {live.live_from:%Y-%m-%d %H:%M} UTC" if live.live_from else ""
    if own.sha256 == live.sha256:
        yield Finding("registry", f"{live.version} is live{since}; its own file {own.path} is whole")
    else:
        text = f"{live.version} is live{since}, but: {_said(own)}"
        yield fault("registry", text, _mending(settings, engine, file, own, live))


def _said(file: _File) -> str:
    return file.trouble or f"{file.path} is another model, with sha256 {file.sha256[:12]}"


def _restoring(engine: Engine, file: _File, own: _File, live: Version) -> str:
    """Return what brings back the live file."""
    from rlhf_loop.registry.promotion import is_known

    if file.shut:
        return _RIGHTS
    if own.away:
        return "See store: what serves keeps the model that it has, and follows once the store answers"
    if own.sha256 != live.sha256:
        return f"See registry: once {own.path} is whole, this one is put right, too"
    if file.sha256 and not is_known(engine, file.sha256):
        # The registry leaves a model that somebody else has put there.
        return f"To put the registry's back: rlhf-loop models promote {live.version}"
    return _SETTLED


def _mending(settings: Settings, engine: Engine, file: _File, own: _File, live: Version) -> str:
    """Return what brings back the live version's own file."""
    from rlhf_loop.registry.versions import previous
    from rlhf_loop.reward.model_file import sum_file, weights_file
    from rlhf_loop.store.engine import reading

    if own.shut:
        return _RIGHTS
    if settings.models_store and (own.away or file.sha256 == live.sha256):
        back = f"bring it there again: rlhf-loop models promote {live.version}"
        return "See store" if own.away else f"The file of the live model is whole; {back}"
    if file.sha256 == live.sha256 and isinstance(file.path, Path) and isinstance(own.path, Path):
        copied = [(file.path, own.path), (sum_file(file.path), sum_file(own.path))]
        if weights := live.weights_sha256:
            copied.insert(0, (weights_file(file.path, weights), weights_file(own.path, weights)))
        copies = [("mkdir", "-p", own.path.parent), *(("cp", *both) for both in copied)]
        return "Run: " + " && ".join(shlex.join(map(str, words)) for words in copies)
    with reading(engine) as connection:
        before = previous(connection)
    if before and _own(settings, before.version).sha256 == before.sha256:
        return f"Restore it from a copy, with its .sha256, or go back to {before.version}: rlhf-loop models rollback"
    return "Restore it from a copy, with its .sha256, or train a new one: rlhf-loop train"


def _missing(settings: Settings, reached: DatabaseAccess) -> Finding:
    """Return what a missing model is: a matter of time while there is too little to train from, else a fault."""
    text = f"there is none at {settings.model_path.absolute()} yet (RLHF_MODEL_PATH)"
    later = f"; rlhf-loop train makes it from {MIN_SAMPLES} rated answers, rlhf-loop demo shows how"
    if reached.engine is None:
        return Finding("model", text + later) if reached.new else fault("model", text, _TRAIN)
    from rlhf_loop import registry

    if versions := registry.versions(reached.engine, limit=1):
        newest = versions[0]
        advice = "Rate more and run rlhf-loop retrain, or look at what there is: rlhf-loop models list"
        text = f"no version is live, answers keep the order in which they come; {newest.version} is {newest.state}: "
        return fault("registry", f"{text}{newest.reason.rstrip('.')}", advice)
    if rated(reached.engine) < MIN_SAMPLES:
        return Finding("model", text + later)
    return fault("model", text, _TRAIN)


def _loaded(settings: Settings) -> Finding:
    from rlhf_loop.encoders import full_name
    from rlhf_loop.reward.model_file import load

    try:
        loaded = load(settings.model_path, encoder=full_name(settings))
    except (ModelFileError, EncoderError) as error:
        return from_error("model", error)
    trained = loaded.model.card.get("trained_at", "at an unknown time")
    text = f"{loaded.version} at {settings.model_path}, trained {trained} with {loaded.model.encoder}"
    return Finding("model", text)


def _own(settings: Settings, version: str) -> _File:
    """Return the version's own file, in the folder or in the object store."""
    from rlhf_loop.registry import model_store, version_path

    if not settings.models_store:
        return _file(version_path(settings, version))
    address = settings.models_store
    try:
        address = model_store.home(settings).inside(f"{version}.joblib").address
        return _File(address, model_store.stored(settings, version).sha256)
    except (ModelFileError, ObjectStoreError) as error:
        text = str(error).partition(". ")[0].rstrip(".")
        cause = error if isinstance(error, ObjectStoreError) else error.__cause__
        away = isinstance(cause, ObjectStoreError) and not isinstance(cause, AlteredObjectError)
        return _File(address, trouble=text, away=away)


def _file(path: Path) -> _File:
    from rlhf_loop.reward.model_file import verified

    try:
        found = verified(path).sha256
    except ModelFileError as error:
        text = str(error).partition(". ")[0].rstrip(".")
        return _File(path, trouble=text, shut=isinstance(error.__cause__, OSError))
    return _File(path, found)
