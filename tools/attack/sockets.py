"""Connections that send slowly, never finish, or never read; many writers at once; and the rate limit."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from tools.attack.product import Finding, Product, Running

PART = "sockets"
CONNECTIONS = 48
#: What the others may wait at most while an attack is on.
PATIENT_S = 3.0
_LOOKS = 4
_WAIT_S = 40.0
_POST = "POST /data HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
_GET = "GET {} HTTP/1.1\r\nHost: localhost\r\n\r\n"

#: What each of the connections sends, and then nothing more.
ATTACKS = {
    "nothing at all": "",
    "half of the headers": "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
    "10 bytes of a body of 100": f"{_POST}Content-Length: 100\r\n\r\n" + 10 * " ",
    "70 KB of a body of 100 KB": f"{_POST}Content-Length: 100000\r\n\r\n" + 70_000 * " ",
    "1 MB of a body of 2 MB": f"{_POST}Content-Length: 2000000\r\n\r\n" + 1_000_000 * " ",
    "a chunk without its end": f"{_POST}Transfer-Encoding: chunked\r\n\r\n5\r\nab",
    "a chunk's size without its end": f"{_POST}Transfer-Encoding: chunked\r\n\r\n5",
    "chunks without the last one": f"{_POST}Transfer-Encoding: chunked\r\n\r\n" + 2_000 * "1\r\n \r\n",
    "Expect: 100-continue": f"{_POST}Expect: 100-continue\r\nContent-Length: 100000\r\n\r\n",
    "Expect and chunked": f"{_POST}Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n",
    "a body to a route that takes none": "GET /docs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90000\r\n\r\n",
    "a body to a page that is not there": "POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90000\r\n\r\n",
    "the beginning of TLS": "\x16\x03\x01\x02",
    "a request, and then silence": _GET.format("/healthz"),
    "40 requests, and no answer is read": 40 * _GET.format("/openapi.json"),
}


def attack(product: Product) -> Iterator[Finding]:
    """Try them all on one server."""
    with product.served() as server:
        for name, sent in ATTACKS.items():
            with_all = _open(server, sent)
            yield _watched(server, f"{len(with_all)} connections: {name}")
            _close(with_all)
        yield _dripping(server)
        yield from _refused_early(server)
        yield _honest(product, server)
    yield _writers(product)
    yield _limited(product)


def _open(server: Running, sent: str) -> list[socket.socket]:
    found = []
    for _ in range(CONNECTIONS):
        client = socket.create_connection(("127.0.0.1", server.port), timeout=5)
        found.append(client)
        with suppress(OSError):  # refused before all of it was sent, or not taken in: both are fine
            client.settimeout(0.5)
            client.sendall(sent.encode("latin-1"))
    return found


def _close(clients: list[socket.socket]) -> None:
    for client in clients:
        client.close()
    time.sleep(0.5)


def _watched(server: Running, name: str) -> Finding:
    """Ask as others would while the attack is on, some times over."""
    worst, failed = {"/healthz": 0.0, "/data?query=Why": 0.0}, Counter[int]()

    def ask(path: str) -> None:
        for _ in range(_LOOKS):
            began = time.monotonic()
            status, _ = server.get(path, timeout=_WAIT_S)
            worst[path] = max(worst[path], time.monotonic() - began)
            failed[status] += status != 200
            time.sleep(0.4)

    with ThreadPoolExecutor(len(worst)) as pool:
        list(pool.map(ask, worst))
    health, other = worst.values()
    bad = +failed
    said = f"/healthz {health:.2f} s, a question {other:.2f} s at most"
    if bad:
        said += "; " + ", ".join(f"{count} times {status or 'no answer'}" for status, count in bad.items())
    return Finding(PART, name, said, max(worst.values()) < PATIENT_S and not bad)


def _dripping(server: Running) -> Finding:
    clients = _open(server, f"{_POST}Transfer-Encoding: chunked\r\n\r\n")
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(0.5):
            for client in clients:
                with suppress(OSError):
                    client.sendall(b"1\r\n \r\n")

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        return _watched(server, f"{len(clients)} connections: a byte of a chunked body each half second")
    finally:
        stop.set()
        thread.join()
        _close(clients)


def _refused_early(server: Running) -> Iterator[Finding]:
    """Send the headers of what is refused, and no body."""
    framings = {
        "a length": "Content-Length: 100000",
        "chunks": "Transfer-Encoding: chunked",
        "Expect": "Content-Length: 100000\r\nExpect: 100-continue",
    }
    for name, framing in framings.items():
        head = f"POST /v1/feedback HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{framing}\r\n\r\n"
        yield _answer(server, f"no token, a body by {name} that does not come", head, "401")
    huge = f"{_POST}Content-Length: {10**12}\r\n\r\n"
    yield _answer(server, "a body of 1 TB that does not come", huge, "413")


def _answer(server: Running, name: str, head: str, expected: str) -> Finding:
    began, status = time.monotonic(), "no answer"
    with socket.create_connection(("127.0.0.1", server.port), timeout=_WAIT_S) as client, suppress(OSError):
        client.sendall(head.encode())
        found = client.recv(1000)
        if found.startswith(b"HTTP/1.1 100"):
            status = "100 Continue"
        elif found:
            status = found.split()[1].decode()
    seconds = time.monotonic() - began
    return Finding(PART, name, f"{status} after {seconds:.2f} s", status == expected and seconds < PATIENT_S)


def _honest(product: Product, server: Running) -> Finding:
    """Send a long body slowly, but to its end."""
    answer = {"prompt": "Why?", "response": "Because. " * 8_000, "rating": 4, "reviewer": "slow"}
    body = json.dumps(answer).encode()
    head = f"{_POST.replace('/data', '/v1/feedback')}Authorization: Bearer {product.token}\r\nConnection: close\r\n"
    found = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=_WAIT_S) as client, suppress(OSError):
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode())
        for start in range(0, len(body), 16_000):
            client.sendall(body[start : start + 16_000])
            time.sleep(0.5)
        found = client.recv(1000)
    status = found.split()[1].decode() if found else "no answer"
    return Finding(PART, f"an honest body of {len(body) // 1000} KB, slowly", status, status == "201")


def _writers(product: Product) -> Finding:
    """Have 200 clients write at once, four times each."""
    statuses, taken = Counter[int](), Counter[int]()

    def write(number: int) -> None:
        for turn in range(4):
            text = {"prompt": f"Question {number % 50}?", "response": f"Answer {number}.{turn}.", "rating": 4}
            body = json.dumps({**text, "reviewer": f"rater-{number}"}).encode()
            headers = {"Authorization": f"Bearer {product.token}", "Content-Type": "application/json"}
            began = time.monotonic()
            status, _ = server.request("POST", "/v1/feedback", body, headers=headers)
            taken[number] = max(taken[number], round(1000 * (time.monotonic() - began)))
            statuses[status] += 1

    before = product.count("rlhf_reviews")
    with product.served() as server:
        _together(write, 200)
    stored = product.count("rlhf_reviews") - before
    said = ", ".join(f"{status or 'no answer'}: {count}" for status, count in sorted(statuses.items()))
    said = f"{said}; {stored} stored, {max(taken.values()) / 1000:.1f} s at most"
    return Finding(PART, "200 clients write at once, 800 requests", said, statuses[201] == 800 == stored)


def _limited(product: Product) -> Finding:
    """Ask a hundred times where ten are allowed."""
    statuses = Counter[int]()
    with product.served(environ={"RLHF_RATE_LIMIT": "10 per hour"}) as server:
        _together(lambda _: statuses.update([server.get("/data?query=Why")[0]]), 100)
    return Finding(
        PART, "100 requests where 10 an hour are allowed, 2 processes", f"{statuses[200]} answered", statuses[200] == 10
    )


def _together(work: Callable[[int], object], count: int) -> None:
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(work, range(count)))
