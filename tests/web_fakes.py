"""A service that answers without any model: what the web's tests ask where ranking is not the point."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

from rlhf_loop import sample
from rlhf_loop.answering import Readiness
from rlhf_loop.answering.best_of import BestOf
from rlhf_loop.domain import (
    Answer,
    Candidate,
    Passage,
    RankedAnswer,
    RankedCandidate,
    RecordedRanking,
    Review,
    ReviewerRole,
    field_values,
)
from rlhf_loop.ranking import to_record


def ranked_answer(text: str, *, rank: int, score: float | None, interaction_id: str, **origin: Any) -> RankedAnswer:
    """Return an answer as the service ranks it."""
    ranked = RankedCandidate(Candidate(text, **origin), rank=rank, score=score, position=rank - 1)
    return RankedAnswer(ranked=ranked, interaction_id=interaction_id)


def changed(answer: RankedAnswer, **values: Any) -> RankedAnswer:
    """Return the answer with other values, wherever in it they stand."""
    kept = {name: getattr(answer, name) for name in ("text", "rank", "score", "interaction_id")}
    return ranked_answer(**{**kept, **field_values(answer.origin), **values})


GOOD = ranked_answer(
    "Rest in a dark room.\nTake the painkiller early.",
    rank=1,
    score=0.83,
    source="wikipedia",
    interaction_id="id-1",
    title="Migraine",
    url="https://en.wikipedia.org/wiki/Migraine",
    licence="CC BY-SA 4.0",
    retrieved_at=datetime(2026, 11, 23, 9, 30, tzinfo=UTC),
)
OTHER = ranked_answer(
    "Migraine is a disease.", rank=2, score=0.12, source="index", interaction_id="id-2", drafted_by="llama3.2"
)


class FakeService:
    """Gives the answers it is told to give, and remembers what it was asked and told."""

    def __init__(
        self,
        *ranked: RankedAnswer,
        model_version: str | None = "passages-1a2b3c4d5e6f",
        degraded: Mapping[str, str] | None = None,
        error: Exception | None = None,
        certain: bool | None = None,
        related: bool | None = None,
    ) -> None:
        self.certain, self.related = certain, related
        self.ranked, self.model_version, self.degraded, self.error = ranked, model_version, degraded or {}, error
        self.stores = True
        self.ready = False
        self.asked: list[str] = []
        self.rated: list[tuple[str, int | None, str | None, str | None]] = []
        self.roles: list[ReviewerRole] = []
        self.rankings: list[RecordedRanking] = []
        self.drafts: BestOf | None = None
        self.shared: dict[str, int] = {}
        self.on_answer: Callable[[], None] = lambda: None

    def answer(self, query: str) -> Answer:
        self.asked.append(query)
        self.on_answer()
        if self.error:
            raise self.error
        return Answer(
            query=query,
            ranked=tuple(self.ranked),
            model_version=self.model_version,
            degraded=self.degraded,
            timings={"sources": 1.5, "total": 2.0},
            certain=self.certain,
            related=self.related,
        )

    def ranker(self) -> None:
        return None

    def serving(self) -> str | None:
        return self.model_version

    def switched_off(self) -> bool:
        return False

    def shared_lookups(self) -> dict[str, int]:
        taken, self.shared = self.shared, {}
        return taken

    def waiting(self) -> tuple[int, int]:
        return 0, 0

    def rate(self, interaction_id: str, review: Review) -> bool:
        if self.error:
            raise self.error
        self.rated.append((interaction_id, review.rating, review.reviewer, review.comment))
        self.roles.append(review.role)
        return self.stores

    def best_of(self) -> BestOf | None:
        return self.drafts

    def record_ranking(
        self, query: str, ranked: Iterable[RankedCandidate], *, most: int | None = None, **about: Any
    ) -> RecordedRanking | None:
        kept = to_record(query, ranked, most=most or 10, **about)
        if kept is not None and self.stores:
            self.rankings.append(kept)
            return kept
        return None

    def settle(self, ranking: str) -> None:
        pass

    def warm_up(self) -> None:
        self.ready = True

    def readiness(self) -> Readiness:
        return Readiness(self.ready, {"encoder": "ok" if self.ready else "warming up"})

    def close(self) -> None:
        pass


class SampleSource:
    """Finds the sample's candidates for any question, with an address and terms of use."""

    name = "sample"

    def search(self, query: str, *, limit: int) -> list[Passage]:
        fetched = datetime(2026, 11, 20, 8, 0, tzinfo=UTC)
        return [
            Passage(
                text=found["text"],
                title="Sample",
                url=f"https://example.org/{number}",
                licence="CC0",
                retrieved_at=fetched,
            )
            for number, found in enumerate(sample.CANDIDATES[:limit])
        ]


class Unreadable:
    """A request's body as a server gives it whose client sends what is none."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def read(self, size: int = -1) -> bytes:
        raise self.error


class Page(HTMLParser):
    """All tags of a page with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]
