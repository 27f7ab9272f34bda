from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from databases import sqlite_database
from filelock import FileLock
from forked_process import program
from outage import Outage
from patience import PATIENCE_S, until
from sqlalchemy import Engine, func, select, text

from rlhf_loop.config import Settings
from rlhf_loop.domain import Candidate, RankedCandidate, Rating, RecordedRanking, Review, ReviewerRole, ServingRecord
from rlhf_loop.errors import DatabaseError, OutboxError
from rlhf_loop.store import recording
from rlhf_loop.store.engine import FILE_COPY, FILE_FOREIGN, FILE_GONE, lost_file, make_engine, open_database
from rlhf_loop.store.outbox import Entry, Outbox
from rlhf_loop.store.recording import Recorder
from rlhf_loop.store.tables import Interaction, ServedQuestion
from rlhf_loop.store.tables import Review as StoredReview

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def candidates(name: str, count: int = 2) -> list[Rating]:
    return [
        Rating(
            "What helps against hiccups?",
            f"Answer {name}-{number}.",
            source="index",
            candidate_group=f"question:{name}",
            shown_rank=number + 1,
            score=0.5,
            model_version="v1",
            external_id=f"{name}-{number}",
        )
        for number in range(count)
    ]


def settings_for(url: str, folder: Path) -> Settings:
    return Settings(database_url=url, outbox_path=folder / "outbox.db", outbox_max=50)


def count(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(select(func.count()).select_from(Interaction)).scalar_one())


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "_LOOK_EVERY_S", 0.05)


@pytest.fixture
def recorder(database_url: str, tmp_path: Path) -> Iterator[Recorder]:
    recorder = Recorder(settings_for(database_url, tmp_path))
    yield recorder
    recorder.close()


@pytest.fixture
def outage(postgres_url: str) -> Iterator[Outage]:
    outage = Outage(postgres_url)
    yield outage
    outage.close()


def test_an_answer_and_its_rating_are_stored(recorder: Recorder, database_url: str) -> None:
    """All candidates become interactions of one group, and a rating finds its own by its id."""
    assert recorder.record(candidates("a")) == ""
    assert recorder.rate("a-1", Review(rating=5, reviewer="visitor:1", comment="yes", role=ReviewerRole.END_USER))
    assert recorder.rate("a-1", Review(rating=2, reviewer="visitor:1", role=ReviewerRole.END_USER))
    assert recorder.rate("a-1", Review(rating=4, reviewer="visitor:2", role=ReviewerRole.END_USER))
    engine = make_engine(database_url)
    with engine.connect() as connection:
        rows = connection.execute(select(Interaction).order_by(Interaction.id)).all()
        assert [(row.external_id, row.shown_rank, row.candidate_group) for row in rows] == [
            ("a-0", 1, "question:a"),
            ("a-1", 2, "question:a"),
        ]
        reviews = connection.execute(
            select(StoredReview.reviewer, StoredReview.rating).order_by(StoredReview.reviewer)
        ).all()
        assert [tuple(review) for review in reviews] == [("visitor:1", 2), ("visitor:2", 4)]
    engine.dispose()
    assert recorder.waiting() == (0, 0)


def test_visitors_and_experts_are_kept_apart(recorder: Recorder, database_url: str) -> None:
    """A rating is an end user's unless it is said to be an expert's; neither moves the other's consensus."""
    recorder.record(candidates("a", 1))
    for number in range(3):
        assert recorder.rate("a-0", Review(rating=1, reviewer=f"visitor:{number}", role=ReviewerRole.END_USER))
    assert recorder.rate("a-0", Review(rating=5, reviewer="anna", role=ReviewerRole.EXPERT))
    engine = make_engine(database_url)
    with engine.connect() as connection:
        assert connection.execute(select(Interaction.rating, Interaction.end_user_rating)).one() == (5, 1)
    engine.dispose()


def test_an_expert_waits_in_the_outbox_as_one(outage: Outage, tmp_path: Path) -> None:
    """What waited comes with its role; what waits from a version without roles is of visitors."""
    recorder = Recorder(settings_for(outage.url, tmp_path))
    recorder.record(candidates("a"))
    outage.cut()
    assert not recorder.rate("a-0", Review(rating=5, reviewer="anna", role=ReviewerRole.EXPERT))
    body = {"interaction": "a-1", "rating": 2, "reviewer": "visitor:1", "comment": None, "rated_at": NOON.isoformat()}
    recorder._outbox.put("rating", body, interactions=["a-1"])
    outage.restore()
    until(lambda: recorder.waiting() == (0, 0))
    recorder.close()
    engine = make_engine(outage.url)
    with engine.connect() as connection:
        found = select(Interaction.rating, Interaction.end_user_rating).order_by(Interaction.id)
        assert connection.execute(found).all() == [(5, None), (None, 2)]
    engine.dispose()


def test_bad_ratings(recorder: Recorder) -> None:
    """A rating of an unknown answer, or outside 1-5, is an error and leaves nothing."""
    recorder.record(candidates("a"))
    with pytest.raises(LookupError, match=r"no answer with the id 'zzz'.*Ask the question again"):
        recorder.rate("zzz", Review(rating=3, reviewer="visitor:1", role=ReviewerRole.END_USER))
    for bad in (0, 6, True, 2.5):
        with pytest.raises(ValueError, match="not a whole number from 1 to 5"):
            recorder.rate("a-0", Review(rating=bad, reviewer="visitor:1", role=ReviewerRole.END_USER))  # type: ignore[arg-type]
    assert recorder.waiting() == (0, 0)


@pytest.mark.parametrize("how", ["cut", "hang"])
def test_nothing_is_lost_while_the_database_is_down(
    outage: Outage, tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Answers and ratings wait on disk while PostgreSQL is away or stuck, and are there once it is back, once.

    Only the first of them tries the database in vain; the others do not wait.
    """
    recorder = Recorder(settings_for(outage.url, tmp_path))
    assert recorder.record(candidates("before")) == ""
    getattr(outage, how)()
    assert recorder.record(candidates("during")) == "the database cannot be used"
    for number in range(5):
        assert recorder.record(candidates(f"more{number}"))
    assert not recorder.rate("during-0", Review(rating=5, reviewer="visitor:1", role=ReviewerRole.END_USER))
    assert not recorder.rate("before-0", Review(rating=1, reviewer="visitor:1", role=ReviewerRole.END_USER))
    assert recorder.waiting() == (8, 0)
    assert caplog.text.count("Recording goes to the outbox") == 1
    outage.restore()
    until(lambda: recorder.waiting() == (0, 0))
    assert recorder.rate("before-0", Review(rating=4, reviewer="visitor:1", role=ReviewerRole.END_USER))
    recorder.close()
    engine = make_engine(outage.url)
    assert count(engine) == 14
    with engine.connect() as connection:
        rating = Interaction.end_user_rating
        rated = select(Interaction.external_id, rating).where(rating.is_not(None))
        assert {tuple(row) for row in connection.execute(rated)} == {("during-0", 5), ("before-0", 4)}
    engine.dispose()


def test_a_server_may_start_without_its_database(outage: Outage, tmp_path: Path) -> None:
    """Nothing has to be up at the start: the schema is made when the database comes."""
    outage.cut()
    recorder = Recorder(settings_for(outage.url, tmp_path))
    assert recorder.record(candidates("a"))
    outage.restore()
    until(lambda: recorder.waiting() == (0, 0))
    assert recorder.record(candidates("b")) == ""
    recorder.close()


def test_what_waited_in_an_earlier_life_is_recorded(outage: Outage, tmp_path: Path) -> None:
    """A process that was killed while the database was down leaves its entries to the next one."""
    outage.cut()
    code = (
        "import os, sys; from pathlib import Path; from rlhf_loop.store.recording import Recorder\n"
        "from rlhf_loop.config import Settings; from rlhf_loop.domain import *\n"
        "recorder = Recorder(Settings(database_url=sys.argv[1], outbox_path=Path(sys.argv[2])))\n"
        "assert recorder.record([Rating('q', 'a', external_id='left')])\n"
        "assert not recorder.rate('left', Review(rating=5, reviewer='visitor:1', role=ReviewerRole.END_USER))\n"
        "os.kill(os.getpid(), 9)"
    )
    assert program(code, outage.url, tmp_path / "outbox.db", folder=tmp_path).wait(PATIENCE_S) == -9
    outage.restore()
    recorder = Recorder(settings_for(outage.url, tmp_path))
    recorder.check()
    until(lambda: recorder.waiting() == (0, 0))
    recorder.close()
    engine = make_engine(outage.url)
    with engine.connect() as connection:
        assert connection.execute(select(Interaction.external_id, Interaction.end_user_rating)).one() == ("left", 5)
    engine.dispose()


def test_what_is_written_twice_is_there_once(recorder: Recorder, database_url: str) -> None:
    """An answer that reached the database, although nobody heard of it, is completed and not doubled."""
    recorder.record(candidates("a", 1))
    engine = make_engine(database_url)
    assert recorder.record(candidates("a", 3)) == ""
    assert recorder.record(candidates("a", 3)) == ""
    assert count(engine) == 3
    engine.dispose()


class Gate:
    """Holds up the first transaction until others wait behind it, and counts the answers of each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened, self.sizes, self._write = threading.Event(), list[int](), recording._write_once
        monkeypatch.setattr(recording, "_write_once", self.write)

    def write(self, engine: Engine, *answers: recording._AnswerEntry) -> None:
        self.sizes.append(len(answers))
        assert self.opened.wait(PATIENCE_S)
        self._write(engine, *answers)


def together(recorder: Recorder, gate: Gate, *answers: list[Rating]) -> list[str]:
    """Record the first answer, and the others while it is written; return what is said of each."""
    with ThreadPoolExecutor(len(answers)) as pool:
        running = [pool.submit(recorder.record, answers[0])]
        until(lambda: gate.sizes)
        running += [pool.submit(recorder.record, each) for each in answers[1:]]
        until(lambda: len(recorder._group.answers) == len(answers) - 1)
        gate.opened.set()
        return [each.result() for each in running]


def test_answers_that_come_together_are_one_transaction(
    recorder: Recorder, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes while others are written waits for the next transaction, and each is there when it is acknowledged."""
    monkeypatch.setattr(recording, "PATIENCE_S", PATIENCE_S)
    recorder.record(candidates("first"))
    gate = Gate(monkeypatch)
    assert together(recorder, gate, *map(candidates, "abcdef")) == [""] * 6
    assert gate.sizes == [1, 5]
    engine = make_engine(database_url)
    assert count(engine) == 2 + 6 * 2
    engine.dispose()
    assert recorder.waiting() == (0, 0)


def test_one_bad_answer_does_not_hold_up_those_beside_it(
    recorder: Recorder, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits in the outbox, to be refused with the reason; one that is there already is there once."""
    monkeypatch.setattr(recording, "PATIENCE_S", PATIENCE_S)
    recorder.record(candidates("twice"))
    gate, bad = Gate(monkeypatch), [replace(candidates("bad", 1)[0], score=7.0)]
    said = together(recorder, gate, candidates("a"), candidates("b"), bad, candidates("twice"), candidates("c"))
    assert said == ["", "", "the database refused it", "", ""]
    engine = make_engine(database_url)
    assert count(engine) == 2 + 3 * 2
    engine.dispose()
    until(lambda: recorder.waiting() == (0, 1))


def test_nobody_waits_behind_a_transaction_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever came with it or after it is told in time, and is in the outbox; when all is well again, it is written."""
    monkeypatch.setattr(recording, "PATIENCE_S", PATIENCE_S)
    recorder = Recorder(settings_for(sqlite_database(tmp_path / "one.db"), tmp_path))
    monkeypatch.setattr(recorder, "_start_replaying", lambda: None)
    recorder.record(candidates("first"))
    gate = Gate(monkeypatch)
    with monkeypatch.context() as patch, ThreadPoolExecutor(3) as pool:
        patch.setattr(recording, "PATIENCE_S", 0.2)
        said = list(pool.map(recorder.record, map(candidates, "abc")))
    assert all(said)
    assert recorder.waiting() == (3, 0)
    gate.opened.set()
    recorder._replay()
    assert recorder.record(candidates("d")) == ""
    engine = make_engine(sqlite_database(tmp_path / "one.db"))
    until(lambda: count(engine) == 10)
    engine.dispose()
    recorder.close()


def test_how_an_answer_was_served_comes_with_it(recorder: Recorder, database_url: str) -> None:
    """Both are written at once, and each once; entries from before there was such a row are replayed without one."""
    served = ServingRecord(
        candidate_group="question:a", served_at=NOON, policy="live", first_id="a-0", timings={"total": 1.5}
    )
    assert recorder.record(candidates("a"), served) == ""
    engine = make_engine(database_url)
    body = {
        "candidates": [recording._to_json(each) for each in candidates("a", 3)],
        "served": recording._to_json(served),
    }
    for _ in range(2):
        recording._write_entry(engine, Entry(1, "answer", body))
    old = {"candidates": [recording._to_json(each) for each in candidates("old")]}
    recording._write_entry(engine, Entry(2, "answer", old))
    other = {"candidates": [], "served": recording._to_json(replace(served, candidate_group="question:b"))}
    recording._write_entry(engine, Entry(3, "answer", other))
    with engine.connect() as connection:
        found = select(ServedQuestion.candidate_group, ServedQuestion.served_at, ServedQuestion.timings)
        assert connection.execute(found.order_by(ServedQuestion.candidate_group)).all() == [
            ("question:a", NOON, {"total": 1.5}),
            ("question:b", NOON, {"total": 1.5}),
        ]
    assert count(engine) == 5
    bad = [replace(candidates("bad", 1)[0], score=7.0)]
    with pytest.raises(ValueError, match=r"score is 7\.0"):
        recording._write_answer(engine, recording._AnswerEntry(bad, replace(served, candidate_group="question:c")))
    with engine.connect() as connection:
        assert connection.execute(select(func.count()).select_from(ServedQuestion)).scalar_one() == 2
    engine.dispose()


def test_what_the_database_refuses_does_not_hold_up_the_rest(outage: Outage, tmp_path: Path) -> None:
    """An answer that cannot be stored stays in the outbox with the reason; what follows it is recorded.

    A rating of an answer that nobody knows does not stay: with such, anybody could fill the outbox.
    """
    recorder = Recorder(settings_for(outage.url, tmp_path))
    recorder.check()
    outage.cut()
    recorder.record(candidates("a"))
    recorder.rate("nobody-knows", Review(rating=5, reviewer="visitor:1", role=ReviewerRole.END_USER))
    recorder.record([replace(candidates("bad", 1)[0], score=7.0)])
    recorder.record(candidates("b"))
    outage.restore()
    until(lambda: recorder.waiting() == (0, 1))
    recorder.close()
    with sqlite3.connect(tmp_path / "outbox.db") as connection:
        (reason,) = connection.execute("SELECT refused FROM entries").fetchone()
    connection.close()
    assert "score is 7.0" in reason


def test_what_was_lost_is_over_once_the_database_is_back(
    outage: Outage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said while neither database nor outbox takes anything, and not until the next answer comes."""
    recorder = Recorder(settings_for(outage.url, tmp_path))
    recorder.check()
    outage.cut()

    def full(*_: object, **__: object) -> None:
        raise OutboxError("The disk is full.")

    with monkeypatch.context() as patched:
        patched.setattr(Outbox, "put", full)
        with pytest.raises(OutboxError):
            recorder.record(candidates("a"))
    assert recorder.loses
    outage.restore()
    until(lambda: not recorder.loses)
    recorder.close()


def test_what_is_refused_at_once_is_kept_with_the_reason(recorder: Recorder) -> None:
    """A database that is there and says no loses nothing either."""
    assert recorder.record([replace(candidates("bad", 1)[0], score=7.0)]) == "the database refused it"
    until(lambda: recorder.waiting() == (0, 1))
    with pytest.raises(LookupError):
        recorder.rate("a\x00b", Review(rating=3, reviewer="visitor:1", role=ReviewerRole.END_USER))


def test_a_sqlite_database_that_is_deleted_under_the_server(tmp_path: Path) -> None:
    """What comes afterwards waits until the file is back, or a copy of it; it goes neither into one that nobody can
    see, nor into a new one, whoever made that.
    """
    file, away = tmp_path / "rlhf.db", tmp_path / "away.db"
    settings = settings_for(f"sqlite:///{file}", tmp_path)
    recorder = Recorder(settings)
    assert recorder.record(candidates("a")) == ""
    with closing(sqlite3.connect(file)) as before, closing(sqlite3.connect(away)) as copy:
        before.backup(copy)
    for each in tmp_path.glob("rlhf.db*"):
        each.unlink()
    assert recorder.record(candidates("b")) != ""
    assert not file.exists()
    assert lost_file(settings) == FILE_GONE
    engine = open_database(f"sqlite:///{file}")
    with pytest.raises(DatabaseError, match="is another one than at the start"):
        recorder.check()
    with pytest.raises(DatabaseError, match="is another one than at the start"):
        recorder._replay()
    assert recorder.record(candidates("c")) != ""
    assert (recorder.waiting(), count(engine), lost_file(settings)) == ((2, 0), 0, FILE_FOREIGN)
    engine.dispose()
    away.replace(file)
    until(lambda: recorder.waiting() == (0, 0))
    assert recorder.record(candidates("d")) == ""
    assert (count(engine), lost_file(settings)) == (8, FILE_COPY)
    engine.dispose()
    recorder.close()


def test_a_start_without_the_file_of_before(tmp_path: Path) -> None:
    """Where entries wait for a SQLite database that is gone, a server that is started makes no empty one for them."""
    file = tmp_path / "rlhf.db"
    settings = settings_for(f"sqlite:///{file}", tmp_path)
    assert lost_file(settings) == ""
    outbox = Outbox(settings.outbox_path, limit=9)
    outbox.put("answer", {"candidates": []}, interactions=[])
    recorder = Recorder(settings)
    with pytest.raises(DatabaseError, match=r"is gone, although 1 entry waits for it in the outbox .*outbox\.db\. Put"):
        recorder.check()
    assert (file.exists(), lost_file(settings)) == (False, FILE_GONE)
    sqlite_database(file)
    until(lambda: recorder.waiting() == (0, 0))
    assert lost_file(settings) == ""
    recorder.close()
    outbox.close()


def test_two_processes_replay_each_entry_once(outage: Outage, tmp_path: Path) -> None:
    """Workers of one server share the outbox; together they leave each answer once."""
    recorders = [Recorder(settings_for(outage.url, tmp_path)) for _ in range(3)]
    for recorder in recorders:
        recorder.check()
    outage.cut()
    threads = [
        threading.Thread(target=lambda r=r, n=n: [r.record(candidates(f"{n}.{i}")) for i in range(8)])  # type: ignore[misc]
        for n, r in enumerate(recorders)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    outage.restore()
    until(lambda: recorders[0].waiting() == (0, 0))
    for recorder in recorders:
        recorder.close()
    engine = make_engine(outage.url)
    assert count(engine) == 48
    engine.dispose()


def test_a_full_outbox_says_so(outage: Outage, tmp_path: Path) -> None:
    """Where neither database nor outbox can take an answer, the caller hears it."""
    recorder = Recorder(replace(settings_for(outage.url, tmp_path), outbox_max=1))
    outage.cut()
    recorder.record(candidates("a"))
    with pytest.raises(OutboxError, match="is full"):
        recorder.record(candidates("b"))
    recorder.close()


def test_sqlite_that_is_locked_for_too_long(tmp_path: Path) -> None:
    """A SQLite database that another process holds is down, too; afterwards all is recorded."""
    file = tmp_path / "rlhf.db"
    engine = make_engine(sqlite_database(file))
    recorder = Recorder(settings_for(f"sqlite:///{file}", tmp_path))
    holder = sqlite3.connect(file, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    assert recorder.record(candidates("a")) == "the database cannot be used"
    holder.execute("ROLLBACK")
    holder.close()
    until(lambda: recorder.waiting() == (0, 0))
    assert count(engine) == 2
    recorder.close()
    engine.dispose()


def test_a_database_that_was_replaced_by_an_empty_one(postgres_url: str, tmp_path: Path) -> None:
    """If the tables are gone, they are made again: no answer is lost for that."""
    recorder = Recorder(settings_for(postgres_url, tmp_path))
    recorder.record(candidates("a"))
    engine = make_engine(postgres_url)
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    recorder.record(candidates("b"))
    until(lambda: recorder.waiting() == (0, 0))
    assert count(engine) == 2
    recorder.close()
    engine.dispose()


def ranking(name: str, *texts: str) -> RecordedRanking:
    return RecordedRanking(
        id=name,
        query="What helps against hiccups?",
        candidates=tuple(
            RankedCandidate(Candidate(text, source="shop"), rank=place + 1, score=0.5, position=7 - place)
            for place, text in enumerate(texts)
        ),
        door="/v1/rerank",
        caller="shop",
        policy="live",
        ranked_at=NOON,
        model_version="v1",
        returned=3,
    )


def test_a_ranking_comes_as_a_served_question(recorder: Recorder, database_url: str) -> None:
    """Its documents are interactions of one group, named by their index; the door and the caller stand by."""
    # No thread: what waits is stored when it is said, and nothing holds that up.
    recorder._replaying = os.getpid()
    assert recorder.record_ranking(ranking("r", "Hold your breath.", "Sugar."))
    recorder.settle("r")
    assert recorder._rankings.count() == (0, 0)
    engine = make_engine(database_url)
    with engine.connect() as connection:
        wanted = select(
            Interaction.external_id, Interaction.shown_rank, Interaction.candidate_group, Interaction.source
        )
        assert connection.execute(wanted.order_by(Interaction.id)).all() == [
            ("r.7", 8, "ranking:r", "shop"),
            ("r.6", 7, "ranking:r", "shop"),
        ]
        table = ServedQuestion
        row = connection.execute(
            select(table.first_id, table.served_at, table.door, table.caller, table.returned)
        ).one()
        assert row == ("r.7", NOON, "/v1/rerank", "shop", 3)
    engine.dispose()


def test_one_bad_ranking_does_not_hold_up_the_others(recorder: Recorder, database_url: str) -> None:
    """One that is there already changes nothing, and one that cannot be stored is set aside with the reason."""
    engine = open_database(database_url)
    recording._write_rankings(engine, [Entry(1, "ranking", recording._ranking_to_json(ranking("b", "Sugar.")))])
    outbox = recorder._rankings
    for name in ("a", "b", "c"):
        outbox.put("ranking", recording._ranking_to_json(ranking(name, "Sugar.")), interactions=[name])
    outbox.put("ranking", recording._ranking_to_json(ranking("bad", "nul \x00")), interactions=["bad"])
    recorder.settle()
    assert (recorder._rankings.count(), recorder.waiting()) == ((0, 1), (0, 1))
    with engine.connect() as connection:
        assert set(connection.execute(select(Interaction.external_id)).scalars()) == {"a.7", "b.7", "c.7"}
    engine.dispose()


def test_a_rating_comes_after_its_ranking(recorder: Recorder, database_url: str) -> None:
    """Whether both wait for the database, or another process has the ranking still, or it came a moment ago."""
    engine = open_database(database_url)

    def reviews() -> int:
        with engine.connect() as connection:
            return int(connection.execute(select(func.count()).select_from(StoredReview)).scalar_one())

    # No thread: what waits is replayed when it is said.
    recorder._replaying, recorder._down = os.getpid(), True
    assert recorder.record_ranking(ranking("away", "Sugar."))
    assert not recorder.rate("away.7", Review(rating=5))
    with FileLock(f"{recorder._rankings.path}.lock"):
        recorder._replay()
        assert (reviews(), recorder._outbox.count()) == (0, (1, 0))
    recorder._replay()
    assert (reviews(), recorder._outbox.count()) == (1, (0, 0))
    assert recorder.record_ranking(ranking("soon", "Sugar."))
    assert recorder.rate("soon.7", Review(rating=5))
    assert reviews() == 2
    engine.dispose()


def test_what_has_no_room_is_not_said_to_be_recorded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """While the database is away, as many are kept as the limit says, and each comes later; a rating has room still."""
    url = sqlite_database(tmp_path / "r.db")
    # A folder: whatever looks for the database in between, it stays away.
    missing = f"sqlite:///{tmp_path}"
    away = Recorder(replace(settings_for(missing, tmp_path), outbox_max=3))
    away._down = True
    kept = [name for name in "abcde" if away.record_ranking(ranking(name, "Sugar."))]
    assert kept == ["a", "b", "c"]
    assert caplog.text.count("Rankings are not recorded: The outbox") == 1
    assert away.record(candidates("x"))
    assert away.waiting() == (1, 0)
    with sqlite3.connect(tmp_path / "outbox_rankings.db") as connection:
        connection.execute("UPDATE entries SET created_at = '2026-01-01T00:00:00+00:00'")
    connection.close()
    assert away.waiting() == (4, 0)
    away.close()
    recorder = Recorder(replace(settings_for(url, tmp_path), outbox_max=3))
    recorder.check()
    until(lambda: recorder.waiting() == (0, 0))
    recorder.close()
    engine = make_engine(url)
    with engine.connect() as connection:
        found = connection.execute(select(Interaction.external_id).where(Interaction.candidate_group != "question:x"))
        assert set(found.scalars()) == {"a.7", "b.7", "c.7"}
    engine.dispose()
