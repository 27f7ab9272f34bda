"""Attack web servers with requests that never end, all in the same way, and compare what they do and need.

    python -m tools.servers                       all servers below that are installed here
    python -m tools.servers --only ours,gthread --connections 64

Each runs the routes of this package without a model, in 2 processes with 8 threads. Others than ours are not among the
packages of the development environment: `pip install waitress granian uvicorn a2wsgi` into one of its own first (beside
this package), and nginx by your system. docs/ARCHITECTURE.md has the table.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from tools.report import processor_s

if TYPE_CHECKING:
    from flask import Flask

ROOT = Path(__file__).parents[1]
WORKERS, THREADS = 2, 8
#: A probe of Kubernetes gives up earlier.
PATIENCE_S = 5.0
_LOAD_S = 4.0
_CLIENTS = 16
#: What a service may open by default.
_FILES = 1024

HEAD = b"GET /data?query=x HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /data HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
ATTACKS = {
    "nothing": b"",
    "half a head": HEAD,
    "half a body": POST + b"Content-Length: 900\r\n\r\n{",
    "half a large body": POST + b"Content-Length: 100000\r\n\r\n{",
    "half a chunk": POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{",
    "100-continue": POST + b"Content-Length: 900\r\nExpect: 100-continue\r\n\r\n",
    # Asks for the largest file there is, and reads none of the answers.
    "answers not read": b"GET /data-html/static/swagger-ui/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
    * 3,
}
_ALIVE = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
_PAGE = b"GET /sign-in HTTP/1.1\r\nHost: localhost\r\n\r\n"
_UNAUTHORISED = b"POST /v1/feedback HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def application() -> Flask:
    """Return the routes, with nothing to load."""
    from rlhf_loop.config import Settings
    from rlhf_loop.web import create_app

    folder = Path(os.environ["TOOLS_SERVERS_FOLDER"])
    return create_app(
        Settings(
            sources=(),
            rate_limit="0",
            database_url=f"sqlite:///{folder / 'rlhf.db'}",
            model_path=folder / "reward_model.joblib",
            outbox_path=folder / "outbox.db",
            cache_dir=folder / "cache",
        )
    )


def in_asgi(*, whole: bool) -> Any:
    """Return the routes for an ASGI server; `whole` calls them only when the body is here."""
    from a2wsgi import WSGIMiddleware

    app = WSGIMiddleware(application(), workers=THREADS)
    if not whole:
        return app

    async def waiting(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
            if len(body) > 4 << 20 or message["type"] != "http.request":
                return

        async def given() -> Any:
            return {"type": "http.request", "body": body, "more_body": False}

        await app(scope, given, send)

    return waiting


def waitress_worker() -> type:
    """Return a worker of gunicorn that serves by waitress."""
    from threading import Thread

    from gunicorn.workers.base import Worker  # type: ignore[import-untyped]
    from waitress import create_server

    class Waitress(Worker):  # type: ignore[misc]
        def run(self) -> None:
            Thread(target=self.beat, daemon=True).start()
            create_server(
                self.app.wsgi(),
                sockets=[each.sock for each in self.sockets],
                threads=THREADS,
                ident=None,
                max_request_body_size=4 << 20,
                asyncore_use_poll=True,
                connection_limit=900,
            ).run()

        def beat(self) -> None:
            while True:
                self.notify()
                time.sleep(1)

    return Waitress


def __getattr__(name: str) -> Any:
    if name == "Waitress":
        return waitress_worker()
    if name in ("asgi", "asgi_whole"):
        return in_asgi(whole=name == "asgi_whole")
    raise AttributeError(name)


def _gunicorn(worker: str, port: int, app: str = "tools.servers:application()") -> list[str]:
    return [
        *(sys.executable, "-m", "gunicorn", "-k", worker, "-w", str(WORKERS), "--threads", str(THREADS)),
        *("-b", f"127.0.0.1:{port}", "--keep-alive", "75", "--no-control-socket", "--log-level", "warning", app),
    ]


def _uvicorn(app: str, port: int) -> list[str]:
    return [
        *(sys.executable, "-m", "uvicorn", f"tools.servers:{app}", "--workers", str(WORKERS), "--port", str(port)),
        *("--no-access-log", "--no-server-header", "--timeout-keep-alive", "75", "--log-level", "error"),
    ]


def _granian(port: int) -> list[str]:
    return [
        *(sys.executable, "-m", "granian", "--interface", "wsgi", "--workers", str(WORKERS), "--port", str(port)),
        *("--blocking-threads", str(THREADS), "--no-ws", "--log-level", "error", "--http", "1", "--factory"),
        "tools.servers:application",
    ]


#: Name, package that must be installed, and the command.
SERVERS: dict[str, tuple[str, Callable[[int], list[str]]]] = {
    "ours": ("gunicorn", lambda port: _gunicorn("rlhf_loop.web.server.gunicorn_worker.Worker", port)),
    "gthread": ("gunicorn", lambda port: _gunicorn("gthread", port)),
    "gthread behind nginx": ("gunicorn", lambda port: _gunicorn("gthread", port)),
    "waitress in gunicorn": ("waitress", lambda port: _gunicorn("tools.servers.Waitress", port)),
    "gunicorn asgi + a2wsgi": ("a2wsgi", lambda port: _gunicorn("asgi", port, "tools.servers:asgi")),
    "uvicorn + a2wsgi": ("uvicorn", lambda port: _uvicorn("asgi", port)),
    "uvicorn body-first + a2wsgi": ("uvicorn", lambda port: _uvicorn("asgi_whole", port)),
    "granian": ("granian", lambda port: _granian(port)),
}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def _few_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (_FILES, _FILES))


@contextmanager
def _running(name: str, folder: Path, root: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    port = _free_port()
    paths = [str(root), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environ = {**os.environ, "TOOLS_SERVERS_FOLDER": str(folder), "PYTHONPATH": os.pathsep.join(paths)}
    with ExitStack() as stack:
        log = stack.enter_context((folder / "server.log").open("wb"))
        front = port
        commands = [SERVERS[name][1](port)]
        if name.endswith("nginx"):
            front = _free_port()
            commands.append(_nginx(folder, front, port))
        processes = []
        for command in commands:
            process = subprocess.Popen(
                command, cwd=root, env=environ, stdout=log, stderr=log, start_new_session=True, preexec_fn=_few_files
            )
            processes.append(process)
            stack.callback(_end, process)
        until = time.monotonic() + 60
        while _ask(front, _ALIVE)[0] != 200:
            if time.monotonic() > until:
                raise click.ClickException(f"{name} did not start: {(folder / 'server.log').read_text()[-2000:]}")
            time.sleep(0.1)
        time.sleep(1)
        yield processes[0], front


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _nginx(folder: Path, front: int, back: int) -> list[str]:
    program = os.environ.get("NGINX", "nginx")
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/nginx.pid; error_log stderr; worker_processes 2; "
        f"events {{ worker_connections 900; }} http {{ access_log off; client_max_body_size 4m; "
        + " ".join(
            f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        + " "
        "client_header_timeout 10; client_body_timeout 10; server_tokens off; "
        f"server {{ listen 127.0.0.1:{front}; location / {{ proxy_pass http://127.0.0.1:{back}; "
        'proxy_http_version 1.1; proxy_set_header Host $http_host; proxy_set_header Connection ""; } } }'
    )
    return [program, "-c", str(folder / "nginx.conf"), "-p", str(folder), "-e", "stderr"]


def _ask(port: int, request: bytes, patience: float = PATIENCE_S) -> tuple[int, float, bytes]:
    """Return the status of the first answer (0: none in time), the seconds it took, and its head."""
    began = time.monotonic()
    head = b""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=patience) as client:
            client.sendall(request)
            while b"\r\n\r\n" not in head:
                piece = client.recv(65536)
                if not piece:
                    break
                head += piece
    except OSError:
        pass
    words = head.split(b" ", 2)
    status = int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
    return status, time.monotonic() - began, head.partition(b"\r\n\r\n")[0]


def _under_attack(port: int, data: bytes, connections: int) -> float | None:
    """Return the longest of three waits for /healthz, None if one was in vain."""
    attackers = []
    try:
        for _ in range(connections):
            with suppress(OSError):
                client = socket.socket()
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.settimeout(1)
                client.connect(("127.0.0.1", port))
                attackers.append(client)
                client.sendall(data)
        time.sleep(0.5)
        found = []
        while len(found) < 3 and all(status == 200 for status, _, _ in found):
            found.append(_ask(port, _ALIVE))
    finally:
        for client in attackers:
            client.close()
    time.sleep(1)
    return max(seconds for _, seconds, _ in found) if all(status == 200 for status, _, _ in found) else None


def _rate(port: int, request: bytes) -> float:
    """Return requests a second that clients get who ask without a pause on connections that they keep."""

    def ask(_: int) -> int:
        done = 0
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=_LOAD_S) as client:
            end = time.monotonic() + _LOAD_S
            data = b""
            while time.monotonic() < end:
                client.sendall(request)
                while True:
                    head, found, body = data.partition(b"\r\n\r\n")
                    if found:
                        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
                        if len(body) >= length:
                            data = body[length:]
                            break
                    piece = client.recv(65536)
                    if not piece:
                        return done
                    data += piece
                done += 1
        return done

    with ThreadPoolExecutor(_CLIENTS) as clients:
        return sum(clients.map(ask, range(_CLIENTS))) / _LOAD_S


def _megabytes(pid: int) -> float:
    """Return the memory of a process and its descendants, what they share counted once."""
    total = 0.0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            total += int(line.split()[1]) / 1024
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            with suppress(OSError):
                total += _megabytes(int(child))
    return total


def _lost_at_stop(process: subprocess.Popen[bytes], port: int) -> str:
    """Stop it while clients ask without a pause; return how many requests that were sent got no answer."""

    def ask(number: int) -> tuple[int, int]:
        answered = lost = 0
        while True:
            try:
                client = socket.create_connection(("127.0.0.1", port), timeout=10)
            except OSError:
                return answered, lost
            with client:
                while True:
                    head = b""
                    try:
                        client.sendall(_ALIVE)
                        while b"}" not in head:
                            piece = client.recv(65536)
                            if not piece:
                                raise ConnectionError
                            head += piece
                    except OSError:
                        return answered, lost + 1
                    answered += 1
                    if number % 2 or b"connection: close" in head.lower():
                        break

    with ThreadPoolExecutor(_CLIENTS) as clients:
        found = [clients.submit(ask, number) for number in range(_CLIENTS)]
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(40)
        lost = sum(each.result()[1] for each in found)
    return f"{lost} lost" if process.poll() is not None else "did not stop"


def _measure(name: str, connections: int, root: Path) -> dict[str, str]:
    with tempfile.TemporaryDirectory() as made, _running(name, Path(made), root) as (process, port):
        row = {"memory before, MB": f"{_megabytes(process.pid):.0f}"}
        for attack, data in ATTACKS.items():
            waited = _under_attack(port, data, connections)
            row[attack] = "none" if waited is None else f"{1e3 * waited:.0f}"
        waited = _under_attack(port, HEAD, 2 * _FILES * WORKERS)
        row[f"{2 * _FILES * WORKERS:,} half heads"] = "none" if waited is None else f"{1e3 * waited:.0f}"
        time.sleep(11)
        row["401 before the body"] = _yes(_ask(port, _UNAUTHORISED + b"Content-Length: 500000\r\n\r\n")[0] == 401)
        row["no Host is 400"] = _yes(_ask(port, b"GET /healthz HTTP/1.1\r\n\r\n")[0] == 400)
        row["no Server"] = _yes(b"\nserver:" not in _ask(port, _ALIVE)[2].lower())
        status, seconds, _ = _ask(port, HEAD, 20)
        row["half a head after"] = f"{status or 'closed'}, {seconds:.0f} s" if seconds < 19 else "20 s: nothing"
        row["/healthz a second"] = f"{median(_rate(port, _ALIVE) for _ in range(3)):,.0f}"
        before, rates = processor_s(process.pid), [_rate(port, _PAGE) for _ in range(3)]
        row["pages a second"] = f"{median(rates):,.0f}"
        # Says more than the rate where the machine has other things to do.
        spent, pages = processor_s(process.pid) - before, _LOAD_S * sum(rates)
        row["CPU of a page, ms"] = f"{1e3 * spent / pages:.2f}" if sum(rates) >= 1 else "none"
        row["memory afterwards, MB"] = f"{_megabytes(process.pid):.0f}"
        row["stop under load"] = _lost_at_stop(process, port)
    return row


def _yes(found: bool) -> str:
    return "yes" if found else "no"


@click.command()
@click.option("--only", default="", help="Names of servers, with commas between them; default: all that are installed.")
@click.option("--before", type=click.Path(path_type=Path), help="Checkout of an earlier version, with this file in it.")
@click.option("--connections", default=64, show_default=True, help="Connections of an attack.")
def main(only: str, before: Path | None, connections: int) -> None:
    """Print a table: milliseconds until /healthz answers during each attack ("none": not in 5 seconds), and more."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 20_000), hard))
    names = [name.strip() for name in only.split(",")] if only else list(SERVERS)
    if before:
        SERVERS["ours before"] = SERVERS["ours"]
        names.insert(1, "ours before")
    rows: dict[str, dict[str, str]] = {}
    for name in names:
        if find_spec(SERVERS[name][0]) is None or (
            name.endswith("nginx") and not shutil.which(os.environ.get("NGINX", "nginx"))
        ):
            click.echo(f"{name}: not installed here", err=True)
            continue
        click.echo(name, err=True)
        try:
            rows[name] = _measure(name, connections, before if before and name == "ours before" else ROOT)
        except (click.ClickException, OSError, ConnectionError, ValueError) as error:
            click.echo(f"{name}: {error}", err=True)
            continue
        click.echo(rows[name], err=True)
    columns = list(rows)
    click.echo("| | " + " | ".join(columns) + " |")
    click.echo("| --- |" + " ---: |" * len(columns))
    for line in next(iter(rows.values()), {}):
        click.echo(f"| {line} | " + " | ".join(rows[name][line] for name in columns) + " |")


if __name__ == "__main__":
    main()
