from __future__ import annotations

import hashlib
import json
import pickle
from dataclasses import replace
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Self

import numpy as np
import pytest
from sqlalchemy import Engine

from rlhf_loop import registry
from rlhf_loop.config import Settings
from rlhf_loop.domain import AlarmKind, ModelState
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.errors import ModelFileError, RegistryError
from rlhf_loop.ranking import Ranker
from rlhf_loop.registry import Version, promotion
from rlhf_loop.reward import RewardModel
from rlhf_loop.reward.model_file import load, save, serialised, sum_file
from rlhf_loop.store import audit
from rlhf_loop.store.alarms import open_alarms
from rlhf_loop.training.train import TrainingReport
from tools.attack import models

Trained = tuple[RewardModel, TrainingReport]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(model_path=tmp_path / "live" / "reward_model.joblib", models_path=tmp_path / "all")


class House:
    """A registry to which versions can be added that differ only in their card."""

    def __init__(self, engine: Engine, settings: Settings, model: RewardModel) -> None:
        self.engine, self.settings, self._model, self._made = engine, settings, model, 0

    def add(self, state: ModelState = ModelState.LIVE) -> Version:
        self._made += 1
        return registry.add(
            self.engine,
            self.settings,
            replace(self._model, card={"number": self._made}),
            state=state,
            reason="The gate says so.",
            judgement={"reasons": ["The gate says so."]},
            metrics={"trained_on": 12},
            fitted=np.array([3, 5], dtype=np.int64),
            run_id=f"run {self._made}",
            frozen_share=0.1,
            actor="cli:ops",
        )

    @property
    def states(self) -> list[str]:
        return [str(each.state) for each in registry.versions(self.engine)]

    @property
    def serving(self) -> str:
        return load(self.settings.model_path, encoder=self._model.encoder).sha256


@pytest.fixture
def house(engine: Engine, settings: Settings, trained: Trained) -> House:
    return House(engine, settings, trained[0])


def test_a_version_has_its_files(house: House, encoder: TextEncoder) -> None:
    """Model, sum, card and the questions that it was fitted on are there; a live version replaces another."""
    first = house.add()
    assert (first.state, first.version) == (ModelState.LIVE, f"{first.recipe}-{first.sha256[:12]}")
    assert house.serving == first.sha256
    second = house.add()
    assert house.states == ["live", "retired"]
    assert house.serving == second.sha256
    assert registry.load(house.settings, first, encoder=encoder.id).sha256 == first.sha256
    assert registry.fitted_questions(house.settings, first.version).tolist() == [3, 5]  # type: ignore[union-attr]
    text = registry.card_path(house.settings, first.version).read_text()
    assert f"# Reward model {first.version}" in text
    assert first.sha256 in text
    gone = registry.find(house.engine, first.version)
    assert gone.reason == f"Replaced by {second.version}."
    assert gone.live_until is not None
    promoted = audit.entries(house.engine, action="model.promoted")
    assert [(entry.actor, entry.target) for entry in promoted] == [
        ("cli:ops", f"model:{second.version}"),
        ("cli:ops", f"model:{first.version}"),
    ]


def test_versions_are_found_by_what_people_type(house: House) -> None:
    """By number, name or the beginning of a name; what fits none or several is an error that helps."""
    first, second = house.add(), house.add()
    for name in (str(first.id), first.version, first.version[:-2]):
        assert registry.find(house.engine, name) == registry.find(house.engine, first.version)
    with pytest.raises(RegistryError, match="may be"):
        registry.find(house.engine, first.recipe)
    for unknown in ("99999", "nothing", "1" * 40) if first.id != 99999 else ():
        with pytest.raises(RegistryError, match="There is no version"):
            registry.find(house.engine, unknown)
    assert second.id != first.id


def test_what_cannot_be_a_version_is_no_name_anywhere(house: House) -> None:
    """Neither found nor promoted, and without a file: the message says what a name looks like."""
    house.add()
    for name in ("", " ", "%", "_", ".", "..", "../x", "/x", "a/b", "joint\0", "joint\n", "jo\u200bint", "x" * 4000):
        with pytest.raises(RegistryError, match="is not a valid name of a version") as error:
            registry.find(house.engine, name)
        assert len(str(error.value)) < 300
        with pytest.raises(RegistryError, match="is not a valid name"):
            registry.promote(house.engine, house.settings, name, actor="dora", force=True, reason="Why not.")
        for path in (registry.version_path, registry.card_path):
            with pytest.raises(ModelFileError, match="is not a valid name"):
                path(house.settings, name)
        assert registry.fitted_questions(house.settings, name) is None


def test_the_gate_is_passed_with_a_reason_only(house: House) -> None:
    """What the gate holds back goes live by force and with a reason, which the registry and the audit log keep."""
    live, waiting = house.add(), house.add(ModelState.CANDIDATE)
    with pytest.raises(RegistryError, match=r"The gate has not let .* pass: The gate says so\."):
        registry.promote(house.engine, house.settings, waiting.version, actor="dora")
    for nothing in ("", " ", "\u200b", "\x00\ud800", "\u202e\u3000"):
        with pytest.raises(RegistryError, match="needs a reason"):
            registry.promote(house.engine, house.settings, waiting.version, actor="dora", force=True, reason=nothing)
    with pytest.raises(ValueError, match="is not a valid name for the audit log"):
        registry.promote(house.engine, house.settings, waiting.version, actor="\u200b", force=True, reason="A demo.")
    assert house.serving == live.sha256
    done = registry.promote(house.engine, house.settings, waiting.version, actor="dora", force=True, reason="A demo.")
    assert (done.state, done.reason) == (ModelState.LIVE, "Promoted by dora. Against the gate. Reason: A demo.")
    assert house.serving == waiting.sha256
    entry = audit.entries(house.engine, action="model.promoted")[0]
    assert (entry.actor, entry.detail["forced"], entry.detail["reason"]) == ("dora", True, "A demo.")
    back = registry.promote(house.engine, house.settings, live.version, actor="dora")
    assert (back.state, house.states) == (ModelState.LIVE, ["retired", "live"])


def test_rollback_goes_back_step_by_step(house: House) -> None:
    """Each rollback reaches the version before, and the one left behind counts as rejected; then there is none."""
    first, second, third = house.add(), house.add(), house.add()
    assert registry.rollback(house.engine, house.settings, actor="dora", reason="Bad.").version == second.version
    assert house.serving == second.sha256
    assert "Rolled back by dora. Reason: Bad." in registry.find(house.engine, third.version).reason
    assert registry.rollback(house.engine, house.settings, actor="dora").version == first.version
    assert house.states == ["rejected", "rejected", "live"]
    with pytest.raises(RegistryError, match="nothing to go back to"):
        registry.rollback(house.engine, house.settings, actor="dora")


def test_rollback_knows_the_order_though_the_clock_was_put_back(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was live last is what a rollback reaches, whatever the clock said when it was replaced."""
    _, second = house.add(), house.add()

    class Yesterday(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return super().now(tz) - timedelta(days=1)

    monkeypatch.setattr(promotion, "datetime", Yesterday)
    house.add()
    assert registry.rollback(house.engine, house.settings, actor="dora").version == second.version


def test_a_damaged_version_does_not_go_live(house: House) -> None:
    """A version whose file is damaged or missing is refused before anything is changed."""
    first, second = house.add(), house.add()
    registry.version_path(house.settings, first.version).write_bytes(b"damaged")
    with pytest.raises(ModelFileError, match="altered or damaged"):
        registry.promote(house.engine, house.settings, first.version, actor="dora")
    with pytest.raises(ModelFileError, match="altered or damaged"):
        registry.rollback(house.engine, house.settings, actor="dora")
    assert (house.states, house.serving) == (["live", "retired"], second.sha256)


def test_a_rejected_one_is_audited(house: House) -> None:
    """A refused model is kept, is not live, and the audit log says that it was refused."""
    refused = house.add(ModelState.REJECTED)
    assert not house.settings.model_path.exists()
    assert [entry.target for entry in audit.entries(house.engine, action="model.refused")] == [
        f"model:{refused.version}"
    ]


@pytest.mark.parametrize("harm", ["damaged", "missing", "without its sum", "of before"])
def test_a_live_file_is_put_right(house: House, harm: str) -> None:
    """A live file that is damaged, missing, or stale after a kill is restored, with an alarm where it was harmed."""
    first = house.add()
    old = house.settings.model_path.read_bytes()
    second = house.add()
    path = house.settings.model_path
    if harm == "damaged":
        path.write_bytes(b"noise")
    elif harm == "missing":
        path.unlink()
    elif harm == "without its sum":
        sum_file(path).unlink()
    else:
        path.write_bytes(old)
        sum_file(path).write_text(f"{first.sha256}  {path.name}\n")
    trouble = registry.settle(house.engine, house.settings)
    assert bool(trouble) == (harm != "of before")
    assert house.serving == second.sha256
    assert [alarm.kind for alarm in open_alarms(house.engine)] == ([AlarmKind.MODEL_FILE] if trouble else [])
    assert registry.settle(house.engine, house.settings) == ""
    assert open_alarms(house.engine) == []


def test_what_cannot_be_mended_keeps_the_last_good_one(house: House, encoder: TextEncoder) -> None:
    """With the live file and its version both damaged the process serves what it has, and the alarm stays open."""
    version = house.add()
    ranker = Ranker(house.settings, encoder=encoder)
    assert ranker.model_version == version.version
    for path in (house.settings.model_path, registry.version_path(house.settings, version.version)):
        path.write_bytes(b"noise")
    for _ in range(2):
        assert "keep the model that they have" in registry.settle(house.engine, house.settings)
    assert ranker.model_version == version.version
    assert [alarm.kind for alarm in open_alarms(house.engine)] == [AlarmKind.MODEL_FILE]


def test_a_file_from_elsewhere_is_left_alone(house: House, trained: Trained) -> None:
    """A good model that somebody has put there serves, with an alarm that says what to do."""
    house.add()
    foreign = save(replace(trained[0], card={"from": "elsewhere"}), house.settings.model_path)
    assert "not one of the registry's models" in registry.settle(house.engine, house.settings)
    assert house.serving == foreign
    assert len(open_alarms(house.engine)) == 1


def test_a_model_from_before_is_adopted(house: House, trained: Trained) -> None:
    """A live file that is older than the registry becomes its first version, once; what is no model does not."""
    assert registry.settle(house.engine, house.settings) == ""
    assert registry.versions(house.engine) == []
    sha256 = save(replace(trained[0], card={"run_id": "old", "metrics": {"x": 1}}), house.settings.model_path)
    for _ in range(2):
        registry.settle(house.engine, house.settings)
    (version,) = registry.versions(house.engine)
    assert (version.state, version.sha256, version.run_id) == (ModelState.LIVE, sha256, "old")
    assert json.loads(json.dumps(version.metrics)) == {"x": 1}
    assert registry.fitted_questions(house.settings, version.version) is None
    assert "older than the registry" not in registry.card(version)
    second = house.add()
    assert house.serving == second.sha256
    assert registry.rollback(house.engine, house.settings, actor="dora").sha256 == sha256


#: What `make attack` changes only in a model's card: it can serve, and there is nothing to read about it.
SERVED = ("card's run of", "card's metrics of other", "card's metrics of texts", "card's metrics of nan", "card's time")


@pytest.mark.parametrize("name", models.CHANGES)
def test_a_model_that_could_not_serve_is_not_adopted(
    sqlite_engine: Engine, settings: Settings, trained: Trained, name: str
) -> None:
    """No version comes of it, and no file; of one whose card alone is wrong comes a version that says nothing."""
    content, path = (
        models.changed(pickle.loads(serialised(trained[0]).content), models.CHANGES[name]),
        settings.model_path,
    )
    path.parent.mkdir()
    path.write_bytes(content)
    sum_file(path).write_text(f"{hashlib.sha256(content).hexdigest()}  {path.name}\n")
    assert registry.settle(sqlite_engine, settings) == ""
    found = registry.versions(sqlite_engine)
    assert len(found) == name.startswith(SERVED)
    assert len(list(path.parent.parent.rglob("*.joblib"))) == 1 + len(found)
    for version in found:
        registry.load(settings, version, encoder=version.encoder)
        assert registry.card(version)
        assert version._repr_html_()
        assert version.measured("accuracy") is None
        assert version.run_id is None
