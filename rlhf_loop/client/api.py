"""The calls of the API as methods."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from datetime import datetime
from itertools import islice
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx2
from pydantic import TypeAdapter, ValidationError

from rlhf_loop.client.transport import NoAnswerError, Sender
from rlhf_loop.client.values import (
    Interaction,
    InteractionPage,
    NewInteraction,
    NewReview,
    Preference,
    Recorded,
    RecordedBatch,
    Review,
    ReviewedInteraction,
    ReviewPage,
    Role,
    Thumb,
)

_BATCH = 100

_Result = TypeVar("_Result")


class Client:
    """Calls the service at `url`, such as https://rlhf.example.org, with a token of one of its users.

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
        self._sender = Sender(url, token, timeout=timeout, retries=retries, sleep=sleep)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._sender.close()

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
        item = NewInteraction(
            prompt=prompt,
            response=response,
            id=id,
            source=source,
            title=title,
            url=url,
            licence=licence,
            retrieved_at=retrieved_at,
            candidate_group=candidate_group,
            shown_rank=shown_rank,
            score=score,
            model_version=model_version,
            created_at=created_at,
            review=review,
        )
        return self._write("POST", "/v1/interactions", _plain(asdict(item)), Recorded)

    def record_many(self, interactions: Iterable[NewInteraction]) -> list[Recorded]:
        """Store many answers, 100 at a time: of each hundred all or none; return them in their order.

        Raises:
            ApiError: one hundred was not stored; those before it were.
        """
        recorded: list[Recorded] = []
        for batch in _batches(interactions):
            sent = {"interactions": [_plain(asdict(item)) for item in batch]}
            recorded += self._write("POST", "/v1/interactions", sent, RecordedBatch).interactions
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
        return self._review(
            id,
            NewReview(
                rating=rating, comment=comment, correction=correction, harmful=harmful, reviewer=reviewer, role=role
            ),
        )

    def feedback(
        self,
        interaction_id: str | None = None,
        *,
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

        Give a `rating` from 1 to 5 or a `thumb`. What is older (`rated_at`) than what the reviewer said since changes
        nothing; then the answer is what they said last.

        Raises:
            NotFoundError: there is no answer with this id, and question and answer were not given.
            ConflictError: the id is of an answer that says something else.
            ApiError: it was not stored, or nobody knows.
        """
        sent = {
            "interaction_id": interaction_id,
            "rating": rating,
            "thumb": thumb,
            "prompt": prompt,
            "response": response,
            "source": source,
            "candidate_group": candidate_group,
            "created_at": created_at,
            "rated_at": rated_at,
            "comment": comment,
            "correction": correction,
            "harmful": harmful,
            "reviewer": reviewer,
            "role": role,
        }
        return self._write("POST", "/v1/feedback", _plain(sent), Review)

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
        return self._review(id, NewReview(thumb=thumb, comment=comment, reviewer=reviewer, role=role))

    def withdraw(self, id: str, *, reviewer: str | None = None) -> None:
        """Take back a review that was sent with a token of the same user.

        Raises:
            NotFoundError: there is none.
            ApiError: it was not done, or nobody knows.
        """
        asked = {} if reviewer is None else {"reviewer": reviewer}
        self._sender.send("DELETE", f"{_path(id)}/reviews", params=asked, key=_new_key())

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
        sent = {"chosen_id": chosen_id, "rejected_id": rejected_id, "tie": tie, "comment": comment}
        sent |= {"reviewer": reviewer, "role": role}
        return self._write("POST", "/v1/preferences", _plain(sent), Preference)

    def interaction(self, id: str) -> Interaction:
        """Return an answer with its consensus.

        Raises:
            NotFoundError: there is none with this id.
            ApiError: the service did not answer.
        """
        return _read(self._sender.send("GET", _path(id)), ReviewedInteraction).interaction

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
        """Go through the answers, newest first; pages are fetched as they are needed.

        Raises:
            ApiError: the service did not answer, or does not know a filter's value.
        """
        asked = {
            "rated": rated,
            "min_rating": min_rating,
            "max_rating": max_rating,
            "source": source,
            "candidate_group": candidate_group,
            "model_version": model_version,
            "harmful": harmful,
            "created_after": created_after,
            "created_before": created_before,
            "limit": page_size,
        }
        cursor: str | None = ""
        while cursor is not None:
            found = self._sender.send("GET", "/v1/interactions", params=_plain({**asked, "cursor": cursor or None}))
            page = _read(found, InteractionPage)
            yield from page.interactions
            cursor = page.next

    def reviews(self, id: str) -> Iterator[Review]:
        """Go through the reviews of an answer, newest first; pages are fetched as they are needed.

        Raises:
            NotFoundError: there is none with this id.
            ApiError: the service did not answer.
        """
        cursor: str | None = ""
        while cursor is not None:
            asked = {"cursor": cursor} if cursor else {}
            page = _read(self._sender.send("GET", f"{_path(id)}/reviews", params=asked), ReviewPage)
            yield from page.reviews
            cursor = page.next

    def _review(self, id: str, review: NewReview) -> Review:
        return self._write("POST", f"{_path(id)}/reviews", _plain(asdict(review)), Review)

    def _write(self, method: str, path: str, sent: Mapping[str, Any], kind: type[_Result]) -> _Result:
        return _read(self._sender.send(method, path, json=sent, key=_new_key()), kind)


def _path(id: str) -> str:
    return f"/v1/interactions/{quote(id, safe='')}"


def _new_key() -> str:
    return uuid.uuid4().hex


def _batches(interactions: Iterable[NewInteraction]) -> Iterator[tuple[NewInteraction, ...]]:
    rest = iter(interactions)
    while batch := tuple(islice(rest, _BATCH)):
        yield batch


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is set, as JSON has it."""
    return {
        name: value.isoformat() if isinstance(value, datetime) else _plain(value) if isinstance(value, dict) else value
        for name, value in values.items()
        if value is not None
    }


def _read(response: httpx2.Response, kind: type[_Result]) -> _Result:
    try:
        return TypeAdapter(kind).validate_json(response.content)
    except ValidationError as error:
        raise NoAnswerError(
            f"The answer of {response.url} is not that of rlhf-loop: {error.errors()[0]['msg']}. Check the address.",
            status=response.status_code,
        ) from error
