"""Simulation of the gate: trainings on few ratings, what goes live, and the truth on all questions that were not drawn.

`python -m tools.gate` draws questions of the shared rated sets until so many of their answers are rated, trains as
`rlhf-loop train` does, asks the gate, and measures the model on all other questions; the same with labels by lot, from
which nothing can be learnt. It writes docs/GATE.md. What the trainings said is kept in .cache/gate as long as the code
that trains and the data stay as they are, so a change of the gate alone is judged anew in a minute.
"""

from __future__ import annotations

import argparse
import hashlib
import pickle
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from time import process_time
from typing import Any, Literal, cast
from unittest import mock

import numpy as np
from numpy.typing import NDArray

import rlhf_loop
from rlhf_loop.config import Settings
from rlhf_loop.domain import ModelState, Question
from rlhf_loop.encoders import TextEncoder, load_encoder
from rlhf_loop.errors import NotEnoughDataError
from rlhf_loop.registry.gate import beside_incoming, beside_live, live_scores
from rlhf_loop.reward import RECIPES, Recipe, RewardModel
from rlhf_loop.reward.classifier import Prior
from rlhf_loop.reward.recipes import PassagesRecipe
from rlhf_loop.training import metrics
from rlhf_loop.training.comparison import against_incoming, compare
from rlhf_loop.training.data import Chunk, TrainingSet, assemble, frozen_share, numbered
from rlhf_loop.training.evaluation import Evaluation, Predictions, evaluate
from rlhf_loop.training.train import Incumbent, TrainingResult, train
from rlhf_loop.utils.arrays import Floats, Ints, Mask
from rlhf_loop.utils.concurrency import single_threaded_blas
from rlhf_loop.utils.files import write_whole
from tools.report import DOCS, machine, say, table, today
from tools.results.beginning import SETS, priors, sets_and_sample
from tools.results.data import read_examples

SIZES = (50, 90, 150, 300)
TRAININGS = 200
#: Of labels by lot: rated answers, how many of them are bad, and trainings of each.
LOT_SIZE, LOT_BAD, LOTS = 200, (4, 6, 10, 20), 40
#: Of a model and its successor: ratings of the first, how many more the second has, and trainings of each.
SUCCESSION_SIZES, MORE, SUCCESSIONS = (50, 150), 50, 40
#: A model is worse, or better, than the incoming order from these differences of P@1 on.
WORSE, BETTER = -0.02, 0.05
#: Incoming orders that are made up: so much of the way from the real one to the best possible. A model is hardly
#: better than the first and mostly worse than the second.
MADE_UP: Mapping[str, float] = {"real": 0.0, "good": 0.6, "very good": 0.85}
#: Trainings that are made and recorded at a time; of models that come after others each is many.
_BLOCK, _SHORT_BLOCK = 20, 5
_CACHE = Path(__file__).parents[1] / ".cache" / "gate"
#: What decides about the records, beside the data and the encoder.
_SOURCES = (
    "reward/*.py",
    "training/comparison.py",
    "training/data.py",
    "training/fit.py",
    "training/grouping.py",
    "training/train.py",
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A model as the gate sees it, and its worth: P@1 less that of each incoming order on questions not drawn.

    `ranks` has what stands in `said.rank` by each of the orders.
    """

    recipe: str
    said: Predictions
    ranks: Mapping[str, Floats]
    gain: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Trial:
    """A training by the package's choice of a recipe; `before` is what the choice of before made of it."""

    now: Outcome
    before: Outcome


@dataclass(frozen=True, slots=True)
class Succession:
    """A new model beside a live one, by their recipes; it has `more` ratings, and `gain` is what P@1 changes in truth.

    `own` and `again` are what the live model and its recipe, fitted once more, say of the answers of `said`.
    """

    live: str
    new: str
    more: int
    said: Predictions
    own: Floats
    again: Floats | None
    gain: float


@dataclass(frozen=True, slots=True)
class Trials:
    """All trainings of one kind: so many ratings of a set, or labels by lot with so many bad ones; or models that come
    after others.
    """

    name: str
    size: int
    lot: bool
    trials: Sequence[Trial]
    seconds: float
    successions: Sequence[Succession] = ()


class Pool:
    """A rated set: its questions with all their answers, the same groups of questions for all draws."""

    def __init__(self, name: str, path: Path, encoder: TextEncoder) -> None:
        self.name, self.path, self.encoder = name, path, encoder
        self.examples, _ = read_examples(path)
        self.data = assemble(self.examples).grouped(encoder)
        of_group: dict[str, list[int]] = {}
        for place, example in enumerate(self.examples):
            of_group.setdefault(example.group, []).append(place)
        self._questions = [np.array(each) for each in of_group.values()]

    @cached_property
    def chunks(self) -> Sequence[Chunk]:
        """The questions with their texts."""
        return list(self.data.chunks())

    @cached_property
    def ranks(self) -> Mapping[str, Floats]:
        """The rank of each example in each of the incoming orders."""
        rated = self.data.predictions(np.zeros(len(self.data.row)))
        places = self.data.candidates["id"][self.data.row]
        noise = np.random.default_rng(0).standard_normal(len(rated.rating))
        real, best = (first_right(rated, key) for key in (-rated.rank, rated.rating.astype(np.float64)))
        found = {}
        for name, share in MADE_UP.items():
            key = -rated.rank
            if share:
                low, high = 0.01, 100.0
                for _ in range(40):
                    middle = (low * high) ** 0.5
                    key = rated.rating + middle * noise
                    low, high = (
                        (middle, high) if first_right(rated, key) > real + share * (best - real) else (low, middle)
                    )
            found[name] = np.full(len(self.examples), np.nan)
            found[name][places] = metrics.places(rated.question, key) + 1
        return found

    def shuffled(self, rng: np.random.Generator) -> Ints:
        """Return all examples, the questions in an order by chance."""
        return np.concatenate([self._questions[each] for each in rng.permutation(len(self._questions))])

    def first(self, places: Ints, rated: int) -> tuple[Ints, Mask]:
        """Take questions until so many answers are rated: the examples, and which of them are rated.

        The last question's other answers are there without a rating.
        """
        last = self.examples[places[rated - 1]].group
        end = rated
        while end < len(places) and self.examples[places[end]].group == last:
            end += 1
        return places[:end], np.arange(end) < rated

    def trial(self, places: Ints, ratings: Sequence[int | None]) -> Trial:
        """Train and measure.

        Raises:
            NotEnoughDataError: the questions do not allow a training.
        """
        data = self._rated(places, ratings)
        trained = train(data, encoder=self.encoder)
        former = recipe_before(trained.report.cross_validated)
        now = self._outcome(trained, places)
        same = former == now.recipe
        return Trial(now, now if same else self._outcome(train(data, encoder=self.encoder, recipe=former), places))

    def successions(self, places: Ints, size: int, more: int) -> list[Succession]:
        """Train a model of each recipe on so many ratings, then others on `more` besides, and on no more.

        Raises:
            NotEnoughDataError: the questions do not allow a training.
        """
        early, late = (self._rated(*self._first_rated(places, count)) for count in (size, size + more))
        share = frozen_share(len(np.unique(late.prompt)), before=0.0)

        def fitted(data: TrainingSet, recipe: str, beside: TrainingResult | None = None) -> TrainingResult:
            of = Incumbent(beside.report.recipe, beside.fitted) if beside else None
            return train(data, encoder=self.encoder, recipe=recipe, frozen_share=share, incumbent=of)

        others = ~np.isin(self.data.group_of(self.data.prompt_hash), late.group_of(late.prompt_hash))
        worth: dict[int, float] = {}

        def worth_of(of: TrainingResult) -> float:
            if id(of) not in worth:
                left = self.data.predictions(self._scores(of.model)[others], others)
                worth[id(of)] = first_right(left, left.probability)
            return worth[id(of)]

        before = {name: fitted(early, name) for name in RECIPES}
        pairs = [(live, fitted(late, name, live), more) for live in before.values() for name in RECIPES]
        after = {new.report.recipe: new for live, new, _ in pairs if new.report.recipe == live.report.recipe}
        pairs += [(live, fitted(late, name, live), 0) for own, live in after.items() for name in RECIPES if name != own]
        found = []
        for live, new, added in pairs:
            rows = new.judged & np.isfinite(new.probability)
            beside = live_scores(new, live.model, live.fitted, rows, self.encoder)
            found.append(
                Succession(
                    live.report.recipe,
                    new.report.recipe,
                    added,
                    new.data.predictions(new.probability[rows], rows),
                    beside,
                    None if new.incumbent is None else new.incumbent[rows],
                    worth_of(new) - worth_of(live),
                )
            )
        return found

    def _first_rated(self, places: Ints, size: int) -> tuple[Ints, list[int | None]]:
        chosen, rated = self.first(places, size)
        return chosen, [self.examples[at].rating if of else None for at, of in zip(chosen, rated, strict=True)]

    def _rated(self, places: Ints, ratings: Sequence[int | None]) -> TrainingSet:
        data = assemble([replace(self.examples[at], rating=of) for at, of in zip(places, ratings, strict=True)])
        assert self.data.groups is not None
        return replace(data, groups=self.data.groups, prompt=numbered(self.data.groups.of(data.prompt_hash)))

    def _outcome(self, trained: TrainingResult, places: Ints) -> Outcome:
        rows = trained.judged & np.isfinite(trained.probability)
        said = trained.data.predictions(trained.probability[rows], rows)
        judged = places[trained.data.candidates["id"][trained.data.row[rows]]]
        others = self._others(trained.data, trained.model)
        ids = self.data.candidates["id"][self.data.row]
        rows = np.isin(self.data.group_of(self.data.prompt_hash), trained.data.group_of(trained.data.prompt_hash))
        return Outcome(
            trained.report.recipe,
            said,
            {name: rank[judged] for name, rank in self.ranks.items()},
            {
                name: first_right(others, others.probability) - first_right(others, -rank[ids[~rows]])
                for name, rank in self.ranks.items()
            },
        )

    def _others(self, drawn: TrainingSet, model: RewardModel) -> Predictions:
        """Return what the model says of the questions that do not ask for the same as a drawn one."""
        rows = ~np.isin(self.data.group_of(self.data.prompt_hash), drawn.group_of(drawn.prompt_hash))
        return self.data.predictions(self._scores(model)[rows], rows)

    def _scores(self, model: RewardModel) -> Floats:
        """Return what the model says of each rated answer of the set."""
        scores = np.full(len(self.data.candidates), np.nan)
        for chunk in self.chunks:
            scores[chunk.row] = np.concatenate(model.score(chunk.questions, self.encoder))
        return scores[self.data.row]


def first_right(of: Predictions, key: Floats) -> float:
    """Return P@1 of an order over the questions with two or more answers; equal keys keep the incoming order."""
    rows = np.flatnonzero(np.bincount(of.question)[of.question] > 1)
    rows = rows[np.argsort(of.rank[rows], kind="stable")]
    kept = of.only(rows)
    one = np.ones((1, int(kept.question.max()) + 1))
    place = metrics.places(kept.question, key[rows])
    return float(metrics.precision_at_1(kept.question, kept.rating, kept.label, place, one)[0])


# --- The rules of before, to compare with ----------------------------------------------------------------------------


def recipe_before(evaluations: Mapping[str, Evaluation]) -> str:
    """Return the recipe that was taken before: the best P@1, of fewer than ten questions the best AUC."""

    def quality(name: str) -> tuple[float, float]:
        found = evaluations[name]
        first = found.orders["model"].precision_at_1.value if found.ranked_questions >= 10 else 0.0
        return first, found.auc.value

    return max(evaluations, key=quality)


def live_before(said: Predictions) -> bool:
    """Tell whether the gate let a first model pass before: P@1 higher in nine of ten draws, from ten questions on;
    with fewer, AUC above one half with its 95 % interval.
    """
    first = against_incoming(said).precision_at_1
    if first is not None and first.questions >= 10:
        return first.certainty >= 0.9 and first.difference.value > 0
    weights = metrics.of_questions(metrics.bootstrap_weights(int(said.drawn.max()) + 1), said.drawn)
    return metrics.interval(metrics.auc(said.question, said.label, said.probability, weights))[1] > 0.5


def live_now(said: Predictions) -> bool:
    """Tell whether the gate lets a first model pass."""
    return beside_incoming(said).state == ModelState.LIVE


def replaces_before(of: Succession) -> bool:
    """Tell whether the gate let a model take the place of a live one before: by the questions that neither was fitted
    on, P@1 as high or a few near ties lower; of fewer than ten the AUC as high, from twenty answers on.
    """
    there = np.isfinite(of.own)
    found = compare(of.said.only(there), of.own[there])
    first, auc = found.precision_at_1, found.auc
    if first is not None and first.questions >= 10:
        measures = (auc, first, found.ndcg, found.concordance)
        loss, sure = -first.difference.value, any(each.certainty >= 0.85 for each in measures if each)
        return loss <= (0.02 if sure else 0) and not (auc is not None and auc.difference.high < 0)
    return auc is not None and auc.answers >= 20 and auc.difference.value >= 0


def replaces_now(of: Succession) -> bool:
    """Tell whether the gate lets a model take the place of a live one."""
    return beside_live(of.said, of.own, of.again, live=of.live, successor=of.live == of.new).state == ModelState.LIVE


# --- The trainings ---------------------------------------------------------------------------------------------------


class _Known:
    """A recipe that computes the features of a question once: they depend on it and its candidates alone."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._known: dict[tuple[str, tuple[str, ...]], NDArray[np.float64]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._recipe, name)

    def features(self, questions: Sequence[Question], encoder: TextEncoder) -> NDArray[np.float64]:
        """Return the features, those of new questions computed."""
        keys = [(each.prompt, each.responses) for each in questions]
        new = {key: each for key, each in zip(keys, questions, strict=True) if key not in self._known}
        if new:
            found = self._recipe.features(list(new.values()), encoder)
            ends = np.cumsum([len(each.responses) for each in new.values()])[:-1]
            self._known.update(zip(new, np.split(found, ends), strict=True))
        return np.concatenate([self._known[key] for key in keys])


@cache
def _known(name: str) -> _Known:
    return _Known(RECIPES[name])


@contextmanager
def only_decisions() -> Iterator[None]:
    """Have all recipes remember the features of each question, and leave out what a training only reports.

    Intervals and the quality on unseen documents are most of the cost of a training of 50, and decide nothing.
    """
    before = dict(RECIPES)
    training = "rlhf_loop.training.train"
    with ExitStack() as stack:
        stack.enter_context(single_threaded_blas())
        # To ask for one thread again and again takes longer than most of what is computed with it.
        for module in ("reward.classifier", "training.evaluation", "training.comparison"):
            stack.enter_context(mock.patch(f"rlhf_loop.{module}.single_threaded_blas", nullcontext))
        stack.enter_context(mock.patch(f"{training}.evaluate", partial(evaluate, draws=0)))
        stack.enter_context(mock.patch(f"{training}._by_documents", return_value=None))
        stack.enter_context(mock.patch(f"{training}._some_texts", return_value=[]))
        try:
            RECIPES.update({name: cast(Recipe, _known(name)) for name in before})
            yield
        finally:
            RECIPES.update(before)


@cache
def _priors(encoder: TextEncoder) -> Mapping[str, Prior]:
    return priors(sets_and_sample(encoder, recipes=[PassagesRecipe.name]))


@contextmanager
def taught_by_others(name: str, encoder: TextEncoder) -> Iterator[None]:
    """Shrink fits to a prior that has seen none of the set: what the other sets and the sample teach."""
    learnt = _priors(encoder)[name]

    def known(recipe: Recipe, _: str) -> Prior | None:
        return learnt if recipe.name == PassagesRecipe.name else None

    with mock.patch("rlhf_loop.reward.prior.prior_of", known):
        yield


@dataclass(frozen=True, slots=True)
class Job:
    """Trainings that are wanted: on so many ratings, with so many bad ones by lot, or models that come after others."""

    kind: Literal["ratings", "bad of 200 by lot", "ratings, and then more"]
    size: int
    count: int


def trainings(pool: Pool, job: Job, seeds: Iterable[int]) -> Trials:
    """Train with each of these seeds; draws that do not allow a training are drawn again."""
    started, trials, found = process_time(), [], []
    lot = job.kind == "bad of 200 by lot"
    for seed in seeds:
        rng = np.random.default_rng((seed, job.size, 2 if job.kind == "ratings, and then more" else int(lot)))
        while True:
            places = pool.shuffled(rng)
            try:
                if job.kind == "ratings, and then more":
                    found += pool.successions(places, job.size, MORE)
                else:
                    places, rated = pool.first(places, LOT_SIZE if lot else job.size)
                    ratings = [pool.examples[at].rating if of else None for at, of in zip(places, rated, strict=True)]
                    if lot:
                        bad = set(rng.choice(np.flatnonzero(rated), job.size, replace=False).tolist())
                        ratings = [of and (1 if at in bad else 5) for at, of in enumerate(ratings)]
                    trials.append(pool.trial(places, ratings))
            except NotEnoughDataError:
                continue
            break
    return Trials(pool.name, job.size, lot, trials, process_time() - started, found)


@cache
def _code() -> bytes:
    package = Path(rlhf_loop.__file__).parent
    return b"".join(file.read_bytes() for pattern in _SOURCES for file in sorted(package.glob(pattern)))


def recorded(name: str, jobs: Sequence[Job], encoder: TextEncoder) -> Iterator[Trials]:
    """Yield the trainings of a set for each job; those that are not recorded are made now, and kept block by block."""
    path = SETS[name]
    if not path.exists():
        sys.exit(f"The rated set {name} is not at {path}. Leave it out: --sets with the names of the others.")
    key = hashlib.sha256(_code() + path.read_bytes() + encoder.id.encode()).hexdigest()[:12]
    pool: Pool | None = None
    _CACHE.mkdir(parents=True, exist_ok=True)
    for job in jobs:
        parts: list[Trials] = []
        block = _SHORT_BLOCK if job.kind == "ratings, and then more" else _BLOCK
        for start in range(0, job.count, block):
            seeds = range(start, min(job.count, start + block))
            kind = job.kind.replace(" ", "-").replace(",", "")
            file = _CACHE / f"{name}-{job.size}-{kind}-{seeds.start}-{seeds.stop}-{key}.pkl"
            if not file.exists():
                with taught_by_others(name, encoder), only_decisions():
                    pool = pool or Pool(name, path, encoder)
                    made = trainings(pool, job, seeds)
                write_whole(file, pickle.dumps(made))
                say(f"{name}, {job.size} {job.kind}: {seeds.start} to {seeds.stop} in {made.seconds:.0f} s of CPU")
            with file.open("rb") as content:
                parts.append(pickle.load(content))
        yield replace(
            parts[0],
            trials=[each for part in parts for each in part.trials],
            successions=[each for part in parts for each in part.successions],
            seconds=sum(part.seconds for part in parts),
        )


# --- The document ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Judged:
    """A model's worth beside an incoming order, and whether it went live by a rule."""

    gain: float
    live: bool


Rule = Callable[[Predictions], bool]


def judged(trials: Iterable[Trial], rule: Rule, *, order: str = "real", before: bool = False) -> list[Judged]:
    """Let a rule decide on each training, beside an incoming order."""
    outcomes = [trial.before if before else trial.now for trial in trials]
    return [Judged(of.gain[order], rule(replace(of.said, rank=of.ranks[order]))) for of in outcomes]


def live_of_better(found: Sequence[Judged], *, by: float = BETTER) -> str:
    """Return which share of the models that are better by that much went live."""
    better = [each.live for each in found if each.gain >= by]
    return f"{np.mean(better):.0%} of {len(better)}" if better else "none better"


def worse_of_live(found: Sequence[Judged]) -> str:
    """Return which share of the models that went live is worse by more than `WORSE`."""
    live = [each.gain < WORSE for each in found if each.live]
    return f"{np.mean(live):.1%} of {len(live)}" if live else "none live"


def document(found: Sequence[Trials], encoder: str) -> str:
    """Return docs/GATE.md."""
    rated, lots = ([each for each in found if each.lot == lot and each.trials] for lot in (False, True))
    counts = " or ".join(f"{count} trainings a line" for count in sorted({len(each.trials) for each in rated}))
    sections = [_introduction(counts, encoder)]
    for order, title in _ORDERS.items():
        lines, every = [], []
        for of in rated:
            both = [judged(of.trials, live_before, order=order, before=True), judged(of.trials, live_now, order=order)]
            every.append(both)
            lines.append([of.name, str(of.size), *_columns(*both)])
        for size in sorted({of.size for of in rated}):
            parts = [both for of, both in zip(rated, every, strict=True) if of.size == size]
            lines.append(
                ["all", str(size), *_columns(*([each for part in parts for each in part[at]] for at in (0, 1)))]
            )
        lines.append(["**all**", "", *_columns(*([each for part in every for each in part[at]] for at in (0, 1)))])
        sections.append(f"{title}\n\n{table(_HEADER, lines)}")
    sections.append(_lots(lots))
    sections.append(_choice(rated, lots))
    sections.append(_successions(found))
    seconds = sum(of.seconds for of in found if of.trials) / max(1, sum(len(of.trials) for of in found))
    sections.append(f"A training with its measuring took {seconds:.2f} s of one core on {machine()}.")
    return "\n\n".join(sections) + "\n"


_HEADER = (
    "data",
    "ratings",
    "P@1, model less incoming",
    "live of those better by 5 points: before",
    "now",
    "worse by 2 points, of the live: before",
    "now",
)
_ORDERS = {
    "real": "## Beside the real incoming order",
    "good": f"""## Beside a good incoming order

The same trainings, but with an incoming order that is made up: the ratings with noise, so that P@1 is
{MADE_UP["good"]:.0%} of the way from the real order to the best possible. Most systems have no such order; but where
relevance does not decide, a model is no better than this, and the gate has to see it.""",
    "very good": f"""## Beside a very good incoming order

{MADE_UP["very good"]:.0%} of the way: most models are worse than this order.""",
}


def _columns(before: Sequence[Judged], now: Sequence[Judged]) -> list[str]:
    gains = [100 * each.gain for each in now]
    return [
        f"{np.mean(gains):+.1f} ({min(gains):+.1f} to {max(gains):+.1f})",
        *(live_of_better(each) for each in (before, now)),
        *(worse_of_live(each) for each in (before, now)),
    ]


def _introduction(counts: str, encoder: str) -> str:
    return f"""# The gate against the truth

By `python -m tools.gate`, last run {today()}, with vectors of {encoder}. For each line
questions of a rated set are drawn at random with all their answers, until so many answers are rated ({counts}; `python
-m tools.gate` alone makes {TRAININGS}, and {LOTS} with labels by lot); a model is trained as `rlhf-loop train` does,
the gate decides as for a first model, and the model is measured on all questions that were not drawn and do not ask for
the same as a drawn one. The sets are MEDIQA 2019 task 3, FeedbackQA and SelQA ([Results](RESULTS.md)), and lie beside
the checkout; the prior of a fit is learnt from the other two and the sample.

"Before" is the rule that was used until this page was written: P@1 higher than that of the incoming order in nine of
ten draws of a bootstrap, and on fewer than ten questions AUC better than chance; with the recipe of the best P@1.
"Now" is the rule in [Improving](RLHF_IMPROVING.md)."""


def _lots(lots: Sequence[Trials]) -> str:
    lines = []
    for of in lots:
        cells = []
        for unknown in (False, True):
            for before in (True, False):
                rule = live_before if before else live_now
                outcomes = [trial.before if before else trial.now for trial in of.trials]
                said = [each.said for each in outcomes]
                if unknown:
                    said = [replace(each, rank=np.full(len(each.rank), np.nan)) for each in said]
                cells.append(f"{sum(map(rule, said))} of {len(said)}")
        lines.append([of.name, str(of.size), *cells])
    header = ("data", "bad of 200", "live, ranks known: before", "now", "live, ranks unknown: before", "now")
    return f"""## Labels by lot

{LOT_SIZE} answers of which a few, drawn by lot, are called bad. There is nothing to learn, and nothing should go live.

{table(header, lines)}"""


def _choice(rated: Sequence[Trials], lots: Sequence[Trials]) -> str:
    lines = []
    for label, every in (("ratings", rated), ("labels by lot", lots)):
        trials = [trial for of in every for trial in of.trials]
        taken = [
            sum(each.recipe != "passages" for each in outcomes)
            for outcomes in ([trial.before for trial in trials], [trial.now for trial in trials])
        ]
        changed = [
            100 * (trial.now.gain["real"] - trial.before.gain["real"])
            for trial in trials
            if trial.now.recipe != trial.before.recipe
        ]
        lines.append([label, str(len(trials)), *map(str, taken), f"{np.mean(changed):+.1f}" if changed else "-"])
    header = ("", "trainings", "another recipe than `passages`: before", "now", "P@1 where the choice changed, points")
    return f"## The choice of a recipe\n\n{table(header, lines)}"


_KINDS: Mapping[str, Callable[[Succession], bool]] = {
    "the same recipe": lambda of: of.live == of.new,
    "`joint` by force": lambda of: of.new == "joint" != of.live,
    "another recipe beside `joint`": lambda of: of.live == "joint" != of.new,
    "`passages` and `quality`, one beside the other": lambda of: "joint" not in (of.live, of.new) and of.live != of.new,
}


def _successions(found: Sequence[Trials]) -> str:
    every = [each for of in found for each in of.successions]
    lines = []
    for kind, belongs in _KINDS.items():
        for more in (MORE, 0):
            chosen = [each for each in every if belongs(each) and each.more == more]
            if not chosen:
                continue
            gains = [100 * each.gain for each in chosen]
            low, high = np.quantile(gains, [0.1, 0.9])
            rules = [[Judged(each.gain, rule(each)) for each in chosen] for rule in (replaces_before, replaces_now)]
            lines.append(
                [
                    kind,
                    f"{more} more",
                    str(len(chosen)),
                    f"{np.mean(gains):+.1f} ({low:+.1f} to {high:+.1f})",
                    *(f"{np.mean([each.live for each in of]):.0%}" for of in rules),
                    *(live_of_better(of, by=-WORSE) for of in rules),
                    *(worse_of_live(of) for of in rules),
                ]
            )
    counts = ", ".join(str(of.size) for of in found if of.successions and of.name == found[0].name)
    header = (
        "new model",
        "ratings",
        "pairs",
        "P@1, new less live",
        "live: before",
        "now",
        "live of those better by 2 points: before",
        "now",
        "worse by 2 points, of the live: before",
        "now",
    )
    return f"""## Beside a live model

A model is trained with each recipe on {counts} ratings, and then others with {MORE} more ratings, or with the same
ones; the truth is P@1 on the questions that neither has. In brackets the middle 80% of the pairs. Only the rule about
the live model decides here; that about the incoming order comes on top. "Before" only the questions counted that
neither was fitted on, and of fewer than ten of them AUC decided.

{table(header, lines)}"""


def main(arguments: Sequence[str] | None = None) -> Path:
    """Simulate, write, and return the document's path."""
    parser = argparse.ArgumentParser(prog="python -m tools.gate", description="Hold the gate against the truth.")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES, help="rated answers")
    parser.add_argument("--trainings", type=int, default=TRAININGS, help="of each set and size")
    parser.add_argument("--lots", type=int, default=LOTS, help="trainings with labels by lot, of each set and number")
    parser.add_argument("--successions", type=int, default=SUCCESSIONS, help="of models that come after others")
    parser.add_argument("--out", type=Path, default=DOCS, help="folder for GATE.md")
    options = parser.parse_args(arguments)
    encoder = load_encoder(Settings.from_env())
    jobs = [Job("ratings", size, options.trainings) for size in options.sizes]
    jobs += [Job("bad of 200 by lot", bad, options.lots) for bad in LOT_BAD if options.lots]
    jobs += [Job("ratings, and then more", size, options.successions) for size in SUCCESSION_SIZES]
    found = [each for name in options.sets for each in recorded(name, jobs, encoder)]
    path: Path = options.out / "GATE.md"
    path.write_text(document(found, encoder.id), encoding="utf-8")
    say(f"written to {path}")
    return path


if __name__ == "__main__":
    main()
