from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from databases import sqlite_database
from operation_fakes import START, put_live, put_questions

from rlhf_loop import sample
from rlhf_loop.cli import main
from rlhf_loop.config import Settings
from rlhf_loop.domain import Rating, RunRecord
from rlhf_loop.registry.runs import begin_run, end_run, training_lock
from rlhf_loop.store.engine import open_database
from rlhf_loop.store.interactions import record

Run = Callable[..., Result]


@pytest.fixture
def environment(tmp_path: Path, encoder_cache: Path, model_folder: Path) -> dict[str, str]:
    return {
        "RLHF_DATABASE_URL": sqlite_database(tmp_path / "rlhf.db"),
        "RLHF_MODEL_PATH": str(tmp_path / "m.joblib"),
        "RLHF_CACHE_DIR": str(encoder_cache),
        "RLHF_ENCODER_THREADS": "1",
        "RLHF_ENCODER_PATH": str(model_folder),
        "COLUMNS": "200",
    }


@pytest.fixture
def loop(environment: dict[str, str]) -> Run:
    def run(*arguments: object, code: int = 0) -> Result:
        result = CliRunner().invoke(main, [str(each) for each in arguments], env=environment)
        assert result.exit_code == code, result.output
        return result

    return run


def test_from_ratings_to_a_rollback(loop: Run) -> None:
    """Train, list, show, compare, promote by force, roll back: as an operator would type it."""
    assert "There is no version yet" in loop("models", "list").stdout
    assert "Not due: Only 0 answers" in loop("retrain", "--if-due").stdout
    loop("ratings", "import", sample.RATINGS_FILE)
    assert loop("retrain", "--if-due").stdout.startswith("Due: 200 answers are rated")
    assert loop("retrain", "--if-due").stdout.startswith("Not due: 0 ratings are new")
    loop("train", "--recipe", "passages", code=3)
    second, first = json.loads(loop("models", "list", "--json").stdout)
    assert (first["state"], second["state"], second["recipe"]) == ("live", "candidate", "passages")
    listed = loop("models", "list").stdout
    assert f"{second['id']}: {second['reason']}" in listed
    card = loop("models", "show", second["id"]).stdout
    assert f"# Reward model {second['version']}" in card
    assert "## Limits" in card
    assert json.loads(loop("models", "show", second["version"][:9], "--json").stdout)["sha256"] == second["sha256"]
    compared = loop("models", "compare", first["id"], second["id"]).stdout
    assert "questions that neither was fitted on" in " ".join(compared.split())
    values = json.loads(loop("models", "compare", first["id"], second["id"], "--json").stdout)
    assert values["auc"]["difference"]["low"] <= values["auc"]["difference"]["value"]
    assert 0 < values["answers"] < 200
    assert "The gate has not let" in loop("models", "promote", second["id"], code=2).stderr
    assert "--force needs a reason" in loop("models", "promote", second["id"], "--force", code=2).stderr
    said = loop("models", "promote", second["id"], "--force", "--reason", "To see it.").stdout
    assert said == f"{second['version']} is live.\n"
    assert loop("models", "rollback", "--reason", "Seen.").stdout == f"{first['version']} is live again.\n"
    listed = loop("models", "list").stdout
    assert f"{second['id']}: Live from 2" in listed
    back = f" UTC. Live again: {second['version']} was rolled back by "
    (of_first,) = [line for line in listed.splitlines() if line.startswith(f"{first['id']}: Live since 2")]
    assert back in of_first
    assert " The gate said: It is better than the incoming order" in of_first
    assert "nothing to go back to" in loop("models", "rollback", code=2).stderr
    assert "There is no version 'nothing'" in loop("models", "show", "nothing", code=2).stderr


def test_off_where_nothing_is(loop: Run, environment: dict[str, str], tmp_path: Path) -> None:
    """In another folder than the service's it does not say that it is done."""
    environment["RLHF_DATABASE_URL"] = f"sqlite:///{tmp_path / 'other.db'}"
    said = loop("models", "off", "--reason", "It answers in rhymes", code=2).stderr
    assert f"Neither the model {environment['RLHF_MODEL_PATH']} nor its database is there, so nothing is" in said
    assert not (tmp_path / "other.db").exists()


def test_off_and_on(loop: Run, environment: dict[str, str]) -> None:
    """Off with a reason, which is seen where somebody looks; a promotion does not undo it, `on` does."""
    engine = open_database(environment["RLHF_DATABASE_URL"])
    put_live(engine, made_at=START)
    engine.dispose()
    assert "Missing option '--reason'" in loop("models", "off", code=2).stderr
    assert "The reason is empty" in loop("models", "off", "--reason", " \u200b", code=2).stderr
    assert "The model is not off" in loop("models", "on", code=2).stderr
    said = loop("models", "off", "--reason", "It answers in rhymes")
    assert said.stdout.startswith(f"The model at {environment['RLHF_MODEL_PATH']} is off: candidates")
    assert "No model is there." in said.stderr
    assert "off already" in loop("models", "off", "--reason", "Again", code=2).stderr
    assert "model_off (" in loop("alarms", code=1).stdout
    assert ": It answers in rhymes. To go on: rlhf-loop models on" in loop("models", "list").stdout
    assert "it is switched off, so candidates keep their incoming order" in loop("doctor", code=1).stdout
    assert "\tmodel.off\tmodel\t" in loop("audit").stdout
    assert loop("models", "on", "--reason", "Mended").stdout.startswith("The model is on")
    assert '"reason": "Mended"' in loop("audit", "--action", "model.on").stdout
    # Whatever state the database is in.
    environment["RLHF_DATABASE_URL"] = "postgresql://nobody@127.0.0.1:1/nowhere"
    assert "The database cannot be used now" in loop("models", "off", "--reason", "x").stderr
    assert Path(f"{environment['RLHF_MODEL_PATH']}.off").exists()


def test_two_at_once(loop: Run, environment: dict[str, str], tmp_path: Path) -> None:
    """While one training runs another one says so, with an exit code of its own, and leaves no trace."""
    loop("ratings", "import", sample.RATINGS_FILE)
    engine = open_database(environment["RLHF_DATABASE_URL"])
    with training_lock(engine, Settings(model_path=tmp_path / "m.joblib")):
        assert "Another training is running" in loop("retrain", code=75).stderr
        assert "Another training is running" in loop("train", code=2).stderr
    engine.dispose()
    assert json.loads(loop("models", "list", "--json").stdout) == []
    loop("retrain")


def test_drift_is_a_reason(loop: Run, environment: dict[str, str], tmp_path: Path) -> None:
    """Where the questions have drifted a few new ratings are enough; without the encoder's weights nobody can tell."""
    trained = START + timedelta(weeks=6)
    engine = open_database(environment["RLHF_DATABASE_URL"])
    for week in range(8):
        put_questions(engine, week, ["heart", "lung", "liver"] * 20 if week < 6 else ["vaccine"] * 60)
    run = begin_run(engine, started_at=trained, recipe="auto", encoder="e", split_seed=0)
    end_run(engine, run, RunRecord(status="succeeded", finished_at=trained))
    put_live(engine, made_at=trained)
    for place in range(60):
        rated = trained + timedelta(days=1 if place < 12 else -1)
        record(engine, [Rating(f"Question {place}?", "An answer.", rating=3, reviewer="anna", rated_at=rated)])
    settings = Settings.from_env(environment)
    environment["RLHF_RETRAIN_DAYS"] = "10000"
    with training_lock(engine, settings):  # so that it is only said
        said = loop("retrain", "--if-due", code=75).stdout
        assert said == "Due: Questions or scores have drifted since the week of 2026-02-16, and 12 ratings are new.\n"
        environment["RLHF_ENCODER_PATH"] = str(tmp_path / "nowhere")
        assert loop("retrain", "--if-due").stdout.startswith("Not due: 12 ratings are new since the last training")
    engine.dispose()
