"""TRL's datasets: preferences (prompt, chosen, rejected) and unpaired preferences (prompt, completion, label).

The names are those of https://huggingface.co/docs/trl/dataset_formats, sections "Preference" and "Unpaired preference".
Both are read in the standard and in the conversational form, with the prompt beside the completions, inside of them
("implicit prompt") or both. So are ShareGPT's, as https://llamafactory.readthedocs.io/en/latest/getting_started/data_preparation.html
has them: `conversations` of `from` and `value` instead of a prompt, and `kto_tag` for a label; or `instruction` and
`input`. Such a file is JSONL, JSON, Parquet or, of texts alone, CSV, as `datasets.load_dataset` reads them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rlhf_loop.domain import Pair, Rating, prompt_key
from rlhf_loop.exchange.fields import is_missing, storable
from rlhf_loop.exchange.formats.base import FileRow, Labels, Layout
from rlhf_loop.exchange.formats.messages import (
    answer_messages,
    answer_text,
    first_present,
    messages_of,
    prompt_text,
    question_messages,
    split_prompt,
)
from rlhf_loop.utils.row_writers import Kind, Row
from rlhf_loop.utils.rows import LONGEST_ROW
from rlhf_loop.utils.translation import Message

PREFERENCE = ("prompt", "chosen", "rejected")
UNPAIRED = ("prompt", "completion", "label")
_UNSAID = frozenset({"reviewer_role", "harmful"})
#: Names of the prompt, elsewhere, too, and what belongs to one of them.
_PROMPTS = ("prompt", "conversations", "messages", "question", "instruction", "input")
_SHAREGPT_LABEL = "kto_tag"
#: Rows whose completions begin with the prompt, and none that does not: then the file repeats it.
_ENOUGH = 1000


class _CompletionsLayout(Layout):
    """The base of layouts whose completions may begin with the prompt once more, where prompt and all are texts.

    An answer may begin with the very words of the question, too. So the prompt is cut off only where it ends in a mark
    and a blank follows, or if all of the file's completions that could tell begin with it.
    """

    def __init__(self, labels: Labels) -> None:
        super().__init__(labels)
        self._repeated: bool | None = None
        # What waits until the file has told: as it is, and without the prompt.
        self._waiting: list[tuple[FileRow, FileRow]] = []
        self._chars = 0

    def finish(self) -> Iterable[FileRow]:
        return self._decide(repeated=True)

    def _decide(self, *, repeated: bool) -> list[FileRow]:
        if self._repeated is None:
            self._repeated = repeated
        waiting, self._waiting = self._waiting, []
        return [without if self._repeated else whole for whole, without in waiting]

    def _without_repeated(
        self, prompt: Any, completions: Sequence[Any], row: Callable[[Sequence[Any]], FileRow]
    ) -> list[FileRow]:
        """Return the row of completions without the prompt that they repeat, and those that waited for it."""
        whole = row(completions)
        if not all(isinstance(each, str) for each in (prompt, *completions)) or not (start := prompt.strip()):
            return [whole]
        rests = [each[len(start) :] if each.startswith(start) else "" for each in completions]
        marked = not start[-1].isalnum() or prompt[-1] in "\r\n"
        if not all(rest.strip() and (rest[0].isspace() or marked) for rest in rests):
            return [*self._decide(repeated=False), whole]
        without = row([rest.strip() for rest in rests])
        if self._repeated is False and not (marked and all(rest[0].isspace() for rest in rests)):
            return [whole]
        if self._repeated or (marked and all(rest[0].isspace() for rest in rests)):
            return [without]
        self._waiting.append((whole, without))
        self._chars += sum(map(len, completions))
        # More of them are no chance, and need not be in memory.
        enough = len(self._waiting) == _ENOUGH or self._chars > LONGEST_ROW
        return self._decide(repeated=True) if enough else []


class PreferenceLayout(_CompletionsLayout):
    """The layout of preferences: the answers to a question become a group, and the reviewer prefers the chosen one."""

    def match(self, names: Sequence[str]) -> tuple[str, ...]:
        return tuple(name for name in names if name not in (*PREFERENCE, *_PROMPTS))

    def _read(self, line: int, values: Mapping[str, Any]) -> Iterable[FileRow]:
        chosen, rejected = (_needed(values, name) for name in ("chosen", "rejected"))
        if chosen == rejected:
            raise ValueError(Message("chosen and rejected are the same"))
        prompt = _prompt(values)
        if prompt is None:
            prompt, chosen, rejected = split_prompt(chosen, rejected)
        else:
            prompt, chosen, rejected = _without_prompt(prompt, chosen, rejected)
        text = prompt_text("prompt", prompt)

        def row(completions: Sequence[Any]) -> FileRow:
            better, worse = (
                storable(Rating(text, answer_text(name, value), candidate_group=_group(text)))
                for name, value in zip(("chosen", "rejected"), completions, strict=True)
            )
            if better.ai_response == worse.ai_response:
                raise ValueError(Message("chosen and rejected are the same"))
            return FileRow(line, better, unsaid=_UNSAID, worse=worse)

        return self._without_repeated(prompt, (chosen, rejected), row)


class UnpairedLayout(_CompletionsLayout):
    """The layout of unpaired preferences: a label becomes a rating."""

    def match(self, names: Sequence[str]) -> tuple[str, ...]:
        return tuple(name for name in names if name not in (*UNPAIRED, *_PROMPTS, _SHAREGPT_LABEL))

    def _read(self, line: int, values: Mapping[str, Any]) -> Iterable[FileRow]:
        prompt, completion = _prompt(values), values.get("completion")
        if isinstance(prompt, list) and is_missing(completion):
            # A conversation that ends with the answer that is labelled.
            prompt, completion = prompt[:-1], prompt[-1:]
        prompt, completion = (_needed({"prompt": prompt, "completion": completion}, name) for name in UNPAIRED[:2])
        label = _needed({"label": first_present(values.get("label"), values.get(_SHAREGPT_LABEL))}, "label")
        if isinstance(completion, list) and len(completion) > 1:
            prompt, completion, _ = _without_prompt(prompt, completion, [*completion[:-1], None])
        text = prompt_text("prompt", prompt)
        stars = self._labels.label(_label(label))

        def row(completions: Sequence[Any]) -> FileRow:
            answer = answer_text("completion", completions[0])
            rating = Rating(text, answer, rating=stars, candidate_group=_group(text))
            return FileRow(line, storable(rating), unsaid=_UNSAID)

        return self._without_repeated(prompt, (completion,), row)


#: What a file of preferences has besides with drafts, as TRL's own examples name it; empty where people have judged.
SCORES = ("score_chosen", "score_rejected", "margin")


def preference_columns(*, conversational: bool, scores: bool = False) -> dict[str, Kind]:
    """Return the columns of a file of preferences."""
    texts = dict.fromkeys(PREFERENCE, Kind.MESSAGES if conversational else Kind.TEXT)
    return texts | dict.fromkeys(SCORES if scores else (), Kind.REAL)


def preference_cells(pair: Pair, *, conversational: bool) -> Row:
    """Return a row of preferences."""
    if conversational:
        return [question_messages(pair.prompt), answer_messages(pair.chosen), answer_messages(pair.rejected)]
    return [pair.prompt, pair.chosen, pair.rejected]


def unpaired_columns(*, conversational: bool, labels: bool = True) -> dict[str, Kind]:
    """Return the columns of a file of unpaired preferences; without labels it is one for supervised fine-tuning."""
    text = Kind.MESSAGES if conversational else Kind.TEXT
    return {"prompt": text, "completion": text} | ({"label": Kind.YES_NO} if labels else {})


def unpaired_cells(prompt: str, completion: str, *, good: bool, conversational: bool) -> Row:
    """Return a row of unpaired preferences."""
    if conversational:
        return [question_messages(prompt), answer_messages(completion), good]
    return [prompt, completion, good]


def _needed(values: Mapping[str, Any], name: str) -> Any:
    value = values.get(name)
    if is_missing(value) or value == []:
        raise ValueError(Message("{name} is missing", name=name))
    # ShareGPT has one message where TRL has a list of it.
    return [value] if isinstance(value, Mapping) else value


def _prompt(values: Mapping[str, Any]) -> Any:
    """Return the prompt by the first of its names, None if it is nowhere."""
    for name in _PROMPTS:
        if not is_missing(value := values.get(name)) and value != []:
            more = values.get("input") if name == "instruction" else None
            return f"{value}\n{more}" if isinstance(more, str) and more else value
    return None


def _without_prompt(prompt: Any, chosen: Any, rejected: Any) -> tuple[Any, Any, Any]:
    """Return prompt and completions, messages of which may begin with the prompt once more, as only that.

    Raises:
        ValueError: they begin with another one.
    """
    if not (isinstance(chosen, list) and isinstance(rejected, list)):
        return prompt, chosen, rejected
    _, answer, other = split_prompt([None, *chosen], [None, *rejected])
    before = chosen[: len(chosen) - len(answer)]
    asked = [turn.text.strip() for turn in messages_of("chosen", before) if turn.role == "user"]
    if not asked:
        return prompt, chosen, rejected
    if prompt_text("prompt", prompt).strip() not in (*asked, prompt_text("chosen", before).strip()):
        raise ValueError(
            Message("chosen begins with the question {asked!r}, which is not the prompt", asked=asked[-1][:60])
        )
    return before, answer, other


def _label(value: object) -> bool:
    # CSV has only words, and some keep 1 and 0, also as columns with gaps do.
    found = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
    if (label := found.get(str(value).strip().lower())) is None:
        raise ValueError(Message("label is {value!r}, neither true nor false", value=str(value)[:60]))
    return label


def _group(prompt: str) -> str:
    """Name the answers to one question, the same in each file."""
    return f"trl:{hashlib.sha256(prompt_key(prompt).encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"
