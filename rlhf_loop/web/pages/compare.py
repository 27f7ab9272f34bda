"""The comparison screen: two answers to one question beside each other, on sides that are drawn by chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from flask import Blueprint, Response, request
from pydantic import BaseModel, Field
from werkzeug import Response as BaseResponse

from rlhf_loop import reviewing
from rlhf_loop.domain import User
from rlhf_loop.reviewing import MAX_COMMENT, PairAnswer, PairItem, Progress
from rlhf_loop.utils.translation import Message
from rlhf_loop.web.api.answers import checked, json_response, parsed
from rlhf_loop.web.localization import translator
from rlhf_loop.web.pages.desk import ID, Desk, DeskOut, address, own_lines
from rlhf_loop.web.problems import html_errors, refusals

#: The keys, as the help lists them.
KEYS = (
    (("a",), Message("A is better, the left answer (the upper one on a small screen)")),
    (("b",), Message("B is better, the right answer (the lower one on a small screen)")),
    (("t", "="), Message("Both are as good")),
    (("s", "\N{RIGHTWARDS ARROW}"), Message("Skip")),
    (("u",), Message("Undo the last choice or skip")),
    (("c",), Message("Write a comment")),
    (("Esc",), Message("Leave a text field, or close this help")),
    (("?",), Message("Show this help")),
)
_SAID = {"left": Message("A is better."), "right": Message("B is better."), "tie": Message("Both are as good.")}
_NOTHING = Message("There is nothing to undo.")
_PAIR = f"/compare/pairs/<{ID}:first_id>/<{ID}:second_id>"


class ChoiceIn(BaseModel, extra="forbid", strict=True):
    """A choice between two answers as they were shown."""

    better: Literal["left", "right", "tie"]
    left_is_first: bool
    comment: Annotated[str | None, Field(max_length=MAX_COMMENT)] = None


class _FormIn(BaseModel, extra="forbid", strict=True):
    do: Literal["left", "right", "tie", "skip", "undo"]
    first_id: Annotated[int, Field(ge=1, lt=2**63)] = 1
    second_id: Annotated[int, Field(ge=1, lt=2**63)] = 1
    left_is_first: bool = True
    comment: Annotated[str | None, Field(max_length=MAX_COMMENT)] = None


@dataclass(frozen=True, slots=True)
class Screen:
    """The template's values: a pair with its left and its right side, or None where no pair is left."""

    pair: PairItem | None
    sides: Sequence[PairAnswer]
    progress: Progress


def add_routes(web: Blueprint, desk: Desk) -> None:
    """Give the blueprint the screen for pairs, as forms and as calls of its script."""

    @web.get("/compare")
    @html_errors
    def compare() -> Response:
        user = desk.waiting_rater()
        return desk.page("compare.html", keys=KEYS, screen=_screen(desk, user, _next(desk, user)))

    @web.post("/compare")
    @html_errors
    def compare_form() -> BaseResponse:
        user = desk.posting_rater()
        form = checked(_FormIn, {key: text for key, text in request.form.items() if text and key != "form_token"})
        with refusals():
            message = _done(desk, user, form)
        return desk.onward(address("compare"), message)

    @web.get("/compare/next")
    def compare_next() -> Response:
        user = desk.rater()
        return _shown(desk, user, _next(desk, user), Message("Here are the next two."))

    @web.post(f"{_PAIR}/choice")
    def compare_choice(first_id: int, second_id: int) -> Response:
        user, choice = desk.posting_rater(), parsed(ChoiceIn)
        with refusals():
            _prefer(desk, user, first_id, second_id, choice)
        found = _next(desk, user)
        return _shown(desk, user, found, _both(_SAID[choice.better], _what_comes(found)))

    @web.post(f"{_PAIR}/skip")
    def compare_skip(first_id: int, second_id: int) -> Response:
        user = desk.posting_rater()
        with refusals():
            reviewing.skip_pair(desk.engine(), reviewer=user.name, first_id=first_id, second_id=second_id)
        found = _next(desk, user)
        return _shown(desk, user, found, _both(Message("Skipped."), _what_comes(found)))

    @web.post("/compare/undo")
    def compare_undo() -> Response:
        user = desk.posting_rater()
        found = reviewing.undo_pair(desk.engine(), reviewer=user.name, settings=desk.settings)
        if found is None:
            return json_response(DeskOut(message=translator()(_NOTHING)))
        return _shown(desk, user, found, Message("Taken back. The two answers wait for your choice again."))


def _done(desk: Desk, user: User, form: _FormIn) -> str:
    """Do what a form asks for; return what to say of it."""
    if form.do == "undo":
        return (
            Message("Taken back.")
            if reviewing.undo_pair(desk.engine(), reviewer=user.name, settings=desk.settings)
            else _NOTHING
        )
    if form.do == "skip":
        reviewing.skip_pair(desk.engine(), reviewer=user.name, first_id=form.first_id, second_id=form.second_id)
        return Message("Skipped.")
    choice = ChoiceIn(better=form.do, left_is_first=form.left_is_first, comment=form.comment)
    _prefer(desk, user, form.first_id, form.second_id, choice)
    return _SAID[form.do]


def _next(desk: Desk, user: User) -> PairItem | None:
    return reviewing.next_pair(desk.engine(), reviewer=user.name, settings=desk.settings)


def _prefer(desk: Desk, user: User, first_id: int, second_id: int, choice: ChoiceIn) -> None:
    preferred: Literal["first", "second", "tie"] = "tie"
    if choice.better != "tie":
        preferred = "first" if (choice.better == "left") == choice.left_is_first else "second"
    reviewing.prefer(
        desk.engine(),
        reviewer=user.name,
        first_id=first_id,
        second_id=second_id,
        preferred=preferred,
        comment=own_lines(choice.comment).strip() or None,
    )


def _both(said: Message, then: Message) -> Message:
    return Message("{said} {then}", said=said, then=then)


def _what_comes(found: PairItem | None) -> Message:
    return Message("Next pair.") if found else Message("Nothing is left to compare.")


def _shown(desk: Desk, user: User, pair: PairItem | None, message: str) -> Response:
    html = desk.fragment("compare_pair.html", screen=_screen(desk, user, pair))
    return json_response(DeskOut(message=translator()(message), html=html, at=address("compare")))


def _screen(desk: Desk, user: User, pair: PairItem | None) -> Screen:
    sides = () if pair is None else (pair.first, pair.second) if pair.left_is_first else (pair.second, pair.first)
    progress = reviewing.progress(desk.engine(), reviewer=user.name, settings=desk.settings)
    return Screen(pair, sides, progress)
