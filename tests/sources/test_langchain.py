from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import pytest
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda
from langchain_core.vectorstores import InMemoryVectorStore
from pydantic import Field

from rlhf_loop.errors import SourceError
from rlhf_loop.sources import LangChainSource


class Shelf(BaseRetriever):
    """A retriever of LangChain that gives what it has, whatever the question."""

    documents: list[Document]
    asked: list[str] = Field(default_factory=list)

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        self.asked.append(query)
        return self.documents


def shelf(*documents: Document) -> LangChainSource:
    return LangChainSource(Shelf(documents=list(documents)), name="shelf")


def test_documents_become_passages() -> None:
    """Text, title, address and licence come over, in the retriever's order, with the time of asking."""
    before = datetime.now(UTC)
    metadata = {"title": "On fever", "source": "https://example.org/fever", "license": "CC BY 4.0", "page": 3}
    source = shelf(Document("Fever is heat.", metadata=metadata), Document("A cold is not."))
    first, second = source.search("fever", limit=5)
    assert (first.text, first.title, first.url) == ("Fever is heat.", "On fever", "https://example.org/fever")
    assert first.licence == "CC BY 4.0"
    assert (second.text, second.title, second.url, second.licence) == ("A cold is not.", None, None, None)
    assert first.retrieved_at is not None
    assert before <= first.retrieved_at <= datetime.now(UTC)
    assert source.name == "shelf"


def test_a_vector_store_of_langchain() -> None:
    """The retriever of a vector store works as it is."""
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
    store.add_texts(["Fever is heat.", "A cold is not."], [{"title": "One"}, {"title": "Two"}])
    source = LangChainSource(store.as_retriever(), name="store")
    assert {passage.title for passage in source.search("fever", limit=5)} == {"One", "Two"}
    assert len(source.search("fever", limit=1)) == 1


def test_the_question_is_passed_on() -> None:
    """The retriever gets the question as it is."""
    retriever = Shelf(documents=[])
    assert LangChainSource(retriever, name="shelf").search('What is "fever"?', limit=5) == []
    assert retriever.asked == ['What is "fever"?']


@pytest.mark.parametrize(
    ("metadata", "url"),
    [
        ({"source": "notes/fever.txt"}, None),
        ({"source": "javascript:alert(1)"}, None),
        ({"source": "notes.txt", "link": "http://example.org/"}, "http://example.org/"),
        ({"url": 7, "source": ["https://example.org/"]}, None),
    ],
)
def test_only_addresses_of_the_web_become_links(metadata: dict[str, Any], url: str | None) -> None:
    """A file's path or a script is no address."""
    (passage,) = shelf(Document("Fever", metadata=metadata)).search("fever", limit=5)
    assert passage.url == url


def test_odd_documents() -> None:
    """Control characters go, titles that are none stay away, documents without text are left out."""
    documents = [Document("\x00\n"), Document("Fe\x00ver", metadata={"title": "A\nB", "licence": 7}), Document("")]
    (passage,) = shelf(*documents).search("fever", limit=5)
    assert (passage.text, passage.title, passage.licence) == ("Fever", "A B", None)


@pytest.mark.parametrize("given", ["a text", None, 7, {"page_content": "x"}, ["a text"], [Document("x"), None]])
def test_what_is_no_document(given: object) -> None:
    """Another part of LangChain than a retriever is noticed."""
    source = LangChainSource(RunnableLambda(lambda _: given), name="chain")
    with pytest.raises(SourceError, match=r"'chain' returned .* as_retriever\(\)"):
        source.search("fever", limit=5)


def test_its_own_errors_pass_through() -> None:
    """What a retriever raises is what the caller sees."""

    def fail(_: str) -> list[Document]:
        raise ConnectionError("no database")

    with pytest.raises(ConnectionError, match="no database"):
        LangChainSource(RunnableLambda(fail), name="chain").search("fever", limit=5)


def test_langchain_is_not_imported() -> None:
    """The adapter works without the package: it only needs what a retriever has."""
    source = "rlhf_loop.sources.langchain_retriever"
    code = f"import sys, {source}; sys.exit(any('langchain_core' in name for name in sys.modules))"
    subprocess.run([sys.executable, "-c", code], check=True)
