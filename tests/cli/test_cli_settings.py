"""`rlhf-loop settings`, `--env-file` and the files of the working folder, as an operator meets them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import make_url

from rlhf_loop.cli import main

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("RLHF_")]:
        monkeypatch.delenv(name)

    def run(*arguments: str, code: int = 0, **environ: str) -> Result:
        before = dict(os.environ)
        result = CliRunner().invoke(main, arguments, env=environ)
        assert result.exit_code == code, result.output
        assert dict(os.environ) == before
        return result

    return run


def test_where_each_setting_comes_from(run: Run, tmp_path: Path) -> None:
    """A line each, with its file; which files were found without being named stands on stderr."""
    (tmp_path / ".env").write_text("RLHF_SECRET_KEY_FILE=key\nOTHER=1\n")
    (tmp_path / "rlhf-loop.toml").write_text("proxies = 1\n")
    (tmp_path / "key").write_text("k" * 32)
    shown = run("settings", RLHF_LANGUAGE="de")
    assert shown.stdout.splitlines() == [
        "RLHF_LANGUAGE=de  (the environment)",
        f"RLHF_SECRET_KEY=...  (RLHF_SECRET_KEY_FILE in {tmp_path / '.env'})",
        f"RLHF_PROXIES=1  ({tmp_path / 'rlhf-loop.toml'})",
    ]
    assert shown.stderr.splitlines() == [
        f"Settings from {tmp_path / '.env'}: RLHF_SECRET_KEY_FILE.",
        f"Settings from {tmp_path / 'rlhf-loop.toml'}: RLHF_PROXIES.",
    ]
    assert json.loads(run("settings", "--json").stdout)["RLHF_PROXIES"] == {
        "value": "1",
        "from": "RLHF_PROXIES",
        "file": str(tmp_path / "rlhf-loop.toml"),
    }


def test_a_named_file(run: Run, tmp_path: Path) -> None:
    """It stands in the place of .env, nothing is said of it, and what a command starts gets its variables, too."""
    (tmp_path / ".env").write_text("RLHF_PROXIES=1\n")
    (tmp_path / "named").write_text("RLHF_PROXIES=2\n")
    shown = run("--env-file", "named", "settings")
    assert (shown.stdout, shown.stderr) == (f"RLHF_PROXIES=2  ({tmp_path / 'named'})\n", "")
    assert run("--env-file", os.devnull, "settings").stdout.startswith("All settings are at their defaults")
    assert "'nowhere' cannot be read: No such file" in run("--env-file", "nowhere", "settings", code=2).stderr


def test_a_file_that_is_wrong(run: Run, tmp_path: Path) -> None:
    """Each command says so, and the doctor looks at no other database than is meant; help is there all the same."""
    (tmp_path / "rlhf-loop.toml").write_text("proxes = 1\n")
    assert "Did you mean proxies?" in run("settings", code=2).stderr
    run("train", "--help")
    findings = json.loads(run("doctor", "--json", code=1).stdout)
    topics = {finding["topic"] for finding in findings}
    assert "software" in topics
    assert not {"database", "model"} & topics
    assert any("Unknown setting 'proxes'" in finding["text"] for finding in findings)


@pytest.mark.slow
def test_a_command_beside_a_service(tmp_path: Path, postgres_url: str) -> None:
    """With the service's file a command reaches its database: by the file's own variables of the driver, too."""
    url = make_url(postgres_url)
    (tmp_path / "service.env").write_text(
        f"RLHF_DATABASE_URL=postgresql:///{url.database}\nPGHOST={url.query['host']}\nPGUSER={url.username}\n"
    )
    command = [sys.executable, "-m", "rlhf_loop", "--env-file", "service.env", "init"]
    environ = {name: text for name, text in os.environ.items() if not name.startswith(("RLHF_", "PG"))}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "is ready" in done.stdout


def test_the_files_stand_in_the_log_of_a_service(tmp_path: Path) -> None:
    """Where logs are lines of JSON, what a program reads there has no other line."""
    (tmp_path / ".env").write_text("RLHF_PROXIES=1\n")
    environ = {name: value for name, value in os.environ.items() if not name.startswith("RLHF_")}
    command = [sys.executable, "-m", "rlhf_loop", "worker", "--once"]
    ended = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True)
    said = [json.loads(line) for line in ended.stderr.splitlines()]
    assert f"Settings from {tmp_path / '.env'}: RLHF_PROXIES." in [line["message"] for line in said]
