from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from adapter_models import (
    BAD,
    GOOD,
    MIDDLING,
    QUERY,
    Recording,
    Waiting,
    needs,
    promote_its_opposite,
    while_the_loop_goes_on,
    without_model,
)

from rlhf_loop.encoders import TextEncoder
from rlhf_loop.errors import ModelFileError
from rlhf_loop.ranking import Ranker
from rlhf_loop.reward import RewardModel

needs("langchain_core", "langchain")

from langchain_core.documents import BaseDocumentCompressor, Document  # noqa: E402
from langchain_core.retrievers import BaseRetriever  # noqa: E402
from langchain_core.runnables import RunnableLambda  # noqa: E402

from rlhf_loop.adapters.langchain import RlhfReranker  # noqa: E402


def documents(*texts: str) -> list[Document]:
    return [Document(text, id=f"d{place}", metadata={"source": f"{place}.txt"}) for place, text in enumerate(texts)]


def texts(found: list[Document]) -> list[str]:
    return [document.page_content for document in found]


def test_the_best_document_comes_first(ranker: Ranker) -> None:
    """Documents come back best first as LangChain expects it, with id, metadata and relevance_score."""
    compressor: BaseDocumentCompressor = RlhfReranker(ranker=ranker)
    found = compressor.compress_documents(documents(BAD, GOOD, MIDDLING), QUERY)
    assert found[0].page_content == GOOD
    assert (found[0].id, found[0].metadata["source"]) == ("d1", "1.txt")
    scores = [document.metadata["relevance_score"] for document in found]
    assert scores == sorted(scores, reverse=True)
    assert all(type(score) is float and 0 <= score <= 1 for score in scores)


def test_documents_stay_as_they_are(ranker: Ranker) -> None:
    """What was passed in is not written into, and an older score is replaced in the copy only."""
    given = [Document(GOOD, metadata={"relevance_score": 7, "tags": ["a"]}), Document(BAD)]
    found = RlhfReranker(ranker=ranker).compress_documents(tuple(given), QUERY)
    assert found[0].metadata["relevance_score"] < 7
    assert [document.metadata for document in given] == [{"relevance_score": 7, "tags": ["a"]}, {}]
    found[0].metadata["mine"] = 1
    assert "mine" not in given[0].metadata


def test_top_n_and_threshold(ranker: Ranker) -> None:
    """`top_n` keeps the best so many, `score_threshold` what is good enough, both together the fewer."""
    best = RlhfReranker(ranker=ranker, top_n=1).compress_documents(documents(BAD, GOOD), QUERY)
    assert texts(best) == [GOOD]
    assert len(RlhfReranker(ranker=ranker, top_n=9).compress_documents(documents(BAD, GOOD), QUERY)) == 2
    threshold = best[0].metadata["relevance_score"]
    strict = RlhfReranker(ranker=ranker, score_threshold=threshold, top_n=2)
    assert texts(strict.compress_documents(documents(BAD, GOOD), QUERY)) == [GOOD]


def test_duplicates_and_empty_documents(ranker: Ranker) -> None:
    """The same text twice stays twice, a document without text comes last, no documents give none."""
    found = RlhfReranker(ranker=ranker).compress_documents(documents("", GOOD, BAD, GOOD), QUERY)
    assert [document.id for document in found] == ["d1", "d3", "d2", "d0"]
    assert found[-1].metadata["relevance_score"] == 0
    assert RlhfReranker(ranker=ranker).compress_documents([], "") == []


def test_a_promotion_is_followed(ranker: Ranker, reward_model: RewardModel) -> None:
    """One compressor, made once, ranks by whatever is live."""
    compressor = RlhfReranker(ranker=ranker)
    assert texts(compressor.compress_documents(documents(BAD, GOOD), QUERY)) == [GOOD, BAD]
    promote_its_opposite(ranker, reward_model)
    assert texts(compressor.compress_documents(documents(BAD, GOOD), QUERY)) == [BAD, GOOD]


def test_a_recorded_ranking_can_be_rated(tmp_path: Path) -> None:
    """Each document comes back with the id to rate it by, and those that were given stay as they were."""
    ranker, given = Recording(tmp_path), documents(BAD, GOOD)
    found = RlhfReranker(ranker=ranker, without_model="incoming").compress_documents(given, QUERY)
    ranker.check("langchain", [BAD, GOOD], [each.metadata["interaction_id"] for each in found])
    assert "interaction_id" not in given[0].metadata


def test_without_a_model(tmp_path: Path, encoder: TextEncoder) -> None:
    """An error says what to do; "incoming" keeps the order, and the score is None."""
    ranker = without_model(tmp_path, encoder)
    with pytest.raises(ModelFileError, match="rlhf-loop train"):
        RlhfReranker(ranker=ranker).compress_documents(documents(BAD, GOOD), QUERY)
    found = RlhfReranker(ranker=ranker, without_model="incoming").compress_documents(documents(BAD, GOOD), QUERY)
    assert texts(found) == [BAD, GOOD]
    assert [document.metadata["relevance_score"] for document in found] == [None, None]


def test_async_leaves_the_event_loop_alone(tmp_path: Path) -> None:
    """While documents are ranked, other work of the event loop goes on."""
    ranker = Waiting(tmp_path)
    compressor = RlhfReranker(ranker=ranker)
    found = while_the_loop_goes_on(ranker, lambda: compressor.acompress_documents(documents(BAD, GOOD), QUERY))
    assert [document.metadata["relevance_score"] for document in found] == [0.5, 0.5]


@pytest.mark.parametrize("options", [{"top_n": 0}, {"score_threshold": 2}, {"without_model": "shrug"}, {"k": 3}])
def test_options_that_make_no_sense(options: dict[str, Any]) -> None:
    """A bad option or a misspelt one is refused when the compressor is made."""
    with pytest.raises(ValueError, match=next(iter(options))):
        RlhfReranker(**options)


def test_copies_and_what_is_written_down(ranker: Ranker) -> None:
    """Copies share the ranker, and what LangChain serialises has none."""
    compressor = RlhfReranker(ranker=ranker, top_n=2)
    assert compressor.model_copy(deep=True).ranker is ranker
    assert compressor.model_dump(mode="json") == {"top_n": 2, "score_threshold": None, "without_model": "error"}
    assert "ranker=" not in repr(compressor)


class Shelf(BaseRetriever):
    """A retriever that gives what it has, whatever the question."""

    documents: list[Document]

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        return self.documents


def test_in_a_chain(ranker: Ranker) -> None:
    """Behind a retriever, in a chain of runnables."""
    retriever, compressor = Shelf(documents=documents(BAD, GOOD)), RlhfReranker(ranker=ranker, top_n=1)
    chain = RunnableLambda(lambda question: compressor.compress_documents(retriever.invoke(question), question))
    assert texts(chain.invoke(QUERY)) == [GOOD]


@pytest.mark.skipif(
    importlib.util.find_spec("langchain_classic") is None,
    reason="langchain-classic is not installed; make adapters brings it",
)
def test_in_the_contextual_compression_retriever(ranker: Ranker) -> None:
    """LangChain's own retriever for compressors takes it."""
    from langchain_classic.retrievers import ContextualCompressionRetriever

    retriever = ContextualCompressionRetriever(
        base_retriever=Shelf(documents=documents(BAD, GOOD)), base_compressor=RlhfReranker(ranker=ranker, top_n=1)
    )
    assert texts(retriever.invoke(QUERY)) == [GOOD]
