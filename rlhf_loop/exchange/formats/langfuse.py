"""Langfuse's scores: traces with their scores, or scores alone.

Fields as in the public API, https://api.reference.langfuse.com: a trace (`GET /api/public/traces/{traceId}`,
https://js.reference.langfuse.com/interfaces/_langfuse_core.TraceWithFullDetails.html) has `id`, `timestamp`, `name`,
`input`, `output`, `metadata`, `userId` and `scores`; a score has `id`, `traceId`, `observationId`, `name`, `value`,
`stringValue`, `dataType` (NUMERIC, BOOLEAN, CATEGORICAL, CORRECTION), `source`, `comment`, `metadata`, `configId`,
`authorUserId` and `timestamp`: https://langfuse.com/docs/evaluation/scores/data-model. A corrected answer is the
score `output` of type CORRECTION (https://langfuse.com/docs/observability/features/corrections). The same names with
underscores (`trace_id`, `data_type`) are those of the exports to blob storage,
https://langfuse.com/docs/api-and-data-platform/features/blob-storage-export-fields, where traces and scores are files
of their own: import the traces first.

A trace becomes an answer with the trace's id as `external_id`; the scores of the name asked for become reviews of it.
Scores alone find the answer by that id, in the file or in the database. Other scores are left out, those of evaluators
(`EVAL`), and scores alone that correct: they are not ratings.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from rlhf_loop.domain import Rating, ReviewerRole
from rlhf_loop.exchange.fields import is_missing, to_rating
from rlhf_loop.exchange.formats.base import FileRow, LeftOutError, NamedLabels
from rlhf_loop.exchange.formats.messages import parse_json, read_answer, read_prompt
from rlhf_loop.utils.rows import Kind, Record, Row

COLUMNS = dict.fromkeys(
    ("id", "timestamp", "name", "input", "output", "sessionId", "userId", "metadata", "tags", "scores"), Kind.OBJECT
)
_BY_MODEL = "EVAL"
_NUMERIC, _CORRECTION, _CORRECTED = "NUMERIC", "CORRECTION", "output"
#: What is known of the answer itself; the same names in the trace's metadata.
_ABOUT = ("source", "candidate_group", "shown_rank", "score", "model_version", "title", "url", "licence")
_ABOUT_TIME = "retrieved_at"
_UNSAID = frozenset({"reviewer_role", "harmful"})


class LangfuseLayout(NamedLabels):
    """The layout of traces and scores; whoever gave a score is an end user, unless its metadata say otherwise."""

    role = ReviewerRole.END_USER

    def rows(self, record: Record) -> Iterable[FileRow]:
        values = dict(zip(record.names, record.cells, strict=True))
        if not is_missing(_get(values, "input")) or not is_missing(_get(values, "output")):
            return self._trace(record.line, values)
        if not is_missing(_get(values, "traceId")) and not is_missing(_get(values, "name")):
            return self._score(record.line, values)
        raise ValueError("it is neither a trace with input and output nor a score with traceId, name and value")

    def _trace(self, line: int, values: Mapping[str, Any]) -> list[FileRow]:
        # An observation is known by its trace: so is the score that somebody gives.
        id = _first(_get(values, "traceId"), _get(values, "id"))
        if is_missing(id):
            raise ValueError("id is missing")
        for name in ("input", "output"):
            if is_missing(_get(values, name)):
                raise LeftOutError(f"{name} is missing: the call failed, or still runs", what=f"traces without {name}")
        metadata = _object(values, "metadata")
        about = {name: metadata[name] for name in (*_ABOUT, _ABOUT_TIME) if not is_missing(metadata.get(name))}
        about |= {
            "user_prompt": read_prompt("input", _get(values, "input")),
            "ai_response": read_answer("output", _get(values, "output")),
            "external_id": str(id),
            "created_at": _time(_first(_get(values, "timestamp"), _get(values, "startTime"))),
        }
        scores = parse_json(_get(values, "scores")) or []
        if not isinstance(scores, list) or not all(isinstance(score, Mapping) for score in scores):
            raise ValueError(f"scores is {str(scores)[:60]!r}, not a list of scores")
        user = _get(values, "userId")
        corrections = {
            _reviewer(score, user): str(_get(score, "stringValue"))
            for score in scores
            if _is_correction(score) and not is_missing(_get(score, "stringValue"))
        }
        rows = []
        for score in scores:
            if self._is_wanted(score):
                said = self._said(score, user)
                if correction := corrections.pop(said.get("reviewer"), None):
                    said["corrected_response"] = correction
                rows.append(_row(line, about | said))
        if not rows:
            unrated = {"corrected_response": next(iter(corrections.values()))} if corrections else {}
            rows.append(_row(line, about | unrated))
        elif corrections:
            # A correction is part of a review, and a review is a rating first.
            self._others.setdefault(f"score {_CORRECTED} by who gave no score {self._name}")
        return rows

    def _score(self, line: int, values: Mapping[str, Any]) -> list[FileRow]:
        if not self._is_wanted(values):
            return []
        said = self._said(values, _get(values, "userId"))
        said |= {"user_prompt": "-", "ai_response": "-", "external_id": str(_get(values, "traceId"))}
        return [_row(line, said, texts_elsewhere=True)]

    @property
    def _name(self) -> str:
        return self._labels.score_name

    def _is_wanted(self, score: Mapping[str, Any]) -> bool:
        name = str(_get(score, "name"))
        if name == self._name:
            # A model's or a program's score is not a person's rating.
            if str(_get(score, "source")).upper() == _BY_MODEL:
                self._others.setdefault(f"score {name} by {_BY_MODEL}")
                return False
            return True
        if not _is_correction(score):
            self._others.setdefault(f"score {name}")
        return False

    def _said(self, score: Mapping[str, Any], user: object) -> dict[str, Any]:
        kind, value, word = (_get(score, name) for name in ("dataType", "value", "stringValue"))
        if kind == "BOOLEAN":
            value = _boolean(value if not is_missing(value) else word)
        elif kind == "CATEGORICAL" and not is_missing(word):
            value = word
        if is_missing(value):
            raise ValueError(f"the score {self._name!r} has no value")
        metadata = _ours(score)
        said = {
            "rating": self._labels.rating(f"the score {self._name!r}", value),
            "feedback_comment": _get(score, "comment"),
            "rated_at": _time(_get(score, "timestamp")),
            "reviewer": _reviewer(score, user),
            "reviewer_role": metadata.get("role"),
            "harmful": metadata.get("harmful"),
        }
        return {name: found for name, found in said.items() if not is_missing(found)}


def cells(ratings: Sequence[Rating], *, score_name: str) -> Row:
    """Return the trace of one answer with its scores."""
    first = ratings[0]
    metadata = {name: getattr(first, name) for name in _ABOUT}
    metadata[_ABOUT_TIME] = first.retrieved_at.isoformat() if first.retrieved_at else None
    scores = [score for rating in ratings if rating.rating is not None for score in _scores(rating, score_name)]
    return [
        first.external_id,
        first.created_at,
        "rlhf-loop",
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
    return FileRow(line, to_rating(values), unsaid=unsaid, texts_elsewhere=texts_elsewhere)


def _reviewer(score: Mapping[str, Any], user: object) -> str | None:
    """Return who gave a score: as an export of ours says, or the annotator, or whose trace it is."""
    if metadata := _ours(score):
        return str(metadata["reviewer"])
    id = _first(_get(score, "authorUserId"), _get(score, "userId"), user)
    # No user's name here has a colon, so that nobody is taken for one of them.
    return None if is_missing(id) else f"langfuse:{id}"


def _ours(score: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the metadata of a score that an export of ours wrote; another application's mean something else."""
    metadata = _object(score, "metadata")
    return metadata if isinstance(metadata.get("reviewer"), str) else {}


def _get(values: Mapping[str, Any], name: str) -> Any:
    """Return a value by its name in the API, or by that in the exports to blob storage."""
    if name in values:
        return values[name]
    return values.get("".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name))


def _first(*values: Any) -> Any:
    return next((value for value in values if not is_missing(value)), None)


def _object(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = parse_json(_get(values, name))
    return found if isinstance(found, Mapping) else {}


def _time(value: Any) -> Any:
    # Left to the parser of ratings, which knows "Z" and the exports' blank between day and time.
    return value if value is None or isinstance(value, datetime) else str(value)


def _is_correction(score: Mapping[str, Any]) -> bool:
    return bool(_get(score, "dataType") == _CORRECTION)


def _boolean(value: object) -> object:
    # A bare number means a thumb here, and nowhere else.
    return {"1": True, "1.0": True, "0": False, "0.0": False}.get(str(value), value)
