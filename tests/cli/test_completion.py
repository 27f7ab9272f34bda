"""The tab key: the line for bash that the documents have, in a real bash."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

GUIDE = Path(__file__).parents[2] / "docs" / "RLHF_QUICKSTART.md"
_TRY = """
COMP_WORDS=({words}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
_rlhf_loop_completion rlhf-loop "${{COMP_WORDS[COMP_CWORD]}}" ""
echo "${{COMPREPLY[*]}}"
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
@pytest.mark.parametrize(
    ("words", "completed"),
    [("rlhf-loop do", "doctor"), ("rlhf-loop doctor --j", "--json"), ("rlhf-loop models ro", "rollback")],
)
def test_bash_completes_commands_and_options(words: str, completed: str) -> None:
    """The documented line is all that it takes."""
    (line,) = [line for line in GUIDE.read_text(encoding="utf-8").splitlines() if "bash_source" in line]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "--norc", "-c", f"{line}\n{_TRY.format(words=words)}"],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout.strip(), done.stderr) == (completed, "")
