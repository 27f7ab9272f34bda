from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
from forked_process import ForkedProcess, program
from loopback import SeenRequest, Site, page, site
from patience import PATIENCE_S

from rlhf_loop.errors import SourceError
from rlhf_loop.sources.arxiv import Throttle

INTERVAL = 0.3


def throttle(folder: Path, interval_s: float = INTERVAL) -> Throttle:
    return Throttle(folder / "new" / "site.lock", interval_s=interval_s, site="The site")


def gaps(there: Site) -> list[float]:
    times = sorted(seen.at for seen in there.seen)
    return [later - earlier for earlier, later in pairwise(times)]


ASKER = """
import sys
from pathlib import Path
from rlhf_loop.sources.arxiv import Throttle
from rlhf_loop.sources.http import HttpClient
folder, url, interval, times, end = sys.argv[1:]
throttle = Throttle(Path(folder) / "new" / "site.lock", interval_s=float(interval), site="The site")
client = HttpClient(url, setting="X", turn=throttle.turn)
for _ in range(int(times)):
    client.get({}, budget_s=300.0, media_types=("text/plain",))
exec(end)
"""


def asker(folder: Path, url: str, *, times: int = 2, end: str = "") -> ForkedProcess:
    return program(ASKER, folder, url, INTERVAL, times, end, folder=folder)


def slow(_: SeenRequest) -> bytes:
    time.sleep(0.1)
    return page("Hello")


def test_processes_and_threads_keep_the_pause(tmp_path: Path) -> None:
    """However many processes and threads ask, the site sees one request at a time, each an interval after the last."""
    with site(slow) as there:
        others = [asker(tmp_path, there.url) for _ in range(3)]

        def ask(_: int) -> None:
            with throttle(tmp_path).turn(PATIENCE_S):
                there.seen.append(SeenRequest("", {}, None, ("", 0), time.monotonic()))  # type: ignore[arg-type]

        with ThreadPoolExecutor(2) as threads:
            list(threads.map(ask, range(2)))
        assert [other.wait(PATIENCE_S) for other in others] == [0, 0, 0]
        assert len(there.seen) == 8
        assert min(gaps(there)) >= INTERVAL


@pytest.mark.kill
def test_a_crash_blocks_nobody(tmp_path: Path) -> None:
    """A process that is killed while it holds its turn counts as a request, and the next one gets its turn."""
    end = "with throttle.turn(300.0): import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    with site(page("Hello")) as there:
        assert asker(tmp_path, there.url, times=0, end=end).wait(PATIENCE_S) < 0
    assert (tmp_path / "new" / "site.last").exists()
    with throttle(tmp_path).turn(PATIENCE_S):
        pass


def test_an_error_gives_the_turn_back(tmp_path: Path) -> None:
    """What fails in its turn counts as a request, and blocks nobody."""
    for error in (ValueError, OSError, TimeoutError, KeyboardInterrupt):
        with pytest.raises(error, match="mine"), throttle(tmp_path).turn(PATIENCE_S):
            raise error("mine")


def test_who_would_wait_too_long_is_told_when(tmp_path: Path) -> None:
    """Without time for the pause the request is not sent, and the error says when to come back."""
    one = throttle(tmp_path, 1000.0)
    with one.turn(0.0):
        pass
    with (
        pytest.raises(SourceError, match=r"The site may be asked only every 1000 s.*in [0-9.]+ s") as error,
        one.turn(5),
    ):
        pytest.fail("it was let in")
    assert error.value.retry_after_s == pytest.approx(1000, abs=60)


def test_who_finds_it_taken_is_told_when(tmp_path: Path) -> None:
    """While another request runs nobody waits longer than its budget."""
    one, other = throttle(tmp_path, 0.0), throttle(tmp_path, 0.0)
    with one.turn(PATIENCE_S):
        with pytest.raises(SourceError, match="may be asked only every") as error, other.turn(0.1):
            pytest.fail("it was let in")
        assert error.value.retry_after_s == 0
    with other.turn(PATIENCE_S):
        pass


@pytest.mark.parametrize(
    "stamp", [lambda: repr(time.time() + 10**9), lambda: "", lambda: "x", lambda: "nan", lambda: "inf", lambda: "1e999"]
)
def test_a_wrong_time_costs_one_pause(tmp_path: Path, stamp: Callable[[], str]) -> None:
    """A clock that went back, or half a time from a crash, makes nobody wait longer than one interval."""
    one = throttle(tmp_path)
    with one.turn(PATIENCE_S):
        pass
    (tmp_path / "new" / "site.last").write_text(stamp())
    with one.turn(PATIENCE_S):
        pass
    assert time.time() - float((tmp_path / "new" / "site.last").read_text()) < 60


@pytest.mark.parametrize("stamp", [lambda: repr(time.time() + 3600), lambda: "", lambda: "nan"])
def test_a_wrong_time_does_not_shut_out_who_has_little_time(tmp_path: Path, stamp: Callable[[], str]) -> None:
    """With less time than an interval one is refused once, and let in an interval later."""
    one = throttle(tmp_path)
    with one.turn(PATIENCE_S):
        pass
    (tmp_path / "new" / "site.last").write_text(stamp())
    with pytest.raises(SourceError, match="may be asked only every"), one.turn(INTERVAL / 2):
        pytest.fail("it was let in")
    time.sleep(INTERVAL)
    with one.turn(INTERVAL / 2):
        pass


def test_without_a_place_to_write_nobody_asks(tmp_path: Path) -> None:
    """Where the pause cannot be kept across processes the site is not asked at all."""
    (tmp_path / "new").write_text("in the way")
    with pytest.raises(SourceError, match=r"cannot be written .*RLHF_CACHE_DIR"), throttle(tmp_path).turn(1.0):
        pytest.fail("it was let in")
