from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from databases import memory_database
from rating_files import counts, reasons
from sqlalchemy import Engine, text

from rlhf_loop.domain import Rating, ReviewerRole
from rlhf_loop.errors import ImportFileError
from rlhf_loop.exchange.formats.base import Labels
from rlhf_loop.exchange.transfer import export_ratings, import_ratings
from rlhf_loop.store.engine import transaction
from rlhf_loop.store.interactions import rate, record
from rlhf_loop.training.data import examples

USER = "35f4f60d-2941-5f29-bcff-62e51c272c68"
OTHER = "2f6df3a1-25a7-4a1c-9e0b-3d51d5dd0d40"


def argilla_record(**changes: Any) -> dict[str, Any]:
    """Return a record as version 2.8 of Argilla writes it with `Dataset.records.to_json`."""
    return {
        "id": "r1",
        "fields": {"prompt": "What is flu?", "response": "A virus."},
        "metadata": {"source": "docs", "candidate_group": "g1"},
        "suggestions": {"rating": {"value": 1, "score": 0.5, "agent": "a model"}},
        "responses": {
            "rating": [{"value": 4, "user_id": USER}, {"value": 2, "user_id": OTHER}],
            "comment": [{"value": "Short.", "user_id": OTHER}],
        },
        "vectors": {},
        "status": "completed",
        "_server_id": None,
    } | changes


def write(path: Path, *records: Any) -> Path:
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


def reviews(engine: Engine) -> list[tuple[Any, ...]]:
    with transaction(engine) as connection:
        found = connection.execute(
            text("SELECT reviewer, rating, comment, correction, role, harmful FROM rlhf_reviews ORDER BY id")
        )
        return [(*row[:5], bool(row.harmful)) for row in found]


def test_each_user_is_a_reviewer(engine: Engine, tmp_path: Path) -> None:
    """Responses become reviews, suggestions do not; the file twice changes nothing."""
    path = write(tmp_path / "a.json", argilla_record(), argilla_record(id="r2", responses={}))
    assert counts(import_ratings(engine, path, format="argilla")) == (3, 3, 0, 0, 0)
    assert reviews(engine) == [(USER, 4, None, None, "expert", False), (OTHER, 2, "Short.", None, "expert", False)]
    with transaction(engine) as connection:
        rows = connection.execute(text("SELECT external_id, source, candidate_group FROM rlhf_interactions")).all()
    assert sorted(tuple(row) for row in rows) == [("r1", "docs", "g1"), ("r2", "docs", "g1")]
    assert counts(import_ratings(engine, path, format="argilla")) == (3, 0, 0, 3, 0)


def test_fields_and_questions_may_have_other_names(engine: Engine, tmp_path: Path) -> None:
    """Usual names are known, others are named; labels become ratings, conversations texts."""
    found = argilla_record(
        fields={"chat": [{"role": "user", "content": "What is flu?"}], "answer": "A virus."},
        responses={
            "quality": [{"value": "good", "user_id": USER, "status": "submitted"}],
            "feedback": [{"value": "Fine.", "user_id": USER}],
            "correction": [{"value": "An illness.", "user_id": USER}],
            "harmful": [{"value": "yes", "user_id": USER}],
            "topics": [{"value": ["a", "b"], "user_id": USER}],
        },
    )
    path = write(tmp_path / "a.json", found)
    columns = {"user_prompt": "chat", "rating": "quality"}
    import_ratings(engine, path, format="argilla", columns=columns, labels=Labels(good=4))
    assert reviews(engine) == [(USER, 4, "Fine.", "An illness.", "expert", True)]


def test_drafts_and_discarded_responses_are_nobodys_word(engine: Engine, tmp_path: Path) -> None:
    """Only what was submitted counts; a record without it is an unrated answer."""
    responses = {"rating": [{"value": 1, "user_id": USER, "status": status} for status in ("draft", "discarded")]}
    assert import_ratings(
        engine, write(tmp_path / "a.json", argilla_record(responses=responses)), format="argilla"
    ).added
    assert reviews(engine) == []


def test_bad_records_are_all_named_by_number(engine: Engine, tmp_path: Path) -> None:
    """Each record is judged alone; nothing is stored."""
    rating = {"value": 4, "user_id": USER}
    path = write(
        tmp_path / "a.json",
        argilla_record(),
        argilla_record(fields={"text": "only an answer"}),
        argilla_record(responses={"rating": rating}),
        argilla_record(responses={"rating": [4]}),
        argilla_record(responses={"rating": [{"value": 9, "user_id": USER}]}),
        argilla_record(responses={"rating": [{"value": "so so", "user_id": USER}]}),
        argilla_record(fields={"prompt": "q", "response": 7}),
        argilla_record(metadata=["source"]),
        "a text",
        argilla_record(fields={"prompt": "q", "response": "other"}),
    )
    path.write_bytes(path.read_bytes()[:-1] + b', {"fields": {"prompt": "caf\xe9", "response": "a"}}]')
    found = reasons(engine, path, format="argilla")
    assert list(found) == list(range(2, 12))
    for number, words in {
        2: "user_prompt is missing",
        3: "not a list",
        4: "a response to 'rating' is '4', without a value",
        5: "rating is 9, not a whole number from 1 to 5",
        6: "rating is 'so so', neither a rating nor a word for good or bad",
        7: "response is '7'",
        8: "metadata is",
        9: "not a JSON object",
        10: "line 1 gives to another answer",
        11: "user_prompt holds bytes that are not UTF-8",
    }.items():
        assert words in found[number]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"After object 0 the file is not JSON: it is empty"),
        (b"[", "it ends too early"),
        (b'[{"id": 1}, {"id": ', "After object 1 the file is not JSON"),
        (b'[{"id": 1} {"id": 2}]', "'{' where a comma should be"),
        (b'{"id": 1}\n{"id": 2}\n', r"more follows the first value.*end its name in \.jsonl"),
        (b'[{"id": NaN}]', "NaN is not allowed"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_what_is_no_json_is_refused(sqlite_engine: Engine, tmp_path: Path, content: bytes, message: str) -> None:
    """A broken array is an error that says after which record; nothing is stored."""
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ImportFileError, match=message):
        import_ratings(sqlite_engine, tmp_path / "a.json", format="argilla", skip_invalid=True)


def test_an_array_is_read_piece_by_piece(
    sqlite_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever a piece ends, the records are the same; a page of an API holds them under "data"."""
    monkeypatch.setattr("rlhf_loop.utils.rows._JSON_READ", 40)
    records = [argilla_record(id=f"r{n}", responses={}) for n in range(50)]
    (tmp_path / "a.json").write_text(json.dumps({"data": records}, indent=1), encoding="utf-8")
    assert import_ratings(sqlite_engine, tmp_path / "a.json", format="argilla").added == 50


@pytest.mark.parametrize("name", ["a.json", "a.json.gz", "a.jsonl"])
def test_what_goes_out_comes_back(engine: Engine, tmp_path: Path, name: str) -> None:
    """Reviewers keep their names, roles and flags through Argilla's user ids; an empty database is an empty array."""
    assert export_ratings(engine, tmp_path / name, format="argilla") == 0
    assert import_ratings(engine, tmp_path / name, format="argilla").rows == 0
    origin = {"source": "s", "candidate_group": "g", "title": "T", "url": "https://x.org/", "licence": "CC"}
    ids = record(engine, [Rating("q", text, shown_rank=1, score=0.5, **origin) for text in ("a", "b")])  # type: ignore[arg-type]
    rate(engine, ids[0], reviewer="ann", rating=2, comment="Why?", correction="c", harmful=True)
    rate(engine, ids[0], reviewer="visitor:1", rating=5, role=ReviewerRole.END_USER)
    assert export_ratings(engine, tmp_path / name, format="argilla") == 2
    other = memory_database()
    assert counts(import_ratings(other, tmp_path / name, format="argilla")) == (3, 3, 0, 0, 0)
    assert reviews(other) == reviews(engine)
    before = (tmp_path / name).read_bytes()
    export_ratings(other, tmp_path / name, format="argilla")
    assert (tmp_path / name).read_bytes() == before
    assert counts(import_ratings(engine, tmp_path / name, format="argilla")) == (3, 0, 0, 3, 0)
    other.dispose()


def test_a_record_has_argillas_names(engine: Engine, tmp_path: Path) -> None:
    """The keys are those of its records, and a user is a UUID, as its server demands."""
    rate(engine, record(engine, [Rating("q", "a", external_id="1")])[0], reviewer="ann", rating=4)
    export_ratings(engine, tmp_path / "a.json", format="argilla")
    [found] = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert set(found) == set(argilla_record())
    assert found["fields"] == {"prompt": "q", "response": "a"}
    [response] = found["responses"]["rating"]
    assert (response["value"], len(response["user_id"])) == (4, 36)


#: One rating of 4, a draft, and somebody's comment without a rating: in a record, in columns, as version 1 had them.
ONE_RATING: dict[str, dict[str, Any]] = {
    "record": {
        "fields": {"prompt": "q", "response": "a"},
        "responses": {
            "rating": [{"value": 4, "user_id": USER}, {"value": 1, "user_id": OTHER, "status": "draft"}],
            "comment": [{"value": "Hm.", "user_id": OTHER}],
        },
    },
    "columns": {
        "_server_id": "s",
        "prompt": "q",
        "response": "a",
        "rating.responses": [4, 1],
        "rating.responses.users": [USER, OTHER],
        "rating.responses.status": ["submitted", "draft"],
        "comment.responses": ["Hm."],
        "comment.responses.users": [OTHER],
        "comment.responses.status": ["submitted"],
        "rating.suggestion": 2,
    },
    "version 1, lists of parts": {
        "prompt": "q",
        "response": "a",
        "rating": {"user_id": [USER, OTHER], "value": [4, 1], "status": ["submitted", "draft"]},
        "comment": {"user_id": [OTHER], "value": ["Hm."], "status": ["submitted"]},
        "rating-suggestion": None,
        "metadata": "{}",
    },
    "version 1, lists": {
        "prompt": "q",
        "response": "a",
        "rating": [{"user_id": USER, "value": 4, "status": "submitted"}],
        "comment": [{"user_id": OTHER, "value": "Hm.", "status": "submitted"}],
        "metadata": "{}",
    },
    "server": {
        "fields": {"prompt": "q", "response": "a"},
        "responses": [
            {"user_id": USER, "status": "submitted", "values": {"rating": {"value": 4}}},
            {"user_id": OTHER, "status": "submitted", "values": {"comment": {"value": "Hm."}}},
        ],
    },
}


@pytest.mark.parametrize("shape", ONE_RATING)
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_comment_alone_costs_nobody_a_rating(sqlite_engine: Engine, tmp_path: Path, shape: str, kind: str) -> None:
    """In each shape of a record; who gave no rating is counted, and drafts are nobody's word."""
    path = tmp_path / f"a.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist([ONE_RATING[shape]]), path)
    else:
        path.write_text(json.dumps(ONE_RATING[shape]) + "\n", encoding="utf-8")
    report = import_ratings(sqlite_engine, path, format="argilla")
    assert [(e.response, e.rating) for e in examples(sqlite_engine)] == [("a", 4)]
    assert (report.rows, report.ignored) == (1, ("responses of somebody who gave no rating (1)",))


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_argilla_files_are_json(sqlite_engine: Engine, tmp_path: Path, name: str) -> None:
    """A record is nested, so it is in no table."""
    with pytest.raises(ImportFileError, match=r"End the name in \.json"):
        export_ratings(sqlite_engine, tmp_path / name, format="argilla")
