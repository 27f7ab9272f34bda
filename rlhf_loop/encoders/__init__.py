"""Text -> vectors: all-MiniLM-L6-v2 in the precision that suits the processor, with a cache on disk."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_loop.config import Settings
from rlhf_loop.encoders.runtime import DIMENSION, MAX_TOKENS, Runtime, Vectors, abilities
from rlhf_loop.encoders.text_encoder import TextEncoder
from rlhf_loop.errors import ConfigError

__all__ = ["DIMENSION", "MAX_TOKENS", "Runtime", "TextEncoder", "Vectors", "choose", "load_encoder"]

#: What can run the encoder, and in which precisions.
RUNTIMES = {"onnxruntime": ("fp32", "int8"), "sentence-transformers": ("fp32",)}
AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Choice:
    """A runtime and its precision, with the reason for the choice."""

    runtime: str
    precision: str
    reason: str


def choose(settings: Settings) -> Choice:
    """Return what the settings name; for `auto`, 8 bits where the processor multiplies them in one step, else 32.

    Raises:
        ConfigError: an unknown runtime, or a precision that it does not have.
    """
    runtime, precision = settings.encoder_runtime, settings.encoder_precision
    if runtime not in RUNTIMES:
        raise ConfigError(f"Unknown RLHF_ENCODER_RUNTIME={runtime!r}. Choose {' or '.join(RUNTIMES)}.")
    possible = RUNTIMES[runtime]
    if precision != AUTO:
        if precision not in possible:
            known = " or ".join((AUTO, *possible))
            raise ConfigError(f"RLHF_ENCODER_PRECISION={precision!r} is not one of {runtime}. Choose {known}.")
        return Choice(runtime, precision, "set by RLHF_ENCODER_PRECISION")
    if "int8" not in possible:
        return Choice(runtime, "fp32", f"the only one of {runtime}")
    if "int8" in abilities():
        return Choice(runtime, "int8", "the processor multiplies 8-bit integers in one step")
    return Choice(runtime, "fp32", "the processor has no 8-bit products (VNNI, dot product), or does not say so")


def load_encoder(settings: Settings, *, download: bool = True) -> TextEncoder:
    """Load the encoder that the settings name; without `download` only from weights that are on this machine.

    Raises:
        ConfigError: an unknown runtime or precision.
        EncoderError: no weights, or not the official ones.
        MissingExtraError: the runtime's package is not installed.
    """
    choice = choose(settings)
    from rlhf_loop.encoders.vector_cache import VectorCache
    from rlhf_loop.encoders.weights import find_model_folder

    folder = find_model_folder(settings.encoder_path, download=download)
    cache = VectorCache(settings.cache_dir / "vectors.db", max_bytes=settings.cache_max_mb * 10**6)
    threads = settings.encoder_threads
    if choice.runtime == "sentence-transformers":
        from rlhf_loop.encoders.torch_runtime import TorchRuntime

        torch = TorchRuntime(folder, threads=threads)
        return TextEncoder(torch, torch.tokenizer, cache)
    from rlhf_loop.encoders.onnx_runtime import OnnxRuntime

    onnx = OnnxRuntime(folder, settings.cache_dir, precision=choice.precision, threads=threads)
    return TextEncoder(onnx, onnx.tokenizer, cache)
