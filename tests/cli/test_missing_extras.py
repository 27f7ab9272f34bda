from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_loop.cli.common import progress_bar, rated_progress, stoppable, working

#: Modules are missing where None stands for them.
CODE = "import sys; sys.modules[sys.argv.pop(1)] = None; from rlhf_loop.cli import main; main()"


@pytest.mark.parametrize(
    ("module", "command", "extra"),
    [
        ("flask", ["serve"], "serve"),
        ("sklearn", ["worker", "--once"], "serve"),
        ("lancedb", ["index", "add", "text.md"], "index"),
        ("pyarrow", ["ratings", "export", "ratings.parquet"], "index"),
        ("matplotlib", ["train", "--learning-curve"], "charts"),
    ],
)
def test_a_command_names_the_extra_that_it_lacks(tmp_path: Path, module: str, command: list[str], extra: str) -> None:
    """In one line with the command that installs it, and before anything is done."""
    (tmp_path / "text.md").write_text("# Hiccups\n\nHold your breath.\n")
    run = subprocess.run(
        [sys.executable, "-c", CODE, module, *command],
        cwd=tmp_path,
        env={**os.environ, "RLHF_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2, run.stderr
    (line,) = [line for line in run.stderr.splitlines() if line.startswith("Error: ")]
    assert line.endswith(f"Run: pip install 'rlhf-loop[{extra}]'")
    assert not (tmp_path / "rlhf_index").exists()


@pytest.mark.parametrize("part", [stoppable, working, progress_bar, rated_progress])
@pytest.mark.parametrize(("stop", "code"), [(KeyboardInterrupt(), 130), (SystemExit(143), 143)])
def test_a_stop_says_what_is_kept(
    capsys: pytest.CaptureFixture[str], part: object, stop: BaseException, code: int
) -> None:
    """Ctrl-C and SIGTERM end what shows its progress in one sentence; their exit codes are a shell's."""
    named = () if part in (stoppable, rated_progress) else ("Working",)
    with pytest.raises(SystemExit) as ended, part(*named, kept="All of it."):  # type: ignore[operator]
        raise stop
    assert (ended.value.code, capsys.readouterr().err) == (code, "Stopped. All of it.\n")


def test_another_end_is_no_stop(capsys: pytest.CaptureFixture[str]) -> None:
    """A command that ends with an exit code of its own says nothing of a stop."""
    with pytest.raises(SystemExit) as ended, stoppable("All of it."):
        sys.exit(3)
    assert (ended.value.code, capsys.readouterr().err) == (3, "")
