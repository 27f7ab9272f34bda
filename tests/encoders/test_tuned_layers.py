"""Tuned layers and their file: the same bytes for the same layers, and nothing else is read."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save

from rlhf_loop.encoders.tuned import TunedLayers
from rlhf_loop.errors import ModelFileError

LAYERS = TunedLayers(
    encoder="all-MiniLM-L6-v2/fp32",
    first=1,
    tensors={
        f"encoder.layer.1.{name}": np.arange(size, dtype=np.float32) for name, size in (("b", 3), ("a", 4), ("c", 2))
    },
    question_tokens=80,
    passages=3,
    a=1.25,
    b=-0.1,
    w=np.array([0.5, 0, -0.5], dtype=np.float32),
)


def about(**changes: object) -> dict[str, str]:
    header = LAYERS.to_bytes()
    found = json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])["__metadata__"]
    ((name, text),) = found.items()
    return {name: json.dumps(json.loads(text) | changes)}


def file(*, tensors: dict[str, np.ndarray] | None = None, **changes: object) -> bytes:
    given = {"encoder.layer.1.a": np.ones(4, np.float32), "head.w": LAYERS.w} if tensors is None else tensors
    return save(given, metadata=about(**changes))


def test_reads_what_it_wrote() -> None:
    """Layers come back from their file to the last bit, under the same sum, in whatever order they were given."""
    content = LAYERS.to_bytes()
    found = TunedLayers.from_bytes(content)
    assert (found.encoder, found.first, found.a, found.b) == (LAYERS.encoder, 1, 1.25, -0.1)
    assert (found.question_tokens, found.passages) == (80, 3)
    np.testing.assert_array_equal(found.w, LAYERS.w)
    assert found.tensors.keys() == LAYERS.tensors.keys()
    for name, tensor in LAYERS.tensors.items():
        np.testing.assert_array_equal(found.tensors[name], tensor)
    turned = replace(LAYERS, tensors=dict(reversed(list(LAYERS.tensors.items()))))
    assert found.to_bytes() == content == turned.to_bytes()
    assert found.sha256 == LAYERS.sha256
    assert replace(LAYERS, b=0.1).sha256 != LAYERS.sha256


def test_released_layers_score_and_are_never_written() -> None:
    """Once their tensors are given back, layers score under the same sum, and no file is made of what is left."""
    layers = TunedLayers.from_bytes(LAYERS.to_bytes())
    layers.release()
    assert (dict(layers.tensors), layers.sha256) == ({}, LAYERS.sha256)
    u = np.array([0.6, 0.8, 0], dtype=np.float32)
    np.testing.assert_array_equal(layers.logits(u, u[np.newaxis]), LAYERS.logits(u, u[np.newaxis]))
    with pytest.raises(ValueError, match="were released"):
        layers.to_bytes()


def test_logit() -> None:
    """The logit is ten times the weighted cosine, the bias and the weighted products."""
    u = np.array([0.6, 0.8, 0], dtype=np.float32)
    v = np.array([[0.6, 0.8, 0], [0, 0, 1]], dtype=np.float32)
    expected = [10 * (1.25 * (u @ row) - 0.1 + LAYERS.w @ (u * row)) for row in v]
    np.testing.assert_allclose(LAYERS.logits(u, v), expected, rtol=1e-6)


def test_file_of_its_own_making_is_read() -> None:
    """What the next test alters is a file that is read."""
    assert TunedLayers.from_bytes(file()).tensors.keys() == {"encoder.layer.1.a"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not whole"),
        (LAYERS.to_bytes()[:-1], "not whole"),
        (LAYERS.to_bytes() + b"0", "not whole"),
        (b"\xff" * 8 + LAYERS.to_bytes()[8:], "not whole"),
        (b"\x05\0\0\0\0\0\0\0" + b"[" * 100_000, "not whole"),
        ((400_000).to_bytes(8, "little") + b"[" * 400_000, "not whole"),
        (save({"a": np.ones(3, np.float32)}), "not whole"),
        (file(version=2), "format version 2; this rlhf-loop reads 1"),
        (file(first=0), "not valid counts"),
        (file(first=True), "tensors and"),
        (file(passages=0), "not valid counts"),
        (file(question_tokens="many"), "tensors and"),
        (file(a=None), "not whole"),
        (file(b=1e300), "the numbers 1.25 and 1e\\+300"),
        (file(a=float("nan")), "the numbers nan"),
        (file(tensors={"encoder.layer.1.a": np.ones(4, np.float32)}), "head.w"),
        (file(tensors={"head.w": LAYERS.w}), "0 tensors"),
        (file(tensors={"a": np.ones(4, np.float32), "head.w": np.ones((3, 3), np.float32)}), r"shape \(3, 3\)"),
        (file(tensors={"a": np.ones(4, np.float16), "head.w": LAYERS.w}), "not a valid layer"),
        (file(tensors={"../a": np.ones(4, np.float32), "head.w": LAYERS.w}), "not a valid layer"),
        (file(tensors={"a": np.ones((2, 2, 2), np.float32), "head.w": LAYERS.w}), "not a valid layer"),
        (file(tensors={"a": np.ones(0, np.float32), "head.w": LAYERS.w}), "not a valid layer"),
        (file(tensors={"a": np.array([1, np.nan], np.float32), "head.w": LAYERS.w}), "not finite"),
        (file(tensors={"a": np.array([1, -np.inf], np.float32), "head.w": LAYERS.w}), "not finite"),
    ],
)
def test_refuses_anything_else(content: bytes, said: str) -> None:
    """A file that is damaged, foreign or holds what no training leaves is refused, with the reason."""
    with pytest.raises(ModelFileError, match=said) as caught:
        TunedLayers.from_bytes(content)
    assert "rlhf-loop train" in str(caught.value)


def test_size_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that no processor could serve is not even parsed."""
    monkeypatch.setattr("rlhf_loop.encoders.tuned.MOST_BYTES", 100)
    with pytest.raises(ModelFileError, match="more than tuned layers have"):
        TunedLayers.from_bytes(LAYERS.to_bytes())
