from __future__ import annotations

from pathlib import Path

import pytest

from rlhf_loop.encoders import MAX_TOKENS
from rlhf_loop.encoders.tokenizer import Batcher, load_tokenizer


@pytest.fixture(scope="module")
def batcher(model_folder: Path) -> Batcher:
    return Batcher(load_tokenizer(model_folder / "tokenizer.json"), tokens=64)


def test_every_text_is_in_one_batch(batcher: Batcher) -> None:
    """Each place occurs once, and no batch holds more tokens than it may, padding included."""
    texts = [f"word {n} " * (n % 7) for n in range(50)]
    batches = list(batcher.batches(texts))
    assert sorted(int(place) for batch in batches for place in batch.places) == list(range(50))
    assert all(batch.ids.size <= 64 for batch in batches)
    assert all(batch.ids.shape == batch.mask.shape for batch in batches)


def test_a_text_longer_than_a_batch_is_alone(batcher: Batcher) -> None:
    """A text that alone has more tokens than a batch may hold is one, cut to the window, its markers kept."""
    (batch,) = batcher.batches(["bread " * 1000])
    assert batch.ids.shape == (1, MAX_TOKENS)
    assert batch.mask.all()
    assert (batch.ids[0, 0], batch.ids[0, -1]) == (101, 102)  # [CLS] and [SEP] of BERT's vocabulary


def test_padding_is_masked(batcher: Batcher) -> None:
    """Of a shorter text beside a longer one only its own tokens are marked as real."""
    (batch,) = batcher.batches(["bread", "rye bread and butter"])
    assert batch.mask.sum(axis=1).tolist() == [3, 6]


def test_no_texts_make_no_batches(batcher: Batcher) -> None:
    """Nothing in, nothing out."""
    assert list(batcher.batches([])) == []
