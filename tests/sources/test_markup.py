from __future__ import annotations

import pytest

from rlhf_loop.sources.excerpts import without_markup


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a <b>bold</b> word<br /> and a <a href='x' title=\"y\" z>link</a>", "a bold word and a link"),
        ("<script type=text/javascript>x</SCRIPT>", "x"),
        ("p < 0.05 and n > 30, a<b, c>d, <3, <nobody>", "p < 0.05 and n > 30, a<b, c>d, <3, <nobody>"),
        ("a\x00\x85b\u202ec\ufeff\u2066", "abc"),
        ("one  \t two\u00a0three \n four", "one two three\nfour"),
        ("one\r\n\r\n\n\n\ntwo", "one\n\ntwo"),
        ("日本 <sup>2</sup>🙂", "日本 2🙂"),
        ("", ""),
    ],
)
def test_what_is_left(given: str, expected: str) -> None:
    """Known tags and what cannot be seen go; text that only looks like a tag stays."""
    assert without_markup(given) == expected
    assert without_markup(expected) == expected


@pytest.mark.parametrize(
    "text", ["<a " * 50_000, "<a b=" * 50_000, "< " * 50_000, "<b\t\n " * 50_000, '<a b="' * 50_000]
)
def test_many_beginnings_of_tags(text: str) -> None:
    """Tags that never end cost no more than other text."""
    assert without_markup(text)
