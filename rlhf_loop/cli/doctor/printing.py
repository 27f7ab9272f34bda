"""Output of the doctor, apart from all other output, whose modules take longer to load than the doctor to look."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from rlhf_loop.cli.doctor.finding import SECTIONS, Finding
from rlhf_loop.utils.text import counted, verb

_TOPIC = 2 + max(len(topic) for topics in SECTIONS.values() for topic in topics)
_INDENT = 4 + _TOPIC
#: A terminal that is narrower breaks the lines by itself.
_NARROWEST = 30


def print_findings(findings: Sequence[Finding]) -> None:
    """Print the findings by section, with advice for each problem, and the number of problems.

    Lines are broken for a terminal only, and never those with advice: it is mostly a command, to be copied.
    """
    console = Console(highlight=False, soft_wrap=True)
    for section, topics in SECTIONS.items():
        together = [finding for finding in findings if finding.topic in topics]
        if together:
            console.print(Text(f"\n{section}\n", style="bold"))
        before = ""
        for finding in together:
            _print(console, finding, "" if finding.topic == before else finding.topic)
            before = finding.topic
    faults = sum(not finding.ok for finding in findings)
    if faults:
        said = f"{counted(faults, 'thing')} {verb(faults, 'needs', 'need')} attention."
        console.print(Text(f"\n{said}", style="bold red"))
    else:
        console.print(Text("\nAll is well.", style="bold green"))


def _print(console: Console, finding: Finding, topic: str) -> None:
    text = _one_line(finding.text)
    if console.is_terminal:
        room = max(_NARROWEST, console.width - _INDENT - 1)
        text = textwrap.fill(text, room, break_long_words=False, break_on_hyphens=False)
    mark, style = ("ok", "green") if finding.ok else ("!!", "bold red")
    body = text.replace("\n", f"\n{'':{_INDENT}}")
    console.print(Text.assemble((mark, style), f"  {topic:{_TOPIC}}{body}"))
    if finding.advice:
        advice = _one_line(finding.advice)
        console.print(Text(f"{'':{_INDENT}}{advice}", style="" if finding.ok else "bold"))


def _one_line(text: str) -> str:
    # Without what a terminal would obey instead of showing.
    return "".join(character for character in " ".join(text.split()) if character.isprintable())
