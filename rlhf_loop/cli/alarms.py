"""`rlhf-loop alarms`: what is amiss, for people, for cron, and for other programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from rlhf_loop.cli.common import open_ratings, read_settings, working

if TYPE_CHECKING:
    from rlhf_loop.store.alarms import Alarm

_SHOWN = 100


@click.command()
@click.option("--check", is_flag=True, help="Look first whether anything is amiss, and tell the webhook what is new.")
@click.option("--all", "with_past", is_flag=True, help=f"Show those that are over, too: the newest {_SHOWN}.")
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON, for other programs.")
def alarms(check: bool, with_past: bool, as_json: bool) -> None:
    """Show what is amiss. Exit code 1 if anything is, else 0.

    With --check it can stand in a crontab in place of the worker, which does the same every five minutes.
    """
    from rlhf_loop.store.alarms import alarms as newest
    from rlhf_loop.store.alarms import open_alarms

    engine, settings = open_ratings(), read_settings()
    if check:
        from rlhf_loop.monitoring.checks import check as run_checks
        from rlhf_loop.monitoring.webhook import deliver

        with working("Checking"):
            run_checks(engine, settings)
            deliver(engine, settings)
    still = open_alarms(engine)
    found = newest(engine, limit=_SHOWN) if with_past else still
    if as_json:
        click.echo(json.dumps([_plain(alarm) for alarm in found], indent=2))
    else:
        _show(found)
        if not still:
            click.echo("Nothing is amiss." if check else "No alarm is open. To look now: rlhf-loop alarms --check")
    if still:
        sys.exit(1)


def _show(found: Sequence[Alarm]) -> None:
    for alarm in found:
        name = f"{alarm.kind} {alarm.subject}".strip()
        over = f" to {alarm.cleared_at:%Y-%m-%d %H:%M}, over" if alarm.cleared_at else ""
        click.echo(f"{name} ({alarm.raised_at:%Y-%m-%d %H:%M}{over} UTC)")
        click.echo(f"  {''.join(character for character in alarm.message if character.isprintable())}")


def _plain(alarm: Alarm) -> dict[str, object]:
    return {
        "id": alarm.id,
        "kind": alarm.kind,
        "subject": alarm.subject,
        "message": alarm.message,
        "detail": dict(alarm.detail),
        "raised_at": alarm.raised_at.isoformat(),
        "seen_at": alarm.seen_at.isoformat(),
        "cleared_at": alarm.cleared_at.isoformat() if alarm.cleared_at else None,
    }
