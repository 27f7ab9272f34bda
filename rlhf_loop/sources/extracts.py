"""What of a passage is shown as an answer: whole sentences, and of a long text the part that fits the question."""

from __future__ import annotations

import re

from rlhf_loop.reward.lexical import terms
from rlhf_loop.sources.excerpts import MAX_CHARS, sections, sentences

_ENDS = frozenset(".?!:;…。！？؟।\"'”’»)]}|")
_BEGINS_INSIDE = re.compile(r"[a-zà-öø-ÿ]+[\s,;:.?!)]")


def excerpt(query: str, text: str, *, whole: bool = False) -> str:
    """Return what of a passage is shown as an answer: whole sentences, the part that fits the question best.

    A text of at most `MAX_CHARS` characters is only freed of a sentence that is cut off at its start or end; it stays
    as it is if it is known to be `whole`.
    """
    if whole and len(text) <= MAX_CHARS:
        return text
    parts = sections(text)
    if len(parts) > 1:
        wanted = set(terms(query))
        # max() keeps the first of equals: where no word tells, a text's beginning says best what it is about.
        text = max(parts, key=lambda part: len(wanted & set(terms(part))))
    return whole_sentences(text)


def whole_sentences(text: str) -> str:
    """Leave out what is cut off: a first sentence that begins in its middle, a last one without an end.

    A last line of its own, such as a list's, needs no full stop; and something always stays.
    """
    if len(text) <= MAX_CHARS and _ended(text) and not _BEGINS_INSIDE.match(text):
        return text
    parts = sentences(text)
    if len(parts) > 1 and _BEGINS_INSIDE.match(parts[0]):
        parts = parts[1:]
    if len(parts) > 1 and not _ended(parts[-1]) and not parts[-2].endswith("\n"):
        parts = parts[:-1]
    return "".join(parts).strip()


def _ended(text: str) -> bool:
    return text.rstrip()[-1:] in _ENDS
