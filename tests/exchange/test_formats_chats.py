"""Each record is what the tool's own code writes, by the files that the module's docstring names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rating_files import counts, reasons, write_csv, write_jsonl
from sqlalchemy import Engine, text

from rlhf_loop.exchange.formats.base import Labels
from rlhf_loop.exchange.transfer import import_ratings

QUESTION, ANSWER = "What helps against hiccups?", "Hold your breath for a moment."
LONG = "Drink a glass of water, slowly. " * 40
#: The columns of `FeedbackService._export_csv`, in their order.
DIFY_COLUMNS = (
    *("feedback_id", "app_name", "app_id", "conversation_id", "conversation_name", "message_id", "user_query"),
    *("ai_response", "feedback_rating", "feedback_rating_raw", "feedback_comment", "feedback_source", "feedback_date"),
    *("message_date", "from_account_name", "from_end_user_id", "has_comment"),
)
#: As `update_message_feedback` leaves a session; question and answer have one id, and the greeting has none.
RAGFLOW = {
    "chat_id": "2ca4",
    "id": "578d",
    "create_time": 1728636403974,
    "user_id": "u-3",
    "reference": [],
    "messages": [
        {"content": "Hi! I am your assistant, can I help you?", "role": "assistant"},
        {"content": QUESTION, "role": "user", "id": "m-1"},
        {"content": f"<think>Easy.</think>{ANSWER} [ID:0]", "role": "assistant", "id": "m-1", "thumbup": True},
        {"content": "And if it does not?", "role": "user", "id": "m-2"},
        {"content": "Wait.", "role": "assistant", "id": "m-2", "thumbup": False, "feedback": "Too short."},
    ],
}


def dify_feedback(**more: Any) -> dict[str, Any]:
    """Return a record of `FeedbackService.export_feedbacks`."""
    return (
        dict.fromkeys(DIFY_COLUMNS, "")
        | {
            "feedback_id": "f-1",
            "message_id": "m-1",
            "user_query": QUESTION,
            "ai_response": ANSWER,
            "feedback_rating": "👍",
            "feedback_rating_raw": "like",
            "feedback_comment": "Short.",
            "feedback_source": "user",
            "feedback_date": "2026-01-31 09:30:00",
            "message_date": "2026-01-31 09:29:00",
            "from_end_user_id": "u-7",
            "has_comment": "Yes",
        }
        | more
    )


def dify_message(**more: Any) -> dict[str, Any]:
    """Return a message of `MessageListApi`."""
    message = {"id": "m-1", "conversation_id": "c-1", "inputs": {}, "query": QUESTION, "answer": ANSWER}
    return message | {"feedback": None, "created_at": 1769851740} | more


def said(id: str, parent: str | None, words: str, **more: Any) -> dict[str, Any]:
    """Return a message of LibreChat; only those of the user have no model."""
    of_user = "model" not in more
    return {
        "messageId": id,
        "conversationId": "c-1",
        "parentMessageId": parent or "00000000-0000-0000-0000-000000000000",
        "isCreatedByUser": of_user,
        "text": words,
        "createdAt": "2026-01-31T09:29:00.000Z",
        "updatedAt": "2026-01-31T09:30:00.000Z",
        "user": "u-9",
    } | more


_UP = {"rating": "thumbsUp", "tag": {"key": "accurate_reliable", "label": "..."}, "text": "It worked."}
_MESSAGES = (
    said("q", None, QUESTION),
    said("a", "q", "", model="gpt-4o", content=[{"type": "text", "text": {"value": ANSWER}}], feedback=_UP),
    said("b", "q", "Sugar.", model="llama3"),
)
LIBRECHAT = {"conversationId": "c-1", "endpoint": "openAI", "title": "Hiccups", "messages": list(_MESSAGES)}


def stored(engine: Engine) -> list[tuple[Any, ...]]:
    """Return question, answer, reviewer, role, rating and comment of each review, in order."""
    wanted = (
        "SELECT i.user_prompt, i.ai_response, r.reviewer, r.role, r.rating, r.comment FROM rlhf_interactions i "
        "JOIN rlhf_reviews r ON r.interaction_id = i.id ORDER BY r.id"
    )
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(wanted))]


def as_json(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


@pytest.mark.parametrize("form", ["csv", "json"])
def test_difys_export_says_who_gave_which_thumb(engine: Engine, tmp_path: Path, form: str) -> None:
    """A like is a 5 and a dislike a 1; a second time changes nothing."""
    records = [
        dify_feedback(),
        dify_feedback(
            message_id="m-2",
            ai_response="Sugar.",
            feedback_rating="👎",
            feedback_rating_raw="dislike",
            feedback_comment="",
            from_end_user_id="",
            from_account_name="Ann",
            feedback_source="admin",
        ),
    ]
    path = tmp_path / f"dify.{form}"
    if form == "csv":
        write_csv(path, [DIFY_COLUMNS, *(list(record.values()) for record in records)])
    else:
        as_json(path, {"export_info": {"app_id": "a", "data_source": "dify_feedback_export"}, "feedback_data": records})
    import_ratings(engine, path, format="dify")
    assert stored(engine) == [
        (QUESTION, ANSWER, "dify:u-7", "end_user", 5, "Short."),
        (QUESTION, "Sugar.", "dify:Ann", "end_user", 1, None),
    ]
    again = import_ratings(engine, path, format="dify")
    assert (again.added, again.updated) == (0, 0)


def test_an_answer_that_dify_cut_is_found_by_its_id(engine: Engine, tmp_path: Path) -> None:
    """Its export has 500 characters and three dots, which nobody ever answered."""
    path = as_json(tmp_path / "cut.json", {"feedback_data": [dify_feedback(ai_response=LONG[:500] + "...")]})
    assert "m-1" in reasons(engine, path, format="dify")[1]
    messages = as_json(
        tmp_path / "messages.json", {"limit": 20, "has_more": False, "data": [dify_message(answer=LONG)]}
    )
    import_ratings(engine, messages, format="dify")
    import_ratings(engine, path, format="dify")
    assert stored(engine) == [(QUESTION, LONG, "dify:u-7", "end_user", 5, "Short.")]


def test_difys_feedback_names_a_message_and_takes_back(engine: Engine, tmp_path: Path) -> None:
    """`/v1/app/feedbacks` has no texts; the rating null, as its API takes it, revokes."""
    feedback = {"message_id": "m-1", "rating": "dislike", "content": "Wrong.", "from_source": "user"}
    feedback |= {"from_end_user_id": "u-7", "created_at": "2026-01-31T09:30:00", "updated_at": "2026-01-31T09:31:00"}
    path = write_jsonl(tmp_path / "both.jsonl", [dify_message(), feedback])
    import_ratings(engine, path, format="dify")
    assert stored(engine) == [(QUESTION, ANSWER, "dify:u-7", "end_user", 1, "Wrong.")]
    revoked = {"message_id": "m-1", "rating": None, "user": "u-7", "updated_at": "2026-01-31T09:35:00"}
    import_ratings(engine, write_jsonl(tmp_path / "none.jsonl", [revoked]), format="dify")
    assert stored(engine) == []


def test_ragflows_session_has_thumbs_beside_its_messages(engine: Engine, tmp_path: Path) -> None:
    """The greeting is no part of a question, and what its pages show as icons none of an answer."""
    path = as_json(tmp_path / "sessions.json", {"code": 0, "data": [RAGFLOW]})
    import_ratings(engine, path, format="ragflow")
    question = f"user: {QUESTION}\n\nassistant: {ANSWER}\n\nuser: And if it does not?"
    assert stored(engine) == [
        (QUESTION, ANSWER, "ragflow:u-3", "end_user", 5, None),
        (question, "Wait.", "ragflow:u-3", "end_user", 1, "Too short."),
    ]
    database = as_json(tmp_path / "row.json", [{**RAGFLOW, "message": RAGFLOW["messages"], "messages": None}])
    assert import_ratings(engine, database, format="ragflow").added == 0


@pytest.mark.parametrize("form", ["flat", "tree", "messagesTree", "lines"])
def test_librechats_messages_in_each_form(engine: Engine, tmp_path: Path, form: str) -> None:
    """As its export has them, or its database in lines; the other answer becomes a candidate of the same group."""
    question, *answers = _MESSAGES
    tree = [{**question, "children": [{**answer, "children": []} for answer in answers]}]
    path = tmp_path / "chat.json"
    if form == "lines":
        times = {"updatedAt": {"$date": "2026-01-31T09:30:00Z"}, "createdAt": {"$date": "2026-01-31T09:29:00Z"}}
        path = write_jsonl(tmp_path / "chat.jsonl", [message | times for message in reversed(_MESSAGES)])
    else:
        forms = {"flat": LIBRECHAT, "tree": LIBRECHAT | {"messages": tree}}
        as_json(path, forms.get(form, {"conversationId": "c-1", "messagesTree": tree}))
    report = import_ratings(engine, path, format="librechat", labels=Labels(good=4))
    assert stored(engine) == [(QUESTION, ANSWER, "librechat:u-9", "end_user", 4, "accurate_reliable: It worked.")]
    with engine.connect() as connection:
        groups = connection.execute(text("SELECT candidate_group, source FROM rlhf_interactions ORDER BY source")).all()
    assert groups == [("librechat:c-1:q", "gpt-4o"), ("librechat:c-1:q", "llama3")]
    assert counts(report)[0] == 2


def test_a_deep_tree_of_librechats_is_read(engine: Engine, tmp_path: Path) -> None:
    """Deeper than calls can be."""
    tree: dict[str, Any] = {}
    for number in range(45, -1, -1):
        model = {"model": "m"} if number % 2 else {}
        parent = f"m{number - 1}" if number else None
        feedback = {"feedback": _UP} if number == 45 else {}
        tree = said(f"m{number}", parent, f"w{number}", **model, **feedback, children=[tree] if tree else [])
    import_ratings(engine, as_json(tmp_path / "deep.json", {"messagesTree": [tree]}), format="librechat")
    assert len(stored(engine)) == 1


@pytest.mark.parametrize(
    ("format", "record", "reason"),
    [
        ("dify", dify_feedback(feedback_rating_raw="love"), "rating is 'love'"),
        ("dify", dify_feedback(message_id=""), "message_id is missing"),
        (
            "librechat",
            LIBRECHAT | {"messages": [said("a", None, "x", model="m", feedback={"rating": 1})]},
            "feedback.rat",
        ),
        ("dify", dify_message(feedback="like"), "feedback is 'like'"),
        ("librechat", {"messageId": "a", "feedback": "up"}, "feedback is 'up'"),
        ("librechat", {"messageId": "a", "feedback": {"thumb": "up"}}, "feedback.rating is 'None'"),
        ("librechat", LIBRECHAT | {"messages": [said("a", None, "x", feedback=True)]}, "feedback is 'True'"),
        ("ragflow", {"messages": [{"role": "user"}, {"role": "assistant", "thumbup": 0}]}, "thumbup is '0'"),
        ("ragflow", {"message_id": "a", "thumbup": "up"}, "thumbup is 'up'"),
        ("openwebui", {"history": {"messages": {"a": {"role": "assistant", "annotation": 1}}}}, "annotation is '1'"),
        ("openwebui", {"type": "rating", "data": "up", "snapshot": {"chat": 1}, "meta": {}}, "data is 'up'"),
    ],
)
def test_what_cannot_be_read_is_named(
    engine: Engine, tmp_path: Path, format: str, record: dict[str, Any], reason: str
) -> None:
    """With the value, by the record's number."""
    assert reason in reasons(engine, write_jsonl(tmp_path / "bad.jsonl", [record]), format=format)[1]
