"""Encoders with other upper layers: the same numbers as a graph made of those weights, in two parts."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_encoders
from safetensors.numpy import load_file, save_file
from tiny_encoders import WIDTH, put

from rlhf_loop.encoders import TextEncoder
from rlhf_loop.encoders.folder import _DISTILLED, load_runtime, read_folder
from rlhf_loop.encoders.onnx_runtime import GraphRuntime, OnnxRuntime, _Sessions
from rlhf_loop.encoders.runtime import abilities
from rlhf_loop.encoders.text_encoder import UnknownTextError
from rlhf_loop.encoders.torch_runtime import TorchRuntime
from rlhf_loop.encoders.tuned import TunedLayers
from rlhf_loop.encoders.vector_cache import VectorCache
from rlhf_loop.errors import EncoderError, ModelFileError
from tools.noisy_layers import noisy

TEXTS = ["the cat sat on a mat .", "a dog", "the dog sat on the mat on a mat on the cat : the cat sat .", ""]


def distilled(folder: Path) -> None:
    """Write DistilBERT: BERT's weights under its own names, but for those of the kinds of tokens, which it has not."""
    weights = tiny_encoders.write(folder)
    del weights["embeddings.token_type_embeddings.weight"]
    renamed = {}
    for name, value in weights.items():
        for bert, own in _DISTILLED:
            name = name.replace(bert, own)
        renamed[f"distilbert.{name}"] = value
    save_file(renamed, folder / "model.safetensors")
    config = {"model_type": "distilbert", "dim": WIDTH, "n_heads": 2, "n_layers": 3, "activation": "gelu"}
    put(folder / "config.json", config | {"max_position_embeddings": tiny_encoders.POSITIONS})


@pytest.fixture(params=["bert", "distilbert", "xlm-roberta", "mpnet", "modernbert"])
def tiny(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[GraphRuntime, TunedLayers, Path]:
    """An encoder with layers for it, and the folder that it is in."""
    kind, folder = request.param, tmp_path / "tiny"
    if kind == "distilbert":
        distilled(folder)
    else:
        tiny_encoders.write(folder, kind)
    runtime = load_runtime(read_folder(folder), tmp_path / "cache", threads=1)
    assert runtime._halves is not None
    names = runtime._halves(1).shapes.keys()
    weights = {name.partition(".")[2] if name.startswith("mpnet.") else name: value for name, value in stored(folder)}
    if kind == "distilbert":
        weights = tiny_encoders.bert()
    layers = noisy(weights, runtime.id, first=1, width=WIDTH, noise=0.5)
    assert names == layers.tensors.keys()
    return runtime, layers, folder


def stored(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    yield from load_file(folder / "model.safetensors").items()


def test_tuned_layers_are_those_of_a_whole_graph(tiny: Any, tmp_path: Path) -> None:
    """Of each architecture the tuned encoder gives what an encoder does that has those weights in its file."""
    runtime, layers, folder = tiny
    found = runtime.tuned(layers).encode(TEXTS)
    weights = dict(stored(folder))
    for name, value in layers.tensors.items():
        if folder.joinpath("config.json").read_text().count("distilbert"):
            for bert, own in _DISTILLED:
                name = name.replace(bert, own)
            name = f"distilbert.{name}"
        weights[f"mpnet.{name}" if f"mpnet.{name}" in weights else name] = value
    save_file(weights, folder / "model.safetensors")
    expected = load_runtime(read_folder(folder), tmp_path / "cache", threads=1).encode(TEXTS)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(found - runtime.encode(TEXTS)).max() > 0.01


def test_encoder_itself_stays_as_it_is(tiny: Any) -> None:
    """An encoder gives the same vectors to the last bit after it was cut in two, also for texts it has just read."""
    runtime, layers, _ = tiny
    before = runtime.encode(TEXTS)
    runtime.tuned(layers)
    for _ in range(2):
        np.testing.assert_array_equal(runtime.encode(TEXTS), before)


@pytest.fixture(scope="module")
def minilm(model_folder: Path) -> TunedLayers:
    """The upper half of all-MiniLM-L6-v2 with a little noise."""
    weights = load_file(model_folder / "model.safetensors")
    return noisy(weights, "all-MiniLM-L6-v2/fp32", first=3, width=384)


PROSE = [
    "Rest, drink enough, and take paracetamol in the dose for your weight. It lowers the temperature for hours.",
    "Often the muscles are strained. Keep moving, and see a doctor if it lasts for more than six weeks.",
    "How can I bring down a fever?",
]


def test_eight_bits_are_as_exact_as_before_tuning(
    model_folder: Path, encoder_cache: Path, exact: OnnxRuntime, minilm: TunedLayers
) -> None:
    """Tuned vectors in 8 bits are near to those in 32 bits, and the noise moves them more than the rounding does."""
    if "int8" not in abilities():
        pytest.skip("this processor has no 8-bit products")
    tuned, before = exact.tuned(minilm).encode(PROSE), exact.encode(PROSE)
    rounded = OnnxRuntime(model_folder, encoder_cache, precision="int8").tuned(minilm).encode(PROSE)
    assert (rounded * tuned).sum(axis=1).min() >= 0.995
    assert (tuned * before).sum(axis=1).max() <= 0.9995


def test_lower_layers_run_once(exact: OnnxRuntime, minilm: TunedLayers, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the lower layers made of a text serves the tuned layers, too; the other way round nothing is kept."""
    tuned = exact.tuned(minilm)
    ran: list[str] = []
    run = _Sessions.run

    def counted(self: _Sessions, feed: Any, *, output: str, alone: bool) -> Any:
        ran.append(output)
        return run(self, feed, output=output, alone=alone)

    monkeypatch.setattr(_Sessions, "run", counted)
    text = "A text that no other test has: the ferry leaves at noon."
    once = tuned.encode([text])
    assert ran == ["hidden", "embedding"]
    exact.encode([text])
    assert ran[2:] == ["hidden", "embedding"]
    np.testing.assert_array_equal(tuned.encode([text]), once)
    assert ran[4:] == ["embedding"]


def test_layers_are_given_back(exact: OnnxRuntime, minilm: TunedLayers) -> None:
    """A graph is loaded once for the same layers, and goes when nobody has them any more."""
    other = replace(minilm, b=1.0)
    assert exact.tuned(other) is exact.tuned(other)
    loaded = weakref.ref(exact.tuned(other))
    assert loaded() is not None
    del other
    gc.collect()
    assert loaded() is None


@pytest.mark.parametrize(
    "change",
    [
        {"w": np.zeros(8, np.float32)},
        {"tensors": {"encoder.layer.5.output.dense.bias": np.zeros(384, np.float32)}},
        {"tensors": {}},
    ],
)
def test_layers_of_another_shape_are_refused(exact: OnnxRuntime, minilm: TunedLayers, change: dict[str, Any]) -> None:
    """Layers that are too few, too many or of another size are no part of this encoder."""
    with pytest.raises(ModelFileError, match="do not fit the encoder all-MiniLM-L6-v2/fp32"):
        exact.tuned(replace(minilm, **change))


def test_tensor_of_another_shape_is_refused(exact: OnnxRuntime, minilm: TunedLayers) -> None:
    """A single tensor of another size is no part of this encoder either."""
    name = "encoder.layer.4.output.dense.weight"
    tensors = {**minilm.tensors, name: np.zeros((384, 3), np.float32)}
    with pytest.raises(ModelFileError, match=r"has the shape \(384, 3\), not \(384, 1536\)"):
        exact.tuned(replace(minilm, tensors=tensors))


def test_encoder_without_weights_cannot_be_tuned(tmp_path: Path, minilm: TunedLayers) -> None:
    """A graph that somebody exported, and a runtime of another kind, say that they have no layers to replace."""
    tiny_encoders.write(tmp_path / "tiny")
    trainable = load_runtime(read_folder(tmp_path / "tiny"), tmp_path / "cache", threads=1).checkpoint()
    assert (trainable.layers, trainable.width, trainable.pooling) == (3, WIDTH, "mean")
    made = next(tmp_path.glob("cache/encoder/*/model.onnx"))
    for file in made.parent.iterdir():
        file.rename(tmp_path / "tiny" / file.name)
    (tmp_path / "tiny" / "model.safetensors").unlink()
    exported = load_runtime(read_folder(tmp_path / "tiny"), tmp_path / "cache", threads=1)
    with pytest.raises(EncoderError, match="no weights that layers could be tuned from"):
        exported.tuned(minilm)
    with pytest.raises(EncoderError, match="no layers that can be trained"):
        exported.checkpoint()
    assert not hasattr(TorchRuntime, "tuned")


# --- The text encoder ------------------------------------------------------------------------------------------------

LONG = "Rest and drink enough. " * 60


@pytest.fixture
def cached(exact: OnnxRuntime, tmp_path: Path) -> TextEncoder:
    return TextEncoder(exact, exact.tokenizer, VectorCache(tmp_path / "vectors.db"))


def test_vectors_of_places_are_those_of_passages(cached: TextEncoder, minilm: TunedLayers) -> None:
    """A passage that is named by its place has the vector that it has among all passages of its text."""
    tuned = cached.tuned(minilm)
    every = tuned.encode_passages([PROSE[0], LONG])
    found = tuned.encode_places([(LONG, 2), (PROSE[0], 0), (LONG, 0)])
    np.testing.assert_allclose(found, [every[1][2], every[0][0], every[1][0]], atol=1e-5)
    assert np.abs(found[1] - cached.encode_places([(PROSE[0], 0)])[0]).max() > 0.001


def test_beginning_of_a_question_is_read(cached: TextEncoder) -> None:
    """Of a long question so many tokens are read and no more, of a short one all."""
    found = cached.encode_beginnings([LONG, PROSE[2]], tokens=5)
    np.testing.assert_allclose(found[0], cached.encode(["Rest and drink enough."])[0], atol=1e-5)
    whole = cached.encode_beginnings([PROSE[2]], tokens=80)
    np.testing.assert_allclose(whole, cached.encode([PROSE[2]]), atol=1e-5)


def test_token_ids_are_what_is_read(cached: TextEncoder) -> None:
    """The numbers of tokens that a training reads are those of the runtime, passage by passage."""
    ((question,), (short, long)) = cached.token_ids([LONG], [PROSE[1], LONG], tokens=5)
    assert cached._tokenizer.decode(question) == "rest and drink enough."
    assert [question[0], question[-1], len(question)] == [101, 102, 7]
    passages = cached.encode_passages([PROSE[1], LONG])
    assert (len(short), len(long)) == (len(passages[0]), len(passages[1]))
    assert max(map(len, long)) <= 96 + 2


def test_tuned_vectors_are_kept_under_their_own_key(
    cached: TextEncoder, minilm: TunedLayers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each version's vectors stay in the cache beside the others', so going back to it computes nothing."""
    versions = [minilm, replace(minilm, tensors={k: 0.9 * v for k, v in minilm.tensors.items()})]
    wanted = [(PROSE[0], 0)]
    vectors = [cached.tuned(layers).encode_places(wanted) for layers in versions]
    assert np.abs(vectors[0] - vectors[1]).max() > 0.001
    for layers, expected in zip(versions, vectors, strict=True):
        np.testing.assert_array_equal(cached.tuned(layers).only_known().encode_places(wanted), expected)


def test_unknown_texts_can_be_made_known(cached: TextEncoder, minilm: TunedLayers) -> None:
    """What an encoder that may not compute does not know is computed by whoever takes the error, for that version."""
    known = cached.tuned(minilm).only_known()
    with pytest.raises(UnknownTextError, match="1 texts are new") as unknown:
        known.encode_places([(PROSE[1], 0)])
    unknown.value.compute()
    assert known.encode_places([(PROSE[1], 0)]).shape == (1, 384)
    with pytest.raises(UnknownTextError):
        cached.only_known().encode_places([(PROSE[1], 0)])
