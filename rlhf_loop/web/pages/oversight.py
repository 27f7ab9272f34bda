"""Oversight of reviewing: corrections, flagged answers, guidelines, and the agreement of raters.

An approved correction is offered as an answer the next time. Everybody may read the guidelines; admins change them.
Agreement is Krippendorff's alpha, with each rater's leaning and drift.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from time import thread_time
from typing import Annotated, Literal

from flask import Blueprint, Response, request
from pydantic import BaseModel, Field, model_validator
from werkzeug import Response as BaseResponse
from werkzeug.datastructures import MultiDict

from rlhf_loop import reviewing
from rlhf_loop.domain import UserRole
from rlhf_loop.reviewing import Agreement, Correction, RaterReport
from rlhf_loop.utils.translation import Message
from rlhf_loop.web.api.answers import checked
from rlhf_loop.web.api.v1_schemas import Moment
from rlhf_loop.web.pages.desk import Desk, address, own_lines
from rlhf_loop.web.pages.diff import Piece, difference
from rlhf_loop.web.problems import html_errors, refusals

State = Literal["pending", "approved", "rejected", "all"]
_STATES: Mapping[State, Message] = {
    "pending": Message("Pending"),
    "approved": Message("Approved"),
    "rejected": Message("Rejected"),
    "all": Message("All"),
}
_PER_PAGE, _RATERS = 20, 50
#: Of processor time, for the differences on one page.
_SECONDS_OF_CHANGES = 1.0
#: From here on agreement is good, and from here on it allows careful conclusions (Krippendorff, Content Analysis,
#: chapter on reliability).
GOOD, FAIR = 0.8, 0.667
#: With fewer answers that several raters saw, alpha says next to nothing.
ENOUGH_ANSWERS = 20
_WIDTH, _HEIGHT, _EDGE = 160.0, 44.0, 5.0


class _PageIn(BaseModel):
    before: int | None = Field(default=None, ge=1, lt=2**63)


class _RatersIn(BaseModel):
    after: Annotated[str, Field(max_length=400)] = ""


class _FilterIn(_PageIn):
    state: State = "pending"


class _DecisionIn(_FilterIn):
    review_id: int = Field(ge=1, lt=2**63)
    decision: Literal["approved", "rejected"]
    correction: str
    edited: str | None = None


class _ChosenIn(_FilterIn):
    """Corrections that were chosen together, by their reviews' ids."""

    id: list[Annotated[int, Field(ge=1, lt=2**63)]] = Field(default=[], max_length=_PER_PAGE)


class _DecideIn(_ChosenIn):
    """A decision on several, with a digest of each text that was seen."""

    seen: list[str]
    decision: Literal["approved", "rejected"]

    @model_validator(mode="after")
    def _is_whole(self) -> _DecideIn:
        if len(self.seen) != len(self.id):
            raise ValueError(f"seen has {len(self.seen)} values, and there are {len(self.id)} corrections")
        return self


class _UndoIn(_FilterIn):
    decided_at: Moment


def add_routes(web: Blueprint, desk: Desk) -> None:
    """Give the blueprint the lists of corrections and of flagged answers, the guidelines, and the page on agreement."""

    @web.get("/review/corrections")
    @html_errors
    def corrections() -> Response:
        desk.guard.signed_in(UserRole.ADMIN)
        return _page(desk, checked(_FilterIn, request.args.to_dict()))

    @web.post("/review/corrections")
    @html_errors
    def corrections_form() -> BaseResponse:
        user = desk.posting_admin()
        sent = checked(_DecisionIn, request.form.to_dict())
        with refusals():
            try:
                reviewing.decide(
                    desk.engine(),
                    sent.review_id,
                    approved=sent.decision == "approved",
                    correction=own_lines(sent.correction),
                    decided_by=user.name,
                    edited=None if sent.edited is None else own_lines(sent.edited),
                )
            except ValueError as error:
                return _page(desk, _FilterIn(state=sent.state), status=409, error=str(error))
        approved, rejected = Message("The correction is approved."), Message("The correction is rejected.")
        return desk.onward(_address(sent), approved if sent.decision == "approved" else rejected)

    @web.get("/review/corrections/chosen")
    @html_errors
    def corrections_chosen() -> BaseResponse:
        desk.guard.signed_in(UserRole.ADMIN)
        wanted = checked(_ChosenIn, _chosen(request.args))
        found = reviewing.corrections(desk.engine(), ids=wanted.id, limit=_PER_PAGE)
        if not found:
            return desk.onward(_address(wanted), Message("Choose some corrections first, by the boxes above them."))
        return desk.page(
            "corrections_chosen.html",
            corrections=found,
            changes_of=_changes(found),
            state=wanted.state,
            before=wanted.before,
            back=_address(wanted),
        )

    @web.post("/review/corrections/chosen")
    @html_errors
    def corrections_chosen_form() -> BaseResponse:
        user = desk.posting_admin()
        sent = checked(_DecideIn, _chosen(request.form))
        seen = dict(zip(sent.id, sent.seen, strict=True))
        approved = sent.decision == "approved"
        with refusals():
            try:
                n = reviewing.decide_all(desk.engine(), seen, approved=approved, decided_by=user.name)
            except ValueError as error:
                return _page(desk, _FilterIn(state=sent.state), status=409, error=str(error))
        said = (
            Message.counted("{n} correction is approved.", "{n} corrections are approved.", n)
            if approved
            else Message.counted("{n} correction is rejected.", "{n} corrections are rejected.", n)
        )
        return desk.onward(_address(sent), said)

    @web.post("/review/corrections/undo")
    @html_errors
    def corrections_undo() -> BaseResponse:
        user = desk.posting_admin()
        sent = checked(_UndoIn, request.form.to_dict())
        with refusals():
            n = reviewing.undo_decisions(desk.engine(), decided_by=user.name, decided_at=sent.decided_at)
        said = Message.counted(
            "{n} decision is taken back. What held before holds again.",
            "{n} decisions are taken back. What held before holds again.",
            n,
        )
        return desk.onward(_address(sent), said)

    @web.get("/review/flagged")
    @html_errors
    def flagged() -> Response:
        desk.guard.signed_in(UserRole.ADMIN)
        before = checked(_PageIn, request.args.to_dict()).before
        found = reviewing.flags(desk.engine(), before=before, limit=_PER_PAGE + 1)
        shown = found[:_PER_PAGE]
        older = shown[-1].review_id if len(found) > _PER_PAGE else None
        return desk.page("flagged.html", flags=shown, before=before, older=older)

    @web.get("/review/guidelines")
    @html_errors
    def guidelines_page() -> Response:
        user = desk.rater()
        return desk.page(
            "guidelines.html", guidelines=reviewing.guidelines(desk.engine()), may_edit=user.role is UserRole.ADMIN
        )

    @web.post("/review/guidelines")
    @html_errors
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
            address("guidelines_page"), Message("Saved. Raters see the new guidelines from their next answer on.")
        )

    @web.get("/review/agreement")
    @html_errors
    def agreement() -> Response:
        user = desk.rater()
        everybody = user.role is UserRole.ADMIN
        after = checked(_RatersIn, request.args.to_dict()).after
        of = None if everybody else user.name
        found = reviewing.agreement(desk.engine(), of=of, after=after, limit=_RATERS)
        return desk.page(
            "agreement.html",
            agreement=found,
            meaning=meaning(found),
            raters=found.raters,
            more=address("agreement", after=found.next) if found.next else None,
            everybody=everybody,
            dots=dots,
            weeks_in_words=weeks_in_words,
        )


def _chosen(given: MultiDict[str, str]) -> dict[str, object]:
    return {**given.to_dict(), **{name: given.getlist(name) for name in ("id", "seen")}}


def _address(of: _FilterIn) -> str:
    return address("corrections", state=of.state, before=of.before)


def _page(desk: Desk, wanted: _FilterIn, *, status: int = 200, error: str | None = None) -> Response:
    user = desk.guard.signed_in(UserRole.ADMIN)
    engine = desk.engine()
    found = reviewing.corrections(
        engine, state=None if wanted.state == "all" else wanted.state, before=wanted.before, limit=_PER_PAGE + 1
    )
    shown = found[:_PER_PAGE]
    return desk.page(
        "corrections.html",
        status=status,
        corrections=shown,
        changes_of=_changes(shown),
        state=wanted.state,
        states=_STATES,
        before=wanted.before,
        older=shown[-1].review_id if len(found) > _PER_PAGE else None,
        last=reviewing.last_decisions(engine, decided_by=user.name),
        error=error,
    )


def _changes(shown: Sequence[Correction]) -> dict[int, list[Piece]]:
    """Return what each correction changes, of as many as there is time for: of some texts it takes long to find."""
    found: dict[int, list[Piece]] = {}
    started = thread_time()
    for each in shown:
        if thread_time() - started < _SECONDS_OF_CHANGES:
            found[each.review_id] = difference(own_lines(each.response), own_lines(each.correction))
    return found


def meaning(found: Agreement) -> str:
    """Say what alpha and its interval mean."""
    if found.alpha is None:
        return Message(
            "No number yet. {reason} A share of the answers is given to several raters for this: go on "
            "reviewing, and it comes by itself.",
            reason=found.reason,
        )
    if found.answers < ENOUGH_ANSWERS:
        return Message.counted(
            "Only {n} answer was graded by two or more experts, so this number can still change a lot. "
            "Wait for {enough} before you conclude anything.",
            "Only {n} answers were graded by two or more experts, so this number can still change a lot. "
            "Wait for {enough} before you conclude anything.",
            found.answers,
            enough=ENOUGH_ANSWERS,
        )
    low = found.alpha if found.interval is None else found.interval.low
    if low >= GOOD:
        return Message("The raters agree well: their grades can be taken as one standard.")
    if found.alpha >= GOOD:
        return Message(
            "The raters seem to agree well, but the interval reaches lower: collect more shared answers to be sure."
        )
    if found.alpha >= FAIR:
        return Message(
            "The raters agree fairly: good enough for careful conclusions. Talk about the answers they differ on."
        )
    return Message(
        "The raters do not agree enough to rely on single grades. Go through the guidelines together, with the answers "
        "they differ on as examples."
    )


@dataclass(frozen=True, slots=True)
class Dot:
    """A week in a rater's small chart."""

    x: float
    y: float


def dots(rater: RaterReport) -> list[Dot]:
    """Return the places of a rater's weeks in their chart: its height is the grades from 1 to 5."""
    first = rater.weeks[0].start if rater.weeks else None
    last = rater.weeks[-1].start if rater.weeks else None
    span = max((last - first).days, 7) if first and last else 7
    return [
        Dot(
            round(_EDGE + (week.start - first).days / span * (_WIDTH - 2 * _EDGE), 1),
            round(_HEIGHT - _EDGE - (week.mean_rating - 1) / 4 * (_HEIGHT - 2 * _EDGE), 1),
        )
        for week in rater.weeks
        if first
    ]


def weeks_in_words(rater: RaterReport) -> str:
    """Say what the chart shows."""
    if not rater.weeks:
        return Message("No weeks yet")
    weeks = (
        Message("{day}: {grade:.1f} ({n})", day=week.start, grade=week.mean_rating, n=week.reviews)
        for week in rater.weeks
    )
    return Message("Mean grade by week, with the number of reviews: {weeks}", weeks=Message.joined(*weeks, by=", "))
