"""One training from the database to the live model file: logged from its start, and live only if it earns it."""

from __future__ import annotations

import platform
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from rlhf_loop.config import Settings
from rlhf_loop.domain import RunRecord
from rlhf_loop.encoders import TextEncoder, load_encoder
from rlhf_loop.encoders.weights import MODEL_NAME
from rlhf_loop.errors import ConfigError
from rlhf_loop.examples import training_set
from rlhf_loop.features import Progress
from rlhf_loop.pairs import training_pairs
from rlhf_loop.reward.model_file import save
from rlhf_loop.training import AUTO, MIN_SAMPLES, TrainingReport, check_enough, judged_rows, train
from rlhf_loop.training_log import begin_run, end_run, new_run_id
from rlhf_loop.version import __version__

#: What the numbers of a model may depend on.
_LIBRARIES = ("joblib", "numpy", "onnxruntime", "scikit-learn", "scipy", "tokenizers")


@dataclass(frozen=True, slots=True)
class TrainingOutcome:
    """A finished training. `live` says whether its model serves now, or was only kept beside the live one."""

    run_id: str
    report: TrainingReport
    path: Path
    sha256: str
    live: bool


def run_training(
    engine: Engine,
    settings: Settings,
    *,
    recipe: str = AUTO,
    seed: int = 0,
    min_samples: int = MIN_SAMPLES,
    encoder: TextEncoder | None = None,
    progress: Progress | None = None,
    actor: str = "training",
) -> TrainingOutcome:
    """Train on what the database holds, and put the model live unless it ranks worse than doing nothing.

    Experts' ratings, corrections and preferences, and what end users say of the answers that no expert has rated, with
    `settings.end_user_weight`. The run is in the log from its start, and however it ends. A refused model is kept as
    `*.rejected.joblib`. Who promoted a model, or had one refused, is `actor` in the audit log.

    Raises:
        ConfigError: `settings.end_user_weight` is not between 0 and 1.
        NotEnoughDataError: too few rated answers, or one class only.
        ModelFileError: the model cannot be written; the live one is untouched.
    """
    run_id = new_run_id()
    record = RunRecord(status="failed")
    try:
        # Inside the block, and with an id from before: whatever stops the run from here on, its end is logged.
        begin_run(
            engine,
            run_id=run_id,
            started_at=datetime.now(UTC),
            recipe=recipe,
            encoder=MODEL_NAME,
            split_seed=seed,
        )
        record = replace(record, library_versions=library_versions())
        end_user_weight = checked_weight(settings)
        data = training_set(engine, end_user_weight=end_user_weight)
        pairs = training_pairs(engine, end_user_weight=end_user_weight)
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
        model, report = train(
            data, pairs=pairs, encoder=encoder, recipe=recipe, seed=seed, min_samples=min_samples, progress=progress
        )
        live = not report.overall.worse_than_nothing
        path = settings.model_path if live else rejected_path(settings.model_path)
        card = {"run_id": run_id, "trained_at": datetime.now(UTC).isoformat(), "metrics": measures(report)}
        sha256 = save(replace(model, card=card), path)
        record = replace(
            record,
            status="succeeded" if live else "rejected",
            encoder=encoder.id,
            model_file=str(path.resolve()),
            model_sha256=sha256,
            **_results(report),
        )
    except BaseException as error:
        # BaseException: a run that was stopped from the keyboard must not look as if it were still running.
        record = replace(record, error=f"{type(error).__name__}: {error}".removesuffix(": "))
        raise
    finally:
        with suppress(LookupError):  # stopped before the run was even logged
            end_run(engine, run_id, replace(record, finished_at=datetime.now(UTC)), actor=actor)
    return TrainingOutcome(run_id, report, path, sha256, live)


def checked_weight(settings: Settings) -> float:
    """Return the weight of end users' ratings.

    Raises:
        ConfigError: it is none.
    """
    if not 0 <= settings.end_user_weight <= 1:
        raise ConfigError(
            f"RLHF_END_USER_WEIGHT is {settings.end_user_weight}: an end user's rating cannot count so. Set it between "
            "0 (not at all) and 1 (as much as an expert's)."
        )
    return settings.end_user_weight


def rejected_path(path: Path) -> Path:
    """Return where a model is kept that must not go live at `path`."""
    return path.with_name(f"{path.stem}.rejected{path.suffix}")


def library_versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that a model depends on."""
    libraries = {name: metadata.version(name) for name in _LIBRARIES}
    return {"python": platform.python_version(), "rlhf-loop": __version__, **libraries}


def measures(report: TrainingReport) -> dict[str, Any]:
    """Return every measure of a report as plain values, intervals included."""
    return {
        "recipe": report.recipe,
        "trained_on": report.trained_on,
        "sampled": report.sampled,
        "judged_by": str(report.judged_by),
        "experts": report.experts,
        "end_users": report.end_users,
        "end_user_weight": report.end_user_weight,
        "pairs": asdict(report.pairs),
        "held_out": asdict(report.held_out),
        "overall": asdict(report.overall),
        "cross_validated": {name: asdict(evaluation) for name, evaluation in report.cross_validated.items()},
        "seconds": dict(report.seconds),
    }


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
        "metrics": measures(report),
    }
