"""A task of Label Studio with its annotations, whichever of its exports it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rlhf_loop.exchange.fields import is_missing
from rlhf_loop.exchange.formats.messages import parsed
from rlhf_loop.exchange.formats.values import first, mapping, name_of

TOOL = "label-studio"
#: In a value, the key under which each kind of control keeps what was said.
_KEYS = {
    "rating": "rating",
    "number": "number",
    "choices": "choices",
    "textarea": "text",
    "pairwise": "selected",
}
#: The kinds of controls that say something of an answer.
KINDS = frozenset(_KEYS)
_KIND_OF = {key: kind for kind, key in _KEYS.items()}
#: What JSON_MIN and CSV add to the fields of the task and the names of the controls.
_ADDED = ("id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement", "history")


@dataclass(frozen=True, slots=True)
class Result:
    """What was said by one control: its name and kind, the names of what it is about, and the plain value."""

    name: str
    kind: str
    about: tuple[str, ...]
    value: Any


@dataclass(frozen=True, slots=True)
class Annotation:
    """What one annotator said of a task; `id` is Label Studio's, None where the export does not tell it."""

    id: str | None
    reviewer: str | None
    said_at: Any
    results: tuple[Result, ...]
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class Task:
    """The fields of a task, and what its annotators said."""

    data: Mapping[str, Any]
    annotations: tuple[Annotation, ...]


def from_task(values: Mapping[str, Any]) -> Task:
    """Return a task as the JSON export has it; what was skipped is left out.

    Raises:
        ValueError: it is none.
    """
    data = mapping(values.get("data"))
    if not data:
        raise ValueError("data is missing; a task of Label Studio has data and annotations")
    found = first(values.get("annotations"), values.get("completions"), [])
    if not isinstance(found, list):
        raise ValueError(f"annotations is {str(found)[:60]!r}, not a list")
    said = tuple(annotation for each in found if not (annotation := one_annotation(each)).cancelled)
    if len([annotation for annotation in said if annotation.reviewer is None]) > 1:
        # Without users' details: still, they are several people.
        said = tuple(
            annotation
            if annotation.reviewer or annotation.id is None
            else replace(annotation, reviewer=f"{TOOL}:annotation-{annotation.id}")
            for annotation in said
        )
    return Task(data, said)


def one_annotation(values: object) -> Annotation:
    """Return an annotation as the JSON export and the webhooks have it.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"an annotation is {str(values)[:60]!r}, not an object")
    results = first(values.get("result"), [])
    if not isinstance(results, list):
        raise ValueError(f"the result of an annotation is {str(results)[:60]!r}, not a list")
    by = values.get("completed_by")
    user = first(by.get("id"), by.get("email")) if isinstance(by, Mapping) else by
    return Annotation(
        id=None if is_missing(values.get("id")) else str(values["id"]),
        reviewer=name_of(TOOL, user),
        said_at=first(values.get("updated_at"), values.get("created_at")),
        results=tuple(_result(each) for each in results if isinstance(each, Mapping)),
        cancelled=bool(values.get("was_cancelled")),
    )


def from_row(values: Mapping[str, Any]) -> Task:
    """Return a row of JSON_MIN or CSV as a task with one annotation.

    What is of the task and what of a control cannot always be told, so all of it is both.
    """
    rest = {name: parsed(value) for name, value in values.items() if name not in _ADDED and not is_missing(value)}
    of_control = {name: kind for name, value in rest.items() if (kind := _kind(value))}
    annotation = Annotation(
        id=None if is_missing(values.get("annotation_id")) else str(values["annotation_id"]),
        reviewer=name_of(TOOL, values.get("annotator")),
        said_at=first(values.get("updated_at"), values.get("created_at")),
        results=tuple(Result(name, of_control.get(name, ""), (), _plain(value)) for name, value in rest.items()),
    )
    return Task({name: values[name] for name in rest if name not in of_control}, (annotation,))


def _result(values: Mapping[str, Any]) -> Result:
    kind = str(values.get("type") or "").lower()
    value = mapping(values.get("value"))
    about = tuple(name.strip() for name in str(values.get("to_name") or "").split(",") if name.strip())
    return Result(str(values.get("from_name") or ""), kind, about, _simple(value.get(_KEYS.get(kind, kind))))


def _kind(value: object) -> str | None:
    """Tell which kind of control a cell of JSON_MIN or CSV is of, None if it does not say."""
    regions: list[Any] = value if isinstance(value, list) else [value]
    if not regions or not all(isinstance(region, Mapping) for region in regions):
        return None
    return next((kind for key, kind in _KIND_OF.items() if key in regions[0] and "role" not in regions[0]), None)


def _plain(value: object) -> Any:
    regions: Sequence[Any] = value if isinstance(value, list) else [value]
    kind = _kind(value)
    return _simple([region[_KEYS[kind]] for region in regions] if kind else value)


def _simple(value: Any) -> Any:
    """Return the one thing in a list, texts in one text."""
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, list) and value and all(isinstance(part, str) for part in value):
        return "\n".join(value)
    return value
