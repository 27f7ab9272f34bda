"""The commands that were there before the package, each run as a newcomer would: from a fresh copy of the checkout."""

from __future__ import annotations

import compileall
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from patience import PATIENCE_S

from rlhf_loop import sample
from rlhf_loop.exchange.transfer import import_ratings
from rlhf_loop.store.engine import open_database

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
COUNT = """
from sqlalchemy import text
from model_utils import engine
with engine.connect() as connection:
    print(connection.execute(text("SELECT COUNT(*) FROM rlhf_interactions WHERE rating IS NOT NULL")).scalar())
"""


class Clone:
    """A copy of the files that git knows or would know, and a way to run Python in it."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder = folder
        self._cache = cache

    def python(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("RLHF_", "PYTHON"))}
        result = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env={**environment, "RLHF_CACHE_DIR": str(self._cache), "RLHF_ENCODER_THREADS": "1", "PYTHONPATH": ""},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert result.returncode == code, result.stdout + result.stderr
        return result

    def import_sample(self) -> None:
        file = self.folder / "rlhf_loop" / "sample" / sample.RATINGS_FILE.name
        store = open_database(f"sqlite:///{self.folder / 'rlhf.db'}")
        import_ratings(store, file)
        store.dispose()


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout that has been compiled, as it is after its first command."""
    git = shutil.which("git")
    listed = None
    if git is not None:
        command = [
            git,
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
            "*.py",
            "*.json",
            "*.jsonl",
            "*.mako",
        ]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed is None or listed.returncode:
        pytest.skip("this is no git checkout")
    folder = tmp_path_factory.mktemp("compiled")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file() and not name.startswith(("tests/", "tools/")):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target)
    assert compileall.compile_dir(folder, quiet=1)
    return folder


@pytest.fixture
def clone(tmp_path: Path, compiled: Path, encoder_cache: Path, trained: object) -> Clone:
    # With its times, by which Python knows what it has compiled.
    return Clone(shutil.copytree(compiled, tmp_path / "clone", copy_function=shutil.copy2), encoder_cache)


def test_the_copy_is_what_runs(clone: Clone) -> None:
    """From its folder a copy of the checkout imports its own package, not an installed one."""
    code = "import rlhf_loop.cli, rlhf_reranker; print(rlhf_loop.__file__); print(rlhf_reranker.__file__)"
    for line in clone.python("-c", code).stdout.splitlines():
        assert Path(line).is_relative_to(clone.folder.resolve())


def test_import_is_ready(clone: Clone) -> None:
    """`python -c "import rlhf_reranker; print('Ready')"` prints Ready, and makes no file."""
    result = clone.python("-c", "import rlhf_reranker; print('Ready')")
    assert (result.stdout, result.stderr) == ("Ready\n", "")
    assert not list(clone.folder.glob("*.db"))


def test_the_commands_of_a_newcomer(clone: Clone) -> None:
    """One after the other in an empty folder, each says what there is and what is missing.

    `from model_utils import engine` gives a database that is ready, empty at first and then counted; `python
    train_reward_sbert.py` says how many ratings it lacks, and makes a model of them; `python rlhf_reranker.py` prints
    its example in the incoming order, and with a model the best answer first.
    """
    assert clone.python("-c", COUNT).stdout == "0\n"
    empty = clone.python("train_reward_sbert.py", code=2)
    assert "Only 0 rated interactions; training needs 50" in empty.stderr
    assert "Traceback" not in empty.stderr
    before = clone.python("rlhf_reranker.py")
    assert "reward_model.joblib yet" in before.stderr
    assert before.stdout.index("Handball is a fast") < before.stdout.index("is a sign of")
    clone.import_sample()
    assert clone.python("-c", COUNT).stdout == "200\n"
    assert (clone.folder / "rlhf.db").exists()
    result = clone.python("train_reward_sbert.py")
    assert result.stdout.startswith("LIVE in reward_model.joblib")
    assert (clone.folder / "reward_model.joblib").stat().st_size < 50_000
    assert (clone.folder / "reward_model.joblib.sha256").exists()
    after = clone.python("rlhf_reranker.py")
    assert after.stdout.index("is a sign of") < after.stdout.index("Handball is a fast")
    assert after.stderr == ""
    assert "--learning-curve" in clone.python("train_reward_sbert.py", "--help").stdout


def test_pipeline_script(clone: Clone) -> None:
    """`python test_rlhf_pipeline.py` checks every stage and leaves nothing behind."""
    before = {path for path in clone.folder.iterdir() if path.name != "__pycache__"}
    result = clone.python("test_rlhf_pipeline.py")
    assert result.stdout.endswith("The pipeline works.\n")
    for stage in ("store", "encoder", "train", "re-rank", "best answer"):
        assert f"ok  {stage}" in result.stdout
    assert {path for path in clone.folder.iterdir() if path.name != "__pycache__"} == before
