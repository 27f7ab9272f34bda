from __future__ import annotations

from pathlib import Path

import numpy as np

from rlhf_loop.encoders.weights import INPUTS, load_calibration, save_calibration


def test_the_package_has_a_calibration_of_every_product() -> None:
    """Each input has a range around zero, a positive smoothing a channel, and a correction an output."""
    found = load_calibration()
    assert set(found) == set(INPUTS)
    for name, of in found.items():
        assert of.low < 0 < of.high, name
        assert (of.smoothing > 0).all(), name
        assert len(of.correction) == {"attention.self": 1152, "intermediate": 1536}.get(name.split(".", 3)[3], 384)
        assert set(of.outliers.tolist()) <= set(range(len(of.smoothing)))


def test_a_calibration_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Writing and reading change nothing."""
    save_calibration(load_calibration(), tmp_path / "again.npz")
    for name, of in load_calibration(tmp_path / "again.npz").items():
        for field in ("smoothing", "low", "high", "outliers", "correction"):
            np.testing.assert_array_equal(getattr(of, field), getattr(load_calibration()[name], field))
