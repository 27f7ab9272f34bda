"""What is installed on this machine, and what the encoder runs on."""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from rlhf_loop.cli.doctor.finding import Finding, fault
from rlhf_loop.config import Settings
from rlhf_loop.encoders import choose
from rlhf_loop.encoders.runtime import abilities, cores, name
from rlhf_loop.version import __version__

#: What each extra brings, by the name of its package and that of the module.
EXTRAS = {
    "postgres": (("psycopg", "psycopg"), ("pgvector", "pgvector")),
    "llm": (("openai", "openai"),),
    "langchain": (("langchain-core", "langchain_core"),),
    "llama-index": (("llama-index-core", "llama_index"),),
    "haystack": (("haystack-ai", "haystack"),),
    "rerankers": (("rerankers", "rerankers"),),
    "otel": (
        ("opentelemetry-sdk", "opentelemetry.sdk"),
        ("opentelemetry-exporter-otlp-proto-http", "opentelemetry.exporter.otlp.proto.http"),
    ),
    "torch": (("sentence-transformers", "sentence_transformers"), ("torch", "torch")),
}


def software() -> Iterator[Finding]:
    """Tell the versions of what everything else stands on."""
    yield Finding("software", f"rlhf-loop {__version__}, Python {platform.python_version()}, {platform.platform()}")


def extras() -> Iterator[Finding]:
    """Tell which extras are there. One that is not is no fault by itself: a setting may want it, and says so then."""
    for extra, packages in EXTRAS.items():
        if missing(extra):
            yield Finding("extra", f"[{extra}] is not installed; if you want it: {install(extra)}")
        else:
            there = ", ".join(f"{package} {_version(package)}" for package, _ in packages)
            yield Finding("extra", f"[{extra}]: {there}")


def missing(extra: str) -> list[str]:
    """Return those packages of an extra that are not installed."""
    return [package for package, module in EXTRAS[extra] if not _is_there(module)]


def install(extra: str) -> str:
    """Return the command that installs an extra."""
    return f"pip install 'rlhf-loop[{extra}]'"


def processor() -> Iterator[Finding]:
    """Tell what the processor is, and what it can do for the encoder."""
    able = ", ".join(f"{ability} products" for ability in sorted(abilities())) or "no int8 products"
    yield Finding("processor", f"{name()}, {cores()} cores, {able}")


def encoder(settings: Settings) -> Iterator[Finding]:
    """Tell what runs the encoder and why, and whether its weights are there and the official ones."""
    from rlhf_loop.encoders.weights import MODEL_NAME, find_model_folder, verify

    choice = choose(settings)
    threads = settings.encoder_threads or cores()
    yield Finding("encoder", f"{choice.runtime} in {choice.precision}, {threads} threads: {choice.reason}")
    if choice.runtime == "sentence-transformers" and missing("torch"):
        advice = f"Run: {install('torch')}, or unset RLHF_ENCODER_RUNTIME"
        yield fault("encoder", f"{' and '.join(missing('torch'))} not installed", advice)
    folder = find_model_folder(settings.encoder_path, download=False)
    verify(folder)
    yield Finding("encoder", f"the official weights of {MODEL_NAME} are in {folder}")


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        # A package that holds it is missing.
        return False


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "of unknown version"
