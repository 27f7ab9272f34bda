"""Arize Phoenix: spans, annotations of them, and datasets made of both.

Spans are what `client.spans.get_spans_dataframe()` gives (`context.span_id`, `attributes.input.value`,
`attributes.output.value`, `parent_id`, `span_kind`, `start_time` ...), saved as Parquet, CSV or JSONL, or the same as
the API and the command line give it, with objects instead of dots. Its pages download spans as JSONL and as OTLP's
JSON, with the annotations among the attributes (`annotations.0.annotation.name` ..., of the trace
`trace.annotations.0...`). Annotations are those of `get_span_annotations_dataframe()` (`span_id`, `annotation_name`,
`annotator_kind`, `result.score`, `result.label`, `result.explanation`, `identifier`, `user_id` ...) or of the API
(`name`, and `result` as an object), alone, or joined to the spans. The examples of a dataset have `input`, `output`,
and in `metadata` the `annotations` of the span that they were made of. Read was the code of version 20.3.
https://arize.com/docs/phoenix/tracing/how-to-tracing/importing-and-exporting-traces/exporting-annotated-spans and
https://arize.com/docs/phoenix/tracing/how-to-tracing/feedback-and-annotations/capture-feedback.

A span becomes an answer with its id as `external_id`; annotations by people of the name asked for become reviews of it,
and those of a whole trace reviews of its first span. Of spans that nobody annotated only those count that stand for a
whole request: the rest are its parts. What models and programs annotated does not count. A number has to come with its
scale, as Phoenix has none of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rlhf_loop.domain import ReviewerRole
from rlhf_loop.exchange.fields import is_missing, to_rating
from rlhf_loop.exchange.formats.base import FileRow, Labels, Layout, LeftOutError, tell_apart
from rlhf_loop.exchange.formats.messages import (
    as_mapping,
    first_present,
    parse_json,
    read_answer,
    read_prompt,
    user_name,
)
from rlhf_loop.utils.translation import Message

TOOL = "phoenix"
_UNSAID = frozenset({"reviewer_role", "harmful"})
_PEOPLE = "HUMAN"
_STAND_IN = "stand_in"
#: Kinds of spans that do not answer anybody.
_PARTS = ("RETRIEVER", "EMBEDDING", "RERANKER", "TOOL", "GUARDRAIL", "EVALUATOR", "PROMPT")
#: Annotations made on Phoenix's own pages have this before the user's id.
_OF_ITS_PAGES = "px-app:"
#: Of OTLP's fields those that have other names here, both as protobuf and as its JSON spell them.
_OTLP = {"span_id": ("spanId",), "trace_id": ("traceId",), "parent_id": ("parent_span_id", "parentSpanId")}
_OTLP |= {"start_time": ("start_time_unix_nano", "startTimeUnixNano")}


class PhoenixLayout(Layout):
    """The layout of spans, annotations and examples; whoever annotated is an end user."""

    role = ReviewerRole.END_USER
    parted = True

    def __init__(self, labels: Labels) -> None:
        super().__init__(labels)
        # What is said of a trace is about its first span, which may come later.
        self._first: dict[str, str] = {}
        self._of_traces: list[tuple[int, str, dict[str, Any]]] = []
        # Who annotated which span, by hashes.
        self._of_spans = set[int]()

    def finish(self) -> Iterable[FileRow]:
        taken = set[int]()
        for line, trace, said in self._of_traces:
            # Each span of a trace may repeat what is said of the trace.
            if (same := hash((trace, str(said)))) in taken:
                continue
            taken.add(same)
            if trace not in self._first:
                self.pass_over("annotations of a trace whose first span is not in the file")
                continue
            span = self._first[trace]
            # Whoever spoke of the span as well said more exactly what they mean.
            if hash((span, said["reviewer"])) in self._of_spans:
                self.pass_over("annotations of a trace by whoever annotated its first span")
                continue
            try:
                yield _row(line, {**said, "external_id": span}, elsewhere=True)
            except ValueError as error:
                yield FileRow(line, None, str(error))

    def _inside(self, values: Mapping[str, Any]) -> Sequence[Any] | None:
        # A whole dataset is one object, and so is a request of OTLP's and what is sent to the API.
        data = values.get("data")
        for found in (as_mapping(data).get("examples"), values.get("examples"), data):
            if isinstance(found, list):
                return found
        if isinstance(spans := values.get("spans"), list):
            return [*spans, *(_of(values, "annotations") or ())]
        resources = _of(values, "resource_spans", "resourceSpans")
        if resources is None:
            return None
        scopes = [scope for resource in resources for scope in _of(resource, "scope_spans", "scopeSpans") or ()]
        return [span for scope in scopes for span in _of(scope, "spans") or ()]

    def _read(self, line: int, values: Mapping[str, Any]) -> Iterable[FileRow]:
        record = _nested(values)
        for name, others in _OTLP.items():
            record[name] = first_present(record.get(name), *(record.get(other) for other in others))
        context, attributes = as_mapping(record.get("context")), as_mapping(record.get("attributes"))
        # Without them in the index, both tables call it so.
        span, trace = (first_present(context.get(name), record.get(name)) for name in ("span_id", "trace_id"))
        if not is_missing(record.get("input")) and not is_missing(record.get("output")):
            return self._example(line, record)
        given, answer = _texts(attributes)
        listed = [*_annotations(record.get("annotations")), *_annotations(attributes.get("annotations"))]
        listed += [record] if not listed and _is_annotation(record) else []
        if is_missing(given) and is_missing(answer) and not attributes:
            return self._annotation(line, listed, span=span, trace=trace)
        about = {"external_id": None if is_missing(span) else str(span), "created_at": record.get("start_time")}
        said = self._said(listed, of=str(span))
        of_trace = self._said(_annotations(as_mapping(attributes.get("trace")).get("annotations")), of=str(trace))
        first = is_missing(record.get("parent_id"))
        of = str(first_present(trace, span))
        self._of_traces += [(line, of, each) for each in of_trace]
        kind = str(first_present(record.get("span_kind"), _value(attributes, "openinference.span.kind"))).upper()
        if not said and not (first and (of_trace or kind not in _PARTS)):
            raise LeftOutError(
                Message("it is a part of a request, and nobody rated it"), what="unrated parts of requests"
            )
        for name, text in (("input", given), ("output", answer)):
            if is_missing(text):
                raise LeftOutError(
                    Message("the {name} is missing: the call failed, or was never ended", name=name),
                    what=f"spans without {name}",
                )
        if is_missing(span):
            raise ValueError(Message("context.span_id is missing"))
        about |= _about(given, answer, of="spans")
        about |= dict.fromkeys(("source", "drafted_by"), _value(attributes, "llm.model_name"))
        if first:
            self._first[of] = str(span)
        self._of_spans |= {hash((str(span), each["reviewer"])) for each in said}
        return [_row(line, {**about, **each}) for each in said] or [_row(line, about)]

    def _example(self, line: int, record: Mapping[str, Any]) -> list[FileRow]:
        if "scores" in record or "traceId" in record:
            raise ValueError(Message("it is a trace of Langfuse; import the file as langfuse"))
        about = _about(record["input"], record["output"], of="examples")
        said = self._said(_annotations(as_mapping(record.get("metadata")).get("annotations")), of=str(record.get("id")))
        return [_row(line, {**about, **each}) for each in said] or [_row(line, about)]

    def _annotation(
        self, line: int, listed: Sequence[Mapping[str, Any]], *, span: object, trace: object
    ) -> list[FileRow]:
        if not listed:
            raise LeftOutError(Message("it is neither a span with input and output, nor an annotation, nor an example"))
        said = self._said(listed, of=str(first_present(span, trace)))
        if not is_missing(listed[0].get("document_position")):
            raise LeftOutError(Message("it is about a document that was found"), what="annotations of documents")
        if is_missing(span) and not is_missing(trace):
            self._of_traces += [(line, str(trace), each) for each in said]
            return []
        if is_missing(span) and not is_missing(listed[0].get("session_id")):
            raise LeftOutError(Message("it is about a session"), what="annotations of sessions")
        if is_missing(span):
            raise ValueError(Message("span_id is missing, so nobody knows what the annotation is about"))
        self._of_spans |= {hash((str(span), each["reviewer"])) for each in said}
        return [_row(line, {"external_id": str(span), **each}, elsewhere=True) for each in said]

    def _said(self, annotations: Sequence[Mapping[str, Any]], *, of: str) -> list[dict[str, Any]]:
        found, names = list[dict[str, Any]](), list[str]()
        for given in annotations:
            name = str(first_present(given.get("annotation_name"), given.get("name")) or "")
            kind = str(first_present(given.get("annotator_kind"), _PEOPLE)).upper()
            if name != self._labels.score_name:
                self._unused.setdefault(f"annotation {name}")
            elif kind != _PEOPLE:
                self._unused.setdefault(f"annotation {name} by {kind}")
            elif (grade := self._grade(name, _of_result(given, "label"), _of_result(given, "score"))) is not None:
                found.append(
                    {
                        "rating": grade,
                        "feedback_comment": _of_result(given, "explanation"),
                        "reviewer": _reviewer(given),
                        "rated_at": first_present(given.get("updated_at"), given.get("created_at")),
                    }
                )
                # By its place: Phoenix keeps one nameless annotation of a span, and not every export has its id.
                names.append(f"{TOOL}:annotation-{of}-{sum(each['reviewer'] is None for each in found)}")
            else:
                self.pass_over("annotations without a label and a score")
        reviewers = tell_apart([each["reviewer"] for each in found], names)
        return [
            {**each, "reviewer": reviewer, _STAND_IN: name if each["reviewer"] is None else None}
            for each, reviewer, name in zip(found, reviewers, names, strict=True)
        ]

    def _grade(self, name: str, label: object, score: object) -> int | None:
        what = f"the annotation {name!r}"
        # A label of an own making says nothing here, but its number may.
        if not is_missing(label) and (is_missing(score) or self._labels.knows(label)):
            return self._labels.rating(what, label)
        if is_missing(score):
            return None
        if not self._labels.reads_numbers:
            raise ValueError(
                Message(
                    "{what} is {score!r}; say what its scale is, such as --scale 0,1, or --thumbs",
                    what=what,
                    score=score,
                )
            )
        return self._labels.rating(what, score)


def _of(value: object, *names: str) -> list[Any] | None:
    found = parse_json(first_present(*(as_mapping(value).get(name) for name in names)))
    return found if isinstance(found, list) else None


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values with objects and lists instead of dots in their names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        *path, last = name.split(".")
        place = found
        for part in path:
            inner = place.get(part)
            place[part] = place = inner if isinstance(inner, dict) else {**as_mapping(inner)}
        value = _any_value(value) if name == "attributes" else value
        there = place.get(last)
        if isinstance(value, Mapping):
            value = _nested(value) | (there if isinstance(there, dict) else {})
        if not (is_missing(value) and last in place):
            place[last] = value
    return {name: _with_lists(value) for name, value in found.items()}


def _with_lists(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    inner = {name: _with_lists(each) for name, each in value.items()}
    if inner and all(name.isdecimal() for name in inner):
        return [inner[name] for name in sorted(inner, key=lambda name: (len(name), name))]
    return inner


def _any_value(value: object) -> Any:
    """Return what OTLP has as a list of keys and values, each in an object that names its type."""
    if isinstance(value, str):
        return as_mapping(value) or value
    if isinstance(value, list):
        pairs = [each for each in value if isinstance(each, Mapping) and "key" in each]
        return {str(each["key"]): _typed(each.get("value")) for each in pairs}
    return value


def _typed(value: object) -> Any:
    inner = first_present(*as_mapping(value).values())
    values = inner.get("values") if isinstance(inner, Mapping) else None
    if not isinstance(values, list):
        return inner
    # An object, or a list.
    return _any_value(values) if "key" in as_mapping(first_present(*values)) else [_typed(each) for each in values]


def _value(attributes: Mapping[str, Any], name: str) -> Any:
    found: Any = attributes
    for part in name.split("."):
        found = as_mapping(found).get(part)
    return None if isinstance(found, Mapping | list) else found


def _texts(attributes: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return what a span was given and what it answered; a model's messages tell more than their JSON."""
    found = []
    for name in ("input", "output"):
        # In CSV that a data frame wrote lists are Python's, and the value says the same.
        messages = _of(as_mapping(attributes.get("llm")), f"{name}_messages")
        value = as_mapping(attributes.get(name)).get("value")
        found.append(first_present(*(each for each in (messages, value) if parse_json(each) not in ([], {}))))
    return found[0], found[1]


def _about(given: object, answer: object, *, of: str) -> dict[str, Any]:
    return {"user_prompt": read_prompt("input", given, of=of), "ai_response": read_answer("output", answer, of=of)}


def _is_annotation(record: Mapping[str, Any]) -> bool:
    # Joined to spans, the columns are there for those, too, that nobody annotated.
    has_name = not is_missing(record.get("annotation_name")) or "attributes" not in record
    return has_name and any(not is_missing(_of_result(record, name)) for name in ("score", "label", "explanation"))


def _annotations(value: object) -> list[Mapping[str, Any]]:
    """Return annotations that stand in a list, or by their names."""
    found = parse_json(value)
    if isinstance(found, Mapping):
        found = [
            {"name": name, **each}
            for name, those in found.items()
            for each in _several(parse_json(those))
            if isinstance(each, Mapping)
        ]
    listed = found if isinstance(found, list) else []
    return [as_mapping(each.get("annotation")) or _nested(each) for each in listed if isinstance(each, Mapping)]


def _of_result(given: Mapping[str, Any], name: str) -> Any:
    return first_present(*(as_mapping(inner).get(name) for inner in (given.get("result"), given)))


def _several(value: object) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _reviewer(given: Mapping[str, Any]) -> str | None:
    identifier = str(first_present(given.get("identifier")) or "")
    user = first_present(given.get("user_id"), identifier.removeprefix(_OF_ITS_PAGES))
    # Who sends the word of its users, by an application's key, tells them apart by the identifier.
    return user_name(TOOL, identifier if identifier and not identifier.startswith(_OF_ITS_PAGES) else user)


def _row(line: int, values: Mapping[str, Any], *, elsewhere: bool = False) -> FileRow:
    texts = {"user_prompt": "-", "ai_response": "-"} if elsewhere else {}
    rating = to_rating(texts | {name: value for name, value in values.items() if name != _STAND_IN})
    return FileRow(line, rating, unsaid=_UNSAID, texts_elsewhere=elsewhere, stand_in=values.get(_STAND_IN))
