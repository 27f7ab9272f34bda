"""The review screen: one answer at a time, as forms without JavaScript and, with it, as calls that bring the next one.

Both kinds of views do the same; those for scripts return the part of the page that changes, made by the same template.
Drafts keep what a rater has typed and not graded yet, also beside a review that another window has changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated, Literal

from flask import Blueprint, Response, request
from pydantic import BaseModel, Field
from werkzeug.exceptions import Conflict, UnprocessableEntity

from rlhf_loop import reviewing
from rlhf_loop.config import Settings
from rlhf_loop.domain import Review, ReviewerRole, User
from rlhf_loop.errors import ReviewChangedError
from rlhf_loop.reviewing import MAX_COMMENT, MAX_CORRECTION, Guidelines, OtherAnswer, Progress, ReviewItem, SeenReview
from rlhf_loop.utils.text import visible
from rlhf_loop.utils.translation import Message
from rlhf_loop.web import logs
from rlhf_loop.web.api.answers import checked, json_response, parsed
from rlhf_loop.web.guard import Guard
from rlhf_loop.web.localization import translator
from rlhf_loop.web.origins import local_path
from rlhf_loop.web.pages import browse, compare, history, oversight
from rlhf_loop.web.pages.desk import ID, Desk, DeskOut, address, own_lines
from rlhf_loop.web.pages.diff import Piece, difference
from rlhf_loop.web.problems import html_errors, refusals
from rlhf_loop.web.process import Database


class ReviewIn(BaseModel, extra="forbid", strict=True):
    """A rater's review of an answer; `rating` is missing in a draft.

    `seen` is the time of the rater's review that the screen showed, empty for none. Without `bring` the response brings
    no further answer: the screen has fetched it ahead.
    """

    rating: Annotated[int | None, Field(ge=1, le=5)] = None
    comment: Annotated[str | None, Field(max_length=MAX_COMMENT)] = None
    correction: Annotated[str | None, Field(max_length=MAX_CORRECTION)] = None
    harmful: bool = False
    seen: Annotated[str | None, Field(max_length=40)] = None
    bring: bool = True


class SkipIn(BaseModel, extra="forbid", strict=True):
    """A skip by script; `bring` as in `ReviewIn`."""

    not_my_field: bool = False
    bring: bool = True


def keep(desk: Desk, user: User, interaction_key: int, sent: ReviewIn) -> None:
    """Save a draft; who writes one is still at work, and so the answer stays theirs."""
    engine = desk.engine()
    item = reviewing.item(engine, interaction_key, reviewer=user.name)
    if not reviewing.is_seen(item.review, seen(sent)):
        keep_beside(desk, user, interaction_key, sent)
        return
    reviewing.save_draft(engine, interaction_key, reviewer=user.name, review=_typed(item, sent))
    reviewing.renew(engine, interaction_key, reviewer=user.name, settings=desk.settings)


def keep_beside(desk: Desk, user: User, interaction_key: int, sent: ReviewIn) -> None:
    """Save what was typed where the review was not seen; where nothing was, it is as the review says, or the draft."""
    engine = desk.engine()
    item = reviewing.item(engine, interaction_key, reviewer=user.name)
    there, typed = item.review or item.draft or Review(), _typed(item, sent)
    draft = replace(
        there,
        comment=typed.comment or there.comment,
        correction=typed.correction or there.correction,
        harmful=typed.harmful or there.harmful,
    )
    # An empty draft is none: the review speaks for itself.
    draft = Review() if draft == item.review else draft
    reviewing.save_draft(engine, interaction_key, reviewer=user.name, review=draft)
    reviewing.renew(engine, interaction_key, reviewer=user.name, settings=desk.settings)


def seen(sent: ReviewIn) -> datetime | Literal[SeenReview.UNKNOWN] | None:
    """Return the time of the review that the screen showed, None where it showed none.

    Raises:
        UnprocessableEntity: it is not a time.
    """
    if sent.seen is None:
        return SeenReview.UNKNOWN
    try:
        return datetime.fromisoformat(sent.seen) if sent.seen else None
    except ValueError as error:
        raise UnprocessableEntity(
            f"seen is {sent.seen!r}, not the time of a review. Reload the page, and grade again."
        ) from error


def base(item: ReviewItem) -> str:
    """Return what the server has of the rater's, by time: the draft, else the review; empty for nothing."""
    if item.draft:
        return _iso(item.draft)
    return _iso(item.review) if item.review else ""


def _iso(review: Review) -> str:
    return review.reviewed_at.isoformat() if review.reviewed_at else ""


def _typed(item: ReviewItem, sent: ReviewIn) -> Review:
    """Return the review that the fields of the screen make."""
    return Review(
        rating=sent.rating,
        comment=own_lines(sent.comment).strip() or None,
        correction=corrected(item, sent),
        harmful=sent.harmful,
    )


def corrected(item: ReviewItem, sent: ReviewIn) -> str | None:
    """Return the correction; the field begins as the answer, and an answer left as it is corrects nothing."""
    correction = own_lines(sent.correction).strip()
    return correction if visible(correction) not in ("", visible(item.response)) else None


#: Why an answer came, for the help; beside the answer it would sway the rater.
REASONS = {
    "uncertain": Message("The live model is unsure of this answer."),
    "disagreement": Message("Raters disagree on this answer."),
    "close": Message("The two best answers to this question are close together."),
    "overlap": Message("Several raters get this answer, to see whether they agree."),
    "recent": Message("It is one of the newest answers."),
    "random": Message("It was drawn at random."),
}
#: The keys, as the help lists them.
KEYS = (
    (("1", "2", "3", "4", "5"), Message("Grade the answer and go on")),
    (("c",), Message("Write a comment")),
    (("e",), Message("Correct the answer")),
    (("f",), Message("Flag it as harmful, or take the flag back")),
    (("\N{LEFTWARDS ARROW}",), Message("Go back to the answer before")),
    (("\N{RIGHTWARDS ARROW}",), Message("Skip; when you look back: the answer after it")),
    (("n",), Message("Skip it as not your field: questions like it come last")),
    (("u",), Message("Undo the last grade or skip")),
    (("Ctrl Enter", "\N{PLACE OF INTEREST SIGN} Enter"), Message("Submit and go on, also while you type")),
    (("Esc",), Message("Leave a text field, or close this help")),
    (("?",), Message("Show this help")),
)
_NOTHING = Message("There is nothing to undo.")
_NONE_BEFORE = Message("There is no answer before this one.")


class FormIn(ReviewIn):
    """A review as a form sends it, with the action; after a grade it goes on to the page `home`, if there is one."""

    interaction_key: Annotated[int | None, Field(ge=1, lt=2**63, alias="interaction_id")] = None
    do: Annotated[str, Field(pattern="^(rate|skip|field|undo|previous|following|keep)$")] = "rate"
    home: str = ""


class DraftOut(BaseModel):
    """The state of a draft that was saved; see `base`."""

    message: str
    base: str


class DifferenceIn(BaseModel, extra="forbid", strict=True):
    """Two texts to compare."""

    before: str
    after: str


class DifferenceOut(BaseModel):
    """The pieces that lead from one text to the other."""

    pieces: list[Piece]


class SessionOut(BaseModel):
    """The user who is signed in, and the token that their forms have to send."""

    name: str
    form_token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Screen:
    """The template's values: an answer, or None where none is left, and the contents of the fields.

    `back` says that the rater looks at an answer that was reviewed or skipped, `first_use` that there was none before.
    `base` tells what the server has of the rater's: what a browser keeps of an answer goes with the base it had. `home`
    is the address of the page that led here, to which a grade leads back.
    """

    item: ReviewItem | None
    back: bool
    reason: str
    progress: Progress
    guidelines: Guidelines
    first_use: bool
    rating: int | None
    comment: str
    correction: str
    harmful: bool
    changes: Sequence[Piece]
    base: str
    others: Sequence[OtherAnswer]
    home: str


def add_routes(
    web: Blueprint, settings: Settings, database: Database, guard: Guard, scoring: reviewing.Scoring
) -> None:
    """Give the blueprint the raters' screens."""
    desk = Desk(settings, database, guard, scoring)
    oversight.add_routes(web, desk)
    compare.add_routes(web, desk)
    history.add_routes(web, desk)
    browse.add_routes(web, desk)
    _add_pages(web, desk)
    _add_calls(web, desk)


def _add_pages(web: Blueprint, desk: Desk) -> None:
    @web.get("/review")
    @html_errors
    def review() -> Response:
        user = desk.waiting_rater()
        return _page(desk, user, _next(desk, user))

    @web.get(f"/review/items/<{ID}:interaction_key>")
    @html_errors
    def review_item(interaction_key: int) -> Response:
        user = desk.rater()
        home = local_path(request.args.get("home", "")) or ""
        with refusals():
            return _page(desk, user, reviewing.item(desk.engine(), interaction_key, reviewer=user.name), home=home)

    @web.post("/review")
    @html_errors
    def review_form() -> Response:
        user = desk.posting_rater()
        form = checked(
            FormIn, {key: text for key, text in request.form.items() if (text or key == "seen") and key != "form_token"}
        )
        with refusals():
            return _done(desk, user, form)


def _add_calls(web: Blueprint, desk: Desk) -> None:
    @web.get("/review/session")
    def review_session() -> Response:
        return json_response(SessionOut(name=desk.rater().name, form_token=desk.guard.form_token()))

    @web.get("/review/next")
    def review_next() -> Response:
        user = desk.rater()
        return _shown(desk, user, _next(desk, user), Message("Here is the next answer."))

    @web.get(f"/review/items/<{ID}:interaction_key>/ahead")
    def review_ahead(interaction_key: int) -> Response:
        user = desk.rater()
        with refusals():
            found = _next(desk, user, ahead_of=interaction_key)
        if found is None:
            return json_response(DeskOut(message=translator()(_what_comes(found))))
        return _shown(desk, user, found, _what_comes(found), ahead=True)

    @web.get("/review/newest", endpoint="review_newest")
    @web.get(f"/review/items/<{ID}:interaction_key>/previous")
    def review_previous(interaction_key: int | None = None) -> Response:
        user = desk.rater()
        with refusals():
            found = reviewing.previous_item(desk.engine(), interaction_key, reviewer=user.name)
        if found is None:
            return json_response(DeskOut(message=translator()(_NONE_BEFORE)))
        return _shown(desk, user, found, Message("The answer before."))

    @web.get(f"/review/items/<{ID}:interaction_key>/now")
    def review_now(interaction_key: int) -> Response:
        user = desk.rater()
        with refusals():
            return _shown(
                desk, user, reviewing.item(desk.engine(), interaction_key, reviewer=user.name), Message("As it is now.")
            )

    @web.get(f"/review/items/<{ID}:interaction_key>/following")
    def review_following(interaction_key: int) -> Response:
        user = desk.rater()
        with refusals():
            return _shown(desk, user, _after(desk, user, interaction_key), Message("The answer after it."))

    @web.post(f"/review/items/<{ID}:interaction_key>/rate")
    def review_rate(interaction_key: int) -> Response:
        user, sent = desk.posting_rater(), parsed(ReviewIn)
        said = Message("Rated {grade}.", grade=sent.rating)
        with refusals():
            item = _rate(desk, user, interaction_key, sent)
            if not sent.bring:
                return _stored(desk, user, said)
            found = _onward(desk, user, item)
        return _shown(desk, user, found, _both(said, _what_comes(found)))

    @web.post(f"/review/items/<{ID}:interaction_key>/skip")
    def review_skip(interaction_key: int) -> Response:
        user, sent = desk.posting_rater(), parsed(SkipIn)
        with refusals():
            reviewing.skip(desk.engine(), interaction_key, reviewer=user.name, not_my_field=sent.not_my_field)
        if not sent.bring:
            return _stored(desk, user, Message("Skipped."))
        found = _next(desk, user)
        return _shown(desk, user, found, _both(Message("Skipped."), _what_comes(found)))

    @web.post(f"/review/items/<{ID}:interaction_key>/draft")
    def review_draft(interaction_key: int) -> Response:
        user, sent = desk.posting_rater(), parsed(ReviewIn)
        with refusals():
            keep(desk, user, interaction_key, sent)
            item = reviewing.item(desk.engine(), interaction_key, reviewer=user.name)
        return json_response(DraftOut(message=translator()(Message("The draft is saved.")), base=base(item)))

    @web.post("/review/undo")
    def review_undo() -> Response:
        user = desk.posting_rater()
        found = reviewing.undo(desk.engine(), reviewer=user.name, settings=desk.settings)
        if found is None:
            return json_response(DeskOut(message=translator()(_NOTHING)))
        return _shown(desk, user, found, Message("Taken back. The answer waits for its grade again."))

    @web.post("/review/difference")
    def review_difference() -> Response:
        desk.posting_rater()
        texts = parsed(DifferenceIn)
        pieces = difference(own_lines(texts.before), own_lines(texts.after))
        return json_response(DifferenceOut(pieces=pieces))


def _done(desk: Desk, user: User, form: FormIn) -> Response:
    """Do what a form asks for, and lead to the answer to show then."""
    engine, id = desk.engine(), form.interaction_key
    if form.do == "undo":
        undone = reviewing.undo(engine, reviewer=user.name, settings=desk.settings)
        return desk.onward(_address(undone), Message("Taken back.") if undone else _NOTHING)
    if form.do == "rate" and id is not None:
        try:
            found = _onward(desk, user, _rate(desk, user, id, form))
        except Conflict as error:
            here = address("review_item", interaction_key=id, home=form.home or None)
            return desk.onward(here, str(error.description))
        said = Message("Rated {grade}.", grade=form.rating)
        if home := local_path(form.home):
            return desk.onward(home, said)
        return desk.onward(_address(found), _both(said, _what_comes(found)))
    if id is not None:
        keep(desk, user, id, form)
    if form.do in ("skip", "field") and id is not None:
        reviewing.skip(engine, id, reviewer=user.name, not_my_field=form.do == "field")
        return desk.onward(address("review"), Message("Skipped."))
    if form.do == "following" and id is not None:
        return desk.onward(_address(_after(desk, user, id)), Message("The answer after it."))
    if form.do == "previous":
        before = reviewing.previous_item(engine, id, reviewer=user.name)
        here = address("review") if id is None else address("review_item", interaction_key=id)
        return desk.onward(
            _address(before) if before else here, Message("The answer before.") if before else _NONE_BEFORE
        )
    return desk.onward(address("review"), Message("The draft is saved."))


def _next(desk: Desk, user: User, *, ahead_of: int | None = None) -> ReviewItem | None:
    engine = desk.engine()
    found = reviewing.next_item(
        engine, reviewer=user.name, settings=desk.settings, ahead_of=ahead_of, out_of_field=desk.scoring.out_of_field
    )
    # For the ones after it: nobody waits for a score.
    desk.scoring.poke(engine)
    return found


def _after(desk: Desk, user: User, interaction_key: int) -> ReviewItem | None:
    """Return what follows on an answer that somebody looks back at; in the end, the one that waits for its grade."""
    found = reviewing.following_item(desk.engine(), interaction_key, reviewer=user.name)
    return _next(desk, user) if found is None or found.state == "open" else found


def _rate(desk: Desk, user: User, interaction_key: int, sent: ReviewIn) -> ReviewItem:
    """Store the review; return the answer as it was before."""
    if sent.rating is None:
        raise UnprocessableEntity(Message("The grade is missing. Choose one from 1 to 5."))
    engine = desk.engine()
    item = reviewing.item(engine, interaction_key, reviewer=user.name)
    try:
        reviewing.submit(engine, interaction_key, reviewer=user.name, review=_typed(item, sent), seen=seen(sent))
    except ReviewChangedError as error:
        keep_beside(desk, user, interaction_key, sent)
        raise Conflict(str(error)) from error
    logs.begin(request).ratings.append(ReviewerRole.EXPERT)
    return item


def _onward(desk: Desk, user: User, rated: ReviewItem) -> ReviewItem | None:
    return _next(desk, user) if rated.state == "open" else _after(desk, user, rated.interaction_key)


def _address(found: ReviewItem | None) -> str:
    # A reload of /review leads to what waits.
    if found is None or found.state == "open":
        return address("review")
    return address("review_item", interaction_key=found.interaction_key)


def _both(said: Message, then: str) -> Message:
    return Message("{said} {then}", said=said, then=then)


def _what_comes(found: ReviewItem | None) -> str:
    if found is None:
        return Message("Nothing is left to review.")
    return Message("Next answer.") if found.state == "open" else Message("The answer after it.")


def _shown(desk: Desk, user: User, item: ReviewItem | None, message: str, *, ahead: bool = False) -> Response:
    html = desk.fragment("review_item.html", screen=_screen(desk, user, item, ahead=ahead))
    return json_response(DeskOut(message=translator()(message), html=html, at=_address(item)))


def _stored(desk: Desk, user: User, message: str) -> Response:
    found = reviewing.progress(desk.engine(), reviewer=user.name, settings=desk.settings)
    return json_response(
        DeskOut(message=translator()(message), progress=desk.macro("review_parts.html", "bars", found))
    )


def _page(desk: Desk, user: User, item: ReviewItem | None, *, home: str = "") -> Response:
    lease_s = 60 * desk.settings.review_lease_minutes
    return desk.page("review.html", keys=KEYS, lease_s=lease_s, screen=_screen(desk, user, item, home=home))


def _screen(desk: Desk, user: User, item: ReviewItem | None, *, ahead: bool = False, home: str = "") -> Screen:
    engine = desk.engine()
    progress = reviewing.progress(engine, reviewer=user.name, settings=desk.settings)
    written = ((item.draft or item.review) if item else None) or Review()
    correction = written.correction
    return Screen(
        item=item,
        back=item is not None and item.state != "open",
        reason=translator()(Message("Why this answer: {reason}", reason=REASONS.get(item.why, item.why)))
        if item and item.why
        else "",
        progress=progress,
        guidelines=reviewing.guidelines(engine),
        # What is fetched ahead comes after a grade or a skip.
        first_use=not (ahead or progress.today) and reviewing.previous_item(engine, None, reviewer=user.name) is None,
        rating=written.rating,
        comment=written.comment or "",
        correction=correction or (item.response if item else ""),
        harmful=written.harmful,
        changes=difference(own_lines(item.response), own_lines(correction)) if item and correction else [],
        base=base(item) if item else "",
        others=reviewing.other_answers(engine, item.interaction_key) if item else (),
        home=home,
    )
