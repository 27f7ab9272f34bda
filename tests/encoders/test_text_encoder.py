from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from patience import PATIENCE_S
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

import rlhf_loop.encoders.tokenizer
from rlhf_loop.config import Settings
from rlhf_loop.encoders import DIMENSION, Shape, TextEncoder, Vectors, load_encoder
from rlhf_loop.encoders.onnx_runtime import OnnxRuntime
from rlhf_loop.encoders.text_encoder import UnknownTextError
from rlhf_loop.encoders.tokenizer import blocks
from rlhf_loop.encoders.vector_cache import VectorCache
from rlhf_loop.errors import ConfigError

DATA = Path(__file__).parents[1] / "data"
REFERENCE_TEXTS: dict[str, str] = json.loads((DATA / "reference_texts.json").read_text())["texts"]
TEXTS = list(REFERENCE_TEXTS.values())
LONG = REFERENCE_TEXTS["400 tokens, cut"]
#: Few of many words: they take most of the time, and one tells as much as five.
MOSTLY_SHORT = [text for text in TEXTS if len(text.split()) < 100 or text == LONG]


class FakeRuntime:
    """Vectors made from the text's hash; remembers what it was asked."""

    def __init__(self, name: str = "fake") -> None:
        self.id = name
        self.shape = Shape()
        self.asked: list[str] = []

    def encode(self, texts: Sequence[str]) -> Vectors:
        self.asked += texts
        seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") for text in texts]
        vectors = np.array([np.random.default_rng(seed).standard_normal(DIMENSION) for seed in seeds], dtype=np.float32)
        unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit


@pytest.fixture
def runtime() -> FakeRuntime:
    return FakeRuntime()


@pytest.fixture
def cached(runtime: FakeRuntime, tokenizer: Tokenizer, tmp_path: Path) -> TextEncoder:
    return TextEncoder(runtime, tokenizer, VectorCache(tmp_path / "vectors.db"))


@pytest.fixture(scope="module")
def reference() -> Vectors:
    vectors: Vectors = np.load(DATA / "reference_vectors.npz")["vectors"]
    return vectors


@pytest.fixture(scope="module")
def uncached(exact: OnnxRuntime, tokenizer: Tokenizer) -> TextEncoder:
    """The real encoder in 32 bits, computing each text whenever it is asked."""
    return TextEncoder(exact, tokenizer)


# --- The vectors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REFERENCE_TEXTS)
def test_a_text_has_its_reference_vector(uncached: TextEncoder, reference: Vectors, name: str) -> None:
    """The vector of a text is the one that sentence-transformers computes on torch."""
    (vector,) = uncached.encode([REFERENCE_TEXTS[name]])
    assert vector @ reference[list(REFERENCE_TEXTS).index(name)] >= 0.9999


def test_a_batch_has_the_reference_vectors(uncached: TextEncoder, reference: Vectors) -> None:
    """In one batch, too, each text has its reference vector."""
    cosines = np.sum(uncached.encode(TEXTS) * reference, axis=1)
    assert cosines.min() >= 0.9999


@pytest.mark.slow
def test_vectors_are_float32_of_unit_length(uncached: TextEncoder) -> None:
    """Each vector has the length 1, that of an empty text too."""
    texts = MOSTLY_SHORT
    for vectors in (uncached.encode(texts), uncached.encode_whole(texts), *uncached.encode_passages(texts)):
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


@pytest.mark.slow
def test_the_batch_does_not_change_a_vector(uncached: TextEncoder) -> None:
    """A text has the same vector alone, among others, and among the same in another order."""
    texts = MOSTLY_SHORT
    together = uncached.encode(texts)
    np.testing.assert_allclose(np.concatenate([uncached.encode([text]) for text in texts]), together, atol=1e-5)
    np.testing.assert_allclose(uncached.encode(texts[::-1])[::-1], together, atol=1e-5)


def test_no_texts_make_no_vectors(uncached: TextEncoder) -> None:
    """An empty list is no error."""
    assert uncached.encode([]).shape == uncached.encode_whole([]).shape == (0, DIMENSION)
    assert uncached.encode_passages([]) == []
    assert uncached.count_cut([]) == 0


def test_lone_surrogates_are_read_as_question_marks(uncached: TextEncoder) -> None:
    """Half a character, which no tokenizer takes, stops nothing."""
    broken, mended = ["a \ud83d heart"], ["a ? heart"]
    np.testing.assert_array_equal(uncached.encode(broken), uncached.encode(mended))
    np.testing.assert_array_equal(uncached.encode_whole(broken), uncached.encode_whole(mended))
    np.testing.assert_array_equal(uncached.encode_passages(broken)[0], uncached.encode_passages(mended)[0])
    assert uncached.count_cut(broken) == 0


# --- Long texts ------------------------------------------------------------------------------------------------------


def test_the_whole_of_a_long_text_is_read(uncached: TextEncoder) -> None:
    """What stands behind the window changes `encode_whole` and the passages, and does not change `encode`."""
    other = LONG.replace("above the southern rocks.", "above the frozen volcano.")
    assert other != LONG
    np.testing.assert_array_equal(uncached.encode([LONG]), uncached.encode([other]))
    whole = uncached.encode_whole([LONG, other])
    assert whole[0] @ whole[1] < 0.999
    passages = uncached.encode_passages([LONG, other])
    assert passages[0][-1] @ passages[1][-1] < 0.99
    assert uncached.encode([LONG])[0] @ whole[0] < 0.999


def test_a_text_that_fits_is_its_own_window(uncached: TextEncoder) -> None:
    """`encode_whole` and `encode` agree on a text that fills the window, and part from the next word piece on."""
    full, longer = REFERENCE_TEXTS["a full window"], REFERENCE_TEXTS["one too many"]
    np.testing.assert_allclose(uncached.encode_whole([full]), uncached.encode([full]), atol=1e-6)
    assert np.abs(uncached.encode_whole([longer]) - uncached.encode([longer])).max() > 1e-3


def test_cut_texts_are_counted(uncached: TextEncoder) -> None:
    """254 word pieces are read whole, 255 are not; any iterable will do."""
    assert uncached.count_cut([REFERENCE_TEXTS["a full window"]]) == 0
    assert uncached.count_cut(text for text in (REFERENCE_TEXTS["one too many"], "short", LONG)) == 2


def test_a_book_is_read_to_its_end(cached: TextEncoder, runtime: FakeRuntime) -> None:
    """A text of 8,000 words becomes many passages, the last of which has the last word."""
    (vectors,) = cached.encode_passages([" ".join(f"word{n}" for n in range(8000))])
    assert len(vectors) == len(runtime.asked) > 300
    assert runtime.asked[-1].endswith(" word7999")


# --- The cache -------------------------------------------------------------------------------------------------------


def test_only_new_texts_are_computed(cached: TextEncoder, runtime: FakeRuntime) -> None:
    """A text is computed once, whether it comes back in the same call, the next one, or another process."""
    first = cached.encode(["a", "b", "a"])
    assert runtime.asked == ["a", "b"]
    second = cached.encode(["b", "c", "a"])
    assert runtime.asked == ["a", "b", "c"]
    np.testing.assert_array_equal(first[[1, 0]], second[[0, 2]])


def test_another_encoder_finds_the_same_cache(runtime: FakeRuntime, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """The vectors outlive the encoder that computed them."""
    vectors = TextEncoder(runtime, tokenizer, VectorCache(tmp_path / "v.db")).encode_passages([LONG, "b"])
    count = len(runtime.asked)
    again = TextEncoder(runtime, tokenizer, VectorCache(tmp_path / "v.db")).encode_passages(["b", LONG])
    assert len(runtime.asked) == count
    for before, after in zip(vectors, reversed(again), strict=True):
        np.testing.assert_array_equal(before, after)


def test_models_and_ways_of_cutting_do_not_share_vectors(
    cached: TextEncoder, runtime: FakeRuntime, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """A cached vector is served to its own model and its own use only."""
    cached.encode([LONG])
    assert len(cached.encode_whole([LONG])) == 1
    assert len(cached.encode_passages([LONG])[0]) > 2
    other = FakeRuntime("other")
    TextEncoder(other, tokenizer, VectorCache(tmp_path / "vectors.db")).encode([LONG])
    assert other.asked == [LONG]


def test_passages_are_read_only_from_the_start(cached: TextEncoder) -> None:
    """A caller cannot tell computed passages from cached ones."""
    for _ in range(2):
        assert not any(vectors.flags.writeable for vectors in cached.encode_passages(["a", LONG]))


def test_more_texts_than_a_chunk_keep_their_order(cached: TextEncoder, tokenizer: Tokenizer) -> None:
    """Many texts are computed in parts and come back in the order given."""
    texts = [f"text {n}" for n in range(1200)]
    expected = TextEncoder(FakeRuntime(), tokenizer).encode(texts)
    np.testing.assert_array_equal(cached.encode(texts), expected)
    np.testing.assert_array_equal(cached.encode(texts), expected)


def test_only_what_is_known(cached: TextEncoder, runtime: FakeRuntime) -> None:
    """An encoder that may not compute serves known texts, and names new ones as an error instead of asking for them."""
    expected = cached.encode_passages([LONG, "a"])
    count = len(runtime.asked)
    known = cached.only_known()
    for before, after in zip(expected, known.encode_passages([LONG, "a"]), strict=True):
        np.testing.assert_array_equal(before, after)
    with pytest.raises(UnknownTextError, match="1 texts are new"):
        known.encode_passages([LONG, "b"])
    assert len(runtime.asked) == count
    assert len(cached.encode_passages(["b"])) == 1


def test_texts_are_counted(cached: TextEncoder) -> None:
    """The encoder counts what it computed and what it remembered, each distinct text of a call once."""
    cached.encode(["a", "b", "a"])
    cached.encode(["b", "c"])
    assert (cached.computed, cached.remembered) == (3, 1)


class SlowRuntime(FakeRuntime):
    """Takes its time, and remembers how many calls there were at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0

    def encode(self, texts: Sequence[str]) -> Vectors:
        self.now += 1
        self.most = max(self.most, self.now)
        time.sleep(0.02)
        self.now -= 1
        return super().encode(texts)


def test_one_thread_at_a_time_computes(tokenizer: Tokenizer) -> None:
    """Threads with new texts wait for each other: memory for one call at a time is enough."""
    runtime = SlowRuntime()
    encoder = TextEncoder(runtime, tokenizer)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: encoder.encode([f"text {n}"]), range(16)))
    assert runtime.most == 1
    assert len(runtime.asked) == encoder.computed == 16


class BusyRuntime(FakeRuntime):
    """Does not end its first call before another thread waits for its turn."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.wanted = threading.Event(), threading.Event()

    def encode(self, texts: Sequence[str]) -> Vectors:
        self.begun.set()
        assert self.wanted.wait(PATIENCE_S)
        return super().encode(texts)


def test_a_long_document_does_not_hold_up_others(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A document of many passages is computed in turns, between which a short text of another thread has its own."""
    monkeypatch.setattr("rlhf_loop.encoders.text_encoder.cores", lambda: 2)
    runtime = BusyRuntime()
    encoder = TextEncoder(runtime, tokenizer)
    with ThreadPoolExecutor(2) as pool:
        long = pool.submit(encoder.encode_passages, [" ".join(f"word{n}" for n in range(8000))])
        assert runtime.begun.wait(PATIENCE_S)
        short = pool.submit(encoder.encode, ["short"])
        while not encoder._turn.waiting:
            time.sleep(0)
        runtime.wanted.set()
        (vectors,) = long.result()
        assert short.result().shape == (1, DIMENSION)
    assert len(vectors) > 300
    assert runtime.asked.index("short") <= 128
    assert encoder.computed == 2


# --- Tokens ----------------------------------------------------------------------------------------------------------


def test_tokens_are_counted(uncached: TextEncoder, tokenizer: Tokenizer) -> None:
    """The count is the tokenizer's, without markers, for each text in order, also of texts that were counted before."""
    texts = ["", "Hold your breath.", LONG, "a\ud800b", "Hold your breath.", "\x00"]
    expected = [0, 4, len(tokenizer.encode(LONG, add_special_tokens=False)), 3, 4, 0]
    assert uncached.count_tokens(texts) == expected
    assert uncached.count_tokens(texts[::-1]) == expected[::-1]
    assert uncached.count_tokens([]) == []


@pytest.mark.parametrize(
    ("text", "tokens", "beginning"),
    [
        ("Hold your breath.", 2, "Hold your"),
        ("Hold your breath.", 4, "Hold your breath."),
        ("Hold your breath.", 1, "Hold"),
        ("  Hold   your breath", 2, "  Hold   your"),
        ("ab", 5, "ab"),
        ("x\ud800 y z", 1, "x"),
        ("\x00\x00\x00", 1, "\x00\x00\x00"),
    ],
)
def test_the_beginning_of_a_text(uncached: TextEncoder, text: str, tokens: int, beginning: str) -> None:
    """A text is cut after so many tokens, as it is written, and left alone if it has no more."""
    assert uncached.beginning(text, tokens=tokens) == beginning


#: Letters of texts that are drawn, some of them without any blank; and controls that only some take for blanks.
LETTERS = {
    "latin": "abcdefghij    .,;-'\n\t",
    "chinese": "病気頭痛薬水分補給。、 ",
    "thai": "กขคงจฉชซญฎะาิีึืุูเแโใไ่้๊๋ ",
    "arabic": "ابتثجحخدذرزسشص\u064b\u064e\u0651  ،؟\u200f",
    "hindi": "कखगघचछजझटठडढ\u093e\u093f\u0941\u094d  ।",
    "combining": "aeiou\u0301\u0308\u0327  ",
    "controls": "abc\x0b\x0c\x1c\x1f\x85\u2028\u200b\xad\ufeff\xa0\u3000 \x00",
    "without a blank": "abcdefghijklmnop0123456789./?&=%_-",
    "one word": "abcdefghijklmnop0123456789",
}


@pytest.fixture(params=["words", "sentencepiece"])
def any_tokenizer(request: pytest.FixtureRequest, tokenizer: Tokenizer) -> Tokenizer:
    """The one of MiniLM, which looks words up, and one of the other kind, whose tokens have blanks in them."""
    if request.param == "words":
        return tokenizer
    signs = sorted({"\u2581", *"".join(LETTERS.values())} - {" "})
    pieces = [("<unk>", 0.0), *((sign, -5.0) for sign in signs), ("\u2581ab", -6.0), ("病気", -6.0), ("กข", -6.0)]
    other = Tokenizer(models.Unigram(pieces, unk_id=0))
    other.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Strip(), normalizers.Replace(Regex(r"\s+"), " ")]
    )
    other.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    return other


@pytest.mark.parametrize("block", [40, 700])
def test_very_long_texts_are_read_block_by_block(
    any_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    """A text has the same passages, windows, tokens and beginning, however much of it is looked at together."""
    dice = random.Random(block)
    texts = [
        LONG,
        LONG.replace(" ", "\n \n"),
        "well-known, 3.5mg/kg e\u0301 👩\u200d⚕️ " * 90,
        f"{' ' * 2_000}end",
        *("".join(dice.choices(letters, k=1_000)) for letters in LETTERS.values()),
    ]

    def read() -> tuple[object, ...]:
        runtime = FakeRuntime()
        encoder = TextEncoder(runtime, any_tokenizer)
        encoder.encode_passages(texts)
        encoder.encode_whole(texts)
        asked = [of.ids for of in any_tokenizer.encode_batch_fast(runtime.asked, add_special_tokens=False)]
        return asked, encoder.count_tokens(texts), [encoder.beginning(text, tokens=50) for text in texts]

    expected = read()
    monkeypatch.setattr(rlhf_loop.encoders.tokenizer, "_BLOCK_CHARS", block)
    assert all("".join(blocks(text)) == text for text in texts)
    assert [len(blocks(text)) > 1 for text in texts] == [True, True, True, False, *[True] * 7, False, False]
    assert read() == expected


def test_a_text_without_any_border_is_read_in_parts(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no blank comes for long it is parted beside signs that stand alone, and where there are none, anywhere."""
    monkeypatch.setattr(rlhf_loop.encoders.tokenizer, "_BLOCK_CHARS", 40)
    monkeypatch.setattr(rlhf_loop.encoders.tokenizer, "_BORDER_WITHIN", 100)
    for text in ("病" * 2_000, "example/" * 250, "one two" + " " * 2_000):
        parts = blocks(text)
        assert "".join(parts) == text
        assert 1 < max(map(len, parts)) <= 140
        whole = tokenizer.encode(text, add_special_tokens=False).ids
        assert [id for part in parts for id in tokenizer.encode(part, add_special_tokens=False).ids] == whole
    assert [*map(len, blocks("x" * 300))] == [140, 140, 20]


# --- Loading ---------------------------------------------------------------------------------------------------------


def test_an_unknown_runtime_is_refused(tmp_path: Path) -> None:
    """A runtime that does not exist is named before anything is loaded."""
    settings = Settings(encoder_runtime="tensorflow", encoder_path=tmp_path / "none", cache_dir=tmp_path)
    with pytest.raises(ConfigError, match=r"RLHF_ENCODER_RUNTIME='tensorflow'.*onnxruntime or sentence-transformers"):
        load_encoder(settings)


def test_the_default_runtime_never_imports_torch(model_folder: Path, encoder_cache: Path, tmp_path: Path) -> None:
    """Encoding works without torch, and leaves it alone where it is installed."""
    for name in ("torch", "transformers", "sentence_transformers"):
        (tmp_path / f"{name}.py").write_text("")  # so that an attempt to import it would succeed, and show
    code = (
        "import sys\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "from pathlib import Path\n"
        "from rlhf_loop.config import Settings\n"
        "from rlhf_loop.encoders import load_encoder\n"
        f"settings = Settings(encoder_path=Path({str(model_folder)!r}), cache_dir=Path({str(encoder_cache)!r}))\n"
        "assert load_encoder(settings).encode(['a text of its own']).shape == (1, 384)\n"
        "print(sorted({'torch', 'transformers', 'sentence_transformers'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_what_is_lent_keeps_nothing_else_alive(encoder: TextEncoder) -> None:
    """Vectors may be a small part of a large array; only they are kept, and nobody can change them."""
    text = "A sentence that nobody else lends."
    (vectors,) = encoder.passages_to_keep([text])
    large = np.concatenate([vectors, np.zeros((1000, 384), dtype=np.float32)])
    kept = weakref.ref(large)
    encoder.lend_passages([text], [large[:1]])
    del large
    assert kept() is None
    (found,) = encoder.only_known().encode_passages([text])
    assert np.array_equal(found, vectors)
    assert not found.flags.writeable
