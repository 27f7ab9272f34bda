"""What the doctor says in tests, by topic."""

from __future__ import annotations

from collections.abc import Iterable

from rlhf_loop.cli.doctor import Finding


def about(findings: Iterable[Finding], topic: str) -> list[Finding]:
    """Return what was found about a topic."""
    return [finding for finding in findings if finding.topic == topic]


def faults(findings: Iterable[Finding]) -> list[Finding]:
    """Return what needs attention; each says what to do."""
    found = [finding for finding in findings if not finding.ok]
    assert all(finding.advice for finding in found)
    return found
