"""The processes in which the suite runs: nothing gets lost when one of them dies."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from forked_workers import SHARED_FOLDER

FIRST = """
import os
def test_passes(tmp_path): assert tmp_path.exists()
def test_fails(): print("said before"); assert os.getpid() == 0
def test_dies(): os._exit(3)
def test_goes_on(): pass
"""
SECOND = "def test_elsewhere(): pass"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_every_test_is_reported(tmp_path: Path) -> None:
    """A test that fails is shown with what it said, one whose process dies with its exit code; all others run."""
    (tmp_path / "test_first.py").write_text(FIRST)
    (tmp_path / "test_second.py").write_text(SECOND)
    options = ["-p", "forked_workers", "--processes", "2", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-c", os.devnull, *options, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent), SHARED_FOLDER: str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    for said in ("2 failed, 3 passed", "said before", "The process that ran this test ended with status 3."):
        assert said in done.stdout
