"""A rater's own reviews with a search, and for admins the answers that are of nobody's field."""

from __future__ import annotations

from typing import Annotated

from flask import Blueprint, Response, request
from pydantic import BaseModel, Field

from rlhf_loop import reviewing
from rlhf_loop.domain import UserRole
from rlhf_loop.web.api.answers import checked
from rlhf_loop.web.api.v1_schemas import Moment
from rlhf_loop.web.origins import way_back
from rlhf_loop.web.pages.desk import Desk, address
from rlhf_loop.web.problems import html_errors

_PER_PAGE = 20


class _HistoryIn(BaseModel, extra="forbid"):
    q: Annotated[str, Field(max_length=200)] = ""
    rating: Annotated[int | None, Field(ge=1, le=5)] = None
    before: Moment | None = None
    id: Annotated[int, Field(ge=1, lt=2**63)] = 1


def add_routes(web: Blueprint, desk: Desk) -> None:
    """Give the blueprint these pages."""

    @web.get("/review/history")
    @html_errors
    def history() -> Response:
        user = desk.rater()
        asked = checked(_HistoryIn, {name: text for name, text in request.args.items() if text})
        before = (asked.before, asked.id) if asked.before else None
        wanted = reviewing.own_reviews(
            desk.engine(), reviewer=user.name, words=asked.q, rating=asked.rating, before=before, limit=_PER_PAGE
        )
        older = None
        if wanted.before:
            moment, id = wanted.before
            given = {"q": asked.q or None, "rating": asked.rating}
            older = address("history", **given, before=moment.isoformat(), id=id)
        return desk.page(
            "history.html",
            found=wanted.found,
            asked=asked,
            older=older,
            full=len(wanted.found) == _PER_PAGE,
            home=way_back(),
        )

    @web.get("/review/nobodys-field")
    @html_errors
    def nobodys_field() -> Response:
        desk.guard.signed_in(UserRole.ADMIN)
        return desk.page("nobodys_field.html", found=reviewing.nobodys_field(desk.engine()))
