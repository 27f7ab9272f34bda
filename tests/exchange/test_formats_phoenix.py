from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rating_files import counts, reasons, write_csv, write_jsonl
from sqlalchemy import Engine, text

from rlhf_loop.exchange.formats.base import Labels, NumberScale
from rlhf_loop.exchange.transfer import import_ratings
from rlhf_loop.store.engine import transaction

THUMBS = Labels(thumbs=True, score_name="user feedback")
SCALE = Labels(scale=NumberScale(0, 1), score_name="user feedback")


def span(**changes: Any) -> dict[str, Any]:
    """Return a row of `client.spans.get_spans_dataframe()`, with its index."""
    return {
        "context.span_id": "67f6740bbe1ddc3f",
        "name": "chat",
        "span_kind": "CHAIN",
        "parent_id": None,
        "start_time": datetime(2026, 1, 31, 9, 29, tzinfo=UTC),
        "end_time": datetime(2026, 1, 31, 9, 30, tzinfo=UTC),
        "status_code": "OK",
        "status_message": "",
        "events": [],
        "context.trace_id": "c63b3f0e6d2e4f6c8d1d2f0a9b8c7d6e",
        "attributes.input.value": "What is flu?",
        "attributes.input.mime_type": "text/plain",
        "attributes.output.value": "A virus.",
        "attributes.llm.model_name": None,
        "attributes.openinference.span.kind": "CHAIN",
    } | changes


def annotation(**changes: Any) -> dict[str, Any]:
    """Return a row of `client.spans.get_span_annotations_dataframe()`, with its index."""
    return {
        "span_id": "67f6740bbe1ddc3f",
        "annotation_name": "user feedback",
        "annotator_kind": "HUMAN",
        "metadata": {},
        "identifier": "user-123",
        "id": "U3BhbkFubm90YXRpb246MQ==",
        "created_at": "2026-01-31T09:31:00+00:00",
        "updated_at": "2026-01-31T09:32:00+00:00",
        "source": "API",
        "user_id": None,
        "result.label": None,
        "result.score": 1.0,
        "result.explanation": "Short.",
    } | changes


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        # Parquet has no objects without fields.
        plain = [{name: value for name, value in row.items() if value not in ({}, [])} for row in rows]
        pq.write_table(pa.Table.from_pylist(plain), path)
    elif path.suffix == ".csv":
        names = list(dict.fromkeys(name for row in rows for name in row))
        write_csv(path, [names, *[["" if row.get(name) is None else row[name] for name in names] for row in rows]])
    else:
        write_jsonl(path, [json.loads(json.dumps(row, default=str)) for row in rows])
    return path


def stored(engine: Engine) -> list[tuple[Any, ...]]:
    wanted = """
        SELECT i.external_id, i.user_prompt, i.ai_response, r.reviewer, r.rating, r.comment, r.role
        FROM rlhf_interactions i LEFT JOIN rlhf_reviews r ON r.interaction_id = i.id ORDER BY i.id, r.id
    """
    with transaction(engine) as connection:
        return [tuple(row) for row in connection.execute(text(wanted))]


SPAN_ID = "67f6740bbe1ddc3f"
RATED = (SPAN_ID, "What is flu?", "A virus.", "phoenix:user-123", 5, "Short.", "end_user")


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_spans_first_then_their_annotations(engine: Engine, tmp_path: Path, kind: str) -> None:
    """A span is known by its id; whoever annotated is an end user; a second time changes nothing."""
    spans = written(tmp_path / f"spans.{kind}", [span(), span(**{"context.span_id": "b"})])
    said = written(tmp_path / f"annotations.{kind}", [annotation()])
    assert counts(import_ratings(engine, spans, format="phoenix")) == (2, 2, 0, 0, 0)
    assert counts(import_ratings(engine, said, format="phoenix", labels=THUMBS)) == (1, 1, 0, 0, 0)
    assert stored(engine) == [RATED, ("b", *RATED[1:3], None, None, None, None)]
    for path, rows in ((spans, 2), (said, 1)):
        assert counts(import_ratings(engine, path, format="phoenix", labels=THUMBS)) == (rows, 0, 0, rows, 0)


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_annotations_joined_to_their_spans(sqlite_engine: Engine, tmp_path: Path, kind: str) -> None:
    """As `spans.join(annotations)` gives it: parts of a request count where they are annotated, and only there."""
    said = {name: value for name, value in annotation().items() if name not in ("span_id", "metadata", "id")}
    nobody = dict.fromkeys(said) | ({"result.score": math.nan} if kind == "parquet" else {})
    rows = [
        span() | said,
        span() | said | {"identifier": "px-app:VXNlcjox", "user_id": "VXNlcjox", "result.score": 0.0},
        span(**{"context.span_id": "b", "parent_id": SPAN_ID, "span_kind": "LLM"}) | nobody,
        span(**{"context.span_id": "c", "parent_id": SPAN_ID, "span_kind": "LLM"}) | said,
        span(**{"context.span_id": "d", "span_kind": "RETRIEVER"}) | nobody,
        span(**{"context.span_id": "e"}) | nobody,
    ]
    import_ratings(sqlite_engine, written(tmp_path / f"a.{kind}", rows), format="phoenix", labels=THUMBS)
    assert [(row[0], row[3], row[4]) for row in stored(sqlite_engine)] == [
        (SPAN_ID, "phoenix:user-123", 5),
        (SPAN_ID, "phoenix:VXNlcjox", 1),
        ("c", "phoenix:user-123", 5),
        ("e", None, None),
    ]


def test_what_the_api_gives(sqlite_engine: Engine, tmp_path: Path) -> None:
    """Objects instead of dots, in pages; a model's messages are read from its attributes."""
    attributes = {
        "llm.model_name": "gpt-5",
        "input.value": '{"messages": [{"role": "user", "content": "What is flu?"}], "temperature": 0}',
        "llm.input_messages": [
            {"message": {"role": "system", "content": "Be brief."}},
            {"message.role": "user", "message.content": "What is flu?"},
        ],
        "output": {"value": '{"choices": [{"message": {"role": "assistant", "content": "A virus."}}]}'},
    }
    found = {"id": "x", "context": {"trace_id": "t", "span_id": SPAN_ID}, "parent_id": None, "span_kind": "LLM"}
    said = {"span_id": SPAN_ID, "name": "user feedback", "annotator_kind": "HUMAN", "identifier": "user-123"}
    said["result"] = {"label": "thumbs-up", "score": 1, "explanation": "Short."}
    path = tmp_path / "page.json"
    page = {"data": [said, {**found, "attributes": attributes}], "next_cursor": None}
    path.write_text(json.dumps(page), encoding="utf-8")
    import_ratings(sqlite_engine, path, format="phoenix", labels=Labels(score_name="user feedback"))
    assert stored(sqlite_engine) == [RATED]
    with transaction(sqlite_engine) as connection:
        assert connection.execute(text("SELECT source FROM rlhf_interactions")).scalar() == "gpt-5"


def test_examples_of_a_dataset(sqlite_engine: Engine, tmp_path: Path) -> None:
    """With the annotations in their metadata; those without a question are counted."""
    said = {"label": "good", "score": None, "explanation": "Short.", "annotator_kind": "HUMAN", "user_id": "VXNlcjox"}
    examples = [
        {
            "id": "RGF0YXNldEV4YW1wbGU6MQ==",
            "input": {"question": "What is flu?"},
            "output": {"answer": "A virus."},
            "metadata": {"annotations": {"user feedback": [said], "correctness": [{**said, "annotator_kind": "LLM"}]}},
            "updated_at": "2026-01-31T09:30:00Z",
        },
        {"id": "2", "input": {"question": "Why?"}, "output": {"answer": "So."}, "metadata": {}},
        {"id": "3", "input": {"numbers": [1]}, "output": {"answer": "So."}, "metadata": {}},
    ]
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({"data": {"dataset_id": "d", "version_id": "v", "examples": examples}}))
    labels = Labels(score_name="user feedback")
    report = import_ratings(sqlite_engine, path, format="phoenix", labels=labels, skip_invalid=True)
    passed_over = "examples whose input is an object of another form (1)"
    assert (report.added, report.ignored) == (2, ("annotation correctness", passed_over))
    assert [each[1:5] for each in stored(sqlite_engine)] == [
        ("What is flu?", "A virus.", "phoenix:VXNlcjox", 5),
        ("Why?", "So.", None, None),
    ]


def attributes(prefix: str = "", **said: Any) -> dict[str, Any]:
    """Return an annotation among the attributes of a span, as a download has it."""
    given = {"name": "user feedback", "annotator_kind": "HUMAN", **said}
    return {f"{prefix}annotations.0.annotation.{name}": value for name, value in given.items()}


def otlp(values: dict[str, Any]) -> list[dict[str, Any]]:
    kinds = {str: "string_value", float: "double_value"}
    return [{"key": name, "value": {kinds[type(value)]: value}} for name, value in values.items()]


TEXTS = {"input.value": "What is flu?", "output.value": "A virus."}
MESSAGES = {
    "llm.input_messages.0.message.role": "user",
    "llm.input_messages.0.message.contents.0.message_content.type": "text",
    "llm.input_messages.0.message.contents.0.message_content.text": "What is flu?",
    "llm.output_messages.0.message.role": "assistant",
    "llm.output_messages.0.message.content": "A virus.",
}


@pytest.mark.parametrize("texts", [TEXTS, MESSAGES])
@pytest.mark.parametrize("format", ["jsonl", "otlp"])
def test_what_the_pages_download(sqlite_engine: Engine, tmp_path: Path, format: str, texts: dict[str, Any]) -> None:
    """Annotations among the attributes, of the span and of its trace; a model's is nobody's."""
    of_model = {
        name.replace(".0.", ".1."): value for name, value in attributes(annotator_kind="LLM", label="bad").items()
    }
    of_trace = attributes("trace.", label="good", explanation="Short.", identifier="user-123")
    first = texts | attributes(label="bad", identifier="user-4") | of_model | of_trace
    part = {"input.value": "x"}
    if format == "jsonl":
        spans = [{"context": {"span_id": SPAN_ID, "trace_id": "t"}, "parent_id": None, "attributes": first}]
        spans += [{"context": {"span_id": "b", "trace_id": "t"}, "parent_id": SPAN_ID, "attributes": part}]
        path = write_jsonl(tmp_path / "spans.jsonl", spans)
    else:
        spans = [{"span_id": SPAN_ID, "trace_id": "t", "parent_span_id": None, "attributes": otlp(first)}]
        spans += [{"span_id": "b", "trace_id": "t", "parent_span_id": SPAN_ID, "attributes": otlp(part)}]
        path = tmp_path / "spans.json"
        path.write_text(json.dumps({"resource_spans": [{"scope_spans": [{"spans": spans}]}]}), encoding="utf-8")
    report = import_ratings(sqlite_engine, path, format="phoenix", labels=Labels(score_name="user feedback"))
    assert stored(sqlite_engine) == [(*RATED[:3], "phoenix:user-4", 1, None, "end_user"), RATED]
    assert report.ignored == ("annotation user feedback by LLM", "unrated parts of requests (1)")


def test_what_is_said_of_a_trace_is_about_its_first_span(sqlite_engine: Engine, tmp_path: Path) -> None:
    """Wherever it stands; of a trace that is not in the file nobody knows it, and of sessions there is none."""
    said = {"name": "user feedback", "annotator_kind": "HUMAN", "identifier": "user-123"}
    said["result"] = {"label": "good", "explanation": "Short."}
    id = {"context": {"span_id": "b", "trace_id": "t"}}
    carrier = id | {"parent_id": SPAN_ID, "attributes": TEXTS | attributes("trace.", label="bad", identifier="user-4")}
    rows = [
        said | {"trace_id": "t"},
        carrier,
        {"context": {"span_id": SPAN_ID, "trace_id": "t"}, "parent_id": None, "attributes": TEXTS},
        said | {"trace_id": "gone"},
        said | {"session_id": "s"},
        said | {"span_id": SPAN_ID, "document_position": 0},
    ]
    late = write_jsonl(tmp_path / "late.jsonl", [*rows, said | {"trace_id": "t", "updated_at": "late"}])
    labels = Labels(score_name="user feedback")
    assert "rated_at is 'late'" in reasons(sqlite_engine, late, format="phoenix", labels=labels)[7]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    report = import_ratings(sqlite_engine, path, format="phoenix", labels=Labels(score_name="user feedback"))
    assert stored(sqlite_engine) == [RATED, (*RATED[:3], "phoenix:user-4", 1, None, "end_user")]
    assert report.ignored == (
        "unrated parts of requests (1)",
        "annotations of sessions (1)",
        "annotations of documents (1)",
        "annotations of a trace whose first span is not in the file (1)",
    )


@pytest.mark.parametrize("way", ["root", "row", "row before", "child"])
def test_whoever_annotated_the_first_span_meant_that(sqlite_engine: Engine, tmp_path: Path, way: str) -> None:
    """Their word on the trace changes nothing, wherever both stand, and without times; another's does."""
    of_span = {"name": "user feedback", "annotator_kind": "HUMAN", "identifier": "user-123"}
    of_span["result"] = {"label": "good", "explanation": "Short."}
    of_trace = [attributes("trace.", label="bad", identifier=name) for name in ("user-123", "user-4")]
    second = {name.replace(".0.", ".1."): value for name, value in of_trace[1].items()}
    first = TEXTS | of_trace[0] | second | (attributes(label="good", explanation="Short.", identifier="user-123"))
    if way != "root":
        first = TEXTS | ({} if way == "child" else of_trace[0] | second)
    rows = [
        {"context": {"span_id": SPAN_ID, "trace_id": "t"}, "parent_id": None, "attributes": first},
        {"context": {"span_id": "b", "trace_id": "t"}, "parent_id": "a", "attributes": TEXTS | of_trace[0] | second},
    ]
    if way != "root":
        rows.insert(0 if way == "row before" else 2, of_span | {"span_id": SPAN_ID})
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    report = import_ratings(sqlite_engine, path, format="phoenix", labels=Labels(score_name="user feedback"))
    assert sorted(stored(sqlite_engine), key=str) == [RATED, (*RATED[:3], "phoenix:user-4", 1, None, "end_user")]
    assert "annotations of a trace by whoever annotated its first span (1)" in report.ignored


def test_examples_in_csv(sqlite_engine: Engine, tmp_path: Path) -> None:
    """Its columns have dots; annotators without names are several people all the same."""
    said = [{"label": label, "annotator_kind": "HUMAN"} for label in ("good", "bad")]
    names = ["id", "input.question", "output.answer", "metadata.annotations.rating"]
    path = write_csv(tmp_path / "a.csv", [names, ["e1", "Why?", "So.", json.dumps(said)]])
    import_ratings(sqlite_engine, path, format="phoenix")
    assert [row[1:5] for row in stored(sqlite_engine)] == [
        ("Why?", "So.", "phoenix:annotation-e1-1", 5),
        ("Why?", "So.", "phoenix:annotation-e1-2", 1),
    ]


@pytest.mark.parametrize(
    ("changes", "labels", "rating"),
    [
        ({"result.score": 1.0}, THUMBS, 5),
        ({"result.score": 0.0}, THUMBS, 1),
        ({"result.score": 0.5}, SCALE, 3),
        ({"result.score": 0.9}, SCALE, 5),
        ({"result.score": None, "result.label": "👎"}, SCALE, 1),
        ({"result.score": 0.7, "result.label": "relevant"}, SCALE, 4),
        (
            {"result.score": 4, "result.label": "relevant"},
            Labels(scale=NumberScale(1, 5), score_name="user feedback"),
            4,
        ),
        ({"result.score": None, "result.label": None}, SCALE, None),
        ({"annotator_kind": "LLM"}, THUMBS, None),
        ({"annotator_kind": None}, THUMBS, 5),
        ({"annotation_name": "correctness"}, THUMBS, None),
    ],
)
def test_each_kind_of_annotation(
    sqlite_engine: Engine, tmp_path: Path, changes: dict[str, Any], labels: Labels, rating: int | None
) -> None:
    """A word for good or bad comes first, then the number on its scale; a model's word is no one's."""
    path = written(tmp_path / "a.jsonl", [span() | annotation(**changes)])
    import_ratings(sqlite_engine, path, format="phoenix", labels=labels)
    assert [row[4] for row in stored(sqlite_engine)] == [rating]


def test_an_annotator_without_a_name_is_one(sqlite_engine: Engine, tmp_path: Path) -> None:
    """Whether it stands alone, beside its span or among others, and where an earlier version called them anonymous."""
    nobody, other = annotation(identifier=""), attributes(label="bad", identifier="user-4")
    first = {"context": {"span_id": SPAN_ID}, "attributes": TEXTS | other}
    first["annotations"] = [{**nobody, "name": "user feedback", "result": {"label": "good"}}]
    for rows in ([span() | nobody], [nobody], [first]):
        path = written(tmp_path / "a.jsonl", rows)
        import_ratings(sqlite_engine, path, format="phoenix", labels=THUMBS)
        with transaction(sqlite_engine) as connection:
            connection.execute(text("UPDATE rlhf_reviews SET reviewer = 'anonymous' WHERE reviewer LIKE '%annot%'"))
    assert sorted(row[3:5] for row in stored(sqlite_engine)) == [("anonymous", 5), ("phoenix:user-4", 1)]


def test_bad_spans_and_annotations_are_all_named(engine: Engine, tmp_path: Path) -> None:
    """Each is judged alone; nothing is stored."""
    rows = [
        span(),
        span(**{"context.span_id": None}),
        annotation(span_id=None),
        annotation(**{"result.score": 1.5}),
        annotation(**{"result.score": None, "result.label": "so so"}),
        annotation(span_id="gone"),
    ]
    found = reasons(engine, written(tmp_path / "a.jsonl", rows), format="phoenix", labels=SCALE)
    assert list(found) == list(range(2, 7))
    for number, words in {
        2: "context.span_id is missing",
        3: "span_id is missing",
        4: "the annotation 'user feedback' is 1.5, not on the scale from 0 to 1",
        5: "is 'so so', neither a rating nor a word",
        6: "the answer 'gone' is neither in the file nor in the database",
    }.items():
        assert words in found[number]
    unsaid = Labels(score_name="user feedback")
    found = reasons(engine, written(tmp_path / "b.jsonl", [span() | annotation()]), format="phoenix", labels=unsaid)
    assert found[1].endswith("is 1.0; say what its scale is, such as --scale 0,1, or --thumbs")


def test_deep_nesting_is_one_bad_row_at_most(sqlite_engine: Engine, tmp_path: Path) -> None:
    """However deep: the row is counted among what is no span, or refused by its number, and nothing else happens."""
    for levels in range(100, 1000, 100):
        inside: Any = "x"
        for _ in range(levels):
            inside = {"input": inside}
        path = written(tmp_path / f"{levels}.jsonl", [span(), {"span_id": "x", "attributes": inside}])
        report = import_ratings(sqlite_engine, path, format="phoenix", skip_invalid=True)
        said = " ".join([*report.ignored, *(row.reason for row in report.invalid)])
        assert re.search("nested too deeply|spans without input|not JSON", said)
