from __future__ import annotations

import pickle
from copy import deepcopy
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
from pydantic import Field

from rlhf_loop.encoders import TextEncoder
from rlhf_loop.errors import ModelFileError
from rlhf_loop.ranking import Ranker
from rlhf_loop.reward import RewardModel

needs("llama_index.core", "llama-index")

from llama_index.core.instrumentation.event_handlers import BaseEventHandler  # noqa: E402
from llama_index.core.llms import MockLLM  # noqa: E402
from llama_index.core.query_engine import RetrieverQueryEngine  # noqa: E402
from llama_index.core.retrievers import BaseRetriever  # noqa: E402
from llama_index.core.schema import ImageNode, NodeWithScore, QueryBundle, TextNode  # noqa: E402

from rlhf_loop.adapters.llama_index import RlhfReranker, dispatcher  # noqa: E402


def nodes(*texts: str, score: float | None = 0.1) -> list[NodeWithScore]:
    return [NodeWithScore(node=TextNode(text=text, metadata={"title": "A page"}), score=score) for text in texts]


def texts(found: list[NodeWithScore]) -> list[str]:
    return [node.node.get_content() for node in found]


@pytest.mark.parametrize("query", [{"query_str": QUERY}, {"query_bundle": QueryBundle(QUERY)}])
def test_the_best_node_comes_first(ranker: Ranker, query: dict[str, Any]) -> None:
    """Asked with a text or a bundle, nodes come back best first, with scores in [0, 1]."""
    found = RlhfReranker(ranker=ranker).postprocess_nodes(nodes(BAD, GOOD, MIDDLING), **query)
    assert texts(found)[0] == GOOD
    scores = [node.get_score(raise_error=True) for node in found]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)


def test_nodes_stay_as_they_are(ranker: Ranker) -> None:
    """The nodes are the same ones, the scores of those passed in are not touched."""
    given = nodes(BAD, GOOD)
    found = RlhfReranker(ranker=ranker).postprocess_nodes(given, query_str=QUERY)
    assert found[0].node is given[1].node
    assert [node.score for node in given] == [0.1, 0.1]
    assert found[0].metadata == {"title": "A page"}


def test_top_n_and_threshold(ranker: Ranker) -> None:
    """`top_n` keeps the best so many, `score_threshold` what is good enough."""
    best = RlhfReranker(ranker=ranker, top_n=1).postprocess_nodes(nodes(BAD, GOOD), query_str=QUERY)
    assert texts(best) == [GOOD]
    assert len(RlhfReranker(ranker=ranker, top_n=9).postprocess_nodes(nodes(BAD, GOOD), query_str=QUERY)) == 2
    strict = RlhfReranker(ranker=ranker, score_threshold=best[0].score)
    assert texts(strict.postprocess_nodes(nodes(BAD, GOOD), query_str=QUERY)) == [GOOD]


def test_duplicates_and_pictures(ranker: Ranker) -> None:
    """The same text twice stays twice, a picture without text comes last, no nodes give none."""
    picture = NodeWithScore(node=ImageNode(image_url="http://127.0.0.1/burn.png"), score=0.9)
    found = RlhfReranker(ranker=ranker).postprocess_nodes([picture, *nodes(GOOD, BAD, GOOD)], query_str=QUERY)
    assert texts(found) == [GOOD, GOOD, BAD, ""]
    assert found[-1].score == 0
    assert RlhfReranker(ranker=ranker).postprocess_nodes([], query_str=QUERY) == []


def test_without_a_query(ranker: Ranker) -> None:
    """There is nothing to rank for, and the error says so."""
    with pytest.raises(ValueError, match="no query to rank nodes for"):
        RlhfReranker(ranker=ranker).postprocess_nodes(nodes(GOOD))


def test_a_promotion_is_followed(ranker: Ranker, reward_model: RewardModel) -> None:
    """One postprocessor, made once, ranks by whatever is live."""
    reranker = RlhfReranker(ranker=ranker)
    assert texts(reranker.postprocess_nodes(nodes(BAD, GOOD), query_str=QUERY)) == [GOOD, BAD]
    promote_its_opposite(ranker, reward_model)
    assert texts(reranker.postprocess_nodes(nodes(BAD, GOOD), query_str=QUERY)) == [BAD, GOOD]


def test_a_recorded_ranking_can_be_rated(tmp_path: Path) -> None:
    """Each document comes back with the id to rate it by, and those that were given stay as they were."""
    ranker, given = Recording(tmp_path), nodes(BAD, GOOD)
    found = RlhfReranker(ranker=ranker, without_model="incoming").postprocess_nodes(given, query_str=QUERY)
    ranker.check("llama-index", [BAD, GOOD], [each.node.metadata["interaction_id"] for each in found])
    assert given[0].node.metadata == {"title": "A page"}


def test_without_a_model(tmp_path: Path, encoder: TextEncoder) -> None:
    """An error says what to do; "incoming" leaves nodes and scores as they came."""
    ranker = without_model(tmp_path, encoder)
    with pytest.raises(ModelFileError, match="rlhf-loop train"):
        RlhfReranker(ranker=ranker).postprocess_nodes(nodes(BAD, GOOD), query_str=QUERY)
    patient = RlhfReranker(ranker=ranker, without_model="incoming")
    found = patient.postprocess_nodes(nodes(BAD, GOOD, score=0.3), query_str=QUERY)
    assert [(node.node.get_content(), node.score) for node in found] == [(BAD, 0.3), (GOOD, 0.3)]


def test_async_leaves_the_event_loop_alone(tmp_path: Path) -> None:
    """While nodes are ranked, other work of the event loop goes on."""
    ranker = Waiting(tmp_path)
    reranker = RlhfReranker(ranker=ranker)
    found = while_the_loop_goes_on(ranker, lambda: reranker.apostprocess_nodes(nodes(BAD, GOOD), query_str=QUERY))
    assert [node.score for node in found] == [0.5, 0.5]


class Listener(BaseEventHandler):
    """Keeps the names of the events that it hears."""

    heard: list[str] = Field(default_factory=list)

    def handle(self, event: Any, **_: Any) -> None:
        self.heard.append(event.class_name())


def test_tracing_hears_of_it(ranker: Ranker) -> None:
    """What LlamaIndex's observers expect of a reranker is sent: its start with nodes and query, and its end."""
    listener = Listener()
    dispatcher.add_event_handler(listener)
    try:
        RlhfReranker(ranker=ranker).postprocess_nodes(nodes(BAD, GOOD), query_str=QUERY)
    finally:
        dispatcher.event_handlers.remove(listener)
    assert listener.heard == ["ReRankStartEvent", "ReRankEndEvent"]


def test_what_is_written_down(ranker: Ranker) -> None:
    """Its options go to a dict and back; copies share the ranker; nobody sends one to another process by mistake."""
    reranker = RlhfReranker(top_n=2, without_model="incoming")
    again = RlhfReranker.from_dict(reranker.to_dict())
    assert (again.top_n, again.without_model, again.ranker) == (2, "incoming", None)
    assert again.class_name() == "RlhfReranker"
    assert pickle.loads(pickle.dumps(reranker)).top_n == 2
    own = RlhfReranker(ranker=ranker)
    assert "ranker" not in own.to_dict()
    assert deepcopy(own).ranker is ranker
    with pytest.raises(TypeError, match="cannot be sent to another process"):
        pickle.dumps(own)


@pytest.mark.parametrize("options", [{"top_n": 0}, {"score_threshold": 2}, {"without_model": "shrug"}, {"k": 3}])
def test_options_that_make_no_sense(options: dict[str, Any]) -> None:
    """A bad option or a misspelt one is refused when it is made."""
    with pytest.raises(ValueError, match=next(iter(options))):
        RlhfReranker(**options)


class Shelf(BaseRetriever):
    """A retriever that gives what it has, whatever the question."""

    def __init__(self, nodes: list[NodeWithScore]) -> None:
        super().__init__()
        self._nodes = nodes

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return self._nodes


def test_in_a_query_engine(ranker: Ranker) -> None:
    """Between a retriever and a language model, in a query engine."""
    engine = RetrieverQueryEngine.from_args(
        Shelf(nodes(BAD, GOOD)), llm=MockLLM(), node_postprocessors=[RlhfReranker(ranker=ranker, top_n=1)]
    )
    response = engine.query(QUERY)
    assert texts(response.source_nodes) == [GOOD]
    assert GOOD in str(response)
    assert BAD not in str(response)
