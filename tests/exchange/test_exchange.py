from __future__ import annotations

import csv
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from databases import sqlite_database
from forked_process import program
from patience import until
from rating_files import counts, reasons, write_csv, write_jsonl
from sqlalchemy import Engine, text

from rlhf_loop.domain import Rating, ReviewerRole
from rlhf_loop.errors import ImportFileError
from rlhf_loop.exchange.transfer import ExportOptions, InvalidRowsError, export_ratings, import_ratings
from rlhf_loop.store import audit
from rlhf_loop.store.engine import make_engine, transaction
from rlhf_loop.store.interactions import rate, record, stats
from rlhf_loop.training.data import examples

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


@pytest.mark.kill
def test_a_killed_import_leaves_nothing(engine: Engine, database_url: str, tmp_path: Path) -> None:
    """An import that is killed while it stores leaves no row, and the next one works."""
    path = write_csv(tmp_path / "a.csv", [["prompt", "answer", "rating"], *(["q", f"a{n}", 4] for n in range(3000))])
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from rlhf_loop.exchange import staging, transfer\n"
        "from rlhf_loop.store.engine import make_engine\n"
        "store = staging.store\n"
        "def slow(connection, **options):\n"
        "    counts = store(connection, **options)\n"
        "    print('stored', flush=True)\n"
        "    time.sleep(600)\n"
        "    return counts\n"
        "staging.store = slow\n"
        f"transfer.import_ratings(make_engine({database_url!r}), Path({str(path)!r}))\n"
    )
    process = program(code, folder=tmp_path)
    until(lambda: process.said() == "stored\n")
    process.kill()
    assert stats(engine).interactions == 0
    assert import_ratings(engine, path).added == 3000


# --- What goes out ---------------------------------------------------------------------------------------------------


@pytest.fixture
def filled(engine: Engine) -> Engine:
    """A database with every kind of row, and the texts that formats like to spoil."""
    ids = record(
        engine,
        [
            Rating(
                nasty,
                nasty,
                candidate_group=nasty,
                source=nasty,
                score=0.1 + 0.2,
                shown_rank=n + 1,
                title=nasty,
                url=nasty,
                licence=nasty,
                drafted_by=nasty,
                retrieved_at=datetime(2025, 1, 31, 9, 30, n, 123456, tzinfo=UTC),
            )
            for n, nasty in enumerate(NASTY)
        ],
    )
    for answer, nasty in zip(ids[:-2], NASTY, strict=False):
        rate(engine, answer, reviewer=nasty, rating=4, comment=nasty, correction=nasty)
        rate(engine, answer, rating=1)
        rate(engine, answer, reviewer=f"visitor:{nasty}", rating=5, role=ReviewerRole.END_USER, harmful=True)
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
    assert written == 3 * (len(NASTY) - 2) + 2 + 4
    other = make_engine(sqlite_database(tmp_path / "other.db"))
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


def test_no_cell_of_a_file_for_spreadsheets_is_a_formula(sqlite_engine: Engine, tmp_path: Path) -> None:
    """With the option what begins as a formula gets an apostrophe, in each form of CSV; other files are refused it."""
    record(sqlite_engine, [Rating("=cmd|' /C calc'!A0", "-1 is less\nthan 0.", rating=4, feedback_comment="@SUM(A1)")])
    options = ExportOptions(for_spreadsheet=True)
    for name in ("a.csv", "a.tsv"):
        export_ratings(sqlite_engine, tmp_path / name, options=options)
        with (tmp_path / name).open(newline="") as file:
            (row,) = csv.DictReader(file, delimiter="\t" if name == "a.tsv" else ",")
        assert row["user_prompt"] == "'=cmd|' /C calc'!A0"
        assert (row["ai_response"], row["feedback_comment"]) == ("'-1 is less\nthan 0.", "'@SUM(A1)")
        assert row["rating"] == "4"
    export_ratings(sqlite_engine, tmp_path / "as-it-is.csv")
    assert "\n=cmd" in (tmp_path / "as-it-is.csv").read_text()
    with pytest.raises(ImportFileError, match=r"End the name in \.csv"):
        export_ratings(sqlite_engine, tmp_path / "a.jsonl", options=options)
    assert not (tmp_path / "a.jsonl").exists()


def test_an_export_to_nowhere_is_refused(sqlite_engine: Engine, tmp_path: Path) -> None:
    """A folder that is not there is named."""
    with pytest.raises(ImportFileError, match="cannot be written"):
        export_ratings(sqlite_engine, tmp_path / "nowhere" / "a.csv")


def test_progress_is_reported(sqlite_engine: Engine, tmp_path: Path) -> None:
    """An import tells how far it is with reading and storing, an export the rows it has written, up to the whole."""
    path = write_csv(tmp_path / "a.csv", [["prompt", "answer"], *(["q", f"a{n}"] for n in range(2500))])
    seen: list[tuple[int, int]] = []
    import_ratings(sqlite_engine, path, progress=lambda done, total: seen.append((done, total)))
    size = path.stat().st_size
    assert [done // size for done, _ in seen[-4:]] == [5, 6, 7, 8]
    assert seen[-1] == (8 * size, 8 * size)
    assert seen == sorted(seen)
    seen.clear()
    export_ratings(sqlite_engine, tmp_path / "b.csv", progress=lambda done, total: seen.append((done, total)))
    assert (2500, 2500) in seen
    for name, options in (
        ("c.jsonl", {"format": "trl-preference"}),
        ("d.jsonl", {"format": "trl-unpaired"}),
        ("e.json", {"format": "langfuse"}),
        ("f.csv", {"options": ExportOptions(judges=True)}),
    ):
        seen.clear()
        export_ratings(sqlite_engine, tmp_path / name, **options, progress=lambda *done: seen.append(done))  # type: ignore[arg-type]
        assert seen[-1][0] == seen[-1][1] > 0


# --- Roles, flags, origins -------------------------------------------------------------------------------------------


def review(engine: Engine) -> tuple[Any, ...]:
    with transaction(engine) as connection:
        return tuple(connection.execute(text("SELECT rating, role, harmful, comment FROM rlhf_reviews")).one())


def test_role_flag_and_origin_go_in(engine: Engine, tmp_path: Path) -> None:
    """A row may say in which role somebody rated, flag the answer, and tell where it comes from."""
    rows = [
        ["prompt", "answer", "rating", "role", "harmful", "title", "url", "license", "retrieved at"],
        ["q", "a", 1, "End user", "yes", "A page", "https://x.org/", "CC BY 4.0", "2025-01-31T09:30:00+01:00"],
        ["q", "b", 2, "", "", "", "", "", ""],
    ]
    assert counts(import_ratings(engine, write_csv(tmp_path / "a.csv", rows))) == (2, 2, 0, 0, 0)
    with transaction(engine) as connection:
        reviews = connection.execute(text("SELECT role, harmful FROM rlhf_reviews ORDER BY id")).all()
        origin = connection.execute(text("SELECT title, url, licence FROM rlhf_interactions ORDER BY id")).first()
    assert [(row.role, bool(row.harmful)) for row in reviews] == [("end_user", True), ("expert", False)]
    assert origin is not None
    assert tuple(origin) == ("A page", "https://x.org/", "CC BY 4.0")


def test_bad_roles_and_flags_are_named(engine: Engine, tmp_path: Path) -> None:
    """A role or a flag that means nothing is an invalid row, with the value."""
    rows = [{"prompt": "q", "answer": "a", **given} for given in ({"role": "boss"}, {"harmful": "perhaps"})]
    found = reasons(engine, write_jsonl(tmp_path / "a.jsonl", rows))
    assert "reviewer_role is 'boss', not one of expert, end_user" in found[1]
    assert "harmful is 'perhaps', neither true nor false" in found[2]


def test_the_role_can_be_said_for_all(engine: Engine, tmp_path: Path) -> None:
    """Where no row says it, the role is that of the import; by default an expert's."""
    path = write_csv(tmp_path / "a.csv", [["prompt", "answer", "rating"], ["q", "a", 4]])
    import_ratings(engine, path, role=ReviewerRole.END_USER)
    assert review(engine)[1] == "end_user"
    assert stats(engine).rated == 0


def test_what_a_file_does_not_say_stays(engine: Engine, tmp_path: Path) -> None:
    """A file without roles and flags changes neither, whatever else it changes; one with them does."""
    rate(
        engine,
        record(engine, [Rating("q", "a", external_id="1")])[0],
        rating=2,
        harmful=True,
        role=ReviewerRole.END_USER,
    )
    rows = [["prompt", "answer", "external_id", "rating"], ["q", "a", "1", 2]]
    assert counts(import_ratings(engine, write_csv(tmp_path / "a.csv", rows))) == (1, 0, 0, 1, 0)
    rows[1][3] = 3
    assert import_ratings(engine, write_csv(tmp_path / "a.csv", rows), role=ReviewerRole.EXPERT).updated == 1
    assert review(engine)[:3] == (3, "end_user", True)
    rows = [["prompt", "answer", "external_id", "rating", "role", "harmful"], ["q", "a", "1", 3, "expert", "no"]]
    assert import_ratings(engine, write_csv(tmp_path / "b.csv", rows)).updated == 1
    assert review(engine)[:3] == (3, "expert", False)


def test_an_import_is_in_the_audit_log(engine: Engine, tmp_path: Path) -> None:
    """Who imported which file and what it changed; one that failed changed nothing and is not there."""
    path = write_csv(tmp_path / "a.csv", [["prompt", "answer", "rating"], ["q", "a", 4], ["q", "b", 9]])
    with pytest.raises(InvalidRowsError):
        import_ratings(engine, path, actor="cli:ann")
    assert audit.entries(engine, action="ratings.imported") == []
    import_ratings(engine, path, skip_invalid=True, actor="cli:ann")
    [entry] = audit.entries(engine, action="ratings.imported")
    assert (entry.actor, entry.target) == ("cli:ann", "file:a.csv")
    assert entry.detail == {"format": "csv", "rows": 2, "added": 1, "updated": 0, "invalid": 1}
