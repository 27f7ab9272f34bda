"""Findings: the result of one check in one line; a check that fails is a finding, too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from rlhf_loop.config import Settings
from rlhf_loop.errors import RlhfLoopError

#: Topics that belong together, in the order in which they are shown.
SECTIONS = {
    "This machine": ("software", "extra", "processor", "encoder"),
    "Settings": ("settings", "sources", "drafts", "telemetry", "secret key", "sign-in", "worker"),
    "Storage": ("database", "disk", "store", "cache", "outbox", "backup"),
    "The loop": ("ratings", "training", "model", "registry", "alarms"),
}
_TOPICS = [topic for topics in SECTIONS.values() for topic in topics]
_REPORT = "Please report it, with this line; the rest was looked at all the same."
_FOLDERS = "Check the folders on the way, the one that you stand in included: that they are there, and their rights"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at, by a topic of `SECTIONS`; `advice` says what to do if it is not all right."""

    topic: str
    text: str
    ok: bool = True
    advice: str = ""


def fault(topic: str, text: str, advice: str) -> Finding:
    """Return a finding that needs attention."""
    return Finding(topic, text, ok=False, advice=advice)


def from_error(topic: str, error: RlhfLoopError) -> Finding:
    """Return what the error says as a finding; its last sentences are the advice."""
    text, _, advice = str(error).partition(". ")
    return fault(topic, text, advice)


def with_failures(topic: str, findings: Iterable[Finding], settings: Settings) -> Iterator[Finding]:
    """Give the findings; what goes wrong on the way is one more of them, and the last."""
    try:
        yield from findings
    except Exception as error:
        # Whatever it is: who asks what is broken has to hear of the rest, and needs no traceback.
        yield from_exception(topic, error, settings)


def from_exception(topic: str, error: Exception, settings: Settings) -> Finding:
    """Return what went wrong as a finding, whether anybody thought of it or not."""
    if isinstance(error, RlhfLoopError):
        return from_error(topic, error)
    if isinstance(error, OSError):
        what = error.filename or "something"
        return fault(topic, f"{what} cannot be looked at: {error.strerror or error}", _FOLDERS)
    return fault(topic, f"could not be looked at: {in_words(error, settings)}", _REPORT)


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings in the order of `SECTIONS`."""
    return sorted(findings, key=lambda finding: _TOPICS.index(finding.topic))


def in_words(error: BaseException, settings: Settings) -> str:
    """Return the error in one line, without the settings' secrets: others wrote it, and may have put one into it."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    for secret in _secrets(settings):
        text = text.replace(secret, "***")
    return text


def _secrets(settings: Settings) -> list[str]:
    found = [getattr(settings, field.name) for field in fields(settings) if not field.repr]
    try:
        found.append(make_url(settings.database_url).password or "")
    except (ArgumentError, ValueError):
        found.append(settings.database_url)
    return [secret for secret in found if secret]
