"""The answers that were flagged as harmful, for admins: where they come from, and who said so."""

from __future__ import annotations

from flask import Blueprint, Response, request
from pydantic import BaseModel, ConfigDict, Field

from rlhf_loop import reviewing
from rlhf_loop.domain import UserRole
from rlhf_loop.web.api.answers import checked
from rlhf_loop.web.audience import for_people
from rlhf_loop.web.pages.desk import Desk

_PER_PAGE = 20


class _FlagFilterIn(BaseModel):
    model_config = ConfigDict(title="Filter")

    before: int | None = Field(default=None, ge=1, lt=2**63)


def add_flag_routes(web: Blueprint, desk: Desk) -> None:
    """Give the blueprint the list of flagged answers."""

    @web.get("/review/flagged")
    @for_people
    def flagged() -> Response:
        desk.guard.signed_in(UserRole.ADMIN)
        before = checked(_FlagFilterIn, request.args.to_dict()).before
        found = reviewing.flags(desk.engine(), before=before, limit=_PER_PAGE + 1)
        shown = found[:_PER_PAGE]
        older = shown[-1].review_id if len(found) > _PER_PAGE else None
        return desk.page("flagged.html", flags=shown, before=before, older=older)
