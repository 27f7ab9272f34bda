from __future__ import annotations

import gzip
import os
import socket
import subprocess
import sys
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import repeat
from pathlib import Path

import pytest
from loopback import Answer, SeenRequest, Site, drops, in_turn, page, site
from patience import PATIENCE_S

from rlhf_loop.errors import ConfigError, SourceError
from rlhf_loop.sources.http import HttpClient, user_agent
from rlhf_loop.version import __version__

SETTING = "RLHF_TEST_URL"


def client(url: str | Site, **options: object) -> HttpClient:
    return HttpClient(url if isinstance(url, str) else url.url, setting=SETTING, **options)  # type: ignore[arg-type]


def get(asked: HttpClient | Site, *, budget_s: float = 10.0, **params: str) -> bytes:
    asked = client(asked) if isinstance(asked, Site) else asked
    return asked.get(params, budget_s=budget_s, media_types=("text/plain",))


#: One for all: two looks at the clock may fall into two seconds.
NOW = datetime.now(UTC)


def date(seconds: float) -> str:
    return format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)


def test_a_page_is_fetched() -> None:
    """Parameters are encoded, the sender says who it is, and the body comes back."""
    with site(page("Hello")) as there:
        assert get(client(there, contact="ops@example.org"), q='a&b="ü"?', page="2") == b"Hello"
        (seen,) = there.seen
    assert (seen.path, seen.params) == ("/api", {"q": 'a&b="ü"?', "page": "2"})
    assert seen.headers["User-Agent"].startswith(f"rlhf-loop/{__version__} (ops@example.org) ")
    assert seen.headers["Host"] == f"127.0.0.1:{there.port}"
    assert not {"Cookie", "Authorization"} & set(seen.headers)


def test_parameters_of_the_configured_url_stay() -> None:
    """A URL that already has parameters keeps them."""
    with site(page("Hello")) as there:
        get(client(f"{there.url}?key=1#top"), q="2")
        assert there.seen[0].params == {"key": "1", "q": "2"}


@pytest.mark.parametrize("contact", ["", " \n", "a\r\nX-Evil: 1", "ops@example.org (night)", "Jürgen 日本"])
def test_what_a_request_says_of_its_sender(contact: str) -> None:
    """Whatever the contact is, the header is one line of ASCII with one pair of brackets."""
    said = user_agent(contact)
    assert said.isascii()
    assert said.isprintable()
    assert said.count("(") == said.count(")") == 1
    assert "()" not in said


def test_connections_are_reused() -> None:
    """Several pages come over one connection."""
    with site(page("Hello")) as there:
        one = client(there)
        for _ in range(3):
            get(one)
        one.close()
        assert len({seen.client for seen in there.seen}) == 1
        assert get(one) == b"Hello"


def test_a_closed_connection_is_replaced() -> None:
    """A site that ends each connection is asked over a new one."""
    with site(lambda _: iter([page("Hello", headers={"Connection": "close"})])) as there:
        one = client(there)
        assert [get(one), get(one)] == [b"Hello"] * 2
        assert len({seen.client for seen in there.seen}) == 2


def test_threads_share_a_client() -> None:
    """Each of many threads gets the page that it asked for."""
    with site(lambda seen: page(seen.params["n"])) as there:
        one = client(there)
        with ThreadPoolExecutor(16) as threads:
            assert list(threads.map(lambda n: get(one, n=str(n)), range(100))) == [b"%d" % n for n in range(100)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_client_survives_a_fork(tmp_path: Path) -> None:
    """A forked child opens connections of its own; the parent goes on with its."""
    with site(lambda seen: page(seen.params["n"])) as there:
        code = (
            "import os, sys\n"
            "from rlhf_loop.sources.http import HttpClient\n"
            f"client = HttpClient({there.url!r}, setting='X')\n"
            "def get(n):\n"
            "    body = client.get({'n': n}, budget_s=10.0, media_types=('text/plain',))\n"
            "    assert body == n.encode(), body\n"
            "get('1')\n"
            "if not (child := os.fork()):\n"
            "    get('2')\n"
            "    os._exit(0)\n"
            "assert os.waitpid(child, 0)[1] == 0\n"
            "get('3')\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True)
        clients = {seen.params["n"]: seen.client for seen in there.seen}
    assert clients["1"] == clients["3"] != clients["2"]


def test_the_environment_sends_nothing_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy in the environment is not used: only the configured host is asked."""
    with site(page("Proxied")) as proxy, site(page("Hello")) as there:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert get(there) == b"Hello"
        assert proxy.seen == []


def test_cookies_are_not_kept() -> None:
    """What a site wants to be sent again is not sent again."""
    with site(page("Hello", headers={"Set-Cookie": "a=b"})) as there:
        one = client(there)
        get(one)
        get(one)
        assert "Cookie" not in there.seen[1].headers


@pytest.mark.parametrize("packing", ["gzip", "deflate"])
def test_packed_pages_are_unpacked(packing: str) -> None:
    """A compressed page comes back as it was."""
    packed = gzip.compress(b"Hello") if packing == "gzip" else zlib.compress(b"Hello")
    with site(page(packed, headers={"Content-Encoding": packing})) as there:
        assert get(there) == b"Hello"


def bomb() -> bytes:
    return page(gzip.compress(b"\0" * 10**7), headers={"Content-Encoding": "gzip"})


def endless() -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n"
    yield from repeat(b"x" * 10_000, 100_000)


@pytest.mark.parametrize("flood", [bomb, endless, lambda: page(b"x" * 10**6)])
def test_no_more_than_the_limit_is_read(flood: object) -> None:
    """A page that is too large, once unpacked, ends with an error and not in memory."""
    with site(lambda _: flood()) as there:  # type: ignore[operator]
        with pytest.raises(SourceError, match=r"more than 100,000 bytes; the rest was not read\. Check .*RLHF_TEST"):
            get(client(there, max_bytes=100_000))
        if flood is endless:
            assert there.hung_up.wait(PATIENCE_S)


@pytest.mark.parametrize("packing", ["br", "zstd", "gzip, gzip", "compress", "\x00"])
def test_only_what_was_asked_for_is_unpacked(packing: str) -> None:
    """A page packed otherwise than the request allows is refused."""
    with (
        site(page(b"Hello", headers={"Content-Encoding": packing})) as there,
        pytest.raises(SourceError, match=r"127\.0\.0\.1"),
    ):
        get(there)


def slow_body() -> Iterator[bytes]:
    whole = page("x" * 1000)
    yield whole[:-1000]
    yield from drops(whole[-1000:])


def slow_gzip() -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Encoding: gzip\r\n\r\n"
    # Empty blocks of deflate: bytes that unpack to nothing, for ever.
    yield from drops(gzip.compress(b"")[:10] + b"\0\0\0\xff\xff" * 100)


SLOW = {
    "drops of what is no header": lambda: drops(b"H" * 400),
    "drops of a header": lambda: drops(page("Hello", headers={"X-Long": "x" * 1000})),
    "drops of the body": slow_body,
    "drops of what unpacks to nothing": slow_gzip,
}


@pytest.mark.parametrize("how", SLOW)
def test_the_budget_is_for_the_whole(how: str) -> None:
    """However a site dawdles, each read being quick, it is hung up on; were it not, each would answer in the end."""
    with site(lambda _: SLOW[how]()) as there:
        # A machine may be so busy that the time is up before anything was asked.
        for budget_s in (0.3, 3.0, 30.0):
            with pytest.raises(SourceError, match=rf"did not answer within {budget_s:g} s.* RLHF_SOURCE_DEADLINE_S"):
                get(there, budget_s=budget_s)
            if there.seen:
                break
        assert there.hung_up.wait(PATIENCE_S)


def test_no_time_at_all() -> None:
    """Without time nothing is asked."""
    with site(page("Hello")) as there:
        with pytest.raises(SourceError, match="did not answer within"):
            get(there, budget_s=0.0)
        assert there.seen == []


def test_a_site_that_never_accepts() -> None:
    """A host that does not even take the connection costs no more than the budget."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address = full.getsockname()
        waiting = [socket.socket() for _ in range(4)]  # they fill the queue of connections
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(address)
        with pytest.raises(SourceError, match="did not answer within"):
            get(client(f"http://127.0.0.1:{address[1]}/"), budget_s=0.3)
        for each in waiting:
            each.close()


def test_nobody_listens() -> None:
    """A closed port is said to be unreachable, with the setting to check."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(SourceError, match=r"127\.0\.0\.1 cannot be reached .* RLHF_TEST_URL"):
        get(client(f"http://127.0.0.1:{port}/"))


def test_a_name_that_does_not_exist() -> None:
    """A host without an address is said to be unreachable."""
    with pytest.raises(SourceError, match="cannot be reached"):
        get(client("http://nowhere.invalid/"))
    with pytest.raises(SourceError, match="cannot be reached"):
        get(client(f"http://{'a' * 70}.invalid/"))


GARBAGE = {
    "not HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "nothing": b"",
    "cut in the headers": page("Hello")[:30],
    "cut in the body": page("Hello" * 100)[:-1],
    "damaged gzip": page(b"no gzip", headers={"Content-Encoding": "gzip"}),
    "no length": page("Hello", headers={"Content-Length": "five"}),
    "headers for ever": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200_000,
    "chunks that are none": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/plain\r\n\r\nzz\r\n",
    "a switch of protocols": b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
}


@pytest.mark.parametrize("what", GARBAGE)
def test_what_is_no_answer(what: str) -> None:
    """Whatever comes over the line, it is a SourceError."""
    with site(lambda _: iter([GARBAGE[what]])) as there, pytest.raises(SourceError, match=r"127\.0\.0\.1"):
        get(there)


@pytest.mark.parametrize("status", [204, 206, 304, 400, 404, 410, 418, 500, 502, 999])
def test_other_statuses(status: int) -> None:
    """What is not 200 is no page."""
    with site(page("x", status=status)) as there, pytest.raises(SourceError, match=f"HTTP status {status}"):
        get(there)


def test_a_refusal_says_what_may_help() -> None:
    """A site that refuses an unknown sender is answered with the setting for it."""
    with site(page("x", status=403)) as there:
        with pytest.raises(SourceError, match=r"status 403\)\. Set RLHF_CONTACT"):
            get(there)
        with pytest.raises(SourceError, match=r"status 403\. Check"):
            get(client(there, contact="ops@example.org"))


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "", "application/json", "x" * 5000])
def test_another_type_of_page(kind: str) -> None:
    """A login page or the like is no answer."""
    with site(page("x", kind=kind)) as there, pytest.raises(SourceError, match="instead of text/plain") as error:
        get(there)
    assert len(str(error.value)) < 500


def moved(location: str, status: int = 302) -> bytes:
    return page(status=status, headers={"Location": location})


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_on_the_same_host(status: int) -> None:
    """A page that moved on its host is fetched from there."""
    with in_turn(moved("/other?q=1", status), page("Hello")) as there:
        assert get(there) == b"Hello"
        assert (there.seen[1].path, there.seen[1].params) == ("/other", {"q": "1"})


@pytest.mark.parametrize("to", ["http://localhost:{port}/", "//127.0.0.2:{port}/", "http://u:p@127.0.0.1:{own}/"])
def test_redirects_elsewhere_are_refused(to: str) -> None:
    """Another host, another port or a user's name is not followed, and nobody there is asked."""
    with site(page("Lured")) as other, site(lambda _: moved(to.format(port=other.port, own=there.port))) as there:
        with pytest.raises(SourceError, match=r"only the configured host is asked\. Set RLHF_TEST_URL"):
            get(there)
        assert len(there.seen) == 1
        assert other.seen == []


@pytest.mark.parametrize(
    "to",
    ["https://[::g]/", "ftp://127.0.0.1/", "file:///etc/passwd", "javascript:1", "http://[", "", "https://127.0.0.1/"],
)
def test_redirects_to_nowhere(to: str) -> None:
    """What is no address of this site's web server is refused."""
    with site(moved(to)) as there, pytest.raises(SourceError, match="only the configured host"):
        get(there)


def test_redirects_in_a_circle() -> None:
    """A site that sends us round and round is left."""
    with site(moved("/api")) as there:
        with pytest.raises(SourceError, match="redirects more than 3 times"):
            get(there)
        assert len(there.seen) == 4


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("when", ["0", date(-100)], ids=["seconds", "a date that is over"])
def test_a_busy_site_is_asked_once_more(status: int, when: str) -> None:
    """Where the time named by Retry-After, in seconds or as a date, is in the budget, there is a second try."""
    with in_turn(page(status=status, headers={"Retry-After": when}), page("Hello")) as there:
        assert get(there) == b"Hello"
        assert len(there.seen) == 2


def test_a_wait_within_the_budget() -> None:
    """The second try comes no sooner than the site wants."""
    with in_turn(page(status=429, headers={"Retry-After": "1"}), page("Hello")) as there:
        assert get(there) == b"Hello"
        assert there.seen[1].at - there.seen[0].at >= 1


@pytest.mark.parametrize(
    "headers",
    [
        {"Retry-After": "3600"},
        {"Retry-After": date(3600), "Date": date(0)},
        {"Retry-After": date(10_000_000), "Date": date(10_000_000 - 3600)},
    ],
)
def test_a_site_that_wants_a_long_pause_gets_it(headers: dict[str, str]) -> None:
    """A time behind the budget is passed on, by the site's own clock, and until then nothing is asked."""
    with site(page(status=503, headers=headers)) as there:
        one = client(there)
        for text in ("asks for a pause of 3600 s more", "asks for a pause of 3[56]"):
            with pytest.raises(SourceError, match=text) as error:
                get(one)
            assert error.value.retry_after_s == pytest.approx(3600, abs=30)
        assert len(there.seen) == 1


def test_a_pause_of_years_is_not_kept() -> None:
    """A site cannot switch itself off for longer than a day."""
    with site(page(status=429, headers={"Retry-After": "999999999999"})) as there, pytest.raises(SourceError) as error:
        get(there)
    assert error.value.retry_after_s == pytest.approx(24 * 3600, abs=30)


@pytest.mark.parametrize("when", ["", "soon", "-5", "1e3", "1" * 5000, "Thu, 99 Jan 2026 00:00:00 GMT", "1.5"])
def test_a_pause_that_cannot_be_read(when: str) -> None:
    """Without a time that makes sense there is no second try, and no time to pass on."""
    with site(page(status=503, headers={"Retry-After": when})) as there:
        with pytest.raises(SourceError, match=r"is busy \(HTTP status 503\)") as error:
            get(there)
        assert error.value.retry_after_s is None
        assert len(there.seen) == 1


def test_a_site_that_stays_busy() -> None:
    """There is one second try, not more."""
    with site(page(status=429, headers={"Retry-After": "0"})) as there:
        with pytest.raises(SourceError, match="is busy") as error:
            get(there)
        assert error.value.retry_after_s == 0
        assert len(there.seen) == 2


def test_a_page_that_says_busy() -> None:
    """What an ordinary answer says about being busy counts as much as a status."""
    with in_turn(page("busy", headers={"Retry-After": "0"}), page("Hello")) as there:
        one = client(there)
        found = one.get({}, budget_s=10.0, media_types=("text/plain",), is_busy=lambda body: body == b"busy")
        assert found == b"Hello"


def test_each_request_takes_its_turn() -> None:
    """Leave is asked for before each single request, redirects and second tries included, and given back after it."""
    log: list[str] = []

    @contextmanager
    def turn(budget_s: float) -> Iterator[None]:
        assert 0 < budget_s < 10
        log.append("taken")
        yield
        log.append("given back")

    def answer(_: SeenRequest) -> Answer:
        log.append("asked")
        return next(answers)

    answers = iter([moved("/api"), page(status=429, headers={"Retry-After": "0"}), page("Hello")])
    with site(answer) as there:
        assert get(client(there, turn=turn)) == b"Hello"
    assert log == ["taken", "asked", "given back"] * 3


def test_a_site_with_a_certificate(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over TLS, too, a page is fetched, within the budget; whom to trust may come from the environment."""
    slow = page("x" * 1000)
    with site(lambda seen: drops(slow) if seen.params else page("Hello"), certificate=certificate) as there:
        with pytest.raises(SourceError, match=r"cannot be reached .*certificate verify failed"):
            get(there)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert get(there) == b"Hello"
        with pytest.raises(SourceError, match=r"did not answer within 0\.5 s"):
            get(there, budget_s=0.5, slow="yes")


def test_a_handshake_that_never_ends() -> None:
    """A port that takes the connection and then says nothing costs no more than the budget, over TLS, too."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(SourceError, match="did not answer within"):
            get(client(f"https://127.0.0.1:{port}/"), budget_s=0.3)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "is not a valid web address"),
        ("en.wikipedia.org/w/api.php", "is not a valid web address"),
        ("ftp://example.org/", "is not a valid web address"),
        ("file:///etc/passwd", "is not a valid web address"),
        ("http:///path", "is not a valid web address"),
        ("https://{language}.wikipedia.org/", "is not a valid web address"),
        ("https://exa mple.org/", "is not a valid web address"),
        ("https://user:secret@example.org/", "user's name or password"),
        ("https://[::1/", "is not a valid URL"),
        ("http://x:99999999/", "is not a valid web address"),
        ("http://\x00/", "is not a valid URL"),
    ],
)
def test_a_setting_that_is_no_address(url: str, message: str) -> None:
    """What cannot be asked is refused at once, with the setting's name and without secrets."""
    with pytest.raises(ConfigError, match=message) as error:
        client(url)
    assert SETTING in str(error.value)
    assert "secret" not in str(error.value)
