"""`rlhf-loop models`: every version of the reward model, and which one is live."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from rlhf_loop.cli.common import open_ratings, operator, read_settings, working

if TYPE_CHECKING:
    from rlhf_loop.registry import Version

_as_json = click.option("--json", "as_json", is_flag=True, help="As JSON, for other programs.")
_why = click.option("--reason", default="", help="Why, for those who come later; it is kept.")


@click.group()
def models() -> None:
    """See all versions of the reward model, and decide which one is live.

    NAME is a version, the beginning of its name, or its number.
    """


@models.command("list", short_help="Show the versions, the newest first, and what the gate said.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="The newest so many.")
@_as_json
def list_models(limit: int, as_json: bool) -> None:
    """Show the versions, the newest first: state, measures, and what the gate said."""
    from rlhf_loop import registry

    engine, settings = open_ratings(), read_settings()
    registry.settle(engine, settings)
    found = registry.versions(engine, limit=limit)
    if as_json:
        click.echo(json.dumps([_plain(each) for each in found], indent=2))
        return
    from rlhf_loop.cli.output import print_versions

    print_versions(found)


@models.command("show", short_help="Show the card of the version NAME: data, measures, limits.")
@click.argument("name")
@_as_json
def show(name: str, as_json: bool) -> None:
    """Show the card of the version NAME: data, measures, limits, in Markdown."""
    from rlhf_loop import registry

    version = registry.find(open_ratings(), name)
    click.echo(json.dumps(_plain(version), indent=2) if as_json else registry.card(version), nl=as_json)


@models.command("promote")
@click.argument("name")
@click.option("--force", is_flag=True, help="Although the gate has not let it pass; needs --reason.")
@_why
def promote(name: str, force: bool, reason: str) -> None:
    """Put the version NAME live. Serving processes follow within seconds."""
    from rlhf_loop import registry

    if force and not reason.strip():
        raise click.UsageError("--force needs a reason, for those who come later: --reason TEXT")
    version = registry.promote(open_ratings(), read_settings(), name, actor=operator(), force=force, reason=reason)
    click.echo(f"{version.version} is live.")


@models.command("rollback", short_help="Put the version live again that was live before.")
@_why
def rollback(reason: str) -> None:
    """Put the version live that was live before; the one that is live now counts as rejected."""
    from rlhf_loop import registry

    version = registry.rollback(open_ratings(), read_settings(), actor=operator(), reason=reason)
    click.echo(f"{version.version} is live again.")


@models.command("compare", short_help="Compare A and B on questions that neither was fitted on.")
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@_as_json
def compare(first: str, second: str, as_json: bool) -> None:
    """Compare the versions A and B on rated questions that neither was fitted on."""
    from rlhf_loop.registry.compare import compare_models

    engine, settings = open_ratings(), read_settings()
    with working("Comparing"):
        found = compare_models(engine, settings, first, second)
    if as_json:
        values: dict[str, Any] = {"a": found.first.version, "b": found.second.version}
        values |= {"questions": found.questions, "answers": found.answers}
        click.echo(json.dumps({**values, **asdict(found.found), "unknown": list(found.unknown)}, indent=2))
        return
    from rlhf_loop.cli.output import print_contest

    print_contest(found)


def _plain(version: Version) -> dict[str, Any]:
    values = asdict(version)
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in values.items()}
