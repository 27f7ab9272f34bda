"""The protocol of a source of candidates, a name and one method, and the sources that the settings name."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

from rlhf_loop.config import Settings
from rlhf_loop.domain import Passage
from rlhf_loop.errors import ConfigError
from rlhf_loop.sources.langchain_retriever import LangChainSource

if TYPE_CHECKING:
    from rlhf_loop.encoders import TextEncoder
_SETTING = "RLHF_SOURCES"
_KNOWN = ("corrections", "index", "wikipedia", "arxiv")


class Source(Protocol):
    """A finder of passages for a question. Several threads may ask it at once."""

    @property
    def name(self) -> str:
        """Its short name: what answers, settings and reports call it."""

    def search(self, query: str, *, limit: int) -> Sequence[Passage]:
        """Return at most `limit` passages, best first; none if it knows nothing.

        Raises:
            SourceError: it cannot answer now. Any other exception counts as one, too.
        """


def sources_from(settings: Settings, *, encoder: TextEncoder | None) -> list[Source]:
    """Make the sources that `settings.sources` names; `encoder` is the one of the vector database, which "index"
    needs; without it "corrections" finds only what was corrected for the very same question.

    An entry `package.module:name` is a source of one's own: an object with `name` and `search`, a retriever of
    LangChain, or a callable that takes the settings and returns one of these.

    Raises:
        ConfigError: an entry is unknown, is not a source, or two have the same name.
    """
    return checked_sources([_make(entry, settings, encoder) for entry in settings.sources])


def checked_sources(sources: Sequence[Source]) -> list[Source]:
    """Return the sources, if each is one, and each has a name of its own.

    Raises:
        ConfigError: they are not.
    """
    names: list[str] = []
    for source in sources:
        if not _is_source(source):
            raise _not_a_source(f"{type(source).__name__}", source)
        if source.name in names:
            raise ConfigError(f"Two sources have the name {source.name!r}. Take one of them out, or rename it.")
        names.append(source.name)
    return list(sources)


def check_entry(entry: str) -> None:
    """Check that an entry can become a source, as far as that can be told without making one.

    A module of one's own is imported; nothing in it is called.

    Raises:
        ConfigError: the entry is unknown, or what it names is not a source.
    """
    if entry not in _KNOWN:
        found = _named(entry)
        if not (_is_source(found) or _is_retriever(found) or callable(found)):
            raise _not_a_source(entry, found)


def _make(entry: str, settings: Settings, encoder: TextEncoder | None) -> Source:
    if entry == "corrections":
        from rlhf_loop.sources.approved_corrections import CorrectionsSource

        return CorrectionsSource(settings, encoder)
    if entry == "index":
        if encoder is None:
            raise ValueError("The source 'index' needs an encoder, and encoder=None was given. Give one.")
        from rlhf_loop.sources.index import open_store
        from rlhf_loop.sources.index.store import IndexSource

        return IndexSource(open_store(settings), encoder)
    if entry == "wikipedia":
        from rlhf_loop.sources.wikipedia import WikipediaSource

        return WikipediaSource(settings)
    if entry == "arxiv":
        from rlhf_loop.sources.arxiv import ArxivSource

        return ArxivSource(settings)
    return _own(entry, settings)


def _named(entry: str) -> Any:
    """Return what an entry of one's own names, as it is."""
    module, colon, name = entry.partition(":")
    if not colon:
        raise ConfigError(
            f"{_SETTING} names {entry!r}, which is unknown. Known are {', '.join(_KNOWN)}, and package.module:name of "
            "your own."
        )
    try:
        found: Any = importlib.import_module(module)
    except (ModuleNotFoundError, ValueError, TypeError) as error:
        # A module that is there but imports what is not shows its own error.
        if isinstance(error, ModuleNotFoundError) and not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ConfigError(
            f"{_SETTING} names {entry!r}, and there is no module {module!r}. Install it, or correct the name."
        ) from error
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            raise ConfigError(
                f"{_SETTING} names {entry!r}, and module {module!r} has no {name!r}. Correct the name."
            ) from error
    return found


def _own(entry: str, settings: Settings) -> Source:
    found, name = _named(entry), entry.partition(":")[2]
    if isinstance(found, type) or not (_is_source(found) or _is_retriever(found)):
        if not callable(found):
            raise _not_a_source(entry, found)
        found = cast(Callable[[Settings], Any], found)(settings)
    if _is_source(found):
        return cast(Source, found)
    if _is_retriever(found):
        return LangChainSource(found, name=name)
    raise _not_a_source(entry, found)


def _is_source(found: object) -> bool:
    return callable(getattr(found, "search", None)) and isinstance(getattr(found, "name", None), str)


def _is_retriever(found: object) -> bool:
    return callable(getattr(found, "invoke", None))


def _not_a_source(entry: str, found: object) -> ConfigError:
    return ConfigError(
        f"{_SETTING} names {entry!r}, which gives {type(found).__name__} and not a source. "
        "A source has a name and a method search(query, *, limit)."
    )
