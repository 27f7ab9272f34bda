"""Capacity: what a load needs by what was measured, and what breaks first when it grows.

    python -m tools.capacity --answers-per-second 2000 --documents 10000000

The constants are read from docs/BENCHMARKS.md, docs/RESULTS.md and docs/SCALING.md, as `make bench`, `make results` and
`make large` have written them; none stands here. Each line says up to where it was measured, and how far beyond that
the answer lies: what is beyond is a straight line on, and no measurement.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click

from tools.report import DOCS, put_into, table

_DAY_S = 86_400
#: How many times as much are the steps of the second table.
_TIMES = (1, 10, 100, 1_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is asked of an installation: questions at the peak, and over a day, and for how long answers are kept.

    `ratings` are rated answers that a training learns from. `recorded` is the number of answers that are stored for a
    question.
    """

    answers_per_second: float
    documents: float
    ratings: float
    recorded: float
    peak_to_mean: float
    days: float

    def times(self, factor: float) -> Load:
        """Return so many times as much of it, kept for as long."""
        grown = {name: factor * getattr(self, name) for name in ("answers_per_second", "documents", "ratings")}
        return replace(self, **grown)

    @property
    def stored(self) -> float:
        """Answers that are stored a second, on average."""
        return self.answers_per_second / self.peak_to_mean * self.recorded


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One machine: `full` is the share of it that may be used before it counts as too small."""

    cores: int
    memory_gb: float
    disk_gb: float
    full: float
    night_h: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What the documents say, for the machine on which they were measured."""

    cores: int
    answers_per_second: float
    searched_documents: float
    process_mb: float
    index_documents: float
    index_mb: float
    documents_per_second: float
    rows_per_second: float
    trained: float
    training_s: float
    training_exponent: float
    interactions: float
    database_gb: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a load needs of something, and the share of one machine that this is; measured `up_to` a value of `of`."""

    what: str
    needed: str
    share: float
    of: float
    up_to: float
    unit: str
    advice: str

    @property
    def range(self) -> str:
        """How far it was measured, in words."""
        within = f"{self.up_to:,.0f} {self.unit}"
        return within if self.of <= self.up_to else f"{within}; this is {_rounded(self.of / self.up_to)} times that"


def needs(load: Load, machine: Machine, by: Measured) -> list[Need]:
    """Return what the load needs, and what to do where one machine is too small for it."""
    cores = load.answers_per_second / by.answers_per_second * by.cores
    index_gb = load.documents * by.index_mb / by.index_documents / 1e3
    embedding_h = load.documents / by.documents_per_second / 3600 * by.cores
    training_h = by.training_s * (load.ratings / by.trained) ** by.training_exponent / 3600
    kept = load.stored * _DAY_S * load.days
    disk_gb = kept * by.database_gb / by.interactions
    room = machine.full
    return [
        Need(
            what="answering",
            needed=f"{_rounded(cores)} cores, {_rounded(cores * by.process_mb / 1e3)} GB of memory",
            share=max(cores / machine.cores, cores * by.process_mb / 1e3 / machine.memory_gb) / room,
            of=load.answers_per_second,
            up_to=by.answers_per_second,
            unit="answers a second",
            advice="more processes, then more machines behind a balancer",
        ),
        Need(
            what="searching",
            needed=f"{_rounded(index_gb)} GB of index, in memory where it is to be quick",
            share=index_gb / machine.memory_gb / room,
            of=load.documents,
            up_to=max(by.index_documents, by.searched_documents),
            unit="documents",
            advice="pgvector on the database's machine, then a search server by a source of your own",
        ),
        Need(
            what="indexing everything anew",
            needed=f"{_rounded(embedding_h)} core-hours",
            share=embedding_h / machine.cores / machine.night_h,
            of=load.documents,
            up_to=by.index_documents,
            unit="documents",
            advice="add what is new instead; the first time on more cores",
        ),
        Need(
            what="recording",
            needed=f"{_rounded(load.stored * load.peak_to_mean)} rows a second at the peak",
            share=load.stored * load.peak_to_mean / by.rows_per_second / room,
            of=load.stored * load.peak_to_mean,
            up_to=by.rows_per_second,
            unit="rows a second",
            advice="PostgreSQL on a machine of its own; record a share (RLHF_RECORD_RANKINGS)",
        ),
        Need(
            what=f"answers of {load.days:,.0f} days",
            needed=f"{_rounded(kept / 1e6)} million rows, {_rounded(disk_gb)} GB",
            share=disk_gb / machine.disk_gb / room,
            of=kept,
            up_to=by.interactions,
            unit="rows",
            advice="RLHF_RECORD_DAYS and RLHF_SERVED_DAYS; a larger disk",
        ),
        Need(
            what="a training",
            needed=f"{_rounded(training_h)} hours",
            share=training_h / machine.night_h,
            of=load.ratings,
            up_to=by.trained,
            unit="ratings",
            advice="retrain less often: more ratings add little from here on",
        ),
    ]


def growth(load: Load, machine: Machine, by: Measured) -> str:
    """Return a table of what breaks first at several times the load."""
    lines = []
    for factor in _TIMES:
        found = needs(load.times(factor), machine, by)
        broken = sorted((each for each in found if each.share > 1), key=lambda each: -each.share)
        said = "; ".join(f"{each.what} ({_rounded(each.share)} machines' worth)" for each in broken)
        todo = broken[0].advice if broken else ""
        lines.append([f"{factor:,}", said or "nothing: one machine does", todo])
    return table(
        ("times", "what one machine has too little of, the first to break first", "what to do about that"), lines
    )


def read(docs: Path = DOCS) -> Measured:
    """Read the constants from the documents.

    Raises:
        click.ClickException: a document has no such number, as its section was not measured yet.
    """
    bench, results, scaling = (_Document(docs / name) for name in ("BENCHMARKS.md", "RESULTS.md", "SCALING.md"))
    load, training = "## The service under load", "## Growth of training"
    recorded, index, large = "## Recorded rankings", "## Vector database", "## Large tables"
    return Measured(
        cores=int(bench.number(r"on [^;(]*?, (\d+) cores")),
        answers_per_second=bench.number(r"\| answers a second \| ([\d,.]+)", load),
        searched_documents=bench.number(r"index has ([\d,]+) documents", load),
        process_mb=bench.number(r"\| after 1,000 requests \| ([\d,.]+)", "## Memory of a serving process"),
        index_documents=results.number(r": ([\d,]+) answers from", index),
        index_mb=results.number(r"\| LanceDB \|(?: [\d,.]+ \|){3} ([\d,.]+)", index),
        documents_per_second=results.number(r"\| LanceDB \|(?: [\d,.]+ \|){2} ([\d,.]+)", index),
        rows_per_second=10
        * bench.number(r"recorded ([\d,]+) rankings of ten", recorded)
        / bench.number(r"in the database (\d+) s after", recorded),
        trained=bench.number(r"\| ([\d,]+) \|[^\n]*\n\nTime grows", training),
        training_s=bench.number(r"\| [\d,]+ \| [\d,]+ \| [\d,.]+ \| ([\d,.]+) \|[^\n]*\n\nTime grows", training),
        training_exponent=bench.number(r"to the power of ([\d.]+)", training),
        interactions=scaling.number(r"\| interactions \|.* ([\d,]+) \|", large),
        database_gb=scaling.number(r"\| database, GB \|.* ([\d,.]+) \|", large),
    )


class _Document:
    """A document of which numbers are read."""

    def __init__(self, path: Path) -> None:
        self._path, self._text = path, path.read_text(encoding="utf-8")

    def number(self, pattern: str, section: str = "") -> float:
        """Return the number that the pattern finds in a section."""
        _, _, text = self._text.partition(f"{section}\n") if section else ("", "", self._text)
        text = re.split(r"\n(?=## )", text)[0] if section else text
        found = re.search(pattern, text)
        if found is None:
            raise click.ClickException(
                f"{self._path.name} has no number for {pattern!r} in {section!r}. Measure it: make bench, make results "
                "or make large."
            )
        return float(found[1].replace(",", ""))


def _rounded(value: float) -> str:
    """Return a number with two digits that count."""
    if value <= 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = 1 - math.floor(math.log10(value))
    return f"{round(value, digits):,.{max(0, digits)}f}"


def _needed(found: Sequence[Need]) -> str:
    lines = [[each.what, each.needed, _rounded(each.share), each.range] for each in found]
    return table(("what", "needs", "machines", "measured up to"), lines)


_OPTIONS: Mapping[str, tuple[float, str]] = {
    "answers-per-second": (5, "Questions answered a second at the peak."),
    "documents": (10_000, "Documents in the index."),
    "ratings": (5_000, "Rated answers that a training learns from."),
    "recorded": (3, "Answers that are stored for a question."),
    "peak-to-mean": (4, "Times as many questions at the peak as on average."),
    "days": (365, "Days for which answers are kept."),
    "cores": (8, "Cores of one machine."),
    "memory-gb": (32, "Memory of one machine."),
    "disk-gb": (500, "Disk of one machine."),
    "full": (0.7, "Share of a machine that may be used, as loads go up and down."),
    "night-h": (8, "Hours for what is done over night."),
}


def _with_options(command: Callable[..., None]) -> Callable[..., None]:
    for name, (value, said) in reversed(_OPTIONS.items()):
        least = click.FloatRange(0, min_open=True)
        command = click.option(f"--{name}", type=least, default=value, show_default=True, help=said)(command)
    return command


@click.command()
@_with_options
@click.option("--write", is_flag=True, help="Put both tables into docs/SCALING.md.")
def main(write: bool, **given: float) -> None:
    """Say what a load needs by what was measured, and what breaks first at 10, 100 and 1,000 times as much."""
    if odd := next((name for name, value in given.items() if not math.isfinite(value)), None):
        raise click.UsageError(f"--{odd.replace('_', '-')} {given[odd]} is not a valid number. Give one above 0.")
    of_load = {name: given.pop(name) for name in Load.__dataclass_fields__}
    load, machine = Load(**of_load), Machine(**{**given, "cores": int(given["cores"])})  # type: ignore[arg-type]
    by = read()
    text = (
        f"{load.answers_per_second:,g} answers a second at the peak, {load.documents:,.0f} documents, "
        f"{load.ratings:,.0f} ratings; a machine has {machine.cores} cores, {machine.memory_gb:g} GB of memory and "
        f"{machine.disk_gb:g} GB of disk, of which {machine.full:.0%} may be used.\n\n"
        f"{_needed(needs(load, machine, by))}\n\n{growth(load, machine, by)}"
    )
    click.echo(text)
    if write:
        put_into(DOCS / "SCALING.md", "capacity", text)


if __name__ == "__main__":
    main()
