"""A client for the API of `rlhf-loop serve`, so that a Python application need not know HTTP.

    from rlhf_loop.client import Client, NewReview

    with Client(url, token) as client:
        answer = client.record(
            "What helps against hiccups?",
            "Hold your breath for a moment.",
            source="our-chatbot",
            review=NewReview(thumb="up", reviewer="patient-7"),
        )
        client.review(answer.id, 4, reviewer="patient-8", comment="It took a minute.")
        client.feedback(prompt="Why do we yawn?", response="Nobody knows.", thumb="down", reviewer="patient-7")
        for interaction in client.interactions(source="our-chatbot"):
            print(interaction.id, interaction.end_user_rating)

Each write bears an Idempotency-Key, so that it is done once, although it is sent again where no answer came.
`AsyncClient` is the same client for asyncio.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import wraps
from itertools import islice
from typing import Any, Concatenate, Literal, ParamSpec, Self, TypeVar
from urllib.parse import quote

import httpx2
from pydantic import TypeAdapter, ValidationError

from rlhf_loop.errors import RlhfLoopError

__all__ = [
    "ApiError",
    "AsyncClient",
    "Client",
    "ConflictError",
    "Interaction",
    "NewInteraction",
    "NewReview",
    "NoAnswerError",
    "NotAllowedError",
    "NotFoundError",
    "Preference",
    "Recorded",
    "RejectedError",
    "Review",
    "UnavailableError",
]

Role = Literal["expert", "end_user"]
Thumb = Literal["up", "down"]

_BATCH = 100
#: Statuses that are tried again: where somebody between did not reach the service, it is busy, or the database is away.
_PASSING = frozenset({429, 502, 503, 504})
#: A pause that is asked for may be that long; whoever asks for a longer one has to be asked again by the caller.
_LONGEST_PAUSE_S = 60.0
_FIRST_PAUSE_S = 0.25

_Result = TypeVar("_Result")


class ApiError(RlhfLoopError):
    """The service refused a request, or did not answer it; `status` is None where no answer came.

    `detail` is what the service says, `request_id` finds it in its log.
    """

    def __init__(self, detail: str, *, status: int | None = None, request_id: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status
        self.request_id = request_id


class NoAnswerError(ApiError):
    """The service cannot be reached, or what answers is something else."""


class NotAllowedError(ApiError):
    """401, 403: the token is not valid, or not for this."""


class NotFoundError(ApiError):
    """404: there is no such interaction or review."""


class ConflictError(ApiError):
    """409: the id is taken."""


class RejectedError(ApiError):
    """400, 413, 422 ...: the request itself is wrong."""


class UnavailableError(ApiError):
    """429, 5xx: the service cannot do it now; again later, perhaps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewReview:
    """A review to send: a `rating` from 1 to 5, or a `thumb`. `docs/RLHF_SERVICE.md` explains roles."""

    rating: int | None = None
    thumb: Thumb | None = None
    comment: str | None = None
    correction: str | None = None
    harmful: bool = False
    reviewer: str | None = None
    role: Role | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """An answer to a question, with where it comes from and how it was shown."""

    prompt: str
    response: str
    source: str | None = None
    title: str | None = None
    url: str | None = None
    licence: str | None = None
    retrieved_at: datetime | None = None
    drafted_by: str | None = None
    candidate_group: str | None = None
    shown_rank: int | None = None
    score: float | None = None
    model_version: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewInteraction(_Answer):
    """An answer that an application gave."""

    id: str | None = None
    created_at: datetime | None = None
    review: NewReview | None = None


@dataclass(frozen=True, slots=True)
class Recorded:
    """An answer that was stored, by the id under which it can be reviewed."""

    id: str
    rating: int | None
    end_user_rating: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """A reviewer's rating of an answer, with all that goes with it."""

    interaction_id: str
    reviewer: str
    role: Role
    rating: int
    comment: str | None
    correction: str | None
    harmful: bool
    reviewed_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Interaction(_Answer):
    """An answer that was given: `rating` is the consensus of experts, `end_user_rating` that of end users."""

    id: str
    created_at: datetime
    rating: int | None
    rated_at: datetime | None
    end_user_rating: int | None
    harmful: bool
    expert_reviews: int
    end_user_reviews: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """A reviewer's choice between two answers."""

    chosen_id: str
    rejected_id: str
    tie: bool
    reviewer: str
    role: Role
    comment: str | None


class Client:
    """A client of the service at `url`, such as https://rlhf.example.org, with a token of one of its users.

    Safe to share between threads. `timeout` is in seconds, for each try; a request that fails in passing is tried
    `retries` more times, with growing pauses or those that the service asks for.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        timeout: float = 10.0,
        retries: int = 5,
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def record(
        self,
        prompt: str,
        response: str,
        *,
        id: str | None = None,
        source: str | None = None,
        title: str | None = None,
        url: str | None = None,
        licence: str | None = None,
        retrieved_at: datetime | None = None,
        drafted_by: str | None = None,
        candidate_group: str | None = None,
        shown_rank: int | None = None,
        score: float | None = None,
        model_version: str | None = None,
        created_at: datetime | None = None,
        review: NewReview | None = None,
    ) -> Recorded:
        """Store an answer that was given, with a first review if there is one.

        Raises:
            ConflictError: there is an interaction with this id already.
            ApiError: it was not stored, or nobody knows.
        """
        return self._write("POST", "/v1/interactions", _sent(locals()), Recorded)

    def record_many(self, interactions: Iterable[NewInteraction]) -> list[Recorded]:
        """Store many answers, 100 at a time: of each hundred all or none; return them in their order.

        Raises:
            ApiError: one hundred was not stored; those before it were.
        """
        recorded: list[Recorded] = []
        rest = iter(interactions)
        while batch := list(islice(rest, _BATCH)):
            sent = {"interactions": [_sent(asdict(item)) for item in batch]}
            recorded += self._write("POST", "/v1/interactions", sent, _RecordedBatch).interactions
        return recorded

    def review(
        self,
        id: str,
        rating: int,
        *,
        comment: str | None = None,
        correction: str | None = None,
        harmful: bool = False,
        reviewer: str | None = None,
        role: Role | None = None,
    ) -> Review:
        """Say how good an answer is, from 1 to 5; what the same reviewer said of it before is replaced.

        Raises:
            ApiError: it was not stored, or nobody knows.
        """
        return self._write("POST", f"{_path(id)}/reviews", _sent(locals(), "id"), Review)

    def feedback(
        self,
        interaction_id: str | None = None,
        *,
        ranking: str | None = None,
        index: int | None = None,
        answer: str | None = None,
        used: Sequence[int] | None = None,
        rating: int | None = None,
        thumb: Thumb | None = None,
        prompt: str | None = None,
        response: str | None = None,
        source: str | None = None,
        candidate_group: str | None = None,
        created_at: datetime | None = None,
        rated_at: datetime | None = None,
        comment: str | None = None,
        correction: str | None = None,
        harmful: bool = False,
        reviewer: str | None = None,
        role: Role | None = None,
    ) -> Review:
        """Say how good an answer is, by its id or by question and answer; it need not be known before.

        Of a recorded ranking (`X-RLHF-Ranking-Id`) it is the document `index`, or the `answer` that was made of the
        documents `used`. Give a `rating` from 1 to 5 or a `thumb`. What is older (`rated_at`) than what the reviewer
        said since changes nothing; then the answer is what they said last.

        Raises:
            NotFoundError: there is no answer with this id, and question and answer were not given; or no such ranking.
            ConflictError: the id is of an answer that says something else.
            ApiError: it was not stored, or nobody knows.
        """
        return self._write("POST", "/v1/feedback", _sent(locals()), Review)

    def thumb(
        self,
        id: str,
        thumb: Thumb,
        *,
        comment: str | None = None,
        reviewer: str | None = None,
        role: Role | None = None,
    ) -> Review:
        """Say whether an answer is good: "up" is a 5, "down" a 1.

        Raises:
            ApiError: it was not stored, or nobody knows.
        """
        return self._write("POST", f"{_path(id)}/reviews", _sent(locals(), "id"), Review)

    def withdraw(self, id: str, *, reviewer: str | None = None) -> None:
        """Take back a review that was sent with a token of the same user.

        Raises:
            NotFoundError: there is none.
            ApiError: it was not done, or nobody knows.
        """
        self._send("DELETE", f"{_path(id)}/reviews", params=_sent(locals(), "id"))

    def prefer(
        self,
        chosen_id: str,
        rejected_id: str,
        *,
        tie: bool = False,
        comment: str | None = None,
        reviewer: str | None = None,
        role: Role | None = None,
    ) -> Preference:
        """Say which of two answers to one question is better, or with `tie` that neither is.

        Raises:
            ApiError: it was not stored, or nobody knows.
        """
        return self._write("POST", "/v1/preferences", _sent(locals()), Preference)

    def interaction(self, id: str) -> Interaction:
        """Return an answer with its consensus.

        Raises:
            NotFoundError: there is none with this id.
            ApiError: the service did not answer.
        """
        return _read(self._send("GET", _path(id)), _ReviewedInteraction).interaction

    def interactions(
        self,
        *,
        rated: bool | None = None,
        min_rating: int | None = None,
        max_rating: int | None = None,
        source: str | None = None,
        candidate_group: str | None = None,
        model_version: str | None = None,
        harmful: bool | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        page_size: int = 100,
    ) -> Iterator[Interaction]:
        """Go through the answers, newest first, with a time in the order of that; pages are fetched as they are needed.

        Raises:
            ApiError: the service did not answer, or does not know a filter's value.
        """
        asked: dict[str, Any] = {**_sent(locals(), "page_size"), "limit": page_size}
        cursor: str | None = ""
        while cursor is not None:
            page = _read(self._send("GET", "/v1/interactions", params=asked), _InteractionPage)
            yield from page.interactions
            asked["cursor"] = cursor = page.next

    def reviews(self, id: str) -> Iterator[Review]:
        """Go through the reviews of an answer, newest first; pages are fetched as they are needed.

        Raises:
            NotFoundError: there is none with this id.
            ApiError: the service did not answer.
        """
        cursor: str | None = ""
        while cursor is not None:
            asked = {"cursor": cursor} if cursor else {}
            page = _read(self._send("GET", f"{_path(id)}/reviews", params=asked), _ReviewPage)
            yield from page.reviews
            cursor = page.next

    def _write(self, method: str, path: str, sent: Mapping[str, Any], kind: type[_Result]) -> _Result:
        return _read(self._send(method, path, json=sent), kind)

    def _send(
        self, method: str, path: str, *, params: Mapping[str, Any] | None = None, json: Mapping[str, Any] | None = None
    ) -> httpx2.Response:
        """Return the answer to a request, sent as often as it takes; what it writes is done once.

        Raises:
            ApiError: there is none, or it is an error.
        """
        headers = {} if method == "GET" else {"Idempotency-Key": f'"{uuid.uuid4().hex}"'}
        tries = 0
        while True:
            try:
                response = self._http.request(method, path, params=params, json=json, headers=headers)
            except httpx2.TransportError as error:
                if tries == self._retries:
                    raise NoAnswerError(
                        f"No answer from {self._http.base_url} after {tries + 1} tries: "
                        f"{str(error).rstrip('.') or type(error).__name__}. "
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


_P = ParamSpec("_P")


def _awaited(
    method: Callable[Concatenate[Client, _P], _Result],
) -> Callable[Concatenate[AsyncClient, _P], Coroutine[Any, Any, _Result]]:
    """Return a method of the client to be awaited: it waits in a thread, and does the very same."""

    @wraps(method)
    async def call(self: AsyncClient, /, *args: _P.args, **named: _P.kwargs) -> _Result:
        return await asyncio.to_thread(method, self.client, *args, **named)

    return call


def _iterated(
    method: Callable[Concatenate[Client, _P], Iterator[_Result]],
) -> Callable[Concatenate[AsyncClient, _P], AsyncIterator[_Result]]:
    """Return the same for a method that goes through pages."""

    @wraps(method)
    async def iterate(self: AsyncClient, /, *args: _P.args, **named: _P.kwargs) -> AsyncIterator[_Result]:
        found = method(self.client, *args, **named)
        # A page holds a hundred; asked for one by one, each would take a thread of its own.
        while some := await asyncio.to_thread(list, islice(found, _BATCH)):
            for each in some:
                yield each

    return iterate


class AsyncClient:
    """The same client for asyncio: each method is awaited, `interactions` and `reviews` are for `async for`.

    Options are those of `Client`, which does the work in a thread; so whoever gives up waiting does not stop what was
    sent.
    """

    def __init__(self, url: str, token: str, *, timeout: float = 10.0, retries: int = 5) -> None:
        self.client = Client(url, token, timeout=timeout, retries=retries)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    close = _awaited(Client.close)
    record = _awaited(Client.record)
    record_many = _awaited(Client.record_many)
    review = _awaited(Client.review)
    feedback = _awaited(Client.feedback)
    thumb = _awaited(Client.thumb)
    withdraw = _awaited(Client.withdraw)
    prefer = _awaited(Client.prefer)
    interaction = _awaited(Client.interaction)
    interactions = _iterated(Client.interactions)
    reviews = _iterated(Client.reviews)


@dataclass(frozen=True, slots=True)
class _RecordedBatch:
    interactions: tuple[Recorded, ...]


@dataclass(frozen=True, slots=True)
class _ReviewedInteraction:
    interaction: Interaction


@dataclass(frozen=True, slots=True)
class _InteractionPage:
    interactions: tuple[Interaction, ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class _ReviewPage:
    reviews: tuple[Review, ...]
    next: str | None


def _path(id: str) -> str:
    return f"/v1/interactions/{quote(id, safe='')}"


def _sent(arguments: Mapping[str, Any], *omitted: str) -> dict[str, Any]:
    """Return a call's arguments that are set as the API's fields of the same names, as JSON has them."""
    values = {name: asdict(value) if isinstance(value, NewReview) else value for name, value in arguments.items()}
    return {
        name: value.isoformat() if isinstance(value, datetime) else _sent(value) if isinstance(value, dict) else value
        for name, value in values.items()
        if value is not None and name not in ("self", *omitted)
    }


def _read(response: httpx2.Response, kind: type[_Result]) -> _Result:
    try:
        return TypeAdapter(kind).validate_json(response.content)
    except ValidationError as error:
        raise NoAnswerError(
            f"The answer of {response.url} is not that of rlhf-loop: {error.errors()[0]['msg']}. Check the address.",
            status=response.status_code,
        ) from error


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
