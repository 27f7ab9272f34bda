from __future__ import annotations

import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from examined import about, faults
from sqlalchemy import Engine

from rlhf_loop import registry
from rlhf_loop.cli import main
from rlhf_loop.cli.doctor import Finding
from rlhf_loop.cli.doctor.loop import model
from rlhf_loop.cli.doctor.storage import DatabaseAccess
from rlhf_loop.config import Settings
from rlhf_loop.domain import ModelState, Rating
from rlhf_loop.registry import Version
from rlhf_loop.reward import RewardModel
from rlhf_loop.reward.model_file import save, sum_file, weights_file
from rlhf_loop.store.interactions import record
from rlhf_loop.training.train import TrainingReport
from tools.noisy_layers import noisy, with_layers


class House:
    """A registry, what the doctor says of it, and the command line that mends it."""

    def __init__(self, engine: Engine, folder: Path, reward_model: RewardModel) -> None:
        self.engine, self.reward_model, self._made = engine, reward_model, 0
        # A space in the path: commands have to be quoted.
        self.settings = Settings(
            database_url=str(engine.url),
            model_path=folder / "the live" / "m.joblib",
            models_path=folder / "all versions",
        )

    def add(self, state: ModelState = ModelState.LIVE) -> Version:
        self._made += 1
        return registry.add(
            self.engine,
            self.settings,
            replace(self.reward_model, card={"number": self._made}),
            state=state,
            reason="The gate says so.",
            judgement={},
            metrics={},
            fitted=np.array([3], dtype=np.int64),
        )

    def own(self, version: Version) -> Path:
        return registry.version_path(self.settings, version.version)

    def found(self) -> list[Finding]:
        return list(model(self.settings, DatabaseAccess(Finding("database", "there"), self.engine)))

    def run(self, command: str) -> int:
        """Run what an advice names, whatever stands before and behind it."""
        words = shlex.split(command.partition("rlhf-loop ")[2].partition(",")[0])
        environment = {
            "RLHF_DATABASE_URL": self.settings.database_url,
            "RLHF_MODEL_PATH": str(self.settings.model_path),
            "RLHF_MODELS_PATH": str(self.settings.models_folder),
        }
        return CliRunner().invoke(main, words, env=environment).exit_code


@pytest.fixture
def house(sqlite_engine: Engine, tmp_path: Path, trained: tuple[RewardModel, TrainingReport]) -> House:
    return House(sqlite_engine, tmp_path, trained[0])


def test_the_file_is_the_live_version(house: House) -> None:
    """Both are named, once each, and all is well."""
    house.add()
    live = house.add()
    file, version = house.found()
    assert (file.ok, version.ok) == (True, True)
    assert file.text.startswith(f"{live.version} at ")
    assert version.text.startswith(f"{live.version} is live since ")


def test_nothing_to_serve_and_nothing_to_train_from_is_no_fault(house: House) -> None:
    """While there are fewer than 50 ratings no model is missing; from then on the command that makes it is named."""
    (found,) = house.found()
    assert (found.topic, found.ok) == ("model", True)
    record(house.engine, [Rating(f"Question {number}?", "Answer.", rating=4) for number in range(50)])
    (fault,) = faults(house.found())
    assert fault.advice == "Run: rlhf-loop train"


def test_no_version_was_good_enough(house: House) -> None:
    """Where there are versions and none is live, the gate's reason is told, once."""
    refused = house.add(ModelState.REJECTED)
    (fault,) = house.found()
    assert (fault.topic, fault.ok) == ("registry", False)
    assert f"{refused.version} is rejected: The gate says so" in fault.text


def test_a_model_from_before_the_registry(house: House) -> None:
    """It is no fault, and the command that is named takes it in."""
    save(house.reward_model, house.settings.model_path)
    file, version = house.found()
    assert (file.ok, version.ok, "models list" in version.text) == (True, True, True)
    assert house.run("rlhf-loop models list") == 0
    assert "is live since" in house.found()[1].text


@pytest.mark.parametrize("broken", ["damaged", "missing", "without its sum", "another version"])
def test_a_live_file_that_the_registry_puts_right(house: House, broken: str) -> None:
    """Whatever happened to it, it is one fault, and the command that is named mends it."""
    before, live = house.add(), house.add()
    path = house.settings.model_path
    if broken == "damaged":
        path.write_bytes(b"no model")
    elif broken == "missing":
        path.unlink()
    elif broken == "without its sum":
        sum_file(path).unlink()
    else:
        shutil.copy(house.own(before), path)
        shutil.copy(sum_file(house.own(before)), sum_file(path))
    (fault,) = faults(house.found())
    assert fault.topic == "model"
    assert fault.text.endswith(f"and {live.version} is to be live")
    assert fault.advice.startswith("Run: rlhf-loop models list, ")
    assert house.run(fault.advice) == 0
    assert faults(house.found()) == []


def test_a_live_file_of_somebody_else(house: House) -> None:
    """The registry leaves it, so the advice is the promotion that puts the registry's back."""
    live = house.add()
    save(replace(house.reward_model, card={"number": "elsewhere"}), house.settings.model_path)
    (fault,) = faults(house.found())
    assert fault.advice.endswith(f"rlhf-loop models promote {live.version}")
    assert house.run(fault.advice) == 0
    assert faults(house.found()) == []


@pytest.mark.parametrize("broken", ["the folder is gone", "damaged"])
def test_a_version_whose_own_file_is_gone(house: House, broken: str) -> None:
    """While the live file is whole, the command that copies it back is named, and works as it stands."""
    live = house.add()
    if broken == "damaged":
        house.own(live).write_bytes(b"no model")
    else:
        shutil.rmtree(house.settings.models_folder)
    (fault,) = faults(house.found())
    assert (fault.topic, live.version in fault.text) == ("registry", True)
    subprocess.run(fault.advice.removeprefix("Run: "), shell=True, check=True)
    assert faults(house.found()) == []


def test_layers_that_are_gone(house: House) -> None:
    """A missing file of layers is a fault of the model beside it, and the command that is named mends it."""
    layers = noisy({"encoder.layer.5.a": np.ones(9)}, house.reward_model.encoder, first=5, width=384)
    house.reward_model = with_layers(house.reward_model, layers)
    live = house.add()
    assert faults(house.found()) == []
    weights_file(house.settings.model_path, layers.sha256).unlink()
    (fault,) = faults(house.found())
    assert (fault.topic, "needs its tuned layers" in fault.text) == ("model", True)
    assert house.run(fault.advice) == 0
    assert faults(house.found()) == []
    weights_file(house.own(live), layers.sha256).unlink()
    (fault,) = faults(house.found())
    assert (fault.topic, "needs its tuned layers" in fault.text) == ("registry", True)
    subprocess.run(fault.advice.removeprefix("Run: "), shell=True, check=True)
    assert faults(house.found()) == []


def test_both_files_are_gone_and_there_was_a_version_before(house: House) -> None:
    """The way back is named, and it is one."""
    before, live = house.add(), house.add()
    house.own(live).unlink()
    house.settings.model_path.write_bytes(b"no model")
    file, version = faults(house.found())
    assert "See registry" in file.advice
    assert f"go back to {before.version}: rlhf-loop models rollback" in version.advice
    assert house.run(version.advice) == 0
    assert faults(house.found()) == []


def test_all_files_are_gone(house: House) -> None:
    """Then only a copy or a new training helps, and that is said."""
    house.add()
    house.add()
    shutil.rmtree(house.settings.models_folder)
    house.settings.model_path.unlink()
    _, version = faults(house.found())
    assert version.advice.endswith("train a new one: rlhf-loop train")


def test_a_file_that_may_not_be_read_is_not_to_be_replaced(house: House) -> None:
    """Where a folder stands in the place of each, neither a copy nor the registry helps."""
    live = house.add()
    for path in (house.settings.model_path, house.own(live)):
        path.unlink()
        path.mkdir()
    assert all("Mend its rights" in fault.advice for fault in faults(house.found()))


def test_a_model_of_another_encoder_is_a_fault(house: House) -> None:
    """The registry is right about it, and it cannot serve all the same."""
    house.reward_model = replace(house.reward_model, encoder="another-encoder/fp32")
    house.add()
    found = house.found()
    (fault,) = faults(found)
    assert (fault.topic, "another-encoder" in fault.text) == ("model", True)
    assert about(found, "registry")[0].ok


def test_without_a_database_the_file_is_looked_at_by_itself(house: House) -> None:
    """Where it cannot be asked, a missing model is a fault, as nobody can say that it is too early for one."""
    unreachable = DatabaseAccess(Finding("database", "away", ok=False, advice="Start it."))
    (fault,) = model(house.settings, unreachable)
    assert (fault.ok, fault.advice) == (False, "Run: rlhf-loop train")
    house.add()
    (file,) = model(house.settings, unreachable)
    assert file.ok
