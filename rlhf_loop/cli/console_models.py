"""What the command line shows of versions of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from rlhf_loop.registry import Version
from rlhf_loop.registry.compare import Contest
from rlhf_loop.training.comparison import Comparison

_STYLES = {"live": "bold green", "rejected": "red", "candidate": "yellow"}


def print_versions(versions: Sequence[Version]) -> None:
    """Print a table of versions, and for each why it has its state."""
    console = Console(highlight=False, soft_wrap=True)
    if not versions:
        console.print("There is no version yet. Train one: rlhf-loop train")
        return
    # Without its frame the table fits into 80 columns, also with state "candidate".
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name, justify in (("#", "right"), ("version", "left"), ("state", "left"), ("made (UTC)", "left")):
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for name in ("accuracy", "AUC", "P@1"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in versions:
        overall = each.metrics.get("overall") or {}
        first = ((overall.get("orders") or {}).get("model") or {}).get("precision_at_1")
        measures = [_value(overall.get(name)) for name in ("accuracy", "auc")] + [_value(first)]
        style = _STYLES.get(each.state, "")
        table.add_row(str(each.id), each.version, each.state, f"{each.made_at:%Y-%m-%d %H:%M}", *measures, style=style)
    console.print(table)
    for each in versions:
        console.print(f"{each.id}: {each.reason}", markup=False)


def print_contest(contest: Contest) -> None:
    """Print what a comparison of two versions found."""
    console = Console(highlight=False, soft_wrap=True)
    first, second = contest.first.version, contest.second.version
    console.print(
        f"{first} against {second} on {contest.answers} answers to {contest.questions} questions that neither was "
        "fitted on.",
        markup=False,
    )
    for name in contest.unknown:
        console.print(f"Nobody knows what {name} was fitted on: it may have seen some of them.", markup=False)
    table = Table()
    for name in ("", first, second, "difference (95 %)"):
        table.add_column(name, justify="right" if name else "left")
    found = contest.found
    for label, each in (("Accuracy", found.accuracy), ("AUC", found.auc), ("P@1", found.precision_at_1)):
        table.add_row(label, *_cells(each))
    console.print(table)
    if found.precision_at_1 is None:
        console.print("No question has two or more rated answers, so P@1 cannot be told.")


def _cells(of: Comparison | None) -> tuple[str, str, str]:
    if of is None:
        return "-", "-", "-"
    by = of.difference
    return f"{of.ours:.3f}", f"{of.theirs:.3f}", f"{by.value:+.3f} ({by.low:+.3f} to {by.high:+.3f})"


def _value(measure: Mapping[str, Any] | None) -> str:
    return "-" if not measure or measure.get("value") is None else f"{measure['value']:.3f}"
