"""A run of tests in several processes, forked from the one that has collected them: a quarter of a minute each time."""

from __future__ import annotations

import gc
import mmap
import os
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import pytest
import slow_tests

#: The environment variable that leads the processes of a run to the folder that they share.
SHARED_FOLDER = "TESTS_SHARED_FOLDER"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option for the number of processes."""
    help = "run the tests in N processes, those of a file in one of them"
    parser.addoption("--processes", type=int, default=1, metavar="N", help=help)
    parser.addoption("--note-slow", action="store_true", help=f"after such a run of all tests, write {slow_tests.FILE}")


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Run the tests in several processes where these were asked for, and else as pytest does."""
    count = session.config.getoption("processes")
    if count < 2 or session.config.getoption("collectonly") or session.testsfailed:
        return None
    Workers(session).run(count)
    return True


@dataclass
class Worker:
    """A process that runs tests, as the main process knows it."""

    number: int
    pid: int
    #: What it has begun and not ended.
    item: pytest.Item | None = None
    #: What it has taken and not begun.
    left: list[pytest.Item] = field(default_factory=list)


class Workers:
    """The processes of a run. Each takes one file after the other; what they report is told to the plugins here."""

    def __init__(self, session: pytest.Session) -> None:
        self.session = session
        files: dict[Path, list[pytest.Item]] = {}
        for item in session.items:
            files.setdefault(item.path, []).append(item)
        self.files = list(files.values())
        # Who reads a number takes that file. All numbers are in the pipe before anybody reads.
        self.turns, writer = os.pipe()
        os.write(writer, b"".join(number.to_bytes(2, "big") for number in range(len(self.files))))
        os.close(writer)
        self.stop = mmap.mmap(-1, 1)
        self.started = 0
        #: How long each test took that has no mark for being slow.
        self.seconds: dict[str, float] = {}
        self.running: dict[Connection, Worker] = {}

    def run(self, count: int) -> None:
        """Run all tests."""
        for _ in range(min(count, len(self.files))):
            self.fork([])
        try:
            while self.running:
                for reports in wait(list(self.running)):
                    assert isinstance(reports, Connection)
                    self.hear(reports)
                if self.session.shouldfail or self.session.shouldstop:
                    self.stop[0] = 1
        finally:
            self.stop[0] = 1
            for reports, worker in self.running.items():
                reports.close()
                os.waitpid(worker.pid, 0)
        if self.session.config.getoption("note_slow"):
            slow_tests.write(self.seconds, every=not self.session.config.getoption("markexpr"))
        if self.session.shouldfail:
            raise self.session.Failed(self.session.shouldfail)
        if self.session.shouldstop:
            raise self.session.Interrupted(self.session.shouldstop)

    def fork(self, first: list[pytest.Item]) -> None:
        """Start a worker that begins with these tests."""
        here, there = Pipe(duplex=False)
        number, self.started = self.started, self.started + 1
        pid = os.fork()
        if pid:
            there.close()
            self.running[here] = Worker(number, pid, left=first)
            return
        status = 1
        try:
            here.close()
            os.register_at_fork(after_in_child=there.close)  # else this process is missed only when that one ends, too
            self.work(first, number, there)
            status = 0
        except BaseException:
            there.send(("broken", traceback.format_exc()))
        finally:
            os._exit(status)

    def hear(self, reports: Connection) -> None:
        """Tell the plugins what a worker reports, or that it died in the middle of a test; another one goes on then."""
        hook, worker = self.session.config.hook, self.running[reports]
        try:
            kind, value = reports.recv()
        except EOFError:
            kind, value = "end", None
        if kind == "take":
            worker.left = self.files[value][:]
        elif kind == "start":
            worker.item = worker.left.pop(0)
            hook.pytest_runtest_logstart(nodeid=worker.item.nodeid, location=worker.item.location)
        elif kind == "report":
            hook.pytest_runtest_logreport(
                report=hook.pytest_report_from_serializable(config=self.session.config, data=value)
            )
        elif kind == "finish":
            assert worker.item is not None
            hook.pytest_runtest_logfinish(nodeid=worker.item.nodeid, location=worker.item.location)
            if not any(mark.name == "slow" and not mark.kwargs for mark in worker.item.iter_markers()):
                self.seconds[worker.item.nodeid] = value
            worker.item = None
        elif kind == "broken":
            raise RuntimeError(f"Process {worker.number} of the tests broke. {value}")
        else:
            del self.running[reports]
            reports.close()
            _, status = os.waitpid(worker.pid, 0)
            if worker.item is not None:
                said = f"The process that ran this test ended with status {os.waitstatus_to_exitcode(status)}."
                hook.pytest_runtest_logreport(
                    report=pytest.TestReport(
                        worker.item.nodeid, worker.item.location, {}, "failed", said, "call", start=0, stop=0
                    )
                )
            elif status:
                raise RuntimeError(f"Process {worker.number} of the tests ended between two tests: {status}.")
            if worker.item is not None and not self.stop[0]:
                self.fork(worker.left)

    def work(self, first: list[pytest.Item], number: int, reports: Connection) -> None:
        """Run tests in this process, a worker."""
        session, config = self.session, self.session.config
        config.workerinput = {"workerid": str(number)}  # type: ignore[attr-defined]  # as plugins know it from xdist
        os.environ["PYTEST_DEBUG_TEMPROOT"] = os.environ[SHARED_FOLDER]  # gone with it at the end
        # What is said while a test runs goes to files, which would else be the same ones for all workers.
        capture = config.pluginmanager.getplugin("capturemanager")
        capture.stop_global_capturing()
        capture.start_global_capturing()
        config.pluginmanager.unregister(name="terminalreporter")
        config.pluginmanager.register(_Reporter(config, reports))
        for item, following in self.turn(first, reports):
            if self.stop[0] or session.shouldfail or session.shouldstop:
                break
            config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        # What no test has a part in any more: pytest itself looks at it when it ends, which a worker does not.
        unraisable: list[BaseException | None] = []
        sys.unraisablehook = lambda found: unraisable.append(found.exc_value)
        config.hook.pytest_sessionfinish(session=session, exitstatus=0)
        gc.collect()
        for error in unraisable:
            raise RuntimeError("An object failed when it was collected, after the last test.") from error

    def turn(self, first: list[pytest.Item], reports: Connection) -> Iterator[tuple[pytest.Item, pytest.Item]]:
        """Yield the tests of this worker, each with what comes after it: what both need stays set up."""
        tests = first
        while True:
            # After the last one of a file only what is of the whole session stays: the next file is not known yet.
            yield from zip(tests, [*tests[1:], cast(pytest.Item, self.session)], strict=False)
            taken = os.read(self.turns, 2)
            if not taken:
                return
            number = int.from_bytes(taken, "big")
            reports.send(("take", number))
            tests = self.files[number]


class _Reporter:
    """Plugin of a worker that reports to the main process."""

    def __init__(self, config: pytest.Config, reports: Connection) -> None:
        self._config = config
        self._reports = reports
        self._begun = 0.0

    def pytest_runtest_logstart(self) -> None:
        self._begun = perf_counter()
        self._reports.send(("start", None))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        hook: Any = self._config.hook
        self._reports.send(("report", hook.pytest_report_to_serializable(config=self._config, report=report)))

    def pytest_runtest_logfinish(self) -> None:
        self._reports.send(("finish", perf_counter() - self._begun))
