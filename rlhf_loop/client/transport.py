"""Requests to the API, sent again where they failed in passing.

What can go wrong with a call of the API, as exceptions.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx2

from rlhf_loop.errors import RlhfLoopError


class ApiError(RlhfLoopError):
    """The service refused a request, or did not answer it; `status` is None where no answer came.

    `detail` is what the service says, `request_id` finds it in its log.

        ApiError
        ├── NoAnswerError           it cannot be reached, or what answers is something else
        ├── NotAllowedError         401, 403: the token is not valid, or not for this
        ├── NotFoundError           404: there is no such interaction or review
        ├── ConflictError           409: the id is taken
        ├── RejectedError           400, 413, 422 ...: the request itself is wrong
        └── UnavailableError        429, 5xx: again later, perhaps
    """

    def __init__(self, detail: str, *, status: int | None = None, request_id: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status
        self.request_id = request_id


class NoAnswerError(ApiError):
    """The service cannot be reached, or what answers is something else."""


class NotAllowedError(ApiError):
    """The token is not valid, or not for this."""


class NotFoundError(ApiError):
    """There is no such interaction or review."""


class ConflictError(ApiError):
    """The id is taken."""


class RejectedError(ApiError):
    """The request itself is wrong."""


class UnavailableError(ApiError):
    """The service cannot do it now."""


#: What is tried again: where somebody between did not reach the service, it is busy, or the database is away.
_PASSING = frozenset({429, 502, 503, 504})
#: A pause that is asked for may be that long; whoever asks for a longer one has to be asked again by the caller.
_LONGEST_PAUSE_S = 60.0
_FIRST_PAUSE_S = 0.25


class Sender:
    """Sends requests with a token to one host. Safe to share between threads."""

    def __init__(
        self,
        url: str,
        token: str,
        *,
        timeout: float,
        retries: int,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._retries = retries
        self._sleep = sleep
        self._http = httpx2.Client(
            base_url=url.rstrip("/"),
            headers={"Authorization": f"Bearer {token}", "Accept": "application/json"},
            timeout=timeout,
            # The token goes to this host alone: to no proxy, and to no other host that it may name.
            trust_env=False,
            follow_redirects=False,
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: Mapping[str, Any] | None = None,
        key: str | None = None,
    ) -> httpx2.Response:
        """Return the answer to a request, sent as often as it takes; with a key it is done once.

        Raises:
            ApiError: there is none, or it is an error.
        """
        headers = {} if key is None else {"Idempotency-Key": f'"{key}"'}
        tries = 0
        while True:
            try:
                response = self._http.request(method, path, params=params, json=json, headers=headers)
            except httpx2.TransportError as error:
                if tries == self._retries:
                    raise NoAnswerError(
                        f"No answer from {self._http.base_url} after {tries + 1} tries: "
                        f"{error or type(error).__name__}. "
                        "Check the address, and that the service runs."
                    ) from error
                pause = _pause(tries)
            else:
                if response.is_success:
                    return response
                asked = _retry_after(response)
                # The service says "again in a second" of a request whose first try it is still busy with.
                passing = response.status_code in _PASSING or (response.status_code == 409 and asked is not None)
                if tries == self._retries or not passing or (asked or 0) > _LONGEST_PAUSE_S:
                    raise _error(response)
                pause = _pause(tries) if asked is None else asked
            self._sleep(pause)
            tries += 1


def _pause(tries: int) -> float:
    # Not all who failed together come again together.
    return _FIRST_PAUSE_S * 2.0**tries * random.uniform(0.5, 1.5)


def _retry_after(response: httpx2.Response) -> float | None:
    given: str = response.headers.get("Retry-After", "")
    return float(given) if given.isascii() and given.isdigit() else None


def _error(response: httpx2.Response) -> ApiError:
    status = response.status_code
    try:
        body = response.json()
        detail, request_id = str(body["detail"]), body.get("request_id")
    except (ValueError, TypeError, KeyError):
        # From somebody between: a proxy knows nothing of problem+json.
        detail, request_id = f"The answer of {response.url} was {status} {response.reason_phrase}.", None
    return _kind(status)(detail, status=status, request_id=request_id)


def _kind(status: int) -> type[ApiError]:
    if status in (401, 403):
        return NotAllowedError
    if status == 404:
        return NotFoundError
    if status == 409:
        return ConflictError
    if status == 429 or status >= 500:
        return UnavailableError
    return RejectedError if status >= 400 else NoAnswerError
