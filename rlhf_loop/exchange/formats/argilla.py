"""Argilla's records, as `Dataset.records.to_json` writes and `from_json` reads them: an array of objects.

A record has `id`, `fields`, `metadata`, `suggestions`, `responses` (for each question a list of `value` and `user_id`),
`vectors`, `status` and `_server_id`: https://docs.argilla.io/latest/reference/argilla/records/records and
https://docs.argilla.io/latest/how_to_guides/import_export. Read was also the code of version 2.8.

The dataset for an export needs the text fields `prompt` and `response`, and the questions `rating` (a rating question
with the values 1 to 5), `comment` and `correction` (text questions) and `harmful` (a label question with `yes` and
`no`), all but `rating` optional; and it has to allow extra metadata. In an import the fields and questions may have
other names.

A user of Argilla is a UUID. That of a reviewer is made of the name, and the names stand in the metadata, so that an
import knows them again; other users are called by their UUID. Suggestions are not by people and are not read. Argilla
keeps no time of a response.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rlhf_loop.domain import Rating, ReviewerRole
from rlhf_loop.exchange.fields import Columns, check_wanted, is_missing, match_columns, to_rating
from rlhf_loop.exchange.formats.base import FileRow, Labels
from rlhf_loop.exchange.formats.messages import answer_text, prompt_text
from rlhf_loop.utils.rows import Kind, Record, Row

COLUMNS = dict.fromkeys(
    ("id", "fields", "metadata", "suggestions", "responses", "vectors", "status", "_server_id"), Kind.OBJECT
)
_TEXTS = {"user_prompt": prompt_text, "ai_response": answer_text}
_QUESTIONS = ("rating", "feedback_comment", "corrected_response", "harmful")
#: What is known of the answer itself; the same names in the metadata.
_ABOUT = ("source", "candidate_group", "shown_rank", "score", "model_version", "title", "url", "licence")
_TIMES = ("created_at", "retrieved_at")
_REVIEWERS = "reviewers"
_END_USERS = "end_users"
_SUBMITTED = (None, "submitted")


class ArgillaLayout:
    """The layout of records; each user who answered the rating's question is a reviewer."""

    role = ReviewerRole.EXPERT

    def __init__(self, labels: Labels, *, columns: Mapping[str, str]) -> None:
        check_wanted(columns)
        self._labels = labels
        self._columns = dict(columns)
        self._matched: dict[tuple[str, ...], Columns] = {}

    def match(self, names: Sequence[str]) -> tuple[str, ...]:
        return tuple(name for name in names if name not in COLUMNS)

    def rows(self, record: Record) -> Iterable[FileRow]:
        values = dict(zip(record.names, record.cells, strict=True))
        fields, metadata = _mapping(values, "fields"), _mapping(values, "metadata")
        if not fields:
            raise ValueError("fields is missing; a record of Argilla has fields, metadata and responses")
        about: dict[str, Any] = {
            field: text(name, found)
            for field, name, found in self._known(fields)
            if (text := _TEXTS.get(field)) and found is not None
        }
        about |= {field: found for field, _, found in self._known(metadata) if field in (*_ABOUT, *_TIMES)}
        if not is_missing(values.get("id")):
            about["external_id"] = str(values["id"])
        names = {_user_id(name): name for name in _names(metadata, _REVIEWERS)}
        end_users = set(_names(metadata, _END_USERS))
        said = self._said(_mapping(values, "responses"))
        if not said:
            return (FileRow(record.line, to_rating(about)),)
        return [
            self._row(record.line, about, names.get(user, user), answers, end_users) for user, answers in said.items()
        ]

    def _row(
        self, line: int, about: Mapping[str, Any], reviewer: str, answers: Mapping[str, Any], end_users: set[str]
    ) -> FileRow:
        if "rating" not in answers:
            raise ValueError(f"user {reviewer!r} answered {', '.join(answers)} and gave no rating")
        values = {**about, **answers, "rating": self._labels.rating("rating", answers["rating"])}
        unsaid = {name for name in ("harmful",) if name not in answers}
        if reviewer in end_users:
            values["reviewer_role"] = ReviewerRole.END_USER
        else:
            unsaid.add("reviewer_role")
        return FileRow(line, to_rating(values | ({"reviewer": reviewer} if reviewer else {})), unsaid=frozenset(unsaid))

    def _said(self, responses: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the answers of each user, by field."""
        said: dict[str, dict[str, Any]] = {}
        for field, question, found in self._known(responses):
            if field not in _QUESTIONS:
                continue
            if not isinstance(found, list):
                raise ValueError(f"responses to {question!r} are {str(found)[:60]!r}, not a list")
            for response in found:
                if not isinstance(response, Mapping) or "value" not in response:
                    raise ValueError(f"a response to {question!r} is {str(response)[:60]!r}, without a value")
                # Drafts and what somebody discarded were never submitted.
                if response.get("status") in _SUBMITTED and not is_missing(response["value"]):
                    said.setdefault(str(response.get("user_id") or ""), {})[field] = response["value"]
        return said

    def _known(self, values: Mapping[str, Any]) -> list[tuple[str, str, Any]]:
        """Return field, name and value of what has a meaning here."""
        names = tuple(values)
        if names not in self._matched:
            self._matched[names] = match_columns(names, self._columns)
        return [(field, names[place], values[names[place]]) for field, place in self._matched[names].positions.items()]


def cells(ratings: Sequence[Rating]) -> Row:
    """Return the record of one answer with all that was said of it."""
    first = ratings[0]
    metadata = {name: getattr(first, name) for name in _ABOUT}
    metadata |= {name: moment.isoformat() for name in _TIMES if (moment := getattr(first, name))}
    reviews = [rating for rating in ratings if rating.rating is not None and rating.reviewer]
    metadata[_REVIEWERS] = [rating.reviewer for rating in reviews]
    metadata[_END_USERS] = [rating.reviewer for rating in reviews if rating.reviewer_role == ReviewerRole.END_USER]
    responses: dict[str, list[dict[str, Any]]] = {}
    for rating in reviews:
        answers = {
            "rating": rating.rating,
            "comment": rating.feedback_comment,
            "correction": rating.corrected_response,
            "harmful": "yes" if rating.harmful else None,
        }
        for question, value in answers.items():
            if value is not None:
                response = {"value": value, "user_id": _user_id(rating.reviewer or "")}
                responses.setdefault(question, []).append(response)
    return [
        first.external_id,
        {"prompt": first.user_prompt, "response": first.ai_response},
        {name: value for name, value in metadata.items() if value not in (None, [])},
        {},
        responses,
        {},
        "completed" if responses else "pending",
        None,
    ]


def _user_id(reviewer: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"rlhf-loop:reviewer:{reviewer}"))


def _mapping(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = values.get(name) or {}
    if not isinstance(found, Mapping):
        raise ValueError(f"{name} is {str(found)[:60]!r}, not an object")
    return found


def _names(metadata: Mapping[str, Any], key: str) -> list[str]:
    found = metadata.get(key) or []
    return [str(name) for name in found] if isinstance(found, list) else [str(found)]
