from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from rlhf_loop.cli import main
from rlhf_loop.config import Settings
from rlhf_loop.db import make_engine, migrate
from rlhf_loop.doctor import EXTRAS, Finding, examine
from rlhf_loop.reward import RewardModel
from rlhf_loop.reward.model_file import save
from rlhf_loop.training import TrainingReport


@pytest.fixture
def settings(tmp_path: Path, model_folder: Path) -> Settings:
    return Settings(
        database_url=f"sqlite:///{tmp_path / 'rlhf.db'}",
        model_path=tmp_path / "reward_model.joblib",
        cache_dir=tmp_path / "cache",
        encoder_path=model_folder,
        encoder_precision="fp32",
    )


def about(findings: list[Finding], topic: str) -> list[Finding]:
    return [finding for finding in findings if finding.topic == topic]


def test_a_fresh_machine_hears_what_to_do(settings: Settings, tmp_path: Path) -> None:
    """Before first use, database and model are missing, each with the command that makes it; looking makes neither."""
    findings = examine(settings)
    (database,), (model,) = about(findings, "database"), about(findings, "model")
    assert (database.ok, database.advice) == (False, "Run: rlhf-loop init")
    assert (model.ok, model.advice) == (False, "Run: rlhf-loop train")
    assert list(tmp_path.iterdir()) == []


def test_all_is_well_after_init_and_train(settings: Settings, trained: tuple[RewardModel, TrainingReport]) -> None:
    """With a database, a model and the weights there is nothing to complain of."""
    engine = make_engine(settings.database_url)
    migrate(engine)
    engine.dispose()
    save(trained[0], settings.model_path)
    findings = examine(settings)
    assert [finding for finding in findings if not finding.ok] == []
    assert "passages-" in about(findings, "model")[0].text


def test_the_encoder_and_the_reason_are_named(settings: Settings) -> None:
    """What runs the encoder, in which precision, and why."""
    assert "onnxruntime in fp32" in about(examine(settings), "encoder")[0].text
    assert "set by RLHF_ENCODER_PRECISION" in about(examine(settings), "encoder")[0].text


def test_one_fault_does_not_hide_the_next(settings: Settings, tmp_path: Path) -> None:
    """A setting that cannot be and a damaged model are two findings, with advice each."""
    settings.model_path.write_bytes(b"no model")
    broken = Settings(encoder_runtime="tensorflow", database_url="oracle://x", model_path=settings.model_path)
    faults = {finding.topic: finding for finding in examine(broken) if not finding.ok}
    assert set(faults) == {"encoder", "database", "model"}
    assert all(finding.advice for finding in faults.values())


def test_every_extra_is_looked_for(settings: Settings) -> None:
    """Each extra is either there with its versions, or the line says how to get it."""
    lines = [finding.text for finding in about(examine(settings), "extra")]
    assert len(lines) == len(EXTRAS)
    assert all("pip install 'rlhf-loop[" in line or ": " in line for line in lines)


def test_the_command_says_it_by_its_exit_code(settings: Settings, model_folder: Path) -> None:
    """`rlhf-loop doctor` ends with 1 while something is missing."""
    environment = {
        "RLHF_DATABASE_URL": settings.database_url,
        "RLHF_MODEL_PATH": str(settings.model_path),
        "RLHF_CACHE_DIR": str(settings.cache_dir),
        "RLHF_ENCODER_PATH": str(model_folder),
    }
    done = CliRunner().invoke(main, ["doctor"], env=environment)
    assert done.exit_code == 1
    assert "Run: rlhf-loop init" in done.output
