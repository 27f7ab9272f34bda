from __future__ import annotations

import asyncio
import os
from copy import deepcopy
from inspect import signature
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

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"  # read when it is imported; else it writes into the home folder
needs("haystack", "haystack")

from haystack import Document, Pipeline, component  # noqa: E402
from haystack.dataclasses import ByteStream  # noqa: E402

from rlhf_loop.adapters.haystack import RlhfReranker  # noqa: E402

#: Haystack 3 only loads components of modules that are named.
ASKS_WHOM_TO_TRUST = "allowed_modules" in signature(Pipeline.loads).parameters


def documents(*texts: str) -> list[Document]:
    return [Document(id=f"d{place}", content=text, meta={"title": "A page"}) for place, text in enumerate(texts)]


def texts(found: dict[str, list[Document]]) -> list[str | None]:
    return [document.content for document in found["documents"]]


def test_the_best_document_comes_first(ranker: Ranker) -> None:
    """`run` gives documents best first, with their scores, ids and meta."""
    found = RlhfReranker(ranker=ranker).run(QUERY, documents(BAD, GOOD, MIDDLING))
    assert texts(found)[0] == GOOD
    best = found["documents"][0]
    assert (best.id, best.meta) == ("d1", {"title": "A page"})
    scores = [document.score for document in found["documents"]]
    assert all(score is not None and 0 <= score <= 1 for score in scores)
    assert scores == sorted((score or 0 for score in scores), reverse=True)


def test_documents_stay_as_they_are(ranker: Ranker) -> None:
    """The scores of the documents passed in are not touched: other components may have them, too."""
    given = documents(BAD, GOOD)
    RlhfReranker(ranker=ranker).run(QUERY, given)
    assert [document.score for document in given] == [None, None]
    assert [document.content for document in given] == [BAD, GOOD]


def test_top_k_and_threshold(ranker: Ranker) -> None:
    """Those of the call go before those of the component; more than there are keep all."""
    reranker = RlhfReranker(ranker=ranker, top_k=1)
    best = reranker.run(QUERY, documents(BAD, GOOD, MIDDLING))
    assert texts(best) == [GOOD]
    assert len(texts(reranker.run(QUERY, documents(BAD, GOOD, MIDDLING), top_k=2))) == 2
    assert len(texts(reranker.run(QUERY, documents(BAD, GOOD, MIDDLING), top_k=50))) == 3
    threshold = best["documents"][0].score
    assert texts(reranker.run(QUERY, documents(BAD, GOOD), top_k=5, score_threshold=threshold)) == [GOOD]
    with pytest.raises(ValueError, match="The best 0 of the documents"):
        reranker.run(QUERY, documents(GOOD), top_k=0)


def test_a_document_counts_once(ranker: Ranker) -> None:
    """Of those with the same id the one with the higher score stays; other ids may have the same text."""
    same = [
        Document(id="x", content=BAD),
        Document(id="x", content=GOOD, score=0.7),
        Document(id="x", content=MIDDLING, score=0.2),
        Document(id="y", content=GOOD),
    ]
    found = RlhfReranker(ranker=ranker).run(QUERY, same)
    assert [(document.id, document.content) for document in found["documents"]] == [("x", GOOD), ("y", GOOD)]


def test_pictures_and_nothing(ranker: Ranker) -> None:
    """A document without text has the score 0 and comes last; no documents give none."""
    picture = Document(blob=ByteStream(b"PNG", mime_type="image/png"), score=0.9)
    found = RlhfReranker(ranker=ranker).run(QUERY, [picture, *documents(BAD, "", GOOD)])
    assert texts(found) == [GOOD, BAD, None, ""]
    assert found["documents"][2].score == 0
    assert found["documents"][2].blob == picture.blob
    assert RlhfReranker(ranker=ranker).run(QUERY, []) == {"documents": []}


def test_a_promotion_is_followed(ranker: Ranker, reward_model: RewardModel) -> None:
    """One component, warmed up once, ranks by whatever is live."""
    reranker = RlhfReranker(ranker=ranker)
    reranker.warm_up()
    assert texts(reranker.run(QUERY, documents(BAD, GOOD))) == [GOOD, BAD]
    promote_its_opposite(ranker, reward_model)
    assert texts(reranker.run(QUERY, documents(BAD, GOOD))) == [BAD, GOOD]


def test_a_recorded_ranking_can_be_rated(tmp_path: Path) -> None:
    """Each document comes back with the id to rate it by, and those that were given stay as they were."""
    ranker, given = Recording(tmp_path), documents(BAD, GOOD)
    found = RlhfReranker(ranker=ranker, without_model="incoming").run(QUERY, given)["documents"]
    ranker.check("haystack", [BAD, GOOD], [each.meta["interaction_id"] for each in found])
    assert (found[0].id, given[0].meta) == ("d0", {"title": "A page"})


def test_without_a_model(tmp_path: Path, encoder: TextEncoder) -> None:
    """To warm up does no harm; then an error says what to do, or "incoming" leaves documents as they came."""
    ranker = without_model(tmp_path, encoder)
    reranker = RlhfReranker(ranker=ranker)
    reranker.warm_up()
    with pytest.raises(ModelFileError, match="rlhf-loop train"):
        reranker.run(QUERY, documents(BAD, GOOD))
    given = [Document(content=BAD, score=0.3), Document(content=GOOD, score=0.2)]
    assert RlhfReranker(ranker=ranker, without_model="incoming").run(QUERY, given) == {"documents": given}


def test_warming_up_with_a_damaged_model(tmp_path: Path, encoder: TextEncoder) -> None:
    """It is found out before the first question, unless the incoming order will do."""
    ranker = without_model(tmp_path, encoder)
    ranker.model_path.write_bytes(b"no model")
    with pytest.raises(ModelFileError):
        RlhfReranker(ranker=ranker).warm_up()
    RlhfReranker(ranker=ranker, without_model="incoming").warm_up()


def test_async_leaves_the_event_loop_alone(tmp_path: Path) -> None:
    """While documents are ranked, other work of the event loop goes on."""
    ranker = Waiting(tmp_path)
    reranker = RlhfReranker(ranker=ranker)
    found = while_the_loop_goes_on(ranker, lambda: reranker.run_async(QUERY, documents(BAD, GOOD)))
    assert [document.score for document in found["documents"]] == [0.5, 0.5]


@pytest.mark.parametrize("options", [{"top_k": 0}, {"score_threshold": 2}, {"without_model": "shrug"}])
def test_options_that_make_no_sense(options: dict[str, Any]) -> None:
    """A bad option is refused when the component is made."""
    with pytest.raises(ValueError, match=r"Keep at least 1|threshold=2 is not valid|'shrug' is not known"):
        RlhfReranker(**options)


@component
class Shelf:
    """Gives what it has, whatever the question."""

    def __init__(self, *texts: str) -> None:
        self._texts = texts

    @component.output_types(documents=list[Document])
    def run(self, query: str) -> dict[str, list[Document]]:
        return {"documents": documents(*self._texts)}


def pipeline(ranker: Ranker | None) -> Pipeline:
    made = Pipeline()
    made.add_component("shelf", Shelf(BAD, GOOD))
    made.add_component("reranker", RlhfReranker(top_k=1, ranker=ranker))
    made.connect("shelf.documents", "reranker.documents")
    return made


def test_in_a_pipeline(ranker: Ranker) -> None:
    """Behind a retriever, in a pipeline that is run, also asynchronously."""
    asked = {"shelf": {"query": QUERY}, "reranker": {"query": QUERY}}
    assert texts(pipeline(ranker).run(asked)["reranker"]) == [GOOD]
    both = pipeline(ranker)
    if hasattr(both, "run_async"):
        assert texts(asyncio.run(both.run_async(asked))["reranker"]) == [GOOD]


def test_a_pipeline_is_saved_and_loaded(ranker: Ranker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A component goes to YAML and back with its options; one with a ranker of its own says that it cannot."""
    saved = RlhfReranker(top_k=3, score_threshold=0.25, without_model="incoming").to_dict()
    assert saved["type"] == "rlhf_loop.adapters.haystack.RlhfReranker"
    again = RlhfReranker.from_dict(saved)
    assert (again.top_k, again.score_threshold, again.without_model, again.ranker) == (3, 0.25, "incoming", None)
    made = Pipeline()
    made.add_component("reranker", again)
    trusted: dict[str, Any] = {"allowed_modules": ["rlhf_loop.adapters.haystack"]} if ASKS_WHOM_TO_TRUST else {}
    loaded = Pipeline.loads(made.dumps(), **trusted)
    monkeypatch.setattr("rlhf_loop.ranking._default", ranker)
    assert texts(loaded.run({"reranker": {"query": QUERY, "documents": documents(BAD, GOOD)}})["reranker"])[0] == GOOD
    own = RlhfReranker(ranker=ranker)
    with pytest.raises(ValueError, match="cannot be saved in a pipeline"):
        own.to_dict()
    assert deepcopy(own).ranker is ranker
