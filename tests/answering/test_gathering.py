from __future__ import annotations

import asyncio
import itertools
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from patience import PATIENCE_S

from rlhf_loop.answering import gathering
from rlhf_loop.answering.gathering import Gatherer, SourceResults
from rlhf_loop.domain import Passage
from rlhf_loop.errors import SourceError

QUERY = "What helps against hiccups?"


class FakeSource:
    """Answers as it is told, and counts how often it was asked."""

    def __init__(self, name: str, search: Callable[[str, int], Any]) -> None:
        self.name = name
        self.asked = 0
        self._search = search

    def search(self, query: str, *, limit: int) -> Sequence[Passage]:
        self.asked += 1
        found: Sequence[Passage] = self._search(query, limit)
        return found


def good(name: str = "good", *texts: str) -> FakeSource:
    return FakeSource(name, lambda query, limit: [Passage(text=text) for text in texts or ("Hold your breath.",)])


def failing(error: BaseException, name: str = "bad") -> FakeSource:
    def search(query: str, limit: int) -> None:
        raise error

    return FakeSource(name, search)


def gather(*sources: FakeSource, deadline_s: float = 30, limit: int = 3) -> SourceResults:
    return Gatherer(sources, deadline_s=deadline_s, limit=limit).gather(QUERY)


@pytest.fixture
def hanging() -> Iterator[FakeSource]:
    """A source that answers only when the test is over."""
    released = threading.Event()

    def search(query: str, limit: int) -> list[Passage]:
        released.wait(PATIENCE_S)
        return [Passage(text="Too late.")]

    yield FakeSource("hanging", search)
    released.set()


def test_all_are_asked_at_the_same_time() -> None:
    """Two sources that wait for each other both answer; their passages come in the order of the sources."""
    barrier = threading.Barrier(2, timeout=PATIENCE_S)

    def search(query: str, limit: int) -> list[Passage]:
        barrier.wait()
        return [Passage(text=f"{limit}: {query}")]

    found = gather(FakeSource("b", search), FakeSource("a", search))
    assert list(found.passages) == ["b", "a"]
    assert found.passages["a"] == (Passage(text=f"3: {QUERY}"),)
    assert found.degraded == {}
    assert set(found.timings) == {"a", "b"}


def test_one_that_hangs_costs_only_its_candidates(hanging: FakeSource) -> None:
    """At the deadline the others' passages are returned, and the one that hangs is named."""
    # A machine may be so busy that the good one takes longer, too.
    for deadline_s in (0.2, 2.0, 20.0, 200.0):
        found = gather(hanging, good(), deadline_s=deadline_s)
        if "good" not in found.degraded:
            break
    assert found.passages == {"hanging": (), "good": (Passage(text="Hold your breath."),)}
    assert found.degraded == {"hanging": f"no answer within {deadline_s:g} s"}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (SourceError("The site said no.\nAnd more."), "The site said no."),
        (RuntimeError("secret"), "failed (RuntimeError); the log says more"),
        (TimeoutError("connect"), "failed (TimeoutError); the log says more"),
        (SourceError(""), "It gave no reason."),
        (SourceError("wish", retry_after_s="soon"), "wish"),  # type: ignore[arg-type]
        (SystemExit(3), "failed (SystemExit); the log says more"),
        (KeyboardInterrupt(), "failed (KeyboardInterrupt); the log says more"),
        (asyncio.CancelledError(), "failed (CancelledError); the log says more"),
    ],
)
def test_one_that_fails_costs_only_its_candidates(error: BaseException, reason: str) -> None:
    """An error of any kind is a reason in one line, also one that would end a process."""
    found = gather(failing(error), good())
    assert found.degraded == {"bad": reason}
    assert len(found.passages["good"]) == 1


@pytest.mark.parametrize(
    ("given", "kept", "reason"),
    [
        (None, 0, "It gave a NoneType instead of a list of passages"),
        ("text", 0, "It gave a str instead"),
        ({"text": "x"}, 0, "It gave a dict instead"),
        (["x", Passage(text="y")], 1, "gave a str instead of a passage"),
        ([Passage(text="  "), Passage(text="y")], 1, "gave a passage without text"),
        ([Passage(text=None)], 0, "gave a passage without text"),  # type: ignore[arg-type]
        ([Passage(text="x" * 200_000)], 1, "gave a passage of 200,000 characters"),
        ([Passage(text=str(n)) for n in range(9)], 3, "gave more than 3 passages"),
    ],
)
def test_one_that_lies_costs_only_its_candidates(given: Any, kept: int, reason: str) -> None:
    """What is not a list of passages with text is left out, and the source is named."""
    found = gather(FakeSource("liar", lambda query, limit: given), good())
    assert reason in found.degraded["liar"]
    assert len(found.passages["liar"]) == kept
    assert all(len(passage.text) <= 100_000 for passage in found.passages["liar"])
    assert len(found.passages["good"]) == 1


def test_a_flood_without_end_is_cut_off() -> None:
    """Of a generator that never ends, only the first passages are taken."""
    found = gather(FakeSource("flood", lambda query, limit: (Passage(text=str(n)) for n in itertools.count())))
    assert [passage.text for passage in found.passages["flood"]] == ["0", "1", "2"]
    assert found.degraded == {"flood": "gave more than 3 passages"}


def test_what_may_be_shown_of_a_passage() -> None:
    """Control characters go, labels become one line, and only addresses of the web stay."""
    now = datetime.now(UTC)
    given = [
        Passage(text="a\x00b", title="T\n1", url="https://example.org/", licence="CC0", retrieved_at=now),
        Passage(text="c", title="\x00", url="javascript:alert(1)", retrieved_at=datetime(2026, 1, 1)),
    ]
    found = gather(FakeSource("s", lambda query, limit: given))
    assert found.passages["s"] == (
        Passage(text="ab", title="T 1", url="https://example.org/", licence="CC0", retrieved_at=now),
        Passage(text="c"),
    )


def test_a_passage_becomes_whole_sentences() -> None:
    """What looks cut off goes, unless the source says that its passages are whole."""
    given = [Passage(text="of it. It is rare. Most rec"), Passage(text="of it. It is rare. Most rec", whole=True)]
    found = gather(FakeSource("s", lambda query, limit: given))
    assert [passage.text for passage in found.passages["s"]] == ["It is rare.", "of it. It is rare. Most rec"]


@pytest.mark.parametrize("text", ["a" + " \n\t" * 33_000 + "b", "First" + " \n" * 49_000 + "end.", "A. " * 33_000])
def test_a_passage_made_to_take_long_does_not(text: str) -> None:
    """Runs of white space, and whatever else 100,000 characters may hold, are read in one go. (It took hours once.)"""
    assert gather(FakeSource("s", lambda query, limit: [Passage(text=text)])).degraded == {}


def test_one_that_fails_repeatedly_is_left_alone() -> None:
    """After three failures in a row a source is not asked, the others are, and one says for how long."""
    bad, fine = failing(SourceError("down")), good()
    gatherer = Gatherer([bad, fine], deadline_s=30, limit=3)
    reasons = [gatherer.gather(QUERY).degraded["bad"] for _ in range(5)]
    assert reasons[:3] == ["down"] * 3
    assert all(re.search(r"paused for \d+ s after repeated failures", reason) for reason in reasons[3:])
    assert (bad.asked, fine.asked) == (3, 5)
    assert list(gatherer.resting()) == ["bad"]


def test_one_that_asks_for_a_rest_gets_it_at_once() -> None:
    """A source whose site says Retry-After is paused from then on."""
    bad = failing(SourceError("slow down", retry_after_s=100))
    gatherer = Gatherer([bad], deadline_s=30, limit=3)
    gatherer.gather(QUERY)
    assert re.search(r"paused for (100|\d\d) s", gatherer.gather(QUERY).degraded["bad"])
    assert bad.asked == 1


def test_finding_nothing_is_no_failure() -> None:
    """An empty list is an answer, however often it comes."""
    empty = FakeSource("empty", lambda query, limit: [])
    gatherer = Gatherer([empty], deadline_s=30, limit=3)
    assert [gatherer.gather(QUERY).degraded for _ in range(5)] == [{}] * 5
    assert empty.asked == 5


def test_one_that_hangs_gets_a_bounded_number_of_threads(hanging: FakeSource, monkeypatch: pytest.MonkeyPatch) -> None:
    """Questions beyond a limit do not wait in line behind those that hang."""
    monkeypatch.setattr(gathering, "_BUSY", 2)
    gatherer = Gatherer([hanging], deadline_s=0.05, limit=3)
    reasons = [gatherer.gather(QUERY).degraded["hanging"] for _ in range(3)]
    assert reasons == ["no answer within 0.05 s"] * 2 + ["still busy with 2 questions"]
    assert hanging.asked == 2


def test_sources_may_prepare() -> None:
    """A source with a method `warm_up` is told to; if it fails, the others still are."""
    prepared = []
    bad, fine = good("bad"), good("fine")
    bad.warm_up = lambda: 1 / 0  # type: ignore[attr-defined]
    fine.warm_up = lambda: prepared.append(True)  # type: ignore[attr-defined]
    Gatherer([bad, fine, good("none")], deadline_s=1, limit=1).warm_up()
    assert prepared == [True]


def test_a_cold_source_prepares_before_the_time_runs() -> None:
    """One that says so, as an index that was not there at the start, is asked when it is ready; then no more."""
    late, prepared = good("late"), []

    def prepare() -> None:
        prepared.append(late.asked)
        late.cold = False  # type: ignore[attr-defined]

    late.cold, late.warm_up = True, prepare  # type: ignore[attr-defined]
    gatherer = Gatherer([late], deadline_s=PATIENCE_S, limit=3)
    assert [bool(gatherer.gather(QUERY).passages["late"]) for _ in range(2)] == [True, True]
    assert prepared == [0]
