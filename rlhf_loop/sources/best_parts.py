"""Which parts of the documents that a search found answer the question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from rlhf_loop.domain import Passage
from rlhf_loop.reward.lexical import coverage, terms
from rlhf_loop.sources.excerpts import sections

#: Characters below which a section is a remainder: a lone link, the caption of a table that is not there.
_SHORTEST = 25


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a document under one heading; the heading is empty where there is none."""

    heading: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """What a search found: its parts in their order, and what a passage of it has to name."""

    title: str
    parts: tuple[Part, ...]
    url: str | None
    licence: str | None
    retrieved_at: datetime


@dataclass(frozen=True, slots=True)
class _Scored:
    passage: Passage
    score: tuple[float, float]


def best_passages(question: str, documents: Sequence[Document], *, limit: int) -> list[Passage]:
    """Return the sections with most of the question's terms: the best of each document, then the second best, ...

    Of one round, those with more of the terms come first. A further section of a document must have at least one.
    """
    wanted = terms(question)
    queues = [_by_score(wanted, document) for document in documents]
    chosen: list[Passage] = []
    for place in range(max(map(len, queues), default=0)):
        row = [queue[place] for queue in queues if len(queue) > place]
        row.sort(key=lambda scored: scored.score, reverse=True)
        chosen += [scored.passage for scored in row if place == 0 or any(scored.score)]
    return chosen[:limit]


def _by_score(wanted: Sequence[str], document: Document) -> list[_Scored]:
    named = set(terms(document.title))
    # What the title says is what all of the document is about, and so tells its sections apart no further.
    open_terms = [term for term in wanted if term not in named] or list(wanted)
    scored = []
    for part in document.parts:
        heading = terms(part.heading)
        for text in sections(part.text):
            if len(text) >= _SHORTEST or len(document.parts) == 1:
                passage = Passage(
                    text=text,
                    title=document.title,
                    url=document.url,
                    licence=document.licence,
                    retrieved_at=document.retrieved_at,
                    whole=True,
                )
                score = coverage(open_terms, [*heading, *terms(text)]), coverage(open_terms, heading)
                scored.append(_Scored(passage, score))
    scored.sort(key=lambda each: each.score, reverse=True)
    return scored
