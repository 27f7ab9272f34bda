"""What is installed, what the encoder runs on, whether the database, the model and the caches are in order.

Each finding is one line; one that is not all right says what to do. Nothing is changed: no table, file or folder is
made by looking.
"""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rlhf_loop.config import Settings
from rlhf_loop.encoders import choose
from rlhf_loop.encoders.processor import abilities, cores, name
from rlhf_loop.errors import RlhfLoopError
from rlhf_loop.version import __version__

#: What each extra brings, by the name of its package and that of the module.
EXTRAS = {
    "postgres": (("psycopg", "psycopg"),),
    "torch": (("sentence-transformers", "sentence_transformers"), ("torch", "torch")),
}


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


def _software(settings: Settings) -> Iterator[Finding]:
    yield Finding("software", f"rlhf-loop {__version__}, Python {platform.python_version()}, {platform.platform()}")


def _extras(settings: Settings) -> Iterator[Finding]:
    for extra, packages in EXTRAS.items():
        there = [f"{package} {_version(package)}" for package, module in packages if importlib.util.find_spec(module)]
        if len(there) == len(packages):
            yield Finding("extra", f"[{extra}]: {', '.join(there)}")
        else:
            yield Finding("extra", f"[{extra}] is not installed; if you want it: pip install 'rlhf-loop[{extra}]'")


def _processor(settings: Settings) -> Iterator[Finding]:
    able = ", ".join(f"{ability} products" for ability in sorted(abilities())) or "no int8 products"
    yield Finding("processor", f"{name()}, {cores()} cores, {able}")


def _encoder(settings: Settings) -> Iterator[Finding]:
    from rlhf_loop.encoders.weights import MODEL_NAME, find_model_folder, verify

    choice = choose(settings)
    threads = settings.encoder_threads or cores()
    yield Finding("encoder", f"{choice.runtime} in {choice.precision}, {threads} threads: {choice.reason}")
    folder = find_model_folder(settings.encoder_path)
    verify(folder)
    yield Finding("encoder", f"the official weights of {MODEL_NAME} are in {folder}")


def _cache(settings: Settings) -> Iterator[Finding]:
    from rlhf_loop.encoders.vector_cache import MAX_BYTES

    file = settings.cache_dir / "vectors.db"
    if not file.exists():
        yield Finding("cache", f"{file} is not there yet; the first texts that are embedded make it")
        return
    size, limit = file.stat().st_size / 1e6, MAX_BYTES / 1e6
    yield Finding("cache", f"{file} has {size:,.0f} MB of at most {limit:,.0f}")


def _database(settings: Settings) -> Iterator[Finding]:
    from rlhf_loop.db import HEAD, describe, make_engine, revision

    engine = make_engine(settings.database_url)
    try:
        # To connect would create the file.
        if engine.dialect.name == "sqlite" and not Path(engine.url.database or ".").exists():
            yield Finding("database", f"{describe(engine)} is not there yet", ok=False, advice="Run: rlhf-loop init")
            return
        found = revision(engine)
        if found == HEAD:
            yield Finding("database", f"{describe(engine)} is at revision {found}")
        else:
            state = f"at revision {found}, not {HEAD}" if found else "without our tables"
            yield Finding("database", f"{describe(engine)} is {state}", ok=False, advice="Run: rlhf-loop init")
    finally:
        engine.dispose()


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
