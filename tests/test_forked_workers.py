"""The processes in which the suite runs: nothing gets lost when one of them dies."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from forked_workers import SHARED_FOLDER
from patience import PATIENCE_S

pytestmark = [pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"), pytest.mark.slow]

FIRST = """
import os, time
def test_passes(tmp_path): assert tmp_path.exists()
def test_fails(): print("said before"); assert os.getpid() == 0
def test_dies():
    if not os.fork():
        while not os.path.exists("over"): time.sleep(0.01)
    os._exit(3)
def test_goes_on(): pass
"""
SECOND = "def test_elsewhere(): pass"
COLLECTED_LATE = """
class Failing:
    def __del__(self): raise ValueError("too late")
def test_passes():
    one = Failing()
    one.itself = one
"""


def run(folder: Path, **files: str) -> tuple[int, str]:
    """Run these tests in two processes; return the exit code and what was printed."""
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    options = ["-p", "forked_workers", "--processes", "2", "-p", "no:cacheprovider", "--rootdir", str(folder)]
    # Where this run is traced for its coverage, that one is not: it ends otherwise then.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    with (folder / "printed").open("w") as printed:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-c", os.devnull, *options, str(folder)],
            env={**environ, "PYTHONPATH": str(Path(__file__).parent), SHARED_FOLDER: str(folder)},
            cwd=folder,
            stdout=printed,
            stderr=printed,
            timeout=PATIENCE_S,
            check=False,
        )
    return done.returncode, (folder / "printed").read_text()


def test_every_test_is_reported(tmp_path: Path) -> None:
    """A test that fails is shown with what it said, one whose process dies with its exit code, also while a child of
    that process lives on; all others run."""
    try:
        status, printed = run(tmp_path, test_first=FIRST, test_second=SECOND)
    finally:
        (tmp_path / "over").touch()
    assert status == 1, printed
    for said in ("2 failed, 3 passed", "said before", "The process that ran this test ended with status 3."):
        assert said in printed


def test_what_fails_after_the_last_test_fails_the_run(tmp_path: Path) -> None:
    """An object that fails when it is collected at the end of a process is no success."""
    status, printed = run(tmp_path, test_first=COLLECTED_LATE, test_second=SECOND)
    assert status, printed
    assert "ValueError: too late" in printed
