from __future__ import annotations

import random
from itertools import pairwise

import pytest

from rlhf_loop.web.pages.diff import MOST_MEETINGS, Change, Piece, difference


def marked(before: str, after: str) -> str:
    """The difference in one line: [-removed-] and {+added+}."""
    marks = {Change.SAME: "{}", Change.REMOVED: "[-{}-]", Change.ADDED: "{{+{}+}}"}
    return "".join(marks[piece.kind].format(piece.text) for piece in difference(before, after))


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [
        ("Rest.", "Rest.", "Rest."),
        ("Take aspirin daily.", "Take paracetamol daily.", "Take [-aspirin-]{+paracetamol+} daily."),
        ("Rest. Drink.", "Rest. Drink. See a doctor.", "Rest. Drink.{+ See a doctor.+}"),
        ("Take aspirin.", "Take no aspirin.", "Take {+no +}aspirin."),
        ("Rest in a dark room", "Rest in a dark room and drink.", "Rest in a dark room{+ and drink.+}"),
        ("Rest. Drink.", "Rest.\nDrink.", "Rest.[- -]{+\n+}Drink."),
        ("a b c d", "a x y d", "a [-b c-]{+x y+} d"),
        ("头痛很常见。", "偏头痛不常见。", "{+偏+}头痛[-很-]{+不+}常见。"),
        ("مرحبا بك", "مرحبا بكم", "مرحبا [-بك-]{+بكم+}"),
        ("नमस्ते दुनिया", "नमस्ते जग", "नमस्ते [-दुनिया-]{+जग+}"),
        ("", "Rest.", "{+Rest.+}"),
        ("Rest.", "", "[-Rest.-]"),
        ("", "", ""),
    ],
)
def test_words_that_changed(before: str, after: str, shown: str) -> None:
    """Whole words and signs are marked, whatever the script; the space between two of them only if it changed."""
    assert marked(before, after) == shown


def test_nothing_is_lost() -> None:
    """Whatever the texts: without what was added the pieces are the old text, without what was removed the new one."""
    draw = random.Random(5)
    for _ in range(3000):
        before, after = ("".join(draw.choices("ab .\n,é", k=draw.randrange(14))) for _ in range(2))
        pieces = difference(before, after)
        assert "".join(piece.text for piece in pieces if piece.kind is not Change.ADDED) == before
        assert "".join(piece.text for piece in pieces if piece.kind is not Change.REMOVED) == after
        assert all(piece.text for piece in pieces)
        assert all(one.kind is not other.kind for one, other in pairwise(pieces))


def test_words_that_meet_too_often_are_compared_by_line() -> None:
    """Where comparing words would take too long, the line that changed is marked."""
    line = "no " * (int(MOST_MEETINGS**0.5) // 3) + "end\n"
    lines = [f"{number} {line}" for number in range(9)]
    changed = [lines[0].replace("0", "x"), *lines[1:8], lines[8].replace("8", "y")]
    pieces = difference("".join(lines), "".join(changed))
    assert pieces[0] == Piece(Change.REMOVED, lines[0].rstrip())
    assert pieces[-2].kind is Change.REMOVED
    assert Piece(Change.SAME, "\n" + "".join(lines[1:8])) in pieces


def test_no_text_takes_for_ever() -> None:
    """Where even lines meet too often, all of the text is marked as replaced."""
    many = "no\n" * 30_000
    before, after = f"a\n{many}b", f"c\n{many}d\n{many}e"
    assert difference(before, after) == [Piece(Change.REMOVED, before), Piece(Change.ADDED, after)]
