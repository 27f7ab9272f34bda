"""Copies of the product to attack: a folder with database, live model and index, its commands and its server."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import click

from rlhf_loop import sample
from tools.fuzz import prepare

#: A process that takes more is stopped: the machine should survive.
MOST_MB = 1500.0
_PATIENCE_S = 180.0
_MAKING_S = 1800.0
_LOOK_EVERY_S = 0.01
_CODE = "from rlhf_loop.cli import main; main()"


@dataclass(frozen=True)
class Finding:
    """An attack's outcome: its figures in words, and whether the product held; None where it was not tried."""

    part: str
    attack: str
    figures: str
    holds: bool | None


@dataclass(frozen=True)
class Ran:
    """A command's end: exit code (that of a signal below 0), what it said, its seconds, and its peak memory in MB.

    `cpu_seconds` are those in which it had a core, also of the processes that it waited for.
    """

    code: int
    out: str
    error: str
    seconds: float
    megabytes: float
    cpu_seconds: float = 0.0

    @property
    def clear(self) -> bool:
        """Whether it did its work, or said in words why not."""
        return "Traceback" not in self.error and self.code in (0, 1, 2, 3, 75)

    def __str__(self) -> str:
        took = f"{self.seconds:.1f} s ({self.cpu_seconds:.1f} of CPU)" if self.cpu_seconds else f"{self.seconds:.1f} s"
        return f"exit code {self.code}, {took}, peak {self.megabytes:.0f} MB"


@dataclass(frozen=True)
class Running:
    """A running server."""

    port: int
    process: subprocess.Popen[str]
    log: Path

    def get(self, path: str, *, timeout: float = _PATIENCE_S, **headers: str) -> tuple[int, bytes]:
        """Return status and body; status 0 where no answer came."""
        return self.request("GET", path, timeout=timeout, headers=headers)

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        timeout: float = _PATIENCE_S,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, bytes]:
        """Return status and body; status 0 where no answer came."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(
                method, path, body, {name.replace("_", "-"): text for name, text in (headers or {}).items()}
            )
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, HTTPException):
            return 0, b""
        finally:
            connection.close()

    def workers(self) -> list[int]:
        """Return the ids of its worker processes."""
        return children(self.process.pid)

    def megabytes(self) -> float:
        """Return the largest peak memory that one of its processes has had."""
        return max(peak_mb(each) for each in [self.process.pid, *self.workers()])


@dataclass(frozen=True)
class Product:
    """A folder of its own, in which the product's commands run; `token` may do everything over HTTP."""

    folder: Path
    token: str
    environ: Mapping[str, str]

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.folder / "rlhf.db"

    @property
    def model(self) -> Path:
        """The live model's file."""
        return self.folder / "reward_model.joblib"

    def start(
        self, *words: str, environ: Mapping[str, str] | None = None, name: str = "command"
    ) -> subprocess.Popen[str]:
        """Start a command in a session of its own; what it says goes to files of that name."""
        with (self.folder / f"{name}.out").open("w") as out, (self.folder / f"{name}.err").open("w") as error:
            return subprocess.Popen(
                [sys.executable, "-c", _CODE, *words],
                cwd=self.folder,
                env={**self.environ, **(environ or {})},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=error,
                text=True,
                start_new_session=True,
            )

    def end(self, process: subprocess.Popen[str], *, name: str = "command", limit_s: float = _PATIENCE_S) -> Ran:
        """Wait for its end, and watch its memory; one that takes too long or too much is killed."""
        began, peak, cpu = time.monotonic(), 0.0, 0.0
        while process.poll() is None:
            peak, cpu = max(peak, peak_mb(process.pid)), max(cpu, _cpu_s(process.pid))
            if peak > MOST_MB or time.monotonic() - began > limit_s:
                process.kill()
                process.wait()
            time.sleep(_LOOK_EVERY_S)
        out, error = ((self.folder / f"{name}.{end}").read_text(errors="replace") for end in ("out", "err"))
        return Ran(process.returncode, out, error, time.monotonic() - began, peak, cpu)

    def run(self, *words: str, environ: Mapping[str, str] | None = None, limit_s: float = _PATIENCE_S) -> Ran:
        """Run a command to its end."""
        return self.end(self.start(*words, environ=environ), limit_s=limit_s)

    def copy(self, folder: Path) -> Product:
        """Return a copy in another folder."""
        shutil.copytree(self.folder, folder)
        return self.moved(folder)

    def moved(self, folder: Path) -> Product:
        """Return the same in another folder, whatever is in it."""
        return Product(folder, self.token, _environ(folder))

    def with_environ(self, **environ: str) -> Product:
        """Return the same with other variables."""
        return replace(self, environ={**self.environ, **environ})

    @contextmanager
    def served(self, *options: str, environ: Mapping[str, str] | None = None) -> Iterator[Running]:
        """Serve from this folder; two processes with eight threads each, unless the options say otherwise."""
        words = ("serve", "--port", "0", "--workers", "2", "--threads", "8", *options)
        process, ended = self.start(*words, environ=environ, name="server"), threading.Event()
        watch = threading.Thread(target=_stop_the_large, args=(process.pid, ended), daemon=True)
        try:
            port = self._port(process)
            server = Running(port, process, self.folder / "server.err")
            until(lambda: server.get("/readyz")[0] == 200, f"{server.log} says why the server is not ready.")
            watch.start()
            yield server
        finally:
            ended.set()
            if process.poll() is None:
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(60)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def count(self, table: str, where: str = "1 = 1") -> int:
        """Count the rows of a table."""
        with closing_connection(self.database) as connection:
            found: int = connection.execute(f"SELECT count(*) FROM {table} WHERE {where}").fetchone()[0]
        return found

    def _port(self, process: subprocess.Popen[str]) -> int:
        file = self.folder / "server.out"
        until(lambda: "Workers" in file.read_text() or process.poll() is not None, "The server did not start.")
        found = re.search(r"http://[^/\s]+:(\d+)/data-html", file.read_text())
        if found is None:
            raise click.ClickException(f"The server did not start: {(self.folder / 'server.err').read_text()[-2000:]}")
        return int(found[1])


def make(folder: Path) -> tuple[Product, Product]:
    """Make two products in new folders: one with ratings only, one that is trained on them."""
    bare = folder / "bare"
    bare.mkdir(parents=True)
    token = prepare(f"sqlite:///{bare / 'rlhf.db'}").all
    product = Product(bare, token, _environ(bare))
    _done(product.run("ratings", "import", str(sample.RATINGS_FILE), limit_s=_MAKING_S))
    trained = product.copy(folder / "trained")
    _done(trained.run("train", limit_s=_MAKING_S))
    return product, trained


@contextmanager
def closing_connection(database: Path) -> Iterator[sqlite3.Connection]:
    """Open a SQLite file to read it, and close it."""
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=60)
    try:
        yield connection
    finally:
        connection.close()


def until(there: object, otherwise: str, *, limit_s: float = _PATIENCE_S) -> None:
    """Wait until a function returns something true.

    Raises:
        ClickException: it does not in time.
    """
    assert callable(there)
    end = time.monotonic() + limit_s
    while not there():
        if time.monotonic() > end:
            raise click.ClickException(otherwise)
        time.sleep(0.05)


def peak_mb(process: int) -> float:
    """Return the peak memory of a process in MB, 0 where it is gone."""
    try:
        found = re.search(r"VmHWM:\s*(\d+)", Path(f"/proc/{process}/status").read_text())
    except OSError:
        return 0.0
    return int(found[1]) * 1024 / 1e6 if found else 0.0


def _cpu_s(process: int) -> float:
    """Return the seconds of CPU that a process has had, 0 where it is gone."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def _stop_the_large(server: int, ended: threading.Event) -> None:
    """Kill each process of a server that takes more than a machine should have to give."""
    while not ended.wait(0.2):
        for process in children(server):
            if peak_mb(process) > MOST_MB:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)


def children(process: int) -> list[int]:
    """Return the ids of a process's children."""
    try:
        return [int(each) for each in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


def _done(ran: Ran) -> None:
    if ran.code not in (0, 3):
        raise click.ClickException(f"The product that is to be attacked cannot be made: {ran.error}")


def _environ(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RLHF_")}
    paths: Sequence[str] = [str(Path(__file__).parents[2]), *sys.path]
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(paths),
        "RLHF_DATABASE_URL": f"sqlite:///{folder / 'rlhf.db'}",
        "RLHF_OUTBOX_PATH": str(folder / "outbox.db"),
        "RLHF_MODEL_PATH": str(folder / "reward_model.joblib"),
        "RLHF_INDEX_PATH": str(folder / "index"),
        "RLHF_SOURCES": "tools.fuzz:source",
        "RLHF_RATE_LIMIT": "0",
    }
