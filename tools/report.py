"""Common parts of the written reports: tables, the machine's name, and progress of a run."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
IMAGES = DOCS / "images"


def table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def put_into(document: Path, name: str, text: str) -> None:
    """Replace what stands between a document's markers of that name."""
    before, _, rest = document.read_text(encoding="utf-8").partition(f"<!-- {name} -->\n")
    _, _, after = rest.partition(f"<!-- /{name} -->")
    document.write_text(f"{before}<!-- {name} -->\n{text}\n<!-- /{name} -->{after}", encoding="utf-8")


def put_into_readme(name: str, text: str) -> None:
    """Replace what stands between the README's markers of that name."""
    put_into(DOCS.parent / "README.md", name, text)


def machine() -> str:
    """Name the processor, how much of it there is, and the system."""
    # Here and not above: processes whose memory is measured use this module, too.
    from rlhf_loop.encoders.runtime import cores, processor_name

    return f"{processor_name()}, {cores()} cores, {platform.system()}"


def today() -> str:
    """Return the date of a run."""
    return f"{datetime.now(UTC):%Y-%m-%d}"


def megabytes(of: str) -> float:
    """Return a memory figure of this process: "VmRSS" now, or "VmHWM", its peak.

    Not getrusage: its maximum starts with that of the process this one was forked from.
    """
    status = Path("/proc/self/status").read_text()
    found = re.search(rf"{of}:\s*(\d+)", status)
    return int(found[1]) * 1024 / 1e6 if found else float("nan")


def children(pid: int) -> set[int]:
    """Return the processes that a process has started and that have not ended."""
    found = set[int]()
    for task in Path(f"/proc/{pid}/task").iterdir():
        # A thread may end meanwhile.
        with suppress(OSError):
            found.update(map(int, (task / "children").read_text().split()))
    return found


def processor_s(pid: int) -> float:
    """Return the seconds that a process and its descendants have computed for, with those that it has waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    total = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    for child in children(pid):
        # It may end meanwhile.
        with suppress(OSError):
            total += processor_s(child)
    return total


def say(text: str) -> None:
    """Tell whoever waits."""
    sys.stderr.write(f"{datetime.now():%H:%M:%S} {text}\n")
