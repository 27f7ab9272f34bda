"""Any retriever of LangChain as a source.

It needs no more of LangChain than two names, `invoke` and `page_content`, and so does not import it: who has a
retriever has the package. The extra [langchain] brings langchain-core for those who write one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from rlhf_loop.domain import Passage
from rlhf_loop.errors import SourceError
from rlhf_loop.utils.text import clean_text, one_line, web_address

_TITLES = ("title", "Title")
_URLS = ("url", "source", "link", "URL")
_LICENCES = ("licence", "license", "License")


class Retriever(Protocol):
    """The part of `langchain_core.retrievers.BaseRetriever` that is used here."""

    def invoke(self, input: str, /) -> Any:
        """Return a list of documents with `page_content` and `metadata`."""


class LangChainSource:
    """A retriever as a source; titles, addresses and licences come from the usual names in its documents' metadata."""

    def __init__(self, retriever: Retriever, *, name: str) -> None:
        self._retriever = retriever
        self.name = name

    def search(self, query: str, *, limit: int) -> list[Passage]:
        """Return the retriever's documents, in its order.

        Raises:
            SourceError: what it returns are not documents. The retriever's own errors pass through.
        """
        documents = self._retriever.invoke(query)
        if not isinstance(documents, Iterable) or isinstance(documents, str | Mapping):
            raise self._wrong(documents)
        retrieved_at = datetime.now(UTC)
        passages: list[Passage] = []
        for document in documents:
            if len(passages) >= limit:
                break
            content = getattr(document, "page_content", None)
            if not isinstance(content, str):
                raise self._wrong(document)
            if text := clean_text(content):
                passages.append(_passage(text, getattr(document, "metadata", None), retrieved_at))
        return passages

    def _wrong(self, value: object) -> SourceError:
        return SourceError(
            f"The retriever {self.name!r} returned {type(value).__name__} where documents of LangChain were expected. "
            "Give LangChainSource a retriever: a vector store has as_retriever()."
        )


def _passage(text: str, metadata: object, retrieved_at: datetime) -> Passage:
    known: Mapping[Any, Any] = metadata if isinstance(metadata, Mapping) else {}
    urls = (web_address(known.get(key)) for key in _URLS)
    return Passage(
        text=text,
        title=_first(known, _TITLES),
        url=next((url for url in urls if url), None),
        licence=_first(known, _LICENCES),
        retrieved_at=retrieved_at,
    )


def _first(metadata: Mapping[Any, Any], keys: tuple[str, ...]) -> str | None:
    return next((found for key in keys if (found := one_line(metadata.get(key)))), None)
