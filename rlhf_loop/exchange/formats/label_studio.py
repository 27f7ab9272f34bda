"""Label Studio's exports and webhooks: JSON of whole tasks, JSON_MIN and CSV with a row for each annotation.

As https://labelstud.io/guide/export describes them. A task has `data` and `annotations`, each of one annotator
(`completed_by`), with a list `result` of what was said: `from_name` (the name of the control), `to_name`, `type` and
`value`. In JSON_MIN and CSV the fields of the task stand beside the names of the controls, and `annotator`. What was
skipped (`was_cancelled`) does not count, nor do predictions, which are not by people.

The control for the rating is named `rating`, or as `--column rating=NAME` says; else it is the only one of the kind
Rating or Number. `comment`, `correction` and `harmful` are found in the same way. Where a task has several answers,
each result is about the one in its `to_name`, and a Pairwise result is a preference: left is the first of two names.
These are names of tags, and the export does not tell which field of the task a tag shows: where they are not the
field's, and in JSON_MIN and CSV, which have no `to_name`, nothing is guessed. `--map TAG=FIELD`, `--map
CONTROL=LEFT,RIGHT` and `--map CONTROL=rating` say it, and `--map CONTROL=none` leaves one out.

A webhook (https://labelstud.io/guide/webhook_reference) has an `action`, and where "Send payload" is on the
`annotation` with its `task` and `project`. In ANNOTATIONS_CREATED, as version 1.23 sends it, both are lists, in the
same order. Of what was deleted only the ids come. Read was the code of label-studio-sdk 2.1, which writes the exports.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rlhf_loop.domain import Rating
from rlhf_loop.exchange.fields import ABOUT, check_wanted, is_missing, match_columns, to_rating
from rlhf_loop.exchange.formats.base import FileRow, Labels, Layout, tell_apart
from rlhf_loop.exchange.formats.messages import (
    as_mapping,
    first_present,
    parse_json,
    read_answer,
    read_prompt,
    user_name,
)
from rlhf_loop.utils.translation import Message

TOOL = "label-studio"
#: In a value, the key under which each kind of control keeps what was said.
_KEYS = {"rating": "rating", "number": "number", "choices": "choices", "textarea": "text", "pairwise": "selected"}
#: The kinds of controls that say something of an answer.
KINDS = frozenset(_KEYS)
_KIND_OF = {key: kind for kind, key in _KEYS.items()}
#: What JSON_MIN and CSV add to the fields of the task and the names of the controls.
_ADDED = ("id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement", "history")
_REVIEW_FIELDS = ("rating", "feedback_comment", "corrected_response", "harmful")
_TIMES = ("created_at", "retrieved_at")
#: Several answers in one task have numbers or letters: answer1, response_b.
_NUMBERED = re.compile(
    r"(?:answer|response|completion|output|text|candidate|option)[_ -]?(?:\d{1,2}|[a-h])", re.IGNORECASE
)
_NUMBER = re.compile(r"(?:[_ -]?\d{1,2}|[_ -][a-h])$", re.IGNORECASE)
#: In CSV a field of the task that is called as a control has this before its name.
_OF_DATA = "_data_"
#: In a mapping, the meanings of controls; what is to be left out.
_MEANINGS = {"comment": "feedback_comment", "correction": "corrected_response"}
_NONE = "none"
_ANNOTATED = ("ANNOTATION_CREATED", "ANNOTATIONS_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_UPDATED")
_DELETED = ("ANNOTATION_DELETED", "ANNOTATIONS_DELETED")


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one control: its name and kind, the names of what it is about, and the plain value."""

    name: str
    kind: str
    about: tuple[str, ...]
    value: Any


@dataclass(frozen=True, slots=True)
class Annotation:
    """One annotator's results for a task; `id` is Label Studio's, None where the export does not tell it.

    `stand_in` names an annotator whom it does not name.
    """

    id: str | None
    reviewer: str | None
    said_at: Any
    results: tuple[Result, ...]
    cancelled: bool = False
    stand_in: str | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """The fields of a task, what its annotators said, and how many of them skipped it."""

    data: Mapping[str, Any]
    annotations: tuple[Annotation, ...]
    skipped: int = 0


def from_task(values: Mapping[str, Any]) -> Task:
    """Return a task as the JSON export has it; what was skipped is left out.

    Raises:
        ValueError: it is not a valid task.
    """
    data = as_mapping(values.get("data"))
    if not data:
        raise ValueError(Message("data is missing; a task of Label Studio has data and annotations"))
    found = first_present(values.get("annotations"), values.get("completions"), [])
    if not isinstance(found, list):
        raise ValueError(Message("annotations is {found!r}, not a list", found=str(found)[:60]))
    said = [annotation for each in found if not (annotation := read_annotation(each)).cancelled]
    names = [f"{TOOL}:annotation-{annotation.id or number}" for number, annotation in enumerate(said, 1)]
    reviewers = tell_apart([annotation.reviewer for annotation in said], names)
    return Task(
        data,
        tuple(
            replace(each, reviewer=reviewer, stand_in=name if each.reviewer is None else None)
            for each, reviewer, name in zip(said, reviewers, names, strict=True)
        ),
        skipped=len(found) - len(said),
    )


def read_annotation(values: object) -> Annotation:
    """Return an annotation as the JSON export and the webhooks have it.

    Raises:
        ValueError: it is not a valid annotation.
    """
    if not isinstance(values, Mapping):
        raise ValueError(Message("an annotation is {values!r}, not an object", values=str(values)[:60]))
    results = first_present(values.get("result"), [])
    if not isinstance(results, list):
        raise ValueError(Message("the result of an annotation is {results!r}, not a list", results=str(results)[:60]))
    by = values.get("completed_by")
    user = first_present(by.get("id"), by.get("email")) if isinstance(by, Mapping) else by
    return Annotation(
        id=None if is_missing(values.get("id")) else str(values["id"]),
        reviewer=user_name(TOOL, user),
        said_at=first_present(values.get("updated_at"), values.get("created_at")),
        results=tuple(_result(each) for each in results if isinstance(each, Mapping)),
        cancelled=bool(values.get("was_cancelled")),
    )


def from_row(values: Mapping[str, Any]) -> Task:
    """Return a row of JSON_MIN or CSV as a task with one annotation.

    What is of the task and what of a control cannot always be told, so all of it is both.
    """
    rest = {name: parse_json(value) for name, value in values.items() if name not in _ADDED and not is_missing(value)}
    of_data = {name.removeprefix(_OF_DATA): values[name] for name in rest if name.startswith(_OF_DATA)}
    rest = {name: value for name, value in rest.items() if not name.startswith(_OF_DATA)}
    of_control = {name: kind for name, value in rest.items() if (kind := _kind(value)) or name in of_data}
    id = None if is_missing(values.get("annotation_id")) else str(values["annotation_id"])
    reviewer = user_name(TOOL, values.get("annotator"))
    annotation = Annotation(
        id=id,
        reviewer=reviewer,
        stand_in=None if id is None or reviewer else f"{TOOL}:annotation-{id}",
        said_at=first_present(values.get("updated_at"), values.get("created_at")),
        results=tuple(Result(name, of_control.get(name) or "", (), _plain(value)) for name, value in rest.items()),
    )
    return Task({name: values[name] for name in rest if name not in of_control} | of_data, (annotation,))


class LabelStudioLayout(Layout):
    """The layout of tasks and annotations; each annotator is a reviewer.

    `names` maps tags to the fields that they show, and controls to what they are about or mean.
    """

    def __init__(self, labels: Labels, *, columns: Mapping[str, str], names: Mapping[str, str]) -> None:
        check_wanted(columns)
        super().__init__(labels)
        self._columns = dict(columns)
        self._names = dict(names)
        self._met = set[str]()
        self._matched: dict[tuple[str, ...], Mapping[str, str]] = {}

    def finish(self) -> Iterable[FileRow]:
        self._unused.update(dict.fromkeys(f"--map {name}" for name in self._names if name not in self._met))
        return ()

    def _read(self, line: int, values: Mapping[str, Any]) -> Iterable[FileRow]:
        task = from_task(values) if "data" in values else from_row(values)
        for _ in range(task.skipped):
            # Whoever skips may have rated before; only an event tells what became of that very annotation.
            self.pass_over("skipped annotations")
        return self.task_rows(line, task)

    def task_rows(self, line: int, task: Task) -> list[FileRow]:
        """Return what a task's annotations say, and each of its answers of which none speaks.

        Raises:
            ValueError: it cannot be stored.
        """
        task = self._mapped(task)
        answers = self._answers(task)
        rows: list[FileRow] = []
        mentioned: set[str] = set()
        for annotation in task.annotations:
            for result in annotation.results:
                self._check_about(result, answers, task, annotation)
            for name, text in answers.texts.items():
                of_it = [result for result in annotation.results if _is_about(result, name, answers, task)]
                said = self._said(of_it, several=len(answers.texts) > 1)
                # A comment, or a correction, needs a rating to stand beside.
                if "rating" in said:
                    mentioned.add(name)
                    rows.append(_row(line, answers, text, said, annotation))
                elif said:
                    self.pass_over("comments without a rating")
            for result in annotation.results:
                if pair := _preferred(result, answers):
                    mentioned.update(pair)
                    rows.append(_pair_row(line, answers, pair, annotation))
        rows += [_row(line, answers, text, {}) for name, text in answers.texts.items() if name not in mentioned]
        return rows

    def _mapped(self, task: Task) -> Task:
        """Return the task with the names of fields where the importer said what tags and controls are about."""
        if not self._names:
            return task
        said = []
        for annotation in task.annotations:
            results = []
            for result in annotation.results:
                self._met.update(name for name in (result.name, *result.about) if name in self._names)
                fields = tuple(part.strip() for part in self._names.get(result.name, "").split(","))
                of_fields = set(fields) <= set(task.data) and not self._meaning(result.name)
                about = fields if of_fields else tuple(self._names.get(n, n) for n in result.about)
                # In a row of JSON_MIN or CSV which of two is better may be a word alone.
                compares = of_fields and len(fields) == 2 and result.value in ("left", "right")
                if _NONE not in (*fields, *about):
                    results.append(replace(result, about=about, kind="pairwise" if compares else result.kind))
            said.append(replace(annotation, results=tuple(results)))
        return replace(task, annotations=tuple(said))

    def _check_about(self, result: Result, answers: _Answers, task: Task, annotation: Annotation) -> None:
        """Refuse what may be the rating of one of several answers, if nobody knows of which; count what is of none.

        What may be the rating of the only answer is refused, too, if its tag shows another field, and nothing else in
        the annotation rates the answer.
        """
        if result.kind == "pairwise" or is_missing(result.value):
            return
        if any(_is_about(result, name, answers, task) for name in answers.texts):
            return
        if len(answers.texts) == 1:
            [answer] = answers.texts
            others = [each for each in annotation.results if _is_about(each, answer, answers, task)]
            if self._may_rate(result) and not any(self._may_rate(each) for each in others):
                raise ValueError(
                    Message(
                        "the control {name!r} is about {about}, and the answer is in {answer!r}: --map "
                        "{name}={answer} if it rates the answer all the same, or --map {name}={none} to leave it "
                        "out",
                        name=result.name,
                        about=" and ".join(result.about),
                        answer=answer,
                        none=_NONE,
                    )
                )
            if result.kind in KINDS:
                self.pass_over("results about another field of the task")
            return
        of_field = set(result.about) & set(task.data)
        means = self._meaning(result.name) or self._known((_NUMBER.sub("", result.name) or result.name,))
        a_rating = result.kind in ("rating", "number") or (result.kind and self._labels.knows(result.value))
        if not of_field and (a_rating or (means and set(means) & set(_REVIEW_FIELDS))):
            called = result.about[0] if result.about else result.name
            raise ValueError(
                Message(
                    "the control {name!r} is about {said}, and which of {texts} that is nobody says: --map "
                    "{called}={texts2}, or --map {called}={none} to leave it out",
                    name=result.name,
                    said=" and ".join(result.about) or "one answer",
                    texts=_listed(tuple(answers.texts)),
                    called=called,
                    texts2=next(iter(answers.texts)),
                    none=_NONE,
                )
            )
        if result.kind:
            self._unused.setdefault(f"control {result.name}")

    def _may_rate(self, result: Result) -> bool:
        known = self._meaning(result.name) or self._known((result.name,))
        named = "rating" in known or self._columns.get("rating") == result.name
        return not is_missing(result.value) and (named or result.kind in ("rating", "number"))

    def _answers(self, task: Task) -> _Answers:
        names = tuple(task.data)
        known = self._known(names)
        if "user_prompt" not in known:
            raise ValueError(
                Message(
                    "no field is the question; the task has {names}: --column user_prompt=NAME", names=_listed(names)
                )
            )
        asked = [name for result in _results(task) if result.kind in KINDS for name in result.about if name in names]
        several = [name for name in asked if name != known.get("ai_response") and _NUMBERED.fullmatch(name)]
        if "ai_response" in known and not several and not _compared(task, known["ai_response"]):
            fields = [known["ai_response"]]
        else:
            fields = list(dict.fromkeys(asked + [name for name in names if _NUMBERED.fullmatch(name)]))
            fields = [name for name in fields if name != known["user_prompt"] and not is_missing(task.data[name])]
        if not fields:
            raise ValueError(
                Message("no field is the answer; the task has {names}: --column ai_response=NAME", names=_listed(names))
            )
        about = {field: task.data[known[field]] for field in (*ABOUT, "external_id", *_TIMES) if field in known}
        if len(fields) > 1:
            # It is the task's, and these are several.
            about.pop("external_id", None)
        prompt = known["user_prompt"]
        texts = {name: read_answer(name, task.data[name], of="tasks") for name in fields}
        return _Answers(read_prompt(prompt, task.data[prompt], of="tasks"), texts, about)

    def _meaning(self, control: str) -> tuple[str, ...]:
        """Return the field that a control means because the importer said so."""
        meant = self._names.get(control, "")
        found = _MEANINGS.get(meant, meant)
        return (found,) if found in _REVIEW_FIELDS else ()

    def _said(self, results: Sequence[Result], *, several: bool) -> dict[str, Any]:
        """Return what the results say, by field."""
        by_name = {result.name: result for result in results if result.kind != "pairwise"}
        # Of several answers each has controls of its own, with its number behind their names.
        plain = {(_NUMBER.sub("", name) if several else "") or name: result for name, result in by_name.items()}
        found = {
            field: (by_name | plain)[name]
            for field, name in self._known(tuple(plain)).items()
            if field in _REVIEW_FIELDS
        }
        found |= {
            field: by_name[name] for field, name in self._columns.items() if field in _REVIEW_FIELDS and name in by_name
        }
        found |= {field: result for name, result in by_name.items() for field in self._meaning(name)}
        if "rating" not in found and "rating" not in self._columns and (numbers := _numbers(by_name, found)):
            found["rating"] = numbers[0]
        used = {result.name for result in found.values()}
        others = [name for name, result in by_name.items() if result.kind and name not in used]
        self._unused.update(dict.fromkeys(f"control {name}" for name in others))
        said = {field: result.value for field, result in found.items() if not is_missing(result.value)}
        if "rating" in said:
            name = found["rating"].name
            if others := [each.value for each in results if each.name == name and each.value != said["rating"]]:
                both = f"{said['rating']!r} and {others[0]!r}"
                raise ValueError(
                    Message(
                        "the control {name!r} has in one annotation {both}; keep the one that counts",
                        name=name,
                        both=both,
                    )
                )
            if found["rating"].kind != "rating":
                # Stars are no thumbs.
                self._note_number(said["rating"])
            said["rating"] = self._labels.rating(found["rating"].name, said["rating"])
        return said

    def _known(self, names: tuple[str, ...]) -> Mapping[str, str]:
        """Return the names that mean a field, by the field."""
        if names not in self._matched:
            found = match_columns(names, self._columns).positions
            self._matched[names] = {field: names[place] for field, place in found.items()}
        return self._matched[names]


@dataclass(frozen=True, slots=True)
class AnnotationReview:
    """An annotation with its task as it is now; one that was skipped has no results any more."""

    task: Task
    annotation: Annotation


@dataclass(frozen=True, slots=True)
class Event:
    """The content of a webhook: nothing, if it is about something else than annotations.

    `unread` says why some of several annotations could not be read.
    """

    said: tuple[AnnotationReview, ...] = ()
    deleted: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()


def read_event(payload: Mapping[str, Any]) -> Event:
    """Read a webhook.

    Raises:
        ValueError: it is not a valid webhook, or has no payload.
    """
    action = payload.get("action")
    if not isinstance(action, str):
        raise ValueError(Message("action is missing, so this is not a webhook of Label Studio"))
    if action in _DELETED:
        gone = _several(first_present(payload.get("annotations"), payload.get("annotation"), payload.get("id")))
        ids = [each.get("id") if isinstance(each, Mapping) else each for each in gone]
        return Event(deleted=tuple(str(id) for id in ids if id is not None))
    if action not in _ANNOTATED:
        return Event()
    made = _several(first_present(payload.get("annotation"), payload.get("annotations")))
    if not made:
        raise ValueError(Message("annotation is missing; switch on 'Send payload' of the webhook in Label Studio"))
    tasks = [as_mapping(each) for each in _several(first_present(payload.get("task"), payload.get("tasks")))]
    by_id = {str(task["id"]): task for task in tasks if not is_missing(task.get("id"))}
    said, unread = list[AnnotationReview](), list[str]()
    for place, each in enumerate(map(as_mapping, made)):
        own = each.get("task")
        # One task for all, or one for each, which without ids stand in the annotations' order.
        by_place = tasks[place] if len(tasks) == len(made) and (is_missing(own) or not by_id) else {}
        task = tasks[0] if len(tasks) == 1 else by_id.get(str(own), by_place)
        try:
            said.append(_said(each, as_mapping(own) or task))
        except ValueError as error:
            unread.append(str(error))
    if unread and not said:
        raise ValueError(unread[0])
    return Event(tuple(said), unread=tuple(unread))


def _result(values: Mapping[str, Any]) -> Result:
    kind = str(values.get("type") or "").lower()
    value = as_mapping(values.get("value"))
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


@dataclass(frozen=True, slots=True)
class _Answers:
    """The question of a task, its answers by the names of their fields, and what else is known of it."""

    prompt: str
    texts: Mapping[str, str]
    about: Mapping[str, Any]


def _numbers(results: Mapping[str, Result], found: Mapping[str, Result]) -> list[Result]:
    """Return the one result that can only be the rating, if there is one."""
    used = {result.name for result in found.values()}
    numbers = [result for name, result in results.items() if result.kind in ("rating", "number") and name not in used]
    if len(numbers) > 1:
        both = " and ".join(repr(result.name) for result in numbers[:2])
        raise ValueError(
            Message(
                "{both} could both be the rating; choose one with --column rating={name}",
                both=both,
                name=numbers[0].name,
            )
        )
    return numbers


def _results(task: Task) -> list[Result]:
    return [result for annotation in task.annotations for result in annotation.results]


def _compared(task: Task, name: str) -> bool:
    """Tell whether the field is one of several answers."""
    return any(
        result.kind == "pairwise" and len(result.about) > 1 and name in result.about for result in _results(task)
    )


def _is_about(result: Result, name: str, answers: _Answers, task: Task) -> bool:
    if len(answers.texts) == 1:
        # Of the only answer, unless it is about another field of the task.
        return name in result.about or not (result.about and set(result.about) <= set(task.data))
    if result.about:
        return name in result.about
    # JSON_MIN and CSV do not say what a result is about; then the numbers at the ends of the names do.
    ending, its = _NUMBER.search(result.name), _NUMBER.search(name)
    return bool(ending and its) and _ending(ending) == _ending(its)


def _ending(found: re.Match[str] | None) -> str:
    return found[0].strip("_ -").lower() if found else ""


def _preferred(result: Result, answers: _Answers) -> tuple[str, str] | None:
    """Return the names of the better and the worse answer, None if the result prefers neither."""
    if result.kind != "pairwise" or result.value not in ("left", "right"):
        return None
    if len(result.about) != 2 or not set(result.about) <= set(answers.texts):
        fields = tuple(answers.texts)
        raise ValueError(
            Message(
                "{name!r} compares two answers, {said}, and the task has {fields}: say which was on the "
                "left and which on the right, such as --map {name}={said2}, or --map {name}={none} to "
                "leave it out",
                name=result.name,
                said=" and ".join(result.about) or "without saying which",
                fields=_listed(fields),
                said2=",".join((*fields, "RIGHT")[:2]),
                none=_NONE,
            )
        )
    left, right = result.about
    return (left, right) if result.value == "left" else (right, left)


def _row(
    line: int, answers: _Answers, text: str, said: Mapping[str, Any], annotation: Annotation | None = None
) -> FileRow:
    values = {"user_prompt": answers.prompt, "ai_response": text, **answers.about, **said}
    if annotation is not None:
        values |= {"reviewer": annotation.reviewer, "rated_at": annotation.said_at}
    unsaid = frozenset({"reviewer_role", *(["harmful"] if "harmful" not in said else [])})
    stand_in = annotation.stand_in if annotation else None
    return FileRow(line, to_rating(values), unsaid=unsaid, stand_in=stand_in)


def _pair_row(line: int, answers: _Answers, pair: tuple[str, str], annotation: Annotation) -> FileRow:
    better, worse = (_answer(answers, answers.texts[name], annotation) for name in pair)
    if better.ai_response == worse.ai_response:
        raise ValueError(Message("the two answers that were compared are the same"))
    unsaid = frozenset({"reviewer_role", "harmful"})
    return FileRow(line, better, unsaid=unsaid, worse=worse, stand_in=annotation.stand_in)


def _answer(answers: _Answers, text: str, annotation: Annotation) -> Rating:
    said = {"reviewer": annotation.reviewer, "rated_at": annotation.said_at}
    return to_rating({"user_prompt": answers.prompt, "ai_response": text, **answers.about, **said})


def _listed(names: Sequence[str]) -> str:
    return (", ".join(names) or "none")[:100]


def _said(values: Mapping[str, Any], task: Mapping[str, Any]) -> AnnotationReview:
    data = as_mapping(task.get("data"))
    if not data:
        raise ValueError(Message("the task of the annotation is missing, and with it question and answer"))
    annotation = read_annotation(values)
    return AnnotationReview(Task(data, () if annotation.cancelled else (annotation,)), annotation)


def _several(value: object) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
