"""Arize Phoenix: spans, annotations of them, and datasets made of both.

Spans are what `client.spans.get_spans_dataframe()` gives (`context.span_id`, `attributes.input.value`,
`attributes.output.value`, `parent_id`, `span_kind`, `start_time` ...), saved as Parquet, CSV or JSONL, or the same as
the API gives it, with objects instead of dots. Annotations are those of `get_span_annotations_dataframe()` (`span_id`,
`annotation_name`, `annotator_kind`, `result.score`, `result.label`, `result.explanation`, `identifier`, `user_id` ...)
or of the API (`name`, and `result` as an object), alone, or joined to the spans. The examples of a dataset have
`input`, `output`, and in `metadata` the `annotations` of the span that they were made of.
https://arize.com/docs/phoenix/tracing/how-to-tracing/importing-and-exporting-traces/exporting-annotated-spans and
https://arize.com/docs/phoenix/tracing/how-to-tracing/feedback-and-annotations/capture-feedback.

A span becomes an answer with its id as `external_id`; annotations by people of the name asked for become reviews of it.
Of spans that nobody annotated only those count that stand for a whole request: the rest are its parts. What models and
programs annotated does not count. A number has to come with its scale, as Phoenix has none of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rlhf_loop.domain import ReviewerRole
from rlhf_loop.exchange.fields import is_missing, to_rating
from rlhf_loop.exchange.formats.base import FileRow, LeftOutError, NamedLabels
from rlhf_loop.exchange.formats.messages import (
    as_mapping,
    as_time,
    first_present,
    parse_json,
    read_answer,
    read_prompt,
    user_name,
)
from rlhf_loop.utils.rows import Record

TOOL = "phoenix"
_UNSAID = frozenset({"reviewer_role", "harmful"})
_PEOPLE = "HUMAN"
#: Kinds of spans that do not answer anybody.
_PARTS = ("RETRIEVER", "EMBEDDING", "RERANKER", "TOOL", "GUARDRAIL", "EVALUATOR", "PROMPT")
_NESTED = ("context", "attributes", "result", "annotation")
#: Annotations made on Phoenix's own pages have this before the user's id.
_OF_ITS_PAGES = "px-app:"


class PhoenixLayout(NamedLabels):
    """The layout of spans, annotations and examples; whoever annotated is an end user."""

    role = ReviewerRole.END_USER

    def rows(self, record: Record) -> Iterable[FileRow]:
        values = dict(zip(record.names, record.cells, strict=True))
        examples = as_mapping(values.get("data")).get("examples", values.get("examples"))
        if isinstance(examples, list):
            return self._examples(examples)
        if isinstance(sent := values.get("data"), list) and len(values) == 1:
            # As annotations are sent to Phoenix.
            return self._examples(sent)
        return self._record(record.line, values)

    def _examples(self, examples: Sequence[Any]) -> Iterator[FileRow]:
        # A whole dataset is one object; here the number says which example it is.
        for number, example in enumerate(examples, 1):
            try:
                yield from self._record(number, as_mapping(example))
            except LeftOutError as error:
                self._others.setdefault(error.what)
            except ValueError as error:
                yield FileRow(number, None, str(error))

    def _record(self, line: int, values: Mapping[str, Any]) -> list[FileRow]:
        flat = _flat(values)
        # Without them in the index, both tables call it so.
        span = first_present(flat.get("context.span_id"), flat.get("span_id"))
        if not is_missing(values.get("input")) and not is_missing(values.get("output")):
            if "scores" in values or "traceId" in values:
                raise ValueError("it is a trace of Langfuse; import the file as langfuse")
            annotations = as_mapping(values.get("metadata")).get("annotations")
            about = _about(values["input"], values["output"], flat)
            return self._reviewed(line, about, _annotations(annotations))
        given, answer = _texts(flat)
        listed = _annotations(values.get("annotations")) or ([flat] if _is_annotation(flat) else [])
        if is_missing(given) and is_missing(answer):
            if not listed:
                raise ValueError("it is neither a span with input and output, nor an annotation, nor an example")
            if is_missing(span):
                raise ValueError("span_id is missing, so nobody knows what the annotation is about")
            return [
                _row(line, {"user_prompt": "-", "ai_response": "-", "external_id": str(span), **said}, elsewhere=True)
                for said in self._said(listed)
            ]
        if not listed and not _is_request(flat):
            return []
        for name, text in (("input", given), ("output", answer)):
            if is_missing(text):
                raise LeftOutError(
                    f"the {name} is missing: the call failed, or was never ended", what=f"spans without {name}"
                )
        if is_missing(span):
            raise ValueError("context.span_id is missing")
        about = _about(given, answer, flat) | {"external_id": str(span), "created_at": as_time(flat.get("start_time"))}
        return self._reviewed(line, about, listed)

    def _reviewed(self, line: int, about: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]]) -> list[FileRow]:
        return [_row(line, {**about, **said}) for said in self._said(annotations)] or [_row(line, about)]

    def _said(self, annotations: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        found = []
        for given in annotations:
            name = str(first_present(given.get("annotation_name"), given.get("name")) or "")
            kind = str(first_present(given.get("annotator_kind"), _PEOPLE)).upper()
            if name != self._labels.score_name:
                self._others.setdefault(f"annotation {name}")
            elif kind != _PEOPLE:
                self._others.setdefault(f"annotation {name} by {kind}")
            elif (grade := self._grade(name, _of_result(given, "label"), _of_result(given, "score"))) is not None:
                found.append(
                    {
                        "rating": grade,
                        "feedback_comment": _of_result(given, "explanation"),
                        "reviewer": _reviewer(given),
                        "rated_at": as_time(first_present(given.get("updated_at"), given.get("created_at"))),
                    }
                )
        return found

    def _grade(self, name: str, label: object, score: object) -> int | None:
        what = f"the annotation {name!r}"
        # A label of an own making says nothing here, but its number may.
        if not is_missing(label) and (is_missing(score) or self._labels.knows(label)):
            return self._labels.rating(what, label)
        if is_missing(score):
            return None
        if not self._labels.reads_numbers:
            raise ValueError(f"{what} is {score!r}; say what its scale is, such as --scale 0,1, or --thumbs")
        return self._labels.rating(what, score)


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values with dots in their names instead of objects in objects."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        nested = as_mapping(value) if name in _NESTED else {}
        if nested:
            found |= {f"{name}.{inner}": each for inner, each in _deeply(nested).items()}
        else:
            found[name] = value
    return found


def _deeply(values: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{inner}": each for inner, each in _deeply(value).items()}
        else:
            found[name] = value
    return found


def _texts(flat: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return what a span was given and what it answered; a model's messages tell more than their JSON."""
    given = first_present(*(_some(flat.get(f"attributes.{name}")) for name in ("llm.input_messages", "input.value")))
    answer = first_present(*(_some(flat.get(f"attributes.{name}")) for name in ("llm.output_messages", "output.value")))
    return given, answer


def _some(value: object) -> object:
    return None if parse_json(value) in ([], {}) else value


def _about(given: object, answer: object, flat: Mapping[str, Any]) -> dict[str, Any]:
    model = flat.get("attributes.llm.model_name")
    return {
        "user_prompt": read_prompt("the input", _some(given)),
        "ai_response": read_answer("the output", _some(answer)),
        "source": None if is_missing(model) else str(model),
    }


def _is_annotation(flat: Mapping[str, Any]) -> bool:
    # Joined to spans, the columns are there for those, too, that nobody annotated.
    has_name = not is_missing(flat.get("annotation_name")) or "attributes.input.value" not in flat
    return has_name and any(not is_missing(_of_result(flat, name)) for name in ("score", "label", "explanation"))


def _is_request(flat: Mapping[str, Any]) -> bool:
    kind = str(first_present(flat.get("span_kind"), flat.get("attributes.openinference.span.kind"))).upper()
    return is_missing(flat.get("parent_id")) and kind not in _PARTS


def _annotations(value: object) -> list[Mapping[str, Any]]:
    """Return annotations that stand in a list, or by their names."""
    found = parse_json(value)
    if isinstance(found, Mapping):
        found = [
            {"name": name, **each}
            for name, those in found.items()
            for each in (those if isinstance(those, list) else [those])
            if isinstance(each, Mapping)
        ]
    return [_flat(each) for each in found if isinstance(each, Mapping)] if isinstance(found, list) else []


def _of_result(given: Mapping[str, Any], name: str) -> Any:
    return first_present(*(given.get(f"{where}{name}") for where in ("result.", "annotation.", "")))


def _reviewer(given: Mapping[str, Any]) -> str | None:
    identifier = str(first_present(given.get("identifier")) or "")
    user = first_present(given.get("user_id"), identifier.removeprefix(_OF_ITS_PAGES))
    # Who sends the word of its users, by an application's key, tells them apart by the identifier.
    return user_name(TOOL, identifier if identifier and not identifier.startswith(_OF_ITS_PAGES) else user)


def _row(line: int, values: Mapping[str, Any], *, elsewhere: bool = False) -> FileRow:
    return FileRow(line, to_rating(values), unsaid=_UNSAID, texts_elsewhere=elsewhere)
