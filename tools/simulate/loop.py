"""One run of the loop: a real database, real reviews, real trainings with the gate, week by week."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from sqlalchemy import Engine

from rlhf_loop import registry
from rlhf_loop.config import Settings
from rlhf_loop.domain import ModelState, Rating
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.errors import NotEnoughDataError
from rlhf_loop.registry.gate import LiveModel, judge
from rlhf_loop.registry.training_run import TrainingOutcome, run_training
from rlhf_loop.store.engine import make_engine, migrate
from rlhf_loop.store.interactions import rate, record
from rlhf_loop.training.data import TrainingSet, training_set
from rlhf_loop.training.train import AUTO, train
from tools.simulate.measuring import Scores, Yardstick
from tools.simulate.raters import Arm, Reviewed, reviews
from tools.simulate.world import Plan

#: Candidates that must not go live, and every how many weeks they are put before the gate.
FLAWS = ("labels at random", "grades turned over", "recipe joint")
FLAWED_EVERY = 4
_BEGIN = datetime(2026, 1, 5, 9, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Flawed:
    """A candidate made to be bad: what the gate said, its own scores, and those of what was live then."""

    kind: str
    state: ModelState
    scores: Scores
    live: Scores


@dataclass(frozen=True, slots=True)
class Week:
    """The end of a week. `new` are the scores of the model that was trained, `before` those of what was live before it;
    `own` is the accuracy that the training itself reported. None where nothing was trained.
    """

    rated: int
    live: Scores
    new: Scores | None
    before: Scores
    first: bool
    state: ModelState | None
    reasons: tuple[str, ...]
    own: float | None
    weights: dict[str, float]
    disregarded: int
    flawed: tuple[Flawed, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """All weeks of one arm with one seed; `incoming` are the scores of the incoming order, `best` the best P@1."""

    arm: Arm
    seed: int
    incoming: Scores
    best: float
    weeks: tuple[Week, ...]


def run(of: Plan, arm: Arm, *, seed: int, encoder: TextEncoder) -> Run:
    """Let the weeks pass in a temporary folder."""
    yardstick = Yardstick(of.yardstick, encoder)
    incoming = yardstick.of_incoming()
    with tempfile.TemporaryDirectory(prefix="rlhf-simulation-") as folder:
        settings = Settings(
            database_url=f"sqlite:///{folder}/rlhf.db",
            model_path=Path(folder) / "model.joblib",
            models_path=Path(folder) / "models",
            reviewer_weighting=arm != Arm.UNWEIGHTED,
        )
        engine = make_engine(settings.database_url)
        migrate(engine)
        loop = _Loop(engine, settings, encoder, yardstick, incoming, np.random.default_rng((seed, 2)))
        weeks = tuple(loop.weeks(reviews(of, arm, seed=seed)))
        engine.dispose()
    return Run(arm, seed, incoming, yardstick.best_possible(), weeks)


class _Loop:
    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        encoder: TextEncoder,
        yardstick: Yardstick,
        incoming: Scores,
        rng: np.random.Generator,
    ) -> None:
        self._engine, self._settings, self._encoder = engine, settings, encoder
        self._yardstick = yardstick
        self._live = incoming
        self._rng = rng

    def weeks(self, given: Iterable[Sequence[Reviewed]]) -> Iterator[Week]:
        rated = 0
        for number, reviewed in enumerate(given):
            self._store(reviewed, _BEGIN + timedelta(weeks=number))
            rated += len(reviewed)
            before, first = self._live, registry.live(self._engine) is None
            try:
                outcome = run_training(self._engine, self._settings, recipe=AUTO, encoder=self._encoder)
            except NotEnoughDataError as error:
                yield Week(rated, before, None, before, first, None, (str(error),), None, {}, 0, ())
                continue
            new = self._scores(outcome)
            if outcome.live:
                self._live = new
            report = outcome.report
            yield Week(
                rated=rated,
                live=self._live,
                new=new,
                before=before,
                first=first,
                state=outcome.version.state,
                reasons=outcome.judgement.reasons,
                own=report.overall.accuracy.value,
                weights={rater.reviewer: rater.weight for rater in report.raters},
                disregarded=report.disregarded,
                flawed=tuple(self._flawed()) if number % FLAWED_EVERY == FLAWED_EVERY - 1 else (),
            )

    def _store(self, reviewed: Sequence[Reviewed], now: datetime) -> None:
        answers = [(each, each.asked.answers[each.place]) for each in reviewed]
        served = [
            Rating(
                answer.prompt,
                answer.response,
                each.reviews[0][1],
                reviewer=each.reviews[0][0],
                candidate_group=answer.group,
                shown_rank=answer.rank,
                created_at=now,
                rated_at=now,
            )
            for each, answer in answers
        ]
        for id, (each, _) in zip(record(self._engine, served), answers, strict=True):
            for reviewer, rating in each.reviews[1:]:
                rate(self._engine, id, reviewer=reviewer, rating=rating, rated_at=now)

    def _scores(self, outcome: TrainingOutcome) -> Scores:
        loaded = registry.load(self._settings, outcome.version, encoder=self._encoder.id)
        return self._yardstick.of_model(loaded.model)

    def _flawed(self) -> Iterator[Flawed]:
        """Put bad candidates before the gate. They are judged as any other, but not kept."""
        version = registry.live(self._engine)
        if version is None:
            return
        live = LiveModel(
            version=version.version,
            model=registry.load(self._settings, version, encoder=self._encoder.id).model,
            fitted=registry.fitted_questions(self._settings, version.version),
        )
        data = training_set(self._engine, reviewer_weighting=self._settings.reviewer_weighting)
        for kind in FLAWS:
            trained = train(
                self._spoilt(data, kind),
                encoder=self._encoder,
                recipe="joint" if kind == "recipe joint" else "passages",
                frozen_share=registry.frozen_before(self._engine),
                # A spoilt set would spoil the live model's recipe as well.
                incumbent=live.incumbent if kind == "recipe joint" else None,
            )
            judgement = judge(replace(trained, data=data), live, encoder=self._encoder)
            yield Flawed(kind, judgement.state, self._yardstick.of_model(trained.model), self._live)

    def _spoilt(self, data: TrainingSet, kind: str) -> TrainingSet:
        """Return what a faulty pipeline would have fitted on; the gate has the right ratings all the same."""
        if kind == "labels at random":
            return replace(data, rating=self._rng.permutation(data.rating))
        return replace(data, rating=6 - data.rating) if kind == "grades turned over" else data
