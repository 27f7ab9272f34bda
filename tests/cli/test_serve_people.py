"""`rlhf-loop serve`, where it is about who may do what: the key, the first admin, what its greeting says."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlencode

import pytest
import server_process
from click.testing import CliRunner
from patience import PATIENCE_S
from people_fakes import PASSWORD
from server_process import Server

from rlhf_loop.cli import main
from rlhf_loop.cli.serve import _in_links
from rlhf_loop.utils.addresses import is_loopback

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="gunicorn needs fork")
#: Its fixtures, here too.
environ, start = server_process.environ, server_process.start
#: What the greeting says of the first admin's link.
LINK = re.compile(r"^First admin  http://127\.0\.0\.1:(\d+)(/welcome/[\w-]+)", re.MULTILINE)


def refused(environ: dict[str, str], *options: str) -> str:
    result = CliRunner().invoke(main, ["serve", "--port", "0", *options], env={**environ, "RLHF_SOURCES": "wikipedia"})
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    return result.stderr


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_no_key_no_way_out(host: str, environ: dict[str, str]) -> None:
    """Others reach it there, and so it does not start without a key; the message says how to make one."""
    said = refused(environ, "--host", host)
    assert said.startswith(f"Error: The server would listen on {host}, where others reach it, and RLHF_SECRET_KEY")
    code = re.search(r"python -c '(.+)'", said)
    assert code is not None
    made = subprocess.run([sys.executable, "-c", code[1]], capture_output=True, text=True, check=True).stdout.strip()
    assert len(made) >= 32


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("RLHF_SECRET_KEY", "x" * 31, "RLHF_SECRET_KEY has 31 characters"),
        ("RLHF_RATE_LIMIT", "many", "RLHF_RATE_LIMIT='many' is not a valid limit"),
        ("RLHF_SESSION_HOURS", "0", "RLHF_SESSION_HOURS=0"),
        ("RLHF_SESSION_HOURS", "8785", "RLHF_SESSION_HOURS=8785 is longer than a year"),
        ("RLHF_SESSION_HOURS", "1e12", "RLHF_SESSION_HOURS=1e+12 is longer than a year"),
    ],
)
def test_settings_that_cannot_be_are_refused_at_the_start(
    name: str, value: str, words: str, environ: dict[str, str]
) -> None:
    """Not by each worker, again and again, and without showing a key."""
    said = refused({**environ, name: value})
    assert words in said
    assert "x" * 31 not in said


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("localhost", True),
        ("::ffff:127.0.0.1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.2", False),
        ("", False),
        ("localhost.example.org", False),
        ("127.0.0.1%.example.org", False),
        ("::1%lo", True),
    ],
)
def test_what_only_this_machine_reaches(host: str, loopback: bool) -> None:
    """Anything else is taken for a place that others reach."""
    assert is_loopback(host) == loopback


@pytest.mark.parametrize(
    ("host", "name", "shown"),
    [
        ("0.0.0.0", "mill", "mill"),
        ("::", "mill", "mill"),
        ("::", "", "127.0.0.1"),
        ("127.0.0.1", "mill", "127.0.0.1"),
        ("::1", "mill", "[::1]"),
        ("192.0.2.1", "mill", "192.0.2.1"),
    ],
)
def test_the_host_in_links(host: str, name: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that a browser can open, also where it listens to the whole net."""
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    assert _in_links(host) == shown


def link_of(server: Server) -> str:
    found = LINK.search(server.greeting)
    assert found, server.greeting
    assert int(found[1]) == server.port
    return found[2]


def ask(server: Server, method: str, path: str, cookie: str = "", **form: str) -> tuple[int, str, dict[str, str]]:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
    headers = {"Cookie": cookie, "Content-Type": "application/x-www-form-urlencoded"}
    connection.request(method, path, urlencode(form), headers)
    response = connection.getresponse()
    found = response.status, response.read().decode(), {k.lower(): v for k, v in response.getheaders()}
    connection.close()
    return found


def test_the_first_start_leads_to_the_first_admin(start: Callable[..., Server]) -> None:
    """A link, new at each start, beside which earlier ones stay good; with the first admin, all are void."""
    first = start("--workers", "2")
    greeting, old = first.greeting, link_of(first)
    assert "\nReview " not in greeting
    assert "\nSessions   end with this process; set RLHF_SECRET_KEY" in greeting
    assert "\nNote " not in greeting
    assert first.stop() == 0
    server = start("--workers", "2")
    path = link_of(server)
    assert [ask(server, "GET", each)[0] for each in (old, path)] == [200, 200]
    _, page, headers = ask(server, "GET", path)
    token = re.search(r'name="form_token" value="(\w+)"', page)
    assert token is not None
    cookie = headers["set-cookie"].partition(";")[0]
    form = {"form_token": token[1], "name": "ada", "password": PASSWORD, "again": PASSWORD}
    status, _, headers = ask(server, "POST", path, cookie, **form)
    assert status == 303
    session = headers["set-cookie"].partition(";")[0]
    assert [ask(server, "GET", "/admin", session)[0] for _ in range(12)] == [200] * 12
    assert [ask(server, "GET", each)[0] for each in (old, path)] == [404, 404]
    assert server.stop() == 0
    assert path.removeprefix("/welcome/") not in server.log.read_text()
    third = start()
    greeting = third.greeting
    assert "First admin" not in greeting
    assert f"\nReview     http://127.0.0.1:{third.port}/review " in greeting
    assert ask(third, "GET", "/admin", session)[0] == 303
    assert third.stop() == 0


def test_with_a_key_it_listens_for_others(start: Callable[..., Server]) -> None:
    """And says who can do what, with links to this machine by its name; the key is in no line."""
    server = start("--host", "0.0.0.0", RLHF_SECRET_KEY="k" * 32)
    greeting = server.greeting
    base = f"http://{socket.gethostname()}:{server.port}"
    assert f"Open       {base}/data-html " in greeting
    assert f"\nFirst admin  {base}/welcome/" in greeting
    assert "0.0.0.0" not in greeting
    assert "\nNote       whoever reaches this port can ask, and rate as an end user; only experts" in greeting
    assert "\nSessions " not in greeting
    assert server.stop() == 0
    assert "kkkk" not in greeting + server.log.read_text()


def test_without_a_database_it_starts_as_before(start: Callable[..., Server], tmp_path: Path) -> None:
    """Without a link, which could be kept nowhere."""
    (tmp_path / "no_folder").touch()
    server = start(RLHF_DATABASE_URL=f"sqlite:///{tmp_path / 'no_folder' / 'rlhf.db'}")
    greeting = server.greeting
    assert "does not answer" in greeting
    assert "First admin" not in greeting
    assert "\nReview " not in greeting
    assert server.stop() == 0
