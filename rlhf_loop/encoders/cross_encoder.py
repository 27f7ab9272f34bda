"""Cross-encoders: models that read question and passage together, and say how well the one answers the other.

From a folder or the model hub, as transformers lays out a `ForSequenceClassification` with one output: with its
`tokenizer.json`, and the safetensors of a model of BERT's, RoBERTa's, XLM-R's, MPNet's or ModernBERT's kind, or its
`model.onnx`, which is run as it is. What else there is in safetensors, such as a Qwen3 reranker, runs with torch.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from rlhf_loop.encoders.folder import KINDS, EncoderFolder, first_position, from_hub, made_graph, read_folder, read_json
from rlhf_loop.encoders.onnx_runtime import DTYPES, open_graph
from rlhf_loop.encoders.runtime import Shape, Vectors
from rlhf_loop.encoders.tokenizer import by_length, load_tokenizer, padded
from rlhf_loop.encoders.weights import HUB_ID, TOKENIZER_FILE
from rlhf_loop.errors import EncoderError
from rlhf_loop.utils.extras import require

if TYPE_CHECKING:
    from rlhf_loop.encoders.onnx_graph import Head

#: Tokens that are read of a pair, at most and at least; and tokens of a batch, padding included.
_WINDOW, _LEAST_TOKENS, _BATCH_TOKENS = 512, 16, 512
_TYPES = "token_type_ids"
#: The output of a graph that others made; ours has the same.
_LOGITS = "logits"
#: What makes a score of the first token's vector, by the kind of the model.
_TANH, _RELU = "Tanh", "Relu"
_HEADS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "bert": (("pooler.dense", _TANH), ("classifier", "")),
    "distilbert": (("pre_classifier", _RELU), ("classifier", "")),
    "modernbert": (("head.dense", "Gelu"), ("head.norm", ""), ("classifier", "")),
}
_USUAL_HEAD = (("classifier.dense", _TANH), ("classifier.out_proj", ""))
#: The ends of names of classes that score, as config.json has them.
_SCORING = ("ForSequenceClassification", "ForCausalLM")


class CrossEncoder:
    """A runtime whose texts are pairs (see `text_encoder.pair`), each with a vector of one number: its logit."""

    shape = Shape(dimension=1)

    def __init__(self, name: str, score: Callable[[Sequence[tuple[str, str]]], NDArray[np.floating[Any]]]) -> None:
        self.id = f"{name}/fp32"
        self._score = score

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return the logit of each pair, shape (pairs, 1).

        Raises:
            EncoderError: one is not finite.
        """
        logits = np.asarray(self._score([(asked, passage) for asked, passage in map(json.loads, texts)]), np.float32)
        if not np.isfinite(logits).all():
            raise EncoderError(
                f"The cross-encoder {self.id} gives scores that are not finite. Choose another one, or unset "
                "RLHF_CROSS_ENCODER."
            )
        return logits.reshape(-1, 1)


def load_cross_encoder(name: str, cache_dir: Path, *, threads: int = 0, download: bool = True) -> CrossEncoder:
    """Load the cross-encoder in a folder, or of that id on the model hub.

    Raises:
        EncoderError: it is not there, or cannot be used.
        MissingExtraError: it needs sentence-transformers, which are not installed.
    """
    of = find_cross_encoder(name, download=download)
    if of.kind not in KINDS and of.weights.suffix != ".onnx":
        return CrossEncoder(of.name, _by_torch(of, threads))
    try:
        graph = of.weights if of.weights.suffix == ".onnx" else made_graph(of, cache_dir, head=_head(of))
        session = open_graph(graph, threads=threads)
        return CrossEncoder(of.name, _Graph(of, session))
    except EncoderError as error:
        raise _named(error) from error
    except Exception as error:  # the library's own classes have no common one
        raise _unusable(of, f"cannot be run ({type(error).__name__}: {error})"[:300]) from error


def find_cross_encoder(name: str, *, download: bool = False) -> EncoderFolder:
    """Return what the files of a cross-encoder say of it; its name holds the sum of all that makes a score.

    Raises:
        EncoderError: it is not there, or not known here.
    """
    folder = Path(name).expanduser()
    try:
        if not folder.is_dir():
            if not HUB_ID.fullmatch(name):
                raise EncoderError(
                    f"RLHF_ENCODER={name!r} is not a folder that is there. Give the folder of a cross-encoder, or its "
                    "id on the model hub (owner/name)."
                )
            folder = _from_hub(name, download=download)
        of = _read(folder, max((file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()), default=0))
    except EncoderError as error:
        raise _named(error) from error
    if of.kind == "":
        raise _unusable(of, "has no config.json that says of what kind it is")
    tokens = read_json(folder / "tokenizer_config.json").get("model_max_length")
    positions = of.config.get("max_position_embeddings")
    window = min(
        _WINDOW,
        tokens if isinstance(tokens, int | float) and tokens > 0 else _WINDOW,
        int(positions) - first_position(of.config) if positions else _WINDOW,
    )
    if window < _LEAST_TOKENS:
        raise _unusable(of, f"would read {window} tokens of a pair")
    digest = hashlib.sha256(f"{of.name} {window} {_has_types(of)}".encode()).hexdigest()
    # Not the name of the folder of a hub's copy, which is that of a commit.
    named = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(name).expanduser().resolve().name)[:60]
    return replace(of, window=int(window), name=f"{named}-{digest[:12]}")


@lru_cache(maxsize=8)
def _read(folder: Path, changed: int) -> EncoderFolder:
    # Kept, as the sum of large weights takes seconds, and their name is asked for again and again.
    return read_folder(folder, any_kind=True)


def _from_hub(name: str, *, download: bool) -> Path:
    try:
        return from_hub(name, download=False)
    except EncoderError:
        if not download:
            raise
    return from_hub(name, download=True)


def _head(of: EncoderFolder) -> Head:
    from rlhf_loop.encoders.onnx_graph import Head

    return Head(
        _HEADS.get(of.kind, _USUAL_HEAD),
        mean=of.kind == "modernbert" and of.config.get("classifier_pooling") == "mean",
        types=of.kind == "bert" and _has_types(of),
    )


def _has_types(of: EncoderFolder) -> bool:
    """Tell whether the tokenizer gives the types of tokens, as transformers has it."""
    tokenizer = read_json(of.path / "tokenizer_config.json")
    if (names := tokenizer.get("model_input_names")) is not None:
        return _TYPES in names
    # Without a word of it all do, but the class that version 5 brought.
    return tokenizer.get("tokenizer_class") != "TokenizersBackend"


class _Graph:
    """A graph with its tokenizer."""

    def __init__(self, of: EncoderFolder, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self._padding = of.padding
        self._tokenizer: Tokenizer = load_tokenizer(of.path / TOKENIZER_FILE)
        self._tokenizer.enable_truncation(of.window, strategy="longest_first")
        self._inputs = {each.name: DTYPES[each.type] for each in session.get_inputs()}
        outputs = {each.name: each.shape for each in session.get_outputs()}
        self._output = _LOGITS if _LOGITS in outputs else next(iter(outputs))
        wide = outputs[self._output][-1]
        if self._inputs.keys() - {"input_ids", "attention_mask", _TYPES} or (isinstance(wide, int) and wide != 1):
            raise _unusable(
                of,
                f"holds a graph that reads {', '.join(self._inputs)} and gives {self._output} of the shape "
                f"{outputs[self._output]}, where one score a pair is needed",
            )

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        """Return the logit of each pair."""
        encodings = self._tokenizer.encode_batch(list(pairs))
        logits = np.empty(len(pairs), dtype=np.float32)
        for some in by_length([len(of) for of in encodings], most=_BATCH_TOKENS):
            ids, mask = padded([encodings[one].ids for one in some], self._padding)
            types, _ = padded([encodings[one].type_ids for one in some], 0)
            values = {"input_ids": ids, "attention_mask": mask, _TYPES: types}
            feed = {name: values[name].astype(kind, copy=False) for name, kind in self._inputs.items()}
            found = self._session.run([self._output], feed)[0]
            if found.size != len(some):
                raise EncoderError(
                    f"The cross-encoder gives the shape {found.shape} for {len(some)} pairs, where one score a pair is "
                    "needed. Choose another one, or unset RLHF_CROSS_ENCODER."
                )
            logits[some] = found.reshape(-1)
        return logits


def _by_torch(of: EncoderFolder, threads: int) -> Callable[[Sequence[tuple[str, str]]], NDArray[np.float32]]:
    """Return what scores by sentence-transformers."""
    named = str((of.config.get("architectures") or [""])[0])
    if not named.endswith(_SCORING):
        raise _unusable(of, f"holds a model of the class {named or 'that it does not name'}, which scores no pairs")
    library = require("sentence_transformers", "torch")
    torch = require("torch", "torch")
    if named.endswith(_SCORING[1]):
        # Versions without it would read the model as another one, with a head of random numbers.
        require("sentence_transformers.cross_encoder.modules.logit_score", "torch")
    if threads:
        torch.set_num_threads(threads)
    try:
        safe = {"use_safetensors": True}  # nothing that would have to be unpickled
        model = library.CrossEncoder(
            str(of.path), device="cpu", max_length=of.window, model_kwargs=safe, local_files_only=True
        )
    except Exception as error:  # whatever the libraries below raise
        said = f"{type(error).__name__}: {error}"[:200]
        raise _unusable(of, f"cannot be loaded by sentence-transformers ({said})") from error

    def score(pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = model.predict(
            list(pairs), activation_fn=torch.nn.Identity(), convert_to_numpy=True, show_progress_bar=False
        )
        return found

    return score


def _unusable(of: EncoderFolder, what: str) -> EncoderError:
    return EncoderError(
        f"The cross-encoder folder {of.path} {what}. Choose another cross-encoder, or unset RLHF_CROSS_ENCODER."
    )


def _named(error: EncoderError) -> EncoderError:
    """Return what was said of an encoder as said of a cross-encoder: both are read by the same functions."""
    text = str(error).replace("RLHF_ENCODER", "RLHF_CROSS_ENCODER")
    return EncoderError(text.replace("The encoder folder", "The cross-encoder folder"))
