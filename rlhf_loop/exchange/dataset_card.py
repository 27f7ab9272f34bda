"""The card of an exported dataset: what its README says to people, and its first lines to `datasets`.

As https://huggingface.co/docs/hub/datasets-cards has it. The licence is left to whoever publishes it: what they add to
the card stays there in later exports.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlhf_loop.utils.rows import Kind
from rlhf_loop.version import __version__

#: By this an export knows an earlier one.
MARK = "<!-- made by rlhf-loop ratings export -->"
#: What comes after it is somebody's own.
_END = "<!-- end of what rlhf-loop ratings export writes; what you add below stays -->"
#: The first lines that each export writes anew.
_OWN_KEYS = ("dataset_info", "configs")
_KEY = re.compile(r"([\w-]+)\s*:")

_TAGS = ("tags:", "- rlhf", "- human-feedback", "- reward-model")
_DTYPES = {
    Kind.TEXT: "string",
    Kind.WHOLE: "int64",
    Kind.REAL: "float64",
    Kind.TIME: "timestamp[us, tz=UTC]",
    Kind.YES_NO: "bool",
}
_WHAT = {
    "ratings": "one row for each review of an answer, and one for each answer without any",
    "preference": "two answers to a question, the better one `chosen`: as experts compared, corrected and rated them; "
    "TRL's preference columns",
    "unpaired": "each answer that experts rated, with `label` true from a rating of 4; TRL's unpaired columns",
}
_NO_LICENCE = (
    "None is set. Whoever publishes this adds `license: ...` to the first lines, where it stays in later exports, and "
    "regards"
)


@dataclass(frozen=True, slots=True)
class Split:
    """A part of the rows: how many, and their bytes before and after compression."""

    name: str
    rows: int
    size: int
    packed: int


@dataclass(frozen=True, slots=True)
class Config:
    """A configuration of the dataset: its name, its folder, the kinds of its columns, and its splits that have rows."""

    name: str
    folder: str
    columns: Mapping[str, Kind]
    splits: tuple[Split, ...]

    @property
    def rows(self) -> int:
        """The rows of all splits."""
        return sum(split.rows for split in self.splits)


def card(
    configs: Sequence[Config], *, named: bool, test_share: float, validation_share: float, earlier: str = ""
) -> str:
    """Return the README of the folder, with what somebody has added to the `earlier` one.

    Kept are keys of its first lines, such as `license`, and the text after the end of what an export writes.
    """
    filled = [config for config in configs if config.splits]
    kept = _added_keys(earlier)
    header = ["---", *kept, *([] if any(_names(line) == "tags" for line in kept) else _TAGS), *_header(filled), "---"]
    body = _body(filled, named, test_share, validation_share, licensed=any(_names(line) == "license" for line in kept))
    return "\n".join([*header, MARK, "", *body, "", _END]) + (earlier.partition(_END)[2] or "\n")


def _added_keys(earlier: str) -> list[str]:
    lines = earlier.splitlines()
    if not lines or lines[0] != "---" or "---" not in lines[1:]:
        return []
    found, own = list[str](), False
    for line in lines[1 : lines.index("---", 1)]:
        if name := _names(line):
            own = name in _OWN_KEYS
        if not own:
            found.append(line)
    return found


def _names(line: str) -> str | None:
    """Return the key that a line of the header begins with, if it begins with one."""
    found = _KEY.match(line)
    return found[1] if found else None


def _header(configs: Sequence[Config]) -> list[str]:
    lines = ["dataset_info:"] if configs else []
    for config in configs:
        lines += [f"- config_name: {config.name}", "  features:"]
        for name, kind in config.columns.items():
            lines += [f"  - name: {name}", *_type(kind)]
        lines += ["  splits:"]
        for split in config.splits:
            lines += [f"  - name: {split.name}", f"    num_bytes: {split.size}", f"    num_examples: {split.rows}"]
        lines += [f"  download_size: {sum(split.packed for split in config.splits)}"]
        lines += [f"  dataset_size: {sum(split.size for split in config.splits)}"]
    lines += ["configs:"] if configs else []
    for number, config in enumerate(configs):
        lines += [f"- config_name: {config.name}", *(["  default: true"] if number == 0 else []), "  data_files:"]
        for split in config.splits:
            lines += [f"  - split: {split.name}", f"    path: {config.folder}/{split.name}-*"]
    return lines


def _type(kind: Kind) -> list[str]:
    if kind is Kind.MESSAGES:
        return ["    list:", *(f"    - name: {name}\n      dtype: string" for name in ("role", "content"))]
    return [f"    dtype: {_DTYPES[kind]}"]


def _body(
    configs: Sequence[Config], named: bool, test_share: float, validation_share: float, *, licensed: bool
) -> list[str]:
    names = list(dict.fromkeys(split.name for config in configs for split in config.splits))
    table = [["configuration", *names], ["---"] * (len(names) + 1)]
    for config in configs:
        rows = {split.name: split.rows for split in config.splits}
        table.append([f"`{config.name}`", *(f"{rows.get(name, 0):,}" for name in names)])
    train_share = 1 - test_share - validation_share
    return [
        "# Ratings of answers",
        "",
        "Answers to questions, and how good people found them, from 1 (wrong) to 5 (exactly right).",
        "",
        *(f"| {' | '.join(row)} |" for row in table),
        "",
        *(f"- `{config.name}`: {_WHAT[config.name]}." for config in configs),
        "",
        "```python",
        "from datasets import load_dataset",
        "",
        *(f'load_dataset("path/of/this/folder", "{config.name}")' for config in configs),
        "```",
        "",
        "## Splits",
        "",
        f"By question: a hash of its words decides, so that about {train_share:.0%} of the questions are `train`, "
        f"{validation_share:.0%} `validation` and {test_share:.0%} `test`, and each stays where it is in later "
        "exports. A split without any row is left out.",
        "",
        "## How it was made",
        "",
        f"By `rlhf-loop ratings export --format hf-dataset`, version {__version__}. `reviewer_role` says whose word a "
        "review is: `expert` or `end_user`. `preference` and `unpaired` rest on experts alone; of several ratings of "
        "an answer they take the lower median.",
        "",
        "## Personal data",
        "",
        (
            "Raters, ids and groups are written as they are in the database."
            if named
            else "Raters, ids and groups have pseudonyms; they were made with a key that is not in here."
        )
        + " Questions, answers, comments and corrections are as people wrote them. Read them before you publish this.",
        "",
        "## Licence",
        "",
        ("That of `license` in the first lines; regard" if licensed else _NO_LICENCE)
        + " the terms of the answers (column `licence`), too.",
    ]
