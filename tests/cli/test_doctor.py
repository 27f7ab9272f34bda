from __future__ import annotations

import importlib.util
import json
import re
import sqlite3
import sys
import tomllib
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from examined import about, faults
from sqlalchemy import text

from rlhf_loop.cli import main
from rlhf_loop.cli.doctor import EXTRAS, SECTIONS, Finding, examine, examine_environment
from rlhf_loop.cli.doctor.finding import with_failures
from rlhf_loop.cli.doctor.printing import print_findings
from rlhf_loop.config import Settings
from rlhf_loop.reward import RewardModel
from rlhf_loop.reward.model_file import save
from rlhf_loop.store.engine import VERSION_TABLE, make_engine, migrate
from rlhf_loop.training.train import TrainingReport


@pytest.fixture
def settings(tmp_path: Path, model_folder: Path) -> Settings:
    return Settings(
        database_url=f"sqlite:///{tmp_path / 'rlhf.db'}",
        model_path=tmp_path / "reward_model.joblib",
        cache_dir=tmp_path / "cache",
        cache_max_mb=1,
        outbox_path=tmp_path / "outbox.db",
        index_path=tmp_path / "index",
        encoder_path=model_folder,
        encoder_precision="fp32",
    )


@pytest.fixture
def environment(settings: Settings) -> dict[str, str]:
    return {
        "RLHF_DATABASE_URL": settings.database_url,
        "RLHF_MODEL_PATH": str(settings.model_path),
        "RLHF_CACHE_DIR": str(settings.cache_dir),
        "RLHF_CACHE_MAX_MB": "1",
        "RLHF_OUTBOX_PATH": str(settings.outbox_path),
        "RLHF_INDEX_PATH": str(settings.index_path),
        "RLHF_ENCODER_PATH": str(settings.encoder_path),
    }


def initialised(settings: Settings) -> None:
    engine = make_engine(settings.database_url)
    migrate(engine)
    engine.dispose()


def test_a_fresh_machine_hears_what_to_do(settings: Settings, tmp_path: Path) -> None:
    """Before first use the database is missing, with the command that makes it, and a model is no fault; looking makes
    neither, nor any other file.
    """
    findings = examine(settings)
    (database,), (model,) = faults(findings), about(findings, "model")
    assert (database.topic, database.advice) == ("database", "Run: rlhf-loop init")
    assert "rlhf-loop train makes it from 50 rated answers" in model.text
    assert list(tmp_path.iterdir()) == []


def test_all_is_well_after_init(settings: Settings) -> None:
    """With an empty database there is nothing to complain of, and each section has something to say."""
    initialised(settings)
    findings = examine(settings)
    assert faults(findings) == []
    topics = [finding.topic for finding in findings]
    assert sorted(topics, key=[topic for each in SECTIONS.values() for topic in each].index) == topics
    assert {"ratings", "training", "alarms", "model"} <= set(topics)


def test_all_is_well_after_init_and_train(settings: Settings, trained: tuple[RewardModel, TrainingReport]) -> None:
    """A model from before there was a registry is no fault: it is said who takes it in."""
    initialised(settings)
    save(trained[0], settings.model_path)
    findings = examine(settings)
    assert faults(findings) == []
    assert "quality-" in about(findings, "model")[0].text
    assert "rlhf-loop models list take this model in" in about(findings, "registry")[0].text


def test_the_encoder_and_the_reason_are_named(settings: Settings) -> None:
    """What runs the encoder, in which precision, and why."""
    assert "onnxruntime in fp32" in about(examine(settings), "encoder")[0].text
    assert "set by RLHF_ENCODER_PRECISION" in about(examine(settings), "encoder")[0].text


def test_one_fault_does_not_hide_the_next(settings: Settings) -> None:
    """A setting that cannot be and a damaged model are findings of their own, with advice each."""
    settings.model_path.write_bytes(b"no model")
    broken = replace(settings, encoder_runtime="tensorflow", database_url="oracle://x", worker_schedule="soon")
    assert {fault.topic for fault in faults(examine(broken))} == {"encoder", "database", "model", "worker"}


def test_what_nobody_thought_of_is_a_finding(settings: Settings) -> None:
    """Any error at all becomes one line, without the settings' secrets."""
    secret = replace(settings, llm_api_key="sk-1", database_url="postgresql://me:hush@nowhere/x")

    def findings() -> list[Finding]:
        raise RuntimeError("sk-1 and hush\nwere in it")

    def broken():  # type: ignore[no-untyped-def]
        yield Finding("cache", "so far")
        yield from findings()

    first, last = with_failures("cache", broken(), secret)
    assert first.ok
    assert last.text == "could not be looked at: RuntimeError: *** and *** were in it"


def test_an_unreachable_server_is_one_fault(settings: Settings) -> None:
    """Where PostgreSQL does not answer, that is said once, without the password, and the rest is looked at."""
    unreachable = replace(settings, database_url="postgresql://me:hush@127.0.0.1:1/none")
    findings = examine(unreachable)
    (database, model) = faults(findings)
    assert (database.topic, model.topic) == ("database", "model")
    assert "hush" not in "".join(f"{finding.text}{finding.advice}" for finding in findings)


def test_postgresql_without_its_driver(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that is configured and whose extra is missing is a fault, with the command that installs it."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    (database,) = about(examine(replace(settings, database_url="postgresql://u:p@h/x")), "database")
    assert (database.ok, "pip install 'rlhf-loop[postgres]'" in database.advice) == (False, True)


def test_postgresql_is_looked_at_without_writing(settings: Settings, empty_postgres_url: str) -> None:
    """An empty database, and one with our tables, as on SQLite; neither gets a table by looking."""
    asked = replace(settings, database_url=empty_postgres_url)
    (database,) = faults(examine(asked))
    assert "without our tables" in database.text
    assert "without our tables" in faults(examine(asked))[0].text
    initialised(asked)
    assert faults(examine(asked)) == []


def test_every_extra_is_looked_for(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Extras that are not there are no fault, and one line names them all and says how to get one."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (line,) = about(examine(settings), "extra")
    assert line.ok
    assert line.text.endswith("; if you want one: pip install 'rlhf-loop[NAME]'")
    assert [extra for extra in EXTRAS if f"[{extra}]" not in line.text] == []


def test_a_runtime_that_is_not_installed_is_a_fault(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever set sentence-transformers without the extra hears it here, and not at the first request."""
    real = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if "sentence" in name else real(name))
    wanted = replace(settings, encoder_runtime="sentence-transformers", encoder_precision="auto")
    (fault,) = faults(about(examine(wanted), "encoder"))
    assert "rlhf-loop[torch]" in fault.advice


def test_a_recipe_that_needs_torch_is_a_fault_without_it(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has a worker tune layers hears here that torch is missing, and not from a training that failed."""
    real = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "torch" else real(name))
    assert not faults(about(examine(settings), "worker"))
    (fault,) = faults(about(examine(replace(settings, recipe="transformer")), "worker"))
    assert "rlhf-loop[torch]" in fault.advice


@pytest.mark.parametrize("journal", ["delete", "wal", None])
def test_looking_changes_no_file(settings: Settings, tmp_path: Path, journal: str | None) -> None:
    """Somebody else's database, an empty file and one with a log beside it stay as they are, byte for byte."""
    path = tmp_path / "rlhf.db"
    path.touch()
    with closing(sqlite3.connect(path)) as other:
        if journal:
            other.execute(f"PRAGMA journal_mode = {journal}")
            other.execute("CREATE TABLE theirs (id)")
            other.commit()
        before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
        (database,) = about(examine(settings), "database")
        assert (database.ok, "without our tables" in database.text) == (False, True)
        after = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
        assert {**after, "rlhf.db-shm": b""} == {**before, "rlhf.db-shm": b""}  # that one holds the readers' marks


def test_looking_changes_nothing_of_ours(settings: Settings, tmp_path: Path) -> None:
    """A database of ours stays as it is, byte for byte, and nothing is made beside it."""
    initialised(settings)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert faults(examine(settings)) == []
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_newer_database_is_not_to_be_initialised(settings: Settings) -> None:
    """Where a newer version was here, the advice is to install that one."""
    initialised(settings)
    engine = make_engine(settings.database_url)
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    engine.dispose()
    findings = examine(settings)
    (database,) = about(findings, "database")
    assert (database.ok, "Install the version" in database.advice) == (False, True)
    assert about(findings, "ratings") == []


@pytest.mark.parametrize(
    ("broken", "advice"), [("a folder", "Choose another place"), ("no database", "Restore it from a backup")]
)
def test_a_database_that_is_none(settings: Settings, tmp_path: Path, broken: str, advice: str) -> None:
    """A folder under the name of the file, or a file that is something else, and what to do about each."""
    if broken == "a folder":
        (tmp_path / "rlhf.db").mkdir()
    else:
        (tmp_path / "rlhf.db").write_bytes(b"something else entirely" * 1000)
    (database,) = about(examine(settings), "database")
    assert not database.ok
    assert advice in database.advice


def test_weights_are_not_fetched_by_looking(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package only what was downloaded before is looked for."""
    asked: list[bool] = []

    def snapshot_download(*_: object, local_files_only: bool, **__: object) -> str:
        asked.append(local_files_only)
        raise FileNotFoundError("nothing was fetched yet")

    monkeypatch.setattr("rlhf_loop.encoders.weights.PACKAGE", "no_such_package")
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    found = faults(about(examine(replace(settings, encoder_path=None)), "encoder"))
    assert asked == [True]
    assert "No weights" in found[0].text


def test_settings_that_cannot_be_read_hide_nothing(environment: dict[str, str]) -> None:
    """Each is a finding of its own, with the name that was meant, and everything else is looked at."""
    findings = examine_environment({**environment, "RLHF_CACHE_MAX_MB": "much", "RLHF_LLM_UR": "sk-1", "HOME": "x"})
    number, name = faults(about(findings, "settings"))
    assert "RLHF_CACHE_MAX_MB='much' is not a whole number" in number.text
    assert "RLHF_LLM_UR is not a known setting" in name.text
    assert "sk-1" not in name.text
    assert "Did you mean RLHF_LLM_URL?" in name.advice
    assert about(findings, "database") == faults(about(findings, "database"))


def test_the_command_says_it_by_its_exit_code(settings: Settings, environment: dict[str, str]) -> None:
    """`rlhf-loop doctor` ends with 1 while something is missing, and with 0 and a good word when nothing is."""
    done = CliRunner().invoke(main, ["doctor"], env=environment)
    assert done.exit_code == 1
    assert "Run: rlhf-loop init" in done.output
    assert done.output.endswith("\n1 thing needs attention.\n")
    initialised(settings)
    done = CliRunner().invoke(main, ["doctor"], env=environment)
    assert (done.exit_code, done.output.rpartition("\n\n")[2]) == (0, "All is well.\n")


def test_the_findings_for_other_programs(environment: dict[str, str]) -> None:
    """`--json` gives each finding with topic, ok, text and advice, and the same exit code."""
    done = CliRunner().invoke(main, ["doctor", "--json"], env=environment)
    found = json.loads(done.stdout)
    assert done.exit_code == 1
    assert all(set(each) == {"topic", "ok", "text", "advice"} for each in found)
    assert [each["advice"] for each in found if not each["ok"]] == ["Run: rlhf-loop init"]


def test_a_command_to_copy_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """However long it is, advice is not broken, and what a terminal would obey is left out."""
    command = f"Run: cp {'very/' * 40}long there"
    print_findings([Finding("model", "two\x1b[2J words\nin one line", ok=False, advice=command), Finding("disk", "x")])
    lines = capsys.readouterr().out.splitlines()
    assert [line.strip() for line in lines if line] == [
        "Storage",
        "ok  disk        x",
        "The loop",
        "!!  model       two[2J words in one line",
        command,
        "1 thing needs attention.",
    ]


def test_all_extras_are_looked_at() -> None:
    """Each extra that somebody may want is named, with the packages that it asks for."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {
        extra: {re.split(r"[\[<>=]", package)[0] for package in packages}
        for extra, packages in project["optional-dependencies"].items()
        if extra not in ("all", "dev", "bench")
    }
    assert {extra: {package for package, _ in packages} for extra, packages in EXTRAS.items()} == wanted
