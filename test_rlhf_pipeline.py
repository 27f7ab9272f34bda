"""A check of the whole loop on this machine, without touching your data: `python test_rlhf_pipeline.py`.

It runs on the sample ratings in a folder of its own: store, train, load, re-rank. Exit code 0 means that all is well.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from dataclasses import replace
from pathlib import Path


def main() -> int:
    """Run each stage of the loop once and print how it went."""
    from sqlalchemy import text

    from rlhf_loop import sample
    from rlhf_loop.config import Settings
    from rlhf_loop.encoders import load_encoder
    from rlhf_loop.exchange.transfer import import_ratings
    from rlhf_loop.ranking import Ranker, rerank_candidates
    from rlhf_loop.registry.training_run import run_training
    from rlhf_loop.store.engine import open_database

    with tempfile.TemporaryDirectory(prefix="rlhf-loop-") as folder:
        settings = replace(
            Settings.from_env(),
            database_url=f"sqlite:///{Path(folder) / 'ratings.db'}",
            model_path=Path(folder) / "reward_model.joblib",
        )
        engine = open_database(settings.database_url)
        import_ratings(engine, sample.RATINGS_FILE, source="sample")
        with engine.connect() as connection:
            rated = connection.execute(text("SELECT COUNT(*) FROM rlhf_interactions WHERE rating IS NOT NULL")).scalar()
        _passed("store", f"{rated} rated interactions")

        encoder = load_encoder(settings)
        fever, temperature, bicycle = encoder.encode(["fever", "high temperature", "bicycle"])
        near, far = fever @ temperature, fever @ bicycle
        _check(near > far, "encoder", f"'fever' to 'high temperature' {near:.2f}, to 'bicycle' {far:.2f}")

        outcome = run_training(engine, settings, encoder=encoder)
        detail = f"recipe {outcome.report.recipe}, held-out accuracy {outcome.report.held_out.accuracy.value:.2f}"
        _check(outcome.live and settings.model_path.exists(), "train", detail)

        ranked = rerank_candidates(sample.QUESTION, sample.CANDIDATES, ranker=Ranker(settings, encoder=encoder))
        scores = [entry["score"] for entry in ranked]
        _check(
            scores == sorted(scores, reverse=True) and all(0 <= score <= 1 for score in scores),
            "re-rank",
            f"scores {', '.join(f'{score:.2f}' for score in scores)}",
        )
        _check("concussion, so" in ranked[0]["text"], "best answer", ranked[0]["text"][:60] + " ...")
        engine.dispose()
    sys.stdout.write("The pipeline works.\n")
    return 0


def _passed(stage: str, detail: str) -> None:
    sys.stdout.write(f"ok  {stage:12} {detail}\n")


def _check(good: bool, stage: str, detail: str) -> None:
    if not good:
        sys.exit(f"FAILED  {stage}: {detail}")
    _passed(stage, detail)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    from rlhf_loop.errors import RlhfLoopError

    try:
        sys.exit(main())
    except RlhfLoopError as error:
        sys.exit(f"Error: {error}")
