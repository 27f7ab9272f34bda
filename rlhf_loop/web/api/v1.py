"""The API for applications: `/v1/interactions`, reviews and preferences, by token."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from uuid import uuid4

from flask import Response, request, url_for
from sqlalchemy.engine import Connection
from werkzeug.exceptions import Conflict, NotFound, UnprocessableEntity

from rlhf_loop.accounts import tokens
from rlhf_loop.domain import ReviewerRole, User
from rlhf_loop.store import audit, interactions, queries
from rlhf_loop.store.idempotency import LONGEST_KEY, StoredAnswer
from rlhf_loop.store.interactions import put_interactions, put_preference, put_review, withdraw_review
from rlhf_loop.store.queries import find_review, interaction_key
from rlhf_loop.store.rankings import caller_of
from rlhf_loop.utils.text import unstorable
from rlhf_loop.web import logs
from rlhf_loop.web.api.answers import json_response, parsed, whole_body
from rlhf_loop.web.api.applications import (
    Speaker,
    is_own,
    protect_expert,
    protect_ranking,
    read_address,
    read_body,
    read_more,
    resolve_author,
    stored_name,
    written,
)
from rlhf_loop.web.api.openapi import Api, json_body, json_reply, problems
from rlhf_loop.web.api.v1_schemas import (
    InteractionBatchIn,
    InteractionFilters,
    InteractionIn,
    InteractionOut,
    InteractionPageOut,
    NoParameters,
    PreferenceIn,
    PreferenceOut,
    RecordedBatchOut,
    RecordedOut,
    ReviewedInteractionOut,
    ReviewIn,
    ReviewListParameters,
    ReviewOut,
    ReviewPageOut,
    ReviewParameters,
)
from rlhf_loop.web.guard import Guard
from rlhf_loop.web.problems import refusals
from rlhf_loop.web.process import Database
from rlhf_loop.web.schemas import shortened

_EXAMPLE_ID = "ticket-4711.1"
_INTERACTION = {
    "id": _EXAMPLE_ID,
    "prompt": "What helps against a migraine attack?",
    "response": "Rest in a dark room, drink water, and take the painkiller early.",
    "source": "our-chatbot",
    "candidate_group": "ticket-4711",
    "shown_rank": 1,
    "review": {"thumb": "up", "reviewer": "patient-7"},
}
_RECORDED = {"id": _EXAMPLE_ID, "rating": None, "end_user_rating": 5}
REVIEW = {
    "interaction_id": _EXAMPLE_ID,
    "reviewer": "app:patient-7",
    "role": "end_user",
    "rating": 5,
    "comment": None,
    "correction": None,
    "harmful": False,
    "reviewed_at": "2026-11-23T09:30:00Z",
}
_FOUND = {
    **{name: value for name, value in _INTERACTION.items() if name != "review"},
    "title": None,
    "url": None,
    "licence": None,
    "retrieved_at": None,
    "drafted_by": None,
    "score": None,
    "model_version": None,
    "created_at": "2026-11-23T09:29:12Z",
    "rating": None,
    "rated_at": None,
    "end_user_rating": 5,
    "harmful": False,
    "expert_reviews": 0,
    "end_user_reviews": 1,
}
_PREFERENCE = {"chosen_id": _EXAMPLE_ID, "rejected_id": "ticket-4711.2", "reviewer": "patient-7"}
_PREFERRED = {**_PREFERENCE, "reviewer": "app:patient-7", "role": "end_user", "tie": False, "comment": None}

_ID = {
    "name": "id",
    "in": "path",
    "required": True,
    "description": "The interaction's id, percent-encoded. Ids that were imported from files may hold any sign; those "
    "with a slash at the start or `/reviews` at the end are only to be found in the list.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 200},
    "example": _EXAMPLE_ID,
}
KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "A name of yours for this request, such as a UUID; in quotes, as a structured field, or bare. Sent "
    "again with the same key within 24 hours, the request is not done again: the first answer comes again, with "
    "`Idempotency-Replayed: true`. Answers that are errors are not kept.",
    "schema": {"type": "string", "minLength": 1, "maxLength": LONGEST_KEY + 2, "pattern": "^[!#-+.-~][!-+.-~]*$"},
    "example": "8e03978e-40d5-43e8-bc93-6f91d2e8a4c1",
}
REPLAYED = {
    "Idempotency-Replayed": {
        "description": "`true`: this was the answer to an earlier request with the same key.",
        "schema": {"type": "string"},
    }
}
LOCATION = {"Location": {"description": "Where it is to be found.", "schema": {"type": "string"}}}

_WORDS = {
    400: "The body is not JSON, or the Idempotency-Key is not valid.",
    403: "The token does not have the scope, or not that for the reviews of experts: to send them, and to replace or "
    "take back what is stored as an expert's.",
    404: "There is no interaction with that id, or no review by that reviewer.",
    405: "The id begins with a slash.",
    409: "The id is taken, or the request with this Idempotency-Key is still under way.",
    413: "The body is larger than 1 MiB.",
    422: "A value is missing, empty, too long or of the wrong type; or the Idempotency-Key came with another request.",
    503: "The database does not answer.",
}
_READ_ERRORS = problems(401, 403, 414, 422, 429, 500, 503, words=_WORDS)
WRITE_ERRORS = problems(400, 401, 403, 408, 409, 413, 415, 422, 429, 500, 503, words=_WORDS)
ID_ERRORS = problems(404, 405, words=_WORDS)


def add_routes(api: Api, database: Database, guard: Guard) -> None:
    """Add the routes of interactions, reviews and preferences."""

    @api.route(
        "POST /v1/interactions",
        "recordInteractions",
        replies={
            201: json_reply(
                "It is stored.",
                RecordedOut,
                RecordedBatchOut,
                examples={"one": _RECORDED, "several": {"interactions": [_RECORDED]}},
                headers={**LOCATION, **REPLAYED},
            ),
            **WRITE_ERRORS,
        },
        parameters=[KEY],
        body=json_body(
            InteractionIn,
            InteractionBatchIn,
            examples={"one": _INTERACTION, "several": {"interactions": [_INTERACTION]}},
        ),
        scope=tokens.WRITE,
    )
    def v1_record() -> Response:
        """Record an answer that was given, with a review if there is one; or up to 100, all or none.

        With a review the token needs the scope `reviews:write`, too.
        """
        user = guard.bearer(tokens.WRITE)
        read_address(NoParameters)
        given = _interactions()
        batch = given.interactions if isinstance(given, InteractionBatchIn) else [given]
        speakers = [_speaker(guard, user, item.review) if item.review else None for item in batch]
        if any(speakers):
            guard.bearer(tokens.REVIEW)

        def record(connection: Connection) -> StoredAnswer:
            found = _stored(connection, user, batch, speakers)
            if isinstance(given, InteractionBatchIn):
                return StoredAnswer(201, RecordedBatchOut(interactions=found).model_dump_json())
            return StoredAnswer(201, found[0].model_dump_json(), url_for(".v1_interaction", id=found[0].id))

        return written(database.engine(), user, given.model_dump_json(), record)

    @api.route(
        "GET /v1/interactions",
        "listInteractions",
        replies={
            200: json_reply(
                "A page.", InteractionPageOut, examples={"last page": {"interactions": [_FOUND], "next": None}}
            ),
            **_READ_ERRORS,
        },
        parameters=[InteractionFilters],
        scope=tokens.READ,
    )
    def v1_interactions() -> Response:
        """List what was offered, newest first."""
        guard.bearer(tokens.READ)
        asked = read_address(InteractionFilters)
        with refusals():
            page = queries.interactions(database.engine(), asked.filters(), limit=asked.limit, cursor=asked.cursor)
        return json_response(InteractionPageOut.of(page))

    @api.route(
        "GET /v1/interactions/<path:id>",
        "readInteraction",
        replies={
            200: json_reply(
                "It.",
                ReviewedInteractionOut,
                examples={"reviewed": {"interaction": _FOUND, "reviews": [REVIEW], "next": None}},
            ),
            **_READ_ERRORS,
            **ID_ERRORS,
        },
        parameters=[_ID],
        scope=tokens.READ,
    )
    def v1_interaction(id: str) -> Response:
        """One answer with its consensus and reviews."""
        guard.bearer(tokens.READ)
        read_address(NoParameters)
        with refusals():
            entry, page = queries.interaction(database.engine(), _storable(id))
        reviews = [ReviewOut.of(id, review) for review in page.reviews]
        return json_response(
            ReviewedInteractionOut(interaction=InteractionOut.of(entry), reviews=reviews, next=page.next)
        )

    @api.route(
        "GET /v1/interactions/<path:id>/reviews",
        "listReviews",
        replies={
            200: json_reply("A page.", ReviewPageOut, examples={"last page": {"reviews": [REVIEW], "next": None}}),
            **_READ_ERRORS,
            **ID_ERRORS,
        },
        parameters=[_ID, ReviewListParameters],
        scope=tokens.READ,
    )
    def v1_reviews(id: str) -> Response:
        """The reviews of an answer, newest first."""
        guard.bearer(tokens.READ)
        asked = read_address(ReviewListParameters)
        with refusals():
            page = queries.reviews(database.engine(), _storable(id), limit=asked.limit, cursor=asked.cursor)
        return json_response(ReviewPageOut.of(id, page))

    @api.route(
        "POST /v1/interactions/<path:id>/reviews",
        "review",
        replies={
            200: json_reply("The earlier one is replaced.", ReviewOut, examples={"stored": REVIEW}, headers=REPLAYED),
            201: json_reply("It is stored.", ReviewOut, examples={"stored": REVIEW}, headers={**LOCATION, **REPLAYED}),
            **WRITE_ERRORS,
            **ID_ERRORS,
        },
        parameters=[_ID, KEY],
        body=json_body(
            ReviewIn,
            examples={
                "thumb": {"thumb": "down", "reviewer": "patient-7"},
                "expert": {"rating": 2, "comment": "The dose is missing.", "correction": "Take 400 mg ..."},
            },
        ),
        scope=tokens.REVIEW,
    )
    def v1_review(id: str) -> Response:
        """Say how good an answer is; a second review by the same reviewer replaces the first."""
        user = guard.bearer(tokens.REVIEW)
        read_address(NoParameters)
        given = read_body(ReviewIn)
        speaker = _speaker(guard, user, given)

        def review(connection: Connection) -> StoredAnswer:
            key = _interaction_key(connection, id)
            protect_ranking(guard, user, caller_of(connection, key))
            stored = interactions.stored_role(connection, key, speaker.name)
            protect_expert(guard, stored, speaker.name, own=is_own(user, given.reviewer))
            new = _put(connection, key, given, speaker)
            body = stored_review(connection, key, id, speaker.name).model_dump_json()
            return StoredAnswer(201, body, url_for(".v1_reviews", id=id)) if new else StoredAnswer(200, body)

        return written(database.engine(), user, given.model_dump_json(), review)

    @api.route(
        "DELETE /v1/interactions/<path:id>/reviews",
        "withdrawReview",
        replies={
            204: json_reply("It is gone.", headers=REPLAYED),
            **_READ_ERRORS,
            **ID_ERRORS,
            **problems(400, 409, words=_WORDS),
        },
        parameters=[_ID, ReviewParameters, KEY],
        scope=tokens.REVIEW,
    )
    def v1_withdraw(id: str) -> Response:
        """Take back a review that was sent with a token of the same user."""
        user = guard.bearer(tokens.REVIEW)
        asked = read_address(ReviewParameters)

        def withdraw(connection: Connection) -> StoredAnswer:
            key, reviewer = _interaction_key(connection, id), stored_name(user, asked.reviewer)
            try:
                stored = interactions.stored_role(connection, key, reviewer)
                protect_expert(guard, stored, reviewer, own=is_own(user, asked.reviewer))
                withdraw_review(connection, key, reviewer=reviewer)
            except LookupError as error:
                raise NotFound(f"There is no review of {shortened(id)!r} by {reviewer!r}. Nothing was done.") from error
            return StoredAnswer(204, "")

        return written(database.engine(), user, asked.model_dump_json(), withdraw)

    @api.route(
        "POST /v1/preferences",
        "prefer",
        replies={
            200: json_reply(
                "The earlier one is replaced.", PreferenceOut, examples={"stored": _PREFERRED}, headers=REPLAYED
            ),
            201: json_reply("It is stored.", PreferenceOut, examples={"stored": _PREFERRED}, headers=REPLAYED),
            **WRITE_ERRORS,
            404: ID_ERRORS[404],
        },
        parameters=[KEY],
        body=json_body(PreferenceIn, examples={"better": _PREFERENCE}),
        scope=tokens.REVIEW,
    )
    def v1_prefer() -> Response:
        """Say which of two answers to one question is better; a second time replaces the first."""
        user = guard.bearer(tokens.REVIEW)
        read_address(NoParameters)
        given = read_body(PreferenceIn)
        speaker = _speaker(guard, user, given)

        def prefer(connection: Connection) -> StoredAnswer:
            chosen = _interaction_key(connection, given.chosen_id)
            rejected = _interaction_key(connection, given.rejected_id)
            for key in (chosen, rejected):
                protect_ranking(guard, user, caller_of(connection, key))
            stored = interactions.stored_preference_role(connection, chosen, rejected, speaker.name)
            protect_expert(guard, stored, speaker.name, own=is_own(user, given.reviewer))
            with refusals():
                new = put_preference(
                    connection,
                    chosen,
                    rejected,
                    reviewer=speaker.name,
                    role=speaker.role,
                    tie=given.tie,
                    comment=given.comment,
                )
            said = {"reviewer": speaker.name, "role": speaker.role.value, "comment": given.comment or None}
            body = PreferenceOut(**given.model_dump() | said)
            return StoredAnswer(201 if new else 200, body.model_dump_json())

        return written(database.engine(), user, given.model_dump_json(), prefer)


def _interactions() -> InteractionIn | InteractionBatchIn:
    """Read one interaction or several: whoever sends the field `interactions` means several."""
    read_more()
    try:
        several = "interactions" in json.loads(whole_body())
    except (ValueError, TypeError, RecursionError):
        # No JSON, or no object: then `parsed` says so.
        several = False
    return parsed(InteractionBatchIn) if several else parsed(InteractionIn)


def _speaker(guard: Guard, user: User, given: ReviewIn | PreferenceIn) -> Speaker:
    return resolve_author(guard, user, reviewer=given.reviewer, role=given.role)


def _stored(
    connection: Connection, user: User, batch: Sequence[InteractionIn], speakers: Sequence[Speaker | None]
) -> list[RecordedOut]:
    named = Counter(item.id for item in batch if item.id)
    if doubled := sorted(id for id, times in named.items() if times > 1):
        raise UnprocessableEntity(f"The id {doubled[0]!r} is there more than once. Give each interaction its own.")
    if taken := queries.known(connection, list(named)):
        raise Conflict(
            f"There is an interaction with the id {min(taken)!r} already, so nothing was stored. Review that one, or "
            "send another id, or none."
        )
    names = [item.id or uuid4().hex for item in batch]
    ratings = [replace(item.rating(), external_id=name) for item, name in zip(batch, names, strict=True)]
    try:
        keys = put_interactions(connection, ratings)
    except ValueError as error:
        # All else was looked at before.
        raise Conflict("Somebody else has just taken one of these ids, so nothing was stored. Try again.") from error
    audit.note(connection, user.name, "interactions.added", f"interaction:{keys[0]}", {"count": len(keys)})
    for key, item, speaker in zip(keys, batch, speakers, strict=True):
        if item.review and speaker:
            _put(connection, key, item.review, speaker)
    return [_recorded(*each) for each in zip(names, batch, speakers, strict=True)]


def _recorded(id: str, item: InteractionIn, speaker: Speaker | None) -> RecordedOut:
    # The consensus of one is what that one says.
    rating = item.review.stars if item.review else None
    role = speaker.role if speaker else None
    return RecordedOut(
        id=id,
        rating=rating if role is ReviewerRole.EXPERT else None,
        end_user_rating=rating if role is ReviewerRole.END_USER else None,
    )


def _put(connection: Connection, key: int, given: ReviewIn, speaker: Speaker) -> bool:
    logs.begin(request).ratings.append(speaker.role)
    return put_review(connection, key, given.review(reviewer=speaker.name, role=speaker.role))


def stored_review(connection: Connection, key: int, id: str, reviewer: str) -> ReviewOut:
    """Return the review that the reviewer has just given.

    Raises:
        LookupError: there is none.
    """
    review = find_review(connection, key, reviewer=reviewer)
    if review is None:
        raise LookupError(f"There is no review of {id!r} by {reviewer!r}.")
    return ReviewOut.of(id, review)


def _interaction_key(connection: Connection, id: str) -> int:
    with refusals():
        return interaction_key(connection, _storable(id))


def _storable(id: str) -> str:
    if unstorable(id):
        raise NotFound(queries.unknown(id))
    return id
