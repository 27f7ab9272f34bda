"""Versions in an object store: machines that have it and the database in common, and nothing else."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from time import time

import numpy as np
import pytest
from click.testing import CliRunner
from patience import until
from s3_server import S3Server, s3
from server_process import Server, environ, start
from sqlalchemy import Engine

from rlhf_loop import registry
from rlhf_loop.cli import main
from rlhf_loop.config import Settings
from rlhf_loop.domain import AlarmKind, Candidate, ModelState
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.errors import BackupError, ConfigError, ModelFileError
from rlhf_loop.ranking import Ranker
from rlhf_loop.registry import Version, model_store
from rlhf_loop.reward import RewardModel
from rlhf_loop.reward.model_file import load, verified, weights_of
from rlhf_loop.store.alarms import open_alarms
from rlhf_loop.store.backup import back_up, restore
from rlhf_loop.utils.object_store import Place
from rlhf_loop.web.process import Database
from rlhf_loop.web.server.watch import Watch
from tools.noisy_layers import noisy, with_layers

__all__ = ["environ", "s3", "start"]
STORE = "s3://bucket/models"
CANDIDATES = [Candidate("Cool the burn with water."), Candidate("The harbour museum opens at ten.")]


class Machine:
    """A machine with folders of its own."""

    def __init__(self, engine: Engine, url: str, folder: Path, model: RewardModel) -> None:
        folder.mkdir()
        self.engine, self._model = engine, model
        self.settings = Settings(
            database_url=url,
            model_path=folder / "live.joblib",
            models_path=STORE,
            outbox_path=folder / "outbox.db",
            cache_dir=folder / "cache",
        )
        self.database = Database(self.settings)
        self.watch = Watch(self.settings, self.database)

    def close(self) -> None:
        self.database.engine().dispose()

    def add(self, number: int, *, state: ModelState = ModelState.LIVE, tuned: bool = False) -> Version:
        """Add a version that differs from others in its number, and in its layers, if it is to have some."""
        model = replace(self._model, card={"number": number})
        if tuned:
            layers = noisy({"encoder.layer.5.a": np.ones(9)}, model.encoder, first=5, width=384, seed=number)
            model = with_layers(model, layers)
        return registry.add(
            self.engine,
            self.settings,
            model,
            state=state,
            reason="The gate says so.",
            judgement={"reasons": ["The gate says so."], "state": str(state)},
            metrics={"trained_on": 12},
            fitted=np.array([3, 5], dtype=np.int64),
        )

    @property
    def serving(self) -> str | None:
        """The sum of the model that serves here."""
        path = self.settings.model_path
        return load(path, encoder=self._model.encoder).sha256 if path.exists() else None

    @property
    def cached(self) -> set[str]:
        return {file.stem for file in self.settings.models_folder.glob("*.joblib")}

    def run(self, *arguments: str, **environ: str) -> str:
        settings = self.settings
        values = {
            "RLHF_DATABASE_URL": settings.database_url,
            "RLHF_MODEL_PATH": str(settings.model_path),
            "RLHF_MODELS_PATH": STORE,
            "RLHF_OUTBOX_PATH": str(settings.outbox_path),
            "RLHF_CACHE_DIR": str(settings.cache_dir),
            **environ,
        }
        return CliRunner().invoke(main, arguments, env=values).output


@contextmanager
def machines(engine: Engine, folder: Path, model: RewardModel) -> Iterator[Callable[[str], Machine]]:
    with ExitStack() as stack:

        def machine(name: str) -> Machine:
            made = Machine(engine, engine.url.render_as_string(hide_password=False), folder / name, model)
            stack.callback(made.close)
            return made

        yield machine


@pytest.fixture
def machine(
    engine: Engine, tmp_path: Path, reward_model: RewardModel, s3: S3Server
) -> Iterator[Callable[[str], Machine]]:
    """Make a machine with folders of its own, once with each database."""
    with machines(engine, tmp_path, reward_model) as make:
        yield make


@pytest.fixture
def commanded(
    sqlite_engine: Engine, tmp_path: Path, reward_model: RewardModel, s3: S3Server
) -> Iterator[Callable[[str], Machine]]:
    """Make a machine on which commands are run as well."""
    with machines(sqlite_engine, tmp_path, reward_model) as make:
        yield make


def names() -> set[str]:
    return {each.name for each in Place.of(STORE).entries()}


def open_kinds(engine: Engine) -> list[AlarmKind]:
    return [alarm.kind for alarm in open_alarms(engine)]


def test_one_machine_promotes_and_another_serves(machine: Callable[[str], Machine], encoder: TextEncoder) -> None:
    """A version goes to the store with all of its files, and another machine ranks by it to the last digit."""
    here, there = machine("here"), machine("there")
    first, second = here.add(1), here.add(2, tuned=True)
    for version in (first, second):
        endings = (".joblib", ".joblib.sha256", ".fitted.npy", ".md")
        assert names() >= {f"{version.version}{ending}" for ending in endings}
    assert f"{second.weights_sha256}.safetensors" in names()
    there.watch.look()
    assert there.serving == here.serving == second.sha256
    assert weights_of(there.settings.model_path) == second.weights_sha256
    assert registry.fitted_questions(there.settings, second.version).tolist() == [3, 5]  # type: ignore[union-attr]
    registry.rollback(there.engine, there.settings, actor="cli:ops")
    here.watch.look()
    assert here.serving == there.serving == first.sha256
    rankers = (Ranker(each.settings, encoder=encoder) for each in (here, there))
    ours, theirs = (ranker.rank("How do I treat a burn?", CANDIDATES) for ranker in rankers)
    assert [each.score for each in ours] == [each.score for each in theirs]
    assert open_kinds(here.engine) == []


def test_a_store_that_is_away_takes_nothing_from_what_serves(commanded: Callable[[str], Machine], s3: S3Server) -> None:
    """The live model stays, an alarm and the doctor say why, and once the store answers all is as it should be."""
    here, there = commanded("here"), commanded("there")
    first = here.add(1)
    there.watch.look()
    second = here.add(2)
    s3.stop()
    there.watch.look()
    assert there.serving == first.sha256
    assert open_kinds(there.engine) == [AlarmKind.MODEL_FILE]
    assert "The processes that serve keep the model that they have." in open_alarms(there.engine)[0].message
    said = there.run("doctor")
    assert "'s3://bucket/models' cannot be read or written" in said
    assert "See store: what serves keeps the model that it has" in said
    with pytest.raises(ModelFileError, match=r"'s3://bucket/models.*' cannot be read or written: .*Check the network"):
        registry.promote(there.engine, there.settings, second.version, actor="cli:ops")
    with pytest.raises(ModelFileError, match="cannot be read or written"):
        registry.promote(here.engine, here.settings, first.version, actor="cli:ops")
    # What was live before is on both machines, and going back to it is for emergencies.
    registry.rollback(here.engine, here.settings, actor="cli:ops")
    there.watch.look()
    assert there.serving == here.serving == first.sha256
    s3.start()
    registry.promote(there.engine, there.settings, second.version, actor="cli:ops", force=True, reason="It was right.")
    here.watch.look()
    here.watch.look()
    assert there.serving == here.serving == second.sha256
    assert open_kinds(here.engine) == []
    said = here.run("doctor")
    assert "s3://bucket/models answers in" in said
    assert "and has 2 versions" in said
    assert f"its own file s3://bucket/models/{second.version}.joblib is whole" in said


def test_a_training_that_ends_without_the_store_loses_nothing(
    commanded: Callable[[str], Machine], s3: S3Server
) -> None:
    """Its version waits as a candidate, says where and for what, and goes live by itself once the store answers; what
    waits is not in the cache, which may be emptied."""
    here, there = commanded("here"), commanded("there")
    first = here.add(1)
    s3.stop()
    second, third = here.add(2, tuned=True), here.add(3, state=ModelState.REJECTED)
    assert second.state == ModelState.CANDIDATE
    assert second.reason.startswith(f"The gate says so. Its files wait in {here.settings.models_folder} on ")
    assert "brought there with the next look of rlhf-loop worker, a training or rlhf-loop models list" in second.reason
    assert (third.state, third.reason) == (ModelState.REJECTED, "The gate says so.")
    assert here.serving == first.sha256
    assert registry.settle(here.engine, here.settings) == ""
    assert model_store.waiting(here.settings) == sorted([second.version, third.version])
    assert "wait in" in here.run("doctor")
    shutil.rmtree(here.settings.cache_dir, ignore_errors=True)
    s3.start()
    assert names() & {f"{second.version}.joblib", f"{third.version}.joblib"} == set()
    with pytest.raises(ModelFileError, match=r"There is no s3://bucket/models/.*, so the version .* cannot be had"):
        registry.promote(there.engine, there.settings, second.version, actor="cli:ops", force=True, reason="Now.")
    assert second.version in here.run("models", "list")
    live = registry.live(here.engine)
    assert live is not None
    assert (live.version, live.reason) == (second.version, "The gate says so.")
    there.watch.look()
    assert there.serving == here.serving == second.sha256
    assert model_store.waiting(here.settings) == []


def test_a_training_without_pyarrow_loses_nothing(
    machine: Callable[[str], Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the extra is missing, the version waits and says which one to install."""
    here = machine("here")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pyarrow", None)
        patch.delitem(sys.modules, "rlhf_loop.utils.object_store")
        first = here.add(1)
    assert first.state == ModelState.CANDIDATE
    assert "pip install 'rlhf-loop[index]'" in first.reason
    registry.settle(here.engine, here.settings)
    assert here.serving == first.sha256


def test_a_version_whose_files_are_lost_still_waits(
    machine: Callable[[str], Machine], s3: S3Server, caplog: pytest.LogCaptureFixture
) -> None:
    """Where its files were deleted here it is not said to be in the store, and the others are brought."""
    here = machine("here")
    here.add(1)
    s3.stop()
    second, third = sorted(here.add(number, state=ModelState.REJECTED).version for number in (2, 3))
    s3.start()
    (here.settings.models_folder / f"{second}.joblib").unlink()
    registry.settle(here.engine, here.settings)
    assert model_store.waiting(here.settings) == [second]
    assert f"{second}.joblib" not in names()
    assert f"{third}.joblib" in names()
    assert f"{second}.joblib is not there, so the version {second} is not brought into the object store" in caplog.text


def test_what_somebody_decided_meanwhile_holds(machine: Callable[[str], Machine], s3: S3Server) -> None:
    """A version that waited does not take the place of one that was promoted since."""
    here, there = machine("here"), machine("there")
    first = here.add(1)
    s3.stop()
    second = here.add(2)
    s3.start()
    third = there.add(3)
    here.watch.look()
    registry.settle(here.engine, here.settings)
    assert here.serving == there.serving == third.sha256
    found = registry.find(here.engine, second.version)
    assert (found.state, model_store.waiting(here.settings)) == (ModelState.CANDIDATE, [])
    assert first.version in registry.promote(there.engine, there.settings, first.version, actor="cli:ops").version


@pytest.mark.parametrize("ending", [".joblib", ".joblib.sha256", ".safetensors"])
@pytest.mark.parametrize("damage", ["altered", "missing"])
def test_what_was_altered_there_is_not_opened_here(
    commanded: Callable[[str], Machine], ending: str, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file is verified on its way in, before anything looks into it; then the live model stays."""
    here, there = commanded("here"), commanded("there")
    first = here.add(1)
    there.watch.look()
    second = here.add(2, tuned=True)
    name = f"{second.weights_sha256 if ending == '.safetensors' else second.version}{ending}"
    place = Place.of(STORE).inside(name)
    if damage == "missing":
        place.delete()
    else:
        place.put(place.read().replace(b"a", b"b"))
    there.watch.look()
    assert there.serving == first.sha256
    assert open_kinds(there.engine) == [AlarmKind.MODEL_FILE]
    assert second.version not in there.cached
    said = there.run("doctor")
    assert "rlhf-loop models rollback" in said, said
    assert str(tempfile.gettempdir()) + "/rlhf-model-" not in said
    # The machine that has it brings it there again.
    place.delete()
    registry.promote(here.engine, here.settings, second.version, actor="cli:ops")
    there.watch.look()
    assert there.serving == second.sha256


def test_another_model_under_the_name_is_refused(machine: Callable[[str], Machine]) -> None:
    """A model with its right sum beside it is not the version if the registry has another sum."""
    here, there = machine("here"), machine("there")
    first, second = here.add(1), here.add(2)
    for ending in (".joblib", ".joblib.sha256"):
        other = Place.of(STORE).inside(f"{first.version}{ending}").read()
        Place.of(STORE).inside(f"{second.version}{ending}").put(other)
    said = rf"s3://.* is not the model {second.version}: its sha256 is {first.sha256}"
    with pytest.raises(ModelFileError, match=said):
        registry.load(there.settings, second, encoder=second.encoder)
    assert there.cached == set()


def test_what_is_here_is_bounded(machine: Callable[[str], Machine]) -> None:
    """The versions that were used last stay on a machine, what waits for the store as well."""
    here, there = machine("here"), machine("there")
    versions = [here.add(number, state=ModelState.CANDIDATE) for number in range(11)]
    model_store.fetch(there.settings, versions[0].version, sha256=versions[0].sha256)
    model_store.set_waiting(there.settings, versions[0].version)
    for age, version in enumerate(versions[1:]):
        model_store.fetch(there.settings, version.version, sha256=version.sha256)
        for file in there.settings.models_folder.glob("*.joblib"):
            if file.stem == version.version:
                os.utime(file, (time() - 1000 + age,) * 2)
    assert versions[0].version in there.cached
    assert versions[1].version not in there.cached
    assert len(there.cached) <= 9
    registry.load(there.settings, versions[1], encoder=versions[1].encoder)


def test_old_layers_go_and_those_of_others_stay(machine: Callable[[str], Machine]) -> None:
    """Layers that no version wants are deleted in the store, but not of a version that this database does not know."""
    here = machine("here")
    settings = replace(here.settings, keep_weights=1)
    versions = [here.add(number, tuned=True) for number in range(4)]
    Place.of(STORE).inside("a" * 64 + ".safetensors").put(b"of nobody")
    Place.of(STORE).inside("joint-of-others.joblib").put(b"of another database")
    assert registry.tidy(here.engine, settings) == []  # younger than an hour
    known = {version.version: version.weights_sha256 for version in versions}
    wanted = {versions[2].weights_sha256, versions[3].weights_sha256}
    gone = model_store.delete_weights(settings, wanted=wanted, known=known, young_s=-1)
    assert gone == sorted(f"{STORE}/{version.weights_sha256}.safetensors" for version in versions[:2])
    assert {name for name in names() if name.endswith(".safetensors")} == {
        *(f"{weights}.safetensors" for weights in wanted),
        "a" * 64 + ".safetensors",
    }
    Place.of(STORE).inside("joint-of-others.joblib").delete()
    assert model_store.delete_weights(settings, wanted=wanted, known=known, young_s=-1) == [
        f"{STORE}/{'a' * 64}.safetensors"
    ]


def test_a_folder_becomes_a_store(machine: Callable[[str], Machine]) -> None:
    """A live model from before is brought there by a promotion; files that were copied serve under their names."""
    here, there = machine("here"), machine("there")
    settings = replace(here.settings, models_path=None)
    by_folder, here.settings = here.settings, settings
    first, second = here.add(1), here.add(2)
    here.settings = by_folder
    assert names() == set()
    registry.promote(here.engine, here.settings, second.version, actor="cli:ops")
    there.watch.look()
    assert there.serving == second.sha256
    for file in settings.models_folder.glob(f"{first.version}*"):
        Place.of(STORE).inside(file.name).put(file)
    registry.rollback(there.engine, there.settings, actor="cli:ops")
    assert there.serving == first.sha256


def test_a_backup_has_what_the_store_has(machine: Callable[[str], Machine], s3: S3Server, tmp_path: Path) -> None:
    """Versions that no file here has are in a backup, come into another store, and a store that is away is named."""
    here, there = machine("here"), machine("there")
    first, second = here.add(1, tuned=True), here.add(2)
    backup = tmp_path / "backup.zip"
    made = back_up(there.engine, there.settings, backup, actor="cli:ops")
    assert (made.missing, made.lacking, made.versions) == ((), (), 2)
    elsewhere = replace(there.settings, models_path="s3://bucket/elsewhere")
    restore(there.engine, elsewhere, backup, actor="cli:ops", replace=True)
    assert {each.name for each in Place.of("s3://bucket/elsewhere").entries()} == names()
    registry.settle(there.engine, elsewhere, restored=True)
    assert there.serving == second.sha256
    assert registry.load(elsewhere, first, encoder=first.encoder).model.tuned is not None
    s3.stop()
    lacking = back_up(there.engine, there.settings, tmp_path / "lacking.zip", actor="cli:ops")
    assert lacking.rows > made.rows
    assert f"{first.version}.joblib" in lacking.missing
    assert len(lacking.lacking) == 1
    with pytest.raises(BackupError, match=r"cannot be read or written: .* The database is as it was\."):
        restore(there.engine, there.settings, backup, actor="cli:ops", replace=True)
    assert registry.live(there.engine) is not None


def test_an_experiment_fetches_the_other_version(machine: Callable[[str], Machine], s3: S3Server) -> None:
    """What serves has the version that it compares with, whether the store answers at its start or later."""
    here, there = machine("here"), machine("there")
    first = here.add(1)
    here.add(2)
    there.settings = replace(there.settings, experiment_share=0.5, experiment_against=first.version)
    s3.stop()
    there.watch = Watch(there.settings, there.database)
    with pytest.raises(ModelFileError, match="cannot be read or written"):
        there.watch.look()
    assert there.serving is None
    assert there.cached == set()
    s3.start()
    Watch(there.settings, there.database).look()
    assert first.version in there.cached
    assert verified(there.settings.models_folder / f"{first.version}.joblib").sha256 == first.sha256


def test_a_path_is_no_address() -> None:
    """An address that went through Path would be a folder of this machine, so it is refused."""
    assert Settings(models_path=STORE).models_store == STORE
    assert Settings(models_path="some/folder").models_store is None
    assert Settings.from_env({"RLHF_MODELS_PATH": STORE}).models_store == STORE
    with pytest.raises(ConfigError, match=r"'s3:/bucket/models'.*as a text"):
        Settings(models_path=Path(STORE))
    shown = Settings(models_path="s3://key:geheim@bucket/models")
    assert "geheim" not in f"{shown!r}{shown.shown()}"


def test_two_servers_share_the_store(
    machine: Callable[[str], Machine],
    start: Callable[..., Server],
    s3: S3Server,
    tmp_path: Path,
    encoder_cache: Path,
    encoder: TextEncoder,
) -> None:
    """A running server of two workers, with nothing but store and database in common with the one that promotes,
    answers by the new model, goes on without the store, and follows once it is back."""
    here = machine("here")
    first = here.add(1)
    address = here.settings.database_url
    server = start(
        "--workers",
        "2",
        RLHF_DATABASE_URL=address,
        RLHF_MODEL_PATH=str(tmp_path / "there" / "live.joblib"),
        RLHF_MODELS_PATH=STORE,
        RLHF_OUTBOX_PATH=str(tmp_path / "there" / "outbox.db"),
        **s3.environment,
    )

    def serves(version: Version) -> Callable[[], bool]:
        return lambda: all(server.get("/data?query=burns")[1].get("model_version") == version.version for _ in range(6))

    until(serves(first))
    second = here.add(2)
    until(serves(second))
    s3.stop()
    assert serves(second)()
    assert server.get("/readyz")[0] == 200
    third = here.add(3)
    assert third.state == ModelState.CANDIDATE
    s3.start()
    registry.settle(here.engine, here.settings)
    until(serves(third))
