"""Growth of training with the number of rated answers: time and peak memory, each size in processes of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from tools.report import megabytes, table

SIZES = (1_000, 10_000, 100_000, 1_000_000)
#: Below this the start of the process, the same for all, hides how the work grows.
_FROM = 10_000
#: Room for the vectors of all sizes; with the default, the oldest would make room before they are read.
_CACHE_BYTES = 64 * 1024**3
_RATINGS = "ratings.jsonl"
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """The cost of a training on that many rated answers.

    `stages` has the seconds of its parts. `seconds` are those of the whole process, the start of Python included,
    `megabytes` its peak memory. The import of the ratings before it is measured alike. `sampled` is what the recipe
    `joint` was fitted and judged on, if not all.
    """

    answers: int
    questions: int
    stages: Mapping[str, float]
    seconds: float
    megabytes: float
    import_seconds: float
    import_megabytes: float
    recipe: str
    auc: float
    sampled: int | None

    @property
    def growing_seconds(self) -> float:
        """Without the parts of the yardstick."""
        return sum(seconds for name, seconds in self.stages.items() if not name.startswith("joint"))


def measure(sizes: Sequence[int] = SIZES) -> list[Growth]:
    """Synthesise ratings of each size, import them, fill the vector cache, and measure a training."""
    return [_measure(answers) for answers in sizes]


def section(results: Sequence[Growth]) -> str:
    """Return the section of the document."""
    from rlhf_loop.training.fit import MOST_ANSWERS

    header = ("rated answers", "questions", "import, s", "training, s", "peak memory, MB", "AUC", "recipe")
    lines = [
        [
            f"{each.answers:,}",
            f"{each.questions:,}",
            f"{each.import_seconds:.1f}",
            f"{each.seconds:.1f}",
            f"{each.megabytes:,.0f}",
            f"{each.auc:.3f}",
            f"`{each.recipe}`",
        ]
        for each in results
    ]
    stages = list(dict.fromkeys(name for each in results for name in each.stages))
    parts = [[f"{each.answers:,}", *(f"{each.stages.get(name, 0):.2f}" for name in stages)] for each in results]
    sampled = max((each.sampled or 0 for each in results), default=0)
    return f"""## Growth of training

`rlhf-loop train` with recipe `auto` on more and more rated answers, a process each: the start of Python, reading the
database, features of all recipes, cross-validation, fit, evaluation with intervals, the model file. `passages` is
fitted on everything. `quality` and `joint` have a random sample of the questions where there are more than
{MOST_ANSWERS["quality"]:,} and {MOST_ANSWERS["joint"]:,} answers (the smallest here: {sampled:,}), and the recipes are
compared on that sample.

The answers are synthesised from the sentences of the sample ratings, about ten to a question, all distinct; good ones
have more sentences of answers to their question. They are imported into a SQLite database, and all vectors are in the
vector cache before the clock starts: a text that is not there stops the measurement. These vectors are not real ones,
as embedding a million answers takes hours. They are the normalised mean of the real vectors of a text's words, put into
the real cache under the real keys. So times and memory are those of real ratings, and the AUC says only that there was
something to learn. The cache is given more room than `RLHF_CACHE_MAX_MB` has by default, as a user with a million
answers would have to.

{table(header, lines)}

Time grows with the size to the power of {_exponent(results, "seconds"):.2f}
({_exponent(results, "growing_seconds"):.2f} without the yardstick, whose cost stays the same from its sample on), peak
memory to the power of {_exponent(results, "megabytes"):.2f}: the slopes of lines through the sizes from {_FROM:,} on in
the log-log plot; 1 is linear. No import took more than {max(each.import_megabytes for each in results):,.0f} MB.

![Growth of training](images/growth.png)

Seconds of the parts; "rest" is the first pass over the database, the log, and the model file.

{table(("rated answers", *stages), parts)}"""


def plot(path: Path, results: Sequence[Growth]) -> None:
    """Draw time and peak memory against the number of rated answers, both axes logarithmic."""
    # Here and not above: the processes that are measured would load it, too.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    panels = (("seconds", "seconds", "#1b6ca8", 60), ("megabytes", "peak memory, MB", "#c8553d", 2_000))
    answers = np.array([each.answers for each in results], dtype=np.float64)
    for axes, (name, label, colour, goal) in zip(figure.subplots(1, 2), panels, strict=True):
        values = np.array([getattr(each, name) for each in results])
        axes.plot(answers, values, marker="o", color=colour, label=f"slope {_exponent(results, name):.2f}")
        axes.plot(answers, values[-1] * answers / answers[-1], color="grey", linestyle=":", linewidth=1, label="linear")
        axes.plot(100_000, goal, marker="_", markersize=16, color="black", linestyle="none", label="goal at 100,000")
        for answer, value in zip(answers, values, strict=True):
            axes.annotate(f"{value:,.3g}" if value < 100 else f"{value:,.0f}", (answer, value), (0, 7),
                          textcoords="offset points", ha="center", fontsize=8)  # fmt: skip
        axes.set(xscale="log", yscale="log", xlabel="rated answers", ylabel=label, ylim=(values.min() / 2, None))
        axes.margins(y=0.15)
        axes.grid(alpha=0.3)
        axes.legend(loc="upper left")
    figure.savefig(path, dpi=150)


def _measure(answers: int) -> Growth:
    from tools.bench.synthesis import write_ratings

    with tempfile.TemporaryDirectory(prefix="rlhf-growth-") as name:
        folder = Path(name)
        write_ratings(folder / _RATINGS, answers)
        imported = _process("import", folder)
        (folder / _RATINGS).unlink()
        _process("fill", folder)
        trained = _process("train", folder)
    return Growth(
        answers=answers, import_seconds=imported["seconds"], import_megabytes=imported["megabytes"], **trained
    )


def _process(step: str, folder: Path) -> dict[str, Any]:
    """Run a step in a process of its own; return what it says, with the seconds it took."""
    started = perf_counter()
    command = [sys.executable, "-m", "tools.bench.growth", step, str(folder)]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"The step {step!r} failed:\n{done.stderr}")
    return {**json.loads(done.stdout), "seconds": perf_counter() - started}


def _import(folder: Path) -> dict[str, Any]:
    from rlhf_loop.exchange.transfer import import_ratings

    import_ratings(_engine(folder), folder / _RATINGS)
    return {"megabytes": megabytes("VmHWM")}


def _fill(folder: Path) -> dict[str, Any]:
    """Have all texts embedded that the training will ask for."""
    from rlhf_loop.reward import RECIPES
    from rlhf_loop.reward.splitting import holdout
    from rlhf_loop.training.data import training_set
    from rlhf_loop.training.fit import rows_for
    from rlhf_loop.training.train import HOLDOUT_SHARE
    from tools.bench.synthesis import WordMeans

    encoder = _encoder(folder, WordMeans)
    data = training_set(_engine(folder)).grouped(encoder)
    held = holdout(data.prompt, data.label, share=HOLDOUT_SHARE, seed=0)
    wanted = {name: np.zeros(len(data.candidates), dtype=np.bool_) for name in RECIPES}
    for name, recipe in RECIPES.items():
        wanted[name][data.row[rows_for(recipe, data, held=held)]] = True
    for chunk in data.chunks():
        for name, recipe in RECIPES.items():
            recipe.features(chunk.only(wanted[name]).questions, encoder)
    return {}


def _train(folder: Path) -> dict[str, Any]:
    from rlhf_loop.registry.training_run import run_training
    from tools.bench.synthesis import Forbidden

    encoder = _encoder(folder, Forbidden)
    started = perf_counter()
    report = run_training(_engine(folder), _settings(folder), encoder=encoder).report
    rest = perf_counter() - started - sum(report.seconds.values())
    return {
        "questions": report.questions,
        "stages": {**report.seconds, "rest": rest},
        "megabytes": megabytes("VmHWM"),
        "recipe": report.recipe,
        "auc": report.overall.auc.value,
        "sampled": report.sampled,
    }


def _engine(folder: Path) -> Any:
    from rlhf_loop.store.engine import open_database

    return open_database(f"sqlite:///{folder / 'rlhf.db'}")


def _settings(folder: Path) -> Any:
    from rlhf_loop.config import Settings

    return Settings(cache_dir=folder, model_path=folder / "reward_model.joblib")


def _encoder(folder: Path, stand_in: Callable[[Any], Any]) -> Any:
    """Return the real encoder with its real cache, but with a stand-in for what runs it."""
    from rlhf_loop.encoders import TextEncoder
    from rlhf_loop.encoders.onnx_runtime import OnnxRuntime
    from rlhf_loop.encoders.vector_cache import VectorCache
    from rlhf_loop.encoders.weights import find_model_folder

    real = OnnxRuntime(find_model_folder(), folder, threads=_settings(folder).encoder_threads)
    return TextEncoder(stand_in(real), real.tokenizer, VectorCache(folder / "vectors.db", max_bytes=_CACHE_BYTES))


def _exponent(results: Sequence[Growth], name: str) -> float:
    """Return the slope of the line through the larger sizes (all, if too few are large), both axes logarithmic."""
    large = [each for each in results if each.answers >= _FROM]
    chosen = large if len(large) > 1 else results
    if len(chosen) < 2:
        return float("nan")
    answers, values = ([getattr(each, field) for each in chosen] for field in ("answers", name))
    return float(np.polyfit(np.log(answers), np.log(values), 1)[0])


if __name__ == "__main__":
    _STEPS = {"import": _import, "fill": _fill, "train": _train}
    sys.stdout.write(json.dumps(_STEPS[sys.argv[1]](Path(sys.argv[2]))))
