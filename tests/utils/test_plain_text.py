from __future__ import annotations

import pytest

from rlhf_loop.utils.text import clean_text, one_line, web_address


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
