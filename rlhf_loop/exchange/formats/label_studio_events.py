"""Label Studio's webhooks: annotations that were made, changed or deleted.

As https://labelstud.io/guide/webhook_reference has them: an `action`, and where "Send payload" is on the `annotation`
with its `task` and `project`. Of what was deleted only the ids come.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlhf_loop.exchange.formats.label_studio_task import Annotation, Task, one_annotation
from rlhf_loop.exchange.formats.values import first, mapping

_ANNOTATED = ("ANNOTATION_CREATED", "ANNOTATIONS_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_UPDATED")
_DELETED = ("ANNOTATION_DELETED", "ANNOTATIONS_DELETED")


@dataclass(frozen=True, slots=True)
class Said:
    """What one annotation says now, of its task; a skipped one says nothing any more."""

    task: Task
    annotation: Annotation


@dataclass(frozen=True, slots=True)
class Event:
    """What a webhook tells: neither, if it is about something else than annotations."""

    said: tuple[Said, ...] = ()
    deleted: tuple[str, ...] = ()


def event(payload: Mapping[str, Any]) -> Event:
    """Read a webhook.

    Raises:
        ValueError: it is none, or without its payload.
    """
    action = payload.get("action")
    if not isinstance(action, str):
        raise ValueError("action is missing, so it is no webhook of Label Studio")
    if action in _DELETED:
        gone = _several(first(payload.get("annotations"), payload.get("annotation"), payload.get("id")))
        ids = [each.get("id") if isinstance(each, Mapping) else each for each in gone]
        return Event(deleted=tuple(str(id) for id in ids if id is not None))
    if action not in _ANNOTATED:
        return Event()
    made = _several(first(payload.get("annotation"), payload.get("annotations")))
    if not made:
        raise ValueError("annotation is missing; switch on 'Send payload' of the webhook in Label Studio")
    tasks = [mapping(each) for each in _several(first(payload.get("task"), payload.get("tasks")))]
    by_id = {str(task.get("id")): task for task in tasks}
    return Event(tuple(_said(mapping(each), tasks, by_id) for each in made))


def _said(values: Mapping[str, Any], tasks: list[Mapping[str, Any]], by_id: Mapping[str, Mapping[str, Any]]) -> Said:
    task = tasks[0] if len(tasks) == 1 else by_id.get(str(values.get("task")), {})
    data = mapping(task.get("data"))
    if not data:
        raise ValueError("the task of the annotation is missing, and with it question and answer")
    annotation = one_annotation(values)
    return Said(Task(data, () if annotation.cancelled else (annotation,)), annotation)


def _several(value: object) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
