"""Let months of the loop pass and write docs/SIMULATION.md with its pictures.

`python -m tools.simulate --small` is done in a few seconds: two months of the sample, one seed, into a new folder.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

from rlhf_loop.config import Settings
from rlhf_loop.encoders import TextEncoder, load_encoder
from tools.report import DOCS, say
from tools.results.data import RATINGS
from tools.simulate import plots
from tools.simulate.crew import Job, run_all
from tools.simulate.document import Setting, document
from tools.simulate.raters import Arm, calendar
from tools.simulate.world import WEEKS_A_MONTH, read_world

_SMALL_MONTHS = 2


def main(arguments: Sequence[str] | None = None, *, encoder: TextEncoder | None = None) -> Path:
    """Simulate, write, and return the document's path."""
    options = _options(arguments)
    started = perf_counter()
    data = options.data or ("sample" if options.small or not RATINGS.exists() else "shared")
    months = options.months or (_SMALL_MONTHS if options.small else 6)
    weeks = max(4, round(months * WEEKS_A_MONTH))
    drift = weeks // 2
    seeds = range(options.seed, options.seed + (1 if options.small else options.seeds))
    folder = options.out or (Path(tempfile.mkdtemp(prefix="rlhf-simulation-")) if options.small else DOCS)
    encoder = encoder or load_encoder(Settings.from_env())
    world = read_world(data, encoder)
    jobs = [Job(data, weeks, drift, seed, arm) for seed in seeds for arm in Arm]
    runs = []
    for done, each in enumerate(run_all(jobs, encoder, alone=options.small), 1):
        runs.append(each)
        say(f"{done} of {len(jobs)}: seed {each.seed}, {each.arm}")
    images, when = folder / "images", calendar(weeks)
    images.mkdir(parents=True, exist_ok=True)
    plots.quality(images / "simulation-quality.png", runs, when, drift)
    plots.decisions(images / "simulation-gate.png", runs, when, drift)
    plots.raters(images / "simulation-raters.png", runs, when, drift)
    new = sum(asked.new_topic for asked in world)
    setting = Setting(data, weeks, drift, len(world), new, perf_counter() - started)
    path: Path = folder / "SIMULATION.md"
    path.write_text(document(runs, setting), encoding="utf-8")
    say(f"written to {path}")
    return path


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.simulate", description="Simulate months of the loop.")
    parser.add_argument("--data", choices=("shared", "sample"), help="default: shared, if it is beside the checkout")
    parser.add_argument("--seed", type=int, default=0, help="the first of the seeds")
    parser.add_argument("--seeds", type=int, default=5, help="how many there are")
    parser.add_argument("--months", type=float, help="default: 6")
    parser.add_argument("--small", action="store_true", help="two months of the sample, one seed, into a new folder")
    parser.add_argument("--out", type=Path, help="folder for the document and its images; default: docs")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
