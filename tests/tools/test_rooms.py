"""The picture of the rooms is that of today's imports."""

from __future__ import annotations

from tools.rooms import PICTURE, imports, layers, picture, reduced


def test_the_picture_is_drawn_from_todays_imports() -> None:
    """Else: `python -m tools.rooms` draws it anew."""
    rows = layers()
    arrows = imports([unit for row in rows for unit in row])
    assert PICTURE.read_text("utf-8") == picture(rows, reduced(arrows))


def test_an_arrow_that_follows_from_others_is_left_out() -> None:
    """What the rooms below use, a room may use as well."""
    assert reduced({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == {"a": {"b"}, "b": {"c"}, "c": set()}
