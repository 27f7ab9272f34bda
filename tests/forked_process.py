"""`rlhf-loop`, and programs, in processes of their own, each forked from one that has imported everything: they start
in no time."""

from __future__ import annotations

import atexit
import importlib
import multiprocessing
import os
import re
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext
    from multiprocessing.process import BaseProcess

#: Imported once, by the process that the others are forked from. None of it starts a thread that a fork would lose.
_IMPORTED = (
    "alembic.command",
    "flask",
    "gunicorn.arbiter",
    "onnxruntime",
    "psycopg",
    "pytest",
    "rich.progress",
    "rlhf_loop.cli",
    "rlhf_loop.cli.output",
    "rlhf_loop.encoders",
    "rlhf_loop.encoders.onnx_runtime",
    "rlhf_loop.registry.training_run",
    "rlhf_loop.web.server.server",
    "scipy.optimize",
    "sklearn.linear_model",
    "sklearn.metrics",
    "sklearn.model_selection",
    "tokenizers",
)


@dataclass(frozen=True, slots=True)
class ForkedProcess:
    """A process that was started, and the file that it writes to."""

    process: BaseProcess
    log: Path

    @property
    def pid(self) -> int:
        """Its number, and that of its group."""
        assert self.process.pid is not None
        return self.process.pid

    def said(self) -> str:
        """Return what it has said so far."""
        return self.log.read_text(encoding="utf-8") if self.log.exists() else ""

    def ended(self) -> bool:
        """Return whether it has."""
        return self.process.exitcode is not None

    def wait(self, seconds: float) -> int:
        """Wait for its end; return its exit code, that of a signal below 0."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, self.said()
        return self.process.exitcode

    def kill(self) -> None:
        """Kill it and its whole group."""
        os.killpg(self.pid, signal.SIGKILL)
        self.process.join()

    def has_stopped(self) -> bool:
        """Return whether it has stopped itself, where the system tells that; it says so a moment before."""
        state = Path(f"/proc/{self.pid}/stat")
        return not state.exists() or state.read_text().rpartition(") ")[2].startswith("T")

    def has_pending(self, number: signal.Signals) -> bool:
        """Return whether a signal has come to it that it has not heard yet, where the system tells that."""
        status = Path(f"/proc/{self.pid}/status")
        pending = re.findall(r"^(?:Sig|Shd)Pnd:\s*(\w+)$", status.read_text(), re.MULTILINE) if status.exists() else []
        return not pending or any(int(each, 16) & (1 << (number - 1)) for each in pending)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)


def context() -> ForkServerContext:
    """Return what processes are started by."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*_IMPORTED])
    return context


def program(code: str, *arguments: object, folder: Path, log: Path | None = None, **environ: str) -> ForkedProcess:
    """Start Python code in a process of its own, with these variables; what it says is in `log`, or one in `folder`."""
    log = log or folder / f"program-{time.monotonic_ns()}.log"
    process = context().Process(target=_execute, args=(code, [str(each) for each in arguments], str(log), environ))
    process.start()
    return ForkedProcess(process, log)


def start(
    command: Sequence[str],
    *,
    environ: Mapping[str, str],
    log: Path,
    folder: Path | None = None,
    out: Path | None = None,
    values: Mapping[str, object] = MappingProxyType({}),
    promotes: bool = False,
    step: str = "",
) -> ForkedProcess:
    """Start `rlhf-loop` with these words, in a group of its own; in `log` is what it says, but what it prints in `out`.

    `values` are set before it begins, by `module:name`. If it `promotes`, the gate lets everything pass, so that each
    training that gets so far replaces the live model. `step` is `module:function:count:signal`: just before that call
    of the function it says "there" and gets the signal.
    """
    options = (str(folder or log.parent), str(log), str(out or log), dict(values), promotes, step)
    process = context().Process(target=_run, args=([*command], dict(environ), *options))
    process.start()
    return ForkedProcess(process, log)


def _execute(code: str, arguments: list[str], log: str, environ: dict[str, str]) -> None:
    _redirect(log, log)
    os.environ.update(environ)
    sys.argv = ["-c", *arguments]
    exec(compile(code, "<program>", "exec"), {"__name__": "__main__"})


def _redirect(log: str, out: str) -> None:
    os.setsid()
    # Whoever started the tests in the background may have had it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for file, number in ((out, 1), (log, 2)):
        # To be read as well: or a terminal would not become that of the process, and no key would reach it.
        opened = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        os.dup2(opened, number)
        os.close(opened)
    if os.isatty(1):
        # Python's own streams are those of the process that this one was forked from, which had none.
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))


def _run(
    command: list[str],
    environ: dict[str, str],
    folder: str,
    log: str,
    out: str,
    values: dict[str, object],
    promotes: bool,
    step: str,
) -> None:
    _redirect(log, out)
    os.environ.clear()
    os.environ.update(environ)
    os.chdir(folder)
    sys.path.insert(0, folder)

    from rlhf_loop.cli import main

    for name, value in values.items():
        module, _, attribute = name.partition(":")
        setattr(importlib.import_module(module), attribute, value)
    if promotes:
        from rlhf_loop.domain import ModelState
        from rlhf_loop.registry import training_run

        judge = training_run.judge
        training_run.judge = lambda *args, **options: replace(judge(*args, **options), state=ModelState.LIVE)
    if step:
        _signal_at(*step.split(":"))
    print("began", flush=True)  # noqa: T201
    try:
        main(command)
    finally:
        # As where Python ends by itself; a process of `multiprocessing` leaves it out.
        atexit._run_exitfuncs()


def _signal_at(module_name: str, name: str, count: str, number: str) -> None:
    module, left = importlib.import_module(module_name), int(count)
    function = getattr(module, name)

    def signalled(*args: Any, **options: Any) -> Any:
        nonlocal left
        left -= 1
        if not left:
            print("there", flush=True)  # noqa: T201
            os.kill(os.getpid(), signal.Signals[number])
        return function(*args, **options)

    setattr(module, name, signalled)
