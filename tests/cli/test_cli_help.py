"""`rlhf-loop --help` as a newcomer reads it."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from rlhf_loop.cli import SECTIONS, main


def groups(command: click.Command, *path: str) -> Iterator[tuple[str, ...]]:
    if isinstance(command, click.Group):
        yield path
        for name, below in command.commands.items():
            yield from groups(below, *path, name)


def test_each_command_has_one_section() -> None:
    """The sections hold all commands, each once, and stand in the help in their order."""
    listed = [command.name for commands in SECTIONS.values() for command in commands]
    assert sorted(listed, key=str) == sorted(main.commands)
    shown = CliRunner().invoke(main, ["--help"]).stdout
    places = [shown.index(f"\n{section}:\n") for section in SECTIONS]
    assert places == sorted(places)


@pytest.mark.parametrize("path", list(groups(main)), ids=" ".join)
def test_lines_are_whole(path: tuple[str, ...]) -> None:
    """In 80 columns each command has its line, and none is cut or wrapped."""
    shown = CliRunner().invoke(main, [*path, "--help"], terminal_width=80).stdout
    command: click.Command = main
    for name in path:
        assert isinstance(command, click.Group)
        command = command.commands[name]
    assert isinstance(command, click.Group)
    lines = shown.splitlines()
    assert "..." not in shown.replace("PATH...", "").replace("[ARGS]...", "")
    for name, below in command.commands.items():
        assert any(line.split() == [name, *below.get_short_help_str(200).split()] for line in lines), name
