from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from databases import memory_database
from rating_files import counts, reasons, write_csv, write_jsonl
from sqlalchemy import Engine, text

from rlhf_loop.domain import Rating, ReviewerRole
from rlhf_loop.errors import ImportFileError
from rlhf_loop.exchange.formats.base import Labels, NumberScale
from rlhf_loop.exchange.transfer import ExportOptions, export_ratings, import_ratings
from rlhf_loop.store.engine import transaction
from rlhf_loop.store.interactions import rate, record, stats


def score(**changes: Any) -> dict[str, Any]:
    """Return a score as `GET /api/public/v2/scores` gives it."""
    return {
        "id": "s1",
        "traceId": "t1",
        "observationId": None,
        "sessionId": None,
        "name": "rating",
        "value": 4,
        "dataType": "NUMERIC",
        "source": "API",
        "comment": None,
        "configId": None,
        "authorUserId": None,
        "metadata": {},
        "timestamp": "2026-01-31T09:30:00.000Z",
        "createdAt": "2026-01-31T09:30:00.000Z",
        "updatedAt": "2026-01-31T09:30:00.000Z",
        "environment": "default",
    } | changes


def trace(*scores: Any, **changes: Any) -> dict[str, Any]:
    """Return a trace as `GET /api/public/traces/{traceId}` gives it."""
    return {
        "id": "t1",
        "timestamp": "2026-01-31T09:29:00.000Z",
        "name": "chat",
        "input": "What is flu?",
        "output": "A virus.",
        "sessionId": None,
        "userId": "u7",
        "metadata": {"topic": "any"},
        "tags": [],
        "public": False,
        "htmlPath": "/project/p/traces/t1",
        "latency": 0.5,
        "totalCost": 0.0,
        "observations": [],
        "scores": list(scores),
    } | changes


def reviews(engine: Engine) -> list[tuple[Any, ...]]:
    with transaction(engine) as connection:
        found = connection.execute(
            text("SELECT reviewer, rating, comment, correction, role, harmful FROM rlhf_reviews ORDER BY id")
        )
        return [(*row[:5], bool(row.harmful)) for row in found]


def test_a_trace_becomes_an_answer_and_its_scores_reviews(engine: Engine, tmp_path: Path) -> None:
    """Whoever annotated is a reviewer, else whose trace it is; other scores are named; twice changes nothing."""
    path = write_jsonl(
        tmp_path / "a.jsonl",
        [
            trace(
                score(comment="Fine."),
                score(id="s2", value=2, source="ANNOTATION", authorUserId="a1"),
                score(id="s3", name="latency", value=0.1),
                score(
                    id="s4", name="output", dataType="CORRECTION", value=0, stringValue="An illness.", authorUserId="a1"
                ),
            ),
            trace(id="t2"),
        ],
    )
    report = import_ratings(engine, path, format="langfuse")
    assert (counts(report), report.ignored) == ((3, 3, 0, 0, 0), ("score latency",))
    assert reviews(engine) == [
        ("langfuse:u7", 4, "Fine.", None, "end_user", False),
        ("langfuse:a1", 2, None, "An illness.", "end_user", False),
    ]
    assert counts(import_ratings(engine, path, format="langfuse")) == (3, 0, 0, 3, 0)
    with transaction(engine) as connection:
        rows = connection.execute(text("SELECT external_id, ai_response FROM rlhf_interactions ORDER BY id")).all()
    assert [tuple(row) for row in rows] == [("t1", "A virus."), ("t2", "A virus.")]


@pytest.mark.parametrize(
    ("changes", "labels", "rating"),
    [
        ({"value": 5}, {}, 5),
        ({"value": 5.0}, {}, 5),
        ({"value": 1}, {"scale": NumberScale(1, 5)}, 1),
        ({"value": 1}, {"thumbs": True}, 5),
        ({"value": 0}, {"thumbs": True, "bad": 2}, 2),
        ({"value": 1, "dataType": "BOOLEAN", "stringValue": "True"}, {}, 5),
        ({"value": 0, "dataType": "BOOLEAN", "stringValue": "False"}, {"bad": 2}, 2),
        ({"value": None, "dataType": "CATEGORICAL", "stringValue": "thumbs up"}, {"good": 4}, 4),
        ({"value": 3, "dataType": "CATEGORICAL", "stringValue": "👎"}, {}, 1),
        ({"value": None, "dataType": "CATEGORICAL", "stringValue": "3"}, {}, 3),
        ({"value": "good", "dataType": "CATEGORICAL"}, {}, 5),
        ({"value": 1, "dataType": "boolean"}, {}, 5),
        ({"value": 0, "dataType": "Boolean", "source": "api"}, {}, 1),
        ({"value": 3, "dataType": "categorical", "stringValue": "bad"}, {}, 1),
        ({"value": 2, "dataType": "numeric"}, {}, 2),
        ({"name": "user-feedback", "value": 2}, {"score_name": "user-feedback"}, 2),
    ],
)
def test_each_kind_of_score(
    sqlite_engine: Engine, tmp_path: Path, changes: dict[str, Any], labels: dict[str, Any], rating: int
) -> None:
    """Numbers are ratings, or thumbs where somebody says so; booleans and words are thumbs."""
    path = write_jsonl(tmp_path / "a.jsonl", [trace(score(**changes))])
    import_ratings(sqlite_engine, path, format="langfuse", labels=Labels(**labels), role=ReviewerRole.EXPERT)
    assert [(row[1], row[4]) for row in reviews(sqlite_engine)] == [(rating, "expert")]


@pytest.mark.parametrize(
    ("given", "output"),
    [
        ("What is flu?", "A virus."),
        ({"query": "What is flu?"}, {"answer": "A virus."}),
        ([{"role": "user", "content": "What is flu?"}], {"role": "assistant", "content": "A virus."}),
        ({"messages": [{"role": "user", "content": "What is flu?"}]}, [{"role": "assistant", "content": "A virus."}]),
        ('[{"role": "user", "content": "What is flu?"}]', '{"output": "A virus."}'),
        ({"args": [], "kwargs": {"query": "What is flu?", "top_k": 5}}, "A virus."),
        ({"args": ["What is flu?"], "kwargs": {"top_k": 5}}, {"choices": [{"message": {"content": "A virus."}}]}),
        (
            [
                {"role": "user", "content": "What is flu?"},
                {"role": "assistant", "content": None, "tool_calls": [{"name": "look"}]},
                {"role": "tool", "content": "{}"},
            ],
            [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "A virus."}],
        ),
        (
            {"messages": [["human", "What is flu?"]]},
            {
                "messages": [
                    {"type": "human", "content": "What is flu?"},
                    {"type": "ai", "content": "", "tool_calls": [{"name": "look"}]},
                    {"type": "tool", "content": "42"},
                    {"type": "ai", "content": "A virus."},
                ]
            },
        ),
        (
            [[{"lc": 1, "type": "constructor", "id": ["x", "HumanMessage"], "kwargs": {"content": "What is flu?"}}]],
            {"generations": [[{"text": "A virus.", "type": "ChatGeneration"}]]},
        ),
        (
            {"contents": [{"role": "user", "parts": [{"text": "What is flu?"}]}]},
            {"candidates": [{"content": {"role": "model", "parts": [{"text": "A virus."}]}}]},
        ),
        (
            "What is flu?",
            {
                "output": [
                    {"type": "reasoning", "summary": []},
                    {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "A virus."}]},
                ]
            },
        ),
    ],
)
def test_what_applications_put_into_traces(sqlite_engine: Engine, tmp_path: Path, given: Any, output: Any) -> None:
    """Texts, messages and objects around them are read, also as the text of JSON."""
    path = write_jsonl(tmp_path / "a.jsonl", [trace(input=given, output=output)])
    import_ratings(sqlite_engine, path, format="langfuse")
    with transaction(sqlite_engine) as connection:
        row = connection.execute(text("SELECT user_prompt, ai_response FROM rlhf_interactions")).one()
    assert tuple(row) == ("What is flu?", "A virus.")


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv"])
def test_scores_alone_find_their_answer(engine: Engine, tmp_path: Path, kind: str) -> None:
    """The trace's id is the answer's external_id; also with the names of the exports to blob storage."""
    record(engine, [Rating("What is flu?", "A virus.", external_id="t1")])
    names = ["id", "trace_id", "observation_id", "name", "value", "string_value", "data_type", "timestamp", "user_id"]
    rows = [["s1", "t1", None, "rating", 2, None, "NUMERIC", "2026-01-31 09:30:00.000000", "u7"]]
    rows += [["s2", "t1", None, "output", 0, "Better.", "CORRECTION", "2026-01-31 09:30:00.000000", "u7"]]
    path = tmp_path / f"a.{kind}"
    if kind == "csv":
        write_csv(path, [names, *rows])
    elif kind == "jsonl":
        write_jsonl(path, [dict(zip(names, row, strict=True)) for row in rows])
    else:
        page = {"data": [dict(zip(names, row, strict=True)) for row in rows], "meta": {"page": 1}}
        path.write_text(json.dumps(page), encoding="utf-8")
    assert counts(import_ratings(engine, path, format="langfuse")) == (1, 1, 0, 0, 0)
    assert reviews(engine) == [("langfuse:u7", 2, None, None, "end_user", False)]
    assert counts(import_ratings(engine, path, format="langfuse")) == (1, 0, 0, 1, 0)


def test_scores_may_stand_before_their_trace(engine: Engine, tmp_path: Path) -> None:
    """Scores and traces of one file find each other; a score whose trace is nowhere is invalid."""
    path = write_jsonl(tmp_path / "a.jsonl", [score(), trace(metadata={"source": "docs"})])
    assert counts(import_ratings(engine, path, format="langfuse")) == (2, 2, 0, 0, 0)
    with transaction(engine) as connection:
        assert connection.execute(text("SELECT source FROM rlhf_interactions")).scalar() == "docs"
    path = write_jsonl(tmp_path / "a.jsonl", [trace(), score(traceId="t9")])
    report = import_ratings(engine, path, format="langfuse", skip_invalid=True)
    [row] = report.invalid
    assert row.line == 2
    assert (
        "the answer 't9' is neither in the file nor in the database; import the file of traces or spans first"
        in row.reason
    )


def test_bad_traces_are_all_named_by_line(engine: Engine, tmp_path: Path) -> None:
    """Each line is judged alone; nothing is stored."""
    rows: list[Any] = [
        trace(score()),
        trace(id=None),
        trace(score(value=7)),
        trace(score(value=0)),
        trace(score(value=None, dataType="CATEGORICAL", stringValue="so so")),
        trace(scores="none"),
        trace(timestamp="yesterday"),
        score(value="much"),
    ]
    found = reasons(engine, write_jsonl(tmp_path / "a.jsonl", rows), format="langfuse")
    assert list(found) == list(range(2, 9))
    for line, words in {
        2: "id is missing",
        3: "the score 'rating' is 7, not a whole number from 1 to 5",
        4: "if 1 and 0 are thumbs, say so",
        5: "neither a rating nor a word",
        6: "not a list of scores",
        7: "created_at is 'yesterday'",
        8: "is 'much'",
    }.items():
        assert words in found[line]


def test_calls_that_failed_and_evaluators_say_nothing(engine: Engine, tmp_path: Path) -> None:
    """A trace without output is passed over and counted; the score of an evaluator is not the word of the user."""
    rows = [
        trace(output=None),
        trace(score(), id="t2", input=None),
        trace(score(value=1, source="EVAL"), score(value=5, id="s2", source="API"), id="t3"),
    ]
    report = import_ratings(engine, write_jsonl(tmp_path / "a.jsonl", rows), format="langfuse")
    assert (report.rows, report.added) == (1, 1)
    assert [row[1] for row in reviews(engine)] == [5]
    assert report.ignored == ("score rating by EVAL", "traces without output (1)", "traces without input (1)")


PICTURE = [{"type": "image_url", "image_url": {"url": "data:"}}]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"output": [{"role": "assistant", "content": PICTURE}]}, "output has a picture, a file or a sound"),
        ({"input": [{"role": "user", "content": PICTURE}]}, "input has a picture, a file or a sound"),
        ({"input": {"numbers": [1, 2]}}, "input is an object of another form"),
        ({"input": '{"numbers": [1, 2]}'}, "input is an object of another form"),
        ({"input": {"args": ["a", "b"], "kwargs": {}}}, "input has no argument that must be the question"),
        ({"output": {"messages": [{"type": "ai", "content": "", "tool_calls": [{}]}]}}, "output does not end with"),
        ({"output": [{"role": "assistant", "content": "a"}, {"role": "tool", "content": "b"}]}, "output does not end"),
        ({"output": {"choices": [{"message": {"content": "a"}}, {"message": {"content": "b"}}]}}, "output has several"),
    ],
)
def test_a_trace_without_texts_does_not_stop_the_others(
    sqlite_engine: Engine, tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    """It is counted with its reason, no JSON becomes a question, and a record of another kind is counted, too."""
    path = write_jsonl(tmp_path / "a.jsonl", [trace(score(), **changes), trace(score(), id="t2"), {"id": "prompt"}])
    report = import_ratings(sqlite_engine, path, format="langfuse")
    assert report.ignored[0].startswith(f"traces whose {why}")
    assert (report.ignored[1], report.added) == ("records of another kind (1)", 1)


def test_the_table_of_traces_has_a_column_for_each_score(sqlite_engine: Engine, tmp_path: Path) -> None:
    """Of several values each is somebody's; other columns are named; who asked is not who rated."""
    rows = [
        {"id": "t1", "userId": "u1", "input": "q", "output": "a", "rating": [5], "helpful": [1], "tags": ["x"]},
        {"id": "t2", "userId": "u1", "input": "q", "output": "b", "rating": [4, 2], "tags": []},
        {"id": "t3", "userId": "u1", "input": "q", "output": "c", "rating": ["bad"], "tags": []},
        {"id": "t4", "userId": "u1", "input": "q", "output": "d", "rating": None, "tags": []},
    ]
    report = import_ratings(sqlite_engine, write_jsonl(tmp_path / "a.jsonl", rows), format="langfuse")
    assert (report.added, report.ignored) == (5, ("score helpful",))
    assert [row[:2] for row in reviews(sqlite_engine)] == [
        ("langfuse:score-t1-1", 5),
        ("langfuse:score-t2-1", 4),
        ("langfuse:score-t2-2", 2),
        ("langfuse:score-t3-1", 1),
    ]


def test_a_column_of_ones_has_two_readings(sqlite_engine: Engine, tmp_path: Path) -> None:
    """Thumbs up or the worst of five: the file is refused until somebody says which; a boolean is a thumb."""
    path = write_jsonl(tmp_path / "a.jsonl", [{"id": "t1", "input": "q", "output": "a", "rating": [1]}])
    with pytest.raises(ImportFileError, match="these may be thumbs, or 1 is the worst of 1 to 5"):
        import_ratings(sqlite_engine, path, format="langfuse")
    import_ratings(sqlite_engine, path, format="langfuse", labels=Labels(thumbs=True))
    write_jsonl(path, [{"id": "t2", "input": "q", "output": "b", "rating": [True]}])
    import_ratings(sqlite_engine, path, format="langfuse")
    assert [row[1] for row in reviews(sqlite_engine)] == [5, 5]


ONES = [{"value": 1}, {"value": 1, "dataType": None}, {"value": 1, "dataType": "numeric"}]


@pytest.mark.parametrize("kind", ["trace", "score", "score.csv"])
@pytest.mark.parametrize("ones", [ONES, [*ONES, {"value": 0}]])
def test_scores_that_are_all_one_have_two_readings(
    sqlite_engine: Engine, tmp_path: Path, kind: str, ones: list[dict[str, Any]]
) -> None:
    """In traces, scores and the table of scores, if nothing but the number says how good it is; 0 tells no scale."""
    scores = [score(**each, id=f"s{n}", userId=f"u{n}") for n, each in enumerate(ones)]
    rows = [trace(*scores)] if kind == "trace" else scores
    import_ratings(sqlite_engine, write_jsonl(tmp_path / "t.jsonl", [trace()]), format="langfuse")
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    if kind == "score.csv":
        names = ("id", "traceId", "name", "value", "dataType", "source", "userId")
        path = write_csv(tmp_path / "a.csv", [names, *([row[name] for name in names] for row in rows)])
    with pytest.raises(ImportFileError, match="Say which it is"):
        import_ratings(sqlite_engine, path, format="langfuse", skip_invalid=True)
    assert reviews(sqlite_engine) == []
    import_ratings(sqlite_engine, path, format="langfuse", labels=Labels(thumbs=True))
    assert [row[1] for row in reviews(sqlite_engine)] == [5, 5, 5, 1][: len(ones)]


def test_ones_with_a_known_scale(engine: Engine, tmp_path: Path) -> None:
    """Beside another rating, in an export of ours, and as a boolean a 1 is what it always was."""
    rows = [trace(score(value=1), score(id="s2", value=4, authorUserId="a")), trace(score(value=1), id="t2")]
    import_ratings(engine, write_jsonl(tmp_path / "a.jsonl", rows), format="langfuse")
    assert [row[1] for row in reviews(engine)] == [1, 4, 1]
    ours = memory_database()
    record(ours, [Rating("q", "a", 1, reviewer="ann")])
    export_ratings(ours, tmp_path / "ours.jsonl", format="langfuse")
    assert import_ratings(engine, tmp_path / "ours.jsonl", format="langfuse").added == 1


@pytest.mark.parametrize("kind", ["trace", "score"])
def test_a_comment_alone_does_not_cost_the_other_scores(sqlite_engine: Engine, tmp_path: Path, kind: str) -> None:
    """A score without a value, and none at all in a list, are passed over and counted."""
    empty = score(id="s2", value=None, comment="Why?", authorUserId="a")
    rows = [trace(score(), empty, None)] if kind == "trace" else [trace(), score(), empty]
    report = import_ratings(sqlite_engine, write_jsonl(tmp_path / "a.jsonl", rows), format="langfuse")
    assert (report.ignored, [row[1] for row in reviews(sqlite_engine)]) == (("scores without a value (1)",), [4])


def test_each_correction_without_a_rating_is_counted(sqlite_engine: Engine, tmp_path: Path) -> None:
    """The answer has room for the first of them; the type is known in small letters, too."""
    corrections = [
        score(id=name, name="output", value=0, dataType="correction", stringValue=name, authorUserId=name)
        for name in ("a", "b", "c")
    ]
    report = import_ratings(sqlite_engine, write_jsonl(tmp_path / "a.jsonl", [trace(*corrections)]), format="langfuse")
    assert report.ignored == ("scores output by who gave no score rating (2)",)
    with transaction(sqlite_engine) as connection:
        assert connection.execute(text("SELECT corrected_response FROM rlhf_interactions")).scalars().all() == ["a"]


@pytest.mark.parametrize("of_json", [True, False])
def test_both_kinds_of_csv(sqlite_engine: Engine, tmp_path: Path, of_json: bool) -> None:
    """Cells of earlier versions are JSON, texts and all; those of later ones are as they are, with their quotes."""
    cells = ["t1", '"Fly", or "flu"?', "A virus.", "[5]", "[]"]
    shown = [*(json.dumps(cell) for cell in cells[:3]), *cells[3:]] if of_json else cells
    path = write_csv(tmp_path / "a.csv", [["id", "input", "output", "rating", "tags"], shown])
    import_ratings(sqlite_engine, path, format="langfuse")
    with transaction(sqlite_engine) as connection:
        row = connection.execute(text("SELECT external_id, user_prompt, rating FROM rlhf_interactions")).one()
    assert tuple(row[:2]) == tuple(cells[:2])
    assert [row[1] for row in reviews(sqlite_engine)] == [5]


def test_two_annotators_are_two(sqlite_engine: Engine, tmp_path: Path) -> None:
    """The table of scores names who asked and who annotated; who has no name is neither of them."""
    traces = write_jsonl(tmp_path / "a.jsonl", [trace()])
    import_ratings(sqlite_engine, traces, format="langfuse")
    names = ["id", "traceId", "sessionId", "source", "name", "dataType", "value", "userId", "authorUserName"]
    rows = [
        ["s1", "t1", "", "ANNOTATION", "rating", "NUMERIC", 5, "u7", "Anna"],
        ["s2", "t1", "", "ANNOTATION", "rating", "NUMERIC", 2, "u7", "Ben"],
        ["s3", "t1", "", "ANNOTATION", "rating", "NUMERIC", 3, "u7", ""],
        ["s4", "t1", "", "API", "rating", "NUMERIC", 4, "u7", ""],
        ["s6", "t1", "", "API", "rating", "NUMERIC", 1, "", ""],
        ["s7", "t1", "", "API", "rating", "NUMERIC", 2, "", ""],
        ["s5", "", "session", "ANNOTATION", "rating", "NUMERIC", 1, "", "Anna"],
    ]
    report = import_ratings(sqlite_engine, write_csv(tmp_path / "a.csv", [names, *rows]), format="langfuse")
    assert report.ignored == ("scores of a session or a run (1)",)
    assert [row[:2] for row in reviews(sqlite_engine)] == [
        ("langfuse:Anna", 5),
        ("langfuse:Ben", 2),
        ("langfuse:score-s3", 3),
        ("langfuse:u7", 4),
        ("langfuse:score-s6", 1),
        ("langfuse:score-s7", 2),
    ]


def test_parts_of_a_trace_are_counted(sqlite_engine: Engine, tmp_path: Path) -> None:
    """The first observation stands for its trace, whose score counts before that of a part; a list of traces has only
    the scores' ids.
    """
    rows = [
        {"id": "o1", "traceId": "t1", "parentObservationId": None, "input": "q", "output": "a", "rating": [4]},
        {"id": "o2", "traceId": "t1", "parentObservationId": "o1", "input": "x", "output": "y", "rating": [4]},
        {"id": "o3", "traceId": "t1", "parentObservationId": None, "input": "x", "output": "z", "rating": None},
        trace("s1", "s2", id="t2"),
        {"trace": trace(score(), id="t3"), "observations": []},
        {"data": [trace(score(value=2), score(id="s2", observationId="o1", value=5), id="t4")], "meta": {"page": 1}},
        {"id": "t5", "userId": "u1", "input": "q", "output": "e", "scores": {"rating": [3]}},
    ]
    report = import_ratings(sqlite_engine, write_jsonl(tmp_path / "a.jsonl", rows), format="langfuse")
    assert report.added == 5
    assert report.ignored == (
        "rated observations inside of a trace (1)",
        "observations inside of a trace (1)",
        "scores of which there is only the id: export the scores, too (2)",
        "scores of a part of a trace by whoever scored the trace (1)",
    )
    assert [row[:2] for row in reviews(sqlite_engine)] == [
        ("langfuse:score-t1-1", 4),
        ("langfuse:u7", 4),
        ("langfuse:u7", 2),
        ("langfuse:score-t5-1", 3),
    ]


@pytest.mark.parametrize("order", [1, -1])
def test_scores_of_a_part_alone_count_as_in_their_trace(sqlite_engine: Engine, tmp_path: Path, order: int) -> None:
    """Whoever scored the whole of it, too, is heard once, whatever comes first; who scored only a part is heard."""
    whole, part = score(authorUserId="a1", value=2), score(id="s2", authorUserId="a1", observationId="o", value=5)
    rows = [trace(), *[whole, part, score(id="s3", authorUserId="a2", observationId="o", value=4)][::order]]
    report = import_ratings(sqlite_engine, write_jsonl(tmp_path / "a.jsonl", rows), format="langfuse")
    assert report.ignored == ("scores of a part of a trace by whoever scored the trace (1)",)
    assert sorted(row[:2] for row in reviews(sqlite_engine)) == [("langfuse:a1", 2), ("langfuse:a2", 4)]


NAMELESS = [score(id=f"s{n}", value=n, timestamp=f"2026-01-31T09:3{n}:00Z") for n in (4, 2)]


@pytest.mark.parametrize(
    ("rows", "reviewer"),
    [
        (lambda n: [trace(*NAMELESS[:n], userId=None)], "anonymous"),
        (lambda n: [trace(*NAMELESS[:n], userId=None)], "bob"),
        (lambda n: [trace(userId=None), *NAMELESS[:n]], "anonymous"),
        (lambda n: [trace(userId=None), *NAMELESS[:n]], "bob"),
        (lambda n: [{"id": "t1", "input": "q", "output": "a", "rating": [4, 2][:n]}], "anonymous"),
    ],
)
@pytest.mark.parametrize("earlier", [False, True])
def test_a_rater_without_a_name_is_one_in_a_later_export(
    engine: Engine, tmp_path: Path, rows: Callable[[int], list[Any]], reviewer: str, earlier: bool
) -> None:
    """The score's id names them, also those whom an earlier version called anonymous."""
    first, second = (write_jsonl(tmp_path / f"{n}.jsonl", rows(n)) for n in (1, 2))
    import_ratings(engine, first, format="langfuse", reviewer=reviewer)
    if earlier:
        with transaction(engine) as connection:
            connection.execute(text("UPDATE rlhf_reviews SET reviewer = :name"), {"name": reviewer})
        again = import_ratings(engine, first, format="langfuse", reviewer=reviewer)
        assert (again.added, again.updated) == (0, 0)
    for _ in range(2):
        import_ratings(engine, second, format="langfuse", reviewer=reviewer)
        assert sorted(row[1] for row in reviews(engine)) == [2, 4]


@pytest.mark.parametrize(
    ("stored", "refused"),
    [('{"query": "What is flu?"}', False), ('"What is flu?"', False), ('{"query": "Why?"}', True), ("Why?", True)],
)
def test_a_question_that_was_stored_as_json_is_mended(
    engine: Engine, tmp_path: Path, stored: str, refused: bool
) -> None:
    """An earlier version stored what is around the question, too; what says something else is another answer."""
    record(engine, [Rating(stored, "A virus.", external_id="t1")])
    path = write_jsonl(tmp_path / "a.jsonl", [trace(score(), input={"query": "What is flu?"})])
    if refused:
        with pytest.raises(ImportFileError, match="has for another answer"):
            import_ratings(engine, path, format="langfuse")
        return
    assert counts(import_ratings(engine, path, format="langfuse")) == (1, 1, 0, 0, 0)
    with transaction(engine) as connection:
        assert connection.execute(text("SELECT user_prompt FROM rlhf_interactions")).scalars().all() == ["What is flu?"]


def test_a_column_beside_scores_costs_none(sqlite_engine: Engine, tmp_path: Path) -> None:
    """The scores of the trace itself count, and those in the column are counted."""
    path = write_jsonl(tmp_path / "a.jsonl", [trace(score(comment="Fine."), rating=[5, 1])])
    report = import_ratings(sqlite_engine, path, format="langfuse")
    assert [row[:3] for row in reviews(sqlite_engine)] == [("langfuse:u7", 4, "Fine.")]
    assert report.ignored == ("scores in a column beside those of the trace itself (2)",)


@pytest.mark.parametrize("value", [{"diagnosis": "Grippe – ä"}, [1, 2], {"a": [{"b": 1}]}, [{"b": 1}]])
def test_an_answer_that_is_json_is_its_text(sqlite_engine: Engine, tmp_path: Path, value: Any) -> None:
    """Be it an object or the text of one: neither costs its rating, and both are the same answer."""
    for output in (value, json.dumps(value, ensure_ascii=False)):
        path = write_jsonl(tmp_path / "a.jsonl", [trace(score(), output=output)])
        assert import_ratings(sqlite_engine, path, format="langfuse").ignored == ()
    assert [row[1] for row in reviews(sqlite_engine)] == [4]


@pytest.mark.parametrize("text", ['{"a": 1}', "[1, 2]", "[broken", '{"diagnosis": "flu"}'])
def test_an_answer_in_json_is_a_text(engine: Engine, tmp_path: Path, text: str) -> None:
    """What is no message and no object around one was meant as it stands, and comes back so."""
    record(engine, [Rating(text, text, 4, reviewer="ann")])
    export_ratings(engine, tmp_path / "a.jsonl", format="langfuse")
    other = memory_database()
    import_ratings(other, tmp_path / "a.jsonl", format="langfuse")
    export_ratings(other, tmp_path / "b.csv")
    export_ratings(engine, tmp_path / "c.csv")
    assert (tmp_path / "b.csv").read_text() == (tmp_path / "c.csv").read_text()


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json"])
def test_what_goes_out_comes_back(engine: Engine, tmp_path: Path, name: str) -> None:
    """Names, roles, flags, corrections and times of reviews survive, and where answers are from."""
    origin = {"source": "s", "candidate_group": "g", "title": "T", "url": "https://x.org/", "licence": "CC"}
    ids = record(engine, [Rating("q", text, shown_rank=1, score=0.5, **origin) for text in ("a", "b")])  # type: ignore[arg-type]
    rate(engine, ids[0], reviewer="ann", rating=2, comment="Why?", correction="c", harmful=True)
    rate(engine, ids[0], reviewer="visitor:1", rating=5, role=ReviewerRole.END_USER)
    options, labels = ExportOptions(score_name="stars"), Labels(score_name="stars")
    assert export_ratings(engine, tmp_path / name, format="langfuse", options=options) == 2
    other = memory_database()
    assert counts(import_ratings(other, tmp_path / name, format="langfuse", labels=labels)) == (3, 3, 0, 0, 0)
    assert reviews(other) == reviews(engine)
    assert stats(other).first_rated_at == stats(engine).first_rated_at
    before = (tmp_path / name).read_bytes()
    export_ratings(other, tmp_path / name, format="langfuse", options=options)
    assert (tmp_path / name).read_bytes() == before
    other.dispose()


def test_a_score_has_langfuses_names(engine: Engine, tmp_path: Path) -> None:
    """The keys are those of the public API."""
    rate(engine, record(engine, [Rating("q", "a", external_id="t1")])[0], reviewer="ann", rating=2, correction="c")
    export_ratings(engine, tmp_path / "a.jsonl", format="langfuse")
    found = json.loads((tmp_path / "a.jsonl").read_text(encoding="utf-8"))
    assert set(found) <= set(trace())
    first, second = found["scores"]
    assert set(first) <= set(score())
    assert (first["traceId"], first["name"], first["value"], first["dataType"]) == ("t1", "rating", 2, "NUMERIC")
    assert (second["name"], second["stringValue"], second["dataType"]) == ("output", "c", "CORRECTION")


def score_3(**changes: Any) -> dict[str, Any]:
    """Return a score as `GET /api/public/v3/scores?fields=subject,details,annotation` gives it (SDK 5.0, `ScoreV3`)."""
    found = score(value=4.0, subject={"kind": "trace", "id": "t1"}, projectId="p")
    return {
        name: value for name, value in found.items() if name not in ("traceId", "observationId", "sessionId")
    } | changes


def test_scores_of_version_3_are_of_their_subject(engine: Engine, tmp_path: Path) -> None:
    """A trace, a part of it, or what is no answer at all; booleans, words and corrections are plain values."""
    subjects = [
        score_3(authorUserId="ann"),
        score_3(id="s2", authorUserId="bob", dataType="BOOLEAN", value=False),
        score_3(id="s3", authorUserId="eve", subject={"kind": "observation", "id": "o1", "traceId": "t1"}, value=2.0),
        score_3(id="s4", subject={"kind": "session", "id": "x"}),
        score_3(id="s5", subject={"kind": "experiment", "id": "x"}),
        score_3(id="s6", authorUserId="ann", dataType="CATEGORICAL", value="good", name="tone"),
    ]
    page = tmp_path / "page.json"
    page.write_text(json.dumps({"data": subjects, "meta": {"limit": 50}}), encoding="utf-8")
    import_ratings(engine, write_jsonl(tmp_path / "t.jsonl", [trace()]), format="langfuse")
    report = import_ratings(engine, page, format="langfuse")
    assert [(row[0], row[1]) for row in reviews(engine)] == [
        ("langfuse:ann", 4),
        ("langfuse:bob", 1),
        ("langfuse:eve", 2),
    ]
    assert set(report.ignored) == {"score tone", "scores of a session or a run (2)"}
    corrected = trace(score_3(), score_3(id="s7", name="output", dataType="CORRECTION", value="Influenza."))
    import_ratings(engine, write_jsonl(tmp_path / "c.jsonl", [corrected | {"id": "t2"}]), format="langfuse")
    assert reviews(engine)[-1][3] == "Influenza."


def test_scores_without_their_subject_say_what_to_ask_for(engine: Engine, tmp_path: Path) -> None:
    """The API leaves it out unless it is asked for it, and then nobody knows what was rated."""
    path = write_jsonl(tmp_path / "a.jsonl", [score_3(subject=None)])
    assert "fields=subject" in reasons(engine, path, format="langfuse")[1]
