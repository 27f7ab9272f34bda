"""The text of a document as it comes: a string, an object, or what clients make of an object before they send it.

A document's score must not depend on its wrapping. Some clients send an object as a string of JSON (Vercel AI SDK) or
of YAML (langchain-cohere), some put lines of metadata in front of it (LlamaIndex), some send parts as chat messages
have them (vLLM, Dify).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

#: A mapping as `yaml.dump` writes it: keys at the margin, and what belongs to them indented or in a list.
_YAML = re.compile(r"(?:(?:[\w.-]+:(?: .*)?|[ \t].*|- .*|)\n)+", re.ASCII)
_YAML_TEXT = re.compile(r"^text: [^\s\[{&*!%@`].*\n(?:(?:[ \t].*|)\n)*", re.MULTILINE)
#: `MetadataMode.EMBED` of LlamaIndex: lines of key and value, an empty line, and the text.
_HEADER = re.compile(r"(?:[a-z][a-z0-9_ -]*: [^\n]*\n)+\n(?=\s*\S)", re.ASCII)
#: Words of keys that say where a text comes from, and nothing of what it says.
_PLACES = re.compile(
    r"accessed|at|bytes|chunk|count|creat(?:ed|ion)|date|doc(?:ument)?|extension|file(?:name|path)?|format|hash|id|index|"
    r"label|last|link|mime|modified|name|node|no|number|pages?|path|ref|sheet|size|slide|source|time|total|type|ur[il]|"
    r"uuid|version"
)

#: Of these at least one: "time" or "size" alone may as well be what a text is about.
_SOURCES = re.compile(
    r"bytes|chunk|doc(?:ument)?|extension|file(?:name|path)?|hash|link|mime|modified|node|pages?|path|sheet|slide|source|ur[il]|uuid"
)


def document_text(document: str | Mapping[str, Any], fields: Sequence[str] = ()) -> str | None:
    """Return what is to be read of a document: `fields` of an object, or its text; None if it has neither."""
    if isinstance(document, str):
        return _of_string(document, fields)
    return _of_object(document, fields)


def parts_text(content: object) -> str | None:
    """Return the text of a message's content: a string, or the texts of its parts; None if it is neither."""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        return None
    texts = [part.get("text") for part in content if isinstance(part, Mapping)]
    # What has only pictures has nothing to read.
    return "\n".join(text for text in texts if isinstance(text, str)) if len(texts) == len(content) else None


def _of_object(given: Mapping[str, Any], fields: Sequence[str]) -> str | None:
    if fields:
        parts = [str(given[name]) for name in fields if isinstance(given.get(name), str | int | float)]
        return "\n".join(parts) if parts else None
    text = given.get("text")
    return text if isinstance(text, str) else parts_text(given.get("content"))


def _of_string(document: str, fields: Sequence[str]) -> str:
    if document.startswith("{") and document.rstrip().endswith("}"):
        found = _json_object(document)
        text = None if found is None else _of_object(found, fields)
        if text is not None:
            return text
    if not fields and (text := _of_yaml(document)) is not None:
        return text
    return _without_header(document)


def _json_object(written: str) -> Mapping[str, Any] | None:
    try:
        found = json.loads(written)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _of_yaml(document: str) -> str | None:
    # Only the one scalar is given to the parser: what may be nested or refers to something else is none.
    written = document if document.endswith("\n") else f"{document}\n"
    found = _YAML_TEXT.findall(written) if "text: " in document else []
    if len(found) != 1 or not _YAML.fullmatch(written):
        return None
    import yaml

    if not yaml.__with_libyaml__:
        # The parser in Python would take minutes for what a request may have.
        return None
    try:
        text = yaml.load(found[0], Loader=yaml.CSafeLoader)["text"]
    except (yaml.YAMLError, TypeError, KeyError):
        return None
    return text if isinstance(text, str) else None


def _without_header(document: str) -> str:
    header = _HEADER.match(document)
    if header is None:
        return document
    keys = [line.partition(":")[0] for line in header.group().splitlines() if line]
    words = {word for key in keys for word in re.split(r"[_ -]+", key)}
    known = all(map(_PLACES.fullmatch, words)) and any(map(_SOURCES.fullmatch, words))
    return document[header.end() :] if known else document
