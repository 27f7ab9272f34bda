"""The guidelines for raters: everybody may read them, an admin may change them."""

from __future__ import annotations

from dataclasses import replace

from flask import Blueprint, Response, request
from werkzeug import Response as BaseResponse

from rlhf_loop import reviewing
from rlhf_loop.domain import UserRole
from rlhf_loop.web.audience import for_people
from rlhf_loop.web.pages.desk import Desk, address, own_lines


def add_guideline_routes(web: Blueprint, desk: Desk) -> None:
    """Give the blueprint the guidelines."""

    @web.get("/review/guidelines")
    @for_people
    def guidelines_page() -> Response:
        user = desk.rater()
        return desk.page(
            "guidelines.html",
            guidelines=reviewing.guidelines(desk.engine()),
            may_edit=user.role is UserRole.ADMIN,
        )

    @web.post("/review/guidelines")
    @for_people
    def guidelines_form() -> BaseResponse:
        user = desk.posting_admin()
        given = [own_lines(request.form.get(f"grade_{grade}")).strip() for grade in range(1, 6)]
        introduction = own_lines(request.form.get("introduction")).strip()
        try:
            reviewing.save_guidelines(
                desk.engine(), introduction=introduction, grades=tuple(given), edited_by=user.name
            )
        except ValueError as error:
            # What was typed stays in the fields.
            typed = replace(reviewing.guidelines(desk.engine()), introduction=introduction, grades=tuple(given))
            return desk.page("guidelines.html", status=422, guidelines=typed, may_edit=True, error=str(error))
        return desk.onward(
            address("guidelines_page"), "Saved. Raters see the new guidelines from their next answer on."
        )
