"""The cost of serving: time, memory and threads of `rerank_candidates`, on texts made of the sample's sentences."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import log
from pathlib import Path
from random import Random
from statistics import linear_regression, median, quantiles
from time import perf_counter
from typing import Any

from tools.report import megabytes, table

SIZES = (1, 3, 10, 30, 100, 300, 1000)
THREADS = (1, 2, 4, 8)
#: Known answers; a request takes some of them.
_POOL = 1000
_CANDIDATES = 100
_REQUESTS = 500
#: Requests of one run with a number of threads, and how often all numbers take their turn.
_THREAD_REQUESTS = 100
_ROUNDS = 9
_SERVED = 1000
#: New answers a request, requests, and processes that measure them.
_NEW, _NEW_REQUESTS, _NEW_PROCESSES = 20, 5, 3
_TUNED = "tuned"
#: Requests a size, and in how many processes of their own.
_SIZE_REQUESTS = 30
_SIZE_PROCESSES = 3
#: Below this the fixed part of a request hides how the work grows.
_FROM = 100
_SENTENCES = (1, 2, 3, 4, 6, 8, 12)
#: Of answers that come while the memory is measured: from one sentence to several pages.
_NEW_SENTENCES = (1, 3, 10, 30, 150)
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """Requests with 100 known candidates each: milliseconds of a request, and candidates a second."""

    requests: int
    words: float
    p50: float
    p99: float
    candidates_per_second: float


@dataclass(frozen=True, slots=True)
class Size:
    """A number of known candidates: median milliseconds of a request, and the peak memory of its process in MB."""

    candidates: int
    milliseconds: float
    megabytes: float


@dataclass(frozen=True, slots=True)
class Threads:
    """Requests a second with that many threads; median and least ratio to one thread in the same round."""

    threads: int
    requests_per_second: float
    ratio: float
    least: float


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory of a serving process at some moment, in MB: its own, and mapped from files."""

    moment: str
    resident: float
    own: float
    files: float
    peak: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """All of them, with the libraries that a serving process has loaded."""

    known: Known
    asked_anew: Known
    sizes: Sequence[Size]
    threads: Sequence[Threads]
    memory: Sequence[Memory]
    exact_memory: Memory
    libraries: Sequence[str]


def measure() -> Serving:
    """Train a model on the sample, make answers known, and measure each part in processes of its own."""
    with tempfile.TemporaryDirectory(prefix="rlhf-serving-") as name:
        folder = Path(name)
        _process("prepare", folder)
        served = _process("memory", folder)
        exact = _process("memory", folder, precision="fp32")
        return Serving(
            known=Known(**_process("known", folder)),
            asked_anew=Known(**_process("asked_anew", folder)),
            sizes=_sizes(folder),
            threads=[Threads(**each) for each in _process("threads", folder)],
            memory=[Memory(**each) for each in served["memory"]],
            exact_memory=Memory(**exact["memory"][-1]),
            libraries=served["libraries"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What a recipe costs: milliseconds of a new answer of one passage, known ones, and resident MB after new ones."""

    recipe: str
    precision: str
    new: float
    known: Known
    resident: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """A training by recipe `transformer`, from ratings to model: its seconds, and the peak memory of its process in MB.

    What serves differs from what torch says of the `held` answers by `torch` at most.
    """

    ratings: int
    seconds: float
    megabytes: float
    held: int
    torch: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounding:
    """What 8 bits change of a model with tuned layers, on the answers to the sample's questions."""

    answers: int
    mean: float
    largest: float
    auc: Mapping[str, float]
    same_order: int
    same_first: int
    questions: int


@dataclass(frozen=True, slots=True)
class Recipes:
    """Recipe `transformer` beside `passages`: what it costs to train and to serve, and what 8 bits change of it."""

    tuned: list[Tuned]
    served: list[Served]
    rounding: Rounding


def measure_recipes() -> Recipes:
    """Train by recipe `transformer`; measure its model and one of `passages` in turn, in processes of their own."""
    from tools.results.data import RATINGS

    with tempfile.TemporaryDirectory(prefix="rlhf-recipes-") as name:
        folder = Path(name)
        _process("prepare", folder)
        tuned = [Tuned(**_process("tune", folder, 0, precision="fp32"))]
        found = []
        for precision in ("fp32", "int8"):
            places = {"passages": folder, "transformer": folder / _TUNED}
            new: dict[str, list[dict[str, float]]] = {recipe: [] for recipe in places}
            for _ in range(_NEW_PROCESSES):
                for recipe, place in places.items():
                    new[recipe].append(_process("new", place, precision=precision))
            for recipe, place in places.items():
                _process("known", place, precision=precision)  # the first one fills the cache of this precision
                known = Known(**_process("known", place, precision=precision))
                costs = {name: median(of[name] for of in new[recipe]) for name in ("new", "resident")}
                found.append(Served(recipe=recipe, precision=precision, known=known, **costs))
        scores = (_process("scores", folder / _TUNED, precision=of) for of in ("fp32", "int8"))
        changed = rounding(*scores)
    if RATINGS.exists():
        with tempfile.TemporaryDirectory(prefix="rlhf-tuning-") as name:
            tuned.append(Tuned(**_process("tune", Path(name), 1, precision="fp32")))
    return Recipes(tuned, found, changed)


def rounding(exact: Mapping[str, Any], rounded: Mapping[str, Any]) -> Rounding:
    """Compare scores and labels of each question."""
    from sklearn.metrics import roc_auc_score

    pairs = list(zip(exact["scores"], rounded["scores"], strict=True))
    changed = [abs(one - other) for both in pairs for one, other in zip(*both, strict=True)]
    orders = [[sorted(range(len(of)), key=lambda place: -of[place]) for of in both] for both in pairs]
    labels = [label for of in exact["labels"] for label in of]
    return Rounding(
        answers=len(changed),
        mean=sum(changed) / len(changed),
        largest=max(changed),
        auc={
            name: float(roc_auc_score(labels, [score for of in found["scores"] for score in of]))
            for name, found in (("fp32", exact), ("int8", rounded))
        },
        same_order=sum(one == other for one, other in orders),
        same_first=sum(one[0] == other[0] for one, other in orders),
        questions=len(pairs),
    )


def sections_of_recipes(results: Recipes) -> list[str]:
    """Return the sections of the document."""
    threads = os.environ.get("RLHF_ENCODER_THREADS") or "all"
    tuned = [[f"{of.ratings:,}", f"{of.seconds:,.0f}", f"{of.megabytes:,.0f}"] for of in results.tuned]
    last, of = results.tuned[-1], results.rounding
    rows = [
        [
            f"`{of.recipe}`",
            of.precision,
            f"{of.new:.1f}",
            f"{of.known.candidates_per_second:,.0f}",
            f"{of.known.p50:.1f}",
            f"{of.resident:.0f}",
        ]
        for of in results.served
    ]
    columns = ("recipe", "encoder", "ms a new answer", "known candidates a second", "p50, ms a request", "resident, MB")
    return [
        f"""## Training tuned layers

`train` by recipe `transformer`, without an adaptation, in 32 bits where the processor multiplies no 16-bit numbers;
threads: {threads}. The encoder's own vectors of the sample are known, those of other ratings are not. A process each.

{table(("ratings", "training, s", "peak memory, MB"), tuned)}

What serves, in 32 bits and without torch, scores the {last.held} held-out answers of the last training as torch does:
probabilities differ by {last.torch:.5f} at most.""",
        f"""## Tuned layers beside `passages`

`rerank_candidates` by a model of each recipe, both of the sample. New answers have one passage each and come {_NEW} a
request, to a known question; medians of {_NEW_PROCESSES} processes. Known ones are {_CANDIDATES} a request. Resident
memory is that of a process after its {_NEW_REQUESTS + 1} requests with new ones. Threads: {threads}.

{table(columns, rows)}""",
        f"""## Tuned layers in 8 bits

That model scores {of.answers} answers of the sample, in 32 bits and in 8, its encoder included. Scores differ by
{of.mean:.4f} on average and by {of.largest:.4f} at most; the AUC is {of.auc["fp32"]:.4f} and {of.auc["int8"]:.4f}. The
best answer is the same in {of.same_first} of {of.questions} questions, the whole order in {of.same_order}.""",
    ]


def section(result: Serving, *, note: str = "") -> str:
    """Return the sections of the document; the note goes to the known candidates."""
    known, last = result.known, result.memory[-1]
    exponents = (_exponent(result.sizes, "milliseconds"), _exponent(result.sizes, "megabytes"))
    sizes = [[f"{each.candidates:,}", f"{each.milliseconds:.2f}", f"{each.megabytes:.0f}"] for each in result.sizes]
    threads = [
        [str(each.threads), f"{each.requests_per_second:,.0f}", f"{each.ratio:.2f}", f"{each.least:.2f}"]
        for each in result.threads
    ]
    memory = [
        [each.moment, f"{each.resident:.0f}", f"{each.own:.0f}", f"{each.files:.0f}", f"{each.peak:.0f}"]
        for each in result.memory
    ]
    return f"""## Known candidates

`rerank_candidates` with {_CANDIDATES} candidates drawn anew for each of {known.requests} requests from {_POOL:,} known
answers of {known.words:.0f} words on average; one process, one thread, the vectors in the vector cache. A question that
is new each time is embedded in each request, with its sentences and words.{note}

{
        table(
            ("question", "candidates a second", "p50, ms a request", "p99, ms a request"),
            [
                [name, f"{of.candidates_per_second:,.0f}", f"{of.p50:.1f}", f"{of.p99:.1f}"]
                for name, of in (("known", known), ("new each time", result.asked_anew))
            ],
        )
    }

## One to a thousand candidates

Median time of a request with known candidates, and the peak memory of a process that serves such requests only; median
of {_SIZE_PROCESSES} processes. From {_FROM} candidates on, time grows with their number to the power of
{exponents[0]:.2f} and peak memory to the power of {exponents[1]:.2f} (slope in the log-log plot; 1 is linear).

{table(("candidates", "ms a request", "peak memory, MB"), sizes)}

![One to a thousand candidates](images/candidates.png)

## Threads

Threads that share one process and call `rerank_candidates` with {_CANDIDATES} known candidates each, on
{os.cpu_count()} cores. In each of {_ROUNDS} rounds every number of threads has its turn, upwards and downwards
alternately; the ratio is the median over the rounds.

{table(("threads", "requests a second", "ratio to one thread: median", "least"), threads)}

## Memory of a serving process

Resident memory of a new process that imports `rlhf_reranker`, loads model and encoder, and serves {_SERVED:,} requests:
1 to 50 candidates each, most of them known, some new, from one sentence to several pages. After them it holds
{last.resident:.0f} MB, and {result.exact_memory.resident:.0f} MB where the encoder runs at fp32. "Files" is what is
mapped from files, weights and libraries, and shared with other processes.

{table(("", "resident, MB", "own, MB", "files, MB", "peak so far, MB"), memory)}

Libraries it has loaded: {", ".join(result.libraries)}."""


def plot(path: Path, result: Serving) -> None:
    """Draw time and peak memory against the number of candidates, both axes logarithmic."""
    # Here and not above: the processes that are measured would load it, too.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    count = [each.candidates for each in result.sizes]
    panels = (("milliseconds", "ms a request", "#1b6ca8"), ("megabytes", "peak memory, MB", "#c8553d"))
    for axes, (name, label, colour) in zip(figure.subplots(1, 2), panels, strict=True):
        values = [getattr(each, name) for each in result.sizes]
        slope = f"slope {_exponent(result.sizes, name):.2f} from {_FROM} on"
        axes.plot(count, values, marker="o", color=colour, label=slope)
        for x, value in zip(count, values, strict=True):
            axes.annotate(f"{value:.3g}", (x, value), (0, 7), textcoords="offset points", ha="center", fontsize=8)
        axes.set(xscale="log", yscale="log", xlabel="known candidates", ylabel=label)
        axes.set_ylim(min(values) / 2, max(values) * 3)
        axes.grid(alpha=0.3)
        axes.legend(loc="upper left")
    figure.savefig(path, dpi=150)


def _sizes(folder: Path) -> list[Size]:
    runs: dict[int, list[dict[str, float]]] = {}
    for _ in range(_SIZE_PROCESSES):
        for size in SIZES:
            runs.setdefault(size, []).append(_process("size", folder, size))
    return [
        Size(size, median(run["milliseconds"] for run in of_size), median(run["megabytes"] for run in of_size))
        for size, of_size in runs.items()
    ]


def _process(step: str, folder: Path, *arguments: int, precision: str | None = None) -> Any:
    """Run a step in a process of its own, and return what it says."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RLHF_")}
    environment |= {"RLHF_MODEL_PATH": str(folder / "reward_model.joblib"), "RLHF_CACHE_DIR": str(folder)}
    # The runtime and the weights stay those that the caller chose.
    environment |= {name: value for name, value in os.environ.items() if name.startswith("RLHF_ENCODER_")}
    environment |= {"RLHF_ENCODER_PRECISION": precision} if precision else {}
    command = [sys.executable, "-m", "tools.bench.serving", step, str(folder), *map(str, arguments)]
    done = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"The step {step!r} failed:\n{done.stderr}")
    return json.loads(done.stdout)


# --- Run in processes of their own -----------------------------------------------------------------------------------


def _prepare(folder: Path) -> None:
    """Train a model, and warm the vector cache with the answers and questions of all steps."""
    from rlhf_loop import sample
    from rlhf_loop.cli.warming import warm
    from rlhf_loop.config import Settings
    from rlhf_loop.exchange.transfer import import_ratings
    from rlhf_loop.registry.training_run import run_training
    from rlhf_loop.store.engine import open_database

    settings, engine = Settings.from_env(), open_database(f"sqlite:///{folder / 'rlhf.db'}")
    import_ratings(engine, sample.RATINGS_FILE)
    run_training(engine, settings, recipe="passages")
    (folder / "answers.txt").write_text("\n".join(_answers()), encoding="utf-8")
    warm(folder / "answers.txt", settings)


def _tune(folder: Path, real: int) -> dict[str, float]:
    """Train by recipe `transformer`; the model of the sample gets a folder of its own with a copy of the cache."""
    import shutil

    import numpy as np

    from rlhf_loop.config import Settings
    from rlhf_loop.encoders import load_encoder
    from rlhf_loop.reward.model_file import save
    from rlhf_loop.sample import RATINGS_FILE
    from rlhf_loop.training.comparison import predict
    from rlhf_loop.training.train import train
    from rlhf_loop.training.transformer import Tuning
    from tools.results.cost import examples_of
    from tools.results.data import read_examples

    settings = Settings.from_env()
    encoder, examples = load_encoder(settings), read_examples()[0] if real else examples_of(RATINGS_FILE)
    started = perf_counter()
    result = train(examples, encoder=encoder, recipe="transformer", tuning=Tuning(threads=settings.encoder_threads))
    cost = {"ratings": len(result.data.row), "seconds": perf_counter() - started, "megabytes": megabytes("VmHWM")}
    held = np.isfinite(result.probability) & ~result.data.seen(result.fitted)
    served = predict(result.model, result.data, held, encoder)
    if not real:
        (folder / _TUNED).mkdir()
        save(result.model, folder / _TUNED / "reward_model.joblib")
        for name in ("vectors.db", "encoder"):
            place = folder / name
            (shutil.copytree if place.is_dir() else shutil.copy)(place, folder / _TUNED / name)
    return {**cost, "held": int(held.sum()), "torch": float(np.abs(served - result.probability)[held].max())}


def _scores(folder: Path) -> dict[str, list[list[float]]]:
    """Score the answers to each question of the sample that has several."""
    from rlhf_loop.sample import RATINGS_FILE
    from rlhf_reranker import rerank_candidates

    rated: dict[str, dict[str, float]] = {}
    for row in map(json.loads, RATINGS_FILE.read_text(encoding="utf-8").splitlines()):
        rated.setdefault(row["user_prompt"], {})[row["ai_response"]] = float(row["rating"] >= 4)
    scores, labels = [], []
    for query, answers in rated.items():
        found = {of["text"]: of["score"] for of in rerank_candidates(query, list(answers))}
        scores.append([found[answer] for answer in answers])
        labels.append(list(answers.values()))
    return {"scores": scores, "labels": labels}


def _new(folder: Path) -> dict[str, float]:
    """Time requests whose answers are all new; no two processes have the same ones."""
    from rlhf_reranker import rerank_candidates

    random, (questions, sentences) = Random(os.getpid()), _sample()
    seconds = []
    for number in range(_NEW_REQUESTS + 1):
        answers = [" ".join(" ".join(random.choices(sentences, k=8)).split()[:68]) for _ in range(_NEW)]
        started = perf_counter()
        rerank_candidates(questions[0], answers)
        seconds += [perf_counter() - started] if number else []
    return {"new": median(seconds) / _NEW * 1e3, "resident": megabytes("VmRSS")}


def _known(folder: Path) -> dict[str, float]:
    return _figures(_requests(_REQUESTS, _CANDIDATES, seed=1))


def _figures(requests: Sequence[tuple[str, list[str]]]) -> dict[str, float]:
    answers = _answers()
    seconds = _timed(requests)
    return {
        "requests": len(seconds),
        "words": sum(len(answer.split()) for answer in answers) / len(answers),
        "p50": median(seconds) * 1e3,
        "p99": quantiles(seconds, n=100)[98] * 1e3,
        "candidates_per_second": _CANDIDATES * len(seconds) / sum(seconds),
    }


def _asked_anew(folder: Path) -> dict[str, float]:
    requests = _requests(_REQUESTS, _CANDIDATES, seed=4)
    return _figures([(f"{query} This is number {number}.", given) for number, (query, given) in enumerate(requests)])


def _size(folder: Path, candidates: int) -> dict[str, float]:
    seconds = _timed(_requests(_SIZE_REQUESTS, candidates, seed=2))
    return {"milliseconds": median(seconds) * 1e3, "megabytes": megabytes("VmHWM")}


def _threads(folder: Path) -> list[dict[str, float]]:
    from rlhf_reranker import rerank_candidates

    rates: dict[int, list[float]] = {}
    # Threads that live as long as those of a server: a new one first has to get its memory.
    pools = {threads: ThreadPoolExecutor(threads) for threads in THREADS}
    for seed in range(_ROUNDS + 1):
        requests = _requests(_THREAD_REQUESTS, _CANDIDATES, seed=seed)
        for threads in THREADS if seed % 2 else reversed(THREADS):
            started = perf_counter()
            list(pools[threads].map(lambda request: rerank_candidates(*request), requests))
            if seed:  # the first round only warms up
                rates.setdefault(threads, []).append(len(requests) / (perf_counter() - started))
    return [
        {
            "threads": threads,
            "requests_per_second": median(of_threads),
            "ratio": median(rate / one for rate, one in zip(of_threads, rates[1], strict=True)),
            "least": min(rate / one for rate, one in zip(of_threads, rates[1], strict=True)),
        }
        for threads, of_threads in sorted(rates.items())
    ]


def _memory(folder: Path) -> dict[str, Any]:
    # The texts come first: what they take is no part of a serving process, and is taken off.
    before = megabytes("RssAnon")
    requests = _requests(_SERVED, 50, seed=3, varied=True)
    texts = megabytes("RssAnon") - before
    moments = []

    def note(moment: str) -> None:
        resident, own, files, peak = (megabytes(name) for name in ("VmRSS", "RssAnon", "RssFile", "VmHWM"))
        values = (resident - texts, own - texts, files, peak - texts)
        moments.append({"moment": moment, **dict(zip(("resident", "own", "files", "peak"), values, strict=True))})

    from rlhf_loop.ranking import default_ranker
    from rlhf_reranker import rerank_candidates

    note("after import")
    assert default_ranker().model_version
    note("after loading")
    rerank_candidates(*requests[0])
    note("after the first request")
    for number, request in enumerate(requests, start=1):
        rerank_candidates(*request)
        if number in (_SERVED // 10, _SERVED):
            note(f"after {number:,} requests")
    loaded = {name.partition(".")[0] for name in sys.modules if not name.startswith("_")}
    return {"memory": moments, "libraries": sorted(loaded - set(sys.stdlib_module_names) - {"rlhf_reranker", "tools"})}


def _timed(requests: Sequence[tuple[str, list[str]]]) -> list[float]:
    from rlhf_reranker import rerank_candidates

    for request in requests[:10]:
        rerank_candidates(*request)
    seconds = []
    for request in requests:
        started = perf_counter()
        rerank_candidates(*request)
        seconds.append(perf_counter() - started)
    return seconds


def _requests(count: int, candidates: int, *, seed: int, varied: bool = False) -> list[tuple[str, list[str]]]:
    """Return questions of the sample with candidates; `varied` ones have 1 to `candidates`, one in four a new one."""
    random, answers, (questions, sentences) = Random(seed), _answers(), _sample()
    requests = []
    for _ in range(count):
        chosen = random.sample(answers, random.randint(1, candidates) if varied else candidates)
        if varied and random.random() < 0.25:
            chosen[0] = " ".join(random.choices(sentences, k=random.choice(_NEW_SENTENCES)))
        requests.append((random.choice(questions), chosen))
    return requests


def _answers() -> list[str]:
    random, (_, sentences) = Random(0), _sample()
    return [" ".join(random.choices(sentences, k=random.choice(_SENTENCES))) for _ in range(_POOL)]


def _sample() -> tuple[list[str], list[str]]:
    """Return the questions of the sample, and the sentences of its answers."""
    from rlhf_loop.sample import RATINGS_FILE

    rows = [json.loads(line) for line in RATINGS_FILE.read_text(encoding="utf-8").splitlines()]
    sentences = [part for row in rows for part in re.split(r"(?<=[.?!])\s+", row["ai_response"])]
    return sorted({row["user_prompt"] for row in rows}), sentences


def _exponent(sizes: Sequence[Size], name: str) -> float:
    large = [each for each in sizes if each.candidates >= _FROM]
    return linear_regression(*([log(getattr(each, field)) for each in large] for field in ("candidates", name))).slope


_STEPS: dict[str, Callable[..., Any]] = {
    step.__name__.removeprefix("_"): step
    for step in (_prepare, _tune, _scores, _new, _known, _asked_anew, _size, _threads, _memory)
}

if __name__ == "__main__":
    sys.stdout.write(json.dumps(_STEPS[sys.argv[1]](Path(sys.argv[2]), *map(int, sys.argv[3:]))))
