"""Sentences that join to the text again, and sections of about equal length that end where sentences do."""

from __future__ import annotations

import random

import pytest

from rlhf_loop.sources.excerpts import MAX_CHARS, sections, sentences

SENTENCE = "Dr. Smith gave 3.5 mg, e.g. of aspirin, to each of them. "


def prose(count: int, *, seed: int = 0) -> str:
    """Sentences of 3 to 25 words, every fifth one the end of a paragraph."""
    draw = random.Random(seed)
    made = []
    for number in range(count):
        words = " ".join(draw.choice(("heart", "blood", "treatment", "of", "rare")) for _ in range(draw.randint(3, 25)))
        made.append(words.capitalize() + (".\n\n" if number % 5 == 4 else ". "))
    return "".join(made)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \n\t ", []),
        ("One sentence only", ["One sentence only"]),
        ("First one.  Second one?\n\nThird.", ["First one.  ", "Second one?\n\n", "Third."]),
        (f"  {SENTENCE}Then he left.", [f"  {SENTENCE}", "Then he left."]),
        ("Windows.\r\n\r\nLines.", ["Windows.\r\n\r\n", "Lines."]),
        ("A \ud83d half. Rest 😀.", ["A \ud83d half. ", "Rest 😀."]),
        ("日本語です。次の文。", ["日本語です。", "次の文。"]),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    """Sentences keep the white space behind them, so that joined they are the text."""
    assert sentences(text) == expected


def test_sentences_lose_nothing() -> None:
    """Whatever characters a text has, its sentences joined are the text."""
    draw = random.Random(1)
    for _ in range(300):
        text = "".join(draw.choice("aZ .?!\n\r\t\"'()1-•\u2028\ud800\x00é😀。\xa0") for _ in range(draw.randint(1, 80)))
        found = sentences(text)
        assert "".join(found) == (text if text.strip() else "")
        assert all(part.strip() for part in found)
    assert "".join(sentences(long := prose(1000))) == long


@pytest.mark.parametrize("text", ["Short.", "  with space around \n", "x" * MAX_CHARS])
def test_a_text_that_fits_is_one_section(text: str) -> None:
    """A short document is shown as it came, white space included."""
    assert sections(text) == [text]


def test_a_blank_text_has_no_sections() -> None:
    """There is nothing to find in a blank text."""
    assert sections("") == sections(" \n ") == []


@pytest.mark.parametrize("count", [20, 21, 33, 100, 1000])
def test_sections_are_whole_sentences_of_about_equal_length(count: int) -> None:
    """No section is longer than allowed, none is a short rest, and each ends where a sentence ends."""
    text = prose(count)
    found = sections(text)
    assert " ".join(" ".join(found).split()) == " ".join(text.split())
    assert len(found) <= -(-len(text) // MAX_CHARS) + len(found) // 6 + 1
    assert all(len(section) <= MAX_CHARS for section in found)
    assert min(map(len, found)) > MAX_CHARS / 3
    assert all(section.endswith(".") and section[0].isupper() for section in found)


def test_borders_lie_between_paragraphs_where_that_is_possible() -> None:
    """An end of a paragraph near the middle is preferred to a sentence's end in the very middle."""
    first, second = SENTENCE * 16, SENTENCE * 20
    assert sections(f"{first.strip()}\n\n{second}") == [first.strip(), second.strip()]


def test_what_has_no_sentences_is_cut_at_lines_or_words() -> None:
    """A table is cut between its lines, a wall of text between words, and only a single huge word inside."""
    table = "".join(f"row {number} | {number * 7} | some cell\n" for number in range(200))
    assert all(
        line.startswith("row") and line.endswith("cell") for part in sections(table) for line in part.split("\n")
    )
    wall = "word " * 2000
    assert {word for part in sections(wall) for word in part.split()} == {"word"}
    blob = "x" * 4000
    assert "".join(sections(blob)) == blob
    assert max(map(len, sections(blob))) <= MAX_CHARS


@pytest.mark.parametrize("max_chars", [1, 2, 7, 60, 200])
def test_any_length_may_be_asked_for(max_chars: int) -> None:
    """However short sections have to be, they hold all characters in order."""
    text = prose(8)
    found = sections(text, max_chars=max_chars)
    assert "".join("".join(found).split()) == "".join(text.split())
    assert max(map(len, found)) <= max_chars


def test_no_room_at_all_is_an_error() -> None:
    """A limit of zero is a mistake of the caller."""
    with pytest.raises(ValueError, match="max_chars=0"):
        sections("text", max_chars=0)


CODE = "```python\n" + "".join(f"line_{number} = {number}\n" for number in range(40)) + "```\n"
ROWS = "| Drug | Dose |\n|---|--:|\n" + "".join(f"| drug {number} | {number} mg |\n" for number in range(40))


@pytest.mark.parametrize("block", [CODE, ROWS, f"~~~\n{ROWS}~~~\n"])
@pytest.mark.parametrize("before", range(2, 24, 3))
def test_no_border_in_code_and_tables(block: str, before: int) -> None:
    """Fenced code and tables are in one section as a whole, wherever in the document they stand."""
    found = sections(f"{SENTENCE * before}\n\n{block}\n{SENTENCE * 24}")
    assert [block.strip() in part for part in found].count(True) == 1
    assert max(map(len, found)) <= MAX_CHARS


@pytest.mark.parametrize(("block", "first", "last"), [(CODE * 4, "```python\n", "\n```"), (ROWS, "| Drug |", "mg |")])
def test_long_code_and_tables_begin_again(block: str, first: str, last: str) -> None:
    """A block that is longer than a section is cut between lines; each part has its first lines, and all is there."""
    block = block.replace("```\n```python\n", "")
    found = sections(block, max_chars=500)
    assert len(found) > 1
    assert all(part.startswith(first) and part.endswith(last) and len(part) <= 500 for part in found)
    assert set("\n".join(found).split("\n")) == set(block.strip().split("\n"))


@pytest.mark.parametrize("start", ["~~~~ by touching these\n", "a | b\n", "``` x ```\n" * 200])
def test_what_only_looks_like_code_is_prose(start: str) -> None:
    """A fence that nothing closes, and a bar without a table, repeat nothing."""
    text = start + SENTENCE * 40
    assert "".join("".join(sections(text)).split()) == "".join(text.split())
