"""The loop behind nginx with TLS and an identity provider, in Chromium: sign in, rate, lose the role, sign out."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
import server_process
from databases import sqlite_database
from desk_browser import press, ready, said
from identity_provider import CLIENT, SECRET, THE_PROVIDERS_OWN, identity_provider
from own_port import own_port
from patience import PATIENCE_S, until
from playwright.sync_api import Page, expect, sync_playwright
from raters import put_answers, reviews
from server_process import Server
from test_browser import CHROMIUM, complaint, launched, patient

from rlhf_loop.store import audit
from rlhf_loop.store.engine import make_engine

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="gunicorn needs fork"),
    *THE_PROVIDERS_OWN,
    pytest.mark.browser,
]
#: Its fixtures, here too.
environ = server_process.environ
#: The times in which the server gives up what it asks of others.
PATIENT = {"rlhf_loop.accounts.oidc:TIMEOUT_S": PATIENCE_S}
NGINX = shutil.which("nginx") or "/usr/sbin/nginx"
CONFIG = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    scgi_temp_path {folder}/scgi;
    uwsgi_temp_path {folder}/uwsgi;
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {certificate};
        ssl_certificate_key {certificate};
        location / {{
            proxy_pass http://127.0.0.1:{upstream};
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_set_header X-Forwarded-Proto $scheme;
        }}
    }}
}}
"""


@contextmanager
def nginx(folder: Path, upstream: int, certificate: Path) -> Iterator[str]:
    """Serve by TLS what answers at the port `upstream`; the address, without a slash at its end."""
    port = own_port()
    config = folder / "nginx.conf"
    config.write_text(CONFIG.format(folder=folder, port=port, upstream=upstream, certificate=certificate))
    process = subprocess.Popen([NGINX, "-c", config, "-p", folder], stderr=subprocess.DEVNULL)
    try:
        until(lambda: _listens(port) or process.poll() is not None)
        assert process.poll() is None, (folder / "nginx.log").read_text()
        yield f"https://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def authorize(page: Page, subject: str) -> None:
    """Sign in at the provider."""
    expect(page.get_by_role("heading", name="Authorize Client")).to_be_visible()
    page.get_by_placeholder("sub").fill(subject)
    page.get_by_role("button", name="Authorize", exact=True).click()


def test_the_whole_loop(environ: dict[str, str], tmp_path: Path, certificate: Path) -> None:
    """An expert signs in by the provider, rates, is out once their role is gone, comes back, and signs out there."""
    for needed in (Path(NGINX), CHROMIUM):
        if not needed.exists():
            if os.environ.get("CI"):
                raise FileNotFoundError(f"{needed} is missing. Install Debian's package {needed.name}.")
            pytest.skip(f"there is no {needed} to test with")
    url = sqlite_database(tmp_path / "rlhf.db")
    engine = make_engine(url, patience_s=PATIENCE_S)
    put_answers(engine, 4)
    with identity_provider() as provider, ExitStack() as opened:
        opened.callback(engine.dispose)
        provider.person("s-1", preferred_username="eva", name="Dr. Eva Weber", groups=["experts"])
        given = {
            "RLHF_DATABASE_URL": url,
            "RLHF_SECRET_KEY": "k" * 40,
            "RLHF_PROXIES": "1",
            "RLHF_PASSWORDS": "no",
            "RLHF_OIDC_ISSUER": provider.issuer,
            "RLHF_OIDC_CLIENT_ID": CLIENT,
            "RLHF_OIDC_CLIENT_SECRET": SECRET,
            "RLHF_OIDC_RECHECK_S": "0",
            "RLHF_SSO_RATERS": "experts",
        }
        server = Server(tmp_path, {**environ, **given}, "--workers", "1", values=PATIENT)
        opened.callback(server.stop)
        with (
            nginx(tmp_path, server.port, certificate) as address,
            sync_playwright() as playwright,
            closing(launched(playwright)) as browser,
        ):
            page = patient(browser, base_url=address, ignore_https_errors=True).new_page()
            complaints: list[str] = []
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("console", lambda line: complaints.append(complaint(line)) if complaint(line) else None)
            _signs_in_and_rates(page)
            provider.person("s-1", preferred_username="eva", groups=[])
            page.goto("/review")
            expect(page).to_have_url(re.compile("/sign-in"))
            expect(page.get_by_label("Password")).to_have_count(0)
            provider.person("s-1", preferred_username="eva", groups=["experts"])
            page.get_by_role("link", name="Sign in with 127.0.0.1").click()
            authorize(page, "s-1")
            ready(page)
            (cookie,) = [each for each in page.context.cookies() if each["name"].endswith("rlhf_session")]
            assert (cookie["name"], cookie["secure"], cookie["httpOnly"]) == ("__Host-rlhf_session", True, True)
            page.get_by_role("button", name="Sign out").click()
            # The provider asks, and leads back.
            page.get_by_role("button", name="End session").click()
            expect(page.get_by_role("link", name="Sign in with 127.0.0.1")).to_be_visible()
            page.goto("/review")
            expect(page).to_have_url(re.compile("/sign-in"))
            assert complaints == []
        assert [(name, grade) for name, grade, *_ in reviews(engine)] == [("eva", 4)]
        done = [entry.action for entry in reversed(audit.entries(engine, actor="eva"))]
        assert [each for each in done if each.startswith("session.")] == [
            "session.signed_in",
            "session.signed_in",
            "session.signed_out",
        ]


def _signs_in_and_rates(page: Page) -> None:
    page.goto("/review")
    page.get_by_role("link", name="Sign in with 127.0.0.1").click()
    authorize(page, "s-1")
    expect(page).to_have_url(re.compile("/review$"))
    expect(page.get_by_role("link", name="Dr. Eva Weber")).to_be_visible()
    press(page, "4")
    said(page, "Rated 4. Next answer.")
