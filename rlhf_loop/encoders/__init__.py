"""Text -> vectors: all-MiniLM-L6-v2 on ONNX Runtime (default) or sentence-transformers, with a cache on disk."""

from __future__ import annotations

from rlhf_loop.config import Settings
from rlhf_loop.encoders.runtime import DIMENSION, MAX_TOKENS, Runtime, Vectors
from rlhf_loop.encoders.text_encoder import TextEncoder
from rlhf_loop.errors import ConfigError

__all__ = ["DIMENSION", "MAX_TOKENS", "Runtime", "TextEncoder", "Vectors", "load_encoder"]

RUNTIMES = ("onnxruntime", "sentence-transformers")


def load_encoder(settings: Settings) -> TextEncoder:
    """Load the encoder that the settings name.

    Raises:
        ConfigError: an unknown runtime.
        EncoderError: no weights, or not the official ones.
        MissingExtraError: the runtime's package is not installed.
    """
    if settings.encoder_runtime not in RUNTIMES:
        raise ConfigError(f"Unknown RLHF_ENCODER_RUNTIME={settings.encoder_runtime!r}. Choose {' or '.join(RUNTIMES)}.")
    from rlhf_loop.encoders.vector_cache import VectorCache
    from rlhf_loop.encoders.weights import find_model_folder

    folder = find_model_folder(settings.encoder_path)
    cache = VectorCache(settings.cache_dir / "vectors.db")
    if settings.encoder_runtime == "onnxruntime":
        from rlhf_loop.encoders.onnx_runtime import OnnxRuntime

        onnx = OnnxRuntime(folder, settings.cache_dir, threads=settings.encoder_threads)
        return TextEncoder(onnx, onnx.tokenizer, cache)
    from rlhf_loop.encoders.torch_runtime import TorchRuntime

    torch = TorchRuntime(folder, threads=settings.encoder_threads)
    return TextEncoder(torch, torch.tokenizer, cache)
