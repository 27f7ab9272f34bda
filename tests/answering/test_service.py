from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from databases import sqlite_database
from outage import Outage
from patience import PATIENCE_S, until
from sqlalchemy import select

from rlhf_loop import sample
from rlhf_loop.answering import MAX_QUERY_CHARS, AnswerService
from rlhf_loop.answering import service as service_module
from rlhf_loop.config import Settings
from rlhf_loop.domain import Passage, Review, ReviewerRole
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.errors import ConfigError, ModelFileError, OutboxError, SourceError
from rlhf_loop.ranking import Ranker, off_marker
from rlhf_loop.reward import RewardModel
from rlhf_loop.reward.model_file import save
from rlhf_loop.store import recording
from rlhf_loop.store.engine import make_engine
from rlhf_loop.store.recording import Recorder
from rlhf_loop.store.tables import Interaction
from rlhf_loop.training.train import TrainingReport
from rlhf_loop.utils.concurrency import start_thread

QUERY = sample.QUESTION
TEXTS = [candidate["text"] for candidate in sample.CANDIDATES]


class Fixed:
    """A source that always knows the same."""

    def __init__(self, name: str, texts: Sequence[str]) -> None:
        self.name = name
        self.texts = texts

    def search(self, query: str, *, limit: int) -> list[Passage]:
        return [Passage(text=text, url=f"https://example.org/{self.name}") for text in self.texts[:limit]]


class Away:
    """A source that says for how long it will not answer."""

    def __init__(self, name: str, *, needs_database: bool = False) -> None:
        self.name, self.needs_database = name, needs_database

    def search(self, query: str, *, limit: int) -> list[Passage]:
        raise SourceError("The site is down for an hour.", retry_after_s=3600)


class Broken:
    name = "broken"

    def search(self, query: str, *, limit: int) -> list[Passage]:
        raise SourceError("The site is down.")


broken = Broken()


@pytest.fixture
def settings(tmp_path: Path, encoder_cache: Path, model_folder: Path) -> Settings:
    return Settings(
        database_url=sqlite_database(tmp_path / "rlhf.db"),
        model_path=tmp_path / "reward_model.joblib",
        cache_dir=encoder_cache,
        encoder_path=model_folder,
        outbox_path=tmp_path / "outbox.db",
        source_deadline_s=30,
    )


@pytest.fixture
def live(settings: Settings, trained: tuple[RewardModel, TrainingReport]) -> str:
    """The version of a model that is live."""
    return put_live(trained[0], settings)


def put_live(model: RewardModel, settings: Settings) -> str:
    return f"{model.recipe}-{save(model, settings.model_path)[:12]}"


@pytest.fixture
def make(encoder: TextEncoder, settings: Settings) -> Iterator[Any]:
    """Make a service; it is closed after the test."""
    made = []

    def make(*sources: object, **changes: Any) -> AnswerService:
        given = sources or (Fixed("one", TEXTS[:3]), Fixed("two", TEXTS[3:]))
        service = AnswerService(replace(settings, **changes), sources=given, encoder=encoder)  # type: ignore[arg-type]
        made.append(service)
        return service

    yield make
    for service in made:
        service.close()


def rows(settings: Settings) -> list[Any]:
    engine = make_engine(settings.database_url)
    with engine.connect() as connection:
        found = list(connection.execute(select(Interaction).order_by(Interaction.id)))
    engine.dispose()
    return found


def test_the_best_candidate_comes_first_and_all_are_recorded(make: Any, live: str, settings: Settings) -> None:
    """Candidates of all sources are ranked together; each is stored with its place, score and model."""
    answer = make().answer(f"  {QUERY}\n")
    assert answer.query == QUERY
    assert answer.model_version == live
    assert answer.degraded == {}
    scores = [of.score for of in answer.ranked]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)
    assert [of.rank for of in answer.ranked] == list(range(1, len(TEXTS) + 1))
    assert answer.best is answer.ranked[0]
    assert answer.best.origin.url == f"https://example.org/{answer.best.origin.source}"
    assert {"total", "sources", "source:one", "source:two", "ranking", "recording"} == set(answer.timings)
    stored = rows(settings)
    assert [(row.external_id, row.ai_response, row.source, row.score) for row in stored] == [
        (of.interaction_id, of.text, of.origin.source, of.score) for of in answer.ranked
    ]
    assert {(row.user_prompt, row.model_version, row.rating) for row in stored} == {(QUERY, live, None)}
    assert len({row.candidate_group for row in stored}) == 1
    by_place = [row.source for row in sorted(stored, key=lambda row: row.shown_rank)]
    assert by_place == ["one", "two", "one", "one"]


def test_an_answer_can_be_rated(make: Any, live: str, settings: Settings) -> None:
    """The id of a candidate is all that a rating needs."""
    service = make()
    answer = service.answer(QUERY)
    assert service.rate(
        answer.ranked[1].interaction_id,
        Review(rating=4, reviewer="visitor:1", comment="good", role=ReviewerRole.END_USER),
    )
    assert service.rate(answer.ranked[2].interaction_id, Review(rating=2, reviewer="anna", role=ReviewerRole.EXPERT))
    said = [(row.rating, row.end_user_rating) for row in rows(settings)]
    assert said == [(None, None), (None, 4), (2, None), *[(None, None)] * (len(answer.ranked) - 3)]
    with pytest.raises(LookupError):
        service.rate("unknown", Review(rating=4, reviewer="visitor:1", role=ReviewerRole.END_USER))


def test_without_a_model_the_incoming_order_stays(make: Any) -> None:
    """Then there are no scores and no version, and nothing pretends otherwise."""
    answer = make(Fixed("one", ["B.", "A."]), Fixed("two", ["C."])).answer(QUERY)
    assert [(of.text, of.rank, of.score) for of in answer.ranked] == [("B.", 1, None), ("C.", 2, None), ("A.", 3, None)]
    assert answer.model_version is None
    assert answer.degraded == {}


def test_a_model_that_is_switched_off(make: Any, live: str, settings: Settings) -> None:
    """The incoming order from the next question on, which the answer and the readiness say; no harm to `ready`."""
    service = make(Fixed("fixed", TEXTS))
    service.warm_up()
    assert service.answer(QUERY).model_version == live
    off_marker(settings.model_path).touch()
    answer = service.answer(QUERY)
    assert ([each.text for each in answer.ranked], answer.model_version, answer.policy) == (TEXTS, None, "incoming")
    assert answer.degraded == {"model": "it is switched off, so the candidates keep their incoming order"}
    readiness = service.readiness()
    assert (readiness.ready, readiness.checks["model"]) == (True, answer.degraded["model"])
    off_marker(settings.model_path).unlink()
    assert service.answer(QUERY).model_version == live


def test_a_model_that_comes_later_is_used(
    make: Any, settings: Settings, trained: tuple[RewardModel, TrainingReport]
) -> None:
    """A first training while the service runs needs no restart."""
    service = make()
    assert service.answer(QUERY).model_version is None
    version = put_live(trained[0], settings)
    assert service.answer(QUERY).model_version == version


@pytest.mark.parametrize("warming", [True, False])
def test_the_first_question_waits_for_the_sources(make: Any, live: str, *, warming: bool) -> None:
    """One that opens its index for longer than a search may take is not missing, and does not count as failed."""
    ready, begun = threading.Event(), threading.Event()

    class Index(Fixed):
        def warm_up(self) -> None:
            begun.set()
            assert ready.wait(PATIENCE_S)

        def search(self, query: str, *, limit: int) -> list[Passage]:
            assert ready.is_set()
            return super().search(query, limit=limit)

    service = make(Index("index", ["A."]))
    if warming:
        threading.Thread(target=service.warm_up, daemon=True).start()
    answering = start_thread(lambda: service.answer(QUERY), name="asks")
    assert begun.wait(PATIENCE_S)
    assert not service.readiness().ready
    ready.set()
    answer = answering.result()
    assert ([of.text for of in answer.ranked], answer.degraded) == (["A."], {})


def test_a_damaged_model_costs_only_the_order(make: Any, live: str, settings: Settings) -> None:
    """The answers flow in their incoming order, and the reason is named."""
    settings.model_path.write_bytes(b"damaged")
    answer = make().answer(QUERY)
    assert len(answer.ranked) == len(TEXTS)
    assert "incoming order" in answer.degraded["model"]
    assert str(settings.model_path) not in str(answer.degraded)
    assert answer.model_version is None


def failing(error: Exception) -> Any:
    def fails(*args: object, **options: object) -> Any:
        raise error

    return fails


@pytest.mark.parametrize("error", [OutboxError("It is full."), KeyError("?")])
def test_what_cannot_be_recorded_is_an_answer(
    make: Any, live: str, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """It says that it cannot be rated, and so does the readiness where the outbox is the reason."""
    service = make()
    service.warm_up()
    monkeypatch.setattr(Recorder, "record", failing(error))
    answer = service.answer(QUERY)
    assert answer.degraded == {"recording": "not recorded, so it cannot be rated; the log says why"}
    assert answer.model_version == live
    monkeypatch.setattr(Recorder, "waiting", failing(OutboxError("It is full.")))
    assert service.readiness().checks["recording"] == "the outbox cannot be used; the log says why"


def test_a_model_that_fails_costs_only_its_part(make: Any, live: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether anything has to do with the question, then the order; each is left open or named, nothing is made up."""
    fails = failing(ModelFileError("It is damaged."))
    service = make(answer_threshold=1.0)
    service.warm_up()
    monkeypatch.setattr(Ranker, "related", fails)
    assert (service.answer(QUERY).certain, service.answer(QUERY).related) == (False, None)
    monkeypatch.setattr(Ranker, "ranking", fails)
    answer = service.answer(QUERY)
    assert "incoming order" in answer.degraded["model"]
    assert answer.ranked[0].text == TEXTS[0]
    monkeypatch.setattr(Ranker, "model_version", property(fails))
    assert service.readiness().checks["model"] == "it cannot be used; the log says why"


def test_without_weights_the_answers_flow(settings: Settings, live: str, tmp_path: Path) -> None:
    """If the encoder cannot be loaded, the sources are asked all the same; the service says that it is not ready."""
    (tmp_path / "empty").mkdir()
    without = replace(settings, encoder_path=tmp_path / "empty")
    service = AnswerService(without, sources=[Fixed("one", ["A."])])
    answer = service.answer(QUERY)
    assert [of.text for of in answer.ranked] == ["A."]
    assert "incoming order" in answer.degraded["model"]
    service.warm_up()
    assert not service.readiness().ready
    service.close()


def test_a_threshold_tells_what_is_certain_enough(make: Any, live: str) -> None:
    """By the best score; below it, whether any candidate has to do with the question. Without a threshold nothing."""
    best = max(each.score for each in make().answer(QUERY).ranked)
    assert (make().answer(QUERY).certain, make().answer(QUERY).related) == (None, None)
    enough, more = make(answer_threshold=best), make(answer_threshold=min(1.0, best + 0.001))
    assert (enough.answer(QUERY).certain, enough.answer(QUERY).related) == (True, None)
    assert (more.answer(QUERY).certain, more.answer(QUERY).related) == (False, True)
    nonsense = make(answer_threshold=1.0).answer("zzzz qqqq")
    assert (nonsense.certain, nonsense.related) == (False, False)


def test_without_a_trained_model_nothing_is_certain_or_not(make: Any) -> None:
    """Neither in the incoming order nor in that of the prior, whose scores are not calibrated."""
    assert make(answer_threshold=0.9).answer(QUERY).certain is None
    assert make(answer_threshold=0.9, rerank_without_model="prior").answer(QUERY).certain is None


def test_a_source_that_fails_is_named(make: Any, live: str) -> None:
    """The others' candidates are ranked as if it were not there."""
    answer = make(Broken(), Fixed("one", ["A."])).answer(QUERY)
    assert answer.degraded == {"broken": "The site is down."}
    assert [of.origin.source for of in answer.ranked] == ["one"]


def test_nothing_found_is_an_answer(make: Any, live: str, settings: Settings) -> None:
    """No candidates: nothing is ranked, nothing recorded, and nothing made up."""
    answer = make(Fixed("one", []), Broken()).answer(QUERY)
    assert answer.ranked == ()
    assert answer.best is None
    assert list(answer.degraded) == ["broken"]
    assert not settings.outbox_path.exists()


def test_a_database_that_is_down_costs_no_answer(
    make: Any, postgres_url: str, settings: Settings, tmp_path: Path
) -> None:
    """The candidates come, recording waits, and it is named; when the outbox is full, too."""
    outage = Outage(postgres_url)
    outage.cut()
    service = make(database_url=outage.url, outbox_max=1)
    first, second = service.answer(QUERY), service.answer(QUERY)
    assert len(first.ranked) == len(second.ranked) == len(TEXTS)
    assert "waits in the outbox" in first.degraded["recording"]
    assert "not recorded, so it cannot be rated" in second.degraded["recording"]
    service.warm_up()
    assert service.readiness().ready
    lost = "what came last could not be recorded; the log says why"
    assert service.readiness().checks["recording"] == f"1 waiting in the outbox; {lost}"
    outage.close()


def test_what_can_be_recorded_nowhere_is_no_secret(make: Any, tmp_path: Path) -> None:
    """Where neither database nor outbox can be written the health says so, until they can."""
    (tmp_path / "file").write_text("")
    service = make(database_url=f"sqlite:///{tmp_path}/file/rlhf.db", outbox_path=tmp_path / "file" / "outbox.db")
    service.warm_up()
    assert "not recorded" in service.answer(QUERY).degraded["recording"]
    assert service.readiness().checks["recording"] == "what came last could not be recorded; the log says why"
    (tmp_path / "file").unlink()
    service.answer(QUERY)
    assert "could not" not in service.readiness().checks["recording"]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (None, "must be a text, but it is a NoneType"),
        (7, "must be a text, but it is a int"),
        (["x"], "must be a text"),
        ("", "is empty"),
        (" \n\t", "is empty"),
        ("x" * (MAX_QUERY_CHARS + 1), "has 4,001 characters; at most 4,000"),
        ("a\x00b", r"'\\x00' at position 1"),
        ("a\ud800", r"'\\ud800' at position 1"),
    ],
)
def test_bad_questions(make: Any, query: Any, message: str) -> None:
    """What is no question is refused with the value seen; no source is asked."""
    with pytest.raises(ValueError, match=message):
        make(Broken()).answer(query)


def test_the_longest_question(make: Any, live: str) -> None:
    """4,000 characters are read."""
    assert make().answer("hiccups " * 500).best is not None


def test_a_source_that_never_gets_ready_is_waited_for_once(
    make: Any, live: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All questions together wait no longer than one would; then they are answered without it."""
    ready, waited = threading.Event(), []
    source = Fixed("one", TEXTS[:3])
    source.warm_up = ready.wait  # type: ignore[attr-defined]

    def wait(futures: Any, *, timeout: float) -> None:
        waited.append(timeout)
        concurrent.futures.wait(futures, timeout=timeout)

    monkeypatch.setattr(service_module, "PREPARING_S", 0.1)
    monkeypatch.setattr(service_module, "wait", wait)
    service = make(source)
    assert all(service.answer(QUERY).ranked for _ in range(2))
    assert (waited[0] > 0, waited[1]) == (True, 0)
    ready.set()


def test_readiness(make: Any, live: str) -> None:
    """It is ready once it is warm, and says which model is live and which sources rest."""
    service = make(Broken(), Fixed("one", ["A."]))
    assert not service.readiness().ready
    service.warm_up()
    for _ in range(3):
        service.answer(QUERY)
    state = service.readiness()
    assert state.ready
    assert state.checks["model"] == live
    assert state.checks["recording"] == "ok"
    assert "paused" in state.checks["source:broken"]


def test_it_is_not_ready_while_nothing_can_be_answered(make: Any, live: str) -> None:
    """Where all sources are paused; unless everybody may have candidates of their own ranked."""
    for public in (False, True):
        service = make(Away("one"), Away("two"), rerank_public=public)
        service.warm_up()
        assert service.readiness().ready
        service.answer(QUERY)
        state = service.readiness()
        assert (state.ready, state.ranks) == (public, True)
        assert state.checks["sources"] == "none can be asked now, so that no question is answered"


def test_sources_in_the_database_are_asked_again_when_it_is_back(
    make: Any, live: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only after their pause; others wait for the end of theirs."""

    monkeypatch.setattr(recording, "_LOOK_EVERY_S", 0.05)
    outage = Outage(postgres_url)
    service = make(Away("outside"), Away("stored", needs_database=True), Fixed("one", ["A."]), database_url=outage.url)
    service.warm_up()
    outage.cut()
    service.answer(QUERY)
    assert {"database", "source:outside", "source:stored"} <= service.readiness().checks.keys()
    outage.restore()
    until(lambda: "database" not in service.readiness().checks)
    until(lambda: "source:stored" not in service.readiness().checks)
    assert "source:outside" in service.readiness().checks
    service.close()
    outage.close()


def test_many_at_once(make: Any, live: str, settings: Settings) -> None:
    """Questions of several threads are each answered and recorded whole."""
    service = make()
    answers: list[Any] = []
    threads = [threading.Thread(target=lambda n=n: answers.append(service.answer(f"{QUERY} {n}"))) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 8
    stored = rows(settings)
    assert {row.external_id for row in stored} == {of.interaction_id for answer in answers for of in answer.ranked}
    assert len({row.candidate_group for row in stored}) == 8


def test_the_settings_choose_the_sources(settings: Settings, encoder: TextEncoder, monkeypatch: Any) -> None:
    """A source of one's own is named by module and name."""
    service = AnswerService(replace(settings, sources=("test_service:broken",)), encoder=encoder)
    assert service.answer(QUERY).degraded == {"broken": "The site is down."}
    service.close()


def test_sources_that_are_given_are_checked_too(make: Any) -> None:
    """Two of one name, or what is no source, are an error with a name, and not lost candidates."""
    with pytest.raises(ConfigError, match="Two sources have the name 'one'"):
        make(Fixed("one", ["A."]), Fixed("one", ["B."])).answer(QUERY)
    with pytest.raises(ConfigError, match="not a source"):
        make(object()).answer(QUERY)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": ("index", "wikipedai")}, "'wikipedai', which is unknown"),
        ({"sources": ("no_such_module:source",)}, "no module 'no_such_module'"),
        ({"sources": ("index",), "index_language": "klingon"}, "RLHF_INDEX_LANGUAGE='klingon'"),
        ({"wikipedia_url": "ftp://example.org"}, "RLHF_WIKIPEDIA_URL is not a valid web address"),
        ({"llm_url": "http://127.0.0.1:1/v1"}, "RLHF_LLM_MODEL is not set"),
        ({"end_user_scale": "smileys"}, "RLHF_END_USER_SCALE='smileys' is not a valid scale. Choose from: stars"),
    ],
)
def test_settings_that_cannot_work_are_noticed_before_the_first_question(
    settings: Settings, changes: dict[str, Any], message: str
) -> None:
    """`check` loads no encoder, and says what each question would run into."""
    with pytest.raises(ConfigError, match=message):
        AnswerService(replace(settings, **changes)).check()
    AnswerService(settings).check()


def test_an_index_that_is_not_there_is_named(
    settings: Settings, encoder: TextEncoder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever starts it in another folder learns where was looked, and which setting says otherwise."""
    missing = replace(settings, sources=("index",), index_path=tmp_path / "none")
    service = AnswerService(missing, encoder=encoder)
    service.warm_up()
    nowhere = (
        f"there is none at {tmp_path / 'none'} yet; rlhf-loop index add makes it, RLHF_INDEX_PATH says where it is"
    )
    assert service.readiness().checks["source:index"] == nowhere
    assert nowhere in caplog.text
    (tmp_path / "none").mkdir()
    assert "source:index" not in service.readiness().checks
    service.close()
