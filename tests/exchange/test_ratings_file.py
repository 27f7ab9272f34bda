from __future__ import annotations

import gzip
import os
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rating_files import counts, reasons, write_csv, write_jsonl
from sqlalchemy import Engine, text

from rlhf_loop.errors import ImportFileError
from rlhf_loop.exchange.fields import match_columns
from rlhf_loop.exchange.transfer import export_ratings, import_ratings
from rlhf_loop.store.engine import transaction
from rlhf_loop.store.interactions import stats
from rlhf_loop.training.data import examples


def test_the_usual_column_names_are_known(engine: Engine, tmp_path: Path) -> None:
    """Common names are taken for the fields; a column that means nothing is reported and left out."""
    path = write_csv(
        tmp_path / "a.csv",
        [
            ["Question", "answer", "rating", "comment", "Rater", "system rank", "mood"],
            ["q", "a", "4.0", "fine", "ann", "2", "sunny"],
            ["q", "b", "", "", "", "1", ""],
        ],
    )
    report = import_ratings(engine, path)
    assert counts(report) == (2, 2, 0, 0, 0)
    assert report.ignored == ("mood",)
    assert [(e.response, e.rating, e.rank) for e in examples(engine)] == [("a", 4, 2), ("b", None, 1)]


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["Frage", "Antwort", "Bewertung (1-5)", "geprüft am"], {"rating": 2, "rated_at": 3}),
        (["Frage", "Antwort", "rating [1 to 5]"], {"rating": 2}),
        (["Frage", "Antwort", "rating (1 = best, 5 = worst)"], {}),
        (["Frage", "Antwort", "Rating (1-10)"], {}),
        (["Frage", "Antwort", "Bewertung (1-5)", "Bewertung"], {"rating": 3}),
        (["Frage", "Antwort", "Bewertung (KI)", "Note (1-6)"], {}),
    ],
)
def test_the_scale_of_ratings_behind_a_name_does_not_count(names: list[str], found: dict[str, int]) -> None:
    """A column is known with the scale that ratings have; another scale or a word may make it another one."""
    assert match_columns(names, {}).positions == {"user_prompt": 0, "ai_response": 1, **found}


def test_columns_can_be_named(sqlite_engine: Engine, tmp_path: Path) -> None:
    """An explicit mapping comes before any name; reviewer and source stand in where a row has none."""
    path = write_csv(tmp_path / "a.csv", [["frage", "text", "answer", "rating"], ["q", "wrong", "right", 5]])
    import_ratings(
        sqlite_engine, path, columns={"user_prompt": "frage", "ai_response": "answer"}, reviewer="ann", source="s"
    )
    assert [e.response for e in examples(sqlite_engine)] == ["right"]
    with transaction(sqlite_engine) as connection:
        assert connection.execute(text("SELECT reviewer FROM rlhf_reviews")).scalar() == "ann"
        assert connection.execute(text("SELECT source FROM rlhf_interactions")).scalar() == "s"


@pytest.mark.parametrize(
    ("header", "columns", "message"),
    [
        (["prompt", "question", "answer"], {}, "'prompt' and 'question' both mean user_prompt"),
        (["topic", "answer"], {}, "no column for user_prompt"),
        (["prompt", "answer"], {"rating": "sterne"}, "no column 'sterne'"),
        (["prompt", "answer"], {"sterne": "rating"}, "no field 'sterne'"),
    ],
)
def test_unclear_columns_are_refused(
    sqlite_engine: Engine, tmp_path: Path, header: list[str], columns: dict[str, str], message: str
) -> None:
    """Where a field has two columns, or a needed one none, the error says what to give."""
    path = write_csv(tmp_path / "a.csv", [header, ["x"] * len(header)])
    with pytest.raises(ImportFileError, match=message):
        import_ratings(sqlite_engine, path, columns=columns)


def test_bad_csv_rows_are_all_named_by_line(engine: Engine, tmp_path: Path) -> None:
    """Every invalid row is reported with the physical line where it starts and the value; nothing is stored."""
    path = tmp_path / "a.csv"
    path.write_bytes(
        b"\xef\xbb\xbfprompt,answer,rating,rank,rated_at\r\n"  # 1
        b'q,"an answer\nof two lines",4,1,\r\n'  # 2-3
        b",a,4,1,\r\n"  # 4
        b"q, ,4,1,\r\n"  # 5
        b"q,a,6,1,\r\n"  # 6
        b"q,a,4.5,1,\r\n"  # 7
        b"q,a,maybe,1,\r\n"  # 8
        b"q,a,4,0,\r\n"  # 9
        b"q,a,4,1,yesterday\r\n"  # 10
        b"q,a,4\r\n"  # 11
        b"q,a,4,1,,x\r\n"  # 12
        b"q,caf\xe9,4,1,\r\n"  # 13
        b"q,a\x00,4,1,\r\n"  # 14
        b"\r\n"  # 15
        b'q,"a"b,4,1,\r\n'  # 16
        b'q,"never closed,4,1,\r\n'  # 17
    )
    found = reasons(engine, path)
    assert list(found) == [4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16, 17]
    for line, words in {
        4: "user_prompt is empty",
        5: "ai_response is empty",
        6: "rating is 6,",
        7: "rating is '4.5', not a whole number from 1 to 5",
        8: "rating is 'maybe'",
        9: "shown_rank is 0",
        10: "rated_at is 'yesterday'",
        11: "3 columns, the header has 5",
        12: "6 columns",
        13: "not UTF-8",
        14: "NUL",
        16: "malformed",
        17: "malformed",
    }.items():
        assert words in found[line]


@pytest.mark.parametrize(
    ("end", "last"), [("", 5), ('q4,"an answer"\n', 6)], ids=["until the end", "until the next quote"]
)
def test_an_open_quote_takes_no_row_along(engine: Engine, tmp_path: Path, end: str, last: int) -> None:
    """Where several lines cannot be told apart the file is refused, also where what is invalid may be left out."""
    path = tmp_path / "a.csv"
    path.write_text(f'prompt,answer\nq1,a1\nq2,"a2\nq3,a3\nq3,a4\n{end}')
    with pytest.raises(ImportFileError, match=rf"on line 3 is not closed before line {last} .*Close it, double each"):
        import_ratings(engine, path, skip_invalid=True, unrated=True)
    assert not examples(engine)


def test_columns_that_nobody_can_read_are_shortened(engine: Engine, tmp_path: Path) -> None:
    """Whatever the first line is, the message stays one that can be read."""
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xff\x01" * 500 + b",".join(b"c%d" % number for number in range(100)) + b"\n1,2\n")
    with pytest.raises(ImportFileError, match="Its columns are") as caught:
        import_ratings(engine, path)
    assert len(str(caught.value)) < 1000
    assert str(caught.value).isprintable()
    with pytest.raises(ImportFileError, match="is a folder"):
        import_ratings(engine, tmp_path)


def test_bad_jsonl_rows_are_all_named_by_line(engine: Engine, tmp_path: Path) -> None:
    """Each line of JSON is judged alone: syntax, kind, types and values."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"prompt": "q", "answer": "a", "rating": 4.0}\n'
        b'{"prompt": "q"\n'
        b'["q", "a"]\n'
        b'{"prompt": "q", "answer": "a", "rating": true}\n'
        b'{"prompt": "q", "answer": ["a"]}\n'
        b'{"prompt": "q"}\n'
        b"\n"
        b'{"prompt": "q", "answer": "\\u0000"}\n'
        b'{"prompt": "q", "answer": "\\ud800"}\n'
        b'{"prompt": "q", "answer": "caf\xe9"}\n'
        b'{"prompt": "q", "answer": "a", "score": NaN}\n'
        b'{"prompt": null, "answer": "a"}\n'
    )
    found = reasons(engine, path)
    assert list(found) == [2, 3, 4, 5, 6, 8, 9, 10, 11, 12]
    assert "not JSON" in found[2]
    assert "rating is True" in found[4]
    assert "ai_response is ['a'], not text" in found[5]
    assert "ai_response is missing" in found[6]


def test_parquet_is_read_with_its_own_types(engine: Engine, tmp_path: Path) -> None:
    """NaN is a missing rating, a naive time is UTC, a number is a fine group; rows are named by number."""
    table = pa.table(
        {
            "prompt": ["q", "q"],
            "answer": pa.array(["a", "b"]).dictionary_encode(),
            "rating": [4.0, float("nan")],
            "group": [7, 7],
            "rated_at": pa.array([datetime(2025, 1, 2), None], pa.timestamp("ns")),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    assert counts(import_ratings(engine, tmp_path / "a.parquet")) == (2, 2, 0, 0, 0)
    assert stats(engine).first_rated_at == datetime(2025, 1, 2, tzinfo=UTC)
    assert [e.group for e in examples(engine)] == ["7", "7"]


@pytest.mark.parametrize(
    ("name", "kind", "given", "stored"),
    [
        ("rating", pa.decimal128(38, 9), Decimal(3), 3),
        ("rating", pa.float64(), 3.0, 3),
        ("shown_rank", pa.decimal128(38, 0), Decimal(2), 2),
        ("score", pa.decimal128(9, 2), Decimal("0.25"), 0.25),
        ("external_id", pa.float64(), 101.0, "101"),
        ("external_id", pa.uuid(), UUID(int=7).bytes, str(UUID(int=7))),
        ("external_id", pa.binary(16), UUID(int=7).bytes, str(UUID(int=7))),
        ("title", pa.binary(16), b"Rest in the dark", "Rest in the dark"),
        ("title", pa.binary(16), "Rühe im Dunkeln".encode(), "Rühe im Dunkeln"),
        ("candidate_group", pa.float64(), 12.0, "12"),
        ("external_id", pa.binary(), b"t1", "t1"),
        ("created_at", pa.date32(), date(2026, 5, 1), "2026-05-01 00:00:00.000000"),
        ("created_at", pa.int64(), 1777593600000, "2026-05-01 00:00:00.000000"),
    ],
)
def test_types_of_parquet(
    sqlite_engine: Engine, tmp_path: Path, name: str, kind: pa.DataType, given: object, stored: object
) -> None:
    """Decimals, identities in columns with gaps, UUIDs, bytes of text and days are what they stand for."""
    table = {"prompt": ["q", "q"], "answer": ["a", "b"], name: pa.array([given, None], type=kind)}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    assert counts(import_ratings(sqlite_engine, tmp_path / "a.parquet")) == (2, 2, 0, 0, 0)
    with transaction(sqlite_engine) as connection:
        assert connection.execute(text(f"SELECT {name} FROM rlhf_interactions ORDER BY id LIMIT 1")).scalar() == stored


def test_a_number_that_may_be_another_is_nobodys_identity(sqlite_engine: Engine, tmp_path: Path) -> None:
    """Beyond 2 to the 53 a float may stand for several whole numbers."""
    table = pa.table({"prompt": ["q"], "answer": ["a"], "external_id": [1.2345678901234568e18]})
    pq.write_table(table, tmp_path / "a.parquet")
    assert "external_id is 1.2345678901234568e+18, not text" in reasons(sqlite_engine, tmp_path / "a.parquet")[1]


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("1712012101230", "2024-04-01 22:55:01.230000"),
        ("1712012101", "2024-04-01 22:55:01.000000"),
        ("1712012101.5", "2024-04-01 22:55:01.500000"),
        ("1712012101230000", "2024-04-01 22:55:01.230000"),
        ("20240401", "2024-04-01 00:00:00.000000"),
        ("2024-04-01 22:55", "2024-04-01 22:55:00.000000"),
        ("20240401225501", None),
        ("45383.95", None),
        ("1.712E+12", None),
    ],
)
def test_times_that_are_numbers(sqlite_engine: Engine, tmp_path: Path, given: str, stored: str | None) -> None:
    """Seconds since 1970 and their parts, told by their size; what could be of no century near ours is refused."""
    path = write_csv(tmp_path / "a.csv", [["prompt", "answer", "rating", "rated_at"], ["q", "a", 4, given]])
    if stored is None:
        assert f"rated_at is {given!r}, not a time" in reasons(sqlite_engine, path)[2]
        return
    import_ratings(sqlite_engine, path)
    with transaction(sqlite_engine) as connection:
        assert connection.execute(text("SELECT reviewed_at FROM rlhf_reviews")).scalar() == stored


def test_an_array_of_json_is_read_by_its_name(sqlite_engine: Engine, tmp_path: Path) -> None:
    """It holds what a file of JSONL has on its lines, and an export writes it again."""
    path = tmp_path / "a.json"
    path.write_text('[{"question": "q", "answer": "a", "rating": 4}]', encoding="utf-8")
    assert counts(import_ratings(sqlite_engine, path)) == (1, 1, 0, 0, 0)
    assert export_ratings(sqlite_engine, tmp_path / "b.json") == 1
    assert counts(import_ratings(sqlite_engine, tmp_path / "b.json")) == (1, 0, 0, 1, 0)


def test_bad_parquet_rows_are_named_by_number(engine: Engine, tmp_path: Path) -> None:
    """In a Parquet file, which has no lines, an invalid row is named by its number."""
    pq.write_table(pa.table({"prompt": ["q", "q"], "answer": ["a", "b"], "rating": [4.5, 4.0]}), tmp_path / "a.pq")
    assert reasons(engine, tmp_path / "a.pq") == {
        1: "rating is 4.5, not a whole number from 1 to 5; if that is right, import it with --scale 0.5,5"
    }


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.csv", None, "No such file"),
        ("a.txt", b"prompt,answer\n", "--format"),
        ("a.csv", b"", "empty"),
        ("a.csv", b"PK\x03\x04...", "an archive or a workbook"),
        ("a.jsonl", b"  <!DOCTYPE html><html>", "web page, most often one to sign in"),
        ("a.csv", b"version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS"),
        ("a.csv", b"PAR1....", "Parquet"),
        ("a.xlsx", b"prompt,answer\n", "workbook cannot be read"),
        ("a.parquet", b"prompt,answer\n", "damaged"),
        ("a.csv", gzip.compress(b"prompt,answer\nq,a\n" * 99, mtime=0)[:-9], "damaged"),
    ],
)
def test_an_unreadable_file_is_refused(
    sqlite_engine: Engine, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    """A file that cannot be read as a whole is one error that says why."""
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ImportFileError, match=message):
        import_ratings(sqlite_engine, tmp_path / name)


def test_a_pipe_is_not_waited_for(sqlite_engine: Engine, tmp_path: Path) -> None:
    """It is refused before it is opened: that would wait for somebody who writes to it."""
    os.mkfifo(tmp_path / "a.csv")
    with pytest.raises(ImportFileError, match=r"is a pipe or a device\. Save it to a file first"):
        import_ratings(sqlite_engine, tmp_path / "a.csv")


def test_a_blank_reviewer_is_refused(sqlite_engine: Engine, tmp_path: Path) -> None:
    """A default reviewer without a name is refused before anything is read."""
    with pytest.raises(ImportFileError, match="only white space"):
        import_ratings(sqlite_engine, tmp_path / "absent.csv", reviewer=" ")


def test_a_number_beyond_all_bounds_is_an_invalid_row(sqlite_engine: Engine, tmp_path: Path) -> None:
    """A number that no float can hold is a bad value and not a crash."""
    path = write_jsonl(tmp_path / "a.jsonl", [{"prompt": "q", "answer": "a", "score": 10**400}])
    assert "not a number" in reasons(sqlite_engine, path)[1]


def test_semicolons_tabs_and_gzip_are_recognised(sqlite_engine: Engine, tmp_path: Path) -> None:
    """The delimiter is found in the header, compression in the first bytes, whatever the name says."""
    (tmp_path / "a.csv").write_bytes(gzip.compress(b"prompt;answer;rating\nq;a, b;4\n"))
    (tmp_path / "b.data").write_bytes(b"prompt\tanswer\nq\tb\n")
    assert import_ratings(sqlite_engine, tmp_path / "a.csv").added == 1
    assert import_ratings(sqlite_engine, tmp_path / "b.data", format="csv").added == 1


def test_invalid_rows_can_be_left_out(engine: Engine, tmp_path: Path) -> None:
    """With skip_invalid the valid rows are stored and the others reported."""
    path = write_jsonl(tmp_path / "a.jsonl", [{"prompt": "q", "answer": "a", "rating": n} for n in (4, 9)])
    report = import_ratings(engine, path, skip_invalid=True)
    assert counts(report) == (2, 1, 0, 0, 1)
    assert stats(engine).rated == 1


def test_many_invalid_rows_are_counted_and_the_first_listed(sqlite_engine: Engine, tmp_path: Path) -> None:
    """The report lists a thousand invalid rows and counts them all."""
    path = write_csv(tmp_path / "a.csv", [["prompt", "answer"], *([["", "a"]] * 3000)])
    report = import_ratings(sqlite_engine, path, skip_invalid=True)
    assert (report.invalid_count, len(report.invalid), report.invalid[-1].line) == (3000, 1000, 1001)


@pytest.mark.parametrize("content", [b"no Parquet at all", b"PAR1 and no more"])
def test_a_message_has_one_full_stop_after_somebody_elses_words(
    sqlite_engine: Engine, tmp_path: Path, content: bytes
) -> None:
    """PyArrow's errors are sentences, of which a message makes a part."""
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(ImportFileError) as caught:
        import_ratings(sqlite_engine, tmp_path / "a.parquet")
    assert ".." not in str(caught.value).replace(str(tmp_path), "")
