"""Words in a picture: cut to the room that they have, and of any script, though one font alone measures them."""

from __future__ import annotations

from functools import cache
from math import ceil
from unicodedata import bidirectional, combining, east_asian_width
from xml.sax.saxutils import escape

#: Letters that stand for words which the font cannot measure. The font has them all, and no name is made of them.
_FIRST, _LAST = 0x2801, 0x28FE
_FILLER, _FILLER_WIDTH = "\u28ff", 0.73


class Words:
    """Makes labels of texts by anybody, and puts into the finished SVG what the font could not have measured."""

    def __init__(self, *, widest: float, font_size: float) -> None:
        self.widest, self._font_size = widest, font_size
        self._meant: dict[str, str] = {}

    def __call__(self, text: str, *, share: float = 1.0, keep_end: bool = False) -> str:
        """Return what to draw for a text in that share of the picture's width."""
        shown = shortened(text, share * self.widest, self._font_size, keep_end=keep_end)
        # To matplotlib, a leading underscore means "not in the legend".
        if all(_drawable(character) for character in shown) and not shown.startswith("_"):
            return shown
        known = next((key for key, meant in self._meant.items() if meant == shown), None)
        if known is not None or len(self._meant) > _LAST - _FIRST:
            return known or "?"
        filler = max(0, ceil(width(shown, 1.0) / _FILLER_WIDTH) - 1)
        stand_in = chr(_FIRST + len(self._meant)) + _FILLER * filler
        self._meant[stand_in] = shown
        return stand_in

    def put_back(self, svg: str) -> str:
        """Return the SVG with the words that are meant."""
        for stand_in, meant in self._meant.items():
            svg = svg.replace(f">{stand_in}<", f">{escape(meant)}<")
        return svg


def shortened(text: str, widest: float, font_size: float, *, keep_end: bool = False) -> str:
    """Return the text in one line of at most that width, with an ellipsis where it was cut: at its end or before it."""
    text = "".join(character for character in " ".join(text.split()) if character.isprintable()) or "?"
    if width(text, font_size) <= widest:
        return text
    room = widest - width("…", font_size)
    if keep_end:
        return "…" + _beginning(text[::-1], room, font_size)[::-1].lstrip()
    return _beginning(text, room, font_size).rstrip() + "…"


def _beginning(text: str, room: float, font_size: float) -> str:
    kept = 0
    for character in text:
        room -= width(character, font_size)
        if room < 0:
            break
        kept += 1
    return text[:kept]


def width(text: str, font_size: float) -> float:
    """Return about how wide a text is, rather more than less."""
    return font_size * sum(map(_width, text))


def _width(character: str) -> float:
    if combining(character):
        return 0.0
    if east_asian_width(character) in "WF":
        return 1.05
    if character in "mwMW@%…—":
        return 1.0
    return 0.41 if character in " .,:;|!'fijlrtI()[]-" else 0.72 if character.isupper() else 0.64


def _drawable(character: str) -> bool:
    """Tell whether the font has it, and whether it is read from left to right as the font is."""
    return ord(character) in _known() and bidirectional(character) not in ("R", "AL") and not _is_stand_in(character)


def _is_stand_in(character: str) -> bool:
    return 0x2800 <= ord(character) <= 0x28FF


@cache
def _known() -> frozenset[int]:
    from matplotlib.font_manager import findfont, get_font

    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())
