"""Argilla's records: as `Dataset.records.to_json` writes them, an array of objects, and as a dataset has them.

A record has `id`, `fields`, `metadata`, `suggestions`, `responses` (for each question a list of `value` and `user_id`),
`vectors`, `status` and `_server_id`: https://docs.argilla.io/latest/reference/argilla/records/records and
https://docs.argilla.io/latest/how_to_guides/import_export. Read was also the code of version 2.8. Its server has the
responses in a list, an entry a user with `values` by question. `to_datasets` makes columns of all: the fields and
metadata by their names, `rating.responses`, `rating.responses.users` and `rating.responses.status` of each question.
Version 1 has a column of each question with `user_id`, `value` and `status` of each response, or a list of each.

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
from rlhf_loop.exchange.fields import ABOUT, Columns, check_wanted, is_missing, match_columns, to_rating
from rlhf_loop.exchange.formats.base import FileRow, Labels, Layout, LeftOutError
from rlhf_loop.exchange.formats.messages import answer_text, as_mapping, first_present, parse_json, prompt_text
from rlhf_loop.utils.row_writers import Kind, Row
from rlhf_loop.utils.translation import Message

COLUMNS = dict.fromkeys(
    ("id", "fields", "metadata", "suggestions", "responses", "vectors", "status", "_server_id"), Kind.OBJECT
)
_TEXTS = {"user_prompt": prompt_text, "ai_response": answer_text}
_QUESTIONS = ("rating", "feedback_comment", "corrected_response", "harmful")
_TIMES = ("created_at", "retrieved_at")
_REVIEWERS = "reviewers"
_END_USERS = "end_users"
_SUBMITTED = (None, "submitted")
_RESPONSES = ".responses"
#: At the ends of columns, by which a dataset's rows are known, with responses or without.
_SUGGESTIONS = (".suggestion", "-suggestion")


class ArgillaLayout(Layout):
    """The layout of records; each user who answered the rating's question is a reviewer."""

    def __init__(self, labels: Labels, *, columns: Mapping[str, str]) -> None:
        super().__init__(labels)
        check_wanted(columns)
        self._columns = dict(columns)
        self._matched: dict[tuple[str, ...], Columns] = {}

    def match(self, names: Sequence[str]) -> tuple[str, ...]:
        return tuple(name for name in names if name not in COLUMNS) if "fields" in names else ()

    def _read(self, line: int, values: Mapping[str, Any]) -> Iterable[FileRow]:
        fields, metadata, responses = _parts(values)
        about: dict[str, Any] = {
            field: text(name, found)
            for field, name, found in self._known(fields)
            if (text := _TEXTS.get(field)) and found is not None
        }
        if not about:
            raise LeftOutError(Message("fields is missing; a record of Argilla has fields, metadata and responses"))
        about |= {field: found for field, _, found in self._known(metadata) if field in (*ABOUT, *_TIMES)}
        if not is_missing(id := first_present(values.get("id"), values.get("external_id"))):
            about["external_id"] = str(id)
        names = {_user_id(name): name for name in _names(metadata, _REVIEWERS)}
        end_users = set(_names(metadata, _END_USERS))
        rows = []
        for user, answers in self._said(responses).items():
            if "rating" in answers:
                rows.append(self._row(line, about, names.get(user, user), answers, end_users))
            else:
                # A comment, or a correction, needs a rating to stand beside.
                self.pass_over("responses of somebody who gave no rating")
        return rows or (FileRow(line, to_rating(about)),)

    def _row(
        self, line: int, about: Mapping[str, Any], reviewer: str, answers: Mapping[str, Any], end_users: set[str]
    ) -> FileRow:
        self._note_number(answers["rating"])
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
                raise ValueError(
                    Message(
                        "responses to {question!r} are {found!r}, not a list", question=question, found=str(found)[:60]
                    )
                )
            for number, response in enumerate(found, 1):
                if not isinstance(response, Mapping) or "value" not in response:
                    raise ValueError(
                        Message(
                            "a response to {question!r} is {response!r}, without a value",
                            question=question,
                            response=str(response)[:60],
                        )
                    )
                # Drafts and what somebody discarded were never submitted.
                if response.get("status") in _SUBMITTED and not is_missing(response["value"]):
                    user = first_present(response.get("user_id"))
                    # Without users they are several people all the same.
                    user = f"argilla:response-{number}" if user is None and len(found) > 1 else str(user or "")
                    before = said.setdefault(user, {}).setdefault(field, response["value"])
                    if before != response["value"]:
                        both = f"{str(before)[:60]!r} and {str(response['value'])[:60]!r}"
                        raise ValueError(
                            Message(
                                "responses of one user to {question!r} are {both}; keep the one that counts",
                                question=question,
                                both=both,
                            )
                        )
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
    metadata = {name: getattr(first, name) for name in ABOUT}
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


def _parts(values: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]]:
    """Return fields, metadata, and the responses of each question, each with value, user and status."""
    responses = parse_json(values.get("responses"))
    metadata = as_mapping(values.get("metadata"))
    if not is_missing(values.get("fields")):
        if isinstance(responses, list):
            # An entry a user, as version 1 and the server have it.
            by_question: dict[str, list[Any]] = {}
            for entry in map(as_mapping, responses):
                for question, given in as_mapping(entry.get("values")).items():
                    value = given.get("value") if isinstance(given, Mapping) else given
                    by_question.setdefault(question, []).append({**entry, "value": value})
            return _mapping(values, "fields"), metadata, by_question
        return _mapping(values, "fields"), _mapping(values, "metadata"), _mapping(values, "responses")
    found: dict[str, Any] = {}
    for name, value in values.items():
        if name.endswith(_RESPONSES):
            users, status = (values.get(f"{name}.{more}") for more in ("users", "status"))
            found[name.removesuffix(_RESPONSES)] = _in_rows({"value": value, "user_id": users, "status": status})
        elif isinstance(value, Mapping) and "value" in value:
            found[name] = _in_rows(value)
        elif isinstance(value, list) and value and all("value" in as_mapping(each) for each in value):
            found[name] = value
    if not found and "_server_id" not in values and not any(name.endswith(_SUGGESTIONS) for name in values):
        return {}, {}, {}
    rest = {name: value for name, value in values.items() if name not in found}
    return rest, {**rest, **metadata}, found


def _in_rows(columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a list of responses that is given as a list of each of their parts."""
    lists = {name: value for name, value in columns.items() if isinstance(value, list)}
    return [
        {name: each[place] for name, each in lists.items() if place < len(each)}
        for place in range(len(lists.get("value", ())))
    ]


def _mapping(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = values.get(name) or {}
    if not isinstance(found, Mapping):
        raise ValueError(Message("{name} is {found!r}, not an object", name=name, found=str(found)[:60]))
    return found


def _names(metadata: Mapping[str, Any], key: str) -> list[str]:
    found = metadata.get(key) or []
    return [str(name) for name in found] if isinstance(found, list) else [str(found)]
