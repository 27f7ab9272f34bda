from __future__ import annotations

import csv
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import Engine, text

from rlhf_loop.db import make_engine, migrate, transaction
from rlhf_loop.domain import Rating
from rlhf_loop.errors import ImportFileError
from rlhf_loop.examples import examples
from rlhf_loop.exchange import ImportReport, InvalidRowsError, export_ratings, import_ratings
from rlhf_loop.interactions import rate, record, stats

NASTY = [
    'quo"ted, and comma',
    "two\nlines",
    "CR LF\r\nand lone\rCR",
    "emoji 🙂 and e\u0301",
    "=1+1",
    "line\u2028separator\u2029and\x85more",
    "  spaces around  ",
    "NULL",
    "tab\tand \\ backslash \\n",
    "\ufeffmark",
    "x" * 200_000,
]


def write_csv(path: Path, rows: Sequence[Sequence[Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def write_jsonl(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def counts(report: ImportReport) -> tuple[int, int, int, int, int]:
    return report.rows, report.added, report.updated, report.unchanged, report.invalid_count


def reasons(engine: Engine, path: Path) -> dict[int, str]:
    with pytest.raises(InvalidRowsError) as caught:
        import_ratings(engine, path)
    assert stats(engine).interactions == 0
    return {row.line: row.reason for row in caught.value.report.invalid}


# --- What goes in ----------------------------------------------------------------------------------------------------


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
        (["frage", "answer"], {}, "no column for user_prompt"),
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
        b"q,a,good,1,\r\n"  # 8
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
        8: "rating is 'good'",
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


def test_bad_parquet_rows_are_named_by_number(engine: Engine, tmp_path: Path) -> None:
    """In a Parquet file, which has no lines, an invalid row is named by its number."""
    pq.write_table(pa.table({"prompt": ["q", "q"], "answer": ["a", "b"], "rating": [4.5, 4.0]}), tmp_path / "a.pq")
    assert reasons(engine, tmp_path / "a.pq") == {1: "rating is 4.5, not a whole number from 1 to 5"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.csv", None, "No such file"),
        ("a.txt", b"prompt,answer\n", "--format"),
        ("a.csv", b"", "empty"),
        ("a.csv", "prompt,answer\n".encode("utf-16"), "UTF-16"),
        ("a.parquet", b"prompt,answer\n", "damaged"),
        ("a.csv", gzip.compress(b"prompt,answer\nq,a\n" * 99)[:-9], "damaged"),
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


# --- Again, and changed ----------------------------------------------------------------------------------------------


def test_importing_a_file_again_changes_nothing(engine: Engine, tmp_path: Path) -> None:
    """The same file a second time finds everything there."""
    path = write_csv(tmp_path / "a.csv", [["prompt", "answer", "rating"], ["q", "a", 4], ["q", "b", ""], ["q", "a", 4]])
    assert counts(import_ratings(engine, path)) == (3, 2, 0, 1, 0)
    before = stats(engine)
    assert counts(import_ratings(engine, path)) == (3, 0, 0, 3, 0)
    assert stats(engine) == before


def test_a_changed_rating_replaces_the_reviewers_former(engine: Engine, tmp_path: Path) -> None:
    """A corrected file updates the reviews that changed, and keeps a comment that it does not mention."""
    rows = [
        ["prompt", "answer", "rating", "reviewer", "comment"],
        ["q", "a", 4, "ann", "fine"],
        ["q", "b", 1, "ann", ""],
    ]
    import_ratings(engine, write_csv(tmp_path / "a.csv", rows))
    rows[1] = ["q", "a", 2, "ann", ""]
    assert counts(import_ratings(engine, write_csv(tmp_path / "a.csv", rows))) == (2, 0, 1, 1, 0)
    with transaction(engine) as connection:
        found = connection.execute(text("SELECT rating, comment FROM rlhf_reviews ORDER BY id")).all()
    assert [tuple(row) for row in found] == [(2, "fine"), (1, None)]


def test_two_reviewers_of_one_answer_are_two_reviews(engine: Engine, tmp_path: Path) -> None:
    """The same answer by another reviewer is another review of it."""
    rows = [["prompt", "answer", "rating", "reviewer"], ["q", "a", 5, "ann"], ["q", "a", 2, "bob"]]
    assert counts(import_ratings(engine, write_csv(tmp_path / "a.csv", rows))) == (2, 2, 0, 0, 0)
    assert (stats(engine).interactions, stats(engine).distribution[2]) == (1, 1)


def test_a_contradiction_within_a_file_names_both_lines(engine: Engine, tmp_path: Path) -> None:
    """One reviewer with two ratings of an answer is an invalid row that suggests a reviewer column."""
    rows = [["prompt", "answer", "rating"], ["q", "a", 5], ["q", "b", 5], ["q", "a", 1]]
    found = reasons(engine, write_csv(tmp_path / "a.csv", rows))
    assert list(found) == [4]
    assert "rating 1 here and 5 on line 2" in found[4]
    assert "reviewer column" in found[4]


def test_an_identity_belongs_to_one_answer(engine: Engine, tmp_path: Path) -> None:
    """An external_id that another answer has, in the file or in the database, is an invalid row."""
    rows = [["prompt", "answer", "external_id"], ["q", "a", "1"], ["q", "b", "1"]]
    assert "line 2 gives to another answer" in reasons(engine, write_csv(tmp_path / "a.csv", rows))[3]
    record(engine, [Rating("q", "other", external_id="1")])
    with pytest.raises(InvalidRowsError, match="has for another answer"):
        import_ratings(engine, write_csv(tmp_path / "a.csv", rows[:2]))


def test_concurrent_imports_store_a_file_once(engine: Engine, tmp_path: Path) -> None:
    """Imports of one file at the same time all succeed, and its rows are there once."""
    rows = [["prompt", "answer", "rating"], *(["q", f"a{n}", 1 + n % 5] for n in range(2000))]
    path = write_csv(tmp_path / "a.csv", rows)
    with ThreadPoolExecutor(3) as pool:
        reports = list(pool.map(lambda _: import_ratings(engine, path), range(3)))
    assert sorted(report.added for report in reports) == [0, 0, 2000]
    assert (stats(engine).interactions, stats(engine).reviews) == (2000, 2000)


def test_a_killed_import_leaves_nothing(engine: Engine, database_url: str, tmp_path: Path) -> None:
    """An import that is killed while it stores leaves no row, and the next one works."""
    path = write_csv(tmp_path / "a.csv", [["prompt", "answer", "rating"], *(["q", f"a{n}", 4] for n in range(3000))])
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from rlhf_loop import db, exchange, import_stage\n"
        "store = import_stage.store\n"
        "def slow(connection):\n"
        "    counts = store(connection)\n"
        "    print('stored', flush=True)\n"
        "    time.sleep(60)\n"
        "    return counts\n"
        "import_stage.store = slow\n"
        f"exchange.import_ratings(db.make_engine({database_url!r}), Path({str(path)!r}))\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "stored\n"
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    deadline = time.monotonic() + 10
    assert stats(engine).interactions == 0
    assert import_ratings(engine, path).added == 3000
    assert time.monotonic() < deadline


# --- What goes out ---------------------------------------------------------------------------------------------------


@pytest.fixture
def filled(engine: Engine) -> Engine:
    """A database with every kind of row, and the texts that formats like to spoil."""
    ids = record(
        engine,
        [
            Rating(nasty, nasty, candidate_group=nasty, source=nasty, score=0.1 + 0.2, shown_rank=n + 1)
            for n, nasty in enumerate(NASTY)
        ],
    )
    for answer, nasty in zip(ids[:-2], NASTY, strict=False):
        rate(engine, answer, reviewer=nasty, rating=4, comment=nasty, correction=nasty)
        rate(engine, answer, rating=1)
    record(engine, [Rating("q", "same"), Rating("q", "same"), Rating("q", "remark", feedback_comment="unrated")])
    with transaction(engine) as connection:
        connection.execute(
            text("INSERT INTO rlhf_interactions (user_prompt, ai_response, rating) VALUES ('q', 'x', 3)")
        )
    return engine


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.jsonl", "a.jsonl.gz", "a.parquet", "a.parquet.gz"])
def test_what_goes_out_comes_back(filled: Engine, tmp_path: Path, name: str) -> None:
    """An export, imported into an empty database and exported again, gives the same bytes."""
    written = export_ratings(filled, tmp_path / name)
    assert written == 2 * len(NASTY) - 2 + 4
    other = make_engine(f"sqlite:///{tmp_path / 'other.db'}")
    migrate(other)
    assert import_ratings(other, tmp_path / name).added == written
    (tmp_path / "again").mkdir()
    export_ratings(other, tmp_path / "again" / name)
    assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes()
    assert counts(import_ratings(filled, tmp_path / name)) == (written, 0, 0, written, 0)
    assert examples(other) == examples(filled)
    other.dispose()


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.jsonl", "a.parquet"])
def test_an_export_is_whole_or_absent(sqlite_engine: Engine, tmp_path: Path, name: str) -> None:
    """An export that fails leaves the older file as it was, and no draft beside it."""
    record(sqlite_engine, [Rating("q", "a", 4)])
    (tmp_path / "out").mkdir()
    path = tmp_path / "out" / name
    path.write_text("older")

    def fail(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_ratings(sqlite_engine, path, progress=fail)
    assert [(file.name, file.read_text()) for file in path.parent.iterdir()] == [(name, "older")]


def test_an_export_to_nowhere_is_refused(sqlite_engine: Engine, tmp_path: Path) -> None:
    """A folder that is not there is named."""
    with pytest.raises(ImportFileError, match="cannot be written"):
        export_ratings(sqlite_engine, tmp_path / "nowhere" / "a.csv")


def test_progress_is_reported(sqlite_engine: Engine, tmp_path: Path) -> None:
    """An import tells the bytes it has read, an export the rows it has written, up to the whole."""
    path = write_csv(tmp_path / "a.csv", [["prompt", "answer"], *(["q", f"a{n}"] for n in range(2500))])
    seen: list[tuple[int, int]] = []
    import_ratings(sqlite_engine, path, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (path.stat().st_size, path.stat().st_size)
    assert seen == sorted(seen)
    seen.clear()
    export_ratings(sqlite_engine, tmp_path / "b.csv", progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (2500, 2500)
