"""Langfuse's traces and scores: of its API, its exports to blob storage, its tables' exports, a trace's download.

Fields as in the public API, https://api.reference.langfuse.com, and in the code of version 4.16: a trace has `id`,
`timestamp`, `name`, `input`, `output`, `metadata`, `userId` and `scores`, in a list of traces only the scores' ids; a
score has `id`, `traceId`, `observationId`, `name`, `value`, `stringValue`, `dataType` (NUMERIC, BOOLEAN, CATEGORICAL,
TEXT, CORRECTION), `source`, `comment`, `metadata`, `authorUserId` and `timestamp`. A corrected answer is the score
`output` of type CORRECTION (https://langfuse.com/docs/observability/features/corrections). The same names with
underscores (`trace_id`, `data_type`) are those of the exports to blob storage, where traces and scores are files of
their own: import the traces first.

The table of traces that Langfuse's pages export has no scores but a column for each name of a score, with a list of
values, of which nobody knows who gave them. Its table of scores has `userId` for whoever asked, and `authorUserName`
for whoever annotated. In CSV of earlier versions each cell is JSON, texts and all.

A trace becomes an answer with the trace's id as `external_id`; the scores of the name asked for become reviews of it.
Scores alone find the answer by that id, in the file or in the database. Other scores are left out, those of evaluators
(`EVAL`), of sessions and runs, and scores alone that correct: they are not ratings of an answer. An observation that
is not the whole of its trace is a part of the answer.

Scores of the API's version 3 have no `traceId` but a `subject` of `kind` and `id`, asked for by `fields=subject`; what
SDK 5 posts to `/api/public/scores` is an array of scores (langfuse 5.0, `langfuse/api/scores/types` and
`langfuse/_task_manager/score_consumer.py`).
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rlhf_loop.domain import Rating, ReviewerRole
from rlhf_loop.exchange.fields import ABOUT, is_missing, to_rating
from rlhf_loop.exchange.formats.base import FileRow, Labels, Layout, LeftOutError, tell_apart
from rlhf_loop.exchange.formats.messages import (
    as_mapping,
    first_present,
    parse_json,
    read_answer,
    read_prompt,
    user_name,
)
from rlhf_loop.utils.row_writers import Kind, Row
from rlhf_loop.utils.translation import Message

TOOL = "langfuse"
COLUMNS = dict.fromkeys(
    ("id", "timestamp", "name", "input", "output", "sessionId", "userId", "metadata", "tags", "scores"), Kind.OBJECT
)
_BY_MODEL, _BY_ANNOTATOR = "EVAL", "ANNOTATION"
_NUMERIC, _CORRECTION, _CORRECTED = "NUMERIC", "CORRECTION", "output"
_BOOLEAN, _CATEGORICAL = "BOOLEAN", "CATEGORICAL"
#: What is known of the answer itself; the same names in the trace's metadata.
_ABOUT_TIME = "retrieved_at"
_LABELS = ("source", "candidate_group", "model_version", "title", "url", "licence")
_UNSAID = frozenset({"reviewer_role", "harmful"})
#: What an export of ours calls its traces; the texts in it are as they were, and so are the metadata.
_OURS = "rlhf-loop"
_STAND_IN = "stand_in"
_OF_A_PART = "scores of a part of a trace by whoever scored the trace"
#: Columns with lists of other things than scores.
_LISTS = (*COLUMNS, "traceTags", "comments", "observations", "toolCalls", "toolCallNames")


class LangfuseLayout(Layout):
    """The layout of traces and scores; whoever gave a score is an end user, unless its metadata say otherwise."""

    role = ReviewerRole.END_USER
    parted = True
    knows_no_scale = True

    def __init__(self, labels: Labels) -> None:
        super().__init__(labels)
        self._name = labels.score_name
        # By their hashes: the observations of a trace have its id, too.
        self._texts: dict[str, int] = {}
        self._nameless = set[str]()
        # Who scored the whole of which trace, by hashes, and scores alone that are of a part of one.
        self._of_wholes = set[int]()
        self._of_parts: list[tuple[str, FileRow]] = []

    def finish(self) -> Iterable[FileRow]:
        for trace_id, row in self._of_parts:
            if row.rating is not None and hash((trace_id, row.rating.reviewer)) in self._of_wholes:
                self.pass_over(_OF_A_PART)
            else:
                yield self._told_apart(trace_id, row)

    def _inside(self, values: Mapping[str, Any]) -> Sequence[Any] | None:
        trace = as_mapping(values.get("trace"))
        if "id" in trace and is_missing(_get(values, "traceId")):
            # What the page of a trace gives: beside it what it is made of.
            return [{"scores": values.get("scores"), **trace}]
        # A page of the API.
        return values["data"] if isinstance(values.get("data"), list) else None

    def _read(self, line: int, values: Mapping[str, Any]) -> Iterable[FileRow]:
        values = _with_trace(_plain(values))
        if not is_missing(_get(values, "input")) or not is_missing(_get(values, "output")):
            return self._trace(line, values)
        if not is_missing(_get(values, "name")) and any(
            not is_missing(_get(values, name)) for name in ("value", "stringValue", "dataType")
        ):
            return self._score(line, values)
        if "output" in values and "input" in values:
            raise LeftOutError(Message("input and output are missing"), what="traces without input")
        raise LeftOutError(
            Message("it is neither a trace with input and output nor a score with traceId, name and value")
        )

    def _trace(self, line: int, values: Mapping[str, Any]) -> list[FileRow]:
        # An observation is known by its trace: so is the score that somebody gives.
        trace_id = _get(values, "traceId")
        if is_missing(id := first_present(trace_id, _get(values, "id"))):
            raise ValueError(Message("id is missing"))
        if isinstance(by_name := parse_json(_get(values, "scores")), Mapping):
            values = {**values, **by_name, "scores": None}
        scores = self._scores(values)
        user = _get(values, "userId")
        wanted = self._of_whole([score for score in scores if self._is_wanted(score)], user, of=str(id))
        names = [str(first_present(_get(score, "id"), f"{id}-{n}")) for n, score in enumerate(wanted, 1)]
        said = [self._said(score, user) for score in wanted]
        for value in self._in_column(values):
            if wanted:
                self.pass_over("scores in a column beside those of the trace itself")
                continue
            self._note_number(value)
            said.append({"rating": self._labels.rating(f"the score {self._name!r}", value)})
            names.append(f"{id}-{len(said)}")
        names = [f"{TOOL}:score-{name}" for name in names]
        reviewers = tell_apart([each.get("reviewer") for each in said], names)
        for each, reviewer, name in zip(said, reviewers, names, strict=True):
            if "reviewer" not in each:
                each |= {_STAND_IN: name} | ({"reviewer": reviewer} if reviewer else {})
        part = "rated observations inside of a trace" if said else "observations inside of a trace"
        if not is_missing(trace_id) and not is_missing(_get(values, "parentObservationId")):
            raise LeftOutError(Message("it is a part of its trace; import the traces and the scores"), what=part)
        for name in ("input", "output"):
            if is_missing(_get(values, name)):
                raise LeftOutError(
                    Message("{name} is missing: the call failed, or still runs", name=name),
                    what=f"traces without {name}",
                )
        about = _about(values) | {"external_id": str(id)}
        texts = hash((about["user_prompt"], about["ai_response"]))
        if self._texts.setdefault(str(id), texts) != texts and not is_missing(trace_id):
            raise LeftOutError(Message("its trace has other texts; import the traces and the scores"), what=part)
        corrections = {
            _reviewer(score, user): text
            for score in scores
            if _is_correction(score) and (text := _correction(score)) is not None
        }
        for each in said:
            if correction := corrections.pop(each.get("reviewer"), None):
                each["corrected_response"] = correction
        if not said:
            first = next(iter(corrections), None)
            said = [{"corrected_response": corrections.pop(first)} if corrections else {}]
        for _ in corrections:
            # A correction is part of a review, and a review is a rating first.
            self.pass_over(f"scores {_CORRECTED} by who gave no score {self._name}")
        return [_row(line, about | each) for each in said]

    def _scores(self, values: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        scores = parse_json(_get(values, "scores"))
        if is_missing(scores):
            return []
        if not isinstance(scores, list) or not all(isinstance(score, Mapping | str | None) for score in scores):
            raise ValueError(Message("scores is {scores!r}, not a list of scores", scores=str(scores)[:60]))
        for score in scores:
            if isinstance(score, str):
                self.pass_over("scores of which there is only the id: export the scores, too")
        return [score for score in scores if isinstance(score, Mapping)]

    def _of_whole(self, scores: Sequence[Mapping[str, Any]], user: object, *, of: str) -> list[Mapping[str, Any]]:
        """Leave out the scores of a part of the trace by whoever scored all of it, too."""
        of_whole = {_reviewer(score, user) for score in scores if is_missing(_get(score, "observationId"))}
        self._of_wholes |= {hash((of, reviewer)) for reviewer in of_whole}
        kept = []
        for score in scores:
            if is_missing(_get(score, "observationId")) or _reviewer(score, user) not in of_whole:
                kept.append(score)
            else:
                self.pass_over(_OF_A_PART)
        return kept

    def _in_column(self, values: Mapping[str, Any]) -> list[Any]:
        """Return the scores in a column of the table of traces: of several each is somebody's."""
        found: list[Any] = []
        for name, value in values.items():
            given = parse_json(value)
            if name in _LISTS or not (isinstance(given, list) or name == self._name):
                continue
            listed = [each for each in (given if isinstance(given, list) else [given]) if not is_missing(each)]
            if name == self._name:
                found = listed
            elif listed and not any(isinstance(each, Mapping | list) for each in listed):
                self._unused.setdefault(f"score {name}")
        return found

    def _score(self, line: int, values: Mapping[str, Any]) -> list[FileRow]:
        if not self._is_wanted(values):
            if _is_correction(values):
                self.pass_over("corrections without their rating")
            return []
        if is_missing(_get(values, "traceId")):
            if _of_version_3(values):
                raise ValueError(
                    Message("subject is missing; ask the API for it, with fields=subject,details,annotation")
                )
            raise LeftOutError(
                Message("traceId is missing, so it is about no answer"), what="scores of a session or a run"
            )
        said, trace_id = self._said(values, _get(values, "userId")), str(_get(values, "traceId"))
        if "reviewer" not in said and not is_missing(_get(values, "id")):
            said[_STAND_IN] = f"{TOOL}:score-{_get(values, 'id')}"
        said |= {"user_prompt": "-", "ai_response": "-", "external_id": trace_id}
        row = _row(line, said, texts_elsewhere=True)
        if not is_missing(_get(values, "observationId")):
            # Whoever scored the whole may stand further down.
            self._of_parts.append((trace_id, row))
            return []
        self._of_wholes.add(hash((trace_id, said.get("reviewer"))))
        return [self._told_apart(trace_id, row)]

    def _told_apart(self, trace_id: str, row: FileRow) -> FileRow:
        """Name a rater who has no name if there was one before, who is whoever the importer says."""
        if row.rating is None or row.rating.reviewer is not None:
            return row
        if trace_id in self._nameless and row.stand_in is not None:
            return replace(row, rating=replace(row.rating, reviewer=row.stand_in))
        self._nameless.add(trace_id)
        return row

    def _is_wanted(self, score: Mapping[str, Any]) -> bool:
        name, kind = str(_get(score, "name")), _kind(score)
        if kind == _CORRECTION:
            return False
        if name != self._name:
            self._unused.setdefault(f"score {name}")
            return False
        # A model's or a program's score is not a person's rating, and a text is none at all.
        for other in (_BY_MODEL, "TEXT"):
            if other in (kind, str(_get(score, "source")).upper()):
                self._unused.setdefault(f"score {name} {'by' if other == _BY_MODEL else 'of type'} {other}")
                return False
        if is_missing(_value(score)):
            self.pass_over("scores without a value")
            return False
        return True

    def _said(self, score: Mapping[str, Any], user: object) -> dict[str, Any]:
        value, metadata = _value(score), _ours(score)
        if not metadata and _kind(score) != _BOOLEAN:
            self._note_number(value)
        said = {
            "rating": self._labels.rating(f"the score {self._name!r}", value),
            "feedback_comment": _get(score, "comment"),
            "rated_at": first_present(_get(score, "timestamp"), _get(score, "updatedAt")),
            "reviewer": _reviewer(score, user),
            "reviewer_role": metadata.get("role"),
            "harmful": metadata.get("harmful"),
        }
        return {name: found for name, found in said.items() if not is_missing(found)}


def cells(ratings: Sequence[Rating], *, score_name: str) -> Row:
    """Return the trace of one answer with its scores."""
    first = ratings[0]
    metadata = {name: getattr(first, name) for name in ABOUT}
    metadata[_ABOUT_TIME] = first.retrieved_at.isoformat() if first.retrieved_at else None
    scores = [score for rating in ratings if rating.rating is not None for score in _scores(rating, score_name)]
    return [
        first.external_id,
        first.created_at,
        _OURS,
        first.user_prompt,
        first.ai_response,
        None,
        None,
        {name: value for name, value in metadata.items() if value is not None},
        [],
        scores,
    ]


def _scores(rating: Rating, name: str) -> list[dict[str, Any]]:
    metadata: dict[str, Any] = {"reviewer": rating.reviewer, "role": str(rating.reviewer_role)}
    if rating.harmful:
        metadata["harmful"] = True
    scores = [_one_score(rating, name, metadata) | {"value": rating.rating, "dataType": _NUMERIC}]
    if rating.corrected_response is not None:
        scores.append(
            _one_score(rating, _CORRECTED, metadata)
            | {"value": 0, "stringValue": rating.corrected_response, "dataType": _CORRECTION, "comment": None}
        )
    return scores


def _one_score(rating: Rating, name: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    made_of = f"rlhf-loop:score:{rating.external_id}:{rating.reviewer}:{name}"
    return {
        # Langfuse replaces a score of the same id, so that a second export adds none.
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, made_of)),
        "traceId": rating.external_id,
        "observationId": None,
        "name": name,
        "source": "API",
        "timestamp": rating.rated_at,
        "comment": rating.feedback_comment,
        "configId": None,
        "metadata": metadata,
    }


def _row(line: int, values: Mapping[str, Any], *, texts_elsewhere: bool = False) -> FileRow:
    unsaid = frozenset(name for name in _UNSAID if name not in values)
    rating = to_rating({name: value for name, value in values.items() if name != _STAND_IN})
    return FileRow(line, rating, unsaid=unsaid, texts_elsewhere=texts_elsewhere, stand_in=values.get(_STAND_IN))


def _about(values: Mapping[str, Any]) -> dict[str, Any]:
    metadata, ours = as_mapping(_get(values, "metadata")), _get(values, "name") == _OURS
    # In another application's metadata the same names may mean anything; as texts they do no harm.
    about = {name: metadata[name] for name in (*ABOUT, _ABOUT_TIME) if not is_missing(metadata.get(name))}
    if not ours:
        about = {name: value for name, value in about.items() if isinstance(value, str) and name in _LABELS}
    given, answer = _get(values, "input"), _get(values, "output")
    verbatim = ours and isinstance(given, str) and isinstance(answer, str)
    return about | {
        "user_prompt": given if verbatim else read_prompt("input", given, of="traces"),
        "ai_response": answer if verbatim else read_answer("output", answer, of="traces"),
        "created_at": first_present(_get(values, "timestamp"), _get(values, "startTime")),
    }


def _plain(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the cells as they are where each of them is JSON, which an id in quotes tells."""
    if not str(first_present(_get(values, "id"), _get(values, "traceId"))).startswith('"'):
        return values
    found = {}
    for name, value in values.items():
        try:
            found[name] = json.loads(value)
        except (TypeError, ValueError):
            found[name] = value
    return found


def _reviewer(score: Mapping[str, Any], user: object) -> str | None:
    """Return who gave a score: as an export of ours says, or the annotator; without one, whoever asked.

    An annotator without a name is not who asked, nor another annotator.
    """
    if metadata := _ours(score):
        return str(metadata["reviewer"])
    author = first_present(_get(score, "authorUserId"), _get(score, "authorUserName"))
    if is_missing(author) and str(_get(score, "source")).upper() == _BY_ANNOTATOR:
        author = first_present(None if is_missing(_get(score, "id")) else f"score-{_get(score, 'id')}")
        return user_name(TOOL, author)
    asked = (_get(score, "userId"), _get(as_mapping(score.get("trace")), "userId"), user)
    return user_name(TOOL, first_present(author, *asked))


def _ours(score: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the metadata of a score that an export of ours wrote; another application's mean something else."""
    metadata = as_mapping(_get(score, "metadata"))
    return metadata if isinstance(metadata.get("reviewer"), str) else {}


def _get(values: Mapping[str, Any], name: str) -> Any:
    """Return a value by its name in the API, or by that in the exports to blob storage."""
    if name in values:
        return values[name]
    return values.get("".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name))


def _kind(score: Mapping[str, Any]) -> str:
    return str(_get(score, "dataType") or "").upper()


def _value(score: Mapping[str, Any]) -> Any:
    """Return what a score says, by its type; None if it says nothing."""
    value, word = _get(score, "value"), _get(score, "stringValue")
    if _kind(score) == _BOOLEAN:
        return _boolean(value if not is_missing(value) else word)
    if _kind(score) == _CATEGORICAL:
        # Its number is a place in a list of categories.
        return first_present(word, value if isinstance(value, str) else None)
    return value


def _is_correction(score: Mapping[str, Any]) -> bool:
    return _kind(score) == _CORRECTION


def _correction(score: Mapping[str, Any]) -> str | None:
    """Return the text of a correction; in version 3, and where it is posted, that is its value."""
    value = score.get("value")
    found = first_present(_get(score, "stringValue"), value if isinstance(value, str) else None)
    return None if is_missing(found) or found == "" else str(found)


def _of_version_3(score: Mapping[str, Any]) -> bool:
    # The versions before name all that a score can be of, be it null; what is posted has neither project nor source.
    return "projectId" in score and not any(name in score for name in ("traceId", "trace_id", "sessionId", "trace"))


def _with_trace(score: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a score with the names of version 2 for what it is of."""
    subject = as_mapping(score.get("subject"))
    kind, id = subject.get("kind"), subject.get("id")
    if kind == "trace":
        return {**score, "traceId": id}
    if kind == "observation":
        return {**score, "traceId": subject.get("traceId"), "observationId": id}
    return {**score, "sessionId": id} if subject else score


def _boolean(value: object) -> object:
    # A bare number means a thumb here, and nowhere else.
    return {"1": True, "1.0": True, "0": False, "0.0": False}.get(str(value), value)
