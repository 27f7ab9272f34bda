from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rating_files import counts, reasons, write_jsonl
from sqlalchemy import Engine, text

from rlhf_loop.domain import ReviewerRole
from rlhf_loop.errors import ImportFileError
from rlhf_loop.exchange.formats.base import Labels, NumberScale
from rlhf_loop.exchange.formats.openwebui import reply
from rlhf_loop.exchange.transfer import import_ratings
from rlhf_loop.store.engine import transaction

QUESTION = "Was hilft gegen Migräne? 🤕"


def message(id: str, role: str, content: Any, parent: str | None, **more: Any) -> dict[str, Any]:
    """Return a message as the documentation of the chats' JSON has it."""
    children: list[str] = []
    return {"id": id, "parentId": parent, "childrenIds": children, "role": role, "content": content} | more


def chat(*messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return a chat as its API, the snapshots and the exports give it."""
    history = {"currentId": messages[-1]["id"], "messages": {each["id"]: each for each in messages}}
    return {
        "id": "c1",
        "user_id": "u-1",
        "title": "Migräne",
        "chat": {"title": "Migräne", "models": ["llama3.2"], "history": history, "messages": list(messages)},
        "updated_at": 1769851800,
        "created_at": 1769851700,
        "share_id": None,
        "archived": False,
        "pinned": False,
        "meta": {"tags": ["health"]},
        "folder_id": None,
    } | more


def two_answers(**more: Any) -> tuple[dict[str, Any], ...]:
    """Return a question with the answers of two models side by side."""
    return (
        message("q", "user", QUESTION, None, timestamp=1769851740, models=["llama3.2", "qwen3"]),
        message("a", "assistant", "Ruhe.", "q", model="llama3.2", done=True, timestamp=1769851745, **more),
        message("b", "assistant", "Kaffee.", "q", model="qwen3", done=True, timestamp=1769851745),
    )


def feedback(*messages: dict[str, Any], data: Any = None, meta: Any = None, **more: Any) -> dict[str, Any]:
    """Return a feedback as Admin Panel > Evaluations > Feedbacks > Export as JSON writes it."""
    return {
        "id": "f1",
        "user_id": "u-1",
        "version": 0,
        "type": "rating",
        "data": {
            "rating": 1,
            "model_id": "llama3.2",
            "sibling_model_ids": ["qwen3"],
            "reason": "accurate_information",
            "comment": "Kurz und gut.",
            "tags": ["health"],
            "details": {"rating": 9},
        }
        | (data or {}),
        "meta": {
            "arena": False,
            "model_id": "llama3.2",
            "message_id": "a",
            "message_index": 2,
            "chat_id": "c1",
            "base_models": {"llama3.2": None},
        }
        | (meta or {}),
        "snapshot": {"chat": chat(*(messages or two_answers()))},
        "created_at": 1769851760,
        "updated_at": 1769851800,
    } | more


def written(tmp_path: Path, *records: Any) -> Path:
    path = tmp_path / "feedback-history-export-1769851800000.json"
    path.write_text(json.dumps(list(records), ensure_ascii=False), encoding="utf-8")
    return path


def stored(engine: Engine) -> list[tuple[Any, ...]]:
    """Return each answer with who rated it, and how."""
    wanted = """
        SELECT i.ai_response, i.source, i.candidate_group, r.reviewer, r.rating, r.comment, r.correction, r.role
        FROM rlhf_interactions i LEFT JOIN rlhf_reviews r ON r.interaction_id = i.id ORDER BY i.id, r.id
    """
    with transaction(engine) as connection:
        return [tuple(row) for row in connection.execute(text(wanted))]


def test_a_feedback_becomes_a_review_and_its_siblings_candidates(engine: Engine, tmp_path: Path) -> None:
    """The user is an end user by number, the model the source; twice changes nothing."""
    path = written(tmp_path, feedback())
    assert counts(import_ratings(engine, path, format="openwebui")) == (2, 2, 0, 0, 0)
    assert stored(engine) == [
        (
            "Ruhe.",
            "llama3.2",
            "openwebui:c1:q",
            "openwebui:u-1",
            5,
            "accurate_information: Kurz und gut.",
            None,
            "end_user",
        ),
        ("Kaffee.", "qwen3", "openwebui:c1:q", None, None, None, None, None),
    ]
    assert counts(import_ratings(engine, path, format="openwebui")) == (2, 0, 0, 2, 0)
    with transaction(engine) as connection:
        wrote = connection.execute(text("SELECT drafted_by FROM rlhf_interactions ORDER BY id")).scalars()
        assert list(wrote) == ["llama3.2", "qwen3"]
        row = connection.execute(text("SELECT user_prompt FROM rlhf_interactions ORDER BY id")).first()
        times = connection.execute(text("SELECT reviewed_at FROM rlhf_reviews")).scalar()
    assert row == (QUESTION,)
    assert str(times).startswith("2026-01-31 09:30:00")


def test_who_changes_a_thumb_replaces_it(engine: Engine, tmp_path: Path) -> None:
    """A later export has the same feedback anew; the sibling that was rated meanwhile keeps its place."""
    import_ratings(engine, written(tmp_path, feedback()), format="openwebui")
    later = feedback(
        data={"rating": -1, "details": {"rating": 2}, "reason": "other", "comment": ""}, updated_at=1769860000
    )
    other = feedback(id="f2", data={"model_id": "qwen3"}, meta={"message_id": "b"})
    report = import_ratings(engine, written(tmp_path, other, later), format="openwebui")
    assert (report.added, report.updated) == (1, 1)
    assert [(row[0], row[4], row[5]) for row in stored(engine)] == [
        ("Ruhe.", 1, "other"),
        ("Kaffee.", 5, "accurate_information: Kurz und gut."),
    ]


@pytest.mark.parametrize("rating", [0, None])
def test_a_thumb_that_was_taken_away(engine: Engine, tmp_path: Path, rating: int | None) -> None:
    """A newer feedback without it takes the rating back; an older one, or one without a time, is counted; another
    one's does nothing."""
    import_ratings(engine, written(tmp_path, feedback()), format="openwebui")
    gone = feedback(data={"rating": rating, "details": {}})
    counted = ("what was said otherwise since (1)",)
    for kept, ignored in (
        (gone | {"updated_at": 1769851799}, counted),
        (gone | {"updated_at": None, "created_at": None}, counted),
        (gone | {"user_id": "u-2"}, ()),
    ):
        report = import_ratings(engine, written(tmp_path, kept), format="openwebui")
        assert (report.withdrawn, report.ignored) == (0, ignored)
    report = import_ratings(engine, written(tmp_path, gone | {"updated_at": 1769860000}), format="openwebui")
    assert (report.updated, report.withdrawn, report.ignored) == (1, 1, ())
    assert [row[4] for row in stored(engine)] == [None, None]
    again = feedback(data={"rating": -1, "details": {}}, updated_at=1769860001, user_id=None)
    assert import_ratings(engine, written(tmp_path, again), format="openwebui").added == 1
    nobodys = gone | {"updated_at": 1769860002, "user_id": None}
    assert import_ratings(engine, written(tmp_path, nobodys), format="openwebui").withdrawn == 0
    in_a_chat = chat(*two_answers(annotation={"rating": 0}))
    report = import_ratings(engine, written(tmp_path, in_a_chat), format="openwebui")
    assert report.ignored == ("thumbs that were taken back, of which only the feedback tells when (1)",)


@pytest.mark.parametrize(
    ("data", "labels", "rating"),
    [
        ({}, Labels(), 5),
        ({"details": {"rating": 10}}, Labels(), 5),
        ({"details": {"rating": 6}}, Labels(), 4),
        ({"rating": -1, "details": {"rating": 5}}, Labels(), 3),
        ({"rating": -1, "details": {"rating": 10}}, Labels(), 3),
        ({"rating": -1, "details": {"rating": 1}}, Labels(), 1),
        ({"rating": -1, "details": None}, Labels(), 1),
        ({"rating": "1", "details": {}}, Labels(), 5),
        ({"rating": 1, "details": {"rating": None}}, Labels(good=4), 4),
        ({"rating": -1, "details": {"rating": 5}}, Labels(thumbs=True, bad=2), 2),
        ({"rating": 0, "details": {}}, Labels(), None),
        ({"rating": None, "details": {"rating": 3}}, Labels(), 2),
        ({"rating": None, "details": None}, Labels(), None),
        ({"rating": 1, "details": {"rating": 4}}, Labels(scale=NumberScale(1, 5)), 4),
    ],
)
def test_thumbs_and_numbers(
    sqlite_engine: Engine, tmp_path: Path, data: dict[str, Any], labels: Labels, rating: int | None
) -> None:
    """From 1 to 10 becomes 1 to 5, but never across the thumb; without a number the thumb counts."""
    import_ratings(sqlite_engine, written(tmp_path, feedback(data=data)), format="openwebui", labels=labels)
    assert stored(sqlite_engine)[0][4] == rating


def test_whose_word_it_is(sqlite_engine: Engine, tmp_path: Path) -> None:
    """Experts' where somebody says so; without a user the name that was given."""
    path = written(tmp_path, feedback(user_id=None))
    import_ratings(sqlite_engine, path, format="openwebui", role=ReviewerRole.EXPERT, reviewer="dr.ann")
    assert stored(sqlite_engine)[0][3:8] == ("dr.ann", 5, "accurate_information: Kurz und gut.", None, "expert")


def test_a_question_has_what_was_said_before(sqlite_engine: Engine, tmp_path: Path) -> None:
    """Of several turns each has its speaker, other branches are not among them, and thoughts stay out."""
    thought = (
        '<details type="reasoning" done="true" duration="3">\n<summary>Thought</summary>\n> Hm.\n</details>\nRuhe.'
    )
    turns = (
        message("q1", "user", QUESTION, None),
        message("a1", "assistant", thought, "q1", done=True),
        message("a1b", "assistant", "Anders.", "q1", done=True),
        message("q2", "user", "Und bei Kindern?", "a1"),
        message("a2", "assistant", thought.replace("Ruhe.", "Weniger."), "q2", model="m", done=True),
    )
    import_ratings(sqlite_engine, written(tmp_path, feedback(*turns, meta={"message_id": "a2"})), format="openwebui")
    with transaction(sqlite_engine) as connection:
        row = connection.execute(text("SELECT user_prompt, ai_response FROM rlhf_interactions")).one()
    assert tuple(row) == (f"user: {QUESTION}\n\nassistant: Ruhe.\n\nuser: Und bei Kindern?", "Weniger.")


@pytest.mark.parametrize(
    ("before", "after", "kept"),
    [
        ("Ruhe.", "Ruhe im Dunkeln, und viel trinken.", ("Ruhe.", "Ruhe im Dunkeln, und viel trinken.")),
        ("Ruhe.", "Ruhe.\n\n---\nSources: [1]", ("Ruhe.\n\n---\nSources: [1]", None)),
        (None, "Ruhe.", ("Ruhe.", None)),
        ("", "Ruhe.", ("Ruhe.", None)),
    ],
)
def test_an_edited_answer_is_a_correction(
    sqlite_engine: Engine, tmp_path: Path, before: str | None, after: str, kept: tuple[str, str | None]
) -> None:
    """What filters of the server put around an answer is none."""
    question, answer, _ = two_answers(originalContent=before)
    import_ratings(
        sqlite_engine, written(tmp_path, feedback(question, {**answer, "content": after})), format="openwebui"
    )
    [row] = stored(sqlite_engine)
    assert (row[0], row[6]) == kept


def test_siblings_that_were_never_offered_stay_out(sqlite_engine: Engine, tmp_path: Path) -> None:
    """One that broke off, failed or has nothing but thoughts; the same text again is the same answer."""
    others = [
        message("c", "assistant", "Hal", "q", done=False),
        message("d", "assistant", "", "q", done=True),
        message("e", "assistant", "x", "q", error={"content": "boom"}),
        message("f", "assistant", '<details type="reasoning" done="true">...</details>', "q", done=True),
        message("g", "assistant", "Ruhe.", "q", done=True, model="llama3.2"),
    ]
    report = import_ratings(sqlite_engine, written(tmp_path, feedback(*two_answers(), *others)), format="openwebui")
    assert (report.rows, [row[0] for row in stored(sqlite_engine)]) == (2, ["Ruhe.", "Kaffee."])


def test_chats_bring_what_was_rated_in_them(engine: Engine, tmp_path: Path) -> None:
    """With the other answers; a copy that was edited has the thumb of its model only for show; other chats stay out."""
    annotation = {
        "rating": -1,
        "reason": "not_factually_correct",
        "comment": None,
        "tags": [],
        "details": {"rating": 3},
    }
    copy = message("k", "assistant", "Ruhe und Wasser.", "q", model="llama3.2", annotation=annotation, feedbackId="f1")
    rated = chat(*two_answers(annotation=annotation, feedbackId="f1"), copy)
    unrated = chat(message("x", "user", "Hallo", None), message("y", "assistant", "Hi", "x"), id="c2")
    # The legacy form: the object is the chat's inside.
    legacy = {"title": "T", "models": ["m"], "history": chat(*two_answers(annotation={"rating": 1}))["chat"]["history"]}
    path = write_jsonl(tmp_path / "all-chats-export.jsonl", [rated, unrated, legacy])
    assert counts(import_ratings(engine, path, format="openwebui")) == (5, 5, 0, 0, 0)
    assert [(row[0], row[2], row[3], row[4], row[5]) for row in stored(engine)] == [
        ("Ruhe.", "openwebui:c1:q", "openwebui:u-1", 2, "not_factually_correct"),
        ("Kaffee.", "openwebui:c1:q", None, None, None),
        ("Ruhe und Wasser.", "openwebui:c1:q", None, None, None),
        ("Ruhe.", "openwebui:q", "anonymous", 5, None),
        ("Kaffee.", "openwebui:q", None, None, None),
    ]
    assert counts(import_ratings(engine, path, format="openwebui")) == (5, 0, 0, 5, 0)


def test_a_snapshot_with_a_plain_list_of_messages(sqlite_engine: Engine, tmp_path: Path) -> None:
    """Older ones have no tree; then each message answers the one before."""
    listed = [{"id": "q", "role": "user", "content": "Why?"}, {"id": "a", "role": "assistant", "content": "So."}]
    path = written(tmp_path, feedback(snapshot={"chat": {"chat": {"messages": listed}}}))
    import_ratings(sqlite_engine, path, format="openwebui")
    assert [row[:3] for row in stored(sqlite_engine)] == [("So.", "llama3.2", "openwebui:c1:q")]


def test_bad_feedback_is_all_named_by_number(engine: Engine, tmp_path: Path) -> None:
    """Each is judged alone; nothing is stored."""
    records = [
        feedback(),
        feedback(snapshot=None),
        feedback(meta={"message_id": None}),
        feedback(meta={"message_id": "z"}),
        feedback(data={"rating": 7}),
        feedback(data={"details": {"rating": 11}}),
        feedback(data={"details": {"rating": "nine"}}),
        "rubbish",
    ]
    found = reasons(engine, written(tmp_path, *records), format="openwebui")
    assert list(found) == list(range(2, 9))
    for number, words in {
        2: "snapshot is missing",
        3: "meta.message_id is missing",
        4: "the message 'z' is not among the 3 of its snapshot",
        5: "rating is '7', and thumbs are 1 or -1",
        6: "details.rating is 11, not on the scale from 1 to 10",
        7: "details.rating is 'nine'",
        8: "not a JSON object",
    }.items():
        assert words in found[number]


def test_what_has_no_text_does_not_stop_the_rest(engine: Engine, tmp_path: Path) -> None:
    """Who rates an answer that failed, or one to a picture, says nothing to learn from; the report counts them."""
    question, answer, _ = two_answers()
    picture = [{"type": "image_url", "image_url": {"url": "data:"}}]
    records = [
        feedback(question, {**answer, "content": "", "error": {"content": "It is busy."}}),
        feedback(question, {**answer, "content": "  "}),
        feedback({**answer, "parentId": None}),
        feedback({**question, "content": picture}, answer),
        {"id": "f1", "rating": 1},
        feedback(),
    ]
    report = import_ratings(engine, written(tmp_path, *records), format="openwebui")
    assert (report.rows, report.added, report.invalid_count) == (2, 2, 0)
    assert report.ignored == (
        "rated answers without a text (2)",
        "rated answers to a question without a text (2)",
        "records of another kind (1)",
    )


@pytest.mark.slow
def test_nobody_rates_a_thousand_answers_in_one_chat(sqlite_engine: Engine, tmp_path: Path) -> None:
    """Each would have the chat before it as its question, so that a small file would fill a disk."""
    messages: list[dict[str, Any]] = []
    for number in range(1001):
        messages.append({"id": f"q{number}", "role": "user", "content": "?", "parentId": f"a{number - 1}"})
        rated = {"annotation": {"rating": 1}, "content": str(number), "parentId": f"q{number}"}
        messages.append({"id": f"a{number}", "role": "assistant", **rated})
    messages[0]["parentId"] = None
    chat = {"id": "c", "chat": {"history": {"messages": {message["id"]: message for message in messages}}}}
    found = reasons(sqlite_engine, written(tmp_path, chat), format="openwebui")
    assert "more than 1,000 rated answers" in found[1]


def test_what_cannot_be_read_is_said_at_once(sqlite_engine: Engine, tmp_path: Path) -> None:
    """Its CSV has no texts; names of columns are its own."""
    with pytest.raises(ImportFileError, match="neither questions nor answers; export JSON"):
        import_ratings(sqlite_engine, tmp_path / "a.csv", format="openwebui")
    with pytest.raises(ImportFileError, match="fixes its names"):
        import_ratings(sqlite_engine, tmp_path / "a.json", format="openwebui", columns={"rating": "x"})


@pytest.mark.parametrize("feedback", [["x"], {"a": 1}, 7], ids=str)
def test_a_feedback_id_of_any_kind(engine: Engine, tmp_path: Path, feedback: object) -> None:
    """It tells copies apart, whatever it is: of two answers with the same one, the first is rated."""
    annotated = {"role": "assistant", "parentId": "q", "annotation": {"rating": 1}, "feedbackId": feedback}
    messages = {
        "q": {"id": "q", "role": "user", "content": "Q?", "childrenIds": ["a", "b"]},
        "a": {**annotated, "id": "a", "content": "A"},
        "b": {**annotated, "id": "b", "content": "B"},
    }
    file = tmp_path / "chats.json"
    file.write_text(json.dumps([{"id": "c", "chat": {"history": {"messages": messages}}}]))
    import_ratings(engine, file, format="openwebui")
    with transaction(engine) as connection:
        rated = connection.execute(text("SELECT ai_response FROM rlhf_interactions WHERE end_user_rating IS NOT NULL"))
        assert rated.scalars().all() == ["A"]


@pytest.mark.parametrize("begun", ['<details type="reasoning">', '<details type="reasoning" ', "<details x>"])
def test_what_is_never_closed_stays(begun: str) -> None:
    """A megabyte of folds that do not end is read in one pass; a pattern took hours."""
    hostile = begun * 40_000
    assert reply({"content": hostile}).text == hostile.strip()
