"""A training run, from the database to a version: logged from its start, and live only if the gate lets it pass."""

from __future__ import annotations

import logging
import platform
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from html import escape
from importlib import metadata
from pathlib import Path
from typing import Any
from uuid import uuid4

from sqlalchemy import Engine

from rlhf_loop import registry
from rlhf_loop.config import Settings
from rlhf_loop.domain import MIN_SAMPLES, ModelState, Progress, RunRecord
from rlhf_loop.encoders import TextEncoder, load_encoder
from rlhf_loop.encoders.runtime import same_model
from rlhf_loop.errors import ConfigError, ModelFileError
from rlhf_loop.registry import Version
from rlhf_loop.registry.gate import Judgement, LiveModel, judge
from rlhf_loop.registry.runs import begin_run, end_run, plain, training_lock
from rlhf_loop.registry.schedule import last_review
from rlhf_loop.reward import RECIPES, TransformerRecipe
from rlhf_loop.training.data import frozen_share, judged_answers, training_set
from rlhf_loop.training.fit import MOST_ANSWERS
from rlhf_loop.training.learning_curve import TARGET
from rlhf_loop.training.pairs import training_pairs
from rlhf_loop.training.train import AUTO, TrainingReport, check_enough, judged_rows, train
from rlhf_loop.training.transformer import Tuning, forget
from rlhf_loop.utils.translation import Message, packed
from rlhf_loop.version import __version__

logger = logging.getLogger(__name__)
#: What the numbers of a model may depend on.
_LIBRARIES = ("joblib", "numpy", "onnxruntime", "tokenizers")


@dataclass(frozen=True, slots=True)
class TrainingOutcome:
    """A finished training: its model is a version in the registry, and live if the gate let it pass."""

    run_id: str
    report: TrainingReport
    version: Version
    judgement: Judgement
    path: Path

    def __repr__(self) -> str:
        return f"TrainingOutcome({self.version.version}, {self.version.state}: {self.judgement.reason})"

    def _repr_html_(self) -> str:
        name, reason = escape(self.version.version), escape(self.judgement.reason)
        return f"<p><strong>{name}: {self.version.state}.</strong> {reason}</p>{self.report._repr_html_()}"

    @property
    def live(self) -> bool:
        """True if the model serves now, False if it was only kept."""
        return self.version.state == ModelState.LIVE

    @property
    def sha256(self) -> str:
        """The sha256 of the model's file."""
        return self.version.sha256


def run_training(
    engine: Engine,
    settings: Settings,
    *,
    recipe: str | None = None,
    seed: int = 0,
    min_samples: int = MIN_SAMPLES,
    encoder: TextEncoder | None = None,
    corpus: Sequence[tuple[str, str]] = (),
    progress: Progress | None = None,
    actor: str = "training",
) -> TrainingOutcome:
    """Train on what the database holds, keep the model as a version, and put it live if the gate lets it pass.

    Experts' ratings, corrections and preferences, and what end users say of the answers that no expert has rated, with
    `settings.end_user_weight`. The run is in the log from its start, and however it ends. One training runs at a time.
    Without a `recipe` that of the settings is taken. Recipe `transformer` adapts to the questions and answers of a
    `corpus` first; where a training by it was stopped, the next one on the same ratings goes on. Who promoted a model,
    or had one refused, is `actor` in the audit log.

    Raises:
        TrainingRunningError: another training is running.
        ConfigError: `settings.end_user_weight` is not between 0 and 1, or there is no recipe `settings.recipe`.
        NotEnoughDataError: too few rated answers, or one class only.
        ModelFileError: the model cannot be written; the live one is untouched.
    """
    recipe = recipe or checked_recipe(settings)
    tuning = Tuning(
        at_once=settings.tuning_batch, threads=settings.encoder_threads, folder=_tuning_folder(settings), corpus=corpus
    )
    with training_lock(engine, settings):
        run_id = str(uuid4())
        record = RunRecord(status="failed")
        try:
            # Inside the block, and with an id from before: whatever stops the run from here on, its end is logged.
            begin_run(
                engine,
                run_id=run_id,
                started_at=datetime.now(UTC),
                recipe=recipe,
                encoder=settings.encoder,
                split_seed=seed,
            )
            record = replace(record, library_versions=library_versions(tuned=recipe == TransformerRecipe.name))
            registry.settle(engine, settings)
            seen = last_review(engine)  # before anything is read: what comes meanwhile is new for the next training
            end_user_weight = checked_weight(settings)
            if recipe == TransformerRecipe.name:
                most = MOST_ANSWERS[TransformerRecipe.name]
                tuning = replace(tuning, judged=judged_answers(engine, most=most, seed=seed))
            data = training_set(engine, end_user_weight=end_user_weight, reviewer_weighting=settings.reviewer_weighting)
            pairs = training_pairs(engine, end_user_weight=end_user_weight, raters=data.raters)
            judged = data.only(judged_rows(data, min_samples))
            record = replace(
                record,
                n_rated=len(judged.row),
                n_questions=len(set(judged.prompt.tolist())),
                n_positive=int(judged.label.sum()),
                data_fingerprint=pairs.fingerprint(data.fingerprint),
            )
            # Before the encoder is loaded: too little data is the usual case at first, and should be said at once.
            check_enough(data, min_samples=min_samples)
            encoder = encoder or load_encoder(settings)
            share = frozen_share(record.n_questions or 0, before=registry.frozen_before(engine))
            before = _live_model(engine, settings, encoder)
            trained = train(
                data,
                pairs=pairs,
                encoder=encoder,
                recipe=recipe,
                seed=seed,
                min_samples=min_samples,
                frozen_share=share,
                goal=TARGET,
                incumbent=before.incumbent if before else None,
                tuning=tuning,
                progress=progress,
            )
            report = trained.report
            beside = _live_model(engine, settings, encoder)
            if (before and before.version) != (beside and beside.version):
                # Promoted meanwhile: what was fitted for the one before says nothing of it.
                trained = replace(trained, incumbent=None)
            judgement = judge(trained, beside, encoder=encoder, apart=_of_other_encoder(engine, encoder))
            measured = plain(asdict(report))
            card = {"run_id": run_id, "trained_at": datetime.now(UTC).isoformat(), "metrics": measured}
            version = registry.add(
                engine,
                settings,
                replace(trained.model, card=card),
                state=judgement.state,
                reason=judgement.reason,
                judgement=plain(asdict(judgement)) | {"said": packed(judgement.reason)},
                metrics=measured,
                fitted=trained.fitted,
                run_id=run_id,
                frozen_share=share,
                actor=actor,
            )
            if trained.model.tuned is not None:
                forget(_tuning_folder(settings))
            live = version.state == ModelState.LIVE
            path = settings.model_path if live else registry.version_path(settings, version.version)
            record = replace(
                record,
                status="rejected" if judgement.state == ModelState.REJECTED else "succeeded",
                encoder=report.encoder,
                model_file=str(path.resolve()),
                model_sha256=version.sha256,
                metrics={**measured, "last_review": seen},
                **_results(report),
            )
        except BaseException as error:
            # BaseException: a run that was stopped from the keyboard must not look as if it were still running.
            name, said = type(error).__name__, str(error)
            record = replace(record, error=Message.joined(f"{name}:", said) if said else name)
            raise
        finally:
            with suppress(LookupError):  # stopped before the run was even logged
                end_run(engine, run_id, replace(record, finished_at=datetime.now(UTC)))
    return TrainingOutcome(run_id, report, version, judgement, path)


def checked_recipe(settings: Settings) -> str:
    """Return the recipe that the settings name.

    Raises:
        ConfigError: there is none of that name.
    """
    known = (AUTO, *RECIPES, TransformerRecipe.name)
    if settings.recipe not in known:
        raise ConfigError(f"RLHF_RECIPE={settings.recipe!r} is not a valid recipe. Choose {', '.join(known)}.")
    return settings.recipe


def _tuning_folder(settings: Settings) -> Path:
    """Return where a tuning keeps its state until its model is written."""
    return settings.models_folder / "tuning"


def checked_weight(settings: Settings) -> float:
    """Return the weight of end users' ratings.

    Raises:
        ConfigError: it is not between 0 and 1.
    """
    if not 0 <= settings.end_user_weight <= 1:
        raise ConfigError(
            f"RLHF_END_USER_WEIGHT={settings.end_user_weight} is not a valid weight of end users' ratings. Set it "
            "between 0 (not at all) and 1 (as much as an expert's)."
        )
    return settings.end_user_weight


def library_versions(*, tuned: bool = False) -> dict[str, str]:
    """Return the versions of Python and of the libraries that a model depends on, `tuned` layers on torch as well."""
    libraries = {name: metadata.version(name) for name in _LIBRARIES}
    if tuned:
        with suppress(metadata.PackageNotFoundError):
            libraries["torch"] = metadata.version("torch")
    return {"python": platform.python_version(), "rlhf-loop": __version__, **libraries}


def _live_model(engine: Engine, settings: Settings, encoder: TextEncoder) -> LiveModel | None:
    """Return the live model to compare a new one with; None if it cannot be read or is of another encoder."""
    version = registry.live(engine)
    if version is None or _of_other_encoder(engine, encoder):
        return None
    try:
        loaded = registry.load(settings, version, encoder=encoder.full_id)
    except ModelFileError as error:
        logger.error("The new model is not compared with the live one: %s", error)
        return None
    return LiveModel(
        version=version.version, model=loaded.model, fitted=registry.fitted_questions(settings, version.version)
    )


def _of_other_encoder(engine: Engine, encoder: TextEncoder) -> str:
    """Say that the live model reads with another encoder, as after a change of it; an empty text if it does not."""
    version = registry.live(engine)
    if version is None or same_model(version.encoder, encoder.id):
        return ""
    return Message(
        "The live model {version} reads with another encoder ({encoder}), so the two were not compared.",
        version=version.version,
        encoder=version.encoder.partition("/")[0],
    )


def _results(report: TrainingReport) -> dict[str, Any]:
    inside, order = report.cross_validated[report.recipe], report.overall.orders["model"]
    incoming = report.overall.orders.get("incoming")
    return {
        "recipe": report.recipe,
        # Again: a row that was deleted while the training read its texts is not counted.
        "n_rated": report.rated,
        "n_questions": report.questions,
        "n_positive": report.positive,
        "n_train": report.trained_on,
        "n_test": report.held_out.answers,
        "accuracy": report.held_out.accuracy.value,
        "auc": report.held_out.auc.value,
        "cv_accuracy": inside.accuracy.value,
        "cv_auc": inside.auc.value,
        "precision_at_1": order.precision_at_1.value,
        "ndcg": order.ndcg.value,
        "mrr": order.mrr.value,
        "incoming_precision_at_1": incoming.precision_at_1.value if incoming else None,
    }
