"""The part of the OpenAPI document that is about `/v1/feedback`."""

from __future__ import annotations

from typing import Any

from rlhf_loop.accounts import tokens
from rlhf_loop.web.api.feedback_schemas import FeedbackIn, FeedbackTakenOut, ToolAsked, ToolRecordIn
from rlhf_loop.web.api.operations import json_body, json_reply, operation, query_parameters
from rlhf_loop.web.api.v1_operations import KEY, LOCATION, REPLAYED, REVIEW, TAG, WORDS, WRITING
from rlhf_loop.web.api.v1_schemas import ReviewOut

REQUESTS = (FeedbackIn, ToolRecordIn)
RESPONSES = (FeedbackTakenOut,)

_QUESTION, _ANSWER = "What helps against a migraine attack?", "Rest in a dark room."
_CHAT = {
    "q": {"id": "q", "parentId": None, "childrenIds": ["a"], "role": "user", "content": _QUESTION},
    "a": {"id": "a", "parentId": "q", "childrenIds": [], "role": "assistant", "content": _ANSWER, "model": "llama3.2"},
}
_RECORDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "langfuse": (
        "Take a score or a trace of Langfuse",
        "As its public API has them. Langfuse calls no webhook for scores, so send here what you send to "
        "`/api/public/scores`; the trace has to be known by its id, or comes along.",
        {"traceId": "t-1", "name": "rating", "value": 1, "dataType": "BOOLEAN", "comment": "Short and right."},
    ),
    "openwebui": (
        "Take a feedback of Open WebUI",
        "As its export has it, with the snapshot of the chat. Open WebUI calls no webhook for ratings.",
        {
            "type": "rating",
            "user_id": "u-7",
            "data": {"rating": 1, "model_id": "llama3.2", "reason": "accurate_information", "comment": ""},
            "meta": {"chat_id": "c-1", "message_id": "a"},
            "snapshot": {"chat": {"id": "c-1", "chat": {"history": {"currentId": "a", "messages": _CHAT}}}},
        },
    ),
    "label-studio": (
        "Take a webhook of Label Studio",
        "Annotations created, updated and deleted; other events change nothing. Enter this address in the project's "
        "settings, with the header `Authorization`, and leave 'Send payload' on.",
        {
            "action": "ANNOTATION_CREATED",
            "annotation": {
                "id": 17,
                "completed_by": 1,
                "result": [{"from_name": "rating", "to_name": "answer", "type": "rating", "value": {"rating": 4}}],
                "was_cancelled": False,
                "task": 3,
            },
            "task": {"id": 3, "data": {"prompt": _QUESTION, "answer": _ANSWER}},
            "project": {"id": 1},
        },
    ),
    "phoenix": (
        "Take an annotation or a span of Arize Phoenix",
        "As its API has them; the span has to be known by its id, or comes along.",
        {
            "context": {"span_id": "67f6740bbe1ddc3f"},
            "attributes": {"input.value": _QUESTION, "output.value": _ANSWER},
            "annotations": [{"name": "rating", "annotator_kind": "HUMAN", "result": {"label": "thumbs-up"}}],
        },
    ),
}
_NEW = "For an answer that is not here yet the token needs the scope `interactions:write`, too."


def paths() -> dict[str, dict[str, Any]]:
    """Return the paths with their operations."""
    review = {"stored": REVIEW}
    found = {
        "/v1/feedback": {
            "post": operation(
                "giveFeedback",
                TAG,
                "Say how good an answer is, be it known here or not; a later word of the same reviewer replaces it",
                {
                    200: json_reply(
                        ReviewOut,
                        "What they said before is replaced, or was the same or newer.",
                        review,
                        headers=REPLAYED,
                    ),
                    201: json_reply(ReviewOut, "It is stored.", review, headers={**LOCATION, **REPLAYED}),
                },
                description=f"The answer is named by its id, or by question and answer, or by both. {_NEW}",
                problems=(*WRITING, 404),
                words=WORDS | {409: "The id is of an answer that says something else, or the request is under way."},
                parameters=[KEY],
                body=json_body(
                    FeedbackIn,
                    {
                        "by id": {"interaction_id": "ticket-4711.1", "thumb": "down", "reviewer": "patient-7"},
                        "with texts": {
                            "prompt": _QUESTION,
                            "response": _ANSWER,
                            "source": "llama3.2",
                            "rating": 4,
                            "comment": "Names no medicine.",
                            "reviewer": "patient-7",
                            "rated_at": "2026-11-23T09:30:00Z",
                        },
                    },
                ),
                scope=tokens.REVIEW,
            )
        }
    }
    return found | {f"/v1/feedback/{tool}": {"post": _tool_operation(tool)} for tool in _RECORDS}


def _tool_operation(tool: str) -> dict[str, Any]:
    summary, description, record = _RECORDS[tool]
    taken = {"tool": tool, "interactions": 0, "reviews": 1, "preferences": 0, "withdrawn": 0}
    return operation(
        f"feedbackOf{tool.title().replace('-', '')}",
        TAG,
        summary,
        {200: json_reply(FeedbackTakenOut, "What became of it.", {"taken": taken}, headers=REPLAYED)},
        description=f"{description} {_NEW} A second time it changes nothing.",
        problems=(*WRITING, 404, 414),
        words=WORDS | {404: "The answer is not here, and does not come along."},
        parameters=[*query_parameters(ToolAsked), KEY],
        body=json_body(ToolRecordIn, {"as it comes": record}),
        scope=tokens.REVIEW,
    )
