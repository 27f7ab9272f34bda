from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_encoders
from plain_encoders import bert, ids
from quick_encoder import QuickCross, QuickRuntime
from tiny_encoders import CONFIGS, put
from tokenizers import Tokenizer

from rlhf_loop.config import Settings
from rlhf_loop.encoders import TextEncoder, full_name, load_encoder
from rlhf_loop.encoders.cross_encoder import CrossEncoder, find_cross_encoder, load_cross_encoder
from rlhf_loop.encoders.runtime import cross_of
from rlhf_loop.encoders.text_encoder import UnknownTextError, pair
from rlhf_loop.encoders.vector_cache import VectorCache
from rlhf_loop.errors import EncoderError, MissingExtraError

#: Of different lengths; one is cut on both sides, as 20 tokens are read of it, markers included; one has unknown words.
PAIRS = [
    ("the cat", "a dog sat on the mat ."),
    ("the cat sat", "cat"),
    ("a dog " * 9, "on the mat . " * 6),
    ("a cat", "zebra . zebra"),
]


def expected(weights: tiny_encoders.Weights, kind: str, question: str, passage: str) -> float:
    """Compute the logit of a pair as transformers does: the longer side is cut, and the head reads the first token."""
    w = {name.removeprefix("bert.").removeprefix("roberta."): value for name, value in weights.items()}
    one, other = ids(question)[1:-1], ids(passage)[1:-1]
    room = 20 - (3 if kind == "bert" else 4)
    while len(one) + len(other) > room:
        (one if len(one) >= len(other) else other).pop()
    marks = [3] if kind == "bert" else [3, 3]
    tokens = [2, *one, *marks, *other, 3]
    first = 0 if kind == "bert" else 2
    types = np.array([0] * (len(one) + 2) + [1] * (len(other) + 1)) if kind == "bert" else np.zeros(len(tokens), int)
    table = w["embeddings.token_type_embeddings.weight"]
    places = w["embeddings.position_embeddings.weight"].copy()
    places[first : first + len(tokens)] += table[types] - table[0]
    vector = bert(w | {"embeddings.position_embeddings.weight": places}, tokens, first)[0]
    dense, last = ("pooler.dense", "classifier") if kind == "bert" else ("classifier.dense", "classifier.out_proj")
    inner = np.tanh(w[f"{dense}.weight"] @ vector + w[f"{dense}.bias"])
    return float((w[f"{last}.weight"] @ inner + w[f"{last}.bias"])[0])


def scored(of: CrossEncoder) -> np.ndarray:
    return of.encode([pair(*each) for each in PAIRS])[:, 0]


@pytest.mark.parametrize("kind", ["bert", "xlm-roberta"])
def test_a_pair_is_scored_as_the_architecture_says(kind: str, tmp_path: Path) -> None:
    """The logits are those of a plain computation, and those of the graph that comes with a model."""
    weights = tiny_encoders.write_cross(tmp_path / "tiny", kind)
    found = load_cross_encoder(str(tmp_path / "tiny"), tmp_path / "cache", threads=1)
    assert np.allclose(scored(found), [expected(weights, kind, *each) for each in PAIRS], atol=2e-5)
    assert found.encode([]).shape == (0, 1)
    (made,) = (tmp_path / "cache").rglob("model.onnx")
    shutil.copytree(made.parent, tmp_path / "shipped" / "onnx")
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        shutil.copy(tmp_path / "tiny" / name, tmp_path / "shipped")
    shipped = load_cross_encoder(str(tmp_path / "shipped"), tmp_path / "empty", threads=1)
    assert np.array_equal(scored(shipped), scored(found))
    assert shipped.id != found.id
    assert not (tmp_path / "empty").exists()


def test_types_are_left_out_where_the_tokenizer_has_none(tmp_path: Path) -> None:
    """A tokenizer that does not name the types of tokens has both texts read as the first; its name is another."""
    tiny_encoders.write_cross(tmp_path / "a")
    names = ["input_ids", "attention_mask"]
    tiny_encoders.write_cross(tmp_path / "b")
    put(tmp_path / "b" / "tokenizer_config.json", {"model_max_length": 20, "model_input_names": names})
    with_types, without = (load_cross_encoder(str(tmp_path / name), tmp_path / "cache", threads=1) for name in "ab")
    assert np.abs(scored(with_types) - scored(without)).min() > 1e-4
    assert with_types.id.partition("-")[2] != without.id.partition("-")[2]


def test_another_file_is_another_cross_encoder(tmp_path: Path) -> None:
    """Its name holds all that makes a score, and stands behind the encoder's; where it lies is nothing."""
    tiny_encoders.write(tmp_path / "tiny")
    names = []
    for folder, longest in (("a", 20), ("b", 20), ("c", 19)):
        tiny_encoders.write_cross(tmp_path / folder / "cross")
        put(tmp_path / folder / "cross" / "tokenizer_config.json", {"model_max_length": longest})
        own = {"cache_dir": tmp_path / "cache", "encoder_threads": 1}
        settings = Settings(encoder=str(tmp_path / "tiny"), cross_encoder=str(tmp_path / folder / "cross"), **own)
        encoder = load_encoder(settings)
        assert encoder.crossed
        assert cross_of(encoder.full_id) == cross_of(full_name(settings)) != ""
        names.append(cross_of(encoder.full_id))
    assert names[0] == names[1] != names[2]
    assert all(name.startswith("cross-") for name in names)
    alone = load_encoder(Settings(encoder=str(tmp_path / "tiny"), **own))
    assert (alone.crossed, alone.full_id, cross_of(alone.id)) == (False, alone.id, "")


def _lacks(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _with(name: str, **values: object) -> Callable[[Path], None]:
    return lambda folder: put(folder / name, values)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_lacks("tokenizer.json"), r"cross-encoder folder .* has no tokenizer\.json"),
        (_lacks("model.safetensors"), r"has no model\.onnx and no model\.safetensors"),
        (_lacks("config.json"), "has no config.json that says of what kind it is"),
        (lambda folder: tiny_encoders.write(folder), "no head that scores a pair"),
        (_with("config.json", **CONFIGS["bert"], model_type="t5"), "class that it does not name, which scores no"),
        (_with("config.json", **CONFIGS["bert"], model_type="t5", architectures=["T5Model"]), "the class T5Model"),
        (_with("config.json", **{**CONFIGS["bert"], "hidden_act": "silu"}, model_type="bert"), "activation silu"),
        (_with("config.json", **{**CONFIGS["bert"], "max_position_embeddings": 9}, model_type="bert"), "read 9 tokens"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "cannot be read"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x"), "cannot be run"),
    ],
)
def test_what_cannot_be_used_is_said(spoil: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    """What is missing or not known here is named, and which setting to change."""
    tiny_encoders.write_cross(tmp_path / "tiny")
    spoil(tmp_path / "tiny")
    with pytest.raises(EncoderError, match=message) as raised:
        load_cross_encoder(str(tmp_path / "tiny"), tmp_path / "cache", threads=1)
    said = str(raised.value)
    assert "RLHF_CROSS_ENCODER" in said or "Fetch the model again" in said
    assert "RLHF_ENCODER" not in said


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    """A name that is neither a folder nor an id of the hub, and an id that was never fetched."""
    with pytest.raises(EncoderError, match=r"RLHF_CROSS_ENCODER='minilm' is not a folder that is there"):
        find_cross_encoder("minilm")
    with pytest.raises(EncoderError, match=r"RLHF_CROSS_ENCODER='nobody/nothing-here' is not a folder, and not here"):
        find_cross_encoder("nobody/nothing-here")


def test_several_outputs_are_refused(tmp_path: Path) -> None:
    """A classifier of several classes gives no single score."""
    weights = tiny_encoders.write_cross(tmp_path / "tiny")
    two = {name: np.concatenate([weights[name]] * 2) for name in ("classifier.weight", "classifier.bias")}
    tiny_encoders.save_file(weights | two, tmp_path / "tiny" / "model.safetensors")
    with pytest.raises(EncoderError, match="its head has several outputs"):
        load_cross_encoder(str(tmp_path / "tiny"), tmp_path / "cache", threads=1)


def test_other_kinds_need_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What no graph can be made of is run by sentence-transformers, and the message names the extra."""
    tiny_encoders.write_cross(tmp_path / "tiny")
    config = CONFIGS["bert"] | {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}
    put(tmp_path / "tiny" / "config.json", config)
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingExtraError, match=r"rlhf-loop\[torch\]"):
        load_cross_encoder(str(tmp_path / "tiny"), tmp_path / "cache", threads=1)


def test_a_pair_is_scored_once(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Scores are kept beside the vectors, by question and passage; what is known needs no cross-encoder to run."""
    cross = QuickCross(lambda asked, passage: len(passage) - len(asked))
    encoder = TextEncoder(QuickRuntime(), tokenizer, VectorCache(tmp_path / "vectors.db"), cross=cross)
    long = "the harbour opens at ten " * 60
    places = [(long, 2, "when?"), ("a", 0, "when?"), (long, 0, ""), (long, 2, "\ud800 w h"), ("a", 0, "when?")]
    passages = [encoder._passages.split([text])[0][place] for text, place, _ in places]
    expected = [len(passage) - len(asked) for passage, (_, _, asked) in zip(passages, places, strict=True)]
    assert encoder.cross_scores(places).tolist() == expected
    assert len(cross.read) == 4
    assert encoder.only_known().cross_scores(places[::-1]).tolist() == expected[::-1]
    assert encoder.encode_places([("a", 0)]).shape == (1, 384)
    with pytest.raises(UnknownTextError):
        encoder.only_known().cross_scores([("b", 0, "when?")])
    with pytest.raises(EncoderError, match="There is no cross-encoder to score by"):
        TextEncoder(QuickRuntime(), tokenizer).cross_scores(places)


def test_scores_that_are_not_finite_are_refused() -> None:
    """A model that overflows is named, and makes no column."""
    with pytest.raises(EncoderError, match="broken/fp32 gives scores that are not finite"):
        CrossEncoder("broken", lambda pairs: np.full(len(pairs), np.nan)).encode([pair("a", "b")])
