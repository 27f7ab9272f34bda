from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from outage import Outage
from patience import until
from server_process import Server
from server_process import environ as environ
from server_process import start as start
from sqlalchemy import select
from test_policies import opposite, version
from test_service import Broken, Fixed, rows
from test_service import live as live
from test_service import make as make
from test_service import settings as settings
from web_fakes import GOOD, OTHER, FakeService, Page, changed

from rlhf_loop import sample
from rlhf_loop.answering.experiments import draw
from rlhf_loop.config import Settings
from rlhf_loop.domain import Passage
from rlhf_loop.errors import ConfigError, SourceError
from rlhf_loop.reward import RewardModel
from rlhf_loop.reward.model_file import save
from rlhf_loop.store import recording
from rlhf_loop.store.engine import make_engine
from rlhf_loop.store.tables import Interaction, ServedQuestion
from rlhf_loop.training.train import TrainingReport
from rlhf_loop.web import create_app

QUERY = sample.QUESTION
SOURCE = """
from rlhf_loop import sample
from rlhf_loop.domain import Passage

class Samples:
    name = "samples"

    def search(self, query, *, limit):
        return [Passage(text=found["text"], whole=True) for found in reversed(sample.CANDIDATES)]

source = Samples()
"""


class Telltale:
    """A source whose error says what it was asked, in an address."""

    name = "telltale"

    def search(self, query: str, *, limit: int) -> list[Passage]:
        raise SourceError(f"No answer from https://example.org/?q={query.replace(' ', '+')}")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "_LOOK_EVERY_S", 0.05)


def served(url: str) -> list[Any]:
    engine = make_engine(url)
    with engine.connect() as connection:
        found = list(connection.execute(select(ServedQuestion.__table__).order_by(ServedQuestion.served_at)))
    engine.dispose()
    return found


def test_an_answered_question_has_a_row(make: Any, live: str, settings: Settings) -> None:
    """It has the group of its answers, the first of them, the model, and the times; and nothing of what was asked."""
    answer = make(Broken(), Telltale(), Fixed("one", ["Hold your breath.", "Hiccups are a reflex."])).answer(QUERY)
    (row,) = served(settings.database_url)
    stored = rows(settings)
    assert {each.candidate_group for each in stored} == {row.candidate_group}
    assert {each.created_at for each in stored} == {row.served_at}
    assert (row.policy, row.propensity, row.experiment, row.teams) == ("live", 1.0, None, None)
    assert (row.model_version, row.first_id) == (live, answer.ranked[0].interaction_id)
    assert row.degraded["broken"] == "The site is down."
    assert "quotes the question" in row.degraded["telltale"]
    assert {"sources", "source:one", "ranking", "total"} <= set(row.timings)
    assert row.timings["total"] >= row.timings["sources"]
    assert not any(word in json.dumps(row._asdict(), default=str).casefold() for word in QUERY.casefold().split()[-2:])


def test_a_question_without_an_answer_has_a_row(make: Any, live: str, settings: Settings) -> None:
    """Nothing found is counted, too, under a group of its own; without a model the incoming order answers."""
    make(Fixed("one", [])).answer(QUERY)
    settings.model_path.unlink()
    make(Fixed("one", [])).answer(QUERY)
    found = served(settings.database_url)
    assert [(row.policy, row.first_id, row.propensity) for row in found] == [("live", None, 1.0), ("incoming", None, 1)]
    assert len({row.candidate_group for row in found}) == 2
    assert rows(settings) == []


def test_some_questions_are_answered_in_the_incoming_order(make: Any, live: str, settings: Settings) -> None:
    """The ranks are those of the places, the scores the model's; the answer says by what it was ordered."""
    service = make(Fixed("one", [candidate["text"] for candidate in sample.CANDIDATES]), experiment_share=0.5)
    answers = {answer.policy: answer for answer in (service.answer(f"{QUERY} {number}") for number in range(12))}
    assert set(answers) == {"live", "incoming"}
    assert [of.text for of in answers["incoming"].ranked] == [candidate["text"] for candidate in sample.CANDIDATES]
    for answer in answers.values():
        assert [of.rank for of in answer.ranked] == [1, 2, 3, 4]
        assert answer.degraded == {}
        assert answer.model_version == live
    scores = [of.score for of in answers["incoming"].ranked]
    assert scores != sorted(scores, reverse=True)
    first = {row.first_id: row for row in served(settings.database_url)}
    for policy, answer in answers.items():
        assert first[answer.ranked[0].interaction_id].policy == policy
        kept = [row for row in rows(settings) if row.external_id in {of.interaction_id for of in answer.ranked}]
        # Whatever was shown first: the rank that is kept is the one in which they came.
        by_text = {candidate["text"]: place for place, candidate in enumerate(sample.CANDIDATES, start=1)}
        assert all(row.shown_rank == by_text[row.ai_response] for row in kept)
    service.warm_up()
    assert service.readiness().checks["experiment"] == "50 % of the questions are answered by incoming"


def test_answers_of_two_models_in_one_list(
    make: Any, live: str, settings: Settings, trained: tuple[RewardModel, TrainingReport]
) -> None:
    """Each answer's team is kept under its id, and every question gets the same list again."""
    settings.models_folder.mkdir()
    other = version(opposite(trained[0]), settings.models_folder)
    service = make(experiment_share=1.0, experiment_against=other, experiment_interleave=True)
    first, again = service.answer(QUERY), service.answer(QUERY.upper())
    assert [of.text for of in first.ranked] == [of.text for of in again.ranked]
    row, _ = served(settings.database_url)
    assert (row.policy, row.experiment, row.model_version) == ("interleaved", f"{other} interleaved", live)
    assert set(row.teams) == {of.interaction_id for of in first.ranked}
    best = {team: next(of for of in first.ranked if row.teams[of.interaction_id] == team) for team in ("live", other)}
    assert (best["live"].score or 0) > (best[other].score or 0)


def test_an_experiment_that_cannot_be_is_for_the_operator(make: Any, live: str, settings: Settings) -> None:
    """At the start it is an error; later the answers flow, and only the operators hear of it."""
    with pytest.raises(ConfigError, match="RLHF_EXPERIMENT_AGAINST='gone' is not a model"):
        make(experiment_share=0.5, experiment_against="gone").check()
    service = make(experiment_share=0.5, experiment_against="gone")
    answer = service.answer(QUERY)
    assert (answer.policy, answer.degraded) == ("live", {})
    (row,) = served(settings.database_url)
    assert (row.policy, row.propensity, row.experiment) == ("live", 1.0, None)
    assert "the live one answers all" in row.degraded["experiment"]
    service.warm_up()
    assert "the live one answers all" in service.readiness().checks["experiment"]
    assert service.readiness().ready


def test_rows_come_by_the_outbox(make: Any, live: str, postgres_url: str) -> None:
    """While the database is down, they wait with their answers, and are there once when it is back."""
    outage = Outage(postgres_url)
    service = make(database_url=outage.url, experiment_share=0.5)
    service.answer(f"{QUERY} 0")
    outage.cut()
    answers = [service.answer(f"{QUERY} {number}") for number in range(1, 8)]
    nothing = make(Fixed("one", []), database_url=outage.url, experiment_share=0.5)
    # Nobody misses a record of nothing.
    assert nothing.answer(QUERY).degraded == {}
    assert all("waits in the outbox" in answer.degraded["recording"] for answer in answers)
    outage.restore()
    until(lambda: service.readiness().checks["recording"] == "ok" if service._warm else bool(service.warm_up()))
    found = served(outage.url)
    assert len(found) == 9
    by_first = {row.first_id: row for row in found}
    for answer in answers:
        assert by_first[answer.ranked[0].interaction_id].policy == answer.policy
    assert {row.propensity for row in found} == {0.5}
    outage.close()


def test_the_page_keeps_its_secret() -> None:
    """In an experiment no page has scores or a model's name: all orders look alike, and nobody rates a score."""
    pages = []
    for ranked in ((GOOD, OTHER), (changed(OTHER, rank=1), changed(GOOD, rank=2))):
        web = create_app(Settings(experiment_share=0.1), service=FakeService(*ranked)).test_client()
        page = Page(web.post("/data-html", data={"query": "Why?"}).text)
        pages.append([tag for tag, _ in page.tags])
        assert "Best answer" in page.text
        for secret in ("%", "passages-", "score", "live", "incoming", "probability"):
            assert secret not in page.text
    # What differs is what the two answers have to say of where they come from.
    assert Counter(pages[0]) == Counter(pages[1])


def test_a_real_server_draws_by_question(
    start: Callable[..., Server], tmp_path: Path, trained: tuple[RewardModel, TrainingReport]
) -> None:
    """Both orders answer, each as its question's number says, in all worker processes alike, and every row is right."""
    save(trained[0], tmp_path / "reward_model.joblib")
    (tmp_path / "samples_source.py").write_text(SOURCE)
    server = start(
        "--workers", "2", RLHF_SOURCES="samples_source:source", RLHF_EXPERIMENT_SHARE="0.5", RLHF_SOURCE_DEADLINE_S="30"
    )
    assert "50 % of the questions are answered by incoming" in server.greeting
    incoming = [candidate["text"] for candidate in reversed(sample.CANDIDATES)]
    for number in range(40):
        status, found = server.get(f"/data?query=What+helps+against+hiccups+{number}")
        expected = "incoming" if draw(f"What helps against hiccups {number}", "incoming") < 0.5 else "live"
        assert (status, found["policy"]) == (200, expected)
        texts, scores = ([of[name] for of in found["ranked"]] for name in ("text", "score"))
        assert sorted(texts) == sorted(incoming)
        assert texts == incoming if expected == "incoming" else scores == sorted(scores, reverse=True)
        assert [of["rank"] for of in found["ranked"]] == [1, 2, 3, 4]
    assert server.stop() == 0
    engine = make_engine(f"sqlite:///{tmp_path / 'rlhf.db'}")
    with engine.connect() as connection:
        joined = select(
            ServedQuestion.policy, ServedQuestion.propensity, Interaction.ai_response, Interaction.user_prompt
        )
        found = connection.execute(joined.join(Interaction, Interaction.external_id == ServedQuestion.first_id)).all()
    engine.dispose()
    assert len({row.user_prompt for row in found}) == len(found) == 40
    counts = Counter(row.policy for row in found)
    assert set(counts) == {"live", "incoming"}
    assert min(counts.values()) >= 10
    assert {row.propensity for row in found} == {0.5}
    assert {row.ai_response for row in found if row.policy == "incoming"} == {incoming[0]}
