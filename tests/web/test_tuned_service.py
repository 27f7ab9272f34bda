"""A service whose model has tuned layers: every place that ranks or tells of the model follows it there and back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from flask.testing import FlaskClient
from sklearn.metrics import roc_auc_score
from sqlalchemy import Engine

from rlhf_loop import registry
from rlhf_loop.adapters.ranked import ranked as ranked_texts
from rlhf_loop.answering.service import AnswerService
from rlhf_loop.cli import main
from rlhf_loop.config import Settings
from rlhf_loop.domain import ModelState, Passage, Question, Rating
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.ranking import Ranker
from rlhf_loop.registry import Version
from rlhf_loop.registry.contest import compare_models
from rlhf_loop.reward import RewardModel
from rlhf_loop.reward.model_file import weights_file
from rlhf_loop.store.interactions import record
from rlhf_loop.web import create_app
from rlhf_loop.web.process import Database
from rlhf_loop.web.server.watch import Watch
from tools.noisy_layers import noisy, with_layers

QUERY = "How do I treat a small burn?"
ANSWERS = ["Cool the burn with water.", "The harbour museum opens at ten.", "Burns are common."]


class Shelf:
    """A source that always finds the same."""

    name = "shelf"

    def search(self, query: str, *, limit: int) -> list[Passage]:
        return [Passage(text=text) for text in ANSWERS]


class House:
    """A service with a registry: what it says, and what its versions say."""

    def __init__(self, engine: Engine, settings: Settings, service: AnswerService, encoder: TextEncoder) -> None:
        self.engine, self.settings, self._encoder = engine, settings, encoder
        self.web: FlaskClient = create_app(settings, service=service).test_client()
        self.watch = Watch(settings, Database(settings))
        self.ranker = Ranker(settings, encoder=encoder)

    def add(self, model: RewardModel) -> Version:
        made = {"judgement": {}, "metrics": {}, "fitted": np.array([], dtype=np.int64)}
        return registry.add(self.engine, self.settings, model, state=ModelState.LIVE, reason="Better.", **made)  # type: ignore[arg-type]

    def expected(self, model: RewardModel) -> dict[str, float]:
        ((*scores,),) = model.score([Question(QUERY, tuple(ANSWERS))], self._encoder)
        return dict(zip(ANSWERS, map(float, scores), strict=True))


@pytest.fixture
def house(sqlite_engine: Engine, tmp_path: Path, quick: TextEncoder) -> Iterator[House]:
    settings = Settings(
        database_url=str(sqlite_engine.url), model_path=tmp_path / "m.joblib", outbox_path=tmp_path / "outbox.db"
    )
    with closing(AnswerService(settings, sources=[Shelf()], encoder=quick)) as service:
        service.warm_up()
        yield House(sqlite_engine, settings, service, quick)


@pytest.fixture
def small(reward_model: RewardModel, quick: TextEncoder) -> RewardModel:
    return replace(reward_model, encoder=quick.id)


@pytest.fixture
def tuned(small: RewardModel) -> RewardModel:
    return with_layers(small, noisy({"encoder.layer.1.a": np.ones(3)}, small.encoder, first=1, width=384))


def test_every_place_follows_a_promotion_there_and_back(house: House, small: RewardModel, tuned: RewardModel) -> None:
    """/data, its page, the rerank API, adapters, readiness and metrics are those of the live model, of any recipe."""
    versions = [house.add(small), house.add(tuned)]
    registry.rollback(house.engine, house.settings, actor="dora")
    assert house.expected(small) != house.expected(tuned)
    for version, model in ((versions[0], small), (versions[1], tuned), (versions[0], small)):
        registry.promote(
            house.engine, house.settings, version.version, actor="dora", force=True, reason="A demonstration."
        )
        house.watch.look()
        expected = house.expected(model)
        answer = house.web.get("/data", query_string={"query": QUERY}).json
        assert answer is not None
        assert answer["model_version"] == version.version
        assert {of["text"]: of["score"] for of in answer["ranked"]} == pytest.approx(expected)
        assert max(expected, key=lambda text: expected[text]) == answer["best_answer"]
        page = house.web.get("/data-html", query_string={"query": QUERY})
        assert (page.status_code, answer["best_answer"] in page.text) == (200, True)
        ranked = house.web.post("/v1/rerank", json={"query": QUERY, "documents": ANSWERS}).json
        assert ranked is not None
        scores = {ANSWERS[of["index"]]: of["relevance_score"] for of in ranked["results"]}
        assert scores == pytest.approx(expected)
        assert {of.index: of.score for of in ranked_texts(QUERY, ANSWERS, ranker=house.ranker)} == pytest.approx(
            dict(enumerate(expected.values()))
        )
        ready = house.web.get("/readyz")
        assert ready.status_code == 200, ready.text
        assert version.version in house.web.get("/metrics").text


def test_recipes_are_compared_and_shown(
    house: House, small: RewardModel, tuned: RewardModel, quick: TextEncoder
) -> None:
    """`models compare` judges both by what each would serve, and `models list` has both."""
    rated = [Rating(f"{QUERY} {n}", answer, 5 - 2 * place) for n in range(6) for place, answer in enumerate(ANSWERS)]
    record(house.engine, rated)
    first, second = house.add(small), house.add(tuned)
    contest = compare_models(house.engine, house.settings, second.version, first.version, encoder=quick)
    assert (contest.questions, contest.answers, contest.unknown) == (6, 18, ())
    asked = [Question(f"{QUERY} {n}", tuple(ANSWERS)) for n in range(6)]
    expected = [
        roc_auc_score([1, 0, 0] * 6, np.concatenate(list(model.score(asked, quick)))) for model in (tuned, small)
    ]
    auc = contest.found.named()["AUC"]
    assert auc is not None
    assert [auc.ours, auc.theirs] == pytest.approx(expected)
    assert [version.recipe for version in registry.versions(house.engine)] == ["transformer", small.recipe]
    runner = CliRunner(env={"RLHF_DATABASE_URL": str(house.engine.url)})
    listed = runner.invoke(main, ["models", "list", "--json"]).stdout
    assert [of["recipe"] for of in json.loads(listed)] == ["transformer", small.recipe]


def test_layers_that_are_lost_or_altered_change_no_answer(house: House, small: RewardModel, tuned: RewardModel) -> None:
    """While its layers are missing, altered, cut short or another model's, the model that serves goes on, until they
    are put right from the version's own file.
    """
    house.add(small)
    live = house.add(tuned)
    house.watch.look()
    house.web.get("/data", query_string={"query": QUERY})
    expected = pytest.approx(house.expected(tuned))
    file = weights_file(house.settings.model_path, str(live.weights_sha256))
    whole = file.read_bytes()
    flipped = bytes([*whole[:-1], whole[-1] ^ 1])
    for content in (None, flipped, whole[:-4], b"x" * len(whole)):
        if content is None:
            file.unlink()
        else:
            file.write_bytes(content)
        for _ in range(2):
            answer = house.web.get("/data", query_string={"query": QUERY}).json
            assert answer is not None
            assert {of["text"]: of["score"] for of in answer["ranked"]} == expected
            assert answer["model_version"] == live.version
            house.watch.look()
        assert file.read_bytes() == whole
