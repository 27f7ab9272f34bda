"""Versions with tuned layers: promoted, restored and deleted with their second file."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from time import time

import numpy as np
import pytest
from click.testing import CliRunner
from databases import memory_database
from sqlalchemy import Engine

from rlhf_loop import registry
from rlhf_loop.cli import main
from rlhf_loop.config import Settings
from rlhf_loop.domain import AlarmKind, ModelState
from rlhf_loop.errors import ModelFileError
from rlhf_loop.registry import Version
from rlhf_loop.reward import RewardModel, model_file
from rlhf_loop.reward.model_file import LoadedModel, load, weights_file
from rlhf_loop.store.alarms import open_alarms
from rlhf_loop.web.process import Database
from rlhf_loop.web.server.watch import Watch
from tools.noisy_layers import noisy, with_layers


class House:
    """A registry whose versions differ in their layers; those of one have no tuned ones."""

    def __init__(self, engine: Engine, settings: Settings, model: RewardModel) -> None:
        self.engine, self.settings, self._model, self._made = engine, settings, model, 0

    def add(self, state: ModelState = ModelState.LIVE, *, tuned: bool = True) -> Version:
        self._made += 1
        model = replace(self._model, card={"number": self._made})
        if tuned:
            layers = noisy({"encoder.layer.5.a": np.ones(9)}, model.encoder, first=5, width=384, seed=self._made)
            model = with_layers(model, layers)
        made = {"judgement": {}, "metrics": {}, "fitted": np.array([3], dtype=np.int64)}
        version = registry.add(self.engine, self.settings, model, state=state, reason="Better.", **made)  # type: ignore[arg-type]
        self.age()
        return version

    def age(self) -> None:
        """Let a day pass for the files of layers."""
        for file in self.settings.model_path.parent.rglob("*.safetensors"):
            os.utime(file, (time() - 86_400,) * 2)

    @property
    def serving(self) -> str:
        return load(self.settings.model_path, encoder=self._model.encoder).sha256

    def kept(self) -> list[set[str]]:
        """Return the names of the layers in the folder of all versions, and in that of the live one."""
        folders = (self.settings.models_folder, self.settings.model_path.parent)
        return [{file.stem for file in folder.glob("*.safetensors")} for folder in folders]


@pytest.fixture
def house(sqlite_engine: Engine, tmp_path: Path, reward_model: RewardModel) -> House:
    settings = Settings(database_url=str(sqlite_engine.url), model_path=tmp_path / "live" / "m.joblib", keep_weights=2)
    return House(sqlite_engine, settings, reward_model)


def names(*versions: Version) -> set[str]:
    return {version.weights_sha256 for version in versions if version.weights_sha256}


def test_recipes_take_turns(house: House) -> None:
    """A model with layers is promoted, rolled back and promoted again like any other, and its card tells of them."""
    small, tuned = house.add(tuned=False), house.add()
    assert house.serving == tuned.sha256
    assert f"Tuned layers: {tuned.weights_sha256}.safetensors" in registry.card(tuned)
    assert registry.rollback(house.engine, house.settings, actor="dora").version == small.version
    assert house.serving == small.sha256
    assert "Tuned layers" not in registry.card(small)
    registry.promote(house.engine, house.settings, tuned.version, actor="dora", force=True, reason="A demo.")
    assert house.serving == tuned.sha256


def test_layers_of_old_versions_are_deleted(house: House) -> None:
    """Those of the live version, of the one before and of the newest so many stay; a version without them does, too."""
    first, second = house.add(), house.add()
    for _ in range(3):
        newest = [house.add(ModelState.CANDIDATE), house.add(ModelState.REJECTED)]
    assert house.kept() == [names(first, second, *newest), names(first, second)]
    with pytest.raises(ModelFileError, match=r"deleted \(RLHF_KEEP_WEIGHTS\)"):
        registry.promote(house.engine, house.settings, "4", actor="dora", force=True, reason="A demo.")
    assert house.serving == second.sha256
    third = house.add()
    house.age()
    registry.tidy(house.engine, house.settings)
    assert house.kept() == [names(second, newest[1], third), names(second, third, newest[1]) & house.kept()[1]]
    assert registry.rollback(house.engine, house.settings, actor="dora").version == second.version


def test_young_files_and_those_of_others_stay(house: House) -> None:
    """What a training may be about to name is not deleted, nor what is no file of layers."""
    house.add()
    folder = house.settings.models_folder
    young, old, foreign = (folder / f"{name}.safetensors" for name in ("a" * 64, "b" * 64, "mine"))
    for file in (young, old, foreign):
        file.write_bytes(b"x")
    for file in (old, foreign):
        os.utime(file, (time() - 86_400,) * 2)
    assert registry.tidy(house.engine, house.settings) == [str(old)]
    assert young.exists()
    assert foreign.exists()


def test_layers_of_another_database_stay(house: House, reward_model: RewardModel) -> None:
    """Two databases may share a folder by their defaults; what one does not know is not deleted for it."""
    other_engine = memory_database()
    other = House(other_engine, replace(house.settings, keep_weights=9), reward_model)
    theirs = [other.add() for _ in range(4)]
    house._made = 10
    house.add(), house.add()
    registry.tidy(house.engine, house.settings, keep=0)
    assert names(*theirs) <= house.kept()[0]
    other_engine.dispose()


def test_version_of_an_experiment_keeps_its_layers(house: House) -> None:
    """The version that the live one is compared with stays usable, however old it is."""
    first = house.add(ModelState.CANDIDATE)
    house.settings = replace(house.settings, experiment_against=first.version[:15], keep_weights=1)
    house.add(), house.add(), house.add()
    assert names(first) <= house.kept()[0]


def test_prune_says_what_it_deletes(house: House) -> None:
    """`models prune` deletes by its own number, and says when there is nothing to do."""
    first, second = house.add(ModelState.CANDIDATE), house.add(ModelState.CANDIDATE)
    environment = {"RLHF_DATABASE_URL": house.settings.database_url, "RLHF_MODEL_PATH": str(house.settings.model_path)}
    done = CliRunner().invoke(main, ["models", "prune", "--keep", "1"], env=environment)
    assert (
        done.output == f"Deleted {weights_file(registry.version_path(house.settings, first.version), *names(first))}.\n"
    )
    assert house.kept()[0] == names(second)
    done = CliRunner().invoke(main, ["models", "prune"], env=environment)
    assert done.output == "There is nothing to delete.\n"


def test_layers_are_not_deleted_under_a_promotion(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the look at a version's files until it is live, nothing deletes tuned layers; what comes later finds it."""
    old = house.add(ModelState.CANDIDATE)
    load_version, deleted = registry.load, []

    def meanwhile(settings: Settings, version: Version, *, encoder: str) -> LoadedModel:
        found = load_version(settings, version, encoder=encoder)
        with monkeypatch.context() as patch:
            patch.setattr("rlhf_loop.registry.promotion.versions._LOCK_TIMEOUT_S", 0)
            deleted.extend(registry.tidy(house.engine, settings, keep=0))
        return found

    monkeypatch.setattr("rlhf_loop.registry.promotion.versions.load", meanwhile)
    registry.promote(house.engine, house.settings, old.version, actor="dora", force=True, reason="A demo.")
    assert deleted == []
    assert house.serving == old.sha256


def test_without_a_place_for_the_lock_a_version_is_promoted(house: House) -> None:
    """A folder of versions that takes no lock stops no promotion."""
    old = house.add(ModelState.CANDIDATE)
    (house.settings.models_folder / ".weights.lock").unlink()
    (house.settings.models_folder / ".weights.lock").mkdir()
    registry.promote(house.engine, house.settings, old.version, actor="dora", force=True, reason="A demo.")
    assert house.serving == old.sha256


def test_lost_layers_are_restored(house: House) -> None:
    """A live file whose layers are missing or altered is put right by the next look, with an alarm."""
    live = house.add()
    watch = Watch(house.settings, Database(house.settings))
    watch.look()
    file = weights_file(house.settings.model_path, *names(live))
    file.unlink()
    watch.look()
    assert [alarm.kind for alarm in open_alarms(house.engine)] == [AlarmKind.MODEL_FILE]
    assert house.serving == live.sha256
    watch.look()
    assert open_alarms(house.engine) == []
    file.write_bytes(b"x" * file.stat().st_size)
    watch.look()
    assert house.serving == live.sha256


@pytest.mark.parametrize("step", range(8))
def test_full_disk_leaves_the_last_good_state(house: House, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the disk fills up while a version is added and promoted, what serves is whole; space mends the rest."""
    before = house.add()
    write, steps = model_file.write_whole, iter(range(100))

    def full(*args: object, **options: object) -> None:
        if next(steps) >= step:
            raise OSError(28, "No space left on device")
        write(*args, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(model_file, "write_whole", full)
        with pytest.raises(ModelFileError, match="No space left on device"):
            house.add()
        served = house.serving
    live = registry.live(house.engine)
    assert live is not None
    assert served in (before.sha256, live.sha256)
    assert (live.version == before.version) == (step < 4)
    registry.settle(house.engine, house.settings)
    assert house.serving == live.sha256
