"""What is installed, what the encoder runs on, whether the database, the model and the caches are in order.

Each finding is one line; one that is not all right says what to do. Nothing is changed: no table, file or folder is
made by looking.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_loop.config import Settings
from rlhf_loop.encoders import choose
from rlhf_loop.encoders.processor import abilities, cores, name
from rlhf_loop.errors import RlhfLoopError
from rlhf_loop.version import __version__

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

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


_INIT = "Run: rlhf-loop init"
_SQLITE_HEADER = b"SQLite format 3\0"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `advice` says what to do if it is not all right."""

    topic: str
    text: str
    ok: bool = True
    advice: str = ""


def examine(settings: Settings) -> list[Finding]:
    """Look at everything; what fails becomes a finding, and the next thing is looked at all the same."""
    parts = (_software, _extras, _processor, _encoder, _cache, _database, _model)
    return [finding for part in parts for finding in _found(part, settings)]


def _found(part: Callable[[Settings], Iterator[Finding]], settings: Settings) -> Iterator[Finding]:
    try:
        yield from part(settings)
    except RlhfLoopError as error:
        text, _, advice = str(error).partition(". ")
        yield Finding(part.__name__.strip("_"), text, ok=False, advice=advice)
    except OSError as error:
        text = f"{error.filename} cannot be looked at: {error.strerror}"
        yield Finding(part.__name__.strip("_"), text, ok=False, advice="Check the rights of the folders on the way.")


def _software(settings: Settings) -> Iterator[Finding]:
    yield Finding("software", f"rlhf-loop {__version__}, Python {platform.python_version()}, {platform.platform()}")


def _extras(settings: Settings) -> Iterator[Finding]:
    for extra, packages in EXTRAS.items():
        there = [f"{package} {_version(package)}" for package, module in packages if _is_there(module)]
        if len(there) == len(packages):
            yield Finding("extra", f"[{extra}]: {', '.join(there)}")
        else:
            yield Finding("extra", f"[{extra}] is not installed; if you want it: pip install 'rlhf-loop[{extra}]'")


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        # A package that holds it is missing.
        return False


def _processor(settings: Settings) -> Iterator[Finding]:
    able = ", ".join(f"{ability} products" for ability in sorted(abilities())) or "no int8 products"
    yield Finding("processor", f"{name()}, {cores()} cores, {able}")


def _encoder(settings: Settings) -> Iterator[Finding]:
    from rlhf_loop.encoders.weights import MODEL_NAME, find_model_folder, verify

    choice = choose(settings)
    threads = settings.encoder_threads or cores()
    yield Finding("encoder", f"{choice.runtime} in {choice.precision}, {threads} threads: {choice.reason}")
    if choice.runtime == "sentence-transformers" and not importlib.util.find_spec("sentence_transformers"):
        advice = "Run: pip install 'rlhf-loop[torch]', or unset RLHF_ENCODER_RUNTIME"
        yield Finding("encoder", "sentence-transformers is not installed", ok=False, advice=advice)
    folder = find_model_folder(settings.encoder_path, download=False)
    verify(folder)
    yield Finding("encoder", f"the official weights of {MODEL_NAME} are in {folder}")


def _cache(settings: Settings) -> Iterator[Finding]:
    file, limit = settings.cache_dir / "vectors.db", settings.cache_max_mb
    there = next(folder for folder in (settings.cache_dir, *settings.cache_dir.absolute().parents) if folder.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        advice = "Mend its rights, or set RLHF_CACHE_DIR"
        yield Finding(
            "cache", f"nothing can be kept in {settings.cache_dir}, because of {there}", ok=False, advice=advice
        )
    elif not file.exists():
        yield Finding("cache", f"{file} is not there yet; the first texts that are embedded make it")
    elif not file.is_file() or _beginning(file) not in (b"", _SQLITE_HEADER):
        advice = "Delete it; it is made anew"
        yield Finding("cache", f"{file} is no vector cache", ok=False, advice=advice)
    else:
        yield Finding("cache", f"{file} has {file.stat().st_size / 1e6:,.0f} MB of at most {limit:,}")


def _beginning(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(len(_SQLITE_HEADER))


def _database(settings: Settings) -> Iterator[Finding]:
    from rlhf_loop.db import HEAD, describe, make_engine, revision, sqlite_file

    engine = make_engine(settings.database_url)
    if engine.dialect.name == "sqlite" and (file := sqlite_file(engine.url)):
        if not file.exists():
            yield Finding("database", f"{describe(engine)} is not there yet", ok=False, advice=_INIT)
            return
        engine = _read_only(file)
    elif engine.dialect.name == "sqlite":
        yield Finding("database", f"{describe(engine)} is SQLite's own business: in memory, or named by a URI")
        return
    try:
        found = revision(engine)
    finally:
        engine.dispose()
    shown = describe(make_engine(settings.database_url))
    if found == HEAD:
        yield Finding("database", f"{shown} is at revision {found}")
    elif found is None:
        yield Finding("database", f"{shown} is without our tables", ok=False, advice=_INIT)
    elif found < HEAD:
        yield Finding("database", f"{shown} is at revision {found}, not {HEAD}", ok=False, advice=_INIT)
    else:
        advice = "Install the version of rlhf-loop that upgraded it, or use another database"
        yield Finding("database", f"{shown} is at revision {found}, and {HEAD} is known here", ok=False, advice=advice)


def _read_only(file: Path) -> Engine:
    """Return an engine that leaves the file as it is, byte for byte, and makes none beside it."""
    from sqlalchemy import create_engine

    # Where no writer left a log, the file alone is the database; only then may SQLite be told that it will not change.
    alone = not file.with_name(f"{file.name}-wal").exists()
    uri = f"{file.absolute().as_uri()}?mode=ro{'&immutable=1' if alone else ''}"
    return create_engine("sqlite://", creator=lambda: sqlite3.connect(uri, uri=True))


def _model(settings: Settings) -> Iterator[Finding]:
    from rlhf_loop.encoders.weights import MODEL_NAME
    from rlhf_loop.reward.model_file import load

    path = settings.model_path
    if not path.exists():
        yield Finding("model", f"there is none at {path} yet", ok=False, advice="Run: rlhf-loop train")
        return
    loaded = load(path, encoder=MODEL_NAME)
    trained = loaded.model.card.get("trained_at", "at an unknown time")
    yield Finding("model", f"{loaded.version} at {path}, trained {trained} with {loaded.model.encoder}")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "of unknown version"
