from __future__ import annotations

import importlib
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from adapter_models import BAD, GOOD, MIDDLING, QUERY, Recording, promote_its_opposite, without_model

from rlhf_loop import ranking
from rlhf_loop.adapters.ranked import RankedText, ranked
from rlhf_loop.config import Settings
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.errors import MissingExtraError, ModelFileError
from rlhf_loop.ranking import Ranker
from rlhf_loop.reward import RewardModel


def places(kept: list[RankedText]) -> list[int]:
    return [each.index for each in kept]


def test_the_best_text_comes_first(ranker: Ranker) -> None:
    """Texts are named by their places, with scores; equal ones keep their order, none is lost."""
    kept = ranked(QUERY, [BAD, GOOD, MIDDLING, GOOD], ranker=ranker)
    assert places(kept)[:2] == [1, 3]
    assert sorted(places(kept)) == [0, 1, 2, 3]
    assert kept[0].score == kept[1].score
    assert [each.score for each in kept] == sorted((each.score or 0 for each in kept), reverse=True)


def test_what_has_no_text_comes_last(ranker: Ranker) -> None:
    """Pictures and blank texts have the score 0, in their order behind the others."""
    kept = ranked(QUERY, [None, BAD, " \n", GOOD, ""], ranker=ranker)
    assert places(kept) == [3, 1, 0, 2, 4]
    assert [each.score for each in kept[2:]] == [0, 0, 0]
    assert places(ranked(QUERY, [None, ""], ranker=ranker)) == [0, 1]


@pytest.mark.parametrize(("top", "count"), [(None, 3), (1, 1), (3, 3), (100, 3)])
def test_how_many_are_kept(ranker: Ranker, top: int | None, count: int) -> None:
    """The best so many; None and more than there are keep all."""
    assert len(ranked(QUERY, [BAD, GOOD, MIDDLING], ranker=ranker, top=top)) == count


def test_a_threshold(ranker: Ranker) -> None:
    """What has less than the threshold is left out, and what has just as much stays."""
    best, second, *_ = ranked(QUERY, [BAD, GOOD, MIDDLING], ranker=ranker)
    assert second.score is not None
    assert ranked(QUERY, [BAD, GOOD, MIDDLING], ranker=ranker, threshold=second.score) == [best, second]
    assert ranked(QUERY, [BAD, GOOD, MIDDLING], ranker=ranker, threshold=1.0) == []
    assert len(ranked(QUERY, [BAD, ""], ranker=ranker, threshold=0.0)) == 2


@pytest.mark.parametrize(("options", "returned"), [({}, 3), ({"top": 2}, 2), ({"threshold": 1.0}, 0)])
def test_how_many_were_handed_on_is_recorded(
    ranker: Ranker, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], returned: int
) -> None:
    """By the best so many and by the threshold; `rerank_candidates` hands on all."""
    said = list[Any]()
    monkeypatch.setattr(ranker, "record", lambda *_, **given: said.append(given["returned"]))
    ranked(QUERY, [BAD, GOOD, MIDDLING], ranker=ranker, door="x", **options)
    ranking.rerank_candidates(QUERY, [BAD, GOOD], ranker=ranker)
    assert said == [returned, 2]


def test_what_is_recorded_and_what_is_not(tmp_path: Path) -> None:
    """rerank_candidates records as a door of its own; no texts, no door and no share are no record."""
    ranker = Recording(tmp_path)
    found = ranking.rerank_candidates(QUERY, [BAD, {"text": GOOD, "page": 3}, "lone \ud800"], ranker=ranker)
    ranker.check("rerank_candidates", [BAD, GOOD], [each.get("interaction_id") for each in found[:2]])
    assert (found[1]["page"], "interaction_id" in found[2]) == (3, False)
    ranked(QUERY, [BAD], ranker=ranker, without_model="incoming")
    ranked(QUERY, [], ranker=ranker, without_model="incoming", door="x")
    ranked(QUERY, ["", None], ranker=ranker, without_model="incoming", door="x")
    assert len(ranker.kept) == 1
    assert ranking.is_drawn(0.0) is False
    for share in (-0.1, 1.5, True, "1"):
        with pytest.raises(ValueError, match="is not a valid share"):
            Ranker(Settings(), record=share)  # type: ignore[arg-type]


def test_a_promotion_is_followed(ranker: Ranker, reward_model: RewardModel) -> None:
    """The model that is live at the moment ranks, not the one from before."""
    assert places(ranked(QUERY, [BAD, GOOD], ranker=ranker)) == [1, 0]
    promote_its_opposite(ranker, reward_model)
    assert places(ranked(QUERY, [BAD, GOOD], ranker=ranker)) == [0, 1]


def test_without_a_model(tmp_path: Path, encoder: TextEncoder) -> None:
    """There is an error that names the file and the way out; or, if wanted, the incoming order without scores."""
    ranker = without_model(tmp_path, encoder)
    with pytest.raises(ModelFileError, match=r"no reward model at .*reward_model\.joblib .*without_model='incoming'"):
        ranked(QUERY, [BAD, GOOD], ranker=ranker)
    kept = ranked(QUERY, [BAD, None, GOOD], ranker=ranker, without_model="incoming", threshold=0.9)
    assert kept == [RankedText(0, None), RankedText(1, None), RankedText(2, None)]
    assert places(ranked(QUERY, [BAD, GOOD], ranker=ranker, without_model="incoming", top=1)) == [0]


def test_a_model_that_cannot_be_used(ranker: Ranker) -> None:
    """The error says what is wrong with which file; the incoming order is there, too, if wanted."""
    ranker.model_path.write_bytes(b"no model")
    with pytest.raises(ModelFileError, match=r"reward_model\.joblib") as caught:
        ranked(QUERY, [BAD, GOOD], ranker=ranker)
    assert "no reward model at" not in str(caught.value)
    assert places(ranked(QUERY, [BAD, GOOD], ranker=ranker, without_model="incoming")) == [0, 1]


def test_nothing_to_rank(tmp_path: Path, encoder: TextEncoder) -> None:
    """No texts give none, whatever the query and whether or not there is a model."""
    assert ranked("", [], ranker=without_model(tmp_path, encoder)) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top": 0}, "The best 0 of the documents cannot be kept"),
        ({"threshold": 1.5}, "threshold=1.5 is not valid"),
        ({"threshold": float("nan")}, "threshold=nan is not valid"),
        ({"without_model": "ignore"}, "without_model='ignore' is not known. Choose from: error, incoming"),
        ({"query": " "}, "query must be a text that is not empty, but it is ' '"),
        ({"query": None}, "query must be a text that is not empty, but it is None"),
    ],
)
def test_what_is_refused(ranker: Ranker, options: dict[str, Any], message: str) -> None:
    """Options that make no sense are refused, with the value seen."""
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        ranked(options.pop("query", QUERY), [GOOD], ranker=ranker, **options)


def test_the_ranker_of_the_process(ranker: Ranker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who gives no ranker gets the one that the environment describes."""
    monkeypatch.setattr(ranking, "_default", ranker)
    assert places(ranked(QUERY, [BAD, GOOD])) == [1, 0]


def test_a_copy_of_a_ranker_is_itself(tmp_path: Path) -> None:
    """Frameworks copy their components deeply; that must not load an encoder twice."""
    ranker = Ranker(Settings(model_path=tmp_path / "model.joblib"))
    assert deepcopy({"of": ranker})["of"] is ranker


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        ("langchain", "langchain_core", "langchain"),
        ("llama_index", "llama_index", "llama-index"),
        ("haystack", "haystack", "haystack"),
        ("rerankers", "rerankers", "rerankers"),
    ],
)
def test_the_extra_is_named(module: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever imports an adapter without its framework reads which extra brings it."""
    for name in list(sys.modules):
        if name.partition(".")[0] == package or name == f"rlhf_loop.adapters.{module}":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [_Absent(package), *sys.meta_path])
    with pytest.raises(MissingExtraError, match=rf"'{package}' is not installed.*'rlhf-loop\[{extra}\]'"):
        importlib.import_module(f"rlhf_loop.adapters.{module}")


class _Absent:
    """As if a package were not installed."""

    def __init__(self, package: str) -> None:
        self._package = package

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] == self._package:
            raise ModuleNotFoundError(f"No module named {self._package!r}", name=self._package)
