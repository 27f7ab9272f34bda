"""E-mail: invitations, by the mail server of the settings."""

from __future__ import annotations

import re
import smtplib
import ssl
from dataclasses import dataclass, field
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime, localtime, make_msgid, parseaddr
from urllib.parse import unquote, urlsplit

from rlhf_loop.config import Settings
from rlhf_loop.errors import ConfigError, MailError
from rlhf_loop.utils.addresses import is_loopback

#: Seconds for each step of a delivery: an admin waits for it.
TIMEOUT_S = 10.0
_PORTS = {"smtp": 587, "smtps": 465, "smtp-plain": 25}
_HOST = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?|[0-9a-f:]*:[0-9a-f:.]*", re.IGNORECASE)
_VALID = "smtp://USER:PASSWORD@HOST:587, smtps://HOST:465, or smtp-plain://HOST:25 for one in a network of your own"


@dataclass(frozen=True, slots=True)
class MailServer:
    """A mail server and the sender of what goes out by it."""

    scheme: str
    host: str
    port: int
    sender: str
    user: str = ""
    password: str = field(default="", repr=False)

    @classmethod
    def of(cls, settings: Settings) -> MailServer | None:
        """Return the one of the settings, None without one.

        Raises:
            ConfigError: what they say of it cannot be used.
        """
        if not settings.smtp_url:
            return None
        try:
            parts = urlsplit(settings.smtp_url.strip())
            host, port = parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0)
        except ValueError:
            host, port = "", 0
        if not port or not _HOST.fullmatch(host) or parts.path.strip("/") or parts.query:
            raise ConfigError(
                "RLHF_SMTP_URL is not a valid mail server (it is not shown: it may hold a password). Give it one: "
                f"{_VALID}."
            )
        if parts.scheme == "smtp-plain" and parts.username:
            raise ConfigError(
                "RLHF_SMTP_URL would send a password that everybody on the way can read. Write smtp:// or smtps://."
            )
        try:
            valid = "@" in _address(settings.smtp_from).addr_spec and "\n" not in settings.smtp_from
        except (ValueError, IndexError, MessageError):
            valid = False
        if not valid:
            raise ConfigError(
                f"RLHF_SMTP_FROM={settings.smtp_from!r} is not a valid sender. Give it an address, as in "
                "RLHF Loop <loop@example.org>."
            )
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        return cls(parts.scheme, host, port, settings.smtp_from, user, password)


def send(server: MailServer, to: str, *, subject: str, text: str) -> None:
    """Hand a mail to the server.

    Raises:
        MailError: it did not take it.
    """
    message = EmailMessage()
    sender = _address(server.sender)
    message["From"] = sender
    try:
        message["To"] = Address(addr_spec=to)
    except (ValueError, IndexError, MessageError) as error:
        raise MailError(
            f"{to!r} is not a valid e-mail address ({_reason(error)}). Give the user another one, or hand the link on "
            "yourself."
        ) from error
    message["Subject"] = subject
    message["Date"] = format_datetime(localtime())
    message["Message-ID"] = make_msgid(domain=sender.domain)
    # Of a machine, so that no absence note comes back (RFC 3834).
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(text)
    try:
        with _connected(server) as connection:
            if server.user:
                connection.login(server.user, server.password)
            connection.send_message(message)
    except (smtplib.SMTPException, OSError, ValueError) as error:
        raise MailError(
            f"The mail server {server.host}:{server.port} did not take the mail ({_reason(error)}). Check "
            "RLHF_SMTP_URL, or hand the link on yourself."
        ) from error


def _address(written: str) -> Address:
    name, address = parseaddr(written)
    return Address(name, addr_spec=address)


def _connected(server: MailServer) -> smtplib.SMTP:
    context = ssl.create_default_context()
    if server.scheme == "smtps":
        return smtplib.SMTP_SSL(server.host, server.port, timeout=TIMEOUT_S, context=context)
    connection = smtplib.SMTP(server.host, server.port, timeout=TIMEOUT_S)
    try:
        # A link lets somebody in: nobody on the way may read it. This machine has no way.
        if server.scheme == "smtp" and (server.user or not is_loopback(server.host)):
            connection.starttls(context=context)
    except (smtplib.SMTPException, OSError):
        connection.close()
        raise
    return connection


def _reason(error: Exception) -> str:
    if isinstance(error, smtplib.SMTPResponseException):
        said = error.smtp_error
        return f"{error.smtp_code} {said.decode('utf-8', 'replace') if isinstance(said, bytes) else said}"[:200]
    return " ".join(str(error).split())[:200] or type(error).__name__
