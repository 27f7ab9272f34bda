"""Differences between two texts, word by word: shown while a rater corrects an answer, and to the admin who decides.

Python's difflib compares. Its time grows with how often the same words meet, so texts in which they meet too often are
compared line by line, and those in which even that is too much are shown as replaced.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from enum import StrEnum

#: How often equal words of two texts may meet. It takes difflib about a quarter of a second.
MOST_MEETINGS = 200_000
_MOST_WORDS = 20_000

_SIGNS = r"!-/:-@\[-`{-~\u00a1-\u00bf\u2010-\u205e\u3001-\u303f\uff01-\uff0f\uff1a-\uff20"
#: Scripts without spaces between words: there, each character counts as a word.
_UNSPACED = r"\u0e01-\u0e2e\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
#: A word, a sign or a character that stands for itself (with what combines with it), each with the space after it:
#: spaces of their own would meet far too often.
_WORD = re.compile(rf"(?:[{_SIGNS}]|[{_UNSPACED}][\u0e31-\u0e4e\u3099\u309a]*|[^\s{_SIGNS}{_UNSPACED}]+)\s*|\s+")
_LINE = re.compile(r"[^\n]*\n|[^\n]+")


class Change(StrEnum):
    """The fate of a piece of text."""

    SAME = "same"
    REMOVED = "removed"
    ADDED = "added"


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of one of two texts, or of both."""

    kind: Change
    text: str


def difference(before: str, after: str) -> list[Piece]:
    """Return the pieces that, in this order, lead from one text to the other.

    Without the added ones they are `before`, without the removed ones `after`. None is empty, and no two of a kind
    follow each other.
    """
    return _joined(_pieces(before, after))


def _pieces(before: str, after: str) -> Iterator[Piece]:
    for split in (_WORD, _LINE):
        old, new = split.findall(before), split.findall(after)
        # Without the space after them: the last word of a text has none, and is the same word all the same.
        old_words, new_words = [each.rstrip() for each in old], [each.rstrip() for each in new]
        start = _common(old_words, new_words)
        end = _common(old_words[start:][::-1], new_words[start:][::-1])
        old_end, new_end = len(old) - end, len(new) - end
        if _comparable(old_words[start:old_end], new_words[start:new_end]):
            yield from _same(old[:start], new[:start])
            yield from _compared(old[start:old_end], new[start:new_end])
            yield from _same(old[old_end:], new[new_end:])
            return
    yield Piece(Change.REMOVED, before)
    yield Piece(Change.ADDED, after)


def _comparable(old: Sequence[str], new: Sequence[str]) -> bool:
    if len(old) + len(new) > _MOST_WORDS:
        return False
    there = Counter(new)
    return sum(count * there[word] for word, count in Counter(old).items()) <= MOST_MEETINGS


def _compared(old: Sequence[str], new: Sequence[str]) -> Iterator[Piece]:
    words = SequenceMatcher(None, [each.rstrip() for each in old], [each.rstrip() for each in new], autojunk=False)
    for kind, a, b, c, d in words.get_opcodes():
        if kind == "equal":
            yield from _same(old[a:b], new[c:d])
        else:
            yield Piece(Change.REMOVED, "".join(old[a:b]))
            yield Piece(Change.ADDED, "".join(new[c:d]))


def _same(old: Sequence[str], new: Sequence[str]) -> Iterator[Piece]:
    """Give words that are the same in both texts; the space after them may be another one."""
    for one, other in zip(old, new, strict=True):
        word = one if one == other else one.rstrip()
        yield Piece(Change.SAME, word)
        yield Piece(Change.REMOVED, one[len(word) :])
        yield Piece(Change.ADDED, other[len(word) :])


def _joined(pieces: Iterator[Piece]) -> list[Piece]:
    """Gather what was changed between two unchanged pieces: first all that is removed, then all that is added."""
    found: list[Piece] = []
    removed = added = ""
    for piece in pieces:
        if piece.kind is Change.SAME and piece.text:
            same = piece.text
            if removed and added:
                # The space after two words of which one took the other's place has not changed.
                space = _same_space(removed, added)
                removed, added, same = (removed.removesuffix(space), added.removesuffix(space), space + same)
            found += _changed(removed, added)
            removed = added = ""
            if found and found[-1].kind is Change.SAME:
                same = found.pop().text + same
            found.append(Piece(Change.SAME, same))
        elif piece.kind is Change.REMOVED:
            removed += piece.text
        elif piece.kind is Change.ADDED:
            added += piece.text
    return found + _changed(removed, added)


def _changed(removed: str, added: str) -> list[Piece]:
    pieces = (Piece(Change.REMOVED, removed), Piece(Change.ADDED, added))
    return [piece for piece in pieces if piece.text]


def _same_space(one: str, other: str) -> str:
    """Return the white space with which both texts end."""
    count = _common(one[::-1], other[::-1])
    end = one[len(one) - count :]
    return end[len(end.rstrip()) :]


def _common(old: Sequence[str], new: Sequence[str]) -> int:
    """Return how many words at their beginnings are the same."""
    count = 0
    for one, other in zip(old, new, strict=False):
        if one != other:
            break
        count += 1
    return count
