"""What is done on a cluster in tests: encoders without weights, in whatever process, and documents for them."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from quick_encoder import QuickRuntime

from rlhf_loop.config import Settings
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.encoders.shared_vectors import open_shared
from rlhf_loop.encoders.tokenizer import load_tokenizer
from rlhf_loop.encoders.vector_cache import VectorCache
from rlhf_loop.encoders.weights import find_model_folder
from rlhf_loop.sources.index import VectorStore

_WHEN = datetime(2026, 1, 1, tzinfo=UTC)


def quick_encoder(settings: Settings) -> TextEncoder:
    """Make an encoder without weights, in whatever process."""
    tokenizer = load_tokenizer(find_model_folder() / "tokenizer.json")
    cache = VectorCache(settings.cache_dir / "vectors.db", shared=open_shared(settings))
    return TextEncoder(QuickRuntime(), tokenizer, cache)


def reaching(url: str, key: str, settings: Settings) -> TextEncoder:
    """Make an encoder as on a machine whose environment has these."""
    return quick_encoder(replace(settings, cache_url=url, secret_key=key))


def everything(store: VectorStore) -> dict[str, tuple[Any, ...]]:
    """All sections with their vectors, but for when they were added."""
    hits = store.search("", QuickRuntime().encode(["it"])[0], limit=5000, mode="vector")
    assert len(hits) == sum(each.sections for each in store.sources())
    return {hit.section.id: (replace(hit.section, added_at=_WHEN), hit.vectors.tolist()) for hit in hits}


def corpus(folder: Path) -> list[Path]:
    """Write a table and files, of which the last ten say what the first ones say."""
    table, files = folder / "table.jsonl", folder / "files"
    texts = [f"Document {n}. " + "It says a little. " * (n % 40) for n in range(300)]
    table.write_text("".join(json.dumps({"text": text, "title": f"Title {n}"}) + "\n" for n, text in enumerate(texts)))
    files.mkdir()
    for n in range(30):
        (files / f"{n:02}.txt").write_text(f"File {n % 20}. " + "It says something. " * (n % 20))
    return [files, table]


def stop_half_way(done: int, total: int) -> None:
    """Stop an indexing, as Ctrl-C does."""
    if done > total / 2:
        raise InterruptedError
