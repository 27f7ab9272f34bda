"""What `make bench` computes and writes of the service under load; the measurement itself takes more than a minute."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import islice

from patience import until

from tools.bench import server, service

RESULT = service.Service(
    workers="2 processes with 8 threads each",
    load=service.Load(answers=6000, errors=0, degraded=0, rate=100.0, p50=490.4, p99=900.6),
    processor_ms=12.34,
    before=500.0,
    memory=[(10, 510.0), (30, 511.0), (60, 512.0)],
    rooms=[("sources", 0.61), ("web", 0.386), ("store", 0.004)],
    exit_code=0,
)


def test_the_section_has_all_that_was_promised() -> None:
    """Answers a second, p50, p99, errors, the processor's time, and the memory over time."""
    text = service.section(RESULT)
    for row in ("| answers a second | 100 |", "| p50 | 490 ms |", "| p99 | 901 ms |", "| errors | 0 |"):
        assert row in text
    assert "| processor time of the server, an answer | 12.3 ms |" in text
    assert "| memory after 60 s | 512 MB |" in text
    assert "| sources | 61% |\n| web | 39% |" in text
    assert "store" not in text


def test_a_stack_is_of_its_innermost_room() -> None:
    """Not of who starts it, nor of a helper or a library that it calls; what has none is the serving itself."""
    stacks = """process 7;run (rlhf_loop/cli/serve.py:9);answer (rlhf_loop/web/app.py:1);rank (rlhf_loop/ranking.py:2) 3
thread;run (rlhf_loop/utils/concurrency.py:5);find (rlhf_loop/sources/index/store.py:1);dot (numpy/core.py:4) 5
process 7;run (rlhf_loop/cli/serve.py:9);accept (gunicorn/workers/gthread.py:1) 2"""
    assert service.shares(stacks) == [("sources", 0.5), ("ranking", 0.3), (service._SERVING, 0.2)]


def test_no_question_comes_twice() -> None:
    """So that none is answered from what is known of an earlier one."""
    asked = list(islice(service._questions(seed=1), 2000))
    assert len(set(asked)) == 2000


def test_memory_counts_the_children() -> None:
    """This process has more than ten and less than ten thousand megabytes."""
    assert 10 < server.megabytes(os.getpid()) < 10_000


def test_processor_time_is_counted() -> None:
    """What a process has computed, in seconds."""
    command = [sys.executable, "-c", "sum(range(20_000_000)); input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True) as process:
        until(lambda: server.Server(process=process, port=0, workers="").processor_s() > 0.05)
        process.kill()
