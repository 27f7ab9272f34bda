"""Run all measurements and write docs/BENCHMARKS.md with its pictures; or only print some: `... encoders serving`."""

from __future__ import annotations

import sys
from importlib.metadata import version
from platform import python_version

from tools.bench import encoders, growth, serving
from tools.report import DOCS, IMAGES, machine, put_into_readme, say, today

#: What the README shows of it.
_short: dict[str, str] = {}
_LIBRARIES = ("onnxruntime", "numpy", "tokenizers", "scikit-learn")


def main(parts: list[str]) -> None:
    """Measure what is named, or everything; the document is written only at the end of everything."""
    known = {"encoders": _encoders, "serving": _serving, "growth": _growth}
    if unknown := sorted(set(parts) - set(known)):
        sys.exit(f"No such part: {', '.join(unknown)}. Choose among {', '.join(known)}.")
    sections = [_introduction()]
    for name, measure in known.items():
        if not parts or name in parts:
            say(name)
            sections += measure()
    text = "\n\n".join(sections) + "\n"
    sys.stdout.write(text)
    if not parts:
        (DOCS / "BENCHMARKS.md").write_text(text, encoding="utf-8")
        put_into_readme("speed", "\n\n".join(_short.values()))
        say(f"written to {DOCS / 'BENCHMARKS.md'}")


def _introduction() -> str:
    libraries = ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
    return (
        "# Benchmarks\n\n"
        f"Everything on this page is printed by one command, `make bench` (last run {today()}, on {machine()}; Python "
        f"{python_version()}, {libraries}). Times on a shared machine drift from minute to minute; what is compared "
        "here is measured in turn (A B A B) in one run, so the ratios hold better than the times."
    )


def _encoders() -> list[str]:
    results = encoders.measure()
    _short["new"] = encoders.short_table(results)
    return [encoders.section(results), encoders.batch_section(encoders.batch_sizes())]


def _serving() -> list[str]:
    result = serving.measure()
    known = result.known
    _short["known"] = (
        f"Candidates that were seen before: {known.candidates_per_second:,.0f} a second, a request of 100 in "
        f"{known.p50:.1f} ms (p99 {known.p99:.1f})."
    )
    serving.plot(IMAGES / "candidates.png", result)
    return [serving.section(result)]


def _growth() -> list[str]:
    results = growth.measure()
    growth.plot(IMAGES / "growth.png", results)
    return [growth.section(results)]


if __name__ == "__main__":
    main(sys.argv[1:])
