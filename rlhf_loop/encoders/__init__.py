"""Text -> vectors: all-MiniLM-L6-v2 in the precision that suits the processor, or another encoder, with a cache.

`RLHF_ENCODER` names it: all-MiniLM-L6-v2, which reads English; use-multilingual-v3, which reads 16 languages; or a
folder or an id of the model hub with any sentence encoder (`folder.py` says which).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_loop.config import Settings
from rlhf_loop.encoders.runtime import DIMENSION, MAX_TOKENS, Runtime, Shape, Vectors, abilities, with_cross
from rlhf_loop.encoders.text_encoder import TextEncoder
from rlhf_loop.encoders.weights import HUB_ID
from rlhf_loop.errors import ConfigError, EncoderError, MissingExtraError
from rlhf_loop.utils.languages import language_named

if TYPE_CHECKING:
    from rlhf_loop.encoders.onnx_runtime import GraphRuntime

logger = logging.getLogger(__name__)

__all__ = [
    "DIMENSION",
    "ENGLISH_ENCODER",
    "MAX_TOKENS",
    "MULTILINGUAL_ENCODER",
    "Runtime",
    "Shape",
    "TextEncoder",
    "Vectors",
    "choose",
    "cross_encoder_name",
    "full_name",
    "load_encoder",
    "model_name",
    "weights_folder",
]

ENGLISH_ENCODER = "all-MiniLM-L6-v2"
MULTILINGUAL_ENCODER = "use-multilingual-v3"
_HUB = "sentence-transformers/"

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
    if not _english(settings):
        return _choose_other(settings)
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


def load_encoder(settings: Settings, *, download: bool = True, serving: bool = False) -> TextEncoder:
    """Load the encoder that the settings name; without `download` only from weights that are on this machine.

    For `serving`, a cross-encoder that cannot be loaded is left out, and the log says why: models that do not need it
    go on, and others say what they miss.

    Raises:
        ConfigError: an unknown runtime, precision or language, or no URL of a shared cache.
        EncoderError: no weights, or not the official ones, or a folder that holds no encoder known here.
        MissingExtraError: the runtime's package, or that for the shared cache, is not installed.
    """
    choice = choose(settings)
    language = language_named(settings.language)
    from rlhf_loop.encoders.shared_vectors import open_shared
    from rlhf_loop.encoders.vector_cache import VectorCache

    shared = open_shared(settings)
    cross = None
    if settings.cross_encoder:
        # Imported here: most have none.
        from rlhf_loop.encoders.cross_encoder import load_cross_encoder

        try:
            cross = load_cross_encoder(
                settings.cross_encoder, settings.cache_dir, threads=settings.encoder_threads, download=download
            )
        except (EncoderError, MissingExtraError) as error:
            if not serving:
                raise
            logger.error("Only models that need no cross-encoder can rank: %s", error)
    file, limit = settings.cache_dir / "vectors.db", settings.cache_max_mb * 10**6
    cache = VectorCache(file, max_bytes=limit, shared=shared)
    threads = settings.encoder_threads
    folder = weights_folder(settings, download=download)
    if not _english(settings):
        runtime = _other_runtime(settings, folder)
        return TextEncoder(runtime, runtime.tokenizer, cache, language=language, cross=cross)
    if choice.runtime == "sentence-transformers":
        from rlhf_loop.encoders.torch_runtime import TorchRuntime

        torch = TorchRuntime(folder, threads=threads)
        return TextEncoder(torch, torch.tokenizer, cache, language=language, cross=cross)
    from rlhf_loop.encoders.onnx_runtime import OnnxRuntime

    onnx = OnnxRuntime(folder, settings.cache_dir, precision=choice.precision, threads=threads)
    return TextEncoder(onnx, onnx.tokenizer, cache, language=language, cross=cross)


def model_name(settings: Settings) -> str:
    """Return the name of the encoder that the settings name, as it stands in its id; nothing is fetched.

    Raises:
        EncoderError: it is not there.
    """
    if _english(settings):
        return ENGLISH_ENCODER
    if settings.encoder == MULTILINGUAL_ENCODER:
        return MULTILINGUAL_ENCODER
    folder = weights_folder(settings, download=False)
    return _folder_name(folder, max(file.stat().st_mtime_ns for file in folder.iterdir()))


def full_name(settings: Settings) -> str:
    """Return the names of the encoder and, behind a plus, the cross-encoder of the settings; nothing is fetched.

    Raises:
        EncoderError: one of them is not there.
    """
    cross = cross_encoder_name(settings)
    return with_cross(model_name(settings), cross) if cross else model_name(settings)


def cross_encoder_name(settings: Settings) -> str:
    """Return the name of the cross-encoder that the settings name, empty where they name none; nothing is fetched.

    Raises:
        EncoderError: it is not there.
    """
    if not settings.cross_encoder:
        return ""
    from rlhf_loop.encoders.cross_encoder import find_cross_encoder

    return find_cross_encoder(settings.cross_encoder).name


def weights_folder(settings: Settings, *, download: bool = True) -> Path:
    """Return the folder of the encoder that the settings name; without `download` only what is on this machine.

    Raises:
        EncoderError: there is none.
    """
    if _english(settings):
        from rlhf_loop.encoders.weights import find_model_folder

        return find_model_folder(settings.encoder_path, download=download)
    if settings.encoder == MULTILINGUAL_ENCODER:
        from rlhf_loop.encoders.use_multilingual import find_resources

        return find_resources(settings.encoder_path)
    folder = Path(settings.encoder).expanduser()
    if folder.is_dir():
        return folder
    if HUB_ID.fullmatch(settings.encoder):
        from rlhf_loop.encoders.folder import from_hub

        return from_hub(settings.encoder, download=download)
    raise EncoderError(
        f"RLHF_ENCODER={settings.encoder!r} is not a folder that is there. Choose {ENGLISH_ENCODER}, "
        f"{MULTILINGUAL_ENCODER}, the folder of a sentence encoder, or its id on the model hub (owner/name)."
    )


def _english(settings: Settings) -> bool:
    return settings.encoder.removeprefix(_HUB) == ENGLISH_ENCODER


def _choose_other(settings: Settings) -> Choice:
    """Return the only choice that other encoders have."""
    if settings.encoder_runtime != "onnxruntime":
        raise ConfigError(
            f"RLHF_ENCODER_RUNTIME={settings.encoder_runtime!r} runs {ENGLISH_ENCODER} only, and RLHF_ENCODER is "
            f"{settings.encoder!r}. Unset RLHF_ENCODER_RUNTIME."
        )
    if settings.encoder_precision not in (AUTO, "fp32"):
        raise ConfigError(
            f"RLHF_ENCODER_PRECISION={settings.encoder_precision!r} is not one of {settings.encoder}. Choose {AUTO} or "
            "fp32."
        )
    return Choice("onnxruntime", "fp32", f"the only one of {settings.encoder}")


def _other_runtime(settings: Settings, folder: Path) -> GraphRuntime:
    if settings.encoder == MULTILINGUAL_ENCODER:
        from rlhf_loop.encoders import use_multilingual

        return use_multilingual.load_runtime(folder, settings.cache_dir, threads=settings.encoder_threads)
    from rlhf_loop.encoders.folder import load_runtime, read_folder

    return load_runtime(read_folder(folder), settings.cache_dir, threads=settings.encoder_threads)


@lru_cache(maxsize=8)
def _folder_name(folder: Path, changed: int) -> str:
    from rlhf_loop.encoders.folder import read_folder

    return read_folder(folder).name
