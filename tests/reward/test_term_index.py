from __future__ import annotations

import re
from random import Random

import numpy as np
import pytest

from rlhf_loop import sample
from rlhf_loop.reward import lexical
from rlhf_loop.reward import lexical as term_index
from rlhf_loop.reward.lexical import TermIndex
from rlhf_loop.utils.lru import LRUCache

WORDS = re.findall(
    r"\S+", "fever fevers cough Coughing what is the asthma dose doses b12 x größe Größen ΑΒΓ don't _ 7 -- . ? :"
)


def random_text(random: Random, most: int) -> str:
    return " ".join(random.choices(WORDS, k=random.randint(0, most)))


def best_window_coverage(wanted: list[str], found: list[str]) -> float:
    """The highest coverage that any 50 consecutive terms reach, beginning at every 20th."""
    starts = range(0, max(1, len(found) - 30), 20)
    return max(lexical.coverage(wanted, found[start : start + 50]) for start in starts)


def plain(prompt: str, responses: list[str]) -> list[list[float]]:
    """The same by plain definitions, one text after the other."""
    wanted = lexical.terms(prompt)
    rows = []
    for response in responses:
        found = lexical.terms(response)
        in_title = lexical.coverage(wanted, lexical.terms(lexical.title(response)))
        rows.append([in_title, best_window_coverage(wanted, found), float(np.log1p(len(set(found))))])
    return rows


@pytest.mark.parametrize("seed", range(40))
def test_as_defined(seed: int) -> None:
    """The features of many random texts together are those of each alone by the plain definition, to the last bit."""
    random = Random(seed)
    index = TermIndex()
    for most in (0, 3, 60, 400):
        responses = [random_text(random, most) for _ in range(random.choice([1, 2, 17]))]
        prompt = random_text(random, random.choice([0, 1, 8, 100]))
        for _ in range(2):  # unknown, then known
            assert index.features(prompt, responses).tolist() == plain(prompt, responses)


@pytest.mark.parametrize("size", [0, 1, 29, 30, 31, 49, 50, 51, 69, 70, 71, 90, 91, 200])
def test_windows_at_their_ends(size: int) -> None:
    """Terms at the end of a text of any length count as in the plain definition."""
    response = " ".join(["word"] * size + ["fever", "dose"])
    assert TermIndex().features("fever dose", [response]).tolist() == plain("fever dose", [response])


def test_sample_texts() -> None:
    """On the sample's candidates, too, nothing differs."""
    responses = [str(candidate["text"]) for candidate in sample.CANDIDATES] * 3
    assert TermIndex().features(sample.QUESTION, responses).tolist() == plain(sample.QUESTION, responses)


def test_broken_characters() -> None:
    """Half a character stops nothing."""
    assert TermIndex().features("fever \ud800", ["fever \udfff cough"]).tolist()[0][0] == 1


def test_a_small_memory_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for hardly a text and a handful of words the features are the same."""
    monkeypatch.setattr(term_index, "_MAX_WORDS", 3)
    random = Random(1)
    index = TermIndex(max_bytes=2000)
    for _ in range(5):
        responses = [random_text(random, 80) for _ in range(10)]
        assert index.features("fever cough dose", responses).tolist() == plain("fever cough dose", responses)


def test_recent_values_stay_and_old_ones_go() -> None:
    """What is used stays, what is not used makes room, and the number of bytes has a bound."""
    recent: LRUCache[int] = LRUCache(max_bytes=100_000)
    for number in range(1000):
        recent.put(number.to_bytes(2, "big"), number, 1000)
        assert recent.get((0).to_bytes(2, "big")) == 0
    kept = [number for number in range(1000) if recent.get(number.to_bytes(2, "big")) is not None]
    assert kept[0] == 0
    assert kept[1:] == list(range(kept[1], 1000))
    assert 30 < len(kept) <= 100


def test_what_is_too_large_is_not_kept() -> None:
    """A value larger than half of the room would drive out all others, and stays away."""
    recent: LRUCache[str] = LRUCache(max_bytes=10_000)
    recent.put(b"small", "small", 100)
    recent.put(b"large", "large", 6000)
    assert (recent.get(b"small"), recent.get(b"large"), recent.get(b"unknown")) == ("small", None, None)
