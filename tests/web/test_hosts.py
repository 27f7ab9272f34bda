"""By which names the service answers, what pages of other sites get, and the headers of all responses."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
from flask.testing import FlaskClient
from web_fakes import FakeService

from rlhf_loop.answering import AnswerService
from rlhf_loop.config import Settings
from rlhf_loop.errors import ConfigError
from rlhf_loop.web import create_app

OWN = ("localhost", "127.0.0.1", "[::1]", "*.example.org")


def client(folder: Path, *hosts: str) -> FlaskClient:
    settings = Settings(
        hosts=hosts, database_url=f"sqlite:///{folder / 'rlhf.db'}", outbox_path=folder / "outbox.db", sources=()
    )
    return create_app(settings).test_client()


@pytest.mark.parametrize(
    ("host", "named"),
    [
        ("localhost", True),
        ("LocalHost:8000", True),
        ("127.0.0.1:8000", True),
        ("[::1]:8000", True),
        ("a.example.org", True),
        ("a.b.example.org:443", True),
        ("example.org", False),
        ("evil-example.org", False),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("localhost:8000@evil.example", False),
        ("evil.example@localhost", False),
        ("localhost/evil.example", False),
        ("localhost:8000:9000", False),
        ("192.0.2.7", False),
        ("[::2]", False),
        ("0.0.0.0", False),
        ("", False),
    ],
)
def test_names(tmp_path: Path, host: str, named: bool) -> None:
    """A request for another host gets nothing, whatever it asks for; without a list any host will do."""
    web = client(tmp_path, *OWN)
    for path in ("/sign-in", "/openapi.json", "/nowhere", "/", "/data-html/static/chart.css"):
        with web.get(path, headers={"Host": host}) as answer:
            assert (answer.status_code != 400) == named, path
            assert named or "RLHF_HOSTS" in answer.get_data(as_text=True)
    assert client(tmp_path).get("/sign-in", headers={"Host": "any.example"}).status_code == 200
    assert client(tmp_path, "*").get("/sign-in", headers={"Host": "any.example"}).status_code == 200


def test_probes_call_by_address(tmp_path: Path) -> None:
    """Health checks go on under any name, metrics under any address, but not under a name that is none of ours."""
    web = client(tmp_path, "rlhf.example.org")
    here = {"REMOTE_ADDR": "127.0.0.1"}
    for host, metrics in (("10.1.2.3:8000", 200), ("[fd00::7]:8000", 200), ("evil.example", 400)):
        found = [
            web.get(path, headers={"Host": host}, environ_base=here).status_code
            for path in ("/healthz", "/readyz", "/metrics")
        ]
        assert found == [200, found[1], metrics]
        assert found[1] in (200, 503)


@pytest.mark.parametrize("host", ["https://example.org", "example.org:443", "example.org/x", "a b", "[::1]:80"])
def test_a_name_that_is_none_is_refused_at_the_start(tmp_path: Path, host: str) -> None:
    """With a scheme, a port or a path it would never match."""
    with pytest.raises(ConfigError, match="RLHF_HOSTS"):
        client(tmp_path, host)


CROSS = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}
OTHER_SITES = (
    CROSS,
    {"Sec-Fetch-Site": "same-site"},
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Referer": "http://evil.example/x"},
)


@pytest.mark.parametrize("headers", OTHER_SITES)
def test_other_sites_ask_nothing(tmp_path: Path, headers: dict[str, str]) -> None:
    """What another site's page asks reaches no source and no record; on our page it only fills the box."""
    service = FakeService()
    settings = Settings(database_url=f"sqlite:///{tmp_path / 'rlhf.db'}")
    web = create_app(settings, service=cast(AnswerService, service)).test_client()
    assert web.get("/data?query=Why", headers=headers).status_code == 403
    page = web.get("/data-html?query=Why+so", headers=headers)
    assert (page.status_code, "Why so" in page.get_data(as_text=True)) == (200, True)
    if "Referer" not in headers:
        assert web.post("/data", json={"query": "Why"}, headers=headers).status_code == 403
        assert web.post("/data-html", data={"query": "Why"}, headers=headers).status_code == 403
    assert service.asked == []


@pytest.mark.parametrize("path", ["/sign-in", "/openapi.json", "/nowhere", "/", "/data-html/static/chart.css"])
def test_headers(tmp_path: Path, path: str) -> None:
    """No page can watch or listen, none is framed, none shares its process with another site's."""
    with client(tmp_path).get(path) as answer:
        headers = answer.headers
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert "camera=(), " in headers["Permissions-Policy"]
    assert headers["Cross-Origin-Opener-Policy"] == headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "Server" not in headers
