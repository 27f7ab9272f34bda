"""A small HTTP client: a page of one configured site, in a given time and of a given size, or a clear error."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from weakref import finalize

import httpcore2
import httpx2

from rlhf_loop.errors import ConfigError, SourceError
from rlhf_loop.utils.timed_transport import TimedTransport, all_by
from rlhf_loop.version import __version__

#: Bytes of a page at most, unpacked. The longest Wikipedia articles have some 600 KB of plain text.
MAX_BYTES = 5 * 10**6
#: Part of the time of all sources that one of the web takes, so that what it finds is in time.
BUDGET_SHARE = 0.9

_REDIRECTS = 3
#: A wait must leave this many seconds for the answer.
_ANSWER_S = 0.25
#: A site that says "come back in a year" would be gone until the next restart.
_LONGEST_WAIT_S = 24 * 3600.0
#: Sockets take no timeout of many years.
_LONGEST_BUDGET_S = 3600.0
_BUSY = frozenset({429, 503})
_MOVED = frozenset({301, 302, 303, 307, 308})
_HOST = re.compile(r"[a-z0-9]([a-z0-9.-]{0,252}[a-z0-9])?|[0-9a-f:]*:[0-9a-f:.]*", re.IGNORECASE)
_SECONDS = re.compile(r"[0-9]{1,12}")
_NETWORK_ERRORS = (httpcore2.NetworkError, httpcore2.TimeoutException, OSError)
_PROTOCOL_ERRORS = (httpx2.HTTPError, httpx2.InvalidURL, httpcore2.ProtocolError, httpcore2.UnsupportedProtocol)

#: Gives the leave to send one request, held while it runs, within some seconds; or raises `SourceError`.
Turn = Callable[[float], AbstractContextManager[object]]


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    media_type: str
    location: str | None
    retry_after_s: float | None
    body: bytes


class HttpClient:
    """A client that GETs from the site of one configured URL, and from no other.

    Safe to share between threads and across a fork.

    `setting` is the variable that the URL comes from, named in messages. `contact` goes into the User-Agent, as
    Wikimedia's User-Agent policy wants it. `turn` is asked before each single request, repeated ones included.
    """

    def __init__(
        self, url: str, *, setting: str, contact: str = "", max_bytes: int = MAX_BYTES, turn: Turn = nullcontext
    ) -> None:
        self._url = _checked(url, setting)
        #: The only host that is ever asked.
        self.host = self._url.host
        self._setting = setting
        self._headers = {
            "User-Agent": user_agent(contact),
            # Only what the standard library unpacks piece by piece, so that a bomb is noticed.
            "Accept-Encoding": "gzip, deflate",
        }
        self._has_contact = bool(contact.strip())
        self._max_bytes = max_bytes
        self._turn = turn
        self._not_before = 0.0
        #: Of each process: one that is inherited at a fork is neither used nor closed.
        self._transports: dict[int, TimedTransport] = {}
        finalize(self, _close, self._transports)

    def address(self, params: Mapping[str, str]) -> str:
        """Return the whole address that `get` fetches for these parameters."""
        return str(self._url.copy_merge_params(dict(params)))

    def get(
        self,
        params: Mapping[str, str],
        *,
        budget_s: float,
        media_types: Collection[str],
        is_busy: Callable[[bytes], bool] = lambda body: False,
    ) -> bytes:
        """Return the body of the configured URL with these parameters, within `budget_s` seconds for everything.

        A site that says when to come back (429, 503, or what `is_busy` finds in an ordinary answer; Retry-After) is
        asked once more if that is soon enough; if not, later calls do not ask it until then.

        Raises:
            SourceError: anything but an answer of one of the media types; `retry_after_s` if the site wants a pause.
        """
        deadline = time.monotonic() + min(budget_s, _LONGEST_BUDGET_S)
        for _ in range(2):
            self._wait_for_leave(deadline)
            reply = self._follow(self._url.copy_merge_params(dict(params)), deadline, budget_s)
            if reply.status not in _BUSY and not (reply.status == 200 and is_busy(reply.body)):
                return self._checked_body(reply, media_types)
            if reply.retry_after_s is None:
                break
            self._not_before = time.monotonic() + reply.retry_after_s
        raise SourceError(
            f"{self.host} is busy (HTTP status {reply.status}). Its passages are missing for now; try again later.",
            retry_after_s=reply.retry_after_s,
        )

    def _wait_for_leave(self, deadline: float) -> None:
        wait = self._not_before - time.monotonic()
        if wait <= 0:
            return
        if time.monotonic() + wait + _ANSWER_S > deadline:
            raise SourceError(
                f"{self.host} asks for a pause of {wait:.0f} s more. Its passages are missing until then.",
                retry_after_s=wait,
            )
        time.sleep(wait)

    def _follow(self, url: httpx2.URL, deadline: float, budget_s: float) -> _Reply:
        for _ in range(_REDIRECTS + 1):
            try:
                reply = self._exchange(url, deadline)
            except _NETWORK_ERRORS as error:
                raise self._unreachable(error, deadline, budget_s) from error
            except _PROTOCOL_ERRORS as error:
                raise SourceError(
                    f"{self.host} sent something that is not an HTTP answer ({_short(str(error))}). "
                    f"Check what listens at the address of {self._setting}."
                ) from error
            if reply.status not in _MOVED:
                return reply
            url = self._target(url, reply.location)
        raise SourceError(
            f"{self.host} redirects more than {_REDIRECTS} times. Set {self._setting} to the address behind it."
        )

    def _exchange(self, url: httpx2.URL, deadline: float) -> _Reply:
        left = deadline - time.monotonic()
        with self._turn(max(0.0, left - _ANSWER_S)), all_by(deadline):
            response = self._open().handle_request(httpx2.Request("GET", url, headers=self._headers))
            try:
                return _Reply(
                    status=response.status_code,
                    media_type=response.headers.get("Content-Type", "").partition(";")[0].strip().lower(),
                    location=response.headers.get("Location"),
                    retry_after_s=_retry_after_s(response.headers),
                    # What is not used is not read: a body of an error or of a redirect says nothing.
                    body=self._body(response) if response.status_code == 200 else b"",
                )
            finally:
                response.close()

    def _body(self, response: httpx2.Response) -> bytes:
        packing = response.headers.get("Content-Encoding", "identity").strip().lower()
        if packing not in ("identity", "gzip", "deflate"):
            raise SourceError(
                f"{self.host} sent a page packed as {_short(packing)!r}, which was not asked for. "
                f"Check the address of {self._setting}."
            )
        parts, size = [], 0
        for part in response.iter_bytes():
            size += len(part)
            if size > self._max_bytes:
                raise SourceError(
                    f"{self.host} sent a page of more than {self._max_bytes:,} bytes; the rest was not read. "
                    f"Check the address of {self._setting}."
                )
            parts.append(part)
        return b"".join(parts)

    def _checked_body(self, reply: _Reply, media_types: Collection[str]) -> bytes:
        if reply.status == 403 and not self._has_contact:
            raise SourceError(
                f"{self.host} refuses the request (HTTP status 403). Set RLHF_CONTACT to an e-mail address or URL: "
                "sites refuse clients whose owner they cannot reach."
            )
        if reply.status != 200:
            raise SourceError(
                f"{self.host} answered with HTTP status {reply.status}. Check the address of {self._setting}, "
                "or try again later."
            )
        if reply.media_type not in media_types:
            raise SourceError(
                f"{self.host} sent {_short(reply.media_type) or 'a page of no type'} instead of "
                f"{' or '.join(sorted(media_types))}. Check that {self._setting} is the address of its API."
            )
        return reply.body

    def _target(self, url: httpx2.URL, location: str | None) -> httpx2.URL:
        try:
            target = url.join(location or "")
        except httpx2.InvalidURL:
            target = httpx2.URL("")
        same = _origin(target) == _origin(url)
        upgraded = _origin(url) == ("http", url.host, 80) and _origin(target) == ("https", url.host, 443)
        if location and (same or upgraded) and not target.userinfo:
            return target
        raise SourceError(
            f"{self.host} redirects to {_short(location or 'nowhere')!r}, and only the configured host is asked. "
            f"Set {self._setting} to the right address."
        )

    def _unreachable(self, error: Exception, deadline: float, budget_s: float) -> SourceError:
        if isinstance(error, httpcore2.TimeoutException) or time.monotonic() >= deadline:
            return SourceError(
                f"{self.host} did not answer within {budget_s:.1f} s. Its passages are missing this time; "
                "RLHF_SOURCE_DEADLINE_S gives it longer."
            )
        return SourceError(
            f"{self.host} cannot be reached ({_short(str(error))}). Check the network and the address of "
            f"{self._setting}."
        )

    def _open(self) -> TimedTransport:
        found = self._transports.get(os.getpid())
        if found is None:
            upgradable = self._url.scheme == "https" or self._url.port is None
            # Of two threads that both make one, the other's goes, which has no connection yet.
            found = self._transports.setdefault(os.getpid(), TimedTransport(secure=upgradable))
        return found

    def warm_up(self) -> None:
        """Read the certificates, which takes longer than the rest of a first request."""
        self._open()

    def close(self) -> None:
        """Close this process's connections; the next use opens new ones."""
        _close(self._transports)


def _close(transports: dict[int, TimedTransport]) -> None:
    if found := transports.pop(os.getpid(), None):
        found.close()


def user_agent(contact: str) -> str:
    """Return the User-Agent, which tells who sends a request: https://foundation.wikimedia.org/wiki/Policy:User-Agent_policy."""
    who = "".join(char for char in contact if " " <= char <= "~" and char not in "()").strip()
    return f"rlhf-loop/{__version__} ({who or 'operator gave no contact'}) httpx2/{httpx2.__version__}"


def _checked(url: str, setting: str) -> httpx2.URL:
    # The value itself is not shown: it may hold a password.
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise ConfigError(f"{setting} is not a valid URL ({error}). Give it one such as https://HOST/PATH.") from error
    host, port = parsed.raw_host.decode("ascii"), parsed.port or 80
    if parsed.scheme not in ("http", "https") or not _HOST.fullmatch(host) or port > 65_535:
        raise ConfigError(f"{setting} is not a valid web address. Give it one such as https://HOST/PATH.")
    if parsed.userinfo:
        raise ConfigError(f"{setting} holds a user's name or password, which is not supported. Take it out.")
    return parsed.copy_with(fragment=None)


def _origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme)


def _retry_after_s(headers: httpx2.Headers) -> float | None:
    """Return the seconds that Retry-After names, in either of its forms (RFC 9110, 10.2.3)."""
    text = headers.get("Retry-After", "").strip()
    if _SECONDS.fullmatch(text):
        return min(float(text), _LONGEST_WAIT_S)
    until = _date(text)
    if until is None:
        return None
    # The site's own clock, where it tells the time: ours may differ.
    wait = (until - (_date(headers.get("Date", "")) or datetime.now(UTC))).total_seconds()
    return min(max(0.0, wait), _LONGEST_WAIT_S)


def _date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def _short(text: str) -> str:
    printable = "".join(char if char.isprintable() else " " for char in text[:200])
    return " ".join(printable.split())
