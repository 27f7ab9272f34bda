"""Common parts of the commands: error messages, settings and database, progress on stderr."""

from __future__ import annotations

import atexit
import errno
import getpass
import io
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from datetime import datetime
from functools import partial, reduce
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast

import click

from rlhf_loop.errors import RlhfLoopError
from rlhf_loop.utils.text import listed

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from rlhf_loop.config import Settings, Variables
    from rlhf_loop.encoders.cluster import EncoderCluster

logger = logging.getLogger(__name__)

#: What a command keeps of its settings, in click's context.
_ENV_FILE, _FOUND = "rlhf_loop.env_file", "rlhf_loop.found"
#: What a shell gives a program that Ctrl-C has ended, and one that SIGHUP or SIGTERM has.
_CTRL_C, _HUNG_UP, _TERMINATED = 130, 129, 143
#: What is said to be kept, see `stoppable`.
GOES_ON = "What is done is kept; the same command goes on from there."
UNCHANGED = "Nothing was changed."
#: The signals that have stopped a command of this process.
_STOPS: set[int] = set()
#: How often progress is told where there is no terminal, and the latest seconds that the speed of a bar goes by.
_TELL_S, _SPEED_S = 10, 600

json_option = click.option("--json", "as_json", is_flag=True, help="As JSON, for other programs.")


@atexit.register
def _ignore_stops() -> None:
    """Ignore a second stop at the very end, by which Python itself would be ended: after what others do at an exit."""
    for number in _STOPS:
        signal.signal(number, signal.SIG_IGN)


class FilePath(click.Path):
    """The type of what names a file or a folder, there or not; a name that none could have is refused with a reason."""

    def __init__(self, *, dir_okay: bool = True) -> None:
        super().__init__(path_type=Path, dir_okay=dir_okay)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path, or refuse it before any work is done for it."""
        try:
            if not (text := os.fspath(value)):
                self.fail("An empty text names no file. Give its name.", param, ctx)
            os.stat(text)
        except FileNotFoundError:
            pass
        except ValueError as error:
            self.fail(f"{value!r} is not a valid name of a file: {error}. Choose another one.", param, ctx)
        except OSError as error:
            if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
                shown = f"{os.fsdecode(value)[:60]!r}"
                self.fail(f"{shown} is not a valid name of a file: {error.strerror}. Choose another one.", param, ctx)
        return super().convert(value, param, ctx)


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
        self.stopped, self._dropped, self._told, handled = 0, False, False, {}
        for stop in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
            # Not where somebody decided otherwise: nohup ignores SIGHUP. And only the main thread may.
            if (usual := signal.getsignal(stop)) in (signal.SIG_DFL, signal.default_int_handler):
                with suppress(ValueError):
                    signal.signal(stop, self._stop)
                    handled[stop] = usual
        for stream in (sys.stdout, sys.stderr):
            # Names of files need not be UTF-8, nor has each terminal all characters: no message fails for that.
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        before, sys.unraisablehook = sys.unraisablehook, self._drop
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, Exception) as error:
            if code := _stop_code(error):
                _say_stopped("Nothing more was done.")
                ctx.exit(code)
            if not isinstance(error, RlhfLoopError):
                raise
            click.echo(f"Error: {error}", err=True)
            ctx.exit(2)
        finally:
            sys.unraisablehook = before
            for stop, usual in handled.items():
                # One that has come may come once more, see below.
                if not self.stopped and signal.getsignal(stop) == self._stop:
                    signal.signal(stop, usual)

    #: The signal that has stopped the command, 0 while none has.
    stopped = 0
    _dropped = _told = False

    def _stop(self, number: int, frame: object) -> None:
        """Raise what ends the command, once: a second stop would cut off what the first one has to put in order."""
        if self.stopped and not self._dropped:
            # Whoever presses a key may know better; what stops services says it twice, and then kills.
            if number == signal.SIGINT:
                self._hasten()
            return
        _STOPS.add(number)
        self.stopped, self._dropped = number, False
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + number)

    def _hasten(self) -> None:
        # Not through Python's streams: the signal may have come while one of them was at work.
        terminal = os.isatty(2)
        if not self._told:
            self._told = True
            if terminal:
                os.write(2, b"\r\x1b[KStopping: what was begun is put in order. Ctrl-C once more ends at once.\r\n")
            return
        if terminal:
            os.write(2, b"\r\x1b[K\x1b[?25hStopped at once. What is stored is whole: run the same command again.\r\n")
        os._exit(128 + self.stopped)

    def _drop(self, unraisable: sys.UnraisableHookArgs) -> None:
        if self.stopped and isinstance(unraisable.exc_value, KeyboardInterrupt | SystemExit):
            # The stop came while Python was in a callback or a finaliser, where it drops every exception: once more.
            self._dropped = True
            threading.Timer(0.01, os.kill, (os.getpid(), self.stopped)).start()
        else:
            sys.__unraisablehook__(unraisable)


def engine_options(
    work: str, workers: str = "Cores of the cluster"
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the options that say where the work is done: here, or on a cluster of Ray."""
    options = (
        click.option(
            "--engine",
            type=click.Choice(["local", "ray"]),
            default="local",
            show_default=True,
            help=f"{work}: on this machine, or on a Ray cluster (extra [ray]).",
        ),
        click.option("--workers", type=click.IntRange(1), help=f"{workers} at most. Default: all cores."),
        click.option(
            "--address", help="Address of the Ray cluster. Default: the one that Ray finds, or its own one here."
        ),
    )
    return lambda command: reduce(lambda wrapped, option: option(wrapped), reversed(options), command)


@contextmanager
def cluster_of(
    settings: Settings, *, engine: str, workers: int | None, address: str | None
) -> Iterator[EncoderCluster | None]:
    """Give the connected cluster that the options of `engine_options` name, None on this machine.

    Raises:
        click.UsageError: there are options of a cluster without one.
        RlhfLoopError: it cannot be reached, or Ray is not installed.
    """
    if engine != "ray":
        if workers is not None or address is not None:
            raise click.UsageError("--workers and --address are those of a cluster. Add --engine ray, or omit them.")
        yield None
        return
    from rlhf_loop.encoders.cluster import EncoderCluster
    from rlhf_loop.utils.ray_engine import connected

    with ExitStack() as stack:
        with working("Connecting to the cluster", kept=UNCHANGED):
            stack.enter_context(connected(address))
        yield EncoderCluster(settings, address, workers or 0)


def _on_stderr(line: str) -> None:
    click.echo(line, err=True)


def find_settings(say: Callable[[str], None] = _on_stderr) -> Variables:
    """Find what gives settings their values, once a command, and say what files were found.

    What files add is then in the environment: of this process, and of those that it starts.
    """
    from rlhf_loop.config import find_variables

    context = click.get_current_context()
    if (kept := context.meta.get(_FOUND)) is not None:
        return cast("Variables", kept)
    env_file: Path | None = context.meta.get(_ENV_FILE)
    found = context.meta[_FOUND] = find_variables(os.environ, env_file=env_file)
    for name in found.files:
        os.environ[name] = found.environ[name]
        context.find_root().call_on_close(partial(os.environ.pop, name, None))
    for file, names in found.by_file().items():
        if env_file is None or file != env_file.absolute():
            say(f"Settings from {file}: {listed(names)}.")
    return found


def keep_env_file(context: click.Context, option: click.Parameter, value: Path | None) -> None:
    """Keep what --env-file names until settings are read."""
    context.meta[_ENV_FILE] = value


def read_settings() -> Settings:
    """Read the settings: from the environment, and from files."""
    from rlhf_loop.config import Settings

    return Settings.from_env(find_settings().environ)


def read_settings_for_log() -> Settings:
    """Read the settings of a command that logs, and configure its log, in which then stands what files were found."""
    from rlhf_loop.config import Settings
    from rlhf_loop.utils import log_format

    lines: list[str] = []
    found = find_settings(lines.append)
    try:
        settings = Settings.from_env(found.environ)
        log_format.configure(settings.log_format)
    except RlhfLoopError:
        for line in lines:
            _on_stderr(line)
        raise
    for line in lines:
        logger.info("%s", line)
    return settings


def open_ratings() -> Engine:
    """Open the database that the settings name; where there was one before, no new one is made (see `init`)."""
    from rlhf_loop.store.engine import open_database, refuse_new_file

    settings = read_settings()
    refuse_new_file(settings)
    return open_database(settings.database_url)


def operator() -> str:
    """Return the audit log's name of the person who runs this; no user's name has a colon."""
    try:
        return f"cli:{getpass.getuser()}"
    except (OSError, KeyError):
        # In a container, the number of a user may have no name.
        return "cli:unknown"


@contextmanager
def stoppable(kept: str) -> Iterator[None]:
    """Say on Ctrl-C and on SIGTERM what is `kept` of the block's work, and end."""
    try:
        yield
    except BaseException as error:
        if not (code := _stop_code(error)):
            raise
        _say_stopped(kept)
        sys.exit(code)


def _say_stopped(kept: str) -> None:
    # A terminal shows the key itself as ^C, over which this is written.
    start = "\r" if sys.stderr.isatty() else ""
    click.echo(f"{start}Stopped. {kept}", err=True)


def _stop_code(error: BaseException) -> int:
    """Return the exit code of a stop, 0 of any other end."""
    if isinstance(error, KeyboardInterrupt):
        return _CTRL_C
    if isinstance(error, SystemExit):
        return error.code if error.code in (_HUNG_UP, _TERMINATED) else 0
    # Where a library was just at work, it may have made an error of its own out of the stop.
    context = click.get_current_context(silent=True)
    group = context and context.find_root().command
    return 128 + group.stopped if isinstance(group, Commands) and group.stopped else 0


@contextmanager
def progress_bar(what: str, *, kept: str) -> Iterator[Callable[[int, int], None] | None]:
    """Show a bar with the time that is left on stderr while the block runs, none where stderr is not a terminal.

    See `stoppable` for `kept`.
    """
    if not sys.stderr.isatty():
        with stoppable(kept):
            yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    # What is done is told at long intervals on a slow machine, and two of them tell how fast it is.
    with stoppable(kept), Progress(console=Console(stderr=True), transient=True, speed_estimate_period=_SPEED_S) as bar:
        task = bar.add_task(what, total=None)

        def report(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)
            if not done:
                bar.advance(task, 0)  # the first of them

        yield report


@contextmanager
def rated_progress(*, kept: str) -> Iterator[Callable[[str, str], Callable[[int, int], None]]]:
    """Show how much is done, how fast, and how long it will take, on stderr: a bar, or without a terminal lines.

    See `stoppable` for `kept`. The block gets a function that takes what begins now and its unit, and returns what
    takes how much of it is done. What was done before the first call counts for no speed.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    terminal = sys.stderr.isatty()
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[said]}")
    bar = Progress(*columns, console=Console(stderr=True), transient=True, disable=not terminal)

    def begin(what: str, unit: str) -> Callable[[int, int], None]:
        started = told = perf_counter()
        first: int | None = None
        task = bar.add_task(what, total=None, said="")

        def report(done: int, total: int) -> None:
            nonlocal first, told
            first = done if first is None else first
            now = perf_counter()
            rate = (done - first) / max(now - started, 1e-9)
            left = f", {_duration((total - done) / rate)} left" if rate > 0 and done < total else ""
            said = f"{done:,} of {total:,} {unit}" + (f", {rate:,.0f} a second{left}" if rate > 0 else "")
            bar.update(task, completed=done, total=total, said=said)
            if not terminal and (now - told > _TELL_S or (done == total and done > first)):
                told = now
                click.echo(f"{what}: {said}.", err=True)

        return report

    with stoppable(kept), bar:
        yield begin


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes > 9 else f"{60 * minutes + seconds} s"


@contextmanager
def working(what: str, *, kept: str) -> Iterator[None]:
    """Show a sign of life on stderr while the block runs, none where stderr is not a terminal.

    See `stoppable` for `kept`.
    """
    if not sys.stderr.isatty():
        with stoppable(kept):
            yield
        return
    from rich.console import Console

    with stoppable(kept), Console(stderr=True).status(f"{what} ..."):
        yield


def print_json(values: object) -> None:
    """Print values as JSON for other programs; dataclasses become objects, times texts by ISO 8601."""

    def plain(value: Any) -> Any:
        return value.isoformat() if isinstance(value, datetime) else asdict(value)

    click.echo(json.dumps(values, indent=2, default=plain))


def check_writable(file: Path, *, hint: str | None = None) -> None:
    """Refuse a file that cannot be written, before the work that fills it; `hint` names it where no option does."""
    if not os.access(file if file.exists() else file.resolve().parent, os.W_OK):
        raise click.BadParameter(f"{str(file)!r} cannot be written. Choose another place.", param_hint=hint)


def columns_option(help: str, *, example: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the option --column, by which columns of a file are said to hold fields."""
    return pairs_option("--column", "columns", "FIELD=NAME", help, example=example)


def pairs_option(
    name: str, parameter: str, metavar: str, help: str, *, example: str
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return an option of pairs with an equals sign between them, which may be given several times."""

    def mapping(ctx: click.Context, param: click.Parameter, pairs: tuple[str, ...]) -> dict[str, str]:
        found = {}
        for pair in pairs:
            left, equals, right = pair.partition("=")
            if not (left and equals and right):
                raise click.BadParameter(f"{pair!r} is not of the form {metavar}, e.g. {example}.")
            found[left.strip()] = right
        return found

    return click.option(name, parameter, metavar=metavar, multiple=True, callback=mapping, help=help)


ratings_columns_option = columns_option(
    "Which column of the file holds a field, e.g. user_prompt=frage. May be given several times. "
    "Usual names (prompt, question, answer, comment ...) are found without it.",
    example="user_prompt=question",
)


def off_still() -> str:
    """Say that the model is switched off, after what else is said of it; an empty text while it is on."""
    from rlhf_loop.ranking import is_off

    off = is_off(read_settings().model_path)
    return " It does not rank, as the model is switched off: rlhf-loop models on" if off else ""
