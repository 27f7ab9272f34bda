"""New text: our encoder beside what a user would otherwise pick, all in one run."""

from __future__ import annotations

import importlib.util
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from rlhf_loop import sample
from rlhf_loop.config import Settings
from rlhf_loop.domain import Example
from rlhf_loop.encoders import Shape, TextEncoder, Vectors, choose
from rlhf_loop.encoders.onnx_runtime import OnnxRuntime
from rlhf_loop.encoders.runtime import abilities
from rlhf_loop.encoders.tokenizer import Batcher, load_tokenizer
from rlhf_loop.encoders.vector_cache import VectorCache
from rlhf_loop.encoders.weights import find_model_folder
from rlhf_loop.reward import RewardClassifier, recipe_named
from rlhf_loop.reward.lexical import sentences
from rlhf_loop.reward.splitting import folds
from rlhf_loop.training.data import TrainingSet, assemble
from rlhf_loop.training.fit import read_features, rows_for
from rlhf_loop.training.metrics import auc, bootstrap_weights
from tools.bench.contenders import CONTENDERS
from tools.report import say, table
from tools.results.data import RATINGS, read_examples

LENGTHS = (30, 115, 209)
#: About a passage of an answer.
COMPARED_LENGTH = 115
ROUNDS = 7
BATCH = 64
SINGLE = 20
REFERENCE = "st-fp32"
DEFAULT = "ours-int8"
BATCH_SIZES = (128, 256, 512, 1024, 2048, 4096)
#: Texts whose vectors are compared: parts of real answers where those are at hand, else of the sample.
_COMPARED = 100
_RECIPE = "passages"
#: Threads of the contender before may still spin, waiting for work.
_PAUSE_S = 0.2


@dataclass(slots=True)
class Result:
    """The measurements of one contender; `skipped` says why there are none."""

    title: str
    skipped: str = ""
    seconds_import: float = np.nan
    seconds_load: float = np.nan
    versions: Mapping[str, str] = field(default_factory=dict)
    #: Milliseconds a text: of each round for a batch, of each text for single ones; by length.
    batch: dict[int, list[float]] = field(default_factory=dict)
    single: dict[int, list[float]] = field(default_factory=dict)
    peak: float = np.nan
    cosine: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    auc: float = np.nan
    auc_of_fp32_model: float = np.nan


def measure() -> dict[str, Result]:
    """Run all contenders, round by round, each in turn."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        results, processes = _start(stack, folder)
        _rounds(results, processes)
        _compare(results, processes, folder)
        _reward(results, processes, folder)
    return results


class _Process:
    """A contender at work."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def answer(self) -> dict[str, Any]:
        """Return the next answer."""
        line = _stream(self._process.stdout).readline()
        if not line:
            raise RuntimeError(f"A contender ended with exit code {self._process.wait()}; its output is above.")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, texts: Sequence[str], *, single: bool = False, vectors: Path | None = None) -> dict[str, Any]:
        """Have texts embedded, and say how long it took."""
        request = {"texts": list(texts), "single": single, "vectors": vectors and str(vectors)}
        _stream(self._process.stdin).write(json.dumps(request) + "\n")
        _stream(self._process.stdin).flush()
        return self.answer()


def _stream(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def _start(stack: ExitStack, folder: Path) -> tuple[dict[str, Result], dict[str, _Process]]:
    results, processes = {}, {}
    for name, contender in CONTENDERS.items():
        results[name] = result = Result(contender.title)
        missing = [package for package in contender.packages if not _installed(package)]
        if missing:
            result.skipped = f"{' and '.join(missing)} not installed; the extra [bench] brings it"
        elif contender.ability and contender.ability not in abilities():
            result.skipped = f"the processor has no {contender.ability} products"
        else:
            say(f"loading {name}")
            command = [sys.executable, "-m", "tools.bench.contenders", name, str(folder)]
            # Twice: the first start writes graphs, as the first start on a machine does; the second is measured.
            tried = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False)
            if tried.returncode:
                result.skipped = f"it could not be loaded (exit code {tried.returncode}, see the output)"
                continue
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            processes[name] = _Process(stack.enter_context(process))
            answer = processes[name].answer()
            result.seconds_import, result.seconds_load = answer["seconds_import"], answer["seconds_load"]
            result.versions = answer["versions"]
    return results, processes


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package.replace("-", "_")) is not None


def _rounds(results: Mapping[str, Result], processes: Mapping[str, _Process]) -> None:
    texts = _texts(load_tokenizer(find_model_folder() / "tokenizer.json"), random.Random(0))
    for number in range(ROUNDS):
        say(f"round {number + 1} of {ROUNDS}")
        for length in LENGTHS:
            batch = [next(texts[length]) for _ in range(BATCH)]
            single = [next(texts[length]) for _ in range(SINGLE)]
            for name, process in processes.items():
                sleep(_PAUSE_S)
                (seconds,) = process.ask(batch)["seconds"]
                results[name].batch.setdefault(length, []).append(seconds / BATCH * 1e3)
                answer = process.ask(single, single=True)
                results[name].single.setdefault(length, []).extend(second * 1e3 for second in answer["seconds"])
                results[name].peak = answer["peak"]


def _texts(tokenizer: Tokenizer, random: random.Random) -> dict[int, Iterator[str]]:
    """Return endless new texts of each length in tokens, markers included, made of the sample's sentences."""
    parts = _sentences()

    def make(length: int) -> Iterator[str]:
        while True:
            text = ""
            while len(encoding := tokenizer.encode(text, add_special_tokens=False)) < length:
                text = f"{text} {random.choice(parts)}"
            yield text[: encoding.offsets[length - 3][1]].strip()

    return {length: make(length) for length in LENGTHS}


def _compare(results: Mapping[str, Result], processes: Mapping[str, _Process], folder: Path) -> None:
    """Compare the vectors of texts that no calibration has seen, where there are such, with the exact ones."""
    tokenizer = load_tokenizer(find_model_folder() / "tokenizer.json")
    for length in LENGTHS:
        texts = _cut(tokenizer, length)
        vectors = {}
        for name, process in processes.items():
            process.ask(texts, vectors=folder / "vectors.npy")
            vectors[name] = np.load(folder / "vectors.npy")
        exact = vectors["ours-fp32"]
        for name, found in vectors.items():
            results[name].cosine[length] = (found * exact).sum(axis=1)


def _cut(tokenizer: Tokenizer, length: int) -> list[str]:
    answers = _real_answers() or _joined(_sentences(), 12)
    found = []
    for answer in answers:
        encoding = tokenizer.encode(answer, add_special_tokens=False)
        if len(encoding) >= length:
            found.append(answer[: encoding.offsets[length - 3][1]])
        if len(found) == _COMPARED:
            break
    return found


def _joined(parts: Sequence[str], count: int) -> list[str]:
    return [" ".join(parts[start : start + count]) for start in range(0, len(parts), count)]


def _real_answers() -> list[str]:
    return [example.response for example in read_examples()[0]] if RATINGS.exists() else []


def _sentences() -> list[str]:
    rows = [json.loads(line) for line in sample.RATINGS_FILE.read_text(encoding="utf-8").splitlines()]
    return [sentence for row in rows for sentence in sentences(row["ai_response"])]


class _Asked:
    """A contender as a runtime of our encoder, so that our features can be computed from its vectors."""

    def __init__(self, name: str, process: _Process, folder: Path) -> None:
        self.id = f"bench/{name}"
        self.shape = Shape()
        self._process = process
        self._file = folder / f"{name}.npy"

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return one unit vector a text, shape (len(texts), 384)."""
        if not texts:
            return np.empty((0, 384), dtype=np.float32)
        self._process.ask(texts, vectors=self._file)
        vectors: Vectors = np.load(self._file)
        return vectors


def _reward(results: Mapping[str, Result], processes: Mapping[str, _Process], folder: Path) -> None:
    """Fit and judge the default recipe on each contender's vectors, five folds by question."""
    if not RATINGS.exists():
        return
    examples: Sequence[Example] = read_examples()[0]
    data = assemble(examples)
    rows = rows_for(recipe_named(_RECIPE), data)
    tokenizer = load_tokenizer(find_model_folder() / "tokenizer.json")
    features = {}
    for name, process in processes.items():
        if name == REFERENCE:
            continue  # the same vectors as ours to the sixth digit, and three minutes
        say(f"features of the real ratings from {name}")
        encoder = TextEncoder(_Asked(name, process, folder), tokenizer, VectorCache(folder / f"{name}.db"))
        features[name] = read_features(data, {_RECIPE: rows}, encoder).features[_RECIPE]
    for name, found in features.items():
        results[name].auc = _auc(data, found, found)
        results[name].auc_of_fp32_model = _auc(data, features["ours-fp32"], found)


def _auc(data: TrainingSet, fitted: NDArray[Any], judged: NDArray[Any]) -> float:
    """Return the AUC of models fitted on some features and judged on others, of questions that they have not seen."""
    recipe = recipe_named(_RECIPE)
    score = np.empty(len(data.label))
    fold = folds(data.prompt, data.label, count=5, seed=0)
    for part in np.unique(fold):
        out = fold == part
        classifier = RewardClassifier(penalty_c=recipe.penalty_c, scaled=recipe.scaled)
        classifier.fit(fitted[~out], data.label[~out], data.prompt[~out])
        score[out] = classifier.predict_proba(judged[out])[:, 1]
    none = bootstrap_weights(int(data.prompt.max()) + 1, draws=0, seed=0)
    return float(auc(data.prompt, data.label, score, none)[0])


@dataclass(frozen=True, slots=True)
class BatchSize:
    """Milliseconds a text of mixed length where batches hold at most that many tokens."""

    tokens: int
    milliseconds: float


def batch_sizes() -> list[BatchSize]:
    """Measure the default encoder with smaller and larger batches, in turn."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings()
        precision = choose(settings).precision
        runtime = OnnxRuntime(find_model_folder(), Path(folder), precision=precision)
        made = _texts(runtime.tokenizer, random.Random(1))
        seconds: dict[int, list[float]] = {tokens: [] for tokens in BATCH_SIZES}
        for _ in range(ROUNDS):
            texts = [next(made[length]) for length in LENGTHS for _ in range(BATCH // 2)]
            for tokens in BATCH_SIZES:
                runtime._batcher = Batcher(runtime.tokenizer, tokens=tokens)
                started = perf_counter()
                runtime.encode(texts)
                seconds[tokens].append((perf_counter() - started) / len(texts) * 1e3)
    return [BatchSize(tokens, median(values)) for tokens, values in seconds.items()]


def batch_section(sizes: Sequence[BatchSize]) -> str:
    """Return the table of batch sizes as Markdown."""
    rows = [(f"{size.tokens:,}", f"{size.milliseconds:.2f}") for size in sizes]
    return "\n\n".join(
        [
            "## Tokens of a batch",
            f"The default encoder on texts of {', '.join(map(str, LENGTHS))} tokens; medians of {ROUNDS} rounds.",
            table(("tokens of a batch", "ms a text"), rows),
        ]
    )


def section(results: Mapping[str, Result]) -> str:
    """Return the tables as Markdown."""
    done = {name: result for name, result in results.items() if not result.skipped}
    lines = [
        "## New text",
        f"Milliseconds a text, in batches of {BATCH} and one at a time, tokenisation included. Every round has new "
        "texts; the contenders take turns within each round, each in a process of its own with all cores. Medians of "
        f"{ROUNDS} rounds; the ratios are medians of the rounds' ratios to sentence-transformers fp32.",
    ]
    for length in LENGTHS:
        lines += [f"### About {length} tokens", _speed_table(done, length)]
    lines += ["### Cost and fidelity", _about_fidelity(), _fidelity_table(done)]
    skipped = [f"- {result.title}: {result.skipped}." for result in results.values() if result.skipped]
    if skipped:
        lines += ["Skipped:", "\n".join(skipped)]
    return "\n\n".join(lines)


def texts_per_second(results: Mapping[str, Result]) -> float | None:
    """Return how many texts of the compared length the reference embeds in a second; None if it is not there."""
    reference = results[REFERENCE]
    return None if reference.skipped else 1e3 / median(reference.batch[COMPARED_LENGTH])


def _speed_table(results: Mapping[str, Result], length: int) -> str:
    header = (
        "",
        "ms a text in batches",
        "texts/s",
        "times as fast",
        "one at a time: p50 ms",
        "p99 ms",
        "times as fast",
    )
    base = results.get(REFERENCE)
    rows = []
    for result in results.values():
        batch, single = np.array(result.batch[length]), np.array(result.single[length])
        rows.append(
            (
                result.title,
                f"{np.median(batch):.2f}",
                f"{1e3 / np.median(batch):,.0f}",
                _ratio(base.batch[length] if base else None, batch),
                f"{np.median(single):.2f}",
                f"{np.percentile(single, 99):.2f}",
                _ratio(base.single[length] if base else None, single),
            )
        )
    return table(header, rows)


def _ratio(base: Sequence[float] | None, values: NDArray[np.float64]) -> str:
    return f"{np.median(np.array(base) / values):.1f}" if base else "?"


def _about_fidelity() -> str:
    of = (
        "parts of real answers, which no calibration has seen" if RATINGS.exists() else "joined sentences of the sample"
    )
    told = (
        "The AUC is that of recipe `passages` on the real ratings beside the checkout, five folds by question; the "
        "last column scores each contender's vectors by models that were fitted on fp32 vectors, as when a model is "
        "trained on one machine and serves on another. That of sentence-transformers fp32 is left out: its vectors are "
        "those of our fp32, as the cosine shows."
        if RATINGS.exists()
        else "The AUC needs the real ratings beside the checkout, which are not here."
    )
    return (
        f"Cosine of each vector with the one of fp32, on {_COMPARED} texts of each length: {of}. Peak memory is that "
        f"of the process after all rounds. {told}"
    )


def _fidelity_table(results: Mapping[str, Result]) -> str:
    header = (
        "",
        "import s",
        "load s",
        "peak MB",
        "share of the first",
        "cosine mean",
        "cosine least",
        "AUC",
        "AUC, fitted on fp32",
    )
    rows = []
    for result in results.values():
        cosine = np.concatenate(list(result.cosine.values()))
        rows.append(
            (
                result.title,
                f"{result.seconds_import:.2f}",
                f"{result.seconds_load:.2f}",
                f"{result.peak:.0f}",
                f"{result.peak / next(iter(results.values())).peak:.2f}",
                f"{cosine.mean():.5f}",
                f"{cosine.min():.5f}",
                "" if np.isnan(result.auc) else f"{result.auc:.4f}",
                "" if np.isnan(result.auc_of_fp32_model) else f"{result.auc_of_fp32_model:.4f}",
            )
        )
    return table(header, rows)
