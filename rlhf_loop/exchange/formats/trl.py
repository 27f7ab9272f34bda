"""TRL's datasets: preferences (prompt, chosen, rejected) and unpaired preferences (prompt, completion, label).

The names are those of https://huggingface.co/docs/trl/dataset_formats, sections "Preference" and "Unpaired preference".
Both are read in the standard and in the conversational form, preferences also with the prompt inside the completions
("implicit prompt"). Such a file is JSONL, JSON, Parquet or, of texts alone, CSV, as `datasets.load_dataset` reads them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rlhf_loop.domain import Pair, Rating, ReviewerRole, prompt_key
from rlhf_loop.exchange.fields import storable
from rlhf_loop.exchange.formats.base import FileRow, Labels
from rlhf_loop.exchange.formats.messages import (
    answer_messages,
    answer_text,
    prompt_text,
    question_messages,
    split_prompt,
)
from rlhf_loop.utils.rows import Kind, Record, Row

PREFERENCE = ("prompt", "chosen", "rejected")
UNPAIRED = ("prompt", "completion", "label")
_UNSAID = frozenset({"reviewer_role", "harmful"})


class PreferenceLayout:
    """The layout of preferences: the answers to a question become a group, and the reviewer prefers the chosen one."""

    role = ReviewerRole.EXPERT

    def match(self, names: Sequence[str]) -> tuple[str, ...]:
        return tuple(name for name in names if name not in PREFERENCE)

    def rows(self, record: Record) -> Iterable[FileRow]:
        values = dict(zip(record.names, record.cells, strict=True))
        chosen, rejected = (_needed(values, name) for name in ("chosen", "rejected"))
        if chosen == rejected:
            raise ValueError("chosen and rejected are the same")
        prompt = values.get("prompt")
        if prompt in (None, "", []):
            prompt, chosen, rejected = split_prompt(chosen, rejected)
        text = prompt_text("prompt", prompt)
        better, worse = (
            storable(Rating(text, answer_text(name, value), candidate_group=_group(text)))
            for name, value in (("chosen", chosen), ("rejected", rejected))
        )
        return (FileRow(record.line, better, unsaid=_UNSAID, worse=worse),)


class UnpairedLayout:
    """The layout of unpaired preferences: a label becomes a rating."""

    role = ReviewerRole.EXPERT

    def __init__(self, labels: Labels) -> None:
        self._labels = labels

    def match(self, names: Sequence[str]) -> tuple[str, ...]:
        return tuple(name for name in names if name not in UNPAIRED)

    def rows(self, record: Record) -> Iterable[FileRow]:
        values = dict(zip(record.names, record.cells, strict=True))
        prompt, completion, label = (_needed(values, name) for name in UNPAIRED)
        text = prompt_text("prompt", prompt)
        rating = Rating(
            text,
            answer_text("completion", completion),
            rating=self._labels.label(_label(label)),
            candidate_group=_group(text),
        )
        return (FileRow(record.line, storable(rating), unsaid=_UNSAID),)


def preference_columns(*, conversational: bool) -> dict[str, Kind]:
    """Return the columns of a file of preferences."""
    return dict.fromkeys(PREFERENCE, Kind.MESSAGES if conversational else Kind.TEXT)


def preference_cells(pair: Pair, *, conversational: bool) -> Row:
    """Return a row of preferences."""
    if conversational:
        return [question_messages(pair.prompt), answer_messages(pair.chosen), answer_messages(pair.rejected)]
    return [pair.prompt, pair.chosen, pair.rejected]


def unpaired_columns(*, conversational: bool) -> dict[str, Kind]:
    """Return the columns of a file of unpaired preferences."""
    text = Kind.MESSAGES if conversational else Kind.TEXT
    return {"prompt": text, "completion": text, "label": Kind.YES_NO}


def unpaired_cells(prompt: str, completion: str, *, good: bool, conversational: bool) -> Row:
    """Return a row of unpaired preferences."""
    if conversational:
        return [question_messages(prompt), answer_messages(completion), good]
    return [prompt, completion, good]


def _needed(values: Mapping[str, Any], name: str) -> Any:
    value = values.get(name)
    if value is None or value in ("", []):
        raise ValueError(f"{name} is missing")
    return value


def _label(value: object) -> bool:
    if isinstance(value, bool):
        return value
    # CSV has only words, and some keep 1 and 0.
    found = {"true": True, "1": True, "false": False, "0": False}.get(str(value).strip().lower())
    if found is None:
        raise ValueError(f"label is {str(value)[:60]!r}, neither true nor false")
    return found


def _group(prompt: str) -> str:
    """Name the answers to one question, the same in each file."""
    return f"trl:{hashlib.sha256(prompt_key(prompt).encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"
