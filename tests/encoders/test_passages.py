from __future__ import annotations

import random
import string
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from rlhf_loop.encoders.tokenizer import PassageSplitter, load_tokenizer
from rlhf_loop.errors import EncoderError

#: Ordinary words, long ones, and what a tokenizer cleans away, splits or has no piece for.
WORDS = [
    *("a", "heart", "thyroidectomy", "well-known", "3.5mg/kg", "pneumonoultramicroscopicsilicovolcanoconiosis"),
    *("Ἀθῆναι", "العربية", "病気と健康", "नमस्ते", "e\u0301a\u0300u\u0308", "👩\u200d⚕️"),
    *("\x00\u200b", "[SEP]", "q" * 120),
]
Texts = Callable[[], Iterator[str]]
#: Passages, and the windows of `TextEncoder.encode_whole`.
SIZES = [(96, 64), (254, 238)]


@pytest.fixture(params=SIZES, ids=lambda sizes: f"{sizes[0]}-{sizes[1]}")
def splitter(request: pytest.FixtureRequest, tokenizer: Tokenizer) -> PassageSplitter:
    size, stride = request.param
    return PassageSplitter(tokenizer, size=size, stride=stride)


def count(tokenizer: Tokenizer, text: str) -> int:
    return len(tokenizer.encode(text, add_special_tokens=False))


def numbered(words: list[str]) -> str:
    """Make each word unique, so that a passage is found in one place only."""
    return " ".join(f"{word} {n}" for n, word in enumerate(words))


def mixed_texts(seed: int = 0) -> Iterator[str]:
    rng = random.Random(seed)
    for _ in range(60):
        yield numbered(rng.choices(WORDS, k=rng.randrange(80, 300)))


def monster_texts(seed: int = 0) -> Iterator[str]:
    """Words of up to 100 random letters, most of them a piece each: the longest that the tokenizer reads at all."""
    rng = random.Random(seed)
    for _ in range(60):
        words = ["".join(rng.choices(string.ascii_lowercase, k=rng.randrange(1, 101))) for _ in range(25)]
        yield numbered(words)


def gaps(text: str, passages: list[str]) -> list[str]:
    """Return what of the text is in no passage."""
    found, start, covered = [], 0, 0
    for passage in passages:
        start = text.index(passage, start)
        if start > covered:
            found.append(text[covered:start])
        covered = max(covered, start + len(passage))
    return [*found, text[covered:]]


@pytest.mark.parametrize("texts", [mixed_texts, monster_texts])
def test_nothing_readable_is_left_out(splitter: PassageSplitter, tokenizer: Tokenizer, texts: Texts) -> None:
    """Between passages there is nothing but space and what the tokenizer drops anyway."""
    for text in texts():
        (passages,) = splitter.split([text])
        assert len(passages) > 1
        assert [count(tokenizer, gap) for gap in gaps(text, passages)] == [0] * len(gaps(text, passages))


def test_a_plain_text_is_covered_to_the_last_character(splitter: PassageSplitter) -> None:
    """Of an ordinary text, every character that is not space is in some passage."""
    text = numbered(random.Random(1).choices(["bread", "yeast", "kneading", "oven-spring"], k=600))
    (passages,) = splitter.split([text])
    assert "".join(gaps(text, passages)).strip() == ""
    assert text.startswith(passages[0])
    assert text.endswith(passages[-1])


def test_passages_are_no_longer_than_their_size(tokenizer: Tokenizer) -> None:
    """Read on its own, a passage has the tokens that it had in the text: at most 96."""
    splitter = PassageSplitter(tokenizer, size=96, stride=64)
    assert max(count(tokenizer, part) for parts in splitter.split(list(mixed_texts())) for part in parts) == 96


def test_the_second_part_of_a_monster_word_may_be_a_little_longer(tokenizer: Tokenizer) -> None:
    """Only a word of more than 64 pieces is cut, and then a passage stays far inside the model's window."""
    splitter = PassageSplitter(tokenizer, size=96, stride=64)
    lengths = [count(tokenizer, part) for parts in splitter.split(list(monster_texts())) for part in parts]
    assert max(lengths) <= 100


@pytest.mark.parametrize("texts", [mixed_texts, monster_texts])
def test_windows_always_fit(tokenizer: Tokenizer, texts: Texts) -> None:
    """A window holds no more than 254 tokens whatever the words, so that the model cuts nothing off."""
    splitter = PassageSplitter(tokenizer, size=254, stride=238)
    for text in texts():
        assert max(count(tokenizer, part) for part in splitter.split([text * 2])[0]) <= 254


def test_passages_start_with_a_word(splitter: PassageSplitter) -> None:
    """A passage does not start in the middle of a word."""
    text = " ".join(["immunohistochemistry", "electroencephalographically", "sternocleidomastoid"] * 100)
    words = set(text.split())
    (passages,) = splitter.split([text])
    assert {passage.split()[0] for passage in passages} <= words
    assert all(passage.split()[0] == passage.split(" ")[0] for passage in passages)


def test_a_hundred_letters_are_cut_and_more_are_one_unknown(splitter: PassageSplitter, tokenizer: Tokenizer) -> None:
    """The longest word that the tokenizer reads has 100 letters; it may need two passages, a longer one never does."""
    readable, unreadable = "xqzjkvwgpb" * 10, "xqzjkvwgpb" * 500
    assert count(tokenizer, readable) > 64
    assert splitter.split([unreadable]) == [[unreadable]]
    text = f"{numbered(['so'] * 200)} {readable} {numbered(['on'] * 200)}"
    (passages,) = splitter.split([text])
    assert "".join(gaps(text, passages)).strip() == ""


def test_a_text_that_fits_is_returned_as_it_is(splitter: PassageSplitter) -> None:
    """Short, empty and blank texts are their own single passage, with every space and control character."""
    texts = ["", "  \n", " kept  as\tit is\x00 ", "\u0301"]
    assert splitter.split(texts) == [[text] for text in texts]
    assert splitter.split([]) == []


def test_consecutive_passages_overlap(tokenizer: Tokenizer) -> None:
    """About a third of a passage is read again in the next, and all are about equally long."""
    text = numbered(["bread"] * 1000)
    (passages,) = PassageSplitter(tokenizer, size=96, stride=64).split([text])
    lengths = [count(tokenizer, passage) for passage in passages]
    assert min(lengths) >= 90
    shared = [len(set(a.split()) & set(b.split())) for a, b in pairwise(passages)]
    assert min(shared) >= 10


def test_an_unreadable_tokenizer_is_named(tmp_path: Path) -> None:
    """A damaged `tokenizer.json` is an error of ours that names the file."""
    path = tmp_path / "tokenizer.json"
    path.write_text('{"version": "1.0", "model"')
    with pytest.raises(EncoderError, match=r"tokenizer\.json cannot be read"):
        load_tokenizer(path)
