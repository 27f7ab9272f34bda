"""The page a person uses: `/data-html`. It works without JavaScript; a small script makes rating smoother."""

from __future__ import annotations

from flask import Response, render_template, request
from werkzeug.exceptions import HTTPException, UnprocessableEntity

from rlhf_loop.answering import MAX_QUERY_CHARS, AnswerService, end_user_scale
from rlhf_loop.config import Settings
from rlhf_loop.domain import Scale
from rlhf_loop.utils.text import blank, web_address
from rlhf_loop.utils.translation import Message
from rlhf_loop.web import logs
from rlhf_loop.web.api.answers import QUERY, answered, checked, rated, rater, remembered, thanks, whole_body
from rlhf_loop.web.api.openapi import Api, error_pages, form, html, problems
from rlhf_loop.web.guard import FORM_FIELD, Guard
from rlhf_loop.web.localization import translator
from rlhf_loop.web.origins import other_site, refuse_other_sites
from rlhf_loop.web.problems import ErrorFormat, detail, errors_as
from rlhf_loop.web.schemas import AnswerOut, QuestionIn, RatingIn, RatingOut

#: What the five ratings mean, in the words of the buttons.
MEANINGS = {
    1: Message("wrong or useless"),
    2: Message("mostly wrong"),
    3: Message("partly right"),
    4: Message("right, with small gaps"),
    5: Message("exactly right"),
}
#: The same for thumbs.
THUMB_MEANINGS = {"up": Message("helpful"), "down": Message("not helpful")}

#: What the service calls the parts that may not work, in the reader's words.
_PARTS = {
    "model": Message("The ranking"),
    "drafts": Message("Written answers"),
    "recording": Message("Keeping a record"),
    "sources": Message("The search"),
}


def add_routes(api: Api, settings: Settings, service: AnswerService, guard: Guard) -> None:
    """Add the page, and what its forms need without JavaScript.

    Raises:
        ConfigError: there is no such scale for end users.
    """
    scale = end_user_scale(settings)
    # In an experiment nobody may see which order they got, nor rate an answer by its score instead of by what it says.
    scores = not settings.experiment_share

    page = html("The page with the answers.")

    @api.route(
        "GET /data-html",
        "page",
        replies={200: page, **problems(414), **error_pages(422, 429, 500)},
        parameters=[{**QUERY, "required": False}],
    )
    @errors_as(_ERRORS)
    def data_html() -> Response:
        """The page: a box for the question, and its answers."""
        if "query" in request.args and other_site():
            # A link or a picture of another site fills the box; to ask is for who sees it.
            return _page(query=request.args["query"][:MAX_QUERY_CHARS])
        # An empty box is where everybody starts; only what was asked is judged.
        return _asked(service, request.args["query"], scale, scores=scores) if "query" in request.args else _page()

    @api.route(
        "POST /data-html",
        "pageByPost",
        replies={200: page, **error_pages(400, 403, 408, 413, 422, 429, 500)},
        body=form(QuestionIn),
    )
    @errors_as(_ERRORS)
    def data_html_post() -> Response:
        """The page with the answers to a question, from its form."""
        refuse_other_sites()
        whole_body()
        return _asked(service, request.form.get("query", ""), scale, scores=scores)

    @api.route(
        "POST /data-html/ratings",
        "rateByForm",
        replies={
            200: html("Thanks: it is stored."),
            202: html("Thanks: it is kept for later."),
            **error_pages(400, 403, 404, 408, 413, 422, 429, 500, 503),
        },
        body=form(RatingIn, form_token=_FORM_TOKEN),
    )
    @errors_as(_ERRORS)
    def rate_html() -> Response:
        """Rate an answer, from the page's form."""
        refuse_other_sites()
        whole_body()
        # An empty field is what a form sends for nothing.
        given = {name: value for name, value in request.form.items() if value and name != FORM_FIELD}
        rating, by = checked(RatingIn, given), rater(guard)
        result = rated(service, rating, by)
        return remembered(_thanks(result, thanks(rating, stored=result.stored)), by)


def _error_page(error: HTTPException) -> Response:
    """Return an error as the page of answers, with the question still in its box."""
    code = error.code or 500
    # With others the body is unread, and may be unreadable.
    query = request.values.get("query", "") if code in (422, 500) else ""
    return _page(query=query[:MAX_QUERY_CHARS], error=detail(error), status=code)


_ERRORS = ErrorFormat(_error_page, html=True)
_FORM_TOKEN = {"type": "string", "description": "Of the page that has the form; only who is signed in needs it."}


def score_in_words(score: float | None) -> str:
    """Say what a score means."""
    if score is None:
        return translator()(Message("No score."))
    return translator()(Message("An expert would rate this 4 or 5 with {percent} probability.", percent=percent(score)))


def percent(score: float) -> str:
    """Return a probability as a percentage; only what is certain is 0 or 100."""
    if 0 < score < 0.01:
        near = Message("less than 1 %")
    elif 0.99 < score < 1:
        near = Message("more than 99 %")
    else:
        near = Message("{percent:.0f} %", percent=100 * score)
    return translator()(near).replace(" %", "\N{NO-BREAK SPACE}%")


def seconds(milliseconds: float) -> str:
    """Say how long something took."""
    if milliseconds < 100:
        return translator()(Message("less than 0.1 seconds"))
    return translator()(Message("{seconds:.1f} seconds", seconds=milliseconds / 1000))


def _asked(service: AnswerService, query: str, scale: Scale, *, scores: bool) -> Response:
    # A browser sends the line breaks of a text field as two characters, and counts them as one.
    query = query.replace("\r\n", "\n")
    if blank(query):
        raise UnprocessableEntity(Message("The question is blank. Write one into the box."))
    answer = answered(service, checked(QuestionIn, {"query": query}))
    return _page(query=query, answer=answer, scale=scale, scores=scores)


def _page(
    *,
    query: str = "",
    answer: AnswerOut | None = None,
    scale: Scale = Scale.STARS,
    scores: bool = True,
    error: str | None = None,
    status: int = 200,
) -> Response:
    page = render_template(
        "rlhf_loop/data.html",
        query=query,
        answer=answer,
        scale=scale,
        scores=scores,
        error=error,
        status=status,
        request_id=logs.begin(request).id,
        max_query_chars=MAX_QUERY_CHARS,
        **_shared(),
    )
    return Response(page, status=status)


def _thanks(result: RatingOut, message: Message) -> Response:
    page = render_template("rlhf_loop/thanks.html", result=result, message=message, **_shared())
    return Response(page, status=200 if result.stored else 202)


def _shared() -> dict[str, object]:
    return {
        "meanings": MEANINGS,
        "thumb_meanings": THUMB_MEANINGS,
        "parts": _PARTS,
        "percent": percent,
        "score_in_words": score_in_words,
        "seconds": seconds,
        "web_address": web_address,
    }
