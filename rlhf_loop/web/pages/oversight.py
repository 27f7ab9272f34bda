"""The corrections that wait for an admin: what is approved here is offered as an answer the next time."""

from __future__ import annotations

from typing import Literal

from flask import Blueprint, Response, request
from pydantic import BaseModel, ConfigDict, Field
from werkzeug import Response as BaseResponse

from rlhf_loop import reviewing
from rlhf_loop.domain import UserRole
from rlhf_loop.web.api.answers import checked
from rlhf_loop.web.audience import for_people
from rlhf_loop.web.pages.desk import Desk, address, own_lines, said
from rlhf_loop.web.pages.diff import difference

State = Literal["pending", "approved", "rejected", "all"]
STATES: tuple[State, ...] = ("pending", "approved", "rejected", "all")
_PER_PAGE = 20


class _FilterIn(BaseModel):
    model_config = ConfigDict(title="Filter")

    state: State = "pending"
    before: int | None = Field(default=None, ge=1, lt=2**63)


class _DecisionIn(BaseModel):
    model_config = ConfigDict(title="Decision")

    review_id: int = Field(ge=1, lt=2**63)
    decision: Literal["approved", "rejected"]
    correction: str
    state: State = "pending"


def add_correction_routes(web: Blueprint, desk: Desk) -> None:
    """Give the blueprint the list of corrections."""

    @web.get("/review/corrections")
    @for_people
    def corrections() -> Response:
        desk.guard.signed_in(UserRole.ADMIN)
        return _page(desk, checked(_FilterIn, request.args.to_dict()))

    @web.post("/review/corrections")
    @for_people
    def corrections_form() -> BaseResponse:
        user = desk.posting_admin()
        sent = checked(_DecisionIn, request.form.to_dict())
        with said():
            try:
                reviewing.decide(
                    desk.engine(),
                    sent.review_id,
                    approved=sent.decision == "approved",
                    correction=own_lines(sent.correction),
                    decided_by=user.name,
                )
            except ValueError as error:
                return _page(desk, _FilterIn(state=sent.state), status=409, error=str(error))
        return desk.onward(address("corrections", state=sent.state), f"The correction is {sent.decision}.")


def _page(desk: Desk, wanted: _FilterIn, *, status: int = 200, error: str | None = None) -> Response:
    found = reviewing.corrections(
        desk.engine(), state=None if wanted.state == "all" else wanted.state, before=wanted.before, limit=_PER_PAGE + 1
    )
    shown = found[:_PER_PAGE]
    return desk.page(
        "corrections.html",
        status=status,
        corrections=shown,
        changes_of={each.review_id: difference(own_lines(each.response), own_lines(each.correction)) for each in shown},
        state=wanted.state,
        states=STATES,
        before=wanted.before,
        older=shown[-1].review_id if len(found) > _PER_PAGE else None,
        error=error,
    )
