"""The reference runtime: the encoder on sentence-transformers and torch, by the extra [torch]."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rlhf_loop.encoders import weights
from rlhf_loop.encoders.runtime import DIMENSION, MAX_TOKENS, Shape, Vectors
from rlhf_loop.encoders.tokenizer import load_tokenizer
from rlhf_loop.utils.extras import require


class TorchRuntime:
    """all-MiniLM-L6-v2 at fp32, run by sentence-transformers.

    Its vectors are those of `OnnxRuntime` (cosine >= 0.9999), so both share an id, the cache and the model files.

    Raises:
        MissingExtraError: sentence-transformers is not installed.
    """

    id = f"{weights.MODEL_NAME}/fp32"
    shape = Shape()

    def __init__(self, model_folder: Path, *, threads: int = 0) -> None:
        library = require("sentence_transformers", "torch")
        weights.verify(model_folder)
        if threads:
            require("torch", "torch").set_num_threads(threads)
        self.tokenizer = load_tokenizer(model_folder / weights.TOKENIZER_FILE)
        self._model = library.SentenceTransformer(str(model_folder), device="cpu")
        self._model.max_seq_length = MAX_TOKENS

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return one unit vector a text, shape (len(texts), 384), of the first 256 tokens of each."""
        vectors = self._model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
        # Of no texts the library makes an array of shape (0,).
        return np.asarray(vectors, dtype=np.float32).reshape(-1, DIMENSION)
