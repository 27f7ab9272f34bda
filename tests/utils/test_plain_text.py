from __future__ import annotations

import pytest

from rlhf_loop.utils.text import blank, clean_text, one_line, unstorable, visible, web_address


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (" a \r\nb\rc\td ", "a \nb\nc\td"),
        ("a\x00b\x1b[31mc\x7f", "ab[31mc"),
        ("\ud800x\udfff", "x"),
        ("naïve 日本 🙂", "naïve 日本 🙂"),
        (" \n\t", ""),
    ],
)
def test_plain(given: str, expected: str) -> None:
    """Line breaks, tabs and all languages stay; what no database takes goes."""
    assert clean_text(given) == expected
    assert clean_text(clean_text(given)) == expected


def test_a_label_is_one_line() -> None:
    """A title of several lines becomes one of bounded length; one that is blank or not text becomes None."""
    assert one_line(" Hay\nfever\x00 ") == "Hay fever"
    assert len(one_line("x" * 10_000) or "") == 2000
    assert one_line("  ") is one_line(None) is one_line(7) is None


@pytest.mark.parametrize("url", ["https://example.org/a?b=c#d", "http://[::1]:8080/x", "HTTPS://EXAMPLE.org"])
def test_addresses_of_the_web(url: str) -> None:
    """http and https with a host stay as they are."""
    assert web_address(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "JaVaScRiPt:alert(1)",
        "data:text/html,x",
        "file:///etc/passwd",
        "//example.org/x",
        "https://",
        "https:///x",
        "http://[broken",
        "https://a b.org",
        "https://example.org/\n",
        "java\tscript:alert(1)",
        "https://example.org/" + "x" * 3000,
        "",
        None,
        7,
    ],
)
def test_others_are_no_links(url: object) -> None:
    """What would not lead to a page of the web is None."""
    assert web_address(url) is None


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("plain", "plain"),
        (" two\r\nlines\t", "two\nlines"),
        ("na\u0131\u0308ve", "na\u0131\u0308ve"),
        ("e\u0301", "\u00e9"),
        ("so\u00adft", "soft"),
        ("\u201cquoted\u201d \u200b", "\u201cquoted\u201d"),
        ("\U0001f44d\U0001f3fd ok", "\U0001f44d\U0001f3fd ok"),
        ("tag\U000e0041ged", "tagged"),
        ("\U0001f3f4\U000e0067\U000e007f", "\U0001f3f4\U000e0067\U000e007f"),
        (" \u200b\u2060\ufeff\u3000", ""),
        ("\u200b" * 500 + "x", "x"),
        ("\x1f\x7f\x85", ""),
        ("", ""),
    ],
)
def test_what_can_be_seen(text: str, seen: str) -> None:
    """By whichever way it is found out, for letters of Latin, of other scripts and beyond U+FFFF."""
    assert visible(text) == seen
    assert blank(text) is not bool(seen)


@pytest.mark.parametrize(
    ("text", "place"),
    [("a" * 9, None), ("a\0b", 1), ("\u00e9\U0001f44d", None), ("ab\ud800", 2), ("\ud800\0", 0), ("", None)],
)
def test_the_first_character_that_no_database_takes(text: str, place: int | None) -> None:
    """NUL, or half of a pair."""
    found = unstorable(text)
    assert (found and found.start()) == place
