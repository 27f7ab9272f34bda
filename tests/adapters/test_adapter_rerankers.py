from __future__ import annotations

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

needs("rerankers", "rerankers")

from rerankers.documents import Document  # noqa: E402
from rerankers.models.ranker import BaseRanker  # noqa: E402
from rerankers.results import RankedResults, Result  # noqa: E402

from rlhf_loop.adapters.rerankers import RlhfReranker  # noqa: E402


def texts(found: RankedResults) -> list[str]:
    return [result.text for result in found]


def test_the_best_document_comes_first(ranker: Ranker) -> None:
    """`rank` gives results of the package's own types, best first, with ranks from 1 and scores in [0, 1]."""
    reranker: BaseRanker = RlhfReranker(ranker=ranker)
    found = reranker.rank(query=QUERY, docs=[BAD, GOOD, MIDDLING])
    assert isinstance(found, RankedResults)
    assert isinstance(found[0], Result)
    assert (found.query, found.has_scores, found.results_count()) == (QUERY, True, 3)
    assert (found[0].text, found[0].doc_id, found[0].rank) == (GOOD, 1, 1)
    assert [result.rank for result in found] == [1, 2, 3]
    assert found.top_k(1)[0].text == GOOD
    assert 0 <= found.get_score_by_docid(0) <= found.get_score_by_docid(1) <= 1


def test_ids_and_metadata(ranker: Ranker) -> None:
    """They come back with their documents."""
    notes = [{"url": "http://127.0.0.1/a"}, {"url": "http://127.0.0.1/b"}]
    found = RlhfReranker(ranker=ranker).rank(QUERY, [BAD, GOOD], doc_ids=["bad", "good"], metadata=notes)
    assert [result.doc_id for result in found] == ["good", "bad"]
    assert found[0].url == "http://127.0.0.1/b"
    (only,) = RlhfReranker(ranker=ranker).rank(QUERY, GOOD, "one", {"page": 3})
    assert (only.doc_id, only.metadata) == ("one", {"page": 3})


def test_documents_stay_as_they_are(ranker: Ranker) -> None:
    """Documents keep their ids unless others are given, and are not written into."""
    given = [Document(BAD, doc_id="a", metadata={"page": 1}), Document(GOOD)]
    found = RlhfReranker(ranker=ranker).rank(QUERY, given)
    assert [(result.text, result.doc_id, result.metadata) for result in found] == [
        (GOOD, 1, {}),
        (BAD, "a", {"page": 1}),
    ]
    named = RlhfReranker(ranker=ranker).rank(QUERY, given, doc_ids=[7, 8], metadata=[{"page": 2}, {}])
    assert [(result.doc_id, result.metadata) for result in named] == [(8, {}), (7, {"page": 2})]
    assert [(document.doc_id, document.metadata) for document in given] == [("a", {"page": 1}), (None, {})]


def test_duplicates_pictures_and_nothing(ranker: Ranker) -> None:
    """The same text twice stays twice, a picture comes last, no documents give none."""
    picture = Document(document_type="image", image_path="burn.png", doc_id="picture")
    found = RlhfReranker(ranker=ranker).rank(QUERY, [picture, GOOD, BAD, GOOD])
    assert [result.doc_id for result in found] == [1, 3, 2, "picture"]
    assert (found[-1].score, found[-1].image_path) == (0, "burn.png")
    nothing = RlhfReranker(ranker=ranker).rank(QUERY, [])
    assert (nothing.results, nothing.top_k(3)) == ([], [])


def test_a_promotion_is_followed(ranker: Ranker, reward_model: RewardModel) -> None:
    """One ranker, made once, ranks by whatever is live."""
    reranker = RlhfReranker(ranker=ranker)
    assert texts(reranker.rank(QUERY, [BAD, GOOD])) == [GOOD, BAD]
    promote_its_opposite(ranker, reward_model)
    assert texts(reranker.rank(QUERY, [BAD, GOOD])) == [BAD, GOOD]


def test_a_recorded_ranking_can_be_rated(tmp_path: Path) -> None:
    """Each document comes back with the id to rate it by, and those that were given stay as they were."""
    ranker, given = Recording(tmp_path), [Document(BAD), Document(GOOD)]
    found = RlhfReranker(ranker=ranker, without_model="incoming").rank(QUERY, given)
    ranker.check("rerankers", [BAD, GOOD], [each.document.metadata["interaction_id"] for each in found])
    assert not given[0].metadata


def test_without_a_model(tmp_path: Path, encoder: TextEncoder) -> None:
    """An error says what to do; "incoming" gives ranks without scores, and there is no score of a single text."""
    ranker = without_model(tmp_path, encoder)
    with pytest.raises(ModelFileError, match="rlhf-loop train"):
        RlhfReranker(ranker=ranker).rank(QUERY, [BAD, GOOD])
    patient = RlhfReranker(ranker=ranker, without_model="incoming")
    found = patient.rank(QUERY, [BAD, GOOD])
    assert [(result.text, result.rank, result.score) for result in found.top_k(5)] == [(BAD, 1, None), (GOOD, 2, None)]
    assert not found.has_scores
    with pytest.raises(ModelFileError, match="rlhf-loop train"):
        patient.score(QUERY, GOOD)


def test_the_score_of_one_text(ranker: Ranker) -> None:
    """`score` tells a good answer from a bad one."""
    reranker = RlhfReranker(ranker=ranker)
    assert 0 <= reranker.score(QUERY, BAD) < reranker.score(QUERY, GOOD) <= 1


def test_async_leaves_the_event_loop_alone(tmp_path: Path) -> None:
    """While documents are ranked, other work of the event loop goes on; ids and metadata come along."""
    ranker = Waiting(tmp_path)
    reranker = RlhfReranker(ranker=ranker)
    found = while_the_loop_goes_on(ranker, lambda: reranker.rank_async(QUERY, [BAD], ["a"], [{"page": 1}]))
    assert [(result.doc_id, result.metadata, result.score) for result in found] == [("a", {"page": 1}, 0.5)]


@pytest.mark.parametrize("options", [{"doc_ids": [1]}, {"metadata": [{}, {}, {}]}, {"doc_ids": 1}])
def test_not_one_for_each(ranker: Ranker, options: dict[str, Any]) -> None:
    """Ids or metadata that do not fit the documents are refused with both numbers."""
    with pytest.raises(ValueError, match=r"There are 2 documents and [13] "):
        RlhfReranker(ranker=ranker).rank(QUERY, [BAD, GOOD], **options)


def test_options_that_make_no_sense() -> None:
    """A bad option is refused when the ranker is made."""
    with pytest.raises(ValueError, match="without_model='shrug' is not known"):
        RlhfReranker(without_model="shrug")
