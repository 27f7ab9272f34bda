from __future__ import annotations

import numpy as np
import pytest

from rlhf_loop.training import metrics
from rlhf_loop.training.metrics import Bin, bins, expected_error, lean


def test_bins_of_scores() -> None:
    """Ten of equal width, 1 in the last one; those without answers are left out."""
    found = bins(np.array([0.0, 0.05, 0.1, 0.95, 1.0]), np.array([0, 1, 0, 1, 1]))
    assert [(each.answers, each.good) for each in found] == [(2, 1), (1, 0), (2, 2)]
    assert [each.predicted for each in found] == pytest.approx([0.025, 0.1, 0.975])
    assert bins(np.array([]), np.array([], dtype=np.intp)) == ()


def test_the_share_has_wilsons_interval() -> None:
    """Also where none or all are good: then one end is the value itself (Wilson 1927)."""
    share = Bin(answers=10, predicted=0.5, good=10).share
    assert (share.value, share.high) == (1.0, 1.0)
    # z^2 / (n + z^2) is what is missing below.
    assert share.low == pytest.approx(1 - 3.8415 / 13.8415, abs=1e-4)


def test_the_error_is_that_of_the_measure() -> None:
    """Of the same answers it is what `metrics.calibration_error` gives; the lean has a sign."""
    rng = np.random.default_rng(0)
    probability = rng.random(500)
    label = (rng.random(500) < probability**2).astype(np.intp)
    found = bins(probability, label)
    (expected,) = metrics.calibration_error(np.arange(500), label, probability, np.ones((1, 500)))
    assert expected_error(found) == pytest.approx(float(expected))
    assert lean(found) == pytest.approx(probability.mean() - label.mean())
    assert lean(found) > 0.1
