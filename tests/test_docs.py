from __future__ import annotations

import inspect
import os
import re
import tomllib
from dataclasses import fields
from pathlib import Path

import click
import pytest

from rlhf_loop import ranking
from rlhf_loop.answering import AnswerService
from rlhf_loop.cli import main
from rlhf_loop.config import PREFIX, Settings
from rlhf_loop.domain import AlarmKind

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
DOCS = "\n".join([README, *(path.read_text("utf-8") for path in sorted((ROOT / "docs").glob("*.md")))])
#: Python in the README; a comment before a block takes it out where it needs what a test has not.
BLOCKS = re.findall(r"(<!-- not run -->\s*)?^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
RUN = [code for skipped, code in BLOCKS if not skipped]


def commands(group: click.Group = main, path: str = "rlhf-loop") -> list[str]:
    found = []
    for name, command in group.commands.items():
        deeper = commands(command, f"{path} {name}") if isinstance(command, click.Group) else [f"{path} {name}"]
        found += deeper
    return found


def extras() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return [f"[{name}]" for name in project["optional-dependencies"]]


def targets() -> list[str]:
    return [f"make {name}" for name in re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)]


@pytest.mark.parametrize(
    "name", [*commands(), *(PREFIX + field.name.upper() for field in fields(Settings)), *extras(), *targets()]
)
def test_what_exists_is_documented(name: str) -> None:
    """Each command, setting, extra and make target is named in README.md or docs/."""
    assert name in DOCS


def test_what_is_documented_exists() -> None:
    """Each setting, command and make target that README.md or docs/ name is there."""
    known = {PREFIX + field.name.upper() for field in fields(Settings)}
    known |= {f"{PREFIX}{field.name.upper()}_FILE" for field in fields(Settings) if not field.repr}
    assert set(re.findall(r"\bRLHF_[A-Z_]+[A-Z]\b(?!\d|\.md|_)", DOCS)) - known == set()
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", DOCS, re.MULTILINE)) <= {name.split()[1] for name in targets()}
    groups = [f"rlhf-loop {name}" for name, command in main.commands.items() if isinstance(command, click.Group)]
    of_groups = "|".join(f"{name.split()[1]} " for name in groups)
    for name in re.findall(rf"(?:^|[`/])rlhf-loop ((?:{of_groups})?[a-z]+)", DOCS, re.MULTILINE):
        assert f"rlhf-loop {name}" in [*commands(), *groups]


def test_files_that_are_named_are_there() -> None:
    """Links from README.md and docs/ to files lead somewhere."""
    for document in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", document.read_text("utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_modules_that_are_named_are_there() -> None:
    """Each `path.py` in README.md or docs/ is there: in the checkout, in rlhf_loop/, or a test by its bare name."""
    for named in sorted(set(re.findall(r"(?<![\w/.*-])[\w*/-]+\.py\b", DOCS.replace("NAME.py", "")))):
        places = [ROOT, ROOT / "rlhf_loop", ROOT / "examples"]
        found = [path for place in places for path in place.glob(named)]
        assert found or ("/" not in named and list((ROOT / "tests").rglob(named))), named


@pytest.fixture
def empty_folder(tmp_path: Path, encoder_cache: Path, trained: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder to run in, with none of our variables but that of the cache."""
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RLHF_CACHE_DIR", str(encoder_cache))
    monkeypatch.setenv("RLHF_ENCODER_THREADS", "1")
    monkeypatch.setenv("HAYSTACK_TELEMETRY_ENABLED", "False")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ranking, "_default", None)


@pytest.mark.usefixtures("empty_folder")
@pytest.mark.parametrize("code", RUN, ids=range(len(RUN)))
def test_examples_run(code: str) -> None:
    """Each Python block in README.md runs on its own, in an empty folder."""
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


@pytest.mark.usefixtures("empty_folder")
@pytest.mark.slow
def test_the_page_on_python_runs() -> None:
    """The Python blocks in docs/RLHF_PYTHON.md are one program; it runs in an empty folder."""
    page = (ROOT / "docs" / "RLHF_PYTHON.md").read_text("utf-8")
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE))
    exec(compile(code, "RLHF_PYTHON.md", "exec"), {"__name__": "page"})


def test_the_runbook_knows_what_can_be_said() -> None:
    """Each kind of alarm, each part of /readyz, each alert and each exit code of a command has its line."""
    rows = set(re.findall(r"^\| `?([\w: ]+?)`? \|", (ROOT / "docs" / "RUNBOOK.md").read_text("utf-8"), re.MULTILINE))
    parts = set(re.findall(r'"([a-z][a-z ]*)"(?:\]|: )', inspect.getsource(AnswerService.readiness)))
    assert {"encoder", "recording", "database", "sources"} <= parts
    alerts = set(re.findall(r"- alert: (\w+)", (ROOT / "deploy" / "prometheus" / "alerts.yml").read_text("utf-8")))
    code = "".join(path.read_text("utf-8") for path in (ROOT / "rlhf_loop" / "cli").glob("*.py"))
    codes = set(re.findall(r"(?:exit\(|_TRY_LATER = )(\d+)\)?$", code, re.MULTILINE)) | {"0"}
    codes |= set(re.findall(r"\d+", re.findall(r"_TERMINATED = (.*)", code)[0]))
    assert {"2", "3", "75", "129", "130", "143"} <= codes
    assert {*AlarmKind, *parts, *alerts, *codes} - rows == set()
