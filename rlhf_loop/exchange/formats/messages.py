"""Values in the files of other tools: conversations (lists of messages), JSON as text, user names.

Messages are read as OpenAI, Anthropic, Gemini, LangChain (its dumps and LangGraph's state), the AI SDK, OpenInference
and ShareGPT write them. Read is what people and models said to each other: neither what the system was told, nor the
calls of tools and what these gave, nor what a model thought.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from rlhf_loop.exchange.fields import is_missing
from rlhf_loop.exchange.formats.base import LeftOutError
from rlhf_loop.utils.text import blank, visible
from rlhf_loop.utils.translation import Message

#: Levels of JSON that are read, and what makes them; brackets in texts do not.
_DEEPEST = 100
_BRACKETS = re.compile(r'"(?:[^"\\]+|\\.)*+"?|[][{}]', re.DOTALL)
#: Where applications keep the question and the answer in an object of their own.
_QUESTION_KEYS = (
    *("messages", "question", "query", "prompt", "input", "user_prompt", "text", "content", "inputs", "user_input"),
    *("user_query", "user_message", "chat_input", "message", "instruction", "contents"),
)
_ANSWER_KEYS = (
    *("answer", "output", "response", "completion", "ai_response", "text", "content", "messages", "choices"),
    *("outputs", "result", "generations", "message", "reply", "candidates", "return_values"),
)
#: Each entry of these is an answer of its own.
_OFFERS = ("choices", "generations", "candidates")
_ROLES = {"human": "user", "ai": "assistant", "gpt": "assistant", "model": "assistant", "developer": "system"}
_ROLES |= dict.fromkeys(("function", "observation", "function_call", "function_call_output"), "tool")
_NOT_SAID = ("system", "tool")
_KNOWN = ("user", "assistant", *_NOT_SAID)
#: Parts of a message that are not said: calls, what came of them, thoughts.
_UNSAID_PARTS = ("tool", "function", "server_tool", "mcp", "think", "reason", "redacted", "step", "source", "data-")
_ROLE_KEYS = ("role", "message.role", "from", "author")
_CONTENT_KEYS = ("content", "message.content", "value", "text", "parts", "contents", "message.contents")
_CALLS = ("tool_calls", "message.tool_calls", "toolCalls", "function_call")


class UnreadableError(ValueError):
    """There is no text in a value: `why` follows its name. It is `foreign` if it is of nobody's known form."""

    def __init__(self, message: str, *, why: str, foreign: bool = False) -> None:
        super().__init__(message)
        self.why = why
        self.foreign = foreign


def prompt_text(name: str, value: object) -> str:
    """Return the question in a text, in messages, or in an object around one of them.

    Of several turns each begins with its speaker.

    Raises:
        ValueError: there is none.
    """
    return value if isinstance(value, str) else _question(name, value)


def answer_text(name: str, value: object) -> str:
    """Return the answer in a text, in one message, or in an object around one of them.

    Raises:
        ValueError: there is none, or there are several messages.
    """
    if isinstance(value, list) and len(turns := messages_of(name, value)) != 1:
        raise ValueError(Message("{name} has {n} messages, not one answer", name=name, n=len(turns)))
    return value if isinstance(value, str) else _answer(name, value)


def read_prompt(name: str, value: object, *, of: str) -> str:
    """Return the question as `prompt_text`, where the value may be its JSON.

    Raises:
        LeftOutError: there is none; `of` says in what kind of records.
    """
    try:
        return _question(name, value)
    except UnreadableError as error:
        raise LeftOutError(str(error), what=f"{of} whose {name} {error.why}") from error


def read_answer(name: str, value: object, *, of: str) -> str:
    """Return the answer in a text, or the last one in messages; a number is a text, and so is JSON of something else.

    So is an object or a list of something else, as its JSON.

    Raises:
        LeftOutError: there is none; `of` says in what kind of records.
    """
    if isinstance(value, int | float) and not is_missing(value):
        return json.dumps(value)
    try:
        return _answer(name, value)
    except UnreadableError as error:
        if error.foreign and isinstance(value, Mapping | list):
            return json.dumps(value, ensure_ascii=False, default=str)
        raise LeftOutError(str(error), what=f"{of} whose {name} {error.why}") from error


def is_read_from(stored: str, text: str) -> bool:
    """Tell whether a question or an answer is what is stored, or is read from the JSON that is."""
    if visible(stored) == visible(text):
        return True
    with suppress(ValueError):
        found = json.loads(stored) if stored.startswith('"') else stored
        return any(visible(read("it", found)) == visible(text) for read in (_question, _answer))
    return False


@dataclass(frozen=True, slots=True)
class Turn:
    """One speaker's words, with a role of OpenAI's where it has one there; `calls` tools instead, or as well."""

    role: str
    text: str
    calls: bool = False


def messages_of(name: str, value: Sequence[Any]) -> list[Turn]:
    """Return the turns of a conversation in which something is said, or a tool called.

    Raises:
        UnreadableError: something in it is not a message, or shows a picture or the like.
    """
    # A list of batches, of which there is one, as LangChain has it.
    while len(value) == 1 and isinstance(value[0], list) and not _is_pair(value[0]):
        value = value[0]
    messages = [value] if _is_pair(value) else value
    return [turn for message in messages if (turn := _turn(name, message)).text or turn.calls]


def _question(name: str, value: object) -> str:
    found = parse_json(value)
    if isinstance(found, str):
        if found[:1] in ("{", "[") and _levels(found) > _DEEPEST:
            raise UnreadableError(Message("{name} is nested too deeply", name=name), why="is nested too deeply")
        return found
    if isinstance(found, Mapping) and not _is_message(found):
        if found.keys() >= {"args", "kwargs"}:
            return _argument(name, found)
        return _question(name, _inside(name, found, _QUESTION_KEYS)[1])
    turns = [turn for turn in messages_of(name, _listed(name, found)) if turn.text and turn.role not in _NOT_SAID]
    if not turns:
        raise UnreadableError(Message("{name} has no message of the user", name=name), why="has no message of the user")
    if len(turns) == 1:
        return turns[0].text
    return "\n\n".join(f"{turn.role}: {turn.text}" for turn in turns)


def _answer(name: str, value: object) -> str:
    found = parse_json(value)
    if isinstance(found, str):
        return found
    try:
        if isinstance(found, Mapping) and not _is_message(found):
            key, inner = _inside(name, found, _ANSWER_KEYS)
            if key in _OFFERS and len(offers := messages_of(name, _listed(name, inner))) > 1:
                raise UnreadableError(
                    Message("{name} has {n} {key}, not one answer", name=name, n=len(offers), key=key),
                    why="has several answers",
                )
            return _answer(name, inner)
        turns = messages_of(name, _listed(name, found))
    except UnreadableError as error:
        # An application may well answer in JSON of its own.
        if error.foreign and isinstance(value, str):
            return value
        raise
    last = turns[-1] if turns else None
    if last is None or not last.text or last.role == "user":
        raise UnreadableError(
            Message("{name} has no message of the assistant at its end", name=name), why="does not end with an answer"
        )
    return last.text


def _argument(name: str, call: Mapping[Any, Any]) -> str:
    """Return the one argument of a function that is a question, by its name or because no other could be one."""
    args, kwargs = call["args"] or [], as_mapping(call["kwargs"])
    with suppress(UnreadableError):
        return _question(name, _inside(name, kwargs, _QUESTION_KEYS)[1])
    texts = []
    for value in (*(args if isinstance(args, list) else ()), *kwargs.values()):
        with suppress(UnreadableError):
            texts.append(_question(name, value))
    if len(texts) != 1:
        raise UnreadableError(
            Message(
                "{name} has the arguments of a function, and {n} of them could be the question", name=name, n=len(texts)
            ),
            why="has no argument that must be the question",
        )
    return texts[0]


def split_prompt(chosen: Any, rejected: Any) -> tuple[Any, Any, Any]:
    """Return what two completions have in common at their start, the prompt, and the rest of each.

    Of texts the prompt ends with a whole word.

    Raises:
        ValueError: they have nothing in common.
    """
    if isinstance(chosen, str) and isinstance(rejected, str):
        same = _common(chosen, rejected)
        if same < max(len(chosen), len(rejected)):
            same = max(chosen.rfind(blank, 0, same) for blank in " \n\t") + 1
        if not chosen[:same].strip():
            raise ValueError(Message("prompt is missing, and chosen and rejected do not begin alike"))
        return chosen[:same].strip(), chosen[same:], rejected[same:]
    if isinstance(chosen, list) and isinstance(rejected, list):
        same = _common(chosen, rejected)
        if not same:
            raise ValueError(Message("prompt is missing, and chosen and rejected do not begin with the same messages"))
        return chosen[:same], chosen[same:], rejected[same:]
    raise ValueError(Message("prompt is missing, and chosen and rejected are not of one kind"))


def parse_json(value: object) -> object:
    """Return what a text holds, if it is JSON of an object or a list, else the value itself.

    What is nested more than a hundred levels deep stays a text: how deep Python can read depends on who calls.
    """
    if isinstance(value, str) and value[:1] in ("{", "[") and _levels(value) <= _DEEPEST:
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _levels(text: str) -> int:
    """Return how many levels deep lists and objects are nested in JSON."""
    if text.count("{") + text.count("[") <= _DEEPEST:
        return 0
    level = deepest = 0
    for found in _BRACKETS.finditer(text):
        if (sign := found[0]) in ("{", "["):
            level += 1
            deepest = max(deepest, level)
        elif sign in ("}", "]"):
            level -= 1
    return deepest


def question_messages(text: str) -> list[dict[str, str]]:
    """Return a question as a conversation."""
    return [{"role": "user", "content": text}]


def answer_messages(text: str) -> list[dict[str, str]]:
    """Return an answer as the rest of a conversation."""
    return [{"role": "assistant", "content": text}]


def first_present(*values: Any) -> Any:
    """Return the first value that is there, None if there is none."""
    return next((value for value in values if not is_missing(value)), None)


def as_mapping(value: object) -> Mapping[str, Any]:
    """Return an object, be it the text of one; an empty one for anything else."""
    found = parse_json(value)
    return found if isinstance(found, Mapping) else {}


def said_of(name: str, value: object) -> Mapping[str, Any]:
    """Return what somebody said of an answer; an empty object where there is nothing.

    Raises:
        ValueError: it has another form, and its rating would get lost.
    """
    found = as_mapping(value)
    if not found and not is_missing(value) and value not in ({}, [], "{}"):
        raise ValueError(Message("{name} is {value!r}, not an object with a rating", name=name, value=str(value)[:60]))
    return found


def user_name(tool: str, id: object) -> str | None:
    """Name a user of another tool; no user's name here has a colon, so that nobody is taken for one of them."""
    return None if is_missing(id) or blank(str(id)) else f"{tool}:{id}"


def _common(first: Sequence[Any], second: Sequence[Any]) -> int:
    shorter = min(len(first), len(second))
    return next((place for place in range(shorter) if first[place] != second[place]), shorter)


def _inside(name: str, value: Mapping[Any, Any], keys: Sequence[str]) -> tuple[str, object]:
    for key in keys:
        if not is_missing(found := value.get(key)) and found not in ([], {}):
            return key, found
    keys_there = [key for key in keys if key in value]
    if keys_there:
        raise UnreadableError(
            Message("{name} has nothing in {keys_there!r}", name=name, keys_there=keys_there[0]), why="is empty"
        )
    raise UnreadableError(
        Message(
            "{name} is an object with {str!r}, and none of {keys}",
            name=name,
            str=", ".join(map(str, value))[:60],
            keys=", ".join(keys),
        ),
        why="is an object of another form",
        foreign=True,
    )


def _listed(name: str, value: object) -> Sequence[Any]:
    if is_missing(value):
        raise UnreadableError(Message("{name} is missing", name=name), why="is missing")
    if isinstance(value, Mapping):
        return [value]
    if not isinstance(value, Sequence):
        raise UnreadableError(
            Message("{name} is {value!r}, neither a text nor messages", name=name, value=str(value)[:60]),
            why="is not a text",
            foreign=True,
        )
    return value


def _is_message(value: Mapping[Any, Any]) -> bool:
    inner = value.get("message")
    return _role_of(value) in _KNOWN or (isinstance(inner, Mapping) and bool(_role_of(inner)))


def _is_pair(value: Sequence[Any]) -> bool:
    return len(value) == 2 and all(isinstance(each, str) for each in value) and _role(value[0]) in _KNOWN


def _role_of(message: Mapping[Any, Any]) -> str:
    if role := _role(first_present(*(message.get(key) for key in _ROLE_KEYS))):
        return role
    # What has a type may as well be a part of a message, or what a model generated.
    kind = _role(message.get("type"))
    return kind if kind in _KNOWN or kind.startswith(_UNSAID_PARTS) else ""


def _role(value: object) -> str:
    # LangChain names its classes: HumanMessage, AIMessageChunk.
    plain = value.lower().removesuffix("chunk").removesuffix("message") if isinstance(value, str) else ""
    return _ROLES.get(plain, plain)


def _turn(name: str, message: object) -> Turn:
    if isinstance(message, list | tuple) and _is_pair(message):
        return Turn(_role(message[0]), message[1])
    values = _unwrapped(message) if isinstance(message, Mapping) else {}
    if not any(key in values for key in (*_ROLE_KEYS, "type", *_CONTENT_KEYS)):
        raise UnreadableError(
            Message(
                "{name} holds {message!r}, which is not a message with a role and a content",
                name=name,
                message=str(message)[:60],
            ),
            why="is of another form",
            foreign=True,
        )
    role = _role_of(values)
    calls = any(values.get(key) for key in _CALLS) or role.startswith(_UNSAID_PARTS)
    content = first_present(*(values.get(key) for key in _CONTENT_KEYS))
    return Turn(role, "" if role in _NOT_SAID else _said(name, content), calls)


def _unwrapped(message: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """Return what a choice of OpenAI's, a dump of LangChain's or a candidate of Gemini's has its message in."""
    for key in ("message", "kwargs", "data", "content"):
        if isinstance(inner := message.get(key), Mapping):
            id = message.get("id")
            kind = first_present(message.get("role"), id[-1] if isinstance(id, list) and id else None)
            return _unwrapped({"type": first_present(kind, message.get("type")), **inner})
    return message


def _said(name: str, content: object) -> str:
    """Return the text of a message's content: of its parts those that are said."""
    if content is None or isinstance(content, str):
        return content if content and content.strip() else ""
    texts = []
    for part in content if isinstance(content, list) else [content]:
        found = part if isinstance(part, Mapping) else {"text": part}
        found = as_mapping(found.get("message_content")) or found
        kind = str(first_present(found.get("type"), found.get("message_content.type"), *list(found)[:1]) or "").lower()
        text = first_present(found.get("text"), found.get("message_content.text"), found.get("refusal"))
        text = text.get("value") if isinstance(text, Mapping) else text
        if kind.startswith(_UNSAID_PARTS):
            continue
        if not isinstance(text, str):
            # Whoever judged the answer saw it, and who reads its text does not.
            raise UnreadableError(
                Message("{name} holds {part!r}, which is not a text", name=name, part=str(part)[:60]),
                why="has a picture, a file or a sound",
            )
        texts.append(text)
    return "".join(texts)
