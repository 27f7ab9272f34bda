"""Command lines in files that others run: would this program take them?"""

from __future__ import annotations

from collections.abc import Sequence

import click

from rlhf_loop.cli import main


def understood(words: Sequence[str]) -> None:
    """Refuse a command, an option or a value that this program does not have."""
    command: click.Command = main
    context = click.Context(main)
    rest = list(words)
    while isinstance(command, click.Group):
        found = command.get_command(context, rest.pop(0))
        assert found is not None, words
        command = found
    command.make_context(command.name, rest)
