from __future__ import annotations

import pytest

from rlhf_loop.reward import lexical
from rlhf_loop.reward.lexical import TermIndex


def test_words_are_casefolded() -> None:
    """Words are runs of letters and digits of any script, casefolded."""
    assert lexical.words("Größe, B12 & ΑΒΓ_x don't") == ["grösse", "b12", "αβγ", "x", "don", "t"]
    assert lexical.words(" .,! ") == []


def test_content_words_are_what_a_question_is_about() -> None:
    """Stop words and single letters go, each word stands once, in order."""
    assert lexical.content_words("What is the cause of a Fever, and is fever a danger?") == ["cause", "fever", "danger"]
    assert lexical.content_words("What is it?") == []


@pytest.mark.parametrize(
    ("singular", "plural"),
    [
        ("allergy", "allergies"),
        ("fever", "fevers"),
        ("disease", "diseases"),
        ("headache", "headaches"),
        ("cause", "causes"),
        ("type", "types"),
        ("eye", "eyes"),
        ("virus", "viruses"),
        ("dose", "doses"),
        ("box", "boxes"),
        ("treat", "treating"),
    ],
)
def test_singular_and_plural_are_one_term(singular: str, plural: str) -> None:
    """A question about one finds an answer about several, and the other way round."""
    assert lexical.terms(singular) == lexical.terms(plural)


def test_terms_keep_repetitions() -> None:
    """Terms come in the order of the text, as often as they stand there."""
    assert lexical.terms("Fever! The fevers and the cough") == ["fever", "fever", "cough"]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("One thing. Two things? Three things!", ["One thing.", "Two things?", "Three things!"]),
        ("No. It hurts a lot.", ["It hurts a lot."]),
        ("Help!", ["Help!"]),
        ("1.5 mg is much", ["1.5 mg is much"]),
        ("", [""]),
    ],
)
def test_sentences(text: str, parts: list[str]) -> None:
    """A text splits after . ? and !; words on their own are no sentence unless there is nothing else."""
    assert lexical.sentences(text) == parts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("What causes asthma? Many things do.", "What causes asthma?"),
        ("Treatment: rest and water", "Treatment: rest and water"),
        ("Treatment of it: rest and water", "Treatment of it:"),
        ("A dose of 1.5 mg is enough. More is not.", "A dose of 1.5 mg is enough."),
        ("no end", "no end"),
        ("x" * 500, "x" * 200),
        ("", ""),
    ],
)
def test_title(text: str, expected: str) -> None:
    """The title goes to the first end of a sentence or heading after ten characters, or is 200 characters long."""
    assert lexical.title(text) == expected


def test_coverage() -> None:
    """Coverage is the share of the distinct wanted terms that were found."""
    assert lexical.coverage(["a", "b", "b", "c"], ["b", "x", "a"]) == pytest.approx(2 / 3)
    assert lexical.coverage([], ["a"]) == 0
    assert lexical.coverage(["a"], []) == 0


@pytest.mark.parametrize("size", [49, 50, 51, 60, 70, 71, 90, 200])
def test_best_window_reaches_the_end(size: int) -> None:
    """Terms that stand together at the end of a text of any length are found in one window."""
    response = " ".join(["word"] * (size - 2) + ["fever", "dose"])
    assert TermIndex().features("fever dose", [response])[0, 1] == 1


def test_best_window_is_narrower_than_the_text() -> None:
    """Terms that stand far apart are not found together."""
    response = " ".join(["fever", *["word"] * 100, "dose"])
    assert TermIndex().features("fever dose", [response])[0, 1] == 0.5
