"""All that was ever offered as an answer, for admins: looked for by words and filters, as CSV, and by question."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from time import monotonic
from typing import Literal

from flask import Blueprint, Response, request
from pydantic import BaseModel, Field, field_validator
from sqlalchemy.engine import Engine
from werkzeug.exceptions import NotFound

from rlhf_loop.domain import UserRole
from rlhf_loop.store.queries import Filters, History, InteractionEntry, SearchResult, history, search
from rlhf_loop.utils.text import unstorable, without_formula
from rlhf_loop.utils.translation import Message
from rlhf_loop.web.api.answers import checked
from rlhf_loop.web.pages.desk import Desk, address
from rlhf_loop.web.problems import html_errors

_PER_PAGE, _PER_PART = 20, 200
#: Rows of a file at most, and seconds after which no more are looked for.
MOST_ROWS, _MOST_SECONDS = 10_000, 30.0
_HEADER = (
    *("interaction_id", "user_prompt", "ai_response", "rating", "end_user_rating", "expert_reviews"),
    *("end_user_reviews", "harmful", "source", "title", "url", "licence", "candidate_group", "shown_rank", "score"),
    *("model_version", "created_at", "rated_at", "drafted_by"),
)


class _SearchIn(BaseModel, extra="ignore"):
    """Words and filters. Of a form, fields that are empty are sent, too."""

    q: str = Field(default="", max_length=200)
    rating: Literal["", "rated", "unrated", "1", "2", "3", "4", "5"] = ""
    reviewer: str = Field(default="", max_length=200)
    source: str = Field(default="", max_length=200)
    model: str = Field(default="", max_length=200)
    since: date | None = None
    until: date | None = None
    flagged: bool = False
    before: int | None = Field(default=None, ge=1, lt=2**96)

    @field_validator("q", "reviewer", "source", "model")
    @classmethod
    def _can_be_there(cls, given: str) -> str:
        if unstorable(given):
            raise ValueError("it holds a character that no text here has")
        return given

    @field_validator("since", "until", mode="before")
    @classmethod
    def _none_if_empty(cls, given: object) -> object:
        return given or None

    @property
    def filters(self) -> Filters:
        """The conditions on interactions."""
        grade = int(self.rating) if self.rating.isdigit() else None
        return Filters(
            rated={"rated": True, "unrated": False}.get(self.rating),
            min_rating=grade,
            max_rating=grade,
            source=self.source.strip() or None,
            model_version=self.model.strip() or None,
            harmful=self.flagged or None,
            created_after=_midnight(self.since) - timedelta(microseconds=1) if self.since else None,
            created_before=_midnight(self.until) + timedelta(days=1) if self.until and self.until < date.max else None,
        )

    def found_in(self, engine: Engine, *, before: int | None, limit: int, seconds: float = 2.0) -> SearchResult:
        """Look for it; see `search`."""
        return search(
            engine,
            self.filters,
            words=self.q,
            reviewer=self.reviewer.strip() or None,
            before=before,
            limit=limit,
            seconds=seconds,
        )

    @property
    def given(self) -> dict[str, str]:
        """The fields that were given, as an address has them, without where the page begins."""
        return {name: str(value) for name, value in self.model_dump(exclude={"before"}).items() if value}


class _HistoryIn(BaseModel, extra="ignore"):
    id: str = Field(min_length=1, max_length=400)
    before: int | None = Field(default=None, ge=1, lt=2**63)


def add_routes(web: Blueprint, desk: Desk) -> None:
    """Give the blueprint the search, the file of what it found, and the history of a question."""

    @web.get("/browse")
    @html_errors
    def browse() -> Response:
        desk.guard.signed_in(UserRole.ADMIN)
        wanted = checked(_SearchIn, request.args.to_dict())
        found = wanted.found_in(desk.engine(), before=wanted.before, limit=_PER_PAGE)
        return desk.page(
            "browse.html",
            wanted=wanted,
            found=found.interactions,
            full=len(found.interactions) == _PER_PAGE,
            older=address("browse", **wanted.given, before=found.before) if found.before else None,
            newest=address("browse", **wanted.given) if wanted.before else None,
            file=address("browse_csv", **wanted.given),
            most_rows=MOST_ROWS,
        )

    @web.get("/browse/found.csv")
    @html_errors
    def browse_csv() -> Response:
        desk.guard.signed_in(UserRole.ADMIN)
        wanted = checked(_SearchIn, request.args.to_dict())
        return Response(
            _lines(desk.engine(), wanted, rest=address("browse_csv", **wanted.given, before="")),
            mimetype="text/csv",
            headers={"Content-Disposition": 'attachment; filename="found.csv"', "Cache-Control": "no-store"},
        )

    @web.get("/browse/question")
    @html_errors
    def browse_question() -> Response:
        desk.guard.signed_in(UserRole.ADMIN)
        wanted = checked(_HistoryIn, request.args.to_dict())
        try:
            found: History = history(desk.engine(), wanted.id, before=wanted.before, limit=_PER_PAGE)
        except LookupError as error:
            said = Message("There is no interaction with the id {id!r}. List them at /browse.", id=wanted.id[:100])
            raise NotFound(said) from error
        return desk.page(
            "browse_question.html",
            history=found,
            older=address("browse_question", id=wanted.id, before=found.before) if found.before else None,
            newest=address("browse_question", id=wanted.id) if wanted.before else None,
        )


def _midnight(day: date) -> datetime:
    return datetime.combine(max(day, date(1, 1, 2)), time(), UTC)


def _lines(engine: Engine, wanted: _SearchIn, *, rest: str) -> Iterator[str]:
    """Give the lines of a CSV file, each part of it read in a transaction of its own.

    Where it ends before all was looked through, its last line says so, and where the rest is.
    """
    yield "\ufeff" + _line(_HEADER)
    ends, left, rows, before = monotonic() + _MOST_SECONDS, _MOST_SECONDS, 0, wanted.before
    while rows < MOST_ROWS:
        found = wanted.found_in(engine, before=before, limit=min(_PER_PART, MOST_ROWS - rows), seconds=min(left, 2.0))
        for entry in found.interactions:
            yield _line(_row(entry))
        rows, before, left = rows + len(found.interactions), found.before, ends - monotonic()
        if before is None:
            return
        if left <= 0:
            break
    yield _line(
        (f"INCOMPLETE: older answers were not looked through, after {rows:,} rows here. Get them from {rest}{before}",)
    )


def _row(entry: InteractionEntry) -> tuple[object, ...]:
    origin = entry.origin
    return (
        *(entry.id, entry.prompt, entry.response, entry.rating, entry.end_user_rating, entry.expert_reviews),
        *(entry.end_user_reviews, int(entry.harmful), origin.source, origin.title, origin.url, origin.licence),
        *(entry.candidate_group, entry.shown_rank, entry.score, entry.model_version, entry.created_at.isoformat()),
        *(entry.rated_at and entry.rated_at.isoformat(), origin.drafted_by),
    )


def _line(cells: tuple[object, ...]) -> str:
    line = io.StringIO()
    csv.writer(line).writerow([without_formula(cell) if isinstance(cell, str) else cell for cell in cells])
    return line.getvalue()
