from __future__ import annotations

import signal
import subprocess
import sys
import threading
from contextvars import ContextVar
from pathlib import Path

import pytest
from patience import PATIENCE_S

from rlhf_loop.utils.concurrency import Worker, run_parallel

SHIP: ContextVar[str] = ContextVar("SHIP", default="none")


def test_a_worker_gives_results_and_errors_back() -> None:
    """The caller gets what the task returns or raises, and the next task runs all the same."""
    worker = Worker("test")
    assert worker.run(lambda: 6 * 7) == 42
    with pytest.raises(ZeroDivisionError):
        worker.run(lambda: 1 // 0)
    assert worker.run(threading.get_ident) != threading.get_ident()


def test_context_variables_go_along() -> None:
    """A task sees the context of whoever asked for it."""
    SHIP.set("Endurance")
    assert Worker("test").run(SHIP.get) == "Endurance"


def test_the_thread_ends_with_its_worker() -> None:
    """A worker that nobody holds leaves no thread behind."""
    worker = Worker("short-lived")
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "short-lived"]
    del worker
    thread.join(timeout=PATIENCE_S)
    assert not thread.is_alive()


def test_work_goes_on_after_the_main_thread() -> None:
    """Threads that still serve when the script has come to its last line get their results."""
    code = (
        "import threading, time\n"
        "from rlhf_loop.utils.concurrency import Worker, run_parallel\n"
        "def late():\n"
        "    threading.main_thread().join()\n"
        "    done = []\n"
        "    run_parallel(done.append, range(8), threads=2)\n"
        "    print(Worker('late').run(lambda: 7), len(done))\n"
        "threading.Thread(target=late).start()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=PATIENCE_S)
    assert (done.stdout, done.stderr) == ("7 8\n", "")


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_all_items_are_done_once(threads: int) -> None:
    """Whatever the number of threads, each item is worked on once."""
    done: list[int] = []
    run_parallel(done.append, range(100), threads=threads)
    assert sorted(done) == list(range(100))


def test_an_error_stops_all_threads() -> None:
    """The first error is raised, and what was not begun is left."""
    begun: list[int] = []

    def work(item: int) -> None:
        begun.append(item)
        raise ValueError(f"item {item}")

    with pytest.raises(ValueError, match="item"):
        run_parallel(work, range(1000), threads=3)
    assert len(begun) <= 3


_SPARED = """
import multiprocessing, re, sys
from pathlib import Path
from rlhf_loop.utils.concurrency import spared_ctrl_c

def tell(place):
    blocked = re.search(r"SigBlk:\\s*(\\w+)", Path("/proc/self/status").read_text())[1]
    Path(place).write_text(blocked)

if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=tell, args=(sys.argv[1],))
    with spared_ctrl_c():
        process.start()
    process.join()
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the system tells what is blocked in /proc")
def test_ctrl_c_does_not_reach_the_first_process_either(tmp_path: Path) -> None:
    """Python starts a helper of its own with the first one, which would let the signal through again."""
    (tmp_path / "program.py").write_text(_SPARED)
    subprocess.run([sys.executable, str(tmp_path / "program.py"), str(tmp_path / "mask")], check=True)
    assert int((tmp_path / "mask").read_text(), 16) & 1 << (signal.SIGINT - 1)
