"""`rlhf-loop` in processes of their own, each forked from one that has imported everything: a training in a second.

The gate lets everything pass, so that each training that gets so far replaces the live model.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

#: Imported once, by the process that the others are forked from. None of it starts a thread that a fork would lose.
_IMPORTED = (
    "alembic.command",
    "onnxruntime",
    "psycopg",
    "pytest",
    "rich.progress",
    "rlhf_loop.cli",
    "rlhf_loop.cli.output",
    "rlhf_loop.encoders",
    "rlhf_loop.encoders.onnx_runtime",
    "rlhf_loop.registry.training_run",
    "scipy.optimize",
    "sklearn.linear_model",
    "sklearn.metrics",
    "sklearn.model_selection",
    "tokenizers",
)


@dataclass(frozen=True, slots=True)
class TrainingProcess:
    """A process that was started, and the file that it writes to."""

    process: BaseProcess
    log: Path

    def said(self) -> str:
        """Return what it has said so far."""
        return self.log.read_text(encoding="utf-8") if self.log.exists() else ""

    def wait(self, seconds: float) -> int:
        """Wait for its end; return its exit code, that of a signal below 0."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, self.said()
        return self.process.exitcode

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process.pid is not None
        os.kill(self.process.pid, number)


def start(command: Sequence[str], *, environ: Mapping[str, str], log: Path, step: str = "") -> TrainingProcess:
    """Start `rlhf-loop` with these words; it says "began" when it begins.

    `step` is `module:function:count:signal`: just before that call of the function it says "there" and gets the signal.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*_IMPORTED])
    process = context.Process(target=_run, args=([*command], dict(environ), str(log), step), daemon=True)
    process.start()
    return TrainingProcess(process, log)


def _run(command: list[str], environ: dict[str, str], log: str, step: str) -> None:
    with open(log, "wb") as stream:
        for number in (1, 2):
            os.dup2(stream.fileno(), number)
    os.environ.clear()
    os.environ.update(environ)

    from rlhf_loop.cli import main
    from rlhf_loop.domain import ModelState
    from rlhf_loop.registry import training_run

    judge = training_run.judge
    training_run.judge = lambda *args, **options: replace(judge(*args, **options), state=ModelState.LIVE)
    if step:
        _signal_at(*step.split(":"))
    print("began", flush=True)  # noqa: T201
    main(command)


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
