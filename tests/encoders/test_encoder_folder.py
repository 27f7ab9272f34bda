from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny_encoders
from plain_encoders import bert, ids, modernbert, mpnet, roberta
from tiny_encoders import CONFIGS, HEADS, LAYERS, WIDTH, put

from rlhf_loop.config import Settings
from rlhf_loop.encoders import TextEncoder, load_encoder, model_name
from rlhf_loop.encoders.folder import UNRELATED_QUESTIONS, EncoderFolder, load_runtime, read_folder
from rlhf_loop.encoders.onnx_graph import Form, Graph
from rlhf_loop.encoders.runtime import UNRELATED
from rlhf_loop.errors import ConfigError, EncoderError

#: Of different lengths, so that one batch has padding; one has words that the encoder does not know.
TEXTS = ["the cat sat on a mat .", "a dog", "The Cat", "the zebra sat on the mat on a mat on the cat : the dog sat ."]


def unit(vectors: list[np.ndarray]) -> np.ndarray:
    rows = np.stack(vectors)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


KINDS = {"bert": bert, "xlm-roberta": roberta, "mpnet": mpnet, "modernbert": modernbert}


@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_computes_what_the_architecture_says(kind: str, tmp_path: Path) -> None:
    """The vectors are those of a plain computation text by text, whatever stands beside a text in its batch."""
    weights = tiny_encoders.write(tmp_path / "tiny", kind)
    of = read_folder(tmp_path / "tiny")
    runtime = load_runtime(of, tmp_path / "cache", threads=1)
    expected = unit([KINDS[kind](weights, ids(text)).mean(axis=0) for text in TEXTS])
    assert runtime.shape.dimension == WIDTH
    assert np.allclose(runtime.encode(TEXTS), expected, atol=2e-5)
    assert runtime.encode([]).shape == (0, WIDTH)


POOLINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "cls_token": lambda x: x[0],
    "max_tokens": lambda x: x.max(axis=0),
    "mean_sqrt_len_tokens": lambda x: x.sum(axis=0),
    "weightedmean_tokens": lambda x: (x * np.arange(1, len(x) + 1)[:, np.newaxis]).sum(axis=0),
    "lasttoken": lambda x: x[-1],
}


@pytest.mark.parametrize("pooling", POOLINGS)
def test_tokens_are_pooled_as_the_folder_says(pooling: str, tmp_path: Path) -> None:
    """What is nothing but a factor goes with the length, which is 1."""
    weights = tiny_encoders.write(tmp_path, pooling=pooling)
    found = load_runtime(read_folder(tmp_path), tmp_path / "cache", threads=1).encode(TEXTS)
    assert np.allclose(found, unit([POOLINGS[pooling](bert(weights, ids(text))) for text in TEXTS]), atol=2e-5)


def test_a_layer_behind_the_pooling(tmp_path: Path) -> None:
    """A folder may bring a linear layer, which makes the vectors shorter."""
    from safetensors.numpy import save_file

    weights = tiny_encoders.write(tmp_path)
    (tmp_path / "2_Dense").mkdir()
    layer = np.random.default_rng(1).standard_normal((3, WIDTH)).astype(np.float32)
    save_file({"linear.weight": layer}, tmp_path / "2_Dense" / "model.safetensors")
    put(
        tmp_path / "2_Dense" / "config.json", {"bias": False, "activation_function": "torch.nn.modules.activation.Tanh"}
    )
    listed = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Dense", "2_Dense")]
    put(
        tmp_path / "modules.json",
        [{"type": f"sentence_transformers.models.{name}", "path": path} for name, path in listed],
    )
    runtime = load_runtime(read_folder(tmp_path), tmp_path / "cache", threads=1)
    expected = unit([np.tanh(layer @ bert(weights, ids(text)).mean(axis=0)) for text in TEXTS])
    assert runtime.shape.dimension == 3
    assert np.allclose(runtime.encode(TEXTS), expected, atol=2e-5)


def test_a_folder_with_a_graph_of_its_own(tmp_path: Path) -> None:
    """`model.onnx` gives the same as the weights that it was made of; without the list of modules it is the mean."""
    weights = tiny_encoders.write(tmp_path)
    form = Form(layers=LAYERS, heads=HEADS, width=WIDTH, epsilon=1e-5)
    onnx.save_model(Graph(weights, form, pooled=False).build().to_onnx(), tmp_path / "model.onnx")
    for name in ("model.safetensors", "modules.json"):
        (tmp_path / name).unlink()
    of = read_folder(tmp_path)
    assert of.weights.name == "model.onnx"
    expected = unit([bert(weights, ids(text)).mean(axis=0) for text in TEXTS])
    assert np.allclose(load_runtime(of, tmp_path / "cache", threads=1).encode(TEXTS), expected, atol=2e-5)


def test_what_stands_before_questions_and_passages(tmp_path: Path) -> None:
    """An encoder that wants to be told gets it, before each passage, too; the same text then has two vectors."""
    tiny_encoders.write(tmp_path / "tiny", prompts={"query": "query : ", "passage": "passage : "})
    settings = Settings(encoder=str(tmp_path / "tiny"), cache_dir=tmp_path / "cache", encoder_threads=1)
    encoder = load_encoder(settings)
    plain = load_runtime(read_folder(tmp_path / "tiny"), tmp_path / "cache", threads=1)
    asked = encoder.encode_whole(["a cat"], passages=["a cat"])
    assert np.allclose(asked, plain.encode(["query : a cat", "passage : a cat"]), atol=1e-6)
    long = " ".join(["the cat sat on a mat"] * 20)
    (passages,) = encoder.encode_passages([long])
    assert len(passages) > 4  # 32 tokens at a time, less two markers and the prompt
    assert np.allclose(np.linalg.norm(passages, axis=1), 1)
    known = encoder.only_known()
    assert np.array_equal(known.encode_whole(["a cat"], passages=["a cat"]), asked)
    assert np.array_equal(known.encode_passages([long])[0], passages)
    assert (encoder.dimension, encoder.window) == (WIDTH, 32)


def test_what_is_near_follows_the_encoder(tmp_path: Path, encoder: TextEncoder) -> None:
    """Where unrelated texts are near each other already, two questions have to be nearer to ask for the same."""
    tiny_encoders.write(tmp_path / "tiny")
    tiny = load_encoder(Settings(encoder=str(tmp_path / "tiny"), cache_dir=tmp_path / "cache", encoder_threads=1))
    questions = tiny.encode(list(UNRELATED_QUESTIONS))
    mean = (questions @ questions.T)[np.triu_indices(len(questions), 1)].mean()
    assert mean > 0.5  # it knows none of their words
    assert 0.8 < tiny.as_near(0.8) < 1
    assert tiny.as_near(UNRELATED) == pytest.approx(mean, abs=1e-5)
    assert encoder.as_near(0.8) == 0.8
    of_default = encoder.encode(list(UNRELATED_QUESTIONS))
    assert (of_default @ of_default.T)[np.triu_indices(12, 1)].mean() == pytest.approx(UNRELATED, abs=2e-3)


def test_another_file_is_another_encoder(tmp_path: Path) -> None:
    """The name holds all that makes a vector: weights, tokens, pooling; where it lies is nothing."""
    names = set()
    for folder, options in (("a", {}), ("b", {"pooling": "cls_token"}), ("c", {"prompts": {"query": "query : "}})):
        tiny_encoders.write(tmp_path / folder / "tiny", **options)
        names.add(model_name(Settings(encoder=str(tmp_path / folder / "tiny"))))
    tiny_encoders.write(tmp_path / "again" / "tiny")
    assert model_name(Settings(encoder=str(tmp_path / "again" / "tiny"))) in names
    assert len(names) == 3
    assert all(name.startswith("tiny-") for name in names)


def _lacks(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _with(name: str, **values: object) -> Callable[[Path], None]:
    return lambda folder: put(folder / name, values)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_lacks("tokenizer.json"), r"has no tokenizer\.json\. Save the encoder with its fast tokenizer there"),
        (_lacks("model.safetensors"), r"has no model\.onnx and no model\.safetensors"),
        (
            _with("config.json", **CONFIGS["bert"], model_type="t5"),
            r"weights of the kind 't5'.*bert.*Export model\.onnx",
        ),
        (_with("config.json", **CONFIGS["modernbert"], model_type="modernbert"), "another kind than 'modernbert'"),
        (_with("config.json", **{**CONFIGS["bert"], "hidden_act": "silu"}, model_type="bert"), "activation silu"),
        (_with("1_Pooling/config.json", pooling_mode="attention"), "pools its tokens by attention"),
        (_with("1_Pooling/config.json"), "pools its tokens by nothing"),
        (_with("1_Pooling/config.json", pooling_mode="mean", include_prompt=False), "leaves its prompts out"),
        (lambda folder: put(folder / "modules.json", [{"type": "models.CLIP", "path": ""}]), "has a module CLIP"),
        (lambda folder: (folder / "config.json").write_text("{"), "is not valid JSON"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "cannot be read"),
        (lambda folder: (folder / "modules.json").write_text("{"), "cannot be read as an encoder"),
        (lambda folder: (folder / "modules.json").write_bytes(b"\xff\xfe"), "cannot be read as an encoder"),
        (lambda folder: put(folder / "modules.json", [1]), "cannot be read as an encoder"),
        (lambda folder: put(folder / "modules.json", [{"path": ""}]), "cannot be read as an encoder"),
        (_with("sentence_bert_config.json", max_seq_length="x"), "cannot be read as an encoder"),
        (_with("sentence_bert_config.json", max_seq_length=-5), "would read -5 tokens"),
        (_with("config_sentence_transformers.json", prompts=[1]), "cannot be read as an encoder"),
    ],
)
def test_what_cannot_be_used_is_said(spoil: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    """What is missing or not known here is named, with what to do."""
    tiny_encoders.write(tmp_path)
    spoil(tmp_path)
    with pytest.raises(EncoderError, match=message):
        load_runtime(read_folder(tmp_path), tmp_path / "cache", threads=1)


def test_what_is_no_encoder_is_refused(tmp_path: Path) -> None:
    """A name that is neither known nor a folder; and a runtime or a precision that only the default encoder has."""
    with pytest.raises(EncoderError, match=r"RLHF_ENCODER='all-mini' is not a folder.*use-multilingual-v3"):
        load_encoder(Settings(encoder="all-mini", cache_dir=tmp_path))
    tiny_encoders.write(tmp_path)
    for wrong in ({"encoder_runtime": "sentence-transformers"}, {"encoder_precision": "int8"}):
        with pytest.raises(ConfigError, match="RLHF_ENCODER_"):
            load_encoder(Settings(encoder=str(tmp_path), cache_dir=tmp_path, **wrong))


def test_a_window_is_what_was_set_and_never_beyond_the_positions(tmp_path: Path) -> None:
    """Without a word of it, it is as long as there are positions, less those that are never used."""

    def window(**config: object) -> int:
        put(tmp_path / "config.json", CONFIGS["bert"] | {"model_type": "bert"} | config)
        of: EncoderFolder = read_folder(tmp_path)
        return of.window

    tiny_encoders.write(tmp_path)
    assert window() == 32
    assert window(max_position_embeddings=20) == 20
    (tmp_path / "sentence_bert_config.json").unlink()
    assert window() == 40
    assert window(model_type="xlm-roberta", pad_token_id=1) == 38
    assert window(max_position_embeddings=8192) == 1024
