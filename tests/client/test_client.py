from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from databases import rate_all
from flask import Flask, Response, request
from served_app import served_app
from sqlalchemy import Engine
from v1_apps import app_on, token_for

from rlhf_loop import client as module
from rlhf_loop.client import (
    ApiError,
    AsyncClient,
    Client,
    ConflictError,
    NewInteraction,
    NewReview,
    NoAnswerError,
    NotAllowedError,
    NotFoundError,
    RejectedError,
    UnavailableError,
)
from rlhf_loop.domain import ReviewerRole
from rlhf_loop.errors import RlhfLoopError

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


@pytest.fixture
def served() -> Iterator[Callable[[Any], str]]:
    """Serve an application on loopback; return its address."""
    with ExitStack() as stack:
        yield lambda app: stack.enter_context(served_app(app))


@pytest.fixture
def address(served: Callable[[Any], str], engine: Engine, tmp_path: Path) -> str:
    return served(app_on(engine, tmp_path))


@pytest.fixture
def client(address: str, engine: Engine) -> Iterator[Client]:
    with Client(address, token_for(engine, "app")) as client:
        yield client


def test_the_example_runs(address: str, engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    """What the module says at its top."""
    lines = (module.__doc__ or "").splitlines()
    example = "\n".join(line[4:] for line in lines if line.startswith("    "))
    exec(example, {"url": address, "token": token_for(engine, "app")})
    assert capsys.readouterr().out.endswith(" 4\n")


def test_all_that_an_application_does(client: Client) -> None:
    """Record, review, prefer, read, list and take back, each with a value of its own type."""
    first = client.record(
        "Why?",
        "So.",
        id="a",
        source="bot",
        title="T",
        url="https://example.org",
        licence="CC0",
        retrieved_at=NOON,
        candidate_group="g",
        shown_rank=1,
        score=0.5,
        model_version="m",
        created_at=NOON,
        review=NewReview(rating=2, comment="no", correction="Thus.", harmful=True, reviewer="p"),
    )
    assert (first.id, first.rating, first.end_user_rating) == ("a", None, 2)
    second = client.record("why?", "Because.", candidate_group="g")
    assert client.review(second.id, 5, reviewer="p", comment="yes").rating == 5
    assert client.thumb(second.id, "down", reviewer="q").reviewer == "app:q"
    preferred = client.prefer(second.id, "a", reviewer="p", comment="longer")
    assert (preferred.chosen_id, preferred.tie, preferred.role) == (second.id, False, "end_user")
    found = client.interaction("a")
    assert (found.created_at, found.retrieved_at, found.harmful, found.end_user_reviews) == (NOON, NOON, True, 1)
    assert [each.id for each in client.interactions(candidate_group="g")] == [second.id, "a"]
    assert [each.id for each in client.interactions(harmful=True, created_before=datetime.now(UTC))] == ["a"]
    assert [(each.reviewer, each.rating) for each in client.reviews(second.id)] == [("app:q", 1), ("app:p", 5)]
    client.withdraw(second.id, reviewer="q")
    assert [each.reviewer for each in client.reviews(second.id)] == ["app:p"]


def test_feedback_on_what_is_known_and_what_is_not(client: Client) -> None:
    """By question and answer, then by the id that it got; what is older changes nothing."""
    texts = {"prompt": "Why?", "response": "So.", "source": "llama3.2"}
    first = client.feedback(**texts, thumb="up", reviewer="p-7", rated_at=NOON, created_at=NOON)  # type: ignore[arg-type]
    assert (first.rating, first.reviewer, first.reviewed_at) == (5, "app:p-7", NOON)
    second = client.feedback(first.interaction_id, rating=2, reviewer="p-7", comment="No.", correction="Thus.")
    assert (second.interaction_id, second.rating, second.correction) == (first.interaction_id, 2, "Thus.")
    assert client.feedback(**texts, thumb="up", reviewer="p-7", rated_at=NOON) == second  # type: ignore[arg-type]
    assert client.interaction(first.interaction_id).source == "llama3.2"
    with pytest.raises(NotFoundError, match="There is no interaction with the id 'gone'"):
        client.feedback("gone", rating=3)
    with pytest.raises(ConflictError, match="another prompt or response"):
        client.feedback(first.interaction_id, prompt="Why?", response="Other.", rating=3)
    with pytest.raises(RejectedError, match="rating is 6"):
        client.feedback(first.interaction_id, rating=6)


def test_many_of_them(client: Client) -> None:
    """More than fit into one request go in several, and come back in pages, each once and in order."""
    items = [NewInteraction(prompt="Why?", response=f"{number}", review=NewReview(thumb="up")) for number in range(250)]
    recorded = client.record_many(iter(items))
    assert len(recorded) == 250
    listed = list(client.interactions(page_size=37))
    assert [each.id for each in listed] == [each.id for each in reversed(recorded)]
    assert [each.response for each in listed] == [item.response for item in reversed(items)]
    assert client.record_many([]) == []


def test_reviews_come_in_pages(client: Client, engine: Engine) -> None:
    """However many there are."""
    client.record("Why?", "So.", id="a")
    rate_all(engine, [(1, f"app:{number}", 5) for number in range(103)], role=ReviewerRole.END_USER)
    assert [each.reviewer for each in client.reviews("a")] == [f"app:{number}" for number in reversed(range(103))]


def test_what_is_refused_has_a_class(client: Client, address: str, engine: Engine) -> None:
    """All of one tree, with the status, the words of the service and the id of the request."""
    client.record("Why?", "So.", id="a")
    long = NewInteraction(prompt="Why?", response="x" * 99_000)
    cases: Sequence[tuple[type[ApiError], int, str, Callable[[], object]]] = (
        (ConflictError, 409, "'a' already", lambda: client.record("Why?", "So.", id="a")),
        (NotFoundError, 404, "no interaction", lambda: client.interaction("b/../c?")),
        (NotFoundError, 404, "no review", lambda: client.withdraw("a")),
        (RejectedError, 422, "rating is 9", lambda: client.review("a", 9)),
        (RejectedError, 413, "larger than", lambda: client.record_many([long] * 20)),
        (NotAllowedError, 403, "reviews:expert", lambda: client.review("a", 5, role="expert")),
        (NotAllowedError, 401, "unknown", lambda: Client(address, "rlhf_no").interaction("a")),
    )
    for kind, status, words, call in cases:
        with pytest.raises(kind, match=words) as caught:
            call()
        assert (caught.value.status, isinstance(caught.value, RlhfLoopError)) == (status, True)
        assert caught.value.request_id
        assert caught.value.detail == str(caught.value)


class Shaky:
    """Passes requests on to an application, but fails at those that it is told to fail at, after they were done."""

    def __init__(self, app: Flask, *answers: Response | None) -> None:
        self.app, self.answers, self.keys = app, list(answers), []  # type: ignore[var-annotated]

    def __call__(self, environ: Any, start: Any) -> Any:
        self.keys.append(environ.get("HTTP_IDEMPOTENCY_KEY"))
        answer = self.answers.pop(0) if self.answers else None
        if answer is None:
            return self.app(environ, start)
        with self.app.request_context(environ):
            self.app.full_dispatch_request()
        return answer(environ, start)


def test_what_got_lost_is_sent_again_and_done_once(
    served: Callable[[Any], str], engine: Engine, tmp_path: Path
) -> None:
    """A gateway's error, a wish to wait, a request under way: the client comes again, with the same key."""
    busy, wait = Response(status=502), Response(status=429, headers={"Retry-After": "7"})
    running = Response(status=409, headers={"Retry-After": "1"})
    shaky = Shaky(app_on(engine, tmp_path), busy, wait, running)
    pauses: list[float] = []
    with Client(served(shaky), token_for(engine, "app"), sleep=pauses.append) as client:
        recorded = client.record("Why?", "So.", review=NewReview(rating=3))
        assert [each.id for each in client.interactions()] == [recorded.id]
        assert len(list(client.reviews(recorded.id))) == 1
    assert len(set(shaky.keys[:4])) == 1
    assert shaky.keys[0].startswith('"')
    assert shaky.keys[4:] == [None, None]
    assert 0 < pauses[0] < 1
    assert pauses[1:] == [7, 1]


def test_patience_has_an_end(served: Callable[[Any], str]) -> None:
    """After so many tries, or where the service asks for a longer pause, the error is the caller's."""
    numbers = count(1)
    app = Flask("busy")

    @app.get("/v1/<path:_>")
    def busy(_: str) -> Response:
        next(numbers)
        return Response(status=503, headers={"Retry-After": request.args.get("source", "2")})

    pauses: list[float] = []
    with Client(served(app), "rlhf_x", retries=3, sleep=pauses.append) as client:
        with pytest.raises(UnavailableError, match="was 503") as caught:
            client.interaction("a")
        assert (caught.value.status, caught.value.request_id) == (503, None)
        assert (pauses, next(numbers)) == ([2, 2, 2], 5)
        with pytest.raises(UnavailableError):
            list(client.interactions(source="3600"))
        assert next(numbers) == 7


def test_nobody_there(served: Callable[[Any], str]) -> None:
    """Where nobody answers, or somebody else does, it says so."""
    pauses: list[float] = []
    with (
        Client("http://127.0.0.1:1", "rlhf_x", retries=2, sleep=pauses.append) as client,
        pytest.raises(NoAnswerError, match="after 3 tries") as caught,
    ):
        client.interaction("a")
    assert caught.value.status is None
    assert len(pauses) == 2
    app = Flask("other")

    @app.get("/v1/interactions")
    def other() -> str:
        return "<h1>Hello</h1>"

    @app.get("/v1/interactions/a")
    def elsewhere() -> Response:
        return Response(status=302, headers={"Location": "https://example.org"})

    with Client(served(app), "rlhf_x") as client:
        with pytest.raises(NoAnswerError, match="not that of rlhf-loop"):
            list(client.interactions())
        with pytest.raises(NoAnswerError, match="was 302"):
            client.interaction("a")


def test_the_same_is_awaited_in_asyncio(address: str, engine: Engine) -> None:
    """Several at once, pages by `async for`, and errors as they are."""

    async def loop() -> tuple[list[str], list[int]]:
        async with AsyncClient(address, token_for(engine, "app")) as client:
            stored = await asyncio.gather(*(client.record("q", f"a{n}", id=f"i{n}") for n in range(3)))
            await client.thumb(stored[0].id, "up", reviewer="ann")
            with pytest.raises(NotFoundError):
                await client.interaction("gone")
            ids = [each.id async for each in client.interactions(page_size=2)]
            return ids, [review.rating async for review in client.reviews("i0")]

    ids, ratings = asyncio.run(loop())
    assert (sorted(ids), ratings) == (["i0", "i1", "i2"], [5])


def test_the_client_for_asyncio_has_each_method() -> None:
    """One that is added to `Client` is there as well."""
    public = [name for name, _ in inspect.getmembers(Client, inspect.isfunction) if not name.startswith("_")]
    assert all(hasattr(AsyncClient, name) for name in public)
