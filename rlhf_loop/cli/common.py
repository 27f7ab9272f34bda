"""Common parts of the commands: error messages, settings and database, progress on stderr."""

from __future__ import annotations

import getpass
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import click

from rlhf_loop.errors import RlhfLoopError

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from rlhf_loop.config import Settings

FORMATS = click.Choice(["csv", "jsonl", "parquet"])
columns_option = click.option(
    "--column",
    "columns",
    metavar="FIELD=NAME",
    multiple=True,
    callback=lambda ctx, param, pairs: column_mapping(pairs),
    help="Which column of the file holds a field, e.g. user_prompt=frage. May be given several times. "
    "Usual names (prompt, question, answer, comment ...) are found without it.",
)


class Commands(click.Group):
    """The group of all commands: a deliberate error becomes a message and exit code 2; the help has sections."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._sections: dict[str, list[click.Command]] = {}

    def add_command(self, cmd: click.Command, name: str | None = None, *, section: str = "Commands") -> None:
        """Add a command to a section of the help."""
        super().add_command(cmd, name)
        self._sections.setdefault(section, []).append(cmd)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each section, its lines in the columns of all others."""
        longest = max(len(cmd.name or "") for cmds in self._sections.values() for cmd in cmds)
        for section, cmds in self._sections.items():
            with formatter.section(section):
                rows = [((cmd.name or "").ljust(longest), cmd.get_short_help_str(formatter.width)) for cmd in cmds]
                formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        # What stops a container stops a run like Ctrl-C does: it can still say so in its log.
        for stop in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
            # Not where somebody decided otherwise: nohup ignores SIGHUP. And only the main thread may.
            if signal.getsignal(stop) is signal.SIG_DFL:
                with suppress(ValueError):
                    signal.signal(stop, self._stop)
        try:
            return super().invoke(ctx)
        except RlhfLoopError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(2)
        except Exception:
            if self._stopped:
                # A library that was just being imported may make an error of its own out of the stop.
                sys.exit(128 + self._stopped)
            raise

    _stopped = 0

    def _stop(self, number: int, frame: object) -> None:
        self._stopped = number
        sys.exit(128 + number)


def read_settings() -> Settings:
    """Read the settings from the environment."""
    from rlhf_loop.config import Settings

    return Settings.from_env()


def open_ratings() -> Engine:
    """Open the database that the settings name."""
    from rlhf_loop.store.engine import open_database

    return open_database(read_settings().database_url)


def operator() -> str:
    """Return the audit log's name of the person who runs this; no user's name has a colon."""
    try:
        return f"cli:{getpass.getuser()}"
    except (OSError, KeyError):
        # In a container, the number of a user may have no name.
        return "cli:unknown"


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """Show a bar on stderr while the block runs; none where stderr is not a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show a sign of life on stderr while the block runs; none where stderr is not a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(f"{what} ..."):
        yield


def column_mapping(pairs: tuple[str, ...], *, example: str = "user_prompt=question") -> dict[str, str]:
    """Read the pairs FIELD=NAME of an option."""
    mapping = {}
    for pair in pairs:
        field, equals, name = pair.partition("=")
        if not (field and equals and name):
            raise click.BadParameter(f"{pair!r} is not of the form FIELD=NAME, e.g. {example}.")
        mapping[field.strip()] = name
    return mapping
