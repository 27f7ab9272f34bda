"""Import of a user's own file of 100,000 rows, in the formats that spreadsheets write: seconds and peak memory."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from tools.report import megabytes, table

ROWS = 100_000
#: As a German Excel names and separates them; its CSV is in cp1252.
_NAMES = ("Gruppe", "Frage", "Antwort", "Bewertung", "Platz")
_FORMATS = ("ratings.jsonl", "ratings.csv", "ratings.xlsx")
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """The cost of one import: the whole process, its peak memory, and the size of the file in MB."""

    file: str
    size: float
    seconds: float
    megabytes: float


def measure(rows: int = ROWS) -> list[Import]:
    """Write the same ratings in each format, and import each into a new SQLite database, a process each."""
    with tempfile.TemporaryDirectory(prefix="rlhf-imports-") as name:
        folder = Path(name)
        _write(folder, rows)
        return [_measure(folder / file) for file in _FORMATS]


def section(results: Sequence[Import], rows: int = ROWS) -> str:
    """Return the section of the document."""
    lines = [
        (each.file, f"{each.size:.0f}", f"{each.seconds:.1f}", f"{rows / each.seconds:,.0f}", f"{each.megabytes:.0f}")
        for each in results
    ]
    header = ("file", "MB", "seconds", "rows a second", "peak memory, MB")
    return f"""## Imports

The same {rows:,} rated answers, made of sentences of the sample, imported into a new SQLite database, a process each.
The CSV file is in cp1252, with semicolons and German column names, as Excel writes it; so is the workbook.

{table(header, lines)}"""


def _write(folder: Path, rows: int) -> None:
    from openpyxl import Workbook

    from tools.bench.synthesis import write_ratings

    source = folder / _FORMATS[0]
    write_ratings(source, rows)
    with (folder / _FORMATS[1]).open("w", encoding="cp1252", errors="replace", newline="") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(_NAMES)
        writer.writerows(_cells(source))
    book = Workbook(write_only=True)
    sheet = book.create_sheet()
    sheet.append(_NAMES)
    for row in _cells(source):
        sheet.append(row)
    book.save(folder / _FORMATS[2])


def _cells(source: Path) -> Iterator[tuple[str | int, ...]]:
    with source.open(encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            # Umlauts, without which nobody could tell cp1252 from UTF-8.
            question = f"Für Ärzte: {row['user_prompt']}"
            yield row["candidate_group"], question, row["ai_response"], row["rating"], row["shown_rank"]


def _measure(file: Path) -> Import:
    started = perf_counter()
    command = [sys.executable, "-m", "tools.bench.imports", str(file)]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"The import of {file.name} failed:\n{done.stderr}")
    seconds = perf_counter() - started
    return Import(
        file=file.name, size=file.stat().st_size / 1e6, seconds=seconds, megabytes=float(done.stdout.split()[-1])
    )


def _import(file: Path) -> None:
    from rlhf_loop.exchange.transfer import import_ratings
    from rlhf_loop.store.engine import open_database

    report = import_ratings(open_database(f"sqlite:///{file}.db"), file)
    if report.added != ROWS:
        raise AssertionError(f"{report.added} of {ROWS} rows are there:\n" + "\n".join(report.lines()))
    sys.stdout.write(f"{megabytes('VmHWM')}")


if __name__ == "__main__":
    _import(Path(sys.argv[1]))
