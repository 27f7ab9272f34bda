"""Checks of installation, settings, storage and the state of the loop, with advice for each problem.

Each finding is one line; one that is not all right says what to do. Nothing is changed: no table, file or folder is
made by looking.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from rlhf_loop.cli.doctor import loop, machine, storage
from rlhf_loop.cli.doctor.finding import SECTIONS, Finding, from_exception, in_order, with_failures
from rlhf_loop.cli.doctor.machine import EXTRAS
from rlhf_loop.cli.doctor.storage import DatabaseAccess, reach
from rlhf_loop.config import Settings

__all__ = ["EXTRAS", "SECTIONS", "Finding", "examine", "examine_environment"]


def examine_environment(environ: Mapping[str, str], *, files: Iterable[Finding] = ()) -> list[Finding]:
    """Look at everything as `examine` does; a setting that cannot be read is a finding, and stays at its default.

    `files` is what was found in the files that may have settings. Where one of them cannot be read, only what needs no
    settings is looked at: the defaults may be those of another installation.
    """
    settings, findings = machine.readable_settings(environ)
    files = list(files)
    if all(found.ok for found in files):
        return in_order([*files, *findings, *examine(settings)])
    untold = Finding("settings", "what depends on them is not looked at before all can be read")
    return in_order([*files, *findings, untold, *_found(_machine_checks(), settings)])


def examine(settings: Settings, *, now: datetime | None = None) -> list[Finding]:
    """Look at everything; what fails becomes a finding, and the next thing is looked at all the same."""
    now = now or datetime.now(UTC)
    try:
        reached = reach(settings)
    except Exception as error:
        reached = DatabaseAccess(from_exception("database", error, settings))
    try:
        found = _found(_checks(settings, reached, now), settings)
    finally:
        if reached.engine is not None:
            reached.engine.dispose()
    return in_order([reached.finding, *found])


def _found(checks: Iterable[tuple[str, Iterable[Finding]]], settings: Settings) -> list[Finding]:
    return [finding for topic, findings in checks for finding in with_failures(topic, findings, settings)]


def _machine_checks() -> Iterable[tuple[str, Iterable[Finding]]]:
    yield "software", machine.software()
    yield "extra", machine.extras()
    yield "processor", machine.processor()


def _checks(settings: Settings, reached: DatabaseAccess, now: datetime) -> Iterable[tuple[str, Iterable[Finding]]]:
    yield from _machine_checks()
    yield "encoder", machine.encoder(settings)
    yield "settings", machine.settings_in_use(settings)
    yield "sources", machine.sources(settings)
    yield "drafts", machine.drafts(settings)
    yield "telemetry", machine.telemetry(settings)
    yield "secret key", machine.secret_key(settings)
    yield "sign-in", machine.sign_in(settings)
    yield "worker", machine.worker(settings, now)
    yield "disk", storage.disk(settings, reached)
    yield "store", storage.store(settings)
    yield "cache", storage.cache(settings)
    yield "outbox", storage.outbox(settings)
    yield "model", loop.model(settings, reached)
    if reached.engine is not None:
        yield "ratings", loop.ratings(reached.engine)
        yield "training", loop.training(reached.engine, settings, now)
        yield "backup", loop.backup(reached.engine, settings, now)
        yield "alarms", loop.alarms(reached.engine)
