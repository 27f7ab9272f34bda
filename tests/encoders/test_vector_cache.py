from __future__ import annotations

import logging
import os
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from random import Random

import numpy as np
import pytest
from forked_process import ForkedProcess, program
from patience import PATIENCE_S, until

from rlhf_loop.encoders import DIMENSION, Vectors
from rlhf_loop.encoders.vector_cache import VectorCache


def matrix(seed: int, rows: int = 1) -> Vectors:
    return np.random.default_rng(seed).standard_normal((rows, DIMENSION)).astype(np.float32)


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "folder" / "vectors.db"


def change(path: Path, sql: str, *values: object) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        assert connection.execute(sql, values).rowcount == 1


def test_what_goes_in_comes_out(path: Path) -> None:
    """Matrices of any number of rows come back exactly; unknown keys do not; the folder is made."""
    entries = {key(n): matrix(n, rows=n) for n in (1, 2, 70)}
    VectorCache(path).put(entries)
    found = VectorCache(path).get([*entries, key(5)])
    assert found.keys() == entries.keys()
    for name, expected in entries.items():
        np.testing.assert_array_equal(found[name], expected)


def test_many_keys_are_found_in_one_call(path: Path) -> None:
    """A call may ask for more keys than one query can take."""
    cache = VectorCache(path)
    entries = {key(n): matrix(n) for n in range(2500)}
    cache.put(entries)
    assert cache.get(list(entries)).keys() == entries.keys()
    assert cache.get([]) == {}


def test_a_later_entry_replaces_an_earlier_one(path: Path) -> None:
    """A key has one matrix, the latest."""
    cache = VectorCache(path)
    cache.put({key(1): matrix(1)})
    cache.put({key(1): matrix(2, rows=3)})
    np.testing.assert_array_equal(cache.get([key(1)])[key(1)], matrix(2, rows=3))


def flipped(path: Path) -> bytes:
    with closing(sqlite3.connect(path)) as connection:
        (data,) = connection.execute("SELECT data FROM vectors WHERE key = ?", (key(1),)).fetchone()
    return bytes([data[0] ^ 1]) + bytes(data[1:])


@pytest.mark.parametrize("damage", ["a flipped bit", "cut", "empty", "text", "number"])
def test_a_damaged_entry_is_not_served(path: Path, damage: str) -> None:
    """An entry whose checksum or form is wrong counts as unknown, the others stay, and a new one takes its place."""
    cache = VectorCache(path)
    cache.put({key(1): matrix(1), key(2): matrix(2)})
    values = {"a flipped bit": flipped(path), "cut": flipped(path)[:100], "empty": b"", "text": "ab\udcff", "number": 7}
    value = values[damage]
    sql = "UPDATE vectors SET data = ? WHERE key = ?"
    if isinstance(value, str):  # text that is not UTF-8, as a damaged page may hold it
        sql, value = "UPDATE vectors SET data = CAST(? AS TEXT) WHERE key = ?", b"ab\xff"
    change(path, sql, value, key(1))
    assert cache.get([key(1), key(2)]).keys() == {key(2)}
    cache.put({key(1): matrix(1)})
    np.testing.assert_array_equal(cache.get([key(1)])[key(1)], matrix(1))


def test_an_entry_of_no_vectors_is_not_served(path: Path) -> None:
    """Zeros where an entry was, which have the checksum 0, are not a matrix without rows."""
    cache = VectorCache(path)
    cache.put({key(1): matrix(1)})
    change(path, "UPDATE vectors SET data = ?, checksum = 0 WHERE key = ?", b"", key(1))
    assert cache.get([key(1)]) == {}


def test_vectors_of_another_text_are_not_served(path: Path) -> None:
    """Vectors that are intact but stand under the key of another text count as damaged."""
    cache = VectorCache(path)
    cache.put({key(1): matrix(1), key(2): matrix(2)})
    change(path, "UPDATE vectors SET key = ? WHERE key = ?", key(3), key(1))
    change(path, "UPDATE vectors SET key = ? WHERE key = ?", key(1), key(2))
    assert cache.get([key(1), key(2), key(3)]) == {}


@pytest.mark.parametrize("seed", range(30))
def test_flipped_bits_are_never_served(path: Path, seed: int) -> None:
    """Wherever in the file bits have flipped, what is served is what was stored, and what is put anew is kept."""
    cache = VectorCache(path)
    entries = {key(n): matrix(n, rows=n % 5 + 1) for n in range(60)}
    cache.put(entries)
    cache.close()
    random, content = Random(seed), bytearray(path.read_bytes())
    for place in random.choices(range(100, len(content)), k=random.choice([1, 10, 100])):
        content[place] ^= 1 << random.randrange(8)
    path.write_bytes(content)
    for _ in range(3):  # damage of the file itself shows at a write, too, and empties it
        found = cache.get(list(entries))
        assert all(np.array_equal(matrix, entries[name]) for name, matrix in found.items())
        cache.put({name: matrix for name, matrix in entries.items() if name not in found})
    assert cache.get(list(entries)).keys() == entries.keys()


def test_a_damaged_file_is_replaced(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file that is no database is logged and deleted, and the cache works again."""
    path.parent.mkdir(parents=True)
    path.write_bytes(b"this was never a database" * 1000)
    cache = VectorCache(path)
    assert cache.get([key(1)]) == {}
    assert "is damaged" in caplog.text
    cache.put({key(1): matrix(1)})
    assert cache.get([key(1)]).keys() == {key(1)}


def test_a_file_damaged_in_the_middle_is_replaced(path: Path) -> None:
    """Pages overwritten behind an intact header cost the entries, not the run."""
    cache = VectorCache(path)
    cache.put({key(n): matrix(n) for n in range(200)})
    cache.close()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))
    for _ in range(2):
        cache.get([key(n) for n in range(200)])
        cache.put({key(1): matrix(1)})
    np.testing.assert_array_equal(cache.get([key(1)])[key(1)], matrix(1))


@pytest.mark.parametrize("obstacle", ["parent is a file", "path is a folder"])
def test_without_a_place_to_write_nothing_is_cached(
    tmp_path: Path, obstacle: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Where no file can be written the cache stays empty, and a warning says so."""
    path = tmp_path / "obstacle" / "vectors.db"
    if obstacle == "parent is a file":
        path.parent.write_text("in the way")
    else:
        path.mkdir(parents=True)
    cache = VectorCache(path)
    cache.put({key(1): matrix(1)})
    assert cache.get([key(1)]) == {}
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert "cannot be used now" in caplog.text


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="file modes do not bind this user")
def test_a_read_only_file_is_still_read(path: Path) -> None:
    """Without the right to write, what is there is served and nothing is added."""
    cache = VectorCache(path)
    cache.put({key(1): matrix(1)})
    path.chmod(0o444)
    reader = VectorCache(path)
    reader.put({key(2): matrix(2)})
    assert reader.get([key(1), key(2)]).keys() == {key(1)}


def test_a_full_cache_drops_its_oldest_entries(path: Path) -> None:
    """The file stays near its limit, and the newest entries are the ones that stay."""
    limit = 400_000
    cache = VectorCache(path, max_bytes=limit)
    for start in range(0, 2000, 10):
        cache.put({key(n): matrix(n) for n in range(start, start + 10)})
    found = sorted(int.from_bytes(name, "big") for name in cache.get([key(n) for n in range(2000)]))
    assert 100 < len(found) < 260
    assert found == list(range(found[0], 2000))
    cache.close()
    assert path.stat().st_size < 1.3 * limit


def test_threads_share_a_cache(path: Path) -> None:
    """Threads may read and write one cache at once."""
    cache = VectorCache(path)

    def work(thread: int) -> None:
        for n in range(thread * 100, thread * 100 + 100):
            cache.put({key(n): matrix(n)})
            np.testing.assert_array_equal(cache.get([key(n)])[key(n)], matrix(n))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert len(cache.get([key(n) for n in range(400)])) == 400


def test_processes_share_a_file(path: Path, tmp_path: Path) -> None:
    """Processes that start and write at the same time all find their entries there."""
    code = (
        "import sys\nfrom pathlib import Path\nimport numpy as np\n"
        "from rlhf_loop.encoders.vector_cache import VectorCache\n"
        "first = int(sys.argv[2])\n"
        "cache = VectorCache(Path(sys.argv[1]))\n"
        "for n in range(first, first + 200):\n"
        "    cache.put({n.to_bytes(32, 'big'): np.full((1, 384), n, dtype=np.float32)})\n"
    )
    processes = [program(code, path, first, folder=tmp_path) for first in (0, 200, 400)]
    assert [(process.wait(PATIENCE_S), process.said()) for process in processes] == [(0, "")] * 3
    found = VectorCache(path).get([key(n) for n in range(600)])
    assert len(found) == 600
    assert all(int(found[key(n)][0, 0]) == n for n in range(600))


#: Stores entries one after the other and says after each that it is kept.
WRITER = (
    "import sys\nfrom pathlib import Path\nimport numpy as np\n"
    "from rlhf_loop.encoders.vector_cache import VectorCache\n"
    "cache = VectorCache(Path(sys.argv[1]))\n"
    "for n in range(int(sys.argv[2]), int(sys.argv[3])):\n"
    "    rows = np.random.default_rng(n).standard_normal((n % 40 + 1, 384)).astype(np.float32)\n"
    "    cache.put({n.to_bytes(32, 'big'): rows})\n"
    "    print(n, flush=True)\n"
)


def writer(path: Path, first: int, last: int, *, folder: Path) -> ForkedProcess:
    return program(WRITER, path, first, last, folder=folder)


@pytest.mark.kill
def test_a_kill_in_the_middle_of_writing(path: Path, tmp_path: Path) -> None:
    """A writer that is killed loses at most the entry it was at; other writers go on and find theirs."""
    others = [writer(path, first, first + 150, folder=tmp_path) for first in (0, 1000)]
    kept = []
    for first in (10_000, 20_000, 30_000):
        victim = writer(path, first, first + 10_000, folder=tmp_path)
        until(lambda: victim.said().count("\n") >= 30)  # noqa: B023
        victim.kill()
        # It may have said half a number.
        kept += [int(line) for line in victim.said().splitlines(keepends=True) if line.endswith("\n")]
    assert [process.wait(PATIENCE_S) for process in others] == [0, 0]
    assert [len(process.said().splitlines()) for process in others] == [150, 150]
    kept += [*range(150), *range(1000, 1150)]
    found = VectorCache(path).get([key(n) for n in range(40_000)])
    assert {key(n) for n in kept} <= found.keys()
    for name, vectors in found.items():
        number = int.from_bytes(name, "big")
        np.testing.assert_array_equal(vectors, matrix(number, rows=number % 40 + 1))


@pytest.mark.skipif(sys.platform == "win32", reason="this system has no limit on a file's size")
def test_a_full_disk_costs_no_more_than_the_new_entries(path: Path) -> None:
    """Where a write finds no room, a warning says so, what is there is served, and with room again writing goes on."""
    code = (
        "import resource\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))\n"
        f"{WRITER}"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\n"
        "cache.put({b'later': rows})\n"
        "print(len(cache.get([b'later'])))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), "0", "60"],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_S,
    )
    assert done.stdout.splitlines()[-1] == "1"
    assert "cannot be used now" in done.stderr
    found = VectorCache(path).get([key(n) for n in range(60)])
    assert 0 < len(found) < 60
    for name, vectors in found.items():
        number = int.from_bytes(name, "big")
        np.testing.assert_array_equal(vectors, matrix(number, rows=number % 40 + 1))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_cache_survives_a_fork(path: Path) -> None:
    """A forked child reads and writes on, even if another thread held the lock; so does the parent."""
    code = (
        "import os, sys, threading, warnings\nfrom pathlib import Path\nimport numpy as np\n"
        "from rlhf_loop.encoders.vector_cache import VectorCache\n"
        "warnings.simplefilter('ignore', DeprecationWarning)\n"  # that a fork with threads is risky: the very point
        "one = np.ones((1, 384), dtype=np.float32)\n"
        "cache = VectorCache(Path(sys.argv[1]))\n"
        "cache.put({b'before': one})\n"
        "locked, forked = threading.Event(), threading.Event()\n"
        "def hold():\n"
        "    with cache._reader._lock, cache._writer._lock:\n"
        "        locked.set()\n"
        "        forked.wait()\n"
        "threading.Thread(target=hold).start()\n"
        "locked.wait()\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    cache.put({b'child': one})\n"
        "    os._exit(0 if len(cache.get([b'before', b'child'])) == 2 else 1)\n"
        "forked.set()\n"
        "status = os.waitpid(child, 0)[1]\n"
        "cache.put({b'after': one})\n"
        "print(status, len(cache.get([b'before', b'child', b'after'])))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True, timeout=PATIENCE_S
    )
    assert (done.stdout, done.stderr) == ("0 3\n", "")


def test_a_program_that_used_a_cache_ends_without_noise(path: Path) -> None:
    """Whatever outlives the modules at the end of a program, it closes before they go and complains of nothing."""
    code = (
        "import atexit, sys\nfrom pathlib import Path\n"
        # As at the end of a program, when the names in modules are None; registered first, it comes last.
        "atexit.register(lambda: [setattr(used, name, None) for used in (sqlite, http) for name in dir(used)])\n"
        "from rlhf_loop.utils import sqlite\nfrom rlhf_loop.sources import http\n"
        "from rlhf_loop.encoders.vector_cache import VectorCache\n"
        "kept = VectorCache(Path(sys.argv[1])), http.HttpClient('http://localhost', setting='S')\n"
        "kept[0].get([b'x'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=PATIENCE_S)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not path.with_name(path.name + "-wal").exists()


def test_reading_does_not_wait_for_a_writer(path: Path) -> None:
    """While another process holds the write lock, what is known is served at once, also beside a waiting writer."""
    one = np.ones((1, 384), dtype=np.float32)
    cache = VectorCache(path)
    cache.put({b"known": one})
    with closing(sqlite3.connect(path, isolation_level=None)) as other, ThreadPoolExecutor(1) as pool:
        other.execute("BEGIN IMMEDIATE")
        waiting = pool.submit(cache.put, {b"new": one})
        while not cache._writer._lock.locked():
            time.sleep(0.001)
        assert list(cache.get([b"known"])) == [b"known"]
        assert not waiting.done()
        other.execute("ROLLBACK")
        waiting.result(timeout=PATIENCE_S)
    assert len(cache.get([b"known", b"new"])) == 2
