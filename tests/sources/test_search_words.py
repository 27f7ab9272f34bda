from __future__ import annotations

import pytest

from rlhf_loop.sources.excerpts import longest_first, search_words


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("What are the symptoms of Influenza?", ["symptoms", "influenza"]),
        ('"Fever" OR -chills intitle:cough*', ["fever", "chills", "intitle", "cough"]),
        ("Is it me?", ["is", "it", "me"]),
        ("", []),
        ("?!\x00", []),
        ("Was hilft gegen Übelkeit?", ["hilft", "gegen", "übelkeit"]),
        ("x" * 4000, ["x" * 50]),
        ("fever fever FEVER", ["fever"]),
    ],
)
def test_words(question: str, words: list[str]) -> None:
    """Of a question, the words that carry meaning stay, without any sign."""
    assert search_words(question, at_most=12) == words


def test_the_words_of_a_long_question() -> None:
    """Repeated words come before long ones, these before others; the order is the question's."""
    question = "tell apart rhinoviruses flu and some ordinary bug, since flu is worse"
    assert search_words(question, at_most=3) == ["rhinoviruses", "flu", "ordinary"]


def test_few_characters() -> None:
    """However long the words are, together they fit into a query."""
    found = search_words(" ".join(f"{n:02}{'y' * 60}" for n in range(99)), at_most=12)
    assert 0 < len(" OR ".join(found)) < 300


def test_longest_first() -> None:
    """Of equal length, the earlier one comes first."""
    assert longest_first(["aa", "b", "cc"]) == ["aa", "cc", "b"]
