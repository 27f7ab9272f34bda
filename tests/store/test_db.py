from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from forked_process import program
from patience import PATIENCE_S, until
from sqlalchemy import Engine, create_engine, inspect, select, text
from sqlalchemy.exc import IntegrityError

from rlhf_loop.errors import DatabaseError
from rlhf_loop.store import engine as db
from rlhf_loop.store import tables


def run(engine: Engine, sql: str, **values: Any) -> None:
    with db.transaction(engine) as connection:
        connection.execute(text(sql), values)


def rows(engine: Engine, sql: str) -> list[tuple[Any, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(sql))]


def add_answer(engine: Engine) -> None:
    run(engine, "INSERT INTO rlhf_interactions (user_prompt, ai_response) VALUES ('q', 'a')")


def review(engine: Engine, reviewer: str, rating: int, comment: str | None = None) -> None:
    sql = "INSERT INTO rlhf_reviews (interaction_id, reviewer, rating, comment) VALUES (1, :who, :rating, :comment)"
    run(engine, sql, who=reviewer, rating=rating, comment=comment)


def consensus(engine: Engine) -> Any:
    return rows(engine, "SELECT rating FROM rlhf_interactions WHERE id = 1")[0][0]


# --- Opening ---------------------------------------------------------------------------------------------------------


def test_more_threads_than_connections_are_told_so(postgres_url: str) -> None:
    """Who gets no connection in time meets a database that does not answer, and nothing that nobody foresaw."""
    engine = db.make_engine(postgres_url, patience_s=0)
    with ExitStack() as stack:
        for _ in range(engine.pool.size() + engine.pool._max_overflow):  # type: ignore[attr-defined]
            stack.enter_context(engine.connect())
        with pytest.raises(DatabaseError, match="QueuePool limit"), db.reading(engine):
            pass
    engine.dispose()


def test_a_new_database_is_announced(empty_database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever meant another one is told once that it is new, and where it is; a table of before is not a new one."""
    for _ in range(2):
        db.open_database(empty_database_url).dispose()
    (said,) = [
        record.getMessage() for record in caplog.records if "so an empty database is made" in record.getMessage()
    ]
    if "sqlite" in empty_database_url:
        assert said.startswith(f"There was no database at {empty_database_url.removeprefix('sqlite:///')}, so")
    else:
        assert said.startswith("There were no tables in postgresql")


def test_sqlite_keeps_acknowledged_writes_and_foreign_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A SQLite connection has WAL, foreign keys, full synchronisation and a busy timeout."""
    monkeypatch.setattr(db, "create_engine", create_engine)  # that of users, which waits for the disk
    engine = db.make_engine(f"sqlite:///{tmp_path / 'rlhf.db'}")
    assert rows(engine, "PRAGMA journal_mode") == [("wal",)]
    assert rows(engine, "PRAGMA foreign_keys") == [(1,)]
    assert rows(engine, "PRAGMA synchronous") == [(2,)]
    assert rows(engine, "PRAGMA busy_timeout") == [(10_000,)]
    engine.dispose()


def test_a_missing_folder_is_made(tmp_path: Path) -> None:
    """The folder of a SQLite file is created on the first use."""
    engine = db.open_database(f"sqlite:///{tmp_path}/new/folder/rlhf.db")
    assert (tmp_path / "new/folder/rlhf.db").exists()
    engine.dispose()


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    """Where there is no more room the error says so, and what was stored is as it was."""
    engine = db.open_database(f"sqlite:///{tmp_path / 'rlhf.db'}")
    add_answer(engine)

    def fill() -> None:
        with db.transaction(engine) as connection:
            connection.exec_driver_sql("PRAGMA max_page_count = 1")
            connection.exec_driver_sql("UPDATE rlhf_interactions SET ai_response = zeroblob(1000000)")

    with pytest.raises(DatabaseError, match=r"database or disk is full\. Make room on its disk"):
        fill()
    assert rows(engine, "SELECT count(*), max(length(ai_response)) < 1000 FROM rlhf_interactions") == [(1, 1)]
    engine.dispose()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """Where the folder cannot be created the error names it."""
    (tmp_path / "file").write_text("")
    with pytest.raises(DatabaseError, match="file/folder"):
        db.open_database(f"sqlite:///{tmp_path}/file/folder/rlhf.db")


def test_memory_database_is_shared_by_its_threads() -> None:
    """A database in memory is one database for all threads of the process."""
    engine = db.open_database("sqlite://")
    add_answer(engine)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(rows, engine, "SELECT count(*) FROM rlhf_interactions").result() == [(1,)]
    engine.dispose()


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_spelling_of_postgresql_means_psycopg(scheme: str) -> None:
    """postgres:// and postgresql:// are served by psycopg 3."""
    assert db.make_engine(f"{scheme}://u:p@localhost/x").url.drivername == "postgresql+psycopg"


def test_an_unreachable_server_is_named_without_its_password() -> None:
    """The error of a database that cannot be reached shows the host and never the password."""
    engine = db.make_engine("postgresql://user:s3cret-word@127.0.0.1:1/ratings?password=s3cret-word")
    with pytest.raises(DatabaseError) as caught:
        db.ensure_schema(engine)
    assert "127.0.0.1:1/ratings" in str(caught.value)
    assert "s3cret-word" not in str(caught.value)


@pytest.mark.parametrize("url", ["mysql://u:s3cret@h/d", "no url s3cret", "postgresql://u:s3cret@h:port/d"])
def test_an_unusable_url_is_refused_without_its_password(url: str) -> None:
    """A URL of another kind, or none at all, is a DatabaseError that shows what to write."""
    with pytest.raises(DatabaseError, match="sqlite:///FILE") as caught:
        db.make_engine(url)
    assert "s3cret" not in str(caught.value)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    """A file of another kind is a DatabaseError, and stays as it is."""
    (tmp_path / "notes.txt").write_text("these are notes, and they are long enough to be read as a header " * 20)
    with pytest.raises(DatabaseError, match="not a database"):
        db.open_database(f"sqlite:///{tmp_path / 'notes.txt'}")


def test_threads_write_in_the_order_in_which_they_came(sqlite_engine: Engine) -> None:
    """However many write at once: nobody waits for those who came later."""
    [line] = [line for path, line in db._turns.items() if str(path) == sqlite_engine.url.database]
    with ThreadPoolExecutor(4) as threads, ExitStack() as before:
        before.enter_context(line)
        written = []
        for number in range(4):
            sql = f"INSERT INTO rlhf_interactions (user_prompt, ai_response) VALUES ('q', '{number}')"
            written.append(threads.submit(run, sqlite_engine, sql))
            until(lambda behind=number + 1: line.waiting == behind)  # type: ignore[misc]
        before.close()
        for each in written:
            each.result()
    stored = rows(sqlite_engine, "SELECT ai_response FROM rlhf_interactions ORDER BY id")
    assert [response for (response,) in stored] == list("0123")


WRITER = """
import os, signal, sys, threading, time
from sqlalchemy import text
from rlhf_loop.store import engine as db
engine = db.open_database(sys.argv[1])
with db.transaction(engine) as connection:
    connection.execute(text("INSERT INTO rlhf_interactions (user_prompt, ai_response) VALUES ('q', 'a')"))
used = engine.connect()
threading.Thread(target=lambda: (used.execute(text("SELECT 1")), time.sleep(3600)), daemon=True).start()
print(os.path.getsize(sys.argv[2] + "-wal") > 0)
"""


def test_a_copy_of_the_file_is_whole_when_a_process_has_ended(sqlite_engine: Engine, tmp_path: Path) -> None:
    """Also where a thread of it, and another process, still have the file open: what was written is in it."""
    file, copy = str(sqlite_engine.url.database), tmp_path / "copy.db"
    assert rows(sqlite_engine, "SELECT count(*) FROM rlhf_interactions") == [(0,)]  # a connection that stays open
    command = [sys.executable, "-c", WRITER, sqlite_engine.url.render_as_string(), file]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "True\n"
    copy.write_bytes(Path(file).read_bytes())
    copied = db.make_engine(f"sqlite:///{copy}")
    assert rows(copied, "SELECT ai_response FROM rlhf_interactions") == [("a",)]
    copied.dispose()


# --- Migrations ------------------------------------------------------------------------------------------------------


# SQLAlchemy cannot read an index over expressions back from SQLite, and says so; on PostgreSQL it is compared.
without_expressions = pytest.mark.filterwarnings("ignore:.*expression-based index")


@without_expressions
def test_migrations_and_tables_agree(engine: Engine) -> None:
    """Alembic finds no difference between what the migrations made and what the code declares."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "version_table": db.VERSION_TABLE, "target_metadata": None}
        )
        assert compare_metadata(context, tables.Base.metadata) == []


def test_migrations_and_tables_have_the_same_constraints(engine: Engine, tmp_path: Path) -> None:
    """The checks, which Alembic does not compare, have the declared names."""
    for table in tables.Base.metadata.sorted_tables:
        declared = {str(c.name) for c in table.constraints if type(c).__name__ == "CheckConstraint"}
        found = {c["name"] for c in inspect(engine).get_check_constraints(table.name)}
        assert declared <= found
        assert all(constraint.name for constraint in table.constraints)


def test_head_is_the_newest_revision() -> None:
    """The revision held in the code is the newest of the migrations."""
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(db.__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_current_head() == db.head()


def test_a_current_database_costs_no_alembic(tmp_path: Path) -> None:
    """Opening a database that is up to date does not import Alembic."""
    url = f"sqlite:///{tmp_path / 'rlhf.db'}"
    db.open_database(url).dispose()
    opened = f"from rlhf_loop.store.engine import open_database; open_database({url!r})"
    code = f"import sys; {opened}; print('alembic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_a_newer_database_is_refused(engine: Engine) -> None:
    """A database of a newer version is left alone, and the error says which revision it has."""
    run(engine, f"UPDATE {db.VERSION_TABLE} SET version_num = '9999'")
    with pytest.raises(DatabaseError, match="9999"):
        db.ensure_schema(engine)


@pytest.mark.slow
def test_several_processes_migrate_at_once(empty_database_url: str, tmp_path: Path) -> None:
    """Processes that start together end up with one schema and no error, and one of them says that it made it."""
    code = f"from rlhf_loop.store.engine import open_database; open_database({empty_database_url!r})"
    started = [program(code, folder=tmp_path) for _ in range(3)]
    assert [process.wait(PATIENCE_S) for process in started] == [0] * 3
    (said,) = filter(None, (process.said() for process in started))
    assert "so an empty database is made" in said


HAND_MADE = """
    CREATE TABLE rlhf_interactions (
        id {id} PRIMARY KEY, user_prompt TEXT, ai_response TEXT, rating INTEGER, feedback_comment TEXT)
"""


@pytest.fixture
def hand_made(empty_database_url: str) -> Iterator[Engine]:
    empty_engine = db.make_engine(empty_database_url)
    run(empty_engine, HAND_MADE.format(id="INTEGER" if empty_engine.dialect.name == "sqlite" else "SERIAL"))
    run(
        empty_engine,
        "INSERT INTO rlhf_interactions (id, user_prompt, ai_response, rating, feedback_comment) "
        "VALUES (3, 'q', 'a', 4, 'fine'), (7, 'q', 'b', NULL, NULL)",
    )
    yield empty_engine
    empty_engine.dispose()


@without_expressions
def test_a_hand_made_table_is_adopted(hand_made: Engine) -> None:
    """An earlier hand-made table keeps its rows and ids, and its ratings become reviews."""
    if hand_made.dialect.name == "sqlite":  # PostgreSQL refuses to drop a table that a view reads
        run(hand_made, "CREATE VIEW good AS SELECT id FROM rlhf_interactions")
    db.migrate(hand_made)
    assert rows(hand_made, "SELECT id, ai_response, rating, feedback_comment FROM rlhf_interactions ORDER BY id") == [
        (3, "a", 4, "fine"),
        (7, "b", None, None),
    ]
    assert rows(hand_made, "SELECT interaction_id, reviewer, rating, comment FROM rlhf_reviews") == [
        (3, "anonymous", 4, "fine")
    ]
    add_answer(hand_made)
    assert rows(hand_made, "SELECT max(id) FROM rlhf_interactions") == [(8,)]
    test_migrations_and_tables_agree(hand_made)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("UPDATE rlhf_interactions SET rating = 9 WHERE id = 7", r"not 1-5 .*id 7"),
        ("UPDATE rlhf_interactions SET ai_response = ' ' WHERE id = 3", r"empty ai_response .*id 3"),
        ("ALTER TABLE rlhf_interactions ADD COLUMN mood TEXT", "mood"),
    ],
)
def test_a_hand_made_table_that_cannot_be_kept_is_refused(hand_made: Engine, change: str, message: str) -> None:
    """Rows that break a rule are named, and nothing is changed."""
    run(hand_made, change)
    before = rows(hand_made, "SELECT * FROM rlhf_interactions ORDER BY id")
    with pytest.raises(DatabaseError, match=message):
        db.migrate(hand_made)
    assert rows(hand_made, "SELECT * FROM rlhf_interactions ORDER BY id") == before
    assert not inspect(hand_made).has_table("rlhf_reviews")


# --- Constraints and times -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "values"),
    [
        ("rating", "0"),
        ("rating", "6"),
        ("shown_rank", "0"),
        ("score", "1.5"),
        ("user_prompt", "' '"),
        ("ai_response", "''"),
    ],
)
def test_the_database_itself_refuses_bad_rows(engine: Engine, columns: str, values: str) -> None:
    """A row that breaks a rule is refused whoever writes it."""
    given = {"user_prompt": "'q'", "ai_response": "'a'"} | {columns: values}
    with pytest.raises(IntegrityError):
        run(engine, f"INSERT INTO rlhf_interactions ({', '.join(given)}) VALUES ({', '.join(given.values())})")


def test_times_come_back_aware_and_in_utc(engine: Engine) -> None:
    """A time of any zone is the same time in UTC when it is read; one without a zone is refused."""
    given = datetime(2025, 3, 1, 12, 0, 0, 5, tzinfo=timezone(timedelta(hours=2)))
    table = tables.Interaction.__table__
    with db.transaction(engine) as connection:
        connection.execute(table.insert(), {"user_prompt": "q", "ai_response": "a", "created_at": given})  # type: ignore[attr-defined]
        found = connection.execute(select(tables.Interaction.created_at)).scalar_one()
    assert found == given
    assert found.tzinfo == UTC
    with pytest.raises(Exception, match="no time zone"), engine.connect() as connection:
        connection.execute(select(tables.Interaction.id).where(tables.Interaction.created_at == datetime(2025, 1, 1)))


def test_the_servers_clock_is_utc(engine: Engine) -> None:
    """A row that is written without a time has the present one."""
    add_answer(engine)
    with engine.connect() as connection:
        created = connection.execute(select(tables.Interaction.created_at)).scalar_one()
    # Two zones are half an hour apart, or more.
    assert abs(datetime.now(UTC) - created) < timedelta(minutes=20)


# --- The consensus ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratings", "expected"), [([5], 5), ([5, 2], 2), ([5, 2, 4], 4), ([1, 3, 4, 5], 3), ([4, 4, 4, 1, 1], 4)]
)
def test_the_rating_is_the_lower_median(engine: Engine, ratings: list[int], expected: int) -> None:
    """The rating is the median of the reviews, of two middle ones the lower."""
    add_answer(engine)
    for number, rating in enumerate(ratings):
        review(engine, f"reviewer {number}", rating)
    assert consensus(engine) == expected


def test_changed_and_deleted_reviews_change_the_rating(engine: Engine) -> None:
    """The rating follows an update and a deletion, and is gone with the last review."""
    add_answer(engine)
    review(engine, "ann", 5, "good")
    review(engine, "bob", 1)
    run(engine, "UPDATE rlhf_reviews SET rating = 4 WHERE reviewer = 'bob'")
    assert consensus(engine) == 4
    run(engine, "DELETE FROM rlhf_reviews WHERE reviewer = 'bob'")
    assert consensus(engine) == 5
    run(engine, "DELETE FROM rlhf_reviews")
    assert rows(engine, "SELECT rating, rated_at, feedback_comment FROM rlhf_interactions") == [(None, None, None)]


def test_a_moved_review_changes_both_ratings(engine: Engine) -> None:
    """A review that moves to another answer leaves the one and counts for the other."""
    add_answer(engine)
    add_answer(engine)
    review(engine, "ann", 5, "good")
    run(engine, "UPDATE rlhf_reviews SET interaction_id = 2")
    assert rows(engine, "SELECT rating, feedback_comment FROM rlhf_interactions ORDER BY id") == [
        (None, None),
        (5, "good"),
    ]


def test_only_what_counts_is_summed_up(engine: Engine) -> None:
    """The triggers pass over the columns of a review that no sum is made of."""
    add_answer(engine)
    review(engine, "ann", 5)
    read = ["interaction_id", "rating", "comment", "correction", "reviewed_at", "role"]
    for number, column in enumerate(read, 2):
        run(engine, f"UPDATE rlhf_reviews SET {column} = {column}")
        assert rows(engine, "SELECT review_changes FROM rlhf_interactions") == [(number,)]
    run(engine, "UPDATE rlhf_reviews SET imported = 'x', harmful = true, reviewer = 'bob'")
    assert rows(engine, "SELECT review_changes FROM rlhf_interactions") == [(1 + len(read),)]


def test_the_newest_comment_is_shown(engine: Engine) -> None:
    """The answer's comment is that of the latest review that has one."""
    add_answer(engine)
    review(engine, "ann", 5, "old")
    review(engine, "bob", 5, "new")
    review(engine, "eve", 5)
    assert rows(engine, "SELECT feedback_comment FROM rlhf_interactions") == [("new",)]


def test_a_comment_without_rating_stays_until_a_review_has_one(engine: Engine) -> None:
    """A remark on an unrated answer survives reviews without words."""
    run(
        engine, "INSERT INTO rlhf_interactions (user_prompt, ai_response, feedback_comment) VALUES ('q', 'a', 'remark')"
    )
    review(engine, "ann", 5)
    run(engine, "UPDATE rlhf_reviews SET rating = 4")
    assert rows(engine, "SELECT rating, feedback_comment FROM rlhf_interactions") == [(4, "remark")]


def test_a_plain_insert_becomes_the_anonymous_review(engine: Engine) -> None:
    """Plain SQL that writes a rating is a review like any other."""
    run(
        engine,
        "INSERT INTO rlhf_interactions (user_prompt, ai_response, rating, feedback_comment) "
        "VALUES ('q', 'a', 2, 'bad')",
    )
    assert rows(engine, "SELECT interaction_id, reviewer, rating, comment FROM rlhf_reviews") == [
        (1, "anonymous", 2, "bad")
    ]
    assert rows(engine, "SELECT rating, feedback_comment FROM rlhf_interactions") == [(2, "bad")]
    assert rows(engine, "SELECT count(*) FROM rlhf_interactions WHERE rated_at IS NOT NULL") == [(1,)]


def test_a_plain_update_changes_the_anonymous_review(engine: Engine) -> None:
    """A plain update is the anonymous reviewer's word; the rating stays the consensus of all."""
    add_answer(engine)
    review(engine, "ann", 5)
    review(engine, "bob", 5)
    run(engine, "UPDATE rlhf_interactions SET rating = 1, feedback_comment = 'no' WHERE id = 1")
    assert consensus(engine) == 5
    found = "SELECT rating, comment FROM rlhf_reviews WHERE reviewer = 'anonymous'"
    assert rows(engine, found) == [(1, "no")]
    assert rows(engine, "SELECT feedback_comment FROM rlhf_interactions") == [("no",)]
    run(engine, "UPDATE rlhf_interactions SET rating = 5, feedback_comment = 'yes' WHERE id = 1")
    assert rows(engine, found) == [(5, "yes")]
    run(engine, "UPDATE rlhf_interactions SET feedback_comment = 'hm' WHERE id = 1")
    assert rows(engine, found) == [(5, "hm")]
    run(engine, "UPDATE rlhf_interactions SET rating = NULL WHERE id = 1")
    assert rows(engine, found) == []
    assert consensus(engine) == 5


def test_a_plain_update_to_the_present_rating_counts_too(engine: Engine) -> None:
    """Setting the rating to what it is already adds the anonymous review."""
    add_answer(engine)
    review(engine, "ann", 4)
    run(engine, "UPDATE rlhf_interactions SET rating = 4")
    assert rows(engine, "SELECT reviewer FROM rlhf_reviews ORDER BY id") == [("ann",), ("anonymous",)]


def test_a_deleted_answer_takes_its_reviews_along(engine: Engine) -> None:
    """Deleting an interaction deletes its reviews."""
    add_answer(engine)
    review(engine, "ann", 4)
    run(engine, "DELETE FROM rlhf_interactions")
    assert rows(engine, "SELECT count(*) FROM rlhf_reviews") == [(0,)]


def in_threads(work: Callable[[int], None], count: int) -> None:
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(work, range(count)))


def test_concurrent_plain_reviews_all_count(engine: Engine) -> None:
    """Reviews that arrive together neither collide nor leave a stale rating."""
    add_answer(engine)
    in_threads(lambda number: review(engine, f"reviewer {number}", 1 + number % 5), 10)
    assert rows(engine, "SELECT count(*) FROM rlhf_reviews") == [(10,)]
    assert consensus(engine) == 3
