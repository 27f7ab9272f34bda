"""The real server: `rlhf-loop serve` in processes of its own."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE_S, until
from server_process import Server, get
from server_process import environ as environ
from server_process import start as start

from rlhf_loop.config import Settings
from rlhf_loop.web.server.server import _share_cores, default_workers

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="gunicorn needs fork")


def test_it_answers_from_several_workers(start: Callable[..., Server], tmp_path: Path) -> None:
    """It says what it does, answers, logs a line of JSON a request with its id, and ends with exit code 0."""
    server = start("--workers", "2", "--threads", "3")
    said = server.greeting
    for words in ("/data-html", "my_source:source (your own)", "none at reward_model.joblib yet", "2 processes with 3"):
        assert words in said
    status, found = server.get("/data?query=Why", X_Request_ID="mine-1")
    assert (status, found["best_answer"], found["model_version"]) == (200, "Rest in a dark room.", None)
    assert server.get("/nowhere")[0] == 404
    assert server.stop() == 0
    lines = server.lines()
    (line,) = [line for line in lines if line["request_id"] == "mine-1" and "status" in line]
    assert (line["level"], line["method"], line["path"], line["status"]) == ("INFO", "GET", "/data", 200)
    assert len({line["pid"] for line in lines if line["message"].startswith("Booting worker")}) == 2
    assert all({"time", "level", "logger", "pid", "message"} <= set(line) for line in lines)
    assert (tmp_path / "rlhf.db").exists()


def test_a_stop_loses_no_answer(start: Callable[..., Server], tmp_path: Path) -> None:
    """What runs, and what waits in line for a thread, is answered in full after SIGTERM; then nobody is let in."""
    server = start("--workers", "2", "--threads", "2", grace_s=PATIENCE_S)
    gate = tmp_path / "gate"
    clients = [server.connect() for _ in range(8)]
    for client in clients:
        client.request("GET", f"/data?query=wait+for+{gate}")
    until(lambda: len(list(tmp_path.glob("gate.*.asked"))) >= 2)  # the system may give all of them to one worker
    server.process.send(signal.SIGTERM)
    until(lambda: refused(server.port))
    gate.touch()
    for client in clients:
        response = client.getresponse()
        assert (response.status, json.loads(response.read())["best_answer"]) == (200, "Rest in a dark room.")
        client.close()
    assert server.wait() == 0
    # Nothing of it is beside the file of the database, where a copy would miss it.
    assert not list(tmp_path.glob("*.db-wal"))


def test_requests_without_an_end_are_left(start: Callable[..., Server], tmp_path: Path) -> None:
    """They hold a stop up for a while only; then the processes end in order, with all in the database's one file."""
    server = start("--workers", "1", "--threads", "2", grace_s=0)
    assert server.get("/data?query=Why")[0] == 200  # which is recorded
    client = server.connect()
    client.request("GET", f"/data?query=wait+for+{tmp_path / 'never'}")
    until(lambda: list(tmp_path.glob("never.*.asked")))
    assert server.stop() == 0
    assert [line for line in server.lines() if line["message"].startswith("Worker exiting")]
    assert not list(tmp_path.glob("*.db-wal"))
    client.close()


def test_a_stop_under_load_loses_no_answer(start: Callable[..., Server]) -> None:
    """Clients ask without a pause when SIGTERM comes: whoever got a connection gets an answer on it."""
    server = start("--workers", "2", "--threads", "4")
    lost: list[str] = []
    answered = [0] * 16
    with ThreadPoolExecutor(16) as clients:
        for number in range(16):
            clients.submit(ask_until_refused, server, number, answered, lost, keep=number % 2 == 0)
        until(lambda: sum(answered) > 200)
        server.process.send(signal.SIGTERM)
    assert lost == []
    assert server.wait() == 0


def ask_until_refused(server: Server, number: int, answered: list[int], lost: list[str], *, keep: bool) -> None:
    connection = server.connect()
    while True:
        try:
            connection.connect()
        except OSError:  # refused, or reset while the system makes the connection: nothing was asked yet
            return
        while True:
            try:
                status, found = get(connection, "/data?query=Why")
                assert (status, found["best_answer"]) == (200, "Rest in a dark room.")
            except Exception as error:
                lost.append(f"client {number}: {error!r}")
                connection.close()
                return
            answered[number] += 1
            # After "Connection: close" the client has hung up by itself.
            if not keep or connection.sock is None:
                connection.close()
                break


def refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return True
    return False


def test_requests_that_the_application_never_sees(start: Callable[..., Server]) -> None:
    """An address that is too long, and a body of no declared length that is too large, are problems as well."""
    server = start("--workers", "1")
    assert server.get(f"/data?query={'x' * 5000}")[0] == 422
    status, found = server.get(f"/data?query={'x' * 9000}")
    assert (status, found["status"], found["title"]) == (414, 414, "URI Too Long")
    assert "by POST" in found["detail"]
    connection = server.connect()
    pieces = (b" " * 1000 for _ in range(70))
    connection.request("POST", "/data", body=pieces, headers={"Content-Type": "application/json"}, encode_chunked=True)
    response = connection.getresponse()
    assert json.loads(response.read())["status"] == response.status == 413
    connection.close()
    assert server.stop() == 0
    (line,) = [line for line in server.lines() if line.get("status") == 414]
    assert line["request_id"] == found["request_id"]


HALF_A_HEAD = b"GET /data?query=secret HTTP/1.1\r\nHost: localhost\r\n"
HALF_A_BODY = b"POST /data HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 90\r\n\r\n{"
CHUNKS = (
    b"POST /data HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
    b"Connection: close\r\n\r\n"
)


def said(client: socket.socket) -> tuple[int, Any]:
    """Read what the server says last, until it hangs up."""
    data = b""
    with client:
        while piece := client.recv(65536):
            data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    assert b"\r\ncontent-type: application/problem+json\r\n" in head.lower() + b"\r\n"
    found = json.loads(body)
    assert f"\r\nx-request-id: {found['request_id']}\r\n".encode() in head.lower() + b"\r\n"
    assert b"\r\nx-content-type-options: nosniff\r\n" in head.lower() + b"\r\n"
    assert b"\r\nserver:" not in head.lower()
    return int(head.split()[1]), found


POST = b"POST /data HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
UNFINISHED = (
    b"",
    HALF_A_HEAD,
    HALF_A_BODY,
    CHUNKS + b"5\r\n{",
    CHUNKS + b"1\r\n{\r\n" * 300,
    POST + b"Content-Length: 90\r\nExpect: 100-continue\r\n\r\n",
    POST + b"Content-Length: 65000\r\n\r\n" + b" " * 64000,
    b"POST /rerank HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 900000\r\n\r\n"
    + b" " * 70_000,
)
#: Asks for the largest file there is, and for another and another, and reads none of them.
UNREAD = b"GET /data-html/static/swagger-ui/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 9


def test_clients_that_never_finish_stop_nobody(start: Callable[..., Server]) -> None:
    """However many they are, and however they send: what has not arrived, or is not fetched, has no thread.

    A request is answered once it is finished.
    """
    server = start("--workers", "1", "--threads", "2")
    slow = [server.send(each) for each in [HALF_A_HEAD, HALF_A_BODY, *UNFINISHED, UNREAD] * 3]
    for _ in range(2):
        assert server.get("/healthz")[0] == server.get("/readyz")[0] == 200
    slow[0].sendall(b"Connection: close\r\n\r\n")
    assert slow[0].recv(65536).startswith(b"HTTP/1.1 200")
    slow[1].sendall(b" " * 87 + b"}}")
    assert slow[1].recv(65536).startswith(b"HTTP/1.1 400")
    for client in slow:
        client.close()
    assert server.stop() == 0


def test_busy_threads_leave_the_health_check_one(start: Callable[..., Server], tmp_path: Path) -> None:
    """Questions that take long are no reason to end the process, and what waits behind them is answered in its turn."""
    server = start("--workers", "1", "--threads", "1")
    busy, waiting = server.connect(), server.connect()
    for client in (busy, waiting):
        client.request("GET", f"/data?query=wait+for+{tmp_path / 'gate'}")
    until(lambda: list(tmp_path.glob("gate.*.asked")))
    assert server.get("/healthz")[0] == 200
    (tmp_path / "gate").touch()
    for client in (busy, waiting):
        assert client.getresponse().status == 200
        client.close()
    assert server.stop() == 0


def test_more_connections_than_there_is_room_for(start: Callable[..., Server]) -> None:
    """The one that has waited longest is closed; whoever comes with a whole request is answered."""
    server = start("--workers", "1", most=8)
    slow = [server.send(HALF_A_HEAD) for _ in range(30)]
    assert server.get("/healthz")[0] == 200
    assert slow[0].recv(1) == b""
    for client in slow:
        client.close()
    assert server.stop() == 0


def test_bodies_are_asked_for_only_if_they_are_wanted(start: Callable[..., Server]) -> None:
    """Who may not send one hears so before it has arrived, however it is framed; who may is heard in full."""
    server = start("--workers", "1", "--threads", "1")
    head = b"POST /v1/feedback HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    for framing in (
        b"Content-Length: 90\r\n\r\n",
        b"Content-Length: 900000\r\n\r\n{",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\n{",
        b"Content-Length: 90\r\nExpect: 100-continue\r\n\r\n",
    ):
        assert said(server.send(head + framing))[0] == 401, framing
    for path, length, status in (("/data", 65_537, 413), ("/nowhere", 90, 404)):
        request = POST.replace(b"/data", path.encode()) + f"Content-Length: {length}\r\n\r\n".encode()
        assert said(server.send(request))[0] == status, path
    # A body of a megabyte, to a route that takes so much; one that is waited for; and one in pieces.
    body = json.dumps({"query": "Why", "texts": ["x" * 1_000_000]}).encode()
    connection = server.connect()
    connection.request("POST", "/rerank", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    # It is read, and there is no model to rank it by.
    assert (response.status, "model" in response.read().decode()) == (503, True)
    connection.request(
        "POST", "/data", iter([b'{"query": ', b'"Why"}']), {"Content-Type": "application/json"}, encode_chunked=True
    )
    assert json.loads(connection.getresponse().read())["best_answer"] == "Rest in a dark room."
    connection.close()
    client = server.send(POST + b"Content-Length: 16\r\nConnection: close\r\nExpect: 100-continue\r\n\r\n")
    assert client.recv(65536) == b"HTTP/1.1 100 \r\n\r\n"
    client.sendall(b'{"query": "Why"}')
    assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
    client.close()
    assert server.stop() == 0


def test_clients_that_do_not_hang_up_stop_nobody(start: Callable[..., Server]) -> None:
    """The server waits a moment for each of them, and answers others meanwhile."""
    server = start("--workers", "1", "--threads", "2")
    # Two seconds each, one after the other, would be longer than the patience of the one who comes last.
    last = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    lingering = [server.send(last) for _ in range(PATIENCE_S)]
    assert server.get("/healthz")[0] == 200
    for client in lingering:
        client.close()
    assert server.stop() == 0


def test_a_request_has_to_come_in_time(start: Callable[..., Server], tmp_path: Path) -> None:
    """Else it is a 408. An answer may take longer than that, and a connection may stay without a request."""
    server = start("--workers", "1", "--threads", "2", reading_s=0.3)
    asking, resting = server.connect(), server.connect()
    assert get(resting, "/healthz")[0] == 200
    asking.request("GET", f"/data?query=wait+for+{tmp_path / 'gate'}")
    until(lambda: list(tmp_path.glob("gate.*.asked")))
    for slow in (HALF_A_HEAD, HALF_A_BODY, CHUNKS + b"5\r\n{"):
        status, found = said(server.send(slow))
        assert (status, found["status"], found["title"]) == (408, 408, "Request Timeout")
    (tmp_path / "gate").touch()
    assert asking.getresponse().status == 200
    assert get(resting, "/healthz")[0] == 200
    asking.close()
    resting.close()
    assert server.stop() == 0


def test_requests_that_cannot_be_read(start: Callable[..., Server]) -> None:
    """They are problems with an id as well, and no line of the log has a word of them."""
    server = start("--workers", "1")
    head = b"Host: localhost\r\n"
    for request, status in (
        (b"GET /data?query=my secret illness HTTP/1.1\r\n" + head, 400),
        ("GET /data?query=secrète HTTP/1.1\r\n".encode() + head, 400),
        (b"GET /data?query=secret HTTP/1.1\r\nBad Header: secret\r\n" + head, 400),
        (b"GET /data?query=secret HTTP/1.1\r\nX: " + b"secret" * 2000 + b"\r\n" + head, 431),
        (b"GET /data?query=secret HTTP/1.1\r\n" + head + b"X: secret\r\n" * 9000, 431),
        (b"GET /data?query=secret HTTP/1.1\r\n", 400),
        (b"GET /data?query=secret HTTP/1.1\r\nHost: localhost\r\n" + head, 400),
        (b"GET /data?query=secret HTTP/2.0\r\n" + head, 505),
        (b"CONNECT secret:443 HTTP/1.1\r\n" + head, 501),
        (b"GET secret HTTP/1.1\r\n" + head, 400),
        (CHUNKS.replace(b"Host", b"Content-Length: 9\r\nHost") + b"0\r\n", 400),
        (b"GET /data?query=secret HTTP/1.1\r\nExpect: secret\r\n" + head, 417),
        (b"POST /data?query=secret HTTP/1.1\r\nTransfer-Encoding: secret\r\n" + head, 501),
        (CHUNKS + b"zz", 400),
        (CHUNKS + b"3\r\nsecret", 400),
    ):
        seen, found = said(server.send(request + b"\r\n"))
        assert (seen, found["status"]) == (status, status), request
        assert "secret" not in found["detail"]
        assert [line["status"] for line in server.lines() if line["request_id"] == found["request_id"]] == [status]
    assert server.stop() == 0
    assert "secret" not in server.log.read_text()
    assert "Traceback" not in server.log.read_text()


def test_a_database_that_is_down_stops_nothing(start: Callable[..., Server], tmp_path: Path) -> None:
    """It starts, says so, and answers; what should be recorded waits in the outbox."""
    (tmp_path / "no_folder").touch()
    server = start(RLHF_DATABASE_URL=f"sqlite:///{tmp_path / 'no_folder' / 'rlhf.db'}")
    assert "does not answer" in server.greeting
    status, found = server.get("/data?query=Why")
    assert (status, found["best_answer"]) == (200, "Rest in a dark room.")
    assert set(found["degraded"]) == {"recording"}
    assert server.stop() == 0


def test_a_port_in_use_is_a_clear_error(tmp_path: Path, environ: dict[str, str]) -> None:
    """Exit code 2 and a sentence, at once and without a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        command = [sys.executable, "-c", "from rlhf_loop.cli import main; main()", "serve", "--port", str(port)]
        result = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=PATIENCE_S)
    assert result.returncode == 2
    assert result.stderr.startswith(f"Error: Port {port} on 127.0.0.1 is taken by another process.")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(("cores", "workers"), [(1, 2), (2, 2), (4, 2), (6, 3), (8, 4), (64, 4)])
def test_workers_by_cores(cores: int, workers: int) -> None:
    """From two to four of them."""
    assert default_workers(cores) == workers


def test_workers_share_the_cores() -> None:
    """Each encoder gets its part of the cores, unless the settings say how many."""
    assert _share_cores(Settings(), 4).encoder_threads == 4
    assert _share_cores(Settings(), 0).encoder_threads == 1
    assert _share_cores(Settings(encoder_threads=7), 4).encoder_threads == 7
