"""The off-switch, in the database, beside the live file, and in all that ranks."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from databases import sqlite_database
from rerank_apps import DOCUMENTS, QUERY, ranker_in
from sqlalchemy.engine import Engine

from rlhf_loop import registry
from rlhf_loop.config import Settings
from rlhf_loop.domain import Rating
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.errors import DatabaseError, ModelFileError, RegistryError
from rlhf_loop.monitoring.checks import check
from rlhf_loop.ranking import Ranker, WithoutModel, off_marker, rank_documents, rerank_candidates
from rlhf_loop.registry import off_switch
from rlhf_loop.reward import RewardModel
from rlhf_loop.store import backup
from rlhf_loop.store.audit import entries
from rlhf_loop.store.engine import open_database
from rlhf_loop.store.interactions import record
from rlhf_loop.training.train import TrainingReport
from rlhf_loop.web.process import Database
from rlhf_loop.web.server.watch import Watch

Trained = tuple[RewardModel, TrainingReport]


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    return Settings(database_url=database_url, model_path=tmp_path / "reward_model.joblib")


def off(engine: Engine, settings: Settings, reason: str = "It answers in rhymes") -> str:
    return registry.switch_off(lambda: engine, settings, actor="cli:ada", reason=reason)


def switch_on(engine: Engine, settings: Settings) -> None:
    registry.switch_on(engine, settings, actor="cli:ada")


def away() -> Engine:
    raise DatabaseError("The database cannot be used: it is away.")


def audited(engine: Engine) -> list[tuple[str, str, str]]:
    return [(each.actor, each.action, each.detail.get("reason", "")) for each in reversed(entries(engine))]


def test_off_and_on(engine: Engine, settings: Settings) -> None:
    """The marker and an open alarm say who and why; on takes both away; the audit log has both decisions, once."""
    assert off(engine, settings) == ""
    marker = json.loads(off_marker(settings.model_path).read_bytes())
    assert (marker["actor"], marker["reason"]) == ("cli:ada", "It answers in rhymes")
    alarm = registry.switched_off(engine)
    assert alarm is not None
    assert alarm.message == (
        "No model ranks, and candidates keep their incoming order: switched off by cli:ada: It answers in rhymes. To "
        "go on: rlhf-loop models on"
    )
    with pytest.raises(RegistryError, match=r"off already: switched off by cli:ada: It answers in rhymes\."):
        off(engine, settings, "Again")
    check(engine, settings)
    registry.settle(engine, settings)
    assert registry.switched_off(engine) == alarm
    registry.switch_on(engine, settings, actor="cli:bob", reason="It was the prompt.")
    assert registry.switched_off(engine) is None
    assert not off_marker(settings.model_path).exists()
    assert audited(engine) == [
        ("cli:ada", "model.off", "It answers in rhymes"),
        ("cli:bob", "model.on", "It was the prompt."),
    ]
    with pytest.raises(RegistryError, match="The model is not off"):
        registry.switch_on(engine, settings, actor="cli:bob")


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "another machine"])
def test_serving_processes_follow(engine: Engine, settings: Settings, tmp_path: Path, elsewhere: bool) -> None:
    """Whoever serves from the same database is off with the next look, and on again."""
    there = replace(settings, model_path=tmp_path / "there" / "m.joblib") if elsewhere else settings
    watch, marker = Watch(there, Database(there)), off_marker(there.model_path)
    watch.look()
    off(engine, settings)
    watch.look()
    assert marker.exists()
    assert json.loads(marker.read_bytes())["reason"] == "It answers in rhymes"
    registry.switch_on(engine, settings, actor="cli:ada")
    watch.look()
    assert not marker.exists()


def test_without_the_database(engine: Engine, settings: Settings) -> None:
    """It is off here at once; as soon as the database is back it knows, under the name of whoever did it."""
    assert "The database cannot be used now" in registry.switch_off(
        away, settings, actor="cli:ada", reason="It answers in rhymes"
    )
    assert off_marker(settings.model_path).exists()
    assert registry.switched_off(engine) is None
    for _ in range(2):
        registry.settle(engine, settings)
    assert registry.switched_off(engine) is not None
    assert audited(engine) == [("cli:ada", "model.off", "It answers in rhymes")]


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"actor": 3}'], ids=["touched", "list", "noise", "number"])
def test_a_marker_made_by_hand(engine: Engine, settings: Settings, content: bytes) -> None:
    """Whatever is in it, the model is off, and the database learns of it."""
    off_marker(settings.model_path).write_bytes(content)
    registry.follow(engine, settings)
    assert audited(engine) == [("unknown", "model.off", "The marker was put there by hand.")]
    registry.switch_on(engine, settings, actor="cli:ada")
    assert not off_marker(settings.model_path).exists()


def test_a_full_disk(engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be written an empty marker is enough, and the reason is in the database, if that is there."""

    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(off_switch, "write_whole", full)
    off(engine, settings)
    assert off_marker(settings.model_path).read_bytes() == b""
    switch_on(engine, settings)
    registry.follow(engine, settings)
    assert not off_marker(settings.model_path).exists()
    assert [action for _, action, _ in audited(engine)] == ["model.off", "model.on"]


def test_another_database(engine: Engine, settings: Settings, tmp_path: Path) -> None:
    """One that has the same live file leaves it off, and cannot switch it on."""
    off(engine, settings)
    other = open_database(sqlite_database(tmp_path / "other.db"))
    with other.begin() as connection:
        connection.exec_driver_sql("UPDATE rlhf_database SET identity = 'another'")
    registry.settle(other, settings)
    with pytest.raises(RegistryError, match=r"in another database, .*switched off by cli:ada: It answers in rhymes\."):
        switch_on(other, settings)
    assert off_marker(settings.model_path).exists()
    off_marker(settings.model_path).unlink()
    off(other, settings, "Here, too")
    with pytest.raises(RegistryError, match="in another database"):
        switch_on(engine, settings)
    registry.follow(engine, settings)
    assert (registry.switched_off(engine), audited(other)[0][2]) == (None, "Here, too")
    switch_on(other, settings)
    assert not off_marker(settings.model_path).exists()
    other.dispose()


def test_a_database_of_before(engine: Engine, settings: Settings, tmp_path: Path) -> None:
    """However an earlier state of the database comes back, the model stays off until it is on again."""
    record(engine, [Rating("q", "a")])
    for _ in range(2):
        backup.back_up(engine, settings, tmp_path / "before.zip", actor="ada")
        off(engine, settings)
        backup.restore(engine, settings, tmp_path / "before.zip", actor="ada", replace=True)
        assert registry.switched_off(engine) is None
        registry.settle(engine, settings, force=True)
        assert off_marker(settings.model_path).exists()
        assert registry.switched_off(engine) is not None
        switch_on(engine, settings)
        assert not off_marker(settings.model_path).exists()


def test_a_folder_that_cannot_be_written(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Then the database alone has it, for whoever serves; with neither the model stays on, which is said."""

    def refused(marker: Path, said: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(off_switch, "_write", refused)
        with pytest.raises(RegistryError, match=r"The model stays on\. .*Permission denied.* it is away\."):
            registry.switch_off(away, settings, actor="cli:ada", reason="x")
        assert "cannot be written (Permission denied)" in off(engine, settings)
        ranker, watch = Ranker(settings), Watch(settings, Database(settings))
        caplog.clear()
        for _ in range(2):
            watch.look()
            registry.settle(engine, settings)
        assert ranker.off
        assert [each.message for each in caplog.records if ".off cannot be written" in each.message] == []
        switch_on(engine, settings)
        assert not ranker.off
        off(engine, settings)
    Watch(settings, Database(settings)).look()
    assert off_marker(settings.model_path).exists()


@pytest.mark.parametrize("step", ["off, before the database", "off, before the marker", "on, before the marker"])
def test_killed_in_between(engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Whatever was done first decides, and the next look does the rest."""

    wanted = step.startswith("off")

    def killed(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if step == "off, before the database":
            patch.setattr(off_switch, "follow", killed)
        elif step == "off, before the marker":
            write: Callable[[Path, dict[str, str]], None] = off_switch._write
            patch.setattr(
                off_switch, "_write", lambda path, said: killed() if "database" in said else write(path, said)
            )
        else:
            off(engine, settings)
            patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            (off if wanted else switch_on)(engine, settings)
    registry.follow(engine, settings)
    assert (registry.switched_off(engine) is not None) is wanted
    assert off_marker(settings.model_path).exists() is wanted
    assert [action for _, action, _ in audited(engine)] == ["model.off", "model.on"][: 1 if wanted else 2]


def test_nothing_ranks(tmp_path: Path, encoder: TextEncoder, trained: Trained) -> None:
    """All keep their incoming order, without scores, whatever stands in for a missing model; then as before."""
    ranker = ranker_in(tmp_path, encoder, trained[0])
    before = rerank_candidates(QUERY, DOCUMENTS, ranker=ranker)
    marker = off_marker(ranker.model_path)
    marker.touch()
    found = rerank_candidates(QUERY, DOCUMENTS, ranker=ranker)
    assert [(each["text"], each["score"]) for each in found] == [(text, None) for text in DOCUMENTS]
    assert ranker.model_version is None
    for otherwise in WithoutModel:
        ranking = rank_documents(ranker, QUERY, DOCUMENTS, otherwise=otherwise)
        assert ranking.model_version is None
        assert [each.index for each in ranking.documents] == list(range(len(DOCUMENTS)))
    marker.unlink()
    assert rerank_candidates(QUERY, DOCUMENTS, ranker=ranker) == before


def test_the_prior_does_not_rank_either(tmp_path: Path, encoder: TextEncoder) -> None:
    """Without a model the prior may rank, and is off with it."""
    settings = Settings(model_path=tmp_path / "m.joblib", rerank_without_model="prior")
    ranker = Ranker(settings, encoder=encoder)
    assert ranker.model_version is not None
    off_marker(settings.model_path).touch()
    assert ranker.model_version is None


def test_an_order_is_no_score(tmp_path: Path, encoder: TextEncoder, trained: Trained) -> None:
    """What wants scores gets an error, and who looks into the model itself goes on."""
    from rlhf_loop.adapters.trl import scored

    ranker = ranker_in(tmp_path, encoder, trained[0])
    off_marker(ranker.model_path).touch()
    with pytest.raises(ModelFileError, match="switched off"):
        scored(ranker, [QUERY], DOCUMENTS[:1])
    looking = Ranker(Settings(model_path=ranker.model_path), encoder=encoder, even_if_off=True)
    assert looking.model_version is not None


def test_a_reason_in_one_line(engine: Engine, settings: Settings) -> None:
    """What cannot be seen of a reason is not kept; one that is too long is refused, and nothing changes."""
    with pytest.raises(RegistryError, match=r"The reason has 10,000 characters; at most 2,000 are kept"):
        off(engine, settings, "x" * 10_000)
    assert registry.switched_off(engine) is None
    assert not off_marker(settings.model_path).exists()
    off(engine, settings, "It \x1b[31mrhymes\x9b2J\r\n\u202etwice\0")
    assert json.loads(off_marker(settings.model_path).read_bytes())["reason"] == "It [31mrhymes2J twice"
    with pytest.raises(RegistryError, match="The reason has"):
        registry.switch_on(engine, settings, actor="cli:ada", reason="x" * 10_000)
    assert registry.switched_off(engine) is not None


def test_a_marker_that_is_a_folder(engine: Engine, settings: Settings) -> None:
    """It switches off like a file; an empty one goes with the switch, another one is named."""
    marker = off_marker(settings.model_path)
    marker.mkdir()
    assert registry.follow(engine, settings) is not None
    switch_on(engine, settings)
    assert not marker.exists()
    (marker / "mine").mkdir(parents=True)
    registry.follow(engine, settings)
    with pytest.raises(RegistryError, match=r"off cannot be deleted \(.*stays off on this machine\. Delete it"):
        switch_on(engine, settings)
    (marker / "mine").rmdir()
    registry.follow(engine, settings)
    switch_on(engine, settings)
    assert not marker.exists()
