"""What the benchmarks compute from their measurements; the measurements themselves are `make bench`."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from rlhf_loop.encoders.tokenizer import load_tokenizer
from tools.bench import __main__ as report
from tools.bench import encoders, serving
from tools.report import megabytes, table


def test_a_table_is_markdown() -> None:
    """A header, a rule, and a line for each row."""
    assert table(("a", "b"), [("1", "2")]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_a_ratio_says_how_many_times_as_fast() -> None:
    """The median of the rounds' ratios; without a reference there is none."""
    assert encoders._ratio([10.0, 20.0, 30.0], np.array([5.0, 10.0, 3.0])) == "2.0"
    assert encoders._ratio(None, np.array([1.0])) == "?"


@pytest.mark.parametrize("exponent", [1, 2])
def test_the_exponent_is_the_slope_in_the_plot(exponent: int) -> None:
    """Work that grows with a power of the number of candidates has that power as its exponent."""
    sizes = [serving.Size(count, count**exponent, 1.0) for count in serving.SIZES]
    assert serving._exponent(sizes, "milliseconds") == pytest.approx(exponent)
    assert serving._exponent(sizes, "megabytes") == pytest.approx(0)


def test_texts_have_the_length_that_they_are_said_to_have(model_folder: Path) -> None:
    """Of about 30, 115 and 209 tokens, markers included, and never the same text twice."""
    tokenizer = load_tokenizer(model_folder / "tokenizer.json")
    made = encoders._texts(tokenizer, random.Random(0))
    for length, texts in made.items():
        some = [next(texts) for _ in range(20)]
        assert len(set(some)) == 20
        for encoding in tokenizer.encode_batch(some):
            assert abs(len(encoding) - length) <= 2


def test_memory_is_in_megabytes() -> None:
    """This process has more than ten and less than ten thousand, and its peak is not below."""
    assert 10 < megabytes("VmRSS") <= megabytes("VmHWM") < 10_000


def test_what_rounding_changes() -> None:
    """Scores, the order of each question and its first answer are compared; the document has one section for each."""
    exact = {"scores": [[0.9, 0.5, 0.1], [0.6, 0.4]], "labels": [[1.0, 0.0, 0.0], [0.0, 1.0]]}
    rounded = {"scores": [[0.9, 0.1, 0.5], [0.3, 0.4]], "labels": exact["labels"]}
    found = serving.rounding(exact, rounded)
    assert (found.answers, found.questions, found.same_order, found.same_first) == (5, 2, 0, 1)
    assert (found.mean, found.largest) == (pytest.approx(1.1 / 5), pytest.approx(0.4))
    assert found.auc == {"fp32": pytest.approx(4 / 6), "int8": pytest.approx(5 / 6)}
    tuned = serving.Tuned(ratings=1935, seconds=600.4, megabytes=2000.0, held=180, torch=0.00012)
    texts = serving.sections_of_recipes(serving.Recipes([tuned], [], found))
    assert [text.partition("\n")[0].removeprefix("## ") for text in texts] == [
        "Training tuned layers",
        "Tuned layers beside `passages`",
        "Tuned layers in 8 bits",
    ]
    assert "| 1,935 | 600 | 2,000 |" in texts[0]


def test_a_part_that_is_measured_alone_replaces_its_section() -> None:
    """The other sections stay, a new one comes at the end, and each says when it was measured."""
    old = report._split("# Benchmarks\n\nAll.\n\n## A\n\nold a\n\n## B\n\nold b\n")
    new = report._split("# Benchmarks\n\nAll.\n\n## A\n\nnew a\n\n## C\n\nnew c")[1:]
    assert report._replaced(old, new, "Today.") == [
        "# Benchmarks\n\nAll.",
        "## A\n\nToday.\n\nnew a",
        "## B\n\nold b",
        "## C\n\nToday.\n\nnew c",
    ]
