"""Values in the files of other tools: conversations (lists of messages), JSON as text, times as numbers, user names."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rlhf_loop.exchange.fields import is_missing

#: Where applications keep the question and the answer in an object of their own.
_QUESTION_KEYS = ("messages", "question", "query", "prompt", "input", "user_prompt", "text", "content")
_ANSWER_KEYS = ("answer", "output", "response", "completion", "ai_response", "text", "content", "messages", "choices")
#: Up to here a number is seconds since 1970 (the year 5138), then thousandths, millionths, billionths of them.
_SECONDS = 1e11
#: No time is beyond it in any unit, and no number that is not finite is below.
_ANY = 1e30


def prompt_text(name: str, value: object) -> str:
    """Return the question in a text, in messages, or in an object around one of them.

    What the system was told is not part of the question. Of several turns each begins with its speaker.

    Raises:
        ValueError: there is none.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return prompt_text(name, _inside(name, value, _QUESTION_KEYS))
    turns = [turn for turn in _turns(name, value) if turn[0] not in ("system", "developer")]
    if not turns:
        raise ValueError(f"{name} has no message of the user")
    if len(turns) == 1:
        return turns[0][1]
    return "\n\n".join(f"{role}: {content}" for role, content in turns)


def answer_text(name: str, value: object) -> str:
    """Return the answer in a text, in one message, or in an object around one of them.

    Raises:
        ValueError: there is none, or there are several messages.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return answer_text(name, _inside(name, value, _ANSWER_KEYS))
    turns = _turns(name, value)
    if len(turns) != 1:
        raise ValueError(f"{name} has {len(turns)} messages, not one answer")
    return turns[0][1]


def read_prompt(name: str, value: object) -> str:
    """Return the question as `prompt_text`, where the value may be its JSON; JSON of something else is a text.

    Raises:
        ValueError: there is none.
    """
    return _read(name, value, prompt_text)


def read_answer(name: str, value: object) -> str:
    """Return the answer as `answer_text`, where the value may be its JSON; JSON of something else is a text.

    Raises:
        ValueError: there is none, or there are several messages.
    """
    return _read(name, value, answer_text)


def split_prompt(chosen: object, rejected: object) -> tuple[object, object, object]:
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
            raise ValueError("prompt is missing, and chosen and rejected do not begin alike")
        return chosen[:same].strip(), chosen[same:], rejected[same:]
    if isinstance(chosen, list) and isinstance(rejected, list):
        same = _common(chosen, rejected)
        if not same:
            raise ValueError("prompt is missing, and chosen and rejected do not begin with the same messages")
        return chosen[:same], chosen[same:], rejected[same:]
    raise ValueError("prompt is missing, and chosen and rejected are not of one kind")


def parse_json(value: object) -> object:
    """Return what a text holds, if it is JSON of an object or a list, else the value itself."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


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


def as_time(value: Any) -> Any:
    """Return a time for the parser of ratings, which knows ISO 8601; a number is time since 1970."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _ANY:
        while abs(value) > _SECONDS:
            value /= 1000
        try:
            return datetime.fromtimestamp(value, UTC)
        except (ValueError, OverflowError, OSError):
            return str(value)
    return value if value is None or isinstance(value, datetime) else str(value)


def user_name(tool: str, id: object) -> str | None:
    """Name a user of another tool; no user's name here has a colon, so that nobody is taken for one of them."""
    return None if is_missing(id) or not str(id).strip() else f"{tool}:{id}"


def _read(name: str, value: object, text_of: Callable[[str, object], str]) -> str:
    found = parse_json(value)
    if not isinstance(value, str) or found is value:
        return text_of(name, found)
    try:
        return text_of(name, found)
    except ValueError:
        # An application may well answer in JSON of its own.
        return value


def _common(first: Sequence[Any], second: Sequence[Any]) -> int:
    shorter = min(len(first), len(second))
    return next((place for place in range(shorter) if first[place] != second[place]), shorter)


def _inside(name: str, value: Mapping[Any, Any], keys: Sequence[str]) -> object:
    for key in keys:
        if value.get(key):
            return value[key]
    raise ValueError(f"{name} is an object with {', '.join(map(str, value))[:60]!r}, and none of {', '.join(keys)}")


def _turns(name: str, value: object) -> list[tuple[str, str]]:
    if value is None:
        raise ValueError(f"{name} is missing")
    if not isinstance(value, Sequence):
        raise ValueError(f"{name} is {str(value)[:60]!r}, neither a text nor messages")
    return [_turn(name, message) for message in value]


def _turn(name: str, message: object) -> tuple[str, str]:
    if not isinstance(message, Mapping):
        raise ValueError(f"{name} holds {str(message)[:60]!r}, which is not a message with a role and a content")
    # A choice of OpenAI's has its message inside; spans of OpenInference have it with dots.
    message = message["message"] if isinstance(message.get("message"), Mapping) else message
    role, content = (message.get(key, message.get(f"message.{key}")) for key in ("role", "content"))
    if isinstance(content, Sequence) and not isinstance(content, str):
        # Parts, as models that see have them; those without text cannot be judged by their text.
        parts = [part.get("text") if isinstance(part, Mapping) else None for part in content]
        content = "".join(parts) if all(isinstance(part, str) for part in parts) else None  # type: ignore[arg-type]
    if not isinstance(role, str) or not isinstance(content, str):
        raise ValueError(f"{name} holds {str(message)[:60]!r}, which is not a message with a role and a text")
    return role, content
