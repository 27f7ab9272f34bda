"""The vector database: sections of documents, found by vectors and by words; embedded, or inside PostgreSQL."""

from __future__ import annotations

from rlhf_loop.config import Settings
from rlhf_loop.errors import ConfigError
from rlhf_loop.sources.index.lines import IndexLines
from rlhf_loop.sources.index.store import LANGUAGES, Entry, Hit, Mode, Section, SourceCount, StoredEntry, VectorStore
from rlhf_loop.utils.extras import require_installed
from rlhf_loop.utils.languages import language_named

__all__ = [
    "LANGUAGES",
    "Entry",
    "Hit",
    "IndexLines",
    "Mode",
    "Section",
    "SourceCount",
    "StoredEntry",
    "VectorStore",
    "absent_index",
    "open_store",
]


def absent_index(settings: Settings) -> str:
    """Say where an index was looked for that is not there yet, and what to do; an empty text if one is."""
    if settings.database_url.startswith("postgres") or settings.index_path.is_dir():
        return ""
    place = settings.index_path.absolute()
    return f"there is none at {place} yet; rlhf-loop index add makes it, RLHF_INDEX_PATH says where it is"


def open_store(settings: Settings, *, anew: bool = False) -> VectorStore:
    """Return the vector database that the settings name; nothing is opened or created yet.

    With a PostgreSQL URL it is in that database, else in the folder `index_path`. One that is not there needs no
    LanceDB until it is made, which `anew` says is to happen.

    Raises:
        ConfigError: an unknown `index_language`.
        MissingExtraError: a PostgreSQL URL without the extra [postgres], or a folder without [index].
    """
    try:
        language = language_named(settings.index_language or settings.language).name
    except ConfigError as error:
        if not settings.index_language:
            raise
        raise ConfigError(
            f"RLHF_INDEX_LANGUAGE={settings.index_language!r} is not a language that can be indexed. "
            f"Choose one of {', '.join(LANGUAGES)}, or another one, whose words are then taken as they are."
        ) from error
    if settings.database_url.startswith("postgres"):
        from rlhf_loop.sources.index.pgvector_store import PgVectorStore
        from rlhf_loop.store.engine import make_engine

        return PgVectorStore(make_engine(settings.database_url), language=language)
    if anew or not absent_index(settings):
        require_installed("lancedb", "index")
    from rlhf_loop.sources.index.lancedb_store import LanceDbStore

    return LanceDbStore(settings.index_path, language=language)
