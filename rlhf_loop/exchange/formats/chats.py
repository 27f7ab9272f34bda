"""Ratings in Dify, RAGFlow and LibreChat: thumbs, which stand beside the messages of a chat or name one by its id.

Dify (langgenius/dify): `api/services/feedback_service.py` writes the CSV and the JSON of an app's logs, with the first
500 characters of an answer; `api/controllers/service_api/app/message.py` gives messages (`query`, `answer`, `feedback`)
and feedback (`message_id`, `rating`, `content`), and takes the latter. RAGFlow (infiniflow/ragflow):
`api/apps/restful_apis/chat_api.py` gives sessions, whose messages of the assistant have `thumbup` and `feedback`.
LibreChat (danny-avila/LibreChat): `packages/data-schemas/src/schema/message.ts` is a message as its database and
`client/src/hooks/Conversations/useExportConversation.ts` write it, with `feedback` of `rating`, `tag` and `text`.

Chats of the last two become those of Open WebUI, and are read as these.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from rlhf_loop.domain import ReviewerRole
from rlhf_loop.exchange.fields import is_missing, to_rating
from rlhf_loop.exchange.formats.base import FileRow, Labels, Layout, LeftOutError
from rlhf_loop.exchange.formats.messages import as_mapping, first_present, read_answer, said_of, user_name
from rlhf_loop.exchange.formats.openwebui import OpenWebUILayout
from rlhf_loop.utils.text import blank
from rlhf_loop.utils.translation import Message

_UNSAID = frozenset({"reviewer_role", "harmful"})
#: Dify's export keeps so much of an answer, and puts three dots behind it.
_KEPT, _DOTS = 500, "..."
_DIFY_THUMBS = {"like": True, "dislike": False, "👍": True, "👎": False}
_LIBRECHAT_THUMBS = {"thumbsUp": 1, "thumbsDown": -1}
#: What RAGFlow puts into answers for its pages: what the model thought, and the numbers of chunks, shown as icons.
_THOUGHT = re.compile(r"\A\s*<think>.*?</think>\s*", re.DOTALL)
_CITED = re.compile(r"\s*(?:\[ID:\s?\d+\]|##\d+\$\$)")


class DifyLayout(Layout):
    """The layout of Dify's feedback and messages; whoever gave a thumb is an end user."""

    role = ReviewerRole.END_USER
    parted = True

    def _inside(self, values: Mapping[str, Any]) -> Sequence[Any] | None:
        found = first_present(values.get("feedback_data"), values.get("data"))
        return found if isinstance(found, list) else None

    def _read(self, line: int, values: Mapping[str, Any]) -> Iterable[FileRow]:
        if "query" in values and "answer" in values:
            return self._message(line, values)
        if "message_id" not in values or not {"rating", "feedback_rating_raw", "feedback_rating"} & values.keys():
            raise LeftOutError(
                Message("it is neither a message with query and answer nor a feedback with message_id and rating")
            )
        grade = self._grade(first_present(*map(values.get, ("rating", "feedback_rating_raw", "feedback_rating"))))
        user = first_present(
            *(values.get(name) for name in ("from_end_user_id", "user", "from_account_id", "from_account_name"))
        )
        said = {
            "rating": grade,
            "feedback_comment": first_present(values.get("content"), values.get("feedback_comment") or None),
            "reviewer": user_name("dify", None if user == "" else user),
            "rated_at": first_present(*map(values.get, ("updated_at", "created_at", "feedback_date"))),
        }
        question, answer = values.get("user_query"), str(values.get("ai_response") or "")
        cut = len(answer) == _KEPT + len(_DOTS) and answer.endswith(_DOTS)
        # Of an answer that is cut only its id says what was rated.
        whole = not blank(answer) and not cut and not is_missing(question) and not blank(str(question))
        texts = {"user_prompt": question, "ai_response": answer, "created_at": values.get("message_date")}
        return [_row(line, values.get("message_id"), said, texts if whole else None)]

    def _message(self, line: int, values: Mapping[str, Any]) -> list[FileRow]:
        texts = {
            "user_prompt": first_present(values.get("query") or None, as_mapping(values.get("inputs")).get("query")),
            "ai_response": values.get("answer"),
            "created_at": values.get("created_at"),
        }
        if any(is_missing(text) or blank(str(text)) for text in (texts["user_prompt"], texts["ai_response"])):
            raise LeftOutError(
                Message("its question or its answer is empty"), what="messages without a question or an answer"
            )
        given = values.get("feedbacks")
        given = given if isinstance(given, list) else [first_present(given, values.get("feedback"))]
        rows = []
        for feedback in (said_of("feedback", each) for each in given):
            account = as_mapping(feedback.get("from_account"))
            user = first_present(
                *(feedback.get(name) for name in ("from_end_user_id", "from_account_id")), account.get("name")
            )
            grade = self._grade(feedback.get("rating"))
            said = {
                "rating": grade,
                "feedback_comment": feedback.get("content") if grade is not None else None,
                "reviewer": user_name("dify", user) if grade is not None else None,
            }
            rows.append(_row(line, values.get("id"), said, texts))
        return rows or [_row(line, values.get("id"), {}, texts)]

    def _grade(self, value: object) -> int | None:
        if is_missing(value) or value == "":
            return None
        if (up := _DIFY_THUMBS.get(str(value))) is None:
            raise ValueError(Message("rating is {value!r}, and Dify's are like and dislike", value=str(value)[:60]))
        return self._labels.label(up)


class RagflowLayout(OpenWebUILayout):
    """The layout of RAGFlow's sessions; whoever gave a thumb is an end user."""

    tool = "ragflow"

    def _inside(self, values: Mapping[str, Any]) -> Sequence[Any] | None:
        found = values.get("data")
        return [found] if isinstance(found, Mapping) else found if isinstance(found, list) else None

    def _read(self, line: int, values: Mapping[str, Any]) -> Iterable[FileRow]:
        given = first_present(values.get("messages"), values.get("message"))
        if isinstance(given, list):
            return self._chat(line, {**values, "history": {"messages": dict(_session(given))}})
        up = _ragflow_thumb(values)
        if up is not None and not is_missing(values.get("message_id")):
            said = {
                "rating": self._labels.label(up),
                "feedback_comment": values.get("feedback"),
                "reviewer": user_name(self.tool, values.get("user_id")),
            }
            return [_row(line, values["message_id"], said, None)]
        raise LeftOutError(Message("it is neither a session with messages nor a feedback with message_id and thumbup"))


class LibreChatLayout(OpenWebUILayout):
    """The layout of LibreChat's messages, by conversation or each in a line; whoever gave a thumb is an end user."""

    tool = "librechat"

    def __init__(self, labels: Labels) -> None:
        super().__init__(labels)
        #: Messages that stand by themselves, by conversation, with the line of the first.
        self._alone: dict[str, tuple[int, list[Mapping[str, Any]]]] = {}

    def finish(self) -> Iterable[FileRow]:
        for id, (line, messages) in self._alone.items():
            yield from self._conversation(line, id, {}, messages)

    def _read(self, line: int, values: Mapping[str, Any]) -> Iterable[FileRow]:
        listed = first_present(values.get("messages"), values.get("messagesTree"))
        if isinstance(listed, list):
            return self._conversation(line, values.get("conversationId"), values, listed)
        if is_missing(values.get("messageId")):
            raise LeftOutError(Message("it is neither a conversation with messages nor a message with messageId"))
        if "feedback" not in values and "isCreatedByUser" not in values:
            raise LeftOutError(Message("it is neither a message nor its feedback"))
        if is_missing(values.get("conversationId")) or "isCreatedByUser" not in values:
            return [self._by_id(line, values)]
        self._alone.setdefault(str(values["conversationId"]), (line, []))[1].append(values)
        return []

    def _by_id(self, line: int, values: Mapping[str, Any]) -> FileRow:
        annotation = _annotation(values)
        said = self._said(annotation, user=annotation.get("user"), at=None)
        return _row(line, values["messageId"], said, None)

    def _conversation(
        self, line: int, id: object, values: Mapping[str, Any], listed: Sequence[Any]
    ) -> Iterator[FileRow]:
        try:
            messages = {str(message.get("messageId")): _message(message) for message in _unfolded(listed)}
            yield from self._chat(line, {"id": id, "history": {"messages": messages}})
        except LeftOutError as error:
            self.pass_over(error.what)
        except ValueError as error:
            yield FileRow(line, None, str(error))


def _row(line: int, id: object, said: Mapping[str, Any], texts: Mapping[str, Any] | None) -> FileRow:
    """Return what is said of the answer with that id, whose texts are elsewhere unless they come along."""
    if is_missing(id) or blank(str(id)):
        raise ValueError(Message("message_id is missing, so nobody knows which answer it is about"))
    values = {"external_id": str(id), **(texts or {"user_prompt": "-", "ai_response": "-"}), **said}
    rating = to_rating(values)
    elsewhere = texts is None
    taken_back = elsewhere and rating.rating is None
    return FileRow(line, rating, unsaid=_UNSAID, texts_elsewhere=elsewhere, taken_back=taken_back)


def _ragflow_thumb(values: Mapping[str, Any]) -> bool | None:
    up = values.get("thumbup")
    if isinstance(up, bool) or is_missing(up):
        return up if isinstance(up, bool) else None
    raise ValueError(Message("thumbup is {up!r}, and RAGFlow's are true and false", up=str(up)[:60]))


def _session(listed: Sequence[Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a session's messages, each of which answers the one before; what greets stands before any question."""
    parent: str | None = None
    for number, message in enumerate(listed):
        if not isinstance(message, Mapping) or (parent is None and message.get("role") != "user"):
            continue
        content = message.get("content")
        found: dict[str, Any] = {"parentId": parent, "role": message.get("role"), "content": content}
        if message.get("role") == "assistant" and isinstance(content, str):
            found["content"] = _CITED.sub("", _THOUGHT.sub("", content))
        if (up := _ragflow_thumb(message)) is not None:
            found["annotation"] = {"rating": 1 if up else -1, "comment": message.get("feedback")}
        parent = str(number)
        yield parent, found


def _unfolded(listed: Sequence[Any]) -> Iterator[Mapping[str, Any]]:
    """Yield messages and those below them, in order; a tree may be deeper than calls can be."""
    waiting = list(reversed(listed))
    while waiting:
        message = waiting.pop()
        if isinstance(message, list):
            waiting += reversed(message)
        elif isinstance(message, Mapping):
            yield message
            children = message.get("children")
            waiting += reversed(children if isinstance(children, list) else [])


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message of LibreChat as Open WebUI has it."""
    by_user = message.get("isCreatedByUser") is True
    text = first_present(message.get("text") or None, "")
    if isinstance(parts := message.get("content"), list) and parts:
        # A picture or the like is none; whoever has seen it judged something else than its text.
        with suppress(LeftOutError):
            given = {"role": "assistant", "content": [part for part in parts if isinstance(part, Mapping)]}
            text = read_answer("content", given, of="messages")
    failed = message.get("error") is True or message.get("unfinished") is True
    return {
        "parentId": message.get("parentMessageId"),
        "role": "user" if by_user else "assistant",
        "content": text,
        "model": first_present(message.get("model"), message.get("sender")),
        "timestamp": _time(message.get("createdAt")),
        "error": failed,
        "annotation": _annotation(message),
    }


def _annotation(message: Mapping[str, Any]) -> dict[str, Any]:
    feedback = said_of("feedback", message.get("feedback"))
    if all(map(is_missing, feedback.values())):
        return {"user": message.get("user")}
    if not isinstance(rating := feedback.get("rating"), str) or rating not in _LIBRECHAT_THUMBS:
        raise ValueError(
            Message(
                "feedback.rating is {rating!r}, and LibreChat's are thumbsUp and thumbsDown", rating=str(rating)[:60]
            )
        )
    tag = feedback.get("tag")
    return {
        "rating": _LIBRECHAT_THUMBS[rating],
        "reason": first_present(as_mapping(tag).get("key"), tag if isinstance(tag, str) else None),
        "comment": feedback.get("text"),
        "user": message.get("user"),
        "at": _time(message.get("updatedAt")),
    }


def _time(value: object) -> object:
    # MongoDB's own tools write an object.
    return value.get("$date") if isinstance(value, Mapping) else value
