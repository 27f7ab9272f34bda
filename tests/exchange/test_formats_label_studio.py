from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rating_files import counts, reasons, write_csv
from sqlalchemy import Engine, text

from rlhf_loop.domain import ReviewerRole
from rlhf_loop.exchange.formats.base import Labels, NumberScale
from rlhf_loop.exchange.transfer import import_ratings
from rlhf_loop.store.engine import transaction


def result(name: str, kind: str, value: Any, to: str = "answer") -> dict[str, Any]:
    """Return a region as Label Studio has it; the key in the value is that of its kind."""
    key = {"rating": "rating", "number": "number", "choices": "choices", "textarea": "text", "pairwise": "selected"}
    return {"id": "r", "from_name": name, "to_name": to, "type": kind, "origin": "manual", "value": {key[kind]: value}}


def annotation(*results: dict[str, Any], id: int = 11, by: Any = 1, **more: Any) -> dict[str, Any]:
    """Return an annotation of the JSON export."""
    return {
        "id": id,
        "completed_by": by,
        "result": list(results),
        "was_cancelled": False,
        "ground_truth": False,
        "created_at": "2026-01-31T09:29:00.000000Z",
        "updated_at": "2026-01-31T09:30:00.000000Z",
        "draft_created_at": None,
        "lead_time": 4.2,
        "prediction": {},
        "result_count": 0,
        "task": 1,
        "project": 1,
        "parent_prediction": None,
    } | more


def task(*annotations: Any, data: Any = None, **more: Any) -> dict[str, Any]:
    """Return a task of the JSON export."""
    return {
        "id": 1,
        "annotations": list(annotations),
        "file_upload": "0a1b-tasks.json",
        "drafts": [],
        "predictions": [{"model_version": "m", "result": [result("rating", "rating", 1)]}],
        "data": {"prompt": "Was hilft?", "answer": "Ruhe."} if data is None else data,
        "meta": {},
        "created_at": "2026-01-30T09:00:00.000000Z",
        "updated_at": "2026-01-31T09:30:00.000000Z",
        "inner_id": 1,
        "project": 1,
    } | more


def written(tmp_path: Path, *tasks: Any) -> Path:
    path = tmp_path / "project-1-at-2026-01-31-09-30-1a2b3c4d.json"
    path.write_text(json.dumps(list(tasks), ensure_ascii=False), encoding="utf-8")
    return path


def reviews(engine: Engine) -> list[tuple[Any, ...]]:
    wanted = """
        SELECT i.ai_response, r.reviewer, r.rating, r.comment, r.correction, r.harmful, r.role
        FROM rlhf_interactions i LEFT JOIN rlhf_reviews r ON r.interaction_id = i.id ORDER BY i.id, r.id
    """
    with transaction(engine) as connection:
        return [(*row[:5], bool(row.harmful), row.role) for row in connection.execute(text(wanted))]


def preferences(engine: Engine) -> list[tuple[Any, ...]]:
    wanted = """
        SELECT a.ai_response, b.ai_response, p.preferred, p.reviewer, p.role FROM rlhf_preferences p
        JOIN rlhf_interactions a ON a.id = p.first_id JOIN rlhf_interactions b ON b.id = p.second_id ORDER BY p.id
    """
    with transaction(engine) as connection:
        return [tuple(row) for row in connection.execute(text(wanted))]


JSON = task(
    annotation(result("rating", "rating", 4), result("comment", "textarea", ["Gut.", "Kurz."])),
    annotation(
        result("rating", "rating", 2),
        result("harmful", "choices", ["yes"]),
        result("correction", "textarea", ["Wasser."]),
        id=12,
        by={"id": 2, "email": "ann@example.org", "first_name": "Ann"},
    ),
    annotation(id=13, by=3, was_cancelled=True),
)
# As label-studio-sdk 2.1 converts the first two of these.
JSON_MIN = [
    {
        "prompt": "Was hilft?",
        "answer": "Ruhe.",
        "id": 1,
        "rating": [{"rating": 4}],
        "comment": {"text": ["Gut.", "Kurz."]},
        "annotator": 1,
        "annotation_id": 11,
        "created_at": "2026-01-31T09:29:00.000000Z",
        "updated_at": "2026-01-31T09:30:00.000000Z",
        "lead_time": 4.2,
    },
    {
        "prompt": "Was hilft?",
        "answer": "Ruhe.",
        "id": 1,
        "rating": [{"rating": 2}],
        "harmful": "yes",
        "correction": "Wasser.",
        "annotator": 2,
        "annotation_id": 12,
        "created_at": "2026-01-31T09:29:00.000000Z",
        "updated_at": "2026-01-31T09:30:00.000000Z",
        "lead_time": 4.2,
    },
]
SAID = [
    ("Ruhe.", "label-studio:1", 4, "Gut.\nKurz.", None, False, "expert"),
    ("Ruhe.", "label-studio:2", 2, None, "Wasser.", True, "expert"),
]


def csv_of(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write what JSON_MIN has as the CSV export does: columns in their order, objects as JSON."""
    names = sorted({name for row in rows for name in row})
    cells = [[row.get(name, "") for name in names] for row in rows]
    shown = [[json.dumps(cell) if isinstance(cell, list | dict) else cell for cell in row] for row in cells]
    return write_csv(path, [names, *shown])


def test_all_three_exports_say_the_same(engine: Engine, tmp_path: Path) -> None:
    """Each annotator is a reviewer, what was skipped is not there; whichever comes later changes nothing."""
    assert counts(import_ratings(engine, written(tmp_path, JSON), format="label-studio")) == (2, 2, 0, 0, 0)
    assert reviews(engine) == SAID
    other = tmp_path / "min.json"
    other.write_text(json.dumps(JSON_MIN), encoding="utf-8")
    for path in (other, csv_of(tmp_path / "a.csv", JSON_MIN), written(tmp_path, JSON)):
        assert counts(import_ratings(engine, path, format="label-studio")) == (2, 0, 0, 2, 0)
    assert reviews(engine) == SAID


@pytest.mark.parametrize("kind", ["min.json", "a.csv"])
def test_a_row_for_each_annotation_stands_alone(sqlite_engine: Engine, tmp_path: Path, kind: str) -> None:
    """JSON_MIN and CSV are read without the JSON."""
    path = tmp_path / kind
    if kind == "a.csv":
        csv_of(path, JSON_MIN)
    else:
        path.write_text(json.dumps(JSON_MIN), encoding="utf-8")
    import_ratings(sqlite_engine, path, format="label-studio")
    assert reviews(sqlite_engine) == SAID


def test_what_nobody_rated_is_kept_as_unrated(sqlite_engine: Engine, tmp_path: Path) -> None:
    """Skipped, empty, or without annotations; a comment alone is no review."""
    tasks = [
        task(annotation(was_cancelled=True), data={"prompt": "q", "answer": "a"}),
        task(annotation(), data={"prompt": "q", "answer": "b"}),
        task(data={"prompt": "q", "answer": "c"}),
        task(annotation(result("comment", "textarea", ["?"])), data={"prompt": "q", "answer": "d"}),
    ]
    import_ratings(sqlite_engine, written(tmp_path, *tasks), format="label-studio")
    assert [(row[0], row[2]) for row in reviews(sqlite_engine)] == [("a", None), ("b", None), ("c", None), ("d", None)]


@pytest.mark.parametrize(
    ("results", "columns", "labels", "rating"),
    [
        ([result("stars", "rating", 3)], {}, Labels(), 3),
        ([result("quality", "rating", 3)], {}, Labels(), 3),
        ([result("quality", "number", 3)], {}, Labels(), 3),
        ([result("quality", "rating", 9)], {}, Labels(scale=NumberScale(1, 10)), 5),
        ([result("quality", "rating", 3), result("tone", "rating", 1)], {"rating": "quality"}, Labels(), 3),
        ([result("rating", "rating", 3), result("tone", "rating", 1)], {}, Labels(), 3),
        ([result("verdict", "choices", ["Good"])], {"rating": "verdict"}, Labels(), 5),
        ([result("verdict", "choices", ["👎"])], {"rating": "verdict"}, Labels(bad=2), 2),
        ([result("rating", "choices", ["4"])], {}, Labels(), 4),
        ([result("topic", "choices", ["Good"])], {}, Labels(), None),
    ],
)
def test_which_control_is_the_rating(
    sqlite_engine: Engine,
    tmp_path: Path,
    results: list[Any],
    columns: dict[str, str],
    labels: Labels,
    rating: int | None,
) -> None:
    """By its name, by the option, or because it is the only number."""
    path = written(tmp_path, task(annotation(*results)))
    report = import_ratings(sqlite_engine, path, format="label-studio", columns=columns, labels=labels)
    assert [row[2] for row in reviews(sqlite_engine)] == [rating]
    used = {"topic": ("control topic",), "tone": ("control tone",)}
    assert report.ignored == used.get(results[-1]["from_name"], ())


def test_fields_have_other_names(sqlite_engine: Engine, tmp_path: Path) -> None:
    """Usual ones are found, others by the option; messages are read; what else is known of the answer comes along."""
    data = {
        "frage": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Was?"}],
        "response": "So.",
        "source": "bot",
        "group": 7,
        "image": "https://example.org/a.png",
    }
    path = written(tmp_path, task(annotation(result("rating", "rating", 5)), data=data))
    import_ratings(
        sqlite_engine, path, format="label-studio", columns={"user_prompt": "frage"}, role=ReviewerRole.END_USER
    )
    with transaction(sqlite_engine) as connection:
        row = connection.execute(text("SELECT user_prompt, source, candidate_group FROM rlhf_interactions")).one()
    assert tuple(row) == ("Was?", "bot", "7")
    assert reviews(sqlite_engine)[0][-1] == "end_user"


PAIRWISE = task(
    annotation(
        result("better", "pairwise", "right", "answer1,answer2"),
        result("rating1", "rating", 2, "answer1"),
        result("rating2", "rating", 5, "answer2"),
        result("comment2", "textarea", ["Ja."], "answer2"),
    ),
    annotation(result("better", "pairwise", "left", "answer1,answer2"), id=12, by=2),
    data={"prompt": "Was?", "answer1": "A", "answer2": "B"},
)


def test_two_answers_compared(engine: Engine, tmp_path: Path) -> None:
    """A preference of each annotator, and ratings of each answer; a second time changes nothing."""
    path = written(tmp_path, PAIRWISE)
    report = import_ratings(engine, path, format="label-studio")
    assert preferences(engine) == [
        ("A", "B", "second", "label-studio:1", "expert"),
        ("A", "B", "first", "label-studio:2", "expert"),
    ]
    assert [row[:4] for row in reviews(engine)] == [("A", "label-studio:1", 2, None), ("B", "label-studio:1", 5, "Ja.")]
    again = import_ratings(engine, path, format="label-studio")
    assert (report.added, again.added, again.updated) == (4, 0, 0)


def test_whoever_has_no_name_prefers_once(engine: Engine, tmp_path: Path) -> None:
    """Also where an earlier version called them anonymous, and another one came to it."""
    said = [annotation(result("b", "pairwise", side, "answer1,answer2"), id=n, by=None) for n, side in TWO_SIDES]
    import_ratings(engine, written(tmp_path, task(said[0], data=PAIRWISE["data"])), format="label-studio")
    with transaction(engine) as connection:
        connection.execute(text("UPDATE rlhf_preferences SET reviewer = 'anonymous'"))
    import_ratings(engine, written(tmp_path, task(*said, data=PAIRWISE["data"])), format="label-studio")
    assert [row[2:4] for row in preferences(engine)] == [
        ("first", "label-studio:annotation-1"),
        ("second", "label-studio:annotation-2"),
    ]


TWO_SIDES = [(1, "left"), (2, "right")]


def test_two_answers_compared_in_a_row(sqlite_engine: Engine, tmp_path: Path) -> None:
    """JSON_MIN does not say what a control is about: of ratings the numbers at the ends of the names do, and of a
    comparison only whoever made the project.
    """
    row = {
        "prompt": "Was?",
        "answer1": "A",
        "answer2": "B",
        "better": [{"selected": "right"}],
        "rating1": [{"rating": 2}],
        "rating2": [{"rating": 5}],
        "annotator": 1,
        "annotation_id": 20,
    }
    path = written(tmp_path, row)
    assert "--map better=answer1,answer2" in reasons(sqlite_engine, path, format="label-studio")[1]
    import_ratings(sqlite_engine, path, format="label-studio", names={"better": "answer2,answer1"})
    assert preferences(sqlite_engine) == [("B", "A", "second", "label-studio:1", "expert")]
    assert sorted(row[:3] for row in reviews(sqlite_engine)) == [("A", "label-studio:1", 2), ("B", "label-studio:1", 5)]


@pytest.mark.parametrize(("word", "kept"), [("right", ["B"]), ("left", ["A"]), ("both", [])])
def test_a_comparison_that_is_a_word_alone(sqlite_engine: Engine, tmp_path: Path, word: str, kept: list[str]) -> None:
    """Whoever says that a control compares two fields has said that left and right are its words."""
    row = {"prompt": "Was?", "answer1": "A", "answer2": "B", "better": word, "annotator": 1, "annotation_id": 20}
    path = written(tmp_path, row)
    import_ratings(sqlite_engine, path, format="label-studio", names={"better": "answer1,answer2"})
    found = preferences(sqlite_engine)
    assert [first if preferred == "first" else second for first, second, preferred, *_ in found] == kept


def test_who_skips_is_counted(sqlite_engine: Engine, tmp_path: Path) -> None:
    """An earlier rating stays, as it may be of another annotation; the report says that somebody skipped."""
    import_ratings(
        sqlite_engine, written(tmp_path, task(annotation(result("rating", "rating", 4)))), format="label-studio"
    )
    skipped = task(annotation(was_cancelled=True, updated_at="2026-02-01T09:30:00Z"))
    report = import_ratings(sqlite_engine, written(tmp_path, skipped), format="label-studio")
    assert report.ignored == ("skipped annotations (1)",)
    assert [row[2] for row in reviews(sqlite_engine)] == [4]


TWO = {"prompt": "Was?", "response_a": "A", "response_b": "B"}


@pytest.mark.parametrize(
    ("results", "advice", "names", "stars"),
    [
        (
            [result("stars_1", "rating", 2, "txt-1"), result("stars_2", "rating", 5, "txt-2")],
            "--map txt-1=response_a",
            {"txt-1": "response_a", "txt-2": "response_b"},
            [("A", 2), ("B", 5)],
        ),
        (
            [result("q1", "choices", ["bad"], "first"), result("q2", "choices", ["good"], "second")],
            "--map first=response_a",
            {"first": "response_b", "second": "response_a", "q1": "rating", "q2": "rating"},
            [("A", 5), ("B", 1)],
        ),
        ([result("stars", "rating", 2, "all")], "--map all=none", {"stars": "none"}, [("A", None), ("B", None)]),
    ],
)
def test_which_answer_a_tag_shows_is_never_guessed(
    sqlite_engine: Engine, tmp_path: Path, results: list[Any], advice: str, names: dict[str, str], stars: list[Any]
) -> None:
    """Where tags have other names than the fields, the file is refused, and says how to name them."""
    path = written(tmp_path, task(annotation(*results), data=TWO))
    assert advice in reasons(sqlite_engine, path, format="label-studio")[1]
    import_ratings(sqlite_engine, path, format="label-studio", names=names)
    assert sorted((row[0], row[2]) for row in reviews(sqlite_engine)) == stars


@pytest.mark.parametrize(
    ("names", "better"),
    [
        ({"b_shown": "response_b", "a_shown": "response_a"}, "A"),
        ({"pw": "response_a,response_b"}, "B"),
        ({"pw": "none"}, None),
    ],
)
def test_left_and_right_are_never_guessed(
    sqlite_engine: Engine, tmp_path: Path, names: dict[str, str], better: str | None
) -> None:
    """Right is the second tag, whatever the names of tags and fields look like in alphabetical order."""
    path = written(tmp_path, task(annotation(result("pw", "pairwise", "right", "b_shown,a_shown")), data=TWO))
    assert "--map pw=response_a,response_b" in reasons(sqlite_engine, path, format="label-studio")[1]
    report = import_ratings(sqlite_engine, path, format="label-studio", names=names | {"typo": "x"})
    found = [one if preferred == "first" else other for one, other, preferred, *_ in preferences(sqlite_engine)]
    assert found == ([better] if better else [])
    assert report.ignored == ("--map typo",)


@pytest.mark.parametrize(
    ("row", "stars"),
    [
        ({"r1": [{"rating": 2}], "r2": [{"rating": 5}]}, None),
        ({"rating_a": [{"rating": 2}], "rating_b": "good"}, [("A", 2), ("B", 5)]),
        ({"rating": [{"rating": 2}]}, None),
    ],
)
def test_controls_of_a_row_are_of_the_answer_with_their_ending(
    sqlite_engine: Engine, tmp_path: Path, row: dict[str, Any], stars: list[Any] | None
) -> None:
    """JSON_MIN tells no more; a rating that could be of either answer is refused."""
    path = written(tmp_path, {**TWO, **row, "annotator": 1})
    if stars is None:
        assert "--map r" in reasons(sqlite_engine, path, format="label-studio")[1]
    else:
        import_ratings(sqlite_engine, path, format="label-studio")
        assert sorted((each[0], each[2]) for each in reviews(sqlite_engine)) == stars


def test_a_rating_of_another_field_is_not_the_answers(sqlite_engine: Engine, tmp_path: Path) -> None:
    """How hard the question is says nothing of the answer; nor does a rating of a second answer."""
    data = {"prompt": "Was?", "answer": "A", "answer2": "B"}
    said = [result("hard", "rating", 1, "prompt"), result("stars", "rating", 4, "answer")]
    other = annotation(result("stars", "rating", 2, "answer2"), by=2)
    import_ratings(sqlite_engine, written(tmp_path, task(annotation(*said), other, data=data)), format="label-studio")
    assert [row[:3] for row in reviews(sqlite_engine)] == [("A", "label-studio:1", 4), ("B", "label-studio:2", 2)]


@pytest.mark.parametrize(
    ("results", "names", "rating", "ignored"),
    [
        ([result("stars", "rating", 2, "prompt")], None, None, ()),
        ([result("stars", "rating", 2, "prompt")], {"stars": "answer"}, 2, ()),
        ([result("stars", "rating", 2, "prompt")], {"stars": "none"}, None, ()),
        ([result("rating", "choices", ["bad"], "rating")], None, None, ()),
        ([result("quality", "rating", 2, "answer")], {"quality": "rating"}, 2, ()),
        ([result("quality", "choices", ["bad"])], {"quality": "rating"}, 1, ()),
        (
            [result("hard", "number", 5, "prompt"), result("stars", "rating", 2)],
            {},
            2,
            ("results about another field of the task (1)",),
        ),
        (
            [result("comment", "textarea", ["Hm."], "prompt"), result("stars", "rating", 2)],
            {},
            2,
            ("results about another field of the task (1)",),
        ),
    ],
)
def test_what_is_about_another_field_is_never_lost_in_silence(
    sqlite_engine: Engine,
    tmp_path: Path,
    results: list[Any],
    names: dict[str, str] | None,
    rating: int | None,
    ignored: tuple[str, ...],
) -> None:
    """What may be the only answer's rating is refused until somebody says so, whatever fields are called; the rest is
    counted.
    """
    data = {"prompt": "Was?", "answer": "A", "rating": "gold"}
    path = written(tmp_path, task(annotation(*results), data=data))
    if names is None:
        name = results[0]["from_name"]
        said = reasons(sqlite_engine, path, format="label-studio")[1]
        assert f"--map {name}=answer if it rates the answer all the same, or --map {name}=none" in said
        return
    report = import_ratings(sqlite_engine, path, format="label-studio", names=names)
    assert ([row[2] for row in reviews(sqlite_engine)], report.ignored) == ([rating], ignored)


def test_a_field_that_is_called_as_a_control(sqlite_engine: Engine, tmp_path: Path) -> None:
    """CSV puts _data_ before the field, and the bare name is the control's."""
    cells = ["Note.", "A", 1, "Gut.", "Was?", '[{"rating": 4}]']
    path = write_csv(
        tmp_path / "a.csv", [["_data_comment", "answer", "annotator", "comment", "prompt", "rating"], cells]
    )
    import_ratings(sqlite_engine, path, format="label-studio")
    assert [row[:4] for row in reviews(sqlite_engine)] == [("A", "label-studio:1", 4, "Gut.")]


def test_annotators_without_names_are_still_several(sqlite_engine: Engine, tmp_path: Path) -> None:
    """Where users' details were removed, each annotation is somebody's, and the same one's in every export."""
    said = [annotation(result("rating", "rating", stars), id=stars, by=None) for stars in (2, 5)]
    row = {"prompt": "Was hilft?", "answer": "Ruhe.", "rating": [{"rating": 2}], "annotation_id": 2}
    for tasks in (task(said[0]), row, task(*said)):
        import_ratings(sqlite_engine, written(tmp_path, tasks), format="label-studio")
    assert [row[1:3] for row in reviews(sqlite_engine)] == [
        ("label-studio:annotation-2", 2),
        ("label-studio:annotation-5", 5),
    ]


def test_bad_tasks_are_all_named_by_number(engine: Engine, tmp_path: Path) -> None:
    """Each is judged alone; nothing is stored."""
    rated = annotation(result("rating", "rating", 4))
    tasks = [
        task(rated),
        task(rated, data={"image": "a.png"}),
        task(rated, data={"prompt": "q", "image": "a.png"}),
        task(rated, data={"prompt": "q", "answer": " "}),
        task(annotation(result("rating", "rating", 9))),
        task(annotation(result("rating", "choices", ["so so"]))),
        task(annotation(result("a", "rating", 1), result("b", "rating", 2))),
        task("nothing"),
        task(annotations={"id": 1}),
        task(annotation(result("better", "pairwise", "left", "x,y")), data={"prompt": "q", "answer1": "a"}),
        task(annotation(result("better", "pairwise", "left", "a1,a2")), data={"prompt": "q", "a1": "s", "a2": "s"}),
        task(rated, data="gone"),
    ]
    found = reasons(engine, written(tmp_path, *tasks), format="label-studio")
    assert list(found) == list(range(2, 13))
    for number, words in {
        2: "no field is the question; the task has image: --column user_prompt=NAME",
        3: "no field is the answer",
        4: "ai_response is empty",
        5: "rating is 9, not a whole number from 1 to 5; if 1 and 0 are thumbs, say so, or give its scale",
        6: "rating is 'so so', neither a rating nor a word",
        7: "'a' and 'b' could both be the rating; choose one with --column rating=a",
        8: "an annotation is 'nothing', not an object",
        9: "not a list",
        10: "'better' compares two answers, x and y, and the task has answer1: say which was on the left",
        11: "the two answers that were compared are the same",
        12: "data is missing",
    }.items():
        assert words in found[number]
