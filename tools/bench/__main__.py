"""Run all measurements and write docs/BENCHMARKS.md with its pictures; or only some: `... encoders serving`.

The sections of those that are named replace the older ones, and say when they were measured.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import version
from platform import python_version

from rlhf_loop.training.train import AUTO
from tools.bench import best_of, encoders, growth, imports, operators, recording, reranking, service, serving
from tools.report import DOCS, IMAGES, machine, put_into, put_into_readme, say, table, today
from tools.results.cost import REPEATS, training_costs

PARTS = ("encoders", "serving", "recipes", "service", "reranking", "recording", "best_of", "imports", "growth")
_LIBRARIES = ("onnxruntime", "numpy", "tokenizers", "scikit-learn")


def main(parts: list[str]) -> None:
    """Measure what is named, or everything; the documents are written only at the end of everything."""
    if unknown := sorted(set(parts) - set(PARTS)):
        sys.exit(f"No such part: {', '.join(unknown)}. Choose among {', '.join(PARTS)}.")
    report = Report()
    for part in PARTS:
        if not parts or part in parts:
            say(part)
            getattr(report, part)()
    sys.stdout.write("\n\n".join(report.sections) + "\n")
    file = DOCS / "BENCHMARKS.md"
    if parts:
        note = f'Measured on {today()}, by `make bench PARTS="{" ".join(parts)}"`.'
        sections = _replaced(_split(file.read_text(encoding="utf-8")), _split("\n\n".join(report.sections))[1:], note)
    else:
        sections = report.sections
        put_into_readme("speed", report.known)
    file.write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    if report.reranked:
        put_into(DOCS / "CLIENTS.md", "speed", report.reranked)
    say(f"written to {file}, and its short forms to README.md and docs/CLIENTS.md")


def _split(text: str) -> list[str]:
    return re.split(r"\n+(?=## )", text.rstrip("\n"))


def _replaced(old: list[str], new: list[str], note: str) -> list[str]:
    """Put each new section in the place of the old one of the same heading, or at the end."""
    sections = list(old)
    for section in new:
        heading, _, rest = section.partition("\n\n")
        place = next((place for place, there in enumerate(sections) if there.startswith(f"{heading}\n")), len(sections))
        sections[place : place + 1] = [f"{heading}\n\n{note}\n\n{rest}"]
    return sections


class Report:
    """The sections of the document, and the few lines of it that the README shows, as far as they are measured."""

    def __init__(self) -> None:
        libraries = ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
        self.sections = [
            "# Benchmarks\n\n"
            f"Everything on this page is printed by one command, `make bench` (last run {today()}, on {machine()}; "
            f"Python {python_version()}, {libraries}). Times on a shared machine drift from minute to minute; what is "
            "compared here is measured in turn (A B A B) in one run, so the ratios hold better than the times."
        ]
        self.known = ""
        self.reranked = ""
        self._reference: float | None = None

    def encoders(self) -> None:
        """Add new text."""
        results = encoders.measure()
        self._reference = encoders.texts_per_second(results)
        self.sections += [
            encoders.section(results),
            encoders.batch_section(encoders.batch_sizes()),
            operators.section(operators.measure()),
        ]

    def serving(self) -> None:
        """Add known candidates, threads and memory."""
        result = serving.measure()
        serving.plot(IMAGES / "candidates.png", result)
        known = (
            f"Candidates that were seen before: {result.known.candidates_per_second:,.0f} a second, a request of 100 "
            f"in {result.known.p50:.1f} ms (p99 {result.known.p99:.1f} ms)."
        )
        if self._reference:
            times = result.known.candidates_per_second / self._reference
            known += (
                f" That is {times:,.0f} times as many as sentence-transformers fp32 embeds texts of about "
                f"{encoders.COMPARED_LENGTH} tokens."
            )
        self.sections.append(serving.section(result, note=f" {known}"))
        self.known = known

    def recipes(self) -> None:
        """Add what tuned layers cost."""
        self.sections += serving.sections_of_recipes(serving.measure_recipes())

    def service(self) -> None:
        """Add the whole service under load."""
        result = service.measure()
        self.sections.append(service.section(result))

    def reranking(self) -> None:
        """Add the rerank API."""
        result = reranking.measure()
        self.sections.append(reranking.section(result))
        self.reranked = reranking.short(result)

    def recording(self) -> None:
        """Add recorded rankings."""
        self.sections.append(recording.section(recording.measure()))

    def best_of(self) -> None:
        """Add best of n."""
        self.sections.append(best_of.section(best_of.measure()))

    def imports(self) -> None:
        """Add imports of a user's own file."""
        self.sections.append(imports.section(imports.measure()))

    def growth(self) -> None:
        """Add training: on the sample, and its growth."""
        costs = training_costs((AUTO,), real=False)
        rows = [(state, f"{of.train:.2f}", f"{of.wall:.2f}", f"{of.megabytes:.0f}") for (_, state), of in costs.items()]
        self.sections.append(
            "## Training on the sample\n\n200 ratings, both recipes; cold: no vector is known. A process each, medians "
            f"of {REPEATS}.\n\n{table(('vectors', 'training, s', 'whole process, s', 'peak memory, MB'), rows)}"
        )
        results = growth.measure()
        growth.plot(IMAGES / "growth.png", results)
        self.sections.append(growth.section(results))


if __name__ == "__main__":
    main(sys.argv[1:])
