"""Invitations by e-mail, by a real mail server on loopback."""

from __future__ import annotations

import asyncio
import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword
from patience import PATIENCE_S
from people_fakes import PASSWORD, Browser, Site
from sqlalchemy import Engine

from rlhf_loop.accounts import mail, users
from rlhf_loop.accounts.mail import MailServer, send
from rlhf_loop.config import Settings
from rlhf_loop.domain import UserRole
from rlhf_loop.errors import AccountError, ConfigError, MailError

FROM = "RLHF Loop <loop@clinic.example>"
ME = "anna@clinic.example"


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mail, "TIMEOUT_S", PATIENCE_S)


class Inbox:
    """Keeps what comes; refuses who is not here."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []

    async def handle_RCPT(self, server: Any, session: Any, envelope: Envelope, address: str, options: Any) -> str:
        if address.startswith("nobody"):
            return "550 5.1.1 No such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Envelope) -> str:
        came = message_from_bytes(envelope.original_content or b"", policy=policy.default)
        assert isinstance(came, EmailMessage)
        self.mails.append(came)
        return "250 OK"


@contextmanager
def mail_server(*, ssl_context: ssl.SSLContext | None = None, **options: Any) -> Iterator[tuple[Inbox, int]]:
    """Serve on a free port of loopback, in a thread; with `ssl_context`, by TLS from the start."""
    inbox, loop, listening = Inbox(), asyncio.new_event_loop(), threading.Event()
    servers: list[asyncio.Server] = []

    async def serve() -> None:
        server = await loop.create_server(
            lambda: SMTP(inbox, hostname="mail.test", loop=loop, **options), "127.0.0.1", 0, ssl=ssl_context
        )
        servers.append(server)
        listening.set()

    loop.create_task(serve())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    assert listening.wait(PATIENCE_S)
    try:
        yield inbox, servers[0].sockets[0].getsockname()[1]
    finally:
        asyncio.run_coroutine_threadsafe(_end(servers[0]), loop).result(PATIENCE_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _end(server: asyncio.Server) -> None:
    server.close()
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def context(certificate: Path) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(certificate)
    return made


def server_at(scheme: str, port: int, user: str = "") -> MailServer:
    found = MailServer.of(Settings(smtp_url=f"{scheme}://{user}127.0.0.1:{port}", smtp_from=FROM))
    assert found is not None
    return found


def invited(site: Site, email: str = ME, *, language: str = "en") -> tuple[Browser, str]:
    """Add anna on the page; the browser, and what it is told then."""
    ada = site.browser(site.ada)
    ada.client.set_cookie("rlhf_language", language)
    given = {"name": "anna", "role": "rater", "email": email}
    response = ada.post("/admin/users", given, page="/admin")
    return ada, ada.get("/admin").text if response.status_code == 303 else response.text


def test_an_invitation(engine: Engine) -> None:
    """The link goes to the address and is not on the page; by it a password is chosen, once."""
    with mail_server() as (inbox, port):
        site = Site(engine, smtp_url=f"smtp://127.0.0.1:{port}", smtp_from=FROM)
        _, page = invited(site, "Anna@Clinic.example")
    (came,) = inbox.mails
    assert "An invitation has gone to anna@clinic.example" in page
    assert "/welcome/" not in page
    assert (came["From"], came["To"], came["Subject"]) == (FROM, ME, "Your account at RLHF Loop")
    assert came["Auto-Submitted"] == "auto-generated"
    link = re.search(r"http://localhost(/welcome/[\w-]+)", came.get_content())
    assert link, came.get_content()
    anna = site.browser()
    assert anna.post(link[1], {"password": PASSWORD, "again": PASSWORD}, page=link[1]).status_code == 303
    assert anna.get("/account").status_code == 200


def test_in_german(sqlite_engine: Engine) -> None:
    """The language is that of the admin's screen."""
    with mail_server() as (inbox, port):
        invited(Site(sqlite_engine, smtp_url=f"smtp://127.0.0.1:{port}", smtp_from=FROM), language="de")
    (came,) = inbox.mails
    assert came["Subject"] == "Ihr Konto bei RLHF Loop"
    assert "Wählen Sie hier Ihr Passwort" in came.get_content()


def test_a_mail_that_does_not_go(sqlite_engine: Engine) -> None:
    """Nothing is lost: the user is there, and the reason and the link stand on the page."""
    with mail_server() as (inbox, port):
        site = Site(sqlite_engine, smtp_url=f"smtp://127.0.0.1:{port}", smtp_from=FROM)
        ada, page = invited(site, "nobody@clinic.example")
        assert "550" in page
        assert "http://localhost/welcome/" in page
        assert inbox.mails == []
    users.set_email(sqlite_engine, "anna", ME, actor="test")
    ada.post("/admin/users/change", {"name": "anna", "do": "link"}, page="/admin")
    away = ada.get("/admin").text
    assert "did not take the mail" in away
    assert "http://localhost/welcome/" in away


def test_addresses(sqlite_engine: Engine) -> None:
    """Without a mail server or an address the link is on the page; what is no address adds nobody."""
    site = Site(sqlite_engine)
    ada, page = invited(site, "")
    assert "http://localhost/welcome/" in page
    for bad in ("anna", "a@b\nBcc: eve@example.org", "a b@example.org", "@example.org", f"{'x' * 250}@e.org"):
        response = ada.post("/admin/users", {"name": "ben", "role": "rater", "email": bad}, page="/admin")
        assert response.status_code == 422
    change = {"name": "anna", "do": "email", "email": "anna@example.org"}
    assert ada.post("/admin/users/change", change, page="/admin").status_code == 303
    taken = ada.post("/admin/users/change", {**change, "name": "rita"}, page="/admin")
    assert (taken.status_code, "is the address of" in taken.text) == (422, True)
    assert ada.post("/admin/users/change", {**change, "email": ""}, page="/admin").status_code == 303
    assert [account.email for account in users.accounts(sqlite_engine)] == [None] * 4


def test_tls_and_a_password(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By STARTTLS and from the start, with a name and a password; never without TLS, or to a stranger's certificate."""
    given: list[LoginPassword] = []

    def authenticate(server: Any, session: Any, envelope: Any, mechanism: str, data: LoginPassword) -> AuthResult:
        given.append(data)
        return AuthResult(success=data.password == b"p@ss", handled=False)

    tls = {"authenticator": authenticate, "auth_required": True}
    with mail_server(tls_context=context(certificate), require_starttls=True, **tls) as (inbox, port):
        server = server_at("smtp", port, "loop:p%40ss@")
        with pytest.raises(MailError, match="CERTIFICATE_VERIFY_FAILED"):
            send(server, ME, subject="x", text="y")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        send(server, ME, subject="Grüße", text="äöü")
        assert given[-1] == LoginPassword(login=b"loop", password=b"p@ss")
        with pytest.raises(MailError, match="535"):
            send(server_at("smtp", port, "loop:wrong@"), ME, subject="x", text="y")
        assert [(each["Subject"], each.get_content().strip()) for each in inbox.mails] == [("Grüße", "äöü")]
    with mail_server() as (inbox, port):
        with pytest.raises(MailError, match="STARTTLS"):
            send(server_at("smtp", port, "loop:p@"), ME, subject="x", text="y")
        send(server_at("smtp-plain", port), ME, subject="x", text="y")
        assert len(inbox.mails) == 1
    with mail_server(ssl_context=context(certificate)) as (inbox, port):
        send(server_at("smtps", port), ME, subject="x", text="y")
        assert len(inbox.mails) == 1


@pytest.mark.parametrize(
    ("url", "sender", "named"),
    [
        ("mail.example.org", FROM, "RLHF_SMTP_URL is not a valid mail server"),
        ("http://mail.example.org", FROM, "RLHF_SMTP_URL is not a valid mail server"),
        ("smtp://me:hush@", FROM, "RLHF_SMTP_URL is not a valid mail server"),
        ("smtp://me:hush@mail.example.org:99999", FROM, "RLHF_SMTP_URL is not a valid mail server"),
        ("smtp-plain://me:hush@mail.example.org", FROM, "would send a password"),
        ("smtp://mail.example.org", "", "RLHF_SMTP_FROM='' is not a valid sender"),
        ("smtp://mail.example.org", "Loop", "RLHF_SMTP_FROM='Loop' is not a valid sender"),
        ("smtp://mail.example.org", "Loop <loop@>", "RLHF_SMTP_FROM='Loop <loop@>' is not a valid sender"),
        ("smtp://mail.example.org", "loop@a..org", "RLHF_SMTP_FROM='loop@a..org' is not a valid sender"),
    ],
)
def test_settings_that_cannot_work(sqlite_engine: Engine, url: str, sender: str, named: str) -> None:
    """The service does not start, and the password is not shown."""
    with pytest.raises(ConfigError, match=named) as raised:
        Site(sqlite_engine, smtp_url=url, smtp_from=sender)
    assert "hush" not in str(raised.value)


@pytest.mark.parametrize("address", ["a@x..org", ".a@x.org", "a..b@x.org", "a.@x.org", "a@x.-org"])
def test_addresses_that_no_mail_can_have(sqlite_engine: Engine, address: str) -> None:
    """Nobody gets one, and nobody is added with one; a mail to one that is there already is an error that says so."""
    with pytest.raises(AccountError, match="is not a valid e-mail address"):
        users.add(sqlite_engine, "anna", role=UserRole.RATER, email=address, actor="test")
    assert users.accounts(sqlite_engine) == []


def test_a_mail_to_no_address() -> None:
    """What is in the database already and can be no address is an error that says so."""
    with pytest.raises(MailError, match=r"'a@x\.\.org' is not a valid e-mail address"):
        send(server_at("smtp", 9), "a@x..org", subject="x", text="x")


def test_an_address_of_somebody_else(sqlite_engine: Engine) -> None:
    """Nobody is added then, so that the admin can repeat it with another one."""
    users.add(sqlite_engine, "bob", role=UserRole.RATER, email=ME, actor="test")
    with pytest.raises(AccountError, match="is the address of 'bob'"):
        users.add(sqlite_engine, "anna", role=UserRole.RATER, email=ME, actor="test")
    assert [account.user.name for account in users.accounts(sqlite_engine)] == ["bob"]


def test_the_password_is_not_shown() -> None:
    """Neither by the settings nor by the server that is made of them."""
    settings = Settings(smtp_url="smtp://me:hush@mail.example.org", smtp_from=FROM)
    assert "hush" not in repr(settings)
    assert "hush" not in repr(MailServer.of(settings))
