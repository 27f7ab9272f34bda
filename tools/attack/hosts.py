"""Names by which the server is called, requests that other sites send, and what its answers say of it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress

from tools.attack.product import Finding, Product, Running

PART = "hosts"
#: What a page of somebody else's could make a browser send, once its name leads to 127.0.0.1.
FOREIGN = (
    "evil.example",
    "evil.example:{port}",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "evil.example.",
    "xn--lcalhost-65a:{port}",
    "localhost:{port}@evil.example",
    "0.0.0.0:{port}",
    "2130706433:{port}",
    "192.168.0.1",
    "[::2]",
    "",
)
OWN = ("localhost", "localhost:{port}", "127.0.0.1:{port}", "LOCALHOST", "[::1]:{port}")
#: Not /healthz, /readyz and /metrics: Kubernetes and Prometheus call by an address, and these tell nothing.
_PATHS = ("/data?query=Why", "/data-html", "/openapi.json", "/docs", "/sign-in", "/review", "/welcome/x")
_SECURITY = (
    "content-security-policy",
    "cross-origin-opener-policy",
    "cross-origin-resource-policy",
    "permissions-policy",
    "referrer-policy",
    "x-content-type-options",
)
#: What the server refuses before the application sees it.
_REFUSED = {
    "a method of 9 KB": b"GET" * 3000 + b" / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "no HTTP": b"hello\r\n\r\n",
    "headers without end": b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 70_000,
    "a bad length": b"POST /data HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
}


def attack(product: Product) -> Iterator[Finding]:
    """Ask by other names, from other sites, and look at the headers."""
    with product.served() as server:
        for host in FOREIGN:
            name = host.format(port=server.port)
            statuses = {path: _asked(server, path, name)[0] for path in _PATHS}
            let_in = [path for path, status in statuses.items() if status < 400 and status]
            said = f"{len(let_in)} of {len(_PATHS)} paths answered"
            yield Finding(PART, f"Host: {name or '(empty)'}", said, not let_in)
        for host in OWN:
            name = host.format(port=server.port)
            status, _ = _asked(server, "/data?query=Why", name)
            yield Finding(PART, f"Host: {name}", str(status), status == 200)
        yield from _malformed(server)
        yield from _headers(server)
        yield _elsewhere(product, server)
    with product.served(environ={"RLHF_HOSTS": "answers.example"}) as server:
        names = ("answers.example", "answers.example:443", "evil.example", "localhost")
        found = {name: _asked(server, "/data?query=Why", name)[0] for name in names}
        holds = found["answers.example"] == 200 == found["answers.example:443"] and found["evil.example"] >= 400
        said = ", ".join(f"{name} {status or 'no answer'}" for name, status in found.items())
        yield Finding(PART, "RLHF_HOSTS=answers.example", said, holds)


def _malformed(server: Running) -> Iterator[Finding]:
    sent = {
        "HTTP/1.1 without Host": b"GET /data?query=Why HTTP/1.1\r\n\r\n",
        "two Hosts": b"GET /data?query=Why HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
        "two Hosts, ours last": b"GET /docs HTTP/1.1\r\nHost: evil.example\r\nHost: localhost\r\n\r\n",
    }
    for name, data in sent.items():
        status, _ = _exchanged(server, data)
        yield Finding(PART, name, str(status or "no answer"), status == 400)
    forwarded = (
        b"GET /data-html HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-Host: evil.example\r\nConnection: close\r\n\r\n"
    )
    _, answer = _exchanged(server, forwarded)
    there = b"evil.example" in answer
    yield Finding(PART, "X-Forwarded-Host", "it is in the page" if there else "it is not in the page", not there)


def _headers(server: Running) -> Iterator[Finding]:
    asked = {
        "a page": b"GET /data-html HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        "an answer": b"GET /data?query=Why HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        "a page that is not there": b"GET /x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        **_REFUSED,
    }
    for name, data in asked.items():
        status, answer = _exchanged(server, data)
        head = answer.partition(b"\r\n\r\n")[0].decode("latin-1").lower()
        names = {line.partition(":")[0] for line in head.split("\r\n")[1:]}
        missing = [wanted for wanted in _SECURITY if wanted not in names]
        said = f"{status or 'no answer'}; " + (f"without {', '.join(missing)}" if missing else "all security headers")
        said += "; Server is named" if "server" in names else ""
        yield Finding(PART, f"the headers of {name}", said, bool(status) and not missing and "server" not in names)


def _elsewhere(product: Product, server: Running) -> Finding:
    """Ask as a picture on another site's page would."""
    before = product.count("rlhf_interactions")
    other = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}
    statuses = [server.request("GET", f"/data?query=Why+{number}", headers=other)[0] for number in range(5)]
    recorded = product.count("rlhf_interactions") - before
    return Finding(
        PART, "GET /data from another site's page, 5 times", f"{statuses[0]}, {recorded} recorded", not recorded
    )


def _asked(server: Running, path: str, host: str) -> tuple[int, bytes]:
    return _exchanged(server, f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())


def _exchanged(server: Running, data: bytes) -> tuple[int, bytes]:
    answer = b""
    with suppress(OSError), socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(data)
        while piece := client.recv(65536):
            answer += piece
    parts = answer.split(b" ", 2)
    return (int(parts[1]) if len(parts) > 1 and parts[1][:3].isdigit() else 0), answer
