from __future__ import annotations

import numpy as np
import pytest

from rlhf_loop.domain import Example
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.training.data import assemble, frozen_share, is_frozen, prompt_hash
from rlhf_loop.training.train import train


def test_the_share_grows_and_never_shrinks() -> None:
    """More questions freeze a larger share of them, and fewer never thaw any."""
    assert [frozen_share(count) for count in (0, 99, 100, 499, 500, 10_000)] == [0.1, 0.1, 0.15, 0.15, 0.2, 0.2]
    assert frozen_share(5, before=0.2) == 0.2


def test_the_hash_is_the_same_everywhere() -> None:
    """A question is frozen or not whatever the process, the case and the white space: the hash is pinned here."""
    assert prompt_hash("What helps against  hiccups?") == prompt_hash("what helps AGAINST hiccups?")
    assert prompt_hash("What helps against hiccups?") == 4138937550388096770
    assert prompt_hash("\ud800") != prompt_hash("?")


def test_a_larger_share_takes_in_a_smaller_one() -> None:
    """About that share of the questions is frozen, and all that were so at a smaller one."""
    hashes = np.array([prompt_hash(f"Question {number}?") for number in range(20_000)], dtype=np.int64)
    few, many = is_frozen(hashes, 0.1), is_frozen(hashes, 0.2)
    assert not (few & ~many).any()
    assert few.mean() == pytest.approx(0.1, abs=0.01)
    assert many.mean() == pytest.approx(0.2, abs=0.01)
    assert not is_frozen(hashes, 0.0).any()


def test_no_fit_sees_a_frozen_question(sample_examples: list[Example], encoder: TextEncoder) -> None:
    """Whatever the seed, the frozen questions are held out, are judged, and are not among what was fitted on."""
    data = assemble(sample_examples)
    frozen = is_frozen(data.candidates["prompt"][data.row], 0.2)
    assert frozen.any()
    for seed in (0, 1):
        trained = train(sample_examples, encoder=encoder, recipe="passages", seed=seed, frozen_share=0.2)
        of = trained.data.candidates["prompt"][trained.data.row]
        assert not np.isin(of[frozen], trained.fitted).any()
        assert np.isfinite(trained.probability[frozen]).all()
        assert trained.report.held_out.answers >= frozen.sum()
        assert trained.report.frozen_share == 0.2
