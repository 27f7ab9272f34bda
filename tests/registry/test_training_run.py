from __future__ import annotations

import hashlib
import random
from dataclasses import fields, replace
from datetime import timedelta
from pathlib import Path

import pytest
from figure_rows import add_version
from sqlalchemy import Engine

from rlhf_loop import sample
from rlhf_loop.config import Settings
from rlhf_loop.domain import ModelState, Rating, ReviewerRole, RunRecord
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.errors import ConfigError, ModelFileError, NotEnoughDataError
from rlhf_loop.exchange.transfer import import_ratings
from rlhf_loop.registry import training_run, versions
from rlhf_loop.registry.gate import Judgement
from rlhf_loop.registry.runs import runs
from rlhf_loop.registry.training_run import library_versions, run_training
from rlhf_loop.reward.model_file import load, sum_file
from rlhf_loop.store import audit
from rlhf_loop.store.interactions import rate, record
from rlhf_loop.training.data import examples, fingerprint
from rlhf_loop.training.pairs import training_pairs
from rlhf_loop.utils.languages import language_named


@pytest.fixture
def settings(tmp_path: Path, encoder_cache: Path) -> Settings:
    return Settings(model_path=tmp_path / "models" / "reward_model.joblib", cache_dir=encoder_cache)


@pytest.fixture
def sampled(sqlite_engine: Engine) -> Engine:
    """A database with the sample ratings."""
    import_ratings(sqlite_engine, sample.RATINGS_FILE, source="sample")
    return sqlite_engine


def hopeless() -> list[Rating]:
    """Ratings that the texts do not explain, whose good answers all came first: no model can rank them better."""
    rng = random.Random(0)
    texts = [f"Answer about {word}." for word in ("fever", "cough", "sleep", "burns", "knees", "teeth", "eyes", "skin")]
    return [
        Rating(
            user_prompt=f"What about case {number}?",
            ai_response=text,
            rating=5 if rank == 1 else 1,
            candidate_group=f"g{number}",
            shown_rank=rank,
        )
        for number in range(40)
        for rank, text in enumerate(rng.sample(texts, 3), start=1)
    ]


def test_a_success_is_live_and_logged(sampled: Engine, settings: Settings, encoder: TextEncoder) -> None:
    """A good model is at its path with its sum, and the log has a value in every column."""
    outcome = run_training(sampled, settings, encoder=encoder)
    assert (outcome.live, outcome.path) == (True, settings.model_path)
    assert outcome.sha256 == hashlib.sha256(settings.model_path.read_bytes()).hexdigest()
    assert outcome.sha256 in sum_file(settings.model_path).read_text()

    (run,) = runs(sampled)
    assert run.error is None
    missing = [
        field.name for field in fields(RunRecord) if field.name != "error" and getattr(run, field.name) in (None, {})
    ]
    assert missing == []
    assert (run.run_id, run.status, run.recipe) == (outcome.run_id, "succeeded", outcome.report.recipe)
    assert (run.encoder, run.model_file) == (encoder.id, str(settings.model_path))
    assert run.model_sha256 == outcome.sha256
    assert (run.n_rated, run.n_questions, run.n_train, run.n_test, run.split_seed) == (200, 50, 176, 24, 0)
    assert run.n_positive == outcome.report.positive
    assert run.started_at is not None
    assert run.finished_at is not None
    assert run.started_at.utcoffset() == timedelta(0)
    assert run.started_at <= run.finished_at
    assert run.data_fingerprint == training_pairs(sampled).fingerprint(fingerprint(examples(sampled)))
    assert run.library_versions == library_versions()
    report = outcome.report
    assert (run.accuracy, run.auc) == (report.held_out.accuracy.value, report.held_out.auc.value)
    assert run.cv_auc == report.cross_validated[report.recipe].auc.value
    assert run.precision_at_1 == report.overall.orders["model"].precision_at_1.value
    assert run.incoming_precision_at_1 == report.overall.orders["incoming"].precision_at_1.value
    assert set(run.metrics["cross_validated"]) == {"passages", "quality", "joint"}


@pytest.mark.usefixtures("growth")
def test_what_more_ratings_bring_is_kept(sampled: Engine, settings: Settings, encoder: TextEncoder) -> None:
    """The version has the points of the learning curve, the forecast, and what was predicted beside what was given."""
    outcome = run_training(sampled, settings, encoder=encoder, recipe="passages")
    (version,) = versions(sampled)
    growth = version.metrics["growth"]
    assert [point["rated"] for point in growth["points"]] == [50, 71, 100, 140]
    assert growth["outlook"]["prospect"] in {"reached", "ahead", "out of reach", "unknown"}
    assert (growth["outlook"]["now"], growth["outlook"]["goal"]) == (176, 0.8)
    (run,) = runs(sampled)
    assert run.metrics["growth"] == growth
    assert sum(each["answers"] for each in version.metrics["calibration"]) == 200
    assert sum(each["good"] for each in version.metrics["calibration"]) == outcome.report.positive


def test_who_promoted_a_model_is_audited(sampled: Engine, settings: Settings, encoder: TextEncoder) -> None:
    """The audit log says who put which model live, and whose model was refused."""
    outcome = run_training(sampled, settings, encoder=encoder, recipe="passages", actor="cli:ops")
    promoted = audit.entries(sampled, action="model.promoted")
    assert [(entry.actor, entry.target) for entry in promoted] == [("cli:ops", f"model:{outcome.version.version}")]
    assert promoted[0].detail["run"] == outcome.run_id


def test_corrections_and_end_users_are_logged(sampled: Engine, settings: Settings, encoder: TextEncoder) -> None:
    """The corrections of the sample and end users' ratings enter, are in the log and in the fingerprint."""
    outcome = run_training(sampled, settings, encoder=encoder, recipe="passages")
    pairs = outcome.report.pairs
    assert (pairs.corrections, pairs.preferences) == (49, 0)
    ids = record(sampled, [Rating(f"Question {number}?", f"Answer {number}.") for number in range(10)])
    for place, id in enumerate(ids):
        rate(sampled, id, reviewer="visitor:1", rating=1 + 4 * (place % 2), role=ReviewerRole.END_USER)
    hinted = run_training(sampled, settings, encoder=encoder, recipe="passages")
    assert (hinted.report.rated, hinted.report.questions, hinted.report.end_users) == (200, 50, 10)
    without = run_training(sampled, replace(settings, end_user_weight=0.0), encoder=encoder, recipe="passages")
    assert (without.report.end_users, without.sha256) != (10, hinted.sha256)
    last, middle, first = runs(sampled)
    assert (first.n_rated, middle.n_rated, last.n_rated) == (200, 200, 200)
    assert first.data_fingerprint == last.data_fingerprint != middle.data_fingerprint
    assert first.metrics["pairs"]["corrections"] == 49
    assert (first.metrics["end_users"], middle.metrics["end_users"]) == (0, 10)
    assert (middle.metrics["judged_by"], middle.metrics["end_user_weight"]) == ("expert", 0.25)


@pytest.mark.parametrize("weight", [-0.1, 1.5, float("nan")])
def test_a_weight_that_is_none(sampled: Engine, settings: Settings, encoder: TextEncoder, weight: float) -> None:
    """An end user's rating weighs between nothing and an expert's: any other setting is an error, and logged."""
    with pytest.raises(ConfigError, match=r"RLHF_END_USER_WEIGHT=.* is not a valid weight"):
        run_training(sampled, replace(settings, end_user_weight=weight), encoder=encoder)
    assert runs(sampled)[0].status == "failed"


def test_end_users_alone_are_logged_as_such(sqlite_engine: Engine, settings: Settings, encoder: TextEncoder) -> None:
    """A model that no expert stands behind says so in the log and in its own card."""
    ratings = [replace(rating, reviewer="visitor:1", reviewer_role=ReviewerRole.END_USER) for rating in hopeless()]
    record(sqlite_engine, ratings)
    outcome = run_training(sqlite_engine, settings, encoder=encoder, recipe="passages")
    assert outcome.report.judged_by == ReviewerRole.END_USER
    (run,) = runs(sqlite_engine)
    assert (run.n_rated, run.metrics["judged_by"], run.metrics["experts"]) == (120, "end_user", 0)
    assert load(outcome.path, encoder=encoder.id).model.card["metrics"]["judged_by"] == "end_user"


def test_the_model_knows_where_it_comes_from(sampled: Engine, settings: Settings, encoder: TextEncoder) -> None:
    """The card inside the model file names the run and its measures."""
    outcome = run_training(sampled, settings, encoder=encoder)
    card = load(settings.model_path, encoder=encoder.id).model.card
    assert card["run_id"] == outcome.run_id
    assert card["metrics"]["held_out"]["answers"] == 24
    assert settings.model_path.stat().st_size < 50_000


def test_a_retraining_replaces_the_model(
    sampled: Engine, settings: Settings, encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second training that the gate lets pass goes live, and both runs are in the log, newest first."""
    passes = Judgement(
        state=ModelState.LIVE, reasons=("It may.",), incoming=None, live=None, precision_at_1=None, auc=None
    )
    monkeypatch.setattr("rlhf_loop.registry.training_run.judge", lambda *_, **__: passes)
    first = run_training(sampled, settings, encoder=encoder)
    second = run_training(sampled, settings, encoder=encoder, seed=1, recipe="passages")
    assert load(settings.model_path, encoder=encoder.id).sha256 == second.sha256 != first.sha256
    assert [(run.run_id, run.split_seed) for run in runs(sampled)] == [(second.run_id, 1), (first.run_id, 0)]


def test_too_little_data_is_logged(sqlite_engine: Engine, settings: Settings) -> None:
    """A training that cannot start is logged with its counts and its error, and no encoder was loaded for it."""
    record(sqlite_engine, hopeless()[:12])
    no_encoder = Settings(model_path=settings.model_path, encoder_path=Path("/nowhere"))
    with pytest.raises(NotEnoughDataError, match="Only 12 rated"):
        run_training(sqlite_engine, no_encoder)
    (run,) = runs(sqlite_engine)
    assert (run.status, run.n_rated, run.n_questions, run.n_positive) == ("failed", 12, 4, 4)
    assert run.error is not None
    assert run.error.startswith("NotEnoughDataError: Only 12 rated interactions; training needs 50.")
    assert run.finished_at is not None
    assert (run.model_file, run.auc) == (None, None)
    assert not settings.model_path.exists()


class BrokenEncoder(TextEncoder):
    """An encoder in whose middle something happens."""

    def __init__(self, error: BaseException) -> None:
        self.error, self.language = error, language_named("en")

    @property
    def id(self) -> str:
        return "broken"

    @property
    def full_id(self) -> str:
        return self.id

    @property
    def crossed(self) -> bool:
        return False

    @property
    def dimension(self) -> int:
        return 1

    def encode_whole(self, texts: object) -> object:  # type: ignore[override]
        raise self.error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("the disk is on fire"), SystemExit(1)])
def test_what_breaks_a_training_is_logged(sampled: Engine, settings: Settings, error: BaseException) -> None:
    """An exception, or an interrupt from the keyboard, ends the run as failed, and goes on to the caller."""
    with pytest.raises(type(error)):
        run_training(sampled, settings, encoder=BrokenEncoder(error))
    (run,) = runs(sampled)
    assert (run.status, run.n_rated) == ("failed", 200)
    assert run.error == f"{type(error).__name__}: {error}".removesuffix(": ")
    assert run.finished_at is not None


def test_a_model_that_cannot_be_written_is_logged(
    sampled: Engine, settings: Settings, encoder: TextEncoder, tmp_path: Path
) -> None:
    """Where the model cannot be written the run has failed, although the training went well."""
    (tmp_path / "all").touch()
    with pytest.raises(ModelFileError, match="RLHF_MODELS_PATH"):
        run_training(sampled, replace(settings, models_path=tmp_path / "all"), encoder=encoder, recipe="joint")
    (run,) = runs(sampled)
    assert run.status == "failed"
    assert run.error is not None
    assert run.error.startswith("ModelFileError")
    assert versions(sampled) == []


def test_nothing_begins_where_nothing_can_be_written(
    sampled: Engine, settings: Settings, encoder: TextEncoder, tmp_path: Path
) -> None:
    """Where not even the lock beside the live model can be written, that is said before the work."""
    (tmp_path / "models").touch()
    with pytest.raises(ModelFileError, match="RLHF_MODEL_PATH"):
        run_training(sampled, settings, encoder=encoder)
    assert runs(sampled) == []


def test_an_unknown_recipe_is_logged(sampled: Engine, settings: Settings, encoder: TextEncoder) -> None:
    """An unknown recipe is a failed run."""
    with pytest.raises(ValueError, match="magic"):
        run_training(sampled, settings, encoder=encoder, recipe="magic")
    assert runs(sampled)[0].status == "failed"


def test_a_worse_model_does_not_go_live(sqlite_engine: Engine, settings: Settings, encoder: TextEncoder) -> None:
    """A model that ranks worse than the incoming order is kept beside the live one, which stays as it is."""
    settings.model_path.parent.mkdir()
    settings.model_path.write_bytes(b"the live model")
    sum_file(settings.model_path).write_bytes(b"its sum")
    record(sqlite_engine, hopeless())
    outcome = run_training(sqlite_engine, settings, encoder=encoder)
    assert not outcome.live
    assert outcome.judgement.incoming is not None
    assert outcome.judgement.incoming.difference.value < 0
    assert outcome.version.state == ModelState.REJECTED
    assert outcome.path == settings.model_path.parent / "reward_models" / f"{outcome.version.version}.joblib"
    assert load(outcome.path, encoder=encoder.id).sha256 == outcome.sha256
    assert settings.model_path.read_bytes() == b"the live model"
    assert sum_file(settings.model_path).read_bytes() == b"its sum"
    (run,) = runs(sqlite_engine)
    assert (run.status, run.model_file, run.error) == ("rejected", str(outcome.path), None)
    assert [entry.target for entry in audit.entries(sqlite_engine, action="model.refused")] == [
        f"model:{outcome.version.version}"
    ]
    assert audit.entries(sqlite_engine, action="model.promoted") == []
    assert run.incoming_precision_at_1 == 1
    assert run.precision_at_1 is not None
    assert run.precision_at_1 < 1


def test_unrated_answers_are_counted_as_context(sampled: Engine, settings: Settings, encoder: TextEncoder) -> None:
    """Unrated answers in the group of rated ones reach the training, those of unrated groups do not."""
    record(
        sampled,
        [
            Rating(user_prompt=known.prompt, ai_response="One more candidate.", candidate_group=known.group)
            for known in examples(sampled)[:4:4]
        ]
        + [Rating(user_prompt="Unrated?", ai_response="Nobody said.", candidate_group="unrated")],
    )
    outcome = run_training(sampled, settings, encoder=encoder, recipe="passages")
    assert (outcome.report.rated, outcome.report.unrated) == (200, 1)


def test_a_hostile_rater_counts_nothing_unless_all_are_to_count(
    sampled: Engine, settings: Settings, encoder: TextEncoder
) -> None:
    """Who contradicts two others is left out of fit and judgement, and named; without the setting they count."""
    answers = [(known, number + 1) for number, known in enumerate(examples(sampled))]
    for known, id in answers[:60]:
        assert known.rating is not None
        rate(sampled, id, reviewer="ann", rating=known.rating)
        rate(sampled, id, reviewer="eve", rating=6 - known.rating)
    (extra,) = record(
        sampled, [Rating(answers[0][0].prompt, "Nobody else has rated this.", candidate_group="sample-001")]
    )
    rate(sampled, extra, reviewer="eve", rating=5)

    weighted = run_training(sampled, settings, recipe="passages", encoder=encoder)
    (eve,) = weighted.report.raters
    assert (eve.reviewer, eve.overlapping, eve.weight) == ("eve", 60, 0.0)
    assert (weighted.report.rated, weighted.report.disregarded) == (200, 1)
    assert weighted.version.metrics["raters"] == [
        {"reviewer": "eve", "overlapping": 60, "accuracy": eve.accuracy, "at_most": eve.at_most, "weight": 0.0}
    ]
    alike = run_training(sampled, replace(settings, reviewer_weighting=False), recipe="passages", encoder=encoder)
    assert (alike.report.raters, alike.report.rated, alike.report.disregarded) == ((), 201, 0)


def test_a_change_of_the_encoder_is_said(engine: Engine, settings: Settings, encoder: TextEncoder) -> None:
    """Vectors of two encoders do not compare; the report says that there is a live model, and why it is left out."""
    add_version(engine, "passages-1", None, state="live")
    said = training_run._of_other_encoder(engine, encoder)
    assert said == "The live model passages-1 reads with another encoder (e), so the two were not compared."
    assert training_run._live_model(engine, settings, encoder) is None
