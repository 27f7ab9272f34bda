"""Open WebUI's feedback and chats: the answers its users gave a thumb, and the others that they were offered.

The feedback is what Admin Panel > Evaluations > Feedbacks > Export writes as JSON, an array of objects with `id`,
`user_id`, `type`, `data` (`rating` 1 or -1, `model_id`, `reason`, `comment`, and in `details` a `rating` from 1 to 10),
`meta` (`chat_id`, `message_id`), `snapshot` (the chat at that moment), `created_at` and `updated_at`. The CSV that it
writes as well has neither question nor answer. A file of chats is what Settings > Data Controls > Export Chats writes,
or for all users the admin's settings. Read were https://docs.openwebui.com/features/administration/evaluation and the
models of its backend.

An answer that was rated becomes a review of its user; the other answers to the same message become its siblings,
unrated unless they were rated themselves. Its group is the message that they answer, the model is the source. Chats
without a rating stay out. An answer is known again by its text: the same message may say something else later, and then
that is another answer.

A chat is a tree of messages, in which all answers to one message are its children. As
https://docs.openwebui.com/features/chat-conversations/data-controls/import-export describes it, `history.messages`
maps ids to messages with `id`, `parentId`, `childrenIds`, `role`, `content`, `model`, `done`, `timestamp`. An answer
that was rated has an `annotation` (`rating`, `reason`, `comment`, `details`) and a `feedbackId`, one that was edited in
place its `originalContent`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rlhf_loop.domain import GOOD_RATING, ReviewerRole
from rlhf_loop.exchange.fields import is_missing, to_rating
from rlhf_loop.exchange.formats.base import FileRow, Labels, Layout, LeftOutError, NumberScale
from rlhf_loop.exchange.formats.messages import as_mapping, first_present, prompt_text, said_of, user_name
from rlhf_loop.utils.translation import Message

# What a model thought and which tools it called stands folded in the content; nobody rates that.
_KINDS = ('type="reasoning"', 'type="tool_calls"', 'type="code_interpreter"')
_UNREADABLE = "rated answers to a question without a text"
_BEGIN, _END = "<details", "</details>"
TOOL = "openwebui"
_UNSAID = frozenset({"reviewer_role", "harmful"})
#: Of the rating that its users may give below the thumb.
_DETAILS = NumberScale(1, 10)
_NO_ANSWER = "rated answers without a text"
#: Of one chat; people give tens.
_MOST_RATED = 1_000
_THUMBS = {"1": True, "1.0": True, "-1": False, "-1.0": False, "0": None, "0.0": None}


@dataclass(frozen=True, slots=True)
class Reply:
    """The text of a message of the assistant, and the correction that somebody made of it."""

    text: str
    correction: str | None = None


class Chat:
    """The messages of one chat, by their ids."""

    def __init__(self, record: Mapping[str, Any]) -> None:
        inner = as_mapping(record.get("chat")) or record
        inner = (
            as_mapping(inner.get("chat")) or inner
        )  # a snapshot has the chat as the API gives it, with the chat inside
        self.id = first_present(record.get("id"), as_mapping(record.get("chat")).get("id"))
        found = as_mapping(as_mapping(inner.get("history")).get("messages"))
        self._messages = {str(id): message for id, message in found.items() if isinstance(message, Mapping)}
        if not self._messages:
            self._messages = _chained(inner.get("messages"))

    def __iter__(self) -> Iterator[str]:
        return iter(self._messages)

    def __len__(self) -> int:
        return len(self._messages)

    def message(self, id: object) -> Mapping[str, Any] | None:
        """Return a message, None if it is not in the chat."""
        return self._messages.get(str(id))

    def answers(self, id: str) -> list[str]:
        """Return the ids of all answers to what a message answers, its own among them."""
        parent = self._messages[id].get("parentId")
        if is_missing(parent):
            return [id]
        return [
            other
            for other, message in self._messages.items()
            if message.get("parentId") == parent and message.get("role") == "assistant"
        ]

    def question(self, id: str) -> str:
        """Return what a message answers: what was said before it, from the first message on.

        Raises:
            LeftOutError: nothing was, or a picture.
        """
        turns: list[dict[str, Any]] = []
        passed = {id}
        next_id = self._messages[id].get("parentId")
        while not is_missing(next_id) and (message := self.message(next_id)) and str(next_id) not in passed:
            passed.add(str(next_id))
            text = reply(message).text if message.get("role") == "assistant" else message.get("content")
            # An answer that broke off says nothing.
            if text not in ("", None):
                turns.append({"role": message.get("role"), "content": text})
            next_id = message.get("parentId")
        if not any(turn["role"] == "user" for turn in turns):
            raise LeftOutError(Message("the message {id!r} has no question before it", id=id), what=_UNREADABLE)
        try:
            return prompt_text("the chat", turns[::-1])
        except ValueError as error:
            raise LeftOutError(str(error), what=_UNREADABLE) from error


def reply(message: Mapping[str, Any]) -> Reply:
    """Return what a message says; where it was edited in place, what it said before, and the edit as a correction."""
    text, before = _shown(message.get("content")), _shown(message.get("originalContent"))
    if not before or before == text or not text:
        return Reply(text)
    if before in text:
        # Only something was put around it: that is what filters of the server do, and the user saw it so.
        return Reply(text)
    return Reply(before, text)


class OpenWebUILayout(Layout):
    """The layout of feedback and chats; whoever rated is an end user."""

    role = ReviewerRole.END_USER
    tool = TOOL

    def __init__(self, labels: Labels) -> None:
        super().__init__(labels)
        # By their hashes: each snapshot of a chat has all its answers again.
        self._offered: set[int] = set()

    def _inside(self, values: Mapping[str, Any]) -> Sequence[Any] | None:
        # Several, where one record is awaited.
        return values["data"] if isinstance(values.get("data"), list) else None

    def _read(self, line: int, values: Mapping[str, Any]) -> Iterable[FileRow]:
        if "snapshot" in values or ("data" in values and "type" in values):
            return self._feedback(line, values)
        if as_mapping(values.get("chat")) or "history" in values:
            return self._chat(line, values)
        raise LeftOutError(Message("it is neither a feedback with data, meta and snapshot nor a chat with its history"))

    def _feedback(self, line: int, values: Mapping[str, Any]) -> list[FileRow]:
        data, meta = said_of("data", values.get("data")), as_mapping(values.get("meta"))
        snapshot = as_mapping(values.get("snapshot"))
        if not snapshot:
            raise ValueError(
                Message(
                    "snapshot is missing, and with it question and answer; export the feedback as JSON, by an admin"
                )
            )
        chat = Chat(snapshot)
        if is_missing(id := meta.get("message_id")):
            raise ValueError(Message("meta.message_id is missing, so nobody knows which answer it is about"))
        if chat.message(id) is None:
            raise ValueError(
                Message("the message {id!r} is not among the {n} of its snapshot", id=str(id)[:60], n=len(chat))
            )
        said = self._said(
            data,
            user=first_present(values.get("user_id"), as_mapping(values.get("user")).get("id")),
            at=first_present(values.get("updated_at"), values.get("created_at")),
        )
        group = self._group(first_present(meta.get("chat_id"), chat.id), chat, str(id))
        row = self._row(line, chat, str(id), group, said, source=data.get("model_id"))
        # A thumb that was taken away leaves its feedback behind.
        row = replace(row, taken_back=said["rating"] is None)
        return [row, *self._others(line, chat, str(id), group)]

    def _chat(self, line: int, values: Mapping[str, Any]) -> list[FileRow]:
        chat = Chat(values)
        # A copy of an answer that was edited has the thumb of the answer with it.
        given, rated = set[str](), dict[str, Mapping[str, Any]]()
        for id in chat:
            message = chat.message(id) or {}
            annotation = said_of("annotation", message.get("annotation"))
            feedback = message.get("feedbackId")
            if message.get("role") != "assistant" or str(feedback) in given:
                continue
            if self._grade(annotation) is None:
                if not is_missing(annotation.get("rating")):
                    # When that was, a chat does not tell.
                    self.pass_over("thumbs that were taken back, of which only the feedback tells when")
                elif not is_missing(annotation.get("comment")):
                    self.pass_over("comments without a rating")
                continue
            if not is_missing(feedback):
                given.add(str(feedback))
            rated[id] = annotation
        if len(rated) > _MOST_RATED:
            raise ValueError(
                Message(
                    "the chat has more than {most_rated:,} rated answers, and each has the chat before it",
                    most_rated=_MOST_RATED,
                )
            )
        rows: list[FileRow] = []
        for id, annotation in rated.items():
            user = first_present(annotation.get("user"), values.get("user_id"))
            said = self._said(annotation, user=user, at=annotation.get("at"))
            group = self._group(chat.id, chat, id)
            rows += [self._row(line, chat, id, group, said), *self._others(line, chat, id, group)]
        return rows

    def _row(
        self, line: int, chat: Chat, id: str, group: str, said: Mapping[str, Any], *, source: object = None
    ) -> FileRow:
        message = chat.message(id) or {}
        answer = reply(message)
        model = first_present(source, message.get("selectedModelId"), message.get("model"))
        if not answer.text:
            raise LeftOutError(
                Message("the message {id!r} has no text: it failed, or was never finished", id=id), what=_NO_ANSWER
            )
        values = {
            "user_prompt": chat.question(id),
            "ai_response": answer.text,
            "corrected_response": answer.correction,
            **dict.fromkeys(("source", "drafted_by"), None if model is None else str(model)),
            "candidate_group": group,
            "created_at": message.get("timestamp"),
            **said,
        }
        row = FileRow(line, to_rating(values), unsaid=_UNSAID)
        self._offered.add(hash((group, answer.text)))
        return row

    def _others(self, line: int, chat: Chat, id: str, group: str) -> Iterator[FileRow]:
        """Yield the other answers to the same message that were not there before."""
        for other in chat.answers(id):
            message = chat.message(other) or {}
            text = reply(message).text
            # One that is still being written, or failed, was never offered.
            if other == id or not text or message.get("done") is False or message.get("error"):
                continue
            if hash((group, text)) not in self._offered:
                yield self._row(line, chat, other, group, {"corrected_response": None})

    def _group(self, chat_id: object, chat: Chat, id: str) -> str:
        parent = (chat.message(id) or {}).get("parentId")
        return ":".join(str(part) for part in (self.tool, chat_id, parent) if not is_missing(part))

    def _said(self, data: Mapping[str, Any], *, user: object, at: object) -> dict[str, Any]:
        words = [str(word).strip() for word in (data.get("reason"), data.get("comment")) if not is_missing(word)]
        return {
            "rating": self._grade(data),
            "feedback_comment": ": ".join(word for word in words if word) or None,
            "reviewer": user_name(self.tool, user),
            "rated_at": at,
        }

    def _grade(self, data: Mapping[str, Any]) -> int | None:
        """Return the rating: from 1 to 10 where there is one, but a thumb up stays good and one down does not."""
        value, detail = data.get("rating"), as_mapping(data.get("details")).get("rating")
        up = None if is_missing(value) else _THUMBS.get(str(value), value)
        if up is not None and not isinstance(up, bool):
            raise ValueError(Message("rating is {value!r}, and thumbs are 1 or -1", value=str(value)[:60]))
        if is_missing(detail) or self._labels.thumbs:
            return None if up is None else self._labels.label(up)
        if not isinstance(detail, int | float) or isinstance(detail, bool):
            raise ValueError(
                Message("details.rating is {detail!r}, not a number from 1 to 10", detail=str(detail)[:60])
            )
        grade = (self._labels.scale or _DETAILS).rating("details.rating", detail)
        if up is None:
            return grade
        return max(grade, GOOD_RATING) if up else min(grade, GOOD_RATING - 1)


def _shown(content: object) -> str:
    return _unfolded(content).strip() if isinstance(content, str) else ""


def _chained(messages: object) -> dict[str, Mapping[str, Any]]:
    """Return the messages of a plain list, each of which answers the one before unless it says otherwise."""
    found: dict[str, Mapping[str, Any]] = {}
    before: str | None = None
    listed = messages if isinstance(messages, Sequence) and not isinstance(messages, str) else ()
    for number, message in enumerate(listed):
        if isinstance(message, Mapping):
            id = str(first_present(message.get("id"), number))
            found[id] = {"parentId": before, **message}
            before = id
    return found


def _unfolded(content: str) -> str:
    """Leave out what is folded, in one pass: the text may be anybody's, and a pattern could be made to take hours."""
    kept, place, search = [], 0, 0
    while (start := content.find(_BEGIN, search)) >= 0:
        closed = content.find(">", start)
        if closed < 0:
            break
        tag = content[start:closed]
        if not tag[len(_BEGIN) :][:1].isspace() or not any(kind in tag for kind in _KINDS):
            search = closed
            continue
        end = content.find(_END, closed)
        if end < 0:
            break
        kept.append(content[place:start])
        search = place = end + len(_END)
        while content[place : place + 1].isspace():
            place += 1
    return "".join([*kept, content[place:]])
