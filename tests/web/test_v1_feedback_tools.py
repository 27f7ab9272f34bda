from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select, text
from test_formats_chats import LIBRECHAT, RAGFLOW, dify_message
from test_formats_label_studio import PAIRWISE, annotation, preferences, result, task
from test_formats_langfuse import score, trace
from test_formats_openwebui import feedback, written
from test_formats_phoenix import annotation as span_annotation
from test_formats_phoenix import span
from v1_apps import Caller, another_token, app_on, caller, token_for

from rlhf_loop.accounts import tokens
from rlhf_loop.exchange.transfer import import_ratings
from rlhf_loop.store.engine import transaction
from rlhf_loop.store.tables import Review

NOTHING = {"interactions": 0, "reviews": 0, "preferences": 0, "withdrawn": 0, "unread": 0}


@pytest.fixture
def app(engine: Engine, tmp_path: Path) -> Caller:
    return caller(engine, tmp_path)


def taken(tool: str, *unused: str, **counts: int) -> dict[str, Any]:
    return {"tool": tool, **NOTHING, **counts} | ({"unused": list(unused)} if unused else {})


def reviews(engine: Engine) -> list[tuple[Any, ...]]:
    with engine.connect() as connection:
        found = connection.execute(select(Review.reviewer, Review.rating, Review.role).order_by(Review.id))
        return [tuple(row) for row in found]


def plain(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record as JSON has it."""
    return {name: value.isoformat() if hasattr(value, "isoformat") else value for name, value in record.items()}


RECORDS: list[tuple[str, dict[str, Any], dict[str, int]]] = [
    ("openwebui", feedback(), {"interactions": 2, "reviews": 1}),
    ("langfuse", trace(score()), {"interactions": 1, "reviews": 1}),
    ("label-studio", task(annotation(result("rating", "rating", 4))), {"interactions": 1, "reviews": 1}),
    (
        "phoenix?thumbs=true&score_name=user+feedback",
        plain(span() | span_annotation()),
        {"interactions": 1, "reviews": 1},
    ),
    ("dify", dify_message(feedback={"rating": "like"}), {"interactions": 1, "reviews": 1}),
    ("ragflow", RAGFLOW, {"interactions": 2, "reviews": 2}),
    ("librechat", LIBRECHAT, {"interactions": 2, "reviews": 1}),
]


@pytest.mark.parametrize(("path", "record", "counts"), RECORDS, ids=[path.split("?")[0] for path, _, _ in RECORDS])
def test_a_record_of_each_tool(app: Caller, path: str, record: dict[str, Any], counts: dict[str, int]) -> None:
    """As the tool has it; a second time changes nothing, and with a key it is not even looked at."""
    tool = path.split("?")[0]
    if tool == "label-studio":
        record = {"action": "ANNOTATION_CREATED", "annotation": record["annotations"][0], "task": record}
    first, second = (app("POST", f"/feedback/{path}", record) for _ in range(2))
    assert (first.status_code, first.json) == (200, taken(tool, **counts)), first.text
    assert second.json == taken(tool)
    replayed = [app("POST", f"/feedback/{path}", record, key="k") for _ in range(2)]
    assert [response.headers.get("Idempotency-Replayed") for response in replayed] == [None, "true"]
    assert app("POST", f"/feedback/{tool}?good=4", record, key="k").status_code == 422


def test_who_is_named_as_the_tool_speaks_for_its_users(engine: Engine, tmp_path: Path) -> None:
    """Then a webhook and an import of the tool's file know the same reviewers; else they stay apart."""
    app = caller(engine, tmp_path, "openwebui")
    assert app("POST", "/feedback/openwebui", feedback()).json == taken("openwebui", interactions=2, reviews=1)
    report = import_ratings(engine, written(tmp_path, feedback()), format="openwebui")
    assert (report.added, report.updated) == (0, 0)
    other = Caller(app.web, token_for(engine, "app"))
    assert other("POST", "/feedback/openwebui", feedback()).json == taken("openwebui", reviews=1)
    assert reviews(engine) == [("openwebui:u-1", 5, "end_user"), ("app:u-1", 5, "end_user")]


def event(action: str, *annotations: dict[str, Any], of: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a webhook of Label Studio, as its documentation has it."""
    about = of or task()
    one = {"annotation": annotations[0]} if len(annotations) == 1 else {"annotation": list(annotations)}
    return {"action": action, **one, "task": {"id": 1, "data": about["data"]}, "project": {"id": 1, "title": "P"}}


def test_the_life_of_an_annotation(app: Caller, engine: Engine) -> None:
    """Made, changed, skipped after all, made again, deleted; a deletion has nothing but ids."""
    post = "/feedback/label-studio"

    def rated(stars: int, **more: Any) -> dict[str, Any]:
        return annotation(result("rating", "rating", stars), **more)

    assert app("POST", post, event("ANNOTATION_CREATED", rated(4))).json["reviews"] == 1
    later = rated(2, updated_at="2026-01-31T10:00:00Z")
    assert app("POST", post, event("ANNOTATION_UPDATED", later)).json["reviews"] == 1
    # Webhooks may overtake each other.
    assert app("POST", post, event("ANNOTATION_CREATED", rated(4))).json == taken("label-studio")
    assert reviews(engine) == [("app:1", 2, "end_user")]
    skipped = annotation(was_cancelled=True, updated_at="2026-01-31T10:01:00Z")
    assert app("POST", post, event("ANNOTATION_UPDATED", skipped)).json["withdrawn"] == 1
    assert reviews(engine) == []
    both = event("ANNOTATIONS_CREATED", rated(3, id=20), rated(5, id=21, by=2))
    assert app("POST", post, both).json["reviews"] == 2
    gone = {"action": "ANNOTATIONS_DELETED", "annotations": [{"id": 20}, {"id": 99}], "project": {"id": 1}}
    assert [app("POST", post, gone).json["withdrawn"] for _ in range(2)] == [1, 0]
    assert reviews(engine) == [("app:2", 5, "end_user")]


def test_several_annotations_at_once(app: Caller, engine: Engine) -> None:
    """A list of annotations and one of their tasks; one that cannot be read costs the others nothing."""
    rated = [annotation(result("rating", "rating", stars), id=20 + stars, task=stars) for stars in (3, 5, 9)]
    tasks = [task(data={"prompt": "Was?", "answer": f"A{each['task']}"}, id=each["task"]) for each in rated[1:]]
    made = {"action": "ANNOTATIONS_CREATED", "annotation": rated, "task": tasks, "project": {"id": 1}}
    report = app("POST", "/feedback/label-studio", made).json
    assert len(report.pop("unused")) == 2
    assert report == taken("label-studio", interactions=1, reviews=1, unread=2)
    for each in tasks:
        del each["id"]
    bare = [
        {name: value for name, value in each.items() if name != "task"} | {"id": each["id"] + 20} for each in rated[:2]
    ]
    report = app("POST", "/feedback/label-studio", made | {"annotation": bare}).json
    assert report == taken("label-studio", interactions=1, reviews=2)
    alone = app("POST", "/feedback/label-studio", made | {"annotation": rated[2:], "task": tasks[:1]})
    assert (alone.status_code, "rating is 9" in alone.json["detail"]) == (422, True)


def test_tags_can_be_named_in_the_address(app: Caller, engine: Engine) -> None:
    """As --map does it in an import; without it nobody knows which answer the word is about."""
    two = task(data={"prompt": "Was?", "answer1": "A", "answer2": "B"})
    made = event("ANNOTATION_CREATED", annotation(result("stars", "rating", 4, "txt-2")), of=two)
    refused = app("POST", "/feedback/label-studio", made)
    assert (refused.status_code, "?map=txt-2=answer1" in refused.json["detail"]) == (422, True)
    assert "--map" not in refused.json["detail"]
    named = app("POST", "/feedback/label-studio?map=txt-2%3Danswer2", made)
    assert named.json == taken("label-studio", interactions=2, reviews=1)
    compared = event("ANNOTATION_CREATED", annotation(result("pw", "pairwise", "left", "x,y"), id=12, by=2), of=two)
    for names, status in (("pw=answer2,answer1,txt-2=answer2", 200), ("pw=answer2,answer1=", 422), ("answer1", 422)):
        assert app("POST", f"/feedback/label-studio?map={names}", compared).status_code == status
    assert preferences(engine) == [("A", "B", "second", "app:2", "end_user")]


def test_a_comparison_comes_and_goes(app: Caller, engine: Engine) -> None:
    """A preference between two answers, with the ratings of each; a deletion takes back all three."""
    made = event("ANNOTATION_CREATED", PAIRWISE["annotations"][0], of=PAIRWISE)
    report = app("POST", "/feedback/label-studio", made).json
    assert report == taken("label-studio", interactions=2, reviews=2, preferences=1)
    assert preferences(engine) == [("A", "B", "second", "app:1", "end_user")]
    assert app("POST", "/feedback/label-studio", made).json == taken("label-studio")
    gone = {"action": "ANNOTATION_DELETED", "id": 11, "project": {"id": 1}}
    assert app("POST", "/feedback/label-studio", gone).json["withdrawn"] == 3
    assert (preferences(engine), reviews(engine)) == ([], [])


def test_what_an_annotation_says_no_longer_is_taken_back(app: Caller, engine: Engine) -> None:
    """Of a changed one only what it says now stays: a grade that was taken away goes, and neither prefers nothing."""
    post = "/feedback/label-studio"
    made = event("ANNOTATION_CREATED", PAIRWISE["annotations"][0], of=PAIRWISE)
    assert app("POST", post, made).json == taken("label-studio", interactions=2, reviews=2, preferences=1)
    kept = PAIRWISE["annotations"][0]["result"][0]
    only = annotation(kept, updated_at="2026-01-31T11:00:00Z")
    report = app("POST", post, event("ANNOTATION_UPDATED", only, of=PAIRWISE)).json
    assert report["withdrawn"] == 2
    assert len(preferences(engine)) + len(reviews(engine)) == 1
    turned = annotation(result("better", "pairwise", "left", "answer1,answer2"), updated_at="2026-01-31T12:00:00Z")
    assert app("POST", post, event("ANNOTATION_UPDATED", turned, of=PAIRWISE)).json["preferences"] == 1
    assert preferences(engine) == [("A", "B", "first", "app:1", "end_user")]
    # Those that were sent before, and come late.
    assert app("POST", post, event("ANNOTATION_UPDATED", only, of=PAIRWISE)).json == taken("label-studio")
    assert app("POST", post, made).json == taken("label-studio")
    assert preferences(engine) == [("A", "B", "first", "app:1", "end_user")]
    gone = {"action": "ANNOTATION_DELETED", "id": 11, "project": {"id": 1}}
    assert app("POST", post, gone).json["withdrawn"] == 1
    late = annotation(updated_at="2026-01-31T09:00:00Z")
    rated = annotation(result("rating", "rating", 4), id=12, by=7)
    assert app("POST", post, event("ANNOTATION_CREATED", rated)).json["reviews"] == 1
    assert app("POST", post, event("ANNOTATION_UPDATED", late | {"id": 12})).json["withdrawn"] == 0
    empty = late | {"id": 12, "updated_at": "2026-01-31T12:00:00Z"}
    assert app("POST", post, event("ANNOTATION_UPDATED", empty)).json["withdrawn"] == 1
    assert app("POST", post, event("ANNOTATION_UPDATED", rated)).json == taken("label-studio")
    assert (preferences(engine), reviews(engine)) == ([], [])


def test_what_was_noted_before_times_were_kept(app: Caller, engine: Engine) -> None:
    """Databases have notes of annotations with one word each; a clock that is wrong keeps nothing out."""
    post, rated = "/feedback/label-studio", annotation(result("rating", "rating", 4), updated_at="2099-01-01T00:00:00Z")
    assert app("POST", post, event("ANNOTATION_CREATED", rated)).json["reviews"] == 1
    with transaction(engine) as connection:
        number = connection.execute(select(Review.interaction_key)).scalar_one()
        old = json.dumps({"reviewer": "app:1", "answers": [number]})
        said = "UPDATE rlhf_audit_log SET detail = :old WHERE action = 'annotation.received'"
        connection.execute(text(said), {"old": old})
    changed = annotation(result("rating", "rating", 2), updated_at="2099-01-02T00:00:00Z")
    assert app("POST", post, event("ANNOTATION_UPDATED", changed)).json["reviews"] == 1
    much_later = annotation(updated_at="2099-01-03T00:00:00Z")
    assert app("POST", post, event("ANNOTATION_UPDATED", much_later)).json["withdrawn"] == 1
    assert reviews(engine) == []


def test_a_deleted_annotation_does_not_come_back(app: Caller, engine: Engine) -> None:
    """A change that was on its way when it was deleted, or its making even, says nothing any more."""
    post = "/feedback/label-studio"
    rated = annotation(result("rating", "rating", 4))
    gone = {"action": "ANNOTATIONS_DELETED", "annotations": [{"id": 11}, *({"id": n} for n in range(100, 2000))]}
    assert app("POST", post, event("ANNOTATION_CREATED", rated)).json["reviews"] == 1
    assert app("POST", post, gone).json["withdrawn"] == 1
    for action in ("ANNOTATION_UPDATED", "ANNOTATION_CREATED"):
        late = event(action, rated | {"updated_at": "2026-02-01T00:00:00Z"})
        assert app("POST", post, late).json == taken("label-studio")
    assert app("POST", post, event("ANNOTATION_CREATED", rated | {"id": 1500})).json == taken("label-studio")
    assert reviews(engine) == []


def test_another_applications_annotations_stay(engine: Engine, tmp_path: Path) -> None:
    """The ids of two Label Studios are the same numbers."""
    one = caller(engine, tmp_path)
    other = Caller(one.web, token_for(engine, "other"))
    made = event("ANNOTATION_CREATED", annotation(result("rating", "rating", 4)))
    for app in (one, other):
        assert app("POST", "/feedback/label-studio", made).json["reviews"] == 1
    gone = {"action": "ANNOTATIONS_DELETED", "annotations": [{"id": 11}]}
    assert other("POST", "/feedback/label-studio", gone).json["withdrawn"] == 1
    assert [row[0] for row in reviews(engine)] == ["app:1"]


@pytest.mark.parametrize("action", ["TASK_CREATED", "PROJECT_UPDATED", "START_TRAINING"])
def test_other_events_change_nothing(sqlite_engine: Engine, tmp_path: Path, action: str) -> None:
    """Whoever has all events sent need not choose."""
    app = caller(sqlite_engine, tmp_path)
    response = app("POST", "/feedback/label-studio", {"action": action, "project": {"id": 1}})
    assert (response.status_code, response.json) == (200, taken("label-studio"))


def test_a_score_finds_its_trace(app: Caller, engine: Engine) -> None:
    """What goes to Langfuse's own API; the trace is an answer with that id, or it is not here."""
    sent = {"traceId": "a-1", "name": "helpful", "value": 1, "dataType": "BOOLEAN", "comment": "Ja."}
    missing = app("POST", "/feedback/langfuse?score_name=helpful", sent)
    assert (missing.status_code, "no interaction with the id 'a-1'" in missing.json["detail"]) == (404, True)
    app.record()
    assert app("POST", "/feedback/langfuse?score_name=helpful", sent).json == taken("langfuse", reviews=1)
    assert app("POST", "/feedback/langfuse", sent).json == taken("langfuse", "score helpful")
    assert reviews(engine) == [("app", 5, "end_user")]


def test_nobody_gets_a_role_by_a_record(engine: Engine, tmp_path: Path) -> None:
    """The word of experts takes the scope for it, whatever the metadata say; with it the address asks for it."""
    app = caller(engine, tmp_path)
    boasting = trace(score(metadata={"reviewer": "dr.ann", "role": "expert"}))
    assert app("POST", "/feedback/langfuse", boasting).json["reviews"] == 1
    assert reviews(engine) == [("app:dr.ann", 4, "end_user")]
    assert app("POST", "/feedback/langfuse?role=expert", boasting).status_code == 403
    scopes = (tokens.WRITE, tokens.REVIEW, tokens.REVIEW_AS_EXPERT)
    trusted = Caller(app.web, another_token(engine, "app", scopes=scopes))
    assert trusted("POST", "/feedback/langfuse?role=expert", boasting).json["reviews"] == 1
    assert reviews(engine) == [("app:dr.ann", 4, "expert")]
    assert app("POST", "/feedback/langfuse", trace(score(value=1, metadata={"reviewer": "dr.ann"}))).status_code == 403


@pytest.mark.parametrize(
    ("path", "record", "status", "words"),
    [
        ("openwebui", {"rating": 1}, 422, "The record cannot be taken: it is neither a feedback"),
        ("openwebui", {}, 422, "it is neither a feedback"),
        ("openwebui", feedback(data={"rating": 7}), 422, "thumbs are 1 or -1"),
        ("openwebui?thumbs=true&scale=1,10", feedback(), 422, "either thumbs or of a scale"),
        ("openwebui?good=2", feedback(), 422, "A good label would become the rating 2"),
        ("openwebui?scale=ten", feedback(), 422, "scale"),
        ("openwebui?columns=rating%3Dx", feedback(), 422, "fixes its names"),
        ("openwebui", feedback(user_id="u" * 201), 422, "reviewer has more than 200 characters"),
        ("dify", {"message_id": "gone", "rating": "like", "user": "u"}, 404, "gone"),
        ("librechat", [{"messageId": "gone", "feedback": {"rating": "thumbsUp"}}], 404, "gone"),
        ("label-studio", [{"id": 1}], 422, "action is missing"),
        ("langfuse", trace(score(value=9)), 422, "is 9, not a whole number from 1 to 5"),
        (
            "phoenix?score_name=user+feedback",
            plain(span() | span_annotation()),
            422,
            "Here an option is a part of the address",
        ),
        ("label-studio", {"annotation": {}}, 422, "action is missing"),
        ("label-studio", {"action": "ANNOTATION_CREATED"}, 422, "switch on 'Send payload'"),
        ("label-studio", {"action": "ANNOTATION_CREATED", "annotation": {"id": 1}}, 422, "the task of the annotation"),
        ("label-studio?columns=stars%3Drating", event("ANNOTATION_CREATED", annotation()), 422, "no field 'stars'"),
        ("phoenix", [1], 422, "list"),
        ("unknown", {}, 404, "nothing at"),
    ],
)
def test_what_is_refused(
    sqlite_engine: Engine, tmp_path: Path, path: str, record: Any, status: int, words: str
) -> None:
    """As problem+json, in words; nothing is stored."""
    app = caller(sqlite_engine, tmp_path)
    response = app("POST", f"/feedback/{path}", record)
    assert (response.status_code, response.mimetype) == (status, "application/problem+json"), response.text
    assert words in response.json["detail"]
    with transaction(sqlite_engine) as connection:
        assert connection.execute(text("SELECT count(*) FROM rlhf_interactions")).scalar() == 0


def test_other_texts_under_a_known_id(sqlite_engine: Engine, tmp_path: Path) -> None:
    """A trace that says something else now is a conflict, and the first one stays."""
    app = caller(sqlite_engine, tmp_path)
    assert app("POST", "/feedback/langfuse", trace(score())).status_code == 200
    assert app("POST", "/feedback/langfuse", trace(score(), output="Other.")).status_code == 409
    web = app_on(sqlite_engine, tmp_path).test_client()
    assert web.post("/v1/feedback/langfuse", json=trace(score())).status_code == 401


def test_a_thumb_that_was_taken_away(app: Caller, engine: Engine) -> None:
    """Open WebUI keeps its feedback with the rating 0; what was said since stays."""
    post = "/feedback/openwebui"
    assert app("POST", post, feedback()).json["reviews"] == 1
    for at, withdrawn in ((1_000_000_000, 0), (4_000_000_000, 1), (4_000_000_001, 0)):
        gone = feedback(data={"rating": 0, "details": None}) | {"updated_at": at}
        assert app("POST", post, gone).json == taken("openwebui", withdrawn=withdrawn)
    assert reviews(engine) == []


def test_annotators_are_experts_as_in_an_import(engine: Engine, tmp_path: Path) -> None:
    """Where the token is good for that: so an annotation that was imported changes, and stays an expert's."""
    made = annotation(result("rating", "rating", 4))
    import_ratings(engine, written(tmp_path, task(made)), format="label-studio")
    app = caller(engine, tmp_path, "label-studio", scopes=[tokens.REVIEW, tokens.WRITE, tokens.REVIEW_AS_EXPERT])
    later = annotation(result("rating", "rating", 2), updated_at="2026-02-01T00:00:00Z")
    assert app("POST", "/feedback/label-studio", event("ANNOTATION_UPDATED", later)).json["reviews"] == 1
    assert reviews(engine) == [("label-studio:1", 2, "expert")]
    poor = Caller(app.web, another_token(engine, "label-studio"))
    much = annotation(result("rating", "rating", 5), updated_at="2026-02-02T00:00:00Z")
    assert poor("POST", "/feedback/label-studio", event("ANNOTATION_UPDATED", much)).status_code == 403
    assert app("POST", "/feedback/openwebui", feedback()).json["reviews"] == 1
    assert reviews(engine)[-1][1:] == (5, "end_user")


def test_what_phoenix_gets_is_understood(app: Caller, engine: Engine) -> None:
    """The body of its own address, a list of annotations; those by models say nothing."""
    path = "/feedback/phoenix?thumbs=true&score_name=user+feedback"
    assert app("POST", path, plain(span())).json == taken("phoenix", interactions=1)
    sent = {"span_id": span()["context.span_id"], "name": "user feedback", "result": {"score": 1}, "identifier": "u1"}
    both = [sent | {"annotator_kind": kind} for kind in ("HUMAN", "LLM")]
    unused = "annotation user feedback by LLM"
    assert app("POST", path, {"data": both}).json == taken("phoenix", unused, reviews=1)
    assert reviews(engine) == [("app:u1", 5, "end_user")]


@pytest.mark.skipif(sys.gettrace() is not None, reason="what traces each line takes from the depth that Python allows")
def test_what_is_nested_deeply_is_refused(app: Caller, engine: Engine) -> None:
    """From a hundred levels on in a text of JSON, in the body as its reader does, however deep the call is."""
    for levels, *statuses in ((100, 200, 422), (101, 422, 422), (150, 422, 422), (300, 422, 400), (940, 422, 400)):
        inside = '{"input": ' * levels + '"x"' + "}" * levels
        record = {"context.span_id": f"s-{levels}", "attributes.input.value": inside, "attributes.output.value": "x"}
        found = [app("POST", "/feedback/phoenix", each) for each in (record, {"attributes": json.loads(inside)})]
        assert [response.status_code for response in found] == statuses, [response.text for response in found]


@pytest.mark.parametrize(
    ("tool", "record", "counts", "status", "unused"),
    [
        (
            "langfuse",
            trace(score(), score(id="s2", observationId="o", value=2), "s3"),
            {"interactions": 1, "reviews": 1, "unread": 2},
            200,
            (
                "scores of which there is only the id: export the scores, too (1)",
                "scores of a part of a trace by whoever scored the trace (1)",
            ),
        ),
        (
            "langfuse",
            trace(score(name="output", value=0, dataType="CORRECTION", stringValue="Rest.")),
            {"interactions": 1, "unread": 1},
            202,
            ("comments and corrections without a rating",),
        ),
        # Of one score alone nobody knows more than that it is a number: a rating.
        ("langfuse", trace(score(value=1)), {"interactions": 1, "reviews": 1}, 200, ()),
        # Of two scores one is a rating, and of one alone nobody said that it is.
        (
            "langfuse",
            trace(score(), score(name="latency", value=0.2)),
            {"interactions": 1, "reviews": 1},
            200,
            ("score latency",),
        ),
        ("langfuse", trace(score(name="helpful", value=4)), {"interactions": 1}, 202, ("score helpful",)),
        ("phoenix", plain(span() | span_annotation()), {"interactions": 1}, 202, ("annotation user feedback",)),
        (
            "phoenix",
            {"data": [plain(span()), plain(span(**{"context.span_id": "b", "attributes.output.value": None}))]},
            {"interactions": 1, "unread": 1},
            200,
            ("spans without output (1)",),
        ),
        (
            "label-studio",
            event(
                "ANNOTATION_CREATED", annotation(result("rating", "rating", 4), result("hard", "rating", 1, "prompt"))
            ),
            {"interactions": 1, "reviews": 1, "unread": 1},
            200,
            ("results about another field of the task (1)",),
        ),
    ],
)
def test_what_was_not_taken_is_named(
    app: Caller, tool: str, record: dict[str, Any], counts: dict[str, int], status: int, unused: tuple[str, ...]
) -> None:
    """Whoever sends something is told what of it was not used; with a rating and none taken it is no plain success."""
    found = app("POST", f"/feedback/{tool}", record)
    assert (found.status_code, found.json) == (status, taken(tool, *unused, **counts))


def test_two_annotators_of_one_task_do_not_wait_for_each_other(engine: Engine, tmp_path: Path) -> None:
    """Whichever answer they looked at first: all their words are stored."""
    first = caller(engine, tmp_path)
    sizes = list("ABCDEFGH")
    data = {"prompt": "Was?"} | {f"answer{n}": text for n, text in enumerate(sizes, 1)}
    orders = (range(1, 9), range(8, 0, -1))

    def post(number: int) -> int:
        said = [result(f"rating{n}", "rating", 4, f"answer{n}") for n in orders[number % 2]]
        made = event("ANNOTATION_CREATED", annotation(*said, id=number, by=number), of=task(data=data))
        return Caller(first.web.application.test_client(), first.token)(
            "POST", "/feedback/label-studio", made
        ).status_code

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(post, range(24))) == {200}
    assert len(reviews(engine)) == 24 * 8


def test_an_annotations_id_that_nobody_could_store(app: Caller) -> None:
    """It is refused in words on every database."""
    gone = {"action": "ANNOTATIONS_DELETED", "annotations": ["a\0"]}
    response = app("POST", "/feedback/label-studio", gone)
    assert response.status_code == 422
    assert "the id of an annotation is 'a\\x00', which cannot be stored" in response.json["detail"]


def test_scores_in_an_array_are_taken_as_langfuses_sdk_posts_them(app: Caller, engine: Engine) -> None:
    """`create_score` of SDK 5.0 posts a list with what is not None; one bad score of it refuses them all."""
    assert app("POST", "/feedback/langfuse", trace()).status_code == 200
    posted = [
        {"id": "a", "traceId": "t1", "name": "rating", "value": 4.0, "environment": "default", "dataType": "NUMERIC"},
        {"id": "b", "traceId": "t1", "name": "tone", "value": "warm", "dataType": "CATEGORICAL"},
    ]
    assert app("POST", "/feedback/langfuse", posted).json == taken("langfuse", "score tone", reviews=1)
    assert app("POST", "/feedback/langfuse", [posted[0], posted[0] | {"id": "c", "value": 9}]).status_code == 422
    assert [rating for _, rating, _ in reviews(engine)] == [4]
