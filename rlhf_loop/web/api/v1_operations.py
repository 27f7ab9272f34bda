"""The part of the OpenAPI document that is about `/v1`."""

from __future__ import annotations

from typing import Any

from rlhf_loop.accounts import tokens
from rlhf_loop.store.idempotency import LONGEST_KEY
from rlhf_loop.web.api.operations import json_body, json_reply, operation, query_parameters
from rlhf_loop.web.api.v1_schemas import (
    InteractionBatchIn,
    InteractionFilters,
    InteractionIn,
    InteractionPageOut,
    PreferenceIn,
    PreferenceOut,
    RecordedBatchOut,
    RecordedOut,
    ReviewAsked,
    ReviewedInteractionOut,
    ReviewIn,
    ReviewOut,
    ReviewPageOut,
    ReviewsAsked,
)

REQUESTS = (InteractionIn, InteractionBatchIn, ReviewIn, PreferenceIn)
RESPONSES = (
    RecordedOut,
    RecordedBatchOut,
    InteractionPageOut,
    ReviewedInteractionOut,
    ReviewOut,
    ReviewPageOut,
    PreferenceOut,
)

TAG = "Applications"
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

_READING = (401, 403, 414, 422, 429, 500, 503)
WRITING = (400, 401, 403, 408, 409, 413, 415, 422, 429, 500, 503)
WORDS = {
    400: "The body is not JSON, or the Idempotency-Key is none.",
    403: "The token does not have the scope, or not that for the word of experts: to send it, and to replace or take "
    "back what is stored as an expert's.",
    404: "There is no interaction with that id, or no such review.",
    405: "The id begins with a slash.",
    409: "The id is taken, or the request with this Idempotency-Key is still under way.",
    413: "The body is larger than 1 MiB.",
    422: "A value is missing, empty, too long or of the wrong type; or the Idempotency-Key came with another request.",
    503: "The database does not answer.",
}


def paths() -> dict[str, dict[str, Any]]:
    """Return the paths with their operations."""
    one, many = {"one": _INTERACTION}, {"several": {"interactions": [_INTERACTION]}}
    recorded = json_reply(
        RecordedOut,
        "It is stored.",
        {"one": _RECORDED, "several": {"interactions": [_RECORDED]}},
        others=[RecordedBatchOut],
        headers={**LOCATION, **REPLAYED},
    )
    review = {"stored": REVIEW}
    preference = {
        "stored": {**_PREFERENCE, "reviewer": "app:patient-7", "role": "end_user", "tie": False, "comment": None}
    }
    return {
        "/v1/interactions": {
            "get": operation(
                "listInteractions",
                TAG,
                "List what was offered, newest first",
                {
                    200: json_reply(
                        InteractionPageOut, "A page.", {"last page": {"interactions": [_FOUND], "next": None}}
                    )
                },
                problems=_READING,
                words=WORDS,
                parameters=query_parameters(InteractionFilters),
                scope=tokens.READ,
            ),
            "post": operation(
                "recordInteractions",
                TAG,
                "Record an answer that was given, with a review if there is one; or up to 100, all or none",
                {201: recorded},
                description="With a review the token needs the scope `reviews:write`, too.",
                problems=WRITING,
                words=WORDS,
                parameters=[KEY],
                body=json_body(InteractionIn, {**one, **many}, others=[InteractionBatchIn]),
                scope=tokens.WRITE,
            ),
        },
        "/v1/interactions/{id}": {
            "get": operation(
                "readInteraction",
                TAG,
                "One answer with its consensus and reviews",
                {
                    200: json_reply(
                        ReviewedInteractionOut,
                        "It.",
                        {"reviewed": {"interaction": _FOUND, "reviews": [REVIEW], "next": None}},
                    )
                },
                problems=(*_READING, 404, 405),
                words=WORDS,
                parameters=[_ID],
                scope=tokens.READ,
            )
        },
        "/v1/interactions/{id}/reviews": {
            "get": operation(
                "listReviews",
                TAG,
                "The reviews of an answer, newest first",
                {200: json_reply(ReviewPageOut, "A page.", {"last page": {"reviews": [REVIEW], "next": None}})},
                problems=(*_READING, 404, 405),
                words=WORDS,
                parameters=[_ID, *query_parameters(ReviewsAsked)],
                scope=tokens.READ,
            ),
            "post": operation(
                "review",
                TAG,
                "Say how good an answer is; a second review by the same reviewer replaces the first",
                {
                    200: json_reply(ReviewOut, "The earlier one is replaced.", review, headers=REPLAYED),
                    201: json_reply(ReviewOut, "It is stored.", review, headers={**LOCATION, **REPLAYED}),
                },
                problems=(*WRITING, 404, 405),
                words=WORDS,
                parameters=[_ID, KEY],
                body=json_body(
                    ReviewIn,
                    {
                        "thumb": {"thumb": "down", "reviewer": "patient-7"},
                        "expert": {"rating": 2, "comment": "The dose is missing.", "correction": "Take 400 mg ..."},
                    },
                ),
                scope=tokens.REVIEW,
            ),
            "delete": operation(
                "withdrawReview",
                TAG,
                "Take back a review that was sent with a token of the same user",
                {204: {"description": "It is gone.", "headers": REPLAYED}},
                problems=(*(status for status in WRITING if status not in (408, 413, 415)), 404, 405, 414),
                words=WORDS,
                parameters=[_ID, *query_parameters(ReviewAsked), KEY],
                scope=tokens.REVIEW,
            ),
        },
        "/v1/preferences": {
            "post": operation(
                "prefer",
                TAG,
                "Say which of two answers to one question is better; a second time replaces the first",
                {
                    200: json_reply(PreferenceOut, "The earlier one is replaced.", preference, headers=REPLAYED),
                    201: json_reply(PreferenceOut, "It is stored.", preference, headers=REPLAYED),
                },
                problems=(*WRITING, 404),
                words=WORDS,
                parameters=[KEY],
                body=json_body(PreferenceIn, {"better": _PREFERENCE}),
                scope=tokens.REVIEW,
            )
        },
    }
