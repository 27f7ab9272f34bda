"""The configurations of `deploy/nginx` and `deploy/caddy`: the real programs, with TLS, in front of the real server."""

from __future__ import annotations

import getpass
import http.client
import os
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from loopback import page, site
from own_port import own_port
from patience import PATIENCE_S, until
from server_process import Server
from server_process import environ as environ
from server_process import start as start

from rlhf_loop.web.pages.admin_import import MAX_FILE_BYTES

DEPLOY = Path(__file__).parents[2] / "deploy"
NAME = "rlhf.example.org"
_NGINX = """
user {user}; daemon off; pid {folder}/nginx.pid; error_log stderr; worker_processes 1;
events {{}}
http {{ access_log off; include {folder}/rlhf-loop.conf;
{folders} }}
"""
_CADDY = "{{\n\tadmin off\n\thttp_port {plain}\n\thttps_port {tls}\n\tskip_install_trust\n}}\n\n{ours}"


@dataclass(frozen=True)
class Proxy:
    """One of the two, running: the ports on which it listens."""

    tls: int
    plain: int
    certificate: Path

    def connect(self, source: str = "127.0.0.1") -> http.client.HTTPSConnection:
        """Connect as a browser does that was given its name, from an address of this machine."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        context.check_hostname = False
        connection = http.client.HTTPSConnection("127.0.0.1", self.tls, timeout=PATIENCE_S, context=context)
        plain = socket.create_connection(("127.0.0.1", self.tls), timeout=PATIENCE_S, source_address=(source, 0))
        connection.sock = context.wrap_socket(plain, server_hostname=NAME)
        return connection

    def ask(
        self, path: str, *, method: str = "GET", body: bytes | None = None, source: str = "127.0.0.1", **headers: str
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        with closing(self.connect(source)) as connection:
            named = {"Host": NAME, **{name.replace("_", "-"): value for name, value in headers.items()}}
            connection.request(method, path, body=body, headers=named)
            response = connection.getresponse()
            return response.status, response.headers, response.read()


@pytest.fixture(params=["nginx", "caddy"])
def proxied(request: pytest.FixtureRequest, tmp_path: Path, certificate: Path) -> Iterator[Callable[[int], Proxy]]:
    """Start one of them as its file in deploy/ says, but for ports and certificate, in front of a port."""
    if not (program := shutil.which(request.param)):
        assert "CI" not in os.environ, f"There is no {request.param}. Run .ci/packages."
        pytest.skip(f"{request.param} is not installed, so its configuration cannot be tried")
    running: list[subprocess.Popen[bytes]] = []

    def begin(port: int) -> Proxy:
        tls, plain = own_port(), own_port()
        make = _nginx if request.param == "nginx" else _caddy
        command = make(program, tmp_path, certificate, (port, tls, plain))
        own = {name: str(tmp_path) for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")}
        with (tmp_path / "proxy.log").open("wb") as log:
            running.append(subprocess.Popen(command, env={**os.environ, **own}, stdout=log, stderr=log))

        def up() -> bool:
            assert running[0].poll() is None, (tmp_path / "proxy.log").read_text()
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", tls), timeout=PATIENCE_S).close()
                return True
            return False

        until(up)
        return Proxy(tls, plain, certificate)

    yield begin
    for process in running:
        process.terminate()
        process.wait(PATIENCE_S)


def replaced(text: str, changes: dict[str, str]) -> str:
    """Change what a test cannot take as it is; each has to be there."""
    for before, after in changes.items():
        assert before in text, before
        text = text.replace(before, after)
    return text


def _nginx(program: str, folder: Path, certificate: Path, ports: tuple[int, int, int]) -> list[str]:
    port, tls, plain = ports
    ours = replaced(
        (DEPLOY / "nginx" / "rlhf-loop.conf").read_text(),
        {
            "127.0.0.1:8000": f"127.0.0.1:{port}",
            "    listen [::]:80;\n": "",
            "    listen [::]:443 ssl;\n": "",
            "listen 80;": f"listen 127.0.0.1:{plain};",
            "listen 443 ssl;": f"listen 127.0.0.1:{tls} ssl;",
            "/etc/ssl/certs/rlhf.example.org.pem": str(certificate),
            "/etc/ssl/private/rlhf.example.org.key": str(certificate),
        },
    )
    (folder / "rlhf-loop.conf").write_text(ours)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    folders = "\n".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    (folder / "nginx.conf").write_text(_NGINX.format(user=getpass.getuser(), folder=folder, folders=folders))
    return [program, "-c", str(folder / "nginx.conf"), "-p", str(folder), "-e", "stderr"]


def _caddy(program: str, folder: Path, certificate: Path, ports: tuple[int, int, int]) -> list[str]:
    port, tls, plain = ports
    ours = replaced(
        (DEPLOY / "caddy" / "Caddyfile").read_text(),
        {"127.0.0.1:8000": f"127.0.0.1:{port}", f"{NAME} {{\n": f"{NAME} {{\n\ttls {certificate} {certificate}\n"},
    )
    (folder / "Caddyfile").write_text(_CADDY.format(plain=plain, tls=tls, ours=ours))
    return [program, "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]


def test_in_front_of_the_service(proxied: Callable[[int], Proxy], start: Callable[..., Server]) -> None:
    """Names, addresses and TLS come through, limits hold, and a client's claims about itself count for nothing."""
    server = start("--workers", "1", RLHF_PROXIES="1", RLHF_HOSTS=NAME, RLHF_RATE_LIMIT="12 per year")
    proxy = proxied(server.port)
    status, headers, _ = proxy.ask("/sign-in", source="127.0.0.9")
    assert (status, headers["Strict-Transport-Security"]) == (200, "max-age=31536000")
    # As only what came by TLS gets it.
    assert "__Host-" in headers["Set-Cookie"]
    assert "Secure" in headers["Set-Cookie"]
    assert proxy.ask("/healthz", Host=f"{NAME}:{proxy.tls}")[0] == 200

    with closing(http.client.HTTPConnection("127.0.0.1", proxy.plain, timeout=PATIENCE_S)) as plain:
        plain.request("GET", "/data-html?query=x", headers={"Host": NAME})
        response = plain.getresponse()
        response.read()
        assert response.status in (301, 308)
        assert response.headers["Location"].startswith(f"https://{NAME}")
        assert response.headers["Location"].endswith("/data-html?query=x")

    asked = [proxy.ask("/data?query=Hiccups", X_Forwarded_For=f"203.0.113.{turn}")[0] for turn in range(13)]
    assert asked == [200] * 12 + [429]
    # From another address of this machine.
    assert proxy.ask("/data?query=Hiccups", source="127.0.0.2")[0] == 200


def test_what_reaches_the_service(proxied: Callable[[int], Proxy]) -> None:
    """The name and the way by which a client came, its address last, no claim of a user, and no more than fits."""
    largest = b"x" * (MAX_FILE_BYTES * 4 // 3 + 64 * 1024)
    with site(page("taken")) as service:
        proxy = proxied(service.port)
        status, _, text = proxy.ask(
            "/x",
            method="POST",
            body=largest,
            source="127.0.0.2",
            X_Forwarded_For="203.0.113.9",
            Remote_User="ada",
            Remote_Groups="rlhf-admins",
        )
        assert (status, text) == (200, b"taken")
        (seen,) = service.seen
        assert (seen.headers["Host"], seen.headers["X-Forwarded-Proto"], len(seen.body)) == (
            NAME,
            "https",
            len(largest),
        )
        assert seen.headers["X-Forwarded-For"].rpartition(",")[2].strip() == "127.0.0.2"
        assert not [name for name in seen.headers if name.lower().startswith("remote-")]
        with suppress(BrokenPipeError, ConnectionResetError, ssl.SSLError):
            assert proxy.ask("/x", method="POST", body=largest + b"x" * 1_000_000)[0] in (413, 502)


def test_a_stream_is_not_held_back(proxied: Callable[[int], Proxy]) -> None:
    """What is sent is there before the next piece is: the second event is sent when the client has read the first."""
    read = threading.Event()

    def events(_: object) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\ndata: one\n\n"
        assert read.wait(PATIENCE_S)
        yield b"data: [DONE]\n\n"

    with site(events) as service:
        proxy = proxied(service.port)
        with closing(proxy.connect()) as connection:
            connection.request("GET", "/v1/chat/completions", headers={"Host": NAME})
            response = connection.getresponse()
            assert response.readline() == b"data: one\n"
            read.set()
            assert response.read() == b"\ndata: [DONE]\n\n"
