"""A chat of Open WebUI: a tree of messages, in which all answers to one message are its children.

As https://docs.openwebui.com/features/chat-conversations/data-controls/import-export describes it: `history.messages`
maps ids to messages with `id`, `parentId`, `childrenIds`, `role`, `content`, `model`, `done`, `timestamp`. An answer
that was rated has an `annotation` (`rating`, `reason`, `comment`, `details`) and a `feedbackId`, one that was edited in
place its `originalContent`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf_loop.exchange.fields import is_missing
from rlhf_loop.exchange.formats.base import LeftOutError
from rlhf_loop.exchange.formats.messages import prompt_text
from rlhf_loop.exchange.formats.values import first, mapping

# What a model thought and which tools it called stands folded in the content; nobody rates that.
_KINDS = ('type="reasoning"', 'type="tool_calls"', 'type="code_interpreter"')
_UNREADABLE = "rated answers to a question without a text"
_BEGIN, _END = "<details", "</details>"


@dataclass(frozen=True, slots=True)
class Reply:
    """What a message of the assistant says, and what somebody made of it."""

    text: str
    correction: str | None = None


class Chat:
    """The messages of one chat, by their ids."""

    def __init__(self, record: Mapping[str, Any]) -> None:
        inner = mapping(record.get("chat")) or record
        inner = mapping(inner.get("chat")) or inner  # a snapshot has the chat as the API gives it, with the chat inside
        self.id = first(record.get("id"), mapping(record.get("chat")).get("id"))
        found = mapping(mapping(inner.get("history")).get("messages"))
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
            raise LeftOutError(f"the message {id!r} has no question before it", what=_UNREADABLE)
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


def _shown(content: object) -> str:
    return _unfolded(content).strip() if isinstance(content, str) else ""


def _chained(messages: object) -> dict[str, Mapping[str, Any]]:
    """Return the messages of a plain list, each of which answers the one before unless it says otherwise."""
    found: dict[str, Mapping[str, Any]] = {}
    before: str | None = None
    listed = messages if isinstance(messages, Sequence) and not isinstance(messages, str) else ()
    for number, message in enumerate(listed):
        if isinstance(message, Mapping):
            id = str(first(message.get("id"), number))
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
