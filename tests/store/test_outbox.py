from __future__ import annotations

import os
import sqlite3
import threading
from pathlib import Path

import pytest
from forked_process import program
from patience import PATIENCE_S

from rlhf_loop.errors import OutboxError
from rlhf_loop.store.outbox import Outbox


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return Outbox(tmp_path / "folder" / "outbox.db", limit=5)


def test_nothing_is_written_before_it_is_needed(outbox: Outbox) -> None:
    """Looking makes no file."""
    assert outbox.waiting(limit=9) == []
    assert outbox.count() == (0, 0)
    assert not outbox.mentions("a")
    assert not outbox.path.parent.exists()


def test_entries_come_out_in_order_with_all_they_hold(outbox: Outbox) -> None:
    """What was put in comes out, the oldest first, until it is done."""
    outbox.put("answer", {"text": "naïve \u2028 🙂", "n": 1.5}, interactions=["a", "b", "b"])
    outbox.put("rating", {"of": "a"}, interactions=["a"])
    first, second = outbox.waiting(limit=9)
    assert (first.kind, first.body) == ("answer", {"text": "naïve \u2028 🙂", "n": 1.5})
    assert second.kind == "rating"
    assert [entry.id for entry in outbox.waiting(limit=1)] == [first.id]
    outbox.done(first)
    assert outbox.waiting(limit=9) == [second]
    assert outbox.mentions("a")
    assert not outbox.mentions("b")
    outbox.done(second)
    assert outbox.count() == (0, 0)


def test_a_refused_entry_stays_with_its_reason(outbox: Outbox) -> None:
    """It is not tried again, but nobody loses it."""
    outbox.put("rating", {"of": "a"}, interactions=["a"])
    (entry,) = outbox.waiting(limit=9)
    outbox.refuse(entry, "no such answer")
    assert outbox.waiting(limit=9) == []
    assert outbox.count() == (0, 1)
    assert not outbox.mentions("a")
    with sqlite3.connect(outbox.path) as connection:
        assert connection.execute("SELECT body, refused FROM entries").fetchall() == [('{"of": "a"}', "no such answer")]
    connection.close()


def test_it_is_bounded(outbox: Outbox) -> None:
    """One entry too many is an error that says what to do; those that are there stay."""
    for number in range(5):
        outbox.put("rating", {"n": number}, interactions=[])
    with pytest.raises(OutboxError, match=r"is full: 5 entries wait.*RLHF_OUTBOX_MAX"):
        outbox.put("rating", {"n": 5}, interactions=[])
    assert [entry.body["n"] for entry in outbox.waiting(limit=9)] == [0, 1, 2, 3, 4]


def test_a_file_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    """No folder can be made, or the file is something else: an OutboxError names it, and it is left as it is."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutboxError, match="cannot be used"):
        Outbox(tmp_path / "file" / "outbox.db", limit=5).put("rating", {}, interactions=[])
    other = tmp_path / "other.db"
    other.write_bytes(b"something else, and long enough to be no database" * 50)
    before = other.read_bytes()
    with pytest.raises(OutboxError, match=r"other\.db"):
        Outbox(other, limit=5).waiting(limit=1)
    assert other.read_bytes() == before


def test_a_file_that_is_deleted_is_made_anew(outbox: Outbox) -> None:
    """Somebody who deletes the file while the server runs does not make it blind."""
    outbox.put("rating", {"n": 1}, interactions=[])
    for file in outbox.path.parent.iterdir():
        file.unlink()
    outbox.put("rating", {"n": 2}, interactions=[])
    assert [entry.body["n"] for entry in outbox.waiting(limit=9)] == [2]
    with sqlite3.connect(outbox.path) as connection:
        assert connection.execute("SELECT count(*) FROM entries").fetchone() == (1,)
    connection.close()


@pytest.mark.parametrize("suffixes", [("", "-wal", "-shm"), ("",)])
def test_two_that_share_a_file_notice_that_it_was_deleted(tmp_path: Path, suffixes: tuple[str, ...]) -> None:
    """Whoever deletes it, with or without what lies beside it, leaves no process writing into nothing."""
    one, other = Outbox(tmp_path / "outbox.db", limit=9), Outbox(tmp_path / "outbox.db", limit=9)
    for outbox in (one, other):
        outbox.put("rating", {"n": 0}, interactions=[])
    for suffix in suffixes:
        (tmp_path / f"outbox.db{suffix}").unlink()
    for outbox in (one, other, one):
        outbox.put("rating", {"n": 1}, interactions=[])
    assert one.count() == other.count() == (3, 0)
    fresh = Outbox(tmp_path / "outbox.db", limit=9)
    assert fresh.count() == (3, 0)


def test_refused_entries_take_no_room_from_others(outbox: Outbox, caplog: pytest.LogCaptureFixture) -> None:
    """They do not count against the limit; of too many, the oldest go into the log."""
    for number in range(7):
        outbox.put("answer", {"n": number}, interactions=[])
        (entry,) = outbox.waiting(limit=9)
        outbox.refuse(entry, "no")
    assert outbox.count() == (0, 5)
    assert [record.getMessage().endswith('{"n": 0}') for record in caplog.records] == [True, False]


@pytest.mark.kill
def test_what_is_put_survives_a_kill(tmp_path: Path) -> None:
    """An entry is there after SIGKILL."""
    path = tmp_path / "outbox.db"
    code = (
        "import os, sys; from pathlib import Path; from rlhf_loop.store.outbox import Outbox\n"
        "Outbox(Path(sys.argv[1]), limit=9).put('rating', {'n': 7}, interactions=['a'])\n"
        "os.kill(os.getpid(), 9)"
    )
    assert program(code, path, folder=tmp_path).wait(PATIENCE_S) == -9
    assert [entry.body for entry in Outbox(path, limit=9).waiting(limit=9)] == [{"n": 7}]


def test_threads_and_forks_share_it(tmp_path: Path) -> None:
    """Entries from several threads and a forked process all arrive."""
    outbox = Outbox(tmp_path / "outbox.db", limit=1000)
    outbox.put("rating", {}, interactions=[])
    if (child := os.fork()) == 0:
        try:
            for _ in range(20):
                outbox.put("rating", {}, interactions=[])
        finally:
            os._exit(0)
    threads = [
        threading.Thread(target=lambda: [outbox.put("rating", {}, interactions=[]) for _ in range(20)])
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert os.waitpid(child, 0)[1] == 0
    assert outbox.count() == (81, 0)
